//! A program that does nothing until it is killed: what the containers of `bench runtime` run for others to join.
#![no_main]

use std::arch::asm;

/// The program's first and last instructions; there is no C library that would run before it.
#[unsafe(no_mangle)]
pub extern "C" fn first() -> ! {
    loop {
        // SAFETY: pause(2) takes nothing; a call changes no register but these.
        unsafe {
            asm!("syscall", inlateout("rax") 34_u64 => _, out("rcx") _, out("r11") _, options(nomem, nostack));
        }
    }
}
