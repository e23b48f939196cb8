//! Images go out into archives and come back as they were.

use std::fs;
use std::io::Read;
use std::path::Path;

use serde_json::{Value, json};
use skiff_store::{Archive, Digest, ImageName, ImageRef, Loaded, Saving, Silent, Store, To};

use crate::fixture::{Layer, Layout, Temp, append, gzip, header, names, sha256, tar, tell, with, zstd};

struct Fixture {
    temp: Temp,
    store: Store,
    /// Two images that share a layer.
    ids: [Digest; 2],
}

fn name(text: &str) -> ImageName {
    ImageName::parse(text).unwrap()
}

impl Fixture {
    fn new() -> Self {
        let temp = Temp::new();
        let store = Store::open(&temp.join("store")).unwrap();
        let shared = || Layer::gzip(&tar(&["dir d/", "file d/a old", "file d/a new", "file .wh.b"]));
        let other = Layer::zstd(&tar(&["file e x", "link f e"]));
        let load = |path: &str, layers: &[Layer], names: &[ImageName]| {
            let layout = Layout::of(temp.join(path), layers);
            store.load(&ImageRef::parse(&layout.reference()).unwrap(), names, &Silent).unwrap()
        };
        let first = load("one", &[shared()], &[name("one:1"), name("localhost:5000/a/one:2")]);
        let second = load("two", &[shared(), other, shared()], &[name("two")]);
        Self { temp, store, ids: [first, second] }
    }

    fn both(&self) -> Vec<Saving> {
        let names = [vec![name("one:1"), name("localhost:5000/a/one:2")], vec![name("two")]];
        self.ids.iter().zip(names).map(|(&id, names)| Saving { id, names }).collect()
    }

    fn saved(&self, images: &[Saving]) -> Vec<u8> {
        let mut archive = Vec::new();
        self.store.save(images, To::Docker(&mut archive)).unwrap();
        archive
    }
}

fn load(store: &Path, mut archive: &[u8]) -> Result<Vec<Loaded>, String> {
    let store = Store::open(store).unwrap();
    store.load_archive(Archive::Stream(&mut archive), None, &Silent).map_err(|e| e.to_string())
}

/// `index.json`, `manifest.json` and `repositories` of an archive, and the names of all its files.
fn look(archive: &[u8]) -> (Value, Value, Value, Vec<String>) {
    let (mut found, mut all) = (std::collections::HashMap::new(), Vec::new());
    for entry in ::tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        let mut text = Vec::new();
        entry.read_to_end(&mut text).unwrap();
        if let Some(hex) = path.strip_prefix("blobs/sha256/").filter(|hex| !hex.is_empty()) {
            assert_eq!(sha256(&text), hex);
        }
        found.insert(path.clone(), text);
        all.push(path);
    }
    let json = |name: &str| found.get(name).map_or(Value::Null, |text| serde_json::from_slice(text).unwrap());
    (json("index.json"), json("manifest.json"), json("repositories"), all)
}

#[test]
fn images_come_back_as_they_were() {
    let it = Fixture::new();
    let archive = it.saved(&it.both());
    assert!(archive == it.saved(&it.both()), "the same images make the same archive");
    let expect: Vec<_> =
        it.both().into_iter().map(|image| Loaded { id: image.id, names: image.names }).collect();
    for (number, packed) in [archive.clone(), gzip(&archive), zstd(&archive)].iter().enumerate() {
        let store = it.temp.join(&format!("again{number}"));
        assert_eq!(load(&store, packed).unwrap(), expect);
        let path = it.temp.join("file");
        fs::write(&path, packed).unwrap();
        let store = Store::open(&it.temp.join(&format!("file{number}"))).unwrap();
        assert_eq!(store.load_archive(Archive::File(&path), None, &Silent).unwrap(), expect);
        let mut second = Vec::new();
        store.save(&it.both(), To::Docker(&mut second)).unwrap();
        assert!(second == archive, "saved again after it was loaded");
        for id in it.ids {
            let tells = |store: &Store| {
                let image = store.resolve(&ImageRef::Id(id)).unwrap();
                image.layers.iter().map(|layer| tell(layer)).collect::<Vec<_>>()
            };
            assert_eq!(tells(&store), tells(&it.store));
        }
        assert_eq!(names(&it.temp.join(&format!("file{number}")).join("tmp")), [""; 0]);
    }
}

