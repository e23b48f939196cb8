//! Commands of the OCI runtime in situations that few engines bring about.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::live::{Live, Output};
use crate::harness::pty::Terminal;
use crate::harness::{parse, time_limit};
use crate::oci::Bundle;
use crate::oci::bundle::{fails, succeeds};
use crate::oci::passed::Receiver;

/// Runs the runtime with a descriptor 3, none from 4 to 9 and `LISTEN_FDS=1`, as a service manager starts a program; `$$` is the runtime's.
fn listening(bundle: &Bundle, listen_pid: &str, args: &[&str]) -> Output {
    let text = bundle.file("passed", "by descriptor").display().to_string();
    let runtime = bundle.command(args);
    let mut command = Command::new("sh");
    let script = format!(
        "exec 3< \"$0\" 4<&- 5<&- 6<&- 7<&- 8<&- 9<&-; LISTEN_FDS=1 LISTEN_PID={listen_pid} exec \"$@\""
    );
    command.args(["-c", &script, &text]).arg(runtime.get_program()).args(runtime.get_args());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Live::spawn(command, None, time_limit()).finish()
}

/// Prints what it knows of descriptors that it was passed, then what they are.
const LOOK: [&str; 3] = ["/bin/sh", "-c", "echo ${LISTEN_FDS-none} ${LISTEN_PID-none}; cat <&3 2>&1"];

#[test]
fn a_container_gets_the_descriptors_of_a_service_manager() {
    let mut bundle = Bundle::new();
    bundle.args(&LOOK).write();
    let run = ["run", "--bundle", &bundle.dir.display().to_string(), &bundle.id];
    assert_eq!(listening(&bundle, "$$", &run).ok(), "1 1\nby descriptor");
}

#[test]
fn descriptors_that_were_passed_to_another_process_stay_outside() {
    let mut bundle = Bundle::new();
    bundle.args(&LOOK).write();
    let run = ["run", "--bundle", &bundle.dir.display().to_string(), &bundle.id];
    for pid in ["1", "", "$PPID"] {
        let output = listening(&bundle, pid, &run);
        assert!(output.stdout.starts_with("none none\n"), "{output}");
        assert!(!output.stdout.contains("by descriptor"), "{output}");
    }
}

#[test]
fn only_the_caller_s_descriptors_are_passed_on() {
    let mut bundle = Bundle::new();
    bundle.args(&["/bin/probe", "see"]).write();
    let path = bundle.dir.display().to_string();
    for count in ["7", "4294967295"] {
        let run = ["run", "--preserve-fds", count, "--bundle", &path, &bundle.id];
        let seen = parse(&succeeds(&listening(&bundle, "none", &run)));
        let fds = seen["fds"].as_object().expect("descriptors").keys().filter(|number| number.len() == 1);
        assert_eq!(fds.collect::<Vec<_>>(), ["0", "1", "2", "3"]);
    }
    // What waits to be started has none of the runtime's either but those that it waits on.
    let close = "exec 3<&- 4<&- 5<&- 6<&- 7<&- 8<&- 9<&-; exec \"$@\"";
    let mut bundle = Bundle::new().through(&["sh", "-c", close, "sh"].map(str::to_owned));
    bundle.args(&["/bin/true"]);
    let held = |flags: &[&str]| {
        succeeds(&bundle.try_create(flags));
        let held = std::fs::read_dir(format!("/proc/{}/fd", bundle.pid())).expect("its descriptors").count();
        bundle.end();
        held
    };
    assert_eq!(held(&["--preserve-fds", "7"]), held(&[]));
}

#[test]
fn exec_passes_on_no_descriptors_of_a_service_manager() {
    let mut bundle = Bundle::new();
    bundle.wait_ready(&["/bin/probe", "wait"]);
    let output = listening(&bundle, "$$", &[&["exec", &bundle.id], &LOOK[..]].concat());
    assert!(output.stdout.starts_with("none none\n"), "{output}");
    assert!(!output.stdout.contains("by descriptor"), "{output}");
    bundle.end();
}

