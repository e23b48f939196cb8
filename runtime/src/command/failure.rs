//! Why `skiff-runtime` gives up: one line and an exit code.

use std::fmt;
use std::io;

use skiff_runtime::{OneLine, cause};

/// A failure to report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What to exit with.
    pub(crate) code: u8,
    /// One line, without the leading `skiff-runtime: `.
    pub(crate) message: String,
}

impl Failure {
    /// A failure of the runtime, of its arguments or of the host.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into() }
    }

    /// A call that failed, and what it was to do.
    pub(crate) fn os(what: &str, error: &io::Error) -> Self {
        Self::new(format!("{what}: {}", cause(error)))
    }
}

/// Says what was tried when an I/O call fails.
pub(crate) trait Context<T> {
    /// Names the attempt; `what` runs only on failure.
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| Failure::os(&what(), &error.into()))
    }
}

impl From<skiff_runtime::Error> for Failure {
    fn from(error: skiff_runtime::Error) -> Self {
        Self::new(error.to_string())
    }
}

impl fmt::Display for Failure {
    /// The message on one line, whatever names found their way into it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        OneLine(&self.message).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_without_control_characters() {
        assert_eq!(Failure::new("no a\n\u{1b}[2J").to_string(), "no a\\n\\u{1b}[2J");
    }
}
