//! The floor of a launch: the system calls that runc's default configuration needs, and nothing else.
//!
//! ```text
//! floor ROOTFS[:SCRATCH] PROGRAM FILTER CGROUP [HIERARCHY…]
//! ```
//!
//! Runs PROGRAM of the directory ROOTFS in new pid, net, ipc, uts, mount and cgroup namespaces and in a new cgroup
//! below the cgroup v2 directory CGROUP, with the mounts, masks, limits and capabilities that `runc spec` writes,
//! under the seccomp program in the file FILTER (an array of `struct sock_filter`; none if FILTER is `-`), waits for it and removes the
//! cgroup. The root is read-only, or with SCRATCH it is an overlay whose writable layer is made below that directory, and removed.
//! With HIERARCHIES, the mount points of cgroup v1, it makes, joins, mounts and removes a cgroup in each of these too, and
//! restricts devices there, as OCI runtimes do; else by an eBPF program.
//!
//! It is the yardstick of `bench launch` and of the storms of `bench runtime`, and does what no real launcher can: it reads no
//! configuration, knows every path, trusts ROOTFS, keeps no state, executes nothing but the program, and serves nobody while it waits.
//! It does one thing after the other, on one processor: where others are idle, a launcher that uses them may take less time, though not
//! less work.
//!
//! The child shares the parent's memory until execve, so nothing of it is copied, and is born in its cgroup.
//! mount(2) is used throughout: one call where the interface by descriptors takes four.
#![no_main]

use std::ffi::{CStr, CString, c_char, c_int};
use std::fmt::Display;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::null;

use nix::fcntl::{AT_FDCWD, OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, SFlag, makedev, mknod, umask};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{
    Pid, UnlinkatFlags, chdir, mkdir, pivot_root, read, sethostname, setsid, symlinkat, unlinkat, write,
};
use skiff_sys::device_filter::{self, Access, Kind, Rule};
use skiff_sys::net;
use skiff_sys::process::{self, Memory};
use skiff_sys::seccomp::{self, Flags, Instruction};

/// In place of Rust's own start, which makes system calls that are not needed here.
///
/// # Safety
///
/// `argv` are as many pointers as `argc` says, to texts that end with a zero and stay.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    // SAFETY: as promised.
    let given = unsafe { std::slice::from_raw_parts(argv, usize::try_from(argc).unwrap_or(0)) };
    // SAFETY: as promised.
    let mut arguments = given.iter().skip(1).map(|text| unsafe { CStr::from_ptr(*text) }.to_owned());
    let usage = "floor ROOTFS[:SCRATCH] PROGRAM FILTER CGROUP [HIERARCHY...]";
    let mut argument = || arguments.next().unwrap_or_else(|| die("usage", &usage));
    let (root, program, filter, parent) = (argument(), argument(), read_filter(&argument()), argument());
    let name = format!("floor-{}", std::process::id());
    let root = step("read an argument", root.into_string());
    let (rootfs, scratch) =
        root.split_once(':').map_or((&*root, None), |(root, scratch)| (root, Some(scratch)));
    let writable = scratch.map(|scratch| Writable::new(rootfs, scratch, &name));
    let joins: Vec<Join> = arguments.map(|hierarchy| Join::new(hierarchy, &name)).collect();

    step("enter the cgroup directory", chdir(parent.as_c_str()));
    let name = name.as_str();
    step("mkdir the cgroup", mkdir(name, Mode::from_bits_truncate(0o755)));
    let cgroup = step("open the cgroup", open(name, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()));
    let tasks: Vec<OwnedFd> = joins.iter().map(Join::make).collect();
    if !joins.iter().any(|join| join.controllers == "devices") {
        step("restrict devices", device_filter::restrict(cgroup.as_fd(), &DEVICES));
    }
    let rootfs = c_string(rootfs.to_owned());
    let launch = Launch {
        rootfs: &rootfs,
        overlay: writable.as_ref().map(|writable| writable.options.as_c_str()),
        program: &program,
        filter: &filter,
        joins: &joins,
        tasks: &tasks,
    };
    let spawned = process::spawn(NAMESPACES, Some(cgroup.as_fd()), Memory::Shared, |_| child(&launch));

    // The child is now in execve, or has ended.
    let pid = Pid::from_raw(step("clone3", spawned).pid);
    let status = step("wait", waitpid(pid, None));
    for join in &joins {
        step("rmdir a cgroup", unlinkat(AT_FDCWD, join.directory.as_str(), UnlinkatFlags::RemoveDir));
    }
    step("rmdir the cgroup", unlinkat(AT_FDCWD, name, UnlinkatFlags::RemoveDir));
    if let Some(writable) = writable {
        writable.remove();
    }
    c_int::from(!matches!(status, WaitStatus::Exited(_, 0)))
}

