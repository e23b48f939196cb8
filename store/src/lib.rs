//! Images on this host: from a reference on the command line to directories that overlayfs can stack.
//!
//! Knows nothing of containers and pulls nothing. docs/store.md describes what is kept on disk.
#![forbid(unsafe_code)]

mod blob;
mod digest;
mod entries;
mod error;
mod image;
mod manifest;
mod platform;
mod reference;
mod source;
mod spec;
mod staging;
mod store;
mod unpack;

pub use error::Error;
pub use image::{Healthcheck, Image, ImageConfig};
pub use reference::{ImageRef, Located};
pub use store::Store;
