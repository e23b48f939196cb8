//! What is always on: what tasks of containers have used that have ended, executions, and the OOM killer.
//!
//! The programs stay attached for as long as anybody has the descriptors of [`Events`]: they can be kept by another process and
//! taken back. A container is found by its cgroup's id; nothing else has to be remembered of it.

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use aya::programs::{BtfTracePoint, Iter};
use aya::{Btf, Ebpf, EbpfLoader};
use skiff_ebpf_abi::events::{CGROUPS, Fields, SLOTS};
pub use skiff_ebpf_abi::events::{Counts, Kill, Live, Used};
use skiff_ebpf_abi::{ABSENT, Offsets};
use skiff_sys::bpf::{self, Map, Store};
use skiff_sys::clock::monotonic_ns;
use skiff_sys::heap;

use crate::Error;
use crate::btf::Types;
use crate::load::{check_privileges, program, require};
use crate::maps::Plain;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/events.bpf.o"));

/// Programs without which nothing is counted, each named as its tracepoint.
const TASKS: [&str; 3] = ["sched_process_fork", "sched_process_exec", "sched_process_exit"];
/// Programs with the figure that each gives.
const EXTRAS: [(&str, &str); 3] = [
    ("mark_victim", OOM),
    ("cgroup_mkdir", "tasks in nested cgroups (no tracepoint cgroup_mkdir)"),
    ("cgroup_rmdir", ""),
];
/// What a kernel may not give that others do, each a phrase, of which [`Events::missing`] has those that begin so.
pub const FAULTS: &str = "page faults (no field task_struct.min_flt)";
/// As [`FAULTS`].
pub const RUN_QUEUE: &str = "run queue wait (no field task_struct.sched_info.run_delay)";
/// As [`FAULTS`].
pub const SWITCHES: &str = "context switches (no field task_struct.nvcsw)";
/// As [`FAULTS`].
pub const BLOCK: &str = "block I/O of processes (no field task_struct.ioac.read_bytes)";
/// As [`FAULTS`].
pub const OOM: &str = "whom the OOM killer has killed (no tracepoint mark_victim)";
/// Run over all tasks.
const LIVE: &str = "live";
/// What the kernel does not say of tasks that live.
const NO_LIVE: &str = "faults, waiting and switches of tasks that live (no task iterator)";

/// The programs, attached.
#[derive(Debug)]
pub struct Events {
    cgroups: Map,
    counts: Map,
    /// The iterator, if the kernel has any.
    live: Option<OwnedFd>,
    links: Vec<OwnedFd>,
    /// Slots that nobody has, the one that was used last comes last; whether there may be something in them.
    free: Mutex<VecDeque<(u32, bool)>>,
    missing: Vec<String>,
}

impl Events {
    /// Loads and attaches the programs, which takes longer than a launch.
    ///
    /// Needs `CAP_BPF` and `CAP_PERFMON` in the initial user namespace and the kernel's type information. Linux ≥ 5.8.
    pub fn load() -> Result<Self, Error> {
        let (mut object, btf, missing) = create(CGROUPS)?;
        let events = Self::attach(&mut object, &btf, missing)?;
        drop((object, btf));
        heap::trim();
        Ok(events)
    }

    fn attach(object: &mut Ebpf, btf: &Btf, mut missing: Vec<String>) -> Result<Self, Error> {
        let mut links = Vec::new();
        for name in TASKS {
            links.push(attach(object, name, btf)?);
        }
        for (name, figure) in EXTRAS {
            match attach(object, name, btf) {
                Ok(link) => links.push(link),
                Err(_) if figure.is_empty() => {}
                Err(error) => missing.push(format!("{figure}: {error}")),
            }
        }
        let live = iterator(object, btf);
        let live = live.inspect_err(|error| missing.push(format!("{NO_LIVE}: {error}"))).ok();
        Ok(Self {
            cgroups: map(object, "CGROUPS")?,
            counts: map(object, "COUNTS")?,
            live,
            links,
            free: Mutex::new((0..SLOTS).map(|slot| (slot, false)).collect()),
            missing,
        })
    }

