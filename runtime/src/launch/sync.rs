//! What parent and child say to each other.
//!
//! They share a SEQPACKET socket and one page of memory:
//!
//! | # | from | what | when |
//! |---|---|---|---|
//! | 1 | parent | `go`, one byte | the child's id maps are written and it is in its v2 cgroup |
//! | 2 | child | the console's master descriptor, one byte beside it | only with a terminal, once it is mounted |
//! | 3 | child | end of file | the program runs (every descriptor is close-on-exec), or the launch has failed |
//!
//! A child that works in its parent's memory is not sent 1: the parent has nothing to do for it, and sleeps.
//! Which of the two the end means stands in the page: a failing child leaves [`Failure`] there. Memory, not a message,
//! because by then a system call filter may forbid to send one.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    socketpair,
};
use skiff_sys::clock::SharedPage;

/// Where in the launch something happened. The parent makes the sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Stage {
    Wait = 1,
    Cgroup,
    CgroupNamespace,
    Propagation,
    Root,
    /// With the index of the step.
    Step,
    Console,
    Loopback,
    Hostname,
    Domainname,
    /// With the index of the parameter.
    Sysctl,
    OomScore,
    /// With the index of the path.
    Hide,
    RootReadOnly,
    Pivot,
    Keyring,
    Stdio,
    /// With the index of the limit.
    Rlimit,
    Bounding,
    Groups,
    Gid,
    Uid,
    Cwd,
    CwdOutside,
    Capabilities,
    NoNewPrivileges,
    Init,
    Seccomp,
    Exec,
}

impl Stage {
    const ALL: [Self; 29] = [
        Self::Wait,
        Self::Cgroup,
        Self::CgroupNamespace,
        Self::Propagation,
        Self::Root,
        Self::Step,
        Self::Console,
        Self::Loopback,
        Self::Hostname,
        Self::Domainname,
        Self::Sysctl,
        Self::OomScore,
        Self::Hide,
        Self::RootReadOnly,
        Self::Pivot,
        Self::Keyring,
        Self::Stdio,
        Self::Rlimit,
        Self::Bounding,
        Self::Groups,
        Self::Gid,
        Self::Uid,
        Self::Cwd,
        Self::CwdOutside,
        Self::Capabilities,
        Self::NoNewPrivileges,
        Self::Init,
        Self::Seccomp,
        Self::Exec,
    ];
}

/// Why a child has given up.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) stage: Stage,
    /// Which of the stage's objects.
    pub(super) index: usize,
    pub(super) error: io::Error,
}

/// Names the stage of a failing call.
pub(super) trait At<T> {
    fn at(self, stage: Stage) -> Result<T, Failure>;
    fn at_index(self, stage: Stage, index: usize) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, stage: Stage) -> Result<T, Failure> {
        self.at_index(stage, 0)
    }

    fn at_index(self, stage: Stage, index: usize) -> Result<T, Failure> {
        self.map_err(|error| Failure { stage, index, error: error.into() })
    }
}

/// The page's cells.
const CHILD: usize = 0;
const MOUNTS_DONE: usize = 1;
const SECURITY_DONE: usize = 2;
const FAILED_STAGE: usize = 3;
const FAILED_INDEX: usize = 4;
const FAILED_ERRNO: usize = 5;

/// The page: stamps of CLOCK_MONOTONIC and the failure.
#[derive(Debug)]
pub(super) struct Page(SharedPage);

impl Page {
    pub(super) fn new() -> io::Result<Self> {
        SharedPage::new().map(Self)
    }

    pub(super) fn child_runs(&self) {
        self.0.stamp(CHILD);
    }

    pub(super) fn mounts_done(&self) {
        self.0.stamp(MOUNTS_DONE);
    }

    pub(super) fn security_done(&self) {
        self.0.stamp(SECURITY_DONE);
    }

    /// The child's three stamps, ns: its first instruction, the file tree in place, about to run the program.
    pub(super) fn stamps(&self) -> [u64; 3] {
        [CHILD, MOUNTS_DONE, SECURITY_DONE].map(|cell| self.0.get(cell))
    }

    pub(super) fn fail(&self, failure: &Failure) {
        let errno = failure.error.raw_os_error().unwrap_or(nix::libc::EINVAL);
        self.0.set(FAILED_ERRNO, u64::from(errno.cast_unsigned()));
        self.0.set(FAILED_INDEX, failure.index as u64);
        self.0.set(FAILED_STAGE, failure.stage as u64);
    }

