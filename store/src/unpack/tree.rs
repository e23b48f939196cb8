//! The directory that a layer becomes, built entry by entry in the form that overlayfs stacks.
//!
//! Nothing in a layer can reach outside the tree. The parent of an entry is opened by openat2 below the tree's
//! descriptor without following symlinks; where one stands in the way, [`Tree::walk`] follows it step by step as if
//! the tree were the whole file system, as engines that unpack under chroot do. The last component is created by
//! name in that descriptor and never followed. Whatever an earlier entry left there is taken away first, except a
//! directory that is to be a directory again.
//!
//! Directories stay 0700 and owned by the caller until [`Tree::finish`] gives all of them owner, mode and times,
//! children before parents.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, readlinkat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstatat, futimens, mkdirat, mknodat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, unlinkat};
use skiff_sys::file::{Resolve, open_beneath};
use skiff_sys::xattr;

use crate::faults;
use crate::recipe::{Lost, Place};

/// Most symlinks followed for one name, as in path_resolution(7).
const SYMLINKS_MAX: usize = 40;

/// Longest path that can be opened, with its end. Symlinks could lead the tree deeper than that.
const PATH_MAX: usize = 4096;

/// Most bytes of directory names remembered until the end of the layer, and of what has been replaced.
const NAMES_MAX: usize = 256 << 20;

/// Owner, mode and time of a file.
#[derive(Debug, Clone)]
pub(super) struct Meta {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: TimeSpec,
}

/// A directory that the layer has no entry for: root's, 0755, at the epoch.
const IMPLICIT: Meta = Meta { mode: 0o755, uid: 0, gid: 0, mtime: TimeSpec::new(0, 0) };

/// Whether the caller may give files away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Privilege {
    /// Owners as the layer says; overlayfs attributes in `trusted.*`.
    Root,
    /// Everything belongs to the caller; overlayfs attributes in `user.*`.
    User,
}

impl Privilege {
    pub(crate) fn of_caller() -> Self {
        if nix::unistd::geteuid().is_root() { Self::Root } else { Self::User }
    }

    fn opaque(self) -> &'static CStr {
        match self {
            Self::Root => c"trusted.overlay.opaque",
            Self::User => c"user.overlay.opaque",
        }
    }
}

/// A tree under construction.
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
    /// Where directories go that a later entry replaces, and files if their content is wanted.
    trash: OwnedFd,
    trashed: u64,
    pub(super) privilege: Privilege,
    /// The parent of the last entry: consecutive entries mostly share it.
    parent: Parent,
    /// What has been replaced so far; absent if nobody wants to know, or if it was too much.
    lost: Option<Vec<Lost>>,
    /// Files whose content somebody relies on; counted by whoever does.
    pub(super) files: u64,
    /// What [`Tree::finish`] is to set, by real path below the root.
    directories: BTreeMap<Vec<u8>, Meta>,
    names_bytes: usize,
}

/// An open directory.
#[derive(Debug)]
struct Parent {
    /// As the entry named it, cleaned.
    asked: Vec<u8>,
    /// Where it really is; differs from `asked` if a symlink was on the way.
    path: Vec<u8>,
    fd: OwnedFd,
}

/// What stands at a name.
enum Found {
    Nothing,
    Directory,
    Symlink,
    Whiteout,
    File,
    Other,
}

impl Tree {
    /// A tree in the empty directory `root`; `trash` is an empty directory on the same file system. With `keep`, files
    /// that are replaced stay there.
    pub(super) fn new(root: OwnedFd, trash: OwnedFd, privilege: Privilege, keep: bool) -> io::Result<Self> {
        let parent = Parent { asked: Vec::new(), path: Vec::new(), fd: root.try_clone()? };
        let directories = BTreeMap::from([(Vec::new(), IMPLICIT)]);
        let lost = keep.then(Vec::new);
        Ok(Self { root, trash, trashed: 0, privilege, parent, lost, files: 0, directories, names_bytes: 0 })
    }

