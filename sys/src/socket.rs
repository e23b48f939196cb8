//! Bytes and descriptors over Unix sockets. unix(7), cmsg(3).

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;

use crate::file;

/// The most descriptors that one message can carry (`SCM_MAX_FD`).
pub const DESCRIPTORS_MAX: usize = 253;

/// Room for a control message with that many, aligned as `struct cmsghdr` has to be.
#[repr(C, align(8))]
struct Control([u8; CONTROL_LENGTH as usize]);

/// `CMSG_SPACE(DESCRIPTORS_MAX * 4)`: a header of 16 bytes, and the descriptors rounded up to 8 bytes.
const CONTROL_LENGTH: u32 = 1032;
const _: () = assert!(CONTROL_LENGTH as usize == 16 + DESCRIPTORS_MAX.next_multiple_of(2) * 4);

/// Sends the beginning of `bytes`, which must not be empty, with these descriptors; how many bytes it was. sendmsg(2).
///
/// The descriptors go with the first of the bytes. No `SIGPIPE`. Errors: `EINVAL` for more than [`DESCRIPTORS_MAX`];
/// `EAGAIN` if the socket, or `dont_wait`, says not to block.
pub fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
    dont_wait: bool,
) -> io::Result<usize> {
    if descriptors.len() > DESCRIPTORS_MAX || bytes.is_empty() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let mut control = Control([0; CONTROL_LENGTH as usize]);
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut message = message(&mut part, &mut control);
    if raw.is_empty() {
        message.msg_control = ptr::null_mut();
        message.msg_controllen = 0;
    } else {
        let length = u32::try_from(mem::size_of_val(raw.as_slice())).unwrap_or(0);
        // SAFETY: arithmetic on a number.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(length) } as _;
        // SAFETY: the message has a control buffer, aligned and longer than a header.
        let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
        // SAFETY: all zero is a valid value of this structure, which has padding in some C libraries.
        let mut filled: libc::cmsghdr = unsafe { mem::zeroed() };
        // SAFETY: arithmetic on a number.
        filled.cmsg_len = unsafe { libc::CMSG_LEN(length) } as _;
        filled.cmsg_level = libc::SOL_SOCKET;
        filled.cmsg_type = libc::SCM_RIGHTS;
        // SAFETY: the header lies in the buffer, which is aligned for it and which nothing else refers to.
        unsafe { ptr::write(header, filled) };
        // SAFETY: as above.
        let data = unsafe { libc::CMSG_DATA(header) };
        // SAFETY: the buffer has room for DESCRIPTORS_MAX numbers behind the header, and there are no more than that.
        unsafe { ptr::copy_nonoverlapping(raw.as_ptr(), data.cast::<RawFd>(), raw.len()) };
    }
    let flags = libc::MSG_NOSIGNAL | if dont_wait { libc::MSG_DONTWAIT } else { 0 };
    // SAFETY: all that the message points to outlives the call; the kernel only reads it.
    retried(|| unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) })
}

/// Lets the kernel discard what is sent to a datagram socket from now on; senders do not learn of it, and it is they who close
/// descriptors that went along. socket(7), `SO_ATTACH_FILTER`.
pub fn discard(socket: BorrowedFd<'_>) -> io::Result<()> {
    /// `BPF_RET | BPF_K`; how much of a message is kept is the constant.
    const RETURN_NOTHING: u16 = 0x06;
    let mut none = libc::sock_filter { code: RETURN_NOTHING, jt: 0, jf: 0, k: 0 };
    let filter = libc::sock_fprog { len: 1, filter: &raw mut none };
    let length = u32::try_from(size_of_val(&filter)).unwrap_or(0);
    let option = (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER);
    // SAFETY: the kernel copies the structure and the one instruction that it points to; both outlive the call.
    let done = unsafe {
        libc::setsockopt(socket.as_raw_fd(), option.0, option.1, (&raw const filter).cast(), length)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What [`receive`] has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// How many bytes; none at the end, and of an empty message.
    pub bytes: usize,
    /// Whether descriptors were lost on the way: this process can have no more.
    pub truncated: bool,
}

/// Receives bytes and adds the descriptors that came with them, close-on-exec, to `descriptors`. recvmsg(2).
///
/// On a stream, what came with descriptors is the last that one call returns. Errors: `EAGAIN` if the socket, or
/// `dont_wait`, says not to block.
pub fn receive(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
    dont_wait: bool,
) -> io::Result<Received> {
    let mut control = Control([0; CONTROL_LENGTH as usize]);
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut message = message(&mut part, &mut control);
    let flags = libc::MSG_CMSG_CLOEXEC | if dont_wait { libc::MSG_DONTWAIT } else { 0 };
    // SAFETY: the kernel writes to the two buffers, within their lengths; both outlive the call.
    let bytes = retried(|| unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) })?;
    // SAFETY: the kernel has filled the control buffer and set its length.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: not null, so a whole header within the buffer.
        let found = unsafe { ptr::read(header) };
        if (found.cmsg_level, found.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: arithmetic on a number.
            let head = unsafe { libc::CMSG_LEN(0) } as _;
            // SAFETY: the header lies in the buffer.
            let data = unsafe { libc::CMSG_DATA(header) }.cast::<RawFd>();
            for index in 0..found.cmsg_len.saturating_sub(head) as usize / size_of::<RawFd>() {
                // SAFETY: the kernel has written so many numbers behind the header.
                let number = unsafe { ptr::read_unaligned(data.wrapping_add(index)) };
                descriptors.push(file::received(number));
            }
        }
        // SAFETY: both belong to the message that was received.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    Ok(Received { bytes, truncated: message.msg_flags & libc::MSG_CTRUNC != 0 })
}

