//! Installing a system call filter. seccomp(2).

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

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
    /// Calls may be answered by whoever holds the filter's listener, which [`install`] returns
    /// (`SECCOMP_FILTER_FLAG_NEW_LISTENER`, Linux ≥ 5.0).
    pub listener: bool,
    /// A call that the listener has received can only be interrupted by a fatal signal. Without a listener it means
    /// nothing (`SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`, Linux ≥ 5.19).
    pub wait_killable: bool,
}

impl Flags {
    /// No flag.
    pub const NONE: Self = Self { log: false, spec_allow: false, listener: false, wait_killable: false };

    /// Those of both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self {
            log: self.log || other.log,
            spec_allow: self.spec_allow || other.spec_allow,
            listener: self.listener || other.listener,
            wait_killable: self.wait_killable || other.wait_killable,
        }
    }

    const fn bits(self) -> libc::c_ulong {
        let mut bits = 0;
        if self.log {
            bits |= libc::SECCOMP_FILTER_FLAG_LOG;
        }
        if self.spec_allow {
            bits |= libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
        }
        if self.listener {
            bits |= libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
        }
        if self.listener && self.wait_killable {
            bits |= libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
        }
        bits
    }
}

/// The greatest number of instructions that the kernel accepts (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;

/// Puts the calling thread, and all it will start, below `filter`, for good. Allocates nothing.
///
/// Runs in: the child, as late as possible. Needs `no_new_privs` or CAP_SYS_ADMIN in the user namespace: where
/// the former is not wanted, call this before the latter is given up.
/// Returns the filter's listener if the flags ask for one, close-on-exec. seccomp_unotify(2).
/// Errors: `EACCES` without either; `EINVAL` for a filter that is empty, too long or not valid BPF, or for a flag that
/// the kernel does not know; `EBUSY` for a listener where a filter of this thread has one already.
pub fn install(filter: &[Instruction], flags: Flags) -> io::Result<Option<OwnedFd>> {
    let len = u16::try_from(filter.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut().cast::<libc::sock_filter>() };
    // SAFETY: `program` points at `len` instructions of the kernel's layout (see the test below), which `filter`
    // keeps alive; the kernel only reads them.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags.bits(), &raw const program)
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let Some(fd) = i32::try_from(result).ok().filter(|_| flags.listener) else { return Ok(None) };
    // SAFETY: the kernel has just returned this descriptor; nobody else owns it.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
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

    /// What becomes of getppid(2); every other call is allowed.
    fn on_getppid(action: u32) -> [Instruction; 4] {
        const ALLOW: u32 = 0x7fff_0000;
        let getppid = u32::try_from(libc::SYS_getppid).expect("system call numbers are small");
        [
            Instruction { code: 0x20, jt: 0, jf: 0, k: 0 },
            Instruction { code: 0x15, jt: 0, jf: 1, k: getppid },
            Instruction { code: 0x06, jt: 0, jf: 0, k: action },
            Instruction { code: 0x06, jt: 0, jf: 0, k: ALLOW },
        ]
    }

    #[test]
    fn a_filter_governs_the_thread_that_installs_it() {
        const ENOTTY: u32 = 0x0005_0000 | 25;
        let filter = on_getppid(ENOTTY);
        let errno = std::thread::spawn(move || {
            nix::sys::prctl::set_no_new_privs().expect("no_new_privs can always be set");
            install(&filter, Flags { spec_allow: true, ..Flags::NONE }).expect("the filter is valid");
            // SAFETY: getppid takes no argument and touches no memory.
            let result = unsafe { libc::syscall(libc::SYS_getppid) };
            (result, io::Error::last_os_error().raw_os_error())
        });
        assert_eq!(errno.join().expect("the thread ends"), (-1, Some(libc::ENOTTY)));
    }

    #[test]
    fn a_listener_comes_with_the_filter() {
        const NOTIFY: u32 = 0x7fc0_0000;
        let filter = on_getppid(NOTIFY);
        let answer = std::thread::spawn(move || {
            nix::sys::prctl::set_no_new_privs().expect("no_new_privs can always be set");
            let flags = Flags { listener: true, ..Flags::NONE };
            let listener = install(&filter, flags).expect("the filter is valid").expect("a listener");
            // Nobody can answer any more: the call fails.
            drop(listener);
            // SAFETY: getppid takes no argument and touches no memory.
            let result = unsafe { libc::syscall(libc::SYS_getppid) };
            (result, io::Error::last_os_error().raw_os_error())
        });
        assert_eq!(answer.join().expect("the thread ends"), (-1, Some(libc::ENOSYS)));
    }
}
