//! Without root: what works, what is refused, and that nothing is left behind either.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::harness::{Case, Output, fixture, parse};

const USER: u32 = 1000;
const AS_USER: [&str; 1] = ["uid=1000"];

/// A world in which everything belongs to the user.
fn users_case() -> Case {
    let case = Case::new();
    give_to_user(&case);
    case
}

fn give_to_user(case: &Case) {
    for dir in [&case.dir, &case.state, &case.run, &case.dir.join("tmp")] {
        nix::unistd::chown(dir, Some(USER.into()), Some(USER.into())).expect("chown");
    }
}

fn run(case: &Case, flags: &[&str], image: &str, command: &[&str]) -> Output {
    let words: Vec<&str> =
        ["run", "--rm"].iter().chain(flags).chain(&[image]).chain(command).copied().collect();
    case.skiff(&words).with(&AS_USER).output()
}

#[test]
fn a_user_runs_the_hosts_programs_as_their_own_root() {
    let case = users_case();
    // The container has a /tmp of its own: what it writes there, nobody else sees.
    let scratch = format!("/tmp/skiff-test-{}", std::process::id());
    let script = format!(
        "id -u; cat /proc/self/uid_map | tr -s ' '; echo x > {scratch} && cat {scratch}; ls / > /dev/null"
    );
    let output = run(&case, &[], "host", &["sh", "-c", &script]);
    assert_eq!(output.ok(), format!("0\n 0 {USER} 1\nx\n"));
    assert!(!Path::new(&scratch).exists());
}

#[test]
fn a_user_runs_a_root_of_their_own() {
    let case = users_case();
    let root = case.own_root();
    fixture::tool("chown", &["-R", &format!("{USER}:{USER}"), &root.display().to_string()]);
    let image = format!("rootfs:{}", root.display());
    let script = "echo new > /new && rm /etc/plain && mkdir -p /closed/deep && chmod 0 /closed && hostname";
    assert_eq!(run(&case, &["-h", "ship"], &image, &["sh", "-c", script]).ok(), "ship\n");
    assert!(!root.join("new").exists() && root.join("etc/plain").exists());
}

#[test]
fn a_user_may_share_the_hosts_namespaces() {
    let case = users_case();
    for namespace in ["--pid", "--ipc", "--uts", "--network", "--cgroupns"] {
        assert_eq!(
            run(&case, &[namespace, "host"], "host", &["echo", "shared"]).ok(),
            "shared\n",
            "{namespace}"
        );
    }
    let domain = run(&case, &["--domainname", "sea"], "host", &["cat", "/proc/sys/kernel/domainname"]);
    assert_eq!(domain.ok(), "sea\n");
    let score = ["--pid", "host", "--oom-score-adj", "7"];
    assert_eq!(run(&case, &score, "host", &["cat", "/proc/self/oom_score_adj"]).ok(), "7\n");
}

#[test]
fn a_user_has_no_more_rights_than_before() {
    let case = users_case();
    // Brought along, for the directory it lies in may be hidden or closed to the user.
    let mount = format!("{}:/probe", fixture::small_root_dir().join("bin/probe").display());
    let operations =
        ["read", "/etc/shadow", "open-r", "/dev/kmsg", "open-w", "/proc/sys/kernel/core_pattern"];
    let command = [&["/probe", "try"], &operations[..]].concat();
    let verdicts = run(&case, &["-v", &mount], "host", &command).ok();
    let refused = |verdict: &str| ["EACCES", "EPERM", "ENOENT", "EROFS"].contains(&verdict);
    assert!(verdicts.lines().count() == 3 && verdicts.lines().all(refused), "{verdicts}");
}

#[test]
fn a_user_has_a_daemon_of_their_own() {
    let case = Case::with_daemon();
    give_to_user(&case);
    let ok = |words: &[&str]| case.skiff(words).with(&AS_USER).output().ok();
    let script = "echo hello; read line; echo got $line; exit 3";
    let id = ok(&["run", "-d", "-i", "--name", "mine", "host", "sh", "-c", script]);
    assert_eq!(ok(&["ps", "--no-trunc", "-q"]), id);
    let server = parse(&ok(&["version", "-f", "{{json .}}"]));
    let daemon = server["Server"]["Pid"].as_i64().expect("a daemon");
    assert_eq!(std::fs::metadata(format!("/proc/{daemon}")).expect("it runs").uid(), USER);
    assert_eq!(ok(&["exec", "mine", "id", "-u"]), "0\n");
    // Root's own commands are for root's daemon; this one answers to its user, and to root by its socket.
    let attached = case.skiff(&["attach", "mine"]).with(&AS_USER).stdin(b"go\n").output();
    assert_eq!((attached.code, attached.stdout.as_str()), (3, "got go\n"), "{attached}");
    assert_eq!(ok(&["wait", "mine"]), "3\n");
    assert_eq!(ok(&["logs", "mine"]), "hello\ngot go\n");
    assert_eq!(ok(&["rm", "mine"]), "mine\n");
    let foreign = case.skiff(&["ps"]).with(&["uid=4242"]).output();
    assert_ne!(foreign.code, 0, "{foreign}");
}

#[test]
fn what_takes_root_is_refused_in_one_line() {
    let case = users_case();
    run(&case, &["-m", "64m"], "host", &["true"]).fails(125, "cgroup");
    run(&case, &["--profile"], "host", &["true"]).fails(125, "CAP_BPF");
    run(&case, &["--cap-add", "SYS_TIME", "--network", "none"], "rootfs:/root", &["true"])
        .fails(125, "/root");
}

#[test]
fn another_users_store_is_refused() {
    let case = users_case();
    let output = case.skiff(&["run", "--rm", "host", "true"]).with(&["uid=4242"]).output();
    output.fails(125, "");
}