    /// What this kernel does not give, one phrase each.
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// What keeps the programs attached, for another process to keep: maps, iterator, links.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let maps = [self.cgroups.as_fd(), self.counts.as_fd()];
        maps.into_iter().chain(self.live.iter().chain(&self.links).map(AsFd::as_fd)).collect()
    }

    /// Takes back what [`Events::descriptors`] of the same [`digest`] gave to be kept; `has_live` as [`Events::has_live`] said then. `None` if it is of a build
    /// with other layouts.
    pub fn restore(
        descriptors: Vec<OwnedFd>,
        has_live: bool,
        missing: Vec<String>,
    ) -> io::Result<Option<Self>> {
        let mut rest = descriptors.into_iter();
        let mut next = || rest.next().ok_or(io::ErrorKind::InvalidData);
        let (cgroups, counts) = (Map::from_fd(next()?)?, Map::from_fd(next()?)?);
        let is_own = counts.value_len() == size_of::<Counts>()
            && (counts.max_entries(), cgroups.max_entries()) == (SLOTS, CGROUPS)
            && cgroups.value_len() == size_of::<u32>();
        if !is_own {
            return Ok(None);
        }
        let live = if has_live { Some(next()?) } else { None };
        let events = Self { cgroups, counts, live, links: rest.collect(), free: Mutex::default(), missing };
        let taken: HashSet<u32> = events.taken()?.into_iter().map(|(_, slot)| slot).collect();
        // Of what went while nobody looked, nobody has emptied the slot.
        let free = (0..SLOTS).filter(|slot| !taken.contains(slot)).map(|slot| (slot, true)).collect();
        Ok(Some(Self { free: Mutex::new(free), ..events }))
    }

    /// Whether the iterator is among the descriptors.
    pub fn has_live(&self) -> bool {
        self.live.is_some()
    }

    /// The cgroups that are counted, with their slots.
    fn taken(&self) -> io::Result<Vec<(u64, u32)>> {
        let mut taken = Vec::new();
        for key in self.cgroups.keys()? {
            if let (Some(id), Some(slot)) =
                (key.first_chunk().copied().map(u64::from_ne_bytes), self.slot(&key)?)
            {
                taken.push((id, slot));
            }
        }
        Ok(taken)
    }

    fn slot(&self, key: &[u8]) -> io::Result<Option<u32>> {
        let value = self.cgroups.get(key)?;
        Ok(value.and_then(|value| value.first_chunk().copied()).map(u32::from_ne_bytes))
    }

    /// Whether the cgroup2 with the id `cgroup` is counted.
    pub fn is_armed(&self, cgroup: u64) -> bool {
        self.slot(&cgroup.to_ne_bytes()).is_ok_and(|slot| slot.is_some())
    }

    /// Counts from now on what happens in the cgroup2 with the id `cgroup` (the inode of its directory). Its program has not been executed
    /// yet, or else `is_late`: what has ended before is not in the figures then.
    ///
    /// Two system calls at most. Errors: `ENOSPC` if there are too many.
    pub fn arm(&self, cgroup: u64, is_late: bool) -> io::Result<()> {
        let (slot, is_used) = self.free().pop_front().ok_or(io::ErrorKind::StorageFull)?;
        let begin = || {
            if is_used {
                self.counts.set(&slot.to_ne_bytes(), &to_bytes(&Counts::default()), Store::Any)?;
            }
            if is_late {
                // The next program is not the first one.
                let counts = Counts { execs: 1, processes: 1, since_ns: monotonic_ns(), ..Counts::default() };
                self.counts.set(&slot.to_ne_bytes(), &to_bytes(&counts), Store::Any)?;
            }
            self.cgroups.set(&cgroup.to_ne_bytes(), &slot.to_ne_bytes(), Store::New)
        };
        begin().inspect_err(|_| self.free().push_front((slot, true)))
    }

    /// What was counted of `cgroup` by now, of tasks that have ended; `None` if it is not counted.
    pub fn counts(&self, cgroup: u64) -> io::Result<Option<Counts>> {
        let Some(slot) = self.slot(&cgroup.to_ne_bytes())? else { return Ok(None) };
        self.counts_of(slot).map(Some)
    }

    fn counts_of(&self, slot: u32) -> io::Result<Counts> {
        let bytes = self.counts.get(&slot.to_ne_bytes())?.unwrap_or_default();
        from_bytes(&bytes).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// What was counted of `cgroup`, all of whose tasks have ended, and counts it no more.
    pub fn take(&self, cgroup: u64) -> io::Result<Option<Counts>> {
        let key = cgroup.to_ne_bytes();
        let Some(slot) = self.slot(&key)? else { return Ok(None) };
        let counts = self.counts_of(slot)?;
        self.cgroups.remove(&key)?;
        self.counts.set(&slot.to_ne_bytes(), &to_bytes(&Counts::default()), Store::Any)?;
        self.free().push_back((slot, false));
        Ok(Some(counts))
    }

    /// What tasks have used that live, added up, by the slot that [`Events::slot_of`] tells. One pass over all tasks of the host.
    pub fn live(&self) -> io::Result<Vec<Live>> {
        let Some(link) = &self.live else { return Ok(Vec::new()) };
        let mut bytes = Vec::new();
        bpf::iterate(link.as_fd())?.read_to_end(&mut bytes)?;
        Ok(bytes.chunks_exact(size_of::<Live>()).filter_map(live_from_bytes).collect())
    }

    /// The slot of `cgroup`, if it is counted.
    pub fn slot_of(&self, cgroup: u64) -> io::Result<Option<u32>> {
        self.slot(&cgroup.to_ne_bytes())
    }

    fn free(&self) -> std::sync::MutexGuard<'_, VecDeque<(u32, bool)>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What tells this build's programs from those of others.
#[must_use]
pub fn digest() -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(OBJECT);
    hasher.finish()
}

