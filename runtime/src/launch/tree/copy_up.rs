//! Copies what a new tmpfs covers into it (`tmpcopyup`).
//!
//! Both ends are descriptors, every name is one component that is no symlink, and no mount is crossed: an image cannot
//! have files copied that are not its own.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, futimens, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid};
use skiff_sys::file::{self, Resolve};
use skiff_sys::xattr;

/// As deep as directories may lie in each other: each level holds two descriptors.
const DEPTH_MAX: u32 = 128;

/// Copies the directory `from`, with its own owner and mode, into the empty directory `to`.
pub(super) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let directory = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    let from = file::open_beneath(from, c".", directory, 0, Resolve::NoXdev)?;
    let to = file::open_beneath(to, c".", directory, 0, Resolve::NoXdev)?;
    entries(&from, &to, DEPTH_MAX)?;
    take_after(&from, &to, &fstat(&from)?)
}

fn entries(from: &OwnedFd, to: &OwnedFd, depth: u32) -> io::Result<()> {
    // Reading moves the descriptor's offset, so the directory gets one of its own.
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    let list = file::open_beneath(from.as_fd(), c".", flags, 0, Resolve::NoXdev)?;
    for entry in Dir::from_fd(list)?.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            one(from, to, name, depth)?;
        }
    }
    Ok(())
}

fn one(from: &OwnedFd, to: &OwnedFd, name: &CStr, depth: u32) -> io::Result<()> {
    let found = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let open = |dir: &OwnedFd, flags| file::open_beneath(dir.as_fd(), name, flags, 0, Resolve::NoXdev);
    match SFlag::from_bits_truncate(found.st_mode & nix::libc::S_IFMT) {
        SFlag::S_IFDIR => {
            let depth = depth.checked_sub(1).ok_or(Errno::ELOOP)?;
            mkdirat(to, name, Mode::S_IRWXU)?;
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
            let (from, to) = (open(from, flags)?, open(to, flags)?);
            entries(&from, &to, depth)?;
            take_after(&from, &to, &found)
        }
        SFlag::S_IFREG => {
            let source = File::from(open(from, OFlag::O_RDONLY | OFlag::O_NONBLOCK)?);
            // What has been exchanged for something else since is not read.
            if !source.metadata()?.is_file() {
                return Err(Errno::ESTALE.into());
            }
            let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY;
            let copy = file::open_beneath(to.as_fd(), name, flags, 0o600, Resolve::NoXdev)?;
            let mut copy = File::from(copy);
            io::copy(&mut &source, &mut copy)?;
            take_after(&source.into(), &copy.into(), &found)
        }
        SFlag::S_IFLNK => {
            let content = nix::fcntl::readlinkat(from, name)?;
            nix::unistd::symlinkat(content.as_os_str(), to, name)?;
            give(to, name, &found)
        }
        kind => {
            mknodat(to, name, kind, Mode::from_bits_truncate(found.st_mode & 0o7777), found.st_rdev)?;
            give(to, name, &found)
        }
    }
}

/// Owner and times of what cannot be opened.
fn give(to: &OwnedFd, name: &CStr, found: &FileStat) -> io::Result<()> {
    let owner = (Some(Uid::from_raw(found.st_uid)), Some(Gid::from_raw(found.st_gid)));
    nix::unistd::fchownat(to, name, owner.0, owner.1, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let (accessed, modified) = times(found);
    let flags = nix::sys::stat::UtimensatFlags::NoFollowSymlink;
    Ok(utimensat(to, name, &accessed, &modified, flags)?)
}

/// Gives the copy the owner, mode, attributes and times of the original, in an order in which none undoes another.
fn take_after(from: &OwnedFd, to: &OwnedFd, found: &FileStat) -> io::Result<()> {
    nix::unistd::fchown(to, Some(Uid::from_raw(found.st_uid)), Some(Gid::from_raw(found.st_gid)))?;
    fchmod(to, Mode::from_bits_truncate(found.st_mode & 0o7777))?;
    attributes(from.as_fd(), to.as_fd())?;
    let (accessed, modified) = times(found);
    Ok(futimens(to, &accessed, &modified)?)
}

const fn times(found: &FileStat) -> (TimeSpec, TimeSpec) {
    (TimeSpec::new(found.st_atime, found.st_atime_nsec), TimeSpec::new(found.st_mtime, found.st_mtime_nsec))
}

/// Copies extended attributes, as far as a tmpfs has such and this process may set them.
fn attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let is_not_to_be_had =
        |error: &io::Error| matches!(error.raw_os_error(), Some(nix::libc::EOPNOTSUPP | nix::libc::EPERM));
    let names = match xattr::names(from) {
        Err(error) if is_not_to_be_had(&error) => return Ok(()),
        names => names?,
    };
    for name in names {
        let Some(value) = xattr::get(from, &name)? else { continue };
        match xattr::set(to, &name, &value) {
            Err(error) if is_not_to_be_had(&error) => {}
            set => set?,
        }
    }
    Ok(())
}
