//! From the resources of a bundle to the lines that are written for each controller. Pure.
//!
//! A number that is 0 where 0 limits nothing is the same as none, as engines have it. What has no counterpart in the
//! version of cgroups that a controller has here is an error. OCI runtime spec, config-linux.md, "Control groups".

use std::borrow::Cow;

use super::{Controller, Write};
use crate::Error;
use crate::oci::spec::{BlockIo, Cpu, Memory, Resources, ThrottleDevice, WeightDevice};

/// The version of cgroups in which a controller is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

/// Controllers that have limits, in the order in which they are written.
pub(super) const LIMITED: [Controller; 9] = [
    Controller::Memory,
    Controller::Cpu,
    Controller::Cpuset,
    Controller::Pids,
    Controller::Blkio,
    Controller::Hugetlb,
    Controller::Rdma,
    Controller::NetCls,
    Controller::NetPrio,
];

/// What is written for `controller`.
pub(super) fn lines(
    resources: &Resources,
    controller: Controller,
    version: Version,
) -> Result<Vec<Write>, Error> {
    let network = resources.network.as_ref();
    match controller {
        Controller::Memory => resources.memory.as_ref().map_or(Ok(Vec::new()), |memory| match version {
            Version::One => Ok(memory_legacy(memory)),
            Version::Two => memory_unified(memory),
        }),
        Controller::Cpu => resources.cpu.as_ref().map_or(Ok(Vec::new()), |cpu| match version {
            Version::One => Ok(cpu_legacy(cpu)),
            Version::Two => cpu_unified(cpu),
        }),
        Controller::Cpuset => Ok(resources.cpu.as_ref().map(cpuset).unwrap_or_default()),
        Controller::Pids => Ok(pids(resources.pids.as_ref().and_then(|pids| pids.limit))),
        Controller::Blkio => resources.block_io.as_ref().map_or(Ok(Vec::new()), |block| match version {
            Version::One => Ok(block_legacy(block)),
            Version::Two => block_unified(block),
        }),
        Controller::Hugetlb => hugepages(resources, version),
        Controller::Rdma => Ok(rdma(resources)),
        Controller::NetCls => {
            let class = network.and_then(|network| wanted(network.class_id));
            Ok(class.map(|class| write("net_cls.classid", class)).into_iter().collect())
        }
        Controller::NetPrio => {
            let priorities = network.map(|network| network.priorities.as_slice()).unwrap_or_default();
            let lines =
                priorities.iter().map(|interface| format!("{} {}", interface.name, interface.priority));
            Ok(joined("net_prio.ifpriomap", lines))
        }
        _ => Ok(Vec::new()),
    }
}

/// The lines of `unified`, which are written as they are.
///
/// Errors: a name that is no file of the cgroup's own directory.
pub(super) fn unified(resources: &Resources) -> Result<Vec<Write>, Error> {
    let is_file = |name: &str| name.contains('.') && !name.starts_with('.') && !name.contains(['/', '\0']);
    let lines = resources.unified.iter().map(|(name, value)| {
        if !is_file(name) {
            return Err(Error::Option(format!("unified resource {name:?} is not a file of a cgroup")));
        }
        Ok(Write { files: vec![(name.clone().into(), value.clone())], required: true })
    });
    lines.collect()
}

/// Kernels since 5.16 have this limit no more; those that still have the file take what is written to it, and keep nothing.
pub(super) const KERNEL_MEMORY: &str = "memory.kmem.limit_in_bytes";

fn memory_legacy(memory: &Memory) -> Vec<Write> {
    let mut writes = Vec::new();
    let (limit, swap) = (wanted(memory.limit), wanted(memory.swap));
    writes.extend(limit.map(|limit| write("memory.limit_in_bytes", limit)));
    // Without a limit there is none of the sum either. A kernel without swap accounting has no file for it.
    let total = swap.or(limit.filter(|limit| *limit == -1));
    writes.extend(
        total.map(|total| Write { required: total != -1, ..write("memory.memsw.limit_in_bytes", total) }),
    );
    writes.extend(wanted(memory.reservation).map(|bytes| write("memory.soft_limit_in_bytes", bytes)));
    writes.extend(wanted(memory.kernel).map(|bytes| write(KERNEL_MEMORY, bytes)));
    writes.extend(wanted(memory.kernel_tcp).map(|bytes| write("memory.kmem.tcp.limit_in_bytes", bytes)));
    writes.extend(memory.swappiness.map(|percent| write("memory.swappiness", percent)));
    writes.extend(memory.disable_oom_killer.filter(|off| *off).map(|_| write("memory.oom_control", 1)));
    writes.extend(memory.use_hierarchy.map(|on| write("memory.use_hierarchy", u8::from(on))));
    writes
}

