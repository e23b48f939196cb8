//! What the specification leaves out: the command line as runc has made it the custom, on which engines rely.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Instant;

use serde_json::{Value, json};

use super::Bundle;
use super::bundle::{await_exit, fails, succeeds};
use super::hosting;
use super::passed::Receiver;
use super::stream::Stream;
use crate::harness::live::{Live, Output};
use crate::harness::{parse, time_limit};

/// A running container whose program waits.
fn running() -> Bundle {
    let mut bundle = Bundle::new();
    bundle.wait_ready(&["/bin/probe", "wait"]);
    bundle
}

/// `exec FLAGS ID WORDS`.
fn exec(bundle: &Bundle, flags: &[&str], words: &[&str]) -> Output {
    bundle.runtime(&[&["exec"], flags, &[&bundle.id], words].concat())
}

/// What a program sees that is run with these flags in a container.
#[track_caller]
fn seen(bundle: &Bundle, flags: &[&str]) -> Value {
    parse(&succeeds(&exec(bundle, flags, &["/bin/probe", "see"])))
}

fn bundle_path(bundle: &Bundle) -> String {
    bundle.write();
    bundle.dir.display().to_string()
}

fn pid_in(path: &std::path::Path) -> i32 {
    fs::read_to_string(path).expect("a file with a pid").parse().expect("nothing but a number")
}

#[test]
fn run_prints_what_the_program_prints_and_removes_the_container() {
    let mut bundle = Bundle::new();
    bundle.args(&["/bin/echo", "alive"]);
    let output = bundle.runtime(&["run", "--bundle", &bundle_path(&bundle), &bundle.id]);
    assert_eq!(succeeds(&output), "alive\n");
    fails(&bundle.runtime(&["state", &bundle.id]));
}

#[test]
fn run_ends_as_the_program_does() {
    for (args, code) in [(["/bin/probe", "exit", "7"], 7), (["/bin/probe", "die", "KILL"], 137)] {
        let mut bundle = Bundle::new();
        bundle.args(&args);
        assert_eq!(bundle.runtime(&["run", "--bundle", &bundle_path(&bundle), &bundle.id]).code, code);
    }
}

#[test]
fn run_takes_the_bundle_from_the_working_directory() {
    let mut bundle = Bundle::new();
    bundle.args(&["/bin/echo", "alive"]).write();
    let mut command = bundle.command(&["run", &bundle.id]);
    command.current_dir(&bundle.dir).stdout(Stdio::piped()).stderr(Stdio::piped());
    assert_eq!(succeeds(&Live::spawn(command, None, time_limit()).finish()), "alive\n");
}

