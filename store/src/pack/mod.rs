//! From files to tars: the way back of [`mod@crate::unpack`].
//!
//! [`stack`] reads layers as overlayfs would show them, [`changes`] compares the top one with the rest, [`mod@tree`]
//! makes entries of what they find, and [`writer`] writes those. The same tree always makes the same archive: names are
//! sorted, what is not a property of the tree does not occur.

mod changes;
mod stack;
mod tree;
mod writer;

pub use changes::{Change, ChangeKind, Tree};
pub use tree::{IdRange, Ids};
pub(crate) use tree::{layer, whole};
pub(crate) use writer::Writer;
