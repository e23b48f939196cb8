//! How orders and reports travel.
//!
//! One packet each: JSON, with the descriptors that belong to it (`SCM_RIGHTS`, unix(7)). What is longer than a socket takes
//! lies in a file in memory, whose descriptor is then the first, and the packet is empty but for one byte.

use std::fs::File;
use std::io::{self, IoSlice, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, recv, sendmsg};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The most bytes of a message that travel in its packet.
const PACKET_BYTES: usize = 32 << 10;

/// The most bytes of a message: what execve(2) takes of words, in JSON, and more.
const MESSAGE_BYTES: u64 = 16 << 20;

/// The most descriptors that go with a message.
pub(super) const DESCRIPTORS_MAX: usize = 12;

/// In the place of a message that lies in a file.
const IN_FILE: &[u8] = b"@";

/// Sends `message`; never waits.
///
/// Errors: `EAGAIN` if the other end has to read first, `EPIPE` if there is none.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    message: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let mut numbers: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    if numbers.len() > DESCRIPTORS_MAX {
        return Err(io::Error::from_raw_os_error(nix::libc::E2BIG));
    }
    if text.len() <= PACKET_BYTES {
        return send_packet(socket, &text, &numbers);
    }
    let mut file = File::from(memfd_create(c"skiff-message", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(&text)?;
    numbers.insert(0, file.as_raw_fd());
    send_packet(socket, IN_FILE, &numbers)
}

fn send_packet(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[RawFd]) -> io::Result<()> {
    let rights = [ControlMessage::ScmRights(descriptors)];
    let control = if descriptors.is_empty() { &[][..] } else { &rights };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    loop {
        match sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, flags, None) {
            Err(nix::Error::EINTR) => {}
            other => return Ok(other.map(drop)?),
        }
    }
}

/// Takes the next message, with its descriptors, or without any if this process can have no more; `None` at the end of file. Never
/// waits.
///
/// Errors: `EAGAIN` if there is none yet. `EPROTO` for what is no message: it is gone then, and its descriptors are closed, and one may go on.
pub(super) fn receive<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    // Its length first: room for the longest would be mapped and given back each time. One byte more than there may be tells that there were
    // too many.
    let mut packet = vec![0; length_of_next(socket)?.min(PACKET_BYTES + 1)];
    let mut descriptors = Vec::new();
    let received = match skiff_sys::socket::receive(socket, &mut packet, &mut descriptors, true) {
        Err(error) if error.raw_os_error() == Some(nix::libc::ECONNRESET) => return Ok(None),
        other => other?,
    };
    if received.truncated {
        // Which have not come cannot be told. Whoever misses them says so.
        descriptors.clear();
    }
    let (length, is_whole) = (received.bytes, received.bytes <= PACKET_BYTES);
    let text = &packet[..length];
    match text {
        [] if descriptors.is_empty() => Ok(None),
        _ if !is_whole || descriptors.len() > DESCRIPTORS_MAX + 1 => Err(protocol()),
        IN_FILE => {
            let file = if descriptors.is_empty() { return Err(protocol()) } else { descriptors.remove(0) };
            Ok(Some((parse(&read_file(file)?)?, descriptors)))
        }
        text => Ok(Some((parse(text)?, descriptors))),
    }
}

/// How many bytes the next message has, which stays; none at the end of file.
fn length_of_next(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC | MsgFlags::MSG_DONTWAIT;
    loop {
        match recv(socket.as_raw_fd(), &mut [], flags) {
            Err(nix::Error::EINTR) => {}
            Err(nix::Error::ECONNRESET) => return Ok(0),
            other => return Ok(other?),
        }
    }
}

/// Reads, not maps: whoever has sent it may still shorten it.
fn read_file(file: OwnedFd) -> io::Result<Vec<u8>> {
    let is_file = |fd: BorrowedFd<'_>| {
        nix::sys::stat::fstat(fd).is_ok_and(|found| found.st_mode & nix::libc::S_IFMT == nix::libc::S_IFREG)
    };
    // Reading anything else could wait without end.
    if !is_file(file.as_fd()) {
        return Err(protocol());
    }
    let mut file = File::from(file);
    file.seek(SeekFrom::Start(0))?;
    let mut text = Vec::new();
    file.take(MESSAGE_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MESSAGE_BYTES { Err(protocol()) } else { Ok(text) }
}

fn parse<T: DeserializeOwned>(text: &[u8]) -> io::Result<T> {
    serde_json::from_slice(text).map_err(|_| protocol())
}

fn protocol() -> io::Error {
    io::Error::from_raw_os_error(nix::libc::EPROTO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .expect("socketpair")
    }

    fn null() -> OwnedFd {
        File::open("/dev/null").expect("open").into()
    }

    #[test]
    fn messages_arrive_with_their_descriptors_whatever_their_size() {
        let (a, b) = pair();
        for length in [0, 10, PACKET_BYTES, 4 << 20] {
            let text = "x".repeat(length);
            send(a.as_fd(), &text, &[null().as_fd(), a.as_fd()]).expect("send");
            let (received, descriptors) = receive::<String>(b.as_fd()).expect("receive").expect("a message");
            assert!(received == text && descriptors.len() == 2);
        }
        assert_eq!(receive::<String>(b.as_fd()).expect_err("empty").kind(), io::ErrorKind::WouldBlock);
        drop(a);
        // A child of another test may have it open until it executes its program.
        let mut end = receive::<String>(b.as_fd());
        while end.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            std::thread::sleep(std::time::Duration::from_millis(1));
            end = receive::<String>(b.as_fd());
        }
        assert!(end.expect("end").is_none());
    }

    #[test]
    fn what_is_no_message_is_passed_over() {
        let (a, b) = pair();
        let many: Vec<OwnedFd> = (0..20).map(|_| null()).collect();
        let many: Vec<RawFd> = many.iter().map(AsRawFd::as_raw_fd).collect();
        let (reader, _writer) = nix::unistd::pipe().expect("pipe");
        for (bytes, descriptors) in [
            (&b"{"[..], &[][..]),
            (&[0xff; 40_000], &[]),
            (b"\"x\"", &many),
            (IN_FILE, &[]),
            (IN_FILE, &[reader.as_raw_fd()]),
            (b"", &[reader.as_raw_fd()]),
        ] {
            send_packet(a.as_fd(), bytes, descriptors).expect("send");
            let error = receive::<String>(b.as_fd()).expect_err("no message");
            assert_eq!(error.raw_os_error(), Some(nix::libc::EPROTO));
        }
        send(a.as_fd(), &"x", &[]).expect("send");
        assert!(receive::<String>(b.as_fd()).expect("receive").is_some());
    }
}
