//! What is pinned where, and what those who share it note there.
//!
//! ```text
//! /sys/fs/bpf/skiff/<layout>/
//!   armed                                                       hash: cgroup id → Armed, of all programs
//!   slots calls rows errors execs closing tasks victims         the maps of those of system calls
//!   waits blame blocks runs waiters bios                        … of waiting
//!   net cgroups                                                 … of sockets
//!   owners                                                      hash: slot → Owner
//!   refused                                                     hash: cgroup id → Owner, of those that found no slot
//!   about                                                       array: one About
//!   close live                                                  iterators, run by reading them
//!   sys_enter … wait_sched_switch …                             links, which keep the programs attached
//!   ingress egress connections                                  programs, to be attached to a container's cgroup
//!   sockets/<slot>-ingress …                                    links of those that are
//! ```
//!
//! A slot is taken by whoever adds its owner, and is empty whenever it has none. The name of the directory is that of the
//! layouts: what a build of other layouts has pinned is not even found.

use crate::net::Net;
use crate::waits::{Blocks, Waits, column};
use crate::{
    ARGV, Armed, BUCKETS, CALLS, Calls, ERRORS, EXECS, ExecEvent, FILENAME, Figures, ROWS, Row, Slot, Task,
};

/// The directory of everything that is pinned.
pub const DIRECTORY: &str = "/sys/fs/bpf/skiff";

/// To be raised when the meaning of something changes and its size does not.
const REVISION: usize = 3;

/// The name of the directory of all that has the layouts of this build: a digest of their sizes.
pub const LAYOUT: u64 = digest(&[
    REVISION,
    size_of::<Armed>(),
    size_of::<Task>(),
    size_of::<Slot>(),
    size_of::<Calls>(),
    size_of::<Row>(),
    size_of::<ExecEvent>(),
    size_of::<Owner>(),
    size_of::<About>(),
    size_of::<Live>(),
    size_of::<Waits>(),
    size_of::<Blocks>(),
    size_of::<Net>(),
    column::COUNT as usize,
    ROWS as usize,
    EXECS as usize,
    ERRORS as usize,
    CALLS,
    BUCKETS,
    FILENAME,
    ARGV,
]);

/// FNV-1a over words.
const fn digest(words: &[usize]) -> u64 {
    let (mut digest, mut at) = (0xcbf2_9ce4_8422_2325_u64, 0);
    while at < words.len() {
        digest = (digest ^ words[at] as u64).wrapping_mul(0x100_0000_01b3);
        at += 1;
    }
    digest
}

/// Bytes kept of a container's id.
pub const ID: usize = 128;
/// Points in time of a launch that are noted.
pub const STAMPS: usize = 9;

/// Whose slot it is.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The id of its cgroup.
    pub cgroup: u64,
    /// Points in time of its launch, ns of CLOCK_MONOTONIC, 0 where unknown: begun, planned, root file system done, cgroup
    /// made, armed, first instruction, mounts done, security done, seen to run.
    pub stamps: [u64; STAMPS],
    /// The container's id, cut, filled up with zeros.
    pub id: [u8; ID],
}

impl Owner {
    /// Bytes of the struct.
    pub const SIZE: usize = size_of::<Self>();

    /// The owner of the cgroup `cgroup` that is called `id`.
    #[must_use]
    pub fn new(cgroup: u64, id: &str, stamps: [u64; STAMPS]) -> Self {
        let mut owner = Self { cgroup, stamps, id: [0; ID] };
        owner.id.iter_mut().zip(id.bytes()).for_each(|(to, from)| *to = from);
        owner
    }

    /// As the map has it.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let (words, id) = bytes.split_at_mut(Self::SIZE - ID);
        put(words, &[self.cgroup]);
        put(&mut words[8..], &self.stamps);
        id.copy_from_slice(&self.id);
        bytes
    }

    /// From what the map has; `None` if that has another size.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut id = [0; ID];
        id.copy_from_slice(bytes.get(Self::SIZE - ID..Self::SIZE)?);
        let [cgroup] = take(bytes)?;
        Some(Self { cgroup, stamps: take(bytes.get(8..)?)?, id })
    }

    /// The container's id, as far as it is kept.
    #[must_use]
    pub fn id(&self) -> &[u8] {
        self.id.split(|byte| *byte == 0).next().unwrap_or_default()
    }
}

