//! `cargo xtask bench runtime`: the commands of OCI runtimes, side by side.
//!
//! Every arm gets the same bundle: what `runc spec` writes, without a terminal, and with a cgroup namespace, for a static
//! `/bin/true` that does nothing. Where many are run at once there is a floor beside them, which makes the system calls that
//! this needs and no others (`src/bin/floor.rs`). The arms take turns within one run, with the order turned each round. This process takes
//! in the orphans that `create` leaves and reaps them, as a shim does. Its parts (`--parts`) are `times`, `storms`, `size` and `counts`.

mod arms;
mod count;
mod cycle;
mod footprint;
mod storms;

use std::env;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use skiff_benches::lab::Lab;
use skiff_benches::options::Options;
use skiff_benches::report::{Report, verdict};
use skiff_benches::samples::Samples;

use arms::{Arm, Ground, SKIFF};
use count::{COMMANDS, Counter};
use cycle::Host;
use footprint::{Footprint, Hooked};

/// Rounds that are not counted.
const WARM_UP: usize = 3;
/// Times that system calls are counted; the least is taken, as a garbage collector only ever adds some.
const COUNTS: usize = 3;

/// What skiff must stay within, as multiples of others.
const AIMS: [(&str, f64); 2] = [("crun", 0.6), ("runc", 0.2)];
/// The most that p99 may be of p50.
const SPREAD: f64 = 3.0;
const BINARY_KIB: u64 = 3 << 10;
const RESIDENT_KIB: u64 = 2 << 10;

fn main() -> Result<()> {
    let options = Options::parse(std::env::args().skip(1), 200)?;
    let mut lab = Lab::new(&["true", "pause"])?;
    lab.mount_hugetlb()?;
    nix::sys::prctl::set_child_subreaper(true).context("take in orphans")?;
    let ground = Ground::new(&lab)?;
    let tools = [("crun", "--version"), ("runc", "--version"), ("youki", "--version")];
    let mut report = Report::start("runtime", &tools)?;
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for arm in arms::arms(&lab, &options) {
        match arm {
            Ok(arm) => found.push(arm),
            Err(line) => missing.push(line),
        }
    }
    for arm in &found {
        report.line(&format!("* {} is {}", arm.name, shown(&arm.program)));
    }
    missing.iter().for_each(|line| report.line(&format!("* {line}")));
    if options.wants_part("times") {
        times(&mut report, &found, &ground, options.count);
    }
    if options.wants_part("storms") {
        storms::measure(&mut report, &lab, &found, &ground, &options)?;
    }
    if options.wants_part("size") {
        footprints(&mut report, &found, &ground, &lab)?;
    }
    if options.wants_part("counts") {
        counts(&mut report, &found, &ground, &lab);
    }
    if options.save {
        report.save("benches/runs".as_ref())?;
    }
    // Others may refuse, or not be there; skiff's own may not.
    if report.has_line(&format!("* {SKIFF}: ")) {
        bail!("{SKIFF} did not do all of it: see above");
    }
    Ok(())
}

/// The three commands that matter, back to back and with gaps.
fn times(report: &mut Report, arms: &[Arm], ground: &Ground, count: usize) {
    for (gap, kind) in [(Duration::ZERO, "back to back"), (Duration::from_millis(10), "10 ms gaps")] {
        report.line(&format!("\n## run, {kind}, n = {count}"));
        let run = interleave(arms, count, gap, |arm| cycle::run(arm, ground));
        write(report, "run", &run, 0);
        report.line(&format!("\n## create, start, end of the program, delete, {kind}, n = {count}"));
        let life = interleave(arms, count, gap, |arm| cycle::life(arm, ground));
        write(report, "create+start+delete", &life, 0);
        parts(report, &life);
        report.line(&format!("\n## exec, {kind}, n = {count}"));
        exec(report, arms, ground, count, gap);
    }
}

