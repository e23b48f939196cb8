//! `cargo xtask ci`: every other verb, from cheap to dear, as one verdict.
//!
//! Each stage is a run of this program, so that it stands on its own and its output can be counted. A failing cheap
//! stage is remembered and the rest goes on; a failing dear one ends the run, since the next would only cost time.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::workspace;

pub(crate) const HELP: &str = "all of it, from cheap to dear: setup, check, ebpf, test, vm, bench (root)";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cost {
    Cheap,
    Dear,
}

struct Stage {
    words: &'static [&'static str],
    cost: Cost,
}

#[rustfmt::skip] // one stage, one line
const STAGES: &[Stage] = &[
    Stage { words: &["setup"], cost: Cost::Dear },
    Stage { words: &["check"], cost: Cost::Cheap },
    Stage { words: &["ebpf"], cost: Cost::Cheap },
    Stage { words: &["test"], cost: Cost::Dear },
    Stage { words: &["vm"], cost: Cost::Dear },
    // That the benches run at all; their figures mean nothing here.
    Stage { words: &["bench", "micro", "--benches", "--", "--test"], cost: Cost::Dear },
    Stage { words: &["bench", "launch", "-n", "3"], cost: Cost::Dear },
    Stage { words: &["bench", "runtime", "-n", "2"], cost: Cost::Dear },
    Stage { words: &["bench", "profile", "-n", "1"], cost: Cost::Dear },
    Stage { words: &["bench", "observe", "-n", "1", "--parts", "always,events,programs,room"], cost: Cost::Dear },
];

/// Tests that ran, by the summaries of the test runner and of the machines.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: usize,
    failed: usize,
}

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    if let Some(argument) = arguments.first() {
        bail!("ci takes no argument, got {argument:?}");
    }
    let mut tally = Tally::default();
    let mut lines = Vec::new();
    let mut failed = Vec::new();
    for stage in STAGES {
        let name = stage.words.join(" ");
        println!("== {name}");
        let begun = Instant::now();
        let passed = run_stage(stage, &mut tally).with_context(|| format!("stage {name}"))?;
        let verdict = if passed { "ok" } else { "FAILED" };
        lines.push(format!("ci {name:<34} {verdict:<6} {:6.1} s", begun.elapsed().as_secs_f64()));
        if !passed {
            failed.push(name);
            if stage.cost == Cost::Dear {
                break;
            }
        }
    }
    println!("{}\n{} passed, {} failed", lines.join("\n"), tally.passed, tally.failed);
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// Runs one stage, shows what it prints, and counts the tests in it.
fn run_stage(stage: &Stage, tally: &mut Tally) -> Result<bool> {
    let xtask = std::env::current_exe().context("the path of this program")?;
    let mut command = Command::new(xtask);
    // What CI must have, setup has installed: nothing may be skipped.
    command.args(stage.words).env("MUST_RUN", "1").current_dir(workspace::root());
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("start")?;
    let stdout = child.stdout.take().context("its standard output")?;
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.context("read its standard output")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        tally.take(&line);
    }
    Ok(child.wait().context("wait for it")?.success())
}

impl Tally {
    /// Adds what a summary line says: `test result: … N passed; M failed; …` or `vm RELEASE: N passed, M failed`.
    fn take(&mut self, line: &str) {
        if !line.starts_with("test result: ") && !line.starts_with("vm ") {
            return;
        }
        let words: Vec<&str> = line.split([' ', ';', ',']).filter(|word| !word.is_empty()).collect();
        for pair in words.windows(2) {
            match (pair[0].parse::<usize>(), pair[1]) {
                (Ok(count), "passed") => self.passed += count,
                (Ok(count), "failed") => self.failed += count,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_of_the_test_runner_and_of_machines_are_counted() {
        let mut tally = Tally::default();
        tally.take("test result: FAILED. 14 passed; 1 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.02s");
        tally.take("vm 6.1.0-56-amd64: 9 passed, 2 failed");
        tally.take("test 5 passed ... ok");
        assert_eq!(tally, Tally { passed: 23, failed: 3 });
    }

    #[test]
    fn every_stage_is_a_verb() {
        for stage in STAGES {
            assert!(crate::VERBS.iter().any(|verb| verb.name == stage.words[0]), "{:?}", stage.words);
        }
    }
}
