//! What cgroups tell those who wait: that one is empty or frozen, that memory ran out.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::usage::field;
use super::{Cgroup, Controller};
use crate::Error;
use crate::error::Context;

/// `cgroup.events` of a v2 cgroup: whether it is populated, whether it is frozen. cgroup-v2.rst in the kernel tree.
#[derive(Debug)]
pub(super) struct Events(File);

impl Events {
    /// Errors: `NotFound` in v1, which tells nobody.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        File::open(directory.join("cgroup.events")).map(Self)
    }

    /// Waits until `line` is in the file; whether it was in time.
    pub(super) fn wait_for(&mut self, line: &str, limit: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + limit;
        loop {
            let mut text = String::new();
            self.0.rewind()?;
            // To read is also to say that only later changes are waited for.
            self.0.read_to_string(&mut text)?;
            if text.lines().any(|found| found == line) {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLPRI)], left)?;
        }
    }
}

/// Tells when the OOM killer has been at work in a cgroup. Readable (poll(2)) when there may be news.
#[derive(Debug)]
pub struct OomEvents {
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// v1: the kernel adds 1 for each event, and for the removal of the cgroup. cgroup-v1/memory.rst, "OOM Control".
    Counter { counter: EventFd, directory: PathBuf },
    /// v2: `memory.events` has changed; `seen` is the number of kills that are known.
    File { inotify: Inotify, file: PathBuf, seen: u64 },
}

impl Cgroup {
    /// Listens for events from now on.
    ///
    /// Errors: no memory controller for this container.
    pub fn oom_events(&self) -> Result<OomEvents, Error> {
        let source = match (self.legacy_path(Controller::Memory), &self.unified) {
            (Some(path), _) => {
                let counter = counter(path).context(|| format!("listen at {}", path.display()))?;
                Source::Counter { counter, directory: path.to_path_buf() }
            }
            (None, Some(unified)) if unified.path.join("memory.events").exists() => {
                let file = unified.path.join("memory.events");
                let inotify = watch(&file).context(|| format!("listen at {}", file.display()))?;
                let seen = field(&file, "oom_kill").unwrap_or(0);
                Source::File { inotify, file, seen }
            }
            _ => return Err(Error::Option("the container is in no cgroup of controller memory".into())),
        };
        Ok(OomEvents { source })
    }
}

impl OomEvents {
    /// How many events there have been since the last call; does not wait.
    pub fn take(&mut self) -> io::Result<u64> {
        match &mut self.source {
            Source::Counter { counter, directory } => match counter.read() {
                Ok(count) => Ok(if directory.is_dir() { count } else { 0 }),
                Err(nix::Error::EAGAIN) => Ok(0),
                Err(error) => Err(error.into()),
            },
            Source::File { inotify, file, seen } => {
                match inotify.read_events() {
                    Ok(_) | Err(nix::Error::EAGAIN) => {}
                    Err(error) => return Err(error.into()),
                }
                let now = field(file, "oom_kill").unwrap_or(*seen);
                let count = now.saturating_sub(*seen);
                *seen = now;
                Ok(count)
            }
        }
    }
}

impl AsFd for OomEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.source {
            Source::Counter { counter, .. } => counter.as_fd(),
            Source::File { inotify, .. } => inotify.as_fd(),
        }
    }
}

fn counter(directory: &Path) -> io::Result<EventFd> {
    let counter = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    let control = File::open(directory.join("memory.oom_control"))?;
    let line = format!("{} {}", counter.as_fd().as_raw_fd(), control.as_raw_fd());
    let mut register = fs::OpenOptions::new().write(true).open(directory.join("cgroup.event_control"))?;
    register.write_all(line.as_bytes())?;
    Ok(counter)
}

fn watch(file: &Path) -> io::Result<Inotify> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    inotify.add_watch(file, AddWatchFlags::IN_MODIFY)?;
    Ok(inotify)
}
