//! `skiff trace`: what containers are known to have called is shown, exactly, and nothing of others.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::live::Live;
use crate::harness::world::World;
use crate::harness::{Case, fixture, need, parse, programs};
use crate::oci::Bundle;

/// Whether this host lets eBPF programs be loaded.
pub(crate) fn can_trace() -> bool {
    Path::new("/sys/kernel/btf/vmlinux").exists()
}

/// A container that waits for a line on its standard input, and then executes something.
pub(crate) fn waiting(case: &Case, flags: &[&str], then: &str) -> Live {
    let script = format!("echo ready; read line; exec {then}");
    let words = [&["run", "-i", "--rm"], flags, &[fixture::small_root(), "sh", "-c", &script]].concat();
    let mut waiting = case.skiff(&words).stdin_open().start();
    waiting.until("ready");
    waiting
}

/// A trace that has begun.
struct Trace {
    live: Live,
    file: PathBuf,
}

impl Trace {
    fn of(case: &Case, words: &[&str]) -> Self {
        let file = case.dir.join(format!("trace.{}", fs::read_dir(&case.dir).expect("the case").count()));
        let path = file.display().to_string();
        let words = [&["trace", "--format", "json", "-o", &path], words].concat();
        let mut live = case.skiff(&words).through(&["sh", "-c", "exec \"$0\" \"$@\" 2>&1"]).start();
        let line = live.line();
        assert!(line.starts_with("skiff: tracing "), "{line}");
        Self { live, file }
    }

    /// What it has shown, and its last object.
    fn finish(self) -> (Vec<Value>, Value) {
        let output = self.live.finish();
        assert_eq!(output.code, 0, "{output}");
        let text = fs::read_to_string(&self.file).expect("what it has written");
        let mut all: Vec<Value> = text.lines().map(parse).collect();
        let end = all.pop().unwrap_or_else(|| panic!("no last object: {output}"));
        assert_eq!(end["shown"], all.len(), "{output}");
        (all, end)
    }
}

const NONE: fn() -> Value = || json!({"too_many": 0, "no_room": 0, "no_memory": 0});

/// Asserts that the calls shown are those that the load says it made.
#[track_caller]
fn is_exact(printed: &str, shown: &[Value]) {
    for (name, want) in parse(printed)["calls"].as_object().expect("calls") {
        let of_name: Vec<_> = shown.iter().filter(|event| event["call"] == **name).collect();
        assert_eq!(of_name.len(), want["count"], "{name}");
        for (error, count) in want["errors"].as_object().expect("errors") {
            let failed = of_name.iter().filter(|event| event["error"] == **error).count();
            assert_eq!(failed, *count, "{name} {error}");
        }
        let succeeded = of_name.iter().filter(|event| event["error"].is_null()).count() as u64;
        let failing: u64 =
            want["errors"].as_object().expect("errors").values().filter_map(Value::as_u64).sum();
        assert_eq!(Some(succeeded + failing), want["count"].as_u64(), "{name}");
        assert!(
            of_name.iter().all(|event| event["entry"] == "seen" && event["duration_ns"].is_u64()),
            "{name}"
        );
    }
}

#[test]
fn every_call_is_shown_with_its_errors_and_strings() {
    need!(can_trace(), "a kernel with BTF");
    let world = World::new();
    let mut program = waiting(&world.0, &["--name", "aa"], "probe calls 50 10 1 100 fork 3");
    let trace = Trace::of(&world.0, &["aa"]);
    program.send(b"go\n");
    let printed = program.finish().stdout;
    let (shown, end) = trace.finish();
    assert_eq!(end["dropped"], NONE());
    is_exact(printed.lines().last().expect("a line"), &shown);
    let paths = |name: &str, error: Value| {
        let events = shown.iter().filter(|event| event["call"] == name && event["error"] == error);
        events.map(|event| event["arguments"][0]["text"].as_str().unwrap_or("")).collect::<Vec<_>>()
    };
    assert_eq!(paths("chdir", json!("ENOENT")), vec!["/no/such/file"; 30]);
    assert_eq!(paths("chdir", Value::Null), vec!["."; 120]);
    assert_eq!(paths("execve", Value::Null), ["/bin/probe"]);
    // Four processes end in the call by which they do.
    let exits = shown.iter().filter(|event| event["call"] == "exit_group");
    assert_eq!(exits.filter(|event| event["result"].is_null()).count(), 4);
}

