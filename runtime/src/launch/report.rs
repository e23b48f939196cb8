//! What goes wrong in a child, in one line.

use std::io;

use super::joins;
use super::sync::{Failure, Page, Stage};
use crate::Error;
use crate::error::plain;
use crate::plan::{Hide, Plan, Process, Step};

/// Says what a failing clone means, with what belongs to it.
pub(super) fn clone_error(plan: &Plan, error: io::Error) -> Error {
    let what = match error.raw_os_error() {
        Some(nix::libc::ENOSPC) => {
            "clone3: namespaces nest too deeply, or a limit in /proc/sys/user is reached".to_owned()
        }
        Some(nix::libc::EPERM) if plan.users.is_some() => {
            "clone3: this host lets only root make user namespaces".to_owned()
        }
        _ if plan.joins.is_empty() => "clone3".to_owned(),
        _ => {
            let joins: Vec<String> = plan.joins.iter().map(joins::describe).collect();
            format!("clone3, {}", joins.join(", "))
        }
    };
    Error::Host { what, source: plain(error) }
}

/// Says in one line what a child's failure means. Whoever opens a gate has neither plan nor process: then the page says
/// what they would have told of the few things that can still fail.
pub(super) fn sentence(
    plan: Option<&Plan>,
    process: Option<&Process>,
    failure: Failure,
    page: &Page,
) -> Error {
    let Failure { stage, index, error } = failure;
    let is_missing = matches!(error.raw_os_error(), Some(nix::libc::ENOENT | nix::libc::ENOTDIR));
    match stage {
        Stage::Exec => {
            let program = page.text();
            if is_missing && !program.contains('/') {
                let source = io::Error::new(io::ErrorKind::NotFound, "executable file not found in $PATH");
                Error::NotFound { program, source }
            } else if is_missing {
                Error::NotFound { program, source: lower_case(error) }
            } else {
                Error::CannotInvoke { program, source: lower_case(error) }
            }
        }
        Stage::Hook | Stage::Prepare => Error::Option(page.text()),
        _ => {
            let is_unmapped = plan.is_some_and(|plan| plan.users.is_some())
                && error.raw_os_error() == Some(nix::libc::EINVAL);
            let source = match stage {
                Stage::Uid | Stage::Gid if is_unmapped => {
                    let what = "not an id of this user namespace, see subuid(5)";
                    io::Error::new(io::ErrorKind::InvalidInput, what)
                }
                Stage::Step if error.raw_os_error() == Some(nix::libc::EXDEV) => {
                    io::Error::other("nothing but procfs itself may be mounted on /proc")
                }
                _ => plain(error),
            };
            Error::Host { what: attempt(plan, process, stage, index), source }
        }
    }
}

/// The words as engines look for them to tell the exit codes 126 and 127: they know those of Go's library.
fn lower_case(error: io::Error) -> io::Error {
    let error = plain(error);
    io::Error::new(error.kind(), error.to_string().to_lowercase())
}

