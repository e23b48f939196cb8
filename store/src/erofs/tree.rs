//! What overlayfs would show of stacked layers, as plain data.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, readlinkat};
use nix::sys::stat::{FileStat, SFlag, fstatat};
use skiff_sys::file::{self, Resolve, open_beneath};
use skiff_sys::xattr;

use crate::digest::Digest;

/// Longest path that overlayfs can be pointed to, in bytes; path_resolution(7).
const REDIRECT_MAX: usize = 4095;

/// Most bytes of attributes that a file can have in the image, names and values; Linux itself has 64 KiB for names.
const XATTRS_MAX: usize = 128 << 10;
/// Longest value of an attribute.
const XATTR_MAX: usize = u16::MAX as usize;

/// Attributes by their full names.
pub(super) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// The place of an inode in [`Tree::inodes`].
pub(super) type Index = usize;

/// A file tree. The root is inode 0; inodes that no directory names are left over from the merging.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) inodes: Vec<Inode>,
}

/// A file of whatever kind.
#[derive(Debug)]
pub(super) struct Inode {
    /// Type and permissions, stat(2).
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds and nanoseconds.
    pub(super) mtime: (i64, u32),
    pub(super) links: u32,
    pub(super) xattrs: Xattrs,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    Directory(BTreeMap<Vec<u8>, Index>),
    /// Of `size` bytes, to be found at `redirect` in the data-only layer; nowhere if it is empty.
    File {
        size: u64,
        redirect: Vec<u8>,
    },
    Symlink(Vec<u8>),
    /// A device's number; 0 for a FIFO or socket.
    Node {
        major: u32,
        minor: u32,
    },
}

impl Tree {
    /// The tree that `layers` show, bottom first.
    pub(super) fn of(layers: &[(Digest, PathBuf)]) -> io::Result<Self> {
        let mut tree = Self { inodes: Vec::new() };
        for (digest, path) in layers {
            let path = CString::new(path.as_os_str().as_bytes())?;
            let root = file::open(&path, OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0)?;
            Layer { root, name: digest.hex(), links: HashMap::new(), tree: &mut tree }.apply()?;
        }
        Ok(tree)
    }

    fn add(&mut self, inode: Inode) -> Index {
        self.inodes.push(inode);
        self.inodes.len() - 1
    }

    fn children(&mut self, directory: Index) -> &mut BTreeMap<Vec<u8>, Index> {
        match &mut self.inodes[directory].content {
            Content::Directory(children) => children,
            // Only directories are put on the list of what is to be read.
            _ => unreachable!("inode {directory} is no directory"),
        }
    }
}

/// One layer on its way into the tree.
struct Layer<'a> {
    root: OwnedFd,
    /// Of its directory in the data-only layer.
    name: String,
    /// Files with several names, by inode number.
    links: HashMap<u64, Index>,
    tree: &'a mut Tree,
}

