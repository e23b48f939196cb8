//! A connection to systemd, over its private socket or a message bus. D-Bus specification, "Authentication Protocol".

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::wire::{self, ERROR, FIXED, Message, RETURN, Reader, SIGNAL, Writer};
use crate::Error;
use crate::error::Context;

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER: [&str; 3] = [SYSTEMD, "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"];
const BUS: [&str; 3] = ["org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus"];

/// A busy systemd is slow to answer; one that hangs must not hold up everything.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection.
#[derive(Debug)]
pub(super) struct Bus {
    socket: UnixStream,
    serial: u32,
    deadline: Instant,
    /// Signals that came while an answer was waited for.
    signals: Vec<Message>,
}

/// What a call comes to.
#[derive(Debug)]
pub(super) enum Answer {
    /// Its result.
    Done(Vec<u8>),
    /// The name of an error, and what it says.
    Refused(String, String),
}

impl Bus {
    /// Connects to the systemd of this host, or with `user` to that of the user.
    ///
    /// First by the socket that systemd itself listens at, which needs no message bus to run, then by the bus.
    pub(super) fn connect(user: bool) -> Result<Self, Error> {
        let [private, shared] = sockets(user)?;
        let mut failures = Vec::new();
        for (path, is_bus) in [(private, false), (shared, true)] {
            match Self::open(&path, is_bus) {
                Ok(bus) => return Ok(bus),
                Err(error) => failures.push(format!("{}: {}", path.display(), crate::error::plain(error))),
            }
        }
        Err(Error::Option(format!("cannot talk to systemd: {}", failures.join(", "))))
    }

    fn open(path: &Path, is_bus: bool) -> io::Result<Self> {
        let socket = UnixStream::connect(path)?;
        let deadline = Instant::now() + PATIENCE;
        let mut bus = Self { socket, serial: 0, deadline, signals: Vec::new() };
        bus.authenticate()?;
        if is_bus {
            bus.greet()?;
        }
        Ok(bus)
    }

    /// Says who it is by the credentials that the socket carries; the answers come line by line.
    ///
    /// All is sent at once: systemd takes what stands behind `BEGIN` when that arrives into its buffer, and does not look at
    /// it before more comes, so a message on the heels of `BEGIN` is never answered.
    fn authenticate(&mut self) -> io::Result<()> {
        self.socket.write_all(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")?;
        loop {
            let line = self.line()?;
            if line.starts_with("OK ") {
                return Ok(());
            }
            if !line.starts_with("DATA") {
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("refused: {line}")));
            }
        }
    }

    /// One byte at a time: what comes after the last line is no line any more.
    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") && line.len() < 512 {
            let mut byte = [0];
            self.fill(&mut byte)?;
            line.push(byte[0]);
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    /// What a bus wants before it passes anything on: to be greeted, to be told which signals are wanted.
    fn greet(&mut self) -> io::Result<()> {
        let refused = |answer| match answer {
            Answer::Done(_) => Ok(()),
            Answer::Refused(name, why) => Err(io::Error::other(format!("{name}: {why}"))),
        };
        let [destination, path, interface] = BUS;
        refused(self.request([destination, path, interface, "Hello"], "", Writer::default())?)?;
        let mut rule = Writer::default();
        rule.text("type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'");
        refused(self.request([destination, path, interface, "AddMatch"], "s", rule)?)?;
        let [destination, path, interface] = MANAGER;
        refused(self.request([destination, path, interface, "Subscribe"], "", Writer::default())?)
    }

    /// Calls `member` of systemd's manager.
    pub(super) fn manager(&mut self, member: &str, signature: &str, body: Writer) -> Result<Answer, Error> {
        let [destination, path, interface] = MANAGER;
        self.deadline = Instant::now() + PATIENCE;
        self.request([destination, path, interface, member], signature, body)
            .context(|| format!("call {member} of systemd"))
    }

    fn request(&mut self, target: [&str; 4], signature: &str, body: Writer) -> io::Result<Answer> {
        self.serial += 1;
        self.socket.write_all(&wire::call(self.serial, target, signature, body))?;
        loop {
            let message = self.message()?;
            match message.kind {
                RETURN if message.reply_to == self.serial => return Ok(Answer::Done(message.body)),
                ERROR if message.reply_to == self.serial => {
                    let why = Reader::new(&message.body).text().unwrap_or_default();
                    return Ok(Answer::Refused(message.error, why));
                }
                SIGNAL => self.signals.push(message),
                _ => {}
            }
        }
    }

    /// Waits for the end of the job at the path `job` and returns its result: `done`, `failed`, …
    pub(super) fn job_result(&mut self, job: &str) -> Result<String, Error> {
        self.deadline = Instant::now() + PATIENCE;
        let mut known = std::mem::take(&mut self.signals).into_iter();
        loop {
            let message = match known.next() {
                Some(message) => message,
                None => self.message().context(|| format!("wait for job {job} of systemd"))?,
            };
            if message.kind == SIGNAL && message.member == "JobRemoved" {
                let removed = job_removed(&message.body).context(|| "read a signal of systemd".into())?;
                if removed.0 == job {
                    return Ok(removed.1);
                }
            }
        }
    }

    fn message(&mut self) -> io::Result<Message> {
        let mut start = [0; FIXED];
        self.fill(&mut start)?;
        let mut bytes = start.to_vec();
        bytes.resize(wire::message_length(&start)?, 0);
        self.fill(&mut bytes[FIXED..])?;
        wire::parse(&bytes)
    }

    fn fill(&mut self, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
            }
            self.socket.set_read_timeout(Some(left))?;
            match self.socket.read(buffer) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "connection closed")),
                Ok(count) => buffer = &mut buffer[count..],
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Path and result of a job. `JobRemoved(u id, o job, s unit, s result)`.
fn job_removed(body: &[u8]) -> io::Result<(String, String)> {
    let mut input = Reader::new(body);
    input.number()?;
    let job = input.text()?;
    input.text()?;
    Ok((job, input.text()?))
}

/// systemd's own socket, and that of the bus that it is on.
fn sockets(user: bool) -> Result<[PathBuf; 2], Error> {
    if !user {
        return Ok(["/run/systemd/private", "/run/dbus/system_bus_socket"].map(PathBuf::from));
    }
    let Some(run) = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) else {
        return Err(Error::Option("cannot find the user's systemd: $XDG_RUNTIME_DIR is not set".into()));
    };
    let bus = std::env::var("DBUS_SESSION_BUS_ADDRESS").ok();
    let bus = bus.and_then(|address| {
        let path = address.split(';').find_map(|address| address.strip_prefix("unix:path="))?;
        Some(PathBuf::from(path.split(',').next()?))
    });
    Ok([run.join("systemd/private"), bus.unwrap_or_else(|| run.join("bus"))])
}
