//! Pinned programs: containers that the OCI runtime makes are counted by what another process has left on the host.
//!
//! Each test has a mount namespace with a bpffs of its own, so that nothing of it is on the host.

mod throttled;
mod tier1;
mod wire;

use std::fs;
use std::path::Path;
use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::live::Live;
use crate::harness::{Case, Output, Skiff, need, parse, programs, time_limit};
use crate::oci::Bundle;

/// Whether this host lets eBPF programs be loaded, and there is a runtime that knows of them.
fn can_observe() -> bool {
    Path::new("/sys/kernel/btf/vmlinux").exists()
        && programs::has_runtime()
        && programs::runtime().ends_with("skiff-runtime")
}

/// A mount namespace in which containers are counted. It ends with this program.
struct World {
    case: Case,
    first: Live,
}

impl World {
    /// One with nothing pinned, and no bpffs yet.
    fn new() -> Self {
        let probe = programs::probe().display().to_string();
        let setup = "while umount /sys/fs/bpf 2> /dev/null; do :; done; exec \"$0\" hold";
        let words = ["unshare", "--mount", "--propagation=private", "sh", "-c", setup, &probe];
        let mut first = Skiff::tool(&words).stdin_open().start();
        first.until("ready");
        Self { case: Case::new(), first }
    }

    /// One with the programs pinned, for so many containers.
    fn with_slots(slots: &str) -> Self {
        let world = Self::new();
        world.skiff(&["observe", "on", "--slots", slots]).output().ok();
        world
    }

    /// One with these probes on, for so many containers.
    fn with_probes(probes: &str, slots: &str) -> Self {
        let world = Self::new();
        world.skiff(&["observe", "on", probes, "--slots", slots]).output().ok();
        world
    }

    /// What `skiff observe show` tells of a container.
    #[track_caller]
    fn shown(&self, id: &str) -> Value {
        let report = parse(&self.skiff(&["observe", "show", id, "--format", "json"]).output().ok());
        assert_eq!(report["schema"], "skiff.observe/1");
        report["containers"][0].clone()
    }

    /// What leads into the namespace.
    fn enter(&self) -> Vec<String> {
        let pid = self.first.pid().to_string();
        ["nsenter", "--mount", "--target", &pid, "--"].map(str::to_owned).to_vec()
    }

    fn skiff(&self, args: &[&str]) -> Skiff {
        let enter = self.enter();
        self.case.skiff(args).through(&enter.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Another tool inside.
    fn tool(&self, words: &[&str]) -> Output {
        let enter = self.enter();
        Skiff::tool(&enter.iter().map(String::as_str).chain(words.iter().copied()).collect::<Vec<_>>())
            .output()
    }

    /// A bundle whose runtime runs inside.
    fn bundle(&self, args: &[&str]) -> Bundle {
        let mut bundle = Bundle::new().through(&self.enter());
        bundle.args(args);
        bundle
    }

    #[track_caller]
    fn profile(&self, id: &str) -> Value {
        let profile = parse(&self.skiff(&["profile", id, "--format", "json"]).output().ok());
        assert_eq!(profile["schema"], "skiff.profile/1");
        assert_eq!(profile["events_lost"], 0, "{profile}");
        profile
    }

    #[track_caller]
    fn stats(&self) -> Vec<Value> {
        let output = self.skiff(&["stats", "--no-stream", "--format", "json"]).output();
        assert_eq!(output.code, 0, "{output}");
        output.stdout.lines().map(parse).collect()
    }

    /// How many slots are taken.
    #[track_caller]
    fn taken(&self) -> u32 {
        let text = self.skiff(&["observe"]).output().ok();
        let words = text.split("slots: ").nth(1).and_then(|rest| rest.split(", ").nth(1));
        words.and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap_or_else(|| panic!("{text}"))
    }
}

/// The line of a system call in a phase; null when it was not made.
fn call<'a>(profile: &'a Value, phase: &str, name: &str) -> &'a Value {
    let calls = profile["system_calls"][phase].as_array().expect("a list of calls");
    calls.iter().find(|call| call["name"] == name).unwrap_or(&Value::Null)
}

/// Asserts that the program made exactly the calls that it says it made.
#[track_caller]
fn is_exact(printed: &str, profile: &Value) {
    for (name, want) in parse(printed)["calls"].as_object().expect("calls") {
        let got = call(profile, "workload", name);
        assert_eq!((&got["calls"], &got["errors"]), (&want["count"], &want["errors"]), "{name}: {got}");
    }
}

