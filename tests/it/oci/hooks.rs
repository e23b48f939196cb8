//! config.md: hooks. Each writes one line about itself to a file (`probe hook`).

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Bundle;
use super::bundle::{fails, succeeds};
use crate::harness::{parse, patience};

/// All kinds, in the order in which they are called.
const KINDS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// Adds a hook that writes down its name, and then does what `rest` says.
fn add(bundle: &mut Bundle, kind: &str, name: &str, rest: &[&str]) {
    let host = |path: &str| bundle.inside(path).display().to_string();
    let (program, log) = match kind {
        "startContainer" => ("/bin/probe".into(), "/hooks.log".into()),
        _ => (host("/bin/probe"), host("/hooks.log")),
    };
    let args = [&[&program, "hook", &log, name], rest].concat();
    let hook = json!({ "path": program, "args": args, "env": ["OF=hook", "EMPTY="] });
    bundle.set(&format!("/hooks/{kind}/-"), hook);
}

/// A container with one hook of each kind, named after it.
fn with_all() -> Bundle {
    let mut bundle = Bundle::with([("/annotations", json!({ "a": "b" }))]);
    KINDS.iter().for_each(|kind| add(&mut bundle, kind, kind, &[]));
    fs::write(bundle.inside("/marker-inside"), "").expect("a file in the root");
    bundle
}

/// What the hooks have written down.
fn log(bundle: &Bundle) -> Vec<Value> {
    fs::read_to_string(bundle.inside("/hooks.log")).unwrap_or_default().lines().map(parse).collect()
}

fn names(bundle: &Bundle) -> Vec<String> {
    log(bundle).iter().map(|line| line["name"].as_str().unwrap_or_default().to_owned()).collect()
}

/// One line of each hook of a whole life, by name; and the pid that the state showed.
fn whole_life() -> (BTreeMap<String, Value>, i32, BTreeMap<String, String>) {
    let mut bundle = with_all();
    let pid = bundle.wait_ready(&["/bin/probe", "wait"]);
    let link = |name: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).expect("a namespace");
    let kinds = ["ipc", "mnt", "net", "pid", "uts"];
    let own = kinds.map(|name| (name.to_owned(), link(name).display().to_string())).into();
    bundle.end();
    let lines =
        log(&bundle).into_iter().map(|line| (line["name"].as_str().unwrap_or_default().to_owned(), line));
    (lines.collect(), pid, own)
}

#[test]
fn each_kind_is_called_in_its_operation() {
    let mut bundle = with_all();
    let pid = bundle.args(&["/bin/true"]).create().pid();
    assert_eq!(names(&bundle), KINDS[..3]);
    bundle.start();
    assert_eq!(names(&bundle), KINDS[..5]);
    bundle.wait(pid);
    bundle.delete();
    assert_eq!(names(&bundle), KINDS);
}

#[test]
fn hooks_of_a_kind_are_called_in_the_listed_order() {
    let mut bundle = Bundle::new();
    let all = KINDS.iter().flat_map(|kind| ["1", "2", "3"].map(|number| (*kind, format!("{kind}{number}"))));
    let all: Vec<(&str, String)> = all.collect();
    all.iter().for_each(|(kind, name)| add(&mut bundle, kind, name, &[]));
    bundle.args(&["/bin/true"]).run();
    let expected: Vec<String> = all.into_iter().map(|(_, name)| name).collect();
    assert_eq!(names(&bundle), expected);
}

#[test]
fn hooks_before_the_start_run_before_the_program() {
    let mut bundle = with_all();
    bundle.args(&["/bin/touch", "/started"]).run();
    for line in &log(&bundle)[..4] {
        assert_eq!(line["started"], false, "{}", line["name"]);
    }
}

#[test]
fn hooks_of_the_runtime_run_in_its_namespaces() {
    let (lines, ..) = whole_life();
    for kind in ["prestart", "createRuntime", "poststart", "poststop"] {
        for name in ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] {
            let own = fs::read_link(format!("/proc/self/ns/{name}")).expect("our own namespace");
            assert_eq!(lines[kind]["namespaces"][name], own.display().to_string(), "{kind}");
        }
    }
}