impl Armed {
    /// As the map has it.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&self.slot.to_ne_bytes());
        bytes[4..].copy_from_slice(&self.execs_before.to_ne_bytes());
        bytes
    }
}

/// The programs of sockets, by which their links are named too.
pub const SOCKETS: [&str; 3] = ["ingress", "egress", "connections"];
/// The directory of their links.
pub const SOCKET_LINKS: &str = "sockets";

/// Bytes of text in [`About`].
pub const MISSING: usize = 1024;

/// What is to be known of the programs that are pinned.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About {
    /// When they were loaded, ns of CLOCK_MONOTONIC.
    pub since_ns: u64,
    /// How long that took.
    pub load_ns: u64,
    /// What they add to a system call of a counted task, plus 1; 0 if unknown.
    pub counted_ns: u64,
    /// Likewise of every other task.
    pub others_ns: u64,
    /// Kernel memory of the maps.
    pub map_bytes: u64,
    /// Bits of the figures that this kernel gives.
    pub available: u64,
    /// Bits of what is switched on: system calls, run queue, block, net, tcp.
    pub probes: u64,
    /// Kernel memory of the maps of waiting.
    pub waits_bytes: u64,
    /// … of sockets.
    pub net_bytes: u64,
    /// What the programs add to a switch between tasks of which one is counted, plus 1; 0 if unknown.
    pub switch_counted_ns: u64,
    /// Likewise of two others.
    pub switch_others_ns: u64,
    /// What it does not give, one phrase in a line, filled up with zeros.
    pub missing: [u8; MISSING],
}

impl About {
    /// Bytes of the struct.
    pub const SIZE: usize = size_of::<Self>();

    /// As the map has it.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let (words, text) = bytes.split_at_mut(Self::SIZE - MISSING);
        put(
            words,
            &[
                self.since_ns,
                self.load_ns,
                self.counted_ns,
                self.others_ns,
                self.map_bytes,
                self.available,
                self.probes,
                self.waits_bytes,
                self.net_bytes,
                self.switch_counted_ns,
                self.switch_others_ns,
            ],
        );
        text.copy_from_slice(&self.missing);
        bytes
    }

    /// From what the map has; `None` if that has another size.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let text = bytes.get(Self::SIZE - MISSING..Self::SIZE)?;
        let mut missing = [0; MISSING];
        missing.copy_from_slice(text);
        let [since_ns, load_ns, counted_ns, others_ns, map_bytes, available, probes, more @ ..] =
            take::<11>(bytes)?;
        let [waits_bytes, net_bytes, switch_counted_ns, switch_others_ns] = more;
        Some(Self {
            since_ns,
            load_ns,
            counted_ns,
            others_ns,
            map_bytes,
            available,
            probes,
            waits_bytes,
            net_bytes,
            switch_counted_ns,
            switch_others_ns,
            missing,
        })
    }
}

/// What the iterator `live` writes of each counted task that is alive.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Live {
    /// What is kept with the task: slot, phase, the call it is in.
    pub slot: u32,
    /// Its phase.
    pub phase: u32,
    /// The call it is in, if [`Live::in_call`].
    pub call: u32,
    /// 1 if it is in a call.
    pub in_call: u32,
    /// Since when its figures count.
    pub since_ns: u64,
    /// When this was written.
    pub now_ns: u64,
    /// Its figures when they began to count.
    pub base: Figures,
    /// Its figures now.
    pub used: Figures,
}

impl Live {
    /// Bytes of the struct.
    pub const SIZE: usize = size_of::<Self>();

