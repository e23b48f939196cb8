//! `--profile`: every figure against an independent count of the same thing.
//!
//! The load is `probe calls`, which says itself what it must have cost, or a limit that is known to have been reached.

use std::fs;

use serde_json::Value;

use crate::harness::{Case, Skiff, need, parse, patience};

/// Whether this host lets eBPF programs be loaded. Everything else that goes wrong is a failure.
fn can_profile() -> bool {
    std::path::Path::new("/sys/kernel/btf/vmlinux").exists()
}

/// Runs a command with a profile; returns what it printed, and the profile.
fn profile(case: &Case, flags: &[&str], command: &[&str]) -> (String, Value) {
    let file = case.dir.join(format!("profile.{}", fs::read_dir(&case.dir).expect("the case").count()));
    let flag = format!("--profile={}", file.display());
    let output = case.run(&[flags, &[&flag]].concat(), command);
    assert!(output.stderr.contains("system call"), "no report: {output}");
    let profile = parse(&fs::read_to_string(&file).unwrap_or_else(|e| panic!("{e}: {output}")));
    assert_eq!(profile["schema"], "skiff.profile/1");
    assert_eq!(profile["events_lost"], 0, "{profile}");
    // What a kernel lacks or forbids is said otherwise.
    assert!(!profile.to_string().contains("Verifier output"), "{profile}");
    (output.stdout, profile)
}

/// The line of a system call in a phase; null when it was not made.
fn call<'a>(profile: &'a Value, phase: &str, name: &str) -> &'a Value {
    let calls = profile["system_calls"][phase].as_array().expect("a list of calls");
    calls.iter().find(|call| call["name"] == name).unwrap_or(&Value::Null)
}

/// Asserts that the profile has exactly what the load says it did.
#[track_caller]
fn is_exact(printed: &str, profile: &Value) {
    let expected = parse(printed);
    for (name, want) in expected["calls"].as_object().expect("calls") {
        let got = call(profile, "workload", name);
        assert_eq!(got["calls"], want["count"], "{name}: {got}, {}", profile["execs"]);
        assert_eq!(got["errors"], want["errors"], "{name}: {got}");
        assert!(got["p50_ns"].as_u64() <= got["p99_ns"].as_u64(), "{got}");
        assert!(got["total_ns"].as_u64() >= got["max_ns"].as_u64(), "{got}");
    }
    let workload = &profile["resources"]["workload"];
    let created = workload["processes_created"].as_u64().unwrap_or(0)
        + workload["threads_created"].as_u64().unwrap_or(0);
    assert_eq!(Some(created), expected["created"].as_u64(), "{workload}");
    if let Some(faults) = workload["minor_faults"].as_u64() {
        let pages = expected["pages"].as_u64().expect("a number");
        // The program's own text, data and stacks come on top, children's after each fork.
        let own = 400 + created * 150;
        assert!((pages..=pages + own).contains(&faults), "{faults} faults for {pages} pages");
    }
}

#[test]
fn every_call_of_a_plain_program_is_counted() {
    need!(can_profile(), "a kernel with BTF");
    let case = Case::new();
    let (printed, profile) = profile(&case, &[], &["probe", "calls", "1000", "300", "2000", "100000"]);
    is_exact(&printed, &profile);
}

#[test]
fn every_call_of_forked_children_is_counted() {
    need!(can_profile(), "a kernel with BTF");
    let case = Case::new();
    let (printed, profile) = profile(&case, &[], &["probe", "calls", "100", "7", "50", "10", "fork", "20"]);
    is_exact(&printed, &profile);
    assert_eq!(profile["resources"]["workload"]["processes_created"], 20);
}

#[test]
fn every_call_of_threads_is_counted() {
    need!(can_profile(), "a kernel with BTF");
    let case = Case::new();
    let (printed, profile) =
        profile(&case, &[], &["probe", "calls", "500", "100", "50", "10", "threads", "8"]);
    is_exact(&printed, &profile);
    assert_eq!(profile["resources"]["workload"]["threads_created"], 8);
}

