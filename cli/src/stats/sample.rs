//! One look at a container, and what two of them say.

use std::fs;
use std::path::Path;

use serde::Serialize;
use skiff_ebpf::{Phase, Record};
use skiff_runtime::cgroup::{Controller, Paths};
use skiff_sys::clock::monotonic_ns;

use crate::counted::Container;

/// Everything that is known of a container at one time.
#[derive(Debug)]
pub(crate) struct Sample {
    at_ns: u64,
    cgroup: u64,
    short_id: String,
    id: String,
    directory: String,
    running: bool,
    cpu_us: Option<u64>,
    memory_bytes: Option<u64>,
    memory_limit_bytes: Option<u64>,
    network: Option<[u64; 2]>,
    block: [Option<u64>; 2],
    processes: Option<u64>,
    calls: u64,
    failed_calls: u64,
    faults: Option<u64>,
    major_faults: Option<u64>,
    run_queue_ns: Option<u64>,
    switches: Option<u64>,
    execs: u64,
    lost: u64,
}

impl Sample {
    /// Looks at `container`, of which `record` has been counted.
    #[expect(clippy::needless_pass_by_value, reason = "it has been looked at now")]
    pub(crate) fn take(container: Container, record: &Record) -> Self {
        let usage = container.usage();
        let of = |figure: fn(&Phase) -> Option<u64>| Some(figure(&record.init)? + figure(&record.workload)?);
        let calls = || [&record.init, &record.workload].into_iter().flat_map(|phase| &phase.syscalls);
        let paths = &container.paths;
        Self {
            at_ns: monotonic_ns(),
            cgroup: container.taken.owner.cgroup,
            short_id: container.short_id().to_owned(),
            id: container.id.clone(),
            directory: container.directory.display().to_string(),
            running: container.pid.is_some(),
            cpu_us: usage.cpu_user_us.zip(usage.cpu_system_us).map(|(user, system)| user + system),
            memory_bytes: memory(paths),
            memory_limit_bytes: memory_limit(paths),
            network: container.pid.and_then(network),
            block: [
                usage.block_read_bytes.or_else(|| of(|phase| phase.block_read_bytes)),
                usage.block_write_bytes.or_else(|| of(|phase| phase.block_write_bytes)),
            ],
            processes: processes(paths),
            calls: record.calls(),
            failed_calls: calls().flat_map(|call| &call.errors).map(|(_, count)| count).sum(),
            faults: of(|phase| Some(phase.minor_faults? + phase.major_faults?)),
            major_faults: of(|phase| phase.major_faults),
            run_queue_ns: of(|phase| phase.run_queue_ns),
            switches: of(|phase| Some(phase.voluntary_switches? + phase.involuntary_switches?)),
            execs: record.execs_total,
            lost: record.lost,
        }
    }

    /// Whether both are of the same container.
    pub(crate) const fn is_same(&self, other: &Self) -> bool {
        self.cgroup == other.cgroup
    }
}

/// What a container is doing.
#[derive(Debug, Clone, Serialize, PartialEq)]
pub(crate) struct Stats {
    #[serde(skip)]
    pub(crate) short_id: String,
    pub(crate) id: String,
    pub(crate) cgroup: String,
    pub(crate) running: bool,
    pub(crate) cpu_percent: Option<f64>,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) memory_limit_bytes: Option<u64>,
    pub(crate) network_received_bytes: Option<u64>,
    pub(crate) network_sent_bytes: Option<u64>,
    pub(crate) block_read_bytes: Option<u64>,
    pub(crate) block_write_bytes: Option<u64>,
    pub(crate) processes: Option<u64>,
    pub(crate) system_calls: u64,
    pub(crate) system_calls_per_s: Option<f64>,
    pub(crate) failed_calls_per_s: Option<f64>,
    pub(crate) faults: Option<u64>,
    pub(crate) faults_per_s: Option<f64>,
    pub(crate) major_faults_per_s: Option<f64>,
    pub(crate) run_queue_ns: Option<u64>,
    pub(crate) run_queue_percent: Option<f64>,
    pub(crate) switches_per_s: Option<f64>,
    pub(crate) execs_per_s: Option<f64>,
    pub(crate) events_lost: u64,
}

impl Stats {
    /// What happened between `before` and `now`; without `before`, only what there is.
    pub(crate) fn between(before: Option<&Sample>, now: &Sample) -> Self {
        let seconds =
            before.map(|before| now.at_ns.saturating_sub(before.at_ns) as f64 / 1e9).filter(|s| *s > 0.0);
        let rate = |figure: &dyn Fn(&Sample) -> Option<u64>| {
            let more = figure(now)?.saturating_sub(figure(before?)?);
            Some(more as f64 / seconds?)
        };
        Self {
            short_id: now.short_id.clone(),
            id: now.id.clone(),
            cgroup: now.directory.clone(),
            running: now.running,
            cpu_percent: rate(&|s| s.cpu_us).map(|us| us / 1e4),
            memory_bytes: now.memory_bytes,
            memory_limit_bytes: now.memory_limit_bytes,
            network_received_bytes: now.network.map(|[received, _]| received),
            network_sent_bytes: now.network.map(|[_, sent]| sent),
            block_read_bytes: now.block[0],
            block_write_bytes: now.block[1],
            processes: now.processes,
            system_calls: now.calls,
            system_calls_per_s: rate(&|s| Some(s.calls)),
            failed_calls_per_s: rate(&|s| Some(s.failed_calls)),
            faults: now.faults,
            faults_per_s: rate(&|s| s.faults),
            major_faults_per_s: rate(&|s| s.major_faults),
            run_queue_ns: now.run_queue_ns,
            run_queue_percent: rate(&|s| s.run_queue_ns).map(|ns| ns / 1e7),
            switches_per_s: rate(&|s| s.switches),
            execs_per_s: rate(&|s| Some(s.execs)),
            events_lost: now.lost,
        }
    }

