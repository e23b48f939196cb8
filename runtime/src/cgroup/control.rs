//! What is done to the processes of a container that runs: they are listed, stopped, resumed and killed together.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollTimeout, poll};
use skiff_sys::process;

use super::events::Events;
use super::{Cgroup, Controller};
use crate::Error;
use crate::error::{Context, plain};

/// How long the kernel may take to stop every process.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long until it is looked whether somebody has taken that back, which the kernel tells nobody.
const UNTIL_LOOK: Duration = Duration::from_millis(20);

impl Cgroup {
    /// The ids of all processes in the cgroup and below it, in order; none if it is gone.
    pub fn processes(&self) -> Result<Vec<i32>, Error> {
        let mut pids = BTreeSet::new();
        if let Some(path) = self.any() {
            collect(path, &mut pids).context(|| format!("read cgroup {}", path.display()))?;
        }
        Ok(pids.into_iter().collect())
    }

    /// The directory that knows every process: of v2, where the container was born, else of any v1 hierarchy.
    fn any(&self) -> Option<&Path> {
        let legacy = || self.legacy.first().map(|legacy| legacy.path.as_path());
        self.unified.as_ref().map(|unified| unified.path.as_path()).or_else(legacy)
    }

    /// Sends `signal` to every process in the cgroup and below it. Frozen ones are thawed to die.
    ///
    /// Each is held by a descriptor before it is looked up again, so that no id is signalled which another process has
    /// got meanwhile. What is forked while other signals than `SIGKILL` are sent does not get them.
    pub fn kill(&self, signal: i32) -> Result<(), Error> {
        if signal != libc::SIGKILL {
            return self.signal_each(signal, &mut BTreeSet::new());
        }
        let kill = self.unified.as_ref().map(|unified| unified.path.join("cgroup.kill"));
        // Linux ≥ 5.14.
        if !kill.is_some_and(|file| fs::OpenOptions::new().write(true).open(file).is_ok_and(write_one)) {
            let mut done = BTreeSet::new();
            loop {
                let before = done.len();
                self.signal_each(signal, &mut done)?;
                if done.len() == before {
                    break;
                }
            }
        }
        if self.frozen()? { self.freeze(false) } else { Ok(()) }
    }

