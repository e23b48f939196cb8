//! The control groups of one container, opened to be read.
//!
//! A look at a hundred containers is many files of a few words each, and costs what opening them costs: so a directory is found once, its
//! files below its descriptor, files that cannot be there are not looked for, and a file is read in as few calls as there are, into room
//! that little of what is read here fills.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, OFlag, open, openat};
use nix::sys::stat::{Mode, fstat};
use skiff_runtime::cgroup::{Cgroup, Controller, Paths};

/// Room for most files of the kernel's; such blocks are the cheapest that the allocator has. Less than a page by more than any line has: what
/// the kernel writes line by line into a page of its own ends before the room does only if that is all.
const ROOM: usize = 1024;
/// What is longer, a list of very many threads, is cut off.
const BYTES_MAX: u64 = 4 << 20;

/// The groups of one container.
#[derive(Debug)]
pub(crate) struct Groups<'a> {
    paths: &'a Paths,
    unified: Option<Directory>,
    /// The controllers that the group of version 2 may have.
    controllers: Controllers,
    threads: OnceCell<Option<Vec<i32>>>,
    processes: OnceCell<Option<Vec<i32>>>,
}

/// What is the same for containers that are looked at together: the controllers of version 2 that there are below a directory.
#[derive(Debug, Default)]
pub(crate) struct Round(RefCell<HashMap<PathBuf, Controllers>>);

/// Names of controllers; `None` if it is not known which there are.
type Controllers = Option<std::rc::Rc<str>>;

/// A directory whose files are read.
#[derive(Debug)]
pub(super) struct Directory(OwnedFd);

impl<'a> Groups<'a> {
    /// Those at `paths` that there are.
    pub(crate) fn open(paths: &'a Paths) -> Self {
        let unified = paths.unified.as_deref().and_then(Directory::open);
        Self { paths, unified, controllers: None, threads: OnceCell::new(), processes: OnceCell::new() }
    }

    /// As [`Groups::open`], for one of several.
    pub(crate) fn open_in(round: &Round, paths: &'a Paths) -> Self {
        let above = paths.unified.as_deref().and_then(Path::parent);
        Self { controllers: above.and_then(|above| round.controllers(above)), ..Self::open(paths) }
    }

    /// Whether its group of version 2 may have the files of `controller`.
    pub(super) fn may_have(&self, controller: &str) -> bool {
        self.controllers.as_ref().is_none_or(|all| all.split_whitespace().any(|one| one == controller))
    }

    /// Of version 2.
    pub(super) const fn unified(&self) -> Option<&Directory> {
        self.unified.as_ref()
    }

    /// Of each controller of version 1.
    pub(super) fn legacy(&self) -> impl Iterator<Item = (Controller, Directory)> {
        let open = |(controller, path): (&Controller, &std::path::PathBuf)| {
            Some((*controller, Directory::open(path)?))
        };
        self.paths.legacy.iter().filter_map(open)
    }

    /// The ids of the threads in its group of version 2 itself; read once.
    pub(super) fn threads(&self) -> Option<&[i32]> {
        let list = || Some(ids(&self.unified.as_ref()?.text("cgroup.threads")?));
        self.threads.get_or_init(list).as_deref()
    }

    /// The ids of all processes in them; read once.
    pub(crate) fn processes(&self) -> Option<&[i32]> {
        let list = || {
            let flat = self.unified.as_ref().filter(|directory| directory.is_flat());
            // A thread that is alone is a process, or all that is left of one.
            if flat.is_some()
                && let Some(Some(threads)) = self.threads.get()
                && threads.len() == 1
            {
                return Some(threads.clone());
            }
            match flat.and_then(|directory| directory.text("cgroup.procs")) {
                Some(list) => Some(ids(&list)),
                None => Cgroup::open(self.paths).ok()?.processes().ok(),
            }
        };
        self.processes.get_or_init(list).as_deref()
    }
}

impl Round {
    fn controllers(&self, above: &Path) -> Controllers {
        if let Some(known) = self.0.borrow().get(above) {
            return known.clone();
        }
        let found: Controllers =
            fs::read_to_string(above.join("cgroup.subtree_control")).ok().map(Into::into);
        self.0.borrow_mut().insert(above.to_owned(), found.clone());
        found
    }
}

