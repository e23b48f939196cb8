//! The writing end of a log.
//!
//! What a pipe holds goes to the file by splice(2), which takes from the one only what it has put into the other: after
//! the header, whose length is known beforehand, for nobody else reads the pipe. A process that is killed on the way has
//! lost nothing and doubled nothing: what the record lacks is still in the pipe, and whoever resumes puts it there.
//!
//! A disk that does not take what is written never holds the container up. The bytes are thrown away, counted, and the
//! count is in the log as soon as it takes anything again.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::fcntl::{SpliceFFlags, splice};
use skiff_sys::random;

use super::directory::Directory;
use super::record::{HEAD, HEADER, HEADER_BYTES, Head, Header, RECORD_MAX, Stream, last_header};
use super::source;
use crate::spec::LogSpec;

/// The smallest bound for a file that is kept to, bytes.
const FILE_MIN: u64 = 4 << 10;

/// A log that is being written, by one process at a time.
#[derive(Debug)]
pub(super) struct Log {
    directory: Directory,
    file: File,
    number: u64,
    head: Head,
    /// Where the next record goes.
    at: u64,
    /// The size of the record before that.
    previous: u32,
    /// The last record, if it is not whole: [`Self::complete`] comes before anything else.
    open: Option<Open>,
    file_max: u64,
    files: u64,
    /// What could not be written since the last note, and why.
    lost: Option<(u64, io::Error)>,
}

/// A record whose bytes are on their way. It stands at `Log::at`.
#[derive(Debug, Clone, Copy)]
struct Open {
    header: Header,
    /// How many of its bytes are there.
    have: u32,
}

impl Log {
    /// Opens the log in the directory at `path`, which is made if need be, after whatever a process that was killed has
    /// left: an unfinished header goes, an unfinished record is to be completed ([`Self::complete`]), and behind damage a new
    /// file is begun.
    pub(super) fn open(path: &Path, spec: &LogSpec) -> io::Result<Self> {
        let directory = Directory::make(path)?;
        let (file_max, files) = (spec.max_bytes.max(FILE_MIN), u64::from(spec.max_files.max(1)));
        let newest = directory.numbers()?.last().copied();
        let found = newest.map(|number| directory.open_to_write(number)).transpose()?.flatten();
        let (Some(number), Some((file, head))) = (newest, found) else {
            let (number, head) = (newest.map_or(1, |damaged| damaged.saturating_add(1)), fresh_head(0)?);
            let file = directory.create(number, &head)?;
            let at = HEAD;
            return Ok(Self {
                directory,
                file,
                number,
                head,
                at,
                previous: 0,
                open: None,
                file_max,
                files,
                lost: None,
            });
        };
        let at = file.metadata()?.len();
        let mut log =
            Self { directory, file, number, head, at, previous: 0, open: None, file_max, files, lost: None };
        log.resume()?;
        Ok(log)
    }

    /// The stream whose bytes the last record still lacks.
    pub(super) fn incomplete(&self) -> Option<Stream> {
        self.open.map(|open| open.header.stream)
    }

    /// Completes the last record with what the pipe `from` still holds of it; without a pipe, or if that has less, the
    /// record is made as short as it is.
    pub(super) fn complete(&mut self, from: Option<BorrowedFd<'_>>) {
        let moved = match from {
            Some(from) => self.fill(from),
            None => Ok(()),
        };
        if let Err(error) = moved.and_then(|()| self.close()) {
            self.fail(0, error);
        }
    }

    /// The most bytes that one record takes.
    pub(super) fn record_max(&self) -> u32 {
        let room = self.file_max - HEAD - HEADER;
        u32::try_from(room).map_or(RECORD_MAX, |room| room.min(RECORD_MAX))
    }

    /// Moves `length` bytes, at most [`Self::record_max`], out of the pipe `from`, which holds as many; to the log if it takes
    /// them.
    pub(super) fn take(&mut self, stream: Stream, from: BorrowedFd<'_>, length: u32) {
        self.tell_loss();
        if let Err(error) = self.begin(stream, length).and_then(|()| self.fill(from)) {
            let have = self.open.map_or(0, |open| open.have);
            self.fail(discard(from, length - have), error);
        }
        if let Err(error) = self.close() {
            self.fail(0, error);
        }
    }