#[test]
fn run_passes_standard_input_on() {
    let mut bundle = Bundle::new();
    bundle.args(&["/bin/cat"]);
    let path = bundle_path(&bundle);
    let mut command = bundle.command(&["run", "--bundle", &path, &bundle.id]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = Live::spawn(command, Some(b"from outside".into()), time_limit()).finish();
    assert_eq!(succeeds(&output), "from outside");
}

#[test]
fn run_detached_leaves_the_container_running() {
    let mut bundle = Bundle::new();
    bundle.args(&["/bin/probe", "trap"]);
    let (path, file) = (bundle_path(&bundle), bundle.dir.join("pid"));
    let mut command = bundle.command(&[
        "run",
        "--detach",
        "--pid-file",
        &file.display().to_string(),
        "--bundle",
        &path,
        &bundle.id,
    ]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    succeeds(&Live::spawn(command, None, time_limit()).finish());
    assert_eq!((bundle.status(), bundle.pid()), ("running".into(), pid_in(&file)));
    bundle.end();
}

#[test]
fn a_missing_working_directory_is_made() {
    for read_only in [false, true] {
        let mut bundle = Bundle::with([
            ("/process/cwd", json!("/made/here")),
            ("/process/user", json!({ "uid": 1234, "gid": 4321 })),
        ]);
        bundle.set_root("readonly", read_only);
        assert_eq!(bundle.see()["cwd"], "/made/here");
    }
}

#[test]
fn a_working_directory_that_is_closed_to_the_user_is_entered() {
    let mut bundle = Bundle::with([
        ("/process/cwd", json!("/closed")),
        ("/process/capabilities", json!({})),
        ("/process/user", json!({ "uid": 1234, "gid": 4321 })),
    ]);
    fs::create_dir(bundle.inside("/closed")).expect("a directory");
    fs::set_permissions(bundle.inside("/closed"), Permissions::from_mode(0o700)).expect("its mode");
    let seen = bundle.see();
    assert_eq!((&seen["cwd"], &seen["ids"]["uid"]), (&json!("/closed"), &json!(1234)));
}

#[test]
fn few_descriptors_are_enough() {
    for limit in [7, 20] {
        let limits = json!([{ "type": "RLIMIT_NOFILE", "soft": limit, "hard": limit }]);
        let mut bundle = Bundle::with([("/process/rlimits", limits)]);
        assert_eq!(bundle.see()["rlimits"]["nofile"], json!([limit, limit]));
    }
}

#[test]
fn a_choice_of_access_control_lists_is_taken() {
    for option in ["acl", "noacl"] {
        let mut bundle = Bundle::new();
        let source = bundle.subdir("source");
        bundle.mount(json!({ "destination": "/a", "type": "tmpfs", "source": "tmpfs", "options": [option] }));
        bundle.mount(json!({ "destination": "/b", "source": source, "options": ["bind", option] }));
        bundle.see();
    }
}

#[test]
fn run_with_an_unknown_program_says_so() {
    let mut bundle = Bundle::new();
    bundle.args(&["no-such-program"]);
    let output = bundle.runtime(&["run", "--bundle", &bundle_path(&bundle), &bundle.id]);
    // Docker and others look for one of these to tell their users 127.
    let known = ["executable file not found", "no such file or directory", "No such file or directory"];
    assert!(output.code != 0 && known.iter().any(|text| output.stderr.contains(text)), "{output}");
    fails(&bundle.runtime(&["state", &bundle.id]));
}

#[test]
fn create_writes_the_pid_to_a_file() {
    let bundle = Bundle::new();
    let file = bundle.dir.join("pid");
    succeeds(&bundle.try_create(&["--pid-file", &file.display().to_string()]));
    assert_eq!(pid_in(&file), bundle.pid());
    bundle.end();
}

#[test]
fn create_without_pivot_and_keyring_works() {
    let mut bundle = Bundle::new();
    bundle.args(&["/bin/echo", "alive"]);
    succeeds(&bundle.try_create(&["--no-pivot", "--no-new-keyring"]));
    let pid = bundle.pid();
    bundle.start();
    assert_eq!(bundle.rest(), "alive\n");
    bundle.wait(pid);
    bundle.delete();
}

#[test]
fn create_passes_descriptors_on() {
    let mut bundle = Bundle::new();
    bundle.args(&["/bin/cat", "/proc/self/fd/3"]);
    let text = bundle.file("passed", "by descriptor").display().to_string();
    let path = bundle_path(&bundle);
    let runtime = bundle.command(&["run", "--preserve-fds", "1", "--bundle", &path, &bundle.id]);
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", "exec 3< \"$0\" && exec \"$@\"", &text])
        .arg(runtime.get_program())
        .args(runtime.get_args());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    assert_eq!(succeeds(&Live::spawn(command, None, time_limit()).finish()), "by descriptor");
}

#[test]
fn descriptors_that_are_not_open_are_passed_over() {
    let mut bundle = Bundle::new();
    let text = bundle.file("passed", "by descriptor").display().to_string();
    let cat = ["/bin/sh", "-c", "cat <&4"];
    bundle.args(&cat);
    bundle.write();
    let path = bundle_path(&bundle);
    let pass = |bundle: &Bundle, words: &[&str]| {
        let runtime = bundle.command(words);
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "exec 3<&- 4< \"$0\" 5<&- && exec \"$@\"", &text]);
        command.arg(runtime.get_program()).args(runtime.get_args());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        succeeds(&Live::spawn(command, None, time_limit()).finish())
    };
    assert_eq!(
        pass(&bundle, &["run", "--preserve-fds", "3", "--bundle", &path, &bundle.id]),
        "by descriptor"
    );
    bundle.wait_ready(&["/bin/probe", "wait"]);
    let exec = [&["exec", "--preserve-fds", "3", &bundle.id], &cat[..]].concat();
    assert_eq!(pass(&bundle, &exec), "by descriptor");
    bundle.end();
}

