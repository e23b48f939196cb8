//! What containers write when nobody's streams are theirs: it is kept, bounded, and shown to whoever asks.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::fixture;
use crate::harness::world::World;
use crate::peers::world::eventually;

impl World {
    /// Starts `web` with a shell's script; returns the directory of its log.
    fn script(&self, flags: &[&str], script: &str) -> PathBuf {
        let id = self.run("web", flags, &["sh", "-c", script]);
        self.0.state.join("containers").join(id).join("log")
    }

    fn wait(&self, code: &str) {
        assert_eq!(self.ok(&["wait", "web"]), code);
    }

    /// What the daemon has in memory, without the pages of its program, KiB.
    fn own_kib(&self) -> u64 {
        let [daemon, _] = self.processes();
        let status = fs::read_to_string(format!("/proc/{daemon}/status")).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("its memory");
        line.split_whitespace().next().expect("a number").parse().expect("a number")
    }
}

/// What `seq` prints.
fn numbers(last: u32) -> String {
    (1..=last).map(|number| format!("{number}\n")).collect()
}

/// Whether a client has begun to wait for changes of a log.
fn follows(client: Pid) -> bool {
    let open = fs::read_dir(format!("/proc/{client}/fd")).into_iter().flatten().flatten();
    let mut targets = open.filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.any(|target| target.to_string_lossy().contains("inotify"))
}

#[test]
fn a_log_is_complete_for_whoever_knows_of_the_end() {
    const SCRIPT: &str = r#"for turn in $(seq 25); do
        id=$("$1" run -d "$2" sh -c 'seq 1 4; printf rest')
        "$1" wait "$id" && "$1" logs "$id" && echo && "$1" rm "$id" > /dev/null
    done"#;
    let world = World::new();
    let many = [(); 8].map(|()| {
        let clients = world.0.skiff(&[fixture::small_root()]).through(&["sh", "-c", SCRIPT, "sh"]);
        clients.one_of(8).start()
    });
    for clients in many {
        assert_eq!(clients.finish().ok(), "0\n1\n2\n3\n4\nrest\n".repeat(25));
    }
}

#[test]
fn what_was_written_is_shown_by_stream_by_line_and_by_time() {
    let world = World::new();
    world.script(&[], "seq 1 5; echo bad >&2; printf unfinished");
    world.wait("0");
    // All that was written is there as soon as it has ended, and stays.
    let logs = world.skiff(&["logs", "-f", "web"]);
    assert_eq!((logs.stdout.as_str(), logs.stderr.as_str()), ("1\n2\n3\n4\n5\nunfinished", "bad\n"));
    let lines = |words: &[&str]| {
        let logs = world.skiff(&[&["logs"], words, &["web"]].concat());
        assert_eq!(logs.code, 0, "{logs}");
        (logs.stdout.lines().count(), logs.stderr.lines().count())
    };
    assert_eq!(lines(&["--tail", "0"]), (0, 0));
    assert_eq!(lines(&["-n", "100"]), (6, 1));
    let (out, err) = lines(&["--tail", "3"]);
    assert_eq!(out + err, 3);
    assert_eq!(lines(&["--since", "1h"]), (6, 1));
    assert_eq!(lines(&["--until", "1h"]), (0, 0));
    assert_eq!(lines(&["--since", "2100-01-01"]), (0, 0));
    let timed = world.skiff(&["logs", "-t", "web"]).stdout;
    for (number, line) in timed.lines().enumerate() {
        let (time, text) = line.split_once(' ').expect("a time, and the line");
        assert!(time.len() == 30 && time.starts_with("20") && time.ends_with('Z'), "{line}");
        assert!(text == "unfinished" || text == (number + 1).to_string(), "{line}");
    }
}

