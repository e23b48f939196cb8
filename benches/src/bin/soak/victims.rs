//! The processes of one skiff that are killed.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use skiff_sys::process;

use crate::Random;
use crate::launch::Skiff;

/// Somebody to be killed. Containers and clients are killed by the launch that they belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Victim {
    Spawner,
    Daemon,
    Both,
}

impl Victim {
    /// Whom the launch with these random numbers kills; each of them one launch in `every`.
    pub(crate) fn any(random: &mut Random, every: u64, spare_daemon: bool) -> Option<Self> {
        match (random.below(every), spare_daemon) {
            (0, _) => Some(Self::Spawner),
            (1, false) => Some(Self::Daemon),
            (2, false) => Some(Self::Both),
            _ => None,
        }
    }

    pub(crate) const fn describe(self) -> &'static str {
        match self {
            Self::Spawner => "spawner",
            Self::Daemon => "daemon",
            Self::Both => "daemon and spawner at once",
        }
    }
}

/// Finds and kills them.
#[derive(Debug)]
pub(crate) struct Victims {
    run: PathBuf,
}

impl Victims {
    pub(crate) fn new(skiff: &Skiff) -> Self {
        Self { run: skiff.run.clone() }
    }

    /// The daemon's process id.
    pub(crate) fn daemon(&self) -> Option<i32> {
        self.find(|words, environment| {
            words.iter().any(|word| word == "daemon")
                && !words.iter().any(|word| word == "--stop")
                && environment
                    .iter()
                    .any(|variable| *variable == format!("SKIFF_RUN_ROOT={}", self.run.display()))
        })
    }

    /// The spawner's process id.
    pub(crate) fn spawner(&self) -> Option<i32> {
        self.find(|words, _| {
            words.first().is_some_and(|name| name == "skiff-spawner")
                && words.iter().any(|word| Path::new(word) == self.run)
                && words.len() > 2
        })
    }

    fn find(&self, fits: impl Fn(&[String], &[String]) -> bool) -> Option<i32> {
        let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
        let mut pids: Vec<i32> = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        // Children of the spawner have its command line until they run a program; it is older than all of them.
        pids.sort_by_cached_key(|pid| started(*pid));
        let words = |pid: i32, file: &str| -> Vec<String> {
            let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
            words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
        };
        pids.into_iter().find(|pid| fits(&words(*pid, "cmdline"), &words(*pid, "environ")))
    }

    /// Kills; says whether there was anybody.
    pub(crate) fn kill(&self, victim: Victim) -> bool {
        let pids = match victim {
            Victim::Spawner => [self.spawner(), None],
            Victim::Daemon => [self.daemon(), None],
            Victim::Both => [self.daemon(), self.spawner()],
        };
        // Both get their signal before either is waited for.
        let killed: Vec<OwnedFd> = pids.into_iter().flatten().filter_map(strike).collect();
        for pidfd in &killed {
            // Until then its socket takes connections.
            while poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE).is_err() {}
        }
        !killed.is_empty()
    }

    /// Ends whatever of them is still there.
    pub(crate) fn kill_all(&self) {
        while self.kill(Victim::Both) {}
    }
}

/// Kills a process, which need not have ended by then; its pidfd. None if there is none.
fn strike(pid: i32) -> Option<OwnedFd> {
    let pidfd = process::open_pidfd(pid).ok()?;
    process::send_signal(pidfd.as_fd(), libc::SIGKILL).ok().map(|()| pidfd)
}

/// When a process was started, in ticks since boot; last of all if it is gone, or a zombie.
fn started(pid: i32) -> u64 {
    let stat = process::stat(pid);
    stat.map_or(u64::MAX, |stat| stat.start_time)
}
