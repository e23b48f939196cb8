//! The entries of a tar stream: ustar, PAX, GNU and old star headers, sparse files of all four kinds.
//!
//! A reader of untrusted bytes: memory is bounded by [`METADATA_MAX`] and [`sparse::SEGMENTS_MAX`] per entry, whatever
//! the headers claim. What the names mean on a file system is not judged
//! here. Where writers disagree, Go's archive/tar decides, because engines have accepted images by it: links,
//! directories and devices carry no data whatever their size says, and global PAX headers are passed over.
//!
//! Not supported, and an error: multi-volume archives and GNU incremental dumps.

mod header;
mod pax;
mod sparse;

use std::io::{self, BufRead};

use nix::sys::time::TimeSpec;

use header::{BLOCK, Header};
use pax::Pax;
pub(crate) use sparse::Segment;

/// Most bytes of extension headers (PAX records, GNU long names) that one entry may have.
const METADATA_MAX: u64 = 1 << 20;

/// What a file is, with what only that kind of file has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    /// To a path in the same archive.
    HardLink(Vec<u8>),
    Symlink(Vec<u8>),
    Fifo,
    /// Major and minor number.
    Char(u32, u32),
    Block(u32, u32),
}

/// One entry, names and numbers as the archive says them.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    /// The twelve permission bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: TimeSpec,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Length of the file in bytes, holes included.
    pub(crate) size: u64,
    /// Where the stored data belongs; absent when it is the whole file.
    pub(crate) segments: Option<Vec<Segment>>,
}

/// A source of bytes that may know a faster way to pass over some of them.
pub(crate) trait Input: BufRead {
    /// Passes over `count` bytes. Errors: `UnexpectedEof`, though a seeking input may notice it only later.
    fn skip(&mut self, count: u64) -> io::Result<()>;
}

/// Reads entries one after the other; the data of one is there until the next is asked for.
#[derive(Debug)]
pub(crate) struct Reader<I> {
    input: I,
    /// Bytes read so far.
    offset: u64,
    /// Data of the current entry not read yet.
    left: u64,
    /// Bytes between the end of that data and the next header.
    padding: u64,
}

impl<I: Input> Reader<I> {
    pub(crate) fn new(input: I) -> Self {
        Self { input, offset: 0, left: 0, padding: 0 }
    }

    /// The next entry, or none at the end of the archive.
    pub(crate) fn next(&mut self) -> io::Result<Option<Entry>> {
        let mut pax = Pax::default();
        let (mut long_name, mut long_link) = (None, None);
        let mut budget = METADATA_MAX;
        loop {
            let Some(header) = self.header()? else { return Ok(None) };
            match header.kind() {
                b'x' => pax.read(&self.metadata(&mut budget)?)?,
                b'L' => long_name = Some(up_to_nul(self.metadata(&mut budget)?)),
                b'K' => long_link = Some(up_to_nul(self.metadata(&mut budget)?)),
                b'g' | b'V' => {}
                _ => {
                    pax.path = pax.path.or(long_name);
                    pax.link = pax.link.or(long_link);
                    return self.entry(&header, pax).map(Some);
                }
            }
        }
    }

    /// The next piece of the current entry's data; empty at its end.
    pub(crate) fn data(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let piece = self.input.fill_buf()?;
        if piece.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let length = usize::try_from(self.left).map_or(piece.len(), |left| left.min(piece.len()));
        Ok(&piece[..length])
    }

    /// Says that `count` bytes of the last [`Reader::data`] have been used.
    pub(crate) fn consume(&mut self, count: usize) {
        self.input.consume(count);
        self.left -= count as u64;
        self.offset += count as u64;
    }

    /// Where in the stream the data of the current entry begins, and how much of it there is.
    pub(crate) fn position(&self) -> (u64, u64) {
        (self.offset, self.left)
    }

    /// The input, to tell it something; nothing is to be read from it past the reader.
    pub(crate) fn input(&mut self) -> &mut I {
        &mut self.input
    }

    /// The input, wherever it has been read to.
    pub(crate) fn into_inner(self) -> I {
        self.input
    }

    /// Passes over what is left of the current entry and reads a header; sets how much data follows it.
    fn header(&mut self) -> io::Result<Option<Header>> {
        self.skip(self.left)?;
        match self.skip(self.padding) {
            // umoci does not pad the last file of a layer.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            skipped => skipped?,
        }
        (self.left, self.padding) = (0, 0);
        let Some(block) = self.block()? else { return Ok(None) };
        if block == [0; BLOCK] {
            return match self.block()? {
                Some(block) if block != [0; BLOCK] => Err(malformed("zeros where a header belongs")),
                _ => Ok(None),
            };
        }
        let header = Header::new(block)?;
        self.data_follows(header.size()?)?;
        Ok(Some(header))
    }

    fn skip(&mut self, count: u64) -> io::Result<()> {
        if count > 0 {
            self.input.skip(count)?;
            self.offset += count;
        }
        Ok(())
    }

