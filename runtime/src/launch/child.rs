//! The child: from its first instruction to the container's program.
//!
//! Interprets the plan and decides nothing. Nothing but this module (and `tree`, the file tree's part of it) runs
//! between clone and exec. One thread, no logging; a failure is left in the page and the parent makes the sentence.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid};
use skiff_sys::file::{self, Resolve};
use skiff_sys::process::{self, Capabilities, Memory};
use skiff_sys::{mount, net, seccomp, terminal};

use super::prepare::Prepared;
use super::sync::{At, Channel, Failure, Page, Stage};
use super::tree::Tree;
use crate::caps::CapSet;
use crate::cgroup::Cgroup;
use crate::plan::{Hide, Plan, Process};

/// What the child has to work with.
#[derive(Debug)]
pub(super) struct Launch<'a> {
    pub(super) plan: &'a Plan,
    pub(super) prepared: &'a Prepared,
    pub(super) cgroup: &'a Cgroup,
    pub(super) channel: &'a Channel,
    pub(super) page: &'a Page,
    pub(super) memory: Memory,
}

/// Runs the plan. Returns, with the exit code for the child, only if that fails.
pub(super) fn run(launch: &Launch<'_>) -> u8 {
    launch.page.child_runs();
    match carry_out(launch) {
        Ok(never) => match never {},
        Err(failure) => {
            launch.page.fail(&failure);
            match failure.error.raw_os_error() {
                Some(nix::libc::ENOENT | nix::libc::ENOTDIR) => 127,
                _ => 126,
            }
        }
    }
}

fn carry_out(launch: &Launch<'_>) -> Result<std::convert::Infallible, Failure> {
    let Launch { plan, prepared, cgroup, channel, page, memory } = *launch;
    // 1. The parent has done its part; if it dies from here on, so does this process.
    process::die_with_parent().at(Stage::Wait)?;
    match memory {
        Memory::Copied => channel.receive_go(),
        Memory::Shared => channel.check_parent(),
    }
    .at(Stage::Wait)?;
    reset_signals().at(Stage::Wait)?;
    for tasks in cgroup.legacy_tasks() {
        nix::unistd::write(tasks, b"0").at(Stage::Cgroup)?;
    }
    if plan.cgroup_namespace {
        // Not at birth: the namespace's root would be the parent's cgroup.
        unshare(CloneFlags::CLONE_NEWCGROUP).at(Stage::CgroupNamespace)?;
    }
    nix::unistd::setsid().at(Stage::Stdio)?;
    umask(Mode::empty());

    let console = build_tree(plan, prepared, channel)?;
    page.mounts_done();

    process::new_session_keyring().at(Stage::Keyring)?;
    take_stdio(&plan.process, prepared, console.as_ref()).at(Stage::Stdio)?;
    process::cloexec_from(3).at(Stage::Stdio)?;
    umask(Mode::from_bits_truncate(0o022));
    // From here on another container's root, in a shared PID namespace, could have as many capabilities as this process
    // and look into it. The program's own execve lifts this again.
    process::set_undumpable().at(Stage::Capabilities)?;
    become_user(&plan.process, channel)?;
    if let Some(executable) = &prepared.executable {
        fork_init(executable.as_fd(), &plan.process)?;
    }
    page.security_done();
    if let Some(filter) = &plan.process.seccomp {
        // Last, so that the filter need not allow anything that is done above.
        seccomp::install(&filter.program, filter.flags).at(Stage::Seccomp)?;
    }
    Err(Failure { stage: Stage::Exec, index: 0, error: exec(&plan.process) })
}

/// Mounts the container's files and makes them `/`; returns the container's end of its terminal.
fn build_tree(plan: &Plan, prepared: &Prepared, channel: &Channel) -> Result<Option<OwnedFd>, Failure> {
    let flags = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
    nix::mount::mount(None::<&CStr>, c"/", None::<&CStr>, flags, None::<&CStr>).at(Stage::Propagation)?;
    let mut tree = Tree::mount_root(plan, prepared).at(Stage::Root)?;
    for index in 0..plan.steps.len() {
        tree.step(index).at_index(Stage::Step, index)?;
    }
    let console = match plan.process.terminal {
        Some(size) => Some(tree.console(size, channel).at(Stage::Console)?),
        None => None,
    };
    set_kernel_parameters(plan, &tree)?;
    for (index, hide) in plan.hide.iter().enumerate() {
        match hide {
            Hide::Mask(path) => tree.mask(path),
            Hide::ReadOnly(path) => tree.read_only(path),
        }
        .at_index(Stage::Hide, index)?;
    }
    if plan.root.read_only {
        mount::restrict(tree.root(), mount::Attr::RDONLY, false).at(Stage::RootReadOnly)?;
    }
    pivot(tree.root()).at(Stage::Pivot)?;
    Ok(console)
}

/// Makes `root` the root of this process and detaches the host's. pivot_root(2): with both arguments `.` the old root
/// ends up on top of the new one, from where it is unmounted, so no directory is needed for it.
fn pivot(root: BorrowedFd<'_>) -> io::Result<()> {
    nix::unistd::fchdir(root)?;
    nix::unistd::pivot_root(c".", c".")?;
    nix::mount::umount2(c".", nix::mount::MntFlags::MNT_DETACH)?;
    Ok(nix::unistd::chdir(c"/")?)
}

