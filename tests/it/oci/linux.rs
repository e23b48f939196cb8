//! config.md and config-linux.md: names, kernel parameters, paths, propagation, personality and the rest.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::Bundle;
use super::hosting::{claimed, features};

#[test]
fn the_host_name_is_set() {
    let own = fs::read_to_string("/proc/sys/kernel/hostname").expect("our own name");
    assert_eq!(Bundle::with([("/hostname", json!("mrs-dalloway"))]).see()["hostname"], "mrs-dalloway");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/hostname").expect("our own name"), own);
}

#[test]
fn the_domain_name_is_set() {
    let own = fs::read_to_string("/proc/sys/kernel/domainname").expect("our own name");
    assert_eq!(
        Bundle::with([("/domainname", json!("foobarbaz.test"))]).see()["domainname"],
        "foobarbaz.test"
    );
    assert_eq!(fs::read_to_string("/proc/sys/kernel/domainname").expect("our own name"), own);
}

#[test]
fn kernel_parameters_of_the_network_are_set() {
    let mut bundle =
        Bundle::with([("/linux/sysctl", json!({ "net.ipv4.ip_forward": "1", "net.core.somaxconn": "321" }))]);
    let files = ["read", "/proc/sys/net/ipv4/ip_forward", "read", "/proc/sys/net/core/somaxconn"];
    assert_eq!(bundle.attempt(&files), ["1", "321"]);
}

#[test]
fn kernel_parameters_of_ipc_are_set() {
    let mut bundle =
        Bundle::with([("/linux/sysctl", json!({ "kernel.shmmni": "77", "fs.mqueue.queues_max": "33" }))]);
    let files = ["read", "/proc/sys/kernel/shmmni", "read", "/proc/sys/fs/mqueue/queues_max"];
    assert_eq!(bundle.attempt(&files), ["77", "33"]);
}

#[test]
fn an_unknown_kernel_parameter_is_an_error() {
    Bundle::with([("/linux/sysctl", json!({ "net.no.such.parameter": "1" }))]).create_fails();
}

#[test]
fn a_value_that_a_kernel_parameter_does_not_take_is_an_error() {
    Bundle::with([("/linux/sysctl", json!({ "net.core.somaxconn": "many" }))]).create_fails();
}

#[test]
fn a_masked_file_cannot_be_read() {
    let mut bundle = Bundle::with([("/linux/maskedPaths", json!(["/secret", "/proc/version"]))]);
    fs::write(bundle.inside("/secret"), "gold").expect("a file");
    for verdict in bundle.attempt(&["read", "/secret", "read", "/proc/version"]) {
        assert!(["", "EACCES", "EPERM"].contains(&&verdict[..]), "{verdict}");
    }
}

#[test]
fn a_masked_directory_cannot_be_read() {
    let mut bundle = Bundle::with([("/linux/maskedPaths", json!(["/secret"]))]);
    fs::create_dir(bundle.inside("/secret")).expect("a directory");
    fs::write(bundle.inside("/secret/file"), "gold").expect("a file");
    let verdicts = bundle.attempt(&["read", "/secret/file", "names", "/secret"]);
    assert!(["ENOENT", "EACCES"].contains(&&verdicts[0][..]), "{verdicts:?}");
    assert!(["", "EACCES"].contains(&&verdicts[1][..]), "{verdicts:?}");
}

#[test]
fn masking_is_not_seen_on_the_host() {
    let mut bundle = Bundle::with([("/linux/maskedPaths", json!(["/secret"]))]);
    fs::write(bundle.inside("/secret"), "gold").expect("a file");
    bundle.args(&["/bin/true"]).run();
    assert_eq!(fs::read_to_string(bundle.inside("/secret")).expect("it is there"), "gold");
}

#[test]
fn a_read_only_path_cannot_be_written() {
    let mut bundle = Bundle::with([("/linux/readonlyPaths", json!(["/etc", "/plain", "/proc/sys"]))]);
    fs::write(bundle.inside("/plain"), "text").expect("a file");
    let tries = [
        "create",
        "/etc/new",
        "write",
        "/plain",
        "x",
        "write",
        "/proc/sys/net/ipv4/ip_forward",
        "1",
        "create",
        "/new",
    ];
    assert_eq!(bundle.attempt(&tries), ["EROFS", "EROFS", "EROFS", "ok"]);
}

