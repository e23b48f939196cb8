//! The directories of one container's cgroups: made, found again and given up.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use skiff_sys::device_filter::{self, Filter};
use skiff_sys::directories::{Made, Nascent};

use super::devices::legacy_lines;
use super::make::{enable_controllers, inherit_cpuset, make_directory};
use super::remove::{empty_all, remove_all, remove_unused};
use super::systemd::{Connection, Unit};
use super::write::write_all;
use super::{Controller, Devices, Join, Mark, Owner, Paths, Plan, Usage, at};
use crate::Error;
use crate::error::Context;
use crate::plan::c_path;

/// The cgroups of one container. Removed, with all that is in them, when dropped, unless they are released.
#[derive(Debug, Default)]
pub struct Cgroup {
    pub(super) unified: Option<Unified>,
    pub(super) legacy: Vec<Legacy>,
    /// Directories that were there before.
    found: Vec<PathBuf>,
    /// The unit that they belong to, once it is there.
    pub(super) unit: Option<Unit>,
    /// To have the unit made.
    systemd: Option<Connection>,
    /// Whether an eBPF filter restricts devices.
    is_filtered: bool,
    is_released: bool,
    /// What the directories bear if they are this container's.
    pub(super) mark: Option<Mark>,
    /// Directories of version 1 that are being made meanwhile.
    nascent: Option<Nascent>,
}

#[derive(Debug)]
pub(super) struct Unified {
    pub(super) path: PathBuf,
    fd: OwnedFd,
    id: u64,
}

#[derive(Debug)]
pub(super) struct Legacy {
    pub(super) controller: Controller,
    pub(super) path: PathBuf,
    /// To join by; absent where nobody is to join.
    tasks: Option<OwnedFd>,
}

impl Cgroup {
    /// Makes the directories and writes the limits. Nothing is in them yet, so no task has to be stopped for it.
    ///
    /// A unit of systemd's cannot be without a process: it waits for [`Cgroup::order`], and the limits with it.
    ///
    /// Errors: a directory that is there already, unless the plan takes one that has no process in it.
    pub fn create(plan: &Plan) -> Result<Self, Error> {
        Self::create_with(plan, None)
    }

    /// The same, where the device filter of the plan has been loaded before.
    pub fn create_with(plan: &Plan, filter: Option<&Filter>) -> Result<Self, Error> {
        let mut cgroup = Self::default();
        cgroup.begin(plan, filter)?;
        cgroup.complete(plan)?;
        Ok(cgroup)
    }

    /// Makes the v2 directory alone, with its limits: a process can be born in it while [`Cgroup::complete`] makes the rest.
    pub fn begin(&mut self, plan: &Plan, filter: Option<&Filter>) -> Result<(), Error> {
        match (&plan.order, &plan.unified) {
            (Some(order), _) => self.systemd = Some(order.unit.connect()?),
            (None, Some(mount)) => {
                let made = self.make_unified(plan, mount, filter);
                plan.tolerate(made)?;
            }
            (None, None) => {}
        }
        // What bears no mark has never had a process in it.
        self.bear(plan.mark.as_ref())
    }

    /// Has the directories of version 1 made while the caller goes on, up to [`Cgroup::complete`]. If that comes to nothing,
    /// they are made there.
    pub fn begin_beside(&mut self, plan: &Plan) {
        let mut paths: Vec<PathBuf> = Vec::new();
        // The one that takes longest last: while it is made, no child can be born in another.
        let (memory, others): (Vec<_>, Vec<_>) =
            plan.joins.iter().partition(|join| join.controller == Controller::Memory);
        for path in others.into_iter().chain(memory).map(|join| join.mount.join(&plan.path)) {
            if !paths.iter().any(|known| is_same(known, &path)) {
                paths.push(path);
            }
        }
        let Some((from, _)) = paths.first().map(|path| at::at(path)) else { return };
        let both = |path: &PathBuf| {
            let path = at::at(path).1;
            Some((c_path(path).ok()?, c_path(&path.join("tasks")).ok()?))
        };
        let paths: Option<Vec<_>> = paths.iter().map(both).collect();
        self.nascent = paths.and_then(|paths| Nascent::begin(from, paths).ok());
    }

    /// Makes the directories of version 1, with their limits; no process is in them before.
    pub fn complete(&mut self, plan: &Plan) -> Result<(), Error> {
        let mut made = self.nascent.take().map(Nascent::finish).unwrap_or_default();
        let completed = plan.joins.iter().try_for_each(|join| {
            let done = self.make_legacy(plan, join, &mut made);
            plan.tolerate(done)
        });
        discard(made);
        completed?;
        // Where there is no v2 directory, the first of these bears the mark.
        if self.mark.is_none() { self.bear(plan.mark.as_ref()) } else { Ok(()) }
    }

