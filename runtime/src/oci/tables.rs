//! Words of the specification and what they mean to the kernel, each declared once: the plan, its errors and the
//! features document are made from these.

use nix::sched::CloneFlags;
use nix::sys::resource::Resource;

/// A kind of namespace.
#[derive(Debug, Clone, Copy)]
pub(super) struct Namespace {
    /// In `linux.namespaces[].type`.
    pub(super) name: &'static str,
    /// For clone(2).
    pub(super) flag: CloneFlags,
    /// In `/proc/PID/ns`.
    pub(super) file: &'static str,
}

impl Namespace {
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        NAMESPACES.iter().find(|kind| kind.name == name)
    }
}

/// `CLONE_NEWTIME`, Linux ≥ 5.6, which only unshare(2) and clone3(2) take.
pub(super) const NEWTIME: CloneFlags = CloneFlags::from_bits_retain(0x80);

/// In the order in which they are joined: the user namespace first, for it owns others.
pub(super) const NAMESPACES: &[Namespace] = &[
    Namespace { name: "user", flag: CloneFlags::CLONE_NEWUSER, file: "user" },
    Namespace { name: "cgroup", flag: CloneFlags::CLONE_NEWCGROUP, file: "cgroup" },
    Namespace { name: "ipc", flag: CloneFlags::CLONE_NEWIPC, file: "ipc" },
    Namespace { name: "mount", flag: CloneFlags::CLONE_NEWNS, file: "mnt" },
    Namespace { name: "network", flag: CloneFlags::CLONE_NEWNET, file: "net" },
    Namespace { name: "pid", flag: CloneFlags::CLONE_NEWPID, file: "pid" },
    Namespace { name: "time", flag: NEWTIME, file: "time" },
    Namespace { name: "uts", flag: CloneFlags::CLONE_NEWUTS, file: "uts" },
];

/// What stands behind a word in `table`.
pub(super) fn find<T: Copy>(table: &[(&str, T)], word: &str) -> Option<T> {
    table.iter().find(|(known, _)| *known == word).map(|(_, value)| *value)
}

/// getrlimit(2).
pub(super) const RLIMITS: &[(&str, Resource)] = &[
    ("RLIMIT_AS", Resource::RLIMIT_AS),
    ("RLIMIT_CORE", Resource::RLIMIT_CORE),
    ("RLIMIT_CPU", Resource::RLIMIT_CPU),
    ("RLIMIT_DATA", Resource::RLIMIT_DATA),
    ("RLIMIT_FSIZE", Resource::RLIMIT_FSIZE),
    ("RLIMIT_LOCKS", Resource::RLIMIT_LOCKS),
    ("RLIMIT_MEMLOCK", Resource::RLIMIT_MEMLOCK),
    ("RLIMIT_MSGQUEUE", Resource::RLIMIT_MSGQUEUE),
    ("RLIMIT_NICE", Resource::RLIMIT_NICE),
    ("RLIMIT_NOFILE", Resource::RLIMIT_NOFILE),
    ("RLIMIT_NPROC", Resource::RLIMIT_NPROC),
    ("RLIMIT_RSS", Resource::RLIMIT_RSS),
    ("RLIMIT_RTPRIO", Resource::RLIMIT_RTPRIO),
    ("RLIMIT_RTTIME", Resource::RLIMIT_RTTIME),
    ("RLIMIT_SIGPENDING", Resource::RLIMIT_SIGPENDING),
    ("RLIMIT_STACK", Resource::RLIMIT_STACK),
];

/// `SCHED_*` of the kernel's include/uapi/linux/sched.h.
pub(super) const POLICIES: &[(&str, u32)] = &[
    ("SCHED_OTHER", 0),
    ("SCHED_FIFO", 1),
    ("SCHED_RR", 2),
    ("SCHED_BATCH", 3),
    ("SCHED_ISO", 4),
    ("SCHED_IDLE", 5),
    ("SCHED_DEADLINE", 6),
];

/// `SCHED_FLAG_*`, likewise.
pub(super) const SCHEDULER_FLAGS: &[(&str, u64)] = &[
    ("SCHED_FLAG_RESET_ON_FORK", 0x01),
    ("SCHED_FLAG_RECLAIM", 0x02),
    ("SCHED_FLAG_DL_OVERRUN", 0x04),
    ("SCHED_FLAG_KEEP_POLICY", 0x08),
    ("SCHED_FLAG_KEEP_PARAMS", 0x10),
    ("SCHED_FLAG_UTIL_CLAMP_MIN", 0x20),
    ("SCHED_FLAG_UTIL_CLAMP_MAX", 0x40),
];

/// `IOPRIO_CLASS_*` of include/uapi/linux/ioprio.h.
pub(super) const IO_CLASSES: &[(&str, u16)] =
    &[("IOPRIO_CLASS_RT", 1), ("IOPRIO_CLASS_BE", 2), ("IOPRIO_CLASS_IDLE", 3)];

/// `PER_*` of include/uapi/linux/personality.h.
pub(super) const PERSONALITIES: &[(&str, u64)] = &[("LINUX", 0), ("LINUX32", 8)];

/// `MPOL_*` of include/uapi/linux/mempolicy.h.
pub(super) const MEMORY_POLICIES: &[(&str, i32)] = &[
    ("MPOL_DEFAULT", 0),
    ("MPOL_PREFERRED", 1),
    ("MPOL_BIND", 2),
    ("MPOL_INTERLEAVE", 3),
    ("MPOL_LOCAL", 4),
    ("MPOL_PREFERRED_MANY", 5),
    ("MPOL_WEIGHTED_INTERLEAVE", 6),
];

/// `MPOL_F_*`, likewise.
pub(super) const MEMORY_POLICY_FLAGS: &[(&str, i32)] = &[
    ("MPOL_F_NUMA_BALANCING", 1 << 13),
    ("MPOL_F_RELATIVE_NODES", 1 << 14),
    ("MPOL_F_STATIC_NODES", 1 << 15),
];