/// Loopback, host and domain name, `/proc/sys` and the OOM score, the last two through the container's own procfs.
fn set_kernel_parameters(plan: &Plan, tree: &Tree<'_>) -> Result<(), Failure> {
    if plan.loopback {
        net::loopback_up().at(Stage::Loopback)?;
    }
    if let Some(name) = &plan.hostname {
        nix::unistd::sethostname(as_os(name)).at(Stage::Hostname)?;
    }
    if let Some(name) = &plan.domainname {
        process::set_domain_name(name).at(Stage::Domainname)?;
    }
    for (index, (key, value)) in plan.sysctls.iter().enumerate() {
        let path = CString::new([b"sys/", key.to_bytes()].concat()).map_err(io::Error::from);
        let path = path.at_index(Stage::Sysctl, index)?;
        tree.proc().and_then(|proc| write_below(proc, &path, value)).at_index(Stage::Sysctl, index)?;
    }
    if let Some(score) = &plan.process.oom_score_adj {
        let path = CString::new(format!("{}/oom_score_adj", nix::unistd::getpid())).unwrap_or_default();
        tree.proc().and_then(|proc| write_below(proc, &path, score)).at(Stage::OomScore)?;
    }
    Ok(())
}

/// Writes a file of the procfs `proc` itself, never of something mounted over it or linked to (CVE-2025-52881).
fn write_below(proc: BorrowedFd<'_>, path: &CStr, value: &CStr) -> io::Result<()> {
    let file = file::open_beneath(proc, path, OFlag::O_WRONLY, 0, Resolve::NoXdev)?;
    let written = nix::unistd::write(&file, value.to_bytes())?;
    if written == value.count_bytes() { Ok(()) } else { Err(io::Error::from_raw_os_error(nix::libc::EIO)) }
}

/// Default actions and an empty mask, whatever skiff's caller and Rust's start-up have set.
fn reset_signals() -> io::Result<()> {
    process::default_signals()?;
    Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?)
}

/// Puts the standard streams in place: the terminal, or the caller's, with `/dev/null` for input that is not wanted.
fn take_stdio(process: &Process, prepared: &Prepared, console: Option<&OwnedFd>) -> io::Result<()> {
    if let Some(console) = console {
        terminal::make_controlling(console.as_fd())?;
        // The program's user must be able to open its terminal by name.
        nix::unistd::fchown(console, Some(Uid::from_raw(process.uid)), None)?;
        nix::unistd::dup2_stdin(console)?;
        nix::unistd::dup2_stdout(console)?;
        nix::unistd::dup2_stderr(console)?;
    } else if !process.interactive {
        nix::unistd::dup2_stdin(&prepared.null)?;
    }
    Ok(())
}

/// Takes on limits, groups, user, working directory and capabilities, in the order in which each is still allowed.
fn become_user(process: &Process, channel: &Channel) -> Result<(), Failure> {
    for (index, (resource, soft, hard)) in process.rlimits.iter().enumerate() {
        nix::sys::resource::setrlimit(*resource, *soft, *hard).at_index(Stage::Rlimit, index)?;
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
    enter(&process.cwd)?;
    if process.no_new_privileges {
        process::set_no_new_privileges().at(Stage::NoNewPrivileges)?;
    }
    Ok(())
}

/// Keeps the capabilities of the plan, and CAP_SYS_ADMIN while a filter is still to be installed.
///
/// The last does not reach the program: at execve(2) a user other than root loses what is permitted, and root gets the
/// bounding set, from which it is gone. Nothing is inheritable (CVE-2022-24769).
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

/// Enters the working directory, as the program's user, and makes sure that it lies in the container: a working
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
/// The child waits until the init runs, so that the first program of the container is always its init.
fn fork_init(executable: BorrowedFd<'_>, process: &Process) -> Result<(), Failure> {
    let (wait, hold) = nix::unistd::pipe2(OFlag::O_CLOEXEC).at(Stage::Init)?;
    let Some(child) = process::fork().at(Stage::Init)? else {
        drop(hold);
        nix::unistd::read(&wait, &mut [0]).at(Stage::Init)?;
        process::die_with_parent().at(Stage::Init)?;
        take_terminal(process).at(Stage::Init)?;
        return Ok(());
    };
    // Until the init waits for signals they must stay pending: process 1 of a namespace loses what it has no handler for.
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None).at(Stage::Init)?;
    if let Some(filter) = &process.seccomp {
        seccomp::install(&filter.program, filter.flags).at(Stage::Seccomp)?;
    }
    let arguments = [crate::init::NAME.into(), CString::new(child.to_string()).unwrap_or_default()];
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

/// Runs the program, looked for in `PATH` if its name has no slash. Returns the most telling error.
fn exec(plan: &Process) -> io::Error {
    let program = &plan.argv[0];
    if program.is_empty() {
        // Else each directory of `PATH` would be found, and could not be run.
        return io::Error::from_raw_os_error(nix::libc::ENOENT);
    }
    if program.to_bytes().contains(&b'/') {
        return process::exec(program, &plan.argv, &plan.env);
    }
    let mut result = io::Error::from_raw_os_error(nix::libc::ENOENT);
    for directory in &plan.path {
        let path = [directory.to_bytes(), b"/", program.to_bytes()].concat();
        let Ok(path) = CString::new(path) else { continue };
        let error = process::exec(&path, &plan.argv, &plan.env);
        match error.raw_os_error() {
            Some(nix::libc::ENOENT | nix::libc::ENOTDIR) => {}
            Some(nix::libc::EACCES) => result = error,
            _ => return error,
        }
    }
    result
}

fn as_os(text: &CStr) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(text.to_bytes())
}
