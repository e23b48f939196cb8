//! Images on their way to and from a registry, by the command line: what is said, and what interruptions leave.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::layout::{self, Layout, Tar};
use crate::harness::registry::{Guard, Registry, has_registry};
use crate::harness::{Case, Skiff, fixture, need, parse};

/// Nobody's configuration but the test's.
fn skiff(case: &Case, words: &[&str]) -> Skiff {
    case.skiff(words).env("HOME", &case.dir).env("DOCKER_CONFIG", case.dir.join("docker"))
}

fn small() -> String {
    format!("oci:{}:plain", fixture::small_image().display())
}

#[test]
fn a_pull_is_told_as_docker_tells_it() {
    need!(has_registry() && fixture::has_image_tools(), "docker-registry, skopeo, umoci and zstd");
    for case in [Case::new(), Case::with_daemon()] {
        let registry = Registry::start(&case, Guard::Nothing);
        registry.put(&small(), "small:1", &[]);
        let name = registry.name("small:1");
        let told = skiff(&case, &["pull", &name]).output().ok();
        let lines: Vec<&str> = told.lines().collect();
        let (layers, last) = lines.split_at(lines.len() - 3);
        assert_eq!(layers[0], "1: Pulling from small", "{told}");
        assert!(layers[1..].iter().any(|line| line.ends_with(": Pulling fs layer")), "{told}");
        assert!(layers.last().is_some_and(|line| line.ends_with(": Pull complete")), "{told}");
        assert!(last[0].starts_with("Digest: sha256:"), "{told}");
        assert_eq!(last[1..], [&format!("Status: Downloaded newer image for {name}"), &name], "{told}");
        let again = skiff(&case, &["pull", &name]).output().ok();
        let expected =
            format!("1: Pulling from small\n{}\nStatus: Image is up to date for {name}\n{name}\n", last[0]);
        assert_eq!(again, expected);
        assert_eq!(skiff(&case, &["pull", "-q", &name]).output().ok(), format!("{name}\n"));
        // What is missing is fetched on the way to a container, and told apart from what that says.
        skiff(&case, &["rmi", &name]).output().ok();
        let words = ["run", "--rm", &name, "cat", "/data/kept"];
        let output = skiff(&case, &words).output();
        assert_eq!((output.code, output.stdout.as_str()), (0, "lower"), "{output}");
        assert!(
            output.stderr.starts_with(&format!("Unable to find image '{name}' locally\n1: Pulling")),
            "{output}"
        );
        assert_eq!(skiff(&case, &words).output().ok(), "lower");
        let always = skiff(&case, &["run", "--rm", "--pull", "always", "-q", &name, "cat", "/data/kept"]);
        assert_eq!(always.output().ok(), "lower");
        skiff(&case, &["pull", &registry.name("small:none")]).output().fails(1, "small:none");
    }
}

#[test]
fn a_push_is_told_as_docker_tells_it() {
    need!(has_registry() && fixture::has_image_tools(), "docker-registry, skopeo, umoci and zstd");
    let case = Case::new();
    let registry = Registry::start(&case, Guard::Nothing);
    registry.put(&small(), "small:1", &[]);
    let name = registry.name("other");
    skiff(&case, &["pull", "-q", &registry.name("small:1")]).output().ok();
    skiff(&case, &["tag", &registry.name("small:1"), &name]).output().ok();
    let told = skiff(&case, &["push", &name]).output().ok();
    let head = format!("Using default tag: latest\nThe push refers to repository [{name}]\n");
    assert!(told.starts_with(&head) && told.contains(": Mounted from small\n"), "{told}");
    assert!(told.lines().last().is_some_and(|line| line.starts_with("latest: digest: sha256:")), "{told}");
    let again = skiff(&case, &["push", &name]).output().ok();
    assert!(again.contains(": Layer already exists\n") && !again.contains("Pushed"), "{again}");
    assert_eq!(skiff(&case, &["push", "-q", &name]).output().ok(), format!("{name}:latest\n"));
    // It is known here what it is called there, until it has no name there any more.
    let digest = again.split_whitespace().find(|word| word.starts_with("sha256:")).expect("a digest");
    let inspect = ["image", "inspect", "--format", "{{json .RepoDigests}}", &name];
    let known = parse(&skiff(&case, &inspect).output().ok());
    let there = format!("{name}@{digest}");
    let names = known.as_array().expect("a list");
    assert!(names.len() == 2 && names.contains(&there.as_str().into()), "{known} {there}");
    let listed = ["images", "--digests", "--format", "{{.Digest}}", &name];
    assert_eq!(skiff(&case, &listed).output().ok(), format!("{digest}\n"));
    let removed = skiff(&case, &["rmi", &name]).output().ok();
    assert_eq!(removed, format!("Untagged: {name}:latest\nUntagged: {there}\n"));
    // It is there for others.
    registry.take("other:latest", &format!("oci:{}", case.dir.join("taken").display()));
}

