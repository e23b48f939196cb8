//! Mounts, by file descriptor.
//!
//! Every function tries the mount API of Linux 5.2 (fsopen(2), open_tree(2), move_mount(2)) and 5.12
//! (mount_setattr(2)) first and has mount(2) beside it for kernels and sandboxes that refuse it. Targets are always
//! descriptors (`O_PATH` will do), so that no path is resolved twice.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::mount::MsFlags;

use crate::file::proc_fd_path;

/// Per-mount flags, as bits of `MOUNT_ATTR_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attr(u64);

impl Attr {
    /// Nothing set: read-write, set-user-ID programs, devices and execution allowed.
    pub const NONE: Self = Self(0);
    /// `MOUNT_ATTR_RDONLY`.
    pub const RDONLY: Self = Self(0x1);
    /// `MOUNT_ATTR_NOSUID`.
    pub const NOSUID: Self = Self(0x2);
    /// `MOUNT_ATTR_NODEV`.
    pub const NODEV: Self = Self(0x4);
    /// `MOUNT_ATTR_NOEXEC`.
    pub const NOEXEC: Self = Self(0x8);
    /// `MOUNT_ATTR_NOATIME`.
    pub const NOATIME: Self = Self(0x10);
    /// `MOUNT_ATTR_STRICTATIME`.
    pub const STRICTATIME: Self = Self(0x20);
    /// `MOUNT_ATTR__ATIME`: the field of the two above, whose zero is `relatime`. It must be cleared as a whole before a
    /// bit of it is set.
    pub const ATIME: Self = Self(0x70);
    /// `MOUNT_ATTR_NODIRATIME`.
    pub const NODIRATIME: Self = Self(0x80);
    /// `MOUNT_ATTR_NOSYMFOLLOW`, Linux ≥ 5.14.
    pub const NOSYMFOLLOW: Self = Self(0x20_0000);

    /// Both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// `self` without what is in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all of `other` is set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether nothing is set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn legacy(self) -> MsFlags {
        let pairs = [
            (Self::RDONLY, MsFlags::MS_RDONLY),
            (Self::NOSUID, MsFlags::MS_NOSUID),
            (Self::NODEV, MsFlags::MS_NODEV),
            (Self::NOEXEC, MsFlags::MS_NOEXEC),
            (Self::NOATIME, MsFlags::MS_NOATIME),
            (Self::STRICTATIME, MsFlags::MS_STRICTATIME),
            (Self::NODIRATIME, MsFlags::MS_NODIRATIME),
            (Self::NOSYMFOLLOW, MsFlags::from_bits_retain(MS_NOSYMFOLLOW)),
        ];
        pairs.iter().filter(|(attr, _)| self.0 & attr.0 != 0).map(|(_, flag)| *flag).collect()
    }
}

/// How mounts and unmounts travel between copies of a mount. mount_namespaces(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Neither way.
    Private,
    /// Into the copy.
    Slave,
    /// Both ways.
    Shared,
    /// Neither way, and it cannot be bound elsewhere.
    Unbindable,
}

impl Propagation {
    fn flag(self) -> MsFlags {
        match self {
            Self::Private => MsFlags::MS_PRIVATE,
            Self::Slave => MsFlags::MS_SLAVE,
            Self::Shared => MsFlags::MS_SHARED,
            Self::Unbindable => MsFlags::MS_UNBINDABLE,
        }
    }
}

/// One option of a new file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FsOption {
    /// A word alone: `newinstance`.
    Flag(CString),
    /// `key=value`.
    Value(CString, CString),
}

const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_SET_FD: libc::c_uint = 5;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const OPEN_TREE_CLONE: libc::c_uint = 1;
const OPEN_TREE_CLOEXEC: libc::c_uint = libc::O_CLOEXEC.cast_unsigned();
const AT_EMPTY_PATH: libc::c_uint = libc::AT_EMPTY_PATH.cast_unsigned();
const AT_RECURSIVE: libc::c_uint = 0x8000;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;
const EMPTY: &CStr = c"";
/// The C library does not have it yet. mount(2).
const MS_NOSYMFOLLOW: libc::c_ulong = 0x100;

/// A file system being configured. fsopen(2), Linux ≥ 5.2.
#[derive(Debug)]
pub struct FsContext(OwnedFd);