#[test]
fn spec_takes_the_name_of_its_file() {
    let bundle = Bundle::new();
    let directory = bundle.dir.display().to_string();
    succeeds(&bundle.runtime(&["spec", "--bundle", &directory, "-f", "other.json"]));
    assert!(bundle.dir.join("other.json").exists() && !bundle.dir.join("config.json").exists());
    let again = bundle.runtime(&["spec", "--bundle", &directory, "--file", "other.json"]);
    assert_eq!((again.code, again.stderr.lines().count()), (1, 1), "{again}");
    let elsewhere = bundle.dir.join("elsewhere.json").display().to_string();
    succeeds(&bundle.runtime(&["spec", "--file", &elsewhere]));
    assert!(bundle.dir.join("elsewhere.json").exists());
}

#[test]
fn features_claim_checkpoints_where_there_is_criu() {
    let bundle = Bundle::new();
    let criu = bundle.file("bin/criu", "#!/bin/true\n");
    let claim = |flags: &[&str], path: &std::path::Path| {
        let mut command = bundle.command(&[flags, &["features"]].concat());
        command.env("PATH", path).stdout(Stdio::piped()).stderr(Stdio::piped());
        let features = crate::harness::parse(&Live::spawn(command, None, time_limit()).finish().ok());
        features["annotations"]["org.opencontainers.runc.checkpoint.enabled"].clone()
    };
    let (directory, flag) = (bundle.dir.join("bin"), format!("--criu={}", criu.display()));
    assert_eq!(claim(&[], &directory), "false", "it may not be run");
    std::fs::set_permissions(&criu, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    assert_eq!(claim(&[], &directory), "true");
    assert_eq!(claim(&[], &bundle.dir), "false");
    assert_eq!(claim(&[&flag], &bundle.dir), "true");
}

/// The process that a descriptor stands for. pidfd_open(2).
fn process_behind(pidfd: &OwnedFd) -> i32 {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).expect("fdinfo");
    let line = text.lines().find_map(|line| line.strip_prefix("Pid:"));
    line.expect("it is a descriptor of a process").trim().parse().expect("a number")
}

#[test]
fn descriptors_of_processes_go_to_whoever_listens() {
    let mut bundle = Bundle::new();
    bundle.args(&["sleep", "1000"]);
    let listen = |name: &str| Receiver::new(&bundle.dir.join(name));
    let receiver = listen("created");
    succeeds(&bundle.try_create(&["--pidfd-socket", &receiver.name()]));
    let parcel = receiver.receive();
    assert_eq!((parcel.text.as_str(), parcel.fds.len()), ("standard", 1));
    assert_eq!(process_behind(&parcel.fds[0]), bundle.pid());
    bundle.start();

    let receiver = listen("executed");
    let file = bundle.dir.join("pid");
    let flags = ["--detach", "--pid-file", &file.display().to_string(), "--pidfd-socket", &receiver.name()];
    let mut command = bundle.command(&[&["exec"], &flags[..], &[&bundle.id, "sleep", "1000"]].concat());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    succeeds(&Live::spawn(command, None, time_limit()).finish());
    let parcel = receiver.receive();
    assert_eq!((parcel.text.as_str(), parcel.fds.len()), ("setns", 1));
    let pid = std::fs::read_to_string(file).expect("a pid file");
    assert_eq!(process_behind(&parcel.fds[0]).to_string(), pid);
    bundle.end();
}

#[test]
fn where_nobody_listens_for_a_process_none_is_made() {
    let bundle = Bundle::new();
    let output = bundle.try_create(&["--pidfd-socket", "/no/such/socket"]);
    assert_eq!((output.code, output.stderr.lines().count()), (1, 1), "{output}");
    fails(&bundle.runtime(&["state", &bundle.id]));
}

