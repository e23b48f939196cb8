//! Control groups, version 1, hybrid and version 2, each found where distributions mount them.
//!
//! One container has one directory in each hierarchy that it needs: the cgroup v2 one always (it carries the id by which
//! eBPF knows the container, and the device filter). `skiff run` makes it flat, `skiff-<id>`, and joins a v1 controller
//! only if a limit or the record wants it; a bundle names the place ([`path`]) and joins all, for its engine reads them.
//! Limits are written while the cgroup is still empty. [`limits`] decides what is written; [`resources`] and
//! [`devices`] are its tables; [`dir`] and what it calls ([`make`], [`mark`], [`mod@write`], [`usage`], [`remove`]) act.

mod at;
mod control;
mod devices;
mod dir;
mod events;
mod limits;
mod make;
mod mark;
mod path;
mod remove;
mod resources;
mod stats;
mod systemd;
mod update;
mod usage;
mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use at::keep_root_open;
pub use dir::Cgroup;
pub use events::OomEvents;
pub use limits::{Devices, Enable, Join, Plan, Write};
pub use mark::{Mark, Owner};
pub(crate) use path::directory_of;
pub use path::{CgroupsPath, Manager, user_manager};
pub use remove::remove_stale;
pub use stats::{BlkioEntry, Stats};
pub use systemd::{Order, Unit, Value};
pub(crate) use systemd::{PREFIX as PROPERTY_PREFIX, annotated};
pub use usage::Usage;

/// Where the cgroups of a container are, to find them again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Paths {
    /// The v2 directory.
    pub unified: Option<PathBuf>,
    /// The directory of each v1 controller.
    pub legacy: BTreeMap<Controller, PathBuf>,
    /// Those of them that were there before the container, and so stay when it goes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub found: Vec<PathBuf>,
    /// The unit of systemd's that they belong to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
    /// What says that they are the container's, as long as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mark: Option<Mark>,
}

impl Paths {
    /// Whether there is any.
    #[must_use]
    pub fn are_any(&self) -> bool {
        self.unified.is_some() || !self.legacy.is_empty()
    }

    /// The directory whose processes can be stopped together.
    #[must_use]
    pub fn freezer(&self) -> Option<&Path> {
        self.legacy.get(&Controller::Freezer).or(self.unified.as_ref()).map(PathBuf::as_path)
    }
}

/// A controller of cgroup v1, or of v2 where it has one of that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Controller {
    /// CPU time: shares and quota.
    Cpu,
    /// CPU accounting; part of every v2 cgroup.
    Cpuacct,
    /// CPUs and memory nodes.
    Cpuset,
    /// Memory.
    Memory,
    /// Block I/O; `io` in v2.
    Blkio,
    /// Number of processes.
    Pids,
    /// Device nodes; an eBPF program in v2.
    Devices,
    /// Stops all processes; part of every v2 cgroup.
    Freezer,
    /// Huge pages.
    Hugetlb,
    /// Remote direct memory access.
    Rdma,
    /// Scarce things of other kinds.
    Misc,
    /// Classes of network packets; v1 only.
    NetCls,
    /// Priorities of network packets; v1 only.
    NetPrio,
    /// Performance counters; part of every v2 cgroup.
    PerfEvent,
    /// None: systemd's own hierarchy.
    Systemd,
}

impl Controller {
    pub(crate) const ALL: [Self; 15] = [
        Self::Cpu,
        Self::Cpuacct,
        Self::Cpuset,
        Self::Memory,
        Self::Blkio,
        Self::Pids,
        Self::Devices,
        Self::Freezer,
        Self::Hugetlb,
        Self::Rdma,
        Self::Misc,
        Self::NetCls,
        Self::NetPrio,
        Self::PerfEvent,
        Self::Systemd,
    ];

