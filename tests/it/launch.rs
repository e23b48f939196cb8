//! Attacks on a process on its way into a container, the first and those that are executed later, and on what it must not
//! bring along from whoever launched it; and launches that fail late. Each has to fail closed, and to say so.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::harness::live::{Live, Output};
use crate::harness::{installed, need, parse, programs, time_limit};
use crate::oci::Bundle;
use crate::oci::passed::Receiver;

/// A command that leaves the host's `/` and `/etc` open to what it starts.
fn leaky() -> Vec<String> {
    let script = "exec 3< / 7< /etc && exec \"$@\"";
    ["/bin/sh", "-c", script, "sh"].map(str::to_owned).to_vec()
}

/// A command that starts another through the probe, which spoils its environment.
fn spoilt(setting: &str) -> Vec<String> {
    vec![programs::probe().display().to_string(), "with".into(), setting.into(), "--".into()]
}

fn exec(bundle: &Bundle, flags: &[&str], words: &[&str]) -> Output {
    bundle.runtime(&[&["exec"], flags, &[&bundle.id], words].concat())
}

/// The container's verdicts on `operations`, by one more program.
#[track_caller]
fn attempt(bundle: &Bundle, operations: &[&str]) -> Vec<String> {
    let output = exec(bundle, &[], &[&["/bin/probe", "try"], operations].concat());
    assert_eq!(output.code, 0, "{}", output.stderr);
    output.stdout.lines().map(str::to_owned).collect()
}

/// A container whose program waits.
fn waiting(settings: &[(&str, Value)]) -> Bundle {
    let mut bundle = Bundle::new();
    for (pointer, value) in settings {
        bundle.set(pointer, value.clone());
    }
    bundle.wait_ready(&["/bin/probe", "wait"]);
    bundle
}

fn link(pid: i32, name: &str) -> String {
    let path = format!("/proc/{pid}/{name}");
    fs::read_link(&path).unwrap_or_else(|error| panic!("{path}: {error}")).display().to_string()
}

/// What the descriptors of process `pid` from 3 on lead to.
fn descriptors(pid: i32) -> Vec<String> {
    let names = fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors").flatten();
    let numbers = names.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    numbers.filter(|number| *number > 2).map(|number| link(pid, &format!("fd/{number}"))).collect()
}

#[test]
fn a_container_that_waits_holds_nothing_of_the_host() {
    let mut bundle = Bundle::new().through(&leaky());
    bundle.args(&["/bin/true"]).create();
    let pid = bundle.pid();
    let held = descriptors(pid);
    let is_own = |target: &String| target.starts_with("socket:") || target.starts_with("/memfd:");
    assert!(held.iter().all(is_own), "{held:?}");
    assert_eq!(link(pid, "cwd"), "/");
    bundle.end();
}

#[test]
fn a_container_that_waits_is_small() {
    let mut bundle = Bundle::new();
    bundle.args(&["/bin/true"]).create();
    let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", bundle.pid())).expect("smaps_rollup");
    let resident = text.lines().find_map(|line| line.strip_prefix("Rss:")?.trim().strip_suffix(" kB"));
    let resident_kb: u32 = resident.and_then(|number| number.trim().parse().ok()).expect("a number");
    assert!(resident_kb <= 2048, "{resident_kb} KiB");
    bundle.end();
}

#[test]
fn no_descriptor_of_the_caller_reaches_a_program() {
    let bundle = Bundle::new().through(&leaky());
    let mut bundle = bundle;
    let seen = bundle.attempt(&["names", "/proc/self/fd"]);
    // The fourth is the one by which the names are read.
    assert_eq!(seen, ["0,1,2,3"]);
    bundle.wait_ready(&["/bin/probe", "wait"]);
    assert_eq!(attempt(&bundle, &["names", "/proc/self/fd"]), ["0,1,2,3"]);
    bundle.end();
}

#[test]
fn no_working_directory_leads_out_of_the_container() {
    for number in 3..24 {
        let mut bundle = Bundle::new().through(&leaky());
        bundle.set("/process/cwd", json!(format!("/proc/self/fd/{number}")));
        bundle.args(&["/bin/true"]).create_fails();
    }
    let bundle = Bundle::new().through(&leaky());
    let mut bundle = bundle;
    bundle.wait_ready(&["/bin/probe", "wait"]);
    for number in 3..24 {
        let cwd = format!("/proc/self/fd/{number}");
        assert_ne!(exec(&bundle, &["--cwd", &cwd], &["/bin/true"]).code, 0, "{cwd}");
    }
    bundle.end();
}

