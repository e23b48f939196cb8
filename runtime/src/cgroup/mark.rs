//! Whose a cgroup is. An extended attribute of its directory names the container that has taken it last.
//!
//! The path does not tell: it is on record before there is a directory, and one that a container has left empty another
//! may take. The directory that bears the mark is the v2 one, else that of the first v1 hierarchy; the others follow it.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use skiff_sys::clock::monotonic_ns;
use skiff_sys::xattr;

use super::Cgroup;
use crate::Error;
use crate::error::Context;

/// Only the first is out of reach of a container that may change its own cgroup, and only root has it; the second is of
/// Linux ≥ 5.7. Without either nothing is marked.
const NAMES: [&CStr; 2] = [c"trusted.skiff", c"user.skiff"];

/// What tells one container's cgroups from those that another has at the same place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark(String);

/// Who has a cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The container whose mark it is.
    Container,
    /// Another, since that one has left it.
    Another,
    /// No container has come so far as to mark it.
    Nobody,
}

impl Mark {
    /// One that no other container has had since the machine began.
    #[must_use]
    pub fn of_now() -> Self {
        Self(format!("{:016x}", monotonic_ns()))
    }

    fn set(&self, directory: BorrowedFd<'_>) -> io::Result<()> {
        for name in NAMES {
            match xattr::set(directory, name, self.0.as_bytes()) {
                Err(error) if is_unsupported(&error) => {}
                other => return other,
            }
        }
        Ok(())
    }

    fn owner(&self, directory: BorrowedFd<'_>) -> io::Result<Owner> {
        for name in NAMES {
            let found = match xattr::get_short(directory, name) {
                Err(error) if is_unsupported(&error) => None,
                Err(error) if error.raw_os_error() == Some(libc::ERANGE) => Some(Vec::new()),
                other => other?,
            };
            if let Some(found) = found {
                return Ok(if found == self.0.as_bytes() { Owner::Container } else { Owner::Another });
            }
        }
        Ok(Owner::Nobody)
    }
}

impl Cgroup {
    /// Takes the directories, if there are any yet, for the container of `mark`.
    pub(super) fn bear(&mut self, mark: Option<&Mark>) -> Result<(), Error> {
        let Some(mark) = mark else { return Ok(()) };
        let set = self.at_marked(|directory| mark.set(directory)).context(|| "mark the cgroup".into())?;
        if set.is_some() {
            self.mark = Some(mark.clone());
        }
        Ok(())
    }

    /// Whose the directories are. Without a mark they are the caller's, who has made them under a name of its own.
    pub fn owner(&self) -> Result<Owner, Error> {
        let Some(mark) = &self.mark else { return Ok(Owner::Container) };
        let owner = self.at_marked(|directory| mark.owner(directory));
        Ok(owner.context(|| "look whose the cgroup is".into())?.unwrap_or(Owner::Nobody))
    }

    /// Does something with the directory that bears the mark, if there is one.
    fn at_marked<T>(&self, act: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>) -> io::Result<Option<T>> {
        if let Some(unified) = self.unified_fd() {
            return act(unified).map(Some);
        }
        let Some(legacy) = self.legacy.first() else { return Ok(None) };
        match fs::File::open(&legacy.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => act(opened?.as_fd()).map(Some),
        }
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EPERM | Errno::EACCES | Errno::EOPNOTSUPP | Errno::EROFS | Errno::ENOSYS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_tells_whose_a_directory_is() {
        let path = std::env::temp_dir().join(format!("skiff-mark-{}", std::process::id()));
        fs::create_dir(&path).expect("a new directory");
        let directory = fs::File::open(&path).expect("open");
        let directory = directory.as_fd();
        let (first, second) = (Mark("1".repeat(16)), Mark("2".repeat(16)));
        let before = first.owner(directory).expect("an answer");
        first.set(directory).expect("set");
        let after = [&first, &second].map(|mark| mark.owner(directory).expect("an answer"));
        second.set(directory).expect("set");
        let later = first.owner(directory).expect("an answer");
        xattr::set(directory, NAMES[0], &[b'1'; 17])
            .or_else(|_| xattr::set(directory, NAMES[1], &[b'1'; 17]))
            .expect("set");
        let longer = first.owner(directory).expect("an answer");
        fs::remove_dir(&path).expect("remove");
        assert_eq!(before, Owner::Nobody);
        assert_eq!(after, [Owner::Container, Owner::Another]);
        assert_eq!((later, longer), (Owner::Another, Owner::Another));
    }
}
