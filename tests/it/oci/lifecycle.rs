//! runtime.md: the state of a container, and the operations on it.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::Bundle;
use super::bundle::{fails, succeeds};
use super::hosting;
use crate::harness::live::Live;
use crate::harness::time_limit;

/// Writes a word to a file at each run: `first` for `config.json` as it was, anything else for a later one.
fn writer(word: &str) -> serde_json::Value {
    json!(["/bin/sh", "-c", format!("echo {word} >> /ran")])
}

fn ran(bundle: &Bundle) -> String {
    fs::read_to_string(bundle.inside("/ran")).unwrap_or_default()
}

#[test]
fn state_has_the_required_properties() {
    let bundle = Bundle::new();
    let state = bundle.create().state();
    let typed: oci_spec::runtime::State = serde_json::from_value(state.clone()).expect("a state");
    assert_eq!(typed.id(), &bundle.id);
    assert_eq!(typed.status().to_string(), "created");
    assert!(typed.pid().is_some_and(|pid| pid > 0), "{state}");
    for name in ["ociVersion", "id", "status", "bundle"] {
        assert!(state[name].is_string(), "{name} in {state}");
    }
    bundle.end();
}

#[test]
fn state_has_a_version_in_semver_form() {
    let bundle = Bundle::new();
    let state = bundle.create().state();
    let version = state["ociVersion"].as_str().unwrap_or_default();
    let numbers: Vec<&str> = version.split(['-', '+']).next().unwrap_or_default().split('.').collect();
    assert!(numbers.len() == 3 && numbers.iter().all(|it| it.parse::<u32>().is_ok()), "{version}");
    bundle.end();
}

#[test]
fn state_names_the_bundle_by_an_absolute_path() {
    let bundle = Bundle::new();
    bundle.write();
    let name = bundle.dir.file_name().and_then(|name| name.to_str()).expect("a name");
    let mut create = bundle.command(&["create", "--bundle", name, &bundle.id]);
    create.current_dir(bundle.dir.parent().expect("a parent")).stdout(Stdio::null()).stderr(Stdio::null());
    succeeds(&Live::spawn(create, None, time_limit()).finish());
    let state = bundle.state();
    let path = Path::new(state["bundle"].as_str().expect("a path"));
    assert!(path.is_absolute(), "{state}");
    assert_eq!(path.canonicalize().expect("it exists"), bundle.dir.canonicalize().expect("it exists"));
    bundle.end();
}

#[test]
fn state_has_the_pid_as_the_host_sees_it() {
    let mut bundle = Bundle::new();
    let pid = bundle.wait_ready(&["/bin/probe", "wait"]);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).expect("its numbers");
    let numbers: Vec<&str> = numbers.split_whitespace().collect();
    assert_eq!(numbers, [&pid.to_string()[..], "1"]);
    bundle.end();
}

#[test]
fn state_has_the_annotations() {
    let bundle = Bundle::with([("/annotations", json!({ "com.example.key": "value", "empty": "" }))]);
    bundle.create();
    let state = bundle.state();
    assert_eq!(state["annotations"]["com.example.key"], "value");
    assert_eq!(state["annotations"]["empty"], "");
    bundle.end();
}

#[test]
fn state_is_created_before_start() {
    let bundle = Bundle::new();
    assert_eq!(bundle.create().status(), "created");
    bundle.end();
}

#[test]
fn state_is_running_after_start() {
    let mut bundle = Bundle::new();
    bundle.wait_ready(&["/bin/probe", "wait"]);
    assert_eq!(bundle.status(), "running");
    bundle.end();
}

#[test]
fn state_is_stopped_after_the_program_has_ended() {
    let mut bundle = Bundle::new();
    let pid = bundle.args(&["/bin/probe", "exit", "3"]).create().pid();
    bundle.start();
    bundle.wait(pid);
    assert_eq!(bundle.status(), "stopped");
    bundle.delete();
}

