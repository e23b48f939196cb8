//! Requests to block devices, as they are handed to the block layer.

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use skiff_ebpf_abi::phase;

use crate::kernel::{Ptr, cgroup_id, is_cgroup2, offset, this};
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
    let operation = bio.get::<u32>(offset!(bio_opf)) & OPERATION;
    if operation != READ && operation != WRITE || !task.follow(offset!(task_bio_list)).is_null() {
        return 0;
    }
    let Some((index, phase)) = owner(bio, task) else { return 0 };
    if let Some(slot) = slot(index) {
        let bytes = u64::from(bio.get::<u32>(offset!(bio_size)));
        // SAFETY: `slot` points to a map value; the masks keep the indices inside.
        unsafe {
            let sums = &raw mut (*slot).phases[phase as usize & 1];
            add(&raw mut (*sums).block_bytes[operation as usize & 1], bytes);
            add(&raw mut (*sums).block_requests[operation as usize & 1], 1);
        }
    }
    0
}

/// Whose request it is: the submitting task's, else that of the cgroup it is charged to. The latter finds written pages
/// that the kernel brings to the disk later, where the io controller is of cgroup2.
#[inline(always)]
fn owner(bio: Ptr, task: Ptr) -> Option<(u32, u32)> {
    if let Some(task) = counted(task) {
        return Some((task.slot, task.phase));
    }
    let cgroup = bio.follow(offset!(bio_blkg)).follow(offset!(blkg_blkcg)).follow(offset!(blkcg_cgroup));
    if !is_cgroup2(cgroup) {
        return None;
    }
    let armed = ARMED.get_ptr(cgroup_id(cgroup))?;
    // SAFETY: both pointers are to map values.
    unsafe {
        let index = (*armed).slot;
        let started = (*slot(index)?).exec_ns != 0;
        Some((index, if started { phase::WORKLOAD } else { phase::INIT }))
    }
}
