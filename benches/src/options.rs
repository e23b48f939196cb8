//! The command line that all benchmarks have.

use anyhow::{Context, Result, bail};

/// `[-n COUNT] [--arms A,B,…] [--save]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Measurements of each arm.
    pub count: usize,
    /// Only these arms; all if empty.
    pub arms: Vec<String>,
    /// Whether to keep the report in `benches/runs/`.
    pub save: bool,
}

impl Options {
    /// Reads the arguments after the program's name.
    pub fn parse(arguments: impl IntoIterator<Item = String>, default_count: usize) -> Result<Self> {
        let mut options = Self { count: default_count, arms: Vec::new(), save: false };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "-n" => options.count = value()?.parse().context("-n needs a number")?,
                "--arms" => options.arms = value()?.split(',').map(str::to_owned).collect(),
                "--save" => options.save = true,
                other => bail!("unknown argument {other:?}; there are -n COUNT, --arms A,B,… and --save"),
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
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for line in ["-n", "-n x", "-n 0", "--fast", "skiff"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
