//! Reading ahead what a profile says, in the order in which it will be wanted.
//!
//! Directories, inodes and extents of all files come first, by many threads, for each is a read or two of a block that wait for
//! nothing but the disk: behind data they would wait for that, too. So there is little data on its way until they are there; and
//! never much, for what the program asks for itself waits behind it. Data comes in the order of its time classes, and of the device
//! within one.
//!
//! Data is charged to whom it is read for: a [reader](skiff_sys::reader) in the container's cgroups asks the kernel for it, once there
//! is one. What is looked up until then, and what the kernel keeps of that, is the caller's.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::ffi::CString;
use std::fs::File as Open;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::SFlag;
use skiff_sys::cache::{self, PAGE};
use skiff_sys::file::{Resolve, open_beneath, proc_fd_path};
use skiff_sys::reader::Reader;

use super::profile::{File, Profile, Range};
use crate::Digest;

/// Threads that look up.
const THREADS: usize = 16;
/// Bytes on their way from the disk at a time: enough for 4 GB/s at 1 ms a read.
const WINDOW: u64 = 4 << 20;
/// The same while files are looked up.
const WINDOW_LOOKING: u64 = 512 << 10;
/// Bytes asked for at once.
const PIECE: u64 = 256 << 10;
/// Pages between two ranges that are read with them: few bytes beside the wait of a program that needs them after all.
const HOLE_MAX: u64 = 8;
/// Files that are looked at to see whether all is in the cache.
const SAMPLE: usize = 12;
/// So much of them has to be, in percent.
const WARM: u64 = 95;
/// Entries of one directory that are read, and links of it that are looked at.
const ENTRIES_MAX: usize = 4096;
const LINKS_MAX: usize = 64;

/// What a replay came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Whether there was anything to do.
    pub outcome: Outcome,
    /// Files of the profile that were found in the image.
    pub files: u64,
    /// Files that were not, or are others.
    pub missing: u64,
    /// Bytes read ahead.
    pub bytes: u64,
    /// Bytes of the profile that were in the cache already.
    pub resident_bytes: u64,
    /// How long it took.
    pub elapsed_ns: u64,
}

/// What was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Outcome {
    /// It is all in the page cache, as far as was looked.
    #[default]
    Warm,
    /// What was not, was read.
    Read,
    /// There was no reader.
    Unread,
}

/// A file of a layer, to be read.
struct Target {
    file: Arc<OwnedFd>,
    /// Where its pieces lie: physical minus logical offset, from a logical one on.
    extents: Vec<cache::Extent>,
}

/// Bytes of a file that are not in the cache.
struct Piece {
    file: Arc<OwnedFd>,
    offset: u64,
    length: u64,
}

/// Who reads for a container.
#[derive(Debug)]
pub struct Lent {
    /// The end of the reader's socket.
    pub socket: OwnedFd,
    /// How many bytes it may read: those that are used first.
    pub bytes_max: u64,
}

/// Has what `profile` says read into the page cache by a reader, as far as it is in `layers`, directories of a store.
///
/// `reader` waits for it, while files are looked up already; where there is none, nothing is read. Each file is open until all of it
/// has been asked for; of more than `files_max` those are taken that are used first.
///
/// Comes back when all of it is there, the reader is gone, or has not gone on for 20 s or not come to an end in a minute. Nothing fails: what cannot be opened or is no regular
/// file is left out.
pub fn replay(
    profile: &Profile,
    layers: &[PathBuf],
    files_max: usize,
    reader: impl FnOnce() -> Option<Lent>,
) -> Report {
    let begin = Instant::now();
    let roots: HashMap<Digest, Open> = layers.iter().filter_map(root).collect();
    let mut report = Report::default();
    if !is_warm(profile, &roots) {
        report.outcome = Outcome::Unread;
        read(profile, &roots, files_max, reader, &mut report);
    }
    report.elapsed_ns = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
    report
}

/// Whether `profile` is in the page cache already, as far as a few files of it tell. Some microseconds for each.
pub fn is_warm_in(profile: &Profile, layers: &[PathBuf]) -> bool {
    is_warm(profile, &layers.iter().filter_map(root).collect())
}

fn root(path: &PathBuf) -> Option<(Digest, Open)> {
    Some((name(path)?, Open::open(path).ok()?))
}

/// The digest that a layer's directory is called by.
pub(super) fn name(path: &Path) -> Option<Digest> {
    Digest::from_hex(path.file_name()?.to_str()?)
}

