//! Mounts, by file descriptor.
//!
//! Every function tries the mount API of Linux 5.2 (fsopen(2), open_tree(2), move_mount(2)) and 5.12
//! (mount_setattr(2)) first and has mount(2) beside it for kernels and sandboxes that refuse it. Targets are always
//! descriptors (`O_PATH` will do), so that no path is resolved twice.

mod attr;
mod filesystem;

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::mount::MsFlags;

pub use attr::{Attr, Change, Propagation, change, map_ids, restrict, set_attr};
pub use filesystem::{FsContext, FsOption, mount_legacy, mount_new, new_filesystem, reconfigure};

use crate::file::proc_fd_path;

const OPEN_TREE_CLONE: libc::c_uint = 1;
const OPEN_TREE_CLOEXEC: libc::c_uint = libc::O_CLOEXEC.cast_unsigned();
const AT_EMPTY_PATH: libc::c_uint = libc::AT_EMPTY_PATH.cast_unsigned();
const AT_RECURSIVE: libc::c_uint = 0x8000;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;
const EMPTY: &CStr = c"";

/// An unattached copy of the mount at `path` below `dir` (of `dir` itself when `path` is empty). What is shared with
/// other mounts stays shared with the copy.
///
/// open_tree(2), Linux ≥ 5.2. Needs CAP_SYS_ADMIN over the mount namespace, and the mount to be in it.
pub fn clone_tree(dir: BorrowedFd<'_>, path: &CStr, recursive: bool) -> io::Result<OwnedFd> {
    let depth = if recursive { AT_RECURSIVE } else { 0 };
    let flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | depth;
    // SAFETY: `path` is NUL-terminated and outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) };
    owned(fd)
}

/// Attaches the unattached mount `mount` at `target`.
///
/// move_mount(2), Linux ≥ 5.2.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: the two paths are static empty strings.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            EMPTY.as_ptr(),
            target.as_raw_fd(),
            EMPTY.as_ptr(),
            flags,
        )
    };
    check(result)
}

/// Binds `source` (a descriptor in this mount namespace) at `target` by mount(2): the way of kernels before 5.2.
pub fn bind_legacy(source: BorrowedFd<'_>, target: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
    let depth = if recursive { MsFlags::MS_REC } else { MsFlags::empty() };
    let (from, to) = (proc_fd_path(source), proc_fd_path(target));
    let flags = MsFlags::MS_BIND | depth;
    nix::mount::mount(Some(from.as_c_str()), to.as_c_str(), None::<&CStr>, flags, None::<&CStr>)
        .map_err(io::Error::from)
}

/// Whether `error` says that a call is not to be had here: an older kernel (`ENOSYS`) or a sandbox (`EPERM`).
#[must_use]
pub fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM))
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    match i32::try_from(result) {
        // SAFETY: the kernel has just returned this descriptor; nobody else owns it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
