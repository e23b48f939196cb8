//! config.md: the process.

use std::fs;

use serde_json::{Value, json};

use super::Bundle;
use super::bundle::succeeds;
use super::hosting::CAPABILITIES;

/// The capabilities with these names as the kernel shows a set.
fn set(names: &[&str]) -> String {
    let bit =
        |name: &&str| 1u64 << CAPABILITIES.iter().position(|known| known == name).expect("a capability");
    format!("{:016x}", names.iter().map(bit).sum::<u64>())
}

#[test]
fn arguments_are_passed_as_they_are() {
    let mut bundle = Bundle::new();
    let args = ["/bin/probe", "see", "", "two words", "$HOME", "*", "ä", "-x"];
    bundle.args(&[
        "/bin/sh",
        "-c",
        "exec \"$@\" | head -1; echo end",
        "sh",
        "/bin/printf",
        "%s|",
        "",
        "two words",
        "*",
    ]);
    assert_eq!(bundle.run().lines().next(), Some("|two words|*|end"));
    bundle.args(&["/bin/printf", "%s|", args[2], args[3], args[4], args[5], args[6], args[7]]);
    assert_eq!(bundle.run(), "|two words|$HOME|*|ä|-x|");
}

#[test]
fn a_program_without_a_slash_is_looked_up_in_the_path_of_the_container() {
    let mut bundle = Bundle::with([("/process/env", json!(["PATH=/nowhere:/special"]))]);
    fs::create_dir(bundle.inside("/special")).expect("a directory");
    fs::copy(bundle.inside("/bin/probe"), bundle.inside("/special/found")).expect("a program");
    bundle.args(&["found", "try", "access-x", "/special/found"]);
    assert_eq!(bundle.run(), "ok\n");
}

#[test]
fn a_program_that_the_path_of_the_container_lacks_is_an_error() {
    let mut bundle = Bundle::with([("/process/env", json!(["PATH=/nowhere"]))]);
    bundle.args(&["probe", "see"]).never_runs();
}

#[test]
fn no_arguments_are_an_error() {
    Bundle::with([("/process/args", json!([]))]).never_runs();
}

#[test]
fn the_environment_has_every_variable() {
    let env = json!(["PATH=/bin", "A=1", "EMPTY=", "SPACE=two words", "EQUALS=a=b", "lower=case", "_=x"]);
    let seen = Bundle::with([("/process/env", env.clone())]).see();
    let environ = seen["environ"].as_array().expect("a list");
    for variable in env.as_array().expect("a list") {
        assert!(environ.contains(variable), "{variable} is not in {environ:?}");
    }
}

#[test]
fn the_environment_has_nothing_of_the_runtimes() {
    let mut bundle = Bundle::new();
    bundle.args(&["/bin/probe", "see"]).write();
    let path = bundle.dir.display().to_string();
    let mut create = bundle.command(&["create", "--bundle", &path, &bundle.id]);
    let out = fs::File::create(bundle.dir.join("out")).expect("a file");
    create.env("OF_THE_RUNTIME", "1").stdout(out).stderr(std::process::Stdio::null());
    succeeds(&crate::harness::live::Live::spawn(create, None, crate::harness::time_limit()).finish());
    let pid = bundle.pid();
    bundle.start();
    bundle.wait(pid);
    bundle.delete();
    let seen: Value =
        serde_json::from_str(&fs::read_to_string(bundle.dir.join("out")).expect("out")).expect("JSON");
    assert!(seen["env"]["OF_THE_RUNTIME"].is_null(), "{}", seen["env"]);
    assert_eq!(seen["env"]["PATH"], "/bin");
}

#[test]
fn the_working_directory_is_set() {
    assert_eq!(Bundle::with([("/process/cwd", json!("/home/alice"))]).see()["cwd"], "/home/alice");
}

#[test]
fn a_relative_working_directory_is_an_error() {
    Bundle::with([("/process/cwd", json!("home/alice"))]).never_runs();
}

#[test]
fn user_and_group_are_set() {
    let seen = Bundle::with([("/process/user", json!({ "uid": 1234, "gid": 4321 }))]).see();
    let ids = &seen["ids"];
    assert_eq!([&ids["uid"], &ids["euid"], &ids["gid"], &ids["egid"]], [1234, 1234, 4321, 4321]);
    assert_eq!(
        [&seen["status"]["Uid"], &seen["status"]["Gid"]],
        ["1234\t1234\t1234\t1234", "4321\t4321\t4321\t4321"]
    );
}

