use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use skiff_sys::xattr;

use super::merge;
use crate::digest::Digest;

/// Layers in a temporary directory, and what is mounted there.
struct Bench {
    root: PathBuf,
    mounts: Vec<PathBuf>,
}

impl Bench {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("skiff-erofs-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let root = std::env::temp_dir().join(name);
        fs::create_dir(&root).unwrap();
        Self { root, mounts: Vec::new() }
    }

    /// Layers `0` to `count`, made by `build`, bottom first.
    fn layers(&self, count: usize, build: &dyn Fn(usize, &Path)) -> Vec<(Digest, PathBuf)> {
        let layer = |number: usize| {
            let digest = Digest::of(&[u8::try_from(number).unwrap()]);
            let path = self.root.join("layers").join(digest.hex());
            fs::create_dir_all(&path).unwrap();
            build(number, &path);
            (digest, path)
        };
        (0..count).map(layer).collect()
    }

    fn mount(&mut self, kind: &str, source: &Path, options: &str) -> PathBuf {
        let target = self.root.join(format!("mnt{}", self.mounts.len()));
        fs::create_dir(&target).unwrap();
        let options = (!options.is_empty()).then_some(options);
        mount(Some(source), &target, Some(kind), MsFlags::MS_RDONLY, options)
            .unwrap_or_else(|error| panic!("mount {kind} {options:?}: {error}"));
        self.mounts.push(target.clone());
        target
    }

    /// The layers as directories, and as one image; what is seen in each.
    fn both(&mut self, layers: &[(Digest, PathBuf)]) -> (String, String) {
        let image = self.root.join("image");
        let bytes = merge(layers).unwrap();
        assert_eq!(bytes.len() % 4096, 0);
        fs::write(&image, bytes).unwrap();
        let all: Vec<_> = layers.iter().rev().map(|(_, path)| path.display().to_string()).collect();
        // A lower layer alone cannot be mounted.
        let empty = self.root.join("empty");
        fs::create_dir(&empty).unwrap();
        let none = Path::new("none");
        let stacked = self.mount("overlay", none, &format!("lowerdir={}:{}", all.join(":"), empty.display()));
        let tree = self.mount("erofs", &image, "");
        let data = self.root.join("layers");
        let merged = self.mount("overlay", none, &format!("lowerdir={}::{}", tree.display(), data.display()));
        (told(&stacked), told(&merged))
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for mounted in self.mounts.iter().rev() {
            umount2(mounted, MntFlags::MNT_DETACH).ok();
        }
        drop(fs::remove_dir_all(&self.root));
    }
}

/// Whether this host can show a merged image; says so if not.
fn can_mount() -> bool {
    let has_erofs = fs::read_to_string("/proc/filesystems").unwrap().contains("\terofs\n");
    let fine = nix::unistd::geteuid().is_root() && has_erofs && kernel() >= (6, 16);
    if !fine {
        println!("skip: needs root, EROFS and Linux 6.16");
    }
    fine
}

fn kernel() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|text| text.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Everything about a tree, a line for each name.
fn told(root: &Path) -> String {
    let mut lines = BTreeMap::new();
    let mut links: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let kind = meta.file_type();
        let mut line = format!(
            "{:o} {}:{} {}.{} {}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.rdev()
        );
        if kind.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            let first = links.entry(meta.ino()).or_insert_with(|| path.clone());
            line += &format!(" {} same as {:?}", meta.nlink(), first.strip_prefix(root).unwrap());
        }
        if kind.is_symlink() {
            line += &format!(" {}", Digest::of(fs::read_link(&path).unwrap().as_os_str().as_bytes()));
        }
        if kind.is_file() {
            let data = fs::read(&path).unwrap();
            line += &format!(" {} {}", data.len(), Digest::of(&data));
        }
        if kind.is_file() || kind.is_dir() {
            let file = File::open(&path).unwrap();
            let mut names = xattr::names(file.as_fd()).unwrap();
            names.sort();
            for name in names {
                let value = xattr::get(file.as_fd(), &name).unwrap().unwrap();
                line += &format!(" {name:?}={}:{}", value.len(), Digest::of(&value));
            }
        }
        lines.insert(path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_owned(), line);
    }
    lines.iter().map(|(name, line)| format!("{}\t{line}\n", String::from_utf8_lossy(name))).collect()
}

fn same(count: usize, build: &dyn Fn(usize, &Path)) -> String {
    let mut bench = Bench::new();
    let layers = bench.layers(count, build);
    let (stacked, merged) = bench.both(&layers);
    for (stacked, merged) in stacked.lines().zip(merged.lines()) {
        assert_eq!(stacked, merged);
    }
    assert_eq!(stacked, merged);
    merged
}

