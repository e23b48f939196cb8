//! SIGKILL to skiff at every system call it makes, and while the container runs: the next run finds nothing of it left.
//! And each of those calls failing: skiff says so in one line, or does without.

use std::collections::BTreeMap;
use std::fs;

use nix::sys::signal::Signal;

use crate::harness::{Case, fixture, installed, need};

/// Whose system calls.
#[derive(Clone, Copy, PartialEq)]
enum Whose {
    /// Of the process that the caller started.
    Skiffs,
    /// Of the container's first process, until the program takes its place.
    Childs,
}

/// The command that runs skiff under strace.
fn strace<'a>(whose: Whose, log: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let follow: &[&str] = if whose == Whose::Childs { &["-f"] } else { &[] };
    [&["strace", "-qq", "-o", log], follow, more].concat()
}

/// The system calls of a run in order, each with how many of its name there were up to it.
fn calls(case: &Case, whose: Whose, args: &[&str]) -> Vec<(String, usize)> {
    let log = case.dir.join("strace").display().to_string();
    let output = case.skiff(args).through(&strace(whose, &log, &[])).output();
    assert_eq!(output.code, 0, "{output}");
    let log = fs::read_to_string(&log).expect("a log");
    let names = match whose {
        Whose::Skiffs => log.lines().filter_map(name).collect(),
        Whose::Childs => childs_names(&log),
    };
    ordinals(names)
}

/// Each of the names with how many of it there were up to it.
pub(crate) fn ordinals(names: Vec<&str>) -> Vec<(String, usize)> {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let count = |name| {
        let ordinal = seen.entry(name).or_default();
        *ordinal += 1;
        (name.to_owned(), *ordinal)
    };
    names.into_iter().map(count).collect()
}

/// The name at the start of a line of strace's.
pub(crate) fn name(line: &str) -> Option<&str> {
    let (name, _) = line.split_once('(')?;
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_').then_some(name)
}

/// Each line starts with a process id; the child's are those that are not skiff's.
fn childs_names(log: &str) -> Vec<&str> {
    let lines: Vec<(&str, &str)> = log.lines().filter_map(|line| line.split_once(' ')).collect();
    let skiff = lines[0].0;
    let childs =
        lines.iter().filter(|(pid, _)| *pid != skiff).filter_map(|(_, line)| name(line.trim_start()));
    childs.take_while(|name| *name != "execve").collect()
}

/// Runs skiff and kills it when it makes the call `name` for the `ordinal`-th time; false if it came to its end first.
fn is_killed_at(case: &Case, args: &[&str], name: &str, ordinal: usize) -> bool {
    let inject = format!("inject={name}:signal=SIGKILL:when={ordinal}");
    let log = case.dir.join("strace").display().to_string();
    let output = case.skiff(args).through(&strace(Whose::Skiffs, &log, &["-e", &inject])).output();
    assert!([-9, 0].contains(&output.code), "neither killed nor finished: {output}");
    case.note_containers();
    output.code == -9
}

/// Kills a run of `args` at every `step`-th call; after each, another run must work and leave nothing of either.
fn survives_death_anywhere(case: &Case, args: &[&str], next: &[&str], step: usize) {
    let calls = calls(case, Whose::Skiffs, args);
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
    // What is done beside the launch depends on whether a processor is idle, and so do the calls.
    assert!(kills * 4 >= planned * 3, "only {kills} of {planned} kills hit");
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
    let calls = calls(&first, Whose::Skiffs, &words);
    let mut kills = 0;
    for (name, ordinal) in calls.iter().step_by(calls.len() / 40) {
        // An empty store each time, else there is nothing to unpack.
        let case = Case::new();
        kills += usize::from(is_killed_at(&case, &words, name, *ordinal));
        assert_eq!(case.skiff(&words).output().ok(), "lower", "after a kill at {name} number {ordinal}");
    }
    assert!(kills > 30, "only {kills} kills hit");
}

/// Calls whose failure nobody can survive or see: those of the C library's and Rust's own start and end, of memory,
/// those that cannot fail, and unlocking, where a failure is a panic of the library in use.
pub(crate) const BEYOND_HELP: [&str; 26] = [
    "execve",
    "execveat",
    "brk",
    "mmap",
    "munmap",
    "mremap",
    "mprotect",
    "arch_prctl",
    "set_tid_address",
    "set_robust_list",
    "rseq",
    "prlimit64",
    "sigaltstack",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "exit_group",
    "close",
    "poll",
    "madvise",
    "getrandom",
    "sched_getaffinity",
    "geteuid",
    "umask",
    "getegid",
    "flock",
];

/// Makes each call of a run fail in turn. The run succeeds all the same, or ends with one line and the right code;
/// what it could not remove, the next one does.
fn survives_failure_anywhere(case: &Case, whose: Whose, args: &[&str]) {
    let log = case.dir.join("strace").display().to_string();
    let calls = calls(case, whose, args);
    let (mut failed, mut wrong) = (0, Vec::new());
    for (name, ordinal) in calls.iter().filter(|(name, _)| !BEYOND_HELP.contains(&&name[..])) {
        let inject = format!("inject={name}:error=EIO:when={ordinal}");
        let output = case.skiff(args).through(&strace(whose, &log, &["-e", &inject])).output();
        case.note_containers();
        // The write that fails may be that of the message.
        let mute = name == "write" && output.stderr.is_empty();
        let one_line = mute || (output.stderr.starts_with("skiff: ") && output.stderr.lines().count() == 1);
        failed += usize::from(output.code != 0);
        if output.code != 0 && !((125..=127).contains(&output.code) && one_line) {
            wrong.push(format!("{name} number {ordinal}: {output}"));
        }
        let next = case.run(&[], &["true"]);
        let leaks = case.leaks();
        assert!(
            leaks.is_empty(),
            "{name} number {ordinal} fails, and after the next run:\n{}",
            leaks.join("\n")
        );
        if next.code != 0 {
            wrong.push(format!("{name} number {ordinal}, the next run: {next}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} calls:\n{}", wrong.len(), calls.len(), wrong.join("\n"));
    assert!(failed > 10, "only {failed} failures were noticed");
}

#[test]
fn failure_of_any_call_is_one_line_or_nothing() {
    need!(installed("strace"), "strace");
    let case = Case::new();
    let args = ["run", "--rm", "-m", "64m", "--name", "fails", fixture::small_root(), "true"];
    survives_failure_anywhere(&case, Whose::Skiffs, &args);
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
fn failure_of_any_call_of_the_child_is_one_line_or_nothing() {
    need!(installed("strace"), "strace");
    let case = Case::new();
    let data = case.subdir("data");
    let mount = format!("{data}:/data:ro");
    let args = ["run", "--rm", "-v", &mount, "-u", "alice", "-h", "ship", fixture::small_root(), "true"];
    survives_failure_anywhere(&case, Whose::Childs, &args);
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
