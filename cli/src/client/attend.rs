//! Attending a process that the daemon has started: it has the client's own streams, or a terminal whose other end comes
//! here. Signals go to it directly, by its pidfd.

use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use skiff_engine::protocol::{Reply, Request, TerminalSize};
use skiff_engine::{Client, Error};
use skiff_runtime::supervise::{self, Caller, Deputy, Signals, Stood, Terms, send_as};
use skiff_sys::process::exit_of;
use skiff_sys::terminal;

use super::{ATTEMPTS, connect, os, unexpected};
use crate::failure::Failure;
use crate::run::exit_code;

/// How long the daemon may take to answer after a signal that ends the client, ms.
const PATIENCE_MS: u16 = 1000;

/// How long a process that has ended may take to be reaped, ms.
const REAPED_MS: u32 = 500;

/// What the caller wants of a process that runs.
#[derive(Debug, Clone)]
pub(super) struct Wishes {
    /// Its streams are the caller's; otherwise it has a terminal, or its streams are the daemon's business.
    pub(super) streams: bool,
    /// The caller's input is passed on.
    pub(super) interactive: bool,
    /// Signals are passed on.
    pub(super) sig_proxy: bool,
    /// How long it may take when nobody takes its output any more.
    pub(super) stop_timeout: Option<Duration>,
    /// What leaves its terminal when it is typed.
    pub(super) detach_keys: Vec<u8>,
}

/// Why nothing was started.
#[derive(Debug)]
pub(super) enum Refused {
    /// Its image is not here, but a registry may have it.
    NoSuchImage(String),
    /// The container runs already.
    Running,
    Other(Failure),
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self::Other(failure)
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        match error {
            Error::NoSuchImage(image) => Self::NoSuchImage(image),
            error => Self::Other(error.into()),
        }
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NoSuchImage(image) => Error::NoSuchImage(image).into(),
            Refused::Running => Self::engine("the container is running already"),
            Refused::Other(failure) => failure,
        }
    }
}

/// Asks for a process to be started, tells `started` of its container, and attends the process; its exit code.
///
/// Signals go to the process, also those that come while the daemon makes ready.
pub(super) fn attend(
    request: &Request,
    wishes: &Wishes,
    started: &mut dyn FnMut(&str) -> Result<(), Failure>,
) -> Result<u8, Refused> {
    // Never dropped, if all goes well: that would take system calls to restore what ends with the client.
    let signals = ManuallyDrop::new(Signals::block().map_err(|error| os("block signals", &error))?);
    let mut taken = Vec::new();
    let mut attempts = 1;
    let ended = |signal: i32| Ok(u8::try_from(128 + signal).unwrap_or(u8::MAX));
    let (mut client, reply, descriptors) = loop {
        let mut client = connect()?;
        ask(&mut client, request, wishes)?;
        if let Some(signal) = answered(&client, &signals, &mut taken)? {
            return ended(signal);
        }
        match client.reply() {
            Ok((Reply::Leaving, _)) if attempts < ATTEMPTS => attempts += 1,
            Err(Error::NoSuchImage(image)) => {
                // There may be much to do before this is asked again, and signals end it.
                drop(ManuallyDrop::into_inner(signals));
                let end = taken.iter().copied().find(|signal| ends(*signal));
                return end.map_or(Err(Refused::NoSuchImage(image)), ended);
            }
            other => {
                let (reply, descriptors) = other?;
                break (client, reply, descriptors);
            }
        }
    };
    let Reply::Started { id, pid, stop_signal, .. } = reply else { return Err(unexpected(&reply).into()) };
    let mut descriptors = descriptors.into_iter();
    let process = descriptors.next().ok_or(Refused::Running)?;
    started(&id)?;
    let terms = Terms {
        sig_proxy: wishes.sig_proxy,
        interactive: wishes.interactive,
        stop_signal,
        stop_timeout: wishes.stop_timeout,
        // The daemon's business, which outlives the client.
        timeout: None,
    };
    let send = |signal| send_by_daemon(&id, Some(pid), signal);
    let deputy = Some(Deputy(&send));
    pass_on(&taken, &process, &terms, deputy)?;
    let terminal = descriptors.next();
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let (stdin, stdout) = (stdin.as_fd(), stdout.as_fd());
    let caller = Caller { signals: &signals, stdin, stdout, detach_keys: &wishes.detach_keys, deputy };
    let stood = supervise::stand_by(process.as_fd(), terminal.as_ref().map(AsFd::as_fd), caller, &terms);
    if stood.map_err(|error| os("stand by the container", &error))? == Stood::Detached {
        // As with docker, who leaves a container that it has started has what it wanted.
        let is_exec = matches!(request, Request::Exec { .. });
        return if is_exec { Err(super::left().into()) } else { Ok(0) };
    }
    let answer = match client.reply() {
        Err(Error::Host(lost)) => return Ok(recover(&process, &id, request, Failure::engine(lost))?),
        other => other?.0,
    };
    match answer {
        Reply::Exited { code, .. } => Ok(code),
        other => Err(unexpected(&other).into()),
    }
}

