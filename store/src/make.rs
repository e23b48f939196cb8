//! Images that are made here: of a container's changes, or of a tar of a whole tree.

use std::io::{self, Read, Write};
use std::thread;

use serde_json::{Map, Value, json};

use crate::digest::Digest;
use crate::error::cause;
use crate::layers::LayerRecord;
use crate::pack::{self, Ids, Tree};
use crate::platform::Platform;
use crate::spec::or_default;
use crate::store::{Store, printable};
use crate::{Error, ImageName, instructions};

/// What an image that is made here is to say of itself.
#[derive(Debug, Clone, Default)]
pub struct Making {
    /// The configuration of the image below, word for word; all its layers must be here.
    pub base: Option<Vec<u8>>,
    /// What the image asks for, in place of what that one asked for: an object as a configuration's `config`.
    pub config: Option<Value>,
    /// Changes to that, as instructions of a Dockerfile.
    pub changes: Vec<String>,
    /// Who has made it; may be empty.
    pub author: String,
    /// What for; may be empty.
    pub message: String,
    /// The command that made it; may be empty.
    pub created_by: String,
    /// When, RFC 3339.
    pub created: String,
    /// What it runs on, where nothing is below it; absent: this host.
    pub platform: Option<Platform>,
}

/// One step in the making of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
pub struct History {
    /// RFC 3339; may be empty.
    #[serde(deserialize_with = "or_default")]
    pub created: String,
    /// The command that did it.
    #[serde(deserialize_with = "or_default")]
    pub created_by: String,
    /// Who did it.
    #[serde(deserialize_with = "or_default")]
    pub author: String,
    /// What for.
    #[serde(deserialize_with = "or_default")]
    pub comment: String,
    /// It changed no file.
    #[serde(deserialize_with = "or_default")]
    pub empty_layer: bool,
    /// Bytes in the files of its layer.
    #[serde(skip)]
    pub size_bytes: u64,
}

/// Writes all files that a container sees, without what is mounted there, as a tar.
///
/// Errors: one line.
pub fn export(tree: &Tree, ids: &Ids, out: &mut dyn Write) -> Result<(), String> {
    let mut out = io::BufWriter::with_capacity(1 << 20, out);
    pack::whole(tree, ids, &mut out).and_then(|()| out.flush()).map_err(|e| printable(&cause(&e)))
}

impl Store {
    /// Makes an image of one layer, whose tar, compressed or not, is `tar`. Returns its id.
    pub fn import(
        &self,
        tar: &mut (dyn Read + Send),
        making: &Making,
        names: &[ImageName],
    ) -> Result<Digest, Error> {
        // What is wrong with the words shows before the work.
        configuration(making, None).map_err(|e| self.unmade(e))?;
        let mut draft = self.draft()?;
        let layer = draft.layer(tar)?;
        let configuration = configuration(making, Some(layer)).map_err(|e| self.unmade(e))?;
        draft.commit(&configuration, None, names)
    }

    /// Makes an image of what a container has changed, on top of the image that it was made of. Returns its id.
    ///
    /// Errors: a file's name or content cannot be in a layer; a layer of the image below is missing.
    pub fn commit(
        &self,
        tree: &Tree,
        ids: &Ids,
        making: &Making,
        names: &[ImageName],
    ) -> Result<Digest, Error> {
        configuration(making, None).map_err(|e| self.unmade(e))?;
        let mut draft = self.draft()?;
        let (reader, writer) = io::pipe().map_err(|e| self.error(&cause(&e)))?;
        let (sender, verdict) = std::sync::mpsc::channel();
        let layer = thread::scope(|scope| {
            scope.spawn(move || {
                let mut out = io::BufWriter::with_capacity(256 << 10, writer);
                let packed = pack::layer(tree, ids, &mut out).and_then(|()| out.flush());
                // Before the pipe's end: the other side looks for it there.
                drop(sender.send(packed));
                // Not once more what could not be written.
                drop(out.into_parts());
            });
            draft.layer(&mut Piped { reader, verdict, ended: false })
        })?;
        let layer = Some(layer).filter(|layer| *layer != Digest::of(&[0; 1024]));
        let configuration = configuration(making, layer).map_err(|e| self.unmade(e))?;
        draft.commit(&configuration, None, names)
    }

