//! What std would ask of the C library at the start.

// In the place of pthread_getattr_np (the linker's `--wrap`): std asks for the stack's bounds, for the sake of a message when
// it overflows, and the C library would read and parse /proc/self/maps to answer.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .text.skiff_stack_bounds, \"ax\", @progbits",
    ".globl __wrap_pthread_getattr_np",
    ".type __wrap_pthread_getattr_np, @function",
    "__wrap_pthread_getattr_np:",
    "mov eax, {enosys}",
    "ret",
    ".popsection",
    enosys = const libc::ENOSYS,
);
