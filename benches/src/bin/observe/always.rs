//! What is always on costs: a launch, the end of a container, a look at all of them, a scrape, and a daemon that has nothing to do.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use skiff_benches::lab::Lab;
use skiff_benches::options::Options;
use skiff_benches::report::{Report, verdict};
use skiff_benches::samples::Samples;
use skiff_ebpf::events::Events;
use skiff_ebpf::{Runs, program_runs, time_programs};

use crate::beside::{Watch, Watching, client, said};

/// Containers that do nothing, beside the daemon that is watched.
const CONTAINERS: usize = 100;
/// The programs of T0 that run at events.
pub(crate) const PROGRAMS: [&str; 6] =
    ["skiff_fork", "skiff_exec", "skiff_exit", "skiff_oom", "skiff_mkdir", "skiff_rmdir"];
/// Launches for each round during which these are watched.
const LAUNCHES: usize = 10;
/// After so long, what comes of a launch is over.
const SETTLED: Duration = Duration::from_millis(20);
/// By then it has given up what it had made ahead while these were launched: it looks every 10 s.
const TRIMMED: Duration = Duration::from_secs(12);
/// How long it is watched for each round, and at most.
const IDLE: Duration = Duration::from_secs(3);
const IDLE_MOST: Duration = Duration::from_secs(15);
/// How often Prometheus asks, unless told otherwise here.
const INTERVAL: Duration = Duration::from_secs(15);
/// What has been read is told again for so long.
const FRESH: Duration = Duration::from_millis(300);
const AT: &str = "127.0.0.1:17802";

pub(crate) fn run(lab: &Lab, options: &Options, report: &mut Report) -> Result<()> {
    calls(lab, options, report)?;
    idle(lab, options, report)
}

/// What a daemon does for a launch, an end and a look, and the programs that run meanwhile.
fn calls(lab: &Lab, options: &Options, report: &mut Report) -> Result<()> {
    let events = Events::load().context("load the programs")?;
    let mut samples = [Samples::new(), Samples::new(), Samples::new()];
    let cgroup = Path::new(lab.cgroup2()).join(format!("skiff-bench-{}", std::process::id()));
    for _ in 0..options.count * 100 {
        fs::create_dir(&cgroup).context("make a cgroup")?;
        let id = fs::metadata(&cgroup).context("look at the cgroup")?.ino();
        let mut time = |at: usize, work: &dyn Fn() -> std::io::Result<()>| -> Result<()> {
            let begun = Instant::now();
            work().context("count a cgroup")?;
            samples[at].push(begun.elapsed().as_nanos() as f64);
            Ok(())
        };
        time(0, &|| events.arm(id, false))?;
        time(1, &|| events.counts(id).map(drop).ok_or_else(|| std::io::ErrorKind::NotFound.into()))?;
        time(2, &|| events.live().map(drop))?;
        fs::remove_dir(&cgroup).context("remove the cgroup")?;
    }
    report.line(&format!("\n## T0, always on: what a daemon does, n = {}", samples[0].len()));
    let names =
        ["a launch: its cgroup is entered", "an end: its counts are read", "a look at all tasks of the host"];
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
    let bytes: u64 = events.descriptors().iter().map(|fd| map_bytes(fd.as_raw_fd())).sum();
    // Twice loaded, its programs would run twice.
    drop(events);
    let calls_us = (samples[0].median() + samples[1].median()) / 1000.0;
    let own_us = programs(lab, options, report)?;
    report.line(&format!(
        "* a launch and its end: {:.1} µs, {calls_us:.1} of them in the daemon, the rest programs (aim: at most 5 a launch): {}",
        calls_us + own_us,
        verdict(calls_us + own_us <= 5.0)
    ));
    report.line(&format!(
        "* kernel memory: {bytes} bytes for 8,192 containers and as many cgroups below them, whether there are any or not"
    ));
    Ok(())
}

/// What programs have run, and how long, ns; by their names.
type Sums = BTreeMap<String, [u64; 2]>;
/// The same, of each round.
type Rounds = BTreeMap<String, Vec<[u64; 2]>>;

