//! The host as the tests see it: control groups, and clearing up what a runtime has left.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::unistd::Pid;
use serde_json::Value;

use super::Bundle;
use crate::harness::{kernel, leak, parse, v1};

/// All capabilities in the order of their numbers.
pub(crate) const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Those of them that this process may give away.
pub(crate) fn held_capabilities() -> Vec<&'static str> {
    let status = fs::read_to_string("/proc/self/status").expect("our own status");
    let set = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).expect("our bounding set");
    let set = u64::from_str_radix(set.trim(), 16).expect("a set");
    CAPABILITIES
        .iter()
        .enumerate()
        .filter(|(number, _)| set >> number & 1 == 1)
        .map(|(_, name)| *name)
        .collect()
}

/// The directory of the control group `path` in the hierarchy that has this controller, if one has.
pub(crate) fn group(controller: &str, path: &str) -> Option<PathBuf> {
    let root = if v1(controller) {
        Path::new("/sys/fs/cgroup").join(controller)
    } else {
        let root = PathBuf::from("/sys/fs/cgroup");
        let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        controllers.split_whitespace().any(|name| name == controller).then_some(root)?
    };
    Some(root.join(path.trim_start_matches('/')))
}

/// Says that the test cannot run because this host, or its kernel, lacks something that cannot be installed. Unlike
/// [`crate::harness::need`] this is no failure with `MUST_RUN=1`.
pub(crate) fn lacks(what: &str) {
    println!("skip: lacks {what}");
}

/// Whether a mount of the tests' own files can have other owners.
pub(crate) fn files_can_be_mapped() -> bool {
    let found = statfs(&std::env::temp_dir()).expect("a file system for tests");
    found.filesystem_type() != TMPFS_MAGIC || memory_can_be_mapped()
}

/// Whether a mount of a tmpfs can have other owners: since Linux 6.3.
pub(crate) fn memory_can_be_mapped() -> bool {
    kernel() >= (6, 3)
}

/// The features document of the runtime, if it has one: what is a SHOULD or a MAY is tested where it is claimed.
pub(crate) fn features() -> &'static Value {
    static FOUND: OnceLock<Value> = OnceLock::new();
    FOUND.get_or_init(|| {
        let output = Bundle::new().runtime(&["features"]);
        if output.code == 0 { parse(&output.stdout) } else { Value::Null }
    })
}

/// Whether the list at `pointer` in the features document has this name.
pub(crate) fn claims(pointer: &str, name: &str) -> bool {
    let list = features().pointer(pointer).and_then(Value::as_array);
    list.is_some_and(|list| list.iter().any(|it| it == name))
}

/// Ends the test early unless the runtime claims this.
macro_rules! claimed {
    ($condition:expr, $what:expr) => {
        if !$condition {
            crate::oci::hosting::lacks(&format!("a runtime that claims to know {}", $what));
            return;
        }
    };
}
pub(crate) use claimed;

/// Whether the host has nothing but cgroup v2.
pub(crate) fn pure_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// Removes processes, control groups and mounts of a test whose runtime has failed to.
pub(super) fn sweep(id: &str, dir: &Path) {
    let mut groups = leak::groups(&[id.to_owned()]);
    groups.sort_by_key(|group| std::cmp::Reverse(group.as_os_str().len()));
    for group in &groups {
        let thaw = [("freezer.state", "THAWED"), ("cgroup.freeze", "0"), ("cgroup.kill", "1")];
        for (file, value) in thaw.iter().filter(|(file, _)| group.join(file).exists()) {
            let _best_effort = fs::write(group.join(file), value);
        }
        for pid in fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines() {
            let _gone = pid.parse().map(|pid| kill(Pid::from_raw(pid), Signal::SIGKILL));
        }
    }
    for group in groups {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(2);
        while fs::remove_dir(&group).is_err() && group.exists() && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
    }
    for line in leak::mounts_below(dir).iter().rev() {
        if let Some(target) = line.split(' ').nth(4) {
            let _best_effort = umount2(target, MntFlags::MNT_DETACH);
        }
    }
}
