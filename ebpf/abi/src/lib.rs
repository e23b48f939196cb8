//! Layouts shared by the eBPF programs and their loader.
//!
//! Every struct here is the value of a map or a global of the programs, with the same bytes on both sides: `repr(C)`,
//! integers only, no padding (tested below).
#![no_std]
#![forbid(unsafe_code)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "each cast is bounded beside it or keeps low bits on purpose"
)]

pub mod events;
pub mod files;
pub mod harden;
mod histogram;
pub mod net;
mod offsets;
pub mod pinned;
pub mod prefetch;
pub mod stacks;
pub mod trace;
pub mod waits;

pub use histogram::{BUCKETS, bucket, bucket_lower, bucket_middle};
pub use offsets::{ABSENT, Offsets, QueueOffsets};

/// The phases of a container, as indices.
pub mod phase {
    /// Before the exec event of the user's program.
    pub const INIT: u32 = 0;
    /// From that event on.
    pub const WORKLOAD: u32 = 1;
    /// How many there are.
    pub const COUNT: usize = 2;
}

/// System call numbers told apart per table; greater ones share the last.
pub const NUMBERS: u32 = 512;
/// Values of a [`call`]: phase, table, number.
pub const CALLS: usize = phase::COUNT * 2 * NUMBERS as usize;
/// Different calls that a slot can time.
pub const ROWS: u32 = 128;
/// Executions that a slot can describe.
pub const EXECS: u32 = 1024;
/// Different failures (call and errno) that a slot can count.
pub const ERRORS: u32 = 1024;
/// The slot of a task that is no longer counted.
pub const NO_SLOT: u32 = u32::MAX;

/// What is counted as one row: the system call `nr` of a table, made in a phase. Less than [`CALLS`].
#[must_use]
pub const fn call(phase: u32, compat: bool, nr: u64) -> u32 {
    let nr = if nr < NUMBERS as u64 { nr as u32 } else { NUMBERS - 1 };
    (phase & 1) << 10 | (compat as u32) << 9 | nr
}

/// The parts of a [`call`]: phase, whether it is of the 32-bit table, number.
#[must_use]
pub const fn call_parts(call: u32) -> (u32, bool, u32) {
    (call >> 10 & 1, call >> 9 & 1 == 1, call & (NUMBERS - 1))
}

/// The key of an error count.
#[must_use]
pub const fn error_key(slot: u32, call: u32, errno: u32) -> u64 {
    (slot as u64) << 32 | ((call << 12) | (errno & 0xfff)) as u64
}

/// The parts of an [`error_key`]: slot, call, errno.
#[must_use]
pub const fn error_parts(key: u64) -> (u32, u32, u32) {
    ((key >> 32) as u32, key as u32 >> 12, key as u32 & 0xfff)
}

/// What arming writes under a cgroup's id: the one write on the launch path.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Armed {
    /// The slot that counts the cgroup's tasks.
    pub slot: u32,
    /// Executions in the slot that come before the user's program's. With 0 that is the next of a task that has no counted
    /// parent, else of any task. [`RUNNING`] if that runs already.
    pub execs_before: u32,
}

/// [`Armed::execs_before`] of a cgroup whose program runs already: all that its tasks do is the workload's.
pub const RUNNING: u32 = u32::MAX - 1;

/// Figures that the kernel keeps per task.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Time on a CPU, ns.
    pub cpu_ns: u64,
    /// Ticks found in user mode, ns.
    pub user_ns: u64,
    /// Ticks found in kernel mode, ns.
    pub system_ns: u64,
    /// Minor faults.
    pub minor_faults: u64,
    /// Major faults.
    pub major_faults: u64,
    /// Time runnable without a CPU, ns.
    pub run_queue_ns: u64,
    /// Switches by blocking.
    pub voluntary_switches: u64,
    /// Switches by preemption.
    pub involuntary_switches: u64,
}

/// What the programs keep with a task, in task storage.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Task {
    /// Its slot, or [`NO_SLOT`].
    pub slot: u32,
    /// Its phase.
    pub phase: u32,
    /// When it entered the system call it is in; 0 outside one.
    pub entered_ns: u64,
    /// The [`call`] it is in, or was in last.
    pub call: u32,
    /// 0 until it enters its first call: an exit without an entry is then its creation's.
    pub settled: u32,
    /// As [`Armed::execs_before`].
    pub execs_before: u32,
    /// How often it was settled for the last time: only the first counts.
    pub ended: u32,
    /// When it was last given a CPU; kept in the first phase only.
    pub switched_in_ns: u64,
    /// Its CPU time at that moment.
    pub switched_in_cpu_ns: u64,
    /// How often it had been switched out by then: once more, and it was given a CPU without anybody being told.
    pub switches: u64,
    /// Since when its figures count.
    pub since_ns: u64,
    /// Its figures at that time.
    pub base: Figures,
}

