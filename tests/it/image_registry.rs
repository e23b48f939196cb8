//! Images on their way to and from a registry, by the command line: what is said, and what interruptions leave.

use std::fs;

use nix::sys::signal::Signal;

use crate::harness::registry::{Guard, Registry, has_registry};
use crate::harness::{Case, Skiff, fixture, need};

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
    // It is there for others.
    registry.take("other:latest", &format!("oci:{}", case.dir.join("taken").display()));
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
