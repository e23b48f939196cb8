//! The plan of a launch: every step decided, in order, as plain data.
//!
//! Building it is pure: it reads [`Options`] and the facts in [`Host`], touches nothing, and can be tested without
//! privileges. `launch` carries it out and decides nothing. [`files`] plans the file tree, [`process`] what the program
//! is started with.

pub mod dev;
mod files;
mod process;

use std::ffi::CString;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use skiff_sys::device_filter::{Access, Kind, Rule};
use skiff_sys::mount::{Attr, FsOption, Propagation};
use skiff_sys::terminal::Size;

use crate::caps::CapSet;
use crate::cgroup::{self, Devices};
use crate::host::{Host, Node};
use crate::options::{Merged, Namespace, Options};
use crate::seccomp::{self, Filter, Profile};
use crate::{Error, options, rdt};

#[cfg(test)]
pub(crate) use files::shown;
pub use skiff_sys::schedule::Policy as Scheduler;

pub(crate) use files::targets;
pub use files::{MASKED, READ_ONLY};
pub use process::environment;
pub(crate) use process::{DEFAULT_PATH, directories, relative, search};

/// Everything that a launch does.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The container's id.
    pub id: String,
    /// The container's name.
    pub name: Option<String>,
    /// Where images and writable layers are kept.
    pub state_root: PathBuf,
    /// Where running containers are noted.
    pub run_root: PathBuf,
    /// What becomes of the container when its launcher ends.
    pub bond: Bond,
    /// Namespaces to be born in.
    pub namespaces: CloneFlags,
    /// Namespaces that are there already, to be entered: the user namespace first.
    pub joins: Vec<Join>,
    /// Whether to take a cgroup namespace, once in the cgroups that are to be its root.
    pub cgroup_namespace: bool,
    /// Whether to take a time namespace, and its clocks' offsets, as `/proc/self/timens_offsets` wants each line.
    /// time_namespaces(7).
    pub time_namespace: Option<Vec<CString>>,
    /// Id mappings of the user namespace, if it is new.
    pub users: Option<Users>,
    /// Cgroups.
    pub cgroup: cgroup::Plan,
    /// The root file system.
    pub root: Root,
    /// What is made and mounted in it, in order.
    pub steps: Vec<Step>,
    /// What is hidden of `/proc` and `/sys`.
    pub hide: Vec<Hide>,
    /// Host name, in a UTS namespace of its own.
    pub hostname: Option<CString>,
    /// NIS domain name.
    pub domainname: Option<CString>,
    /// Kernel parameters: path below `/proc/sys`, value.
    pub sysctls: Vec<(CString, CString)>,
    /// Whether the network namespace is new and wants its loopback device up.
    pub loopback: bool,
    /// Network devices of the host that move into the container's network namespace.
    pub net_devices: Vec<NetDevice>,
    /// Programs to run at points of the container's life.
    pub hooks: Hooks,
    /// A group with shares of caches and memory bandwidth.
    pub rdt: Option<rdt::Group>,
    /// What is run.
    pub process: Process,
}

/// What becomes of a container when the process that launched it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bond {
    /// It dies with its launcher, which has noted it below the run root.
    Launcher,
    /// It lives on; whoever launched it keeps account of it (`container`, or an engine).
    None,
}

/// A namespace to enter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    /// Its kind, one flag.
    pub kind: CloneFlags,
    /// Where it is found, as `/proc/PID/ns/net`; opened before anything changes.
    pub path: PathBuf,
}

/// Who the users of a new user namespace are outside. user_namespaces(7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Users {
    /// User ids.
    pub uids: Vec<IdRange>,
    /// Group ids.
    pub gids: Vec<IdRange>,
    /// Who writes the maps.
    pub writer: MapWriter,
}

/// Ids that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The first of them in the user namespace.
    pub inside: u32,
    /// The first of them outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// Who writes the maps of a user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapWriter {
    /// The launcher, which may map any ids.
    Privileged,
    /// The launcher, which may map its own id only and must forbid setgroups(2).
    OwnId,
    /// newuidmap(1) and newgidmap(1).
    Helpers,
}

