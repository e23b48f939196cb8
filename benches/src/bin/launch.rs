//! `cargo xtask bench launch`: a whole `run` of a program that does nothing, by several launchers.
//!
//! Every arm starts the same static `/bin/true` of the same root file system with the configuration of `runc spec` (new
//! pid, net, ipc, uts, mount and cgroup namespaces, masks, read-only root, three capabilities, no_new_privs), once
//! with docker's default seccomp profile and once without. From fork to the launcher's exit, on CLOCK_MONOTONIC. The
//! arms take turns within one run, with the order turned each round.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use skiff_benches::lab::Lab;
use skiff_benches::options::Options;
use skiff_benches::report::Report;
use skiff_benches::samples::Samples;
use skiff_benches::watchdog;

/// Rounds that are not counted.
const WARM_UP: usize = 5;

/// A launcher under measurement.
#[derive(Debug)]
struct Arm {
    /// Where skiff is to note its containers.
    run_root: String,
    name: &'static str,
    /// Program and arguments; `{id}` stands for a name not used before.
    words: Vec<String>,
    /// What removes a container that a failed launcher left.
    delete: Vec<String>,
}

/// What skiff must stay within, as multiples of others.
const AIMS: &[(&str, f64)] = &[("crun", 0.6), ("runc", 0.2), ("floor", 1.5)];

fn main() -> Result<()> {
    let options = Options::parse(std::env::args().skip(1), 200)?;
    let mut lab = Lab::new(&["true"])?;
    lab.mount_hugetlb()?;
    let tools =
        [("crun", "--version"), ("runc", "--version"), ("youki", "--version"), ("unshare", "--version")];
    let mut report = Report::start("launch", &tools)?;
    for seccomp in [true, false] {
        let mut arms = arms(&lab, seccomp)?;
        arms.retain(|arm| options.wants(arm.name));
        let mut refused = Vec::new();
        for (gap, kind) in [(Duration::ZERO, "back to back"), (Duration::from_millis(10), "10 ms gaps")] {
            let profile = if seccomp { "docker's seccomp profile" } else { "no seccomp profile" };
            report.line(&format!("\n## {profile}, {kind}, n = {}", options.count));
            let samples = measure(&mut arms, options.count, gap, &lab.path("stderr"), &mut refused)?;
            write(&mut report, &arms, &samples);
        }
        for line in &refused {
            report.line(line);
        }
    }
    if options.save { report.save("benches/runs".as_ref()) } else { Ok(()) }
}

