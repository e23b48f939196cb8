//! What is needed beside an unpacked layer to give its tar again, byte for byte.
//!
//! A tar is headers, padding and the contents of files. The contents lie in the layer's tree; all the rest is written
//! down here while the layer is unpacked ([`Tap`]), and put together with them again when somebody asks for the
//! tar ([`Replay`]). What the tree does not have – files that a later entry of the layer replaced, or that their owner
//! may not read – is written down too.
//!
//! ```text
//! "skiff tar 1\n"            12 bytes
//! length of the tar          8 bytes, little-endian; 0 until the recipe is whole
//! steps, one after another   zstd
//!
//! 0                          the end
//! 1 LENGTH BYTES             these bytes
//! 2 LENGTH                   so many zeros
//! 3 LENGTH PATH              from here on, contents are those of PATH below the layer's root
//! 4 OFFSET LENGTH            so many bytes of that file, from OFFSET on
//! ```
//!
//! Numbers are LEB128. The store reads its own recipes, but as if they were somebody else's: after damage there
//! is an error, never more memory than [`LITERAL_MAX`] and [`PATH_MAX`] allow, and no file outside of the layer.

mod record;
mod replay;

pub(crate) use record::{Lost, Place, Recorder, Tap};
pub(crate) use replay::{Opened, Replay};

const MAGIC: &[u8; 12] = b"skiff tar 1\n";
/// Bytes in front of the steps.
const HEAD: u64 = 20;

/// Most bytes of one literal step.
const LITERAL_MAX: u64 = 64 << 10;
/// Longest path, in bytes, as in Linux with its end.
const PATH_MAX: u64 = 4096;

/// Largest recipe, in bytes as it lies on disk. A layer that would need more is kept without one.
const RECIPE_MAX: u64 = 1 << 30;

const END: u8 = 0;
const LITERAL: u8 = 1;
const ZEROS: u8 = 2;
const FILE: u8 = 3;
const CONTENT: u8 = 4;

#[cfg(test)]
mod tests;
