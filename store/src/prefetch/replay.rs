//! Reading ahead what a profile says, in the order in which it will be wanted.
//!
//! For each time class: directories and inodes first, by several threads, since one look-up waits for the disk; then data, in the
//! order of the device. So much is on its way at a time and no more: what the program asks for itself waits behind it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::CString;
use std::fs::File as Open;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::SFlag;
use nix::sys::uio::pread;
use skiff_sys::cache::{self, PAGE};
use skiff_sys::file::{Resolve, open_beneath, proc_fd_path};

use super::profile::{File, Profile};
use crate::Digest;

/// Threads that look up.
const THREADS: usize = 8;
/// Files that are opened together, and such batches that wait for their data to be read.
const BATCH: usize = 128;
const AHEAD: usize = 2;
/// Bytes on their way from the disk at a time.
const WINDOW: u64 = 16 << 20;
/// Bytes asked for at once.
const PIECE: u64 = 2 << 20;
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
}

/// A file of a layer, to be read.
struct Target {
    file: Arc<OwnedFd>,
    /// Where its pieces lie: physical minus logical offset, from a logical one on.
    extents: Vec<cache::Extent>,
}

/// Bytes of a file that are not in the cache.
struct Piece {
    physical: u64,
    file: Arc<OwnedFd>,
    offset: u64,
    length: u64,
}

/// Has what `profile` says read into the page cache, as far as it is in `layers`, directories of a store.
///
/// Comes back when all but the last of it is there. Nothing fails: what cannot be opened or is no regular file is left out.
pub fn replay(profile: &Profile, layers: &[PathBuf]) -> Report {
    let begin = Instant::now();
    let roots: HashMap<Digest, Open> = layers.iter().filter_map(root).collect();
    let mut report = Report::default();
    if !is_warm(profile, &roots) {
        report.outcome = Outcome::Read;
        read(profile, &roots, &mut report);
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

/// Files that are opened, of the class that they are opened for.
type Batch<'a> = (u8, Vec<&'a File>, Vec<Option<Target>>);

fn read(profile: &Profile, roots: &HashMap<Digest, Open>, report: &mut Report) {
    thread::scope(|scope| {
        let (send, opened) = crossbeam::channel::bounded(AHEAD);
        let looking = move || look_ahead(profile, roots, &mut |batch| send.send(batch).is_ok());
        if thread::Builder::new().spawn_scoped(scope, looking).is_err() {
            return;
        }
        let mut window = Window::default();
        for (class, files, targets) in opened {
            let mut pieces = Vec::new();
            for (file, target) in files.into_iter().zip(targets) {
                let is_first = file.class() == class;
                match target {
                    Some(target) => {
                        report.files += u64::from(is_first);
                        collect(file, class, &target, &mut pieces, report);
                    }
                    None => report.missing += u64::from(is_first),
                }
            }
            pieces.sort_by_key(|piece| piece.physical);
            for piece in pieces {
                report.bytes += piece.length;
                window.push(piece);
            }
        }
        window.drain();
    });
}

/// Opens the files of one class after the other, while data of those before is being read.
fn look_ahead<'a>(
    profile: &'a Profile,
    roots: &HashMap<Digest, Open>,
    found: &mut dyn FnMut(Batch<'a>) -> bool,
) {
    let last = profile.files.iter().flat_map(|file| &file.ranges).map(|range| range.0).max().unwrap_or(0);
    let directories = Mutex::new(HashSet::new());
    for class in 0..=last {
        let mut files: Vec<&File> =
            profile.files.iter().filter(|file| file.ranges.iter().any(|range| range.0 == class)).collect();
        // Neighbours in a directory are neighbours on the disk.
        files.sort_by(|a, b| (a.layer, &a.path).cmp(&(b.layer, &b.path)));
        for batch in files.chunks(BATCH) {
            let targets = look_up(batch, roots, &directories);
            if !found((class, batch.to_vec(), targets)) {
                return;
            }
        }
    }
}

/// Opens the files, by several threads.
fn look_up(
    batch: &[&File],
    roots: &HashMap<Digest, Open>,
    directories: &Mutex<HashSet<(Digest, String)>>,
) -> Vec<Option<Target>> {
    let next = AtomicUsize::new(0);
    let found = Mutex::new(batch.iter().map(|_| None).collect::<Vec<_>>());
    let work = || {
        while let Some((nth, file)) = {
            let nth = next.fetch_add(1, Ordering::Relaxed);
            batch.get(nth).map(|file| (nth, file))
        } {
            list_parent(file, roots, directories);
            let target = open(file, roots).map(|open| {
                let extents = cache::extents(open.as_fd()).unwrap_or_default();
                Target { file: Arc::new(open), extents }
            });
            if let Ok(mut found) = found.lock() {
                found[nth] = target;
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..THREADS.min(batch.len()) {
            // Without further threads this one does it all.
            let _spawned = thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
    found.into_inner().unwrap_or_default()
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

/// Reads the directory that the file is in, once: programs that search a path list it, and links in it lead to files.
fn list_parent(file: &File, roots: &HashMap<Digest, Open>, directories: &Mutex<HashSet<(Digest, String)>>) {
    let parent = file.path.rsplit_once('/').map_or(".", |(parent, _)| parent);
    let is_new = directories.lock().is_ok_and(|mut known| known.insert((file.layer, parent.to_owned())));
    if !is_new {
        return;
    }
    let list = || {
        let root = roots.get(&file.layer)?;
        let name = CString::new(parent).ok()?;
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
    };
    let _listed = list();
}

/// The pieces of the file that are wanted in `class` and not there.
fn collect(file: &File, class: u8, target: &Target, pieces: &mut Vec<Piece>, report: &mut Report) {
    for range in file.ranges.iter().filter(|range| range.0 == class) {
        let resident = cache::resident(target.file.as_fd(), range.1, range.2).unwrap_or(0);
        report.resident_bytes += resident * PAGE;
        if resident == range.2 {
            continue;
        }
        let (mut offset, end) = (range.1 * PAGE, (range.1 + range.2) * PAGE);
        while offset < end {
            let length = PIECE.min(end - offset);
            let physical = target.physical(offset);
            pieces.push(Piece { physical, file: target.file.clone(), offset, length });
            offset += length;
        }
    }
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
#[derive(Default)]
struct Window {
    pieces: VecDeque<Piece>,
    bytes: u64,
}

impl Window {
    /// Asks for `piece`, once there is room.
    fn push(&mut self, piece: Piece) {
        while self.bytes + piece.length > WINDOW && self.wait().is_some() {}
        if cache::read_ahead(piece.file.as_fd(), piece.offset, piece.length).is_ok() {
            self.bytes += piece.length;
            self.pieces.push_back(piece);
        }
    }

    /// Waits for the oldest.
    fn wait(&mut self) -> Option<()> {
        let piece = self.pieces.pop_front()?;
        self.bytes -= piece.length;
        // A page that is being read is waited for; of a file that has come to an end nothing is.
        let last = i64::try_from(piece.offset + piece.length - PAGE).unwrap_or(i64::MAX);
        let _there = pread(&piece.file, &mut [0], last);
        Some(())
    }

    fn drain(&mut self) {
        while self.wait().is_some() {}
    }
}
