//! One launch at a time, by all launchers in turn.

use std::os::unix::net::UnixDatagram;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use skiff_benches::lab::Lab;
use skiff_benches::options::Options;
use skiff_benches::report::Report;
use skiff_benches::samples::Samples;
use skiff_sys::clock::monotonic_ns;

use crate::arms::{self, Arm};
use crate::daemon::{Daemon, STAGES};
use crate::{Sample, aim};

/// Rounds that are not counted, if there are more that are.
const WARM_UP: usize = 5;

/// What the samples of an arm come to.
#[derive(Debug, Clone, Default)]
struct Series {
    first: Samples,
    started: Samples,
    whole: Samples,
}

impl Series {
    fn push(&mut self, sample: Sample) {
        self.first.push(sample.first_us);
        self.started.push(sample.started_us);
        self.whole.push(sample.whole_us);
    }
}

/// Compares the launchers, and looks at the daemon alone.
pub(crate) fn measure(report: &mut Report, lab: &Lab, daemon: &Daemon, options: &Options) -> Result<()> {
    if options.wants_part("turns") {
        compare(report, lab, daemon, options)?;
    }
    if options.wants_part("alone") {
        alone(report, daemon, options.count * 5)?;
    }
    if options.wants_part("waterfall") {
        waterfall(report, lab, daemon, options.count)?;
    }
    Ok(())
}

fn compare(report: &mut Report, lab: &Lab, daemon: &Daemon, options: &Options) -> Result<()> {
    let ms = Duration::from_millis;
    let few = options.count.div_ceil(20);
    let shapes = [
        (true, ms(0), "taking turns without gaps", options.count),
        (true, ms(10), "10 ms gaps", options.count),
        (true, ms(1000), "1 s gaps", few),
        (false, ms(0), "without a seccomp profile, no gaps", options.count),
    ];
    let with_profile = arms::arms(lab, daemon, true)?;
    let without = arms::arms(lab, daemon, false)?;
    for (seccomp, gap, title, count) in shapes {
        let mut arms: Vec<&Arm<'_>> = if seccomp { &with_profile } else { &without }.iter().collect();
        arms.retain(|arm| options.wants(arm.name));
        report.line(&format!("\n## {title}, n = {count}"));
        let (series, refused) = turns(&mut arms, count, gap);
        write(report, &arms, &series);
        refused.iter().for_each(|line| report.line(line));
    }
    std::fs::remove_dir_all(lab.path("bundle"))?;
    Ok(std::fs::remove_dir_all(lab.path("plain"))?)
}

/// `count` samples of each arm, with `gap` of silence before each. An arm that is not installed, fails or hangs is
/// taken out; why is returned.
fn turns(arms: &mut Vec<&Arm<'_>>, count: usize, gap: Duration) -> (Vec<Series>, Vec<String>) {
    let mut series = vec![Series::default(); arms.len()];
    let mut refused = Vec::new();
    let warm_up = WARM_UP.min(count);
    for round in 0..warm_up + count {
        let mut turn = 0;
        while turn < arms.len() {
            let index = (round + turn) % arms.len();
            thread::sleep(gap);
            match arms[index].launch() {
                Ok(sample) if round >= warm_up => series[index].push(sample),
                Ok(_) => {}
                Err(error) => {
                    refused.push(format!("* {}: {error:#} in round {round}", arms[index].name));
                    arms.remove(index);
                    series.remove(index);
                    continue;
                }
            }
            turn += 1;
        }
    }
    (series, refused)
}