#[test]
fn repositories_are_found_by_a_part_of_their_name() {
    need!(has_registry() && fixture::has_image_tools(), "docker-registry, skopeo, umoci and zstd");
    let case = Case::new();
    let registry = Registry::start(&case, Guard::Nothing);
    registry.put(&small(), "some/small:1", &[]);
    registry.put(&small(), "other:1", &[]);
    let search = |words: &[&str], term: &str| {
        let term = registry.name(term);
        skiff(&case, &[&["search"], words, &[&term]].concat()).output().ok()
    };
    let names = |words: &[&str], term: &str| search(&[&["--format", "{{.Name}}"], words].concat(), term);
    assert_eq!((names(&[], "mal"), names(&[], "")), ("some/small\n".into(), "other\nsome/small\n".into()));
    assert_eq!((names(&["--limit", "1"], ""), names(&[], "none")), ("other\n".into(), String::new()));
    assert!(search(&[], "mal").starts_with("NAME         DESCRIPTION   STARS     OFFICIAL\nsome/small "));
    let json = json!({
        "Name": "some/small", "Description": "", "StarCount": "0", "IsOfficial": "false", "IsAutomated": "false",
    });
    for format in ["json", "{{json .}}"] {
        assert_eq!(parse(&search(&["--format", format], "mal")), json, "{format}");
    }
}

#[test]
fn a_pull_that_is_killed_is_gone_on_with() {
    need!(has_registry() && fixture::has_image_tools(), "docker-registry, skopeo, umoci and zstd");
    let case = Case::new();
    let registry = Registry::start(&case, Guard::Nothing);
    registry.put(&small(), "small:1", &[]);
    let name = registry.name("small:1");
    // Killed at another place each time: after so many lines of its own, of which there are more.
    for lines in 1..=12 {
        let mut live = skiff(&case, &["pull", &name]).start();
        (0..lines).for_each(|_| drop(live.line()));
        live.signal(Signal::SIGKILL);
        drop(live.finish());
        // It may have been quicker.
        skiff(&case, &["image", "prune", "-af"]).output().ok();
    }
    skiff(&case, &["pull", "-q", &name]).output().ok();
    assert_eq!(skiff(&case, &["run", "--rm", &name, "cat", "/data/kept"]).output().ok(), "lower");
    assert_eq!(skiff(&case, &["system", "fsck"]).output().ok(), "");
    for kind in ["tmp", "partial/sha256"] {
        let left = fs::read_dir(case.state.join(kind)).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{kind}");
    }
}

#[test]
fn many_may_pull_the_same_at_once() {
    need!(has_registry() && fixture::has_image_tools(), "docker-registry, skopeo, umoci and zstd");
    let case = Case::new();
    let registry = Registry::start(&case, Guard::Nothing);
    registry.put(&small(), "small:1", &[]);
    let name = registry.name("small:1");
    let all: Vec<_> = (0..6).map(|_| skiff(&case, &["pull", "-q", &name]).start()).collect();
    for live in all {
        assert_eq!(live.finish().ok(), format!("{name}\n"));
    }
    assert_eq!(skiff(&case, &["run", "--rm", &name, "cat", "/data/kept"]).output().ok(), "lower");
}

