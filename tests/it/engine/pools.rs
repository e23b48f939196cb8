//! What is made ahead: used once, and no different from what is made when it is asked for.

use std::collections::HashSet;

use serde_json::Value;

use crate::harness::world::{World, destroy};
use crate::harness::{fixture, parse};
use crate::peers::world::eventually;

impl World {
    /// How many launches have found something ready, and how many have not.
    fn hits(&self) -> [u64; 2] {
        let pools = self.ok(&["system", "pools", "--format", "{{json .}}"]);
        let pools: Vec<Value> = pools.lines().map(parse).collect();
        ["Hits", "Misses"].map(|field| pools.iter().filter_map(|pool| pool[field].as_u64()).sum())
    }

    fn ready(&self) -> u64 {
        let pools = self.ok(&["system", "pools", "--format", "{{json .}}"]);
        pools.lines().filter_map(|line| parse(line)["Ready"].as_u64()).sum()
    }
}

#[test]
fn a_container_made_ahead_is_no_different() {
    let world = World::new();
    let flags = ["--hostname", "same", "--memory", "64m", "--cap-drop", "CHOWN", "-e", "A=1"];
    let mut cold = world.0.see(&flags);
    assert!(eventually(|| world.ready() > 0));
    let [hits, _] = world.hits();
    let mut warm = world.0.see(&flags);
    assert_eq!(world.hits()[0], hits + 1);
    for seen in [&mut cold, &mut warm] {
        forget_numbers(seen);
    }
    assert_eq!(cold, warm);
}

/// Leaves out what differs from one container to the next: the id, in paths, and numbers of inodes, devices and times.
fn forget_numbers(value: &mut Value) {
    match value {
        Value::String(text) => {
            *text = text.split(|c: char| c.is_ascii_hexdigit()).collect::<Vec<_>>().join("");
        }
        Value::Number(_) => *value = Value::Null,
        Value::Array(list) => list.iter_mut().for_each(forget_numbers),
        Value::Object(map) => map.values_mut().for_each(forget_numbers),
        Value::Null | Value::Bool(_) => {}
    }
}

#[test]
fn one_that_was_woken_for_nothing_is_of_use_to_the_next() {
    let world = World::new();
    world.0.run(&[], &["true"]).ok();
    assert!(eventually(|| world.ready() > 0));
    // The same image lets expect the same container, and then it is another that is wanted.
    world.0.run(&["--hostname", "other"], &["true"]).ok();
    let [hits, _] = world.hits();
    assert_eq!(world.0.run(&[], &["echo", "yes"]).ok(), "yes\n");
    assert_eq!(world.hits()[0], hits + 1);
}

#[test]
fn a_parked_container_has_the_directory_for_its_record() {
    let world = World::new();
    // It has no writable layer there.
    world.0.run(&["--read-only"], &["true"]).ok();
    assert!(eventually(|| world.ready() > 0));
    let made = world.directories().len();
    assert!(made > 0 && eventually(|| world.directories().len() as u64 == world.ready()), "{made}");
}

#[test]
fn what_was_made_for_another_state_of_the_host_is_not_used() {
    let world = World::new();
    let root = world.0.own_root();
    world.0.run_root(&root, &["--user", "alice"], &["id", "-u"]).ok();
    assert!(eventually(|| world.ready() > 0));
    let passwd = std::fs::read_to_string(root.join("etc/passwd")).expect("passwd");
    std::fs::write(root.join("etc/passwd"), passwd.replace("1234", "4321")).expect("write");
    assert_eq!(world.0.run_root(&root, &["--user", "alice"], &["id", "-u"]).ok(), "4321\n");
    assert_eq!(world.hits()[0], 0);
}

