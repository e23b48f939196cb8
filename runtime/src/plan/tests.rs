use std::ffi::OsString;
use std::path::PathBuf;

use super::files::shown;
use super::*;
use crate::cgroup::{Controller, Layout};
use crate::options::{Mount, Resources, Rootfs, Seccomp, Ulimit};
use crate::seccomp::Kernel;

fn host() -> Host {
    Host {
        state_root: "/state".into(),
        run_root: "/run/skiff".into(),
        uid: 0,
        gid: 0,
        caps: CapSet::all(40),
        last_cap: 40,
        kernel: Kernel(6, 12),
        nodename: "node".into(),
        cpus: 4,
        cgroups: Layout {
            unified: Some("/cg".into()),
            unified_controllers: vec!["memory".into(), "cpu".into(), "pids".into()],
            legacy: Vec::new(),
        },
        passwd: "root:x:0:0::/root:\nweb:x:33:33::/srv:\n".into(),
        group: "root:x:0:\nadm:x:4:web\n".into(),
        resolv_conf: "nameserver 192.0.2.1\n".into(),
        hosts: None,
        terminal: None,
        sources: Vec::new(),
        devices: Vec::new(),
        absent: Vec::new(),
        layers_hold_state: false,
        sub_ids: None,
        root_entries: Vec::new(),
        kcore: false,
        mqueue: true,
    }
}

fn options() -> Options {
    Options {
        id: "0123456789abcdef".repeat(4),
        rootfs: Rootfs::Layers(vec!["/top".into(), "/base".into()]),
        argv: vec!["sh".into()],
        ..Options::default()
    }
}

fn build(change: impl FnOnce(&mut Options, &mut Host)) -> Result<Plan, String> {
    let (mut options, mut host) = (options(), host());
    change(&mut options, &mut host);
    host.sources.resize(options.mounts.len(), None);
    Plan::build(&options, &host).map_err(|error| error.to_string())
}

fn plan(change: impl FnOnce(&mut Options, &mut Host)) -> Plan {
    build(change).expect("plan")
}

fn refused(change: impl FnOnce(&mut Options, &mut Host)) -> String {
    build(change).expect_err("refused")
}

fn env(plan: &Plan) -> Vec<String> {
    plan.process.env.iter().map(|entry| entry.to_string_lossy().into_owned()).collect()
}

#[test]
fn the_default_tree_is_dockers() {
    let plan = plan(|_, _| {});
    let expect = [
        "proc proc",
        "tmpfs dev",
        "devpts dev/pts",
        "sysfs sys",
        "cgroup2 sys/fs/cgroup",
        "mqueue dev/mqueue",
        "tmpfs dev/shm",
        "node /dev/null",
        "node /dev/zero",
        "node /dev/full",
        "node /dev/random",
        "node /dev/urandom",
        "node /dev/tty",
        "link dev/fd",
        "link dev/stdin",
        "link dev/stdout",
        "link dev/stderr",
        "link dev/ptmx",
        "files 3",
    ];
    assert_eq!(shown(&plan.steps), expect);
    assert!(plan.hide.contains(&Hide::Mask(c"proc/kcore".into())));
    assert!(plan.hide.contains(&Hide::ReadOnly(c"proc/sys".into())));
    assert_eq!(plan.root.upper, Upper::Disk);
    assert_eq!(self::plan(|options, _| options.is_kept = true).root.upper, Upper::Kept);
    assert_eq!(plan.hostname.as_deref(), Some(c"0123456789ab"));
}

#[test]
fn beside_version_1_each_joined_hierarchy_is_mounted() {
    let plan = plan(|options, host| {
        host.cgroups.unified_controllers.clear();
        host.cgroups.legacy = vec![(Controller::Memory, "/v1/memory".into())];
        options.resources = Resources { memory_bytes: Some(8 << 20), ..Resources::default() };
    });
    let shown = shown(&plan.steps);
    for expect in ["tmpfs sys/fs/cgroup", "cgroup2 sys/fs/cgroup/unified", "cgroup sys/fs/cgroup/memory"] {
        assert!(shown.iter().any(|step| step == expect), "{expect} in {shown:?}");
    }
}