/// Makes the maps, with room for so many cgroups; the kernel's types; what of them this kernel lacks.
fn create(cgroups: u32) -> Result<(Ebpf, Btf, Vec<String>), Error> {
    check_privileges()?;
    // The kernel's types are megabytes, of which nothing is to stay.
    heap::map_large_blocks();
    let paths: Vec<&str> = Offsets::PATHS.iter().copied().chain(Fields::PATHS).collect();
    let types = Types::of_kernel(&paths)?;
    let offsets = Offsets::new(|path| types.offset(path), types.passes_pointer("mark_victim"));
    let fields = Fields::of(Fields::PATHS.map(|path| types.offset(path).unwrap_or(ABSENT)));
    check_fields(&offsets)?;
    if let Some(name) = TASKS.into_iter().find(|name| !types.has_tracepoint(name)) {
        return Err(Error::Tracepoint(name));
    }
    drop(types);
    let (offsets, missing) = (Plain(offsets), lacking(&offsets, &fields));
    let fields = Plain(fields);
    let object = EbpfLoader::new()
        .btf(None)
        .override_global("OFFSETS", &offsets, true)
        .override_global("FIELDS", &fields, true)
        .map_max_entries("CGROUPS", cgroups)
        .load(OBJECT)
        .map_err(|cause| Error::refused("create the maps", &cause))?;
    let btf = Btf::from_sys_fs().map_err(|cause| Error::refused("read the kernel's types", &cause))?;
    Ok((object, btf, missing))
}

/// Those without which nothing can be told apart.
fn check_fields(offsets: &Offsets) -> Result<(), Error> {
    let needed = [
        (offsets.task_pid, "task_struct.pid"),
        (offsets.task_tgid, "task_struct.tgid"),
        (offsets.task_cgroups, "task_struct.cgroups"),
        (offsets.set_default, "css_set.dfl_cgrp"),
        (offsets.cgroup_node, "cgroup.kn"),
        (offsets.node_id, "kernfs_node.id"),
    ];
    require(&needed)
}

/// One phrase for each figure that this kernel does not keep.
fn lacking(offsets: &Offsets, fields: &Fields) -> Vec<String> {
    let figures = [
        (offsets.task_minor, FAULTS),
        (offsets.task_run_delay, RUN_QUEUE),
        (offsets.task_voluntary, SWITCHES),
        (fields.task_read, BLOCK),
        (fields.signal_peak, "the most memory of one process (no field signal_struct.maxrss)"),
        (
            fields.task_start,
            "whom the OOM killer has killed where ids come again (no field task_struct.start_time)",
        ),
        (fields.task_flags, "what lives and is about to end may count twice (no field task_struct.flags)"),
    ];
    let absent = figures.into_iter().filter(|(offset, _)| *offset == ABSENT);
    absent.map(|(_, figure)| figure.to_owned()).collect()
}

