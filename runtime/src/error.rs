//! What can go wrong between options and a running process.

use std::fmt::{self, Write};
use std::io;

use nix::errno::Errno;

/// A launch that failed. The text is one line: what was tried, on what, and the cause.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option cannot be honoured.
    #[error("{}", OneLine(.0))]
    Option(String),
    /// A call failed before the container's program was to be run.
    #[error("{}: {source}", OneLine(what))]
    Host {
        /// What was tried, on what.
        what: String,
        /// The cause.
        source: io::Error,
    },
    /// The container's program is not there.
    #[error("{}: {source}", OneLine(program))]
    NotFound {
        /// As it was asked for.
        program: String,
        /// The cause.
        source: io::Error,
    },
    /// The container's program is there but cannot be run.
    #[error("{}: {source}", OneLine(program))]
    CannotInvoke {
        /// As it was asked for.
        program: String,
        /// The cause.
        source: io::Error,
    },
}

impl Error {
    /// The exit code that docker run has for this: 125 for the engine's own errors, 126 for a program that cannot be
    /// invoked, 127 for one that is not found.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Option(_) | Self::Host { .. } => 125,
            Self::CannotInvoke { .. } => 126,
            Self::NotFound { .. } => 127,
        }
    }

    /// Says on what of several things an option is that cannot be honoured.
    pub(crate) fn about(self, what: &str) -> Self {
        match self {
            Self::Option(text) => Self::Option(format!("{what}: {text}")),
            other => other,
        }
    }
}

/// Text with what others have written in it, whose control characters must not end the line or reach a terminal.
#[derive(Debug)]
pub struct OneLine<'a>(pub &'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.0.split_inclusive(char::is_control) {
            let control = part.chars().next_back().filter(|last| last.is_control());
            out.write_str(&part[..part.len() - control.map_or(0, char::len_utf8)])?;
            control
                .into_iter()
                .flat_map(char::escape_default)
                .try_for_each(|letter| out.write_char(letter))?;
        }
        Ok(())
    }
}

/// A failed call's error that says no more than its cause.
#[derive(Debug)]
struct Plain(Errno);

impl fmt::Display for Plain {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(words(self.0))
    }
}

impl std::error::Error for Plain {}

/// Says what was tried when an I/O call fails.
pub(crate) trait Context<T> {
    /// Names the attempt; `what` runs only on failure.
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|error| Error::Host { what: what(), source: plain(error.into()) })
    }
}

/// The host's word for a failed call, without the number. In lower case, as callers look for `no such file or directory`.
#[must_use]
pub fn cause(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => words(Errno::from_raw(number)).to_lowercase(),
        None => error.to_string(),
    }
}

/// The same error without Rust's `(os error N)`: the cause alone, as perror(3) has it.
pub(crate) fn plain(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(number) => io::Error::new(error.kind(), Plain(Errno::from_raw(number))),
        None => error,
    }
}

/// As strerror(3) of glibc has it, and with it other runtimes and whoever looks a message up.
fn words(errno: Errno) -> &'static str {
    match errno {
        Errno::EAGAIN => "Resource temporarily unavailable",
        Errno::EBADF => "Bad file descriptor",
        Errno::EDEADLK => "Resource deadlock avoided",
        Errno::EDOM => "Numerical argument out of domain",
        Errno::EDQUOT => "Disk quota exceeded",
        Errno::EIO => "Input/output error",
        Errno::ELOOP => "Too many levels of symbolic links",
        Errno::ENFILE => "Too many open files in system",
        Errno::ENOLCK => "No locks available",
        Errno::ENOMEM => "Cannot allocate memory",
        Errno::ENOTTY => "Inappropriate ioctl for device",
        Errno::EOPNOTSUPP => "Operation not supported",
        Errno::ERANGE => "Numerical result out of range",
        Errno::EXDEV => "Invalid cross-device link",
        other => other.desc(),
    }
}

/// The number of an error, also of a [plain] one.
pub(crate) fn number(error: &io::Error) -> Option<i32> {
    let plain = || error.get_ref()?.downcast_ref::<Plain>().map(|plain| plain.0 as i32);
    error.raw_os_error().or_else(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_whatever_is_told_of() {
        for (text, expect) in
            [("plain, ü", "plain, ü"), ("a\nb\u{1b}[1m", "a\\nb\\u{1b}[1m"), ("\u{85}", "\\u{85}")]
        {
            assert_eq!(Error::Option(text.into()).to_string(), expect);
        }
    }

    #[test]
    fn a_cause_has_the_words_that_it_is_known_by() {
        let check = |number, words: &str| {
            assert_eq!(cause(&io::Error::from_raw_os_error(number)), words.to_lowercase());
            assert_eq!(plain(io::Error::from_raw_os_error(number)).to_string(), words);
        };
        check(nix::libc::ENOENT, "No such file or directory");
        check(nix::libc::ERANGE, "Numerical result out of range");
        check(nix::libc::EBADF, "Bad file descriptor");
        check(nix::libc::ENOTTY, "Inappropriate ioctl for device");
    }

    #[test]
    fn a_plain_error_still_has_its_number() {
        let error = plain(io::Error::from_raw_os_error(nix::libc::EMFILE));
        assert_eq!(
            (error.to_string().as_str(), number(&error)),
            ("Too many open files", Some(nix::libc::EMFILE))
        );
        assert_eq!(number(&plain(plain(error))), Some(nix::libc::EMFILE));
        assert_eq!(number(&io::Error::other("no call's")), None);
    }
}
