//! Sends what a container writes to systemd's journal, a message per line.
//!
//! The journal's native protocol: one datagram per message, fields as `NAME=value\n`, or as name, newline, length (u64,
//! little-endian), value and newline where the value has newlines or need not be text; what does not fit into a datagram goes
//! as a sealed memfd. The fields have the names that docker gives them.

use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use skiff_sys::random;
use tokio::io::Interest;
use tokio::net::UnixDatagram;

use super::record::Stream;
use super::writer::Target;

/// Where the journal listens.
pub const JOURNAL: &str = "/run/systemd/journal/socket";

/// Whether a journal listens.
pub fn look_for_journal() -> io::Result<()> {
    std::os::unix::net::UnixDatagram::unbound()?.connect(JOURNAL)
}

/// The longest message, bytes. A longer line is several, marked as docker marks them.
const MESSAGE_MAX: usize = 16 << 10;

/// How long the journal may keep a container waiting before a message is given up.
const PATIENCE: Duration = Duration::from_secs(1);

/// A container's connection to the journal.
#[derive(Debug)]
pub(super) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
    /// The fields that are the same in all messages.
    fields: Vec<u8>,
    lines: [Lines; 2],
    /// Messages that the journal has not taken since the last that it took.
    lost: u64,
}

impl Journal {
    /// Prepares to send. Does not mind whether anybody listens yet. Runs in: a task of the log's runtime.
    pub(super) fn open(target: &Target) -> io::Result<Self> {
        let mut fields = Vec::new();
        let short = target.id.get(..12).unwrap_or(&target.id);
        for (name, value) in [
            ("CONTAINER_ID", short),
            ("CONTAINER_ID_FULL", &target.id),
            ("CONTAINER_NAME", &target.name),
            ("CONTAINER_TAG", short),
            ("IMAGE_NAME", &target.image),
            ("SYSLOG_IDENTIFIER", short),
        ] {
            field(&mut fields, name, value.as_bytes());
        }
        let path = target.journal.clone();
        Ok(Self { socket: UnixDatagram::unbound()?, path, fields, lines: Default::default(), lost: 0 })
    }

    /// Sends the lines that `bytes` end, and keeps the beginning of one that they don't.
    pub(super) async fn write(&mut self, stream: Stream, bytes: &[u8]) {
        let which = usize::from(stream == Stream::Err);
        let mut rest = bytes;
        while let Some(message) = self.lines[which].next(&mut rest) {
            self.send(stream, &message).await;
        }
    }

    /// Sends what has not become a line.
    pub(super) async fn finish(&mut self) {
        for (which, stream) in [Stream::Out, Stream::Err].into_iter().enumerate() {
            if let Some(message) = self.lines[which].last() {
                self.send(stream, &message).await;
            }
        }
    }

    async fn send(&mut self, stream: Stream, message: &Message) {
        if self.lost > 0 {
            let text = format!("{} messages of the container were not taken by the journal", self.lost);
            let note = encode(&self.fields, Stream::Note, &Message { text: text.into(), part: None });
            if deliver(&self.socket, &self.path, &note).await.is_ok() {
                self.lost = 0;
            }
        }
        let datagram = encode(&self.fields, stream, message);
        if let Err(error) = deliver(&self.socket, &self.path, &datagram).await {
            if self.lost == 0 {
                tracing::warn!(path = %self.path.display(), %error, "journal");
            }
            self.lost += 1;
        }
    }
}

/// Sends one datagram, waiting for room for as long as [`PATIENCE`] lasts.
async fn deliver(socket: &UnixDatagram, path: &Path, datagram: &[u8]) -> io::Result<()> {
    let sent = async {
        match socket.send_to(datagram, path).await {
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                deliver_file(socket, path, datagram).await
            }
            other => other.map(drop),
        }
    };
    tokio::time::timeout(PATIENCE, sent).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Sends one message that is too large for a datagram.
async fn deliver_file(socket: &UnixDatagram, path: &Path, message: &[u8]) -> io::Result<()> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = std::fs::File::from(memfd_create(c"skiff-log", flags)?);
    file.write_all(message)?;
    let seals =
        SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL;
    fcntl(file.as_fd(), FcntlArg::F_ADD_SEALS(seals))?;
    let address = UnixAddr::new(path)?;
    let descriptors = [file.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let send = || {
        let sent = sendmsg(socket.as_raw_fd(), &[], &rights, MsgFlags::MSG_NOSIGNAL, Some(&address));
        sent.map(drop).map_err(io::Error::from)
    };
    socket.async_io(Interest::WRITABLE, send).await
}

/// What is sent at once.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Message {
    text: Vec<u8>,
    part: Option<Part>,
}

/// One of several parts of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    /// The line's.
    id: u64,
    /// From 1 on.
    ordinal: u64,
    last: bool,
}

/// Makes lines of what a stream has written.
#[derive(Debug, Default)]
struct Lines {
    /// The beginning of a line, shorter than [`MESSAGE_MAX`].
    pending: Vec<u8>,
    /// The part of the line that has been sent last.
    part: Option<Part>,
}