/// Where an overlay writes.
struct Writable {
    directory: String,
    /// For mount(2).
    options: CString,
}

impl Writable {
    fn new(lower: &str, scratch: &str, name: &str) -> Self {
        let directory = format!("{scratch}/{name}");
        for path in [directory.clone(), format!("{directory}/upper"), format!("{directory}/work")] {
            step("mkdir for an overlay", mkdir(path.as_str(), Mode::from_bits_truncate(0o755)));
        }
        let layers = format!("lowerdir={lower},upperdir={directory}/upper,workdir={directory}/work");
        Self { directory, options: c_string(format!("{layers},volatile")) }
    }

    /// Removes it with what the kernel leaves in it, and nothing else.
    fn remove(self) {
        let mut inner = self.directory.clone();
        let made_by_kernel = ["work", "work", "incompat", "volatile"].map(|name| {
            inner = format!("{inner}/{name}");
            inner.clone()
        });
        let dirty = format!("{inner}/dirty");
        step("unlink for an overlay", unlinkat(AT_FDCWD, dirty.as_str(), UnlinkatFlags::NoRemoveDir));
        let upper = format!("{}/upper", self.directory);
        for path in made_by_kernel.into_iter().rev().chain([upper, self.directory]) {
            step("rmdir for an overlay", unlinkat(AT_FDCWD, path.as_str(), UnlinkatFlags::RemoveDir));
        }
    }
}

/// A cgroup of version 1.
struct Join {
    hierarchy: String,
    /// What is mounted there: the last part of its path, by convention.
    controllers: String,
    directory: String,
}

impl Join {
    fn new(hierarchy: CString, name: &str) -> Self {
        let hierarchy = step("read an argument", hierarchy.into_string());
        let controllers = hierarchy.rsplit('/').next().unwrap_or_default().to_owned();
        let directory = format!("{hierarchy}/{name}");
        Self { hierarchy, controllers, directory }
    }

    /// Makes the directory; what it is joined by.
    fn make(&self) -> OwnedFd {
        step("mkdir a cgroup", mkdir(self.directory.as_str(), Mode::from_bits_truncate(0o755)));
        for file in ["cpuset.cpus", "cpuset.mems"].into_iter().filter(|_| self.has("cpuset")) {
            let above = open_file(&format!("{}/{file}", self.hierarchy), OFlag::O_RDONLY);
            let mut text = [0; 4096];
            let length = step("read a cpuset", read(&above, &mut text));
            let own = open_file(&format!("{}/{file}", self.directory), OFlag::O_WRONLY);
            step("write a cpuset", write(&own, &text[..length]));
        }
        if self.has("devices") {
            let open = |file: &str| open_file(&format!("{}/{file}", self.directory), OFlag::O_WRONLY);
            let (deny, allow) = (open("devices.deny"), open("devices.allow"));
            step("deny devices", write(&deny, b"a"));
            for rule in LEGACY_DEVICES {
                step("allow a device", write(&allow, rule.as_bytes()));
            }
        }
        open_file(&format!("{}/tasks", self.directory), OFlag::O_WRONLY)
    }

    fn has(&self, controller: &str) -> bool {
        self.controllers.split(',').any(|one| one == controller)
    }

    /// What mount(2) knows the hierarchy by.
    fn option(&self) -> CString {
        let name = if self.controllers == "systemd" { "name=" } else { "" };
        c_string(format!("{name}{}", self.controllers))
    }
}

fn open_file(path: &str, flags: OFlag) -> OwnedFd {
    step("open a file of a cgroup", open(path, flags | OFlag::O_CLOEXEC, Mode::empty()))
}

fn c_string(text: String) -> CString {
    step("make a string", CString::new(text))
}

const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWPID
    .union(CloneFlags::CLONE_NEWNET)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CloneFlags::CLONE_NEWNS);

/// What the child needs of its parent's memory.
struct Launch<'a> {
    rootfs: &'a CStr,
    /// The options of an overlay over the root.
    overlay: Option<&'a CStr>,
    program: &'a CStr,
    filter: &'a [Instruction],
    joins: &'a [Join],
    /// What these are joined by.
    tasks: &'a [OwnedFd],
}

/// What runc allows in every container: nodes may be made, and these may be used.
const DEVICES: [Rule; 10] = [
    Rule { allow: true, kind: Some(Kind::Char), major: None, minor: None, access: Access::MKNOD },
    Rule { allow: true, kind: Some(Kind::Block), major: None, minor: None, access: Access::MKNOD },
    char_device(1, Some(3)),
    char_device(1, Some(5)),
    char_device(1, Some(7)),
    char_device(1, Some(8)),
    char_device(1, Some(9)),
    char_device(5, Some(0)),
    char_device(5, Some(2)),
    char_device(136, None),
];