#[test]
fn archives_have_what_docker_looks_for() {
    let it = Fixture::new();
    let (index, list, repositories, all) = look(&it.saved(&it.both()));
    assert_eq!(index["manifests"].as_array().unwrap().len(), 3);
    assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "docker.io/library/one:1");
    assert_eq!(list[0]["RepoTags"], json!(["one:1", "localhost:5000/a/one:2"]));
    assert_eq!(list[1]["RepoTags"], json!(["two:latest"]));
    assert_eq!(list[0]["Config"], format!("blobs/sha256/{}", it.ids[0].hex()));
    assert_eq!(list[1]["Layers"].as_array().unwrap().len(), 3);
    assert_eq!(list[1]["Layers"][0], list[0]["Layers"][0]);
    assert!(
        repositories["two"]["latest"].is_string() && repositories["localhost:5000/a/one"]["2"].is_string()
    );
    assert_eq!(all.iter().filter(|name| name.starts_with("blobs/sha256/")).count(), 1 + 2 + 2 + 2);
    let (index, list, repositories, _) = look(&it.saved(&[Saving { id: it.ids[0], names: Vec::new() }]));
    assert_eq!((index["manifests"][0]["annotations"].clone(), repositories), (Value::Null, json!({})));
    assert_eq!(list[0]["RepoTags"], Value::Null);
}

#[test]
fn an_image_without_a_name_comes_without_one() {
    let it = Fixture::new();
    let archive = it.saved(&[Saving { id: it.ids[1], names: Vec::new() }]);
    let loaded = load(&it.temp.join("again"), &archive).unwrap();
    assert_eq!(loaded, [Loaded { id: it.ids[1], names: Vec::new() }]);
    let images = Store::open(&it.temp.join("again")).unwrap().images().unwrap();
    assert_eq!((images.len(), images[0].id, images[0].names.len()), (1, it.ids[1], 0));
}

#[test]
fn layouts_and_their_archives() {
    let it = Fixture::new();
    let mut archive = Vec::new();
    it.store.save(&it.both(), To::OciArchive(&mut archive)).unwrap();
    let (index, list, _, _) = look(&archive);
    assert_eq!((index["manifests"].as_array().unwrap().len(), list), (3, Value::Null));
    let loaded = load(&it.temp.join("again"), &archive).unwrap();
    assert_eq!(loaded.iter().map(|image| image.id).collect::<Vec<_>>(), it.ids);
    assert_eq!(
        loaded[0].names,
        [name("localhost:5000/a/one:2"), name("one:1")].map(|n| n).into_iter().rev().collect::<Vec<_>>()
    );
    let layout = it.temp.join("layout");
    it.store.save(&it.both(), To::OciLayout(&layout)).unwrap();
    let reference = ImageRef::parse(&format!("oci:{}:two:latest", layout.display())).unwrap();
    let other = Store::open(&it.temp.join("other")).unwrap();
    assert_eq!(other.load(&reference, &[], &Silent).unwrap(), it.ids[1]);
    let error = it.store.save(&it.both(), To::OciLayout(&layout)).unwrap_err().to_string();
    assert!(error.contains("layout: is there, and not empty"), "{error}");
}

#[test]
fn what_cannot_be_saved() {
    let it = Fixture::new();
    let unknown = Digest::of(b"nobody");
    let mut archive = Vec::new();
    let save =
        |archive: &mut Vec<u8>, id| it.store.save(&[Saving { id, names: Vec::new() }], To::Docker(archive));
    let error = save(&mut archive, unknown).unwrap_err().to_string();
    assert!(error.contains("no such image"), "{error}");
    let layer = it.store.image(it.ids[0]).unwrap().layers[0];
    fs::remove_file(it.temp.join("store/tars/sha256").join(layer.hex())).unwrap();
    let error = save(&mut archive, it.ids[0]).unwrap_err().to_string();
    assert!(error.contains("it is not known how its archive looked"), "{error}");
    assert_eq!(archive, b"", "nothing is written before everything is known to be there");
}

#[test]
fn a_damaged_layer_is_not_saved_as_another() {
    let it = Fixture::new();
    let layer = it.store.image(it.ids[0]).unwrap().layers[0];
    fs::write(it.temp.join("store/layers/sha256").join(layer.hex()).join("d/a"), "NEW").unwrap();
    let image = Saving { id: it.ids[0], names: Vec::new() };
    let error = it.store.save(&[image], To::Docker(&mut Vec::new())).unwrap_err().to_string();
    assert!(error.contains("is damaged: content has digest"), "{error}");
}

