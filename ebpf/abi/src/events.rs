//! What the programs that are always on, and their loader, share.

/// Containers counted at a time.
pub const CONTAINERS: u32 = 8192;
/// Cgroups below theirs that are counted at a time.
pub const NESTED: u32 = 8192;

/// Offsets of fields that only these programs read; as [`crate::Offsets`].
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fields {
    /// `task_struct.flags`
    pub task_flags: u32,
    /// `task_struct.signal`
    pub task_signal: u32,
    /// `signal_struct.maxrss`
    pub signal_peak: u32,
    /// `task_struct.ioac.read_bytes`
    pub task_read: u32,
    /// `task_struct.ioac.write_bytes`
    pub task_written: u32,
    /// `task_struct.ioac.cancelled_write_bytes`
    pub task_cancelled: u32,
    /// `task_struct.start_time`
    pub task_start: u32,
    /// `signal_struct.oom_mm`
    pub signal_oom: u32,
}

impl Fields {
    /// As [`crate::Offsets::MARK`].
    pub const MARK: u32 = 0x5eed_2000;

    /// The C path of each field, in the order of the struct.
    pub const PATHS: [&str; 8] = [
        "task_struct.flags",
        "task_struct.signal",
        "signal_struct.maxrss",
        "task_struct.ioac.read_bytes",
        "task_struct.ioac.write_bytes",
        "task_struct.ioac.cancelled_write_bytes",
        "task_struct.start_time",
        "signal_struct.oom_mm",
    ];

    /// Offsets in the order of [`Fields::PATHS`].
    #[must_use]
    pub const fn of(offsets: [u32; 8]) -> Self {
        let [
            task_flags,
            task_signal,
            signal_peak,
            task_read,
            task_written,
            task_cancelled,
            task_start,
            signal_oom,
        ] = offsets;
        Self {
            task_flags,
            task_signal,
            signal_peak,
            task_read,
            task_written,
            task_cancelled,
            task_start,
            signal_oom,
        }
    }
}

/// What one task has used, or all those of a container that have ended, since the container's program began.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// Page faults served at once.
    pub minor_faults: u64,
    /// Page faults that waited for I/O.
    pub major_faults: u64,
    /// Time in the run queue, ns.
    pub run_queue_ns: u64,
    /// Switches because it blocked.
    pub voluntary_switches: u64,
    /// Switches because it was preempted.
    pub involuntary_switches: u64,
    /// Bytes read from block devices.
    pub read_bytes: u64,
    /// Bytes made dirty that were to be written to them.
    pub write_bytes: u64,
    /// Of these, bytes that went before they were written.
    pub cancelled_bytes: u64,
}

impl Used {
    /// How many words it has.
    pub const WORDS: usize = 8;

    /// Its words, in order.
    #[must_use]
    pub const fn words(&self) -> [u64; Self::WORDS] {
        [
            self.minor_faults,
            self.major_faults,
            self.run_queue_ns,
            self.voluntary_switches,
            self.involuntary_switches,
            self.read_bytes,
            self.write_bytes,
            self.cancelled_bytes,
        ]
    }

    /// The reverse of [`Used::words`].
    #[must_use]
    pub const fn of_words(words: [u64; Self::WORDS]) -> Self {
        let [minor_faults, major_faults, run_queue_ns, voluntary_switches, involuntary_switches, rest @ ..] =
            words;
        let [read_bytes, write_bytes, cancelled_bytes] = rest;
        Self {
            minor_faults,
            major_faults,
            run_queue_ns,
            voluntary_switches,
            involuntary_switches,
            read_bytes,
            write_bytes,
            cancelled_bytes,
        }
    }

    /// The sum of both; what the program's first task had used before is negative until that ends.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let mut words = self.words();
        for (word, more) in words.iter_mut().zip(other.words()) {
            *word = word.wrapping_add(more);
        }
        Self::of_words(words)
    }
}

/// The counts of a container.
///
/// The kernel keeps 56 bytes before them, so that what follows the first word begins at a line of the processor's cache, and so
/// does [`Kill`]: what is written together is together.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Processes forked.
    pub processes: u64,
    /// Tasks that have ended.
    pub used: Used,
    /// Programs executed.
    pub execs: u64,
    /// Processes that have ended.
    pub exits: u64,
    /// The most pages that a process had in memory, of those that have ended.
    pub peak_pages: u64,
    /// Threads created beside processes' first.
    pub threads: u64,
    /// Processor time that its first task had taken when it executed its program, ns: as old as its last switch.
    pub setup_cpu_ns: u64,
    /// Since when, ns of CLOCK_MONOTONIC, if its program ran before; 0 if it is counted from its first instruction on.
    pub since_ns: u64,
    /// Cgroups made below it for which [`NESTED`] had no room: what is in them, and in those below them, is in no figure.
    pub nested_refused: u32,
    /// The process that reads ahead for it, from its birth to its end: none of its own.
    pub reader: u32,
    /// Processes that the OOM killer has ended.
    pub oom_kills: u64,
    /// The first of them.
    pub oom: Kill,
}

/// One act of the OOM killer.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kill {
    /// When, ns of CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// The cgroup of who wanted memory.
    pub killer_cgroup: u64,
    /// The process that wanted memory.
    pub killer_pid: u32,
    /// The process that was killed; 0 until it dies.
    pub victim_pid: u32,
    /// The name of the one.
    pub killer_name: [u8; 16],
    /// The name of the other.
    pub victim_name: [u8; 16],
    /// 1 if who wanted memory was of the same container; until the victim dies, the id of the container that it was of, or 0.
    pub is_inside: u64,
}

/// A task that lives.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Live {
    /// Its container: the id of its cgroup.
    pub container: u64,
    /// What it has used.
    pub used: Used,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_have_no_padding() {
        assert_eq!(size_of::<Fields>(), 4 * Fields::PATHS.len());
        assert_eq!(size_of::<Used>(), 8 * Used::WORDS);
        assert_eq!(size_of::<Kill>(), 8 * 2 + 4 * 2 + 16 * 2 + 8);
        assert_eq!(size_of::<Counts>(), size_of::<Used>() + 8 * 9 + size_of::<Kill>());
        assert_eq!(size_of::<Live>(), 8 + size_of::<Used>());
    }

    #[test]
    fn sums_may_begin_below_zero() {
        let before = Used { minor_faults: 7_u64.wrapping_neg(), ..Used::default() };
        let after = Used { minor_faults: 9, write_bytes: 3, ..Used::default() };
        assert_eq!(before.plus(&after), Used { minor_faults: 2, write_bytes: 3, ..Used::default() });
    }
}
