//! From a layer's bytes to a directory.
//!
//! One layer takes two threads: one reads, checks and decompresses the blob ([`mod@stream`]), the other checks the
//! content and builds the tree ([`mod@tree`]), so that inflating and creating files overlap. Nothing that is built
//! counts before both digests have been found right; the caller throws the tree away on any error.
//!
//! Decisions where engines differ:
//!
//! * Absolute names are taken below the root; a name or hard link that leaves the root by `..` is an error.
//! * A symlink on the way to an entry is followed inside the tree; the last component never is.
//! * Later entries replace earlier ones; a directory stays if it is to be a directory again.
//! * A whiteout hides what the layers below have, never what its own layer has.
//! * Attributes kept: `security.capability`, POSIX ACLs and `user.*`; all others belong to the host, and
//!   `*.overlay.*` would let a layer speak to overlayfs.
//! * Without root everything belongs to the caller; device nodes and attributes that need root are left out and
//!   counted.
//! * Directories without an entry become 0755, root's, of the epoch.

pub(crate) mod stream;
mod tree;

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, makedev, mknodat, utimensat};
use nix::unistd::{Gid, LinkatFlags, Uid, fchownat, linkat, symlinkat};
use skiff_sys::xattr;

use crate::entries::{Entry, Input, Kind, Reader, Segment};
use crate::error::cause;
use crate::faults;
use crate::recipe::{Recorder, Tap};
pub(crate) use tree::Privilege;
use tree::{Meta, Tree, c_string, set_meta};

/// What marks a whiteout.
const WHITEOUT: &[u8] = b".wh.";
/// What aufs kept for itself.
const AUFS: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Bytes of a file that are written at once: at most as many as a page fault maps anyway.
const FOLIO: u64 = 16 << 10;
/// Most entries of a layer. Tests do not take the time for so many.
const ENTRIES_MAX: u64 = if cfg!(test) { 100 } else { 8 << 20 };

/// What could not be kept for lack of privilege or support by the file system.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Skipped {
    pub(crate) devices: u64,
    pub(crate) xattrs: u64,
    /// Bytes in the files of the layer; nothing that was skipped.
    pub(crate) file_bytes: u64,
}

/// Unpacks every entry of `reader` into the empty directory `root`.
///
/// `trash` is an empty directory on the same file system for what entries replace. Errors: one line that names the
/// entry. Where a recipe is recorded, the caller completes it with what it gets to know beside [`Skipped`].
fn unpack<I: Input>(
    reader: &mut Reader<Tap<I>>,
    root: OwnedFd,
    trash: OwnedFd,
    privilege: Privilege,
) -> Result<(Skipped, Tree), String> {
    let keep = reader.input().recorder().is_some();
    let tree = Tree::new(root, trash, privilege, keep).map_err(|e| cause(&e))?;
    let mut unpacking = Unpacking { tree, skipped: Skipped::default() };
    let mut last = None;
    for count in 0.. {
        let Some(entry) = reader.next().map_err(|e| after(last.as_ref(), &e))? else { break };
        if count == ENTRIES_MAX {
            return Err(format!("more than {ENTRIES_MAX} entries"));
        }
        unpacking.entry(&entry, reader).map_err(|e| at(&entry, &e))?;
        last = Some(entry.path);
    }
    Ok((unpacking.skipped, unpacking.tree))
}

/// Completes what [`unpack`] has begun, once all of the archive has been read: the recipe, then the directories.
fn finish(mut tree: Tree, recorder: Option<Recorder>) -> Result<(), String> {
    if let Some(mut recorder) = recorder {
        let lost = tree.lost();
        if lost.is_none() {
            recorder.give_up();
        }
        let mut find = |place, path: &[u8]| tree.find(place, path).map(File::from);
        let mut scratch = || tree.scratch().map(File::from);
        let done = recorder.finish(&lost.unwrap_or_default(), &mut find, &mut scratch);
        done.map_err(|e| format!("record the archive: {}", cause(&e)))?;
    }
    tree.finish().map_err(|e| format!("finish directories: {}", cause(&e)))
}

/// All of it in one thread, without digests.
#[cfg(fuzzing)]
pub(crate) fn unpack_recorded<I: Input>(
    archive: I,
    root: OwnedFd,
    trash: OwnedFd,
    recorder: Recorder,
) -> Result<(), String> {
    let mut reader = Reader::new(Tap::new(archive, Some(recorder)));
    let (_, tree) = unpack(&mut reader, root, trash, Privilege::of_caller())?;
    let mut rest = reader.into_inner();
    io::copy(&mut rest, &mut io::sink()).map_err(|e| cause(&e))?;
    finish(tree, rest.into_parts().1)
}

struct Unpacking {
    tree: Tree,
    skipped: Skipped,
}

