//! From the object to attached programs, adapted to the running kernel.
//!
//! Programs fall into those without which nothing is counted and those that each give one figure. What the kernel lacks is
//! found by looking into its types, and for the rest by trying.

use std::path::Path;

use aya::programs::fexit::FExitLinkId;
use aya::programs::links::FdLink;
use aya::programs::tp_btf::BtfTracePointLinkId;
use aya::programs::{BtfTracePoint, FExit, Iter, Program};
use aya::{Btf, Ebpf, EbpfLoader};
use skiff_ebpf_abi::{self as abi, ABSENT, Offsets};
use skiff_sys::{heap, process};

use crate::Error;
use crate::btf::Types;
use crate::fields::{require_cgroup, require_hierarchy, require_task};
use crate::maps::{Maps, Plain};
use crate::marks::Object;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/skiff.bpf.o"));

/// Programs without which nothing is counted; each is named as its tracepoint.
const TASKS: [&str; 3] = ["sched_process_fork", "sched_process_exec", "sched_switch"];
/// The hot path: attached last, so that its cost can be measured.
const CALLS: [&str; 2] = ["sys_exit", "sys_enter"];
/// Programs with the figure that each gives.
const EXTRAS: [(&str, &str); 5] = [
    ("cgroup_attach_task", "tasks moved into the cgroup (no tracepoint cgroup_attach_task)"),
    ("cgroup_mkdir", "tasks moved into nested cgroups (no tracepoint cgroup_mkdir)"),
    ("cgroup_rmdir", ""),
    ("mark_victim", OOM),
    ("block_bio_queue", BLOCK),
];
/// Programs that are run over all tasks: one settles, one tells.
const ITERATORS: [&str; 2] = ["close", "live"];
/// The one that takes up tasks which live already.
const ADOPT: &str = "adopt";
/// Where a request to a block device is held back: the program, and the function of the kernel's.
pub(crate) const HELD: (&str, &str) = ("blk_throtl_bio", "__blk_throtl_bio");
const OOM: &str = "OOM kills (no tracepoint mark_victim)";
const HELD_BLOCK: &str = "block I/O that a limit of cgroup v1 holds back";
const BLOCK: &str = "block I/O (no tracepoint block_bio_queue, or no fields of struct bio)";

/// The object in the kernel.
pub(crate) struct Loaded {
    pub(crate) object: Ebpf,
    pub(crate) maps: Maps,
    pub(crate) available: Available,
    links: Vec<(&'static str, BtfTracePointLinkId)>,
    held: Option<FExitLinkId>,
}

/// Which of the optional figures this kernel gives, and one phrase for each it does not.
#[derive(Debug, Clone, Default)]
pub(crate) struct Available {
    pub(crate) cpu: bool,
    pub(crate) ticks: bool,
    pub(crate) faults: bool,
    pub(crate) run_queue: bool,
    pub(crate) switches: bool,
    pub(crate) block: bool,
    pub(crate) missing: Vec<String>,
}

impl Loaded {
    /// Loads every program and attaches all but those of the hot path. Maps are pinned in `pins`, if given.
    pub(crate) fn new(slots: u32, pins: Option<&Path>) -> Result<Self, Error> {
        check_privileges()?;
        let types = Types::of_kernel(Offsets::PATHS)?;
        let offsets = Offsets::new(|path| types.offset(path), types.passes_pointer("mark_victim"));
        require_task(&offsets)?;
        require_cgroup(&offsets)?;
        require_hierarchy(&offsets)?;
        let lacking = |name: &&str| !types.has_tracepoint(name);
        if let Some(name) = TASKS.into_iter().chain(CALLS).find(lacking) {
            return Err(Error::Tracepoint(name));
        }
        drop(types);
        let mut object = create(slots, offsets, pins)?;
        if let Some(directory) = pins {
            pin_maps(&object, directory)?;
        }
        let maps = Maps::take(&mut object)?;
        let mut loaded =
            Self { object, maps, available: Available::of(&offsets), links: Vec::new(), held: None };
        // The kernel's types once more, as aya keeps them: 20 MB, given back before the container runs.
        let btf = Btf::from_sys_fs().map_err(|cause| Error::refused("read the kernel's types", &cause))?;
        for name in TASKS.into_iter().chain(CALLS) {
            loaded.load_tracepoint(name, &btf)?;
        }
        loaded.load_extras(&btf);
        for name in TASKS {
            loaded.attach(name)?;
        }
        drop(btf);
        heap::trim();
        Ok(loaded)
    }

