//! From a process in its place to the container's program: what every process of a container takes on before it runs
//! its program, the first of them and those that are executed in it later.
//!
//! Runs in: child, with the container's file tree as `/`. Decides nothing, logs nothing.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{AtFlags, FcntlArg, FdFlag, OFlag};
use nix::sys::resource::Resource;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{AccessFlags, Gid, Uid};
use skiff_sys::file::{self, Resolve};
use skiff_sys::process::{self, Capabilities, Memory};
use skiff_sys::{schedule, seccomp, terminal};

use super::gate::Gate;
use super::listener;
use super::own::Labels;
use super::sync::{At, Channel, Failure, Page, Stage};
use crate::caps::CapSet;
use crate::cgroup::Cgroup;
use crate::hooks;
use crate::oci::spec::Status;
use crate::plan::{Bond, Hooks, Process};
use crate::seccomp::certain;

/// What leads to the program.
#[derive(Debug)]
pub(super) struct Program<'a> {
    pub(super) process: &'a Process,
    pub(super) bond: Bond,
    /// The host's `/dev/null`.
    pub(super) null: BorrowedFd<'a>,
    /// skiff's executable, where it is to be the container's init.
    pub(super) init: Option<BorrowedFd<'a>>,
    pub(super) console: Option<OwnedFd>,
    pub(super) labels: Labels,
    pub(super) hooks: &'a Hooks,
    /// Where to wait before the program is run.
    pub(super) stop: Stop<'a>,
    pub(super) channel: &'a Channel,
    pub(super) page: &'a Page,
    /// This process's id on the host, where the parent has told it.
    pub(super) pid: i32,
    /// That of the container's first process, if this is another.
    pub(super) init_pid: Option<i32>,
}

/// All calls that a parked process makes from its waiting on: to hear what it is to run (which may lie in a file), to take the
/// streams, for memory, to run the program, and to end if that fails.
const CALLS_WHEN_PARKED: [nix::libc::c_long; 25] = [
    nix::libc::SYS_sendmsg,
    nix::libc::SYS_recvfrom,
    nix::libc::SYS_recvmsg,
    nix::libc::SYS_read,
    nix::libc::SYS_pread64,
    nix::libc::SYS_lseek,
    nix::libc::SYS_fstat,
    nix::libc::SYS_newfstatat,
    nix::libc::SYS_statx,
    nix::libc::SYS_dup2,
    nix::libc::SYS_dup3,
    nix::libc::SYS_fcntl,
    nix::libc::SYS_close,
    nix::libc::SYS_clock_gettime,
    nix::libc::SYS_sched_yield,
    nix::libc::SYS_brk,
    nix::libc::SYS_mmap,
    nix::libc::SYS_mremap,
    nix::libc::SYS_munmap,
    nix::libc::SYS_madvise,
    nix::libc::SYS_prlimit64,
    nix::libc::SYS_execve,
    nix::libc::SYS_rt_sigreturn,
    nix::libc::SYS_exit,
    nix::libc::SYS_exit_group,
];

/// More descriptors than are open at any time before the program runs.
const DESCRIPTORS: u64 = 64;

/// Where a process waits before it runs its program.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stop<'a> {
    /// Nowhere.
    Nowhere,
    /// At a gate, until somebody opens it.
    Gate(&'a Gate),
    /// On the line to its parent, until it is told what to run ([`super::park`]).
    Line,
}

