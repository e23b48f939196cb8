//! One run: a launch, the program's life, and the figures of both.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use skiff_ebpf::{Profiler, Slot};
use skiff_engine::image;
use skiff_observe::compare::Figures;
use skiff_runtime::launch::{self, Running};
use skiff_runtime::supervise::Signals;
use skiff_runtime::{Host, Options, Plan};
use skiff_sys::clock::monotonic_ns;
use skiff_sys::counters::{Counter, Event};

use super::side::Side;
use crate::failure::Failure;
use crate::roots::Roots;
use crate::run::{exit_code, fresh_id, os};

/// Counters of the kernel by the names of their metrics.
pub(super) const EVENTS: [(&str, Event); 11] = [
    ("cpu", Event::CpuTime),
    ("minor-faults", Event::MinorFaults),
    ("major-faults", Event::MajorFaults),
    ("switches", Event::Switches),
    ("migrations", Event::Migrations),
    ("cycles", Event::Cycles),
    ("instructions", Event::Instructions),
    ("cache-references", Event::CacheReferences),
    ("cache-misses", Event::CacheMisses),
    ("branches", Event::Branches),
    ("branch-misses", Event::BranchMisses),
];

/// Counters by the names of their metrics.
type Events = Vec<(&'static str, Event)>;

/// Metrics that cannot be, and why.
pub(super) type Missing = Vec<(&'static str, &'static str)>;

/// What runs are measured with.
#[derive(Debug)]
pub(super) struct Tools {
    /// Those that the machine has.
    pub(super) events: Events,
    /// Counts system calls.
    pub(super) profiler: Option<Profiler>,
    /// Signals that end the comparison.
    pub(super) signals: Signals,
    /// What others have left is cleared once.
    pub(super) swept: bool,
}

/// A run that is over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trial {
    pub(super) exit_code: u8,
    pub(super) figures: Figures,
    /// Between the beginning of the launch and the program's end.
    pub(super) wall_ns: u64,
    /// System calls that were traced, and what that has cost, if it is known.
    pub(super) traced: Option<(u64, Option<u64>)>,
}

/// Runs the container of `side` to its end and removes it. Nothing else is done between the two clock readings.
pub(super) fn run(side: &Side, roots: &Roots, tools: &mut Tools) -> Result<Trial, Failure> {
    let spec = &side.args.spec;
    let options = Options { id: fresh_id()?, account: true, ..image::fold(spec, side.image.clone())? };
    let counters = tools.counters();
    let mut slot = None;

    let begin_ns = monotonic_ns();
    let host = Host::probe(&options, &roots.state, &roots.run)?;
    let plan = Plan::build(&options, &host)?;
    let profiler = &mut tools.profiler;
    let mut running = launch::start(&plan, &mut |cgroup| {
        let Some(profiler) = profiler else { return Ok(()) };
        let cgroup =
            cgroup.ok_or("--syscalls: the host has no cgroup v2 hierarchy to put the container in")?;
        let armed = profiler.arm(cgroup, options.init.into());
        slot = Some(armed.map_err(|error| format!("--syscalls: {error}"))?);
        Ok(())
    })?;
    attend(&running, &tools.signals, spec.timeout_s.map(Duration::from_secs))?;
    let exit = running.wait().map_err(|error| os("wait for the container", &error))?;
    let ended_ns = monotonic_ns();

    let mut figures = Figures::default();
    for (name, counter) in &counters {
        figures.set(name, counter.read().ok().and_then(|count| count.scaled()));
    }
    let traced = slot.map(|slot| tools.calls(slot)).transpose()?;
    figures.set("syscalls", traced.map(|(calls, ..)| calls));
    of_the_cgroup(&running, &mut figures);
    let wall_ns = ended_ns.saturating_sub(begin_ns);
    // The child's own stamp: its parent may see the program only later, or when that has ended.
    let launch_ns = running.stamps().security_done.saturating_sub(begin_ns);
    figures.set("wall", Some(wall_ns));
    figures.set("launch", Some(launch_ns));
    figures.set("run", Some(wall_ns.saturating_sub(launch_ns)));
    if !tools.swept {
        tools.swept = true;
        if let Err(error) = launch::sweep(&plan) {
            tracing::warn!("{error}");
        }
    }
    running.remove()?;
    let traced = traced.map(|(_, traced, ns)| (traced, ns));
    Ok(Trial { exit_code: exit_code(exit), figures, wall_ns, traced })
}

