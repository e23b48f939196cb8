//! Names and numbers of the system calls of x86-64, and of the i386 calls that a 64-bit kernel also serves.
//!
//! Complete up to Linux 6.19. Numbers never change once a kernel with them is released.

/// A system call: its name and its number in each instruction set's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Syscall {
    /// As in `syscall(2)`, without `__NR_`.
    pub name: &'static str,
    x86_64: u16,
    i386: u16,
}

impl Syscall {
    /// Number for a 64-bit program, if there is one.
    #[must_use]
    pub const fn x86_64(self) -> Option<u16> {
        if self.x86_64 == NONE { None } else { Some(self.x86_64) }
    }

    /// Number for a 32-bit program (`int 0x80`), if there is one.
    #[must_use]
    pub const fn i386(self) -> Option<u16> {
        if self.i386 == NONE { None } else { Some(self.i386) }
    }
}

/// One more than the greatest number in either table.
pub const NUMBERS: usize = 471;

/// The name of x86-64 system call `number`.
#[must_use]
pub fn name(number: u32) -> Option<&'static str> {
    let row = *BY_NUMBER.get(usize::try_from(number).ok()?)?;
    (row != NONE).then(|| TABLE[usize::from(row)].name)
}

/// The name of i386 system call `number`. A search: for the few 32-bit calls of a report.
#[must_use]
pub fn name_i386(number: u32) -> Option<&'static str> {
    TABLE.iter().find(|call| call.i386().map(u32::from) == Some(number)).map(|call| call.name)
}

/// The x86-64 number of the system call `name`.
#[must_use]
pub fn number(name: &str) -> Option<u32> {
    find(name)?.x86_64().map(u32::from)
}

/// The system call `name`, of either instruction set.
#[must_use]
pub const fn find(name: &str) -> Option<Syscall> {
    let mut slot = hash(name.as_bytes());
    loop {
        let row = BY_NAME[slot % SLOTS];
        if row == NONE {
            return None;
        }
        let call = TABLE[row as usize];
        if equal(call.name.as_bytes(), name.as_bytes()) {
            return Some(call);
        }
        slot += 1;
    }
}

const NONE: u16 = u16::MAX;

const fn s(name: &'static str, x86_64: u16, i386: u16) -> Syscall {
    Syscall { name, x86_64, i386 }
}

/// Slots of the hash table of names: a power of two, at least twice the number of names.
const SLOTS: usize = 1024;

/// FNV-1a, 32 bits.
const fn hash(name: &[u8]) -> usize {
    let mut hash: u32 = 0x811c_9dc5;
    let mut i = 0;
    while i < name.len() {
        hash = (hash ^ name[i] as u32).wrapping_mul(0x0100_0193);
        i += 1;
    }
    (hash ^ hash >> 16) as usize
}

/// `==`, which is not const.
const fn equal(one: &[u8], other: &[u8]) -> bool {
    let mut i = 0;
    while i < one.len() && i < other.len() && one[i] == other[i] {
        i += 1;
    }
    i == one.len() && i == other.len()
}

/// Rows of [`TABLE`] by hash of the name, with linear probing; made at compile time.
static BY_NAME: [u16; SLOTS] = {
    let mut slots = [NONE; SLOTS];
    let mut row = 0;
    while row < TABLE.len() {
        let mut slot = hash(TABLE[row].name.as_bytes()) % SLOTS;
        while slots[slot] != NONE {
            slot = (slot + 1) % SLOTS;
        }
        slots[slot] = narrow(row);
        row += 1;
    }
    slots
};

/// Rows of [`TABLE`] by x86-64 number; made at compile time.
static BY_NUMBER: [u16; NUMBERS] = {
    let mut rows = [NONE; NUMBERS];
    let mut row = 0;
    while row < TABLE.len() {
        if let Some(number) = TABLE[row].x86_64() {
            rows[number as usize] = narrow(row);
        }
        row += 1;
    }
    rows
};

#[expect(clippy::cast_possible_truncation, reason = "try_from is not const; the bound is asserted")]
const fn narrow(row: usize) -> u16 {
    assert!(row < NONE as usize);
    row as u16
}