    /// The part of the limit that is used.
    pub(crate) fn memory_percent(&self) -> Option<f64> {
        Some(self.memory_bytes? as f64 * 100.0 / self.memory_limit_bytes.filter(|limit| *limit > 0)? as f64)
    }
}

/// Memory in use, without pages of files that nobody has touched for a while, as docker shows it.
fn memory(paths: &Paths) -> Option<u64> {
    if let Some(used) = paths.unified.as_ref().and_then(|path| number(&path.join("memory.current"))) {
        let idle = paths.unified.as_ref().and_then(|path| field(&path.join("memory.stat"), "inactive_file"));
        return Some(used.saturating_sub(idle.unwrap_or(0)));
    }
    let path = paths.legacy.get(&Controller::Memory)?;
    let idle = field(&path.join("memory.stat"), "total_inactive_file").unwrap_or(0);
    Some(number(&path.join("memory.usage_in_bytes"))?.saturating_sub(idle))
}

/// The limit, or all memory of the host.
fn memory_limit(paths: &Paths) -> Option<u64> {
    let unified = paths.unified.as_ref().and_then(|path| number(&path.join("memory.max")));
    let legacy = || number(&paths.legacy.get(&Controller::Memory)?.join("memory.limit_in_bytes"));
    unified.or_else(legacy).into_iter().chain(host_memory()).min()
}

fn processes(paths: &Paths) -> Option<u64> {
    let unified = paths.unified.as_ref().and_then(|path| number(&path.join("pids.current")));
    let legacy = || number(&paths.legacy.get(&Controller::Pids)?.join("pids.current"));
    // Without the controller, those of the cgroup itself.
    let listed = || {
        Some(fs::read_to_string(paths.unified.as_ref()?.join("cgroup.threads")).ok()?.lines().count() as u64)
    };
    unified.or_else(legacy).or_else(listed)
}

/// All memory of the host, bytes.
pub(crate) fn host_memory() -> Option<u64> {
    field(Path::new("/proc/meminfo"), "MemTotal:").map(|kib| kib << 10)
}

/// Bytes received and sent by the interfaces of the network namespace of `pid`; none if that is the host's.
fn network(pid: i32) -> Option<[u64; 2]> {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    if namespace(&pid.to_string())? == namespace("self")? {
        return None;
    }
    traffic(&fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?)
}

/// The sums over all interfaces but the loopback in the form of `/proc/net/dev`. proc(5).
fn traffic(table: &str) -> Option<[u64; 2]> {
    let mut sums = [0, 0];
    for line in table.lines().skip(2) {
        let (name, figures) = line.split_once(':')?;
        let figures: Vec<u64> = figures.split_whitespace().filter_map(|figure| figure.parse().ok()).collect();
        if name.trim() != "lo" {
            sums[0] += figures.first()?;
            sums[1] += figures.get(8)?;
        }
    }
    Some(sums)
}

/// The number that is all of a file.
fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The number after `key` in a file of `key number` lines.
fn field(path: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at_s: u64, calls: u64) -> Sample {
        Sample {
            at_ns: at_s * 1_000_000_000,
            cgroup: 7,
            short_id: "web".into(),
            id: "web".into(),
            directory: "/web".into(),
            running: true,
            cpu_us: Some(calls * 1000),
            memory_bytes: Some(64 << 20),
            memory_limit_bytes: Some(256 << 20),
            network: Some([10, 20]),
            block: [Some(1), None],
            processes: Some(2),
            calls,
            failed_calls: calls / 10,
            faults: None,
            major_faults: Some(0),
            run_queue_ns: Some(calls * 1_000_000),
            switches: Some(calls),
            execs: 1,
            lost: 0,
        }
    }

    #[test]
    fn rates_are_of_what_came_between() {
        let stats = Stats::between(Some(&sample(1, 100)), &sample(3, 300));
        assert_eq!(stats.system_calls_per_s, Some(100.0));
        assert_eq!((stats.failed_calls_per_s, stats.faults_per_s), (Some(10.0), None));
        assert_eq!((stats.cpu_percent, stats.run_queue_percent), (Some(10.0), Some(10.0)));
        assert_eq!(stats.memory_percent(), Some(25.0));
    }

    #[test]
    fn of_one_sample_there_are_no_rates() {
        let stats = Stats::between(None, &sample(1, 100));
        assert_eq!((stats.system_calls, stats.system_calls_per_s, stats.cpu_percent), (100, None, None));
    }

    #[test]
    fn traffic_is_all_but_the_loopback() {
        let table = "Inter-|   Receive                                                |  Transmit\n face |bytes packets\n    lo: 5 1 0 0 0 0 0 0 5 1 0 0 0 0 0 0\n  eth0: 100 1 0 0 0 0 0 0 200 1 0 0 0 0 0 0\n  eth1:1 1 0 0 0 0 0 0 2 1 0 0 0 0 0 0\n";
        assert_eq!(traffic(table), Some([101, 202]));
    }
}