#[test]
fn only_what_is_asked_for_is_shown() {
    need!(can_trace(), "a kernel with BTF");
    let world = World::new();
    let mut program = waiting(&world.0, &["--name", "aa"], "probe calls 30 7 1 1");
    let failed = Trace::of(&world.0, &["aa", "--failed", "-e", "chdir,getsid"]);
    let paths = Trace::of(&world.0, &["aa", "-e", "%file"]);
    let few = Trace::of(&world.0, &["aa", "-e", "umask", "--limit", "3"]);
    program.send(b"go\n");
    program.finish();
    let (shown, _) = failed.finish();
    assert_eq!(shown.len(), 14);
    assert!(shown.iter().all(|event| event["error"] == "ENOENT" || event["error"] == "ESRCH"));
    let (shown, _) = paths.finish();
    let has = |name: &str| shown.iter().filter(|event| event["call"] == name).count();
    // The shell looks for the program along its path.
    assert_eq!((has("chdir"), has("getsid"), has("read")), (30, 0, 0));
    assert!(has("execve") >= 1);
    assert_eq!(few.finish().0.len(), 3);
}

#[test]
fn what_is_beyond_the_rate_is_counted() {
    need!(can_trace(), "a kernel with BTF");
    let world = World::new();
    let mut program = waiting(&world.0, &["--name", "aa"], "probe calls 20000 0 1 1 threads 2");
    let trace = Trace::of(&world.0, &["aa", "-e", "getppid", "--rate", "50"]);
    program.send(b"go\n");
    program.finish();
    let (shown, end) = trace.finish();
    let dropped: u64 = end["dropped"].as_object().expect("counts").values().filter_map(Value::as_u64).sum();
    assert_eq!(shown.len() as u64 + dropped, 40_000, "{end}");
    assert!(end["dropped"]["too_many"].as_u64() > Some(20_000), "{end}");
}

#[test]
fn other_containers_are_not_seen() {
    need!(can_trace(), "a kernel with BTF");
    let world = World::new();
    world.run("idle", &[], &["probe", "trap"]);
    let trace = Trace::of(&world.0, &["idle", "-e", "getppid,execve"]);
    let root = fixture::small_root();
    world.skiff(&["run", "--rm", root, "probe", "calls", "20", "0", "1", "1"]).ok();
    // A process that comes into the container is.
    world.skiff(&["exec", "idle", "probe", "calls", "3", "0", "1", "1"]).ok();
    world.ok(&["stop", "idle"]);
    let (shown, _) = trace.finish();
    let has = |name: &str| shown.iter().filter(|event| event["call"] == name).count();
    assert_eq!(has("getppid"), 3, "{shown:?}");
}

