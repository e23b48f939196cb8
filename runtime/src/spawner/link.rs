//! The connection to a daemon: what it has still to be told.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::accounts::Accounts;
use super::{Order, Report, wire};

/// One connection.
#[derive(Debug)]
pub(super) struct Link {
    socket: OwnedFd,
    /// Tells orders of this connection from those of others.
    pub(super) number: u64,
    untold: VecDeque<Untold>,
}

#[derive(Debug)]
enum Untold {
    Report(Report, Vec<OwnedFd>),
    /// A container of the accounts, as it is when its turn has come.
    Kept(String),
}

impl Link {
    pub(super) fn new(socket: OwnedFd, number: u64) -> Self {
        Self { socket, number, untold: VecDeque::new() }
    }

    /// Tells the daemon who it speaks to.
    pub(super) fn greet(&mut self) {
        let (version, pid) = (env!("CARGO_PKG_VERSION").to_owned(), nix::unistd::getpid().as_raw());
        let executable = skiff_sys::self_exe::identity();
        self.tell(Report::Hello { version, executable, pid }, Vec::new());
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// How many reports wait for the daemon to read.
    pub(super) fn backlog(&self) -> usize {
        self.untold.len()
    }

    /// The next order; see [`wire::receive`].
    pub(super) fn receive(&self) -> io::Result<Option<(Order, Vec<OwnedFd>)>> {
        wire::receive(self.fd())
    }

    pub(super) fn tell(&mut self, report: Report, descriptors: Vec<OwnedFd>) {
        self.untold.push_back(Untold::Report(report, descriptors));
    }

    /// Tells of all containers.
    pub(super) fn tell_all(&mut self, accounts: &Accounts) {
        self.untold.extend(accounts.ids().cloned().map(Untold::Kept));
        self.tell(Report::Listed, Vec::new());
    }

    /// Sends as much as the daemon takes.
    ///
    /// Errors: it is gone.
    pub(super) fn flush(&mut self, accounts: &Accounts) -> io::Result<()> {
        while let Some(next) = self.untold.front() {
            let sent = match next {
                Untold::Report(report, descriptors) => self.send(report, descriptors),
                Untold::Kept(id) => match accounts.get(id) {
                    Some(account) => {
                        let (id, pid, note, end) =
                            (id.clone(), account.pid, account.note.clone(), account.end);
                        self.send(&Report::Kept { id, pid, note, end }, &account.kept)
                    }
                    None => Ok(()),
                },
            };
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // Too many descriptors are on their way already (unix(7)): told again once some have been taken.
                Err(error) if error.raw_os_error() == Some(nix::libc::ETOOMANYREFS) => return Ok(()),
                other => other?,
            }
            self.untold.pop_front();
        }
        Ok(())
    }

    fn send(&self, report: &Report, descriptors: &[OwnedFd]) -> io::Result<()> {
        let descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        wire::send(self.fd(), report, &descriptors)
    }
}
