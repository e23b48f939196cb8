//! From an image of the store to a repository.
//!
//! Layers are sent beside each other. What the registry has under any digest that is known of a layer is not sent, what it
//! has in another repository is mounted from there, and the rest is compressed while it is sent. The manifest stays word
//! for word what it was unless a layer got another digest that way. It is put last: until then nobody sees anything.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};
use skiff_store::{Digest, ImageName, ImageRef, ManifestRef, Store};

use crate::error::{Result, failed};
use crate::{Access, Registry, Repository};

/// Layers that are sent at once.
const PARALLEL: usize = 5;
/// Between two reports of one layer.
const REPORTS: Duration = Duration::from_millis(100);

/// How layers are packed that must be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Packing {
    /// What every client reads.
    #[default]
    Gzip,
    /// Smaller and faster to unpack; docker reads it since 23, podman since 4.
    Zstd,
}

/// Listens to a push. Called by the threads that do the work: it should return at once.
pub trait PushProgress: Sync {
    /// All layers of the image by their contents' digests, bottom first, before anything happens to them.
    fn layers(&self, _digests: &[Digest]) {}

    /// Something happened to one of them.
    fn layer(&self, digest: Digest, event: PushEvent);
}

/// What can happen to a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushEvent {
    /// Its turn has not come.
    Waiting,
    /// The repository has it already.
    Present,
    /// The registry had it in this repository (`HOST/PATH`).
    Mounted(String),
    /// Bytes of its tar that have been packed and sent, of so many; at most ten times a second.
    Pushing {
        /// Bytes.
        done: u64,
        /// Bytes.
        total: u64,
    },
    /// The registry has it now.
    Pushed,
}

impl PushProgress for skiff_store::Silent {
    fn layer(&self, _digest: Digest, _event: PushEvent) {}
}

/// What came of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Of the manifest.
    pub digest: Digest,
    /// Of the manifest, in bytes.
    pub size_bytes: u64,
}

/// A blob as a manifest names it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Blob {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    size: u64,
    /// Where it can be had if registries need not have it.
    #[serde(default)]
    urls: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct Manifest {
    layers: Vec<Blob>,
}

#[derive(Debug, Deserialize)]
struct Configuration {
    rootfs: RootFs,
}

#[derive(Debug, Deserialize)]
struct RootFs {
    diff_ids: Vec<Digest>,
}

/// Sends the image with the id `image` to the repository of `name`, and lets its tag mean it there.
///
/// Errors: one line; the repository is as before, but for blobs that nothing refers to.
pub fn push(
    store: &Store,
    registry: &Registry,
    image: Digest,
    name: &ImageName,
    packing: Packing,
    progress: &dyn PushProgress,
) -> Result<Pushed> {
    let local = |error: skiff_store::Error| failed(error.to_string());
    // Nobody collects its layers meanwhile.
    let resolved = store.resolve(&ImageRef::Id(image)).map_err(local)?;
    let _lease = store.lease(&resolved).map_err(local)?;
    let documents = store.documents(image).map_err(local)?;
    let damaged = |what: &str| failed(format!("image {}: {what} is damaged", name.familiar()));
    let manifest: Manifest =
        serde_json::from_slice(&documents.manifest.bytes).map_err(|_| damaged("its manifest"))?;
    let configuration: Configuration =
        serde_json::from_slice(&documents.configuration).map_err(|_| damaged("its configuration"))?;
    let diff_ids = &configuration.rootfs.diff_ids;
    if diff_ids.len() != manifest.layers.len() {
        return Err(damaged("its list of layers"));
    }
    let target = registry.repository(name, Access::Push)?;
    // A layer may be there twice; empty ones often are.
    let layers: BTreeMap<Digest, &Blob> = diff_ids.iter().copied().zip(&manifest.layers).collect();
    progress.layers(diff_ids);
    let is_docker = documents.manifest.media_type.starts_with("application/vnd.docker.");
    let sender = Sender { store, target: &target, packing, is_docker, progress };
    let sent = sender.send_all(&layers)?;
    target.upload_document(&documents.configuration)?;
    let (media_type, bytes) =
        rewritten(&documents.manifest.bytes, &documents.manifest.media_type, diff_ids, &sent)
            .ok_or_else(|| damaged("its manifest"))?;
    let digest = Digest::of(&bytes);
    let which = match (name.tag(), name.digest()) {
        (Some(tag), _) => ManifestRef::Tag(tag.to_owned()),
        (None, Some(wanted)) if wanted != digest => {
            return Err(failed(format!("{}: what is here has digest {digest}", name.familiar())));
        }
        (None, _) => ManifestRef::Digest(digest),
    };
    target.put_manifest(&which, &media_type, &bytes)?;
    Ok(Pushed { digest, size_bytes: bytes.len() as u64 })
}

