//! What goes and what stays: leases, containers, removal by docker's rules, and collections beside everything else.

use std::fs;
use std::io;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;
use skiff_store::{Digest, ImageRef, Removed, Store, Use};

use crate::fixture::{Layer, Layout, Temp, names, resolve, tar, tell};
use crate::repository::{Repository, digest_of, named};

/// A store with images `one` and `two`, which share a layer.
struct Two {
    temp: Temp,
    store: Store,
    repository: Repository,
    one: Digest,
    two: Digest,
    uses: Arc<Mutex<Vec<Use>>>,
}

impl Two {
    fn new() -> Self {
        let temp = Temp::new();
        let layout = Layout::new(temp.join("oci"));
        let layer = |line: &str| Layer::gzip(&tar(&[line]));
        let one = layout.image(&[layer("file base xx"), layer("file own 1")], json!({ "User": "1" }));
        let two = layout.image(&[layer("file base xx"), layer("file own 22")], json!({ "User": "2" }));
        let repository = Repository::tagged(layout, &[("one", &one), ("two", &two)]);
        let uses: Arc<Mutex<Vec<Use>>> = Arc::default();
        let given = uses.clone();
        let store = Store::open(&temp.join("store")).unwrap();
        let store = store.with_users(move || Ok(given.lock().unwrap().clone()));
        let one = repository.pull(&store, "app:one").unwrap().id;
        let two = repository.pull(&store, "app:two").unwrap().id;
        Self { temp, store, repository, one, two, uses }
    }

    fn layers(&self) -> usize {
        let store = self.temp.join("store");
        let count = |kind: &str| names(&store.join(kind).join("sha256")).len();
        assert_eq!((count("tars"), count("sources")), (count("layers"), count("layers")));
        assert_eq!(names(&store.join("tmp")), [""; 0]);
        assert!(!store.join("condemned").exists());
        count("layers")
    }

    fn use_by(&self, image: &str, is_running: bool) {
        let image = self.store.resolve(&ImageRef::parse(image).unwrap()).unwrap();
        let id = image.id.map(|id| Digest::try_from(id).unwrap());
        let owner = "0123456789abcdef".to_owned();
        self.uses.lock().unwrap().push(Use { owner, is_running, image: id, layers: image.layers });
    }

    fn remove(&self, text: &str, force: bool) -> Result<String, String> {
        let line = |removed: Removed| match removed {
            Removed::Untagged(name) if name.digest().is_some() => "-digest".to_owned(),
            Removed::Untagged(name) => format!("-{}", name.familiar()),
            Removed::Deleted(id) if id == self.one => "one".to_owned(),
            Removed::Deleted(id) if id == self.two => "two".to_owned(),
            Removed::Deleted(_) => "layer".to_owned(),
        };
        let removed = self.store.remove(text, force).map_err(|e| e.to_string())?;
        Ok(removed.into_iter().map(line).collect::<Vec<_>>().join(" "))
    }
}

#[test]
fn images_go_with_their_last_name() {
    let two = Two::new();
    assert_eq!(two.layers(), 3);
    two.store.tag(two.one, &named("app:again")).unwrap();
    assert_eq!(two.remove("app:again", false), Ok("-app:again".to_owned()));
    assert_eq!(two.layers(), 3);
    assert_eq!(two.remove("app:one", false), Ok("-app:one -digest one layer".to_owned()));
    assert_eq!(two.layers(), 2);
    assert_eq!(two.remove("app:one", false), Err("no such image: app:one".to_owned()));
    let id = two.two.hex();
    assert_eq!(two.remove(&id[..12], false), Ok("-app:two -digest two layer layer".to_owned()));
    assert_eq!(two.layers(), 0);
    assert_eq!(names(&two.temp.join("store/blobs/sha256")), [""; 0]);
}

