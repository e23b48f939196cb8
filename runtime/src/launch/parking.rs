//! The spawner's side of [`super::park`]: makes a container up to where its program is to be run, beside others.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sched::CloneFlags;
use skiff_sys::device_filter::Filter;
use skiff_sys::process::{self, Child, Memory};

use super::birthplace::{Around, Birthplace};
use super::own::OomScore;
use super::prepare::Prepared;
use super::program::Stop;
use super::sync::{Channel, Message, Page};
use super::{child, maps, note, report};
use crate::cgroup::Cgroup;
use crate::error::Context;
use crate::launch::joins::Joins;
use crate::observe::Counted;
use crate::plan::Plan;
use crate::spawner::Container;
use crate::{Error, cgroup};

/// A container that is being made. Dropping it ends its process, which has to be reaped, and removes its cgroups, but not its writable layer.
#[derive(Debug)]
pub(crate) struct Parking {
    // The process goes with its line, before its cgroups do.
    line: Channel,
    child: Child,
    page: Page,
    page_memory: OwnedFd,
    terminal: Option<OwnedFd>,
    /// Its process has a descriptor table of its own only once it has begun: until it is parked, all that it uses stays open.
    _lent: (Prepared, Channel),
    cgroup: Cgroup,
    // After the cgroup: what is counted there has ended.
    counted: Counted,
}

/// Descriptors from here on are no child's business.
pub(crate) const KEPT_FROM: i32 = 512;

/// The namespaces that a process need not be born in.
const LATER: CloneFlags =
    CloneFlags::CLONE_NEWNET.union(CloneFlags::CLONE_NEWIPC).union(CloneFlags::CLONE_NEWUTS);

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// There is more to be done.
    Working,
    /// It is parked.
    Parked,
    /// It has failed, and its process ends.
    Failed,
}

impl Parking {
    /// Begins to make the container of `plan`, which joins no namespace, runs no hooks and has cgroups of its own.
    ///
    /// It is born at `birthplace` if there is one and it can do there. `filter` is the plan's device filter, if it is loaded
    /// already.
    ///
    /// The calling process must have one thread; what is to be reaped is its child.
    pub(crate) fn begin(
        plan: &Plan,
        birthplace: Option<&Birthplace>,
        filter: Option<&Filter>,
    ) -> Result<Self, Error> {
        let prepared = Prepared::new(plan, &note::writable(&plan.state_root, &plan.id))?;
        let cgroup = Cgroup::create_with(&plan.cgroup, filter)?;
        let mut counted = Counted::default();
        counted.arm(cgroup.id(), &plan.id, plan.process.init.into(), 0);
        let (page, page_memory) = Page::with_descriptor().context(|| "share a page with the child".into())?;
        let (line, childs) = Channel::pair().context(|| "make a socket".into())?;
        let joins = Joins::open(&[])?;
        let score = OomScore::lend(&plan.process)?;
        let birthplace = birthplace.filter(|_| prepared.is_all(plan));
        let around = if birthplace.is_some() { Around::Nothing } else { Around::Host };
        // Those that take their time it makes itself, beside its parent; not where they are to be a user namespace's.
        let own = if plan.users.is_some() { CloneFlags::empty() } else { plan.namespaces & LATER };
        // Where the modern call is, the other is too; and what is used must lie below.
        let is_low = |number: i32| number < KEPT_FROM;
        let shares_table =
            birthplace.is_some() && is_low(childs.descriptor()) && prepared.descriptors().all(is_low);
        let born_in = plan.namespaces.difference(own);
        let spawn = || {
            let run = |memory| {
                // Else the line would not end with whoever has its other end, nor those of others.
                let keep = prepared.descriptors().chain(cgroup.legacy_tasks().map(|tasks| tasks.as_raw_fd()));
                let keep: Vec<_> = keep.chain([childs.descriptor()]).collect();
                let is_own = !shares_table || process::take_descriptors_below(KEPT_FROM).is_ok();
                if !is_own || process::close_others_in_child(&keep).is_err() {
                    return 125;
                }
                let (prepared, joins, cgroup, channel, page) = (&prepared, &joins, &cgroup, &childs, &page);
                let stop = Stop::Line;
                child::run(&child::Launch {
                    plan,
                    own,
                    around,
                    prepared,
                    joins,
                    cgroup,
                    stop,
                    channel,
                    page,
                    memory,
                    is_ahead: false,
                })
            };
            match shares_table {
                true => process::spawn_with_descriptors(born_in, cgroup.unified_fd(), run),
                false => process::spawn(born_in, cgroup.unified_fd(), Memory::Copied, run),
            }
        };
        let spawned = match birthplace {
            Some(birthplace) => birthplace.within(spawn).and_then(|spawned| spawned),
            None => spawn(),
        };
        drop(score);
        let child = spawned.map_err(|error| report::clone_error(plan, error))?;
        let _lent = (prepared, childs);
        let parking = Self { line, child, page, page_memory, terminal: None, _lent, cgroup, counted };
        match parking.let_go(plan) {
            Ok(()) => Ok(parking),
            Err(error) => {
                // Nothing that it uses may be closed while it lives.
                parking.kill();
                process::reap(parking.child.pidfd.as_fd(), true).context(|| "end a child".into())?;
                Err(error)
            }
        }
    }

