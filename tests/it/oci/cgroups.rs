//! config-linux.md: control groups. On a host with cgroup v1 the files of v1 are looked at, on one with v2 alone those of v2.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::Bundle;
use super::hosting::{self, lacks};
use crate::harness::v1;

/// A file of a container's group: the controller, the file, and what it must say.
type File<'a> = (&'a str, &'a str, &'a str);

/// Starts a container with these resources and returns what `file` of its group says, if this host has such a file.
fn read(resources: &[(&str, Value)], files: &[(&str, &str)]) -> Option<Vec<String>> {
    let mut bundle = Bundle::new();
    for (pointer, value) in resources {
        bundle.set(&format!("/linux/resources/{pointer}"), value.clone());
    }
    let groups: Option<Vec<PathBuf>> =
        files.iter().map(|(controller, _)| hosting::group(controller, &bundle.id)).collect();
    let groups = groups?;
    bundle.wait_ready(&["/bin/probe", "wait"]);
    let paths = groups.iter().zip(files).map(|(group, (_, file))| group.join(file));
    let texts = paths.map(|path| match fs::read_to_string(&path) {
        Ok(text) => Some(text.trim().to_owned()),
        Err(_) if path.parent().is_some_and(Path::exists) => None,
        Err(error) => panic!("{}: {error}", path.display()),
    });
    let texts = texts.collect();
    bundle.end();
    texts
}

/// Asserts that these resources make the group's files say this.
#[track_caller]
fn check(resources: &[(&str, Value)], first: &[File<'_>], second: &[File<'_>]) {
    let expected = if hosting::pure_v2() { second } else { first };
    if expected.is_empty() {
        return lacks("cgroup v1");
    }
    let files: Vec<(&str, &str)> =
        expected.iter().map(|(controller, file, _)| (*controller, *file)).collect();
    match read(resources, &files) {
        Some(texts) => {
            for (text, (_, file, expected)) in texts.iter().zip(expected) {
                let found = text == expected || text.lines().any(|line| line == *expected);
                assert!(found, "{file}: {text:?}, not {expected:?}");
            }
        }
        None => lacks("a kernel with such a file of control groups"),
    }
}

macro_rules! resources {
    ($($name:ident: $resources:expr => $first:expr, $second:expr;)*) => {
        $(#[test]
        fn $name() {
            check(&$resources, &$first, &$second);
        })*
    };
}

resources! {
    memory_limit: [("memory/limit", json!(67_108_864))] =>
        [("memory", "memory.limit_in_bytes", "67108864")], [("memory", "memory.max", "67108864")];
    memory_without_limit: [("memory/limit", json!(-1))] =>
        [("memory", "memory.limit_in_bytes", "9223372036854771712")], [("memory", "memory.max", "max")];
    memory_reservation: [("memory/reservation", json!(33_554_432))] =>
        [("memory", "memory.soft_limit_in_bytes", "33554432")], [("memory", "memory.low", "33554432")];
    memory_and_swap: [("memory/limit", json!(67_108_864)), ("memory/swap", json!(134_217_728))] =>
        [("memory", "memory.limit_in_bytes", "67108864"), ("memory", "memory.memsw.limit_in_bytes", "134217728")],
        [("memory", "memory.max", "67108864"), ("memory", "memory.swap.max", "67108864")];
    memory_without_swap: [("memory/limit", json!(67_108_864)), ("memory/swap", json!(67_108_864))] =>
        [("memory", "memory.memsw.limit_in_bytes", "67108864")], [("memory", "memory.swap.max", "0")];
    memory_with_unlimited_swap: [("memory/limit", json!(67_108_864)), ("memory/swap", json!(-1))] =>
        [("memory", "memory.memsw.limit_in_bytes", "9223372036854771712")], [("memory", "memory.swap.max", "max")];
    memory_swappiness: [("memory/swappiness", json!(33))] => [("memory", "memory.swappiness", "33")], [];
    memory_of_tcp: [("memory/kernelTCP", json!(16_777_216))] =>
        [("memory", "memory.kmem.tcp.limit_in_bytes", "16777216")], [];
    memory_without_oom_killer: [("memory/disableOOMKiller", json!(true))] =>
        [("memory", "memory.oom_control", "oom_kill_disable 1")], [];
    memory_with_oom_killer: [("memory/disableOOMKiller", json!(false))] =>
        [("memory", "memory.oom_control", "oom_kill_disable 0")], [];
    cpu_shares: [("cpu/shares", json!(512))] => [("cpu", "cpu.shares", "512")], [];
    cpu_quota_and_period: [("cpu/quota", json!(20_000)), ("cpu/period", json!(50_000))] =>
        [("cpu", "cpu.cfs_quota_us", "20000"), ("cpu", "cpu.cfs_period_us", "50000")],
        [("cpu", "cpu.max", "20000 50000")];
    cpu_period_alone: [("cpu/period", json!(40_000))] =>
        [("cpu", "cpu.cfs_period_us", "40000"), ("cpu", "cpu.cfs_quota_us", "-1")], [("cpu", "cpu.max", "max 40000")];
    cpu_burst: [("cpu/quota", json!(20_000)), ("cpu/period", json!(50_000)), ("cpu/burst", json!(10_000))] =>
        [("cpu", "cpu.cfs_burst_us", "10000")], [("cpu", "cpu.max.burst", "10000")];
    cpu_for_real_time: [("cpu/realtimeRuntime", json!(10_000)), ("cpu/realtimePeriod", json!(900_000))] =>
        [("cpu", "cpu.rt_runtime_us", "10000"), ("cpu", "cpu.rt_period_us", "900000")], [];
    cpu_idle: [("cpu/idle", json!(1))] => [("cpu", "cpu.idle", "1")], [("cpu", "cpu.idle", "1")];
    cpu_set: [("cpu/cpus", json!("0")), ("cpu/mems", json!("0"))] =>
        [("cpuset", "cpuset.cpus", "0"), ("cpuset", "cpuset.mems", "0")],
        [("cpuset", "cpuset.cpus", "0"), ("cpuset", "cpuset.mems", "0")];
    pids_limit: [("pids/limit", json!(77))] => [("pids", "pids.max", "77")], [("pids", "pids.max", "77")];
}

