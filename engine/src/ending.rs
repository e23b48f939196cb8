//! How a process ends, whoever is its parent.

use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use skiff_runtime::launch::Exit;
use skiff_runtime::spawner::End;
use skiff_sys::process;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use crate::watched::watch;

/// What a process is taken to have exited with if nobody knows.
pub(crate) const UNKNOWN: Exit = Exit::Code(255);

/// Of a line of procfs about a process: 52 numbers and a name.
const LINE_LENGTH: usize = 2048;

/// How long another parent may take to reap a process that has ended.
const REAPED: Duration = Duration::from_secs(2);

/// The end of a process that has not come yet.
#[derive(Debug)]
pub(crate) struct Ending {
    /// From the spawner, as long as that is its parent.
    told: Option<oneshot::Receiver<End>>,
    pid: i32,
    /// Absent if it has been reaped, so that it has been told of.
    pidfd: Option<Rc<OwnedFd>>,
    watched: Option<AsyncFd<Rc<OwnedFd>>>,
}

impl Ending {
    /// That of process `pid`, which is behind `pidfd`, and which the spawner tells of, if it is its child.
    pub(crate) const fn new(
        pid: i32,
        pidfd: Option<Rc<OwnedFd>>,
        told: Option<oneshot::Receiver<End>>,
    ) -> Self {
        Self { told, pid, pidfd, watched: None }
    }

    /// The process.
    pub(crate) const fn pidfd(&self) -> Option<&Rc<OwnedFd>> {
        self.pidfd.as_ref()
    }

    /// Waits for it. Can be given up and taken up again.
    ///
    /// The spawner may have others to make just now, so the process is watched beside it: it tells by itself that it has ended and,
    /// as a rule, how.
    pub(crate) async fn wait(&mut self) -> End {
        if let Some(told) = &mut self.told {
            let seen = tokio::select! {
                biased;
                end = &mut *told => Some(end),
                exit = seen(self.pid, self.pidfd.as_ref(), &mut self.watched) => {
                    exit.map(|exit| Ok(End { exit, at_ns: now_ns() }))
                }
            };
            let end = match seen {
                Some(end) => end,
                None => told.await,
            };
            if let Ok(end) = end {
                return end;
            }
            // The spawner has gone: its children are this process's, which asked for them, or init's.
            self.told = None;
        }
        let exit = self.watch().await.unwrap_or_else(|error| {
            tracing::warn!("wait for a container: {}", skiff_runtime::cause(&error));
            UNKNOWN
        });
        End { exit, at_ns: now_ns() }
    }

