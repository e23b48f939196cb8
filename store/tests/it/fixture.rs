//! Images made by hand, and directories told in one line.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use skiff_store::{Image, ImageRef, Store};
use skiff_sys::xattr;

/// A directory that goes with the test.
pub(crate) struct Temp(PathBuf);

impl Temp {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("skiff-store-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Whether what needs root can be tested; says so if not.
pub(crate) fn root_or_skip() -> bool {
    if !is_root() {
        assert!(std::env::var_os("MUST_RUN").is_none(), "needs root");
        println!("skip: needs root");
    }
    is_root()
}

/// A tar archive from one line per entry:
/// `dir PATH`, `file PATH [TEXT]`, `symlink PATH TARGET`, `link PATH TARGET`, `fifo PATH`, `char PATH MAJOR MINOR`.
pub(crate) fn tar(entries: &[&str]) -> Vec<u8> {
    let mut archive = Vec::new();
    for entry in entries {
        let mut words = entry.split(' ');
        let mut next = || words.next().unwrap_or_default();
        let (verb, path, argument) = (next(), next(), next());
        let mut header = header(path);
        let mut data = "";
        match verb {
            "dir" => header.set_entry_type(tar::EntryType::Directory),
            "file" => data = argument,
            "symlink" => header.set_entry_type(tar::EntryType::Symlink),
            "link" => header.set_entry_type(tar::EntryType::Link),
            "fifo" => header.set_entry_type(tar::EntryType::Fifo),
            "char" => {
                header.set_entry_type(tar::EntryType::Char);
                header.set_device_major(argument.parse().unwrap()).unwrap();
                header.set_device_minor(next().parse().unwrap()).unwrap();
            }
            _ => panic!("no such verb: {entry}"),
        }
        if matches!(verb, "symlink" | "link") {
            header.as_old_mut().linkname[..argument.len()].copy_from_slice(argument.as_bytes());
        }
        append(&mut archive, &mut header, data.as_bytes());
    }
    archive.extend([0; 1024]);
    archive
}

/// A header with a name that need not be sane.
pub(crate) fn header(path: &str) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_mode(if path.ends_with('/') { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1);
    header
}

/// Adds an entry; its size is that of `data`.
pub(crate) fn append(archive: &mut Vec<u8>, header: &mut tar::Header, data: &[u8]) {
    header.set_size(data.len() as u64);
    header.set_cksum();
    archive.extend(header.as_bytes());
    archive.extend(data);
    archive.resize(archive.len().next_multiple_of(512), 0);
}

/// Adds a PAX header for the entry that comes next.
pub(crate) fn append_pax(archive: &mut Vec<u8>, records: &[(&str, &[u8])]) {
    let mut data = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length += 1;
        }
        data.extend(format!("{length} {key}=").as_bytes());
        data.extend(*value);
        data.push(b'\n');
    }
    let mut header = header("pax");
    header.set_entry_type(tar::EntryType::XHeader);
    append(archive, &mut header, &data);
}

