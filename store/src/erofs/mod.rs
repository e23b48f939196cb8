//! One image's layers merged into one read-only file system, without copying the files.
//!
//! The merged image is EROFS and holds the tree alone: directories, symlinks, devices, and of every regular file its
//! owner, mode, times, attributes and size. The bytes stay where they are, in the layers' directories, which overlayfs
//! takes as one data-only layer (Linux ≥ 6.5): a file in the image says by `trusted.overlay.redirect` where its content
//! lies. So there is one copy of each layer, the page cache of a file is common to all images that have it, and the kernel
//! looks a name up in one place however many layers there are.
//!
//! ```text
//! overlay ── lowerdir+ ── ROOT/erofs/sha256/IMAGE       the tree (EROFS in a file: Linux ≥ 6.12)
//!         └─ datadir+  ── ROOT/layers/sha256            /HEX/usr/bin/python3
//! ```
//!
//! Without `metacopy` overlayfs follows such files since Linux 6.16. What is written is the same, byte for byte, for the
//! same layers.

mod tree;
mod write;

use std::io;
use std::path::PathBuf;

use crate::digest::Digest;

/// The merged tree of `layers`, bottom first, as an image.
///
/// A layer is its digest, by which the data-only layer has it, and its directory, which nobody changes meanwhile. Needs
/// root: attributes in `trusted.*` are read. Errors: a path that is too long to be pointed to.
pub(crate) fn merge(layers: &[(Digest, PathBuf)]) -> io::Result<Vec<u8>> {
    write::image(&tree::Tree::of(layers)?)
}

#[cfg(test)]
mod tests;
