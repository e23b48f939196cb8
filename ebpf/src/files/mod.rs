//! Records what the tasks of one container open, which pages of which files they use, and what becomes of its processes: an object
//! of its own, loaded for one profile.

mod process;

use std::collections::HashMap as Table;
use std::fmt;
use std::os::fd::BorrowedFd;

use aya::maps::{Array, CgroupArray, HashMap, MapData, RingBuf};
use aya::{Btf, Ebpf, EbpfLoader};
use skiff_ebpf_abi::files::{Chunk, Fields, File, Lost, Name, Open, PAGES, PART, PATH, Place};
use skiff_ebpf_abi::{ABSENT, Offsets};
use skiff_sys::heap;

pub use process::{Event, Exec, Process, processes};

use crate::Error;
use crate::btf::Types;
use crate::fields::{require_pages, require_task};
use crate::load::check_privileges;
use crate::maps::{Plain, read_error, write_error};
use crate::marks::Object;
use crate::recorder::{Accuracy, attach, map};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/files.bpf.o"));

const PROGRAMS: [&str; 4] = ["sched_process_fork", "sched_process_exec", "sched_process_exit", "sys_exit"];
/// What tells of pages that are used. Linux ≥ 6.12.
const USED: [&str; 3] = ["mm_filemap_get_pages", "mm_filemap_map_pages", "mm_filemap_fault"];
/// What tells of pages that come into the cache.
const ADDED: &str = "mm_filemap_add_to_page_cache";

/// The programs, loaded and attached. Dropping it detaches and unloads them; so does the end of the process.
pub struct Recorder {
    // Held so that the programs stay attached.
    _object: Ebpf,
    cgroups: CgroupArray<MapData>,
    events: RingBuf<MapData>,
    opened: HashMap<MapData, Plain<Open>, u64>,
    uses: HashMap<MapData, Plain<Place>, Plain<Chunk>>,
    names: HashMap<MapData, Plain<File>, Plain<Name>>,
    lost: Array<MapData, Plain<Lost>>,
    accuracy: Accuracy,
}

/// What was recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// Processes in the order of their births.
    pub processes: Vec<Process>,
    /// What was opened, the most frequent first.
    pub opens: Vec<Opened>,
    /// Files of which pages were used, most pages first.
    pub files: Vec<UsedFile>,
    /// What is missing.
    pub lost: Missed,
    /// Whether uses of what was in the page cache before are told of.
    pub exact: bool,
}

/// What found no room, and is in no figure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Missed {
    /// Births, executions and ends of processes.
    pub processes: u64,
    /// Calls that opened something.
    pub opens: u64,
    /// Uses of up to 64 pages.
    pub pages: u64,
    /// Files without a name.
    pub names: u64,
}

impl Missed {
    /// All of it.
    #[must_use]
    pub const fn sum(&self) -> u64 {
        self.processes + self.opens + self.pages + self.names
    }
}

/// A path that was opened, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// As it was given; cut after 191 bytes; empty if it could not be read.
    pub path: String,
    /// It is longer than that: others that begin like it are counted on their own.
    pub is_cut: bool,
    /// The error that came of it, if there was one.
    pub errno: Option<i32>,
    /// How often.
    pub count: u64,
}

/// A file, and what was used of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsedFile {
    /// The device of its file system: 12 bits of major, 20 of minor.
    pub device: u64,
    /// The inode.
    pub inode: u64,
    /// Its path on its own file system; empty if it is not known, and begun by `…` if it has more parts than are kept.
    pub path: String,
    /// Its size when it was first used.
    pub bytes: u64,
    /// Pages that were asked for by read(2), or came into the cache where the kernel does not tell.
    pub read: Vec<(u64, u64)>,
    /// Pages that page faults mapped: first, how many.
    pub mapped: Vec<(u64, u64)>,
    /// Pages that were used one way or the other.
    pub pages: u64,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("accuracy", &self.accuracy).finish_non_exhaustive()
    }
}

impl Recorder {
    /// Loads and attaches the programs; nothing is recorded before [`Recorder::watch`].
    ///
    /// Needs `CAP_BPF` and `CAP_PERFMON` in the initial user namespace and the kernel's type information. Linux ≥ 5.16.
    pub fn load() -> Result<Self, Error> {
        check_privileges()?;
        let paths: Vec<&str> = Offsets::PATHS.iter().copied().chain(Fields::PATHS).collect();
        let types = Types::of_kernel(&paths)?;
        let offsets = Offsets::new(|path| types.offset(path), false);
        require_task(&offsets)?;
        require_pages(&offsets)?;
        let tells = USED.iter().all(|name| types.has_tracepoint(name));
        let fields = Fields::of(Fields::PATHS.map(|path| types.offset(path).unwrap_or(ABSENT)), tells);
        if let Some(name) = PROGRAMS.into_iter().find(|name| !types.has_tracepoint(name)) {
            return Err(Error::Tracepoint(name));
        }
        drop(types);
        let (offsets, fields) = (Plain(offsets), Plain(fields));
        let mut object = EbpfLoader::new()
            .btf(None)
            .load(Object::new(OBJECT).with(&offsets).with(&fields).bytes())
            .map_err(|cause| Error::refused("create the maps", &cause))?;
        let btf = Btf::from_sys_fs().map_err(|cause| Error::refused("read the kernel's types", &cause))?;
        let accuracy = if tells { Accuracy::Used } else { Accuracy::Added };
        let pages = if tells { USED.as_slice() } else { &[ADDED] };
        for name in pages.iter().copied().chain(PROGRAMS) {
            attach(&mut object, name, &btf)?;
        }
        drop(btf);
        let recorder = Self {
            cgroups: map(&mut object, "CGROUPS")?,
            events: map(&mut object, "EVENTS")?,
            opened: map(&mut object, "OPENED")?,
            uses: map(&mut object, "USES")?,
            names: map(&mut object, "NAMES")?,
            lost: map(&mut object, "LOST")?,
            accuracy,
            _object: object,
        };
        heap::trim();
        Ok(recorder)
    }

