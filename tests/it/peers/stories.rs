//! What people do with containers, in the words that docker and podman share.

use serde_json::{Value, json};

use super::engine::{Client, Kind, success};
use super::world::eventually;
use crate::harness::Live;

/// Makes a test of each story for one engine.
macro_rules! tell {
    ($engine:expr, $needs:literal) => {
        // The codes of crun, or the texts that engines make codes of, are its own; what it binds loses what the host's
        // mount is forbidden, such as /dev/shm with `--ipc=host`; and on cgroup2 it refuses every update of docker's, for
        // those speak of kernel memory, if only to say that it has no limit.
        $crate::peers::stories::tell!($engine, $needs, stories, runc: [
            exit_codes_tell_what_happened,
            a_command_in_a_container_has_its_own_code,
            shared_namespaces_look_the_same,
            limits_change_while_it_runs,
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
            a_command_in_a_container_looks_the_same,
            limits_reach_the_control_groups,
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
    };
    ($engine:expr, $needs:literal, $module:ident, $($other:ident: [$($story:ident),+ $(,)?]),+) => {
        $($(
            #[test]
            fn $story() {
                let engine = $engine;
                crate::harness::need!(engine.is_some(), $needs);
                let engine = engine.expect("there is one");
                let story = $crate::peers::$module::$story;
                $crate::peers::engine::same(engine, stringify!($other), stringify!($story), story);
            }
        )+)+
    };
}
pub(crate) use tell;

pub(crate) fn exit_codes_tell_what_happened(client: &Client<'_>) {
    let codes: [(i32, &[&str]); 8] = [
        (0, &["true"]),
        (7, &["probe", "exit", "7"]),
        (137, &["probe", "die", "KILL"]),
        (143, &["probe", "die", "TERM"]),
        (127, &["nosuch"]),
        (127, &["/no/such"]),
        (126, &["/etc/plain"]),
        (99, &["probe"]),
    ];
    for (code, command) in codes {
        let output = client.ends(&client.run_words(&["--rm"], &[], command));
        assert_eq!(output.code, code, "{output}");
    }
}

pub(crate) fn a_command_in_a_container_has_its_own_code(client: &Client<'_>) {
    client.starts_trap(&[]);
    let codes: [(i32, &[&str]); 5] = [
        (0, &["true"]),
        (9, &["sh", "-c", "exit 9"]),
        (127, &["nosuch"]),
        (127, &["/no/such"]),
        (126, &["/etc/plain"]),
    ];
    for (code, command) in codes {
        let output = client.ends(&[&["exec", &client.name], command].concat());
        // Older versions of docker know one code for what cannot be started.
        let old = client.engine.kind == Kind::Docker && code == 127 && output.code == 126;
        assert!(output.code == code || old, "{output}");
    }
}

pub(crate) fn streams_are_kept_apart(client: &Client<'_>) {
    let script = "cat; echo out; echo err >&2";
    let output = client
        .command(&client.run_words(&["--rm", "-i"], &[], &["sh", "-c", script]))
        .stdin(b"in\n")
        .output();
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("in\nout\n", "err\n"));
    client.starts_trap(&[]);
    let exec = ["exec", "-i", &client.name, "sh", "-c", script];
    let output = client.command(&exec).stdin(&[b'x'; 300_000]).output();
    assert_eq!((output.stdout.len(), output.stderr.as_str()), (300_004, "err\n"));
}

pub(crate) fn a_terminal_is_one(client: &Client<'_>) {
    let mut terminal = client.terminal(&[], &["sh"]);
    terminal.expect("/ # ");
    terminal.send(b"until probe term | grep 33,99; do echo smal''l; sleep 0.1; done; echo larg''e; tty\r");
    // Until the engine listens for changes of the window, it misses them.
    while terminal.expect_one_of(&["small\r\n", "large\r\n"]) == 0 {
        terminal.resize(33, 98);
        terminal.resize(33, 99);
    }
    terminal.expect("/dev/");
    terminal.send(b"echo rea''dy; cat\r");
    terminal.expect("ready\r\n");
    terminal.send(b"both\r");
    terminal.expect("both\r\nboth\r\n");
    terminal.send(b"\x03");
    terminal.expect("/ # ");
    terminal.send(b"probe term; exit 5\r");
    terminal.expect(r#""size":[33,99],"streams":[true,true,true]"#);
    assert_eq!(terminal.wait(), 5);
}

pub(crate) fn a_command_in_a_container_has_a_terminal(client: &Client<'_>) {
    client.starts_trap(&[]);
    let words = ["exec", "-it", &client.name, "sh"];
    let mut terminal = crate::harness::pty::Terminal::start(&client.command(&words), 24, 80);
    terminal.expect("# ");
    terminal.send(b"probe term; ls -l /dev/console /dev/pts | wc -l; echo e$((20 + 2))d\r");
    terminal.expect(r#""streams":[true,true,true]"#);
    terminal.expect("e22d");
    terminal.send(b"exit 6\r");
    assert_eq!(terminal.wait(), 6);
}

pub(crate) fn a_detached_terminal_can_be_logged(client: &Client<'_>) {
    client.starts(&["-t"], &["sh", "-c", "probe term; exit 4"]);
    assert_eq!(client.done(&["wait", &client.name]), "4\n");
    assert!(client.done(&["logs", &client.name]).contains("true,true,true"));
}

pub(crate) fn a_container_looks_the_same(client: &Client<'_>) {
    looks(client, &[]);
}

pub(crate) fn a_terminal_looks_the_same(client: &Client<'_>) {
    looks(client, &["-t"]);
}

pub(crate) fn users_and_places_look_the_same(client: &Client<'_>) {
    let flags = ["-u", "alice", "-e", "A=b c", "-w", "/var/log", "-h", "ship", "--group-add", "777"];
    let seen = looks(client, &flags);
    assert_eq!(seen["ids"]["uid"], 1234);
    assert_eq!(
        (&seen["env"]["A"], &seen["cwd"], &seen["hostname"]),
        (&json!("b c"), &json!("/var/log"), &json!("ship"))
    );
    looks(client, &["-u", "5:6", "-e", "HOME=/tmp"]);
    // Podman wants it to be there.
    if client.engine.kind == Kind::Docker {
        assert_eq!(looks(client, &["-w", "/not/there"])["cwd"], "/not/there");
    }
}

pub(crate) fn mounts_look_the_same(client: &Client<'_>) {
    let dir = format!("/run/home/{}", client.name);
    let volume = |rest: &str| format!("{dir}:{rest}");
    success(&client.engine.world.command(&["install", "-d", "-m", "777", &dir]).output());
    let (plain, read_only) = (volume("/a"), volume("/deep/b:ro"));
    let tmpfs = ["--tmpfs", "/scratch:size=1m,mode=700", "--tmpfs", "/bin2:noexec"];
    let flags = [&["--read-only", "-v", &plain, "-v", &read_only], &tmpfs[..], &["--shm-size=2m"]].concat();
    let seen = looks(client, &flags);
    let options = |target: &str| {
        let mut mounts = seen["mounts"].as_array().expect("mounts").iter();
        mounts.rfind(|mount| mount["target"] == target).expect("the mount")["options"].to_string()
    };
    assert!(options("/").contains("ro") && options("/deep/b").contains("ro"), "{}", seen["mounts"]);
    assert!(options("/a").contains("rw") && options("/bin2").contains("noexec"), "{}", seen["mounts"]);
    let script = "touch /a/made; touch /x; touch /deep/b/x; touch /scratch/x && ls /deep/b";
    assert_eq!(client.ran(&flags, &["sh", "-c", script]), "made\n");
    if client.engine.kind != Kind::RootlessPodman {
        for (propagation, mark) in [("rshared", "shared"), ("rslave", "master"), ("private", "")] {
            let seen = looks(client, &["-v", &volume(&format!("/a:{propagation}"))]);
            let mut mounts = seen["mounts"].as_array().expect("mounts").iter();
            let tags = mounts.rfind(|mount| mount["target"] == "/a").expect("the mount")["tags"].to_string();
            assert!(tags.contains(mark) && (tags == "\"\"") == mark.is_empty(), "{propagation}: {tags}");
        }
    }
}

pub(crate) fn rights_look_the_same(client: &Client<'_>) {
    let caps = looks(client, &["--cap-drop=ALL", "--cap-add=CHOWN", "--cap-add=NET_ADMIN"]);
    assert_eq!(caps["status"]["CapEff"], "0000000000001001");
    let free =
        looks(client, &["--security-opt", "seccomp=unconfined", "--security-opt", "no-new-privileges"]);
    assert_eq!((&free["status"]["Seccomp"], &free["status"]["NoNewPrivs"]), (&json!("0"), &json!("1")));
    assert_eq!(looks(client, &["-u", "alice", "--cap-add=SYS_TIME"])["status"]["Seccomp"], "2");
    // An engine asks for all capabilities, whether it has them itself or not.
    if has_all_rights() {
        looks(client, &["--privileged"]);
    }
}

pub(crate) fn settings_look_the_same(client: &Client<'_>) {
    let flags = ["--sysctl=net.ipv4.ip_forward=1", "--oom-score-adj=500"];
    assert_eq!(looks(client, &flags)["oom_score_adj"], "500");
    // Podman then raises other limits too.
    if client.engine.kind != Kind::Podman || has_all_rights() {
        assert_eq!(looks(client, &["--ulimit=nofile=64:128"])["rlimits"]["nofile"], json!([64, 128]));
    }
    assert_eq!(client.ran(&flags, &["cat", "/proc/sys/net/ipv4/ip_forward"]), "1\n");
    looks(client, &["--device=/dev/kmsg:/dev/log:r"]);
    looks(client, &["--init"]);
}

pub(crate) fn shared_namespaces_look_the_same(client: &Client<'_>) {
    let has_queues = client.engine.world.path("/dev/mqueue").exists();
    for flag in ["--pid=host", "--ipc=host", "--uts=host", "--cgroupns=private", "--cgroupns=host"] {
        if flag == "--ipc=host" && client.engine.kind != Kind::Docker && !has_queues {
            continue;
        }
        looks(client, &[flag]);
    }
    client.starts_trap(&["--ipc=shareable"]);
    let of = |namespace: &str| format!("--{namespace}=container:{}", client.name);
    let [pid, ipc, network] = ["pid", "ipc", "network"].map(of);
    assert!(client.ran(&[&pid], &["ps", "-o", "args"]).contains("probe trap"));
    let joined = client.sees(&[&pid, &ipc, &network])["namespaces"].clone();
    let exec = client.asks(&["exec", &client.name, "probe", "see"]);
    let first = crate::harness::parse(&exec)["namespaces"].clone();
    for (name, same) in [("pid", true), ("ipc", true), ("net", true), ("mnt", false)] {
        assert_eq!(joined[name] == first[name], same, "{name}: {joined} {first}");
    }
}

pub(crate) fn a_command_in_a_container_looks_the_same(client: &Client<'_>) {
    client.starts_trap(&["-u", "alice", "-e", "A=b", "--cap-add=NET_ADMIN"]);
    let flags: [&[&str]; 4] = [&[], &["-u", "root"], &["-e", "C=d", "-w", "/tmp"], &["--privileged"]];
    for flags in flags.into_iter().take(if has_all_rights() { 4 } else { 3 }) {
        let words = [&["exec"], flags, &[&client.name, "probe", "see"]].concat();
        let seen = crate::harness::parse(&client.asks(&words));
        client.note(&words.join(" "), &look(&seen, client));
    }
    client.asks(&["exec", "-d", &client.name, "sleep", "1000"]);
    let is_there = || client.asks(&["top", &client.name]).contains("sleep");
    assert!(eventually(is_there), "{}", client.asks(&["top", &client.name]));
}

pub(crate) fn limits_reach_the_control_groups(client: &Client<'_>) {
    if is_without_groups(client) {
        return;
    }
    let flags = ["-m", "64m", "--memory-swap=128m", "--cpus=0.5", "--cpu-shares=512", "--pids-limit=50"];
    client.starts_trap(&[&flags[..], &["--cpuset-cpus=0", "--memory-reservation=32m"]].concat());
    assert_eq!(client.control("memory", "memory.limit_in_bytes", "memory.max"), "67108864");
    assert_eq!(client.control("pids", "pids.max", "pids.max"), "50");
    assert_eq!(client.control("cpuset", "cpuset.cpus", "cpuset.cpus"), "0");
    assert!(["50000", "50000 100000"].contains(&&client.control("cpu", "cpu.cfs_quota_us", "cpu.max")[..]));
    client.control("cpu", "cpu.shares", "cpu.weight");
    client.control("memory", "memory.memsw.limit_in_bytes", "memory.swap.max");
    client.control("memory", "memory.soft_limit_in_bytes", "memory.low");
    assert_eq!(client.runs(&["-m", "16m", "--memory-swap=16m"], &["probe", "eat", "64"]).code, 137);
}

pub(crate) fn limits_change_while_it_runs(client: &Client<'_>) {
    if is_without_groups(client) {
        return;
    }
    client.starts_trap(&["-m", "64m", "--memory-swap=128m", "--pids-limit=50"]);
    let pids: &[&str] = if client.engine.kind == Kind::Docker { &["--pids-limit=33"] } else { &[] };
    let limits =
        ["update", "-m", "32m", "--memory-swap=64m", "--cpus=1.5", "--cpu-shares=300", "--cpuset-cpus=1"];
    client.done(&[&limits, pids, &[&client.name]].concat());
    assert_eq!(client.control("memory", "memory.limit_in_bytes", "memory.max"), "33554432");
    assert_eq!(client.control("pids", "pids.max", "pids.max"), if pids.is_empty() { "50" } else { "33" });
    assert!(["150000", "150000 100000"].contains(&&client.control("cpu", "cpu.cfs_quota_us", "cpu.max")[..]));
    client.control("cpu", "cpu.shares", "cpu.weight");
    client.control("memory", "memory.memsw.limit_in_bytes", "memory.swap.max");
    assert_eq!(client.control("cpuset", "cpuset.cpus", "cpuset.cpus"), "1");
    assert_eq!(client.control("memory", "memory.limit_in_bytes", "memory.max"), "33554432");
}

pub(crate) fn a_paused_container_stands_still(client: &Client<'_>) {
    if is_without_groups(client) {
        return;
    }
    client.starts(&[], &["sh", "-c", "while :; do :; done"]);
    client.done(&["pause", &client.name]);
    assert_eq!(client.is("{{.State.Status}}"), "paused");
    let pid = client.inspects("{{.State.Pid}}");
    let ticks = || {
        let stat = std::fs::read_to_string(client.engine.world.path(&format!("/proc/{pid}/stat")))
            .expect("its state");
        stat.split(' ').nth(13).expect("user time").to_owned()
    };
    let (before, moved) = (ticks(), super::world::soon(|| ticks() != ticks()));
    assert!(!moved && before == ticks(), "it runs");
    client.done(&["unpause", &client.name]);
    assert_eq!(client.is("{{.State.Status}}"), "running");
    assert!(eventually(|| before != ticks()), "it stands still");
    client.done(&["kill", &client.name]);
}

pub(crate) fn stopping_asks_first_and_kills_then(client: &Client<'_>) {
    client.starts_trap(&[]);
    client.done(&["stop", "-t", "20", &client.name]);
    assert_eq!(client.is("{{.State.Status}} {{.State.ExitCode}}"), "exited 0");
    assert_eq!(client.done(&["logs", &client.name]), "ready\nSIGTERM\n");
    client.done(&["rm", &client.name]);
    client.starts(&["--stop-signal=USR1"], &["probe", "trap", "HUP"]);
    assert!(eventually(|| client.asks(&["logs", &client.name]) == "ready\n"));
    client.done(&["stop", "-t", "1", &client.name]);
    assert_eq!(client.is("{{.State.Status}} {{.State.ExitCode}}"), "exited 137");
    assert_eq!(client.done(&["logs", &client.name]), "ready\nSIGUSR1\n");
}

pub(crate) fn any_signal_can_be_sent(client: &Client<'_>) {
    client.starts_trap(&[]);
    for signal in ["USR1", "SIGHUP", "2"] {
        client.done(&["kill", "-s", signal, &client.name]);
    }
    let said = "ready\nSIGHUP\nSIGINT\nSIGUSR1\n";
    let sorted = |text: &str| {
        let mut lines: Vec<&str> = text.lines().collect();
        lines[1..].sort_unstable();
        lines.join("\n") + "\n"
    };
    assert!(eventually(|| sorted(&client.asks(&["logs", &client.name])) == said));
    client.done(&["kill", &client.name]);
    assert_eq!(client.done(&["wait", &client.name]), "137\n");
    client.note("kill again", &client.command(&["kill", &client.name]).output().code.to_string());
}

pub(crate) fn a_container_starts_again(client: &Client<'_>) {
    client.starts(&[], &["sh", "-c", "n=$(cat /count); echo $((n + 1)) > /count; cat /count; exit 3"]);
    for _ in 0..2 {
        assert_eq!(client.done(&["wait", &client.name]), "3\n");
        client.done(&["start", &client.name]);
    }
    assert_eq!(client.done(&["wait", &client.name]), "3\n");
    assert!(client.done(&["logs", &client.name]).ends_with("1\n2\n3\n"));
    client.done(&["rm", &client.name]);
    client.starts_trap(&[]);
    client.done(&["restart", "-t", "5", &client.name]);
    assert!(eventually(|| client.asks(&["logs", &client.name]) == "ready\nSIGTERM\nready\n"));
    assert_eq!(client.is("{{.State.Status}}"), "running");
}

pub(crate) fn a_failing_container_is_restarted(client: &Client<'_>) {
    client.starts(&["--restart=on-failure:2"], &["sh", "-c", "echo ran; exit 3"]);
    let state = || client.inspects("{{.RestartCount}} {{.State.Status}}");
    assert!(eventually(|| state() == "2 exited"), "{} {}", state(), client.done(&["logs", &client.name]));
    assert_eq!(client.is("{{.State.ExitCode}}"), "3");
    assert_eq!(client.done(&["logs", &client.name]), "ran\nran\nran\n");
}

pub(crate) fn a_healthy_container_is_called_so(client: &Client<'_>) {
    // Podman leaves the clock to systemd, which is not there.
    let docker = client.engine.kind == Kind::Docker;
    let interval = if docker { "--health-interval=200ms" } else { "--health-interval=disable" };
    client.starts_trap(&["--health-cmd", "test -e /well", "--health-retries=1", interval]);
    let is = |health: &str| {
        if !docker {
            client.note(
                "check",
                &client.command(&["healthcheck", "run", &client.name]).output().code.to_string(),
            );
            return client.inspects("{{.State.Health.Status}}") == health;
        }
        eventually(|| client.inspects("{{.State.Health.Status}}") == health)
    };
    assert!(is("unhealthy"), "{}", client.inspects("{{json .State.Health}}"));
    client.done(&["exec", &client.name, "touch", "/well"]);
    assert!(is("healthy"), "{}", client.inspects("{{json .State.Health}}"));
}

pub(crate) fn the_engine_finds_the_processes(client: &Client<'_>) {
    let limit: &[&str] = if client.engine.kind == Kind::RootlessPodman { &[] } else { &["-m", "64m"] };
    client.starts(limit, &["sh", "-c", "sleep 1000 & exec sleep 2000"]);
    let has_both =
        || ["sleep 1000", "sleep 2000"].iter().all(|line| client.asks(&["top", &client.name]).contains(line));
    assert!(eventually(has_both), "{}", client.asks(&["top", &client.name]));
    let pid = client.inspects("{{.State.Pid}}");
    let command = std::fs::read_to_string(client.engine.world.path(&format!("/proc/{pid}/cmdline")));
    assert_eq!(command.expect("its command"), "sleep\u{0}2000\u{0}");
    if is_without_groups(client) {
        return;
    }
    let stats = client.done(&["stats", "--no-stream", "--format", "{{.PIDs}}", &client.name]);
    assert_eq!(stats.trim(), "2");
    let memory = client.asks(&["stats", "--no-stream", "--format", "{{.MemUsage}}", &client.name]);
    assert!(memory.contains("64MiB") || memory.contains("67.11MB"), "{memory}");
}

pub(crate) fn a_running_container_can_be_removed(client: &Client<'_>) {
    client.starts(&[], &["sh", "-c", "sleep 1000 & exec sleep 2000"]);
    let pid = client.inspects("{{.State.Pid}}");
    client.done(&["rm", "-f", &client.name]);
    assert!(!client.engine.world.path(&format!("/proc/{pid}")).exists());
    assert!(!client.asks(&["ps", "-a"]).contains(&client.name));
}

pub(crate) fn many_start_at_once(client: &Client<'_>) {
    const MANY: u32 = 8;
    let start = |number: u32| {
        let number = number.to_string();
        client.command(&client.run_words(&["--rm"], &[], &["echo", &number])).one_of(MANY).start()
    };
    let all: Vec<Live> = (0..MANY).map(start).collect();
    for (number, live) in all.into_iter().enumerate() {
        assert_eq!(success(&live.finish()), format!("{number}\n"));
    }
}

/// Whether this process has, and so can give, every capability.
fn has_all_rights() -> bool {
    let read = |path| std::fs::read_to_string(path).expect("procfs");
    let last: u32 = read("/proc/sys/kernel/cap_last_cap").trim().parse().expect("a number");
    read("/proc/self/status").contains(&format!("CapEff:\t{:016x}", (1u64 << (last + 1)) - 1))
}

/// Nobody has handed a control group to the user, so podman offers them nothing that takes one.
fn is_without_groups(client: &Client<'_>) -> bool {
    let is_without = client.engine.kind == Kind::RootlessPodman;
    if is_without {
        println!("skip: needs control groups of the user's own");
    }
    is_without
}

/// What the container with these flags looks like from inside is compared, and returned.
pub(crate) fn looks(client: &Client<'_>, flags: &[&str]) -> Value {
    let seen = client.sees(flags);
    client.note(&flags.join(" "), &look(&seen, client));
    seen
}

/// What the probe saw, one line per fact, without what is different each time.
pub(crate) fn look(seen: &Value, client: &Client<'_>) -> String {
    let mut lines = Vec::new();
    for (key, value) in seen.as_object().expect("an object") {
        match key.as_str() {
            "status" => status(value, &mut lines),
            "mounts" => mounts(value, &mut lines),
            "namespaces" => namespaces(value, client, &mut lines),
            "fds" => lines.extend(value.as_object().map(|fds| format!("fds {:?}", fds.keys()))),
            "dev" => {
                let devices = value.as_object().into_iter().flatten();
                // A link to /proc/kcore, which some runtimes make.
                let devices = devices.filter(|(path, _)| *path != "/dev/core");
                lines.extend(devices.map(|(path, what)| format!("dev {path} {what}")));
            }
            "ids" => {
                // How a process comes by its number is the runtime's own affair.
                let ids = value.as_object().into_iter().flatten();
                let lasting =
                    ids.filter(|(name, _)| !["pid", "ppid", "pgid", "sid"].contains(&name.as_str()));
                lines.extend(lasting.map(|(name, id)| format!("{name} {id}")));
            }
            "terminal" => {
                // The number of a pipe is different each time.
                let name = value["name"].as_str().unwrap_or_default().split(':').next().unwrap_or_default();
                lines.push(format!("terminal {name} {} {}", value["size"], value["streams"]));
            }
            // The environment again, in an order that podman rolls dice for; and what the clock says.
            "environ" | "clocks" => {}
            // Where nothing is asked for, some runtimes keep that of the engine's helper.
            "oom_score_adj" => {}
            "processes" => lines.push(format!("processes {}", value.as_array().map_or(0, Vec::len).min(2))),
            _ => lines.push(format!("{key} {value}")),
        }
    }
    lines.join("\n")
}

fn status(status: &Value, lines: &mut Vec<String>) {
    const KEYS: [&str; 15] = [
        "Uid",
        "Gid",
        "Groups",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "Seccomp_filters",
        "SigBlk",
        "SigIgn",
        "Cpus_allowed_list",
        "Umask",
    ];
    for key in KEYS {
        let mut words: Vec<&str> = status[key].as_str().unwrap_or_default().split(' ').collect();
        words.dedup();
        lines.push(format!("{key} {}", words.join(" ")));
    }
}

/// What is mounted. How a runtime shields files of the kernel, brings devices to where none can be made (also once more
/// over one that is there), and what nobody has asked about propagates to is its own affair; so is the second version of
/// cgroups beside the first.
fn mounts(mounts: &Value, lines: &mut Vec<String>) {
    let mut found = Vec::new();
    for mount in mounts.as_array().expect("mounts") {
        let field = |key| mount[key].as_str().unwrap_or_default();
        let (target, kind) = (field("target"), field("type"));
        found.push(match () {
            () if target.starts_with("/sys/fs/cgroup/unified") => continue,
            () if is_shielded(target) || target == "/sys/fs/cgroup" => format!("mount {target}"),
            () if kind == "devtmpfs" || target == "/dev/console" => {
                let device = format!("mount {target} {kind}");
                if kind == "devtmpfs" && found.contains(&device) {
                    continue;
                }
                device
            }
            () if kind == "devpts" => {
                format!("mount {target} {kind} {} {}", field("options"), field("super"))
            }
            () => format!("mount {target} {kind} {}", field("options")),
        });
    }
    found.sort();
    lines.extend(found);
}

/// Whether this is a part of procfs or sysfs, but for control groups.
fn is_shielded(target: &str) -> bool {
    target.starts_with("/proc/") || (target.starts_with("/sys/") && !target.starts_with("/sys/fs/cgroup"))
}

/// Which namespaces are the engine's own.
fn namespaces(namespaces: &Value, client: &Client<'_>, lines: &mut Vec<String>) {
    for (name, id) in namespaces.as_object().expect("namespaces") {
        let outside = std::fs::read_link(client.engine.world.path(&format!("/proc/1/ns/{name}")));
        let is_ours = outside.is_ok_and(|outside| outside.to_str() == id.as_str());
        lines.push(format!("namespace {name} {}", if is_ours { "of the host" } else { "of its own" }));
    }
}
