//! What system calls are given, as far as a tracer shows it: declared once, for copying in the kernel and for printing.
//!
//! From the calls' manual pages (section 2). Arguments that the kernel ignores are left out.

use skiff_ebpf_abi::trace::{COPIES, copy};

use Kind::{
    Address as K, Descriptor as F, Directory as A, Flags as X, Mode as M, Open as O, Path as S, Pointer as P,
    Signal as G, Signed as I, Text as T, Unsigned as U,
};

/// How an argument is shown, and whether what it points to is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file descriptor.
    Descriptor,
    /// A descriptor of a directory, or `AT_FDCWD`.
    Directory,
    /// The path of a file: a string, copied.
    Path,
    /// Another string, copied.
    Text,
    /// The address of a socket, whose length is the next argument: copied.
    Address,
    /// What open(2) takes as flags.
    Open,
    /// A file's mode.
    Mode,
    /// The number of a signal.
    Signal,
    /// A number.
    Signed,
    /// A number or size.
    Unsigned,
    /// Bits.
    Flags,
    /// An address in memory.
    Pointer,
    /// Of unknown meaning.
    Word,
}

/// Calls that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Those that are given the path of a file.
    File,
    /// Those on sockets.
    Network,
    /// Those that make, change, await and end processes.
    Process,
}

impl Class {
    /// The class `name`.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        match name {
            "file" => Some(Self::File),
            "network" => Some(Self::Network),
            "process" => Some(Self::Process),
            _ => None,
        }
    }

    /// Whether the call `name` belongs to it.
    #[must_use]
    pub fn has(self, name: &str) -> bool {
        match self {
            Self::File => of(name).is_some_and(|kinds| kinds.contains(&Kind::Path)),
            Self::Network => NETWORK.contains(&name),
            Self::Process => PROCESS.contains(&name),
        }
    }
}

const NETWORK: [&str; 20] = [
    "socket",
    "socketpair",
    "connect",
    "accept",
    "accept4",
    "bind",
    "listen",
    "shutdown",
    "getsockname",
    "getpeername",
    "setsockopt",
    "getsockopt",
    "sendto",
    "sendmsg",
    "sendmmsg",
    "recvfrom",
    "recvmsg",
    "recvmmsg",
    "recvmmsg_time64",
    "socketcall",
];

const PROCESS: [&str; 21] = [
    "clone",
    "clone3",
    "fork",
    "vfork",
    "execve",
    "execveat",
    "exit",
    "exit_group",
    "wait4",
    "waitid",
    "waitpid",
    "kill",
    "tkill",
    "tgkill",
    "rt_sigqueueinfo",
    "rt_tgsigqueueinfo",
    "pidfd_open",
    "pidfd_send_signal",
    "pidfd_getfd",
    "unshare",
    "setns",
];

/// The arguments of the call `name`, if it is in the table.
#[must_use]
pub fn of(name: &str) -> Option<&'static [Kind]> {
    TABLE.iter().find(|(names, _)| names.contains(&name)).map(|(_, kinds)| *kinds)
}

/// Every call in the table.
pub fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().flat_map(|(names, _)| names.iter().copied())
}

/// What the programs copy of these arguments: as [`Settings::copies`](skiff_ebpf_abi::trace::Settings::copies) has it.
pub(super) fn copies(kinds: &[Kind]) -> u16 {
    let copied = (1u16..).zip(kinds).filter(|(_, kind)| kind.is_copied());
    copied.take(COPIES).enumerate().fold(0, |all, (nth, (number, kind))| {
        let how = if *kind == Kind::Address { copy::BYTES } else { copy::STRING };
        all | (number | how) << (8 * nth)
    })
}