#[test]
fn no_other_descriptor_gets_in() {
    let mut bundle = Bundle::new();
    bundle.args(&["/bin/probe", "see"]);
    let path = bundle_path(&bundle);
    let runtime = bundle.command(&["run", "--bundle", &path, &bundle.id]);
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", "exec 3< / 7< /etc && exec \"$@\"", "sh"])
        .arg(runtime.get_program())
        .args(runtime.get_args());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let seen = parse(&succeeds(&Live::spawn(command, None, time_limit()).finish()));
    let fds: Vec<&String> = seen["fds"].as_object().expect("descriptors").keys().collect();
    assert_eq!(fds, ["0", "1", "2"]);
}

#[test]
fn kill_takes_signals_in_every_form() {
    let mut bundle = Bundle::new();
    let pid = bundle.wait_ready(&["/bin/probe", "trap"]);
    for (word, name) in [("USR1", "SIGUSR1"), ("SIGUSR2", "SIGUSR2"), ("1", "SIGHUP")] {
        bundle.kill(word);
        assert_eq!(bundle.line(), name);
    }
    succeeds(&bundle.runtime(&["kill", &bundle.id]));
    assert_eq!(bundle.line(), "SIGTERM");
    bundle.wait(pid);
    bundle.delete();
}

#[test]
fn kill_with_signal_zero_asks_whether_the_container_runs() {
    let bundle = running();
    let pid = bundle.pid();
    succeeds(&bundle.runtime(&["kill", &bundle.id, "0"]));
    assert_eq!(bundle.status(), "running");
    bundle.kill("KILL");
    bundle.wait(pid);
    fails(&bundle.runtime(&["kill", &bundle.id, "0"]));
    bundle.delete();
}

#[test]
fn kill_with_an_unknown_signal_is_an_error() {
    let bundle = running();
    fails(&bundle.runtime(&["kill", &bundle.id, "NOSUCH"]));
    assert_eq!(bundle.status(), "running");
    bundle.end();
}

#[test]
fn kill_all_reaches_every_process() {
    let mut bundle = Bundle::new();
    // Without a namespace for it, the end of the first process does not end the others.
    bundle.share("pid");
    let pid = bundle.wait_ready(&["/bin/sh", "-c", "sleep 1000 & sleep 1000 & exec probe wait"]);
    let groups = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("its children");
    let others: Vec<i32> = groups.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
    assert_eq!(others.len(), 2);
    succeeds(&bundle.runtime(&["kill", "--all", &bundle.id, "KILL"]));
    others.iter().for_each(|other| await_exit(*other));
    bundle.wait(pid);
    bundle.delete();
}

#[test]
fn delete_by_force_ends_what_runs() {
    let bundle = running();
    let pid = bundle.pid();
    succeeds(&bundle.runtime(&["delete", "--force", &bundle.id]));
    await_exit(pid);
    fails(&bundle.runtime(&["state", &bundle.id]));
}

#[test]
fn delete_by_force_ends_what_is_created() {
    let bundle = Bundle::new();
    let pid = bundle.create().pid();
    succeeds(&bundle.runtime(&["delete", "--force", &bundle.id]));
    await_exit(pid);
}

#[test]
fn delete_by_force_of_nothing_is_no_error() {
    let bundle = Bundle::new();
    succeeds(&bundle.runtime(&["delete", "--force", &bundle.id]));
}

#[test]
fn list_shows_a_table() {
    let bundle = running();
    let text = succeeds(&bundle.runtime(&["list"]));
    let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let head = lines.next().expect("a head");
    assert_eq!(head[..4], ["ID", "PID", "STATUS", "BUNDLE"]);
    let line = lines.next().expect("a container");
    assert_eq!(line[..3], [&bundle.id, &bundle.pid().to_string()[..], "running"]);
    bundle.end();
}

