//! One more process in a container that runs.
//!
//! | parent | child |
//! |---|---|
//! | finds out which namespaces differ, hides from what is in them | |
//! | enters the container's PID namespace for its children | |
//! | clone3 into the container's cgroup, and back | dies with its parent from here on |
//! | moves the child there, or has systemd do it, if it could not be born there | waits |
//! | → **1** `go`, unless the child works in its memory | joins v1 cgroups, enters the other namespaces at once |
//! | keeps the console, or sends it on | takes a terminal of the container's, **2** console → |
//! | forwards the listener | as the container's first process did ([`super::program`]) |
//! | sees **6** end of file: runs or failed | execve |
//!
//! Into a user namespace the child is born by way of a process between the two, which enters it, for its parent could not
//! come back from there.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, CpuSet, setns};
use nix::sys::stat::{Mode, umask};
use skiff_sys::process::{self, Child, Memory};
use skiff_sys::{file, schedule};

use super::joins::{ForChildren, Joins, KINDS};
use super::own::{CLONE_NEWTIME, Labels, OomScore, Own};
use super::parent::{Of, Running, Stamps};
use super::program::{self, Program, Stop};
use super::sync::{At, Channel, Failure, Page, Stage};
use super::{child, console, prepare};
use crate::Error;
use crate::cgroup::{Cgroup, Layout};
use crate::error::Context;
use crate::plan::{Bond, Hooks, Join, Process, Subject, c_path};

/// What is run where.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The container's first process, as the host sees it.
    pub init: i32,
    /// The same; it must be known to be this container's, and a descriptor stays that.
    pub init_fd: BorrowedFd<'a>,
    /// The cgroups to join.
    pub cgroup: &'a Cgroup,
    /// Files of the container's resctrl group, to join by writing `0` to each in turn.
    pub rdt_tasks: Vec<OwnedFd>,
    /// What is run.
    pub process: Process,
    /// What the state says that goes with the descriptor of a system call listener.
    pub subject: Subject,
    /// A listening Unix stream socket that gets the master of the process's terminal, if it has one.
    pub console_socket: Option<&'a Path>,
}

/// Runs a process in a container and returns when its program runs.
///
/// The calling process must have one thread. It is not dumpable afterwards.
pub fn exec(plan: &Plan<'_>) -> Result<Running, Error> {
    process::keep_children().context(|| "take SIGCHLD".into())?;
    let console_socket = plan.console_socket.map(console::connect).transpose()?;
    let null = prepare::open_null()?;
    let score = OomScore::lend(&plan.process)?;
    // What is in the container must not look into a process that is yet to become one of its.
    process::set_undumpable().context(|| "hide from the container".into())?;
    let way = Way::into(plan)?;
    let page = Page::new().context(|| "share a page with the child".into())?;
    let (channel, childs) = Channel::pair().context(|| "make a socket".into())?;
    let child = spawn(plan, &way, &|memory| {
        // The child must not hold the end whose closing tells it that its parent has died.
        channel.close_in_child();
        run(&Entry { plan, way: &way, null: null.as_fd(), channel: &childs, page: &page, memory })
    });
    drop(score);
    way.leave().context(|| "return to the own PID namespace".into())?;
    drop(childs);
    let child = child?;
    let mut running = Running::of(child, Cgroup::default(), None, Stamps::default());
    if running.memory() == Memory::Copied {
        place(plan, &running)?;
        channel.send_go(running.pid()).context(|| "speak to the child".into())?;
    }
    running.follow(&channel, &page, &Of { plan: None, process: &plan.process }, console_socket)?;
    Ok(running)
}

/// How the container's namespaces are entered.
#[derive(Debug)]
enum Way {
    /// Those of its first process at once. setns(2) with a pidfd, Linux ≥ 5.8.
    AtOnce {
        /// Whether its clocks are others too. They cannot be for a process that has memory in common with another.
        has_clocks: bool,
        /// Its PID namespace, entered for children until they are there.
        children: ForChildren,
    },
    /// One by one: on older kernels, where it has a user namespace of its own, so that it matters to whom each belongs, and
    /// for a user.
    OneByOne(Joins),
}

/// What the child enters at once: all but the user namespace, that of PIDs, which it is born in, and that of clocks.
const AT_ONCE: CloneFlags = CloneFlags::CLONE_NEWNS
    .union(CloneFlags::CLONE_NEWNET)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CloneFlags::CLONE_NEWCGROUP);

