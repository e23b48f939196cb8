//! How layers come into the store, from wherever their blobs are.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crossbeam::channel::unbounded;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::disk::{Disk, Durable};
use crate::error::cause;
use crate::faults;
use crate::manifest::Layer;
use crate::progress::{LayerEvent, Progress};
use crate::source::Source;
use crate::staging::{Claim, Try};
use crate::unpack::stream::{self, Checked};
use crate::unpack::{Privilege, Skipped};
use crate::{Error, Store};

/// Where the blobs of layers are.
pub(crate) trait Origin: Sync {
    /// The blob's bytes, and how many they are. Errors: one line without the layer's name.
    fn open<'a>(
        &'a self,
        layer: &'a Layer,
        progress: &'a dyn Progress,
        cancelled: &'a AtomicBool,
    ) -> Result<(Box<dyn Read + Send + 'a>, u64), String>;

    /// The repository that the layers are in, if others may have use for that.
    fn repository(&self) -> Option<String> {
        None
    }

    /// How many layers are worked on at once.
    fn parallel(&self) -> usize {
        thread::available_parallelism().map_or(1, NonZero::get)
    }

    /// The layer could not be had: if all of its blob was kept, that is wrong.
    fn failed(&self, _layer: &Layer) {}

    /// The layer is in the store: what was kept of its blob may go.
    fn done(&self, _layer: &Layer) {}
}

impl Origin for Source {
    fn open<'a>(
        &'a self,
        layer: &'a Layer,
        _progress: &'a dyn Progress,
        _cancelled: &'a AtomicBool,
    ) -> Result<(Box<dyn Read + Send + 'a>, u64), String> {
        let blob = layer.open(self)?;
        let length = blob.length();
        Ok((Box::new(blob), length))
    }
}

/// What is known of a layer beside its content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    /// Length of its tar, in bytes.
    pub(crate) tar_bytes: u64,
    /// Bytes in its files.
    pub(crate) file_bytes: u64,
    /// Its blobs elsewhere, the latest first.
    #[serde(default)]
    pub(crate) blobs: Vec<KnownBlob>,
}

/// A layer's blob as a registry has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownBlob {
    /// OCI's or Docker's, which says how it is compressed.
    pub media_type: String,
    /// Of the blob, mostly compressed.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    /// `HOST/PATH` of those that have had it, the latest first.
    pub repositories: Vec<String>,
}

/// Blobs and repositories that are remembered of a layer.
const BLOBS_MAX: usize = 4;
const REPOSITORIES_MAX: usize = 8;

impl LayerRecord {
    pub(crate) fn read(disk: &Disk, diff_id: Digest) -> io::Result<Option<Self>> {
        match faults::reading().and_then(|()| std::fs::read(disk.source(diff_id))) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(io::Error::other),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    pub(crate) fn write(&self, disk: &Disk, diff_id: Digest) -> io::Result<()> {
        let text = serde_json::to_vec(self).map_err(io::Error::other)?;
        disk.publish(&disk.source(diff_id), &text, Durable::No).map(drop)
    }

    /// Remembers that `repository` has the content of the layer as this blob. Says whether that is news.
    pub(crate) fn seen(
        &mut self,
        media_type: &str,
        digest: Digest,
        size: u64,
        repository: Option<&str>,
    ) -> bool {
        let old = self.clone();
        let mut blob = match self.blobs.iter().position(|blob| blob.digest == digest) {
            Some(at) => self.blobs.remove(at),
            None => KnownBlob { media_type: media_type.to_owned(), digest, size, repositories: Vec::new() },
        };
        if let Some(repository) = repository {
            blob.repositories.retain(|other| other != repository);
            blob.repositories.insert(0, repository.to_owned());
            blob.repositories.truncate(REPOSITORIES_MAX);
        }
        self.blobs.insert(0, blob);
        self.blobs.truncate(BLOBS_MAX);
        *self != old
    }
}

/// A layer that has been unpacked and waits for its commit.
#[derive(Debug)]
struct Built<'a> {
    layer: &'a Layer,
    claim: &'a Claim,
    record: LayerRecord,
}

