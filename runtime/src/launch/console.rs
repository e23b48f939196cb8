//! The console socket: where the master of a container's terminal goes whose runtime does not stay.
//!
//! The protocol of runc: one message on a stream socket, the descriptor beside the name that it has in this process.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::Error;
use crate::error::Context;

/// A connection to one.
#[derive(Debug)]
pub(super) struct Socket {
    path: PathBuf,
    stream: UnixStream,
}

/// Connects, while the path still means what the caller says.
pub(super) fn connect(path: &Path) -> Result<Socket, Error> {
    let stream =
        UnixStream::connect(path).context(|| format!("connect to console socket {}", path.display()))?;
    Ok(Socket { path: path.into(), stream })
}

impl Socket {
    /// Hands over the master of a terminal.
    pub(super) fn send(self, master: BorrowedFd<'_>) -> Result<(), Error> {
        const NAME: &[u8] = b"/dev/ptmx";
        let descriptors = [master.as_raw_fd()];
        let control = [ControlMessage::ScmRights(&descriptors)];
        let data = [IoSlice::new(NAME)];
        let sent = sendmsg::<()>(self.stream.as_raw_fd(), &data, &control, MsgFlags::MSG_NOSIGNAL, None);
        sent.map(drop).context(|| format!("send the terminal to {}", self.path.display()))
    }
}
