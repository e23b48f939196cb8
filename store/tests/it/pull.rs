//! Images from elsewhere: whole, in pieces, twice at once, and not as they claim to be.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use skiff_store::{
    Digest, Document, Error, ImageRef, LayerEvent, ManifestRef, Platform, Remote, RemoteError, Store,
};

use crate::fixture::{Layer, Layout, Temp, goarch, names, sha256, tar, tell, with};
use crate::repository::{Repository, Told, digest, digest_of, named};

fn open(temp: &Temp) -> Store {
    Store::open(&temp.join("store")).unwrap()
}

/// Layers whose blobs are some hundred kilobytes.
fn heavy(letters: &[&str]) -> Vec<Layer> {
    letters.iter().map(|letter| Layer::plain(tar(&heavy_lines(letter)))).collect()
}

fn heavy_lines(letter: &str) -> Vec<&'static str> {
    (0..300).map(|n| &*Box::leak(format!("file {letter}/{n} {}", "x".repeat(900)).into_boxed_str())).collect()
}

fn resolve(store: &Store, image: &str) -> Result<Vec<String>, String> {
    let reference = ImageRef::parse(image).map_err(|e| e.to_string())?;
    let image = store.resolve(&reference).map_err(|e| e.to_string())?;
    Ok(image.layers.iter().map(|layer| tell(layer)).collect())
}

/// Nothing is left of the way there.
fn assert_settled(temp: &Temp) {
    let store = temp.join("store");
    for place in ["tmp", "leases", "partial/sha256"] {
        assert_eq!(names(&store.join(place)), [""; 0], "{place}");
    }
}

#[test]
fn a_pulled_image_is_here_by_name_and_by_id() {
    let temp = Temp::new();
    let archive = [tar(&["file a x"]), tar(&["file b y"]), tar(&[])];
    let layers = [Layer::gzip(&archive[0]), Layer::zstd(&archive[1]), Layer::plain(archive[2].clone())];
    let repository = Repository::of(Layout::new(temp.join("oci")), &layers);
    let store = open(&temp);
    assert_eq!(resolve(&store, "app"), Err("no such image: app:latest".to_owned()));
    let pulled = repository.pull(&store, "app").unwrap();
    assert!(pulled.is_new);
    assert_eq!(pulled.digest, repository.tags["latest"]);
    let expect = Ok(vec![String::new(), "b=y".to_owned(), "a=x".to_owned()]);
    let id = pulled.id.to_string();
    for name in ["app", "app:latest", "docker.io/library/app", &id, &id[7..], &id[7..19]] {
        assert_eq!(resolve(&store, name), expect, "{name}");
    }
    assert_eq!(resolve(&store, &format!("app@{}", pulled.digest)), expect);
    assert!(resolve(&store, "app:other").is_err());
    let all = store.images().unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].names, [named("app")]);
    assert_eq!(all[0].digests, [named(&format!("app@{}", pulled.digest))]);
    assert_eq!((all[0].id, all[0].size_bytes), (pulled.id, 2));
    assert_eq!(all[0].config.cmd, ["sh"]);
    let documents = store.documents(pulled.id).unwrap();
    assert_eq!(Digest::of(&documents.manifest.bytes), pulled.digest);
    assert_eq!(Digest::of(&documents.configuration), pulled.id);
    let again = repository.served();
    assert!(!repository.pull(&store, "app").unwrap().is_new);
    assert_eq!(repository.served(), again, "nothing is fetched twice");
    assert_settled(&temp);
}

