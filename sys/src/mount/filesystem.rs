//! New file systems, and changes to those that are mounted.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::mount::MsFlags;

use super::attr::kept_flags;
use super::{Attr, EMPTY, attach, check, is_refusal, owned};
use crate::file::proc_fd_path;

/// One option of a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FsOption {
    /// A word alone: `newinstance`.
    Flag(CString),
    /// `key=value`.
    Value(CString, CString),
}

const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSPICK_CLOEXEC: libc::c_uint = 0x1;
const FSPICK_EMPTY_PATH: libc::c_uint = 0x8;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_SET_FD: libc::c_uint = 5;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const FSCONFIG_CMD_RECONFIGURE: libc::c_uint = 7;

/// The longest value that fsconfig(2) takes.
const VALUE_BYTES_MAX: usize = 255;

/// Words that are flags to mount(2), not data, and what they are there. fsconfig(2) takes them as words.
const WORDS: [(&CStr, MsFlags); 9] = [
    (c"ro", MsFlags::MS_RDONLY),
    (c"sync", MsFlags::MS_SYNCHRONOUS),
    (c"dirsync", MsFlags::MS_DIRSYNC),
    (c"mand", MsFlags::MS_MANDLOCK),
    (c"lazytime", MsFlags::MS_LAZYTIME),
    (c"rw", MsFlags::empty()),
    (c"async", MsFlags::empty()),
    (c"nomand", MsFlags::empty()),
    (c"nolazytime", MsFlags::empty()),
];

/// The same, but not known to fsconfig(2).
const LEGACY_WORDS: [(&CStr, MsFlags); 2] =
    [(c"silent", MsFlags::MS_SILENT), (c"iversion", MsFlags::MS_I_VERSION)];

/// Words that are options of some file systems, and at the same time a flag to mount(2) which the others take and pass over;
/// and what they are there.
const ACL_WORDS: [(&CStr, MsFlags); 2] = [(c"acl", MsFlags::MS_POSIXACL), (c"noacl", MsFlags::empty())];

/// A file system being configured. fsopen(2), fspick(2), Linux ≥ 5.2.
#[derive(Debug)]
pub struct FsContext(OwnedFd);

impl FsContext {
    /// Starts one of type `fstype`. `source` is a device for some types; mount tables show it. The type when absent.
    pub fn open(fstype: &CStr, source: Option<&CStr>) -> io::Result<Self> {
        // SAFETY: `fstype` is NUL-terminated and outlives the call.
        let fd = unsafe { libc::syscall(libc::SYS_fsopen, fstype.as_ptr(), FSOPEN_CLOEXEC) };
        let context = Self(owned(fd)?);
        context.config(FSCONFIG_SET_STRING, Some(c"source"), Some(source.unwrap_or(fstype)), 0)?;
        Ok(context)
    }

    /// Takes up the one that `mount` is a mount of.
    fn pick(mount: BorrowedFd<'_>) -> io::Result<Self> {
        let flags = FSPICK_CLOEXEC | FSPICK_EMPTY_PATH;
        // SAFETY: the path is a static empty string.
        let fd = unsafe { libc::syscall(libc::SYS_fspick, mount.as_raw_fd(), EMPTY.as_ptr(), flags) };
        owned(fd).map(Self)
    }

