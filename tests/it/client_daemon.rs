//! The daemon as its clients see it: it comes when it is needed, and its end is not that of containers.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{Case, Output, fixture, installed, need, parse};
use crate::peers::world::eventually;

fn run(case: &Case, words: &[&str]) -> Output {
    case.skiff(words).output()
}

/// The daemon's process id.
fn daemon(case: &Case) -> Pid {
    let pid = run(case, &["version", "--format", "{{.Server.Pid}}"]).ok();
    Pid::from_raw(pid.trim_end().parse().expect("a number"))
}

#[test]
fn clients_that_come_together_start_one_daemon() {
    let case = Case::with_daemon();
    let words = ["version", "--format", "{{.Server.Pid}}"];
    let clients: Vec<_> = (0..8).map(|_| case.skiff(&words).start()).collect();
    let pids: Vec<String> = clients.into_iter().map(|client| client.finish().ok()).collect();
    assert!(pids.iter().all(|pid| *pid == pids[0]), "{pids:?}");
    let versions = parse(&run(&case, &["version", "--format", "json"]).ok());
    assert_eq!(versions["Client"]["Version"], versions["Server"]["Version"]);
}

#[test]
fn containers_outlive_a_daemon_that_is_killed() {
    let case = Case::with_daemon();
    let script = "echo before; read line; echo after; exit 9";
    run(&case, &["run", "-d", "-i", "--name", "web", fixture::small_root(), "sh", "-c", script]).ok();
    let pid = run(&case, &["inspect", "-f", "{{.State.Pid}}", "web"]).ok();
    kill(daemon(&case), Signal::SIGKILL).expect("it runs");
    assert!(eventually(|| run(&case, &["ps", "--format", "{{.Names}} {{.State}}"]).ok() == "web running\n"));
    assert_eq!(run(&case, &["inspect", "-f", "{{.State.Pid}}", "web"]).ok(), pid, "the same process");
    case.skiff(&["attach", "web"]).stdin(b"go\n").output();
    assert_eq!(run(&case, &["wait", "web"]).ok(), "9\n");
    assert_eq!(run(&case, &["logs", "web"]).ok(), "before\nafter\n");
}

#[test]
fn who_waits_for_a_container_learns_its_code_although_the_daemon_is_killed() {
    let case = Case::with_daemon();
    let told = case.dir.join("id").display().to_string();
    let script = "echo ready; read line; exit 9";
    let words = ["run", "-i", "--cidfile", &told, "--name", "web", fixture::small_root(), "sh", "-c", script];
    let mut live = case.skiff(&words).stdin_open().start();
    live.until("ready");
    // The program may be ahead of what the daemon tells the client of its start.
    assert!(eventually(|| fs::read_to_string(&told).is_ok_and(|id| !id.is_empty())));
    kill(daemon(&case), Signal::SIGKILL).expect("it runs");
    live.send(b"go\n");
    let output = live.finish();
    assert_eq!(output.code, 9, "{output}");
}

#[test]
fn a_daemon_that_is_asked_to_leave_leaves_containers_to_the_next() {
    let case = Case::with_daemon();
    run(&case, &["run", "-d", "--name", "web", fixture::small_root(), "probe", "trap"]).ok();
    let first = daemon(&case);
    run(&case, &["daemon", "--stop"]).ok();
    run(&case, &["daemon", "--stop"]).fails(1, "no daemon is there");
    assert_ne!(daemon(&case), first);
    assert_eq!(run(&case, &["stop", "web"]).ok(), "web\n");
    assert_eq!(run(&case, &["inspect", "-f", "{{.State.ExitCode}}", "web"]).ok(), "0\n");
}

#[test]
fn a_daemon_that_was_started_on_demand_leaves_when_it_is_idle() {
    let case = Case::with_daemon();
    let words = ["run", "--rm", fixture::small_root(), "true"];
    case.skiff(&words).env("SKIFF_IDLE_TIMEOUT_S", "1").output().ok();
    assert!(eventually(|| !case.run.join("skiff.sock").exists()));
}

#[test]
fn a_daemon_that_is_asked_now_and_then_does_not_leave() {
    let case = Case::with_daemon();
    let ask = || {
        let words = ["run", "--rm", fixture::small_root(), "true"];
        case.skiff(&words).env("SKIFF_IDLE_TIMEOUT_S", "1").output().ok();
        daemon(&case)
    };
    let first = ask();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        // It is about time: idle for less than the timeout, over and over.
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(ask(), first, "another daemon after {:?}", begun.elapsed());
    }
}

#[test]
fn a_second_daemon_and_a_place_that_cannot_be_are_refused() {
    let case = Case::with_daemon();
    run(&case, &["ps"]).ok();
    run(&case, &["daemon"]).fails(1, "a daemon runs already");
    let nowhere = case.skiff(&["ps"]).env("SKIFF_RUN_ROOT", "/dev/null/run").output();
    nowhere.fails(1, "/dev/null/run");
    let nowhere =
        case.skiff(&["ps"]).env("SKIFF_ROOT", "/dev/null/state").env("SKIFF_RUN_ROOT", case.subdir("other"));
    nowhere.output().fails(1, "start the daemon");
}