/// The command classes of which there are profiles in the store at `root`.
fn classes(case: &Case, root: &Path) -> Vec<String> {
    let listed = skiff(case, &["prefetch", "ls", "--format", "json"]).env("SKIFF_ROOT", root).output().ok();
    listed.lines().map(|line| parse(line)["class"].as_str().expect("a class").to_owned()).collect()
}

#[test]
fn prefetch_profiles_go_to_a_registry_and_come_back() {
    need!(has_registry() && fixture::has_image_tools(), "docker-registry, skopeo, umoci and zstd");
    let case = Case::new();
    // Debian's has no list of referrers: they are kept below a tag.
    let registry = Registry::start(&case, Guard::Nothing);
    // Its own command is `/bin/probe see`.
    registry.put(&format!("oci:{}:full", fixture::small_image().display()), "small:1", &[]);
    let name = registry.name("small:1");
    skiff(&case, &["pull", "-q", &name]).output().ok();
    let layers = fs::read_dir(case.state.join("layers/sha256")).expect("the layers");
    let layer = layers.flatten().find(|layer| layer.path().join("data/kept").is_file()).expect("one");
    let file = |layer: &str| json!({ "layer": layer, "path": "data/kept", "size": 5, "ranges": [[0, 0, 1]] });
    let foreign = format!("sha256:{}", "0".repeat(64));
    let own = format!("sha256:{}", layer.file_name().display());
    let document = |class: &str, files: &[Value]| {
        json!({ "schema": "skiff.prefetch/1", "image": foreign, "class": class, "recorded_s": 1,
                "accuracy": "used", "files": files })
    };
    // What is not about the image is not taken.
    let import = |profile: &Value| {
        fs::write(case.dir.join("profile.json"), profile.to_string()).expect("write");
        skiff(&case, &["prefetch", "import", &name, &case.dir.join("profile.json").display().to_string()])
            .output()
    };
    import(&document("cat", &[file(&foreign)])).fails(1, "less than half");
    import(&json!({ "schema": "other" })).fails(1, "not a prefetch profile");
    // Words of other command lines are not sent.
    for class in ["probe see", "probe hunter2", "cat"] {
        assert!(import(&document(class, &[file(&own)])).ok().ends_with(&format!(" {class}\n")));
    }
    let other = registry.name("other:1");
    skiff(&case, &["tag", &name, &other]).output().ok();
    let bare = registry.name("bare:1");
    skiff(&case, &["tag", &name, &bare]).output().ok();
    skiff(&case, &["push", "-q", "--prefetch", "off", &bare]).output().ok();
    skiff(&case, &["push", "-q", &other]).output().ok();
    // Once more is no other one.
    skiff(&case, &["push", "-q", &other]).output().ok();
    let pulled = |into: &str, words: &[&str]| {
        let root = case.dir.join(into);
        let words = [&["pull", "-q"], words].concat();
        skiff(&case, &words).env("SKIFF_ROOT", &root).output().ok();
        classes(&case, &root)
    };
    assert_eq!(pulled("with", &[&other]), ["probe see"]);
    assert_eq!(pulled("without", &["--prefetch", "off", &other]), [""; 0]);
    assert_eq!(pulled("bare", &[&bare]), [""; 0]);
    for (mode, expected) in [("off", &[][..]), ("on", &["probe see"][..])] {
        let root = case.dir.join(format!("run-{mode}"));
        let words = ["run", "--rm", "-q", "--prefetch", mode, &other, "see"];
        skiff(&case, &words).env("SKIFF_ROOT", &root).output().ok();
        assert_eq!(classes(&case, &root), expected, "{mode}");
    }
    // The tag of the list is no image.
    assert_eq!(pulled("all", &["-a", other.trim_end_matches(":1")]), ["probe see"]);
    let exported = skiff(&case, &["prefetch", "export", &id(&case, &name), "probe see"]).output().ok();
    let blob = registry.blob_file(&format!("sha256:{}", layout::hex(&Sha256::digest(exported.trim_end()))));
    // A registry that lies has an image pulled, and nothing else.
    let mut lie = fs::read(&blob).expect("the profile");
    lie.reverse();
    fs::write(&blob, lie).expect("spoil");
    assert_eq!(pulled("spoilt", &[&other]), [""; 0]);
    // It goes with its image.
    let with = case.dir.join("with");
    skiff(&case, &["rmi", &other]).env("SKIFF_ROOT", &with).output().ok();
    assert_eq!(classes(&case, &with), [""; 0]);
}

