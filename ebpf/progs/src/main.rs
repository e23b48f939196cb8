//! The kernel side: counts what the tasks of armed cgroups do.
//!
//! A task is counted if it has a [`Task`](skiff_ebpf_abi::Task) in task storage. It gets one when it is forked into an
//! armed cgroup, forked by a counted task, or moved into an armed cgroup; it keeps it until it is dead. So system calls,
//! the hot path, look no cgroup up, and other tasks pay for one load that finds nothing.
//!
//! Most figures are not events at all: the kernel keeps them per task, and they are read when a task changes phase and
//! when it dies.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(internal_features, reason = "the only way to an atomic addition on this target")]

mod block;
mod cgroups;
mod kernel;
mod maps;
mod oom;
mod storage;
mod syscalls;
mod tasks;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
