//! Images on this host: from a reference on the command line to directories that overlayfs can stack.
//!
//! Knows nothing of containers and pulls nothing. docs/store.md describes what is kept on disk.
#![forbid(unsafe_code)]

mod error;
mod image;
mod reference;
mod store;

pub use error::Error;
pub use image::{Image, ImageConfig};
pub use reference::{ImageRef, Located};
pub use store::Store;
