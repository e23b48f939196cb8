//! `skiff commit`, `skiff diff` and `skiff export`: what a container has made of its image.
//!
//! The daemon says which container is meant and stops it for the time; its files are read here, by those who may.

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use skiff_engine::log::stamp::rfc3339;
use skiff_engine::protocol::Request;
use skiff_engine::record::Records;
use skiff_engine::{Record, State};
use skiff_runtime::options::Rootfs;
use skiff_store::{ChangeKind, Digest, IdRange, Ids, ImageRef, Making, Silent, Store, Tree};

use super::local::{Local, failed};
use super::sink::Sink;
use super::tag::new_name;
use crate::client::{ask, documents, now_ns, only, os, print, refused, understand};
use crate::failure::Failure;
use crate::format::plain;
use crate::line::{Command, Flag, Order, Rest, Section, add, put};

/// What a launch mounts on, beside what it was asked for.
pub(crate) const MOUNTS: [&str; 6] =
    ["/proc", "/dev", "/sys", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];

#[derive(Debug)]
pub(crate) struct Commit {
    author: String,
    changes: Vec<String>,
    message: String,
    pause: bool,
}

impl Default for Commit {
    fn default() -> Self {
        Self { author: String::new(), changes: Vec::new(), message: String::new(), pause: true }
    }
}

pub(crate) static COMMIT: Command<Commit> = Command {
    name: "commit",
    operands: "[OPTIONS] CONTAINER [NAME[:TAG]]",
    about: "\
Makes an image of what a container has changed, on top of its own, and prints its id. What lies on mounts is no part of
it.
",
    sections: &[Section {
        title: "Options",
        flags: &[
            Flag::value(Some('a'), "author", "TEXT", "who has made it", |a, v| put(&mut a.author, v.to_owned())),
            Flag::value(Some('c'), "change", "INSTRUCTION", "what a Dockerfile would say: 'CMD [\"sh\"]'", |a, v| {
                add(&mut a.changes, v.to_owned())
            }),
            Flag::value(Some('m'), "message", "TEXT", "what it is made for", |a, v| {
                put(&mut a.message, v.to_owned())
            }),
            Flag::switch(Some('p'), "pause", "freeze the container meanwhile (default true)", |a, on| a.pause = on),
        ],
    }],
    order: Order::Mixed,
    aliases: &[],
    unsupported: &[],
};

pub(crate) fn commit(words: Rest<'_>) -> Result<u8, Failure> {
    let Some((args, operands)) = understand(&COMMIT, words)? else { return Ok(0) };
    let (container, names) = match operands.as_slice() {
        [] => return Err(refused(COMMIT.usage("no container given"))),
        [container] => (container, Vec::new()),
        [container, name] => (container, vec![new_name(name)?]),
        [_, _, extra, ..] => return Err(refused(COMMIT.usage(&format!("unexpected argument: {extra}")))),
    };
    let local = Local::open()?;
    let container = Container::find(&local, container)?;
    let base = container.base(&local.store)?;
    let making = Making {
        config: Some(container.config(&base.configuration)?),
        base: Some(base.configuration),
        changes: args.changes,
        author: args.author,
        message: args.message,
        created_by: container.command(),
        created: rfc3339(now_ns()),
        platform: None,
    };
    let frozen = args.pause.then(|| container.freeze()).transpose()?;
    let made = local.store.commit(&container.tree()?, &container.ids(), &making, &names);
    drop(frozen);
    if let Some(id) = base.kept {
        // It was brought here for this alone; its layers are the new image's, too. It stays while the container runs.
        if let Err(error) = local.store.remove(&id.to_string(), true) {
            tracing::debug!(%error, "remove the image that {} was made of", container.name);
        }
    }
    let id = made.map_err(failed)?;
    print(&format!("{id}\n"))
}

pub(crate) static DIFF: Command<()> = Command {
    name: "diff",
    operands: "CONTAINER",
    about: "\
Shows what a container has changed of its image's files: A for what it has added, C for what it has changed, D for what
it has removed.
",
    sections: &[],
    order: Order::Mixed,
    aliases: &[],
    unsupported: &[],
};

pub(crate) fn diff(words: Rest<'_>) -> Result<u8, Failure> {
    let Some(((), operands)) = understand(&DIFF, words)? else { return Ok(0) };
    let container = only(&DIFF, operands)?;
    let local = Local::open()?;
    let tree = Container::find(&local, &container)?.tree()?;
    let mut text = Vec::new();
    for change in tree.changes().map_err(|reason| refused(Failure::engine(reason)))? {
        text.push(match change.kind {
            ChangeKind::Added => b'A',
            ChangeKind::Modified => b'C',
            ChangeKind::Deleted => b'D',
        });
        text.push(b' ');
        for part in change.path.utf8_chunks() {
            text.extend(plain(part.valid()).into_bytes());
            text.extend(part.invalid());
        }
        text.push(b'\n');
    }
    io::stdout().write_all(&text).map_err(|error| os("write to standard output", &error))?;
    Ok(0)
}