    /// Writes `bytes`, in as many records as they take.
    pub(super) fn append(&mut self, stream: Stream, bytes: &[u8]) {
        self.tell_loss();
        for part in bytes.chunks(self.record_max() as usize) {
            if let Err(error) = self.append_record(stream, part) {
                self.fail(part.len() as u64, error);
            }
        }
    }

    fn append_record(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).unwrap_or(RECORD_MAX);
        self.make_room(length)?;
        let header = Header { length, previous: self.previous, stream, time_ns: now_ns() };
        let mut record = Vec::with_capacity(HEADER_BYTES + bytes.len());
        record.extend(header.encode(self.head.salt, self.at));
        record.extend(bytes);
        self.open = Some(Open { header, have: 0 });
        let written = self.file.write_all_at(&record, self.at);
        if written.is_ok() {
            self.open = Some(Open { header, have: length });
        }
        written.and(self.close())
    }

    /// Writes the header of a record of `length` bytes.
    fn begin(&mut self, stream: Stream, length: u32) -> io::Result<()> {
        self.make_room(length)?;
        let header = Header { length, previous: self.previous, stream, time_ns: now_ns() };
        self.open = Some(Open { header, have: 0 });
        self.file.write_all_at(&header.encode(self.head.salt, self.at), self.at)
    }

    /// Moves what the open record lacks out of the pipe `from`. Stops early, without an error, where the pipe is empty:
    /// somebody in the container has read from it.
    fn fill(&mut self, from: BorrowedFd<'_>) -> io::Result<()> {
        while let Some(open) = &mut self.open
            && open.have < open.header.length
        {
            let missing = open.header.length - open.have;
            let to = self.at + HEADER + u64::from(open.have);
            match move_bytes(from, &self.file, to, missing) {
                Ok(0) | Err(nix::Error::EAGAIN) => break,
                Ok(moved) => open.have += moved,
                Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Ends the open record with as many bytes as it has got.
    fn close(&mut self) -> io::Result<()> {
        let Some(Open { mut header, have }) = self.open.take() else { return Ok(()) };
        if have == 0 {
            return self.file.set_len(self.at);
        }
        if have < header.length {
            header.length = have;
            self.file.write_all_at(&header.encode(self.head.salt, self.at), self.at)?;
        }
        self.previous = header.whole();
        self.at += header.size();
        Ok(())
    }

    /// Begins the next file if this one would grow beyond its bound, and removes what is then too much.
    fn make_room(&mut self, length: u32) -> io::Result<()> {
        let end = self.at + HEADER + u64::from(length);
        if end > self.file_max && self.at > HEAD { self.next_file() } else { Ok(()) }
    }

    fn next_file(&mut self) -> io::Result<()> {
        let head = fresh_head(self.head.before.saturating_add(self.at))?;
        let number = self.number.saturating_add(1);
        self.file = match self.directory.create(number, &head) {
            // The oldest is to go anyway, and may be what fills the disk.
            Err(_) if self.remove_old(number)? => self.directory.create(number, &head)?,
            made => made?,
        };
        (self.number, self.head, self.at, self.previous) = (number, head, HEAD, 0);
        self.remove_old(number).map(drop)
    }

    /// Removes the files that are too many once `newest` is there; says whether there were any.
    fn remove_old(&self, newest: u64) -> io::Result<bool> {
        let old: Vec<u64> =
            self.directory.numbers()?.into_iter().filter(|number| number + self.files <= newest).collect();
        old.iter().try_for_each(|number| self.directory.remove(*number))?;
        Ok(!old.is_empty())
    }

    /// Finds where the last record ends.
    fn resume(&mut self) -> io::Result<()> {
        let Some((at, header)) = last_record(&self.file, &self.head, self.at)? else {
            // No record, or what there is of its header.
            if self.at < HEAD + HEADER {
                self.at = HEAD;
                return self.file.set_len(HEAD);
            }
            return self.next_file();
        };
        let have = (self.at - at - HEADER).min(u64::from(header.length));
        self.open = Some(Open { header, have: u32::try_from(have).unwrap_or(header.length) });
        self.at = at;
        if have == u64::from(header.length) {
            self.close()?;
            // What there is of the next header.
            return self.file.set_len(self.at);
        }
        Ok(())
    }

    /// Whether nothing is held of it but what its files have.
    pub(super) fn is_settled(&self) -> bool {
        self.lost.is_none() && self.open.is_none()
    }

    /// Keeps account of bytes that the log did not take.
    pub(super) fn fail(&mut self, bytes: u64, error: io::Error) {
        let before = self.lost.take().map_or(0, |(before, _)| before);
        if before == 0 {
            tracing::warn!(%error, "log");
        }
        self.lost = Some((before + bytes, error));
    }

    /// Writes of what is lost, if the log takes it.
    pub(super) fn tell_loss(&mut self) {
        let Some((bytes, error)) = self.lost.take() else { return };
        let note = format!("{bytes} bytes could not be kept: {error}\n");
        if self.append_record(Stream::Note, note.as_bytes()).is_err() {
            self.lost = Some((bytes, error));
        }
    }
}

/// The last record of a file of `size` bytes, and its place; None if there is none where it would be.
pub(super) fn last_record(file: &File, head: &Head, size: u64) -> io::Result<Option<(u64, Header)>> {
    // A whole record, and of the next one less than a header.
    let start = size.saturating_sub(u64::from(RECORD_MAX) + 2 * HEADER).max(HEAD);
    let length = usize::try_from(size.saturating_sub(start)).unwrap_or(0);
    let mut bytes = vec![0; length];
    match file.read_exact_at(&mut bytes, start) {
        Ok(()) => Ok(last_header(&bytes, start, head.salt)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

fn fresh_head(before: u64) -> io::Result<Head> {
    let mut salt = [0; 8];
    random::fill(&mut salt)?;
    Ok(Head { salt: u64::from_le_bytes(salt), before })
}

/// Moves at most `length` bytes from a pipe to the offset `to` of a file. splice(2), pipe to file.
fn move_bytes(from: BorrowedFd<'_>, file: &File, to: u64, length: u32) -> nix::Result<u32> {
    let mut offset = to.cast_signed();
    match splice(from, None, file, Some(&mut offset), length as usize, SpliceFFlags::SPLICE_F_NONBLOCK) {
        Ok(moved) => Ok(u32::try_from(moved).unwrap_or(length)),
        // The file system has no way to take them so.
        Err(nix::Error::EINVAL) => copy_bytes(from, file, to, length),
        Err(error) => Err(error),
    }
}

/// The same through this process, which loses what it has in hand when it is killed.
fn copy_bytes(from: BorrowedFd<'_>, file: &File, to: u64, length: u32) -> nix::Result<u32> {
    let mut bytes = [0; 16 << 10];
    let length = bytes.len().min(length as usize);
    let read = nix::unistd::read(from, &mut bytes[..length])?;
    let written = file.write_all_at(&bytes[..read], to);
    written.map_err(|error| nix::Error::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    Ok(u32::try_from(read).unwrap_or(0))
}

/// Throws away `length` bytes that the pipe `from` holds; returns how many these were.
pub(super) fn discard(from: BorrowedFd<'_>, length: u32) -> u64 {
    let mut bytes = [0; 16 << 10];
    let mut left = length as usize;
    while left > 0 {
        let part = bytes.len().min(left);
        match source::ready(from) {
            Ok(ready) if ready.bytes > 0 => {}
            _ => break,
        }
        match nix::unistd::read(from, &mut bytes[..part]) {
            Ok(0) => break,
            Ok(read) => left -= read,
            Err(nix::Error::EINTR) => {}
            Err(_) => break,
        }
    }
    u64::from(length) - left as u64
}

/// Nanoseconds since 1970.
pub(super) fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}
