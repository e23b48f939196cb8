//! The container's file tree, as a bundle describes it: root, mounts, devices, and what is hidden.
//!
//! Pure: what lies at the sources of bind mounts, and whether the kernel lets something be mounted, is found out when the
//! plan is carried out.

mod options;

use std::path::{Path, PathBuf};

use skiff_sys::device_filter::Kind;
use skiff_sys::mount::{Attr, FsOption, Propagation};

pub use options::names as option_names;
use options::{Chosen, parse};

use super::namespaces::ranges;
use super::{c_text, invalid, spec};
use crate::Error;
use crate::cgroup::{self, Controller, Layout};
use crate::host::Node;
use crate::plan::{
    self, ChangeRoot, Hide, IdMap, MountFlags, Propagate, Step, Symlinks, Target, TargetKind, Upper, c_path,
    dev, relative,
};

/// What the file tree depends on beside the bundle's configuration.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ground<'a> {
    /// The bundle's absolute path.
    pub(super) bundle: &'a Path,
    /// Whether the container has, or enters, a user namespace other than the host's, or is launched by a user.
    pub(super) user_namespace: bool,
    /// Whether it has, or enters, a cgroup namespace.
    pub(super) cgroup_namespace: bool,
    /// Where the host has its cgroups.
    pub(super) layout: &'a Layout,
    /// Which of them the container is in.
    pub(super) cgroup: &'a cgroup::Plan,
    /// Whether the kernel shows its memory as `/proc/kcore`.
    pub(super) kcore: bool,
    /// Whether SELinux labels files here.
    pub(super) selinux: bool,
    /// Whether the root is to be moved rather than pivoted to.
    pub(super) no_pivot: bool,
}

/// Decides what the root is.
///
/// Errors: none is given, or its propagation is none that there is.
pub(super) fn root(spec: &spec::Spec, ground: &Ground<'_>) -> Result<plan::Root, Error> {
    let root = spec.root.as_ref().filter(|root| !root.path.is_empty());
    let root = root.ok_or_else(|| invalid("root.path", "missing"))?;
    Ok(plan::Root {
        layers: vec![ground.bundle.join(&root.path)],
        merged: None,
        upper: Upper::Direct,
        read_only: root.readonly,
        propagation: root_propagation(spec)?,
        change: if ground.no_pivot { ChangeRoot::Move } else { ChangeRoot::Pivot },
    })
}

/// Decides what is made and mounted, in order: mounts in that of the configuration, then what belongs into `/dev`, and
/// what becomes read-only once all that is there.
pub(super) fn steps(spec: &spec::Spec, ground: &Ground<'_>) -> Result<Vec<Step>, Error> {
    let linux = spec.linux.as_ref();
    let label = linux.map_or("", |linux| linux.mount_label.as_str());
    if !label.is_empty() && !ground.selinux {
        return Err(invalid("linux.mountLabel", "SELinux is not enabled here"));
    }
    // A mount that says nothing of its propagation has the root's, as far as that reaches out of the container.
    let inherited = match root_propagation(spec)? {
        Some(Propagate { to: to @ (Propagation::Shared | Propagation::Slave), .. }) => to,
        _ => Propagation::Private,
    };
    let mut planner = Planner { ground, label, inherited, steps: Vec::new(), last: Vec::new() };
    for (index, mount) in spec.mounts.iter().enumerate() {
        let place = || format!("mounts[{index}]: {}", mount.destination);
        planner.mount(mount).map_err(|error| error.about(&place()))?;
    }
    let binds_dev = |mount: &spec::Mount| {
        relative(Path::new(&mount.destination)).is_ok_and(|at| at == Path::new("dev"))
            && parse(&mount.options).is_ok_and(|chosen| chosen.bind.is_some())
    };
    // The host's, or another container's, is complete.
    if !spec.mounts.iter().any(binds_dev) {
        planner.dev(linux.map_or(&[], |linux| &linux.devices))?;
    }
    if spec.process.as_ref().is_some_and(|process| process.terminal) {
        planner.steps.push(Step::Directory(target(Path::new("/dev/console"), TargetKind::File)?));
    }
    if let Some(process) = &spec.process {
        let cwd = target(Path::new(&process.cwd), TargetKind::Directory)?;
        if cwd.path.as_c_str() != c"." {
            planner.steps.push(Step::WorkingDirectory(cwd));
        }
    }
    planner.steps.append(&mut planner.last);
    Ok(planner.steps)
}

