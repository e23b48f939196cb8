//! The small command lines: of every command but `run`, which has a table of flags of its own.

use std::ffi::OsString;

use crate::failure::Failure;

/// How a command prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// What a command was given, flag by flag.
#[derive(Debug)]
pub(crate) struct Words {
    command: &'static str,
    rest: std::vec::IntoIter<String>,
    /// The value after `=` of the flag that [`Words::next`] has returned last.
    value: Option<String>,
}

impl Words {
    pub(crate) fn new(command: &'static str, words: impl Iterator<Item = OsString>) -> Result<Self, Failure> {
        let text = |word: OsString| {
            let refused = |word: OsString| Failure::engine(format!("{}: not valid UTF-8", word.display()));
            word.into_string().map_err(refused)
        };
        let rest: Vec<String> = words.map(text).collect::<Result<_, _>>()?;
        Ok(Self { command, rest: rest.into_iter(), value: None })
    }

    /// The next flag, without its value, or operand.
    pub(crate) fn next(&mut self) -> Result<Option<String>, Failure> {
        if let Some(value) = self.value.take() {
            return Err(self.refused(&format!("unexpected value {value:?}")));
        }
        let Some(word) = self.rest.next() else { return Ok(None) };
        match word.split_once('=') {
            Some((flag, value)) if word.starts_with("--") => {
                self.value = Some(value.to_owned());
                Ok(Some(flag.to_owned()))
            }
            _ => Ok(Some(word)),
        }
    }

    /// The value of `flag`, which was the last word.
    pub(crate) fn value(&mut self, flag: &str) -> Result<String, Failure> {
        let value = self.value.take().or_else(|| self.rest.next());
        value.ok_or_else(|| self.refused(&format!("{flag} needs a value")))
    }

    /// The value that hangs on the last flag, if there is one.
    pub(crate) const fn optional(&mut self) -> Option<String> {
        self.value.take()
    }

    /// The value of `--format`.
    pub(crate) fn format(&mut self) -> Result<Format, Failure> {
        match self.value("--format")?.as_str() {
            "json" => Ok(Format::Json),
            "table" | "text" => Ok(Format::Text),
            other => Err(self.refused(&format!("--format {other}: neither text nor json"))),
        }
    }

    /// The refusal of a word that the command does not know.
    pub(crate) fn unknown(&self, word: &str) -> Failure {
        let kind = if word.starts_with('-') { "unknown flag" } else { "unexpected argument" };
        self.refused(&format!("{kind}: {word}"))
    }

    /// A failure that points to the help.
    pub(crate) fn refused(&self, what: &str) -> Failure {
        Failure::engine(format!("{what}, see 'skiff {} --help'", self.command))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Words {
        Words::new("stats", line.split_whitespace().map(OsString::from)).expect("text")
    }

    #[test]
    fn values_follow_or_hang_on() {
        for line in ["--format json web", "--format=json web"] {
            let mut words = words(line);
            assert_eq!(words.next(), Ok(Some("--format".into())), "{line}");
            assert_eq!(words.format(), Ok(Format::Json), "{line}");
            assert_eq!(words.next(), Ok(Some("web".into())), "{line}");
            assert_eq!(words.next(), Ok(None), "{line}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let mut missing = words("--format");
        let _flag = missing.next();
        assert!(missing.format().is_err_and(|failure| failure.message.starts_with("--format needs a value")));
        let mut extra = words("--no-stream=x --format");
        let _flag = extra.next();
        assert!(extra.next().is_err_and(|failure| failure.message.contains("\"x\"")));
        assert!(words("").unknown("-z").message.starts_with("unknown flag: -z, see 'skiff stats --help'"));
    }
}
