//! A blob's way through three threads: read, hash | decompress | hash, unpack.
//!
//! Both digests cover every byte: whatever goes wrong while unpacking, the rest of the stream is still read and
//! hashed, so that damage is reported as a wrong digest rather than as its first symptom. Only the limit on the
//! content's size cuts that short.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crossbeam::channel::{Receiver, Sender, bounded};
use sha2::{Digest as _, Sha256};

use super::{Privilege, Skipped};
use crate::blob::{Compression, decompress};
use crate::digest::Digest;
use crate::entries::{Input, Reader};
use crate::error::cause;
use crate::recipe::{Recorder, Tap};

/// Bytes passed from thread to thread at once.
const PIECE: usize = 256 << 10;
/// Pieces on the way at most.
const PIECES: usize = 4;

/// Content that no blob may exceed.
const CONTENT_MAX: u64 = 1 << 40;
/// Content that any blob may have, and how many times its own size beyond that. DEFLATE reaches 1032.
const CONTENT_FREE: u64 = 1 << 30;
const RATIO_MAX: u64 = 200;

/// A layer's blob, and what it must turn out to be.
pub(crate) struct Checked<'a> {
    pub(crate) blob: Box<dyn Read + Send + 'a>,
    /// Length of the blob in bytes, as far as it is known.
    pub(crate) size: u64,
    /// Digest of the blob as stored; absent where the image gives none.
    pub(crate) digest: Option<Digest>,
    /// Digest of the content; absent where it is to be found out.
    pub(crate) diff_id: Option<Digest>,
    /// What the media type says; absent where the image gives none.
    pub(crate) compression: Option<Compression>,
}

/// What came of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unpacked {
    pub(crate) skipped: Skipped,
    /// Digest of the content.
    pub(crate) diff_id: Digest,
    /// Length of the content.
    pub(crate) tar_bytes: u64,
}

/// Where a layer is made.
#[derive(Debug)]
pub(crate) struct Place {
    /// An empty directory for its tree.
    pub(crate) root: OwnedFd,
    /// Another one, on the same file system, for what entries replace.
    pub(crate) trash: OwnedFd,
    /// An empty file for its recipe, open to be read as well; stays empty if the recipe would be too large.
    pub(crate) recipe: Option<File>,
}

/// Unpacks a layer.
///
/// Gives up soon after `cancelled` is set. Errors: one line, without the layer's name.
pub(crate) fn unpack(
    layer: Checked<'_>,
    place: Place,
    privilege: Privilege,
    cancelled: &AtomicBool,
) -> Result<Unpacked, String> {
    if layer.size != u64::MAX {
        let limit = Limit::Bytes(content_max(layer.size));
        return unpack_within(limit, layer, place, privilege, cancelled);
    }
    let read = Arc::new(AtomicU64::new(0));
    let blob = Box::new(Counted { blob: layer.blob, read: Arc::clone(&read) });
    unpack_within(Limit::OfWhatWasRead(read), Checked { blob, ..layer }, place, privilege, cancelled)
}

/// Most bytes of content.
#[derive(Debug)]
enum Limit {
    Bytes(u64),
    /// By what has been read so far of a blob whose length nobody knows.
    OfWhatWasRead(Arc<AtomicU64>),
}

impl Limit {
    fn bytes(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => *bytes,
            Self::OfWhatWasRead(read) => content_max(read.load(Ordering::Relaxed)),
        }
    }
}

/// Counts what is read of a blob.
struct Counted<'a> {
    blob: Box<dyn Read + Send + 'a>,
    read: Arc<AtomicU64>,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.blob.read(buffer)?;
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// Most bytes that a blob of `length` bytes may have in it.
pub(crate) fn content_max(length: u64) -> u64 {
    length.saturating_mul(RATIO_MAX).clamp(CONTENT_FREE, CONTENT_MAX)
}

fn unpack_within(
    limit: Limit,
    layer: Checked<'_>,
    place: Place,
    privilege: Privilege,
    cancelled: &AtomicBool,
) -> Result<Unpacked, String> {
    let diff_id = layer.diff_id;
    let recorder = place.recipe.map(Recorder::new).transpose().map_err(|e| cause(&e))?;
    let (pieces, incoming) = bounded(PIECES);
    let (used, recycled) = bounded(PIECES + 2);
    thread::scope(|scope| {
        scope.spawn(move || produce(layer, &pieces, &recycled, cancelled));
        let content = Content {
            incoming,
            used,
            piece: Vec::new(),
            at: 0,
            hasher: Sha256::new(),
            length: 0,
            limit,
            verdict: None,
        };
        let mut reader = Reader::new(Tap::new(content, recorder));
        let outcome = super::unpack(&mut reader, place.root, place.trash, privilege);
        let mut rest = reader.into_inner();
        if outcome.is_ok() {
            io::copy(&mut rest, &mut io::sink()).map_err(|e| cause(&e))?;
        }
        let (content, recorder) = rest.into_parts();
        let (diff_id, tar_bytes) = content.finish(diff_id)?;
        let (skipped, tree) = outcome?;
        super::finish(tree, recorder)?;
        Ok(Unpacked { skipped, diff_id, tar_bytes })
    })
}

