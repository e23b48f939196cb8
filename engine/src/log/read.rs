//! The reading end of a log: any number of readers, in any process, none of which the writer knows of.
//!
//! A reader holds one file and a bounded window of it. Files that go while it reads another it counts as lost; damaged
//! bytes it steps over, to the next header.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use super::directory::Directory;
use super::record::{HEAD, HEADER, HEADER_BYTES, Head, Header, RECORD_MAX, Stream, first_header};
use super::tail;

/// How much of a file is held at once, bytes.
const WINDOW: usize = 32 << 10;

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With all that is there.
    Oldest,
    /// With so many lines from the end.
    Lines(u64),
    /// With the newest file that begins at or before this time, ns since 1970, and not behind what is written since then.
    Time(u64),
    /// With what is written from now on.
    End,
}

/// Bytes of one stream, written at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Whose they are.
    pub stream: Stream,
    /// When they were taken from the stream, ns since 1970.
    pub time_ns: u64,
    /// At least one; neither lines nor characters are kept together.
    pub bytes: &'a [u8],
}

/// A place in a log: a file's number, a header's offset in it, and how many of the record's bytes are behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) number: u64,
    pub(super) at: u64,
    pub(super) bytes: u32,
}

/// Reads a log from a place on to its end, and further when there is more.
#[derive(Debug)]
pub struct Reader {
    directory: Directory,
    file: Option<Current>,
    /// The number of the oldest file that has not been read.
    next: u64,
    /// Where standard output and standard error begin.
    begin: [Place; 2],
    note: String,
}

/// The file that is being read.
#[derive(Debug)]
struct Current {
    file: File,
    number: u64,
    head: Head,
    /// How much of the file is known to be there.
    size: u64,
    /// The next record, or the one that is being read.
    at: u64,
    record: Option<(Header, u32)>,
    /// Up to where no header has been found in what should be one.
    searched: u64,
    window: Vec<u8>,
    window_at: u64,
}

/// What a look into a file has found.
enum Step {
    /// Bytes of a record, in the window.
    Bytes(Header, Range<usize>),
    /// So many that make no sense, before the next record.
    Damage(u64),
    /// Nothing more for now.
    End,
}

impl Reader {
    /// Begins to read the log in `directory`.
    pub fn open(directory: OwnedFd, start: Start) -> io::Result<Self> {
        let directory = Directory::new(directory);
        let begin = match start {
            Start::Oldest => [Place::default(); 2],
            Start::Lines(count) => tail::begin(&directory, count)?,
            Start::End => [tail::end(&directory)?; 2],
            Start::Time(time_ns) => [tail::file_of(&directory, time_ns)?; 2],
        };
        let next = begin[0].min(begin[1]).number;
        Ok(Self { directory, file: None, next, begin, note: String::new() })
    }

    /// The next bytes; None at the end of what there is.
    pub fn next_piece(&mut self) -> io::Result<Option<Piece<'_>>> {
        loop {
            let Some(mut current) = self.current()? else { return Ok(None) };
            let step = match current.step(&self.begin)? {
                Step::End => {
                    // A newer file means that nobody writes to this one any more, so what is there now is all.
                    if !self.has_newer(current.number)? {
                        self.file = Some(current);
                        return Ok(None);
                    }
                    current.refresh()?;
                    current.step(&self.begin)?
                }
                step => step,
            };
            match step {
                Step::Bytes(header, range) => {
                    let current = self.file.insert(current);
                    let bytes = &current.window[range];
                    return Ok(Some(Piece { stream: header.stream, time_ns: header.time_ns, bytes }));
                }
                Step::Damage(bytes) => {
                    self.file = Some(current);
                    return Ok(Some(self.tell(format!("{bytes} damaged bytes of the log are left out\n"))));
                }
                Step::End => {
                    let end = current.head.before.saturating_add(current.size);
                    self.next = current.number.saturating_add(1);
                    let before = self.current()?.map(|next| {
                        let before = next.head.before;
                        self.file = Some(next);
                        before
                    });
                    // After damage a log counts from 0 again.
                    if let Some(lost) =
                        before.and_then(|before| before.checked_sub(end)).filter(|lost| *lost > 0)
                    {
                        let note = format!("{lost} bytes of the log were gone before they could be read\n");
                        return Ok(Some(self.tell(note)));
                    }
                }
            }
        }
    }

    /// What is being followed, for notification.
    pub(super) fn directory(&self) -> &Directory {
        &self.directory
    }

    fn tell(&mut self, note: String) -> Piece<'_> {
        self.note = note;
        Piece { stream: Stream::Note, time_ns: super::append::now_ns(), bytes: self.note.as_bytes() }
    }

    /// Takes the file that is being read, else opens the oldest that has not been; None if there is none.
    fn current(&mut self) -> io::Result<Option<Current>> {
        if let Some(current) = self.file.take() {
            return Ok(Some(current));
        }
        for number in self.directory.numbers()? {
            if number >= self.next
                && let Some((file, head)) = self.directory.open(number)?
            {
                return Current::new(file, number, head, &self.begin).map(Some);
            }
        }
        Ok(None)
    }

    fn has_newer(&self, number: u64) -> io::Result<bool> {
        Ok(self.directory.numbers()?.last().is_some_and(|newest| *newest > number))
    }
}

