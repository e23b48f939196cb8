//! What is checked in the machine. A check is a sentence and a function; it leaves nothing behind.

use std::fs;

use anyhow::{Context, Result, ensure};

type Check = (&'static str, fn() -> Result<()>);

/// In the order of running.
pub(crate) const ALL: &[Check] = &[("the_machine_has_pure_cgroup_v2", pure_cgroup_v2)];

/// The premise of all the others.
fn pure_cgroup_v2() -> Result<()> {
    let mounts = text("/proc/self/mountinfo")?;
    let version_1 = mounts.lines().find(|line| line.contains(" - cgroup "));
    ensure!(version_1.is_none(), "cgroup v1 is mounted: {version_1:?}");
    let enabled = text("/sys/fs/cgroup/cgroup.subtree_control")?;
    for controller in ["cpu", "cpuset", "io", "memory", "pids"] {
        ensure!(
            enabled.split_whitespace().any(|name| name == controller),
            "{controller} is not among {enabled:?}"
        );
    }
    Ok(())
}

fn text(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {path}"))
}
