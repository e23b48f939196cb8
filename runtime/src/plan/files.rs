//! The container's file tree: docker's default mounts, what was asked for, and what is hidden.

use std::path::{Path, PathBuf};

use skiff_sys::mount::{Attr, FsOption, Propagation};

use super::process::relative;
use super::{
    ChangeRoot, Hide, MountFlags, Propagate, Root, Step, Symlinks, Target, TargetKind, Upper, c_path, c_text,
    dev, hostname,
};
use crate::cgroup;
use crate::host::{Host, Node, Source};
use crate::options::{self, Mount, Namespace, Options, Rootfs};
use crate::{Error, host};

/// Hidden because they tell about the host or let it be disturbed; docker's list, without the leading slash.
pub const MASKED: [&str; 12] = [
    "proc/acpi",
    "proc/asound",
    "proc/interrupts",
    "proc/kcore",
    "proc/keys",
    "proc/latency_stats",
    "proc/sched_debug",
    "proc/scsi",
    "proc/timer_list",
    "proc/timer_stats",
    "sys/devices/virtual/powercap",
    "sys/firmware",
];

/// Not to be written to; docker's list, likewise.
pub const READ_ONLY: [&str; 5] = ["proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"];

/// Files that skiff puts into every container.
const FILES: [&str; 3] = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];

const SAFE: Attr = Attr::NOSUID.with(Attr::NODEV).with(Attr::NOEXEC);

/// Paths of the container that a plan for `options` mounts something on, apart from those in its own file systems.
pub(crate) fn targets(options: &Options) -> Vec<PathBuf> {
    let own = ["/proc", "/dev", "/sys"].into_iter().chain(FILES).map(PathBuf::from);
    let asked = options.mounts.iter().map(|mount| target_of(mount).to_path_buf());
    own.chain(asked).chain([options.cwd.clone()]).collect()
}

/// Decides what the root is made of.
pub(super) fn root(options: &Options, host: &Host) -> Root {
    let layers = match &options.rootfs {
        Rootfs::Host if host.uid != 0 => Vec::new(),
        Rootfs::Host => vec!["/".into()],
        Rootfs::Layers(layers) => layers.clone(),
    };
    let has_volume = options.mounts.iter().any(|mount| matches!(mount, Mount::Volume { .. }));
    let upper = if options.read_only && layers.len() == 1 && host.absent.is_empty() && !has_volume {
        match options.rootfs {
            // What skiff mounts on may be missing on the host: the probe looks into layers only.
            Rootfs::Host => Upper::Memory,
            Rootfs::Layers(_) => Upper::None,
        }
    } else if options.read_only || host.layers_hold_state || host.sub_ids.is_some() || layers.is_empty() {
        // Files of subordinate ids on disk are not their user's to remove; those in memory go by themselves.
        Upper::Memory
    } else if options.is_kept {
        Upper::Kept
    } else {
        Upper::Disk
    };
    let merged = options.merged.clone();
    Root { layers, merged, upper, read_only: options.read_only, propagation: None, change: ChangeRoot::Pivot }
}

/// Decides what is made and mounted, in order.
pub(super) fn steps(options: &Options, host: &Host, cgroup: &cgroup::Plan) -> Result<Vec<Step>, Error> {
    let mut steps = Vec::new();
    if options.rootfs == Rootfs::Host && host.uid != 0 {
        steps.extend(host_directories(host)?);
    }
    let own = own_mounts(options, host, cgroup)?;
    let is_replaced = |step: &Step| {
        let path = path_of(step);
        options.mounts.iter().any(|mount| relative(target_of(mount)).is_ok_and(|target| Some(target) == path))
    };
    let own_dev = !options.mounts.iter().any(|mount| target_of(mount) == Path::new("/dev"));
    steps.extend(own.into_iter().filter(|step| !is_replaced(step)));
    if own_dev {
        steps.extend(dev_entries(host));
    }
    let cwd = target(&options.cwd, TargetKind::Directory)?;
    steps.extend(asked_mounts(options, host)?);
    if cwd.path.as_c_str() != c"." {
        steps.push(Step::WorkingDirectory(cwd));
    }
    steps.push(Step::Files(files(options, host)?));
    Ok(steps)
}

/// Decides what is hidden.
pub(super) fn hide(options: &Options) -> Result<Vec<Hide>, Error> {
    if options.privileged || options.systempaths_unconfined {
        return Ok(Vec::new());
    }
    let masked = MASKED.iter().map(|path| c_text(path).map(Hide::Mask));
    let read_only = READ_ONLY.iter().map(|path| c_text(path).map(Hide::ReadOnly));
    masked.chain(read_only).collect()
}

