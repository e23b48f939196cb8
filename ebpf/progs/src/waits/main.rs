//! What the tasks of armed cgroups wait for: a CPU, and for whom; a block device.
//!
//! The scheduler itself notes when a task was put on a run queue and how long it has been on them in all. So there is no
//! program on the way of a task that wakes up: one at `sched_switch` reads what has been added since the task was switched out,
//! on the run queue's own clock, which the kernel has just read. What a task waits for its CPU's quota is known from the clock of
//! its cgroup's run queue. Who ran meanwhile is remembered per CPU, as a short list of changes.
//!
//! A task is counted if it has an entry in task storage, as for system calls; the entry names its slot and the generation of
//! that, so that nothing has to be waited for when a slot is given back.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(internal_features, reason = "the only way to atomic operations on this target")]

mod block;
mod cgroups;
#[path = "../kernel.rs"]
#[allow(dead_code, reason = "what counting system calls needs, this does not")]
mod kernel;
mod maps;
mod queue;
mod requests;
mod runs;
#[path = "../storage.rs"]
mod storage;
mod switch;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