/// Decides what is hidden.
pub(super) fn hide(spec: &spec::Spec) -> Result<Vec<Hide>, Error> {
    let Some(linux) = &spec.linux else { return Ok(Vec::new()) };
    let path = |path: &String, place: &str| {
        if !path.starts_with('/') {
            return Err(invalid(place, format!("{path:?} is not absolute")));
        }
        c_path(&relative(Path::new(path))?)
    };
    let masked = linux.masked_paths.iter().map(|masked| path(masked, "linux.maskedPaths").map(Hide::Mask));
    let kept = linux.readonly_paths.iter().map(|kept| path(kept, "linux.readonlyPaths").map(Hide::ReadOnly));
    masked.chain(kept).collect()
}

fn root_propagation(spec: &spec::Spec) -> Result<Option<Propagate>, Error> {
    let word = spec.linux.as_ref().map_or("", |linux| linux.rootfs_propagation.as_str());
    let (name, recursive) = match word.strip_prefix('r') {
        Some(name) => (name, true),
        None => (word, false),
    };
    let to = match name {
        "" if !recursive => return Ok(None),
        "private" => Propagation::Private,
        "slave" => Propagation::Slave,
        "shared" => Propagation::Shared,
        "unbindable" => Propagation::Unbindable,
        _ => return Err(invalid("linux.rootfsPropagation", format!("unknown {word:?}"))),
    };
    Ok(Some(Propagate { to, recursive }))
}

/// Collects the steps.
#[derive(Debug)]
struct Planner<'a> {
    ground: &'a Ground<'a>,
    label: &'a str,
    /// The propagation of bind mounts that name none.
    inherited: Propagation,
    steps: Vec<Step>,
    /// What is done when all else is in place.
    last: Vec<Step>,
}

