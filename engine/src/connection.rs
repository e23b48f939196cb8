//! One connection of a client: frames in and out, without blocking anybody else.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use skiff_sys::socket;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::engine::Counted;
use crate::frames::{self, Inbox};
use crate::protocol::{Reply, Request};

/// How long a client may take to say what it wants, once it has connected.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may take no bytes of what it is told.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// A client that is spoken to.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    inbox: Inbox,
    /// Until the client has been told something.
    asking: RefCell<Option<Counted>>,
}

impl Connection {
    pub(crate) fn new(stream: UnixStream, asking: Counted) -> Self {
        Self { stream, inbox: Inbox::default(), asking: Some(asking).into() }
    }

    /// The client asks for what may take any time: nobody waits for that.
    pub(crate) fn is_patient(&self) {
        self.asking.take();
    }

    /// The number of its descriptor.
    pub(crate) fn number(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    /// What the client wants, with its descriptors; `None` if it has closed without a word.
    ///
    /// Errors: what is no request; `TimedOut`.
    pub(crate) async fn request(&mut self) -> io::Result<Option<(Request, Vec<OwnedFd>)>> {
        let Self { stream, inbox, .. } = self;
        let reading = async {
            loop {
                if let Some(request) = inbox.take()? {
                    return Ok(Some(request));
                }
                let receive = || inbox.receive(stream.as_fd(), true);
                if !stream.async_io(Interest::READABLE, receive).await? {
                    return if inbox.is_empty() {
                        Ok(None)
                    } else {
                        Err(io::ErrorKind::UnexpectedEof.into())
                    };
                }
            }
        };
        timeout(REQUEST_TIMEOUT, reading).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Tells the client something.
    pub(crate) async fn reply(&self, reply: &Reply, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let frame = frames::encode(reply)?;
        let (mut sent, mut descriptors) = (0, descriptors);
        while sent < frame.len() {
            let send = || socket::send(self.stream.as_fd(), &frame[sent..], descriptors, true);
            // A frame mostly goes at once, without a look at whether there is room.
            let now = match send() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let waiting = self.stream.async_io(Interest::WRITABLE, send);
                    timeout(REPLY_TIMEOUT, waiting).await.map_err(|_| io::ErrorKind::TimedOut)?
                }
                other => other,
            };
            sent += now?;
            descriptors = &[];
        }
        self.asking.take();
        Ok(())
    }

    /// Waits until the client has gone, or says what nobody has asked for.
    pub(crate) async fn gone(&self) {
        // Readiness may be left over from the request: only a look tells. Whatever comes of it, it is the end.
        let look = || socket::receive(self.stream.as_fd(), &mut [0], &mut Vec::new(), true);
        drop(self.stream.async_io(Interest::READABLE, look).await);
    }
}
