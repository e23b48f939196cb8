//! The loop, with plain processes in the place of containers.

use std::ffi::CString;
use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;

use nix::pty::{OpenptyResult, openpty};
use nix::sys::signal::{Signal, raise};
use nix::sys::termios::{LocalFlags, tcgetattr};
use skiff_sys::process::{Child, Exit, Memory, default_signals, exec, reap, spawn};
use skiff_sys::terminal::{Size, set_size};

use super::*;

const TERMS: Terms = Terms {
    sig_proxy: true,
    interactive: false,
    stop_signal: libc::SIGTERM,
    stop_timeout: None,
    timeout: None,
};

/// Starts a shell with `script`, with `terminal` as its standard streams if there is one.
fn shell(script: &str, terminal: Option<OwnedFd>) -> Child {
    let arguments = ["sh", "-c", script].map(|text| CString::new(text).expect("no NUL"));
    spawn(nix::sched::CloneFlags::empty(), None, Memory::Copied, |_| {
        // As a container's: whoever runs the tests may have made them ignore some, as nohup does.
        let reset = default_signals();
        let unblocked = nix::sys::signal::SigSet::empty().thread_set_mask();
        let attached = terminal.as_ref().map_or(Ok(()), |terminal| {
            nix::unistd::setsid()?;
            nix::unistd::dup2_stdin(terminal)?;
            nix::unistd::dup2_stdout(terminal)?;
            nix::unistd::dup2_stderr(terminal)
        });
        if reset.is_ok() && unblocked.is_ok() && attached.is_ok() {
            let _failed = exec(c"/bin/sh", &arguments, &[]);
        }
        99
    })
    .expect("spawn")
}

/// Stands by for a shell without a terminal.
fn plain(script: &str, terms: &Terms) -> Exit {
    let signals = Signals::block().expect("block");
    let child = shell(script, None);
    let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
    let caller = Caller {
        signals: &signals,
        stdin: stdin.as_fd(),
        stdout: stdout.as_fd(),
        detach_keys: b"",
        deputy: None,
    };
    stand_by(child.pidfd.as_fd(), None, caller, terms).expect("stand by");
    reap(child.pidfd.as_fd(), true).expect("reap").expect("it has ended")
}

/// A shell on a console, and the caller's streams: a pipe to and a pipe from skiff.
struct Desk {
    console: OwnedFd,
    child: Child,
    stdin: (PipeReader, PipeWriter),
    stdout: (PipeReader, PipeWriter),
}

impl Desk {
    fn new(script: &str) -> Self {
        let OpenptyResult { master, slave } = openpty(None, None).expect("openpty");
        let child = shell(script, Some(slave));
        let pipe = || std::io::pipe().expect("pipe");
        Self { console: master, child, stdin: pipe(), stdout: pipe() }
    }

    fn stand_by(&self, terms: &Terms) -> Exit {
        let signals = Signals::block().expect("block");
        let caller = Caller {
            signals: &signals,
            stdin: self.stdin.0.as_fd(),
            stdout: self.stdout.1.as_fd(),
            detach_keys: b"",
            deputy: None,
        };
        stand_by(self.child.pidfd.as_fd(), Some(self.console.as_fd()), caller, terms).expect("stand by");
        reap(self.child.pidfd.as_fd(), true).expect("reap").expect("it has ended")
    }
}

#[test]
fn the_end_of_the_process_ends_the_wait() {
    assert_eq!(plain("exit 7", &TERMS), Exit::Code(7));
}

#[test]
fn a_timeout_stops_with_the_stop_signal_and_then_kills() {
    let timeout = Some(Duration::from_millis(50));
    let terms = Terms { timeout, stop_signal: libc::SIGUSR1, ..TERMS };
    assert_eq!(plain("exec sleep 60", &terms), Exit::Signal(libc::SIGUSR1));
    // By then the shell has set its trap, also on a busy host.
    let timeout = Some(Duration::from_secs(2));
    let terms = Terms { timeout, stop_timeout: Some(Duration::from_millis(50)), ..TERMS };
    assert_eq!(plain("trap '' TERM; exec sleep 60", &terms), Exit::Signal(libc::SIGKILL));
}