/// Docker's own mounts, parents first.
fn own_mounts(options: &Options, host: &Host, cgroup: &cgroup::Plan) -> Result<Vec<Step>, Error> {
    let shared_host = |path: &str| bind_host(path, SAFE);
    let read_only = if options.privileged { Attr::NONE } else { Attr::RDONLY };
    let rootless = host.uid != 0;
    let mut steps = Vec::new();
    // A user namespace may mount /proc only for a PID namespace of its own, /sys only for a network namespace.
    steps.push(if rootless && options.pid == Namespace::Host {
        shared_host("/proc")?
    } else {
        filesystem(c"proc", &[], SAFE, "/proc")?
    });
    let dev = [("mode", "755"), ("size", "65536k")];
    steps.push(filesystem(c"tmpfs", &dev, Attr::NOSUID, "/dev")?);
    // Group tty (5) owns terminals; in a user namespace without that group, the user's own does.
    let terminals = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
    let terminals = if rootless && host.sub_ids.is_none() { &terminals[..3] } else { &terminals[..] };
    steps.push(filesystem(c"devpts", terminals, Attr::NOSUID.with(Attr::NOEXEC), "/dev/pts")?);
    steps.push(if rootless && options.network == Namespace::Host {
        shared_host("/sys")?
    } else {
        filesystem(c"sysfs", &[], SAFE.with(read_only), "/sys")?
    });
    // Cgroups may be mounted only by whoever owns the cgroup namespace.
    if !(rootless && options.cgroupns == Namespace::Host) {
        steps.extend(cgroup_mounts(cgroup, read_only)?);
    } else if cgroup.unified.is_some() {
        steps.push(bind_host("/sys/fs/cgroup", SAFE.with(read_only))?);
    }
    // An mqueue file system shows the IPC namespace of whoever mounts it. The host may not have mounted it at all.
    if !(rootless && options.ipc == Namespace::Host) {
        steps.push(filesystem(c"mqueue", &[], SAFE, "/dev/mqueue")?);
    } else if host.mqueue {
        steps.push(shared_host("/dev/mqueue")?);
    }
    let size = options.shm_size_bytes.to_string();
    steps.push(if options.ipc == Namespace::Host {
        shared_host("/dev/shm")?
    } else {
        filesystem(c"tmpfs", &[("mode", "1777"), ("size", &size)], SAFE, "/dev/shm")?
    });
    Ok(steps)
}

/// Version 2 is mounted on `/sys/fs/cgroup`. Where the container has joined hierarchies of version 1 too, a small tmpfs
/// there holds a mount for each.
fn cgroup_mounts(cgroup: &cgroup::Plan, read_only: Attr) -> Result<Vec<Step>, Error> {
    let attr = SAFE.with(read_only);
    let at = "/sys/fs/cgroup";
    if cgroup.joins.is_empty() {
        return cgroup.unified.iter().map(|_| filesystem(c"cgroup2", &[], attr, at)).collect();
    }
    let mut steps = vec![filesystem(c"tmpfs", &[("mode", "755")], SAFE, at)?];
    if cgroup.unified.is_some() {
        steps.push(filesystem(c"cgroup2", &[], attr, &format!("{at}/unified"))?);
    }
    for join in &cgroup.joins {
        let name = join.controller.name();
        steps.push(filesystem(c"cgroup", &[(name, "")], attr, &format!("{at}/{name}"))?);
    }
    if !read_only.is_empty() {
        steps.push(Step::ReadOnlyMount(target(Path::new(at), TargetKind::Directory)?));
    }
    Ok(steps)
}

/// Nodes and links of `/dev`.
fn dev_entries(host: &Host) -> Vec<Step> {
    let mut nodes: Vec<Node> = dev::nodes().collect();
    for node in &host.devices {
        nodes.retain(|known| known.target != node.target);
        nodes.push(node.clone());
    }
    nodes.into_iter().map(Step::Node).chain(dev::links(host.kcore)).collect()
}

