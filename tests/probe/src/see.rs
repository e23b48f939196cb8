//! Everything that a process can see of its surroundings, as JSON.

use std::collections::BTreeMap;
use std::fs;
use std::mem::MaybeUninit;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};
use serde_json::{Map, Value, json};

use crate::out;

const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];

const RLIMITS: [(&str, Resource); 16] = [
    ("as", Resource::RLIMIT_AS),
    ("core", Resource::RLIMIT_CORE),
    ("cpu", Resource::RLIMIT_CPU),
    ("data", Resource::RLIMIT_DATA),
    ("fsize", Resource::RLIMIT_FSIZE),
    ("locks", Resource::RLIMIT_LOCKS),
    ("memlock", Resource::RLIMIT_MEMLOCK),
    ("msgqueue", Resource::RLIMIT_MSGQUEUE),
    ("nice", Resource::RLIMIT_NICE),
    ("nofile", Resource::RLIMIT_NOFILE),
    ("nproc", Resource::RLIMIT_NPROC),
    ("rss", Resource::RLIMIT_RSS),
    ("rtprio", Resource::RLIMIT_RTPRIO),
    ("rttime", Resource::RLIMIT_RTTIME),
    ("sigpending", Resource::RLIMIT_SIGPENDING),
    ("stack", Resource::RLIMIT_STACK),
];

/// Prints one object with all of it.
pub(crate) fn print() {
    // Before anything is opened, so that no descriptor of ours is among them.
    let fds = open_files();
    let seen = json!({
        "fds": fds,
        "args": crate::arguments(),
        "env": std::env::vars().collect::<BTreeMap<_, _>>(),
        "cwd": std::env::current_dir().map(|dir| dir.display().to_string()).unwrap_or_default(),
        "ids": ids(),
        "status": status(),
        "namespaces": namespaces(),
        "rlimits": rlimits(),
        "hostname": text("/proc/sys/kernel/hostname"),
        "domainname": text("/proc/sys/kernel/domainname"),
        "oom_score_adj": text("/proc/self/oom_score_adj"),
        "cgroup": text("/proc/self/cgroup"),
        "mounts": mounts(),
        "dev": devices(),
        "interfaces": names("/sys/class/net"),
        "processes": names("/proc").into_iter().filter(|name| name.bytes().all(|b| b.is_ascii_digit())).collect::<Vec<_>>(),
        "terminal": terminal(),
        "environ": std::env::vars().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>(),
        "scheduling": scheduling(),
        "personality": personality(),
        "machine": nix::sys::utsname::uname().map(|it| it.machine().to_string_lossy().into_owned()).unwrap_or_default(),
        "clocks": clocks(),
        "id_maps": { "uid": text("/proc/self/uid_map"), "gid": text("/proc/self/gid_map"), "setgroups": text("/proc/self/setgroups") },
        "memory_policy": memory_policy(),
    });
    out::line(&seen.to_string());
}

/// Which standard streams are terminals, and the size of the first that is.
pub(crate) fn terminal() -> Value {
    // SAFETY: isatty takes any number.
    let is_terminal = |fd| unsafe { libc::isatty(fd) } == 1;
    let streams: Vec<bool> = (0..3).map(is_terminal).collect();
    let size = (0..3).find(|fd| is_terminal(*fd)).and_then(window_size);
    json!({ "streams": streams, "size": size, "name": link("/proc/self/fd/0") })
}

/// Rows and columns of the terminal behind `fd`.
pub(crate) fn window_size(fd: i32) -> Option<(u16, u16)> {
    let mut size = MaybeUninit::<libc::winsize>::zeroed();
    // SAFETY: the kernel fills exactly this structure.
    let result = unsafe { libc::ioctl(fd, libc::TIOCGWINSZ, size.as_mut_ptr()) };
    // SAFETY: zeroed is a valid winsize, and the kernel may have filled it.
    let size = unsafe { size.assume_init() };
    (result == 0).then_some((size.ws_row, size.ws_col))
}

/// What the kernel's schedulers, of the processor and of the disks, know of this process.
fn scheduling() -> Value {
    let mut attributes = [0u8; 56];
    // SAFETY: the kernel fills at most the size that is passed.
    let got =
        unsafe { libc::syscall(libc::SYS_sched_getattr, 0, attributes.as_mut_ptr(), attributes.len(), 0) };
    // SAFETY: takes numbers: this process.
    let io = unsafe { libc::syscall(libc::SYS_ioprio_get, 1, 0) };
    let word = |at: usize| attributes[at..at + 4].try_into().map(u32::from_ne_bytes).unwrap_or_default();
    let long = |at: usize| attributes[at..at + 8].try_into().map(u64::from_ne_bytes).unwrap_or_default();
    json!({
        "known": got == 0, "policy": word(4), "flags": long(8), "nice": word(16).cast_signed(), "priority": word(20),
        "runtime": long(24), "deadline": long(32), "period": long(40), "io_class": io >> 13, "io_priority": io & 0x1fff,
    })
}