    fn signal_each(&self, signal: i32, done: &mut BTreeSet<i32>) -> Result<(), Error> {
        let held = self.processes()?.into_iter().filter(|pid| !done.contains(pid));
        let held: Vec<(i32, OwnedFd)> =
            held.filter_map(|pid| Some((pid, process::open_pidfd(pid).ok()?))).collect();
        let still: BTreeSet<i32> = self.processes()?.into_iter().collect();
        for (pid, pidfd) in held.iter().filter(|(pid, _)| still.contains(pid)) {
            match process::send_signal(pidfd.as_fd(), signal) {
                Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                    return Err(error).context(|| format!("signal process {pid}"));
                }
                _ => done.insert(*pid),
            };
        }
        Ok(())
    }

    /// Whether the processes are stopped, or being stopped, by either version: others may have done it by the other one.
    pub fn frozen(&self) -> Result<bool, Error> {
        if let Some(unified) = &self.unified
            && read(&unified.path.join("cgroup.freeze"))?.is_some_and(|text| text.trim() == "1")
        {
            return Ok(true);
        }
        self.frozen_by_legacy()
    }

    fn frozen_by_legacy(&self) -> Result<bool, Error> {
        let state = self.freezer().map(|path| read(&path.join("freezer.state"))).transpose()?.flatten();
        Ok(state.is_some_and(|state| state.trim() != "THAWED"))
    }

    fn freezer(&self) -> Option<&Path> {
        self.legacy_path(Controller::Freezer)
    }

    /// Stops every process in the cgroup and below it and returns when they are stopped, or lets them go on.
    ///
    /// By `cgroup.freeze` (Linux ≥ 5.2), on hybrid hosts too, else by the v1 freezer; they go on by both. A stop that is not
    /// complete in time is taken back.
    ///
    /// Errors: `ECANCELED` if somebody else lets them go on before they are stopped.
    pub fn freeze(&self, freeze: bool) -> Result<(), Error> {
        if let Some(unified) = &self.unified
            && unified.path.join("cgroup.freeze").exists()
        {
            if !freeze
                && let Some(path) = self.freezer()
                && self.frozen_by_legacy()?
            {
                self.attempt(false, path, || freeze_legacy(path, false))?;
            }
            return self.attempt(freeze, &unified.path, || freeze_unified(&unified.path, freeze));
        }
        let path = self.freezer().ok_or_else(|| {
            Error::Option("cannot freeze: the container is in no cgroup that can be frozen".into())
        })?;
        self.attempt(freeze, path, || freeze_legacy(path, freeze))
    }

    /// As [`Cgroup::freeze`], but does not wait: whether it is so by now. To be asked again until it is, or taken back.
    pub fn ask_to_freeze(&self, freeze: bool) -> Result<bool, Error> {
        if let Some(unified) = &self.unified {
            let (file, events) = (unified.path.join("cgroup.freeze"), unified.path.join("cgroup.events"));
            if file.exists() {
                let what = || format!("freeze cgroup {}", unified.path.display());
                fs::write(file, if freeze { "1" } else { "0" }).context(what)?;
                let wanted = if freeze { "frozen 1" } else { "frozen 0" };
                return Ok(read(&events)?.is_none_or(|text| text.lines().any(|line| line == wanted)));
            }
        }
        let Some(path) = self.freezer() else { return self.freeze(freeze).map(|()| true) };
        let wanted = if freeze { "FROZEN" } else { "THAWED" };
        let file = path.join("freezer.state");
        fs::write(&file, wanted).context(|| format!("freeze cgroup {}", path.display()))?;
        Ok(read(&file)?.is_none_or(|text| text.trim() == wanted))
    }

    fn attempt(
        &self,
        freeze: bool,
        path: &Path,
        change: impl FnOnce() -> io::Result<()>,
    ) -> Result<(), Error> {
        let word = if freeze { "freeze" } else { "thaw" };
        let Err(error) = change() else { return Ok(()) };
        // What has gone meanwhile is not stopped any more.
        if !freeze && matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) {
            return Ok(());
        }
        if freeze && error.kind() == io::ErrorKind::TimedOut {
            self.freeze(false)?;
        }
        Err(Error::Host { what: format!("{word} cgroup {}", path.display()), source: plain(error) })
    }
}

fn write_one(mut file: fs::File) -> bool {
    io::Write::write_all(&mut file, b"1").is_ok()
}

/// The content of a file; `None` if there is none.
fn read(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        // The second: the directory is gone while the file is open.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Ok(None),
        other => other.map(Some).context(|| format!("read {}", path.display())),
    }
}

fn collect(path: &Path, pids: &mut BTreeSet<i32>) -> io::Result<()> {
    match fs::read_to_string(path.join("cgroup.procs")) {
        Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV) => return Ok(()),
            // A threaded cgroup, whose processes its domain lists.
            Some(libc::EOPNOTSUPP) => {}
            _ => return Err(error),
        },
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), pids)?;
        }
    }
    Ok(())
}

fn freeze_unified(path: &Path, freeze: bool) -> io::Result<()> {
    let mut events = Events::open(path)?;
    let file = path.join("cgroup.freeze");
    let (wish, wanted) = if freeze { ("1", "frozen 1") } else { ("0", "frozen 0") };
    fs::write(&file, wish)?;
    let deadline = Instant::now() + FREEZE_TIMEOUT;
    while !events.wait_for(wanted, UNTIL_LOOK)? {
        // Whoever kills or resumes the container does not wait for whoever stops it: it never comes to that then.
        if fs::read_to_string(&file)?.trim() != wish {
            return if freeze { Err(io::Error::from_raw_os_error(libc::ECANCELED)) } else { Ok(()) };
        }
        if Instant::now() > deadline {
            return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
        }
    }
    Ok(())
}

/// The v1 freezer may get stuck half-way when processes fork meanwhile: it is asked again until it is done.
fn freeze_legacy(path: &Path, freeze: bool) -> io::Result<()> {
    let wanted = if freeze { "FROZEN" } else { "THAWED" };
    let file = path.join("freezer.state");
    let deadline = Instant::now() + FREEZE_TIMEOUT;
    loop {
        fs::write(&file, wanted)?;
        if fs::read_to_string(&file)?.trim() == wanted {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
        }
        poll(&mut [], PollTimeout::from(1_u16))?;
    }
}