/// What was asked for, parents before what lies in them, otherwise in the order given.
fn asked_mounts(options: &Options, host: &Host) -> Result<Vec<Step>, Error> {
    let mut asked: Vec<(&Mount, Option<Source>)> =
        options.mounts.iter().zip(host.sources.iter().copied()).collect();
    asked.sort_by_key(|(mount, _)| target_of(mount).components().count());
    let mut seen = std::collections::BTreeSet::new();
    let mut steps = Vec::new();
    for (mount, source) in asked {
        let at = relative(target_of(mount))?;
        if at == Path::new(".") {
            return Err(Error::Option("cannot mount on the container's root".into()));
        }
        // What lies there decides what later writes to procfs reach, and what hiding hides.
        if at.starts_with("proc") {
            return Err(Error::Option(format!("cannot mount on /{}: it is inside /proc", at.display())));
        }
        if !seen.insert(at.clone()) {
            return Err(Error::Option(format!("duplicate mount point: /{}", at.display())));
        }
        steps.push(asked_mount(mount, source)?);
    }
    Ok(steps)
}

fn asked_mount(mount: &Mount, source_kind: Option<Source>) -> Result<Step, Error> {
    match mount {
        Mount::Bind { source, target: at, read_only, recursive, propagation, create_source: _ } => {
            let kind = match source_kind {
                Some(Source::File) => TargetKind::File,
                _ => TargetKind::Directory,
            };
            Ok(Step::Bind {
                source: source.clone(),
                create: source_kind == Some(Source::Missing),
                target: target(at, kind)?,
                flags: bind_flags(*read_only, *recursive, *propagation),
                recursive: *recursive,
                id_map: None,
            })
        }
        Mount::Tmpfs { target: at, options } => tmpfs(at, options),
        Mount::Volume { target: at, read_only } => Ok(Step::Volume {
            target: target(at, TargetKind::Directory)?,
            attr: if *read_only { Attr::RDONLY } else { Attr::NONE },
        }),
    }
}

/// Neither way, however deep.
const PRIVATE: Propagate = Propagate { to: Propagation::Private, recursive: true };

/// Docker's read-only reaches what is mounted below a recursive bind.
fn bind_flags(read_only: bool, recursive: bool, propagation: options::Propagation) -> MountFlags {
    let attr = if read_only { Attr::RDONLY } else { Attr::NONE };
    let to = match propagation {
        options::Propagation::Private => Propagation::Private,
        options::Propagation::Slave => Propagation::Slave,
        options::Propagation::Shared => Propagation::Shared,
    };
    let propagation = vec![Propagate { to, recursive: true }];
    if recursive {
        MountFlags { set_below: attr, propagation, ..MountFlags::default() }
    } else {
        MountFlags { set: attr, propagation, ..MountFlags::default() }
    }
}

/// A tmpfs with the options of `--tmpfs`: flags change the mount's attributes, the rest is for the file system.
fn tmpfs(at: &Path, given: &[String]) -> Result<Step, Error> {
    let mut attr = SAFE;
    let mut options = Vec::new();
    for option in given {
        match option.as_str() {
            "ro" => attr = attr.with(Attr::RDONLY),
            "rw" => attr = attr.without(Attr::RDONLY),
            "nosuid" => attr = attr.with(Attr::NOSUID),
            "suid" => attr = attr.without(Attr::NOSUID),
            "nodev" => attr = attr.with(Attr::NODEV),
            "dev" => attr = attr.without(Attr::NODEV),
            "noexec" => attr = attr.with(Attr::NOEXEC),
            "exec" => attr = attr.without(Attr::NOEXEC),
            other => match other.split_once('=') {
                Some((key, value)) => options.push(FsOption::Value(c_text(key)?, c_text(value)?)),
                None => return Err(Error::Option(format!("invalid tmpfs option {other}"))),
            },
        }
    }
    Ok(Step::Filesystem {
        fstype: c"tmpfs".into(),
        options,
        flags: attr.into(),
        target: target(at, TargetKind::Directory)?,
        source: None,
        copy_up: false,
    })
}

pub(super) fn files(options: &Options, host: &Host) -> Result<Vec<(Target, Vec<u8>)>, Error> {
    let name = hostname(options, host);
    let hosts = host.hosts.clone().unwrap_or_else(|| hosts(&name));
    let contents = [format!("{name}\n"), hosts, host.resolv_conf.clone()];
    let is_replaced = |path: &str| options.mounts.iter().any(|mount| target_of(mount) == Path::new(path));
    // Without root the host's `/etc` is there as it is: what it lacks cannot be made.
    let is_missing = |path: &str| {
        options.rootfs == Rootfs::Host
            && host.uid != 0
            && host.absent.iter().any(|absent| absent == Path::new(path))
    };
    FILES
        .into_iter()
        .zip(contents)
        .filter(|(path, _)| !is_replaced(path) && !is_missing(path))
        .map(|(path, content)| {
            let target = Target { symlinks: Symlinks::InRoot, ..target(Path::new(path), TargetKind::File)? };
            Ok((target, content.into_bytes()))
        })
        .collect()
}

