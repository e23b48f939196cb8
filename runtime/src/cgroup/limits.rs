//! From limits, docker's or a bundle's, to what is done with a container's cgroups. Pure.

use std::borrow::Cow;
use std::path::PathBuf;

use skiff_sys::device_filter::Rule;

use super::resources::{LIMITED, Version, lines, unified};
use super::systemd::{Order, properties};
use super::{CgroupsPath, Controller, Layout, Mark, Paths, devices};
use crate::Error;
use crate::oci::spec;
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
    /// The unit of systemd's around it all; systemd makes the v2 directory then.
    pub order: Option<Order>,
    /// Whether the container does without cgroups if they may not be made: nothing was asked of them.
    pub optional: bool,
    /// Says whose the directories are, where others may take them: [`super::mark`].
    pub mark: Option<Mark>,
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
        plan.limit(layout, &in_words_of_bundles(resources))?;
        if resources.memory_swap_bytes.is_none() {
            plan.tolerate_no_swap();
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
    /// A `user` without privileges cannot restrict devices, nor make any, and does without cgroups where they may not be
    /// made, if nothing is asked of them.
    ///
    /// Errors: a limit whose controller the host lacks, or that its version of cgroups does not have.
    pub fn of_spec(
        path: &CgroupsPath,
        layout: &Layout,
        resources: Option<&spec::Resources>,
        user: bool,
    ) -> Result<Self, Error> {
        let none = spec::Resources::default();
        let resources = resources.unwrap_or(&none);
        let mut plan =
            Self { path: path.directory(), reuse: true, unified: layout.unified.clone(), ..Self::default() };
        for (controller, _) in &layout.legacy {
            // Where systemd makes the unit, it moves the process in its own hierarchy itself.
            if !(*controller == Controller::Systemd && matches!(path, CgroupsPath::Unit { .. })) {
                plan.join(layout, *controller);
            }
        }
        if let CgroupsPath::Unit { slice, unit, .. } = path {
            let properties = properties(resources)?;
            plan.order = Some(Order { unit: unit.clone(), slice: slice.clone(), properties });
        }
        plan.limit(layout, resources)?;
        let lines = unified_lines(layout, resources)?;
        for (file, _) in lines.iter().flat_map(|line| &line.files) {
            let name = file.split('.').next();
            let asked = Controller::ALL.into_iter().find(|controller| controller.unified_name() == name);
            asked.into_iter().for_each(|controller| plan.enable(controller));
        }
        plan.writes.extend(lines);
        let is_asked = !plan.writes.is_empty() || plan.joins.iter().any(|join| !join.writes.is_empty());
        plan.optional = user && !is_asked;
        let rules = devices::rules(&resources.devices)?;
        plan.devices = if user { Devices::All } else { Devices::Only(rules) };
        // Beside controllers of v1, those that are left to v2 are the host's to give: to mount one of them fails while it is in use here.
        if !layout.has_legacy_controllers() && !layout.unified_controllers.is_empty() {
            plan.enable = Enable::All;
        }
        Ok(plan)
    }

    /// Where the cgroups will be.
    #[must_use]
    pub fn paths(&self) -> Paths {
        Paths {
            unified: self.unified.as_ref().map(|mount| mount.join(&self.path)),
            legacy: self.joins.iter().map(|join| (join.controller, join.mount.join(&self.path))).collect(),
            // Known when they are made.
            found: Vec::new(),
            unit: self.order.as_ref().map(|order| order.unit.clone()),
            mark: self.mark.clone(),
        }
    }

    fn limit(&mut self, layout: &Layout, resources: &spec::Resources) -> Result<(), Error> {
        for controller in LIMITED {
            if layout.is_unified(controller) {
                let writes = lines(resources, controller, Version::Two)?;
                if !writes.is_empty() {
                    self.enable(controller);
                }
                self.writes.extend(writes);
                continue;
            }
            let writes = lines(resources, controller, Version::One)?;
            if writes.is_empty() {
                continue;
            }
            let asks = writes.iter().any(|write| write.required);
            match self.join(layout, controller) {
                Some(join) => join.writes.extend(writes),
                None if asks => {
                    let name = controller.name();
                    return Err(Error::Option(format!(
                        "cannot limit {name}: no cgroup controller {name} on this host"
                    )));
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Docker's default of as much swap again is none of an error on a kernel without swap accounting.
    fn tolerate_no_swap(&mut self) {
        let is_swap = |write: &&mut Write| {
            write
                .files
                .iter()
                .any(|(file, _)| file == "memory.swap.max" || file == "memory.memsw.limit_in_bytes")
        };
        let writes = self.joins.iter_mut().flat_map(|join| &mut join.writes).chain(&mut self.writes);
        writes.filter(is_swap).for_each(|write| write.required = false);
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

/// The lines of `unified`, each of which the v2 cgroup must have.
fn unified_lines(layout: &Layout, resources: &spec::Resources) -> Result<Vec<Write>, Error> {
    let writes = unified(resources)?;
    if !writes.is_empty() && layout.unified.is_none() {
        return Err(Error::Option(
            "unified resources need cgroup v2, which this host has not mounted".into(),
        ));
    }
    for (file, _) in writes.iter().flat_map(|write| &write.files) {
        let controller = file.split('.').next().unwrap_or_default();
        if controller != "cgroup" && !layout.unified_controllers.iter().any(|found| found == controller) {
            let message =
                format!("unified resource {file}: this host's cgroup v2 has no controller {controller}");
            return Err(Error::Option(message));
        }
    }
    Ok(writes)
}

/// The same limits, as a bundle has them.
fn in_words_of_bundles(resources: &Resources) -> spec::Resources {
    let bytes = |bytes: Option<u64>| bytes.map(u64::cast_signed);
    let (quota, period) = match resources.nano_cpus {
        Some(nano) => {
            let quota = nano.saturating_mul(DEFAULT_PERIOD_US) / 1_000_000_000;
            (Some(quota.cast_signed()), Some(DEFAULT_PERIOD_US))
        }
        None => (resources.cpu_quota_us, resources.cpu_period_us),
    };
    let twice = resources.memory_bytes.map(|bytes| bytes.saturating_mul(2).cast_signed());
    spec::Resources {
        memory: Some(spec::Memory {
            limit: bytes(resources.memory_bytes),
            swap: resources.memory_swap_bytes.or(twice),
            reservation: bytes(resources.memory_reservation_bytes),
            ..spec::Memory::default()
        }),
        cpu: Some(spec::Cpu {
            shares: resources.cpu_shares,
            quota,
            period,
            cpus: resources.cpuset_cpus.clone().unwrap_or_default(),
            mems: resources.cpuset_mems.clone().unwrap_or_default(),
            ..spec::Cpu::default()
        }),
        pids: Some(spec::Pids {
            limit: resources.pids_limit.map(|limit| if limit > 0 { limit } else { -1 }),
        }),
        block_io: Some(spec::BlockIo { weight: resources.blkio_weight, ..spec::BlockIo::default() }),
        ..spec::Resources::default()
    }
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
