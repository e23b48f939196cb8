//! Why `skiff` gives up: one line for people and an exit code for scripts.

use std::fmt;

use skiff_runtime::OneLine;

/// skiff itself failed, or was asked for what it cannot do. What `docker run` exits with then.
pub(crate) const ENGINE: u8 = 125;

/// A failure to report; the program of the container did not decide this exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// 125, 126 or 127.
    pub(crate) code: u8,
    /// One line, without the leading `skiff: `.
    pub(crate) message: String,
}

impl Failure {
    /// A failure of skiff or of its arguments.
    pub(crate) fn engine(message: impl Into<String>) -> Self {
        Self { code: ENGINE, message: message.into() }
    }
}

impl From<skiff_store::Error> for Failure {
    fn from(error: skiff_store::Error) -> Self {
        Self::engine(error.to_string())
    }
}

impl From<skiff_runtime::Error> for Failure {
    fn from(error: skiff_runtime::Error) -> Self {
        Self { code: error.exit_code(), message: error.to_string() }
    }
}

impl From<skiff_engine::Error> for Failure {
    fn from(error: skiff_engine::Error) -> Self {
        Self { code: error.exit_code(), message: error.to_string() }
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
        assert_eq!(
            Failure::engine("unknown flag: --a\n\u{1b}[2J").to_string(),
            "unknown flag: --a\\n\\u{1b}[2J"
        );
    }
}
