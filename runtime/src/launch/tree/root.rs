//! The root of the container's tree: mounted, and made `/`.

use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::MsFlags;
use skiff_sys::file;
use skiff_sys::mount::{self, Attr, FsOption, Propagation};

use super::{Around, Tree, attach, bind};
use crate::launch::{note, overlay, prepare};
use crate::plan::{ChangeRoot, Plan, Propagate, Root, Step, Upper};

impl Tree<'_> {
    /// Keeps what is mounted in this mount namespace from reaching the host. What the host mounts still arrives if any of
    /// it is to do so in the container, and is to be mounted by path.
    pub(in crate::launch) fn part_from_host(plan: &Plan) -> io::Result<()> {
        let reaches = |change: &Propagate| matches!(change.to, Propagation::Slave | Propagation::Shared);
        let binds = plan.steps.iter().filter_map(|step| match step {
            Step::Bind { flags, .. } => Some(&flags.propagation),
            _ => None,
        });
        let mut all = binds.flatten().chain(&plan.root.propagation);
        let to = if all.any(reaches) { MsFlags::MS_SLAVE } else { MsFlags::MS_PRIVATE };
        let flags = MsFlags::MS_REC | to;
        Ok(nix::mount::mount(None::<&CStr>, c"/", None::<&CStr>, flags, None::<&CStr>)?)
    }

    /// Makes the root `/` of this process, with the host's tree out of reach, and lets mounts travel as planned.
    pub(in crate::launch) fn become_root(&self) -> io::Result<()> {
        match (self.around, self.plan.root.change) {
            // It covers `/` already, and nothing but an empty directory.
            (Around::Nothing, _) => enter(self.root())?,
            (Around::Host, ChangeRoot::Pivot) => {
                if !prepare::in_user_namespace(self.plan) {
                    leave_own_mount();
                }
                pivot(self.root())?;
            }
            (Around::Host, ChangeRoot::Move) => move_over(self.root())?,
        }
        match self.plan.root.propagation {
            // Not before: what is shared cannot be pivoted to.
            Some(Propagate { to: to @ (Propagation::Shared | Propagation::Unbindable), recursive }) => {
                mount::change(self.root(), &to.into(), recursive)
            }
            _ => Ok(()),
        }
    }
}

/// Whether anything lies beside the root.
pub(super) fn needs_home(plan: &Plan) -> bool {
    let is_files = |step: &Step| matches!(step, Step::Files(files) if !files.is_empty());
    plan.root.upper == Upper::Memory || plan.steps.iter().any(is_files)
}

pub(super) fn mount_home(path: &Path, staging: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mode = [FsOption::Value(c"mode".into(), c"755".into())];
    match mount::mount_new(c"tmpfs", None, &mode, Attr::NOSUID.with(Attr::NODEV), staging)? {
        Some(home) => Ok(home),
        None => prepare::open_path(path),
    }
}

/// Whether a bundle's root is taken from this mount namespace although there is a copy of the host's: for its flags.
///
/// Errors: `ESTALE` if its path leads elsewhere by now.
pub(super) fn is_taken_here(plan: &Plan, copy: &OwnedFd) -> io::Result<bool> {
    if !prepare::in_user_namespace(plan) || plan.root.upper != Upper::Direct {
        return Ok(false);
    }
    for layer in &plan.root.layers {
        if !prepare::is_same_file(prepare::open_path(layer)?.as_fd(), copy.as_fd())? {
            return Err(Errno::ESTALE.into());
        }
    }
    Ok(true)
}

