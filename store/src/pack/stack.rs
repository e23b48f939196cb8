//! Directories stacked as overlayfs stacks them, read without mounting them.
//!
//! The top one may have been written through overlayfs: by a container, which is assumed hostile and may be running.
//! So everything is opened below the layer's descriptor, through no symlink, and looked at again once it is open. What
//! overlayfs may leave in an upper directory is understood: whiteouts, opaque directories, directories that were
//! renamed (`redirect`) and files of which only the inode was copied up (`metacopy`).

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, readlinkat};
use nix::sys::stat::{FileStat, SFlag, fstat, fstatat};
use skiff_sys::file::{Resolve, open_beneath};
use skiff_sys::xattr;

use crate::unpack::Privilege;

/// Layers, top first.
#[derive(Debug)]
pub(crate) struct Stack {
    layers: Vec<OwnedFd>,
    /// In which spelling overlayfs' attributes count; in the other one anybody may have set them.
    privilege: Privilege,
}

/// Something at a path in one of the layers, below its root; empty for the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spot {
    pub(crate) layer: usize,
    pub(crate) path: Vec<u8>,
}

/// A directory, and all that is merged in it: top first. Nobody sees what is below an opaque part.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    parts: Vec<Spot>,
}

/// What a name stands for.
#[derive(Debug, Clone)]
pub(crate) enum What {
    Folder(Folder),
    /// Where its content lies.
    File(Spot),
    Symlink(Vec<u8>),
    Fifo,
    Socket,
    Char(u64),
    Block(u64),
    /// Hides what the layers below have.
    Whiteout,
}

/// A name in a directory.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) what: What,
    pub(crate) spot: Spot,
    pub(crate) stat: FileStat,
}

/// Names in the topmost part of a directory, and what each hides or changes.
pub(crate) type Changed = BTreeMap<Vec<u8>, (Node, Option<Node>)>;

impl Stack {
    /// Opens directories, the top one first.
    pub(crate) fn open(layers: &[&Path], privilege: Privilege) -> io::Result<Self> {
        let open = |path: &&Path| {
            File::options()
                .read(true)
                .open(path)
                .and_then(|file| match file.metadata()?.is_dir() {
                    true => Ok(OwnedFd::from(file)),
                    false => Err(Errno::ENOTDIR.into()),
                })
                .map_err(|e| {
                    io::Error::new(e.kind(), format!("{}: {}", path.display(), crate::error::cause(&e)))
                })
        };
        Ok(Self { layers: layers.iter().map(open).collect::<io::Result<_>>()?, privilege })
    }

    /// The root of all layers together.
    pub(crate) fn root(&self) -> io::Result<Folder> {
        let root = Spot { layer: 0, path: Vec::new() };
        if self.layers.is_empty() || self.is_opaque(&root)? {
            return Ok(Folder { parts: vec![root] });
        }
        self.root_below(1).map(|below| Folder { parts: [vec![root], below.parts].concat() })
    }

    /// All names in a directory.
    pub(crate) fn list(&self, folder: &Folder) -> io::Result<BTreeMap<Vec<u8>, Node>> {
        let mut all = BTreeMap::new();
        for (depth, part) in folder.parts.iter().enumerate() {
            let Some(directory) = self.open_directory(part)? else { continue };
            for name in names(&directory)? {
                if all.contains_key(&name) {
                    continue;
                }
                if let Some(node) = self.node(part, &directory, &folder.parts[depth + 1..], &name)? {
                    all.insert(name, node);
                }
            }
        }
        all.retain(|_, node: &mut Node| !matches!(node.what, What::Whiteout));
        Ok(all)
    }

    /// The names in a directory's topmost part alone, whiteouts included, and what each hides or changes.
    pub(crate) fn list_top(&self, folder: &Folder) -> io::Result<Changed> {
        let Some((top, below)) = folder.parts.split_first() else { return Ok(BTreeMap::new()) };
        let mut all = BTreeMap::new();
        let Some(directory) = self.open_directory(top)? else { return Ok(all) };
        for name in names(&directory)? {
            if let Some(node) = self.node(top, &directory, below, &name)? {
                let old = self.look_up(below, &name)?;
                all.insert(name, (node, old));
            }
        }
        Ok(all)
    }