impl Program<'_> {
    /// Takes on all that the program is to have, and runs it.
    pub(super) fn run(&self) -> Result<Infallible, Failure> {
        let Self { process, channel, .. } = *self;
        if !process.keep_keyring {
            process::new_session_keyring().at(Stage::Keyring)?;
        }
        let is_parked = matches!(self.stop, Stop::Line);
        take_stdio(process, self.null, self.console.as_ref()).at(Stage::Stdio)?;
        if is_parked && self.console.is_none() {
            take_streams([self.null; 3]).at(Stage::Stdio)?;
        } else if self.bond == Bond::None && self.console.is_none() {
            if process.uid != 0 {
                give_stdio(process, self.null).at(Stage::Stdio)?;
            }
            take_own_null(self.null).at(Stage::Stdio)?;
        }
        let passed_end = process.descriptors.iter().max().map_or(3, |last| last + 1);
        process::cloexec_from(passed_end).at(Stage::Stdio)?;
        umask(Mode::from_bits_truncate(process.umask.unwrap_or(0o022)));
        take_schedule(process)?;
        // From here on another container's root, in a shared PID namespace, could have as many capabilities as this process
        // and look into it. The program's own execve lifts this again.
        process::set_undumpable().at(Stage::Capabilities)?;
        become_user(process, channel)?;
        if let Some(executable) = self.init {
            fork_init(executable, process)?;
        }
        if is_parked {
            return self.run_parked();
        }
        // Never dropped: its end tells whoever has opened the gate that the page says all there is to say.
        let opened = ManuallyDrop::new(self.pass_gate()?);
        let channel = opened.as_ref().unwrap_or(channel);
        run_hooks("startContainer", &self.hooks.start_container, self, Status::Created, Path::new("/"))?;
        self.labels.set().at(Stage::Label)?;
        self.page.security_done();
        limit_descriptors(process)?;
        self.load_filter(channel)?;
        Err(exec(&process.argv, &process.env, &process.path)).at(Stage::Exec)
    }

    /// Waits on the line to be told what to run, and runs it.
    fn run_parked(&self) -> Result<Infallible, Failure> {
        if begins_session_last(self.stop, self.process) {
            nix::unistd::setsid().at(Stage::Stdio)?;
        }
        // The program that is likely to be asked for: the way to it is known then, and whether it is there is no question yet.
        drop(look_up(self.process));
        // From here on the line decides: it is closed when nobody is left who could say what to run.
        process::outlive_parent().at(Stage::Gate)?;
        process::close_others_in_child(&[self.channel.descriptor()]).at(Stage::Gate)?;
        // To load a filter takes as long as all else that is left: it is done before, if it lets that pass.
        let filter = self.process.seccomp.as_ref();
        let is_early = filter.is_some_and(|filter| certain::allows(filter, &CALLS_WHEN_PARKED));
        if is_early {
            self.load_filter(self.channel)?;
        }
        // A kernel that refuses keeps it all.
        drop(skiff_sys::heap::put_code_aside());
        self.channel.send_waiting().at(Stage::Gate)?;
        let (words, streams) = self.channel.receive_program().at(Stage::Gate)?;
        self.page.woken();
        match (&self.console, &streams[..]) {
            (Some(_), []) => {}
            (None, [stdin, stdout, stderr]) => {
                take_streams([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]).at(Stage::Stdio)?;
            }
            _ => return Err(io::Error::from_raw_os_error(nix::libc::EPROTO)).at(Stage::Stdio),
        }
        self.page.streams_taken();
        self.page.security_done();
        limit_descriptors(self.process)?;
        if !is_early {
            self.load_filter(self.channel)?;
        }
        let error = exec(&words.argv, &words.env, &words.path);
        self.page.write(words.argv[0].to_bytes());
        Err(error).at(Stage::Exec)
    }

    /// Ends the bond to the launcher where it is not to last, and waits at the gate; returns the connection of whoever has
    /// opened it.
    fn pass_gate(&self) -> Result<Option<Channel>, Failure> {
        if matches!(self.stop, Stop::Gate(_)) {
            // Who creates a container is to be told what could never be started.
            look_up(self.process).at(Stage::Exec)?;
        }
        if self.bond == Bond::None {
            process::outlive_parent().at(Stage::Gate)?;
        }
        let Stop::Gate(gate) = self.stop else { return Ok(None) };
        // The caller may be waiting for the end of what it has passed to the launcher, and whatever else is open of the host
        // would stay so.
        let mut keep = Vec::from(gate.descriptors());
        keep.extend(self.labels.descriptors());
        keep.extend(&self.process.descriptors);
        keep.push(self.channel.descriptor());
        process::close_others_in_child(&keep).at(Stage::Gate)?;
        self.channel.send_waiting().at(Stage::Gate)?;
        self.channel.close_in_child();
        gate.wait().at(Stage::Gate).map(Some)
    }

    /// Last, so that the filter need not allow anything that is done above.
    fn load_filter(&self, channel: &Channel) -> Result<(), Failure> {
        let Some(filter) = &self.process.seccomp else { return Ok(()) };
        match &self.process.listener {
            None => seccomp::install(&filter.program, filter.flags).map(drop).at(Stage::Seccomp),
            Some(listener) => {
                let status = match self.stop {
                    _ if self.init_pid.is_some() => Status::Running,
                    Stop::Gate(_) => Status::Created,
                    Stop::Nowhere | Stop::Line => Status::Creating,
                };
                let init = self.init_pid.unwrap_or(self.pid);
                let state = hooks::state(&self.hooks.subject, status, Some(init));
                let notice = listener::notice(listener, &state, self.pid).at(Stage::Listener)?;
                listener::install(filter, channel, &notice).at(Stage::Seccomp)
            }
        }
    }

    /// Leaves on the page what the parent cannot know of a failure.
    pub(super) fn explain(&self, failure: &Failure) {
        // One that was parked has told what it was to run.
        if failure.stage == Stage::Exec && !matches!(self.stop, Stop::Line) {
            self.page.write(self.process.argv[0].to_bytes());
        }
    }
}

