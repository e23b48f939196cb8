//! criu(8) as a service of one request: `criu swrk FD`.
//!
//! What is said are protocol buffers, of which a few fields are needed: [`Message`] writes them and [`fields`] reads
//! them. The numbers are those of criu's `images/rpc.proto`. A request is answered after any number of notifications,
//! each of which criu waits to have acknowledged.

use std::fs;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, Shutdown, SockFlag, SockType, recvmsg, send, shutdown,
    socketpair,
};
use skiff_sys::file;

use crate::failure::{Context, Failure};

/// What is asked for. `enum criu_req_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    Dump = 1,
    Restore = 2,
    PreDump = 4,
}

const NOTIFY: u64 = 6;

/// Numbers of the fields of `criu_opts`.
pub(crate) mod option {
    pub(crate) const IMAGES_DIR_FD: u32 = 1;
    pub(crate) const PID: u32 = 2;
    pub(crate) const LEAVE_RUNNING: u32 = 3;
    pub(crate) const EXT_UNIX_SK: u32 = 4;
    pub(crate) const TCP_ESTABLISHED: u32 = 5;
    pub(crate) const EVASIVE_DEVICES: u32 = 6;
    pub(crate) const SHELL_JOB: u32 = 7;
    pub(crate) const FILE_LOCKS: u32 = 8;
    pub(crate) const LOG_LEVEL: u32 = 9;
    pub(crate) const LOG_FILE: u32 = 10;
    pub(crate) const PAGE_SERVER: u32 = 11;
    pub(crate) const NOTIFY_SCRIPTS: u32 = 12;
    pub(crate) const ROOT: u32 = 13;
    pub(crate) const PARENT_IMG: u32 = 14;
    pub(crate) const TRACK_MEM: u32 = 15;
    pub(crate) const AUTO_DEDUP: u32 = 16;
    pub(crate) const WORK_DIR_FD: u32 = 17;
    pub(crate) const LINK_REMAP: u32 = 18;
    pub(crate) const EXT_MNT: u32 = 23;
    pub(crate) const CG_ROOT: u32 = 25;
    pub(crate) const RST_SIBLING: u32 = 26;
    pub(crate) const INHERIT_FD: u32 = 27;
    pub(crate) const MANAGE_CGROUPS_MODE: u32 = 34;
    pub(crate) const EXTERNAL: u32 = 37;
    pub(crate) const EMPTY_NS: u32 = 38;
    pub(crate) const FREEZE_CGROUP: u32 = 44;
    pub(crate) const TCP_SKIP_IN_FLIGHT: u32 = 46;
    pub(crate) const LAZY_PAGES: u32 = 48;
    pub(crate) const STATUS_FD: u32 = 49;
    pub(crate) const ORPHAN_PTS_MASTER: u32 = 50;
    pub(crate) const TCP_CLOSE: u32 = 52;
    pub(crate) const LSM_PROFILE: u32 = 53;
    pub(crate) const LSM_MOUNT_CONTEXT: u32 = 63;
}

/// A message that is being written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    /// Adds a number, of any integer type but the zigzag ones.
    pub(crate) fn number(mut self, field: u32, value: i64) -> Self {
        self.varint(u64::from(field) << 3);
        self.varint(value.cast_unsigned());
        self
    }

    /// Adds a flag if it is set: unset is what criu takes its absence for.
    pub(crate) fn flag(self, field: u32, set: bool) -> Self {
        if set { self.number(field, 1) } else { self }
    }

    /// Adds bytes, which text and messages within messages are too.
    pub(crate) fn bytes(mut self, field: u32, value: &[u8]) -> Self {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    /// Adds a message.
    pub(crate) fn message(self, field: u32, value: &Self) -> Self {
        self.bytes(field, &value.0)
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }
}

/// The value of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message in order; `None` if it is none.
fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, Value<'_>)>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Value::Number(varint(&mut bytes)?),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                let (value, rest) = bytes.split_at_checked(length)?;
                bytes = rest;
                Value::Bytes(value)
            }
            _ => return None,
        };
        found.push((key >> 3, value));
    }
    Some(found)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// What criu says.
