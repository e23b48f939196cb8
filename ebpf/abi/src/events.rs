//! What the programs that are always on, and their loader, share.

/// Containers for which there is room at a time; there may be twice as many, as far as the rows where they may stand are not full.
pub const CONTAINERS: u32 = 8192;
/// Places in a row of the table of containers: their cgroups' ids are a line of the processor's cache.
pub const ROW: u32 = 8;
/// Rows that cgroups' ids choose.
pub const ROWS: u32 = CONTAINERS * 2 / ROW;
/// Rows, from the chosen one on, in which a container may stand if those before are full.
pub const REACH: u32 = 5;
/// All rows of places. After them comes one of numbers: how many containers [stand elsewhere](MOVED) than in the row that they chose, and how many
/// cgroups below containers' [are counted](BELOW).
pub const ALL_ROWS: u32 = ROWS + REACH - 1;
/// The number of containers that are not in their own row: as long as it is 0, nobody looks beyond that.
pub const MOVED: u32 = 0;
/// At least as many as there are in `NESTED`: spares all other tasks the look-up.
pub const BELOW: u32 = 1;

/// The row that the container with the cgroup `id` chooses.
#[inline(always)]
#[must_use]
pub const fn row_of(id: u64) -> u32 {
    // Fibonacci hashing: ids are numbers that mostly follow each other, with a count of their turns above.
    ((id ^ id >> 32) as u32).wrapping_mul(0x9e37_79b9) >> (32 - ROWS.trailing_zeros())
}
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

/// The counts of a container: three lines of the processor's cache, of which what happens once in a while needs the first, the end of a
/// task the second, and the OOM killer the third.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Processes forked.
    pub processes: u64,
    /// Programs executed.
    pub execs: u64,
    /// Processes that have ended.
    pub exits: u64,
    /// Threads created beside processes' first.
    pub threads: u64,
    /// The most pages that a process had in memory, of those that have ended.
    pub peak_pages: u64,
    /// Processor time that its first task had taken when it executed its program, ns: as old as its last switch.
    pub setup_cpu_ns: u64,
    /// Since when, ns of CLOCK_MONOTONIC, if its program ran before; 0 if it is counted from its first instruction on.
    pub since_ns: u64,
    /// Cgroups made below it for which there was no room: what is in them, and in those below them, is in no figure.
    pub nested_refused: u32,
    /// The process that reads ahead for it, from its birth to its end: none of its own.
    pub reader: u32,
    /// Tasks that have ended.
    pub used: Used,
    /// Processes that the OOM killer has ended.
    pub oom_kills: u64,
    /// The first of them.
    pub oom: Kill,
}

impl Counts {
    /// How many words it has.
    pub const WORDS: usize = 24;

    /// Its words, in order.
    #[must_use]
    pub fn words(&self) -> [u64; Self::WORDS] {
        let Self { processes, execs, exits, threads, peak_pages, setup_cpu_ns, since_ns, .. } = *self;
        let first = [processes, execs, exits, threads, peak_pages, setup_cpu_ns, since_ns];
        let mut words = [0; Self::WORDS];
        words[..7].copy_from_slice(&first);
        words[7] = word_of(self.nested_refused, self.reader);
        words[8..16].copy_from_slice(&self.used.words());
        words[16] = self.oom_kills;
        words[17..].copy_from_slice(&self.oom.words());
        words
    }

    /// The reverse of [`Counts::words`].
    #[must_use]
    pub fn of_words(words: [u64; Self::WORDS]) -> Self {
        let [processes, execs, exits, threads, peak_pages, setup_cpu_ns, since_ns, halves, rest @ ..] = words;
        let [u0, u1, u2, u3, u4, u5, u6, u7, oom_kills, oom @ ..] = rest;
        let (nested_refused, reader) = halves_of(halves);
        Self {
            processes,
            execs,
            exits,
            threads,
            peak_pages,
            setup_cpu_ns,
            since_ns,
            nested_refused,
            reader,
            used: Used::of_words([u0, u1, u2, u3, u4, u5, u6, u7]),
            oom_kills,
            oom: Kill::of_words(oom),
        }
    }
}

