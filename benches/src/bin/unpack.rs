//! What unpacking a layer costs: `bench unpack [-n COUNT] [--arms skiff,tar,bsdtar] [--parts tar,gzip] [--save]`.
//!
//! One layer of 4000 files of 4 to 20 KiB and 40 of 4 MiB goes into an empty directory, taking turns, until all of it is on
//! the disk. skiff checks two digests and notes how the archive looked besides.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use skiff_benches::lab::Lab;
use skiff_benches::options::Options;
use skiff_benches::report::Report;
use skiff_benches::samples::Samples;
use skiff_store::{Digest, ImageName, ImageRef, Silent, Store};

const SMALL_FILES: usize = 4000;
const LARGE_FILES: usize = 40;
const ARMS: [&str; 3] = ["skiff", "tar", "bsdtar"];

fn main() -> Result<()> {
    let options = Options::parse(std::env::args().skip(1), 5)?;
    let lab = Lab::new(&[])?;
    let mut report = Report::start("unpack", &[("tar", "--version"), ("bsdtar", "--version")])?;
    // On a disk, as stores are.
    let place = lab.rootfs().join("unpack");
    let layer = write_layer(&place)?;
    let megabytes = layer.tar.metadata()?.len() as f64 / 1e6;
    report.line(&format!(
        "\nMedians of {} times, taking turns: a layer of {megabytes:.0} MB, until it is on the disk.\n",
        options.count
    ));
    let mut rows = Vec::new();
    for (part, archive) in [("tar", &layer.tar), ("gzip", &layer.gzip)] {
        if options.wants_part(part) {
            rows.extend(measure(&layer, part, archive, &place, &options, megabytes)?);
        }
    }
    fs::remove_dir_all(&place)?;
    report.table(&["layer as", "by", "s", "MB/s of content"], &rows);
    if options.save {
        report.save(Path::new("benches/runs"))?;
    }
    Ok(())
}

fn measure(
    layer: &Layer,
    part: &str,
    archive: &Path,
    place: &Path,
    options: &Options,
    megabytes: f64,
) -> Result<Vec<Vec<String>>> {
    let layout = layer.write_layout(place, part, archive)?;
    let wanted = ARMS.into_iter().filter(|arm| options.wants(arm) && (*arm == "skiff" || is_installed(arm)));
    let mut arms: Vec<_> = wanted.map(|arm| (arm, Samples::new())).collect();
    // The first turn only warms up.
    for turn in 0..=options.count {
        for (arm, samples) in &mut arms {
            let target = place.join(format!("target/{turn}-{arm}"));
            fs::create_dir_all(&target)?;
            nix::unistd::syncfs(File::open(&target)?)?;
            let begun = Instant::now();
            match *arm {
                "skiff" => {
                    let store = Store::open(&target.join("store"))?;
                    let name = ImageName::parse("bench").map_err(anyhow::Error::msg)?;
                    store.load(&ImageRef::parse(&format!("oci:{}", layout.display()))?, &[name], &Silent)?;
                }
                program => {
                    command(Command::new(program).arg("-xpf").arg(archive).arg("-C").arg(&target))?;
                    nix::unistd::syncfs(File::open(&target)?)?;
                }
            }
            if turn > 0 {
                samples.push(begun.elapsed().as_secs_f64());
            }
        }
    }
    // Not sooner: ext4 passes over inodes that were freed in the last minutes, one by one for each new file. That took a third of the
    // processor time of the program that unpacks.
    fs::remove_dir_all(place.join("target"))?;
    let row = |(arm, samples): &(&str, Samples)| {
        let seconds = samples.median();
        let speed = format!("{:.0}", megabytes / seconds);
        vec![part.to_owned(), (*arm).to_owned(), format!("{seconds:.3}"), speed]
    };
    Ok(arms.iter().map(row).collect())
}

/// A layer's archive, plain and compressed.
struct Layer {
    tar: PathBuf,
    gzip: PathBuf,
    diff_id: Digest,
}

impl Layer {
    /// An image of this one layer.
    fn write_layout(&self, place: &Path, part: &str, archive: &Path) -> Result<PathBuf> {
        let layout = place.join(format!("layout-{part}"));
        let blobs = layout.join("blobs/sha256");
        fs::create_dir_all(&blobs)?;
        let put = |media_type: &str, bytes: &[u8]| -> Result<Value> {
            let digest = Digest::of(bytes);
            fs::write(blobs.join(digest.hex()), bytes)?;
            Ok(json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() }))
        };
        let suffix = if part == "gzip" { "+gzip" } else { "" };
        let layer = put(&format!("application/vnd.oci.image.layer.v1.tar{suffix}"), &fs::read(archive)?)?;
        let config = json!({ "rootfs": { "type": "layers", "diff_ids": [self.diff_id] } }).to_string();
        let config = put("application/vnd.oci.image.config.v1+json", config.as_bytes())?;
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [layer] }).to_string();
        let manifest = put("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes())?;
        fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        fs::write(layout.join("index.json"), json!({ "manifests": [manifest] }).to_string())?;
        Ok(layout)
    }
}

/// Files that compress about as well as programs do.
fn write_layer(place: &Path) -> Result<Layer> {
    let tree = place.join("tree");
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut content = |length: usize| {
        let mut bytes = Vec::with_capacity(length + 16);
        while bytes.len() < length {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            bytes.extend(seed.to_le_bytes());
            bytes.extend([0; 8]);
        }
        bytes
    };
    for number in 0..SMALL_FILES {
        let directory = tree.join(format!("small/{}", number % 200));
        fs::create_dir_all(&directory)?;
        fs::write(directory.join(number.to_string()), content(4096 + number % 17 * 1024))?;
    }
    for number in 0..LARGE_FILES {
        fs::create_dir_all(tree.join("large"))?;
        fs::write(tree.join(format!("large/{number}")), content(4 << 20))?;
    }
    let tar = place.join("layer.tar");
    command(Command::new("tar").arg("-cf").arg(&tar).arg("-C").arg(&tree).arg("."))?;
    command(Command::new("gzip").arg("-kn").arg(&tar))?;
    fs::remove_dir_all(&tree)?;
    let diff_id = Digest::of(&fs::read(&tar)?);
    Ok(Layer { gzip: place.join("layer.tar.gz"), tar, diff_id })
}

fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

fn command(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("start {command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}