#[test]
fn an_index_is_asked_for_a_platform() {
    let temp = Temp::new();
    let layout = Layout::new(temp.join("oci"));
    let image = |platform: &str, text: &str| {
        let part: Vec<_> = platform.split('/').collect();
        let layer = Layer::gzip(&tar(&[&format!("file a {text}")]));
        let blob = layout.blob("application/vnd.docker.image.rootfs.diff.tar.gzip", &layer.blob);
        let config = json!({
            "os": part[0], "architecture": part[1],
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", layer.diff_id)] },
        });
        let config = layout.json("application/vnd.docker.container.image.v1+json", &config);
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [blob] });
        let manifest = layout.json("application/vnd.docker.distribution.manifest.v2+json", &manifest);
        with(manifest, "platform", json!({ "os": part[0], "architecture": part[1] }))
    };
    let (own, other) = (image(&format!("linux/{}", goarch()), "own"), image("linux/s390x", "other"));
    let index = layout.json(
        "application/vnd.docker.distribution.manifest.list.v2+json",
        &json!({ "manifests": [other, own] }),
    );
    let repository = Repository::tagged(layout, &[("latest", &index), ("s390x", &other)]);
    let store = open(&temp);
    let pulled = repository.pull(&store, "app").unwrap();
    assert_eq!(pulled.digest, digest_of(&index));
    assert_eq!(resolve(&store, "app"), Ok(vec!["a=own".to_owned()]));
    let foreign = repository.pull_for(&store, "app", "linux/s390x").unwrap();
    assert!(foreign.is_new && foreign.id != pulled.id);
    assert_eq!(resolve(&store, "app"), Ok(vec!["a=other".to_owned()]));
    assert_eq!(resolve(&store, &pulled.id.to_string()), Ok(vec!["a=own".to_owned()]), "the old one stays");
    let error = repository.pull_for(&store, "app", "linux/riscv64").unwrap_err();
    assert!(error.contains("nothing for linux/riscv64, only for linux/s390x, linux/"), "{error}");
    let error = repository.pull(&store, "app:s390x").unwrap_err();
    assert!(error.contains("is for linux/s390x, not for linux/"), "{error}");
}

#[test]
fn a_name_that_moves_leaves_its_image_without_one() {
    let temp = Temp::new();
    let layout = Layout::new(temp.join("oci"));
    let one = layout.image(&[Layer::gzip(&tar(&["file a 1"]))], json!({}));
    let two = layout.image(&[Layer::gzip(&tar(&["file a 2"]))], json!({}));
    let mut repository = Repository::tagged(layout, &[("latest", &one)]);
    let store = open(&temp);
    let old = repository.pull(&store, "app").unwrap();
    repository.tags.insert("latest".to_owned(), digest_of(&two));
    let new = repository.pull(&store, "app").unwrap();
    assert!(new.is_new);
    let all = store.images().unwrap();
    let of = |id| all.iter().find(|it| it.id == id).unwrap();
    assert_eq!(of(new.id).names, [named("app")]);
    assert_eq!(of(old.id).names, []);
    assert_eq!(of(old.id).digests, [named(&format!("app@{}", old.digest))]);
    store.tag(old.id, &named("old:1")).unwrap();
    assert_eq!(resolve(&store, "old:1"), Ok(vec!["a=1".to_owned()]));
    assert_eq!(store.find("old:1").unwrap().id, old.id);
    assert!(matches!(store.find("nothing"), Err(Error::NoSuchImage { .. })));
    assert!(matches!(store.find("No/Name"), Err(Error::Invalid { .. })));
}

#[test]
fn streams_that_break_are_taken_up_where_they_broke() {
    let temp = Temp::new();
    let mut repository = Repository::of(Layout::new(temp.join("oci")), &heavy(&["a", "b"]));
    let size: u64 = 2 * (300 * 1536 + 1024);
    for rude in [false, true] {
        let store = Store::open(&temp.join(if rude { "rude" } else { "store" })).unwrap();
        (repository.cut, repository.is_rude) = (200_000, rude);
        let (told, before) = (Told::default(), repository.served());
        store.pull(&named("app"), &repository, &Platform::host(), &told).unwrap();
        let config = repository.served() - before - size;
        assert!(config < 1000, "{config} bytes more than the layers have");
        let events = told.0.into_inner().unwrap();
        let retries = events.iter().filter(|(_, event)| matches!(event, LayerEvent::Retrying { .. })).count();
        assert_eq!(retries, 4);
        let complete = events.iter().filter(|(_, event)| *event == LayerEvent::Complete).count();
        assert_eq!(complete, 2);
    }
    assert_settled(&temp);
}

