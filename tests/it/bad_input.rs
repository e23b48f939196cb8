//! Mistakes on the command line: one clear line, the right code, nothing left behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::harness::{Case, fixture};

#[test]
fn a_missing_command_is_127() {
    let case = Case::new();
    case.run(&[], &["no-such-program"]).fails(127, "no-such-program");
    case.run(&[], &["/bin/no-such-program"]).fails(127, "/bin/no-such-program");
    case.run(&[], &["./relative"]).fails(127, "./relative");
    case.run(&[], &[""]).fails(127, "executable file not found");
    case.run(&["--entrypoint", "/nowhere"], &["x"]).fails(127, "/nowhere");
}

#[test]
fn a_command_that_cannot_be_run_is_126() {
    let case = Case::new();
    case.run(&[], &["/etc/passwd"]).fails(126, "/etc/passwd");
    case.run(&[], &["/etc"]).fails(126, "/etc");
    let noise = case.file("noise", "\u{1}\u{2} not a program");
    fs::set_permissions(&noise, fs::Permissions::from_mode(0o755)).expect("chmod");
    case.run(&["-v", &format!("{noise}:/noise")], &["/noise"]).fails(126, "/noise");
    let no_interpreter = case.file("script", "#!/no/such/interpreter\n");
    fs::set_permissions(&no_interpreter, fs::Permissions::from_mode(0o755)).expect("chmod");
    let output = case.run(&["-v", &format!("{no_interpreter}:/script")], &["/script"]);
    assert!([126, 127].contains(&output.code) && output.stderr.lines().count() == 1, "{output}");
}

#[test]
fn a_command_that_the_user_may_not_run_is_126() {
    let case = Case::new();
    let program = case.dir.join("private");
    fs::copy(fixture::small_root_dir().join("bin/probe"), &program).expect("copy");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).expect("chmod");
    let mount = format!("{}:/private", program.display());
    case.run(&["-v", &mount, "-u", "alice"], &["/private", "exit", "0"]).fails(126, "/private");
}

#[test]
fn a_missing_image_is_125() {
    let case = Case::new();
    for image in ["oci:/no/such", "oci-archive:/no/such", "docker-archive:/no/such", "rootfs:/no/such"] {
        case.skiff(&["run", image, "true"]).output().fails(125, "/no/such");
    }
    case.skiff(&["run", "--pull", "never", "debian", "true"]).output().fails(125, "no such image: debian");
    case.skiff(&["run", "ftp:/x", "true"]).output().fails(125, "ftp:/x");
    case.skiff(&["run"]).output().fails(125, "no image");
    case.skiff(&["run", "--rm"]).output().fails(125, "no image");
}

#[test]
fn an_unknown_flag_is_125() {
    let case = Case::new();
    case.run(&["--no-such-flag"], &["true"]).fails(125, "--no-such-flag");
    case.run(&["--no-such-flag=7"], &["true"]).fails(125, "--no-such-flag");
    case.run(&["-Z"], &["true"]).fails(125, "-Z");
    case.skiff(&["fly"]).output().fails(125, "fly");
}

#[test]
fn what_outlives_the_command_needs_a_daemon() {
    let case = Case::new();
    for flag in ["--detach", "--restart=always", "--health-cmd=true"] {
        let words = ["run", flag, fixture::small_root(), "true"];
        case.skiff(&words).env("SKIFF_DAEMON", "off").output().fails(125, "needs the daemon");
    }
    case.skiff(&["ps"])
        .env("SKIFF_DAEMON", "off")
        .output()
        .fails(1, "there is no daemon to ask: SKIFF_DAEMON=off");
}

#[test]
fn dockers_flags_that_are_not_supported_are_named() {
    let case = Case::new();
    let with_value = [
        "--add-host",
        "--annotation",
        "--attach",
        "--cgroup-parent",
        "--device-cgroup-rule",
        "--device-read-bps",
        "--dns",
        "--expose",
        "--gpus",
        "--ip",
        "--isolation",
        "--kernel-memory",
        "--label-file",
        "--link",
        "--mac-address",
        "--memory-swappiness",
        "--network-alias",
        "--publish",
        "--runtime",
        "--storage-opt",
        "--userns",
        "--volume-driver",
        "--volumes-from",
    ];
    for flag in with_value {
        case.run(&[&format!("{flag}=x")], &["true"]).fails(125, flag);
        case.run(&[flag, "x"], &["true"]).fails(125, flag);
    }
    let without = ["--publish-all", "--oom-kill-disable"];
    for flag in without {
        case.run(&[flag], &["true"]).fails(125, flag);
    }
    for (short, long) in [("-P", "--publish-all"), ("-p=80:80", "--publish"), ("-astdin", "--attach")] {
        case.run(&[short], &["true"]).fails(125, long);
    }
}

#[test]
fn a_flag_without_its_value_is_125() {
    let case = Case::new();
    case.skiff(&["run", "--memory"]).output().fails(125, "--memory");
    case.skiff(&["run", "-e"]).output().fails(125, "-e");
    case.run(&["--rm=perhaps"], &["true"]).fails(125, "perhaps");
}

#[test]
fn bad_numbers_are_125() {
    let case = Case::new();
    let bad = [
        ("--memory", "12q"),
        ("--memory", "-5m"),
        ("--shm-size", "big"),
        ("--pids-limit", "few"),
        ("--cpu-shares", "1.5"),
        ("--stop-timeout", "later"),
        ("--oom-score-adj", "high"),
        ("--cpu-period", "7"),
        ("--memory", "99999999999999999999"),
    ];
    for (flag, value) in bad {
        case.run(&[flag, value], &["true"]).fails(125, value);
    }
}

#[test]
fn an_unreadable_root_is_125_for_an_ordinary_user() {
    let case = Case::new();
    let private = case.subdir("private");
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).expect("chmod");
    for dir in [&case.state, &case.run, &case.dir.join("tmp")] {
        nix::unistd::chown(dir, Some(1000.into()), Some(1000.into())).expect("chown");
    }
    let root = format!("rootfs:{private}/root");
    let output = case.skiff(&["run", &root, "true"]).with(&["uid=1000"]).output();
    output.fails(125, "");
}

#[test]
fn a_state_directory_that_cannot_be_used_is_125() {
    let case = Case::new();
    let file = case.file("file", "");
    case.command(&[], &["true"]).env("SKIFF_RUN_ROOT", format!("{file}/run")).output().fails(125, &file);
}

#[test]
fn a_mount_over_something_of_the_other_kind_is_125() {
    let case = Case::new();
    let (file, dir) = (case.file("file", ""), case.subdir("dir"));
    case.run(&["-v", &format!("{file}:/etc")], &["true"]).fails(125, "/etc");
    case.run(&["-v", &format!("{dir}:/etc/passwd")], &["true"]).fails(125, "/etc/passwd");
}

#[test]
fn version_and_help_are_not_errors() {
    let case = Case::new();
    assert!(case.skiff(&["--version"]).output().ok().starts_with("skiff "));
    assert!(case.skiff(&["--help"]).output().ok().contains("run"));
    let help = case.skiff(&["run", "--help"]).output().ok();
    for flag in ["--memory", "--cap-add", "--security-opt", "--profile", "--tmpfs"] {
        assert!(help.contains(flag), "{flag} is not in the help");
    }
}