fn attach(object: &mut Ebpf, name: &'static str, btf: &Btf) -> Result<OwnedFd, Error> {
    let refused = |cause: &(dyn std::error::Error + 'static)| Error::refused(format!("attach {name}"), cause);
    let program: &mut BtfTracePoint = program(object, name)?.try_into().map_err(|cause| refused(&cause))?;
    program.load(name, btf).map_err(|cause| refused(&cause))?;
    let program = program.fd().map_err(|cause| refused(&cause))?;
    bpf::attach_tracepoint(program.as_fd()).map_err(|cause| refused(&cause))
}

fn iterator(object: &mut Ebpf, btf: &Btf) -> Result<OwnedFd, Error> {
    let refused = |cause: &(dyn std::error::Error + 'static)| Error::refused("attach the iterator", cause);
    let program: &mut Iter = program(object, LIVE)?.try_into().map_err(|cause| refused(&cause))?;
    program.load("task", btf).map_err(|cause| refused(&cause))?;
    let program = program.fd().map_err(|cause| refused(&cause))?;
    bpf::link_iterator(program.as_fd()).map_err(|cause| refused(&cause))
}

fn map(object: &mut Ebpf, name: &str) -> Result<Map, Error> {
    let map = object.take_map(name).ok_or_else(|| Error::Refused {
        step: format!("look up the map {name}"),
        cause: "not in the object".into(),
    })?;
    let Some(data) = crate::maps::data(&map) else {
        return Err(Error::Refused {
            step: format!("look up the map {name}"),
            cause: "of another type".into(),
        });
    };
    let fd = data.fd().as_fd().try_clone_to_owned();
    fd.and_then(Map::from_fd).map_err(|cause| Error::refused("look up a map", &cause))
}

/// As the kernel has them.
fn to_bytes(counts: &Counts) -> Vec<u8> {
    let Counts {
        used,
        processes,
        threads,
        execs,
        exits,
        peak_pages,
        oom_kills,
        oom,
        setup_cpu_ns,
        since_ns,
        nested_refused,
    } = counts;
    let words =
        used.words().into_iter().chain([*processes, *threads, *execs, *exits, *peak_pages, *oom_kills]);
    let mut bytes: Vec<u8> = words.flat_map(u64::to_ne_bytes).collect();
    bytes.extend(kill_to_bytes(oom));
    bytes.extend([*setup_cpu_ns, *since_ns, *nested_refused].into_iter().flat_map(u64::to_ne_bytes));
    bytes
}

/// As the kernel has them.
fn kill_to_bytes(kill: &Kill) -> Vec<u8> {
    let Kill { at_ns, killer_cgroup, killer_pid, victim_pid, killer_name, victim_name, is_inside } = kill;
    let mut bytes: Vec<u8> = [*at_ns, *killer_cgroup].into_iter().flat_map(u64::to_ne_bytes).collect();
    bytes.extend([*killer_pid, *victim_pid].into_iter().flat_map(u32::to_ne_bytes));
    bytes.extend(killer_name.iter().chain(victim_name));
    bytes.extend(is_inside.to_ne_bytes());
    bytes
}

fn from_bytes(bytes: &[u8]) -> Option<Counts> {
    const WORDS: usize = Used::WORDS + 6;
    let word = |at: usize| bytes.get(at..)?.first_chunk().copied().map(u64::from_ne_bytes);
    let half = |at: usize| bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes);
    let name = |at: usize| bytes.get(at..)?.first_chunk::<16>().copied();
    let mut words = [0; WORDS];
    for (nth, to) in words.iter_mut().enumerate() {
        *to = word(8 * nth)?;
    }
    let [used @ .., processes, threads, execs, exits, peak_pages, oom_kills] = words;
    let oom = 8 * WORDS;
    Some(Counts {
        used: Used::of_words(used),
        processes,
        threads,
        execs,
        exits,
        peak_pages,
        oom_kills,
        oom: Kill {
            at_ns: word(oom)?,
            killer_cgroup: word(oom + 8)?,
            killer_pid: half(oom + 16)?,
            victim_pid: half(oom + 20)?,
            killer_name: name(oom + 24)?,
            victim_name: name(oom + 40)?,
            is_inside: word(oom + 56)?,
        },
        setup_cpu_ns: word(oom + 64)?,
        since_ns: word(oom + 72)?,
        nested_refused: word(oom + 80)?,
    })
}

fn live_from_bytes(bytes: &[u8]) -> Option<Live> {
    let mut words =
        bytes.chunks_exact(8).filter_map(|chunk| chunk.first_chunk().copied().map(u64::from_ne_bytes));
    let slot = words.next()?;
    let mut used = [0; Used::WORDS];
    for to in &mut used {
        *to = words.next()?;
    }
    Some(Live { slot, used: Used::of_words(used) })
}

#[cfg(test)]
mod tests;
