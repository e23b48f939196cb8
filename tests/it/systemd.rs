//! `--systemd-cgroup`: scopes that systemd makes, seen through `systemctl` and in the files. They need a host that systemd
//! has booted, such as the machine `systemd` of `cargo xtask vm`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::checkpoint::{COUNT, checkpoint, count, criu_works, launched, prepared, restore, wait_until};
use crate::oci::Bundle;
use crate::oci::bundle::{fails, succeeds};
use crate::oci::hosting::lacks;

/// As sd_booted(3) has it.
fn booted() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// A bundle whose container is to be in the slice `skiff-test.slice`.
fn bundle() -> Bundle {
    let mut bundle = Bundle::new().global(&["--systemd-cgroup"]);
    let path = format!("skiff-test.slice:skiff:{}", bundle.id);
    bundle.set("/linux/cgroupsPath", path.into());
    bundle
}

fn unit(bundle: &Bundle) -> String {
    format!("skiff-{}.scope", bundle.id)
}

/// The directory of its v2 cgroup.
fn directory(bundle: &Bundle) -> PathBuf {
    Path::new("/sys/fs/cgroup/skiff.slice/skiff-test.slice").join(unit(bundle))
}

fn systemctl(args: &[&str]) -> String {
    let output = Command::new("systemctl").args(args).output().expect("start systemctl");
    assert!(output.status.success(), "systemctl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Properties of the container's unit.
fn properties(bundle: &Bundle, names: &[&str]) -> BTreeMap<String, String> {
    let text = systemctl(&["show", "--property", &names.join(","), &unit(bundle)]);
    text.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

#[track_caller]
fn check_properties(bundle: &Bundle, expected: &[(&str, &str)]) {
    let names: Vec<&str> = expected.iter().map(|(name, _)| *name).collect();
    let expected: BTreeMap<String, String> =
        expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    assert_eq!(properties(bundle, &names), expected);
}

#[track_caller]
fn check_files(bundle: &Bundle, expected: &[(&str, &str)]) {
    for (file, value) in expected {
        let text = fs::read_to_string(directory(bundle).join(file)).expect("a control file");
        assert_eq!(text.trim(), *value, "{file}");
    }
}

#[test]
fn without_systemd_a_scope_is_an_error_of_one_line() {
    if booted() {
        return lacks("freedom from systemd");
    }
    let output = bundle().try_create(&[]);
    fails(&output);
    assert!(output.stderr.contains("cannot talk to systemd"), "{}", output.stderr);
    assert_eq!(output.stderr.trim().lines().count(), 1, "{}", output.stderr);
}

#[test]
fn a_path_without_slice_is_an_error() {
    let mut bundle = bundle();
    bundle.set("/linux/cgroupsPath", "/some/path".into());
    let output = bundle.try_create(&[]);
    fails(&output);
    assert!(output.stderr.contains("slice:prefix:name"), "{}", output.stderr);
}

#[test]
fn a_container_is_a_scope_in_its_slice() {
    if !booted() {
        return lacks("systemd");
    }
    let mut bundle = bundle();
    let pid = bundle.wait_ready(&["/bin/probe", "wait"]);
    check_properties(
        &bundle,
        &[
            ("ActiveState", "active"),
            ("ControlGroup", &format!("/skiff.slice/skiff-test.slice/{}", unit(&bundle))),
            ("Delegate", "yes"),
            ("Slice", "skiff-test.slice"),
            ("Transient", "yes"),
        ],
    );
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("the process's cgroup");
    assert_eq!(groups.trim(), format!("0::/skiff.slice/skiff-test.slice/{}", unit(&bundle)));
    bundle.end();
}

#[test]
fn annotations_are_properties_of_the_scope() {
    if !booted() {
        return lacks("systemd");
    }
    let mut bundle = bundle();
    bundle.set(
        "/annotations",
        json!({
            "org.systemd.property.KillSignal": "3",
            "org.systemd.property.TimeoutStopUSec": "uint64 7000000",
            "org.systemd.property.CollectMode": "'inactive-or-failed'",
            "org.systemd.property.After": "['dbus.service']",
            "org.systemd.property.RuntimeMaxSec": "3600",
        }),
    );
    bundle.wait_ready(&["/bin/probe", "wait"]);
    check_properties(
        &bundle,
        &[
            ("KillSignal", "3"),
            ("TimeoutStopUSec", "7s"),
            ("CollectMode", "inactive-or-failed"),
            ("RuntimeMaxUSec", "1h"),
        ],
    );
    let after = properties(&bundle, &["After"]).remove("After").expect("its order");
    assert!(after.split(' ').any(|unit| unit == "dbus.service"), "{after}");
    bundle.end();
}

#[test]
fn an_annotation_that_is_no_property_is_an_error() {
    let mut bundle = bundle();
    bundle.set("/annotations", json!({ "org.systemd.property.KillSignal": "SIGQUIT" }));
    let output = bundle.try_create(&[]);
    fails(&output);
    assert!(output.stderr.contains("org.systemd.property.KillSignal"), "{}", output.stderr);
    assert_eq!(output.stderr.trim().lines().count(), 1, "{}", output.stderr);
}

#[test]
fn a_container_without_a_path_is_in_the_system_slice() {
    if !booted() {
        return lacks("systemd");
    }
    let mut bundle = bundle();
    bundle.set("/linux/cgroupsPath", "".into());
    bundle.wait_ready(&["/bin/probe", "wait"]);
    check_properties(&bundle, &[("Slice", "system.slice"), ("ActiveState", "active")]);
    bundle.end();
}

#[test]
fn a_container_sees_its_scope_as_the_root() {
    if !booted() {
        return lacks("systemd");
    }
    let text = bundle().args(&["/bin/cat", "/proc/self/cgroup"]).run();
    assert_eq!(text, "0::/\n");
}

#[test]
fn limits_are_properties_and_stay_when_systemd_reloads() {
    if !booted() {
        return lacks("systemd");
    }
    let mut bundle = bundle();
    bundle.set("/linux/resources/memory", json!({ "limit": 67_108_864, "reservation": 33_554_432 }));
    bundle.set("/linux/resources/pids", json!({ "limit": 50 }));
    bundle.set(
        "/linux/resources/cpu",
        json!({ "shares": 512, "quota": 20_000, "period": 50_000, "cpus": "0" }),
    );
    bundle.wait_ready(&["/bin/probe", "wait"]);
    check_properties(
        &bundle,
        &[
            ("MemoryMax", "67108864"),
            ("MemoryLow", "33554432"),
            ("TasksMax", "50"),
            ("CPUWeight", "20"),
            ("CPUQuotaPerSecUSec", "400ms"),
            ("CPUQuotaPeriodUSec", "50ms"),
            ("AllowedCPUs", "0"),
        ],
    );
    let files = [
        ("memory.max", "67108864"),
        ("memory.low", "33554432"),
        ("pids.max", "50"),
        ("cpu.weight", "20"),
        ("cpu.max", "20000 50000"),
        ("cpuset.cpus", "0"),
    ];
    check_files(&bundle, &files);
    systemctl(&["daemon-reload"]);
    check_files(&bundle, &files);
    bundle.end();
}

#[test]
fn an_update_changes_properties_and_files() {
    if !booted() {
        return lacks("systemd");
    }
    let mut bundle = bundle();
    bundle.set("/linux/resources/memory", json!({ "limit": 67_108_864 }));
    bundle.wait_ready(&["/bin/probe", "wait"]);
    let flags = ["update", "--memory", "134217728", "--pids-limit", "30", "--cpu-share", "2048", &bundle.id];
    succeeds(&bundle.runtime(&flags));
    check_properties(&bundle, &[("MemoryMax", "134217728"), ("TasksMax", "30"), ("CPUWeight", "79")]);
    check_files(&bundle, &[("memory.max", "134217728"), ("pids.max", "30"), ("cpu.weight", "79")]);
    bundle.end();
}

#[test]
fn devices_stay_restricted_when_systemd_reloads() {
    if !booted() {
        return lacks("systemd");
    }
    let mut bundle = bundle();
    let rules = json!([{ "allow": false, "access": "rwm" }]);
    bundle.set("/linux/resources/devices", rules);
    bundle.wait_ready(&["/bin/probe", "wait"]);
    let probe = |bundle: &Bundle| {
        let node =
            "rm -f /tmp/kmsg; mknod /tmp/kmsg c 1 11 && cat /dev/null && ! head -c 1 /tmp/kmsg 2>/dev/null";
        bundle.runtime(&["exec", &bundle.id, "/bin/sh", "-c", node])
    };
    succeeds(&probe(&bundle));
    systemctl(&["daemon-reload"]);
    succeeds(&probe(&bundle));
    bundle.end();
}

#[test]
fn an_exec_is_in_the_scope() {
    if !booted() {
        return lacks("systemd");
    }
    let mut bundle = bundle();
    bundle.wait_ready(&["/bin/probe", "wait"]);
    let text = succeeds(&bundle.runtime(&["exec", &bundle.id, "/bin/cat", "/proc/self/cgroup"]));
    assert_eq!(text, "0::/\n");
    bundle.end();
}

#[test]
fn a_paused_scope_is_frozen() {
    if !booted() {
        return lacks("systemd");
    }
    let mut bundle = bundle();
    bundle.wait_ready(&["/bin/probe", "wait"]);
    succeeds(&bundle.runtime(&["pause", &bundle.id]));
    check_files(&bundle, &[("cgroup.freeze", "1")]);
    assert_eq!(bundle.status(), "paused");
    succeeds(&bundle.runtime(&["resume", &bundle.id]));
    check_files(&bundle, &[("cgroup.freeze", "0")]);
    bundle.end();
}

#[test]
fn deletion_removes_the_unit() {
    if !booted() {
        return lacks("systemd");
    }
    let mut bundle = bundle();
    bundle.wait_ready(&["/bin/probe", "wait"]);
    check_properties(&bundle, &[("LoadState", "loaded")]);
    succeeds(&bundle.runtime(&["delete", "--force", &bundle.id]));
    check_properties(&bundle, &[("LoadState", "not-found"), ("ActiveState", "inactive")]);
    assert!(!directory(&bundle).exists());
}

#[test]
fn a_failed_launch_leaves_no_unit() {
    if !booted() {
        return lacks("systemd");
    }
    let mut bundle = bundle();
    bundle.args(&["/bin/there-is-no-such-program"]).never_runs();
    check_properties(&bundle, &[("LoadState", "not-found")]);
}

#[test]
fn a_unit_of_that_name_is_left_alone() {
    if !booted() {
        return lacks("systemd");
    }
    let mut first = bundle();
    let mut second = Bundle::new().global(&["--systemd-cgroup"]);
    second.set("/linux/cgroupsPath", format!("skiff-test.slice:skiff:{}", first.id).into());
    first.wait_ready(&["/bin/probe", "wait"]);
    let output = second.try_create(&[]);
    fails(&output);
    assert!(output.stderr.contains(&unit(&first)), "{}", output.stderr);
    assert_eq!(first.status(), "running");
    first.end();
}

#[test]
fn the_message_bus_serves_where_the_private_socket_does_not() {
    if !booted() {
        return lacks("systemd");
    }
    let hidden = ["unshare", "-m", "sh", "-c", "mount -t tmpfs none /run/systemd && exec \"$@\"", "sh"];
    let mut bundle = bundle().through(&hidden.map(str::to_owned));
    bundle.set("/linux/resources/pids", json!({ "limit": 50 }));
    bundle.wait_ready(&["/bin/probe", "wait"]);
    check_properties(&bundle, &[("TasksMax", "50"), ("ActiveState", "active")]);
    bundle.end();
}

#[test]
fn a_restored_container_is_in_a_scope_with_its_limits() {
    if !booted() {
        return lacks("systemd");
    }
    if !criu_works() {
        return;
    }
    let mut bundle = prepared(bundle(), COUNT);
    bundle.set("/linux/resources/pids", json!({ "limit": 50 }));
    let bundle = launched(bundle);
    wait_until(|| count(&bundle) > 0);
    let images = bundle.dir.join("images").display().to_string();
    checkpoint(&bundle, &["--image-path", &images]);
    check_properties(&bundle, &[("LoadState", "not-found")]);
    let before = count(&bundle);
    restore(&bundle, &images);
    wait_until(|| count(&bundle) > before + 1);
    let group = format!("/skiff.slice/skiff-test.slice/{}", unit(&bundle));
    check_properties(&bundle, &[("ActiveState", "active"), ("ControlGroup", &group), ("TasksMax", "50")]);
    check_files(&bundle, &[("pids.max", "50")]);
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", bundle.pid())).expect("its cgroup");
    assert_eq!(groups.trim(), format!("0::{group}"));
    let processes = succeeds(&bundle.runtime(&["ps", "--format", "json", &bundle.id]));
    assert!(processes.contains(&bundle.pid().to_string()), "{processes}");
    systemctl(&["daemon-reload"]);
    check_files(&bundle, &[("pids.max", "50")]);
    let text = succeeds(&bundle.runtime(&["exec", &bundle.id, "/bin/cat", "/proc/self/cgroup"]));
    assert_eq!(text, "0::/\n");
    bundle.end();
    check_properties(&bundle, &[("LoadState", "not-found")]);
}

#[test]
fn a_failed_restoration_leaves_no_unit() {
    if !booted() {
        return lacks("systemd");
    }
    let mut bundle = bundle();
    bundle.args(&["/bin/probe", "wait"]);
    bundle.write();
    let images = bundle.subdir("images").display().to_string();
    let directory = bundle.dir.display().to_string();
    // The real one finds no images; the other never answers.
    for program in ["criu", "/bin/false"] {
        let words =
            ["--criu", program, "restore", "--bundle", &directory, "--image-path", &images, &bundle.id];
        let output = bundle.runtime(&words);
        assert_eq!((output.code, output.stderr.lines().count()), (1, 1), "{output}");
        check_properties(&bundle, &[("LoadState", "not-found")]);
        assert!(!self::directory(&bundle).exists());
        fails(&bundle.runtime(&["state", &bundle.id]));
    }
}