#[test]
fn list_is_json_if_asked_for() {
    let bundle = running();
    let list = parse(&succeeds(&bundle.runtime(&["list", "--format", "json"])));
    let entry = &list[0];
    assert_eq!(
        (&entry["id"], &entry["status"], &entry["pid"]),
        (&json!(bundle.id), &json!("running"), &json!(bundle.pid()))
    );
    assert_eq!(entry["bundle"], bundle.dir.display().to_string());
    bundle.end();
}

#[test]
fn list_shows_ids_alone_if_asked_for() {
    let bundle = running();
    assert_eq!(succeeds(&bundle.runtime(&["list", "-q"])), format!("{}\n", bundle.id));
    bundle.end();
    assert_eq!(succeeds(&bundle.runtime(&["list", "-q"])), "");
}

#[test]
fn ps_is_json_if_asked_for() {
    let mut bundle = Bundle::new();
    let pid = bundle.wait_ready(&["/bin/sh", "-c", "sleep 1000 & exec probe wait"]);
    let list = parse(&succeeds(&bundle.runtime(&["ps", "--format", "json", &bundle.id])));
    let list = list.as_array().expect("a list");
    assert!(list.len() == 2 && list.contains(&json!(pid)), "{list:?}");
    bundle.end();
}

#[test]
fn ps_shows_a_table() {
    if !crate::harness::installed("ps") {
        return hosting::lacks("ps");
    }
    let bundle = running();
    let text = succeeds(&bundle.runtime(&["ps", &bundle.id]));
    assert!(text.lines().next().is_some_and(|head| head.contains("PID")), "{text}");
    assert!(text.lines().count() == 2 && text.contains("probe"), "{text}");
    bundle.end();
}

#[test]
fn pause_and_resume_stop_and_go_on() {
    let mut bundle = Bundle::new();
    let pid = bundle.wait_ready(&["/bin/probe", "trap"]);
    succeeds(&bundle.runtime(&["pause", &bundle.id]));
    assert_eq!(bundle.status(), "paused");
    fails(&exec(&bundle, &[], &["/bin/true"]));
    succeeds(&bundle.runtime(&["resume", &bundle.id]));
    assert_eq!(bundle.status(), "running");
    bundle.kill("TERM");
    assert_eq!(bundle.line(), "SIGTERM");
    bundle.wait(pid);
    bundle.delete();
}

#[test]
fn delete_by_force_ends_what_is_paused() {
    let bundle = running();
    let pid = bundle.pid();
    succeeds(&bundle.runtime(&["pause", &bundle.id]));
    succeeds(&bundle.runtime(&["delete", "--force", &bundle.id]));
    await_exit(pid);
}

#[test]
fn pause_of_what_does_not_run_is_an_error() {
    let mut bundle = Bundle::new();
    let pid = bundle.args(&["/bin/true"]).create().pid();
    bundle.start();
    bundle.wait(pid);
    fails(&bundle.runtime(&["pause", &bundle.id]));
    bundle.delete();
}

#[test]
fn update_changes_limits() {
    let (Some(pids), Some(memory)) = (hosting::group("pids", "/"), hosting::group("memory", "/")) else {
        return hosting::lacks("controllers for processes and memory");
    };
    let bundle = running();
    succeeds(&bundle.runtime(&["update", "--pids-limit", "33", "--memory", "67108864", &bundle.id]));
    let file = if hosting::pure_v2() { "memory.max" } else { "memory.limit_in_bytes" };
    let read =
        |path: std::path::PathBuf| fs::read_to_string(path).expect("a file of the group").trim().to_owned();
    assert_eq!(read(pids.join(&bundle.id).join("pids.max")), "33");
    assert_eq!(read(memory.join(&bundle.id).join(file)), "67108864");
    bundle.end();
}