#[test]
fn what_is_done_is_in_the_log_if_that_is_asked_for() {
    let mut bundle = Bundle::new();
    bundle.args(&["sleep", "1000"]);
    let path = bundle.dir.join("log");
    let flags = ["--log", &path.display().to_string(), "--log-format", "json"].map(str::to_owned);
    let lines = |bundle: &Bundle, debug: &[&str], words: &[&str]| {
        std::fs::write(&path, "").expect("empty the log");
        let flags = flags.each_ref().map(String::as_str);
        let mut command = bundle.command(&[&flags, debug, words, &[&bundle.id]].concat());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        succeeds(&Live::spawn(command, None, time_limit()).finish());
        std::fs::read_to_string(&path).expect("a log")
    };
    bundle.write();
    let directory = bundle.dir.display().to_string();
    let create = lines(&bundle, &["--debug"], &["create", "--bundle", &directory]);
    let pid = bundle.pid();
    for (text, expected) in [
        (create, format!("launched pid={pid} ")),
        (lines(&bundle, &["--debug"], &["start"]), "started".to_owned()),
        (lines(&bundle, &["--debug"], &["delete", "--force"]), format!("signal signal=9 pid={pid}")),
    ] {
        let entries: Vec<_> = text.lines().map(crate::harness::parse).collect();
        assert!(entries.iter().all(|entry| entry["level"] == "debug" && entry["time"].is_string()), "{text}");
        assert!(text.contains(&expected), "{text}");
    }
    assert_eq!(lines(&bundle, &[], &["create", "--bundle", &directory]), "");
    assert_eq!(lines(&bundle, &[], &["delete", "--force"]), "");
}

#[test]
fn an_id_in_use_is_told_before_the_control_group_that_goes_with_it() {
    let mut bundle = Bundle::new();
    bundle.wait_ready(&["/bin/probe", "wait"]);
    let again = bundle.runtime(&["create", "--bundle", &bundle.dir.display().to_string(), &bundle.id]);
    assert!(again.code == 1 && again.stderr.contains("container with given ID already exists"), "{again}");
    bundle.end();
}

/// A container without cgroups, with two processes beside the first.
fn without_cgroup(bundle: &mut Bundle) -> i32 {
    bundle.wait_ready(&["/bin/sh", "-c", "sleep 1000 & sleep 1000 & exec probe wait"])
}

/// The ids of the children of process `pid`.
fn children(pid: i32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("its children");
    text.split_whitespace().map(|pid| pid.parse().expect("a number")).collect()
}

#[test]
fn kill_all_without_a_cgroup_reaches_all_of_a_pid_namespace() {
    for signal in ["USR1", "KILL"] {
        let mut bundle = Bundle::new().global(&["--cgroup-manager=disabled"]);
        let pid = without_cgroup(&mut bundle);
        let others = children(pid);
        let list = crate::harness::parse(&bundle.runtime(&["ps", "--format", "json", &bundle.id]).ok());
        assert_eq!(list, serde_json::json!([pid, others[0], others[1]]));
        bundle.runtime(&["kill", "--all", &bundle.id, signal]).ok();
        others.iter().for_each(|other| bundle.wait(*other));
        if signal == "USR1" {
            // The first of a namespace has to want a signal to get it.
            assert_eq!(bundle.status(), "running");
            bundle.kill("KILL");
        }
        bundle.wait(pid);
        bundle.delete();
    }
}

#[test]
fn kill_all_with_nothing_to_find_processes_by_is_an_error() {
    let mut bundle = Bundle::new().global(&["--cgroup-manager=disabled"]);
    bundle.share("pid");
    let pid = without_cgroup(&mut bundle);
    let others = children(pid);
    for words in [&["kill", "--all", &bundle.id, "TERM"][..], &["ps", &bundle.id]] {
        let output = bundle.runtime(words);
        assert!(output.code == 1 && output.stderr.contains("no cgroup and no PID namespace"), "{output}");
    }
    assert_eq!(bundle.status(), "running");
    for other in others {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(other), nix::sys::signal::Signal::SIGKILL)
            .expect("kill");
    }
    bundle.end();
}