#[test]
fn what_has_come_is_kept_for_the_next_pull() {
    let temp = Temp::new();
    let mut repository = Repository::of(Layout::new(temp.join("oci")), &heavy(&["a"]));
    let store = open(&temp);
    (repository.cut, repository.is_rude) = (10_000, true);
    let error = repository.pull(&store, "app").unwrap_err();
    assert!(error.contains("download ended at byte 70000 of 461824: connection reset"), "{error}");
    assert_eq!(names(&temp.join("store/tmp")), [""; 0]);
    assert_eq!(store.images().unwrap(), []);
    let before = repository.served();
    repository.cut = u64::MAX;
    repository.pull(&store, "app").unwrap();
    assert_eq!(repository.asked.lock().unwrap().last().unwrap().1, 70_000);
    assert!(repository.served() - before < 461_824 - 70_000 + 1000);
    assert_settled(&temp);
}

/// A repository whose streams stop after so many bytes until it is time to go on, which is asked with the digest of the blob.
struct Halting<'a> {
    repository: &'a Repository,
    after: u64,
    is_time: &'a (dyn Fn(Digest) -> bool + Sync),
}

impl Remote for Halting<'_> {
    fn manifest(&self, which: &ManifestRef) -> Result<Document, RemoteError> {
        self.repository.manifest(which)
    }

    fn blob(&self, digest: Digest, offset: u64) -> Result<Box<dyn Read + Send + '_>, RemoteError> {
        let first = self.repository.blob(digest, offset)?.take(self.after);
        let rest = self.repository.blob(digest, offset + self.after)?;
        Ok(Box::new(first.chain(Halt { halting: self, digest, rest })))
    }
}

struct Halt<'a> {
    halting: &'a Halting<'a>,
    digest: Digest,
    rest: Box<dyn Read + Send + 'a>,
}

impl Read for Halt<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let begin = Instant::now();
        while !(self.halting.is_time)(self.digest) {
            assert!(begin.elapsed() < Duration::from_secs(60), "waited in vain");
            thread::yield_now();
        }
        self.rest.read(buffer)
    }
}

/// More than a document has, and less than a layer.
const SOME: u64 = 300_000;

#[test]
fn a_layer_is_unpacked_while_it_still_comes() {
    let temp = Temp::new();
    let layers = heavy(&["a"]);
    let repository = Repository::of(Layout::new(temp.join("oci")), &layers);
    let store = open(&temp);
    let tree = temp.join("store/tmp").join(&layers[0].diff_id).join("tree/a");
    let is_time = |digest| digest != self::digest(&layers[0].diff_id) || fs::exists(tree.join("0")).unwrap();
    let halting = Halting { repository: &repository, after: SOME, is_time: &is_time };
    store.pull(&named("app"), &halting, &Platform::host(), &Told::default()).unwrap();
    assert_settled(&temp);
}

#[test]
fn layers_come_beside_each_other() {
    let temp = Temp::new();
    let layers = heavy(&["a", "b", "c"]);
    let repository = Repository::of(Layout::new(temp.join("oci")), &layers);
    let store = open(&temp);
    let all: BTreeSet<_> = layers.iter().map(|layer| digest(&layer.diff_id)).collect();
    let halted: Mutex<BTreeSet<Digest>> = Mutex::default();
    let is_time = |digest| {
        let mut halted = halted.lock().unwrap();
        halted.insert(digest);
        !all.contains(&digest) || all.is_subset(&halted)
    };
    let halting = Halting { repository: &repository, after: SOME, is_time: &is_time };
    store.pull(&named("app"), &halting, &Platform::host(), &Told::default()).unwrap();
    assert_settled(&temp);
}

const WORK: &str = "SKIFF_TEST_PULL";

/// Not a test by itself: begins a pull and does not come to its end.
#[test]
fn child() {
    let Some(place) = std::env::var_os(WORK).map(PathBuf::from) else { return };
    let layers = heavy(&["a"]);
    let repository = Repository::of(Layout::new(place.join("oci")), &layers);
    let is_time = |digest| {
        if digest == self::digest(&layers[0].diff_id) {
            println!("halted");
            loop {
                thread::park();
            }
        }
        true
    };
    let halting = Halting { repository: &repository, after: SOME, is_time: &is_time };
    let store = Store::open(&place.join("store")).unwrap();
    store.pull(&named("app"), &halting, &Platform::host(), &Told::default()).unwrap();
}

