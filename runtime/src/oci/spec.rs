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

use serde::{Deserialize, Deserializer, Serialize};

/// Declares structs whose every field may be missing or `null`.
macro_rules! documents {
    ($($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* })*) => {
        $(
            $(#[$meta])*
            #[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
            #[serde(rename_all = "camelCase", default)]
            pub struct $name {
                $(
                    $(#[$field_meta])*
                    #[serde(deserialize_with = "or_default")]
                    pub $field: $type,
                )*
            }
        )*
    };
}

fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

documents! {
    /// `config.json`.
    Spec {
        oci_version: String,
        root: Option<Root>,
        mounts: Vec<Mount>,
        process: Option<Process>,
        hostname: Option<String>,
        domainname: Option<String>,
        hooks: Hooks,
        annotations: BTreeMap<String, String>,
        linux: Option<Linux>,
    }

    /// The root file system.
    Root {
        path: String,
        readonly: bool,
    }

    /// An entry of `mounts`.
    Mount {
        destination: String,
        source: Option<String>,
        options: Vec<String>,
        r#type: Option<String>,
        uid_mappings: Vec<IdMapping>,
        gid_mappings: Vec<IdMapping>,
    }

    /// `process`, and the file of `exec --process`.
    Process {
        terminal: bool,
        console_size: Option<ConsoleSize>,
        cwd: String,
        env: Vec<String>,
        args: Vec<String>,
        rlimits: Vec<Rlimit>,
        apparmor_profile: String,
        capabilities: Option<Capabilities>,
        no_new_privileges: bool,
        oom_score_adj: Option<i64>,
        scheduler: Option<Scheduler>,
        selinux_label: String,
        io_priority: Option<IoPriority>,
        #[serde(rename = "execCPUAffinity")]
        exec_cpu_affinity: Option<CpuAffinity>,
        user: User,
    }

    /// In characters.
    ConsoleSize {
        height: u16,
        width: u16,
    }

    /// A limit of the process.
    Rlimit {
        r#type: String,
        soft: u64,
        hard: u64,
    }

    /// The five capability sets.
    Capabilities {
        effective: Vec<String>,
        bounding: Vec<String>,
        inheritable: Vec<String>,
        permitted: Vec<String>,
        ambient: Vec<String>,
    }

    /// What sched_setattr(2) takes.
    Scheduler {
        policy: String,
        nice: i32,
        priority: i32,
        flags: Vec<String>,
        runtime: u64,
        deadline: u64,
        period: u64,
    }

    /// What ioprio_set(2) takes.
    IoPriority {
        class: String,
        priority: i64,
    }

    /// Lists of CPUs, as cpuset(7) writes them.
    CpuAffinity {
        initial: String,
        r#final: String,
    }

    /// Ids within the container.
    User {
        uid: u32,
        gid: u32,
        umask: Option<u32>,
        additional_gids: Vec<u32>,
    }

    /// Programs run at points of the container's life.
    Hooks {
        prestart: Vec<Hook>,
        create_runtime: Vec<Hook>,
        create_container: Vec<Hook>,
        start_container: Vec<Hook>,
        poststart: Vec<Hook>,
        poststop: Vec<Hook>,
    }

    /// One of them; `timeout` in seconds.
    Hook {
        path: String,
        args: Vec<String>,
        env: Vec<String>,
        timeout: Option<i64>,
    }

    /// What Linux has beyond POSIX.
    Linux {
        namespaces: Vec<Namespace>,
        uid_mappings: Vec<IdMapping>,
        gid_mappings: Vec<IdMapping>,
        time_offsets: BTreeMap<String, TimeOffset>,
        devices: Vec<Device>,
        net_devices: BTreeMap<String, NetDevice>,
        cgroups_path: String,
        resources: Option<Resources>,
        intel_rdt: Option<IntelRdt>,
        memory_policy: Option<MemoryPolicy>,
        sysctl: BTreeMap<String, String>,
        seccomp: Option<Seccomp>,
        rootfs_propagation: String,
        masked_paths: Vec<String>,
        readonly_paths: Vec<String>,
        mount_label: String,
        personality: Option<Personality>,
    }

    /// A namespace to make, or with a path, to enter.
    Namespace {
        r#type: String,
        path: String,
    }

    /// Ids that follow each other.
    IdMapping {
        #[serde(rename = "containerID")]
        container_id: u32,
        #[serde(rename = "hostID")]
        host_id: u32,
        size: u32,
    }

    /// By how much a clock differs from the host's.
    TimeOffset {
        secs: i64,
        nanosecs: u32,
    }

    /// A device node to make.
    Device {
        r#type: String,
        path: String,
        major: Option<i64>,
        minor: Option<i64>,
        file_mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
    }

    /// What a network device of the host becomes.
    NetDevice {
        name: String,
    }

    /// Limits; also the file of `update --resources`.
    Resources {
        devices: Vec<DeviceRule>,
        memory: Option<Memory>,
        cpu: Option<Cpu>,
        pids: Option<Pids>,
        #[serde(rename = "blockIO")]
        block_io: Option<BlockIo>,
        hugepage_limits: Vec<HugepageLimit>,
        network: Option<Network>,
        rdma: BTreeMap<String, Rdma>,
        unified: BTreeMap<String, String>,
    }

    /// Which devices may be used; of several that match the last counts.
    DeviceRule {
        allow: bool,
        r#type: Option<String>,
        major: Option<i64>,
        minor: Option<i64>,
        access: Option<String>,
    }

    /// In bytes; −1 for no limit.
    Memory {
        limit: Option<i64>,
        reservation: Option<i64>,
        swap: Option<i64>,
        kernel: Option<i64>,
        #[serde(rename = "kernelTCP")]
        kernel_tcp: Option<i64>,
        swappiness: Option<u64>,
        #[serde(rename = "disableOOMKiller")]
        disable_oom_killer: Option<bool>,
        use_hierarchy: Option<bool>,
        check_before_update: Option<bool>,
    }

    /// Times in µs.
    Cpu {
        shares: Option<u64>,
        quota: Option<i64>,
        burst: Option<u64>,
        period: Option<u64>,
        realtime_runtime: Option<i64>,
        realtime_period: Option<u64>,
        cpus: String,
        mems: String,
        idle: Option<i64>,
    }

    /// Number of processes.
    Pids {
        limit: Option<i64>,
    }

    /// Block I/O.
    BlockIo {
        weight: Option<u16>,
        leaf_weight: Option<u16>,
        weight_device: Vec<WeightDevice>,
        throttle_read_bps_device: Vec<ThrottleDevice>,
        throttle_write_bps_device: Vec<ThrottleDevice>,
        #[serde(rename = "throttleReadIOPSDevice")]
        throttle_read_iops_device: Vec<ThrottleDevice>,
        #[serde(rename = "throttleWriteIOPSDevice")]
        throttle_write_iops_device: Vec<ThrottleDevice>,
    }

    /// The weight of one device.
    WeightDevice {
        major: i64,
        minor: i64,
        weight: Option<u16>,
        leaf_weight: Option<u16>,
    }

    /// The limit of one device, per second.
    ThrottleDevice {
        major: i64,
        minor: i64,
        rate: u64,
    }

    /// In bytes of pages of a size such as `2MB`.
    HugepageLimit {
        page_size: String,
        limit: u64,
    }

    /// Marks of network packets.
    Network {
        #[serde(rename = "classID")]
        class_id: Option<u32>,
        priorities: Vec<InterfacePriority>,
    }

    /// The priority of packets that leave by an interface.
    InterfacePriority {
        name: String,
        priority: u32,
    }

    /// Handles and objects of one RDMA device.
    Rdma {
        hca_handles: Option<u32>,
        hca_objects: Option<u32>,
    }

    /// Shares of cache and memory bandwidth. Documentation/arch/x86/resctrl.rst in the kernel tree.
    IntelRdt {
        #[serde(rename = "closID")]
        clos_id: String,
        schemata: Vec<String>,
        l3_cache_schema: String,
        mem_bw_schema: String,
        enable_monitoring: bool,
        #[serde(rename = "enableCMT")]
        enable_cmt: bool,
        #[serde(rename = "enableMBM")]
        enable_mbm: bool,
    }

    /// What set_mempolicy(2) takes.
    MemoryPolicy {
        mode: String,
        nodes: String,
        flags: Vec<String>,
    }

    /// A system call filter.
    Seccomp {
        default_action: String,
        default_errno_ret: Option<u32>,
        architectures: Vec<String>,
        flags: Option<Vec<String>>,
        listener_path: String,
        listener_metadata: String,
        syscalls: Vec<Syscall>,
    }

    /// A rule of it.
    Syscall {
        names: Vec<String>,
        action: String,
        errno_ret: Option<u32>,
        args: Vec<SyscallArg>,
    }

    /// A condition of a rule.
    SyscallArg {
        index: u32,
        value: u64,
        value_two: u64,
        op: String,
    }

    /// What personality(2) takes.
    Personality {
        domain: String,
        flags: Vec<String>,
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

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

#[cfg(test)]
mod tests;
