//! Bytes on their way from one descriptor to another, through a bounded buffer.

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use super::Keys;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// What a pipe that polls as writable takes without blocking (`PIPE_BUF`), so that one slow reader of standard output
/// does not hold up signals, although the caller's descriptors stay blocking.
const CAPACITY: usize = 4096;

/// One direction. Reads only when its buffer is empty, so nothing is lost and nothing grows.
#[derive(Debug)]
pub(super) struct Flow<'a> {
    from: BorrowedFd<'a>,
    to: Option<BorrowedFd<'a>>,
    bytes: Box<[u8; CAPACITY]>,
    pending: Range<usize>,
    ended: bool,
    /// What ends it when it is read.
    keys: Option<Keys<'a>>,
}

/// What a step has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// There may be more.
    Moved,
    /// There is nothing more to read.
    Ended,
    /// Nobody takes the bytes any more.
    Refused,
    /// The keys that end it have been typed.
    Detached,
}

impl<'a> Flow<'a> {
    pub(super) fn new(from: BorrowedFd<'a>, to: BorrowedFd<'a>) -> Self {
        Self { from, to: Some(to), bytes: Box::new([0; CAPACITY]), pending: 0..0, ended: false, keys: None }
    }

    /// The same, until these keys are typed.
    pub(super) fn until(self, keys: Keys<'a>) -> Self {
        Self { keys: Some(keys), ..self }
    }

    /// The same, with its bytes thrown away from here on.
    pub(super) fn discard(self) -> Self {
        Self { to: None, pending: 0..0, ended: false, ..self }
    }

    /// Whether bytes have been read that are not yet written.
    pub(super) fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// What to wait for before the next [`Self::step`]; nothing when the flow has ended.
    pub(super) fn interest(&self) -> Option<PollFd<'a>> {
        match self.to {
            Some(to) if self.is_pending() => Some(PollFd::new(to, PollFlags::POLLOUT)),
            _ if self.ended => None,
            _ => Some(PollFd::new(self.from, PollFlags::POLLIN)),
        }
    }

    /// Reads or writes once.
    pub(super) fn step(&mut self) -> Step {
        let step = if self.is_pending() { self.write() } else { self.read() };
        self.ended |= step != Step::Moved;
        step
    }

    fn read(&mut self) -> Step {
        // What was held back comes before what is read.
        let held = self.keys.as_ref().map_or(0, Keys::length);
        let room = CAPACITY.saturating_sub(held).max(1);
        match nix::unistd::read(self.from, &mut self.bytes[..room]) {
            // The end of a file, and of a terminal whose other end is closed.
            Ok(0) | Err(nix::Error::EIO) => Step::Ended,
            Ok(length) => {
                let (length, is_over) = self.pass(length);
                self.pending = if self.to.is_some() { 0..length } else { 0..0 };
                if !is_over {
                    return Step::Moved;
                }
                self.pass_last_on();
                Step::Detached
            }
            Err(error) if is_transient(error) => Step::Moved,
            Err(error) => {
                tracing::debug!(error = %io::Error::from(error), "read");
                Step::Ended
            }
        }
    }

    /// Looks for the keys in what has been read, `length` bytes; how many there are to be passed on, and whether it ends then.
    fn pass(&mut self, length: usize) -> (usize, bool) {
        let Some(keys) = &mut self.keys else { return (length, false) };
        let mut feed = Vec::with_capacity(CAPACITY);
        let is_over = keys.pass(&self.bytes[..length], &mut feed);
        let passed = feed.len().min(CAPACITY);
        self.bytes[..passed].copy_from_slice(&feed[..passed]);
        (passed, is_over)
    }

    /// Writes what was typed before the keys, as far as it is taken at once: whoever leaves is not held up.
    fn pass_last_on(&mut self) {
        while let (Some(to), true) = (self.to, self.is_pending()) {
            let mut asked = [PollFd::new(to, PollFlags::POLLOUT)];
            let is_taken = poll(&mut asked, PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
            if !is_taken || self.write() != Step::Moved {
                return;
            }
        }
    }

    fn write(&mut self) -> Step {
        let Some(to) = self.to else { return Step::Refused };
        match nix::unistd::write(to, &self.bytes[self.pending.clone()]) {
            Ok(length) => {
                self.pending.start += length;
                Step::Moved
            }
            Err(error) if is_transient(error) => Step::Moved,
            Err(error) => {
                tracing::debug!(error = %io::Error::from(error), "write");
                self.pending = 0..0;
                Step::Refused
            }
        }
    }
}

fn is_transient(error: nix::Error) -> bool {
    matches!(error, nix::Error::EAGAIN | nix::Error::EINTR)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn bytes_arrive_whole_and_the_end_is_seen() {
        let (source, mut feed) = std::io::pipe().expect("pipe");
        let (mut sink, target) = std::io::pipe().expect("pipe");
        feed.write_all(b"all of it").expect("write");
        drop(feed);
        let mut flow = Flow::new(source.as_fd(), target.as_fd());
        assert_eq!(flow.step(), Step::Moved);
        assert!(flow.is_pending());
        assert_eq!(flow.step(), Step::Moved);
        assert!(!flow.is_pending());
        assert_eq!(flow.step(), Step::Ended);
        assert!(flow.interest().is_none());
        drop(target);
        let mut text = String::new();
        sink.read_to_string(&mut text).expect("read");
        assert_eq!(text, "all of it");
    }

    #[test]
    fn what_was_typed_before_the_keys_arrives() {
        let (source, mut feed) = std::io::pipe().expect("pipe");
        let (mut sink, target) = std::io::pipe().expect("pipe");
        feed.write_all(b"last\npq").expect("write");
        let mut flow = Flow::new(source.as_fd(), target.as_fd()).until(Keys::new(b"pq"));
        assert_eq!(flow.step(), Step::Detached);
        drop(target);
        let mut text = String::new();
        sink.read_to_string(&mut text).expect("read");
        assert_eq!(text, "last\n");
    }

    #[test]
    fn a_reader_that_is_gone_refuses_and_the_rest_is_thrown_away() {
        let (source, mut feed) = std::io::pipe().expect("pipe");
        let (sink, target) = std::io::pipe().expect("pipe");
        drop(sink);
        feed.write_all(b"lost").expect("write");
        let mut flow = Flow::new(source.as_fd(), target.as_fd());
        assert_eq!(flow.step(), Step::Moved);
        assert_eq!(flow.step(), Step::Refused);
        let mut flow = flow.discard();
        feed.write_all(b"thrown away").expect("write");
        drop(feed);
        assert!(flow.interest().is_some());
        assert_eq!(flow.step(), Step::Moved);
        assert!(!flow.is_pending());
        assert_eq!(flow.step(), Step::Ended);
    }
}
