//! Containers that the pinned programs count, of whichever engine, and where the kernel keeps the rest about them.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use skiff_ebpf::pinned::{Pinned, Taken};
use skiff_engine::Client;
use skiff_engine::protocol::{Reply, Request};
use skiff_runtime::cgroup::{Cgroup, Layout, Paths, Usage};
use skiff_runtime::observe;

use crate::failure::Failure;
use crate::observe::failed;
use crate::roots::Roots;
use crate::values::cause;

/// How long the daemon may take to say what its containers are called.
const ANSWERED: Duration = Duration::from_secs(2);

/// A container that is counted.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) taken: Taken,
    pub(crate) id: String,
    /// Its cgroup v2 directory.
    pub(crate) directory: PathBuf,
    pub(crate) paths: Paths,
    /// A process of it, if one is left.
    pub(crate) pid: Option<i32>,
}

/// The containers that are counted, those that have ended and not been deleted included.
pub(crate) fn all(pinned: &Pinned) -> Result<Vec<Container>, Failure> {
    let layout = Layout::of_host();
    let mut all = Vec::new();
    for taken in pinned.taken().map_err(failed)? {
        let found = observe::find_cgroup(taken.owner.cgroup);
        let found = found.map_err(|error| Failure::engine(format!("find a cgroup: {}", cause(&error))))?;
        // One that has none any more is about to give its slot back, or has been killed before it could.
        if let Some(directory) = found {
            all.push(Container::new(taken, directory, &layout));
        }
    }
    Ok(all)
}

/// What people call containers, by their ids.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names(HashMap<String, String>);

impl Names {
    /// Of the daemon's containers, if one runs, and of those that a `skiff run` stands by. Who cannot be asked names none.
    pub(crate) fn find() -> Self {
        let Ok(roots) = Roots::find() else { return Self::default() };
        let noted = fs::read_dir(roots.run.join("names")).into_iter().flatten().flatten();
        let noted = noted.filter_map(|entry| {
            let id = fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned();
            Some((id, entry.file_name().into_string().ok()?))
        });
        let mut names: HashMap<_, _> = noted.collect();
        names.extend(of_daemon(&roots.run).into_iter().flatten().filter_map(|document| {
            let name = document.pointer("/Names/0").and_then(Value::as_str)?;
            Some((document["Id"].as_str()?.to_owned(), name.trim_start_matches('/').to_owned()))
        }));
        Self(names)
    }

    /// Of these pairs: id, name.
    #[cfg(test)]
    pub(crate) fn of_pairs(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(id, name)| ((*id).to_owned(), (*name).to_owned())).collect())
    }

    /// The name of the container `id`, if it is known.
    pub(crate) fn of(&self, id: &str) -> Option<&str> {
        self.0.get(id).map(String::as_str)
    }
}

/// The containers of the daemon; nothing if there is none, or it does not answer.
fn of_daemon(run: &Path) -> Option<Vec<Value>> {
    if crate::run::is_alone() {
        return None;
    }
    let mut client = Client::reach_within(run, ANSWERED).ok()??;
    client.request(&Request::List { all: true }, &[]).ok()?;
    match client.reply().ok()?.0 {
        Reply::Documents { documents, .. } => Some(documents),
        _ => None,
    }
}

/// The container that `name` means: its id, its name, the beginning of its id that no other has, or the last part of its cgroup's path.
pub(crate) fn find(pinned: &Pinned, name: &str) -> Result<Container, Failure> {
    let mut all = all(pinned)?;
    let is_exact = |container: &Container| container.id == name || container.directory.ends_with(name);
    let is_meant = |container: &&Container| container.id.starts_with(name);
    let count = all.iter().filter(is_meant).count();
    let at = all
        .iter()
        .position(is_exact)
        .or_else(|| {
            let names = Names::find();
            all.iter().position(|one| names.of(&one.id) == Some(name))
        })
        .or_else(|| all.iter().position(|one| is_meant(&one)).filter(|_| count == 1));
    match at {
        Some(at) if !name.is_empty() => Ok(all.swap_remove(at)),
        _ if count > 1 => {
            Err(Failure::engine(format!("{name:?} is the beginning of {count} containers' ids")))
        }
        _ => Err(unknown(pinned, name)?),
    }
}

fn unknown(pinned: &Pinned, name: &str) -> Result<Failure, Failure> {
    let refused = pinned.refused().map_err(failed)?;
    let is_refused = !name.is_empty() && refused.iter().any(|owner| owner.id().starts_with(name.as_bytes()));
    Ok(Failure::engine(if is_refused {
        format!("container {name} is not counted: all {} slots were taken when it began", pinned.slots())
    } else {
        format!(
            "no container {name:?} is counted: it must be started by skiff or skiff-runtime, after 'skiff observe on'"
        )
    }))
}

impl Container {
    fn new(taken: Taken, directory: PathBuf, layout: &Layout) -> Self {
        let pid = members(&directory, 1).first().copied();
        let paths = paths(&directory, layout);
        let id = String::from_utf8_lossy(taken.owner.id()).into_owned();
        Self { taken, id, directory, paths, pid }
    }

    /// The slot that it is counted in.
    pub(crate) const fn slot(&self) -> u32 {
        self.taken.slot
    }

    /// The id as people write it.
    pub(crate) fn short_id(&self) -> &str {
        short(&self.id)
    }

    /// What its cgroups have counted.
    pub(crate) fn usage(&self) -> Usage {
        Cgroup::open(&self.paths).map(|cgroup| cgroup.usage()).unwrap_or_default()
    }
}

/// An id as people write it: 12 digits of one that engines make up, all of any other.
pub(crate) fn short(id: &str) -> &str {
    let is_made_up = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_made_up { &id[..12] } else { id }
}

/// Processes in the cgroup `directory` and, unless there are so many already, in those below it.
pub(crate) fn members(directory: &Path, enough: usize) -> Vec<i32> {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    let mut found: Vec<i32> =
        text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if found.len() < enough && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(members(&entry.path(), enough));
        }
    }
    found
}

/// Where the container is in each hierarchy: by the same name in all, if it was put into it at all.
pub(crate) fn paths(directory: &Path, layout: &Layout) -> Paths {
    let below = layout.unified.as_ref().and_then(|mount| directory.strip_prefix(mount).ok());
    let legacy =
        layout.legacy.iter().filter_map(|(controller, mount)| Some((*controller, mount.join(below?))));
    let legacy: BTreeMap<_, _> = legacy.filter(|(_, path)| path.is_dir()).collect();
    Paths { unified: Some(directory.to_owned()), legacy, ..Paths::default() }
}
