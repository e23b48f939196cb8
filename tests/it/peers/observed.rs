//! Containers of engines that are counted by pinned programs: the engine knows nothing of it.

use serde_json::Value;

use super::engine::{Client, Engine, success};
use super::world::eventually;
use crate::harness::{parse, programs};

/// Where skiff is in the world.
const SKIFF: &str = "/run/bin/skiff";

/// What the container does: an amount that is known, then it waits.
const COMMAND: [&str; 3] = ["sh", "-c", "probe calls 200 20 5 10 fork 2; exec probe trap"];

/// Kinds of calls that neither the shell nor the program that waits makes.
const KINDS: [&str; 5] = ["sysinfo", "getitimer", "getpriority", "sched_get_priority_max", "times"];

/// Whether this host lets eBPF programs be loaded, and the runtime under test knows of them.
pub(super) fn is_possible() -> bool {
    std::path::Path::new("/sys/kernel/btf/vmlinux").exists() && programs::runtime().ends_with("skiff-runtime")
}

/// Counts in the engine's world for as long as it lives.
pub(super) struct Observing<'a>(&'a Engine);

impl<'a> Observing<'a> {
    pub(super) fn on(engine: &'a Engine) -> Self {
        engine.world.bring(programs::skiff(), SKIFF);
        let observing = Self(engine);
        success(&observing.skiff(&["observe", "on", "--slots", "64"]));
        observing
    }

    fn skiff(&self, words: &[&str]) -> crate::harness::Output {
        self.0.world.command(&[&[SKIFF], words].concat()).output()
    }

    fn stats(&self, id: &str) -> Option<Value> {
        let output = success(&self.skiff(&["stats", "--no-stream", "--format", "json"]));
        output.lines().map(parse).find(|one| one["id"] == id)
    }

    /// Asserts that the container `id` of the client, which runs [`COMMAND`] and has printed `printed`, is counted exactly, and
    /// that it is no longer once it has been removed.
    pub(super) fn sees(&self, id: &str, printed: &str) {
        let profile = parse(&success(&self.skiff(&["profile", id, "--format", "json"])));
        assert_eq!(profile["events_lost"], 0, "{profile}");
        let calls = profile["system_calls"]["workload"].as_array().expect("a list of calls");
        let expected = parse(printed.lines().next().expect("what it cost"));
        for kind in KINDS {
            let got = calls.iter().find(|call| call["name"] == kind).unwrap_or(&Value::Null);
            assert_eq!(got["calls"], expected["calls"][kind]["count"], "{kind}: {got}");
        }
        let init = profile["system_calls"]["init"].as_array().expect("a list of calls");
        assert!(init.iter().any(|call| call["name"] == "pivot_root"), "from its first instruction on");
        let stats = self.stats(id).expect("it is among them");
        assert_eq!(stats["running"], true, "{stats}");
        assert!(stats["memory_bytes"].as_u64() > Some(0) && stats["processes"] == 1, "{stats}");
    }

    /// Asserts that the container is no longer counted.
    pub(super) fn forgets(&self, id: &str) {
        assert!(eventually(|| self.stats(id).is_none()), "{id} is still counted");
    }
}

impl Drop for Observing<'_> {
    fn drop(&mut self) {
        let _off = self.skiff(&["observe", "off"]);
    }
}

/// The command of a container that is to be counted.
pub(super) const fn command() -> [&'static str; 3] {
    COMMAND
}

/// Waits until the container waits.
pub(super) fn await_ready(client: &Client<'_>, said: impl Fn() -> String) -> String {
    assert!(eventually(|| said().contains("ready")), "{} does not get ready", client.name);
    said()
}
