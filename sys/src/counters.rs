//! The kernel's counters of what a program and all that come of it do, from its exec to the last one's end. perf_event_open(2).
//!
//! A counter is opened on the calling thread, where it never counts: it is off until an exec, and inherited by every process
//! that is born from now on. So it counts from the first instruction of the program that a child executes, whatever the child's
//! parent does meanwhile. What processes have counted is added up as they end, and complete when all of them have.

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Time on a CPU, ns: exact, however short.
    CpuTime,
    /// Page faults that needed no I/O.
    MinorFaults,
    /// Page faults that waited for I/O.
    MajorFaults,
    /// Context switches.
    Switches,
    /// Moves to another CPU.
    Migrations,
    /// CPU cycles.
    Cycles,
    /// Instructions that were retired.
    Instructions,
    /// Uses of the last cache.
    CacheReferences,
    /// Those that it could not serve.
    CacheMisses,
    /// Branches that were retired.
    Branches,
    /// Those that were predicted wrongly.
    BranchMisses,
}

/// A counter of what children do; it is closed when dropped.
#[derive(Debug)]
pub struct Counter {
    fd: OwnedFd,
}

/// What a counter has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// So many.
    pub value: u64,
    /// For how long there was something to count, ns.
    pub enabled_ns: u64,
    /// For how long it was counted: less, where the CPU has fewer counters than are wanted.
    pub running_ns: u64,
}

/// `struct perf_event_attr` in its first form, of 64 bytes, which every kernel knows.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    config1: u64,
}

const SIZE: u32 = 64;
const _: () = {
    assert!(size_of::<Attributes>() == SIZE as usize);
    assert!(offset_of!(Attributes, flags) == 40);
};

const HARDWARE: u32 = 0;
const SOFTWARE: u32 = 1;
/// `disabled`, `inherit` and `enable_on_exec`.
const WHEN: u64 = 1 | 1 << 1 | 1 << 12;
/// `exclude_hv`, for which no privilege is needed.
const NO_HYPERVISOR: u64 = 1 << 6;
/// `PERF_FORMAT_TOTAL_TIME_ENABLED` and `PERF_FORMAT_TOTAL_TIME_RUNNING`.
const TIMES: u64 = 1 | 1 << 1;
const CLOSE_ON_EXEC: libc::c_ulong = 8;

impl Event {
    /// Type and number. linux/perf_event.h.
    const fn number(self) -> (u32, u64) {
        match self {
            Self::CpuTime => (SOFTWARE, 1),
            Self::MinorFaults => (SOFTWARE, 5),
            Self::MajorFaults => (SOFTWARE, 6),
            Self::Switches => (SOFTWARE, 3),
            Self::Migrations => (SOFTWARE, 4),
            Self::Cycles => (HARDWARE, 0),
            Self::Instructions => (HARDWARE, 1),
            Self::CacheReferences => (HARDWARE, 2),
            Self::CacheMisses => (HARDWARE, 3),
            Self::Branches => (HARDWARE, 4),
            Self::BranchMisses => (HARDWARE, 5),
        }
    }
}

impl Counter {
    /// Counts `event` in every process that is born from now on by this thread, or by one of those, once it executes a program.
    ///
    /// For one program, and what comes of that. When the scheduler switches from a parent to a child that has not executed one yet, the
    /// kernel has them exchange their counters (`context_equiv` in kernel/events/core.c). The exec then clears `enable_on_exec` in the one
    /// that all others are copied from, so what a further child of this thread executes may not be counted.
    ///
    /// Errors: `ENOENT` or `EOPNOTSUPP` where the machine has no such counter; `EACCES` or `EPERM` without CAP_PERFMON, where
    /// `kernel.perf_event_paranoid` is above 1.
    pub fn of_children(event: Event) -> io::Result<Self> {
        let (kind, config) = event.number();
        let flags = WHEN | NO_HYPERVISOR;
        let attributes =
            Attributes { kind, size: SIZE, config, read_format: TIMES, flags, ..Attributes::default() };
        // SAFETY: the kernel reads `SIZE` bytes of `attributes`, which has as many and outlives the call; the rest are integers:
        // this thread, any CPU, no group.
        let fd = unsafe {
            libc::syscall(libc::SYS_perf_event_open, &raw const attributes, 0, -1, -1, CLOSE_ON_EXEC)
        };
        match i32::try_from(fd) {
            // SAFETY: the kernel has just made this descriptor; nobody else owns it.
            Ok(fd) if fd >= 0 => Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// What the processes that have ended have counted.
    pub fn read(&self) -> io::Result<Count> {
        let mut words = [0_u64; 3];
        // SAFETY: the kernel writes at most as many bytes as `words` has, and any bits are valid numbers.
        let read = unsafe { libc::read(self.fd.as_raw_fd(), words.as_mut_ptr().cast(), size_of_val(&words)) };
        match usize::try_from(read) {
            Ok(length) if length == size_of_val(&words) => {
                let [value, enabled_ns, running_ns] = words;
                Ok(Count { value, enabled_ns, running_ns })
            }
            Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(_) => Err(io::Error::last_os_error()),
        }
    }
}

impl Count {
    /// What would have been counted in all of the time; none if there was no time in which it was.
    #[must_use]
    pub fn scaled(&self) -> Option<u64> {
        if self.enabled_ns == self.running_ns {
            return Some(self.value);
        }
        let scaled = u128::from(self.value) * u128::from(self.enabled_ns);
        u64::try_from(scaled.checked_div(u128::from(self.running_ns))?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn what_children_do_is_counted_and_what_their_parent_does_is_not() {
        let mut counted = Vec::new();
        for count in [1_u64, 4] {
            // One for each program: see [`Counter::of_children`].
            let Ok(counter) = Counter::of_children(Event::MinorFaults) else {
                eprintln!("skip: needs perf_event_open");
                return;
            };
            let script = (0..count).map(|_| "/bin/true; ").collect::<String>() + ":";
            let pages = vec![1_u8; 4 << 20];
            assert_eq!(counter.read().map(|count| count.value).ok(), Some(0), "{}", pages.len());
            let ended = Command::new("sh").args(["-c", &script]).status().expect("sh");
            assert!(ended.success());
            counted.push(counter.read().expect("a count").value);
        }
        // A shell and one program, a shell and four.
        assert!(counted[0] > 0 && counted[1] > counted[0] && counted[1] < 4 * counted[0], "{counted:?}");
    }

    #[test]
    fn counts_of_some_of_the_time_are_scaled() {
        let count = |value, enabled_ns, running_ns| Count { value, enabled_ns, running_ns }.scaled();
        assert_eq!(count(10, 100, 100), Some(10));
        assert_eq!(count(10, 100, 50), Some(20));
        assert_eq!(count(0, 100, 0), None);
        assert_eq!(count(u64::MAX, u64::MAX, 1), None);
    }
}
