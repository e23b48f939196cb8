//! containerd by its own client, `ctr run --runc-binary`.

use super::world::World;

/// Where the daemon listens, in its world.
pub(crate) const SOCKET: &str = "/run/containerd.sock";

/// Everything below `/run`; the plugin for Kubernetes would want a network.
const CONFIG: &str = r#"
version = 2
root = "/run/containerd-root"
state = "/run/containerd-state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "/run/containerd.sock"
"#;

/// Starts the daemon in a world.
pub(crate) fn start_daemon(world: &World) {
    std::fs::write(world.path("/run/containerd.toml"), CONFIG).expect("a configuration");
    world.daemon("/run/containerd.log", SOCKET, &["containerd", "--config=/run/containerd.toml"]);
}