    /// Attaches the hot path: from here on every system call on the host passes through it.
    pub(crate) fn attach_calls(&mut self) -> Result<(), Error> {
        CALLS.into_iter().try_for_each(|name| self.attach(name))
    }

    /// Pins the links, which keep the programs attached when this is gone, and the iterators.
    pub(crate) fn pin_links(&mut self, directory: &Path) -> Result<(), Error> {
        for (name, id) in std::mem::take(&mut self.links) {
            let refused =
                |cause: &(dyn std::error::Error + 'static)| Error::refused(format!("pin {name}"), cause);
            let link = tracepoint(&mut self.object, name)?.take_link(id).map_err(|cause| refused(&cause))?;
            let link: FdLink = link.into();
            link.pin(directory.join(name)).map_err(|cause| refused(&cause))?;
        }
        if let Some(id) = self.held.take() {
            let (name, _) = HELD;
            let refused =
                |cause: &(dyn std::error::Error + 'static)| Error::refused(format!("pin {name}"), cause);
            let link: FdLink = self.held()?.take_link(id).map_err(|cause| refused(&cause))?.into();
            link.pin(directory.join(name)).map_err(|cause| refused(&cause))?;
        }
        for name in ITERATORS {
            let refused =
                |cause: &(dyn std::error::Error + 'static)| Error::refused(format!("pin {name}"), cause);
            let program: &mut Iter =
                program(&mut self.object, name)?.try_into().map_err(|cause| refused(&cause))?;
            let link = program.attach().map_err(|cause| refused(&cause))?;
            let link = program.take_link(link).map_err(|cause| refused(&cause))?;
            let link: FdLink = link.try_into().map_err(|cause| refused(&cause))?;
            link.pin(directory.join(name)).map_err(|cause| refused(&cause))?;
        }
        Ok(())
    }

    /// Runs the iterator that settles over all tasks.
    pub(crate) fn run_close(&mut self) -> Result<(), Error> {
        self.iterate("close")
    }

    /// Counts the tasks that live in armed cgroups.
    pub(crate) fn run_adopt(&mut self) -> Result<(), Error> {
        self.iterate(ADOPT)
    }

    /// Runs an iterator over all tasks.
    fn iterate(&mut self, name: &str) -> Result<(), Error> {
        let refused =
            |cause: &(dyn std::error::Error + 'static)| Error::refused("iterate over the tasks", cause);
        let program: &mut Iter =
            program(&mut self.object, name)?.try_into().map_err(|cause| refused(&cause))?;
        let link = program.attach().map_err(|cause| refused(&cause))?;
        let link = program.take_link(link).map_err(|cause| refused(&cause))?;
        let mut file = link.into_file().map_err(|cause| refused(&cause))?;
        std::io::copy(&mut file, &mut std::io::sink()).map_err(|cause| refused(&cause))?;
        Ok(())
    }

    fn load_extras(&mut self, btf: &Btf) {
        for (name, figure) in EXTRAS {
            let result = self.load_tracepoint(name, btf).and_then(|()| self.attach(name));
            if result.is_err() && !figure.is_empty() {
                self.available.lacks(figure);
            }
            if result.is_err() && figure == BLOCK {
                self.available.block = false;
            }
        }
        if self.available.block {
            match self.attach_held(btf) {
                Ok(link) => self.held = Some(link),
                Err(error) => self.available.lacks(&lacking_held(HELD_BLOCK, &error)),
            }
        }
        let loaded = ITERATORS.into_iter().chain([ADOPT]).try_for_each(|name| {
            let iterator: &mut Iter = program(&mut self.object, name)?
                .try_into()
                .map_err(|cause| Error::refused("look up the iterator", &cause))?;
            iterator.load("task", btf).map_err(|cause| Error::refused("load the iterator", &cause))
        });
        if loaded.is_err() {
            self.available.lacks("tasks that outlive their container (no task iterator)");
        }
    }

    fn attach_held(&mut self, btf: &Btf) -> Result<FExitLinkId, Error> {
        let (_, function) = HELD;
        let program = self.held()?;
        program.load(function, btf).map_err(|cause| Error::answered("load", &cause))?;
        program.attach().map_err(|cause| Error::answered("attach", &cause))
    }

    fn held(&mut self) -> Result<&mut FExit, Error> {
        let (name, _) = HELD;
        let found = program(&mut self.object, name)?.try_into();
        found.map_err(|cause| Error::refused(format!("look up {name}"), &cause))
    }

    /// Fails also if the kernel has no such tracepoint.
    fn load_tracepoint(&mut self, name: &'static str, btf: &Btf) -> Result<(), Error> {
        let program = tracepoint(&mut self.object, name)?;
        program.load(name, btf).map_err(|cause| Error::refused(format!("load {name}"), &cause))
    }

    pub(crate) fn attach(&mut self, name: &'static str) -> Result<(), Error> {
        let program = tracepoint(&mut self.object, name)?;
        let link = program.attach().map_err(|cause| Error::refused(format!("attach {name}"), &cause))?;
        self.links.push((name, link));
        Ok(())
    }

    /// The reverse of [`Loaded::attach`], if that was done.
    #[cfg(test)]
    pub(crate) fn detach(&mut self, name: &str) {
        let Some(at) = self.links.iter().position(|(attached, _)| *attached == name) else { return };
        let (_, link) = self.links.swap_remove(at);
        // What is dropped is detached.
        drop(tracepoint(&mut self.object, name).map(|program| program.take_link(link)));
    }
}

impl Available {
    fn of(offsets: &Offsets) -> Self {
        let has = |fields: &[u32]| !fields.contains(&ABSENT);
        let mut available = Self {
            cpu: has(&[offsets.task_cpu]),
            ticks: has(&[offsets.task_user, offsets.task_system]),
            faults: has(&[offsets.task_minor, offsets.task_major]),
            run_queue: has(&[offsets.task_run_delay]),
            switches: has(&[offsets.task_voluntary, offsets.task_involuntary]),
            block: has(&[offsets.bio_opf, offsets.bio_size]),
            missing: Vec::new(),
        };
        let figures = [
            (available.cpu, "CPU time (no field task_struct.se.sum_exec_runtime)"),
            (available.ticks, "CPU time by mode (no fields task_struct.utime and stime)"),
            (available.faults, "page faults (no fields task_struct.min_flt and maj_flt)"),
            (
                available.run_queue,
                "run queue wait and off-CPU time (no field task_struct.sched_info.run_delay)",
            ),
            (available.switches, "context switches (no fields task_struct.nvcsw and nivcsw)"),
            (available.block, BLOCK),
            (has(&[offsets.task_status]), "32-bit calls apart (no field task_struct.thread_info.status)"),
            (has(&[offsets.regs_di]), "first output (no field pt_regs.di)"),
            (has(&[offsets.regs_orig_ax]), "calls refused by seccomp by name (no field pt_regs.orig_ax)"),
            (
                has(&[offsets.mm_arg_start, offsets.mm_arg_end]),
                "arguments of programs (no field mm_struct.arg_start)",
            ),
        ];
        figures.into_iter().filter(|(present, _)| !present).for_each(|(_, figure)| available.lacks(figure));
        available
    }

    /// The figures as bits, in the order of the fields.
    pub(crate) fn bits(&self) -> u64 {
        let all = [self.cpu, self.ticks, self.faults, self.run_queue, self.switches, self.block];
        all.into_iter().enumerate().map(|(bit, present)| u64::from(present) << bit).sum()
    }

    /// The reverse of [`Available::bits`].
    pub(crate) fn of_bits(bits: u64, missing: Vec<String>) -> Self {
        let has = |bit: u32| bits >> bit & 1 == 1;
        Self {
            cpu: has(0),
            ticks: has(1),
            faults: has(2),
            run_queue: has(3),
            switches: has(4),
            block: has(5),
            missing,
        }
    }

    fn lacks(&mut self, figure: &str) {
        if !self.missing.iter().any(|missing| missing == figure) {
            self.missing.push(figure.to_owned());
        }
    }
}

/// That `figure` is not given since no program is at the function of [`HELD`]: it may not exist, or not be open to programs, and
/// not every kernel says which.
pub(crate) fn lacking_held(figure: &str, error: &Error) -> String {
    format!("{figure} (programs at {}: {error})", HELD.1)
}

/// Creates the maps, for `slots` containers, and fills in the offsets.
fn create(slots: u32, offsets: Offsets, pins: Option<&Path>) -> Result<Ebpf, Error> {
    let globals = Plain(offsets);
    let mut loader = EbpfLoader::new();
    loader
        // The programs need no relocation by type.
        .btf(None)
        .allow_unsupported_maps()
        .map_max_entries("SLOTS", slots)
        .map_max_entries("CALLS", slots)
        .map_max_entries("ROWS", slots * abi::ROWS)
        .map_max_entries("ERRORS", slots * abi::ERRORS)
        .map_max_entries("EXECS", slots * abi::EXECS);
    if let Some(directory) = pins {
        loader.map_pin_path("ARMED", directory.join("armed"));
    }
    loader
        .load(Object::new(OBJECT).with(&globals).bytes())
        .map_err(|cause| Error::refused("create the maps", &cause))
}

/// Pins each map by its name in small letters; not the one that is shared and is already, nor the programs' constants, which
/// nobody else reads.
pub(crate) fn pin_maps(object: &Ebpf, directory: &Path) -> Result<(), Error> {
    for (name, map) in object.maps().filter(|(name, _)| !name.starts_with('.') && *name != "ARMED") {
        let path = directory.join(name.to_lowercase());
        map.pin(path).map_err(|cause| Error::refused(format!("pin the map {name}"), &cause))?;
    }
    Ok(())
}

pub(crate) fn check_privileges() -> Result<(), Error> {
    const SYS_ADMIN: u64 = 1 << 21;
    const NEEDED: [(u64, &str); 2] = [(1 << 39, "CAP_BPF"), (1 << 38, "CAP_PERFMON")];
    let held = process::capabilities().map_err(|cause| Error::refused("read the capabilities", &cause))?;
    if held.effective & SYS_ADMIN != 0 {
        return Ok(());
    }
    let lacking = NEEDED.into_iter().filter(|(bit, _)| held.effective & bit == 0);
    let lacking: Vec<_> = lacking.map(|(_, name)| name).collect();
    if lacking.is_empty() { Ok(()) } else { Err(Error::Privilege(lacking)) }
}

pub(crate) fn tracepoint<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut BtfTracePoint, Error> {
    program(object, name)?.try_into().map_err(|cause| Error::refused(format!("look up {name}"), &cause))
}

pub(crate) fn program<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut Program, Error> {
    object.program_mut(name).ok_or_else(|| Error::Refused {
        step: format!("look up the program {name}"),
        cause: "not in the object".into(),
    })
}
