//! A container that runs, to be looked at from outside: the daemon's, one of `skiff run` without a daemon, or one that any
//! engine has started through skiff-runtime.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use serde_json::Value;
use skiff_engine::Client;
use skiff_engine::protocol::{Reply, Request};
use skiff_runtime::cgroup::Layout;
use skiff_runtime::container;
use skiff_sys::xattr;

use crate::client::refused;
use crate::failure::Failure;
use crate::roots::Roots;
use crate::values::cause;

/// Where a container runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// As its engine knows it.
    pub(crate) id: String,
    /// If it has one that is known here.
    pub(crate) name: Option<String>,
    /// Its cgroup v2 directory, in which or below which each of its processes is.
    pub(crate) directory: PathBuf,
}

impl Target {
    /// Opens its cgroup.
    pub(crate) fn open(&self) -> Result<OwnedFd, Failure> {
        fs::File::open(&self.directory).map(Into::into).map_err(|error| {
            let gone = error.kind() == io::ErrorKind::NotFound;
            if gone { self.not_running() } else { os(&format!("open {}", self.directory.display()), &error) }
        })
    }

    /// Whether a process is left in its cgroup.
    pub(crate) fn is_populated(&self) -> bool {
        fs::read_to_string(self.directory.join("cgroup.events"))
            .is_ok_and(|text| text.contains("populated 1"))
    }

    /// Its `cgroup.events`, to be polled: [`is_populated`].
    pub(crate) fn events(&self) -> io::Result<File> {
        File::open(self.directory.join("cgroup.events"))
    }

    /// What people call it.
    pub(crate) fn shown(&self) -> &str {
        self.name.as_ref().unwrap_or(&self.id)
    }

    fn not_running(&self) -> Failure {
        not_running(self.shown())
    }
}

/// Finds the container `name`: its name, its id, or the beginning of its id that no other has. It has a process.
///
/// Errors, with exit code 1: there is none, it is not running, several are meant.
pub(crate) fn find(name: &str) -> Result<Target, Failure> {
    let mount = Layout::of_host().unified;
    let mount = mount.ok_or_else(|| refused(Failure::engine("the host has no cgroup v2 hierarchy")))?;
    let roots = Roots::find()?;
    let ways: [&dyn Fn() -> Result<Option<Target>, Failure>; 4] = [
        &|| of_daemon(name, &roots, &mount),
        &|| of_note(name, &roots, &mount),
        &|| of_runtime(name),
        &|| of_mark(name, &mount),
    ];
    for way in ways {
        if let Some(found) = way()? {
            return if found.is_populated() { Ok(found) } else { Err(found.not_running()) };
        }
    }
    Err(refused(Failure::engine(format!("no such container: {name}"))))
}

/// Whether a process is left, by `cgroup.events`; no longer, once the directory is gone.
///
/// Polled for POLLPRI it tells of a change until this very descriptor has been read (kernfs), as here.
pub(crate) fn is_populated(events: &mut File) -> bool {
    let mut text = String::new();
    let read = events.seek(SeekFrom::Start(0)).and_then(|_| events.read_to_string(&mut text));
    read.is_ok() && text.contains("populated 1")
}

/// Asks the daemon, if there is one.
fn of_daemon(name: &str, roots: &Roots, mount: &Path) -> Result<Option<Target>, Failure> {
    let Ok(Some(mut client)) = Client::reach(&roots.run) else { return Ok(None) };
    let asked = client
        .request(&Request::Inspect { containers: vec![name.to_owned()] }, &[])
        .and_then(|()| client.reply());
    let Ok((Reply::Documents { documents, errors }, _)) = asked else { return Ok(None) };
    let Some(document) = documents.first() else {
        let other = errors.into_iter().find(|error| !error.starts_with("no such container"));
        return other.map_or(Ok(None), |error| Err(refused(Failure::engine(error))));
    };
    let text = |field: &str| document[field].as_str().map(str::to_owned);
    let id = text("Id").unwrap_or_default();
    let known_as = text("Name").map(|name| name.trim_start_matches('/').to_owned());
    let own = own_directory(mount, &id);
    // A process may have moved on, but not out of the container's cgroup.
    let pid = document.pointer("/State/Pid").and_then(Value::as_i64).filter(|pid| *pid > 0);
    if pid.is_none() {
        return Err(not_running(name));
    }
    Ok(Some(Target { id, name: known_as, directory: own }))
}