/// Creates and starts the container and waits for its end; what it printed. It is not deleted.
#[track_caller]
fn run(bundle: &Bundle) -> String {
    let pid = bundle.create().pid();
    bundle.start();
    let printed = bundle.rest();
    bundle.wait(pid);
    printed
}

#[test]
fn every_call_of_a_created_and_started_container_is_counted() {
    need!(can_observe(), "a kernel with BTF, and skiff-runtime");
    let world = World::with_slots("2");
    let bundle = world.bundle(&["/bin/probe", "calls", "1000", "300", "20", "10", "fork", "3"]);
    let printed = run(&bundle);
    let profile = world.profile(&bundle.id);
    is_exact(&printed, &profile);
    assert_eq!(profile["container"]["command"][1], "calls");
    assert_eq!(profile["resources"]["workload"]["processes_created"], 3);
    bundle.delete();
    assert_eq!(world.taken(), 0);
}

#[test]
fn the_runtime_that_waits_is_set_up_and_the_program_is_not() {
    need!(can_observe(), "a kernel with BTF, and skiff-runtime");
    let world = World::with_slots("1");
    let bundle = world.bundle(&["/bin/probe", "exit", "0"]);
    let pid = bundle.create().pid();
    let waiting = world.profile(&bundle.id);
    assert_eq!(waiting["system_calls"]["workload"], Value::Array(Vec::new()));
    assert_eq!(call(&waiting, "init", "pivot_root")["calls"], 1);
    assert_eq!(waiting["timeline"]["program_us"], Value::Null);
    bundle.start();
    bundle.wait(pid);
    let ended = world.profile(&bundle.id);
    assert_eq!(call(&ended, "workload", "exit_group")["unreturned"], 1);
    assert_eq!(*call(&ended, "workload", "execve"), Value::Null, "it is the runtime's last call");
    for name in ["pivot_root", "move_mount", "execve", "setresuid"] {
        assert_eq!(*call(&ended, "workload", name), Value::Null, "{name}");
    }
    let timeline = &ended["timeline"];
    assert!(timeline["program_us"].as_f64() > Some(0.0), "{timeline}");
    bundle.delete();
}

#[test]
fn a_container_that_runs_is_counted_as_it_is() {
    need!(can_observe(), "a kernel with BTF, and skiff-runtime");
    let world = World::with_slots("1");
    let mut bundle = world.bundle(&[]);
    bundle.wait_ready(&["/bin/probe", "trap"]);
    let profile = world.profile(&bundle.id);
    let calls = profile["system_calls"]["workload"].as_array().expect("a list");
    let under_way: u64 = calls.iter().filter_map(|call| call["unreturned"].as_u64()).sum();
    assert_eq!(under_way, 1, "the call that it waits in: {profile}");
    assert_eq!(profile["exit"], serde_json::json!({"code": null, "signal": null}));
    let used = &profile["resources"]["workload"];
    for figure in ["cpu_ns", "minor_faults", "off_cpu_ns"] {
        assert!(used[figure].is_null() || used[figure].as_u64() > Some(0), "{figure}: {used}");
    }
    let text = world.skiff(&["profile", &bundle.id]).output().ok();
    assert!(text.contains("so far") && text.contains("probe trap"), "{text}");
    bundle.end();
}

#[test]
fn hooks_in_the_container_are_set_up() {
    need!(can_observe(), "a kernel with BTF, and skiff-runtime");
    let world = World::with_slots("1");
    let mut bundle = world.bundle(&["/bin/probe", "calls", "10", "0", "1", "1"]);
    let hook =
        |path: &str, argument: &str| serde_json::json!([{"path": path, "args": ["sh", "-c", argument]}]);
    bundle.set("/hooks/createContainer", hook("/bin/sh", "cat /dev/null; true"));
    bundle.set("/hooks/startContainer", hook("/bin/sh", "cat /dev/null; true"));
    let printed = run(&bundle);
    let profile = world.profile(&bundle.id);
    is_exact(&printed, &profile);
    let listed = profile["execs"]["listed"].as_array().expect("a list");
    let of = |phase: &str| listed.iter().filter(|exec| exec["phase"] == phase).count();
    assert_eq!(of("workload"), 1, "{listed:?}");
    assert!(of("init") >= 2, "{listed:?}");
    bundle.delete();
}

