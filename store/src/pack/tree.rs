//! Trees to tars: a container's upper directory as a layer, and all its files as one archive.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};

use nix::errno::Errno;
use nix::sys::stat::{major, minor};
use nix::sys::time::TimeSpec;
use nix::unistd::{Whence, lseek};
use skiff_sys::xattr;

use super::changes::{Step, Tree};
use super::stack::{Node, Spot, Stack, What, join};
use super::writer::Writer;
use crate::entries::{Entry, Kind, Segment};
use crate::unpack::is_kept;

/// Holes smaller than this together are written as zeros, in bytes.
const HOLES_MIN: u64 = 64 << 10;
/// Most parts of a file that are written apart from its holes.
const SEGMENTS_MAX: usize = 1 << 16;
/// Whom the kernel shows where an id means nobody.
const NOBODY: u32 = 65534;

/// Ids that a user namespace has inside and outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The first one inside.
    pub inside: u32,
    /// The first one outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// How owners of files look in a container. Empty: as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ids {
    /// Of users.
    pub uids: Vec<IdRange>,
    /// Of groups.
    pub gids: Vec<IdRange>,
}

/// Writes what a container has changed as a layer.
///
/// Owners are those inside of the container. Errors: a file is called `.wh.…`, which would be a whiteout in a layer.
pub(crate) fn layer(tree: &Tree, ids: &Ids, out: impl Write) -> io::Result<()> {
    let mut packer = Packer::new(tree.stack()?, ids, out);
    tree.walk(&mut |path, step| match step {
        Step::Node(node, _) => {
            let name = path.rsplit(|&b| b == b'/').next().unwrap_or(path);
            if name.starts_with(b".wh.") {
                let shown = String::from_utf8_lossy(path);
                return Err(io::Error::other(format!(
                    "file {shown:?}: a layer cannot have files of such a name"
                )));
            }
            packer.node(path, node)
        }
        Step::Deleted => {
            let (directory, name) = match path.iter().rposition(|&b| b == b'/') {
                Some(slash) => (&path[..slash], &path[slash + 1..]),
                None => (&b""[..], path),
            };
            packer.marker(&join(directory, &[b".wh.", name].concat()))
        }
        Step::Opaque => packer.marker(&join(path, b".wh..wh..opq")),
        Step::Hidden => Ok(()),
    })?;
    packer.writer.end()
}

/// Writes all files that a container sees, mounts left out.
pub(crate) fn whole(tree: &Tree, ids: &Ids, out: impl Write) -> io::Result<()> {
    let stack = tree.stack()?;
    let root = stack.root()?;
    let mut packer = Packer::new(stack, ids, out);
    let mut frames = vec![(Vec::new(), packer.stack.list(&root)?)];
    while let Some((directory, entries)) = frames.last_mut() {
        let Some((name, node)) = entries.pop_first() else {
            frames.pop();
            continue;
        };
        let path = join(directory, &name);
        packer.node(&path, &node)?;
        if let What::Folder(folder) = &node.what {
            let entries = packer.stack.list(folder)?;
            frames.push((path, entries));
        }
    }
    packer.writer.end()
}

struct Packer<'a, W> {
    writer: Writer<W>,
    stack: Stack,
    ids: &'a Ids,
    /// First path of files with several, by layer, device and inode.
    links: HashMap<(usize, u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
}

impl<'a, W: Write> Packer<'a, W> {
    fn new(stack: Stack, ids: &'a Ids, out: W) -> Self {
        Self { writer: Writer::new(out), stack, ids, links: HashMap::new(), buffer: vec![0; 256 << 10] }
    }

    /// An empty file that means something.
    fn marker(&mut self, path: &[u8]) -> io::Result<()> {
        let mtime = TimeSpec::new(0, 0);
        let entry = Entry {
            path: path.to_vec(),
            kind: Kind::File,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime,
            xattrs: Vec::new(),
            size: 0,
            segments: None,
        };
        self.writer.entry(&entry)
    }

    fn node(&mut self, path: &[u8], node: &Node) -> io::Result<()> {
        let written = self.write(path, node);
        written.map_err(|e| {
            let shown = String::from_utf8_lossy(path);
            io::Error::other(format!("file {shown:?}: {}", crate::error::cause(&e)))
        })
    }

