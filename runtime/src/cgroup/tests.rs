//! What the resources of a bundle come to, in each version of cgroups.

use std::path::Path;

use super::*;
use crate::oci::spec::Resources;

const CONTROLLERS: [&str; 8] = ["memory", "cpu", "cpuset", "pids", "io", "hugetlb", "rdma", "misc"];

fn legacy() -> Layout {
    let legacy = Controller::ALL.map(|found| (found, Path::new("/c1").join(found.name())));
    Layout { unified: None, unified_controllers: Vec::new(), legacy: legacy.into() }
}

fn unified() -> Layout {
    let unified_controllers = CONTROLLERS.map(str::to_owned).into();
    Layout { unified: Some("/c2".into()), unified_controllers, legacy: Vec::new() }
}

fn plan(layout: &Layout, json: &str) -> Result<Plan, String> {
    let resources: Resources = serde_json::from_str(json).expect("resources");
    let path = CgroupsPath::parse(Some("/a/b"), "b", Manager::Files).expect("a path");
    Plan::of_spec(&path, layout, Some(&resources), false).map_err(|error| error.to_string())
}

fn shown(plan: Result<Plan, String>) -> String {
    let plan = match plan {
        Ok(plan) => plan,
        Err(error) => return error,
    };
    let line = |write: &Write| {
        let (file, value) = &write.files[0];
        format!("{file}{}{value}", if write.required { "=" } else { "~" })
    };
    let writes = plan.joins.iter().flat_map(|join| &join.writes).chain(&plan.writes);
    writes.map(line).collect::<Vec<_>>().join(" ")
}

/// The lines for these resources: `file=value`, and with `~` where a host may lack the file.
#[track_caller]
fn check(json: &str, in_legacy: &str, in_unified: &str) {
    assert_eq!(shown(plan(&legacy(), json)), in_legacy, "v1: {json}");
    assert_eq!(shown(plan(&unified(), json)), in_unified, "v2: {json}");
}

