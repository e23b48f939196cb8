//! Processes: birth into a cgroup, pidfds, and what a child gives up before it runs a stranger's program.

mod capabilities;
mod clone;
mod descriptors;
mod pidfd;
mod stack;

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal};

pub use capabilities::{
    Capabilities, bounding_of, bounding_set, capabilities, clear_ambient, drop_bounding, keep_capabilities,
    raise_ambient, set_capabilities,
};
pub use clone::{Child, Memory, exit_now, fork, spawn, spawn_from, spawn_with_descriptors};
#[cfg(target_arch = "x86_64")]
pub(crate) use clone::{CloneArgs, clone3_onto};
pub use descriptors::{
    cloexec_from, close_in_child, close_others_in_child, descriptor_flags, give_descriptor,
    set_descriptor_flags, take_descriptors_below,
};
#[cfg(target_arch = "x86_64")]
pub(crate) use pidfd::own;
pub use pidfd::{Exit, Stat, cgroup_of, exit_of, mount_namespace, open_pidfd, peek, reap, send_signal, stat};

/// Kill this process when its parent ends. prctl(2); forgotten by the kernel when credentials change.
pub fn die_with_parent() -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL.cast_unsigned().into())
}

/// Takes [`die_with_parent`] back, also where a change of credentials has not.
pub fn outlive_parent() -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, 0)
}

/// No program run from here on gains privileges. prctl(2) `PR_SET_NO_NEW_PRIVS`.
pub fn set_no_new_privileges() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
}

/// Makes the process's memory and `/proc` entries inaccessible to others of its user. prctl(2) `PR_SET_DUMPABLE`.
pub fn set_undumpable() -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 0)
}

/// Sets the NIS domain name of the caller's UTS namespace. setdomainname(2), CAP_SYS_ADMIN over that namespace.
pub fn set_domain_name(name: &CStr) -> io::Result<()> {
    // SAFETY: reads as many bytes as are told, all of them `name`'s.
    let result = unsafe { libc::setdomainname(name.as_ptr(), name.count_bytes()) };
    check(result.into())
}

/// Lets children be waited for, whatever the caller of this program has set: where SIGCHLD is ignored, they vanish. wait(2).
pub fn keep_children() -> io::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default action runs no code of this process.
    unsafe { nix::sys::signal::sigaction(Signal::SIGCHLD, &default) }?;
    Ok(())
}

/// Gives every signal its default action. sigaction(2).
pub fn default_signals() -> io::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator().filter(|signal| !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP)) {
        // SAFETY: the default action runs no code of this process.
        unsafe { nix::sys::signal::sigaction(signal, &default) }?;
    }
    Ok(())
}

/// Gives up the session keyring of the caller for a new, empty one. keyctl(2).
///
/// A kernel without keyrings (`ENOSYS`) has nothing to give up.
pub fn new_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    let result = unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>())
    };
    match check(result) {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        other => other,
    }
}

/// Runs `program` in the place of this process; returns only on failure. execve(2).
pub fn exec(program: &CStr, arguments: &[CString], environment: &[CString]) -> io::Error {
    match nix::unistd::execve(program, arguments, environment) {
        Ok(never) => match never {},
        Err(error) => error.into(),
    }
}

/// As [`exec`], for the program that `file` has open. execveat(2) with `AT_EMPTY_PATH`, Linux ≥ 3.19.
pub fn exec_fd(file: BorrowedFd<'_>, arguments: &[CString], environment: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| {
        strings.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: both arrays end in null and point to NUL-terminated strings that the caller's slices keep alive.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

fn prctl(option: libc::c_int, value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: every option that this module passes takes integers only.
    let result = unsafe { libc::prctl(option, value, 0, 0, 0) };
    check(result.into())
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