impl Lines {
    /// Takes from `bytes` what makes a message; None when they are used up.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Message> {
        let room = MESSAGE_MAX - self.pending.len();
        let window = &bytes[..bytes.len().min(room)];
        if let Some(end) = window.iter().position(|byte| *byte == b'\n') {
            self.pending.extend(&window[..end]);
            *bytes = &bytes[end + 1..];
            return Some(self.message(true));
        }
        self.pending.extend(window);
        *bytes = &bytes[window.len()..];
        (self.pending.len() == MESSAGE_MAX).then(|| self.message(false))
    }

    /// What is left when the stream has ended.
    fn last(&mut self) -> Option<Message> {
        (!self.pending.is_empty()).then(|| self.message(true))
    }

    fn message(&mut self, last: bool) -> Message {
        let part = match self.part.take() {
            None if last => None,
            None => Some(Part { id: random_id(), ordinal: 1, last }),
            Some(part) => Some(Part { ordinal: part.ordinal + 1, last, ..part }),
        };
        self.part = part.filter(|_| !last);
        // The next line's beginning is a new allocation: a container that is silent holds none.
        Message { text: std::mem::take(&mut self.pending), part }
    }
}

/// Tells lines in parts from each other.
fn random_id() -> u64 {
    let mut id = [0; 8];
    random::fill(&mut id).map_or(0, |()| u64::from_le_bytes(id))
}

fn encode(fields: &[u8], stream: Stream, message: &Message) -> Vec<u8> {
    let mut bytes = fields.to_vec();
    let priority: &[u8] = match stream {
        Stream::Out => b"6",
        Stream::Err => b"3",
        Stream::Note => b"4",
    };
    field(&mut bytes, "PRIORITY", priority);
    if let Some(part) = message.part {
        if !part.last {
            field(&mut bytes, "CONTAINER_PARTIAL_MESSAGE", b"true");
        }
        field(&mut bytes, "CONTAINER_PARTIAL_ID", format!("{:016x}", part.id).as_bytes());
        field(&mut bytes, "CONTAINER_PARTIAL_ORDINAL", part.ordinal.to_string().as_bytes());
        field(&mut bytes, "CONTAINER_PARTIAL_LAST", part.last.to_string().as_bytes());
    }
    field(&mut bytes, "MESSAGE", &message.text);
    bytes
}

fn field(bytes: &mut Vec<u8>, name: &str, value: &[u8]) {
    bytes.extend(name.as_bytes());
    if std::str::from_utf8(value).is_ok_and(|text| !text.contains('\n')) {
        bytes.push(b'=');
    } else {
        bytes.push(b'\n');
        bytes.extend((value.len() as u64).to_le_bytes());
    }
    bytes.extend(value);
    bytes.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message's text, and of a part its number and whether it is the last.
    type Found = (Vec<u8>, Option<(u64, bool)>);

    fn messages(lines: &mut Lines, mut bytes: &[u8]) -> Vec<Found> {
        let next = || lines.next(&mut bytes);
        let part = |message: Message| (message.text, message.part.map(|part| (part.ordinal, part.last)));
        std::iter::from_fn(next).map(part).collect()
    }

    #[test]
    fn lines_are_messages_however_they_arrive() {
        let mut lines = Lines::default();
        assert_eq!(messages(&mut lines, b"one\ntwo\nth"), [(b"one".to_vec(), None), (b"two".to_vec(), None)]);
        assert_eq!(messages(&mut lines, b""), []);
        assert_eq!(messages(&mut lines, b"ree\n\n"), [(b"three".to_vec(), None), (b"".to_vec(), None)]);
        assert_eq!(lines.last(), None);
        assert_eq!(messages(&mut lines, b"end"), []);
        assert_eq!(lines.last(), Some(Message { text: b"end".to_vec(), part: None }));
        assert_eq!(lines.last(), None);
    }

    #[test]
    fn a_long_line_comes_in_parts_of_bounded_size() {
        let mut lines = Lines::default();
        let mut line = vec![b'x'; 2 * MESSAGE_MAX + 5];
        line.extend(b"\nnext\n");
        let found: Vec<_> =
            messages(&mut lines, &line).into_iter().map(|(text, part)| (text.len(), part)).collect();
        let expected = [
            (MESSAGE_MAX, Some((1, false))),
            (MESSAGE_MAX, Some((2, false))),
            (5, Some((3, true))),
            (4, None),
        ];
        assert_eq!(found, expected);
        // A line that is exactly as long as a message: that it has ended is known one byte later.
        let mut line = vec![b'x'; MESSAGE_MAX];
        line.push(b'\n');
        let found: Vec<_> =
            messages(&mut lines, &line).into_iter().map(|(text, part)| (text.len(), part)).collect();
        assert_eq!(found, [(MESSAGE_MAX, Some((1, false))), (0, Some((2, true)))]);
    }

    #[test]
    fn fields_that_are_no_text_have_a_length() {
        let mut bytes = Vec::new();
        field(&mut bytes, "A", b"b=c");
        field(&mut bytes, "D", b"e\nf");
        field(&mut bytes, "G", b"\xff");
        assert_eq!(bytes, b"A=b=c\nD\n\x03\0\0\0\0\0\0\0e\nf\nG\n\x01\0\0\0\0\0\0\0\xff\n");
    }
}
