//! Trees become tars and images: what containers have changed, and all that they see.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::{Value, json};
use skiff_store::{
    ChangeKind, Digest, IdRange, Ids, Image, ImageName, ImageRef, Making, Silent, Store, Tree, export,
};
use skiff_sys::xattr;

use crate::fixture::{Layer, Layout, Temp, is_root, root_or_skip, tar, tell};

/// A store with an image of these layers, and the beginnings of a container of it.
struct Fixture {
    temp: Temp,
    store: Store,
    id: Digest,
    image: Image,
}

impl Fixture {
    fn new(layers: &[&[&str]]) -> Self {
        let temp = Temp::new();
        let layers: Vec<_> = layers.iter().map(|entries| Layer::gzip(&tar(entries))).collect();
        let layout = Layout::of(temp.join("oci"), &layers);
        let store = Store::open(&temp.join("store")).unwrap();
        let id = store.load(&ImageRef::parse(&layout.reference()).unwrap(), &[], &Silent).unwrap();
        let image = store.resolve(&ImageRef::Id(id)).unwrap();
        fs::create_dir(temp.join("upper")).unwrap();
        Self { temp, store, id, image }
    }

    fn upper(&self, path: &str) -> PathBuf {
        self.temp.join("upper").join(path)
    }

    fn tree(&self, mounts: &[&str]) -> Tree {
        Tree {
            upper: Some(self.temp.join("upper")),
            layers: self.image.layers.clone(),
            mounts: mounts.iter().map(PathBuf::from).collect(),
        }
    }

    /// As `diff` prints it, in one line.
    fn changes(&self, mounts: &[&str]) -> String {
        let line = |change: &skiff_store::Change| {
            let kind = match change.kind {
                ChangeKind::Added => 'A',
                ChangeKind::Modified => 'C',
                ChangeKind::Deleted => 'D',
            };
            format!("{kind} {}", String::from_utf8_lossy(&change.path))
        };
        self.tree(mounts).changes().unwrap().iter().map(line).collect::<Vec<_>>().join(", ")
    }

    fn commit(&self, ids: &Ids) -> Result<Image, String> {
        let base = self.store.documents(self.id).unwrap().configuration;
        let making = Making { base: Some(base), created: "2026-01-02T03:04:05Z".into(), ..Making::default() };
        let id = self.store.commit(&self.tree(&[]), ids, &making, &[]).map_err(|e| e.to_string())?;
        Ok(self.store.resolve(&ImageRef::Id(id)).unwrap())
    }

    /// What [`tell`] says of the layer that the upper directory becomes.
    fn layer(&self) -> String {
        let image = self.commit(&Ids::default()).unwrap();
        assert_eq!(image.layers.len(), self.image.layers.len() + 1);
        tell(&image.layers[0])
    }

    fn exported(&self, ids: &Ids) -> Vec<u8> {
        let mut all = Vec::new();
        export(&self.tree(&[]), ids, &mut all).unwrap();
        all
    }

    /// What [`tell`] says of all that the container sees.
    fn whole(&self) -> String {
        let id =
            self.store.import(&mut &self.exported(&Ids::default())[..], &Making::default(), &[]).unwrap();
        tell(&self.store.resolve(&ImageRef::Id(id)).unwrap().layers[0])
    }

    fn white_out(&self, path: &str) {
        mknod(&self.upper(path), SFlag::S_IFCHR, Mode::empty(), 0).unwrap();
    }

    fn mark(&self, path: &str, attribute: &str, value: &[u8]) {
        let space = if is_root() { "trusted" } else { "user" };
        let name = std::ffi::CString::new(format!("{space}.overlay.{attribute}")).unwrap();
        xattr::set(File::open(self.upper(path)).unwrap().as_fd(), &name, value).unwrap();
    }
}

