//! What the parent opens and makes before the child is born, while every host path still means what it says.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::fcntl::OFlag;
use skiff_sys::{file, mount};

use super::overlay;
use crate::Error;
use crate::error::Context;
use crate::plan::{Plan, Root, Step, Upper, c_path};

/// Descriptors for the child. Where one is missing the kernel has no call for it, or the caller no right to it: the
/// child then goes by path, in its own mount namespace.
#[derive(Debug)]
pub(super) struct Prepared {
    /// The root file system, attached nowhere.
    pub(super) root: Option<OwnedFd>,
    /// The source of each step that binds part of the host, cloned with what is below it.
    pub(super) sources: Vec<Option<OwnedFd>>,
    /// The host's `/dev/null`, verified.
    pub(super) null: OwnedFd,
    /// A mount of it, to hide files with.
    pub(super) null_mount: Option<OwnedFd>,
    /// skiff's own executable, for `--init`.
    pub(super) executable: Option<OwnedFd>,
}

impl Prepared {
    /// `writable` is where the writable layer belongs.
    pub(super) fn new(plan: &Plan, writable: &Path) -> Result<Self, Error> {
        make_writable(&plan.root, writable)?;
        let null = open_null()?;
        let null_mount = mount::clone_tree(null.as_fd(), c"", false).ok();
        let executable = if plan.process.init { Some(executable()?) } else { None };
        Ok(Self {
            root: root(&plan.root, writable).ok(),
            sources: plan.steps.iter().map(source).collect::<Result<_, _>>()?,
            null,
            null_mount,
            executable,
        })
    }
}

/// The device that hides files, opened on the host and seen to be what it is: an image's `/dev/null` may be anything
/// (CVE-2025-31133).
fn open_null() -> Result<OwnedFd, Error> {
    let what = || "open /dev/null".to_owned();
    let null = file::open(c"/dev/null", OFlag::O_RDWR | OFlag::O_NOFOLLOW, 0).context(what)?;
    let found = nix::sys::stat::fstat(&null).context(what)?;
    let is_null = found.st_mode & nix::libc::S_IFMT == nix::libc::S_IFCHR
        && found.st_rdev == nix::sys::stat::makedev(1, 3);
    if is_null { Ok(null) } else { Err(Error::Option("/dev/null is not the null device".into())) }
}

/// skiff's executable, which must be out of the container's reach for the container's init is run from it.
fn executable() -> Result<OwnedFd, Error> {
    skiff_sys::self_exe::sealed()
        .context(|| "open /proc/self/exe".into())?
        .ok_or_else(|| Error::Option("skiff's own executable could be written to by a container".into()))
}

/// Makes the directories of a writable layer on disk.
fn make_writable(root: &Root, directory: &Path) -> Result<(), Error> {
    if root.upper != Upper::Disk {
        return Ok(());
    }
    let what = || format!("make {}", directory.display());
    super::note::make_private(directory)?;
    let opened = open_path(directory).context(what)?;
    overlay::make_writable(opened.as_fd()).context(what)
}

/// The root as a detached mount, layers given by descriptor (Linux ≥ 6.13).
///
/// Errors: `EOPNOTSUPP` for a root whose writable layer is the child's to make.
fn root(root: &Root, writable: &Path) -> io::Result<OwnedFd> {
    if root.layers.is_empty() || root.upper == Upper::Memory {
        return Err(io::Error::from_raw_os_error(nix::libc::EOPNOTSUPP));
    }
    let layers = open_layers(root)?;
    match (root.upper, &layers[..]) {
        (Upper::None, [only]) => return mount::clone_tree(only.as_fd(), c"", false),
        (Upper::Direct, [only]) => return mount::clone_tree(only.as_fd(), c"", true),
        _ => {}
    }
    let upper = if root.upper == Upper::Disk { Some(open_path(writable)?) } else { None };
    overlay::mount(&layers, upper.as_ref().map(AsFd::as_fd), &overlay::options(root.upper, false))
}

/// Opens the layers, top first.
pub(super) fn open_layers(root: &Root) -> io::Result<Vec<OwnedFd>> {
    root.layers.iter().map(|layer| open_path(layer)).collect()
}

/// The source of a step, as a detached copy made before any namespace changes.
fn source(step: &Step) -> Result<Option<OwnedFd>, Error> {
    let (source, recursive) = match step {
        Step::Bind { source, create, recursive, .. } => {
            if *create {
                std::fs::create_dir_all(source).context(|| format!("make {}", source.display()))?;
            }
            (source, *recursive)
        }
        _ => return Ok(None),
    };
    let what = || format!("bind source {}", source.display());
    let opened = open_path(source).context(what)?;
    match mount::clone_tree(opened.as_fd(), c"", recursive) {
        Err(error) if mount::is_refusal(&error) => Ok(None),
        other => other.map(Some).context(what),
    }
}

pub(super) fn open_path(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path).map_err(|_| io::Error::from_raw_os_error(nix::libc::EINVAL))?;
    file::open(&path, OFlag::O_PATH, 0)
}

/// Whether two descriptors have the same file open.
pub(super) fn is_same_file(path: &Path, fd: BorrowedFd<'_>) -> io::Result<bool> {
    let (a, b) = (std::fs::metadata(path)?, nix::sys::stat::fstat(fd)?);
    Ok((a.dev(), a.ino()) == (b.st_dev, b.st_ino))
}