    /// What `name` is in these parts of a directory.
    fn look_up(&self, parts: &[Spot], name: &[u8]) -> io::Result<Option<Node>> {
        for (depth, part) in parts.iter().enumerate() {
            let Some(directory) = self.open_directory(part)? else { continue };
            if let Some(node) = self.node(part, &directory, &parts[depth + 1..], name)? {
                return Ok(Some(node).filter(|node| !matches!(node.what, What::Whiteout)));
            }
        }
        Ok(None)
    }

    /// Whether a directory hides all that the layers below have at its place.
    pub(crate) fn is_opaque(&self, spot: &Spot) -> io::Result<bool> {
        Ok(self.overlay_attribute(spot, "opaque")?.is_some_and(|value| value == b"y"))
    }

    /// Whether a directory of the top layer shows another one of the layers below than that of its own path.
    pub(crate) fn is_redirected(&self, spot: &Spot) -> io::Result<bool> {
        Ok(self.overlay_attribute(spot, "redirect")?.is_some())
    }

    /// Opens a regular file or a directory for reading.
    pub(crate) fn open_spot(&self, spot: &Spot) -> io::Result<File> {
        // Not blocking: it may have become a FIFO since it was looked at.
        const FLAGS: OFlag = OFlag::O_RDONLY.union(OFlag::O_NONBLOCK).union(OFlag::O_NOFOLLOW);
        let fd = open_beneath(
            self.layers[spot.layer].as_fd(),
            &name_or_dot(&spot.path)?,
            FLAGS,
            0,
            Resolve::NoXdev,
        )?;
        Ok(File::from(fd))
    }

    fn root_below(&self, first: usize) -> io::Result<Folder> {
        let mut parts = Vec::new();
        for layer in first..self.layers.len() {
            let part = Spot { layer, path: Vec::new() };
            let is_last = self.is_opaque(&part)?;
            parts.push(part);
            if is_last {
                break;
            }
        }
        Ok(Folder { parts })
    }

