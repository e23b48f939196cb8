//! The programs of waiting: run queue, sleep, block devices. An object of its own beside that of system calls.

mod switching;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;

use aya::programs::FEntry;
use aya::programs::fentry::FEntryLinkId;
use aya::programs::links::FdLink;
use aya::programs::tp_btf::BtfTracePointLinkId;
use aya::util::nr_cpus;
use aya::{Btf, Ebpf, EbpfLoader};
use skiff_ebpf_abi::waits::{BIO_ROWS, ROW, column};
use skiff_ebpf_abi::{ABSENT, Armed, Offsets, QueueOffsets};
use skiff_sys::bpf::{Map, Store};
use skiff_sys::heap;

use crate::Error;
use crate::btf::Types;
use crate::fields::{require_cgroup, require_hierarchy};
use crate::load::{HELD, check_privileges, lacking_held, pin_maps, program, tracepoint};
use crate::maps::{Plain, memory};
use crate::marks::Object;
use crate::tier1::{Probes, Reader, Tier1};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/waits.bpf.o"));

/// Which tasks are counted.
const TASKS: [&str; 4] = ["sched_process_fork", "cgroup_attach_task", "cgroup_mkdir", "cgroup_rmdir"];
const SWITCH: &str = "sched_switch";
/// What is not exact without each of them.
const MOVES: [(&str, &str); 3] = [
    ("sched_migrate_task", "blame for waits before a move to another CPU (no tracepoint sched_migrate_task)"),
    ("sched_wakeup", THROTTLED),
    ("sched_wakeup_new", THROTTLED),
];
/// Where requests end comes first: what has begun is waited for.
const BLOCK: [&str; 3] = ["block_bio_complete", "block_rq_complete", "block_bio_queue"];

pub(crate) const RUN_QUEUE: &str = "run queue waits (no tracepoint sched_switch as of Linux 5.18, or no field sched_info.last_queued, sched_info.last_arrival or se.cfs_rq)";
const THROTTLED: &str = "waits for the own CPU quota apart (no field cfs_rq.throttled_clock_self_time)";
pub(crate) const LATENCY: &str = "block latency (no tracepoints block_bio_queue, block_bio_complete and block_rq_complete, or no fields of struct bio)";

const THROTTLED_BLOCK: &str =
    "the time for which a limit holds requests to block devices back, and of cgroup v1 these requests";

/// The programs of waiting, loaded and attached. Dropping it detaches and unloads them, unless they are pinned.
pub struct Waiting {
    object: Ebpf,
    links: Vec<(&'static str, BtfTracePointLinkId)>,
    held: Option<FEntryLinkId>,
    armed: Map,
    reader: Reader,
    missing: Vec<String>,
    bytes: u64,
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting").field("missing", &self.missing).finish_non_exhaustive()
    }
}

impl Waiting {
    /// Loads and attaches what `probes` asks for, for up to `slots` containers at a time.
    ///
    /// Needs `CAP_BPF` and `CAP_PERFMON` in the initial user namespace and the kernel's type information. Linux ≥ 5.18. What
    /// this kernel does not give is left out: see [`Waiting::missing`].
    pub fn load(slots: u32, probes: Probes) -> Result<Self, Error> {
        Self::new(slots, probes, None)
    }