/// Whether a session of its own is begun only when all else is made: who makes containers ahead has a session, which the scheduler takes for
/// one (`sched_autogroup_enabled`), so that all that is being made weighs as much as one program that runs. Not where the session is to have a
/// terminal or a process beside this one before that.
pub(super) const fn begins_session_last(stop: Stop<'_>, process: &Process) -> bool {
    matches!(stop, Stop::Line) && process.terminal.is_none() && !process.init
}

/// Runs hooks in this process's namespaces.
pub(super) fn run_hooks(
    kind: &str,
    list: &[crate::plan::Hook],
    of: &Program<'_>,
    status: Status,
    directory: &Path,
) -> Result<(), Failure> {
    if list.is_empty() {
        return Ok(());
    }
    // In the container's namespaces it is the id in the container that counts.
    let pid = nix::unistd::getpid().as_raw();
    let state = hooks::state(&of.hooks.subject, status, Some(pid));
    hooks::run(kind, list, &state, directory).map_err(|error| {
        of.page.write(error.to_string().as_bytes());
        Failure { stage: Stage::Hook, index: 0, error: io::Error::from_raw_os_error(nix::libc::ECANCELED) }
    })
}

/// Step 1: the parent has done its part. The child dies with it from here on, and joins the v1 `cgroup`s. Returns its own
/// process id as its parent sees it, or 0 to a child that works in its parent's memory and was told nothing.
///
/// Runs in: child, first.
pub(super) fn begin(channel: &Channel, memory: Memory, cgroup: &Cgroup) -> Result<i32, Failure> {
    process::die_with_parent().at(Stage::Wait)?;
    let pid = match memory {
        Memory::Copied => channel.receive_go(),
        Memory::Shared => channel.check_parent().map(|()| 0),
    }
    .at(Stage::Wait)?;
    reset_signals().at(Stage::Wait)?;
    join(cgroup.legacy_tasks())?;
    Ok(pid)
}

/// The same for a child that is born ahead: what [`begin`] waits for comes later, and [`join`] is called then.
///
/// Runs in: child, first.
pub(super) fn begin_ahead() -> Result<(), Failure> {
    // A parent that has died before is found out when nothing comes from it.
    process::die_with_parent().at(Stage::Wait)?;
    reset_signals().at(Stage::Wait)
}

/// Enters v1 cgroups by their open `tasks`.
pub(super) fn join<F: AsFd>(all: impl IntoIterator<Item = F>) -> Result<(), Failure> {
    all.into_iter().try_for_each(|tasks| nix::unistd::write(tasks, b"0").map(drop)).at(Stage::Cgroup)
}

/// Default actions and an empty mask, whatever skiff's caller and Rust's start-up have set.
fn reset_signals() -> io::Result<()> {
    process::default_signals()?;
    Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?)
}

/// Puts the standard streams in place: the terminal, or the caller's, with `/dev/null` for input that is not wanted.
fn take_stdio(process: &Process, null: BorrowedFd<'_>, console: Option<&OwnedFd>) -> io::Result<()> {
    if let Some(console) = console {
        terminal::make_controlling(console.as_fd())?;
        // The program's user must be able to open its terminal by name.
        nix::unistd::fchown(console, Some(Uid::from_raw(process.uid)), None)?;
        nix::unistd::dup2_stdin(console)?;
        nix::unistd::dup2_stdout(console)?;
        nix::unistd::dup2_stderr(console)?;
    } else if !process.interactive {
        nix::unistd::dup2_stdin(null)?;
    }
    Ok(())
}

