//! Flags of mounts, how mounts travel, and whose files they show.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::mount::MsFlags;

use super::{AT_EMPTY_PATH, AT_RECURSIVE, EMPTY, check, is_refusal};
use crate::file::proc_fd_path;

/// Per-mount flags, as bits of `MOUNT_ATTR_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attr(pub(super) u64);

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

    pub(super) fn legacy(self) -> MsFlags {
        LEGACY.iter().filter(|(attr, _)| self.0 & attr.0 != 0).map(|(_, flag)| *flag).collect()
    }
}

/// The C library does not have these two yet. mount(2), statfs(2).
const MS_NOSYMFOLLOW: MsFlags = MsFlags::from_bits_retain(0x100);
const ST_NOSYMFOLLOW: libc::c_ulong = 0x2000;

const LEGACY: [(Attr, MsFlags); 8] = [
    (Attr::RDONLY, MsFlags::MS_RDONLY),
    (Attr::NOSUID, MsFlags::MS_NOSUID),
    (Attr::NODEV, MsFlags::MS_NODEV),
    (Attr::NOEXEC, MsFlags::MS_NOEXEC),
    (Attr::NOATIME, MsFlags::MS_NOATIME),
    (Attr::STRICTATIME, MsFlags::MS_STRICTATIME),
    (Attr::NODIRATIME, MsFlags::MS_NODIRATIME),
    (Attr::NOSYMFOLLOW, MS_NOSYMFOLLOW),
];

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

/// What changes of a mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change {
    /// Flags that it gets, after
    pub set: Attr,
    /// those that it loses. To change how access times are kept, all of [`Attr::ATIME`] is among them.
    pub clear: Attr,
    /// How mounts travel.
    pub propagation: Option<Propagation>,
}

impl Change {
    fn is_of_flags(&self) -> bool {
        !(self.set.is_empty() && self.clear.is_empty())
    }
}

impl From<Propagation> for Change {
    fn from(to: Propagation) -> Self {
        Self { propagation: Some(to), ..Self::default() }
    }
}

#[repr(C)]
#[derive(Default)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;

/// Changes the mount that `mount` is in, and all mounts below it if `recursive`.
///
/// mount_setattr(2), Linux ≥ 5.12. Without it, mount(2): there a recursive change of flags fails with `ENOSYS` if a mount
/// lies below, for a submount must not stay as it was unnoticed.
///
/// Errors: `EPERM` for flags that a mount has from a more privileged mount namespace and may not lose.
pub fn change(mount: BorrowedFd<'_>, change: &Change, recursive: bool) -> io::Result<()> {
    let attr = MountAttr {
        attr_set: change.set.0,
        attr_clr: change.clear.0,
        propagation: change.propagation.map_or(0, |to| to.flag().bits()),
        userns_fd: 0,
    };
    match mount_setattr(mount, &attr, recursive) {
        Err(error) if is_refusal(&error) => change_legacy(mount, change, recursive),
        other => other,
    }
}

/// Sets `attr` on the mount that `mount` is in, on all mounts below it too if `recursive`.
///
/// mount_setattr(2), Linux ≥ 5.12. There is no fallback: [`restrict`] has one.
pub fn set_attr(mount: BorrowedFd<'_>, attr: Attr, recursive: bool) -> io::Result<()> {
    mount_setattr(mount, &MountAttr { attr_set: attr.0, ..MountAttr::default() }, recursive)
}

/// Adds `attr` to the attached mount whose root is `mount`, by the ways of [`change`].
pub fn restrict(mount: BorrowedFd<'_>, attr: Attr, recursive: bool) -> io::Result<()> {
    change(mount, &Change { set: attr, ..Change::default() }, recursive)
}

/// Shows the files of the unattached mount `mount` as those of other users: what user `id` of `namespace` stands for is
/// who owns a file of user `id`.
///
/// mount_setattr(2), `MOUNT_ATTR_IDMAP`, Linux ≥ 5.12. Needs CAP_SYS_ADMIN where the file system has been mounted. There
/// is no older way.
///
/// Errors: `EINVAL` where the file system, or the kernel, does not do this; `EPERM` where it is done already.
pub fn map_ids(mount: BorrowedFd<'_>, namespace: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
    let userns_fd = u64::try_from(namespace.as_raw_fd()).unwrap_or(u64::MAX);
    let attr = MountAttr { attr_set: MOUNT_ATTR_IDMAP, userns_fd, ..MountAttr::default() };
    mount_setattr(mount, &attr, recursive)
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

/// The same by mount(2), a bind remount that keeps the flags not spoken of.
fn change_legacy(mount: BorrowedFd<'_>, change: &Change, recursive: bool) -> io::Result<()> {
    let path = proc_fd_path(mount);
    let remount = |flags: MsFlags| {
        nix::mount::mount(None::<&CStr>, path.as_c_str(), None::<&CStr>, flags, None::<&CStr>)
    };
    if change.is_of_flags() {
        if recursive && has_submounts(mount)? {
            return Err(io::Error::from_raw_os_error(libc::ENOSYS));
        }
        let mut flags = (kept_flags(mount)? - change.clear.legacy()) | change.set.legacy();
        if change.clear.has(Attr::ATIME)
            && !change.set.has(Attr::NOATIME)
            && !change.set.has(Attr::STRICTATIME)
        {
            flags |= MsFlags::MS_RELATIME;
        }
        remount(MsFlags::MS_BIND | MsFlags::MS_REMOUNT | flags)?;
    }
    if let Some(to) = change.propagation {
        let depth = if recursive { MsFlags::MS_REC } else { MsFlags::empty() };
        remount(to.flag() | depth)?;
    }
    Ok(())
}

/// The flags that a remount must repeat, or they are lost, or the kernel takes it for an attempt to lift them (`EPERM`).
pub(super) fn kept_flags(mount: BorrowedFd<'_>) -> io::Result<MsFlags> {
    let now = nix::sys::statvfs::fstatvfs(mount)?.flags().bits();
    let pairs = [
        (libc::ST_RDONLY, MsFlags::MS_RDONLY),
        (libc::ST_NOSUID, MsFlags::MS_NOSUID),
        (libc::ST_NODEV, MsFlags::MS_NODEV),
        (libc::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (libc::ST_NOATIME, MsFlags::MS_NOATIME),
        (libc::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (ST_NOSYMFOLLOW, MS_NOSYMFOLLOW),
        // Of the whole file system; nothing to a bind remount.
        (libc::ST_SYNCHRONOUS, MsFlags::MS_SYNCHRONOUS),
    ];
    Ok(pairs.iter().filter(|(flag, _)| now & flag != 0).map(|(_, flag)| *flag).collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_map_to_legacy_flags() {
        let attr = Attr::RDONLY.with(Attr::NOEXEC).with(Attr::NODEV).without(Attr::NODEV);
        assert_eq!(attr.legacy(), MsFlags::MS_RDONLY | MsFlags::MS_NOEXEC);
        assert_eq!(Attr::STRICTATIME.legacy(), MsFlags::MS_STRICTATIME);
        assert_eq!(Attr::ATIME.without(Attr::STRICTATIME).legacy(), MsFlags::MS_NOATIME);
        assert_eq!(Attr::NOSYMFOLLOW.legacy().bits(), 0x100);
    }

    #[test]
    fn mount_attr_has_the_size_of_the_kernels() {
        assert_eq!(size_of::<MountAttr>(), 32);
    }
}
