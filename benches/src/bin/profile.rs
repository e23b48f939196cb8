//! `cargo xtask bench profile`: what a system call costs while somebody counts system calls.
//!
//! The same loop of getppid(2) runs on the host untraced, on the host beside a container that skiff profiles, inside a
//! container without and with `--profile`, and under the tools that answer similar questions. The loop times itself.
//! The arms take turns within one run; a tracer is up before its loop starts and gone before the next arm's.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use skiff_benches::lab::Lab;
use skiff_benches::options::Options;
use skiff_benches::report::Report;
use skiff_benches::samples::Samples;

/// Calls per measurement, unless a tool is too slow for so many.
const CALLS: u32 = 500_000;

/// Latency of every system call on the host by call, as bpftrace's own documentation measures it; the line says that
/// the probes are in place.
const BPFTRACE: &str = r#"
    tracepoint:raw_syscalls:sys_enter { @start[tid] = nsecs; }
    tracepoint:raw_syscalls:sys_exit /@start[tid]/ { @ns[args->id] = hist(nsecs - @start[tid]); delete(@start[tid]); }
    interval:ms:200 { printf("ready\n"); }
"#;

/// A situation in which the loop is measured.
#[derive(Debug)]
struct Arm {
    name: &'static str,
    /// The arm that differs from this one only in that nobody counts.
    base: &'static str,
    /// What runs meanwhile; it prints `ready`.
    beside: Vec<String>,
    /// What runs the loop.
    words: Vec<String>,
}

fn main() -> Result<()> {
    let options = Options::parse(std::env::args().skip(1), 21)?;
    let lab = Lab::new(&["spin"])?;
    Lab::mount_tracing()?;
    let tools = [("bpftrace", "--version"), ("perf", "--version"), ("strace", "--version")];
    let mut report = Report::start("profile", &tools)?;
    let mut refused = Vec::new();
    let works = |arm: &Arm| match measure(arm) {
        Ok(_) => true,
        Err(error) => {
            refused.push(format!("* {}: {error:#}", arm.name));
            false
        }
    };
    let arms: Vec<Arm> = arms(&lab).into_iter().filter(|arm| options.wants(arm.name)).filter(works).collect();
    let mut samples = vec![Samples::default(); arms.len()];
    for round in 0..options.count {
        for turn in 0..arms.len() {
            let index = (round + turn) % arms.len();
            samples[index].push(measure(&arms[index])?);
        }
    }
    report.line(&format!("\n## ns per getppid, n = {} × {CALLS} calls (strace: fewer)", options.count));
    write(&mut report, &arms, &samples);
    refused.iter().for_each(|line| report.line(line));
    if options.save { report.save("benches/runs".as_ref()) } else { Ok(()) }
}