#[test]
fn a_user_need_not_be_in_the_passwd_file() {
    let seen = Bundle::with([("/process/user", json!({ "uid": 98765, "gid": 56789 }))]).see();
    assert_eq!([&seen["ids"]["uid"], &seen["ids"]["gid"]], [98765, 56789]);
}

#[test]
fn additional_groups_are_set() {
    let user = json!({ "uid": 1234, "gid": 4321, "additionalGids": [5, 777, 40000] });
    let seen = Bundle::with([("/process/user", user)]).see();
    let groups: Vec<&str> = seen["status"]["Groups"].as_str().expect("groups").split_whitespace().collect();
    for group in ["5", "777", "40000"] {
        assert!(groups.contains(&group), "{groups:?}");
    }
}

#[test]
fn the_umask_is_set() {
    let seen = Bundle::with([("/process/user/umask", json!(0o027))]).see();
    assert_eq!(seen["ids"]["umask"], "0027");
}

#[test]
fn resource_limits_are_set() {
    // Each below what any host allows, so that no privilege is needed.
    let limits = [
        ("RLIMIT_AS", "as", [1u64 << 40, 1 << 41]),
        ("RLIMIT_CORE", "core", [0, 4096]),
        ("RLIMIT_CPU", "cpu", [100, 200]),
        ("RLIMIT_DATA", "data", [1 << 40, 1 << 41]),
        ("RLIMIT_FSIZE", "fsize", [1 << 40, 1 << 41]),
        ("RLIMIT_LOCKS", "locks", [10, 20]),
        ("RLIMIT_MEMLOCK", "memlock", [4096, 8192]),
        ("RLIMIT_MSGQUEUE", "msgqueue", [4096, 8192]),
        ("RLIMIT_NICE", "nice", [0, 0]),
        ("RLIMIT_NOFILE", "nofile", [100, 200]),
        ("RLIMIT_NPROC", "nproc", [100, 200]),
        ("RLIMIT_RSS", "rss", [1 << 40, 1 << 41]),
        ("RLIMIT_RTPRIO", "rtprio", [0, 0]),
        ("RLIMIT_RTTIME", "rttime", [1000, 2000]),
        ("RLIMIT_SIGPENDING", "sigpending", [10, 20]),
        ("RLIMIT_STACK", "stack", [1 << 20, 1 << 21]),
    ];
    let list = limits.map(|(kind, _, [soft, hard])| json!({ "type": kind, "soft": soft, "hard": hard }));
    let seen = Bundle::with([("/process/rlimits", json!(list))]).see();
    for (kind, name, expected) in limits {
        assert_eq!(seen["rlimits"][name], json!(expected), "{kind}");
    }
}

#[test]
fn an_unknown_resource_limit_is_an_error() {
    let mut bundle =
        Bundle::with([("/process/rlimits", json!([{ "type": "RLIMIT_NONE", "soft": 1, "hard": 1 }]))]);
    bundle.wrong().never_runs();
}

#[test]
fn a_resource_limit_given_twice_is_an_error() {
    let limit = json!({ "type": "RLIMIT_NOFILE", "soft": 64, "hard": 64 });
    Bundle::with([("/process/rlimits", json!([limit, limit]))]).never_runs();
}

#[test]
fn a_soft_limit_above_the_hard_one_is_an_error() {
    let limit = json!({ "type": "RLIMIT_NOFILE", "soft": 65, "hard": 64 });
    Bundle::with([("/process/rlimits", json!([limit]))]).never_runs();
}

#[test]
fn the_bounding_set_is_what_is_asked_for() {
    let names = ["CAP_CHOWN", "CAP_NET_RAW"];
    let sets = json!({ "bounding": names, "effective": names, "permitted": names });
    let seen = Bundle::with([("/process/capabilities", sets)]).see();
    assert_eq!(seen["status"]["CapBnd"], set(&names));
    // For root the kernel makes the others of it.
    assert_eq!([&seen["status"]["CapEff"], &seen["status"]["CapPrm"]], [&set(&names), &set(&names)]);
}

