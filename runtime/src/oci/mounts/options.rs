//! The options of `mounts`: one table, from which they are parsed and by which `features` names them.
//!
//! OCI runtime specification, config.md, "Linux mount options"; mount(8); mount_setattr(2).

use std::ffi::CString;

use skiff_sys::mount::{Attr, FsOption, Propagation};

use crate::Error;
use crate::plan::{MountFlags, Propagate};

/// What the options of one mount amount to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Chosen {
    /// Of the mount.
    pub(super) flags: MountFlags,
    /// Of the file system as such, by the names that fsconfig(2) has for them.
    pub(super) of_filesystem: Vec<FsOption>,
    /// For the file system alone to understand.
    pub(super) data: Vec<FsOption>,
    /// Whether part of the host is mounted, and whether with the mounts below it.
    pub(super) bind: Option<bool>,
    /// Whether something mounted is changed.
    pub(super) remount: bool,
    /// Whether owners are mapped, and whether below it too.
    pub(super) id_map: Option<bool>,
    /// Whether it starts with a copy of what it covers.
    pub(super) copy_up: bool,
}

/// What an option does.
#[derive(Debug, Clone, Copy)]
enum Effect {
    /// Nothing that is not so anyway.
    Nothing,
    /// Sets a flag of the mount.
    Set(Attr),
    /// Clears it.
    Clear(Attr),
    /// Chooses one of the ways to keep access times.
    Atime(Attr),
    /// These three, for the mounts below it too.
    SetBelow(Attr),
    ClearBelow(Attr),
    AtimeBelow(Attr),
    /// A property of the whole file system, given as it is called, and its opposite.
    Filesystem(&'static str, &'static str),
    /// Takes part of the host, with the mounts below it or not.
    Bind(bool),
    Remount,
    Propagate(Propagation, bool),
    /// Maps owners, below it too or not.
    IdMap(bool),
    CopyUp,
}

use Effect::{
    Atime, AtimeBelow, Bind, Clear, ClearBelow, CopyUp, Filesystem, IdMap, Nothing, Remount, Set, SetBelow,
};

/// The default way to keep access times.
const RELATIME: Attr = Attr::NONE;

/// Sorted by name.
const TABLE: [(&str, Effect); 64] = [
    ("acl", Filesystem("acl", "noacl")),
    ("async", Filesystem("async", "sync")),
    ("atime", Atime(RELATIME)),
    ("bind", Bind(false)),
    ("defaults", Nothing),
    ("dev", Clear(Attr::NODEV)),
    ("diratime", Clear(Attr::NODIRATIME)),
    ("dirsync", Filesystem("dirsync", "")),
    ("exec", Clear(Attr::NOEXEC)),
    ("idmap", IdMap(false)),
    ("iversion", Filesystem("iversion", "noiversion")),
    ("lazytime", Filesystem("lazytime", "nolazytime")),
    ("loud", Filesystem("", "silent")),
    ("mand", Filesystem("mand", "nomand")),
    ("noacl", Filesystem("noacl", "acl")),
    ("noatime", Atime(Attr::NOATIME)),
    ("nodev", Set(Attr::NODEV)),
    ("nodiratime", Set(Attr::NODIRATIME)),
    ("noexec", Set(Attr::NOEXEC)),
    ("noiversion", Filesystem("", "iversion")),
    ("nolazytime", Filesystem("nolazytime", "lazytime")),
    ("nomand", Filesystem("nomand", "mand")),
    ("norelatime", Atime(RELATIME)),
    ("nostrictatime", Atime(RELATIME)),
    ("nosuid", Set(Attr::NOSUID)),
    ("nosymfollow", Set(Attr::NOSYMFOLLOW)),
    ("private", Effect::Propagate(Propagation::Private, false)),
    ("ratime", AtimeBelow(RELATIME)),
    ("rbind", Bind(true)),
    ("rdev", ClearBelow(Attr::NODEV)),
    ("rdiratime", ClearBelow(Attr::NODIRATIME)),
    ("relatime", Atime(RELATIME)),
    ("remount", Remount),
    ("rexec", ClearBelow(Attr::NOEXEC)),
    ("ridmap", IdMap(true)),
    ("rnoatime", AtimeBelow(Attr::NOATIME)),
    ("rnodev", SetBelow(Attr::NODEV)),
    ("rnodiratime", SetBelow(Attr::NODIRATIME)),
    ("rnoexec", SetBelow(Attr::NOEXEC)),
    ("rnorelatime", AtimeBelow(RELATIME)),
    ("rnostrictatime", AtimeBelow(RELATIME)),
    ("rnosuid", SetBelow(Attr::NOSUID)),
    ("rnosymfollow", SetBelow(Attr::NOSYMFOLLOW)),
    ("ro", Set(Attr::RDONLY)),
    ("rprivate", Effect::Propagate(Propagation::Private, true)),
    ("rrelatime", AtimeBelow(RELATIME)),
    ("rro", SetBelow(Attr::RDONLY)),
    ("rrw", ClearBelow(Attr::RDONLY)),
    ("rshared", Effect::Propagate(Propagation::Shared, true)),
    ("rslave", Effect::Propagate(Propagation::Slave, true)),
    ("rstrictatime", AtimeBelow(Attr::STRICTATIME)),
    ("rsuid", ClearBelow(Attr::NOSUID)),
    ("rsymfollow", ClearBelow(Attr::NOSYMFOLLOW)),
    ("runbindable", Effect::Propagate(Propagation::Unbindable, true)),
    ("rw", Clear(Attr::RDONLY)),
    ("shared", Effect::Propagate(Propagation::Shared, false)),
    ("silent", Filesystem("silent", "")),
    ("slave", Effect::Propagate(Propagation::Slave, false)),
    ("strictatime", Atime(Attr::STRICTATIME)),
    ("suid", Clear(Attr::NOSUID)),
    ("symfollow", Clear(Attr::NOSYMFOLLOW)),
    ("sync", Filesystem("sync", "async")),
    ("tmpcopyup", CopyUp),
    ("unbindable", Effect::Propagate(Propagation::Unbindable, false)),
];

