//! Docker: Debian's daemon with a containerd of its own, the runtimes added by `--add-runtime`.

use std::sync::OnceLock;

use super::engine::{Engine, Kind, TESTED, path_of};
use super::stories;
use super::world::World;
use crate::harness::{installed, programs};

/// Where the daemon listens, in its world.
const SOCKET: &str = "/run/docker.sock";

/// The running daemon; `None` where something that it needs is missing.
fn docker() -> Option<&'static Engine> {
    static ENGINE: OnceLock<Option<Engine>> = OnceLock::new();
    ENGINE.get_or_init(|| is_possible().then(start)).as_ref()
}

fn is_possible() -> bool {
    let tools = ["docker", "dockerd", "containerd", "crun", "runc", "nsenter", "setpriv"];
    tools.into_iter().all(installed) && programs::has_runtime()
}

fn start() -> Engine {
    let world = World::start("docker");
    super::containerd::start_daemon(&world);
    let runtimes = [TESTED, "crun"].map(|name| format!("--add-runtime={name}={}", path_of(name)));
    let parent = format!("--cgroup-parent={}", world.parent);
    let socket = format!("--host=unix://{SOCKET}");
    let containerd = format!("--containerd={}", super::containerd::SOCKET);
    #[rustfmt::skip] // one setting, one line
    let words = [
        "dockerd",
        "--data-root=/run/docker-data",
        "--exec-root=/run/docker-exec",
        "--pidfile=/run/docker.pid",
        "--exec-opt=native.cgroupdriver=cgroupfs",
        "--storage-driver=overlay2",
        // Nothing here talks to anything.
        "--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false",
        &runtimes[0], &runtimes[1], &parent, &socket, &containerd,
    ];
    world.daemon("/run/dockerd.log", SOCKET, &words);
    let words = ["docker".to_owned(), socket];
    Engine { world, kind: Kind::Docker, words: words.into() }.import()
}

stories::tell!(docker(), "docker, containerd, crun and runc", runc: [
    exit_codes_tell_what_happened,
    a_command_in_a_container_has_its_own_code,
], crun: [
    streams_are_kept_apart,
    a_terminal_is_one,
    a_command_in_a_container_has_a_terminal,
    a_detached_terminal_can_be_logged,
    a_container_looks_the_same,
    a_terminal_looks_the_same,
    users_and_places_look_the_same,
    mounts_look_the_same,
    rights_look_the_same,
    settings_look_the_same,
    shared_namespaces_look_the_same,
    a_command_in_a_container_looks_the_same,
    limits_reach_the_control_groups,
    limits_change_while_it_runs,
    a_paused_container_stands_still,
    stopping_asks_first_and_kills_then,
    any_signal_can_be_sent,
    a_container_starts_again,
    a_failing_container_is_restarted,
    a_healthy_container_is_called_so,
    the_engine_finds_the_processes,
    a_running_container_can_be_removed,
    many_start_at_once,
]);
