//! Images in one file: what docker save and docker load write and read, and OCI archives.

mod load;
mod save;

pub(crate) use load::name_of;
pub use load::{Archive, Loaded};
pub use save::{Saving, To};

/// Annotations by which an index names images.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const FULL_NAME: &str = "io.containerd.image.name";
