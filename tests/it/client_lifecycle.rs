//! What containers are made to do by the commands of the client, and what these print.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::fixture;
use crate::harness::world::World;
use crate::peers::world::eventually;

#[test]
fn a_detached_container_is_listed_stopped_and_removed() {
    let world = World::new();
    let id = world.run("web", &[], &["probe", "trap"]);
    assert!(id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    assert_eq!(world.skiff(&["ps", "-q", "--no-trunc"]).ok(), format!("{id}\n"));
    assert_eq!(world.skiff(&["ps", "--format", "{{.Names}} {{.State}}"]).ok(), "web running\n");
    assert!(eventually(|| world.skiff(&["logs", "web"]).ok() == "ready\n"));
    assert_eq!(world.skiff(&["stop", "web"]).ok(), "web\n");
    assert_eq!(world.skiff(&["ps", "-q"]).ok(), "");
    assert_eq!(world.told("web", "{{.State.Status}} {{.State.ExitCode}}"), "exited 0");
    // By a beginning of its id, which is printed as it was given.
    assert_eq!(world.skiff(&["rm", &id[..10]]).ok(), format!("{}\n", &id[..10]));
    assert_eq!(world.skiff(&["ps", "-aq"]).ok(), "");
}

#[test]
fn codes_of_programs_and_of_skiff_are_told_apart() {
    let world = World::new();
    let root = fixture::small_root();
    let run = |words: &[&str]| world.skiff(&[&["run", "--rm", root], words].concat());
    assert_eq!(run(&["sh", "-c", "echo out; echo err >&2; exit 7"]).code, 7);
    run(&["nope"]).fails(127, "nope");
    run(&["/etc/plain"]).fails(126, "/etc/plain");
    world.skiff(&["run", "--rm", "rootfs:/nowhere", "true"]).fails(125, "/nowhere");
    world.skiff(&["run", "-d", "--rm", root, "nope"]).fails(127, "nope");
    assert!(eventually(|| world.skiff(&["ps", "-aq"]).ok().is_empty()), "nothing stays");
}

#[test]
fn a_container_that_is_not_there_is_named_by_every_command() {
    let world = World::new();
    world.run("web", &[], &["probe", "trap"]);
    for words in [
        &["start", "nope"][..],
        &["start", "-a", "nope"],
        &["stop", "nope"],
        &["restart", "nope"],
        &["kill", "nope"],
        &["pause", "nope"],
        &["unpause", "nope"],
        &["rm", "nope"],
        &["rename", "nope", "other"],
        &["wait", "nope"],
        &["logs", "nope"],
        &["attach", "nope"],
        &["stats", "--no-stream", "nope"],
    ] {
        let output = world.skiff(words);
        assert!(output.stderr.contains("skiff: no such container: nope\n"), "{output}");
        assert_eq!(output.stderr.lines().count(), 1, "{output}");
        assert!([1, 125].contains(&output.code), "{output}");
    }
    world.skiff(&["exec", "nope", "true"]).fails(1, "no such container: nope");
    let output = world.skiff(&["inspect", "nope"]);
    assert_eq!((output.code, output.stdout.as_str()), (1, "[]\n"), "{output}");
    // What can be done is done, and said.
    let output = world.skiff(&["stop", "nope", "web"]);
    assert_eq!((output.code, output.stdout.as_str()), (1, "web\n"), "{output}");
    let output = world.skiff(&["rm", "-f", "nope", "web"]);
    assert_eq!((output.code, output.stdout.as_str()), (0, "web\n"), "{output}");
}

#[test]
fn a_container_that_was_made_is_started_as_often_as_one_likes() {
    let world = World::new();
    let root = fixture::small_root();
    let made =
        world.skiff(&["create", "--name", "job", root, "sh", "-c", "cat /n; echo x >> /n; exit 3"]).ok();
    assert_eq!(made.trim_end().len(), 64);
    assert_eq!(world.skiff(&["ps", "-a", "--format", "{{.Status}}"]).ok(), "Created\n");
    for expected in ["", "x\n", "x\nx\n"] {
        let output = world.skiff(&["start", "-a", "job"]);
        assert_eq!((output.code, output.stdout.as_str()), (3, expected), "{output}");
    }
    assert_eq!(world.skiff(&["start", "job"]).ok(), "job\n");
    assert_eq!(world.skiff(&["wait", "job"]).ok(), "3\n");
}

#[test]
fn names_are_taken_once_and_can_be_changed() {
    let world = World::new();
    let root = fixture::small_root();
    world.skiff(&["create", "--name", "one", root, "true"]).ok();
    world.skiff(&["create", "--name", "two", root, "true"]).ok();
    world.skiff(&["create", "--name", "one", root, "true"]).fails(1, "one");
    world.skiff(&["rename", "two", "one"]).fails(1, "one");
    world.skiff(&["rename", "two", "bad name"]).fails(1, "invalid name");
    assert_eq!(world.skiff(&["rename", "one", "three"]).ok(), "");
    assert_eq!(world.skiff(&["ps", "-a", "--format", "{{.Names}}"]).ok(), "two\nthree\n");
    let drawn = world.skiff(&["create", root, "true"]).ok();
    assert!(world.told(drawn.trim_end(), "{{.Name}}").len() > 3, "every container has a name");
}

#[test]
fn signals_and_pauses_reach_containers() {
    let world = World::new();
    world.run("web", &[], &["probe", "trap"]);
    assert_eq!(world.skiff(&["kill", "-s", "USR1", "web"]).ok(), "web\n");
    assert!(eventually(|| world.skiff(&["logs", "web"]).ok() == "ready\nSIGUSR1\n"));
    assert_eq!(world.skiff(&["pause", "web"]).ok(), "web\n");
    assert_eq!(world.told("web", "{{.State.Status}} {{.State.Paused}}"), "paused true");
    world.skiff(&["pause", "web"]).fails(1, "already paused");
    world.skiff(&["exec", "web", "true"]).fails(1, "paused");
    assert_eq!(world.skiff(&["unpause", "web"]).ok(), "web\n");
    world.skiff(&["unpause", "web"]).fails(1, "not paused");
    world.skiff(&["rm", "web"]).fails(1, "web");
    world.skiff(&["rename", "web", "db"]).ok();
    let mut waiting = world.0.skiff(&["wait", "db"]).start();
    assert_eq!(world.skiff(&["kill", "db"]).ok(), "db\n");
    assert_eq!(waiting.line(), "137");
    waiting.finish().ok();
    world.skiff(&["kill", "db"]).fails(1, "not running");
    world.skiff(&["exec", "db", "true"]).fails(1, "not running");
}

#[test]
fn stopping_asks_first_and_kills_then() {
    let world = World::new();
    world.run(
        "stubborn",
        &["--stop-timeout", "1"],
        &["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"],
    );
    assert!(eventually(|| world.skiff(&["logs", "stubborn"]).ok() == "ready\n"));
    assert_eq!(world.skiff(&["stop", "stubborn"]).ok(), "stubborn\n");
    assert_eq!(world.told("stubborn", "{{.State.ExitCode}}"), "137");
    world.run("other", &["--stop-signal", "USR1"], &["probe", "trap"]);
    assert_eq!(world.skiff(&["stop", "-t", "0", "other"]).ok(), "other\n");
    let log = world.skiff(&["logs", "other"]).ok();
    assert!(log == "ready\nSIGUSR1\n" || log == "ready\n", "{log}");
}

#[test]
fn a_container_with_rm_goes_when_it_ends() {
    let world = World::new();
    world.run("short", &["--rm"], &["true"]);
    assert!(eventually(|| world.skiff(&["ps", "-aq"]).ok().is_empty()));
}

#[test]
fn a_client_that_goes_leaves_its_container_alone() {
    let world = World::new();
    let words = ["run", "--name", "web", fixture::small_root(), "sh", "-c", "echo ready; exec sleep 1000"];
    let mut live = world.0.skiff(&words).start();
    live.until("ready");
    assert!(eventually(|| world.told("web", "{{.State.Status}}") == "running"));
    live.signal(Signal::SIGKILL);
    assert!(eventually(|| kill(live.pid(), None).is_err()
        || std::fs::read_to_string(format!("/proc/{}/stat", live.pid()))
            .is_ok_and(|stat| stat.contains(") Z "))));
    assert_eq!(world.told("web", "{{.State.Status}}"), "running");
    let pid: i32 = world.told("web", "{{.State.Pid}}").parse().expect("a number");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it runs");
    assert_eq!(world.skiff(&["wait", "web"]).ok(), "137\n");
}

#[test]
fn a_failing_container_is_started_again_as_often_as_was_said() {
    let world = World::new();
    world.run("flaky", &["--restart", "on-failure:2"], &["sh", "-c", "echo again; exit 5"]);
    assert!(eventually(|| world.told("flaky", "{{.RestartCount}} {{.State.Status}}") == "2 exited"));
    assert_eq!(world.skiff(&["logs", "flaky"]).ok(), "again\nagain\nagain\n");
    assert_eq!(world.told("flaky", "{{.State.ExitCode}}"), "5");
}

#[test]
fn one_more_process_runs_in_a_container() {
    let world = World::new();
    world.run("web", &["-e", "COLOUR=blue"], &["probe", "trap"]);
    let output = world.skiff(&["exec", "web", "sh", "-c", "echo $COLOUR; echo err >&2; exit 4"]);
    assert_eq!(
        (output.code, output.stdout.as_str(), output.stderr.as_str()),
        (4, "blue\n", "err\n"),
        "{output}"
    );
    let inside =
        |flags: &[&str], command: &[&str]| world.skiff(&[&["exec"], flags, &["web"], command].concat());
    assert_eq!(inside(&["-e", "COLOUR=red"], &["sh", "-c", "echo $COLOUR"]).ok(), "red\n");
    assert_eq!(inside(&["-w", "/etc"], &["pwd"]).ok(), "/etc\n");
    assert_eq!(inside(&["-u", "alice"], &["id", "-u"]).ok(), "1234\n");
    inside(&[], &["nope"]).fails(127, "nope");
    inside(&[], &["/etc/plain"]).fails(126, "/etc/plain");
    let fed = world.0.skiff(&["exec", "-i", "web", "cat"]).stdin(b"fed").output();
    assert_eq!(fed.ok(), "fed");
    assert_eq!(inside(&["-d"], &["touch", "/made"]).ok(), "");
    assert!(eventually(|| inside(&[], &["ls", "/made"]).code == 0));
}

#[test]
fn what_waits_to_be_started_again_is_kept_from_it_by_a_kill() {
    let world = World::new();
    world.run("web", &["--restart", "always"], &["sh", "-c", "exit 3"]);
    // By then it waits for seconds.
    assert!(eventually(|| world.told("web", "{{.RestartCount}} {{.State.Status}}") == "6 restarting"));
    assert_eq!(world.ok(&["kill", "-s", "USR1", "web"]), "web");
    assert_eq!(world.told("web", "{{.State.Status}}"), "restarting");
    assert_eq!(world.ok(&["kill", "web"]), "web");
    assert_eq!(world.told("web", "{{.State.Status}} {{.State.ExitCode}}"), "exited 3");
    world.skiff(&["kill", "web"]).fails(1, "not running");
    world.skiff(&["kill", "-s", "NOPE", "web"]).fails(1, "NOPE");
    world.skiff(&["stop", "-s", "NOPE", "web"]).fails(1, "NOPE");
    world.skiff(&["kill", "--nope", "web"]).fails(125, "--nope");
}