/// Looks at the files with the most pages, and stops at the first that is cold.
fn is_warm(profile: &Profile, roots: &HashMap<Digest, Open>) -> bool {
    let mut sample: Vec<&File> = profile.files.iter().collect();
    sample.sort_by_key(|file| std::cmp::Reverse(file.pages()));
    sample.into_iter().take(SAMPLE).all(|file| {
        let Some(open) = open(file, roots) else { return true };
        let found: u64 = file
            .ranges
            .iter()
            .map(|range| cache::resident(open.as_fd(), range.1, range.2).unwrap_or(range.2))
            .sum();
        found * 100 >= file.pages() * WARM
    })
}

fn read(
    profile: &Profile,
    roots: &HashMap<Digest, Open>,
    files_max: usize,
    reader: impl FnOnce() -> Option<Lent>,
    report: &mut Report,
) {
    let mut files: Vec<&File> = profile.files.iter().collect();
    // Neighbours in a directory are neighbours on the disk.
    files.sort_by(|a, b| (a.class(), a.layer, &a.path).cmp(&(b.class(), b.layer, &b.path)));
    files.truncate(files_max);
    let directories: BTreeSet<_> = files.iter().map(|file| (file.layer, parent(file))).collect();
    let directories: Vec<_> = directories.into_iter().collect();
    let (next_file, next_directory) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (send, looked_up) = crossbeam::channel::unbounded();
    let look = || {
        while let Some(file) = files.get(next_file.fetch_add(1, Ordering::Relaxed)) {
            let _received = send.send((*file, look_up(file, roots)));
        }
        while let Some((layer, path)) = directories.get(next_directory.fetch_add(1, Ordering::Relaxed)) {
            roots.get(layer).and_then(|root| list(root, path));
        }
    };
    thread::scope(|scope| {
        let spawn = |_| thread::Builder::new().spawn_scoped(scope, look).ok();
        if (0..THREADS.min(files.len())).filter_map(spawn).count() == 0 {
            look();
        }
        let Some(Lent { socket, bytes_max }) = reader() else { return };
        let Ok(mut window) = Reader::new(socket).map(Window::of) else { return };
        let mut queue = Queue::default();
        let mut left = files.len();
        loop {
            let found = if left > 0 && queue.is_empty() { looked_up.recv().ok() } else { None };
            for (file, target) in found.into_iter().chain(looked_up.try_iter()) {
                left -= 1;
                match target {
                    Some(target) => {
                        report.files += 1;
                        queue.add(file, &target, report);
                    }
                    None => report.missing += 1,
                }
            }
            match queue.pop() {
                Some(piece) => {
                    let length = piece.length;
                    let limit = if left > 0 { WINDOW_LOOKING } else { WINDOW };
                    if report.bytes + length > bytes_max || window.push(piece, limit).is_err() {
                        break;
                    }
                    report.bytes += length;
                }
                None if left == 0 => break,
                None => {}
            }
        }
        // What a reader that has gone leaves is of no use; that there was none shows here.
        let drained = window.drain();
        if window.is_served || drained.is_ok() && report.bytes == 0 {
            report.outcome = Outcome::Read;
        } else {
            report.bytes = 0;
        }
    });
}

fn look_up(file: &File, roots: &HashMap<Digest, Open>) -> Option<Target> {
    let file = Arc::new(open(file, roots)?);
    // Also has the blocks read that say where its data is, which readahead(2) would wait for.
    let extents = cache::extents(file.as_fd()).unwrap_or_default();
    Some(Target { file, extents })
}

fn open(file: &File, roots: &HashMap<Digest, Open>) -> Option<OwnedFd> {
    open_below(roots.get(&file.layer)?.as_fd(), file)
}

/// The file, if it is what the profile says: a regular one of that size, below the layer, behind no link.
pub(super) fn open_below(root: BorrowedFd<'_>, file: &File) -> Option<OwnedFd> {
    let name = CString::new(file.path.as_str()).ok()?;
    // First without opening it, which of a device or a pipe would have effects.
    let handle = open_beneath(root, &name, OFlag::O_PATH, 0, Resolve::NoXdev).ok()?;
    let found = nix::sys::stat::fstat(&handle).ok()?;
    let is_regular = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG;
    if !is_regular || found.st_size.unsigned_abs() != file.size {
        return None;
    }
    let flags = OFlag::O_RDONLY | OFlag::O_NOATIME;
    skiff_sys::file::open(&proc_fd_path(handle.as_fd()), flags, 0).ok()
}

/// The directory that the file is in.
fn parent(file: &File) -> &str {
    file.path.rsplit_once('/').map_or(".", |(parent, _)| parent)
}