fn memory_unified(memory: &Memory) -> Result<Vec<Write>, Error> {
    refuse(wanted(memory.kernel).is_some(), "linux.resources.memory.kernel")?;
    refuse(wanted(memory.kernel_tcp).is_some(), "linux.resources.memory.kernelTCP")?;
    refuse(memory.swappiness.is_some(), "linux.resources.memory.swappiness")?;
    refuse(memory.disable_oom_killer == Some(true), "linux.resources.memory.disableOOMKiller")?;
    refuse(memory.use_hierarchy == Some(false), "linux.resources.memory.useHierarchy false")?;
    let mut writes = Vec::new();
    writes.extend(wanted(memory.limit).map(|limit| write("memory.max", or_max(limit))));
    if let Some(swap) = swap_alone(wanted(memory.limit), wanted(memory.swap))? {
        // A kernel without swap has no file for it, and swaps nothing.
        writes.push(Write { required: swap > 0, ..write("memory.swap.max", or_max(swap)) });
    }
    writes.extend(wanted(memory.reservation).map(|bytes| write("memory.low", or_max(bytes))));
    Ok(writes)
}

/// Version 2 limits swap alone, where bundles limit its sum with memory.
pub(super) fn swap_alone(limit: Option<i64>, total: Option<i64>) -> Result<Option<i64>, Error> {
    match (limit, total) {
        (Some(-1), None) | (_, Some(-1)) => Ok(Some(-1)),
        (_, None) => Ok(None),
        (None | Some(-1), Some(_)) => {
            Err(Error::Option("memory and swap cannot be limited without a limit of memory".into()))
        }
        (Some(limit), Some(total)) if total < limit => {
            let message = format!("memory and swap together ({total}) are less than memory alone ({limit})");
            Err(Error::Option(message))
        }
        (Some(limit), Some(total)) => Ok(Some(total - limit)),
    }
}

fn cpu_legacy(cpu: &Cpu) -> Vec<Write> {
    let mut writes = Vec::new();
    writes.extend(wanted(cpu.shares).map(|shares| write("cpu.shares", shares)));
    writes.extend(wanted(cpu.period).map(|period| write("cpu.cfs_period_us", period)));
    writes.extend(wanted(cpu.quota).map(|quota| write("cpu.cfs_quota_us", quota)));
    writes.extend(cpu.burst.map(|burst| write("cpu.cfs_burst_us", burst)));
    writes.extend(wanted(cpu.realtime_period).map(|period| write("cpu.rt_period_us", period)));
    writes.extend(wanted(cpu.realtime_runtime).map(|runtime| write("cpu.rt_runtime_us", runtime)));
    writes.extend(cpu.idle.map(|idle| write("cpu.idle", idle)));
    writes
}

fn cpu_unified(cpu: &Cpu) -> Result<Vec<Write>, Error> {
    refuse(wanted(cpu.realtime_period).is_some(), "linux.resources.cpu.realtimePeriod")?;
    refuse(wanted(cpu.realtime_runtime).is_some(), "linux.resources.cpu.realtimeRuntime")?;
    let mut writes = Vec::new();
    writes.extend(wanted(cpu.shares).map(|shares| write("cpu.weight", weight(shares))));
    let quota = wanted(cpu.quota).map(|quota| if quota > 0 { quota.to_string() } else { "max".into() });
    match (quota, wanted(cpu.period)) {
        (None, None) => {}
        (Some(quota), None) => writes.push(write("cpu.max", quota)),
        (quota, Some(period)) => {
            writes.push(write("cpu.max", format!("{} {period}", quota.unwrap_or_else(|| "max".into()))));
        }
    }
    writes.extend(cpu.burst.map(|burst| write("cpu.max.burst", burst)));
    writes.extend(cpu.idle.map(|idle| write("cpu.idle", idle)));
    Ok(writes)
}

/// Shares 2..=262144 laid out on weights 1..=10000, as the OCI runtimes have it.
pub(super) fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

fn cpuset(cpu: &Cpu) -> Vec<Write> {
    let lists = [("cpuset.cpus", &cpu.cpus), ("cpuset.mems", &cpu.mems)];
    let asked = lists.into_iter().filter(|(_, list)| !list.is_empty());
    asked.map(|(file, list)| write(file, list)).collect()
}

fn pids(limit: Option<i64>) -> Vec<Write> {
    let line = |limit: i64| Write { required: limit > 0, ..write("pids.max", or_max(limit)) };
    wanted(limit).map(line).into_iter().collect()
}

/// Numbers of a device as the control files have them.
fn device(major: i64, minor: i64) -> String {
    format!("{major}:{minor}")
}

fn block_legacy(block: &BlockIo) -> Vec<Write> {
    let weight_of = |weight: u16| either("blkio.weight", "blkio.bfq.weight", weight.to_string());
    let mut writes: Vec<Write> = wanted(block.weight).map(weight_of).into_iter().collect();
    writes.extend(wanted(block.leaf_weight).map(|weight| write("blkio.leaf_weight", weight)));
    for WeightDevice { major, minor, weight, leaf_weight } in &block.weight_device {
        let line = |weight| format!("{} {weight}", device(*major, *minor));
        let weight = wanted(*weight).map(line);
        writes.extend(weight.map(|line| either("blkio.weight_device", "blkio.bfq.weight_device", line)));
        writes.extend(wanted(*leaf_weight).map(|weight| write("blkio.leaf_weight_device", line(weight))));
    }
    for (file, _, devices) in throttles(block) {
        let lines =
            devices.iter().map(|limit| format!("{} {}", device(limit.major, limit.minor), limit.rate));
        writes.extend(joined(file, lines));
    }
    writes
}

