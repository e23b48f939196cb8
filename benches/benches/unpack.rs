//! What unpacking a layer costs: an OCI layout with one layer of 1000 files of 8 KiB in 100 directories, as tar, gzip
//! and zstd, into an empty store, and `again` with the layer already there.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use serde_json::json;
use sha2::{Digest, Sha256};
use skiff_store::{ImageRef, Store};

const FILES: u32 = 1000;
const FILE_BYTES: usize = 8 << 10;

fn unpack(c: &mut Criterion) {
    let directory = std::env::temp_dir().join(format!("skiff-bench-{}", std::process::id()));
    fs::create_dir(&directory).expect("the temporary directory can be written to");
    let tar = layer().expect("memory can be written to");
    let mut group = c.benchmark_group("unpack");
    group.sample_size(20);
    for (kind, blob) in [("tar", tar.clone()), ("tar+gzip", gzip(&tar)), ("tar+zstd", zstd(&tar))] {
        let layout = directory.join(kind);
        write_layout(&layout, kind, &blob, &tar).expect("the temporary directory can be written to");
        let image = ImageRef::parse(&format!("oci:{}", layout.display())).expect("the name is valid");
        let mut turn = 0;
        let mut empty = || {
            turn += 1;
            directory.join(format!("store-{kind}-{turn}"))
        };
        group.bench_function(kind, |b| {
            b.iter_batched(&mut empty, |root| resolve(&root, &image), BatchSize::PerIteration);
        });
        let full = empty();
        resolve(&full, &image);
        group.bench_function(format!("{kind} again"), |b| b.iter(|| resolve(&full, &image)));
    }
    group.finish();
    fs::remove_dir_all(&directory).expect("the temporary directory can be removed");
}

/// Opens the store and resolves the image; the store's root is returned so that nobody pays for dropping it.
fn resolve(root: &Path, image: &ImageRef) -> PathBuf {
    let store = Store::open(root).expect("the store opens");
    store.resolve(image).expect("the image is valid");
    root.to_owned()
}

/// A tar of files that compress about as well as programs do.
fn layer() -> io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    for number in 0..FILES {
        let mut content = Vec::with_capacity(FILE_BYTES);
        while content.len() < FILE_BYTES {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            content.extend(seed.to_le_bytes());
            content.extend([0; 8]);
        }
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, format!("usr/{}/{number}", number % 100), content.as_slice())?;
    }
    tar.into_inner()
}

fn gzip(tar: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(tar).and_then(|()| encoder.finish()).expect("memory can be written to")
}

fn zstd(tar: &[u8]) -> Vec<u8> {
    zstd::encode_all(tar, 0).expect("memory can be written to")
}

/// Writes an OCI layout with the one layer `blob`, which is `tar` in the form `kind`.
fn write_layout(layout: &Path, kind: &str, blob: &[u8], tar: &[u8]) -> io::Result<()> {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let put = |media: &str, content: &[u8]| -> io::Result<serde_json::Value> {
        let digest = hex(content);
        fs::write(blobs.join(&digest), content)?;
        let media = format!("application/vnd.oci.image.{media}");
        Ok(json!({"mediaType": media, "digest": format!("sha256:{digest}"), "size": content.len()}))
    };
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hex(tar))]},
    });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put("config.v1+json", config.to_string().as_bytes())?,
        "layers": [put(&format!("layer.v1.{kind}"), blob)?],
    });
    let index = json!({
        "schemaVersion": 2, "manifests": [put("manifest.v1+json", manifest.to_string().as_bytes())?],
    });
    fs::write(layout.join("index.json"), index.to_string())?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#)
}

fn hex(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

criterion_group!(benches, unpack);
criterion_main!(benches);
