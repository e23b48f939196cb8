//! One look at a container, and what two of them say.

use std::fs;
use std::path::Path;

use serde::Serialize;
use skiff_ebpf::{Phase, Record};
use skiff_engine::figures::{Sampled, own_memory};
use skiff_runtime::cgroup::{Controller, Paths};
use skiff_sys::clock::monotonic_ns;

use crate::counted::{Container, members};

/// So many processes are asked at most for their memory, where no group counts it.
const MOST: usize = 1024;

/// Everything that is known of a container at one time.
#[derive(Debug, Default)]
pub(crate) struct Sample {
    at_ns: u64,
    cgroup: u64,
    short_id: String,
    id: String,
    /// If one is known.
    name: Option<String>,
    directory: Option<String>,
    running: bool,
    cpu_us: Option<u64>,
    memory_bytes: Option<u64>,
    memory_limit_bytes: Option<u64>,
    network: Option<[u64; 2]>,
    block: [Option<u64>; 2],
    processes: Option<u64>,
    throttled_ns: Option<u64>,
    calls: Option<u64>,
    failed_calls: Option<u64>,
    faults: Option<u64>,
    major_faults: Option<u64>,
    run_queue_ns: Option<u64>,
    switches: Option<u64>,
    execs: Option<u64>,
    lost: Option<u64>,
    /// What the daemon's programs had no room for.
    cgroups_refused: Option<u64>,
}

impl Sample {
    /// Looks at `container`, which is called `name` and of which `record` has been counted.
    #[expect(clippy::needless_pass_by_value, reason = "it has been looked at now")]
    pub(crate) fn take(container: Container, name: Option<String>, record: Option<&Record>) -> Self {
        let usage = container.usage();
        let of =
            |figure: fn(&Phase) -> Option<u64>| Some(figure(&record?.init)? + figure(&record?.workload)?);
        let paths = &container.paths;
        Self {
            at_ns: monotonic_ns(),
            cgroup: container.taken.owner.cgroup,
            short_id: container.short_id().to_owned(),
            id: container.id.clone(),
            name,
            directory: Some(container.directory.display().to_string()),
            running: container.pid.is_some(),
            cpu_us: usage.cpu_user_us.zip(usage.cpu_system_us).map(|(user, system)| user + system),
            memory_bytes: memory(paths).or_else(|| own_memory(&members(&container.directory, MOST))),
            memory_limit_bytes: memory_limit(paths),
            network: container.pid.and_then(network),
            block: [
                usage.block_read_bytes.or_else(|| of(|phase| phase.block_read_bytes)),
                usage.block_write_bytes.or_else(|| of(|phase| phase.block_write_bytes)),
            ],
            processes: processes(paths),
            throttled_ns: usage.throttled_us.map(|us| us * 1000),
            calls: record.map(Record::calls),
            failed_calls: record.map(failed),
            faults: of(|phase| Some(phase.minor_faults? + phase.major_faults?)),
            major_faults: of(|phase| phase.major_faults),
            run_queue_ns: of(|phase| phase.run_queue_ns),
            switches: of(|phase| Some(phase.voluntary_switches? + phase.involuntary_switches?)),
            execs: record.map(|record| record.execs_total),
            lost: record.map(|record| record.lost),
            cgroups_refused: None,
        }
    }

    /// What the daemon says of a container, and of whose system calls `record` has been counted, if those are.
    pub(crate) fn of(sampled: &Sampled, record: Option<&Record>) -> Self {
        let Sampled { id, name, figures, cgroup, .. } = sampled;
        let sum = |one: Option<u64>, other: Option<u64>| Some(one? + other?);
        let cpu = &figures.cpu;
        Self {
            at_ns: figures.at_ns,
            cgroup: cgroup.unwrap_or(0),
            short_id: id.get(..12).unwrap_or(id).to_owned(),
            id: id.clone(),
            name: Some(name.clone()),
            directory: None,
            running: true,
            cpu_us: cpu.usage_ns.map(|ns| ns / 1000),
            memory_bytes: figures.memory.working_set_bytes,
            memory_limit_bytes: figures.memory.limit_bytes.into_iter().chain(host_memory()).min(),
            network: figures.network.map(|network| [network.received_bytes, network.sent_bytes]),
            block: [figures.block.read_bytes, figures.block.write_bytes],
            processes: figures.processes.current,
            throttled_ns: cpu.throttled_ns,
            calls: record.map(Record::calls),
            failed_calls: record.map(failed),
            faults: sum(figures.memory.minor_faults, figures.memory.major_faults),
            major_faults: figures.memory.major_faults,
            run_queue_ns: cpu.run_queue_ns,
            switches: sum(cpu.voluntary_switches, cpu.involuntary_switches),
            execs: figures.processes.executed,
            lost: record.map(|record| record.lost),
            cgroups_refused: figures.processes.cgroups_refused,
        }
    }

    /// A container that does not run: it uses nothing.
    pub(crate) fn at_rest(id: &str, name: Option<&str>) -> Self {
        Self {
            short_id: id.get(..12).unwrap_or(id).to_owned(),
            id: id.to_owned(),
            name: name.map(str::to_owned),
            ..Self::default()
        }
    }

