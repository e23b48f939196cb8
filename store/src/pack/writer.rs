//! Entries to tar: ustar, with PAX headers for what does not fit.
//!
//! One entry has one form, so equal trees make equal archives. Go's archive/tar, GNU tar and libarchive read all of
//! it; holes are written as GNU's sparse format 1.0 in PAX.

use std::io::{self, Write};

use crate::entries::{Entry, Kind, Segment};

const BLOCK: usize = 512;
/// Largest numbers that octal digits have room for: 7 digits, and 11.
const SMALL_MAX: u64 = 0o7_777_777;
const LARGE_MAX: u64 = 0o77_777_777_777;

/// Writes an archive, entry by entry.
#[derive(Debug)]
pub(crate) struct Writer<W> {
    out: W,
    /// Content of the last entry that is still to be written.
    left: u64,
    padding: usize,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, left: 0, padding: 0 }
    }

    /// Writes an entry's headers. What a file stores – all of it, or its segments one after another – is to follow by
    /// [`Writer::data`].
    pub(crate) fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        self.end_of_data()?;
        let map = entry.segments.as_ref().map(|segments| sparse_map(segments));
        let stored = match (&entry.kind, &entry.segments) {
            (Kind::File, None) => entry.size,
            (Kind::File, Some(segments)) => segments.iter().map(|segment| segment.length).sum(),
            _ => 0,
        };
        let size = stored + map.as_ref().map_or(0, |map| map.len() as u64);
        let mut records = Records::default();
        let mut path = entry.path.clone();
        if entry.kind == Kind::Directory && !path.ends_with(b"/") {
            path.push(b'/');
        }
        if map.is_some() {
            records.add("GNU.sparse.major", b"1");
            records.add("GNU.sparse.minor", b"0");
            records.add("GNU.sparse.name", &path);
            records.number("GNU.sparse.realsize", entry.size);
            path = beside(&path, "GNUSparseFile.0");
        }
        let header = header(entry, &path, size, &mut records);
        if !records.0.is_empty() {
            self.extension(&path, &records.0)?;
        }
        self.out.write_all(&header)?;
        self.padding = padding(size);
        if let Some(map) = map {
            self.out.write_all(&map)?;
        }
        self.left = stored;
        Ok(())
    }

    /// Writes some of the last entry's content. Errors: it is more than the entry has.
    pub(crate) fn data(&mut self, data: &[u8]) -> io::Result<()> {
        self.left = self
            .left
            .checked_sub(data.len() as u64)
            .ok_or_else(|| io::Error::other("more content than was announced"))?;
        self.out.write_all(data)
    }

    /// Ends the archive.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        self.end_of_data()?;
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()
    }

    /// What has been written to.
    #[cfg(fuzzing)]
    pub(crate) fn into_inner(self) -> W {
        self.out
    }

    fn end_of_data(&mut self) -> io::Result<()> {
        if self.left > 0 {
            return Err(io::Error::other("less content than was announced"));
        }
        self.out.write_all(&[0; BLOCK][..self.padding])?;
        self.padding = 0;
        Ok(())
    }

    fn extension(&mut self, path: &[u8], records: &[u8]) -> io::Result<()> {
        let mut header = [0; BLOCK];
        let name = beside(path, "PaxHeaders.0");
        header[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
        for (at, length, value) in
            [(100, 8, 0o644), (108, 8, 0), (116, 8, 0), (124, 12, records.len()), (136, 12, 0)]
        {
            octal(&mut header[at..at + length], value as u64);
        }
        header[156] = b'x';
        finish_header(&mut header);
        self.out.write_all(&header)?;
        self.out.write_all(records)?;
        self.out.write_all(&[0; BLOCK][..padding(records.len() as u64)])
    }
}

