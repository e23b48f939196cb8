//! The signals that skiff gets, as something to poll.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Signals that keep their usual effect: skiff's own faults, and those that say nothing to a container.
const LEFT_ALONE: [Signal; 10] = [
    Signal::SIGABRT,
    Signal::SIGBUS,
    Signal::SIGCHLD,
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGPIPE,
    Signal::SIGSEGV,
    Signal::SIGSYS,
    Signal::SIGTRAP,
    Signal::SIGURG,
];

/// All other signals, blocked and to be read by [`Signals::take`]; as before when dropped.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
    before: SigSet,
}

impl Signals {
    /// Blocks the signals from here on. signalfd(2).
    ///
    /// A process forked afterwards inherits the mask; the launch empties it before the program runs.
    pub fn block() -> io::Result<Self> {
        let mut set = SigSet::all();
        for signal in LEFT_ALONE {
            set.remove(signal);
        }
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let before = set.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK)?;
        Ok(Self { fd, before })
    }

    /// The signals that have come since the last time, by number; does not wait. Errors: those of read(2).
    pub fn take(&self) -> io::Result<Vec<i32>> {
        let mut taken = Vec::new();
        while let Some(info) = self.fd.read_signal()? {
            taken.extend(i32::try_from(info.ssi_signo));
        }
        Ok(taken)
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Signals {
    /// What came too late to be taken has nobody left to go to, and must not kill skiff while it cleans up.
    fn drop(&mut self) {
        while matches!(self.fd.read_signal(), Ok(Some(_))) {}
        let restored = self.before.thread_set_mask();
        debug_assert!(restored.is_ok(), "a mask that was read can be set");
    }
}
