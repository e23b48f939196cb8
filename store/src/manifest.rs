//! From the files of an image to its configuration and the list of its layers.
//!
//! Everything but the entry point (`index.json`, `manifest.json`) is found by digest and checked against it. All
//! functions fail with one line that does not name the image.

use std::io;

use serde::de::DeserializeOwned;

use crate::archive::name_of;
use crate::blob::{Blob, Compression};
use crate::digest::Digest;
use crate::error::cause;
use crate::platform::{self, Platform};
use crate::remote::Document;
use crate::source::Source;
use crate::spec::{Configuration, Descriptor, Parts, Saved};

/// Largest JSON document that is read, in bytes. Registries accept 4 MiB.
pub(crate) const DOCUMENT_MAX: u64 = 4 << 20;

/// Most bytes of manifests and configurations that are read of one archive, all images together.
const DOCUMENTS_MAX: u64 = 64 << 20;

/// Most indexes in each other.
const INDEXES_MAX: usize = 4;

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const FULL_NAME: &str = "io.containerd.image.name";

/// Media types of what skiff writes itself.
pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const CONFIGURATION_TYPE: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

/// An image, its layers not looked at yet.
#[derive(Debug)]
pub(crate) struct Manifest {
    /// Digest of the configuration.
    pub(crate) id: Digest,
    pub(crate) configuration: Configuration,
    /// Bottom first.
    pub(crate) layers: Vec<Layer>,
    /// Word for word; absent where the image has none (docker save).
    pub(crate) document: Option<Document>,
    /// The configuration word for word.
    pub(crate) configuration_bytes: Vec<u8>,
}

/// A layer's blob by name, and what must be true of it.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    /// File in the image's source.
    file: String,
    /// Digest and size of the blob, where the image says them.
    pub(crate) digest: Option<Digest>,
    pub(crate) size: Option<u64>,
    /// Empty where the image says none.
    pub(crate) media_type: String,
    pub(crate) compression: Option<Compression>,
    /// Whether registries need not have it.
    pub(crate) is_foreign: bool,
    /// Digest of the content.
    pub(crate) diff_id: Digest,
}

/// Where documents are found by digest.
pub(crate) trait Documents {
    /// The document's bytes, as long as `descriptor` says and not checked otherwise. Errors: one line that names it.
    fn document(&self, what: &str, descriptor: &Descriptor) -> Result<Document, String>;
}

impl Documents for Source {
    fn document(&self, what: &str, descriptor: &Descriptor) -> Result<Document, String> {
        let named = format!("{what} {}", descriptor.digest);
        let blob =
            self.open(&blob_name(descriptor.digest)).map_err(|e| format!("{named}: {}", missing(&e)))?;
        check_size(&named, blob.length(), descriptor)?;
        Ok(Document { media_type: descriptor.media_type.clone(), bytes: read(&named, blob)? })
    }
}

impl Manifest {
    /// Errors: it is for another platform.
    fn checked(self, want: &Platform) -> Result<Self, String> {
        let platform = &self.configuration.platform;
        if platform.is_for(want) { Ok(self) } else { Err(format!("is for {platform}, not for {want}")) }
    }

    fn is_one_of(&self, only: Option<&Platform>) -> bool {
        only.is_none_or(|only| self.configuration.platform.fits(only))
    }
}

impl Layer {
    /// What users know the layer by.
    pub(crate) fn name(&self) -> Digest {
        self.digest.unwrap_or(self.diff_id)
    }

    /// Errors: the blob is missing or has another size than the manifest says.
    pub(crate) fn open(&self, source: &Source) -> Result<Blob, String> {
        let blob = source.open(&self.file).map_err(|e| missing(&e))?;
        match self.size.filter(|&size| size != blob.length()) {
            Some(size) => Err(format!("blob has {} bytes, the manifest says {size}", blob.length())),
            None => Ok(blob),
        }
    }
}

/// The image called `tag` in an OCI layout, or the only one, for this host's platform.
pub(crate) fn of_layout(source: &Source, tag: Option<&str>) -> Result<Manifest, String> {
    let index =
        source.open("index.json").map_err(|e| format!("no OCI layout: index.json: {}", missing(&e)))?;
    let index: Parts = parse("index.json", &read("index.json", index)?)?;
    let named = named(index.manifests.as_deref().unwrap_or_default(), tag)?;
    let host = Platform::host();
    let descriptor = platform::choose(&named, &host)?;
    of_document(source, fetch(source, "manifest", descriptor)?, &host)
}

/// The image for `want` that a manifest or an index tells of.
pub(crate) fn of_document(
    documents: &dyn Documents,
    document: Document,
    want: &Platform,
) -> Result<Manifest, String> {
    chosen(documents, document, want)?.checked(want)
}

