//! The container's process 1 under `--init`: forwards signals to the program and reaps orphans.
//!
//! It is skiff's own executable, run from where nothing can be written to it (`sys::self_exe`), under the container's
//! user, capabilities and filter. It ends with its child's code, 128 + n for signal n.

use std::ffi::{CStr, OsString};
use std::io;

use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// The name under which skiff is this init: its first argument.
pub const NAME: &CStr = c"skiff-init";

/// Looks after a process, and returns the exit code when it has ended. `words` are its id, and the descriptor that it waits to be closed.
///
/// Errors: `EINVAL` for other words.
pub fn run(words: impl Iterator<Item = OsString>) -> io::Result<u8> {
    let numbers = words.map(|word| word.to_str()?.parse().ok()).collect::<Option<Vec<i32>>>();
    let Some([child, gate]) = numbers.as_deref() else { return Err(nix::Error::EINVAL.into()) };
    nix::unistd::close(*gate)?;
    let child = Pid::from_raw(*child);
    // A program executed by its descriptor is named after that, or after its file.
    nix::sys::prctl::set_name(NAME)?;
    let mut waited = SigSet::all();
    // Faults of the init itself are not for the child.
    for fault in
        [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE, Signal::SIGABRT, Signal::SIGTRAP]
    {
        waited.remove(fault);
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&waited), None)?;
    loop {
        if let Some(code) = reap(child)? {
            return Ok(code);
        }
        match waited.wait()? {
            Signal::SIGCHLD => {}
            signal => match kill(child, signal) {
                Ok(()) | Err(nix::Error::ESRCH) => {}
                Err(error) => return Err(error.into()),
            },
        }
    }
}

/// Reaps all that have ended; the code if `child` is among them.
fn reap(child: Pid) -> io::Result<Option<u8>> {
    let mut code = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) if pid == child => {
                code = Some(u8::try_from(status & 0xff).unwrap_or(u8::MAX));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                code = Some(u8::try_from(128 + signal as i32).unwrap_or(u8::MAX));
            }
            Ok(WaitStatus::StillAlive) | Err(nix::Error::ECHILD) => return Ok(code),
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_are_no_process_and_descriptor_are_refused() {
        for words in [&[][..], &["2"], &["2", "x"], &["2", "3", "4"]] {
            let error = run(words.iter().map(OsString::from)).expect_err("an error");
            assert_eq!(error.raw_os_error(), Some(nix::libc::EINVAL), "{words:?}");
        }
    }
}
