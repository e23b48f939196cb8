//! The black-box suite, run as it is in this machine.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::Verdict;

/// What a test may find missing here and be skipped for. A skip for any other reason is a failure: the machine is
/// there to run such tests.
const MISSING: [&str; 25] = [
    "FUSE",
    "Linux >= 6.12",
    "a loop device",
    "buildah",
    "cgroup v1",
    "criu",
    "debootstrap",
    "nginx",
    "openssl",
    "prlimit",
    "procps",
    "prometheus",
    "promtool",
    "python",
    "redis-server",
    "runc",
    "setpriv",
    "skopeo",
    "strace",
    "systemd",
    "taskset",
    "the cpu controller",
    "the tracepoint cap_capable",
    "umoci",
    "zstd",
];

/// The same for machines that boot systemd, which are there for the tests that need it and what else they have; nor may
/// their kernel lack anything.
const MISSING_BESIDE_SYSTEMD: [&str; 2] = ["control groups of the user's own", "freedom from systemd"];

/// So many tests that have failed are tried again.
const AGAIN_MAX: usize = 8;

/// Runs the tests of the suite that match a filter, or all, of them the share `which` (from 0) of `of`; its own output goes
/// to the serial line, for the log.
///
/// A few that fail are run once more, alone: several emulated machines share few processors, and a process that has not run for
/// seconds is no fault of what is tested. Such a one is reported as `again`, whatever comes of it.
pub(crate) fn run(
    filters: &[String],
    (which, of): (usize, usize),
    with_systemd: bool,
) -> Result<Vec<(String, Verdict)>> {
    let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
    let ours: Vec<String> = if of == 1 { Vec::new() } else { list(&filters)? };
    let ours: Vec<&str> = ours.iter().skip(which).step_by(of).map(String::as_str).collect();
    let chosen = if of == 1 { filters } else { [&["--exact"], &ours[..]].concat() };
    let mut results = run_once(&[&["--test-threads=2"], &chosen[..]].concat(), with_systemd)?;
    let names: Vec<String> = failed(&results).map(|(name, _)| name.clone()).collect();
    if (1..=AGAIN_MAX).contains(&names.len()) {
        for (name, verdict) in failed(&results) {
            println!("vm: again {name}: {verdict:?}");
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let again = run_once(&[&["--test-threads=1", "--exact"], &names[..]].concat(), with_systemd)?;
        replace(&mut results, again);
    }
    Ok(results)
}

fn failed(results: &[(String, Verdict)]) -> impl Iterator<Item = &(String, Verdict)> {
    results.iter().filter(|(_, verdict)| matches!(verdict, Verdict::Fail(_)))
}

/// Puts later verdicts in the place of earlier ones.
fn replace(results: &mut [(String, Verdict)], again: Vec<(String, Verdict)>) {
    for (name, verdict) in again {
        if let Some(result) = results.iter_mut().find(|(known, _)| *known == name) {
            result.1 = verdict;
        }
    }
}

/// The names of the tests that match a filter, or of all.
fn list(filters: &[&str]) -> Result<Vec<String>> {
    let output = Command::new("/bin/it").arg("--list").args(filters).output().context("start /bin/it")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let names: Vec<String> =
        text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect();
    ensure!(output.status.success() && !names.is_empty(), "/bin/it lists no test: {text}");
    Ok(names)
}

fn run_once(arguments: &[&str], with_systemd: bool) -> Result<Vec<(String, Verdict)>> {
    let mut suite = Command::new("/bin/it");
    suite.arg("--show-output").args(arguments).current_dir("/tmp");
    suite.env_clear().env("PATH", "/bin:/sbin").env("CARGO_TARGET_DIR", "/target");
    // Emulation makes a machine ten times slower and more.
    suite.env("SKIFF_TEST_PATIENCE", "5");
    suite.env("SKIFF", "/bin/skiff").env("RUNTIME", "/bin/skiff-runtime").env("SKIFF_PROBE", "/bin/probe");
    let mut suite = suite.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("start /bin/it")?;
    let stdout = suite.stdout.take().context("standard output of /bin/it")?;
    let mut lines = Vec::new();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = String::from_utf8_lossy(&line.context("read the output of /bin/it")?).into_owned();
        println!("{line}");
        lines.push(line);
    }
    let status = suite.wait().context("wait for /bin/it")?;
    let results = parse(&lines, with_systemd);
    ensure!(!results.is_empty(), "/bin/it ran no test and ended with {status}");
    let has_failed = failed(&results).next().is_some();
    ensure!(status.success() || has_failed, "/bin/it ended with {status} although no test failed");
    Ok(results)
}