pub(crate) fn sha256(data: &[u8]) -> String {
    Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn gzip(data: &[u8]) -> Vec<u8> {
    use std::io::Read;
    let mut packed = Vec::new();
    flate2::read::GzEncoder::new(data, flate2::Compression::fast()).read_to_end(&mut packed).unwrap();
    packed
}

pub(crate) fn zstd(data: &[u8]) -> Vec<u8> {
    zstd::encode_all(data, 1).unwrap()
}

/// A layer as it lies in an image.
pub(crate) struct Layer {
    pub(crate) blob: Vec<u8>,
    pub(crate) media_type: &'static str,
    pub(crate) diff_id: String,
}

impl Layer {
    pub(crate) fn plain(tar: Vec<u8>) -> Self {
        Self { diff_id: sha256(&tar), blob: tar, media_type: "application/vnd.oci.image.layer.v1.tar" }
    }

    pub(crate) fn gzip(tar: &[u8]) -> Self {
        Self {
            blob: gzip(tar),
            media_type: "application/vnd.oci.image.layer.v1.tar+gzip",
            diff_id: sha256(tar),
        }
    }

    pub(crate) fn zstd(tar: &[u8]) -> Self {
        Self {
            blob: zstd(tar),
            media_type: "application/vnd.oci.image.layer.v1.tar+zstd",
            diff_id: sha256(tar),
        }
    }
}

/// An OCI layout under construction.
pub(crate) struct Layout(pub(crate) PathBuf);

impl Layout {
    pub(crate) fn new(path: PathBuf) -> Self {
        fs::create_dir_all(path.join("blobs/sha256")).unwrap();
        fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self(path)
    }

    /// A layout with one image.
    pub(crate) fn of(path: PathBuf, layers: &[Layer]) -> Self {
        let layout = Self::new(path);
        let manifest = layout.image(layers, json!({}));
        layout.index(&[manifest]);
        layout
    }

    pub(crate) fn blob(&self, media_type: &str, data: &[u8]) -> Value {
        let digest = sha256(data);
        fs::write(self.blob_path(&digest), data).unwrap();
        json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": data.len() })
    }

    pub(crate) fn blob_path(&self, hex: &str) -> PathBuf {
        self.0.join("blobs/sha256").join(hex)
    }

    /// The descriptor of an image manifest; `config` is what the image asks for.
    pub(crate) fn image(&self, layers: &[Layer], config: Value) -> Value {
        let blobs: Vec<_> = layers.iter().map(|layer| self.blob(layer.media_type, &layer.blob)).collect();
        let diff_ids: Vec<_> = layers.iter().map(|layer| format!("sha256:{}", layer.diff_id)).collect();
        let config =
            json!({ "os": "linux", "config": config, "rootfs": { "type": "layers", "diff_ids": diff_ids } });
        let config = self.json("application/vnd.oci.image.config.v1+json", &config);
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": blobs });
        self.json("application/vnd.oci.image.manifest.v1+json", &manifest)
    }

    pub(crate) fn json(&self, media_type: &str, document: &Value) -> Value {
        self.blob(media_type, document.to_string().as_bytes())
    }

    /// The descriptor of an index.
    pub(crate) fn nested(&self, manifests: &[Value]) -> Value {
        self.json("application/vnd.oci.image.index.v1+json", &json!({ "manifests": manifests }))
    }

    pub(crate) fn index(&self, manifests: &[Value]) {
        let index = json!({ "schemaVersion": 2, "manifests": manifests });
        fs::write(self.0.join("index.json"), index.to_string()).unwrap();
    }

    pub(crate) fn reference(&self) -> String {
        format!("oci:{}", self.0.display())
    }
}

/// `descriptor` with another member.
pub(crate) fn with(mut descriptor: Value, key: &str, value: Value) -> Value {
    descriptor[key] = value;
    descriptor
}

pub(crate) fn resolve(store: &Path, image: &str) -> Result<Image, String> {
    let reference = ImageRef::parse(image).map_err(|e| e.to_string())?;
    Store::open(store).and_then(|store| store.resolve(&reference)).map_err(|e| e.to_string())
}

/// One line with all that is in `dir`, sorted: `dir/`, `file=text`, `link->target`, `fifo|`, `hidden!` for a
/// whiteout, `dir!/` for an opaque directory, `dev:1:3` for a device.
pub(crate) fn tell(dir: &Path) -> String {
    let mut told = Vec::new();
    if is_opaque(dir) {
        told.push("!".to_owned());
    }
    tell_below(dir, dir, &mut told);
    told.sort();
    told.join(" ")
}

fn tell_below(root: &Path, dir: &Path, told: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name =
            String::from_utf8_lossy(path.strip_prefix(root).unwrap().as_os_str().as_bytes()).into_owned();
        let meta = path.symlink_metadata().unwrap();
        let kind = meta.file_type();
        if kind.is_dir() {
            tell_below(root, &path, told);
        }
        told.push(if kind.is_dir() {
            format!("{name}{}/", if is_opaque(&path) { "!" } else { "" })
        } else if kind.is_symlink() {
            format!("{name}->{}", path.read_link().unwrap().display())
        } else if kind.is_fifo() {
            format!("{name}|")
        } else if kind.is_char_device() {
            match meta.rdev() {
                0 => format!("{name}!"),
                rdev => format!("{name}:{}:{}", nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev)),
            }
        } else {
            format!("{name}={}", String::from_utf8_lossy(&fs::read(&path).unwrap()))
        });
    }
}

fn is_opaque(dir: &Path) -> bool {
    use std::os::fd::AsFd;
    let name = if is_root() { c"trusted.overlay.opaque" } else { c"user.overlay.opaque" };
    let dir = fs::File::open(dir).unwrap();
    xattr::get(dir.as_fd(), name).unwrap().is_some_and(|value| value == b"y")
}

/// Unpacks a layer of these entries (see [`tar`]) and compares what [`tell`] says of it, or a part of the error if
/// `expect` starts with `error: `. An error must leave nothing behind, and nothing may appear beside the store.
pub(crate) fn check(entries: &[&str], expect: &str) {
    check_archive(tar(entries), &format!("{entries:?}"), expect);
}

/// As [`check`], for an archive made otherwise.
pub(crate) fn check_archive(archive: Vec<u8>, what: &str, expect: &str) {
    let temp = Temp::new();
    let layout = Layout::of(temp.join("oci"), &[Layer::plain(archive)]);
    let store = temp.join("store");
    match (resolve(&store, &layout.reference()), expect.strip_prefix("error: ")) {
        (Ok(image), None) => assert_eq!(tell(&image.layers[0]), expect, "{what}"),
        (Err(error), Some(expect)) => {
            assert!(error.contains(expect), "{what}: {error}, expected {expect}");
            assert_clean(&store, 0);
        }
        (got, _) => panic!("{what}: {got:?}, expected {expect}"),
    }
    assert_eq!(names(temp.path()), ["oci", "store"], "{what}");
}

/// The store holds so many layers, and nothing is left of work on any.
pub(crate) fn assert_clean(store: &Path, layers: usize) {
    assert_eq!(names(&store.join("tmp")), [""; 0]);
    assert_eq!(names(&store.join("layers/sha256")).len(), layers);
    assert_eq!(names(store), EMPTY_STORE);
}

/// What is in a store's root.
pub(crate) const EMPTY_STORE: [&str; 10] =
    ["blobs", "layers", "leases", "names", "partial", "sources", "tars", "tmp", "untagged", "version"];

pub(crate) fn names(dir: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(name).collect();
    names.sort();
    names
}

/// This host's architecture in Go's words.
pub(crate) fn goarch() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}
