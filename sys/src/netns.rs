//! A network namespace that is made while the caller goes on.
//!
//! The kernel takes longer for one than for all other kinds of namespaces together (0.4 ms; a third of a clone into a
//! container), and whoever clones waits for it. So a process [`beside`](crate::beside) makes it, on another processor, and
//! hands over the descriptor.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use crate::beside::{Beside, Job, call};

/// A network namespace in the making. Dropping it waits for the process that makes it.
#[derive(Debug)]
pub struct Nascent(Beside<Maker>);

#[derive(Debug)]
struct Maker {
    loopback: bool,
}

impl Nascent {
    /// Begins to make a namespace, with its loopback device up if `loopback` says so. It belongs to the caller's user
    /// namespace.
    ///
    /// clone3(2), Linux ≥ 5.3. Errors: `ENOSYS` also on other processors than x86-64.
    pub fn begin(loopback: bool) -> io::Result<Self> {
        Beside::begin(Maker { loopback }).map(Self)
    }

    /// Waits until the namespace is there, and returns it.
    ///
    /// Errors: of the first call that failed, or `ECHILD` if the process was killed. Nothing is left of it then.
    pub fn finish(mut self) -> io::Result<OwnedFd> {
        self.take()
    }

    fn take(&mut self) -> io::Result<OwnedFd> {
        match self.0.finish() {
            // SAFETY: the other process has opened it for this one, and is gone; it is given away once.
            (_, fd @ 0..) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
            (_, errno) => Err(io::Error::from_raw_os_error(-errno)),
        }
    }
}

impl Drop for Nascent {
    fn drop(&mut self) {
        drop(self.take());
    }
}

// SAFETY: both functions make system calls alone.
unsafe impl Job for Maker {
    fn run(&self) -> i32 {
        // SAFETY: takes integers; the namespaces are this process's own.
        let made = unsafe { call(libc::SYS_unshare, [libc::CLONE_NEWNET as u64, 0, 0]) };
        let up = if made == 0 && self.loopback { loopback_up() } else { made };
        if up < 0 {
            return up;
        }
        let path = c"/proc/self/ns/net".as_ptr().expose_provenance() as u64;
        // SAFETY: a path that ends with 0.
        unsafe { call(libc::SYS_open, [path, (libc::O_RDONLY | libc::O_CLOEXEC) as u64, 0]) }
    }
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
