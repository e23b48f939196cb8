//! Finding the right image in each kind of source.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use skiff_store::Image;

use crate::fixture::{
    Layer, Layout, Temp, append, assert_clean, goarch, gzip, header, names, resolve, sha256, tar, tell, with,
};

fn one(text: &str) -> Layer {
    Layer::plain(tar(&[&format!("file {text} x")]))
}

/// What the image's layers hold, top first.
fn told(image: &Image) -> String {
    image.layers.iter().map(|layer| tell(layer)).collect::<Vec<_>>().join(", ")
}

/// `expect` is what [`told`] says, or a part of the error.
fn check(store: &Path, image: &str, expect: &str) {
    let got = resolve(store, image).map_or_else(|error| error, |image| told(&image));
    assert!(got.contains(expect), "{image}: {got}, expected {expect}");
}

#[test]
fn layers_come_top_first_and_once() {
    let temp = Temp::new();
    let store = temp.join("store");
    let (plain, packed) = (one("a"), Layer::zstd(&tar(&["file b x"])));
    let layout = Layout::of(temp.join("oci"), &[plain, packed, Layer::gzip(&tar(&["file c x"])), one("a")]);
    check(&store, &layout.reference(), "a=x, c=x, b=x");
    assert_clean(&store, 3);
}

#[test]
fn layers_in_the_store_are_not_read_again() {
    let temp = Temp::new();
    let store = temp.join("store");
    let layout = Layout::of(temp.join("oci"), &[one("a")]);
    let first = resolve(&store, &layout.reference()).unwrap();
    fs::write(layout.blob_path(&sha256(&one("a").blob)), "gone").unwrap();
    assert_eq!(resolve(&store, &layout.reference()), Ok(first));
}

#[test]
fn configuration_reaches_the_caller() {
    let temp = Temp::new();
    let layout = Layout::new(temp.join("oci"));
    let manifest =
        layout.image(&[], json!({ "Env": ["A=1"], "Cmd": ["sh"], "User": "me", "Volumes": { "/v": {} } }));
    layout.index(&[manifest]);
    let image = resolve(&temp.join("store"), &layout.reference()).unwrap();
    assert_eq!(image.config.env, ["A=1"]);
    assert_eq!(image.config.cmd, ["sh"]);
    assert_eq!(image.config.user, "me");
    assert_eq!(image.config.volumes, ["/v"]);
    assert!(image.id.unwrap().starts_with("sha256:"));
}

#[test]
fn tags_in_a_layout() {
    let temp = Temp::new();
    let store = temp.join("store");
    let layout = Layout::new(temp.join("oci"));
    let image = |text: &str, key: &str, name: &str| {
        with(layout.image(&[one(text)], json!({})), "annotations", json!({ key: name }))
    };
    let reference = "org.opencontainers.image.ref.name";
    layout.index(&[image("one", reference, "v1"), image("two", reference, "v2")]);
    let at = layout.reference();
    check(&store, &format!("{at}:v1"), "one=x");
    check(&store, &format!("{at}:v2"), "two=x");
    check(&store, &format!("{at}:v3"), "holds no image \"v3\", but v1, v2");
    check(&store, &at, "holds several images, add :TAG to choose one of v1, v2");
    layout.index(&[image("one", reference, "v1"), image("two", reference, "latest")]);
    check(&store, &at, "two=x");
    layout.index(&[image("one", reference, "v\u{1b}1\n")]);
    check(&store, &format!("{at}:v1"), "holds no image \"v1\", but v\u{fffd}1\u{fffd}");
    layout.index(&[image("one", "io.containerd.image.name", "docker.io/library/app:v1")]);
    check(&store, &format!("{at}:app:v1"), "one=x");
}

#[test]
fn platforms_in_nested_indexes() {
    let temp = Temp::new();
    let store = temp.join("store");
    let layout = Layout::new(temp.join("oci"));
    let image = |text: &str, architecture: &str| {
        let platform = json!({ "os": "linux", "architecture": architecture });
        with(layout.image(&[one(text)], json!({})), "platform", platform)
    };
    layout.index(&[layout.nested(&[image("other", "s390x"), image("this", goarch())])]);
    check(&store, &layout.reference(), "this=x");
    layout.index(&[image("other", "s390x"), image("this", goarch())]);
    check(&store, &layout.reference(), "this=x");
    layout.index(&[layout.nested(&[image("other", "s390x"), image("another", "mips")])]);
    check(&store, &layout.reference(), "only for linux/s390x, linux/mips");
}

