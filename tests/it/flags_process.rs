//! Who the process is and what it starts with: user, groups, environment, directory, limits, capabilities, filters.

use crate::harness::{Case, fixture};

const DEFAULT_CAPS: &str = "00000000a80425fb";
const NO_CAPS: &str = "0000000000000000";

#[test]
fn a_process_starts_as_docker_starts_it() {
    let case = Case::new();
    let seen = case.see(&[]);
    assert_eq!(seen["ids"]["uid"], 0);
    assert_eq!(seen["ids"]["gid"], 0);
    assert_eq!(seen["ids"]["pid"], 1);
    assert_eq!(seen["ids"]["ppid"], 0);
    assert_eq!(seen["ids"]["sid"], 1);
    assert_eq!(seen["ids"]["umask"], "0022");
    assert_eq!(seen["cwd"], "/");
    assert_eq!(seen["oom_score_adj"], "0");
    assert_eq!(seen["status"]["NoNewPrivs"], "0");
    assert_eq!(seen["status"]["Seccomp"], "2");
}

#[test]
fn default_capabilities_are_dockers() {
    let case = Case::new();
    let status = &case.see(&[])["status"];
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(status[set], DEFAULT_CAPS, "{set}");
    }
    assert_eq!(status["CapInh"], NO_CAPS);
    assert_eq!(status["CapAmb"], NO_CAPS);
}

#[test]
fn an_ordinary_user_has_no_capabilities() {
    let case = Case::new();
    let status = &case.see(&["-u", "alice"])["status"];
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status[set], NO_CAPS, "{set}");
    }
    assert_eq!(status["CapBnd"], DEFAULT_CAPS);
}

#[test]
fn capabilities_are_added_and_dropped() {
    let case = Case::new();
    let bounding = |flags: &[&str]| case.see(flags)["status"]["CapEff"].as_str().expect("a mask").to_owned();
    assert_eq!(bounding(&["--cap-drop", "ALL"]), NO_CAPS);
    assert_eq!(bounding(&["--cap-drop=all", "--cap-add=CAP_CHOWN"]), "0000000000000001");
    assert_eq!(bounding(&["--cap-drop", "CHOWN", "--cap-drop", "mknod"]), "00000000a00425fa");
    assert_eq!(bounding(&["--cap-add", "sys_time"]), "00000000aa0425fb");
    case.run(&["--cap-add", "FLY"], &["true"]).fails(125, "FLY");
}

#[test]
fn cap_add_all_gives_what_the_host_has() {
    let case = Case::new();
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let ours = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).expect("a mask").trim();
    assert_eq!(case.see(&["--cap-add", "ALL"])["status"]["CapEff"], ours);
}