#[test]
fn calls_that_a_filter_answers_are_counted() {
    need!(can_profile(), "a kernel with BTF");
    let case = Case::new();
    let filter = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["getppid", "times"], "action": "SCMP_ACT_ERRNO", "errnoRet": 111}]}"#;
    let option = format!("seccomp={}", case.file("filter.json", filter));
    let (_, profile) =
        profile(&case, &["--security-opt", &option], &["probe", "calls", "100", "0", "1", "1", "fork", "2"]);
    for name in ["getppid", "times"] {
        let got = call(&profile, "workload", name);
        assert_eq!((&got["calls"], &got["refused"]), (&200.into(), &200.into()), "{got}");
        assert_eq!(got["errors"], serde_json::json!({"ECONNREFUSED": 200}), "{got}");
    }
    let answered = call(&profile, "workload", "umask");
    assert_eq!((&answered["calls"], &answered["refused"]), (&200.into(), &0.into()), "{answered}");
}

#[test]
fn calls_without_return_are_counted() {
    need!(can_profile(), "a kernel with BTF");
    let case = Case::new();
    let (_, profile) = profile(&case, &[], &["probe", "calls", "1", "0", "1", "1", "fork", "3"]);
    let exits = call(&profile, "workload", "exit_group");
    assert_eq!((&exits["calls"], &exits["unreturned"]), (&4.into(), &4.into()), "{exits}");
    let execs = call(&profile, "init", "execve");
    assert!(execs["calls"].as_u64() >= Some(1) && execs["unreturned"] == 0, "{execs}");
    assert!(call(&profile, "workload", "execve").is_null(), "the program's own start is the runtime's call");
}

#[test]
fn an_init_does_not_disturb_the_count() {
    need!(can_profile(), "a kernel with BTF");
    let case = Case::new();
    let (printed, profile) =
        profile(&case, &["--init"], &["probe", "calls", "200", "50", "50", "10", "fork", "3"]);
    is_exact(&printed, &profile);
    let listed = profile["execs"]["listed"].as_array().expect("a list");
    let workload = listed.iter().filter(|exec| exec["phase"] == "workload").count();
    assert_eq!(workload, 1, "{listed:?}");
}

#[test]
fn the_hosts_own_programs_are_profiled() {
    need!(can_profile(), "a kernel with BTF");
    let case = Case::new();
    let file = case.dir.join("profile").display().to_string();
    let words = ["run", "--rm", &format!("--profile={file}"), "host", "--", "ls", "-lR", "/usr"];
    let output = case.skiff(&words).output();
    assert!(output.code == 0 && output.stdout.lines().count() > 10, "{output}");
    let profile = parse(&fs::read_to_string(&file).expect("a profile"));
    // Every directory is listed by two calls at least, the second of which says that nothing is left.
    let directories =
        output.stdout.lines().filter(|line| line.starts_with("/usr") && line.ends_with(':')).count();
    let calls = call(&profile, "workload", "getdents64")["calls"].as_u64().unwrap_or(0);
    assert!(calls >= 2 * directories as u64, "{calls} calls for {directories} directories");
    assert_eq!(profile["events_lost"], 0);
}

#[test]
fn sixty_four_containers_at_once_are_told_apart() {
    need!(can_profile(), "a kernel with BTF");
    let case = Case::new();
    let start = |number: usize| {
        let file = case.dir.join(format!("profile.{number}")).display().to_string();
        let (flag, calls) = (format!("--profile={file}"), (number + 1).to_string());
        let command: Skiff =
            case.command(&[&flag], &["probe", "calls", &calls, "1", "10", "10", "fork", "2"]);
        (file, command.start())
    };
    let runs: Vec<_> = (0..64).map(start).collect();
    for (file, run) in runs {
        let output = run.finish();
        assert_eq!(output.code, 0, "{output}");
        let profile = parse(&fs::read_to_string(file).expect("a profile"));
        assert_eq!(profile["events_lost"], 0);
        is_exact(&output.stdout, &profile);
    }
}