/// A network device of the host that becomes the container's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetDevice {
    /// Its name on the host.
    pub host_name: String,
    /// Its name in the container.
    pub name: String,
}

/// Programs to run at points of a container's life, in order, each kind in the order given. OCI runtime spec,
/// config.md, "POSIX-platform Hooks".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hooks {
    /// In the launcher's namespaces, once the container's namespaces are there, before the pivot. Deprecated.
    pub prestart: Vec<Hook>,
    /// Likewise, after those.
    pub create_runtime: Vec<Hook>,
    /// In the container's namespaces, before the pivot, so found on the host.
    pub create_container: Vec<Hook>,
    /// In the container, right before its program.
    pub start_container: Vec<Hook>,
    /// In the launcher's namespaces, once the program runs.
    pub poststart: Vec<Hook>,
    /// In the launcher's namespaces, once the container is deleted.
    pub poststop: Vec<Hook>,
    /// What each is told of the container on its standard input, but for status and process id.
    pub subject: Subject,
}

/// One program to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// Absolute path.
    pub path: PathBuf,
    /// Its arguments, the first being its name; the path alone if empty.
    pub args: Vec<CString>,
    /// Its whole environment.
    pub env: Vec<CString>,
    /// How long it may take before it is killed.
    pub timeout: Option<std::time::Duration>,
}

/// The parts of a container's state (OCI runtime spec, runtime.md, "State") that do not change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    /// Of the configuration: `1.2.0`.
    pub oci_version: String,
    /// The container's id.
    pub id: String,
    /// Absolute path of the bundle.
    pub bundle: PathBuf,
    /// As configured, sorted by key.
    pub annotations: Vec<(String, String)>,
}

/// The root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Directories to stack, top first. None: the root is a tmpfs that the steps fill.
    pub layers: Vec<PathBuf>,
    /// The same in one, where the kernel can mount it; else the layers are taken.
    pub merged: Option<Merged>,
    /// What catches writes.
    pub upper: Upper,
    /// Read-only once everything is in place.
    pub read_only: bool,
    /// How mounts travel between the container and the host, once everything is in place; `None`: neither way.
    pub propagation: Option<Propagate>,
    /// How the root becomes `/`.
    pub change: ChangeRoot,
}

/// How the container's root becomes `/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeRoot {
    /// pivot_root(2), with the host's tree detached.
    Pivot,
    /// Moved over `/`, and chroot(2): for hosts whose root is a ramfs, which cannot be pivoted from (`--no-pivot`).
    Move,
}

/// The writable layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upper {
    /// None: the one layer itself is mounted, and read-only.
    None,
    /// None: the one layer itself is mounted, with what is mounted in it, and written to.
    Direct,
    /// A directory below the state root, which goes with the container and is not synced.
    Disk,
    /// The same of a container that stays when it has ended: what its programs sync is on the disk.
    Kept,
    /// A tmpfs that goes with the container.
    Memory,
}

impl Upper {
    /// Whether it is a directory below the state root.
    #[must_use]
    pub const fn is_on_disk(self) -> bool {
        matches!(self, Self::Disk | Self::Kept)
    }
}

/// A place in the container, with how to get there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Relative to the root.
    pub path: CString,
    /// What it is, and what is made if it is missing.
    pub kind: TargetKind,
    /// Whether a symlink on the way is followed (within the root) or refused. The container's own `/proc`, `/sys` and
    /// `/dev` must not be where an image's symlink leads (CVE-2026-41579).
    pub symlinks: Symlinks,
}

/// What a mount point is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetKind {
    /// A directory.
    Directory,
    /// Anything else.
    File,
    /// What the source of the mount is.
    AsSource,
}

/// How symlinks on the way to a target are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Symlinks {
    /// Followed, with the container's root as `/`.
    InRoot,
    /// `ELOOP`.
    Refuse,
}

