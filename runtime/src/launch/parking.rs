//! The spawner's side of [`super::park`]: makes a container up to where its program is to be run, beside others.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sched::CloneFlags;
use skiff_sys::device_filter::Filter;
use skiff_sys::process::{self, Child, Memory};

use super::birthplace::{Around, Birthplace};
use super::own::OomScore;
use super::prepare::Prepared;
use super::program::Stop;
use super::sync::{At, Channel, Failure, Message, Page, Stage};
use super::{child, maps, note, report};
use crate::cgroup::Cgroup;
use crate::error::Context;
use crate::launch::joins::Joins;
use crate::observe::Counted;
use crate::plan::Plan;
use crate::spawner::Container;
use crate::{Error, cgroup, error};

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
    _lent: (Option<Prepared>, Channel),
    /// Who can prepare the next one of its kind.
    next: Preparer,
    cgroup: Cgroup,
    // After the cgroup: what is counted there has ended.
    counted: Counted,
}

/// Descriptors from here on are no child's business.
pub(crate) const KEPT_FROM: i32 = 512;

/// The namespaces that a process need not be born in.
const LATER: CloneFlags =
    CloneFlags::CLONE_NEWNET.union(CloneFlags::CLONE_NEWIPC).union(CloneFlags::CLONE_NEWUTS);