#[derive(Debug, Default)]
struct Reply {
    kind: u64,
    success: bool,
    /// Of the restored process, or of the one that a notification is about.
    pid: i32,
    /// What a notification is about.
    script: String,
    error: String,
}

impl Reply {
    /// `message criu_resp`.
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut reply = Self::default();
        for (field, value) in fields(bytes)? {
            match (field, value) {
                (1, Value::Number(kind)) => reply.kind = kind,
                (2, Value::Number(success)) => reply.success = success == 1,
                (4 | 5, Value::Bytes(about)) => reply.read_about(field, about)?,
                (9, Value::Bytes(text)) => reply.error = String::from_utf8_lossy(text).into_owned(),
                _ => {}
            }
        }
        Some(reply)
    }

    /// `message criu_restore_resp` (4) and `message criu_notify` (5).
    fn read_about(&mut self, what: u64, bytes: &[u8]) -> Option<()> {
        for (field, value) in fields(bytes)? {
            match (what, field, value) {
                (4, 1, Value::Number(pid)) | (5, 2, Value::Number(pid)) => {
                    self.pid = i32::try_from(pid).ok()?
                }
                (5, 1, Value::Bytes(text)) => self.script = String::from_utf8_lossy(text).into_owned(),
                _ => {}
            }
        }
        Some(())
    }
}

/// What a notification brings.
#[derive(Debug)]
pub(crate) struct Notice<'a> {
    /// Its name.
    pub(crate) script: &'a str,
    /// The process that it is about.
    pub(crate) pid: i32,
    /// The master of the container's terminal, with `orphan-pts-master`.
    pub(crate) descriptor: Option<OwnedFd>,
}

/// A criu that waits for its request.
#[derive(Debug)]
pub(crate) struct Service {
    child: Child,
    socket: OwnedFd,
    log: PathBuf,
}

impl Service {
    /// Starts `program`. It will write its log to the file `log`.
    pub(crate) fn start(program: &Path, log: PathBuf) -> Result<Self, Failure> {
        let (socket, its) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .context(|| "make a socket".into())?;
        fcntl(&its, FcntlArg::F_SETFD(FdFlag::empty())).context(|| "pass a socket on".into())?;
        let mut command = Command::new(program);
        command.arg("swrk").arg(its.as_raw_fd().to_string());
        let child = command.spawn().context(|| format!("run {}", program.display()))?;
        Ok(Self { child, socket, log })
    }

