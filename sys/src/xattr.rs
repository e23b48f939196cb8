//! Extended attributes, xattr(7).

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Sets attribute `name` of the file behind `fd`, new or not. fsetxattr(2).
///
/// Errors: `EPERM` for `trusted.*` without CAP_SYS_ADMIN and for `user.*` on anything but files and directories;
/// `EOPNOTSUPP` where the file system has none.
pub fn set(fd: BorrowedFd<'_>, name: &CStr, value: &[u8]) -> io::Result<()> {
    // SAFETY: `name` is NUL-terminated and the kernel reads `value.len()` bytes of `value`; both outlive the call.
    let status =
        unsafe { libc::fsetxattr(fd.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads attribute `name` of the file behind `fd`; none if it has no such attribute. fgetxattr(2).
pub fn get(fd: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0; 1 << 16];
    // SAFETY: the kernel writes at most `value.len()` bytes to `value`, which nobody else uses meanwhile.
    let length =
        unsafe { libc::fgetxattr(fd.as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    let Ok(length) = usize::try_from(length) else {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::ENODATA) { Ok(None) } else { Err(error) };
    };
    value.truncate(length);
    Ok(Some(value))
}
