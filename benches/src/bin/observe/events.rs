//! What is added to one event, in a container and on the host beside it.

use std::process::Command;

use anyhow::{Context, Result, bail};
use skiff_benches::lab::Lab;
use skiff_benches::options::Options;
use skiff_benches::report::Report;
use skiff_benches::samples::Samples;

use crate::beside::{Watch, Watching, skiff};

/// What is repeated, how often, and the probes that see it.
const LOADS: [(&str, &[&str], &str); 3] = [
    ("switch", &["/bin/exchange", "switches", "100000"], "run-queue"),
    ("packet", &["/bin/exchange", "packets", "100000"], "net,tcp"),
    ("system call", &["/bin/spin", "300000"], "syscalls"),
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
    let mut rows = Vec::new();
    for (event, words, probes) in LOADS {
        let mut samples = vec![Samples::default(); arms.len()];
        for round in 0..options.count {
            for turn in 0..arms.len() {
                let index = (round + turn) % arms.len();
                let watch = if arms[index].watched { Watch::Probes(probes) } else { Watch::Nobody };
                let _watching = Watching::begin(lab, &watch)?;
                samples[index].push(measure(lab, arms[index], words)?);
            }
        }
        let median =
            |name: &str| arms.iter().position(|arm| arm.name == name).map(|index| samples[index].median());
        for (arm, samples) in arms.iter().zip(&samples) {
            let base = if arm.inside { "container" } else { "host" };
            let added = median(base).filter(|_| arm.watched).map(|base| samples.median() - base);
            rows.push(vec![
                format!("{event}, {}", arm.name),
                format!("{:.1}", samples.median()),
                format!("{:.1}", samples.percentile(99)),
                added.map_or_else(String::new, |ns| format!("{ns:+.1}")),
                if arm.watched { probes.to_owned() } else { String::new() },
            ]);
        }
    }
    report.table(&["arm", "median ns", "p99", "added", "probes"], &rows);
    report.line("* aims: at most +300 ns for a switch or a packet of an observed container, +150 ns for a system call");
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
    let output = command.output().with_context(|| format!("start {}", words[0]))?;
    if !output.status.success() {
        bail!("{} ended with {}", words[0], output.status);
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let figure = said.lines().find_map(|line| line.split(": ").nth(1)?.split(' ').next()?.parse().ok());
    figure.with_context(|| format!("{}: no figure in its output", words[0]))
}
