//! containerd by its own client, `ctr run --runc-binary`.

use std::sync::OnceLock;

use serde_json::json;

use super::engine::{Client, Engine, Kind, TESTED, success};
use super::observed::{self, Observing};
use super::stories;
use super::world::{World, eventually};
use crate::harness::layout::{self, Layout};
use crate::harness::pty::Terminal;
use crate::harness::{Case, Output, fixture, installed, need, programs};

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

const IMAGE: &str = "example.org/small:latest";

/// Starts the daemon in a world.
pub(crate) fn start_daemon(world: &World) {
    std::fs::write(world.path("/run/containerd.toml"), CONFIG).expect("a configuration");
    world.daemon("/run/containerd.log", SOCKET, &["containerd", "--config=/run/containerd.toml"]);
}

/// The running daemon; `None` where something that it needs is missing.
fn containerd() -> Option<&'static Engine> {
    static ENGINE: OnceLock<Option<Engine>> = OnceLock::new();
    let tools = ["containerd", "ctr", "crun", "runc", "nsenter", "setpriv"];
    let possible = || tools.into_iter().all(installed) && programs::has_runtime();
    ENGINE.get_or_init(|| possible().then(start)).as_ref()
}

fn start() -> Engine {
    let world = World::start("containerd");
    start_daemon(&world);
    let case = Case::new();
    let image = case.dir.join("image");
    write_image(&Layout::create(&image));
    let tar = case.dir.join("image.tar").display().to_string();
    fixture::tool("tar", &["-C", &image.display().to_string(), "-cf", &tar, "."]);
    world.bring(tar.as_ref(), "/run/image.tar");
    // The name of the namespace begins the paths of its control groups.
    let words = ["ctr", "--address", SOCKET, "--namespace", &world.name].map(str::to_owned).into();
    let engine = Engine { world, kind: Kind::Containerd, words };
    let words: Vec<&str> = engine.words.iter().map(String::as_str).collect();
    success(&engine.world.command(&[&words[..], &["image", "import", "/run/image.tar"]].concat()).output());
    engine
}