/// What the programs take of some launches: of the launches themselves, µs each.
///
/// A client is a process of the host, whose events they are told too: what they take of one that launches nothing, by turns with launches, is
/// taken off. Others' processes begin and end at any time, so of each program those rounds count in which it has run least.
fn programs(lab: &Lab, options: &Options, report: &mut Report) -> Result<f64> {
    let strangers: HashSet<u32> = program_runs().iter().map(|program| program.id).collect();
    let _daemon = Watching::begin(lab, &Watch::Daemon(&[]))?;
    let _timed = time_programs()?;
    let is_own =
        |program: &Runs| !strangers.contains(&program.id) && PROGRAMS.contains(&program.name.as_str());
    let sums = || -> Sums {
        // What tidies up after a launch is of it.
        thread::sleep(SETTLED);
        let own = program_runs().into_iter().filter(is_own);
        own.map(|program| (program.name, [program.count, program.ns])).collect()
    };
    let image = format!("rootfs:{}", lab.rootfs().display());
    let launch =
        || said(client(lab).args(["run", "--rm", &image, "/bin/spin", "1"])).context("run a container");
    let ask = || said(client(lab).args(["ps", "--quiet"])).context("list containers");
    // The first makes ready what others find.
    launch()?;
    let count = options.count * LAUNCHES;
    let (mut launched, mut alone): (Rounds, Rounds) = (BTreeMap::new(), BTreeMap::new());
    for _ in 0..count {
        let begun = sums();
        launch()?;
        let meanwhile = sums();
        ask()?;
        note(&mut launched, &begun, &meanwhile);
        note(&mut alone, &meanwhile, &sums());
    }
    let (mut rows, mut of_launch, mut of_client) = (Vec::new(), [0.0; 2], [0.0; 2]);
    for (name, rounds) in &launched {
        let (with, without) = (least(rounds), alone.get(name).map_or([0.0; 2], |rounds| least(rounds)));
        if with[0] == 0.0 {
            continue;
        }
        let own = [with[0] - without[0], with[1] - without[1]];
        of_launch.iter_mut().zip(own).for_each(|(sum, more)| *sum += more);
        of_client.iter_mut().zip(without).for_each(|(sum, more)| *sum += more);
        let figures = own.into_iter().chain(without).map(|figure| format!("{figure:.0}"));
        rows.push([name.clone()].into_iter().chain(figures).collect());
    }
    anyhow::ensure!(of_launch[0] > 0.0, "no program of T0 has run");
    report.line(&format!("\n### Its programs, by the kernel's own clock, n = {count}\n"));
    report.table(&["program", "runs a launch", "ns a launch", "runs a client", "ns a client"], &rows);
    report.line(&format!(
        "* of a launch and its end: {:.0} runs, {:.1} µs; of a client that launches nothing, as of any process of the host: {:.0} runs, {:.1} µs",
        of_launch[0],
        of_launch[1] / 1000.0,
        of_client[0],
        of_client[1] / 1000.0
    ));
    Ok(of_launch[1] / 1000.0)
}

/// Adds what each program has run between two looks.
fn note(rounds: &mut Rounds, before: &Sums, after: &Sums) {
    for (name, [runs, ns]) in after {
        let [runs_before, ns_before] = before.get(name).copied().unwrap_or_default();
        rounds.entry(name.clone()).or_default().push([runs - runs_before, ns - ns_before]);
    }
}

/// The fewest runs of a round, and the median of the ns of those rounds.
fn least(rounds: &[[u64; 2]]) -> [f64; 2] {
    let least = rounds.iter().map(|[runs, _]| *runs).min().unwrap_or(0);
    let mut samples = Samples::new();
    rounds.iter().filter(|[runs, _]| *runs == least).for_each(|[_, ns]| samples.push(*ns as f64));
    [least as f64, samples.median()]
}

/// What the kernel accounts a map for; 0 of other descriptors. proc_pid_fdinfo(5)
fn map_bytes(fd: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok()).unwrap_or(0)
}