/// Calls that are given the same, and what that is.
#[rustfmt::skip] // a table
static TABLE: &[(&[&str], &[Kind])] = &[
    // Nothing.
    (&["getpid", "getppid", "gettid", "getuid", "geteuid", "getgid", "getegid", "getpgrp", "setsid", "sync", "pause", "fork",
        "vfork", "sched_yield", "munlockall", "vhangup", "rt_sigreturn", "restart_syscall", "inotify_init", "getuid32",
        "getgid32", "geteuid32", "getegid32", "sigreturn", "uretprobe", "uprobe"], &[]),
    // Files by descriptor.
    (&["close", "fsync", "fdatasync", "fchdir", "syncfs", "dup"], &[F]),
    (&["read", "write", "getdents", "getdents64"], &[F, P, U]),
    (&["pread64", "pwrite64"], &[F, P, U, U]),
    (&["readv", "writev"], &[F, P, U]),
    (&["preadv", "pwritev"], &[F, P, U, U, U]),
    (&["preadv2", "pwritev2"], &[F, P, U, U, U, X]),
    (&["lseek"], &[F, I, U]),
    (&["fstat", "fstat64", "oldfstat", "fstatfs"], &[F, P]),
    (&["ioctl"], &[F, X, P]),
    (&["fcntl", "fcntl64"], &[F, U, X]),
    (&["flock"], &[F, X]),
    (&["ftruncate", "ftruncate64"], &[F, I]),
    (&["fallocate"], &[F, X, I, I]),
    (&["fadvise64", "fadvise64_64"], &[F, I, U, U]),
    (&["readahead"], &[F, I, U]),
    (&["sync_file_range"], &[F, I, I, X]),
    (&["fchmod"], &[F, M]),
    (&["fchown", "fchown32"], &[F, I, I]),
    (&["dup2"], &[F, F]),
    (&["dup3"], &[F, F, X]),
    (&["close_range"], &[F, F, X]),
    (&["sendfile", "sendfile64"], &[F, F, P, U]),
    (&["splice", "copy_file_range"], &[F, P, F, P, U, X]),
    (&["tee"], &[F, F, U, X]),
    (&["vmsplice"], &[F, P, U, X]),
    (&["cachestat"], &[F, P, P, X]),
    (&["pipe"], &[P]),
    (&["pipe2"], &[P, X]),
    (&["eventfd"], &[U]),
    (&["eventfd2"], &[U, X]),
    (&["signalfd"], &[F, P, U]),
    (&["signalfd4"], &[F, P, U, X]),
    (&["memfd_create"], &[T, X]),
    (&["memfd_secret"], &[X]),
    // Files by path.
    (&["open"], &[S, O, M]),
    (&["openat"], &[A, S, O, M]),
    (&["openat2"], &[A, S, P, U]),
    (&["creat", "mkdir", "chmod"], &[S, M]),
    (&["mkdirat"], &[A, S, M]),
    (&["access"], &[S, X]),
    (&["faccessat"], &[A, S, X]),
    (&["faccessat2"], &[A, S, X, X]),
    (&["fchmodat"], &[A, S, M]),
    (&["fchmodat2"], &[A, S, M, X]),
    (&["stat", "lstat", "stat64", "lstat64", "oldstat", "oldlstat", "statfs"], &[S, P]),
    (&["newfstatat", "fstatat64"], &[A, S, P, X]),
    (&["statx"], &[A, S, X, X, P]),
    (&["chdir", "rmdir", "unlink", "chroot", "acct", "swapoff", "uselib"], &[S]),
    (&["unlinkat"], &[A, S, X]),
    (&["rename", "link", "symlink", "pivot_root"], &[S, S]),
    (&["renameat"], &[A, S, A, S]),
    (&["renameat2", "linkat"], &[A, S, A, S, X]),
    (&["symlinkat"], &[S, A, S]),
    (&["readlink"], &[S, P, U]),
    (&["readlinkat"], &[A, S, P, U]),
    (&["chown", "lchown", "chown32", "lchown32"], &[S, I, I]),
    (&["fchownat"], &[A, S, I, I, X]),
    (&["truncate", "truncate64"], &[S, I]),
    (&["mknod"], &[S, M, X]),
    (&["mknodat"], &[A, S, M, X]),
    (&["utime", "utimes"], &[S, P]),
    (&["futimesat"], &[A, S, P]),
    (&["utimensat", "utimensat_time64"], &[A, S, P, X]),
    (&["name_to_handle_at"], &[A, S, P, P, X]),
    (&["open_by_handle_at"], &[A, P, O]),
    (&["getxattr", "lgetxattr"], &[S, T, P, U]),
    (&["setxattr", "lsetxattr"], &[S, T, P, U, X]),
    (&["removexattr", "lremovexattr"], &[S, T]),
    (&["listxattr", "llistxattr"], &[S, P, U]),
    (&["fgetxattr"], &[F, T, P, U]),
    (&["fsetxattr"], &[F, T, P, U, X]),
    (&["fremovexattr"], &[F, T]),
    (&["flistxattr"], &[F, P, U]),
    (&["setxattrat", "getxattrat"], &[A, S, X, T, P, U]),
    (&["listxattrat"], &[A, S, X, P, U]),
    (&["removexattrat"], &[A, S, X, T]),
    (&["file_getattr", "file_setattr"], &[A, S, P, U, X]),
    (&["statfs64"], &[S, U, P]),
    (&["fstatfs64"], &[F, U, P]),
    (&["inotify_add_watch"], &[F, S, X]),
    (&["inotify_rm_watch"], &[F, I]),
    (&["inotify_init1", "epoll_create1"], &[X]),
    (&["fanotify_init"], &[X, O]),
    (&["fanotify_mark"], &[F, X, X, A, S]),
    (&["getcwd"], &[P, U]),
    (&["umask"], &[M]),
    (&["quotactl"], &[X, S, U, P]),
    (&["quotactl_fd"], &[F, X, U, P]),
    // Mounts.
    (&["mount"], &[S, S, T, X, P]),
    (&["umount2"], &[S, X]),
    (&["swapon"], &[S, X]),
    (&["open_tree"], &[A, S, X]),
    (&["open_tree_attr"], &[A, S, X, P, U]),
    (&["move_mount"], &[A, S, A, S, X]),
    (&["fsopen"], &[T, X]),
    (&["fsconfig"], &[F, U, T, P, I]),
    (&["fsmount"], &[F, X, X]),
    (&["fspick"], &[A, S, X]),
    (&["mount_setattr"], &[A, S, X, P, U]),
    (&["statmount", "listmount", "listns"], &[P, P, U, X]),
    // Waiting.
    (&["poll"], &[P, U, I]),
    (&["ppoll", "ppoll_time64"], &[P, U, P, P, U]),
    (&["select", "_newselect"], &[I, P, P, P, P]),
    (&["pselect6", "pselect6_time64"], &[I, P, P, P, P, P]),
    (&["epoll_create"], &[I]),
    (&["epoll_ctl"], &[F, U, F, P]),
    (&["epoll_wait"], &[F, P, I, I]),
    (&["epoll_pwait"], &[F, P, I, I, P, U]),
    (&["epoll_pwait2"], &[F, P, I, P, P, U]),
    (&["futex", "futex_time64"], &[P, X, X, P, P, X]),
    (&["futex_waitv"], &[P, U, X, P, I]),
    (&["futex_wake"], &[P, X, I, X]),
    (&["futex_wait"], &[P, X, X, X, P, I]),
    (&["futex_requeue"], &[P, X, I, I]),
    (&["io_setup"], &[U, P]),
    (&["io_destroy"], &[P]),
    (&["io_submit"], &[P, I, P]),
    (&["io_cancel"], &[P, P, P]),
    (&["io_getevents"], &[P, I, I, P, P]),
    (&["io_pgetevents", "io_pgetevents_time64"], &[P, I, I, P, P, P]),
    (&["io_uring_setup"], &[U, P]),
    (&["io_uring_enter"], &[F, U, U, X, P, U]),
    (&["io_uring_register"], &[F, U, P, U]),
    // Sockets.
    (&["socket"], &[U, X, U]),
    (&["socketpair"], &[U, X, U, P]),
    (&["connect", "bind"], &[F, K, U]),
    (&["accept", "getsockname", "getpeername"], &[F, P, P]),
    (&["accept4"], &[F, P, P, X]),
    (&["listen"], &[F, I]),
    (&["shutdown"], &[F, U]),
    (&["setsockopt", "getsockopt"], &[F, U, U, P, U]),
    (&["sendto"], &[F, P, U, X, K, U]),
    (&["recvfrom"], &[F, P, U, X, P, P]),
    (&["sendmsg", "recvmsg"], &[F, P, X]),
    (&["sendmmsg"], &[F, P, U, X]),
    (&["recvmmsg", "recvmmsg_time64"], &[F, P, U, X, P]),
    (&["socketcall"], &[U, P]),
    // Memory.
    (&["mmap"], &[P, U, X, X, F, X]),
    (&["mmap2"], &[P, U, X, X, F, X]),
    (&["munmap", "mlock", "munlock"], &[P, U]),
    (&["mlock2"], &[P, U, X]),
    (&["mlockall"], &[X]),
    (&["mprotect"], &[P, U, X]),
    (&["pkey_mprotect"], &[P, U, X, I]),
    (&["pkey_alloc"], &[X, X]),
    (&["pkey_free"], &[I]),
    (&["mremap"], &[P, U, U, X, P]),
    (&["msync"], &[P, U, X]),
    (&["mincore"], &[P, U, P]),
    (&["madvise"], &[P, U, U]),
    (&["process_madvise"], &[F, P, U, U, X]),
    (&["brk"], &[P]),
    (&["mseal", "map_shadow_stack"], &[P, U, X]),
    (&["mbind"], &[P, U, X, P, U, X]),
    (&["set_mempolicy"], &[X, P, U]),
    (&["get_mempolicy"], &[P, P, U, P, X]),
    (&["set_mempolicy_home_node"], &[P, U, U, X]),
    (&["migrate_pages"], &[I, U, P, P]),
    (&["move_pages"], &[I, U, P, P, P, X]),
    (&["remap_file_pages"], &[P, U, X, U, X]),
    (&["process_vm_readv", "process_vm_writev"], &[I, P, U, P, U, X]),
    (&["userfaultfd", "membarrier"], &[X]),
    // Processes.
    (&["execve"], &[S, P, P]),
    (&["execveat"], &[A, S, P, P, X]),
    (&["exit", "exit_group"], &[I]),
    (&["clone"], &[X, P, P, P, P]),
    (&["clone3"], &[P, U]),
    (&["wait4"], &[I, P, X, P]),
    (&["waitpid"], &[I, P, X]),
    (&["waitid"], &[U, I, P, X, P]),
    (&["kill", "tkill"], &[I, G]),
    (&["tgkill"], &[I, I, G]),
    (&["rt_sigqueueinfo"], &[I, G, P]),
    (&["rt_tgsigqueueinfo"], &[I, I, G, P]),
    (&["pidfd_open"], &[I, X]),
    (&["pidfd_send_signal"], &[F, G, P, X]),
    (&["pidfd_getfd"], &[F, F, X]),
    (&["process_mrelease"], &[F, X]),
    (&["unshare"], &[X]),
    (&["setns"], &[F, X]),
    (&["ptrace"], &[U, I, P, P]),
    (&["prctl"], &[U, X, X, X, X]),
    (&["arch_prctl"], &[X, X]),
    (&["seccomp"], &[U, X, P]),
    (&["getpgid", "getsid"], &[I]),
    (&["setpgid"], &[I, I]),
    (&["setuid", "setgid", "setfsuid", "setfsgid", "setuid32", "setgid32", "setfsuid32", "setfsgid32"], &[I]),
    (&["setreuid", "setregid", "setreuid32", "setregid32"], &[I, I]),
    (&["setresuid", "setresgid", "setresuid32", "setresgid32"], &[I, I, I]),
    (&["getresuid", "getresgid", "getresuid32", "getresgid32"], &[P, P, P]),
    (&["getgroups", "setgroups", "getgroups32", "setgroups32"], &[I, P]),
    (&["capget", "capset"], &[P, P]),
    (&["personality"], &[X]),
    (&["getpriority"], &[U, I]),
    (&["setpriority"], &[U, I, I]),
    (&["getrlimit", "setrlimit", "ugetrlimit"], &[U, P]),
    (&["prlimit64"], &[I, U, P, P]),
    (&["getrusage"], &[I, P]),
    (&["times", "sysinfo", "uname", "time"], &[P]),
    (&["sched_setparam", "sched_getparam", "sched_rr_get_interval"], &[I, P]),
    (&["sched_setscheduler"], &[I, I, P]),
    (&["sched_getscheduler", "sched_get_priority_max", "sched_get_priority_min"], &[I]),
    (&["sched_setaffinity", "sched_getaffinity"], &[I, U, P]),
    (&["sched_setattr"], &[I, P, X]),
    (&["sched_getattr"], &[I, P, U, X]),
    (&["ioprio_set"], &[U, I, X]),
    (&["ioprio_get"], &[U, I]),
    (&["set_tid_address"], &[P]),
    (&["set_robust_list"], &[P, U]),
    (&["get_robust_list"], &[I, P, P]),
    (&["rseq"], &[P, U, X, X]),
    (&["set_thread_area", "get_thread_area"], &[P]),
    (&["modify_ldt"], &[I, P, U]),
    (&["getcpu"], &[P, P, P]),
    (&["kcmp"], &[I, I, U, U, U]),
    // Signals.
    (&["rt_sigaction"], &[G, P, P, U]),
    (&["rt_sigprocmask"], &[U, P, P, U]),
    (&["rt_sigpending", "rt_sigsuspend"], &[P, U]),
    (&["rt_sigtimedwait", "rt_sigtimedwait_time64"], &[P, P, P, U]),
    (&["sigaltstack"], &[P, P]),
    // Time.
    (&["nanosleep", "gettimeofday", "settimeofday"], &[P, P]),
    (&["clock_gettime", "clock_settime", "clock_getres", "clock_gettime64", "clock_settime64", "clock_getres_time64",
        "clock_adjtime", "clock_adjtime64"], &[I, P]),
    (&["clock_nanosleep", "clock_nanosleep_time64"], &[I, X, P, P]),
    (&["adjtimex"], &[P]),
    (&["alarm"], &[U]),
    (&["getitimer"], &[U, P]),
    (&["setitimer"], &[U, P, P]),
    (&["timer_create"], &[I, P, P]),
    (&["timer_settime", "timer_settime64"], &[I, X, P, P]),
    (&["timer_gettime", "timer_gettime64"], &[I, P]),
    (&["timer_getoverrun", "timer_delete"], &[I]),
    (&["timerfd_create"], &[I, X]),
    (&["timerfd_settime", "timerfd_settime64"], &[F, X, P, P]),
    (&["timerfd_gettime", "timerfd_gettime64"], &[F, P]),
    // System V and POSIX messages, semaphores, memory.
    (&["shmget"], &[X, U, X]),
    (&["shmat"], &[I, P, X]),
    (&["shmctl"], &[I, U, P]),
    (&["shmdt"], &[P]),
    (&["semget"], &[X, I, X]),
    (&["semop"], &[I, P, U]),
    (&["semtimedop", "semtimedop_time64"], &[I, P, U, P]),
    (&["semctl"], &[I, I, U, X]),
    (&["msgget"], &[X, X]),
    (&["msgsnd"], &[I, P, U, X]),
    (&["msgrcv"], &[I, P, U, I, X]),
    (&["msgctl"], &[I, U, P]),
    (&["mq_open"], &[T, O, M, P]),
    (&["mq_unlink"], &[T]),
    (&["mq_timedsend", "mq_timedreceive", "mq_timedsend_time64", "mq_timedreceive_time64"], &[F, P, U, U, P]),
    (&["mq_notify"], &[F, P]),
    (&["mq_getsetattr"], &[F, P, P]),
    // Keys, security, the machine.
    (&["add_key"], &[T, T, P, U, I]),
    (&["request_key"], &[T, T, P, I]),
    (&["keyctl"], &[U, X, X, X, X]),
    (&["landlock_create_ruleset"], &[P, U, X]),
    (&["landlock_add_rule"], &[F, U, P, X]),
    (&["landlock_restrict_self"], &[F, X]),
    (&["lsm_get_self_attr"], &[U, P, P, X]),
    (&["lsm_set_self_attr"], &[U, P, U, X]),
    (&["lsm_list_modules"], &[P, P, X]),
    (&["bpf"], &[U, P, U]),
    (&["perf_event_open"], &[P, I, I, F, X]),
    (&["getrandom"], &[P, U, X]),
    (&["syslog"], &[U, P, I]),
    (&["reboot"], &[X, X, X, P]),
    (&["sethostname", "setdomainname"], &[P, U]),
    (&["iopl"], &[I]),
    (&["ioperm"], &[U, U, I]),
    (&["init_module"], &[P, U, T]),
    (&["finit_module"], &[F, T, X]),
    (&["delete_module"], &[T, X]),
    (&["kexec_load"], &[P, U, P, X]),
    (&["kexec_file_load"], &[F, F, U, P, X]),
];

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_sys::syscalls;

    #[test]
    fn every_name_is_a_call_s_and_stands_once() {
        let mut all: Vec<_> = names().collect();
        assert!(all.iter().all(|name| syscalls::find(name).is_some()), "{all:?}");
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        assert!(NETWORK.iter().chain(&PROCESS).all(|name| of(name).is_some()));
    }

    #[test]
    fn calls_that_kernels_serve_are_in_the_table() {
        // Removed from the kernel, or never there.
        const GONE: [&str; 16] = [
            "_sysctl",
            "create_module",
            "get_kernel_syms",
            "query_module",
            "nfsservctl",
            "getpmsg",
            "putpmsg",
            "afs_syscall",
            "tuxcall",
            "security",
            "lookup_dcookie",
            "epoll_ctl_old",
            "epoll_wait_old",
            "vserver",
            "sysfs",
            "ustat",
        ];
        for name in (0..).map_while(|number| (number < 600).then(|| syscalls::name(number))).flatten() {
            assert!(of(name).is_some() || GONE.contains(&name), "{name}");
        }
    }

    #[test]
    fn no_call_has_more_than_six_arguments() {
        assert!(TABLE.iter().all(|(_, kinds)| kinds.len() <= 6));
    }
}
