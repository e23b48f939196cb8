//! What programs count that are pinned, in a mount namespace with a bpffs of its own.

use std::path::Path;

use nix::sys::signal::Signal;

use super::series::{find, value};
use super::{get, scrape, scraped_when};
use crate::harness::{Case, Live, Skiff, fixture, need, programs};
use crate::peers::world::eventually;

/// Starts a mount namespace without a bpffs, which ends with what is returned.
pub(super) fn namespace() -> Live {
    let setup = "while umount /sys/fs/bpf 2> /dev/null; do :; done; exec \"$0\" hold";
    let probe = programs::probe().display().to_string();
    let words = ["unshare", "--mount", "--propagation=private", "sh", "-c", setup, &probe];
    let mut first = Skiff::tool(&words).stdin_open().start();
    first.until("ready");
    first
}

#[test]
fn what_pinned_programs_count_is_told() {
    need!(Path::new("/sys/kernel/btf/vmlinux").exists(), "BTF");
    // Declared before the case: the daemon ends first.
    let first = namespace();
    let case = Case::with_daemon();
    let pid = first.pid().to_string();
    let enter = ["nsenter", "--mount", "--target", &pid, "--"];
    let skiff = |words: &[&str]| case.skiff(words).through(&enter);
    skiff(&["observe", "on", "syscalls,run-queue,block,net,tcp", "--slots", "4"]).output().ok();
    let at = skiff(&["version", "--format", "{{.Server.Metrics}}"])
        .env("SKIFF_METRICS", "127.0.0.1:0")
        .output()
        .ok();
    let at = at.trim();
    let script = "for i in 1 2 3 4 5; do busybox usleep 1000; done; echo x >/x; sync; exec probe trap";
    let cidfile = case.dir.join("cid.alone");
    let flag = format!("--cidfile={}", cidfile.display());
    let words = ["run", "--rm", &flag, fixture::small_root(), "sh", "-c", script];
    // By skiff alone: any engine's container is counted alike.
    let mut alone = skiff(&words).env("SKIFF_DAEMON", "off").start();
    assert!(eventually(|| std::fs::read_to_string(&cidfile).is_ok_and(|id| id.len() == 64)));
    let id = std::fs::read_to_string(&cidfile).expect("an id");
    // Before, it would not hear that it is to end.
    alone.until("ready");
    let name = [("name", id.as_str())];
    let has = |all: &[super::Series], figure: &str| {
        find(all, figure, &name).first().is_some_and(|one| one.value > 0.0)
    };
    let all = scraped_when(at, |all| {
        // Once it has slept five times.
        has(all, "skiff_container_system_calls_total")
            && has(all, "skiff_container_off_cpu_seconds_count")
            && value(all, "skiff_container_off_cpu_seconds_count", &name) >= 5.0
    });
    assert!(value(&all, "skiff_container_off_cpu_seconds_sum", &name) >= 0.005);
    for histogram in ["skiff_container_off_cpu_seconds", "skiff_container_run_queue_wait_seconds"] {
        let last = [("name", id.as_str()), ("le", "+Inf")];
        let count = value(&all, &format!("{histogram}_count"), &name);
        assert_eq!(value(&all, &format!("{histogram}_bucket"), &last), count, "{histogram}");
    }
    // Those that are counted, of those that can be on this kernel.
    let probes: Vec<&str> =
        find(&all, "skiff_observe_enabled", &[]).iter().map(|one| &*one.labels["probe"]).collect();
    assert_eq!(probes, ["syscalls", "run-queue", "block", "net", "tcp"]);
    assert_eq!(value(&all, "skiff_observe_slots", &[("state", "all")]), 4.0);
    assert!(value(&all, "skiff_observe_slots", &[("state", "taken")]) >= 1.0);
    assert_eq!(value(&all, "skiff_container_lost_events_total", &name), 0.0);
    let page = get(at, "/metrics", "*/*").body;
    if crate::harness::installed("promtool") {
        let lint = Skiff::tool(&["promtool", "check", "metrics"]).stdin(page.as_bytes()).output();
        assert_eq!((lint.code, lint.stdout.as_str(), lint.stderr.as_str()), (0, "", ""));
    }
    alone.signal(Signal::SIGTERM);
    alone.finish();
    // When they go, their series do.
    skiff(&["observe", "off"]).output().ok();
    scraped_when(at, |all| find(all, "skiff_container_system_calls_total", &[]).is_empty());
    assert!(find(&scrape(at), "skiff_observe_enabled", &[]).is_empty());
}