/// The same, whatever a manifest that stands alone is for.
fn chosen(documents: &dyn Documents, mut document: Document, want: &Platform) -> Result<Manifest, String> {
    for _ in 0..INDEXES_MAX {
        let digest = Digest::of(&document.bytes);
        let parts: Parts = parse(&format!("manifest {digest}"), &document.bytes)?;
        document = match (parts.manifests, parts.config, parts.layers) {
            (Some(manifests), None, None) => {
                let all: Vec<_> = manifests.iter().collect();
                fetch(documents, "manifest", platform::choose(&all, want)?)?
            }
            (None, Some(config), Some(layers)) => {
                return of_manifest(documents, document, &config, &layers);
            }
            _ => return Err(format!("manifest {digest} is neither index nor image manifest")),
        }
    }
    Err(format!("more than {INDEXES_MAX} indexes in each other"))
}

/// The image called `tag` in what docker save wrote, or the only one.
pub(crate) fn of_docker_archive(source: &Source, tag: Option<&str>) -> Result<Manifest, String> {
    if !source.has("manifest.json") && source.has("index.json") {
        return of_layout(source, tag);
    }
    let list = source
        .open("manifest.json")
        .map_err(|e| format!("no docker archive: manifest.json: {}", missing(&e)))?;
    let list: Vec<Saved> = parse("manifest.json", &read("manifest.json", list)?)?;
    of_saved(source, saved(&list, tag)?)?.checked(&Platform::host())
}

/// An image of an archive, and what it is called there.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) manifest: Manifest,
    pub(crate) names: Vec<String>,
}

/// Every image of an archive, for whatever platform.
pub(crate) fn all_of(source: &Source, only: Option<&Platform>) -> Result<Vec<Listed>, String> {
    let mut left = DOCUMENTS_MAX;
    let mut count = |manifest: &Manifest| {
        let document = manifest.document.as_ref().map_or(0, |document| document.bytes.len());
        let bytes = (manifest.configuration_bytes.len() + document) as u64;
        let too_many = || format!("its images' documents are larger than {DOCUMENTS_MAX} bytes together");
        left = left.checked_sub(bytes).ok_or_else(too_many)?;
        Ok::<_, String>(())
    };
    if source.has("manifest.json") {
        let list = source.open("manifest.json").map_err(|e| format!("manifest.json: {}", missing(&e)))?;
        let list: Vec<Saved> = parse("manifest.json", &read("manifest.json", list)?)?;
        let mut all = Vec::new();
        for saved in &list {
            let manifest = of_saved(source, saved)?;
            if !manifest.is_one_of(only) {
                continue;
            }
            count(&manifest)?;
            all.push(Listed { manifest, names: saved.repo_tags.clone() });
        }
        return Ok(all);
    }
    let index = source
        .open("index.json")
        .map_err(|e| format!("no image archive: neither manifest.json nor index.json: {}", missing(&e)))?;
    let index: Parts = parse("index.json", &read("index.json", index)?)?;
    let mut all: Vec<Listed> = Vec::new();
    for descriptor in index.manifests.as_deref().unwrap_or_default() {
        let named = descriptor.platform.as_ref();
        if named.is_some_and(|named| named.os == "unknown" || only.is_some_and(|only| !named.fits(only))) {
            continue;
        }
        let want = only.or(named).cloned().unwrap_or_else(Platform::host);
        let manifest = chosen(source, fetch(source, "manifest", descriptor)?, &want)?;
        if !manifest.is_one_of(only) {
            continue;
        }
        let manifest = manifest.checked(&want)?;
        count(&manifest)?;
        let names = name_of(&descriptor.annotations);
        match all.iter_mut().find(|other| other.manifest.id == manifest.id) {
            Some(other) => other.names.extend(names),
            None => all.push(Listed { manifest, names: names.into_iter().collect() }),
        }
    }
    Ok(all)
}

fn of_saved(source: &Source, saved: &Saved) -> Result<Manifest, String> {
    let data = source.open(&saved.config).map_err(|e| format!("{}: {}", saved.config, missing(&e)))?;
    let data = read(&saved.config, data)?;
    let id = Digest::of(&data);
    check("configuration", digest_in_name(&saved.config), id)?;
    let layer = |file: &String| Layer {
        file: file.clone(),
        digest: file.strip_prefix("blobs/sha256/").and_then(Digest::from_hex),
        size: None,
        media_type: String::new(),
        compression: None,
        is_foreign: false,
        diff_id: id,
    };
    let layers = saved.layers.iter().map(layer).collect();
    assemble(id, None, data, layers)
}

fn of_manifest(
    documents: &dyn Documents,
    document: Document,
    config: &Descriptor,
    layers: &[Descriptor],
) -> Result<Manifest, String> {
    let configuration = fetch(documents, "configuration", config)?;
    let layers = layers.iter().map(layer).collect::<Result<_, String>>()?;
    assemble(config.digest, Some(document), configuration.bytes, layers)
}

fn layer(layer: &Descriptor) -> Result<Layer, String> {
    let compression = Compression::of_media_type(&layer.media_type).ok_or_else(|| {
        format!("layer {}: media type {:?} is not supported", layer.digest, layer.media_type)
    })?;
    Ok(Layer {
        file: blob_name(layer.digest),
        digest: Some(layer.digest),
        size: Some(layer.size),
        media_type: layer.media_type.clone(),
        compression: Some(compression),
        is_foreign: !layer.urls.is_empty(),
        diff_id: layer.digest,
    })
}

