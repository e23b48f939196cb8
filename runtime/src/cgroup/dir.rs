//! The directories of one container's cgroups: made, read and removed.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use skiff_sys::device_filter;

use super::{Controller, Devices, Join, Layout, Plan, Write};
use crate::Error;
use crate::error::Context;

/// The cgroups of one container. Removed, with all that is in them, when dropped.
#[derive(Debug, Default)]
pub struct Cgroup {
    unified: Option<Unified>,
    legacy: Vec<Legacy>,
}

#[derive(Debug)]
struct Unified {
    path: PathBuf,
    fd: OwnedFd,
    id: u64,
}

#[derive(Debug)]
struct Legacy {
    controller: Controller,
    path: PathBuf,
    tasks: OwnedFd,
}

/// What the cgroups of a container have counted; `None` where the host does not count it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time in user mode, µs.
    pub cpu_user_us: Option<u64>,
    /// CPU time in the kernel, µs.
    pub cpu_system_us: Option<u64>,
    /// Bandwidth periods that have passed while the container wanted CPU.
    pub periods: Option<u64>,
    /// Those in which it ran out of quota.
    pub throttled_periods: Option<u64>,
    /// How long it was held back, µs.
    pub throttled_us: Option<u64>,
    /// Most memory charged at one time, bytes, page cache and kernel memory included.
    pub memory_peak_bytes: Option<u64>,
    /// Processes that the OOM killer has ended.
    pub oom_kills: Option<u64>,
    /// Bytes read from block devices.
    pub block_read_bytes: Option<u64>,
    /// Bytes written to block devices.
    pub block_write_bytes: Option<u64>,
    /// Read requests.
    pub block_reads: Option<u64>,
    /// Write requests.
    pub block_writes: Option<u64>,
}

impl Cgroup {
    /// Makes the directories and writes the limits. Nothing is in them yet, so no task has to be stopped for it.
    pub fn create(plan: &Plan) -> Result<Self, Error> {
        let mut cgroup = Self::default();
        match cgroup.populate(plan) {
            Ok(()) => Ok(cgroup),
            Err(Error::Host { source, .. }) if plan.optional && is_denied(&source) => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    fn populate(&mut self, plan: &Plan) -> Result<(), Error> {
        if let Some(mount) = &plan.unified {
            enable(mount, &plan.enable)?;
            let unified = Unified::create(mount.join(&plan.name))?;
            let unified = self.unified.insert(unified);
            write_all(&unified.path, &plan.writes)?;
            if let Devices::Only(rules) = &plan.devices {
                device_filter::restrict(unified.fd.as_fd(), rules)
                    .context(|| format!("restrict devices of cgroup {}", unified.path.display()))?;
            }
        }
        for join in &plan.joins {
            self.legacy.push(Legacy::create(join, &plan.name)?);
            let path = &self.legacy[self.legacy.len() - 1].path;
            if join.controller == Controller::Cpuset {
                inherit_cpuset(path, &join.mount)?;
            }
            write_all(path, &join.writes)?;
            if join.controller == Controller::Devices {
                restrict_legacy(path, &plan.devices)?;
            }
        }
        Ok(())
    }

    /// The cgroup v2 directory, for `CLONE_INTO_CGROUP`.
    #[must_use]
    pub fn unified_fd(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(|unified| unified.fd.as_fd())
    }

    /// The cgroup v2 id: the inode number of its directory, which `bpf_get_current_cgroup_id` returns too.
    #[must_use]
    pub fn id(&self) -> Option<u64> {
        self.unified.as_ref().map(|unified| unified.id)
    }

    /// The open `tasks` of every v1 hierarchy, for the child to join by writing `0`.
    ///
    /// Not `cgroup.procs`: a thread that moves itself alone takes no lock, while moving a process stops every fork on the
    /// host and waits for an RCU grace period, milliseconds long (`cgroup_procs_write_start` in kernel/cgroup/cgroup.c).
    pub fn legacy_tasks(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.legacy.iter().map(|legacy| legacy.tasks.as_fd())
    }

    /// Moves `pid` into the v2 directory, where it could not be born there.
    pub fn adopt(&self, pid: i32) -> Result<(), Error> {
        let Some(unified) = &self.unified else { return Ok(()) };
        let path = unified.path.join("cgroup.procs");
        fs::write(&path, pid.to_string()).context(|| format!("write {}", path.display()))
    }

    /// Reads the final figures.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        if let Some(unified) = &self.unified {
            unified.usage(&mut usage);
        }
        for legacy in &self.legacy {
            legacy.usage(&mut usage);
        }
        usage
    }

