//! A log's directory: files with ascending numbers, `7.log`. A file appears whole, with its head, and never comes back.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::Path;

use nix::dir::Dir;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::record::{HEAD_BYTES, Head};

/// Where a file is made before it has its head.
const NEW: &str = "new";

/// An open directory of a log.
#[derive(Debug)]
pub(super) struct Directory(OwnedFd);

impl Directory {
    /// Opens the directory at `path`, and makes it first if need be: readable for whoever is handed its descriptor, for what
    /// keeps others out is the directory above.
    pub(super) fn make(path: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o755).create(path)?;
        Ok(Self(File::open(path)?.into()))
    }

    pub(super) fn new(directory: OwnedFd) -> Self {
        Self(directory)
    }

    /// The files' numbers, ascending.
    pub(super) fn numbers(&self) -> io::Result<Vec<u64>> {
        let mut directory = match Dir::openat(&self.0, ".", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        {
            // The whole directory has been removed.
            Err(nix::Error::ENOENT) => return Ok(Vec::new()),
            opened => opened?,
        };
        let mut numbers = Vec::new();
        for entry in directory.iter() {
            numbers.extend(entry?.file_name().to_str().ok().and_then(number));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Opens a file to read, and its head; None if it is gone, or no file of a log.
    pub(super) fn open(&self, number: u64) -> io::Result<Option<(File, Head)>> {
        self.open_as(number, OFlag::O_RDONLY)
    }

    /// The same, to write.
    pub(super) fn open_to_write(&self, number: u64) -> io::Result<Option<(File, Head)>> {
        self.open_as(number, OFlag::O_RDWR)
    }

    fn open_as(&self, number: u64, access: OFlag) -> io::Result<Option<(File, Head)>> {
        let flags = access | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file: File = match openat(&self.0, name(number).as_str(), flags, Mode::empty()) {
            Ok(file) => file.into(),
            Err(nix::Error::ENOENT | nix::Error::ELOOP) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut head = [0; HEAD_BYTES];
        match file.read_exact_at(&mut head, 0) {
            Ok(()) => Ok(Head::decode(&head).map(|head| (file, head))),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a file that has nothing but a head.
    pub(super) fn create(&self, number: u64, head: &Head) -> io::Result<File> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let file: File = openat(&self.0, NEW, flags, Mode::from_bits_truncate(0o644))?.into();
        file.write_all_at(&head.encode(), 0)?;
        renameat(&self.0, NEW, &self.0, name(number).as_str())?;
        Ok(file)
    }

    /// Removes a file, if there is one.
    pub(super) fn remove(&self, number: u64) -> io::Result<()> {
        match unlinkat(&self.0, name(number).as_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(nix::Error::ENOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn name(number: u64) -> String {
    format!("{number}.log")
}

/// The number in a file's name; none in one that [`name`] would not make.
fn number(file: &str) -> Option<u64> {
    let number = file.strip_suffix(".log")?.parse().ok()?;
    (name(number) == file).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_are_made_are_read() {
        for wrong in
            ["1", ".log", "x.log", "01.log", "+1.log", "-1.log", "1.log.log", "18446744073709551616.log"]
        {
            assert_eq!(number(wrong), None, "{wrong}");
        }
        assert_eq!(number("0.log"), Some(0));
        assert_eq!(number(&name(u64::MAX)), Some(u64::MAX));
    }
}
