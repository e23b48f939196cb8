//! The child: from its first instruction to the container's program.
//!
//! Interprets the plan and decides nothing. Nothing but this module (with `tree`, the file tree's part of it, and
//! `program`, which it shares with processes that are executed in a container later) runs between clone and exec. One thread, no logging; a failure is left in the page and the parent makes the sentence.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

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
use super::sync::{At, Channel, Failure, Page, Stage};
use super::tree::Tree;
use crate::cgroup::Cgroup;
use crate::oci::spec::Status;
use crate::plan::{Hide, Hooks, Plan};

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
}

/// Runs the plan. Returns, with the exit code for the child, only if that fails.
pub(super) fn run(launch: &Launch<'_>) -> u8 {
    launch.page.child_runs();
    match carry_out(launch) {
        Ok(never) => match never {},
        Err(failure) => {
            launch.page.fail(&failure);
            exit_code(&failure)
        }
    }
}

/// As a shell has it.
pub(super) fn exit_code(failure: &Failure) -> u8 {
    match failure.error.raw_os_error() {
        Some(nix::libc::ENOENT | nix::libc::ENOTDIR) => 127,
        _ => 126,
    }
}

fn carry_out(launch: &Launch<'_>) -> Result<Infallible, Failure> {
    let Launch { plan, prepared, joins, cgroup, stop, channel, page, memory, .. } = *launch;
    let process = &plan.process;
    let pid = program::begin(channel, memory, cgroup)?;
    let mut own = Own::default();
    let labels = Labels::open(&mut own, process)?;
    if let Some(offsets) = &plan.time_namespace {
        own.take_clocks(offsets).at(Stage::TimeNamespace)?;
    }
    drop(own);
    joins.enter().map_err(|(index, error)| Failure { stage: Stage::Join, index, error })?;
    if !launch.own.is_empty() {
        unshare(launch.own).at(Stage::Namespaces)?;
    }
    if plan.cgroup_namespace {
        // Not at birth: the namespace's root would be the parent's cgroup.
        unshare(CloneFlags::CLONE_NEWCGROUP).at(Stage::CgroupNamespace)?;
    }
    if plan.users.is_some() || joins.have_users() {
        become_root(channel)?;
    }
    nix::unistd::setsid().at(Stage::Stdio)?;
    umask(Mode::empty());
    let mut program = Program {
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
    };
    build_tree(launch, &mut program)?;
    page.mounts_done();
    program.run().inspect_err(|failure| program.explain(failure))
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
    let mut tree = Tree::mount_root(plan, prepared, around).at(Stage::Root)?;
    for index in 0..plan.steps.len() {
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
        program::run_hooks("createContainer", &plan.hooks.create_container, program, Status::Creating)?;
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
