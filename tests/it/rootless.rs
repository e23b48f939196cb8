//! Without root: what works, what is refused, and that nothing is left behind either.

use std::path::Path;

use crate::harness::{Case, Output, fixture};

const USER: u32 = 1000;
const AS_USER: [&str; 1] = ["uid=1000"];

/// A world in which everything belongs to the user.
fn users_case() -> Case {
    let case = Case::new();
    for dir in [&case.dir, &case.state, &case.run, &case.dir.join("tmp")] {
        nix::unistd::chown(dir, Some(USER.into()), Some(USER.into())).expect("chown");
    }
    case
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
