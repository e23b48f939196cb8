//! Docker: Debian's daemon with a containerd of its own, the runtimes added by `--add-runtime`.

use std::sync::OnceLock;

use super::engine::{Client, Engine, Kind, TESTED, path_of};
use super::observed::{self, Observing};
use super::stories;
use super::world::World;
use crate::harness::{installed, need, programs};

/// Where the daemon listens, in its world.
const SOCKET: &str = "/run/docker.sock";

/// The running daemon; `None` where something that it needs is missing.
pub(crate) fn docker() -> Option<&'static Engine> {
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

stories::tell!(docker(), "docker, containerd, crun and runc");

#[test]
fn a_container_is_counted_by_what_another_has_pinned() {
    need!(observed::is_possible(), "a kernel with BTF, and skiff-runtime");
    let engine = docker();
    need!(engine.is_some(), "docker, containerd, crun and runc");
    let Some(engine) = engine else { return };
    let observing = Observing::on(engine);
    let client = Client::new(engine, TESTED, "observed");
    client.starts(&[], &observed::command());
    let printed = observed::await_ready(&client, || client.asks(&["logs", &client.name]));
    let id = client.inspects("{{.Id}}");
    observing.sees(&id, &printed);
    client.asks(&["rm", "-f", &client.name]);
    observing.forgets(&id);
}