/// What sending one layer needs.
struct Sender<'a> {
    store: &'a Store,
    target: &'a Repository,
    packing: Packing,
    is_docker: bool,
    progress: &'a dyn PushProgress,
}

impl Sender<'_> {
    fn send_all(&self, layers: &BTreeMap<Digest, &Blob>) -> Result<BTreeMap<Digest, Blob>> {
        let queue: Vec<_> = layers.iter().collect();
        let (next, has_failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let done = Mutex::new(BTreeMap::new());
        let work = || -> Result<()> {
            while !has_failed.load(Ordering::Relaxed) {
                let Some((digest, blob)) = queue.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                let sent =
                    self.send(**digest, blob).inspect_err(|_| has_failed.store(true, Ordering::Relaxed))?;
                done.lock().unwrap_or_else(PoisonError::into_inner).insert(**digest, sent);
            }
            Ok(())
        };
        thread::scope(|scope| {
            let workers: Vec<_> = (0..PARALLEL.min(queue.len())).map(|_| scope.spawn(work)).collect();
            let ends = workers
                .into_iter()
                .map(|worker| worker.join().unwrap_or_else(|_| Err(failed("a thread died"))));
            ends.collect::<Vec<_>>().into_iter().collect::<Result<()>>()
        })?;
        Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sees to it that the repository has the layer, and says as what.
    fn send(&self, layer: Digest, own: &Blob) -> Result<Blob> {
        if own.urls.as_ref().is_some_and(|urls| !urls.is_empty()) {
            self.progress.layer(layer, PushEvent::Present);
            return Ok(own.clone());
        }
        let mut known = self.known(layer, own)?;
        for (blob, _) in &known {
            if let Some(size) = self.target.has_blob(blob.digest)? {
                self.progress.layer(layer, PushEvent::Present);
                return self.remembered(
                    layer,
                    Blob { size: if size > 0 { size } else { blob.size }, ..blob.clone() },
                );
            }
        }
        for (blob, repositories) in &mut known {
            for from in repositories.drain(..) {
                if self.target.mount_blob(blob.digest, &from)? {
                    self.progress.layer(layer, PushEvent::Mounted(from.repository()));
                    return self.remembered(layer, blob.clone());
                }
            }
        }
        let blob = self.pack(layer)?;
        self.progress.layer(layer, PushEvent::Pushed);
        self.remembered(layer, blob)
    }

    /// The blobs that are known to hold the layer, packed, and other repositories of the same host that had them.
    fn known(&self, layer: Digest, own: &Blob) -> Result<Vec<(Blob, Vec<ImageName>)>> {
        let (host, here) = (self.target.name().host(), self.target.name().repository());
        let blobs = self.store.layer_blobs(layer).map_err(|error| failed(error.to_string()))?;
        let mut known = Vec::new();
        // The manifest alone is no proof that its blob holds this layer.
        if own.digest != layer && blobs.iter().any(|blob| blob.digest == own.digest) {
            known.push((own.clone(), Vec::new()));
        }
        for blob in blobs {
            let names = blob.repositories.iter().filter(|name| **name != here);
            let names =
                names.filter_map(|name| ImageName::parse(name).ok()).filter(|name| name.host() == host);
            let names: Vec<_> = names.collect();
            match known.iter_mut().find(|(other, _)| other.digest == blob.digest) {
                Some((_, all)) => all.extend(names),
                None => {
                    let media_type = self.media_type(&blob.media_type);
                    let blob = Blob { media_type, digest: blob.digest, size: blob.size, urls: None };
                    known.push((blob, names));
                }
            }
        }
        Ok(known)
    }

    fn pack(&self, layer: Digest) -> Result<Blob> {
        let total = self.store.layer_tar(layer).map_err(|error| failed(error.to_string()))?.length();
        self.progress.layer(layer, PushEvent::Pushing { done: 0, total });
        let content = || -> io::Result<Box<dyn Read + Send + '_>> {
            let tar = self.store.layer_tar(layer).map_err(|error| io::Error::other(error.to_string()))?;
            let counted =
                Counted { tar, layer, done: 0, total, told: Instant::now(), progress: self.progress };
            Ok(match self.packing {
                Packing::Gzip => {
                    Box::new(flate2::read::GzEncoder::new(counted, flate2::Compression::default()))
                }
                Packing::Zstd => Box::new(zstd::stream::read::Encoder::new(counted, 0)?),
            })
        };
        let (digest, size) = self.target.upload(&content, None, &|_| {})?;
        let media_type = self.media_type(match self.packing {
            Packing::Gzip => "gzip",
            Packing::Zstd => "zstd",
        });
        Ok(Blob { media_type, digest, size, urls: None })
    }

    /// That of a layer in this image's manifest which is packed like `other`.
    fn media_type(&self, other: &str) -> String {
        let (base, dot) = match self.is_docker {
            true => ("application/vnd.docker.image.rootfs.diff.tar", '.'),
            false => ("application/vnd.oci.image.layer.v1.tar", '+'),
        };
        let packed = ["gzip", "zstd"].into_iter().find(|packed| other.ends_with(packed));
        packed.map_or_else(|| base.to_owned(), |packed| format!("{base}{dot}{packed}"))
    }

    fn remembered(&self, layer: Digest, blob: Blob) -> Result<Blob> {
        let there = self.target.name().repository();
        let noted = self.store.remember_blob(layer, &blob.media_type, blob.digest, blob.size, &there);
        // The next push takes longer, that is all.
        if let Err(error) = noted {
            tracing::debug!(%error, "a layer's blob is not remembered");
        }
        Ok(blob)
    }
}

