//! Taking away what no image and no container needs, while others go on.
//!
//! ```text
//! leases, then containers, then names  → what is in use
//! all that is there, less that         → condemned (written down)
//! leases, containers, names again      → less what has been taken into use meanwhile
//! layers/HEX → tmp/HEX/tree, files     → gone, under the layer's claim
//! condemned removed; trees deleted
//! ```
//!
//! The order of reading matters: who pulls writes a lease, then a name, and then drops the lease. See lease.rs for how a
//! collection and somebody who begins to use a layer find out about each other.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Deserialize;

use crate::Error;
use crate::catalogue;
use crate::digest::Digest;
use crate::disk::Disk;
use crate::error::cause;
use crate::faults;
use crate::images::{Removed, Summary};
use crate::layers::LayerRecord;
use crate::lease::{self, Held};
use crate::merged;
use crate::prefetch::Profiles;
use crate::spec::RootFs;
use crate::staging::{Claim, Try};
use crate::store::Store;

/// How long a download that broke off is kept.
const PARTIAL_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Layers whose trees wait for their deletion at once; each holds an open file.
const CLAIMS_MAX: usize = 128;

/// Somebody who uses an image: a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Use {
    /// What people know it by: the container's id.
    pub owner: String,
    /// Whether it runs now.
    pub is_running: bool,
    /// Digest of the configuration of its image, if that has one.
    pub image: Option<Digest>,
    /// The directories that it stacks, as [`crate::Image::layers`].
    pub layers: Vec<PathBuf>,
}

/// Who uses images, as far as the store cannot know.
pub(crate) struct Users(Option<Box<dyn Fn() -> io::Result<Vec<Use>> + Send + Sync>>);

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Users" } else { "no users" })
    }
}

impl Users {
    pub(crate) fn none() -> Self {
        Self(None)
    }
}

/// What a collection took away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Names and images, in docker's words.
    pub removed: Vec<Removed>,
    /// Layers, by the digests of their contents.
    pub layers: Vec<Digest>,
    /// Bytes that were in all that is gone.
    pub bytes: u64,
}

impl Store {
    /// Lets every collection ask `users` who uses images. An error of it stops the collection.
    #[must_use]
    pub fn with_users(mut self, users: impl Fn() -> io::Result<Vec<Use>> + Send + Sync + 'static) -> Self {
        self.users = Users(Some(Box::new(users)));
        self
    }

    /// Who uses images.
    pub fn uses(&self) -> Result<Vec<Use>, Error> {
        self.read_users().map_err(|e| self.error(&format!("containers: {}", cause(&e))))
    }

    pub(crate) fn read_users(&self) -> io::Result<Vec<Use>> {
        self.users.0.as_ref().map_or(Ok(Vec::new()), |users| users())
    }

    /// Removes the images that `choose` picks and nobody uses, and then all that no image and no container needs.
    ///
    /// Layers of layouts and archives that have been run are such, too. Never in the way of others: what they use or begin
    /// to use stays.
    pub fn collect(&self, choose: &dyn Fn(&Summary) -> bool) -> Result<Collected, Error> {
        let failed = |e: io::Error| self.error(&format!("collect: {}", cause(&e)));
        // Before anything changes.
        catalogue::whole(&self.disk).map_err(failed)?;
        let mut removed = Vec::new();
        let used: BTreeSet<_> = self.uses()?.into_iter().filter_map(|used| used.image).collect();
        for summary in self.images()? {
            if !used.contains(&summary.id) && choose(&summary) {
                removed.extend(self.forget(&summary)?);
            }
        }
        catalogue::tidy(&self.disk).map_err(failed)?;
        let mut collected = self.sweep(None).map_err(failed)?;
        collected.bytes += sweep_partial(&self.disk).map_err(failed)?;
        collected.removed = removed;
        Ok(collected)
    }

    /// Takes all names of an image away.
    pub(crate) fn forget(&self, summary: &Summary) -> Result<Vec<Removed>, Error> {
        let failed = |e: io::Error| self.error(&format!("remove image {}: {}", summary.id, cause(&e)));
        let mut removed = Vec::new();
        for name in summary.names.iter().chain(&summary.digests) {
            catalogue::take(&self.disk, name, summary.id).map_err(failed)?;
            removed.push(Removed::Untagged(name.clone()));
        }
        catalogue::take_untagged(&self.disk, summary.id).map_err(failed)?;
        removed.push(Removed::Deleted(summary.id));
        Ok(removed)
    }

    /// Takes away what nobody needs, of `only` or of all.
    pub(crate) fn sweep(&self, only: Option<&Held>) -> io::Result<Collected> {
        let lock = self.disk.collect_lock()?;
        // What is condemned now was so by a collection that died.
        lease::absolve(&self.disk)?;
        let there = match only {
            Some(only) => only.clone(),
            None => self.inventory()?,
        };
        let condemned = less(&there, &self.live()?);
        let mut collected = Collected::default();
        collected.bytes += self.sweep_merged()?;
        if condemned == Held::default() {
            return Ok(collected);
        }
        lease::condemn(&self.disk, &condemned)?;
        let condemned = less(&condemned, &self.live()?);
        let mut claims = Vec::new();
        for &layer in &condemned.layers {
            if let Some(claim) = self.take_layer(layer, &mut collected)? {
                claims.push(claim);
            }
            if claims.len() == CLAIMS_MAX {
                claims.clear();
            }
        }
        for &blob in &condemned.blobs {
            collected.bytes += remove(&self.disk.blob(blob))?;
        }
        lease::absolve(&self.disk)?;
        drop(lock);
        // Nothing depends on them.
        if let Err(error) = Profiles::of(&self.disk.root).sweep(&self.disk.layers) {
            tracing::warn!("{error}");
        }
        Ok(collected)
    }