/// One step in the container's file tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Mounts a new file system.
    Filesystem {
        /// Its type.
        fstype: CString,
        /// What mount tables show for its source, and for some types a device; the type when absent.
        source: Option<CString>,
        /// Its options.
        options: Vec<FsOption>,
        /// Flags of the mount.
        flags: MountFlags,
        /// Where.
        target: Target,
        /// Whether it starts with a copy of what lies at the target (`tmpcopyup`).
        copy_up: bool,
    },
    /// Mounts part of the host.
    Bind {
        /// Absolute path on the host, opened before anything changes.
        source: PathBuf,
        /// Whether a missing source is made, as a directory.
        create: bool,
        /// Where.
        target: Target,
        /// Flags of the mount.
        flags: MountFlags,
        /// With the mounts below it.
        recursive: bool,
        /// Whose files they are in the container, if not those of the same ids. mount_setattr(2) `MOUNT_ATTR_IDMAP`.
        id_map: Option<IdMap>,
    },
    /// Mounts a cgroup of the container's, which is not there before its launch has begun.
    OwnCgroup {
        /// Where the hierarchy is mounted on the host.
        hierarchy: PathBuf,
        /// The cgroup below that. If none could be made, the one that the container is in all the same is mounted.
        path: PathBuf,
        /// Where.
        target: Target,
        /// Flags of the mount.
        flags: MountFlags,
    },
    /// Changes flags of what is mounted already.
    Remount {
        /// Where.
        target: Target,
        /// What changes.
        flags: MountFlags,
        /// Options of the file system.
        options: Vec<FsOption>,
    },
    /// Makes a directory, or an empty file, if it is missing.
    Directory(Target),
    /// Makes the working directory if it is missing and can be made: to enter it will tell what is wrong with it.
    WorkingDirectory(Target),
    /// Mounts a directory of the container on itself, so that it stays writable below a read-only root.
    Volume {
        /// The directory.
        target: Target,
        /// Flags of the mount.
        attr: Attr,
    },
    /// Makes a device node; binds the host's where nodes cannot be made (in a user namespace).
    Node(Node),
    /// Makes a FIFO.
    Fifo {
        /// Where.
        target: Target,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// Makes a symlink in the container's `/dev`.
    Symlink {
        /// What it says.
        content: CString,
        /// Where, relative to the root; its directory must be there.
        path: CString,
    },
    /// Mounts small files with these contents, on a private tmpfs.
    Files(Vec<(Target, Vec<u8>)>),
    /// Makes a mount read-only.
    ReadOnlyMount(Target),
}

/// Flags that a mount gets and loses, and how mounts travel from and to it. mount_setattr(2).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountFlags {
    /// Set on the mount.
    pub set: Attr,
    /// Cleared on the mount, where its source has them.
    pub clear: Attr,
    /// Set on it and on all mounts below it.
    pub set_below: Attr,
    /// Cleared on it and on all mounts below it.
    pub clear_below: Attr,
    /// Changes of propagation, in order.
    pub propagation: Vec<Propagate>,
}

/// A change of propagation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Propagate {
    /// To what.
    pub to: Propagation,
    /// With the mounts below.
    pub recursive: bool,
}

/// A mapping of a mount's file owners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdMap {
    /// That of the container's user namespace.
    Container {
        /// For the mounts below it too.
        recursive: bool,
    },
    /// One of its own.
    Own {
        /// User ids: what is `inside`'s on the disk is `outside`'s in the mount.
        uids: Vec<IdRange>,
        /// Group ids, likewise.
        gids: Vec<IdRange>,
        /// For the mounts below it too.
        recursive: bool,
    },
}

impl From<Attr> for MountFlags {
    fn from(set: Attr) -> Self {
        Self { set, ..Self::default() }
    }
}

/// What is done to a path in the container, if it is there, once kernel parameters are set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hide {
    /// Nothing is seen there.
    Mask(CString),
    /// Nothing can be written there.
    ReadOnly(CString),
}