#[test]
fn the_inheritable_set_is_what_is_asked_for() {
    let names = ["CAP_CHOWN", "CAP_NET_RAW", "CAP_KILL"];
    let sets = json!({
        "bounding": names, "effective": names, "permitted": names, "inheritable": ["CAP_KILL", "CAP_CHOWN"],
    });
    let seen = Bundle::with([("/process/capabilities", sets)]).see();
    assert_eq!(seen["status"]["CapInh"], set(&["CAP_CHOWN", "CAP_KILL"]));
}

#[test]
fn the_ambient_set_is_what_is_asked_for() {
    let names = ["CAP_NET_BIND_SERVICE", "CAP_KILL"];
    let sets = json!({
        "bounding": names, "effective": names, "permitted": names, "inheritable": names,
        "ambient": ["CAP_NET_BIND_SERVICE"],
    });
    let user = json!({ "uid": 1234, "gid": 4321 });
    let seen = Bundle::with([("/process/capabilities", sets), ("/process/user", user)]).see();
    let one = set(&["CAP_NET_BIND_SERVICE"]);
    let status = &seen["status"];
    assert_eq!([&status["CapAmb"], &status["CapEff"], &status["CapPrm"]], [&one; 3]);
    assert_eq!([&status["CapBnd"], &status["CapInh"]], [&set(&names); 2]);
}

#[test]
fn a_user_without_ambient_capabilities_has_none() {
    let seen = Bundle::with([("/process/user", json!({ "uid": 1234, "gid": 4321 }))]).see();
    assert_eq!([&seen["status"]["CapEff"], &seen["status"]["CapPrm"]], ["0000000000000000"; 2]);
}

#[test]
fn empty_capability_sets_leave_nothing() {
    let none: [&str; 0] = [];
    let sets = json!({ "bounding": none, "effective": none, "permitted": none, "inheritable": none, "ambient": none });
    let seen = Bundle::with([("/process/capabilities", sets)]).see();
    for name in ["CapBnd", "CapEff", "CapPrm", "CapInh", "CapAmb"] {
        assert_eq!(seen["status"][name], "0000000000000000", "{name}");
    }
}

#[test]
fn an_unknown_capability_is_mentioned() {
    let mut bundle = Bundle::new();
    bundle.capable(&["CAP_NO_SUCH"]).args(&["/bin/true"]).wrong();
    let _warned_or_failed = bundle.try_create(&[]);
    assert!(bundle.errors().contains("CAP_NO_SUCH"), "no warning: {:?}", bundle.errors());
}

#[test]
fn no_new_privileges_is_set() {
    let seen = Bundle::with([("/process/noNewPrivileges", json!(true))]).see();
    assert_eq!(seen["status"]["NoNewPrivs"], "1");
}

#[test]
fn no_new_privileges_is_off_otherwise() {
    assert_eq!(Bundle::with([("/process/noNewPrivileges", json!(false))]).see()["status"]["NoNewPrivs"], "0");
}

#[test]
fn the_oom_score_is_set() {
    assert_eq!(Bundle::with([("/process/oomScoreAdj", json!(321))]).see()["oom_score_adj"], "321");
}

#[test]
fn the_oom_score_is_the_runtimes_otherwise() {
    let own = fs::read_to_string("/proc/self/oom_score_adj").expect("our own score");
    assert_eq!(Bundle::new().see()["oom_score_adj"], own.trim());
}

/// What the program sees of its scheduling under this setting.
fn scheduling(setting: Value) -> Value {
    Bundle::with([("/process/scheduler", setting)]).see()["scheduling"].take()
}

#[test]
fn the_scheduler_for_batches_is_set_with_its_niceness() {
    let seen = scheduling(json!({ "policy": "SCHED_BATCH", "nice": 7 }));
    assert_eq!([&seen["policy"], &seen["nice"]], [3, 7]);
}

#[test]
fn the_idle_scheduler_is_set() {
    assert_eq!(scheduling(json!({ "policy": "SCHED_IDLE" }))["policy"], 5);
}

#[test]
fn the_usual_scheduler_takes_a_niceness() {
    let seen = scheduling(json!({ "policy": "SCHED_OTHER", "nice": 11 }));
    assert_eq!([&seen["policy"], &seen["nice"]], [0, 11]);
}