#[test]
fn changes_are_told_as_docker_tells_them() {
    let it =
        Fixture::new(&[&["dir etc/", "file etc/a x", "file etc/b x", "dir d/", "file d/1 x", "file d/2 x"]]);
    assert_eq!(it.changes(&[]), "");
    fs::create_dir_all(it.upper("etc/new")).unwrap();
    fs::write(it.upper("etc/a"), "changed").unwrap();
    it.white_out("etc/b");
    it.white_out("etc/never-was");
    fs::create_dir(it.upper("d")).unwrap();
    it.mark("d", "opaque", b"y");
    fs::write(it.upper("d/1"), "new").unwrap();
    fs::write(it.upper("d-e"), "x").unwrap();
    assert_eq!(it.changes(&[]), "C /d, A /d-e, A /d/1, D /d/2, C /etc, C /etc/a, D /etc/b, A /etc/new");
    assert_eq!(it.layer(), "d!/ d-e=x d/1=new etc/ etc/a=changed etc/b! etc/new/");
    assert_eq!(it.whole(), "d-e=x d/ d/1=new etc/ etc/a=changed etc/new/");
}

#[test]
fn what_a_launch_makes_to_mount_on_is_no_change() {
    let it = Fixture::new(&[&["dir etc/", "file etc/a x"]]);
    fs::create_dir_all(it.upper("proc")).unwrap();
    fs::create_dir_all(it.upper("deep/er")).unwrap();
    fs::create_dir_all(it.upper("etc")).unwrap();
    fs::set_permissions(it.upper("etc"), PermissionsExt::from_mode(0o755)).unwrap();
    for file in ["etc/hosts", "etc/resolv.conf"] {
        fs::write(it.upper(file), "").unwrap();
    }
    let mounts = ["/proc", "/deep/er", "/etc/hosts", "/etc/resolv.conf/"];
    assert_eq!(it.changes(&mounts), "");
    assert_eq!(it.changes(&["/proc", "/deep/er"]), "C /etc, A /etc/hosts, A /etc/resolv.conf");
    fs::write(it.upper("etc/hosts"), "written").unwrap();
    fs::write(it.upper("deep/file"), "").unwrap();
    assert_eq!(it.changes(&mounts), "A /deep, A /deep/file, C /etc, A /etc/hosts");
    fs::write(it.upper("etc/hosts"), "").unwrap();
    fs::set_permissions(it.upper("etc"), PermissionsExt::from_mode(0o700)).unwrap();
    assert_eq!(it.changes(&mounts), "A /deep, A /deep/file, C /etc");
}

#[test]
fn nothing_changed_makes_no_layer() {
    let it = Fixture::new(&[&["file a x"]]);
    let image = it.commit(&Ids::default()).unwrap();
    assert_eq!(image.layers, it.image.layers);
    let id = Digest::try_from(image.id.unwrap()).unwrap();
    let history = it.store.history(id).unwrap();
    assert!(history.iter().any(|step| step.empty_layer));
}

#[test]
fn names_that_a_layer_cannot_have_are_refused() {
    let it = Fixture::new(&[&["file a x"]]);
    fs::create_dir(it.upper("d")).unwrap();
    fs::write(it.upper("d/.wh.a"), "").unwrap();
    let error = it.commit(&Ids::default()).unwrap_err();
    assert!(error.contains("file \"d/.wh.a\": a layer cannot have files of such a name"), "{error}");
    let exported = it.exported(&Ids::default());
    assert!(exported.windows(7).any(|name| name == b"d/.wh.a"), "an archive of the whole can");
}

#[test]
fn the_same_tree_makes_the_same_image() {
    let it = Fixture::new(&[&["file a x"]]);
    for name in ["z", "y", "b"] {
        fs::write(it.upper(name), name).unwrap();
    }
    fs::hard_link(it.upper("b"), it.upper("c")).unwrap();
    assert_eq!(it.commit(&Ids::default()).unwrap().id, it.commit(&Ids::default()).unwrap().id);
    assert_eq!(it.exported(&Ids::default()), it.exported(&Ids::default()));
}