/// Waits for the end. What is dropped on the way out is killed and removed.
fn attend(running: &Running, signals: &Signals, limit: Option<Duration>) -> Result<(), Failure> {
    let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let patience = left.map_or(PollTimeout::NONE, |left| {
            // Not before it is over.
            PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        let mut watched = [
            PollFd::new(running.pidfd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut watched, patience) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(os("wait for the container", &error.into())),
        }
        if watched[0].any().unwrap_or(true) {
            return Ok(());
        }
        interrupted(signals)?;
        if left.is_some_and(|left| left.is_zero()) {
            return Err(Failure::engine("a run has not ended within --timeout"));
        }
    }
}

/// Whether a signal has come that usually ends a program.
pub(super) fn interrupted(signals: &Signals) -> Result<(), Failure> {
    let taken = signals.take().map_err(|error| os("take a signal", &error))?;
    let ends =
        |signal: &&i32| matches!(**signal, libc::SIGHUP | libc::SIGINT | libc::SIGQUIT | libc::SIGTERM);
    match taken.iter().find(ends) {
        None => Ok(()),
        Some(signal) => {
            let code = u8::try_from(128 + signal).unwrap_or(u8::MAX);
            Err(Failure { code, message: format!("bench: ended by signal {signal}") })
        }
    }
}

fn of_the_cgroup(running: &Running, figures: &mut Figures) {
    let usage = running.usage();
    let ns = |us: Option<u64>| us.map(|us| us * 1000);
    let (user, system) = (ns(usage.cpu_user_us), ns(usage.cpu_system_us));
    figures.set("cpu-user", user);
    figures.set("cpu-system", system);
    figures.set("memory-peak", usage.memory_peak_bytes);
    figures.set("block-read", usage.block_read_bytes);
    figures.set("block-write", usage.block_write_bytes);
}

impl Tools {
    /// Counters that begin with the next program.
    fn counters(&self) -> Vec<(&'static str, Counter)> {
        let open = |(name, event): &(&'static str, Event)| Some((*name, Counter::of_children(*event).ok()?));
        self.events.iter().filter_map(open).collect()
    }

    /// The program's system calls; all that were traced, and what that has cost, ns.
    fn calls(&mut self, slot: Slot) -> Result<(u64, u64, Option<u64>), Failure> {
        let failed = |error: skiff_ebpf::Error| Failure::engine(format!("--syscalls: {error}"));
        let Some(profiler) = &mut self.profiler else { return Ok((0, 0, None)) };
        let record = profiler.finish(slot).map_err(failed)?;
        if record.lost > 0 {
            return Err(Failure::engine(format!("--syscalls: {} events were lost", record.lost)));
        }
        let calls = record.workload.syscalls.iter().map(|call| call.count).sum();
        Ok((calls, record.calls(), record.cost.ns_per_call.map(|ns| ns * record.calls())))
    }
}

/// The counters that this machine has, and why it has not the others.
pub(super) fn available() -> (Events, Missing) {
    let (mut there, mut missing) = (Vec::new(), Vec::new());
    for (name, event) in EVENTS {
        match Counter::of_children(event).map(drop) {
            Ok(()) => there.push((name, event)),
            Err(error) => missing.push((name, why(&error))),
        }
    }
    (there, missing)
}

fn why(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::EOPNOTSUPP | libc::ENODEV) => "the machine does not count it",
        Some(libc::EACCES | libc::EPERM) => "it needs CAP_PERFMON",
        _ => "perf_event_open refuses it",
    }
}
