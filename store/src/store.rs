//! The store's root directory, and the way from a reference to an image.
//!
//! ```text
//! ROOT/version              the format's number
//! ROOT/layers/sha256/HEX/   a layer by the digest of its content, as overlayfs wants it
//! ROOT/tars/sha256/HEX      what is needed beside it to give its tar again, see recipe/mod.rs
//! ROOT/tmp/                 layers in the making, see staging.rs
//! ```
//!
//! What stands below `layers` is whole and has been checked; it gets there by rename and is not looked at again.
//! Before the renames of an image's new layers, one syncfs(2) brings all their files to the disk, and one fsync(2) of
//! `layers/sha256` follows: after a power cut a layer is there with its content or not at all. Single files are not
//! synced.
//!
//! A store belongs to one user and is closed to all others, because layers hold setuid programs.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::num::NonZero;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crossbeam::channel::unbounded;

use crate::digest::Digest;
use crate::error::cause;
use crate::manifest::{self, Layer, Manifest};
use crate::source::Source;
use crate::staging::{self, Claim, Try};
use crate::unpack::stream::{self, Checked};
use crate::unpack::{Privilege, Skipped};
use crate::{Error, Image, ImageRef};

/// The format that this program reads and writes; a store with a greater number is refused.
const VERSION: u32 = 1;

/// Unpacked layers on this host.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    layers: PathBuf,
    tars: PathBuf,
    tmp: PathBuf,
}

impl Store {
    /// Opens the store at `root`, creates it where it is missing, and sweeps what killed processes left.
    ///
    /// Errors: `root` belongs to another user or can be written by everyone; its format is newer than this program.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let fail = |e: io::Error| Error::store(root, cause(&e));
        make_directory(root).map_err(fail)?;
        let root = root.canonicalize().map_err(fail)?;
        check_owner(&root)?;
        check_version(&root)?;
        let store = Self {
            layers: root.join("layers/sha256"),
            tars: root.join("tars/sha256"),
            tmp: root.join("tmp"),
            root,
        };
        make_directory(&store.layers).map_err(fail)?;
        make_directory(&store.tars).map_err(fail)?;
        make_directory(&store.tmp).map_err(fail)?;
        staging::sweep(&store.tmp).map_err(|e| store.error(&format!("sweep tmp: {}", cause(&e))))?;
        Ok(store)
    }

    /// Finds the image, unpacks those of its layers that are not in the store yet, and reads its configuration.
    ///
    /// Layers in the store are taken as they are: with all of them there, only the image's JSON is read.
    pub fn resolve(&self, reference: &ImageRef) -> Result<Image, Error> {
        let (source, at, of): (_, _, fn(&Source, Option<&str>) -> _) = match reference {
            ImageRef::Host => return Ok(Image::default()),
            ImageRef::Rootfs(dir) => return rootfs(reference, dir),
            ImageRef::OciLayout(at) => (Source::directory(&at.path), at, manifest::of_layout),
            ImageRef::OciArchive(at) => (Source::archive(&at.path), at, manifest::of_layout),
            ImageRef::DockerArchive(at) => (Source::archive(&at.path), at, manifest::of_docker_archive),
        };
        let fail = |reason: String| Error::Image { image: reference.to_string(), reason: printable(&reason) };
        let source = source.map_err(|e| fail(cause(&e)))?;
        let Manifest { id, configuration, layers } = of(&source, at.tag.as_deref()).map_err(fail)?;
        self.complete(&source, &layers).map_err(fail)?;
        let mut seen = HashSet::new();
        let unique = layers.iter().rev().filter(|layer| seen.insert(layer.diff_id));
        Ok(Image {
            layers: unique.map(|layer| self.path(layer.diff_id)).collect(),
            id: Some(id.to_string()),
            config: configuration.into(),
        })
    }

    pub(crate) fn path(&self, layer: Digest) -> PathBuf {
        self.layers.join(layer.hex())
    }

    pub(crate) fn recipe(&self, layer: Digest) -> PathBuf {
        self.tars.join(layer.hex())
    }

    /// Sees to it that all of `layers` are in the store.
    ///
    /// Two processes never wait for each other in a circle: who waits holds no claim.
    fn complete(&self, source: &Source, layers: &[Layer]) -> Result<(), String> {
        loop {
            let mut seen = HashSet::new();
            let missing: Vec<_> = layers
                .iter()
                .filter(|layer| !self.path(layer.diff_id).exists() && seen.insert(layer.diff_id))
                .collect();
            let Some(first) = missing.first() else { return Ok(()) };
            let claims = self.claim(&missing)?;
            if claims.is_empty() {
                Claim::wait(&self.tmp, first.diff_id).map_err(|e| self.failed("wait for a layer", &e))?;
            } else {
                self.build(source, &claims)?;
            }
        }
    }

    /// Claims those of `layers` that nobody else is working on.
    fn claim<'a>(&self, layers: &[&'a Layer]) -> Result<Vec<(&'a Layer, Claim)>, String> {
        let mut claims = Vec::new();
        for &layer in layers {
            let attempt = Claim::attempt(&self.tmp, layer.diff_id);
            match attempt.map_err(|e| self.failed("claim a layer", &e))? {
                Try::Claimed(claim) if !self.path(layer.diff_id).exists() => claims.push((layer, claim)),
                Try::Claimed(_) | Try::Busy => {}
            }
        }
        Ok(claims)
    }

    /// Unpacks all claimed layers, at most one per CPU at a time, and commits them together.
    fn build(&self, source: &Source, claims: &[(&Layer, Claim)]) -> Result<(), String> {
        let cancelled = AtomicBool::new(false);
        let workers = thread::available_parallelism().map_or(1, NonZero::get).min(claims.len());
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
                    let unpacked = queue.iter().try_for_each(|(layer, claim)| {
                        unpack(source, layer, claim, cancelled)
                            .map_err(|reason| format!("layer {}: {reason}", layer.name()))
                    });
                    let failed = unpacked.is_err();
                    // The receiver outlives the workers. First the cause, then what it does to the others.
                    drop(done.send(unpacked));
                    cancelled.fetch_or(failed, Ordering::Relaxed);
                });
            }
        });
        drop(done);
        results.iter().collect::<Result<(), String>>()?;
        self.commit(claims).map_err(|e| self.failed("commit layers", &e))
    }

    fn commit(&self, claims: &[(&Layer, Claim)]) -> io::Result<()> {
        let (layers, tars) = (File::open(&self.layers)?, File::open(&self.tars)?);
        nix::unistd::syncfs(&layers)?;
        for (layer, claim) in claims {
            claim.commit_recipe(&self.recipe(layer.diff_id))?;
        }
        tars.sync_all()?;
        for (layer, claim) in claims {
            claim.commit(&self.path(layer.diff_id))?;
        }
        layers.sync_all()
    }

    pub(crate) fn error(&self, reason: &str) -> Error {
        Error::store(&self.root, reason)
    }

    fn failed(&self, what: &str, error: &io::Error) -> String {
        format!("{what} in store {}: {}", self.root.display(), cause(error))
    }
}

