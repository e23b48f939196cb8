use serde_json::{Value, json};

use super::*;

/// A profile as `skiff run` writes it, of a program that made these calls.
fn profile(calls: &[&str]) -> Value {
    let call = |name: &&str| {
        json!({
            "name": name, "number": number(name), "abi": "native", "calls": 1, "returned": 1, "refused": 0,
            "unreturned": 0, "errors": {},
        })
    };
    let workload: Vec<Value> = calls.iter().map(call).collect();
    json!({
        "schema": "skiff.profile/1",
        "container": {"id": "0", "name": null, "image": "web", "command": ["/bin/web"]},
        "exit": {"code": 0, "signal": null},
        "timeline": {"phases": [], "program_us": 1000.0, "first_output_us": null, "end_us": 1_001_000.0},
        "system_calls": {"init": [], "workload": workload},
        "resources": {"workload": {"cpu_ns": 250_000_000}},
        "cgroup": {"memory_peak_bytes": 64 << 20, "oom_kills": 0},
        "execs": {"total": 1, "listed": [{"file": "/bin/web"}]},
        "events_lost": 0,
        "run": {
            "flags": ["--network=host"], "image": "web", "command": ["/bin/web"], "uid": 0, "gid": 0,
            "seccomp": "builtin", "capabilities": ["CHOWN", "KILL", "NET_RAW", "SYS_ADMIN"], "devices": [],
        },
        "uses": {
            "capabilities": [
                {"name": "CHOWN", "granted": 2, "refused": 0, "calls": {"fchown": 2}},
                {"name": "SYS_ADMIN", "granted": 9, "refused": 0, "calls": {"mmap": 9}},
                {"name": "NET_RAW", "granted": 0, "refused": 1, "calls": {"socket": 1}},
            ],
            "written": [
                {"directory": "/run", "uid": 0, "gid": 0, "mode": 0o755, "filled": false},
                {"directory": "/var/lib/web", "uid": 33, "gid": 33, "mode": 0o750, "filled": true},
            ],
            "devices": [], "sysctls": [], "tasks_peak": 7, "descriptors_peak": 64, "lost": 0,
        },
    })
}

fn number(name: &str) -> Option<u32> {
    skiff_sys::syscalls::number(name)
}

fn recorded(profile: &Value) -> Recorded {
    Recorded::parse(profile.to_string().as_bytes()).expect("a profile")
}

fn policy(profiles: &[Value]) -> Policy {
    let runs: Vec<Recorded> = profiles.iter().map(recorded).collect();
    Policy::of(Needs::of(&runs, false).expect("needs"), Terms::default()).expect("a policy")
}

fn all_files(policy: &Policy) -> Vec<File> {
    files(policy, &Engine::ALL, "/p").expect("files")
}

fn file(policy: &Policy, path: &str) -> String {
    all_files(policy).into_iter().find(|file| file.path == path).expect("the file").content
}

/// What the filter does with a call, whatever its arguments: allowed, an error, or nothing said.
fn said(filter: &str, name: &str) -> Vec<Value> {
    let filter: Value = serde_json::from_str(filter).expect("JSON");
    let rules = filter["syscalls"].as_array().expect("rules").clone();
    let of_it = |rule: &Value| rule["names"].as_array().expect("names").contains(&name.into());
    rules.into_iter().filter(of_it).collect()
}

