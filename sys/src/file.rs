//! Files and directories below a directory descriptor.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::fcntl::OFlag;

/// How [`open_beneath`] treats what lies between the directory and the file.
///
/// openat2(2), Linux ≥ 5.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolve {
    /// Symlinks are followed as if the directory were the root of the file system (`RESOLVE_IN_ROOT`);
    /// magic links never are.
    InRoot,
    /// No symlink at all may occur, and nothing leaves the directory (`RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`).
    NoSymlinks,
    /// As [`Resolve::NoSymlinks`], and no mount point may be crossed (`RESOLVE_NO_XDEV`).
    NoXdev,
}

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

const NO_XDEV: u64 = 0x01;
const NO_MAGICLINKS: u64 = 0x02;
const NO_SYMLINKS: u64 = 0x04;
const BENEATH: u64 = 0x08;
const IN_ROOT: u64 = 0x10;

/// How often a look-up is tried: whoever renames without end must not hold the caller up without end.
const TRIES_MAX: u32 = 128;

/// Opens `path` below `dir`; always close-on-exec. `mode` counts only when `flags` create a file.
///
/// Errors: `ELOOP` for a symlink that [`Resolve`] forbids, `EXDEV` for an escape; `EAGAIN` (a rename raced the
/// look-up) after it has been tried again often enough.
pub fn open_beneath(
    dir: BorrowedFd<'_>,
    path: &CStr,
    flags: OFlag,
    mode: u32,
    resolve: Resolve,
) -> io::Result<OwnedFd> {
    let resolve = match resolve {
        Resolve::InRoot => IN_ROOT | NO_MAGICLINKS,
        Resolve::NoSymlinks => BENEATH | NO_SYMLINKS | NO_MAGICLINKS,
        Resolve::NoXdev => BENEATH | NO_SYMLINKS | NO_MAGICLINKS | NO_XDEV,
    };
    let bits = (flags | OFlag::O_CLOEXEC).bits();
    let how = OpenHow { flags: u64::from(bits.cast_unsigned()), mode: u64::from(mode), resolve };
    let mut tries = 0;
    loop {
        tries += 1;
        // SAFETY: `path` is NUL-terminated and `how` has the size that is passed with it; both outlive the call.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                dir.as_raw_fd(),
                path.as_ptr(),
                &raw const how,
                size_of::<OpenHow>(),
            )
        };
        match i32::try_from(fd) {
            // SAFETY: the kernel has just returned this descriptor; nobody else owns it.
            Ok(fd) if fd >= 0 => return Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
            _ => {
                let error = io::Error::last_os_error();
                if error.raw_os_error() != Some(libc::EAGAIN) || tries == TRIES_MAX {
                    return Err(error);
                }
            }
        }
    }
}

/// Opens `path` on the host, as the caller would; always close-on-exec. openat(2): after open(2) musl says a second time that it is.
pub fn open(path: &CStr, flags: OFlag, mode: u32) -> io::Result<OwnedFd> {
    let mode = nix::sys::stat::Mode::from_bits_truncate(mode);
    Ok(nix::fcntl::openat(nix::fcntl::AT_FDCWD, path, flags | OFlag::O_CLOEXEC, mode)?)
}

/// The id of the mount that `fd` lies in. statx(2), Linux ≥ 5.8; `None` where the kernel does not say.
pub fn mount_id(fd: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    const STATX_MNT_ID: u32 = 0x1000;
    // SAFETY: all zeroes is a value of this type, which consists of integers.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a static empty string; the kernel writes to `found`, which nobody else uses meanwhile.
    let status = unsafe {
        libc::statx(fd.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, STATX_MNT_ID, &raw mut found)
    };
    if status < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((found.stx_mask & STATX_MNT_ID != 0).then_some(found.stx_mnt_id))
}

/// The path by which calls that take only paths reach what `fd` has open. proc_pid_fd(5).
///
/// Works wherever `/proc` is the host's, that is until the container's root has become `/`.
#[must_use]
pub fn proc_fd_path(fd: BorrowedFd<'_>) -> CString {
    let text = format!("/proc/self/fd/{}", fd.as_raw_fd());
    // Decimal digits and slashes hold no NUL.
    CString::new(text).unwrap_or_default()
}

/// How many bytes the pipe, socket or terminal `fd` holds for a reader. ioctl(2) `FIONREAD`.
pub fn waiting_bytes(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut count) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(u32::try_from(count).unwrap_or(0)) }
}

/// Tells the file system that what lies in `directory` is unrelated, so that ext4 does not put the inodes and blocks of all of it into
/// one place. ioctl(2) `FS_IOC_SETFLAGS`, as chattr(1) `+T`.
///
/// Without a journal ext4 does not take the inodes of the last minutes again: looks at one after the other, each time.
///
/// Errors: `ENOTTY` or `EOPNOTSUPP` by a file system that has no such hint.
pub fn spread_below(directory: BorrowedFd<'_>) -> io::Result<()> {
    /// `include/uapi/linux/fs.h`.
    const FS_TOPDIR_FL: libc::c_int = 0x0002_0000;
    let mut flags: libc::c_int = 0;
    // SAFETY: in spite of the call's number, which says long, the kernel writes one int.
    let asked = unsafe { libc::ioctl(directory.as_raw_fd(), libc::FS_IOC_GETFLAGS, &raw mut flags) };
    if asked < 0 {
        return Err(io::Error::last_os_error());
    }
    if flags & FS_TOPDIR_FL != 0 {
        return Ok(());
    }
    flags |= FS_TOPDIR_FL;
    // SAFETY: the kernel reads one int.
    let set = unsafe { libc::ioctl(directory.as_raw_fd(), libc::FS_IOC_SETFLAGS, &raw const flags) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Takes possession of a descriptor that a message (SCM_RIGHTS, unix(7)) has brought and that nobody else knows of.
#[must_use]
pub fn received(descriptor: std::os::fd::RawFd) -> OwnedFd {
    // SAFETY: the kernel has made this descriptor for the message that it came with; the caller, which has just
    // received it, hands it over here and nowhere else.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// Opens the node with the number `id` of the kernfs (cgroup2, for one) that `within` is on, wherever it lies.
///
/// open_by_handle_at(2), Linux ≥ 5.5 for handles of this kind, CAP_DAC_READ_SEARCH in the initial user namespace.
/// Errors: `ESTALE` if there is no such node, or none any more.
pub fn open_node(within: BorrowedFd<'_>, id: u64) -> io::Result<OwnedFd> {
    /// `struct file_handle` with eight bytes of handle.
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        id: u64,
    }
    const FILEID_KERNFS: i32 = 0xfe;
    let mut handle = Handle { bytes: 8, kind: FILEID_KERNFS, id };
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: the handle has the length that it says, and outlives the call.
    let fd =
        unsafe { libc::syscall(libc::SYS_open_by_handle_at, within.as_raw_fd(), &raw mut handle, flags) };
    match i32::try_from(fd) {
        // SAFETY: the kernel has just returned this descriptor; nobody else owns it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
