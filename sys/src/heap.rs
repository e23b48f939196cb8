//! The C library's heap.

/// Gives free pages back to the kernel, also those between others that are in use. malloc_trim(3).
pub fn trim() {
    // SAFETY: takes an integer; the C library locks its own heap.
    unsafe { libc::malloc_trim(0) };
}
