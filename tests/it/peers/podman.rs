//! Podman, which needs no daemon: `podman --runtime`, as root and as an ordinary user.

use std::sync::OnceLock;

use super::engine::{Engine, Kind};
use super::stories;
use super::world::World;
use crate::harness::{installed, programs};

/// Where root's containers are; `None` where something that podman needs is missing.
fn podman() -> Option<&'static Engine> {
    static ENGINE: OnceLock<Option<Engine>> = OnceLock::new();
    ENGINE.get_or_init(|| is_possible().then(|| start(Kind::Podman))).as_ref()
}

/// The same for an ordinary user.
fn rootless() -> Option<&'static Engine> {
    static ENGINE: OnceLock<Option<Engine>> = OnceLock::new();
    let possible = || is_possible() && installed("newuidmap");
    ENGINE.get_or_init(|| possible().then(|| start(Kind::RootlessPodman))).as_ref()
}

fn is_possible() -> bool {
    let tools = ["podman", "conmon", "crun", "runc", "nsenter", "setpriv"];
    tools.into_iter().all(installed) && programs::has_runtime()
}

fn start(kind: Kind) -> Engine {
    let (peer, dir, driver) = match kind {
        Kind::RootlessPodman => ("rootless", format!("{}/podman", super::world::HOME), "vfs"),
        _ => ("podman", "/run/podman".to_owned(), "overlay"),
    };
    let own = ["root", "runroot", "tmpdir"].map(|name| format!("--{name}={dir}/{name}"));
    let driver = format!("--storage-driver={driver}");
    let words =
        ["podman", &own[0], &own[1], &own[2], &driver, "--cgroup-manager=cgroupfs", "--events-backend=file"];
    let words = words.map(str::to_owned).into();
    Engine { world: World::start(peer), kind, words }.import()
}

mod root {
    super::stories::tell!(super::podman(), "podman, conmon, crun and runc");
}

mod user {
    super::stories::tell!(super::rootless(), "podman, conmon, newuidmap, crun and runc");
}