#[test]
fn a_real_time_scheduler_is_set_with_its_priority() {
    for (policy, number, priority) in [("SCHED_FIFO", 1, 13), ("SCHED_RR", 2, 2)] {
        let mut bundle =
            Bundle::with([("/process/scheduler", json!({ "policy": policy, "priority": priority }))]);
        if std::path::Path::new("/sys/fs/cgroup/cpu/cpu.rt_runtime_us").exists() {
            // Here a group may not have such processes before it is given time for them.
            bundle.set(
                "/linux/resources/cpu",
                json!({ "realtimeRuntime": 10_000, "realtimePeriod": 1_000_000 }),
            );
        }
        let seen = bundle.see();
        let seen = &seen["scheduling"];
        assert_eq!([&seen["policy"], &seen["priority"]], [number, priority], "{policy}");
    }
}

#[test]
fn the_deadline_scheduler_is_set_with_its_times() {
    // It cannot be combined with a choice of processors, nor be in a control group that has such a choice.
    let seen = scheduling(json!({
        "policy": "SCHED_DEADLINE", "runtime": 1_000_000, "deadline": 20_000_000, "period": 40_000_000,
    }));
    let times = [&seen["runtime"], &seen["deadline"], &seen["period"]];
    assert_eq!(
        (&seen["policy"], times),
        (&json!(6), [&json!(1_000_000), &json!(20_000_000), &json!(40_000_000)])
    );
}

#[test]
fn scheduler_flags_are_set() {
    let setting = json!({ "policy": "SCHED_BATCH", "nice": 3, "flags": ["SCHED_FLAG_RESET_ON_FORK"] });
    let mut bundle = Bundle::with([("/process/scheduler", setting)]);
    // oci_spec knows the flag by another name than the specification.
    let seen = bundle.wrong().see();
    assert_eq!([&seen["scheduling"]["policy"], &seen["scheduling"]["flags"]], [3, 1]);
}

#[test]
fn an_unknown_scheduler_is_an_error() {
    Bundle::with([("/process/scheduler", json!({ "policy": "SCHED_NONE" }))]).wrong().never_runs();
}

#[test]
fn the_io_priority_is_set() {
    for (class, number) in [("IOPRIO_CLASS_BE", 2), ("IOPRIO_CLASS_IDLE", 3), ("IOPRIO_CLASS_RT", 1)] {
        let priority = if number == 3 { 0 } else { 5 };
        let setting = json!({ "class": class, "priority": priority });
        let seen = Bundle::with([("/process/ioPriority", setting)]).see();
        let seen = &seen["scheduling"];
        assert_eq!([&seen["io_class"], &seen["io_priority"]], [number, priority], "{class}");
    }
}

#[test]
fn an_apparmor_profile_is_applied() {
    if !std::path::Path::new("/sys/module/apparmor/parameters/enabled").exists() {
        return super::hosting::lacks("AppArmor");
    }
    let mut bundle = Bundle::with([("/process/apparmorProfile", json!("unconfined"))]);
    assert!(bundle.attempt(&["read", "/proc/self/attr/current"])[0].starts_with("unconfined"));
}

#[test]
fn an_selinux_label_is_applied() {
    if !std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        return super::hosting::lacks("SELinux");
    }
    let label = "system_u:system_r:container_t:s0";
    let mut bundle = Bundle::with([("/process/selinuxLabel", json!(label))]);
    assert!(bundle.attempt(&["read", "/proc/self/attr/current"])[0].starts_with(label));
}

#[test]
fn an_unknown_property_is_ignored() {
    let mut bundle = Bundle::with([
        ("/noSuchProperty", json!({ "a": [1] })),
        ("/process/noSuchProperty", json!(true)),
        ("/linux/noSuchProperty", json!("x")),
        ("/linux/resources/noSuchProperty", json!(null)),
        ("/annotations/org.opencontainers.no.such.key", json!("x")),
    ]);
    bundle.args(&["/bin/echo", "alive"]);
    assert_eq!(bundle.run(), "alive\n");
}

#[test]
fn a_value_of_the_wrong_type_is_an_error() {
    Bundle::with([("/process/user", json!({ "uid": "nobody", "gid": 0 }))]).wrong().never_runs();
    Bundle::with([("/process/args", json!("/bin/true"))]).wrong().never_runs();
    Bundle::with([("/mounts", json!({ "destination": "/mnt" }))]).wrong().create_fails();
}
