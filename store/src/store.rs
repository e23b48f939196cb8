//! The store's root directory, and the way from a reference to an image.
//!
//! ```text
//! ROOT/version              the format's number
//! ROOT/layers/sha256/HEX/   a layer by the digest of its content, as overlayfs wants it
//! ROOT/tars/sha256/HEX      what gives the layer's tar again, byte for byte
//! ROOT/sources/sha256/HEX   the layer's sizes and where else it is, see layers.rs
//! ROOT/blobs/sha256/HEX     manifests and configurations, word for word
//! ROOT/partial/sha256/HEX   what has come so far of a blob, see pull.rs
//! ROOT/names, untagged      which images there are, see catalogue.rs
//! ROOT/erofs/sha256/HEX     layers merged into one tree, see merged.rs
//! ROOT/leases, condemned    what is in use and what is about to go, see lease.rs
//! ROOT/tmp/                 all that is in the making, see staging.rs and disk.rs
//! ```
//!
//! What stands below `layers` is whole and has been checked; it gets there by rename and is not looked at again.
//! Before the renames of an image's new layers, one syncfs(2) brings all their files to the disk, and one fsync(2) of
//! `layers/sha256` follows: after a power cut a layer is there with its content or not at all. Single files are not
//! synced.
//!
//! A store belongs to one user and is closed to all others, because layers hold setuid programs.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::collect::Users;
use crate::digest::Digest;
use crate::disk::{Disk, Durable, make_directory};
use crate::error::cause;
use crate::lease::{Held, Lease};
use crate::manifest::{self, Manifest};
use crate::progress::Silent;
use crate::source::Source;
use crate::staging;
use crate::{Error, Form, Image, ImageRef};

/// The format that this program reads and writes; a store with a greater number is refused.
const VERSION: u32 = 2;

/// Images on this host.
#[derive(Debug)]
pub struct Store {
    pub(crate) disk: Disk,
    pub(crate) users: Users,
    pub(crate) form: Form,
}

