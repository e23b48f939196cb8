//! What it costs to stack an image's layers: `bench layers [-n COUNT] [--save]`.
//!
//! Images of 1 to 100 layers, 2000 small files in all, are mounted the way a launch does it, as directories and merged
//! into one tree, taking turns. Measured of each: opening layers and mounting, the first opening of files spread over all
//! layers, looking for names that no layer has, and unmounting.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;
use serde_json::json;
use skiff_benches::lab::Lab;
use skiff_benches::options::Options;
use skiff_benches::report::Report;
use skiff_benches::samples::Samples;
use skiff_store::{Digest, Form, Image, ImageRef, Store};
use skiff_sys::mount::{self, Attr, FsContext, FsOption};

const LAYERS: [usize; 5] = [1, 10, 16, 50, 100];
const FILES: usize = 2000;
const OPENED: usize = 200;

fn main() -> Result<()> {
    let options = Options::parse(std::env::args().skip(1), 50)?;
    let lab = Lab::new(&[])?;
    let mut report = Report::start("layers", &[])?;
    report.line(&format!(
        "\nMedians of {} mounts of each, taking turns, in µs: images of {FILES} files; {OPENED} of them opened for the first time, {OPENED} names looked for that are not there.\n",
        options.count
    ));
    let mut rows = Vec::new();
    for count in LAYERS {
        rows.extend(measure(&lab, count, options.count).with_context(|| format!("{count} layers"))?);
    }
    report.table(&["layers", "as", "mount", "open", "not there", "unmount"], &rows);
    if options.save {
        report.save(Path::new("benches/runs"))?;
    }
    Ok(())
}

fn measure(lab: &Lab, count: usize, turns: usize) -> Result<Vec<Vec<String>>> {
    // On a disk: a tmpfs has no place for what a launch keeps there.
    let place = lab.rootfs().join(format!("layers-{count}"));
    let layout = place.join("layout");
    write_layout(&layout, count)?;
    let store = Store::open(&place.join("store"))?.with_form(Form::Merged);
    let image = store.resolve(&ImageRef::parse(&format!("oci:{}", layout.display()))?)?;
    ensure!(image.merged.is_some(), "the layers have not been merged");
    let mut arms = [Arm::new("directories", false), Arm::new("merged", true)];
    for turn in 0..turns + 2 {
        for arm in &mut arms {
            arm.turn(&image, &place, count, turn >= 2)?;
        }
    }
    fs::remove_dir_all(&place)?;
    Ok(arms.iter().map(|arm| arm.row(count)).collect())
}

struct Arm {
    name: &'static str,
    is_merged: bool,
    /// Mount, open, not there, unmount; µs.
    samples: [Samples; 4],
}

impl Arm {
    fn new(name: &'static str, is_merged: bool) -> Self {
        Self { name, is_merged, samples: std::array::from_fn(|_| Samples::new()) }
    }

    fn turn(&mut self, image: &Image, place: &Path, layers: usize, counts: bool) -> Result<()> {
        let writable = place.join("writable");
        for below in ["upper", "work"] {
            fs::create_dir_all(writable.join(below))?;
        }
        let target = place.join("target");
        fs::create_dir_all(&target)?;
        let begun = Instant::now();
        let mounted = if self.is_merged { merged(image, &writable)? } else { directories(image, &writable)? };
        mount::attach(mounted.as_fd(), path(&target)?.as_fd())?;
        drop(mounted);
        let mount = begun.elapsed();
        let begun = Instant::now();
        for number in 0..OPENED {
            let file = target.join(file(number * (FILES / OPENED), layers));
            File::open(&file).with_context(|| file.display().to_string())?.read_exact(&mut [0; 10])?;
        }
        let open = begun.elapsed();
        let begun = Instant::now();
        for number in 0..OPENED {
            ensure!(!target.join(format!("usr/bin/none{number}")).exists(), "a file that is not there is");
        }
        let absent = begun.elapsed();
        let begun = Instant::now();
        umount2(&target, MntFlags::empty())?;
        let unmount = begun.elapsed();
        fs::remove_dir_all(&writable)?;
        if counts {
            for (samples, time) in self.samples.iter_mut().zip([mount, open, absent, unmount]) {
                samples.push(time.as_secs_f64() * 1e6);
            }
        }
        Ok(())
    }

