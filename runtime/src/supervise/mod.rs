//! Stands by while a container runs: passes signals on, carries its terminal, keeps its deadlines.
//!
//! One poll(2) loop over the container's pidfd, a signalfd, and with `-t` the caller's streams and the console; no
//! threads. Every buffer is bounded: whoever reads slowly slows the writer down, and nothing is dropped.

mod deadlines;
mod flow;
mod keys;
mod signals;
mod terminal;

pub use keys::Keys;
pub use signals::Signals;
pub use terminal::{Raw, check as check_terminal};

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use skiff_sys::process::send_signal;

use deadlines::Deadlines;
use flow::{Flow, Step};
use terminal::Session;

/// How long a console is listened to after the container has ended, if somebody outside of it keeps it open.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// What the caller wants done meanwhile.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Pass signals on; otherwise those that would end skiff kill the container.
    pub sig_proxy: bool,
    /// Pass standard input on to the console.
    pub interactive: bool,
    /// What asks the program to stop.
    pub stop_signal: i32,
    /// How long it may take to stop before it is killed; for ever when absent.
    pub stop_timeout: Option<Duration>,
    /// How long it may run before it is asked to stop; for ever when absent.
    pub timeout: Option<Duration>,
}

/// The caller's side: where signals and input come from, and where output goes.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// Blocked since before the container was started, so that none is lost.
    pub signals: &'a Signals,
    /// Standard input.
    pub stdin: BorrowedFd<'a>,
    /// Standard output.
    pub stdout: BorrowedFd<'a>,
    /// What leaves the container's terminal when it is typed; nothing does if empty.
    pub detach_keys: &'a [u8],
    /// Who sends signals that the caller may not send itself.
    pub deputy: Option<Deputy<'a>>,
}

/// Sends a signal to the process in somebody's place who may not.
#[derive(Clone, Copy)]
pub struct Deputy<'a>(pub &'a dyn Fn(i32) -> io::Result<()>);

impl fmt::Debug for Deputy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Deputy")
    }
}

/// Something else to look after meanwhile.
#[derive(Clone, Copy)]
pub struct Aside<'a> {
    /// What to watch.
    pub fd: BorrowedFd<'a>,
    /// Called when there is something in it; reads it, and says whether it is to be watched any longer.
    pub ready: &'a dyn Fn() -> bool,
}

impl fmt::Debug for Aside<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aside").field("fd", &self.fd).finish_non_exhaustive()
    }
}

/// Why it is stood by no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stood {
    /// The process has ended.
    Ended,
    /// The keys to leave have been typed.
    Detached,
}

/// Stands by until the process behind `pidfd` has ended and all that it wrote to `console` has been passed on, or until the caller
/// leaves.
///
/// Does not reap the process. The caller's terminal is as it was when this returns.
pub fn stand_by(
    pidfd: BorrowedFd<'_>,
    console: Option<BorrowedFd<'_>>,
    caller: Caller<'_>,
    terms: &Terms,
) -> io::Result<Stood> {
    stand_by_with(pidfd, console, caller, terms, None)
}

/// [`stand_by`], with something else to look after.
pub fn stand_by_with(
    pidfd: BorrowedFd<'_>,
    console: Option<BorrowedFd<'_>>,
    caller: Caller<'_>,
    terms: &Terms,
    mut aside: Option<Aside<'_>>,
) -> io::Result<Stood> {
    let mut session = match console {
        Some(console) => Some(Session::open(console, caller, terms.interactive)?),
        None => None,
    };
    let mut input = console.filter(|_| terms.interactive).map(|console| Flow::new(caller.stdin, console));
    if session.as_ref().is_some_and(Session::is_raw) {
        input = input.map(|input| input.until(Keys::new(caller.detach_keys)));
    }
    let mut output = console.map(|console| Flow::new(console, caller.stdout));
    let mut deadlines = Deadlines::new(terms, Instant::now());
    loop {
        let ready = wait(pidfd, (caller.signals, aside), [&input, &output], deadlines.next())?;
        if ready.aside {
            aside = aside.filter(|aside| (aside.ready)());
        }
        if ready.signal {
            for signal in caller.signals.take()? {
                receive(signal, pidfd, session.as_ref(), (terms, caller.deputy))?;
            }
        }
        if let Some(signal) = deadlines.due(Instant::now()) {
            send_as(pidfd, signal, caller.deputy)?;
        }
        if ready.flows[0] && advance(&mut input) == Step::Detached {
            return Ok(Stood::Detached);
        }
        if ready.flows[1] && advance(&mut output) == Step::Refused {
            // Nobody reads what the program writes: the terminal has hung up.
            send_as(pidfd, deadlines.stop(libc::SIGHUP, Instant::now()), caller.deputy)?;
            output = output.map(Flow::discard);
        }
        if ready.ended {
            let _raw = session.take().and_then(Session::release_peer);
            return output.map_or(Ok(()), last_words).map(|()| Stood::Ended);
        }
    }
}