const fn char_device(major: u32, minor: Option<u32>) -> Rule {
    Rule { allow: true, kind: Some(Kind::Char), major: Some(major), minor, access: Access::ALL }
}

/// The same in the words of version 1.
const LEGACY_DEVICES: [&str; 10] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

const NODES: [(&CStr, u64); 6] = [
    (c"dev/null", makedev(1, 3)),
    (c"dev/zero", makedev(1, 5)),
    (c"dev/full", makedev(1, 7)),
    (c"dev/random", makedev(1, 8)),
    (c"dev/urandom", makedev(1, 9)),
    (c"dev/tty", makedev(5, 0)),
];

const LINKS: [(&CStr, &CStr); 5] = [
    (c"dev/fd", c"/proc/self/fd"),
    (c"dev/stdin", c"/proc/self/fd/0"),
    (c"dev/stdout", c"/proc/self/fd/1"),
    (c"dev/stderr", c"/proc/self/fd/2"),
    (c"dev/ptmx", c"pts/ptmx"),
];

/// Masked, if they exist: directories by an empty one, the others by `/dev/null`.
const MASKED: [&CStr; 10] = [
    c"/proc/acpi",
    c"/proc/asound",
    c"/proc/kcore",
    c"/proc/keys",
    c"/proc/latency_stats",
    c"/proc/timer_list",
    c"/proc/timer_stats",
    c"/proc/sched_debug",
    c"/sys/firmware",
    c"/proc/scsi",
];

/// Made read-only, if they exist.
const READ_ONLY: [&CStr; 5] = [c"/proc/bus", c"/proc/fs", c"/proc/irq", c"/proc/sys", c"/proc/sysrq-trigger"];

/// CAP_KILL, CAP_NET_BIND_SERVICE and CAP_AUDIT_WRITE.
const CAPABILITIES: u64 = 1 << 5 | 1 << 10 | 1 << 29;
const LAST_CAPABILITY: u8 = 40;

/// All that happens between clone3 and execve.
fn child(launch: &Launch<'_>) -> ! {
    let (nosuid, nodev, noexec) = (MsFlags::MS_NOSUID, MsFlags::MS_NODEV, MsFlags::MS_NOEXEC);
    let (bind, rdonly, remount) = (MsFlags::MS_BIND, MsFlags::MS_RDONLY, MsFlags::MS_REMOUNT);
    let strict = nosuid | nodev | noexec;

    // A thread that moves itself alone takes no lock that stops every fork of the host.
    for tasks in launch.tasks {
        step("join a cgroup", write(tasks, b"0"));
    }
    // Not in clone3: the namespace would have the parent's cgroup as its root.
    step("unshare the cgroup namespace", unshare(CloneFlags::CLONE_NEWCGROUP));

    // No mount may travel back to the host; the new root must be a mount.
    change(c"/", MsFlags::MS_REC | MsFlags::MS_SLAVE);
    match launch.overlay {
        Some(options) => new(c"overlay", launch.rootfs, MsFlags::empty(), options),
        None => {
            let root = Some(launch.rootfs);
            step(
                "bind the root",
                mount(root, launch.rootfs, None::<&CStr>, bind | MsFlags::MS_REC, None::<&CStr>),
            );
        }
    }
    step("enter the root", chdir(launch.rootfs));

    new(c"proc", c"proc", MsFlags::empty(), c"");
    new(c"tmpfs", c"dev", nosuid | MsFlags::MS_STRICTATIME, c"mode=755,size=65536k");
    umask(Mode::empty());
    for (path, device) in NODES {
        step("mknod", mknod(path, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), device));
    }
    for (path, target) in LINKS {
        step("symlink", symlinkat(target, AT_FDCWD, path));
    }
    for path in [c"dev/pts", c"dev/shm", c"dev/mqueue"] {
        step("mkdir", mkdir(path, Mode::from_bits_truncate(0o755)));
    }
    new(c"devpts", c"dev/pts", nosuid | noexec, c"newinstance,ptmxmode=0666,mode=0620,gid=5");
    new(c"tmpfs", c"dev/shm", strict, c"mode=1777,size=65536k");
    new(c"mqueue", c"dev/mqueue", strict, c"");
    new(c"sysfs", c"sys", strict | rdonly, c"");
    if launch.joins.is_empty() {
        new(c"cgroup2", c"sys/fs/cgroup", strict | rdonly, c"");
    } else {
        mount_cgroups(launch.joins, strict);
    }

    // The old root comes to lie over the new one and is taken away.
    step("pivot_root", pivot_root(c".", c"."));
    step("detach the old root", umount2(c".", MntFlags::MNT_DETACH));
    step("enter /", chdir(c"/"));

    for path in READ_ONLY {
        match mount(Some(path), path, None::<&CStr>, bind | MsFlags::MS_REC, None::<&CStr>) {
            Ok(()) => change(path, bind | remount | rdonly),
            Err(nix::Error::ENOENT) => {}
            Err(error) => die("bind", &error),
        }
    }
    for path in MASKED {
        match mount(Some(c"/dev/null"), path, None::<&CStr>, bind, None::<&CStr>) {
            Ok(()) | Err(nix::Error::ENOENT) => {}
            Err(nix::Error::ENOTDIR) => new(c"tmpfs", path, rdonly, c"size=0k"),
            Err(error) => die("mask", &error),
        }
    }
    if launch.overlay.is_none() {
        change(c"/", bind | remount | rdonly);
    }

    step("set the host name", sethostname("floor"));
    step("bring up loopback", net::loopback_up());
    step("setsid", setsid());
    step("limit open files", setrlimit(Resource::RLIMIT_NOFILE, 1024, 1024));
    step("close_range", process::cloexec_from(3));
    for capability in (0..=LAST_CAPABILITY).filter(|capability| CAPABILITIES >> capability & 1 == 0) {
        step("drop from the bounding set", process::drop_bounding(capability));
    }
    let sets = process::Capabilities { effective: CAPABILITIES, permitted: CAPABILITIES, inheritable: 0 };
    step("set capabilities", process::set_capabilities(sets));
    step("set no_new_privs", process::set_no_new_privileges());
    if !launch.filter.is_empty() {
        step(
            "install the filter",
            seccomp::install(launch.filter, Flags { spec_allow: true, ..Flags::NONE }),
        );
    }

    let (path, environment) = (launch.program.as_ptr(), [c"PATH=/usr/bin:/bin".as_ptr(), null()]);
    // SAFETY: both arrays end with a null pointer and hold NUL-terminated strings.
    unsafe { libc::execve(path, [path, null()].as_ptr(), environment.as_ptr()) };
    die("execve", &nix::Error::last())
}

