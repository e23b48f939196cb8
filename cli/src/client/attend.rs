//! Attending a process that the daemon has started: it has the client's own streams, or a terminal whose other end comes
//! here. Signals go to it directly, by its pidfd.

use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use skiff_engine::Client;
use skiff_engine::protocol::{Reply, Request};
use skiff_runtime::supervise::{self, Caller, Signals, Terms};

use super::{os, unexpected};
use crate::failure::Failure;

/// What the caller wants of a process that runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wishes {
    /// Its streams are the caller's; otherwise it has a terminal, or its streams are the daemon's business.
    pub(super) streams: bool,
    /// The caller's input is passed on.
    pub(super) interactive: bool,
    /// Signals are passed on.
    pub(super) sig_proxy: bool,
    /// How long it may take when nobody takes its output any more.
    pub(super) stop_timeout: Option<Duration>,
}

/// Asks for a process to be started, tells `started` of its container, and attends the process; its exit code.
///
/// A signal that would end the client ends it also while the daemon makes ready. From then on signals go to the process.
pub(super) fn attend(
    client: &mut Client,
    request: &Request,
    wishes: &Wishes,
    started: &mut dyn FnMut(&str) -> Result<(), Failure>,
) -> Result<u8, Failure> {
    // Never dropped: that would take system calls to restore what ends with the client.
    let signals = ManuallyDrop::new(Signals::block().map_err(|error| os("block signals", &error))?);
    ask(client, request, wishes)?;
    if let Some(signal) = interrupted(client, &signals)? {
        return Ok(128 + signal);
    }
    let (reply, descriptors) = client.reply()?;
    let Reply::Started { id, stop_signal, .. } = reply else { return Err(unexpected(&reply)) };
    let mut descriptors = descriptors.into_iter();
    let process = descriptors.next().ok_or_else(|| Failure::engine("the daemon names no process"))?;
    started(&id)?;
    let terms = Terms {
        sig_proxy: wishes.sig_proxy,
        interactive: wishes.interactive,
        stop_signal,
        stop_timeout: wishes.stop_timeout,
        // The daemon's business, which outlives the client.
        timeout: None,
    };
    stand_by(&process, descriptors.next().as_ref(), &signals, &terms)?;
    match client.reply()? {
        (Reply::Exited { code, .. }, _) => Ok(code),
        (other, _) => Err(unexpected(&other)),
    }
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

/// Waits for an answer; the signal, if one comes first that is to end the client.
fn interrupted(client: &Client, signals: &Signals) -> Result<Option<u8>, Failure> {
    loop {
        let mut watched =
            [PollFd::new(client.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut watched, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(os("wait for the daemon", &error.into())),
        }
        if watched[0].any().unwrap_or(true) {
            return Ok(None);
        }
        let taken = signals.take().map_err(|error| os("take a signal", &error))?;
        let ends =
            |signal: &i32| matches!(*signal, libc::SIGHUP | libc::SIGINT | libc::SIGQUIT | libc::SIGTERM);
        if let Some(signal) = taken.into_iter().find(ends) {
            return Ok(u8::try_from(signal).ok());
        }
    }
}

fn stand_by(
    process: &OwnedFd,
    terminal: Option<&OwnedFd>,
    signals: &Signals,
    terms: &Terms,
) -> Result<(), Failure> {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let caller = Caller { signals, stdin: stdin.as_fd(), stdout: stdout.as_fd() };
    supervise::stand_by(process.as_fd(), terminal.map(AsFd::as_fd), caller, terms)
        .map_err(|error| os("stand by the container", &error))
}
