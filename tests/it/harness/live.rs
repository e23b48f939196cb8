//! A running command: its output as it comes, signals to it, its end.

use std::fmt::Display;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A started command. It is killed if it is dropped alive or runs past its time limit.
#[derive(Debug)]
pub(crate) struct Live {
    child: Child,
    exit: OwnedFd,
    what: String,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// How much of `stdout` has been handed out as lines.
    taken: usize,
    deadline: Instant,
    exited: bool,
}

/// What a command said and how it ended.
#[derive(Debug)]
pub(crate) struct Output {
    /// The exit code, or minus the signal that killed it.
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    what: String,
}

impl Live {
    pub(crate) fn spawn(mut command: Command, input: Option<Vec<u8>>, limit: Duration) -> Self {
        let what = format!("{command:?}");
        let mut child = command.spawn().unwrap_or_else(|e| panic!("start {what}: {e}"));
        if let Some(bytes) = input {
            let mut stdin = child.stdin.take().expect("piped");
            // On its own thread: a command that does not read would block the test. It may also go away (EPIPE).
            std::thread::spawn(move || drop(stdin.write_all(&bytes)));
        }
        let exit = pidfd(pid_of(&child));
        let (stdout, stderr) = (Vec::new(), Vec::new());
        Self { child, exit, what, stdout, stderr, taken: 0, deadline: Instant::now() + limit, exited: false }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> Pid {
        pid_of(&self.child)
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap_or_else(|e| panic!("{signal} to {}: {e}", self.what));
    }

    /// The next line of its standard output; fails if it ends first.
    pub(crate) fn line(&mut self) -> String {
        loop {
            let rest = &self.stdout[self.taken..];
            if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line = String::from_utf8_lossy(&rest[..end]).into_owned();
                self.taken += end + 1;
                return line;
            }
            assert!(self.pump(), "no further line; {}", self.describe());
        }
    }

    /// Reads up to and including the line `expected`.
    pub(crate) fn until(&mut self, expected: &str) {
        while self.line() != expected {}
    }

    /// Waits until this is what it has said on standard output and on standard error.
    pub(crate) fn until_said(&mut self, out: &str, err: &str) {
        while (&self.stdout[..], &self.stderr[..]) != (out.as_bytes(), err.as_bytes()) {
            assert!(self.pump(), "not {out:?} and {err:?}; {}", self.describe());
        }
    }

    /// Writes to its standard input.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.child.stdin.as_mut().expect("standard input is open").write_all(bytes).expect("it reads");
    }

    /// Closes its standard input.
    pub(crate) fn close_stdin(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Waits for its end and for the end of its output.
    pub(crate) fn finish(mut self) -> Output {
        while self.pump() {}
        let status = self.child.wait().expect("it can be waited for");
        let code = status.code().unwrap_or_else(|| -status.signal().unwrap_or(0));
        let text = |bytes: &mut Vec<u8>| String::from_utf8_lossy(&std::mem::take(bytes)).into_owned();
        let (stdout, stderr) = (text(&mut self.stdout), text(&mut self.stderr));
        Output { code, stdout, stderr, what: std::mem::take(&mut self.what) }
    }

    /// Waits for something to happen and takes it in; false when it has ended and all its output is read.
    fn pump(&mut self) -> bool {
        let out = self.child.stdout.as_ref().map(AsFd::as_fd);
        let err = self.child.stderr.as_ref().map(AsFd::as_fd);
        let exit = (!self.exited).then(|| self.exit.as_fd());
        if out.is_none() && err.is_none() && exit.is_none() {
            return false;
        }
        let [out, err, exit] = ready([out, err, exit], self.deadline);
        if !(out || err || exit) {
            let _gone = self.child.kill();
            let hint = if self.exited { "something still holds its output" } else { "it still runs" };
            panic!("time limit: {hint}; {}", self.describe());
        }
        self.exited |= exit;
        take_in(out, &mut self.child.stdout, &mut self.stdout);
        take_in(err, &mut self.child.stderr, &mut self.stderr);
        true
    }

    fn describe(&self) -> String {
        let (out, err) = (String::from_utf8_lossy(&self.stdout), String::from_utf8_lossy(&self.stderr));
        format!("{}\nstdout: {out}\nstderr: {err}", self.what)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Output {
    /// Asserts success without a word on standard error, and returns standard output.
    #[track_caller]
    pub(crate) fn ok(&self) -> String {
        assert!(self.code == 0 && self.stderr.is_empty(), "failed: {self}");
        self.stdout.clone()
    }

    /// Asserts that it ended with `code` and one line on standard error that says `skiff: … needle …`.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, needle: &str) {
        let one_line = self.stderr.lines().count() == 1 && self.stderr.ends_with('\n');
        let well_formed = one_line && self.stderr.starts_with("skiff: ");
        assert!(self.code == code, "not {code}: {self}");
        assert!(well_formed && self.stderr.contains(needle), "not one line with {needle:?}: {self}");
    }
}

impl Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { code, stdout, stderr, what } = self;
        write!(f, "{what}\ncode {code}\nstdout: {stdout}\nstderr: {stderr}")
    }
}

/// Waits until one of the descriptors has something, at most until `deadline`, and says which.
fn ready(fds: [Option<BorrowedFd<'_>>; 3], deadline: Instant) -> [bool; 3] {
    let mut watched: Vec<PollFd<'_>> =
        fds.iter().flatten().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    let left = deadline.saturating_duration_since(Instant::now());
    poll(&mut watched, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)).expect("poll");
    let mut answers = watched.iter().map(|fd| fd.any().unwrap_or(false));
    fds.map(|fd| fd.is_some() && answers.next().unwrap_or(false))
}

/// Reads once; at the end of the stream closes it.
fn take_in(ready: bool, stream: &mut Option<impl Read>, buffer: &mut Vec<u8>) {
    let Some(source) = stream.as_mut().filter(|_| ready) else { return };
    let mut chunk = [0; 65536];
    match source.read(&mut chunk) {
        Ok(0) | Err(_) => *stream = None,
        Ok(count) => buffer.extend_from_slice(&chunk[..count]),
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a process id fits"))
}

/// Opens a descriptor that becomes readable when the process ends.
pub(crate) fn pidfd(pid: Pid) -> OwnedFd {
    try_pidfd(pid).expect("pidfd_open")
}

/// The same, or nothing if there is no such process. pidfd_open(2), Linux ≥ 5.3.
pub(crate) fn try_pidfd(pid: Pid) -> Option<OwnedFd> {
    // SAFETY: takes a number and flags.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: the kernel has just returned it; nobody else owns it.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}
