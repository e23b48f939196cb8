//! What a profiled container did to the kernel: plain figures, complete when [`finish`](crate::Profiler::finish) returns.
//!
//! Everything is counted twice over: once for the runtime's own set-up (`init`) and once for the user's program and its
//! descendants (`workload`). A task changes from one to the other in the kernel's exec event of the user's program; what
//! it forks afterwards starts there. Times are nanoseconds; points in time are `CLOCK_MONOTONIC`.

/// One container, from its first instruction to its last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// The runtime inside the container, before the user's program: set-up, and a container init for as long as it lives.
    pub init: Phase,
    /// The user's program and everything it started.
    pub workload: Phase,
    /// When the kernel replaced the runtime by the user's program; `None` if that never happened.
    pub exec_ns: Option<u64>,
    /// When the workload's first write to descriptor 1 or 2 succeeded; `None` if there was none.
    pub first_output_ns: Option<u64>,
    /// The programs executed, in order, as many as there was room for: see [`Record::execs_total`].
    pub execs: Vec<Exec>,
    /// How many programs were executed in all.
    pub execs_total: u64,
    /// The kernel's OOM killer, if it chose a victim in the container.
    pub oom: Option<Oom>,
    /// Events that are missing from the figures, whatever the reason. 0 means that every figure is complete.
    pub lost: u64,
    /// The figures that this kernel cannot give, one phrase each; their fields are `None`.
    pub missing: Vec<String>,
    /// What the measuring itself cost.
    pub cost: Cost,
}

impl Record {
    /// All system calls made.
    #[must_use]
    pub fn calls(&self) -> u64 {
        [&self.init, &self.workload].iter().flat_map(|phase| &phase.syscalls).map(|call| call.count).sum()
    }
}

/// The figures of one of the two phases.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Phase {
    /// System calls, the longest total first. A call belongs to the phase in which it was entered.
    pub syscalls: Vec<Syscall>,
    /// Page faults served without I/O.
    pub minor_faults: Option<u64>,
    /// Page faults that had to wait for I/O.
    pub major_faults: Option<u64>,
    /// Processes created, the container's first one included (in `init`).
    pub processes_created: u64,
    /// Threads created beside the first of each process.
    pub threads_created: u64,
    /// Time on a CPU, exact.
    pub cpu_ns: Option<u64>,
    /// The part of `cpu_ns` in user mode, divided by the kernel's tick samples; `None` also if no tick fell in this phase.
    pub cpu_user_ns: Option<u64>,
    /// The part of `cpu_ns` in kernel mode, divided by the kernel's tick samples.
    pub cpu_system_ns: Option<u64>,
    /// Time in which a thread could have run and waited for a CPU, summed over threads.
    pub run_queue_ns: Option<u64>,
    /// Time in which a thread neither ran nor waited for a CPU: asleep or blocked, summed over threads.
    pub off_cpu_ns: Option<u64>,
    /// Context switches because the thread blocked.
    pub voluntary_switches: Option<u64>,
    /// Context switches because the thread was preempted.
    pub involuntary_switches: Option<u64>,
    /// Bytes that block devices were asked to read.
    pub block_read_bytes: Option<u64>,
    /// Bytes that block devices were asked to write.
    pub block_write_bytes: Option<u64>,
    /// Read requests to block devices.
    pub block_reads: Option<u64>,
    /// Write requests to block devices.
    pub block_writes: Option<u64>,
}

/// The table a system call number is looked up in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord)]
pub enum Abi {
    /// The machine's own calls.
    #[default]
    Native,
    /// 32-bit calls on a 64-bit kernel (`int 0x80` and 32-bit programs).
    Compat,
}

/// All calls of one number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Syscall {
    /// Its number; `None` collects the numbers beyond the table.
    pub nr: Option<u32>,
    /// Whose number it is.
    pub abi: Abi,
    /// Its name, `syscall_<nr>` if it has none here.
    pub name: String,
    /// Calls made: `returned + refused + unreturned`.
    pub count: u64,
    /// Calls that came back, timed.
    pub returned: u64,
    /// Calls that a seccomp filter answered in the kernel's place: counted, and their errors too, but without a time.
    pub refused: u64,
    /// Calls that never came back, such as `exit_group`, or during which the record was closed.
    pub unreturned: u64,
    /// Failures by errno, in the order of the number. 512 to 516 are the kernel's own "interrupted by a signal": the call
    /// was then either restarted, which counts again, or answered with `EINTR`.
    pub errors: Vec<(u16, u64)>,
    /// Time from entry to exit, summed over the calls that returned.
    pub total_ns: u64,
    /// Half of the calls that returned took at most this long (± 3.2 %).
    pub p50_ns: u64,
    /// 99 of 100 calls that returned took at most this long (± 3.2 %).
    pub p99_ns: u64,
    /// The longest, exact.
    pub max_ns: u64,
}

/// One program execution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// When.
    pub at_ns: u64,
    /// The process, as the host numbers it.
    pub pid: i32,
    /// The path given to execve(2), cut after 127 bytes.
    pub filename: String,
    /// The arguments from the program's own memory, as far as they fit.
    pub argv: Vec<String>,
    /// Whether arguments are missing from `argv`, or its last one is cut.
    pub argv_cut: bool,
    /// Whether it was the user's program or one of its descendants.
    pub workload: bool,
}

/// What the OOM killer did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Oom {
    /// Tasks it chose.
    pub kills: u64,
    /// When it chose the first.
    pub at_ns: u64,
    /// The first victim, as the host numbers it.
    pub pid: i32,
    /// The first victim's name.
    pub comm: String,
}

/// The price of the record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cost {
    /// System calls that were traced.
    pub calls: u64,
    /// What the programs add to a system call of a counted task: measured on `getppid` while loading, on this machine, as
    /// a difference of the best of 20 rounds. `None` if it could not be measured.
    pub ns_per_call: Option<u64>,
    /// What they add to a system call of every other task on the host, measured likewise.
    pub ns_per_call_of_others: Option<u64>,
    /// Kernel memory of the maps, in bytes.
    pub map_bytes: u64,
    /// Time to load and attach the programs, before the container was made.
    pub load_ns: u64,
}
