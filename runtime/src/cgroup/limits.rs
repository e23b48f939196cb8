//! From docker's limits to the lines that are written to a container's cgroups. Pure.

use std::borrow::Cow;
use std::path::PathBuf;

use skiff_sys::device_filter::Rule;

use super::{CgroupsPath, Controller, Layout, Paths};
use crate::Error;
use crate::options::Resources;

/// What to do with cgroups for one container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The directory below the root of every hierarchy: names only, at least one.
    pub path: PathBuf,
    /// Whether a directory that is there already may be used, if it has no process in it.
    pub reuse: bool,
    /// Where cgroup v2 is mounted; the container is born there.
    pub unified: Option<PathBuf>,
    /// Controllers to switch on in v2, on every level above the directory.
    pub enable: Enable,
    /// Written to the v2 directory.
    pub writes: Vec<Write>,
    /// v1 hierarchies to join.
    pub joins: Vec<Join>,
    /// Which devices may be used.
    pub devices: Devices,
    /// Whether the container does without cgroups if they may not be made: nothing was asked of them.
    pub optional: bool,
}

/// Controllers of cgroup v2 to switch on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Enable {
    /// These, or it is an error.
    These(Vec<&'static str>),
    /// All that can be had.
    All,
}

impl Default for Enable {
    fn default() -> Self {
        Self::These(Vec::new())
    }
}

/// A v1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    /// Its controller.
    pub controller: Controller,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Written to the directory before anything is in it.
    pub writes: Vec<Write>,
}

/// A value for a control file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Names of the file, each with what is written to it; the first that exists is it.
    pub files: Vec<(Cow<'static, str>, String)>,
    /// Whether a host without the file makes the launch fail.
    pub required: bool,
}

/// Which device nodes may be used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Devices {
    /// All.
    #[default]
    All,
    /// Those that a rule allows.
    Only(Vec<Rule>),
}

/// CPU bandwidth: µs of CPU time (−1: no limit) in each period of so many µs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bandwidth {
    quota_us: Option<i64>,
    period_us: Option<u64>,
}

/// The kernel's and docker's period.
const DEFAULT_PERIOD_US: u64 = 100_000;

impl Plan {
    /// Decides where `skiff run` has its cgroup `name` on a host of this `layout` with these limits; `account` adds the hierarchies that the
    /// record of a run is read from.
    ///
    /// Errors: a limit whose controller the host lacks.
    pub fn build(
        name: String,
        layout: &Layout,
        resources: &Resources,
        devices: Devices,
        account: bool,
    ) -> Result<Self, Error> {
        let mut plan = Self {
            path: name.into(),
            unified: layout.unified.clone(),
            devices,
            optional: *resources == Resources::default(),
            ..Self::default()
        };
        for (controller, legacy, unified) in lines(resources) {
            plan.limit(layout, controller, legacy, unified)?;
        }
        if account {
            plan.account(layout);
        }
        if plan.unified.is_none() && matches!(plan.devices, Devices::Only(_)) {
            plan.join(layout, Controller::Devices);
        }
        Ok(plan)
    }

    /// Decides for a bundle, which wants `path` and joins every hierarchy of the host.
    ///
    /// `optional`: the container does without cgroups where they may not be made, if nothing is asked of them (a user's
    /// container on a host that has handed the user none).
    pub fn of_spec(path: &CgroupsPath, layout: &Layout, optional: bool) -> Result<Self, Error> {
        let mut plan = Self {
            path: path.directory(),
            reuse: true,
            unified: layout.unified.clone(),
            optional,
            ..Self::default()
        };
        if !layout.unified_controllers.is_empty() {
            plan.enable = Enable::All;
        }
        for (controller, _) in &layout.legacy {
            plan.join(layout, *controller);
        }
        Ok(plan)
    }

    /// Where the cgroups will be.
    #[must_use]
    pub fn paths(&self) -> Paths {
        Paths {
            unified: self.unified.as_ref().map(|mount| mount.join(&self.path)),
            legacy: self.joins.iter().map(|join| (join.controller, join.mount.join(&self.path))).collect(),
        }
    }

    fn limit(
        &mut self,
        layout: &Layout,
        controller: Controller,
        legacy: Vec<Write>,
        unified: Vec<Write>,
    ) -> Result<(), Error> {
        if legacy.is_empty() && unified.is_empty() {
            return Ok(());
        }
        if layout.is_unified(controller) {
            self.enable(controller);
            self.writes.extend(unified);
        } else if let Some(join) = self.join(layout, controller) {
            join.writes.extend(legacy);
        } else {
            let name = controller.name();
            return Err(Error::Option(format!(
                "cannot limit {name}: no cgroup controller {name} on this host"
            )));
        }
        Ok(())
    }

    /// The hierarchies and controllers whose files the record is read from.
    fn account(&mut self, layout: &Layout) {
        for controller in
            [Controller::Memory, Controller::Cpu, Controller::Cpuacct, Controller::Blkio, Controller::Pids]
        {
            if layout.is_unified(controller) {
                self.enable(controller);
            } else {
                self.join(layout, controller);
            }
        }
    }

