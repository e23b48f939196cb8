//! What a machine reports on its serial line, and what to make of it.

use std::fmt;

use anyhow::{Result, bail};

/// The lines of one machine, as far as they are results.
#[derive(Debug, Default)]
pub(crate) struct Report {
    kernel: Option<String>,
    passed: usize,
    skipped: usize,
    failed: Vec<String>,
    /// Run once more, as they had failed.
    again: usize,
    announced: Option<usize>,
}

impl Report {
    /// Takes in a line; whether it was a result.
    pub(crate) fn take(&mut self, line: &str) -> bool {
        // A message of the kernel may stand in front on the same line.
        let Some((_, result)) = line.split_once("vm: ") else {
            return false;
        };
        match result.split_once(' ') {
            Some(("kernel", release)) => self.kernel = Some(release.to_owned()),
            Some(("pass", _)) => self.passed += 1,
            Some(("skip", _)) => self.skipped += 1,
            Some(("fail", what)) => self.failed.push(what.to_owned()),
            Some(("again", _)) => self.again += 1,
            Some(("end", count)) => self.announced = count.parse().ok(),
            _ => return false,
        }
        true
    }

    /// An error unless this kernel ran all the checks it announced and none failed.
    pub(crate) fn verdict(&self, release: &str) -> Result<()> {
        if self.kernel.as_deref() != Some(release) {
            bail!("expected kernel {release}, got {:?}", self.kernel);
        }
        if !self.failed.is_empty() {
            bail!("{} of {} checks failed: {}", self.failed.len(), self.count(), self.failed.join("; "));
        }
        match self.announced {
            Some(count) if count == self.count() && self.passed > 0 => Ok(()),
            Some(count) => bail!("{count} checks announced, {} reported", self.count()),
            None => bail!("the machine ended without saying that it was done ({self})"),
        }
    }

    /// One line that names the kernel that ran.
    pub(crate) fn summary(&self) -> String {
        format!("vm {}: {self}", self.kernel.as_deref().unwrap_or("unknown kernel"))
    }

    fn count(&self) -> usize {
        self.passed + self.skipped + self.failed.len()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed.len(), self.skipped)?;
        if self.again > 0 {
            write!(f, "; {} were tried again", self.again)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verdict on these lines from a machine that should run kernel 6.1: empty, or the complaint.
    fn check(lines: &[&str], expect: &str) {
        let mut report = Report::default();
        for line in lines {
            report.take(line);
        }
        let verdict = report.verdict("6.1").map_or_else(|error| error.to_string(), |()| String::new());
        assert_eq!(verdict, expect, "{lines:?}");
    }

    #[test]
    fn only_a_complete_report_without_failures_is_good() {
        check(&["vm: kernel 6.1", "[ 1.0] vm: pass a", "vm: pass b", "vm: skip c: d", "vm: end 3"], "");
        check(&["vm: kernel 6.1", "vm: pass a", "vm: fail b: c", "vm: end 2"], "1 of 2 checks failed: b: c");
        check(&["vm: kernel 6.1", "vm: pass a", "vm: end 2"], "2 checks announced, 1 reported");
        check(&["vm: kernel 6.1", "vm: end 0"], "0 checks announced, 0 reported");
        check(&["vm: kernel 6.1", "vm: skip a: b", "vm: end 1"], "1 checks announced, 1 reported");
        check(
            &["vm: kernel 6.1", "vm: pass a"],
            "the machine ended without saying that it was done (1 passed, 0 failed, 0 skipped)",
        );
        check(&["vm: kernel 6.6", "vm: pass a", "vm: end 1"], "expected kernel 6.1, got Some(\"6.6\")");
        check(&[], "expected kernel 6.1, got None");
    }

    #[test]
    fn other_lines_are_no_results() {
        let mut report = Report::default();
        assert!(!report.take("Booting the kernel."));
        assert!(!report.take("vm: something else"));
        assert!(report.take("vm: pass a b c"));
    }
}
