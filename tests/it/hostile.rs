//! Images made to do harm: each must be refused or defused, and the host must stay untouched.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tar::EntryType;

use crate::harness::layout::{self, Layout, Tar};
use crate::harness::{Case, Output, fixture, installed, need, programs};

/// What lies in a test's directory when no image has escaped into it.
const EXPECTED: [&str; 6] = ["victim", "image", "state", "run", "tmp", "cid."];

/// A layer with the probe, and what `evil` adds after it.
fn layer(evil: impl FnOnce(&mut Tar)) -> Vec<u8> {
    let mut tar = Tar::new();
    tar.dir("bin").program("bin/probe", &fs::read(programs::probe()).expect("the probe"));
    evil(&mut tar);
    tar.finish()
}

fn run(case: &Case, image: &str, command: &[&str]) -> Output {
    let words: Vec<&str> = ["run", "--rm", image].iter().chain(command).copied().collect();
    case.skiff(&words).output()
}

/// Runs an image whose single layer is evil. `victim` is a file of the host outside of everything of skiff's.
#[track_caller]
fn must_not_touch(evil: impl FnOnce(&mut Tar, &str), needle: Option<&str>) {
    let case = Case::new();
    let victim = case.file("victim", "innocent");
    let image = Layout::image(&case.dir.join("image"), &json!({}), &[layer(|tar| evil(tar, &victim))]);
    let output = run(&case, &image, &["/bin/probe", "exit", "0"]);
    assert_eq!(fs::read_to_string(&victim).expect("the victim lives"), "innocent");
    let names = fs::read_dir(&case.dir).expect("the case").flatten().map(|entry| entry.file_name());
    let strangers: Vec<_> = names
        .filter(|name| !EXPECTED.iter().any(|known| name.to_string_lossy().starts_with(known)))
        .collect();
    assert!(strangers.is_empty(), "{strangers:?} escaped: {output}");
    match needle {
        Some(needle) => output.fails(125, needle),
        None => assert!(output.code == 0 || output.code == 125, "{output}"),
    }
}

/// `../../../…` long enough to reach the root from anywhere, then the path.
fn climb(path: &str) -> String {
    format!("{}{}", "../".repeat(12), path.trim_start_matches('/'))
}

#[test]
fn a_name_with_dot_dot_is_refused() {
    must_not_touch(
        |tar, _| {
            tar.file("../../../escape", "x");
        },
        Some("../../../escape"),
    );
    must_not_touch(
        |tar, _| {
            tar.file("bin/../../../../escape", "x");
        },
        Some(".."),
    );
    must_not_touch(
        |tar, victim| {
            tar.file(&climb(victim)[..99.min(climb(victim).len())], "x");
        },
        Some(".."),
    );
    must_not_touch(
        |tar, _| {
            tar.dir("../../outside");
        },
        Some(".."),
    );
}

#[test]
fn an_absolute_name_stays_inside() {
    must_not_touch(
        |tar, victim| {
            tar.file(victim, "overwritten");
        },
        None,
    );
}

#[test]
fn a_symlink_does_not_lead_a_later_entry_outside() {
    let parent = |victim: &str| Path::new(victim).parent().expect("a directory").display().to_string();
    must_not_touch(
        |tar, victim| {
            tar.symlink("out", &parent(victim)).file("out/victim", "overwritten");
        },
        None,
    );
    must_not_touch(
        |tar, victim| {
            tar.symlink("out", &climb(&parent(victim))).file("out/victim", "x");
        },
        None,
    );
    must_not_touch(
        |tar, victim| {
            tar.symlink("out", victim).file("out", "overwritten");
        },
        None,
    );
    let chained = |tar: &mut Tar, victim: &str| {
        tar.symlink("a", "b").symlink("b", &parent(victim)).dir("a/made").file("a/victim", "overwritten");
    };
    must_not_touch(chained, None);
}