    /// Opens `path` (cleaned) as the directory that the next entries go to, and makes what is missing of it.
    pub(super) fn enter(&mut self, path: &[u8]) -> io::Result<()> {
        if self.parent.asked == path {
            return Ok(());
        }
        self.parent = match self.open(path) {
            Ok(fd) => Parent { asked: path.to_vec(), path: path.to_vec(), fd },
            Err(e) if is(&e, &[Errno::ENOENT, Errno::ELOOP, Errno::ENOTDIR]) => self.walk(path)?,
            Err(e) => return Err(e),
        };
        Ok(())
    }

    /// The directory last entered.
    pub(super) fn parent(&self) -> BorrowedFd<'_> {
        self.parent.fd.as_fd()
    }

    /// Where `name` in the directory last entered really is, below the root.
    pub(super) fn path_of(&self, name: &CStr) -> Vec<u8> {
        join(&self.parent.path, name.to_bytes())
    }

    /// Creates something called `name` in the directory last entered, in place of whatever is there.
    pub(super) fn create<T>(
        &mut self,
        name: &CStr,
        make: impl Fn(BorrowedFd<'_>) -> nix::Result<T>,
    ) -> io::Result<T> {
        faults::point()?;
        match make(self.parent()) {
            Err(Errno::EEXIST) => self.take_away(name)?,
            done => return Ok(done?),
        }
        Ok(make(self.parent())?)
    }

    /// Makes sure that `name` in the directory last entered is a directory, and sets what it is to be in the end.
    pub(super) fn directory(&mut self, name: &CStr, meta: Meta) -> io::Result<()> {
        let path = self.path_of(name);
        faults::point()?;
        match mkdirat(self.parent(), name, Mode::S_IRWXU) {
            Err(Errno::EEXIST) => self.directory_again(name)?,
            made => made?,
        }
        self.remember(path, meta)
    }

    fn directory_again(&mut self, name: &CStr) -> io::Result<()> {
        match self.found(self.parent(), name)? {
            Found::Nothing | Found::Directory => Ok(()),
            Found::Whiteout => self.directory_over_whiteout(self.parent(), name),
            Found::Symlink | Found::File | Found::Other => {
                self.take_away(name)?;
                make_directory(self.parent(), name)
            }
        }
    }

    /// Sets what the root of the tree is to be in the end.
    pub(super) fn root_directory(&mut self, meta: Meta) -> io::Result<()> {
        self.remember(Vec::new(), meta)
    }

    /// Hides `name` of the layers below in the directory last entered; this layer's own `name` stays.
    pub(super) fn whiteout(&mut self, name: &CStr) -> io::Result<()> {
        match self.found(self.parent(), name)? {
            Found::Nothing => {
                faults::point()?;
                mknodat(self.parent(), name, SFlag::S_IFCHR, Mode::empty(), 0).map_err(Into::into)
            }
            Found::Directory => {
                let fd = open_one(self.parent(), name)?;
                self.make_opaque(fd.as_fd())
            }
            Found::Symlink | Found::Whiteout | Found::File | Found::Other => Ok(()),
        }
    }

    /// Hides everything that the layers below have in the directory last entered.
    pub(super) fn opaque_parent(&self) -> io::Result<()> {
        self.make_opaque(self.parent())
    }

    /// Opens the directory at `path` (cleaned), symlinks followed inside the tree; makes nothing.
    pub(super) fn existing(&self, path: &[u8]) -> io::Result<OwnedFd> {
        open_beneath(self.root.as_fd(), &name_or_dot(path)?, DIRECTORY, 0, Resolve::InRoot)
    }

    /// Gives every directory its owner, mode and times.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        for (path, meta) in std::mem::take(&mut self.directories).iter().rev() {
            let fd = self.open(path)?;
            faults::point()?;
            set_meta(fd.as_fd(), meta, self.privilege)?;
        }
        Ok(())
    }

    fn open(&self, path: &[u8]) -> io::Result<OwnedFd> {
        open_beneath(self.root.as_fd(), &name_or_dot(path)?, DIRECTORY, 0, Resolve::NoSymlinks)
    }

    /// Goes to `asked` component by component, making directories where there is nothing and following symlinks
    /// inside the tree: an absolute target starts at the tree's root, and nothing is above that root.
    fn walk(&mut self, asked: &[u8]) -> io::Result<Parent> {
        let mut to_go: Vec<Vec<u8>> = components(asked);
        let mut path = Vec::new();
        let mut fd = self.root.try_clone()?;
        let mut symlinks = 0;
        while let Some(component) = to_go.pop() {
            if component == b".." {
                path.truncate(path.iter().rposition(|&b| b == b'/').unwrap_or(0));
                fd = self.open(&path)?;
                continue;
            }
            let name = c_string(&component)?;
            match self.found(fd.as_fd(), &name)? {
                Found::Directory => {}
                Found::Nothing => {
                    make_directory(fd.as_fd(), &name)?;
                    self.remember(join(&path, &component), IMPLICIT)?;
                }
                Found::Whiteout => {
                    self.directory_over_whiteout(fd.as_fd(), &name)?;
                    self.remember(join(&path, &component), IMPLICIT)?;
                }
                Found::Symlink => {
                    symlinks += 1;
                    if symlinks > SYMLINKS_MAX {
                        return Err(Errno::ELOOP.into());
                    }
                    let target = readlinkat(&fd, name.as_c_str())?.into_encoded_bytes();
                    if target.starts_with(b"/") {
                        path.clear();
                        fd = self.root.try_clone()?;
                    }
                    to_go.extend(components(&target));
                    continue;
                }
                Found::File | Found::Other => return Err(Errno::ENOTDIR.into()),
            }
            fd = open_one(fd.as_fd(), &name)?;
            path = join(&path, &component);
        }
        Ok(Parent { asked: asked.to_vec(), path, fd })
    }

    fn found(&self, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<Found> {
        let stat = match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => return Ok(Found::Nothing),
            stat => stat?,
        };
        Ok(match file_type(&stat) {
            SFlag::S_IFDIR => Found::Directory,
            SFlag::S_IFLNK => Found::Symlink,
            SFlag::S_IFREG => Found::File,
            SFlag::S_IFCHR if stat.st_rdev == 0 => Found::Whiteout,
            _ => Found::Other,
        })
    }

    /// Removes `name` from the directory last entered, with all that is below it.
    fn take_away(&mut self, name: &CStr) -> io::Result<()> {
        let found = self.found(self.parent(), name)?;
        faults::point()?;
        if !matches!(found, Found::Directory | Found::File)
            || matches!(found, Found::File) && self.lost.is_none()
        {
            return Ok(unlinkat(self.parent(), name, UnlinkatFlags::NoRemoveDir)?);
        }
        let place = c_string(self.trashed.to_string().as_bytes())?;
        renameat(self.parent(), name, &self.trash, place.as_c_str())?;
        let path = self.path_of(name);
        self.lose(&path, Place::Trash(self.trashed));
        self.trashed += 1;
        let below = [&path[..], b"/"].concat()..[&path[..], b"0"].concat();
        let gone: Vec<_> = self.directories.range(below).map(|(path, _)| path.clone()).collect();
        for path in gone.iter().chain([&path]) {
            self.directories.remove(path);
        }
        Ok(())
    }

    /// Notes that what has been written at and below `path` will not be found there.
    fn lose(&mut self, path: &[u8], place: Place) {
        self.names_bytes += path.len() + size_of::<Lost>();
        match &mut self.lost {
            Some(lost) if self.names_bytes <= NAMES_MAX => {
                lost.push(Lost { path: path.to_vec(), files: self.files, place });
            }
            _ => self.lost = None,
        }
    }

    /// All that has been replaced, and what nobody will be able to open once [`Tree::finish`] has set modes; none if it
    /// is too much to remember.
    pub(super) fn lost(&mut self) -> Option<Vec<Lost>> {
        let closed = |meta: &Meta| self.privilege == Privilege::User && meta.mode & 0o100 == 0;
        let closed: Vec<_> =
            self.directories.iter().filter(|(_, meta)| closed(meta)).map(|(path, _)| path.clone()).collect();
        for path in closed {
            self.files = u64::MAX;
            self.lose(&path, Place::Tree);
        }
        self.lost.take()
    }

    /// Opens a file that has been written earlier, to read it.
    pub(super) fn find(&self, place: Place, path: &[u8]) -> io::Result<OwnedFd> {
        let name = match place {
            Place::Tree => {
                return open_beneath(self.root.as_fd(), &name_or_dot(path)?, READ, 0, Resolve::NoSymlinks);
            }
            Place::Trash(number) => join(number.to_string().as_bytes(), path),
        };
        let name = c_string(name.strip_suffix(b"/").unwrap_or(&name))?;
        open_beneath(self.trash.as_fd(), &name, READ, 0, Resolve::NoSymlinks)
    }

    /// A new file in the trash.
    pub(super) fn scratch(&self) -> io::Result<OwnedFd> {
        const FLAGS: OFlag = OFlag::O_RDWR.union(OFlag::O_CREAT).union(OFlag::O_EXCL);
        open_beneath(self.trash.as_fd(), c"recipe", FLAGS, 0o600, Resolve::NoSymlinks)
    }

    /// A whiteout and a directory of one name in one layer: a directory that hides what is below it.
    fn directory_over_whiteout(&self, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
        faults::point()?;
        unlinkat(dir, name, UnlinkatFlags::NoRemoveDir)?;
        make_directory(dir, name)?;
        let fd = open_one(dir, name)?;
        self.make_opaque(fd.as_fd())
    }

    fn make_opaque(&self, dir: BorrowedFd<'_>) -> io::Result<()> {
        faults::point()?;
        xattr::set(dir, self.privilege.opaque(), b"y")
    }

    fn remember(&mut self, path: Vec<u8>, meta: Meta) -> io::Result<()> {
        if path.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG.into());
        }
        self.names_bytes += path.len();
        if self.names_bytes > NAMES_MAX {
            return Err(io::Error::other("too many directories"));
        }
        self.directories.insert(path, meta);
        Ok(())
    }
}