    fn write(&mut self, path: &[u8], node: &Node) -> io::Result<()> {
        let mut kind = match &node.what {
            What::Folder(_) => Kind::Directory,
            What::File(_) => Kind::File,
            What::Symlink(target) => Kind::Symlink(target.clone()),
            What::Fifo => Kind::Fifo,
            &What::Char(device) => numbers(device).map(|(major, minor)| Kind::Char(major, minor))?,
            &What::Block(device) => numbers(device).map(|(major, minor)| Kind::Block(major, minor))?,
            // Means nothing without whoever listens.
            What::Socket | What::Whiteout => return Ok(()),
        };
        if kind != Kind::Directory && node.stat.st_nlink > 1 {
            let key = (node.spot.layer, node.stat.st_dev, node.stat.st_ino);
            match self.links.get(&key) {
                Some(first) => kind = Kind::HardLink(first.clone()),
                None => drop(self.links.insert(key, path.to_vec())),
            }
        }
        let mut entry = Entry {
            path: path.to_vec(),
            kind,
            mode: node.stat.st_mode & 0o7777,
            uid: inside(&self.ids.uids, node.stat.st_uid),
            gid: inside(&self.ids.gids, node.stat.st_gid),
            mtime: TimeSpec::new(node.stat.st_mtime, node.stat.st_mtime_nsec),
            xattrs: Vec::new(),
            size: 0,
            segments: None,
        };
        match (&entry.kind, &node.what) {
            (Kind::Directory, _) => {
                entry.xattrs = self.xattrs(&self.stack.open_spot(&node.spot)?)?;
                self.writer.entry(&entry)
            }
            (Kind::File, What::File(content)) => self.file(entry, &node.spot, content),
            _ => self.writer.entry(&entry),
        }
    }

    fn file(&mut self, mut entry: Entry, spot: &Spot, content: &Spot) -> io::Result<()> {
        let file = self.stack.open_spot(content)?;
        entry.xattrs = match spot == content {
            true => self.xattrs(&file)?,
            false => self.xattrs(&self.stack.open_spot(spot)?)?,
        };
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::other("is not the file any more that it was"));
        }
        entry.size = meta.len();
        entry.segments = match meta.len().saturating_sub(meta.blocks() * 512) >= HOLES_MIN {
            true => segments(&file, meta.len())?,
            false => None,
        };
        self.writer.entry(&entry)?;
        match &entry.segments {
            None => self.copy(&file, 0, entry.size),
            Some(all) => all.iter().try_for_each(|it| self.copy(&file, it.offset, it.length)),
        }
    }

    /// A file that has become shorter goes on with zeros: its length has been announced.
    fn copy(&mut self, file: &File, mut offset: u64, mut length: u64) -> io::Result<()> {
        while length > 0 {
            let limit =
                usize::try_from(length).map_or(self.buffer.len(), |length| length.min(self.buffer.len()));
            let mut count = file.read_at(&mut self.buffer[..limit], offset)?;
            if count == 0 {
                self.buffer[..limit].fill(0);
                count = limit;
            }
            self.writer.data(&self.buffer[..count])?;
            offset += count as u64;
            length -= count as u64;
        }
        Ok(())
    }

    fn xattrs(&self, file: &File) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let names = match xattr::names(file.as_fd()) {
            Err(e) if e.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => return Ok(Vec::new()),
            names => names?,
        };
        let mut all = Vec::new();
        for name in names.iter().filter(|name| is_kept(name.to_bytes())) {
            let Some(value) = xattr::get(file.as_fd(), name)? else { continue };
            let value = match name.to_bytes() {
                b"security.capability" => capability(value, &self.ids.uids),
                b"system.posix_acl_access" | b"system.posix_acl_default" => acl(value, self.ids),
                _ => value,
            };
            all.push((name.to_bytes().to_vec(), value));
        }
        all.sort();
        Ok(all)
    }
}

/// The parts of a file that are no holes; none if they are too many.
fn segments(file: &File, length: u64) -> io::Result<Option<Vec<Segment>>> {
    let mut all = Vec::new();
    let mut at = 0;
    while at < length {
        let seek = |from: u64, whence| -> io::Result<Option<u64>> {
            match lseek(file, i64::try_from(from).map_err(io::Error::other)?, whence) {
                Err(Errno::ENXIO) => Ok(None),
                found => Ok(u64::try_from(found?).ok()),
            }
        };
        let Some(start) = seek(at, Whence::SeekData)?.filter(|&start| start < length) else { break };
        let end = seek(start, Whence::SeekHole)?.unwrap_or(length).min(length);
        if end <= start || all.len() == SEGMENTS_MAX {
            return Ok(None);
        }
        all.push(Segment { offset: start, length: end - start });
        at = end;
    }
    Ok(Some(all))
}