    pub(super) fn failure(&self) -> Option<Failure> {
        let stage = *Stage::ALL.iter().find(|stage| **stage as u64 == self.0.get(FAILED_STAGE))?;
        let index = usize::try_from(self.0.get(FAILED_INDEX)).unwrap_or(usize::MAX);
        let errno = i32::try_from(self.0.get(FAILED_ERRNO)).unwrap_or(nix::libc::EINVAL);
        Some(Failure { stage, index, error: io::Error::from_raw_os_error(errno) })
    }
}

/// One end of the socket.
#[derive(Debug)]
pub(super) struct Channel(OwnedFd);

impl Channel {
    /// The parent's end and the child's.
    pub(super) fn pair() -> io::Result<(Self, Self)> {
        let (parent, child) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Self(parent), Self(child)))
    }

    /// Closes the parent's end in the child, where it would hide the parent's death.
    pub(super) fn close_in_child(&self) {
        skiff_sys::process::close_in_child(self.0.as_fd());
    }

    /// 1, parent.
    pub(super) fn send_go(&self) -> io::Result<()> {
        nix::sys::socket::send(self.0.as_raw_fd(), &[1], MsgFlags::MSG_NOSIGNAL)?;
        Ok(())
    }

    /// 1, child. `ECONNRESET` if the parent is gone.
    pub(super) fn receive_go(&self) -> io::Result<()> {
        match nix::sys::socket::recv(self.0.as_raw_fd(), &mut [0], MsgFlags::empty())? {
            0 => Err(io::Error::from_raw_os_error(nix::libc::ECONNRESET)),
            _ => Ok(()),
        }
    }

    /// Child, any time: `ECONNRESET` if the parent is gone.
    pub(super) fn check_parent(&self) -> io::Result<()> {
        match nix::sys::socket::recv(self.0.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT) {
            Err(nix::Error::EAGAIN) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => Err(io::Error::from_raw_os_error(nix::libc::ECONNRESET)),
        }
    }

    /// 2, child.
    pub(super) fn send_console(&self, master: &OwnedFd) -> io::Result<()> {
        let descriptors = [master.as_raw_fd()];
        let control = [ControlMessage::ScmRights(&descriptors)];
        sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(&[2])], &control, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }

    /// 2 or 3, parent: the console, or `None` for the end.
    pub(super) fn receive(&self) -> io::Result<Option<OwnedFd>> {
        let mut byte = [0];
        let mut buffers = [IoSliceMut::new(&mut byte)];
        let mut control = nix::cmsg_space!(std::os::fd::RawFd);
        let fd = self.0.as_fd().as_raw_fd();
        let message = loop {
            match recvmsg::<()>(fd, &mut buffers, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC) {
                Err(nix::Error::EINTR) => {}
                other => break other?,
            }
        };
        if message.bytes == 0 {
            return Ok(None);
        }
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(descriptors) = control
                && let [descriptor] = descriptors[..]
            {
                return Ok(Some(skiff_sys::file::received(descriptor)));
            }
        }
        Err(io::Error::from_raw_os_error(nix::libc::EPROTO))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_has_its_number() {
        for (index, stage) in Stage::ALL.iter().enumerate() {
            assert_eq!(*stage as usize, index + 1);
        }
    }

    #[test]
    fn a_failure_survives_the_page() {
        let page = Page::new().expect("page");
        assert!(page.failure().is_none());
        let error = io::Error::from_raw_os_error(nix::libc::ELOOP);
        page.fail(&Failure { stage: Stage::Step, index: 7, error });
        let failure = page.failure().expect("failure");
        assert_eq!((failure.stage, failure.index), (Stage::Step, 7));
        assert_eq!(failure.error.raw_os_error(), Some(nix::libc::ELOOP));
    }

    #[test]
    fn the_console_arrives_and_then_the_end() {
        let (parent, child) = Channel::pair().expect("socketpair");
        let file: OwnedFd = std::fs::File::open("/dev/null").expect("open").into();
        child.send_console(&file).expect("send");
        drop(child);
        assert!(parent.receive().expect("console").is_some());
        assert!(parent.receive().expect("end").is_none());
    }
}
