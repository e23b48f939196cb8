//! The host's side of a launch, and of the container that runs.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sched::CloneFlags;
use skiff_sys::clock::monotonic_ns;
use skiff_sys::netns::Nascent;
use skiff_sys::process::{self, Child, Exit, Memory};
use skiff_sys::schedule::idle_processor;

use super::birthplace::Around;
use super::gate::Gate;
use super::joins::Joins;
use super::note::{self, Note};
use super::own::OomScore;
use super::prepare::{self, Prepared, in_user_namespace};
use super::program::Stop;
use super::sync::{Channel, Message, Page};
use super::{child, console, devices, listener, maps, report};
use crate::cgroup::{Cgroup, Usage};
use crate::error::Context;
use crate::oci::spec::Status;
use crate::plan::{Bond, Plan, Process};
use crate::{Error, hooks, reader};

/// When each part of a launch was over, ns of CLOCK_MONOTONIC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stamps {
    /// [`start`] was called.
    pub start: u64,
    /// The writable layer is there and the host's side of every mount is open.
    pub rootfs_done: u64,
    /// The cgroup is there, with its limits, and armed.
    pub cgroup_done: u64,
    /// The child's first instruction.
    pub child: u64,
    /// The container's file tree is `/`.
    pub mounts_done: u64,
    /// The program is about to be run; the system call filter has still to be installed.
    pub security_done: u64,
    /// The parent has seen that the program runs.
    pub exec_seen: u64,
}

/// What its caller does with a launch while it goes on.
pub struct Attendance<'a> {
    /// Called with the id of the container's cgroup v2 directory once that is there, and before the clone, so that whoever
    /// counts by it misses nothing. What it says on failure becomes the launch's error.
    pub arm: &'a mut dyn FnMut(Option<u64>) -> Result<(), String>,
    /// Called once the container's process is there: before its hooks and its program are run, but after the latter where
    /// the launch has nothing to do in between (the parent sleeps then). What it says on failure becomes the launch's error.
    pub born: &'a mut dyn FnMut(&Birth<'_>) -> Result<(), String>,
    /// Where the container is to wait before its program is run; the launch returns when it does.
    pub gate: Option<&'a Gate>,
    /// A listening Unix stream socket that gets the master of the container's terminal, if it has one.
    pub console_socket: Option<&'a Path>,
}

/// A process that has come to be.
#[derive(Debug)]
pub struct Birth<'a> {
    /// Its id on the host.
    pub pid: i32,
    /// The cgroups that it is in, if they were made for it.
    pub cgroup: &'a Cgroup,
}

/// A process of a container that runs. Dropping it kills it and, if it is the container's first, removes every trace.
#[derive(Debug)]
pub struct Running {
    // In the order in which they are to go: the process first, the note last.
    child: Child,
    exit: Option<Exit>,
    console: Option<OwnedFd>,
    stamps: Stamps,
    cgroup: Cgroup,
    note: Option<Note>,
    is_released: bool,
}

/// Launches the container of `plan` and returns when its program runs. [`launch`] without a gate.
pub fn start(plan: &Plan, arm: &mut dyn FnMut(Option<u64>) -> Result<(), String>) -> Result<Running, Error> {
    launch(plan, Attendance { arm, born: &mut |_| Ok(()), gate: None, console_socket: None })
}