/// Sets owner, mode and times of an open file or directory, in the order that keeps setuid bits.
///
/// The owner always: what a new file gets depends on setgid directories above the store and on mount options.
pub(super) fn set_meta(fd: BorrowedFd<'_>, meta: &Meta, privilege: Privilege) -> io::Result<()> {
    if privilege == Privilege::Root {
        fchown(fd, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))?;
    }
    fchmod(fd, Mode::from_bits_truncate(meta.mode))?;
    Ok(futimens(fd, &meta.mtime, &meta.mtime)?)
}

pub(super) fn c_string(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::Error::other("a name with a NUL in it"))
}

const READ: OFlag = OFlag::O_RDONLY.union(OFlag::O_NONBLOCK);
const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY);

fn open_one(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    open_beneath(dir, name, DIRECTORY, 0, Resolve::NoSymlinks)
}

fn make_directory(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    faults::point()?;
    Ok(mkdirat(dir, name, Mode::S_IRWXU)?)
}

fn file_type(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

fn name_or_dot(path: &[u8]) -> io::Result<CString> {
    c_string(if path.is_empty() { b"." } else { path })
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

/// The components of `path`, last first; `..` is kept.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let parts = path.rsplit(|&b| b == b'/');
    parts.filter(|part| !matches!(*part, b"" | b".")).map(<[u8]>::to_vec).collect()
}

fn is(error: &io::Error, errnos: &[Errno]) -> bool {
    error.raw_os_error().is_some_and(|raw| errnos.contains(&Errno::from_raw(raw)))
}
