//! How failures become one line.

use std::io;

use skiff_store::{RemoteError, RemoteErrorKind};

/// Longest text of another hand that is repeated in a message, in characters.
const QUOTE_MAX: usize = 300;

pub(crate) type Result<T, E = RemoteError> = std::result::Result<T, E>;

pub(crate) fn failed(message: impl Into<String>) -> RemoteError {
    RemoteError { kind: RemoteErrorKind::Failed, message: message.into() }
}

pub(crate) fn denied(message: impl Into<String>) -> RemoteError {
    RemoteError { kind: RemoteErrorKind::Denied, message: message.into() }
}

/// What somebody else said, fit for one line of a message: without control characters, and not too long.
pub(crate) fn quoted(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let line = words.collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(QUOTE_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// The system's own words, without the number that the standard library appends.
pub(crate) fn cause(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(errno) => nix::errno::Errno::from_raw(errno).desc().to_lowercase(),
        None => quoted(&error.to_string()),
    }
}
