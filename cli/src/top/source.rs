//! Where figures come from: the daemon, if one runs, and the pinned programs, if they are. Neither is started for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use skiff_ebpf::pinned::Pinned;
use skiff_ebpf::{Culprit, Histogram, Tier1};
use skiff_engine::figures::Sampled;
use skiff_engine::protocol::{Reply, Request};
use skiff_engine::{Client, State};
use skiff_runtime::cgroup::Layout;

use super::blame;
use crate::blamed::Holders;
use crate::failure::Failure;
use crate::observe;
use crate::profile::{duration, plain};
use crate::roots::Roots;
use crate::stats::{Sample, Stats};
use crate::{client, counted};

/// How long the daemon may take: nobody's keys are read meanwhile.
const ANSWERED: Duration = Duration::from_secs(2);

/// What a container has used so far, and uses now; `None` is not known.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Reading {
    pub(super) id: String,
    /// Its name, or the beginning of its id; without control characters.
    pub(super) name: String,
    pub(super) image: String,
    /// When it was read, ns; of one clock for each container.
    pub(super) at_ns: u64,
    /// Its cgroup v2 directory.
    pub(super) directory: Option<PathBuf>,
    pub(super) cpu_ns: Option<u64>,
    pub(super) run_queue_ns: Option<u64>,
    pub(super) throttled_ns: Option<u64>,
    pub(super) memory_bytes: Option<u64>,
    pub(super) memory_limit_bytes: Option<u64>,
    pub(super) faults: Option<u64>,
    pub(super) calls: Option<u64>,
    pub(super) read_bytes: Option<u64>,
    pub(super) write_bytes: Option<u64>,
    pub(super) received_bytes: Option<u64>,
    pub(super) sent_bytes: Option<u64>,
    pub(super) tasks: Option<u64>,
    /// What the probes beside that of system calls tell of its waiting, a line each.
    pub(super) waits: Vec<String>,
    /// For whom it waited, and who for it.
    pub(super) blame: Vec<blame::Line>,
}

/// Reads all containers.
///
/// Errors: there is neither a daemon nor a pinned program.
pub(super) fn read(roots: &Roots) -> Result<Vec<Reading>, Failure> {
    let of_daemon = of_daemon(roots)?;
    let pinned = observe::open().unwrap_or_default();
    if of_daemon.is_none() && pinned.is_none() {
        return Err(client::refused(Failure::engine(
            "top: no daemon runs, and observing is off: nothing is known",
        )));
    }
    let named = |id: &str| {
        let known = of_daemon.iter().flatten().find(|reading| reading.id == id);
        known.map_or_else(|| plain(counted::short(id)), |reading| reading.name.clone())
    };
    let of_pinned = pinned.map_or_else(|| Ok(Vec::new()), |pinned| of_pinned(&pinned, &named))?;
    let mut all = of_daemon.unwrap_or_default();
    for reading in of_pinned {
        match all.iter_mut().find(|other| other.id == reading.id) {
            Some(known) => complete(known, reading),
            None => all.push(reading),
        }
    }
    Ok(all)
}

fn of_daemon(roots: &Roots) -> Result<Option<Vec<Reading>>, Failure> {
    if crate::run::is_alone() {
        return Ok(None);
    }
    let Some(mut daemon) = reached(&roots.run)? else { return Ok(None) };
    let request = Request::Figures { containers: Vec::new() };
    daemon.request(&request, &[]).map_err(client::failed)?;
    match daemon.reply().map_err(client::failed)?.0 {
        Reply::Documents { documents, .. } => {
            let mount = Layout::of_host().unified;
            let samples = documents.into_iter().filter_map(|one| serde_json::from_value::<Sampled>(one).ok());
            let live = samples.filter(|sampled| matches!(sampled.state, State::Running | State::Paused));
            Ok(Some(live.map(|sampled| of_sampled(sampled, mount.as_ref())).collect()))
        }
        Reply::Leaving => Ok(None),
        other => Err(client::unexpected(&other)),
    }
}

fn reached(run: &Path) -> Result<Option<Client>, Failure> {
    Client::reach_within(run, ANSWERED)
        .map_err(|error| client::refused(client::os("reach the daemon", &error)))
}

fn of_sampled(sampled: Sampled, mount: Option<&PathBuf>) -> Reading {
    let figures = sampled.figures;
    let sum = |one: Option<u64>, other: Option<u64>| one.zip(other).map(|(one, other)| one + other);
    Reading {
        name: plain(sampled.name.trim_start_matches('/')),
        image: plain(&sampled.image),
        at_ns: figures.at_ns,
        directory: mount.and_then(|mount| directory(sampled.pid, mount)),
        cpu_ns: figures.cpu.usage_ns,
        run_queue_ns: figures.cpu.run_queue_ns,
        throttled_ns: figures.cpu.throttled_ns,
        memory_bytes: figures
            .memory
            .working_set_bytes
            .or(figures.memory.usage_bytes)
            .or(figures.memory.rss_bytes),
        memory_limit_bytes: figures.memory.limit_bytes,
        faults: sum(figures.memory.minor_faults, figures.memory.major_faults),
        calls: None,
        read_bytes: figures.block.read_bytes,
        write_bytes: figures.block.write_bytes,
        received_bytes: figures.network.map(|network| network.received_bytes),
        sent_bytes: figures.network.map(|network| network.sent_bytes),
        tasks: figures.processes.current,
        waits: Vec::new(),
        blame: Vec::new(),
        id: sampled.id,
    }
}

