//! All runs of a comparison: in which order, and when there are enough.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use serde::Serialize;
use skiff_ebpf::Profiler;
use skiff_observe::compare::{
    Arm, Interval, METRICS, Phase, Random, Run, Unit, block, centre, difference, index_of, pairs,
};
use skiff_runtime::supervise::Signals;

use super::Args;
use super::side::Side;
use super::trial::{self, Missing, Tools};
use crate::failure::Failure;
use crate::profile::duration;
use crate::roots::Roots;
use crate::run::os;

/// Why no more pairs were run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Stopped {
    /// The intervals are as narrow as they were to be.
    Precise,
    /// There were as many as there were to be at most.
    MaxRuns,
    /// It took as long as it was to take at most.
    MaxTime,
}

/// What a comparison took.
#[derive(Debug, Clone)]
pub(super) struct Ended {
    pub(super) stopped: Stopped,
    /// Whether the interval is as narrow as it was to be.
    pub(super) precise: bool,
    /// From the first run to the last, ns.
    pub(super) took_ns: u64,
    /// Of that, what was between the beginning of launches and the programs' ends.
    pub(super) measured_ns: u64,
    /// System calls that were traced, and what that has cost them, if it is known.
    pub(super) traced: Option<(u64, Option<u64>)>,
    /// Metrics that cannot be, and why.
    pub(super) missing: Missing,
}

/// What is going to run.
#[derive(Debug)]
pub(super) struct Session<'a> {
    args: &'a Args,
    tools: Tools,
    missing: Missing,
    seed: u64,
    random: Random,
    runs: Vec<Run>,
    measured_ns: u64,
    traced: Option<(u64, Option<u64>)>,
    began: Instant,
}

impl<'a> Session<'a> {
    /// Loads what runs are measured with, so that none of it can fail once they run.
    pub(super) fn prepare(args: &'a Args, seed: u64) -> Result<Self, Failure> {
        let profiler = args.syscalls.then(Profiler::load).transpose();
        let profiler = profiler.map_err(|error| Failure::engine(format!("--syscalls: {error}")))?;
        let (events, mut missing) = trial::available();
        if profiler.is_none() {
            missing.push(("syscalls", "only with --syscalls"));
        }
        let signals = Signals::block().map_err(|error| os("block signals", &error))?;
        let traced = profiler.as_ref().map(|_| (0, Some(0)));
        Ok(Self {
            args,
            tools: Tools { events, profiler, signals, swept: false },
            missing,
            seed,
            random: Random::new(seed),
            runs: Vec::new(),
            measured_ns: 0,
            traced,
            began: Instant::now(),
        })
    }

    /// Runs `sides`, of which there are one or two.
    pub(super) fn run(&mut self, sides: &[Side], roots: &Roots) -> Result<(Vec<Run>, Ended), Failure> {
        let quiet = (!self.args.show_output).then(Quiet::begin).transpose()?;
        let progress = Progress::of(quiet.as_ref());
        let Some(a) = sides.first() else { return Err(Failure::engine("bench: nothing to run")) };
        let of = |arm: Arm| if arm == Arm::A { a } else { sides.last().unwrap_or(a) };
        self.began = Instant::now();
        let arms: &[Arm] = if sides.len() == 1 { &[Arm::A] } else { &[Arm::A, Arm::B] };
        for _ in 0..self.args.warm_up {
            for arm in arms {
                self.trial(Phase::WarmUp, *arm, of(*arm), roots)?;
            }
        }
        if sides.len() > 1 {
            for pair in (0..self.args.control).step_by(2) {
                progress.show(&format!("A against A: {pair} of {} pairs", self.args.control));
                for arm in block(&mut self.random) {
                    self.trial(Phase::Control, arm, a, roots)?;
                }
            }
        }
        let (stopped, precise) = self.compare(&of, sides.len() > 1, roots, &progress)?;
        progress.end();
        let took_ns = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let (measured_ns, traced) = (self.measured_ns, self.traced);
        let missing = std::mem::take(&mut self.missing);
        let ended = Ended { stopped, precise, took_ns, measured_ns, traced, missing };
        Ok((std::mem::take(&mut self.runs), ended))
    }