#[derive(Debug, Default)]
pub(crate) struct Export {
    output: Option<PathBuf>,
}

pub(crate) static EXPORT: Command<Export> = Command {
    name: "export",
    operands: "[OPTIONS] CONTAINER",
    about: "\
Writes all files of a container as a tar archive, to standard output or a file. What lies on mounts is no part of it.
",
    sections: &[Section {
        title: "Options",
        flags: &[Flag::bytes(Some('o'), "output", "FILE", "write to this file", |a, v| {
            put(&mut a.output, Some(PathBuf::from(v)))
        })],
    }],
    order: Order::Mixed,
    aliases: &[],
    unsupported: &[],
};

pub(crate) fn export(words: Rest<'_>) -> Result<u8, Failure> {
    let Some((args, operands)) = understand(&EXPORT, words)? else { return Ok(0) };
    let container = only(&EXPORT, operands)?;
    let local = Local::open()?;
    let container = Container::find(&local, &container)?;
    let tree = container.tree()?;
    let mut sink = Sink::open(args.output.as_deref(), "export")?;
    let written = skiff_store::export(&tree, &container.ids(), &mut sink);
    written.map_err(|reason| refused(Failure::engine(format!("export: {reason}"))))?;
    sink.keep()?;
    Ok(0)
}

/// A container of the daemon's.
struct Container {
    /// As the caller has it.
    name: String,
    record: Record,
    directory: PathBuf,
    /// What the daemon says of its configuration.
    document: Value,
}

/// The image that a container was made of.
struct Base {
    configuration: Vec<u8>,
    /// It was brought here for this alone.
    kept: Option<Digest>,
}

/// A container that stands still, until dropped.
struct Frozen(String);

impl Drop for Frozen {
    fn drop(&mut self) {
        let thaw = Request::Pause { containers: vec![self.0.clone()], frozen: false };
        if let Err(failure) = ask(&thaw) {
            eprintln!("skiff: {failure}");
        }
    }
}

impl Container {
    fn find(local: &Local, name: &str) -> Result<Self, Failure> {
        let (mut found, errors) = documents(&Request::Inspect { containers: vec![name.to_owned()] })?;
        let none = || refused(Failure::engine(errors.first().map_or("no such container", String::as_str)));
        let document = found.pop().ok_or_else(none)?;
        let id = document["Id"].as_str().unwrap_or_default();
        let failed = |reason: String| refused(Failure::engine(format!("container {name}: {reason}")));
        let records = Records::open(&local.roots.state).map_err(|error| failed(error.to_string()))?;
        let record = records.one(id).map_err(failed)?.ok_or_else(none)?;
        Ok(Self { name: name.to_owned(), directory: records.directory(id), record, document })
    }

    fn failure(&self, reason: &str) -> Failure {
        refused(Failure::engine(format!("container {}: {reason}", self.name)))
    }

    /// Its files, without a mount.
    fn tree(&self) -> Result<Tree, Failure> {
        let options = &self.record.spec.options;
        let Rootfs::Layers(layers) = &options.rootfs else {
            return Err(self.failure("its files are the host's"));
        };
        let upper = self.directory.join("upper");
        let has_run = self.record.state != State::Created;
        let upper = match upper.is_dir() {
            true => Some(upper),
            false if has_run && !options.read_only => {
                return Err(self.failure("what it writes is in memory, where nobody else can read it"));
            }
            false => None,
        };
        let own = MOUNTS.iter().map(PathBuf::from);
        let asked = options.mounts.iter().map(|mount| mount.target().to_owned());
        Ok(Tree { upper, layers: layers.clone(), mounts: own.chain(asked).collect() })
    }

    /// Whose files are whose: in the namespace of a user without root, everything is that user's.
    fn ids(&self) -> Ids {
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        if uid.is_root() {
            return Ids::default();
        }
        let only = |id: u32| vec![IdRange { inside: 0, outside: id, count: 1 }];
        Ids { uids: only(uid.as_raw()), gids: only(gid.as_raw()) }
    }

