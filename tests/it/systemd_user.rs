//! `--systemd-cgroup` in the hands of an ordinary user, whose own systemd makes the scopes: within that systemd, as a
//! desktop's programs are, and beside it, as in a session of ssh. Needs the user that the machines of `cargo xtask vm` have.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::harness::{Output, Skiff, fixture, parse, programs};
use crate::oci::lacks;
use crate::peers::world::eventually;

/// The user, and what only the user has.
const USER: &str = "someone";
const RUN: &str = "/run/user/1000";

/// The cgroup of the user's systemd.
const MANAGER: &str = "/user.slice/user-1000.slice/user@1000.service";

/// Whether the user's systemd runs; it is started by the first who asks.
fn is_there() -> bool {
    static STARTED: OnceLock<bool> = OnceLock::new();
    *STARTED.get_or_init(|| {
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let known = users.lines().any(|line| line.starts_with(&format!("{USER}:x:1000:")));
        let booted = Path::new("/run/systemd/system").is_dir();
        known && booted && {
            let started = Command::new("systemctl").args(["start", "user@1000.service"]).status();
            assert!(started.expect("start systemctl").success(), "{}", unit_states());
            as_user(&["mkdir", "-p", &format!("{RUN}/rootfs")]).output().ok();
            let archive = fixture::small_tar().display().to_string();
            let rootfs = format!("{RUN}/rootfs");
            Skiff::tool(&["cp", &archive, &format!("{RUN}/small.tar")]).output().ok();
            let words = ["tar", "-C", &rootfs, "--no-same-owner", "-xf", &format!("{RUN}/small.tar")];
            as_user(&words).output().ok();
            true
        }
    })
}

/// What systemd says of the units that it takes.
fn unit_states() -> String {
    let units = ["user@1000.service", "user-runtime-dir@1000.service", "systemd-logind.service"];
    let status = Command::new("systemctl").args(["--no-pager", "--full", "status"]).args(units).output();
    String::from_utf8_lossy(&status.expect("start systemctl").stdout).into_owned()
}

/// A command of the user's, outside of the user's systemd.
fn as_user(words: &[&str]) -> Skiff {
    let runtime_dir = format!("XDG_RUNTIME_DIR={RUN}");
    let become_user = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"];
    let clean = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", &runtime_dir];
    Skiff::tool(&[&become_user, &clean[..], words].concat())
}

/// Where the user's command stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    Within,
    Beside,
}

/// A bundle of the user's.
struct Bundle {
    id: &'static str,
    stand: Stand,
    config: Value,
}