/// Runs a program on a terminal in a container that has done `trick` to its own; it must get none.
fn no_terminal_after(trick: &str) {
    let mut bundle = Bundle::new();
    bundle.capable(&["CAP_SYS_ADMIN"]);
    bundle.wait_ready(&["/bin/probe", "wait"]);
    let tricked = exec(&bundle, &[], &["/bin/sh", "-c", trick]);
    assert_eq!(tricked.code, 0, "{}", tricked.stderr);
    let receiver = Receiver::new(&bundle.dir.join("console"));
    let flags = ["--tty", "--console-socket", &receiver.name()];
    assert_ne!(exec(&bundle, &flags, &["/bin/true"]).code, 0, "{trick}");
    bundle.end();
}

#[test]
fn a_swapped_terminal_is_not_taken() {
    no_terminal_after("mount -t tmpfs none /dev/pts && touch /dev/pts/ptmx");
    no_terminal_after("mount --bind /dev/null /dev/pts/ptmx");
    no_terminal_after(
        "umount /dev/pts && rmdir /dev/pts && mkdir /dev/p && touch /dev/p/ptmx && ln -s p /dev/pts",
    );
}

#[test]
fn a_process_on_its_way_in_cannot_be_looked_into() {
    let host = waiting(&[]);
    let mut guest = Bundle::new();
    guest.share("pid");
    let namespace = format!("/proc/{}/ns/pid", host.pid());
    guest.set("/linux/namespaces/-", json!({ "type": "pid", "path": namespace }));
    // Fewer than its neighbour has, so that these do not protect it.
    for set in ["bounding", "effective", "permitted"] {
        guest.set(&format!("/process/capabilities/{set}"), json!([]));
    }
    guest.args(&["/bin/true"]).create();
    let status = fs::read_to_string(format!("/proc/{}/status", guest.pid())).expect("status");
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).expect("ids");
    let id = ids.split_whitespace().next_back().expect("the innermost id");
    let of = |name: &str| format!("/proc/{id}/{name}");
    let (exe, root, memory) = (of("exe"), of("root"), of("mem"));
    let tried = attempt(&host, &["ptrace", id, "open-w", &exe, "list", &root, "open-r", &memory]);
    assert_eq!(tried.len(), 4, "{tried:?}");
    assert!(tried.iter().all(|verdict| matches!(verdict.as_str(), "EPERM" | "EACCES")), "{tried:?}");
    guest.end();
    host.end();
}

#[test]
fn what_the_caller_has_of_groups_and_ambient_capabilities_stays_behind() {
    need!(installed("setpriv"), "setpriv");
    let words = ["setpriv", "--groups", "4,27", "--inh-caps", "+net_raw", "--ambient-caps", "+net_raw"];
    let mut bundle = Bundle::new().through(&words.map(str::to_owned));
    bundle.set("/process/user", json!({ "uid": 1000, "gid": 1000 }));
    let check = |status: &Value| {
        for (name, expected) in [("Groups", ""), ("CapAmb", NONE), ("CapInh", NONE), ("CapEff", NONE)] {
            assert_eq!(status[name], expected, "{name}");
        }
    };
    check(&bundle.see()["status"]);
    bundle.wait_ready(&["/bin/probe", "wait"]);
    check(&parse(&exec(&bundle, &[], &["/bin/probe", "see"]).stdout)["status"]);
    bundle.end();
}

const NONE: &str = "0000000000000000";

#[test]
fn the_callers_session_keyring_stays_behind_unless_asked_for() {
    let tried =
        std::process::Command::new(programs::probe()).args(["try", "session-key"]).output().expect("probe");
    let of_host = String::from_utf8_lossy(&tried.stdout).trim().to_owned();
    let mut bundle = Bundle::new();
    let own = bundle.attempt(&["session-key"]);
    assert_ne!(own, [of_host.as_str()]);
    bundle.wait_ready(&["/bin/probe", "wait"]);
    assert_ne!(attempt(&bundle, &["session-key"]), [of_host.as_str()]);
    bundle.end();
    bundle.args(&["/bin/probe", "try", "session-key"]);
    assert_eq!(bundle.try_create(&["--no-new-keyring"]).code, 0);
    let pid = bundle.pid();
    bundle.start();
    assert_eq!(bundle.rest().trim(), of_host);
    bundle.wait(pid);
    bundle.delete();
}

