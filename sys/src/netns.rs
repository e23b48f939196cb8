//! A network namespace that is made while the caller goes on.
//!
//! The kernel takes longer for one than for all other kinds of namespaces together (0.4 ms; a third of a clone into a
//! container), and whoever clones waits for it. So a second process makes it, on another processor, and hands over the
//! descriptor. That process has the caller's memory and descriptors, runs nothing but five system calls, and touches
//! nothing of the C library's, which the caller uses at the same time.

use std::io;
use std::os::fd::OwnedFd;

/// A network namespace in the making. Dropping it waits for the process that makes it.
#[derive(Debug)]
pub struct Nascent(beside::Maker);

impl Nascent {
    /// Begins to make a namespace, with its loopback device up if `loopback` says so. It belongs to the caller's user
    /// namespace.
    ///
    /// clone3(2), Linux ≥ 5.3. Errors: `ENOSYS` also on other processors than x86-64.
    pub fn begin(loopback: bool) -> io::Result<Self> {
        beside::Maker::begin(loopback).map(Self)
    }

    /// Waits until the namespace is there, and returns it.
    ///
    /// Errors: of the first call that failed, or `ECHILD` if the process was killed. Nothing is left of it then.
    pub fn finish(mut self) -> io::Result<OwnedFd> {
        self.0.finish()
    }
}

#[cfg(target_arch = "x86_64")]
mod beside {
    use std::io;
    use std::mem::MaybeUninit;
    use std::os::fd::{AsFd, FromRawFd, OwnedFd};
    use std::sync::atomic::{AtomicI32, Ordering};

    use nix::sys::wait::{Id, WaitPidFlag, waitid};

    use crate::process::{CloneArgs, clone3_onto, own};

    const CLONE_VM: u64 = 0x100;
    const CLONE_FILES: u64 = 0x400;
    const CLONE_PIDFD: u64 = 0x1000;
    /// Its functions call nothing but the kernel.
    const STACK_BYTES: usize = 16 << 10;

    #[derive(Debug)]
    pub(super) struct Maker {
        /// Until it is known to have ended.
        process: Option<OwnedFd>,
        work: Box<Work>,
    }

    /// What the two processes share.
    #[derive(Debug)]
    #[repr(C, align(16))]
    struct Work {
        stack: MaybeUninit<[u8; STACK_BYTES]>,
        loopback: bool,
        /// The descriptor, or a negative errno.
        result: AtomicI32,
    }

    impl Maker {
        pub(super) fn begin(loopback: bool) -> io::Result<Self> {
            let result = AtomicI32::new(-libc::ECHILD);
            let mut work = Box::new(Work { stack: MaybeUninit::uninit(), loopback, result });
            let mut pidfd = -1;
            let args = CloneArgs {
                flags: CLONE_VM | CLONE_FILES | CLONE_PIDFD,
                pidfd: (&raw mut pidfd).expose_provenance() as u64,
                stack: work.stack.as_mut_ptr().expose_provenance() as u64,
                stack_size: STACK_BYTES as u64,
                ..CloneArgs::default()
            };
            // SAFETY: the box is not moved out of nor freed before the process has ended (`finish`, also on drop); of what
            // is in it, this process uses nothing but the atomic until then.
            let pid = unsafe { clone3_onto(&args, &raw mut *work, make) };
            match i32::try_from(pid) {
                Ok(1..) => Ok(Self { process: Some(own(pidfd)), work }),
                Ok(errno) => Err(io::Error::from_raw_os_error(-errno)),
                Err(_) => Err(io::Error::from_raw_os_error(libc::EOVERFLOW)),
            }
        }

        pub(super) fn finish(&mut self) -> io::Result<OwnedFd> {
            // It tells its end to nobody, so it has to be asked for.
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::__WALL;
            if let Some(process) = self.process.take() {
                while waitid(Id::PIDFd(process.as_fd()), flags) == Err(nix::Error::EINTR) {}
            }
            match self.work.result.swap(-libc::ECHILD, Ordering::Acquire) {
                // SAFETY: the other process has opened it for this one, and is gone; the swap gives it away once.
                fd @ 0.. => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
                errno => Err(io::Error::from_raw_os_error(-errno)),
            }
        }
    }

    impl Drop for Maker {
        fn drop(&mut self) {
            drop(self.finish());
        }
    }