/// Launches the container of `plan`; returns when its program runs, or waits at the gate to be run.
///
/// The calling process must have one thread.
pub fn launch(plan: &Plan, attendance: Attendance<'_>) -> Result<Running, Error> {
    let begin = monotonic_ns();
    let Attendance { arm, born, gate, console_socket } = attendance;
    let note = match plan.bond {
        Bond::Launcher => {
            note::make_private(&plan.run_root)?;
            Some(Note::take(plan)?)
        }
        Bond::None => None,
    };
    process::keep_children().context(|| "take SIGCHLD".into())?;
    let console_socket = console_socket.map(console::connect).transpose()?;
    let joins = Joins::open(&plan.joins)?;
    let mut beside = if in_user_namespace(plan) { None } else { idle_processor() };
    let is_beside = beside.is_some();
    let mut cgroup = Cgroup::default();
    let can_be_ahead = is_beside && plan.cgroup.order.is_none() && joins.can_wait();
    if can_be_ahead {
        // Before the network namespace, which takes the kernel less time.
        cgroup.begin_beside(&plan.cgroup);
    }
    let mut network = if is_beside { begin_network(plan) } else { None };
    let can_be_ahead = can_be_ahead && (network.is_some() || !plan.cgroup.joins.is_empty());
    let Ground { prepared, cgroup, rootfs_done, is_ahead } = Ground::make(plan, cgroup, can_be_ahead)?;
    // A unit of systemd's has no directory yet: it is made around the child.
    if plan.cgroup.order.is_none() {
        arm(cgroup.id()).map_err(Error::Option)?;
    }
    let cgroup_done = monotonic_ns();

    let mut own_page = None;
    let page = match gate {
        Some(gate) => gate.page(),
        None => own_page.insert(Page::new().context(|| "share a page with the child".into())?),
    };
    let (channel, childs) = Channel::pair().context(|| "make a socket".into())?;
    let memory = if is_ahead { Memory::Copied } else { memory(plan, &joins, gate) };
    let mut namespaces = plan.namespaces;
    if is_ahead && network.is_some() {
        namespaces.remove(CloneFlags::CLONE_NEWNET);
    } else if let Some(Ok(network)) = network.take().map(Nascent::finish) {
        // Had it come to nothing, the clone would make one, or say why it cannot.
        joins.add_network(network);
        namespaces.remove(CloneFlags::CLONE_NEWNET);
    }
    if !is_ahead {
        // Nothing is made beside any more; the child may take its time.
        drop(beside.take());
    }
    let score = OomScore::lend(&plan.process)?;
    let spawned = joins.spawn(namespaces, cgroup.unified_fd(), memory, |memory| {
        // The child must not hold the end whose closing tells it that its parent has died.
        channel.close_in_child();
        let (prepared, joins, cgroup, channel) = (&prepared, &joins, &cgroup, &childs);
        let stop = gate.map_or(Stop::Nowhere, Stop::Gate);
        let (own, around) = (CloneFlags::empty(), Around::Host);
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
            is_ahead,
        })
    });
    drop(score);
    drop(childs);
    let child = spawned.map_err(|error| report::clone_error(plan, error))?;
    let stamps = Stamps { start: begin, rootfs_done, cgroup_done, ..Stamps::default() };
    let mut running = Running::of(child, cgroup, note, stamps);
    if plan.cgroup.order.is_some() {
        running.cgroup.order(&plan.cgroup, running.child.pid)?;
        arm(running.cgroup.id()).map_err(Error::Option)?;
    }
    if is_ahead {
        running.cgroup.complete(&plan.cgroup)?;
        if let Some(network) = network {
            joins.add_network(network.finish().map_err(|error| report::clone_error(plan, error))?);
        }
    }
    drop(beside);
    running.let_go(plan, &joins, born, &channel, is_ahead)?;
    running.follow(&channel, page, &Of { plan: Some(plan), process: &plan.process }, console_socket)?;
    Ok(running)
}

/// What is there when the child is born.
#[derive(Debug)]
struct Ground {
    prepared: Prepared,
    cgroup: Cgroup,
    rootfs_done: u64,
    /// Whether the cgroup is still to be [completed](Cgroup::complete).
    is_ahead: bool,
}

impl Ground {
    /// The `cgroup` is there as far as it has been begun.
    fn make(plan: &Plan, mut cgroup: Cgroup, mut is_ahead: bool) -> Result<Self, Error> {
        let prepare = || Prepared::new(plan, &note::writable(&plan.state_root, &plan.id));
        // What a bundle mounts may be its own cgroups: these come first then.
        let mut prepared = if plan.bond == Bond::None { None } else { Some(prepare()?) };
        let mut rootfs_done = monotonic_ns();
        cgroup.begin(&plan.cgroup, None)?;
        if is_ahead && prepared.is_none() {
            prepared = prepare().ok();
            is_ahead = prepared.is_some();
            rootfs_done = monotonic_ns();
        }
        if !is_ahead {
            cgroup.complete(&plan.cgroup)?;
        }
        let prepared = match prepared {
            Some(prepared) => prepared,
            None => {
                let prepared = prepare()?;
                rootfs_done = monotonic_ns();
                prepared
            }
        };
        Ok(Self { prepared, cgroup, rootfs_done, is_ahead })
    }
}