impl Planner<'_> {
    fn mount(&mut self, mount: &spec::Mount) -> Result<(), Error> {
        let mut chosen = parse(&mount.options)?;
        let kind = mount.r#type.as_deref().unwrap_or_default();
        if kind == "bind" && chosen.bind.is_none() {
            chosen.bind = Some(false);
        }
        let at = relative(Path::new(&mount.destination))?;
        check_place(&at, kind, &chosen)?;
        if chosen.remount {
            return self.remount(mount, &at, chosen);
        }
        if let Some(recursive) = chosen.bind {
            return self.bind(mount, &at, chosen, recursive);
        }
        if chosen.id_map.is_some() || !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
            return Err(Error::Option("ids can be mapped for bind mounts only".into()));
        }
        if chosen.copy_up && kind != "tmpfs" {
            return Err(Error::Option("tmpcopyup is for tmpfs only".into()));
        }
        match kind {
            "" | "none" => Err(Error::Option("has no type and is no bind mount".into())),
            "cgroup" => self.cgroups(&at, chosen),
            "cgroup2" => self.unified(&at, chosen),
            _ => self.filesystem(kind, mount.source.as_deref(), &at, chosen),
        }
    }

    fn remount(&mut self, mount: &spec::Mount, at: &Path, chosen: Chosen) -> Result<(), Error> {
        if chosen.copy_up || self.id_map(mount, chosen.id_map)?.is_some() {
            return Err(Error::Option("remount cannot map ids or copy files".into()));
        }
        let mut options = chosen.of_filesystem;
        options.extend(chosen.data);
        if chosen.bind.is_some() && !options.is_empty() {
            return Err(Error::Option("has options that are the whole file system's".into()));
        }
        let target = target(at, TargetKind::AsSource)?;
        self.steps.push(Step::Remount { target, flags: chosen.flags, options });
        Ok(())
    }

    fn bind(&mut self, mount: &spec::Mount, at: &Path, chosen: Chosen, recursive: bool) -> Result<(), Error> {
        let source = mount.source.as_deref().filter(|source| !source.is_empty());
        let source = source.ok_or_else(|| Error::Option("bind mount without a source".into()))?;
        chosen.has_no_options()?;
        if chosen.copy_up {
            return Err(Error::Option("tmpcopyup is for tmpfs only".into()));
        }
        let mut flags = chosen.flags;
        if flags.propagation.is_empty() {
            flags.propagation.push(Propagate { to: self.inherited, recursive: true });
        }
        // In a user namespace they are the host's to keep.
        if !self.ground.user_namespace {
            flags.clear = flags.clear.with(replaced(&flags));
        }
        let late = self.late(at, "bind", &mut flags)?;
        self.steps.push(Step::Bind {
            source: self.ground.bundle.join(source),
            create: false,
            target: target(at, TargetKind::AsSource)?,
            flags,
            recursive,
            id_map: self.id_map(mount, chosen.id_map)?,
        });
        self.last.extend(late);
        Ok(())
    }

    /// The mapping of owners that a mount asks for; by the option alone it is the container's own.
    fn id_map(&self, mount: &spec::Mount, option: Option<bool>) -> Result<Option<IdMap>, Error> {
        let recursive = option == Some(true);
        match (mount.uid_mappings.is_empty(), mount.gid_mappings.is_empty()) {
            (true, true) if option.is_none() => Ok(None),
            (true, true) if self.ground.user_namespace => Ok(Some(IdMap::Container { recursive })),
            (true, true) => {
                Err(Error::Option("idmap: there is neither a mapping nor a user namespace".into()))
            }
            (false, false) => {
                let (uids, gids) = (
                    ranges(&mount.uid_mappings, "uidMappings")?,
                    ranges(&mount.gid_mappings, "gidMappings")?,
                );
                Ok(Some(IdMap::Own { uids, gids, recursive }))
            }
            _ => Err(Error::Option("uidMappings and gidMappings come together".into())),
        }
    }

    fn filesystem(
        &mut self,
        kind: &str,
        source: Option<&str>,
        at: &Path,
        chosen: Chosen,
    ) -> Result<(), Error> {
        let mut options = chosen.of_filesystem;
        options.extend(chosen.data);
        let source = source.filter(|source| !source.is_empty() && *source != kind);
        let mut flags = chosen.flags;
        // A device may be one that cannot be written to, and then the file system has to know from the start.
        if flags.set.has(Attr::RDONLY) && source.is_some_and(|source| source.starts_with('/')) {
            options.push(FsOption::Flag(c"ro".into()));
        }
        let is_labelled = !matches!(kind, "proc" | "sysfs" | "mqueue" | "cgroup" | "cgroup2");
        if is_labelled && !self.label.is_empty() {
            options.push(FsOption::Value(c"context".into(), c_text(self.label, "linux.mountLabel")?));
        }
        let late = self.late(at, kind, &mut flags)?;
        self.steps.push(Step::Filesystem {
            fstype: c_text(kind, "type")?,
            source: source.map(|source| c_text(source, "source")).transpose()?,
            options,
            flags,
            target: target(at, TargetKind::Directory)?,
            copy_up: chosen.copy_up,
        });
        self.last.extend(late);
        Ok(())
    }

    /// A tmpfs, and `/dev` whatever it is, become read-only last: other mounts and devices have to find a place in them.
    fn late(&self, at: &Path, kind: &str, flags: &mut MountFlags) -> Result<Option<Step>, Error> {
        let is_dev = at == Path::new("dev");
        if !flags.set.has(Attr::RDONLY) || !(is_dev || kind == "tmpfs") {
            return Ok(None);
        }
        flags.set = flags.set.without(Attr::RDONLY);
        target(at, TargetKind::Directory).map(Step::ReadOnlyMount).map(Some)
    }

    /// The container's cgroups, the way the host has them: version 2 alone, or a tmpfs with a mount for each hierarchy.
    fn cgroups(&mut self, at: &Path, chosen: Chosen) -> Result<(), Error> {
        let layout = self.ground.layout;
        if layout.legacy.is_empty() {
            return self.unified(at, chosen);
        }
        chosen.has_no_options()?;
        let mut flags = chosen.flags;
        let late = self.late(at, "tmpfs", &mut flags)?;
        self.steps.push(Step::Filesystem {
            fstype: c"tmpfs".into(),
            source: None,
            options: vec![FsOption::Value(c"mode".into(), c"755".into())],
            flags: flags.clone(),
            target: target(at, TargetKind::Directory)?,
            copy_up: false,
        });
        if late.is_some() {
            flags.set = flags.set.with(Attr::RDONLY);
        }
        for (mount, controllers) in layout.hierarchies() {
            let name = mount.file_name().unwrap_or_default();
            self.hierarchy(&at.join(name), c"cgroup", &controllers, mount, &flags)?;
            // Controllers that are mounted together are found by the name of each.
            let others = controllers.iter().filter(|controller| name != controller.name());
            let place = |controller: &Controller| c_path(&at.join(controller.name()));
            for path in others.map(place) {
                self.steps.push(Step::Symlink { content: c_path(Path::new(name))?, path: path? });
            }
        }
        if let Some(mount) = &layout.unified {
            self.hierarchy(&at.join("unified"), c"cgroup2", &[], mount, &flags)?;
        }
        self.last.extend(late);
        Ok(())
    }

    fn unified(&mut self, at: &Path, chosen: Chosen) -> Result<(), Error> {
        let mount = self.ground.layout.unified.as_deref().unwrap_or(Path::new("/sys/fs/cgroup"));
        chosen.has_no_options()?;
        // Only the owner of the cgroup namespace may mount cgroups.
        if self.ground.user_namespace && !self.ground.cgroup_namespace {
            return self.bind_cgroups(mount.to_path_buf(), at, &chosen.flags);
        }
        let step = Step::Filesystem {
            fstype: c"cgroup2".into(),
            source: Some(c"cgroup".into()),
            options: Vec::new(),
            flags: chosen.flags,
            target: target(at, TargetKind::Directory)?,
            copy_up: false,
        };
        self.steps.push(step);
        Ok(())
    }

    /// One hierarchy of several: of its own namespace, else the container's part of the host's.
    fn hierarchy(
        &mut self,
        at: &Path,
        fstype: &std::ffi::CStr,
        controllers: &[Controller],
        mount: &Path,
        flags: &MountFlags,
    ) -> Result<(), Error> {
        if !self.ground.cgroup_namespace {
            self.steps.push(Step::OwnCgroup {
                hierarchy: mount.to_path_buf(),
                path: self.ground.cgroup.path.clone(),
                target: target(at, TargetKind::Directory)?,
                flags: flags.clone(),
            });
            return Ok(());
        }
        let option = |controller: &Controller| match controller {
            // It controls nothing and is known by a name of its own.
            Controller::Systemd => Ok(FsOption::Value(c"name".into(), c"systemd".into())),
            other => c_text(other.name(), "type").map(FsOption::Flag),
        };
        self.steps.push(Step::Filesystem {
            fstype: fstype.into(),
            source: Some(c"cgroup".into()),
            options: controllers.iter().map(option).collect::<Result<_, _>>()?,
            flags: flags.clone(),
            target: target(at, TargetKind::Directory)?,
            copy_up: false,
        });
        Ok(())
    }

    fn bind_cgroups(&mut self, source: PathBuf, at: &Path, flags: &MountFlags) -> Result<(), Error> {
        let mut flags = flags.clone();
        if flags.propagation.is_empty() {
            flags.propagation.push(Propagate { to: Propagation::Private, recursive: true });
        }
        self.steps.push(Step::Bind {
            source,
            create: false,
            target: target(at, TargetKind::Directory)?,
            flags,
            recursive: true,
            id_map: None,
        });
        Ok(())
    }

    /// What every container finds in `/dev` (config-linux.md, "Default Devices"; runtime-linux.md, "Dev symbolic
    /// links"), and the devices asked for, which come before a default of their name.
    fn dev(&mut self, devices: &[spec::Device]) -> Result<(), Error> {
        let is_given = |path: &Path| devices.iter().any(|device| Path::new(&device.path) == path);
        let common = dev::nodes().filter(|node| !is_given(&node.target));
        self.steps.extend(common.map(Step::Node));
        for (index, given) in devices.iter().enumerate() {
            let place = || format!("linux.devices[{index}]: {}", given.path);
            let step = device(given).map_err(|error| error.about(&place()))?;
            // Engines list the host's for a privileged container. That of the container's own terminals is a link, as with runc and crun.
            if Path::new(&given.path) != Path::new("/dev/ptmx") {
                self.steps.push(step);
            }
        }
        self.steps.extend(dev::links(self.ground.kcore));
        Ok(())
    }
}