    fn enable(&mut self, controller: Controller) {
        if let (Enable::These(names), Some(name)) = (&mut self.enable, controller.unified_name())
            && !names.contains(&name)
        {
            names.push(name);
        }
    }

    pub(super) fn join(&mut self, layout: &Layout, controller: Controller) -> Option<&mut Join> {
        let index = match self.joins.iter().position(|join| join.controller == controller) {
            Some(index) => index,
            None => {
                let mount = layout.legacy_path(controller)?.to_path_buf();
                self.joins.push(Join { controller, mount, writes: Vec::new() });
                self.joins.len() - 1
            }
        };
        self.joins.get_mut(index)
    }
}

/// Each controller with its lines for v1 and for v2.
fn lines(resources: &Resources) -> [(Controller, Vec<Write>, Vec<Write>); 5] {
    let cpuset = cpuset(resources);
    let pids = pids(resources);
    [
        (Controller::Memory, memory_legacy(resources), memory_unified(resources)),
        (Controller::Cpu, cpu_legacy(resources), cpu_unified(resources)),
        (Controller::Cpuset, cpuset.clone(), cpuset),
        (Controller::Pids, pids.clone(), pids),
        (Controller::Blkio, blkio_legacy(resources), blkio_unified(resources)),
    ]
}

fn memory_legacy(resources: &Resources) -> Vec<Write> {
    let mut writes = Vec::new();
    if let Some(bytes) = resources.memory_bytes {
        writes.push(write("memory.limit_in_bytes", bytes));
        // Docker's default is as much swap again; a kernel without swap accounting has no file for it.
        let total = resources.memory_swap_bytes.unwrap_or_else(|| bytes.saturating_mul(2).cast_signed());
        let mut swap = write("memory.memsw.limit_in_bytes", total);
        swap.required = resources.memory_swap_bytes.is_some();
        writes.push(swap);
    }
    if let Some(bytes) = resources.memory_reservation_bytes {
        writes.push(write("memory.soft_limit_in_bytes", bytes));
    }
    writes
}

fn memory_unified(resources: &Resources) -> Vec<Write> {
    let mut writes = Vec::new();
    if let Some(bytes) = resources.memory_bytes {
        writes.push(write("memory.max", bytes));
        let swap = match resources.memory_swap_bytes {
            Some(-1) => "max".to_owned(),
            Some(total) => total.saturating_sub(bytes.cast_signed()).to_string(),
            None => bytes.to_string(),
        };
        let mut swap = write("memory.swap.max", swap);
        swap.required = resources.memory_swap_bytes.is_some();
        writes.push(swap);
    }
    if let Some(bytes) = resources.memory_reservation_bytes {
        writes.push(write("memory.low", bytes));
    }
    writes
}

fn bandwidth(resources: &Resources) -> Bandwidth {
    match resources.nano_cpus {
        Some(nano) => {
            let quota = nano.saturating_mul(DEFAULT_PERIOD_US) / 1_000_000_000;
            Bandwidth { quota_us: Some(quota.cast_signed()), period_us: Some(DEFAULT_PERIOD_US) }
        }
        None => Bandwidth { quota_us: resources.cpu_quota_us, period_us: resources.cpu_period_us },
    }
}

