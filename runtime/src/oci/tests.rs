use super::*;
use crate::caps::CapSet;
use crate::cgroup::Layout;
use crate::seccomp::Kernel;

fn facts() -> Facts {
    Facts {
        uid: 0,
        gid: 0,
        kernel: Kernel(6, 12),
        last_cap: 40,
        caps: CapSet::all(40),
        cgroups: Layout { unified: Some("/sys/fs/cgroup".into()), ..Layout::default() },
        in_user_namespace: false,
        may_set_groups: true,
        shared: CloneFlags::empty(),
        apparmor: false,
        selinux: false,
        kcore: true,
        resctrl: false,
        home: Some("/root".into()),
    }
}

fn bundle(text: &str) -> Bundle {
    Bundle { path: "/bundle".into(), spec: json::read(text).expect(text) }
}

#[test]
fn the_default_configuration_has_a_plan() {
    let bundle = bundle(&template(Owner::Root, false));
    let plan = plan(&bundle, "x", &facts(), &Terms::default()).expect("a plan");
    assert_eq!(plan.root.layers, [PathBuf::from("/bundle/rootfs")]);
    assert_eq!(plan.process.argv, [c"sh".to_owned()]);
    assert_eq!(plan.process.env.last(), Some(&c"HOME=/root".to_owned()));
    assert_eq!(
        plan.process.caps.bounding.names().collect::<Vec<_>>(),
        ["KILL", "NET_BIND_SERVICE", "AUDIT_WRITE"]
    );
    assert_eq!(plan.process.warnings, [] as [&str; 0]);
}
