//! Tasks that get a CPU, lose it, or wait for another.

use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use skiff_ebpf_abi::waits::{Runs, Waiter, Waits, column};

use crate::kernel::{Ptr, TaskPtr, pid};
use crate::maps::{beyond, blame, current, time, waiter};
use crate::queue::{clock, is_kernel_thread, offset, throttled_ns, throttled_on, waited_ns};
use crate::runs;

/// Settles the wait of the task that is switched in, and notes since when the other one waits or sleeps. A kernel may not tell of every switch:
/// where the other one is not the task that came last, its own wait is settled first, as of when the scheduler gave it the CPU.
#[btf_tracepoint(function = "sched_switch")]
pub fn sched_switch(ctx: BtfTracePointContext) -> i32 {
    let prev = Ptr::new(ctx.arg::<*const u8>(1));
    let next = Ptr::new(ctx.arg::<*const u8>(2));
    // SAFETY: the helper has no precondition.
    let Some(runs) = runs::of(unsafe { bpf_get_smp_processor_id() }) else { return 0 };
    let now_ns = clock(prev);
    if runs::last(runs) != u64::from(pid(prev)) {
        comes(prev, runs, runs::begin(runs, came_ns(prev, next)));
    }
    comes(next, runs, now_ns);
    runs::set_last(runs, pid(next).into());
    if let Some(waiter) = waiter(prev) {
        // A task that is preempted is runnable whatever its state says.
        waiter.asleep = (ctx.arg::<u32>(0) & 1 == 0 && ctx.arg::<u32>(3) != 0).into();
        waiter.out_ns = now_ns;
        waiter.throttled_ns = throttled_ns(prev);
    }
    0
}

/// When `prev` came, which nobody was told. Of the idle task the kernel does not note it: but it runs only while nobody waits.
#[inline(always)]
fn came_ns(prev: TaskPtr, next: TaskPtr) -> u64 {
    if pid(prev) == 0 { next.get(offset!(task_queued)) } else { prev.get(offset!(task_arrived)) }
}

/// `task` has the CPU from `now_ns` on.
#[inline(always)]
fn comes(task: TaskPtr, runs: *mut Runs, now_ns: u64) {
    let (column, generation) = switched_in(task, runs, now_ns);
    runs::note(runs, now_ns, column, generation);
}

/// Counts how `next` waited; for whom others wait from now on.
#[inline(always)]
fn switched_in(next: TaskPtr, runs: *mut Runs, now_ns: u64) -> (u32, u32) {
    let Some(waiter) = waiter(next) else { return (uncounted(next), 0) };
    let Some(waits) = current(waiter.slot, waiter.generation) else { return (beyond() + column::HOST, 0) };
    let (total, throttled) = (waited_ns(next, now_ns), throttled_ns(next));
    let here = total.saturating_sub(waiter.waited_ns);
    let quota = divide(waiter, runs, now_ns, here, throttled);
    let wait = here - quota + waiter.moved_ns;
    let quota = quota + waiter.moved_throttled_ns;
    waiter.waited_ns = total;
    waiter.moved_ns = 0;
    waiter.moved_throttled_ns = 0;
    note(waiter, waits, now_ns, wait, quota);
    waiter.asleep = 0;
    (waiter.slot, waiter.generation as u32)
}

/// Adds a wait that is over to the histograms.
#[inline(always)]
fn note(waiter: &Waiter, waits: *mut Waits, now_ns: u64, wait: u64, quota: u64) {
    // SAFETY: `waits` points to a map value.
    unsafe {
        if quota > 0 {
            time(&raw mut (*waits).throttled, quota);
        }
        if wait > 0 {
            time(&raw mut (*waits).run_queue, wait);
        }
        if waiter.asleep != 0 && waiter.out_ns != 0 {
            let off = now_ns.saturating_sub(waiter.out_ns).saturating_sub(wait + quota);
            if off > 0 {
                time(&raw mut (*waits).off_cpu, off);
            }
        }
    }
}

/// Divides `wait_ns` of waiting on one CPU among who ran there and the quota, whose part it returns. What was throttled is taken
/// to be the beginning of the wait.
#[inline(always)]
fn divide(waiter: &Waiter, runs: *const Runs, now_ns: u64, wait_ns: u64, throttled_ns: u64) -> u64 {
    let quota = throttled_ns.saturating_sub(waiter.throttled_ns);
    let quota = if quota < wait_ns { quota } else { wait_ns };
    if quota > 0 {
        blame(waiter.slot, beyond() + column::QUOTA, quota);
    }
    if wait_ns > quota {
        runs::divide(runs, waiter.slot, now_ns, wait_ns - quota);
    }
    quota
}

#[inline(always)]
fn uncounted(task: TaskPtr) -> u32 {
    let column = if pid(task) == 0 {
        column::NOBODY
    } else if is_kernel_thread(task) {
        column::KERNEL
    } else {
        column::HOST
    };
    beyond() + column
}

/// A task that is moved while it waits: what it waited on the CPU that it leaves is for who ran there.
#[btf_tracepoint(function = "sched_migrate_task")]
pub fn sched_migrate_task(ctx: BtfTracePointContext) -> i32 {
    let task = Ptr::new(ctx.arg::<*const u8>(0));
    let Some(waiter) = waiter(task) else { return 0 };
    if current(waiter.slot, waiter.generation).is_none() {
        return 0;
    }
    let now_ns = clock(task);
    let total = waited_ns(task, now_ns);
    let wait = total.saturating_sub(waiter.waited_ns);
    if wait > 0
        && let Some(runs) = runs::of(task.get(offset!(task_cpu)))
    {
        let quota = divide(waiter, runs, now_ns, wait, throttled_ns(task));
        waiter.moved_ns += wait - quota;
        waiter.moved_throttled_ns += quota;
        waiter.waited_ns = total;
    }
    waiter.throttled_ns = throttled_on(task, ctx.arg(1));
    0
}

/// A task that wakes up: how long its run queue has been throttled is not its wait.
#[btf_tracepoint(function = "sched_wakeup")]
pub fn sched_wakeup(ctx: BtfTracePointContext) -> i32 {
    let task = Ptr::new(ctx.arg::<*const u8>(0));
    if let Some(waiter) = waiter(task) {
        waiter.throttled_ns = throttled_ns(task);
    }
    0
}

/// As [`sched_wakeup`], of a task that has never run.
#[btf_tracepoint(function = "sched_wakeup_new")]
pub fn sched_wakeup_new(ctx: BtfTracePointContext) -> i32 {
    let task = Ptr::new(ctx.arg::<*const u8>(0));
    if let Some(waiter) = waiter(task) {
        waiter.throttled_ns = throttled_ns(task);
    }
    0
}
