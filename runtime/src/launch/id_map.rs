//! Mappings of file owners for mounts: user namespaces that nobody lives in.
//!
//! Runs in: parent, before the clone, with CAP_SYS_ADMIN where the file systems have been mounted.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use skiff_sys::process::{self, Memory};
use skiff_sys::{file, mount};

use super::maps::lines;
use crate::plan::{IdMap, IdRange, Plan};

/// The user namespaces made so far, each for the mappings that it stands for.
#[derive(Debug)]
pub(super) struct Mappings<'a> {
    plan: &'a Plan,
    /// The user namespace that the container enters.
    joined: Option<&'a Path>,
    made: Vec<(Vec<IdRange>, Vec<IdRange>, OwnedFd)>,
}

impl<'a> Mappings<'a> {
    pub(super) fn new(plan: &'a Plan) -> Self {
        let joined = plan.joins.iter().find(|join| join.kind == CloneFlags::CLONE_NEWUSER);
        Self { plan, joined: joined.map(|join| join.path.as_path()), made: Vec::new() }
    }

    /// Shows the files of the unattached `mount` as `id_map` says.
    ///
    /// Errors: those of [`mount::map_ids`]; `EPERM` without the right to map these ids.
    pub(super) fn apply(&mut self, id_map: &IdMap, mount: BorrowedFd<'_>) -> io::Result<()> {
        let (uids, gids, recursive) = match (id_map, &self.plan.users, self.joined) {
            (IdMap::Own { uids, gids, recursive }, _, _) => (uids, gids, *recursive),
            (IdMap::Container { recursive }, Some(users), _) => (&users.uids, &users.gids, *recursive),
            (IdMap::Container { recursive }, None, Some(path)) => {
                let namespace = std::fs::File::open(path)?;
                return mount::map_ids(mount, namespace.as_fd(), *recursive);
            }
            (IdMap::Container { .. }, None, None) => return Err(Errno::EINVAL.into()),
        };
        let known = self.made.iter().position(|(u, g, _)| u == uids && g == gids);
        let index = match known {
            Some(index) => index,
            None => {
                self.made.push((uids.clone(), gids.clone(), namespace(uids, gids)?));
                self.made.len() - 1
            }
        };
        mount::map_ids(mount, self.made[index].2.as_fd(), recursive)
    }
}

/// A user namespace with these maps. It lives as long as the descriptor, or a mount, refers to it.
fn namespace(uids: &[IdRange], gids: &[IdRange]) -> io::Result<OwnedFd> {
    let (wait, hold) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    let child = process::spawn(CloneFlags::CLONE_NEWUSER, None, Memory::Copied, |_| {
        process::close_in_child(hold.as_fd());
        // Ends with its parent, or when that has what it wants of it.
        let _end_of_file = nix::unistd::read(&wait, &mut [0]);
        0
    })?;
    let taken = take(child.pid, uids, gids);
    drop(hold);
    process::reap(child.pidfd.as_fd(), true)?;
    taken
}

fn take(pid: i32, uids: &[IdRange], gids: &[IdRange]) -> io::Result<OwnedFd> {
    std::fs::write(format!("/proc/{pid}/uid_map"), lines(uids))?;
    std::fs::write(format!("/proc/{pid}/gid_map"), lines(gids))?;
    let path = std::ffi::CString::new(format!("/proc/{pid}/ns/user"))?;
    file::open(&path, OFlag::O_RDONLY, 0)
}
