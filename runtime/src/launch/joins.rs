//! Namespaces that are there already and become the container's.
//!
//! They are opened before anything changes, and entering one that is not of the kind asked for fails: there is no way
//! around by path. setns(2).

use std::cell::{Cell, OnceCell};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns};
use skiff_sys::file;
use skiff_sys::process::{self, Child, Memory};

use super::own::CLONE_NEWTIME;
use crate::Error;
use crate::error::Context;
use crate::plan::{Join, c_path};

/// The namespaces to enter, opened.
#[derive(Debug)]
pub(super) struct Joins {
    opened: Vec<Opened>,
    /// A new network namespace, made beside the launch.
    network: OnceCell<OwnedFd>,
}

#[derive(Debug)]
struct Opened {
    kind: CloneFlags,
    namespace: OwnedFd,
    /// Whether the child was born in it.
    is_entered: Cell<bool>,
}

/// All kinds, by their names below `/proc/PID/ns`.
pub(super) const KINDS: [(CloneFlags, &str); 8] = [
    (CloneFlags::CLONE_NEWUSER, "user"),
    (CloneFlags::CLONE_NEWPID, "pid"),
    (CloneFlags::CLONE_NEWNET, "net"),
    (CloneFlags::CLONE_NEWIPC, "ipc"),
    (CloneFlags::CLONE_NEWUTS, "uts"),
    (CloneFlags::CLONE_NEWCGROUP, "cgroup"),
    (CloneFlags::from_bits_retain(CLONE_NEWTIME), "time"),
    (CloneFlags::CLONE_NEWNS, "mnt"),
];

impl Joins {
    pub(super) fn open(joins: &[Join]) -> Result<Self, Error> {
        let open = |join: &Join| {
            let namespace =
                file::open(&c_path(&join.path)?, OFlag::O_RDONLY, 0).context(|| describe(join))?;
            Ok(Opened { kind: join.kind, namespace, is_entered: Cell::new(false) })
        };
        let opened = joins.iter().map(open).collect::<Result<_, Error>>()?;
        Ok(Self { opened, network: OnceCell::new() })
    }

    /// Has the child enter `namespace`, which nobody has entered yet.
    pub(super) fn add_network(&self, namespace: OwnedFd) {
        // There is one at most.
        drop(self.network.set(namespace));
    }

    /// Whether a network namespace was [added](Self::add_network).
    pub(super) fn have_made_network(&self) -> bool {
        self.network.get().is_some()
    }