    fn row(&self, layers: usize) -> Vec<String> {
        let medians = self.samples.iter().map(|samples| format!("{:.0}", samples.median()));
        [layers.to_string(), self.name.to_owned()].into_iter().chain(medians).collect()
    }
}

fn directories(image: &Image, writable: &Path) -> Result<OwnedFd> {
    let layers: Vec<_> = image.layers.iter().map(|layer| path(layer)).collect::<Result<_>>()?;
    let context = FsContext::open(c"overlay", None)?;
    for layer in &layers {
        context.set_fd(c"lowerdir+", layer.as_fd())?;
    }
    overlay(context, writable)
}

fn merged(image: &Image, writable: &Path) -> Result<OwnedFd> {
    let merged = image.merged.as_ref().context("not merged")?;
    let name = std::ffi::CString::new(merged.tree.to_str().context("a path that is text")?)?;
    let tree = mount::new_filesystem(c"erofs", Some(&name), &[], Attr::RDONLY)?;
    let context = FsContext::open(c"overlay", None)?;
    context.set_fd(c"lowerdir+", tree.as_fd())?;
    context.set_fd(c"datadir+", path(&merged.data)?.as_fd())?;
    overlay(context, writable)
}

fn overlay(context: FsContext, writable: &Path) -> Result<OwnedFd> {
    context.set_fd(c"upperdir", path(&writable.join("upper"))?.as_fd())?;
    context.set_fd(c"workdir", path(&writable.join("work"))?.as_fd())?;
    context.set(&FsOption::Flag(c"volatile".into()))?;
    Ok(context.mount(Attr::NONE)?)
}

fn path(path: &Path) -> Result<OwnedFd> {
    nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .with_context(|| path.display().to_string())
}

/// The name of a file, which says what layer it is in.
fn file(number: usize, layers: usize) -> PathBuf {
    PathBuf::from(format!("usr/bin/in{}-{number}", number * layers / FILES))
}

/// An OCI layout of `count` layers that are not compressed.
fn write_layout(layout: &Path, count: usize) -> Result<()> {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let store = |bytes: &[u8], kind: &str| -> Result<serde_json::Value> {
        let digest = Digest::of(bytes);
        fs::write(blobs.join(digest.hex()), bytes)?;
        Ok(json!({ "mediaType": kind, "digest": digest.to_string(), "size": bytes.len() }))
    };
    let mut layers = Vec::new();
    for layer in 0..count {
        let mut tar = tar::Builder::new(Vec::new());
        for number in (0..FILES).filter(|number| number * count / FILES == layer) {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o755);
            header.set_size(100);
            tar.append_data(&mut header, file(number, count), &[b'x'; 100][..])?;
        }
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(1);
        tar.append_data(&mut header, format!("opt/{layer}/x"), &b"y"[..])?;
        layers.push(store(&tar.into_inner()?, "application/vnd.oci.image.layer.v1.tar")?);
    }
    let diff_ids: Vec<_> = layers.iter().map(|layer| layer["digest"].clone()).collect();
    let config = json!({ "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": diff_ids } });
    let config = store(&serde_json::to_vec(&config)?, "application/vnd.oci.image.config.v1+json")?;
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
    let manifest = store(&serde_json::to_vec(&manifest)?, "application/vnd.oci.image.manifest.v1+json")?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(fs::write(
        layout.join("index.json"),
        serde_json::to_vec(&json!({ "schemaVersion": 2, "manifests": [manifest] }))?,
    )?)
}