/// The numbers of a disk of this host.
fn disk() -> Option<(u64, u64)> {
    let disks = fs::read_dir("/sys/block").ok()?.flatten();
    let numbers = |entry: fs::DirEntry| {
        let text = fs::read_to_string(entry.path().join("dev")).ok()?;
        let (major, minor) = text.trim().split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    disks.filter_map(numbers).next()
}

/// Asserts that a rate for a disk arrives: in the file of v1, and as this word of `io.max`.
#[track_caller]
fn check_rate(property: &str, first: &str, second: &str) {
    let Some((major, minor)) = disk() else { return lacks("a disk") };
    let rate = json!([{ "major": major, "minor": minor, "rate": 1_048_576 }]);
    let (controller, file) = if hosting::pure_v2() { ("io", "io.max") } else { ("blkio", first) };
    let Some(texts) = read(&[(&format!("blockIO/{property}"), rate)], &[(controller, file)]) else {
        return lacks("a kernel that limits the use of disks");
    };
    let line =
        texts[0].lines().find(|line| line.starts_with(&format!("{major}:{minor} "))).unwrap_or_default();
    let expected = if hosting::pure_v2() { format!("{second}=1048576") } else { "1048576".into() };
    assert!(line.split(' ').any(|word| word == expected), "{file}: {:?}", texts[0]);
}

#[test]
fn block_io_bytes_read() {
    check_rate("throttleReadBpsDevice", "blkio.throttle.read_bps_device", "rbps");
}

#[test]
fn block_io_bytes_written() {
    check_rate("throttleWriteBpsDevice", "blkio.throttle.write_bps_device", "wbps");
}

#[test]
fn block_io_operations_read() {
    check_rate("throttleReadIOPSDevice", "blkio.throttle.read_iops_device", "riops");
}

#[test]
fn block_io_operations_written() {
    check_rate("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", "wiops");
}

#[test]
fn block_io_weight() {
    // Which of the files there is depends on the kernel's schedulers; the probe makes a group to see.
    let Some(parent) = hosting::group(if hosting::pure_v2() { "io" } else { "blkio" }, "/") else {
        return lacks("a controller for disks");
    };
    let probe = parent.join(format!("weight-{}", std::process::id()));
    fs::create_dir(&probe).expect("make a control group");
    let file = ["blkio.bfq.weight", "blkio.weight", "io.bfq.weight"]
        .into_iter()
        .find(|file| probe.join(file).exists());
    fs::remove_dir(&probe).expect("remove the control group");
    let Some(file) = file else { return lacks("a scheduler that weighs") };
    let controller = if hosting::pure_v2() { "io" } else { "blkio" };
    // A runtime need not know all schedulers, if it says so.
    if Bundle::with([("/linux/resources/blockIO/weight", json!(321))]).try_create(&[]).code != 0 {
        return lacks("a runtime that knows this kernel's scheduler of disks");
    }
    let texts = read(&[("blockIO/weight", json!(321))], &[(controller, file)]).expect("the file was there");
    assert!(
        texts[0].lines().any(|line| line.trim_start_matches("default ") == "321"),
        "{file}: {:?}",
        texts[0]
    );
}

#[test]
fn huge_page_limits() {
    let page = "2MB";
    let Some(root) = hosting::group("hugetlb", "/") else { return lacks("the hugetlb controller") };
    let names = if v1("hugetlb") { ["rsvd.limit_in_bytes", "limit_in_bytes"] } else { ["rsvd.max", "max"] };
    let probe = root.join(format!("pages-{}", std::process::id()));
    fs::create_dir(&probe).expect("make a control group");
    let files = names.map(|name| format!("hugetlb.{page}.{name}"));
    let file = files.into_iter().find(|file| probe.join(file).exists());
    fs::remove_dir(&probe).expect("remove the control group");
    let Some(file) = file else { return lacks("huge pages of 2 MB") };
    let limits = json!([{ "pageSize": page, "limit": 4_194_304 }]);
    assert_eq!(read(&[("hugepageLimits", limits)], &[("hugetlb", &file)]), Some(vec!["4194304".into()]));
}

#[test]
fn the_limit_on_processes_is_effective() {
    let Some(_) = hosting::group("pids", "/") else { return lacks("the pids controller") };
    let mut bundle = Bundle::with([("/linux/resources/pids", json!({ "limit": 6 }))]);
    assert_eq!(bundle.args(&["/bin/probe", "forks", "20"]).run(), "5 EAGAIN\n");
}

#[test]
fn the_limit_on_memory_is_effective() {
    let Some(_) = hosting::group("memory", "/") else { return lacks("the memory controller") };
    let limits = json!({ "limit": 33_554_432, "swap": 33_554_432 });
    let mut bundle = Bundle::with([("/linux/resources/memory", limits)]);
    assert_eq!(bundle.args(&["/bin/probe", "eat-child", "64"]).run(), "killed by SIGKILL\n");
}

#[test]
fn a_value_that_the_kernel_refuses_is_an_error() {
    for (pointer, value) in [
        ("cpu", json!({ "cpus": "4095" })),
        ("cpu", json!({ "quota": 20_000, "period": 5 })),
        ("memory", json!({ "limit": 67_108_864, "swap": 1_048_576 })),
    ] {
        Bundle::with([(&format!("/linux/resources/{pointer}")[..], value)]).create_fails();
    }
}

#[test]
fn a_controller_that_is_not_there_is_an_error() {
    if v1("net_cls") || v1("net_cls,net_prio") {
        return lacks("the lack of net_cls");
    }
    Bundle::with([("/linux/resources/network", json!({ "classID": 1_048_577 }))]).create_fails();
}

#[test]
fn a_limit_on_rdma_without_its_controller_is_an_error() {
    if hosting::group("rdma", "/").is_some() {
        return lacks("the lack of the rdma controller");
    }
    Bundle::with([("/linux/resources/rdma", json!({ "mlx5_1": { "hcaHandles": 3 } }))]).create_fails();
}

#[test]
fn unified_settings_are_written() {
    if !hosting::pure_v2() {
        return lacks("cgroup v2 with controllers");
    }
    let settings = json!({ "memory.high": "50331648", "pids.max": "55", "cgroup.max.descendants": "9" });
    let files = [("memory", "memory.high"), ("pids", "pids.max"), ("pids", "cgroup.max.descendants")];
    let texts = read(&[("unified", settings)], &files).expect("the files are there");
    assert_eq!(texts, ["50331648", "55", "9"]);
}

#[test]
fn unified_settings_of_a_controller_that_is_not_there_are_an_error() {
    let name = if hosting::pure_v2() { "nosuch.max" } else { "memory.high" };
    Bundle::with([("/linux/resources/unified", json!({ name: "1048576" }))]).create_fails();
}

/// The groups of a process, by controller.
fn groups_of(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its groups")
}

#[test]
fn an_absolute_path_is_below_the_mount_point() {
    let mut bundle = Bundle::with([("/linux/resources/pids", json!({ "limit": 50 }))]);
    let Some(group) = hosting::group("pids", &bundle.id) else { return lacks("the pids controller") };
    let pid = bundle.wait_ready(&["/bin/probe", "wait"]);
    let members = fs::read_to_string(group.join("cgroup.procs")).expect("its members");
    assert!(members.lines().any(|line| line == pid.to_string()), "{members}");
    let groups = groups_of(pid);
    assert!(groups.lines().any(|line| line.ends_with(&format!(":/{}", bundle.id))), "{groups}");
    bundle.end();
}

/// A group on the host in all hierarchies, removed with everything in it when it is dropped.
#[derive(Debug)]
struct Parent(String);

impl Parent {
    fn new(name: &str) -> Self {
        Self(format!("oci-parent-{name}-{}", std::process::id()))
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        let groups = crate::harness::leak::groups(std::slice::from_ref(&self.0));
        groups.iter().for_each(|group| remove_tree(group));
    }
}

/// Removes a control group and those below it.
fn remove_tree(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    fs::remove_dir(group).unwrap_or_else(|e| println!("remove {}: {e}", group.display()));
}

#[test]
fn an_absolute_path_may_be_deep() {
    let parent = Parent::new("deep");
    let mut bundle = Bundle::with([("/linux/resources/pids", json!({ "limit": 50 }))]);
    let path = format!("/{}/below/{}", parent.0, bundle.id);
    let Some(group) = hosting::group("pids", &path) else { return lacks("the pids controller") };
    bundle.set("/linux/cgroupsPath", json!(path)).wait_ready(&["/bin/probe", "wait"]);
    assert!(group.exists());
    bundle.end();
    assert!(!group.exists());
}

#[test]
fn a_relative_path_is_taken() {
    let mut bundle = Bundle::new();
    let path = bundle.id.clone();
    bundle.set("/linux/cgroupsPath", json!(path)).args(&["/bin/echo", "alive"]);
    assert_eq!(bundle.run(), "alive\n");
}

#[test]
fn the_path_may_be_left_out() {
    let mut bundle = Bundle::new();
    bundle.config["linux"].as_object_mut().expect("an object").remove("cgroupsPath");
    assert_eq!(bundle.args(&["/bin/echo", "alive"]).run(), "alive\n");
}

#[test]
fn resources_may_be_left_out() {
    let mut bundle = Bundle::new();
    bundle.config["linux"].as_object_mut().expect("an object").remove("resources");
    assert_eq!(bundle.args(&["/bin/echo", "alive"]).run(), "alive\n");
}

#[test]
fn delete_keeps_a_group_that_was_there_before() {
    let parent = Parent::new("kept");
    let path = format!("/{}/own", parent.0);
    let mut bundle = Bundle::with([("/linux/cgroupsPath", json!(path))]);
    let Some(group) = hosting::group("pids", &path) else { return lacks("the pids controller") };
    fs::create_dir_all(&group).expect("make a control group");
    bundle.set("/linux/resources/pids", json!({ "limit": 50 })).args(&["/bin/true"]).run();
    assert!(group.exists(), "it was removed");
}

#[test]
fn the_group_is_not_writable_inside() {
    let mount = json!({
        "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
        "options": ["nosuid", "noexec", "nodev", "relatime", "ro"],
    });
    let mut bundle = Bundle::new();
    let path = if hosting::pure_v2() { "/sys/fs/cgroup/new" } else { "/sys/fs/cgroup/pids/new" };
    assert_eq!(bundle.mount(mount).attempt(&["mkdir", path]), ["EROFS"]);
}

#[test]
fn the_groups_can_be_mounted_inside() {
    let mount = json!({
        "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
        "options": ["nosuid", "noexec", "nodev", "relatime", "ro"],
    });
    let mut bundle = Bundle::with([("/linux/resources/pids", json!({ "limit": 44 }))]);
    let Some(_) = hosting::group("pids", "/") else { return lacks("the pids controller") };
    let path = if hosting::pure_v2() { "/sys/fs/cgroup/pids.max" } else { "/sys/fs/cgroup/pids/pids.max" };
    assert_eq!(bundle.mount(mount).attempt(&["read", path]), ["44"]);
}