#[test]
fn a_symlink_of_a_lower_layer_does_not_lead_outside() {
    let case = Case::new();
    let victim = case.file("victim", "innocent");
    let parent = case.dir.display().to_string();
    let lower = layer(|tar| {
        tar.symlink("out", &parent).symlink("etc", &parent);
    });
    let mut upper = Tar::new();
    upper.file("out/victim", "overwritten").file("out/.wh.victim", "").file("etc/hostname", "x");
    let image = Layout::image(&case.dir.join("image"), &json!({}), &[lower, upper.finish()]);
    let output = run(&case, &image, &["/bin/probe", "exit", "0"]);
    assert_eq!(fs::read_to_string(&victim).expect("the victim lives"), "innocent", "{output}");
    assert!(!case.dir.join("hostname").exists() && !case.dir.join("hosts").exists(), "{output}");
}

#[test]
fn a_hard_link_does_not_reach_outside() {
    must_not_touch(
        |tar, victim| {
            tar.hardlink("stolen", victim);
        },
        Some("stolen"),
    );
    must_not_touch(
        |tar, victim| {
            tar.hardlink("stolen", &climb(victim)[..99.min(climb(victim).len())]);
        },
        Some("stolen"),
    );
    let through_symlink = |tar: &mut Tar, victim: &str| {
        tar.symlink("v", victim).hardlink("h", "v").file("h", "overwritten");
    };
    must_not_touch(through_symlink, None);
}

#[test]
fn a_whiteout_deletes_nothing_outside() {
    must_not_touch(
        |tar, _| {
            tar.file("../.wh.victim", "");
        },
        Some(".."),
    );
    must_not_touch(
        |tar, _| {
            tar.file(".wh...", "");
        },
        Some(".wh..."),
    );
    must_not_touch(
        |tar, _| {
            tar.file(".wh..", "");
        },
        Some(".wh.."),
    );
    must_not_touch(
        |tar, _| {
            tar.file(".wh.", "");
        },
        Some(".wh."),
    );
}

#[test]
fn a_device_node_in_an_image_cannot_be_opened() {
    let case = Case::new();
    let evil = layer(|tar| {
        tar.node("disk", EntryType::Block, 254, 0).node("mem", EntryType::Char, 1, 1);
    });
    let image = Layout::image(&case.dir.join("image"), &json!({}), &[evil]);
    let output = run(&case, &image, &["/bin/probe", "try", "open-r", "/disk", "open-r", "/mem"]);
    let defused = output.code == 0
        && output.stdout.lines().all(|verdict| ["EPERM", "ENOENT", "EACCES", "ENXIO"].contains(&verdict));
    assert!(defused || output.code == 125, "{output}");
}

#[test]
fn an_overlay_whiteout_made_as_a_device_hides_nothing_by_surprise() {
    // 0:0 is overlayfs's own whiteout; an image must not smuggle one in, nor overlay's attributes.
    let case = Case::new();
    let lower = layer(|tar| {
        tar.file("shown", "here");
    });
    let mut upper = Tar::new();
    upper.node("shown", EntryType::Char, 0, 0);
    let image = Layout::image(&case.dir.join("image"), &json!({}), &[lower, upper.finish()]);
    let output = run(&case, &image, &["/bin/probe", "try", "read", "/shown"]);
    assert!(
        output.code == 125 || ["here\n", "ENOENT\n", "EPERM\n", "ENXIO\n"].contains(&output.stdout.as_str()),
        "{output}"
    );
}

#[test]
fn a_changed_layer_is_refused() {
    let case = Case::new();
    let dir = case.dir.join("image");
    let image = Layout::image(&dir, &json!({}), &[layer(|_| {})]);
    let layout = Layout::open(&dir);
    let manifest = only_manifest(&layout);
    let digest = manifest["layers"][0]["digest"].as_str().expect("a digest").to_owned();
    let path = layout.blob_path(&digest);
    let mut bytes = fs::read(&path).expect("the layer");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).expect("corrupt the layer");
    run(&case, &image, &["/bin/probe", "exit", "0"]).fails(125, &digest);
}

