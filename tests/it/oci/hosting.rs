//! The host as the tests see it: control groups, and clearing up what a runtime has left.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::Bundle;
use crate::harness::{leak, parse, v1};

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
    println!("skip: needs {what}");
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
