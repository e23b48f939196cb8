//! What the scheduler notes of a task and of the run queue of its cgroup.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;

use crate::kernel::{self, ABSENT, Ptr, TaskPtr};

macro_rules! offset {
    ($field:ident) => {
        $crate::kernel::constant!(skiff_ebpf_abi::QueueOffsets, $field)
    };
}
pub(crate) use offset;

/// The clock of the run queue that `task` is on, as of when it was last locked. ns; the same on all CPUs within what the clocks
/// of CPUs differ.
#[inline(always)]
pub fn clock(task: TaskPtr) -> u64 {
    task.follow(offset!(task_queue)).follow(offset!(queue_rq)).get(offset!(rq_clock))
}

/// How long `task` has been on run queues without a CPU, up to `now_ns`, throttled or not.
#[inline(always)]
pub fn waited_ns(task: TaskPtr, now_ns: u64) -> u64 {
    let queued: u64 = task.get(offset!(task_queued));
    let pending = if queued == 0 || queued > now_ns { 0 } else { now_ns - queued };
    task.get::<u64>(kernel::offset!(task_run_delay)) + pending
}

/// How long the run queue of the cgroup of `task`, on the CPU that it is on, has been throttled so far, by the quota of that
/// cgroup or one above it. ns.
#[inline(always)]
pub fn throttled_ns(task: TaskPtr) -> u64 {
    let queue = task.follow(offset!(task_queue));
    let rq = queue.follow(offset!(queue_rq));
    if offset!(queue_throttled_ns) != ABSENT {
        let since: u64 = queue.get(offset!(queue_throttled_since));
        return queue.get::<u64>(offset!(queue_throttled_ns)) + under_way(since, rq.get(offset!(rq_clock)));
    }
    // Before 6.6 only the clock of load tracking is told to stand still, which on a CPU that is busy is the same.
    let total = queue.get::<u64>(offset!(queue_throttled_pelt_ns));
    if queue.get::<u32>(offset!(queue_throttle_count)) == 0 {
        return total;
    }
    let now = rq.get::<u64>(offset!(rq_clock_pelt)) - rq.get::<u64>(offset!(rq_lost_idle));
    total + under_way(queue.get(offset!(queue_throttled_pelt_since)), now)
}

#[inline(always)]
fn under_way(since: u64, now: u64) -> u64 {
    if since == 0 || since > now { 0 } else { now - since }
}

/// As [`throttled_ns`], on the CPU `cpu`, whose run queue is not throttled now: tasks are not moved to such.
#[inline(always)]
pub fn throttled_on(task: TaskPtr, cpu: u32) -> u64 {
    let total = if offset!(queue_throttled_ns) == ABSENT {
        offset!(queue_throttled_pelt_ns)
    } else {
        offset!(queue_throttled_ns)
    };
    if total == ABSENT || offset!(group_queues) == ABSENT {
        return 0;
    }
    let queues = task.follow(offset!(task_group)).follow(offset!(group_queues));
    let queue = read(queues.address() as u64 + u64::from(cpu) * 8);
    if queue == 0 { 0 } else { read(queue + u64::from(total)) }
}

/// The word at a kernel address, 0 if there is none.
#[inline(always)]
fn read(address: u64) -> u64 {
    let mut word = 0_u64;
    // SAFETY: the helper checks the source, and `word` has 8 bytes.
    unsafe { bpf_probe_read_kernel((&raw mut word).cast(), 8, address as *const _) };
    word
}

/// Whether `task` is one of the kernel's own threads.
#[inline(always)]
pub fn is_kernel_thread(task: Ptr) -> bool {
    const PF_KTHREAD: u32 = 0x0020_0000;
    task.get::<u32>(offset!(task_flags)) & PF_KTHREAD != 0
}
