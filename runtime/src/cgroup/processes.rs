//! The processes of a container, by its cgroups: who they are, signals to all of them, and the freezer.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use skiff_sys::process::{open_pidfd, send_signal};

use super::{Cgroup, Controller};
use crate::Error;
use crate::error::Context;

/// How long processes may take to stop. One in the middle of a slow system call delays all.
const FREEZE: Duration = Duration::from_secs(10);

impl Cgroup {
    /// The ids of all processes, those in cgroups that the container has made included.
    pub fn processes(&self) -> Result<Vec<i32>, Error> {
        let mut found = Vec::new();
        if let Some(path) = self.one() {
            collect(path, &mut found).context(|| format!("read cgroup {}", path.display()))?;
        }
        Ok(found)
    }

    /// Sends `signal` to all processes.
    pub fn kill(&self, signal: i32) -> Result<(), Error> {
        let unified = self.unified.as_ref().map(|unified| unified.path.join("cgroup.kill"));
        if signal == libc::SIGKILL && unified.is_some_and(|file| fs::write(file, "1").is_ok()) {
            return Ok(());
        }
        for pid in self.processes()? {
            match open_pidfd(pid).and_then(|process| send_signal(process.as_fd(), signal)) {
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                other => other.context(|| format!("send signal {signal} to process {pid}"))?,
            }
        }
        Ok(())
    }

    /// Whether all processes are stopped.
    pub fn frozen(&self) -> Result<bool, Error> {
        let Some(freezer) = self.freezer() else { return Ok(false) };
        freezer.is_frozen().context(|| format!("read {}", freezer.file().display()))
    }

    /// Stops all processes, or lets them go on; returns when it is so.
    ///
    /// Errors: the container has no freezer; the processes do not stop, and are let go on.
    pub fn freeze(&self, frozen: bool) -> Result<(), Error> {
        let freezer =
            self.freezer().ok_or_else(|| Error::Option("the container has no freezer cgroup".into()))?;
        let done = freezer.set(frozen).context(|| format!("write {}", freezer.file().display()))?;
        if !done {
            freezer.set(false).context(|| format!("write {}", freezer.file().display()))?;
            return Err(Error::Option(format!("the processes of {} do not stop", freezer.file().display())));
        }
        Ok(())
    }

    /// Version 2 where it is mounted, without controllers too: unlike what version 1 has frozen, that can be killed.
    fn freezer(&self) -> Option<Freezer<'_>> {
        if let Some(unified) = &self.unified {
            return Some(Freezer::Unified(&unified.path));
        }
        let legacy = self.legacy.iter().find(|legacy| legacy.controller == Controller::Freezer);
        legacy.map(|legacy| Freezer::Legacy(&legacy.path))
    }

    /// A hierarchy to ask for processes: they are in all of them.
    fn one(&self) -> Option<&Path> {
        let legacy = self.legacy.first().map(|legacy| legacy.path.as_path());
        self.unified.as_ref().map(|unified| unified.path.as_path()).or(legacy)
    }
}

/// What stops processes.
#[derive(Debug, Clone, Copy)]
enum Freezer<'a> {
    Unified(&'a Path),
    Legacy(&'a Path),
}

impl Freezer<'_> {
    /// What it is told by.
    fn file(self) -> PathBuf {
        match self {
            Self::Unified(path) => path.join("cgroup.freeze"),
            Self::Legacy(path) => path.join("freezer.state"),
        }
    }

    /// A cgroup that is gone holds nobody.
    fn is_frozen(self) -> io::Result<bool> {
        let (file, frozen) = match self {
            Self::Unified(path) => (path.join("cgroup.events"), "frozen 1"),
            Self::Legacy(path) => (path.join("freezer.state"), "FROZEN"),
        };
        match fs::read_to_string(file) {
            Ok(text) => Ok(text.lines().any(|line| line == frozen)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes what is to be, and waits for it; false if it does not come about.
    fn set(self, frozen: bool) -> io::Result<bool> {
        let word = match (self, frozen) {
            (Self::Unified(_), true) => "1",
            (Self::Unified(_), false) => "0",
            (Self::Legacy(_), true) => "FROZEN",
            (Self::Legacy(_), false) => "THAWED",
        };
        fs::write(self.file(), word)?;
        let deadline = Instant::now() + FREEZE;
        while self.is_frozen()? != frozen {
            if Instant::now() > deadline {
                return Ok(false);
            }
            self.wait()?;
            if let Self::Legacy(_) = self {
                // Version 1 looks again for those it has missed when it is told again.
                fs::write(self.file(), word)?;
            }
        }
        Ok(true)
    }

    /// Waits a little: for a change of `cgroup.events` in version 2, for a moment in version 1, which tells nobody.
    fn wait(self) -> io::Result<()> {
        let Self::Unified(path) = self else {
            poll(&mut [], PollTimeout::from(1_u8))?;
            return Ok(());
        };
        let events = fs::File::open(path.join("cgroup.events"))?;
        // A change between the look and this is not seen, hence the time limit.
        poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLPRI)], PollTimeout::from(2_u8))?;
        Ok(())
    }
}

/// Collects the processes of the cgroup and of those below it. One that is gone has none.
fn collect(path: &Path, found: &mut Vec<i32>) -> io::Result<()> {
    match fs::read_to_string(path.join("cgroup.procs")) {
        Ok(text) => found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
        // Gone, or threaded: then its domain lists the processes.
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP)) => {}
        Err(error) => return Err(error),
    }
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), found)?;
        }
    }
    Ok(())
}
