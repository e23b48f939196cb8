//! What is in use, so that no collection takes it away.
//!
//! ```text
//! leases/PID.N     {"layers": [...], "blobs": [...]}, locked (flock) for as long as its holder lives and holds it
//! condemned        digests that a collection is about to take away
//! ```
//!
//! Who uses something first writes a lease, then looks at `condemned`; who collects first writes `condemned`, then reads
//! the leases. So one of them sees the other: a collection spares what is leased, and a user who meets a condemned layer
//! waits for the end of the collection and looks whether the layer is still there. Nobody else ever waits.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::disk::{Disk, Durable};

/// Most bytes that are read of a lease.
const LEASE_MAX: u64 = 16 << 20;

/// A hold on an image's parts, until dropped; goes with its process at the latest.
#[derive(Debug)]
pub struct Lease {
    disk: Disk,
    path: PathBuf,
    held: Held,
    /// Locked.
    _file: File,
}

/// What a lease holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Held {
    /// By the digests of their contents.
    #[serde(default)]
    pub(crate) layers: BTreeSet<Digest>,
    /// Manifests and configurations.
    #[serde(default)]
    pub(crate) blobs: BTreeSet<Digest>,
}

impl Held {
    pub(crate) fn add(&mut self, other: Self) {
        self.layers.extend(other.layers);
        self.blobs.extend(other.blobs);
    }

    fn touches(&self, condemned: &Self) -> bool {
        !self.layers.is_disjoint(&condemned.layers) || !self.blobs.is_disjoint(&condemned.blobs)
    }
}

impl Lease {
    /// Holds `held`, whether it is there or not: look after this, not before.
    pub(crate) fn new(disk: &Disk, held: Held) -> io::Result<Self> {
        let (path, file) = disk.unique(&disk.leases(), &json(&held)?)?;
        let lease = Self { disk: disk.clone(), path, held, _file: file };
        lease.wait()?;
        Ok(lease)
    }

    /// Holds more.
    pub(crate) fn extend(&mut self, more: Held) -> io::Result<()> {
        self.held.add(more);
        self._file = self.disk.publish(&self.path, &json(&self.held)?, Durable::No)?;
        self.wait()
    }

    /// Lets a collection finish that is about to take what this holds.
    fn wait(&self) -> io::Result<()> {
        loop {
            match condemned(&self.disk) {
                Ok(None) => return Ok(()),
                Ok(Some(condemned)) if !self.held.touches(&condemned) => return Ok(()),
                Ok(Some(_)) => {}
                // It could be anything.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
                Err(error) => return Err(error),
            }
            let _lock = self.disk.collect_lock()?;
            // Nobody collects now: what is still condemned was left by a dead process.
            self.disk.remove(&condemned_path(&self.disk))?;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // What stays has no lock any more, and counts for nothing.
        drop(fs::remove_file(&self.path));
    }
}

/// All that living leases hold. Removes those of the dead.
pub(crate) fn all(disk: &Disk) -> io::Result<Held> {
    let mut all = Held::default();
    for entry in fs::read_dir(disk.leases())? {
        if let Some(held) = read_living(&entry?.path())? {
            all.add(held);
        }
    }
    Ok(all)
}

fn read_living(path: &Path) -> io::Result<Option<Held>> {
    loop {
        let file = match File::open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => return parse(file).map(Some),
            locked => locked?,
        }
        // Its holder is dead, or it has just been replaced by a longer one.
        if is_at(&file, path)? {
            drop(fs::remove_file(path));
            return Ok(None);
        }
    }
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        found => Ok(found?.ino() == file.metadata()?.ino()),
    }
}

/// Says what a collection is about to take away.
pub(crate) fn condemn(disk: &Disk, held: &Held) -> io::Result<()> {
    disk.publish(&condemned_path(disk), &json(held)?, Durable::Yes).map(drop)
}

/// Takes that back. The caller holds the lock of collections.
pub(crate) fn absolve(disk: &Disk) -> io::Result<()> {
    let path = condemned_path(disk);
    if path.exists() { disk.remove(&path).map(drop) } else { Ok(()) }
}

/// Errors: `InvalidData` if it cannot be read as what it is.
fn condemned(disk: &Disk) -> io::Result<Option<Held>> {
    match File::open(condemned_path(disk)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        file => parse(file?).map(Some),
    }
}

fn condemned_path(disk: &Disk) -> PathBuf {
    disk.root.join("condemned")
}

fn parse(file: File) -> io::Result<Held> {
    let mut text = Vec::new();
    file.take(LEASE_MAX).read_to_end(&mut text)?;
    serde_json::from_slice(&text).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

fn json(held: &Held) -> io::Result<Vec<u8>> {
    serde_json::to_vec(held).map_err(io::Error::other)
}
