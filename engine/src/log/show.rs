//! Prints a log for people: which part of it, with times if they are wanted, and what comes after.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use skiff_sys::file::proc_fd_path;

use super::append::now_ns;
use super::read::{Piece, Reader, Start};
use super::record::Stream;
use super::stamp;

/// How much is gathered before it is written, bytes.
const BUFFER: usize = 32 << 10;

/// How often a log is looked at where the kernel does not tell of changes, ms.
const GLANCE_MS: u16 = 100;

/// Which part of a log is wanted, and how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Query {
    /// How many lines from the end; all when absent.
    pub tail: Option<u64>,
    /// Only what was written at that time or later, ns since 1970.
    pub since_ns: Option<u64>,
    /// Only what was written at that time or before, ns since 1970.
    pub until_ns: Option<u64>,
    /// Each line begins with its time.
    pub timestamps: bool,
}

/// Writes what `query` asks for of the log in `directory` to `out` and `err`.
///
/// With `end`, goes on with what is added, until `end` can be read from (or is closed) and nothing is left. Returns early when
/// nobody reads `out` or `err` any more.
pub fn show(
    directory: OwnedFd,
    query: &Query,
    out: BorrowedFd<'_>,
    err: BorrowedFd<'_>,
    end: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let start = match (query.tail, query.since_ns) {
        (Some(lines), _) => Start::Lines(lines),
        (None, Some(since_ns)) => Start::Time(since_ns),
        (None, None) => Start::Oldest,
    };
    let mut reader = Reader::open(directory, start)?;
    let mut printer = Printer::new(query.timestamps, out.try_clone_to_owned()?, err.try_clone_to_owned()?);
    let shown = match end {
        None => copy(&mut reader, query, &mut printer).map(drop),
        Some(end) => follow(&mut reader, query, &mut printer, end),
    };
    match shown.and_then(|()| printer.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

fn follow(reader: &mut Reader, query: &Query, printer: &mut Printer, end: BorrowedFd<'_>) -> io::Result<()> {
    let watch = Watch::new(reader);
    loop {
        if !copy(reader, query, printer)? {
            return Ok(());
        }
        printer.flush()?;
        let left_ms = query.until_ns.map(|until| until.saturating_sub(now_ns()).div_ceil(1_000_000));
        let ended = watch.wait(end, left_ms)?;
        if ended || left_ms == Some(0) {
            return copy(reader, query, printer).map(drop);
        }
    }
}

/// Prints all that there is; false if what comes after is not wanted.
fn copy(reader: &mut Reader, query: &Query, printer: &mut Printer) -> io::Result<bool> {
    while let Some(piece) = reader.next_piece()? {
        if query.until_ns.is_some_and(|until| piece.time_ns > until) {
            return Ok(false);
        }
        if query.since_ns.is_none_or(|since| piece.time_ns >= since) {
            printer.print(&piece)?;
        }
    }
    Ok(true)
}

/// Tells when there may be more to read.
#[derive(Debug)]
pub(crate) struct Watch(Option<Inotify>);

impl Watch {
    /// Watches the log that `reader` reads.
    pub(crate) fn new(reader: &Reader) -> Self {
        let watch = || -> nix::Result<Inotify> {
            let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
            let events = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_MOVED_TO;
            inotify.add_watch(proc_fd_path(reader.directory().as_fd()).as_c_str(), events)?;
            Ok(inotify)
        };
        Self(watch().ok())
    }

    /// What to poll for; without it the log is to be looked at every so often.
    pub(crate) fn interest(&self) -> Option<PollFd<'_>> {
        self.0.as_ref().map(|inotify| PollFd::new(inotify.as_fd(), PollFlags::POLLIN))
    }

    /// How long to wait at most, ms, if no more than `left_ms` are left.
    pub(crate) fn timeout(&self, left_ms: Option<u64>) -> PollTimeout {
        let glance_ms = self.0.is_none().then_some(u64::from(GLANCE_MS));
        match glance_ms.into_iter().chain(left_ms).min() {
            None => PollTimeout::NONE,
            Some(ms) => PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX),
        }
    }

    /// Forgets what has been told so far.
    pub(crate) fn clear(&self) {
        if let Some(inotify) = &self.0 {
            while inotify.read_events().is_ok_and(|events| !events.is_empty()) {}
        }
    }

    /// Waits for more, for `end`, or for the time to pass; says whether it was `end`.
    fn wait(&self, end: BorrowedFd<'_>, left_ms: Option<u64>) -> io::Result<bool> {
        let mut fds = vec![PollFd::new(end, PollFlags::POLLIN)];
        fds.extend(self.interest());
        match poll(&mut fds, self.timeout(left_ms)) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ended = fds[0].revents().is_some_and(|events| !events.is_empty());
        self.clear();
        Ok(ended)
    }
}

/// Writes pieces to two outputs.
#[derive(Debug)]
struct Printer {
    timestamps: bool,
    outputs: [File; 2],
    /// Whether the next byte of a stream begins a line.
    begins: [bool; 2],
    buffer: Vec<u8>,
    /// Which output the buffer is for.
    which: usize,
}

impl Printer {
    fn new(timestamps: bool, out: OwnedFd, err: OwnedFd) -> Self {
        let outputs = [out.into(), err.into()];
        Self { timestamps, outputs, begins: [true; 2], buffer: Vec::new(), which: 0 }
    }

    fn print(&mut self, piece: &Piece<'_>) -> io::Result<()> {
        let which = usize::from(piece.stream != Stream::Out);
        if which != self.which || self.buffer.len() >= BUFFER {
            self.flush()?;
            self.which = which;
        }
        if piece.stream == Stream::Note {
            if !self.begins[which] {
                self.buffer.push(b'\n');
            }
            self.buffer.extend(b"skiff: ");
        }
        if self.timestamps && piece.stream != Stream::Note {
            for line in piece.bytes.split_inclusive(|byte| *byte == b'\n') {
                if self.begins[which] {
                    self.buffer.extend(stamp::rfc3339(piece.time_ns).as_bytes());
                    self.buffer.push(b' ');
                }
                self.buffer.extend(line);
                self.begins[which] = line.ends_with(b"\n");
            }
        } else {
            self.buffer.extend(piece.bytes);
            self.begins[which] = piece.bytes.ends_with(b"\n");
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let written = self.outputs[self.which].write_all(&self.buffer);
        self.buffer.clear();
        written
    }
}
