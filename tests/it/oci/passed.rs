//! Descriptors that a runtime passes to others by a Unix socket: consoles and seccomp listeners.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, RecvMsg, recvmsg};

use super::stream::await_input;
use crate::harness::time_limit;

/// A socket that waits for a runtime.
#[derive(Debug)]
pub(crate) struct Receiver {
    listener: UnixListener,
    pub(crate) path: PathBuf,
}

/// What came by one connection.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) text: String,
    pub(crate) fds: Vec<OwnedFd>,
}

impl Receiver {
    pub(crate) fn new(path: &Path) -> Self {
        let listener = UnixListener::bind(path).expect("bind a socket");
        Self { listener, path: path.to_owned() }
    }

    /// The path as an argument.
    pub(crate) fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Takes one connection and everything it brings, up to its end.
    #[track_caller]
    pub(crate) fn receive(&self) -> Parcel {
        self.take(|_| false)
    }

    /// Takes one connection and what it brings up to the first descriptor.
    #[track_caller]
    pub(crate) fn receive_descriptor(&self) -> OwnedFd {
        self.take(|parcel| !parcel.fds.is_empty()).fds.pop().expect("a descriptor comes before the end")
    }

    #[track_caller]
    fn take(&self, enough: impl Fn(&Parcel) -> bool) -> Parcel {
        let deadline = Instant::now() + time_limit();
        assert!(await_input(&self.listener, deadline), "nobody connects to {}", self.name());
        let (stream, _) = self.listener.accept().expect("accept");
        let mut parcel = Parcel { text: String::new(), fds: Vec::new() };
        while !enough(&parcel) && receive_some(&stream, &mut parcel, deadline) {}
        parcel
    }

    /// Whether anybody has connected.
    pub(crate) fn is_called(&self) -> bool {
        await_input(&self.listener, Instant::now())
    }
}

#[track_caller]
fn receive_some(stream: &UnixStream, parcel: &mut Parcel, deadline: Instant) -> bool {
    assert!(await_input(stream, deadline), "the connection stays open; so far: {parcel:?}");
    let mut bytes = [0; 65536];
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let mut space = nix::cmsg_space!([i32; 8]);
    let message: RecvMsg<'_, '_, ()> =
        recvmsg(stream.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)
            .expect("receive");
    for control in message.cmsgs().expect("whole control messages") {
        if let ControlMessageOwned::ScmRights(fds) = control {
            // SAFETY: the kernel has just installed them here; nobody else owns them.
            parcel.fds.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    let count = message.bytes;
    parcel.text.push_str(&String::from_utf8_lossy(&bytes[..count]));
    count > 0
}