/// What was tried at a stage, on what.
fn attempt(plan: Option<&Plan>, process: Option<&Process>, stage: Stage, index: usize) -> String {
    let cwd = || process.map(|process| process.cwd.to_string_lossy().into_owned()).unwrap_or_default();
    match stage {
        Stage::None => "do nothing".into(),
        Stage::Wait => "wait for the parent".into(),
        Stage::Join => match plan.and_then(|plan| plan.joins.get(index)) {
            Some(join) => joins::describe(join),
            None => "join the container's namespaces".into(),
        },
        Stage::Namespaces => "make namespaces".into(),
        Stage::Cgroup => "join a cgroup".into(),
        Stage::Rdt => "join the resctrl group".into(),
        Stage::CgroupNamespace => "make a cgroup namespace".into(),
        Stage::TimeNamespace => "make a time namespace".into(),
        Stage::Propagation => "make the mount namespace private".into(),
        Stage::Prepare => "prepare the container".into(),
        Stage::Root => "mount the root file system".into(),
        Stage::Step => match plan.and_then(|plan| plan.steps.get(index)) {
            Some(step) => describe(step),
            None => "mount".into(),
        },
        Stage::Console => "make a terminal".into(),
        Stage::Loopback => "bring loopback up".into(),
        Stage::Hostname => "set the host name".into(),
        Stage::Domainname => "set the domain name".into(),
        Stage::Sysctl => {
            let key = plan.and_then(|plan| plan.sysctls.get(index)).map(|(key, _)| key);
            format!("set sysctl {}", text(key).replace('/', "."))
        }
        Stage::Hide => match plan.and_then(|plan| plan.hide.get(index)) {
            Some(Hide::Mask(path)) => format!("mask /{}", path.to_string_lossy()),
            Some(Hide::ReadOnly(path)) => format!("make /{} read-only", path.to_string_lossy()),
            None => "hide a path".into(),
        },
        Stage::RootReadOnly => "make the root read-only".into(),
        Stage::RootPropagation => "set the propagation of the root".into(),
        Stage::Hook => "run a hook".into(),
        Stage::Pivot => "pivot into the root file system".into(),
        Stage::Keyring => "make a session keyring".into(),
        Stage::Stdio => "set up standard streams".into(),
        Stage::Label => "set the security label".into(),
        Stage::Affinity => "set the CPUs to run on".into(),
        Stage::Scheduler => "set the scheduling policy".into(),
        Stage::IoPriority => "set the I/O priority".into(),
        Stage::Personality => "set the execution domain".into(),
        Stage::MemoryPolicy => "set the memory policy".into(),
        Stage::Rlimit => match process.and_then(|process| process.rlimits.get(index)) {
            Some((resource, soft, hard)) => format!("set {resource:?} to {soft}:{hard}"),
            None => "set a resource limit".into(),
        },
        Stage::Bounding => "drop capabilities".into(),
        Stage::Groups => "set supplementary groups".into(),
        Stage::Gid => format!("become group {}", process.map_or(0, |process| process.gid)),
        Stage::Uid => format!("become user {}", process.map_or(0, |process| process.uid)),
        Stage::Cwd => format!("enter working directory /{}", cwd()),
        Stage::CwdOutside => format!("working directory /{} is outside of the container", cwd()),
        Stage::Capabilities => "set capabilities".into(),
        Stage::Ambient => "raise ambient capabilities".into(),
        Stage::NoNewPrivileges => "set no_new_privs".into(),
        Stage::Init => "start the init".into(),
        Stage::Gate => "wait to be started".into(),
        Stage::Seccomp => "load the seccomp filter".into(),
        Stage::Listener => "hand over the seccomp listener".into(),
        Stage::Exec => "run the program".into(),
    }
}

fn describe(step: &Step) -> String {
    let at = |path: &std::ffi::CString| format!("/{}", path.to_string_lossy());
    match step {
        Step::Filesystem { fstype, target, .. } => {
            format!("mount {} at {}", fstype.to_string_lossy(), at(&target.path))
        }
        Step::Bind { source, target, .. } => format!("bind {} at {}", source.display(), at(&target.path)),
        Step::OwnCgroup { hierarchy, path, target, .. } => {
            format!("bind {} at {}", hierarchy.join(path).display(), at(&target.path))
        }
        Step::Remount { target, .. } => format!("remount {}", at(&target.path)),
        Step::Directory(target) | Step::WorkingDirectory(target) => {
            format!("make directory {}", at(&target.path))
        }
        Step::Volume { target, .. } => format!("mount volume at {}", at(&target.path)),
        Step::Node(node) => format!("make device {}", node.target.display()),
        Step::Fifo { target, .. } => format!("make FIFO {}", at(&target.path)),
        Step::Symlink { path, .. } => format!("make symlink {}", at(path)),
        Step::Files(_) => "mount /etc/hostname, /etc/hosts and /etc/resolv.conf".into(),
        Step::ReadOnlyMount(target) => format!("make {} read-only", at(&target.path)),
    }
}

fn text(value: Option<&std::ffi::CString>) -> String {
    value.map(|value| value.to_string_lossy().into_owned()).unwrap_or_default()
}