/// Who makes a container's writable layer and opens what it needs of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Preparer {
    /// The process that makes containers, before the clone.
    Parent,
    /// The container's first process, born where the host's paths still mean what they say, before it goes to the
    /// [`Birthplace`]. Its parent has the others to begin meanwhile: there is one parent, and the disk's locks are waited for here.
    Child,
}

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
    /// already. The child is the `preparer` only if it [can be](Self::next_preparer), as one of the same plan has told.
    ///
    /// The calling process must have one thread; what is to be reaped is its child.
    pub(crate) fn begin(
        plan: &Plan,
        birthplace: Option<&Birthplace>,
        filter: Option<&Filter>,
        preparer: Preparer,
    ) -> Result<Self, Error> {
        let writable = note::writable(&plan.state_root, &plan.id);
        let prepared = match preparer {
            Preparer::Parent => {
                make_directory(plan, &writable)?;
                Some(Prepared::new(plan, &writable)?)
            }
            Preparer::Child => None,
        };
        let cgroup = Cgroup::create_with(&plan.cgroup, filter)?;
        let mut counted = Counted::default();
        counted.arm(cgroup.id(), &plan.id, plan.process.init.into(), 0);
        let (page, page_memory) = Page::with_descriptor().context(|| "share a page with the child".into())?;
        let (line, childs) = Channel::pair().context(|| "make a socket".into())?;
        let joins = Joins::open(&[])?;
        let score = OomScore::lend(&plan.process)?;
        let birthplace =
            birthplace.filter(|_| prepared.as_ref().is_none_or(|prepared| prepared.is_all(plan)));
        let is_only_layers = prepared.as_ref().is_none_or(Prepared::is_only_layers);
        let next = if birthplace.is_some() && is_only_layers { Preparer::Child } else { Preparer::Parent };
        let around = if birthplace.is_some() { Around::Nothing } else { Around::Host };
        // Those that take their time it makes itself, beside its parent; not where they are to be a user namespace's.
        let own = if plan.users.is_some() { CloneFlags::empty() } else { plan.namespaces & LATER };
        // Where the modern call is, the other is too; and what is used must lie below.
        let is_low = |number: i32| number < KEPT_FROM;
        let lent = || prepared.iter().flat_map(Prepared::descriptors);
        let shares_table = birthplace.is_some() && is_low(childs.descriptor()) && lent().all(is_low);
        let mut born_in = plan.namespaces.difference(own);
        if prepared.is_none() {
            born_in.remove(CloneFlags::CLONE_NEWNS);
        }
        let spawn = || {
            let run = |memory| {
                // Else the line would not end with whoever has its other end, nor those of others.
                let keep = lent().chain(cgroup.legacy_tasks().map(|tasks| tasks.as_raw_fd()));
                let way = birthplace.filter(|_| prepared.is_none()).map(Birthplace::descriptor);
                let keep: Vec<_> = keep.chain([childs.descriptor()]).chain(way).collect();
                let is_own = !shares_table || process::take_descriptors_below(KEPT_FROM).is_ok();
                if !is_own || process::close_others_in_child(&keep).is_err() {
                    return 125;
                }
                let own_prepared;
                let prepared = match (&prepared, birthplace) {
                    (None, Some(birthplace)) => match prepare(plan, &writable, birthplace, &page) {
                        Ok(made) => {
                            // Never dropped: what it owns is closed with all else that is open when it waits.
                            own_prepared = ManuallyDrop::new(made);
                            &*own_prepared
                        }
                        Err(failure) => return child::give_up(&page, &failure),
                    },
                    (Some(prepared), _) => prepared,
                    (None, None) => return 125,
                };
                let (joins, cgroup, channel, page) = (&joins, &cgroup, &childs, &page);
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
        let spawned = match birthplace.filter(|_| prepared.is_some()) {
            Some(birthplace) => birthplace.within(spawn).and_then(|spawned| spawned),
            None => spawn(),
        };
        drop(score);
        let child = spawned.map_err(|error| report::clone_error(plan, error))?;
        let _lent = (prepared, childs);
        let parking = Self { line, child, page, page_memory, terminal: None, _lent, next, cgroup, counted };
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

    /// Who can prepare the next one of the same plan.
    pub(crate) const fn next_preparer(&self) -> Preparer {
        self.next
    }

    /// Who has prepared it.
    pub(crate) const fn prepared_by(&self) -> Preparer {
        if self._lent.0.is_some() { Preparer::Parent } else { Preparer::Child }
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
            Some(Message::Source(_)) => {
                // Whoever launches in a user namespace without being asked by a bundle has no more rights than are there.
                self.line.send_source(&Err(Errno::EACCES.into()))?;
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

    /// Whether it would fail once more if it were prepared alike: not if it was killed, or the host was short of something.
    pub(crate) fn will_fail_again(&self) -> bool {
        is_lasting(&self.page)
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

/// Errors of what may be there again a moment later: descriptors, memory, room, time.
const SHORTAGES: [i32; 12] = {
    use nix::libc as c;
    [
        c::EAGAIN,
        c::EBUSY,
        c::EDQUOT,
        c::EINTR,
        c::EIO,
        c::EMFILE,
        c::ENFILE,
        c::ENOBUFS,
        c::ENOMEM,
        c::ENOSPC,
        c::ETIMEDOUT,
        c::EUSERS,
    ]
};

/// Whether what is left in the page is no passing failure.
fn is_lasting(page: &Page) -> bool {
    let number = page.failure().and_then(|failure| failure.error.raw_os_error());
    number.is_some_and(|number| !SHORTAGES.contains(&number))
}

/// Makes and opens all that the container of `plan` needs of the host, and goes to `birthplace`.
///
/// Runs in: child, first, in its parent's mount namespace.
fn prepare(plan: &Plan, writable: &Path, birthplace: &Birthplace, page: &Page) -> Result<Prepared, Failure> {
    // Its parent is heard of when it says *go*.
    process::die_with_parent().at(Stage::Wait)?;
    let prepared =
        make_directory(plan, writable).and_then(|()| Prepared::new(plan, writable)).map_err(|error| {
            page.write(error.to_string().as_bytes());
            let number = if let Error::Host { source, .. } = &error { error::number(source) } else { None };
            io::Error::from_raw_os_error(number.unwrap_or(nix::libc::ECANCELED))
        });
    let prepared = prepared.at(Stage::Prepare)?.into_all(plan).at(Stage::Root)?;
    birthplace.enter().at(Stage::Propagation)?;
    Ok(prepared)
}

/// Makes the container's directory, also of one without a writable layer: whoever runs a program in it notes that there, and has a client
/// wait meanwhile.
fn make_directory(plan: &Plan, directory: &Path) -> Result<(), Error> {
    note::make_own(&plan.state_root, directory).context(|| format!("make {}", directory.display()))
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

#[cfg(test)]
mod tests {
    use super::*;
    use nix::libc;

    #[test]
    fn what_the_host_is_short_of_for_a_moment_is_no_lasting_failure() {
        let is_lasting = |stage, number: Option<i32>| {
            let (page, _memory) = Page::with_descriptor().expect("a page");
            if let Some(number) = number {
                page.fail(&Failure { stage, index: 0, error: io::Error::from_raw_os_error(number) });
            }
            is_lasting(&page)
        };
        for stage in [Stage::Prepare, Stage::Root, Stage::Step] {
            let lasting = |number| is_lasting(stage, Some(number));
            assert_eq!([libc::EPERM, libc::EOPNOTSUPP, libc::EINVAL].map(lasting), [true; 3], "{stage:?}");
            assert_eq!([libc::EMFILE, libc::ENOMEM, libc::ENOSPC].map(lasting), [false; 3], "{stage:?}");
        }
        assert!(!is_lasting(Stage::None, None), "it was killed");
    }
}
