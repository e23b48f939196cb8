//! Images that are not what they claim to be. Nothing of them may stay in the store.

use std::fs;

use serde_json::json;

use crate::fixture::{Layer, Layout, Temp, assert_clean, goarch, gzip, resolve, sha256, tar, with};

/// `spoil` gets the layout of a good image of two layers, in `media` form; the error must contain all of `expect`.
fn check(media: fn(&[u8]) -> Layer, spoil: impl Fn(&Layout, &[Layer]), expect: &[&str]) {
    let temp = Temp::new();
    let layers = [media(&tar(&["file a good"])), media(&tar(&["file b hello"]))];
    let layout = Layout::of(temp.join("oci"), &layers);
    spoil(&layout, &layers);
    let store = temp.join("store");
    let error = resolve(&store, &layout.reference()).unwrap_err();
    for expect in expect {
        assert!(error.contains(expect), "{error}, expected {expect}");
    }
    assert!(!error.contains('\n'), "{error}");
    assert_clean(&store, 0);
}

fn plain(tar: &[u8]) -> Layer {
    Layer::plain(tar.to_vec())
}

#[test]
fn a_flipped_bit_in_a_layer_is_a_wrong_digest() {
    for media in [plain, Layer::gzip, Layer::zstd] {
        for at in [4, 20, 40] {
            let flip = |layout: &Layout, layers: &[Layer]| {
                let mut blob = layers[1].blob.clone();
                blob[at] ^= 0x10;
                fs::write(layout.blob_path(&sha256(&layers[1].blob)), blob).unwrap();
            };
            check(media, flip, &["layer sha256:", "blob has digest sha256:", "the manifest says sha256:"]);
        }
    }
}

#[test]
fn sizes_that_lie() {
    let truncate = |layout: &Layout, layers: &[Layer]| {
        let blob = &layers[1].blob;
        fs::write(layout.blob_path(&sha256(blob)), &blob[..blob.len() - 1]).unwrap();
    };
    check(Layer::gzip, truncate, &["layer sha256:", "blob has", "bytes, the manifest says"]);
    let extend = |layout: &Layout, layers: &[Layer]| {
        let blob = [&layers[1].blob[..], b"x"].concat();
        fs::write(layout.blob_path(&sha256(&layers[1].blob)), blob).unwrap();
    };
    check(Layer::zstd, extend, &["layer sha256:", "blob has", "bytes, the manifest says"]);
}

#[test]
fn blobs_that_are_missing() {
    let remove = |layout: &Layout, layers: &[Layer]| {
        fs::remove_file(layout.blob_path(&sha256(&layers[0].blob))).unwrap();
    };
    check(plain, remove, &["layer sha256:", ": missing"]);
    check(plain, |layout, _| fs::remove_file(layout.0.join("index.json")).unwrap(), &["index.json: missing"]);
    let fifo = |layout: &Layout, layers: &[Layer]| {
        remove(layout, layers);
        let path = layout.blob_path(&sha256(&layers[0].blob));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    };
    check(plain, fifo, &["layer sha256:", "not a regular file"]);
}

/// One layer whose parts disagree.
fn check_layer(layer: Layer, expect: &str) {
    let temp = Temp::new();
    let layout = Layout::of(temp.join("oci"), &[layer]);
    let store = temp.join("store");
    let error = resolve(&store, &layout.reference()).unwrap_err();
    assert!(error.contains(expect), "{error}, expected {expect}");
    assert_clean(&store, 0);
}

#[test]
fn content_that_is_not_what_the_configuration_says() {
    let other = sha256(b"other");
    let layer = Layer { diff_id: other.clone(), ..Layer::gzip(&tar(&["file a x"])) };
    check_layer(layer, &format!("the configuration says sha256:{other}"));
}

#[test]
fn compression_that_is_not_what_the_media_type_says() {
    let archive = tar(&["file a x"]);
    let named = |layer: Layer, other: Layer| Layer { media_type: other.media_type, ..layer };
    let (gzip, zstd, none) =
        (|| Layer::gzip(&archive), || Layer::zstd(&archive), || Layer::plain(archive.clone()));
    check_layer(named(gzip(), zstd()), "data is gzip, its media type says zstd");
    check_layer(named(zstd(), none()), "data is zstd, its media type says not compressed");
    check_layer(named(none(), gzip()), "data is not compressed, its media type says gzip");
    let xz = Layer { blob: b"\xfd7zXZ\0".to_vec(), ..none() };
    check_layer(xz, "xz is not supported");
    let odd = Layer { media_type: "application/vnd.oci.image.layer.v1.tar+br", ..none() };
    check_layer(odd, "media type \"application/vnd.oci.image.layer.v1.tar+br\" is not supported");
}

