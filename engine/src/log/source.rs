//! What a container's output arrives on.

use std::io;
use std::os::fd::BorrowedFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use skiff_sys::file::waiting_bytes;

/// What a pipe or terminal has for a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ready {
    /// Bytes that can be read now.
    pub(super) bytes: u32,
    /// Nobody writes any more.
    pub(super) ended: bool,
}

/// Looks without waiting, and without taking anything.
pub(super) fn ready(fd: BorrowedFd<'_>) -> io::Result<Ready> {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO)?;
    let events = fds[0].revents().unwrap_or(PollFlags::empty());
    // Asked for after the events, so that an end that is seen is behind all of the bytes.
    let bytes = waiting_bytes(fd)?;
    Ok(Ready { bytes, ended: bytes == 0 && events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn bytes_come_before_the_end() {
        let (reader, mut writer) = io::pipe().expect("pipe");
        let look = || ready(reader.as_fd()).expect("ready");
        assert_eq!(look(), Ready { bytes: 0, ended: false });
        writer.write_all(b"abc").expect("write");
        assert_eq!(look(), Ready { bytes: 3, ended: false });
        drop(writer);
        assert_eq!(look(), Ready { bytes: 3, ended: false });
        assert_eq!(nix::unistd::read(&reader, &mut [0; 8]), Ok(3));
        assert_eq!(look(), Ready { bytes: 0, ended: true });
    }
}
