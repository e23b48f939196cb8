//! The shortest program there is: exits with 0 by its only system call. What every launch in the benchmarks starts.
#![no_main]

use std::arch::asm;

/// The program's first and last instructions; there is no C library that would run before it.
#[unsafe(no_mangle)]
pub extern "C" fn first() -> ! {
    // SAFETY: exit_group(0) takes no memory and does not return.
    unsafe { asm!("syscall", in("rax") 231, in("rdi") 0, options(noreturn, nostack)) }
}
