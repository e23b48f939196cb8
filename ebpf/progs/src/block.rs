//! Requests to block devices, as they are handed to the block layer.

use aya_ebpf::macros::{btf_tracepoint, fexit};
use aya_ebpf::programs::{BtfTracePointContext, FExitContext};
use skiff_ebpf_abi::phase;

use crate::kernel::{Ptr, TaskPtr, cgroup_id, cgroup_id_of, is_cgroup2, is_reader, offset, this};
use crate::maps::{ARMED, add, counted, slot};

/// The operation in `bi_opf`, and its values for data.
const OPERATION: u32 = 0xff;
const READ: u32 = 0;
const WRITE: u32 = 1;

/// Counts a request where it enters the block layer; what a stacked device makes of it is not counted again.
#[btf_tracepoint(function = "block_bio_queue")]
pub fn block_bio_queue(ctx: BtfTracePointContext) -> i32 {
    let bio = Ptr::new(ctx.arg::<*const u8>(0));
    let task = this();
    if let Some(operation) = data(bio, task)
        && let Some((index, phase)) = owner(bio, task)
    {
        request(bio, operation, index, phase);
    }
    0
}

/// Counts a request that a limit of its control group holds back, where that is of cgroup v1: a thread of the kernel's queues it later, and
/// then nothing tells whose it is. Of cgroup2 the request itself does.
#[fexit(function = "__blk_throtl_bio")]
pub fn blk_throtl_bio(ctx: FExitContext) -> i32 {
    let bio = Ptr::new(ctx.arg::<*const u8>(0));
    let task = this();
    if ctx.arg::<u8>(1) != 0
        && !is_cgroup2(charged_to(bio))
        && let Some(operation) = data(bio, task)
        && let Some((index, phase)) = submitter(task)
    {
        request(bio, operation, index, phase);
    }
    0
}

/// The direction of a request for data that is not one of a stacked device.
#[inline(always)]
fn data(bio: Ptr, task: TaskPtr) -> Option<u32> {
    let operation = bio.get::<u32>(offset!(bio_opf)) & OPERATION;
    let is_data = operation == READ || operation == WRITE;
    (is_data && task.follow(offset!(task_bio_list)).is_null()).then_some(operation)
}

#[inline(always)]
fn request(bio: Ptr, operation: u32, index: u32, phase: u32) {
    let Some(slot) = slot(index) else { return };
    let bytes = u64::from(bio.get::<u32>(offset!(bio_size)));
    // SAFETY: `slot` points to a map value; the masks keep the indices inside.
    unsafe {
        let sums = &raw mut (*slot).phases[phase as usize & 1];
        add(&raw mut (*sums).block_bytes[operation as usize & 1], bytes);
        add(&raw mut (*sums).block_requests[operation as usize & 1], 1);
    }
}

#[inline(always)]
fn charged_to(bio: Ptr) -> Ptr {
    bio.follow(offset!(bio_blkg)).follow(offset!(blkg_blkcg)).follow(offset!(blkcg_cgroup))
}

/// Whose request it is: the submitting task's, else that of the cgroup it is charged to. The latter finds written pages
/// that the kernel brings to the disk later, where the io controller is of cgroup2.
#[inline(always)]
fn owner(bio: Ptr, task: TaskPtr) -> Option<(u32, u32)> {
    if let Some(found) = submitter(task) {
        return Some(found);
    }
    let cgroup = charged_to(bio);
    if is_cgroup2(cgroup) { of_cgroup(cgroup_id(cgroup)) } else { None }
}

/// The container whose task submits a request, or for which it reads ahead.
#[inline(always)]
fn submitter(task: TaskPtr) -> Option<(u32, u32)> {
    if let Some(task) = counted(task) {
        return Some((task.slot, task.phase));
    }
    if is_reader(task) { of_cgroup(cgroup_id_of(task)) } else { None }
}

/// The container that has armed a cgroup, and how far it is.
#[inline(always)]
fn of_cgroup(id: u64) -> Option<(u32, u32)> {
    let armed = ARMED.get_ptr(id)?;
    // SAFETY: both pointers are to map values.
    unsafe {
        let index = (*armed).slot;
        let started = (*slot(index)?).exec_ns != 0;
        Some((index, if started { phase::WORKLOAD } else { phase::INIT }))
    }
}
