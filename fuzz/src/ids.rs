//! Ranges of ids: `/etc/subuid`, and the mappings of a user namespace and of a mount.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skiff_fuzz::{able_host, bare_host, one_line};
use skiff_runtime::host::sub_id_range;
use skiff_runtime::oci::spec::{IdMapping, Linux, Mount, Namespace, Process, Root, Spec};
use skiff_runtime::oci::{Bundle, Terms, plan};
use skiff_runtime::plan::IdRange;

/// Inside, outside, how many.
type Ranges = Vec<(u32, u32, u32)>;

fuzz_target!(|input: (&str, Ranges, Ranges, bool)| {
    let (text, uids, gids, on_mount) = input;
    if let Some((first, count)) = sub_id_range(text, "user", 1000) {
        assert!(count > 0 && first.checked_add(count).is_some());
    }
    let bundle = Bundle { path: "/bundle".into(), spec: spec(&uids, &gids, on_mount) };
    for facts in [able_host(), bare_host()] {
        match plan(&bundle, "id", &facts, &Terms::default()) {
            Ok(plan) => plan.users.iter().for_each(|users| {
                check(&users.uids);
                check(&users.gids);
            }),
            Err(error) => one_line(&error.to_string()),
        }
    }
});

fn spec(uids: &[(u32, u32, u32)], gids: &[(u32, u32, u32)], on_mount: bool) -> Spec {
    let mappings = |ids: &[(u32, u32, u32)]| -> Vec<IdMapping> {
        let one = |(container_id, host_id, size): &(u32, u32, u32)| IdMapping {
            container_id: *container_id,
            host_id: *host_id,
            size: *size,
        };
        ids.iter().map(one).collect()
    };
    let (uids, gids) = (mappings(uids), mappings(gids));
    let namespaces = ["mount", "user"].map(|kind| Namespace { r#type: kind.into(), path: String::new() });
    let process = Process { args: vec!["a".into()], cwd: "/".into(), ..Process::default() };
    let mut linux = Linux { namespaces: namespaces.to_vec(), ..Linux::default() };
    let mut spec = Spec { oci_version: "1.2.0".into(), process: Some(process), ..Spec::default() };
    spec.root = Some(Root { path: "rootfs".into(), readonly: false });
    if on_mount {
        spec.mounts.push(Mount {
            destination: "/a".into(),
            source: Some("/b".into()),
            options: vec!["bind".into()],
            uid_mappings: uids.clone(),
            gid_mappings: gids.clone(),
            ..Mount::default()
        });
    }
    (linux.uid_mappings, linux.gid_mappings) = (uids, gids);
    spec.linux = Some(linux);
    spec
}

/// The kernel's rules: no empty range, none beyond the last id, no id twice on either side.
fn check(ranges: &[IdRange]) {
    let end = |first: u32, count: u32| first.checked_add(count).expect("no range goes beyond the last id");
    for (at, one) in ranges.iter().enumerate() {
        assert!(one.count > 0);
        for other in &ranges[..at] {
            let apart = |a: u32, b: u32| end(a, one.count) <= b || end(b, other.count) <= a;
            assert!(apart(one.inside, other.inside) && apart(one.outside, other.outside));
        }
    }
}