impl FsContext {
    /// Starts one of type `fstype`, which is also what mount tables will show for its source.
    pub fn open(fstype: &CStr) -> io::Result<Self> {
        // SAFETY: `fstype` is NUL-terminated and outlives the call.
        let fd = unsafe { libc::syscall(libc::SYS_fsopen, fstype.as_ptr(), FSOPEN_CLOEXEC) };
        let context = Self(owned(fd)?);
        context.config(FSCONFIG_SET_STRING, Some(c"source"), Some(fstype), 0)?;
        Ok(context)
    }

    /// Sets one option.
    pub fn set(&self, option: &FsOption) -> io::Result<()> {
        match option {
            FsOption::Flag(key) => self.config(FSCONFIG_SET_FLAG, Some(key), None, 0),
            FsOption::Value(key, value) => self.config(FSCONFIG_SET_STRING, Some(key), Some(value), 0),
        }
    }

    /// Sets an option to a descriptor; overlayfs takes its layers so from Linux 6.13 on.
    pub fn set_fd(&self, key: &CStr, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.config(FSCONFIG_SET_FD, Some(key), None, fd.as_raw_fd())
    }

    /// Creates the file system and returns it as a mount that is attached nowhere.
    pub fn mount(self, attr: Attr) -> io::Result<OwnedFd> {
        self.config(FSCONFIG_CMD_CREATE, None, None, 0)?;
        // SAFETY: takes integers only.
        let fd = unsafe { libc::syscall(libc::SYS_fsmount, self.0.as_raw_fd(), FSMOUNT_CLOEXEC, attr.0) };
        owned(fd)
    }

    fn config(
        &self,
        command: libc::c_uint,
        key: Option<&CStr>,
        value: Option<&CStr>,
        aux: i32,
    ) -> io::Result<()> {
        let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
        // SAFETY: both strings are NUL-terminated or null as the command asks, and outlive the call.
        let result = unsafe {
            libc::syscall(libc::SYS_fsconfig, self.0.as_raw_fd(), command, pointer(key), pointer(value), aux)
        };
        check(result)
    }
}

/// A new file system of type `fstype`, not attached anywhere. fsmount(2), Linux ≥ 5.2.
pub fn new_filesystem(fstype: &CStr, options: &[FsOption], attr: Attr) -> io::Result<OwnedFd> {
    let context = FsContext::open(fstype)?;
    for option in options {
        context.set(option)?;
    }
    context.mount(attr)
}

/// A private, unattached copy of the mount at `path` below `dir` (of `dir` itself when `path` is empty).
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

#[repr(C)]
#[derive(Default)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Sets `attr` on the mount that `mount` is in, on all mounts below it too if `recursive`.
///
/// mount_setattr(2), Linux ≥ 5.12. There is no fallback: [`restrict`] has one.
pub fn set_attr(mount: BorrowedFd<'_>, attr: Attr, recursive: bool) -> io::Result<()> {
    mount_setattr(mount, &MountAttr { attr_set: attr.0, ..MountAttr::default() }, recursive)
}

fn mount_setattr(mount: BorrowedFd<'_>, attr: &MountAttr, recursive: bool) -> io::Result<()> {
    let flags = AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: `attr` has the size passed with it and outlives the call; the path is a static empty string.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            EMPTY.as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    check(result)
}

/// Mounts a new file system at `target`.
///
/// Errors: those of the file system; `EPERM` and `ENOSYS` only after mount(2) has been refused too.
pub fn mount_new(fstype: &CStr, options: &[FsOption], attr: Attr, target: BorrowedFd<'_>) -> io::Result<()> {
    let modern = new_filesystem(fstype, options, attr)
        .and_then(|mount| attach(std::os::fd::AsFd::as_fd(&mount), target));
    match modern {
        Err(error) if is_refusal(&error) => {
            let data = joined(options);
            let path = proc_fd_path(target);
            nix::mount::mount(
                Some(fstype),
                path.as_c_str(),
                Some(fstype),
                attr.legacy(),
                Some(data.as_c_str()),
            )
            .map_err(io::Error::from)
        }
        other => other,
    }
}

/// Binds `source` (a descriptor in this mount namespace) at `target` by mount(2): the way of kernels before 5.2.
pub fn bind_legacy(source: BorrowedFd<'_>, target: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
    let depth = if recursive { MsFlags::MS_REC } else { MsFlags::empty() };
    let (from, to) = (proc_fd_path(source), proc_fd_path(target));
    nix::mount::mount(
        Some(from.as_c_str()),
        to.as_c_str(),
        None::<&CStr>,
        MsFlags::MS_BIND | depth,
        None::<&CStr>,
    )
    .map_err(io::Error::from)
}