#[test]
fn what_a_killed_pull_has_brought_is_not_fetched_again() {
    let temp = Temp::new();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "pull::child", "--nocapture"])
        .env(WORK, temp.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = io::BufReader::new(child.stdout.take().unwrap());
    assert!(output.lines().any(|line| line.unwrap().contains("halted")));
    child.kill().unwrap();
    child.wait().unwrap();
    let layers = heavy(&["a"]);
    let repository = Repository::of(Layout::new(temp.join("oci")), &layers);
    let store = open(&temp);
    repository.pull(&store, "app").unwrap();
    let asked = repository.asked.lock().unwrap().clone();
    assert!(asked.contains(&(digest(&layers[0].diff_id), SOME)), "{asked:?}");
    assert!(!asked.contains(&(digest(&layers[0].diff_id), 0)), "{asked:?}");
    // The lease of the dead goes with a collection.
    store.collect(&|_| false).unwrap();
    assert_settled(&temp);
}

#[test]
fn wrong_bytes_are_not_kept() {
    let temp = Temp::new();
    let layers = heavy(&["a"]);
    let repository = Repository::of(Layout::new(temp.join("oci")), &layers);
    let path = repository.layout.blob_path(&sha256(&layers[0].blob));
    let mut spoilt = layers[0].blob.clone();
    spoilt[100_000] ^= 1;
    fs::write(&path, spoilt).unwrap();
    let store = open(&temp);
    let error = repository.pull(&store, "app").unwrap_err();
    assert!(error.contains("blob has digest sha256:"), "{error}");
    assert!(resolve(&store, "app").is_err());
    assert_settled(&temp);
    fs::write(&path, &layers[0].blob).unwrap();
    // What was kept by somebody else is wrong, too.
    fs::write(temp.join("store/partial/sha256").join(sha256(&layers[0].blob)), "wrong").unwrap();
    let error = repository.pull(&store, "app").unwrap_err();
    assert!(error.contains("blob has digest sha256:"), "{error}");
    repository.pull(&store, "app").unwrap();
    assert_settled(&temp);
}

#[test]
fn a_blob_that_is_shorter_than_its_manifest_says_is_no_layer() {
    let temp = Temp::new();
    let layers = heavy(&["a"]);
    let repository = Repository::of(Layout::new(temp.join("oci")), &layers);
    let path = repository.layout.blob_path(&sha256(&layers[0].blob));
    fs::write(&path, &layers[0].blob[..100_000]).unwrap();
    let store = open(&temp);
    let error = repository.pull(&store, "app").unwrap_err();
    assert!(error.contains("download ended at byte 100000 of 461824"), "{error}");
    assert!(resolve(&store, "app").is_err());
    assert_eq!(names(&temp.join("store/tmp")), [""; 0]);
    fs::write(&path, &layers[0].blob).unwrap();
    repository.pull(&store, "app").unwrap();
    assert_settled(&temp);
}