fn unpack(source: &Source, layer: &Layer, claim: &Claim, cancelled: &AtomicBool) -> Result<(), String> {
    let checked = Checked {
        blob: layer.open(source)?,
        digest: layer.digest,
        diff_id: layer.diff_id,
        compression: layer.compression,
    };
    let place = claim.place().map_err(|e| format!("staging: {}", cause(&e)))?;
    let skipped = stream::unpack(checked, place, Privilege::of_caller(), cancelled)?;
    if skipped != Skipped::default() {
        let Skipped { devices, xattrs } = skipped;
        tracing::warn!("layer {}: left out {devices} device nodes and {xattrs} attributes", layer.name());
    }
    Ok(())
}

/// Images choose some of the words in messages; none of them may speak to the terminal.
fn printable(reason: &str) -> String {
    reason.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

fn rootfs(reference: &ImageRef, dir: &Path) -> Result<Image, Error> {
    let not_found = |reason: String| Error::NotFound { image: reference.to_string(), reason };
    let dir = dir.canonicalize().map_err(|e| not_found(cause(&e)))?;
    if !dir.is_dir() {
        return Err(not_found("not a directory".to_owned()));
    }
    Ok(Image { layers: vec![dir], ..Image::default() })
}

fn make_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// A store that others may write to could hand out any file as part of an image.
fn check_owner(root: &Path) -> Result<(), Error> {
    let meta = fs::metadata(root).map_err(|e| Error::store(root, cause(&e)))?;
    if meta.uid() != nix::unistd::geteuid().as_raw() {
        return Err(Error::store(root, format!("belongs to user {}, not to the caller", meta.uid())));
    }
    if meta.mode() & 0o002 != 0 {
        return Err(Error::store(root, "can be written by everyone"));
    }
    Ok(())
}

fn check_version(root: &Path) -> Result<(), Error> {
    let path = root.join("version");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return write_version(root),
        Err(e) => return Err(Error::store(root, format!("read version: {}", cause(&e)))),
    };
    match text.trim_end().parse::<u32>() {
        Ok(VERSION) => Ok(()),
        Ok(found) if found > VERSION => Err(Error::store(
            root,
            format!("has format {found}, written by a newer skiff; this one knows format {VERSION}"),
        )),
        _ => Err(Error::store(root, format!("version file says {:?}, not a known format", text.trim_end()))),
    }
}

/// By rename, so that nobody else ever reads half of it; from a file of each caller's own, threads included.
fn write_version(root: &Path) -> Result<(), Error> {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let fresh = root.join(format!("version.{}.{serial}", std::process::id()));
    fs::write(&fresh, format!("{VERSION}\n"))
        .and_then(|()| fs::rename(&fresh, root.join("version")))
        .map_err(|e| Error::store(root, format!("write version: {}", cause(&e))))
}
