//! Frames on a Unix stream socket: how many bytes, the bytes, and descriptors with the first of them.
//!
//! [`encode`] and [`Inbox`] keep no socket and do not block, so that an asynchronous server and a synchronous client share
//! them; [`write()`] and [`read()`] are the client's. What is received is bounded: see [`FRAME_MAX_BYTES`] and
//! [`DESCRIPTORS_MAX`]. A peer that exceeds a bound, or whose descriptors were lost on the way, is not talked to any more.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use serde::Serialize;
use serde::de::DeserializeOwned;
use skiff_sys::socket;

use crate::protocol::{DESCRIPTORS_MAX, FRAME_MAX_BYTES};

/// The length before the frame.
const HEAD_BYTES: usize = 4;

/// What is received at once, unless a frame that has begun is longer.
const CHUNK_BYTES: usize = 8 << 10;

/// The most that is received at once.
const CHUNK_MAX_BYTES: usize = 256 << 10;

/// A message as it travels.
///
/// Errors: it is longer than a frame may be.
pub fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; HEAD_BYTES];
    serde_json::to_writer(&mut frame, message)?;
    let length = u32::try_from(frame.len() - HEAD_BYTES).ok().filter(|length| *length <= FRAME_MAX_BYTES);
    let length = length.ok_or_else(|| invalid("a message is too long"))?;
    frame[..HEAD_BYTES].copy_from_slice(&length.to_le_bytes());
    Ok(frame)
}

/// Sends the message with its descriptors; blocks until the peer has room for all of it.
pub fn write<T: Serialize>(
    socket: BorrowedFd<'_>,
    message: &T,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let frame = encode(message)?;
    let mut sent = socket::send(socket, &frame, descriptors, false)?;
    while sent < frame.len() {
        sent += socket::send(socket, &frame[sent..], &[], false)?;
    }
    Ok(())
}

/// The next message with its descriptors; blocks until all of it is there. `None` if the peer has closed before one began.
pub fn read<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
    inbox: &mut Inbox,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    loop {
        if let Some(message) = inbox.take()? {
            return Ok(Some(message));
        }
        if !inbox.receive(socket, false)? {
            return if inbox.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
    }
}

/// What has been received and not been taken yet.
#[derive(Debug, Default)]
pub struct Inbox {
    bytes: Vec<u8>,
    /// Where the frame begins that has begun last.
    last: usize,
    /// Descriptors, with where in `bytes` the frame begins that they belong to.
    descriptors: Vec<(usize, OwnedFd)>,
}

impl Inbox {
    /// Receives once; false at the end. Errors: `WouldBlock` if there is nothing and `dont_wait` is set.
    pub fn receive(&mut self, socket: BorrowedFd<'_>, dont_wait: bool) -> io::Result<bool> {
        let filled = self.bytes.len();
        let missing = self.frame_end(self.last)?.map_or(0, |end| end.saturating_sub(filled));
        let mut descriptors = Vec::new();
        let received = if missing <= CHUNK_BYTES {
            // Most frames are far shorter: what is kept takes no more room than they do.
            let mut chunk = [0; CHUNK_BYTES];
            let received = socket::receive(socket, &mut chunk, &mut descriptors, dont_wait)?;
            self.bytes.extend_from_slice(&chunk[..received.bytes]);
            received
        } else {
            self.bytes.resize(filled + missing.min(CHUNK_MAX_BYTES), 0);
            let received = socket::receive(socket, &mut self.bytes[filled..], &mut descriptors, dont_wait);
            self.bytes.truncate(filled + received.as_ref().map_or(0, |received| received.bytes));
            received?
        };
        if received.truncated {
            return Err(invalid("descriptors were lost on the way"));
        }
        self.arrived(descriptors)?;
        Ok(received.bytes > 0)
    }

    /// The next message with its descriptors, if all of it is there.
    pub fn take<T: DeserializeOwned>(&mut self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let Some(end) = self.frame_end(0)?.filter(|end| *end <= self.bytes.len()) else { return Ok(None) };
        let message = serde_json::from_slice(&self.bytes[HEAD_BYTES..end])?;
        let count = self.descriptors.iter().take_while(|(frame, _)| *frame == 0).count();
        let own = self.descriptors.drain(..count).map(|(_, descriptor)| descriptor).collect();
        self.bytes.drain(..end);
        self.last = self.last.saturating_sub(end);
        for (frame, _) in &mut self.descriptors {
            *frame -= end;
        }
        Ok(Some((message, own)))
    }