/// Gives each layer its content's digest from the configuration.
fn assemble(
    id: Digest,
    document: Option<Document>,
    configuration_bytes: Vec<u8>,
    mut layers: Vec<Layer>,
) -> Result<Manifest, String> {
    let configuration: Configuration = parse(&format!("configuration {id}"), &configuration_bytes)?;
    let diff_ids = &configuration.rootfs.diff_ids;
    if diff_ids.len() != layers.len() {
        return Err(format!(
            "the manifest has {} layers, the configuration {}",
            layers.len(),
            diff_ids.len()
        ));
    }
    for (layer, &diff_id) in layers.iter_mut().zip(diff_ids) {
        layer.diff_id = diff_id;
    }
    Ok(Manifest { id, configuration, layers, document, configuration_bytes })
}

/// The entries of an index that `tag` may mean.
fn named<'a>(manifests: &'a [Descriptor], tag: Option<&str>) -> Result<Vec<&'a Descriptor>, String> {
    let name = |it: &'a Descriptor, key: &str| it.annotations.get(key).map(String::as_str);
    let mut names: Vec<&str> =
        manifests.iter().filter_map(|it| name(it, REF_NAME).or_else(|| name(it, FULL_NAME))).collect();
    names.dedup();
    let wanted = match tag {
        Some(tag) => tag,
        None if names.len() < 2 => return Ok(manifests.iter().collect()),
        None => "latest",
    };
    let called = |key: &str, wanted: &str| -> Vec<_> {
        manifests.iter().filter(|it| name(it, key).is_some_and(|name| familiar(name) == wanted)).collect()
    };
    let found =
        [called(REF_NAME, wanted), called(FULL_NAME, &full(wanted))].into_iter().find(|it| !it.is_empty());
    found.ok_or_else(|| none_of(tag, &names))
}

/// The image in a docker archive that `tag` means: a whole name, a name that lacks `latest`, or only the tag.
fn saved<'a>(list: &'a [Saved], tag: Option<&str>) -> Result<&'a Saved, String> {
    let names: Vec<&str> = list.iter().flat_map(|it| it.repo_tags.iter().map(String::as_str)).collect();
    let Some(wanted) = tag else {
        return match list {
            [only] => Ok(only),
            _ => Err(none_of(None, &names)),
        };
    };
    let find = |matches: &dyn Fn(&str) -> bool| {
        let mut found = list.iter().filter(|it| it.repo_tags.iter().any(|name| matches(name)));
        found.next().filter(|_| found.next().is_none())
    };
    find(&|name| familiar(name) == full(wanted))
        .or_else(|| find(&|name| name.rsplit_once(':').is_some_and(|(_, tag)| tag == wanted)))
        .ok_or_else(|| none_of(tag, &names))
}

/// A name without what Docker and Podman add to it.
fn familiar(name: &str) -> &str {
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    name.strip_prefix("library/").or_else(|| name.strip_prefix("localhost/")).unwrap_or(name)
}

/// A name with its tag.
fn full(name: &str) -> String {
    let name = familiar(name);
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains(':') { name.to_owned() } else { format!("{name}:latest") }
}

fn none_of(tag: Option<&str>, names: &[&str]) -> String {
    let there = if names.is_empty() { "images without names".to_owned() } else { names.join(", ") };
    match tag {
        Some(tag) => format!("holds no image {tag:?}, but {there}"),
        None => format!("holds several images, add :TAG to choose one of {there}"),
    }
}

/// A document by digest, checked against it.
fn fetch(documents: &dyn Documents, what: &str, descriptor: &Descriptor) -> Result<Document, String> {
    let document = documents.document(what, descriptor)?;
    check_size(&format!("{what} {}", descriptor.digest), document.bytes.len() as u64, descriptor)?;
    check(what, Some(descriptor.digest), Digest::of(&document.bytes))?;
    Ok(document)
}

fn check_size(named: &str, size: u64, descriptor: &Descriptor) -> Result<(), String> {
    match size == descriptor.size {
        true => Ok(()),
        false => Err(format!("{named}: {size} bytes, its descriptor says {}", descriptor.size)),
    }
}

fn read(what: &str, blob: Blob) -> Result<Vec<u8>, String> {
    blob.read_all(DOCUMENT_MAX).map_err(|e| format!("{what}: {}", cause(&e)))
}

pub(crate) fn parse<T: DeserializeOwned>(what: &str, data: &[u8]) -> Result<T, String> {
    serde_json::from_slice(data).map_err(|e| format!("{what}: {e}"))
}

fn check(what: &str, expected: Option<Digest>, found: Digest) -> Result<(), String> {
    match expected.filter(|&expected| expected != found) {
        Some(expected) => Err(format!("{what} {expected} has digest {found}")),
        None => Ok(()),
    }
}

fn blob_name(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// docker save names the configuration after its digest, in one of two ways.
fn digest_in_name(file: &str) -> Option<Digest> {
    let name = file.strip_prefix("blobs/sha256/").or_else(|| file.strip_suffix(".json"));
    name.and_then(Digest::from_hex)
}

fn missing(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::NotFound { "missing".to_owned() } else { cause(error) }
}