    /// As [`Waiting::load`], with the maps pinned in `directory`, where `armed` may be already.
    pub(crate) fn new(slots: u32, probes: Probes, pins: Option<&Path>) -> Result<Self, Error> {
        check_privileges()?;
        let paths = [Offsets::PATHS, QueueOffsets::PATHS].concat();
        let types = Types::of_kernel(&paths)?;
        let offsets = Offsets::new(|path| types.offset(path), false);
        let mut queues = QueueOffsets::new(|path| types.offset(path));
        require_cgroup(&offsets)?;
        require_hierarchy(&offsets)?;
        let has = |names: &[&str]| names.iter().all(|name| types.has_tracepoint(name));
        let mut missing = Vec::new();
        let run_queue = probes.run_queue && has(&[SWITCH]) && has_queues(&offsets, &queues);
        let block = probes.block
            && has(&BLOCK)
            && ![offsets.bio_opf, offsets.bio_size, queues.request_bio, queues.bio_next].contains(&ABSENT);
        lack(&mut missing, probes.run_queue && !run_queue, RUN_QUEUE);
        lack(&mut missing, probes.block && !block, LATENCY);
        lack(&mut missing, run_queue && !tells_throttling(&mut queues), THROTTLED);
        drop(types);
        let mut object = create(slots, [run_queue, block], offsets, queues, pins)?;
        if let Some(directory) = pins {
            pin_maps(&object, directory)?;
        }
        let bytes = object.maps().map(|(_, map)| memory(map)).sum();
        let (armed, reader) = (take(&mut object, "ARMED")?, Reader::default());
        let reader = Reader {
            slots,
            waits: Some(take(&mut object, "WAITS")?),
            blame: Some(take(&mut object, "BLAME")?).filter(|_| run_queue),
            blocks: Some(take(&mut object, "BLOCKS")?).filter(|_| block),
            ..reader
        };
        let mut waiting = Self { object, links: Vec::new(), held: None, armed, reader, missing, bytes };
        let btf = Btf::from_sys_fs().map_err(|cause| Error::refused("read the kernel's types", &cause))?;
        for name in TASKS {
            waiting.attach(name, &btf)?;
        }
        if run_queue {
            for (name, figure) in MOVES {
                let attached = waiting.attach(name, &btf);
                lack(&mut waiting.missing, attached.is_err(), figure);
            }
            if let Err(error) = waiting.attach(SWITCH, &btf) {
                MOVES.into_iter().for_each(|(name, _)| waiting.detach(name));
                waiting.reader.blame = None;
                lack(&mut waiting.missing, true, &format!("{RUN_QUEUE}: {error}"));
            }
        }
        if block && let Err(error) = BLOCK.into_iter().try_for_each(|name| waiting.attach(name, &btf)) {
            BLOCK.into_iter().for_each(|name| waiting.detach(name));
            waiting.reader.blocks = None;
            lack(&mut waiting.missing, true, &format!("{LATENCY}: {error}"));
        }
        if waiting.reader.blocks.is_some() {
            match waiting.attach_held(&btf) {
                Ok(link) => waiting.held = Some(link),
                Err(error) => waiting.missing.push(lacking_held(THROTTLED_BLOCK, &error)),
            }
        }
        drop(btf);
        heap::trim();
        Ok(waiting)
    }

    /// Counts from now on in `slot` what is forked into the cgroup2 with the id `cgroup_id` (the inode of its directory) or into
    /// one made below it. One map write.
    pub fn arm(&self, cgroup_id: u64, slot: u32) -> Result<(), Error> {
        let armed = Armed { slot, execs_before: 0 };
        let written = self.armed.set(&cgroup_id.to_ne_bytes(), &armed.to_bytes(), Store::Any);
        written.map_err(|cause| Error::refused(format!("arm cgroup {cgroup_id}"), &cause))
    }

    /// What was counted in `slot` so far.
    pub fn read(&self, slot: u32) -> Result<Tier1, Error> {
        self.reader.read(slot).map_err(|cause| Error::refused("read a map", &cause))
    }

    /// What this kernel does not give of what was asked for, one phrase each.
    #[must_use]
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// Kernel memory of the maps, in bytes.
    #[must_use]
    pub const fn map_bytes(&self) -> u64 {
        self.bytes
    }

