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
mod name;
mod platform;
mod recipe;
mod reference;
mod remote;
mod source;
mod spec;
mod staging;
mod store;
mod tar;
mod unpack;

pub use digest::Digest;
pub use error::Error;
pub use image::{Healthcheck, Image, ImageConfig};
pub use name::ImageName;
pub use reference::{ImageRef, Located};
pub use remote::{Document, ManifestRef, Remote, RemoteError, RemoteErrorKind};
pub use store::Store;
pub use tar::LayerTar;
