//! How cgroup directories are made, with what the levels above them need for it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Enable, Plan, at};
use crate::Error;
use crate::error::Context;

/// Makes the directory `path` below `mount`, and those above it. With `reuse` one that is there is taken, if no process
/// is in it or below it and it is not frozen. Returns it, and whether it is new.
pub(super) fn make_directory(mount: &Path, path: &Path, reuse: bool) -> Result<(PathBuf, bool), Error> {
    let full = mount.join(path);
    let made = match at::make_directory(&full) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            full.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| at::make_directory(&full))
        }
        other => other,
    };
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && reuse => {
            check_unused(&full)?;
            Ok((full, false))
        }
        other => other.context(|| format!("make cgroup {}", full.display())).map(|()| (full, true)),
    }
}

impl Plan {
    /// Those of its directories that are there already, which stay when the container goes.
    ///
    /// Errors: one in which there is a process.
    pub fn found(&self) -> Result<Vec<PathBuf>, Error> {
        let mut found = Vec::new();
        // Of a unit's directory systemd knows.
        let unified = self.unified.iter().filter(|_| self.order.is_none());
        for mount in unified.chain(self.joins.iter().map(|join| &join.mount)) {
            let path = mount.join(&self.path);
            if !found.contains(&path) && at::exists(&path) {
                self.tolerate(check_unused(&path))?;
                found.push(path);
            }
        }
        Ok(found)
    }
}

fn check_unused(path: &Path) -> Result<(), Error> {
    let count = processes(path).context(|| format!("read cgroup {}", path.display()))?;
    if count > 0 {
        return Err(Error::Option(format!(
            "cgroup {} is not empty: {count} process(es) found",
            path.display()
        )));
    }
    let says =
        |file: &str, text: &str| fs::read_to_string(path.join(file)).is_ok_and(|now| now.trim() == text);
    if says("cgroup.freeze", "1") || says("freezer.state", "FROZEN") {
        return Err(Error::Option(format!("cgroup {} is frozen", path.display())));
    }
    Ok(())
}

/// How many processes are in the cgroup and below it.
pub(super) fn processes(path: &Path) -> io::Result<usize> {
    let mut count = match fs::read_to_string(path.join("cgroup.procs")) {
        // A threaded cgroup, whose processes its domain lists.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => 0,
        other => other?.lines().count(),
    };
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            count += processes(&entry.path())?;
        }
    }
    Ok(count)
}

/// Switches controllers on, on every level from the v2 root `mount` to the parent of `path`, which are made where they
/// are missing.
pub(super) fn enable_controllers(mount: &Path, path: &Path, controllers: &Enable) -> Result<(), Error> {
    if *controllers == Enable::These(Vec::new()) {
        return Ok(());
    }
    let mut level = mount.to_path_buf();
    for component in path {
        enable(&level, controllers)?;
        level.push(component);
        if level != mount.join(path) && !level.is_dir() {
            fs::create_dir(&level)
                .or_else(is_there)
                .context(|| format!("make cgroup {}", level.display()))?;
        }
    }
    Ok(())
}

fn is_there(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) }
}

/// Switches controllers on for the children of `level`.
///
/// With [`Enable::All`], one that cannot be had is none of an error here: processes in `level` itself forbid it
/// (`EBUSY`), real-time tasks forbid `cpu` (`EINVAL`), and whoever has been handed `level` may lack the permission. A limit
/// that wants it will not find its file.
fn enable(level: &Path, controllers: &Enable) -> Result<(), Error> {
    let path = level.join("cgroup.subtree_control");
    let read = |path: &Path| fs::read_to_string(path).context(|| format!("read {}", path.display()));
    let now = read(&path)?;
    let available;
    let wanted: Vec<&str> = match controllers {
        Enable::These(names) => names.clone(),
        Enable::All => {
            available = read(&level.join("cgroup.controllers"))?;
            available.split_whitespace().collect()
        }
    };
    let missing = wanted.iter().filter(|wanted| !now.split_whitespace().any(|have| have == **wanted));
    let missing: Vec<String> = missing.map(|name| format!("+{name}")).collect();
    if missing.is_empty() {
        return Ok(());
    }
    match (fs::write(&path, missing.join(" ")), controllers) {
        (Ok(()), _) => Ok(()),
        (Err(error), Enable::All) => {
            // One by one, where not one of them makes the level a threaded one, which `EBUSY` stands for.
            let singly = if error.raw_os_error() == Some(libc::EBUSY) { &[] } else { missing.as_slice() };
            let refused = singly.iter().filter(|name| fs::write(&path, name).is_err());
            let refused: Vec<&str> = refused.map(String::as_str).collect();
            tracing::debug!("cannot enable {} in {}: {error}", refused.join(" "), level.display());
            Ok(())
        }
        (error, Enable::These(_)) => {
            error.context(|| format!("write {} to {}", missing.join(" "), path.display()))
        }
    }
}

/// A new v1 cpuset is empty and takes no process until it has CPUs and nodes: gives each level down to `path` those of
/// the one above, where it has none. If `path` `is_new`, it is known to have none.
pub(super) fn inherit_cpuset(mount: &Path, path: &Path, is_new: bool) -> Result<(), Error> {
    let mut level = mount.to_path_buf();
    let mut left = path.iter();
    while let Some(component) = left.next() {
        let above = level.clone();
        level.push(component);
        let is_empty = is_new && left.as_path().as_os_str().is_empty();
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let (from, to) = (above.join(file), level.join(file));
            if is_empty || read_file(&to)?.trim().is_empty() {
                write_file(&to, read_file(&from)?.trim())?;
            }
        }
    }
    Ok(())
}

fn read_file(path: &Path) -> Result<String, Error> {
    at::read(path).context(|| format!("read {}", path.display()))
}

fn write_file(path: &Path, text: &str) -> Result<(), Error> {
    at::write(path, text).context(|| format!("write {}", path.display()))
}
