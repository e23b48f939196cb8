//! The account of a conformance run (`cargo xtask test oci`): how much of each topic a runtime gets right.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::command;

/// Verdicts by topic, from the output of the test program.
#[derive(Debug, Default)]
struct Account {
    topics: BTreeMap<String, Topic>,
    /// The topic of the test whose output is being read.
    current: Option<String>,
}

#[derive(Debug, Default)]
struct Topic {
    passed: usize,
    failed: usize,
    skipped: usize,
}

/// Runs the tests, shows what they say, and ends with a table: `name` is the runtime's.
pub(crate) fn run(tests: &mut Command, name: &str) -> Result<()> {
    tests.stdout(Stdio::piped());
    let mut child = command::spawn(tests)?;
    let stdout = child.stdout.take().context("standard output of the tests")?;
    let mut account = Account::default();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.context("read the output of the tests")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        account.take(&line);
    }
    let status = child.wait().context("wait for the tests")?;
    println!("{account}{}", account.summary(name));
    if !status.success() {
        bail!("the tests ended with {status}");
    }
    Ok(())
}

impl Account {
    /// Takes in a line such as `test oci::TOPIC::NAME ... ok`, or what a test has printed.
    fn take(&mut self, line: &str) {
        if let Some((name, verdict)) =
            line.strip_prefix("test oci::").and_then(|rest| rest.split_once(" ... "))
        {
            let topic = self.topics.entry(topic(name)).or_default();
            match verdict {
                "ok" => topic.passed += 1,
                _ => topic.failed += 1,
            }
        } else if let Some(name) = line.strip_prefix("---- oci::") {
            self.current = Some(topic(name));
        } else if line.starts_with("skip: ")
            && let Some(topic) = self.current.take().and_then(|name| self.topics.get_mut(&name))
            && topic.passed > 0
        {
            topic.passed -= 1;
            topic.skipped += 1;
        }
    }

    fn summary(&self, name: &str) -> String {
        let sum = |count: fn(&Topic) -> usize| self.topics.values().map(count).sum::<usize>();
        let (passed, failed, skipped) = (sum(|it| it.passed), sum(|it| it.failed), sum(|it| it.skipped));
        let left_out = if skipped > 0 { format!(" ({skipped} skipped)") } else { String::new() };
        format!("{name}: {passed} passed of {}{left_out}", passed + failed)
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, topic) in &self.topics {
            let Topic { passed, failed, skipped } = topic;
            let left_out = if *skipped > 0 { format!(" ({skipped} skipped)") } else { String::new() };
            writeln!(f, "{name:<12} {passed:>3} of {:>3}{left_out}", passed + failed)?;
        }
        Ok(())
    }
}

fn topic(name: &str) -> String {
    name.split("::").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_counted_by_topic() {
        let output = "running 4 tests\ntest oci::mounts::a ... ok\ntest oci::mounts::b ... FAILED\n\
            test oci::hooks::c ... ok\ntest oci::hooks::d ... ok\nsuccesses:\n---- oci::hooks::c stdout ----\n\
            skip: lacks AppArmor\n\nfailures:\n---- oci::mounts::b stdout ----\nleft behind\nfailures:\n    oci::mounts::b\n";
        let mut account = Account::default();
        output.lines().for_each(|line| account.take(line));
        assert_eq!(account.to_string(), "hooks          1 of   1 (1 skipped)\nmounts         1 of   2\n");
        assert_eq!(account.summary("crun"), "crun: 2 passed of 3 (1 skipped)");
    }
}
