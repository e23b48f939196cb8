//! The store's root directory, and the way from a reference to an image.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::cause;
use crate::{Error, Image, ImageRef};

/// The format that this program reads and writes; a store with a greater number is refused.
const VERSION: u32 = 1;

/// Unpacked layers on this host.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Opens the store at `root` and creates it where it is missing.
    ///
    /// Errors: `root` belongs to another user or can be written by everyone; its format is newer than this program.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let fail = |reason: &io::Error| Error::store(root, cause(reason));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(|e| fail(&e))?;
        let root = &root.canonicalize().map_err(|e| fail(&e))?;
        check_owner(root)?;
        check_version(root)?;
        Ok(Self { root: root.clone() })
    }

    /// Finds the image, unpacks those of its layers that are not in the store yet, and reads its configuration.
    pub fn resolve(&self, reference: &ImageRef) -> Result<Image, Error> {
        match reference {
            ImageRef::Host => Ok(Image::default()),
            ImageRef::Rootfs(dir) => rootfs(reference, dir),
            ImageRef::OciLayout(_) | ImageRef::OciArchive(_) | ImageRef::DockerArchive(_) => {
                Err(Error::store(&self.root, format!("{reference}: layers are not supported by this build")))
            }
        }
    }
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

/// By rename, so that no other process ever reads half of it.
fn write_version(root: &Path) -> Result<(), Error> {
    let fresh = root.join(format!("version.{}", std::process::id()));
    fs::write(&fresh, format!("{VERSION}\n"))
        .and_then(|()| fs::rename(&fresh, root.join("version")))
        .map_err(|e| Error::store(root, format!("write version: {}", cause(&e))))
}
