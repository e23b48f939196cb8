//! Containers that are made before it is known what they are to run.
//!
//! A parked init is a container's first process that has done everything but what its program decides: it is in its
//! namespaces and cgroups, its file tree is `/`, it has become the user and given up capabilities. It has closed all but its
//! end of a socket, the *line*, and waits there for the words and streams of its program; then it takes the streams, loads the system call
//! filter and execs. The end of the line says that the program runs, or the shared page what has failed.
//!
//! The spawner is its parent; whoever has the other end of the line decides about it. If nobody has it any more, the parked init ends.
//! Each is used once.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use skiff_sys::clock::monotonic_ns;
use skiff_sys::process;

use super::report;
use super::sync::{Channel, Page, Words};
use crate::Error;
use crate::error::Context;
use crate::plan;
use crate::spawner::Container;

/// A parked init, as whoever decides about it has it. Dropping it before [`Parked::go`] ends it; what else belongs to the
/// container – cgroups, writable layer – is its owner's to remove then.
#[derive(Debug)]
pub struct Parked {
    container: Container,
    pidfd: OwnedFd,
    line: Channel,
    page: Page,
    terminal: Option<OwnedFd>,
    mounts: Option<OwnedFd>,
    is_roused: bool,
    sent_ns: u64,
}

/// When each part of the launch of a parked container was over, ns of CLOCK_MONOTONIC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stamps {
    /// [`Parked::go`] was called.
    pub sent: u64,
    /// The parked init has read what it is to run.
    pub woken: u64,
    /// Its streams are in place.
    pub streams_taken: u64,
    /// The system call filter is about to be loaded and the program to be run.
    pub security_done: u64,
    /// Its end was seen on the line, and taken for that of the launch.
    pub exec_seen: u64,
}

impl Parked {
    /// Takes over what the spawner's report of `container` has brought.
    ///
    /// Errors: descriptors that are not those of the report.
    pub fn new(container: Container, descriptors: Vec<OwnedFd>) -> io::Result<Self> {
        let invalid = || io::Error::from_raw_os_error(nix::libc::EPROTO);
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next().ok_or_else(invalid);
        let (line, pidfd, page) = (Channel::of(next()?), next()?, next()?);
        let terminal = descriptors.next();
        if terminal.is_some() != container.tty {
            return Err(invalid());
        }
        let page = Page::map(page.as_fd())?;
        // An older kernel has no such question.
        let mounts = process::mount_namespace(pidfd.as_fd()).ok();
        Ok(Self { container, pidfd, line, page, terminal, mounts, is_roused: false, sent_ns: 0 })
    }

    /// What is known of it.
    #[must_use]
    pub const fn container(&self) -> &Container {
        &self.container
    }

    /// Readable when its process has ended. pidfd_open(2).
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// The master of its terminal, if it has one. Its size is to be set before [`Parked::go`].
    #[must_use]
    pub fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.terminal.as_ref().map(AsFd::as_fd)
    }

    /// Its mount namespace, where the kernel hands it out (Linux ≥ 6.11).
    ///
    /// Without somebody who has it, the end of the container is not told before all that is mounted in it has been taken down, which takes an
    /// RCU grace period. Whoever has it last, pays for that when closing it; before that, the container cannot be made again.
    pub fn take_mounts(&mut self) -> Option<OwnedFd> {
        self.mounts.take()
    }

    /// Readable when there is an [outcome](Self::outcome).
    #[must_use]
    pub fn line_fd(&self) -> BorrowedFd<'_> {
        self.line.fd()
    }

    /// Whether it is still what it was made to be: alive, waiting, and in its own cgroup.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let is_waiting = self.line.is_at_end().is_ok_and(|ended| !ended);
        // One question answers both others where the kernel knows it.
        is_waiting
            && match process::cgroup_of(self.pidfd()) {
                Ok(found) => self.container.cgroup.is_none_or(|own| own == found),
                Err(error) => {
                    error.raw_os_error() != Some(nix::libc::ESRCH)
                        && process::send_signal(self.pidfd(), 0).is_ok()
                        && self.is_listed_in_own_cgroup()
                }
            }
    }

    /// As `/proc/PID/cgroup` tells. cgroups(7).
    fn is_listed_in_own_cgroup(&self) -> bool {
        let own = self.container.cgroups.unified.as_ref().and_then(|path| path.file_name());
        let Some(own) = own else { return true };
        let table = std::fs::read(format!("/proc/{}/cgroup", self.container.pid)).unwrap_or_default();
        let line = table.split(|byte| *byte == b'\n').find(|line| line.starts_with(b"0::"));
        line.is_some_and(|line| line.rsplit(|byte| *byte == b'/').next() == Some(own.as_bytes()))
    }

    /// Has it wake up, for [`Parked::go`] is likely to follow at once: meanwhile it waits awake, for a moment. To be called once at most.
    pub fn rouse(&mut self) {
        if !std::mem::replace(&mut self.is_roused, true) {
            // One that is gone is found to be so.
            drop(self.line.send_rouse());
        }
    }

    /// Has it run `argv`, in the environment that docker's rules make of `env`, with these `streams` (which it takes no notice
    /// of if it has a terminal). Does not wait for that: see [`Parked::outcome`].
    ///
    /// Errors: words that cannot be a program's; `EPIPE` or `ECONNRESET` if it has ended.
    pub fn go(
        &mut self,
        argv: &[OsString],
        env: &[OsString],
        streams: [BorrowedFd<'_>; 3],
    ) -> Result<(), Error> {
        self.sent_ns = monotonic_ns();
        let Container { hostname, home, tty, .. } = &self.container;
        let env = plan::environment(env, hostname, home, *tty);
        if argv.is_empty() {
            return Err(Error::Option("no command specified".into()));
        }
        let words = Words { argv: words(argv)?, path: plan::search(&env)?, env: words(&env)? };
        let streams = if *tty { &[][..] } else { &streams };
        self.line.send_program(&words, streams).context(|| "speak to the container".into())
    }

    /// What has become of [`Parked::go`]; `None` while it is not known.
    ///
    /// Errors: the program could not be run; the container ends then, if it has not yet.
    pub fn outcome(&mut self) -> Result<Option<Stamps>, Error> {
        if !self.line.is_at_end().context(|| "listen to the container".into())? {
            return Ok(None);
        }
        let exec_seen = monotonic_ns();
        if let Some(failure) = self.page.failure() {
            return Err(report::sentence(None, None, failure, &self.page));
        }
        let [woken, streams_taken, security_done] = self.page.stamps_of_parked();
        if security_done == 0 {
            return Err(Error::Option("the container ended before its program could be run".into()));
        }
        Ok(Some(Stamps { sent: self.sent_ns, woken, streams_taken, security_done, exec_seen }))
    }

    /// What is left to hold of a container that runs: what is known of it, its pidfd and its terminal's master.
    #[must_use]
    pub fn into_parts(self) -> (Container, OwnedFd, Option<OwnedFd>) {
        (self.container, self.pidfd, self.terminal)
    }
}

fn words(given: &[OsString]) -> Result<Vec<CString>, Error> {
    let word = |word: &OsString| plan::c_bytes(OsStr::as_bytes(word));
    given.iter().map(word).collect()
}