#[test]
fn the_oom_score_is_set_whatever_lies_at_proc() {
    for replacement in [None, Some("fake")] {
        let mut bundle = Bundle::with([("/process/oomScoreAdj", json!(321))]);
        let mounts = bundle.config["mounts"].as_array_mut().expect("mounts");
        mounts.retain(|mount| mount["destination"] != "/proc");
        if let Some(name) = replacement {
            let fake = bundle.file(&format!("{name}/self/oom_score_adj"), "0");
            let source = fake.ancestors().nth(2).expect("the directory").to_owned();
            bundle.mount(json!({ "destination": "/proc", "source": source, "options": ["bind"] }));
        }
        let created = bundle.args(&["/bin/true"]).try_create(&[]);
        // What cannot be set must be an error, but this can be set.
        assert!(created.code == 0 || replacement.is_some(), "{}", created.stderr);
        if created.code == 0 {
            let score = fs::read_to_string(format!("/proc/{}/oom_score_adj", bundle.pid())).expect("score");
            assert_eq!(score.trim(), "321");
            bundle.end();
        }
    }
}

#[test]
fn a_program_that_vanishes_is_missed_at_the_start() {
    let mut bundle = Bundle::new();
    bundle.args(&["/bin/vanishing"]);
    fs::copy(bundle.inside("/bin/probe"), bundle.inside("/bin/vanishing")).expect("copy");
    bundle.create();
    let pid = bundle.pid();
    fs::remove_file(bundle.inside("/bin/vanishing")).expect("remove");
    let started = bundle.runtime(&["start", &bundle.id]);
    assert_ne!(started.code, 0);
    assert!(
        started.stderr.to_lowercase().contains("/bin/vanishing: no such file or directory"),
        "{}",
        started.stderr
    );
    bundle.wait(pid);
    bundle.delete();
}

#[test]
fn a_directory_on_the_search_path_is_no_program() {
    let mut bundle = Bundle::new();
    fs::create_dir(bundle.inside("/bin/directory")).expect("a directory");
    symlink("nothing", bundle.inside("/bin/dangling")).expect("a link");
    for (name, said) in
        [("directory", "permission denied"), ("dangling", "executable file not found in $path")]
    {
        let failed = bundle.args(&[name]).try_create(&[]);
        assert_ne!(failed.code, 0);
        assert!(failed.stderr.to_lowercase().contains(said), "{}", failed.stderr);
    }
}

/// A filter that hands over calls which every program makes, and one that ends every launch.
fn guarded(receiver: &Path) -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": receiver,
        "syscalls": [{
            "names": ["execve", "close", "sendmsg", "futex", "munmap", "exit_group", "mkdir"],
            "action": "SCMP_ACT_NOTIFY",
        }],
    })
}

#[test]
fn a_listener_arrives_although_its_filter_holds_every_call() {
    let mut bundle = Bundle::new();
    let receiver = Receiver::new(&bundle.dir.join("agent"));
    bundle.set("/linux/seccomp", guarded(&receiver.path)).args(&["/bin/true"]).create();
    let pid = bundle.pid();
    let mut start = bundle.command(&["start", &bundle.id]);
    start.stdout(Stdio::null()).stderr(Stdio::piped());
    let start = Live::spawn(start, None, time_limit());
    // With nobody to answer, the kernel answers: no such call. Then the program cannot be run.
    drop(receiver.receive_descriptor());
    let started = start.finish();
    assert_ne!(started.code, 0);
    assert!(started.stderr.contains("function not implemented"), "{}", started.stderr);
    bundle.wait(pid);
    bundle.delete();
}