fn exec(report: &mut Report, arms: &[Arm], ground: &Ground, count: usize, gap: Duration) {
    let mut hosts = Vec::new();
    let mut refused = Vec::new();
    for arm in arms {
        match Host::start(arm, ground) {
            Ok(host) => hosts.push((arm.clone(), host)),
            Err(line) => refused.push(line),
        }
    }
    let able: Vec<Arm> = hosts.iter().map(|(arm, _)| arm.clone()).collect();
    let mut exec = interleave(&able, count, gap, |arm| {
        let host = hosts.iter().find(|(other, _)| other.name == arm.name).map(|(_, host)| host.id.as_str());
        cycle::exec(arm, ground, host.unwrap_or_default())
    });
    exec.refused.append(&mut refused);
    write(report, "exec", &exec, 0);
}

/// Samples of those arms that took part to the end, and a line for each of the others.
#[derive(Debug)]
struct Taken<const N: usize> {
    arms: Vec<(Arm, [Samples; N])>,
    refused: Vec<String>,
}

impl<const N: usize> Taken<N> {
    fn of(&self, name: &str, column: usize) -> Option<&Samples> {
        self.arms.iter().find(|(arm, _)| arm.name == name).map(|(_, samples)| &samples[column])
    }
}

/// `count` measurements of each arm in turn, with `gap` of silence before each.
fn interleave<const N: usize>(
    arms: &[Arm],
    count: usize,
    gap: Duration,
    mut measure: impl FnMut(&Arm) -> Result<[f64; N], String>,
) -> Taken<N> {
    let empty = || [const { Samples::new() }; N];
    let mut taken =
        Taken { arms: arms.iter().map(|arm| (arm.clone(), empty())).collect(), refused: Vec::new() };
    for round in 0..WARM_UP + count {
        let mut turn = 0;
        while turn < taken.arms.len() {
            let index = (round + turn) % taken.arms.len();
            thread::sleep(gap);
            let (arm, samples) = &mut taken.arms[index];
            match measure(arm) {
                Ok(values) if round >= WARM_UP => {
                    samples.iter_mut().zip(values).for_each(|(samples, value)| samples.push(value));
                }
                Ok(_) => {}
                Err(line) => {
                    taken.refused.push(format!("{line} (round {round})"));
                    taken.arms.remove(index);
                    continue;
                }
            }
            turn += 1;
        }
    }
    taken
}

/// The table of one column, who did not take part, and how it stands with the aims.
fn write<const N: usize>(report: &mut Report, what: &str, taken: &Taken<N>, column: usize) {
    let of = |name: &str| taken.of(name, column).map(Samples::median);
    let times = |middle: f64, other: &str| {
        of(other).map_or_else(String::new, |other| format!("{:.2}", middle / other))
    };
    let row = |(arm, samples): &(Arm, [Samples; N])| {
        let (middle, worst) = (samples[column].median(), samples[column].percentile(99));
        let least = samples[column].percentile(1);
        let mut row = vec![arm.name.clone()];
        row.extend([middle, least, worst, worst / middle].map(|figure| format!("{figure:.2}")));
        row.extend(AIMS.map(|(other, _)| times(middle, other)));
        row
    };
    let rows: Vec<Vec<String>> = taken.arms.iter().map(row).collect();
    report.table(&["arm", "p50 ms", "p1", "p99", "p99 ÷ p50", "× crun", "× runc"], &rows);
    taken.refused.iter().for_each(|line| report.line(&format!("* {line}")));
    let Some(skiff) = taken.of(SKIFF, column) else { return };
    judge(report, what, skiff.median(), of);
    judge_spread(report, what, skiff);
}

/// How what takes skiff `middle` ms stands with the aims, where `of` tells what it takes another.
fn judge(report: &mut Report, what: &str, middle: f64, of: impl Fn(&str) -> Option<f64>) {
    for (other, aim) in AIMS {
        if let Some(other_ms) = of(other) {
            let ratio = middle / other_ms;
            report.line(&format!(
                "* {what}: {ratio:.2} × {other} (aim: at most {aim}): {}",
                verdict(ratio <= aim)
            ));
        }
    }
}

fn judge_spread(report: &mut Report, what: &str, skiff: &Samples) {
    let spread = skiff.percentile(99) / skiff.median();
    report.line(&format!(
        "* {what}: p99 is {spread:.2} × p50 (aim: at most {SPREAD}): {}",
        verdict(spread <= SPREAD)
    ));
}

