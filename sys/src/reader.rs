//! Reading ahead at the expense of others.
//!
//! The kernel charges pages and disk accesses to the cgroups of the process that asks for them; a thread cannot be in another memory cgroup
//! than its process. So who wants them charged elsewhere has a process there, a *reader*, and tells it over a socket what to ask for: one
//! packet with the file's descriptor for each piece, and one back once the kernel has been asked. The reader knows nothing else.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::sockopt::{ReceiveTimeout, SendTimeout};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::{cache, socket};

/// So many pieces can be told without an answer: fewer than a socket takes.
const UNANSWERED_MAX: usize = 32;
/// A reader that does not answer for so long is stopped with its cgroup, or waits for a disk that is none.
const PATIENCE: Duration = Duration::from_secs(20);
/// Offset and length, 8 bytes each, in this machine's order.
const ORDER_BYTES: usize = 16;

/// The end of the socket of whoever has things read.
#[derive(Debug)]
pub struct Reader {
    socket: OwnedFd,
    unanswered: usize,
}

/// The socket between a reader and whoever has things read: its end for [`Reader::new`], and the other's for [`serve`].
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

impl Reader {
    /// Whoever has, or will have, the other end of `socket`.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        let patience = TimeVal::seconds(PATIENCE.as_secs().cast_signed());
        setsockopt(&socket, SendTimeout, &patience)?;
        setsockopt(&socket, ReceiveTimeout, &patience)?;
        Ok(Self { socket, unanswered: 0 })
    }

    /// Has it ask the kernel for `length` bytes of `file` from `offset` on. Waits only where it has enough to do.
    ///
    /// Errors: `EPIPE` or `ECONNRESET` when it is gone; `EAGAIN` if it does not go on.
    pub fn ask(&mut self, file: BorrowedFd<'_>, offset: u64, length: u64) -> io::Result<()> {
        self.settle(UNANSWERED_MAX - 1)?;
        let mut order = [0; ORDER_BYTES];
        order[..8].copy_from_slice(&offset.to_ne_bytes());
        order[8..].copy_from_slice(&length.to_ne_bytes());
        socket::send(self.socket.as_fd(), &order, &[file], false)?;
        self.unanswered += 1;
        Ok(())
    }

    /// Waits until the kernel has been asked for all but the last `left` pieces.
    ///
    /// Errors: as [`Reader::ask`].
    pub fn settle(&mut self, left: usize) -> io::Result<()> {
        while self.unanswered > left {
            if socket::receive(self.socket.as_fd(), &mut [0; 1], &mut Vec::new(), false)?.bytes == 0 {
                return Err(io::Error::from_raw_os_error(libc::EPIPE));
            }
            self.unanswered -= 1;
        }
        Ok(())
    }
}

/// What a reader does until nobody has the other end of `socket` any more.
///
/// Errors: of the socket. What the kernel does not read is passed over.
pub fn serve(socket: BorrowedFd<'_>) -> io::Result<()> {
    let mut files = Vec::with_capacity(1);
    loop {
        let mut order = [0; ORDER_BYTES];
        if socket::receive(socket, &mut order, &mut files, false)?.bytes != ORDER_BYTES {
            return Ok(());
        }
        let number = |at: usize| u64::from_ne_bytes(std::array::from_fn(|nth| order[at + nth]));
        if let Some(file) = files.first() {
            // Nothing depends on it.
            let _asked = cache::read_ahead(file.as_fd(), number(0), number(8));
        }
        files.clear();
        socket::send(socket, &[0], &[], false)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{PAGE, drop_pages, resident};
    use std::io::Write;

    #[test]
    fn what_is_asked_for_is_read_and_answered_until_the_end() {
        const PAGES: u64 = 64;
        let path = std::env::temp_dir().join(format!("skiff-reader-{}", std::process::id()));
        let mut file =
            std::fs::File::options().read(true).write(true).create_new(true).open(&path).expect("make");
        std::fs::remove_file(&path).expect("remove");
        file.write_all(&vec![7; usize::try_from(PAGES * PAGE).expect("a size")]).expect("write");
        file.sync_all().expect("sync");
        drop_pages(file.as_fd()).expect("drop");
        let (own, its) = pair().expect("a pair");
        let reader = std::thread::spawn(move || serve(its.as_fd()));
        let mut own = Reader::new(own).expect("a reader");
        // More than may be unanswered.
        for page in 0..PAGES {
            own.ask(file.as_fd(), page * PAGE, PAGE).expect("ask");
        }
        own.settle(0).expect("answers");
        assert_eq!(resident(file.as_fd(), 0, PAGES).expect("look"), PAGES);
        drop(own);
        reader.join().expect("the thread").expect("an end");
    }

    #[test]
    fn a_reader_that_is_gone_is_an_error() {
        let (own, its) = pair().expect("a pair");
        drop(its);
        let mut own = Reader::new(own).expect("a reader");
        let file = std::fs::File::open("/dev/null").expect("open");
        assert!(own.ask(file.as_fd(), 0, 1).is_err());
    }
}
