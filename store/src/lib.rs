//! Images on this host: from a reference on the command line to directories that overlayfs can stack.
//!
//! Knows nothing of containers and nothing of HTTP: what is elsewhere comes through [`Remote`]. docs/store.md describes what is kept on disk.
#![forbid(unsafe_code)]

mod archive;
mod blob;
mod catalogue;
mod check;
mod collect;
mod digest;
mod disk;
mod draft;
mod entries;
mod erofs;
mod error;
mod faults;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod image;
mod images;
mod instructions;
mod layers;
mod lease;
mod make;
mod manifest;
mod merged;
mod name;
mod pack;
mod platform;
pub mod prefetch;
mod progress;
mod pull;
mod recipe;
mod reference;
mod remote;
mod source;
mod spec;
mod staging;
mod store;
mod tar;
mod unpack;
mod usage;

pub use archive::{Archive, Loaded, Saving, To};
pub use check::Finding;
pub use collect::{Collected, Use};
pub use digest::Digest;
pub use draft::Draft;
pub use error::Error;
pub use image::{Healthcheck, Image, ImageConfig};
pub use images::{Documents, Found, Removed, Summary};
pub use layers::KnownBlob;
pub use lease::Lease;
pub use make::{History, Making, export};
pub use merged::{Form, Merged};
pub use name::ImageName;
pub use pack::{Change, ChangeKind, IdRange, Ids, Tree};
pub use platform::Platform;
pub use progress::{LayerEvent, Progress, Silent};
pub use pull::Pulled;
pub use reference::{ImageRef, Located};
pub use remote::{Document, ManifestRef, Remote, RemoteError, RemoteErrorKind};
pub use store::Store;
pub use tar::LayerTar;
pub use usage::{ImageUsage, Usage};
