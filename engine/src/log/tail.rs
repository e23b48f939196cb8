//! Where the last lines of a log begin: records are walked from the end, each tells the size of the one before.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::append::last_record;
use super::directory::Directory;
use super::read::{Place, read_at};
use super::record::{HEAD, HEADER, HEADER_BYTES, Head, Header, Stream};

/// How far the beginning of a line is looked for when enough lines of the other stream have been found, bytes.
const BEYOND: u64 = 64 << 10;

/// Where the streams' last lines begin, `lines` of both together, in the order in which they have ended; an unfinished
/// line is one.
pub(super) fn begin(directory: &Directory, lines: u64) -> io::Result<[Place; 2]> {
    if lines == 0 {
        return Ok([end(directory)?; 2]);
    }
    let mut scan = Scan { wanted: lines, begin: [None; 2], seen: [false; 2], beyond: BEYOND };
    let mut oldest = Place::default();
    let mut bytes = Vec::new();
    for number in directory.numbers()?.into_iter().rev() {
        let Some(file) = Walked::open(directory, number)? else { continue };
        let mut last = last_record(&file.file, &file.head, file.size)?;
        if last.is_none() && file.size >= HEAD + HEADER {
            return Ok(scan.or_from(Place { number, at: HEAD, bytes: 0 }));
        }
        while let Some((at, header)) = last {
            file.payload(at, &header, &mut bytes)?;
            oldest = Place { number, at, bytes: 0 };
            if scan.record(oldest, header.stream, &bytes) {
                return Ok(scan.or_from(oldest));
            }
            if header.previous == 0 {
                break;
            }
            last = file.header(at - u64::from(header.previous))?;
            if last.is_none() {
                return Ok(scan.or_from(oldest));
            }
        }
    }
    Ok(scan.or_from(oldest))
}

/// Where the next byte goes.
pub(super) fn end(directory: &Directory) -> io::Result<Place> {
    let Some(number) = directory.numbers()?.last().copied() else { return Ok(Place::default()) };
    let Some(file) = Walked::open(directory, number)? else {
        return Ok(Place { number, at: HEAD, bytes: 0 });
    };
    Ok(match last_record(&file.file, &file.head, file.size)? {
        None => Place { number, at: HEAD, bytes: 0 },
        Some((at, header)) if at + header.size() <= file.size => {
            Place { number, at: at + header.size(), bytes: 0 }
        }
        Some((at, _)) => {
            Place { number, at, bytes: u32::try_from(file.size - at - HEADER).unwrap_or(u32::MAX) }
        }
    })
}

/// The beginning of the newest file that was begun at `time_ns` or before.
pub(super) fn file_of(directory: &Directory, time_ns: u64) -> io::Result<Place> {
    for number in directory.numbers()?.into_iter().rev() {
        let Some(file) = Walked::open(directory, number)? else { continue };
        if file.header(HEAD)?.is_some_and(|(_, first)| first.time_ns <= time_ns) {
            return Ok(Place { number, at: HEAD, bytes: 0 });
        }
    }
    Ok(Place::default())
}

/// A file that is walked.
struct Walked {
    file: File,
    head: Head,
    size: u64,
}

impl Walked {
    fn open(directory: &Directory, number: u64) -> io::Result<Option<Self>> {
        let Some((file, head)) = directory.open(number)? else { return Ok(None) };
        let size = file.metadata()?.len();
        Ok(Some(Self { file, head, size }))
    }

    fn header(&self, at: u64) -> io::Result<Option<(u64, Header)>> {
        let mut bytes = [0; HEADER_BYTES];
        match self.file.read_exact_at(&mut bytes, at) {
            Ok(()) => Ok(Header::decode(&bytes, self.head.salt, at).map(|header| (at, header))),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What there is of a record's bytes.
    fn payload(&self, at: u64, header: &Header, bytes: &mut Vec<u8>) -> io::Result<()> {
        bytes.resize(header.length as usize, 0);
        let end = self.size.saturating_sub(at + HEADER).min(u64::from(header.length));
        bytes.truncate(usize::try_from(end).unwrap_or(usize::MAX));
        let read = read_at(&self.file, bytes, at + HEADER)?;
        bytes.truncate(read);
        Ok(())
    }
}

/// Counts lines by their ends, from the last on.
struct Scan {
    /// How many more lines are wanted.
    wanted: u64,
    begin: [Option<Place>; 2],
    /// Whether anything of the stream has been met.
    seen: [bool; 2],
    /// How many more bytes are looked at once one stream's beginning is known.
    beyond: u64,
}

impl Scan {
    /// Takes the record before all others so far; says whether that is enough.
    fn record(&mut self, place: Place, stream: Stream, bytes: &[u8]) -> bool {
        let which = match stream {
            Stream::Out => 0,
            Stream::Err => 1,
            Stream::Note => return false,
        };
        for (index, byte) in bytes.iter().enumerate().rev() {
            let unfinished = !std::mem::replace(&mut self.seen[which], true) && *byte != b'\n';
            if self.begin[which].is_some() || !(unfinished || *byte == b'\n') {
                continue;
            }
            match self.wanted.checked_sub(1) {
                Some(rest) => self.wanted = rest,
                None => {
                    let bytes = u32::try_from(index + 1).unwrap_or(u32::MAX);
                    self.begin[which] = Some(Place { bytes, ..place });
                }
            }
        }
        if self.begin != [None; 2] {
            self.beyond = self.beyond.saturating_sub(bytes.len() as u64);
        }
        self.beyond == 0 || !self.begin.contains(&None)
    }

    /// Where the streams begin, at `place` if no line's beginning was found.
    fn or_from(&self, place: Place) -> [Place; 2] {
        self.begin.map(|begin| begin.unwrap_or(place))
    }
}