/// The launchers, with or without docker's seccomp profile.
fn arms(lab: &Lab, seccomp: bool) -> Result<Vec<Arm>> {
    let text = |path: std::path::PathBuf| path.display().to_string();
    let bundle = text(lab.write_bundle(if seccomp { "bundle" } else { "plain" }, &["/bin/true"], seccomp)?);
    let (rootfs, state) = (text(lab.rootfs()), text(lab.state()));
    let filter = if seccomp { text(lab.write_filter()?) } else { "-".to_owned() };
    let run_root = format!("{state}/skiff");
    let oci = |name: &'static str| Arm {
        run_root: run_root.clone(),
        name,
        words: words(&format!("{name} --root {state}/{name} run --bundle {bundle} {{id}}")),
        delete: words(&format!("{name} --root {state}/{name} delete --force {{id}}")),
    };
    let plain =
        |name, line: &str| Arm { run_root: run_root.clone(), name, words: words(line), delete: Vec::new() };
    let unconfined = if seccomp { "" } else { "--security-opt seccomp=unconfined" };
    let (skiff, floor) = (text(lab.program("skiff")), text(lab.program("floor")));
    Ok(vec![
        plain("floor", &format!("{floor} {rootfs} {filter} {}", lab.cgroup2())),
        plain(
            "skiff",
            &format!(
                "{skiff} run --rm --read-only --network none --cap-drop ALL --cap-add KILL --cap-add NET_BIND_SERVICE \
                 --cap-add AUDIT_WRITE --ulimit nofile=1024:1024 --security-opt no-new-privileges {unconfined} \
                 rootfs:{rootfs} /bin/true"
            ),
        ),
        oci("crun"),
        oci("runc"),
        oci("youki"),
        plain("unshare", &format!("unshare --fork -p -n -i -u -m -C --root={rootfs} /bin/true")),
    ])
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn command(arm: &Arm, words: &[String], turn: usize) -> Command {
    let id = format!("bench-{}-{turn}", std::process::id());
    let mut words = words.iter().map(|word| word.replace("{id}", &id));
    let mut command = Command::new(words.next().unwrap_or_default());
    command
        .env("SKIFF_RUN_ROOT", &arm.run_root)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// `count` samples of each arm in ms, with `gap` of silence before each. An arm that is not installed, fails or hangs is
/// taken out, with a line in `refused`.
fn measure(
    arms: &mut Vec<Arm>,
    count: usize,
    gap: Duration,
    stderr: &Path,
    refused: &mut Vec<String>,
) -> Result<Vec<Samples>> {
    static TURN: AtomicUsize = AtomicUsize::new(0);
    let mut samples = vec![Samples::default(); arms.len()];
    for round in 0..WARM_UP + count {
        let mut turn = 0;
        while turn < arms.len() {
            let index = (round + turn) % arms.len();
            let id = TURN.fetch_add(1, Ordering::Relaxed);
            thread::sleep(gap);
            let mut command = command(&arms[index], &arms[index].words, id);
            command.stderr(File::create(stderr).context("make a file for what goes wrong")?);
            let begun = Instant::now();
            let ended = watchdog::run(&mut command);
            let elapsed = begun.elapsed();
            let failure = match ended {
                Ok(status) if status.success() => None,
                Ok(status) => Some(format!("{status} in round {round}: {}", first_line(stderr))),
                Err(error) => Some(error.to_string()),
            };
            if let Some(failure) = failure {
                let (arm, _) = (arms.remove(index), samples.remove(index));
                refused.push(format!("* {}: {failure}", arm.name));
                clean_up(&arm, id);
                continue;
            }
            if round >= WARM_UP {
                samples[index].push(elapsed.as_secs_f64() * 1e3);
            }
            turn += 1;
        }
    }
    Ok(samples)
}

fn first_line(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.trim().lines().next().unwrap_or("no message").to_owned()
}

/// Removes what a failed launcher left, as far as it can itself.
fn clean_up(arm: &Arm, id: usize) {
    if arm.delete.is_empty() {
        return;
    }
    match watchdog::run(&mut command(arm, &arm.delete, id)) {
        Ok(status) if status.success() => {}
        Ok(status) => eprintln!("{}: remove its container: {status}", arm.name),
        // Not installed: there is no container either.
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => eprintln!("{}: remove its container: {error}", arm.name),
    }
}

fn write(report: &mut Report, arms: &[Arm], samples: &[Samples]) {
    let median = |name: &str| {
        let index = arms.iter().position(|arm| arm.name == name)?;
        Some(samples[index].median())
    };
    let floor = median("floor");
    let row = |(arm, samples): (&Arm, &Samples)| {
        let middle = samples.median();
        vec![
            arm.name.to_owned(),
            format!("{middle:.2}"),
            format!("{:.2}", samples.percentile(1)),
            format!("{:.2}", samples.percentile(99)),
            floor.map_or_else(String::new, |floor| format!("{:.2}", middle / floor)),
        ]
    };
    let rows: Vec<_> = arms.iter().zip(samples).map(row).collect();
    report.table(&["arm", "median ms", "p1", "p99", "× floor"], &rows);
    let Some(skiff) = median("skiff") else { return };
    for (other, aim) in AIMS {
        if let Some(theirs) = median(other) {
            report.line(&format!("* skiff is {:.2} × {other} (aim: at most {aim})", skiff / theirs));
        }
    }
}
