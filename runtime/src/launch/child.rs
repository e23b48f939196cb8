//! The child: from its first instruction to the container's program.
//!
//! Interprets the plan and decides nothing. Nothing but this module (with `tree`, the file tree's part of it, and
//! `program`, which it shares with processes that are executed in a container later) runs between clone and exec – but in a child
//! of the spawner's `parking` before it, and `prepare` where that leaves it to the child. One thread, no logging; a failure is left in the page and the parent makes the sentence.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid};
use skiff_sys::file::{self, Resolve};
use skiff_sys::process::{self, Memory};
use skiff_sys::{mount, net};

use super::birthplace::Around;
use super::joins::Joins;
use super::own::{Labels, Own};
use super::prepare::Prepared;
use super::program::{self, Program, Stop};
use super::sync::{At, Channel, Failure, Go, Page, Stage};
use super::tree::Tree;
use crate::cgroup::Cgroup;
use crate::oci::spec::Status;
use crate::plan::{Hide, Hooks, Plan, Step, Symlinks};

/// What the child has to work with.
#[derive(Debug)]
pub(super) struct Launch<'a> {
    pub(super) plan: &'a Plan,
    /// Namespaces that it was not born in and is to make.
    pub(super) own: CloneFlags,
    /// What its mount namespace is a copy of.
    pub(super) around: Around,
    pub(super) prepared: &'a Prepared,
    pub(super) joins: &'a Joins,
    pub(super) cgroup: &'a Cgroup,
    pub(super) stop: Stop<'a>,
    pub(super) channel: &'a Channel,
    pub(super) page: &'a Page,
    pub(super) memory: Memory,
    /// Whether it is born ahead of its v1 cgroups and its network namespace: they come with its *go*, for which it waits
    /// when it cannot do without.
    pub(super) is_ahead: bool,
}

/// Runs the plan. Returns, with the exit code for the child, only if that fails.
pub(super) fn run(launch: &Launch<'_>) -> u8 {
    launch.page.child_runs();
    match carry_out(launch) {
        Ok(never) => match never {},
        Err(failure) => give_up(launch.page, &failure),
    }
}

/// Leaves word of what has failed; the exit code for the child.
pub(super) fn give_up(page: &Page, failure: &Failure) -> u8 {
    page.fail(failure);
    exit_code(failure)
}

/// As a shell has it.
pub(super) fn exit_code(failure: &Failure) -> u8 {
    match failure.error.raw_os_error() {
        Some(nix::libc::ENOENT | nix::libc::ENOTDIR) => 127,
        _ => 126,
    }
}

fn carry_out(launch: &Launch<'_>) -> Result<Infallible, Failure> {
    let Launch { plan, prepared, joins, cgroup, stop, channel, page, memory, is_ahead, .. } = *launch;
    let process = &plan.process;
    let pid = match is_ahead {
        true => program::begin_ahead().map(|()| 0)?,
        false => program::begin(channel, memory, cgroup)?,
    };
    let mut own = Own::default();
    let labels = Labels::open(&mut own, process)?;
    if let Some(offsets) = &plan.time_namespace {
        own.take_clocks(offsets).at(Stage::TimeNamespace)?;
    }
    drop(own);
    if !is_ahead {
        enter(launch)?;
    }
    if !launch.own.is_empty() {
        unshare(launch.own).at(Stage::Namespaces)?;
    }
    if plan.users.is_some() || joins.have_users() {
        become_root(channel)?;
    }
    if !program::begins_session_last(stop, process) {
        nix::unistd::setsid().at(Stage::Stdio)?;
    }
    umask(Mode::empty());
    // Never dropped: what it owns may be closed with all else that is open when it waits.
    let mut program = ManuallyDrop::new(Program {
        process,
        bond: plan.bond,
        null: prepared.null.as_fd(),
        init: prepared.executable.as_ref().map(AsFd::as_fd),
        console: None,
        labels,
        hooks: &plan.hooks,
        stop,
        channel,
        page,
        pid,
        init_pid: None,
    });
    build_tree(launch, &mut program)?;
    page.mounts_done();
    program.run().inspect_err(|failure| program.explain(failure))
}

/// Enters the namespaces that it was not born in, but for those that it makes itself.
fn enter(launch: &Launch<'_>) -> Result<(), Failure> {
    launch.joins.enter().map_err(|(index, error)| Failure { stage: Stage::Join, index, error })?;
    if launch.plan.cgroup_namespace {
        // Not at birth: the namespace's root would be the parent's cgroup.
        unshare(CloneFlags::CLONE_NEWCGROUP).at(Stage::CgroupNamespace)?;
    }
    Ok(())
}

