//! What must be known of the host, and what the command line adds, before a plan can be made.

use std::io::Read;
use std::os::fd::{AsFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use skiff_sys::file::{self, Resolve};
use skiff_sys::process as sys_process;

use super::{Bundle, spec, tables};
use crate::caps::CapSet;
use crate::cgroup::{Layout, user_manager};
use crate::error::Context;
use crate::plan::c_path;
use crate::seccomp::Kernel;
use crate::{Error, user};

/// Facts of the host on which a plan depends. What a configuration does not ask for is not looked at.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// The kernel's version.
    pub kernel: Kernel,
    /// The highest capability that the kernel knows.
    pub last_cap: u8,
    /// The capabilities that this process has; of those that are asked for, only such as can be passed on to a program in
    /// the same user namespace.
    pub caps: CapSet,
    /// The cgroup hierarchies.
    pub cgroups: Layout,
    /// The cgroup of the user's systemd, below the root; looked for without root only.
    pub user_manager: PathBuf,
    /// Whether this is not the host's first user namespace, so that devices cannot be made.
    pub in_user_namespace: bool,
    /// Whether setgroups(2) is allowed. user_namespaces(7).
    pub may_set_groups: bool,
    /// Kinds of the namespaces given by path that are those of this process.
    pub shared: CloneFlags,
    /// Whether programs can be confined by AppArmor.
    pub apparmor: bool,
    /// Whether programs can be labelled for SELinux.
    pub selinux: bool,
    /// Whether the kernel shows its memory as `/proc/kcore`.
    pub kcore: bool,
    /// Whether `/sys/fs/resctrl` is mounted.
    pub resctrl: bool,
    /// The home directory of the program's user, if its environment does not say.
    pub home: Option<String>,
}

impl Default for Facts {
    /// The oldest kernel that will do, and nothing on it.
    fn default() -> Self {
        Self {
            uid: 0,
            gid: 0,
            kernel: Kernel(5, 6),
            last_cap: 37,
            caps: CapSet::NONE,
            cgroups: Layout::default(),
            user_manager: PathBuf::new(),
            in_user_namespace: false,
            may_set_groups: false,
            shared: CloneFlags::empty(),
            apparmor: false,
            selinux: false,
            kcore: false,
            resctrl: false,
            home: None,
        }
    }
}

/// What the command line says of a container beside its bundle.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    /// The runtime's own directory, `--root`; there at the launch.
    pub root: PathBuf,
    /// `--no-pivot`.
    pub no_pivot: bool,
    /// `--no-new-keyring`.
    pub no_new_keyring: bool,
    /// Those of the caller's descriptors that `--preserve-fds` passes on.
    pub descriptors: Vec<RawFd>,
    /// `--systemd-cgroup`.
    pub systemd_cgroup: bool,
    /// `--rootless`; found out if absent.
    pub rootless: Option<bool>,
}

/// The inode number of the first user namespace. `PROC_USER_INIT_INO` in the kernel's include/linux/proc_ns.h.
const FIRST_USER_NAMESPACE: u64 = 0xefff_fffd;

impl Facts {
    /// Looks at the host for a container of `bundle`.
    ///
    /// Errors: no root file system where the bundle says that it is.
    pub fn probe(bundle: &Bundle) -> Result<Self, Error> {
        let root = bundle.root();
        let found = std::fs::metadata(&root).context(|| format!("root.path {}", root.display()))?;
        if !found.is_dir() {
            return Err(super::invalid("root.path", format!("{} is not a directory", root.display())));
        }
        let no_process = spec::Process::default();
        let mut facts = Self::for_process(bundle.spec.process.as_ref().unwrap_or(&no_process))?;
        let labels_mounts = bundle.spec.linux.as_ref().is_some_and(|linux| !linux.mount_label.is_empty());
        facts.selinux = facts.selinux || labels_mounts && selinux();
        facts.kcore = Path::new("/proc/kcore").exists();
        facts.shared = shared(bundle.spec.linux.as_ref());
        facts.resctrl = asks_for_rdt(&bundle.spec) && Path::new("/sys/fs/resctrl/schemata").exists();
        if let Some(process) = &bundle.spec.process {
            let mounted = bundle.spec.mounts.iter().rfind(|mount| mount.destination == "/etc/passwd");
            let passwd =
                mounted.and_then(|mount| mount.source.as_ref()).map(|source| bundle.path.join(source));
            facts.home = home(process, || match &passwd {
                Some(file) => std::fs::read_to_string(file).ok(),
                None => read_in(&root, "etc/passwd"),
            });
        }
        Ok(facts)
    }

