//! Namespaces: of the container's own by default, the host's where asked for.

use std::fs;

use crate::harness::Case;

/// The namespace of this process, as `probe see` names them.
fn ours(name: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{name}")).expect("a namespace").display().to_string()
}

/// Asserts that exactly these namespaces are the host's.
#[track_caller]
fn shares(flags: &[&str], shared: &[&str]) {
    let case = Case::new();
    let seen = case.see(flags);
    for name in ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"] {
        assert_eq!(seen["namespaces"][name] == ours(name), shared.contains(&name), "{name} with {flags:?}");
    }
}

#[test]
fn every_namespace_but_user_and_time_is_private() {
    shares(&[], &["time", "user"]);
}

#[test]
fn each_namespace_can_be_the_hosts() {
    shares(&["--pid", "host"], &["time", "user", "pid"]);
    shares(&["--ipc", "host"], &["time", "user", "ipc"]);
    shares(&["--uts=host"], &["time", "user", "uts"]);
    shares(&["--network", "host"], &["time", "user", "net"]);
    shares(&["--cgroupns", "host"], &["time", "user", "cgroup"]);
    shares(&["--cgroupns=private", "--network=none", "--ipc=private"], &["time", "user"]);
}

#[test]
fn a_private_pid_namespace_shows_only_the_container() {
    let case = Case::new();
    assert_eq!(case.see(&[])["processes"], serde_json::json!(["1"]));
    let seen = case.see(&["--pid=host"]);
    let us = std::process::id().to_string();
    assert!(seen["processes"].as_array().expect("processes").iter().any(|pid| *pid == us[..]));
    assert_ne!(seen["ids"]["pid"], 1);
}

#[test]
fn network_none_has_only_a_loopback_that_works() {
    let case = Case::new();
    assert_eq!(case.see(&["--network", "none"])["interfaces"], serde_json::json!(["lo"]));
    assert_eq!(case.see(&[])["interfaces"], serde_json::json!(["lo"]));
    let up = case.run(&[], &["ip", "addr", "show", "lo"]).ok();
    assert!(up.contains("127.0.0.1/8") && up.contains("LOOPBACK,UP"), "{up}");
    let talk = "echo hi | nc -l -p 7 > /tmp/got & until nc -w 1 127.0.0.1 7 < /dev/null 2> /dev/null; do :; done; wait; cat /tmp/got";
    case.run(&[], &["sh", "-c", talk]).ok();
}

#[test]
fn uts_host_keeps_the_hosts_name() {
    let case = Case::new();
    let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
    assert_eq!(case.run(&["--uts", "host"], &["hostname"]).ok(), host);
    case.run(&["--uts=host", "--hostname", "ship"], &["true"]).fails(125, "hostname");
}

#[test]
fn a_private_cgroup_namespace_hides_the_path() {
    let case = Case::new();
    let lines = case.see(&[])["cgroup"].as_str().expect("text").to_owned();
    assert!(lines.lines().all(|line| line.ends_with(":/")), "{lines}");
}

#[test]
fn unknown_namespaces_are_refused() {
    let case = Case::new();
    case.run(&["--pid", "container:abc"], &["true"]).fails(125, "container:abc");
    case.run(&["--network", "bridge"], &["true"]).fails(125, "bridge");
    case.run(&["--ipc", "shareable-ish"], &["true"]).fails(125, "shareable-ish");
}

#[test]
fn host_image_sees_the_hosts_programs_and_changes_nothing() {
    let case = Case::new();
    // On the file system of the root; what is mounted below, /tmp perhaps, is not the container's.
    let marker = format!("/written-inside-{}", std::process::id());
    let script = format!("ls /bin > /dev/null && echo x > {marker} && echo done");
    let output = case.skiff(&["run", "--rm", "host", "sh", "-c", &script]).output();
    assert_eq!(output.ok(), "done\n");
    assert!(fs::remove_file(&marker).is_err(), "a write inside reached the host");
}