/// A layer's tar that tells how far it has been read.
struct Counted<'a> {
    tar: skiff_store::LayerTar,
    layer: Digest,
    done: u64,
    total: u64,
    told: Instant,
    progress: &'a dyn PushProgress,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.tar.read(buffer)?;
        self.done += count as u64;
        if self.told.elapsed() >= REPORTS {
            self.told = Instant::now();
            self.progress.layer(self.layer, PushEvent::Pushing { done: self.done, total: self.total });
        }
        Ok(count)
    }
}

/// The manifest with the layers as they were sent: the same bytes if they are the same. `None` if it is no manifest.
fn rewritten(
    bytes: &[u8],
    media_type: &str,
    diff_ids: &[Digest],
    sent: &BTreeMap<Digest, Blob>,
) -> Option<(String, Vec<u8>)> {
    let mut manifest: Value = serde_json::from_slice(bytes).ok()?;
    let mut is_changed = false;
    for (layer, diff_id) in manifest["layers"].as_array_mut()?.iter_mut().zip(diff_ids) {
        let blob = sent.get(diff_id)?;
        if layer["digest"].as_str() == Some(blob.digest.to_string().as_str()) {
            continue;
        }
        is_changed = true;
        layer["mediaType"] = json!(blob.media_type);
        layer["digest"] = json!(blob.digest);
        layer["size"] = json!(blob.size);
    }
    let bytes = if is_changed { manifest.to_string().into_bytes() } else { bytes.to_vec() };
    Some((media_type.to_owned(), bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_changes_only_where_its_layers_do() {
        let [a, b, packed] = [b"a", b"b", b"c"].map(|content| Digest::of(content));
        let bytes =
            format!(r#"{{ "x" : 1, "layers": [{{"digest":"{a}","size":1}},{{"digest":"{b}","size":2}}] }}"#);
        let blob = |digest| Blob { media_type: "t".to_owned(), digest, size: 9, urls: None };
        let mut sent = BTreeMap::from([(a, blob(a)), (b, blob(b))]);
        let same = rewritten(bytes.as_bytes(), "m", &[a, b], &sent);
        assert_eq!(same, Some(("m".to_owned(), bytes.clone().into_bytes())));
        sent.insert(b, blob(packed));
        let (_, changed) = rewritten(bytes.as_bytes(), "m", &[a, b], &sent).expect("a manifest");
        let changed: Value = serde_json::from_slice(&changed).expect("JSON");
        assert_eq!(
            changed,
            json!({ "x": 1, "layers": [
                { "digest": a, "size": 1 },
                { "mediaType": "t", "digest": packed, "size": 9 },
            ] })
        );
        assert_eq!(rewritten(b"{}", "m", &[a], &sent), None);
    }
}
