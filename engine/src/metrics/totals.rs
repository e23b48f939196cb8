//! What the daemon counts of containers as they come and go, whether anybody collects it or not: some adding up per launch.

use std::cell::RefCell;

use skiff_observe::exposition::Histogram;
use skiff_runtime::launch::Exit;

use crate::figures::Figures;

/// Upper bounds of the classes of launches, s.
const LAUNCH_BOUNDS: &[f64] =
    &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

/// How a launch has gone, for the label `outcome`.
pub(super) const LAUNCHES: [&str; 4] = ["started", "not_executable", "not_found", "failed"];

/// How a container has ended, for the label `outcome`.
pub(super) const ENDS: [&str; 3] = ["success", "failure", "signal"];

/// Counts since the daemon has started.
#[derive(Debug)]
pub(crate) struct Totals(RefCell<Counts>);

/// The same, at one time.
#[derive(Debug, Clone)]
pub(super) struct Counts {
    /// By outcome, as [`LAUNCHES`] has them.
    pub(super) launches: [u64; 4],
    /// How long those that have started took.
    pub(super) launch: Histogram,
    /// By outcome, as [`ENDS`] has them.
    pub(super) ends: [u64; 3],
    /// By policy.
    pub(super) restarts: u64,
    /// Spawners that were replaced.
    pub(super) spawners: u64,
    /// What containers that have ended had used.
    pub(super) ended: Ended,
}

/// Sums over containers that have ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) cpu_user_ns: u64,
    pub(super) cpu_system_ns: u64,
    pub(super) throttled_ns: u64,
    pub(super) block_read_bytes: u64,
    pub(super) block_write_bytes: u64,
    pub(super) major_faults: u64,
    pub(super) oom_kills: u64,
}

impl Default for Totals {
    fn default() -> Self {
        Self(RefCell::new(Counts {
            launches: [0; 4],
            launch: Histogram::new(LAUNCH_BOUNDS),
            ends: [0; 3],
            restarts: 0,
            spawners: 0,
            ended: Ended::default(),
        }))
    }
}

impl Totals {
    /// A program runs, so long after it was asked for.
    pub(crate) fn launched(&self, took_ns: u64) {
        let mut counts = self.0.borrow_mut();
        counts.launches[0] += 1;
        counts.launch.add(seconds(took_ns));
    }

    /// A container could not be started, for which there is this exit code.
    pub(crate) fn failed(&self, exit_code: u8) {
        let outcome = match exit_code {
            126 => 1,
            127 => 2,
            _ => 3,
        };
        self.0.borrow_mut().launches[outcome] += 1;
    }

    /// A container has ended.
    pub(crate) fn ended(&self, exit: Exit) {
        let outcome = match exit {
            Exit::Code(0) => 0,
            Exit::Code(_) => 1,
            Exit::Signal(_) => 2,
        };
        self.0.borrow_mut().ends[outcome] += 1;
    }

    /// What a container that has ended had used is known.
    pub(crate) fn used(&self, figures: &Figures) {
        let ended = &mut self.0.borrow_mut().ended;
        let sums = [
            (&mut ended.cpu_user_ns, figures.cpu.user_ns),
            (&mut ended.cpu_system_ns, figures.cpu.system_ns),
            (&mut ended.block_read_bytes, figures.block.read_bytes),
            (&mut ended.block_write_bytes, figures.block.write_bytes),
            (&mut ended.throttled_ns, figures.cpu.throttled_ns),
            (&mut ended.major_faults, figures.memory.major_faults),
            (&mut ended.oom_kills, figures.memory.oom_kills),
        ];
        for (sum, more) in sums {
            *sum = sum.saturating_add(more.unwrap_or(0));
        }
    }

    /// A restart policy has started a container again.
    pub(crate) fn restarted(&self) {
        self.0.borrow_mut().restarts += 1;
    }

    /// A spawner has gone that was not told to.
    pub(crate) fn lost_spawner(&self) {
        self.0.borrow_mut().spawners += 1;
    }

    pub(super) fn counts(&self) -> Counts {
        self.0.borrow().clone()
    }
}

#[expect(clippy::cast_precision_loss, reason = "of what lasts less than three months nothing is lost")]
pub(super) fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}
