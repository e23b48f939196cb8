//! Many containers at once, beside the floor under all of them.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use skiff_benches::lab::Lab;
use skiff_benches::options::Options;
use skiff_benches::report::Report;
use skiff_benches::samples::Samples;

use crate::arms::{Arm, FLOOR, Ground, Racer, SKIFF};
use crate::{AIMS, cycle, judge, judge_spread};

/// Containers at once.
const STORMS: [usize; 3] = [1, 8, 64];
/// Rounds of timing for each one with a storm.
const ROUNDS_PER_STORM: usize = 20;
/// How long the kernel may take to clear away what a storm has left, which is its own, not the next one's.
const CALM: Duration = Duration::from_millis(300);

/// What one arm took.
#[derive(Debug)]
struct Lane {
    racer: Racer,
    /// ms from the first to the end of the last, divided by their number.
    share: Samples,
    /// ms of each.
    each: Samples,
    /// ms of processor time of its processes and all that they have waited for, divided by their number. getrusage(2)
    cpu: Samples,
}

/// Storms of all sizes, with the arms in turns.
pub(crate) fn measure(
    report: &mut Report,
    lab: &Lab,
    arms: &[Arm],
    ground: &Ground,
    options: &Options,
) -> Result<()> {
    let rounds = options.count.div_ceil(ROUNDS_PER_STORM);
    let floor = if options.wants(FLOOR) { Some(Racer::floor(lab)?) } else { None };
    let racers: Vec<Racer> = arms.iter().cloned().map(Racer::Runtime).chain(floor).collect();
    for at_once in STORMS {
        report.line(&format!("\n## {at_once} × run at once, {rounds} rounds"));
        let (lanes, refused) = race(&racers, ground, at_once, rounds)?;
        write(report, at_once, &lanes);
        refused.iter().for_each(|line| report.line(&format!("* {line}")));
    }
    Ok(())
}

/// Those that took part to the end, and a line for each of the others.
fn race(
    racers: &[Racer],
    ground: &Ground,
    at_once: usize,
    rounds: usize,
) -> Result<(Vec<Lane>, Vec<String>)> {
    let lane = |racer: &Racer| Lane {
        racer: racer.clone(),
        share: Samples::new(),
        each: Samples::new(),
        cpu: Samples::new(),
    };
    let mut lanes: Vec<Lane> = racers.iter().map(lane).collect();
    let mut refused = Vec::new();
    for _ in 0..rounds {
        let mut index = 0;
        while index < lanes.len() {
            match lanes[index].take(ground, at_once)? {
                Ok(()) => index += 1,
                Err(line) => {
                    refused.push(line);
                    lanes.remove(index);
                }
            }
        }
        let turned = usize::from(!lanes.is_empty());
        lanes.rotate_left(turned);
    }
    lanes.sort_by_key(|lane| racers.iter().position(|racer| racer.name() == lane.racer.name()));
    Ok((lanes, refused))
}

impl Lane {
    /// One storm. What the runtime does wrong is a line.
    fn take(&mut self, ground: &Ground, at_once: usize) -> Result<Result<(), String>> {
        let number = at_once as f64;
        let before_ms = cpu_ms()?;
        let (ms, of_each) = match cycle::storm(&self.racer, ground, at_once) {
            Ok(taken) => taken,
            Err(line) => return Ok(Err(line)),
        };
        self.cpu.push((cpu_ms()? - before_ms) / number);
        thread::sleep(CALM);
        self.share.push(ms / number);
        of_each.into_iter().for_each(|ms| self.each.push(ms));
        Ok(Ok(()))
    }
}

/// What children that have been waited for have had of the processors.
fn cpu_ms() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let us = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(us as f64 / 1e3)
}

fn write(report: &mut Report, at_once: usize, lanes: &[Lane]) {
    let find = |name: &str| lanes.iter().find(|lane| lane.racer.name() == name);
    let share = |name: &str| find(name).map(|lane| lane.share.median());
    let row = |lane: &Lane| {
        let (share_ms, each) = (lane.share.median(), &lane.each);
        let mut row = vec![lane.racer.name().to_owned()];
        let figures = [
            share_ms,
            lane.cpu.median(),
            each.median(),
            each.percentile(99),
            each.percentile(99) / each.median(),
        ];
        row.extend(figures.map(|figure| format!("{figure:.2}")));
        let times = |other| share(other).map_or_else(String::new, |other| format!("{:.2}", share_ms / other));
        row.extend(AIMS.map(|(other, _)| times(other)));
        row
    };
    let rows: Vec<Vec<String>> = lanes.iter().map(row).collect();
    let head =
        ["arm", "all, ms ÷ number", "CPU ms ÷ number", "each p50 ms", "p99", "p99 ÷ p50", "× crun", "× runc"];
    report.table(&head, &rows);
    let what = format!("{at_once} at once");
    if let Some(skiff) = find(SKIFF) {
        judge(report, &what, skiff.share.median(), share);
        judge_spread(report, &what, &skiff.each);
    }
    if let Some(floor) = share(FLOOR) {
        let times = |other: &str| share(other).map(|other_ms| format!("{:.2} × {other}", floor / other_ms));
        let others: Vec<String> = AIMS.iter().filter_map(|(other, _)| times(other)).collect();
        report.line(&format!("* {what}: the floor is {}", others.join(", ")));
    }
}