#[test]
fn signals_are_passed_on_or_kill() {
    let received = |sig_proxy| {
        let signals = Signals::block().expect("block");
        let child = shell("exec sleep 60", None);
        raise(Signal::SIGINT).expect("raise");
        let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
        let caller = Caller {
            signals: &signals,
            stdin: stdin.as_fd(),
            stdout: stdout.as_fd(),
            detach_keys: b"",
            deputy: None,
        };
        stand_by(child.pidfd.as_fd(), None, caller, &Terms { sig_proxy, ..TERMS }).expect("stand by");
        reap(child.pidfd.as_fd(), true).expect("reap").expect("it has ended")
    };
    assert_eq!(received(true), Exit::Signal(libc::SIGINT));
    assert_eq!(received(false), Exit::Signal(libc::SIGKILL));
}

#[test]
fn nothing_written_to_the_console_is_lost() {
    let desk = Desk::new("stty -onlcr; seq 200000; exit 3");
    let mut reader = desk.stdout.0.try_clone().expect("dup");
    let text = std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).map(|_| text)
    });
    assert_eq!(desk.stand_by(&TERMS), Exit::Code(3));
    drop(desk);
    let text = text.join().expect("join").expect("read");
    let expected: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
    assert_eq!(text.len(), expected.len());
    assert!(text == expected);
}

#[test]
fn input_reaches_the_console_only_if_interactive() {
    let mut desk = Desk::new("stty -echo; read line; echo got $line");
    desk.stdin.1.write_all(b"this\n").expect("write");
    assert_eq!(desk.stand_by(&Terms { interactive: true, ..TERMS }), Exit::Code(0));
    let Desk { stdout: (mut reader, writer), .. } = desk;
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("read");
    assert!(text.ends_with("got this\r\n"), "{text:?}");

    let mut desk = Desk::new("read line; exit 5");
    desk.stdin.1.write_all(b"this\n").expect("write");
    let terms = Terms { timeout: Some(Duration::from_millis(100)), ..TERMS };
    assert_eq!(desk.stand_by(&terms), Exit::Signal(libc::SIGTERM));
}

#[test]
fn a_program_may_close_its_terminal_and_open_it_again() {
    let desk = Desk::new("t=$(tty); exec </dev/null >/dev/null 2>&1; sleep 0.1; echo back >$t");
    assert_eq!(desk.stand_by(&TERMS), Exit::Code(0));
    let Desk { stdout: (mut reader, writer), .. } = desk;
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("read");
    assert_eq!(text, "back\r\n");
}

#[test]
fn a_program_whose_output_nobody_reads_is_hung_up_on() {
    let Desk { console, child, stdin, stdout: (reader, writer) } =
        Desk::new("trap 'exit 9' HUP; while :; do echo y; done");
    drop(reader);
    let signals = Signals::block().expect("block");
    let caller = Caller {
        signals: &signals,
        stdin: stdin.0.as_fd(),
        stdout: writer.as_fd(),
        detach_keys: b"",
        deputy: None,
    };
    stand_by(child.pidfd.as_fd(), Some(console.as_fd()), caller, &TERMS).expect("stand by");
    assert_eq!(reap(child.pidfd.as_fd(), true).expect("reap"), Some(Exit::Code(9)));
}

#[test]
fn the_caller_s_terminal_is_raw_meanwhile_and_its_size_is_taken_over() {
    let OpenptyResult { master: console, slave } = openpty(None, None).expect("openpty");
    let OpenptyResult { master: keyboard, slave: terminal } = openpty(None, None).expect("openpty");
    set_size(terminal.as_fd(), Size { rows: 11, columns: 22 }).expect("set size");
    let canonical = || tcgetattr(&terminal).expect("tcgetattr").local_flags.contains(LocalFlags::ICANON);
    let child = shell("stty -echo; read line; echo $line; stty size", Some(slave));
    // In raw mode, the line ends without a line feed.
    File::from(keyboard.try_clone().expect("dup")).write_all(b"typed\r").expect("write");
    assert!(canonical());
    let signals = Signals::block().expect("block");
    let caller = Caller {
        signals: &signals,
        stdin: terminal.as_fd(),
        stdout: terminal.as_fd(),
        detach_keys: b"",
        deputy: None,
    };
    let terms = Terms { interactive: true, ..TERMS };
    stand_by(child.pidfd.as_fd(), Some(console.as_fd()), caller, &terms).expect("stand by");
    assert!(canonical(), "restored");
    assert_eq!(reap(child.pidfd.as_fd(), true).expect("reap"), Some(Exit::Code(0)));
    drop(terminal);
    let mut text = Vec::new();
    let ended = File::from(keyboard).read_to_end(&mut text);
    assert_eq!(ended.expect_err("hung up").raw_os_error(), Some(libc::EIO));
    let text = String::from_utf8_lossy(&text);
    assert!(text.ends_with("typed\r\n11 22\r\n"), "{text:?}");
}
