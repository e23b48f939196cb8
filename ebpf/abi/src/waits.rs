//! What the programs of waiting share with their loader: run queue, sleep, block devices, and who waited for whom.

use crate::BUCKETS;

/// Columns of the blame matrix after one for each slot.
pub mod column {
    /// Tasks of the host and of containers that are not counted.
    pub const HOST: u32 = 0;
    /// The kernel's own threads.
    pub const KERNEL: u32 = 1;
    /// Nobody: the CPU was idle and on its way to the task.
    pub const NOBODY: u32 = 2;
    /// The container's own CPU quota.
    pub const QUOTA: u32 = 3;
    /// Containers that have given their slot back.
    pub const ENDED: u32 = 4;
    /// Who ran at that time is not remembered any more.
    pub const UNTOLD: u32 = 5;
    /// The same as [`ENDED`], moved there from the column of the slot. Only whoever gives slots back writes it, and the programs
    /// only [`ENDED`]: so neither undoes what the other adds.
    pub const MOVED: u32 = 6;
    /// How many there are.
    pub const COUNT: u32 = 7;
}

/// Runs of one CPU that are remembered. A power of two.
pub const RUNS: usize = 32;
/// Requests under way that are noted beside each other: where there are more, of all containers together, whose places by their address are
/// there, the others are lost.
pub const ROW: u32 = 8;
/// Such rows. A power of two.
pub const BIO_ROWS: u32 = 2048;

/// Durations: their sum, and how many were how long.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Sum, ns.
    pub total_ns: u64,
    /// By [`bucket`](crate::bucket).
    pub histogram: [u64; BUCKETS],
}

/// How the tasks of a slot waited.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waits {
    /// Which container in this slot, counted on: what a task of an earlier one does is not this one's.
    pub generation: u64,
    /// Tasks that could not be counted.
    pub lost: u64,
    /// Runnable, without a CPU and without being throttled.
    pub run_queue: Times,
    /// Runnable, but the quota of the cgroup was used up.
    pub throttled: Times,
    /// Asleep or blocked.
    pub off_cpu: Times,
}

/// What a slot asked of block devices.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocks {
    /// Requests whose end was not timed: [`ROW`] others had their places.
    pub lost: u64,
    /// Pads to a multiple of 16.
    pub pad: u64,
    /// Bytes of the requests that ended, by direction: read, written.
    pub bytes: [u64; 2],
    /// From the hand-over to the block layer to the end, by direction.
    pub latency: [Times; 2],
}

/// What is kept with a task.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waiter {
    /// Its slot.
    pub slot: u32,
    /// 1 while it is off its CPU because it sleeps.
    pub asleep: u32,
    /// The generation of the slot that it belongs to.
    pub generation: u64,
    /// When it was last switched out, on the run queue's clock; 0 before.
    pub out_ns: u64,
    /// Its time on run queues that is accounted for.
    pub waited_ns: u64,
    /// How long the run queue of its cgroup on its CPU had been throttled when it began to wait.
    pub throttled_ns: u64,
    /// The part of its wait on the CPUs that it has left, without the next.
    pub moved_ns: u64,
    /// The throttled part of its wait there.
    pub moved_throttled_ns: u64,
}

/// Who began to run, and when.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Run {
    /// On the run queue's clock.
    pub since_ns: u64,
    /// A column of the blame matrix.
    pub column: u32,
    /// If that is a slot's: the low half of its generation.
    pub generation: u32,
}

/// The last runs of a CPU.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Runs {
    /// Runs noted; the last is under way.
    pub count: u64,
    /// The task that came last, as far as the kernel told; 0 is the idle one.
    pub pid: u64,
    /// Fills the line of memory.
    pub pad: [u64; 6],
    /// The last of them; the n-th at `n % RUNS`.
    pub runs: [Run; RUNS],
}

/// In [`Bio::direction`]: a limit may hold the request back.
pub const HELD: u32 = 2;

/// A request under way.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bio {
    /// When it was handed to the block layer, ns of CLOCK_MONOTONIC.
    pub since_ns: u64,
    /// Whose it is.
    pub slot: u32,
    /// 0 to read, 1 to write; [`HELD`] beside it until it is queued.
    pub direction: u32,
    /// Its bytes.
    pub bytes: u64,
    /// The generation of the slot.
    pub generation: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_have_no_padding() {
        assert_eq!(size_of::<Times>(), 8 * (1 + BUCKETS));
        assert_eq!(size_of::<Waits>(), 8 * 2 + 3 * size_of::<Times>());
        assert_eq!(size_of::<Blocks>(), 8 * 4 + 2 * size_of::<Times>());
        assert_eq!(size_of::<Waiter>(), 4 * 2 + 8 * 6);
        assert_eq!(size_of::<Runs>(), 64 + RUNS * 16);
        assert_eq!(size_of::<Bio>(), 8 * 4);
        assert!(RUNS.is_power_of_two());
    }
}