    fn make_unified(&mut self, plan: &Plan, mount: &Path, filter: Option<&Filter>) -> Result<(), Error> {
        enable_controllers(mount, &plan.path, &plan.enable)?;
        let path = self.make_directory(mount, plan)?;
        let opened = Unified::open(path.clone());
        if opened.is_err() && !self.found.contains(&path) {
            // What cannot be opened is not kept, so it is removed here.
            drop(at::remove_directory(&path));
        }
        self.unified = Some(opened?);
        self.limit_unified(plan, filter)
    }

    fn make_directory(&mut self, mount: &Path, plan: &Plan) -> Result<PathBuf, Error> {
        let (path, is_new) = make_directory(mount, &plan.path, plan.reuse)?;
        if !is_new {
            self.found.push(path.clone());
        }
        Ok(path)
    }

    fn limit_unified(&mut self, plan: &Plan, filter: Option<&Filter>) -> Result<(), Error> {
        let Some(unified) = &self.unified else { return Ok(()) };
        write_all(&unified.path, &plan.writes)?;
        let Devices::Only(rules) = &plan.devices else { return Ok(()) };
        // Loading a program takes several times as long as version 1 does, which cannot say everything.
        if plan.has(Controller::Devices) && legacy_lines(rules).is_ok() {
            return Ok(());
        }
        let restricted = match filter {
            Some(filter) => filter.restrict(unified.fd.as_fd()),
            None => device_filter::restrict(unified.fd.as_fd(), rules),
        };
        match restricted {
            // Whoever may not load programs may have version 1 restrict devices.
            Err(error) if is_denied(&error) && plan.has(Controller::Devices) => Ok(()),
            other => {
                self.is_filtered = true;
                other.context(|| format!("restrict devices of cgroup {}", unified.path.display()))
            }
        }
    }

    /// Some of the directories have been `made` already.
    fn make_legacy(&mut self, plan: &Plan, join: &Join, made: &mut Vec<Made>) -> Result<(), Error> {
        let path = join.mount.join(&plan.path);
        let legacy = Legacy { controller: join.controller, path: path.clone(), tasks: None };
        let ready =
            made.iter().position(|made| made.directory.as_bytes() == at::at(&path).1.as_os_str().as_bytes());
        // Controllers that are mounted together share their directories.
        let mut is_new = false;
        if self.legacy.iter().any(|made| is_same(&made.path, &path)) {
            self.legacy.push(legacy);
        } else {
            let ready = ready.map(|index| made.swap_remove(index));
            if ready.is_none() {
                self.make_directory(&join.mount, plan)?;
            }
            is_new = !self.found.contains(&path);
            // Kept before it is opened, so that it is removed if it cannot be.
            self.legacy.push(legacy);
            let tasks = ready.and_then(|ready| ready.file).map_or_else(|| open_tasks(&path), Ok)?;
            self.legacy.last_mut().map(|made| made.tasks.insert(tasks));
        }
        if join.controller == Controller::Cpuset {
            inherit_cpuset(&join.mount, &plan.path, is_new)?;
        }
        if plan.order.is_some() { Ok(()) } else { self.limit_legacy(plan, join, &path) }
    }

    fn limit_legacy(&self, plan: &Plan, join: &Join, path: &Path) -> Result<(), Error> {
        write_all(path, &join.writes)?;
        if join.controller == Controller::Devices && !self.is_filtered {
            restrict_legacy(path, &plan.devices)?;
        }
        Ok(())
    }

