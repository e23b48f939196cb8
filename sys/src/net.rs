//! Network devices, as far as a container with nothing but loopback needs them.

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Brings the loopback device of the calling process's network namespace up. netdevice(7).
pub fn loopback_up() -> io::Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: an all-zero ifreq is valid: it is made of integers and arrays of them.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    // `IFF_UP` (1) fits; `IFF_RUNNING` is the kernel's to set.
    request.ifr_ifru.ifru_flags = 1;
    const SIOCSIFFLAGS: libc::Ioctl = 0x8914;
    // SAFETY: SIOCSIFFLAGS reads one ifreq.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCSIFFLAGS, &raw const request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
