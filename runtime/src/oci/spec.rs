//! The documents of the OCI runtime specification, as far as Linux has a use for them.
//!
//! Wire types only: what is absent and what is `null` are the same, unknown fields are passed over, and nothing is
//! judged here but types. The names are the specification's (config.md, config-linux.md of 1.2, with `netDevices`,
//! `memoryPolicy` and the `intelRdt` of 1.3), which also explains them. Maps are sorted by key, so that what is done
//! with them has an order.
#![expect(missing_docs, reason = "the fields are those of the specification, which explains them")]

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// Declares structs whose every field may be missing or `null`, and how each is called in the document.
///
/// Not by serde's derive, which would read an object from a list too.
macro_rules! documents {
    ($($(#[$meta:meta])* $name:ident { $($wire:literal $field:ident: $type:ty,)* })*) => {
        $(
            $(#[$meta])*
            #[derive(Debug, Clone, Default, PartialEq, Eq)]
            pub struct $name {
                $(pub $field: $type,)*
            }

            impl<'de> Deserialize<'de> for $name {
                fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                    #[expect(non_camel_case_types, reason = "named as the fields are")]
                    enum Key {
                        $($field,)*
                        Unknown,
                    }
                    impl<'de> Deserialize<'de> for Key {
                        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                            from.deserialize_identifier(Word(|word: &str| match word {
                                $($wire => Self::$field,)*
                                _ => Self::Unknown,
                            }))
                        }
                    }
                    struct Fields;
                    impl<'de> Visitor<'de> for Fields {
                        type Value = $name;
                        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                            out.write_str("an object")
                        }
                        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<$name, A::Error> {
                            let mut found = $name::default();
                            while let Some(key) = map.next_key()? {
                                match key {
                                    $(Key::$field => {
                                        found.$field = map.next_value::<Option<$type>>()?.unwrap_or_default();
                                    })*
                                    Key::Unknown => drop(map.next_value::<IgnoredAny>()?),
                                }
                            }
                            Ok(found)
                        }
                    }
                    from.deserialize_map(Fields)
                }
            }
        )*
    };
}

/// Reads the name of a field.
struct Word<F>(F);

impl<T, F: FnOnce(&str) -> T> Visitor<'_> for Word<F> {
    type Value = T;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a name")
    }

    fn visit_str<E>(self, word: &str) -> Result<T, E> {
        Ok((self.0)(word))
    }
}

