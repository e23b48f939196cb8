use skiff_sys::mount::{Attr, FsOption, Propagation};

use super::*;
use crate::plan::IdRange;

fn layout(legacy: &[cgroup::Controller]) -> Layout {
    let at = |name: &str| Path::new("/sys/fs/cgroup").join(name);
    Layout {
        unified: Some(if legacy.is_empty() { "/sys/fs/cgroup".into() } else { at("unified") }),
        unified_controllers: Vec::new(),
        legacy: legacy.iter().map(|controller| (*controller, at(controller.name()))).collect(),
    }
}

/// A host as most are: root, cgroup v2, namespaces of the container's own.
fn on_ground<T>(change: impl FnOnce(&mut Ground<'_>), then: impl FnOnce(&Ground<'_>) -> T) -> T {
    let (layout, cgroup) = (layout(&[]), cgroup::Plan::default());
    let mut ground = Ground {
        bundle: Path::new("/bundle"),
        user_namespace: false,
        cgroup_namespace: true,
        layout: &layout,
        cgroup: &cgroup,
        kcore: true,
        selinux: false,
        no_pivot: false,
    };
    change(&mut ground);
    then(&ground)
}

fn spec(text: &str) -> spec::Spec {
    serde_json::from_str(text).expect("a configuration")
}