    /// The one that was added.
    pub(super) fn made_network(&self) -> Option<BorrowedFd<'_>> {
        self.network.get().map(AsFd::as_fd)
    }

    /// Whether nothing is joined but what a child can enter when its file tree is half built.
    pub(super) fn can_wait(&self) -> bool {
        self.opened.iter().all(|join| join.kind == CloneFlags::CLONE_NEWNET)
    }

    /// Forks a process where the new `namespaces` and those joined here meet. Runs in: parent.
    pub(super) fn spawn<F: FnOnce(Memory) -> u8>(
        &self,
        namespaces: CloneFlags,
        cgroup: Option<BorrowedFd<'_>>,
        memory: Memory,
        run: F,
    ) -> io::Result<Child> {
        let (user, pid) = (self.find(CloneFlags::CLONE_NEWUSER), self.find(CloneFlags::CLONE_NEWPID));
        // What an earlier attempt has entered went with the process between.
        self.opened.iter().for_each(|join| join.is_entered.set(false));
        if (user.is_some() || pid.is_some()) && nix::unistd::geteuid().is_root() {
            // What is in those namespaces must not look into a process that is yet to become one of theirs.
            process::set_undumpable()?;
        }
        let is_other_user = user.is_some() || namespaces.contains(CloneFlags::CLONE_NEWUSER);
        match pid {
            _ if is_other_user && !self.opened.is_empty() => {
                process::spawn_from(|| self.enter_around(user), namespaces, cgroup, memory, run)
            }
            Some(pid) => match ForChildren::enter(&pid.namespace)? {
                Some(children) => {
                    pid.is_entered.set(true);
                    let child = process::spawn(namespaces, cgroup, memory, run);
                    children.leave()?;
                    child
                }
                None => process::spawn_from(|| self.enter_around(None), namespaces, cgroup, memory, run),
            },
            None => process::spawn(namespaces, cgroup, memory, run),
        }
    }

    /// Enters the user namespace, if there is one to join, and before it what belongs to the one that is left: afterwards, or
    /// in a new one, there are no rights to that any more. A PID namespace can be entered only here. Runs in: the process
    /// between parent and child.
    fn enter_around(&self, user: Option<&Opened>) -> io::Result<()> {
        const EARLY: [CloneFlags; 5] = [
            CloneFlags::CLONE_NEWPID,
            CloneFlags::CLONE_NEWNET,
            CloneFlags::CLONE_NEWIPC,
            CloneFlags::CLONE_NEWUTS,
            CloneFlags::CLONE_NEWCGROUP,
        ];
        for join in self.opened.iter().filter(|join| EARLY.contains(&join.kind)) {
            match setns(&join.namespace, join.kind) {
                Ok(()) => join.is_entered.set(true),
                Err(nix::Error::EPERM) => {}
                Err(error) => return Err(error.into()),
            }
        }
        user.map_or(Ok(()), Opened::enter)?;
        let pid = self.find(CloneFlags::CLONE_NEWPID).filter(|pid| !pid.is_entered.get());
        pid.map_or(Ok(()), Opened::enter)
    }

    /// Enters what the process was not born in. Runs in: child.
    ///
    /// Errors: with the index of the one that could not be entered.
    pub(super) fn enter(&self) -> Result<(), (usize, io::Error)> {
        let made = self.network.get().map_or(Ok(()), |network| setns(network, CloneFlags::CLONE_NEWNET));
        made.map_err(|error| (usize::MAX, error.into()))?;
        let left = self.opened.iter().enumerate().filter(|(_, join)| !join.is_entered.get());
        left.into_iter().try_for_each(|(index, join)| join.enter().map_err(|error| (index, error)))
    }

    /// Whether a user namespace is joined.
    pub(super) fn have_users(&self) -> bool {
        self.find(CloneFlags::CLONE_NEWUSER).is_some()
    }

    /// The network namespace that the child enters.
    pub(super) fn network(&self) -> Option<BorrowedFd<'_>> {
        let joined = self.find(CloneFlags::CLONE_NEWNET).map(|join| &join.namespace);
        joined.or(self.network.get()).map(AsFd::as_fd)
    }

    /// Whether a time namespace is joined, which a process must not share its memory for.
    pub(super) fn have_clocks(&self) -> bool {
        self.find(CloneFlags::from_bits_retain(CLONE_NEWTIME)).is_some()
    }

    fn find(&self, kind: CloneFlags) -> Option<&Opened> {
        self.opened.iter().find(|join| join.kind == kind)
    }
}

impl Opened {
    fn enter(&self) -> io::Result<()> {
        setns(&self.namespace, self.kind)?;
        self.is_entered.set(true);
        Ok(())
    }
}

/// A PID namespace that children are born in. pid_namespaces(7).
#[derive(Debug)]
pub(super) struct ForChildren {
    own: OwnedFd,
}

impl ForChildren {
    /// `None` for whoever could not come back: that takes rights to the own PID namespace, and root in a user namespace has
    /// none to the host's.
    pub(super) fn enter(namespace: impl AsFd) -> io::Result<Option<Self>> {
        let own = file::open(c"/proc/self/ns/pid", OFlag::O_RDONLY, 0)?;
        match setns(&own, CloneFlags::CLONE_NEWPID) {
            Err(nix::Error::EPERM) => return Ok(None),
            other => other?,
        }
        setns(namespace, CloneFlags::CLONE_NEWPID)?;
        Ok(Some(Self { own }))
    }

    /// Goes back. Not done on drop: a failure would leave later children, as hooks, in the container.
    pub(super) fn leave(self) -> io::Result<()> {
        Ok(setns(self.own, CloneFlags::CLONE_NEWPID)?)
    }
}

/// What is tried with `join`.
pub(super) fn describe(join: &Join) -> String {
    let kind = KINDS.iter().find(|(kind, _)| *kind == join.kind).map_or("other", |(_, name)| name);
    format!("join {kind} namespace {}", join.path.display())
}
