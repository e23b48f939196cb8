//! `skiff top`: the processes of one container as docker lists them, and all containers on a terminal.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::harness::pty::Terminal;
use crate::harness::{Case, Skiff, fixture, need, parse};
use crate::peers::world::eventually;

/// A container that runs, by a daemon.
fn running(case: &Case, name: &str) {
    let words = ["run", "-d", "--name", name, fixture::small_root(), "probe", "trap", "TERM"];
    case.skiff(&words).output().ok();
}

fn top(case: &Case, rows: u16, columns: u16) -> Terminal {
    Terminal::start(&case.skiff(&["top"]).env("TERM", "xterm-256color"), rows, columns)
}

#[test]
fn the_processes_of_a_container_are_those_that_ps_knows() {
    // Not every ps has columns to choose.
    let is_procps = Skiff::tool(&["ps", "--version"]).output().stdout.contains("procps");
    need!(is_procps, "ps of procps");
    let case = Case::with_daemon();
    running(&case, "one");
    running(&case, "other");
    let listed = case.skiff(&["top", "one"]).output().ok();
    assert!(listed.starts_with("UID "), "{listed}");
    assert_eq!(listed.matches("probe trap").count(), 1, "{listed}");
    let pid = case.skiff(&["inspect", "--format", "{{.State.Pid}}", "one"]).output().ok();
    let columns = case.skiff(&["top", "one", "-o", "pid,comm"]).output().ok();
    let lines: Vec<Vec<&str>> = columns.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines, [vec!["PID", "COMMAND"], vec![pid.trim(), "probe"]]);
    case.skiff(&["container", "top", "one", "-eo", "pid"]).output().ok();
    case.skiff(&["top", "one", "-o", "comm"]).output().fails(1, "no column PID");
    case.skiff(&["top", "one", "--nonsense"]).output().fails(1, "ps --nonsense");
    case.skiff(&["top", "nobody"]).output().fails(1, "no such container: nobody");
    case.skiff(&["top", "--nonsense"]).output().fails(125, "unknown flag: --nonsense");
}

#[test]
fn programs_are_told_what_is_shown() {
    let is_procps = Skiff::tool(&["ps", "--version"]).output().stdout.contains("procps");
    let case = Case::with_daemon();
    running(&case, "one");
    running(&case, "other");
    let all = parse(&case.skiff(&["top", "--format", "json"]).output().ok());
    assert_eq!(all["schema"], "skiff.top/1");
    let mut containers = all["containers"].as_array().expect("a list").clone();
    containers.sort_by_key(|one| one["name"].to_string());
    let names: Vec<&Value> = containers.iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["one", "other"]);
    for container in &containers {
        assert_eq!((&container["image"], &container["tasks"]), (&fixture::small_root().into(), &1.into()));
        assert!(container["cpu_percent"].is_number() && container["id"].is_string(), "{container}");
        assert_eq!(container["system_calls_per_s"], Value::Null, "nobody counts them");
    }
    case.skiff(&["top", "--format", "xml"]).output().fails(125, "neither text nor json");
    need!(is_procps, "ps of procps");
    let pid = case.skiff(&["inspect", "--format", "{{.State.Pid}}", "one"]).output().ok();
    let listed = parse(&case.skiff(&["top", "--format", "json", "one", "-o", "pid,args"]).output().ok());
    let expected = json!({"Titles": ["PID", "COMMAND"], "Processes": [[pid.trim(), "probe trap TERM"]]});
    assert_eq!(listed, expected);
}

#[test]
fn without_a_terminal_or_a_source_there_is_one_line() {
    let case = Case::new();
    case.skiff(&["top"]).output().fails(1, "needs a terminal");
    case.skiff(&["top", "--format", "json"]).output().fails(1, "nothing is known");
    let (code, screen) = top(&case, 24, 80).finish();
    assert_eq!(code, 1);
    assert_eq!(screen.trim(), "skiff: top: no daemon runs, and observing is off: nothing is known");
    assert!(!case.run.join("skiff.sock").exists(), "no daemon is started for it");
}

#[test]
fn containers_are_shown_filtered_and_looked_into() {
    let case = Case::with_daemon();
    running(&case, "busy-bee");
    running(&case, "sleeper");
    let mut terminal = top(&case, 30, 150);
    terminal.see(30, 150, &|seen| {
        ["2 containers", "busy-bee", "sleeper", "CPU %"].iter().all(|text| seen.contains(text))
    });
    assert!(terminal.is_raw());
    terminal.send(b"/bee\r");
    terminal.see(30, 150, &|seen| seen.contains("1 of 2 containers") && !seen.contains("sleeper"));
    terminal.send(b"?");
    terminal.see(30, 150, &|seen| seen.contains("choose a container"));
    terminal.send(b"?\r");
    let inside = terminal.see(30, 150, &|seen| seen.contains("CPU TIME") && seen.contains("probe"));
    assert!(inside.contains("memory limit none") && !inside.contains("choose a container"), "{inside}");
    terminal.resize(12, 60);
    terminal.send(b"p");
    terminal.see(12, 60, &|seen| seen.contains("PAUSED"));
    terminal.send(b"q");
    let (code, screen) = terminal.finish();
    assert_eq!(code, 0);
    assert!(screen.ends_with("\x1b[?25h") || screen.contains("\x1b[?1049l"), "{screen:?}");
}

#[test]
fn the_terminal_is_as_before_after_a_signal() {
    let case = Case::with_daemon();
    running(&case, "sleeper");
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGHUP, 129)] {
        let mut terminal = top(&case, 24, 120);
        terminal.see(24, 120, &|seen| seen.contains("sleeper"));
        terminal.signal(signal);
        assert_eq!(terminal.wait(), code);
        assert!(!terminal.is_raw());
        terminal.see(24, 120, &|seen| !seen.contains("sleeper"));
    }
}

#[test]
fn it_ends_when_the_daemon_does_not_answer() {
    let case = Case::with_daemon();
    running(&case, "sleeper");
    let pid = case.skiff(&["version", "--format", "{{.Server.Pid}}"]).output().ok();
    let daemon = Pid::from_raw(pid.trim().parse().expect("a number"));
    let mut terminal = top(&case, 24, 120);
    terminal.see(24, 120, &|seen| seen.contains("sleeper"));
    kill(daemon, Signal::SIGSTOP).expect("stop");
    terminal.see(24, 120, &|seen| seen.contains("the daemon does not answer"));
    terminal.send(b"\x03");
    let code = terminal.wait();
    kill(daemon, Signal::SIGCONT).expect("continue");
    assert_eq!(code, 0);
    assert!(!terminal.is_raw());
}

#[test]
fn it_stops_and_goes_on() {
    let case = Case::with_daemon();
    running(&case, "sleeper");
    let mut terminal = top(&case, 24, 120);
    for stop in [None, Some(Signal::SIGTSTP)] {
        terminal.see(24, 120, &|seen| seen.contains("sleeper"));
        match stop {
            None => terminal.send(b"\x1a"),
            Some(signal) => terminal.signal(signal),
        }
        terminal.see(24, 120, &|seen| !seen.contains("sleeper"));
        assert!(eventually(|| terminal.is_stopped()));
        assert!(!terminal.is_raw());
        terminal.signal(Signal::SIGCONT);
    }
    terminal.see(24, 120, &|seen| seen.contains("sleeper"));
    terminal.send(b"\x03");
    assert_eq!(terminal.wait(), 0);
    assert!(!terminal.is_raw());
}
