//! `--pidfd-socket`: a descriptor of the process for whoever is not its parent. pidfd_open(2).
//!
//! The protocol is runc's: one message on a stream socket, the descriptor beside a word that says what the process is.

use std::io::IoSlice;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::failure::{Context, Failure};

/// What the process is, in runc's words.
pub(crate) const FIRST: &str = "standard";
pub(crate) const ANOTHER: &str = "setns";

/// A connection to whoever wants the descriptor, if anybody does.
#[derive(Debug)]
pub(crate) struct Socket(Option<(PathBuf, UnixStream)>);

impl Socket {
    /// Connects before anything is made: a socket that is not there costs nobody a container.
    pub(crate) fn connect(path: Option<&Path>) -> Result<Self, Failure> {
        let connect = |path: &Path| {
            let stream = UnixStream::connect(path);
            stream
                .map(|stream| (path.to_owned(), stream))
                .context(|| format!("connect to pidfd socket {}", path.display()))
        };
        Ok(Self(path.map(connect).transpose()?))
    }

    /// Hands the descriptor over.
    pub(crate) fn send(self, pidfd: BorrowedFd<'_>, what: &str) -> Result<(), Failure> {
        let Some((path, stream)) = self.0 else { return Ok(()) };
        let descriptors = [pidfd.as_raw_fd()];
        let control = [ControlMessage::ScmRights(&descriptors)];
        let data = [IoSlice::new(what.as_bytes())];
        let sent = sendmsg::<()>(stream.as_raw_fd(), &data, &control, MsgFlags::MSG_NOSIGNAL, None);
        let to = || format!("send the process to {}", path.display());
        sent.context(to)?;
        // A child that waits to be started has the connection too: whoever reads is told that no more comes.
        stream.shutdown(Shutdown::Write).context(to)
    }
}