fn mount(json: &str) -> spec::Spec {
    spec(&format!(r#"{{"mounts":[{json}]}}"#))
}

/// The steps of the one mount, without those of `/dev`.
fn planned(spec: &spec::Spec) -> Result<Vec<Step>, String> {
    on_ground(|_| {}, |ground| steps(spec, ground)).map(own).map_err(|error| error.to_string())
}

fn own(steps: Vec<Step>) -> Vec<Step> {
    let is_dev = |step: &Step| matches!(step, Step::Node(_) | Step::Symlink { .. });
    steps.into_iter().filter(|step| !is_dev(step)).collect()
}

#[track_caller]
fn flags(options: &str) -> MountFlags {
    let options: Vec<String> = options.split(' ').map(str::to_owned).collect();
    parse(&options).expect("options").flags
}

#[track_caller]
fn check(options: &str, set: Attr, clear: Attr) {
    assert_eq!(flags(options), MountFlags { set, clear, ..MountFlags::default() }, "{options}");
}

#[test]
fn flags_are_set_and_cleared_and_the_last_counts() {
    let none = Attr::NONE;
    check("defaults", none, none);
    check("ro", Attr::RDONLY, none);
    check("rw", none, Attr::RDONLY);
    check("ro rw", none, Attr::RDONLY);
    check("rw ro", Attr::RDONLY, none);
    check("nosuid nodev noexec", Attr::NOSUID.with(Attr::NODEV).with(Attr::NOEXEC), none);
    check("suid dev exec", none, Attr::NOSUID.with(Attr::NODEV).with(Attr::NOEXEC));
    check("nodiratime nosymfollow", Attr::NODIRATIME.with(Attr::NOSYMFOLLOW), none);
    check("diratime symfollow", none, Attr::NODIRATIME.with(Attr::NOSYMFOLLOW));
    check("noatime", Attr::NOATIME, Attr::ATIME);
    check("noatime strictatime", Attr::STRICTATIME, Attr::ATIME);
    for relative in ["relatime", "atime", "norelatime", "nostrictatime", "noatime relatime"] {
        check(relative, none, Attr::ATIME);
    }
}

#[test]
fn recursive_flags_are_those_of_the_mounts_below_too() {
    let below = |options: &str| {
        let found = flags(options);
        assert_eq!((found.set, found.clear), (Attr::NONE, Attr::NONE), "{options}");
        (found.set_below, found.clear_below)
    };
    assert_eq!(below("rro"), (Attr::RDONLY, Attr::NONE));
    assert_eq!(below("rro rrw"), (Attr::NONE, Attr::RDONLY));
    assert_eq!(below("rnosuid rnodev"), (Attr::NOSUID.with(Attr::NODEV), Attr::NONE));
    assert_eq!(below("rsuid rdev rexec"), (Attr::NONE, Attr::NOSUID.with(Attr::NODEV).with(Attr::NOEXEC)));
    assert_eq!(below("rnoexec rnosymfollow"), (Attr::NOEXEC.with(Attr::NOSYMFOLLOW), Attr::NONE));
    assert_eq!(below("rsymfollow rdiratime"), (Attr::NONE, Attr::NOSYMFOLLOW.with(Attr::NODIRATIME)));
    assert_eq!(below("rnoatime rnodiratime"), (Attr::NOATIME.with(Attr::NODIRATIME), Attr::ATIME));
    assert_eq!(below("rstrictatime"), (Attr::STRICTATIME, Attr::ATIME));
    for relative in ["rrelatime", "ratime", "rnorelatime", "rnostrictatime"] {
        assert_eq!(below(relative), (Attr::NONE, Attr::ATIME), "{relative}");
    }
}

#[test]
fn propagation_keeps_the_order_given() {
    use Propagation::{Private, Shared, Slave, Unbindable};
    let found = |options: &str| -> Vec<_> {
        flags(options).propagation.iter().map(|change| (change.to, change.recursive)).collect()
    };
    assert_eq!(found("private rshared"), [(Private, false), (Shared, true)]);
    assert_eq!(found("rslave shared"), [(Slave, true), (Shared, false)]);
    assert_eq!(
        found("unbindable runbindable rprivate slave"),
        [(Unbindable, false), (Unbindable, true), (Private, true), (Slave, false)]
    );
}

#[test]
fn what_the_table_lacks_is_the_file_systems() {
    let chosen = |option: &str| {
        let chosen = parse(&[option.to_owned()]).expect("options");
        let show = |option: &FsOption| match option {
            FsOption::Flag(key) => key.to_string_lossy().into_owned(),
            FsOption::Value(key, value) => {
                format!("{} is {}", key.to_string_lossy(), value.to_string_lossy())
            }
        };
        (
            chosen.of_filesystem.iter().map(show).collect::<Vec<_>>().join(" "),
            chosen.data.iter().map(show).collect::<Vec<_>>().join(" "),
        )
    };
    let check = |option: &str, of_filesystem: &str, data: &str| {
        assert_eq!(chosen(option), (of_filesystem.to_owned(), data.to_owned()), "{option}");
    };
    check("size=64k", "", "size is 64k");
    check("newinstance", "", "newinstance");
    check("mode=755,size=64k", "", "mode is 755 size is 64k");
    check(r#"context="a:b:c1,c2",x"#, "", "context is a:b:c1,c2 x");
    check("sync", "sync", "");
    check("async", "async", "");
    for name in ["acl", "dirsync", "iversion", "lazytime", "mand", "silent", "noacl", "nolazytime", "nomand"]
    {
        check(name, name, "");
    }
    for name in ["loud", "noiversion"] {
        check(name, "", "");
    }
    let words = ["sync", "async", "silent", "loud"].map(str::to_owned);
    assert_eq!(parse(&words).expect("options").of_filesystem, [FsOption::Flag(c"async".into())]);
}

#[test]
fn sources_of_bind_mounts_are_relative_to_the_bundle() {
    let source = |json: &str| match &planned(&mount(json)).expect("a plan")[..] {
        [Step::Bind { source, recursive, .. }] => (source.display().to_string(), *recursive),
        other => panic!("{other:?}"),
    };
    let check = |json, path: &str, recursive| assert_eq!(source(json), (path.to_owned(), recursive));
    check(r#"{"destination":"/a","source":"data","options":["bind"]}"#, "/bundle/data", false);
    check(r#"{"destination":"a","source":"/data","options":["rbind"]}"#, "/data", true);
    check(r#"{"destination":"/a","source":"/data","type":"bind"}"#, "/data", false);
    check(r#"{"destination":"/a","source":"/d","type":"bind","options":["rbind","bind"]}"#, "/d", true);
}

#[test]
fn an_option_of_a_bind_mount_replaces_flags_of_its_source() {
    let cleared = |options: &str, user_namespace| {
        let options: Vec<String> = options.split(' ').map(|option| format!("\"{option}\"")).collect();
        let options = options.join(",");
        let spec = mount(&format!(r#"{{"destination":"/a","source":"/b","options":["bind",{options}]}}"#));
        let steps = on_ground(|ground| ground.user_namespace = user_namespace, |ground| steps(&spec, ground));
        match &own(steps.expect("a plan"))[..] {
            [Step::Bind { flags, .. }] => flags.clear,
            other => panic!("{other:?}"),
        }
    };
    let all = Attr::RDONLY.with(Attr::NOSUID).with(Attr::NODEV).with(Attr::NOEXEC);
    let check = |options, kept| assert_eq!(cleared(options, false), all.without(kept), "{options}");
    check("ro", Attr::RDONLY);
    check("ro nosuid", Attr::RDONLY.with(Attr::NOSUID));
    check("nodiratime suid", Attr::NONE);
    check("ro rnodev", Attr::RDONLY.with(Attr::NODEV));
    check("rprivate", all);
    check("rro", all);
    assert_eq!(cleared("relatime", false), all.with(Attr::ATIME));
    assert_eq!(cleared("dev", false), Attr::NODEV);
    assert_eq!(cleared("ro", true), Attr::NONE);
}

#[test]
fn mounts_that_cannot_be_are_refused() {
    let check = |json: &str, error: &str| {
        assert_eq!(planned(&mount(json)), Err(format!("mounts[0]: {error}")), "{json}")
    };
    let in_proc = "is inside /proc, where only procfs itself may be";
    check(r#"{"destination":"/proc/self","type":"tmpfs"}"#, &format!("/proc/self: {in_proc}"));
    check(r#"{"destination":"/x/../proc","type":"tmpfs"}"#, &format!("/x/../proc: {in_proc}"));
    check(
        r#"{"destination":"/proc/sys","source":"/x","options":["rbind"]}"#,
        &format!("/proc/sys: {in_proc}"),
    );
    check(r#"{"destination":"/","type":"tmpfs"}"#, "/: cannot mount on the container's root");
    check(r#"{"destination":"/a"}"#, "/a: has no type and is no bind mount");
    check(r#"{"destination":"/a","options":["rbind"]}"#, "/a: bind mount without a source");
    check(
        r#"{"destination":"/a","source":"/b","options":["bind","size=1"]}"#,
        "/a: cannot have the option size",
    );
    check(
        r#"{"destination":"/a","source":"/b","options":["bind","sync"]}"#,
        "/a: cannot have the option sync",
    );
    check(
        r#"{"destination":"/a","type":"cgroup","options":["nodev","nsdelegate"]}"#,
        "/a: cannot have the option nsdelegate",
    );
    check(
        r#"{"destination":"/a","type":"sysfs","options":["tmpcopyup"]}"#,
        "/a: tmpcopyup is for tmpfs only",
    );
    check(
        r#"{"destination":"/a","source":"/b","options":["bind","idmap"]}"#,
        "/a: idmap: there is neither a mapping nor a user namespace",
    );
    check(
        r#"{"destination":"/a","type":"tmpfs","options":["idmap"]}"#,
        "/a: ids can be mapped for bind mounts only",
    );
    check(
        r#"{"destination":"/a","source":"/b","options":["bind"],
            "uidMappings":[{"containerID":0,"hostID":1,"size":1}]}"#,
        "/a: uidMappings and gidMappings come together",
    );
}

#[test]
fn files_of_proc_that_have_stand_ins_can_be_mounted_on() {
    for file in STAND_INS {
        let json = format!(r#"{{"destination":"/proc/{file}","source":"/x","options":["bind"]}}"#);
        assert_eq!(planned(&mount(&json)).expect(file).len(), 1);
    }
    for json in [
        r#"{"destination":"/proc","type":"proc"}"#,
        r#"{"destination":"/proc","source":"/proc","options":["rbind"]}"#,
        r#"{"destination":"/sys","source":"/sys","options":["rbind"]}"#,
    ] {
        assert_eq!(planned(&mount(json)).expect(json).len(), 1);
    }
}

#[test]
fn a_tmpfs_becomes_read_only_when_all_is_in_it() {
    let both = spec(
        r#"{"mounts":[{"destination":"/a","type":"tmpfs","options":["ro","nosuid"]},
                      {"destination":"/a/b","type":"tmpfs"}]}"#,
    );
    let steps = planned(&both).expect("a plan");
    let [Step::Filesystem { flags, .. }, Step::Filesystem { .. }, Step::ReadOnlyMount(last)] = &steps[..]
    else {
        panic!("{steps:?}")
    };
    assert_eq!(flags.set, Attr::NOSUID);
    assert_eq!(last.path.as_c_str(), c"a");
}

#[test]
fn owners_are_mapped_by_a_mapping_of_the_mount_or_of_the_container() {
    let map = |json: &str| {
        let spec = mount(json);
        let steps = on_ground(|ground| ground.user_namespace = true, |ground| steps(&spec, ground));
        match &own(steps.expect("a plan"))[..] {
            [Step::Bind { id_map, .. }] => id_map.clone(),
            other => panic!("{other:?}"),
        }
    };
    let bind = r#""destination":"/a","source":"/b""#;
    assert_eq!(map(&format!(r#"{{{bind},"options":["bind"]}}"#)), None);
    assert_eq!(
        map(&format!(r#"{{{bind},"options":["bind","idmap"]}}"#)),
        Some(IdMap::Container { recursive: false })
    );
    let one = r#"[{"containerID":1,"hostID":2,"size":3}]"#;
    let range = vec![IdRange { inside: 1, outside: 2, count: 3 }];
    assert_eq!(
        map(&format!(r#"{{{bind},"options":["bind","ridmap"],"uidMappings":{one},"gidMappings":{one}}}"#)),
        Some(IdMap::Own { uids: range.clone(), gids: range, recursive: true })
    );
}

#[test]
fn cgroups_are_mounted_as_the_host_has_them() {
    let cgroups = mount(r#"{"destination":"/sys/fs/cgroup","type":"cgroup","options":["ro","nosuid"]}"#);
    let shown = |legacy: &[cgroup::Controller], cgroup_namespace, user_namespace| {
        let layout = layout(legacy);
        let plan = cgroup::Plan { path: "c".into(), ..cgroup::Plan::default() };
        let steps = on_ground(
            |_| {},
            |ground| {
                let ground =
                    Ground { layout: &layout, cgroup: &plan, cgroup_namespace, user_namespace, ..*ground };
                steps(&cgroups, &ground)
            },
        );
        plan::shown(&own(steps.expect("a plan")))
    };
    let hybrid = [cgroup::Controller::Cpu, cgroup::Controller::Memory];
    assert_eq!(shown(&[], true, false), ["cgroup2 sys/fs/cgroup"]);
    assert_eq!(shown(&[], false, false), ["cgroup2 sys/fs/cgroup"]);
    assert_eq!(shown(&[], true, true), ["cgroup2 sys/fs/cgroup"]);
    assert_eq!(shown(&[], false, true), ["bind /sys/fs/cgroup sys/fs/cgroup"]);
    assert_eq!(
        shown(&hybrid, true, false),
        [
            "tmpfs sys/fs/cgroup",
            "cgroup sys/fs/cgroup/cpu",
            "cgroup sys/fs/cgroup/memory",
            "cgroup2 sys/fs/cgroup/unified",
            "ro sys/fs/cgroup",
        ]
    );
    assert_eq!(
        shown(&hybrid, false, false),
        [
            "tmpfs sys/fs/cgroup",
            "cgroup /sys/fs/cgroup/cpu/c sys/fs/cgroup/cpu",
            "cgroup /sys/fs/cgroup/memory/c sys/fs/cgroup/memory",
            "cgroup /sys/fs/cgroup/unified/c sys/fs/cgroup/unified",
            "ro sys/fs/cgroup",
        ]
    );
}

#[test]
fn controllers_that_are_mounted_together_have_a_link_each() {
    let cgroups = mount(r#"{"destination":"/sys/fs/cgroup","type":"cgroup"}"#);
    let both = PathBuf::from("/sys/fs/cgroup/cpu,cpuacct");
    let legacy = [cgroup::Controller::Cpu, cgroup::Controller::Cpuacct].map(|one| (one, both.clone()));
    let layout = Layout { legacy: legacy.to_vec(), ..Layout::default() };
    let steps = on_ground(|_| {}, |ground| steps(&cgroups, &Ground { layout: &layout, ..*ground }));
    assert_eq!(
        plan::shown(&steps.expect("a plan"))[..4],
        [
            "tmpfs sys/fs/cgroup",
            "cgroup sys/fs/cgroup/cpu,cpuacct",
            "link sys/fs/cgroup/cpu",
            "link sys/fs/cgroup/cpuacct",
        ]
    );
}

#[test]
fn dev_has_the_default_devices_and_links_unless_it_is_the_hosts() {
    let dev = |json: &str| {
        let spec = spec(json);
        let steps = on_ground(|_| {}, |ground| steps(&spec, ground));
        steps.map(|steps| plan::shown(&steps)).map_err(|error| error.to_string())
    };
    let default: Vec<String> =
        "node /dev/null,node /dev/zero,node /dev/full,node /dev/random,node /dev/urandom,\
        node /dev/tty,link dev/fd,link dev/stdin,link dev/stdout,link dev/stderr,link dev/ptmx,link dev/core"
            .split(',')
            .map(str::to_owned)
            .collect();
    assert_eq!(dev("{}"), Ok(default));
    assert_eq!(
        dev(r#"{"mounts":[{"destination":"/dev/","source":"/dev","options":["rbind"]}]}"#),
        Ok(vec!["bind /dev dev".into()])
    );
    let with_terminal = dev(r#"{"process":{"terminal":true}}"#).expect("a plan");
    assert_eq!(with_terminal.last().map(String::as_str), Some("mkdir dev/console"));
    let given = |device: &str| dev(&format!(r#"{{"linux":{{"devices":[{device}]}}}}"#));
    let null = given(r#"{"type":"c","path":"/dev/null","major":1,"minor":3}"#).expect("a plan");
    assert_eq!(null.iter().filter(|step| *step == "node /dev/null").count(), 1);
    assert_eq!(given(r#"{"type":"c","path":"/dev//ptmx","major":5,"minor":2}"#), dev("{}"));
    let fifo = given(r#"{"type":"p","path":"/dev/pipe"}"#).expect("a plan");
    assert!(fifo.contains(&"fifo dev/pipe".to_owned()));
    assert_eq!(
        given(r#"{"type":"x","path":"/dev/a"}"#),
        Err("linux.devices[0]: /dev/a: unknown type of device \"x\"".to_owned())
    );
    assert_eq!(
        given(r#"{"type":"c","path":"/proc/a"}"#),
        Err("linux.devices[0]: /proc/a: is inside /proc, where only procfs itself may be".to_owned())
    );
    assert_eq!(
        given(r#"{"type":"b","path":"/dev/a","major":-1}"#),
        Err("linux.devices[0]: /dev/a: invalid device number -1".to_owned())
    );
}

#[test]
fn a_device_keeps_what_was_said_of_it() {
    let json = r#"{"linux":{"devices":[
        {"type":"u","path":"/opt/x","major":4,"minor":5,"fileMode":384,"uid":6,"gid":7}]}}"#;
    let steps = on_ground(|_| {}, |ground| steps(&spec(json), ground)).expect("a plan");
    let found = steps.iter().find_map(|step| match step {
        Step::Node(node) if node.target == Path::new("/opt/x") => Some(node.clone()),
        _ => None,
    });
    let wanted = Node { mode: 0o600, uid: 6, gid: 7, ..dev::node("/opt/x".into(), Kind::Char, 4, 5) };
    assert_eq!(found, Some(wanted));
}

#[test]
fn the_root_is_what_the_bundle_says() {
    let root = |json: &str, no_pivot| {
        let spec = spec(json);
        on_ground(|ground| ground.no_pivot = no_pivot, |ground| root(&spec, ground))
            .map_err(|error| error.to_string())
    };
    let plain = root(r#"{"root":{"path":"rootfs"}}"#, false).expect("a root");
    assert_eq!(plain.layers, [Path::new("/bundle/rootfs")]);
    assert_eq!((plain.read_only, plain.propagation, plain.change), (false, None, ChangeRoot::Pivot));
    let other =
        root(r#"{"root":{"path":"/r","readonly":true},"linux":{"rootfsPropagation":"rslave"}}"#, true)
            .expect("a root");
    assert_eq!(other.layers, [Path::new("/r")]);
    let slave = Propagate { to: Propagation::Slave, recursive: true };
    assert_eq!((other.read_only, other.propagation, other.change), (true, Some(slave), ChangeRoot::Move));
    assert_eq!(root("{}", false), Err("root.path: missing".to_owned()));
    for word in ["r", "rr", "both"] {
        let json = format!(r#"{{"root":{{"path":"r"}},"linux":{{"rootfsPropagation":"{word}"}}}}"#);
        assert_eq!(root(&json, false), Err(format!("linux.rootfsPropagation: unknown {word:?}")));
    }
}

#[test]
fn bind_mounts_have_the_propagation_of_a_root_that_reaches_out() {
    let found = |word: &str, options: &str| {
        let json = format!(
            r#"{{"mounts":[{{"destination":"/a","source":"/b","options":[{options}]}}],
                "linux":{{"rootfsPropagation":"{word}"}}}}"#
        );
        match &planned(&spec(&json)).expect("a plan")[..] {
            [Step::Bind { flags, .. }] => {
                flags.propagation.iter().map(|change| change.to).collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(found("", r#""bind""#), [Propagation::Private]);
    assert_eq!(found("rslave", r#""bind""#), [Propagation::Slave]);
    assert_eq!(found("rshared", r#""bind""#), [Propagation::Shared]);
    assert_eq!(found("unbindable", r#""bind""#), [Propagation::Private]);
    assert_eq!(found("rshared", r#""bind","private""#), [Propagation::Private]);
}

#[test]
fn what_is_hidden_is_named_from_the_root() {
    let found = |json: &str| hide(&spec(json)).map_err(|error| error.to_string());
    assert_eq!(
        found(r#"{"linux":{"maskedPaths":["/proc/acpi","/a/../b"],"readonlyPaths":["/proc/sys"]}}"#),
        Ok(vec![
            Hide::Mask(c"proc/acpi".into()),
            Hide::Mask(c"b".into()),
            Hide::ReadOnly(c"proc/sys".into())
        ])
    );
    assert_eq!(
        found(r#"{"linux":{"maskedPaths":["proc"]}}"#),
        Err("linux.maskedPaths: \"proc\" is not absolute".to_owned())
    );
    assert_eq!(found("{}"), Ok(Vec::new()));
}

#[test]
fn labels_are_for_hosts_with_selinux() {
    let json = r#"{"mounts":[{"destination":"/a","type":"tmpfs"},{"destination":"/proc","type":"proc"}],
        "linux":{"mountLabel":"u:r:t:s0:c1,c2"}}"#;
    assert_eq!(planned(&spec(json)), Err("linux.mountLabel: SELinux is not enabled here".to_owned()));
    let steps =
        on_ground(|ground| ground.selinux = true, |ground| steps(&spec(json), ground)).expect("a plan");
    let options: Vec<usize> = steps
        .iter()
        .filter_map(|step| match step {
            Step::Filesystem { options, .. } => Some(options.len()),
            _ => None,
        })
        .collect();
    assert_eq!(options, [1, 0]);
}
