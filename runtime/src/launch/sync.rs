//! What parent and child say to each other.
//!
//! They share a SEQPACKET socket and one page of memory:
//!
//! | # | from | what | when |
//! |---|---|---|---|
//! | 1 | parent | `go`, with the child's process id on the host | its id maps are written, it is in its v2 cgroup and known |
//! | 1a | child | `source`, with the number of a step; parent: what that binds, found in the child's mount namespace, or why not | only in a user namespace whose root finds no way there |
//! | 2 | child | the console's master descriptor | only with a terminal, once it is mounted |
//! | 3 | child | `built`; parent: `go` again | only with hooks that run in between: the tree is there, the pivot is next |
//! | 4 | child | `waiting` | only with a gate: nothing is left to do but what is to be done at the start ([`super::gate`]) |
//! | 5 | child | the descriptor of the system call listener, and a file that says where it goes; parent: `go` | only with such a filter |
//! | 6 | child | end of file | the program runs (every descriptor is close-on-exec), or the launch has failed |
//!
//! A child that is born ahead builds its file tree while its v1 cgroups and its network namespace are made; 1 brings them. A child that works in its parent's memory is not sent 1: the parent has nothing to do for it, and sleeps. At a gate
//! the connection of whoever opens it takes the place of the parent's socket for 5 and 6. One that is parked says 4 too;
//! then the parent's end goes to whoever is to run a program in it ([`super::park`]):
//!
//! | # | from | what | when |
//! |---|---|---|---|
//! | 4a | whoever has the line | `rouse`: the child waits awake for a moment | at most once, before 4b |
//! | 4b | whoever has the line | `program`: words, and three streams unless there is a terminal | once, any time after 4; the end of file instead of it ends the child |
//! | 6 | child | end of file | as above |
//!
//! Which of the two the end means stands in the page: a failing child leaves [`Failure`] there. Memory, not a message,
//! because by then a system call filter may forbid to send one.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    socketpair,
};
use skiff_sys::clock::monotonic_ns;
use skiff_sys::page::SharedPage;