/// Has the container's network namespace made while the parent goes on: to be called where it belongs to the parent's user
/// namespace, and where a processor is idle, or whoever makes it would only be waited for.
fn begin_network(plan: &Plan) -> Option<Nascent> {
    let is_own = plan.namespaces.contains(CloneFlags::CLONE_NEWNET);
    if is_own { Nascent::begin(plan.loopback).ok() } else { None }
}

/// The child works in its parent's memory, unless the parent has to work beside it, or the child is not to be one with it
/// for long: because it forks itself, or because its clocks are others.
fn memory(plan: &Plan, joins: &Joins, gate: Option<&Gate>) -> Memory {
    let process = &plan.process;
    let is_attended = in_user_namespace(plan)
        || plan.cgroup.order.is_some()
        || gate.is_some()
        || process.init
        || process.listener.is_some()
        || child::has_hooks_before_pivot(&plan.hooks)
        || !plan.hooks.start_container.is_empty()
        || !plan.net_devices.is_empty()
        || plan.rdt.is_some()
        || plan.time_namespace.is_some()
        || joins.have_clocks();
    if is_attended { Memory::Copied } else { Memory::Shared }
}

/// Clears what skiff processes that were killed have left in the run root and the state root of `plan`, whose own
/// container is known to be alive.
pub fn sweep(plan: &Plan) -> Result<(), Error> {
    note::sweep(&plan.run_root, &plan.state_root, &plan.id)
}

/// What a child carries out.
#[derive(Debug)]
pub(super) struct Of<'a> {
    /// Of a container's first process.
    pub(super) plan: Option<&'a Plan>,
    pub(super) process: &'a Process,
}

impl Running {
    pub(super) const fn of(child: Child, cgroup: Cgroup, note: Option<Note>, stamps: Stamps) -> Self {
        Self { child, exit: None, console: None, stamps, cgroup, note, is_released: false }
    }

    /// What the child has of this process's memory.
    pub(super) const fn memory(&self) -> Memory {
        self.child.memory
    }

    /// Puts the child into `cgroup` where it could not be born there.
    pub(super) fn adopt_into(&self, cgroup: &Cgroup) -> Result<(), Error> {
        if self.child.in_cgroup { Ok(()) } else { cgroup.adopt(self.child.pid) }
    }

    /// 1: does what the child cannot do for itself, tells of its birth, and lets it go on.
    fn let_go(
        &self,
        plan: &Plan,
        joins: &Joins,
        born: &mut dyn FnMut(&Birth<'_>) -> Result<(), String>,
        channel: &Channel,
        is_ahead: bool,
    ) -> Result<(), Error> {
        let pid = self.child.pid;
        if self.child.memory == Memory::Copied {
            if plan.cgroup.order.is_none() {
                self.adopt_into(&self.cgroup)?;
            }
            if let Some(users) = &plan.users {
                maps::write(pid, users)?;
            }
        }
        devices::move_all(&plan.net_devices, joins.network(), pid)?;
        // The child need not wait for its birth to be told, if whoever is left behind can be found by its cgroups even when
        // this process is killed at that.
        let is_found = self.cgroup.id().is_some();
        let mut tell = || born(&Birth { pid, cgroup: &self.cgroup }).map_err(Error::Option);
        if !is_found {
            tell()?;
        }
        let gone = match self.child.memory {
            Memory::Copied if is_ahead => {
                channel.send_go_ahead(pid, joins.made_network(), self.cgroup.legacy_tasks())
            }
            Memory::Copied => channel.send_go(pid),
            Memory::Shared => Ok(()),
        };
        gone.context(|| "speak to the child".into())?;
        if is_found { tell() } else { Ok(()) }
    }

    /// 1a to 6: does what the child asks for; at the end of file finds out what it means.
    pub(super) fn follow(
        &mut self,
        channel: &Channel,
        page: &Page,
        of: &Of<'_>,
        console_socket: Option<console::Socket>,
    ) -> Result<(), Error> {
        while let Some(message) = channel.receive().context(|| "listen to the child".into())? {
            match message {
                Message::Source(index) => {
                    let found = prepare::find_for(self.child.pid, of.plan, index);
                    channel.send_source(&found).context(|| "speak to the child".into())?;
                }
                Message::Console(master) => self.console = Some(master),
                Message::Built => {
                    of.plan.map_or(Ok(()), |plan| self.run_hooks(plan))?;
                    channel.send_go(self.child.pid).context(|| "speak to the child".into())?;
                }
                Message::Listener(descriptor, notice) => listener::pass_on(channel, descriptor, notice)?,
                Message::Waiting => break,
                Message::Page(_) => {}
            }
        }
        if let Some(failure) = page.failure() {
            return Err(report::sentence(of.plan, Some(of.process), failure, page));
        }
        if let (Some(socket), Some(master)) = (console_socket, &self.console) {
            socket.send(master.as_fd())?;
            self.console = None;
        }
        let [child, mounts_done, security_done] = page.stamps();
        let exec_seen = monotonic_ns();
        self.stamps = Stamps { child, mounts_done, security_done, exec_seen, ..self.stamps };
        Ok(())
    }

    /// 3: those of this process's namespaces.
    fn run_hooks(&self, plan: &Plan) -> Result<(), Error> {
        let (hooks, bundle) = (&plan.hooks, &plan.hooks.subject.bundle);
        let state = hooks::state(&hooks.subject, Status::Creating, Some(self.child.pid));
        hooks::run("prestart", &hooks.prestart, &state, bundle)?;
        hooks::run("createRuntime", &hooks.create_runtime, &state, bundle)
    }

    /// The process id of the container's process 1, as the host sees it.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.child.pid
    }

