//! One recording: until the program is ready, and what is kept of it.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use skiff_ebpf::{FileId, Progress, Recorder, Recording, Used};
use skiff_store::prefetch::{self, Accuracy, Origin, Profile, Profiles, Run, SCHEMA};
use skiff_sys::clock::monotonic_ns;
use skiff_sys::process::{Exit, exit_of, peek};

use super::{Subject, Waits};

/// What is used so long after the program listens belongs to its readiness: the first requests.
const AFTER_LISTENING: Duration = Duration::from_secs(1);
/// A program that does not listen is ready when it has used nothing new for so long.
const QUIET: Duration = Duration::from_secs(3);
/// A recording lasts no longer.
const LONGEST: Duration = Duration::from_secs(30);
/// Between two looks at a recording.
const LOOK_MS: u8 = 10;

/// A container that is being recorded.
#[derive(Debug)]
pub struct Watch {
    /// What is recorded.
    pub subject: Subject,
    /// In the kernel.
    pub recording: Recording,
    /// Since when, ns of CLOCK_MONOTONIC.
    pub armed_ns: u64,
    /// Of the container's first process.
    pub pidfd: OwnedFd,
    /// How long it waits for disks.
    pub waits: Waits,
}

impl Watch {
    /// Whether there is nothing more to be learnt.
    pub fn is_over(&self, recorder: &Recorder) -> bool {
        // Once it has ended, its cgroup may go.
        let _counted = self.waits.look(self.pidfd.as_fd());
        let mut ended = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        let has_ended = poll(&mut ended, PollTimeout::ZERO).is_ok_and(|count| count > 0);
        let progress = recorder.progress(&self.recording);
        has_ended || progress.map_or(true, |progress| is_over(&progress, self.armed_ns, monotonic_ns()))
    }

    /// Whether the container's first process has ended with an error; `None` where nobody can tell how it has ended, because it was
    /// reaped already, which Linux ≥ 6.15 remembers.
    pub fn has_failed(&self) -> Option<bool> {
        let exit = peek(self.pidfd.as_fd()).or_else(|_| exit_of(self.pidfd.as_fd()));
        Some(exit.ok()?.is_some_and(|exit| exit != Exit::Code(0)))
    }

    /// How long the container has waited for disks until now, µs, if that is known.
    pub fn waited_us(&self) -> Option<u64> {
        self.waits.look(self.pidfd.as_fd())
    }

    /// Stands by until there is nothing more to be learnt.
    pub fn wait(&self, recorder: &Recorder) {
        while !self.is_over(recorder) {
            let mut ended = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
            // Whatever it says, it is looked at again.
            let _ended = poll(&mut ended, PollTimeout::from(LOOK_MS));
        }
    }
}

/// Whether a recording that has come so far is over.
pub fn is_over(progress: &Progress, armed_ns: u64, now_ns: u64) -> bool {
    let since = |at_ns: u64| Duration::from_nanos(now_ns.saturating_sub(at_ns));
    if since(armed_ns) >= LONGEST {
        return true;
    }
    match (progress.exec_ns, progress.listen_ns) {
        (0, _) => false,
        (exec_ns, 0) => since(exec_ns.max(progress.last_ns)) >= QUIET,
        (_, listen_ns) => since(listen_ns) >= AFTER_LISTENING,
    }
}

/// Makes a profile of what was recorded, keeps it, and returns what that run has used by itself, and what is kept.
///
/// Errors: it cannot be written.
pub fn conclude(
    profiles: &Profiles,
    subject: &Subject,
    accuracy: skiff_ebpf::Accuracy,
    files: HashMap<FileId, Vec<Used>>,
    progress: &Progress,
    waited_us: Option<u64>,
    run: Run,
) -> Result<(Profile, Profile), skiff_store::Error> {
    let uses = files.into_iter().map(|(file, used)| {
        let origin = Origin { device: file.device, inode: file.inode };
        (origin, used.into_iter().map(|used| (used.page, used.pages, used.first_ns)).collect())
    });
    let found = prefetch::find(&subject.layers, uses.collect(), progress.exec_ns);
    let ready_ns = progress.listen_ns.checked_sub(progress.exec_ns);
    let fresh = Profile {
        schema: SCHEMA.into(),
        image: subject.key.image,
        class: subject.key.class.clone(),
        recorded_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_secs()),
        accuracy: match accuracy {
            skiff_ebpf::Accuracy::Used => Accuracy::Used,
            skiff_ebpf::Accuracy::Added => Accuracy::Added,
        },
        ready_ms: ready_ns.filter(|ns| *ns < u64::MAX / 2).map(|ns| ns / 1_000_000),
        waited_us,
        lost: progress.lost,
        outside: found.outside,
        runs: 1,
        replays: 0,
        checked: None,
        poor: 0,
        less: 0,
        files: found.files,
    }
    .bounded();
    let run = Run { has_failed: run.has_failed && fresh.ready_ms.is_none(), ..run };
    // One that cannot be read is none.
    let known = profiles.load(&subject.key).unwrap_or_default();
    let learnt = known.map_or_else(|| fresh.clone(), |known| known.learn(fresh.clone(), run));
    if !learnt.files.is_empty() {
        profiles.save(&learnt)?;
    }
    Ok((fresh, learnt))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn recordings_end_with_readiness_quiet_or_patience() {
        let check = |exec: u64, listen: u64, last: u64, now: u64, expected: bool| {
            let progress = Progress { exec_ns: exec, listen_ns: listen, last_ns: last, lost: 0 };
            assert_eq!(is_over(&progress, S, now), expected, "{progress:?} {now}");
        };
        check(0, 0, S, 20 * S, false);
        check(0, 0, S, 31 * S, true);
        check(2 * S, 0, 4 * S, 6 * S, false);
        check(2 * S, 0, 4 * S, 7 * S, true);
        check(2 * S, 3 * S, 3 * S, 3 * S, false);
        check(2 * S, 3 * S, 5 * S, 4 * S, true);
    }
}
