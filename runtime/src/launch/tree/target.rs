//! Places in the container: found below the root's descriptor, and made where they are missing.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, mkdirat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use skiff_sys::file::{self, Resolve};

use super::c_string;
use crate::plan::{Symlinks, Target, TargetKind, relative};

/// As many symlinks on one way as the kernel follows. path_resolution(7).
const MAX_LINKS: u8 = 40;

/// A place in the container, opened.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) point: OwnedFd,
    /// Whether it was not there before.
    pub(super) is_new: bool,
}

/// Opens a place below `root`, and makes it, with what is missing on the way, if it is not there.
pub(super) fn open(root: BorrowedFd<'_>, target: &Target) -> io::Result<Place> {
    let resolve = resolve(target.symlinks);
    let mut is_new = false;
    let point = match open_only(root, target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            is_new = true;
            if !make_last(root, target, resolve)? {
                let mut links = MAX_LINKS;
                make(root, target.path.to_bytes(), target.kind, resolve, &mut links)?;
            }
            open_only(root, target)
        }
        other => other,
    }?;
    // A symlink of the image may lead into the procfs, which a path by name is refused for when planned.
    if resolve == Resolve::InRoot && fstatfs(&point)?.filesystem_type() == PROC_SUPER_MAGIC {
        return Err(Errno::EXDEV.into());
    }
    Ok(Place { point, is_new })
}

fn open_only(root: BorrowedFd<'_>, target: &Target) -> io::Result<OwnedFd> {
    let kind = match target.kind {
        TargetKind::Directory => OFlag::O_DIRECTORY,
        TargetKind::File | TargetKind::AsSource => OFlag::empty(),
    };
    file::open_beneath(root, &target.path, OFlag::O_PATH | kind, 0, resolve(target.symlinks))
}

/// Opens the mount that has come to be at `target` on top of `point`.
///
/// Errors: `ESTALE` if the way leads elsewhere by now.
pub(super) fn open_mounted(
    root: BorrowedFd<'_>,
    target: &Target,
    point: BorrowedFd<'_>,
) -> io::Result<OwnedFd> {
    let mounted = open_only(root, target)?;
    match (file::mount_id(mounted.as_fd())?, file::mount_id(point)?) {
        (Some(above), Some(below)) if above == below => Err(Errno::ESTALE.into()),
        _ => Ok(mounted),
    }
}

const fn resolve(symlinks: Symlinks) -> Resolve {
    match symlinks {
        Symlinks::InRoot => Resolve::InRoot,
        Symlinks::Refuse => Resolve::NoSymlinks,
    }
}

/// Opens the entry `name` of a directory that is known, and makes it if it is not there.
pub(super) fn open_in(directory: BorrowedFd<'_>, name: &CStr, kind: TargetKind) -> io::Result<Place> {
    let is_new = make_entry(directory, name, kind)?;
    let target = Target { path: name.into(), kind, symlinks: Symlinks::Refuse };
    Ok(Place { point: open_only(directory, &target)?, is_new })
}

/// Makes what is to be at the end of the way, if that alone is missing.
fn make_last(root: BorrowedFd<'_>, target: &Target, resolve: Resolve) -> io::Result<bool> {
    let (directory, name) = split(&target.path)?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let Ok(directory) = file::open_beneath(root, &directory, flags, 0, resolve) else { return Ok(false) };
    // A symlink that leads nowhere is there, and yet it was not found.
    match nix::fcntl::readlinkat(&directory, name.as_c_str()) {
        Err(Errno::ENOENT) => make_entry(directory.as_fd(), &name, target.kind).map(|_| true),
        _ => Ok(false),
    }
}

/// Makes the directories on the way to `path`, and what is to be there, by way of at most `links` symlinks in all: what
/// one of them leads to is made as well, for images have such as `/etc/resolv.conf` →
/// `../run/systemd/resolve/stub-resolv.conf`.
fn make(
    root: BorrowedFd<'_>,
    path: &[u8],
    kind: TargetKind,
    resolve: Resolve,
    links: &mut u8,
) -> io::Result<()> {
    let mut parent = root.try_clone_to_owned()?;
    let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    for end in ends.chain([path.len()]) {
        let start = path[..end].iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let name = c_string(&path[start..end])?;
        let kind = if end == path.len() { kind } else { TargetKind::Directory };
        match nix::fcntl::readlinkat(&parent, name.as_c_str()) {
            Ok(_) if resolve == Resolve::InRoot && *links == 0 => return Err(Errno::ELOOP.into()),
            Ok(content) if resolve == Resolve::InRoot => {
                *links -= 1;
                let leads_to = Path::new("/").join(OsStr::from_bytes(&path[..start])).join(content);
                let leads_to = relative(&leads_to).map_err(|_| Errno::EINVAL)?;
                make(root, leads_to.as_os_str().as_bytes(), kind, resolve, links)?;
            }
            _ => drop(make_entry(parent.as_fd(), &name, kind)?),
        }
        if end < path.len() {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
            parent = file::open_beneath(root, &c_string(&path[..end])?, flags, 0, resolve)?;
        }
    }
    Ok(())
}

/// Makes a directory or an empty file if there is nothing of that name, and says whether it has.
fn make_entry(parent: BorrowedFd<'_>, name: &CStr, kind: TargetKind) -> io::Result<bool> {
    let made = match kind {
        TargetKind::Directory => {
            mkdirat(parent, name, Mode::from_bits_truncate(0o755)).map_err(io::Error::from)
        }
        TargetKind::File | TargetKind::AsSource => {
            let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW;
            file::open_beneath(parent, name, flags, 0o644, Resolve::NoSymlinks).map(drop)
        }
    };
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        other => other.map(|()| true),
    }
}

/// The directory and the last part of the name in `path`.
pub(super) fn split(path: &CStr) -> io::Result<(CString, CString)> {
    let bytes = path.to_bytes();
    Ok(match bytes.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (c_string(&bytes[..slash])?, c_string(&bytes[slash + 1..])?),
        None => (c".".into(), path.into()),
    })
}
