//! What of this process's memory it can do without.

use std::io;

/// Gives free pages back to the kernel, also those between others that are in use. malloc_trim(3); musl does so on its own.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes an integer; the C library locks its own heap.
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Has blocks of 128 KiB and more mapped by themselves from now on, so that they are given back when they are freed: the C library
/// learns otherwise from the first large one, and what a thread then had at the end of its own heap stays.
/// mallopt(3); in musl this is how it is.
pub fn map_large_blocks() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes integers; the C library locks its own heap.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10)
    };
}

/// Takes the program's own code and constants out of this process's page tables; what is still run comes back page by page, from the
/// page cache. madvise(2) `MADV_DONTNEED`.
///
/// For a process that does little from here on: the next execve(2) has that much less to take down.
pub fn put_code_aside() -> io::Result<()> {
    unsafe extern "C" {
        // Where the linker has put the program's first byte, and the end of its code.
        static __executable_start: u8;
        static etext: u8;
    }
    const PAGE: usize = 4096;
    let begin = (&raw const __executable_start).addr().next_multiple_of(PAGE);
    let end = (&raw const etext).addr() / PAGE * PAGE;
    if end <= begin {
        return Ok(());
    }
    let begin = (&raw const __executable_start).with_addr(begin).cast_mut();
    // SAFETY: nothing is ever written there, so what comes back is what was there: a private mapping of the program's file.
    let result = unsafe { libc::madvise(begin.cast(), end - begin.addr(), libc::MADV_DONTNEED) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
