//! What the kernel says of the programs themselves: how long each runs, by its own clock, and how much memory a slot takes.
//!
//! The programs of one tier at a time are on, and containers do what each is there for. The kernel times every run; its clock, some 20 ns,
//! is in it. Of a name it keeps 15 bytes: those that begin alike are told together.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use skiff_benches::lab::Lab;
use skiff_benches::options::Options;
use skiff_benches::report::{Report, verdict};
use skiff_benches::samples::Samples;
use skiff_ebpf::{Probes, Runs, Waiting, program_runs, time_programs};

use crate::always::PROGRAMS;
use crate::beside::{Watch, Watching, client, said, skiff};

/// A tier, what is on, and what containers do meanwhile.
struct Tier {
    name: &'static str,
    watch: Watch,
    loads: &'static [&'static [&'static str]],
    /// How the names of its programs begin that run at events; others may have loaded some meanwhile.
    events: &'static [&'static str],
    /// No run is to take longer, ns.
    aim_ns: Option<f64>,
}

const TIERS: [Tier; 3] = [
    Tier {
        name: "T0",
        watch: Watch::Daemon(&[]),
        loads: &[&["/bin/exchange", "processes", "200"]],
        events: &PROGRAMS,
        aim_ns: None,
    },
    Tier {
        name: "T1",
        watch: Watch::Probes("run-queue,block,net,tcp"),
        loads: &[
            &["/bin/exchange", "switches", "40000"],
            &["/bin/exchange", "packets", "20000"],
            &["/bin/exchange", "segments", "20000"],
            &["/bin/exchange", "connections", "1000"],
            &["/bin/exchange", "blocks", "1000"],
        ],
        events: &[
            "sched_switch",
            "sched_wakeup",
            "sched_migrate_",
            "block_",
            "ingress",
            "egress",
            "connections",
        ],
        aim_ns: Some(300.0),
    },
    Tier {
        name: "T2",
        watch: Watch::Probes("syscalls"),
        loads: &[&["/bin/spin", "200000"]],
        events: &["sys_enter", "sys_exit", "sched_switch"],
        aim_ns: None,
    },
];
/// What has run less often tells nothing.
const RUNS: u64 = 200;

pub(crate) fn run(lab: &Lab, options: &Options, report: &mut Report) -> Result<()> {
    report.line(&format!("\n## The programs, by the kernel's own clock, n = {}", options.count));
    let _timed = time_programs()?;
    let mut rows = Vec::new();
    let mut slowest: Option<(String, f64)> = None;
    for tier in &TIERS {
        let mut told: BTreeMap<String, (Samples, u64)> = BTreeMap::new();
        for _ in 0..options.count {
            for (name, count, mean_ns) in round(lab, tier, report)? {
                let (samples, runs) = told.entry(name).or_default();
                samples.push(mean_ns);
                *runs += count;
            }
        }
        for (name, (samples, runs)) in &told {
            let median = samples.median();
            if tier.aim_ns.is_some() && slowest.as_ref().is_none_or(|(_, ns)| *ns < median) {
                slowest = Some((name.clone(), median));
            }
            rows.push(vec![
                format!("{} {name}", tier.name),
                runs.to_string(),
                format!("{median:.0}"),
                format!("{:.0}", samples.percentile(99)),
            ]);
        }
    }
    report.table(&["program", "runs", "ns a run", "p99 of the rounds"], &rows);
    let (name, ns) = slowest.context("no program of T1 has run")?;
    report.line(&format!(
        "* the slowest program of T1 is {name} with {ns:.0} ns (aim: at most 300 an event): {}",
        verdict(ns <= 300.0)
    ));
    switches(options, report)?;
    memory(lab, report)
}

/// Name, runs and their mean, ns, of the programs that were loaded for `tier`.
fn round(lab: &Lab, tier: &Tier, report: &mut Report) -> Result<Vec<(String, u64, f64)>> {
    let strangers: Vec<u32> = program_runs().iter().map(|program| program.id).collect();
    let _watching = Watching::begin(lab, &tier.watch)?;
    let image = format!("rootfs:{}", lab.rootfs().display());
    for words in tier.loads {
        let mut command = if tier.watch.has_daemon() { client(lab) } else { skiff(lab) };
        let ran = said(command.args(["run", "--rm", &image]).args(*words));
        // As where the temporary directory is on no disk.
        if let Err(error) = ran {
            let line = format!("* {} {}: {error:#}", words[0], words[1]);
            if !report.has_line(&line) {
                report.line(&line);
            }
        }
    }
    let is_own = |program: &Runs| {
        tier.events.iter().any(|name| program.name.starts_with(name)) && !strangers.contains(&program.id)
    };
    let own = program_runs().into_iter().filter(is_own);
    let mut sums: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for Runs { name, count, ns, .. } in own {
        let sum = sums.entry(name).or_default();
        (sum.0, sum.1) = (sum.0 + count, sum.1 + ns);
    }
    let often = sums.into_iter().filter(|(_, (count, _))| *count >= RUNS);
    Ok(often.map(|(name, (count, ns))| (name, count, ns as f64 / count as f64)).collect())
}

/// Of the one that every task on the host pays for: what it takes of a switch with a counted task, and of others.
fn switches(options: &Options, report: &mut Report) -> Result<()> {
    let probes = Probes { run_queue: true, block: true, ..Probes::default() };
    let [mut counted, mut others] = [Samples::new(), Samples::new()];
    for _ in 0..options.count {
        let cost = Waiting::load(16, probes)?.calibrate()?.context("the kernel does not time programs")?;
        counted.push(cost.counted_ns as f64);
        others.push(cost.others_ns as f64);
    }
    report.line(&format!(
        "* sched_switch of T1 when one of the two tasks is counted: {:.0} ns; when neither is: {:.0} ns",
        counted.median(),
        others.median()
    ));
    Ok(())
}

/// What a slot more takes of the kernel's memory, of each kind of programs.
fn memory(lab: &Lab, report: &mut Report) -> Result<()> {
    // A thousand slots of system calls would be gigabytes: these are for one recorded run each.
    let kinds =
        ["run-queue", "block", "net", "tcp", "run-queue,block,net,tcp"].map(|probes| (probes, "1000"));
    for (probes, many) in kinds.into_iter().chain([("syscalls", "32")]) {
        let mut lines = Vec::new();
        for slots in ["16", many] {
            said(skiff(lab).args(["observe", "on", probes, "--slots", slots]))?;
            let told = said(skiff(lab).arg("observe"));
            said(skiff(lab).args(["observe", "off"]))?;
            let told = told?;
            let memory = told.lines().find_map(|line| line.trim().strip_prefix("memory: "));
            lines.push(format!("{} with {slots}", memory.context("it does not tell its memory")?));
        }
        report.line(&format!("* kernel memory of {probes}: {}", lines.join("; ")));
    }
    Ok(())
}