/// The header block; what it has no room for goes to `records`.
fn header(entry: &Entry, path: &[u8], size: u64, records: &mut Records) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    match split(path) {
        Some((prefix, name)) => {
            header[..name.len()].copy_from_slice(name);
            header[345..345 + prefix.len()].copy_from_slice(prefix);
        }
        None => {
            // The sparse record has the real name already.
            if entry.segments.is_none() {
                records.add("path", path);
            }
            header[..100].copy_from_slice(&path[..100]);
        }
    }
    let (kind, link, device): (u8, &[u8], _) = match &entry.kind {
        Kind::File => (b'0', b"", None),
        Kind::HardLink(target) => (b'1', target, None),
        Kind::Symlink(target) => (b'2', target, None),
        &Kind::Char(major, minor) => (b'3', b"", Some((major, minor))),
        &Kind::Block(major, minor) => (b'4', b"", Some((major, minor))),
        Kind::Directory => (b'5', b"", None),
        Kind::Fifo => (b'6', b"", None),
    };
    octal(&mut header[100..108], entry.mode.into());
    for (at, length, key, value, max) in [
        (108, 8, "uid", entry.uid.into(), SMALL_MAX),
        (116, 8, "gid", entry.gid.into(), SMALL_MAX),
        (124, 12, "size", size, LARGE_MAX),
    ] {
        if value > max {
            records.number(key, value);
        }
        octal(&mut header[at..at + length], if value > max { 0 } else { value });
    }
    let (seconds, nanoseconds) = (entry.mtime.tv_sec(), entry.mtime.tv_nsec());
    let plain = u64::try_from(seconds).ok().filter(|&seconds| seconds <= LARGE_MAX);
    if plain.is_none() || nanoseconds != 0 {
        records.add("mtime", time(seconds, nanoseconds).as_bytes());
    }
    octal(&mut header[136..148], plain.unwrap_or(0));
    header[156] = kind;
    if link.len() > 100 {
        records.add("linkpath", link);
    }
    let link = &link[..link.len().min(100)];
    header[157..157 + link.len()].copy_from_slice(link);
    if let Some((major, minor)) = device {
        octal(&mut header[329..337], major.into());
        octal(&mut header[337..345], minor.into());
    }
    let mut xattrs: Vec<_> = entry.xattrs.iter().collect();
    xattrs.sort();
    for (name, value) in xattrs {
        records.add_bytes(&[b"SCHILY.xattr.", &name[..]].concat(), value);
    }
    finish_header(&mut header);
    header
}

fn finish_header(header: &mut [u8; BLOCK]) {
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].fill(b' ');
    let sum: u64 = header.iter().map(|&byte| u64::from(byte)).sum();
    octal(&mut header[148..155], sum);
}

/// Prefix and name where the header's two fields have room for `path`, which it may have to be cut at a slash for.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= 100 {
        return Some((b"", path));
    }
    // As much as possible goes to the name, as in other writers; it must not be empty.
    let first = path.len() - 101;
    let slash = (first..path.len() - 1).find(|&at| path[at] == b'/').filter(|&at| at > 0 && at <= 155)?;
    Some((&path[..slash], &path[slash + 1..]))
}

/// A name in the directory `name` beside `path`, cut to what a header has room for.
fn beside(path: &[u8], directory: &str) -> Vec<u8> {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    let base = path.rsplit(|&b| b == b'/').next().unwrap_or(path);
    let base = &base[..base.len().min(99 - directory.len())];
    [directory.as_bytes(), b"/", base].concat()
}

/// As many octal digits as there is room for before a NUL.
fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    field[digits] = 0;
    let mut left = value;
    for digit in field[..digits].iter_mut().rev() {
        *digit = b'0' + u8::try_from(left & 7).unwrap_or(0);
        left >>= 3;
    }
}

/// Seconds with a fraction; of times before 1970 both are negative.
fn time(seconds: i64, nanoseconds: i64) -> String {
    if nanoseconds == 0 {
        return seconds.to_string();
    }
    let (sign, whole, fraction) = if seconds < 0 {
        ("-", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanoseconds)
    } else {
        ("", seconds.unsigned_abs(), nanoseconds)
    };
    let text = format!("{sign}{whole}.{fraction:09}");
    text.trim_end_matches('0').to_owned()
}

/// A count, then offset and length of each segment, a number a line, in whole blocks.
fn sparse_map(segments: &[Segment]) -> Vec<u8> {
    let mut text = format!("{}\n", segments.len()).into_bytes();
    for Segment { offset, length } in segments {
        text.extend(format!("{offset}\n{length}\n").into_bytes());
    }
    text.resize(text.len().next_multiple_of(BLOCK), 0);
    text
}

/// PAX records.
#[derive(Default)]
struct Records(Vec<u8>);

impl Records {
    fn number(&mut self, key: &str, value: u64) {
        self.add(key, value.to_string().as_bytes());
    }

    fn add(&mut self, key: &str, value: &[u8]) {
        self.add_bytes(key.as_bytes(), value);
    }

    /// The length in front counts its own digits.
    fn add_bytes(&mut self, key: &[u8], value: &[u8]) {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        self.0.extend(format!("{length} ").as_bytes());
        self.0.extend(key);
        self.0.push(b'=');
        self.0.extend(value);
        self.0.push(b'\n');
    }
}

