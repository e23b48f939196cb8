//! Traces the system calls of one container: an object of its own, loaded while somebody looks.
//!
//! What is not asked for is passed over in the kernel. See `progs/src/trace/main.rs` for how calls are noted, and
//! [`arguments`] for what they are given.

pub mod arguments;
mod event;

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};

use aya::maps::{CgroupArray, MapData, PerCpuArray, RingBuf};
use aya::{Btf, Ebpf, EbpfLoader};
use skiff_ebpf_abi::Offsets;
use skiff_ebpf_abi::trace::{Drops, NUMBERS, Settings, WINDOW_NS};
use skiff_sys::heap;
use skiff_sys::syscalls;

pub use event::{Copied, Entry, Event};

use crate::Error;
use crate::btf::Types;
use crate::fields::require_task;
use crate::load::check_privileges;
use crate::maps::{Plain, read_error, write_error};
use crate::marks::Object;
use crate::recorder::{attach, map};
use arguments::{Class, Kind};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/trace.bpf.o"));

const PROGRAMS: [&str; 4] = ["sched_process_exec", "sched_process_exit", "sys_exit", "sys_enter"];

/// What is told of.
#[derive(Debug, Clone)]
pub struct Filter {
    /// By table (native, 32 bits): a bit for each number.
    calls: [[u64; NUMBERS / 64]; 2],
    /// Only calls that fail.
    pub failed_only: bool,
    /// At most so many calls a second; more are dropped.
    pub per_second: u64,
}

impl Filter {
    /// Every call, at most `per_second` of them.
    #[must_use]
    pub const fn all(per_second: u64) -> Self {
        Self { calls: [[u64::MAX; NUMBERS / 64]; 2], failed_only: false, per_second }
    }

    /// No call: to be told which with [`Filter::add`].
    #[must_use]
    pub const fn none(per_second: u64) -> Self {
        Self { calls: [[0; NUMBERS / 64]; 2], failed_only: false, per_second }
    }

    /// Asks for a call, by its name, or for a class of them: `%file`, `%network`, `%process`. `false` if there is none of that
    /// name.
    #[must_use]
    pub fn add(&mut self, name: &str) -> bool {
        let Some(class) = name.strip_prefix('%') else {
            return syscalls::find(name).map(|call| self.set(call)).is_some();
        };
        let Some(class) = Class::of_name(class) else { return false };
        arguments::names()
            .filter(|name| class.has(name))
            .filter_map(syscalls::find)
            .for_each(|call| self.set(call));
        true
    }

    fn set(&mut self, call: syscalls::Syscall) {
        for (table, number) in [call.x86_64(), call.i386()].into_iter().enumerate() {
            if let Some(number) = number.map(usize::from).filter(|number| *number < NUMBERS) {
                self.calls[table][number / 64] |= 1 << (number % 64);
            }
        }
    }

    fn settings(&self) -> Settings {
        let mut copies = [[0; NUMBERS]; 2];
        for name in arguments::names() {
            let (Some(call), Some(kinds)) = (syscalls::find(name), arguments::of(name)) else { continue };
            for (table, number) in [call.x86_64(), call.i386()].into_iter().enumerate() {
                if let Some(number) = number.map(usize::from).filter(|number| *number < NUMBERS) {
                    copies[table][number] = arguments::copies(kinds);
                }
            }
        }
        let per_window = self.per_second.saturating_mul(WINDOW_NS) / 1_000_000_000;
        Settings {
            calls: self.calls,
            copies,
            admitted: per_window.max(1),
            failed_only: self.failed_only.into(),
        }
    }
}

/// The tracer's programs, loaded. Dropping it detaches and unloads them; so does the end of the process.
pub struct Tracer {
    // Held so that the programs stay attached.
    object: Ebpf,
    cgroups: CgroupArray<MapData>,
    events: RingBuf<MapData>,
    drops: PerCpuArray<MapData, Plain<Drops>>,
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracer").finish_non_exhaustive()
    }
}

