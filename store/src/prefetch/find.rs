//! From what the kernel calls a file to what an image calls it.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File as Open;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use skiff_sys::cache;
use skiff_sys::file::{Resolve, open_beneath};

use super::profile::{File, Range, time_class};
use crate::Digest;

/// Directories in each other that are looked into.
const DEPTH_MAX: usize = 128;

/// A file, as the kernel tells it: device (12 bits of major, 20 of minor) and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The device of its file system.
    pub device: u32,
    /// The inode.
    pub inode: u64,
}

/// Consecutive pages that were used: the first, how many, and when, ns of CLOCK_MONOTONIC.
pub type Use = (u64, u64, u64);

/// What of the uses is an image's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The image's files, in the order of their first use.
    pub files: Vec<File>,
    /// Files that are none of its.
    pub outside: u64,
}

/// Finds the files that `uses` tells of in `layers`, directories of a store.
///
/// Directories alone are read, no inode of a file. A file with several names gets one of them.
pub fn find(layers: &[PathBuf], mut uses: HashMap<Origin, Vec<Use>>, exec_ns: u64) -> Found {
    let mut files = Vec::new();
    for layer in layers {
        let digest = layer.file_name().and_then(|name| name.to_str()).and_then(Digest::from_hex);
        let (Some(digest), Ok(root)) = (digest, Open::open(layer)) else { continue };
        let Ok(device) = root.metadata().map(|found| kernel_device(found.dev())) else { continue };
        let mut names = Vec::new();
        walk(layer, Path::new(""), device, &mut uses, &mut names, 0);
        files.extend(names.into_iter().filter_map(|(path, uses)| {
            let first_ns = uses.iter().map(|(_, _, at_ns)| *at_ns).min()?;
            let (size, ranges) = ranges(&root, &path, &uses, exec_ns).ok()?;
            Some((first_ns, File { layer: digest, path, size, sha256: None, ranges }))
        }));
    }
    files.sort_by(|(a_ns, a), (b_ns, b)| (a_ns, &a.path).cmp(&(b_ns, &b.path)));
    let files = files.into_iter().map(|(_, file)| file).filter(|file| !file.ranges.is_empty());
    Found { files: files.collect(), outside: uses.len() as u64 }
}

/// Takes those out of `uses` that are below `path` in the layer.
fn walk(
    layer: &Path,
    path: &Path,
    device: u32,
    uses: &mut HashMap<Origin, Vec<Use>>,
    names: &mut Vec<(String, Vec<Use>)>,
    depth: usize,
) {
    // What cannot be read has no names to be found.
    let Ok(entries) = std::fs::read_dir(layer.join(path)) else { return };
    for entry in entries.flatten() {
        if uses.is_empty() {
            return;
        }
        let Ok(kind) = entry.file_type() else { continue };
        let below = path.join(entry.file_name());
        if kind.is_dir() && depth < DEPTH_MAX {
            walk(layer, &below, device, uses, names, depth + 1);
        } else if kind.is_file()
            && let Some(name) = below.to_str()
            && let Some(found) = uses.remove(&Origin { device, inode: entry.ino() })
        {
            names.push((name.to_owned(), found));
        }
    }
}

/// The size of the file, and the ranges of it. Whether they are in the page cache by now says nothing: what was used may have gone.
fn ranges(root: &Open, path: &str, uses: &[Use], exec_ns: u64) -> io::Result<(u64, Vec<Range>)> {
    let name = CString::new(path)?;
    let file = open_beneath(root.as_fd(), &name, OFlag::O_RDONLY, 0, Resolve::NoXdev)?;
    let size = nix::sys::stat::fstat(&file)?.st_size.unsigned_abs();
    let end = size.div_ceil(cache::PAGE);
    let mut ranges: Vec<Range> = Vec::new();
    for &(first, pages, at_ns) in uses {
        let pages = pages.min(end.saturating_sub(first));
        let class = time_class(at_ns.saturating_sub(exec_ns));
        match ranges.last_mut() {
            _ if pages == 0 => {}
            Some(last) if last.0 == class && last.1 + last.2 == first => last.2 += pages,
            _ => ranges.push(Range(class, first, pages)),
        }
    }
    Ok((size, ranges))
}

/// As the kernel numbers the device that stat(2) calls `device`.
fn kernel_device(device: u64) -> u32 {
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    u32::try_from(major << 20 | minor & 0xf_ffff).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn inodes_get_their_names_back() {
        let root = std::env::temp_dir().join(format!("skiff-find-{}", std::process::id()));
        let layer = root.join(Digest::of(b"layer").hex());
        fs::create_dir_all(layer.join("usr/lib")).expect("mkdir");
        fs::write(layer.join("usr/lib/libx.so"), vec![1; 5 * 4096 + 1]).expect("write");
        std::os::unix::fs::symlink("/etc", layer.join("usr/etc")).expect("link");
        let found = fs::metadata(layer.join("usr/lib/libx.so")).expect("stat");
        let device = kernel_device(found.dev());
        let known = Origin { device, inode: found.ino() };
        let other = Origin { device: device + 1, inode: found.ino() };
        let uses = HashMap::from([
            (known, vec![(0, 2, 1_000), (2, 1, 20_001_000), (5, 99, 1_000)]),
            (other, vec![(0, 1, 0)]),
        ]);
        let found = find(&[layer], uses, 1_000);
        assert_eq!(found.outside, 1);
        let [file] = found.files.as_slice() else { panic!("{found:?}") };
        assert_eq!(
            (file.path.as_str(), file.size, file.layer),
            ("usr/lib/libx.so", 20_481, Digest::of(b"layer"))
        );
        assert_eq!(file.ranges, [Range(0, 0, 2), Range(5, 2, 1), Range(0, 5, 1)]);
        fs::remove_dir_all(root).expect("clean up");
    }
}
