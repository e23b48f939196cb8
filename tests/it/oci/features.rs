//! features.md: the features document. It is a MAY: tested where there is one.

use serde_json::{Value, json};

use super::Bundle;
use super::hosting::{claimed, features, held_capabilities};

macro_rules! documented {
    () => {
        claimed!(features().is_object(), "the features command")
    };
}

/// The list at a place of the document.
fn list(pointer: &str) -> Vec<String> {
    let list = features().pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default();
    list.iter().map(|it| it.as_str().expect("a string").to_owned()).collect()
}

fn version(name: &str) -> [u32; 3] {
    let text = features()[name].as_str().unwrap_or_else(|| panic!("no {name}"));
    let numbers = text.split(['-', '+']).next().unwrap_or_default().split('.');
    let numbers: Vec<u32> =
        numbers.map(|it| it.parse().unwrap_or_else(|_| panic!("{name}: {text}"))).collect();
    numbers.try_into().unwrap_or_else(|_| panic!("{name}: {text}"))
}

/// Asserts that a container runs with this configuration.
#[track_caller]
fn runs(mut bundle: Bundle) {
    bundle.args(&["/bin/echo", "alive"]);
    assert_eq!(bundle.run(), "alive\n");
}

#[test]
fn another_implementation_can_read_it() {
    documented!();
    let typed: Result<oci_spec::runtime::Features, _> = serde_json::from_value(features().clone());
    assert!(typed.is_ok(), "{:?}: {:#}", typed.err(), features());
}

#[test]
fn the_versions_are_there_and_in_order() {
    documented!();
    assert!(version("ociVersionMin") <= version("ociVersionMax"));
}

#[test]
fn both_versions_are_taken_in_a_configuration() {
    documented!();
    for name in ["ociVersionMin", "ociVersionMax"] {
        runs(Bundle::with([("/ociVersion", features()[name].clone())]));
    }
}

#[test]
fn there_is_nothing_that_the_specification_does_not_know() {
    documented!();
    let known = |at: &str| -> &[&str] {
        match at {
            "" => &[
                "ociVersionMin",
                "ociVersionMax",
                "hooks",
                "mountOptions",
                "linux",
                "annotations",
                "potentiallyUnsafeConfigAnnotations",
            ],
            "/linux" => &[
                "namespaces",
                "capabilities",
                "cgroup",
                "seccomp",
                "apparmor",
                "selinux",
                "intelRdt",
                "mountExtensions",
                "netDevices",
                "memoryPolicy",
            ],
            "/linux/cgroup" => &["v1", "v2", "systemd", "systemdUser", "rdma"],
            _ => &["enabled", "actions", "operators", "archs", "knownFlags", "supportedFlags"],
        }
    };
    for at in ["", "/linux", "/linux/cgroup", "/linux/seccomp"] {
        let object = features().pointer(at).and_then(Value::as_object);
        for name in object.into_iter().flat_map(|object| object.keys()) {
            assert!(known(at).contains(&&name[..]), "{at}/{name}");
        }
    }
}

#[test]
fn annotations_are_strings() {
    documented!();
    for (key, value) in features()["annotations"].as_object().into_iter().flatten() {
        assert!(!key.is_empty() && value.is_string(), "{key}: {value}");
    }
}

#[test]
fn every_hook_is_taken() {
    documented!();
    for kind in list("/hooks") {
        runs(Bundle::with([(&format!("/hooks/{kind}")[..], json!([{ "path": "/bin/true" }]))]));
    }
}

#[test]
fn every_mount_option_that_must_be_known_is_listed() {
    documented!();
    let found = list("/mountOptions");
    let must = [
        "async",
        "atime",
        "bind",
        "defaults",
        "dev",
        "diratime",
        "dirsync",
        "exec",
        "iversion",
        "lazytime",
        "loud",
        "noatime",
        "nodev",
        "nodiratime",
        "noexec",
        "noiversion",
        "nolazytime",
        "norelatime",
        "nostrictatime",
        "nosuid",
        "private",
        "rbind",
        "relatime",
        "remount",
        "ro",
        "rprivate",
        "rshared",
        "rslave",
        "runbindable",
        "rw",
        "shared",
        "silent",
        "slave",
        "strictatime",
        "suid",
        "sync",
        "unbindable",
    ];
    let missing: Vec<&&str> = must.iter().filter(|name| !found.contains(&(**name).to_owned())).collect();
    assert!(found.is_empty() || missing.is_empty(), "{missing:?}");
}

#[test]
fn every_namespace_is_taken() {
    documented!();
    for kind in list("/linux/namespaces") {
        let mut bundle = Bundle::new();
        bundle.share(&kind).set("/linux/namespaces/-", json!({ "type": kind }));
        if kind == "user" {
            let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
            bundle.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
        }
        runs(bundle);
    }
}

#[test]
fn every_capability_is_taken() {
    documented!();
    let held = held_capabilities();
    let names: Vec<String> =
        list("/linux/capabilities").into_iter().filter(|name| held.contains(&&name[..])).collect();
    let mut bundle = Bundle::with([(
        "/process/capabilities",
        json!({ "bounding": names, "permitted": names, "effective": names }),
    )]);
    bundle.args(&["/bin/true"]).run();
    assert!(!bundle.errors().contains("CAP_"), "{}", bundle.errors());
}

fn rule(action: &str) -> Value {
    json!({ "names": ["getpriority"], "action": action })
}

#[test]
fn every_seccomp_action_is_taken() {
    documented!();
    for action in list("/linux/seccomp/actions").iter().filter(|it| *it != "SCMP_ACT_NOTIFY") {
        runs(Bundle::with([(
            "/linux/seccomp",
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule(action)] }),
        )]));
    }
}

#[test]
fn every_seccomp_operator_is_taken() {
    documented!();
    for op in list("/linux/seccomp/operators") {
        let mut rule = rule("SCMP_ACT_ERRNO");
        rule["args"] = json!([{ "index": 0, "value": 7, "valueTwo": 7, "op": op }]);
        runs(Bundle::with([(
            "/linux/seccomp",
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] }),
        )]));
    }
}

#[test]
fn every_seccomp_architecture_is_taken() {
    documented!();
    // Byte orders cannot be mixed in the filters of libseccomp, which most runtimes use.
    let other = ["MIPS", "MIPS64", "MIPS64N32", "PARISC", "PARISC64", "PPC", "PPC64", "S390", "S390X"];
    let other = other.map(|name| format!("SCMP_ARCH_{name}"));
    for arch in list("/linux/seccomp/archs").into_iter().filter(|arch| !other.contains(arch)) {
        let filter = json!({
            "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", arch],
            "syscalls": [rule("SCMP_ACT_ERRNO")],
        });
        // oci_spec does not know all of them.
        let mut bundle = Bundle::with([("/linux/seccomp", filter)]);
        bundle.wrong();
        runs(bundle);
    }
}

#[test]
fn every_supported_seccomp_flag_is_taken() {
    documented!();
    for flag in list("/linux/seccomp/supportedFlags") {
        let filter = json!({ "defaultAction": "SCMP_ACT_ALLOW", "flags": [flag], "syscalls": [rule("SCMP_ACT_ERRNO")] });
        let mut bundle = Bundle::with([("/linux/seccomp", filter)]);
        bundle.wrong();
        runs(bundle);
    }
}

#[test]
fn supported_seccomp_flags_are_known_ones() {
    documented!();
    let known = list("/linux/seccomp/knownFlags");
    for flag in list("/linux/seccomp/supportedFlags") {
        assert!(known.contains(&flag), "{flag}");
    }
}