#[test]
fn all_manifests_of_an_image_go_with_its_last_name() {
    let temp = Temp::new();
    let layout = Layout::new(temp.join("oci"));
    let archive = tar(&["file a x"]);
    let packed = layout.image(&[Layer::gzip(&archive)], json!({}));
    let plain = layout.image(&[Layer::plain(archive)], json!({}));
    let repository = Repository::tagged(layout, &[("packed", &packed), ("plain", &plain)]);
    let store = Store::open(&temp.join("store")).unwrap();
    let ids = ["app:packed", "app:plain"].map(|name| repository.pull(&store, name).unwrap().id);
    assert_eq!(ids[0], ids[1]);
    let documents = || names(&temp.join("store/blobs/sha256")).len();
    assert_eq!(documents(), 3);
    store.remove("app:packed", false).unwrap();
    store.remove("app:plain", false).unwrap();
    assert_eq!(documents(), 0);
}

#[test]
fn what_an_image_is_called_by_in_a_repository_goes_with_its_last_tag_there() {
    let two = Two::new();
    let digests = || two.store.image(two.one).unwrap().digests;
    let known = digests();
    assert_eq!(known.len(), 1);
    two.store.tag(two.one, &named("app:again")).unwrap();
    two.store.tag(two.one, &named("other:1")).unwrap();
    assert_eq!(two.remove("app:one", false), Ok("-app:one".to_owned()));
    assert_eq!(digests(), known);
    assert_eq!(two.store.find(&known[0].to_string()).unwrap().id, two.one);
    assert_eq!(two.remove("app:again", false), Ok("-app:again -digest".to_owned()));
    assert_eq!(digests(), []);
    assert_eq!(two.remove("other:1", false), Ok("-other:1 one layer".to_owned()));
    assert_eq!(two.layers(), 2);
}

#[test]
fn an_image_that_came_by_its_digest_loses_that_with_its_last_tag_there() {
    let two = Two::new();
    let by_digest = two.store.image(two.two).unwrap().digests.remove(0);
    assert_eq!(two.remove("app:two", false), Ok("-app:two -digest two layer".to_owned()));
    two.repository.pull(&two.store, &by_digest.to_string()).unwrap();
    for (name, says) in [("app:new", "-app:new -digest"), ("other:1", "-other:1 two layer")] {
        two.store.tag(two.two, &named(name)).unwrap();
        two.store.tag(two.two, &named("other:1")).unwrap();
        assert_eq!(two.remove(name, false), Ok(says.to_owned()));
    }
    assert_eq!(two.layers(), 2);
}

#[test]
fn images_in_use_stay() {
    let two = Two::new();
    let short = &two.one.hex()[..12];
    let by_name = "conflict: unable to remove repository reference \"app:one\" (must force) - container 0123456789ab \
                   is using its referenced image ";
    two.use_by("app:one", false);
    assert_eq!(two.remove("app:one", false), Err(format!("{by_name}{short}")));
    let stopped = "(must be forced) - image is being used by stopped container 0123456789ab";
    assert_eq!(two.remove(short, false), Err(format!("conflict: unable to delete {short} {stopped}")));
    two.uses.lock().unwrap()[0].is_running = true;
    let running = "(cannot be forced) - image is being used by running container 0123456789ab";
    assert_eq!(two.remove(short, true), Err(format!("conflict: unable to delete {short} {running}")));
    assert_eq!(two.remove("app:one", true), Ok("-app:one".to_owned()), "stays without a name");
    assert_eq!(two.store.image(two.one).unwrap().names, []);
    two.uses.lock().unwrap()[0].is_running = false;
    assert_eq!(two.remove(short, true), Ok("-digest one".to_owned()));
    assert_eq!(two.layers(), 3, "the container keeps its layers");
    two.uses.lock().unwrap().clear();
    assert_eq!(two.store.collect(&|_| false).unwrap().layers.len(), 1);
    assert_eq!(two.layers(), 2);
}

#[test]
fn an_id_with_names_in_two_repositories_wants_force() {
    let two = Two::new();
    two.store.tag(two.one, &named("other")).unwrap();
    let short = &two.one.hex()[..12];
    let several = "(must be forced) - image is referenced in multiple repositories";
    assert_eq!(two.remove(short, false), Err(format!("conflict: unable to delete {short} {several}")));
    assert_eq!(two.remove(short, true), Ok("-app:one -other:latest -digest one layer".to_owned()));
}

