//! Docker's default profile, as of moby/profiles in the middle of 2026 (docker 29): what an x86-64 container may call.
//!
//! Everything that is not named fails with `EPERM`. Known limit, docker's too: a 32-bit program reaches any socket
//! family through socketcall(2), whose arguments a filter cannot see.

use super::rules::{Action, Condition, Numbers, Operator, Rules};
use super::{Kernel, When};
use crate::caps::CapSet;

/// The default profile's rules for a container whose bounding set is `caps`.
pub(super) fn rules(caps: CapSet, kernel: Kernel) -> Rules<'static> {
    let mut rules = Rules::new(Action::errno(EPERM), true);
    for (when, numbers) in ALLOWED {
        if when.applies(caps, kernel) {
            rules.add_numbers(numbers, Action::ALLOW);
        }
    }
    rules.add(&["socket"], Action::ALLOW, SOCKET_FAMILIES);
    rules.add(&["personality"], Action::ALLOW, PERSONALITIES);
    if !caps.contains(CapSet::SYS_ADMIN) {
        rules.add(&["clone"], Action::ALLOW, NO_NEW_NAMESPACE);
        // Its flags lie in memory: libraries take this for an old kernel and use clone.
        rules.add(&["clone3"], Action::errno(ENOSYS), &[]);
    }
    rules
}

const EPERM: u16 = 1;
const ENOSYS: u16 = 38;

/// Any alternative will do, as for all lists of conditions on one argument.
const SOCKET_FAMILIES: &[Condition] = &[
    // AF_UNSPEC to AF_ROSE.
    Condition { argument: 0, operator: Operator::Less, value: 12 },
    equal(13), // AF_NETBEUI
    equal(14), // AF_SECURITY
    equal(15), // AF_KEY
    equal(16), // AF_NETLINK
    equal(17), // AF_PACKET
    equal(18), // AF_ASH
    equal(21), // AF_RDS
    equal(22), // AF_SNA
    equal(24), // AF_PPPOX
    equal(26), // AF_LLC
    equal(27), // AF_IB
    equal(28), // AF_MPLS
    equal(29), // AF_CAN
    equal(30), // AF_TIPC
    equal(31), // AF_BLUETOOTH
    equal(32), // AF_IUCV
    equal(33), // AF_RXRPC
    equal(35), // AF_PHONET
    equal(36), // AF_IEEE802154
    equal(39), // AF_NFC
    equal(41), // AF_KCM
    equal(42), // AF_QIPCRTR
    equal(43), // AF_SMC
    equal(44), // AF_XDP
    equal(45), // AF_MCTP
];

const PERSONALITIES: &[Condition] = &[
    equal(0),           // PER_LINUX
    equal(0x0008),      // PER_LINUX32
    equal(0x2_0000),    // UNAME26
    equal(0x2_0008),    // UNAME26 | PER_LINUX32
    equal(0xffff_ffff), // only ask
];

/// None of CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET.
const NO_NEW_NAMESPACE: &[Condition] =
    &[Condition { argument: 0, operator: Operator::MaskedEqual(0x7e02_0000), value: 0 }];

const fn equal(value: u64) -> Condition {
    Condition { argument: 0, operator: Operator::Equal, value }
}

const fn with(caps: CapSet) -> When {
    When { with: caps, ..When::ALWAYS }
}