#[test]
fn the_runtimes_own_work_is_kept_apart() {
    need!(can_profile(), "a kernel with BTF");
    let case = Case::new();
    let (_, profile) = profile(&case, &[], &["probe", "exit", "0"]);
    for name in ["move_mount", "pivot_root", "seccomp", "setresuid"] {
        assert_eq!(*call(&profile, "workload", name), Value::Null, "{name}");
    }
    assert!(
        call(&profile, "init", "pivot_root")["calls"].as_u64().is_some_and(|calls| calls > 0),
        "{profile}"
    );
    // A call belongs to the phase in which it was entered.
    assert_eq!(*call(&profile, "workload", "execve"), Value::Null);
    assert_eq!(call(&profile, "workload", "exit_group")["unreturned"], 1);
}

#[test]
fn programs_are_listed_with_their_arguments() {
    need!(can_profile(), "a kernel with BTF");
    let case = Case::new();
    let (_, profile) = profile(&case, &[], &["sh", "-c", "busybox echo one; busybox echo two words; :"]);
    let listed = profile["execs"]["listed"].as_array().expect("a list");
    let workload: Vec<&Value> =
        listed.iter().filter(|exec| exec["phase"] == "workload").map(|exec| &exec["arguments"]).collect();
    let expected = [
        serde_json::json!(["sh", "-c", "busybox echo one; busybox echo two words; :"]),
        serde_json::json!(["busybox", "echo", "one"]),
        serde_json::json!(["busybox", "echo", "two", "words"]),
    ];
    assert_eq!(workload, expected.iter().collect::<Vec<_>>());
}

#[test]
fn the_timeline_has_no_gaps_and_ends_with_output() {
    need!(can_profile(), "a kernel with BTF");
    let case = Case::new();
    let (_, profile) = profile(&case, &[], &["echo", "hi"]);
    let phases = profile["timeline"]["phases"].as_array().expect("phases");
    let names: Vec<&str> = phases.iter().map(|phase| phase["name"].as_str().expect("a name")).collect();
    let expected = ["plan", "rootfs", "cgroup", "arm", "clone", "mounts", "security", "exec", "first output"];
    assert_eq!(names, expected);
    let number = |phase: &Value, field: &str| phase[field].as_f64().expect("a number");
    for pair in phases.windows(2) {
        let end = number(&pair[0], "start_us") + number(&pair[0], "duration_us");
        assert!((end - number(&pair[1], "start_us")).abs() < 1.5, "a gap: {pair:?}");
    }
    let (program, first, end) = (
        &profile["timeline"]["program_us"],
        &profile["timeline"]["first_output_us"],
        &profile["timeline"]["end_us"],
    );
    assert!(program.as_f64() < first.as_f64() && first.as_f64() <= end.as_f64(), "{program} {first} {end}");
}

#[test]
fn an_oom_kill_names_its_victim() {
    need!(can_profile(), "a kernel with BTF");
    let case = Case::new();
    let flags = ["-m", "48m", "--memory-swap", "48m"];
    let (_, profile) = profile(&case, &flags, &["probe", "eat-child", "128"]);
    assert_eq!(profile["oom"]["kills"], 1, "{}", profile["oom"]);
    assert_eq!(profile["oom"]["victim_name"], "probe");
    if let Some(peak) = profile["cgroup"]["memory_peak_bytes"].as_u64() {
        assert!((40 << 20..=49 << 20).contains(&peak), "{peak}");
    }
}