#[test]
fn documents_that_are_not_what_was_asked_for() {
    let temp = Temp::new();
    let layers = [Layer::gzip(&tar(&["file a x"]))];
    let check = |spoil: &dyn Fn(&mut Repository), name: &str, expect: &str| {
        let mut repository = Repository::of(Layout::new(temp.join("oci")), &layers);
        spoil(&mut repository);
        let store = open(&temp);
        let error = repository.pull(&store, name).unwrap_err();
        assert!(error.contains(expect) && !error.contains('\n'), "{error}, expected {expect}");
        assert_eq!(store.images().unwrap(), []);
        assert_settled(&temp);
    };
    check(&|_| {}, "app:none", "pull app:none: none: not found");
    check(&|_| {}, &format!("app@{}", Digest::of(b"x")), "manifest: not found");
    let swap = |repository: &mut Repository| {
        fs::write(repository.layout.blob_path(&Digest::of(b"x").hex()), "{}").unwrap();
    };
    check(&swap, &format!("app@{}", Digest::of(b"x")), "manifest has digest sha256:");
    let rubbish = |repository: &mut Repository| {
        let bytes = b"\x1b[2J";
        fs::write(repository.layout.blob_path(&sha256(bytes)), bytes).unwrap();
        repository.tags.insert("latest".to_owned(), digest(&sha256(bytes)));
    };
    check(&rubbish, "app", "manifest sha256:");
    let large = |repository: &mut Repository| {
        let config = json!({ "digest": format!("{}", Digest::of(b"")), "size": 1u64 << 40, "mediaType": "" });
        let manifest = repository.layout.json("", &json!({ "config": config, "layers": [] }));
        repository.tags.insert("latest".to_owned(), digest_of(&manifest));
    };
    check(&large, "app", "larger than 4194304 bytes");
    let foreign = |repository: &mut Repository| {
        let layer = json!({
            "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "digest": Digest::of(b"elsewhere").to_string(), "size": 9, "urls": ["https://example.com/layer"],
        });
        let config = json!({ "rootfs": { "diff_ids": [Digest::of(b"inside").to_string()] } });
        let config = repository.layout.json("", &config);
        let manifest = repository.layout.json("", &json!({ "config": config, "layers": [layer] }));
        repository.tags.insert("latest".to_owned(), digest_of(&manifest));
    };
    let lying = |more: i64| {
        move |repository: &mut Repository| {
            let layer = Layer::gzip(&tar(&["file a x"]));
            let size = i64::try_from(layer.blob.len()).unwrap() + more;
            let lie = with(repository.layout.blob(layer.media_type, &layer.blob), "size", size.into());
            let config = json!({ "rootfs": { "diff_ids": [format!("sha256:{}", layer.diff_id)] } });
            let config = repository.layout.json("", &config);
            let manifest = repository.layout.json("", &json!({ "config": config, "layers": [lie] }));
            repository.tags.insert("latest".to_owned(), digest_of(&manifest));
        }
    };
    check(&lying(-1), "app", "blob has digest sha256:");
    check(&foreign, "app", "blob: not found; it is kept elsewhere, which is not supported");
}

#[test]
fn layers_that_come_twice_are_fetched_once() {
    let temp = Temp::new();
    let twice = || Layer::plain(tar(&["file a x"]));
    let layers = [twice(), Layer::plain(tar(&["file b y"])), twice()];
    let repository = Repository::of(Layout::new(temp.join("oci")), &layers);
    let store = open(&temp);
    repository.pull(&store, "app").unwrap();
    assert_eq!(resolve(&store, "app"), Ok(vec!["a=x".to_owned(), "b=y".to_owned()]));
    let asked: Vec<_> = repository.asked.lock().unwrap().iter().map(|(digest, _)| *digest).collect();
    assert_eq!(asked.iter().filter(|it| **it == digest(&layers[0].diff_id)).count(), 1);
}

#[test]
fn pulls_at_once_share_the_work() {
    let temp = Temp::new();
    let repository = Repository::of(Layout::new(temp.join("oci")), &heavy(&["a", "b", "c"]));
    let store = open(&temp);
    thread::scope(|scope| {
        for number in 0..4 {
            let (repository, store) = (&repository, &store);
            scope.spawn(move || repository.pull(store, &format!("app{number}")).unwrap());
        }
    });
    assert!(repository.served() < 3 * 461_824 + 4 * 2000, "{}", repository.served());
    assert_eq!(store.images().unwrap()[0].names.len(), 4);
    assert_settled(&temp);
}

#[test]
fn what_is_elsewhere_is_known() {
    let temp = Temp::new();
    let layers = [Layer::gzip(&tar(&["file a x"]))];
    let repository = Repository::of(Layout::new(temp.join("oci")), &layers);
    let store = open(&temp);
    repository.pull(&store, "one.example/app").unwrap();
    repository.pull(&store, "two.example/app").unwrap();
    let known = store.layer_blobs(digest(&layers[0].diff_id)).unwrap();
    assert_eq!(known.len(), 1);
    assert_eq!(known[0].digest, digest(&sha256(&layers[0].blob)));
    assert_eq!(known[0].repositories, ["two.example/app", "one.example/app"]);
}

