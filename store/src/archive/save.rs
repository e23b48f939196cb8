//! Out: images to an archive or a layout.
//!
//! ```text
//! blobs/sha256/HEX   layers as plain tars, configurations word for word, manifests made for both
//! index.json         OCI's way in
//! manifest.json      docker's, and before that
//! repositories       docker's
//! oci-layout
//! ```
//!
//! The same images make the same bytes. Layers are not compressed: whoever wants that compresses all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use nix::sys::time::TimeSpec;
use serde_json::{Value, json};

use super::{FULL_NAME, REF_NAME};
use crate::digest::Digest;
use crate::entries::{Entry, Kind};
use crate::error::cause;
use crate::lease::{Held, Lease};
use crate::manifest::{CONFIGURATION_TYPE, LAYER_TYPE, MANIFEST_TYPE, parse};
use crate::pack::Writer;
use crate::spec::Configuration;
use crate::store::{Store, printable};
use crate::{Error, ImageName};

/// An image to save.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saving {
    /// Its id.
    pub id: Digest,
    /// The names that it is to have in the archive.
    pub names: Vec<ImageName>,
}

/// Where images are saved to.
#[expect(missing_debug_implementations, reason = "holds what the caller writes to")]
pub enum To<'a> {
    /// What docker save writes: an OCI layout, and beside it what docker read before there was one.
    Docker(&'a mut dyn Write),
    /// An OCI layout as one tar file.
    OciArchive(&'a mut dyn Write),
    /// An OCI layout as a directory, which must not exist or be empty.
    OciLayout(&'a Path),
}

impl Store {
    /// Writes images with all their layers.
    ///
    /// Errors: [`Error::NoSuchImage`]; a layer is damaged, or came here in a way in which its tar was not kept.
    pub fn save(&self, images: &[Saving], to: To<'_>) -> Result<(), Error> {
        let failed = |what: &str, e: &io::Error| self.error(&printable(&format!("save: {what}{}", cause(e))));
        let mut documents = Documents::default();
        for image in images {
            documents.add(self, image)?;
        }
        let held = Held {
            layers: documents.layers.keys().copied().collect(),
            blobs: images.iter().map(|image| image.id).collect(),
        };
        let _lease = Lease::new(&self.disk, held).map_err(|e| failed("", &e))?;
        for (&layer, length) in &mut documents.layers {
            *length = self.layer_tar(layer)?.length();
        }
        let is_docker = matches!(to, To::Docker(_));
        let files = documents.files(images, is_docker)?;
        match to {
            To::Docker(out) | To::OciArchive(out) => {
                let mut out = io::BufWriter::with_capacity(1 << 20, out);
                self.write(&files, &mut Tar(Writer::new(&mut out))).map_err(|e| failed("", &e))?;
                out.flush().map_err(|e| failed("", &e))
            }
            To::OciLayout(path) => {
                let named = format!("{}: ", path.display());
                make_empty(path).map_err(|e| failed(&named, &e))?;
                self.write(&files, &mut Layout(path)).map_err(|e| failed(&named, &e))
            }
        }
    }

    fn write(&self, files: &BTreeMap<String, Content>, sink: &mut dyn Sink) -> io::Result<()> {
        sink.directory("blobs")?;
        sink.directory("blobs/sha256")?;
        for (name, content) in files {
            match content {
                Content::Bytes(bytes) => sink.file(name, bytes.len() as u64, &mut &bytes[..])?,
                Content::Layer(layer) => {
                    let mut tar = self.layer_tar(*layer).map_err(io::Error::other)?;
                    sink.file(name, tar.length(), &mut tar)?;
                }
            }
        }
        sink.finish()
    }
}

enum Content {
    Bytes(Vec<u8>),
    Layer(Digest),
}

/// What is known of the images before anything is written.
#[derive(Default)]
struct Documents {
    configurations: BTreeMap<Digest, (Vec<u8>, Vec<Digest>)>,
    /// With the lengths of their tars.
    layers: BTreeMap<Digest, u64>,
}

impl Documents {
    fn add(&mut self, store: &Store, image: &Saving) -> Result<(), Error> {
        let bytes = store.documents(image.id)?.configuration;
        let configuration: Configuration =
            parse(&format!("configuration {}", image.id), &bytes).map_err(|e| store.error(&printable(&e)))?;
        let diff_ids = configuration.rootfs.diff_ids;
        self.layers.extend(diff_ids.iter().map(|&diff_id| (diff_id, 0)));
        self.configurations.insert(image.id, (bytes, diff_ids));
        Ok(())
    }

    /// Every file, by name.
    fn files(&self, images: &[Saving], is_docker: bool) -> Result<BTreeMap<String, Content>, Error> {
        let mut files: BTreeMap<String, Content> =
            self.layers.keys().map(|&layer| (blob(layer), Content::Layer(layer))).collect();
        let (mut index, mut list) = (Vec::new(), Vec::new());
        let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for (id, names) in with_all_names(images) {
            let Some((configuration, layers)) = self.configurations.get(&id) else { continue };
            let manifest = self.manifest(id, configuration.len(), layers).to_string().into_bytes();
            let descriptor = json!({ "mediaType": MANIFEST_TYPE, "digest": Digest::of(&manifest), "size": manifest.len() });
            let tagged: Vec<_> = names.iter().filter_map(|name| Some((name, name.tag()?))).collect();
            for &(name, tag) in &tagged {
                let mut descriptor = descriptor.clone();
                let name_alone = name.with_tag(tag).unwrap_or_else(|_| (*name).clone());
                descriptor["annotations"] = json!({ FULL_NAME: name_alone.to_string(), REF_NAME: tag });
                index.push(descriptor);
                if let Some(top) = layers.last() {
                    let tags = repositories.entry(name.familiar_repository()).or_default();
                    tags.insert(tag.to_owned(), top.hex());
                }
            }
            if tagged.is_empty() {
                index.push(descriptor);
            }
            let tags: Vec<_> =
                tagged.iter().map(|(name, tag)| format!("{}:{tag}", name.familiar_repository())).collect();
            let layers: Vec<_> = layers.iter().map(|&layer| blob(layer)).collect();
            let tags = if tags.is_empty() { Value::Null } else { tags.into() };
            list.push(json!({ "Config": blob(id), "RepoTags": tags, "Layers": layers }));
            files.insert(blob(Digest::of(&manifest)), Content::Bytes(manifest));
            files.insert(blob(id), Content::Bytes(configuration.clone()));
        }
        const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
        let mut document = |name: &str, value: Value| {
            files.insert(name.to_owned(), Content::Bytes(value.to_string().into_bytes()));
        };
        document("index.json", json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": index }));
        document("oci-layout", json!({ "imageLayoutVersion": "1.0.0" }));
        if is_docker {
            document("manifest.json", list.into());
            document("repositories", json!(repositories));
        }
        Ok(files)
    }

    fn manifest(&self, id: Digest, configuration_bytes: usize, layers: &[Digest]) -> Value {
        let layer = |digest: &Digest| json!({ "mediaType": LAYER_TYPE, "digest": digest, "size": self.layers.get(digest) });
        json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": { "mediaType": CONFIGURATION_TYPE, "digest": id, "size": configuration_bytes },
            "layers": layers.iter().map(layer).collect::<Vec<_>>(),
        })
    }
}

/// Each image once, in the order in which they were asked for, with all the names that were.
fn with_all_names(images: &[Saving]) -> Vec<(Digest, BTreeSet<&ImageName>)> {
    let mut all: Vec<(Digest, BTreeSet<&ImageName>)> = Vec::new();
    for image in images {
        match all.iter_mut().find(|(id, _)| *id == image.id) {
            Some((_, names)) => names.extend(&image.names),
            None => all.push((image.id, image.names.iter().collect())),
        }
    }
    all
}

fn blob(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// What takes files in.
trait Sink {
    fn directory(&mut self, name: &str) -> io::Result<()>;
    fn file(&mut self, name: &str, length: u64, content: &mut dyn Read) -> io::Result<()>;
    fn finish(&mut self) -> io::Result<()>;
}

struct Tar<W: Write>(Writer<W>);

impl<W: Write> Tar<W> {
    fn entry(&mut self, name: &str, kind: Kind, mode: u32, size: u64) -> io::Result<()> {
        self.0.entry(&Entry {
            path: name.as_bytes().to_vec(),
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime: TimeSpec::new(0, 0),
            xattrs: Vec::new(),
            size,
            segments: None,
        })
    }
}

impl<W: Write> Sink for Tar<W> {
    fn directory(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, Kind::Directory, 0o755, 0)
    }

    fn file(&mut self, name: &str, length: u64, content: &mut dyn Read) -> io::Result<()> {
        self.entry(name, Kind::File, 0o644, length)?;
        let mut buffer = vec![0; 256 << 10];
        loop {
            match content.read(&mut buffer)? {
                0 => return Ok(()),
                count => self.0.data(&buffer[..count])?,
            }
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        self.0.end()
    }
}

struct Layout<'a>(&'a Path);

impl Sink for Layout<'_> {
    fn directory(&mut self, name: &str) -> io::Result<()> {
        fs::create_dir(self.0.join(name))
    }

    fn file(&mut self, name: &str, _length: u64, content: &mut dyn Read) -> io::Result<()> {
        let mut file = File::create_new(self.0.join(name))?;
        io::copy(content, &mut file).map(drop)
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn make_empty(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => match fs::read_dir(path)?.next() {
            None => Ok(()),
            Some(_) => Err(io::Error::other("is there, and not empty")),
        },
        made => made,
    }
}