    /// Sets one option. That the file system has no choice of having access control lists is no error, as it is none to
    /// mount(2).
    pub fn set(&self, option: &FsOption) -> io::Result<()> {
        match option {
            FsOption::Flag(key) => match self.config(FSCONFIG_SET_FLAG, Some(key), None, 0) {
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) && is_about_acl(key) => Ok(()),
                other => other,
            },
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
pub fn new_filesystem(
    fstype: &CStr,
    source: Option<&CStr>,
    options: &[FsOption],
    attr: Attr,
) -> io::Result<OwnedFd> {
    let context = FsContext::open(fstype, source)?;
    for option in options {
        context.set(option)?;
    }
    context.mount(attr)
}

/// Mounts a new file system at `target`. Returns its root, where the kernel hands that out: mount(2) does not.
///
/// Errors: those of the file system; `EPERM` and `ENOSYS` only after mount(2) has been refused too.
pub fn mount_new(
    fstype: &CStr,
    source: Option<&CStr>,
    options: &[FsOption],
    attr: Attr,
    target: BorrowedFd<'_>,
) -> io::Result<Option<OwnedFd>> {
    if !is_only_for_mount(options) {
        let modern = new_filesystem(fstype, source, options, attr).and_then(|mount| {
            attach(mount.as_fd(), target)?;
            Ok(mount)
        });
        match modern {
            Err(error) if is_refusal(&error) => {}
            other => return other.map(Some),
        }
    }
    let (flags, data) = joined(options);
    let path = proc_fd_path(target);
    nix::mount::mount(
        Some(source.unwrap_or(fstype)),
        path.as_c_str(),
        Some(fstype),
        attr.legacy() | flags,
        Some(data.as_c_str()),
    )?;
    Ok(None)
}

/// Changes options of the file system that `mount` is the root of. fspick(2), Linux ≥ 5.2, else mount(2), by which it
/// loses `dirsync` and `lazytime` unless they are among the options.
pub fn reconfigure(mount: BorrowedFd<'_>, options: &[FsOption]) -> io::Result<()> {
    if !is_only_for_mount(options) {
        let modern = FsContext::pick(mount).and_then(|context| {
            options.iter().try_for_each(|option| context.set(option))?;
            context.config(FSCONFIG_CMD_RECONFIGURE, None, None, 0)
        });
        match modern {
            Err(error) if is_refusal(&error) => {}
            other => return other,
        }
    }
    let (flags, data) = joined(options);
    let path = proc_fd_path(mount);
    let mut kept = kept_flags(mount)?;
    if options.iter().any(|option| matches!(option, FsOption::Flag(key) if key.as_c_str() == c"async")) {
        kept.remove(MsFlags::MS_SYNCHRONOUS);
    }
    let flags = MsFlags::MS_REMOUNT | kept | flags;
    nix::mount::mount(None::<&CStr>, path.as_c_str(), None::<&CStr>, flags, Some(data.as_c_str()))
        .map_err(io::Error::from)
}

/// Mounts by mount(2) with a ready option string.
pub fn mount_legacy(fstype: &CStr, data: &CStr, attr: Attr, target: BorrowedFd<'_>) -> io::Result<()> {
    let path = proc_fd_path(target);
    nix::mount::mount(Some(fstype), path.as_c_str(), Some(fstype), attr.legacy(), Some(data))
        .map_err(io::Error::from)
}

fn is_about_acl(key: &CStr) -> bool {
    ACL_WORDS.iter().any(|(word, _)| key == *word)
}

/// Whether there is something among the options that fsconfig(2) cannot say.
fn is_only_for_mount(options: &[FsOption]) -> bool {
    options.iter().any(|option| match option {
        FsOption::Flag(key) => LEGACY_WORDS.iter().any(|(word, _)| key.as_c_str() == *word),
        FsOption::Value(_, value) => value.count_bytes() > VALUE_BYTES_MAX,
    })
}

/// The options as mount(2) wants them. A label with a comma in it is quoted, as SELinux wants it.
fn joined(options: &[FsOption]) -> (MsFlags, CString) {
    let (mut flags, mut data) = (MsFlags::empty(), Vec::new());
    for option in options {
        let (key, value) = match option {
            FsOption::Flag(key) => (key, None),
            FsOption::Value(key, value) => (key, Some(value.to_bytes())),
        };
        let mut words = WORDS.iter().chain(&LEGACY_WORDS).chain(&ACL_WORDS);
        if let (Some((_, flag)), None) = (words.find(|(word, _)| key.as_c_str() == *word), value) {
            flags |= *flag;
            continue;
        }
        if !data.is_empty() {
            data.push(b',');
        }
        data.extend_from_slice(key.to_bytes());
        if let Some(value) = value {
            let is_label = key.to_bytes().ends_with(b"context") && value.contains(&b',');
            let quote: &[u8] = if is_label { b"\"" } else { b"" };
            data.extend([b"=", quote, value, quote].concat());
        }
    }
    // The parts were C strings, so no NUL can be inside.
    (flags, CString::new(data).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(key: &CStr) -> FsOption {
        FsOption::Flag(key.into())
    }

    fn value(key: &CStr, value: &CStr) -> FsOption {
        FsOption::Value(key.into(), value.into())
    }

    #[track_caller]
    fn check(options: &[FsOption], flags: MsFlags, data: &CStr) {
        assert_eq!(joined(options), (flags, data.into()));
    }

    #[test]
    fn options_join_as_mount_data() {
        let none = MsFlags::empty();
        check(&[], none, c"");
        check(&[word(c"newinstance"), value(c"ptmxmode", c"0666")], none, c"newinstance,ptmxmode=0666");
        check(&[value(c"context", c"a:c1,c2"), word(c"x")], none, c"context=\"a:c1,c2\",x");
        check(&[value(c"ro", c"1")], none, c"ro=1");
    }

    #[test]
    fn only_labels_are_quoted() {
        check(&[value(c"lowerdir", c"/a,b")], MsFlags::empty(), c"lowerdir=/a,b");
    }

    #[test]
    fn words_that_are_flags_are_no_data() {
        let flags = MsFlags::MS_SYNCHRONOUS | MsFlags::MS_SILENT;
        check(&[word(c"sync"), word(c"nomand"), value(c"size", c"1"), word(c"silent")], flags, c"size=1");
    }

    #[test]
    fn access_control_lists_are_a_flag_to_mount() {
        check(&[word(c"acl"), word(c"noacl")], MsFlags::MS_POSIXACL, c"");
    }

    #[test]
    fn what_fsconfig_cannot_say_is_left_to_mount() {
        let long = CString::new(vec![b'a'; 256]).unwrap();
        assert!(is_only_for_mount(&[word(c"iversion")]));
        assert!(is_only_for_mount(&[value(c"lowerdir", &long)]));
        assert!(!is_only_for_mount(&[word(c"sync"), value(c"size", c"1")]));
    }
}