#[test]
fn a_start_that_a_killed_daemon_has_not_noted_is_undone() {
    let case = Case::with_daemon();
    let id = run(&case, &["run", "-d", "--name", "web", fixture::small_root(), "sleep", "1000"]).ok();
    let pid = run(&case, &["inspect", "-f", "{{.State.Pid}}", "web"]).ok();
    // As if the daemon had been killed before it could write that the container runs.
    let path = case.state.join("containers").join(id.trim_end()).join("container.json");
    let mut record = parse(&std::fs::read_to_string(&path).expect("a record"));
    record["state"] = "created".into();
    record["process"] = serde_json::Value::Null;
    std::fs::write(&path, record.to_string()).expect("write");
    let gone = std::path::Path::new("/proc").join(pid.trim_end());
    kill(daemon(&case), Signal::SIGKILL).expect("it runs");
    assert!(eventually(|| run(&case, &["start", "web"]).code == 0));
    assert!(!gone.exists(), "it runs twice");
    run(&case, &["rm", "-f", "web"]).ok();
}

#[test]
fn what_was_stopped_stays_so_when_a_client_brings_the_daemon_back() {
    let case = Case::with_daemon();
    let words = ["run", "-d", "--name", "web", "--restart", "always", fixture::small_root(), "sleep", "1000"];
    let state = || run(&case, &["inspect", "-f", "{{.State.Status}}", "web"]).ok();
    run(&case, &words).ok();
    run(&case, &["stop", "-t", "0", "web"]).ok();
    run(&case, &["daemon", "--stop"]).ok();
    assert_eq!(state(), "exited\n");
    run(&case, &["start", "web"]).ok();
    // A daemon that somebody starts as such brings it up.
    run(&case, &["stop", "-t", "0", "web"]).ok();
    run(&case, &["daemon", "--stop"]).ok();
    let daemon = case.skiff(&["daemon"]).start();
    assert!(eventually(|| case.run.join("skiff.sock").exists()));
    assert!(eventually(|| state() == "running\n"));
    run(&case, &["rm", "-f", "web"]).ok();
    run(&case, &["daemon", "--stop"]).ok();
    assert_eq!(daemon.finish().code, 0);
}

#[test]
fn a_daemon_stays_for_a_container_that_is_to_be_started_again() {
    let case = Case::with_daemon();
    let program = [fixture::small_root(), "sh", "-c", "exit 3"];
    let words = [&["run", "-d", "--name", "web", "--restart", "on-failure:5"][..], &program].concat();
    let id = case.skiff(&words).env("SKIFF_IDLE_TIMEOUT_S", "1").output().ok();
    // Nobody asks meanwhile; the last pause is longer than a daemon without work stays.
    let path = case.state.join("containers").join(id.trim_end()).join("container.json");
    let record = || parse(&std::fs::read_to_string(&path).expect("a record"));
    assert!(eventually(|| record()["restart_count"] == 5 && record()["state"] == "exited"));
    assert!(eventually(|| !case.run.join("skiff.sock").exists()));
    run(&case, &["rm", "web"]).ok();
}

#[test]
fn containers_have_the_limit_of_open_files_that_the_daemon_was_started_with() {
    let case = Case::with_daemon();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    // Other tests have hardly less.
    setrlimit(Resource::RLIMIT_NOFILE, hard - 1, hard).expect("lower it");
    let words = ["run", "--rm", fixture::small_root(), "sh", "-c", "ulimit -Sn; ulimit -Hn"];
    assert_eq!(run(&case, &words).ok(), format!("{}\n{hard}\n", hard - 1));
}

#[test]
fn containers_have_nothing_of_the_scheduling_of_whoever_started_the_daemon() {
    need!(installed("nice") && installed("taskset") && installed("choom"), "nice, taskset and choom");
    let case = Case::with_daemon();
    let script =
        "cat /proc/self/oom_score_adj; cut -d' ' -f19 /proc/self/stat; grep Cpus_allowed: /proc/self/status";
    let words = ["run", "--rm", fixture::small_root(), "sh", "-c", script];
    let usual = run(&case, &words).ok();
    run(&case, &["daemon", "--stop"]).ok();
    let wrappers = ["choom", "-n", "300", "--", "nice", "-n", "5", "taskset", "-c", "0"];
    assert_eq!(case.skiff(&words).through(&wrappers).output().ok(), usual);
}

#[test]
fn users_are_those_of_the_tree_as_it_is_now() {
    let case = Case::with_daemon();
    let root = case.own_root();
    for uid in ["33", "44"] {
        std::fs::write(root.join("etc/passwd"), format!("web:x:{uid}:33::/:\n")).expect("write");
        for _made_ahead in [false, true] {
            let output = case.run_root(&root, &["--user", "web"], &["sh", "-c", "cat /proc/self/status"]);
            let text = output.ok();
            let found = text.lines().find_map(|line| line.strip_prefix("Uid:"));
            assert_eq!(found.and_then(|line| line.split_whitespace().next()), Some(uid));
        }
    }
}
