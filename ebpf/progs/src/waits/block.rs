//! Requests to block devices, from where they are handed to the block layer to their end.

use aya_ebpf::macros::{btf_tracepoint, fentry};
use aya_ebpf::programs::{BtfTracePointContext, FEntryContext};
use skiff_ebpf_abi::waits::{Bio, HELD};

use crate::kernel::{Ptr, cgroup_id, is_cgroup2, now_ns, offset, this};
use crate::maps::{ARMED, add, blocks, current, time, waiter, waits};
use crate::{queue, requests};

/// The operation in `bi_opf`, and its values for data.
const OPERATION: u32 = 0xff;
const READ: u32 = 0;
const WRITE: u32 = 1;
/// Requests that a driver gets as one.
const TOGETHER: u32 = 256;

/// Notes a request that a limit of its control group may hold back. What is, a thread of the kernel's queues later: the wait is part of what
/// the container waits, and the thread is nobody's.
#[fentry(function = "__blk_throtl_bio")]
pub fn blk_throtl_bio(ctx: FEntryContext) -> i32 {
    begin(Ptr::new(ctx.arg::<*const u8>(0)), HELD);
    0
}

/// Notes a request where it enters the block layer; what a stacked device makes of it is not noted again.
#[btf_tracepoint(function = "block_bio_queue")]
pub fn block_bio_queue(ctx: BtfTracePointContext) -> i32 {
    let bio = Ptr::new(ctx.arg::<*const u8>(0));
    if let Some(place) = requests::find(bio.address() as u64) {
        // SAFETY: the pointer is to a map value, and nobody else has the request.
        let noted = unsafe { &mut *place.bio() };
        let direction = bio.get::<u32>(offset!(bio_opf)) & OPERATION;
        if noted.direction == direction | HELD && noted.bytes == u64::from(bio.get::<u32>(offset!(bio_size)))
        {
            noted.direction = direction;
            return 0;
        }
        // It is of an earlier request, whose end was not seen.
        place.leave();
    }
    begin(bio, 0);
    0
}

#[inline(always)]
fn begin(bio: Ptr, held: u32) {
    let task = this();
    let direction = bio.get::<u32>(offset!(bio_opf)) & OPERATION;
    if direction != READ && direction != WRITE || !task.follow(offset!(task_bio_list)).is_null() {
        return;
    }
    let Some((slot, generation)) = owner(bio, task) else { return };
    let bytes = u64::from(bio.get::<u32>(offset!(bio_size)));
    let begun = Bio { since_ns: now_ns(), slot, direction: direction | held, bytes, generation };
    if let Some(place) = requests::enter(bio.address() as u64) {
        // SAFETY: the pointer is to a map value, and nobody else has the request.
        unsafe { *place.bio() = begun };
        return;
    }
    // For one that may be held back there is another attempt when it is queued.
    if held == 0
        && let Some(blocks) = blocks(slot)
    {
        // SAFETY: the pointer is to a map value.
        unsafe { add(&raw mut (*blocks).lost, 1) };
    }
}

/// The end of a request that the driver has taken as it is.
#[btf_tracepoint(function = "block_bio_complete")]
pub fn block_bio_complete(ctx: BtfTracePointContext) -> i32 {
    ended(Ptr::new(ctx.arg::<*const u8>(1)));
    0
}

/// The end of requests that were put together for the driver, or of the first of them.
#[btf_tracepoint(function = "block_rq_complete")]
pub fn block_rq_complete(ctx: BtfTracePointContext) -> i32 {
    let mut bio = Ptr::new(ctx.arg::<*const u8>(0)).follow(queue::offset!(request_bio));
    let mut left = ctx.arg::<u32>(2);
    let mut nth = 0;
    while nth < TOGETHER && !bio.is_null() {
        let bytes: u32 = bio.get(offset!(bio_size));
        if bytes > left {
            break;
        }
        left -= bytes;
        ended(bio);
        bio = bio.follow(queue::offset!(bio_next));
        nth += 1;
    }
    // What is left over of more than these has ended too, and nobody will say so.
    if nth == TOGETHER && !bio.is_null() && left > 0 {
        given_up(bio);
    }
    0
}

/// Says that a request is lost, and forgets it.
#[inline(always)]
fn given_up(bio: Ptr) {
    let Some(place) = requests::find(bio.address() as u64) else { return };
    // SAFETY: the pointer is to a map value.
    let (slot, generation) = unsafe { ((*place.bio()).slot, (*place.bio()).generation) };
    place.leave();
    if current(slot, generation).is_some()
        && let Some(blocks) = blocks(slot)
    {
        // SAFETY: the pointer is to a map value.
        unsafe { add(&raw mut (*blocks).lost, 1) };
    }
}

#[inline(always)]
fn ended(bio: Ptr) {
    let Some(place) = requests::find(bio.address() as u64) else { return };
    // SAFETY: the pointer is to a map value. There is nobody else who ends it.
    let bio = unsafe { *place.bio() };
    place.leave();
    if current(bio.slot, bio.generation).is_some()
        && let Some(blocks) = blocks(bio.slot)
    {
        let direction = bio.direction as usize & 1;
        // SAFETY: `blocks` points to a map value; the mask keeps the index inside.
        unsafe {
            add(&raw mut (*blocks).bytes[direction], bio.bytes);
            time(&raw mut (*blocks).latency[direction], now_ns() - bio.since_ns);
        }
    }
}

/// Whose request it is: the submitting task's, else that of the cgroup it is charged to, where the io controller is of cgroup2.
#[inline(always)]
fn owner(bio: Ptr, task: Ptr) -> Option<(u32, u64)> {
    if let Some(waiter) = waiter(task) {
        return Some((waiter.slot, waiter.generation));
    }
    let cgroup = bio.follow(offset!(bio_blkg)).follow(offset!(blkg_blkcg)).follow(offset!(blkcg_cgroup));
    if !is_cgroup2(cgroup) {
        return None;
    }
    let id = cgroup_id(cgroup);
    // SAFETY: both pointers are to map values; volatile because whoever gives the slot back writes there.
    let (slot, generation) = unsafe {
        let slot = (*ARMED.get_ptr(id)?).slot;
        (slot, (&raw const (*waits(slot)?).generation).read_volatile())
    };
    // It is disarmed before its slot has another generation: if it still is armed, that was its own.
    ARMED.get_ptr(id).map(|_| (slot, generation))
}
