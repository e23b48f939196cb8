//! What a skiff holds while nothing is launched, and what it leaves behind when it is gone.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::launch::Skiff;
use crate::victims::Victims;

/// The ids of all containers that there were, also of those that were made ahead: their directories tell.
#[derive(Debug)]
pub(crate) struct Ids(Arc<Mutex<HashSet<String>>>);

impl Ids {
    pub(crate) fn watch(state: &Path) -> Result<Self> {
        let containers = state.join("containers");
        fs::create_dir_all(&containers).context("make a directory for containers")?;
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC).context("inotify")?;
        inotify.add_watch(&containers, AddWatchFlags::IN_CREATE).context("watch the containers")?;
        let ids = Arc::new(Mutex::new(HashSet::new()));
        let known = Arc::clone(&ids);
        thread::spawn(move || {
            while let Ok(events) = inotify.read_events() {
                let names = events.into_iter().filter_map(|event| event.name?.into_string().ok());
                known.lock().unwrap_or_else(PoisonError::into_inner).extend(names);
            }
        });
        Ok(Self(ids))
    }

    pub(crate) fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn has(&self, id: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }
}

/// What there is while nothing is launched.
#[derive(Debug)]
pub(crate) struct Census {
    daemon: Held,
    spawner: Held,
    cgroups: usize,
    directories: usize,
    processes: usize,
}

/// What one process holds.
#[derive(Debug)]
struct Held {
    pid: i32,
    resident_kib: u64,
    descriptors: usize,
}

impl Census {
    pub(crate) const HEAD: [&'static str; 8] =
        ["daemon", "KiB", "fds", "spawner KiB", "fds", "cgroups", "directories", "containers' processes"];

    pub(crate) fn take(victims: &Victims, ids: &Ids, skiff: &Skiff) -> Result<Self> {
        let spawner = victims.spawner().context("there is no spawner")?;
        Ok(Self {
            daemon: Held::by(victims.daemon().context("there is no daemon")?)?,
            spawner: Held::by(spawner)?,
            cgroups: cgroups(ids).len(),
            directories: fs::read_dir(skiff.state.join("containers"))?.count(),
            processes: processes(&skiff.state).len().saturating_sub(2),
        })
    }

    /// Whether there is as much of everything: what is made ahead has a process, a directory and a cgroup each.
    pub(crate) fn is_settled(&self) -> bool {
        // In each v1 hierarchy there may be one, too.
        self.directories == self.processes && self.cgroups.is_multiple_of(self.directories.max(1))
    }

    pub(crate) fn cells(&self) -> Vec<String> {
        let numbers = [
            u64::from(self.daemon.pid.unsigned_abs()),
            self.daemon.resident_kib,
            self.daemon.descriptors as u64,
            self.spawner.resident_kib,
            self.spawner.descriptors as u64,
            self.cgroups as u64,
            self.directories as u64,
            self.processes as u64,
        ];
        numbers.map(|number| number.to_string()).into()
    }
}

impl fmt::Display for Census {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { daemon, spawner, cgroups, directories, processes } = self;
        write!(
            out,
            "daemon {} with {} KiB and {} fds, spawner {} with {} KiB and {} fds, {cgroups} cgroups, {directories} \
             directories, {processes} processes",
            daemon.pid,
            daemon.resident_kib,
            daemon.descriptors,
            spawner.pid,
            spawner.resident_kib,
            spawner.descriptors
        )
    }
}

impl Held {
    fn by(pid: i32) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).context("read a status")?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident_kib = resident.and_then(|line| line.split_whitespace().next()?.parse().ok());
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).context("list descriptors")?.count();
        Ok(Self { pid, resident_kib: resident_kib.unwrap_or(0), descriptors })
    }
}

/// All that a skiff has left behind that is gone, one line each.
pub(crate) fn all(skiff: &Skiff, ids: &Ids) -> Vec<String> {
    let mut found: Vec<String> =
        cgroups(ids).into_iter().map(|path| format!("cgroup {}", path.display())).collect();
    found.extend(processes(&skiff.state));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let state = skiff.state.display().to_string();
    found.extend(mounts.lines().filter(|line| line.contains(&state)).map(|line| format!("mount {line}")));
    for place in ["containers", "tmp"].map(|name| skiff.state.join(name)) {
        found.extend(files(&place));
    }
    let stays = |path: &Path| path.ends_with("start.lock");
    found.extend(entries(&skiff.run).into_iter().filter(|path| !stays(path)).flat_map(|path| {
        if path.is_dir() { files(&path) } else { vec![format!("file {}", path.display())] }
    }));
    found
}

/// Containers' directories that no process has mounted, with what is in them.
pub(crate) fn odd_directories(skiff: &Skiff) -> Vec<String> {
    let pids = entries(Path::new("/proc"));
    let tables: String =
        pids.iter().filter_map(|pid| fs::read_to_string(pid.join("mountinfo")).ok()).collect();
    let directories = entries(&skiff.state.join("containers")).into_iter();
    let odd = directories.filter(|path| {
        path.file_name().and_then(|name| name.to_str()).is_none_or(|name| !tables.contains(name))
    });
    odd.map(|path| {
        let names: Vec<String> = entries(&path).iter().map(|path| path.display().to_string()).collect();
        format!("{} with [{}]", path.display(), names.join(" "))
    })
    .collect()
}

fn files(place: &Path) -> Vec<String> {
    entries(place).into_iter().map(|path| format!("file {}", path.display())).collect()
}

fn entries(place: &Path) -> Vec<PathBuf> {
    fs::read_dir(place).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Control groups, in any hierarchy, of these containers.
fn cgroups(ids: &Ids) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut places = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(place) = places.pop() {
        for path in entries(&place).into_iter().filter(|path| path.is_dir() && !path.is_symlink()) {
            let name = path.file_name().and_then(|name| name.to_str()?.strip_prefix("skiff-"));
            if name.is_some_and(|id| ids.has(id)) {
                found.push(path.clone());
            }
            places.push(path);
        }
    }
    found
}

/// Processes but this one and zombies that have these directories in their environment, arguments or mounts.
fn processes(state: &Path) -> Vec<String> {
    let state = state.display().to_string();
    let own = std::process::id().to_string();
    let pids = entries(Path::new("/proc")).into_iter();
    let pids =
        pids.filter_map(|path| path.file_name()?.to_str()?.parse::<u32>().ok().map(|pid| pid.to_string()));
    let mentions = |pid: &str, file: &str| {
        let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).contains(&state)
    };
    let is_ours = |pid: &String| {
        *pid != own && ["cmdline", "environ", "mountinfo"].iter().any(|file| mentions(pid, file))
    };
    let describe = |pid: String| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        format!("process {pid} {}", String::from_utf8_lossy(&command).replace('\0', " "))
    };
    pids.filter(is_ours).map(describe).collect()
}