#[test]
fn a_parked_container_that_was_killed_is_not_used() {
    let world = World::new();
    world.0.run(&[], &["true"]).ok();
    assert!(eventually(|| world.ready() > 0));
    let [_, spawner] = world.processes();
    let children = std::fs::read_to_string(format!("/proc/{spawner}/task/{spawner}/children"));
    let Ok(children) = children else { return crate::harness::skip("CONFIG_PROC_CHILDREN") };
    for child in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
        destroy(nix::unistd::Pid::from_raw(child));
    }
    world.0.run(&[], &["true"]).ok();
}

#[test]
fn containers_of_a_storm_have_nothing_in_common() {
    let world = World::new();
    world.0.run(&[], &["true"]).ok();
    assert!(eventually(|| world.ready() > 0));
    // All are there at once, so that no number of a namespace can have been given away again.
    let script = "ls /mark 2> /dev/null; touch /mark; \
                  for kind in cgroup ipc mnt net pid uts; do readlink /proc/self/ns/$kind; done; \
                  sed -n 's/^.* - overlay .*upperdir=\\([^,]*\\).*/\\1/p' /proc/self/mountinfo; echo ready; read line";
    let start = |_| {
        let words = ["run", "--rm", "-i", fixture::small_root(), "sh", "-c", script];
        world.0.skiff(&words).stdin_open().start()
    };
    let mut storm: Vec<_> = (0..32).map(start).collect();
    storm.iter_mut().for_each(|live| live.until("ready"));
    assert_eq!(world.ok(&["ps", "-q"]).lines().count(), storm.len());
    let mut seen = HashSet::new();
    for mut live in storm {
        live.send(b"go\n");
        let printed = live.finish().ok();
        // Older kernels take an upper directory by a descriptor's path only, and show that.
        let is_told = |line: &&str| *line != "ready" && !line.starts_with("/proc/");
        for line in printed.lines().filter(is_told) {
            assert!(line != "/mark" && seen.insert(line.to_owned()), "{line} is two containers'");
        }
    }
    assert!(seen.len() >= 6 * 32, "{seen:?}");
}

#[test]
fn what_names_paths_of_the_host_is_not_made_ahead() {
    let world = World::new();
    let shared = world.0.subdir("shared");
    let volume = format!("{shared}:/shared");
    for _ in 0..3 {
        world.0.run(&["-v", &volume], &["true"]).ok();
    }
    assert_eq!(world.ready(), 0);
}

#[test]
fn without_a_pool_all_is_the_same() {
    let world = World::new();
    let _daemon = world.0.skiff(&["daemon", "--pool", "0"]).start();
    assert!(eventually(|| world.0.run.join("skiff.sock").exists()));
    for _ in 0..3 {
        world.skiff(&["run", "--rm", fixture::small_root(), "true"]).ok();
    }
    assert_eq!((world.ready(), world.hits()), (0, [0, 0]));
    world.ok(&["daemon", "--stop"]);
}

/// The first container of a plan is prepared by the spawner, those after it by themselves, in another mount namespace and beside it.
#[test]
fn what_the_kernel_says_of_an_overlay_is_told_whoever_mounts_it() {
    let world = World::new();
    let root = world.0.own_root();
    // A file tree whose users are read is planned anew when they have changed.
    std::fs::remove_dir_all(root.join("etc")).expect("remove");
    let image = format!("rootfs:{}", root.display());
    let create = |name: &str| world.ok(&["create", "--name", name, &image, "true"]);
    let (_, second) = (create("first"), create("second"));
    let start = |name: &str| world.skiff(&["start", "-a", name]);
    start("first").ok();
    // What the second one is to read lies in what it is to write to.
    let inside = world.0.state.join("containers").join(second).join("upper/root");
    std::fs::create_dir_all(inside.parent().expect("a parent")).expect("make");
    std::fs::rename(&root, &inside).expect("rename");
    std::os::unix::fs::symlink(&inside, &root).expect("symlink");
    for _ in 0..2 {
        start("second").fails(125, "mount the root file system: Too many levels of symbolic links");
    }
    std::fs::remove_file(&root).expect("remove");
    std::fs::rename(&inside, &root).expect("rename");
    for name in ["first", "second"] {
        start(name).ok();
    }
}