fn numbers(device: u64) -> io::Result<(u32, u32)> {
    let number =
        |number: u64| u32::try_from(number).map_err(|_| io::Error::other("device number out of range"));
    Ok((number(major(device))?, number(minor(device))?))
}

/// What an id of the host is inside.
fn inside(ranges: &[IdRange], id: u32) -> u32 {
    if ranges.is_empty() {
        return id;
    }
    let of = |range: &IdRange| {
        let offset = id.checked_sub(range.outside).filter(|&offset| offset < range.count)?;
        range.inside.checked_add(offset)
    };
    ranges.iter().find_map(of).unwrap_or(NOBODY)
}

/// Capabilities that count in one user namespace alone (revision 3 of the attribute, which names its root) as those
/// that count wherever the layer is used (revision 2). capabilities(7).
fn capability(value: Vec<u8>, uids: &[IdRange]) -> Vec<u8> {
    const REVISION_3: u8 = 3;
    match <&[u8; 24]>::try_from(&value[..]) {
        Ok(all) if all[3] == REVISION_3 => {
            let root = u32::from_le_bytes([all[20], all[21], all[22], all[23]]);
            if inside(uids, root) != 0 {
                return value;
            }
            let mut plain = all[..20].to_vec();
            plain[3] = 2;
            plain
        }
        _ => value,
    }
}

/// An access control list with its users and groups as they are inside. Layout: linux/posix_acl_xattr.h.
fn acl(mut value: Vec<u8>, ids: &Ids) -> Vec<u8> {
    const USER: u16 = 2;
    const GROUP: u16 = 8;
    for entry in value.get_mut(4..).unwrap_or_default().chunks_exact_mut(8) {
        let ranges = match u16::from_le_bytes([entry[0], entry[1]]) {
            USER => &ids.uids,
            GROUP => &ids.gids,
            _ => continue,
        };
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        entry[4..].copy_from_slice(&inside(ranges, id).to_le_bytes());
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_inside() {
        let ranges = [
            IdRange { inside: 0, outside: 1000, count: 1 },
            IdRange { inside: 1, outside: 100_000, count: 65536 },
        ];
        for (outside, expect) in
            [(1000, 0), (100_000, 1), (165_535, 65536), (165_536, NOBODY), (0, NOBODY), (u32::MAX, NOBODY)]
        {
            assert_eq!(inside(&ranges, outside), expect, "{outside}");
        }
        assert_eq!(inside(&[], 7), 7);
    }

    #[test]
    fn capabilities_lose_the_namespace_they_were_made_in() {
        let ranges = [IdRange { inside: 0, outside: 100_000, count: 10 }];
        let mut value = vec![7; 24];
        value[3] = 3;
        value[20..].copy_from_slice(&100_000_u32.to_le_bytes());
        let plain = capability(value.clone(), &ranges);
        assert_eq!((plain.len(), plain[3], plain[0]), (20, 2, 7));
        value[20..].copy_from_slice(&100_001_u32.to_le_bytes());
        assert_eq!(capability(value.clone(), &ranges), value);
        assert_eq!(capability(vec![7; 20], &ranges), vec![7; 20]);
        assert_eq!(capability(Vec::new(), &ranges), Vec::<u8>::new());
    }

    #[test]
    fn lists_name_users_inside() {
        let ids = Ids { uids: vec![IdRange { inside: 0, outside: 5, count: 2 }], gids: Vec::new() };
        let entry = |tag: u16, id: u32| [&tag.to_le_bytes()[..], &[7, 0], &id.to_le_bytes()].concat();
        let value = [vec![2, 0, 0, 0], entry(1, u32::MAX), entry(2, 6), entry(8, 6)].concat();
        let expect = [vec![2, 0, 0, 0], entry(1, u32::MAX), entry(2, 1), entry(8, 6)].concat();
        assert_eq!(acl(value, &ids), expect);
        assert_eq!(acl(vec![1, 2], &ids), vec![1, 2]);
    }
}
