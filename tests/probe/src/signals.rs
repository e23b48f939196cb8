//! Signals, exits and reaping.

use std::ffi::c_int;
use std::str::FromStr;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal, kill, raise};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, getpid};

use crate::{out, see};

/// Parses `TERM` or `SIGTERM`.
pub(crate) fn parse(name: &str) -> Result<Signal, String> {
    let full = if name.starts_with("SIG") { name.to_owned() } else { format!("SIG{name}") };
    Signal::from_str(&full).map_err(|_| format!("not a signal: {name}"))
}

/// Dies by `signal`. Process 1 of a namespace cannot: a child does, and its status becomes a shell's 128+n.
pub(crate) fn die(signal: &str) -> Result<c_int, String> {
    let signal = parse(signal)?;
    if getpid().as_raw() != 1 {
        raise(signal).map_err(|e| e.to_string())?;
    }
    // SAFETY: this program has one thread here, and the child only raises.
    match unsafe { fork() }.map_err(|e| e.to_string())? {
        ForkResult::Child => {
            let _alive = raise(signal);
            Ok(98)
        }
        ForkResult::Parent { child } => match waitpid(child, None).map_err(|e| e.to_string())? {
            nix::sys::wait::WaitStatus::Signaled(_, signal, _) => Ok(128 + signal as c_int),
            other => Err(format!("child {other:?}")),
        },
    }
}

/// Says `ready` and waits for a signal that ends it.
pub(crate) fn wait() -> Result<c_int, String> {
    out::line("ready");
    loop {
        nix::unistd::pause();
    }
}

/// Says `ready` and stays until standard input ends, whoever ends it. As process 1 of a namespace it leaves no zombies,
/// and takes everything in the namespace with it.
pub(crate) fn hold() -> Result<c_int, String> {
    // SAFETY: no handler is installed, only SIG_IGN, by which the kernel reaps.
    unsafe { nix::sys::signal::signal(Signal::SIGCHLD, nix::sys::signal::SigHandler::SigIgn) }
        .map_err(|e| e.to_string())?;
    out::line("ready");
    let mut ignored = [0; 64];
    while nix::unistd::read(std::io::stdin(), &mut ignored).is_ok_and(|count| count > 0) {}
    Ok(0)
}

/// Says `ready`, then the name of every signal that arrives, until one of `last` (TERM when empty) does.
pub(crate) fn trap(last: &[&str]) -> Result<c_int, String> {
    let last: Vec<Signal> = if last.is_empty() { vec![Signal::SIGTERM] } else { parse_all(last)? };
    let all = SigSet::all();
    all.thread_block().map_err(|e| e.to_string())?;
    out::line("ready");
    loop {
        let signal = all.wait().map_err(|e| e.to_string())?;
        out::line(signal.as_str());
        if last.contains(&signal) {
            return Ok(0);
        }
    }
}

/// Prints the window size now and after every change of it, until SIGTERM.
pub(crate) fn winch() -> Result<c_int, String> {
    let all = SigSet::all();
    all.thread_block().map_err(|e| e.to_string())?;
    loop {
        out::line(&format!("{:?}", see::window_size(0)));
        if all.wait().map_err(|e| e.to_string())? == Signal::SIGTERM {
            return Ok(0);
        }
    }
}

/// Leaves an orphan that dies, and says whether somebody reaps it within five seconds.
pub(crate) fn orphan() -> Result<c_int, String> {
    let (read, write) = nix::unistd::pipe().map_err(|e| e.to_string())?;
    // SAFETY: one thread; the child forks once more and both leave at once.
    if let ForkResult::Child = unsafe { fork() }.map_err(|e| e.to_string())? {
        // SAFETY: as above.
        if let Ok(ForkResult::Parent { child }) = unsafe { fork() } {
            let _sent = nix::unistd::write(&write, &child.as_raw().to_ne_bytes());
        }
        // SAFETY: leaves without running anything of the parent's.
        unsafe { libc::_exit(0) };
    }
    let mut pid = [0; 4];
    nix::unistd::read(&read, &mut pid).map_err(|e| e.to_string())?;
    nix::sys::wait::wait().map_err(|e| e.to_string())?;
    let pid = Pid::from_raw(i32::from_ne_bytes(pid));
    let deadline = Instant::now() + Duration::from_secs(5);
    while kill(pid, None).is_ok() {
        if Instant::now() > deadline {
            out::line("zombie");
            return Ok(1);
        }
        std::thread::yield_now();
    }
    out::line("reaped");
    Ok(0)
}

fn parse_all(names: &[&str]) -> Result<Vec<Signal>, String> {
    names.iter().map(|name| parse(name)).collect()
}
