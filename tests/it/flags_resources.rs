//! Limits: what the host's control groups say, and what happens to those who reach for more.

use crate::harness::{Case, need, v1};

/// Asserts that a container with these flags has `value` in the file of this name: first cgroup v2's, then v1's.
#[track_caller]
fn check(flags: &[&str], expected: &[(&str, &str)]) {
    let case = Case::new();
    let files = case.control_files(flags);
    let matches = |(file, value): &(&str, &str)| files.get(*file).is_some_and(|text| text == value);
    let present: Vec<_> = expected.iter().filter_map(|(file, _)| Some((file, files.get(*file)?))).collect();
    assert!(expected.iter().any(matches), "{flags:?}: {expected:?}, but {present:?}");
}

#[test]
fn memory_is_limited() {
    check(&["-m", "64m"], &[("memory.max", "67108864"), ("memory.limit_in_bytes", "67108864")]);
    check(&["--memory=67108864b"], &[("memory.max", "67108864"), ("memory.limit_in_bytes", "67108864")]);
}

#[test]
fn memory_reservation_is_set() {
    let value = "33554432";
    check(&["--memory-reservation", "32m"], &[("memory.low", value), ("memory.soft_limit_in_bytes", value)]);
}

#[test]
fn memory_and_swap_are_limited_together() {
    let has_swap_accounting =
        std::path::Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists();
    need!(has_swap_accounting || !v1("memory"), "swap accounting");
    let expected = [("memory.swap.max", "33554432"), ("memory.memsw.limit_in_bytes", "100663296")];
    check(&["-m", "64m", "--memory-swap", "96m"], &expected);
    let twice = [("memory.swap.max", "67108864"), ("memory.memsw.limit_in_bytes", "134217728")];
    check(&["-m", "64m"], &twice);
}

#[test]
fn memory_limit_kills_the_hungry_child() {
    let case = Case::new();
    assert_eq!(case.run(&["-m", "64m"], &["probe", "eat-child", "32"]).ok(), "ate 32 MiB\nexited 0\n");
    let end = case.run(&["-m", "64m", "--memory-swap", "64m"], &["probe", "eat-child", "128"]).ok();
    assert_eq!(end, "killed by SIGKILL\n");
}

#[test]
fn memory_limit_kills_the_hungry_program_with_137() {
    let case = Case::new();
    let out = case.run(&["-m", "32m", "--memory-swap", "32m"], &["probe", "eat", "128"]);
    assert_eq!((out.code, out.stdout.as_str()), (137, ""));
}

#[test]
fn memory_limit_below_six_mib_is_refused() {
    let case = Case::new();
    case.run(&["-m", "5m"], &["true"]).fails(125, "6");
    case.run(&["-m", "lots"], &["true"]).fails(125, "lots");
    case.run(&["-m", "64m", "--memory-swap", "32m"], &["true"]).fails(125, "memory-swap");
}

#[test]
fn cpus_become_a_quota() {
    check(&["--cpus", "1.5"], &[("cpu.max", "150000 100000"), ("cpu.cfs_quota_us", "150000")]);
    check(
        &["--cpu-period=50000", "--cpu-quota=20000"],
        &[("cpu.max", "20000 50000"), ("cpu.cfs_quota_us", "20000")],
    );
    let case = Case::new();
    case.run(&["--cpus", "1", "--cpu-quota", "5000"], &["true"]).fails(125, "cpus");
    case.run(&["--cpus", "many"], &["true"]).fails(125, "many");
}

#[test]
fn cpu_quota_slows_a_spinning_program() {
    let case = Case::new();
    let used_ms: u64 =
        case.run(&["--cpus", "0.25"], &["probe", "burn", "1000"]).ok().trim().parse().expect("a number");
    // A quarter of the second, and up to one period's quota more at each end.
    assert!(used_ms <= 310, "{used_ms} ms of CPU in a second");
}

#[test]
fn cpu_shares_are_set() {
    // Version 2 has weights: 2..=262144 shares are mapped to 1..=10000.
    let case = Case::new();
    let files = case.control_files(&["--cpu-shares", "512"]);
    let weight = files.get("cpu.weight").and_then(|text| text.parse::<u32>().ok());
    let shares = files.get("cpu.shares").map(String::as_str);
    assert!(
        shares == Some("512") || weight.is_some_and(|weight| (15..=65).contains(&weight)),
        "{shares:?} {weight:?}"
    );
}

#[test]
fn cpuset_restricts_processors_and_memory_nodes() {
    let case = Case::new();
    let seen = case.see(&["--cpuset-cpus", "1", "--cpuset-mems", "0"]);
    assert_eq!(seen["status"]["Cpus_allowed_list"], "1");
    assert_eq!(seen["status"]["Mems_allowed_list"], "0");
    case.run(&["--cpuset-cpus", "4000"], &["true"]).fails(125, "4000");
    case.run(&["--cpuset-cpus", "a-b"], &["true"]).fails(125, "a-b");
}

#[test]
fn pids_are_limited() {
    check(&["--pids-limit", "100"], &[("pids.max", "100")]);
    let case = Case::new();
    assert_eq!(case.run(&["--pids-limit", "10"], &["probe", "forks", "20"]).ok(), "9 EAGAIN\n");
    assert_eq!(case.run(&["--pids-limit", "10"], &["probe", "threads", "20"]).ok(), "9 EAGAIN\n");
    assert_eq!(case.run(&["--pids-limit=-1"], &["probe", "forks", "20"]).ok(), "20 ok\n");
}

#[test]
fn blkio_weight_is_set_or_refused() {
    let case = Case::new();
    case.run(&["--blkio-weight", "5"], &["true"]).fails(125, "blkio-weight");
    let output = case.run(&["--blkio-weight", "300"], &["true"]);
    if output.code == 125 {
        return output.fails(125, "this kernel has no");
    }
    check(
        &["--blkio-weight", "300"],
        &[
            ("io.bfq.weight", "default 300"),
            // 1 to 10000 there, where Docker's flag has 10 to 1000.
            ("io.weight", "default 2930"),
            ("blkio.bfq.weight", "300"),
            ("blkio.weight", "300"),
        ],
    );
}

#[test]
fn shared_memory_has_the_size_asked_for() {
    let case = Case::new();
    assert_eq!(case.run(&[], &["probe", "fill", "/dev/shm/x", "64"]).ok(), "ok\n");
    assert_eq!(case.run(&[], &["probe", "fill", "/dev/shm/x", "65"]).ok(), "ENOSPC\n");
    assert_eq!(case.run(&["--shm-size", "2m"], &["probe", "fill", "/dev/shm/x", "3"]).ok(), "ENOSPC\n");
    assert_eq!(case.run(&["--shm-size=80m"], &["probe", "fill", "/dev/shm/x", "79"]).ok(), "ok\n");
}

#[test]
fn a_container_sees_its_own_control_groups_and_cannot_change_them() {
    let case = Case::new();
    let find = "find /sys/fs/cgroup -name memory.max -o -name memory.limit_in_bytes | head -1";
    let path = case.run(&["-m", "64m"], &["sh", "-c", find]).ok();
    let path = path.trim_end();
    need!(!path.is_empty(), "the memory controller inside");
    assert_eq!(case.run(&["-m", "64m"], &["cat", path]).ok(), "67108864\n");
    assert_eq!(case.attempt(&["-m", "64m"], &["open-w", path]), ["EROFS"]);
}
