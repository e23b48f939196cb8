//! SIGKILL to skiff at every system call it makes, and while the container runs: the next run finds nothing of it left.

use std::collections::BTreeMap;
use std::fs;

use nix::sys::signal::Signal;

use crate::harness::{Case, fixture, installed, need};

/// The system calls of a whole run in order, each with how many of its name there were up to it.
fn calls(case: &Case, args: &[&str]) -> Vec<(String, usize)> {
    let log = case.dir.join("strace").display().to_string();
    let output = case.skiff(args).through(&["strace", "-qq", "-o", &log]).output();
    assert_eq!(output.code, 0, "{output}");
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let log = fs::read_to_string(&log).expect("a log");
    let names = log.lines().filter_map(|line| line.split_once('(')).map(|(name, _)| name);
    let names = names.filter(|name| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'));
    let count = |name: &str| {
        let ordinal = seen.entry(name.into()).or_default();
        *ordinal += 1;
        (name.to_owned(), *ordinal)
    };
    names.map(count).collect()
}

/// Runs skiff and kills it when it makes the call `name` for the `ordinal`-th time; false if it came to its end first.
fn is_killed_at(case: &Case, args: &[&str], name: &str, ordinal: usize) -> bool {
    let inject = format!("inject={name}:signal=SIGKILL:when={ordinal}");
    let log = case.dir.join("strace").display().to_string();
    let output = case.skiff(args).through(&["strace", "-qq", "-o", &log, "-e", &inject]).output();
    assert!([-9, 0].contains(&output.code), "neither killed nor finished: {output}");
    case.note_containers();
    output.code == -9
}

/// Kills a run of `args` at every `step`-th call; after each, another run must work and leave nothing of either.
fn survives_death_anywhere(case: &Case, args: &[&str], next: &[&str], step: usize) {
    let calls = calls(case, args);
    let (mut kills, mut half_made) = (0, 0);
    for (name, ordinal) in calls.iter().step_by(step) {
        if !is_killed_at(case, args, name, *ordinal) {
            continue;
        }
        kills += 1;
        half_made += usize::from(!case.leaks().is_empty());
        let output = case.skiff(next).output();
        assert_eq!(output.code, 0, "after a kill at {name} number {ordinal}: {output}");
        let leaks = case.leaks();
        assert!(
            leaks.is_empty(),
            "killed at {name} number {ordinal}, after the next run:\n{}",
            leaks.join("\n")
        );
    }
    let planned = calls.len() / step;
    assert!(kills * 10 >= planned * 9, "only {kills} of {planned} kills hit");
    assert!(half_made * 10 >= kills, "only {half_made} of {kills} kills left anything to clean up");
}

#[test]
fn death_at_any_call_of_a_plain_run_is_cleaned_up_by_the_next() {
    need!(installed("strace"), "strace");
    let case = Case::new();
    let args = ["run", "--rm", fixture::small_root(), "true"];
    survives_death_anywhere(&case, &args, &args, 1);
}

#[test]
fn death_at_any_call_of_a_run_with_everything_is_cleaned_up_by_the_next() {
    need!(installed("strace"), "strace");
    let case = Case::new();
    let next = ["run", "--rm", fixture::small_root(), "true"];
    let flags = [
        "run",
        "--rm",
        "--init",
        "--name",
        "kept",
        "-m",
        "64m",
        "--cpus",
        "1",
        "--pids-limit",
        "50",
        "-v",
        "/tmp:/mnt",
        "-v",
        "/var/log",
        "--tmpfs",
        "/scratch",
        "--device",
        "/dev/kmsg",
        "--sysctl",
        "net.ipv4.ip_forward=1",
        fixture::small_root(),
        "true",
    ];
    survives_death_anywhere(&case, &flags, &next, 3);
}

#[test]
fn death_at_any_call_of_unpacking_is_cleaned_up_by_the_next() {
    need!(installed("strace") && fixture::has_image_tools(), "strace, umoci, skopeo and zstd");
    let image = format!("oci:{}:plain", fixture::small_image().display());
    let words = ["run", "--rm", &image, "cat", "/data/kept"];
    let first = Case::new();
    let calls = calls(&first, &words);
    let mut kills = 0;
    for (name, ordinal) in calls.iter().step_by(calls.len() / 40) {
        // An empty store each time, else there is nothing to unpack.
        let case = Case::new();
        kills += usize::from(is_killed_at(&case, &words, name, *ordinal));
        assert_eq!(case.skiff(&words).output().ok(), "lower", "after a kill at {name} number {ordinal}");
    }
    assert!(kills > 30, "only {kills} kills hit");
}

#[test]
fn death_while_the_container_runs_takes_it_along() {
    let case = Case::new();
    let mut live = case.command(&["-m", "64m"], &["sh", "-c", "sleep 1000 & probe wait"]).start();
    live.until("ready");
    case.note_containers();
    live.signal(Signal::SIGKILL);
    // Its output ends only when the last of its processes has gone.
    assert_eq!(live.finish().code, -9);
    case.run(&[], &["true"]).ok();
}

#[test]
fn death_of_the_containers_first_process_at_any_call_is_an_ordinary_error() {
    need!(installed("strace"), "strace");
    let case = Case::new();
    let args = ["run", "--rm", fixture::small_root(), "true"];
    let log = case.dir.join("strace").display().to_string();
    for name in [
        "mount",
        "move_mount",
        "fsopen",
        "openat2",
        "pivot_root",
        "mkdirat",
        "prctl",
        "setresuid",
        "seccomp",
        "execve",
        "close_range",
    ] {
        let inject = format!("inject={name}:signal=SIGKILL:when=3+");
        let output = case.skiff(&args).through(&["strace", "-f", "-qq", "-o", &log, "-e", &inject]).output();
        assert_ne!(output.code, 101, "a panic: {output}");
        case.note_containers();
        case.run(&[], &["true"]).ok();
    }
}

#[test]
fn a_run_does_not_clean_up_what_another_still_uses() {
    let case = Case::new();
    let mut live = case.waiting(&["-m", "64m"]);
    for _ in 0..5 {
        case.run(&[], &["true"]).ok();
    }
    live.signal(Signal::SIGUSR1);
    assert_eq!(live.line(), "SIGUSR1");
    live.signal(Signal::SIGTERM);
    live.finish().ok();
}