    /// Whether both are of the same container, as it was started.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.cgroup == other.cgroup && self.id == other.id
    }
}

/// What a container is doing.
#[derive(Debug, Clone, Serialize, PartialEq)]
pub(crate) struct Stats {
    #[serde(skip)]
    pub(crate) short_id: String,
    pub(crate) id: String,
    pub(crate) name: Option<String>,
    pub(crate) cgroup: Option<String>,
    pub(crate) running: bool,
    pub(crate) cpu_percent: Option<f64>,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) memory_limit_bytes: Option<u64>,
    pub(crate) network_received_bytes: Option<u64>,
    pub(crate) network_sent_bytes: Option<u64>,
    pub(crate) block_read_bytes: Option<u64>,
    pub(crate) block_write_bytes: Option<u64>,
    pub(crate) processes: Option<u64>,
    pub(crate) throttled_percent: Option<f64>,
    pub(crate) system_calls: Option<u64>,
    pub(crate) system_calls_per_s: Option<f64>,
    pub(crate) failed_calls_per_s: Option<f64>,
    pub(crate) faults: Option<u64>,
    pub(crate) faults_per_s: Option<f64>,
    pub(crate) major_faults_per_s: Option<f64>,
    pub(crate) run_queue_ns: Option<u64>,
    pub(crate) run_queue_percent: Option<f64>,
    pub(crate) switches_per_s: Option<f64>,
    pub(crate) execs_per_s: Option<f64>,
    pub(crate) events_lost: Option<u64>,
    pub(crate) cgroups_refused: Option<u64>,
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
            name: now.name.clone(),
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
            throttled_percent: rate(&|s| s.throttled_ns).map(|ns| ns / 1e7),
            system_calls: now.calls,
            system_calls_per_s: rate(&|s| s.calls),
            failed_calls_per_s: rate(&|s| s.failed_calls),
            faults: now.faults,
            faults_per_s: rate(&|s| s.faults),
            major_faults_per_s: rate(&|s| s.major_faults),
            run_queue_ns: now.run_queue_ns,
            run_queue_percent: rate(&|s| s.run_queue_ns).map(|ns| ns / 1e7),
            switches_per_s: rate(&|s| s.switches),
            execs_per_s: rate(&|s| s.execs),
            events_lost: now.lost,
            cgroups_refused: now.cgroups_refused,
        }
    }

    /// The part of the limit that is used.
    pub(crate) fn memory_percent(&self) -> Option<f64> {
        Some(self.memory_bytes? as f64 * 100.0 / self.memory_limit_bytes.filter(|limit| *limit > 0)? as f64)
    }
}

/// Calls that returned an error.
fn failed(record: &Record) -> u64 {
    let calls = [&record.init, &record.workload].into_iter().flat_map(|phase| &phase.syscalls);
    calls.flat_map(|call| &call.errors).map(|(_, count)| count).sum()
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
fn host_memory() -> Option<u64> {
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
            name: None,
            directory: Some("/web".into()),
            running: true,
            cpu_us: Some(calls * 1000),
            memory_bytes: Some(64 << 20),
            memory_limit_bytes: Some(256 << 20),
            network: Some([10, 20]),
            block: [Some(1), None],
            processes: Some(2),
            throttled_ns: Some(calls * 1_000_000),
            calls: Some(calls),
            failed_calls: Some(calls / 10),
            faults: None,
            major_faults: Some(0),
            run_queue_ns: Some(calls * 1_000_000),
            switches: Some(calls),
            execs: Some(1),
            lost: Some(0),
            cgroups_refused: None,
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
        assert_eq!(
            (stats.system_calls, stats.system_calls_per_s, stats.cpu_percent),
            (Some(100), None, None)
        );
    }

    #[test]
    fn what_the_daemon_says_has_its_places() {
        let mut sampled = Sampled { id: "0123456789abcdef".into(), cgroup: Some(9), ..Sampled::default() };
        sampled.figures.memory.minor_faults = Some(3);
        sampled.figures.memory.major_faults = Some(1);
        sampled.figures.cpu.run_queue_ns = Some(7);
        let stats = Stats::between(None, &Sample::of(&sampled, None));
        assert_eq!((stats.faults, stats.run_queue_ns, stats.system_calls), (Some(4), Some(7), None));
        assert_eq!((stats.short_id.as_str(), stats.name.as_deref()), ("0123456789ab", Some("")));
    }

    #[test]
    fn traffic_is_all_but_the_loopback() {
        let table = "Inter-|   Receive                                                |  Transmit\n face |bytes packets\n    lo: 5 1 0 0 0 0 0 0 5 1 0 0 0 0 0 0\n  eth0: 100 1 0 0 0 0 0 0 200 1 0 0 0 0 0 0\n  eth1:1 1 0 0 0 0 0 0 2 1 0 0 0 0 0 0\n";
        assert_eq!(traffic(table), Some([101, 202]));
    }
}