/// The verdicts in the output of a test program.
///
/// ```text
/// test NAME ... ok | FAILED
///
/// ---- NAME stdout ----
/// skip: needs WHAT                   (or why the test failed)
/// ```
fn parse(lines: &[String], with_systemd: bool) -> Vec<(String, Verdict)> {
    let mut results = Vec::new();
    let mut section = None;
    for line in lines {
        if let Some((name, verdict)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
            results.push((name.to_owned(), verdict_of(verdict)));
        } else if let Some(name) =
            line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----"))
        {
            section = results.iter().position(|(known, _)| known == name);
        } else if let Some(index) = section {
            explain(&mut results[index].1, line, with_systemd);
        }
    }
    results
}

fn verdict_of(word: &str) -> Verdict {
    if word == "ok" { Verdict::Pass } else { Verdict::Fail(String::new()) }
}

/// Takes a line that the test itself has printed into account.
fn explain(verdict: &mut Verdict, line: &str, with_systemd: bool) {
    let (missing, skipped): (&[&str], _) = match line.strip_prefix("skip: lacks ") {
        Some(what) if with_systemd => (&MISSING_BESIDE_SYSTEMD, Some(what)),
        // What a kernel or a runtime need not have.
        Some(what) if *verdict == Verdict::Pass => {
            *verdict = Verdict::Skip(format!("lacks {what}"));
            return;
        }
        _ if with_systemd => (&MISSING_BESIDE_SYSTEMD, line.strip_prefix("skip: needs ")),
        _ => (&MISSING, line.strip_prefix("skip: needs ")),
    };
    match (&*verdict, skipped) {
        (Verdict::Pass, Some(what)) if missing.iter().any(|missing| what.contains(missing)) => {
            *verdict = Verdict::Skip(format!("needs {what}"));
        }
        (Verdict::Pass, Some(what)) => *verdict = Verdict::Fail(format!("skipped, needs {what}")),
        // The first line that is not about where the panic was, which is the message.
        (Verdict::Fail(why), None)
            if why.is_empty() && !line.is_empty() && !line.contains(" panicked at ") =>
        {
            *verdict = Verdict::Fail(line.to_owned());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_come_with_what_the_tests_said() {
        let output = "\nrunning 5 tests\ntest a::runs ... ok\ntest a::fails ... FAILED\ntest b::lacks_a_tool ... ok\n\
            test b::lacks_a_kernel ... ok\ntest b::lacks_a_label ... ok\n\nsuccesses:\n\n---- b::lacks_a_tool stdout ----\nskip: needs umoci\n\n\
            ---- b::lacks_a_kernel stdout ----\nskip: needs BTF\n\n---- b::lacks_a_label stdout ----\n\
            skip: lacks SELinux\n\nfailures:\n\n---- a::fails stdout ----\n\n\
            thread 'a::fails' panicked at tests/it/a.rs:1:2:\nleft behind:\nmount /x\n\n\nfailures:\n    a::fails\n\n\
            test result: FAILED. 3 passed; 1 failed; 0 ignored\n";
        let lines: Vec<String> = output.lines().map(str::to_owned).collect();
        let expected = [
            ("a::runs", Verdict::Pass),
            ("a::fails", Verdict::Fail("left behind:".into())),
            ("b::lacks_a_tool", Verdict::Skip("needs umoci".into())),
            ("b::lacks_a_kernel", Verdict::Fail("skipped, needs BTF".into())),
            ("b::lacks_a_label", Verdict::Skip("lacks SELinux".into())),
        ];
        assert_eq!(parse(&lines, false), expected.map(|(name, verdict)| (name.to_owned(), verdict)));
        let mut results =
            vec![("a".to_owned(), Verdict::Pass), ("b".to_owned(), Verdict::Fail("late".into()))];
        replace(&mut results, vec![("b".to_owned(), Verdict::Pass)]);
        assert_eq!(failed(&results).next(), None);
        let lines = ["test a ... ok", "---- a stdout ----", "skip: lacks a kernel that criu knows"]
            .map(str::to_owned);
        assert!(matches!(&parse(&lines, true)[..], [(_, Verdict::Fail(_))]));
    }
}
