//! The program's entry point: the first half of [`super::reexec`] before the C library has started.
//!
//! A static program of the GNU C library spends its first 0.2 ms asking the processor for its features, one trap to the
//! hypervisor for each question on a virtual machine. What is about to start itself again need not ask. So the
//! executable's entry (the linker's `--entry=skiff_entry`, set by the program's build script) looks whether the file is
//! out of reach already and, if not, executes it again from a read-only mount of its own. Whatever fails leads to the C
//! library's `_start`, and `main` sees to the rest by [`super::sealed`].
//!
//! A program that only sometimes launches containers itself has `skiff_client_entry` as its entry, which does so only where
//! the environment has `SKIFF_DAEMON=off`. One whose commands do not all enter containers has `skiff_runtime_entry`, which
//! does so only where an argument is the name of one that does (`create`, `run`, `exec`, `restore`). Neither decides anything:
//! what they miss sees to it by [`super::sealed`] that it is out of reach before it does anything, at the price of starting
//! twice. It leaves the mount open for the program that it starts ([`super::own_mount`]); the others close it by that.
//!
//! Assembly, because nothing that a compiler may call – `memcpy`, thread-local storage – is there yet.

#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .text.skiff_entry, \"ax\", @progbits",
    ".globl skiff_entry",
    ".type skiff_entry, @function",
    "skiff_entry:",
    "mov ebx, 0x81001", // OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH
    ".globl skiff_entry_by",
    "skiff_entry_by:",
    "mov r14, rsp", // argc, argv, 0, environment, 0: what the kernel has put there, proc(5) execve(2)
    "mov r15, rdx", // for the C library: a function to run at exit
    "sub rsp, 128", // a struct statfs (120 bytes), later a struct mount_attr (32)
    // r12 = open("/proc/self/exe", O_RDONLY | O_CLOEXEC)
    "mov eax, {open}",
    "lea rdi, [rip + 3f]",
    "mov esi, 0x80000",
    "xor edx, edx",
    "syscall",
    "test eax, eax",
    "js 2f",
    "mov r12d, eax",
    // fstatfs(r12, rsp): is the mount read-only?
    "mov eax, {fstatfs}",
    "mov edi, r12d",
    "mov rsi, rsp",
    "syscall",
    "test eax, eax",
    "js 2f",
    "test byte ptr [rsp + 80], 1", // f_flags & ST_RDONLY
    "jnz 2f",
    // r13 = open_tree(r12, "", ebx)
    "mov eax, {open_tree}",
    "mov edi, r12d",
    "lea rsi, [rip + 4f]",
    "mov edx, ebx",
    "syscall",
    "test eax, eax",
    "js 2f",
    "mov r13d, eax",
    // One that has the number of a standard stream is in its place, and not for long: fcntl(r13, F_SETFD, FD_CLOEXEC)
    "cmp r13d, 2",
    "ja 5f",
    "mov eax, {fcntl}",
    "mov edi, r13d",
    "mov esi, 2",
    "mov edx, 1",
    "syscall",
    "5:",
    // mount_setattr(r13, "", AT_EMPTY_PATH, {attr_set = MOUNT_ATTR_RDONLY}, 32)
    "mov qword ptr [rsp], 1",
    "mov qword ptr [rsp + 8], 0",
    "mov qword ptr [rsp + 16], 0",
    "mov qword ptr [rsp + 24], 0",
    "mov eax, {mount_setattr}",
    "mov edi, r13d",
    "lea rsi, [rip + 4f]",
    "mov edx, 0x1000",
    "mov r10, rsp",
    "mov r8d, 32",
    "syscall",
    "test eax, eax",
    "js 2f",
    // execveat(r13, "", argv, environment, AT_EMPTY_PATH)
    "mov eax, {execveat}",
    "mov edi, r13d",
    "lea rsi, [rip + 4f]",
    "lea rdx, [r14 + 8]",
    "mov rcx, [r14]",
    "lea r10, [rdx + rcx * 8 + 8]",
    "mov r8d, 0x1000",
    "syscall",
    // Out of reach already, or not to be had this way. Descriptors left open are close-on-exec.
    "2:",
    "mov rsp, r14",
    "mov rdx, r15",
    "xor ebp, ebp",
    "jmp _start",
    "3: .asciz \"/proc/self/exe\"",
    "4: .byte 0",
    ".popsection",
    open = const libc::SYS_open,
    fstatfs = const libc::SYS_fstatfs,
    open_tree = const libc::SYS_open_tree,
    fcntl = const libc::SYS_fcntl,
    mount_setattr = const libc::SYS_mount_setattr,
    execveat = const libc::SYS_execveat,
);

#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .text.skiff_client_entry, \"ax\", @progbits",
    ".globl skiff_client_entry",
    ".type skiff_client_entry, @function",
    "skiff_client_entry:",
    "mov rcx, [rsp]",
    "lea rcx, [rsp + rcx * 8 + 16]", // the environment: pointers to strings, then 0
    "mov r8, [rip + 5f]",
    "mov r9, [rip + 5f + 8]",
    "2:",
    "mov rax, [rcx]",
    "test rax, rax",
    "jz 3f",
    "add rcx, 8",
    // Reads of 8 bytes stay on the stack: behind the last string are the program's name and 8 zero bytes.
    "cmp [rax], r8",
    "jne 2b",
    "cmp [rax + 8], r9",
    "jne 2b",
    "cmp byte ptr [rax + 16], 0",
    "jne 2b",
    "jmp skiff_entry",
    "3:",
    "xor ebp, ebp",
    "jmp _start",
    "5: .ascii \"SKIFF_DAEMON=off\"",
    ".popsection",
);

#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .text.skiff_runtime_entry, \"ax\", @progbits",
    ".globl skiff_runtime_entry",
    ".type skiff_runtime_entry, @function",
    "skiff_runtime_entry:",
    "mov ebx, 0x1001", // OPEN_TREE_CLONE | AT_EMPTY_PATH
    "lea rcx, [rsp + 8]", // the arguments: pointers to strings, then 0
    "2:",
    "add rcx, 8",
    "mov r8, [rcx]",
    "test r8, r8",
    "jz 5f",
    "mov eax, [r8]", // on the stack still: behind the last string are the program's name and 8 zero bytes
    "cmp eax, {run}",
    "je skiff_entry_by",
    "cmp eax, {exec}",
    "jne 3f",
    "cmp byte ptr [r8 + 4], 0",
    "je skiff_entry_by",
    "3:",
    "cmp eax, {crea}",
    "jne 4f",
    "cmp dword ptr [r8 + 3], {ate}",
    "je skiff_entry_by",
    "4:",
    "cmp eax, {rest}",
    "jne 2b",
    "cmp dword ptr [r8 + 4], {ore}",
    "jne 2b",
    "jmp skiff_entry_by",
    "5:",
    "xor ebp, ebp",
    "jmp _start",
    ".popsection",
    run = const word(b"run\0"),
    exec = const word(b"exec"),
    crea = const word(b"crea"),
    ate = const word(b"ate\0"),
    rest = const word(b"rest"),
    ore = const word(b"ore\0"),
);

#[cfg(target_arch = "x86_64")]
const fn word(text: &[u8; 4]) -> i32 {
    i32::from_le_bytes(*text)
}

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