#[test]
fn environment_is_dockers_and_nothing_of_the_host() {
    let case = Case::new();
    let out = case.command(&[], &["probe", "see"]).env("SECRET_OF_HOST", "x").output().ok();
    let env = crate::harness::parse(&out)["env"].clone();
    assert_eq!(env["PATH"], "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    assert_eq!(env["HOME"], "/root");
    assert_eq!(env["HOSTNAME"].as_str().map(str::len), Some(12));
    assert_eq!(env.as_object().map(serde_json::Map::len), Some(3), "{env}");
}

#[test]
fn env_sets_inherits_and_overrides() {
    let case = Case::new();
    let flags = [
        "-e",
        "ONE=1",
        "--env=TWO=a=b c",
        "-e",
        "FROM_HOST",
        "-e",
        "NOT_SET",
        "-e",
        "EMPTY=",
        "-e",
        "HOME=/h",
    ];
    let out = case.command(&flags, &["probe", "see"]).env("FROM_HOST", "host").output().ok();
    let env = &crate::harness::parse(&out)["env"];
    assert_eq!(env["ONE"], "1");
    assert_eq!(env["TWO"], "a=b c");
    assert_eq!(env["FROM_HOST"], "host");
    assert_eq!(env["EMPTY"], "");
    assert_eq!(env["HOME"], "/h");
    assert!(env["NOT_SET"].is_null());
}

#[test]
fn env_file_is_read_and_env_wins_over_it() {
    let case = Case::new();
    let file = case.file("env", "# comment\n\nA=file\nB=two words\nFROM_HOST\n");
    let out = case
        .command(&["--env-file", &file, "-e", "A=flag"], &["probe", "see"])
        .env("FROM_HOST", "h")
        .output();
    let env = &crate::harness::parse(&out.ok())["env"];
    assert_eq!((&env["A"], &env["B"], &env["FROM_HOST"]), (&"flag".into(), &"two words".into(), &"h".into()));
    case.run(&["--env-file", "/no/such/file"], &["true"]).fails(125, "/no/such/file");
}

#[test]
fn workdir_is_entered_and_created() {
    let case = Case::new();
    assert_eq!(case.see(&["-w", "/home/alice"])["cwd"], "/home/alice");
    assert_eq!(case.see(&["--workdir=/made/here"])["cwd"], "/made/here");
    assert!(!fixture::small_root_dir().join("made").exists());
    case.run(&["-w", "relative"], &["true"]).fails(125, "relative");
    let output = case.run(&["-w", "/etc/passwd"], &["true"]);
    assert!([125, 126].contains(&output.code) && output.stderr.contains("/etc/passwd"), "{output}");
}

#[test]
fn user_is_taken_by_name_or_number() {
    let case = Case::new();
    let who = |user: &str| {
        let seen = case.see(&["-u", user]);
        let number = |name: &str| seen["ids"][name].as_u64().expect("an id");
        (number("uid"), number("gid"), seen["env"]["HOME"].as_str().expect("HOME").to_owned())
    };
    assert_eq!(who("alice"), (1234, 4321, "/home/alice".into()));
    assert_eq!(who("1234"), (1234, 4321, "/home/alice".into()));
    assert_eq!(who("alice:video"), (1234, 44, "/home/alice".into()));
    assert_eq!(who("5555"), (5555, 0, "/".into()));
    assert_eq!(who("5555:66"), (5555, 66, "/".into()));
    case.run(&["-u", "nobody-here"], &["true"]).fails(125, "nobody-here");
    case.run(&["-u", "alice:no-group"], &["true"]).fails(125, "no-group");
}

#[test]
fn groups_are_the_users_and_those_added() {
    let case = Case::new();
    let groups = |flags: &[&str]| {
        let seen = case.see(flags);
        let line = seen["status"]["Groups"].as_str().expect("a line").to_owned();
        let mut ids: Vec<u32> = line.split_whitespace().map(|id| id.parse().expect("a number")).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    };
    assert_eq!(groups(&[]), [0, 777]);
    assert_eq!(groups(&["-u", "alice"]), [44, 777, 4321]);
    assert_eq!(groups(&["-u", "5555:66"]), [66]);
    assert_eq!(groups(&["-u", "5555:66", "--group-add", "video", "--group-add=99"]), [44, 66, 99]);
    case.run(&["--group-add", "no-group"], &["true"]).fails(125, "no-group");
}

#[test]
fn hostname_and_domainname_are_set() {
    let case = Case::new();
    let seen = case.see(&["-h", "ship", "--domainname", "sea.example"]);
    assert_eq!(seen["hostname"], "ship");
    assert_eq!(seen["domainname"], "sea.example");
    assert_eq!(seen["env"]["HOSTNAME"], "ship");
    assert_eq!(case.run(&["--hostname", "ship"], &["cat", "/etc/hostname"]).ok(), "ship\n");
}

#[test]
fn hostname_is_the_short_id_by_default() {
    let case = Case::new();
    let file = case.dir.join("my-cid");
    let hostname = case.run(&[&format!("--cidfile={}", file.display())], &["hostname"]).ok();
    let id = std::fs::read_to_string(&file).expect("the id");
    std::fs::rename(&file, case.dir.join("cid.mine")).expect("rename");
    assert_eq!(id.len(), 64);
    assert!(id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{id}");
    assert_eq!(hostname.trim_end(), &id[..12]);
}

#[test]
fn cidfile_must_not_exist() {
    let case = Case::new();
    let file = case.file("taken", "old");
    case.run(&["--cidfile", &file], &["true"]).fails(125, &file);
    assert_eq!(std::fs::read_to_string(&file).expect("still there"), "old");
}

#[test]
fn names_are_checked() {
    let case = Case::new();
    case.run(&["--name", "good_Name-1.2"], &["true"]).ok();
    case.run(&["--name", "bad name"], &["true"]).fails(125, "bad name");
    case.run(&["--name", "-x"], &["true"]).fails(125, "-x");
}

#[test]
fn a_name_is_taken_as_long_as_its_container_runs() {
    let case = Case::new();
    let live = case.waiting(&["--name", "only"]);
    case.run(&["--name", "only"], &["true"]).fails(125, "only");
    case.run(&["--name", "other"], &["true"]).ok();
    live.signal(nix::sys::signal::Signal::SIGTERM);
    live.finish().ok();
    case.run(&["--name", "only"], &["true"]).ok();
}

#[test]
fn ulimits_are_set() {
    let case = Case::new();
    let seen = case.see(&["--ulimit", "nofile=100:200", "--ulimit=core=0", "--ulimit", "nproc=512"]);
    assert_eq!(seen["rlimits"]["nofile"], serde_json::json!([100, 200]));
    assert_eq!(seen["rlimits"]["core"], serde_json::json!([0, 0]));
    assert_eq!(seen["rlimits"]["nproc"], serde_json::json!([512, 512]));
    case.run(&["--ulimit", "nofile=200:100"], &["true"]).fails(125, "nofile");
    case.run(&["--ulimit", "wings=1"], &["true"]).fails(125, "wings");
}

#[test]
fn no_new_privileges_is_set_in_each_spelling() {
    let case = Case::new();
    for option in ["no-new-privileges", "no-new-privileges:true", "no-new-privileges=true"] {
        assert_eq!(case.see(&["--security-opt", option])["status"]["NoNewPrivs"], "1", "{option}");
    }
    assert_eq!(case.see(&["--security-opt", "no-new-privileges=false"])["status"]["NoNewPrivs"], "0");
    case.run(&["--security-opt", "flying=on"], &["true"]).fails(125, "flying");
}

#[test]
fn seccomp_default_refuses_what_dockers_does() {
    let case = Case::new();
    let verdicts =
        case.attempt(&[], &["keyctl", "bpf", "perf", "swapon", "unshare-user", "mount", "tmpfs", "/tmp"]);
    assert_eq!(verdicts, ["EPERM"; 6]);
}

#[test]
fn seccomp_rules_follow_capabilities() {
    let case = Case::new();
    // With CAP_SYS_ADMIN the profile lets bpf(2) through, and the kernel dislikes the empty argument.
    assert_eq!(case.attempt(&["--cap-add", "SYS_ADMIN"], &["bpf"]), ["EINVAL"]);
    assert_eq!(case.attempt(&["--cap-add", "SYS_ADMIN"], &["mount", "tmpfs", "/tmp"]), ["ok"]);
}

#[test]
fn seccomp_can_be_unconfined() {
    let case = Case::new();
    let flags = ["--security-opt", "seccomp=unconfined"];
    assert_eq!(case.see(&flags)["status"]["Seccomp"], "0");
    assert_eq!(case.attempt(&flags, &["unshare-user"]), ["ok"]);
}

#[test]
fn seccomp_profile_is_taken_from_a_file() {
    let case = Case::new();
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 111},
                     {"names": ["personality"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 262144, "op": "SCMP_CMP_EQ"}]}]}"#;
    let option = format!("seccomp={}", case.file("profile.json", profile));
    let verdicts = case.attempt(&["--security-opt", &option], &["mkdir", "/tmp/x", "personality", "keyctl"]);
    assert_eq!(verdicts, ["ECONNREFUSED", "EPERM", "ok"]);
}

