//! Device nodes, FIFOs and symlinks.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, SFlag, fstatat, makedev, mknodat};
use skiff_sys::device_filter::Kind;
use skiff_sys::file::{self, Resolve};

use super::{Tree, attach, bind, target};
use crate::host::Node;
use crate::launch::prepare::{self, Source};
use crate::plan::{Symlinks, Target, TargetKind, c_path};

impl Tree<'_> {
    /// Makes a device node. Where that is not allowed, in a user namespace (`EPERM`), binds the host's on a file.
    pub(super) fn node(&mut self, node: &Node, hosts: Option<&Source>) -> io::Result<()> {
        let path = c_relative(&node.target)?;
        let (parent, name) = self.open_parent(&path)?;
        if hosts.is_some() {
            return bind_node(node, hosts, parent, &name);
        }
        let kind = if node.kind == Kind::Block { SFlag::S_IFBLK } else { SFlag::S_IFCHR };
        let mode = Mode::from_bits_truncate(node.mode);
        let number = makedev(node.major.into(), node.minor.into());
        match mknodat(parent, name.as_c_str(), kind, mode, number) {
            Ok(()) => give(parent, &name, node.uid, node.gid),
            Err(Errno::EEXIST) => is_there(parent, &name, kind, number),
            Err(Errno::EPERM) => bind_node(node, None, parent, &name),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn fifo(&mut self, path: &CStr, mode: u32, (uid, gid): (u32, u32)) -> io::Result<()> {
        let (parent, name) = self.open_parent(path)?;
        match mknodat(parent, name.as_c_str(), SFlag::S_IFIFO, Mode::from_bits_truncate(mode), 0) {
            Err(Errno::EEXIST) => is_there(parent, &name, SFlag::S_IFIFO, 0),
            Err(error) => Err(error.into()),
            Ok(()) => give(parent, &name, uid, gid),
        }
    }

    pub(super) fn symlink(&mut self, content: &CStr, path: &CStr) -> io::Result<()> {
        let (parent, name) = self.open_parent(path)?;
        match nix::unistd::symlinkat(content, parent, name.as_c_str()) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The directory that `path` lies in, made if it is missing, and the last part of the name.
    fn open_parent(&mut self, path: &CStr) -> io::Result<(BorrowedFd<'_>, CString)> {
        let (directory, name) = target::split(path)?;
        let parent = match self.parent.take() {
            Some((known, parent)) if known == directory => parent,
            _ => {
                let (path, kind) = (directory.clone(), TargetKind::Directory);
                self.known(&Target { path, kind, symlinks: Symlinks::Refuse })?
            }
        };
        Ok((self.parent.insert((directory, parent)).1.as_fd(), name))
    }
}

/// Makes sure that what has its name already is the node that is to be there.
fn is_there(parent: BorrowedFd<'_>, name: &CStr, kind: SFlag, number: u64) -> io::Result<()> {
    let found = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let is_same = found.st_mode & SFlag::S_IFMT.bits() == kind.bits() && found.st_rdev == number;
    if is_same { Ok(()) } else { Err(Errno::EEXIST.into()) }
}

/// Gives a node that has just been made to its owner. What root makes is root's.
fn give(parent: BorrowedFd<'_>, name: &CStr, uid: u32, gid: u32) -> io::Result<()> {
    if (uid, gid) == (0, 0) {
        return Ok(());
    }
    let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
    let (uid, gid) = (nix::unistd::Uid::from_raw(uid), nix::unistd::Gid::from_raw(gid));
    Ok(nix::unistd::fchownat(parent, name, Some(uid), Some(gid), flags)?)
}

/// Binds the host's node on a file `name` in `parent`: what the parent has found of it, else what lies at its path.
fn bind_node(node: &Node, found: Option<&Source>, parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let flags = OFlag::O_CREAT | OFlag::O_WRONLY | OFlag::O_NOFOLLOW;
    file::open_beneath(parent, name, flags, 0o666, Resolve::NoSymlinks)?;
    let point = file::open_beneath(parent, name, OFlag::O_PATH, 0, Resolve::NoSymlinks)?;
    if let Some(copy) = found.and_then(Source::copy) {
        prepare::check_node(copy, node)?;
        if attach(copy, point.as_fd())? {
            return Ok(());
        }
    }
    let source = prepare::open_path(&node.source)?;
    prepare::check_node(source.as_fd(), node)?;
    bind(source.as_fd(), point.as_fd(), false).map(drop)
}

fn c_relative(path: &Path) -> io::Result<CString> {
    c_path(path.strip_prefix("/").unwrap_or(path)).map_err(|_| Errno::EINVAL.into())
}