impl Store {
    /// Where else the layer with this content is known to be, the latest first; of blobs that have been seen to hold it.
    pub fn layer_blobs(&self, layer: Digest) -> Result<Vec<KnownBlob>, Error> {
        let record = LayerRecord::read(&self.disk, layer).map_err(|e| self.error(&cause(&e)))?;
        Ok(record.unwrap_or_default().blobs)
    }

    /// Remembers that `repository` (`HOST/PATH`) has the content of a layer as this blob, which the caller must know for sure.
    pub fn remember_blob(
        &self,
        layer: Digest,
        media_type: &str,
        blob: Digest,
        size: u64,
        repository: &str,
    ) -> Result<(), Error> {
        // Makes the record where there is none.
        self.layer_size(layer)?;
        let mut record = LayerRecord::read(&self.disk, layer).unwrap_or_default().unwrap_or_default();
        match record.seen(media_type, blob, size, Some(repository)) {
            true => record.write(&self.disk, layer).map_err(|e| self.error(&cause(&e))),
            false => Ok(()),
        }
    }

    /// Sees to it that all of `layers` are in the store.
    ///
    /// Two processes never wait for each other in a circle: who waits holds no claim.
    pub(crate) fn complete(
        &self,
        origin: &dyn Origin,
        layers: &[Layer],
        progress: &dyn Progress,
    ) -> Result<(), String> {
        let is_there = |layer: &Layer| self.disk.layer(layer.diff_id).exists();
        for layer in layers.iter().filter(|layer| is_there(layer)) {
            progress.layer(layer.name(), LayerEvent::Present);
            origin.done(layer);
            self.remember(origin, layer).map_err(|e| e.to_string())?;
        }
        loop {
            let mut seen = HashSet::new();
            let mut missing: Vec<_> =
                layers.iter().filter(|layer| !is_there(layer) && seen.insert(layer.diff_id)).collect();
            // The largest first, so that none is left alone at the end.
            missing.sort_by_key(|layer| std::cmp::Reverse(layer.size));
            let Some(first) = missing.first() else { return Ok(()) };
            for layer in &missing {
                progress.layer(layer.name(), LayerEvent::Waiting);
            }
            let claims = self.claim(&missing)?;
            if claims.is_empty() {
                Claim::wait(&self.disk.tmp, first.diff_id)
                    .map_err(|e| self.failed("wait for a layer", &e))?;
            } else {
                self.build(origin, &claims, progress)?;
            }
        }
    }

    /// Notes where else a layer is that was here before.
    ///
    /// Only of a blob that once gave this layer here: otherwise nothing but the manifest says that the two belong together.
    fn remember(&self, origin: &dyn Origin, layer: &Layer) -> Result<(), Error> {
        match (origin.repository(), layer.digest, layer.size) {
            (Some(repository), Some(digest), Some(size))
                if self
                    .layer_blobs(layer.diff_id)
                    .unwrap_or_default()
                    .iter()
                    .any(|it| it.digest == digest) =>
            {
                self.remember_blob(layer.diff_id, &layer.media_type, digest, size, &repository)
            }
            _ => Ok(()),
        }
    }