    /// Kills what is left and removes the directories.
    pub fn remove(mut self) -> Result<(), Error> {
        self.clear()
    }

    fn clear(&mut self) -> Result<(), Error> {
        let unified = self.unified.take().map(|unified| unified.path);
        let paths = self.legacy.drain(..).map(|legacy| legacy.path).chain(unified);
        let mut result = Ok(());
        for path in paths {
            let removed = remove(&path).context(|| format!("remove cgroup {}", path.display()));
            result = result.and(removed);
        }
        result
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            tracing::warn!("{error}");
        }
    }
}

impl Unified {
    fn create(path: PathBuf) -> Result<Self, Error> {
        fs::create_dir(&path).context(|| format!("make cgroup {}", path.display()))?;
        let opened = open_directory(&path).and_then(|fd| {
            let id = nix::sys::stat::fstat(&fd)?.st_ino;
            Ok((fd, id))
        });
        match opened {
            Ok((fd, id)) => Ok(Self { path, fd, id }),
            Err(error) => {
                fs::remove_dir(&path).context(|| format!("remove cgroup {}", path.display()))?;
                Err(error).context(|| format!("open cgroup {}", path.display()))
            }
        }
    }

    fn usage(&self, usage: &mut Usage) {
        let field = |file: &str, key: &str| field(&self.path.join(file), key);
        usage.cpu_user_us = field("cpu.stat", "user_usec");
        usage.cpu_system_us = field("cpu.stat", "system_usec");
        usage.periods = field("cpu.stat", "nr_periods");
        usage.throttled_periods = field("cpu.stat", "nr_throttled");
        usage.throttled_us = field("cpu.stat", "throttled_usec");
        usage.memory_peak_bytes = number(&self.path.join("memory.peak"));
        usage.oom_kills = field("memory.events", "oom_kill");
        let Ok(text) = fs::read_to_string(self.path.join("io.stat")) else { return };
        let sum = |key: &str| {
            text.split_whitespace()
                .filter_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse::<u64>().ok())
                .sum()
        };
        usage.block_read_bytes = Some(sum("rbytes"));
        usage.block_write_bytes = Some(sum("wbytes"));
        usage.block_reads = Some(sum("rios"));
        usage.block_writes = Some(sum("wios"));
    }
}

impl Legacy {
    fn create(join: &Join, name: &str) -> Result<Self, Error> {
        let path = join.mount.join(name);
        fs::create_dir(&path).context(|| format!("make cgroup {}", path.display()))?;
        let tasks = skiff_sys::file::open(&crate::plan::c_path(&path.join("tasks"))?, OFlag::O_WRONLY, 0);
        match tasks {
            Ok(tasks) => Ok(Self { controller: join.controller, path, tasks }),
            Err(error) => {
                fs::remove_dir(&path).context(|| format!("remove cgroup {}", path.display()))?;
                Err(error).context(|| format!("open cgroup {}", path.display()))
            }
        }
    }

    fn usage(&self, usage: &mut Usage) {
        let at = |file: &str| self.path.join(file);
        match self.controller {
            Controller::Cpu => {
                usage.periods = field(&at("cpu.stat"), "nr_periods");
                usage.throttled_periods = field(&at("cpu.stat"), "nr_throttled");
                usage.throttled_us = field(&at("cpu.stat"), "throttled_time").map(|ns| ns / 1000);
            }
            Controller::Cpuacct => {
                usage.cpu_user_us = number(&at("cpuacct.usage_user")).map(|ns| ns / 1000);
                usage.cpu_system_us = number(&at("cpuacct.usage_sys")).map(|ns| ns / 1000);
            }
            Controller::Memory => {
                usage.memory_peak_bytes = number(&at("memory.max_usage_in_bytes"));
                usage.oom_kills = field(&at("memory.oom_control"), "oom_kill");
            }
            Controller::Blkio => {
                let bytes = at("blkio.throttle.io_service_bytes_recursive");
                let requests = at("blkio.throttle.io_serviced_recursive");
                usage.block_read_bytes = device_sum(&bytes, "Read");
                usage.block_write_bytes = device_sum(&bytes, "Write");
                usage.block_reads = device_sum(&requests, "Read");
                usage.block_writes = device_sum(&requests, "Write");
            }
            Controller::Cpuset | Controller::Pids | Controller::Devices => {}
        }
    }
}

