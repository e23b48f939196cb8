//! What can be done to a container, when, and what comes of it.

use crate::harness::world::World;
use crate::harness::{fixture, leak};
use crate::peers::world::eventually;

#[test]
fn a_container_lives_from_create_to_remove() {
    let world = World::new();
    let id = world.create(&["--name", "web"], &["sh", "-c", "echo x >> /file; exec probe trap"]);
    assert_eq!((world.state("web").as_str(), id.len()), ("created", 64));
    assert_eq!(world.ok(&["start", "web"]), "web");
    assert_eq!(world.state("web"), "running");
    assert_eq!(world.ok(&["ps", "-q", "--no-trunc"]), id);
    assert_eq!(world.ok(&["stop", "web"]), "web");
    assert_eq!(world.code("web"), 0);
    assert_eq!(world.ok(&["ps", "-q"]), "");
    world.ok(&["start", "web"]);
    // What it has written is still there.
    assert!(eventually(|| world.skiff(&["exec", "web", "cat", "/file"]).stdout == "x\nx\n"));
    world.ok(&["restart", "web"]);
    assert_eq!(world.state("web"), "running");
    assert_eq!(world.ok(&["rm", "-f", "web"]), "web");
    assert_eq!(world.ok(&["ps", "-aq"]), "");
    assert!(leak::groups(&[id]).is_empty() && world.directories().is_empty());
}

#[test]
fn what_does_not_go_together_with_the_state_is_a_conflict() {
    let world = World::new();
    let check = |words: &[&str], needle: &str| world.skiff(words).fails(1, needle);
    world.create(&["--name", "web"], &["probe", "trap"]);
    for words in [["kill", "web"], ["pause", "web"]] {
        check(&words, "is not running");
    }
    check(&["unpause", "web"], "is not paused");
    assert_eq!(world.ok(&["stop", "web"]), "web");
    world.ok(&["start", "web"]);
    assert_eq!(world.ok(&["start", "web"]), "web");
    check(&["unpause", "web"], "is not paused");
    check(&["rm", "web"], "is running");
    world.ok(&["pause", "web"]);
    assert_eq!(world.state("web"), "paused");
    check(&["pause", "web"], "already paused");
    check(&["start", "web"], "is paused");
    check(&["rm", "web"], "is paused");
    world.ok(&["unpause", "web"]);
    assert_eq!(world.state("web"), "running");
    world.ok(&["pause", "web"]);
    // What stands still can be stopped in good order.
    world.ok(&["stop", "web"]);
    assert_eq!(world.ended("web"), 0);
    check(&["kill", "web"], "is not running");
    world.ok(&["rm", "web"]);
    check(&["start", "web"], "no such container: web");
}

#[test]
fn names_have_one_owner_and_ids_can_be_shortened() {
    let world = World::new();
    let id = world.create(&["--name", "web"], &["true"]);
    let other = world.create(&[], &["true"]);
    let root = fixture::small_root();
    world.skiff(&["create", "--name", "web", root, "true"]).fails(1, "already in use");
    world.skiff(&["create", "--name", "-web", root, "true"]).fails(125, "name");
    world.skiff(&["rename", &other, "web"]).fails(1, "already in use");
    world.skiff(&["rename", "web", "web"]).fails(1, "that name already");
    world.ok(&["rename", "web", "old"]);
    assert_eq!(world.inspect(&id[..12])["Name"], "/old");
    world.ok(&["rename", &other[..20], "web"]);
    assert_eq!(world.inspect("web")["Id"], other.as_str());
    // One of sixteen begins with the same digit.
    let many: Vec<String> = (0..17).map(|_| world.create(&[], &["true"])).collect();
    let first = |id: &String| id.as_bytes()[0];
    let shared = many.iter().find(|id| many.iter().filter(|other| first(other) == first(id)).count() > 1);
    let shared = shared.expect("two begin alike");
    world.skiff(&["inspect", &shared[..1]]).fails(1, "several containers");
}

#[test]
fn a_program_that_cannot_be_run_leaves_its_container_created() {
    let world = World::new();
    world.create(&["--name", "bad"], &["no-such-program"]);
    world.skiff(&["start", "-a", "bad"]).fails(127, "no-such-program");
    assert_eq!((world.state("bad").as_str(), world.code("bad")), ("created", 127));
    world.create(&["--name", "file"], &["/etc/passwd"]);
    world.skiff(&["start", "-a", "file"]).fails(126, "/etc/passwd");
    world.ok(&["rm", "bad", "file"]);
    world.0.run(&["--name", "gone"], &["no-such-program"]).fails(127, "no-such-program");
    world.skiff(&["inspect", "gone"]).fails(1, "no such");
    assert!(eventually(|| world.directories().is_empty()));
}