#[test]
fn a_created_container_is_ended_by_a_signal_that_cannot_be_ignored() {
    let bundle = Bundle::new();
    let pid = bundle.create().pid();
    for signal in ["TERM", "INT", "USR1"] {
        bundle.kill(signal);
    }
    assert_eq!(bundle.status(), "created");
    bundle.kill("KILL");
    bundle.wait(pid);
    bundle.delete();
}

#[test]
fn exec_of_what_cannot_be_run_is_255_in_words_that_engines_know() {
    let mut bundle = Bundle::new();
    bundle.wait_ready(&["/bin/probe", "wait"]);
    std::fs::write(bundle.inside("/bin/inert"), "").expect("a file that cannot be run");
    for (program, words) in [
        ("no-such-program", "executable file not found in $PATH"),
        ("/bin/no-such-program", "no such file or directory"),
        ("/bin/inert", "permission denied"),
        ("/etc", "permission denied"),
    ] {
        for detach in [&[][..], &["--detach"]] {
            let output = bundle.runtime(&[&["exec"], detach, &[&bundle.id, program]].concat());
            assert!(output.code == 255 && output.stderr.contains(words), "{program}: {output}");
        }
    }
    let output = bundle.runtime(&["exec", "no-such-container", "/bin/true"]);
    assert!(output.code == 255 && output.stderr.contains("does not exist"), "{output}");
    let output = bundle.runtime(&["exec", "--user", "nobody", &bundle.id, "/bin/true"]);
    assert!(output.code == 255 && output.stderr.contains("not UID[:GID]"), "{output}");
    succeeds(&bundle.runtime(&["exec", "--user", "", &bundle.id, "/bin/true"]));
    bundle.end();
}

/// The runtime's commands where there is no cgroup v2, so that the freezer of version 1 stops what is paused.
fn of_version_1() -> Option<Bundle> {
    let has = |name: &str| std::path::Path::new("/sys/fs/cgroup").join(name).is_dir();
    let hide = "umount /sys/fs/cgroup/unified && exec \"$@\"";
    let through = ["unshare", "--mount", "--propagation=private", "sh", "-c", hide, "sh"].map(str::to_owned);
    (has("unified") && has("freezer")).then(|| Bundle::new().through(&through))
}

#[test]
fn what_ends_an_exec_into_a_paused_container_leaves_nothing_that_goes_on() {
    for bundle in [Some(Bundle::new()), of_version_1()] {
        let Some(mut bundle) = bundle else { continue };
        let first = bundle.wait_ready(&["/bin/probe", "wait"]);
        succeeds(&bundle.runtime(&["pause", &bundle.id]));
        // SIGINT and SIGHUP may be ignored by whoever runs the tests in the background.
        for signal in [Signal::SIGTERM, Signal::SIGUSR1] {
            let mut command = bundle.command(&["exec", "--ignore-paused", &bundle.id, "sleep", "1000"]);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            let exec = Live::spawn(command, None, time_limit());
            let child = loop {
                if let [child] = children(exec.pid().as_raw())[..] {
                    break child;
                }
                std::thread::yield_now();
            };
            exec.signal(signal);
            assert_eq!(exec.finish().code, -(signal as i32));
            succeeds(&bundle.runtime(&["resume", &bundle.id]));
            bundle.wait(child);
            succeeds(&bundle.runtime(&["pause", &bundle.id]));
        }
        assert_eq!(bundle.status(), "paused");
        let start = bundle.runtime(&["start", &bundle.id]);
        assert!(start.code == 1 && start.stderr.contains("in the paused state"), "{start}");
        succeeds(&bundle.runtime(&["delete", "--force", &bundle.id]));
        bundle.wait(first);
    }
}

