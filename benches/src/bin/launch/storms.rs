//! Many launches at once, and as many as can be.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use skiff_benches::lab::Lab;
use skiff_benches::options::Options;
use skiff_benches::report::Report;
use skiff_benches::samples::Samples;
use skiff_sys::clock::monotonic_ns;

use crate::arms::{self, Arm, How, Launch};
use crate::daemon::{Asked, Daemon, STAGES};
use crate::{Sample, aim};

/// How many are asked for at a time.
const SIZES: [usize; 3] = [8, 64, 256];

/// How many are under way when it is about throughput.
const AHEAD: usize = 16;

/// Which launchers.
const ARMS: [&str; 7] =
    ["fork+exec", "floor", "writable floor", "request", "request --pool 0", "crun", "runc"];

/// Storms of all sizes, then throughput.
pub(crate) fn measure(report: &mut Report, lab: &Lab, daemon: &Daemon, options: &Options) -> Result<()> {
    let lasting = if options.count < 100 { Duration::from_millis(200) } else { Duration::from_secs(5) };
    let rounds = if options.count < 100 { 1 } else { 5 };
    if !["storms", "sustained"].iter().any(|part| options.wants_part(part)) {
        return Ok(());
    }
    let arms = arms::arms(lab, daemon, true)?;
    let arms: Vec<&Arm<'_>> =
        arms.iter().filter(|arm| ARMS.contains(&arm.name) && options.wants(arm.name)).collect();
    for size in SIZES.into_iter().filter(|_| options.wants_part("storms")) {
        report.line(&format!("\n## {size} at once, {rounds} times"));
        let mut rows = Vec::new();
        for arm in &arms {
            match storms(arm, size, rounds) {
                Ok(row) => rows.push(row),
                Err(error) => report.line(&format!("* {}: {error:#}", arm.name)),
            }
            daemon.settle(0)?;
        }
        report.table(&["ms", "first p50", "p99", "all reaped", "per s"], &rows);
    }
    if options.wants_part("sustained") { throughput(report, daemon, &arms, lasting) } else { Ok(()) }
}

fn storms(arm: &Arm<'_>, size: usize, rounds: usize) -> Result<Vec<String>> {
    let (mut first, mut all) = (Samples::new(), Samples::new());
    for _ in 0..rounds {
        let begun_ns = monotonic_ns();
        let launches = (0..size).map(|_| arm.ask()).collect::<Result<Vec<Launch>>>()?;
        for (after_ns, sample) in finish(arm, launches, begun_ns)? {
            first.push((after_ns as f64 / 1e3 + sample.first_us) / 1e3);
        }
        all.push((monotonic_ns() - begun_ns) as f64 / 1e6);
    }
    let middle = all.median();
    Ok(vec![
        arm.name.to_owned(),
        format!("{:.2}", first.median()),
        format!("{:.2}", first.percentile(99)),
        format!("{middle:.1}"),
        format!("{:.0}", size as f64 / middle * 1e3),
    ])
}

/// Waits for all of them: how long after the beginning each was asked for, and what was measured from there on.
fn finish(arm: &Arm<'_>, launches: Vec<Launch>, begun_ns: u64) -> Result<Vec<(u64, Sample)>> {
    let mut samples = Vec::with_capacity(launches.len());
    let mut open = Vec::new();
    for launch in launches {
        match launch {
            Launch::Request(asked) => open.push(*asked),
            Launch::Command { asked_ns, .. } => samples.push((asked_ns - begun_ns, arm.wait(launch)?)),
        }
    }
    while !open.is_empty() {
        for asked in answered(&mut open)? {
            samples.push((asked.asked_ns - begun_ns, asked.sample()?));
        }
    }
    Ok(samples)
}