fn padding(size: u64) -> usize {
    usize::try_from(size.next_multiple_of(BLOCK as u64) - size).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use nix::sys::time::TimeSpec;

    use super::*;
    use crate::entries::Reader;

    fn entry(path: &[u8], kind: Kind) -> Entry {
        Entry {
            path: path.to_vec(),
            kind,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: TimeSpec::new(1, 0),
            xattrs: Vec::new(),
            size: 0,
            segments: None,
        }
    }

    /// What is written is what is read; says how long the archive is.
    fn check(entry: &Entry, data: &[u8]) -> usize {
        let mut writer = Writer::new(Vec::new());
        writer.entry(entry).unwrap();
        writer.data(data).unwrap();
        assert_eq!(writer.left, 0);
        writer.end().unwrap();
        let archive = writer.out;
        assert_eq!(archive.len() % BLOCK, 0);
        let mut reader = Reader::new(Cursor::new(&archive[..]));
        let got = reader.next().unwrap().unwrap();
        let mut want = entry.clone();
        if want.kind == Kind::Directory {
            want.path.push(b'/');
        }
        assert_eq!(format!("{got:?}"), format!("{want:?}"));
        assert_eq!(reader.data().unwrap(), data);
        reader.consume(data.len());
        assert!(reader.next().unwrap().is_none());
        archive.len()
    }

    #[test]
    fn entries_are_read_as_written() {
        let file = |path: &[u8]| entry(path, Kind::File);
        assert_eq!(check(&Entry { size: 5, ..file(b"a/b") }, b"hello"), 4 * BLOCK);
        assert_eq!(check(&entry(b"d", Kind::Directory), b""), 3 * BLOCK);
        check(&entry(b"l", Kind::Symlink(b"/x/y".to_vec())), b"");
        check(&entry(b"l", Kind::HardLink(b"x".repeat(100))), b"");
        check(&entry(b"l", Kind::Symlink(b"x".repeat(101))), b"");
        check(&entry(b"f", Kind::Fifo), b"");
        check(&entry(b"c", Kind::Char(1, 3)), b"");
        check(&entry(b"b", Kind::Block(4095, 0xf_ffff)), b"");
        check(&Entry { uid: 2_097_152, gid: u32::MAX - 1, mode: 0o7777, ..file(b"a") }, b"");
    }

    #[test]
    fn long_names() {
        let file = |path: Vec<u8>| entry(&path, Kind::File);
        assert_eq!(check(&file(b"n".repeat(100)), b""), 3 * BLOCK);
        assert_eq!(check(&file(b"n".repeat(101)), b""), 5 * BLOCK);
        assert_eq!(check(&file([&b"d".repeat(155)[..], b"/", &b"n".repeat(100)].concat()), b""), 3 * BLOCK);
        check(&file([&b"d".repeat(156)[..], b"/", &b"n".repeat(100)].concat()), b"");
        check(&file([b"/", &b"n".repeat(100)[..]].concat()), b"");
        check(&file(b"d/".repeat(2000)[..3999].to_vec()), b"");
        check(&entry(&b"d/".repeat(60)[..119], Kind::Directory), b"");
        check(&entry(&b"d".repeat(100), Kind::Directory), b"");
        check(&file("n\u{e9}\n\u{1f600}".into()), b"");
        check(&file(b"\xff\xfe".repeat(80)), b"");
    }

    #[test]
    fn times_and_attributes() {
        for (seconds, nanoseconds) in [
            (0, 0),
            (0, 1),
            (1, 500_000_000),
            (-1, 0),
            (-1, 999_999_999),
            (-2, 1),
            (1 << 40, 7),
            (i64::MAX, 1),
        ] {
            check(&Entry { mtime: TimeSpec::new(seconds, nanoseconds), ..entry(b"a", Kind::File) }, b"");
        }
        let xattrs = vec![
            (b"security.capability".to_vec(), b"\x01\0\0\x02\0=\n".to_vec()),
            (b"user.empty".to_vec(), Vec::new()),
            (b"user.large".to_vec(), vec![b'x'; 60_000]),
        ];
        check(&Entry { xattrs, ..entry(&b"n".repeat(300), Kind::File) }, b"");
    }

    #[test]
    fn sparse_files() {
        let segments = vec![Segment { offset: 10, length: 3 }, Segment { offset: 9 << 30, length: 2 }];
        let sparse = |path: &[u8]| Entry {
            size: 10 << 30,
            segments: Some(segments.clone()),
            ..entry(path, Kind::File)
        };
        check(&sparse(b"a/b"), b"hello");
        check(&sparse(&b"n".repeat(250)), b"hello");
        check(&Entry { size: 1 << 20, segments: Some(Vec::new()), ..entry(b"a", Kind::File) }, b"");
    }

    #[test]
    fn files_of_more_than_8_gib() {
        let size = (8 << 30) + 1;
        let mut writer = Writer::new(Vec::new());
        writer.entry(&Entry { size, ..entry(b"large", Kind::File) }).unwrap();
        assert_eq!(writer.left, size);
        let mut reader = Reader::new(Cursor::new(&writer.out[..]));
        assert_eq!(reader.next().unwrap().unwrap().size, size);
        assert!(writer.end().unwrap_err().to_string().contains("less content"));
        let mut writer = Writer::new(Vec::new());
        writer.entry(&entry(b"a", Kind::File)).unwrap();
        assert!(writer.data(b"x").unwrap_err().to_string().contains("more content"));
    }
}
