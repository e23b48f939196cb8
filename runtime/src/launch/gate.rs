//! The gate between creating a container and starting it.
//!
//! `create` binds a SEQPACKET socket, `<container directory>/start.sock`, before the clone. The child, once nothing is
//! left to do but what belongs to the start, tells its parent `waiting`, drops its bond to it and accepts. `start`
//! connects and says `go`; the child hands over the page, carries out the rest, and execs, which closes the connection:
//! so whoever starts learns of a program that could not be run.
//!
//! ```text
//! bound ── child accepts ──► waiting ── go ──► opened ── exec ──► the socket listens no longer
//!                               ▲  connection without go │
//!                               └─────────────────────────┘
//! ```
//!
//! A connection that closes without a word changes nothing: so [`is_waiting`] asks, and a `start` that is killed before
//! it has said `go` leaves the container as it was. The socket's file says nothing, it outlives the gate.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, connect, listen, socket,
};

use super::listener;
use super::report;
use super::sync::{Channel, Message, Page};
use crate::Error;
use crate::error::Context;
use crate::launch::prepare::open_path;

/// The socket's name in the container's directory.
const SOCKET: &str = "start.sock";

/// A gate that a container is to wait at.
#[derive(Debug)]
pub struct Gate {
    listening: OwnedFd,
    page: Page,
    page_memory: OwnedFd,
}

impl Gate {
    /// Makes it in the container's directory, which only the runtime's user may enter.
    ///
    /// Errors: `EADDRINUSE` if there is one already.
    pub fn make(container_dir: &Path) -> Result<Self, Error> {
        let what = || format!("make {}", container_dir.join(SOCKET).display());
        let (page, page_memory) = Page::with_descriptor().context(what)?;
        let listening = endpoint(SockFlag::empty()).context(what)?;
        socket_at(container_dir, SOCKET, |address| Ok(bind(listening.as_raw_fd(), address)?))
            .context(what)?;
        // Of those who only ask many may be queued, while the container is frozen.
        listen(&listening, Backlog::MAXALLOWABLE).context(what)?;
        Ok(Self { listening, page, page_memory })
    }

    pub(super) const fn page(&self) -> &Page {
        &self.page
    }

    /// What a child that waits at it needs.
    pub(super) fn descriptors(&self) -> [RawFd; 2] {
        [self.listening.as_raw_fd(), self.page_memory.as_raw_fd()]
    }

    /// Waits until somebody opens it. Runs in: child, last but for what belongs to the start.
    pub(super) fn wait(&self) -> io::Result<Channel> {
        loop {
            let connection = match accept4(self.listening.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
                Err(nix::Error::EINTR | nix::Error::ECONNABORTED) => continue,
                other => Channel::of(skiff_sys::file::received(other?)),
            };
            match connection.receive_go() {
                Ok(_) => {
                    connection.send_page(self.page_memory.as_fd())?;
                    return Ok(connection);
                }
                Err(error) if error.raw_os_error() == Some(nix::libc::ECONNRESET) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Lets the container that waits at the gate of `container_dir` go on; returns when its program runs.
///
/// Errors: nobody waits there; what the container has still had to do failed, which ends it.
pub fn open_gate(container_dir: &Path) -> Result<(), Error> {
    let Some(channel) = reach(container_dir)? else {
        return Err(Error::Option("the container is not waiting to be started".into()));
    };
    let speak = || "speak to the container".to_owned();
    channel.send_go(0).context(speak)?;
    let Some(Message::Page(memory)) = channel.receive().context(speak)? else {
        return Err(Error::Option("the container ended before it was started".into()));
    };
    let page = Page::map(memory.as_fd()).context(|| "map the container's page".into())?;
    while let Some(message) = channel.receive().context(speak)? {
        if let Message::Listener(descriptor, notice) = message {
            listener::pass_on(&channel, descriptor, notice)?;
        }
    }
    match page.failure() {
        Some(failure) => Err(report::sentence(None, None, failure, &page)),
        None => Ok(()),
    }
}

/// Whether a container waits at the gate of `container_dir`.
pub fn is_waiting(container_dir: &Path) -> Result<bool, Error> {
    reach(container_dir).map(|channel| channel.is_some())
}

/// Connects to the gate; `None` if nobody listens there.
fn reach(container_dir: &Path) -> Result<Option<Channel>, Error> {
    let what = || format!("connect to {}", container_dir.join(SOCKET).display());
    let socket = endpoint(SockFlag::empty()).context(what)?;
    match socket_at(container_dir, SOCKET, |address| Ok(connect(socket.as_raw_fd(), address)?)) {
        Ok(()) => Ok(Some(Channel::of(socket))),
        Err(error) if matches!(error.raw_os_error(), Some(nix::libc::ECONNREFUSED | nix::libc::ENOENT)) => {
            Ok(None)
        }
        Err(error) => Err(error).context(what),
    }
}

fn endpoint(flags: SockFlag) -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Unix, SockType::SeqPacket, flags | SockFlag::SOCK_CLOEXEC, None)?)
}

/// Calls `act` with the address of the socket `name` in `directory`.
///
/// An address has room for 108 bytes only: a long one goes by way of the directory's descriptor.
pub(crate) fn socket_at<T>(
    directory: &Path,
    name: &str,
    act: impl FnOnce(&UnixAddr) -> io::Result<T>,
) -> io::Result<T> {
    if let Ok(address) = UnixAddr::new(&directory.join(name)) {
        return act(&address);
    }
    let opened = open_path(directory)?;
    let short = format!("/proc/self/fd/{}/{name}", opened.as_raw_fd());
    act(&UnixAddr::new(Path::new(&short))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;
    use std::thread;

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("skiff-gate-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("make a directory");
        path
    }

    #[test]
    fn whoever_only_asks_does_not_open() {
        let directory = directory(&"long".repeat(40));
        let gate = Gate::make(&directory).expect("gate");
        assert!(Gate::make(&directory).is_err());
        thread::scope(|scope| {
            let container = scope.spawn(|| gate.wait().map(drop));
            assert!(is_waiting(&directory).expect("ask"));
            assert!(is_waiting(&directory).expect("ask again"));
            assert!(!container.is_finished());
            open_gate(&directory).expect("open");
            container.join().expect("join").expect("the gate was opened");
        });
        drop(gate);
        // Children of other tests may hold copies of the socket until they execute something.
        let is_gone = (0..500).any(|_| {
            thread::sleep(std::time::Duration::from_millis(10));
            !is_waiting(&directory).expect("ask a gate that is gone")
        });
        assert!(is_gone);
        assert!(open_gate(&directory).is_err());
        std::fs::remove_dir_all(&directory).expect("clean up");
    }

    #[test]
    fn whoever_opens_learns_of_a_failure() {
        let directory = directory("fails");
        let gate = Gate::make(&directory).expect("gate");
        thread::scope(|scope| {
            scope.spawn(|| {
                let opened = gate.wait().expect("opened");
                gate.page.write(b"/bin/nothing");
                gate.page.fail(&super::super::sync::Failure {
                    stage: super::super::sync::Stage::Exec,
                    index: 0,
                    error: io::Error::from_raw_os_error(nix::libc::ENOENT),
                });
                drop(opened);
            });
            let error = open_gate(&directory).expect_err("the program is not there");
            assert_eq!(error.to_string(), "/bin/nothing: no such file or directory");
        });
        std::fs::remove_dir_all(&directory).expect("clean up");
    }
}
