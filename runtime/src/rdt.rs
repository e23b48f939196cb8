//! Shares of caches and memory bandwidth (Intel RDT, AMD QoS). Documentation/filesystems/resctrl.rst in the kernel tree;
//! OCI runtime specification, config-linux.md, "IntelRdt".
//!
//! A group is a directory of the resctrl file system; what a bundle says of it is [`Group`], and the launcher puts the
//! container's process into it before the program runs. Whoever is run in the container later joins it too.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::error::Context;

/// Where the file system is mounted.
pub const ROOT: &str = "/sys/fs/resctrl";

/// A group of processes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Group {
    /// Its directory below the root, empty for the root itself.
    pub directory: PathBuf,
    /// What becomes of it.
    pub origin: Origin,
    /// Lines for its `schemata`, in order.
    pub schemata: Vec<String>,
    /// The name of a group within it by which the container is monitored.
    pub monitor: Option<String>,
}

/// Where a group comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// It is the container's, made for it, and goes with it.
    #[default]
    Own,
    /// It is made if it is not there, and stays; if it is, it must have the shares that are asked for.
    Shared,
    /// It must be there.
    Given,
}

impl Group {
    /// Whether what will be the container's own can be made, below `root`. To be asked before it is on record that it is.
    ///
    /// Errors: it is there already, and so somebody else's.
    pub fn check(&self, root: &Path) -> Result<(), Error> {
        match self.own(root) {
            Some(own) if own.exists() => Err(is_there(&own)),
            _ => Ok(()),
        }
    }

    /// Puts process `pid` into the group, below `root`. What it has made for that is gone again if it fails.
    ///
    /// Errors: a group that must be there and is not, one that must not be and is, or has other shares; shares that the
    /// processor does not have.
    pub fn enter(&self, root: &Path, pid: i32) -> Result<(), Error> {
        let mut made = Vec::new();
        let entered = self.prepare(root, &mut made).and_then(|()| {
            self.directories(root).try_for_each(|directory| write(&directory.join("tasks"), &pid.to_string()))
        });
        if entered.is_err() {
            // What was made last lies in what was made first.
            made.iter().rev().for_each(|directory| drop(fs::remove_dir(directory)));
        }
        entered
    }

    /// Makes what is not there, which becomes `made`.
    fn prepare(&self, root: &Path, made: &mut Vec<PathBuf>) -> Result<(), Error> {
        let directory = root.join(&self.directory);
        let what = || format!("resctrl group {}", directory.display());
        let is_new = match self.origin {
            Origin::Given if !directory.join("tasks").exists() => {
                return Err(Error::Option(format!("linux.intelRdt: no {}", what())));
            }
            Origin::Given => false,
            Origin::Own | Origin::Shared => make(&directory).context(what)?,
        };
        match self.origin {
            _ if is_new => {
                made.push(directory);
                self.set(root, &self.schemata)?;
            }
            Origin::Own => return Err(is_there(&directory)),
            Origin::Shared | Origin::Given => self.compare(&directory)?,
        }
        if let Some(monitor) = self.monitor(root) {
            if !make(&monitor).context(|| format!("resctrl group {}", monitor.display()))? {
                return Err(is_there(&monitor));
            }
            made.push(monitor);
        }
        Ok(())
    }

    /// Opens what a process joins by writing `0` to each in turn.
    ///
    /// Errors: the group is gone.
    pub fn open_tasks(&self, root: &Path) -> Result<Vec<OwnedFd>, Error> {
        let open = |directory: PathBuf| {
            let path = directory.join("tasks");
            let opened = fs::OpenOptions::new().write(true).open(&path);
            opened.map(OwnedFd::from).context(|| format!("open {}", path.display()))
        };
        self.directories(root).map(open).collect()
    }

