//! What can go wrong, said in one line.

use std::io;
use std::path::{Path, PathBuf};

use crate::{ImageName, RemoteError};

/// Why an image could not be found, read or unpacked. Every message is one line without a full stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The image reference is malformed, or nothing stands where it points.
    #[error("image {image:?} not found: {reason}")]
    NotFound {
        /// The reference as the user wrote it.
        image: String,
        /// What is missing or wrong.
        reason: String,
    },
    /// The image is there, but something in it is damaged, hostile or unsupported.
    #[error("image {image}: {reason}")]
    Image {
        /// File or directory that holds the image.
        image: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no image of this name or id here; it may be elsewhere.
    #[error("no such image: {image}")]
    NoSuchImage {
        /// As the user wrote it.
        image: String,
    },
    /// What was asked makes no sense.
    #[error("{image:?}: {reason}")]
    Invalid {
        /// As the user wrote it.
        image: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What was asked does not go with what else there is; it could be forced.
    #[error("conflict: {0}")]
    Conflict(String),
    /// The other side does not give it.
    #[error("pull {image}: {error}")]
    Remote {
        /// The image's name.
        image: String,
        /// What the other side says.
        error: RemoteError,
    },
    /// The store itself cannot be used.
    #[error("store {}: {reason}", root.display())]
    Store {
        /// The store's root directory.
        root: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl Error {
    pub(crate) fn remote(name: &ImageName, error: &RemoteError) -> Self {
        Self::Remote { image: name.familiar(), error: error.clone() }
    }

    pub(crate) fn store(root: &Path, reason: impl Into<String>) -> Self {
        Self::Store { root: root.to_owned(), reason: reason.into() }
    }
}

/// An error of the system, and what it is about.
#[derive(Debug)]
struct At {
    place: String,
    error: io::Error,
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.place, cause(&self.error))
    }
}

impl std::error::Error for At {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// `error` with what it is about before it; [`is_unreadable`] sees through that.
pub(crate) fn at(place: impl Into<String>, error: io::Error) -> io::Error {
    io::Error::other(At { place: place.into(), error })
}

/// Whether something may be as it should and could only not be looked at: the disk, rights or memory fail. What is not there, or is
/// of another kind than it should be, is damaged.
pub(crate) fn is_unreadable(error: &io::Error) -> bool {
    use nix::libc::{EISDIR, ELOOP, ENOENT, ENOTDIR, ENXIO, EXDEV};
    match error.raw_os_error() {
        Some(errno) => ![EISDIR, ELOOP, ENOENT, ENOTDIR, ENXIO, EXDEV].contains(&errno),
        None if error.kind() == io::ErrorKind::OutOfMemory => true,
        None => {
            let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<At>());
            inner.is_some_and(|at| is_unreadable(&at.error))
        }
    }
}

/// The system's own words for `error`, without the number that the standard library appends.
pub(crate) fn cause(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(errno) => nix::errno::Errno::from_raw(errno).desc().to_lowercase(),
        None if error.kind() == io::ErrorKind::UnexpectedEof => "the data ends too early".to_owned(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_there_or_of_another_kind_is_damaged() {
        use nix::libc::{EACCES, EIO, EISDIR, ELOOP, ENOENT, ENOMEM};
        for errno in [EACCES, EIO, ENOMEM] {
            let error = || io::Error::from_raw_os_error(errno);
            assert!(is_unreadable(&error()) && is_unreadable(&at("here", error())), "{errno}");
        }
        for errno in [EISDIR, ELOOP, ENOENT] {
            let error = || io::Error::from_raw_os_error(errno);
            assert!(!is_unreadable(&error()) && !is_unreadable(&at("here", error())), "{errno}");
        }
        // Of a buffer that cannot be had.
        assert!(is_unreadable(&io::ErrorKind::OutOfMemory.into()));
        assert!(!is_unreadable(&io::ErrorKind::InvalidData.into()));
    }
}