/// What is run, and as whom.
#[derive(Debug, Clone, Default)]
pub struct Process {
    /// Program and arguments.
    pub argv: Vec<CString>,
    /// Environment.
    pub env: Vec<CString>,
    /// Where the program is looked for if its name has no slash.
    pub path: Vec<CString>,
    /// Working directory, relative to the root.
    pub cwd: CString,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups; `None` in a user namespace that may not set any (its map has one group).
    pub groups: Option<Vec<u32>>,
    /// File mode creation mask; 022 when absent.
    pub umask: Option<u32>,
    /// Capabilities to keep.
    pub caps: CapSets,
    /// Capabilities of the kernel that are not in the bounding set.
    pub drop: Vec<u8>,
    /// Set `no_new_privs`.
    pub no_new_privileges: bool,
    /// Resource limits: resource, soft, hard.
    pub rlimits: Vec<(nix::sys::resource::Resource, u64, u64)>,
    /// OOM score adjustment, as it is written.
    pub oom_score_adj: Option<CString>,
    /// System call filter.
    pub seccomp: Option<Filter>,
    /// Where the descriptor goes by which another process answers system calls (`SCMP_ACT_NOTIFY`).
    pub listener: Option<Listener>,
    /// A terminal of the container's own, of this size if the caller has one.
    pub terminal: Option<Option<Size>>,
    /// Whether the caller's standard input is passed on.
    pub interactive: bool,
    /// Descriptors from 3 on that the caller has open, and that are the program's too. skiff's own close on exec.
    pub descriptors: Vec<RawFd>,
    /// Run as a child of a small init.
    pub init: bool,
    /// Whether the program keeps the caller's session keyring.
    pub keep_keyring: bool,
    /// AppArmor profile, taken on at the exec.
    pub apparmor: Option<CString>,
    /// SELinux label, taken on at the exec.
    pub selinux: Option<CString>,
    /// Scheduling policy and what belongs to it. sched_setattr(2).
    pub scheduler: Option<Scheduler>,
    /// I/O priority as ioprio_set(2) wants it: class << 13 | level.
    pub io_priority: Option<u16>,
    /// Execution domain. personality(2).
    pub personality: Option<u64>,
    /// CPUs to run on before the container's cgroups are entered, and from then on.
    pub cpu_affinity: [Option<Vec<usize>>; 2],
    /// Where memory comes from. set_mempolicy(2).
    pub memory_policy: Option<MemoryPolicy>,
    /// What was asked for and is left out because that is no error, to be told to the caller.
    pub warnings: Vec<String>,
}

/// The five capability sets. capabilities(7).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CapSets {
    /// What no program can gain beyond.
    pub bounding: CapSet,
    /// In force.
    pub effective: CapSet,
    /// May be put in force.
    pub permitted: CapSet,
    /// Kept by a program that has them in its file.
    pub inheritable: CapSet,
    /// Kept by a program that is not privileged.
    pub ambient: CapSet,
}

/// Where a listener's descriptor is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// A listening Unix stream socket on the host.
    pub socket: PathBuf,
    /// Handed on as it is.
    pub metadata: String,
}

/// What set_mempolicy(2) takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPolicy {
    /// `MPOL_*`, with its flags.
    pub mode: i32,
    /// Numbers of memory nodes.
    pub nodes: Vec<usize>,
}

impl Plan {
    /// Decides everything.
    ///
    /// Errors: options that contradict each other or that the host cannot honour, each one line.
    pub fn build(options: &Options, host: &Host) -> Result<Self, Error> {
        let rootless = host.uid != 0;
        check_cpus(options, host)?;
        let caps = capabilities(options, host)?;
        let cgroup = cgroup::Plan::build(
            cgroup_name(options),
            &host.cgroups,
            &options.resources,
            devices(options, host, rootless)?,
            options.account,
        )?;
        let is_new = |namespace: Namespace| namespace == Namespace::Private;
        Ok(Self {
            id: options.id.clone(),
            name: options.name.clone(),
            state_root: host.state_root.clone(),
            run_root: host.run_root.clone(),
            bond: Bond::Launcher,
            namespaces: namespaces(options, rootless),
            joins: Vec::new(),
            cgroup_namespace: is_new(options.cgroupns),
            time_namespace: None,
            users: rootless.then(|| users(host)),
            root: files::root(options, host),
            steps: files::steps(options, host, &cgroup)?,
            hide: files::hide(options)?,
            hostname: is_new(options.uts).then(|| c_text(&hostname(options, host))).transpose()?,
            domainname: options.domainname.as_deref().map(c_text).transpose()?,
            sysctls: sysctls(options, rootless)?,
            loopback: is_new(options.network),
            net_devices: Vec::new(),
            hooks: Hooks::default(),
            rdt: None,
            process: process::build(options, host, caps, filter(options, host, caps)?)?,
            cgroup,
        })
    }