    /// Takes a layer out of sight. Its tree is deleted with the claim; none if others work on the layer.
    fn take_layer(&self, layer: Digest, collected: &mut Collected) -> io::Result<Option<Claim>> {
        let Try::Claimed(claim) = Claim::attempt(&self.disk.tmp, layer)? else { return Ok(None) };
        let bytes = LayerRecord::read(&self.disk, layer).unwrap_or_default().map_or(0, |it| it.file_bytes);
        faults::point()?;
        if claim.take_back(&self.disk.layer(layer))? {
            collected.layers.push(layer);
            collected.bytes += bytes;
        }
        collected.bytes += remove(&self.disk.tar(layer))?;
        remove(&self.disk.source(layer))?;
        Ok(Some(claim))
    }

    /// Removes the merged trees that belong to no image. Who has mounted one keeps it, and who is about to takes the layers.
    fn sweep_merged(&self) -> io::Result<u64> {
        let there = match digests(&self.disk.kind("erofs")) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
            there => there?,
        };
        let mut chains = BTreeSet::new();
        if !there.is_empty() {
            for record in catalogue::whole(&self.disk)? {
                chains.insert(merged::chain(&layers_of(&self.disk, record.image)?));
            }
        }
        let gone = there.into_iter().filter(|tree| !chains.contains(tree));
        gone.map(|tree| remove(&self.disk.kind("erofs").join(tree.hex()))).sum()
    }

    /// All that a collection could take.
    fn inventory(&self) -> io::Result<Held> {
        let mut all = Held::default();
        for kind in ["layers", "tars", "sources"] {
            all.layers.extend(digests(&self.disk.kind(kind))?);
        }
        all.blobs.extend(digests(&self.disk.kind("blobs"))?);
        Ok(all)
    }

    /// All that is in use. Errors: something cannot be read, so that it is not known.
    pub(crate) fn live(&self) -> io::Result<Held> {
        let mut live = lease::all(&self.disk)?;
        for used in self.read_users()? {
            // By their names alone: the store may have been moved, or be reached another way.
            let digest = |path: &PathBuf| Digest::from_hex(path.file_name()?.to_str()?);
            live.layers.extend(used.layers.iter().filter_map(digest));
        }
        for record in catalogue::whole(&self.disk)? {
            live.blobs.extend([record.image, record.manifest]);
            live.layers.extend(layers_of(&self.disk, record.image)?);
        }
        Ok(live)
    }

    /// Bytes in the files of a layer. Errors: it is not here.
    pub fn layer_size(&self, layer: Digest) -> Result<u64, Error> {
        let failed = |e: io::Error| self.error(&format!("layer {layer}: {}", cause(&e)));
        if let Some(record) = LayerRecord::read(&self.disk, layer).unwrap_or_default() {
            return Ok(record.file_bytes);
        }
        // It came in a store of format 1, or its record is damaged.
        let file_bytes = measure(&self.disk.layer(layer)).map_err(failed)?;
        let record = LayerRecord { file_bytes, ..LayerRecord::default() };
        record.write(&self.disk, layer).map_err(failed)?;
        Ok(file_bytes)
    }
}

/// Contents of the layers of an image; none if its configuration cannot be read: then it has no use for them.
fn layers_of(disk: &Disk, image: Digest) -> io::Result<Vec<Digest>> {
    #[derive(Deserialize)]
    struct Layers {
        rootfs: RootFs,
    }
    let bytes = match disk.read_blob(image) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        bytes => bytes?,
    };
    Ok(serde_json::from_slice(&bytes).map_or(Vec::new(), |layers: Layers| layers.rootfs.diff_ids))
}

fn less(all: &Held, live: &Held) -> Held {
    Held {
        layers: all.layers.difference(&live.layers).copied().collect(),
        blobs: all.blobs.difference(&live.blobs).copied().collect(),
    }
}

/// The names in a directory that are digests.
pub(crate) fn digests(directory: &Path) -> io::Result<Vec<Digest>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory)? {
        all.extend(entry?.file_name().to_str().and_then(Digest::from_hex));
    }
    Ok(all)
}

/// Removes a file, if it is there. Returns its length.
fn remove(path: &Path) -> io::Result<u64> {
    faults::point()?;
    let length = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        found => found?.len(),
    };
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
        removed => removed.map(|()| length),
    }
}

/// Removes downloads that nobody went on with.
fn sweep_partial(disk: &Disk) -> io::Result<u64> {
    let mut bytes = 0;
    for digest in digests(&disk.kind("partial"))? {
        let path = disk.partial(digest);
        let Ok(file) = fs::File::open(&path) else { continue };
        let age = SystemTime::now().duration_since(file.metadata()?.modified()?).unwrap_or_default();
        if age > PARTIAL_AGE && file.try_lock().is_ok() {
            bytes += remove(&path)?;
        }
    }
    Ok(bytes)
}

/// Bytes in the regular files below `directory`, hard links counted once.
fn measure(directory: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    let mut linked = BTreeSet::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(next)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if meta.is_dir() {
                waiting.push(entry.path());
            } else if meta.is_file() && (meta.nlink() == 1 || linked.insert(meta.ino())) {
                bytes += meta.len();
            }
        }
    }
    Ok(bytes)
}