    /// Changes shares of the group.
    ///
    /// Errors: the group is not there, or the processor does not have them.
    pub fn set<'a>(&self, root: &Path, schemata: impl IntoIterator<Item = &'a String>) -> Result<(), Error> {
        let file = root.join(&self.directory).join("schemata");
        schemata.into_iter().try_for_each(|line| write(&file, &format!("{line}\n")))
    }

    /// Removes what goes with the container. What is gone already is no error.
    pub fn remove(&self, root: &Path) -> Result<(), Error> {
        let Some(own) = self.own(root) else { return Ok(()) };
        match fs::remove_dir(&own) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).context(|| format!("remove resctrl group {}", own.display()))
            }
            _ => Ok(()),
        }
    }

    /// As [`Group::remove`], for a container that was never born: a group with tasks in it is another's.
    pub fn remove_unused(&self, root: &Path) -> Result<(), Error> {
        let tasks = self.own(root).and_then(|own| fs::read_to_string(own.join("tasks")).ok());
        if tasks.is_none_or(|tasks| tasks.is_empty()) { self.remove(root) } else { Ok(()) }
    }

    /// The directories that a process of the container is in: the group, then that within it which is monitored.
    fn directories(&self, root: &Path) -> impl Iterator<Item = PathBuf> {
        std::iter::once(root.join(&self.directory)).chain(self.monitor(root))
    }

    fn monitor(&self, root: &Path) -> Option<PathBuf> {
        self.monitor.as_ref().map(|name| root.join(&self.directory).join("mon_groups").join(name))
    }

    /// What is the container's alone: its group, with all that is in it, or its place in one that it shares.
    fn own(&self, root: &Path) -> Option<PathBuf> {
        if self.origin == Origin::Own { Some(root.join(&self.directory)) } else { self.monitor(root) }
    }

    fn compare(&self, directory: &Path) -> Result<(), Error> {
        if self.schemata.is_empty() {
            return Ok(());
        }
        let file = directory.join("schemata");
        let found = fs::read_to_string(&file).context(|| format!("read {}", file.display()))?;
        let found: Vec<_> = found.lines().flat_map(shares).collect();
        let wanted = self.schemata.iter().flat_map(|line| line.lines()).flat_map(shares);
        match wanted.into_iter().find(|share| !found.contains(share)) {
            Some((resource, id, _)) => {
                let group = directory.display();
                Err(Error::Option(format!(
                    "linux.intelRdt: group {group} is there and has another share of {resource}:{id}"
                )))
            }
            None => Ok(()),
        }
    }
}

/// The shares in a line such as `L3:0=7f0;1=1f`: resource, id of the cache, and the share without leading zeros.
fn shares(line: &str) -> Vec<(String, String, String)> {
    let Some((resource, list)) = line.trim().split_once(':') else { return Vec::new() };
    let share = |part: &str| {
        let (id, share) = part.split_once('=')?;
        let share = share.trim().trim_start_matches('0').to_ascii_lowercase();
        Some((resource.trim().to_owned(), id.trim().to_owned(), share))
    };
    list.split(';').filter_map(share).collect()
}

fn is_there(group: &Path) -> Error {
    Error::Option(format!("linux.intelRdt: resctrl group {} is there already", group.display()))
}