#[test]
fn calls_that_a_filter_refuses_are_shown_as_such() {
    need!(can_trace(), "a kernel with BTF");
    let world = World::new();
    let filter = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["chdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 111}]}"#;
    let option = format!("seccomp={}", world.0.file("filter.json", filter));
    let flags = ["--name", "aa", "--security-opt", &option];
    let mut program = waiting(&world.0, &flags, "probe calls 5 2 1 1");
    let trace = Trace::of(&world.0, &["aa", "-e", "chdir"]);
    program.send(b"go\n");
    program.finish();
    let (shown, _) = trace.finish();
    assert_eq!(shown.len(), 5);
    for event in shown {
        assert_eq!(
            (&event["entry"], &event["error"]),
            (&json!("refused"), &json!("ECONNREFUSED")),
            "{event}"
        );
        assert!(event["arguments"][0]["text"].is_string() && event["duration_ns"].is_null(), "{event}");
    }
}

#[test]
fn containers_without_a_daemon_are_traced() {
    need!(can_trace(), "a kernel with BTF");
    let case = Case::new();
    let mut program = waiting(&case, &["--name", "alone"], "probe calls 4 0 1 1");
    let trace = Trace::of(&case, &["alone", "-e", "getppid"]);
    program.send(b"go\n");
    program.finish();
    assert_eq!(trace.finish().0.len(), 4);
}

#[test]
fn containers_of_the_runtime_are_traced() {
    need!(can_trace(), "a kernel with BTF");
    need!(programs::has_runtime(), "skiff-runtime");
    need!(programs::runtime().ends_with("skiff-runtime"), "skiff-runtime");
    let case = Case::new();
    let mut bundle = Bundle::new();
    bundle.args(&["/bin/probe", "calls", "6", "0", "1", "1"]);
    let pid = bundle.create().pid();
    let trace = Trace::of(&case, &[&bundle.id, "-e", "getppid"]);
    bundle.start();
    bundle.rest();
    bundle.wait(pid);
    assert_eq!(trace.finish().0.len(), 6);
    bundle.delete();
}

#[test]
fn a_trace_ends_when_it_is_told_to() {
    need!(can_trace(), "a kernel with BTF");
    let world = World::new();
    world.run("idle", &[], &["probe", "trap"]);
    let trace = Trace::of(&world.0, &["idle", "-e", "getppid"]);
    trace.live.signal(Signal::SIGINT);
    assert_eq!(trace.finish().0.len(), 0);
    let output = world.skiff(&["trace", "idle", "-e", "getppid", "--for", "1ms"]);
    assert_eq!((output.code, output.stdout.as_str()), (0, ""), "{output}");
    assert!(
        output.stderr.contains("no system call in") && output.stderr.contains("none dropped"),
        "{output}"
    );
}

#[test]
fn a_trace_of_what_never_rests_ends_when_it_is_told_to() {
    need!(can_trace(), "a kernel with BTF");
    let world = World::new();
    world.run("busy", &[], &["sh", "-c", "while :; do : < /etc/passwd; done"]);
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let trace = Trace::of(&world.0, &["busy", "--rate", "10000000"]);
        trace.live.signal(signal);
        trace.finish();
    }
}

#[test]
fn no_call_passes_for_refused_when_a_trace_begins() {
    need!(can_trace(), "a kernel with BTF");
    let world = World::new();
    world.run("busy", &[], &["sh", "-c", "while :; do : < /etc/passwd; done"]);
    for _ in 0..5 {
        let (shown, _) = Trace::of(&world.0, &["busy", "--limit", "30"]).finish();
        let unseen = shown.iter().take_while(|event| event["entry"] == "unseen").count();
        assert!(unseen <= 1, "there is one task: {shown:?}");
        assert!(shown[unseen..].iter().all(|event| event["entry"] == "seen"), "{shown:?}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_in_one_line() {
    let world = World::new();
    world.create(&["--name", "made"], &["probe", "trap"]);
    world.skiff(&["trace", "nope"]).fails(1, "no such container: nope");
    world.skiff(&["trace", "made"]).fails(1, "container made is not running");
    world.skiff(&["trace"]).fails(1, "no container given");
    world.skiff(&["trace", "made", "-e", "opn"]).fails(125, "no system call \"opn\"");
    world.skiff(&["trace", "made", "-e", "%disk"]).fails(125, "no class %disk");
    world.skiff(&["trace", "made", "--rate", "0"]).fails(125, "not a number above 0");
    world.skiff(&["trace", "made", "--for", "soon"]).fails(125, "not a time");
    world.skiff(&["trace", "made", "--format", "xml"]).fails(125, "neither text nor json");
    need!(can_trace(), "a kernel with BTF");
    world.ok(&["start", "made"]);
    world.skiff(&["trace", "made", "-o", "/nowhere/file"]).fails(125, "/nowhere/file");
}