#[test]
fn kinds_of_files() {
    let it = Fixture::new(&[&["file a x"]]);
    fs::write(it.upper("file"), "text").unwrap();
    fs::hard_link(it.upper("file"), it.upper("link")).unwrap();
    symlink("/nowhere", it.upper("symlink")).unwrap();
    mknod(&it.upper("fifo"), SFlag::S_IFIFO, Mode::S_IRUSR, 0).unwrap();
    drop(std::os::unix::net::UnixListener::bind(it.upper("socket")).unwrap());
    let long = "n".repeat(200);
    fs::create_dir(it.upper(&long)).unwrap();
    fs::write(it.upper(&format!("{long}/{long}")), "deep").unwrap();
    let sparse = File::create(it.upper("sparse")).unwrap();
    sparse.set_len(9 << 30).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", (9 << 30) - 3).unwrap();
    let mtime = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    sparse.set_modified(mtime).unwrap();
    xattr::set(sparse.as_fd(), c"user.key", b"value").unwrap();
    xattr::set(sparse.as_fd(), c"user.overlay.key", b"not kept").unwrap();
    let image = it.commit(&Ids::default()).unwrap();
    let layer = &image.layers[0];
    let made = layer.join("sparse");
    let meta = made.metadata().unwrap();
    assert_eq!((meta.len(), meta.mtime(), meta.mtime_nsec()), (9 << 30, 1_000_000_000, 123_456_789));
    assert!(meta.blocks() < 1000, "{} blocks", meta.blocks());
    let mut end = [0; 3];
    let file = File::open(&made).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut end, (9 << 30) - 3).unwrap();
    assert_eq!(&end, b"end");
    assert_eq!(xattr::get(file.as_fd(), c"user.key").unwrap().unwrap(), b"value");
    assert_eq!(xattr::names(file.as_fd()).unwrap(), [c"user.key".to_owned()]);
    assert_eq!(layer.join("file").metadata().unwrap().ino(), layer.join("link").metadata().unwrap().ino());
    fs::remove_file(made).unwrap();
    assert_eq!(
        tell(layer),
        format!("fifo| file=text link=text {long}/ {long}/{long}=deep symlink->/nowhere")
    );
}

#[test]
fn owners_are_those_inside() {
    let it = Fixture::new(&[&["file a x"]]);
    fs::write(it.upper("mine"), "").unwrap();
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let range = |outside| vec![IdRange { inside: 7, outside, count: 1 }];
    let ids = Ids { uids: range(uid), gids: range(gid) };
    let exported = it.exported(&ids);
    let mut archive = ::tar::Archive::new(&exported[..]);
    let owners: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.path().unwrap().into_owned(), entry.header().uid().unwrap(), entry.header().gid().unwrap())
        })
        .collect();
    assert_eq!(owners, [(PathBuf::from("a"), 7, 7), (PathBuf::from("mine"), 7, 7)]);
}

#[test]
fn devices() {
    if !root_or_skip() {
        return;
    }
    let it = Fixture::new(&[&["file a x"]]);
    mknod(&it.upper("null"), SFlag::S_IFCHR, Mode::S_IRUSR, makedev(1, 3)).unwrap();
    mknod(&it.upper("disk"), SFlag::S_IFBLK, Mode::S_IRUSR, makedev(7, 300)).unwrap();
    let image = it.commit(&Ids::default()).unwrap();
    let device = image.layers[0].join("disk").metadata().unwrap();
    assert_eq!(
        (device.mode() & SFlag::S_IFMT.bits(), device.rdev()),
        (SFlag::S_IFBLK.bits(), makedev(7, 300))
    );
    fs::remove_file(image.layers[0].join("disk")).unwrap();
    assert_eq!(tell(&image.layers[0]), "null:1:3");
}

/// An overlay that goes with the test.
struct Overlay(PathBuf);