/// Has the daemon signal a container's first process, or one that was executed in it: a member of the socket's group without root may
/// not do that itself.
pub(super) fn send_by_daemon(id: &str, process: Option<i32>, signal: i32) -> io::Result<()> {
    let request = Request::Signal { container: id.to_owned(), process, signal };
    match super::ask(&request) {
        Ok(Reply::Done { errors, .. }) if errors.is_empty() => Ok(()),
        Ok(Reply::Done { errors, .. }) => Err(io::Error::other(errors.join("; "))),
        Ok(other) => Err(io::Error::other(unexpected(&other).message)),
        Err(failure) => Err(io::Error::other(failure.message)),
    }
}

/// The exit code of a process that has ended while no daemon was there: the kernel knows it, or the next daemon if it is a
/// container's first.
fn recover(process: &OwnedFd, id: &str, request: &Request, lost: Failure) -> Result<u8, Failure> {
    if let Some(code) = code_of(process) {
        if matches!(request, Request::Run { spec, .. } if spec.auto_remove) {
            // Only a daemon clears it away. It may be gone by now, which is no failure of the program.
            if let Err(failure) = super::ask(&Request::Wait { containers: vec![id.to_owned()] }) {
                tracing::debug!("see to it that container {id} is removed: {}", failure.message);
            }
        }
        return Ok(code);
    }
    if matches!(request, Request::Exec { .. }) {
        // What another process of the container has ended with, nobody but its parent knows.
        return Ok(u8::MAX);
    }
    // The one that is being killed may still be found, and is of no help.
    super::follow::wait(id).map_err(|_| lost)
}

/// What the kernel knows a process to have exited with.
fn code_of(process: &OwnedFd) -> Option<u8> {
    // It is known once it has been reaped, which somebody is about to do.
    for _ in 0..REAPED_MS {
        match exit_of(process.as_fd()) {
            Ok(Some(exit)) => return Some(exit_code(exit)),
            Ok(None) => std::thread::sleep(Duration::from_millis(1)),
            Err(_) => break,
        }
    }
    None
}

/// Sends the request, with the caller's streams if they are to be the process's.
fn ask(client: &mut Client, request: &Request, wishes: &Wishes) -> Result<(), Failure> {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    if !wishes.streams {
        return Ok(client.request(request, &[])?);
    }
    let nothing;
    let input: BorrowedFd<'_> = if wishes.interactive {
        stdin.as_fd()
    } else {
        nothing = File::open("/dev/null").map_err(|error| os("open /dev/null", &error))?;
        nothing.as_fd()
    };
    Ok(client.request(request, &[input, stdout.as_fd(), stderr.as_fd()])?)
}

/// Waits for an answer; takes signals meanwhile, to be passed on. One that would end the client is returned if the daemon does not
/// answer soon after it: then no process is there that it could go to.
fn answered(client: &Client, signals: &Signals, taken: &mut Vec<i32>) -> Result<Option<i32>, Failure> {
    loop {
        let end = taken.iter().copied().find(|signal| ends(*signal));
        let limit = if end.is_some() { PATIENCE_MS.into() } else { PollTimeout::NONE };
        let mut watched =
            [PollFd::new(client.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        match (poll(&mut watched, limit), end) {
            (Ok(0), Some(signal)) => return Ok(Some(signal)),
            (Ok(_) | Err(nix::Error::EINTR), _) => {}
            (Err(error), _) => return Err(os("wait for the daemon", &error.into())),
        }
        if watched[0].any().unwrap_or(true) {
            return Ok(None);
        }
        taken.extend(signals.take().map_err(|error| os("take a signal", &error))?);
    }
}

/// Whether a signal usually ends a program that is asked to.
const fn ends(signal: i32) -> bool {
    matches!(signal, libc::SIGHUP | libc::SIGINT | libc::SIGQUIT | libc::SIGTERM)
}

/// Passes on what has come before the process was known.
fn pass_on(
    taken: &[i32],
    process: &OwnedFd,
    terms: &Terms,
    deputy: Option<Deputy<'_>>,
) -> Result<(), Failure> {
    for signal in taken.iter().copied() {
        let signal = match signal {
            libc::SIGWINCH | libc::SIGCONT => continue,
            _ if terms.sig_proxy => signal,
            _ if ends(signal) => libc::SIGKILL,
            _ => continue,
        };
        send_as(process.as_fd(), signal, deputy).map_err(|error| os("pass a signal on", &error))?;
    }
    Ok(())
}

/// The size of the caller's terminal, if there is one.
pub(super) fn terminal_size() -> Option<TerminalSize> {
    let size = terminal::size(io::stdout().as_fd()).or_else(|_| terminal::size(io::stdin().as_fd())).ok()?;
    Some(TerminalSize { rows: size.rows, columns: size.columns })
}