#[test]
fn what_another_program_has_frozen_by_version_1_goes_on_and_ends() {
    let mut bundle = Bundle::new();
    let first = bundle.wait_ready(&["/bin/probe", "wait"]);
    let group = crate::oci::group("freezer", &format!("/{}", bundle.id));
    let Some(state) = group.map(|group| group.join("freezer.state")).filter(|state| state.exists()) else {
        bundle.end();
        return crate::oci::lacks("the freezer of cgroup v1");
    };
    let freeze = || std::fs::write(&state, "FROZEN").expect("freeze");
    freeze();
    assert_eq!(bundle.status(), "paused");
    succeeds(&bundle.runtime(&["resume", &bundle.id]));
    assert_eq!(bundle.status(), "running");
    assert_eq!(std::fs::read_to_string(&state).expect("a state"), "THAWED\n");
    freeze();
    succeeds(&bundle.runtime(&["delete", "--force", &bundle.id]));
    bundle.wait(first);
    let first = bundle.wait_ready(&["/bin/probe", "wait"]);
    freeze();
    bundle.kill("KILL");
    bundle.wait(first);
    bundle.delete();
}

#[test]
fn hooks_of_the_host_run_in_the_bundle_as_long_as_it_is_there() {
    const KINDS: [&str; 5] = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
    let mut bundle = Bundle::new();
    let host = |path: &str| bundle.inside(path).display().to_string();
    let (program, log) = (host("/bin/probe"), host("/hooks.log"));
    for kind in KINDS.iter().chain(&["startContainer"]) {
        let is_inside = *kind == "startContainer";
        let (program, log) =
            if is_inside { ("/bin/probe", "/hooks.log") } else { (program.as_str(), log.as_str()) };
        let hook = json!({ "path": program, "args": [program, "hook", log, kind] });
        bundle.set(&format!("/hooks/{kind}/-"), hook);
    }
    bundle.args(&["/bin/true"]).run();
    let text = std::fs::read_to_string(bundle.inside("/hooks.log")).expect("what hooks have written");
    let found: std::collections::BTreeMap<String, String> = text
        .lines()
        .map(parse)
        .map(|line| {
            (line["name"].as_str().expect("a name").into(), line["cwd"].as_str().expect("a path").into())
        })
        .collect();
    let directory = bundle.dir.canonicalize().expect("the bundle").display().to_string();
    for kind in KINDS {
        assert_eq!(found[kind], directory, "{kind}");
    }
    assert_eq!(found["startContainer"], "/");
}

#[test]
fn restore_of_images_that_are_not_there_makes_nothing() {
    let bundle = Bundle::new();
    bundle.write();
    let (directory, images) = (bundle.dir.display().to_string(), bundle.dir.join("no/images"));
    let images_text = images.display().to_string();
    let words = ["restore", "--bundle", &directory, "--image-path", &images_text, &bundle.id];
    let restore = bundle.runtime(&words);
    assert_eq!(restore.code, 1, "{restore}");
    assert!(restore.stderr.contains(&format!("open {images_text}: no such file or directory")), "{restore}");
    assert!(!bundle.dir.join("no").exists());
    fails(&bundle.runtime(&["state", &bundle.id]));
}

#[test]
fn a_limit_of_kernel_memory_that_is_not_kept_is_told_of() {
    const ASKED: i64 = 64 << 20;
    let mut bundle = Bundle::with([("/linux/resources/memory/kernel", json!(ASKED))]);
    let Some(group) = crate::oci::group("memory", "/") else {
        return crate::oci::lacks("the memory controller");
    };
    if !group.join("memory.kmem.limit_in_bytes").exists() {
        return bundle.wrong().create_fails();
    }
    let create = bundle.args(&["/bin/true"]).try_create(&[]);
    let group = group.join(&bundle.id).join("memory.kmem.limit_in_bytes");
    let is_kept = std::fs::read_to_string(group).is_ok_and(|now| now.trim() == ASKED.to_string());
    let is_told =
        bundle.errors().contains("linux.resources.memory.kernel") || create.stderr.contains("memory.kernel");
    assert!(create.code != 0 || is_kept != is_told, "{create}");
    succeeds(&bundle.runtime(&["delete", "--force", &bundle.id]));
}

