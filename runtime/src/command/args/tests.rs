//! Command lines as callers write them.

use super::*;

fn parsed(line: &str) -> (Global, &'static Command, Args) {
    let (global, rest) = global(line.split_whitespace().map(OsString::from)).expect(line);
    let (command, args) = command(rest).expect(line);
    (global, command, args)
}

fn refused(line: &str) -> String {
    let parsed = global(line.split_whitespace().map(OsString::from)).and_then(|(_, rest)| command(rest));
    parsed.expect_err(line).message
}

#[test]
fn containerd_s_create() {
    let (global, command, args) = parsed(
        "--root /run/containerd/runc/default --log /b/log.json --log-format json --systemd-cgroup create \
         --bundle /b --pid-file /b/init.pid --console-socket /tmp/pty.sock --pidfd-socket /b/pidfd.sock --no-pivot \
         --no-new-keyring c1",
    );
    assert_eq!(command.name, "create");
    assert_eq!(args.id(), "c1");
    assert_eq!(global.root, Some("/run/containerd/runc/default".into()));
    assert_eq!(global.log_format, LogFormat::Json);
    assert_eq!(global.cgroup_manager, CgroupManager::Systemd);
    assert_eq!(args.launch.bundle, Some("/b".into()));
    assert_eq!(args.launch.pid_file, Some("/b/init.pid".into()));
    assert_eq!(args.launch.pidfd_socket, Some("/b/pidfd.sock".into()));
    assert!(args.launch.no_pivot && args.launch.no_new_keyring && !args.launch.detach);
}

#[test]
fn conmon_s_create_and_exec() {
    let (global, command, args) =
        parsed("--log-format=json --log=/b/oci-log create --bundle /b --pid-file /b/pidfile c1");
    assert_eq!((command.name, args.id()), ("create", "c1"));
    assert_eq!(global.log, Some("/b/oci-log".into()));
    let (_, command, args) = parsed("exec --pid-file /b/pid --process /b/process -d -t --preserve-fds=2 c1");
    assert_eq!((command.name, args.id()), ("exec", "c1"));
    assert_eq!(args.exec.process, Some("/b/process".into()));
    assert!(args.launch.detach && args.exec.tty);
    assert_eq!(args.launch.preserve_fds, 2);
}

#[test]
fn flags_are_written_as_go_or_as_getopt_has_them() {
    for line in
        ["run -bundle /b c", "run -bundle=/b c", "run --b /b c", "run -b/b c", "run -b=/b c", "run c -b /b"]
    {
        let (_, _, args) = parsed(line);
        assert_eq!((args.launch.bundle, args.operands), (Some("/b".into()), vec!["c".into()]), "{line}");
    }
    let (_, _, args) = parsed("exec -dtu0:5 c sh");
    assert!(args.launch.detach && args.exec.tty);
    assert_eq!(args.exec.user, Some("0:5".into()));
    assert!(!parsed("exec --tty=false c sh").2.exec.tty);
}

#[test]
fn crun_s_create_and_run() {
    for name in ["create", "run"] {
        let (_, _, args) = parsed(&format!("{name} --no-subreaper -b /b -f other.json c"));
        assert_eq!(args.launch.config, Some("other.json".into()));
    }
}

#[test]
fn what_follows_the_container_of_ps_is_for_ps() {
    let (_, _, args) = parsed("ps -f table c -o pid --format json -- x");
    assert_eq!(args.operands, ["c", "-o", "pid", "--format", "json", "--", "x"].map(OsString::from));
    assert_eq!(args.format, Format::Table);
}

#[test]
fn what_follows_the_container_of_exec_is_the_program_s() {
    let (_, _, args) = parsed("exec -e A=1 --env B=2 c ls -la --tty -- x");
    assert_eq!(args.operands, ["c", "ls", "-la", "--tty", "--", "x"].map(OsString::from));
    assert_eq!(args.exec.env, ["A=1", "B=2"]);
    assert!(!args.exec.tty);
}

#[test]
fn switches_may_follow_the_container_elsewhere() {
    let (_, _, args) = parsed("delete c --force");
    assert!(args.force);
    let (_, _, args) = parsed("kill -a c KILL");
    assert!(args.all);
    assert_eq!(args.operand(1), Some("KILL"));
    assert_eq!(parsed("delete -- --force").2.id(), "--force");
}

#[test]
fn limits_of_update_are_the_specification_s() {
    let (_, _, args) =
        parsed("update --memory 1048576 --memory-swap=-1 --cpu-quota -1 --pids-limit 5 -r - c");
    let memory = args.limits.resources.memory.expect("memory");
    assert_eq!((memory.limit, memory.swap), (Some(1 << 20), Some(-1)));
    assert_eq!(args.limits.resources.cpu.expect("cpu").quota, Some(-1));
    assert_eq!(args.limits.file, Some("-".into()));
}

#[test]
fn sizes_are_taken_with_and_without_a_unit() {
    let check = |text: &str, expected: i64| {
        let (_, _, args) = parsed(&format!("update --memory={text} c"));
        assert_eq!(args.limits.resources.memory.expect("memory").limit, Some(expected), "{text}");
    };
    for flag in ["memory-swap", "memory-reservation", "kernel-memory", "kernel-memory-tcp"] {
        parsed(&format!("update --{flag} 1M c"));
    }
    check("0", 0);
    check("64M", 64 << 20);
    check("1.5gb", 3 << 29);
    check("2KiB", 2 << 10);
    check("8191P", 8191 << 50);
    check("9223372036854775807", i64::MAX);
    for text in
        ["", "-2", "M", "1.", ".5g", "1e3", "1x", "9223372036854775808", "8192P", "0.0000000000000000001g"]
    {
        assert!(
            refused(&format!("update --memory={text} c")).contains("not a number of bytes that fits"),
            "{text}"
        );
    }
}

#[test]
fn what_is_wrong_is_said_in_one_line() {
    let check = |line: &str, expected: &str| assert_eq!(refused(line), expected, "{line}");
    check("fly c", "unknown command: fly, see 'skiff-runtime help'");
    check("--fly", "unknown flag: --fly, see 'skiff-runtime help'");
    check("create -x c", "unknown flag: -x, see 'skiff-runtime help create'");
    check("run -dx c", "unknown flag: 'x' in -dx, see 'skiff-runtime help run'");
    check("create", "create: takes CONTAINER, not 0 operands, see 'skiff-runtime help create'");
    check("create a b", "create: takes CONTAINER, not 2 operands, see 'skiff-runtime help create'");
    check("list a", "list: takes no operands, not 1 operands, see 'skiff-runtime help list'");
    check("create c --bundle", "--bundle needs a value, see 'skiff-runtime help create'");
    check(
        "--log-format xml list",
        "invalid value 'xml' for --log-format: not text or json, see 'skiff-runtime help'",
    );
    check(
        "--rootless maybe list",
        "invalid value 'maybe' for --rootless: not true, false or auto, see 'skiff-runtime help'",
    );
    check(
        "delete --force=maybe c",
        "invalid value 'maybe' for --force: neither true nor false, see 'skiff-runtime help delete'",
    );
    check(
        "run --preserve-fds -1 c",
        "invalid value '-1' for --preserve-fds: not a number that fits, see 'skiff-runtime help run'",
    );
}