impl Tracer {
    /// Loads the programs. Nothing is traced before [`Tracer::watch`].
    ///
    /// Needs `CAP_BPF` and `CAP_PERFMON` in the initial user namespace and the kernel's type information.
    /// Linux ≥ 5.11.
    pub fn load(filter: &Filter) -> Result<Self, Error> {
        check_privileges()?;
        let types = Types::of_kernel(Offsets::PATHS)?;
        let offsets = Offsets::new(|path| types.offset(path), false);
        require_task(&offsets)?;
        if let Some(name) = PROGRAMS.into_iter().find(|name| !types.has_tracepoint(name)) {
            return Err(Error::Tracepoint(name));
        }
        drop(types);
        let (offsets, settings) = (Plain(offsets), Plain(filter.settings()));
        let mut object = EbpfLoader::new()
            .btf(None)
            .allow_unsupported_maps()
            .override_global("SETTINGS", &settings, true)
            .load(Object::new(OBJECT).with(&offsets).bytes())
            .map_err(|cause| Error::refused("create the maps", &cause))?;
        Ok(Self {
            cgroups: map(&mut object, "CGROUPS")?,
            events: map(&mut object, "EVENTS")?,
            drops: map(&mut object, "DROPS")?,
            object,
        })
    }

    /// Traces from now on the tasks in the cgroup2 whose directory `cgroup` is, and in those below it.
    pub fn watch(&mut self, cgroup: BorrowedFd<'_>) -> Result<(), Error> {
        let btf = Btf::from_sys_fs().map_err(|cause| Error::refused("read the kernel's types", &cause))?;
        for name in PROGRAMS {
            attach(&mut self.object, name, &btf)?;
        }
        drop(btf);
        // Last, as this is what lets all of them see at once: who saw exits before entries would take calls for refused.
        self.cgroups.set(0, cgroup, 0).map_err(write_error)?;
        heap::trim();
        Ok(())
    }

    /// Takes one call from the buffer, if there is one, and shows it to `show`.
    pub fn next<T>(&mut self, show: impl FnOnce(&Event<'_>) -> T) -> Option<T> {
        loop {
            let item = self.events.next()?;
            // What the programs write is always one.
            if let Some(event) = Event::parse(&item) {
                return Some(show(&event));
            }
        }
    }

    /// Calls that were to be told of and were not, up to now.
    pub fn drops(&self) -> Result<Drops, Error> {
        let cpus = self.drops.get(&0, 0).map_err(read_error)?;
        Ok(cpus.iter().fold(Drops::default(), |sum, cpu| Drops {
            too_many: sum.too_many + cpu.0.too_many,
            no_room: sum.no_room + cpu.0.no_room,
            no_memory: sum.no_memory + cpu.0.no_memory,
        }))
    }
}

impl AsFd for Tracer {
    /// The ring buffer. Not to be polled: what is written to it wakes nobody, for that would cost the container.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

/// What a kind of argument is called where it is declared.
impl Kind {
    pub(crate) const fn is_copied(self) -> bool {
        matches!(self, Self::Path | Self::Text | Self::Address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_ebpf_abi::trace::copy;

    fn asked_for(filter: &Filter, name: &str) -> bool {
        let number = usize::try_from(syscalls::number(name).expect("a call")).expect("small");
        filter.calls[0][number / 64] >> (number % 64) & 1 == 1
    }

    #[test]
    fn calls_and_classes_are_asked_for_by_name() {
        let mut filter = Filter::none(1000);
        assert!(filter.add("getppid") && filter.add("%file"));
        assert!(
            asked_for(&filter, "getppid") && asked_for(&filter, "openat") && asked_for(&filter, "execve")
        );
        assert!(!asked_for(&filter, "read") && !asked_for(&filter, "connect"));
        assert!(!filter.add("no_such_call") && !filter.add("%nothing") && !filter.add(""));
        assert!(filter.add("%network") && filter.add("%process"));
        assert!(asked_for(&filter, "connect") && asked_for(&filter, "exit_group"));
        assert!(asked_for(&Filter::all(1), "read"));
    }

    #[test]
    fn strings_and_addresses_are_copied() {
        let settings = Filter::all(100).settings();
        let of = |name: &str| {
            let number = usize::try_from(syscalls::number(name).expect("a call")).expect("small");
            settings.copies[0][number]
        };
        assert_eq!(of("openat"), 2 | copy::STRING);
        assert_eq!(of("rename"), 1 | copy::STRING | (2 | copy::STRING) << 8);
        assert_eq!(of("connect"), 2 | copy::BYTES);
        assert_eq!(of("sendto"), 5 | copy::BYTES);
        assert_eq!(of("getpid"), 0);
        assert_eq!(settings.admitted, 10);
    }
}
