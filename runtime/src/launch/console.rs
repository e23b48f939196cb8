//! Terminals of a container, and where their masters go when the runtime does not stay.
//!
//! The console socket's protocol is runc's: one message on a stream socket, the descriptor beside its name.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::statfs::{FsType, fstatfs};
use skiff_sys::file::{self, Resolve};
use skiff_sys::terminal::{self, Size};

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
        let what = || format!("send the terminal to {}", self.path.display());
        sent.context(what)?;
        // The child has the connection too, as long as it waits to be started: whoever reads is told that no more comes.
        self.stream.shutdown(Shutdown::Write).context(what)
    }
}

/// Hands over the master of a terminal to whoever listens at `socket`.
pub fn send(socket: &Path, master: BorrowedFd<'_>) -> Result<(), Error> {
    connect(socket)?.send(master)
}

/// Makes a terminal in the devpts that lies below `root`, a container's: its master and its other end.
///
/// Errors: `ENOTTY` if something else has been put there.
pub(super) fn make(root: BorrowedFd<'_>, size: Option<Size>) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY;
    let master = file::open_beneath(root, c"dev/pts/ptmx", flags, 0, Resolve::NoSymlinks)?;
    // Where a mount has replaced `/dev`, this may be anything.
    if fstatfs(&master)?.filesystem_type() != DEVPTS_MAGIC {
        return Err(io::Error::from_raw_os_error(nix::libc::ENOTTY));
    }
    let peer = terminal::open_peer(master.as_fd())?;
    if let Some(size) = size {
        terminal::set_size(master.as_fd(), size)?;
    }
    Ok((master, peer))
}

/// Documented nowhere but in the kernel's `include/uapi/linux/magic.h`.
const DEVPTS_MAGIC: FsType = FsType(0x1cd1);
