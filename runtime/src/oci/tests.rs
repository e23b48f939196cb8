use nix::sys::resource::Resource;
use serde_json::{Value, json};

use super::*;
use crate::caps::CapSet;
use crate::cgroup::Layout;
use crate::plan::{CapSets, IdRange, Join, MapWriter, NetDevice, Scheduler, Users};
use crate::rdt::Origin;
use crate::seccomp::Kernel;

fn facts() -> Facts {
    Facts {
        kernel: Kernel(6, 12),
        last_cap: 40,
        caps: CapSet::all(40),
        cgroups: Layout { unified: Some("/sys/fs/cgroup".into()), ..Layout::default() },
        may_set_groups: true,
        kcore: true,
        home: Some("/root".into()),
        ..Facts::default()
    }
}

fn bundle(text: &str) -> Bundle {
    Bundle { path: "/bundle".into(), spec: json::read(text).expect(text) }
}

#[test]
fn the_default_configuration_has_a_plan() {
    let bundle = bundle(&template(Owner::Root, false));
    let plan = plan(&bundle, "x", &facts(), &Terms::default()).expect("a plan");
    assert_eq!(plan.root.layers, [PathBuf::from("/bundle/rootfs")]);
    assert_eq!(plan.process.argv, [c"sh".to_owned()]);
    assert_eq!(plan.process.env.last(), Some(&c"HOME=/root".to_owned()));
    assert_eq!(
        plan.process.caps.bounding.names().collect::<Vec<_>>(),
        ["KILL", "NET_BIND_SERVICE", "AUDIT_WRITE"]
    );
    assert_eq!(plan.process.warnings, [] as [&str; 0]);
}

/// The template with some values put at JSON pointers.
fn changed(changes: &[(&str, Value)]) -> Bundle {
    let mut document: Value =
        serde_json::from_str(&template(Owner::Root, false)).expect("the template is JSON");
    for (pointer, value) in changes {
        let mut at = &mut document;
        for key in pointer.split('/').skip(1) {
            if at.is_null() {
                *at = json!({});
            }
            at = match key.parse::<usize>() {
                Ok(index) if at.is_array() => &mut at[index],
                _ => &mut at[key],
            };
        }
        *at = value.clone();
    }
    bundle(&document.to_string())
}

fn planned(changes: &[(&str, Value)], facts: &Facts) -> Result<Plan, String> {
    plan(&changed(changes), "x", facts, &Terms::default()).map_err(|error| error.to_string())
}

/// The plan of the template with one change.
fn one(pointer: &str, value: Value) -> Plan {
    planned(&[(pointer, value)], &facts()).expect(pointer)
}

/// What is said of the template with one change that must not be made.
fn refused(pointer: &str, value: Value, expect: &str) {
    let error = planned(&[(pointer, value.clone())], &facts()).map(|_| ()).expect_err(pointer);
    assert_eq!(error, expect, "{pointer} = {value}");
}

fn namespaces(names: &[&str]) -> Value {
    names.iter().map(|name| json!({"type": name})).collect()
}

