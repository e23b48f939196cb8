//! A layer's tar comes back byte for byte, whatever was in it.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use skiff_store::{Digest, Store};

use crate::fixture::{Layer, Layout, Temp, append, append_pax, header, is_root, resolve, sha256, tar};

/// Unpacks the archive and asks for it again.
fn again(store: &Path, archive: &[u8]) -> Result<Vec<u8>, String> {
    let diff_id = Digest::from_hex(&sha256(archive)).unwrap();
    let mut tar = Store::open(store).unwrap().layer_tar(diff_id).map_err(|e| e.to_string())?;
    let mut all = Vec::new();
    assert_eq!(tar.length(), archive.len() as u64);
    tar.read_to_end(&mut all).map_err(|e| e.to_string())?;
    Ok(all)
}

fn check(archive: &[u8]) {
    let temp = Temp::new();
    let layout = Layout::of(temp.join("oci"), &[Layer::gzip(archive)]);
    let image = resolve(&temp.join("store"), &layout.reference()).unwrap();
    assert!(again(&temp.join("store"), archive).unwrap() == archive);
    // What its owner may not enter could not be removed with the test.
    for entry in fs::read_dir(&image.layers[0]).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            fs::set_permissions(entry.path(), PermissionsExt::from_mode(0o700)).unwrap();
        }
    }
}

#[test]
fn plain_archives() {
    check(&[]);
    check(&tar(&[]));
    check(&tar(&[
        "dir ./",
        "dir a/",
        "file a/b hello",
        "symlink l a/b",
        "fifo f",
        "link h a/b",
        "file empty",
    ]));
    check(&tar(&["file .wh.a", "dir d/", "file d/.wh..wh..opq", "file x/y/z text"]));
    check(&tar(&["symlink lib usr/lib", "file lib/a text", "file usr/lib/b more", "link lib/c lib/a"]));
}

#[test]
fn what_later_entries_replace() {
    check(&tar(&["file a old", "file a new"]));
    check(&tar(&["file a one", "file a two", "file a three"]));
    check(&tar(&["file a old", "link b a", "file a new", "file b newer"]));
    check(&tar(&["dir d/", "file d/a one", "file d/b two", "file d three", "dir d/", "file d/a four"]));
    check(&tar(&[
        "dir d/",
        "file d/a one",
        "file d/a two",
        "symlink d e",
        "file d/a three",
        "file e/a four",
    ]));
    check(&tar(&[
        "symlink l d",
        "file l/a one",
        "file d/a two",
        "file l/a three",
        "dir l/",
        "file l/a four",
    ]));
    check(&tar(&["file a old", "file .wh.a", "symlink a b"]));
}

#[test]
fn archives_that_end_oddly() {
    let whole = tar(&["file a hello", "file b there"]);
    check(&whole[..whole.len() - 1024]);
    check(&whole[..whole.len() - 1024 - 507]);
    check(&[&whole[..], &[0; 9216]].concat());
    check(&[&whole[..], b"rubbish", &[0; 100_000], b"more"].concat());
}

#[test]
fn sparse_files_and_large_ones() {
    let mut archive = Vec::new();
    let map = b"0,3,100000,5";
    append_pax(
        &mut archive,
        &[
            ("GNU.sparse.size", b"200000"),
            ("GNU.sparse.map", map),
            ("GNU.sparse.name", b"real"),
            ("SCHILY.xattr.user.x", b"y"),
            ("comment", b"kept too"),
        ],
    );
    append(&mut archive, &mut header("GNUSparseFile.0/real"), b"abcdefgh");
    append(&mut archive, &mut header("large"), &b"0123456789".repeat(300_000));
    append(&mut archive, &mut header("real"), b"replaces the sparse one");
    append(&mut archive, &mut header("other"), &[0; 100_000]);
    check(&archive);
}

#[test]
fn files_that_nobody_may_read() {
    let mut archive = Vec::new();
    let mut entry = |path: &str, mode, data: &[u8]| {
        let mut header = header(path);
        header.set_mode(mode);
        if path.ends_with('/') {
            header.set_entry_type(::tar::EntryType::Directory);
        }
        append(&mut archive, &mut header, data);
    };
    entry("secret", 0, b"content");
    entry("write-only", 0o200, b"more content");
    entry("closed/", 0o600, b"");
    entry("closed/below/", 0o755, b"");
    entry("closed/below/file", 0o644, b"inside");
    entry("closed/below/file2", 0, b"inside too");
    entry("unlisted/", 0o311, b"");
    entry("unlisted/file", 0o644, b"inside");
    check(&archive);
}

#[test]
fn a_changed_file_shows() {
    let temp = Temp::new();
    let archive = tar(&["file a hello", "dir d/", "file d/b there"]);
    let layout = Layout::of(temp.join("oci"), &[Layer::plain(archive.clone())]);
    let store = temp.join("store");
    let image = resolve(&store, &layout.reference()).unwrap();
    let file = image.layers[0].join("d/b");
    let check = |expect: &str| {
        let error = again(&store, &archive).unwrap_err();
        assert!(error.contains("is damaged") && error.contains(expect), "{error}, expected {expect}");
    };
    fs::write(&file, "THERE").unwrap();
    check("content has digest sha256:");
    fs::write(&file, "the").unwrap();
    check("file \"d/b\": the data ends too early");
    fs::remove_file(&file).unwrap();
    check("file \"d/b\": no such file or directory");
    fs::create_dir(&file).unwrap();
    check("file \"d/b\": not a regular file");
    fs::remove_dir(&file).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", &file).unwrap();
    check("file \"d/b\": ");
    if !is_root() {
        fs::set_permissions(image.layers[0].join("d"), PermissionsExt::from_mode(0o000)).unwrap();
        // That is no damage.
        let error = again(&store, &archive).unwrap_err();
        assert!(error.ends_with(": file \"d/b\": permission denied"), "{error}");
        fs::set_permissions(image.layers[0].join("d"), PermissionsExt::from_mode(0o700)).unwrap();
    }
    fs::write(store.join("tars/sha256").join(sha256(&archive)), "nothing of that").unwrap();
    let error = again(&store, &archive).unwrap_err();
    assert!(error.contains("recipe: damaged: not a recipe"), "{error}");
    fs::remove_file(store.join("tars/sha256").join(sha256(&archive))).unwrap();
    let error = again(&store, &archive).unwrap_err();
    assert!(error.contains("it is not known how its archive looked"), "{error}");
    let error = again(&store, b"").unwrap_err();
    assert!(error.contains("is not here"), "{error}");
}
