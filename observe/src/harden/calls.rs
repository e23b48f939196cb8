//! System calls that a filter must allow though no recorded program made them: few, each with its reason.

/// Who is to run the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Engine {
    /// skiff itself.
    Skiff,
    /// docker, with runc.
    Docker,
    /// podman, with crun.
    Podman,
    /// Kubernetes, with containerd or CRI-O and runc.
    Kubernetes,
}

impl Engine {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 4] = [Self::Skiff, Self::Docker, Self::Podman, Self::Kubernetes];

    /// As it is written on command lines, and the name of its directory.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Skiff => "skiff",
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Kubernetes => "kubernetes",
        }
    }

    /// The engine of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|engine| engine.name() == name)
    }

    /// What its runtime calls from when the filter is in force until the program runs.
    #[must_use]
    pub const fn launch(self) -> Launch {
        match self {
            Self::Skiff => SKIFF,
            Self::Podman => CRUN,
            Self::Docker | Self::Kubernetes => RUNC,
        }
    }
}

impl Engine {
    /// What its init calls, which is process 1 with `--init`, has the same filter, and starts, signals and reaps.
    #[must_use]
    pub const fn init(self) -> &'static [&'static str] {
        match self {
            Self::Skiff => SKIFF_INIT,
            Self::Docker => TINI,
            Self::Podman => CATATONIT,
            Self::Kubernetes => &[],
        }
    }
}

/// A runtime's own calls under the filter.
#[derive(Debug, Clone, Copy)]
pub struct Launch {
    /// The runtime, for people.
    pub runtime: &'static str,
    /// The calls, sorted.
    pub calls: &'static [&'static str],
}

/// Nothing happens between filter and program. What goes wrong there is told through shared memory, and the process ends.
const SKIFF: Launch = Launch { runtime: "skiff", calls: &["execve", "exit_group"] };

/// Seen with crun 1.8: the sync socket is closed; `close_range` closes what was inherited, and `write` tells of failures.
const CRUN: Launch =
    Launch { runtime: "crun", calls: &["close", "close_range", "execve", "exit_group", "fcntl", "write"] };

/// Seen with runc 1.1 under `no-new-privileges`, where the filter is loaded last: the FIFO of `start` is opened and written to,
/// descriptors are closed, and meanwhile the threads of the Go runtime are made, sleep, wake and signal each other. The newer calls
/// for the same are those of runc 1.2 to 1.4.
#[rustfmt::skip] // a table
const RUNC: Launch = Launch {
    runtime: "runc",
    calls: &[
        "clone", "clone3", "close", "close_range", "epoll_ctl", "epoll_pwait", "execve", "exit", "exit_group",
        "fcntl", "fstat", "fstatfs", "futex", "getdents64", "getpid", "gettid", "madvise", "mmap", "mprotect",
        "munmap", "nanosleep", "newfstatat", "openat", "openat2", "prctl", "read", "readlinkat", "rseq",
        "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sched_yield", "set_robust_list", "sigaltstack", "statx",
        "tgkill", "write",
    ],
};

/// skiff itself, executed by its descriptor.
#[rustfmt::skip] // a table
const SKIFF_INIT: &[&str] = &[
    "arch_prctl", "brk", "execveat", "exit_group", "kill", "mmap", "mprotect", "munmap", "poll", "prctl",
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigtimedwait", "set_tid_address", "sigaltstack", "wait4", "write",
];

/// Seen with tini 0.19, which docker calls docker-init: with what a C library does at its start, and in the child before it is the program.
#[rustfmt::skip] // a table
const TINI: &[&str] = &[
    "access", "arch_prctl", "brk", "clone", "close", "execve", "exit_group", "getpgrp", "getpid", "getrandom", "ioctl",
    "kill", "mmap", "mprotect", "munmap", "newfstatat", "openat", "prctl", "pread64", "prlimit64", "read", "readlink",
    "rseq", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigtimedwait", "set_robust_list", "set_tid_address",
    "setpgid", "wait4", "write",
];

/// Seen with catatonit 0.1, likewise.
#[rustfmt::skip] // a table
const CATATONIT: &[&str] = &[
    "arch_prctl", "brk", "clone", "close_range", "execve", "exit_group", "getpgrp", "getpid", "getrandom", "ioctl",
    "kill", "mprotect", "openat", "prctl", "prlimit64", "read", "readlink", "rseq", "rt_sigprocmask", "rt_sigreturn",
    "set_robust_list", "set_tid_address", "setpgid", "signalfd4", "wait4", "write",
];

/// A call that every program may come to make, whether it was seen to or not.
#[derive(Debug, Clone, Copy)]
pub struct Always {
    /// Its name.
    pub call: &'static str,
    /// Why a recording may be without it.
    pub reason: &'static str,
}

/// All of them, sorted.
pub(super) const ALWAYS: [Always; 10] = [
    always("clock_gettime", "usually without entering the kernel, but not with every clock source"),
    always("exit", "the end of a thread that the recording may have cut off"),
    always("exit_group", "the end of a program that the recording may have cut off"),
    always("futex", "only when threads, or a library's locks, happen to be in each other's way"),
    always("getcpu", "usually without entering the kernel"),
    always("gettimeofday", "usually without entering the kernel, but not with every clock source"),
    always("restart_syscall", "made by the kernel's hand when a signal stops a program that sleeps"),
    always("rt_sigreturn", "the return of a signal handler; a program that may not make it is killed"),
    always("sched_yield", "only when a lock is contended"),
    always("time", "usually without entering the kernel, but not with every clock source"),
];

/// The same for programs of the 32-bit table.
pub(super) const ALWAYS_COMPAT: [&str; 3] = ["clock_gettime64", "futex_time64", "sigreturn"];

/// Calls of which a program makes one or another by chance: by how much has arrived, how many pieces it is in, how much memory
/// is at hand. None of a row does what the others cannot, so all are allowed if one was made.
#[rustfmt::skip] // a table
pub(super) const SIBLINGS: [&[&str]; 14] = [
    &["accept", "accept4"],
    &["brk", "madvise", "mmap", "mmap2", "mremap", "munmap"],
    &["clock_nanosleep", "nanosleep"],
    &["close", "close_range"],
    &["epoll_pwait", "epoll_pwait2", "epoll_wait"],
    &["poll", "ppoll"],
    &["pread64", "preadv", "preadv2"],
    &["pselect6", "select"],
    &["pwrite64", "pwritev", "pwritev2"],
    &["read", "readv"],
    &["recvfrom", "recvmmsg", "recvmsg"],
    &["sendmmsg", "sendmsg", "sendto"],
    &["wait4", "waitid"],
    &["write", "writev"],
];

const fn always(call: &'static str, reason: &'static str) -> Always {
    Always { call, reason }
}