/// One act of the OOM killer.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kill {
    /// When, ns of CLOCK_MONOTONIC.
    pub at_ns: u64,
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

impl Kill {
    /// How many words it has.
    pub const WORDS: usize = 7;

    /// Its words, in order.
    #[must_use]
    pub fn words(&self) -> [u64; Self::WORDS] {
        let [killer, victim] = [self.killer_name, self.victim_name].map(words_of_name);
        let pids = word_of(self.killer_pid, self.victim_pid);
        [self.at_ns, pids, killer[0], killer[1], victim[0], victim[1], self.is_inside]
    }

    /// The reverse of [`Kill::words`].
    #[must_use]
    pub fn of_words(words: [u64; Self::WORDS]) -> Self {
        let [at_ns, pids, killer_0, killer_1, victim_0, victim_1, is_inside] = words;
        let (killer_pid, victim_pid) = halves_of(pids);
        let killer_name = name_of_words([killer_0, killer_1]);
        let victim_name = name_of_words([victim_0, victim_1]);
        Self { at_ns, killer_pid, victim_pid, killer_name, victim_name, is_inside }
    }
}

/// The word that two halves are in memory.
fn word_of(first: u32, second: u32) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

/// The reverse of [`word_of`].
fn halves_of(word: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]))
}

fn words_of_name(name: [u8; 16]) -> [u64; 2] {
    let (mut first, mut second) = ([0; 8], [0; 8]);
    first.copy_from_slice(&name[..8]);
    second.copy_from_slice(&name[8..]);
    [first, second].map(u64::from_ne_bytes)
}

fn name_of_words(words: [u64; 2]) -> [u8; 16] {
    let mut name = [0; 16];
    name[..8].copy_from_slice(&words[0].to_ne_bytes());
    name[8..].copy_from_slice(&words[1].to_ne_bytes());
    name
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
        assert_eq!(size_of::<Kill>(), 8 * Kill::WORDS);
        assert_eq!(size_of::<Counts>(), 8 * Counts::WORDS);
        assert_eq!(size_of::<Counts>(), 3 * 64);
        assert_eq!(size_of::<Live>(), 8 + size_of::<Used>());
    }

    #[test]
    fn counts_are_their_words() {
        let counts = Counts {
            processes: 1,
            execs: 2,
            exits: 3,
            threads: 4,
            peak_pages: 5,
            setup_cpu_ns: 6,
            since_ns: 7,
            nested_refused: 8,
            reader: 9,
            used: Used::of_words([10, 11, 12, 13, 14, 15, 16, 17]),
            oom_kills: 18,
            oom: Kill {
                at_ns: 19,
                killer_pid: 20,
                victim_pid: 21,
                killer_name: *b"killer\0\0\0\0\0\0\0\0\0\0",
                victim_name: *b"victim\0\0\0\0\0\0\0\0\0\0",
                is_inside: 22,
            },
        };
        let words = counts.words();
        assert_eq!(Counts::of_words(words), counts);
        // Where the programs have them.
        let at = |offset: usize| words[offset / 8];
        assert_eq!(at(core::mem::offset_of!(Counts, since_ns)), 7);
        assert_eq!(words[7].to_ne_bytes()[..4], 8_u32.to_ne_bytes());
        assert_eq!(
            (at(core::mem::offset_of!(Counts, used)), at(core::mem::offset_of!(Counts, oom))),
            (10, 19)
        );
        assert_eq!(words[18].to_ne_bytes()[4..], 21_u32.to_ne_bytes());
        assert_eq!(words[21].to_ne_bytes()[..6], *b"victim");
    }

    #[test]
    fn sums_may_begin_below_zero() {
        let before = Used { minor_faults: 7_u64.wrapping_neg(), ..Used::default() };
        let after = Used { minor_faults: 9, write_bytes: 3, ..Used::default() };
        assert_eq!(before.plus(&after), Used { minor_faults: 2, write_bytes: 3, ..Used::default() });
    }
}
