//! Prefetched layers: what a container uses of its image until it is ready is recorded once, and read ahead at later cold launches.
//!
//! The store keeps the profiles and reads ahead, `skiff-ebpf` records; here is what of both a launch gets, and when a recording is
//! over. [`Prefetcher`] is the daemon's thread for it; without a daemon, [`record`] stands beside the container.

mod record;
mod thread;
mod waits;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use skiff_runtime::Options;
use skiff_runtime::options::{Resources, Rootfs};
use skiff_store::Digest;
use skiff_store::prefetch::{Key, class_of};

pub use record::{Watch, conclude, is_over};
pub(crate) use thread::{Errand, Prefetcher};
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
    /// How many bytes may be read ahead for it, which are charged to it.
    pub bytes_max: u64,
}

/// The reader is a process of the container's: where only so few may be, it would be one too many.
const TASKS_MIN: i64 = 32;

impl Subject {
    /// What the container with these options runs; `None` if its image has no id, as `host` and `rootfs:`.
    pub fn of(image_id: Option<&str>, options: &Options) -> Option<Self> {
        let image = Digest::try_from(image_id?.to_owned()).ok()?;
        let Rootfs::Layers(layers) = &options.rootfs else { return None };
        let key = Key { image, class: class_of(&options.argv) };
        // One that may make cgroups of its own, such as systemd, would find a process in the uppermost that it cannot move.
        let bytes_max = if options.privileged { 0 } else { bytes_max(&options.resources) };
        Some(Self { key, layers: layers.clone(), bytes_max })
    }
}

/// Half of the memory that it may have: what is more would push out what was read before, or what the program has made.
fn bytes_max(resources: &Resources) -> u64 {
    match resources.pids_limit {
        Some(1..TASKS_MIN) => 0,
        _ => resources.memory_bytes.map_or(u64::MAX, |bytes| bytes / 2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_ahead_leaves_room_for_the_program() {
        let check = |memory_bytes: Option<u64>, pids_limit: Option<i64>, expected: u64| {
            let resources = Resources { memory_bytes, pids_limit, ..Resources::default() };
            assert_eq!(bytes_max(&resources), expected, "{resources:?}");
        };
        check(None, None, u64::MAX);
        check(Some(64 << 20), None, 32 << 20);
        check(None, Some(-1), u64::MAX);
        check(Some(64 << 20), Some(32), 32 << 20);
        check(None, Some(31), 0);
    }
}
