//! Says which of the kernel's samples are kept: those of the tasks in a cgroup and below it.
//!
//! The kernel takes the sample, stacks included, and asks this program whether to write it to the buffer: samples of other tasks
//! never get out, unlike what those map and execute. No field of a kernel struct is read, so it is the same on every kernel.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "the only way to an atomic addition on this target")]

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::btf_maps::Array;
use aya_ebpf::helpers::generated::bpf_get_current_ancestor_cgroup_id;
use aya_ebpf::macros::btf_map;
use skiff_ebpf_abi::stacks::Target;

/// Its one element is written by the loader.
#[btf_map]
pub static TARGET: Array<Target, 1> = Array::new();

/// Cgroups above each other that are looked at; the kernel's own bound is out of reach of what anybody makes.
const LEVELS: i32 = 32;

/// Asked for every sample; what it answers 0 to is dropped.
#[unsafe(no_mangle)]
#[unsafe(link_section = "perf_event")]
pub fn sample(_ctx: *mut core::ffi::c_void) -> i32 {
    let Some(target) = TARGET.get_ptr_mut(0) else { return 0 };
    // SAFETY: the pointer is to a map value.
    let wanted = unsafe { (*target).cgroup };
    if wanted == 0 {
        return 0;
    }
    // The root, at level 0, is no container.
    let mut level = 1;
    while level < LEVELS {
        // SAFETY: the helper has no precondition. 0 is what there is below the task's own cgroup.
        let id = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        if id == 0 {
            return 0;
        }
        if id == wanted {
            // SAFETY: the pointer is to a map value.
            unsafe {
                atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(&raw mut (*target).samples, 1);
            }
            return 1;
        }
        level += 1;
    }
    0
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
