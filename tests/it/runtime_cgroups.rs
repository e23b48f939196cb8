//! Two containers that want the same control groups: none takes for its own what the other has.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::harness::live::Live;
use crate::harness::{installed, need, time_limit};
use crate::oci::{Bundle, group};

/// A bundle whose container wants the control groups of another.
fn beside(other: &Bundle) -> Bundle {
    Bundle::with([("/linux/cgroupsPath", format!("/{}", other.id).into())])
}

/// Kills `create` as soon as something is on record of the container.
fn create_that_is_killed(bundle: &mut Bundle) -> i32 {
    bundle.args(&["/bin/probe", "wait"]).write();
    let create = bundle.command(&["create", "--bundle", &bundle.dir.display().to_string(), &bundle.id]);
    let mut strace = Command::new("strace");
    // What follows the record.
    let next = bundle.dir.join("state").join(&bundle.id).join("config.json.new");
    strace.args(["-qq", "-o", "/dev/null", "-e", "inject=?open,openat:signal=SIGKILL", "-P"]).arg(next);
    strace.arg(create.get_program()).args(create.get_args());
    strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Live::spawn(strace, None, time_limit()).finish().code
}

fn directory(bundle: &Bundle) -> PathBuf {
    group("pids", &format!("/{}", bundle.id)).expect("a control group")
}

/// Starts a container that is killed and not deleted: its control groups are there, and empty.
fn ended() -> Bundle {
    let mut bundle = Bundle::new();
    let pid = bundle.wait_ready(&["/bin/probe", "wait"]);
    bundle.kill("KILL");
    bundle.wait(pid);
    bundle
}

#[test]
fn a_create_that_is_refused_a_cgroup_leaves_its_container_alone() {
    let mut first = Bundle::new();
    let pid = first.wait_ready(&["/bin/probe", "wait"]);
    let second = beside(&first);
    let refused = second.try_create(&[]);
    assert!(refused.code > 0 && refused.stderr.contains("is not empty"), "{refused}");
    second.runtime(&["delete", "--force", &second.id]).ok();
    assert_eq!((first.status().as_str(), first.pid()), ("running", pid));
    first.end();
    assert!(!directory(&first).exists());
}

#[test]
fn a_container_that_was_never_born_has_no_claim_to_a_cgroup() {
    need!(installed("strace"), "strace");
    let mut first = Bundle::new();
    let mut second = beside(&first);
    assert_eq!(create_that_is_killed(&mut second), -9);
    assert_eq!(second.status(), "stopped");
    let pid = first.wait_ready(&["/bin/probe", "wait"]);
    second.runtime(&["kill", "--all", &second.id, "KILL"]).ok();
    second.runtime(&["delete", "--force", &second.id]).ok();
    assert_eq!((first.status().as_str(), first.pid()), ("running", pid));
    first.end();
    assert!(!directory(&first).exists());
}

#[test]
fn a_create_that_is_killed_does_not_remove_a_directory_that_was_there() {
    need!(installed("strace"), "strace");
    let mut bundle = Bundle::new();
    let directory = directory(&bundle);
    std::fs::create_dir(&directory).expect("a control group");
    let killed = create_that_is_killed(&mut bundle);
    bundle.runtime(&["delete", "--force", &bundle.id]).ok();
    std::fs::remove_dir(&directory).expect("it is there");
    assert_eq!(killed, -9);
}

#[test]
fn what_is_left_of_a_container_gives_way_to_the_next_in_its_cgroup() {
    for shares_pids in [false, true] {
        let first = ended();
        let mut second = beside(&first);
        if shares_pids {
            second.share("pid");
        }
        let pid = second.wait_ready(&["/bin/probe", "wait"]);
        first.runtime(&["kill", "--all", &first.id, "KILL"]).ok();
        first.delete();
        assert_eq!((second.status().as_str(), second.pid()), ("running", pid));
        second.end();
        remove_found(&first);
    }
}

/// Removes the directories that a second container has found, so that they stay.
fn remove_found(first: &Bundle) {
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    let root = std::iter::once(PathBuf::from("/sys/fs/cgroup"));
    for hierarchy in hierarchies.map(|entry| entry.path()).chain(root) {
        let _was_none = std::fs::remove_dir(hierarchy.join(&first.id));
    }
}

#[test]
fn a_run_that_ends_late_lets_the_next_in_its_cgroup_alone() {
    let mut first = Bundle::new();
    first.args(&["/bin/probe", "wait"]).write();
    let command = first.command(&["run", "--bundle", &first.dir.display().to_string(), &first.id]);
    let run = Live::spawn(command, None, time_limit());
    let pids = || std::fs::read_to_string(directory(&first).join("cgroup.procs")).unwrap_or_default();
    while pids().is_empty() || first.runtime(&["state", &first.id]).code != 0 || first.status() != "running" {
        std::thread::yield_now();
    }
    run.signal(nix::sys::signal::Signal::SIGSTOP);
    let pid = first.pid();
    first.kill("KILL");
    while !pids().is_empty() {
        std::thread::yield_now();
    }
    let mut second = beside(&first);
    let second_pid = second.wait_ready(&["/bin/probe", "wait"]);
    run.signal(nix::sys::signal::Signal::SIGCONT);
    run.finish();
    first.wait(pid);
    assert_eq!((second.status().as_str(), second.pid()), ("running", second_pid));
    second.end();
    remove_found(&first);
}
