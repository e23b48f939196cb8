//! The plan of a launch: every step decided, in order, as plain data.
//!
//! Building it is pure: it reads [`Options`] and the facts in [`Host`], touches nothing, and can be tested without
//! privileges. `launch` carries it out and decides nothing. [`files`] plans the file tree, [`process`] what the program
//! is started with.

mod files;
mod process;

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use skiff_sys::device_filter::{Access, Kind, Rule};
use skiff_sys::mount::{Attr, FsOption, Propagation};
use skiff_sys::terminal::Size;

use crate::caps::CapSet;
use crate::cgroup::{self, Devices};
use crate::host::{Host, Node, SubIds};
use crate::options::{Namespace, Options};
use crate::seccomp::{self, Filter, Profile};
use crate::{Error, options};

pub(crate) use files::targets;
pub(crate) use process::relative;

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
    /// Namespaces to be born in.
    pub namespaces: CloneFlags,
    /// Whether to take a cgroup namespace, once in the cgroups that are to be its root.
    pub cgroup_namespace: bool,
    /// Id mappings, if the caller is not root.
    pub users: Option<IdMaps>,
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
    /// What is run.
    pub process: Process,
}

/// Who the users of a new user namespace are outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdMaps {
    /// The caller: root inside.
    pub uid: u32,
    /// The caller's group.
    pub gid: u32,
    /// Ids from 1 on inside, if the caller has any.
    pub sub_ids: Option<SubIds>,
}

/// The root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Directories to stack, top first. None: the root is a tmpfs that the steps fill.
    pub layers: Vec<PathBuf>,
    /// What catches writes.
    pub upper: Upper,
    /// Read-only once everything is in place.
    pub read_only: bool,
}

/// The writable layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upper {
    /// None: the one layer itself is mounted, and read-only.
    None,
    /// A directory below the state root.
    Disk,
    /// A tmpfs that goes with the container.
    Memory,
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
        /// Its options.
        options: Vec<FsOption>,
        /// Flags of the mount.
        attr: Attr,
        /// Where.
        target: Target,
    },
    /// Mounts part of the host.
    Bind {
        /// Absolute path on the host, opened before anything changes.
        source: PathBuf,
        /// Whether a missing source is made, as a directory.
        create: bool,
        /// Where.
        target: Target,
        /// Flags added to the mount, and to those below it if recursive.
        attr: Attr,
        /// With the mounts below it.
        recursive: bool,
        /// How mounts travel.
        propagation: Propagation,
    },
    /// Makes a directory if it is missing.
    Directory(Target),
    /// Mounts a directory of the container on itself, so that it stays writable below a read-only root.
    Volume {
        /// The directory.
        target: Target,
        /// Flags of the mount.
        attr: Attr,
    },
    /// Makes a device node; binds the host's where nodes cannot be made (in a user namespace).
    Node(Node),
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

/// What is done to a path of the container's own `/proc` or `/sys`, if it is there, once kernel parameters are set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hide {
    /// Nothing is seen there.
    Mask(CString),
    /// Nothing can be written there.
    ReadOnly(CString),
}

/// What is run, and as whom.
#[derive(Debug, Clone)]
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
    /// Capabilities to keep.
    pub caps: CapSet,
    /// Capabilities of the kernel that are not kept.
    pub drop: Vec<u8>,
    /// Set `no_new_privs`.
    pub no_new_privileges: bool,
    /// Resource limits: resource, soft, hard.
    pub rlimits: Vec<(nix::sys::resource::Resource, u64, u64)>,
    /// OOM score adjustment, as it is written.
    pub oom_score_adj: Option<CString>,
    /// System call filter.
    pub seccomp: Option<Filter>,
    /// A terminal of the container's own, of this size if the caller has one.
    pub terminal: Option<Option<Size>>,
    /// Whether the caller's standard input is passed on.
    pub interactive: bool,
    /// Run as a child of a small init.
    pub init: bool,
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
            format!("skiff-{}", options.id),
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
            namespaces: namespaces(options, rootless),
            cgroup_namespace: is_new(options.cgroupns),
            users: rootless.then_some(IdMaps { uid: host.uid, gid: host.gid, sub_ids: host.sub_ids }),
            root: files::root(options, host),
            steps: files::steps(options, host, &cgroup)?,
            hide: files::hide(options)?,
            hostname: is_new(options.uts).then(|| c_text(&hostname(options, host))).transpose()?,
            domainname: options.domainname.as_deref().map(c_text).transpose()?,
            sysctls: sysctls(options, rootless)?,
            loopback: is_new(options.network),
            process: process::build(options, host, caps, filter(options, host, caps)?)?,
            cgroup,
        })
    }
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
    let rule = |kind, major, minor, access| Rule { kind, major, minor, access };
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

fn c_text(text: &str) -> Result<CString, Error> {
    c_bytes(text.as_bytes())
}

fn c_bytes(bytes: &[u8]) -> Result<CString, Error> {
    CString::new(bytes)
        .map_err(|_| Error::Option(format!("NUL byte in {:?}", String::from_utf8_lossy(bytes))))
}

#[cfg(test)]
mod tests;