/// The hierarchies as OCI runtimes show them: each in a directory of its name.
fn mount_cgroups(joins: &[Join], flags: MsFlags) {
    let top = c"sys/fs/cgroup";
    new(c"tmpfs", top, flags, c"mode=755");
    let directory = |name: &str| {
        let path = c_string(format!("sys/fs/cgroup/{name}"));
        step("mkdir", mkdir(path.as_c_str(), Mode::from_bits_truncate(0o755)));
        path
    };
    for join in joins {
        new(c"cgroup", &directory(&join.controllers), flags | MsFlags::MS_RDONLY, &join.option());
    }
    new(c"cgroup2", &directory("unified"), flags | MsFlags::MS_RDONLY, c"");
    change(top, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | flags);
}

/// Mounts a new file system.
fn new(kind: &CStr, target: &CStr, flags: MsFlags, data: &CStr) {
    step("mount", mount(Some(kind), target, Some(kind), flags, Some(data)));
}

/// Changes the flags or the propagation of a mount.
fn change(target: &CStr, flags: MsFlags) {
    step("remount", mount(None::<&CStr>, target, None::<&CStr>, flags, None::<&CStr>));
}

fn read_filter(path: &CStr) -> Vec<Instruction> {
    if path == c"-" {
        return Vec::new();
    }
    let file = step("open the filter", open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()));
    let mut bytes = [0; seccomp::MAX_INSTRUCTIONS * size_of::<Instruction>()];
    let length = step("read the filter", nix::unistd::read(&file, &mut bytes));
    let (instructions, _) = bytes[..length].as_chunks::<8>();
    let instruction = |&[c0, c1, jt, jf, k0, k1, k2, k3]: &[u8; 8]| Instruction {
        code: u16::from_ne_bytes([c0, c1]),
        jt,
        jf,
        k: u32::from_ne_bytes([k0, k1, k2, k3]),
    };
    instructions.iter().map(instruction).collect()
}

/// The value of a step that must succeed.
fn step<T, E: Display>(what: &str, result: Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => die(what, &error),
    }
}

/// Ends this process; the child's parent sees that by its code.
fn die(what: &str, error: &dyn Display) -> ! {
    eprintln!("floor: {what}: {error}");
    // SAFETY: ends the process without running anything of the memory it may share.
    unsafe { libc::_exit(1) }
}