/// The names of all options that do not depend on the file system, sorted.
pub fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|(name, _)| *name)
}

/// Adds up options, of which the last on a matter counts. What the table does not have is the file system's.
pub(super) fn parse(options: &[String]) -> Result<Chosen, Error> {
    let mut chosen = Chosen::default();
    for option in options {
        match TABLE.binary_search_by_key(&option.as_str(), |(name, _)| name) {
            Ok(at) => chosen.add(TABLE[at].1)?,
            Err(_) => chosen.data.extend(data(option)?),
        }
    }
    Ok(chosen)
}

impl Chosen {
    /// Makes sure that nothing was asked of a file system which is there already, but what it has anyway or what shows
    /// nowhere.
    pub(super) fn has_no_options(&self) -> Result<(), Error> {
        let is_idle = |option: &&FsOption| {
            ["acl", "noacl", "async", "nomand", "nolazytime", "silent"]
                .iter()
                .any(|idle| is_flag(option, idle))
        };
        match self.of_filesystem.iter().find(|option| !is_idle(option)).or(self.data.first()) {
            Some(FsOption::Flag(key) | FsOption::Value(key, _)) => {
                Err(Error::Option(format!("cannot have the option {}", key.to_string_lossy())))
            }
            None => Ok(()),
        }
    }

    fn add(&mut self, effect: Effect) -> Result<(), Error> {
        let flags = &mut self.flags;
        match effect {
            Nothing => {}
            Set(attr) => change(&mut flags.set, &mut flags.clear, attr, Attr::NONE),
            Clear(attr) => change(&mut flags.set, &mut flags.clear, Attr::NONE, attr),
            Atime(attr) => change(&mut flags.set, &mut flags.clear, attr, Attr::ATIME),
            SetBelow(attr) => change(&mut flags.set_below, &mut flags.clear_below, attr, Attr::NONE),
            ClearBelow(attr) => change(&mut flags.set_below, &mut flags.clear_below, Attr::NONE, attr),
            AtimeBelow(attr) => change(&mut flags.set_below, &mut flags.clear_below, attr, Attr::ATIME),
            Filesystem(name, opposite) => {
                let is_either = |known: &FsOption| [name, opposite].iter().any(|name| is_flag(known, name));
                self.of_filesystem.retain(|known| !is_either(known));
                if !name.is_empty() {
                    self.of_filesystem.push(FsOption::Flag(c_text(name)?));
                }
            }
            Bind(recursive) => self.bind = Some(recursive || self.bind == Some(true)),
            Remount => self.remount = true,
            Effect::Propagate(to, recursive) => flags.propagation.push(Propagate { to, recursive }),
            IdMap(recursive) => self.id_map = Some(recursive),
            CopyUp => self.copy_up = true,
        }
        Ok(())
    }
}

/// Has `set` set and `clear` cleared, whatever was asked before. The access time's field stays marked as to be cleared,
/// for that is how a bit of it is set.
fn change(flags: &mut Attr, cleared: &mut Attr, set: Attr, clear: Attr) {
    *flags = flags.without(clear).with(set);
    *cleared = cleared.without(set.without(Attr::ATIME)).with(clear);
}

fn is_flag(option: &FsOption, name: &str) -> bool {
    matches!(option, FsOption::Flag(key) if key.to_bytes() == name.as_bytes())
}

/// `key=value` or `key`, several of them between commas that are not in quotes; quotes around a value go, as in mount(2).
fn data(option: &str) -> Result<Vec<FsOption>, Error> {
    let mut is_quoted = false;
    let parts = option.split(|letter: char| {
        is_quoted ^= letter == '"';
        letter == ',' && !is_quoted
    });
    parts.filter(|part| !part.is_empty()).map(datum).collect()
}

fn datum(part: &str) -> Result<FsOption, Error> {
    Ok(match part.split_once('=') {
        Some((key, value)) => {
            let inner = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
            FsOption::Value(c_text(key)?, c_text(inner.unwrap_or(value))?)
        }
        None => FsOption::Flag(c_text(part)?),
    })
}

fn c_text(text: &str) -> Result<CString, Error> {
    CString::new(text).map_err(|_| Error::Option(format!("NUL byte in mount option {text:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_has_every_name_once() {
        assert!(TABLE.is_sorted_by(|(a, _), (b, _)| a < b));
    }
}
