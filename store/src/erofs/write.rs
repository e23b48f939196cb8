//! The tree as an EROFS image. Source: fs/erofs/erofs_fs.h and Documentation/filesystems/erofs.rst of Linux.
//!
//! ```text
//! 0       nothing
//! 1024    superblock, 128 bytes
//! 1152    inodes, each at a multiple of 32, the root first: 64 bytes, attributes, then what is inline
//! …       blocks of 4096: directories, and symlinks too long to be inline
//! ```
//!
//! Inodes go breadth first, so those of one directory lie together. No regular file has data here: each that is not empty
//! is one hole of its size.

use std::collections::{BTreeMap, HashMap};
use std::io;

use super::tree::{Content, Index, Inode, Tree};

const BLOCK_BITS: u8 = 12;
const BLOCK: usize = 1 << BLOCK_BITS;
const SUPERBLOCK: usize = 1024;
const SUPERBLOCK_LENGTH: usize = 128;
/// Inodes are numbered by their place, in units of this.
const SLOT: usize = 32;
const INODE: usize = 64;
const DIRENT: usize = 12;
/// `EROFS_SUPER_MAGIC_V1`.
const MAGIC: u32 = 0xe0f5_e1e2;
/// `EROFS_FEATURE_INCOMPAT_CHUNKED_FILE`, Linux ≥ 5.15.
const CHUNKED_FILE: u32 = 4;
/// The largest chunk there is, 2⁴³ bytes: one is enough for any file.
const CHUNK_BITS: u32 = 31;
/// A block that is nowhere.
const HOLE: u32 = u32::MAX;
/// What is longer does not stand beside its inode: it would cost more in gaps than it saves.
const INLINE_MAX: usize = BLOCK / 2;

/// Bits 1 to 3 of `i_format`; bit 0 says that the inode has 64 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
enum Layout {
    Plain = 0,
    Inline = 2,
    Chunks = 4,
}

/// An inode that is going to be written.
struct Planned<'a> {
    inode: &'a Inode,
    parent: usize,
    /// Attributes as they are written, with their header; empty if there are none.
    xattrs: Vec<u8>,
    /// Bytes of directory, symlink or chunk list.
    length: usize,
    layout: Layout,
    /// Where it lies, in slots.
    nid: u64,
    /// First block of what is not inline.
    block: u32,
}

/// `tree` as an image.
///
/// Errors: it has more blocks than can be counted.
pub(super) fn image(tree: &Tree) -> io::Result<Vec<u8>> {
    let (mut planned, places) = plan(tree);
    let blocks = place(&mut planned)?;
    let mut image = Vec::with_capacity(blocks as usize * BLOCK);
    pad(&mut image, SUPERBLOCK);
    image.extend(superblock(&planned, blocks));
    for (number, it) in planned.iter().enumerate() {
        pad(&mut image, usize_of(it.nid) * SLOT);
        image.extend(head(it, number));
        image.extend(&it.xattrs);
        match it.layout {
            Layout::Inline => {
                let data = data(it, number, &planned, &places);
                image.extend(&data[data.len() / BLOCK * BLOCK..]);
            }
            Layout::Chunks => image.extend(HOLE.to_le_bytes()),
            Layout::Plain => {}
        }
    }
    for (number, it) in planned.iter().enumerate().filter(|(_, it)| has_blocks(it)) {
        pad(&mut image, it.block as usize * BLOCK);
        let data = data(it, number, &planned, &places);
        let inline = if it.layout == Layout::Inline { data.len() % BLOCK } else { 0 };
        image.extend(&data[..data.len() - inline]);
    }
    pad(&mut image, blocks as usize * BLOCK);
    Ok(image)
}

/// Zeroes up to the offset `to`.
fn pad(image: &mut Vec<u8>, to: usize) {
    image.resize(image.len().max(to), 0);
}

/// All inodes that can be reached, breadth first, and where each of the tree's is among them.
fn plan(tree: &Tree) -> (Vec<Planned<'_>>, HashMap<Index, usize>) {
    let mut places = HashMap::from([(0, 0)]);
    let mut planned = vec![planned(&tree.inodes[0], 0)];
    let mut next = 0;
    while let Some(it) = planned.get(next) {
        if let Content::Directory(children) = &it.inode.content {
            for index in children.values() {
                places.entry(*index).or_insert_with(|| {
                    planned.push(self::planned(&tree.inodes[*index], next));
                    planned.len() - 1
                });
            }
        }
        next += 1;
    }
    (planned, places)
}