#[test]
fn only_what_was_called_and_what_starts_it_is_allowed() {
    let policy = policy(&[profile(&["read", "fchown", "mmap"])]);
    let filter = seccomp(&policy, Engine::Skiff);
    for name in ["read", "fchown", "mmap", "execve", "exit_group", "rt_sigreturn"] {
        assert_eq!(said(&filter, name)[0]["action"], "SCMP_ACT_ALLOW", "{name}");
    }
    for name in ["ptrace", "mount", "openat", "keyctl", "socket", "clone", "write"] {
        assert!(said(&filter, name).is_empty(), "{name}");
    }
    for name in ["readv", "munmap", "brk"] {
        assert_eq!(said(&filter, name)[0]["action"], "SCMP_ACT_ALLOW", "{name} goes with another");
    }
    assert!(filter.contains(r#""defaultAction": "SCMP_ACT_ERRNO""#));
    assert!(said(&seccomp(&policy, Engine::Docker), "openat")[0]["action"] == "SCMP_ACT_ALLOW");
}

#[test]
fn an_init_that_was_recorded_gets_its_own_calls() {
    let with = |flag: &str| {
        let mut profile = profile(&["read"]);
        profile["run"]["flags"] = json!(["--network=host", flag]);
        policy(&[profile])
    };
    let check = |engine: Engine, call: &str, expected: bool| {
        for (flag, has_init) in
            [("--init", true), ("--init=true", true), ("--init=false", false), ("--rm", false)]
        {
            let filter = seccomp(&with(flag), engine);
            assert_eq!(!said(&filter, call).is_empty(), has_init && expected, "{engine:?} {call} {flag}");
        }
    };
    check(Engine::Skiff, "execveat", true);
    check(Engine::Docker, "rt_sigtimedwait", true);
    check(Engine::Podman, "signalfd4", true);
    check(Engine::Kubernetes, "rt_sigtimedwait", false);
}

#[test]
fn runs_are_merged_and_their_order_is_of_no_importance() {
    let one = profile(&["read", "mmap"]);
    let mut other = profile(&["write", "mmap"]);
    other["cgroup"]["memory_peak_bytes"] = (100_u64 << 20).into();
    other["uses"]["written"] =
        json!([{"directory": "/var", "uid": 0, "gid": 0, "mode": 0o755, "filled": true}]);
    let (forth, back) = (policy(&[one.clone(), other.clone()]), policy(&[other, one]));
    assert_eq!(all_files(&forth), all_files(&back));
    assert_eq!(forth.limits.memory_bytes, Some(150 << 20));
    let paths: Vec<&str> = forth.writable.iter().map(|directory| directory.path.as_str()).collect();
    assert_eq!(paths, ["/run", "/var"], "what lies in another is written there");
    assert!(forth.needs.calls.contains("read") && forth.needs.calls.contains("write"));
}

#[test]
fn capabilities_that_no_check_has_needed_are_dropped() {
    let kept = |policy: &Policy| policy.capabilities.iter().cloned().collect::<Vec<_>>();
    assert_eq!(kept(&policy(&[profile(&["mmap"])])), ["CHOWN"]);
    let mut mounts = profile(&["mmap", "mount"]);
    mounts["uses"]["capabilities"][1]["calls"]["mount"] = 1.into();
    assert_eq!(kept(&policy(&[mounts])), ["CHOWN", "SYS_ADMIN"]);
    let mut unknown = profile(&["mmap"]);
    unknown["uses"]["capabilities"] = Value::Null;
    let unknown = policy(&[profile(&["mmap"]), unknown]);
    assert_eq!(kept(&unknown), ["CHOWN", "KILL", "NET_RAW", "SYS_ADMIN"]);
    assert!(unknown.needs.notes.iter().any(|note| note.contains("capabilities is not recorded")));
}

#[test]
fn conditions_of_the_default_filter_stay() {
    let policy_of = |filter: &str| {
        let mut profile = profile(&["socket", "clone", "personality"]);
        profile["run"]["seccomp"] = filter.into();
        seccomp(&policy(&[profile]), Engine::Skiff)
    };
    let filter = policy_of("builtin");
    assert!(said(&filter, "socket").iter().all(|rule| rule["args"].is_array()));
    assert_eq!(said(&filter, "socket").len(), 26);
    assert_eq!(said(&filter, "clone")[0]["args"][0]["op"], "SCMP_CMP_MASKED_EQ");
    assert_eq!(said(&filter, "clone3")[0]["errnoRet"], 38);
    let filter = policy_of("unconfined");
    assert!(said(&filter, "socket").iter().all(|rule| rule["args"].is_null()));
    assert!(said(&filter, "clone").iter().all(|rule| rule["args"].is_null()));
}

#[test]
fn namespaces_are_for_programs_that_have_been_seen_to_need_them() {
    let filter_of = |calls: &[&str], filter: &str, engine: Engine| {
        let mut profile = profile(calls);
        profile["run"]["seccomp"] = filter.into();
        seccomp(&policy(&[profile]), engine)
    };
    let are_limited = |filter: &str| {
        let (clone, clone3) = (said(filter, "clone"), said(filter, "clone3"));
        assert_eq!((clone.len(), clone3.len()), (1, 1), "{filter}");
        assert_eq!(clone[0]["args"][0]["op"], "SCMP_CMP_MASKED_EQ");
        assert_eq!(clone3[0]["errnoRet"], 38);
    };
    are_limited(&filter_of(&["clone3"], "builtin", Engine::Skiff));
    for engine in [Engine::Docker, Engine::Kubernetes] {
        are_limited(&filter_of(&["read"], "unconfined", engine));
    }
    let filter = filter_of(&["clone", "clone3"], "unconfined", Engine::Docker);
    for name in ["clone", "clone3"] {
        let rules = said(&filter, name);
        assert!(rules.len() == 1 && rules[0]["args"].is_null() && rules[0]["action"] == "SCMP_ACT_ALLOW");
    }
}

#[test]
fn what_was_refused_is_refused_with_the_same_error() {
    let mut profile = profile(&["read"]);
    let refused = |name: &str, error: &str| {
        json!({
            "name": name, "number": number(name), "abi": "native", "calls": 3, "returned": 0, "refused": 3,
            "unreturned": 0, "errors": {error: 3},
        })
    };
    let calls = profile["system_calls"]["workload"].as_array_mut().expect("calls");
    calls.extend([refused("io_uring_setup", "ENOSYS"), refused("keyctl", "EPERM")]);
    let filter = seccomp(&policy(&[profile]), Engine::Skiff);
    assert_eq!(said(&filter, "io_uring_setup")[0]["errnoRet"], 38);
    assert!(said(&filter, "keyctl").is_empty(), "EPERM is what everything else gets");
}

#[test]
fn flags_say_the_policy_in_the_words_of_each_engine() {
    let policy = policy(&[profile(&["read"])]);
    let expected = |engine: &str, owner: &str| {
        format!(
            "--cap-drop=ALL\n--cap-add=CHOWN\n--security-opt=no-new-privileges\n\
             --security-opt=seccomp=/p/{engine}/seccomp.json\n--read-only\n--tmpfs=/run:rw,mode=755{owner}\n\
             --volume=/var/lib/web\n--memory=100663296\n--pids-limit=32\n--ulimit=nofile=16384:16384\n"
        )
    };
    for engine in ["skiff", "docker"] {
        assert_eq!(file(&policy, &format!("{engine}/flags")), expected(engine, ",uid=0,gid=0"));
    }
    assert_eq!(file(&policy, "podman/flags"), expected("podman", ""));
    let pod = file(&policy, "kubernetes/pod.yaml");
    for line in [
        "readOnlyRootFilesystem: true",
        "allowPrivilegeEscalation: false",
        "drop: [\"ALL\"]",
        "add: [\"CHOWN\"]",
        "cpu: \"375m\"",
        "mountPath: \"/var/lib/web\"",
        "localhostProfile: skiff/seccomp.json",
    ] {
        assert!(pod.contains(line), "{line}: {pod}");
    }
    let compose = file(&policy, "docker/compose.yaml");
    assert!(
        compose.contains("    read_only: true\n    mem_limit: 100663296\n    pids_limit: 32\n"),
        "{compose}"
    );
}

#[test]
fn devices_are_kept_if_they_were_opened_and_no_wider() {
    let mut profile = profile(&["openat"]);
    profile["run"]["devices"] = json!([
        {"source": "/dev/fuse", "target": "/dev/fuse", "major": 10, "minor": 229},
        {"source": "/dev/kvm", "target": "/dev/vm", "major": 10, "minor": 232},
    ]);
    profile["uses"]["devices"] = json!([{"major": 10, "minor": 232, "reads": 1, "writes": 0}]);
    let flags = file(&policy(&[profile]), "docker/flags");
    assert!(flags.contains("--device=/dev/kvm:/dev/vm:r\n") && !flags.contains("fuse"), "{flags}");
}

#[test]
fn a_program_that_writes_into_the_root_itself_keeps_it_writable() {
    let mut profile = profile(&["openat"]);
    profile["uses"]["written"] =
        json!([{"directory": "/", "uid": 0, "gid": 0, "mode": 0o755, "filled": true}]);
    let policy = policy(&[profile]);
    assert!(matches!(policy.root, Root::Writable(_)) && policy.writable.is_empty());
    assert!(!file(&policy, "docker/flags").contains("--read-only"));
    assert!(file(&policy, "kubernetes/pod.yaml").contains("readOnlyRootFilesystem: false"));
}

#[test]
fn what_is_lost_is_refused() {
    let check = |change: fn(&mut Value), expected: &str| {
        let mut profile = profile(&["read"]);
        change(&mut profile);
        let runs = [recorded(&profile)];
        let refused = Needs::of(&runs, false).expect_err("refused");
        assert!(refused.contains(expected), "{refused}");
        assert!(Needs::of(&runs, true).is_ok(), "with losses");
    };
    check(|profile| profile["events_lost"] = 1.into(), "1 events are missing");
    check(|profile| profile["uses"]["lost"] = 2.into(), "2 events are missing");
    check(
        |profile| {
            profile["events_lost"] = u64::MAX.into();
            profile["uses"]["lost"] = 1.into();
        },
        "18446744073709551615 events are missing",
    );
    check(
        |profile| {
            profile["system_calls"]["workload"][0]["number"] = 480.into();
            profile["system_calls"]["workload"][0]["name"] = "syscall_480".into();
            profile["system_calls"]["workload"].as_array_mut().expect("calls").push(json!({
                "name": "read", "number": 0, "abi": "native", "returned": 1, "refused": 0, "unreturned": 0,
            }));
        },
        "syscall_480 has no name",
    );
    let refused = Needs::of(&[recorded(&profile(&[]))], true).expect_err("nothing recorded");
    assert_eq!(refused, "no system call of a program is recorded");
}

#[test]
fn what_is_not_a_profile_is_refused_in_one_line() {
    let check = |change: fn(&mut Value), expected: &str| {
        let mut profile = profile(&["read"]);
        change(&mut profile);
        let refused = Recorded::parse(profile.to_string().as_bytes()).expect_err(expected);
        assert!(refused.contains(expected) && !refused.contains('\n'), "{refused}");
    };
    check(|p| p["schema"] = "skiff.profile/2".into(), "not a form of profile");
    check(
        |p| p["system_calls"]["workload"][0]["name"] = "write".into(),
        "system call 0 is not called \"write\"",
    );
    check(|p| p["system_calls"]["workload"][0]["name"] = "re\nad".into(), "is not called");
    check(|p| p["uses"]["capabilities"][0]["name"] = "ALL".into(), "unknown capability \"ALL\"");
    check(|p| p["run"]["capabilities"] = json!(["CAP_CHOWN\n"]), "unknown capability");
    check(|p| p["run"]["flags"] = json!(["rm -rf"]), "is not a flag");
    check(|p| p["uses"]["written"][0]["directory"] = "/run/../etc".into(), "is not a directory's path");
    check(|p| p["uses"]["written"][0]["directory"] = "run".into(), "is not a directory's path");
    check(|p| p["uses"]["written"][0]["mode"] = 0o10_000.into(), "path and mode");
    check(|p| p["run"]["seccomp"] = "off".into(), "unknown variant");
    check(|p| p["execs"]["listed"] = vec![json!({"file": ""}); 8193].into(), "8193 entries");
    check(|p| p["container"]["command"] = json!(["x".repeat(8193)]), "too long");
    check(|p| p["events_lost"] = json!(-1), "invalid value");
    assert!(Recorded::parse(b"{").is_err_and(|refused| !refused.contains('\n')));
    assert!(Recorded::parse(&vec![b' '; MAX_BYTES + 1]).is_err_and(|refused| refused == "more than 16 MiB"));
}

#[test]
fn paths_cannot_break_out_of_any_form() {
    let with = |path: &str| {
        let mut profile = profile(&["read"]);
        profile["uses"]["written"][0]["directory"] = path.into();
        let runs = [recorded(&profile)];
        Policy::of(Needs::of(&runs, false).expect("needs"), Terms::default())
    };
    for bad in ["/a:exec", "/a,exec", "/a\nprivileged: true", "/a\" b", "/$HOME", "/a\\b"] {
        let refused = with(bad).expect_err(bad);
        assert!(refused.contains("flags of engines cannot say") && !refused.contains('\n'), "{refused}");
    }
    let policy = with("/it's #1 & more").expect("a policy");
    let flags = file(&policy, "docker/flags");
    assert!(flags.contains("'--tmpfs=/it'\\''s #1 & more:rw,mode=755,uid=0,gid=0'\n"), "{flags}");
    let pod = file(&policy, "kubernetes/pod.yaml");
    assert!(pod.contains("mountPath: \"/it's #1 & more\"\n"), "{pod}");
}

#[test]
fn a_run_is_compared_with_those_before_it() {
    let needs = policy(&[profile(&["openat", "mmap"])]).needs;
    let check = |change: fn(&mut Value), expected: &[&str]| {
        let mut run = profile(&["openat", "mmap"]);
        change(&mut run);
        assert_eq!(needs.refusals(&recorded(&run)), expected);
    };
    check(|_| {}, &[]);
    check(|run| run["system_calls"]["workload"][0]["errors"] = json!({"ENOENT": 3}), &[]);
    check(
        |run| run["system_calls"]["workload"][0]["errors"] = json!({"EROFS": 3}),
        &["system call openat failed with EROFS, 3 times; never while it was recorded"],
    );
    check(
        |run| {
            let refused = json!({"name": "ptrace", "number": 101, "abi": "native", "returned": 0, "refused": 1,
                "unreturned": 0, "errors": {"EPERM": 1}});
            run["system_calls"]["workload"].as_array_mut().expect("calls").push(refused);
        },
        &["system call ptrace was refused by the filter, once"],
    );
    check(
        |run| {
            run["uses"]["capabilities"] = json!([
                {"name": "KILL", "granted": 0, "refused": 2, "calls": {"kill": 2}},
                {"name": "SYS_ADMIN", "granted": 0, "refused": 9, "calls": {"mmap": 9}},
            ]);
        },
        &["capability KILL was refused, 2 times"],
    );
    check(
        |run| run["exit"] = json!({"code": null, "signal": 9}),
        &["the program ended with exit code 137; while it was recorded: 0"],
    );
    check(
        |run| run["cgroup"]["oom_kills"] = 1.into(),
        &["the limit of memory has cost 1 processes their lives"],
    );
    check(|run| run["events_lost"] = 4.into(), &["4 events are missing, and refusals may be among them"]);
}

#[test]
fn calls_that_were_refused_at_times_must_still_get_through_at_others() {
    let call = |returned: u32, refused: u32, errors: Value| {
        let mut profile = profile(&["mmap", "socket"]);
        let socket = &mut profile["system_calls"]["workload"][1];
        (socket["returned"], socket["refused"]) = (returned.into(), refused.into());
        socket["errors"] = errors;
        profile
    };
    let needs = policy(&[call(3, 1, json!({"EPERM": 1}))]).needs;
    let check = |run: &Value, expected: &[&str]| assert_eq!(needs.refusals(&recorded(run)), expected);
    check(&call(2, 2, json!({"EPERM": 2})), &[]);
    check(&call(0, 2, json!({"EPERM": 2})), &["system call socket was refused by the filter, 2 times"]);
    check(
        &call(2, 2, json!({"EPERM": 2, "EACCES": 1})),
        &["system call socket failed with EACCES, once; never while it was recorded"],
    );
}

#[test]
fn every_call_named_here_exists() {
    let launches =
        Engine::ALL.into_iter().flat_map(|engine| engine.launch().calls.iter().chain(engine.init()));
    let siblings = super::calls::SIBLINGS.into_iter().flatten().filter(|name| **name != "mmap2");
    for name in launches.chain(siblings).copied().chain(super::calls::ALWAYS.iter().map(|always| always.call))
    {
        assert!(number(name).is_some(), "{name}");
    }
    for name in super::calls::ALWAYS_COMPAT {
        assert!((0..500).any(|number| skiff_sys::syscalls::name_i386(number) == Some(name)), "{name}");
    }
}