    /// Makes this, built of these very options but for the id, the plan of the container that they name now.
    pub(crate) fn rename(&mut self, options: &Options, host: &Host) -> Result<(), Error> {
        self.id.clone_from(&options.id);
        self.cgroup.path = cgroup_name(options).into();
        let name = hostname(options, host);
        if self.hostname.is_some() {
            self.hostname = Some(c_text(&name)?);
        }
        for step in &mut self.steps {
            if let Step::Files(content) = step {
                *content = files::files(options, host)?;
            }
        }
        process::rename(&mut self.process, options, &name)
    }
}

fn cgroup_name(options: &Options) -> String {
    format!("skiff-{}", options.id)
}

fn check_cpus(options: &Options, host: &Host) -> Result<(), Error> {
    match options.resources.nano_cpus {
        Some(nano) if nano > host.cpus.saturating_mul(1_000_000_000) => {
            Err(Error::Option(format!("--cpus must be at most {}: this host has no more", host.cpus)))
        }
        _ => Ok(()),
    }
}

fn capabilities(options: &Options, host: &Host) -> Result<CapSet, Error> {
    let wanted = CapSet::resolve(&options.cap_add, &options.cap_drop, options.privileged, host.last_cap)
        .map_err(|error| Error::Option(error.to_string()))?;
    let named = |name: &str| CapSet::named(name).unwrap_or(CapSet::NONE);
    for name in &options.cap_add {
        if !host.caps.contains(named(name)) {
            return Err(Error::Option(format!(
                "cannot add capability {name}: skiff does not have it itself"
            )));
        }
    }
    Ok(CapSet(wanted.0 & host.caps.0))
}

fn filter(options: &Options, host: &Host, caps: CapSet) -> Result<Option<Filter>, Error> {
    let profile = match &options.seccomp {
        _ if options.privileged => return Ok(None),
        options::Seccomp::Unconfined => return Ok(None),
        options::Seccomp::Default => Profile::docker(),
        options::Seccomp::Profile(text) => {
            Profile::parse(text).map_err(|error| Error::Option(error.to_string()))?
        }
    };
    let filter = seccomp::compile(&profile, caps, host.kernel);
    filter.map(Some).map_err(|error| Error::Option(error.to_string()))
}

