//! A repository without a network: the files of a layout, given out as well or as badly as a test wants.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use skiff_store::{
    Digest, Document, ImageName, LayerEvent, ManifestRef, Platform, Progress, Pulled, Remote, RemoteError,
    RemoteErrorKind, Store,
};

use crate::fixture::{Layer, Layout, goarch};

/// The images of a layout by their tags.
pub(crate) struct Repository {
    pub(crate) layout: Layout,
    pub(crate) tags: HashMap<String, Digest>,
    /// Each stream ends after so many bytes.
    pub(crate) cut: u64,
    /// Each stream fails instead of ending early.
    pub(crate) is_rude: bool,
    /// Bytes of blobs given out.
    pub(crate) served: AtomicU64,
    /// Each blob that was asked for, and from where.
    pub(crate) asked: Mutex<Vec<(Digest, u64)>>,
}

impl Repository {
    /// `latest` is an image of these layers.
    pub(crate) fn of(layout: Layout, layers: &[Layer]) -> Self {
        let manifest = layout.image(layers, json!({ "Cmd": ["sh"] }));
        Self::tagged(layout, &[("latest", &manifest)])
    }

    /// Tags and descriptors.
    pub(crate) fn tagged(layout: Layout, tags: &[(&str, &Value)]) -> Self {
        let tags = tags.iter().map(|(tag, descriptor)| ((*tag).to_owned(), digest_of(descriptor))).collect();
        Self {
            layout,
            tags,
            cut: u64::MAX,
            is_rude: false,
            served: AtomicU64::new(0),
            asked: Mutex::default(),
        }
    }

    pub(crate) fn pull(&self, store: &Store, name: &str) -> Result<Pulled, String> {
        self.pull_for(store, name, &format!("linux/{}", goarch()))
    }

    pub(crate) fn pull_for(&self, store: &Store, name: &str, platform: &str) -> Result<Pulled, String> {
        let platform = Platform::parse(platform).unwrap();
        store.pull(&named(name), self, &platform, &Told::default()).map_err(|e| e.to_string())
    }

    pub(crate) fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    fn none(what: &str) -> RemoteError {
        RemoteError { kind: RemoteErrorKind::NotFound, message: format!("{what}: not found") }
    }
}

impl Remote for Repository {
    fn manifest(&self, which: &ManifestRef) -> Result<Document, RemoteError> {
        let digest = match which {
            ManifestRef::Tag(tag) => *self.tags.get(tag).ok_or_else(|| Self::none(tag))?,
            ManifestRef::Digest(digest) => *digest,
        };
        let bytes = fs::read(self.layout.blob_path(&digest.hex()));
        Ok(Document { media_type: String::new(), bytes: bytes.map_err(|_| Self::none("manifest"))? })
    }

    fn blob(&self, digest: Digest, offset: u64) -> Result<Box<dyn Read + Send + '_>, RemoteError> {
        let mut file = File::open(self.layout.blob_path(&digest.hex())).map_err(|_| Self::none("blob"))?;
        file.seek(SeekFrom::Start(offset)).unwrap();
        self.asked.lock().unwrap().push((digest, offset));
        Ok(Box::new(Cut { repository: self, file, left: self.cut }))
    }
}

struct Cut<'a> {
    repository: &'a Repository,
    file: File,
    left: u64,
}

impl Read for Cut<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && self.repository.is_rude {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let most = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len())).min(4096);
        let count = self.file.read(&mut buffer[..most])?;
        self.left -= count as u64;
        self.repository.served.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// Remembers what was told.
#[derive(Default)]
pub(crate) struct Told(pub(crate) Mutex<Vec<(Digest, LayerEvent)>>);

impl Progress for Told {
    fn layer(&self, digest: Digest, event: LayerEvent) {
        self.0.lock().unwrap().push((digest, event));
    }
}

pub(crate) fn named(name: &str) -> ImageName {
    ImageName::parse(name).unwrap()
}

pub(crate) fn digest_of(descriptor: &Value) -> Digest {
    Digest::try_from(descriptor["digest"].as_str().unwrap().to_owned()).unwrap()
}

pub(crate) fn digest(hex: &str) -> Digest {
    Digest::from_hex(hex).unwrap()
}
