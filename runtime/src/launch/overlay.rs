//! Stacks directories with overlayfs, by the interface of Linux 6.13 or the older one.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fchmod, mkdirat};
use skiff_sys::file::{self, Resolve};
use skiff_sys::mount::{self, Attr, FsContext, FsOption};

use crate::options::Merged;
use crate::plan::{Upper, c_path};

/// The options that a root with this writable layer takes.
///
/// `volatile` (Linux ≥ 5.10): where the layer goes with the container, syncing it would be for nothing, and unmounting would
/// sync the whole file system that it lies on. overlayfs refuses such a layer once more: its workings are made anew each time. `userxattr` (≥ 5.11): in a user namespace `trusted.*` is out of reach.
pub(super) fn options(upper: Upper, in_user_namespace: bool) -> Vec<&'static CStr> {
    let volatile = (upper == Upper::Disk).then_some(c"volatile");
    let user = in_user_namespace.then_some(c"userxattr");
    volatile.into_iter().chain(user).collect()
}

/// An overlay of `layers`, top first, attached nowhere, that writes to `upper` and `work` below `writable`.
///
/// Layers by descriptor: Linux ≥ 6.13.
pub(super) fn mount(
    layers: &[OwnedFd],
    writable: Option<BorrowedFd<'_>>,
    options: &[&CStr],
) -> io::Result<OwnedFd> {
    let context = FsContext::open(c"overlay", None)?;
    for layer in layers {
        context.set_fd(c"lowerdir+", layer.as_fd())?;
    }
    complete(context, writable, options)
}

/// The same of layers that have been merged into one tree.
///
/// Linux ≥ 6.16: EROFS images in files (6.12), detached mounts as layers (6.15), and contents elsewhere without `metacopy`
/// (6.16), which would let files in the container's own layer be without content too. Needs root; the errors of older kernels are many.
pub(super) fn mount_merged(
    merged: &Merged,
    writable: Option<BorrowedFd<'_>>,
    options: &[&CStr],
) -> io::Result<OwnedFd> {
    let image = c_path(&merged.tree).map_err(|_| io::Error::from_raw_os_error(nix::libc::EINVAL))?;
    let tree = mount::new_filesystem(c"erofs", Some(&image), &[], Attr::RDONLY)?;
    let context = FsContext::open(c"overlay", None)?;
    context.set_fd(c"lowerdir+", tree.as_fd())?;
    context.set_fd(c"datadir+", super::prepare::open_path(&merged.data)?.as_fd())?;
    complete(context, writable, options)
}

fn complete(context: FsContext, writable: Option<BorrowedFd<'_>>, options: &[&CStr]) -> io::Result<OwnedFd> {
    if let Some(writable) = writable {
        let (upper, work) = open_writable(writable)?;
        context.set_fd(c"upperdir", upper.as_fd())?;
        context.set_fd(c"workdir", work.as_fd())?;
    }
    for option in options {
        context.set(&FsOption::Flag((*option).into()))?;
    }
    context.mount(Attr::NONE)
}

/// The same, mounted on `target` by mount(2). Layers are named by their descriptors, which keeps the option string short
/// and free of characters that would have to be escaped.
pub(super) fn mount_legacy(
    layers: &[OwnedFd],
    writable: Option<BorrowedFd<'_>>,
    options: &[&CStr],
    target: BorrowedFd<'_>,
) -> io::Result<()> {
    let name = |fd: &OwnedFd| file::proc_fd_path(fd.as_fd()).into_bytes();
    let mut data = b"lowerdir=".to_vec();
    data.extend(layers.iter().map(name).collect::<Vec<_>>().join(&b':'));
    let writable = writable.map(open_writable).transpose()?;
    if let Some((upper, work)) = &writable {
        for (key, fd) in [("upperdir", upper), ("workdir", work)] {
            data.extend(format!(",{key}=").bytes());
            data.extend(name(fd));
        }
    }
    for option in options {
        data.push(b',');
        data.extend(option.to_bytes());
    }
    let data = CString::new(data).map_err(|_| io::Error::from_raw_os_error(nix::libc::EINVAL))?;
    skiff_sys::mount::mount_legacy(c"overlay", &data, Attr::NONE, target)
}

/// Makes `upper` and `work` below `directory`.
pub(super) fn make_writable(directory: BorrowedFd<'_>) -> io::Result<()> {
    // Everybody may enter the container's root, whatever the umask is.
    let mode = Mode::from_bits_truncate(0o755);
    mkdirat(directory, c"upper", mode)?;
    make_work(directory)?;
    let upper = file::open_beneath(directory, c"upper", OFlag::O_RDONLY, 0, Resolve::NoSymlinks)?;
    Ok(fchmod(upper, mode)?)
}

/// Makes `work` alone.
pub(super) fn make_work(directory: BorrowedFd<'_>) -> io::Result<()> {
    Ok(mkdirat(directory, c"work", Mode::from_bits_truncate(0o755))?)
}

fn open_writable(writable: BorrowedFd<'_>) -> io::Result<(OwnedFd, OwnedFd)> {
    let open = |name| file::open_beneath(writable, name, OFlag::O_PATH, 0, Resolve::NoSymlinks);
    Ok((open(c"upper")?, open(c"work")?))
}