/// Makes the root in this mount namespace, by path, and mounts it on `point`.
pub(super) fn mount_root_here(plan: &Plan, point: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let Root { layers, upper, .. } = &plan.root;
    if layers.is_empty() {
        let mode = [FsOption::Value(c"mode".into(), c"755".into())];
        return mount::mount_new(c"tmpfs", None, &mode, Attr::NONE, point);
    }
    let opened = prepare::open_layers(&plan.root)?;
    match (upper, &opened[..]) {
        (Upper::None, [only]) => return bind(only.as_fd(), point, false),
        (Upper::Direct, [only]) => return bind(only.as_fd(), point, true),
        _ => {}
    }
    let writable = match upper {
        Upper::None | Upper::Direct => None,
        Upper::Disk | Upper::Kept => Some(prepare::open_path(&note::writable(&plan.state_root, &plan.id))?),
        Upper::Memory => {
            overlay::make_writable(point)?;
            Some(point.try_clone_to_owned()?)
        }
    };
    let writable = writable.as_ref().map(AsFd::as_fd);
    let options = overlay::options(*upper, plan.users.is_some());
    // A kernel that does not take layers by descriptor says so in many ways; the older interface tells what is wrong.
    let modern = overlay::mount(&opened, writable, &options).and_then(|root| {
        mount::attach(root.as_fd(), point)?;
        Ok(root)
    });
    match modern {
        Ok(root) => Ok(Some(root)),
        Err(_) => overlay::mount_legacy(&opened, writable, &options, point).map(|()| None),
    }
}

/// Puts the mount that skiff was started from where it is unmounted with the host's tree: to unmount waits for an RCU grace period, and so
/// there is one wait for both. Nothing of this mount namespace reaches the host any more.
fn leave_own_mount() {
    let Some(own) = crate::seal::own_mount() else { return };
    // Any file: nobody looks there again. Where it cannot be had, skiff's end waits.
    drop(file::open(c"/dev/null", OFlag::O_PATH, 0).and_then(|null| mount::attach(own, null.as_fd())));
}

/// pivot_root(2): with both arguments `.` the old root ends up on top of the new one, from where it is unmounted, so no
/// directory is needed for it.
fn pivot(root: BorrowedFd<'_>) -> io::Result<()> {
    nix::unistd::fchdir(root)?;
    nix::unistd::pivot_root(c".", c".")?;
    nix::mount::umount2(c".", nix::mount::MntFlags::MNT_DETACH)?;
    Ok(nix::unistd::chdir(c"/")?)
}

/// Moves `root` over `/`. The host's root stays below it, where no path leads; everything mounted in that is detached, so
/// that whoever gets there finds as little as can be.
fn move_over(root: BorrowedFd<'_>) -> io::Result<()> {
    let old = file::open(c"/", OFlag::O_PATH | OFlag::O_DIRECTORY, 0)?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    move_mount(root, old.as_fd())?;
    nix::unistd::fchdir(&old)?;
    for point in mounts.lines().filter_map(|line| line.split(' ').nth(4)) {
        let below = unescaped(point.trim_start_matches('/'));
        if !below.is_empty() {
            // Those below one that has gone have gone with it (`ENOENT`, `EINVAL`).
            let _gone = nix::mount::umount2(OsStr::from_bytes(&below), nix::mount::MntFlags::MNT_DETACH);
        }
    }
    enter(root)
}

fn enter(root: BorrowedFd<'_>) -> io::Result<()> {
    nix::unistd::fchdir(root)?;
    nix::unistd::chroot(c".")?;
    Ok(nix::unistd::chdir(c"/")?)
}

/// A path as it is, of a line in which white space and backslashes are octal numbers. proc_pid_mountinfo(5).
fn unescaped(field: &str) -> Vec<u8> {
    let mut parts = field.split('\\');
    let mut path = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => path.extend([&[byte], &part.as_bytes()[3..]].concat()),
            None => path.extend([b"\\", part.as_bytes()].concat()),
        }
    }
    path
}

/// Moves an attached mount. move_mount(2), else mount(2).
fn move_mount(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    if attach(from, to)? {
        return Ok(());
    }
    let path = file::proc_fd_path(from);
    let flags = MsFlags::MS_MOVE;
    Ok(nix::mount::mount(Some(path.as_c_str()), c"/", None::<&CStr>, flags, None::<&CStr>)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_mount_tables_are_unescaped() {
        for (field, path) in
            [("a/b", "a/b"), ("a\\040b", "a b"), ("\\134\\011", "\\\t"), ("a\\b", "a\\b"), ("a\\", "a\\")]
        {
            assert_eq!(unescaped(field), path.as_bytes(), "{field}");
        }
    }
}
