//! Makes a machine out of what the kernel unpacked: a root that can be pivoted, the usual mounts, modules, cgroups.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};

/// Brings the machine up.
pub(crate) fn prepare() -> Result<()> {
    enter_root()?;
    mount_all()?;
    load_modules()?;
    mount_disk()?;
    enable_controllers()?;
    nix::unistd::sethostname("vm").context("set the host name")?;
    fs::set_permissions("/root", fs::Permissions::from_mode(0o700)).context("close /root")?;
    install_tools()?;
    start_loopback()
}

/// Leaves the machine to systemd, which starts the checks as its unit `checks.service`.
pub(crate) fn hand_over() -> Result<()> {
    enter_root()?;
    load_modules()?;
    let mut systemd = Command::new("/lib/systemd/systemd");
    systemd.args(["--unit=checks.target", "--show-status=0", "--log-level=notice"]);
    Err(std::os::unix::process::CommandExt::exec(&mut systemd)).context("start systemd")
}

/// Moves everything into a tmpfs and makes that the root: pivot_root(2) refuses to leave the file system that the
/// kernel starts with, and a container's launch needs it.
fn enter_root() -> Result<()> {
    mount_new("root", "/new", "tmpfs", "mode=0755")?;
    copy_below(Path::new("/"), Path::new("/new"), &["new", "dev"])?;
    for directory in ["dev", "new"] {
        fs::create_dir(Path::new("/new").join(directory)).with_context(|| format!("create {directory}"))?;
    }
    std::env::set_current_dir("/new").context("enter /new")?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>).context("move the root")?;
    nix::unistd::chroot(".").context("chroot")?;
    std::env::set_current_dir("/").context("enter the root")
}

fn mount_all() -> Result<()> {
    mount_new("devtmpfs", "/dev", "devtmpfs", "mode=0755")?;
    for directory in ["/dev/pts", "/dev/shm", "/run", "/tmp"] {
        fs::create_dir_all(directory).with_context(|| format!("create {directory}"))?;
    }
    mount_new("devpts", "/dev/pts", "devpts", "mode=0620,ptmxmode=0666")?;
    mount_new("shm", "/dev/shm", "tmpfs", "mode=1777")?;
    mount_new("proc", "/proc", "proc", "")?;
    mount_new("sysfs", "/sys", "sysfs", "")?;
    mount_new("cgroup2", "/sys/fs/cgroup", "cgroup2", "nsdelegate")?;
    mount_new("bpf", "/sys/fs/bpf", "bpf", "mode=0700")?;
    mount_new("tracefs", "/sys/kernel/tracing", "tracefs", "")?;
    mount_new("run", "/run", "tmpfs", "mode=0755")
}

fn mount_new(source: &str, target: &str, kind: &str, options: &str) -> Result<()> {
    mount(Some(source), target, Some(kind), MsFlags::empty(), Some(options))
        .with_context(|| format!("mount {kind} at {target}"))
}

/// In the order of their names, which is the order of their dependencies.
fn load_modules() -> Result<()> {
    let mut paths = Vec::new();
    for entry in fs::read_dir("/modules").context("read /modules")? {
        paths.push(entry?.path());
    }
    paths.sort();
    for path in paths {
        let file = fs::File::open(&path).with_context(|| format!("open {}", path.display()))?;
        finit_module(&file, c"", ModuleInitFlags::empty())
            .with_context(|| format!("load {}", path.display()))?;
    }
    Ok(())
}

/// What the tests write is on a disk, as on most hosts: what is read of a file in memory passes by the page cache.
fn mount_disk() -> Result<()> {
    mount_new("/dev/vda", "/tmp", "ext4", "")?;
    fs::remove_dir("/tmp/lost+found").context("remove lost+found")
}

/// Hands every controller that the kernel has to the groups below the root.
fn enable_controllers() -> Result<()> {
    let available =
        fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").context("read cgroup.controllers")?;
    let all: String = available.split_whitespace().map(|name| format!("+{name} ")).collect();
    fs::write("/sys/fs/cgroup/cgroup.subtree_control", all.trim()).with_context(|| format!("enable {all}"))
}

/// A link in `/usr/bin`, which is also `/bin`, for every tool that busybox stands for.
fn install_tools() -> Result<()> {
    symlink("usr/bin", "/bin").context("link /bin")?;
    let status =
        Command::new("/bin/busybox").args(["--install", "-s", "/bin"]).status().context("start busybox")?;
    ensure!(status.success(), "busybox --install ended with {status}");
    // Of that name only; it knows few of the real one's options.
    std::fs::remove_file("/bin/setpriv").context("remove busybox's setpriv")?;
    Ok(())
}

/// As every host has it.
fn start_loopback() -> Result<()> {
    let status = Command::new("/bin/busybox").args(["ip", "link", "set", "lo", "up"]).status();
    let status = status.context("start busybox")?;
    ensure!(status.success(), "busybox ip ended with {status}");
    Ok(())
}

fn copy_below(from: &Path, to: &Path, except: &[&str]) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if except.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        let kind = entry.file_type()?;
        let copied = if kind.is_dir() {
            fs::create_dir(&target)
                .and_then(|()| fs::set_permissions(&target, entry.metadata()?.permissions()))
        } else if kind.is_symlink() {
            fs::read_link(&source).and_then(|text| symlink(text, &target))
        } else {
            fs::copy(&source, &target).map(drop)
        };
        copied.with_context(|| format!("copy {} to {}", source.display(), target.display()))?;
        if kind.is_dir() {
            copy_below(&source, &target, &[])?;
        }
    }
    Ok(())
}