    /// Its process.
    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Asks for `task` and returns the process id that the answer names. `notice` is told of what happens meanwhile.
    pub(crate) fn ask(
        mut self,
        task: Task,
        options: &Message,
        notice: &mut dyn FnMut(Notice<'_>) -> Result<(), Failure>,
    ) -> Result<i32, Failure> {
        self.send(&Message::default().number(1, task as i64).message(2, options))?;
        let answer = loop {
            let (reply, descriptor) = self.receive()?;
            if reply.kind != NOTIFY {
                break reply;
            }
            let done = notice(Notice { script: &reply.script, pid: reply.pid, descriptor });
            self.send(&Message::default().number(1, NOTIFY as i64).number(3, i64::from(done.is_ok())))?;
            done?;
        };
        // After a pre-dump it would wait for the next request.
        shutdown(self.socket.as_raw_fd(), Shutdown::Write).context(|| "close the socket".into())?;
        self.child.wait().context(|| "wait for criu".into())?;
        if answer.success { Ok(answer.pid) } else { Err(self.failed(&answer.error)) }
    }

    fn send(&self, message: &Message) -> Result<(), Failure> {
        let sent = send(self.socket.as_raw_fd(), &message.0, MsgFlags::MSG_NOSIGNAL);
        sent.map(drop).map_err(|error| self.failed(error.desc()))
    }

    /// One message, and the descriptor that came with it.
    fn receive(&self) -> Result<(Reply, Option<OwnedFd>), Failure> {
        const LENGTH: usize = 4096;
        let mut bytes = [0; LENGTH];
        let mut control = nix::cmsg_space!([std::os::fd::RawFd; 1]);
        let (length, descriptor) = {
            let mut data = [IoSliceMut::new(&mut bytes)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let socket = self.socket.as_fd().as_raw_fd();
            let message = recvmsg::<()>(socket, &mut data, Some(&mut control), flags)
                .context(|| "listen to criu".into())?;
            let mut descriptor = None;
            for control in message.cmsgs().context(|| "listen to criu".into())? {
                if let ControlMessageOwned::ScmRights(received) = control {
                    descriptor = received.first().map(|number| file::received(*number));
                }
            }
            (message.bytes, descriptor)
        };
        if length == 0 {
            return Err(self.failed("it ended without an answer"));
        }
        let reply = Reply::read(&bytes[..length]).ok_or_else(|| self.failed("it said what is no message"))?;
        Ok((reply, descriptor))
    }

    /// What went wrong: what criu says of it, and the last error in its log.
    fn failed(&self, why: &str) -> Failure {
        let log = self.log.display();
        match (last_error(&self.log), why) {
            (Ok(Some(line)), _) => Failure::new(format!("criu: {line} (see {log})")),
            (_, "") => Failure::new(format!("criu failed and has not said why (see {log})")),
            (_, why) => Failure::new(format!("criu: {why} (see {log})")),
        }
    }
}

impl Drop for Service {
    /// A criu that is left alone ends by itself, at the end of its socket.
    fn drop(&mut self) {
        let closed = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
        if closed.is_err() || self.child.wait().is_err() {
            tracing::warn!("criu, process {}, is left alone", self.child.id());
        }
    }
}

/// The last line of criu's log that tells of an error, without its time and place.
fn last_error(log: &Path) -> io::Result<Option<String>> {
    let text = String::from_utf8_lossy(&fs::read(log)?).into_owned();
    let line =
        text.lines().rev().filter_map(|line| line.split_once("Error (")).map(|(_, rest)| rest).find(|rest| {
            // Said after every failure.
            !rest.contains("finished with error")
                && !rest.contains("Dumping FAILED")
                && !rest.contains("Restoring FAILED")
                && !rest.contains("failed with -1")
                && !rest.contains("exited with")
        });
    Ok(line.map(|rest| rest.split_once("): ").map_or(rest, |(_, said)| said).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_protocol_buffers() {
        // protoc --encode=criu_req rpc.proto <<< 'type: DUMP opts {images_dir_fd: 300 pid: -1 log_file: "a"}'
        let options = Message::default().number(1, 300).number(2, -1).bytes(10, b"a").flag(3, false);
        let request = Message::default().number(1, 1).message(2, &options);
        let expected = [
            8, 1, 18, 17, 8, 0xac, 2, 16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 82, 1,
            b'a',
        ];
        assert_eq!(request.0, expected);
    }

    #[test]
    fn replies_are_read_and_what_is_none_is_not() {
        let notice = Message::default().bytes(1, b"post-restore").number(2, 4711);
        let reply = Message::default().number(1, 6).number(2, 1).message(5, &notice).number(77, 3);
        let read = Reply::read(&reply.0).expect("a reply");
        assert_eq!(
            (read.kind, read.success, read.pid, read.script.as_str()),
            (6, true, 4711, "post-restore")
        );
        for bytes in [&[8][..], &[8, 0xff], &[18, 5, 1], &[0x0d, 1, 2, 3, 4], &[0xff; 30]] {
            assert!(Reply::read(bytes).is_none(), "{bytes:?}");
        }
        let mut long = vec![8];
        long.extend([0x80; 10]);
        assert!(Reply::read(&long).is_none());
    }

    #[test]
    fn the_last_error_of_a_log_is_told() {
        let path = std::env::temp_dir().join(format!("skiff-criu-{}", std::process::id()));
        let log = "(00.1) Warn  (a.c:1): x\n(00.2) Error (criu/files.c:7): Can't open: No such file\n\
                   (00.3) Error (criu/cr-dump.c:2): Dump files (pid: 3) failed with -1\n(00.3) Error (criu/cr-dump.c:1): Dumping FAILED.\n";
        fs::write(&path, log).expect("write");
        let line = last_error(&path).expect("read");
        fs::remove_file(&path).expect("remove");
        assert_eq!(line.as_deref(), Some("Can't open: No such file"));
        assert!(last_error(&path).is_err());
    }
}
