//! What the targets share: a host to plan for.

use skiff_runtime::caps::CapSet;
use skiff_runtime::cgroup::{Controller, Layout};
use skiff_runtime::oci::Facts;
use skiff_runtime::seccomp::Kernel;

/// A host that has everything, so that no input ends early for want of it.
pub fn able_host() -> Facts {
    Facts {
        kernel: Kernel(6, 18),
        last_cap: 40,
        caps: CapSet::all(40),
        cgroups: Layout {
            unified: Some("/sys/fs/cgroup/unified".into()),
            legacy: [Controller::Memory, Controller::Cpu, Controller::Pids, Controller::Devices]
                .map(|found| (found, format!("/sys/fs/cgroup/{}", found.name()).into()))
                .to_vec(),
            ..Layout::default()
        },
        may_set_groups: true,
        apparmor: true,
        selinux: true,
        kcore: true,
        resctrl: true,
        home: Some("/root".into()),
        ..Facts::default()
    }
}

/// A user in a namespace on a host that has nothing.
pub fn bare_host() -> Facts {
    Facts { uid: 1000, gid: 1000, in_user_namespace: true, ..Facts::default() }
}

/// Fails if a message is not one line, as all messages are to be.
pub fn one_line(message: &str) {
    assert!(!message.is_empty() && !message.contains('\n'), "{message:?}");
}