#[test]
fn hooks_of_the_container_run_in_its_namespaces() {
    let (lines, _, own) = whole_life();
    for kind in ["createContainer", "startContainer"] {
        for (name, link) in &own {
            assert_eq!(&lines[kind]["namespaces"][name], link, "{kind}");
        }
    }
}

#[test]
fn hooks_before_the_pivot_see_the_runtimes_root() {
    let (lines, ..) = whole_life();
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let root = lines[kind]["root"].as_array().expect("a list");
        assert!(!root.contains(&json!("marker-inside")), "{kind}: {root:?}");
        assert!(root.contains(&json!("tmp")), "{kind}: {root:?}");
    }
}

#[test]
fn start_container_hooks_see_the_containers_root() {
    let (lines, ..) = whole_life();
    let root = lines["startContainer"]["root"].as_array().expect("a list");
    assert!(root.contains(&json!("marker-inside")), "{root:?}");
}

#[test]
fn the_state_is_on_standard_input() {
    let mut bundle = with_all();
    bundle.args(&["/bin/true"]).run();
    for line in log(&bundle) {
        let (kind, state) = (&line["name"], &line["state"]);
        assert_eq!(state["id"], bundle.id, "{kind}");
        assert_eq!(state["bundle"], bundle.dir.display().to_string(), "{kind}");
        assert_eq!(state["annotations"]["a"], "b", "{kind}");
        assert!(state["ociVersion"].is_string(), "{kind}");
    }
}

#[test]
fn the_state_has_the_right_status() {
    let (lines, ..) = whole_life();
    let status = |kind: &str| lines[kind]["state"]["status"].as_str().unwrap_or_default().to_owned();
    for kind in &KINDS[..3] {
        // Which of the two, the specification leaves open.
        assert!(["creating", "created"].contains(&&status(kind)[..]), "{kind}: {}", status(kind));
    }
    assert_eq!(
        KINDS[3..].iter().map(|kind| status(kind)).collect::<Vec<_>>(),
        ["created", "running", "stopped"]
    );
}

#[test]
fn hooks_of_the_runtime_know_the_pid_as_the_host_does() {
    let (lines, pid, _) = whole_life();
    for kind in ["prestart", "createRuntime", "poststart"] {
        assert_eq!(lines[kind]["state"]["pid"], pid, "{kind}");
    }
}

#[test]
fn hooks_of_the_container_know_the_pid_as_the_container_does() {
    let (lines, ..) = whole_life();
    for kind in ["createContainer", "startContainer"] {
        assert_eq!(lines[kind]["state"]["pid"], 1, "{kind}");
    }
}

#[test]
fn hooks_of_the_runtime_find_the_network_by_the_pid() {
    let (lines, _, own) = whole_life();
    for kind in ["prestart", "createRuntime", "poststart"] {
        assert_eq!(lines[kind]["network_of_pid"], own["net"], "{kind}");
    }
}

#[test]
fn arguments_are_passed_as_they_are() {
    let mut bundle = Bundle::new();
    for kind in KINDS {
        add(&mut bundle, kind, kind, &[]);
        bundle.set(&format!("/hooks/{kind}/0/args/0"), json!("another name"));
    }
    bundle.args(&["/bin/true"]).run();
    let lines = log(&bundle);
    assert_eq!(lines.len(), KINDS.len());
    for line in lines {
        let kind = line["name"].as_str().expect("a name");
        assert_eq!(line["args"], bundle.config["hooks"][kind][0]["args"], "{kind}");
    }
}

#[test]
fn the_environment_is_what_is_given() {
    let (lines, ..) = whole_life();
    for kind in KINDS {
        assert_eq!(lines[kind]["environ"], json!(["OF=hook", "EMPTY="]), "{kind}");
    }
}

#[test]
fn a_hook_that_takes_too_long_is_ended() {
    for kind in &KINDS[..3] {
        let mut bundle = Bundle::new();
        add(&mut bundle, kind, kind, &["sleep", "600"]);
        bundle.set(&format!("/hooks/{kind}/0/timeout"), json!(1));
        let begun = Instant::now();
        bundle.create_fails();
        assert!(begun.elapsed() < Duration::from_secs(60) * patience(), "{kind}");
    }
}

