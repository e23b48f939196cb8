//! What the daemon's thread knows at one time, copied for another.

use std::collections::HashSet;
use std::sync::Arc;

use skiff_runtime::cgroup::Paths;
use skiff_sys::clock::monotonic_ns;

use super::totals::Counts;
use crate::engine::Engine;
use crate::figures::Tracker;
use crate::pool;
use crate::{Record, State};

/// All of it.
#[derive(Debug)]
pub(super) struct Look {
    /// When, ns of CLOCK_MONOTONIC.
    pub(super) at_ns: u64,
    /// Containers that run.
    pub(super) running: Vec<Running>,
    /// The ids of all there are.
    pub(super) ids: HashSet<String>,
    /// How many containers there are in each state.
    pub(super) states: [(State, u64); 7],
    pub(super) counts: Counts,
    pub(super) pools: Pools,
    /// Clients of the daemon.
    pub(super) clients: usize,
    pub(super) spawner_pid: i32,
    /// What programs in the kernel count of containers.
    pub(super) tracker: Tracker,
}

/// A container that runs.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) record: Arc<Record>,
    pub(super) pid: i32,
    pub(super) cgroups: Paths,
}

/// What is made ahead.
#[derive(Debug, Default)]
pub(super) struct Pools {
    pub(super) ready: usize,
    pub(super) under_way: usize,
    pub(super) target: usize,
    pub(super) figures: pool::Figures,
    /// Those that are ready.
    pub(super) pids: Vec<i32>,
}

impl Look {
    /// Copies what `engine` knows: some hundred nanoseconds for each container.
    pub(super) fn at(engine: &Engine) -> Self {
        let mut states = [
            State::Created,
            State::Running,
            State::Paused,
            State::Restarting,
            State::Removing,
            State::Exited,
            State::Dead,
        ]
        .map(|state| (state, 0));
        let (mut running, mut ids) = (Vec::new(), HashSet::new());
        for entry in engine.containers.borrow().all() {
            let record = entry.record();
            ids.insert(record.id.clone());
            for (state, count) in &mut states {
                *count += u64::from(*state == record.state);
            }
            if let Some(life) = entry.life.borrow().as_deref()
                && record.state.is_live()
            {
                running.push(Running { record, pid: life.pid, cgroups: life.cgroups.clone() });
            }
        }
        running.sort_by(|one, other| one.record.id.cmp(&other.record.id));
        Self {
            at_ns: monotonic_ns(),
            running,
            ids,
            states,
            counts: engine.totals.counts(),
            pools: Pools::of(engine),
            clients: engine.activity.clients.get(),
            spawner_pid: engine.link.pid(),
            tracker: engine.tracker.clone(),
        }
    }
}

impl Pools {
    fn of(engine: &Engine) -> Self {
        let pools = engine.pools.borrow();
        let mut all = Self { figures: pools.figures(), ..Self::default() };
        for summary in pools.summaries(monotonic_ns()) {
            all.ready += summary.ready;
            all.under_way += summary.under_way;
            all.target += summary.target;
        }
        all.pids = pools.all().map(|ready| ready.parked.container().pid).collect();
        all
    }
}
