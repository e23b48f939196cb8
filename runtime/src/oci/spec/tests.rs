use super::super::json;
use super::*;

fn read(text: &str) -> Spec {
    json::read(text).expect(text)
}

#[test]
fn what_is_null_is_absent_and_what_is_unknown_passes() {
    assert_eq!(read("{}"), Spec::default());
    let text = r#"{"ociVersion":null,"root":null,"mounts":null,"process":null,"hooks":null,"annotations":null,
        "linux":null,"hostname":null,"windows":{"a":[1,{}]},"solaris":null}"#;
    assert_eq!(read(text), Spec::default());
    let spec = read(r#"{"linux":{"namespaces":null,"resources":{"memory":{"limit":null},"devices":null}}}"#);
    let linux = spec.linux.expect("linux");
    assert_eq!(linux.resources.expect("resources").memory, Some(Memory::default()));
}

#[test]
fn names_are_those_of_the_specification() {
    let text = r#"{"process":{"execCPUAffinity":{"initial":"0","final":"1"},"ioPriority":{"class":"c","priority":3}},
        "linux":{"uidMappings":[{"containerID":1,"hostID":2,"size":3}],"cgroupsPath":"/x",
        "resources":{"blockIO":{"throttleReadIOPSDevice":[{"major":1,"minor":2,"rate":3}],
        "throttleWriteBpsDevice":[{"rate":4}]},"memory":{"kernelTCP":5,"disableOOMKiller":true},
        "network":{"classID":6}},"intelRdt":{"closID":"a","l3CacheSchema":"b","memBwSchema":"c","enableCMT":true}}}"#;
    let spec = read(text);
    let process = spec.process.expect("process");
    assert_eq!(process.exec_cpu_affinity.expect("affinity").r#final, "1");
    let linux = spec.linux.expect("linux");
    assert_eq!(linux.uid_mappings, [IdMapping { container_id: 1, host_id: 2, size: 3 }]);
    assert_eq!(linux.cgroups_path, "/x");
    let resources = linux.resources.expect("resources");
    let block = resources.block_io.expect("blockIO");
    assert_eq!(block.throttle_read_iops_device[0].rate, 3);
    assert_eq!(block.throttle_write_bps_device[0].rate, 4);
    let memory = resources.memory.expect("memory");
    assert_eq!((memory.kernel_tcp, memory.disable_oom_killer), (Some(5), Some(true)));
    assert_eq!(resources.network.expect("network").class_id, Some(6));
    let rdt = linux.intel_rdt.expect("intelRdt");
    assert_eq!(
        (&*rdt.clos_id, &*rdt.l3_cache_schema, &*rdt.mem_bw_schema, rdt.enable_cmt),
        ("a", "b", "c", true)
    );
}

#[test]
fn a_state_is_written_and_read_as_the_specification_has_it() {
    let state = State {
        oci_version: "1.2.0".into(),
        id: "x".into(),
        status: Status::Creating,
        pid: None,
        bundle: "/b".into(),
        annotations: BTreeMap::new(),
    };
    let text = serde_json::to_string(&state).expect("a state can be written");
    assert_eq!(text, r#"{"ociVersion":"1.2.0","id":"x","status":"creating","bundle":"/b"}"#);
    assert_eq!(serde_json::from_str::<State>(&text).expect("a state can be read"), state);
    let other: oci_spec::runtime::State = serde_json::from_str(&text).expect("others can read it");
    assert_eq!((other.id().as_str(), other.pid()), ("x", &None));
}

/// What oci-spec writes, with every field that it has, is read to the same values.
#[test]
fn another_writers_document_is_read() {
    let text = serde_json::to_string(&oci_spec::runtime::Spec::default()).expect("it can be written");
    let spec = read(&text);
    let process = spec.process.expect("process");
    assert_eq!((process.args, process.cwd.as_str()), (vec!["sh".to_owned()], "/"));
    assert_eq!(spec.mounts.len(), oci_spec::runtime::get_default_mounts().len());
    let linux = spec.linux.expect("linux");
    assert_eq!(linux.namespaces.len(), oci_spec::runtime::get_default_namespaces().len());
    assert_eq!(linux.masked_paths, oci_spec::runtime::get_default_maskedpaths());
}