#[test]
fn a_prune_takes_what_it_is_told_to() {
    let two = Two::new();
    two.use_by("app:two", false);
    assert_eq!(two.store.collect(&|image| image.names.is_empty()).unwrap().removed, []);
    assert_eq!(two.layers(), 3);
    let collected = two.store.collect(&|_| true).unwrap();
    assert_eq!(collected.removed.last(), Some(&Removed::Deleted(two.one)));
    assert!(collected.bytes > 1, "{collected:?}");
    assert_eq!(two.layers(), 2);
    assert_eq!(two.store.images().unwrap().len(), 1);
}

#[test]
fn a_collection_that_cannot_know_takes_nothing() {
    let two = Two::new();
    let store = Store::open(&two.temp.join("store")).unwrap();
    let store = store.with_users(|| Err(io::Error::other("no records")));
    assert!(store.collect(&|_| true).unwrap_err().to_string().contains("no records"));
    assert!(store.remove("app:one", true).is_err());
    assert_eq!((two.layers(), two.store.images().unwrap().len()), (3, 2));
}

#[test]
fn a_damaged_name_keeps_everything() {
    let two = Two::new();
    let records = two.temp.join("store/names");
    let name = names(&records).into_iter().find(|name| name.ends_with(":one")).unwrap();
    fs::write(records.join(name), "{").unwrap();
    let error = two.store.collect(&|_| true).unwrap_err().to_string();
    assert!(error.contains("not a record") && error.contains("skiff system fsck"), "{error}");
    assert!(two.remove("app:two", true).is_err());
    assert_eq!((two.layers(), names(&records).len()), (3, 2));
}

#[test]
fn layers_of_layouts_are_cache() {
    let two = Two::new();
    let layout = Layout::of(two.temp.join("own"), &[Layer::plain(tar(&["file x cache"]))]);
    let image = resolve(&two.temp.join("store"), &layout.reference()).unwrap();
    two.remove("app:one", false).unwrap();
    assert!(image.layers[0].exists(), "no matter of the image that was removed");
    let usage = two.store.usage().unwrap();
    assert_eq!((usage.cached_bytes, usage.cached_reclaimable_bytes), (5, 5));
    let lease = two.store.lease(&image).unwrap();
    two.store.collect(&|_| false).unwrap();
    assert_eq!(tell(&image.layers[0]), "x=cache");
    drop(lease);
    assert_eq!(two.store.collect(&|_| false).unwrap().layers.len(), 1);
    assert!(two.store.lease(&image).is_err());
    assert_eq!(two.layers(), 2);
}

/// Trees whose images are gone, whoever made them.
#[test]
fn merged_trees_go_with_their_images() {
    let two = Two::new();
    let erofs = two.temp.join("store/erofs/sha256");
    fs::create_dir_all(&erofs).unwrap();
    let chain = |id| {
        let layers: Vec<_> = two.store.image(id).unwrap().layers.iter().map(Digest::hex).collect();
        Digest::of(layers.join("\n").as_bytes()).hex()
    };
    for tree in [chain(two.one), chain(two.two), "0".repeat(64)] {
        fs::write(erofs.join(tree), "tree").unwrap();
    }
    let other = chain(two.two);
    assert_eq!(two.store.collect(&|_| false).unwrap().bytes, 4);
    two.remove("app:one", false).unwrap();
    assert_eq!(names(&erofs), [other]);
    two.store.check(true).unwrap();
    assert!(!erofs.exists());
}

#[test]
fn room_is_counted_once() {
    let two = Two::new();
    two.use_by("app:two", true);
    let usage = two.store.usage().unwrap();
    assert_eq!((usage.bytes, usage.reclaimable_bytes, usage.active), (5, 1, 1));
    let mut each: Vec<_> =
        usage.images.iter().map(|it| (it.shared_bytes, it.unique_bytes, it.containers)).collect();
    each.sort_unstable();
    assert_eq!(each, [(2, 1, 0), (2, 2, 1)]);
}