    /// From what the iterator has written; `None` if that is not all.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let half = |at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
        let [since_ns, now_ns] = take(bytes.get(16..)?)?;
        let (base, used) = (take(bytes.get(32..)?)?, take(bytes.get(32 + size_of::<Figures>()..)?)?);
        Some(Self {
            slot: half(0)?,
            phase: half(4)?,
            call: half(8)?,
            in_call: half(12)?,
            since_ns,
            now_ns,
            base: Figures::from_words(base),
            used: Figures::from_words(used),
        })
    }
}

impl Figures {
    /// From the words in the order of the fields.
    #[must_use]
    pub const fn from_words(words: [u64; 8]) -> Self {
        let [cpu_ns, user_ns, system_ns, minor_faults, major_faults, run_queue_ns, voluntary, involuntary] =
            words;
        Self {
            cpu_ns,
            user_ns,
            system_ns,
            minor_faults,
            major_faults,
            run_queue_ns,
            voluntary_switches: voluntary,
            involuntary_switches: involuntary,
        }
    }
}

/// Writes `words` one after the other.
fn put(bytes: &mut [u8], words: &[u64]) {
    bytes.chunks_exact_mut(8).zip(words).for_each(|(to, word)| to.copy_from_slice(&word.to_ne_bytes()));
}

/// Reads words that stand one after the other; `None` if they are not all there.
fn take<const N: usize>(bytes: &[u8]) -> Option<[u64; N]> {
    let mut words = [0; N];
    for (at, word) in words.iter_mut().enumerate() {
        *word = u64::from_ne_bytes(*bytes.get(at * 8..)?.first_chunk()?);
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_come_back_from_their_bytes() {
        let owner = Owner::new(0x1234_5678_9abc, "web-1", [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(Owner::from_bytes(&owner.to_bytes()), Some(owner));
        assert_eq!(owner.id(), b"web-1");
        assert_eq!(Owner::from_bytes(&[0; 7]), None);
        let long = Owner::new(1, &"x".repeat(200), [0; STAMPS]);
        assert_eq!(long.id(), &[b'x'; ID]);
    }

    #[test]
    fn what_is_told_of_programs_and_tasks_comes_back() {
        let mut about = About {
            since_ns: 1,
            load_ns: 2,
            counted_ns: 3,
            others_ns: 4,
            map_bytes: 5,
            available: 6,
            probes: 7,
            waits_bytes: 8,
            net_bytes: 9,
            switch_counted_ns: 10,
            switch_others_ns: 11,
            missing: [0; MISSING],
        };
        about.missing[..3].copy_from_slice(b"all");
        assert_eq!(About::from_bytes(&about.to_bytes()), Some(about));
        let mut bytes = [0; Live::SIZE];
        for (at, half) in [7_u32, 1, 2, 1].into_iter().enumerate() {
            bytes[at * 4..][..4].copy_from_slice(&half.to_ne_bytes());
        }
        put(&mut bytes[16..], &core::array::from_fn::<u64, 18, _>(|word| word as u64));
        let live = Live::from_bytes(&bytes).expect("all of it");
        assert_eq!((live.slot, live.phase, live.call, live.in_call), (7, 1, 2, 1));
        assert_eq!((live.since_ns, live.now_ns, live.base.cpu_ns, live.used.cpu_ns), (0, 1, 2, 10));
        assert_eq!((live.base.involuntary_switches, live.used.involuntary_switches), (9, 17));
        assert_eq!(Live::from_bytes(&bytes[1..]), None);
    }

    #[test]
    fn layouts_have_no_padding() {
        assert_eq!(Owner::SIZE, 8 + 8 * STAMPS + ID);
        assert_eq!(size_of::<About>(), 8 * 11 + MISSING);
        assert_eq!(size_of::<Live>(), 4 * 4 + 8 * 2 + 2 * size_of::<Figures>());
    }

    #[test]
    fn arming_writes_what_the_programs_read() {
        let armed = Armed { slot: 7, execs_before: 1 };
        let words = armed.to_bytes().map(u64::from);
        assert_eq!((armed.to_bytes().len(), words[0], words[4]), (size_of::<Armed>(), 7, 1));
    }
}