/// What a bind mount loses of its source's flags: as soon as one is set, those that are not, as by a remount (mount(2)).
fn replaced(flags: &MountFlags) -> Attr {
    if flags.set.is_empty() && !flags.clear.has(Attr::ATIME) {
        return Attr::NONE;
    }
    let all = Attr::RDONLY.with(Attr::NOSUID).with(Attr::NODEV).with(Attr::NOEXEC);
    all.without(flags.set).without(flags.set_below)
}

/// A node of `linux.devices`.
fn device(given: &spec::Device) -> Result<Step, Error> {
    let path = PathBuf::from(&given.path);
    if !path.is_absolute() {
        return Err(Error::Option("the path of a device must be absolute".into()));
    }
    check_outside_proc(&relative(&path)?)?;
    let (mode, uid, gid) =
        (given.file_mode.unwrap_or(0o666) & 0o7777, given.uid.unwrap_or(0), given.gid.unwrap_or(0));
    let kind = match given.r#type.as_str() {
        "c" | "u" => Kind::Char,
        "b" => Kind::Block,
        "p" => {
            let target = target(&path, TargetKind::File)?;
            return Ok(Step::Fifo { target, mode, uid, gid });
        }
        other => return Err(Error::Option(format!("unknown type of device {other:?}"))),
    };
    let number = |number: Option<i64>| {
        let number = number.ok_or_else(|| Error::Option("a device needs major and minor".into()))?;
        u32::try_from(number).map_err(|_| Error::Option(format!("invalid device number {number}")))
    };
    Ok(Step::Node(Node {
        mode,
        uid,
        gid,
        ..dev::node(path, kind, number(given.major)?, number(given.minor)?)
    }))
}