/// Processor time of a daemon, and of its spawner, while its containers do nothing: when nobody asks, and when somebody does.
fn idle(lab: &Lab, options: &Options, report: &mut Report) -> Result<()> {
    let _daemon = Watching::begin(lab, &Watch::Daemon(&["--metrics", AT]))?;
    let image = format!("rootfs:{}", lab.rootfs().display());
    let containers = Containers::start(lab, &image)?;
    let version = said(client(lab).args(["version", "--format", "{{.Server.Pid}} {{.Server.SpawnerPid}}"]))?;
    let pids: Vec<&str> = version.split_whitespace().collect();
    let own = &pids[..1];
    let before = used(&pids)?;
    thread::sleep(TRIMMED);
    let trimmed_ms = (used(&pids)? - before).as_secs_f64() * 1000.0;
    let time = IDLE_MOST.min(IDLE * u32::try_from(options.count).unwrap_or(u32::MAX));
    let (before, begun) = (used(&pids)?, Instant::now());
    thread::sleep(time);
    let idle = (used(&pids)? - before).as_secs_f64() / begun.elapsed().as_secs_f64();
    let mut scrapes = Samples::new();
    let mut bytes = scrape()?.len();
    for _ in 0..options.count * 3 {
        thread::sleep(FRESH);
        let before = used(own)?;
        bytes = scrape()?.len();
        // Whoever has answered may still be tidying up.
        thread::sleep(FRESH / 10);
        scrapes.push((used(own)? - before).as_secs_f64() * 1000.0);
    }
    let asked = look(lab, own, options)?;
    drop(containers);
    let scrape_ms = scrapes.median();
    let share = idle + scrape_ms / 1000.0 / INTERVAL.as_secs_f64();
    report.line(&format!("\n## T0, always on: a daemon and its spawner with {CONTAINERS} idle containers\n"));
    let name = |what: &str| format!("* {what}: ");
    report.line(
        &(name("what was made ahead for them is given up")
            + &format!("{trimmed_ms:.0} ms of processor time, once")),
    );
    report.line(
        &(name("nobody asks") + &format!("{:.4} % of a processor, over {} s", idle * 100.0, time.as_secs())),
    );
    report.line(
        &(name("a scrape")
            + &format!(
                "{scrape_ms:.2} ms of processor time, p99 {:.2}, n = {}; {bytes} bytes",
                scrapes.percentile(99),
                scrapes.len()
            )),
    );
    report.line(
        &(name("'skiff stats' of all of them") + &format!("{asked:.2} ms of processor time each second")),
    );
    report.line(&format!(
        "* with a scrape every {} s: {:.3} % of a processor (aim: at most 0.1 %): {}",
        INTERVAL.as_secs(),
        share * 100.0,
        verdict(share <= 0.001)
    ));
    Ok(())
}

/// Containers that wait, until this is dropped.
struct Containers<'a>(&'a Lab);

impl<'a> Containers<'a> {
    fn start(lab: &'a Lab, image: &str) -> Result<Self> {
        let containers = Self(lab);
        for _ in 0..CONTAINERS {
            said(client(lab).args(["run", "-d", "--rm", "-i", image, "/bin/spin", "wait"]))
                .context("start a container")?;
        }
        Ok(containers)
    }
}

impl Drop for Containers<'_> {
    fn drop(&mut self) {
        let removed = said(client(self.0).args(["ps", "-q"])).and_then(|ids| {
            let ids: Vec<&str> = ids.split_whitespace().collect();
            if ids.is_empty() { Ok(String::new()) } else { said(client(self.0).args(["rm", "-f"]).args(ids)) }
        });
        if let Err(error) = removed {
            eprintln!("remove the containers: {error:#}");
        }
    }
}

/// What a second of `skiff stats` takes of the daemon, ms.
fn look(lab: &Lab, daemon: &[&str], options: &Options) -> Result<f64> {
    let looks = options.count.min(5);
    let before = used(daemon)?;
    for _ in 0..looks {
        said(client(lab).args(["stats", "--no-stream"]))?;
    }
    // Each looks twice.
    Ok((used(daemon)? - before).as_secs_f64() * 1000.0 / looks as f64 / 2.0)
}

/// The answer to one who collects metrics.
fn scrape() -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(AT).context("connect to the daemon")?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").context("ask for metrics")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("read metrics")?;
    anyhow::ensure!(answer.starts_with(b"HTTP/1.1 200 "), "the daemon gives no metrics");
    Ok(answer)
}

/// Processor time of all threads of processes, those that have ended included. clock_getcpuclockid(3)
fn used(pids: &[&str]) -> Result<Duration> {
    let of = |pid: &&str| -> Result<Duration> {
        let clock = clock_getcpuclockid(Pid::from_raw(pid.parse().context("a process id")?))?;
        Ok(clock_gettime(clock).context("ask for processor time")?.into())
    };
    pids.iter().map(of).sum()
}
