//! Where images come from and go to that are not on this host.
//!
//! The store knows nothing of HTTP: it asks for documents and bytes, and checks all it gets.

use std::io::Read;

use crate::digest::Digest;

/// A manifest or an index, word for word: its digest is that of `bytes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Media type as the other side says it.
    pub media_type: String,
    /// Not checked yet; at most 4 MiB.
    pub bytes: Vec<u8>,
}

/// Which manifest of a repository is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestRef {
    /// By its tag.
    Tag(String),
    /// By its digest.
    Digest(Digest),
}

/// One repository somewhere else. Used from several threads at once.
pub trait Remote: Sync {
    /// A manifest or index.
    fn manifest(&self, which: &ManifestRef) -> Result<Document, RemoteError>;

    /// The blob's bytes from `offset` on.
    ///
    /// The stream may end early or fail; whoever reads it asks again from where it ended. Requests that failed for
    /// reasons that pass are repeated by the other side of this trait, not by the caller.
    fn blob(&self, digest: Digest, offset: u64) -> Result<Box<dyn Read + Send + '_>, RemoteError>;
}

/// Why something could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RemoteError {
    /// What callers tell apart.
    pub kind: RemoteErrorKind,
    /// One line, with what was asked for and the other side's words.
    pub message: String,
}

/// What callers of a [`Remote`] tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoteErrorKind {
    /// There is no such repository, manifest or blob.
    NotFound,
    /// It may be there, but not for this user.
    Denied,
    /// Anything else.
    Failed,
}