#[test]
fn beside_v1_only_what_is_asked_for_is_switched_on() {
    let has_memory = |(controller, _): &(Controller, _)| *controller != Controller::Hugetlb;
    let left = vec!["hugetlb".into()];
    let legacy = legacy().legacy.into_iter().filter(has_memory).collect();
    let hybrid = Layout { unified_controllers: left, legacy, ..unified() };
    let pages = r#"{"hugepageLimits":[{"pageSize":"2MB","limit":0}]}"#;
    let none = r#"{"memory":{"limit":100}}"#;
    for (layout, json, expected) in [
        (&unified(), none, Enable::All),
        (&hybrid, none, Enable::default()),
        (&hybrid, pages, Enable::These(vec!["hugetlb"])),
        (&hybrid, r#"{"unified":{"hugetlb.2MB.max":"0"}}"#, Enable::These(vec!["hugetlb"])),
    ] {
        assert_eq!(plan(layout, json).expect("a plan").enable, expected, "{json}");
    }
}

#[test]
fn memory_has_the_words_of_each_version() {
    check("{}", "", "");
    check(r#"{"memory":{"limit":0,"swap":0}}"#, "", "");
    check(r#"{"memory":{"limit":100}}"#, "memory.limit_in_bytes=100", "memory.max=100");
    check(
        r#"{"memory":{"limit":100,"swap":150,"reservation":50}}"#,
        "memory.limit_in_bytes=100 memory.memsw.limit_in_bytes=150 memory.soft_limit_in_bytes=50",
        "memory.max=100 memory.swap.max=50 memory.low=50",
    );
    check(
        r#"{"memory":{"limit":100,"swap":100}}"#,
        "memory.limit_in_bytes=100 memory.memsw.limit_in_bytes=100",
        "memory.max=100 memory.swap.max~0",
    );
    check(
        r#"{"memory":{"limit":-1}}"#,
        "memory.limit_in_bytes=-1 memory.memsw.limit_in_bytes~-1",
        "memory.max=max memory.swap.max~max",
    );
    check(
        r#"{"memory":{"limit":100,"swap":-1,"reservation":-1}}"#,
        "memory.limit_in_bytes=100 memory.memsw.limit_in_bytes~-1 memory.soft_limit_in_bytes=-1",
        "memory.max=100 memory.swap.max~max memory.low=max",
    );
}

#[test]
fn swap_must_go_with_memory_in_version_2() {
    check(
        r#"{"memory":{"swap":100}}"#,
        "memory.memsw.limit_in_bytes=100",
        "memory and swap cannot be limited without a limit of memory",
    );
    check(
        r#"{"memory":{"limit":100,"swap":50}}"#,
        "memory.limit_in_bytes=100 memory.memsw.limit_in_bytes=50",
        "memory and swap together (50) are less than memory alone (100)",
    );
}

#[test]
fn what_version_2_does_not_have_is_refused_there() {
    let check = |json: &str, in_legacy: &str, what: &str| {
        check(json, in_legacy, &format!("linux.resources.{what} cannot be had with cgroup v2"));
    };
    check(r#"{"memory":{"kernel":7}}"#, "memory.kmem.limit_in_bytes=7", "memory.kernel");
    check(r#"{"memory":{"kernelTCP":7}}"#, "memory.kmem.tcp.limit_in_bytes=7", "memory.kernelTCP");
    check(r#"{"memory":{"swappiness":60}}"#, "memory.swappiness=60", "memory.swappiness");
    check(r#"{"memory":{"swappiness":0}}"#, "memory.swappiness=0", "memory.swappiness");
    check(r#"{"memory":{"disableOOMKiller":true}}"#, "memory.oom_control=1", "memory.disableOOMKiller");
    check(r#"{"memory":{"useHierarchy":false}}"#, "memory.use_hierarchy=0", "memory.useHierarchy false");
    check(r#"{"cpu":{"realtimePeriod":9}}"#, "cpu.rt_period_us=9", "cpu.realtimePeriod");
    check(r#"{"cpu":{"realtimeRuntime":9}}"#, "cpu.rt_runtime_us=9", "cpu.realtimeRuntime");
    check(r#"{"blockIO":{"leafWeight":9}}"#, "blkio.leaf_weight=9", "blockIO.leafWeight");
    let leaf = r#"{"blockIO":{"weightDevice":[{"major":8,"minor":0,"leafWeight":9}]}}"#;
    check(leaf, "blkio.leaf_weight_device=8:0 9", "blockIO.leafWeight");
}

#[test]
fn what_asks_for_nothing_is_never_refused() {
    let json = r#"{"memory":{"kernel":0,"disableOOMKiller":false,"checkBeforeUpdate":true},"cpu":{"shares":0,"quota":0,"period":0,
        "realtimeRuntime":0,"realtimePeriod":0,"cpus":""},"pids":{"limit":0},"blockIO":{"weight":0,"leafWeight":0},
        "network":{"classID":0}}"#;
    check(json, "", "");
}

#[test]
fn cpu_has_the_words_of_each_version() {
    check(
        r#"{"cpu":{"shares":1024,"quota":50000,"period":100000,"burst":1000}}"#,
        "cpu.shares=1024 cpu.cfs_period_us=100000 cpu.cfs_quota_us=50000 cpu.cfs_burst_us=1000",
        "cpu.weight=39 cpu.max=50000 100000 cpu.max.burst=1000",
    );
    check(r#"{"cpu":{"quota":50000}}"#, "cpu.cfs_quota_us=50000", "cpu.max=50000");
    check(r#"{"cpu":{"quota":-1}}"#, "cpu.cfs_quota_us=-1", "cpu.max=max");
    check(r#"{"cpu":{"period":5000}}"#, "cpu.cfs_period_us=5000", "cpu.max=max 5000");
    check(r#"{"cpu":{"shares":2}}"#, "cpu.shares=2", "cpu.weight=1");
    check(r#"{"cpu":{"shares":262144}}"#, "cpu.shares=262144", "cpu.weight=10000");
    check(r#"{"cpu":{"idle":1}}"#, "cpu.idle=1", "cpu.idle=1");
    check(
        r#"{"cpu":{"cpus":"0-2,7","mems":"0"}}"#,
        "cpuset.cpus=0-2,7 cpuset.mems=0",
        "cpuset.cpus=0-2,7 cpuset.mems=0",
    );
}

#[test]
fn processes_have_the_same_words_in_both() {
    check(r#"{"pids":{"limit":32}}"#, "pids.max=32", "pids.max=32");
    check(r#"{"pids":{"limit":-1}}"#, "pids.max~max", "pids.max~max");
}

#[test]
fn block_devices_have_the_words_of_each_version() {
    check(r#"{"blockIO":{"weight":10}}"#, "blkio.weight=10", "io.bfq.weight=default 10");
    let layout = unified();
    let weight = plan(&layout, r#"{"blockIO":{"weight":1000}}"#).expect("a plan").writes.remove(0);
    assert_eq!(weight.files[1], ("io.weight".into(), "default 10000".to_owned()));
    check(
        r#"{"blockIO":{"weightDevice":[{"major":8,"minor":16,"weight":500}]}}"#,
        "blkio.weight_device=8:16 500",
        "io.bfq.weight=8:16 500",
    );
    check(
        r#"{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":600},{"major":8,"minor":1,"rate":0}],
            "throttleWriteIOPSDevice":[{"major":8,"minor":0,"rate":30}]}}"#,
        "blkio.throttle.read_bps_device=8:0 600\n8:1 0 blkio.throttle.write_iops_device=8:0 30",
        "io.max=8:0 rbps=600\n8:1 rbps=max io.max=8:0 wiops=30",
    );
}

#[test]
fn huge_pages_network_and_rdma_have_their_files() {
    check(
        r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#,
        "hugetlb.2MB.limit_in_bytes=4194304 hugetlb.2MB.rsvd.limit_in_bytes~4194304",
        "hugetlb.2MB.max=4194304 hugetlb.2MB.rsvd.max~4194304",
    );
    let refused = "\"../2MB\" is not a size of pages";
    check(r#"{"hugepageLimits":[{"pageSize":"../2MB","limit":1}]}"#, refused, refused);
    let rdma = "rdma.max=mlx5_1 hca_handle=3 hca_object=10000\nmlx5_2 hca_object=1";
    let json = r#"{"rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":10000},"mlx5_2":{"hcaObjects":1}}}"#;
    check(json, rdma, rdma);
    check(
        r#"{"network":{"classID":1048577,"priorities":[{"name":"lo","priority":3},{"name":"eth0","priority":1}]}}"#,
        "net_cls.classid=1048577 net_prio.ifpriomap=lo 3\neth0 1",
        "cannot limit net_cls: no cgroup controller net_cls on this host",
    );
}

#[test]
fn unified_resources_are_written_as_they_are_and_last() {
    check(
        r#"{"pids":{"limit":1},"unified":{"pids.max":"7","memory.high":"max","cgroup.max.depth":"1"}}"#,
        "unified resources need cgroup v2, which this host has not mounted",
        "pids.max=1 cgroup.max.depth=1 memory.high=max pids.max=7",
    );
    let on_unified = |json: &str| shown(plan(&unified(), json));
    let error = |name: &str| format!("unified resource {name:?} is not a file of a cgroup");
    assert_eq!(on_unified(r#"{"unified":{"../x/pids.max":"7"}}"#), error("../x/pids.max"));
    assert_eq!(on_unified(r#"{"unified":{"..":"7"}}"#), error(".."));
    assert_eq!(on_unified(r#"{"unified":{"pids":"7"}}"#), error("pids"));
    assert_eq!(
        on_unified(r#"{"unified":{"dmem.max":"7"}}"#),
        "unified resource dmem.max: this host's cgroup v2 has no controller dmem"
    );
}

#[test]
fn a_bundle_joins_every_hierarchy() {
    let plan = plan(&legacy(), "{}").expect("a plan");
    assert_eq!(plan.joins.len(), Controller::ALL.len());
    assert_eq!(plan.paths().legacy[&Controller::Pids], Path::new("/c1/pids/a/b"));
    assert!(matches!(plan.devices, Devices::Only(_)) && plan.reuse && !plan.optional);
}

#[test]
fn a_user_does_without_cgroups_unless_something_is_asked_of_them() {
    let path = CgroupsPath::parse(None, "b", Manager::Files).expect("a path");
    let plan = |json: &str| {
        let resources: Resources = serde_json::from_str(json).expect("resources");
        Plan::of_spec(&path, &unified(), Some(&resources), true).expect("a plan")
    };
    let free = plan(r#"{"devices":[{"allow":false,"access":"rwm"}]}"#);
    assert!(free.optional && free.devices == Devices::All);
    assert!(!plan(r#"{"pids":{"limit":9}}"#).optional);
}
