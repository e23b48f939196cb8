//! What is always on: what tasks of containers have used that have ended, executions, and the OOM killer.
//!
//! The programs stay attached for as long as anybody has the descriptors of [`Events`]: they can be kept by another process and
//! taken back. A container is found by its cgroup's id, and forgotten by the programs when the directory of that goes; nothing else
//! has to be remembered of it.

use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use aya::programs::{BtfTracePoint, Iter};
use aya::{Btf, Ebpf, EbpfLoader};
use skiff_ebpf_abi::events::{CONTAINERS, Fields, NESTED};
pub use skiff_ebpf_abi::events::{Counts, Kill, Live, Used};
use skiff_ebpf_abi::{ABSENT, Offsets};
use skiff_sys::bpf::{self, Map, Store};
use skiff_sys::clock::monotonic_ns;
use skiff_sys::heap;

use crate::Error;
use crate::btf::Types;
use crate::load::{check_privileges, program, require};
use crate::maps::Plain;
use crate::marks::Object;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/events.bpf.o"));

/// Programs without which nothing is counted, each with its tracepoint.
const TASKS: [(&str, &str); 4] = [
    ("skiff_fork", "sched_process_fork"),
    ("skiff_exec", "sched_process_exec"),
    ("skiff_exit", "sched_process_exit"),
    ("skiff_rmdir", "cgroup_rmdir"),
];
/// Programs with the figure that each gives.
const EXTRAS: [(&str, &str, &str); 2] = [
    ("skiff_oom", "mark_victim", OOM),
    ("skiff_mkdir", "cgroup_mkdir", "tasks in nested cgroups (no tracepoint cgroup_mkdir)"),
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
const LIVE: &str = "skiff_live";
/// What the kernel does not say of tasks that live.
const NO_LIVE: &str = "faults, waiting and switches of tasks that live (no task iterator)";

/// The programs, attached.
#[derive(Debug)]
pub struct Events {
    containers: Map,
    nested: Map,
    /// The iterator, if the kernel has any.
    live: Option<OwnedFd>,
    links: Vec<OwnedFd>,
    missing: Vec<String>,
}

impl Events {
    /// Loads and attaches the programs, which takes longer than a launch.
    ///
    /// Needs `CAP_BPF` and `CAP_PERFMON` in the initial user namespace and the kernel's type information. Linux ≥ 5.8.
    pub fn load() -> Result<Self, Error> {
        let (mut object, btf, missing) = create(NESTED, Marks::Used)?;
        let events = Self::attach(&mut object, &btf, missing)?;
        drop((object, btf));
        heap::trim();
        Ok(events)
    }

    fn attach(object: &mut Ebpf, btf: &Btf, mut missing: Vec<String>) -> Result<Self, Error> {
        let mut links = Vec::new();
        for (name, tracepoint) in TASKS {
            links.push(attach(object, name, tracepoint, btf)?);
        }
        for (name, tracepoint, figure) in EXTRAS {
            match attach(object, name, tracepoint, btf) {
                Ok(link) => links.push(link),
                Err(error) => missing.push(format!("{figure}: {error}")),
            }
        }
        let live = iterator(object, btf);
        let live = live.inspect_err(|error| missing.push(format!("{NO_LIVE}: {error}"))).ok();
        Ok(Self {
            containers: map(object, "CONTAINERS")?,
            nested: map(object, "NESTED")?,
            live,
            links,
            missing,
        })
    }

    /// What this kernel does not give, one phrase each.
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// What keeps the programs attached, for another process to keep: maps, iterator, links.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let maps = [self.containers.as_fd(), self.nested.as_fd()];
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
        let (containers, nested) = (Map::from_fd(next()?)?, Map::from_fd(next()?)?);
        let is_own = containers.value_len() == size_of::<Counts>() && containers.max_entries() == CONTAINERS;
        if !is_own {
            return Ok(None);
        }
        let live = if has_live { Some(next()?) } else { None };
        Ok(Some(Self { containers, nested, live, links: rest.collect(), missing }))
    }

    /// Whether the iterator is among the descriptors.
    pub fn has_live(&self) -> bool {
        self.live.is_some()
    }

    /// Whether the cgroup2 with the id `cgroup` is counted.
    pub fn is_armed(&self, cgroup: u64) -> bool {
        self.counts(cgroup).is_ok_and(|counts| counts.is_some())
    }

    /// Counts from now on, until its directory goes, what happens in the cgroup2 with the id `cgroup` (the inode of its directory). Its
    /// program has not been executed yet, or else `is_late`: what has ended before is not in the figures then.
    ///
    /// One system call. Errors: `ENOSPC` if there are too many, `EEXIST` if it is counted.
    pub fn arm(&self, cgroup: u64, is_late: bool) -> io::Result<()> {
        let counts = if is_late {
            // The next program is not the first one.
            Counts { execs: 1, processes: 1, since_ns: monotonic_ns(), ..Counts::default() }
        } else {
            Counts::default()
        };
        let stored = self.containers.set(&cgroup.to_ne_bytes(), &to_bytes(&counts), Store::New);
        stored.map_err(|error| match error.raw_os_error() {
            Some(libc::E2BIG) => io::ErrorKind::StorageFull.into(),
            _ => error,
        })
    }

    /// Counts `cgroup` no more, whose directory had gone before it was [armed](Self::arm): the programs were not told of it in time. One system
    /// call.
    pub fn forget(&self, cgroup: u64) -> io::Result<()> {
        self.containers.remove(&cgroup.to_ne_bytes()).map(drop)
    }

    /// What was counted of `cgroup` by now, of tasks that have ended; `None` if it is not counted. One system call.
    pub fn counts(&self, cgroup: u64) -> io::Result<Option<Counts>> {
        let Some(bytes) = self.containers.get(&cgroup.to_ne_bytes())? else { return Ok(None) };
        from_bytes(&bytes).map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// What each task of a container has used that lives. One pass over all tasks of the host.
    pub fn live(&self) -> io::Result<Vec<Live>> {
        let Some(link) = &self.live else { return Ok(Vec::new()) };
        let mut bytes = Vec::new();
        bpf::iterate(link.as_fd())?.read_to_end(&mut bytes)?;
        Ok(bytes.chunks_exact(size_of::<Live>()).filter_map(live_from_bytes).collect())
    }
}

/// What tells this build's programs from those of others.
#[must_use]
pub fn digest() -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(OBJECT);
    hasher.finish()
}