/// The host table of a container that has nothing but loopback.
fn hosts(name: &str) -> String {
    format!(
        "127.0.0.1\tlocalhost {name}\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
    )
}

/// The host's top-level directories, read-only, for a user who may not put an overlay on `/`.
fn host_directories(host: &Host) -> Result<Vec<Step>, Error> {
    let mut steps = Vec::new();
    for entry in &host.root_entries {
        steps.push(match entry {
            host::RootEntry::Directory(path) => bind_read_only(path)?,
            host::RootEntry::Symlink(path, content) => {
                Step::Symlink { content: c_path(content)?, path: c_path(&relative(path)?)? }
            }
        });
    }
    let scratch = ["rw".to_owned(), "exec".to_owned(), "mode=1777".to_owned()];
    steps.push(tmpfs(Path::new("/tmp"), &scratch)?);
    Ok(steps)
}

fn bind_read_only(path: &Path) -> Result<Step, Error> {
    Ok(Step::Bind {
        source: path.to_path_buf(),
        create: false,
        target: target(path, TargetKind::Directory)?,
        flags: bind_flags(true, true, options::Propagation::Private),
        recursive: true,
        id_map: None,
    })
}

fn bind_host(path: &str, attr: Attr) -> Result<Step, Error> {
    Ok(Step::Bind {
        source: path.into(),
        create: false,
        target: target(Path::new(path), TargetKind::Directory)?,
        flags: MountFlags { set_below: attr, propagation: vec![PRIVATE], ..MountFlags::default() },
        recursive: true,
        id_map: None,
    })
}

fn filesystem(
    fstype: &std::ffi::CStr,
    options: &[(&str, &str)],
    attr: Attr,
    path: &str,
) -> Result<Step, Error> {
    let option = |(key, value): &(&str, &str)| {
        Ok(if value.is_empty() {
            FsOption::Flag(c_text(key)?)
        } else {
            FsOption::Value(c_text(key)?, c_text(value)?)
        })
    };
    Ok(Step::Filesystem {
        fstype: fstype.into(),
        options: options.iter().map(option).collect::<Result<_, Error>>()?,
        flags: attr.into(),
        source: None,
        copy_up: false,
        target: target(Path::new(path), TargetKind::Directory)?,
    })
}

/// The mount point `path`. Symlinks are refused on the way to what skiff itself mounts below `/proc`, `/sys` and
/// `/dev`, and followed within the root elsewhere.
fn target(path: &Path, kind: TargetKind) -> Result<Target, Error> {
    let path = relative(path)?;
    let own = ["proc", "sys", "dev"].iter().any(|own| path.starts_with(own));
    let symlinks = if own { Symlinks::Refuse } else { Symlinks::InRoot };
    Ok(Target { path: c_path(&path)?, kind, symlinks })
}

fn target_of(mount: &Mount) -> &Path {
    match mount {
        Mount::Bind { target, .. } | Mount::Tmpfs { target, .. } | Mount::Volume { target, .. } => target,
    }
}

fn path_of(step: &Step) -> Option<PathBuf> {
    match step {
        Step::Filesystem { target, .. } | Step::Bind { target, .. } => {
            Some(PathBuf::from(target.path.to_str().ok()?))
        }
        _ => None,
    }
}

/// For tests.
#[cfg(test)]
pub(crate) fn shown(steps: &[Step]) -> Vec<String> {
    let text = |text: &std::ffi::CString| text.to_string_lossy().into_owned();
    steps
        .iter()
        .map(|step| match step {
            Step::Filesystem { fstype, target, .. } => format!("{} {}", text(fstype), text(&target.path)),
            Step::Bind { source, target, .. } => format!("bind {} {}", source.display(), text(&target.path)),
            Step::OwnCgroup { hierarchy, path, target, .. } => {
                format!("cgroup {} {}", hierarchy.join(path).display(), text(&target.path))
            }
            Step::Remount { target, .. } => format!("remount {}", text(&target.path)),
            Step::Directory(target) | Step::WorkingDirectory(target) => {
                format!("mkdir {}", text(&target.path))
            }
            Step::Volume { target, .. } => format!("volume {}", text(&target.path)),
            Step::Node(node) => format!("node {}", node.target.display()),
            Step::Fifo { target, .. } => format!("fifo {}", text(&target.path)),
            Step::Symlink { path, .. } => format!("link {}", text(path)),
            Step::Files(files) => format!("files {}", files.len()),
            Step::ReadOnlyMount(target) => format!("ro {}", text(&target.path)),
        })
        .collect()
}
