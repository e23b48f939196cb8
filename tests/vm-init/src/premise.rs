//! What must hold of the machine for the results of the suite to mean anything.

use std::fs;

use anyhow::{Context, Result};

use crate::Verdict;

const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

/// Pure cgroup v2 with every controller handed down – by systemd to whoever asks –, and type information for the eBPF
/// programs.
pub(crate) fn check(with_systemd: bool) -> Result<Vec<(String, Verdict)>> {
    let mounts = text("/proc/self/mountinfo")?;
    let version_1 = mounts.lines().find(|line| line.contains(" - cgroup "));
    let file = if with_systemd { "cgroup.controllers" } else { "cgroup.subtree_control" };
    let enabled = text(&format!("/sys/fs/cgroup/{file}"))?;
    let lacking: Vec<&str> = CONTROLLERS
        .iter()
        .filter(|name| !enabled.split_whitespace().any(|on| on == **name))
        .copied()
        .collect();
    Ok(vec![
        verdict("the_machine_has_no_cgroup_v1", version_1.is_none(), || format!("mounted: {version_1:?}")),
        verdict("every_controller_is_enabled", lacking.is_empty(), || {
            format!("without {}", lacking.join(", "))
        }),
        verdict("the_kernel_has_type_information", fs::metadata("/sys/kernel/btf/vmlinux").is_ok(), || {
            "no /sys/kernel/btf/vmlinux".to_owned()
        }),
    ])
}

fn verdict(name: &str, holds: bool, why: impl Fn() -> String) -> (String, Verdict) {
    (name.to_owned(), if holds { Verdict::Pass } else { Verdict::Fail(why()) })
}

fn text(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {path}"))
}
