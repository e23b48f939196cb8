//! Where everything lies in a store, and how single files change in it.
//!
//! A file appears whole or not at all: it is written under another name, synced, renamed, and its directory is synced.
//! What a killed process leaves is a file `tmp/….new` that nobody has locked.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::digest::Digest;
use crate::faults;
use crate::name::ImageName;

/// What marks a file in the making below `tmp`.
pub(crate) const NEW: &str = ".new";

/// Longest file name, in bytes.
const NAME_MAX: usize = 255;

/// A store's root directory.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    pub(crate) root: PathBuf,
    pub(crate) layers: PathBuf,
    pub(crate) tmp: PathBuf,
}

/// Whether something must be there after a power cut, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durable {
    Yes,
    No,
}

impl Disk {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { layers: root.join("layers/sha256"), tmp: root.join("tmp"), root }
    }

    /// Makes every directory of the format.
    pub(crate) fn make(&self) -> io::Result<()> {
        let mut all = vec![self.tmp.clone(), self.names(), self.untagged(), self.leases()];
        all.extend(["layers", "tars", "blobs", "sources", "partial"].map(|kind| self.kind(kind)));
        all.iter().try_for_each(|path| make_directory(path))
    }

    /// The directory of one kind of things with digests.
    pub(crate) fn kind(&self, kind: &str) -> PathBuf {
        self.root.join(kind).join("sha256")
    }

    /// A layer's tree.
    pub(crate) fn layer(&self, diff_id: Digest) -> PathBuf {
        self.layers.join(diff_id.hex())
    }

    /// What gives a layer's tar again.
    pub(crate) fn tar(&self, diff_id: Digest) -> PathBuf {
        self.kind("tars").join(diff_id.hex())
    }

    /// A manifest, an index or a configuration.
    pub(crate) fn blob(&self, digest: Digest) -> PathBuf {
        self.kind("blobs").join(digest.hex())
    }

    /// The bytes of a document, whatever they are.
    pub(crate) fn read_blob(&self, digest: Digest) -> io::Result<Vec<u8>> {
        faults::reading()?;
        fs::read(self.blob(digest))
    }

    /// What is known of a layer elsewhere.
    pub(crate) fn source(&self, diff_id: Digest) -> PathBuf {
        self.kind("sources").join(diff_id.hex())
    }

    /// What has come of a blob so far.
    pub(crate) fn partial(&self, digest: Digest) -> PathBuf {
        self.kind("partial").join(digest.hex())
    }

    pub(crate) fn names(&self) -> PathBuf {
        self.root.join("names")
    }

    /// The file of a name: the name in full, with `+` for each slash; its digest where that is too long.
    pub(crate) fn name(&self, name: &ImageName) -> PathBuf {
        let full = name.to_string().replace('/', "+");
        let file = if full.len() <= NAME_MAX { full } else { Digest::of(full.as_bytes()).hex() };
        self.names().join(file)
    }

    /// Images that are kept without a name.
    pub(crate) fn untagged(&self) -> PathBuf {
        self.root.join("untagged")
    }

    pub(crate) fn leases(&self) -> PathBuf {
        self.root.join("leases")
    }

    /// Locked by whoever changes names.
    pub(crate) fn names_lock(&self) -> io::Result<File> {
        self.lock("names.lock")
    }

    /// Locked by whoever collects.
    pub(crate) fn collect_lock(&self) -> io::Result<File> {
        self.lock("collect.lock")
    }

    fn lock(&self, name: &str) -> io::Result<File> {
        let file = File::options().create(true).truncate(false).write(true).open(self.root.join(name))?;
        file.lock()?;
        Ok(file)
    }

    /// Puts a file with `content` at `path`, in place of what is there.
    pub(crate) fn publish(&self, path: &Path, content: &[u8], durable: Durable) -> io::Result<File> {
        loop {
            let (fresh, mut file) = self.fresh()?;
            let done = write(&mut file, content, durable).and_then(|()| {
                faults::point()?;
                fs::rename(&fresh, path)
            });
            match done {
                // Swept between its making and its locking.
                Err(e) if e.kind() == io::ErrorKind::NotFound && file.metadata()?.nlink() == 0 => continue,
                Err(e) => {
                    drop(fs::remove_file(&fresh));
                    return Err(e);
                }
                Ok(()) => {}
            }
            if durable == Durable::Yes {
                sync_parent(path)?;
            }
            return Ok(file);
        }
    }

    /// Puts a file with `content` into `directory` under a name of its own, locked.
    pub(crate) fn unique(&self, directory: &Path, content: &[u8]) -> io::Result<(PathBuf, File)> {
        let (fresh, mut file) = self.fresh()?;
        let mut draw = [0; 8];
        skiff_sys::random::fill(&mut draw)?;
        let path = directory.join(format!("{}.{:016x}", std::process::id(), u64::from_ne_bytes(draw)));
        let done = write(&mut file, content, Durable::No).and_then(|()| {
            faults::point()?;
            fs::rename(&fresh, &path)
        });
        match done {
            Err(e) => {
                let swept = e.kind() == io::ErrorKind::NotFound && file.metadata()?.nlink() == 0;
                drop(fs::remove_file(&fresh));
                if swept { self.unique(directory, content) } else { Err(e) }
            }
            Ok(()) => Ok((path, file)),
        }
    }

    /// Removes the file `path` for good; says whether it was there.
    pub(crate) fn remove(&self, path: &Path) -> io::Result<bool> {
        faults::point()?;
        match fs::remove_file(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            removed => removed?,
        }
        sync_parent(path)?;
        Ok(true)
    }

    /// A new file of our own below `tmp`, locked.
    pub(crate) fn fresh(&self) -> io::Result<(PathBuf, File)> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        loop {
            let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
            let path = self.tmp.join(format!("{}.{serial}{NEW}", std::process::id()));
            faults::point()?;
            match File::options().create_new(true).read(true).write(true).open(&path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                file => {
                    let file = file?;
                    file.lock()?;
                    return Ok((path, file));
                }
            }
        }
    }
}

/// Removes a file in the making whose maker is dead.
pub(crate) fn sweep_new(path: &Path) -> io::Result<()> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => return Ok(()),
        locked => locked?,
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Brings what happened in the directory of `path` to the disk.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    faults::point()?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

/// Makes a directory that is nobody else's business, with those above it.
pub(crate) fn make_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn write(file: &mut File, content: &[u8], durable: Durable) -> io::Result<()> {
    faults::point()?;
    file.write_all(content)?;
    if durable == Durable::Yes {
        faults::point()?;
        file.sync_data()?;
    }
    Ok(())
}
