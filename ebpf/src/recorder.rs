//! Records which pages of which files the tasks of a cgroup use: an object of its own, loaded while something is recorded.

use std::collections::{HashMap as Table, VecDeque};
use std::fmt;

use aya::maps::{Array, HashMap, MapData};
use aya::programs::BtfTracePoint;
use aya::{Btf, Ebpf, EbpfLoader};
use skiff_ebpf_abi::Offsets;
use skiff_ebpf_abi::prefetch::{Chunk, PAGES, Place, Progress, SLOTS};
use skiff_sys::heap;

use crate::Error;
use crate::btf::Types;
use crate::fields::{require_cgroup, require_pages};
use crate::load::{check_privileges, program};
use crate::maps::{Plain, read_error, write_error};
use crate::marks::Object;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/prefetch.bpf.o"));

/// What tells of pages that are used. Linux ≥ 6.12.
const USED: [&str; 3] = ["mm_filemap_get_pages", "mm_filemap_map_pages", "mm_filemap_fault"];
/// What tells of pages that come into the cache.
const ADDED: &str = "mm_filemap_add_to_page_cache";
const EXEC: &str = "sched_process_exec";
/// Gives the instant of readiness, without which a recording ends with the quiet after it.
const LISTEN: &str = "inet_sock_set_state";

/// The recorder's programs, loaded and attached. Dropping it detaches and unloads them; so does the end of the process.
pub struct Recorder {
    // Held so that the programs stay attached.
    _object: Ebpf,
    recorded: HashMap<MapData, u64, u32>,
    uses: HashMap<MapData, Plain<Place>, Plain<Chunk>>,
    progress: Array<MapData, Plain<Progress>>,
    /// The one that was used last comes last: a program that still runs for the recording before may write to it.
    free: VecDeque<u32>,
    /// Recordings that could not be read out, and still have their slots.
    left: Vec<Recording>,
    accuracy: Accuracy,
}

/// What the running kernel tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accuracy {
    /// Every read and every mapping, of pages in the cache too. Linux ≥ 6.12.
    Used,
    /// What comes into the cache, which includes what is read ahead, and nothing that is in it already.
    Added,
}

/// A cgroup that is being recorded.
#[derive(Debug)]
#[must_use = "a recording takes room until it is finished"]
pub struct Recording {
    cgroup: u64,
    slot: u32,
}

/// A file, as the kernel knows it: device (12 bits of major, 20 of minor) and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// The device of its file system.
    pub device: u32,
    /// The inode.
    pub inode: u64,
}

/// Consecutive pages that were used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// The first.
    pub page: u64,
    /// How many; up to 64.
    pub pages: u64,
    /// When the first of the 64 around them was, ns of CLOCK_MONOTONIC.
    pub first_ns: u64,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("accuracy", &self.accuracy).finish_non_exhaustive()
    }
}

impl Recorder {
    /// Loads and attaches the programs, which takes longer than a launch.
    ///
    /// Needs `CAP_BPF` and `CAP_PERFMON` in the initial user namespace and the kernel's type information. Linux ≥ 5.16.
    pub fn load() -> Result<Self, Error> {
        Self::with(None)
    }

    /// What a recording would hold on this kernel. Needs its type information.
    pub fn accuracy_here() -> Result<Accuracy, Error> {
        Ok(told_by(&Types::of_kernel(&[])?))
    }

    /// As [`Recorder::load`], with what older kernels tell: for tests.
    pub fn load_as(accuracy: Accuracy) -> Result<Self, Error> {
        Self::with(Some(accuracy))
    }

    fn with(wanted: Option<Accuracy>) -> Result<Self, Error> {
        check_privileges()?;
        let types = Types::of_kernel(Offsets::PATHS)?;
        let offsets = Offsets::new(|path| types.offset(path), false);
        require_cgroup(&offsets)?;
        require_pages(&offsets)?;
        let accuracy = wanted.unwrap_or_else(|| told_by(&types));
        let listens = types.has_tracepoint(LISTEN);
        drop(types);
        let globals = Plain(offsets);
        let mut object = EbpfLoader::new()
            .btf(None)
            .load(Object::new(OBJECT).with(&globals).bytes())
            .map_err(|cause| Error::refused("create the maps", &cause))?;
        let btf = Btf::from_sys_fs().map_err(|cause| Error::refused("read the kernel's types", &cause))?;
        let pages = match accuracy {
            Accuracy::Used => USED.as_slice(),
            Accuracy::Added => &[ADDED],
        };
        for name in pages.iter().copied().chain([EXEC]).chain(listens.then_some(LISTEN)) {
            attach(&mut object, name, &btf)?;
        }
        drop(btf);
        let recorder = Self {
            recorded: map(&mut object, "RECORDED")?,
            uses: map(&mut object, "USES")?,
            progress: map(&mut object, "PROGRESS")?,
            free: (0..SLOTS).collect(),
            left: Vec::new(),
            accuracy,
            _object: object,
        };
        heap::trim();
        Ok(recorder)
    }

    /// What a recording holds on this kernel.
    pub const fn accuracy(&self) -> Accuracy {
        self.accuracy
    }