#[test]
fn two_containers_at_once_are_told_apart() {
    need!(can_observe(), "a kernel with BTF, and skiff-runtime");
    let world = World::with_slots("2");
    let one = world.bundle(&["/bin/probe", "calls", "500", "100", "5", "10", "fork", "4"]);
    let other = world.bundle(&["/bin/probe", "calls", "333", "33", "5", "10", "threads", "3"]);
    let pids = [one.create().pid(), other.create().pid()];
    one.start();
    other.start();
    let printed = [one.rest(), other.rest()];
    one.wait(pids[0]);
    other.wait(pids[1]);
    is_exact(&printed[0], &world.profile(&one.id));
    is_exact(&printed[1], &world.profile(&other.id));
    let ids: Vec<Value> = world.stats().into_iter().map(|stats| stats["id"].clone()).collect();
    assert_eq!(ids, [one.id.as_str(), &other.id], "in the order in which they began");
    one.delete();
    other.delete();
}

#[test]
fn a_slot_is_empty_when_it_is_taken_again() {
    need!(can_observe(), "a kernel with BTF, and skiff-runtime");
    let world = World::with_slots("1");
    for (calls, failing) in [("700", "200"), ("30", "7")] {
        let bundle = world.bundle(&["/bin/probe", "calls", calls, failing, "5", "10", "fork", "2"]);
        let printed = run(&bundle);
        is_exact(&printed, &world.profile(&bundle.id));
        bundle.delete();
        assert_eq!(world.taken(), 0);
    }
}

#[test]
fn a_container_without_a_slot_runs_uncounted_and_is_named() {
    need!(can_observe(), "a kernel with BTF, and skiff-runtime");
    let world = World::with_slots("1");
    let first = world.bundle(&["/bin/probe", "calls", "50", "5", "5", "10"]);
    let pid = first.create().pid();
    let second = world.bundle(&["/bin/probe", "calls", "20", "2", "5", "10"]);
    assert!(!run(&second).is_empty(), "it runs all the same");
    let output = world.skiff(&["stats", "--no-stream"]).output();
    let line = format!("not counted: 1 containers began when all 1 slots were taken: {}", second.id);
    assert!(output.stdout.contains(&line), "{output}");
    world.skiff(&["profile", &second.id]).output().fails(125, "is not counted: all 1 slots were taken");
    first.start();
    let printed = first.rest();
    first.wait(pid);
    is_exact(&printed, &world.profile(&first.id));
    first.delete();
    second.delete();
    assert_eq!(world.taken(), 0);
}

#[test]
fn a_runtime_that_is_killed_leaves_no_slot_behind() {
    need!(can_observe(), "a kernel with BTF, and skiff-runtime");
    let world = World::with_slots("1");
    let mut bundle = world.bundle(&["/bin/probe", "exit", "0"]);
    let note = bundle.dir.join("hook");
    let script = "echo $$ > hook.new; mv hook.new hook; exec sleep 60";
    let hook =
        serde_json::json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}]);
    bundle.set("/hooks/createRuntime", hook).write();
    let words = ["create", "--bundle", &bundle.dir.display().to_string(), &bundle.id];
    let mut command = bundle.command(&words);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let live = Live::spawn(command, None, time_limit());
    let deadline = Instant::now() + time_limit();
    while world.taken() == 0 || !note.exists() {
        assert!(Instant::now() < deadline, "it was never armed");
    }
    live.signal(Signal::SIGKILL);
    drop(live);
    // The hook is the test's to end.
    let hook = fs::read_to_string(&note).expect("its process").trim().parse().expect("a number");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(hook), Signal::SIGKILL).expect("the hook runs");
    crate::oci::bundle::await_exit(hook);
    assert_eq!(world.taken(), 1, "its cgroup is still there");
    let deleted = bundle.runtime(&["delete", "--force", &bundle.id]);
    assert_eq!(deleted.code, 0, "{deleted}");
    assert_eq!(world.taken(), 0);
}

#[test]
fn a_container_that_vanishes_gives_its_slot_to_the_next() {
    need!(can_observe(), "a kernel with BTF, and skiff-runtime");
    let world = World::with_slots("1");
    let gone = world.bundle(&["/bin/probe", "calls", "90", "9", "5", "10"]);
    run(&gone);
    for group in crate::harness::leak::groups(std::slice::from_ref(&gone.id)) {
        fs::remove_dir(&group).unwrap_or_else(|e| panic!("remove {}: {e}", group.display()));
    }
    let next = world.bundle(&["/bin/probe", "calls", "40", "4", "5", "10"]);
    let printed = run(&next);
    is_exact(&printed, &world.profile(&next.id));
    assert_eq!(world.skiff(&["stats", "--no-stream"]).output().ok().matches("not counted").count(), 0);
    next.delete();
}