#[test]
fn state_is_stopped_after_the_process_was_killed_from_elsewhere() {
    let mut bundle = Bundle::new();
    let pid = bundle.wait_ready(&["/bin/probe", "wait"]);
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill it");
    bundle.wait(pid);
    assert_eq!(bundle.status(), "stopped");
    bundle.delete();
}

#[test]
fn state_is_stopped_after_a_created_container_was_killed() {
    let bundle = Bundle::new();
    let pid = bundle.create().pid();
    bundle.kill("KILL");
    bundle.wait(pid);
    assert_eq!(bundle.status(), "stopped");
    bundle.delete();
}

#[test]
fn state_without_an_id_is_an_error() {
    fails(&Bundle::new().runtime(&["state"]));
}

#[test]
fn state_of_an_unknown_container_is_an_error() {
    let bundle = Bundle::new();
    fails(&bundle.runtime(&["state", &bundle.id]));
}

#[test]
fn create_does_not_run_the_program() {
    let bundle = Bundle::with([("/process/args", writer("first"))]);
    let pid = bundle.create().pid();
    assert_eq!(ran(&bundle), "");
    bundle.start();
    bundle.wait(pid);
    assert_eq!(ran(&bundle), "first\n");
    bundle.delete();
}

#[test]
fn create_without_an_id_is_an_error() {
    let bundle = Bundle::new();
    bundle.write();
    fails(&bundle.runtime(&["create", "--bundle", &bundle.dir.display().to_string()]));
}

#[test]
fn create_of_no_bundle_is_an_error() {
    let bundle = Bundle::new();
    fails(&bundle.try_create_written(&[]));
    fails(&bundle.runtime(&["create", "--bundle", "/no/such/bundle", &bundle.id]));
    fails(&bundle.runtime(&["state", &bundle.id]));
}

#[test]
fn create_of_something_other_than_json_is_an_error() {
    let bundle = Bundle::new();
    bundle.file("config.json", "{ \"ociVersion\": \"1.0.2\", ");
    fails(&bundle.try_create_written(&[]));
    fails(&bundle.runtime(&["state", &bundle.id]));
}

#[test]
fn create_with_an_id_in_use_is_an_error_and_changes_nothing() {
    let mut bundle = Bundle::new();
    let pid = bundle.wait_ready(&["/bin/probe", "trap"]);
    let again = ["create", "--bundle", &bundle.dir.display().to_string(), &bundle.id];
    fails(&bundle.runtime(&again));
    assert_eq!((bundle.status(), bundle.pid()), ("running".into(), pid));
    bundle.kill("TERM");
    assert_eq!(bundle.line(), "SIGTERM");
    bundle.wait(pid);
    // Not before it is deleted may the id be used again.
    fails(&bundle.runtime(&again));
    assert_eq!(bundle.status(), "stopped");
    bundle.delete();
}

#[test]
fn create_with_one_id_many_times_at_once_makes_one_container() {
    let bundle = Bundle::new();
    bundle.write();
    let words = ["create", "--bundle", &bundle.dir.display().to_string(), &bundle.id];
    let start = |_| {
        let mut command = bundle.command(&words);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Live::spawn(command, None, time_limit())
    };
    for round in 0..5 {
        let racing: Vec<Live> = (0..6).map(start).collect();
        let codes: Vec<i32> = racing.into_iter().map(|live| live.finish().code).collect();
        assert_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "round {round}: {codes:?}");
        assert_eq!(bundle.status(), "created");
        bundle.end();
    }
}

#[test]
fn create_fails_without_a_root_directory_and_leaves_nothing() {
    let mut bundle = Bundle::new();
    bundle.set_root("path", "no-such-directory").create_fails();
}

#[test]
fn create_fails_when_a_mount_does_and_leaves_nothing() {
    let mut bundle = Bundle::new();
    bundle.mount(json!({ "destination": "/mnt", "type": "no-such-type", "source": "none" }));
    bundle.create_fails();
}

#[test]
fn a_failed_create_leaves_the_id_free() {
    let mut bundle = Bundle::new();
    bundle.mount(json!({ "destination": "/mnt", "type": "no-such-type", "source": "none" }));
    bundle.create_fails();
    bundle.config["mounts"].as_array_mut().expect("mounts").pop();
    bundle.args(&["/bin/echo", "alive"]);
    assert_eq!(bundle.run(), "alive\n");
}

