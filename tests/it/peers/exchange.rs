//! Images between skiff and engines as files: what one saves the other loads, and both call it the same.

use super::engine::{Client, Engine, TESTED};
use crate::harness::{Case, need};

#[test]
fn images_go_to_docker_and_back() {
    let engine = super::docker::docker();
    need!(engine.is_some(), "docker, containerd, crun and runc");
    engine.into_iter().for_each(there_and_back);
}

#[test]
fn images_go_to_podman_and_back() {
    let engine = super::podman::podman();
    need!(engine.is_some(), "podman, conmon, crun and runc");
    engine.into_iter().for_each(there_and_back);
}

fn there_and_back(engine: &Engine) {
    let case = Case::with_daemon();
    let client = Client::new(engine, TESTED, "exchange");
    let file = |name: &str| case.dir.join(name).display().to_string();
    let run = |words: &[&str]| case.skiff(words).output().ok();
    let id = |text: String| text.trim().trim_start_matches("sha256:").to_owned();
    // Podman puts its own host before names.
    let (theirs, name) = (file("theirs.tar"), "localhost/exchange:theirs");
    client.asks(&["tag", "small", name]);
    client.asks(&["save", "-o", &theirs, name]);
    assert!(run(&["load", "-i", &theirs]).starts_with("Loaded image: "));
    let known = id(client.asks(&["image", "inspect", "--format", "{{.Id}}", name]));
    assert_eq!(id(run(&["inspect", "--format", "{{.Id}}", name])), known);
    let script = "ls -ld /bin /etc | cut -c1-10; cat /etc/passwd";
    let seen = run(&["run", "--rm", name, "sh", "-c", script]);
    // One of ours: theirs, and what a container has made of it.
    let made = "localhost/exchange:made";
    let change = "mkdir -p /made/deep; echo text >/made/deep/file; ln -s deep/file /made/link; rm /etc/passwd; chmod 700 /etc";
    run(&["run", "--name", "box", name, "sh", "-c", change]);
    run(&["commit", "-c", "ENV MADE=yes", "box", made]);
    let own = id(run(&["inspect", "--format", "{{.Id}}", made]));
    let ours = file("ours.tar");
    run(&["save", "-o", &ours, made, name]);
    client.asks(&["rmi", name]);
    client.asks(&["load", "-i", &ours]);
    assert_eq!(id(client.asks(&["image", "inspect", "--format", "{{.Id}}", name])), known);
    assert_eq!(id(client.asks(&["image", "inspect", "--format", "{{.Id}}", made])), own);
    let through = |words: &[&str]| {
        client.asks(&[&["run", "--rm", "--network=none"], &client.own_flags()[..], words].concat())
    };
    assert_eq!(through(&[name, "sh", "-c", script]), seen);
    let script =
        "stat -c '%a %u:%g' /etc /made/deep; cat /made/link; echo $MADE; ls /etc/passwd 2>/dev/null || true";
    let output = through(&[made, "sh", "-c", script]);
    assert_eq!(run(&["run", "--rm", made, "sh", "-c", script]), output);
    assert!(output.starts_with("700 0:0\n755 0:0\ntext\nyes\n"), "{output}");
    client.asks(&["rmi", name, made]);
}
