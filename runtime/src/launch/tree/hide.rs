//! Hides parts of the container's tree, or keeps them from being written to.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::fstat;
use skiff_sys::file::{self, Resolve};
use skiff_sys::mount::{self, Attr, FsOption};

use super::{Tree, attach, bind, c_string};
use crate::launch::prepare;

/// Something that is to be hidden.
#[derive(Debug)]
struct Found {
    place: OwnedFd,
    /// How it is looked for once more, where what it is can change between two looks.
    again: Option<Resolve>,
}

impl Tree<'_> {
    /// Hides what lies at `path`, if anything does: a directory behind an empty one, anything else behind the null
    /// device.
    pub(in crate::launch) fn mask(&self, path: &CStr) -> io::Result<()> {
        let Some(found) = self.find(path)? else { return Ok(()) };
        let mode = fstat(&found.place)?.st_mode;
        let hidden_by = if mode & nix::libc::S_IFMT == nix::libc::S_IFDIR {
            self.mask_directory(found.place.as_fd(), path)?
        } else {
            self.mask_file(found.place.as_fd(), path)?
        };
        self.confirm(path, &found, hidden_by)
    }

    fn mask_directory(&self, place: BorrowedFd<'_>, path: &CStr) -> io::Result<BorrowedFd<'_>> {
        if let Some(nothing) = self.nothing.get() {
            bind(nothing.as_fd(), place, false)?;
            return Ok(nothing.as_fd());
        }
        let attr = Attr::RDONLY.with(Attr::NOSUID).with(Attr::NODEV).with(Attr::NOEXEC);
        let options = [FsOption::Value(c"nr_inodes".into(), c"1".into())];
        let nothing = match mount::mount_new(c"tmpfs", None, &options, attr, place)? {
            Some(nothing) => nothing,
            None => self.look(path)?,
        };
        Ok(self.nothing.get_or_init(|| nothing).as_fd())
    }

    fn mask_file(&self, place: BorrowedFd<'_>, path: &CStr) -> io::Result<BorrowedFd<'_>> {
        if let Some(null) = self.null.get() {
            bind(null.as_fd(), place, false)?;
            return Ok(null.as_fd());
        }
        let null = match &self.prepared.null_mount {
            Ok(null) if attach(null.as_fd(), place)? => null.try_clone()?,
            _ => {
                self.bind_null(place)?;
                self.look(path)?
            }
        };
        Ok(self.null.get_or_init(|| null).as_fd())
    }

    /// Binds the host's `/dev/null`, found again in this mount namespace and seen to be the same file.
    fn bind_null(&self, place: BorrowedFd<'_>) -> io::Result<()> {
        let null = prepare::open_path(Path::new("/dev/null"))?;
        if !prepare::is_same_file(null.as_fd(), self.prepared.null.as_fd())? {
            return Err(Errno::ESTALE.into());
        }
        bind(null.as_fd(), place, false).map(drop)
    }

    /// Makes what lies at `path` read-only, with what is mounted below it.
    pub(in crate::launch) fn read_only(&self, path: &CStr) -> io::Result<()> {
        let Some(found) = self.find(path)? else { return Ok(()) };
        let modern = mount::clone_tree(found.place.as_fd(), c"", true).and_then(|copy| {
            mount::set_attr(copy.as_fd(), Attr::RDONLY, true)?;
            mount::attach(copy.as_fd(), found.place.as_fd())?;
            Ok(copy)
        });
        let copy = match modern {
            Err(error) if mount::is_refusal(&error) => {
                bind(found.place.as_fd(), found.place.as_fd(), true)?;
                let copy = self.look(path)?;
                mount::restrict(copy.as_fd(), Attr::RDONLY, true)?;
                copy
            }
            other => other?,
        };
        self.confirm(path, &found, copy.as_fd())
    }

    /// Opens what lies at `path`; `None` if nothing does.
    ///
    /// In the container's own procfs and sysfs no link is followed, and nobody but the kernel makes or moves anything
    /// there. If something has been mounted on it, that is what the path means.
    fn find(&self, path: &CStr) -> io::Result<Option<Found>> {
        if let Some((base, below)) = self.split(path)? {
            match file::open_beneath(base, &below, OFlag::O_PATH, 0, Resolve::NoXdev) {
                Ok(place) => return Ok(Some(Found { place, again: None })),
                Err(error) if error.raw_os_error() == Some(nix::libc::EXDEV) => {}
                Err(error) => return absent(error),
            }
        }
        let again = how(path);
        match file::open_beneath(self.root(), path, OFlag::O_PATH, 0, again) {
            Ok(place) => Ok(Some(Found { place, again: Some(again) })),
            Err(error) => absent(error),
        }
    }

    /// Makes sure that the way to what has been hidden was not changed meanwhile, by another container for instance that
    /// shares a directory on it.
    ///
    /// Errors: `ESTALE`.
    fn confirm(&self, path: &CStr, found: &Found, hidden_by: BorrowedFd<'_>) -> io::Result<()> {
        let Some(again) = found.again else { return Ok(()) };
        let now = file::open_beneath(self.root(), path, OFlag::O_PATH, 0, again)?;
        let is_hidden = prepare::is_same_file(now.as_fd(), hidden_by)?
            && file::mount_id(now.as_fd())? != file::mount_id(found.place.as_fd())?;
        if is_hidden { Ok(()) } else { Err(Errno::ESTALE.into()) }
    }

    /// Opens what has just been mounted at `path`.
    fn look(&self, path: &CStr) -> io::Result<OwnedFd> {
        let (base, below, resolve) = match self.split(path)? {
            Some((base, below)) => (base, below, Resolve::NoSymlinks),
            None => (self.root(), path.to_owned(), how(path)),
        };
        file::open_beneath(base, &below, OFlag::O_PATH, 0, resolve)
    }

    /// The procfs or sysfs that `path` lies in, if the container has its own there, and the rest of the path.
    fn split(&self, path: &CStr) -> io::Result<Option<(BorrowedFd<'_>, CString)>> {
        let bytes = path.to_bytes();
        let Some(slash) = bytes.iter().position(|byte| *byte == b'/') else { return Ok(None) };
        let base = match &bytes[..slash] {
            b"proc" => &self.proc,
            b"sys" => &self.sys,
            _ => return Ok(None),
        };
        let Some(base) = base else { return Ok(None) };
        Ok(Some((base.as_fd(), c_string(&bytes[slash + 1..])?)))
    }
}

/// Where the kernel's own files belong, a symlink is not followed, whoever has put it there.
fn how(path: &CStr) -> Resolve {
    let first = path.to_bytes().split(|byte| *byte == b'/').next();
    match first {
        Some(b"proc" | b"sys" | b"dev") => Resolve::NoSymlinks,
        _ => Resolve::InRoot,
    }
}

fn absent<T>(error: io::Error) -> io::Result<Option<T>> {
    match error.raw_os_error() {
        Some(nix::libc::ENOENT | nix::libc::ENOTDIR) => Ok(None),
        _ => Err(error),
    }
}