#[test]
fn update_takes_a_file() {
    let Some(pids) = hosting::group("pids", "/") else { return hosting::lacks("a controller for processes") };
    let bundle = running();
    let file = bundle.file("resources", "{ \"pids\": { \"limit\": 44 } }").display().to_string();
    succeeds(&bundle.runtime(&["update", "--resources", &file, &bundle.id]));
    let found = fs::read_to_string(pids.join(&bundle.id).join("pids.max")).expect("a file of the group");
    assert_eq!(found.trim(), "44");
    bundle.end();
}

#[test]
fn events_show_figures() {
    let Some(_) = hosting::group("pids", "/") else { return hosting::lacks("a controller for processes") };
    let bundle = running();
    let event = parse(&succeeds(&bundle.runtime(&["events", "--stats", &bundle.id])));
    assert_eq!((&event["type"], &event["id"]), (&json!("stats"), &json!(bundle.id)));
    let data = &event["data"];
    assert_eq!(data["pids"]["current"], 1);
    assert!(data["memory"]["usage"]["usage"].as_u64().is_some_and(|bytes| bytes > 0), "{data}");
    assert!(data["cpu"]["usage"]["total"].as_u64().is_some_and(|time| time > 0), "{data}");
    bundle.end();
}

#[test]
fn exec_runs_a_program_beside() {
    let bundle = running();
    assert_eq!(succeeds(&exec(&bundle, &[], &["echo", "beside"])), "beside\n");
    bundle.end();
}

#[test]
fn exec_ends_as_the_program_does() {
    let bundle = running();
    assert_eq!(exec(&bundle, &[], &["/bin/probe", "exit", "7"]).code, 7);
    assert_eq!(exec(&bundle, &[], &["/bin/probe", "die", "KILL"]).code, 137);
    bundle.end();
}

