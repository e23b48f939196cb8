//! Extended attributes, xattr(7).

use std::ffi::{CStr, CString};
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

/// Whether attribute `name` of the file behind `fd` is exactly `value`, of at most 16 bytes; errors count as no.
///
/// A short question: for [`get`]'s large buffer the kernel allocates and clears as much.
#[must_use]
pub fn is(fd: BorrowedFd<'_>, name: &CStr, value: &[u8]) -> bool {
    let mut found = [0_u8; 16];
    matches!(read(fd, name, &mut found), Ok(Some(length)) if found[..length] == *value)
}

/// Reads attribute `name` of the file behind `fd`; none if it has no such attribute. fgetxattr(2).
pub fn get(fd: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0; 1 << 16];
    let Some(length) = read(fd, name, &mut value)? else { return Ok(None) };
    value.truncate(length);
    Ok(Some(value))
}

/// As [`get`], where the value has at most 16 bytes.
///
/// Errors: `ERANGE` for a longer one.
pub fn get_short(fd: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let mut value = [0_u8; 16];
    Ok(read(fd, name, &mut value)?.map(|length| value[..length].to_vec()))
}

/// The length of what is now in `value`; none if the file has no such attribute.
fn read(fd: BorrowedFd<'_>, name: &CStr, value: &mut [u8]) -> io::Result<Option<usize>> {
    // SAFETY: the kernel writes at most `value.len()` bytes to `value`, which nobody else uses meanwhile.
    let length =
        unsafe { libc::fgetxattr(fd.as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    match (usize::try_from(length), io::Error::last_os_error()) {
        (Ok(length), _) => Ok(Some(length)),
        (Err(_), error) if error.raw_os_error() == Some(libc::ENODATA) => Ok(None),
        (Err(_), error) => Err(error),
    }
}

/// The names of the attributes of the file behind `fd`. flistxattr(2).
///
/// Errors: `EOPNOTSUPP` where the file system has none.
pub fn names(fd: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    // As long as the list can be. xattr(7).
    let mut list = vec![0_u8; 1 << 16];
    // SAFETY: the kernel writes at most `list.len()` bytes to `list`, which nobody else uses meanwhile.
    let length = unsafe { libc::flistxattr(fd.as_raw_fd(), list.as_mut_ptr().cast(), list.len()) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    let names = list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    // No NUL is left between those that have split the list.
    Ok(names.map(|name| CString::new(name).unwrap_or_default()).collect())
}

/// Whether the file behind `fd` has any attribute at all: the quick question before [`names`]. flistxattr(2).
///
/// A file system that has none counts as no.
pub fn any(fd: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: with a size of zero the kernel writes nothing.
    let length = unsafe { libc::flistxattr(fd.as_raw_fd(), std::ptr::null_mut(), 0) };
    match io::Error::last_os_error() {
        _ if length >= 0 => Ok(length > 0),
        error if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_is_set_can_be_read() {
        let path = std::env::temp_dir().join(format!("skiff-xattr-{}", std::process::id()));
        let file = File::create(&path).unwrap();
        fs::remove_file(path).unwrap();
        match set(file.as_fd(), c"user.name", b"a\0b") {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                println!("skip: needs a file system with user attributes");
                return;
            }
            set => set.unwrap(),
        }
        assert_eq!(get(file.as_fd(), c"user.name").unwrap().unwrap(), b"a\0b");
        assert_eq!(get(file.as_fd(), c"user.other").unwrap(), None);
        assert_eq!(names(file.as_fd()).unwrap(), [c"user.name".to_owned()]);
        assert!(any(file.as_fd()).unwrap());
        set(file.as_fd(), c"user.name", b"").unwrap();
        assert_eq!(get(file.as_fd(), c"user.name").unwrap().unwrap(), b"");
        let error = set(file.as_fd(), c"nonsense", b"").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
    }
}