#[test]
fn statistics_are_of_what_the_container_does() {
    need!(can_observe(), "a kernel with BTF, and skiff-runtime");
    let world = World::with_slots("2");
    let mut bundle = world.bundle(&["/bin/sh", "-c", "echo ready; while :; do echo > /dev/null; done"]);
    let args = bundle.config["process"]["args"].clone();
    let args: Vec<&str> = args.as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    bundle.wait_ready(&args);
    let stats = world.stats();
    let [one] = stats.as_slice() else { panic!("{stats:?}") };
    assert_eq!((&one["id"], &one["running"]), (&Value::from(bundle.id.as_str()), &Value::Bool(true)));
    assert!(one["cgroup"].as_str().is_some_and(|path| path.ends_with(&bundle.id)), "{one}");
    for rate in ["system_calls_per_s", "cpu_percent"] {
        assert!(one[rate].as_f64() > Some(0.0), "{rate}: {one}");
    }
    assert_eq!(one["processes"], 1, "{one}");
    let table = world.skiff(&["stats", "--no-stream", &bundle.id]).output().ok();
    assert!(table.starts_with("CONTAINER ID") && table.contains(&bundle.id), "{table}");
    bundle.end();
    assert_eq!(world.stats(), Vec::<Value>::new());
}

#[test]
fn what_the_daemon_launches_is_counted_from_its_first_instruction_on() {
    need!(can_observe(), "a kernel with BTF, and skiff-runtime");
    let world = World { case: Case::with_daemon(), ..World::new() };
    let root = crate::harness::fixture::small_root();
    // One is made ahead by now that nothing has counted.
    world.skiff(&["run", "--rm", root, "probe", "exit", "0"]).output().ok();
    world.skiff(&["observe", "on", "--slots", "16"]).output().ok();
    for _ in 0..3 {
        let calls = ["probe", "calls", "200", "40", "5", "10", "fork", "2"];
        let id = world.skiff(&[&["run", "-d", root], &calls[..]].concat()).output().ok();
        let id = id.trim_end();
        world.skiff(&["wait", id]).output().ok();
        // Its slot is kept for nobody: what is left is its record.
        assert!(crate::peers::world::eventually(|| world.taken() == 0), "a slot is left");
        world.skiff(&["rm", id]).output().ok();
    }
    let id = world.skiff(&["run", "-d", root, "probe", "trap"]).output().ok();
    let id = id.trim_end();
    assert!(crate::peers::world::eventually(|| world.taken() == 1), "it is not seen");
    let profile = world.profile(id);
    assert_eq!(call(&profile, "init", "seccomp")["calls"], 1, "its set-up is counted: {profile}");
    assert_eq!(*call(&profile, "workload", "seccomp"), Value::Null);
    assert!(profile["timeline"]["program_us"].is_number(), "{profile}");
    assert_eq!(world.taken(), 1, "what is made ahead is nobody's business");
    let stats = world.stats();
    let [one] = stats.as_slice() else { panic!("{stats:?}") };
    assert!(one["system_calls"].as_u64() > Some(0), "{one}");
    // The daemon does not know what others have started.
    let mut other = world.bundle(&[]);
    other.wait_ready(&["/bin/probe", "trap"]);
    let named = world.skiff(&["stats", "--no-stream", "--format", "{{.ID}}", &other.id, "nobody"]).output();
    assert_eq!((named.code, named.stdout), (1, format!("{}\n", other.id)));
    assert_eq!(named.stderr, "skiff: no such container: nobody\n");
    other.end();
    world.skiff(&["rm", "-f", id]).output().ok();
    assert!(crate::peers::world::eventually(|| world.taken() == 0), "a slot is left");
}