/// Reads a directory: programs that search a path look at all of it, and links in it lead to files.
fn list(root: &Open, path: &str) -> Option<()> {
    let name = CString::new(path).ok()?;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    let opened = open_beneath(root.as_fd(), &name, flags, 0, Resolve::NoXdev).ok()?;
    let mut directory = Dir::from_fd(opened).ok()?;
    let entries = directory.iter().take(ENTRIES_MAX).flatten();
    let links = entries.filter(|entry| entry.file_type() == Some(nix::dir::Type::Symlink));
    let links: Vec<CString> = links.map(|entry| entry.file_name().to_owned()).collect();
    for link in links.iter().take(LINKS_MAX) {
        // Only to have its inode read.
        let _looked = nix::sys::stat::fstatat(&directory, link.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
    }
    Some(())
}

/// What is to be read and not yet asked for: the next is the earliest class, and the first of it on the device.
#[derive(Default)]
struct Queue {
    order: BinaryHeap<Reverse<(u8, u64, usize)>>,
    pieces: Vec<Option<Piece>>,
}

impl Queue {
    /// Adds what of the file is not there.
    fn add(&mut self, file: &File, target: &Target, report: &mut Report) {
        for Range(class, first, pages) in filled(&file.ranges) {
            let resident = cache::resident(target.file.as_fd(), first, pages).unwrap_or(0);
            report.resident_bytes += resident * PAGE;
            if resident == pages {
                continue;
            }
            let (mut offset, end) = (first * PAGE, (first + pages) * PAGE);
            while offset < end {
                let length = PIECE.min(end - offset);
                self.order.push(Reverse((class, target.physical(offset), self.pieces.len())));
                self.pieces.push(Some(Piece { file: target.file.clone(), offset, length }));
                offset += length;
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    fn pop(&mut self) -> Option<Piece> {
        let Reverse((.., nth)) = self.order.pop()?;
        self.pieces.get_mut(nth)?.take()
    }
}

/// The ranges, and the small holes between them: which pages around it a fault maps differs from run to run, and one that is missing
/// costs a read of its own. No hole is longer than the range before it, so there are no more than twice the pages.
fn filled(ranges: &[Range]) -> impl Iterator<Item = Range> {
    ranges.iter().enumerate().map(|(nth, &Range(class, first, pages))| {
        let hole = ranges.get(nth + 1).map_or(0, |next| next.1.saturating_sub(first + pages));
        let is_small = hole <= HOLE_MAX.min(pages);
        Range(class, first, if is_small { pages + hole } else { pages })
    })
}

impl Target {
    /// Where `offset` lies; at the end of the device if nobody knows.
    fn physical(&self, offset: u64) -> u64 {
        let mut covering = self
            .extents
            .iter()
            .filter(|extent| (extent.logical..extent.logical + extent.length).contains(&offset));
        covering.next().map_or(u64::MAX, |extent| extent.physical + (offset - extent.logical))
    }
}

/// What is on its way.
struct Window {
    reader: Reader,
    pieces: VecDeque<Piece>,
    bytes: u64,
    /// It has answered.
    is_served: bool,
}

impl Window {
    const fn of(reader: Reader) -> Self {
        Self { reader, pieces: VecDeque::new(), bytes: 0, is_served: false }
    }

    /// Asks for `piece`, once no more than `limit` bytes are on their way with it.
    ///
    /// Errors: the reader is gone.
    fn push(&mut self, piece: Piece, limit: u64) -> io::Result<()> {
        while self.bytes + piece.length > limit && self.wait()? {}
        self.reader.ask(piece.file.as_fd(), piece.offset, piece.length)?;
        self.bytes += piece.length;
        self.pieces.push_back(piece);
        Ok(())
    }

    /// Waits for the oldest; whether there was any.
    fn wait(&mut self) -> io::Result<bool> {
        let Some(piece) = self.pieces.pop_front() else { return Ok(false) };
        self.bytes -= piece.length;
        self.reader.wait(piece.file.as_fd(), piece.offset + piece.length - PAGE)?;
        self.is_served = true;
        Ok(true)
    }

    fn drain(&mut self) -> io::Result<()> {
        while self.wait()? {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_holes_are_read_with_what_is_around_them() {
        let check = |ranges: &[Range], expected: &[Range]| {
            assert_eq!(filled(ranges).collect::<Vec<_>>(), expected, "{ranges:?}");
        };
        check(&[], &[]);
        check(&[Range(3, 7, 2)], &[Range(3, 7, 2)]);
        check(&[Range(3, 0, 9), Range(5, 17, 1)], &[Range(3, 0, 17), Range(5, 17, 1)]);
        check(&[Range(3, 0, 9), Range(5, 18, 1)], &[Range(3, 0, 9), Range(5, 18, 1)]);
        check(&[Range(3, 0, 1), Range(5, 3, 1)], &[Range(3, 0, 1), Range(5, 3, 1)]);
        check(&[Range(3, 0, 1), Range(5, 1, 1)], &[Range(3, 0, 1), Range(5, 1, 1)]);
    }
}