impl Unpacking {
    fn entry<I: Input>(&mut self, entry: &Entry, reader: &mut Reader<Tap<I>>) -> io::Result<()> {
        if let Some(recorder) = reader.input().recorder() {
            self.tree.files = recorder.files();
        }
        let path = clean(&entry.path).ok_or_else(|| refuse("leaves the root"))?;
        let (parent, name) = split(&path);
        self.tree.enter(parent)?;
        if name.is_empty() {
            return self.root(entry);
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return self.whiteout(name, hidden);
        }
        let name = &*c_string(name)?;
        let meta = meta(entry);
        match &entry.kind {
            Kind::File => {
                self.skipped.file_bytes += entry.size;
                self.file(name, entry, reader)
            }
            Kind::Directory => {
                self.tree.directory(name, meta)?;
                self.directory_xattrs(&path, entry)
            }
            Kind::HardLink(target) => self.hard_link(name, target),
            Kind::Symlink(target) => {
                let target = c_string(target)?;
                self.tree.create(name, |dir| symlinkat(target.as_c_str(), dir, name))?;
                self.node_meta(name, &meta, false)
            }
            Kind::Fifo => self.node(name, &meta, SFlag::S_IFIFO, 0),
            &Kind::Char(major, minor) => {
                self.node(name, &meta, SFlag::S_IFCHR, makedev(major.into(), minor.into()))
            }
            &Kind::Block(major, minor) => {
                self.node(name, &meta, SFlag::S_IFBLK, makedev(major.into(), minor.into()))
            }
        }
    }

    fn root(&mut self, entry: &Entry) -> io::Result<()> {
        if entry.kind != Kind::Directory {
            return Err(refuse("stands for the root but is not a directory"));
        }
        self.tree.root_directory(meta(entry))?;
        self.directory_xattrs(b"", entry)
    }

    fn whiteout(&mut self, name: &[u8], hidden: &[u8]) -> io::Result<()> {
        match hidden {
            _ if name == OPAQUE => self.tree.opaque_parent(),
            _ if name.starts_with(AUFS) => Ok(()),
            b"" | b"." | b".." => Err(refuse("is a whiteout of nothing")),
            _ => self.tree.whiteout(&c_string(hidden)?),
        }
    }

    fn file<I: Input>(&mut self, name: &CStr, entry: &Entry, reader: &mut Reader<Tap<I>>) -> io::Result<()> {
        const FLAGS: OFlag = OFlag::O_WRONLY
            .union(OFlag::O_CREAT)
            .union(OFlag::O_EXCL)
            .union(OFlag::O_NOFOLLOW)
            .union(OFlag::O_CLOEXEC);
        let file = self.tree.create(name, |dir| openat(dir, name, FLAGS, Mode::S_IRUSR | Mode::S_IWUSR))?;
        let mut file = File::from(file);
        let readable = self.tree.privilege == Privilege::Root || entry.mode & 0o400 != 0;
        let (_, stored) = reader.position();
        if readable
            && stored > 0
            && let Some(recorder) = reader.input().recorder()
        {
            recorder.begin(&self.tree.path_of(name));
        }
        match &entry.segments {
            None => write_all(&mut file, reader)?,
            Some(segments) => write_segments(&mut file, segments, entry.size, reader)?,
        }
        if let Some(recorder) = reader.input().recorder() {
            recorder.end();
        }
        let privilege = self.tree.privilege;
        // Others than root set them only while the file can be written to; a change of owner takes capabilities away.
        if privilege == Privilege::User {
            self.xattrs(file.as_fd(), entry)?;
        }
        set_meta(file.as_fd(), &meta(entry), privilege)?;
        if privilege == Privilege::Root {
            self.xattrs(file.as_fd(), entry)?;
        }
        Ok(())
    }

    fn hard_link(&mut self, name: &CStr, target: &[u8]) -> io::Result<()> {
        let shown = String::from_utf8_lossy(target);
        let missing = || refuse(&format!("is a hard link to {shown:?}, which is not in this layer"));
        let clean =
            clean(target).ok_or_else(|| refuse(&format!("is a hard link to {shown:?} outside the root")))?;
        let (dir, file) = split(&clean);
        let dir = self.tree.existing(dir).map_err(|_| missing())?;
        let file = c_string(file)?;
        let flags = LinkatFlags::empty();
        let link = |parent: BorrowedFd<'_>| linkat(&dir, file.as_c_str(), parent, name, flags);
        self.tree.create(name, link).map_err(|e| if is(&e, Errno::ENOENT) { missing() } else { e })
    }

    /// A FIFO or device node; devices are left out where the caller may not make them.
    fn node(&mut self, name: &CStr, meta: &Meta, kind: SFlag, device: u64) -> io::Result<()> {
        let made = self.tree.create(name, |dir| mknodat(dir, name, kind, Mode::S_IRUSR, device));
        match made {
            Err(e) if is(&e, Errno::EPERM) && kind != SFlag::S_IFIFO => {
                self.skipped.devices += 1;
                Ok(())
            }
            made => made.and_then(|()| self.node_meta(name, meta, true)),
        }
    }