#[test]
fn archives_that_are_none() {
    let temp = Temp::new();
    let store = temp.join("store");
    let check = |archive: &[u8], expect: &str| {
        let error = load(&store, archive).unwrap_err();
        assert!(error.contains(expect) && !error.contains('\n'), "{error}, expected {expect}");
        assert_eq!(names(&store.join("tmp")), [""; 0]);
        assert_eq!(Store::open(&store).unwrap().images().unwrap(), []);
    };
    check(b"", "neither manifest.json nor index.json: missing");
    check(&tar(&["file a x"]), "neither manifest.json nor index.json: missing");
    check(&b"no tar ".repeat(100), "malformed tar");
    check(b"BZh91AY&SY", "bzip2 is not supported");
    check(&gzip(&tar(&["file a x"]))[..30], "the data ends too early");
    let one = |path: &str, text: &str| {
        let mut archive = Vec::new();
        append(&mut archive, &mut header(path), text.as_bytes());
        archive
    };
    check(&one("manifest.json", "[]"), "holds no image");
    check(&one("manifest.json", "{"), "manifest.json: ");
    check(
        &one("manifest.json", r#"[{"Config":"../../etc/passwd","Layers":[]}]"#),
        "../../etc/passwd: missing",
    );
    check(&one("manifest.json", &" ".repeat(5 << 20)), "manifest.json: larger than 4194304 bytes");
    check(&one("index.json", r#"{"manifests":[]}"#), "holds no image");
    check(
        &one("index.json", r#"{"manifests":[{"digest":"sha256:../x","size":1}]}"#),
        "is not a sha256 digest",
    );
    let it = Fixture::new();
    let archive = it.saved(&it.both());
    check(&archive[..archive.len() / 2], "");
    let text = String::from_utf8_lossy(&archive).into_owned();
    assert!(text.contains("\"one:1\""));
    let at = archive.windows(7).position(|bytes| bytes == b"\"one:1\"").unwrap();
    let mut spoilt = archive.clone();
    spoilt[at..at + 7].copy_from_slice(b"\"ONE:1\"");
    check(&spoilt, "name \"ONE:1\": ");
    let error = Store::open(&store)
        .unwrap()
        .load_archive(Archive::File(Path::new("/dev/null")), None, &Silent)
        .unwrap_err()
        .to_string();
    assert!(error.contains("/dev/null: not a regular file"), "{error}");
}

#[test]
fn documents_are_bounded_all_together() {
    let temp = Temp::new();
    let configuration = json!({
        "os": "linux", "rootfs": { "type": "layers", "diff_ids": [] }, "x": "x".repeat(4_000_000),
    });
    let mut archive = Vec::new();
    append(&mut archive, &mut header("c"), configuration.to_string().as_bytes());
    let list = vec![json!({ "Config": "c", "Layers": [] }); 17];
    append(&mut archive, &mut header("manifest.json"), json!(list).to_string().as_bytes());
    let error = load(&temp.join("store"), &archive).unwrap_err();
    assert!(error.contains("documents are larger than 67108864 bytes together"), "{error}");
}

/// As skopeo writes archives of layouts: names are tags or references, images of other systems lie beside.
#[test]
fn what_other_writers_say() {
    let temp = Temp::new();
    let layout = Layout::new(temp.join("oci"));
    let image = |text: &str| layout.image(&[Layer::plain(tar(&[text]))], json!({}));
    let named = |image: Value, name: &str| {
        with(image, "annotations", json!({ "org.opencontainers.image.ref.name": name }))
    };
    let (one, two, three) = (image("file a 1"), image("file a 2"), image("file a 3"));
    let unknown = with(image("file a 4"), "platform", json!({ "os": "unknown", "architecture": "unknown" }));
    layout.index(&[named(one, "latest"), named(two, "quay.io/x/y:1"), named(three, "app:2"), unknown]);
    let mut builder = ::tar::Builder::new(Vec::new());
    builder.append_dir_all(".", &layout.0).unwrap();
    let loaded = load(&temp.join("store"), &builder.into_inner().unwrap()).unwrap();
    let names: Vec<_> = loaded.iter().map(|image| image.names.clone()).collect();
    assert_eq!(names, [vec![], vec![name("quay.io/x/y:1")], vec![name("app:2")]]);
}