#[test]
fn later_changes_of_the_configuration_have_no_effect() {
    let mut bundle = Bundle::with([("/process/args", writer("first")), ("/hostname", json!("before"))]);
    let pid = bundle.create().pid();
    bundle.set("/process/args", writer("second")).set("/annotations", json!({ "new": "one" })).write();
    bundle.start();
    bundle.wait(pid);
    assert_eq!(ran(&bundle), "first\n");
    assert!(bundle.state()["annotations"]["new"].is_null());
    bundle.delete();
}

#[test]
fn start_runs_the_program_once() {
    let bundle = Bundle::with([("/process/args", writer("first"))]);
    let pid = bundle.create().pid();
    bundle.start();
    bundle.wait(pid);
    fails(&bundle.runtime(&["start", &bundle.id]));
    bundle.delete();
    assert_eq!(ran(&bundle), "first\n");
}

#[test]
fn start_without_an_id_is_an_error() {
    fails(&Bundle::new().runtime(&["start"]));
}

#[test]
fn start_of_an_unknown_container_is_an_error() {
    let bundle = Bundle::new();
    fails(&bundle.runtime(&["start", &bundle.id]));
}

#[test]
fn start_of_a_running_container_is_an_error_and_has_no_effect() {
    let mut bundle = Bundle::new();
    let pid = bundle.wait_ready(&["/bin/sh", "-c", "echo x >> /ran; exec probe trap"]);
    fails(&bundle.runtime(&["start", &bundle.id]));
    assert_eq!((bundle.status(), bundle.pid()), ("running".into(), pid));
    bundle.kill("TERM");
    assert_eq!(bundle.line(), "SIGTERM");
    bundle.wait(pid);
    assert_eq!(ran(&bundle), "x\n");
    bundle.delete();
}

#[test]
fn start_of_a_stopped_container_is_an_error_and_has_no_effect() {
    let bundle = Bundle::with([("/process/args", writer("first"))]);
    let pid = bundle.create().pid();
    bundle.kill("KILL");
    bundle.wait(pid);
    fails(&bundle.runtime(&["start", &bundle.id]));
    assert_eq!((bundle.status(), ran(&bundle)), ("stopped".into(), String::new()));
    bundle.delete();
}

#[test]
fn start_without_a_process_is_an_error() {
    let mut bundle = Bundle::new();
    bundle.config.as_object_mut().expect("an object").remove("process");
    bundle.never_runs();
}

#[test]
fn kill_without_an_id_is_an_error() {
    fails(&Bundle::new().runtime(&["kill"]));
}

#[test]
fn kill_of_an_unknown_container_is_an_error() {
    let bundle = Bundle::new();
    fails(&bundle.runtime(&["kill", &bundle.id, "TERM"]));
}

#[test]
fn kill_sends_the_signal_that_is_asked_for() {
    let mut bundle = Bundle::new();
    let pid = bundle.wait_ready(&["/bin/probe", "trap"]);
    for signal in ["HUP", "USR1", "WINCH", "CONT", "TERM"] {
        bundle.kill(signal);
        assert_eq!(bundle.line(), format!("SIG{signal}"));
    }
    bundle.wait(pid);
    bundle.delete();
}

#[test]
fn kill_does_not_end_what_catches_the_signal() {
    let mut bundle = Bundle::new();
    bundle.wait_ready(&["/bin/probe", "trap", "QUIT"]);
    bundle.kill("TERM");
    assert_eq!(bundle.line(), "SIGTERM");
    assert_eq!(bundle.status(), "running");
    bundle.end();
}

#[test]
fn kill_of_a_stopped_container_is_an_error() {
    let mut bundle = Bundle::new();
    let pid = bundle.args(&["/bin/true"]).create().pid();
    bundle.start();
    bundle.wait(pid);
    fails(&bundle.runtime(&["kill", &bundle.id, "KILL"]));
    assert_eq!(bundle.status(), "stopped");
    bundle.delete();
}