impl Store {
    /// Opens the store at `root`, creates it where it is missing, and sweeps what killed processes left.
    ///
    /// A store of format 1 is taken over. Errors: `root` belongs to another user or can be written by everyone; its
    /// format is newer than this program.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let fail = |e: io::Error| Error::store(root, cause(&e));
        make_directory(root).map_err(fail)?;
        let root = root.canonicalize().map_err(fail)?;
        check_owner(&root)?;
        let store = Self { disk: Disk::new(root), users: Users::none(), form: Form::default() };
        store.check_version()?;
        staging::sweep(&store.disk.tmp).map_err(|e| store.error(&format!("sweep tmp: {}", cause(&e))))?;
        Ok(store)
    }

    /// Finds the image, unpacks those of its layers that are not in the store yet, and reads its configuration.
    ///
    /// Layers in the store are taken as they are: with all of them there, only the image's JSON is read.
    ///
    /// Errors: [`Error::NoSuchImage`] for a name or an id that is not here.
    pub fn resolve(&self, reference: &ImageRef) -> Result<Image, Error> {
        match reference {
            ImageRef::Host => return Ok(Image::default()),
            ImageRef::Rootfs(dir) => return rootfs(reference, dir),
            ImageRef::Id(id) => return self.kept(self.find(&id.to_string())?.id),
            ImageRef::Named(name) => {
                return match self.named(name)? {
                    Some(record) => self.kept(record.image),
                    None => self.kept(self.find_prefix(name)?),
                };
            }
            ImageRef::OciLayout(_) | ImageRef::OciArchive(_) | ImageRef::DockerArchive(_) => {}
        }
        let fail = |reason: String| Error::Image { image: reference.to_string(), reason: printable(&reason) };
        let Some((source, manifest)) = self.read(reference)? else {
            return Err(fail("is no layout and no archive".to_owned()));
        };
        self.complete(&source, &manifest.layers, &Silent).map_err(fail)?;
        Ok(Image {
            layers: self.stack(&manifest.configuration.rootfs.diff_ids),
            merged: self.merged(&manifest.configuration.rootfs.diff_ids),
            id: Some(manifest.id.to_string()),
            config: manifest.configuration.into(),
        })
    }

    /// A name could be the beginning of an id as well.
    fn find_prefix(&self, name: &crate::ImageName) -> Result<Digest, Error> {
        let none = || Error::NoSuchImage { image: name.familiar() };
        let text = name.familiar_repository();
        if name.digest().is_some() || name.tag() != Some("latest") || text.contains(['/', '.', '-', '_']) {
            return Err(none());
        }
        match self.find(&text) {
            Err(Error::NoSuchImage { .. }) => Err(none()),
            found => found.map(|found| found.id),
        }
    }

    /// Documents of an image in a layout or an archive; none for other references.
    pub(crate) fn read(&self, reference: &ImageRef) -> Result<Option<(Source, Manifest)>, Error> {
        let (source, at, of): (_, _, fn(&Source, Option<&str>) -> _) = match reference {
            ImageRef::OciLayout(at) => (Source::directory(&at.path), at, manifest::of_layout),
            ImageRef::OciArchive(at) => (Source::archive(&at.path), at, manifest::of_layout),
            ImageRef::DockerArchive(at) => (Source::archive(&at.path), at, manifest::of_docker_archive),
            _ => return Ok(None),
        };
        let fail = |reason: String| Error::Image { image: reference.to_string(), reason: printable(&reason) };
        let source = source.map_err(|e| fail(cause(&e)))?;
        let manifest = of(&source, at.tag.as_deref()).map_err(fail)?;
        Ok(Some((source, manifest)))
    }

    /// Holds the layers of `image` against collections until the lease is dropped.
    ///
    /// Errors: a layer is not there any more: resolve again.
    pub fn lease(&self, image: &Image) -> Result<Lease, Error> {
        let digest = |path: &PathBuf| path.file_name().and_then(|name| Digest::from_hex(name.to_str()?));
        let own: Vec<_> = image.layers.iter().filter(|path| path.starts_with(&self.disk.layers)).collect();
        let held = Held {
            layers: own.iter().filter_map(|path| digest(path)).collect(),
            blobs: image.id.iter().filter_map(|id| Digest::try_from(id.clone()).ok()).collect(),
        };
        let lease = Lease::new(&self.disk, held).map_err(|e| self.error(&format!("lease: {}", cause(&e))))?;
        match own.iter().find(|path| !path.exists()) {
            Some(gone) => Err(self.error(&format!("layer {} is gone", gone.display()))),
            None => Ok(lease),
        }
    }

    /// The directories of layers, bottom first, as overlayfs stacks them: top first, each once.
    pub(crate) fn stack(&self, diff_ids: &[Digest]) -> Vec<PathBuf> {
        let mut seen = HashSet::new();
        let unique = diff_ids.iter().rev().filter(|diff_id| seen.insert(**diff_id));
        unique.map(|diff_id| self.disk.layer(*diff_id)).collect()
    }

    pub(crate) fn error(&self, reason: &str) -> Error {
        Error::store(&self.disk.root, reason)
    }

    /// Makes a new store, and one of format 1 into one of this.
    fn check_version(&self) -> Result<(), Error> {
        let root = &self.disk.root;
        let fail = |what: &str, e: io::Error| Error::store(root, format!("{what} version: {}", cause(&e)));
        let text = match fs::read_to_string(root.join("version")) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => "1\n".to_owned(),
            Err(e) => return Err(fail("read", e)),
        };
        match text.trim_end().parse::<u32>() {
            Ok(VERSION) => Ok(()),
            // What format 1 has, this has in the same places.
            Ok(1) => {
                let version = format!("{VERSION}\n");
                let write = || self.disk.publish(&root.join("version"), version.as_bytes(), Durable::Yes);
                self.disk.make().and_then(|()| write()).map(drop).map_err(|e| fail("write", e))
            }
            Ok(found) if found > VERSION => Err(Error::store(
                root,
                format!("has format {found}, written by a newer skiff; this one knows format {VERSION}"),
            )),
            _ => {
                let reason = format!("version file says {:?}, not a known format", text.trim_end());
                Err(Error::store(root, reason))
            }
        }
    }
}

/// Images choose some of the words in messages; none of them may speak to the terminal.
pub(crate) fn printable(reason: &str) -> String {
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