impl Bundle {
    fn new(id: &'static str, stand: Stand) -> Self {
        let dir = format!("{RUN}/{id}");
        as_user(&["mkdir", &dir]).output().ok();
        let runtime = programs::runtime().display().to_string();
        let script = format!("cd {dir} && exec {runtime} spec --rootless");
        as_user(&["sh", "-ec", &script]).output().ok();
        let text = fs::read_to_string(format!("{dir}/config.json")).expect("a configuration");
        let mut config = parse(&text);
        config["root"] = json!({ "path": format!("{RUN}/rootfs") });
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["/bin/sh", "-c", "while :; do sleep 1; done"]);
        config["linux"]["cgroupsPath"] = json!(format!("user.slice:skiff:{id}"));
        config["linux"]["resources"] = json!({ "memory": { "limit": 67_108_864 }, "pids": { "limit": 50 } });
        Self { id, stand, config }
    }

    fn does(&self, verb: &str, flags: &[&str], more: &[&str]) -> Output {
        let dir = format!("{RUN}/{}", self.id);
        fs::write(format!("{dir}/config.json"), self.config.to_string()).expect("write the configuration");
        let runtime = programs::runtime().display().to_string();
        let place: &[&str] = if ["create", "run"].contains(&verb) { &["--bundle", &dir] } else { &[] };
        let words = [&[&runtime[..], "--systemd-cgroup", verb], place, flags, &[self.id], more].concat();
        let within = ["systemd-run", "--user", "--quiet", "--pipe", "--wait", "--collect", "--"];
        let words = if self.stand == Stand::Within { [&within[..], &words].concat() } else { words };
        // What goes on alone must not keep the streams open that are waited for.
        if verb != "create" && !flags.contains(&"--detach") {
            return as_user(&words).output();
        }
        let errors = format!("{dir}/errors");
        let quiet = ["sh", "-c", "errors=$1; shift; exec \"$@\" > /dev/null 2> \"$errors\"", "sh", &errors];
        let mut output = as_user(&[&quiet[..], &words].concat()).output();
        output.stderr = fs::read_to_string(errors).unwrap_or_default();
        output
    }

    fn unit(&self) -> String {
        format!("skiff-{}.scope", self.id)
    }

    fn group(&self) -> String {
        format!("{MANAGER}/user.slice/{}", self.unit())
    }

    fn directory(&self) -> PathBuf {
        Path::new("/sys/fs/cgroup").join(self.group().trim_start_matches('/'))
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.directory().join(name))
            .unwrap_or_else(|e| panic!("{name}: {e}"))
            .trim()
            .to_owned()
    }

    fn property(&self, name: &str) -> String {
        let words = ["systemctl", "--user", "show", "--value", "--property", name, &self.unit()];
        as_user(&words).output().ok().trim().to_owned()
    }

    fn state(&self) -> Value {
        parse(&self.does("state", &[], &[]).ok())
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _gone = self.does("delete", &["--force"], &[]);
    }
}

#[test]
fn a_users_container_has_its_life_in_a_scope_of_the_user() {
    if !is_there() {
        return lacks("a systemd of the user `someone`");
    }
    for (id, stand) in [("within", Stand::Within), ("beside", Stand::Beside)] {
        let bundle = Bundle::new(id, stand);
        let created = bundle.does("create", &[], &[]);
        assert_eq!(created.code, 0, "{id}: {created}");
        let pid = bundle.state()["pid"].to_string();
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its cgroup");
        assert_eq!(groups.trim(), format!("0::{}", bundle.group()));
        assert_eq!([bundle.property("ActiveState"), bundle.property("TasksMax")], ["active", "50"]);
        assert_eq!([bundle.property("Delegate"), bundle.property("MemoryMax")], ["yes", "67108864"]);
        assert_eq!([bundle.file("pids.max"), bundle.file("memory.max")], ["50", "67108864"]);
        bundle.does("start", &[], &[]).ok();

        assert_eq!(bundle.does("exec", &[], &["/bin/cat", "/proc/self/cgroup"]).ok(), "0::/\n", "{id}");
        bundle.does("update", &["--pids-limit", "30"], &[]).ok();
        assert_eq!([bundle.property("TasksMax"), bundle.file("pids.max")], ["30", "30"]);
        bundle.does("pause", &[], &[]).ok();
        assert_eq!(
            (bundle.state()["status"].as_str(), &bundle.file("cgroup.freeze")[..]),
            (Some("paused"), "1")
        );
        bundle.does("resume", &[], &[]).ok();
        bundle.does("kill", &[], &["KILL"]).ok();
        assert!(eventually(|| bundle.state()["status"] == "stopped"));
        bundle.does("delete", &[], &[]).ok();
        assert_eq!(bundle.property("LoadState"), "not-found");
        assert!(!bundle.directory().exists());
    }
}