fn is_denied(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

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

/// How long the processes of a killed cgroup may take to be gone.
const REMOVE_TIMEOUT_MS: u64 = 5_000;

/// Removes the directory; processes in it are killed first and waited for.
fn remove(path: &Path) -> io::Result<()> {
    let deadline = skiff_sys::clock::monotonic_ns() + REMOVE_TIMEOUT_MS * 1_000_000;
    loop {
        match fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                if skiff_sys::clock::monotonic_ns() > deadline {
                    return Err(error);
                }
                remove_children(path)?;
                kill(path)?;
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
fn kill(path: &Path) -> io::Result<()> {
    if fs::write(path.join("cgroup.kill"), "1").is_ok() {
        return Ok(());
    }
    for pid in fs::read_to_string(path.join("cgroup.procs"))?.lines().filter_map(|line| line.parse().ok()) {
        let pid = nix::unistd::Pid::from_raw(pid);
        match nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL) {
            Ok(()) | Err(nix::Error::ESRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Waits a little for the last process to go: for a change of `cgroup.events` in v2, for a moment in v1, which tells
/// nobody.
fn wait_until_empty(path: &Path) -> io::Result<()> {
    const WAIT_MS: u16 = 10;
    let Ok(events) = fs::File::open(path.join("cgroup.events")) else {
        poll(&mut [], PollTimeout::from(1_u16))?;
        return Ok(());
    };
    let mut waiting = [PollFd::new(events.as_fd(), PollFlags::POLLPRI)];
    poll(&mut waiting, PollTimeout::from(WAIT_MS))?;
    Ok(())
}

/// Switches `controllers` on for the children of the v2 root.
fn enable(mount: &Path, controllers: &[&str]) -> Result<(), Error> {
    if controllers.is_empty() {
        return Ok(());
    }
    let path = mount.join("cgroup.subtree_control");
    let now = fs::read_to_string(&path).context(|| format!("read {}", path.display()))?;
    let missing: Vec<String> = controllers
        .iter()
        .filter(|wanted| !now.split_whitespace().any(|have| have == **wanted))
        .map(|name| format!("+{name}"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    fs::write(&path, missing.join(" "))
        .context(|| format!("write {} to {}", missing.join(" "), path.display()))
}

fn write_all(directory: &Path, writes: &[Write]) -> Result<(), Error> {
    for line in writes {
        let file = line.files.iter().map(|name| directory.join(name)).find(|path| path.exists());
        match file {
            Some(path) => fs::write(&path, &line.value)
                .context(|| format!("write {} to {}", line.value, path.display()))?,
            None if line.required => {
                let message = format!("this kernel has no {}", line.files.join(" or "));
                return Err(Error::Option(message));
            }
            None => {}
        }
    }
    Ok(())
}

/// A new v1 cpuset is empty and takes no process until it has CPUs and nodes: give it those of the root.
fn inherit_cpuset(path: &Path, mount: &Path) -> Result<(), Error> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let from = mount.join(file);
        let value = fs::read_to_string(&from).context(|| format!("read {}", from.display()))?;
        let to = path.join(file);
        fs::write(&to, value.trim()).context(|| format!("write {}", to.display()))?;
    }
    Ok(())
}

fn restrict_legacy(path: &Path, devices: &Devices) -> Result<(), Error> {
    let Devices::Only(rules) = devices else { return Ok(()) };
    let deny = path.join("devices.deny");
    fs::write(&deny, "a").context(|| format!("write {}", deny.display()))?;
    let allow = path.join("devices.allow");
    for rule in rules {
        fs::write(&allow, rule.to_string()).context(|| format!("write {rule} to {}", allow.display()))?;
    }
    Ok(())
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let file = fs::File::open(path)?;
    debug_assert!(
        file.metadata().is_ok_and(|metadata| metadata.is_dir() && metadata.ino() > 0),
        "a cgroup is a directory"
    );
    Ok(file.into())
}

/// The number that is all of a file.
fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The number after `key` in a file of `key number` lines.
fn field(path: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok())
}

/// The sum over all devices of a v1 file of `major:minor Operation number` lines.
fn device_sum(path: &Path, operation: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let value = |line: &str| {
        let mut words = line.split(' ').skip(1);
        (words.next() == Some(operation)).then(|| words.next()?.parse::<u64>().ok())?
    };
    Some(text.lines().filter_map(value).sum())
}