/// Looks at what is on record of containers that a `skiff run` stands by.
fn of_note(name: &str, roots: &Roots, mount: &Path) -> Result<Option<Target>, Failure> {
    let target =
        |id: String, name: Option<String>| Some(Target { directory: own_directory(mount, &id), id, name });
    let is_plain = !name.is_empty() && !name.contains('/') && name != "." && name != "..";
    if is_plain && let Ok(id) = fs::read_link(roots.run.join("names").join(name)) {
        return Ok(target(id.to_string_lossy().into_owned(), Some(name.to_owned())));
    }
    let ids = fs::read_dir(roots.run.join("containers")).into_iter().flatten().flatten();
    let ids = ids.filter_map(|entry| entry.file_name().into_string().ok());
    Ok(only(name, ids)?.and_then(|id| target(id, None)))
}

/// Looks at what skiff-runtime has on record where it is told nothing else.
fn of_runtime(name: &str) -> Result<Option<Target>, Failure> {
    let all = container::all(Path::new("/run/skiff-runtime")).unwrap_or_default();
    let ids = all.iter().map(|container| container.record().id.clone());
    let Some(id) = only(name, ids)? else { return Ok(None) };
    let found = all.into_iter().find(|container| container.record().id == id);
    let directory = found.and_then(|container| container.record().cgroups.unified.clone());
    Ok(directory.map(|directory| Target { id, name: None, directory }))
}

/// Looks for a cgroup that bears the mark of a container, and its id in its own name: `ID`, `docker-ID.scope` and the like.
fn of_mark(name: &str, mount: &Path) -> Result<Option<Target>, Failure> {
    let mut found = Vec::new();
    marked(mount, &mut found);
    let ids = found.iter().flat_map(|directory| names(directory)).filter(|id| id.starts_with(name));
    let Some(id) = only(name, ids)? else { return Ok(None) };
    let is_meant = |directory: &PathBuf| names(directory).any(|other| other == id);
    Ok(found.into_iter().find(is_meant).map(|directory| Target { id, name: None, directory }))
}

/// What an id may be in the name of a cgroup: all of it, or what follows a hyphen.
fn names(directory: &Path) -> impl Iterator<Item = String> {
    let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let name = name.strip_suffix(".scope").unwrap_or(&name).to_owned();
    let after: Vec<String> = name.match_indices('-').map(|(at, _)| name[at + 1..].to_owned()).collect();
    std::iter::once(name).chain(after).filter(|name| !name.is_empty())
}

/// The cgroups that containers have marked as theirs.
fn marked(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        let bears = fs::File::open(&path).is_ok_and(|file| {
            [c"trusted.skiff", c"user.skiff"]
                .into_iter()
                .any(|name| matches!(xattr::get_short(file.as_fd(), name), Ok(Some(_))))
        });
        marked(&path, found);
        if bears {
            found.push(path);
        }
    }
}

/// The one of `ids` that `name` is, or that it is the beginning of.
fn only(name: &str, ids: impl Iterator<Item = String>) -> Result<Option<String>, Failure> {
    let meant: Vec<String> = ids.filter(|id| !name.is_empty() && id.starts_with(name)).collect();
    if let Some(exact) = meant.iter().find(|id| *id == name) {
        return Ok(Some(exact.clone()));
    }
    match <[String; 1]>::try_from(meant) {
        Ok([id]) => Ok(Some(id)),
        Err(none) if none.is_empty() => Ok(None),
        Err(several) => Err(refused(Failure::engine(format!(
            "{name:?} is the beginning of {} containers' ids",
            several.len()
        )))),
    }
}

/// Where skiff puts its own containers.
fn own_directory(mount: &Path, id: &str) -> PathBuf {
    mount.join(format!("skiff-{id}"))
}

fn not_running(name: &str) -> Failure {
    refused(Failure::engine(format!("container {name} is not running")))
}

fn os(what: &str, error: &io::Error) -> Failure {
    Failure::engine(format!("{what}: {}", cause(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_cgroup_holds_an_id() {
        let of = |path: &str| names(Path::new(path)).collect::<Vec<_>>();
        assert_eq!(of("/docker/abc"), ["abc"]);
        assert_eq!(
            of("/system.slice/cri-containerd-abc.scope"),
            ["cri-containerd-abc", "containerd-abc", "abc"]
        );
    }

    #[test]
    fn an_id_is_meant_by_its_beginning() {
        let ids = || ["abcd", "abef", "ab"].map(str::to_owned).into_iter();
        assert_eq!(only("abc", ids()), Ok(Some("abcd".to_owned())));
        assert_eq!(only("ab", ids()), Ok(Some("ab".to_owned())));
        assert_eq!(only("x", ids()), Ok(None));
        assert_eq!(only("", ids()), Ok(None));
        let several = only("a", ids()).expect_err("three");
        assert_eq!(
            (several.code, several.message.as_str()),
            (1, "\"a\" is the beginning of 3 containers' ids")
        );
    }
}