    /// Its name in cgroup v1.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cpuacct => "cpuacct",
            Self::Cpuset => "cpuset",
            Self::Memory => "memory",
            Self::Blkio => "blkio",
            Self::Pids => "pids",
            Self::Devices => "devices",
            Self::Freezer => "freezer",
            Self::Hugetlb => "hugetlb",
            Self::Rdma => "rdma",
            Self::Misc => "misc",
            Self::NetCls => "net_cls",
            Self::NetPrio => "net_prio",
            Self::PerfEvent => "perf_event",
            Self::Systemd => "systemd",
        }
    }

    /// Its name in cgroup v2, if it is a controller there.
    #[must_use]
    pub const fn unified_name(self) -> Option<&'static str> {
        match self {
            Self::Cpuacct
            | Self::Devices
            | Self::Freezer
            | Self::NetCls
            | Self::NetPrio
            | Self::PerfEvent
            | Self::Systemd => None,
            Self::Blkio => Some("io"),
            other => Some(other.name()),
        }
    }
}

/// The hierarchies of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    /// Where cgroup v2 is mounted.
    pub unified: Option<PathBuf>,
    /// The controllers that the v2 root has.
    pub unified_controllers: Vec<String>,
    /// Where each v1 controller is mounted.
    pub legacy: Vec<(Controller, PathBuf)>,
}

impl Layout {
    /// Whether v1 has any controller, beside which systemd's own hierarchy is none.
    pub(crate) fn has_legacy_controllers(&self) -> bool {
        self.legacy.iter().any(|(controller, _)| *controller != Controller::Systemd)
    }

    /// That of this host.
    #[must_use]
    pub fn of_host() -> Self {
        Self::probe(Path::new(at::ROOT))
    }

    /// Looks where distributions mount cgroups below `root` (`/sys/fs/cgroup`): v2 on the directory itself, or v2 on
    /// `unified` and v1 controllers on directories of their names. cgroups(7).
    ///
    /// A few statfs(2) calls: reading mountinfo would cost in proportion to the host's mounts.
    fn probe(root: &Path) -> Self {
        use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC};
        let of_kind =
            |path: &Path, kind| at::file_system(path).ok().filter(|found| found.filesystem_type() == kind);
        let unified = [root.to_path_buf(), root.join("unified")]
            .into_iter()
            .find(|path| of_kind(path, CGROUP2_SUPER_MAGIC).is_some());
        let found: Vec<_> = Controller::ALL
            .into_iter()
            .map(|controller| (controller, root.join(controller.name())))
            .filter_map(|(controller, path)| {
                let hierarchy = of_kind(&path, CGROUP_SUPER_MAGIC)?.filesystem_id();
                Some((controller, path, hierarchy))
            })
            .collect();
        let is_shared = |hierarchy| found.iter().filter(|(.., other)| *other == hierarchy).count() > 1;
        let legacy = found
            .iter()
            .map(|(controller, path, hierarchy)| {
                // Controllers that are mounted together are symlinks to their common directory: `cpu` to `cpu,cpuacct`.
                let common = if is_shared(*hierarchy) { path.read_link().ok() } else { None };
                (*controller, common.map_or_else(|| path.clone(), |to| root.join(to)))
            })
            .collect();
        let unified_controllers = unified
            .as_ref()
            .and_then(|path| at::read(&path.join("cgroup.controllers")).ok())
            .map(|text| text.split_whitespace().map(str::to_owned).collect())
            .unwrap_or_default();
        Self { unified, unified_controllers, legacy }
    }

    /// Where each v1 hierarchy is mounted, with its controllers.
    #[must_use]
    pub fn hierarchies(&self) -> Vec<(&Path, Vec<Controller>)> {
        let mut found: Vec<(&Path, Vec<Controller>)> = Vec::new();
        for (controller, mount) in &self.legacy {
            match found.iter_mut().find(|(known, _)| known.as_os_str() == mount.as_os_str()) {
                Some((_, controllers)) => controllers.push(*controller),
                None => found.push((mount, vec![*controller])),
            }
        }
        found
    }

    /// Where `controller` is to be found in v1.
    #[must_use]
    pub fn legacy_path(&self, controller: Controller) -> Option<&Path> {
        self.legacy.iter().find(|(found, _)| *found == controller).map(|(_, path)| path.as_path())
    }

    /// Whether v2 has `controller`.
    #[must_use]
    pub fn is_unified(&self, controller: Controller) -> bool {
        controller
            .unified_name()
            .is_some_and(|name| self.unified_controllers.iter().any(|found| found == name))
    }
}

#[cfg(test)]
mod tests;