#[test]
fn a_hook_in_time_is_not_ended() {
    let mut bundle = Bundle::new();
    for kind in KINDS {
        add(&mut bundle, kind, kind, &[]);
        bundle.set(&format!("/hooks/{kind}/0/timeout"), json!(60));
    }
    bundle.args(&["/bin/true"]).run();
    let (mut called, mut all) = (names(&bundle), KINDS);
    called.sort_unstable();
    all.sort_unstable();
    assert_eq!(called, all);
}

#[test]
fn a_failing_hook_of_create_fails_it() {
    for kind in &KINDS[..3] {
        let mut bundle = Bundle::new();
        add(&mut bundle, kind, kind, &["exit", "1"]);
        bundle.create_fails();
        assert_eq!(names(&bundle), [*kind]);
    }
}

#[test]
fn a_failing_hook_of_create_is_followed_by_poststop() {
    for kind in &KINDS[..3] {
        let mut bundle = Bundle::new();
        add(&mut bundle, kind, kind, &["exit", "1"]);
        add(&mut bundle, "poststop", "poststop", &[]);
        bundle.create_fails();
        assert_eq!(names(&bundle), [*kind, "poststop"]);
    }
}

#[test]
fn a_failing_start_container_hook_fails_the_start() {
    let mut bundle = Bundle::new();
    add(&mut bundle, "startContainer", "startContainer", &["exit", "1"]);
    bundle.args(&["/bin/true"]).create();
    fails(&bundle.runtime(&["start", &bundle.id]));
}

#[test]
fn a_failing_start_container_hook_stops_the_container() {
    let mut bundle = Bundle::new();
    add(&mut bundle, "startContainer", "startContainer", &["exit", "1"]);
    let pid = bundle.args(&["/bin/touch", "/started"]).create().pid();
    let _error_or_not = bundle.runtime(&["start", &bundle.id]);
    bundle.wait(pid);
    assert!(!bundle.inside("/started").exists(), "the program ran");
    let state = bundle.runtime(&["state", &bundle.id]);
    assert!(state.code != 0 || parse(&state.stdout)["status"] == "stopped", "{state}");
}

#[test]
fn a_failing_poststop_hook_hinders_nothing() {
    let mut bundle = Bundle::new();
    add(&mut bundle, "poststop", "first", &["exit", "1"]);
    add(&mut bundle, "poststop", "second", &[]);
    let pid = bundle.args(&["/bin/true"]).create().pid();
    bundle.start();
    bundle.wait(pid);
    succeeds(&bundle.runtime(&["delete", &bundle.id]));
    assert_eq!(names(&bundle), ["first", "second"]);
    fails(&bundle.runtime(&["state", &bundle.id]));
}

#[test]
fn a_hook_that_is_not_there_is_an_error() {
    let mut bundle = Bundle::with([("/hooks/createRuntime", json!([{ "path": "/no/such/hook" }]))]);
    bundle.create_fails();
    bundle = Bundle::with([("/hooks/prestart", json!([{ "path": "/no/such/hook" }]))]);
    bundle.create_fails();
}

#[test]
fn a_relative_path_of_a_hook_is_an_error() {
    let mut bundle = Bundle::new();
    add(&mut bundle, "createRuntime", "createRuntime", &[]);
    bundle.set("/hooks/createRuntime/0/path", json!("rootfs/bin/probe")).write();
    let dir = bundle.dir.display().to_string();
    let mut create = bundle.command(&["create", "--bundle", &dir, &bundle.id]);
    create.current_dir(&bundle.dir).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    fails(&crate::harness::live::Live::spawn(create, None, crate::harness::time_limit()).finish());
}

#[test]
fn a_timeout_of_zero_is_an_error() {
    let mut bundle = Bundle::new();
    add(&mut bundle, "createRuntime", "createRuntime", &[]);
    bundle.set("/hooks/createRuntime/0/timeout", json!(0)).create_fails();
}