#[test]
fn what_a_user_may_not_have_is_left_out_and_said() {
    let case = Case::new();
    let mut tree = Tar::new();
    tree.dir("d").node("d/null", tar::EntryType::Char, 1, 3).file("d/file", "x");
    Layout::image(&case.dir.join("image"), &json!({}), &[tree.finish()]);
    let archive = case.dir.join("image.tar").display().to_string();
    fixture::tool("tar", &["-C", &case.dir.join("image").display().to_string(), "-cf", &archive, "."]);
    for dir in [&case.dir, &case.state, &case.run, &case.dir.join("tmp")] {
        fixture::tool("chown", &["-R", "1000:1000", &dir.display().to_string()]);
    }
    let loaded = skiff(&case, &["load", "-i", &archive]).with(&["uid=1000"]).output();
    let said = ": left out for want of rights: 1 device nodes and 0 attributes\n";
    assert!(loaded.code == 0 && loaded.stderr.ends_with(said), "{loaded}");
    let layers = fs::read_dir(case.state.join("layers/sha256")).expect("the layers");
    let layer = layers.flatten().next().expect("one").path();
    assert!(layer.join("d/file").is_file() && !layer.join("d/null").exists());
}

fn id(case: &Case, name: &str) -> String {
    skiff(case, &["inspect", "--format", "{{.Id}}", name]).output().ok().trim_end().to_owned()
}

#[test]
fn a_user_has_images_of_their_own() {
    const USER: u32 = 1000;
    need!(has_registry() && fixture::has_image_tools(), "docker-registry, skopeo, umoci and zstd");
    let case = Case::new();
    for dir in [&case.dir, &case.state, &case.run, &case.dir.join("tmp")] {
        nix::unistd::chown(dir, Some(USER.into()), Some(USER.into())).expect("chown");
    }
    let registry = Registry::start(&case, Guard::Nothing);
    registry.put(&small(), "small:1", &[]);
    let name = registry.name("small:1");
    let run = |words: &[&str]| skiff(&case, words).with(&["uid=1000"]).output();
    assert!(run(&["pull", &name]).ok().ends_with(&format!("{name}\n")));
    assert_eq!(run(&["run", "--rm", "--pull", "never", &name, "cat", "/data/kept"]).ok(), "lower");
    assert!(run(&["images", "-q"]).ok().lines().count() == 1 && run(&["history", &name]).ok().contains("MB"));
    let other = registry.name("other:1");
    run(&["tag", &name, &other]).ok();
    run(&["push", "-q", &other]).ok();
    // As files, and back.
    let known = run(&["inspect", "--format", "{{.Id}}", &name]).ok();
    let saved = case.dir.join("saved.tar").display().to_string();
    run(&["save", "-o", &saved, &name]).ok();
    run(&["rmi", &name, &other]).ok();
    assert_eq!(run(&["images", "-q"]).ok(), "");
    assert_eq!(run(&["load", "-i", &saved]).ok(), format!("Loaded image: {name}\n"));
    assert_eq!(run(&["inspect", "--format", "{{.Id}}", &name]).ok(), known);
    assert_eq!(run(&["run", "--rm", "--pull", "never", &name, "cat", "/data/kept"]).ok(), "lower");
    // What was pushed is the same.
    run(&["rmi", &name]).ok();
    run(&["pull", "-q", &other]).ok();
    assert_eq!(run(&["inspect", "--format", "{{.Id}}", &other]).ok(), known);
    assert_eq!(run(&["system", "fsck"]).ok(), "");
    run(&["import", &saved, "flat:1"]).ok();
    run(&["image", "prune", "-af"]).ok();
    assert_eq!(run(&["images", "-q"]).ok(), "");
    let left = fs::read_dir(case.state.join("layers/sha256")).map_or(0, Iterator::count);
    assert_eq!(left, 0);
}