    /// Owner, mode and time of what cannot be opened. `name` was just made here, and nobody else writes to the tree.
    fn node_meta(&self, name: &CStr, meta: &Meta, has_mode: bool) -> io::Result<()> {
        let dir = self.tree.parent();
        if self.tree.privilege == Privilege::Root {
            let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
            fchownat(dir, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        }
        if has_mode {
            fchmodat(dir, name, Mode::from_bits_truncate(meta.mode), FchmodatFlags::FollowSymlink)?;
        }
        Ok(utimensat(dir, name, &meta.mtime, &meta.mtime, UtimensatFlags::NoFollowSymlink)?)
    }

    fn directory_xattrs(&mut self, path: &[u8], entry: &Entry) -> io::Result<()> {
        if entry.xattrs.is_empty() {
            return Ok(());
        }
        let dir = self.tree.existing(path)?;
        self.xattrs(dir.as_fd(), entry)
    }

    fn xattrs(&mut self, fd: BorrowedFd<'_>, entry: &Entry) -> io::Result<()> {
        for (name, value) in entry.xattrs.iter().filter(|(name, _)| is_kept(name)) {
            match xattr::set(fd, &c_string(name)?, value) {
                Err(e) if is(&e, Errno::EPERM) || is(&e, Errno::EOPNOTSUPP) => self.skipped.xattrs += 1,
                set => set?,
            }
        }
        Ok(())
    }
}

fn write_all<I: Input>(file: &mut File, reader: &mut Reader<I>) -> io::Result<()> {
    let mut offset = 0;
    loop {
        let piece = reader.data()?;
        if piece.is_empty() {
            return Ok(());
        }
        faults::point()?;
        write_at(file, offset, piece)?;
        let count = piece.len();
        offset += count as u64;
        reader.consume(count);
    }
}

/// Writes `bytes` to `offset`, where `file` stands, in small pieces: the kernel makes one folio of each, and as a page fault maps all of
/// a folio, large ones would hide what of the file is used from whoever records that.
fn write_at(file: &mut File, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let room = FOLIO - offset % FOLIO;
        let (piece, rest) =
            bytes.split_at(usize::try_from(room).map_or(bytes.len(), |room| room.min(bytes.len())));
        file.write_all(piece)?;
        offset += piece.len() as u64;
        bytes = rest;
    }
    Ok(())
}

/// Writes what is stored to where it belongs; what lies between stays a hole.
fn write_segments<I: Input>(
    file: &mut File,
    segments: &[Segment],
    size: u64,
    reader: &mut Reader<Tap<I>>,
) -> io::Result<()> {
    file.set_len(size)?;
    for segment in segments {
        file.seek(SeekFrom::Start(segment.offset))?;
        if let Some(recorder) = reader.input().recorder() {
            recorder.seek(segment.offset);
        }
        let (mut offset, mut left) = (segment.offset, segment.length);
        while left > 0 {
            let piece = reader.data()?;
            let count = usize::try_from(left).map_or(piece.len(), |left| left.min(piece.len()));
            write_at(file, offset, &piece[..count])?;
            reader.consume(count);
            offset += count as u64;
            left -= count as u64;
        }
    }
    Ok(())
}

/// `path` below the root without `.`, `..` and empty components; none if it leaves the root.
fn clean(path: &[u8]) -> Option<Vec<u8>> {
    let mut kept = Vec::with_capacity(path.len());
    for component in path.split(|&b| b == b'/') {
        match component {
            b"" | b"." => {}
            b".." if kept.is_empty() => return None,
            b".." => kept.truncate(kept.iter().rposition(|&b| b == b'/').unwrap_or(0)),
            _ => {
                if !kept.is_empty() {
                    kept.push(b'/');
                }
                kept.extend_from_slice(component);
            }
        }
    }
    Some(kept)
}

/// Directory and last component of a cleaned path.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

fn meta(entry: &Entry) -> Meta {
    Meta { mode: entry.mode, uid: entry.uid, gid: entry.gid, mtime: entry.mtime }
}

pub(crate) fn is_kept(xattr: &[u8]) -> bool {
    let kept = [&b"security.capability"[..], b"system.posix_acl_access", b"system.posix_acl_default"];
    kept.contains(&xattr) || xattr.starts_with(b"user.") && !xattr.starts_with(b"user.overlay.")
}

/// An error whose message continues `entry "NAME" …`.
fn refuse(what: &str) -> io::Error {
    io::Error::other(what)
}

fn at(entry: &Entry, error: &io::Error) -> String {
    let name = String::from_utf8_lossy(&entry.path);
    let colon = if error.raw_os_error().is_some() || error.kind() != io::ErrorKind::Other { ":" } else { "" };
    format!("entry {name:?}{colon} {}", cause(error))
}

fn after(last: Option<&Vec<u8>>, error: &io::Error) -> String {
    match last {
        Some(name) => format!("after entry {:?}: {}", String::from_utf8_lossy(name), cause(error)),
        None => cause(error),
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error().is_some_and(|raw| Errno::from_raw(raw) == errno)
}

#[cfg(test)]
mod tests;