#[test]
fn delete_without_an_id_is_an_error() {
    fails(&Bundle::new().runtime(&["delete"]));
}

#[test]
fn delete_of_an_unknown_container_is_an_error() {
    let bundle = Bundle::new();
    fails(&bundle.runtime(&["delete", &bundle.id]));
}

#[test]
fn delete_of_a_running_container_is_an_error_and_has_no_effect() {
    let mut bundle = Bundle::new();
    let pid = bundle.wait_ready(&["/bin/probe", "trap"]);
    fails(&bundle.runtime(&["delete", &bundle.id]));
    assert_eq!((bundle.status(), bundle.pid()), ("running".into(), pid));
    bundle.kill("TERM");
    assert_eq!(bundle.line(), "SIGTERM");
    bundle.wait(pid);
    bundle.delete();
}

#[test]
fn delete_of_a_created_container_is_an_error_and_has_no_effect() {
    let bundle = Bundle::new();
    bundle.create();
    fails(&bundle.runtime(&["delete", &bundle.id]));
    assert_eq!(bundle.status(), "created");
    bundle.end();
}

#[test]
fn delete_removes_what_create_has_made() {
    let mut bundle = Bundle::new();
    let pid = bundle.args(&["/bin/true"]).create().pid();
    let groups = crate::harness::leak::groups(std::slice::from_ref(&bundle.id));
    assert!(!groups.is_empty(), "the container has no control group");
    bundle.start();
    bundle.wait(pid);
    bundle.delete();
    fails(&bundle.runtime(&["state", &bundle.id]));
    assert_eq!(
        crate::harness::leak::groups(std::slice::from_ref(&bundle.id)),
        <[std::path::PathBuf; 0]>::default()
    );
}

#[test]
fn delete_keeps_the_bundle() {
    let mut bundle = Bundle::new();
    bundle.args(&["/bin/touch", "/made"]).run();
    for path in ["/made", "/bin/probe", "/etc/passwd"] {
        assert!(bundle.inside(path).exists(), "{path}");
    }
    assert!(bundle.dir.join("config.json").exists());
}

#[test]
fn delete_keeps_a_control_group_that_was_there_before() {
    let Some(parent) = hosting::group("pids", "/") else { return hosting::lacks("a pids controller") };
    let group = parent.join(format!("before-{}", std::process::id()));
    fs::create_dir(&group).expect("make a control group");
    let mut bundle = Bundle::new();
    let path =
        format!("/{}/{}", group.file_name().and_then(|name| name.to_str()).expect("a name"), bundle.id);
    bundle.set("/linux/cgroupsPath", json!(path)).args(&["/bin/true"]).run();
    let kept = group.exists();
    for left in crate::harness::leak::groups(&[format!("before-{}", std::process::id())]) {
        fs::remove_dir(left).expect("remove the control group");
    }
    assert!(kept, "the parent that was there before is gone");
}

#[test]
fn a_deleted_id_can_be_used_again() {
    let mut bundle = Bundle::new();
    bundle.args(&["/bin/echo", "once"]);
    assert_eq!(bundle.run(), "once\n");
    bundle.args(&["/bin/echo", "twice"]);
    assert_eq!(bundle.run(), "twice\n");
}

#[test]
fn a_program_that_is_not_there_is_an_error() {
    let mut bundle = Bundle::new();
    bundle.args(&["/bin/no-such-program"]).never_runs();
}

#[test]
fn a_program_that_is_not_executable_is_an_error() {
    let mut bundle = Bundle::new();
    bundle.args(&["/etc/passwd"]).never_runs();
}

#[test]
fn two_containers_live_side_by_side() {
    let (mut one, mut two) = (Bundle::new(), Bundle::new());
    one.wait_ready(&["/bin/probe", "trap"]);
    two.wait_ready(&["/bin/probe", "trap"]);
    one.end();
    assert_eq!(two.status(), "running");
    two.kill("USR1");
    assert_eq!(two.line(), "SIGUSR1");
    two.end();
}
