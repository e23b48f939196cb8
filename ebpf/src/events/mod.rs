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
pub use skiff_ebpf_abi::events::{Counts, Kill, Live, Used};
use skiff_ebpf_abi::events::{Fields, NESTED};
use skiff_ebpf_abi::{ABSENT, Offsets};
use skiff_sys::bpf::{self, Map, Words};
use skiff_sys::clock::monotonic_ns;
use skiff_sys::heap;

use crate::Error;
use crate::btf::Types;
use crate::fields::{require_cgroup, require_hierarchy, require_task};
use crate::load::{check_privileges, program};
use crate::maps::Plain;
use crate::marks::Object;

mod table;

use table::Table;

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
    /// Of the containers: their cgroups' ids, their counts.
    maps: [Map; 2],
    table: Table<Words>,
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
        let maps = [map(object, "KEYS")?, map(object, "COUNTS")?];
        let table = table(&maps).map_err(|cause| Error::refused("map the containers' counts", &cause))?;
        Ok(Self { maps, table, nested: map(object, "NESTED")?, live, links, missing })
    }

    /// What this kernel does not give, one phrase each.
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// What keeps the programs attached, for another process to keep: maps, iterator, links.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let maps = self.maps.iter().chain([&self.nested]).map(AsFd::as_fd);
        maps.chain(self.live.iter().chain(&self.links).map(AsFd::as_fd)).collect()
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
        let maps = [Map::from_fd(next()?)?, Map::from_fd(next()?)?];
        let nested = Map::from_fd(next()?)?;
        let Ok(table) = table(&maps) else { return Ok(None) };
        let live = if has_live { Some(next()?) } else { None };
        Ok(Some(Self { maps, table, nested, live, links: rest.collect(), missing }))
    }

    /// Whether the iterator is among the descriptors.
    pub fn has_live(&self) -> bool {
        self.live.is_some()
    }

    /// Whether the cgroup2 with the id `cgroup` is counted.
    pub fn is_armed(&self, cgroup: u64) -> bool {
        self.counts(cgroup).is_some()
    }

    /// Counts from now on, until its directory goes, what happens in the cgroup2 with the id `cgroup` (the inode of its directory). Its
    /// program has not been executed yet, or else `is_late`: what has ended before is not in the figures then.
    ///
    /// No system call, but one process alone may do this: whoever has taken the descriptors over. Errors: `ENOSPC` if there are too many, `EEXIST`
    /// if it is counted.
    pub fn arm(&self, cgroup: u64, is_late: bool) -> io::Result<()> {
        let counts = if is_late {
            // The next program is not the first one.
            Counts { execs: 1, processes: 1, since_ns: monotonic_ns(), ..Counts::default() }
        } else {
            Counts::default()
        };
        self.table.enter(cgroup, &counts)
    }

    /// Counts `cgroup` no more, whose directory had gone before it was [armed](Self::arm): the programs were not told of it in time.
    pub fn forget(&self, cgroup: u64) {
        self.table.remove(cgroup);
    }

    /// What was counted of `cgroup` by now, of tasks that have ended; `None` if it is not counted. No system call.
    pub fn counts(&self, cgroup: u64) -> Option<Counts> {
        self.table.counts(cgroup)
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
    require_task(&offsets)?;
    require_cgroup(&offsets)?;
    require_hierarchy(&offsets)?;
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

/// The table in the memory of its maps. Errors: `EINVAL` if it has another layout.
fn table([keys, counts]: &[Map; 2]) -> io::Result<Table<Words>> {
    Table::new(keys.words()?, counts.words()?).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
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
