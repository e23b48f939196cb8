//! Where layers grow until they are whole.
//!
//! ```text
//! tmp/HEX.lock          locked (flock) by whoever works on the layer
//! tmp/HEX/tree          becomes layers/sha256/HEX by rename
//! tmp/HEX/trash         what entries replaced
//! tmp/HEX/recipe        becomes tars/sha256/HEX by rename
//! ```
//!
//! The lock decides who owns `tmp/HEX`: whoever finds it free may take away what lies there, because its last owner
//! is dead. So a killed process leaves nothing that the next one does not sweep, and a living one is never disturbed.

use std::ffi::{CStr, CString};
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, renameat};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use skiff_sys::file::{Resolve, open_beneath};

use crate::digest::Digest;
use crate::disk;
use crate::faults;
use crate::unpack::stream::Place;

/// What came of trying to get at a layer's place.
pub(crate) enum Try {
    /// It is ours.
    Claimed(Claim),
    /// Somebody else works on it.
    Busy,
}

/// The right to build one layer, until dropped; what was built and not committed goes with it.
#[derive(Debug)]
pub(crate) struct Claim {
    tmp: PathBuf,
    name: String,
    /// Held for its lock.
    _lock: File,
}

impl Claim {
    /// Claims the place of `layer` below the directory `tmp`, which must exist.
    pub(crate) fn attempt(tmp: &Path, layer: Digest) -> io::Result<Try> {
        Self::by_name(tmp, layer.hex())
    }

    /// Claims a place of its own, for a layer whose digest is not known yet.
    pub(crate) fn fresh(tmp: &Path) -> io::Result<Self> {
        loop {
            let mut draw = [0; 32];
            skiff_sys::random::fill(&mut draw)?;
            if let Try::Claimed(claim) = Self::attempt(tmp, Digest::of(&draw))? {
                return Ok(claim);
            }
        }
    }

    /// Claims the place of `layer` when nobody else works on it any more.
    pub(crate) fn own(tmp: &Path, layer: Digest) -> io::Result<Self> {
        loop {
            match Self::attempt(tmp, layer)? {
                Try::Claimed(claim) => return Ok(claim),
                Try::Busy => Self::wait(tmp, layer)?,
            }
        }
    }

    fn by_name(tmp: &Path, name: String) -> io::Result<Try> {
        loop {
            let path = lock_path(tmp, &name);
            faults::point()?;
            let lock = File::options().create(true).truncate(false).write(true).open(path)?;
            match lock.try_lock() {
                Err(TryLockError::WouldBlock) => return Ok(Try::Busy),
                locked => locked?,
            }
            // Its last owner may have removed the file between our open and our lock.
            if lock.metadata()?.nlink() > 0 {
                let claim = Self { tmp: tmp.to_owned(), name, _lock: lock };
                claim.sweep()?;
                return Ok(Try::Claimed(claim));
            }
        }
    }