/// The layout's directory as a tar archive.
fn archive(dir: &Path, to: &Path) {
    let mut all = Vec::new();
    for name in ["index.json".to_owned(), "oci-layout".to_owned()]
        .into_iter()
        .chain(names(&dir.join("blobs/sha256")).into_iter().map(|hex| format!("./blobs/sha256/{hex}")))
    {
        append(&mut all, &mut header(&name), &fs::read(dir.join(&name)).unwrap());
    }
    all.extend([0; 1024]);
    fs::write(to, all).unwrap();
}

#[test]
fn archives_of_layouts_are_read_in_place() {
    let temp = Temp::new();
    let store = temp.join("store");
    let layout = Layout::of(temp.join("oci"), &[one("a"), Layer::gzip(&tar(&["file b x"]))]);
    let file = temp.join("oci.tar");
    archive(&layout.0, &file);
    check(&store, &format!("oci-archive:{}", file.display()), "b=x, a=x");
    check(&store, &format!("docker-archive:{}", file.display()), "b=x, a=x");
    assert_clean(&store, 2);
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    check(&store, &format!("oci-archive:{}", file.display()), "the data ends too early");
    fs::write(&file, gzip(&whole)).unwrap();
    check(&store, &format!("oci-archive:{}", file.display()), "compressed; decompress it first");
    fs::write(&file, "no tar").unwrap();
    check(&store, &format!("oci-archive:{}", file.display()), "the data ends too early");
    check(&store, &format!("oci-archive:{}", temp.path().display()), "not a regular file");
    check(&store, &format!("oci:{}", file.display()), "not a directory");
}

/// What docker save writes: images as (names, layers); layers named by `name`, from their index.
fn saved(images: &[(Value, Vec<Layer>)], name: fn(usize, &Layer) -> String) -> Vec<u8> {
    let mut all = Vec::new();
    let mut list = Vec::new();
    for (tags, layers) in images {
        let diff_ids: Vec<_> = layers.iter().map(|layer| format!("sha256:{}", layer.diff_id)).collect();
        let config = json!({ "os": "linux", "rootfs": { "diff_ids": diff_ids } }).to_string();
        let config_name = format!("{}.json", sha256(config.as_bytes()));
        append(&mut all, &mut header(&config_name), config.as_bytes());
        let names: Vec<_> = layers.iter().enumerate().map(|(index, layer)| name(index, layer)).collect();
        for (name, layer) in names.iter().zip(layers) {
            append(&mut all, &mut header(name), &layer.blob);
        }
        list.push(json!({ "Config": config_name, "RepoTags": tags, "Layers": names }));
    }
    append(&mut all, &mut header("manifest.json"), json!(list).to_string().as_bytes());
    all.extend([0; 1024]);
    all
}

#[test]
fn docker_archives() {
    let temp = Temp::new();
    let store = temp.join("store");
    let file = temp.join("d.tar");
    let at = format!("docker-archive:{}", file.display());
    let by_index = |index: usize, _: &Layer| format!("{index}/layer.tar");
    let by_digest = |_: usize, layer: &Layer| format!("blobs/sha256/{}", sha256(&layer.blob));

    fs::write(&file, saved(&[(json!(["app:1"]), vec![one("a"), one("b")])], by_index)).unwrap();
    check(&store, &at, "b=x, a=x");
    check(&store, &format!("{at}:app:1"), "b=x, a=x");
    check(&store, &format!("{at}:1"), "b=x, a=x");
    check(&store, &format!("{at}:app"), "holds no image \"app\", but app:1");
    fs::write(&file, saved(&[(Value::Null, vec![Layer::gzip(&tar(&["file g x"]))])], by_digest)).unwrap();
    check(&store, &at, "g=x");
    check(&store, &format!("{at}:x"), "holds no image \"x\", but images without names");

    let two = [
        (json!(["app:1", "app:latest"]), vec![one("a")]),
        (json!(["docker.io/library/db:1"]), vec![one("b")]),
    ];
    fs::write(&file, saved(&two, by_index)).unwrap();
    check(
        &store,
        &at,
        "holds several images, add :TAG to choose one of app:1, app:latest, docker.io/library/db:1",
    );
    check(&store, &format!("{at}:app"), "a=x");
    check(&store, &format!("{at}:db:1"), "b=x");
    check(&store, &format!("{at}:docker.io/library/app:1"), "a=x");
    check(&store, &format!("{at}:1"), "holds no image \"1\"");
    fs::write(&file, saved(&[(json!(["localhost/app:1"]), vec![one("a")])], by_index)).unwrap();
    check(&store, &format!("{at}:app:1"), "a=x");
}

