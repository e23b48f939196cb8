//! From a repository somewhere else to an image with a name.
//!
//! ```text
//! manifest (index → manifest → configuration)      fetched, checked, held in memory
//!     → lease on all that the image needs
//!     → documents published
//!     → layers: blob ∥ digest ∥ inflate ∥ digest ∥ tree, several at a time, committed together
//!     → name
//! ```
//!
//! What comes of a blob is kept in `partial/sha256/HEX` until its layer is committed: after an interruption the next
//! pull reads that first and asks for the rest.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::catalogue::{self, Record};
use crate::digest::Digest;
use crate::disk::{Disk, Durable};
use crate::error::cause;
use crate::faults;
use crate::layers::Origin;
use crate::lease::{Held, Lease};
use crate::manifest::{self, DOCUMENT_MAX, Documents, Layer, Manifest};
use crate::platform::Platform;
use crate::progress::{LayerEvent, Progress};
use crate::remote::{Document, ManifestRef, Remote, RemoteErrorKind};
use crate::spec::Descriptor;
use crate::store::{Store, printable};
use crate::{Error, ImageName};

/// Times that a blob's stream may break without much coming of it.
const ATTEMPTS_MAX: u32 = 6;
/// What counts as much, in bytes.
const ADVANCE: u64 = 1 << 20;
/// Between two attempts, doubled each time.
const PAUSE: Duration = Duration::from_millis(100);
/// Between two reports of one layer.
const REPORTS: Duration = Duration::from_millis(100);
/// Layers that are fetched at once, whatever the number of CPUs.
const PARALLEL: std::ops::RangeInclusive<usize> = 3..=6;

/// What came of a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// Digest of the configuration.
    pub id: Digest,
    /// Digest of what the name means over there: an index or a manifest.
    pub digest: Digest,
    /// Whether the name means something else now than before.
    pub is_new: bool,
}

impl Store {
    /// Brings the image that `name` means at `remote` here, and lets `name` mean it here, too.
    ///
    /// What is already here is not fetched again. Errors: one line; what has come is kept for the next pull.
    pub fn pull(
        &self,
        name: &ImageName,
        remote: &dyn Remote,
        want: &Platform,
        progress: &dyn Progress,
    ) -> Result<Pulled, Error> {
        let fail = |reason: String| Error::Image { image: name.familiar(), reason: printable(&reason) };
        let which = match (name.digest(), name.tag()) {
            (Some(digest), _) => ManifestRef::Digest(digest),
            (None, tag) => ManifestRef::Tag(tag.unwrap_or("latest").to_owned()),
        };
        let top = remote.manifest(&which).map_err(|e| Error::remote(name, &e))?;
        let digest = Digest::of(&top.bytes);
        if name.digest().is_some_and(|asked| asked != digest) {
            return Err(fail(format!("manifest has digest {digest}")));
        }
        let documents = Fetched { remote, disk: &self.disk };
        let manifest = manifest::of_document(&documents, top, want).map_err(fail)?;
        let blobs: Vec<_> = manifest.layers.iter().map(Layer::name).collect();
        progress.layers(&blobs);
        let origin = RemoteLayers { remote, disk: &self.disk, repository: name.repository() };
        let name = match name.digest() {
            Some(digest) => name.with_digest(digest),
            None => name.clone(),
        };
        let elsewhere = name.with_digest(digest).to_string();
        let (id, old) = self
            .keep(&manifest, &origin, std::slice::from_ref(&name), &[elsewhere], progress)
            .map_err(fail)?;
        Ok(Pulled { id, digest, is_new: old != Some(id) })
    }

    /// Brings layers and documents of an image here and lets `names` mean it; with none it is kept without one.
    ///
    /// Returns its id, and the one that the first name had before.
    pub(crate) fn keep(
        &self,
        manifest: &Manifest,
        origin: &dyn Origin,
        names: &[ImageName],
        digests: &[String],
        progress: &dyn Progress,
    ) -> Result<(Digest, Option<Digest>), String> {
        let failed = |e: io::Error| self.failed("keep an image", &e);
        let mut held = Held::default();
        held.layers.extend(manifest.layers.iter().map(|layer| layer.diff_id));
        held.blobs.insert(manifest.id);
        held.blobs.extend(manifest.document.as_ref().map(|document| Digest::of(&document.bytes)));
        let mut lease = Lease::new(&self.disk, held).map_err(failed)?;
        self.complete(origin, &manifest.layers, progress)?;
        let document = match &manifest.document {
            Some(document) => document.bytes.clone(),
            None => self.describe(manifest.id, &manifest.configuration_bytes).map_err(failed)?,
        };
        let digest = Digest::of(&document);
        lease.extend(Held { blobs: [digest].into(), ..Held::default() }).map_err(failed)?;
        self.put_blob(manifest.id, &manifest.configuration_bytes).map_err(failed)?;
        self.put_blob(digest, &document).map_err(failed)?;
        let record = Record {
            name: None,
            image: manifest.id,
            manifest: digest,
            digests: digests.to_vec(),
            when: catalogue::now(),
        };
        let mut first = None;
        for name in names {
            let old = catalogue::put(&self.disk, name, record.clone()).map_err(failed)?;
            first = first.or(Some(old));
        }
        if names.is_empty() {
            catalogue::put_untagged(&self.disk, record).map_err(failed)?;
        }
        Ok((manifest.id, first.flatten().map(|old| old.image)))
    }

