//! A command on a pseudo-terminal: the test is the person at the keyboard.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use nix::unistd::Pid;

use super::live::pidfd;
use super::{Skiff, time_limit};

/// A command whose controlling terminal, and all standard streams, is a terminal that the test holds the other end of.
#[derive(Debug)]
pub(crate) struct Terminal {
    master: File,
    /// Kept open, so that settings can be read and output does not fail with EIO before all of it is read.
    slave: OwnedFd,
    child: Child,
    screen: String,
    /// How much of the screen has been matched.
    seen: usize,
    deadline: Instant,
}

impl Terminal {
    /// Starts the command on a terminal of this size.
    pub(crate) fn start(command: &Skiff, rows: u16, columns: u16) -> Self {
        Self::start_command(command.to_command(), rows, columns)
    }

    /// The same with any command.
    pub(crate) fn start_command(mut command: Command, rows: u16, columns: u16) -> Self {
        let pty = openpty(&size(rows, columns), None).expect("openpty");
        let stream = || Stdio::from(pty.slave.try_clone().expect("dup"));
        command.stdin(stream()).stdout(stream()).stderr(stream());
        // SAFETY: only setsid and ioctl run between fork and exec.
        unsafe { command.pre_exec(take_terminal) };
        let child = command.spawn().unwrap_or_else(|e| panic!("start {command:?}: {e}"));
        let deadline = Instant::now() + time_limit();
        Self { master: pty.master.into(), slave: pty.slave, child, screen: String::new(), seen: 0, deadline }
    }

    /// Reads until `text` appears after what was matched before.
    pub(crate) fn expect(&mut self, text: &str) {
        self.expect_one_of(&[text]);
    }

    /// Reads until what a person sees, after all that was written, is as `wanted`; what they see.
    pub(crate) fn see(&mut self, rows: u16, columns: u16, wanted: &dyn Fn(&str) -> bool) -> String {
        loop {
            let mut parser = vt100::Parser::new(rows, columns, 0);
            parser.process(self.screen.as_bytes());
            let seen = parser.screen().contents();
            if wanted(&seen) {
                return seen;
            }
            assert!(self.read(None), "it never comes; what is seen:\n{seen}");
        }
    }

    /// Reads until one of the texts appears after what was matched before; which.
    pub(crate) fn expect_one_of(&mut self, texts: &[&str]) -> usize {
        loop {
            let rest = &self.screen[self.seen..];
            let found = texts.iter().enumerate().filter_map(|(index, text)| Some((rest.find(text)?, index)));
            if let Some((place, index)) = found.min() {
                self.seen += place + texts[index].len();
                return index;
            }
            assert!(self.read(None), "none of {texts:?} comes; the screen: {:?}", self.screen);
        }
    }

    /// Types.
    pub(crate) fn send(&mut self, keys: &[u8]) {
        self.master.write_all(keys).expect("the terminal takes input");
    }

    /// Changes the size of the window.
    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        let size = size(rows, columns);
        // SAFETY: the kernel reads exactly this structure.
        let result = unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(result, 0, "TIOCSWINSZ");
    }

    /// The settings of the person's terminal.
    pub(crate) fn settings(&self) -> Termios {
        tcgetattr(&self.slave).expect("tcgetattr")
    }

    /// Whether keys go to the program one by one and unchanged.
    pub(crate) fn is_raw(&self) -> bool {
        !self.settings().local_flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    /// Sends a signal to the command.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("it runs");
    }

    /// Whether the command has been stopped.
    pub(crate) fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    }

    /// Waits for the end: the exit code, or minus the signal that killed it.
    pub(crate) fn wait(&mut self) -> i32 {
        let exit = pidfd(self.pid());
        while self.read(Some(&exit)) {}
        let status = self.child.wait().expect("it can be waited for");
        status.code().unwrap_or_else(|| -status.signal().unwrap_or(0))
    }

    /// The same, and all that was on the screen.
    pub(crate) fn finish(mut self) -> (i32, String) {
        (self.wait(), std::mem::take(&mut self.screen))
    }

    /// Waits for output, or for `exit`, and takes it in; false when `exit` has come and nothing is left to read.
    fn read(&mut self, exit: Option<&OwnedFd>) -> bool {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let mut watched = vec![PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        watched.extend(exit.map(|exit| PollFd::new(exit.as_fd(), PollFlags::POLLIN)));
        poll(&mut watched, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)).expect("poll");
        let output = watched[0].any().unwrap_or(false);
        let ended = watched.get(1).is_some_and(|exit| exit.any().unwrap_or(false));
        assert!(output || ended, "time limit; the screen: {:?}", self.screen);
        let mut chunk = [0; 4096];
        if output && let Ok(count) = self.master.read(&mut chunk) {
            self.screen.push_str(&String::from_utf8_lossy(&chunk[..count]));
            return true;
        }
        false
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a process id fits"))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Makes standard input the controlling terminal of a new session.
fn take_terminal() -> std::io::Result<()> {
    nix::unistd::setsid()?;
    // SAFETY: takes a descriptor and a number.
    match unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
