//! One more process in a container, by way of a process between it and the spawner.
//!
//! What is entered is hostile, and may be frozen: whoever waits for it must not be the one that all others wait for. So a child of the
//! spawner does it, and ends as soon as the program runs; the kernel makes the spawner that one's parent then.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use skiff_sys::process::{self, Memory};

use super::{Report, wire};
use crate::cgroup::{Cgroup, Paths};
use crate::error::Context;
use crate::launch::{self, Running};
use crate::options::{Options, Rootfs};
use crate::plan::{Plan, Subject};
use crate::{Error, Host};

/// What is run where.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) ticket: u64,
    pub(super) options: Options,
    pub(super) pid: i32,
    pub(super) cgroups: Paths,
}

/// Begins to carry it out; returns the socket on which its one report comes, and the process between. `descriptors` are those of the order.
pub(super) fn begin(
    entry: &Entry,
    descriptors: &[OwnedFd],
    (state_root, run_root): (&Path, &Path),
) -> Result<(OwnedFd, OwnedFd), Error> {
    let [init, stdin, stdout, stderr] = descriptors else {
        return Err(Error::Option("exec: one process and three streams are needed".into()));
    };
    let kind = SockType::SeqPacket;
    let pair = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC);
    let (own, its) = pair.context(|| "make a socket".into())?;
    let spawned = process::spawn(CloneFlags::empty(), None, Memory::Copied, |_| {
        let streams = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
        let prepared = prepare(streams, &[its.as_raw_fd(), init.as_raw_fd()]);
        let started = prepared
            .context(|| "take the streams".into())
            .and_then(|()| run(entry, init.as_fd(), state_root, run_root));
        u8::from(tell(its.as_fd(), entry.ticket, started).is_err())
    });
    let child = spawned.context(|| "clone3".into())?;
    Ok((own, child.pidfd))
}

/// Runs in: the process between.
fn prepare([stdin, stdout, stderr]: [BorrowedFd<'_>; 3], keep: &[i32]) -> io::Result<()> {
    process::die_with_parent()?;
    nix::unistd::dup2_stdin(stdin)?;
    nix::unistd::dup2_stdout(stdout)?;
    nix::unistd::dup2_stderr(stderr)?;
    process::close_others_in_child(keep)
}

/// Runs in: the process between.
fn run(entry: &Entry, init: BorrowedFd<'_>, state_root: &Path, run_root: &Path) -> Result<Running, Error> {
    let root = PathBuf::from(format!("/proc/{}/root", entry.pid));
    // Users and groups are those of the container as it is now; of its files nothing else is looked at.
    let options = Options {
        rootfs: Rootfs::Layers(vec![root]),
        mounts: Vec::new(),
        devices: Vec::new(),
        read_only: false,
        init: false,
        interactive: true,
        ..entry.options.clone()
    };
    let host = Host::probe(&options, state_root, run_root)?;
    let process = Plan::build(&options, &host)?.process;
    let cgroup = Cgroup::open_to_join(&entry.cgroups)?;
    // What was looked at by the number was the container's, if that is still its.
    process::send_signal(init, 0).context(|| "find the container".into())?;
    let (init_fd, subject) = (init, Subject::default());
    let plan = launch::exec::Plan {
        init: entry.pid,
        init_fd,
        cgroup: &cgroup,
        rdt_tasks: Vec::new(),
        process,
        subject,
        console_socket: None,
    };
    launch::exec(&plan)
}

/// Runs in: the process between.
fn tell(socket: BorrowedFd<'_>, ticket: u64, started: Result<Running, Error>) -> io::Result<()> {
    match started {
        Ok(running) => {
            let descriptors: Vec<_> = [running.pidfd()].into_iter().chain(running.console()).collect();
            wire::send(socket, &Report::ExecStarted { ticket, pid: running.pid() }, &descriptors)?;
            running.release();
            Ok(())
        }
        Err(error) => wire::send(socket, &failed(ticket, &error), &[]),
    }
}

pub(super) fn failed(ticket: u64, error: &Error) -> Report {
    Report::Failed { ticket, code: error.exit_code(), message: error.to_string() }
}
