//! What a client that is attached to a running container does: it shows what the container writes by following its log,
//! feeds it by the writing end of its input, and passes signals on. Any number of clients at once; none of them, nor the
//! container, waits for another, and one that falls too far behind is told how much it has missed.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use skiff_runtime::supervise::{Deputy, Keys, Raw, Signals, send_as};
use skiff_sys::terminal;

use crate::log::{Reader, Start, Stream, Watch};

/// What a pipe that polls as writable takes without blocking (`PIPE_BUF`), so that a slow output does not hold up signals.
const PART: usize = 4096;

/// The container's side, as the daemon has handed it out ([`crate::protocol::Reply::Log`]).
#[derive(Debug)]
pub struct Container<'a> {
    /// The log that is followed, open since before anything is to be seen.
    pub log: Reader,
    /// Its first process.
    pub pidfd: BorrowedFd<'a>,
    /// What leads to its input: the writing end of a pipe, or its terminal's master.
    pub input: Option<BorrowedFd<'a>>,
    /// Whether that is a terminal.
    pub tty: bool,
    /// The connection to the daemon, which tells of the end.
    pub connection: BorrowedFd<'a>,
}

/// The client's side.
#[derive(Debug)]
pub struct Caller<'a> {
    /// Blocked since before the request, so that none is lost.
    pub signals: &'a Signals,
    /// Standard input, if it is to be passed on.
    pub stdin: Option<BorrowedFd<'a>>,
    /// Standard output.
    pub stdout: BorrowedFd<'a>,
    /// Standard error.
    pub stderr: BorrowedFd<'a>,
    /// Signals go to the container; otherwise they have their usual effect, by [`End::Signal`].
    pub sig_proxy: bool,
    /// What leaves a terminal when it is typed; nothing does if empty.
    pub detach_keys: &'a [u8],
    /// Who sends signals that the caller may not send itself.
    pub deputy: Option<Deputy<'a>>,
}

/// Why a client is attached no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The connection can be read from, or is closed, and all that the container had written by then is shown.
    Told,
    /// The keys to leave have been typed.
    Detached,
    /// Nobody reads the output.
    Refused,
    /// This signal would end the client.
    Signal(i32),
}

/// Opens the log in `directory` at its end, for [`attach`].
pub fn open_log(directory: OwnedFd) -> io::Result<Reader> {
    Reader::open(directory, Start::End)
}

/// Stays attached until the container has ended or the client leaves. The client's terminal is as before on return.
pub fn attach(container: Container<'_>, caller: &Caller<'_>) -> io::Result<End> {
    if let Some(input) = container.input {
        // Shared with the daemon, which reads a terminal only when it polls as readable, and other clients.
        let flags = OFlag::from_bits_retain(fcntl(input, FcntlArg::F_GETFL)?);
        fcntl(input, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    }
    let stdin = caller.stdin.filter(|_| container.input.is_some());
    let raw = match stdin.filter(|stdin| container.tty && stdin.is_terminal()) {
        Some(stdin) => Some(Raw::enter(stdin)?),
        None => None,
    };
    let mut client = Client {
        watch: Watch::new(&container.log),
        keys: Keys::new(if raw.is_some() { caller.detach_keys } else { &[] }),
        raw,
        stdin,
        output: Pending::default(),
        feed: Vec::new(),
        told: false,
        container,
        caller,
    };
    client.resize();
    loop {
        if let Some(end) = client.step()? {
            return Ok(end);
        }
    }
}

struct Client<'a> {
    container: Container<'a>,
    caller: &'a Caller<'a>,
    watch: Watch,
    raw: Option<Raw<'a>>,
    keys: Keys<'a>,
    /// Standard input until it ends.
    stdin: Option<BorrowedFd<'a>>,
    /// On its way to the client's output.
    output: Pending,
    /// On its way to the container's input, at most [`PART`] and what the keys hold back.
    feed: Vec<u8>,
    /// The daemon has told of the end.
    told: bool,
}

/// One piece of the log, partly written.
#[derive(Debug, Default)]
struct Pending {
    bytes: Vec<u8>,
    written: usize,
    to_stderr: bool,
}

impl Pending {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.written..]
    }
}

/// What poll(2) has found.
#[derive(Debug, Default)]
struct Ready {
    told: bool,
    signal: bool,
    output: bool,
    stdin: bool,
    input: bool,
}