    /// The process's only function.
    ///
    /// # Safety
    ///
    /// `work` stays as long as the process does.
    unsafe extern "C" fn make(work: *mut Work) -> ! {
        // SAFETY: by this function's contract; nobody writes to it meanwhile.
        let loopback = unsafe { (*work).loopback };
        let result = namespace(loopback);
        // SAFETY: by this function's contract; an atomic.
        unsafe { &(*work).result }.store(result, Ordering::Release);
        loop {
            // SAFETY: ends this process alone, in which nothing is left to run.
            unsafe { call(libc::SYS_exit, [0; 3]) };
        }
    }

    fn namespace(loopback: bool) -> i32 {
        // SAFETY: takes integers; the namespaces are this process's own.
        let made = unsafe { call(libc::SYS_unshare, [libc::CLONE_NEWNET as u64, 0, 0]) };
        let up = if made == 0 && loopback { loopback_up() } else { made };
        if up < 0 {
            return up;
        }
        let path = c"/proc/self/ns/net".as_ptr().expose_provenance() as u64;
        // SAFETY: a path that ends with 0.
        unsafe { call(libc::SYS_open, [path, (libc::O_RDONLY | libc::O_CLOEXEC) as u64, 0]) }
    }

    /// As [`crate::net::loopback_up`], by no function of the C library's.
    fn loopback_up() -> i32 {
        let kind = (libc::SOCK_DGRAM | libc::SOCK_CLOEXEC) as u64;
        // SAFETY: takes integers.
        let socket = unsafe { call(libc::SYS_socket, [libc::AF_INET as u64, kind, 0]) };
        if socket < 0 {
            return socket;
        }
        let request =
            Request { name: [b'l', b'o', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], flags: 1, rest: [0; 22] };
        let at = (&raw const request).expose_provenance() as u64;
        let socket = u64::from(socket.cast_unsigned());
        // SAFETY: SIOCSIFFLAGS reads one ifreq, which `Request` is.
        let up = unsafe { call(libc::SYS_ioctl, [socket, libc::SIOCSIFFLAGS, at]) };
        // SAFETY: closes what was opened here.
        unsafe { call(libc::SYS_close, [socket, 0, 0]) };
        up
    }

    /// A `struct ifreq` with flags; `IFF_UP` is 1.
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        flags: i16,
        rest: [u8; 22],
    }

    const _: () = assert!(size_of::<Request>() == size_of::<libc::ifreq>());

    /// A system call that leaves errno alone, which is the other process's too. Its result, or a negative errno.
    ///
    /// # Safety
    ///
    /// As the call demands.
    unsafe fn call(number: libc::c_long, arguments: [u64; 3]) -> i32 {
        let result: i64;
        // SAFETY: by this function's contract; the kernel changes rax, rcx and r11.
        unsafe {
            std::arch::asm!(
                "syscall",
                inlateout("rax") number => result,
                in("rdi") arguments[0],
                in("rsi") arguments[1],
                in("rdx") arguments[2],
                lateout("rcx") _,
                lateout("r11") _,
            );
        }
        i32::try_from(result).unwrap_or(-libc::EOVERFLOW)
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod beside {
    use std::io;
    use std::os::fd::OwnedFd;

    #[derive(Debug)]
    pub(super) enum Maker {}

    impl Maker {
        pub(super) fn begin(_loopback: bool) -> io::Result<Self> {
            Err(io::Error::from_raw_os_error(libc::ENOSYS))
        }

        pub(super) fn finish(&mut self) -> io::Result<OwnedFd> {
            match *self {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Held by whoever makes a namespace.
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

    #[test]
    fn a_namespace_is_handed_over_or_refused() {
        let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Whoever may not make one is told so by the kernel.
        match Nascent::begin(true).and_then(Nascent::finish) {
            Ok(namespace) => {
                let there = nix::sys::stat::fstat(&namespace).expect("fstat").st_ino;
                let here = std::fs::metadata("/proc/self/ns/net").expect("stat");
                assert_ne!(there, std::os::unix::fs::MetadataExt::ino(&here));
            }
            Err(error) => assert!(matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS))),
        }
    }

    #[test]
    fn one_that_nobody_wants_leaves_no_descriptor() {
        let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Of namespaces alone: other tests open other things meanwhile.
        let is_namespace =
            |link: &std::path::PathBuf| link.as_os_str().as_encoded_bytes().starts_with(b"net:[");
        let count = || {
            let entries = std::fs::read_dir("/proc/self/fd").expect("read");
            let links = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
            links.filter(is_namespace).count()
        };
        let before = count();
        drop(Nascent::begin(false));
        assert_eq!(count(), before);
    }
}