#[test]
fn a_changed_manifest_or_configuration_is_refused() {
    for part in ["manifest", "config"] {
        let case = Case::new();
        let dir = case.dir.join("image");
        let image = Layout::image(&dir, &json!({ "Cmd": ["/bin/probe", "exit", "0"] }), &[layer(|_| {})]);
        let layout = Layout::open(&dir);
        let (digest, from, to) = match part {
            "manifest" => (only_entry(&layout)["digest"].clone(), "layer.v1.tar", "layer.v1.bar"),
            _ => (only_manifest(&layout)["config"]["digest"].clone(), "exit", "evil"),
        };
        let path = layout.blob_path(digest.as_str().expect("a digest"));
        // Still JSON and as long, so that only the digest can tell.
        let text = fs::read_to_string(&path).expect("the blob");
        fs::write(&path, text.replacen(from, to, 1)).expect("corrupt the blob");
        run(&case, &image, &[]).fails(125, "digest");
    }
}

#[test]
fn a_layer_that_is_not_what_the_configuration_says_is_refused() {
    let case = Case::new();
    let layout = Layout::create(&case.dir.join("image"));
    let ours = layout.add(layout::LAYER, &layer(|_| {}));
    let other = format!("sha256:{}", "0".repeat(64));
    let config = json!({ "os": "linux", "architecture": layout::ARCHITECTURE, "rootfs": { "type": "layers", "diff_ids": [other] } });
    finish(&layout, &config, &json!([ours]));
    run(&case, &format!("oci:{}", layout.dir.display()), &["/bin/probe", "exit", "0"]).fails(125, "sha256:");
}

#[test]
fn a_digest_that_is_a_path_is_refused() {
    let case = Case::new();
    let layout = Layout::create(&case.dir.join("image"));
    let evil = json!([{ "mediaType": layout::LAYER, "digest": "sha256:../../../../etc/passwd", "size": 1 }]);
    finish(
        &layout,
        &json!({ "rootfs": { "type": "layers", "diff_ids": ["sha256:../../../../etc/passwd"] } }),
        &evil,
    );
    run(&case, &format!("oci:{}", layout.dir.display()), &["/bin/true"]).fails(125, "digest");
}

#[test]
fn a_size_that_lies_is_refused() {
    let case = Case::new();
    let layout = Layout::create(&case.dir.join("image"));
    let mut ours = layout.add(layout::LAYER, &layer(|_| {}));
    let id = ours["digest"].clone();
    ours["size"] = 17.into();
    finish(
        &layout,
        &json!({ "os": "linux", "architecture": layout::ARCHITECTURE, "rootfs": { "type": "layers", "diff_ids": [id] } }),
        &json!([ours]),
    );
    run(&case, &format!("oci:{}", layout.dir.display()), &["/bin/true"]).fails(125, "17");
}

#[test]
fn truncated_archives_are_refused() {
    let whole = layer(|tar| {
        tar.file("last", &"x".repeat(5000));
    });
    for cut in [whole.len() - 3000, 700, 100] {
        let case = Case::new();
        // Whole by its digest, so that the cut is the archive's own.
        let image = Layout::image(&case.dir.join("image"), &json!({}), &[whole[..cut].to_vec()]);
        run(&case, &image, &["/bin/probe", "exit", "0"]).fails(125, "layer");
    }
}

