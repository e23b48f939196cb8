//! Damage of every kind: found, and put right as far as it can be.

use std::fs;
use std::path::{Path, PathBuf};

use skiff_store::{ImageRef, Store};

use crate::fixture::{Layer, Layout, Temp, tar, tell};
use crate::repository::Repository;

/// Damages a good store by `spoil`, which gets its root and the layer's digits. Each part of `expect` must be in one
/// finding; all are repaired, nothing is found the second time, and the image can be pulled again.
fn check(spoil: impl Fn(&Path, &str), expect: &[&str]) {
    let temp = Temp::new();
    let layers = [Layer::gzip(&tar(&["file a hello", "dir d"]))];
    let repository = Repository::of(Layout::new(temp.join("oci")), &layers);
    let root = temp.join("store");
    let store = Store::open(&root).unwrap();
    repository.pull(&store, "app").unwrap();
    assert_eq!(store.check(false).unwrap(), []);
    spoil(&root, &layers[0].diff_id);
    let found = store.check(false).unwrap();
    assert_eq!(found.len(), expect.len(), "{found:?}");
    for expect in expect {
        assert!(found.iter().any(|it| it.what.contains(expect) && !it.is_repaired), "{found:?}: {expect}");
    }
    let repaired = store.check(true).unwrap();
    assert!(repaired.len() >= expect.len() && repaired.iter().all(|it| it.is_repaired), "{repaired:?}");
    // What a repair left behind is found by the next.
    store.check(true).unwrap();
    assert_eq!(store.check(false).unwrap(), []);
    repository.pull(&store, "app").unwrap();
    let image = store.resolve(&ImageRef::parse("app").unwrap()).unwrap();
    assert_eq!(tell(&image.layers[0]), "a=hello d/");
    // A manifest that was made in place of a lost one is of no use now.
    store.collect(&|_| false).unwrap();
    assert_eq!(store.check(false).unwrap(), []);
}

fn only(dir: PathBuf) -> PathBuf {
    fs::read_dir(dir).unwrap().next().unwrap().unwrap().path()
}

/// The blob whose text has `part` in it.
fn blob(root: &Path, part: &str) -> PathBuf {
    let all = fs::read_dir(root.join("blobs/sha256")).unwrap().map(|it| it.unwrap().path());
    all.into_iter().find(|path| fs::read_to_string(path).unwrap().contains(part)).unwrap()
}

#[test]
fn files_of_layers() {
    let a = |root: &Path, hex: &str| root.join("layers/sha256").join(hex).join("a");
    check(|root, hex| fs::write(a(root, hex), "hellO").unwrap(), &["is damaged", "layer sha256:"]);
    check(|root, hex| fs::remove_file(a(root, hex)).unwrap(), &["is damaged", "layer sha256:"]);
    check(|root, hex| fs::write(a(root, hex), "hell").unwrap(), &["is damaged", "layer sha256:"]);
}

#[test]
fn layers_that_are_gone() {
    let gone = |root: &Path, hex: &str| fs::remove_dir_all(root.join("layers/sha256").join(hex)).unwrap();
    check(gone, &["image app:latest: its layer sha256:"]);
}

#[test]
fn documents() {
    check(|root, _| fs::remove_file(blob(root, "\"Cmd\"")).unwrap(), &["its configuration is missing"]);
    check(|root, _| fs::write(blob(root, "\"Cmd\""), "x").unwrap(), &["its configuration is", "has digest"]);
    check(|root, _| fs::remove_file(blob(root, "layers\":[{")).unwrap(), &["its manifest is missing"]);
    check(|root, _| fs::write(blob(root, "layers\":[{"), "x").unwrap(), &["its manifest is", "has digest"]);
    let stray = |root: &Path, _: &str| {
        let hex = crate::fixture::sha256(b"stray");
        fs::write(root.join("blobs/sha256").join(hex), "stray").unwrap();
    };
    check(stray, &["belongs to no image"]);
}

#[test]
fn names() {
    check(|root, _| fs::write(only(root.join("names")), "{").unwrap(), &["not a record"]);
    let elsewhere = |root: &Path, _: &str| {
        fs::copy(only(root.join("names")), root.join("names/docker.io+library+other:1")).unwrap();
    };
    check(elsewhere, &["is the record of another name"]);
    check(|root, _| fs::write(root.join("untagged/x"), "").unwrap(), &["not a record of an image"]);
}

#[test]
fn what_belongs_to_layers() {
    check(
        |root, hex| fs::write(root.join("sources/sha256").join(hex), "{").unwrap(),
        &["its record cannot be read"],
    );
    let lost = |root: &Path, _: &str| fs::write(root.join("tars/sha256").join("0".repeat(64)), "x").unwrap();
    check(lost, &["is gone, but not all that belongs to it"]);
}
