//! The facts about the host without which a figure means nothing.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

/// Lines for the head of a report: kernel, clock tick, processors, mounts, cgroups, load, versions of `tools`.
pub fn describe(tools: &[(&str, &str)]) -> Result<Vec<String>> {
    let read = |path: &str| fs::read_to_string(path).with_context(|| format!("read {path}"));
    let cpuinfo = read("/proc/cpuinfo")?;
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let mut lines = vec![
        format!("kernel: {}, HZ {}", read("/proc/sys/kernel/osrelease")?.trim(), tick()),
        format!(
            "CPU: {} × {}",
            cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            model.map_or("unknown", |(_, name)| name)
        ),
        format!("mounts in the host's namespace: {}", read("/proc/self/mounts")?.lines().count()),
        format!("cgroups: {}", cgroups(&read("/proc/self/mounts")?)),
        format!("load average at the start: {}", read("/proc/loadavg")?.trim()),
    ];
    for (tool, argument) in tools {
        lines.push(version(tool, argument).unwrap_or_else(|| format!("{tool}: not installed")));
    }
    Ok(lines)
}

/// Now in UTC, as `2026-11-21`.
pub fn date() -> Result<String> {
    let output = Command::new("date").args(["-u", "+%F"]).output().context("run date")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// `CONFIG_HZ` of the running kernel.
fn tick() -> String {
    let config = Command::new("zcat").arg("/proc/config.gz").output();
    let text = config.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("CONFIG_HZ="));
    line.map_or_else(|| "unknown".to_owned(), str::to_owned)
}

fn cgroups(mounts: &str) -> &'static str {
    let has = |kind: &str| mounts.lines().any(|line| line.split(' ').nth(2) == Some(kind));
    match (has("cgroup"), has("cgroup2")) {
        (true, true) => "hybrid (v1 controllers, v2 beside them)",
        (true, false) => "v1",
        (false, true) => "v2",
        (false, false) => "none",
    }
}

/// The first line of what `tool` says of its version.
fn version(tool: &str, argument: &str) -> Option<String> {
    let output = Command::new(tool).arg(argument).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next()?.trim();
    Some(if line.contains(tool) { line.to_owned() } else { format!("{tool}: {line}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_of_a_report_names_kernel_and_processor() {
        let lines = describe(&[("no-such-tool", "--version")]).unwrap();
        assert!(lines[0].starts_with("kernel: ") && lines[1].starts_with("CPU: "));
        assert_eq!(lines.last().unwrap(), "no-such-tool: not installed");
    }

    #[test]
    fn cgroup_mounts_tell_the_hierarchies() {
        let (one, two) = ("cgroup /c/cpu cgroup rw 0 0\n", "cgroup2 /c cgroup2 rw 0 0\n");
        assert_eq!([cgroups(""), cgroups(two)], ["none", "v2"]);
        assert!(cgroups(&format!("{one}{two}")).starts_with("hybrid") && cgroups(one) == "v1");
    }
}
