//! What is told of a pull while it goes on.

use crate::Digest;

/// Listens to a pull. Called by the threads that do the work: it should return at once.
pub trait Progress: Sync {
    /// Something happened to the layer whose blob has this digest.
    fn layer(&self, digest: Digest, event: LayerEvent);

    /// All layers of the image, bottom first, before anything happens to them.
    fn layers(&self, _digests: &[Digest]) {}

    /// So many device nodes and extended attributes of a layer could not be kept for lack of privilege or support by the file system.
    fn left_out(&self, _digest: Digest, _devices: u64, _xattrs: u64) {}
}

/// What can happen to a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerEvent {
    /// Its turn has not come, or somebody else is at it.
    Waiting,
    /// It is here already.
    Present,
    /// Bytes of the blob that have come, of so many; at most ten times a second.
    Downloading {
        /// Bytes.
        done: u64,
        /// Bytes.
        total: u64,
    },
    /// The connection broke and will be made again.
    Retrying {
        /// The first is 1.
        attempt: u32,
        /// Why; one line.
        reason: String,
    },
    /// Bytes of the blob that have been unpacked, of so many, after all of it has come.
    Unpacking {
        /// Bytes.
        done: u64,
        /// Bytes.
        total: u64,
    },
    /// Both digests are right.
    Verified,
    /// It is in the store.
    Complete,
}

/// Listens to nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn layer(&self, _digest: Digest, _event: LayerEvent) {}
}