#[test]
fn throttling_and_processor_time_are_reported() {
    need!(can_profile(), "a kernel with BTF");
    let case = Case::new();
    let (printed, profile) = profile(&case, &["--cpus", "0.2"], &["probe", "burn", "600"]);
    let cgroup = &profile["cgroup"];
    assert!(cgroup["throttled_periods"].as_u64().is_some_and(|periods| periods >= 3), "{cgroup}");
    // 80 ms of each period, unless the host's other programs hold it up as well.
    assert!(cgroup["throttled_us"].as_u64().is_some_and(|time| time >= 100_000), "{cgroup}");
    let used_ms: u64 = printed.trim().parse().expect("a number");
    if let Some(cpu_ns) = profile["resources"]["workload"]["cpu_ns"].as_u64() {
        // Its start and its end are the program's too, though not in its own figure: some 20 ms and more under emulation.
        let slack_ms = 50 * u64::from(patience());
        let own_ms = (used_ms * 9 / 10)..=(used_ms * 11 / 10 + slack_ms);
        assert!(own_ms.contains(&(cpu_ns / 1_000_000)), "{cpu_ns} ns, but the program used {used_ms} ms");
    }
}

#[test]
fn written_blocks_are_counted() {
    need!(can_profile(), "a kernel with BTF");
    let case = Case::new();
    let data = case.subdir("data");
    let on_disk = fs::read_to_string("/proc/self/mountinfo").is_ok_and(|table| table.contains(" - ext4 "));
    need!(on_disk, "a disk");
    let fill = |name: &str| {
        let words = ["probe", "fill", &format!("/data/{name}"), "8"];
        let (printed, profile) = profile(&case, &["-v", &format!("{data}:/data")], &words);
        assert_eq!(printed, "ok\n");
        profile["resources"]["workload"].clone()
    };
    // A part may be written by a thread of the file system's journal that just comes by, and is nobody's then.
    let all = ["one", "two", "three"].map(fill);
    let bytes = all.iter().filter_map(|workload| workload["block_write_bytes"].as_u64()).max();
    assert!(bytes.is_none_or(|bytes| bytes >= 8 << 20), "{all:?}");
}

#[test]
fn the_exit_is_reported() {
    need!(can_profile(), "a kernel with BTF");
    let case = Case::new();
    let file = case.dir.join("profile").display().to_string();
    let output = case.run(&[&format!("--profile={file}")], &["probe", "exit", "9"]);
    assert_eq!(output.code, 9, "{output}");
    let profile = parse(&fs::read_to_string(&file).expect("a profile"));
    assert_eq!(profile["exit"]["code"], 9);
    assert_eq!(profile["container"]["command"], serde_json::json!(["probe", "exit", "9"]));
    assert!(profile["cost"]["traced_calls"].as_u64().is_some_and(|calls| calls > 0), "{}", profile["cost"]);
}

#[test]
fn a_report_goes_to_standard_error_alone() {
    need!(can_profile(), "a kernel with BTF");
    let case = Case::new();
    let output = case.run(&["--profile"], &["echo", "hi"]);
    assert_eq!((output.code, output.stdout.as_str()), (0, "hi\n"), "{output}");
    for word in ["getuid", "first output", "lost"] {
        assert!(output.stderr.contains(word), "{word:?} is missing: {output}");
    }
}

#[test]
fn without_bpf_a_profile_is_refused_in_one_line() {
    let case = Case::new();
    case.command(&["--profile"], &["true"]).with(&["deny=bpf"]).output().fails(125, "");
    case.command(&[], &["echo", "hi"]).output().ok();
}

#[test]
fn a_profile_that_cannot_be_written_is_refused_before_anything_runs() {
    let case = Case::new();
    let marker = case.subdir("marker");
    let mount = format!("{marker}:/marker");
    let output = case.run(&["--profile=/no/such/dir/file", "-v", &mount], &["touch", "/marker/ran"]);
    output.fails(125, "/no/such/dir/file");
    assert!(!case.dir.join("marker/ran").exists());
}