#[test]
fn versions_are_semantic_and_of_major_one() {
    for good in ["1.0.0", "1.0.2-dev", "1.3.0", "1.2.1+build", "1.10.20-rc.1+x.y-z"] {
        one("/ociVersion", json!(good));
    }
    refused("/ociVersion", json!(null), "ociVersion: missing");
    refused("/ociVersion", json!("2.0.0"), r#"ociVersion: "2.0.0" is not supported: 1.x is"#);
    refused("/ociVersion", json!("0.9.0"), r#"ociVersion: "0.9.0" is not supported: 1.x is"#);
    for bad in ["1", "1.0", "1.0.0.0", "v1.0.0", "1.0.x", "01.0.0", "1..0", "-1.0.0", "1.0.+0"] {
        refused("/ociVersion", json!(bad), &format!("ociVersion: {bad:?} is not a version"));
    }
}

#[test]
fn namespaces_are_made_or_entered() {
    let plan =
        one("/linux/namespaces", namespaces(&["pid", "mount", "cgroup", "time", "uts", "ipc", "network"]));
    let new = CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWNET;
    assert_eq!(plan.namespaces, new);
    assert!(plan.cgroup_namespace && plan.loopback);
    assert_eq!(plan.time_namespace, Some(Vec::new()));
    let given = json!([
        {"type": "network", "path": "/run/netns/a"}, {"type": "mount"}, {"type": "uts"},
        {"type": "user", "path": "/proc/7/ns/user"}, {"type": "ipc", "path": "/proc/self/ns/ipc"},
    ]);
    let facts = Facts { shared: CloneFlags::CLONE_NEWIPC, ..facts() };
    let plan = planned(&[("/linux/namespaces", given)], &facts).expect("a plan");
    let join = |kind, path: &str| Join { kind, path: path.into() };
    let joins =
        [join(CloneFlags::CLONE_NEWUSER, "/proc/7/ns/user"), join(CloneFlags::CLONE_NEWNET, "/run/netns/a")];
    assert_eq!(plan.joins, joins, "the user namespace first, none that the runtime is in");
    assert_eq!((plan.namespaces, plan.loopback), (CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS, false));
    assert_eq!(plan.users, None);
}

#[test]
fn namespaces_that_make_no_sense_are_refused() {
    let place = "/linux/namespaces";
    refused(place, namespaces(&["mount", "net"]), r#"linux.namespaces[1]: unknown namespace "net""#);
    refused(
        place,
        namespaces(&["mount", "uts", "mount"]),
        r#"linux.namespaces[2]: second entry for "mount""#,
    );
    refused(
        place,
        json!([{"type": "mount"}, {"type": "pid", "path": "ns/pid"}]),
        r#"linux.namespaces[1]: path "ns/pid" is not absolute"#,
    );
    refused(place, json!([]), "linux.namespaces: a container needs a mount namespace of its own");
    refused("/linux", json!(null), "linux: missing");
    refused("/process", json!(null), "process: missing");
    let user = Facts { uid: 1000, caps: CapSet::NONE, ..facts() };
    let error = planned(&[], &user).map(|_| ()).expect_err("no root");
    assert_eq!(error, "linux.namespaces: without CAP_SYS_ADMIN a container needs a user namespace");
}

#[test]
fn a_remount_does_what_it_is_asked_or_is_refused() {
    let remount = |more: Value| {
        let mut mount = json!({"destination": "/mnt", "options": ["remount", "ro"]});
        mount.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        mount
    };
    assert!(planned(&[("/mounts/6", remount(json!({})))], &facts()).is_ok());
    let ids = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    for more in
        [json!({"uidMappings": ids, "gidMappings": ids}), json!({"options": ["remount", "tmpcopyup"]})]
    {
        refused("/mounts/6", remount(more), "mounts[6]: /mnt: remount cannot map ids or copy files");
    }
}

#[test]
fn names_and_parameters_need_a_namespace_of_their_own() {
    refused("/linux/namespaces", namespaces(&["mount"]), "hostname: needs a UTS namespace of the container");
    refused("/hostname", json!("h".repeat(65)), "hostname: longer than 64 bytes");
    assert_eq!(one("/domainname", json!("d")).domainname, Some(c"d".to_owned()));
    let sysctl = |key: &str, own: &[&str]| {
        let changes = [
            ("/hostname", json!(null)),
            ("/linux/namespaces", namespaces(own)),
            ("/linux/sysctl", json!({key: "1"})),
        ];
        planned(&changes, &facts()).map(|plan| plan.sysctls[0].0.to_string_lossy().into_owned())
    };
    for (key, kind, name, path) in [
        ("net.ipv4.ip_forward", "network", "network", "net/ipv4/ip_forward"),
        ("net/ipv4/conf/eth0.1/forwarding", "network", "network", "net/ipv4/conf/eth0.1/forwarding"),
        ("net.ipv4.conf.eth0/1.forwarding", "network", "network", "net/ipv4/conf/eth0.1/forwarding"),
        ("kernel.shmmax", "ipc", "IPC", "kernel/shmmax"),
        ("fs.mqueue.msg_max", "ipc", "IPC", "fs/mqueue/msg_max"),
        ("kernel.domainname", "uts", "UTS", "kernel/domainname"),
        ("kernel.hostname", "uts", "UTS", "kernel/hostname"),
    ] {
        assert_eq!(sysctl(key, &["mount", kind]), Ok(path.to_owned()), "{key}");
        let error = format!("linux.sysctl.{key}: needs the container to have its own {name} namespace");
        assert_eq!(sysctl(key, &["mount"]), Err(error));
    }
    let all = ["mount", "network", "ipc", "uts"];
    for key in ["vm.swappiness", "kernel.pid_max", "kernel.shmmaxx", "fs.file-max", "netx.a", "net"] {
        let error = format!("linux.sysctl.{key}: not in a namespace of the container");
        assert_eq!(sysctl(key, &all), Err(error));
    }
    for key in ["net.ipv4.//.//.kernel.panic", "net/../kernel/panic", "net..a", "", ".", "/net/a", "net/./a"]
    {
        let error = format!("linux.sysctl.{key}: not the name of a kernel parameter");
        assert_eq!(sysctl(key, &all), Err(error));
    }
    refused(
        "/linux/sysctl",
        json!({"kernel.hostname": "a"}),
        "linux.sysctl.kernel.hostname: contradicts hostname",
    );
}

/// The template with a user namespace whose ids are these.
fn with_users(uids: &Value, gids: &Value, facts: &Facts) -> Result<Plan, String> {
    let changes = [
        ("/linux/namespaces", namespaces(&["user", "mount", "uts", "pid", "network", "ipc"])),
        ("/linux/uidMappings", uids.clone()),
        ("/linux/gidMappings", gids.clone()),
    ];
    planned(&changes, facts)
}

#[test]
fn ids_are_mapped_by_who_may() {
    let own = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    let many = json!([{"containerID": 0, "hostID": 1000, "size": 1}, {"containerID": 1, "hostID": 100_000, "size": 9}]);
    let user = Facts { uid: 1000, gid: 1000, caps: CapSet::NONE, ..facts() };
    let writer = |ids: &Value, facts: &Facts| {
        with_users(ids, ids, facts).expect("a plan").users.expect("users").writer
    };
    assert_eq!(writer(&many, &facts()), MapWriter::Privileged);
    assert_eq!(writer(&many, &user), MapWriter::Helpers);
    assert_eq!(writer(&own, &user), MapWriter::OwnId);
    assert_eq!(writer(&own, &Facts { gid: 7, ..user.clone() }), MapWriter::Helpers);
    let plan = with_users(&own, &own, &user).expect("a plan");
    assert_eq!(plan.process.groups, None, "setgroups is forbidden");
    let only = vec![IdRange { inside: 0, outside: 1000, count: 1 }];
    assert_eq!(plan.users, Some(Users { uids: only.clone(), gids: only, writer: MapWriter::OwnId }));
    assert_eq!(with_users(&many, &many, &user).expect("a plan").process.groups, Some(Vec::new()));
}

#[test]
fn ids_that_cannot_be_mapped_are_refused() {
    let good = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    let check = |ids: Value, what: &str| {
        let error = with_users(&ids, &good, &facts()).map(|_| ()).expect_err(what);
        assert_eq!(error, format!("linux.uidMappings{what}"));
    };
    let range = |inside: u32, outside: u32, size: u32| json!({"containerID": inside, "hostID": outside, "size": size});
    check(json!([]), ": a new user namespace needs at least one");
    check(json!([range(0, 0, 0)]), "[0]: size must not be 0");
    check(json!([range(1, 0, u32::MAX)]), "[0]: goes beyond the last id");
    check(json!([range(0, 5, u32::MAX)]), "[0]: goes beyond the last id");
    check(json!([range(0, 0, 10), range(9, 100, 1)]), "[1]: overlaps with another");
    check(json!([range(0, 50, 10), range(100, 59, 1)]), "[1]: overlaps with another");
    refused("/linux/gidMappings", good.clone(), "linux.uidMappings: needs a user namespace");
    let forbidden = [
        ("/linux/namespaces", namespaces(&["user", "mount", "uts"])),
        ("/linux/uidMappings", good.clone()),
        ("/linux/gidMappings", good),
        ("/process/user/additionalGids", json!([5])),
    ];
    let user = Facts { uid: 1000, gid: 1000, caps: CapSet::NONE, ..facts() };
    let error = planned(&forbidden, &user).map(|_| ()).expect_err("setgroups is forbidden");
    assert_eq!(
        error,
        "process.user.additionalGids: cannot be set in a user namespace that forbids setgroups"
    );
}

#[test]
fn clocks_and_network_devices_need_their_namespace() {
    let offsets = json!({"monotonic": {"secs": -5, "nanosecs": 7}, "boottime": {"secs": 9}});
    let changes = [
        ("/linux/namespaces", namespaces(&["mount", "uts", "time"])),
        ("/linux/timeOffsets", offsets.clone()),
    ];
    let plan = planned(&changes, &facts()).expect("a plan");
    assert_eq!(plan.time_namespace, Some(vec![c"boottime 9 0".to_owned(), c"monotonic -5 7".to_owned()]));
    refused("/linux/timeOffsets", offsets, "linux.timeOffsets.boottime: needs a new time namespace");
    for (clock, offset, what) in [
        ("realtime", json!({"secs": 1}), "no clock of a time namespace: monotonic and boottime are"),
        ("monotonic", json!({"nanosecs": 1_000_000_000}), "nanosecs 1000000000 is a second or more"),
    ] {
        let changes = [changes[0].clone(), ("/linux/timeOffsets", json!({clock: offset}))];
        let error = planned(&changes, &facts()).map(|_| ()).expect_err(clock);
        assert_eq!(error, format!("linux.timeOffsets.{clock}: {what}"));
    }

    let plan = one("/linux/netDevices", json!({"eth0": {"name": "in0"}, "eth1": {}}));
    let device = |host_name: &str, name: &str| NetDevice { host_name: host_name.into(), name: name.into() };
    assert_eq!(plan.net_devices, [device("eth0", "in0"), device("eth1", "eth1")]);
    let numbered = one("/linux/netDevices", json!({"eth0": {"name": "in%d"}, "eth1": {"name": "in%d"}}));
    assert_eq!(numbered.net_devices, [device("eth0", "in%d"), device("eth1", "in%d")], "the kernel counts");
    let check = |devices: Value, what: &str| {
        refused("/linux/netDevices", devices, &format!("linux.netDevices.{what}"))
    };
    check(json!({"a/b": {}}), r#"a/b: "a/b" cannot be the name of a network device"#);
    check(json!({"a": {"name": "b%s"}}), r#"a: "b%s" cannot be the name of a network device"#);
    check(
        json!({"a": {"name": "0123456789abcdef"}}),
        r#"a: "0123456789abcdef" cannot be the name of a network device"#,
    );
    check(json!({"a": {"name": "c"}, "b": {"name": "c"}}), r#"b: a second device is to be named "c""#);
    let changes =
        [("/linux/namespaces", namespaces(&["mount", "uts"])), ("/linux/netDevices", json!({"a": {}}))];
    let error = planned(&changes, &facts()).map(|_| ()).expect_err("the host's network");
    assert_eq!(error, "linux.netDevices.a: needs a network namespace of the container");
}

#[test]
fn hooks_are_told_of_the_container() {
    let hook = json!({"path": "/bin/h", "args": ["h", "x"], "env": ["A=b"], "timeout": 5});
    let changes = [
        ("/hooks", json!({"createRuntime": [hook.clone(), hook], "poststop": [{"path": "/p"}]})),
        ("/annotations", json!({"b": "2", "a": "1"})),
    ];
    let hooks = planned(&changes, &facts()).expect("a plan").hooks;
    assert_eq!((hooks.create_runtime.len(), hooks.poststop.len(), hooks.prestart.len()), (2, 1, 0));
    assert_eq!(hooks.create_runtime[0].timeout, Some(std::time::Duration::from_secs(5)));
    assert_eq!(hooks.poststop[0].timeout, None);
    assert_eq!((&*hooks.subject.id, &*hooks.subject.bundle), ("x", Path::new("/bundle")));
    let pairs = [("a", "1"), ("b", "2")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(hooks.subject.annotations, pairs);
    let check = |hook: Value, what: &str| {
        refused("/hooks/poststart", json!([hook]), &format!("hooks.poststart[0]: {what}"))
    };
    check(json!({"path": "bin/h"}), r#"path "bin/h" is not absolute"#);
    check(json!({}), r#"path "" is not absolute"#);
    check(json!({"path": "/h", "timeout": 0}), "timeout 0 is not greater than 0");
    check(json!({"path": "/h", "timeout": -3}), "timeout -3 is not greater than 0");
    check(json!({"path": "/h", "args": ["a\0b"]}), "contains a NUL byte");
}

#[test]
fn the_process_is_taken_over() {
    let changes = [
        ("/process/user", json!({"uid": 5, "gid": 6, "umask": 0o27, "additionalGids": [7, 8]})),
        ("/process/cwd", json!("/a/../b")),
        ("/process/env", json!(["PATH=/x::/y", "HOME=/h"])),
        ("/process/consoleSize", json!({"height": 24, "width": 80})),
        ("/process/oomScoreAdj", json!(-1000)),
        ("/process/rlimits", json!([{"type": "RLIMIT_CORE", "soft": 1, "hard": u64::MAX}])),
        ("/linux/personality", json!({"domain": "LINUX32"})),
        ("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 4})),
        ("/process/execCPUAffinity", json!({"initial": "0-2,5", "final": ""})),
        ("/linux/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]})),
    ];
    let facts = Facts { home: None, ..facts() };
    let process = planned(&changes, &facts).expect("a plan").process;
    assert_eq!(
        (process.uid, process.gid, process.umask, process.groups),
        (5, 6, Some(0o27), Some(vec![7, 8]))
    );
    assert_eq!(process.cwd, c"b".to_owned());
    assert_eq!(process.path, [c"/x".to_owned(), c".".to_owned(), c"/y".to_owned()]);
    assert_eq!(process.env.len(), 2);
    let size = process.terminal.flatten().expect("a size");
    assert_eq!((size.rows, size.columns), (24, 80));
    assert_eq!(process.oom_score_adj, Some(c"-1000".to_owned()));
    assert_eq!(process.rlimits, [(Resource::RLIMIT_CORE, 1, u64::MAX)]);
    assert_eq!((process.personality, process.io_priority), (Some(8), Some(2 << 13 | 4)));
    assert_eq!(process.cpu_affinity, [Some(vec![0, 1, 2, 5]), None]);
    let policy = process.memory_policy.expect("a policy");
    assert_eq!((policy.mode, policy.nodes), (2 | 1 << 15, vec![0]));
    assert!(process.no_new_privileges && process.interactive && !process.keep_keyring);
}

#[test]
fn of_a_variable_given_twice_the_last_counts() {
    let process =
        one("/process/env", json!(["A=1", "PATH=/x", "B", "A=2", "PATH=/y", "HOME=/h", "A=3"])).process;
    let env: Vec<_> = process.env.iter().map(|entry| entry.to_string_lossy()).collect();
    assert_eq!(env, ["A=3", "PATH=/y", "B", "HOME=/h", "HOME=/root"]);
    assert_eq!(process.path, [c"/y".to_owned()]);
}

#[test]
fn a_process_that_cannot_be_is_refused() {
    refused("/process/args", json!([]), "process.args: empty");
    refused("/process/args", json!(["a", "b\0"]), "process.args[1]: contains a NUL byte");
    refused("/process/cwd", json!(""), r#"process.cwd: "" is not absolute"#);
    refused("/process/cwd", json!("a"), r#"process.cwd: "a" is not absolute"#);
    refused("/process/user/uid", json!(u32::MAX), "process.user.uid: 4294967295 is no id");
    refused("/process/user/umask", json!(0o1000), "process.user.umask: 512 is greater than 511");
    refused("/process/oomScoreAdj", json!(1001), "process.oomScoreAdj: 1001 is not between -1000 and 1000");
    let limit = |name: &str, soft: u64| json!({"type": name, "soft": soft, "hard": 5});
    let rlimits =
        |limits: Value, what: &str| refused("/process/rlimits", limits, &format!("process.rlimits{what}"));
    rlimits(json!([limit("NOFILE", 1)]), r#"[0]: unknown limit "NOFILE""#);
    rlimits(json!([limit("RLIMIT_CPU", 1), limit("RLIMIT_CPU", 2)]), "[1]: second entry for RLIMIT_CPU");
    rlimits(json!([limit("RLIMIT_CPU", 6)]), "[0]: soft limit 6 is above the hard limit 5");
    refused(
        "/process/ioPriority",
        json!({"class": "IOPRIO_CLASS_BE", "priority": 8}),
        "process.ioPriority: priority 8 is not between 0 and 7",
    );
    refused("/process/ioPriority", json!({"class": "BE"}), r#"process.ioPriority: unknown class "BE""#);
    for list in ["a", "1-", "-1", "3-1", "+1", "0-99999999999", "65536"] {
        let error = format!("process.execCPUAffinity.final: {list:?} is not a list of numbers and ranges");
        refused("/process/execCPUAffinity", json!({"final": list}), &error);
    }
    refused("/linux/personality", json!({"domain": "BSD"}), r#"linux.personality: unknown domain "BSD""#);
    refused(
        "/linux/personality",
        json!({"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]}),
        r#"linux.personality: unknown flag "ADDR_NO_RANDOMIZE""#,
    );
    refused("/linux/memoryPolicy", json!({"mode": "BIND"}), r#"linux.memoryPolicy: unknown mode "BIND""#);
}

#[test]
fn schedulers_take_what_belongs_to_them() {
    let scheduler =
        |given: Value| planned(&[("/process/scheduler", given)], &facts()).map(|plan| plan.process.scheduler);
    let batch = Scheduler { policy: 3, nice: 5, flags: 1, ..Scheduler::default() };
    let given = json!({"policy": "SCHED_BATCH", "nice": 5, "flags": ["SCHED_FLAG_RESET_ON_FORK"]});
    assert_eq!(scheduler(given), Ok(Some(batch)));
    let deadline =
        Scheduler { policy: 6, runtime_ns: 1, deadline_ns: 2, period_ns: 3, ..Scheduler::default() };
    let given = json!({"policy": "SCHED_DEADLINE", "runtime": 1, "deadline": 2, "period": 3});
    assert_eq!(scheduler(given), Ok(Some(deadline)));
    for (given, what) in [
        (json!({}), r#"unknown policy """#),
        (json!({"policy": "SCHED_FIFO", "priority": -1}), "priority -1 is negative"),
        (json!({"policy": "SCHED_OTHER", "priority": 1}), "priority is for SCHED_FIFO and SCHED_RR only"),
        (json!({"policy": "SCHED_OTHER", "nice": 20}), "nice 20 is not between -20 and 19"),
        (
            json!({"policy": "SCHED_RR", "period": 1}),
            "runtime, deadline and period are for SCHED_DEADLINE only",
        ),
        (json!({"policy": "SCHED_RR", "flags": ["X"]}), r#"unknown flag "X""#),
    ] {
        assert_eq!(scheduler(given), Err(format!("process.scheduler: {what}")));
    }
}

#[test]
fn capabilities_that_cannot_be_granted_are_left_out_with_a_warning() {
    let all = ["bounding", "effective", "permitted", "inheritable", "ambient"];
    let every = |names: &[&str]| -> Value { all.iter().map(|set| (set.to_string(), json!(names))).collect() };
    let kill = CapSets {
        bounding: CapSet::KILL,
        effective: CapSet::KILL,
        permitted: CapSet::KILL,
        inheritable: CapSet::KILL,
        ambient: CapSet::KILL,
    };
    let process = one("/process/capabilities", every(&["CAP_KILL"])).process;
    assert_eq!((process.caps, process.warnings.len(), process.drop.len()), (kill, 0, 40));
    let process = one("/process/capabilities", every(&["CAP_KILL", "CAP_FLY", "KILL", "cap_x"])).process;
    let warning = "process.capabilities: unknown or unavailable, left out: CAP_FLY, KILL, cap_x";
    assert_eq!((process.caps, process.warnings), (kill, vec![warning.to_owned()]));
    // A kernel or a caller that has fewer.
    let few = Facts { last_cap: 30, caps: CapSet(u64::MAX) & !CapSet::NET_RAW, ..facts() };
    let given = [("/process/capabilities", every(&["CAP_KILL", "CAP_BPF", "CAP_NET_RAW"]))];
    let process = planned(&given, &few).expect("a plan").process;
    assert_eq!((process.caps, process.drop.last()), (kill, Some(&30)));
    assert_eq!(
        process.warnings,
        ["process.capabilities: unknown or unavailable, left out: CAP_BPF, CAP_NET_RAW"]
    );
    // Sets that the kernel would refuse.
    let given = json!({"bounding": ["CAP_KILL"], "effective": ["CAP_CHOWN", "CAP_KILL"], "permitted": ["CAP_KILL"],
        "inheritable": ["CAP_CHOWN"], "ambient": ["CAP_KILL"]});
    let process = one("/process/capabilities", given).process;
    assert_eq!(
        (process.caps.effective, process.caps.inheritable, process.caps.ambient),
        (CapSet::KILL, CapSet::NONE, CapSet::NONE)
    );
    let warnings = [
        "process.capabilities.effective: not permitted, left out: CAP_CHOWN",
        "process.capabilities.inheritable: not in the bounding set, left out: CAP_CHOWN",
    ];
    assert_eq!(process.warnings, warnings);
    assert_eq!(one("/process/capabilities", json!(null)).process.caps, CapSets::default());
}

#[test]
fn in_a_user_namespace_every_capability_can_be_had() {
    let ids = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    let user = Facts { uid: 1000, gid: 1000, caps: CapSet::NONE, ..facts() };
    let process = with_users(&ids, &ids, &user).expect("a plan").process;
    assert_eq!(
        process.caps.bounding.names().collect::<Vec<_>>(),
        ["KILL", "NET_BIND_SERVICE", "AUDIT_WRITE"]
    );
    assert_eq!(process.warnings, [] as [&str; 0]);
    // Not so in the namespace that the runtime is in already.
    let own = json!([{"type": "user", "path": "/proc/self/ns/user"}, {"type": "mount"}, {"type": "uts"}]);
    let few = Facts { caps: CapSet::SYS_ADMIN, shared: CloneFlags::CLONE_NEWUSER, ..facts() };
    let process = planned(&[("/linux/namespaces", own)], &few).expect("a plan").process;
    assert_eq!((process.caps.bounding, process.warnings.len()), (CapSet::NONE, 1));
}

#[test]
fn what_the_host_lacks_is_refused() {
    refused(
        "/process/apparmorProfile",
        json!("docker-default"),
        r#"process.apparmorProfile: "docker-default" asked for, but AppArmor is not enabled on this host"#,
    );
    refused(
        "/process/selinuxLabel",
        json!("a:b:c"),
        r#"process.selinuxLabel: "a:b:c" asked for, but SELinux is not enabled on this host"#,
    );
    refused("/linux/intelRdt", json!({}), "linux.intelRdt: resctrl is not mounted on this host");
    let able = Facts { apparmor: true, selinux: true, resctrl: true, ..facts() };
    let changes = [
        ("/process/apparmorProfile", json!("p")),
        ("/process/selinuxLabel", json!("l")),
        ("/linux/intelRdt", json!({"l3CacheSchema": "L3:0=f", "enableMonitoring": true})),
    ];
    let plan = planned(&changes, &able).expect("a plan");
    assert_eq!((plan.process.apparmor, plan.process.selinux), (Some(c"p".to_owned()), Some(c"l".to_owned())));
    let group = plan.rdt.expect("a group");
    assert_eq!((group.directory, group.origin, group.monitor), ("x".into(), Origin::Own, Some("x".into())));
}

#[test]
fn groups_of_resctrl_are_those_of_the_configuration() {
    let able = Facts { resctrl: true, ..facts() };
    let group =
        |given: Value| planned(&[("/linux/intelRdt", given)], &able).map(|plan| plan.rdt.expect("a group"));
    let given = json!({"closID": "gold", "l3CacheSchema": "L3:0=f\nMB:0=1", "memBwSchema": "MB:0=20", "schemata": ["L2:0=1"]});
    let gold = group(given).expect("a group");
    assert_eq!((gold.directory, gold.origin, gold.monitor), ("gold".into(), Origin::Shared, None));
    assert_eq!(gold.schemata, ["L3:0=f", "MB:0=20", "L2:0=1"]);
    assert_eq!(group(json!({"closID": "gold"})).expect("a group").origin, Origin::Given);
    assert_eq!(group(json!({"closID": "/"})).expect("a group").directory, Path::new(""));
    for name in ["..", "a/b", "info"] {
        let error = format!("linux.intelRdt: closID {name:?} cannot be the name of a group");
        assert_eq!(group(json!({"closID": name})), Err(error));
    }
    let error = r#"linux.intelRdt: memBwSchema "L3:0=1" is not a line that begins with MB:"#;
    assert_eq!(group(json!({"memBwSchema": "L3:0=1"})), Err(error.to_owned()));
}

#[test]
fn who_answers_system_calls_must_be_said() {
    let notify = json!([{"names": ["mknod"], "action": "SCMP_ACT_NOTIFY"}]);
    let seccomp = |rest: Value| {
        let mut given = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": notify});
        given.as_object_mut().expect("an object").extend(rest.as_object().expect("an object").clone());
        planned(&[("/linux/seccomp", given)], &facts()).map(|plan| plan.process.listener)
    };
    let listener = seccomp(json!({"listenerPath": "/run/a", "listenerMetadata": "m"})).expect("a plan");
    let listener = listener.expect("a listener");
    assert_eq!((&*listener.socket, &*listener.metadata), (Path::new("/run/a"), "m"));
    assert_eq!(seccomp(json!({"listenerPath": "/run/a", "syscalls": []})), Ok(None), "nothing to answer");
    let error = "linux.seccomp.listenerMetadata: there is no listenerPath";
    assert_eq!(seccomp(json!({"listenerMetadata": "m"})), Err(error.to_owned()));
    let error = r#"linux.seccomp.listenerPath: SCMP_ACT_NOTIFY needs an absolute path, not """#;
    assert_eq!(seccomp(json!({})), Err(error.to_owned()));
    let error = r#"linux.seccomp.syscalls[0].action: unknown action "X""#;
    assert_eq!(seccomp(json!({"syscalls": [{"names": ["a"], "action": "X"}]})), Err(error.to_owned()));
}

/// Configurations as they are really written: by runc 1.1 itself, docker 20.10, containerd 1.6 (`ctr`) and podman 4.3.
const REAL: [(&str, &str); 8] = [
    ("runc", include_str!("fixtures/runc.json")),
    ("runc-rootless", include_str!("fixtures/runc-rootless.json")),
    ("docker", include_str!("fixtures/docker.json")),
    ("docker-limits", include_str!("fixtures/docker-limits.json")),
    ("docker-privileged", include_str!("fixtures/docker-privileged.json")),
    ("containerd", include_str!("fixtures/containerd.json")),
    ("podman", include_str!("fixtures/podman.json")),
    ("podman-userns", include_str!("fixtures/podman-userns.json")),
];

#[test]
fn what_engines_write_has_a_plan() {
    let legacy = crate::cgroup::Controller::ALL.map(|found| (found, Path::new("/c1").join(found.name())));
    let cgroups = Layout { legacy: legacy.to_vec(), ..facts().cgroups };
    let facts = Facts { cgroups, ..facts() };
    let planned = |name: &str| {
        let (_, text) = REAL.iter().find(|(known, _)| *known == name).expect(name);
        plan(&bundle(text), "x", &facts, &Terms::default()).expect(name)
    };
    for (name, _) in REAL {
        assert_eq!(planned(name).process.warnings, [] as [&str; 0], "{name}");
    }
    assert!(planned("docker").process.seccomp.is_some());
    assert_eq!(planned("docker").hooks.prestart.len(), 1, "docker sets the network up by a hook");
    let limits = planned("docker-limits");
    assert_eq!((limits.process.uid, limits.process.groups), (1000, Some(vec![1000, 5])));
    assert!(limits.root.read_only && limits.process.terminal.is_some());
    assert!(!limits.process.caps.bounding.contains(CapSet::CHOWN));
    assert_eq!(limits.process.caps.effective, CapSet::NONE);
    let privileged = planned("docker-privileged");
    assert_eq!(privileged.process.caps.bounding, CapSet::all(37), "docker 20.10 knows no newer ones");
    assert_eq!((privileged.process.seccomp, privileged.hide.len()), (None, 0));
    assert!(!privileged.namespaces.contains(CloneFlags::CLONE_NEWPID));
    let users = planned("podman-userns").users.expect("users");
    assert_eq!(users.uids, [IdRange { inside: 0, outside: 100_000, count: 65_536 }]);
}