impl Client<'_> {
    /// Waits for something and does it.
    fn step(&mut self) -> io::Result<Option<End>> {
        self.refill()?;
        if self.told && self.output.rest().is_empty() {
            return Ok(Some(End::Told));
        }
        let ready = self.wait()?;
        self.told |= ready.told;
        if ready.signal
            && let Some(end) = self.pass_signals()?
        {
            return Ok(Some(end));
        }
        if ready.output && !self.write_output()? {
            return Ok(Some(End::Refused));
        }
        if ready.stdin && self.read_stdin()? {
            return Ok(Some(End::Detached));
        }
        if ready.input {
            self.write_input()?;
        }
        Ok(None)
    }

    /// Takes the next piece of the log once the last is written.
    fn refill(&mut self) -> io::Result<()> {
        if !self.output.rest().is_empty() {
            return Ok(());
        }
        if let Some(piece) = self.container.log.next_piece()? {
            let to_stderr =
                piece.stream != Stream::Out && !(self.container.tty && piece.stream == Stream::Err);
            let note: &[u8] = if piece.stream == Stream::Note { b"skiff: " } else { b"" };
            self.output = Pending { bytes: [note, piece.bytes].concat(), written: 0, to_stderr };
        }
        Ok(())
    }

    fn wait(&self) -> io::Result<Ready> {
        let busy = !self.output.rest().is_empty();
        // What there is nothing to do about leaves its place to a descriptor that is watched anyway, for nothing.
        let idle = || PollFd::new(self.container.connection, PollFlags::empty());
        let target = if self.output.to_stderr { self.caller.stderr } else { self.caller.stdout };
        let output = if busy { Some(PollFd::new(target, PollFlags::POLLOUT)) } else { self.watch.interest() };
        let stdin = self.stdin.filter(|_| self.feed.is_empty()).map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let input = self.container.input.filter(|_| !self.feed.is_empty());
        let input = input.map(|fd| PollFd::new(fd, PollFlags::POLLOUT));
        // Once told, the connection is readable for good.
        let connection = if self.told { PollFlags::empty() } else { PollFlags::POLLIN };
        let mut fds = [
            PollFd::new(self.container.connection, connection),
            PollFd::new(self.caller.signals.as_fd(), PollFlags::POLLIN),
            output.unwrap_or_else(idle),
            stdin.clone().unwrap_or_else(idle),
            input.clone().unwrap_or_else(idle),
        ];
        let timeout = if busy { PollTimeout::NONE } else { self.watch.timeout(None) };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let happened = |index: usize| fds[index].revents().is_some_and(|events| !events.is_empty());
        if !busy {
            self.watch.clear();
        }
        Ok(Ready {
            told: happened(0),
            signal: happened(1),
            output: busy && happened(2),
            stdin: stdin.is_some() && happened(3),
            input: input.is_some() && happened(4),
        })
    }

    fn pass_signals(&mut self) -> io::Result<Option<End>> {
        for signal in self.caller.signals.take()? {
            match signal {
                libc::SIGWINCH if self.container.tty => self.resize(),
                libc::SIGCONT if self.raw.is_some() => {
                    self.raw.iter().for_each(Raw::apply);
                    self.resize();
                }
                _ if self.caller.sig_proxy => {
                    send_as(self.container.pidfd, signal, self.caller.deputy)?;
                }
                libc::SIGTERM | libc::SIGINT | libc::SIGHUP | libc::SIGQUIT => {
                    return Ok(Some(End::Signal(signal)));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// Gives the container's terminal the size of the client's, if both have one.
    fn resize(&self) {
        let size = terminal::size(self.caller.stdout)
            .or_else(|error| self.caller.stdin.map_or(Err(error), terminal::size));
        if let (true, Some(console), Ok(size)) = (self.container.tty, self.container.input, size)
            && let Err(error) = terminal::set_size(console, size)
        {
            tracing::debug!(%error, "resize");
        }
    }

    /// Writes a part of what is pending; false if nobody reads it.
    fn write_output(&mut self) -> io::Result<bool> {
        let to = if self.output.to_stderr { self.caller.stderr } else { self.caller.stdout };
        let rest = self.output.rest();
        match nix::unistd::write(to, &rest[..rest.len().min(PART)]) {
            Ok(written) => self.output.written += written,
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => {}
            Err(nix::Error::EPIPE | nix::Error::EIO) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        Ok(true)
    }

    /// Takes what the client types; true if it is the keys to leave.
    fn read_stdin(&mut self) -> io::Result<bool> {
        let Some(stdin) = self.stdin else { return Ok(false) };
        let mut bytes = [0; PART];
        match nix::unistd::read(stdin, &mut bytes) {
            Ok(0) | Err(nix::Error::EIO) => self.stdin = None,
            Ok(count) => return Ok(self.keys.pass(&bytes[..count], &mut self.feed)),
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(false)
    }

    fn write_input(&mut self) -> io::Result<()> {
        let Some(input) = self.container.input else { return Ok(()) };
        match nix::unistd::write(input, &self.feed) {
            Ok(written) => drop(self.feed.drain(..written)),
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => {}
            // The container reads no more.
            Err(nix::Error::EPIPE | nix::Error::EIO) => {
                self.feed.clear();
                self.stdin = None;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, PipeWriter, Read, Write};
    use std::os::unix::net::UnixStream;
    use std::path::Path;

    use skiff_sys::process;

    use super::*;
    use crate::log::{JOURNAL, Origin, Streams, Target, Thread, open_directory};
    use crate::spec::LogSpec;

    /// Attaches to the log at `path` as a client would, with pipes for streams; what leads to its ends is returned.
    fn client(
        path: &Path,
        input: &PipeWriter,
    ) -> (std::thread::JoinHandle<End>, [PipeReader; 2], PipeWriter, UnixStream) {
        let log = open_log(open_directory(path).expect("the log")).expect("open");
        let (stdin, typed) = io::pipe().expect("pipe");
        let (shown, stdout) = io::pipe().expect("pipe");
        let (shown_err, stderr) = io::pipe().expect("pipe");
        let (connection, daemon) = UnixStream::pair().expect("pair");
        let input = input.try_clone().expect("dup");
        let thread = std::thread::spawn(move || {
            let signals = Signals::block().expect("block");
            let own = i32::try_from(std::process::id()).expect("a pid");
            let pidfd = process::open_pidfd(own).expect("pidfd");
            let container = Container {
                log,
                pidfd: pidfd.as_fd(),
                input: Some(input.as_fd()),
                tty: false,
                connection: connection.as_fd(),
            };
            let caller = Caller {
                signals: &signals,
                stdin: Some(stdin.as_fd()),
                stdout: stdout.as_fd(),
                stderr: stderr.as_fd(),
                sig_proxy: false,
                detach_keys: b"",
                deputy: None,
            };
            attach(container, &caller).expect("attach")
        });
        (thread, [shown, shown_err], typed, daemon)
    }

    #[test]
    fn clients_see_the_same_and_one_that_does_not_read_holds_up_nobody() {
        let directory = std::env::temp_dir().join(format!("skiff-attach-{}", std::process::id()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let (stdout, mut out) = io::pipe().expect("pipe");
        let (stderr, mut err) = io::pipe().expect("pipe");
        let (mut fed, input) = io::pipe().expect("pipe");
        let streams = Streams::Pipes { stdout: stdout.into(), stderr: stderr.into() };
        let target = Target {
            directory: directory.join("log"),
            id: "0123456789abcdef".into(),
            name: "web".into(),
            image: "busybox".into(),
            spec: LogSpec::default(),
            journal: JOURNAL.into(),
        };
        runtime.block_on(async {
            let thread = Thread::start(1).expect("thread");
            std::fs::create_dir_all(&target.directory).expect("directory");
            let path = target.directory.clone();
            let writer = thread.write(target, streams, Origin::New);
            let (first, [mut shown, mut shown_err], mut typed, daemon) = client(&path, &input);
            let (second, unread, _typed, second_daemon) = client(&path, &input);
            typed.write_all(b"fed\n").expect("write");
            let mut bytes = [0; 4];
            fed.read_exact(&mut bytes).expect("read");
            assert_eq!(&bytes, b"fed\n");
            // More than all pipes on the way hold.
            let line = [b"x".repeat(1023).as_slice(), b"\n"].concat();
            let reader = std::thread::spawn(move || {
                let mut all = Vec::new();
                shown.read_to_end(&mut all).map(|_| all)
            });
            (0..1024).for_each(|_| out.write_all(&line).expect("write"));
            err.write_all(b"the end\n").expect("write");
            drop((out, err));
            writer.finished().await;
            drop(daemon);
            assert_eq!(first.join().expect("the first client"), End::Told);
            assert!(reader.join().expect("join").expect("read") == line.repeat(1024));
            let mut text = String::new();
            shown_err.read_to_string(&mut text).expect("read");
            assert_eq!(text, "the end\n");
            // The other one has shown as much as its pipe takes, and ends when nobody reads that.
            drop(unread);
            assert_eq!(second.join().expect("the second client"), End::Refused);
            drop(second_daemon);
        });
        std::fs::remove_dir_all(&directory).expect("remove");
    }
}
