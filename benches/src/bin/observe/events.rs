//! What is added to one event, in a container and on the host beside it.

use std::process::Command;

use anyhow::{Context, Result};
use skiff_benches::lab::Lab;
use skiff_benches::options::Options;
use skiff_benches::report::{Report, verdict};
use skiff_benches::samples::Samples;

use crate::beside::{Watch, Watching, said, skiff};

/// What is repeated.
struct Load {
    event: &'static str,
    words: &'static [&'static str],
    /// Those that see it.
    probes: &'static str,
    /// The most that they are to add, ns: inside, and beside.
    aims_ns: [f64; 2],
}

/// Of a system call the aims are those of docs/profile.md.
const LOADS: [Load; 4] = [
    Load {
        event: "switch",
        words: &["/bin/exchange", "switches", "100000"],
        probes: "run-queue",
        aims_ns: [300.0, 300.0],
    },
    Load {
        event: "packet",
        words: &["/bin/exchange", "packets", "100000"],
        probes: "net,tcp",
        aims_ns: [300.0, 300.0],
    },
    Load {
        event: "TCP segment",
        words: &["/bin/exchange", "segments", "60000"],
        probes: "net,tcp",
        aims_ns: [300.0, 300.0],
    },
    Load {
        event: "system call",
        words: &["/bin/spin", "300000"],
        probes: "syscalls",
        aims_ns: [150.0, 80.0],
    },
];

/// A load somewhere, while somebody looks on.
struct Arm {
    name: &'static str,
    inside: bool,
    watched: bool,
}

const ARMS: [Arm; 4] = [
    Arm { name: "host", inside: false, watched: false },
    Arm { name: "bystander", inside: false, watched: true },
    Arm { name: "container", inside: true, watched: false },
    Arm { name: "observed", inside: true, watched: true },
];

pub(crate) fn run(lab: &Lab, options: &Options, report: &mut Report) -> Result<()> {
    report.line(&format!("\n## ns per event, n = {}", options.count));
    let arms: Vec<&Arm> = ARMS.iter().filter(|arm| options.wants(arm.name)).collect();
    let (mut rows, mut verdicts) = (Vec::new(), Vec::new());
    for load in &LOADS {
        let mut samples = vec![Samples::default(); arms.len()];
        let mut added = samples.clone();
        let base_of = |arm: &Arm| {
            let base = if arm.inside { "container" } else { "host" };
            arms.iter().position(|arm| arm.name == base).filter(|_| arm.watched)
        };
        for round in 0..options.count {
            let mut figures = vec![0.0; arms.len()];
            for turn in 0..arms.len() {
                let index = (round + turn) % arms.len();
                let watch = if arms[index].watched { Watch::Probes(load.probes) } else { Watch::Nobody };
                let _watching = Watching::begin(lab, &watch)?;
                figures[index] = measure(lab, arms[index], load.words)?;
            }
            for (index, arm) in arms.iter().enumerate() {
                samples[index].push(figures[index]);
                // Of one round, which are of one time.
                base_of(arm).into_iter().for_each(|base| added[index].push(figures[index] - figures[base]));
            }
        }
        for (arm, (own, added)) in arms.iter().zip(samples.iter().zip(&added)) {
            let added = (!added.is_empty()).then(|| added.median());
            rows.push(vec![
                format!("{}, {}", load.event, arm.name),
                format!("{:.1}", own.median()),
                format!("{:.1}", own.percentile(99)),
                added.map_or_else(String::new, |ns| format!("{ns:+.1}")),
                if arm.watched { load.probes.to_owned() } else { String::new() },
            ]);
            let aim = load.aims_ns[usize::from(!arm.inside)];
            verdicts.extend(added.map(|ns| {
                format!(
                    "* {}, {}: {ns:+.0} ns (aim: at most {aim:.0}): {}",
                    load.event,
                    arm.name,
                    verdict(ns <= aim)
                )
            }));
        }
    }
    report.table(&["arm", "median ns", "p99", "added, median of rounds", "probes"], &rows);
    verdicts.iter().for_each(|line| report.line(line));
    Ok(())
}

/// Runs the load once: ns per event.
fn measure(lab: &Lab, arm: &Arm, words: &[&str]) -> Result<f64> {
    let mut command = if arm.inside {
        let mut command = skiff(lab);
        command.args(["run", "--rm", &format!("rootfs:{}", lab.rootfs().display())]).args(words);
        command
    } else {
        let mut command = Command::new(lab.rootfs().join(words[0].trim_start_matches('/')));
        command.args(&words[1..]);
        command
    };
    let said = said(&mut command)?;
    let figure = said.lines().find_map(|line| line.split(": ").nth(1)?.split(' ').next()?.parse().ok());
    figure.with_context(|| format!("{}: no figure in its output", words[0]))
}
