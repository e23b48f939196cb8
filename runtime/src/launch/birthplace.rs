//! An empty mount namespace that containers are born in.
//!
//! A child gets a copy of its parent's mount namespace, and has to detach from it what is the host's: to copy takes as long as there are
//! mounts, and to detach waits for an RCU grace period, milliseconds on a busy host. Whoever makes many containers has a
//! namespace made once that holds nothing but an empty read-only directory. Its copy is covered by the container's root and there
//! is nothing to detach: what lies below the root is empty.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;
use skiff_sys::file;

/// Where a container's first process is born, by what its mount namespace is a copy of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Around {
    /// The launcher's own: the host's mounts.
    Host,
    /// An empty one.
    Nothing,
}

/// The empty namespace, and the one to return to.
#[derive(Debug)]
pub(crate) struct Birthplace {
    host: OwnedFd,
    empty: OwnedFd,
}

impl Birthplace {
    /// Makes it; `None` for whoever may not. The calling process must have one thread.
    pub(crate) fn make() -> io::Result<Option<Self>> {
        let host = file::open(c"/proc/self/ns/mnt", OFlag::O_RDONLY, 0)?;
        // From the empty one there is no path to it.
        let proc = file::open(c"/proc", OFlag::O_PATH | OFlag::O_DIRECTORY, 0)?;
        match unshare(CloneFlags::CLONE_NEWNS) {
            Err(Errno::EPERM) => return Ok(None),
            other => other?,
        }
        let made = empty().and_then(|()| Ok(openat(&proc, c"self/ns/mnt", OFlag::O_CLOEXEC, Mode::empty())?));
        return_to(&host);
        Ok(made.ok().map(|empty| Self { host, empty }))
    }

    /// What a child keeps that is to [enter](Self::enter) it.
    pub(super) fn descriptor(&self) -> RawFd {
        self.empty.as_raw_fd()
    }

    /// Leaves the calling process's mount namespace for a copy of it, for good.
    ///
    /// Runs in: child, alone in its file system context.
    pub(super) fn enter(&self) -> io::Result<()> {
        setns(self.empty.as_fd(), CloneFlags::CLONE_NEWNS)?;
        Ok(unshare(CloneFlags::CLONE_NEWNS)?)
    }

    /// Has `clone` run in it.
    pub(crate) fn within<T>(&self, clone: impl FnOnce() -> T) -> io::Result<T> {
        setns(self.empty.as_fd(), CloneFlags::CLONE_NEWNS)?;
        let cloned = clone();
        return_to(&self.host);
        Ok(cloned)
    }
}

/// Where it fails, no path means what it should any more, and this process ends.
fn return_to(host: &OwnedFd) {
    if let Err(error) = setns(host.as_fd(), CloneFlags::CLONE_NEWNS) {
        tracing::error!("return to the host's mount namespace: {error}");
        skiff_sys::process::exit_now(125);
    }
}

/// Replaces all that is mounted in this mount namespace by one empty directory.
fn empty() -> io::Result<()> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), "/proc", Some("tmpfs"), flags, Some("size=0,nr_inodes=1,mode=755"))?;
    nix::unistd::chdir("/proc")?;
    nix::unistd::pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    let flags = flags | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    Ok(mount(none, "/", none, flags, none)?)
}
