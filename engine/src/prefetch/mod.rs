//! Prefetched layers: what a container uses of its image until it is ready is recorded once, and read ahead at later cold launches.
//!
//! The store keeps the profiles and reads ahead, `skiff-ebpf` records; here is what of both a launch gets, and when a recording is
//! over. [`Prefetcher`] is the daemon's thread for it; without a daemon, [`record`] stands beside the container.

mod record;
mod thread;
mod waits;

use std::ffi::OsString;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use skiff_runtime::Options;
use skiff_runtime::options::Rootfs;
use skiff_store::Digest;
use skiff_store::prefetch::{Key, class_of};

pub use record::{Watch, conclude, is_over};
pub(crate) use thread::Prefetcher;
pub use waits::Waits;

/// `--prefetch`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Record what has no profile yet, replay what has.
    #[default]
    On,
    /// Neither.
    Off,
    /// Record in any case, and replay nothing.
    Record,
}

/// Whose files are to be read ahead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// What its profile is found by.
    pub key: Key,
    /// The image's layers, directories of the store.
    pub layers: Vec<PathBuf>,
}

impl Subject {
    /// What the container with these options runs; `None` if its image has no id, as `host` and `rootfs:`.
    pub fn of(image_id: Option<&str>, options: &Options) -> Option<Self> {
        Self::new(image_id?, &options.rootfs, &options.argv)
    }

    fn new(image: &str, rootfs: &Rootfs, argv: &[OsString]) -> Option<Self> {
        let image = Digest::try_from(image.to_owned()).ok()?;
        let Rootfs::Layers(layers) = rootfs else { return None };
        Some(Self { key: Key { image, class: class_of(argv) }, layers: layers.clone() })
    }
}
