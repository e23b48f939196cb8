//! Older kernels: the calls that newer ones bring are denied, and everything must come out the same.

use serde_json::Value;

use crate::harness::{Case, parse};

/// A run with something of everything, without these system calls; returns what the container sees.
fn see_without(calls: &str) -> Value {
    let case = Case::new();
    let data = case.subdir("data");
    let bind = format!("{data}:/data:ro");
    let flags = [
        "-v",
        &bind,
        "-v",
        "/var/log",
        "--tmpfs",
        "/scratch:size=1m",
        "-m",
        "64m",
        "--pids-limit",
        "50",
        "-h",
        "ship",
        "-u",
        "alice",
        "--sysctl",
        "net.ipv4.ip_forward=1",
        "--read-only",
    ];
    let settings: &[&str] = if calls.is_empty() { &[] } else { &[&format!("deny={calls}")] };
    let mut seen = parse(&case.command(&flags, &["probe", "see"]).with(settings).output().ok());
    comparable(&mut seen);
    seen
}

/// Removes what differs from run to run.
fn comparable(seen: &mut Value) {
    for changing in ["namespaces", "rlimits", "fds", "terminal", "clocks"] {
        seen[changing] = Value::Null;
    }
    for (name, value) in seen["status"].as_object_mut().expect("status") {
        let keeps = ["Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "Umask"].contains(&name.as_str())
            || name.starts_with("Cap")
            || name.starts_with("Sig");
        if !keeps || name == "SigQ" {
            *value = Value::Null;
        }
    }
    for mount in seen["mounts"].as_array_mut().expect("mounts") {
        // Overlay names its directories, and bind mounts their place on the host.
        mount["super"] = Value::Null;
        mount["root"] = Value::Null;
    }
    // The kernel lists them by age.
    let mounts = seen["mounts"].as_array_mut().expect("mounts");
    mounts.sort_by_key(|mount| mount["target"].to_string());
}

#[track_caller]
fn same_without(calls: &str) {
    let (modern, old) = (see_without(""), see_without(calls));
    for (part, value) in modern.as_object().expect("an object") {
        assert_eq!(&old[part], value, "{part} differs without {calls}");
    }
}

#[test]
fn without_clone3() {
    same_without("clone3");
}

#[test]
fn without_the_new_mount_calls() {
    same_without("fsopen,fsconfig,fsmount,fspick,move_mount,open_tree,mount_setattr");
}

#[test]
fn without_fsopen() {
    same_without("fsopen");
}

#[test]
fn without_open_tree() {
    same_without("open_tree");
}

#[test]
fn without_mount_setattr() {
    same_without("mount_setattr");
}

#[test]
fn without_move_mount() {
    same_without("move_mount");
}

#[test]
fn without_close_range() {
    same_without("close_range");
}

#[test]
fn without_memfd_create() {
    same_without("memfd_create");
}

#[test]
fn without_openat2_nothing_is_resolved_less_carefully() {
    let case = Case::new();
    let output = case.command(&[], &["probe", "see"]).with(&["deny=openat2"]).output();
    // Linux 5.6 has it: to refuse is right, to follow links is not.
    output.fails(125, "Function not implemented");
}

#[test]
fn without_bpf_devices_are_still_restricted() {
    let case = Case::new();
    let command = ["probe", "try", "node", "/tmp/mem", "c", "1", "1", "open-r", "/tmp/mem"];
    let output = case.command(&[], &command).with(&["deny=bpf"]).output();
    match output.code {
        125 => output.fails(125, "restrict devices"),
        _ => assert_eq!(output.ok(), "ok\nEPERM\n"),
    }
}

#[test]
fn files_open_without_clone3_are_still_three() {
    let case = Case::new();
    let settings = ["deny=clone3,close_range", "fd=9:/etc"];
    let seen = parse(&case.command(&[], &["probe", "see"]).with(&settings).output().ok());
    assert_eq!(seen["fds"].as_object().map(serde_json::Map::len), Some(3), "{}", seen["fds"]);
}
