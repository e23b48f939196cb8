//! What a container prints, read with a time limit.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::harness::time_limit;

/// The reading end of a container's standard output, or of anything else that can be waited for.
#[derive(Debug)]
pub(crate) struct Stream {
    file: File,
    text: Vec<u8>,
    taken: usize,
}

impl Stream {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { file: fd.into(), text: Vec::new(), taken: 0 }
    }

    /// A pipe: the stream, and the end to write to.
    pub(crate) fn pipe() -> (Self, OwnedFd) {
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).expect("a pipe");
        (Self::new(read), write)
    }

    /// The next line; fails if there is none.
    #[track_caller]
    pub(crate) fn line(&mut self) -> String {
        let deadline = Instant::now() + time_limit();
        loop {
            let rest = &self.text[self.taken..];
            if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line = String::from_utf8_lossy(&rest[..end]).trim_end().to_owned();
                self.taken += end + 1;
                return line;
            }
            assert!(self.read(deadline), "no further line after {:?}", String::from_utf8_lossy(&self.text));
        }
    }

    /// Everything up to the end that has not been read as lines.
    #[track_caller]
    pub(crate) fn rest(&mut self) -> String {
        let deadline = Instant::now() + time_limit();
        while self.read(deadline) {}
        let rest = String::from_utf8_lossy(&self.text[self.taken..]).into_owned();
        self.taken = self.text.len();
        rest
    }

    /// Reads once; false at the end.
    #[track_caller]
    fn read(&mut self, deadline: Instant) -> bool {
        assert!(
            await_input(&self.file, deadline),
            "time limit; so far: {:?}",
            String::from_utf8_lossy(&self.text)
        );
        let mut chunk = [0; 65536];
        // A terminal whose other side is closed says EIO.
        let count = self.file.read(&mut chunk).unwrap_or(0);
        self.text.extend_from_slice(&chunk[..count]);
        count > 0
    }
}

/// Waits until there is something to read, or the end; false if `deadline` comes first.
pub(crate) fn await_input(source: impl AsFd, deadline: Instant) -> bool {
    let mut watched = [PollFd::new(source.as_fd(), PollFlags::POLLIN)];
    let left = deadline.saturating_duration_since(Instant::now());
    poll(&mut watched, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)).expect("poll") > 0
}
