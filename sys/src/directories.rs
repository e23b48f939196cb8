//! Directories that are made while the caller goes on, each with a file in it opened.
//!
//! For cgroups of version 1: the kernel makes their files one by one and, for some controllers, memory on each processor.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use crate::beside::{Beside, Job, call};

/// Directories in the making. Dropping it waits for the process that makes them; they stay.
#[derive(Debug)]
pub struct Nascent(Beside<Maker>);

#[derive(Debug)]
struct Maker {
    from: RawFd,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    directory: CString,
    file: CString,
    is_made: AtomicI32,
    /// The file's descriptor, if it is not negative.
    opened: AtomicI32,
}

/// A directory that has been made.
#[derive(Debug)]
pub struct Made {
    /// Its path.
    pub directory: CString,
    /// The file in it, open for writing, if it could be opened.
    pub file: Option<OwnedFd>,
}

impl Nascent {
    /// Begins to make directories, and to open for writing what is given with each, by paths from the directory `from`, which is to
    /// stay open meanwhile.
    ///
    /// clone3(2), Linux ≥ 5.3. Errors: `ENOSYS` also on other processors than x86-64.
    pub fn begin(
        from: BorrowedFd<'_>,
        paths: impl IntoIterator<Item = (CString, CString)>,
    ) -> io::Result<Self> {
        let entry = |(directory, file)| Entry {
            directory,
            file,
            is_made: AtomicI32::new(0),
            opened: AtomicI32::new(-1),
        };
        let entries = paths.into_iter().map(entry).collect();
        Beside::begin(Maker { from: from.as_raw_fd(), entries }).map(Self)
    }

    /// Waits until all is done, and returns what has been made. What could not be made, or was there, is left out: the
    /// caller will hear why when it makes it itself.
    #[must_use]
    pub fn finish(mut self) -> Vec<Made> {
        self.take()
    }

    fn take(&mut self) -> Vec<Made> {
        let (Maker { entries, .. }, _) = self.0.finish();
        let made = entries.iter().filter(|entry| entry.is_made.swap(0, Ordering::Acquire) == 1);
        let made = made.map(|entry| Made {
            directory: entry.directory.clone(),
            file: match entry.opened.swap(-1, Ordering::Acquire) {
                // SAFETY: the other process has opened it for this one, and is gone; it is given away once.
                fd @ 0.. => Some(unsafe { OwnedFd::from_raw_fd(fd) }),
                _ => None,
            },
        });
        made.collect()
    }
}

impl Drop for Nascent {
    fn drop(&mut self) {
        drop(self.take());
    }
}

// SAFETY: makes system calls alone.
unsafe impl Job for Maker {
    fn run(&self) -> i32 {
        let from = i64::from(self.from).cast_unsigned();
        for entry in &self.entries {
            let [directory, file] =
                [&entry.directory, &entry.file].map(|path| path.as_ptr().expose_provenance() as u64);
            // SAFETY: a path that ends with 0.
            if unsafe { call(libc::SYS_mkdirat, [from, directory, 0o777]) } == 0 {
                entry.is_made.store(1, Ordering::Release);
                // SAFETY: as above.
                let opened = unsafe {
                    call(libc::SYS_openat, [from, file, (libc::O_WRONLY | libc::O_CLOEXEC) as u64])
                };
                entry.opened.store(opened, Ordering::Release);
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn those_that_could_be_made_are_returned() {
        let root = std::env::temp_dir().join(format!("skiff-directories-{}", std::process::id()));
        std::fs::create_dir(&root).expect("a new directory");
        std::fs::create_dir(root.join("there")).expect("one that is there");
        let path = |name: &str| CString::new(root.join(name).as_os_str().as_bytes()).expect("no NUL");
        let paths = ["new", "there", "none/below"].map(|name| (path(name), path("new")));
        let made = Nascent::begin(nix::fcntl::AT_FDCWD, paths).map(Nascent::finish);
        let is_there = root.join("new").is_dir();
        std::fs::remove_dir_all(&root).expect("remove");
        match made {
            Ok(made) => {
                assert_eq!(made.iter().map(|made| &made.directory).collect::<Vec<_>>(), [&path("new")]);
                // A directory is not opened for writing.
                assert!(is_there && made[0].file.is_none());
            }
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOSYS)),
        }
    }
}
