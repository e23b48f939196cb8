//! The command line that all benchmarks have.

use anyhow::{Context, Result, bail};

/// `[-n COUNT] [--arms A,B,…] [--parts P,Q,…] [--save]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Measurements of each arm.
    pub count: usize,
    /// Only these arms; all if empty.
    pub arms: Vec<String>,
    /// Only these parts of the benchmark; all if empty.
    pub parts: Vec<String>,
    /// Whether to keep the report in `benches/runs/`.
    pub save: bool,
}

impl Options {
    /// Reads the arguments after the program's name.
    pub fn parse(arguments: impl IntoIterator<Item = String>, default_count: usize) -> Result<Self> {
        let mut options = Self { count: default_count, arms: Vec::new(), parts: Vec::new(), save: false };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "-n" => options.count = value()?.parse().context("-n needs a number")?,
                "--arms" => options.arms = list(&value()?),
                "--parts" => options.parts = list(&value()?),
                "--save" => options.save = true,
                other => bail!(
                    "unknown argument {other:?}; there are -n COUNT, --arms A,B,…, --parts P,Q,… and --save"
                ),
            }
        }
        if options.count == 0 {
            bail!("-n needs a number above 0");
        }
        Ok(options)
    }

    /// Whether the arm `name` is asked for.
    #[must_use]
    pub fn wants(&self, name: &str) -> bool {
        self.arms.is_empty() || self.arms.iter().any(|arm| arm == name)
    }

    /// Whether the part `name` of the benchmark is asked for.
    #[must_use]
    pub fn wants_part(&self, name: &str) -> bool {
        self.parts.is_empty() || self.parts.iter().any(|part| part == name)
    }
}

fn list(words: &str) -> Vec<String> {
    words.split(',').map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        Options::parse(line.split_whitespace().map(str::to_owned), 200)
    }

    #[test]
    fn options_are_read() {
        let defaults = parse("").unwrap();
        assert!(defaults.count == 200 && !defaults.save && defaults.wants("runc"));
        let all = parse("--save -n 7 --arms skiff,crun").unwrap();
        assert!(all.count == 7 && all.save && all.wants("crun") && !all.wants("runc"));
        let some = parse("--parts alone,live").unwrap();
        assert!(some.wants_part("live") && !some.wants_part("storms") && all.wants_part("storms"));
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for line in ["-n", "-n x", "-n 0", "--parts", "--fast", "skiff"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