/// The sums of one phase of a slot.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    /// Processes created.
    pub processes: u64,
    /// Further threads created.
    pub threads: u64,
    /// What the tasks used up.
    pub figures: Figures,
    /// Time neither running nor runnable, ns.
    pub off_cpu_ns: u64,
    /// Bytes by direction: read, written.
    pub block_bytes: [u64; 2],
    /// Requests by direction: reads, writes.
    pub block_requests: [u64; 2],
}

/// One container.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Slot {
    /// Tasks that are counted and not yet dead.
    pub alive: u64,
    /// Events that could not be counted.
    pub lost: u64,
    /// Rows claimed, also in vain.
    pub rows: u64,
    /// Executions.
    pub execs: u64,
    /// Executions by tasks in the first phase.
    pub init_execs: u64,
    /// The exec event of the user's program.
    pub exec_ns: u64,
    /// The end of the workload's first successful write to descriptor 1 or 2.
    pub first_output_ns: u64,
    /// OOM victims.
    pub oom_kills: u64,
    /// When the first was chosen.
    pub oom_ns: u64,
    /// Its process id.
    pub oom_pid: u64,
    /// Its name.
    pub oom_comm: [u8; 16],
    /// The sums by phase.
    pub phases: [Sums; phase::COUNT],
}

/// Which row a call has, and back.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Calls {
    /// By [`call`]: the number of its row, plus 1; 0 for none.
    pub row: [u16; CALLS],
    /// By row: the call that claimed it. Two rows may have the same call.
    pub call: [u16; ROWS as usize],
}

/// The counts of one call on one CPU.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Time of the calls that returned, ns.
    pub total_ns: u64,
    /// The longest of them, ns.
    pub max_ns: u64,
    /// Calls that seccomp answered.
    pub refused: u64,
    /// Calls that did not return.
    pub unreturned: u64,
    /// Calls that returned, by [`bucket`] of their time.
    pub histogram: [u64; BUCKETS],
}

/// Bytes kept of a path.
pub const FILENAME: usize = 128;
/// Bytes kept of an argument vector.
pub const ARGV: usize = 256;

/// One execution.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ExecEvent {
    /// When.
    pub at_ns: u64,
    /// By which process.
    pub pid: u32,
    /// In which phase, after the event.
    pub phase: u32,
    /// Bytes of arguments there are; [`ARGV`] of them are kept at most.
    pub argv_len: u64,
    /// The path, NUL-terminated.
    pub filename: [u8; FILENAME],
    /// The arguments, each with its NUL.
    pub argv: [u8; ARGV],
}

#[cfg(test)]
mod tests {
    use core::mem::{offset_of, size_of};

    use super::*;

    #[test]
    fn layouts_have_no_padding() {
        assert_eq!(size_of::<Armed>(), 8);
        assert_eq!(size_of::<Figures>(), 8 * 8);
        assert_eq!(size_of::<Task>(), 4 * 2 + 8 + 4 * 4 + 8 * 4 + size_of::<Figures>());
        assert_eq!(offset_of!(Task, entered_ns), 8);
        assert_eq!(size_of::<Sums>(), 8 * 2 + size_of::<Figures>() + 8 * 5);
        assert_eq!(size_of::<Slot>(), 8 * 10 + 16 + 2 * size_of::<Sums>());
        assert_eq!(size_of::<Calls>(), 2 * (CALLS + 128));
        assert_eq!(size_of::<Row>(), 8 * (4 + BUCKETS));
        assert_eq!(size_of::<ExecEvent>(), 8 + 8 + 8 + FILENAME + ARGV);
        assert_eq!(size_of::<ExecEvent>() % 8, 0);
    }

    #[test]
    fn a_row_fits_a_per_cpu_value() {
        assert!(size_of::<Row>() <= 32 << 10);
    }

    #[test]
    fn calls_come_apart_again() {
        assert_eq!(call_parts(call(phase::WORKLOAD, true, 3)), (1, true, 3));
        assert_eq!(call_parts(call(phase::INIT, false, 231)), (0, false, 231));
        assert_eq!(call_parts(call(0, false, u64::MAX)), (0, false, NUMBERS - 1));
        assert!((call(1, true, u64::MAX) as usize) < CALLS);
    }

    #[test]
    fn error_keys_come_apart_again() {
        assert_eq!(error_parts(error_key(7, 2047, 4095)), (7, 2047, 4095));
    }
}