    /// Keeps a document, unless it is here.
    pub(crate) fn put_blob(&self, digest: Digest, bytes: &[u8]) -> io::Result<()> {
        let path = self.disk.blob(digest);
        match fs::read(&path) {
            Ok(there) if there == bytes => Ok(()),
            _ => self.disk.publish(&path, bytes, Durable::Yes).map(drop),
        }
    }
}

/// Documents of a repository; those that are here are not asked for.
struct Fetched<'a> {
    remote: &'a dyn Remote,
    disk: &'a Disk,
}

impl Documents for Fetched<'_> {
    fn document(&self, what: &str, descriptor: &Descriptor) -> Result<Document, String> {
        let named = format!("{what} {}", descriptor.digest);
        if descriptor.size > DOCUMENT_MAX {
            return Err(format!("{named}: larger than {DOCUMENT_MAX} bytes"));
        }
        let media_type = descriptor.media_type.clone();
        if let Ok(bytes) = fs::read(self.disk.blob(descriptor.digest))
            && Digest::of(&bytes) == descriptor.digest
        {
            return Ok(Document { media_type, bytes });
        }
        if what == "manifest" {
            let found = self.remote.manifest(&ManifestRef::Digest(descriptor.digest));
            return found.map_err(|e| format!("{named}: {e}"));
        }
        let mut bytes = Vec::new();
        let mut attempt = 0;
        loop {
            let done = self
                .remote
                .blob(descriptor.digest, bytes.len() as u64)
                .map_err(|e| format!("{named}: {e}"))?
                .take(descriptor.size - bytes.len() as u64)
                .read_to_end(&mut bytes);
            match done {
                _ if bytes.len() as u64 == descriptor.size => return Ok(Document { media_type, bytes }),
                done if attempt == ATTEMPTS_MAX => {
                    let ended = || io::ErrorKind::UnexpectedEof.into();
                    return Err(format!("{named}: {}", cause(&done.err().unwrap_or_else(ended))));
                }
                _ => {}
            }
            thread::sleep(PAUSE * (1 << attempt));
            attempt += 1;
        }
    }
}

/// Layers of a repository.
struct RemoteLayers<'a> {
    remote: &'a dyn Remote,
    disk: &'a Disk,
    repository: String,
}

impl Origin for RemoteLayers<'_> {
    fn open<'a>(
        &'a self,
        layer: &'a Layer,
        progress: &'a dyn Progress,
        cancelled: &'a AtomicBool,
    ) -> Result<(Box<dyn Read + Send + 'a>, u64), String> {
        let (Some(digest), Some(size)) = (layer.digest, layer.size) else {
            return Err("has neither digest nor size".to_owned());
        };
        let file =
            Partial::open(self.disk, digest, size).map_err(|e| format!("partial download: {}", cause(&e)))?;
        let kept = match &file {
            Some(file) => file.0.metadata().map_err(|e| cause(&e))?.len(),
            None => 0,
        };
        let blob = Download {
            layers: self,
            digest,
            size,
            is_foreign: layer.is_foreign,
            file,
            kept,
            at: 0,
            stream: None,
            failed: None,
            attempt: 0,
            attempted_at: 0,
            progress,
            reported: None,
            cancelled,
        };
        Ok((Box::new(blob), size))
    }

    fn repository(&self) -> Option<String> {
        Some(self.repository.clone())
    }

    fn parallel(&self) -> usize {
        thread::available_parallelism().map_or(1, usize::from).clamp(*PARALLEL.start(), *PARALLEL.end())
    }

    fn failed(&self, layer: &Layer) {
        let (Some(digest), Some(size)) = (layer.digest, layer.size) else { return };
        let path = self.disk.partial(digest);
        if fs::metadata(&path).is_ok_and(|kept| [0, size].contains(&kept.len())) {
            drop(fs::remove_file(path));
        }
    }

    fn done(&self, layer: &Layer) {
        if let Some(digest) = layer.digest {
            drop(fs::remove_file(self.disk.partial(digest)));
        }
    }
}

/// What has come of a blob so far, locked.
struct Partial(File);

impl Partial {
    /// None if somebody else is at it.
    fn open(disk: &Disk, digest: Digest, size: u64) -> io::Result<Option<Self>> {
        faults::point()?;
        let path = disk.partial(digest);
        let file = File::options().create(true).truncate(false).read(true).append(true).open(path)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Ok(None),
            locked => locked?,
        }
        if file.metadata()?.len() > size {
            file.set_len(0)?;
        }
        Ok(Some(Self(file)))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Closing alone would leave the lock with a child of this process that has not come to its exec yet.
        drop(self.0.unlock());
    }
}