fn arms(lab: &Lab) -> Vec<Arm> {
    let rootfs = format!("rootfs:{}", lab.rootfs().display());
    let skiff = lab.program("skiff").display().to_string();
    let host = format!("{} {CALLS}", lab.program("spin").display());
    let slow = format!("{} {}", lab.program("spin").display(), CALLS / 50);
    let record = lab.path("record.json").display().to_string();
    // No daemon of the host's answers, and none is left behind.
    let (root, run_root) = (lab.path("engine"), lab.state().join("engine"));
    let own = format!("SKIFF_ROOT={} SKIFF_RUN_ROOT={}", root.display(), run_root.display());
    let run = format!("env SKIFF_DAEMON=off {own} {skiff} run --rm -i");
    let arm = |name, base, beside: &str, line: String| Arm {
        name,
        base,
        beside: words(beside),
        words: words(&line),
    };
    let mut bpftrace = arm("bpftrace", "untraced", "bpftrace -B none -e", host.clone());
    bpftrace.beside.push(BPFTRACE.to_owned());
    vec![
        arm("untraced", "untraced", "", host.clone()),
        arm(
            "bystander",
            "untraced",
            &format!("{run} --profile={record} {rootfs} /bin/spin wait"),
            host.clone(),
        ),
        arm("container", "untraced", "", format!("{run} {rootfs} /bin/spin {CALLS}")),
        arm("profiled", "container", "", format!("{run} --profile={record} {rootfs} /bin/spin {CALLS}")),
        bpftrace,
        arm("perf", "untraced", "", format!("perf trace -s -o /dev/null -- {host}")),
        arm("strace", "untraced", "", format!("strace -c -f -o /dev/null {slow}")),
    ]
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn command(words: &[String]) -> Command {
    let mut command = Command::new(words.first().map_or("", String::as_str));
    command.args(words.iter().skip(1)).stderr(Stdio::null());
    command
}

/// Runs the arm once: ns per call.
fn measure(arm: &Arm) -> Result<f64> {
    let beside = if arm.beside.is_empty() { None } else { Some(Beside::start(&arm.beside)?) };
    let mut command = command(&arm.words);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start {}", arm.words[0]))?;
    if let Some(beside) = beside {
        beside.stop()?;
    }
    if !output.status.success() {
        bail!("{} ended with {}", arm.words[0], output.status);
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let figure = said.lines().find_map(|line| line.strip_prefix("spin: ")?.split(' ').next()?.parse().ok());
    figure.with_context(|| format!("{}: no figure in its output", arm.words[0]))
}

/// Something that runs while the loop does.
#[derive(Debug)]
struct Beside(Child);

impl Beside {
    /// Starts it and waits until it is ready.
    fn start(words: &[String]) -> Result<Self> {
        let mut command = command(words);
        let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = started.with_context(|| format!("start {}", words[0]))?;
        let output = child.stdout.take().context("its output is a pipe")?;
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        let ready = lines.any(|line| line.trim() == "ready");
        // Whatever it prints at the end must not fill the pipe.
        std::thread::spawn(move || lines.count());
        let beside = Self(child);
        if !ready {
            beside.stop()?;
            bail!("{} did not get ready", words[0]);
        }
        Ok(beside)
    }

    /// Ends it by the end of its input or, where that is not heeded, by SIGINT.
    fn stop(mut self) -> Result<()> {
        drop(self.0.stdin.take());
        let pid = Pid::from_raw(i32::try_from(self.0.id()).context("a process id is small")?);
        for _ in 0..200 {
            if self.0.try_wait().context("wait for what ran beside")?.is_some() {
                return Ok(());
            }
            // The second time at the earliest, so that a container ends by itself.
            std::thread::sleep(std::time::Duration::from_millis(10));
            kill(pid, Signal::SIGINT).context("stop what ran beside")?;
        }
        bail!("what ran beside does not end");
    }
}

fn write(report: &mut Report, arms: &[Arm], samples: &[Samples]) {
    let median = |name: &str| {
        let index = arms.iter().position(|arm| arm.name == name)?;
        Some(samples[index].median())
    };
    let added = |arm: &Arm| Some(median(arm.name)? - median(arm.base)?);
    let row = |(arm, samples): (&Arm, &Samples)| {
        let added = added(arm).filter(|_| arm.name != arm.base);
        vec![
            arm.name.to_owned(),
            format!("{:.1}", samples.median()),
            format!("{:.1}", samples.percentile(99)),
            added.map_or_else(String::new, |ns| format!("{ns:+.1}")),
            if added.is_some() { arm.base.to_owned() } else { String::new() },
        ]
    };
    let rows: Vec<_> = arms.iter().zip(samples).map(row).collect();
    report.table(&["arm", "median ns", "p99", "added", "to"], &rows);
    let of = |name: &str| arms.iter().find(|arm| arm.name == name).and_then(added);
    let mut aim = |text: String| report.line(&format!("* {text}"));
    if let Some(inside) = of("profiled") {
        aim(format!("inside a profiled container {inside:+.1} ns per call (aim: at most +150)"));
    }
    if let Some(bystander) = of("bystander") {
        aim(format!("beside one {bystander:+.1} ns per call (aim: at most +75)"));
    }
    if let (Some(inside), Some(bpftrace)) = (of("profiled"), of("bpftrace")) {
        aim(format!("bpftrace adds {:.1} × what skiff adds inside (aim: at least 2.5)", bpftrace / inside));
    }
}