/// Whether the programs look for the kernel's own mark before they look for a note of the OOM killer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Marks {
    Used,
    /// As where the kernel has none.
    #[cfg(test)]
    Absent,
}

/// Makes the maps, with room for so many cgroups below containers'; the kernel's types; what of them this kernel lacks.
fn create(nested: u32, marks: Marks) -> Result<(Ebpf, Btf, Vec<String>), Error> {
    check_privileges()?;
    // The kernel's types are megabytes, of which nothing is to stay.
    heap::map_large_blocks();
    let paths: Vec<&str> = Offsets::PATHS.iter().copied().chain(Fields::PATHS).collect();
    let types = Types::of_kernel(&paths)?;
    let offsets = Offsets::new(|path| types.offset(path), types.passes_pointer("mark_victim"));
    let mut fields = Fields::of(Fields::PATHS.map(|path| types.offset(path).unwrap_or(ABSENT)));
    if marks != Marks::Used || fields.task_signal == ABSENT {
        fields.signal_oom = ABSENT;
    }
    check_fields(&offsets)?;
    let mut tracepoints = TASKS.into_iter().map(|(_, tracepoint)| tracepoint);
    if let Some(name) = tracepoints.find(|name| !types.has_tracepoint(name)) {
        return Err(Error::Tracepoint(name));
    }
    drop(types);
    let (offsets, missing) = (Plain(offsets), lacking(&offsets, &fields));
    let fields = Plain(fields);
    let object = EbpfLoader::new()
        .btf(None)
        .map_max_entries("NESTED", nested)
        .load(Object::new(OBJECT).with(&offsets).with(&fields).bytes())
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
        (offsets.cgroup_root, "cgroup.root"),
        (offsets.root_hierarchy, "cgroup_root.hierarchy_id"),
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

fn attach(
    object: &mut Ebpf,
    name: &'static str,
    tracepoint: &'static str,
    btf: &Btf,
) -> Result<OwnedFd, Error> {
    let refused =
        |cause: &(dyn std::error::Error + 'static)| Error::refused(format!("attach {tracepoint}"), cause);
    let program: &mut BtfTracePoint = program(object, name)?.try_into().map_err(|cause| refused(&cause))?;
    program.load(tracepoint, btf).map_err(|cause| refused(&cause))?;
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
        processes,
        used,
        execs,
        exits,
        peak_pages,
        threads,
        setup_cpu_ns,
        since_ns,
        nested_refused,
        reader,
        oom_kills,
        oom,
    } = counts;
    let rest = [*execs, *exits, *peak_pages, *threads, *setup_cpu_ns, *since_ns];
    let words = [*processes].into_iter().chain(used.words()).chain(rest);
    let mut bytes: Vec<u8> = words.flat_map(u64::to_ne_bytes).collect();
    bytes.extend([*nested_refused, *reader].into_iter().flat_map(u32::to_ne_bytes));
    bytes.extend(oom_kills.to_ne_bytes());
    bytes.extend(kill_to_bytes(oom));
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
    const WORDS: usize = Used::WORDS + 7;
    let word = |at: usize| bytes.get(at..)?.first_chunk().copied().map(u64::from_ne_bytes);
    let half = |at: usize| bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes);
    let name = |at: usize| bytes.get(at..)?.first_chunk::<16>().copied();
    let mut words = [0; WORDS];
    for (nth, to) in words.iter_mut().enumerate() {
        *to = word(8 * nth)?;
    }
    let [processes, used @ .., execs, exits, peak_pages, threads, setup_cpu_ns, since_ns] = words;
    let rest = 8 * WORDS;
    let oom = rest + 16;
    Some(Counts {
        processes,
        used: Used::of_words(used),
        execs,
        exits,
        peak_pages,
        threads,
        setup_cpu_ns,
        since_ns,
        nested_refused: half(rest)?,
        reader: half(rest + 4)?,
        oom_kills: word(rest + 8)?,
        oom: Kill {
            at_ns: word(oom)?,
            killer_cgroup: word(oom + 8)?,
            killer_pid: half(oom + 16)?,
            victim_pid: half(oom + 20)?,
            killer_name: name(oom + 24)?,
            victim_name: name(oom + 40)?,
            is_inside: word(oom + 56)?,
        },
    })
}

fn live_from_bytes(bytes: &[u8]) -> Option<Live> {
    let mut words =
        bytes.chunks_exact(8).filter_map(|chunk| chunk.first_chunk().copied().map(u64::from_ne_bytes));
    let container = words.next()?;
    let mut used = [0; Used::WORDS];
    for to in &mut used {
        *to = words.next()?;
    }
    Some(Live { container, used: Used::of_words(used) })
}

#[cfg(test)]
mod tests;
