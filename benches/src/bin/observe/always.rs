//! What is always on costs: a launch, the end of a container, a look at all of them, and a daemon that has nothing to do.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use skiff_benches::lab::Lab;
use skiff_benches::options::Options;
use skiff_benches::report::Report;
use skiff_benches::samples::Samples;
use skiff_ebpf::events::Events;

use crate::beside::{Watch, Watching, client};

/// Containers that do nothing, beside the daemon that is watched.
const CONTAINERS: usize = 100;
/// How long it is watched.
const IDLE: Duration = Duration::from_secs(20);
/// Ids of cgroups that there are not.
const NOBODY: u64 = 1 << 62;

pub(crate) fn run(lab: &Lab, options: &Options, report: &mut Report) -> Result<()> {
    calls(options, report)?;
    idle(lab, report)
}

/// The calls that a launch, an end and a look make.
fn calls(options: &Options, report: &mut Report) -> Result<()> {
    let events = Events::load().context("load the programs")?;
    let mut samples = [Samples::new(), Samples::new(), Samples::new()];
    for nth in 0..options.count as u64 * 100 {
        let mut time = |at: usize, work: &dyn Fn() -> std::io::Result<()>| -> Result<()> {
            let begun = Instant::now();
            work().context("count a cgroup")?;
            samples[at].push(begun.elapsed().as_nanos() as f64);
            Ok(())
        };
        time(0, &|| events.arm(NOBODY + nth, false))?;
        time(1, &|| events.take(NOBODY + nth).map(drop))?;
        time(2, &|| events.live().map(drop))?;
    }
    report.line(&format!("\n## What is always on, n = {}", samples[0].len()));
    let names = [
        "a launch: its cgroup is entered",
        "an end: its counts are taken",
        "a look at all tasks of the host",
    ];
    let rows: Vec<Vec<String>> = names
        .iter()
        .zip(&samples)
        .map(|(name, samples)| {
            vec![
                (*name).to_owned(),
                format!("{:.0}", samples.median()),
                format!("{:.0}", samples.percentile(99)),
            ]
        })
        .collect();
    report.table(&["", "median ns", "p99"], &rows);
    Ok(())
}

/// Processor time of a daemon, and of its spawner, while its containers do nothing and nobody asks.
fn idle(lab: &Lab, report: &mut Report) -> Result<()> {
    let _daemon = Watching::begin(lab, &Watch::Daemon)?;
    let image = format!("rootfs:{}", lab.rootfs().display());
    for _ in 0..CONTAINERS {
        let started = client(lab).args(["run", "-d", "--rm", &image, "/bin/spin", "wait"]).output();
        anyhow::ensure!(started.context("run skiff")?.status.success(), "a container could not be started");
    }
    let version =
        client(lab).args(["version", "--format", "{{.Server.Pid}} {{.Server.SpawnerPid}}"]).output()?;
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let pids: Vec<&str> = version.split_whitespace().collect();
    // What has been made ahead is trimmed meanwhile.
    thread::sleep(Duration::from_secs(2));
    let before = ticks(&pids)?;
    thread::sleep(IDLE);
    let used = (ticks(&pids)? - before) as f64;
    let percent = used / ticks_per_s()? / IDLE.as_secs_f64() * 100.0;
    let asked = look(lab)?;
    report.line(&format!(
        "* daemon and spawner with {CONTAINERS} idle containers: {percent:.3} % of a processor (in ticks of {:.0} ms)",
        1000.0 / ticks_per_s()?
    ));
    report.line(&format!(
        "* 'skiff stats' of all of them: {asked:.1} ms of the daemon's processor time each second"
    ));
    let ids = client(lab).args(["ps", "-q"]).output()?;
    let ids = String::from_utf8_lossy(&ids.stdout).into_owned();
    let removed = client(lab).args(["rm", "-f"]).args(ids.split_whitespace()).output()?;
    anyhow::ensure!(removed.status.success(), "the containers could not be removed");
    Ok(())
}

/// What a second of `skiff stats` takes of the daemon, ms.
fn look(lab: &Lab) -> Result<f64> {
    const LOOKS: u32 = 10;
    let pid = client(lab).args(["version", "--format", "{{.Server.Pid}}"]).output()?;
    let pid = String::from_utf8_lossy(&pid.stdout).trim().to_owned();
    let before = ticks(&[&pid])?;
    for _ in 0..LOOKS {
        client(lab).args(["stats", "--no-stream"]).output()?;
    }
    // Each looks twice.
    Ok((ticks(&[&pid])? - before) as f64 / ticks_per_s()? * 1000.0 / f64::from(LOOKS) / 2.0)
}

/// Processor time in clock ticks. proc_pid_stat(5)
fn ticks(pids: &[&str]) -> Result<u64> {
    let of = |pid: &&str| -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).context("read a process's figures")?;
        let rest = text.rsplit_once(')').context("a line of procfs")?.1;
        let fields = rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok());
        Ok(fields.sum())
    };
    pids.iter().map(of).sum()
}

fn ticks_per_s() -> Result<f64> {
    let ticks =
        nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).context("ask for the clock's ticks")?;
    Ok(ticks.unwrap_or(100) as f64)
}