/// 1, where it is born ahead: waits for the parent and enters what that has made meanwhile.
fn catch_up(launch: &Launch<'_>, program: &mut Program<'_>) -> Result<(), Failure> {
    let Go { pid, network, tasks } = launch.channel.receive_go_ahead().at(Stage::Wait)?;
    program.pid = pid;
    program::join(&tasks)?;
    network.into_iter().for_each(|network| launch.joins.add_network(network));
    enter(launch)
}

/// The steps that a child which is born ahead leaves for when it has caught up: those that want the container's cgroups, to
/// be mounted or to be charged, or its network namespace; and what comes after them, unless it lies elsewhere for certain.
fn later(steps: &[Step]) -> Vec<usize> {
    const ALONE: [&CStr; 4] = [c"proc", c"tmpfs", c"devpts", c"mqueue"];
    let wants = |step: &Step| match step {
        Step::Filesystem { fstype, copy_up, .. } => *copy_up || !ALONE.contains(&fstype.as_c_str()),
        Step::OwnCgroup { .. } | Step::Files(_) => true,
        _ => false,
    };
    let (mut later, mut are_below_sys) = (Vec::new(), true);
    for (index, step) in steps.iter().enumerate() {
        let can_pass = later.is_empty() || are_below_sys && is_below(step, b"dev");
        if wants(step) || !can_pass {
            are_below_sys &= is_below(step, b"sys");
            later.push(index);
        }
    }
    later
}

/// Whether what a step makes lies at or below `top` whatever the image has there: no symlink leads elsewhere.
fn is_below(step: &Step, top: &[u8]) -> bool {
    let path = match step {
        Step::Filesystem { target, .. }
        | Step::Bind { target, .. }
        | Step::OwnCgroup { target, .. }
        | Step::Remount { target, .. }
        | Step::Directory(target)
        | Step::Volume { target, .. }
        | Step::Fifo { target, .. }
        | Step::ReadOnlyMount(target)
            if target.symlinks == Symlinks::Refuse =>
        {
            target.path.to_bytes()
        }
        Step::Node(node) => node.target.as_os_str().as_bytes(),
        Step::Symlink { path, .. } => path.to_bytes(),
        _ => return false,
    };
    let path = path.strip_prefix(b"/").unwrap_or(path);
    path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// Becomes user and group 0 of its user namespace, where they are mapped and it is not yet: what it makes is to be theirs.
pub(super) fn become_root(channel: &Channel) -> Result<(), Failure> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    for (done, stage) in [
        (nix::unistd::setresgid(gid, gid, gid), Stage::Gid),
        (nix::unistd::setresuid(uid, uid, uid), Stage::Uid),
    ] {
        match done {
            Ok(()) | Err(nix::Error::EINVAL) => {}
            Err(error) => return Err(error).at(stage),
        }
    }
    // Forgotten with the change of user; the parent may have died meanwhile.
    process::die_with_parent().at(Stage::Uid)?;
    channel.check_parent().at(Stage::Wait)
}

/// Mounts the container's files and makes them `/`, with the hooks that come in between.
fn build_tree(launch: &Launch<'_>, program: &mut Program<'_>) -> Result<(), Failure> {
    let Launch { plan, around, prepared, channel, .. } = *launch;
    if around == Around::Host {
        Tree::part_from_host(plan).at(Stage::Propagation)?;
    }
    let mut tree = Tree::mount_root(plan, prepared, channel, around).at(Stage::Root)?;
    let later = if launch.is_ahead { later(&plan.steps) } else { Vec::new() };
    for index in (0..plan.steps.len()).filter(|index| !later.contains(index)) {
        tree.step(index).at_index(Stage::Step, index)?;
    }
    if launch.is_ahead {
        catch_up(launch, program)?;
    }
    for index in later {
        tree.step(index).at_index(Stage::Step, index)?;
    }
    if let Some(size) = plan.process.terminal {
        program.console = Some(tree.console(size, channel).at(Stage::Console)?);
    }
    if has_hooks_before_pivot(&plan.hooks) {
        // 3. Those of the launcher's namespaces are the parent's to run. Some put files into the container, which therefore is
        // not read-only yet.
        channel.send_built().at(Stage::Wait)?;
        channel.receive_go().at(Stage::Wait)?;
        let hooks = &plan.hooks;
        let bundle = &hooks.subject.bundle;
        program::run_hooks("createContainer", &hooks.create_container, program, Status::Creating, bundle)?;
    }
    set_kernel_parameters(launch, &tree)?;
    for (index, hide) in plan.hide.iter().enumerate() {
        match hide {
            Hide::Mask(path) => tree.mask(path),
            Hide::ReadOnly(path) => tree.read_only(path),
        }
        .at_index(Stage::Hide, index)?;
    }
    if plan.root.read_only {
        mount::restrict(tree.root(), mount::Attr::RDONLY, false).at(Stage::RootReadOnly)?;
    }
    tree.become_root().at(Stage::Pivot)
}