impl Overlay {
    fn mount(at: PathBuf, layers: &[PathBuf], writable: Option<(&Path, &Path)>, more: &str) -> Self {
        fs::create_dir(&at).unwrap();
        let lower: Vec<_> = layers.iter().map(|path| path.display().to_string()).collect();
        let mut options = format!("lowerdir={}{more}", lower.join(":"));
        if let Some((upper, work)) = writable {
            options += &format!(",upperdir={},workdir={}", upper.display(), work.display());
        }
        mount(Some("overlay"), &at, Some("overlay"), MsFlags::empty(), Some(&*options)).unwrap();
        Self(at)
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        // A process that another test has just forked may have a file of it open.
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

/// Lets `change` loose on a mounted overlay; the committed image and the exported tree must both look as that does.
fn check_overlay(more: &str, change: impl FnOnce(&Path)) {
    let lower: &[&[&str]] = &[
        &[
            "dir a/",
            "dir a/b/",
            "file a/b/1 one",
            "file a/b/2 two",
            "file a/x x",
            "dir gone/",
            "file gone/f f",
        ],
        &[
            "file a/b/3 three",
            "file a/.wh.x",
            "symlink s a/b",
            "dir o/",
            "file o/.wh..wh..opq",
            "file o/in in",
        ],
        &["file a/b/2 TWO", "file top top", "dir p/", "dir p/q/", "file p/q/r r", "link hard top"],
    ];
    let it = Fixture::new(lower);
    fs::create_dir(it.temp.join("work")).unwrap();
    let (upper, work) = (it.temp.join("upper"), it.temp.join("work"));
    let merged = Overlay::mount(it.temp.join("merged"), &it.image.layers, Some((&upper, &work)), more);
    change(&merged.0);
    let expect = tell(&merged.0);
    drop(merged);
    assert_eq!(it.whole(), expect);
    let image = it.commit(&Ids::default()).unwrap();
    let again = Overlay::mount(it.temp.join("again"), &image.layers, None, "");
    assert_eq!(tell(&again.0), expect);
}

#[test]
fn containers_look_the_same_committed_and_exported() {
    if !root_or_skip() {
        return;
    }
    for more in ["", ",redirect_dir=off,metacopy=off", ",redirect_dir=on", ",redirect_dir=on,metacopy=on"] {
        check_overlay(more, |_| {});
        check_overlay(more, |root| {
            fs::write(root.join("a/b/1"), "ONE").unwrap();
            fs::remove_dir_all(root.join("gone")).unwrap();
            fs::create_dir(root.join("gone")).unwrap();
            fs::write(root.join("gone/other"), "o").unwrap();
            fs::remove_file(root.join("s")).unwrap();
            fs::create_dir_all(root.join("s/t/u")).unwrap();
            fs::remove_dir_all(root.join("p")).unwrap();
            fs::write(root.join("p"), "now a file").unwrap();
            fs::hard_link(root.join("top"), root.join("o/linked")).unwrap();
            fs::set_permissions(root.join("a/b/2"), PermissionsExt::from_mode(0o600)).unwrap();
        });
        if more.contains("redirect_dir=on") {
            check_overlay(more, |root| {
                fs::rename(root.join("a"), root.join("moved")).unwrap();
                fs::write(root.join("moved/b/1"), "ONE").unwrap();
                fs::remove_file(root.join("moved/b/2")).unwrap();
                fs::rename(root.join("moved/b"), root.join("p/q/b")).unwrap();
                fs::rename(root.join("gone"), root.join("a")).unwrap();
                fs::set_permissions(root.join("top"), PermissionsExt::from_mode(0o600)).unwrap();
                fs::rename(root.join("top"), root.join("p/top")).unwrap();
            });
        }
    }
}

#[test]
fn attributes_of_overlayfs_count_in_one_spelling() {
    let it = Fixture::new(&[&["dir d/", "file d/a x", "file secret s"]]);
    fs::create_dir(it.upper("d")).unwrap();
    fs::write(it.upper("f"), "own").unwrap();
    let name = if is_root() { c"user.overlay.opaque" } else { c"user.other.opaque" };
    xattr::set(File::open(it.upper("d")).unwrap().as_fd(), name, b"y").unwrap();
    if is_root() {
        let file = File::open(it.upper("f")).unwrap();
        xattr::set(file.as_fd(), c"user.overlay.metacopy", b"").unwrap();
        xattr::set(file.as_fd(), c"user.overlay.redirect", b"/secret").unwrap();
    }
    assert_eq!(it.whole(), "d/ d/a=x f=own secret=s");
}

#[test]
fn redirections_to_nowhere_are_errors() {
    for target in ["/nowhere/at/all", "/../../etc", "nothing", "a/b", "/", ""] {
        let it = Fixture::new(&[&["dir d/", "file d/a x"]]);
        fs::create_dir(it.upper("new")).unwrap();
        it.mark("new", "redirect", target.as_bytes());
        let error = it.commit(&Ids::default()).unwrap_err();
        assert!(error.contains("no layer has what it was renamed from"), "{target}: {error}");
    }
    let it = Fixture::new(&[&["dir d/"]]);
    fs::write(it.upper("f"), "").unwrap();
    it.mark("f", "metacopy", b"");
    let error = it.commit(&Ids::default()).unwrap_err();
    assert!(error.contains("file \"f\": its content is in no layer"), "{error}");
}

#[test]
fn what_an_image_says_of_itself() {
    let it = Fixture::new(&[&["file a x"]]);
    fs::write(it.upper("b"), "y").unwrap();
    let base = it.store.documents(it.id).unwrap().configuration;
    let making = Making {
        base: Some(base.clone()),
        config: Some(json!({ "Cmd": ["sh"], "Env": ["A=b"] })),
        changes: vec!["ENV C=d".into(), "CMD [\"x\"]".into()],
        author: "me".into(),
        message: "why".into(),
        created_by: "sh".into(),
        created: "2026-01-02T03:04:05Z".into(),
        platform: None,
    };
    let name = ImageName::parse("made:1").unwrap();
    let id = it.store.commit(&it.tree(&[]), &Ids::default(), &making, std::slice::from_ref(&name)).unwrap();
    let image = it.store.resolve(&ImageRef::Named(name)).unwrap();
    assert_eq!(
        (image.id, image.config.env, image.config.cmd),
        (Some(id.to_string()), vec!["A=b".into(), "C=d".into()], vec!["x".into()])
    );
    let all: Value = serde_json::from_slice(&it.store.documents(id).unwrap().configuration).unwrap();
    assert_eq!((all["author"].as_str(), all["created"].as_str()), (Some("me"), Some("2026-01-02T03:04:05Z")));
    let history = it.store.history(id).unwrap();
    let last = history.iter().find(|step| step.comment == "why").unwrap();
    assert_eq!((last.created_by.as_str(), last.author.as_str(), last.empty_layer), ("sh", "me", false));
    let before: Value = serde_json::from_slice(&base).unwrap();
    assert_eq!(all["rootfs"]["diff_ids"][0], before["rootfs"]["diff_ids"][0]);
    assert_eq!(all["rootfs"]["diff_ids"].as_array().unwrap().len(), 2);
    let bad = Making { changes: vec!["RUN x".into()], ..making };
    let error = it.store.commit(&it.tree(&[]), &Ids::default(), &bad, &[]).unwrap_err().to_string();
    assert!(error.contains("RUN is not a valid change command"), "{error}");
}

#[test]
fn imported_tars_keep_their_bytes() {
    let temp = Temp::new();
    let store = Store::open(&temp.join("store")).unwrap();
    let archive = tar(&["dir d/", "file d/a x", "file d/a y"]);
    for packed in [archive.clone(), crate::fixture::gzip(&archive), crate::fixture::zstd(&archive)] {
        let id = store.import(&mut &packed[..], &Making::default(), &[]).unwrap();
        let layer = store.image(id).unwrap().layers[0];
        let mut again = Vec::new();
        store.layer_tar(layer).unwrap().read_to_end(&mut again).unwrap();
        assert!(again == archive);
        assert_eq!(store.image(id).unwrap().platform, skiff_store::Platform::host());
    }
    let error = store.import(
        &mut &b"no tar at all, but long enough to be one".repeat(20)[..],
        &Making::default(),
        &[],
    );
    assert!(error.unwrap_err().to_string().contains("malformed tar"));
}
