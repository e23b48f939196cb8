//! Clients whose daemon goes, and clients that go themselves.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use crate::harness::pty::Terminal;
use crate::harness::world::{World, destroy};
use crate::harness::{fixture, installed, need, patience};
use crate::oci::hosting::lacks;
use crate::peers::world::eventually;

/// Leaves a terminal.
const KEYS: &[u8] = b"\x10\x11";

#[test]
fn nobody_is_told_that_the_daemon_is_about_to_leave() {
    if patience() > 1 {
        // A daemon that leaves waits for its clients for seconds, not for ever.
        return lacks("the speed of a processor that is not emulated");
    }
    let world = World::new();
    let root = fixture::small_root();
    for _round in 0..8 {
        let clients: Vec<_> = (0..6)
            .map(|number| match number % 2 {
                0 => world.0.skiff(&["ps", "-q"]).start(),
                _ => world.0.skiff(&["run", "--rm", root, "true"]).start(),
            })
            .collect();
        let stopped = world.0.skiff(&["daemon", "--stop"]).start();
        for client in clients {
            client.finish().ok();
        }
        stopped.finish();
    }
}

#[test]
fn who_waits_learns_of_the_end_from_the_next_daemon() {
    let world = World::new();
    let script = "echo before; read line; echo $line; read line; echo after; exit 9";
    world.start("web", &["-i"], &["sh", "-c", script]);
    assert!(eventually(|| world.skiff(&["logs", "web"]).stdout == "before\n"));
    let waiting = world.0.skiff(&["wait", "web"]).start();
    let mut following = world.0.skiff(&["logs", "-f", "web"]).start();
    following.until("before");
    let mut attached = world.0.skiff(&["attach", "web"]).stdin_open().start();
    // It has been answered when what it is sent comes back.
    attached.send(b"there\n");
    attached.until("there");
    for _daemon in 0..2 {
        let [daemon, _] = world.processes();
        destroy(daemon);
    }
    attached.send(b"go\n");
    assert_eq!(waiting.finish().ok(), "9\n");
    let followed = following.finish();
    assert_eq!((followed.code, followed.stdout.as_str()), (0, "before\nthere\nafter\n"), "{followed}");
    assert_eq!(attached.finish().code, 9);
}

#[test]
fn who_has_gone_before_the_start_takes_the_container_along() {
    let world = World::new();
    let root = fixture::small_root();
    world.ok(&["run", "--rm", root, "true"]);
    let [daemon, _] = world.processes();
    for _round in 0..4 {
        kill(daemon, Signal::SIGSTOP).expect("stop");
        let asks = |_| world.0.skiff(&["run", "--rm", root, "sleep", "600"]).start();
        // So many that some have started before the daemon looks for who wants them.
        let clients: Vec<_> = (0..16).map(asks).collect();
        // What they ask for is read when they are no more. One that is slower asks for nothing.
        std::thread::sleep(Duration::from_millis(300));
        clients.iter().for_each(|client| destroy(client.pid()));
        kill(daemon, Signal::SIGCONT).expect("continue");
        clients.into_iter().for_each(|client| drop(client.finish()));
        assert!(eventually(|| world.ok(&["ps", "-aq"]).is_empty()), "{}", world.ok(&["ps", "-a"]));
    }
}

#[test]
fn a_terminal_can_be_left_by_its_keys_however_it_was_come_by() {
    let world = World::new();
    let running = || world.state("web") == "running";
    let script = "echo ready; while read line; do echo got $line; done";
    let run = ["run", "-it", "--name", "web", fixture::small_root(), "sh", "-c", script];
    let mut terminal = Terminal::start(&world.0.skiff(&run), 24, 80);
    terminal.expect("ready");
    terminal.send(KEYS);
    assert_eq!(terminal.finish().0, 0);
    assert!(running());

    let exec = ["exec", "-it", "--detach-keys", "x,y", "web", "sh", "-c", script];
    let mut terminal = Terminal::start(&world.0.skiff(&exec), 24, 80);
    terminal.expect("ready");
    terminal.send(b"x ");
    terminal.send(b"\r");
    terminal.expect("got x");
    terminal.send(b"xy");
    terminal.expect("read escape sequence");
    assert_eq!(terminal.finish().0, 1);
    // It goes on: there is one shell more than the container began with.
    let pids = || world.ok(&["stats", "--no-stream", "--format", "{{.PIDs}}", "web"]);
    assert_eq!(pids(), "2");

    let mut terminal = Terminal::start(&world.0.skiff(&["attach", "web"]), 24, 80);
    terminal.send(b"again\r");
    terminal.expect("got again");
    terminal.send(KEYS);
    terminal.expect("read escape sequence");
    assert_eq!(terminal.finish().0, 1);
    assert!(running());

    // One that runs is attached to.
    let mut terminal = Terminal::start(&world.0.skiff(&["start", "-ai", "web"]), 24, 80);
    terminal.send(b"more\r");
    terminal.expect("got more");
    terminal.send(KEYS);
    assert_eq!(terminal.finish().0, 0);
    assert!(running());

    world.ok(&["kill", "web"]);
    world.ended("web");
    let mut terminal = Terminal::start(&world.0.skiff(&["start", "-ai", "web"]), 24, 80);
    terminal.expect("ready");
    terminal.send(KEYS);
    assert_eq!(terminal.finish().0, 0);
    assert!(running());
}

/// The number of a group that every system has.
fn group(name: &str) -> Option<u32> {
    let text = std::fs::read_to_string("/etc/group").ok()?;
    let line = text.lines().find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok()
}

#[test]
fn a_member_of_the_socket_s_group_can_signal_what_it_attends() {
    let gid = group("daemon");
    need!(installed("setpriv") && gid.is_some(), "setpriv and the group daemon");
    let world = World::new();
    let daemon = world.0.skiff(&["daemon", "--socket-group", "daemon", "--idle-timeout", "60"]).start();
    assert!(eventually(|| world.0.run.join("skiff.sock").exists()));
    let open = world.0.dir.join("open");
    std::fs::create_dir(&open).expect("a directory for everybody");
    for (path, mode) in [(&world.0.dir, 0o755), (&open, 0o777)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("a way there");
    }
    let cidfile = format!("--cidfile={}", open.join("cid").display());
    let own_group = format!("--regid={}", gid.unwrap_or_default());
    let who = ["setpriv", "--reuid=65534", &own_group, "--clear-groups"];
    let root = fixture::small_root();
    let words = ["run", &cidfile, "--name", "web", root, "probe", "trap"];
    let mut live = world.0.skiff(&words).through(&who).start();
    live.until("ready");
    live.signal(Signal::SIGTERM);
    assert_eq!(live.finish().code, 0);

    world.ok(&["start", "web"]);
    let exec = ["exec", "web", "probe", "trap"];
    let mut live = world.0.skiff(&exec).through(&who).start();
    live.until("ready");
    live.signal(Signal::SIGTERM);
    assert_eq!(live.finish().code, 0);
    world.ok(&["rm", "-f", "web"]);
    world.ok(&["daemon", "--stop"]);
    daemon.finish();
}
