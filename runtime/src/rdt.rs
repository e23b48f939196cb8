//! Shares of caches and memory bandwidth (Intel RDT, AMD QoS). Documentation/filesystems/resctrl.rst in the kernel tree;
//! OCI runtime specification, config-linux.md, "IntelRdt".
//!
//! A group is a directory of the resctrl file system; what a bundle says of it is [`Group`], and the launcher puts the
//! container's process into it before the program runs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::error::Context;

/// Where the file system is mounted.
pub const ROOT: &str = "/sys/fs/resctrl";

/// A group of processes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Origin {
    /// It is the container's, and goes with it.
    #[default]
    Own,
    /// It is made if it is not there, and stays; if it is, it must have the shares that are asked for.
    Shared,
    /// It must be there.
    Given,
}

impl Group {
    /// Puts process `pid` into the group, below `root`.
    ///
    /// Errors: a group that must be there and is not, or has other shares; shares that the processor does not have.
    pub fn enter(&self, root: &Path, pid: i32) -> Result<(), Error> {
        let directory = root.join(&self.directory);
        let what = |path: &Path| format!("resctrl group {}", path.display());
        let is_new = match self.origin {
            Origin::Given if !directory.join("tasks").exists() => {
                return Err(Error::Option(format!("linux.intelRdt: no {}", what(&directory))));
            }
            Origin::Given => false,
            Origin::Own | Origin::Shared => make(&directory).context(|| what(&directory))?,
        };
        if is_new {
            for line in &self.schemata {
                let file = directory.join("schemata");
                write(&file, &format!("{line}\n"))?;
            }
        } else {
            self.compare(&directory)?;
        }
        write(&directory.join("tasks"), &pid.to_string())?;
        if let Some(name) = &self.monitor {
            let monitor = directory.join("mon_groups").join(name);
            make(&monitor).context(|| what(&monitor))?;
            write(&monitor.join("tasks"), &pid.to_string())?;
        }
        Ok(())
    }

    /// Changes shares of the group.
    ///
    /// Errors: the group is not there, or the processor does not have them.
    pub fn set(&self, root: &Path, schemata: &[&String]) -> Result<(), Error> {
        let file = root.join(&self.directory).join("schemata");
        schemata.iter().try_for_each(|line| write(&file, &format!("{line}\n")))
    }

    /// Removes what goes with the container. What is gone already is no error.
    pub fn remove(&self, root: &Path) -> Result<(), Error> {
        let directory = root.join(&self.directory);
        let gone = match (self.origin, &self.monitor) {
            (Origin::Own, _) => directory,
            (_, Some(name)) => directory.join("mon_groups").join(name),
            _ => return Ok(()),
        };
        match fs::remove_dir(&gone) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).context(|| format!("remove resctrl group {}", gone.display()))
            }
            _ => Ok(()),
        }
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