#[test]
fn a_gigabyte_without_a_line_s_end_is_bounded_on_disk_and_in_memory() {
    let world = World::new();
    // They take memory.
    world.await_programs();
    let before = world.own_kib();
    let bounds = ["--log-opt", "max-size=1m", "--log-opt", "max-file=3"];
    // Of less where the machine is emulated.
    let mebibytes = 1024 / crate::harness::patience();
    let log = world.script(&bounds, &format!("dd if=/dev/zero bs=1M count={mebibytes} 2>/dev/null"));
    let size = || -> u64 {
        let files = fs::read_dir(&log).into_iter().flatten().flatten();
        files.filter_map(|file| Some(file.metadata().ok()?.len())).sum()
    };
    assert!(eventually(|| {
        assert!(size() <= 3 << 20, "{} bytes are kept", size());
        world.skiff(&["ps", "-q"]).ok().is_empty()
    }));
    let largest = size();
    assert!((1 << 20..=3 << 20).contains(&largest), "{largest} bytes are kept");
    let after = world.own_kib();
    assert!(after < before + 4096, "the daemon has grown from {before} KiB to {after} KiB");
    let shown = world.skiff(&["logs", "web"]).ok();
    assert!(shown.len() as u64 <= largest && shown.bytes().all(|byte| byte == 0));
}

#[test]
fn followers_see_the_same_to_the_end_and_one_that_stands_still_holds_up_nobody() {
    let world = World::new();
    world.script(&["-i"], "read line; seq 1 100000; read line; seq 1 10");
    let follow = || world.0.skiff(&["logs", "-f", "web"]).start();
    let (first, second, still) = (follow(), follow(), follow());
    kill(still.pid(), Signal::SIGSTOP).expect("stop");
    world.0.skiff(&["attach", "web"]).stdin(b"go\ngo\n").output().ok();
    let expected = numbers(100_000) + &numbers(10);
    for live in [first, second] {
        assert!(live.finish().ok() == expected);
    }
    // It reads what has been kept meanwhile.
    kill(still.pid(), Signal::SIGCONT).expect("continue");
    assert!(still.finish().ok() == expected);
}

#[test]
fn a_daemon_that_is_killed_neither_loses_nor_doubles_a_line() {
    let world = World::new();
    let log = world.script(&[], "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); echo $i; done");
    let mut killed = 0;
    while world.skiff(&["ps", "-q"]).ok().lines().count() == 1 {
        kill(world.processes()[0], Signal::SIGKILL).expect("it runs");
        killed += 1;
    }
    assert!(killed > 1, "killed {killed} times");
    world.wait("0");
    let shown = world.skiff(&["logs", "-f", "web"]).ok();
    assert!(shown == numbers(60_000), "killed {killed} times: {} lines", shown.lines().count());
    assert!(log.exists());
}

#[test]
fn attached_clients_see_what_comes_and_feed_the_program() {
    let world = World::new();
    world.script(&["-i"], "echo before; while read line; do echo got $line; done; echo never");
    assert!(eventually(|| world.skiff(&["logs", "web"]).ok() == "before\n"));
    let mut looker = world.0.skiff(&["attach", "--no-stdin", "web"]).start();
    let mut writer = world.0.skiff(&["attach", "web"]).stdin_open().start();
    assert!(eventually(|| follows(looker.pid())), "it looks on");
    writer.send(b"the end\n");
    looker.until("got the end");
    writer.until("got the end");
    world.skiff(&["kill", "web"]).ok();
    assert_eq!(looker.finish().code, 137);
    assert_eq!(writer.finish().code, 137);
}

#[test]
fn without_a_log_a_program_runs_on_and_can_be_attached_to() {
    let world = World::new();
    let script = "yes | head -c 1000000; while read line; do echo got $line; done";
    let log = world.script(&["-i", "--log-driver", "none"], script);
    world.skiff(&["logs", "web"]).fails(1, "does not support reading");
    let mut live = world.0.skiff(&["attach", "web"]).stdin_open().start();
    live.send(b"it\n");
    live.until("got it");
    world.skiff(&["kill", "web"]).ok();
    assert_eq!(live.finish().code, 137);
    assert!(world.skiff(&["rm", "-f", "web"]).ok() == "web\n" && !log.exists());
}

#[test]
fn a_log_is_its_owner_s_alone() {
    let world = World::new();
    let log = world.script(&[], "echo secret");
    world.wait("0");
    let container = log.parent().expect("the container's directory");
    let mode = fs::metadata(container).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
    world.skiff(&["rm", "web"]).ok();
    assert!(!container.exists());
}