fn planned(inode: &Inode, parent: usize) -> Planned<'_> {
    let (length, layout) = match &inode.content {
        Content::Directory(children) => {
            let length = directory_length(children);
            (
                length,
                if length % BLOCK > INLINE_MAX || length.is_multiple_of(BLOCK) {
                    Layout::Plain
                } else {
                    Layout::Inline
                },
            )
        }
        Content::Symlink(target) if target.len() <= INLINE_MAX => (target.len(), Layout::Inline),
        Content::Symlink(target) => (target.len(), Layout::Plain),
        Content::File { size: 0, .. } | Content::Node { .. } => (0, Layout::Plain),
        Content::File { .. } => (size_of::<u32>(), Layout::Chunks),
    };
    Planned { inode, parent, xattrs: xattrs(inode), length, layout, nid: 0, block: HOLE }
}

/// Gives every inode its place and every directory its blocks; how many blocks the image has.
fn place(planned: &mut [Planned<'_>]) -> io::Result<u32> {
    let mut at = SUPERBLOCK + SUPERBLOCK_LENGTH;
    for it in planned.iter_mut() {
        let head = INODE + it.xattrs.len();
        let inline = match it.layout {
            Layout::Plain => 0,
            Layout::Chunks => it.length,
            Layout::Inline => it.length % BLOCK,
        };
        at = at.next_multiple_of(SLOT);
        // What is inline lies within one block.
        if (at + head) % BLOCK + inline > BLOCK {
            at = ((at + head).next_multiple_of(BLOCK) - head).next_multiple_of(SLOT);
        }
        it.nid = (at / SLOT) as u64;
        at += head + inline;
    }
    let mut block = at.div_ceil(BLOCK);
    for it in planned.iter_mut().filter(|it| has_blocks(it)) {
        it.block = block_number(block)?;
        block += if it.layout == Layout::Inline { it.length / BLOCK } else { it.length.div_ceil(BLOCK) };
    }
    block_number(block)
}

fn block_number(block: usize) -> io::Result<u32> {
    u32::try_from(block).ok().filter(|block| *block != HOLE).ok_or_else(|| io::ErrorKind::FileTooLarge.into())
}

fn has_blocks(it: &Planned<'_>) -> bool {
    match it.layout {
        Layout::Plain => it.length > 0,
        Layout::Inline => it.length >= BLOCK,
        Layout::Chunks => false,
    }
}

fn superblock(planned: &[Planned<'_>], blocks: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SUPERBLOCK_LENGTH);
    bytes.extend(MAGIC.to_le_bytes());
    bytes.extend([0; 8]); // no checksum, no compatible features
    bytes.extend([BLOCK_BITS, 0]);
    bytes.extend(((SUPERBLOCK + SUPERBLOCK_LENGTH) / SLOT).to_le_bytes()[..2].iter()); // the root
    bytes.extend((planned.len() as u64).to_le_bytes());
    bytes.extend([0; 12]); // time of making: none, so that equal trees are equal images
    bytes.extend(blocks.to_le_bytes());
    bytes.extend([0; 8]); // inodes are counted from block 0; no shared attributes
    bytes.extend([0; 32]); // UUID and volume name
    bytes.extend(CHUNKED_FILE.to_le_bytes());
    bytes.resize(SUPERBLOCK_LENGTH, 0);
    bytes
}

/// `struct erofs_inode_extended`.
fn head(it: &Planned<'_>, number: usize) -> Vec<u8> {
    let size = match &it.inode.content {
        Content::File { size, .. } => *size,
        _ => it.length as u64,
    };
    let union = match it.inode.content {
        Content::Node { major, minor } => minor & 0xff | major << 8 | (minor & !0xff) << 12,
        _ if it.layout == Layout::Chunks => CHUNK_BITS,
        _ => it.block,
    };
    let (seconds, nanoseconds) = it.inode.mtime;
    let mut bytes = Vec::with_capacity(INODE);
    bytes.extend(((it.layout as u16) << 1 | 1).to_le_bytes());
    bytes.extend(xattr_count(&it.xattrs).to_le_bytes());
    bytes.extend(u16_of(it.inode.mode as usize).to_le_bytes());
    bytes.extend([0; 2]);
    bytes.extend(size.to_le_bytes());
    bytes.extend(union.to_le_bytes());
    // stat(2)'s number; 0 is nobody's.
    bytes.extend(u32::try_from(number + 1).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend(it.inode.uid.to_le_bytes());
    bytes.extend(it.inode.gid.to_le_bytes());
    bytes.extend(seconds.to_le_bytes());
    bytes.extend(nanoseconds.to_le_bytes());
    bytes.extend(it.inode.links.to_le_bytes());
    bytes.resize(INODE, 0);
    bytes
}

/// `struct erofs_xattr_ibody_header` and the entries; nothing if there are none.
fn xattrs(inode: &Inode) -> Vec<u8> {
    let mut all: Vec<(&[u8], &[u8])> =
        inode.xattrs.iter().map(|(name, value)| (&name[..], &value[..])).collect();
    if let Content::File { redirect, .. } = &inode.content
        && !redirect.is_empty()
    {
        all.push((b"trusted.overlay.metacopy", b""));
        all.push((b"trusted.overlay.redirect", redirect));
    }
    if all.is_empty() {
        return Vec::new();
    }
    let mut bytes = vec![0; 12];
    for (name, value) in all {
        let Some((prefix, rest)) =
            PREFIXES.iter().find_map(|(n, prefix)| Some((*n, name.strip_prefix(*prefix)?)))
        else {
            continue;
        };
        bytes.extend(u16_of(rest.len() | usize::from(prefix) << 8).to_le_bytes());
        bytes.extend(u16_of(value.len()).to_le_bytes());
        bytes.extend(rest);
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// `EROFS_XATTR_INDEX_*`.
const PREFIXES: &[(u8, &[u8])] = &[
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
];

/// `i_xattr_icount`: words of four bytes, where the header counts as one.
fn xattr_count(xattrs: &[u8]) -> u16 {
    if xattrs.is_empty() { 0 } else { u16_of((xattrs.len() - 12) / 4 + 1) }
}

/// The bytes of a directory or symlink.
fn data(it: &Planned<'_>, number: usize, all: &[Planned<'_>], places: &HashMap<Index, usize>) -> Vec<u8> {
    match &it.inode.content {
        Content::Symlink(target) => target.clone(),
        Content::Directory(children) => {
            let entry = |place: usize| (all[place].nid, file_type(all[place].inode.mode));
            directory(children, entry(number), entry(it.parent), &|index| entry(places[&index]))
        }
        _ => Vec::new(),
    }
}

/// Names in the order of their bytes, `.` and `..` among them, cut into blocks of their own:
/// per block first the fixed entries, then the names.
fn directory(
    children: &BTreeMap<Vec<u8>, Index>,
    own: (u64, u8),
    parent: (u64, u8),
    entry: &dyn Fn(Index) -> (u64, u8),
) -> Vec<u8> {
    let mut bytes = Vec::new();
    for names in blocks(children) {
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        let mut offset = names.len() * DIRENT;
        for name in &names {
            let (nid, kind) = match *name {
                b"." => own,
                b".." => parent,
                name => entry(children[name]),
            };
            bytes.extend(nid.to_le_bytes());
            bytes.extend(u16_of(offset).to_le_bytes());
            bytes.extend([kind, 0]);
            offset += name.len();
        }
        names.iter().for_each(|name| bytes.extend(*name));
    }
    bytes
}

fn directory_length(children: &BTreeMap<Vec<u8>, Index>) -> usize {
    let blocks = blocks(children);
    let last = blocks.last().map_or(0, |names| names.iter().map(|name| DIRENT + name.len()).sum());
    blocks.len().saturating_sub(1) * BLOCK + last
}

/// The names of a directory, block by block.
fn blocks(children: &BTreeMap<Vec<u8>, Index>) -> Vec<Vec<&[u8]>> {
    let mut names: Vec<&[u8]> = children.keys().map(Vec::as_slice).chain([&b"."[..], b".."]).collect();
    names.sort_unstable();
    let mut blocks: Vec<Vec<&[u8]>> = Vec::new();
    let mut used = BLOCK;
    for name in names {
        let length = DIRENT + name.len();
        if used + length > BLOCK {
            blocks.push(Vec::new());
            used = 0;
        }
        used += length;
        if let Some(block) = blocks.last_mut() {
            block.push(name);
        }
    }
    blocks
}

/// `EROFS_FT_*`, which are the kernel's `FT_*`.
fn file_type(mode: u32) -> u8 {
    match mode & 0o170_000 {
        0o100_000 => 1,
        0o040_000 => 2,
        0o020_000 => 3,
        0o060_000 => 4,
        0o010_000 => 5,
        0o140_000 => 6,
        0o120_000 => 7,
        _ => 0,
    }
}

fn usize_of(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// What has no more than 16 bits: offsets within a block, modes, lengths that the tree has limited.
fn u16_of(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}