fn cpu_legacy(resources: &Resources) -> Vec<Write> {
    let bandwidth = bandwidth(resources);
    [
        resources.cpu_shares.map(|shares| write("cpu.shares", shares)),
        bandwidth.period_us.map(|period| write("cpu.cfs_period_us", period)),
        bandwidth.quota_us.map(|quota| write("cpu.cfs_quota_us", quota)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn cpu_unified(resources: &Resources) -> Vec<Write> {
    let Bandwidth { quota_us, period_us } = bandwidth(resources);
    let mut writes = Vec::new();
    if let Some(shares) = resources.cpu_shares {
        // Shares 2..=262144 on weights 1..=10000, as the OCI runtimes have it.
        let weight = 1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142;
        writes.push(write("cpu.weight", weight));
    }
    if quota_us.is_some() || period_us.is_some() {
        let quota =
            quota_us.filter(|quota| *quota > 0).map_or_else(|| "max".into(), |quota| quota.to_string());
        writes.push(write("cpu.max", format!("{quota} {}", period_us.unwrap_or(DEFAULT_PERIOD_US))));
    }
    writes
}

fn cpuset(resources: &Resources) -> Vec<Write> {
    [
        resources.cpuset_cpus.as_ref().map(|list| write("cpuset.cpus", list)),
        resources.cpuset_mems.as_ref().map(|list| write("cpuset.mems", list)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn pids(resources: &Resources) -> Vec<Write> {
    let value = |limit: i64| if limit > 0 { limit.to_string() } else { "max".into() };
    resources.pids_limit.map(|limit| write("pids.max", value(limit))).into_iter().collect()
}

fn blkio_legacy(resources: &Resources) -> Vec<Write> {
    let files =
        |weight: u16| ["blkio.weight", "blkio.bfq.weight"].map(|file| (file.into(), weight.to_string()));
    resources
        .blkio_weight
        .map(|weight| Write { files: files(weight).into(), required: true })
        .into_iter()
        .collect()
}

/// The BFQ file takes docker's 10..=1000; `io.weight` has 1..=10000, on which they are laid out.
fn blkio_unified(resources: &Resources) -> Vec<Write> {
    let Some(weight) = resources.blkio_weight else { return Vec::new() };
    let weight = u32::from(weight.clamp(10, 1000));
    let spread = 1 + (weight - 10) * 9_999 / 990;
    let files = [
        ("io.bfq.weight".into(), format!("default {weight}")),
        ("io.weight".into(), format!("default {spread}")),
    ];
    vec![Write { files: files.into(), required: true }]
}

fn write(file: &'static str, value: impl ToString) -> Write {
    Write { files: vec![(file.into(), value.to_string())], required: true }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn layout(unified_controllers: &[&str], legacy: &[Controller]) -> Layout {
        Layout {
            unified: Some("/c2".into()),
            unified_controllers: unified_controllers.iter().map(ToString::to_string).collect(),
            legacy: legacy.iter().map(|found| (*found, Path::new("/c1").join(found.name()))).collect(),
        }
    }

    fn build(layout: &Layout, resources: &Resources) -> Result<Plan, Error> {
        Plan::build("skiff-x".into(), layout, resources, Devices::All, false)
    }

    fn shown(writes: &[Write]) -> String {
        writes
            .iter()
            .map(|line| format!("{}={}", line.files[0].0, line.files[0].1))
            .collect::<Vec<_>>()
            .join(" ")
    }

    fn check(resources: Resources, legacy: &str, unified: &str) {
        let all =
            [Controller::Memory, Controller::Cpu, Controller::Cpuset, Controller::Pids, Controller::Blkio];
        let v1 = build(&layout(&[], &all), &resources).expect("v1");
        let lines: Vec<Write> = v1.joins.iter().flat_map(|join| join.writes.clone()).collect();
        assert_eq!(shown(&lines), legacy);
        let v2 = build(&layout(&["memory", "cpu", "cpuset", "pids", "io"], &[]), &resources).expect("v2");
        assert_eq!(shown(&v2.writes), unified);
        assert!(v2.joins.is_empty());
    }

    #[test]
    fn limits_are_written_in_the_words_of_each_version() {
        let none = Resources::default;
        check(none(), "", "");
        check(
            Resources { memory_bytes: Some(64 << 20), ..none() },
            "memory.limit_in_bytes=67108864 memory.memsw.limit_in_bytes=134217728",
            "memory.max=67108864 memory.swap.max=67108864",
        );
        check(
            Resources {
                memory_bytes: Some(100),
                memory_swap_bytes: Some(150),
                memory_reservation_bytes: Some(50),
                ..none()
            },
            "memory.limit_in_bytes=100 memory.memsw.limit_in_bytes=150 memory.soft_limit_in_bytes=50",
            "memory.max=100 memory.swap.max=50 memory.low=50",
        );
        check(
            Resources { memory_bytes: Some(100), memory_swap_bytes: Some(-1), ..none() },
            "memory.limit_in_bytes=100 memory.memsw.limit_in_bytes=-1",
            "memory.max=100 memory.swap.max=max",
        );
        check(
            Resources { nano_cpus: Some(1_500_000_000), cpu_shares: Some(1024), ..none() },
            "cpu.shares=1024 cpu.cfs_period_us=100000 cpu.cfs_quota_us=150000",
            "cpu.weight=39 cpu.max=150000 100000",
        );
        check(
            Resources { cpu_quota_us: Some(-1), cpu_period_us: Some(50_000), ..none() },
            "cpu.cfs_period_us=50000 cpu.cfs_quota_us=-1",
            "cpu.max=max 50000",
        );
        check(Resources { pids_limit: Some(20), ..none() }, "pids.max=20", "pids.max=20");
        check(Resources { pids_limit: Some(-1), ..none() }, "pids.max=max", "pids.max=max");
        check(
            Resources { blkio_weight: Some(1000), cpuset_cpus: Some("0-1".into()), ..none() },
            "cpuset.cpus=0-1 blkio.weight=1000",
            "cpuset.cpus=0-1 io.bfq.weight=default 1000",
        );
    }

    #[test]
    fn a_limit_without_its_controller_is_an_error() {
        let error = build(&layout(&[], &[]), &Resources { pids_limit: Some(9), ..Resources::default() });
        assert_eq!(
            error.expect_err("no controller").to_string(),
            "cannot limit pids: no cgroup controller pids on this host"
        );
    }

    #[test]
    fn the_device_hierarchy_is_joined_only_where_v2_is_missing() {
        let mut host = layout(&[], &[Controller::Devices]);
        let plan = |host: &Layout| {
            Plan::build("x".into(), host, &Resources::default(), Devices::Only(Vec::new()), false)
                .expect("plan")
        };
        assert!(plan(&host).joins.is_empty());
        host.unified = None;
        assert_eq!(plan(&host).joins[0].controller, Controller::Devices);
    }
}