    /// What the part of a directory has at `name`; `below` are the parts under it.
    fn node(
        &self,
        part: &Spot,
        directory: &OwnedFd,
        below: &[Spot],
        name: &[u8],
    ) -> io::Result<Option<Node>> {
        let spot = Spot { layer: part.layer, path: join(&part.path, name) };
        let key = c_string(name)?;
        let stat = match fstatat(directory, key.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => return Ok(None),
            stat => stat?,
        };
        let what = match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFDIR => What::Folder(self.folder(&spot, below, name)?),
            SFlag::S_IFREG if stat.st_size == 0 && self.overlay_attribute(&spot, "whiteout")?.is_some() => {
                What::Whiteout
            }
            SFlag::S_IFREG => What::File(self.content(&spot, below, name)?),
            SFlag::S_IFLNK => What::Symlink(readlinkat(directory, key.as_c_str())?.into_encoded_bytes()),
            SFlag::S_IFIFO => What::Fifo,
            SFlag::S_IFSOCK => What::Socket,
            SFlag::S_IFCHR if stat.st_rdev == 0 => What::Whiteout,
            SFlag::S_IFCHR => What::Char(stat.st_rdev),
            SFlag::S_IFBLK => What::Block(stat.st_rdev),
            _ => return Ok(None),
        };
        Ok(Some(Node { what, spot, stat }))
    }

    /// A directory with what is merged in it.
    fn folder(&self, spot: &Spot, below: &[Spot], name: &[u8]) -> io::Result<Folder> {
        let mut parts = vec![spot.clone()];
        if !self.is_opaque(spot)? {
            let under = match self.redirected(spot, below, name)? {
                Some(node) => Some(node),
                None => self.look_up(below, name)?,
            };
            if let Some(Node { what: What::Folder(folder), .. }) = under {
                parts.extend(folder.parts);
            }
        }
        Ok(Folder { parts })
    }

    /// Where the content of a file lies: elsewhere, if only its inode has been copied up.
    fn content(&self, spot: &Spot, below: &[Spot], name: &[u8]) -> io::Result<Spot> {
        if self.overlay_attribute(spot, "metacopy")?.is_none() {
            return Ok(spot.clone());
        }
        let under = match self.redirected(spot, below, name)? {
            Some(node) => Some(node),
            None => self.look_up(below, name)?,
        };
        match under {
            Some(Node { what: What::File(content), .. }) => Ok(content),
            _ => {
                let name = String::from_utf8_lossy(&spot.path).into_owned();
                Err(io::Error::other(format!("file {name:?}: its content is in no layer")))
            }
        }
    }

    /// What the layers below have where an attribute points to; none if there is no such attribute.
    fn redirected(&self, spot: &Spot, below: &[Spot], name: &[u8]) -> io::Result<Option<Node>> {
        let Some(target) = self.overlay_attribute(spot, "redirect")? else { return Ok(None) };
        let found = match target.strip_prefix(b"/") {
            None if target.contains(&b'/') || target == name || !is_name(&target) => None,
            None => self.look_up(below, &target)?,
            Some(path) => {
                let mut folder = self.root_below(spot.layer + 1)?;
                let mut names = path.split(|&b| b == b'/').peekable();
                loop {
                    let Some(name) = names.next().filter(|name| is_name(name)) else { break None };
                    match self.look_up(&folder.parts, name)? {
                        found if names.peek().is_none() => break found,
                        Some(Node { what: What::Folder(next), .. }) => folder = next,
                        _ => break None,
                    }
                }
            }
        };
        match found {
            Some(node) => Ok(Some(node)),
            None => {
                let name = String::from_utf8_lossy(&spot.path).into_owned();
                Err(io::Error::other(format!("{name:?}: no layer has what it was renamed from")))
            }
        }
    }

    /// None if it is not there (any more), or is none.
    fn open_directory(&self, spot: &Spot) -> io::Result<Option<OwnedFd>> {
        const FLAGS: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW);
        let layer = self.layers[spot.layer].as_fd();
        match open_beneath(layer, &name_or_dot(&spot.path)?, FLAGS, 0, Resolve::NoXdev) {
            Err(e) if is(&e, &[Errno::ENOENT, Errno::ENOTDIR, Errno::ELOOP]) => Ok(None),
            directory => directory.map(Some),
        }
    }

    /// The value of overlayfs' own attribute of this name. Only the top one of several layers has more than `opaque`.
    fn overlay_attribute(&self, spot: &Spot, name: &str) -> io::Result<Option<Vec<u8>>> {
        if name != "opaque" && spot.layer > 0 {
            return Ok(None);
        }
        let file = match self.open_spot(spot) {
            Err(e) if is(&e, &[Errno::ENOENT, Errno::EACCES]) => return Ok(None),
            file => file?,
        };
        let kind = SFlag::from_bits_truncate(fstat(&file)?.st_mode & SFlag::S_IFMT.bits());
        if kind != SFlag::S_IFREG && kind != SFlag::S_IFDIR {
            return Ok(None);
        }
        let space = match self.privilege {
            Privilege::Root => "trusted",
            Privilege::User => "user",
        };
        let key = c_string(format!("{space}.overlay.{name}").as_bytes())?;
        match xattr::get(file.as_fd(), &key) {
            Err(e) if is(&e, &[Errno::EOPNOTSUPP]) => Ok(None),
            found => found,
        }
    }
}

fn is_name(bytes: &[u8]) -> bool {
    !matches!(bytes, b"" | b"." | b"..")
}

fn names(directory: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::from_fd(directory.try_clone()?)?.iter() {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    Ok(names)
}

fn is(error: &io::Error, errnos: &[Errno]) -> bool {
    error.raw_os_error().is_some_and(|raw| errnos.contains(&Errno::from_raw(raw)))
}

fn c_string(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::Error::other("a name with a NUL in it"))
}

fn name_or_dot(path: &[u8]) -> io::Result<CString> {
    if path.is_empty() { Ok(CStr::to_owned(c".")) } else { c_string(path) }
}

pub(super) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}