fn block_unified(block: &BlockIo) -> Result<Vec<Write>, Error> {
    let has_leaves = block.weight_device.iter().any(|device| wanted(device.leaf_weight).is_some());
    refuse(wanted(block.leaf_weight).is_some() || has_leaves, "linux.resources.blockIO.leafWeight")?;
    let mut writes: Vec<Write> =
        wanted(block.weight).map(|weight| io_weight("default", weight)).into_iter().collect();
    for WeightDevice { major, minor, weight, .. } in &block.weight_device {
        writes.extend(wanted(*weight).map(|weight| io_weight(&device(*major, *minor), weight)));
    }
    for (_, key, devices) in throttles(block) {
        let rate = |rate: u64| if rate == 0 { "max".into() } else { rate.to_string() };
        let line = |limit: &ThrottleDevice| {
            format!("{} {key}={}", device(limit.major, limit.minor), rate(limit.rate))
        };
        writes.extend(joined("io.max", devices.iter().map(line)));
    }
    Ok(writes)
}

/// The BFQ scheduler takes the 10..=1000 of bundles; `io.weight` has 1..=10000, on which they are laid out.
fn io_weight(of: &str, weight: u16) -> Write {
    let spread = 1 + (u32::from(weight.clamp(10, 1000)) - 10) * 9_999 / 990;
    let files = [("io.bfq.weight", format!("{of} {weight}")), ("io.weight", format!("{of} {spread}"))];
    Write { files: files.map(|(file, value)| (file.into(), value)).into(), required: true }
}

/// Each kind of throttling: its file in version 1, its key in version 2, its limits.
fn throttles(block: &BlockIo) -> [(&'static str, &'static str, &[ThrottleDevice]); 4] {
    [
        ("blkio.throttle.read_bps_device", "rbps", &block.throttle_read_bps_device),
        ("blkio.throttle.write_bps_device", "wbps", &block.throttle_write_bps_device),
        ("blkio.throttle.read_iops_device", "riops", &block.throttle_read_iops_device),
        ("blkio.throttle.write_iops_device", "wiops", &block.throttle_write_iops_device),
    ]
}

fn hugepages(resources: &Resources, version: Version) -> Result<Vec<Write>, Error> {
    let end = if version == Version::One { "limit_in_bytes" } else { "max" };
    let mut writes = Vec::new();
    for limit in &resources.hugepage_limits {
        let size = &limit.page_size;
        let is_size = size.strip_suffix("KB").or(size.strip_suffix("MB")).or(size.strip_suffix("GB"));
        if !is_size.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit())) {
            return Err(Error::Option(format!("{size:?} is not a size of pages")));
        }
        writes.push(write(format!("hugetlb.{size}.{end}"), limit.limit));
        // What is reserved is counted since Linux 5.7.
        let reserved = write(format!("hugetlb.{size}.rsvd.{end}"), limit.limit);
        writes.push(Write { required: false, ..reserved });
    }
    Ok(writes)
}

fn rdma(resources: &Resources) -> Vec<Write> {
    let lines = resources.rdma.iter().map(|(name, limits)| {
        let handles = limits.hca_handles.map(|handles| format!(" hca_handle={handles}")).unwrap_or_default();
        let objects = limits.hca_objects.map(|objects| format!(" hca_object={objects}")).unwrap_or_default();
        format!("{name}{handles}{objects}")
    });
    joined("rdma.max", lines)
}

/// A number that asks for something.
pub(super) fn wanted<T: Default + PartialEq>(value: Option<T>) -> Option<T> {
    value.filter(|value| *value != T::default())
}

fn or_max(limit: i64) -> String {
    if limit < 0 { "max".into() } else { limit.to_string() }
}

fn refuse(asked: bool, what: &str) -> Result<(), Error> {
    if asked { Err(Error::Option(format!("{what} cannot be had with cgroup v2"))) } else { Ok(()) }
}

fn write(file: impl Into<Cow<'static, str>>, value: impl ToString) -> Write {
    Write { files: vec![(file.into(), value.to_string())], required: true }
}

/// For a file that has this name or that.
fn either(this: &'static str, that: &'static str, value: String) -> Write {
    Write { files: vec![(this.into(), value.clone()), (that.into(), value)], required: true }
}

/// Several lines of one file, if any.
fn joined(file: &'static str, lines: impl Iterator<Item = String>) -> Vec<Write> {
    let text = lines.collect::<Vec<_>>().join("\n");
    if text.is_empty() { Vec::new() } else { vec![write(file, text)] }
}