/// In order of the x86-64 number; those only i386 has come last, in order of theirs.
#[rustfmt::skip]
static TABLE: &[Syscall] = &[
    s("read", 0, 3),
    s("write", 1, 4),
    s("open", 2, 5),
    s("close", 3, 6),
    s("stat", 4, 106),
    s("fstat", 5, 108),
    s("lstat", 6, 107),
    s("poll", 7, 168),
    s("lseek", 8, 19),
    s("mmap", 9, 90),
    s("mprotect", 10, 125),
    s("munmap", 11, 91),
    s("brk", 12, 45),
    s("rt_sigaction", 13, 174),
    s("rt_sigprocmask", 14, 175),
    s("rt_sigreturn", 15, 173),
    s("ioctl", 16, 54),
    s("pread64", 17, 180),
    s("pwrite64", 18, 181),
    s("readv", 19, 145),
    s("writev", 20, 146),
    s("access", 21, 33),
    s("pipe", 22, 42),
    s("select", 23, 82),
    s("sched_yield", 24, 158),
    s("mremap", 25, 163),
    s("msync", 26, 144),
    s("mincore", 27, 218),
    s("madvise", 28, 219),
    s("shmget", 29, 395),
    s("shmat", 30, 397),
    s("shmctl", 31, 396),
    s("dup", 32, 41),
    s("dup2", 33, 63),
    s("pause", 34, 29),
    s("nanosleep", 35, 162),
    s("getitimer", 36, 105),
    s("alarm", 37, 27),
    s("setitimer", 38, 104),
    s("getpid", 39, 20),
    s("sendfile", 40, 187),
    s("socket", 41, 359),
    s("connect", 42, 362),
    s("accept", 43, NONE),
    s("sendto", 44, 369),
    s("recvfrom", 45, 371),
    s("sendmsg", 46, 370),
    s("recvmsg", 47, 372),
    s("shutdown", 48, 373),
    s("bind", 49, 361),
    s("listen", 50, 363),
    s("getsockname", 51, 367),
    s("getpeername", 52, 368),
    s("socketpair", 53, 360),
    s("setsockopt", 54, 366),
    s("getsockopt", 55, 365),
    s("clone", 56, 120),
    s("fork", 57, 2),
    s("vfork", 58, 190),
    s("execve", 59, 11),
    s("exit", 60, 1),
    s("wait4", 61, 114),
    s("kill", 62, 37),
    s("uname", 63, 122),
    s("semget", 64, 393),
    s("semop", 65, NONE),
    s("semctl", 66, 394),
    s("shmdt", 67, 398),
    s("msgget", 68, 399),
    s("msgsnd", 69, 400),
    s("msgrcv", 70, 401),
    s("msgctl", 71, 402),
    s("fcntl", 72, 55),
    s("flock", 73, 143),
    s("fsync", 74, 118),
    s("fdatasync", 75, 148),
    s("truncate", 76, 92),
    s("ftruncate", 77, 93),
    s("getdents", 78, 141),
    s("getcwd", 79, 183),
    s("chdir", 80, 12),
    s("fchdir", 81, 133),
    s("rename", 82, 38),
    s("mkdir", 83, 39),
    s("rmdir", 84, 40),
    s("creat", 85, 8),
    s("link", 86, 9),
    s("unlink", 87, 10),
    s("symlink", 88, 83),
    s("readlink", 89, 85),
    s("chmod", 90, 15),
    s("fchmod", 91, 94),
    s("chown", 92, 182),
    s("fchown", 93, 95),
    s("lchown", 94, 16),
    s("umask", 95, 60),
    s("gettimeofday", 96, 78),
    s("getrlimit", 97, 76),
    s("getrusage", 98, 77),
    s("sysinfo", 99, 116),
    s("times", 100, 43),
    s("ptrace", 101, 26),
    s("getuid", 102, 24),
    s("syslog", 103, 103),
    s("getgid", 104, 47),
    s("setuid", 105, 23),
    s("setgid", 106, 46),
    s("geteuid", 107, 49),
    s("getegid", 108, 50),
    s("setpgid", 109, 57),
    s("getppid", 110, 64),
    s("getpgrp", 111, 65),
    s("setsid", 112, 66),
    s("setreuid", 113, 70),
    s("setregid", 114, 71),
    s("getgroups", 115, 80),
    s("setgroups", 116, 81),
    s("setresuid", 117, 164),
    s("getresuid", 118, 165),
    s("setresgid", 119, 170),
    s("getresgid", 120, 171),
    s("getpgid", 121, 132),
    s("setfsuid", 122, 138),
    s("setfsgid", 123, 139),
    s("getsid", 124, 147),
    s("capget", 125, 184),
    s("capset", 126, 185),
    s("rt_sigpending", 127, 176),
    s("rt_sigtimedwait", 128, 177),
    s("rt_sigqueueinfo", 129, 178),
    s("rt_sigsuspend", 130, 179),
    s("sigaltstack", 131, 186),
    s("utime", 132, 30),
    s("mknod", 133, 14),
    s("uselib", 134, 86),
    s("personality", 135, 136),
    s("ustat", 136, 62),
    s("statfs", 137, 99),
    s("fstatfs", 138, 100),
    s("sysfs", 139, 135),
    s("getpriority", 140, 96),
    s("setpriority", 141, 97),
    s("sched_setparam", 142, 154),
    s("sched_getparam", 143, 155),
    s("sched_setscheduler", 144, 156),
    s("sched_getscheduler", 145, 157),
    s("sched_get_priority_max", 146, 159),
    s("sched_get_priority_min", 147, 160),
    s("sched_rr_get_interval", 148, 161),
    s("mlock", 149, 150),
    s("munlock", 150, 151),
    s("mlockall", 151, 152),
    s("munlockall", 152, 153),
    s("vhangup", 153, 111),
    s("modify_ldt", 154, 123),
    s("pivot_root", 155, 217),
    s("_sysctl", 156, 149),
    s("prctl", 157, 172),
    s("arch_prctl", 158, 384),
    s("adjtimex", 159, 124),
    s("setrlimit", 160, 75),
    s("chroot", 161, 61),
    s("sync", 162, 36),
    s("acct", 163, 51),
    s("settimeofday", 164, 79),
    s("mount", 165, 21),
    s("umount2", 166, 52),
    s("swapon", 167, 87),
    s("swapoff", 168, 115),
    s("reboot", 169, 88),
    s("sethostname", 170, 74),
    s("setdomainname", 171, 121),
    s("iopl", 172, 110),
    s("ioperm", 173, 101),
    s("create_module", 174, 127),
    s("init_module", 175, 128),
    s("delete_module", 176, 129),
    s("get_kernel_syms", 177, 130),
    s("query_module", 178, 167),
    s("quotactl", 179, 131),
    s("nfsservctl", 180, 169),
    s("getpmsg", 181, 188),
    s("putpmsg", 182, 189),
    s("afs_syscall", 183, 137),
    s("tuxcall", 184, NONE),
    s("security", 185, NONE),
    s("gettid", 186, 224),
    s("readahead", 187, 225),
    s("setxattr", 188, 226),
    s("lsetxattr", 189, 227),
    s("fsetxattr", 190, 228),
    s("getxattr", 191, 229),
    s("lgetxattr", 192, 230),
    s("fgetxattr", 193, 231),
    s("listxattr", 194, 232),
    s("llistxattr", 195, 233),
    s("flistxattr", 196, 234),
    s("removexattr", 197, 235),
    s("lremovexattr", 198, 236),
    s("fremovexattr", 199, 237),
    s("tkill", 200, 238),
    s("time", 201, 13),
    s("futex", 202, 240),
    s("sched_setaffinity", 203, 241),
    s("sched_getaffinity", 204, 242),
    s("set_thread_area", 205, 243),
    s("io_setup", 206, 245),
    s("io_destroy", 207, 246),
    s("io_getevents", 208, 247),
    s("io_submit", 209, 248),
    s("io_cancel", 210, 249),
    s("get_thread_area", 211, 244),
    s("lookup_dcookie", 212, 253),
    s("epoll_create", 213, 254),
    s("epoll_ctl_old", 214, NONE),
    s("epoll_wait_old", 215, NONE),
    s("remap_file_pages", 216, 257),
    s("getdents64", 217, 220),
    s("set_tid_address", 218, 258),
    s("restart_syscall", 219, 0),
    s("semtimedop", 220, NONE),
    s("fadvise64", 221, 250),
    s("timer_create", 222, 259),
    s("timer_settime", 223, 260),
    s("timer_gettime", 224, 261),
    s("timer_getoverrun", 225, 262),
    s("timer_delete", 226, 263),
    s("clock_settime", 227, 264),
    s("clock_gettime", 228, 265),
    s("clock_getres", 229, 266),
    s("clock_nanosleep", 230, 267),
    s("exit_group", 231, 252),
    s("epoll_wait", 232, 256),
    s("epoll_ctl", 233, 255),
    s("tgkill", 234, 270),
    s("utimes", 235, 271),
    s("vserver", 236, 273),
    s("mbind", 237, 274),
    s("set_mempolicy", 238, 276),
    s("get_mempolicy", 239, 275),
    s("mq_open", 240, 277),
    s("mq_unlink", 241, 278),
    s("mq_timedsend", 242, 279),
    s("mq_timedreceive", 243, 280),
    s("mq_notify", 244, 281),
    s("mq_getsetattr", 245, 282),
    s("kexec_load", 246, 283),
    s("waitid", 247, 284),
    s("add_key", 248, 286),
    s("request_key", 249, 287),
    s("keyctl", 250, 288),
    s("ioprio_set", 251, 289),
    s("ioprio_get", 252, 290),
    s("inotify_init", 253, 291),
    s("inotify_add_watch", 254, 292),
    s("inotify_rm_watch", 255, 293),
    s("migrate_pages", 256, 294),
    s("openat", 257, 295),
    s("mkdirat", 258, 296),
    s("mknodat", 259, 297),
    s("fchownat", 260, 298),
    s("futimesat", 261, 299),
    s("newfstatat", 262, NONE),
    s("unlinkat", 263, 301),
    s("renameat", 264, 302),
    s("linkat", 265, 303),
    s("symlinkat", 266, 304),
    s("readlinkat", 267, 305),
    s("fchmodat", 268, 306),
    s("faccessat", 269, 307),
    s("pselect6", 270, 308),
    s("ppoll", 271, 309),
    s("unshare", 272, 310),
    s("set_robust_list", 273, 311),
    s("get_robust_list", 274, 312),
    s("splice", 275, 313),
    s("tee", 276, 315),
    s("sync_file_range", 277, 314),
    s("vmsplice", 278, 316),
    s("move_pages", 279, 317),
    s("utimensat", 280, 320),
    s("epoll_pwait", 281, 319),
    s("signalfd", 282, 321),
    s("timerfd_create", 283, 322),
    s("eventfd", 284, 323),
    s("fallocate", 285, 324),
    s("timerfd_settime", 286, 325),
    s("timerfd_gettime", 287, 326),
    s("accept4", 288, 364),
    s("signalfd4", 289, 327),
    s("eventfd2", 290, 328),
    s("epoll_create1", 291, 329),
    s("dup3", 292, 330),
    s("pipe2", 293, 331),
    s("inotify_init1", 294, 332),
    s("preadv", 295, 333),
    s("pwritev", 296, 334),
    s("rt_tgsigqueueinfo", 297, 335),
    s("perf_event_open", 298, 336),
    s("recvmmsg", 299, 337),
    s("fanotify_init", 300, 338),
    s("fanotify_mark", 301, 339),
    s("prlimit64", 302, 340),
    s("name_to_handle_at", 303, 341),
    s("open_by_handle_at", 304, 342),
    s("clock_adjtime", 305, 343),
    s("syncfs", 306, 344),
    s("sendmmsg", 307, 345),
    s("setns", 308, 346),
    s("getcpu", 309, 318),
    s("process_vm_readv", 310, 347),
    s("process_vm_writev", 311, 348),
    s("kcmp", 312, 349),
    s("finit_module", 313, 350),
    s("sched_setattr", 314, 351),
    s("sched_getattr", 315, 352),
    s("renameat2", 316, 353),
    s("seccomp", 317, 354),
    s("getrandom", 318, 355),
    s("memfd_create", 319, 356),
    s("kexec_file_load", 320, NONE),
    s("bpf", 321, 357),
    s("execveat", 322, 358),
    s("userfaultfd", 323, 374),
    s("membarrier", 324, 375),
    s("mlock2", 325, 376),
    s("copy_file_range", 326, 377),
    s("preadv2", 327, 378),
    s("pwritev2", 328, 379),
    s("pkey_mprotect", 329, 380),
    s("pkey_alloc", 330, 381),
    s("pkey_free", 331, 382),
    s("statx", 332, 383),
    s("io_pgetevents", 333, 385),
    s("rseq", 334, 386),
    s("uretprobe", 335, NONE),
    s("uprobe", 336, NONE),
    s("pidfd_send_signal", 424, 424),
    s("io_uring_setup", 425, 425),
    s("io_uring_enter", 426, 426),
    s("io_uring_register", 427, 427),
    s("open_tree", 428, 428),
    s("move_mount", 429, 429),
    s("fsopen", 430, 430),
    s("fsconfig", 431, 431),
    s("fsmount", 432, 432),
    s("fspick", 433, 433),
    s("pidfd_open", 434, 434),
    s("clone3", 435, 435),
    s("close_range", 436, 436),
    s("openat2", 437, 437),
    s("pidfd_getfd", 438, 438),
    s("faccessat2", 439, 439),
    s("process_madvise", 440, 440),
    s("epoll_pwait2", 441, 441),
    s("mount_setattr", 442, 442),
    s("quotactl_fd", 443, 443),
    s("landlock_create_ruleset", 444, 444),
    s("landlock_add_rule", 445, 445),
    s("landlock_restrict_self", 446, 446),
    s("memfd_secret", 447, 447),
    s("process_mrelease", 448, 448),
    s("futex_waitv", 449, 449),
    s("set_mempolicy_home_node", 450, 450),
    s("cachestat", 451, 451),
    s("fchmodat2", 452, 452),
    s("map_shadow_stack", 453, 453),
    s("futex_wake", 454, 454),
    s("futex_wait", 455, 455),
    s("futex_requeue", 456, 456),
    s("statmount", 457, 457),
    s("listmount", 458, 458),
    s("lsm_get_self_attr", 459, 459),
    s("lsm_set_self_attr", 460, 460),
    s("lsm_list_modules", 461, 461),
    s("mseal", 462, 462),
    s("setxattrat", 463, 463),
    s("getxattrat", 464, 464),
    s("listxattrat", 465, 465),
    s("removexattrat", 466, 466),
    s("open_tree_attr", 467, 467),
    s("file_getattr", 468, 468),
    s("file_setattr", 469, 469),
    s("listns", 470, 470),
    s("waitpid", NONE, 7),
    s("break", NONE, 17),
    s("oldstat", NONE, 18),
    s("umount", NONE, 22),
    s("stime", NONE, 25),
    s("oldfstat", NONE, 28),
    s("stty", NONE, 31),
    s("gtty", NONE, 32),
    s("nice", NONE, 34),
    s("ftime", NONE, 35),
    s("prof", NONE, 44),
    s("signal", NONE, 48),
    s("lock", NONE, 53),
    s("mpx", NONE, 56),
    s("ulimit", NONE, 58),
    s("oldolduname", NONE, 59),
    s("sigaction", NONE, 67),
    s("sgetmask", NONE, 68),
    s("ssetmask", NONE, 69),
    s("sigsuspend", NONE, 72),
    s("sigpending", NONE, 73),
    s("oldlstat", NONE, 84),
    s("readdir", NONE, 89),
    s("profil", NONE, 98),
    s("socketcall", NONE, 102),
    s("olduname", NONE, 109),
    s("idle", NONE, 112),
    s("vm86old", NONE, 113),
    s("ipc", NONE, 117),
    s("sigreturn", NONE, 119),
    s("sigprocmask", NONE, 126),
    s("bdflush", NONE, 134),
    s("_llseek", NONE, 140),
    s("_newselect", NONE, 142),
    s("vm86", NONE, 166),
    s("ugetrlimit", NONE, 191),
    s("mmap2", NONE, 192),
    s("truncate64", NONE, 193),
    s("ftruncate64", NONE, 194),
    s("stat64", NONE, 195),
    s("lstat64", NONE, 196),
    s("fstat64", NONE, 197),
    s("lchown32", NONE, 198),
    s("getuid32", NONE, 199),
    s("getgid32", NONE, 200),
    s("geteuid32", NONE, 201),
    s("getegid32", NONE, 202),
    s("setreuid32", NONE, 203),
    s("setregid32", NONE, 204),
    s("getgroups32", NONE, 205),
    s("setgroups32", NONE, 206),
    s("fchown32", NONE, 207),
    s("setresuid32", NONE, 208),
    s("getresuid32", NONE, 209),
    s("setresgid32", NONE, 210),
    s("getresgid32", NONE, 211),
    s("chown32", NONE, 212),
    s("setuid32", NONE, 213),
    s("setgid32", NONE, 214),
    s("setfsuid32", NONE, 215),
    s("setfsgid32", NONE, 216),
    s("fcntl64", NONE, 221),
    s("sendfile64", NONE, 239),
    s("statfs64", NONE, 268),
    s("fstatfs64", NONE, 269),
    s("fadvise64_64", NONE, 272),
    s("fstatat64", NONE, 300),
    s("clock_gettime64", NONE, 403),
    s("clock_settime64", NONE, 404),
    s("clock_adjtime64", NONE, 405),
    s("clock_getres_time64", NONE, 406),
    s("clock_nanosleep_time64", NONE, 407),
    s("timer_gettime64", NONE, 408),
    s("timer_settime64", NONE, 409),
    s("timerfd_gettime64", NONE, 410),
    s("timerfd_settime64", NONE, 411),
    s("utimensat_time64", NONE, 412),
    s("pselect6_time64", NONE, 413),
    s("ppoll_time64", NONE, 414),
    s("io_pgetevents_time64", NONE, 416),
    s("recvmmsg_time64", NONE, 417),
    s("mq_timedsend_time64", NONE, 418),
    s("mq_timedreceive_time64", NONE, 419),
    s("semtimedop_time64", NONE, 420),
    s("rt_sigtimedwait_time64", NONE, 421),
    s("futex_time64", NONE, 422),
    s("sched_rr_get_interval_time64", NONE, 423),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_by_name_and_by_number() {
        for call in TABLE {
            assert_eq!(find(call.name), Some(*call));
            if let Some(number) = call.x86_64() {
                assert_eq!(name(u32::from(number)), Some(call.name));
            }
            let greatest = call.x86_64().max(call.i386()).expect("a row has a number");
            assert!(usize::from(greatest) < NUMBERS);
        }
    }

    #[test]
    fn no_number_is_given_twice() {
        for numbers in [TABLE.iter().map(|c| c.x86_64()).collect(), TABLE.iter().map(|c| c.i386()).collect()]
        {
            let numbers: Vec<Option<u16>> = numbers;
            let mut given: Vec<u16> = numbers.into_iter().flatten().collect();
            given.sort_unstable();
            assert!(given.windows(2).all(|pair| pair[0] != pair[1]));
        }
    }

    #[test]
    fn what_does_not_exist_is_not_found() {
        for name in ["", "READ", "read ", "sys_read", "no_such_call"] {
            assert_eq!(find(name), None);
        }
        assert_eq!(number("socketcall"), None);
        assert_eq!(find("socketcall").and_then(Syscall::i386), Some(102));
        assert_eq!([name(337), name(471), name(0x4000_0000), name(u32::MAX)], [None; 4]);
    }

    #[test]
    fn numbers_agree_with_libc() {
        for (name, expect) in [
            ("read", libc::SYS_read),
            ("getppid", libc::SYS_getppid),
            ("clone3", libc::SYS_clone3),
            ("openat2", libc::SYS_openat2),
            ("mount_setattr", libc::SYS_mount_setattr),
            ("futex_waitv", libc::SYS_futex_waitv),
            ("set_mempolicy_home_node", libc::SYS_set_mempolicy_home_node),
        ] {
            assert_eq!(number(name).map(i64::from), Some(expect), "{name}");
        }
    }
}