    /// Lets nothing change, if anything runs that could.
    fn freeze(&self) -> Result<Option<Frozen>, Failure> {
        let state = &self.document["State"];
        if state["Running"] != true || state["Paused"] == true {
            return Ok(None);
        }
        let freeze = Request::Pause { containers: vec![self.record.id.clone()], frozen: true };
        match ask(&freeze)? {
            skiff_engine::protocol::Reply::Done { errors, .. } if errors.is_empty() => {
                Ok(Some(Frozen(self.record.id.clone())))
            }
            // It has ended meanwhile.
            _ => Ok(None),
        }
    }

    /// The image that it was made of. Those of layouts and archives are brought into the store, for the time.
    fn base(&self, store: &Store) -> Result<Base, Failure> {
        let id = self.record.image_id.clone().and_then(|id| Digest::try_from(id).ok());
        let id =
            id.ok_or_else(|| self.failure("it was not made of an image, so there is nothing to build on"))?;
        if let Ok(documents) = store.documents(id) {
            return Ok(Base { configuration: documents.configuration, kept: None });
        }
        let from = ImageRef::parse(&self.record.spec.image).map_err(failed)?;
        let gone = || self.failure("its image is not here any more");
        let is_elsewhere =
            matches!(from, ImageRef::OciLayout(_) | ImageRef::OciArchive(_) | ImageRef::DockerArchive(_));
        if !is_elsewhere || store.load(&from, &[], &Silent).map_err(failed)? != id {
            return Err(gone());
        }
        let documents = store.documents(id).map_err(failed)?;
        Ok(Base { configuration: documents.configuration, kept: Some(id) })
    }

    /// What the new image asks for: what its own did, and what the caller of the container has added.
    fn config(&self, base: &[u8]) -> Result<Value, Failure> {
        let base: Value =
            serde_json::from_slice(base).map_err(|error| self.failure(&format!("its image: {error}")))?;
        let mut config: Map<String, Value> = base["config"].as_object().cloned().unwrap_or_default();
        let spec = &self.record.spec;
        let words = |words: &[std::ffi::OsString]| -> Value {
            words.iter().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().into()
        };
        if let Some(program) = &spec.entrypoint {
            let entrypoint =
                if program.is_empty() { Value::Null } else { words(std::slice::from_ref(program)) };
            config.insert("Entrypoint".into(), entrypoint);
            config.insert("Cmd".into(), Value::Null);
        }
        if !spec.command.is_empty() {
            config.insert("Cmd".into(), words(&spec.command));
        }
        let own = &self.document["Config"];
        config.insert("Env".into(), json!(environment(&own["Env"])));
        for field in ["User", "Labels", "Volumes", "Healthcheck"] {
            match &own[field] {
                Value::Null => {}
                Value::String(text) if text.is_empty() => {}
                value => drop(config.insert(field.into(), value.clone())),
            }
        }
        let dir = own["WorkingDir"].as_str().unwrap_or_default();
        if !matches!(dir, "" | "/") || config.contains_key("WorkingDir") {
            config.insert("WorkingDir".into(), dir.into());
        }
        if spec.stop_signal.is_some() {
            config.insert("StopSignal".into(), own["StopSignal"].clone());
        }
        config.retain(|_, value| !value.is_null());
        Ok(config.into())
    }

    /// What has made the layer.
    fn command(&self) -> String {
        let argv = &self.record.spec.options.argv;
        let words: Vec<_> = argv.iter().map(|word| String::from_utf8_lossy(word.as_bytes())).collect();
        words.join(" ")
    }
}

/// Variables, of each name the last.
fn environment(all: &Value) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for pair in all.as_array().into_iter().flatten().filter_map(Value::as_str) {
        let name = |pair: &str| pair.split_once('=').map_or(pair.to_owned(), |(name, _)| name.to_owned());
        match kept.iter_mut().find(|other| name(other) == name(pair)) {
            Some(other) => pair.clone_into(other),
            None => kept.push(pair.to_owned()),
        }
    }
    kept
}

/// Bytes in the files that a container has written.
pub(super) fn written_bytes(directory: &Path) -> u64 {
    let mut bytes = 0;
    let mut waiting = vec![directory.join("upper")];
    while let Some(next) = waiting.pop() {
        // It may be gone, or another's.
        for entry in std::fs::read_dir(next).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => waiting.push(entry.path()),
                Ok(meta) if meta.is_file() => bytes += meta.len(),
                _ => {}
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_variable_of_a_name_counts_where_the_first_stood() {
        let all = json!(["A=1", "B=2", "A=3", "C"]);
        assert_eq!(environment(&all), ["A=3", "B=2", "C"]);
        assert!(environment(&Value::Null).is_empty());
    }
}
