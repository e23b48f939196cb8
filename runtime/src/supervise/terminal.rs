//! The caller's terminal while a container has one of its own.

use std::io::{self, IsTerminal};
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::termios::{self, SetArg, Termios};
use skiff_sys::terminal as pty;

use super::Caller;
use crate::Error;

/// Refuses `-i -t` when standard input is no terminal: what is piped in would be edited and echoed as if typed.
pub fn check(interactive: bool, tty: bool) -> Result<(), Error> {
    if interactive && tty && !io::stdin().is_terminal() {
        return Err(Error::Option("standard input is not a terminal: leave out -t, or -i".into()));
    }
    Ok(())
}

/// The link between the caller's terminal and the container's.
#[derive(Debug)]
pub(super) struct Session<'a> {
    console: BorrowedFd<'a>,
    caller: Caller<'a>,
    /// The other end of the console. While skiff holds it too, a program that closes all of its streams and opens
    /// `/dev/console` later does not look like the end.
    _peer: OwnedFd,
    raw: Option<Raw<'a>>,
}

impl<'a> Session<'a> {
    /// Gives the console the size of the caller's terminal and, if its input is passed on, makes that raw.
    pub(super) fn open(console: BorrowedFd<'a>, caller: Caller<'a>, interactive: bool) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(console, FcntlArg::F_GETFL)?);
        fcntl(console, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        let peer = pty::open_peer(console)?;
        let raw =
            if interactive && caller.stdin.is_terminal() { Some(Raw::enter(caller.stdin)?) } else { None };
        let session = Self { console, caller, _peer: peer, raw };
        session.resize();
        Ok(session)
    }

    /// Whether every key that is typed is passed on.
    pub(super) fn is_raw(&self) -> bool {
        self.raw.is_some()
    }

    /// Takes over the size of the caller's terminal, if there is one.
    pub(super) fn resize(&self) {
        let size = pty::size(self.caller.stdout).or_else(|_| pty::size(self.caller.stdin));
        if let Ok(size) = size
            && let Err(error) = pty::set_size(self.console, size)
        {
            tracing::debug!(%error, "resize");
        }
    }

    /// Makes up for what happened to the terminal while skiff was stopped: the shell has reset it.
    pub(super) fn resume(&self) {
        if let Some(raw) = &self.raw {
            raw.apply();
        }
        self.resize();
    }

    /// Lets go of the console's other end, so that reading the console comes to an end; the terminal stays raw.
    pub(super) fn release_peer(self) -> Option<Raw<'a>> {
        self.raw
    }
}

/// A terminal in raw mode; as it was before when dropped. termios(3).
#[derive(Debug)]
pub struct Raw<'a> {
    terminal: BorrowedFd<'a>,
    before: Termios,
}

impl<'a> Raw<'a> {
    /// Makes `terminal` raw. Errors: `ENOTTY` if it is none.
    pub fn enter(terminal: BorrowedFd<'a>) -> io::Result<Self> {
        let raw = Self { terminal, before: termios::tcgetattr(terminal)? };
        raw.apply();
        Ok(raw)
    }

    /// Makes it raw again, after a shell has reset it.
    pub fn apply(&self) {
        let mut settings = self.before.clone();
        termios::cfmakeraw(&mut settings);
        if let Err(error) = termios::tcsetattr(self.terminal, SetArg::TCSANOW, &settings) {
            tracing::debug!(%error, "raw mode");
        }
    }
}

impl Drop for Raw<'_> {
    fn drop(&mut self) {
        // A terminal that cannot be restored is one that is gone.
        let _gone = termios::tcsetattr(self.terminal, SetArg::TCSADRAIN, &self.before);
    }
}