#[test]
fn what_skiff_runs_itself_is_counted_too() {
    need!(can_observe(), "a kernel with BTF, and skiff-runtime");
    let world = World::with_slots("1");
    let root = crate::harness::fixture::small_root();
    let mut live = world.skiff(&["run", "--rm", "--name", "alone", root, "probe", "trap"]).start();
    live.until("ready");
    let stats = world.stats();
    assert_eq!(stats.len(), 1, "{stats:?}");
    let id = stats[0]["id"].as_str().expect("an id").to_owned();
    let profile = world.profile(&id[..12]);
    assert_eq!(profile["container"]["id"], id.as_str(), "found by how it begins");
    assert_eq!(profile["container"]["name"], "alone");
    // Where no group counts memory, its processes tell.
    assert!(stats[0]["memory_bytes"].as_u64() > Some(4096), "{stats:?}");
    // It is shown as a daemon's is.
    assert_eq!((&stats[0]["name"], &stats[0]["Name"]), (&"alone".into(), &"alone".into()));
    assert!(stats[0]["CPUPerc"].as_str().is_some_and(|cpu| cpu.ends_with('%')), "{stats:?}");
    let shown = |words: &[&str]| world.skiff(&[&["stats", "--no-stream"], words].concat()).output().ok();
    assert_eq!(shown(&["--format", "{{.Name}} {{.ID}}", "--no-trunc", "alone"]), format!("alone {id}\n"));
    let table = shown(&[]);
    assert!(table.contains("NAME") && table.contains("alone") && !table.contains(&id), "{table}");
    let top = parse(&world.skiff(&["top", "--format", "json"]).output().ok());
    let container = &top["containers"][0];
    assert_eq!((&top["schema"], &container["id"]), (&"skiff.top/1".into(), &id.as_str().into()));
    assert!(container["system_calls_per_s"].is_number(), "{top}");
    live.signal(Signal::SIGTERM);
    live.finish();
    assert_eq!(world.taken(), 0);
}

#[test]
fn off_leaves_nothing() {
    need!(can_observe(), "a kernel with BTF, and skiff-runtime");
    let world = World::new();
    let said = world.skiff(&["observe", "on"]).output().ok();
    assert!(said.starts_with("mounted bpf at /sys/fs/bpf\n") && said.contains("slots: 16"), "{said}");
    assert!(world.skiff(&["observe", "on"]).output().ok().contains("slots: 16"), "again is fine");
    world.skiff(&["observe", "on", "--slots", "5"]).output().fails(125, "pinned already, with 16 slots");
    let bundle = world.bundle(&["/bin/probe", "exit", "0"]);
    bundle.create();
    assert_eq!(world.skiff(&["observe", "off"]).output().ok(), "observing is off now\n");
    let left = world.tool(&["find", "/sys/fs/bpf", "-mindepth", "1", "-not", "-name", "*.debug"]).ok();
    assert_eq!(left, "");
    assert_eq!(world.skiff(&["observe"]).output().ok(), "observing is off\n");
    world.skiff(&["stats", "--no-stream"]).output().fails(125, "observing is off");
    bundle.end();
}

#[test]
fn pins_of_another_build_are_refused_and_fail_no_container() {
    need!(can_observe(), "a kernel with BTF, and skiff-runtime");
    let world = World::with_slots("1");
    world.tool(&["sh", "-c", "mv /sys/fs/bpf/skiff/* /sys/fs/bpf/skiff/0123456789abcdef"]).ok();
    for words in [&["stats", "--no-stream"][..], &["observe"], &["observe", "on"], &["profile", "x"]] {
        world.skiff(words).output().fails(125, "/sys/fs/bpf/skiff is of another build of skiff");
    }
    let bundle = world.bundle(&["/bin/probe", "calls", "3", "1", "1", "1"]);
    assert!(!bundle.run().is_empty());
    world.skiff(&["observe", "off"]).output().ok();
}

#[test]
fn what_is_not_understood_is_refused() {
    let case = Case::new();
    for (words, needle) in [
        (&["observe", "up"][..], "unexpected argument: up"),
        (&["observe", "off", "--slots", "3"], "unknown flag: --slots"),
        (&["observe", "on", "--slots", "0"], "not 1 to 4096"),
        (&["observe", "on", "cpu"], "\"cpu\" is none of syscalls, run-queue, block, net, tcp"),
        (&["observe", "on", "net", "tcp"], "unexpected argument: tcp"),
        (&["observe", "show", "--slots", "3"], "unknown flag: --slots"),
        (&["stats", "--nonsense"], "unknown flag: --nonsense"),
        (&["profile"], "no container given"),
        (&["profile", "a", "b"], "unexpected argument: b"),
    ] {
        case.skiff(words).output().fails(125, needle);
    }
}
