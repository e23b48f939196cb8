//! The daemon's end of the socket to its spawner.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, connect, socket, socketpair};

use super::{NAME, Order, Report, SOCKET, wire};
use crate::launch::socket_at;

/// One end of the socket. Nothing waits: [`Client::fd`] tells when there is something to be received, or room to send.
#[derive(Debug)]
pub struct Client(OwnedFd);

impl Client {
    /// Starts a spawner, whose executable is `executable`, for containers below these roots.
    ///
    /// Where they say nothing of it, containers may have `open_files` files open each, or as many as the spawner itself may:
    /// its caller has raised its own limit, perhaps.
    ///
    /// It is a child of the caller, as its containers are if it should die and the caller is a subreaper
    /// (`PR_SET_CHILD_SUBREAPER`, prctl(2)): the caller has to reap it.
    pub fn start(
        executable: &Path,
        state_root: &Path,
        run_root: &Path,
        open_files: u64,
    ) -> io::Result<(Self, Child)> {
        let (own, its) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let mut command = Command::new(executable);
        command.arg0(NAME).arg(state_root).arg(run_root).arg(open_files.to_string());
        command.current_dir("/").stdin(its);
        Ok((Self(own), command.spawn()?))
    }

    /// Connects to the spawner that an earlier daemon has left; `None` if there is none.
    pub fn connect(run_root: &Path) -> io::Result<Option<Self>> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let own = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        match socket_at(run_root, SOCKET, |address| Ok(connect(own.as_raw_fd(), address)?)) {
            Ok(()) => Ok(Some(Self(own))),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The socket.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Sends an order with its descriptors.
    ///
    /// Errors: `WouldBlock` while the spawner has enough to do; `BrokenPipe` if it is gone, `ConnectionReset` likewise.
    pub fn send(&self, order: &Order, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        wire::send(self.fd(), order, descriptors)
    }

    /// Takes the next report with its descriptors; `None` if the spawner is gone.
    ///
    /// Errors: `WouldBlock` while there is none.
    pub fn receive(&self) -> io::Result<Option<(Report, Vec<OwnedFd>)>> {
        wire::receive(self.fd())
    }
}
