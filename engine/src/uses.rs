//! Which images containers use, by their records: no collection may take these away. Needs no daemon.

use std::io;
use std::path::{Path, PathBuf};

use skiff_runtime::options::Rootfs;
use skiff_store::{Digest, Use};

use crate::Record;
use crate::record::Records;

/// What the containers below `state_root` use.
///
/// Containers that run without a daemon have no record: they hold their images themselves ([`skiff_store::Lease`]). Records
/// that are torn are left out, for such a container can never be started again.
///
/// Errors: a record cannot be read, or was written by a newer program.
pub fn uses(state_root: &Path) -> io::Result<Vec<Use>> {
    let all = Records::open(state_root)?.look()?;
    Ok(all.into_iter().map(of).collect())
}

fn of(record: Record) -> Use {
    let image = record.image_id.and_then(|id| Digest::try_from(id).ok());
    let layers: Vec<PathBuf> = match record.spec.options.rootfs {
        Rootfs::Host => Vec::new(),
        Rootfs::Layers(layers) => layers,
    };
    Use { owner: record.id, is_running: record.state.is_live(), image, layers }
}
