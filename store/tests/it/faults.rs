//! Each change of the disk, one after the other, is where the process dies or the disk fails.
//!
//! After each: the store opens, the image that was there is whole, what was begun can be done again, and a collection
//! leaves nothing that belongs to nobody.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;

use serde_json::json;
use skiff_store::{ImageRef, Store};

use crate::fixture::{Layer, Layout, Temp, names, tar, tell};
use crate::repository::{Repository, digest, digest_of, named};

const WORK: &str = "SKIFF_TEST_WORK";
const WHERE: &str = "SKIFF_TEST_WHERE";
const FAULT: &str = "SKIFF_STORE_FAULT";

/// More points than anything here has.
const POINTS_MAX: u32 = 400;

/// A layer in which every kind of change is made, and what comes of it.
const ENTRIES: &str = "dir d/; file d/.wh.a; file d/e/f 1; file d/e/f 2; file d/o/.wh..wh..opq; file .wh.w; dir w/; link l d/e/f; \
                       symlink d/e s";
const ENTRIES_TOLD: &str = "d/ d/a! d/e->s d/o!/ l=2 w!/";

/// Not a test by itself: does one piece of work in a process of its own.
#[test]
fn child() {
    if let (Ok(work), Ok(place)) = (std::env::var(WORK), std::env::var(WHERE)) {
        let failed = work_on(&work, place.as_ref()).err();
        if let Some(reason) = failed {
            eprintln!("{reason}");
            std::process::exit(3);
        }
    }
}

fn repository(place: &Path) -> Repository {
    let layout = Layout(place.join("oci"));
    let tags = fs::read_to_string(place.join("tags")).unwrap();
    let tags: Vec<_> = tags.lines().map(|line| line.split_once(' ').unwrap()).collect();
    let mut repository = Repository::tagged(layout, &[]);
    repository.tags.extend(tags.iter().map(|(tag, hex)| ((*tag).to_owned(), digest(hex))));
    repository
}

fn work_on(work: &str, place: &Path) -> Result<(), String> {
    let store = Store::open(&place.join("store")).map_err(|e| e.to_string())?;
    match work {
        "pull" => repository(place).pull(&store, "app:new").map(drop),
        "move" => {
            let mut repository = repository(place);
            let new = repository.tags["new"];
            repository.tags.insert("old".to_owned(), new);
            repository.pull(&store, "app:old").map(drop)
        }
        "load" => {
            let reference = ImageRef::parse(&format!("oci:{}", place.join("oci").display())).unwrap();
            let loaded = store.load(&reference, &[named("app:new")], &skiff_store::Silent);
            loaded.map(drop).map_err(|e| e.to_string())
        }
        "make" => {
            let mut draft = store.draft().map_err(|e| e.to_string())?;
            let layer = draft.layer(&mut &*tar(&["file made x"])).map_err(|e| e.to_string())?;
            let config = json!({ "rootfs": { "diff_ids": [layer] } }).to_string();
            let done = draft.commit(config.as_bytes(), None, &[named("app:new")]);
            done.map(drop).map_err(|e| e.to_string())
        }
        "tag" => {
            let id = store.find("app:old").map_err(|e| e.to_string())?.id;
            store.tag(id, &named("app:new")).map_err(|e| e.to_string())
        }
        "remove" => store.remove("app:gone", false).map(drop).map_err(|e| e.to_string()),
        "collect" => {
            let gone = |image: &skiff_store::Summary| image.names == [named("app:gone")];
            store.collect(&gone).map(drop).map_err(|e| e.to_string())
        }
        "repair" => {
            let layer = store.resolve(&ImageRef::parse("app:gone").unwrap()).map_err(|e| e.to_string())?;
            fs::write(layer.layers[0].join("gone"), "spoilt").unwrap();
            store.check(true).map(drop).map_err(|e| e.to_string())
        }
        "mend" => {
            let layer = store.resolve(&ImageRef::parse("app:gone").unwrap()).map_err(|e| e.to_string())?;
            fs::write(layer.layers[0].join("gone"), "spoilt").unwrap();
            work_on("check", place)
        }
        "check" => {
            let found = store.check(true).map_err(|e| e.to_string())?;
            let lines = found.into_iter().map(|it| format!("{}, {}", it.what, it.is_repaired));
            Some(lines.collect::<Vec<_>>().join("\n")).filter(|text| !text.is_empty()).map_or(Ok(()), Err)
        }
        "open" => Ok(()),
        other => panic!("no such work: {other}"),
    }
}

