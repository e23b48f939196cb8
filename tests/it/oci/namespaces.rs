//! config-linux.md: namespaces and the mappings of users.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

use super::Bundle;
use super::hosting::{claimed, claims};

/// The name of a kind in the configuration and in `/proc/PID/ns`.
const KINDS: [(&str, &str); 8] = [
    ("cgroup", "cgroup"),
    ("ipc", "ipc"),
    ("mount", "mnt"),
    ("network", "net"),
    ("pid", "pid"),
    ("time", "time"),
    ("user", "user"),
    ("uts", "uts"),
];

fn link(pid: &str, name: &str) -> String {
    fs::read_link(format!("/proc/{pid}/ns/{name}")).expect("a namespace").display().to_string()
}

fn file(kind: &str) -> &'static str {
    KINDS.iter().find(|(name, _)| *name == kind).expect("a kind").1
}

fn map(host: u32) -> Value {
    json!([{ "containerID": 0, "hostID": host, "size": 65536 }])
}

/// Adds a user namespace in which ids are those of the host from 100000 on.
fn map_users(bundle: &mut Bundle) {
    bundle.set("/linux/namespaces/-", json!({ "type": "user" }));
    bundle.set("/linux/uidMappings", map(100_000)).set("/linux/gidMappings", map(200_000));
}

#[track_caller]
fn is_new(kind: &str) {
    let mut bundle = Bundle::new();
    bundle.share(kind);
    match kind {
        "user" => map_users(&mut bundle),
        _ => drop(bundle.set("/linux/namespaces/-", json!({ "type": kind }))),
    }
    let seen = bundle.see();
    assert_ne!(seen["namespaces"][file(kind)], link("self", file(kind)));
}

#[track_caller]
fn is_shared(kind: &str) {
    let seen = Bundle::new().share(kind).see();
    assert_eq!(seen["namespaces"][file(kind)], link("self", file(kind)));
}

/// Asserts that a container can join this namespace of another one.
#[track_caller]
fn is_joined(kind: &str) {
    let mut first = Bundle::new();
    first.share(kind);
    match kind {
        "user" => map_users(&mut first),
        _ => drop(first.set("/linux/namespaces/-", json!({ "type": kind }))),
    }
    let pid = first.wait_ready(&["/bin/probe", "wait"]);
    let path = format!("/proc/{pid}/ns/{}", file(kind));
    let mut second = Bundle::new();
    second.share(kind).set("/linux/namespaces/-", json!({ "type": kind, "path": path }));
    let seen = second.see();
    let expected = link(&pid.to_string(), file(kind));
    first.end();
    assert_eq!(seen["namespaces"][file(kind)], expected);
    assert_ne!(seen["namespaces"][file(kind)], link("self", file(kind)));
}

macro_rules! kinds {
    ($($new:ident, $shared:ident, $joined:ident: $kind:expr;)*) => {
        $(#[test]
        fn $new() {
            is_new($kind);
        }

        #[test]
        fn $shared() {
            is_shared($kind);
        }

        #[test]
        fn $joined() {
            is_joined($kind);
        })*
    };
}

kinds! {
    cgroup_is_new_if_listed, cgroup_is_the_runtimes_otherwise, cgroup_is_joined_by_path: "cgroup";
    ipc_is_new_if_listed, ipc_is_the_runtimes_otherwise, ipc_is_joined_by_path: "ipc";
    network_is_new_if_listed, network_is_the_runtimes_otherwise, network_is_joined_by_path: "network";
    pid_is_new_if_listed, pid_is_the_runtimes_otherwise, pid_is_joined_by_path: "pid";
    uts_is_new_if_listed, uts_is_the_runtimes_otherwise, uts_is_joined_by_path: "uts";
}

#[test]
fn mount_is_new_if_listed() {
    is_new("mount");
}

#[test]
fn mount_is_joined_by_path() {
    // Before the holder, so that it looks for what is left when that is gone.
    let mut bundle = Bundle::new();
    let mut holder = std::process::Command::new("unshare");
    holder.args(["--mount", "--propagation", "private", "sleep", "1000"]);
    let mut holder = Holder(holder.spawn().expect("start unshare"));
    let path = format!("/proc/{}/ns/mnt", holder.0.id());
    holder.await_own("mnt");
    bundle.share("mount").set("/linux/namespaces/-", json!({ "type": "mount", "path": path }));
    let seen = bundle.see();
    let expected = link(&holder.0.id().to_string(), "mnt");
    assert_eq!(seen["namespaces"]["mnt"], expected);
    assert_ne!(seen["namespaces"]["mnt"], link("self", "mnt"));
}