/// `named` says what a container is called.
fn of_pinned(pinned: &Pinned, named: &dyn Fn(&str) -> String) -> Result<Vec<Reading>, Failure> {
    let containers = counted::all(pinned)?;
    let run_queue = |container: &counted::Container| {
        let run_queue = pinned.tier1(container.slot()).map_err(observe::failed)?.run_queue;
        Ok(run_queue.map(|run_queue| run_queue.blame).unwrap_or_default())
    };
    let waited: Vec<_> = if pinned.probes().run_queue {
        containers.iter().map(run_queue).collect::<Result<_, Failure>>()?
    } else {
        Vec::new()
    };
    let holders = Holders::of(pinned)?;
    let waiter = |(container, blame): (&counted::Container, Vec<(Culprit, u64)>)| blame::Waiter {
        slot: container.slot(),
        name: named(&container.id),
        blame: holders.blamed(&blame),
    };
    let waiters: Vec<_> = containers.iter().zip(waited).map(waiter).collect();
    let one = |container: counted::Container| {
        let in_slot = |slot: u32| holders.id(slot).map_or_else(String::new, named);
        let blame = blame::lines(&waiters, &in_slot, container.slot());
        let record = match pinned.snapshot(container.slot()) {
            Ok(record) => Some(record),
            Err(skiff_ebpf::Error::NoCalls) => None,
            Err(error) => return Err(observe::failed(error)),
        };
        let tier1 = pinned.tier1(container.slot()).map_err(observe::failed)?;
        let usage = container.usage();
        let (directory, name) = (container.directory.clone(), plain(container.short_id()));
        let cpu_us = usage.cpu_user_us.zip(usage.cpu_system_us).map(|(user, system)| user + system);
        let stats = Stats::between(None, &Sample::take(container, None, record.as_ref()));
        let run_queue = tier1.run_queue.as_ref();
        let bytes = |way: usize| tier1.block.as_ref().map(|block| block.bytes[way]);
        Ok(Reading {
            id: stats.id,
            name,
            image: String::new(),
            at_ns: skiff_sys::clock::monotonic_ns(),
            directory: Some(directory),
            cpu_ns: cpu_us.map(|us| us * 1000),
            run_queue_ns: stats.run_queue_ns.or_else(|| Some(run_queue?.wait.total_ns)),
            throttled_ns: usage.throttled_us.map(|us| us * 1000),
            memory_bytes: stats.memory_bytes,
            memory_limit_bytes: stats.memory_limit_bytes,
            faults: stats.faults,
            calls: stats.system_calls,
            read_bytes: stats.block_read_bytes.or_else(|| bytes(0)),
            write_bytes: stats.block_write_bytes.or_else(|| bytes(1)),
            received_bytes: stats.network_received_bytes.or_else(|| Some(tier1.net?.received_bytes)),
            sent_bytes: stats.network_sent_bytes.or_else(|| Some(tier1.net?.sent_bytes)),
            tasks: stats.processes,
            waits: waits(&tier1),
            blame,
        })
    };
    containers.into_iter().filter(|container| container.pid.is_some()).map(one).collect()
}

/// How long it waited, and for what, since it began.
fn waits(tier1: &Tier1) -> Vec<String> {
    let line = |name: &str, waits: &Histogram| {
        let at = |percent: u64| duration(waits.percentile_ns(percent) as f64);
        format!("{name}: {} times, half within {}, 99 of 100 within {}", waits.count(), at(50), at(99))
    };
    let mut lines = Vec::new();
    if let Some(run_queue) = &tier1.run_queue {
        lines.push(line("for a CPU", &run_queue.wait));
    }
    if let Some(block) = &tier1.block {
        let [reads, writes] = &block.latency;
        lines.extend([line("reads of block devices", reads), line("writes", writes)]);
    }
    lines
}

/// Adds what only the pinned programs know. Counters of `known` that they have, too, stay: each has its own beginning.
fn complete(known: &mut Reading, counted: Reading) {
    known.calls = counted.calls;
    known.run_queue_ns = known.run_queue_ns.or(counted.run_queue_ns);
    known.faults = known.faults.or(counted.faults);
    known.memory_bytes = known.memory_bytes.or(counted.memory_bytes);
    known.read_bytes = known.read_bytes.or(counted.read_bytes);
    known.write_bytes = known.write_bytes.or(counted.write_bytes);
    known.received_bytes = known.received_bytes.or(counted.received_bytes);
    known.sent_bytes = known.sent_bytes.or(counted.sent_bytes);
    (known.waits, known.blame) = (counted.waits, counted.blame);
    known.directory = known.directory.take().or(counted.directory);
}

/// The cgroup v2 directory that the process `pid` is in.
fn directory(pid: i32, mount: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(mount.join(path))
}
