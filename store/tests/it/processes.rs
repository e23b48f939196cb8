//! Several processes on one store, and processes that die.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::thread;

use skiff_store::Store;

use crate::fixture::{EMPTY_STORE, Layer, Layout, Temp, assert_clean, names, resolve, tar, tell};

const STORE: &str = "SKIFF_TEST_STORE";
const IMAGE: &str = "SKIFF_TEST_IMAGE";

/// Not a test by itself: what [`spawn`] runs.
#[test]
fn child() {
    if let (Ok(store), Ok(image)) = (std::env::var(STORE), std::env::var(IMAGE)) {
        resolve(Path::new(&store), &image).unwrap();
    }
}

/// A process that resolves `image` in `store`.
fn spawn(store: &Path, image: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "processes::child"])
        .env(STORE, store)
        .env(IMAGE, image)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Some layers that take a while.
fn large_image(temp: &Temp) -> Layout {
    let layer = |letter: char| {
        let lines: Vec<_> = (0..4000).map(|n| format!("file {letter}/{}/{n} x", n % 50)).collect();
        Layer::gzip(&tar(&lines.iter().map(String::as_str).collect::<Vec<_>>()))
    };
    Layout::of(temp.join("oci"), &['a', 'b', 'c'].map(layer))
}

#[test]
fn processes_share_the_work() {
    let temp = Temp::new();
    let layout = large_image(&temp);
    let store = temp.join("store");
    let children: Vec<_> = (0..4).map(|_| spawn(&store, &layout.reference())).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_clean(&store, 3);
    let image = resolve(&store, &layout.reference()).unwrap();
    assert_eq!(tell(&image.layers[0]).split(' ').count(), 4051);
}

#[test]
fn threads_share_the_work() {
    let temp = Temp::new();
    let layout = large_image(&temp);
    let store = temp.join("store");
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| resolve(&store, &layout.reference()).unwrap());
        }
    });
    assert_clean(&store, 3);
}

#[test]
fn threads_open_a_new_store_at_once() {
    let temp = Temp::new();
    for round in 0..50 {
        let root = temp.join(&round.to_string());
        let start = Barrier::new(8);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    start.wait();
                    Store::open(&root).unwrap();
                });
            }
        });
        assert_eq!(names(&root), EMPTY_STORE);
    }
}

#[test]
fn a_killed_process_leaves_nothing_that_stays() {
    let temp = Temp::new();
    let layout = large_image(&temp);
    let store = temp.join("store");
    let mut child = spawn(&store, &layout.reference());
    let begun = |entry: &String| fs::read_dir(store.join("tmp").join(entry).join("tree/a")).is_ok();
    while !(store.join("tmp").exists() && names(&store.join("tmp")).iter().any(begun)) {
        assert!(child.try_wait().unwrap().is_none(), "done before it could be killed");
        thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!names(&store.join("tmp")).is_empty());
    Store::open(&store).unwrap();
    assert_clean(&store, 0);
    let image = resolve(&store, &layout.reference()).unwrap();
    assert_eq!(tell(&image.layers[2]).split(' ').count(), 4051);
    assert_clean(&store, 3);
}

/// Leftovers of every shape, and beside them a layer that somebody alive is working on.
#[test]
fn only_what_dead_processes_left_is_swept() {
    let temp = Temp::new();
    let store = temp.join("store");
    Store::open(&store).unwrap();
    let tmp = store.join("tmp");
    for name in ["dead", "alive"] {
        fs::create_dir_all(tmp.join(name).join("tree/locked/deep/deeper")).unwrap();
        fs::create_dir_all(tmp.join(name).join("1/full")).unwrap();
        fs::write(tmp.join(name).join("tree/locked/deep/f"), "").unwrap();
        std::os::unix::fs::symlink("/", tmp.join(name).join("tree/l")).unwrap();
        for dir in ["tree/locked/deep", "tree/locked"] {
            fs::set_permissions(tmp.join(name).join(dir), PermissionsExt::from_mode(0o000)).unwrap();
        }
    }
    fs::create_dir(tmp.join("no-lock")).unwrap();
    File::create(tmp.join("only-lock.lock")).unwrap();
    File::create(tmp.join("dead.lock")).unwrap();
    let lock = File::create(tmp.join("alive.lock")).unwrap();
    lock.lock().unwrap();
    Store::open(&store).unwrap();
    assert_eq!(names(&tmp), ["alive", "alive.lock"]);
    // Unlocked, not only dropped: a child that another test forks just now has the descriptor until it executes.
    lock.unlock().unwrap();
    Store::open(&store).unwrap();
    assert_clean(&store, 0);
}