#[test]
fn a_read_only_path_can_be_read() {
    let mut bundle = Bundle::with([("/linux/readonlyPaths", json!(["/plain", "/proc/sys"]))]);
    fs::write(bundle.inside("/plain"), "text").expect("a file");
    assert_eq!(bundle.attempt(&["read", "/plain", "read", "/proc/sys/kernel/ostype"]), ["text", "Linux"]);
}

/// The propagation of the container's root.
fn propagation(value: &str) -> String {
    let seen = Bundle::with([("/linux/rootfsPropagation", json!(value))]).see();
    let root = seen["mounts"].as_array().expect("a list").iter().rfind(|it| it["target"] == "/").cloned();
    root.expect("a root")["tags"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn the_root_can_be_shared() {
    assert!(propagation("shared").contains("shared:"));
}

#[test]
fn the_root_can_be_a_slave() {
    assert!(!propagation("slave").contains("shared:"));
}

#[test]
fn the_root_can_be_private() {
    assert_eq!(propagation("private"), "");
}

#[test]
fn the_root_can_be_unbindable() {
    assert_eq!(propagation("unbindable"), "unbindable");
}

#[test]
fn an_unknown_propagation_is_an_error() {
    Bundle::with([("/linux/rootfsPropagation", json!("sideways"))]).create_fails();
}

/// The machine and the execution domain that the program sees.
fn personality(domain: &str) -> [Value; 2] {
    let mut seen = Bundle::with([("/linux/personality", json!({ "domain": domain }))]).see();
    [seen["machine"].take(), seen["personality"].take()]
}

#[test]
fn the_32_bit_personality_is_set() {
    let machine = if cfg!(target_arch = "x86_64") { "i686" } else { "armv8l" };
    assert_eq!(personality("LINUX32"), [json!(machine), json!(8)]);
}

#[test]
fn the_usual_personality_is_set() {
    assert_eq!(personality("LINUX"), [json!(std::env::consts::ARCH), json!(0)]);
}

#[test]
fn an_unknown_personality_is_an_error() {
    Bundle::with([("/linux/personality", json!({ "domain": "SOLARIS" }))]).wrong().never_runs();
}

#[test]
fn cache_allocation_without_its_file_system_is_an_error() {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("our mounts");
    if mounts.lines().any(|line| line.split(' ').nth(2) == Some("resctrl")) {
        return super::hosting::lacks("the lack of resctrl");
    }
    Bundle::with([("/linux/intelRdt", json!({ "closID": "group", "l3CacheSchema": "L3:0=f" }))])
        .create_fails();
}

/// Version 1.3.
#[test]
fn a_network_device_is_moved_into_the_container() {
    claimed!(features()["linux"]["netDevices"]["enabled"] == true, "network devices");
    let mut bundle = Bundle::with([("/linux/netDevices", json!({ "outside": { "name": "inside0" } }))]);
    bundle.args(&["/bin/ip", "address", "show", "inside0"]).write();
    // The runtime gets a network namespace of its own, so that the device is not one of the host.
    let script =
        "ip link add outside type veth peer name other && ip address add 192.0.2.7/24 dev outside || exit 77
                  exec \"$@\"";
    let runtime = bundle.command(&["run", "--bundle", &bundle.dir.display().to_string(), &bundle.id]);
    let mut command = std::process::Command::new("unshare");
    command.args(["--net", "sh", "-c", script, "sh"]).arg(runtime.get_program()).args(runtime.get_args());
    let piped = std::process::Stdio::piped;
    command.stdin(std::process::Stdio::null()).stdout(piped()).stderr(piped());
    let output = crate::harness::live::Live::spawn(command, None, crate::harness::time_limit()).finish();
    if output.code == 77 {
        return super::hosting::lacks("virtual network devices");
    }
    let text = super::bundle::succeeds(&output);
    assert!(text.contains("inet 192.0.2.7/24"), "{text}");
}

/// Version 1.3.
#[test]
fn the_memory_policy_is_set() {
    claimed!(features()["linux"]["memoryPolicy"].is_object(), "memory policies");
    if !Path::new("/sys/devices/system/node/node0").exists() {
        return super::hosting::lacks("memory nodes");
    }
    let policy = json!({ "mode": "MPOL_BIND", "nodes": "0" });
    let seen = Bundle::with([("/linux/memoryPolicy", policy)]).see();
    assert_eq!([&seen["memory_policy"]["mode"], &seen["memory_policy"]["nodes"]], [2, 1]);
}
