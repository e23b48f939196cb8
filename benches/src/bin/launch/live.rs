//! With many containers that go on: launches beside them, the memory that skiff holds for each, a daemon that finds them.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use skiff_benches::lab::Lab;
use skiff_benches::options::Options;
use skiff_benches::report::Report;
use skiff_benches::samples::Samples;
use skiff_engine::protocol::Request;

use crate::aim;
use crate::daemon::Daemon;

/// Measures with each number of live containers.
pub(crate) fn measure(report: &mut Report, lab: &Lab, options: &Options) -> Result<()> {
    if !options.wants("request") || !options.wants_part("live") {
        return Ok(());
    }
    let sizes: &[usize] = if options.count < 100 { &[20] } else { &[1000, 5000] };
    for size in sizes {
        report.line(&format!("\n## with {size} containers live"));
        // One that is not measured is no reason to leave out the others; what there was of it goes with the daemon.
        if let Err(error) = beside(report, lab, options, *size) {
            report.line(&format!("* not measured: {error:#}"));
        }
    }
    Ok(())
}

/// Measures with `size` live containers.
fn beside(report: &mut Report, lab: &Lab, options: &Options, size: usize) -> Result<()> {
    let mut daemon = Daemon::start(lab)?;
    // Whatever is set up once is there.
    daemon.launch(true)?;
    daemon.settle(0)?;
    let before = held(&daemon)?;
    let kernel = available_kib()?;
    let begun = Instant::now();
    let ids = daemon.stand_by(size)?;
    report.line(&format!("* started in {:.2} s", begun.elapsed().as_secs_f64()));
    memory(report, &daemon, &before, kernel, size)?;
    launches(report, &daemon, options.count)?;
    comes_up(report, &mut daemon, size)?;
    let begun = Instant::now();
    daemon.remove(&ids)?;
    daemon.settle(0)?;
    report.line(&format!("* removed in {:.2} s", begun.elapsed().as_secs_f64()));
    Ok(())
}

/// What the daemon and its spawner hold, KiB.
fn held(daemon: &Daemon) -> Result<Vec<f64>> {
    daemon.pids()?.into_iter().map(pss_kib).collect()
}

fn memory(report: &mut Report, daemon: &Daemon, before: &[f64], kernel: f64, size: usize) -> Result<()> {
    let after = held(daemon)?;
    let each = |index: usize| {
        let more = after.get(index).zip(before.get(index)).map(|(after, before)| after - before);
        more.map(|more| more / size as f64).context("a daemon and a spawner")
    };
    let (own, spawner) = (each(0)?, each(1)?);
    report.line(&format!(
        "* memory for each: daemon {own:.1} KiB, spawner {spawner:.1} KiB; all that the host has given away: {:.0} KiB",
        (kernel - available_kib()?) / size as f64
    ));
    report.line(&format!("* daemon {:.0} KiB, spawner {:.0} KiB in all", after[0], after[1]));
    aim(report, "skiff's memory for a live container", own + spawner, 100.0, " KiB");
    Ok(())
}

fn launches(report: &mut Report, daemon: &Daemon, count: usize) -> Result<()> {
    let (mut first, mut whole) = (Samples::new(), Samples::new());
    for _ in 0..count {
        let sample = daemon.launch(true)?;
        first.push(sample.first_us);
        whole.push(sample.whole_us);
    }
    let (median, tail) = (first.median(), first.percentile(99));
    report.line(&format!(
        "* a launch beside them, µs: first {median:.0} (p99 {tail:.0}), whole {:.0}",
        whole.median()
    ));
    aim(report, "first instruction p50", median / 1e3, 1.0, " ms");
    Ok(())
}

/// Kills the daemon, and starts another.
fn comes_up(report: &mut Report, daemon: &mut Daemon, size: usize) -> Result<()> {
    daemon.kill()?;
    let begun = Instant::now();
    let ready = daemon.begin()?;
    let found = daemon.documents(&Request::List { all: false })?.len();
    let listed = begun.elapsed();
    if found != size {
        bail!("{found} of {size} containers are found again");
    }
    report.line(&format!(
        "* a daemon after one that was killed: listens after {:.1} ms, lists all after {:.1} ms",
        ready.as_secs_f64() * 1e3,
        listed.as_secs_f64() * 1e3
    ));
    if size <= 1000 {
        aim(report, "daemon ready", ready.as_secs_f64() * 1e3, 100.0, " ms");
    }
    Ok(())
}

fn pss_kib(pid: i32) -> Result<f64> {
    figure(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

fn available_kib() -> Result<f64> {
    figure("/proc/meminfo", "MemAvailable:")
}

fn figure(path: &str, name: &str) -> Result<f64> {
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.with_context(|| format!("no {name} in {path}"))?.parse()?)
}
