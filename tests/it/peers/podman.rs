//! Podman, which needs no daemon: `podman --runtime`, as root and as an ordinary user.

use std::path::Path;
use std::sync::OnceLock;

use super::engine::{Client, Engine, Kind};
use super::stories;
use super::world::World;
use crate::harness::{installed, programs};

/// Where root's containers are; `None` where something that podman needs is missing.
pub(crate) fn podman() -> Option<&'static Engine> {
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
    super::stories::tell!(super::podman(), "podman, conmon, crun and runc", podman, crun: [
        a_container_with_other_ids_looks_the_same,
        containers_of_a_pod_share_namespaces,
    ]);
}

mod user {
    super::stories::tell!(super::rootless(), "podman, conmon, newuidmap, crun and runc");
    super::stories::tell!(super::rootless(), "podman, conmon, newuidmap, crun and runc", podman, crun: [
        a_container_with_other_ids_looks_the_same,
        containers_of_a_pod_share_namespaces,
    ]);
}

fn a_container_with_other_ids_looks_the_same(client: &Client<'_>) {
    let keep = ["--userns=keep-id"];
    let maps = ["--uidmap=0:100000:5000", "--gidmap=0:100000:5000"];
    let rootless = client.engine.kind == Kind::RootlessPodman;
    let seen = stories::looks(client, if rootless { &keep } else { &maps });
    assert_eq!(seen["ids"]["uid"], if rootless { super::world::USER } else { 0 });
    // With nothing but subordinate ids, crun cannot find its way to the files in the user's home.
    if !rootless {
        stories::looks(client, &["--user=1234", "--uidmap=0:1:5000", "--gidmap=0:1:5000"]);
    }
}

fn containers_of_a_pod_share_namespaces(client: &Client<'_>) {
    let pod = format!("{}-pod", client.name);
    let parent = ["--cgroup-parent", &client.engine.world.parent];
    let is_rootless = client.engine.kind == Kind::RootlessPodman;
    // On cgroup2, podman gives a pod's own group a program that lets nothing open or make any device, and neither crun
    // nor runc can start a container there: so there is none, and the containers lie beside one another.
    let is_apart = !is_rootless && Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let pod_parent: &[&str] = if is_rootless { &[] } else { &parent };
    let own_parent: &[&str] = if is_apart { &parent } else { &[] };
    let share = format!("--share-parent={}", !is_apart);
    let create = ["pod", "create", "--network=none", "--share=ipc,uts,net,pid", &share, "--name", &pod];
    client.asks(&[&create, pod_parent].concat());
    let run = |words: &[&str]| client.asks(&[&["run", "--pod", &pod], own_parent, words].concat());
    run(&["-d", "--name", &client.name, "small", "probe", "trap"]);
    let see = ["--rm", "small", "probe", "see"];
    let [one, other] = [run(&see), run(&see)].map(|text| crate::harness::parse(&text)["namespaces"].clone());
    for name in ["ipc", "uts", "net", "pid"] {
        assert_eq!(one[name], other[name], "{name}");
    }
    // Not with one another: the number of a namespace that is gone may come back.
    let lasting = client.asks(&["exec", &client.name, "probe", "see"]);
    assert_ne!(one["mnt"], crate::harness::parse(&lasting)["namespaces"]["mnt"]);
    assert!(run(&["--rm", "small", "ps", "-o", "args"]).contains("probe trap"));
    client.asks(&["pod", "rm", "--force", "--time=1", &pod]);
}
