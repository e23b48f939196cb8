//! Files of cgroups by short paths.
//!
//! Every look-up of `/sys/fs/cgroup/…` goes through sysfs, where it takes a lock that whoever makes a network namespace holds for
//! long. So the place where the hierarchies are mounted is looked up once in a process.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;

use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstatat, mkdirat};
use nix::sys::statfs::{Statfs, fstatfs};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Where cgroups are mounted.
pub(super) const ROOT: &str = "/sys/fs/cgroup";

static OPENED: OnceLock<OwnedFd> = OnceLock::new();

/// Keeps the place open where cgroups are mounted, from now on, to look them up from there.
///
/// For a process that does not close what it has not opened: by the number of a descriptor that is closed, paths would lead elsewhere.
pub fn keep_root_open() {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    // Without it, paths are looked up from the top.
    if let Ok(root) = openat(AT_FDCWD, ROOT, flags, Mode::empty()) {
        OPENED.get_or_init(|| root);
    }
}

/// A directory from which `path` can be reached, and the way from there.
pub(super) fn at(path: &Path) -> (BorrowedFd<'static>, &Path) {
    let short = || path.strip_prefix(ROOT).ok().filter(|rest| !rest.as_os_str().is_empty());
    let opened = OPENED.get().and_then(|root| Some((root.as_fd(), short()?)));
    opened.unwrap_or((AT_FDCWD, path))
}

/// open(2), close-on-exec.
pub(super) fn open(path: &Path, flags: OFlag) -> io::Result<File> {
    let (from, path) = at(path);
    Ok(openat(from, path, flags | OFlag::O_CLOEXEC, Mode::empty())?.into())
}

pub(super) fn read(path: &Path) -> io::Result<String> {
    io::read_to_string(open(path, OFlag::O_RDONLY)?)
}

pub(super) fn write(path: &Path, text: &str) -> io::Result<()> {
    io::Write::write_all(&mut open(path, OFlag::O_WRONLY)?, text.as_bytes())
}

pub(super) fn exists(path: &Path) -> bool {
    let (from, path) = at(path);
    fstatat(from, path, AtFlags::empty()).is_ok()
}

/// statfs(2).
pub(super) fn file_system(path: &Path) -> io::Result<Statfs> {
    Ok(fstatfs(open(path, OFlag::O_PATH)?)?)
}

pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    let (from, path) = at(path);
    Ok(mkdirat(from, path, Mode::from_bits_truncate(0o777))?)
}

pub(super) fn remove_directory(path: &Path) -> io::Result<()> {
    let (from, path) = at(path);
    Ok(unlinkat(from, path, UnlinkatFlags::RemoveDir)?)
}