    /// How an image was made, the oldest step first. Errors: [`Error::NoSuchImage`]; its configuration is damaged.
    pub fn history(&self, id: Digest) -> Result<Vec<History>, Error> {
        #[derive(serde::Deserialize)]
        struct Steps {
            #[serde(default, deserialize_with = "or_default")]
            history: Vec<History>,
        }
        let layers = self.image(id)?.layers;
        let steps: Steps = serde_json::from_slice(&self.documents(id)?.configuration)
            .map_err(|e| self.error(&format!("configuration {id}: {e}")))?;
        let mut history = steps.history;
        let mut sizes = layers.iter().map(|layer| {
            let record = LayerRecord::read(&self.disk, *layer).unwrap_or_default();
            record.map_or(0, |record| record.file_bytes)
        });
        for step in history.iter_mut().filter(|step| !step.empty_layer) {
            step.size_bytes = sizes.next().unwrap_or(0);
        }
        // Some writers tell nothing of how they came by their layers.
        history.extend(sizes.map(|size_bytes| History { size_bytes, ..History::default() }));
        Ok(history)
    }

    fn unmade(&self, reason: String) -> Error {
        Error::Invalid { image: "image".to_owned(), reason: printable(&reason) }
    }
}

/// A layer on its way from who packs it. Its end counts only if that one says so.
struct Piped {
    reader: io::PipeReader,
    verdict: std::sync::mpsc::Receiver<io::Result<()>>,
    ended: bool,
}

impl Read for Piped {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        if count == 0 && !buffer.is_empty() && !self.ended {
            self.ended = true;
            self.verdict.recv().map_err(io::Error::other)??;
        }
        Ok(count)
    }
}

/// The configuration of an image that gets `layer` on top.
fn configuration(making: &Making, layer: Option<Digest>) -> Result<Vec<u8>, String> {
    let mut all: Map<String, Value> = match &making.base {
        Some(base) => serde_json::from_slice(base).map_err(|e| format!("configuration: {e}"))?,
        None => {
            let platform = making.platform.clone().unwrap_or_else(Platform::host);
            let mut all = Map::new();
            all.insert("architecture".into(), platform.architecture.into());
            all.insert("os".into(), platform.os.into());
            if !platform.variant.is_empty() {
                all.insert("variant".into(), platform.variant.into());
            }
            all
        }
    };
    let below = all.remove("config");
    let mut config = match making.config.clone().or(below) {
        Some(Value::Object(config)) => config,
        _ => Map::new(),
    };
    instructions::apply(&mut config, &making.changes)?;
    all.insert("config".into(), config.into());
    all.insert("created".into(), making.created.clone().into());
    // What docker keeps of the container that the image below was made of.
    all.remove("container");
    all.remove("container_config");
    match making.author.is_empty() {
        true => drop(all.remove("author")),
        false => drop(all.insert("author".into(), making.author.clone().into())),
    }
    let mut step = json!({ "created": making.created });
    for (key, value) in
        [("author", &making.author), ("created_by", &making.created_by), ("comment", &making.message)]
    {
        if !value.is_empty() {
            step[key] = value.clone().into();
        }
    }
    if layer.is_none() {
        step["empty_layer"] = true.into();
    }
    push(&mut all, "history", step);
    let rootfs = all.entry("rootfs").or_insert_with(|| json!({ "type": "layers" }));
    let rootfs = rootfs.as_object_mut().ok_or("configuration: rootfs is no object")?;
    rootfs.entry("diff_ids").or_insert_with(|| json!([]));
    if let Some(layer) = layer {
        push(rootfs, "diff_ids", layer.to_string().into());
    }
    serde_json::to_vec(&all).map_err(|e| e.to_string())
}

fn push(object: &mut Map<String, Value>, key: &str, value: Value) {
    match object.get_mut(key) {
        Some(Value::Array(all)) => all.push(value),
        _ => drop(object.insert(key.to_owned(), json!([value]))),
    }
}