documents! {
    /// `config.json`.
    Spec {
        "ociVersion" oci_version: String,
        "root" root: Option<Root>,
        "mounts" mounts: Vec<Mount>,
        "process" process: Option<Process>,
        "hostname" hostname: Option<String>,
        "domainname" domainname: Option<String>,
        "hooks" hooks: Hooks,
        "annotations" annotations: BTreeMap<String, String>,
        "linux" linux: Option<Linux>,
    }

    /// The root file system.
    Root {
        "path" path: String,
        "readonly" readonly: bool,
    }

    /// An entry of `mounts`.
    Mount {
        "destination" destination: String,
        "source" source: Option<String>,
        "options" options: Vec<String>,
        "type" r#type: Option<String>,
        "uidMappings" uid_mappings: Vec<IdMapping>,
        "gidMappings" gid_mappings: Vec<IdMapping>,
    }

    /// `process`, and the file of `exec --process`.
    Process {
        "terminal" terminal: bool,
        "consoleSize" console_size: Option<ConsoleSize>,
        "cwd" cwd: String,
        "env" env: Vec<String>,
        "args" args: Vec<String>,
        "rlimits" rlimits: Vec<Rlimit>,
        "apparmorProfile" apparmor_profile: String,
        "capabilities" capabilities: Option<Capabilities>,
        "noNewPrivileges" no_new_privileges: bool,
        "oomScoreAdj" oom_score_adj: Option<i64>,
        "scheduler" scheduler: Option<Scheduler>,
        "selinuxLabel" selinux_label: String,
        "ioPriority" io_priority: Option<IoPriority>,
        "execCPUAffinity" exec_cpu_affinity: Option<CpuAffinity>,
        "user" user: User,
    }

    /// In characters.
    ConsoleSize {
        "height" height: u16,
        "width" width: u16,
    }

    /// A limit of the process.
    Rlimit {
        "type" r#type: String,
        "soft" soft: u64,
        "hard" hard: u64,
    }

    /// The five capability sets.
    Capabilities {
        "effective" effective: Vec<String>,
        "bounding" bounding: Vec<String>,
        "inheritable" inheritable: Vec<String>,
        "permitted" permitted: Vec<String>,
        "ambient" ambient: Vec<String>,
    }

    /// What sched_setattr(2) takes.
    Scheduler {
        "policy" policy: String,
        "nice" nice: i32,
        "priority" priority: i32,
        "flags" flags: Vec<String>,
        "runtime" runtime: u64,
        "deadline" deadline: u64,
        "period" period: u64,
    }

    /// What ioprio_set(2) takes.
    IoPriority {
        "class" class: String,
        "priority" priority: i64,
    }

    /// Lists of CPUs, as cpuset(7) writes them.
    CpuAffinity {
        "initial" initial: String,
        "final" r#final: String,
    }

    /// Ids within the container.
    User {
        "uid" uid: u32,
        "gid" gid: u32,
        "umask" umask: Option<u32>,
        "additionalGids" additional_gids: Vec<u32>,
    }

    /// Programs run at points of the container's life.
    Hooks {
        "prestart" prestart: Vec<Hook>,
        "createRuntime" create_runtime: Vec<Hook>,
        "createContainer" create_container: Vec<Hook>,
        "startContainer" start_container: Vec<Hook>,
        "poststart" poststart: Vec<Hook>,
        "poststop" poststop: Vec<Hook>,
    }

    /// One of them; `timeout` in seconds.
    Hook {
        "path" path: String,
        "args" args: Vec<String>,
        "env" env: Vec<String>,
        "timeout" timeout: Option<i64>,
    }

    /// What Linux has beyond POSIX.
    Linux {
        "namespaces" namespaces: Vec<Namespace>,
        "uidMappings" uid_mappings: Vec<IdMapping>,
        "gidMappings" gid_mappings: Vec<IdMapping>,
        "timeOffsets" time_offsets: BTreeMap<String, TimeOffset>,
        "devices" devices: Vec<Device>,
        "netDevices" net_devices: BTreeMap<String, NetDevice>,
        "cgroupsPath" cgroups_path: String,
        "resources" resources: Option<Resources>,
        "intelRdt" intel_rdt: Option<IntelRdt>,
        "memoryPolicy" memory_policy: Option<MemoryPolicy>,
        "sysctl" sysctl: BTreeMap<String, String>,
        "seccomp" seccomp: Option<Seccomp>,
        "rootfsPropagation" rootfs_propagation: String,
        "maskedPaths" masked_paths: Vec<String>,
        "readonlyPaths" readonly_paths: Vec<String>,
        "mountLabel" mount_label: String,
        "personality" personality: Option<Personality>,
    }

    /// A namespace to make, or with a path, to enter.
    Namespace {
        "type" r#type: String,
        "path" path: String,
    }

    /// Ids that follow each other.
    IdMapping {
        "containerID" container_id: u32,
        "hostID" host_id: u32,
        "size" size: u32,
    }

    /// By how much a clock differs from the host's.
    TimeOffset {
        "secs" secs: i64,
        "nanosecs" nanosecs: u32,
    }

    /// A device node to make.
    Device {
        "type" r#type: String,
        "path" path: String,
        "major" major: i64,
        "minor" minor: i64,
        "fileMode" file_mode: Option<u32>,
        "uid" uid: Option<u32>,
        "gid" gid: Option<u32>,
    }

    /// What a network device of the host becomes.
    NetDevice {
        "name" name: String,
    }

    /// Limits; also the file of `update --resources`.
    Resources {
        "devices" devices: Vec<DeviceRule>,
        "memory" memory: Option<Memory>,
        "cpu" cpu: Option<Cpu>,
        "pids" pids: Option<Pids>,
        "blockIO" block_io: Option<BlockIo>,
        "hugepageLimits" hugepage_limits: Vec<HugepageLimit>,
        "network" network: Option<Network>,
        "rdma" rdma: BTreeMap<String, Rdma>,
        "unified" unified: BTreeMap<String, String>,
    }

    /// Which devices may be used; of several that match the last counts.
    DeviceRule {
        "allow" allow: bool,
        "type" r#type: Option<String>,
        "major" major: Option<i64>,
        "minor" minor: Option<i64>,
        "access" access: Option<String>,
    }

    /// In bytes; −1 for no limit.
    Memory {
        "limit" limit: Option<i64>,
        "reservation" reservation: Option<i64>,
        "swap" swap: Option<i64>,
        "kernel" kernel: Option<i64>,
        "kernelTCP" kernel_tcp: Option<i64>,
        "swappiness" swappiness: Option<u64>,
        "disableOOMKiller" disable_oom_killer: Option<bool>,
        "useHierarchy" use_hierarchy: Option<bool>,
        "checkBeforeUpdate" check_before_update: Option<bool>,
    }

    /// Times in µs.
    Cpu {
        "shares" shares: Option<u64>,
        "quota" quota: Option<i64>,
        "burst" burst: Option<u64>,
        "period" period: Option<u64>,
        "realtimeRuntime" realtime_runtime: Option<i64>,
        "realtimePeriod" realtime_period: Option<u64>,
        "cpus" cpus: String,
        "mems" mems: String,
        "idle" idle: Option<i64>,
    }

    /// Number of processes.
    Pids {
        "limit" limit: Option<i64>,
    }

    /// Block I/O.
    BlockIo {
        "weight" weight: Option<u16>,
        "leafWeight" leaf_weight: Option<u16>,
        "weightDevice" weight_device: Vec<WeightDevice>,
        "throttleReadBpsDevice" throttle_read_bps_device: Vec<ThrottleDevice>,
        "throttleWriteBpsDevice" throttle_write_bps_device: Vec<ThrottleDevice>,
        "throttleReadIOPSDevice" throttle_read_iops_device: Vec<ThrottleDevice>,
        "throttleWriteIOPSDevice" throttle_write_iops_device: Vec<ThrottleDevice>,
    }

    /// The weight of one device.
    WeightDevice {
        "major" major: i64,
        "minor" minor: i64,
        "weight" weight: Option<u16>,
        "leafWeight" leaf_weight: Option<u16>,
    }

    /// The limit of one device, per second.
    ThrottleDevice {
        "major" major: i64,
        "minor" minor: i64,
        "rate" rate: u64,
    }

    /// In bytes of pages of a size such as `2MB`.
    HugepageLimit {
        "pageSize" page_size: String,
        "limit" limit: u64,
    }

    /// Marks of network packets.
    Network {
        "classID" class_id: Option<u32>,
        "priorities" priorities: Vec<InterfacePriority>,
    }

    /// The priority of packets that leave by an interface.
    InterfacePriority {
        "name" name: String,
        "priority" priority: u32,
    }

    /// Handles and objects of one RDMA device.
    Rdma {
        "hcaHandles" hca_handles: Option<u32>,
        "hcaObjects" hca_objects: Option<u32>,
    }

    /// Shares of cache and memory bandwidth. Documentation/arch/x86/resctrl.rst in the kernel tree.
    IntelRdt {
        "closID" clos_id: String,
        "schemata" schemata: Vec<String>,
        "l3CacheSchema" l3_cache_schema: String,
        "memBwSchema" mem_bw_schema: String,
        "enableMonitoring" enable_monitoring: bool,
        "enableCMT" enable_cmt: bool,
        "enableMBM" enable_mbm: bool,
    }

    /// What set_mempolicy(2) takes.
    MemoryPolicy {
        "mode" mode: String,
        "nodes" nodes: String,
        "flags" flags: Vec<String>,
    }

    /// A system call filter.
    Seccomp {
        "defaultAction" default_action: String,
        "defaultErrnoRet" default_errno_ret: Option<u32>,
        "architectures" architectures: Vec<String>,
        "flags" flags: Option<Vec<String>>,
        "listenerPath" listener_path: String,
        "listenerMetadata" listener_metadata: String,
        "syscalls" syscalls: Vec<Syscall>,
    }

    /// A rule of it.
    Syscall {
        "names" names: Vec<String>,
        "action" action: String,
        "errnoRet" errno_ret: Option<u32>,
        "args" args: Vec<SyscallArg>,
    }

    /// A condition of a rule.
    SyscallArg {
        "index" index: u32,
        "value" value: u64,
        "valueTwo" value_two: u64,
        "op" op: String,
    }

    /// What personality(2) takes.
    Personality {
        "domain" domain: String,
        "flags" flags: Vec<String>,
    }
}

/// The state of a container, as `state` prints it and hooks read it. runtime.md, "State".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    pub oci_version: String,
    pub id: String,
    pub status: Status,
    /// Absent while there is no process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    pub bundle: PathBuf,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Creating,
    Created,
    Running,
    /// Not of the specification; runc's word for a container that the freezer holds.
    Paused,
    Stopped,
}

#[cfg(test)]
mod tests;