/// Calls that are allowed with any arguments. The names become numbers at compile time; one that no x86 has is an error.
#[rustfmt::skip]
static ALLOWED: &[(When, Numbers)] = &[
    (When::ALWAYS, Numbers::of(EVERYWHERE)),
    // Before Linux 4.8 ptrace was a way around seccomp.
    (When { since: Some(Kernel(4, 8)), ..When::ALWAYS }, Numbers::of(&["process_vm_readv", "process_vm_writev", "ptrace"])),
    (with(CapSet::DAC_READ_SEARCH), Numbers::of(&["open_by_handle_at"])),
    (with(CapSet::SYS_ADMIN), Numbers::of(&[
        "bpf", "clone", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick", "lookup_dcookie",
        "lsm_get_self_attr", "lsm_list_modules", "lsm_set_self_attr", "mount", "mount_setattr", "move_mount",
        "open_tree", "perf_event_open", "quotactl", "quotactl_fd", "setdomainname", "sethostname", "setns",
        "syslog", "umount", "umount2", "unshare",
    ])),
    (with(CapSet::SYS_BOOT), Numbers::of(&["reboot"])),
    (with(CapSet::SYS_CHROOT), Numbers::of(&["chroot"])),
    (with(CapSet::SYS_MODULE), Numbers::of(&["delete_module", "init_module", "finit_module"])),
    (with(CapSet::SYS_PACCT), Numbers::of(&["acct"])),
    (with(CapSet::SYS_PTRACE), Numbers::of(&[
        "kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace",
    ])),
    (with(CapSet::SYS_RAWIO), Numbers::of(&["iopl", "ioperm"])),
    (with(CapSet::SYS_TIME), Numbers::of(&["settimeofday", "stime", "clock_settime", "clock_settime64"])),
    (with(CapSet::SYS_TTY_CONFIG), Numbers::of(&["vhangup"])),
    (with(CapSet::SYS_NICE), Numbers::of(&["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"])),
    (with(CapSet::SYSLOG), Numbers::of(&["syslog"])),
    (with(CapSet::BPF), Numbers::of(&["bpf"])),
    (with(CapSet::PERFMON), Numbers::of(&["perf_event_open"])),
];