enum Piece {
    Data(Vec<u8>),
    /// The end of the blob, and whether it was what it should be.
    End(Result<(), String>),
}

/// Sends the content piece by piece, then the verdict on the blob. Stops when nobody listens any more.
fn produce(layer: Checked<'_>, pieces: &Sender<Piece>, recycled: &Receiver<Vec<u8>>, cancelled: &AtomicBool) {
    let Checked { blob, digest, compression, .. } = layer;
    let enough = &AtomicBool::new(false);
    let (outcome, fetched) = thread::scope(|scope| {
        let (stored, incoming) = bounded(PIECES);
        let (used, empty) = bounded(PIECES + 2);
        let stop = move || cancelled.load(Ordering::Relaxed) || enough.load(Ordering::Relaxed);
        let fetching = scope.spawn(move || fetch(blob, digest, &stored, &empty, &stop));
        let stored = Stored { incoming, used, piece: Vec::new(), at: 0 };
        let outcome = pump(stored, compression, pieces, recycled, cancelled);
        enough.store(matches!(outcome, Ok(Pumped::Cancelled)), Ordering::Relaxed);
        let fetched = fetching.join().unwrap_or_else(|_| Err("reading the blob failed".to_owned()));
        (outcome, fetched)
    });
    let verdict = match outcome {
        Ok(Pumped::Cancelled) => return,
        Ok(Pumped::All) => Ok(()),
        Err(e) => Err(cause(&e)),
    };
    if pieces.send(Piece::End(fetched.and(verdict))).is_err() {
        tracing::debug!("layer given up before its end");
    }
}

/// Reads the blob to its end and says whether it is what it should be; sends it on for as long as somebody listens.
fn fetch(
    mut blob: Box<dyn Read + Send + '_>,
    expected: Option<Digest>,
    pieces: &Sender<Vec<u8>>,
    empty: &Receiver<Vec<u8>>,
    stop: &dyn Fn() -> bool,
) -> Result<(), String> {
    let mut hasher = expected.map(|_| Sha256::new());
    loop {
        let mut piece = empty.try_recv().unwrap_or_else(|_| Vec::with_capacity(PIECE));
        piece.clear();
        let read = blob.by_ref().take(PIECE as u64).read_to_end(&mut piece);
        if let Some(hasher) = &mut hasher {
            hasher.update(&piece);
        }
        let is_last = piece.is_empty();
        if !is_last {
            // Who does not listen any more has failed, which may be for damage that the digest tells of.
            drop(pieces.send(piece));
        }
        read.map_err(|e| cause(&e))?;
        if is_last {
            break;
        }
        if stop() {
            return Err("cancelled".to_owned());
        }
    }
    match (hasher.map(Digest::finish), expected) {
        (Some(found), Some(expected)) if found != expected => {
            Err(format!("blob has digest {found}, the manifest says {expected}"))
        }
        _ => Ok(()),
    }
}

/// The blob as it arrives.
struct Stored {
    incoming: Receiver<Vec<u8>>,
    used: Sender<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Stored {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

/// Ends where the blob does or could not be read any further; then the other side says which.
impl BufRead for Stored {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.piece.len()
            && let Ok(piece) = self.incoming.recv()
        {
            let used = std::mem::replace(&mut self.piece, piece);
            self.at = 0;
            // A full or closed channel only means that the buffer is freed instead of used again.
            drop(self.used.try_send(used));
        }
        Ok(&self.piece[self.at..])
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
    }
}

enum Pumped {
    All,
    Cancelled,
}

fn pump(
    stored: Stored,
    compression: Option<Compression>,
    pieces: &Sender<Piece>,
    recycled: &Receiver<Vec<u8>>,
    cancelled: &AtomicBool,
) -> io::Result<Pumped> {
    let mut content = decompress(stored, compression)?;
    loop {
        let mut piece = recycled.try_recv().unwrap_or_else(|_| Vec::with_capacity(PIECE));
        piece.clear();
        let count = content.by_ref().take(PIECE as u64).read_to_end(&mut piece);
        let failed = count.err();
        let is_last = piece.is_empty();
        if cancelled.load(Ordering::Relaxed) || !is_last && pieces.send(Piece::Data(piece)).is_err() {
            return Ok(Pumped::Cancelled);
        }
        match failed {
            Some(e) => return Err(e),
            None if is_last => return Ok(Pumped::All),
            None => {}
        }
    }
}

/// The decompressed content as it arrives, hashed and counted.
#[derive(Debug)]
struct Content {
    incoming: Receiver<Piece>,
    used: Sender<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
    hasher: Sha256,
    length: u64,
    limit: Limit,
    verdict: Option<Result<(), String>>,
}

impl Content {
    /// Receives the next piece; false at the end.
    fn advance(&mut self) -> bool {
        if self.verdict.is_some() {
            return false;
        }
        match self.incoming.recv() {
            Ok(Piece::Data(data)) => {
                self.hasher.update(&data);
                self.length += data.len() as u64;
                let used = std::mem::replace(&mut self.piece, data);
                self.at = 0;
                // A full or closed channel only means that the buffer is freed instead of used again.
                drop(self.used.try_send(used));
                let limit = self.limit.bytes();
                if self.length > limit {
                    self.verdict = Some(Err(format!("unpacks to more than {limit} bytes")));
                }
            }
            Ok(Piece::End(verdict)) => self.verdict = Some(verdict),
            Err(_) => self.verdict = Some(Err("cancelled".to_owned())),
        }
        self.verdict.is_none()
    }