#[test]
fn a_terminal_has_the_caller_s_size_from_the_beginning() {
    // Whether a program that asks at once is faster than the runtime is a matter of luck.
    const TRIES: usize = 20;
    let is_of_size = |bundle: &Bundle, words: &[&str]| {
        let (code, screen) = Terminal::start_command(bundle.command(words), 33, 123).finish();
        assert_eq!(code, 0, "{screen}");
        assert_eq!(parse(screen.trim())["size"], json!([33, 123]));
    };
    let mut bundle = Bundle::new();
    let path = bundle.dir.display().to_string();
    bundle.wait_ready(&["/bin/probe", "wait"]);
    for _ in 0..TRIES {
        is_of_size(&bundle, &["exec", "--tty", &bundle.id, "/bin/probe", "term"]);
    }
    bundle.end();
    bundle.set("/process/terminal", json!(true)).args(&["/bin/probe", "term"]).write();
    for _ in 0..TRIES {
        is_of_size(&bundle, &["run", "--bundle", &path, &bundle.id]);
    }
}

#[test]
fn another_configuration_is_found_where_the_caller_is() {
    let mut bundle = Bundle::new();
    let elsewhere = bundle.subdir("elsewhere");
    bundle.args(&["/bin/echo", "another"]).write();
    std::fs::rename(bundle.dir.join("config.json"), Path::new(&elsewhere).join("my.json")).expect("rename");
    bundle.args(&["/bin/echo", "its own"]).write();
    std::fs::copy(bundle.dir.join("config.json"), bundle.dir.join("my.json")).expect("copy");
    let path = bundle.dir.display().to_string();
    let mut command = bundle.command(&["run", "--bundle", &path, "--config", "my.json", &bundle.id]);
    command.current_dir(&elsewhere).stdout(Stdio::piped()).stderr(Stdio::piped());
    assert_eq!(Live::spawn(command, None, time_limit()).finish().ok().trim_end(), "another");
}

#[test]
fn the_propagation_of_a_root_reaches_what_is_mounted_below_if_it_says_so() {
    for (word, tag, reaches) in
        [("shared", "shared:", false), ("rshared", "shared:", true), ("runbindable", "unbindable", true)]
    {
        let seen = Bundle::with([("/linux/rootfsPropagation", json!(word))]).see();
        let has_tag = |target: &str| {
            let mounts = seen["mounts"].as_array().expect("a list");
            let found = mounts.iter().rfind(|mount| mount["target"] == target).expect(target);
            found["tags"].as_str().is_some_and(|tags| tags.contains(tag))
        };
        assert_eq!([has_tag("/"), has_tag("/proc"), has_tag("/dev")], [true, reaches, reaches], "{word}");
    }
}

#[test]
fn a_network_device_whose_new_name_is_taken_stays_on_the_host() {
    let mut bundle = Bundle::with([("/linux/netDevices", json!({ "outside": { "name": "lo" } }))]);
    bundle.args(&["/bin/true"]).write();
    // The runtime gets a network namespace of its own, so that the device is not one of the host.
    let script = "ip link add outside type veth peer name other || exit 77
                  \"$@\"; echo $?; ip -o link show outside";
    let runtime = bundle.command(&["run", "--bundle", &bundle.dir.display().to_string(), &bundle.id]);
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", script, "sh"]).arg(runtime.get_program()).args(runtime.get_args());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = Live::spawn(command, None, time_limit()).finish();
    if output.code == 77 {
        return crate::oci::lacks("virtual network devices");
    }
    assert!(output.code == 0 && output.stdout.starts_with("1\n"), "{output}");
    assert!(
        output.stderr.contains("move network device outside into the container as lo: File exists"),
        "{output}"
    );
}