/// A process that keeps a namespace; it ends with this.
#[derive(Debug)]
struct Holder(std::process::Child);

impl Holder {
    /// Waits until it has left our namespace of this name.
    fn await_own(&mut self, name: &str) {
        let deadline = std::time::Instant::now() + crate::harness::time_limit();
        while link(&self.0.id().to_string(), name) == link("self", name) {
            assert!(std::time::Instant::now() < deadline, "unshare does not");
            std::thread::yield_now();
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[test]
fn user_is_new_if_listed() {
    is_new("user");
}

#[test]
fn user_is_the_runtimes_otherwise() {
    is_shared("user");
}

#[test]
fn user_is_joined_by_path() {
    is_joined("user");
}

#[test]
fn time_is_new_if_listed() {
    claimed!(claims("/linux/namespaces", "time"), "time namespaces");
    is_new("time");
}

#[test]
fn time_is_the_runtimes_otherwise() {
    is_shared("time");
}

#[test]
fn time_is_joined_by_path() {
    claimed!(claims("/linux/namespaces", "time"), "time namespaces");
    is_joined("time");
}

#[test]
fn several_namespaces_are_joined_at_once() {
    let mut first = Bundle::with([("/hostname", json!("pod"))]);
    let pid = first.wait_ready(&["/bin/probe", "wait"]);
    let mut second = Bundle::new();
    for kind in ["network", "ipc", "uts", "pid"] {
        let path = format!("/proc/{pid}/ns/{}", file(kind));
        second.share(kind).set("/linux/namespaces/-", json!({ "type": kind, "path": path }));
    }
    let seen = second.see();
    first.end();
    assert_eq!(seen["hostname"], "pod");
    assert_eq!(seen["processes"].as_array().map(Vec::len), Some(2), "{}", seen["processes"]);
}

#[test]
fn the_program_is_process_one_of_its_own_pid_namespace() {
    let seen = Bundle::new().see();
    assert_eq!((&seen["ids"]["pid"], &seen["processes"]), (&json!(1), &json!(["1"])));
}

#[test]
fn the_networks_of_containers_are_apart() {
    let names = Bundle::new().see()["interfaces"].take();
    assert_eq!(names, json!(["lo"]));
}

#[test]
fn the_cgroup_namespace_hides_the_path() {
    let seen = Bundle::new().see();
    let lines = seen["cgroup"].as_str().expect("text");
    // Hierarchies in which the container has no group of its own show the runtime's.
    assert!(lines.lines().any(|line| line.ends_with(":/")), "{lines}");
    assert!(!lines.contains("/oci-"), "{lines}");
}

#[test]
fn a_namespace_listed_twice_is_an_error() {
    Bundle::with([("/linux/namespaces/-", json!({ "type": "uts" }))]).create_fails();
}

#[test]
fn an_unknown_namespace_is_an_error() {
    Bundle::with([("/linux/namespaces/-", json!({ "type": "colour" }))]).wrong().create_fails();
}

#[test]
fn a_namespace_of_another_kind_is_an_error() {
    for (kind, other) in
        [("network", "uts"), ("uts", "ipc"), ("ipc", "net"), ("pid", "net"), ("cgroup", "uts")]
    {
        let mut bundle = Bundle::new();
        let path = format!("/proc/{}/ns/{other}", std::process::id());
        bundle.share(kind).set("/linux/namespaces/-", json!({ "type": kind, "path": path })).create_fails();
    }
}

#[test]
fn a_file_that_is_no_namespace_is_an_error() {
    let mut bundle = Bundle::new();
    let path = bundle.file("plain", "");
    bundle
        .share("network")
        .set("/linux/namespaces/-", json!({ "type": "network", "path": path }))
        .create_fails();
}

#[test]
fn a_missing_namespace_is_an_error() {
    let mut bundle = Bundle::new();
    let entry = json!({ "type": "network", "path": "/no/such/namespace" });
    bundle.share("network").set("/linux/namespaces/-", entry).create_fails();
}

#[test]
fn a_relative_path_of_a_namespace_is_an_error() {
    let mut bundle = Bundle::new();
    let entry =
        json!({ "type": "uts", "path": format!("../../../../../../proc/{}/ns/uts", std::process::id()) });
    bundle.share("uts").set("/linux/namespaces/-", entry).create_fails();
}

#[test]
fn users_are_mapped() {
    let mut bundle = Bundle::new();
    map_users(&mut bundle);
    let pid = bundle.wait_ready(&["/bin/probe", "wait"]);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    bundle.end();
    let line =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
    assert_eq!(
        (line("Uid:").split('\t').next(), line("Gid:").split('\t').next()),
        (Some("100000"), Some("200000"))
    );
}

#[test]
fn mappings_are_what_is_asked_for() {
    let mut bundle = Bundle::new();
    map_users(&mut bundle);
    let ranges = json!([
        { "containerID": 0, "hostID": 100_000, "size": 1000 }, { "containerID": 1000, "hostID": 300_000, "size": 64536 },
    ]);
    bundle.set("/linux/uidMappings", ranges);
    let seen = bundle.see();
    let words = |name: &str| -> Vec<Vec<u32>> {
        let lines = seen["id_maps"][name].as_str().expect("text").lines();
        lines.map(|line| line.split_whitespace().filter_map(|word| word.parse().ok()).collect()).collect()
    };
    assert_eq!(words("uid"), [[0, 100_000, 1000], [1000, 300_000, 64536]]);
    assert_eq!(words("gid"), [[0, 200_000, 65536]]);
}

#[test]
fn a_user_of_the_process_is_one_of_its_namespace() {
    let mut bundle = Bundle::new();
    map_users(&mut bundle);
    bundle.set("/process/user", json!({ "uid": 1234, "gid": 4321, "additionalGids": [777] }));
    let seen = bundle.see();
    assert_eq!(
        [&seen["ids"]["uid"], &seen["ids"]["gid"], &seen["status"]["Groups"]],
        [&json!(1234), &json!(4321), &json!("777")]
    );
}

#[test]
fn files_of_unmapped_users_keep_their_owners() {
    let mut bundle = Bundle::new();
    map_users(&mut bundle);
    assert_eq!(bundle.attempt(&["stat", "/bin/probe"]), ["- 0755 65534:65534"]);
    let owner =
        std::os::unix::fs::MetadataExt::uid(&fs::metadata(bundle.inside("/bin/probe")).expect("it is there"));
    assert_eq!(owner, 0);
}

#[test]
fn devices_and_file_systems_are_there_with_mapped_users_too() {
    let mut bundle = Bundle::new();
    map_users(&mut bundle);
    let seen = bundle.see();
    let targets: BTreeMap<&str, &Value> = seen["mounts"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|it| Some((it["target"].as_str()?, &it["type"])))
        .collect();
    for (target, kind) in [("/proc", "proc"), ("/sys", "sysfs"), ("/dev", "tmpfs"), ("/dev/pts", "devpts")] {
        assert_eq!(targets.get(target), Some(&&json!(kind)), "{target}");
    }
    assert!(
        seen["dev"]["/dev/null"].as_str().is_some_and(|it| it.starts_with("c 1:3 ")),
        "{}",
        seen["dev"]["/dev/null"]
    );
}

/// How far the container's clocks are ahead of ours, to the second.
fn ahead(seen: &Value, clock: &str, own: nix::time::ClockId) -> i64 {
    let own = nix::time::clock_gettime(own).expect("our own clock").tv_sec();
    seen["clocks"][clock].as_i64().expect("a number") - own
}

#[test]
fn clocks_are_offset() {
    claimed!(claims("/linux/namespaces", "time"), "time namespaces");
    let mut bundle = Bundle::with([("/linux/namespaces/-", json!({ "type": "time" }))]);
    bundle.set(
        "/linux/timeOffsets",
        json!({ "monotonic": { "secs": 172_800, "nanosecs": 5 }, "boottime": { "secs": 604_800 } }),
    );
    let seen = bundle.see();
    let monotonic = ahead(&seen, "monotonic", nix::time::ClockId::CLOCK_MONOTONIC);
    let boottime = ahead(&seen, "boottime", nix::time::ClockId::CLOCK_BOOTTIME);
    assert!(
        (172_700..=172_800).contains(&monotonic) && (604_700..=604_800).contains(&boottime),
        "{monotonic} {boottime}"
    );
}

#[test]
fn an_offset_of_an_unknown_clock_is_an_error() {
    claimed!(claims("/linux/namespaces", "time"), "time namespaces");
    let mut bundle = Bundle::with([("/linux/namespaces/-", json!({ "type": "time" }))]);
    bundle.set("/linux/timeOffsets", json!({ "sundial": { "secs": 1 } })).create_fails();
}