#[test]
fn privileged_hides_nothing_and_keeps_every_capability() {
    let plan = plan(|options, host| {
        options.privileged = true;
        host.caps = CapSet(CapSet::all(40).0 & !CapSet::SYS_RESOURCE.0);
    });
    assert!(plan.hide.is_empty() && plan.process.seccomp.is_none());
    assert_eq!(plan.process.drop, [24]);
    assert_eq!(plan.cgroup.devices, Devices::All);
}

#[test]
fn a_mount_replaces_the_default_at_its_target() {
    let plan = plan(|options, _| {
        options.mounts =
            vec![Mount::Tmpfs { target: "/dev/shm".into(), options: vec!["size=1m".into(), "exec".into()] }];
    });
    let at_shm: Vec<&Step> = plan
        .steps
        .iter()
        .filter(
            |step| matches!(step, Step::Filesystem { target, .. } if target.path.as_c_str() == c"dev/shm"),
        )
        .collect();
    let [Step::Filesystem { options, flags, .. }] = at_shm[..] else { panic!("{at_shm:?}") };
    assert_eq!(options, &[FsOption::Value(c"size".into(), c"1m".into())]);
    assert_eq!(flags.set, Attr::NOSUID.with(Attr::NODEV));
}

#[test]
fn parents_are_mounted_before_what_lies_in_them() {
    let volume = |path: &str| Mount::Volume { target: path.into(), read_only: false };
    let plan = plan(|options, _| options.mounts = vec![volume("/a/b/c"), volume("/a"), volume("/x/y")]);
    let volumes: Vec<String> =
        shown(&plan.steps).into_iter().filter(|step| step.starts_with("volume")).collect();
    assert_eq!(volumes, ["volume a", "volume x/y", "volume a/b/c"]);
}

#[test]
fn impossible_mounts_are_refused() {
    let tmpfs = |path: &str| Mount::Tmpfs { target: path.into(), options: Vec::new() };
    let error = refused(|options, _| options.mounts = vec![tmpfs("/a"), tmpfs("/b/../a")]);
    assert_eq!(error, "duplicate mount point: /a");
    let error = refused(|options, _| options.mounts = vec![tmpfs("/..")]);
    assert_eq!(error, "cannot mount on the container's root");
}

#[test]
fn a_read_only_root_needs_no_writable_layer_if_nothing_is_missing() {
    let single = |options: &mut Options| {
        options.rootfs = Rootfs::Layers(vec!["/only".into()]);
        options.read_only = true;
    };
    assert_eq!(plan(|options, _| single(options)).root.upper, Upper::None);
    let missing = plan(|options, host| {
        single(options);
        host.absent = vec!["/proc".into()];
    });
    assert_eq!(missing.root.upper, Upper::Memory);
    assert_eq!(plan(|options, _| options.read_only = true).root.upper, Upper::Memory);
}

#[test]
fn the_hosts_root_keeps_writes_in_memory() {
    let plan = plan(|options, host| {
        options.rootfs = Rootfs::Host;
        host.layers_hold_state = true;
    });
    assert_eq!(plan.root.upper, Upper::Memory);
    assert_eq!(plan.root.layers, [PathBuf::from("/")]);
}

#[test]
fn the_environment_has_dockers_order_and_the_last_value() {
    let plan = plan(|options, _| {
        options.env = ["A=1", "PATH=/x", "A=2"].map(OsString::from).to_vec();
        options.user = "web".into();
        options.tty = true;
    });
    assert_eq!(env(&plan), ["PATH=/x", "HOSTNAME=0123456789ab", "TERM=xterm", "A=2", "HOME=/srv"]);
    assert_eq!(plan.process.path, [c"/x".to_owned()]);
    assert_eq!((plan.process.uid, plan.process.gid), (33, 33));
    assert_eq!(plan.process.groups.as_deref(), Some(&[33, 4][..]));
}

#[test]
fn without_root_there_is_a_user_namespace_and_no_device_filter() {
    let plan = plan(|_, host| {
        host.uid = 1000;
        host.gid = 1000;
    });
    assert!(plan.namespaces.contains(CloneFlags::CLONE_NEWUSER));
    let own = vec![IdRange { inside: 0, outside: 1000, count: 1 }];
    assert_eq!(plan.users, Some(Users { uids: own.clone(), gids: own, writer: MapWriter::OwnId }));
    assert_eq!(plan.cgroup.devices, Devices::All);
    assert_eq!(plan.process.groups, None);
}