/// `send` and `recv`, which the profile names too, exist only within socketcall.
#[rustfmt::skip]
const EVERYWHERE: &[&str] = &[
    // Of x86 alone.
    "arch_prctl", "modify_ldt",
    // Of every architecture that has them, and the 32-bit forms.
    "accept", "accept4", "access", "adjtimex", "alarm", "bind", "brk", "cachestat", "capget", "capset",
    "chdir", "chmod", "chown", "chown32", "clock_adjtime", "clock_adjtime64", "clock_getres",
    "clock_getres_time64", "clock_gettime", "clock_gettime64", "clock_nanosleep", "clock_nanosleep_time64",
    "close", "close_range", "connect", "copy_file_range", "creat", "dup", "dup2", "dup3", "epoll_create",
    "epoll_create1", "epoll_ctl", "epoll_ctl_old", "epoll_pwait", "epoll_pwait2", "epoll_wait",
    "epoll_wait_old", "eventfd", "eventfd2", "execve", "execveat", "exit", "exit_group", "faccessat",
    "faccessat2", "fadvise64", "fadvise64_64", "fallocate", "fanotify_mark", "fchdir", "fchmod", "fchmodat",
    "fchmodat2", "fchown", "fchown32", "fchownat", "fcntl", "fcntl64", "fdatasync", "fgetxattr", "flistxattr",
    "flock", "fork", "fremovexattr", "fsetxattr", "fstat", "fstat64", "fstatat64", "fstatfs", "fstatfs64",
    "fsync", "ftruncate", "ftruncate64", "futex", "futex_requeue", "futex_time64", "futex_wait",
    "futex_waitv", "futex_wake", "futimesat", "getcpu", "getcwd", "getdents", "getdents64", "getegid",
    "getegid32", "geteuid", "geteuid32", "getgid", "getgid32", "getgroups", "getgroups32", "getitimer",
    "getpeername", "getpgid", "getpgrp", "getpid", "getppid", "getpriority", "getrandom", "getresgid",
    "getresgid32", "getresuid", "getresuid32", "getrlimit", "get_robust_list", "getrusage", "getsid",
    "getsockname", "getsockopt", "get_thread_area", "gettid", "gettimeofday", "getuid", "getuid32",
    "getxattr", "getxattrat", "inotify_add_watch", "inotify_init", "inotify_init1", "inotify_rm_watch",
    "io_cancel", "ioctl", "io_destroy", "io_getevents", "io_pgetevents", "io_pgetevents_time64", "ioprio_get",
    "ioprio_set", "io_setup", "io_submit", "ipc", "kill", "landlock_add_rule", "landlock_create_ruleset",
    "landlock_restrict_self", "lchown", "lchown32", "lgetxattr", "link", "linkat", "listen", "listmount",
    "listxattr", "listxattrat", "llistxattr", "_llseek", "lremovexattr", "lseek", "lsetxattr", "lstat",
    "lstat64", "madvise", "map_shadow_stack", "membarrier", "memfd_create", "memfd_secret", "mincore",
    "mkdir", "mkdirat", "mknod", "mknodat", "mlock", "mlock2", "mlockall", "mmap", "mmap2", "mprotect",
    "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedreceive_time64", "mq_timedsend",
    "mq_timedsend_time64", "mq_unlink", "mremap", "mseal", "msgctl", "msgget", "msgrcv", "msgsnd", "msync",
    "munlock", "munlockall", "munmap", "name_to_handle_at", "nanosleep", "newfstatat", "_newselect", "open",
    "openat", "openat2", "pause", "pidfd_open", "pidfd_send_signal", "pipe", "pipe2", "pkey_alloc",
    "pkey_free", "pkey_mprotect", "poll", "ppoll", "ppoll_time64", "prctl", "pread64", "preadv", "preadv2",
    "prlimit64", "process_mrelease", "pselect6", "pselect6_time64", "pwrite64", "pwritev", "pwritev2", "read",
    "readahead", "readlink", "readlinkat", "readv", "recvfrom", "recvmmsg", "recvmmsg_time64",
    "recvmsg", "remap_file_pages", "removexattr", "removexattrat", "rename", "renameat", "renameat2",
    "restart_syscall", "rmdir", "rseq", "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo",
    "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "rt_sigtimedwait_time64", "rt_tgsigqueueinfo",
    "sched_getaffinity", "sched_getattr", "sched_getparam", "sched_get_priority_max",
    "sched_get_priority_min", "sched_getscheduler", "sched_rr_get_interval", "sched_rr_get_interval_time64",
    "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler", "sched_yield", "seccomp",
    "select", "semctl", "semget", "semop", "semtimedop", "semtimedop_time64", "sendfile",
    "sendfile64", "sendmmsg", "sendmsg", "sendto", "setfsgid", "setfsgid32", "setfsuid", "setfsuid32",
    "setgid", "setgid32", "setgroups", "setgroups32", "setitimer", "setpgid", "setpriority", "setregid",
    "setregid32", "setresgid", "setresgid32", "setresuid", "setresuid32", "setreuid", "setreuid32",
    "setrlimit", "set_robust_list", "setsid", "setsockopt", "set_thread_area", "set_tid_address", "setuid",
    "setuid32", "setxattr", "setxattrat", "shmat", "shmctl", "shmdt", "shmget", "shutdown", "sigaltstack",
    "signalfd", "signalfd4", "sigprocmask", "sigreturn", "socketcall", "socketpair", "splice", "stat",
    "stat64", "statfs", "statfs64", "statmount", "statx", "symlink", "symlinkat", "sync", "sync_file_range",
    "syncfs", "sysinfo", "tee", "tgkill", "time", "timer_create", "timer_delete", "timer_getoverrun",
    "timer_gettime", "timer_gettime64", "timer_settime", "timer_settime64", "timerfd_create",
    "timerfd_gettime", "timerfd_gettime64", "timerfd_settime", "timerfd_settime64", "times", "tkill",
    "truncate", "truncate64", "ugetrlimit", "umask", "uname", "unlink", "unlinkat", "uretprobe", "utime",
    "utimensat", "utimensat_time64", "utimes", "vfork", "vmsplice", "wait4", "waitid", "waitpid", "write",
    "writev",
];