/// The medians of the single commands of a life.
fn parts(report: &mut Report, life: &Taken<4>) {
    let row = |(arm, samples): &(Arm, [Samples; 4])| {
        let medians = samples[1..].iter().map(|samples| format!("{:.2}", samples.median()));
        [arm.name.clone()].into_iter().chain(medians).collect()
    };
    let rows: Vec<Vec<String>> = life.arms.iter().map(row).collect();
    report.table(&["arm, p50 ms", "create", "start", "delete"], &rows);
}

fn footprints(report: &mut Report, arms: &[Arm], ground: &Ground, lab: &Lab) -> Result<()> {
    report.line("\n## size, KiB");
    let hooked = Hooked::new(lab.write_bundle("hooked", &["/bin/pause"], false)?, lab.path("seen"))?;
    let (mut rows, mut lines) = (Vec::new(), Vec::new());
    for arm in arms {
        match footprint::measure(arm, ground, &hooked) {
            Ok(Footprint { binary, creating, waiting: [rss, pss] }) => {
                let figures = [binary, creating, rss, pss].map(|kib| kib.to_string());
                rows.push([arm.name.clone()].into_iter().chain(figures).collect());
                if arm.name == SKIFF {
                    let small = binary <= BINARY_KIB;
                    lines.push(format!(
                        "the file has {binary} KiB (aim: at most {BINARY_KIB}): {}",
                        verdict(small)
                    ));
                    let most = creating.max(rss);
                    let small = most <= RESIDENT_KIB;
                    lines.push(format!(
                        "resident are at most {most} KiB (aim: at most {RESIDENT_KIB}): {}",
                        verdict(small)
                    ));
                }
            }
            Err(line) => lines.push(line),
        }
    }
    let head = ["arm", "binary", "create, peak resident", "waiting init, RSS", "waiting init, PSS"];
    report.table(&head, &rows);
    lines.iter().for_each(|line| report.line(&format!("* {line}")));
    Ok(())
}

fn counts(report: &mut Report, arms: &[Arm], ground: &Ground, lab: &Lab) {
    report
        .line("\n## system calls, and in brackets programs executed beside the command and the container's");
    let (mut rows, mut lines) = (Vec::new(), Vec::new());
    for arm in arms {
        // One each: what a command that failed was counted in stays taken.
        let taken = Counter::new(lab.cgroup2().as_ref(), &lab.program("true"))
            .and_then(|mut counter| (0..COUNTS).map(|_| counter.commands(arm, ground)).collect());
        let taken: Result<Vec<_>, String> = taken;
        match taken {
            Ok(taken) => {
                let least = |command: usize| {
                    taken.iter().map(|counts| counts[command]).min_by_key(|count| count.calls)
                };
                let least = (0..COMMANDS.len()).filter_map(least);
                if arm.name == SKIFF {
                    let most = least.clone().map(|count| count.execs).max().unwrap_or(0);
                    lines.push(format!(
                        "{SKIFF} executes itself again at most {most} times (aim: at most 1): {}",
                        verdict(most <= 1)
                    ));
                }
                let cells = least.map(|count| format!("{} ({})", count.calls, count.execs));
                rows.push([arm.name.clone()].into_iter().chain(cells).collect());
            }
            Err(line) => lines.push(format!("{}: {line}", arm.name)),
        }
    }
    let head: Vec<&str> = ["arm"].into_iter().chain(COMMANDS).collect();
    report.table(&head, &rows);
    report.line("The calls of `create` are with those of the process that it leaves, until that executes the program.");
    lines.iter().for_each(|line| report.line(&format!("* {line}")));
}

/// A path as others have it, too: from here, or from home, on.
fn shown(program: &Path) -> String {
    let below = |root: Option<PathBuf>| program.strip_prefix(root?).ok();
    match (below(env::current_dir().ok()), below(env::var_os("HOME").map(PathBuf::from))) {
        (Some(below), _) => below.display().to_string(),
        (None, Some(below)) => format!("~/{}", below.display()),
        (None, None) => program.display().to_string(),
    }
}
