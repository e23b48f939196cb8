//! The host's side of a launch, and of the container that runs.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Command;

use skiff_sys::clock::monotonic_ns;
use skiff_sys::process::{self, Child, Exit, Memory};

use super::child;
use super::note::{self, Note};
use super::prepare::Prepared;
use super::sync::{Channel, Failure, Page, Stage};
use crate::Error;
use crate::cgroup::{Cgroup, Usage};
use crate::error::{Context, plain};
use crate::plan::{Hide, IdRange, MapWriter, Plan, Step, Users};

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

/// A container that runs. Dropping it kills it and removes every trace.
#[derive(Debug)]
pub struct Running {
    // In the order in which they are to go: the process first, the note last.
    child: Child,
    exit: Option<Exit>,
    console: Option<OwnedFd>,
    stamps: Stamps,
    cgroup: Cgroup,
    note: Note,
}

/// Launches the container of `plan` and returns when its program runs.
///
/// `arm` is called with the id of the container's cgroup v2 directory once that is there, and before the clone, so that
/// whoever counts by it misses nothing. What it says on failure becomes the launch's error.
///
/// The calling process must have one thread.
pub fn start(plan: &Plan, arm: &mut dyn FnMut(Option<u64>) -> Result<(), String>) -> Result<Running, Error> {
    let begin = monotonic_ns();
    note::make_private(&plan.run_root)?;
    let note = Note::take(plan)?;
    let prepared = Prepared::new(plan, &note)?;
    let rootfs_done = monotonic_ns();
    let cgroup = Cgroup::create(&plan.cgroup)?;
    arm(cgroup.id()).map_err(Error::Option)?;
    let cgroup_done = monotonic_ns();

    let page = Page::new().context(|| "share a page with the child".into())?;
    let (channel, childs) = Channel::pair().context(|| "make a socket".into())?;
    let child = process::spawn(plan.namespaces, cgroup.unified_fd(), memory(plan), |memory| {
        // The child must not hold the end whose closing tells it that its parent has died.
        channel.close_in_child();
        let (prepared, cgroup, channel, page) = (&prepared, &cgroup, &childs, &page);
        child::run(&child::Launch { plan, prepared, cgroup, channel, page, memory })
    })
    .map_err(|error| clone_error(plan, error))?;
    drop(childs);
    let mut running = Running { child, exit: None, console: None, stamps: Stamps::default(), cgroup, note };
    if running.child.memory == Memory::Copied {
        running.release(plan, &channel)?;
    }
    running.follow(plan, &channel, &page)?;
    let [child, mounts_done, security_done] = page.stamps();
    let exec_seen = monotonic_ns();
    running.stamps =
        Stamps { start: begin, rootfs_done, cgroup_done, child, mounts_done, security_done, exec_seen };
    Ok(running)
}

/// The child works in its parent's memory, unless the parent has to work beside it: to map its ids, or because the child
/// forks itself.
const fn memory(plan: &Plan) -> Memory {
    if plan.users.is_some() || plan.process.init { Memory::Copied } else { Memory::Shared }
}

/// Clears what skiff processes that were killed have left in the run root and the state root of `plan`, whose own
/// container is known to be alive.
pub fn sweep(plan: &Plan) -> Result<(), Error> {
    note::sweep(&plan.run_root, &plan.state_root, &plan.id)
}

impl Running {
    /// 1: does what the child cannot do for itself, and lets it go on.
    fn release(&self, plan: &Plan, channel: &Channel) -> Result<(), Error> {
        if !self.child.in_cgroup {
            self.cgroup.adopt(self.child.pid)?;
        }
        if let Some(maps) = &plan.users {
            write_maps(self.child.pid, maps)?;
        }
        channel.send_go().context(|| "speak to the child".into())
    }

    /// 2 and 3: keeps the console; at the end of file finds out what it means.
    fn follow(&mut self, plan: &Plan, channel: &Channel, page: &Page) -> Result<(), Error> {
        while let Some(console) = channel.receive().context(|| "listen to the child".into())? {
            self.console = Some(console);
        }
        match page.failure() {
            Some(failure) => Err(sentence(plan, failure)),
            None => Ok(()),
        }
    }