/// A blob on its way: first what was kept of it, then the rest from where it is.
struct Download<'a> {
    layers: &'a RemoteLayers<'a>,
    digest: Digest,
    size: u64,
    is_foreign: bool,
    file: Option<Partial>,
    /// Bytes in the file.
    kept: u64,
    /// Bytes given out.
    at: u64,
    stream: Option<Box<dyn Read + Send + 'a>>,
    failed: Option<String>,
    attempt: u32,
    /// Where the last attempt that counts began.
    attempted_at: u64,
    progress: &'a dyn Progress,
    reported: Option<Instant>,
    cancelled: &'a AtomicBool,
}

/// An error stays: who reads on to the end of a broken blob gets it again.
impl Read for Download<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(reason) = &self.failed {
            return Err(io::Error::other(reason.clone()));
        }
        self.next(buffer).inspect_err(|e| self.failed = Some(cause(e)))
    }
}

/// Why a stream gave nothing.
enum Broken {
    Passing(io::Error),
    ForGood(io::Error),
}

impl Download<'_> {
    fn next(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.size || buffer.is_empty() {
            return Ok(0);
        }
        if let Some(count) = self.read_kept(buffer)? {
            return Ok(count);
        }
        let most = usize::try_from(self.size - self.at).map_or(buffer.len(), |left| left.min(buffer.len()));
        loop {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(io::Error::other("cancelled"));
            }
            match self.read_stream(&mut buffer[..most]) {
                Ok(count) if count > 0 => {
                    self.arrived(&buffer[..count])?;
                    return Ok(count);
                }
                Ok(_) => self.again(io::ErrorKind::UnexpectedEof.into())?,
                Err(Broken::Passing(error)) => self.again(error)?,
                Err(Broken::ForGood(error)) => return Err(error),
            }
        }
    }

    fn read_kept(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let Some(file) = self.file.as_ref().filter(|_| self.at < self.kept) else { return Ok(None) };
        let most = usize::try_from(self.kept - self.at).map_or(buffer.len(), |left| left.min(buffer.len()));
        let count = file.0.read_at(&mut buffer[..most], self.at)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += count as u64;
        self.report(self.at == self.kept);
        Ok(Some(count))
    }

    fn read_stream(&mut self, buffer: &mut [u8]) -> Result<usize, Broken> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => self.stream.insert(self.layers.remote.blob(self.digest, self.at).map_err(|e| {
                let hint = if self.is_foreign && e.kind == RemoteErrorKind::NotFound {
                    "; it is kept elsewhere, which is not supported"
                } else {
                    ""
                };
                Broken::ForGood(io::Error::other(format!("{e}{hint}")))
            })?),
        };
        loop {
            match stream.read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                read => return read.map_err(Broken::Passing),
            }
        }
    }

    fn arrived(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            faults::point()?;
            file.0.write_all(bytes)?;
        }
        self.at += bytes.len() as u64;
        self.kept = self.kept.max(self.at);
        self.report(self.at == self.size);
        Ok(())
    }

    /// Lets the stream be opened again after a while. Errors: it has broken too often.
    fn again(&mut self, error: io::Error) -> io::Result<()> {
        self.stream = None;
        if self.at - self.attempted_at >= ADVANCE {
            self.attempt = 0;
        }
        if self.attempt == ATTEMPTS_MAX {
            let (at, size) = (self.at, self.size);
            return Err(io::Error::other(format!(
                "download ended at byte {at} of {size}: {}",
                cause(&error)
            )));
        }
        self.attempt += 1;
        self.attempted_at = self.at;
        let event = LayerEvent::Retrying { attempt: self.attempt, reason: printable(&cause(&error)) };
        self.progress.layer(self.digest, event);
        let end = Instant::now() + PAUSE * (1 << (self.attempt - 1));
        while !self.cancelled.load(Ordering::Relaxed) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            thread::sleep(left.min(PAUSE));
        }
        Ok(())
    }

    fn report(&mut self, always: bool) {
        if always || self.reported.is_none_or(|last| last.elapsed() >= REPORTS) {
            self.reported = Some(Instant::now());
            self.progress.layer(self.digest, LayerEvent::Downloading { done: self.at, total: self.size });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_that_ended_is_locked_by_nobody() {
        let root = std::env::temp_dir().join(format!("skiff-partial-{}", std::process::id()));
        let disk = Disk::new(root.clone());
        disk.make().unwrap();
        let open = || Partial::open(&disk, Digest::of(b"x"), 1).unwrap();
        let partial = open().unwrap();
        // As a child has it between its fork and its exec.
        let inherited = partial.0.try_clone().unwrap();
        let is_busy = open().is_none();
        drop(partial);
        let is_free = open().is_some();
        drop(inherited);
        fs::remove_dir_all(root).unwrap();
        assert!(is_busy && is_free, "{is_busy} {is_free}");
    }
}