/// The execution domain, read without changing it.
fn personality() -> i64 {
    // SAFETY: this value asks and sets nothing.
    unsafe { libc::syscall(libc::SYS_personality, 0xffff_ffffu32) }
}

/// Whole seconds of the clocks that a time namespace can shift.
fn clocks() -> Value {
    use nix::time::{ClockId, clock_gettime};
    let seconds = |clock| clock_gettime(clock).map(|time| time.tv_sec()).unwrap_or(-1);
    json!({ "monotonic": seconds(ClockId::CLOCK_MONOTONIC), "boottime": seconds(ClockId::CLOCK_BOOTTIME) })
}

/// The memory policy of this process with its flags, and the first nodes of its mask.
fn memory_policy() -> Value {
    let (mut mode, mut nodes) = (0i32, [0u64; 16]);
    // SAFETY: the kernel fills the number and at most 1024 bits of the mask.
    let got =
        unsafe { libc::syscall(libc::SYS_get_mempolicy, &raw mut mode, nodes.as_mut_ptr(), 1024, 0, 0) };
    json!({ "known": got == 0, "mode": mode, "nodes": nodes[0] })
}

fn open_files() -> BTreeMap<String, String> {
    // SAFETY: F_GETFD takes any number.
    let is_open = |fd: &i32| unsafe { libc::fcntl(*fd, libc::F_GETFD) } >= 0;
    (0..4096).filter(is_open).map(|fd| (fd.to_string(), link(&format!("/proc/self/fd/{fd}")))).collect()
}

fn ids() -> Value {
    use nix::unistd::{getegid, geteuid, getgid, getpgrp, getpid, getppid, getsid, getuid};
    let mask = nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    json!({
        "uid": getuid().as_raw(), "euid": geteuid().as_raw(), "gid": getgid().as_raw(), "egid": getegid().as_raw(),
        "pid": getpid().as_raw(), "ppid": getppid().as_raw(), "pgid": getpgrp().as_raw(),
        "sid": getsid(None).map(nix::unistd::Pid::as_raw).unwrap_or(-1), "umask": format!("{:04o}", mask.bits()),
    })
}

fn status() -> Map<String, Value> {
    let status = text("/proc/self/status");
    status.lines().filter_map(|line| line.split_once(':')).map(|(k, v)| (k.into(), json!(v.trim()))).collect()
}

pub(crate) fn namespaces() -> BTreeMap<&'static str, String> {
    NAMESPACES.iter().map(|name| (*name, link(&format!("/proc/self/ns/{name}")))).collect()
}

fn rlimits() -> Map<String, Value> {
    let read = |(name, resource): &(&str, Resource)| {
        let (soft, hard) = getrlimit(*resource).unwrap_or_default();
        (name.to_string(), json!([soft, hard]))
    };
    RLIMITS.iter().map(read).collect()
}

/// proc_pid_mountinfo(5): `36 35 98:0 /root /target opts optional… - type source super`.
fn mounts() -> Vec<Value> {
    let table = text("/proc/self/mountinfo");
    let parse = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let left: Vec<&str> = left.split(' ').collect();
        let right: Vec<&str> = right.split(' ').collect();
        Some(json!({
            "root": left.get(3)?, "target": left.get(4)?, "options": left.get(5)?, "tags": left[6..].join(" "),
            "type": right.first()?, "source": right.get(1)?, "super": right.get(2)?,
        }))
    };
    table.lines().filter_map(parse).collect()
}

fn devices() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    describe_below(Path::new("/dev"), &mut found);
    found
}

fn describe_below(dir: &Path, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, Ok(meta)) = (entry.path(), entry.path().symlink_metadata()) else { continue };
        let kind = meta.file_type();
        let mode = meta.permissions().mode() & 0o7777;
        let device = format!("{}:{}", libc::major(meta.rdev()), libc::minor(meta.rdev()));
        let line = if kind.is_symlink() {
            format!("l {}", link(&path.display().to_string()))
        } else if kind.is_char_device() {
            format!("c {device} {mode:04o}")
        } else if kind.is_block_device() {
            format!("b {device} {mode:04o}")
        } else {
            format!("{} {mode:04o}", if kind.is_dir() { "d" } else { "-" })
        };
        found.insert(path.display().to_string(), line);
        if kind.is_dir() {
            describe_below(&path, found);
        }
    }
}

pub(crate) fn names(dir: &str) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim_end().to_owned()
}

pub(crate) fn link(path: &str) -> String {
    fs::read_link(path).map(|target| target.display().to_string()).unwrap_or_default()
}