#[test]
fn seccomp_profile_that_is_not_one_is_refused() {
    let case = Case::new();
    let broken = format!("seccomp={}", case.file("broken.json", "{"));
    case.run(&["--security-opt", &broken], &["true"]).fails(125, "seccomp profile");
    case.run(&["--security-opt", "seccomp=/no/such/profile"], &["true"]).fails(125, "/no/such/profile");
    let unknown = case.file("unknown.json", r#"{"defaultAction": "SCMP_ACT_DANCE"}"#);
    case.run(&["--security-opt", &format!("seccomp={unknown}")], &["true"]).fails(125, "SCMP_ACT_DANCE");
}

#[test]
fn privileged_has_all_capabilities_devices_and_no_filter() {
    let case = Case::new();
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let ours = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).expect("a mask").trim();
    let seen = case.see(&["--privileged"]);
    assert_eq!(seen["status"]["CapEff"], ours);
    assert_eq!(seen["status"]["Seccomp"], "0");
    assert!(seen["dev"]["/dev/kmsg"].is_string(), "{}", seen["dev"]);
    let masks =
        case.attempt(&["--privileged"], &["open-w", "/proc/sys/kernel/hostname", "open-r", "/dev/kmsg"]);
    assert_eq!(masks, ["ok", "ok"]);
}