    /// Reads what is left and says whether blob and content are what they should be. Returns the content's digest and
    /// length.
    fn finish(mut self, diff_id: Option<Digest>) -> Result<(Digest, u64), String> {
        while self.advance() {}
        self.verdict.unwrap_or(Ok(()))?;
        let found = Digest::finish(self.hasher);
        match diff_id.filter(|&diff_id| found != diff_id) {
            Some(diff_id) => Err(format!("content has digest {found}, the configuration says {diff_id}")),
            None => Ok((found, self.length)),
        }
    }
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Content {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at == self.piece.len() {
            if !self.advance() {
                return Ok(&[]);
            }
        }
        Ok(&self.piece[self.at..])
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
    }
}

impl Input for Content {
    fn skip(&mut self, mut count: u64) -> io::Result<()> {
        while count > 0 {
            let have = self.fill_buf()?.len();
            if have == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let step = usize::try_from(count).map_or(have, |count| count.min(have));
            self.consume(step);
            count -= step as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    #[test]
    fn large_blobs_may_hold_more() {
        for (length, expect) in
            [(0, 1 << 30), (1 << 20, 1 << 30), (1 << 30, 200 << 30), (1 << 40, 1 << 40), (u64::MAX, 1 << 40)]
        {
            assert_eq!(content_max(length), expect, "{length}");
        }
    }

    /// A megabyte of zeros, which end an archive but count all the same.
    fn unpack_zeros(limit: u64, cancelled: bool) -> Result<u64, String> {
        let zeros = vec![0; 1 << 20];
        let dir = std::env::temp_dir().join(format!("skiff-bomb-{}-{limit}-{cancelled}", std::process::id()));
        let directory = |name: &str| {
            fs::create_dir_all(dir.join(name)).unwrap();
            OwnedFd::from(File::open(dir.join(name)).unwrap())
        };
        let (root, trash) = (directory("root"), directory("trash"));
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(&zeros).unwrap();
        let packed = packed.finish().unwrap();
        let layer = Checked {
            blob: Box::new(&*packed),
            size: packed.len() as u64,
            digest: Some(Digest::of(&packed)),
            diff_id: Some(Digest::of(&zeros)),
            compression: None,
        };
        let cancelled = AtomicBool::new(cancelled);
        let place = Place { root, trash, recipe: None };
        let got = unpack_within(Limit::Bytes(limit), layer, place, Privilege::of_caller(), &cancelled);
        fs::remove_dir_all(dir).unwrap();
        got.map(|unpacked| unpacked.tar_bytes)
    }

    #[test]
    fn content_beyond_the_limit_is_refused() {
        assert_eq!(unpack_zeros(1 << 20, false), Ok(1 << 20));
        assert_eq!(unpack_zeros((1 << 20) - 1, false), Err("unpacks to more than 1048575 bytes".to_owned()));
    }

    #[test]
    fn the_limit_of_a_stream_grows_with_it() {
        let read = Arc::new(AtomicU64::new(0));
        let mut counted = Counted { blob: Box::new(io::repeat(0).take(7 << 20)), read: Arc::clone(&read) };
        let limit = Limit::OfWhatWasRead(read);
        assert_eq!(limit.bytes(), 1 << 30);
        io::copy(&mut counted, &mut io::sink()).unwrap();
        assert_eq!(limit.bytes(), 1400 << 20);
    }

    #[test]
    fn a_cancelled_layer_fails() {
        assert_eq!(unpack_zeros(1 << 20, true), Err("cancelled".to_owned()));
    }
}