#[test]
fn without_root_or_subordinate_ids_a_group_is_refused() {
    let refused = build(|options, host| {
        options.group_add = vec!["adm".into()];
        host.uid = 1000;
    });
    assert!(refused.is_err_and(|error| error.starts_with("--group-add needs root")));
}

#[test]
fn without_root_the_host_s_message_queues_are_bound_if_it_has_mounted_them() {
    let has_queues = |mqueue| {
        let plan = plan(|options, host| {
            options.ipc = Namespace::Host;
            host.uid = 1000;
            host.mqueue = mqueue;
        });
        shown(&plan.steps).contains(&"bind /dev/mqueue dev/mqueue".into())
    };
    assert!(has_queues(true) && !has_queues(false));
}

#[test]
fn without_root_files_that_the_host_lacks_are_left_out() {
    let plan = plan(|options, host| {
        options.rootfs = Rootfs::Host;
        host.uid = 1000;
        host.absent = vec!["/etc/hostname".into()];
    });
    assert!(shown(&plan.steps).contains(&"files 2".into()));
}

#[test]
fn a_host_namespace_is_not_made_anew() {
    let plan = plan(|options, _| {
        options.network = Namespace::Host;
        options.uts = Namespace::Host;
        options.cgroupns = Namespace::Host;
    });
    assert!(!plan.namespaces.intersects(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS));
    assert!(env(&plan).contains(&"HOSTNAME=node".into()));
    assert!(plan.hostname.is_none() && !plan.loopback && !plan.cgroup_namespace && plan.sysctls.is_empty());
}

#[test]
fn sysctls_stay_within_the_containers_namespaces() {
    let set = |key: &str| {
        let key = key.to_owned();
        move |options: &mut Options, _: &mut Host| options.sysctls = vec![(key, "1".into())]
    };
    let found = plan(set("net.ipv4.ip_forward"));
    assert!(found.sysctls.contains(&(c"net/ipv4/ip_forward".into(), c"1".into())));
    assert_eq!(refused(set("kernel.panic")), "sysctl kernel.panic is not in a namespace of the container");
    assert_eq!(refused(set("net.x/../../kernel.panic")), "invalid sysctl \"net.x/../../kernel.panic\"");
    let error = refused(|options, _| {
        options.network = Namespace::Host;
        options.sysctls = vec![("net.core.somaxconn".into(), "1".into())];
    });
    assert_eq!(error, "sysctl net.core.somaxconn is not allowed in the host's network namespace");
}

#[test]
fn what_cannot_be_honoured_is_refused() {
    assert_eq!(refused(|options, _| options.argv.clear()), "no command specified");
    assert_eq!(
        refused(|options, host| {
            options.cap_add = vec!["SYS_RESOURCE".into()];
            host.caps = CapSet::DOCKER;
        }),
        "cannot add capability SYS_RESOURCE: skiff does not have it itself"
    );
    assert_eq!(
        refused(|options, _| {
            options.ulimits = vec![Ulimit { name: "files".into(), soft: 1, hard: 1 }];
        }),
        "unknown ulimit files"
    );
    assert_eq!(
        refused(|options, _| options.resources.nano_cpus = Some(4_000_000_001)),
        "--cpus must be at most 4: this host has no more"
    );
    assert_eq!(
        refused(|options, _| options.user = "nobody".into()),
        "unable to find user nobody: no matching entries in passwd file"
    );
    assert!(
        refused(|options, _| options.seccomp = Seccomp::Profile("{".into())).starts_with("seccomp profile")
    );
    assert_eq!(refused(|options, _| options.argv = vec!["a\0b".into()]), "NUL byte in \"a\\0b\"");
}

#[test]
fn a_renamed_plan_is_that_of_the_other_container() {
    let changes: [fn(&mut Options, &mut Host); 5] = [
        |_, _| {},
        |options, _| options.hostname = Some("box".into()),
        |options, _| options.uts = Namespace::Host,
        |options, host| (options.network, host.hosts) = (Namespace::Host, Some("hosts".into())),
        |options, _| options.env = vec!["HOSTNAME=mine".into()],
    ];
    for change in changes {
        let (mut options, mut host) = (options(), host());
        change(&mut options, &mut host);
        let mut plan = Plan::build(&options, &host).expect("plan");
        options.id = "fedcba9876543210".repeat(4);
        plan.rename(&options, &host).expect("rename");
        assert_eq!(format!("{plan:?}"), format!("{:?}", Plan::build(&options, &host).expect("plan")));
    }
}