    /// Looks at the host for one more program in a container whose root is found at `root` (`/proc/PID/root`).
    pub fn probe_exec(process: &spec::Process, root: &Path) -> Result<Self, Error> {
        let mut facts = Self::for_process(process)?;
        facts.home = home(process, || read_in(root, "etc/passwd"));
        Ok(facts)
    }

    fn for_process(process: &spec::Process) -> Result<Self, Error> {
        let permitted = sys_process::capabilities().context(|| "read own capabilities".into())?.permitted;
        let wanted = wanted(process.capabilities.as_ref());
        let (bounding, last_cap) = sys_process::bounding_of(wanted.0);
        let in_user_namespace =
            std::fs::metadata("/proc/self/ns/user").is_ok_and(|found| found.ino() != FIRST_USER_NAMESPACE);
        let denied =
            || std::fs::read_to_string("/proc/self/setgroups").is_ok_and(|text| text.trim() == "deny");
        let uid = nix::unistd::geteuid().as_raw();
        Ok(Self {
            uid,
            gid: nix::unistd::getegid().as_raw(),
            kernel: kernel()?,
            last_cap,
            caps: CapSet(permitted & (bounding | !wanted.0)),
            cgroups: Layout::of_host(),
            user_manager: if uid != 0 || in_user_namespace { user_manager() } else { PathBuf::new() },
            in_user_namespace,
            may_set_groups: !(in_user_namespace && denied()),
            shared: CloneFlags::empty(),
            apparmor: !process.apparmor_profile.is_empty() && apparmor(),
            selinux: !process.selinux_label.is_empty() && selinux(),
            kcore: false,
            resctrl: false,
            home: None,
        })
    }
}

/// Every capability that is named.
fn wanted(given: Option<&spec::Capabilities>) -> CapSet {
    let sets = given.map(|given| {
        [&given.bounding, &given.effective, &given.permitted, &given.inheritable, &given.ambient]
    });
    let names = sets.into_iter().flatten().flatten();
    names.filter_map(|name| CapSet::named(name)).fold(CapSet::NONE, |all, cap| all | cap)
}

fn kernel() -> Result<Kernel, Error> {
    let name = nix::sys::utsname::uname().context(|| "uname".into())?;
    let release = name.release().to_string_lossy();
    Kernel::parse(&release).ok_or_else(|| Error::Option(format!("kernel release {release:?} has no version")))
}

/// AppArmor's own word for whether it is on. Documentation/admin-guide/LSM/apparmor.rst in the kernel tree.
fn apparmor() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'))
}

fn selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

fn asks_for_rdt(spec: &spec::Spec) -> bool {
    spec.linux.as_ref().is_some_and(|linux| linux.intel_rdt.is_some())
}

/// Which of the namespaces given by path are this process's.
fn shared(linux: Option<&spec::Linux>) -> CloneFlags {
    let mut shared = CloneFlags::empty();
    let given = linux.into_iter().flat_map(|linux| &linux.namespaces).filter(|entry| !entry.path.is_empty());
    for entry in given {
        let Some(kind) = tables::Namespace::named(&entry.r#type) else { continue };
        let same = |own: std::fs::Metadata, given: std::fs::Metadata| {
            (own.dev(), own.ino()) == (given.dev(), given.ino())
        };
        let own = std::fs::metadata(format!("/proc/self/ns/{}", kind.file));
        if let (Ok(own), Ok(given)) = (own, std::fs::metadata(&entry.path))
            && same(own, given)
        {
            shared |= kind.flag;
        }
    }
    shared
}

/// The home directory in `passwd` of who the program runs as; `/` if there is none. Not looked for where the environment
/// has one.
fn home(process: &spec::Process, passwd: impl FnOnce() -> Option<String>) -> Option<String> {
    if process.env.iter().any(|entry| entry.starts_with("HOME=")) {
        return None;
    }
    let passwd = passwd().unwrap_or_default();
    Some(user::home_of(process.user.uid, &passwd).to_owned())
}

/// Largest file that is read from an image.
const MAX_BYTES: u64 = 16 << 20;

/// Reads the regular file `path` below `root`, symlinks being followed within it.
fn read_in(root: &Path, path: &str) -> Option<String> {
    let root = file::open(&c_path(root).ok()?, OFlag::O_PATH | OFlag::O_DIRECTORY, 0).ok()?;
    let path = std::ffi::CString::new(path).ok()?;
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = std::fs::File::from(file::open_beneath(root.as_fd(), &path, flags, 0, Resolve::InRoot).ok()?);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
