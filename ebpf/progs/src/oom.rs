//! The OOM killer. It names a task, possibly not one that runs here: the note waits for the task to die.

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use skiff_ebpf_abi::{Slot, Task};

use crate::kernel::{Ptr, TaskPtr, now_ns, offset, pid, tgid};
use crate::maps::{VICTIMS, take};

#[btf_tracepoint(function = "mark_victim")]
pub fn mark_victim(ctx: BtfTracePointContext) -> i32 {
    let victim =
        if offset!(victim_is_task) == 1 { pid(Ptr::new(ctx.arg::<*const u8>(0))) } else { ctx.arg::<u32>(0) };
    // A full map forgets the oldest note, which nobody has come for.
    let _ = VICTIMS.insert(victim, now_ns(), 0);
    0
}

/// Counts `this`, which has died, if the OOM killer chose it. A note from before its time was for somebody else with its id.
#[inline(always)]
pub fn died(this: TaskPtr, task: &Task, slot: *mut Slot) {
    let pid = pid(this);
    let Some(at_ns) = VICTIMS.get_ptr(pid) else { return };
    // SAFETY: the pointer is to a map value.
    let at_ns = unsafe { *at_ns };
    let _ = VICTIMS.remove(pid);
    if at_ns < task.since_ns {
        return;
    }
    // SAFETY: `slot` points to a map value; one task sees 0 and describes itself.
    unsafe {
        if take(&raw mut (*slot).oom_kills) == 0 {
            (*slot).oom_ns = at_ns;
            (*slot).oom_pid = u64::from(tgid(this));
            this.copy(offset!(task_comm), &raw mut (*slot).oom_comm);
        }
    }
}