#[test]
fn what_a_user_runs_in_a_container_is_in_its_scope() {
    if !is_there() {
        return lacks("a systemd of the user `someone`");
    }
    for (id, stand) in [("more-within", Stand::Within), ("more-beside", Stand::Beside)] {
        let bundle = Bundle::new(id, stand);
        bundle.does("create", &[], &[]).ok();
        bundle.does("start", &[], &[]).ok();
        let own = fs::read_to_string("/proc/self/cgroup").expect("an own cgroup");

        // One that goes on alone is the container's: it is limited, counted and frozen with it.
        let sleeps = ["/bin/sh", "-c", "while :; do sleep 1; done"];
        bundle.does("exec", &["--detach"], &sleeps).ok();
        let processes = || bundle.file("cgroup.procs").lines().count();
        assert!(eventually(|| processes() >= 2), "{id}: {}", bundle.file("cgroup.procs"));
        let output = bundle.does("exec", &["--user", "7:8"], &["/bin/cat", "/proc/self/cgroup"]);
        // Nobody but root is mapped.
        assert_eq!((output.code, output.stderr.lines().count()), (255, 1), "{id}: {output}");

        // Below the container's own: then nothing can be in that itself.
        fs::create_dir(bundle.directory().join("inner")).expect("make a cgroup");
        chown(&bundle.directory().join("inner"));
        let flags = ["--cgroup", "inner"];
        assert_eq!(
            bundle.does("exec", &flags, &["/bin/cat", "/proc/self/cgroup"]).ok(),
            "0::/inner\n",
            "{id}"
        );
        // The shell starts another one every second, which may come in between or be gone.
        assert!(eventually(|| {
            let inner = bundle.directory().join("inner/cgroup.procs");
            bundle.file("cgroup.procs").lines().all(|pid| fs::write(&inner, pid).is_ok())
                && bundle.file("cgroup.procs").is_empty()
        }));
        fs::write(bundle.directory().join("cgroup.subtree_control"), "+pids").expect("hand on a controller");
        let output = bundle.does("exec", &[], &["/bin/cat", "/proc/self/cgroup"]);
        assert_eq!(output.ok(), "0::/inner\n", "{id}");
        assert_eq!(fs::read_to_string("/proc/self/cgroup").expect("an own cgroup"), own);

        let (group, directory) = (bundle.group(), bundle.directory());
        bundle.does("delete", &["--force"], &[]).ok();
        assert!(!directory.exists(), "{group}");
    }
}

/// Hands a cgroup to the user, as one is that the user has made.
fn chown(directory: &Path) {
    let paths = [directory.to_path_buf(), directory.join("cgroup.procs"), directory.join("cgroup.threads")];
    for path in paths.into_iter().chain([directory.join("cgroup.subtree_control")]) {
        std::os::unix::fs::chown(&path, Some(1000), Some(1000)).expect("change the owner");
    }
}

#[test]
fn a_users_failed_launch_leaves_no_scope() {
    if !is_there() {
        return lacks("a systemd of the user `someone`");
    }
    let mut bundle = Bundle::new("failing", Stand::Within);
    bundle.config["process"]["args"] = json!(["/bin/there-is-no-such-program"]);
    let output = bundle.does("run", &[], &[]);
    assert_eq!((output.code, output.stderr.lines().count()), (1, 1), "{output}");
    assert_eq!(bundle.property("LoadState"), "not-found");
    assert!(!bundle.directory().exists());
}

#[test]
fn a_limit_that_is_not_handed_to_the_user_is_an_error() {
    if !is_there() {
        return lacks("a systemd of the user `someone`");
    }
    let mut bundle = Bundle::new("greedy", Stand::Within);
    let given =
        fs::read_to_string(format!("/sys/fs/cgroup{MANAGER}/cgroup.controllers")).expect("controllers");
    assert!(!given.contains("cpuset"), "{given}");
    bundle.config["linux"]["resources"]["cpu"] = json!({ "cpus": "0" });
    let output = bundle.does("run", &[], &[]);
    assert_eq!((output.code, output.stderr.lines().count()), (1, 1), "{output}");
    assert!(output.stderr.contains("cpuset"), "{output}");
    assert_eq!(bundle.property("LoadState"), "not-found");
}