    /// Whether nothing is left that was received.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Gives descriptors to the frame that has begun last: the kernel returns nothing beyond the bytes that were sent with
    /// them, and they are sent with a frame's first byte.
    fn arrived(&mut self, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        while let Some(end) = self.frame_end(self.last)?.filter(|end| *end < self.bytes.len()) {
            self.last = end;
        }
        self.descriptors.extend(descriptors.into_iter().map(|descriptor| (self.last, descriptor)));
        if self.descriptors.iter().filter(|(frame, _)| *frame == self.last).count() > DESCRIPTORS_MAX {
            return Err(invalid("too many descriptors"));
        }
        Ok(())
    }

    /// Where the frame that begins at `begin` ends, if its length is there.
    fn frame_end(&self, begin: usize) -> io::Result<Option<usize>> {
        let Some(head) = self.bytes.get(begin..).and_then(|rest| rest.first_chunk::<HEAD_BYTES>()) else {
            return Ok(None);
        };
        match u32::from_le_bytes(*head) {
            length if length <= FRAME_MAX_BYTES => Ok(Some(begin + HEAD_BYTES + length as usize)),
            _ => Err(invalid("a message is too long")),
        }
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    fn pair() -> (UnixStream, UnixStream) {
        UnixStream::pair().expect("pair")
    }

    #[test]
    fn messages_arrive_whole_and_in_order_with_what_is_theirs() {
        let (mut one, other) = pair();
        let (_source, sink) = io::pipe().expect("pipe");
        write(one.as_fd(), &"first", &[]).expect("write");
        write(one.as_fd(), &"second", &[sink.as_fd(), sink.as_fd()]).expect("write");
        write(one.as_fd(), &"third", &[sink.as_fd()]).expect("write");
        one.write_all(&[9, 0]).expect("half a length");
        drop(one);
        let mut inbox = Inbox::default();
        let mut next = || read::<String>(other.as_fd(), &mut inbox);
        for (text, count) in [("first", 0), ("second", 2), ("third", 1)] {
            let (message, descriptors) = next().expect("read").expect("a message");
            assert_eq!((message.as_str(), descriptors.len()), (text, count));
        }
        assert_eq!(next().expect_err("half a message").kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_long_message_takes_many_pieces_and_keeps_its_descriptors() {
        let (one, other) = pair();
        let long = "x".repeat(3 << 20);
        let sender = std::thread::spawn({
            let long = long.clone();
            move || {
                let null = std::fs::File::open("/dev/null").expect("open");
                write(one.as_fd(), &long, &[null.as_fd()]).expect("write");
                write(one.as_fd(), &"short", &[]).expect("write");
            }
        });
        let mut inbox = Inbox::default();
        let (message, descriptors) =
            read::<String>(other.as_fd(), &mut inbox).expect("read").expect("a message");
        assert!(message == long && descriptors.len() == 1);
        let (message, descriptors) =
            read::<String>(other.as_fd(), &mut inbox).expect("read").expect("a message");
        assert!(message == "short" && descriptors.is_empty());
        assert!(read::<String>(other.as_fd(), &mut inbox).expect("the end").is_none());
        sender.join().expect("sender");
    }

    #[test]
    fn a_message_may_come_byte_by_byte() {
        let (mut one, other) = pair();
        let mut inbox = Inbox::default();
        for byte in encode(&[1, 2, 3]).expect("encode") {
            assert!(inbox.take::<Vec<u8>>().expect("nothing wrong").is_none());
            one.write_all(&[byte]).expect("write");
            assert!(inbox.receive(other.as_fd(), true).expect("receive"));
        }
        assert_eq!(inbox.take::<Vec<u8>>().expect("take").expect("a message").0, [1, 2, 3]);
        assert!(inbox.is_empty());
        assert_eq!(
            inbox.receive(other.as_fd(), true).expect_err("nothing").kind(),
            io::ErrorKind::WouldBlock
        );
    }

    #[test]
    fn bounds_hold() {
        let check = |bytes: &[u8], descriptors: usize| {
            let (one, other) = pair();
            let null = std::fs::File::open("/dev/null").expect("open");
            let descriptors = vec![null.as_fd(); descriptors];
            socket::send(one.as_fd(), bytes, &descriptors, false).expect("send");
            drop(one);
            read::<String>(other.as_fd(), &mut Inbox::default())
        };
        assert!(check(&[2, 0, 0, 0, b'"', b'"'], DESCRIPTORS_MAX).is_ok());
        assert!(check(&[2, 0, 0, 0, b'"', b'"'], DESCRIPTORS_MAX + 1).is_err());
        assert!(check(&[2, 0, 0, 0, b'"', b'x'], 0).is_err(), "not JSON");
        assert!(check(&(FRAME_MAX_BYTES + 1).to_le_bytes(), 0).is_err());
        assert!(encode(&"x".repeat(FRAME_MAX_BYTES as usize)).is_err());
    }
}
