//! SIGKILL to skiff at every system call it makes, and while the container runs: the next run finds nothing of it left.

use nix::sys::signal::Signal;

use crate::harness::{Case, Output, fixture, installed, need};

/// Runs skiff under strace, which kills it when it enters its `n`-th system call. A code of −9 means it came so far.
fn killed_at(case: &Case, n: usize, args: &[&str]) -> Output {
    let inject = format!("inject=all:signal=SIGKILL:when={n}");
    let log = case.dir.join("strace").display().to_string();
    case.skiff(args).through(&["strace", "-qq", "-o", &log, "-e", &inject]).output()
}

/// Kills a run of `args` at every `step`-th call; after each, another run must work and leave nothing of either.
fn survives_death_anywhere(args: &[&str], step: usize) {
    let case = Case::new();
    let mut kills = 0;
    for n in (1..).step_by(step) {
        let output = killed_at(&case, n, args);
        if output.code == 0 {
            break;
        }
        assert!(output.code == -9 || output.code == 128 + 9, "neither killed nor finished: {output}");
        kills += 1;
        case.note_containers();
        case.run(&[], &["true"]).ok();
        let leaks = case.leaks();
        assert!(leaks.is_empty(), "killed at call {n}, and after the next run:\n{}", leaks.join("\n"));
    }
    assert!(kills > 5, "only {kills} kills: is skiff traced at all?");
}

#[test]
fn death_at_any_call_of_a_plain_run_is_cleaned_up_by_the_next() {
    need!(installed("strace"), "strace");
    survives_death_anywhere(&["run", "--rm", fixture::small_root(), "true"], 1);
}

#[test]
fn death_at_any_call_of_a_run_with_everything_is_cleaned_up_by_the_next() {
    need!(installed("strace"), "strace");
    let flags = [
        "run",
        "--rm",
        "--init",
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
    survives_death_anywhere(&flags, 3);
}

#[test]
fn death_at_any_call_of_unpacking_leaves_a_usable_store() {
    need!(installed("strace") && fixture::has_image_tools(), "strace, umoci, skopeo and zstd");
    let image = format!("oci:{}:plain", fixture::small_image().display());
    let case = Case::new();
    let words = ["run", "--rm", &image, "cat", "/data/kept"];
    for n in (1..).step_by(97) {
        let output = killed_at(&case, n, &words);
        case.note_containers();
        if output.code == 0 {
            break;
        }
        if n % 5 == 1 {
            assert_eq!(case.skiff(&words).output().ok(), "lower", "after a kill at call {n}");
            std::fs::remove_dir_all(&case.state).expect("empty the store");
        }
    }
    case.skiff(&words).output().ok();
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
