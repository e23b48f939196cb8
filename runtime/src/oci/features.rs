//! The features document: what this runtime understands, whatever the host's kernel has. features.md, features-linux.md.
//!
//! Every list is that of the table which the code itself reads.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{hooks, mounts, tables};
use crate::caps::CapSet;
use crate::cgroup::PROPERTY_PREFIX;
use crate::seccomp::words;

/// The newest version of the specification whose every word is understood.
pub const VERSION: &str = "1.3.0";

type Words = Vec<&'static str>;

/// The document.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Features {
    oci_version_min: &'static str,
    oci_version_max: &'static str,
    hooks: Words,
    mount_options: Words,
    linux: Linux,
    annotations: BTreeMap<&'static str, &'static str>,
    potentially_unsafe_config_annotations: Words,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Linux {
    namespaces: Words,
    capabilities: Vec<String>,
    cgroup: Cgroup,
    seccomp: Seccomp,
    apparmor: Enabled,
    selinux: Enabled,
    intel_rdt: IntelRdt,
    memory_policy: MemoryPolicy,
    mount_extensions: MountExtensions,
    net_devices: Enabled,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Cgroup {
    v1: bool,
    v2: bool,
    systemd: bool,
    systemd_user: bool,
    rdma: bool,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Seccomp {
    enabled: bool,
    actions: Words,
    operators: Words,
    archs: Words,
    known_flags: Words,
    supported_flags: Words,
}

#[derive(Debug, Clone, Serialize)]
struct Enabled {
    enabled: bool,
}

#[derive(Debug, Clone, Serialize)]
struct IntelRdt {
    enabled: bool,
    schemata: bool,
    monitoring: bool,
}

#[derive(Debug, Clone, Serialize)]
struct MemoryPolicy {
    modes: Words,
    flags: Words,
}

#[derive(Debug, Clone, Serialize)]
struct MountExtensions {
    idmap: Enabled,
}

/// The document of this program; checkpoints are made by another one, which may not be there.
#[must_use]
pub fn features(has_checkpoints: bool) -> Features {
    Features {
        oci_version_min: "1.0.0",
        oci_version_max: VERSION,
        hooks: hooks::NAMES.to_vec(),
        mount_options: mounts::option_names().collect(),
        linux: linux(),
        annotations: BTreeMap::from([
            ("org.opencontainers.runc.checkpoint.enabled", if has_checkpoints { "true" } else { "false" }),
            ("run.oci.skiff.version", env!("CARGO_PKG_VERSION")),
        ]),
        potentially_unsafe_config_annotations: vec![PROPERTY_PREFIX],
    }
}

fn linux() -> Linux {
    const YES: Enabled = Enabled { enabled: true };
    let names = CapSet(u64::MAX).names();
    Linux {
        namespaces: sorted(tables::NAMESPACES.iter().map(|kind| kind.name)),
        capabilities: names.map(|name| format!("CAP_{name}")).collect(),
        cgroup: Cgroup { v1: true, v2: true, systemd: true, systemd_user: true, rdma: true },
        seccomp: Seccomp {
            enabled: true,
            actions: words::actions().collect(),
            operators: words::operators().collect(),
            archs: sorted(words::architectures()),
            known_flags: words::flags().collect(),
            supported_flags: words::flags().collect(),
        },
        apparmor: YES,
        selinux: YES,
        intel_rdt: IntelRdt { enabled: true, schemata: true, monitoring: true },
        memory_policy: MemoryPolicy {
            modes: sorted(tables::MEMORY_POLICIES.iter().map(|(name, _)| *name)),
            flags: sorted(tables::MEMORY_POLICY_FLAGS.iter().map(|(name, _)| *name)),
        },
        mount_extensions: MountExtensions { idmap: YES },
        net_devices: YES,
    }
}

fn sorted(words: impl Iterator<Item = &'static str>) -> Words {
    let mut words: Words = words.collect();
    words.sort_unstable();
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_one_that_others_can_read() {
        let text = serde_json::to_string(&features(true)).expect("the document can be written");
        let read: oci_spec::runtime::Features =
            serde_json::from_str(&text).expect("the document can be read");
        assert_eq!(read.oci_version_max(), VERSION);
        assert_eq!(read.hooks().as_ref().map(Vec::len), Some(6));
        let linux = read.linux().as_ref().expect("linux");
        assert_eq!(linux.namespaces().as_ref().map(Vec::len), Some(8));
        assert_eq!(linux.capabilities().as_ref().map(|caps| caps.len()), Some(41));
        let seccomp = linux.seccomp().as_ref().expect("seccomp");
        assert_eq!(seccomp.actions().as_ref().map(Vec::len), Some(9));
        assert_eq!(seccomp.known_flags(), seccomp.supported_flags());
    }
}
