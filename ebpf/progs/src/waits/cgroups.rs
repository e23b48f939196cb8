//! Which tasks are counted: those forked into an armed cgroup, by a counted task, or moved into an armed cgroup.

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use skiff_ebpf_abi::waits::Waiter;

use crate::kernel::{Ptr, TaskPtr, cgroup_id, cgroup_id_of, is_cgroup2, offset};
use crate::maps::{ARMED, add, count, current, waiter, waits};
use crate::queue::{clock, waited_ns};

/// A child is counted as its parent is; one that was forked into an armed cgroup is the first of its container. It has not run
/// yet, and its cgroup is final.
#[btf_tracepoint(function = "sched_process_fork")]
pub fn sched_process_fork(ctx: BtfTracePointContext) -> i32 {
    let parent = Ptr::new(ctx.arg::<*const u8>(0));
    let child = Ptr::new(ctx.arg::<*const u8>(1));
    if let Some(parent) = waiter(parent).filter(|parent| current(parent.slot, parent.generation).is_some()) {
        begin(child, parent.slot, parent.generation, 0);
    } else if let Some((slot, generation)) = armed(child) {
        begin(child, slot, generation, 0);
    }
    0
}

/// A process was moved to another cgroup, of whichever hierarchy; the tracepoint names its leader.
#[btf_tracepoint(function = "cgroup_attach_task")]
pub fn cgroup_attach_task(ctx: BtfTracePointContext) -> i32 {
    let task = Ptr::new(ctx.arg::<*const u8>(2));
    if waiter(task).is_some_and(|waiter| current(waiter.slot, waiter.generation).is_some()) {
        return 0;
    }
    if let Some((slot, generation)) = armed(task) {
        begin(task, slot, generation, waited_ns(task, clock(task)));
    }
    0
}

/// The slot of the armed cgroup that `task` is in, which has not gone, and its generation.
#[inline(always)]
fn armed(task: TaskPtr) -> Option<(u32, u64)> {
    let armed = ARMED.get_ptr(cgroup_id_of(task))?;
    // SAFETY: both pointers are to map values.
    unsafe {
        let slot = (*armed).slot;
        Some((slot, (*waits(slot)?).generation))
    }
}

#[inline(always)]
fn begin(task: TaskPtr, slot: u32, generation: u64, waited_ns: u64) {
    let Some(waits) = waits(slot) else { return };
    let begun = Waiter { slot, generation, waited_ns, ..Waiter::default() };
    match count(task, begun) {
        // What is left of an earlier slot is replaced.
        Some(kept) => *kept = begun,
        // SAFETY: as above.
        None => unsafe { add(&raw mut (*waits).lost, 1) },
    }
}

/// A cgroup below an armed one is armed for the same slot.
#[btf_tracepoint(function = "cgroup_mkdir")]
pub fn cgroup_mkdir(ctx: BtfTracePointContext) -> i32 {
    let cgroup = Ptr::new(ctx.arg::<*const u8>(0));
    if !is_cgroup2(cgroup) {
        return 0;
    }
    let parent = cgroup.follow(offset!(cgroup_parent)).follow(offset!(css_cgroup));
    if let Some(armed) = ARMED.get_ptr(cgroup_id(parent)) {
        // SAFETY: the pointer is to a map value.
        let armed = unsafe { *armed };
        if ARMED.insert(cgroup_id(cgroup), armed, 0).is_err()
            && let Some(waits) = waits(armed.slot)
        {
            // SAFETY: the pointer is to a map value.
            unsafe { add(&raw mut (*waits).lost, 1) };
        }
    }
    0
}

#[btf_tracepoint(function = "cgroup_rmdir")]
pub fn cgroup_rmdir(ctx: BtfTracePointContext) -> i32 {
    let cgroup = Ptr::new(ctx.arg::<*const u8>(0));
    if is_cgroup2(cgroup) {
        // Most cgroups were never armed.
        let _ = ARMED.remove(cgroup_id(cgroup));
    }
    0
}