#[test]
fn an_exit_code_is_the_program_s_or_tells_the_signal() {
    let world = World::new();
    for (command, code) in [(vec!["probe", "exit", "7"], 7), (vec!["probe", "die", "KILL"], 137)] {
        let output = world.0.run(&[], &command);
        assert_eq!(output.code, code, "{output}");
        world.create(&["--name", "one"], &command);
        world.ok(&["start", "one"]);
        assert_eq!(world.ok(&["wait", "one"]), code.to_string());
        assert_eq!(world.code("one"), i64::from(code));
        world.ok(&["rm", "one"]);
    }
}

#[test]
fn who_does_not_stop_in_time_is_killed() {
    let world = World::new();
    world.start("web", &[], &["probe", "wait"]);
    world.ok(&["stop", "-t", "0", "web"]);
    assert_eq!(world.ended("web"), 137);
    world.start("short", &["--timeout", "1", "--stop-timeout", "0"], &["probe", "wait"]);
    assert_eq!(world.ended("short"), 137);
}

#[test]
fn a_policy_starts_again_what_has_failed_and_not_what_was_stopped() {
    let world = World::new();
    world.start("bad", &["--restart", "on-failure:2"], &["probe", "exit", "3"]);
    assert!(eventually(|| world.inspect("bad")["RestartCount"] == 2 && world.state("bad") == "exited"));
    assert_eq!(world.code("bad"), 3);
    world.start("web", &["--restart", "always"], &["probe", "trap"]);
    // It ends with the container that it ends.
    let _killed = world.skiff(&["exec", "web", "kill", "-TERM", "1"]);
    assert!(eventually(|| world.inspect("web")["RestartCount"] == 1 && world.state("web") == "running"));
    world.ok(&["stop", "web"]);
    assert_eq!(world.ended("web"), 0);
}

#[test]
fn a_container_that_stands_still_holds_up_nobody() {
    let world = World::new();
    let id = world.start("stuck", &[], &["probe", "trap"]);
    let group = leak::groups(&[id]).into_iter().find(|group| group.join("cgroup.freeze").exists());
    let Some(group) = group else { return crate::harness::skip("cgroup.freeze") };
    std::fs::write(group.join("cgroup.freeze"), "1").expect("freeze");
    let stuck = [
        world.0.skiff(&["exec", "stuck", "true"]).start(),
        world.0.skiff(&["stop", "-t", "60", "stuck"]).start(),
    ];
    for _ in 0..3 {
        assert_eq!(world.state("stuck"), "running");
        assert_eq!(world.ok(&["ps", "--format", "{{.Names}}"]), "stuck");
        world.ok(&["stats", "--no-stream", "stuck"]);
        world.0.run(&[], &["true"]).ok();
    }
    std::fs::write(group.join("cgroup.freeze"), "0").expect("thaw");
    assert_eq!(world.ended("stuck"), 0);
    stuck.into_iter().for_each(|command| drop(command.finish()));
}

#[test]
fn an_attached_client_that_goes_leaves_its_container_alone() {
    let world = World::new();
    let mut live = world.0.command(&["--name", "web"], &["probe", "trap"]).start();
    live.until("ready");
    // Its client has been told by now, too: one that goes before takes its container along.
    assert!(eventually(|| world.state("web") == "running"));
    live.signal(nix::sys::signal::Signal::SIGKILL);
    drop(live);
    let id = world.inspect("web")["Id"].as_str().expect("an id").to_owned();
    assert_eq!(world.state("web"), "running");
    world.ok(&["stop", "web"]);
    assert!(eventually(|| !world.directories().iter().any(|path| path.ends_with(&id))));
}

/// Whether the root, as the container sees it, takes no notice of what is to be synced: `volatile`, or `fsync=volatile`.
fn is_volatile(mountinfo: &str) -> bool {
    let root = mountinfo.lines().find(|line| line.split(' ').nth(4) == Some("/")).expect("a root");
    root.ends_with("volatile") || root.contains("volatile,")
}

#[test]
fn what_a_container_that_stays_has_synced_is_on_the_disk() {
    let world = World::new();
    let look = ["cat", "/proc/self/mountinfo"];
    for _made_ahead in [false, true] {
        let gone = world.ok(&[&["run", "--rm", fixture::small_root()], &look[..]].concat());
        assert!(is_volatile(&gone), "{gone}");
        let stays = world.ok(&[&["run", fixture::small_root()], &look[..]].concat());
        assert!(!is_volatile(&stays), "{stays}");
    }
}

#[test]
fn a_container_starts_again_after_the_host_has_crashed_in_the_middle() {
    let world = World::new();
    let script = "echo again >> /count; cat /count";
    let id = world.create(&["--name", "web"], &["sh", "-c", script]);
    assert_eq!(world.ok(&["start", "-a", "web"]), "again");
    // What overlayfs has left for whoever mounts the layer next, had nobody unmounted it.
    let work = world.0.state.join("containers").join(id).join("work/work");
    std::fs::create_dir_all(work.join("incompat/volatile")).expect("make a mark");
    assert_eq!(world.ok(&["start", "-a", "web"]), "again\nagain");
}