#[test]
fn oom_score_is_adjusted() {
    let case = Case::new();
    assert_eq!(case.see(&["--oom-score-adj", "500"])["oom_score_adj"], "500");
    case.run(&["--oom-score-adj", "1001"], &["true"]).fails(125, "1001");
}

#[test]
fn init_reaps_orphans_and_passes_the_exit_code() {
    let case = Case::new();
    assert_ne!(case.see(&["--init"])["ids"]["pid"], 1);
    assert_eq!(case.run(&["--init"], &["probe", "orphan"]).ok(), "reaped\n");
    assert_eq!(case.run(&["--init"], &["probe", "exit", "42"]).code, 42);
    assert_eq!(case.run(&["--init"], &["probe", "die", "SEGV"]).code, 139);
    case.run(&["--init"], &["no-such-program"]).fails(127, "no-such-program");
}

#[test]
fn stdin_is_passed_only_with_interactive() {
    let case = Case::new();
    assert_eq!(case.command(&["-i"], &["cat"]).stdin(b"hello").output().ok(), "hello");
    assert_eq!(case.command(&[], &["cat"]).stdin(b"hello").output().ok(), "");
}

#[test]
fn input_and_output_pass_line_by_line() {
    let case = Case::new();
    let mut live = case.command(&["-i"], &["cat"]).stdin_open().start();
    for line in ["one", "two"] {
        live.send(format!("{line}\n").as_bytes());
        assert_eq!(live.line(), line);
    }
    live.close_stdin();
    live.finish().ok();
}

#[test]
fn entrypoint_precedes_the_command() {
    let case = Case::new();
    assert_eq!(case.run(&["--entrypoint", "echo"], &["a", "b"]).ok(), "a b\n");
    assert_eq!(case.run(&["--entrypoint=/bin/echo"], &[]).ok(), "\n");
}

#[test]
fn labels_and_pull_policy_are_accepted() {
    let case = Case::new();
    case.run(&["--label", "a=b", "-l", "c", "--pull", "never", "--pull=never"], &["true"]).ok();
    case.run(&["--pull", "sometimes"], &["true"]).fails(125, "--pull");
}

#[test]
fn flags_after_the_image_belong_to_the_command() {
    let case = Case::new();
    assert_eq!(case.run(&[], &["echo", "--name", "-x", "--"]).ok(), "--name -x --\n");
}

#[test]
fn a_command_may_follow_two_dashes() {
    let case = Case::new();
    assert_eq!(case.skiff(&["run", fixture::small_root(), "--", "echo", "hi"]).output().ok(), "hi\n");
}

#[test]
fn single_letters_can_be_joined() {
    let case = Case::new();
    let out = case.command(&["-ie", "A=1", "-w/tmp", "-hship"], &["sh", "-c", "cat; echo $A $PWD $HOSTNAME"]);
    assert_eq!(out.stdin(b"in ").output().ok(), "in 1 /tmp ship\n");
}