/// Waits for answers; takes out and returns those who had their last.
fn answered(open: &mut Vec<Asked>) -> Result<Vec<Asked>> {
    let mut polled: Vec<PollFd<'_>> =
        open.iter().map(|asked| PollFd::new(asked.as_fd(), PollFlags::POLLIN)).collect();
    poll(&mut polled, PollTimeout::NONE)?;
    let ready: Vec<bool> = polled.iter().map(|one| one.any().unwrap_or(false)).collect();
    let mut ended = Vec::new();
    for index in (0..open.len()).rev().filter(|index| ready[*index]) {
        if open[index].advance()? {
            ended.push(open.swap_remove(index));
        }
    }
    Ok(ended)
}

/// Launches one after the other with a few under way, until nothing is left of them.
fn throughput(report: &mut Report, daemon: &Daemon, arms: &[&Arm<'_>], lasting: Duration) -> Result<()> {
    report.line(&format!("\n## sustained, {AHEAD} under way, with all that is cleared away"));
    let mut rows = Vec::new();
    let mut ways = Vec::new();
    for arm in arms {
        let (begun, busy_ms) = (Instant::now(), busy_ms()?);
        let count = match &arm.how {
            How::Request { pool, .. } => {
                let (count, stages) = requests(daemon, *pool, lasting)?;
                ways.push((arm.name, stages));
                count
            }
            How::Command(_) => match commands(arm, lasting) {
                Ok(count) => count,
                Err(error) => {
                    report.line(&format!("* {}: {error:#}", arm.name));
                    continue;
                }
            },
        };
        daemon.settle(0)?;
        let took_s = begun.elapsed().as_secs_f64();
        let cpu_ms = self::busy_ms()? - busy_ms;
        rows.push((arm.name, count as f64 / took_s, cpu_ms / count as f64, cpu_ms / 1e3 / took_s));
    }
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|(name, per_s, cpu_ms, busy)| {
            vec![(*name).to_owned(), format!("{per_s:.0}"), format!("{cpu_ms:.2}"), format!("{busy:.1}")]
        })
        .collect();
    report.table(&["arm", "launches/s", "CPU ms for each, all of the host's", "CPUs busy"], &cells);
    for (name, stages) in ways {
        let middles: Vec<String> = STAGES
            .iter()
            .chain(&["its end, that the client knows"])
            .zip(&stages)
            .map(|(stage, ends)| format!("{:.0} {stage}", ends.median()))
            .collect();
        report.line(&format!("* {name}, p50 µs after it was asked for: {}", middles.join("; ")));
    }
    if let Some((_, per_s, ..)) = rows.iter().find(|(name, ..)| *name == "request") {
        aim(report, "time per launch, sustained", 1e3 / per_s, 1.0, " ms");
    }
    Ok(())
}

/// What the host's processors have done since it was booted. proc_stat(5).
fn busy_ms() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    let first = text.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = first.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = ticks[..] else {
        bail!("/proc/stat begins otherwise: {first}");
    };
    let per_s = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("ticks have a length")?;
    Ok((user + nice + system + irq + softirq) * 1e3 / per_s as f64)
}

/// How many were run, and the ends of the stages of all.
fn requests(daemon: &Daemon, pool: bool, lasting: Duration) -> Result<(usize, Vec<Samples>)> {
    let begun = Instant::now();
    let mut open = Vec::new();
    let mut stages = vec![Samples::new(); STAGES.len() + 1];
    loop {
        while open.len() < AHEAD && begun.elapsed() < lasting {
            open.push(daemon.ask(pool)?);
        }
        if open.is_empty() {
            return Ok((stages[0].len(), stages));
        }
        for asked in answered(&mut open)? {
            let (sample, ends) = asked.stages()?;
            for (samples, end) in stages.iter_mut().zip(ends.into_iter().chain([sample.whole_us])) {
                samples.push(end);
            }
        }
    }
}

fn commands(arm: &Arm<'_>, lasting: Duration) -> Result<usize> {
    let begun = Instant::now();
    let (mut open, mut count) = (VecDeque::new(), 0);
    loop {
        while open.len() < AHEAD && begun.elapsed() < lasting {
            open.push_back(arm.ask()?);
        }
        let Some(oldest) = open.pop_front() else { return Ok(count) };
        arm.wait(oldest)?;
        count += 1;
    }
}