#[test]
fn exec_passes_standard_input_on() {
    let bundle = running();
    let mut command = bundle.command(&["exec", &bundle.id, "/bin/cat"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = Live::spawn(command, Some(b"from outside".into()), time_limit()).finish();
    assert_eq!(succeeds(&output), "from outside");
    bundle.end();
}

#[test]
fn exec_enters_all_namespaces() {
    let bundle = running();
    let (seen, pid) = (seen(&bundle, &[]), bundle.pid());
    for name in ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] {
        let link = fs::read_link(format!("/proc/{pid}/ns/{name}")).expect("a namespace");
        assert_eq!(seen["namespaces"][name], link.display().to_string(), "{name}");
    }
    bundle.end();
}

#[test]
fn exec_enters_the_control_groups() {
    let bundle = running();
    let groups = |text: String| {
        let mut lines: Vec<String> =
            text.lines().filter(|line| line.contains("oci-")).map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let expected = groups(fs::read_to_string(format!("/proc/{}/cgroup", bundle.pid())).expect("its groups"));
    let file = bundle.dir.join("pid");
    let mut command = bundle.command(&[
        "exec",
        "--detach",
        "--pid-file",
        &file.display().to_string(),
        &bundle.id,
        "sleep",
        "1000",
    ]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    succeeds(&Live::spawn(command, None, time_limit()).finish());
    let found = groups(fs::read_to_string(format!("/proc/{}/cgroup", pid_in(&file))).expect("its groups"));
    assert_eq!(found, expected);
    bundle.end();
}

#[test]
fn exec_has_the_rights_of_the_container() {
    let mut bundle = Bundle::with([
        ("/process/noNewPrivileges", json!(true)),
        (
            "/linux/seccomp",
            json!({
                "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "names": ["getpriority"], "action": "SCMP_ACT_ERRNO" }],
            }),
        ),
    ]);
    let pid = bundle.wait_ready(&["/bin/probe", "wait"]);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let seen = seen(&bundle, &[]);
    for name in ["CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb", "NoNewPrivs", "Seccomp"] {
        let expected =
            status.lines().find_map(|line| line.strip_prefix(&format!("{name}:"))).expect("a line");
        assert_eq!(seen["status"][name], expected.trim(), "{name}");
    }
    bundle.end();
}

#[test]
fn exec_takes_a_user_and_groups() {
    let bundle = running();
    let seen =
        seen(&bundle, &["--user", "1234:4321", "--additional-gids", "777", "--additional-gids", "888"]);
    assert_eq!([&seen["ids"]["uid"], &seen["ids"]["gid"]], [1234, 4321]);
    let groups: Vec<&str> = seen["status"]["Groups"].as_str().expect("groups").split_whitespace().collect();
    assert!(groups.contains(&"777") && groups.contains(&"888"), "{groups:?}");
    bundle.end();
}

#[test]
fn exec_takes_a_working_directory_and_variables() {
    let bundle = running();
    let seen = seen(&bundle, &["--cwd", "/home/alice", "--env", "A=1", "--env", "B=two words"]);
    assert_eq!(seen["cwd"], "/home/alice");
    assert_eq!((&seen["env"]["A"], &seen["env"]["B"]), (&json!("1"), &json!("two words")));
    bundle.end();
}

#[test]
fn exec_takes_more_capabilities() {
    let bundle = running();
    let bits = |seen: &Value| {
        u64::from_str_radix(seen["status"]["CapBnd"].as_str().expect("a set"), 16).expect("hex")
    };
    let (before, after) = (bits(&seen(&bundle, &[])), bits(&seen(&bundle, &["--cap", "CAP_SYS_ADMIN"])));
    assert_eq!((before >> 21 & 1, after), (0, before | 1 << 21));
    bundle.end();
}

#[test]
fn exec_takes_a_process_from_a_file() {
    let bundle = running();
    let process = json!({
        "args": ["/bin/probe", "see"], "cwd": "/tmp", "env": ["PATH=/bin", "OF=file"], "user": { "uid": 12, "gid": 34 },
        "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 55, "hard": 66 }],
    });
    let file = bundle.file("process.json", &process.to_string()).display().to_string();
    let seen = parse(&succeeds(&bundle.runtime(&["exec", "--process", &file, &bundle.id])));
    assert_eq!(
        (&seen["cwd"], &seen["env"]["OF"], &seen["ids"]["uid"]),
        (&json!("/tmp"), &json!("file"), &json!(12))
    );
    assert_eq!(seen["rlimits"]["nofile"], json!([55, 66]));
    bundle.end();
}

#[test]
fn exec_gives_a_terminal() {
    let bundle = running();
    let receiver = Receiver::new(&bundle.dir.join("console"));
    let name = receiver.name();
    let flags = ["--tty", "--detach", "--console-socket", &name[..]];
    let mut command = bundle.command(&[&["exec"], &flags[..], &[&bundle.id, "/bin/probe", "term"]].concat());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    succeeds(&Live::spawn(command, None, time_limit()).finish());
    let screen = Stream::new(receiver.receive_descriptor()).rest();
    assert_eq!(parse(&screen)["streams"], json!([true, true, true]));
    bundle.end();
}

#[test]
fn exec_detached_leaves_the_program_running() {
    let bundle = running();
    let file = bundle.dir.join("pid");
    let flags = ["--detach", "--pid-file", &file.display().to_string()];
    let mut command = bundle.command(&[&["exec"], &flags[..], &[&bundle.id, "sleep", "1000"]].concat());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    succeeds(&Live::spawn(command, None, time_limit()).finish());
    let pid = pid_in(&file);
    let deadline = Instant::now() + time_limit();
    let name = || fs::read(format!("/proc/{pid}/cmdline")).expect("it runs");
    // Some runtimes come back before the program is executed.
    while name() != b"sleep\x001000\x00" && Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert_eq!(String::from_utf8_lossy(&name()), "sleep\x001000\x00");
    bundle.end();
    await_exit(pid);
}

#[test]
fn exec_of_an_unknown_program_says_so() {
    let bundle = running();
    let output = exec(&bundle, &[], &["no-such-program"]);
    let known = ["executable file not found", "no such file or directory", "No such file or directory"];
    assert!(output.code != 0 && known.iter().any(|text| output.stderr.contains(text)), "{output}");
    bundle.end();
}

#[test]
fn exec_in_a_stopped_container_is_an_error() {
    let mut bundle = Bundle::new();
    let pid = bundle.args(&["/bin/true"]).create().pid();
    bundle.start();
    bundle.wait(pid);
    fails(&exec(&bundle, &[], &["/bin/true"]));
    bundle.delete();
}

#[test]
fn exec_in_an_unknown_container_is_an_error() {
    fails(&exec(&Bundle::new(), &[], &["/bin/true"]));
}

/// Version 1.2, but about a command that the specification does not have.
#[test]
fn exec_runs_on_the_processors_that_are_asked_for() {
    if std::thread::available_parallelism().map_or(1, std::num::NonZero::get) < 2 {
        return hosting::lacks("two processors");
    }
    let mut bundle = Bundle::with([("/process/execCPUAffinity", json!({ "initial": "0", "final": "1" }))]);
    bundle.wait_ready(&["/bin/probe", "wait"]);
    assert_eq!(seen(&bundle, &[])["status"]["Cpus_allowed_list"], "1");
    bundle.end();
}

#[test]
fn spec_writes_a_configuration() {
    let bundle = Bundle::new();
    let dir = bundle.subdir("new").display().to_string();
    succeeds(&bundle.runtime(&["spec", "--bundle", &dir]));
    let path = bundle.dir.join("new/config.json");
    let text = fs::read_to_string(&path).expect("config.json");
    let typed: Result<oci_spec::runtime::Spec, _> = serde_json::from_str(&text);
    assert!(typed.is_ok(), "{:?}", typed.err());
    fails(&bundle.runtime(&["spec", "--bundle", &dir]));
    assert_eq!(fs::read_to_string(&path).expect("config.json"), text);
}

#[test]
fn spec_writes_a_configuration_that_works() {
    let bundle = Bundle::new();
    succeeds(&bundle.runtime(&["spec", "--bundle", &bundle.dir.display().to_string()]));
    let mut config = parse(&fs::read_to_string(bundle.dir.join("config.json")).expect("config.json"));
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(["/bin/echo", "alive"]);
    bundle.file("config.json", &config.to_string());
    let output = bundle.runtime(&["run", "--bundle", &bundle.dir.display().to_string(), &bundle.id]);
    assert_eq!(succeeds(&output), "alive\n");
}

#[test]
fn errors_go_to_the_log_or_to_standard_error_as_json() {
    let bundle = Bundle::new();
    let log = bundle.dir.join("log");
    fails(&bundle.runtime(&[
        "--log",
        &log.display().to_string(),
        "--log-format",
        "json",
        "state",
        "unknown",
    ]));
    let written = fs::read_to_string(&log).expect("a log");
    let said = bundle.runtime(&["--log-format", "json", "state", "unknown"]).stderr;
    for text in [written, said] {
        let entries: Vec<Value> = text.lines().map(parse).collect();
        let error = entries.iter().find(|entry| entry["level"] == "error").expect("an error");
        let message = error["msg"].as_str().unwrap_or_default();
        assert!(!message.is_empty() && error["time"].is_string(), "{error}");
    }
}

#[test]
fn the_version_names_that_of_the_specification() {
    let text = succeeds(&Bundle::new().runtime(&["--version"]));
    assert!(text.lines().any(|line| line.starts_with("spec: ")), "{text}");
}

#[test]
fn an_unknown_command_is_an_error() {
    fails(&Bundle::new().runtime(&["no-such-command"]));
}

#[test]
fn an_unknown_flag_is_an_error() {
    let bundle = Bundle::new();
    fails(&bundle.try_create(&["--no-such-flag"]));
    fails(&bundle.runtime(&["state", &bundle.id]));
}

#[test]
fn state_tells_when_the_container_was_created() {
    let bundle = Bundle::new();
    let state = bundle.create().state();
    assert!(
        state["created"].as_str().is_some_and(|time| time.starts_with("20") && time.contains('T')),
        "{state}"
    );
    assert_eq!(state["rootfs"], bundle.inside("/").display().to_string().trim_end_matches('/'));
    bundle.end();
}

#[test]
fn containers_of_another_root_directory_are_unknown() {
    let (one, two) = (running(), Bundle::new());
    fails(&two.runtime(&["state", &one.id]));
    assert_eq!(succeeds(&two.runtime(&["list", "-q"])), "");
    one.end();
}