/// What poll(2) has found.
struct Ready {
    ended: bool,
    signal: bool,
    aside: bool,
    flows: [bool; 2],
}

/// Waits for something to happen or for the time `until`.
fn wait(
    pidfd: BorrowedFd<'_>,
    (signals, aside): (&Signals, Option<Aside<'_>>),
    flows: [&Option<Flow<'_>>; 2],
    until: Option<Instant>,
) -> io::Result<Ready> {
    let [input, output] = flows.map(|flow| flow.as_ref().and_then(Flow::interest));
    // A flow at rest leaves its place to a descriptor that is watched anyway, for nothing.
    let idle = || PollFd::new(pidfd, PollFlags::empty());
    let mut fds = [
        PollFd::new(pidfd, PollFlags::POLLIN),
        PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        input.clone().unwrap_or_else(idle),
        output.clone().unwrap_or_else(idle),
        aside.map_or_else(idle, |aside| PollFd::new(aside.fd, PollFlags::POLLIN)),
    ];
    match poll(&mut fds, timeout(until)) {
        Ok(_) | Err(nix::Error::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    let happened = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
    Ok(Ready {
        ended: happened(&fds[0]),
        signal: happened(&fds[1]),
        aside: aside.is_some() && happened(&fds[4]),
        flows: [input.is_some() && happened(&fds[2]), output.is_some() && happened(&fds[3])],
    })
}

/// The time left, in whole milliseconds and never too short, so that the loop does not spin before a deadline.
fn timeout(until: Option<Instant>) -> PollTimeout {
    match until {
        None => PollTimeout::NONE,
        Some(until) => {
            let left = until.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
            PollTimeout::try_from(left.as_millis()).unwrap_or(PollTimeout::MAX)
        }
    }
}

/// What becomes of a signal that skiff got.
fn receive(
    signal: i32,
    pidfd: BorrowedFd<'_>,
    session: Option<&Session<'_>>,
    (terms, deputy): (&Terms, Option<Deputy<'_>>),
) -> io::Result<()> {
    match (signal, session) {
        (libc::SIGWINCH, Some(session)) => {
            session.resize();
            Ok(())
        }
        (libc::SIGCONT, Some(session)) => {
            session.resume();
            Ok(())
        }
        _ if terms.sig_proxy => send_as(pidfd, signal, deputy),
        (libc::SIGTERM | libc::SIGINT | libc::SIGHUP | libc::SIGQUIT, _) => {
            send_as(pidfd, libc::SIGKILL, deputy)
        }
        _ => Ok(()),
    }
}

/// Sends `signal`, or has it sent, unless the process has ended already.
pub fn send_as(pidfd: BorrowedFd<'_>, signal: i32, deputy: Option<Deputy<'_>>) -> io::Result<()> {
    tracing::debug!(signal, "signal");
    match (send_signal(pidfd, signal), deputy) {
        (Err(error), _) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        (Err(error), Some(Deputy(send))) if error.raw_os_error() == Some(libc::EPERM) => send(signal),
        (sent, _) => sent,
    }
}

fn advance(flow: &mut Option<Flow<'_>>) -> Step {
    flow.as_mut().map_or(Step::Ended, Flow::step)
}

/// Passes on what is left in the console: until it says that its other end is closed, which it does when every process
/// of the container is gone, and the kernel has no more of their bytes on the way.
fn last_words(mut output: Flow<'_>) -> io::Result<()> {
    while let Some(interest) = output.interest() {
        let reading = !output.is_pending();
        let limit = if reading {
            PollTimeout::try_from(LAST_WORDS).unwrap_or(PollTimeout::MAX)
        } else {
            PollTimeout::NONE
        };
        match poll(&mut [interest], limit) {
            Ok(0) => return Ok(()),
            Ok(_) if matches!(output.step(), Step::Ended | Step::Refused) => return Ok(()),
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