#[test]
fn nothing_runs_whose_listener_cannot_be_handed_over() {
    let mut bundle = Bundle::new();
    let nowhere = bundle.dir.join("nobody");
    bundle.set("/linux/seccomp", guarded(&nowhere));
    bundle.args(&["/bin/sh", "-c", "echo ran"]).create();
    let pid = bundle.pid();
    assert_ne!(bundle.runtime(&["start", &bundle.id]).code, 0);
    assert_eq!(bundle.rest(), "");
    bundle.wait(pid);
    bundle.delete();
}

#[test]
fn a_caller_that_ignores_its_children_changes_nothing() {
    let hook = json!([{ "path": "/bin/true" }]);
    let mut bundle = Bundle::new().through(&spoilt("ignore=CHLD"));
    for kind in ["createRuntime", "createContainer", "startContainer", "poststart", "poststop"] {
        bundle.set(&format!("/hooks/{kind}"), hook.clone());
    }
    bundle.set("/linux/namespaces/-", json!({ "type": "user" }));
    for ids in ["uid", "gid"] {
        let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
        bundle.set(&format!("/linux/{ids}Mappings"), map);
    }
    fs::set_permissions(&bundle.dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    bundle.wait_ready(&["/bin/probe", "wait"]);
    let ended = exec(&bundle, &[], &["/bin/probe", "exit", "7"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (7, ""));
    bundle.end();
}

#[test]
fn older_kernels_ways_lead_there_too() {
    for call in ["clone3", "close_range", "faccessat2", "mount_setattr", "open_tree", "fsopen"] {
        let mut bundle = Bundle::new().through(&spoilt(&format!("deny={call}")));
        bundle.wait_ready(&["/bin/probe", "wait"]);
        let output = exec(&bundle, &[], &["/bin/echo", call]);
        assert_eq!(output.stdout.trim(), call, "{}", output.stderr);
        bundle.end();
    }
}

#[test]
fn a_program_joins_a_container_with_users_and_clocks_of_its_own() {
    let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
    let mut bundle = Bundle::with([
        ("/linux/uidMappings", map.clone()),
        ("/linux/gidMappings", map),
        ("/linux/namespaces/-", json!({ "type": "user" })),
        ("/linux/timeOffsets", json!({ "monotonic": { "secs": 86_400 } })),
    ]);
    bundle.set("/linux/namespaces/-", json!({ "type": "time" }));
    fs::set_permissions(&bundle.dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    bundle.wait_ready(&["/bin/probe", "wait"]);
    let seen = parse(&exec(&bundle, &["--user", "7:8"], &["/bin/probe", "see"]).stdout);
    let pid = bundle.pid();
    for kind in ["user", "pid", "net", "mnt", "ipc", "uts", "cgroup", "time"] {
        assert_eq!(seen["namespaces"][kind], link(pid, &format!("ns/{kind}")), "{kind}");
    }
    assert_eq!(seen["status"]["Uid"], "7\t7\t7\t7");
    bundle.end();
}

/// A process of the host with a mount namespace of its own; it ends with this value.
struct Elsewhere(std::process::Child);

impl Elsewhere {
    fn new() -> Self {
        let mut command = std::process::Command::new("unshare");
        command.args(["--mount"]).arg(programs::probe()).arg("wait").stdout(Stdio::piped());
        let mut child = command.spawn().expect("unshare");
        let mut line = String::new();
        let out = child.stdout.take().expect("a pipe");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).expect("its word");
        Self(child)
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ended = self.0.kill().and_then(|()| self.0.wait());
    }
}

#[test]
fn a_mount_namespace_given_by_path_becomes_the_containers() {
    // In this order: the bundle looks for processes that are left when it goes.
    let mut bundle = Bundle::new();
    let elsewhere = Elsewhere::new();
    let pid = i32::try_from(elsewhere.0.id()).expect("a process id");
    bundle
        .share("mount")
        .set("/linux/namespaces/-", json!({ "type": "mount", "path": format!("/proc/{pid}/ns/mnt") }));
    let seen = bundle.see();
    assert_eq!(seen["namespaces"]["mnt"], link(pid, "ns/mnt"));
}

#[test]
fn the_hosts_own_mount_namespace_is_never_taken() {
    let mut bundle = Bundle::new();
    bundle.share("mount").set("/linux/namespaces/-", json!({ "type": "mount", "path": "/proc/self/ns/mnt" }));
    bundle.create_fails();
}