    /// Waits until nobody works on `layer`.
    pub(crate) fn wait(tmp: &Path, layer: Digest) -> io::Result<()> {
        match File::open(lock_path(tmp, &layer.hex())) {
            Ok(lock) => lock.lock(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Makes what a layer is built in.
    pub(crate) fn place(&self) -> io::Result<Place> {
        let make = |path: PathBuf| -> io::Result<OwnedFd> {
            faults::point()?;
            DirBuilder::new().mode(0o700).create(&path)?;
            File::open(&path).map(OwnedFd::from)
        };
        faults::point()?;
        DirBuilder::new().mode(0o700).create(self.tmp.join(&self.name))?;
        let root = make(self.tree())?;
        let trash = make(self.tmp.join(&self.name).join("trash"))?;
        faults::point()?;
        let recipe =
            File::options().read(true).write(true).create_new(true).mode(0o600).open(self.recipe())?;
        Ok(Place { root, trash, recipe: Some(recipe) })
    }

    /// Moves the finished recipe to `target`, if there is one. The caller sees to it that its content is on disk first.
    pub(crate) fn commit_recipe(&self, target: &Path) -> io::Result<()> {
        if self.recipe().metadata()?.len() == 0 {
            return Ok(());
        }
        fs::rename(self.recipe(), target)
    }

    /// Moves the finished tree to `target`. The caller sees to it that its content is on disk first.
    pub(crate) fn commit(&self, target: &Path) -> io::Result<()> {
        fs::rename(self.tree(), target)
    }

    /// Takes the layer at `target` out of sight, to go with this claim. Says whether it was there.
    pub(crate) fn take_back(&self, target: &Path) -> io::Result<bool> {
        faults::point()?;
        DirBuilder::new().mode(0o700).create(self.tmp.join(&self.name))?;
        // A directory that its owner may not write to cannot be moved, for its ".." changes.
        let moved = || {
            faults::point()?;
            fs::rename(target, self.tree())
        };
        match moved() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                fs::set_permissions(target, PermissionsExt::from_mode(0o700))?;
                moved().map(|()| true)
            }
            done => done.map(|()| true),
        }
    }

    fn recipe(&self) -> PathBuf {
        self.tmp.join(&self.name).join("recipe")
    }

    fn tree(&self) -> PathBuf {
        self.tmp.join(&self.name).join("tree")
    }

    fn sweep(&self) -> io::Result<()> {
        faults::point()?;
        let tmp = File::open(&self.tmp)?;
        match remove_all(tmp.as_fd(), &CString::new(&*self.name)?) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }
}

/// Leaves the lock file for last. What cannot be removed now is swept by the next process.
impl Drop for Claim {
    fn drop(&mut self) {
        let removed = self.sweep().and_then(|()| fs::remove_file(lock_path(&self.tmp, &self.name)));
        if let Err(error) = removed {
            tracing::warn!("{} stays until the next run: {error}", self.tmp.join(&self.name).display());
        }
    }
}

/// Removes what dead processes left below `tmp`.
pub(crate) fn sweep(tmp: &Path) -> io::Result<()> {
    for entry in fs::read_dir(tmp)? {
        let Ok(name) = entry?.file_name().into_string() else { continue };
        if name.ends_with(disk::NEW) {
            disk::sweep_new(&tmp.join(name))?;
            continue;
        }
        let name = name.strip_suffix(".lock").unwrap_or(&name).to_owned();
        if let Try::Claimed(claim) = Claim::by_name(tmp, name)? {
            drop(claim);
        }
    }
    Ok(())
}

fn lock_path(tmp: &Path, name: &str) -> PathBuf {
    tmp.join(format!("{name}.lock"))
}

/// Removes the directory `name` in `dir` with all that is below it, however deep and whatever its modes.
///
/// Not recursive: a subdirectory that is not empty is moved up to the top and waits there for its turn.
fn remove_all(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let top = open_directory(dir, name)?;
    let mut waiting = empty_of_files(top.as_fd())?;
    let mut serial = 0u64;
    while let Some(next) = waiting.pop() {
        faults::point()?;
        let directory = match open_directory(top.as_fd(), &next) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            directory => directory?,
        };
        for child in empty_of_files(directory.as_fd())? {
            if unlinkat(&directory, child.as_c_str(), UnlinkatFlags::RemoveDir).is_err() {
                waiting.push(move_up(directory.as_fd(), &child, top.as_fd(), &mut serial)?);
            }
        }
        unlinkat(&top, next.as_c_str(), UnlinkatFlags::RemoveDir)?;
    }
    faults::point()?;
    Ok(unlinkat(dir, name, UnlinkatFlags::RemoveDir)?)
}

/// Moves the directory `name` to `top`, under a number that is free there.
fn move_up(dir: BorrowedFd<'_>, name: &CStr, top: BorrowedFd<'_>, serial: &mut u64) -> io::Result<CString> {
    // A directory that its owner may not write to cannot be moved, for its ".." changes.
    fchmodat(dir, name, Mode::S_IRWXU, FchmodatFlags::FollowSymlink)?;
    loop {
        *serial += 1;
        let place = CString::new(serial.to_string())?;
        match renameat(dir, name, top, place.as_c_str()) {
            Err(Errno::EEXIST | Errno::ENOTEMPTY) => {}
            moved => return moved.map(|()| place).map_err(Into::into),
        }
    }
}

/// Unlinks everything in `dir` but directories, and says which those are.
fn empty_of_files(dir: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let mut directories = Vec::new();
    for entry in Dir::from_fd(dir.try_clone_to_owned()?)?.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if is_directory(dir, name, entry.file_type())? {
            directories.push(name.to_owned());
        } else {
            faults::point()?;
            unlinkat(dir, name, UnlinkatFlags::NoRemoveDir)?;
        }
    }
    Ok(directories)
}

/// Not every file system tells the type with the name.
fn is_directory(dir: BorrowedFd<'_>, name: &CStr, told: Option<Type>) -> io::Result<bool> {
    if let Some(told) = told {
        return Ok(told == Type::Directory);
    }
    let stat = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    Ok(stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits())
}

fn open_directory(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    const FLAGS: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY);
    let open = || open_beneath(dir, name, FLAGS, 0, Resolve::NoXdev);
    match open() {
        Ok(fd) if nix::unistd::geteuid().is_root() => Ok(fd),
        Err(e) if e.kind() != io::ErrorKind::PermissionDenied => Err(e),
        _ => {
            fchmodat(dir, name, Mode::S_IRWXU, FchmodatFlags::FollowSymlink)?;
            open()
        }
    }
}