impl Layer<'_> {
    fn apply(mut self) -> io::Result<()> {
        let root = self.root.try_clone()?;
        let found = nix::sys::stat::fstat(&root)?;
        let (xattrs, _) = attributes(root.as_fd())?;
        if self.tree.inodes.is_empty() {
            self.tree.add(inode(&found, xattrs, Content::Directory(BTreeMap::new())));
        } else {
            // The top layer's root is the root. Opaque means nothing here: there is nothing beside it.
            let children = std::mem::take(self.tree.children(0));
            self.tree.inodes[0] = inode(&found, xattrs, Content::Directory(children));
        }
        // Paths rather than descriptors wait here: trees may be deep.
        let mut waiting = vec![(Vec::new(), 0)];
        while let Some((path, directory)) = waiting.pop() {
            self.directory(&path, directory, &mut waiting)?;
        }
        Ok(())
    }

    /// Adds what is in the layer's directory `path` to the tree's `into`.
    fn directory(&mut self, path: &[u8], into: Index, waiting: &mut Vec<(Vec<u8>, Index)>) -> io::Result<()> {
        let at = if path.is_empty() { c".".to_owned() } else { CString::new(path)? };
        let dir =
            open_beneath(self.root.as_fd(), &at, OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0, Resolve::NoXdev)?;
        for entry in Dir::from_fd(dir.try_clone()?)?.iter() {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let mut below = path.to_owned();
            if !below.is_empty() {
                below.push(b'/');
            }
            below.extend(name.to_bytes());
            let found = fstatat(&dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
            if is_whiteout(&found) {
                self.tree.children(into).remove(name.to_bytes());
            } else if kind(&found) == SFlag::S_IFDIR {
                let index = self.subdirectory(dir.as_fd(), name, &found, into)?;
                waiting.push((below, index));
            } else {
                let index = self.leaf(dir.as_fd(), name, &found, &below)?;
                self.tree.children(into).insert(name.to_bytes().to_owned(), index);
            }
        }
        Ok(())
    }

    /// A directory on top of what the layers below have of that name.
    fn subdirectory(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        found: &FileStat,
        into: Index,
    ) -> io::Result<Index> {
        let fd = open_beneath(dir, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0, Resolve::NoXdev)?;
        let (xattrs, is_opaque) = attributes(fd.as_fd())?;
        let lower = self.tree.children(into).get(name.to_bytes()).copied();
        let children = match lower.map(|lower| &mut self.tree.inodes[lower].content) {
            Some(Content::Directory(children)) if !is_opaque => std::mem::take(children),
            _ => BTreeMap::new(),
        };
        let index = self.tree.add(inode(found, xattrs, Content::Directory(children)));
        self.tree.children(into).insert(name.to_bytes().to_owned(), index);
        Ok(index)
    }

    fn leaf(&mut self, dir: BorrowedFd<'_>, name: &CStr, found: &FileStat, path: &[u8]) -> io::Result<Index> {
        if let Some(known) = self.links.get(&found.st_ino) {
            return Ok(*known);
        }
        let mut xattrs = Vec::new();
        let content = match kind(found) {
            SFlag::S_IFREG => {
                let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
                let fd = open_beneath(dir, name, flags, 0, Resolve::NoXdev)?;
                (xattrs, _) = attributes(fd.as_fd())?;
                let size = u64::try_from(found.st_size).unwrap_or(0);
                Content::File { size, redirect: if size == 0 { Vec::new() } else { self.redirect(path)? } }
            }
            SFlag::S_IFLNK => Content::Symlink(readlinkat(dir, name)?.into_vec()),
            _ => Content::Node {
                major: u32::try_from(nix::sys::stat::major(found.st_rdev)).unwrap_or(0),
                minor: u32::try_from(nix::sys::stat::minor(found.st_rdev)).unwrap_or(0),
            },
        };
        let index = self.tree.add(inode(found, xattrs, content));
        if found.st_nlink > 1 {
            self.links.insert(found.st_ino, index);
        }
        Ok(index)
    }

    /// Where the data-only layer has the file `path` of this layer.
    fn redirect(&self, path: &[u8]) -> io::Result<Vec<u8>> {
        let mut redirect = format!("/{}/", self.name).into_bytes();
        redirect.extend(path);
        if redirect.len() > REDIRECT_MAX {
            return Err(io::Error::other(format!("path of {} bytes cannot be pointed to", path.len())));
        }
        Ok(redirect)
    }
}

fn inode(found: &FileStat, xattrs: Xattrs, content: Content) -> Inode {
    Inode {
        mode: found.st_mode,
        uid: found.st_uid,
        gid: found.st_gid,
        mtime: (found.st_mtime, u32::try_from(found.st_mtime_nsec).unwrap_or(0)),
        links: u32::try_from(found.st_nlink).unwrap_or(u32::MAX),
        xattrs,
        content,
    }
}

fn kind(found: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT
}

fn is_whiteout(found: &FileStat) -> bool {
    kind(found) == SFlag::S_IFCHR && found.st_rdev == 0
}

/// A file's attributes without those by which a layer speaks to overlayfs, and whether it is opaque.
fn attributes(fd: BorrowedFd<'_>) -> io::Result<(Xattrs, bool)> {
    if !xattr::any(fd)? {
        return Ok((Vec::new(), false));
    }
    let is_opaque = xattr::is(fd, c"trusted.overlay.opaque", b"y");
    let mut all = Vec::new();
    for name in xattr::names(fd)? {
        let is_ours =
            [&b"trusted.overlay."[..], b"user.overlay."].iter().any(|own| name.to_bytes().starts_with(own));
        if let Some(value) = xattr::get(fd, &name)?.filter(|_| !is_ours) {
            all.push((name.into_bytes(), value));
        }
    }
    let length = |(name, value): &(Vec<u8>, Vec<u8>)| name.len() + value.len() + 8;
    let is_long = all.iter().any(|(_, value): &(_, Vec<u8>)| value.len() > XATTR_MAX);
    if is_long || all.iter().map(length).sum::<usize>() > XATTRS_MAX {
        return Err(io::Error::other("a file has more attributes than can be kept"));
    }
    all.sort();
    Ok((all, is_opaque))
}