    /// Records from now on what the tasks in the cgroup2 whose directory `cgroup` is do, and those in cgroups below it.
    pub fn watch(&mut self, cgroup: BorrowedFd<'_>) -> Result<(), Error> {
        self.cgroups.set(0, cgroup, 0).map_err(write_error)
    }

    /// Stops, and returns what was recorded. `before` are processes that were there when it began, at `begin_ns`.
    pub fn finish(mut self, before: Vec<Process>, begin_ns: u64) -> Result<Record, Error> {
        let mut events = Vec::new();
        while let Some(bytes) = self.events.next() {
            events.extend(Event::parse(&bytes));
        }
        let lost = self.lost.get(&0, 0).map_err(read_error)?.0;
        Ok(Record {
            processes: processes(before, begin_ns, events),
            opens: self.opens()?,
            files: self.files()?,
            lost: Missed { processes: lost.events, opens: lost.opens, pages: lost.uses, names: lost.names },
            exact: self.accuracy == Accuracy::Used,
        })
    }

    fn opens(&self) -> Result<Vec<Opened>, Error> {
        let mut opens = Vec::new();
        for entry in self.opened.iter() {
            let (open, count) = entry.map_err(read_error)?;
            let errno = i32::try_from(open.0.errno).ok().filter(|errno| *errno != 0);
            let is_cut = open.0.length as usize > PATH;
            opens.push(Opened { path: text(&open.0.path), is_cut, errno, count });
        }
        opens.sort_by(|one, other| {
            (other.count, &one.path, one.errno).cmp(&(one.count, &other.path, other.errno))
        });
        Ok(opens)
    }

    fn files(&self) -> Result<Vec<UsedFile>, Error> {
        let mut chunks: Table<File, Vec<(u64, Chunk)>> = Table::new();
        for entry in self.uses.iter() {
            let (place, chunk) = entry.map_err(read_error)?;
            chunks.entry(place.0.file).or_default().push((place.0.chunk, chunk.0));
        }
        let mut files = Vec::new();
        for (file, mut chunks) in chunks {
            chunks.sort_unstable_by_key(|(chunk, _)| *chunk);
            let name = self.names.get(&Plain(file), 0).ok().map(|name| name.0);
            let pages =
                chunks.iter().map(|(_, chunk)| u64::from((chunk.read | chunk.mapped).count_ones())).sum();
            files.push(UsedFile {
                device: file.device,
                inode: file.inode,
                path: name.as_ref().map(path_of).unwrap_or_default(),
                bytes: name.map_or(0, |name| name.bytes),
                read: ranges(chunks.iter().map(|(at, chunk)| (*at, chunk.read))),
                mapped: ranges(chunks.iter().map(|(at, chunk)| (*at, chunk.mapped))),
                pages,
            });
        }
        files.sort_by(|one, other| {
            (other.pages, &one.path, one.inode).cmp(&(one.pages, &other.path, other.inode))
        });
        Ok(files)
    }
}

/// What comes before the first NUL.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

fn path_of(name: &Name) -> String {
    let parts: Vec<&[u8; PART]> = name.parts.iter().take_while(|part| part[0] != 0).collect();
    let start = if parts.len() == name.parts.len() { "…" } else { "" };
    parts.iter().rev().fold(start.to_owned(), |path, part| path + "/" + &text(*part))
}

/// Bits of consecutive pieces as runs of pages: first, how many.
fn ranges(chunks: impl Iterator<Item = (u64, u64)>) -> Vec<(u64, u64)> {
    let mut all: Vec<(u64, u64)> = Vec::new();
    for (chunk, bits) in chunks {
        for page in (0..PAGES).filter(|page| bits >> page & 1 == 1).map(|page| chunk * PAGES + page) {
            match all.last_mut() {
                Some((first, count)) if *first + *count == page => *count += 1,
                _ => all.push((page, 1)),
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_ebpf_abi::files::PARTS;

    #[test]
    fn bits_become_runs_across_pieces() {
        let check = |chunks: &[(u64, u64)], expected: &[(u64, u64)]| {
            assert_eq!(ranges(chunks.iter().copied()), expected, "{chunks:?}");
        };
        check(&[], &[]);
        check(&[(0, 0b1_0110)], &[(1, 2), (4, 1)]);
        check(&[(0, 1 << 63), (1, 0b11)], &[(63, 3)]);
        check(&[(0, 1 << 63), (2, 1)], &[(63, 1), (128, 1)]);
    }

    #[test]
    fn names_begin_at_the_root() {
        let mut name = Name { bytes: 1, parts: [[0; PART]; PARTS] };
        assert_eq!(path_of(&name), "");
        for (part, text) in name.parts.iter_mut().zip(["ld.so", "lib", "usr"]) {
            part[..text.len()].copy_from_slice(text.as_bytes());
        }
        assert_eq!(path_of(&name), "/usr/lib/ld.so");
        for part in &mut name.parts {
            part[0] = b'a';
        }
        assert!(path_of(&name).starts_with("…/a"));
    }
}
