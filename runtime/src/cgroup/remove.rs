//! How cgroups go.

use std::fs;
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::poll::{PollTimeout, poll};
use skiff_sys::process;

use super::events::Events;
use super::make::processes;
use super::{Layout, at};
use crate::Error;
use crate::error::Context;

/// Removes the cgroups `name`, with all that is in them, wherever a run that was killed has left them.
pub fn remove_stale(layout: &Layout, name: &str) -> Result<(), Error> {
    let legacy = layout.legacy.iter().map(|(_, mount)| mount);
    for mount in legacy.chain(&layout.unified) {
        let path = mount.join(name);
        if path.exists() {
            remove(&path).context(|| format!("remove cgroup {}", path.display()))?;
        }
    }
    Ok(())
}

/// Removes the directories of one container, with all that is in them. Goes on where one cannot be removed; the first
/// error is returned.
pub(super) fn remove_all(paths: &[PathBuf]) -> Result<(), Error> {
    let busy: Vec<&PathBuf> = paths.iter().filter(|path| !is_gone(at::remove_directory(path))).collect();
    for path in &busy {
        // What is frozen does not die. Only one of the hierarchies has this file.
        thaw_legacy(path).context(|| format!("thaw cgroup {}", path.display()))?;
    }
    let mut result = Ok(());
    for path in busy {
        let removed = remove(path).context(|| format!("remove cgroup {}", path.display()));
        result = result.and(removed);
    }
    result
}

/// Removes those of the directories that no process is in or below.
pub(super) fn remove_unused(paths: &[PathBuf]) -> Result<(), Error> {
    let mut result = Ok(());
    for path in paths {
        let removed = match processes(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Ok(0) => remove(path),
            Ok(count) => {
                let path = path.display();
                tracing::warn!(
                    "cgroup {path} stays: not known to be the container's, it has {count} process(es)"
                );
                Ok(())
            }
            Err(error) => Err(error),
        };
        result = result.and(removed.context(|| format!("remove cgroup {}", path.display())));
    }
    result
}

/// Ends what runs in these directories and below them; the directories stay. Goes on as [`remove_all`] does.
pub(super) fn empty_all(paths: &[PathBuf]) -> Result<(), Error> {
    let mut result = Ok(());
    for path in paths {
        let emptied = thaw_legacy(path).and_then(|()| empty(path));
        result = result.and(emptied.context(|| format!("empty cgroup {}", path.display())));
    }
    result
}

fn empty(path: &Path) -> io::Result<()> {
    let deadline = skiff_sys::clock::monotonic_ns() + REMOVE_TIMEOUT_MS * 1_000_000;
    while path.exists() && processes(path)? > 0 {
        if skiff_sys::clock::monotonic_ns() > deadline {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        kill_below(path)?;
        wait_until_empty(path)?;
    }
    Ok(())
}

fn kill_below(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            kill_below(&entry.path())?;
        }
    }
    kill(path)
}

fn is_gone(removed: io::Result<()>) -> bool {
    removed.map_or_else(|error| error.kind() == io::ErrorKind::NotFound, |()| true)
}

/// Thaws a v1 freezer cgroup and those below it.
fn thaw_legacy(path: &Path) -> io::Result<()> {
    match fs::OpenOptions::new().write(true).open(path.join("freezer.state")) {
        Ok(mut file) => file.write_all(b"THAWED")?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            thaw_legacy(&entry.path())?;
        }
    }
    Ok(())
}

/// How long the processes of a killed cgroup may take to be gone.
const REMOVE_TIMEOUT_MS: u64 = 5_000;

/// Removes the directory; processes in it are killed first and waited for.
fn remove(path: &Path) -> io::Result<()> {
    let deadline = skiff_sys::clock::monotonic_ns() + REMOVE_TIMEOUT_MS * 1_000_000;
    loop {
        match at::remove_directory(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                if skiff_sys::clock::monotonic_ns() > deadline {
                    return Err(error);
                }
                kill(path)?;
                remove_children(path)?;
                wait_until_empty(path)?;
            }
            other => return other,
        }
    }
}

/// Removes the cgroups that the container has made below its own.
fn remove_children(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Kills every process in the cgroup: by `cgroup.kill` (Linux ≥ 5.14), otherwise each that `cgroup.procs` names.
///
/// Each of those is held by a descriptor before it is looked up again: its id may have become another's meanwhile.
fn kill(path: &Path) -> io::Result<()> {
    if fs::write(path.join("cgroup.kill"), "1").is_ok() {
        return Ok(());
    }
    let held = named(path)?.into_iter().filter_map(|pid| Some((pid, process::open_pidfd(pid).ok()?)));
    let held: Vec<_> = held.collect();
    let still = named(path)?;
    for (_, pidfd) in held.iter().filter(|(pid, _)| still.contains(pid)) {
        match process::send_signal(pidfd.as_fd(), libc::SIGKILL) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The processes in the cgroup; none in a threaded one, whose threads are of processes that its parent names.
fn named(path: &Path) -> io::Result<Vec<i32>> {
    match fs::read_to_string(path.join("cgroup.procs")) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(Vec::new()),
        // One of a PID namespace that is not seen from here is named 0.
        other => Ok(other?.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect()),
    }
}

/// Waits a little for the last process to go: for a change of `cgroup.events` in v2, for a moment in v1, which tells
/// nobody.
fn wait_until_empty(path: &Path) -> io::Result<()> {
    const WAIT: Duration = Duration::from_millis(10);
    match Events::open(path) {
        Ok(mut events) => events.wait_for("populated 0", WAIT).map(drop),
        Err(_) => {
            poll(&mut [], PollTimeout::from(1_u16))?;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn an_id_that_has_become_anothers_is_not_killed() {
        let directory = std::env::temp_dir().join(format!("skiff-kill-{}", std::process::id()));
        let mut other = Command::new("sleep").arg("1000").spawn().expect("start sleep");
        // Here nothing can be written, as in version 1.
        fs::create_dir_all(directory.join("cgroup.kill")).expect("a directory");
        let procs = directory.join("cgroup.procs");
        nix::unistd::mkfifo(&procs, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
        let killed = std::thread::scope(|scope| {
            let killing = scope.spawn(|| kill(&directory));
            // It is told of the process once, and later of none.
            fs::write(&procs, format!("{}\n", other.id())).expect("write");
            while !killing.is_finished() {
                let again = nix::fcntl::OFlag::O_WRONLY | nix::fcntl::OFlag::O_NONBLOCK;
                drop(nix::fcntl::open(&procs, again, nix::sys::stat::Mode::empty()));
                std::thread::yield_now();
            }
            killing.join().expect("join")
        });
        let lives = other.try_wait().expect("a child").is_none();
        other.kill().and_then(|()| other.wait()).expect("end sleep");
        fs::remove_dir_all(&directory).expect("clean up");
        killed.expect("nothing fails");
        assert!(lives);
    }
}