#[test]
fn compressed_data_that_ends_early_or_goes_on() {
    let archive = tar(&["file a x"]);
    let cut = |layer: Layer, by: usize| Layer { blob: layer.blob[..layer.blob.len() - by].to_vec(), ..layer };
    check_layer(cut(Layer::gzip(&archive), 9), "the data ends too early");
    check_layer(cut(Layer::zstd(&archive), 1), "layer sha256:");
    let mut rubbish = Layer::gzip(&archive);
    rubbish.blob.extend(b"rubbish");
    check_layer(rubbish, "layer sha256:");
}

#[test]
fn gzip_members_in_a_row_are_one_layer() {
    let temp = Temp::new();
    let archive = tar(&["file a x"]);
    let blob = [gzip(&archive[..700]), gzip(&archive[700..])].concat();
    let layout = Layout::of(temp.join("oci"), &[Layer { blob, ..Layer::gzip(&archive) }]);
    let image = resolve(&temp.join("store"), &layout.reference()).unwrap();
    assert_eq!(crate::fixture::tell(&image.layers[0]), "a=x");
}

/// `spoil` gets a layout and the descriptor of a good manifest, and makes `index.json`.
fn check_index(spoil: impl Fn(&Layout, serde_json::Value), expect: &str) {
    let temp = Temp::new();
    let layout = Layout::new(temp.join("oci"));
    let good = layout.image(&[Layer::plain(tar(&["file a x"]))], json!({}));
    spoil(&layout, good);
    let error = resolve(&temp.join("store"), &layout.reference()).unwrap_err();
    assert!(error.contains(expect), "{error}, expected {expect}");
    assert_clean(&temp.join("store"), 0);
}

#[test]
fn documents_that_are_wrong() {
    check_index(|layout, good| layout.index(&[with(good, "size", json!(1))]), "its descriptor says 1");
    check_index(
        |layout, good| layout.index(&[with(good, "digest", json!(format!("sha256:{}", "0".repeat(64))))]),
        "manifest sha256:0000000000000000000000000000000000000000000000000000000000000000: missing",
    );
    check_index(
        |layout, good| layout.index(&[with(good, "digest", json!("sha256:../../../etc/passwd"))]),
        "is not a sha256 digest",
    );
    check_index(|layout, _| layout.index(&[]), "no manifest names a platform");
    check_index(|layout, _| fs::write(layout.0.join("index.json"), "{").unwrap(), "index.json: ");
    check_index(
        |layout, good| {
            let digest = good["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
            let size = usize::try_from(good["size"].as_u64().unwrap()).unwrap();
            fs::write(layout.blob_path(&digest), vec![b' '; size]).unwrap();
            layout.index(&[good]);
        },
        " has digest sha256:",
    );
    check_index(
        |layout, good| {
            let both = json!({ "manifests": [], "config": good, "layers": [] });
            layout.index(&[layout.json("", &both)]);
        },
        "is neither index nor image manifest",
    );
    check_index(
        |layout, good| {
            let nested = (0..5).fold(good, |inner, _| {
                let platform = json!({ "os": "linux", "architecture": goarch() });
                layout.nested(&[with(inner, "platform", platform)])
            });
            layout.index(&[nested]);
        },
        "more than 4 indexes in each other",
    );
    check_index(
        |layout, _| {
            let config = layout.json("", &json!({ "os": "linux", "rootfs": { "diff_ids": [] } }));
            let layer = layout.blob(Layer::plain(Vec::new()).media_type, b"");
            layout.index(&[layout.json("", &json!({ "config": config, "layers": [layer] }))]);
        },
        "the manifest has 1 layers, the configuration 0",
    );
    check_index(
        |layout, _| {
            let config = json!({ "os": "windows", "architecture": "amd64", "rootfs": {} });
            let config = layout.json("", &config);
            layout.index(&[layout.json("", &json!({ "config": config, "layers": [] }))]);
        },
        "is for windows/amd64, not for linux/",
    );
}