/// Old versions of docker save store a layer once and link its other names to it.
#[test]
fn links_between_layers_of_a_docker_archive() {
    let temp = Temp::new();
    let layer = one("a");
    let mut all = saved(&[(json!(["app:1"]), vec![])], |_, _| String::new());
    all.truncate(all.len() - 1024);
    let config = json!({ "rootfs": { "diff_ids": [format!("sha256:{}", layer.diff_id)] } }).to_string();
    append(&mut all, &mut header("c.json"), config.as_bytes());
    append(&mut all, &mut header("real/layer.tar"), &layer.blob);
    let links = ["symlink one/layer.tar ../real/layer.tar", "symlink loop/layer.tar layer.tar"];
    let links = tar(&links);
    all.extend(&links[..1024]);
    for (name, expect) in [("one/layer.tar", "a=x"), ("loop/layer.tar", "too many links")] {
        let mut whole = all.clone();
        let list = json!([{ "Config": "c.json", "Layers": [name] }]).to_string();
        append(&mut whole, &mut header("manifest.json"), list.as_bytes());
        let file = temp.join("d.tar");
        fs::write(&file, whole).unwrap();
        check(&temp.join(&name.replace('/', "-")), &format!("docker-archive:{}", file.display()), expect);
    }
}

#[test]
fn a_wrong_docker_archive() {
    let temp = Temp::new();
    let store = temp.join("store");
    let file = temp.join("d.tar");
    let at = format!("docker-archive:{}", file.display());
    fs::write(&file, tar(&["file a x"])).unwrap();
    check(&store, &at, "no docker archive: manifest.json: missing");
    let wrong = Layer { diff_id: sha256(b"other"), ..one("a") };
    fs::write(&file, saved(&[(json!(["app:1"]), vec![wrong])], |_, _| "l.tar".to_owned())).unwrap();
    check(&store, &at, "the configuration says sha256:");
    let wrong = vec![one("a")];
    fs::write(&file, saved(&[(json!(["a:1"]), wrong)], |_, _| format!("blobs/sha256/{}", sha256(b""))))
        .unwrap();
    check(&store, &at, "the manifest says sha256:");
    assert_clean(&store, 0);
}

#[test]
fn directories_are_taken_as_they_are() {
    let temp = Temp::new();
    let store = temp.join("store");
    fs::create_dir(temp.join("root")).unwrap();
    fs::write(temp.join("root/a"), "x").unwrap();
    std::os::unix::fs::symlink("root", temp.join("link")).unwrap();
    let image = resolve(&store, &format!("rootfs:{}", temp.join("link").display())).unwrap();
    assert_eq!(image.layers, [temp.join("root").canonicalize().unwrap()]);
    check(&store, &format!("rootfs:{}", temp.join("nowhere").display()), "no such file or directory");
    check(&store, &format!("rootfs:{}", temp.join("root/a").display()), "not a directory");
    assert_eq!(resolve(&store, "host"), Ok(Image::default()));
}

#[test]
fn stores_that_cannot_be_used() {
    let temp = Temp::new();
    let store = temp.join("store");
    check(&store, "host", "");
    assert_eq!(fs::read_to_string(store.join("version")).unwrap(), "2\n");
    fs::write(store.join("version"), "3\n").unwrap();
    check(&store, "host", "has format 3, written by a newer skiff; this one knows format 2");
    fs::write(store.join("version"), "x").unwrap();
    check(&store, "host", "version file says \"x\", not a known format");
    let open = temp.join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    check(&open, "host", "can be written by everyone");
    fs::write(temp.join("file"), "").unwrap();
    check(&temp.join("file"), "host", "store ");
}