    /// The process id of the container's process 1, as the host sees it.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.child.pid
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

    /// Ends what is left of the container and removes every trace of it.
    pub fn remove(mut self) -> Result<(), Error> {
        self.kill();
        let removed = std::mem::take(&mut self.cgroup).remove();
        if removed.is_err() {
            self.note.stay();
        }
        removed
    }

    fn kill(&mut self) {
        if self.exit.is_none() {
            // The process may have ended by itself meanwhile (`ESRCH`); in either case it is there to be reaped.
            let sent = self.signal(nix::libc::SIGKILL);
            if let Err(error) = sent.and_then(|()| self.wait()) {
                tracing::warn!("end container process {}: {error}", self.child.pid);
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Writes the id maps of the child's user namespace. user_namespaces(7).
fn write_maps(pid: i32, users: &Users) -> Result<(), Error> {
    let write = |file: &str, value: String| {
        let path = format!("/proc/{pid}/{file}");
        std::fs::write(&path, value).context(|| format!("write {path}"))
    };
    match users.writer {
        MapWriter::Helpers => {
            map_ranges("newuidmap", pid, &users.uids)?;
            map_ranges("newgidmap", pid, &users.gids)
        }
        MapWriter::Privileged => {
            write("uid_map", lines(&users.uids))?;
            write("gid_map", lines(&users.gids))
        }
        MapWriter::OwnId => {
            write("uid_map", lines(&users.uids))?;
            write("setgroups", "deny".into())?;
            write("gid_map", lines(&users.gids))
        }
    }
}

fn lines(ranges: &[IdRange]) -> String {
    let line = |IdRange { inside, outside, count }: &IdRange| format!("{inside} {outside} {count}\n");
    ranges.iter().map(line).collect()
}

/// Ranges take the set-user-ID helpers newuidmap(1) and newgidmap(1).
fn map_ranges(program: &str, pid: i32, ranges: &[IdRange]) -> Result<(), Error> {
    let ids = ranges.iter().flat_map(|range| [range.inside, range.outside, range.count]);
    let ids = ids.map(|id| id.to_string());
    let output =
        Command::new(program).arg(pid.to_string()).args(ids).output().context(|| format!("run {program}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::Option(format!("{program}: {}", said.lines().next().unwrap_or("failed"))))
}

fn clone_error(plan: &Plan, error: io::Error) -> Error {
    let what = match error.raw_os_error() {
        Some(nix::libc::ENOSPC) => {
            "clone3: namespaces nest too deeply, or a limit in /proc/sys/user is reached".to_owned()
        }
        Some(nix::libc::EPERM) if plan.users.is_some() => {
            "clone3: this host lets only root make user namespaces".to_owned()
        }
        _ => "clone3".to_owned(),
    };
    Error::Host { what, source: plain(error) }
}

/// Says in one line what a child's failure means.
fn sentence(plan: &Plan, failure: Failure) -> Error {
    let Failure { stage, index, error } = failure;
    let program = || plan.process.argv[0].to_string_lossy().into_owned();
    if stage == Stage::Exec {
        let is_search = !plan.process.argv[0].to_bytes().contains(&b'/');
        return match error.raw_os_error() {
            Some(nix::libc::ENOENT | nix::libc::ENOTDIR) if is_search => {
                let source = io::Error::new(io::ErrorKind::NotFound, "executable file not found in $PATH");
                Error::NotFound { program: program(), source }
            }
            Some(nix::libc::ENOENT | nix::libc::ENOTDIR) => {
                Error::NotFound { program: program(), source: plain(error) }
            }
            _ => Error::CannotInvoke { program: program(), source: plain(error) },
        };
    }
    let is_unmapped = plan.users.is_some() && error.raw_os_error() == Some(nix::libc::EINVAL);
    let source = match stage {
        Stage::Uid | Stage::Gid if is_unmapped => {
            io::Error::new(io::ErrorKind::InvalidInput, "not an id of this user namespace, see subuid(5)")
        }
        _ => plain(error),
    };
    Error::Host { what: attempt(plan, stage, index), source }
}

/// What was tried at a stage, on what.
fn attempt(plan: &Plan, stage: Stage, index: usize) -> String {
    let process = &plan.process;
    match stage {
        Stage::Wait => "wait for the parent".into(),
        Stage::Cgroup => "join a cgroup".into(),
        Stage::CgroupNamespace => "make a cgroup namespace".into(),
        Stage::Propagation => "make the mount namespace private".into(),
        Stage::Root => "mount the root file system".into(),
        Stage::Step => plan.steps.get(index).map_or_else(|| "mount".into(), describe),
        Stage::Console => "make a terminal".into(),
        Stage::Loopback => "bring loopback up".into(),
        Stage::Hostname => "set the host name".into(),
        Stage::Domainname => "set the domain name".into(),
        Stage::Sysctl => {
            format!("set sysctl {}", text(plan.sysctls.get(index).map(|(key, _)| key)).replace('/', "."))
        }
        Stage::OomScore => format!("set oom_score_adj to {}", text(process.oom_score_adj.as_ref())),
        Stage::Hide => match plan.hide.get(index) {
            Some(Hide::Mask(path)) => format!("mask /{}", path.to_string_lossy()),
            Some(Hide::ReadOnly(path)) => format!("make /{} read-only", path.to_string_lossy()),
            None => "hide a path".into(),
        },
        Stage::RootReadOnly => "make the root read-only".into(),
        Stage::Pivot => "pivot into the root file system".into(),
        Stage::Keyring => "make a session keyring".into(),
        Stage::Stdio => "set up standard streams".into(),
        Stage::Rlimit => match process.rlimits.get(index) {
            Some((resource, soft, hard)) => format!("set {resource:?} to {soft}:{hard}"),
            None => "set a resource limit".into(),
        },
        Stage::Bounding => "drop capabilities".into(),
        Stage::Groups => "set supplementary groups".into(),
        Stage::Gid => format!("become group {}", process.gid),
        Stage::Uid => format!("become user {}", process.uid),
        Stage::Cwd => format!("enter working directory /{}", process.cwd.to_string_lossy()),
        Stage::CwdOutside => {
            format!("working directory /{} is outside of the container", process.cwd.to_string_lossy())
        }
        Stage::Capabilities => "set capabilities".into(),
        Stage::NoNewPrivileges => "set no_new_privs".into(),
        Stage::Init => "start the init".into(),
        Stage::Seccomp => "load the seccomp filter".into(),
        Stage::Exec => "run the program".into(),
    }
}

fn describe(step: &Step) -> String {
    let at = |path: &std::ffi::CString| format!("/{}", path.to_string_lossy());
    match step {
        Step::Filesystem { fstype, target, .. } => {
            format!("mount {} at {}", fstype.to_string_lossy(), at(&target.path))
        }
        Step::Bind { source, target, .. } => format!("bind {} at {}", source.display(), at(&target.path)),
        Step::Remount { target, .. } => format!("remount {}", at(&target.path)),
        Step::Directory(target) => format!("make directory {}", at(&target.path)),
        Step::Volume { target, .. } => format!("mount volume at {}", at(&target.path)),
        Step::Node(node) => format!("make device {}", node.target.display()),
        Step::Fifo { target, .. } => format!("make FIFO {}", at(&target.path)),
        Step::Symlink { path, .. } => format!("make symlink {}", at(path)),
        Step::Files(_) => "mount /etc/hostname, /etc/hosts and /etc/resolv.conf".into(),
        Step::ReadOnlyMount(target) => format!("make {} read-only", at(&target.path)),
    }
}

fn text(value: Option<&std::ffi::CString>) -> String {
    value.map(|value| value.to_string_lossy().into_owned()).unwrap_or_default()
}