impl Way {
    fn into(plan: &Plan<'_>) -> Result<Self, Error> {
        let what = || format!("look at the namespaces of process {}", plan.init);
        if !differs(plan.init, "user").context(what)? {
            let has_clocks = differs(plan.init, "time").context(what)?;
            match ForChildren::enter(plan.init_fd) {
                Ok(Some(children)) => return Ok(Self::AtOnce { has_clocks, children }),
                Ok(None) => {}
                // An older kernel takes nothing but descriptors of namespaces.
                Err(error) if error.raw_os_error() == Some(nix::libc::EINVAL) => {}
                Err(error) => return Err(error).context(|| "join the container's PID namespace".into()),
            }
        }
        let mut joins = Vec::new();
        for (kind, name) in KINDS {
            if differs(plan.init, name).context(what)? {
                joins.push(Join { kind, path: PathBuf::from(format!("/proc/{}/ns/{name}", plan.init)) });
            }
        }
        let joins = Joins::open(&joins)?;
        // If it is still there now, what has been opened was its.
        process::send_signal(plan.init_fd, 0).context(|| format!("find process {}", plan.init))?;
        Ok(Self::OneByOne(joins))
    }

    fn has_clocks(&self) -> bool {
        match self {
            Self::AtOnce { has_clocks, .. } => *has_clocks,
            Self::OneByOne(joins) => joins.have_clocks(),
        }
    }

    fn has_users(&self) -> bool {
        matches!(self, Self::OneByOne(joins) if joins.have_users())
    }

    /// Forks the child. Runs in: parent.
    fn spawn(
        &self,
        cgroup: Option<BorrowedFd<'_>>,
        memory: Memory,
        run: &impl Fn(Memory) -> u8,
    ) -> io::Result<Child> {
        match self {
            Self::AtOnce { .. } => process::spawn(CloneFlags::empty(), cgroup, memory, run),
            Self::OneByOne(joins) => joins.spawn(CloneFlags::empty(), cgroup, memory, run),
        }
    }

    /// Takes back what was entered for the child's sake. Runs in: parent.
    fn leave(self) -> io::Result<()> {
        match self {
            Self::AtOnce { children, .. } => children.leave(),
            Self::OneByOne(_) => Ok(()),
        }
    }

    /// Enters what the process was not born in. Runs in: child.
    fn enter(&self, init: BorrowedFd<'_>) -> io::Result<()> {
        match self {
            Self::AtOnce { has_clocks, .. } => {
                let clocks = if *has_clocks { CLONE_NEWTIME } else { 0 };
                Ok(setns(init, AT_ONCE | CloneFlags::from_bits_retain(clocks))?)
            }
            Self::OneByOne(joins) => joins.enter().map_err(|(_, error)| error),
        }
    }
}

/// Whether the namespace `name` of process `init` is another than the caller's.
fn differs(init: i32, name: &str) -> io::Result<bool> {
    let inode = |path: String| std::fs::metadata(path).map(|found| found.ino());
    match inode(format!("/proc/self/ns/{name}")) {
        // A kernel without such namespaces.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        own => Ok(own? != inode(format!("/proc/{init}/ns/{name}"))?),
    }
}

/// Forks the child in the container's PID namespace and its cgroup, on the CPUs that it is to have until then.
fn spawn(plan: &Plan<'_>, way: &Way, run: &impl Fn(Memory) -> u8) -> Result<Child, Error> {
    let is_attended = way.has_clocks() || plan.process.listener.is_some();
    let memory = if is_attended { Memory::Copied } else { Memory::Shared };
    let own_cpus = match &plan.process.cpu_affinity[0] {
        Some(cpus) => Some(run_on(cpus).context(|| "set the CPUs to run on".into())?),
        None => None,
    };
    let mut child = way.spawn(plan.cgroup.unified_fd(), memory, run);
    match child.as_ref().err().and_then(io::Error::raw_os_error) {
        // The container has made cgroups below its own and moved its processes there; v2 has none beside them.
        Some(nix::libc::EBUSY) => {
            let of_init =
                file::open(&c_path(&cgroup_of(plan.init)?)?, OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0);
            let of_init = of_init.context(|| format!("open the cgroup of process {}", plan.init))?;
            child = way.spawn(Some(of_init.as_fd()), memory, run);
        }
        // From where this user is, none may go there by itself: [`place`] has the child moved.
        Some(nix::libc::EACCES) if plan.cgroup.is_of_user() => {
            child = way.spawn(None, Memory::Copied, run);
        }
        _ => {}
    }
    if let Some(cpus) = own_cpus {
        schedule::set_cpus(&cpus).context(|| "set the CPUs to run on".into())?;
    }
    child.context(|| "clone3 into the container".into())
}