    fn data_follows(&mut self, size: u64) -> io::Result<()> {
        if size > i64::MAX.unsigned_abs() - BLOCK as u64 {
            return Err(malformed("size out of range"));
        }
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    fn entry(&mut self, header: &Header, mut pax: Pax) -> io::Result<Entry> {
        let path = pax.path.take().unwrap_or_else(|| header.path());
        let link = pax.link.take().unwrap_or_else(|| header.link());
        let kind = kind(header, &path, link)?;
        let size = pax.size.unwrap_or(header.size()?);
        self.data_follows(if kind == Kind::File { size } else { 0 })?;
        let sparse = match kind {
            Kind::File => self.sparse(header, &pax)?,
            _ => None,
        };
        let name = pax.sparse.name.take();
        let (size, segments) = sparse.map_or((self.left, None), |(size, segments)| (size, Some(segments)));
        Ok(Entry {
            path: if segments.is_some() { name.unwrap_or(path) } else { path },
            kind,
            mode: header.mode()?,
            uid: pax.uid.map_or_else(|| header.uid(), Ok)?,
            gid: pax.gid.map_or_else(|| header.gid(), Ok)?,
            mtime: pax.mtime.map_or_else(|| header.mtime(), Ok)?,
            xattrs: pax.xattrs,
            size,
            segments,
        })
    }

    /// Length and map of a sparse file; none for a plain one.
    fn sparse(&mut self, header: &Header, pax: &Pax) -> io::Result<Option<(u64, Vec<Segment>)>> {
        let found = if header.kind() == b'S' {
            Some((header.real_size()?, self.old_sparse_map(header)?))
        } else if pax.sparse.version == Some((1, 0)) {
            let size = pax.sparse.size.ok_or_else(|| malformed("sparse file without a size"))?;
            Some((size, self.leading_sparse_map()?))
        } else {
            pax.sparse.size.map(|size| (size, pax.sparse.map.clone()))
        };
        if let Some((size, segments)) = &found {
            sparse::check(segments, *size, self.left)?;
        }
        Ok(found)
    }

    /// GNU's first format: four segments in the header, 21 in each block that follows it.
    fn old_sparse_map(&mut self, header: &Header) -> io::Result<Vec<Segment>> {
        let mut segments = Vec::new();
        let mut more = header.sparse_map(&mut segments)?;
        while more {
            let block = self.block()?.ok_or(io::ErrorKind::UnexpectedEof)?;
            more = header::sparse_block(&block, &mut segments)?;
        }
        Ok(segments)
    }

    /// PAX format 1.0: the map stands in front of the data, as decimal numbers in whole blocks.
    fn leading_sparse_map(&mut self) -> io::Result<Vec<Segment>> {
        let mut text = sparse::MapText::default();
        while !text.is_complete()? {
            if self.left < BLOCK as u64 {
                return Err(malformed("sparse map longer than the file"));
            }
            let block = self.block()?.ok_or(io::ErrorKind::UnexpectedEof)?;
            self.left -= BLOCK as u64;
            text.push(&block);
        }
        text.segments()
    }

    /// A whole block; none at the end of the stream.
    fn block(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let piece = self.input.fill_buf()?;
            let count = piece.len().min(BLOCK - filled);
            match count {
                0 if filled == 0 => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                _ => block[filled..filled + count].copy_from_slice(&piece[..count]),
            }
            self.input.consume(count);
            filled += count;
        }
        self.offset += BLOCK as u64;
        Ok(Some(block))
    }

    /// All data of an extension header; `budget` is what the entry may still use for them.
    fn metadata(&mut self, budget: &mut u64) -> io::Result<Vec<u8>> {
        *budget = budget
            .checked_sub(self.left)
            .ok_or_else(|| malformed("over 1 MiB of extension headers for one entry"))?;
        let mut all = Vec::new();
        while self.left > 0 {
            let piece = self.data()?;
            let count = piece.len();
            all.extend_from_slice(piece);
            self.consume(count);
        }
        Ok(all)
    }
}

fn kind(header: &Header, path: &[u8], link: Vec<u8>) -> io::Result<Kind> {
    Ok(match header.kind() {
        0 if path.ends_with(b"/") => Kind::Directory,
        0 | b'0' | b'7' | b'S' => Kind::File,
        b'1' => Kind::HardLink(link),
        b'2' => Kind::Symlink(link),
        b'3' => header.device().map(|(major, minor)| Kind::Char(major, minor))?,
        b'4' => header.device().map(|(major, minor)| Kind::Block(major, minor))?,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        other => return Err(malformed(&format!("entry type {:?} is not supported", char::from(other)))),
    })
}

fn up_to_nul(mut name: Vec<u8>) -> Vec<u8> {
    name.truncate(name.iter().position(|&b| b == 0).unwrap_or(name.len()));
    name
}

pub(crate) fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("malformed tar: {what}"))
}

#[cfg(any(test, fuzzing))]
impl Input for io::Cursor<&[u8]> {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        let left = (self.get_ref().len() as u64).saturating_sub(self.position());
        if count > left {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.set_position(self.position() + count);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