fn message(part: &mut libc::iovec, control: &mut Control) -> libc::msghdr {
    // SAFETY: all zero is a valid value of this structure: no address, no buffers.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_LENGTH as _;
    message
}

/// Repeats a call that a signal has interrupted.
fn retried(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        if let Ok(count) = usize::try_from(call()) {
            return Ok(count);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    #[test]
    fn descriptors_travel_with_the_first_byte() {
        let (one, other) = UnixStream::pair().expect("pair");
        let (mut source, sink) = io::pipe().expect("pipe");
        assert_eq!(send(one.as_fd(), b"plain", &[], false).expect("send"), 5);
        assert_eq!(send(one.as_fd(), b"with", &[sink.as_fd(), sink.as_fd()], false).expect("send"), 4);
        assert_eq!(send(one.as_fd(), b"after", &[], false).expect("send"), 5);
        drop(sink);
        let (mut bytes, mut got) = ([0; 64], Vec::new());
        let first = receive(other.as_fd(), &mut bytes, &mut got, false).expect("receive");
        assert_eq!(
            (&bytes[..first.bytes], got.len()),
            (&b"plainwith"[..], 2),
            "nothing beyond them comes along"
        );
        let flags = nix::fcntl::fcntl(&got[0], nix::fcntl::FcntlArg::F_GETFD).expect("flags");
        assert_eq!(flags, libc::FD_CLOEXEC);
        drop(got);
        assert_eq!(source.read(&mut [0]).expect("read"), 0, "they were all there were");
        let mut none = Vec::new();
        let second = receive(other.as_fd(), &mut bytes, &mut none, true).expect("receive");
        assert_eq!((second, none.len()), (Received { bytes: 5, truncated: false }, 0));
        let error = receive(other.as_fd(), &mut bytes, &mut none, true).expect_err("nothing there");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn what_is_discarded_has_been_sent() {
        let (one, other) = UnixDatagram::pair().expect("pair");
        let (mut source, sink) = io::pipe().expect("pipe");
        assert_eq!(send(one.as_fd(), b"before", &[], true).expect("send"), 6);
        discard(other.as_fd()).expect("discard");
        for _ in 0..1000 {
            assert_eq!(send(one.as_fd(), b"with", &[sink.as_fd()], true).expect("send"), 4);
        }
        drop(sink);
        assert_eq!(source.read(&mut [0]).expect("read"), 0, "the sender has closed them");
        let (mut bytes, mut none) = ([0; 8], Vec::new());
        assert_eq!(receive(other.as_fd(), &mut bytes, &mut none, true).expect("receive").bytes, 6);
        let error = receive(other.as_fd(), &mut bytes, &mut none, true).expect_err("nothing there");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn as_many_descriptors_as_the_kernel_takes_arrive() {
        let (one, other) = UnixStream::pair().expect("pair");
        let null = File::open("/dev/null").expect("open");
        let all = vec![null.as_fd(); DESCRIPTORS_MAX];
        assert_eq!(send(one.as_fd(), b"x", &all, false).expect("send"), 1);
        let mut got = Vec::new();
        let received = receive(other.as_fd(), &mut [0; 8], &mut got, false).expect("receive");
        assert_eq!((received, got.len()), (Received { bytes: 1, truncated: false }, DESCRIPTORS_MAX));
        let too_many = vec![null.as_fd(); DESCRIPTORS_MAX + 1];
        assert!(send(one.as_fd(), b"x", &too_many, false).is_err());
    }
}