/// Makes a directory; whether it was not there.
fn make(directory: &Path) -> io::Result<bool> {
    match fs::create_dir(directory) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

fn write(file: &Path, text: &str) -> Result<(), Error> {
    fs::write(file, text).context(|| format!("write {:?} to {}", text.trim_end(), file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that stands for the file system, gone at the end.
    struct Fake(PathBuf);

    impl Fake {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("skiff-rdt-{name}-{}", std::process::id()));
            fs::create_dir(&path).expect("a new directory");
            Self(path)
        }

        fn group(&self, name: &str, schemata: &str) {
            fs::create_dir(self.0.join(name)).expect("a group");
            fs::write(self.0.join(name).join("schemata"), schemata).expect("schemata");
            fs::write(self.0.join(name).join("tasks"), "").expect("tasks");
        }

        fn read(&self, file: &str) -> String {
            fs::read_to_string(self.0.join(file)).expect(file)
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    fn group(directory: &str, origin: Origin, schemata: &[&str]) -> Group {
        let schemata = schemata.iter().map(ToString::to_string).collect();
        Group { directory: directory.into(), origin, schemata, monitor: None }
    }

    #[test]
    fn a_group_of_ones_own_is_made_with_its_shares() {
        let fake = Fake::new("own");
        group("x", Origin::Own, &["L3:0=7f0"]).enter(&fake.0, 42).expect("entered");
        assert_eq!(fake.read("x/schemata"), "L3:0=7f0\n");
        assert_eq!(fake.read("x/tasks"), "42");
    }

    #[test]
    fn a_group_of_somebody_elses_is_not_taken_for_the_containers() {
        let fake = Fake::new("others");
        fake.group("x", "L3:0=7f0\n");
        let own = group("x", Origin::Own, &["L3:0=7f0"]);
        assert!(own.check(&fake.0).is_err());
        let error = own.enter(&fake.0, 42).expect_err("it is there");
        assert!(error.to_string().ends_with("x is there already"), "{error}");
        assert_eq!(fake.read("x/tasks"), "");
        fs::create_dir_all(fake.0.join("x/mon_groups/c")).expect("a place to be monitored");
        let monitored = Group { monitor: Some("c".into()), ..group("x", Origin::Given, &[]) };
        assert!(monitored.check(&fake.0).is_err() && monitored.enter(&fake.0, 42).is_err());
        assert!(fake.0.join("x/mon_groups/c").exists());
        group("x", Origin::Given, &[]).check(&fake.0).expect("nothing will be the container's own");
        group("y", Origin::Own, &[]).check(&fake.0).expect("there is none yet");
    }

    #[test]
    fn a_group_that_could_not_be_entered_is_not_left_behind() {
        let fake = Fake::new("failed");
        for origin in [Origin::Own, Origin::Shared] {
            // No kernel makes the directory for monitors here.
            let group = Group { monitor: Some("c".into()), ..group("x", origin, &[]) };
            group.enter(&fake.0, 42).expect_err("it cannot be monitored");
            assert!(!fake.0.join("x").exists(), "{origin:?}");
        }
    }

    #[test]
    fn a_group_with_tasks_is_not_that_of_a_container_never_born() {
        let fake = Fake::new("unborn");
        fake.group("x", "");
        fs::write(fake.0.join("x/tasks"), "1\n").expect("tasks");
        group("x", Origin::Own, &[]).remove_unused(&fake.0).expect("let alone");
        assert!(fake.0.join("x").exists());
        fs::create_dir(fake.0.join("y")).expect("a group");
        group("y", Origin::Own, &[]).remove_unused(&fake.0).expect("removed");
        assert!(!fake.0.join("y").exists());
    }

    #[test]
    fn one_more_process_joins_group_and_monitor() {
        let fake = Fake::new("joined");
        fake.group("x", "");
        let join = |group: &Group| {
            let tasks = group.open_tasks(&fake.0)?;
            for file in &tasks {
                nix::unistd::write(file, b"0").expect("write");
            }
            Ok::<_, Error>(tasks.len())
        };
        assert_eq!(join(&group("x", Origin::Given, &[])).expect("joined"), 1);
        let monitored = Group { monitor: Some("c".into()), ..group("x", Origin::Given, &[]) };
        assert!(join(&monitored).is_err());
        fs::create_dir_all(fake.0.join("x/mon_groups/c")).expect("a monitor");
        fs::write(fake.0.join("x/mon_groups/c/tasks"), "").expect("its tasks");
        assert_eq!(join(&monitored).expect("joined"), 2);
        assert_eq!((fake.read("x/tasks"), fake.read("x/mon_groups/c/tasks")), ("0".into(), "0".into()));
    }

    #[test]
    fn a_group_that_is_there_must_have_the_shares() {
        let fake = Fake::new("shared");
        fake.group("gold", "    L3:0=07f0;1=1f\n    MB:0=20;1=70\n");
        group("gold", Origin::Shared, &["L3:1=1F", "MB:0=20"]).enter(&fake.0, 7).expect("the same shares");
        assert_eq!(fake.read("gold/tasks"), "7");
        let error = group("gold", Origin::Shared, &["MB:1=20"]).enter(&fake.0, 7).expect_err("another");
        assert!(error.to_string().ends_with("another share of MB:1"), "{error}");
        assert!(group("silver", Origin::Given, &[]).enter(&fake.0, 7).is_err());
        group("gold", Origin::Given, &[]).enter(&fake.0, 8).expect("it is there");
    }

    #[test]
    fn only_what_is_the_containers_goes_with_it() {
        let fake = Fake::new("gone");
        for name in ["own", "gold", "gold/mon_groups", "gold/mon_groups/x"] {
            fs::create_dir(fake.0.join(name)).expect(name);
        }
        group("own", Origin::Own, &[]).remove(&fake.0).expect("removed");
        group("own", Origin::Own, &[]).remove(&fake.0).expect("gone already");
        assert!(!fake.0.join("own").exists());
        Group { monitor: Some("x".into()), ..group("gold", Origin::Given, &[]) }
            .remove(&fake.0)
            .expect("removed");
        assert!(!fake.0.join("gold/mon_groups/x").exists());
        assert!(fake.0.join("gold").exists());
    }
}