/// Puts these in the place of the standard streams.
fn take_streams([stdin, stdout, stderr]: [BorrowedFd<'_>; 3]) -> io::Result<()> {
    nix::unistd::dup2_stdin(stdin)?;
    nix::unistd::dup2_stdout(stdout)?;
    Ok(nix::unistd::dup2_stderr(stderr)?)
}

/// Puts the container's null device in the place of the host's among the standard streams: a container that outlives its
/// launcher may be written to files, and only what is open of its own mounts can be (criu(8)). One that has no such device
/// keeps the host's.
fn take_own_null(hosts: BorrowedFd<'_>) -> io::Result<()> {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let [null, streams @ ..] = [hosts, stdin.as_fd(), stdout.as_fd(), stderr.as_fd()].map(device);
    let streams = streams.map(|stream| stream.is_some() && stream == null);
    if streams == [false; 3] {
        return Ok(());
    }
    let root = file::open(c"/", OFlag::O_PATH | OFlag::O_DIRECTORY, 0)?;
    let open = |flags| file::open_beneath(root.as_fd(), c"dev/null", flags, 0, Resolve::NoSymlinks).ok();
    // To open any other device could do harm.
    let is_null = |found: &OwnedFd| device(found.as_fd()) == null;
    let own = open(OFlag::O_PATH).filter(is_null).and_then(|_| open(OFlag::O_RDWR)).filter(is_null);
    let Some(own) = own else { return Ok(()) };
    if streams[0] {
        nix::unistd::dup2_stdin(&own)?;
    }
    if streams[1] {
        nix::unistd::dup2_stdout(&own)?;
    }
    if streams[2] {
        nix::unistd::dup2_stderr(&own)?;
    }
    Ok(())
}

/// The number of the character device that `fd` has open.
fn device(fd: BorrowedFd<'_>) -> Option<nix::libc::dev_t> {
    let found = nix::sys::stat::fstat(fd).ok()?;
    (found.st_mode & nix::libc::S_IFMT == nix::libc::S_IFCHR).then_some(found.st_rdev)
}

/// Takes on what the program is to have of CPUs, disks and memory, while the rights to it are still held.
fn take_schedule(process: &Process) -> Result<(), Failure> {
    if let Some(policy) = &process.scheduler {
        schedule::set_policy(policy).at(Stage::Scheduler)?;
    }
    if let Some(priority) = process.io_priority {
        schedule::set_io_priority(priority).at(Stage::IoPriority)?;
    }
    if let Some(domain) = process.personality {
        schedule::set_personality(domain).at(Stage::Personality)?;
    }
    if let Some(policy) = &process.memory_policy {
        schedule::set_memory_policy(policy.mode, &policy.nodes).at(Stage::MemoryPolicy)?;
    }
    Ok(())
}

/// Gives the program's user the streams that the runtime was passed, so that it can open them again by name; but not the null
/// device, which is everybody's.
fn give_stdio(process: &Process, null: BorrowedFd<'_>) -> io::Result<()> {
    let null = nix::sys::stat::fstat(null)?.st_rdev;
    for number in 0..3 {
        match process::give_descriptor(number, process.uid, null) {
            // Of a file system that knows no owners, cannot be written to, or has no room for this one.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(nix::libc::EINVAL | nix::libc::EPERM | nix::libc::EROFS)
                ) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Takes on limits, groups, user, working directory and capabilities, in the order in which each is still allowed.
fn become_user(process: &Process, channel: &Channel) -> Result<(), Failure> {
    // Most that is closed to the user is open to root; to some of it, such as a volume in a network, it is the other way round.
    let is_entered = match enter(&process.cwd) {
        Err(Failure { stage: Stage::Cwd, error, .. }) if error.kind() == io::ErrorKind::PermissionDenied => {
            false
        }
        entered => entered.map(|()| true)?,
    };
    for (index, (resource, soft, hard)) in process.rlimits.iter().enumerate() {
        let is_scarce = is_scarce(*resource, *soft);
        if is_scarce && *hard < DESCRIPTORS {
            continue;
        }
        let soft = if is_scarce { DESCRIPTORS } else { *soft };
        nix::sys::resource::setrlimit(*resource, soft, *hard).at_index(Stage::Rlimit, index)?;
    }
    for capability in &process.drop {
        process::drop_bounding(*capability).at(Stage::Bounding)?;
    }
    process::clear_ambient().at(Stage::Bounding)?;
    if let Some(groups) = &process.groups {
        let groups: Vec<Gid> = groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        nix::unistd::setgroups(&groups).at(Stage::Groups)?;
    }
    let (uid, gid) = (Uid::from_raw(process.uid), Gid::from_raw(process.gid));
    nix::unistd::setresgid(gid, gid, gid).at(Stage::Gid)?;
    process::keep_capabilities().at(Stage::Uid)?;
    nix::unistd::setresuid(uid, uid, uid).at(Stage::Uid)?;
    // Forgotten with the change of user; the parent may have died meanwhile.
    process::die_with_parent().at(Stage::Uid)?;
    channel.check_parent().at(Stage::Wait)?;
    set_capabilities(process).at(Stage::Capabilities)?;
    for capability in process.caps.ambient.numbers() {
        process::raise_ambient(capability).at(Stage::Ambient)?;
    }
    if !is_entered {
        enter(&process.cwd)?;
    }
    if process.no_new_privileges {
        process::set_no_new_privileges().at(Stage::NoNewPrivileges)?;
    }
    Ok(())
}

/// Limits the descriptors to fewer than it takes to get here.
fn limit_descriptors(process: &Process) -> Result<(), Failure> {
    let limits = process.rlimits.iter().enumerate();
    for (index, (resource, soft, hard)) in limits.filter(|(_, limit)| is_scarce(limit.0, limit.1)) {
        nix::sys::resource::setrlimit(*resource, *soft, *hard).at_index(Stage::Rlimit, index)?;
    }
    Ok(())
}

/// Whether a limit leaves too few descriptors for what is still to be done.
fn is_scarce(resource: Resource, soft: u64) -> bool {
    resource == Resource::RLIMIT_NOFILE && soft < DESCRIPTORS
}

/// Keeps the capabilities of the plan, and CAP_SYS_ADMIN while a filter is still to be installed.
///
/// The last does not reach the program: at execve(2) a user other than root loses what is permitted, and root gets the
/// bounding set, from which it is gone. Inheritable is what the plan says, for images nothing (CVE-2022-24769).
fn set_capabilities(process: &Process) -> io::Result<()> {
    let for_filter = match (&process.seccomp, process.no_new_privileges) {
        (Some(_), false) => CapSet::SYS_ADMIN.0 & process::capabilities()?.permitted,
        _ => 0,
    };
    let caps = process.caps;
    process::set_capabilities(Capabilities {
        effective: caps.effective.0 | for_filter,
        permitted: caps.permitted.0 | for_filter,
        inheritable: caps.inheritable.0,
    })
}

/// Enters the working directory and makes sure that it lies in the container: a working
/// directory such as `/proc/self/fd/7` must not lead to a host directory that was left open (CVE-2024-21626).
fn enter(cwd: &CStr) -> Result<(), Failure> {
    let root = file::open(c"/", OFlag::O_PATH | OFlag::O_DIRECTORY, 0).at(Stage::Cwd)?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let directory = file::open_beneath(root.as_fd(), cwd, flags, 0, Resolve::InRoot).at(Stage::Cwd)?;
    nix::unistd::fchdir(&directory).at(Stage::Cwd)?;
    let path = nix::unistd::getcwd().at(Stage::CwdOutside)?;
    if path.is_absolute() { Ok(()) } else { Err(nix::Error::ENOENT).at(Stage::CwdOutside) }
}

/// Splits in two: this process goes on in the child, the container's init is run in the parent.
///
/// The child waits until the init itself says that it runs, so that the first program of the container is always its init: the kernel
/// closes what is to be closed by execve(2) before it tells anybody of that.
fn fork_init(executable: BorrowedFd<'_>, process: &Process) -> Result<(), Failure> {
    let (wait, hold) = nix::unistd::pipe2(OFlag::O_CLOEXEC).at(Stage::Init)?;
    let Some(child) = process::fork().at(Stage::Init)? else {
        drop(hold);
        nix::unistd::read(&wait, &mut [0]).at(Stage::Init)?;
        process::die_with_parent().at(Stage::Init)?;
        take_terminal(process).at(Stage::Init)?;
        return Ok(());
    };
    nix::fcntl::fcntl(&hold, FcntlArg::F_SETFD(FdFlag::empty())).at(Stage::Init)?;
    let arguments = [child.to_string(), hold.as_raw_fd().to_string()];
    let arguments = arguments.map(|word| CString::new(word).unwrap_or_default());
    let arguments = [&[crate::init::NAME.into()], &arguments[..]].concat();
    // Until the init waits for signals they must stay pending: process 1 of a namespace loses what it has no handler for.
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None).at(Stage::Init)?;
    if let Some(filter) = &process.seccomp {
        seccomp::install(&filter.program, filter.flags).at(Stage::Seccomp)?;
    }
    Err(Failure { stage: Stage::Init, index: 0, error: process::exec_fd(executable, &arguments, &[]) })
}

/// Makes the program's process group the one in the foreground, so that the keyboard's signals go to it.
fn take_terminal(process: &Process) -> io::Result<()> {
    let own = nix::unistd::Pid::from_raw(0);
    nix::unistd::setpgid(own, own)?;
    if process.terminal.is_none() {
        return Ok(());
    }
    // A background process that sets the foreground group is stopped by SIGTTOU unless it blocks it.
    let mut ttou = SigSet::empty();
    ttou.add(Signal::SIGTTOU);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&ttou), None)?;
    nix::unistd::tcsetpgrp(io::stdin(), nix::unistd::getpid())?;
    Ok(sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&ttou), None)?)
}

