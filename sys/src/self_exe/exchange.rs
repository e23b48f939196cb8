//! This process's executable exchanged while it runs: the same file, mapped from another mount.
//!
//! execve(2) would do it too, and takes some 0.15 ms to take down a memory and to build up another one.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

const PAGE: usize = 4096;

/// `struct prctl_mm_map` of `linux/prctl.h`.
#[repr(C)]
#[derive(Debug, Default)]
struct Layout {
    start_code: u64,
    end_code: u64,
    start_data: u64,
    end_data: u64,
    start_brk: u64,
    brk: u64,
    start_stack: u64,
    arg_start: u64,
    arg_end: u64,
    env_start: u64,
    env_end: u64,
    auxv: u64,
    auxv_size: u32,
    exe_fd: u32,
}

impl Layout {
    /// What the kernel has noted of this process, for it has to be told all of it again. proc_pid_stat(5).
    fn of_self() -> io::Result<Self> {
        let stat = fs::read_to_string("/proc/self/stat")?;
        // Behind the name, which may have anything in it, follows the third.
        let mut fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
        let mut at = 3;
        let mut field = |number: usize| {
            let found = fields.nth(number - at).and_then(|text| text.parse().ok());
            at = number + 1;
            found.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
        };
        Ok(Self {
            start_code: field(26)?,
            end_code: field(27)?,
            start_stack: field(28)?,
            start_data: field(45)?,
            end_data: field(46)?,
            start_brk: field(47)?,
            arg_start: field(48)?,
            arg_end: field(49)?,
            env_start: field(50)?,
            env_end: field(51)?,
            // SAFETY: asks for the end of the heap, and leaves it where it is.
            brk: unsafe { libc::syscall(libc::SYS_brk, 0) }.cast_unsigned(),
            ..Self::default()
        })
    }
}

