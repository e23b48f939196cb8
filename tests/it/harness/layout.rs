//! OCI image layouts and tar archives made by hand, well-formed or not.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// The name that images use for this machine's processor.
pub(crate) const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// A directory with `oci-layout`, `index.json` and blobs.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) dir: PathBuf,
}

impl Layout {
    pub(crate) fn open(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Makes an empty one, without an index yet.
    pub(crate) fn create(dir: &Path) -> Self {
        fs::create_dir_all(dir.join("blobs/sha256")).expect("a layout");
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("a layout's mark");
        Self::open(dir)
    }

    /// Stores a blob and returns its descriptor.
    pub(crate) fn add(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = hex(&Sha256::digest(bytes));
        fs::write(self.dir.join("blobs/sha256").join(&digest), bytes).expect("a blob");
        json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len() })
    }

    /// Where the blob with this digest is.
    pub(crate) fn blob_path(&self, digest: &str) -> PathBuf {
        self.dir.join("blobs").join(digest.replace(':', "/"))
    }

    /// The blob with this digest.
    pub(crate) fn blob(&self, digest: &str) -> Vec<u8> {
        fs::read(self.blob_path(digest)).expect("the blob is there")
    }

    /// The manifest with this tag.
    pub(crate) fn manifest(&self, tag: &str) -> Value {
        let index: Value =
            serde_json::from_slice(&fs::read(self.dir.join("index.json")).expect("an index")).expect("JSON");
        let mut all = index["manifests"].as_array().expect("manifests").iter();
        let entry = all
            .find(|entry| entry["annotations"]["org.opencontainers.image.ref.name"] == tag)
            .expect("the tag");
        serde_json::from_slice(&self.blob(entry["digest"].as_str().expect("a digest"))).expect("JSON")
    }

    /// Writes the index.
    pub(crate) fn finish(&self, manifests: &[Value]) {
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
        fs::write(self.dir.join("index.json"), index.to_string()).expect("an index");
    }

    /// A whole image of uncompressed layers whose only configuration is `config`; returns its reference.
    pub(crate) fn image(dir: &Path, config: &Value, layers: &[Vec<u8>]) -> String {
        let layout = Self::create(dir);
        let descriptors: Vec<Value> = layers.iter().map(|layer| layout.add(LAYER, layer)).collect();
        let ids: Vec<&Value> = descriptors.iter().map(|layer| &layer["digest"]).collect();
        let rootfs = json!({ "type": "layers", "diff_ids": ids });
        let config =
            json!({ "os": "linux", "architecture": ARCHITECTURE, "config": config, "rootfs": rootfs });
        let config = layout.add(CONFIG, config.to_string().as_bytes());
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": descriptors });
        let manifest = layout.add(MANIFEST, manifest.to_string().as_bytes());
        layout.finish(&[manifest]);
        format!("oci:{}", dir.display())
    }
}

/// A tar archive; names go into the headers unchecked, as an attacker would put them.
pub(crate) struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    pub(crate) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    pub(crate) fn dir(&mut self, name: &str) -> &mut Self {
        self.entry(name, tar::EntryType::Directory, 0o755, "", &[])
    }

    pub(crate) fn file(&mut self, name: &str, text: &str) -> &mut Self {
        self.mode_file(name, text, 0o644)
    }

    pub(crate) fn mode_file(&mut self, name: &str, text: &str, mode: u32) -> &mut Self {
        self.entry(name, tar::EntryType::Regular, mode, "", text.as_bytes())
    }

    /// A program that anyone may run.
    pub(crate) fn program(&mut self, name: &str, bytes: &[u8]) -> &mut Self {
        self.entry(name, tar::EntryType::Regular, 0o755, "", bytes)
    }

    pub(crate) fn symlink(&mut self, name: &str, target: &str) -> &mut Self {
        self.entry(name, tar::EntryType::Symlink, 0o777, target, &[])
    }

    pub(crate) fn hardlink(&mut self, name: &str, target: &str) -> &mut Self {
        self.entry(name, tar::EntryType::Link, 0o644, target, &[])
    }

    pub(crate) fn node(&mut self, name: &str, kind: tar::EntryType, major: u32, minor: u32) -> &mut Self {
        let mut header = header(name, kind, 0o666, "");
        header.set_device_major(major).expect("a ustar header");
        header.set_device_minor(minor).expect("a ustar header");
        self.append(header, &[])
    }

    pub(crate) fn owned_file(&mut self, name: &str, text: &str, uid: u64, gid: u64) -> &mut Self {
        let mut header = header(name, tar::EntryType::Regular, 0o640, "");
        header.set_uid(uid);
        header.set_gid(gid);
        self.append(header, text.as_bytes())
    }

    /// The archive with its end marker.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.0.into_inner().expect("memory does not fail")
    }

    fn entry(&mut self, name: &str, kind: tar::EntryType, mode: u32, link: &str, bytes: &[u8]) -> &mut Self {
        if name.len() > 99 {
            let mut long = header("././@LongLink", tar::EntryType::GNULongName, 0, "");
            long.set_size(name.len() as u64 + 1);
            self.append(long, &[name.as_bytes(), &[0]].concat());
        }
        self.append(header(&name[..name.len().min(99)], kind, mode, link), bytes)
    }

    fn append(&mut self, mut header: tar::Header, bytes: &[u8]) -> &mut Self {
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        self.0.append(&header, bytes).expect("memory does not fail");
        self
    }
}

fn header(name: &str, kind: tar::EntryType, mode: u32, link: &str) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    let fields = header.as_old_mut();
    fields.name[..name.len()].copy_from_slice(name.as_bytes());
    fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header
}

/// Pipes bytes through a command.
pub(crate) fn filter(words: &[&str], bytes: &[u8]) -> Vec<u8> {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("start {}: {e}", words[0]));
    let mut stdin = child.stdin.take().expect("piped");
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(bytes).expect("the filter reads"));
        let output = child.wait_with_output().expect("the filter ends");
        assert!(output.status.success(), "{words:?} failed");
        output.stdout
    })
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