/// Whether there is a program to run, as [`exec`] looks for it; the error that it would return if not.
fn look_up(plan: &Process) -> io::Result<()> {
    let program = &plan.argv[0];
    if program.is_empty() {
        return Err(io::Error::from_raw_os_error(nix::libc::ENOENT));
    }
    if program.to_bytes().contains(&b'/') {
        return can_run(program);
    }
    let mut result = Err(io::Error::from_raw_os_error(nix::libc::ENOENT));
    for directory in &plan.path {
        let path = [directory.to_bytes(), b"/", program.to_bytes()].concat();
        let found = can_run(&CString::new(path)?);
        match found.as_ref().map_err(io::Error::raw_os_error) {
            Err(Some(nix::libc::ENOENT | nix::libc::ENOTDIR)) => {}
            Err(Some(nix::libc::EACCES)) => result = found,
            _ => return found,
        }
    }
    result
}

/// Whether this process may run the file `path`. faccessat2(2), Linux ≥ 5.8; the C library has a way around below that.
fn can_run(path: &CStr) -> io::Result<()> {
    let mode = nix::sys::stat::stat(path)?.st_mode;
    if mode & nix::libc::S_IFMT != nix::libc::S_IFREG {
        return Err(io::Error::from_raw_os_error(nix::libc::EACCES));
    }
    Ok(nix::unistd::faccessat(nix::fcntl::AT_FDCWD, path, AccessFlags::X_OK, AtFlags::AT_EACCESS)?)
}

/// Runs `argv`, looked for in `path` if its name has no slash. Returns the most telling error.
fn exec(argv: &[CString], env: &[CString], path: &[CString]) -> io::Error {
    let program = &argv[0];
    if program.is_empty() {
        // Else each directory of `PATH` would be found, and could not be run.
        return io::Error::from_raw_os_error(nix::libc::ENOENT);
    }
    if program.to_bytes().contains(&b'/') {
        return process::exec(program, argv, env);
    }
    let mut result = io::Error::from_raw_os_error(nix::libc::ENOENT);
    for directory in path {
        let path = [directory.to_bytes(), b"/", program.to_bytes()].concat();
        let Ok(path) = CString::new(path) else { continue };
        let error = process::exec(&path, argv, env);
        match error.raw_os_error() {
            Some(nix::libc::ENOENT | nix::libc::ENOTDIR) => {}
            Some(nix::libc::EACCES) => result = error,
            _ => return error,
        }
    }
    result
}