#[test]
fn truncated_compression_is_refused() {
    need!(installed("zstd"), "zstd");
    for (tool, media_type) in [("gzip", "gzip"), ("zstd", "zstd")] {
        let case = Case::new();
        let layout = Layout::create(&case.dir.join("image"));
        let plain = layer(|_| {});
        let packed = layout::filter(&[tool, "-c"], &plain);
        let id = layout.add(layout::LAYER, &plain)["digest"].clone();
        let ours = layout.add(&format!("{}+{media_type}", layout::LAYER), &packed[..packed.len() / 2]);
        finish(
            &layout,
            &json!({ "os": "linux", "architecture": layout::ARCHITECTURE, "rootfs": { "type": "layers", "diff_ids": [id] } }),
            &json!([ours]),
        );
        run(&case, &format!("oci:{}", layout.dir.display()), &["/bin/probe", "exit", "0"])
            .fails(125, "sha256:");
    }
}

#[test]
fn an_image_for_another_platform_is_refused() {
    let case = Case::new();
    let layout = Layout::create(&case.dir.join("image"));
    let mut entry = layout.add(layout::MANIFEST, b"{}");
    entry["platform"] = json!({ "os": "linux", "architecture": "s390x" });
    let mut index =
        layout.add(layout::INDEX, json!({ "schemaVersion": 2, "manifests": [entry] }).to_string().as_bytes());
    index["annotations"] = json!({ "org.opencontainers.image.ref.name": "x" });
    layout.finish(&[index]);
    run(&case, &format!("oci:{}", layout.dir.display()), &["/bin/true"]).fails(125, layout::ARCHITECTURE);
}

#[test]
fn files_that_are_no_images_are_refused() {
    need!(fixture::has_image_tools(), "umoci, skopeo and zstd");
    let case = Case::new();
    let empty = case.subdir("empty");
    let noise = case.file("noise.tar", "this is not an archive");
    run(&case, &format!("oci:{empty}"), &["/bin/true"]).fails(125, &empty);
    run(&case, &format!("oci-archive:{noise}"), &["/bin/true"]).fails(125, &noise);
    run(&case, &format!("docker-archive:{noise}"), &["/bin/true"]).fails(125, &noise);
    run(&case, &format!("rootfs:{noise}"), &["/bin/true"]).fails(125, &noise);
    run(&case, "oci:/no/such/layout", &["/bin/true"]).fails(125, "/no/such/layout");
    run(&case, &format!("oci:{}:no-such-tag", fixture::small_image().display()), &["/bin/true"])
        .fails(125, "no-such-tag");
}

#[test]
fn a_refused_image_can_be_run_once_it_is_mended() {
    let case = Case::new();
    let dir = case.dir.join("image");
    let image = Layout::image(&dir, &json!({}), &[layer(|_| {})]);
    let layout = Layout::open(&dir);
    let manifest = only_manifest(&layout);
    let path = layout.blob_path(manifest["layers"][0]["digest"].as_str().expect("a digest"));
    let bytes = fs::read(&path).expect("the layer");
    fs::write(&path, &bytes[..bytes.len() / 2]).expect("cut the layer");
    assert_eq!(run(&case, &image, &["/bin/probe", "exit", "0"]).code, 125);
    fs::write(&path, &bytes).expect("mend the layer");
    run(&case, &image, &["/bin/probe", "exit", "0"]).ok();
}

fn finish(layout: &Layout, config: &Value, layers: &Value) {
    let config = layout.add(layout::CONFIG, config.to_string().as_bytes());
    let manifest =
        json!({ "schemaVersion": 2, "mediaType": layout::MANIFEST, "config": config, "layers": layers });
    let manifest = layout.add(layout::MANIFEST, manifest.to_string().as_bytes());
    layout.finish(&[manifest]);
}

fn only_entry(layout: &Layout) -> Value {
    let index: Value =
        serde_json::from_slice(&fs::read(layout.dir.join("index.json")).expect("an index")).expect("JSON");
    index["manifests"][0].clone()
}

fn only_manifest(layout: &Layout) -> Value {
    serde_json::from_slice(&layout.blob(only_entry(layout)["digest"].as_str().expect("a digest")))
        .expect("JSON")
}
