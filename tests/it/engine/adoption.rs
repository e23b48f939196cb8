//! Daemon and spawner may be killed at any instant: containers go on, and nothing is lost or left.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::harness::world::{World, destroy};
use crate::harness::{fixture, programs};
use crate::peers::world::eventually;

#[test]
fn a_container_outlives_its_daemon_with_its_log_and_its_end() {
    let world = World::new();
    let script = "echo one; while [ ! -e /go ]; do sleep 0.05; done; echo two; exit 7";
    world.start("web", &[], &["sh", "-c", script]);
    world.start("other", &[], &["sh", "-c", "read x; exit 5"]);
    assert!(eventually(|| world.skiff(&["logs", "web"]).stdout == "one\n"));
    let [daemon, spawner] = world.processes();
    destroy(daemon);
    assert_eq!(world.state("web"), "running");
    assert_eq!(world.processes()[1], spawner);
    // It has ended by itself while there was a daemon or not.
    assert_eq!(world.ended("other"), 5);
    world.ok(&["exec", "web", "touch", "/go"]);
    assert_eq!(world.ended("web"), 7);
    assert_eq!(world.ok(&["logs", "web"]), "one\ntwo");
}

#[test]
fn an_end_that_no_daemon_has_seen_is_known_to_the_next() {
    let world = World::new();
    world.start("web", &[], &["sh", "-c", "sleep 0.5; exit 9"]);
    let pid = world.inspect("web")["State"]["Pid"].as_i64().expect("a pid");
    destroy(world.processes()[0]);
    assert!(eventually(|| !std::path::Path::new(&format!("/proc/{pid}")).exists()));
    assert_eq!(world.ended("web"), 9);
}

#[test]
fn containers_outlive_their_spawner() {
    let world = World::new();
    world.start("web", &[], &["probe", "trap"]);
    world.start("other", &[], &["probe", "wait"]);
    let [daemon, spawner] = world.processes();
    destroy(spawner);
    assert_eq!(world.state("web"), "running");
    assert!(eventually(|| world.0.run(&[], &["true"]).code == 0));
    assert!(world.processes()[0] == daemon && world.processes()[1] != spawner);
    world.ok(&["exec", "web", "true"]);
    world.ok(&["stop", "web"]);
    assert_eq!(world.ended("web"), 0);
    world.ok(&["kill", "other"]);
    assert_eq!(world.ended("other"), 137);
    world.ok(&["start", "web"]);
    assert_eq!(world.state("web"), "running");
}

#[test]
fn containers_outlive_both() {
    let world = World::new();
    world.start("web", &[], &["probe", "wait"]);
    let [daemon, spawner] = world.processes();
    destroy(daemon);
    destroy(spawner);
    assert_eq!(world.state("web"), "running");
    world.ok(&["exec", "web", "true"]);
    world.ok(&["kill", "web"]);
    world.ended("web");
    world.ok(&["start", "web"]);
    assert_eq!(world.state("web"), "running");
}

#[test]
fn containers_go_on_under_another_program_and_so_does_their_spawner() {
    let world = World::new();
    world.start("web", &["-i"], &["sh", "-c", "read line; echo $line; exit 7"]);
    let [daemon, spawner] = world.processes();
    let another = world.0.dir.join("skiff");
    fs::copy(programs::skiff(), &another).expect("copy");
    let inode = |path: &Path| fs::metadata(path).expect("there").ino();
    let executable = || inode(Path::new(&format!("/proc/{spawner}/exe")));
    // From one program to the other, and back, killed at once each time.
    destroy(daemon);
    for program in [&another, programs::skiff(), &another] {
        let pools = world.0.skiff(&["system", "pools"]).program(program).output();
        assert_eq!(pools.code, 0, "{pools}");
        assert!(eventually(|| executable() == inode(program)), "it goes on as the program that it was");
        assert_eq!(world.processes()[1], spawner);
        destroy(world.processes()[0]);
    }
    let attached = world.0.skiff(&["attach", "web"]).program(&another).stdin(b"hello\n").output();
    assert_eq!((attached.code, attached.stdout.as_str()), (7, "hello\n"), "{attached}");
    assert_eq!(world.ended("web"), 7);
    // It makes new ones as the program that it is now.
    world.0.command(&[], &["true"]).program(&another).output().ok();
}

#[test]
fn a_daemon_that_is_killed_while_many_start_leaves_nothing_half_made() {
    let world = World::new();
    for round in 0..4_u32 {
        world.ok(&["version"]);
        let many: Vec<_> = (0..8).map(|_| world.0.command(&[], &["probe", "exit", "0"]).start()).collect();
        // At another instant each time.
        (0..round).for_each(|_| drop(world.skiff(&["ps", "-q"])));
        destroy(world.processes()[0]);
        many.into_iter().for_each(|one| drop(one.finish()));
        assert!(eventually(|| world.skiff(&["ps", "-aq"]).stdout.is_empty()), "{}", world.ok(&["ps", "-a"]));
    }
    assert!(eventually(|| world.skiff(&["system", "pools"]).code == 0));
}

#[test]
fn a_policy_holds_for_what_ended_while_no_daemon_was_there() {
    let world = World::new();
    world.start("web", &["--restart", "always"], &["probe", "trap"]);
    world.start("once", &["--rm"], &["probe", "trap"]);
    let pids = ["web", "once"].map(|name| world.inspect(name)["State"]["Pid"].as_i64().expect("a pid"));
    destroy(world.processes()[0]);
    for pid in pids {
        let pid = i32::try_from(pid).expect("a process id");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
            .expect("kill");
    }
    assert!(eventually(|| world.state("web") == "running" && world.inspect("web")["RestartCount"] == 1));
    assert!(eventually(|| world.skiff(&["inspect", "once"]).code == 1));
}

#[test]
fn a_torn_record_is_set_aside_and_in_nobody_s_way() {
    let world = World::new();
    let torn = world.create(&["--name", "torn"], &["true"]);
    world.create(&["--name", "whole"], &["true"]);
    world.ok(&["daemon", "--stop"]);
    let directory = world.0.state.join("containers").join(torn);
    fs::write(directory.join("container.json"), "{\"id\":").expect("spoil the record");
    assert_eq!(world.ok(&["ps", "-a", "--format", "{{.Names}}"]), "whole");
    assert!(directory.join("container.json.damaged").exists());
    world.create(&["--name", "torn"], &["true"]);
    fs::remove_dir_all(directory).expect("clean up");
}

#[test]
fn what_has_no_record_is_cleared_away() {
    let world = World::new();
    world.create(&["--name", "web"], &["true"]);
    world.ok(&["daemon", "--stop"]);
    let id = "0123456789abcdef".repeat(4);
    fs::create_dir_all(world.0.state.join("containers").join(id).join("upper/etc")).expect("a leftover");
    assert_eq!(world.ok(&["ps", "-a", "--format", "{{.Names}}"]), "web");
    assert!(eventually(|| world.directories().len() == 1));
}

#[test]
fn one_state_has_one_daemon() {
    let world = World::new();
    world.ok(&["version"]);
    world.skiff(&["daemon"]).fails(1, "a daemon runs already");
    let [daemon, _] = world.processes();
    nix::sys::signal::kill(daemon, nix::sys::signal::Signal::SIGTERM).expect("it runs");
    assert!(eventually(|| !world.0.run.join("skiff.sock").exists()));
    // The next command starts another, also while the former is still leaving.
    world.skiff(&["run", "--rm", fixture::small_root(), "true"]).ok();
    assert_ne!(world.processes()[0], daemon);
}