/// Files of procfs that stand-ins such as lxcfs replace.
const STAND_INS: [&str; 11] = [
    "cpuinfo",
    "diskstats",
    "loadavg",
    "meminfo",
    "net/dev",
    "slabinfo",
    "stat",
    "swaps",
    "sys/crypto/fips_enabled",
    "sys/kernel/ns_last_pid",
    "uptime",
];

/// Refuses what would decide what writes to procfs reach, and what hiding hides: mounts on `/proc` other than of procfs
/// itself (a bind mount is looked at when it is there), and in `/proc` other than files which have stand-ins.
fn check_place(at: &Path, kind: &str, chosen: &Chosen) -> Result<(), Error> {
    if at == Path::new(".") {
        return Err(Error::Option("cannot mount on the container's root".into()));
    }
    let is_proc = at == Path::new("proc") && (kind == "proc" || chosen.bind.is_some() || chosen.remount);
    let is_stand_in =
        at.strip_prefix("proc").is_ok_and(|file| STAND_INS.iter().any(|name| file == Path::new(name)));
    if is_proc || is_stand_in { Ok(()) } else { check_outside_proc(at) }
}

fn check_outside_proc(at: &Path) -> Result<(), Error> {
    match at.starts_with("proc") {
        true => Err(Error::Option("is inside /proc, where only procfs itself may be".into())),
        false => Ok(()),
    }
}

/// The mount point `path`. Symlinks are refused on the way to what lies below `/proc`, `/sys` and `/dev`, and followed
/// within the root elsewhere.
fn target(path: &Path, kind: TargetKind) -> Result<Target, Error> {
    let path = relative(path)?;
    let is_kernels = ["proc", "sys", "dev"].iter().any(|own| path.starts_with(own));
    let symlinks = if is_kernels { Symlinks::Refuse } else { Symlinks::InRoot };
    Ok(Target { path: c_path(&path)?, kind, symlinks })
}

#[cfg(test)]
mod tests;