    async fn watch(&mut self) -> io::Result<Exit> {
        let Some(pidfd) = &self.pidfd else { return Ok(UNKNOWN) };
        let watched = match &mut self.watched {
            Some(watched) => watched,
            none => none.insert(watch(pidfd.clone(), Interest::READABLE)?),
        };
        loop {
            let mut guard = watched.readable().await?;
            match process::reap(pidfd.as_fd(), false) {
                Ok(Some(exit)) => return Ok(exit),
                Ok(None) => guard.clear_ready(),
                Err(error) if error.raw_os_error() == Some(libc::ECHILD) => {
                    return Ok(of_another(self.pid, pidfd.as_fd()).await);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Waits for a process to end that is another's child. `None` if that is the only one to know how: it was reaped, and the kernel
/// does not tell of those, or it cannot be watched.
async fn seen(
    pid: i32,
    pidfd: Option<&Rc<OwnedFd>>,
    watched: &mut Option<AsyncFd<Rc<OwnedFd>>>,
) -> Option<Exit> {
    let pidfd = pidfd?;
    // A short program is over before its launch has been told of.
    if watched.is_some() || !is_readable(pidfd.as_fd()) {
        let watched = match watched {
            Some(watched) => watched,
            none => none.insert(watch(pidfd.clone(), Interest::READABLE).ok()?),
        };
        // Readable it stays.
        watched.readable().await.ok()?.retain_ready();
    }
    exit_of(pid, pidfd.as_fd()).ok().flatten()
}

/// Whether there is something to be read just now.
fn is_readable(fd: BorrowedFd<'_>) -> bool {
    poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// How a process has ended that somebody else reaps.
async fn of_another(pid: i32, pidfd: BorrowedFd<'_>) -> Exit {
    let tries = async {
        loop {
            match exit_of(pid, pidfd) {
                Ok(Some(exit)) => return exit,
                Ok(None) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(_) => return UNKNOWN,
            }
        }
    };
    tokio::time::timeout(REAPED, tries).await.unwrap_or(UNKNOWN)
}

/// How a process has ended: until it is reaped its line in procfs tells, from then on the kernel's own account, if it keeps one.
///
/// Errors: it has been reaped, and the kernel keeps none. `None`: it has not ended.
fn exit_of(pid: i32, pidfd: BorrowedFd<'_>) -> io::Result<Option<Exit>> {
    if let Ok(Some(exit)) = process::exit_of(pidfd) {
        return Ok(Some(exit));
    }
    // It may be reaped between the questions.
    exit_of_zombie(pid, pidfd).map_or_else(|| process::exit_of(pidfd), |exit| Ok(Some(exit)))
}

/// How process `pid` has ended that nobody has reaped yet. proc_pid_stat(5).
fn exit_of_zombie(pid: i32, pidfd: BorrowedFd<'_>) -> Option<Exit> {
    let mut text = [0; LINE_LENGTH];
    // One call gives all of it: whoever waits for the end waits for this.
    let read = std::fs::File::open(format!("/proc/{pid}/stat")).and_then(|mut line| line.read(&mut text));
    let text = text.get(..read.ok()?)?;
    // Still there: so it was this process's line.
    process::send_signal(pidfd, 0).ok()?;
    exit_in_stat(text)
}

/// The exit status in a line of procfs, if it is that of a process that has ended.
fn exit_in_stat(line: &[u8]) -> Option<Exit> {
    let end = line.iter().rposition(|byte| *byte == b')')?;
    let mut fields = std::str::from_utf8(line.get(end + 1..)?).ok()?.split_whitespace();
    // Fields 3 and 52.
    let is_over = fields.next()? == "Z";
    let status: i32 = fields.nth(48)?.parse().ok()?;
    let exit = if libc::WIFSIGNALED(status) {
        Exit::Signal(libc::WTERMSIG(status))
    } else {
        Exit::Code(libc::WEXITSTATUS(status))
    };
    is_over.then_some(exit)
}

/// As a shell has it: the program's code, or 128 + n for signal n.
pub(crate) fn exit_code(exit: Exit) -> u8 {
    let code = match exit {
        Exit::Code(code) => code & 0xff,
        Exit::Signal(signal) => 128 + signal,
    };
    u8::try_from(code).unwrap_or(u8::MAX)
}

/// Nanoseconds since 1970.
pub(crate) fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_nobody_has_reaped_tells_how_it_has_ended() {
        let line = |state: &str, status: i32| {
            let zeroes = vec!["0"; 48].join(" ");
            format!("7 (a) b) {state} {zeroes} {status}\n")
        };
        assert_eq!(exit_in_stat(line("Z", 7 << 8).as_bytes()), Some(Exit::Code(7)));
        assert_eq!(exit_in_stat(line("Z", 9).as_bytes()), Some(Exit::Signal(9)));
        assert_eq!(exit_in_stat(line("S", 0).as_bytes()), None);
        assert_eq!(exit_in_stat(b"7 (a) Z 0"), None);
        let own = std::fs::read("/proc/self/stat").expect("procfs");
        assert_eq!(exit_in_stat(&own), None);
    }

    #[test]
    fn ends_are_told_as_a_shell_does() {
        for (exit, code) in [(Exit::Code(0), 0), (Exit::Code(300), 44), (Exit::Signal(9), 137)] {
            assert_eq!(exit_code(exit), code);
        }
    }
}
