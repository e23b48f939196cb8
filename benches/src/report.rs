//! The report: Markdown, printed and, if wanted, kept.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::host;

/// A report being written.
#[derive(Debug)]
pub struct Report {
    topic: &'static str,
    text: String,
}

impl Report {
    /// Starts the report on `topic` with the facts about the host.
    pub fn start(topic: &'static str, tools: &[(&str, &str)]) -> Result<Self> {
        let mut report = Self { topic, text: String::new() };
        report.line(&format!("# {topic}, {}\n", host::date()?));
        for fact in host::describe(tools)? {
            report.line(&format!("* {fact}"));
        }
        Ok(report)
    }

    /// Adds a line.
    pub fn line(&mut self, line: &str) {
        println!("{line}");
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// Whether a line begins like this.
    #[must_use]
    pub fn has_line(&self, beginning: &str) -> bool {
        self.text.lines().any(|line| line.starts_with(beginning))
    }

    /// Adds a table: the first column to the left, the others to the right.
    pub fn table(&mut self, head: &[&str], rows: &[Vec<String>]) {
        let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
        for row in rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let mut line = String::from("|");
            for (index, (cell, width)) in cells.zip(&widths).enumerate() {
                // Writing to a string cannot fail.
                let _ok = if index == 0 {
                    write!(line, " {cell:<width$} |")
                } else {
                    write!(line, " {cell:>width$} |")
                };
            }
            line
        };
        let head_line = line(&mut head.iter().copied());
        let rule: Vec<String> = widths
            .iter()
            .enumerate()
            .map(
                |(index, width)| {
                    if index == 0 { "-".repeat(*width) } else { format!("{}:", "-".repeat(width - 1)) }
                },
            )
            .collect();
        let rule_line = line(&mut rule.iter().map(String::as_str));
        let lines: Vec<String> = rows.iter().map(|row| line(&mut row.iter().map(String::as_str))).collect();
        self.line("");
        self.line(&head_line);
        self.line(&rule_line);
        lines.iter().for_each(|line| self.line(line));
        self.line("");
    }

    /// Keeps the report as `DIRECTORY/<date>-<topic>.md`.
    pub fn save(&self, directory: &Path) -> Result<()> {
        let path = directory.join(format!("{}-{}.md", host::date()?, self.topic));
        fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
        fs::write(&path, &self.text).with_context(|| format!("write {}", path.display()))?;
        println!("kept as {}", path.display());
        Ok(())
    }
}

/// Whether an aim is kept, in the word that reports have for it.
#[must_use]
pub const fn verdict(kept: bool) -> &'static str {
    if kept { "kept" } else { "MISSED" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_markdown() {
        let mut report = Report { topic: "test", text: String::new() };
        report
            .table(&["arm", "ms"], &[vec!["skiff".into(), "1.25".into()], vec!["a".into(), "10.00".into()]]);
        let expect = "\n| arm   |    ms |\n| ----- | ----: |\n| skiff |  1.25 |\n| a     | 10.00 |\n\n";
        assert_eq!(report.text, expect);
    }
}