/// A store with `app:old` and, where it is to go, `app:gone`, and a repository that has `new` as well.
fn prepare(place: &Path, work: &str) {
    let layout = Layout::new(place.join("oci"));
    let layer = |lines: &str| Layer::gzip(&tar(&lines.split("; ").collect::<Vec<_>>()));
    let image =
        |layers: &[&str]| layout.image(&layers.iter().map(|it| layer(it)).collect::<Vec<_>>(), json!({}));
    let old = image(&["file shared x", "file old y"]);
    let gone = image(&["file shared x", "file gone z"]);
    let new = image(&["file shared x", "file new y", ENTRIES]);
    let tags = [("old", &old), ("gone", &gone), ("new", &new)];
    let lines: Vec<_> = tags.iter().map(|(tag, it)| format!("{tag} {}", digest_of(it).hex())).collect();
    fs::write(place.join("tags"), lines.join("\n")).unwrap();
    layout.index(&[new]);
    if work == "open" {
        fs::create_dir_all(place.join("store/layers/sha256")).unwrap();
        fs::write(place.join("store/version"), "1\n").unwrap();
        return;
    }
    let store = Store::open(&place.join("store")).unwrap();
    repository(place).pull(&store, "app:old").unwrap();
    if matches!(work, "remove" | "collect" | "repair" | "check" | "mend") {
        repository(place).pull(&store, "app:gone").unwrap();
    }
}

/// The layers of an image that must be whole.
fn told(store: &Store, name: &str) -> Result<Vec<String>, String> {
    let image = store.resolve(&ImageRef::parse(name).unwrap()).map_err(|e| e.to_string())?;
    Ok(image.layers.iter().map(|layer| tell(layer)).collect())
}

/// Does `work` and dies at each point, until none is left; then lets each of them fail.
fn walk(work: &str) {
    let points = (1..POINTS_MAX).find(|number| disturb(work, "kill", *number).success()).unwrap() - 1;
    println!("{work}: {points} points");
    assert!(points > 0, "{work} passes none");
    for number in 1..=points {
        disturb(work, "fail", number);
    }
}