    /// Records from now on what the tasks in the cgroup2 with the id `cgroup_id` (the inode of its directory) use. Tasks of
    /// cgroups below it are not recorded.
    pub fn arm(&mut self, cgroup_id: u64) -> Result<Recording, Error> {
        let slot = *self.free.front().ok_or(Error::NoSlot(SLOTS))?;
        self.progress.set(slot, Plain(Progress::default()), 0).map_err(write_error)?;
        self.recorded.insert(cgroup_id, slot, 0).map_err(write_error)?;
        self.free.pop_front();
        Ok(Recording { cgroup: cgroup_id, slot })
    }

    /// How far it is.
    pub fn progress(&self, recording: &Recording) -> Result<Progress, Error> {
        Ok(self.progress.get(&recording.slot, 0).map_err(read_error)?.0)
    }

    /// Stops to record, and returns what was used of each file, in the order of its pages, and how far it came.
    ///
    /// Errors: a map cannot be read or written; the next one tries again to free what this one leaves.
    pub fn finish(&mut self, recording: Recording) -> Result<(Table<FileId, Vec<Used>>, Progress), Error> {
        for left in std::mem::take(&mut self.left) {
            // What it has is out of date.
            let _free = self.read_out(left);
        }
        self.read_out(recording)
    }

    fn read_out(&mut self, recording: Recording) -> Result<(Table<FileId, Vec<Used>>, Progress), Error> {
        let read = self.take(&recording);
        // Its slot can be given away only when there is nothing more of it.
        match read {
            Ok(_) => self.free.push_back(recording.slot),
            Err(_) => self.left.push(recording),
        }
        read
    }

    fn take(&mut self, recording: &Recording) -> Result<(Table<FileId, Vec<Used>>, Progress), Error> {
        // A cgroup that has gone meanwhile is still recorded. One that was left is not any more.
        let is_recorded = self.recorded.get(&recording.cgroup, 0).is_ok_and(|slot| slot == recording.slot);
        if is_recorded {
            self.recorded.remove(&recording.cgroup).map_err(write_error)?;
        }
        let progress = self.progress(recording)?;
        let mut places = Vec::new();
        for entry in self.uses.iter() {
            let (place, chunk) = entry.map_err(read_error)?;
            if place.0.slot == recording.slot {
                places.push((place, chunk.0));
            }
        }
        for (place, _) in &places {
            self.uses.remove(place).map_err(write_error)?;
        }
        let mut files = Table::<FileId, Vec<Used>>::new();
        for (Plain(place), chunk) in places {
            let file = FileId { device: place.device, inode: place.inode };
            files.entry(file).or_default().extend(runs(place.chunk * PAGES, chunk));
        }
        files.values_mut().for_each(|used| used.sort_unstable_by_key(|used| used.page));
        Ok((files, progress))
    }
}

/// The best that a kernel with these types has tracepoints for.
fn told_by(types: &Types) -> Accuracy {
    if USED.iter().all(|name| types.has_tracepoint(name)) { Accuracy::Used } else { Accuracy::Added }
}

/// The runs of ones in the bits of `chunk`, the first of which stands for the page `base`.
fn runs(base: u64, chunk: Chunk) -> impl Iterator<Item = Used> {
    let mut bits = chunk.used;
    let mut at = 0;
    std::iter::from_fn(move || {
        if bits == 0 {
            return None;
        }
        let zeros = bits.trailing_zeros();
        let ones = (bits >> zeros).trailing_ones();
        let page = base + u64::from(at + zeros);
        at += zeros + ones;
        bits = bits.checked_shr(zeros + ones).unwrap_or(0);
        Some(Used { page, pages: ones.into(), first_ns: chunk.first_ns })
    })
}

pub(crate) fn attach(object: &mut Ebpf, name: &'static str, btf: &Btf) -> Result<(), Error> {
    let refused = |cause: &(dyn std::error::Error + 'static)| Error::refused(format!("attach {name}"), cause);
    let program: &mut BtfTracePoint = program(object, name)?.try_into().map_err(|cause| refused(&cause))?;
    program.load(name, btf).map_err(|cause| refused(&cause))?;
    program.attach().map_err(|cause| refused(&cause))?;
    Ok(())
}

pub(crate) fn map<T: TryFrom<aya::maps::Map, Error = aya::maps::MapError>>(
    object: &mut Ebpf,
    name: &str,
) -> Result<T, Error> {
    let map = object.take_map(name).ok_or_else(|| Error::Refused {
        step: format!("look up the map {name}"),
        cause: "not in the object".into(),
    })?;
    map.try_into().map_err(|cause| Error::refused("look up a map", &cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_become_runs_of_pages() {
        let check = |bits, expected: &[(u64, u64)]| {
            let found: Vec<_> =
                runs(128, Chunk { first_ns: 7, used: bits }).map(|used| (used.page, used.pages)).collect();
            assert_eq!(found, expected, "{bits:b}");
        };
        check(0, &[]);
        check(1, &[(128, 1)]);
        check(u64::MAX, &[(128, 64)]);
        check(1 << 63, &[(191, 1)]);
        check(0b1_0110, &[(129, 2), (132, 1)]);
        check(u64::MAX << 60 | 0b11, &[(128, 2), (188, 4)]);
    }
}