    /// The id of its cgroup v2 directory.
    #[must_use]
    pub fn cgroup_id(&self) -> Option<u64> {
        self.cgroup.id()
    }

    /// Readable when the container has ended. pidfd_open(2).
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.pidfd.as_fd()
    }

    /// The master of the container's terminal, if it has one.
    #[must_use]
    pub fn console(&self) -> Option<BorrowedFd<'_>> {
        self.console.as_ref().map(AsFd::as_fd)
    }

    /// When each part of the launch was over.
    #[must_use]
    pub const fn stamps(&self) -> &Stamps {
        &self.stamps
    }

    /// Sends `signal` to the container's process 1.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        process::send_signal(self.pidfd(), signal)
    }

    /// How the container has ended, if it has.
    pub fn try_wait(&mut self) -> io::Result<Option<Exit>> {
        if self.exit.is_none() {
            self.exit = process::reap(self.child.pidfd.as_fd(), false)?;
        }
        Ok(self.exit)
    }

    /// Waits for the container to end.
    pub fn wait(&mut self) -> io::Result<Exit> {
        loop {
            if let Some(exit) = self.exit {
                return Ok(exit);
            }
            self.exit = process::reap(self.child.pidfd.as_fd(), true)?;
        }
    }

    /// The figures of its cgroups so far.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.cgroup.usage()
    }

    /// Has what is asked for over `socket` read by a process in its cgroups. [`crate::reader`]
    ///
    /// The calling process must have one thread, and has to reap it.
    pub fn read_ahead(&self, socket: OwnedFd) -> Result<Child, Error> {
        reader::begin(&self.cgroup, socket)
    }

    /// Ends what is left of the container and removes every trace of it.
    pub fn remove(mut self) -> Result<(), Error> {
        self.kill();
        let removed = std::mem::take(&mut self.cgroup).remove();
        if let (Err(_), Some(note)) = (&removed, &mut self.note) {
            note.stay();
        }
        removed
    }

    /// Lets the process live on, and its cgroups: whoever keeps account of it looks after them.
    pub fn release(mut self) {
        self.is_released = true;
        self.cgroup.release();
    }

    fn kill(&mut self) {
        if self.exit.is_none() && !self.is_released {
            // The process may have ended by itself meanwhile (`ESRCH`); in either case it is there to be reaped.
            let sent = self.signal(nix::libc::SIGKILL);
            if let Err(error) = sent.and_then(|()| self.wait()) {
                tracing::warn!("end container process {}: {error}", self.child.pid);
            }
        }
    }
}

impl fmt::Debug for Attendance<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attendance")
            .field("gate", &self.gate)
            .field("console_socket", &self.console_socket)
            .finish_non_exhaustive()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}