const STORE: &str = "SKIFF_TEST_LEASE";

/// Not a test by itself: holds a lease until it is killed.
#[test]
fn child() {
    if let Ok(root) = std::env::var(STORE) {
        let store = Store::open(root.as_ref()).unwrap();
        let image = store.resolve(&ImageRef::parse("app:one").unwrap()).unwrap();
        let _lease = store.lease(&image).unwrap();
        println!("held");
        loop {
            thread::park();
        }
    }
}

#[test]
fn a_lease_ends_with_its_process() {
    use io::BufRead;
    let two = Two::new();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "collect::child", "--nocapture"])
        .env(STORE, two.temp.join("store"))
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let output = io::BufReader::new(child.stdout.take().unwrap());
    assert!(output.lines().any(|line| line.unwrap().contains("held")));
    two.remove("app:one", true).unwrap();
    two.store.collect(&|_| false).unwrap();
    assert_eq!(two.layers(), 3);
    child.kill().unwrap();
    child.wait().unwrap();
    two.store.collect(&|_| false).unwrap();
    assert_eq!(two.layers(), 2);
    assert_eq!(names(&two.temp.join("store/leases")), [""; 0]);
}

/// A collection that was killed between its word and its deed.
#[test]
fn what_a_dead_collection_condemned_is_free() {
    let two = Two::new();
    let image = two.store.resolve(&ImageRef::parse("app:one").unwrap()).unwrap();
    let hex = image.layers[0].file_name().unwrap().to_str().unwrap().to_owned();
    let condemned = two.temp.join("store/condemned");
    fs::write(&condemned, json!({ "layers": [format!("sha256:{hex}")], "blobs": [] }).to_string()).unwrap();
    drop(two.store.lease(&image).unwrap());
    assert!(!condemned.exists());
    for damaged in ["", "{"] {
        fs::write(&condemned, damaged).unwrap();
        drop(two.store.lease(&image).unwrap());
        assert!(!condemned.exists());
    }
}

/// Whoever has a lease has whole layers, whatever else goes on.
#[test]
fn collections_go_on_beside_pulls_and_runs() {
    let temp = Temp::new();
    let layout = Layout::new(temp.join("oci"));
    let lines: Vec<_> = (0..40).map(|n| format!("file d{}/{n} text", n % 5)).collect();
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    let image = |text: &str| {
        let own = Layer::gzip(&tar(&[&format!("file own {text}")]));
        layout.image(&[Layer::gzip(&tar(&lines)), own], json!({}))
    };
    let (one, two) = (image("1"), image("2"));
    let expect = 40 + 5;
    let repository = Repository::tagged(Layout(temp.join("oci")), &[("one", &one), ("two", &two)]);
    assert_ne!(digest_of(&one), digest_of(&two));
    let store = Store::open(&temp.join("store")).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let (repository, store, done) = (&repository, &store, &done);
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                store.collect(&|_| true).unwrap();
            }
        });
        let workers: Vec<_> = ["app:one", "app:two", "app:one"]
            .map(|name| {
                scope.spawn(move || {
                    let mut held = 0;
                    while held < 30 {
                        repository.pull(store, name).unwrap();
                        let Ok(image) = store.resolve(&ImageRef::parse(name).unwrap()) else { continue };
                        let Ok(_lease) = store.lease(&image) else { continue };
                        assert_eq!(tell(&image.layers[1]).split(' ').count(), expect);
                        held += 1;
                    }
                })
            })
            .into_iter()
            .collect();
        let ended: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        done.store(true, Ordering::Relaxed);
        assert!(ended.iter().all(Result::is_ok));
    });
    store.collect(&|_| true).unwrap();
    for place in ["tmp", "leases", "partial/sha256", "layers/sha256", "tars/sha256", "blobs/sha256", "names"]
    {
        assert_eq!(names(&temp.join("store").join(place)), [""; 0], "{place}");
    }
}