/// Goes on as the executable `file`, which must be the one that is running, on another mount: it is mapped in place of what runs,
/// and is what `/proc/PID/exe` leads to. Nothing of the old one stays mapped.
///
/// prctl(2) `PR_SET_MM_MAP` with a descriptor: CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN, a kernel that can restore checkpoints, x86-64.
///
/// To be called while there is one thread. Errors leave a process that works, but whose executable is partly or wholly the old one.
pub(super) fn exchange(file: BorrowedFd<'_>) -> io::Result<()> {
    let layout = Layout { exe_fd: file.as_raw_fd().cast_unsigned(), ..Layout::of_self()? };
    for header in headers()? {
        let (address, size): (usize, usize) = (fits(header.p_vaddr)?, fits(header.p_filesz)?);
        let begin = address / PAGE * PAGE;
        let length = (address + size).next_multiple_of(PAGE) - begin;
        match (header.p_type, header.p_flags & libc::PF_W) {
            (libc::PT_LOAD, 0) => {
                let offset = fits::<_, usize>(header.p_offset)? / PAGE * PAGE;
                map(begin, length, protection(header.p_flags), file, offset)?;
            }
            (libc::PT_LOAD, _) => lift(begin, length)?,
            (libc::PT_GNU_RELRO, _) => {
                // The C library has seen to it at the start, if it does.
                let end = (address + fits::<_, usize>(header.p_memsz)?) / PAGE * PAGE;
                protect(begin, end.saturating_sub(begin))?;
            }
            _ => {}
        }
    }
    const PR_SET_MM: libc::c_int = 35;
    const PR_SET_MM_MAP: libc::c_ulong = 14;
    // SAFETY: the kernel reads a structure of the size that it is told.
    let set = unsafe { libc::prctl(PR_SET_MM, PR_SET_MM_MAP, &raw const layout, size_of::<Layout>(), 0) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The program headers, where the program is mapped at the addresses that are written in them. elf(5), getauxval(3).
fn headers() -> io::Result<&'static [libc::Elf64_Phdr]> {
    // SAFETY: both take an integer.
    let [at, number] = [libc::AT_PHDR, libc::AT_PHNUM].map(|kind| unsafe { libc::getauxval(kind) });
    let at_address = ptr::with_exposed_provenance::<libc::Elf64_Phdr>(fits(at)?);
    let number = fits(number)?;
    if at == 0 {
        return Err(io::ErrorKind::Unsupported.into());
    }
    // SAFETY: there they are, for as long as the program runs: mapped anew they are the same.
    let headers = unsafe { std::slice::from_raw_parts(at_address, number) };
    let is_here = |header: &&libc::Elf64_Phdr| {
        header.p_type == libc::PT_LOAD && (header.p_vaddr..header.p_vaddr + header.p_filesz).contains(&at)
    };
    let is_whole = headers.iter().all(|header| header.p_type != libc::PT_INTERP);
    if is_whole && headers.iter().any(|header| is_here(&header)) {
        Ok(headers)
    } else {
        Err(io::ErrorKind::Unsupported.into())
    }
}

fn protection(flags: u32) -> libc::c_int {
    let of = |flag: u32, protection| if flags & flag == 0 { 0 } else { protection };
    of(libc::PF_R, libc::PROT_READ) | of(libc::PF_W, libc::PROT_WRITE) | of(libc::PF_X, libc::PROT_EXEC)
}

/// Takes back that what has been [lifted](lift) can be written to.
fn protect(begin: usize, length: usize) -> io::Result<()> {
    let place = ptr::with_exposed_provenance_mut(begin);
    // SAFETY: nothing writes there once the program has started; elf(5) `PT_GNU_RELRO`.
    let protected = unsafe { libc::mprotect(place, length, libc::PROT_READ) };
    if protected == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn fits<T: TryInto<U>, U>(number: T) -> io::Result<U> {
    number.try_into().map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Maps `length` bytes of `file` from `offset` on at the address `begin`, in place of what is there.
fn map(
    begin: usize,
    length: usize,
    protection: libc::c_int,
    file: BorrowedFd<'_>,
    offset: usize,
) -> io::Result<()> {
    let place = ptr::with_exposed_provenance_mut(begin);
    let flags = libc::MAP_PRIVATE | libc::MAP_FIXED;
    let offset = fits(offset)?;
    // SAFETY: what is there is never written to, and has the bytes that come in its place.
    let mapped = unsafe { libc::mmap(place, length, protection, flags, file.as_raw_fd(), offset) };
    if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Puts memory that is no file's in the place of `length` bytes at the address `begin`, with what they hold.
#[cfg(target_arch = "x86_64")]
fn lift(begin: usize, length: usize) -> io::Result<()> {
    let mut kept = vec![0_u8; length];
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_ANONYMOUS;
    let result: libc::c_long;
    // SAFETY: when it is over every byte is what it was, and nothing but this has run meanwhile, which needs none of them: `kept` is
    // the allocator's, elsewhere.
    unsafe {
        std::arch::asm!(
            "mov rsi, rdi",
            "mov rdi, {kept}",
            "mov rcx, {length}",
            "rep movsb",
            "mov rdi, {begin}",
            "mov rsi, {length}",
            "syscall",
            "test rax, rax",
            "js 2f",
            "mov rdi, rax",
            "mov rsi, {kept}",
            "mov rcx, {length}",
            "rep movsb",
            "2:",
            kept = in(reg) kept.as_mut_ptr(),
            length = in(reg) length,
            begin = in(reg) begin,
            inout("rax") libc::SYS_mmap => result,
            inout("rdi") begin => _,
            out("rsi") _,
            in("rdx") protection,
            in("r10") flags,
            in("r8") -1_i64,
            in("r9") 0_i64,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    if result < 0 { Err(io::Error::from_raw_os_error(fits(-result)?)) } else { Ok(()) }
}

#[cfg(not(target_arch = "x86_64"))]
fn lift(_: usize, _: usize) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