impl Current {
    fn new(file: File, number: u64, head: Head, begin: &[Place; 2]) -> io::Result<Self> {
        let first = begin[0].min(begin[1]);
        let at = if number == first.number { first.at.max(HEAD) } else { HEAD };
        let size = file.metadata()?.len();
        let window = Vec::new();
        Ok(Self { file, number, head, size, at, record: None, searched: 0, window, window_at: 0 })
    }

    fn step(&mut self, begin: &[Place; 2]) -> io::Result<Step> {
        let mut refreshed = false;
        loop {
            if let Some((header, given)) = self.record {
                if given < header.length {
                    if let Some(range) = self.payload(&header, given)? {
                        return Ok(Step::Bytes(header, range));
                    }
                    if std::mem::replace(&mut refreshed, true) {
                        return Ok(Step::End);
                    }
                    // The record may have been cut to what there is of it.
                    self.refresh()?;
                    self.look_again(given)?;
                    continue;
                }
                self.record = None;
                self.at += header.size();
            }
            match self.header()? {
                Some(header) => {
                    let place = Place { number: self.number, at: self.at, bytes: 0 };
                    self.record = Some((header, skipped(&header, place, begin)));
                }
                None if !std::mem::replace(&mut refreshed, true) => self.refresh()?,
                None => return self.search(),
            }
        }
    }

    /// Learns how much there is by now.
    fn refresh(&mut self) -> io::Result<()> {
        self.size = self.file.metadata()?.len();
        self.window.clear();
        Ok(())
    }

    /// The header at `at`, if one stands there.
    fn header(&mut self) -> io::Result<Option<Header>> {
        let range = self.load(self.at, HEADER)?;
        let header = self.window[range].first_chunk();
        Ok(header.and_then(|bytes| Header::decode(bytes, self.head.salt, self.at)))
    }

    /// Reads the header of the record that is being read once more, after it has turned out not to be whole.
    fn look_again(&mut self, given: u32) -> io::Result<()> {
        match self.header()? {
            Some(header) => self.record = Some((header, given.min(header.length))),
            None => self.record = None,
        }
        Ok(())
    }

    /// Bytes of the record that is being read, from `given` on; None if there are no more than those.
    ///
    /// They reach no further than `size`, which was asked for before the header was read: what comes behind a record that is
    /// cut short is written only once its header says so.
    fn payload(&mut self, header: &Header, given: u32) -> io::Result<Option<Range<usize>>> {
        let range = self.load(self.at + HEADER + u64::from(given), u64::from(header.length - given))?;
        if range.is_empty() {
            return Ok(None);
        }
        let count = u32::try_from(range.len()).unwrap_or(RECORD_MAX);
        self.record = Some((*header, given + count));
        Ok(Some(range))
    }

    /// Looks for the next header behind something that is none.
    fn search(&mut self) -> io::Result<Step> {
        let from = self.searched.max(self.at + 1);
        let mut at = from;
        while at + HEADER <= self.size {
            let range = self.load(at, WINDOW as u64)?;
            if range.len() < HEADER_BYTES {
                break;
            }
            if let Some((found, _)) = first_header(&self.window[range.clone()], at, self.head.salt) {
                let damage = found - self.at;
                (self.at, self.searched) = (found, 0);
                return Ok(Step::Damage(damage));
            }
            at += range.len() as u64 - (HEADER - 1);
        }
        self.searched = at;
        Ok(Step::End)
    }

    /// Brings up to `count` bytes from the offset `at` into the window: as many as the file and the window have.
    fn load(&mut self, at: u64, count: u64) -> io::Result<Range<usize>> {
        let end = self.size.min(at.saturating_add(count));
        let window_end = self.window_at + self.window.len() as u64;
        let least = end.min(at.saturating_add(HEADER));
        if at < self.window_at || least > window_end || at >= window_end {
            let wanted = usize::try_from(self.size.saturating_sub(at)).unwrap_or(WINDOW).min(WINDOW);
            self.window.resize(wanted, 0);
            let read = read_at(&self.file, &mut self.window, at)?;
            self.window.truncate(read);
            self.window_at = at;
        }
        let start = usize::try_from(at - self.window_at).unwrap_or(0);
        let have = self.window.len() - start.min(self.window.len());
        let count = usize::try_from(end.saturating_sub(at)).unwrap_or(have).min(have);
        Ok(start..start + count)
    }
}

/// How many of a record's bytes are before the place where its stream begins.
fn skipped(header: &Header, place: Place, begin: &[Place; 2]) -> u32 {
    let begin = match header.stream {
        Stream::Out => begin[0],
        Stream::Err => begin[1],
        Stream::Note => begin[0].min(begin[1]),
    };
    match (place.number, place.at).cmp(&(begin.number, begin.at)) {
        std::cmp::Ordering::Less => header.length,
        std::cmp::Ordering::Equal => begin.bytes.min(header.length),
        std::cmp::Ordering::Greater => 0,
    }
}

/// Reads until `bytes` is full or the file ends.
pub(super) fn read_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < bytes.len() {
        match file.read_at(&mut bytes[read..], at + read as u64) {
            Ok(0) => break,
            Ok(count) => read += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}
