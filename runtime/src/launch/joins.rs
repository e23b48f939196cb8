//! Namespaces that are there already and become the container's.
//!
//! They are opened before anything changes, and entering one that is not of the kind asked for fails: there is no way
//! around by path. setns(2).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns};
use skiff_sys::file;
use skiff_sys::process::{self, Child, Memory};

use super::report;
use crate::Error;
use crate::error::Context;
use crate::plan::{Join, Plan, c_path};

/// The namespaces to enter, opened.
#[derive(Debug)]
pub(super) struct Joins(Vec<(CloneFlags, OwnedFd)>);

impl Joins {
    pub(super) fn open(plan: &Plan) -> Result<Self, Error> {
        let open = |join: &Join| {
            let opened = file::open(&c_path(&join.path)?, OFlag::O_RDONLY, 0);
            Ok((join.kind, opened.context(|| describe(join))?))
        };
        plan.joins.iter().map(open).collect::<Result<_, Error>>().map(Self)
    }

    /// Enters what a process enters itself, all but the user and the PID namespace. Runs in: child.
    ///
    /// Errors: with the index of the one that could not be entered.
    pub(super) fn enter(&self) -> Result<(), (usize, io::Error)> {
        for (index, (kind, namespace)) in self.0.iter().enumerate() {
            if !matches!(*kind, CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID) {
                setns(namespace, *kind).map_err(|error| (index, error.into()))?;
            }
        }
        Ok(())
    }

    /// Forks the container's process, where the plan's new namespaces and those joined here meet. Runs in: parent.
    pub(super) fn spawn<F: FnOnce(Memory) -> u8>(
        &self,
        plan: &Plan,
        cgroup: Option<BorrowedFd<'_>>,
        memory: Memory,
        run: F,
    ) -> Result<Child, Error> {
        let failed = |index: usize| plan.joins.get(index).map_or_else(String::new, describe);
        let index = self.0.iter().position(|(kind, _)| *kind == CloneFlags::CLONE_NEWPID).unwrap_or_default();
        let children = self.for_children().context(|| failed(index))?;
        let child = process::spawn(plan.namespaces, cgroup, memory, run);
        if let Some(children) = children {
            children.leave().context(|| "return to the own PID namespace".into())?;
        }
        child.map_err(|error| report::clone_error(plan, error))
    }

    /// Whether a time namespace is joined, which a process must not share its memory for.
    pub(super) fn have_clocks(&self) -> bool {
        self.0.iter().any(|(kind, _)| kind.bits() == super::own::CLONE_NEWTIME)
    }

    /// Makes the PID namespace that is to be joined, if there is one, that of the children to come, until the result goes.
    /// Runs in: parent.
    pub(super) fn for_children(&self) -> io::Result<Option<ForChildren>> {
        let pid = self.0.iter().find(|(kind, _)| *kind == CloneFlags::CLONE_NEWPID);
        pid.map(|(_, namespace)| ForChildren::enter(namespace)).transpose()
    }

    /// The user namespace to join.
    pub(super) fn user(&self) -> Option<&OwnedFd> {
        let found = self.0.iter().find(|(kind, _)| *kind == CloneFlags::CLONE_NEWUSER);
        found.map(|(_, namespace)| namespace)
    }
}

/// A PID namespace that children are born in. pid_namespaces(7).
#[derive(Debug)]
pub(super) struct ForChildren {
    own: OwnedFd,
}

impl ForChildren {
    pub(super) fn enter(namespace: impl AsFd) -> io::Result<Self> {
        let own = file::open(c"/proc/self/ns/pid", OFlag::O_RDONLY, 0)?;
        setns(namespace, CloneFlags::CLONE_NEWPID)?;
        Ok(Self { own })
    }

    /// Goes back. Not done on drop: a failure would leave later children, as hooks, in the container.
    pub(super) fn leave(self) -> io::Result<()> {
        Ok(setns(self.own, CloneFlags::CLONE_NEWPID)?)
    }
}

/// What is tried with `join`.
pub(super) fn describe(join: &Join) -> String {
    let kind = match join.kind {
        CloneFlags::CLONE_NEWUSER => "user",
        CloneFlags::CLONE_NEWPID => "PID",
        CloneFlags::CLONE_NEWNET => "network",
        CloneFlags::CLONE_NEWNS => "mount",
        CloneFlags::CLONE_NEWIPC => "IPC",
        CloneFlags::CLONE_NEWUTS => "UTS",
        CloneFlags::CLONE_NEWCGROUP => "cgroup",
        _ => "time",
    };
    format!("join {kind} namespace {}", join.path.display())
}