/// A manifest that names a foreign blob for a layer that is here is not believed.
#[test]
fn what_a_manifest_says_of_layers_is_no_proof() {
    let temp = Temp::new();
    let layer = || Layer::gzip(&tar(&["file a x"]));
    let lie = Layer { diff_id: layer().diff_id, ..Layer::gzip(&tar(&["file a evil"])) };
    let layout = Layout::new(temp.join("oci"));
    let (good, bad) = (layout.image(&[layer()], json!({})), layout.image(&[lie], json!({ "User": "1" })));
    let repository = Repository::tagged(layout, &[("good", &good), ("bad", &bad)]);
    let store = open(&temp);
    repository.pull(&store, "one.example/app:good").unwrap();
    repository.pull(&store, "two.example/app:bad").unwrap();
    let known = store.layer_blobs(digest(&layer().diff_id)).unwrap();
    assert_eq!(known.len(), 1);
    assert_eq!(known[0].digest, digest(&sha256(&layer().blob)));
    assert_eq!(known[0].repositories, ["one.example/app"]);
}

#[test]
fn a_store_of_format_1_is_taken_over() {
    let temp = Temp::new();
    let layer = Layer::gzip(&tar(&["file a hello"]));
    let store = temp.join("store");
    let layout = Layout::of(temp.join("oci"), std::slice::from_ref(&layer));
    let old = store.join("layers/sha256").join(&layer.diff_id);
    fs::create_dir_all(&old).unwrap();
    fs::create_dir(store.join("tmp")).unwrap();
    fs::write(old.join("a"), "hello").unwrap();
    fs::write(store.join("version"), "1\n").unwrap();
    let repository = Repository::of(layout, std::slice::from_ref(&layer));
    let opened = open(&temp);
    repository.pull(&opened, "app").unwrap();
    assert_eq!(resolve(&opened, "app"), Ok(vec!["a=hello".to_owned()]));
    assert_eq!(opened.images().unwrap()[0].size_bytes, 5);
    assert!(repository.asked.lock().unwrap().iter().all(|(it, _)| *it != digest(&sha256(&layer.blob))));
    assert_eq!(opened.check(true).unwrap(), []);
    let text = fs::read_to_string(Path::new(&store).join("version")).unwrap();
    assert_eq!(text, "2\n");
}

#[test]
fn images_of_archives_are_kept_under_names() {
    let temp = Temp::new();
    let layers = [Layer::gzip(&tar(&["file a x"])), Layer::plain(tar(&["file b y"]))];
    let layout = Layout::of(temp.join("oci"), &layers);
    let store = open(&temp);
    let reference = ImageRef::parse(&layout.reference()).unwrap();
    let id = store.load(&reference, &[named("app:1"), named("app:2")], &Told::default()).unwrap();
    assert_eq!(resolve(&store, "app:2"), Ok(vec!["b=y".to_owned(), "a=x".to_owned()]));
    assert_eq!(store.image(id).unwrap().names, [named("app:1"), named("app:2")]);
    assert_eq!(store.check(false).unwrap(), []);
}

#[test]
fn images_are_made_of_tars() {
    let temp = Temp::new();
    let store = open(&temp);
    let archive = tar(&["file a x"]);
    let mut draft = store.draft().unwrap();
    let layer = draft.layer(&mut &*Layer::gzip(&archive).blob).unwrap();
    assert_eq!(layer, Digest::of(&archive));
    assert_eq!(draft.layer(&mut &*archive).unwrap(), layer);
    store.collect(&|_| true).unwrap();
    let config = json!({ "os": "linux", "architecture": goarch(), "rootfs": { "diff_ids": [layer] } });
    let id = draft.commit(config.to_string().as_bytes(), None, &[]).unwrap();
    drop(draft);
    assert_eq!(resolve(&store, &id.to_string()), Ok(vec!["a=x".to_owned()]));
    store.collect(&|_| false).unwrap();
    assert_eq!(store.images().unwrap().len(), 1);
    let manifest: serde_json::Value =
        serde_json::from_slice(&store.documents(id).unwrap().manifest.bytes).unwrap();
    assert_eq!(manifest["layers"][0]["digest"], layer.to_string());
    assert_eq!(manifest["layers"][0]["size"], archive.len());
    let missing = json!({ "rootfs": { "diff_ids": [Digest::of(b"").to_string()] } });
    let error = store.draft().unwrap().commit(missing.to_string().as_bytes(), None, &[]).unwrap_err();
    assert!(error.to_string().ends_with("is missing"), "{error}");
    assert!(store.draft().unwrap().layer(&mut &b"no tar"[..]).is_err());
    assert_settled(&temp);
}