fn write(report: &mut Report, arms: &[&Arm<'_>], series: &[Series]) {
    let of = |name: &str| arms.iter().position(|arm| arm.name == name).map(|index| &series[index]);
    let plain = of("fork+exec").map(|series| series.whole.median());
    let rows: Vec<Vec<String>> =
        arms.iter().zip(series).map(|(arm, series)| row(arm.name, series, plain)).collect();
    let head = ["µs", "first p50", "p1", "p99", "whole p50", "p1", "p99", "× fork+exec"];
    report.table(&head, &rows);
    if let Some(request) = of("request") {
        aims(report, request);
        let ratio = |name: &str| of(name).map(|other| request.whole.median() / other.whole.median());
        if let Some(ratio) = ratio("fork+exec") {
            aim(report, "whole run by request, × fork+exec", ratio, 2.0, "");
        }
        if let Some(ratio) = ratio("crun") {
            aim(report, "whole run by request, × crun", ratio, 0.35, "");
        }
    }
    let skiff = of("skiff").map(|series| series.whole.median());
    for (other, aim_at) in [("crun", 0.35), ("runc", 0.2)] {
        if let (Some(skiff), Some(theirs)) = (skiff, of(other)) {
            let what = format!("whole run by the skiff command, × {other}");
            aim(report, &what, skiff / theirs.whole.median(), aim_at, "");
        }
    }
}

fn row(name: &str, series: &Series, plain: Option<f64>) -> Vec<String> {
    let three = |samples: &Samples| [samples.median(), samples.percentile(1), samples.percentile(99)];
    let times = three(&series.first).into_iter().chain(three(&series.whole));
    let ratio = plain.map_or_else(String::new, |plain| format!("{:.2}", series.whole.median() / plain));
    [name.to_owned()].into_iter().chain(times.map(|time| format!("{time:.0}"))).chain([ratio]).collect()
}

fn aims(report: &mut Report, request: &Series) {
    let median = request.first.median();
    aim(report, "first instruction p50", median / 1e3, 1.0, " ms");
    aim(report, "first instruction p99, × p50", request.first.percentile(99) / median, 3.0, "");
}

/// The daemon without others in between: one request as soon as the one before has ended.
fn alone(report: &mut Report, daemon: &Daemon, count: usize) -> Result<()> {
    report.line(&format!("\n## requests back to back, nobody else, n = {count}"));
    let mut rows = Vec::new();
    let mut warm = None;
    for (name, pool) in [("request", true), ("request --pool 0", false)] {
        let mut series = Series::default();
        for round in 0..WARM_UP + count {
            let sample = daemon.launch(pool)?;
            if round >= WARM_UP {
                series.push(sample);
            }
        }
        let mut cells = row(name, &series, None);
        cells.pop();
        cells.push(format!("{:.0}", series.started.median()));
        rows.push(cells);
        warm.get_or_insert(series);
    }
    let head = ["µs", "first p50", "p1", "p99", "whole p50", "p1", "p99", "told p50"];
    report.table(&head, &rows);
    if let Some(series) = warm {
        aims(report, &series);
    }
    for pool in daemon.documents(&skiff_engine::protocol::Request::Pools)? {
        let [hits, misses, wasted] = ["hits", "misses", "wasted"].map(|field| pool[field].clone());
        report.line(&format!(
            "* pool {}: {hits} hits, {misses} misses, {wasted} wasted; making one takes {:.1} ms",
            pool["key"],
            pool["making_us"].as_f64().unwrap_or(f64::NAN) / 1e3
        ));
    }
    Ok(())
}

/// Where the time of a warm launch goes, with 10 ms of silence before each.
fn waterfall(report: &mut Report, lab: &Lab, daemon: &Daemon, count: usize) -> Result<()> {
    report.line(&format!("\n## a warm launch, part by part, 10 ms gaps, n = {count}"));
    let mut parts = vec![Samples::new(); STAGES.len()];
    let mut rest = Samples::new();
    for _ in 0..count {
        thread::sleep(Duration::from_millis(10));
        let (sample, ends) = daemon.launch_in_stages()?;
        let begins = [0.0].into_iter().chain(ends);
        for ((part, begin), end) in parts.iter_mut().zip(begins).zip(ends) {
            part.push(end - begin);
        }
        rest.push(sample.whole_us - sample.first_us);
    }
    let middles: Vec<f64> = parts.iter().map(Samples::median).collect();
    let whole: f64 = middles.iter().sum();
    let mut at = 0.0;
    let mut rows = Vec::new();
    for ((name, part), middle) in STAGES.iter().zip(&parts).zip(middles) {
        at += middle;
        let (tail, share) = (part.percentile(99), 100.0 * middle / whole);
        rows.push(vec![
            (*name).to_owned(),
            format!("{middle:.0}"),
            format!("{tail:.0}"),
            format!("{at:.0}"),
            format!("{share:.0} %"),
        ]);
    }
    report.table(&["part", "p50 µs", "p99 µs", "at", "share"], &rows);
    report.line(&format!("* from there to the end that the client knows: {:.0} µs", rest.median()));
    let (wake, plain) = (wake_up(count)?, plain(report, lab, daemon, count)?);
    report.line(&format!(
        "* the floor of it: to wake somebody takes {wake:.0} µs, and there are two in front of execve and two behind the end; \
         the same program by fork+exec takes {:.0} µs to its first instruction, {:.0} µs to its reaped end",
        plain.first.median(),
        plain.whole.median()
    ));
    Ok(())
}

/// How long it takes from a write to the reader's waking, with 10 ms of silence before each, µs.
fn wake_up(count: usize) -> Result<f64> {
    let (here, there) = UnixDatagram::pair()?;
    let reader = thread::spawn(move || -> Result<Samples> {
        let mut samples = Samples::new();
        let mut sent = [0; 8];
        while there.recv(&mut sent)? == sent.len() {
            samples.push((monotonic_ns() - u64::from_ne_bytes(sent)) as f64 / 1e3);
        }
        Ok(samples)
    });
    for _ in 0..count {
        thread::sleep(Duration::from_millis(10));
        here.send(&monotonic_ns().to_ne_bytes())?;
    }
    here.send(&[0])?;
    let samples = reader.join().map_err(|_| anyhow!("the reader has failed"))??;
    Ok(samples.median())
}

/// The program itself, with 10 ms of silence before each.
fn plain(report: &mut Report, lab: &Lab, daemon: &Daemon, count: usize) -> Result<Series> {
    let arms = arms::arms(lab, daemon, true)?;
    let mut only: Vec<&Arm<'_>> = arms.iter().filter(|arm| arm.name == "fork+exec").collect();
    let (mut series, refused) = turns(&mut only, count, Duration::from_millis(10));
    refused.iter().for_each(|line| report.line(line));
    std::fs::remove_dir_all(lab.path("bundle"))?;
    series.pop().context("it is there")
}