/// Does `work`, disturbed at one point, and then once more; returns how the first time ended.
fn disturb(work: &str, how: &str, number: u32) -> ExitStatus {
    let temp = Temp::new();
    prepare(temp.path(), work);
    let ended = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "faults::child", "--nocapture"])
        .envs([(WORK, work.as_ref()), (WHERE, temp.path().as_os_str())])
        .env(FAULT, format!("{number}:{how}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    let at = format!("{work}, {how} at point {number}: {ended}");
    let store = Store::open(&temp.join("store")).unwrap_or_else(|e| panic!("{at}: {e}"));
    if work != "open" {
        let old = told(&store, "app:old").unwrap_or_else(|e| panic!("{at}: {e}"));
        let is_old = old == ["old=y", "shared=x"];
        assert!(is_old || work == "move" && old == [ENTRIES_TOLD, "new=y", "shared=x"], "{at}: {old:?}");
        for image in store.images().unwrap() {
            told(&store, &image.id.to_string()).unwrap_or_else(|e| panic!("{at}: {e}"));
        }
    }
    // Once more, undisturbed. What is gone already cannot go again.
    if let Err(error) = work_on(work, temp.path()) {
        assert!(error.contains("no such image"), "{at}: {error}");
    }
    store.collect(&|image| image.names.is_empty() && work != "move").unwrap();
    assert_eq!(store.check(false).unwrap(), [], "{at}");
    let root = temp.join("store");
    for place in ["tmp", "leases", "partial/sha256"] {
        assert_eq!(names(&root.join(place)), [""; 0], "{at}: {place}");
    }
    let layers = match work {
        "open" => 0,
        "tag" | "remove" | "collect" | "repair" => 2,
        "make" => 3,
        _ => 4,
    };
    for kind in ["layers", "tars", "sources"] {
        assert_eq!(names(&root.join(kind).join("sha256")).len(), layers, "{at}: {kind}");
    }
    assert!(!root.join("condemned").exists(), "{at}");
    ended
}

#[test]
fn every_change_of_the_disk_may_be_the_last_or_fail() {
    let works = ["pull", "move", "load", "make", "tag", "remove", "collect", "repair", "open"];
    thread::scope(|scope| {
        for work in works {
            scope.spawn(move || walk(work));
        }
    });
}

/// Does `work` with point `number` failing, by `how`. What it says; none if there is no such point.
fn failing(work: &str, how: &str, number: u32, place: &Path) -> Option<Vec<String>> {
    assert!(number < POINTS_MAX);
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "faults::child", "--nocapture"])
        .envs([(WORK, work.as_ref()), (WHERE, place.as_os_str())])
        .env(FAULT, format!("{number}:{how}"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let reached = format!("point {number} fails");
    let (reached, said): (Vec<_>, Vec<_>) =
        said.lines().map(str::to_owned).partition(|line| *line == reached);
    assert_eq!(output.status.success(), said.is_empty(), "point {number}: {said:?}");
    (!reached.is_empty()).then_some(said)
}

#[test]
fn what_cannot_be_read_is_told_of_and_stays() {
    let temp = Temp::new();
    prepare(temp.path(), "check");
    let mut all = Vec::new();
    for number in 1.. {
        let said = failing("check", "read", number, temp.path());
        let store = Store::open(&temp.join("store")).unwrap();
        assert_eq!(told(&store, "app:old").unwrap(), ["old=y", "shared=x"], "{said:?}");
        assert_eq!(told(&store, "app:gone").unwrap(), ["gone=z", "shared=x"], "{said:?}");
        assert_eq!(store.check(false).unwrap(), [], "at point {number}");
        let Some(said) = said else {
            println!("{number} is one more than there are points");
            break;
        };
        let is_told =
            |line: &String| line.contains(": cannot be read: ") && line.ends_with("i/o error, false");
        assert!(!said.is_empty() && said.iter().all(is_told), "at point {number}: {said:?}");
        all.extend(said);
    }
    // Of each step of a check, and how often: of two images and three layers, one of which both images have.
    let count = |part: &str| all.iter().filter(|line| line.contains(part)).count();
    assert_eq!(count("/names/"), 2, "{all:#?}");
    assert!(count("layer sha256:") >= 3 * 2, "{all:#?}");
    assert_eq!(count("document sha256:"), 4, "{all:#?}");
    assert_eq!(count("names of images: "), 2, "{all:#?}");
    assert_eq!(count(": its configuration: "), 2, "{all:#?}");
    assert_eq!(count(": its manifest: "), 2, "{all:#?}");
    assert_eq!(count(": its layer "), 4, "{all:#?}");
    assert_eq!(count(": its record: "), 3, "{all:#?}");
    assert_eq!(count("what is in use: "), 4, "{all:#?}");
}

#[test]
fn a_repair_that_fails_says_why() {
    let mut all = Vec::new();
    for number in 1.. {
        let temp = Temp::new();
        prepare(temp.path(), "mend");
        let Some(said) = failing("mend", "fail", number, temp.path()) else {
            println!("{number} is one more than there are points");
            break;
        };
        for line in said.iter().filter(|line| line.ends_with(", false")) {
            // The layer stays as long as its image does.
            let reasons = [
                ": cannot be read: lease: i/o error",
                "; not repaired: i/o error",
                "; not repaired: it is in use",
            ];
            let is_told =
                reasons.iter().any(|reason| line.strip_suffix(", false").unwrap().ends_with(reason));
            assert!(is_told, "at point {number}: {said:?}");
        }
        all.extend(said);
        let store = Store::open(&temp.join("store")).unwrap();
        assert_eq!(told(&store, "app:old").unwrap(), ["old=y", "shared=x"], "at point {number}");
        store.check(true).unwrap();
        store.check(true).unwrap();
        assert_eq!(store.check(false).unwrap(), [], "at point {number}");
    }
    let is_any = |part: &str| {
        all.iter().any(|line| line.starts_with(part) && line.contains("; not repaired: i/o error"))
    };
    assert!(is_any("image app:gone: its layer sha256:") && is_any("layer sha256:"), "{all:#?}");
}