/// The small root as the only layer of an image.
fn write_image(to: &Layout) {
    let layer = to.add(layout::LAYER, &std::fs::read(fixture::small_tar()).expect("the small root"));
    let config = json!({
        "os": "linux", "architecture": layout::ARCHITECTURE, "config": { "Env": ["PATH=/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] },
    });
    let config = to.add(layout::CONFIG, config.to_string().as_bytes());
    let manifest =
        json!({ "schemaVersion": 2, "mediaType": layout::MANIFEST, "config": config, "layers": [layer] });
    let mut manifest = to.add(layout::MANIFEST, manifest.to_string().as_bytes());
    manifest["annotations"] = json!({ "io.containerd.image.name": IMAGE });
    to.finish(&[manifest]);
}

mod ctr {
    super::stories::tell!(super::containerd(), "containerd, crun and runc", containerd, runc: [
        exit_codes_tell_what_happened,
    ], crun: [
        streams_and_terminals,
        a_container_looks_the_same,
        a_user_namespace_looks_the_same,
        namespaces_can_be_joined,
        a_command_runs_in_a_container,
        limits_reach_the_control_groups,
        a_paused_container_stands_still,
        a_task_is_watched_killed_and_deleted,
    ]);
}

/// The words of `run`.
fn run<'w>(
    runtime: &'w str,
    first: &[&'w str],
    flags: &[&'w str],
    name: &'w str,
    command: &[&'w str],
) -> Vec<&'w str> {
    [&["run", "--runc-binary", runtime], first, flags, &[IMAGE, name], command].concat()
}

/// `run --rm`.
fn runs(client: &Client<'_>, flags: &[&str], command: &[&str]) -> Output {
    client.command(&run(&client.runtime_path(), &["--rm"], flags, &client.name, command)).output()
}

/// What `run` of a program that prints something has printed. The client stops to copy when the container has ended, on a
/// busy host before it has begun: then once more.
fn prints(client: &Client<'_>, flags: &[&str], command: &[&str]) -> String {
    const TRIES: usize = 5;
    let mut tries = (0..TRIES).map(|_| success(&runs(client, flags, command)));
    tries.find(|printed| !printed.is_empty()).expect("nothing printed, however often it was tried")
}

/// `run -d` of a process that says what signals it gets.
fn starts_trap(client: &Client<'_>, flags: &[&str]) {
    let path = client.runtime_path();
    client.asks(&run(&path, &["--detach", "--null-io"], flags, &client.name, &["probe", "trap"]));
}

fn looks(client: &Client<'_>, flags: &[&str]) -> serde_json::Value {
    let seen = crate::harness::parse(&prints(client, flags, &["probe", "see"]));
    client.note(&flags.join(" "), &stories::look(&seen, client));
    seen
}

fn exit_codes_tell_what_happened(client: &Client<'_>) {
    for (code, command) in [
        (0, "true"),
        (7, "probe exit 7"),
        (137, "probe die KILL"),
        (1, "nosuch"),
        (1, "/no/such"),
        (1, "/etc/plain"),
    ] {
        let command: Vec<&str> = command.split(' ').collect();
        let output = runs(client, &[], &command);
        assert_eq!(output.code, code, "{output}");
        assert_eq!(code == 1, output.stderr.contains("OCI runtime create failed"), "{output}");
    }
}

fn streams_and_terminals(client: &Client<'_>) {
    let path = client.runtime_path();
    // It ends when it is told to, see `prints`.
    let script = ["sh", "-c", "echo out; echo err >&2; read end; exit 4"];
    let words = run(&path, &["--rm"], &[], &client.name, &script);
    let mut live = client.command(&words).stdin_open().start();
    live.until_said("out\n", "err\n");
    live.send(b"end\n");
    let output = live.finish();
    assert_eq!((output.code, &output.stdout[..], &output.stderr[..]), (4, "out\n", "err\n"));
    let words = run(&path, &["--rm", "--tty"], &[], &client.name, &["sh"]);
    let mut terminal = Terminal::start(&client.command(&words), 24, 80);
    terminal.expect("/ # ");
    terminal.send(b"probe term; exit 5\r");
    terminal.expect(r#""streams":[true,true,true]"#);
    assert_eq!(terminal.wait(), 5);
}

fn a_container_looks_the_same(client: &Client<'_>) {
    let flags: [&[&str]; 7] = [
        &[],
        &["--read-only", "--seccomp"],
        &["--cap-add=CAP_NET_ADMIN", "--cap-drop=CAP_CHOWN", "--allow-new-privs"],
        &["--env=A=b", "--cwd=/var/log", "--rootfs-propagation=rslave"],
        &["--mount=type=bind,src=/usr,dst=/deep/usr,options=rbind:ro"],
        &["--mount=type=tmpfs,src=tmpfs,dst=/scratch,options=noexec:size=1m", "--device=/dev/kmsg"],
        &["--no-pivot", "--net-host"],
    ];
    for flags in flags {
        looks(client, flags);
    }
}

fn a_user_namespace_looks_the_same(client: &Client<'_>) {
    // The client makes a copy of the image for each mapping, and not for two containers at once.
    let start = if client.runtime == super::engine::TESTED { "100000" } else { "300000" };
    let flags = ["uid", "gid"].map(|kind| format!("--{kind}map=0:{start}:65536"));
    let flags = [&flags[0][..], &flags[1]];
    let seen = crate::harness::parse(&prints(client, &flags, &["probe", "see"]));
    client.note(
        "with a user namespace",
        &stories::look(&seen, client)
            .replace("100000", start)
            .replace("100005", "300005")
            .replace(start, "START"),
    );
    let maps = success(&runs(client, &flags, &["cat", "/proc/self/uid_map"]));
    assert_eq!(maps.split_whitespace().collect::<Vec<_>>(), ["0", start, "65536"]);
}

fn namespaces_can_be_joined(client: &Client<'_>) {
    starts_trap(client, &[]);
    let pid = pid(client);
    let [pid, ipc] = ["pid", "ipc"].map(|name| format!("--with-ns={name}:/proc/{pid}/ns/{name}"));
    let path = client.runtime_path();
    let other = format!("{}-2", client.name);
    let words = run(&path, &["--rm"], &[&pid, &ipc], &other, &["ps", "-o", "args"]);
    assert!(client.asks(&words).contains("probe trap"));
}

fn a_command_runs_in_a_container(client: &Client<'_>) {
    starts_trap(client, &["--env=A=b"]);
    let exec = |more: &[&str], command: &[&str]| {
        client.command(&[&["task", "exec", "--exec-id=one"], more, &[&client.name], command].concat())
    };
    // The client stops to copy when the command has ended, on a busy host before it has begun: so it ends when it is
    // told to.
    let prints = |more: &[&str], script: &str| {
        let mut live = exec(more, &["sh", "-c", &format!("{script}; read end; exit 9")]).stdin_open().start();
        let line = live.line();
        live.send(b"end\n");
        assert_eq!(live.finish().code, 9);
        line
    };
    assert_eq!(prints(&[], "echo $A"), "b");
    for (code, program) in [(0, "true"), (1, "false"), (1, "/no/such")] {
        assert_eq!(exec(&[], &[program]).output().code, code);
    }
    let seen = prints(&["--user=1234:4321", "--cwd=/tmp"], "probe see");
    client.note("exec", &stories::look(&crate::harness::parse(&seen), client));
    let words = ["task", "exec", "--exec-id=two", "--tty", &client.name, "sh"];
    let mut terminal = Terminal::start(&client.command(&words), 24, 80);
    terminal.expect("# ");
    terminal.send(b"probe term; exit 6\r");
    terminal.expect(r#""streams":[true,true,true]"#);
    assert_eq!(terminal.wait(), 6);
}

fn limits_reach_the_control_groups(client: &Client<'_>) {
    starts_trap(client, &["--memory-limit=67108864", "--cpus=0.5", "--cpu-shares=512"]);
    let pid = pid(client);
    for (controller, v1, v2, expected) in [
        ("memory", "memory.limit_in_bytes", "memory.max", ["67108864"; 2]),
        ("cpu", "cpu.cfs_quota_us", "cpu.max", ["50000", "50000 100000"]),
    ] {
        let value = client.engine.world.control(&pid, controller, v1, v2).expect("a limit");
        assert!(expected.contains(&&value[..]), "{v1}: {value}");
    }
    let weight = client.engine.world.control(&pid, "cpu", "cpu.shares", "cpu.weight");
    client.note("shares", &format!("{weight:?}"));
    let metrics = client.asks(&["task", "metrics", "--format=json", &client.name]);
    assert!(metrics.contains("67108864"), "{metrics}");
}

fn a_paused_container_stands_still(client: &Client<'_>) {
    starts_trap(client, &[]);
    client.asks(&["task", "pause", &client.name]);
    assert_eq!(status(client), "PAUSED");
    client.asks(&["task", "resume", &client.name]);
    assert_eq!(status(client), "RUNNING");
}

fn a_task_is_watched_killed_and_deleted(client: &Client<'_>) {
    starts_trap(client, &[]);
    client.asks(&["task", "exec", "--detach", "--exec-id=one", &client.name, "sleep", "1000"]);
    assert_eq!(client.asks(&["task", "ps", &client.name]).lines().count(), 3);
    client.asks(&["task", "kill", "--signal=SIGTERM", &client.name]);
    assert!(eventually(|| status(client) == "STOPPED"), "{}", status(client));
    // Its process 1 has ended, and all others with it.
    client.asks(&["task", "delete", &client.name]);
    client.asks(&["container", "delete", &client.name]);
    starts_trap(client, &[]);
    client.asks(&["task", "kill", "--signal=SIGKILL", "--all", &client.name]);
    assert!(eventually(|| status(client) == "STOPPED"), "{}", status(client));
}

/// The state of the story's container.
fn status(client: &Client<'_>) -> String {
    listed(client, 2)
}

fn pid(client: &Client<'_>) -> String {
    listed(client, 1)
}

/// A column of the list of tasks.
fn listed(client: &Client<'_>, column: usize) -> String {
    let list = client.asks(&["task", "list"]);
    let rows = list.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let ours: Vec<_> = rows.filter(|row| row.first() == Some(&&client.name[..])).collect();
    ours.first().and_then(|row| row.get(column)).unwrap_or(&"").to_string()
}

#[test]
fn a_container_is_counted_by_what_another_has_pinned() {
    need!(observed::is_possible(), "a kernel with BTF, and skiff-runtime");
    let engine = containerd();
    need!(engine.is_some(), "containerd, crun and runc");
    let Some(engine) = engine else { return };
    let observing = Observing::on(engine);
    let client = Client::new(engine, TESTED, "observed");
    let (path, log) = (client.runtime_path(), "/run/observed.log");
    let url = format!("file://{log}");
    client.asks(&run(&path, &["--detach", "--log-uri", &url], &[], &client.name, &observed::command()));
    let said = || std::fs::read_to_string(engine.world.path(log)).unwrap_or_default();
    let printed = observed::await_ready(&client, said);
    observing.sees(&client.name, &printed);
    client.asks(&["task", "delete", "--force", &client.name]);
    observing.forgets(&client.name);
}