/// One in each line.
fn ids(list: &str) -> Vec<i32> {
    list.lines().filter_map(|line| line.parse().ok()).collect()
}

impl Directory {
    fn open(path: &Path) -> Option<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        open(path, flags, Mode::empty()).ok().map(Self)
    }

    /// Whether there is no group in it.
    fn is_flat(&self) -> bool {
        // Itself, its own entry, and one of each group in it.
        fstat(&self.0).is_ok_and(|found| found.st_nlink == 2)
    }

    /// What a file says.
    pub(super) fn text(&self, file: &str) -> Option<String> {
        read(openat(&self.0, file, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()))
    }

    /// The number that is all of a file; none for the word `max`.
    pub(super) fn number(&self, file: &str) -> Option<u64> {
        self.text(file)?.trim().parse().ok()
    }
}

/// What the file at `path` says.
pub(super) fn text(path: &str) -> Option<String> {
    read(openat(AT_FDCWD, path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()))
}

/// Reads to the end without asking for a size first, which files of the kernel do not have, nor once more where the first answer leaves room.
fn read(opened: nix::Result<OwnedFd>) -> Option<String> {
    let mut file = File::from(opened.ok()?);
    let mut bytes = vec![0; ROOM];
    let length = match file.read(&mut bytes) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => None,
        length => Some(length.ok()?),
    };
    bytes.truncate(length.unwrap_or(0));
    if length.is_none_or(|length| length == ROOM) {
        file.take(BYTES_MAX).read_to_end(&mut bytes).ok()?;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_to_their_end() {
        let directory = std::env::temp_dir().join(format!("skiff-groups-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let long = "0123456789\n".repeat(2000);
        std::fs::write(directory.join("long"), &long).unwrap();
        std::fs::write(directory.join("number"), "17\n").unwrap();
        std::fs::write(directory.join("most"), "max\n").unwrap();
        std::fs::write(directory.join("empty"), "").unwrap();
        std::fs::write(directory.join("full"), &long[..ROOM]).unwrap();
        let opened = Directory::open(&directory).unwrap();
        assert_eq!(opened.text("full").as_deref(), Some(&long[..ROOM]));
        assert_eq!(opened.text("long"), Some(long));
        assert_eq!(opened.text("empty").as_deref(), Some(""));
        assert_eq!(
            [opened.number("number"), opened.number("most"), opened.number("none")],
            [Some(17), None, None]
        );
        std::fs::remove_dir_all(&directory).unwrap();
        assert!(Directory::open(&directory).is_none());
        assert!(text("/proc/self/statm").is_some_and(|statm| statm.split(' ').count() == 7));
    }

    #[test]
    fn controllers_that_are_off_are_not_looked_for() {
        let above = std::env::temp_dir().join(format!("skiff-round-{}", std::process::id()));
        let one = above.join("one");
        std::fs::create_dir_all(&one).unwrap();
        std::fs::write(above.join("cgroup.subtree_control"), "cpuset io\n").unwrap();
        std::fs::write(one.join("cgroup.threads"), "7\n8\n").unwrap();
        let paths = Paths { unified: Some(one), ..Paths::default() };
        let (round, off) = (Round::default(), ["io", "memory", "cpu"]);
        let found = Groups::open_in(&round, &paths);
        assert_eq!(off.map(|name| found.may_have(name)), [true, false, false]);
        assert_eq!(found.threads(), Some(&[7, 8][..]));
        std::fs::remove_dir_all(&above).unwrap();
        // It is known for as long as the round lasts, and of no other.
        assert!(!Groups::open_in(&round, &paths).may_have("memory"));
        assert!(Groups::open_in(&Round::default(), &paths).may_have("memory"));
        assert!(Groups::open(&paths).may_have("memory"));
    }

    #[test]
    fn groups_that_are_gone_have_no_processes_and_no_files() {
        let paths = Paths { unified: Some("/sys/fs/cgroup/skiff-there-is-none".into()), ..Paths::default() };
        let groups = Groups::open(&paths);
        assert!(groups.unified().is_none() && groups.legacy().next().is_none());
        assert_eq!(groups.processes().map(<[i32]>::len).unwrap_or(0), 0);
    }
}