fn file(path: &Path, text: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn node(path: &Path, kind: SFlag, major: u64, minor: u64) {
    mknod(path, kind, Mode::from_bits_truncate(0o640), makedev(major, minor)).unwrap();
}

#[test]
fn every_kind_of_file_is_the_same() {
    if !can_mount() {
        return;
    }
    let told = same(1, &|_, root| {
        file(&root.join("usr/bin/tool"), &[7; 10_000]);
        file(&root.join("empty"), b"");
        fs::hard_link(root.join("usr/bin/tool"), root.join("usr/bin/alias")).unwrap();
        fs::set_permissions(root.join("usr/bin/tool"), fs::Permissions::from_mode(0o4755)).unwrap();
        std::os::unix::fs::chown(root.join("empty"), Some(70_000), Some(4_000_000_000)).unwrap();
        symlink("../x", root.join("usr/link")).unwrap();
        symlink("y".repeat(4000), root.join("usr/long")).unwrap();
        node(&root.join("fifo"), SFlag::S_IFIFO, 0, 0);
        node(&root.join("socket"), SFlag::S_IFSOCK, 0, 0);
        node(&root.join("char"), SFlag::S_IFCHR, 5, 1);
        node(&root.join("block"), SFlag::S_IFBLK, 259, 70_000);
        let tool = File::open(root.join("usr/bin/tool")).unwrap();
        xattr::set(tool.as_fd(), c"user.note", b"a\0b").unwrap();
        xattr::set(tool.as_fd(), c"security.capability", &CAPABILITY).unwrap();
        let usr = File::open(root.join("usr")).unwrap();
        xattr::set(usr.as_fd(), c"user.dir", &[b'v'; 3000]).unwrap();
        let old = nix::sys::time::TimeSpec::new(-5, 123_456_789);
        nix::sys::stat::futimens(&tool, &old, &old).unwrap();
    });
    for there in ["usr/long", "user.note", "security.capability", "alias", "block\t60640"] {
        assert!(told.contains(there), "{there}: {told}");
    }
}

/// `cap_net_raw=ep`, revision 2.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn layers_hide_and_replace_what_is_below() {
    if !can_mount() {
        return;
    }
    let told = same(4, &|number, root| match number {
        0 => {
            for name in ["a/kept", "a/hidden", "b/hidden", "c/under", "d/file", "e/x/y/z", "f"] {
                file(&root.join(name), name.as_bytes());
            }
        }
        1 => {
            fs::create_dir_all(root.join("a")).unwrap();
            node(&root.join("a/hidden"), SFlag::S_IFCHR, 0, 0);
            fs::create_dir(root.join("b")).unwrap();
            let dir = File::open(root.join("b")).unwrap();
            xattr::set(dir.as_fd(), c"trusted.overlay.opaque", b"y").unwrap();
            file(&root.join("b/new"), b"new");
            file(&root.join("c"), b"a file instead of a directory");
            fs::create_dir_all(root.join("f")).unwrap();
            file(&root.join("f/inner"), b"a directory instead of a file");
        }
        2 => {
            node(&root.join("d"), SFlag::S_IFCHR, 0, 0);
            file(&root.join("e/x/y/w"), b"deeper");
            fs::set_permissions(root.join("e/x"), fs::Permissions::from_mode(0o1777)).unwrap();
        }
        _ => {
            file(&root.join("d/again"), b"again");
            file(&root.join("a/hidden"), b"back");
        }
    });
    for line in ["a/hidden", "a/kept", "b/new", "d/again", "e/x/y/w", "e/x/y/z", "f/inner"] {
        assert!(told.lines().any(|it| it.split('\t').next() == Some(line)), "{line}: {told}");
    }
    assert!(!told.contains("b/hidden") && !told.contains("c/under") && !told.contains("d/file"), "{told}");
}

#[test]
fn directories_of_many_names_are_the_same() {
    if !can_mount() {
        return;
    }
    for count in [1, 60, 100, 120, 1000] {
        same(2, &|number, root| {
            for at in 0..count {
                let name = format!("{}{}", "n".repeat(at % 200 + 1), at * 2 + number);
                file(&root.join("many").join(name), &[1]);
            }
            for name in ["!", "-", "..a", ".b", "/."] {
                file(&root.join("many").join(name.trim_start_matches('/')).join("x"), b"");
            }
        });
    }
}

#[test]
fn equal_layers_are_equal_images() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let bench = Bench::new();
    let layers = bench.layers(2, &|_, root| file(&root.join("usr/bin/tool"), &[7; 10_000]));
    assert_eq!(merge(&layers).unwrap(), merge(&layers).unwrap());
}

#[test]
fn what_cannot_be_pointed_to_is_an_error() {
    let bench = Bench::new();
    let deep: PathBuf = std::iter::repeat_n("d".repeat(200), 19).chain(["e".repeat(230)]).collect();
    let layers = bench.layers(1, &|_, root| {
        // Step by step: the whole path is too long for one call.
        let mut at = File::open(root).unwrap();
        for name in &deep {
            let mode = Mode::from_bits_truncate(0o755);
            nix::sys::stat::mkdirat(&at, name, mode).unwrap();
            at = nix::fcntl::openat(&at, name, nix::fcntl::OFlag::O_RDONLY, Mode::empty()).unwrap().into();
        }
        let flags = nix::fcntl::OFlag::O_CREAT | nix::fcntl::OFlag::O_WRONLY;
        let fd = nix::fcntl::openat(&at, "f", flags, Mode::from_bits_truncate(0o644)).unwrap();
        nix::unistd::write(&fd, b"x").unwrap();
    });
    let error = merge(&layers).unwrap_err();
    assert!(error.to_string().contains("cannot be pointed to"), "{error}");
}