fn namespaces(options: &Options, rootless: bool) -> CloneFlags {
    let wanted = [
        (CloneFlags::CLONE_NEWPID, options.pid),
        (CloneFlags::CLONE_NEWIPC, options.ipc),
        (CloneFlags::CLONE_NEWUTS, options.uts),
        (CloneFlags::CLONE_NEWNET, options.network),
    ];
    let mut flags: CloneFlags =
        wanted.iter().filter(|(_, which)| *which == Namespace::Private).map(|(flag, _)| *flag).collect();
    flags |= CloneFlags::CLONE_NEWNS;
    if rootless {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    flags
}

/// The caller is root inside, and its subordinate ids follow if it has any.
fn users(host: &Host) -> Users {
    let range = |inside, outside, count| IdRange { inside, outside, count };
    let (mut uids, mut gids) = (vec![range(0, host.uid, 1)], vec![range(0, host.gid, 1)]);
    let Some(sub_ids) = host.sub_ids else { return Users { uids, gids, writer: MapWriter::OwnId } };
    uids.push(range(1, sub_ids.uids.0, sub_ids.uids.1));
    gids.push(range(1, sub_ids.gids.0, sub_ids.gids.1));
    Users { uids, gids, writer: MapWriter::Helpers }
}

fn hostname(options: &Options, host: &Host) -> String {
    match (&options.hostname, options.uts) {
        (_, Namespace::Host) => host.nodename.clone(),
        (Some(name), Namespace::Private) => name.clone(),
        (None, Namespace::Private) => options.id.chars().take(12).collect(),
    }
}

/// Docker's devices: every node may be made, few may be opened; those of `--device` besides.
fn devices(options: &Options, host: &Host, rootless: bool) -> Result<Devices, Error> {
    // In a user namespace no device node can be made, so there is nothing to restrict.
    if options.privileged || rootless {
        return Ok(Devices::All);
    }
    let rule = |kind, major, minor, access| Rule { allow: true, kind: Some(kind), major, minor, access };
    let mut rules = vec![
        rule(Kind::Char, None, None, Access::MKNOD),
        rule(Kind::Block, None, None, Access::MKNOD),
        rule(Kind::Char, Some(136), None, Access::ALL),
    ];
    // null, zero, full, random, urandom, tty, console, ptmx. Documentation/admin-guide/devices.txt.
    let common = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)];
    rules.extend(
        common.iter().map(|(major, minor)| rule(Kind::Char, Some(*major), Some(*minor), Access::ALL)),
    );
    for node in &host.devices {
        let access = Access::parse(&node.access)
            .ok_or_else(|| Error::Option(format!("invalid device access {:?}", node.access)))?;
        rules.push(rule(node.kind, Some(node.major), Some(node.minor), access));
    }
    Ok(Devices::Only(rules))
}

/// The parameters to set: docker's two for new network namespaces, then those asked for.
///
/// Errors: one that is not confined to a namespace that the container has of its own, or that would change the host.
fn sysctls(options: &Options, rootless: bool) -> Result<Vec<(CString, CString)>, Error> {
    let mut values: Vec<(String, String)> = Vec::new();
    if options.network == Namespace::Private {
        if !rootless {
            // In a user namespace the groups of the range would have to be mapped.
            values.push(("net.ipv4.ping_group_range".into(), "0 2147483647".into()));
        }
        values.push(("net.ipv4.ip_unprivileged_port_start".into(), "0".into()));
    }
    for (key, value) in &options.sysctls {
        check_sysctl(key, options)?;
        values.retain(|(known, _)| known != key);
        values.push((key.clone(), value.clone()));
    }
    values.iter().map(|(key, value)| Ok((c_text(&key.replace('.', "/"))?, c_text(value)?))).collect()
}

fn check_sysctl(key: &str, options: &Options) -> Result<(), Error> {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let (own, namespace) = if key.starts_with("net.") {
        (options.network, "network")
    } else if IPC.contains(&key) || key.starts_with("fs.mqueue.") {
        (options.ipc, "IPC")
    } else {
        return Err(Error::Option(format!("sysctl {key} is not in a namespace of the container")));
    };
    if key.contains('/') || key.split('.').any(|part| part.is_empty() || part == "..") {
        return Err(Error::Option(format!("invalid sysctl {key:?}")));
    }
    match own {
        Namespace::Private => Ok(()),
        Namespace::Host => {
            Err(Error::Option(format!("sysctl {key} is not allowed in the host's {namespace} namespace")))
        }
    }
}

pub(crate) fn c_path(path: &Path) -> Result<CString, Error> {
    c_bytes(path.as_os_str().as_bytes())
}

pub(crate) fn c_text(text: &str) -> Result<CString, Error> {
    c_bytes(text.as_bytes())
}

pub(crate) fn c_bytes(bytes: &[u8]) -> Result<CString, Error> {
    CString::new(bytes)
        .map_err(|_| Error::Option(format!("NUL byte in {:?}", String::from_utf8_lossy(bytes))))
}

#[cfg(test)]
mod tests;