/// Whether the child stops between building the tree and the pivot.
pub(super) const fn has_hooks_before_pivot(hooks: &Hooks) -> bool {
    !(hooks.prestart.is_empty() && hooks.create_runtime.is_empty() && hooks.create_container.is_empty())
}

/// Loopback, host and domain name, and `/proc/sys`, the last through the container's own procfs.
fn set_kernel_parameters(launch: &Launch<'_>, tree: &Tree<'_>) -> Result<(), Failure> {
    let Launch { plan, joins, .. } = *launch;
    if plan.loopback && !joins.have_made_network() {
        net::loopback_up().at(Stage::Loopback)?;
    }
    if let Some(name) = &plan.hostname {
        nix::unistd::sethostname(as_os(name)).at(Stage::Hostname)?;
    }
    if let Some(name) = &plan.domainname {
        process::set_domain_name(name).at(Stage::Domainname)?;
    }
    for (index, (key, value)) in plan.sysctls.iter().enumerate() {
        let path = CString::new([b"sys/", key.to_bytes()].concat()).map_err(io::Error::from);
        let path = path.at_index(Stage::Sysctl, index)?;
        tree.proc().and_then(|proc| write_below(proc, &path, value)).at_index(Stage::Sysctl, index)?;
    }
    Ok(())
}

/// Writes a file of the procfs `proc` itself, never of something mounted over it or linked to (CVE-2025-52881).
fn write_below(proc: BorrowedFd<'_>, path: &CStr, value: &CStr) -> io::Result<()> {
    let file = file::open_beneath(proc, path, OFlag::O_WRONLY, 0, Resolve::NoXdev)?;
    let written = nix::unistd::write(&file, value.to_bytes())?;
    if written == value.count_bytes() { Ok(()) } else { Err(io::Error::from_raw_os_error(nix::libc::EIO)) }
}

fn as_os(text: &CStr) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(text.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{MountFlags, Target, TargetKind};

    fn filesystem(fstype: &CStr, path: &CStr, symlinks: Symlinks) -> Step {
        Step::Filesystem {
            fstype: fstype.into(),
            source: None,
            options: Vec::new(),
            flags: MountFlags::default(),
            target: Target { path: path.into(), kind: TargetKind::Directory, symlinks },
            copy_up: false,
        }
    }

    #[test]
    fn what_wants_cgroups_or_network_comes_later() {
        let symlink = |path: &CStr| Step::Symlink { content: c"x".into(), path: path.into() };
        let kernels = |fstype: &CStr, path: &CStr| filesystem(fstype, path, Symlinks::Refuse);
        let usual = [
            kernels(c"proc", c"proc"),
            kernels(c"tmpfs", c"dev"),
            kernels(c"sysfs", c"sys"),
            kernels(c"tmpfs", c"sys/fs/cgroup"),
            kernels(c"cgroup", c"sys/fs/cgroup/pids"),
            symlink(c"dev/fd"),
        ];
        assert_eq!(later(&usual), [2, 3, 4]);
        assert_eq!(later(&usual[..2]), [0; 0]);
        // What may lie below what is still to be mounted, or elsewhere, waits for it.
        let others = [
            kernels(c"sysfs", c"sys"),
            filesystem(c"tmpfs", c"dev/shm", Symlinks::InRoot),
            symlink(c"dev/fd"),
        ];
        assert_eq!(later(&others), [0, 1, 2]);
        assert_eq!(later(&[kernels(c"cgroup2", c"devices"), symlink(c"dev/fd")]), [0, 1]);
        assert_eq!(later(&[kernels(c"sysfs", c"sys"), symlink(c"device")]), [0, 1]);
    }
}