/// Adds `attr` to the attached mount whose root is `mount`.
///
/// Without mount_setattr(2) only this mount is changed, by a bind remount that keeps its other flags; `recursive`
/// then fails with `ENOSYS` if a mount lies below, for a submount must not stay writable unnoticed.
pub fn restrict(mount: BorrowedFd<'_>, attr: Attr, recursive: bool) -> io::Result<()> {
    match set_attr(mount, attr, recursive) {
        Err(error) if is_refusal(&error) => {}
        other => return other,
    }
    let path = proc_fd_path(mount);
    if recursive && has_submounts(mount)? {
        return Err(io::Error::from_raw_os_error(libc::ENOSYS));
    }
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | attr.legacy() | kept_flags(mount)?;
    nix::mount::mount(None::<&CStr>, path.as_c_str(), None::<&CStr>, flags, None::<&CStr>)
        .map_err(io::Error::from)
}

/// Sets the propagation of the attached mount whose root is `mount`, submounts included. mount(2).
pub fn set_propagation(mount: BorrowedFd<'_>, propagation: Propagation) -> io::Result<()> {
    let path = proc_fd_path(mount);
    let flags = MsFlags::MS_REC | propagation.flag();
    nix::mount::mount(None::<&CStr>, path.as_c_str(), None::<&CStr>, flags, None::<&CStr>)
        .map_err(io::Error::from)
}

/// Mounts by mount(2) with a ready option string.
pub fn mount_legacy(fstype: &CStr, data: &CStr, attr: Attr, target: BorrowedFd<'_>) -> io::Result<()> {
    let path = proc_fd_path(target);
    nix::mount::mount(Some(fstype), path.as_c_str(), Some(fstype), attr.legacy(), Some(data))
        .map_err(io::Error::from)
}

/// Whether `error` says that a call is not to be had here: an older kernel (`ENOSYS`) or a sandbox (`EPERM`).
#[must_use]
pub fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM))
}

fn joined(options: &[FsOption]) -> CString {
    let mut data = Vec::new();
    for option in options {
        if !data.is_empty() {
            data.push(b',');
        }
        match option {
            FsOption::Flag(key) => data.extend_from_slice(key.to_bytes()),
            FsOption::Value(key, value) => {
                data.extend_from_slice(key.to_bytes());
                data.push(b'=');
                data.extend_from_slice(value.to_bytes());
            }
        }
    }
    // The parts were C strings, so no NUL can be inside.
    CString::new(data).unwrap_or_default()
}

/// The flags that a bind remount must repeat, or the kernel takes it for an attempt to lift them (`EPERM`).
fn kept_flags(mount: BorrowedFd<'_>) -> io::Result<MsFlags> {
    use nix::sys::statvfs::FsFlags;
    let now = nix::sys::statvfs::fstatvfs(mount)?.flags();
    let pairs = [
        (FsFlags::ST_RDONLY, MsFlags::MS_RDONLY),
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
    ];
    Ok(pairs.iter().filter(|(flag, _)| now.contains(*flag)).map(|(_, flag)| *flag).collect())
}

/// Whether a mount lies below the root of the mount `mount`, by mountinfo (proc_pid_mountinfo(5)).
fn has_submounts(mount: BorrowedFd<'_>) -> io::Result<bool> {
    let here = std::fs::read_link(proc_fd_path(mount).to_string_lossy().as_ref())?;
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .any(|point| std::path::Path::new(point).starts_with(&here) && std::path::Path::new(point) != here))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_map_to_legacy_flags() {
        let attr = Attr::RDONLY.with(Attr::NOEXEC).with(Attr::NODEV).without(Attr::NODEV);
        assert_eq!(attr.legacy(), MsFlags::MS_RDONLY | MsFlags::MS_NOEXEC);
    }

    #[test]
    fn options_join_as_mount_data() {
        let options =
            [FsOption::Flag(c"newinstance".into()), FsOption::Value(c"ptmxmode".into(), c"0666".into())];
        assert_eq!(joined(&options).as_c_str(), c"newinstance,ptmxmode=0666");
    }

    #[test]
    fn mount_attr_has_the_size_of_the_kernels() {
        assert_eq!(size_of::<MountAttr>(), 32);
    }
}