    /// Moves process `pid` into every hierarchy.
    pub fn take(&self, pid: i32) -> Result<(), Error> {
        self.adopt(pid)?;
        for legacy in &self.legacy {
            let path = legacy.path.join("cgroup.procs");
            fs::write(&path, pid.to_string()).context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    }

    /// Moves `pid` into the v2 directory, where it could not be born there; what is denied to a user, systemd may do.
    pub fn adopt(&self, pid: i32) -> Result<(), Error> {
        let Some(unified) = &self.unified else { return Ok(()) };
        match (unified.take(pid), &self.unit) {
            (Err(Error::Host { source, .. }), Some(unit)) if unit.user && is_denied(&source) => {
                unit.attach(pid, &below(&unified.path, &unit.name))
            }
            (taken, _) => taken,
        }
    }

    /// Moves the calling process into the v2 directory, if it was not born there. Waits for an RCU grace period.
    pub fn enter_unified(&self) -> io::Result<()> {
        let Some(unified) = &self.unified else { return Ok(()) };
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
        if !own.is_empty() && unified.path.ends_with(own) {
            return Ok(());
        }
        fs::write(unified.path.join("cgroup.procs"), "0")
    }

    /// Whether the v2 directory hands controllers to some below it, so that no process can be in itself. cgroups(7).
    #[must_use]
    pub fn is_inner(&self) -> bool {
        let control = self.unified.as_ref().map(|unified| unified.path.join("cgroup.subtree_control"));
        let handed = control.and_then(|control| fs::read_to_string(control).ok());
        handed.is_some_and(|handed| !handed.trim().is_empty())
    }

    /// The v2 `directory`, which lies below that of this container, to be joined in its place.
    pub fn at(&self, directory: PathBuf) -> Result<Self, Error> {
        let mut cgroup = Self::default();
        cgroup.release();
        cgroup.unified = Some(Unified::open(directory)?);
        cgroup.unit.clone_from(&self.unit);
        Ok(cgroup)
    }

    /// Whether the user's systemd has them: it can move a process there that is born elsewhere.
    #[must_use]
    pub fn is_of_user(&self) -> bool {
        self.unit.as_ref().is_some_and(|unit| unit.user)
    }

    /// Has systemd make the unit that the plan orders, if it does, around process `pid`, which must not go on before; then
    /// writes the limits.
    pub fn order(&mut self, plan: &Plan, pid: i32) -> Result<(), Error> {
        let (Some(order), Some(mut systemd)) = (&plan.order, self.systemd.take()) else { return Ok(()) };
        order.carry_out(&mut systemd, pid, &mut self.unit)?;
        if let Some(mount) = &plan.unified {
            let unified = self.unified.insert(Unified::open(mount.join(&plan.path))?);
            if !order.takes_process() {
                unified.take(pid)?;
            }
        }
        self.bear(plan.mark.as_ref())?;
        self.limit_unified(plan, None)?;
        plan.joins.iter().try_for_each(|join| self.limit_legacy(plan, join, &join.mount.join(&plan.path)))
    }

    /// Finds the cgroups of a container again. They are kept when dropped, and may be gone.
    pub fn open(paths: &Paths) -> Result<Self, Error> {
        let unified = match paths.unified.as_ref().map(|path| Unified::open(path.clone())) {
            Some(Err(Error::Host { source, .. })) if source.kind() == io::ErrorKind::NotFound => None,
            other => other.transpose()?,
        };
        let legacy = paths.legacy.iter().map(|(controller, path)| Legacy {
            controller: *controller,
            path: path.clone(),
            tasks: None,
        });
        Ok(Self {
            unified,
            legacy: legacy.collect(),
            found: paths.found.clone(),
            unit: paths.unit.clone(),
            systemd: None,
            is_filtered: true,
            is_released: true,
            mark: paths.mark.clone(),
            nascent: None,
        })
    }

    /// As [`Cgroup::open`], to be joined by one more process of the container.
    ///
    /// Errors: a cgroup that is gone.
    pub fn open_to_join(paths: &Paths) -> Result<Self, Error> {
        let mut cgroup = Self::default();
        cgroup.release();
        cgroup.unified = paths.unified.as_ref().map(|path| Unified::open(path.clone())).transpose()?;
        cgroup.unit.clone_from(&paths.unit);
        for (controller, path) in &paths.legacy {
            if !cgroup.legacy.iter().any(|known| is_same(&known.path, path)) {
                let tasks = Some(open_tasks(path)?);
                cgroup.legacy.push(Legacy { controller: *controller, path: path.clone(), tasks });
            }
        }
        Ok(cgroup)
    }

    /// Those of the `planned` directories that it has: where cgroups are optional, some may not have been to be had.
    #[must_use]
    pub fn made(&self, planned: &Paths) -> Paths {
        let mut made = planned.clone();
        let unified = self.unified.as_ref().map(|unified| &unified.path);
        made.unified = made.unified.filter(|path| unified == Some(path));
        made.legacy.retain(|_, path| self.legacy.iter().any(|legacy| is_same(&legacy.path, path)));
        made.found.clone_from(&self.found);
        made
    }

    /// Lets the directories outlive this value.
    pub const fn release(&mut self) {
        self.is_released = true;
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
        self.legacy.iter().filter_map(|legacy| legacy.tasks.as_ref()).map(AsFd::as_fd)
    }

    /// The directory of `controller` in v1.
    pub(super) fn legacy_path(&self, controller: Controller) -> Option<&Path> {
        self.legacy.iter().find(|legacy| legacy.controller == controller).map(|legacy| legacy.path.as_path())
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

    /// Kills what is left and removes the directories, but for those that were there before. What another container has by
    /// now is let alone.
    pub fn remove(mut self) -> Result<(), Error> {
        self.clear()
    }

    fn clear(&mut self) -> Result<(), Error> {
        self.is_released = true;
        discard(self.nascent.take().map(Nascent::finish).unwrap_or_default());
        let owner = self.owner()?;
        let unit = self.unit.take();
        let of_systemd = match unit {
            // systemd would ask the processes first, and wait for them to end themselves.
            Some(unit) if owner == Owner::Container => self.kill(libc::SIGKILL).and_then(|()| unit.remove()),
            Some(unit) => unit.forget(),
            None => Ok(()),
        };
        let unified = self.unified.take().map(|unified| unified.path);
        // The one that bears the mark goes last.
        let legacy = self.legacy.drain(..).rev().map(|legacy| legacy.path);
        let paths: Vec<_> = legacy.chain(unified).collect();
        let (found, own): (Vec<_>, Vec<_>) = paths.into_iter().partition(|path| self.found.contains(path));
        let of_files = match owner {
            Owner::Container => remove_all(&own).and(empty_all(&found)),
            Owner::Nobody => remove_unused(&own),
            Owner::Another => Ok(()),
        };
        of_files.and(of_systemd)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if self.is_released {
            return;
        }
        if let Err(error) = self.clear() {
            tracing::warn!("{error}");
        }
    }
}

impl Plan {
    fn has(&self, controller: Controller) -> bool {
        self.joins.iter().any(|join| join.controller == controller)
    }

    /// Passes over what may not be made, where nothing was asked of it.
    pub(super) fn tolerate(&self, made: Result<(), Error>) -> Result<(), Error> {
        match made {
            Err(Error::Host { source, .. }) if self.optional && is_denied(&source) => Ok(()),
            other => other,
        }
    }
}

impl Unified {
    /// Owns nothing but a descriptor: the directory stays when this goes.
    fn open(path: PathBuf) -> Result<Self, Error> {
        let opened =
            at::open(&path, OFlag::O_RDONLY).and_then(|file| Ok((file.metadata()?.ino(), file.into())));
        let (id, fd) = opened.context(|| format!("open cgroup {}", path.display()))?;
        Ok(Self { path, fd, id })
    }

    fn take(&self, pid: i32) -> Result<(), Error> {
        let path = self.path.join("cgroup.procs");
        fs::write(&path, pid.to_string()).context(|| format!("write {}", path.display()))
    }
}

/// Removes directories that have been made and are not wanted.
fn discard(made: Vec<Made>) {
    for Made { directory, .. } in made {
        // Nobody has been told of it; what cannot be removed is in use by somebody else.
        at::remove_directory(&Path::new(at::ROOT).join(OsStr::from_bytes(directory.as_bytes()))).ok();
    }
}

fn open_tasks(directory: &Path) -> Result<OwnedFd, Error> {
    let path = directory.join("tasks");
    at::open(&path, OFlag::O_WRONLY).context(|| format!("open {}", path.display())).map(OwnedFd::from)
}

/// Whether two paths are spelt alike: those of a plan are, if they are the same, and it takes a fraction of the time that
/// comparing their components does.
fn is_same(a: &Path, b: &Path) -> bool {
    a.as_os_str() == b.as_os_str()
}

/// What of a directory lies below the unit `name`, as an absolute path, or nothing.
fn below(directory: &Path, name: &str) -> String {
    let inner = directory.iter().skip_while(|part| *part != name).skip(1);
    inner.map(|part| format!("/{}", part.to_string_lossy())).collect()
}

fn is_denied(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

fn restrict_legacy(path: &Path, devices: &Devices) -> Result<(), Error> {
    let Devices::Only(rules) = devices else { return Ok(()) };
    write_legacy(path, &legacy_lines(rules)?)
}

/// Writes lines to the files `devices.allow` (true) and `devices.deny`, each with a call of its own.
pub(super) fn write_legacy(path: &Path, lines: &[(bool, String)]) -> Result<(), Error> {
    let names = ["devices.deny", "devices.allow"].map(|name| path.join(name));
    let open =
        |path: &PathBuf| at::open(path, OFlag::O_WRONLY).context(|| format!("open {}", path.display()));
    let mut files = [open(&names[0])?, open(&names[1])?];
    for (allow, line) in lines {
        let at = usize::from(*allow);
        files[at]
            .write_all(line.as_bytes())
            .context(|| format!("write {line} to {}", names[at].display()))?;
    }
    Ok(())
}