    /// How often each program has run so far and for how long in all, ns: zeros unless the kernel counts that (`sysctl
    /// kernel.bpf_stats_enabled`, or [`aya::sys::enable_stats`]).
    pub fn runs(&mut self) -> Result<Vec<(String, u64, u64)>, Error> {
        let refused = |cause: &(dyn std::error::Error + 'static)| Error::refused("ask for a program", cause);
        let loaded = self.links.iter().map(|(name, _)| *name);
        let mut runs = Vec::new();
        for name in loaded {
            let Some(program) = self.object.program(name) else { continue };
            let info = program.info().map_err(|cause| refused(&cause))?;
            let ns = u64::try_from(info.run_time().as_nanos()).unwrap_or(u64::MAX);
            runs.push((name.to_owned(), info.run_count(), ns));
        }
        Ok(runs)
    }

    /// Keeps the programs attached beyond the end of this process.
    pub(crate) fn pin_links(&mut self, directory: &Path) -> Result<(), Error> {
        for (name, id) in std::mem::take(&mut self.links) {
            let refused =
                |cause: &(dyn std::error::Error + 'static)| Error::refused(format!("pin {name}"), cause);
            let link = tracepoint(&mut self.object, name)?.take_link(id).map_err(|cause| refused(&cause))?;
            let link: FdLink = link.into();
            link.pin(directory.join(format!("wait_{name}"))).map_err(|cause| refused(&cause))?;
        }
        let Some(id) = self.held.take() else { return Ok(()) };
        let (name, _) = HELD;
        let refused =
            |cause: &(dyn std::error::Error + 'static)| Error::refused(format!("pin {name}"), cause);
        let link: FdLink = self.held()?.take_link(id).map_err(|cause| refused(&cause))?.into();
        link.pin(directory.join(format!("wait_{name}"))).map_err(|cause| refused(&cause))?;
        Ok(())
    }

    fn attach(&mut self, name: &'static str, btf: &Btf) -> Result<(), Error> {
        let refused =
            |cause: &(dyn std::error::Error + 'static)| Error::refused(format!("attach {name}"), cause);
        let program = tracepoint(&mut self.object, name)?;
        program.load(name, btf).map_err(|cause| refused(&cause))?;
        let link = program.attach().map_err(|cause| refused(&cause))?;
        self.links.push((name, link));
        Ok(())
    }

    fn attach_held(&mut self, btf: &Btf) -> Result<FEntryLinkId, Error> {
        let (_, function) = HELD;
        let program = self.held()?;
        program.load(function, btf).map_err(|cause| Error::answered("load", &cause))?;
        program.attach().map_err(|cause| Error::answered("attach", &cause))
    }

    fn held(&mut self) -> Result<&mut FEntry, Error> {
        let (name, _) = HELD;
        let found = program(&mut self.object, name)?.try_into();
        found.map_err(|cause| Error::refused(format!("look up {name}"), &cause))
    }

    /// The reverse of [`Waiting::attach`], if that was done.
    fn detach(&mut self, name: &str) {
        let Some(at) = self.links.iter().position(|(attached, _)| *attached == name) else { return };
        let (_, link) = self.links.swap_remove(at);
        // What is dropped is detached.
        drop(tracepoint(&mut self.object, name).map(|program| program.take_link(link)));
    }
}

fn lack(missing: &mut Vec<String>, lacks: bool, figure: &str) {
    if lacks && !missing.iter().any(|missing| missing == figure) {
        missing.push(figure.to_owned());
    }
}

fn has_queues(offsets: &Offsets, queues: &QueueOffsets) -> bool {
    let needed = [
        offsets.task_run_delay,
        offsets.task_pid,
        queues.task_flags,
        queues.task_queued,
        queues.task_arrived,
        queues.task_queue,
        queues.queue_rq,
        queues.rq_clock,
    ];
    !needed.contains(&ABSENT)
}

/// Whether the kernel tells how long a run queue has been throttled: by its own clock since 6.6, before by that of load tracking.
/// Leaves those fields out that are of no use.
fn tells_throttling(queues: &mut QueueOffsets) -> bool {
    if ![queues.queue_throttled_since, queues.queue_throttled_ns].contains(&ABSENT) {
        return true;
    }
    let pelt = [
        queues.queue_throttled_pelt_since,
        queues.queue_throttled_pelt_ns,
        queues.queue_throttle_count,
        queues.rq_clock_pelt,
        queues.rq_lost_idle,
    ];
    (queues.queue_throttled_since, queues.queue_throttled_ns) = (ABSENT, ABSENT);
    if pelt.contains(&ABSENT) {
        (queues.queue_throttled_pelt_ns, queues.queue_throttle_count) = (ABSENT, ABSENT);
        return false;
    }
    true
}

fn create(
    slots: u32,
    [run_queue, block]: [bool; 2],
    offsets: Offsets,
    queues: QueueOffsets,
    pins: Option<&Path>,
) -> Result<Ebpf, Error> {
    let cpus = nr_cpus().map_err(|(file, cause)| Error::refused(format!("read {file}"), &cause))?;
    let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
    let (offsets, queues) = (Plain(offsets), Plain(queues));
    let mut loader = EbpfLoader::new();
    loader
        // The programs need no relocation by type.
        .btf(None)
        .allow_unsupported_maps()
        .override_global("SLOTS", &slots, true)
        .map_max_entries("WAITS", slots)
        .map_max_entries("BLOCKS", if block { slots } else { 1 })
        .map_max_entries("BLAME", if run_queue { slots * (slots + column::COUNT) } else { 1 })
        .map_max_entries("RUNS", cpus)
        .map_max_entries("KEYS", if block { BIO_ROWS } else { 1 })
        .map_max_entries("BIOS", if block { BIO_ROWS * ROW } else { 1 });
    if let Some(directory) = pins {
        loader.map_pin_path("ARMED", directory.join("armed"));
    }
    loader
        .load(Object::new(OBJECT).with(&offsets).with(&queues).bytes())
        .map_err(|cause| Error::refused("create the maps", &cause))
}

/// The map `name` of `object`, to be read and written as bytes.
pub(crate) fn take(object: &mut Ebpf, name: &str) -> Result<Map, Error> {
    let lacks =
        || Error::Refused { step: format!("look up the map {name}"), cause: "not in the object".into() };
    let map = object.map(name).ok_or_else(lacks)?;
    let data = crate::maps::data(map).ok_or_else(lacks)?;
    let fd = std::os::fd::AsFd::as_fd(data.fd()).try_clone_to_owned();
    fd.and_then(Map::of).map_err(|cause| Error::refused(format!("look up the map {name}"), &cause))
}