    /// Claims those of `layers` that nobody else is working on.
    fn claim<'a>(&self, layers: &[&'a Layer]) -> Result<Vec<(&'a Layer, Claim)>, String> {
        let mut claims = Vec::new();
        for &layer in layers {
            let attempt = Claim::attempt(&self.disk.tmp, layer.diff_id);
            match attempt.map_err(|e| self.failed("claim a layer", &e))? {
                Try::Claimed(claim) if !self.disk.layer(layer.diff_id).exists() => {
                    claims.push((layer, claim))
                }
                Try::Claimed(_) | Try::Busy => {}
            }
        }
        Ok(claims)
    }

    /// Unpacks all claimed layers, some at a time, and commits them together.
    fn build(
        &self,
        origin: &dyn Origin,
        claims: &[(&Layer, Claim)],
        progress: &dyn Progress,
    ) -> Result<(), String> {
        let cancelled = AtomicBool::new(false);
        let workers = origin.parallel().min(claims.len());
        let (jobs, queue) = unbounded();
        let (done, results) = unbounded();
        for job in claims {
            jobs.send(job).map_err(|e| e.to_string())?;
        }
        drop(jobs);
        thread::scope(|scope| {
            for _ in 0..workers {
                let (queue, done, cancelled) = (queue.clone(), done.clone(), &cancelled);
                scope.spawn(move || {
                    for (layer, claim) in queue {
                        let built = unpack(origin, layer, claim, progress, cancelled)
                            .map_err(|reason| format!("layer {}: {reason}", layer.name()));
                        let failed = built.is_err();
                        // The receiver outlives the workers. First the cause, then what it does to the others.
                        drop(done.send(built));
                        cancelled.fetch_or(failed, Ordering::Relaxed);
                        if failed {
                            break;
                        }
                    }
                });
            }
        });
        drop(done);
        let built = results.iter().collect::<Result<Vec<_>, String>>()?;
        self.commit_layers(&built).map_err(|e| self.failed("commit layers", &e))?;
        for built in &built {
            origin.done(built.layer);
            progress.layer(built.layer.name(), LayerEvent::Complete);
        }
        Ok(())
    }

    fn commit_layers(&self, all: &[Built<'_>]) -> io::Result<()> {
        for built in all {
            built.record.write(&self.disk, built.layer.diff_id)?;
        }
        let (layers, tars) = (File::open(&self.disk.layers)?, File::open(self.disk.kind("tars"))?);
        faults::point()?;
        nix::unistd::syncfs(&layers)?;
        for built in all {
            faults::point()?;
            built.claim.commit_recipe(&self.disk.tar(built.layer.diff_id))?;
        }
        faults::point()?;
        tars.sync_all()?;
        for built in all {
            faults::point()?;
            built.claim.commit(&self.disk.layer(built.layer.diff_id))?;
        }
        faults::point()?;
        layers.sync_all()
    }

    pub(crate) fn failed(&self, what: &str, error: &io::Error) -> String {
        format!("{what} in store {}: {}", self.disk.root.display(), cause(error))
    }
}

fn unpack<'a>(
    origin: &dyn Origin,
    layer: &'a Layer,
    claim: &'a Claim,
    progress: &dyn Progress,
    cancelled: &AtomicBool,
) -> Result<Built<'a>, String> {
    let (blob, size) = origin.open(layer, progress, cancelled)?;
    let checked = Checked {
        blob,
        size,
        digest: layer.digest,
        diff_id: Some(layer.diff_id),
        compression: layer.compression,
    };
    let place = claim.place().map_err(|e| format!("staging: {}", cause(&e)))?;
    let unpacked = stream::unpack(checked, place, Privilege::of_caller(), cancelled).inspect_err(|_| {
        // What came so far is as good as before if somebody else's failure ended this.
        if !cancelled.load(Ordering::Relaxed) {
            origin.failed(layer);
        }
    })?;
    progress.layer(layer.name(), LayerEvent::Verified);
    warn_of(unpacked.skipped, &layer.name().to_string());
    let Skipped { devices, xattrs, .. } = unpacked.skipped;
    if devices + xattrs > 0 {
        progress.left_out(layer.name(), devices, xattrs);
    }
    let mut record = LayerRecord {
        tar_bytes: unpacked.tar_bytes,
        file_bytes: unpacked.skipped.file_bytes,
        blobs: Vec::new(),
    };
    if let (Some(digest), true) = (layer.digest, layer.compression.is_some()) {
        record.seen(&layer.media_type, digest, size, origin.repository().as_deref());
    }
    Ok(Built { layer, claim, record })
}

pub(crate) fn warn_of(skipped: Skipped, layer: &str) {
    let Skipped { devices, xattrs, .. } = skipped;
    if devices + xattrs > 0 {
        tracing::warn!("layer {layer}: left out {devices} device nodes and {xattrs} attributes");
    }
}