    /// Does what its process cannot do for itself, and lets it go on.
    fn let_go(&self, plan: &Plan) -> Result<(), Error> {
        let pid = self.child.pid;
        if !self.child.in_cgroup {
            self.cgroup.adopt(pid)?;
        }
        if let Some(users) = &plan.users {
            maps::write(pid, users)?;
        }
        self.line.send_go(pid).context(|| "speak to the child".into())
    }

    /// The process id of its first process.
    pub(crate) const fn pid(&self) -> i32 {
        self.child.pid
    }

    /// Ends it.
    pub(crate) fn kill(&self) {
        // It may have ended by itself.
        process::send_signal(self.child.pidfd.as_fd(), nix::libc::SIGKILL).ok();
    }

    /// Readable when it can be [advanced](Self::advance).
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.line.fd()
    }

    /// Takes what its process says. Does not wait, once [`Parking::fd`] is readable.
    pub(crate) fn advance(&mut self) -> io::Result<Progress> {
        match self.line.receive()? {
            Some(Message::Console(master)) => {
                self.terminal = Some(master);
                Ok(Progress::Working)
            }
            Some(Message::Waiting) => Ok(Progress::Parked),
            Some(_) => Err(io::Error::from_raw_os_error(nix::libc::EPROTO)),
            None => Ok(Progress::Failed),
        }
    }

    /// Why it has failed. `plan` is that which it was begun with, if it is still to be had.
    pub(crate) fn failure(&self, plan: Option<&Plan>) -> Error {
        match self.page.failure() {
            Some(failure) => report::sentence(plan, plan.map(|plan| &plan.process), failure, &self.page),
            None => Error::Option("the container was killed before it could be started".into()),
        }
    }

    /// What is handed to whoever is to run a program in it, once it is parked: what is known of it, line, pidfd, page and, with a terminal, its
    /// master.
    pub(crate) fn hand_over(mut self, facts: Facts) -> (Container, Vec<OwnedFd>) {
        let Facts { id, cgroups, uid, gid, hostname, home } = facts;
        let tty = self.terminal.is_some();
        let cgroup = self.cgroup.id();
        let cgroups = self.cgroup.made(&cgroups);
        self.cgroup.release();
        self.counted.keep();
        let Child { pid, pidfd, .. } = self.child;
        let container = Container { id, pid, cgroup, cgroups, uid, gid, hostname, home, tty };
        let descriptors = [self.line.into_fd(), pidfd, self.page_memory].into_iter().chain(self.terminal);
        (container, descriptors.collect())
    }
}

/// What a plan says of a container that whoever runs a program in it has to know.
#[derive(Debug)]
pub(crate) struct Facts {
    id: String,
    cgroups: cgroup::Paths,
    uid: u32,
    gid: u32,
    hostname: String,
    home: String,
}

impl Facts {
    /// Those of `plan`, in whose environment nothing has been asked for.
    pub(crate) fn of(plan: &Plan) -> Self {
        let process = &plan.process;
        let value = |name: &[u8]| {
            let found = process.env.iter().find_map(|entry| entry.to_bytes().strip_prefix(name));
            String::from_utf8_lossy(found.unwrap_or_default()).into_owned()
        };
        Self {
            id: plan.id.clone(),
            cgroups: plan.cgroup.paths(),
            uid: process.uid,
            gid: process.gid,
            hostname: value(b"HOSTNAME="),
            home: value(b"HOME="),
        }
    }
}