    /// Runs pairs, or A alone, until there are enough.
    fn compare<'s>(
        &mut self,
        of: &dyn Fn(Arm) -> &'s Side,
        has_b: bool,
        roots: &Roots,
        progress: &Progress<'_>,
    ) -> Result<(Stopped, bool), Failure> {
        let stopping = self.args.stopping;
        let (mut done, mut look) = (0, stopping.next_look(0));
        loop {
            let order = if has_b { block(&mut self.random) } else { [Arm::A; 4] };
            // A last half of a block, where an odd number is wanted; alone, a run is a pair.
            let left = stopping.max_pairs - done;
            let count = if has_b { left.min(2) * 2 } else { left.min(2) };
            for arm in order.into_iter().take(count) {
                self.trial(Phase::Comparison, arm, of(arm), roots)?;
            }
            done += left.min(2);
            let is_late = self.began.elapsed() >= self.args.max_time && done >= stopping.min_pairs;
            let is_last = done >= stopping.max_pairs;
            if done < look && !is_late && !is_last {
                continue;
            }
            look = stopping.next_look(done);
            let widest = self.widest(has_b);
            progress.show(&widest.1);
            match (widest.0, is_last, is_late) {
                (precise, true, _) => return Ok((Stopped::MaxRuns, precise)),
                (true, ..) if done >= stopping.min_pairs => return Ok((Stopped::Precise, true)),
                (precise, _, true) => return Ok((Stopped::MaxTime, precise)),
                _ => {}
            }
        }
    }

    /// Whether all intervals that matter are narrow enough: of the metrics with limits, or else of the time. And how it stands.
    fn widest(&mut self, has_b: bool) -> (bool, String) {
        let mut metrics: Vec<usize> = self.args.limits.iter().map(|limit| limit.metric()).collect();
        if metrics.is_empty() {
            metrics.extend(index_of("wall"));
        }
        let mut text = String::new();
        let mut is_narrow = true;
        for metric in metrics {
            // The same numbers at each look, and others than for the order.
            let mut random = Random::new(self.seed ^ (metric as u64 + 1));
            let [a, b] = pairs(&self.runs, Phase::Comparison, metric);
            let settings = &self.args.settings;
            let base = centre(&a, settings, &mut random);
            let interval = if has_b { difference(&a, &b, settings, &mut random).absolute } else { base };
            is_narrow &= self.args.stopping.is_narrow(&interval, base.estimate);
            text = standing(metric, a.len(), &interval, base.estimate);
        }
        (is_narrow, text)
    }

    fn trial(&mut self, phase: Phase, arm: Arm, side: &Side, roots: &Roots) -> Result<(), Failure> {
        trial::interrupted(&self.tools.signals)?;
        let at_ns = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let trial = trial::run(side, roots, &mut self.tools)?;
        if trial.exit_code != 0 && !self.args.ignore_failure {
            let number = self.runs.len() + 1;
            return Err(Failure::engine(format!(
                "bench: run {number}, {}, exited with {}; --show-output shows why, --ignore-failure goes on",
                side.words, trial.exit_code
            )));
        }
        self.measured_ns += trial.wall_ns;
        if let (Some((calls, ns)), Some((more_calls, more_ns))) = (&mut self.traced, trial.traced) {
            *calls += more_calls;
            *ns = ns.zip(more_ns).map(|(ns, more)| ns + more);
        }
        self.runs.push(Run { phase, arm, at_ns, exit_code: trial.exit_code, figures: trial.figures });
        Ok(())
    }
}

/// How a metric stands.
fn standing(metric: usize, pairs: usize, interval: &Interval, base: f64) -> String {
    let metric = &METRICS[metric];
    let show = |figure: f64| match (metric.unit, base) {
        (_, base) if base > 0.0 => format!("{:.2} %", figure / base * 100.0),
        (Unit::Ns, _) => duration(figure),
        _ => format!("{figure:.0}"),
    };
    let width = if interval.is_bounded() { show(interval.half_width()) } else { "n/a".to_owned() };
    format!("{pairs} pairs, {} {} ± {width}", metric.name, show(interval.estimate))
}

/// Standard output and error are the null device until this is dropped: programs have these streams themselves.
#[derive(Debug)]
struct Quiet {
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl Quiet {
    fn begin() -> Result<Self, Failure> {
        let begin = || -> io::Result<Self> {
            let null = OpenOptions::new().write(true).open("/dev/null")?;
            let stdout = io::stdout().as_fd().try_clone_to_owned()?;
            let kept = Self { stdout, stderr: io::stderr().as_fd().try_clone_to_owned()? };
            nix::unistd::dup2_stdout(&null)?;
            nix::unistd::dup2_stderr(&null)?;
            Ok(kept)
        };
        begin().map_err(|error| os("drop what programs print", &error))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // Where it fails there is nowhere to say so.
        let _silent = nix::unistd::dup2_stdout(&self.stdout);
        let _silent = nix::unistd::dup2_stderr(&self.stderr);
    }
}

/// One line that says how far it is, on a terminal.
#[derive(Debug)]
struct Progress<'a> {
    to: Option<&'a OwnedFd>,
}

impl<'a> Progress<'a> {
    fn of(quiet: Option<&'a Quiet>) -> Self {
        Self { to: quiet.map(|quiet| &quiet.stderr).filter(|stderr| stderr.is_terminal()) }
    }

    fn show(&self, text: &str) {
        self.write(&format!("\r\x1b[K{text}"));
    }

    fn end(&self) {
        self.write("\r\x1b[K");
    }

    fn write(&self, text: &str) {
        let Some(to) = self.to.and_then(|to| to.try_clone().ok()) else { return };
        // A line that is not seen changes nothing.
        let _unseen = std::fs::File::from(to).write_all(text.as_bytes());
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        self.end();
    }
}