macro_rules! stages {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Where in the launch something happened. The parent makes the sentence.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub(super) enum Stage {
            /// No failure.
            None,
            $($(#[$doc])* $name,)*
        }

        impl Stage {
            const ALL: &[Self] = &[Self::None, $(Self::$name),*];
        }
    };
}

stages! {
    Wait,
    /// With the index of the join.
    Join,
    Namespaces,
    Cgroup,
    Rdt,
    CgroupNamespace,
    TimeNamespace,
    Propagation,
    /// With the page's text for the sentence.
    Prepare,
    Root,
    /// With the index of the step.
    Step,
    Console,
    Loopback,
    Hostname,
    Domainname,
    /// With the index of the parameter.
    Sysctl,
    /// With the index of the path.
    Hide,
    RootReadOnly,
    /// With the page's text for the sentence.
    Hook,
    Pivot,
    RootPropagation,
    Keyring,
    Stdio,
    Label,
    Affinity,
    Scheduler,
    IoPriority,
    Personality,
    MemoryPolicy,
    /// With the index of the limit.
    Rlimit,
    Bounding,
    Groups,
    Gid,
    Uid,
    Cwd,
    CwdOutside,
    Capabilities,
    Ambient,
    NoNewPrivileges,
    Init,
    Gate,
    Seccomp,
    Listener,
    Exec,
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
const WOKEN: usize = 6;
const STREAMS_TAKEN: usize = 7;

/// The page: stamps of CLOCK_MONOTONIC and the failure.
#[derive(Debug)]
pub(super) struct Page(SharedPage);

impl Page {
    pub(super) fn new() -> io::Result<Self> {
        SharedPage::new().map(Self)
    }

    /// One that another process can [map](Self::map) by the descriptor.
    pub(super) fn with_descriptor() -> io::Result<(Self, OwnedFd)> {
        SharedPage::with_descriptor().map(|(page, memory)| (Self(page), memory))
    }

    pub(super) fn map(memory: BorrowedFd<'_>) -> io::Result<Self> {
        SharedPage::map(memory).map(Self)
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

    pub(super) fn woken(&self) {
        self.0.stamp(WOKEN);
    }

    pub(super) fn streams_taken(&self) {
        self.0.stamp(STREAMS_TAKEN);
    }

    /// The stamps of a child that was parked, ns: awake with its program's words, its streams in place, about to run the
    /// program.
    pub(super) fn stamps_of_parked(&self) -> [u64; 3] {
        [WOKEN, STREAMS_TAKEN, SECURITY_DONE].map(|cell| self.0.get(cell))
    }

    pub(super) fn fail(&self, failure: &Failure) {
        let errno = failure.error.raw_os_error().unwrap_or(nix::libc::EINVAL);
        self.0.set(FAILED_ERRNO, u64::from(errno.cast_unsigned()));
        self.0.set(FAILED_INDEX, failure.index as u64);
        self.0.set(FAILED_STAGE, failure.stage as u64);
    }

    pub(super) fn failure(&self) -> Option<Failure> {
        let found = self.0.get(FAILED_STAGE);
        let stage = *Stage::ALL.iter().skip(1).find(|stage| **stage as u64 == found)?;
        let index = usize::try_from(self.0.get(FAILED_INDEX)).unwrap_or(usize::MAX);
        let errno = i32::try_from(self.0.get(FAILED_ERRNO)).unwrap_or(nix::libc::EINVAL);
        Some(Failure { stage, index, error: io::Error::from_raw_os_error(errno) })
    }

    /// Leaves what the sentence about a failure is to say, where the plan does not tell.
    pub(super) fn write(&self, text: &[u8]) {
        self.0.write(text);
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.text()).into_owned()
    }
}

/// The first byte of each message.
const GO: u8 = 1;
const CONSOLE: u8 = 2;
const BUILT: u8 = 3;
const WAITING: u8 = 4;
const PAGE: u8 = 5;
const LISTENER: u8 = 6;
const PROGRAM: u8 = 7;
const PROGRAM_IN_FILE: u8 = 8;
const GO_AHEAD: u8 = 9;
const ROUSE: u8 = 10;
const SOURCE: u8 = 11;

/// How long one that was roused waits without sleeping, ns: longer than it takes to make up what it is to run.
const AWAKE_NS: u64 = 300_000;

/// The most descriptors that come with a `go`: one for each controller of cgroup v1, and a network namespace.
const MOST_WITH_GO: usize = 32;

/// The most bytes of words that travel in a packet; more lie in a file.
const PACKET_BYTES: usize = 32 << 10;

/// What a child that was born ahead gets with its `go`.
#[derive(Debug)]
pub(super) struct Go {
    /// Its process id on the host.
    pub(super) pid: i32,
    /// The network namespace that was made meanwhile.
    pub(super) network: Option<OwnedFd>,
    /// The open `tasks` of every v1 cgroup that was made meanwhile.
    pub(super) tasks: Vec<OwnedFd>,
}

/// What a parked child is to run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Words {
    /// Program and arguments.
    pub(super) argv: Vec<CString>,
    /// Environment.
    pub(super) env: Vec<CString>,
    /// Where the program is looked for if its name has no slash.
    pub(super) path: Vec<CString>,
}

impl Words {
    /// What stands before the words: which message it is, and how many there are of each kind.
    const HEAD_BYTES: usize = 13;

    fn write(&self, kind: u8) -> Vec<u8> {
        let lists = [&self.argv, &self.env, &self.path];
        let mut bytes = vec![kind];
        for list in lists {
            let count = u32::try_from(list.len()).unwrap_or(u32::MAX);
            bytes.extend(count.to_ne_bytes());
        }
        for word in lists.into_iter().flatten() {
            bytes.extend(word.as_bytes_with_nul());
        }
        bytes
    }

    /// `None` for what [`Words::write`] has not written.
    fn read(bytes: &[u8]) -> Option<Self> {
        let (head, mut rest) = bytes.split_at_checked(Self::HEAD_BYTES)?;
        let mut lists = [const { Vec::new() }; 3];
        for (list, count) in lists.iter_mut().zip(head[1..].chunks_exact(4)) {
            for _ in 0..u32::from_ne_bytes(count.try_into().ok()?) {
                let word = CStr::from_bytes_until_nul(rest).ok()?;
                rest = &rest[word.count_bytes() + 1..];
                list.push(word.to_owned());
            }
        }
        let [argv, env, path] = lists;
        (rest.is_empty() && !argv.is_empty()).then_some(Self { argv, env, path })
    }
}

/// What a child says.
#[derive(Debug)]
pub(super) enum Message {
    /// 1a: it looks for the source of this step.
    Source(u32),
    /// 2: the master of its terminal.
    Console(OwnedFd),
    /// 3: its file tree is there.
    Built,
    /// 4: it waits at the gate.
    Waiting,
    /// At a gate, before all else: the page, for whoever opens it.
    Page(OwnedFd),
    /// 5: what answers its system calls, and a file that says who is to have it.
    Listener(OwnedFd, OwnedFd),
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

    /// A connection by the gate.
    pub(super) const fn of(connection: OwnedFd) -> Self {
        Self(connection)
    }

    /// The number of this end's descriptor.
    pub(super) fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// This end, for poll(2).
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// This end, to be handed on.
    pub(super) fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Another descriptor of this end.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Closes this end in the child, where the parent's would hide the parent's death.
    pub(super) fn close_in_child(&self) {
        skiff_sys::process::close_in_child(self.0.as_fd());
    }

    /// 1 and 3, parent: `pid` is the child's.
    pub(super) fn send_go(&self, pid: i32) -> io::Result<()> {
        let [a, b, c, d] = pid.to_ne_bytes();
        nix::sys::socket::send(self.0.as_raw_fd(), &[GO, a, b, c, d], MsgFlags::MSG_NOSIGNAL)?;
        Ok(())
    }

    /// 1 and 3, child: its process id on the host. `ECONNRESET` if the parent is gone.
    pub(super) fn receive_go(&self) -> io::Result<i32> {
        let mut message = [0; 5];
        let length = loop {
            match nix::sys::socket::recv(self.0.as_raw_fd(), &mut message, MsgFlags::empty()) {
                Err(nix::Error::EINTR) => {}
                other => break other?,
            }
        };
        match message {
            _ if length == 0 => Err(io::Error::from_raw_os_error(nix::libc::ECONNRESET)),
            [GO, a, b, c, d] if length == 5 => Ok(i32::from_ne_bytes([a, b, c, d])),
            _ => Err(io::Error::from_raw_os_error(nix::libc::EPROTO)),
        }
    }

    /// 1, parent, to a child that was born ahead.
    pub(super) fn send_go_ahead<'a>(
        &self,
        pid: i32,
        network: Option<BorrowedFd<'a>>,
        tasks: impl Iterator<Item = BorrowedFd<'a>>,
    ) -> io::Result<()> {
        let [a, b, c, d] = pid.to_ne_bytes();
        let message = [GO_AHEAD, a, b, c, d, u8::from(network.is_some())];
        let descriptors: Vec<_> = network.into_iter().chain(tasks).map(|fd| fd.as_raw_fd()).collect();
        self.send_bytes(&message, &descriptors)
    }

    /// 1, child that was born ahead. `ECONNRESET` if the parent is gone.
    pub(super) fn receive_go_ahead(&self) -> io::Result<Go> {
        let mut message = [0; 6];
        let mut buffers = [IoSliceMut::new(&mut message)];
        let mut control = nix::cmsg_space!([RawFd; MOST_WITH_GO]);
        let fd = self.0.as_raw_fd();
        let arrived = loop {
            match recvmsg::<()>(fd, &mut buffers, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC) {
                Err(nix::Error::EINTR) => {}
                other => break other?,
            }
        };
        let length = arrived.bytes;
        let mut descriptors = received(arrived.cmsgs()?).into_iter();
        match message {
            _ if length == 0 => Err(io::Error::from_raw_os_error(nix::libc::ECONNRESET)),
            [GO_AHEAD, a, b, c, d, networks] if length == 6 => Ok(Go {
                pid: i32::from_ne_bytes([a, b, c, d]),
                network: if networks > 0 { descriptors.next() } else { None },
                tasks: descriptors.collect(),
            }),
            _ => Err(io::Error::from_raw_os_error(nix::libc::EPROTO)),
        }
    }

    /// 1a, child: the source of step `index`, as the parent finds it in the child's mount namespace.
    pub(super) fn ask_for_source(&self, index: u32) -> io::Result<OwnedFd> {
        let [a, b, c, d] = index.to_ne_bytes();
        self.send_bytes(&[SOURCE, a, b, c, d], &[])?;
        let mut message = [0; 5];
        let (length, mut descriptors) = self.receive_bytes(&mut message)?;
        match (message, descriptors.pop()) {
            _ if length == 0 => Err(io::Error::from_raw_os_error(nix::libc::ECONNRESET)),
            ([SOURCE, ..], Some(found)) => Ok(found),
            ([SOURCE, a, b, c, d], None) => {
                Err(io::Error::from_raw_os_error(i32::from_ne_bytes([a, b, c, d])))
            }
            _ => Err(io::Error::from_raw_os_error(nix::libc::EPROTO)),
        }
    }

    /// 1a, parent.
    pub(super) fn send_source(&self, found: &io::Result<OwnedFd>) -> io::Result<()> {
        let error = found.as_ref().err().map_or(0, |error| error.raw_os_error().unwrap_or(nix::libc::EIO));
        let [a, b, c, d] = error.to_ne_bytes();
        let descriptors: Vec<_> = found.iter().map(AsRawFd::as_raw_fd).collect();
        self.send_bytes(&[SOURCE, a, b, c, d], &descriptors)
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
        self.send(CONSOLE, &[master.as_raw_fd()])
    }

    /// 3, child.
    pub(super) fn send_built(&self) -> io::Result<()> {
        self.send(BUILT, &[])
    }

    /// 4, child.
    pub(super) fn send_waiting(&self) -> io::Result<()> {
        self.send(WAITING, &[])
    }

    /// Child, at the gate.
    pub(super) fn send_page(&self, page: BorrowedFd<'_>) -> io::Result<()> {
        self.send(PAGE, &[page.as_raw_fd()])
    }

    /// 5, child.
    pub(super) fn send_listener(&self, listener: BorrowedFd<'_>, notice: BorrowedFd<'_>) -> io::Result<()> {
        self.send(LISTENER, &[listener.as_raw_fd(), notice.as_raw_fd()])
    }

    /// 4a, whoever has the line. Never waits.
    pub(super) fn send_rouse(&self) -> io::Result<()> {
        self.send(ROUSE, &[])
    }

    /// 4b, whoever has the line. Never waits: nothing but [`ROUSE`] is there before it.
    pub(super) fn send_program(&self, words: &Words, streams: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut descriptors: Vec<RawFd> = streams.iter().map(AsRawFd::as_raw_fd).collect();
        let bytes = words.write(PROGRAM);
        if bytes.len() <= PACKET_BYTES {
            return self.send_bytes(&bytes, &descriptors);
        }
        let mut file = File::from(memfd_create(c"skiff-words", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(&bytes)?;
        descriptors.insert(0, file.as_raw_fd());
        self.send_bytes(&[PROGRAM_IN_FILE], &descriptors)
    }

    /// 4b, child: waits for it. `ECONNRESET` if nobody has the other end any more.
    pub(super) fn receive_program(&self) -> io::Result<(Words, Vec<OwnedFd>)> {
        let invalid = || io::Error::from_raw_os_error(nix::libc::EPROTO);
        // Its length first, so that no more memory is held meanwhile than it takes.
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC;
        let length = loop {
            let mut first = [0];
            match nix::sys::socket::recv(self.0.as_raw_fd(), &mut first, flags) {
                Err(nix::Error::EINTR) => {}
                Ok(1) if first == [ROUSE] => {
                    nix::sys::socket::recv(self.0.as_raw_fd(), &mut first, MsgFlags::empty())?;
                    self.look_out();
                }
                other => break other?,
            }
        };
        let mut bytes = vec![0; length];
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        let mut control = nix::cmsg_space!([RawFd; 4]);
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(self.0.as_raw_fd(), &mut buffers, Some(&mut control), flags)?;
        let mut descriptors = received(message.cmsgs()?);
        match bytes.first() {
            None => Err(io::Error::from_raw_os_error(nix::libc::ECONNRESET)),
            Some(&PROGRAM_IN_FILE) if !descriptors.is_empty() => {
                let mut file = File::from(descriptors.remove(0));
                let mut bytes = Vec::new();
                file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut bytes))?;
                Ok((Words::read(&bytes).ok_or_else(invalid)?, descriptors))
            }
            Some(&PROGRAM) => Ok((Words::read(&bytes).ok_or_else(invalid)?, descriptors)),
            Some(_) => Err(invalid()),
        }
    }

    /// Looks for what comes next without sleeping, for [`AWAKE_NS`] at most: to wake somebody who sleeps takes long.
    fn look_out(&self) {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        let begun = monotonic_ns();
        while nix::sys::socket::recv(self.0.as_raw_fd(), &mut [], flags) == Err(nix::Error::EAGAIN)
            && monotonic_ns() - begun < AWAKE_NS
        {
            // Whoever makes that up may be waiting for this processor.
            nix::sched::sched_yield().ok();
        }
    }

    /// Whoever has the line of a parked child: whether the child is through with it. It says nothing more, but closes it.
    pub(super) fn is_at_end(&self) -> io::Result<bool> {
        match nix::sys::socket::recv(self.0.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT) {
            Ok(0) | Err(nix::Error::ECONNRESET) => Ok(true),
            Ok(_) => Err(io::Error::from_raw_os_error(nix::libc::EPROTO)),
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn send(&self, what: u8, descriptors: &[RawFd]) -> io::Result<()> {
        self.send_bytes(&[what], descriptors)
    }

    fn send_bytes(&self, bytes: &[u8], descriptors: &[RawFd]) -> io::Result<()> {
        let with = [ControlMessage::ScmRights(descriptors)];
        let control = if descriptors.is_empty() { &[][..] } else { &with };
        sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }

    /// How long the next message is, and what came with it.
    fn receive_bytes(&self, message: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        let mut buffers = [IoSliceMut::new(message)];
        let mut control = nix::cmsg_space!([RawFd; 2]);
        let fd = self.0.as_raw_fd();
        let arrived = loop {
            match recvmsg::<()>(fd, &mut buffers, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC) {
                Err(nix::Error::EINTR) => {}
                other => break other?,
            }
        };
        Ok((arrived.bytes, received(arrived.cmsgs()?)))
    }

    /// 1a to 6, parent: what the child says, or `None` for the end.
    pub(super) fn receive(&self) -> io::Result<Option<Message>> {
        let mut message = [0; 5];
        let (length, descriptors) = match self.receive_bytes(&mut message) {
            // The other end has gone without having read what it was sent.
            Err(error) if error.raw_os_error() == Some(nix::libc::ECONNRESET) => return Ok(None),
            other => other?,
        };
        if length == 0 {
            return Ok(None);
        }
        let [what, a, b, c, d] = message;
        let mut descriptors = descriptors.into_iter();
        let message = match (what, descriptors.next(), descriptors.next()) {
            (SOURCE, None, None) => Message::Source(u32::from_ne_bytes([a, b, c, d])),
            (CONSOLE, Some(master), None) => Message::Console(master),
            (BUILT, None, None) => Message::Built,
            (WAITING, None, None) => Message::Waiting,
            (PAGE, Some(page), None) => Message::Page(page),
            (LISTENER, Some(listener), Some(notice)) => Message::Listener(listener, notice),
            _ => return Err(io::Error::from_raw_os_error(nix::libc::EPROTO)),
        };
        Ok(Some(message))
    }
}

/// Takes the descriptors out of what came with a message.
fn received(controls: impl Iterator<Item = ControlMessageOwned>) -> Vec<OwnedFd> {
    let mut descriptors = Vec::new();
    for control in controls {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            descriptors.extend(numbers.into_iter().map(skiff_sys::file::received));
        }
    }
    descriptors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_has_its_number() {
        for (index, stage) in Stage::ALL.iter().enumerate() {
            assert_eq!(*stage as usize, index);
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
    fn a_source_is_asked_for() {
        let (parent, child) = Channel::pair().expect("socketpair");
        let found: [io::Result<OwnedFd>; 2] = [
            Ok(std::fs::File::open("/dev/null").expect("open").into()),
            Err(io::Error::from_raw_os_error(nix::libc::ENOENT)),
        ];
        for found in found {
            let asked = std::thread::scope(|scope| {
                let asked = scope.spawn(|| child.ask_for_source(70_000));
                assert!(matches!(parent.receive().expect("a question"), Some(Message::Source(70_000))));
                parent.send_source(&found).expect("send");
                asked.join().expect("a thread")
            });
            let why = |result: &io::Result<OwnedFd>| result.as_ref().err().and_then(io::Error::raw_os_error);
            assert_eq!(why(&asked), why(&found));
        }
    }

    #[test]
    fn the_console_arrives_and_then_the_end() {
        let (parent, child) = Channel::pair().expect("socketpair");
        let file: OwnedFd = std::fs::File::open("/dev/null").expect("open").into();
        child.send_console(&file).expect("send");
        drop(child);
        assert!(matches!(parent.receive().expect("console"), Some(Message::Console(_))));
        assert!(parent.receive().expect("end").is_none());
    }

    #[test]
    fn a_program_arrives_whatever_its_size() {
        let (parent, child) = Channel::pair().expect("socketpair");
        let file: OwnedFd = std::fs::File::open("/dev/null").expect("open").into();
        let long = CString::new("x".repeat(1 << 20)).expect("no NUL");
        for env in [vec![], vec![c"A=".into(), c"".into()], vec![long]] {
            let words = Words { argv: vec![c"sh".into()], env, path: vec![c"/bin".into(), c".".into()] };
            parent.send_rouse().expect("send");
            parent.send_program(&words, &[file.as_fd()]).expect("send");
            let (received, streams) = child.receive_program().expect("receive");
            assert!(received == words && streams.len() == 1);
        }
        assert!(!parent.is_at_end().expect("look"));
        parent.send_go(7).expect("send");
        let error = child.receive_program().expect_err("no program");
        assert_eq!(error.raw_os_error(), Some(nix::libc::EPROTO));
        drop(parent);
        let error = child.receive_program().expect_err("nobody");
        assert_eq!(error.raw_os_error(), Some(nix::libc::ECONNRESET));
    }

    #[test]
    fn go_brings_what_was_made_meanwhile() {
        let (parent, child) = Channel::pair().expect("socketpair");
        let file = std::fs::File::open("/dev/null").expect("open");
        for (network, tasks) in [(None, 0), (Some(file.as_fd()), 0), (None, 15), (Some(file.as_fd()), 15)] {
            parent
                .send_go_ahead(4711, network, [file.as_fd()].into_iter().cycle().take(tasks))
                .expect("send");
            let go = child.receive_go_ahead().expect("go");
            assert_eq!((go.pid, go.network.is_some(), go.tasks.len()), (4711, network.is_some(), tasks));
        }
        parent.send_go(4711).expect("send");
        let error = child.receive_go_ahead().expect_err("another message");
        assert_eq!(error.raw_os_error(), Some(nix::libc::EPROTO));
        drop(parent);
        let error = child.receive_go_ahead().expect_err("nobody");
        assert_eq!(error.raw_os_error(), Some(nix::libc::ECONNRESET));
    }

    #[test]
    fn go_carries_the_process_id() {
        let (parent, child) = Channel::pair().expect("socketpair");
        parent.send_go(4711).expect("send");
        assert_eq!(child.receive_go().expect("go"), 4711);
        drop(parent);
        assert!(child.receive_go().is_err());
    }
}
