//! What a container uses: one plain type of figures, and where each comes from.
//!
//! Most are kept by the kernel in the container's control groups, of whichever version ([`cgroup`]). Beside controllers of
//! version 1 a container without limits is in no group that counts its memory or I/O: there its processes are asked
//! ([`processes`]), and programs in the kernel count what processes took along that have ended ([`events`]).
//!
//! A figure that this host does not give is `None`, never 0.

mod cgroup;
mod events;
mod groups;
mod processes;
mod sample;

use serde::{Deserialize, Serialize};

use crate::State;
use crate::ending::now_ns;

pub(crate) use events::{Living, Past, Tracker};
pub(crate) use groups::{Groups, Round};
pub use processes::own_memory;
pub(crate) use sample::{cgroup_id, sample};

/// A container and its figures.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sampled {
    /// 64 lower-case hex digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The image as it was given.
    pub image: String,
    /// `sha256:…` of the image's configuration, if it has one.
    pub image_id: Option<String>,
    /// What it is doing.
    pub state: State,
    /// Its first process, on the host.
    pub pid: i32,
    /// The id of its cgroup of version 2 (the inode of its directory), which programs in the kernel know it by.
    pub cgroup: Option<u64>,
    /// When it was started, ns since 1970.
    pub started_ns: u64,
    /// What it uses.
    pub figures: Figures,
}

/// What a container has used since it was last started, and what it uses now.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
    /// When they were read, ns since 1970.
    pub at_ns: u64,
    /// Processor time.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
    /// Block devices.
    pub block: Block,
    /// Its network interfaces; absent if it has the host's, and after its end.
    pub network: Option<Network>,
    /// Processes and threads.
    pub processes: Processes,
    /// How long it waited for what there was too little of; absent where the kernel does not count it (`CONFIG_PSI`).
    pub pressure: Option<Pressures>,
    /// What the kernel has killed in it for want of memory; absent if nothing, or if nobody could see it.
    pub oom: Option<Oom>,
    /// How often its restart policy has started it again since somebody did.
    pub restarts: u32,
    /// Why figures are absent or incomplete, one phrase each.
    pub missing: Vec<String>,
}

/// Processor time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cpu {
    /// All of it, ns.
    pub usage_ns: Option<u64>,
    /// What of it was used to set the container up, before its program began, ns: to some 0.2 ms.
    pub setup_ns: Option<u64>,
    /// In user mode, ns: divided by the kernel's ticks.
    pub user_ns: Option<u64>,
    /// In the kernel, ns.
    pub system_ns: Option<u64>,
    /// Periods that have passed in which it wanted processors and had a quota.
    pub periods: Option<u64>,
    /// Those in which it ran out of quota.
    pub throttled_periods: Option<u64>,
    /// How long it was held back, ns.
    pub throttled_ns: Option<u64>,
    /// How long its threads could have run and waited for a processor, ns, summed over threads; throttled time counts.
    pub run_queue_ns: Option<u64>,
    /// Switches because a thread blocked.
    pub voluntary_switches: Option<u64>,
    /// Switches because a thread was preempted.
    pub involuntary_switches: Option<u64>,
}

/// Memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// Charged now, page cache and kernel memory included, bytes.
    pub usage_bytes: Option<u64>,
    /// Without pages of files that nobody has touched for a while, bytes: what cAdvisor and Kubernetes call the working set.
    pub working_set_bytes: Option<u64>,
    /// The most that was charged at one time, bytes.
    pub peak_bytes: Option<u64>,
    /// The limit, bytes; absent without one.
    pub limit_bytes: Option<u64>,
    /// Anonymous memory, bytes; where no group counts it, what processes have in memory that is no file's.
    pub rss_bytes: Option<u64>,
    /// Page cache, bytes, tmpfs and shared memory included.
    pub cache_bytes: Option<u64>,
    /// Pages of files that are mapped, bytes.
    pub mapped_bytes: Option<u64>,
    /// Kernel memory, bytes.
    pub kernel_bytes: Option<u64>,
    /// In swap, bytes.
    pub swap_bytes: Option<u64>,
    /// The most that one process had in memory, bytes, of those that have ended.
    pub peak_process_bytes: Option<u64>,
    /// Page faults that were served at once.
    pub minor_faults: Option<u64>,
    /// Page faults that waited for I/O.
    pub major_faults: Option<u64>,
    /// How often the limit was reached.
    pub limit_hits: Option<u64>,
    /// Processes that the kernel has killed for want of memory.
    pub oom_kills: Option<u64>,
}

/// Block devices, all together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Block {
    /// Bytes read.
    pub read_bytes: Option<u64>,
    /// Bytes written.
    pub write_bytes: Option<u64>,
    /// Read requests.
    pub reads: Option<u64>,
    /// Write requests.
    pub writes: Option<u64>,
}

/// The container's own interfaces but the loopback, all together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    /// Bytes received.
    pub received_bytes: u64,
    /// Packets received.
    pub received_packets: u64,
    /// Packets that could not be received.
    pub receive_errors: u64,
    /// Packets that were dropped on receipt.
    pub receive_drops: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Packets that could not be sent.
    pub send_errors: u64,
    /// Packets that were dropped when they were to be sent.
    pub send_drops: u64,
}

/// Processes and threads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Processes {
    /// Threads that there are now, those of one thread being one: what a limit on processes counts.
    pub current: Option<u64>,
    /// The limit; absent without one.
    pub limit: Option<u64>,
    /// The most that there were at one time.
    pub peak: Option<u64>,
    /// Processes created, the first included.
    pub created: Option<u64>,
    /// Threads created beside processes' first.
    pub threads_created: Option<u64>,
    /// Programs executed, the first included.
    pub executed: Option<u64>,
    /// Processes that have ended.
    pub ended: Option<u64>,
    /// Cgroups made below its own that found no room: what is in them is not counted.
    pub cgroups_refused: Option<u64>,
}

/// How long threads waited. Documentation/accounting/psi.rst in the kernel tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pressures {
    /// For a processor.
    pub cpu: Pressure,
    /// For memory.
    pub memory: Pressure,
    /// For I/O.
    pub io: Pressure,
}

/// How long threads waited for one thing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pressure {
    /// At least one did, µs.
    pub some_us: u64,
    /// All of those that had something to do did, µs.
    pub full_us: u64,
}

/// What the kernel's OOM killer did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Oom {
    /// How many processes it has killed.
    pub kills: u64,
    /// When it first did, ns since 1970.
    pub at_ns: u64,
    /// Whom it killed then: the process's id on the host.
    pub victim_pid: u32,
    /// Its name.
    pub victim_name: String,
    /// Who wanted memory when there was none: the process's id on the host.
    pub killer_pid: u32,
    /// Its name.
    pub killer_name: String,
    /// Whether that was one of the container's own.
    pub is_killer_inside: bool,
}

/// Reads what a container's control groups and the processes in them have used by now.
///
/// `pid` is the container's first process, if it still runs; what programs in the kernel will tell of block devices ([`Tracker::counts_block`])
/// its processes are not asked for. Waits for the kernel, some 50 µs: not to be called where others wait.
#[must_use]
pub(crate) fn read(groups: &Groups<'_>, pid: Option<i32>, counts_block: bool) -> Figures {
    let mut figures = Figures { at_ns: now_ns(), ..Figures::default() };
    cgroup::read(groups, &mut figures);
    if let Some(pid) = pid {
        processes::complete(groups, counts_block, &mut figures);
        figures.network = processes::network(pid);
    }
    figures
}
