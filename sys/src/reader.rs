//! Reading ahead at the expense of others.
//!
//! The kernel charges pages and disk accesses to the cgroups of the process that asks for them; a thread cannot be in another memory cgroup
//! than its process. So who wants them charged elsewhere has a process there, a *reader*, and tells it over a socket what to ask for: one
//! packet with the file's descriptor for each piece, and one back once the kernel has been asked. The reader knows nothing else.
//!
//! Waiting for what was asked for is its work as well: a container whose accesses to a disk are held back holds up its reader, and
//! whoever has things read does not wait for that longer than it likes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::{ReceiveTimeout, SendTimeout};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::sys::uio::pread;

use crate::cache::{self, PAGE};
use crate::socket;

/// So many pieces can be told without an answer: fewer than a socket takes.
const UNANSWERED_MAX: usize = 32;
/// A reader that does not answer for so long is stopped with its cgroup, or waits for a disk that is none.
const PATIENCE: Duration = Duration::from_secs(20);
/// What is read ahead later than that, in whole, is of no use any more.
const TIME_MAX: Duration = Duration::from_secs(60);
/// Offset and length, 8 bytes each, in this machine's order. No length means: wait for the page there, if it is on its way.
const ORDER_BYTES: usize = 16;

/// The end of the socket of whoever has things read.
#[derive(Debug)]
pub struct Reader {
    socket: OwnedFd,
    unanswered: usize,
    until: Instant,
}

/// The socket between a reader and whoever has things read: its end for [`Reader::new`], and the other's for [`serve`].
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

impl Reader {
    /// Whoever has, or will have, the other end of `socket`. From now on it has a minute for all that it is asked.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        Self::within(socket, PATIENCE, TIME_MAX)
    }

    fn within(socket: OwnedFd, patience: Duration, time_max: Duration) -> io::Result<Self> {
        let patience = TimeVal::milliseconds(i64::try_from(patience.as_millis()).map_err(io::Error::other)?);
        setsockopt(&socket, SendTimeout, &patience)?;
        setsockopt(&socket, ReceiveTimeout, &patience)?;
        Ok(Self { socket, unanswered: 0, until: Instant::now() + time_max })
    }

    /// Has it ask the kernel for `length` bytes of `file` from `offset` on. Waits only where it has enough to do.
    ///
    /// Errors: `EPIPE` or `ECONNRESET` when it is gone; `EAGAIN` if it does not go on, `ETIMEDOUT` if it has not come to an end.
    pub fn ask(&mut self, file: BorrowedFd<'_>, offset: u64, length: u64) -> io::Result<()> {
        self.settle(UNANSWERED_MAX - 1)?;
        self.order(file, offset, length)
    }

    /// Has it wait for the page at `offset` of `file` and for all that it was asked before, and waits for that. A page that has not
    /// come, or is gone again, is not read.
    ///
    /// Errors: as [`Reader::ask`].
    pub fn wait(&mut self, file: BorrowedFd<'_>, offset: u64) -> io::Result<()> {
        self.settle(UNANSWERED_MAX - 1)?;
        self.order(file, offset, 0)?;
        self.settle(0)
    }

    fn order(&mut self, file: BorrowedFd<'_>, offset: u64, length: u64) -> io::Result<()> {
        let mut order = [0; ORDER_BYTES];
        order[..8].copy_from_slice(&offset.to_ne_bytes());
        order[8..].copy_from_slice(&length.to_ne_bytes());
        socket::send(self.socket.as_fd(), &order, &[file], false)?;
        self.unanswered += 1;
        Ok(())
    }

    /// Waits until all but the last `left` orders are answered.
    fn settle(&mut self, left: usize) -> io::Result<()> {
        while self.unanswered > left {
            if Instant::now() >= self.until {
                return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
            }
            let answer = socket::receive(self.socket.as_fd(), &mut [0; 1], &mut Vec::new(), false);
            // One that has not gone on is not waited for again.
            let got = answer.inspect_err(|_| self.until = Instant::now())?;
            if got.bytes == 0 {
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
        // Nothing depends on it.
        match files.first() {
            Some(file) if number(8) == 0 => await_page(file.as_fd(), number(0)),
            Some(file) => drop(cache::read_ahead(file.as_fd(), number(0), number(8))),
            None => {}
        }
        files.clear();
        socket::send(socket, &[0], &[], false)?;
    }
}

/// Waits for the page at `offset` to be read, if it is in the cache or on its way there.
fn await_page(file: BorrowedFd<'_>, offset: u64) {
    if cache::resident(file, offset / PAGE, 1).is_ok_and(|pages| pages == 1) {
        let _there = pread(file, &mut [0], i64::try_from(offset).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{drop_pages, residency, resident};
    use std::fs::File;
    use std::io::Write;

    #[test]
    fn what_is_asked_for_is_read_and_answered_until_the_end() {
        const PAGES: u64 = 64;
        let path = std::env::temp_dir().join(format!("skiff-reader-{}", std::process::id()));
        let mut file = File::options().read(true).write(true).create_new(true).open(&path).expect("make");
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
        own.wait(file.as_fd(), (PAGES - 1) * PAGE).expect("answers");
        let there = residency(file.as_fd(), PAGES - 1, 1).expect("look");
        assert_eq!((resident(file.as_fd(), 0, PAGES).expect("look"), there), (PAGES, vec![true]));
        // One that nobody has asked for is not read.
        drop_pages(file.as_fd()).expect("drop");
        own.wait(file.as_fd(), PAGE).expect("an answer");
        assert_eq!(resident(file.as_fd(), 0, PAGES).expect("look"), 0);
        drop(own);
        reader.join().expect("the thread").expect("an end");
    }

    #[test]
    fn a_reader_that_is_gone_is_an_error() {
        let (own, its) = pair().expect("a pair");
        drop(its);
        let mut own = Reader::new(own).expect("a reader");
        let file = File::open("/dev/null").expect("open");
        assert!(own.ask(file.as_fd(), 0, 1).is_err());
    }

    #[test]
    fn a_reader_that_is_held_up_is_not_waited_for() {
        let file = File::open("/dev/null").expect("open");
        let (own, its) = pair().expect("a pair");
        let mut own =
            Reader::within(own, Duration::from_millis(50), Duration::from_secs(60)).expect("a reader");
        own.ask(file.as_fd(), 0, 1).expect("it has room");
        let error = own.wait(file.as_fd(), 0).expect_err("nobody answers");
        assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
        let error = own.wait(file.as_fd(), 0).expect_err("nor is it waited for again");
        assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT));
        drop(its);
    }

    #[test]
    fn a_reader_that_answers_slowly_is_not_waited_for_without_end() {
        let file = File::open("/dev/null").expect("open");
        let (own, its) = pair().expect("a pair");
        let mut own =
            Reader::within(own, Duration::from_secs(20), Duration::from_millis(100)).expect("a reader");
        let slow = std::thread::spawn(move || {
            let mut files = Vec::new();
            while socket::receive(its.as_fd(), &mut [0; ORDER_BYTES], &mut files, false)
                .is_ok_and(|got| got.bytes > 0)
            {
                std::thread::sleep(Duration::from_millis(10));
                files.clear();
                let _sent = socket::send(its.as_fd(), &[0], &[], false);
            }
        });
        let mut waited = || (0..100).try_for_each(|_| own.wait(file.as_fd(), 0));
        assert_eq!(waited().expect_err("too long").raw_os_error(), Some(libc::ETIMEDOUT));
        drop(own);
        slow.join().expect("the thread");
    }
}
