//! How much room images take.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;

use crate::Error;
use crate::collect::digests;
use crate::digest::Digest;
use crate::error::cause;
use crate::images::Summary;
use crate::store::Store;

/// What the images of a store take, layers counted once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Each image.
    pub images: Vec<ImageUsage>,
    /// Images that containers use.
    pub active: usize,
    /// Bytes of all layers of images, each layer once.
    pub bytes: u64,
    /// Of these, what removing all images would give that no container uses.
    pub reclaimable_bytes: u64,
    /// Bytes of layers that belong to no image: of layouts and archives that have been run.
    pub cached_bytes: u64,
    /// Of these, what no container uses.
    pub cached_reclaimable_bytes: u64,
    /// Bytes of downloads that broke off.
    pub partial_bytes: u64,
    /// Bytes of what gives the layers' tars again, of merged trees and of documents.
    pub other_bytes: u64,
}

/// What one image takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUsage {
    /// The image.
    pub summary: Summary,
    /// Bytes in layers that other images have, too.
    pub shared_bytes: u64,
    /// Bytes in layers of its own.
    pub unique_bytes: u64,
    /// Containers that use it.
    pub containers: usize,
}

impl Store {
    /// What everything takes.
    pub fn usage(&self) -> Result<Usage, Error> {
        let failed = |e: io::Error| self.error(&format!("usage: {}", cause(&e)));
        let uses = self.uses()?;
        let live: BTreeSet<Digest> = uses
            .iter()
            .flat_map(|used| &used.layers)
            .filter_map(|path| Digest::from_hex(path.file_name()?.to_str()?))
            .collect();
        let mut sizes = BTreeMap::new();
        for layer in digests(&self.disk.layers).map_err(failed)? {
            // A layer may be collected meanwhile.
            sizes.extend(self.layer_size(layer).ok().map(|size| (layer, size)));
        }
        let size = |layer: &Digest| sizes.get(layer).copied().unwrap_or(0);
        let summaries = self.images()?;
        let mut owners: BTreeMap<Digest, usize> = BTreeMap::new();
        for summary in &summaries {
            for layer in summary.layers.iter().collect::<BTreeSet<_>>() {
                *owners.entry(*layer).or_default() += 1;
            }
        }
        let mut usage = Usage::default();
        for summary in summaries {
            let layers: BTreeSet<_> = summary.layers.iter().collect();
            let (shared, unique): (Vec<_>, Vec<_>) =
                layers.into_iter().partition(|layer| owners.get(layer).is_some_and(|count| *count > 1));
            let containers = uses.iter().filter(|used| used.image == Some(summary.id)).count();
            usage.active += usize::from(containers > 0);
            usage.images.push(ImageUsage {
                shared_bytes: shared.into_iter().map(size).sum(),
                unique_bytes: unique.into_iter().map(size).sum(),
                containers,
                summary,
            });
        }
        for (layer, size) in &sizes {
            let free = if live.contains(layer) { 0 } else { *size };
            if owners.contains_key(layer) {
                usage.bytes += size;
                usage.reclaimable_bytes += free;
            } else {
                usage.cached_bytes += size;
                usage.cached_reclaimable_bytes += free;
            }
        }
        usage.partial_bytes = self.lengths("partial").map_err(failed)?;
        for kind in ["tars", "blobs", "sources", "erofs"] {
            usage.other_bytes += self.lengths(kind).map_err(failed)?;
        }
        Ok(usage)
    }

    fn lengths(&self, kind: &str) -> io::Result<u64> {
        let mut bytes = 0;
        let entries = match fs::read_dir(self.disk.kind(kind)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
            entries => entries?,
        };
        for entry in entries {
            bytes += entry?.metadata().map_or(0, |meta| meta.len());
        }
        Ok(bytes)
    }
}