/// Runs on `cpus`; returns those before.
fn run_on(cpus: &[usize]) -> io::Result<CpuSet> {
    let own = schedule::cpus()?;
    schedule::set_cpus(&schedule::cpu_set(cpus)?)?;
    Ok(own)
}

/// 1: puts the child into the container's cgroup, if it was not born there.
fn place(plan: &Plan<'_>, running: &Running) -> Result<(), Error> {
    match running.adopt_into(plan.cgroup) {
        // As above, for a child that is born elsewhere.
        Err(_) if plan.cgroup.is_inner() => running.adopt_into(&plan.cgroup.at(cgroup_of(plan.init)?)?),
        other => other,
    }
}

/// The cgroup v2 directory that process `init` is in. cgroups(7).
fn cgroup_of(init: i32) -> Result<PathBuf, Error> {
    let path = format!("/proc/{init}/cgroup");
    let text = std::fs::read_to_string(&path).context(|| format!("read {path}"))?;
    let below = text.lines().find_map(|line| line.strip_prefix("0::/"));
    let mount = Layout::of_host().unified;
    let (Some(below), Some(mount)) = (below, mount) else {
        return Err(Error::Option(format!("{path} names no cgroup v2")));
    };
    Ok(mount.join(below))
}

/// What the child has to work with.
#[derive(Debug)]
struct Entry<'a> {
    plan: &'a Plan<'a>,
    way: &'a Way,
    null: BorrowedFd<'a>,
    channel: &'a Channel,
    page: &'a Page,
    memory: Memory,
}

/// Runs the plan. Returns, with the exit code for the child, only if that fails.
fn run(entry: &Entry<'_>) -> u8 {
    entry.page.child_runs();
    match carry_out(entry) {
        Ok(never) => match never {},
        Err(failure) => {
            entry.page.fail(&failure);
            child::exit_code(&failure)
        }
    }
}

fn carry_out(entry: &Entry<'_>) -> Result<Infallible, Failure> {
    let Entry { plan, way, null, channel, page, memory } = *entry;
    let process = &plan.process;
    let pid = program::begin(channel, memory, plan.cgroup)?;
    for tasks in &plan.rdt_tasks {
        nix::unistd::write(tasks, b"0").at(Stage::Rdt)?;
    }
    if let Some(cpus) = &process.cpu_affinity[1] {
        schedule::cpu_set(cpus).and_then(|cpus| schedule::set_cpus(&cpus)).at(Stage::Affinity)?;
    }
    let mut own = Own::default();
    let labels = Labels::open(&mut own, process)?;
    drop(own);
    way.enter(plan.init_fd).at_index(Stage::Join, usize::MAX)?;
    if way.has_users() {
        child::become_root(channel)?;
    }
    nix::unistd::setsid().at(Stage::Stdio)?;
    umask(Mode::empty());
    let program = Program {
        process,
        bond: Bond::None,
        null,
        init: None,
        console: take_terminal(process, channel).at(Stage::Console)?,
        labels,
        hooks: &Hooks { subject: plan.subject.clone(), ..Hooks::default() },
        stop: Stop::Nowhere,
        channel,
        page,
        pid,
        init_pid: Some(plan.init),
    };
    program.run().inspect_err(|failure| program.explain(failure))
}

/// Makes a terminal in the container's devpts; returns its end.
fn take_terminal(process: &Process, channel: &Channel) -> io::Result<Option<OwnedFd>> {
    let Some(size) = process.terminal else { return Ok(None) };
    let root = file::open(c"/", OFlag::O_PATH | OFlag::O_DIRECTORY, 0)?;
    let (master, peer) = console::make(root.as_fd(), size)?;
    channel.send_console(&master)?;
    Ok(Some(peer))
}
