//! Installing a system call filter. seccomp(2).

use std::io;

/// One instruction of classic BPF, laid out as the kernel's `struct sock_filter`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Class, size, mode and operation.
    pub code: u16,
    /// Instructions to skip when a comparison holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// How a filter is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags {
    /// Record every action but allowing in the audit log (`SECCOMP_FILTER_FLAG_LOG`, Linux ≥ 4.14).
    pub log: bool,
    /// Do not turn on the mitigation of speculative store bypass for what runs below the filter
    /// (`SECCOMP_FILTER_FLAG_SPEC_ALLOW`, Linux ≥ 4.17). Without effect since Linux 5.16 unless the host was booted
    /// with `spec_store_bypass_disable=seccomp`.
    pub spec_allow: bool,
}

/// The greatest number of instructions that the kernel accepts (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;

/// Puts the calling thread, and all it will start, below `filter`, for good. Allocates nothing.
///
/// Runs in: the child, as late as possible. Needs `no_new_privs` or CAP_SYS_ADMIN in the user namespace: where
/// the former is not wanted, call this before the latter is given up.
/// Errors: `EACCES` without either; `EINVAL` for a filter that is empty, too long or not valid BPF.
pub fn install(filter: &[Instruction], flags: Flags) -> io::Result<()> {
    let len = u16::try_from(filter.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut().cast::<libc::sock_filter>() };
    let mut bits = 0;
    if flags.log {
        bits |= libc::SECCOMP_FILTER_FLAG_LOG;
    }
    if flags.spec_allow {
        bits |= libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    }
    // SAFETY: `program` points at `len` instructions of the kernel's layout (see the test below), which `filter`
    // keeps alive; the kernel only reads them.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, bits, &raw const program) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn an_instruction_has_the_kernels_layout() {
        assert_eq!(size_of::<Instruction>(), size_of::<libc::sock_filter>());
        assert_eq!(align_of::<Instruction>(), align_of::<libc::sock_filter>());
        assert_eq!(offset_of!(Instruction, code), offset_of!(libc::sock_filter, code));
        assert_eq!(offset_of!(Instruction, jt), offset_of!(libc::sock_filter, jt));
        assert_eq!(offset_of!(Instruction, jf), offset_of!(libc::sock_filter, jf));
        assert_eq!(offset_of!(Instruction, k), offset_of!(libc::sock_filter, k));
    }

    #[test]
    fn an_empty_filter_is_refused() {
        let error = install(&[], Flags::default()).expect_err("the kernel takes no empty filter");
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn a_filter_governs_the_thread_that_installs_it() {
        const ALLOW: u32 = 0x7fff_0000;
        const ENOTTY: u32 = 0x0005_0000 | 25;
        let getppid = u32::try_from(libc::SYS_getppid).expect("system call numbers are small");
        let filter = [
            Instruction { code: 0x20, jt: 0, jf: 0, k: 0 },
            Instruction { code: 0x15, jt: 0, jf: 1, k: getppid },
            Instruction { code: 0x06, jt: 0, jf: 0, k: ENOTTY },
            Instruction { code: 0x06, jt: 0, jf: 0, k: ALLOW },
        ];
        let errno = std::thread::spawn(move || {
            nix::sys::prctl::set_no_new_privs().expect("no_new_privs can always be set");
            install(&filter, Flags { log: false, spec_allow: true }).expect("the filter is valid");
            // SAFETY: getppid takes no argument and touches no memory.
            let result = unsafe { libc::syscall(libc::SYS_getppid) };
            (result, io::Error::last_os_error().raw_os_error())
        });
        assert_eq!(errno.join().expect("the thread ends"), (-1, Some(libc::ENOTTY)));
    }
}
