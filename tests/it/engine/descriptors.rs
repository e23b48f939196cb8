//! Descriptors: how many containers fit into the table of one daemon, and what happens to the one that does not.

use crate::harness::world::{World, destroy};
use crate::harness::{Output, fixture, installed, need};
use crate::peers::world::eventually;

/// The limit of the daemon under test.
const LIMIT: &str = "--nofile=400:400";

impl World {
    /// Starts the daemon, if there is none, with few descriptors.
    fn begin_small(&self) {
        self.0.skiff(&["version"]).through(&["prlimit", LIMIT]).output().ok();
    }

    /// Starts one more container that writes a line and goes on.
    fn one_more(&self) -> Output {
        self.skiff(&["run", "-d", fixture::small_root(), "probe", "trap"])
    }

    fn running(&self) -> Vec<String> {
        self.ok(&["ps", "-q"]).lines().map(str::to_owned).collect()
    }
}

#[test]
fn a_container_needs_three_descriptors_and_one_too_many_is_refused() {
    need!(installed("prlimit"), "prlimit");
    let world = World::new();
    world.begin_small();
    let mut started = 0;
    let refused = loop {
        let output = world.one_more();
        if output.code != 0 {
            break output;
        }
        started += 1;
        assert!(started < 400, "nothing is refused");
    };
    refused.fails(125, "RLIMIT_NOFILE");
    // A quarter is kept free; a few are the daemon's own, and some make something faster.
    assert!(started >= 65, "{started} containers are too few");
    assert_eq!(world.running().len(), started);
    let wrote = |id: &String| eventually(|| world.skiff(&["logs", id]).stdout == "ready\n");
    assert!(world.running().iter().all(wrote), "every container's output is kept");

    // The next daemon has no more, and finds all of them.
    let [daemon, _] = world.processes();
    destroy(daemon);
    world.begin_small();
    assert_eq!(world.running().len(), started);
    let [first, rest @ ..] = &world.running()[..] else { panic!("there are some") };
    world.ok(&["stop", first]);
    assert_eq!(world.ok(&["inspect", "-f", "{{.State.ExitCode}}", first]), "0");
    let words = [&["rm", "-f"], &rest.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat();
    world.ok(&words);
    world.one_more().ok();
}
