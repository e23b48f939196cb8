//! Cgroups made below an armed one, and tasks moved into one.

use aya_ebpf::bindings::seq_file;
use aya_ebpf::helpers::generated::bpf_seq_write;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use skiff_ebpf_abi::pinned::Live;

use crate::kernel::{Ptr, cgroup_id, is_cgroup2, offset};
use crate::maps::{ARMED, lose};
use crate::tasks;

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
        if ARMED.insert(cgroup_id(cgroup), armed, 0).is_err() {
            lose(armed.slot);
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

/// A process was moved to another cgroup, of whichever hierarchy; the tracepoint names its leader.
#[btf_tracepoint(function = "cgroup_attach_task")]
pub fn cgroup_attach_task(ctx: BtfTracePointContext) -> i32 {
    tasks::joined(Ptr::new(ctx.arg::<*const u8>(2)));
    0
}

/// Run over all tasks: writes what is counted of those that live, of all slots.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub fn live(ctx: *mut core::ffi::c_void) -> i32 {
    let ctx = ctx.cast::<*const u8>();
    // SAFETY: as in `close`; `meta` begins with a pointer to the file that the iterator is read from.
    let (meta, task) = unsafe { (*ctx, Ptr::new(*ctx.add(1))) };
    if task.is_null() {
        return 0;
    }
    if let Some(live) = tasks::live(task) {
        // SAFETY: the verifier knows the file by its type; `live` has the length that is passed.
        unsafe {
            let file = *meta.cast::<*mut seq_file>();
            // What finds no room is written again, to the reader's next read.
            bpf_seq_write(file, (&raw const live).cast(), size_of::<Live>() as u32);
        }
    }
    0
}

/// Run by the loader over all tasks: counts those of armed cgroups that are not counted yet.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub fn adopt(ctx: *mut core::ffi::c_void) -> i32 {
    // SAFETY: as in `close`.
    let task = Ptr::new(unsafe { *ctx.cast::<*const u8>().add(1) });
    if !task.is_null() {
        tasks::adopt(task);
    }
    0
}

/// Run by the loader over all tasks: settles those of a slot that are still alive when it is read.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub fn close(ctx: *mut core::ffi::c_void) -> i32 {
    // SAFETY: the context of a task iterator is `{ meta, task }`.
    let task = Ptr::new(unsafe { *ctx.cast::<*const u8>().add(1) });
    if !task.is_null() {
        tasks::leave(task);
    }
    0
}
