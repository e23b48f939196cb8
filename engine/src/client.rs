//! A connection to the daemon, which is started if there is none. Synchronous, and few system calls.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use crate::Error;
use crate::frames::{self, Inbox};
use crate::protocol::{Reply, Request, SOCKET};

/// How long a daemon that was started may take until it listens.
const READY: Duration = Duration::from_secs(20);

/// So many daemons are started that leave at once.
const STARTS_MAX: u32 = 4;

/// Held, below the run root, by the client that starts a daemon.
const START_LOCK: &str = "start.lock";

/// What a path in an address can hold, without the NUL at its end. unix(7).
const ADDRESS_BYTES: usize = 107;

/// What a daemon that is started on demand takes over from the client's environment; the roots are given as they are.
const ENVIRONMENT: [&str; 11] = [
    "PATH",
    "HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
    "SKIFF_LOG",
    "SKIFF_IDLE_TIMEOUT_S",
    "SKIFF_METRICS",
    "SKIFF_OTLP",
    "SKIFF_OTLP_CA",
    "SKIFF_OTLP_INTERVAL_S",
    "SKIFF_ROOTFS",
];

/// One connection: one request, and what is answered.
#[derive(Debug)]
pub struct Client {
    socket: UnixStream,
    inbox: Inbox,
}

impl Client {
    /// Connects to the daemon of these directories, and starts it if there is none.
    ///
    /// A daemon is started as `/proc/self/exe daemon --on-demand`, with `SKIFF_ROOT` and `SKIFF_RUN_ROOT` set. Its standard
    /// output is a pipe that it closes when it listens, after it has written there why it cannot if it cannot. Of clients
    /// that come at the same time, one starts it.
    pub fn connect(state_root: &Path, run_root: &Path) -> Result<Self, Error> {
        let failed = |error: &io::Error| {
            let socket = run_root.join(SOCKET);
            Error::Host(format!(
                "connect to the daemon at {}: {}",
                socket.display(),
                skiff_runtime::cause(error)
            ))
        };
        if let Some(client) = Self::reach(run_root).map_err(|error| failed(&error))? {
            return Ok(client);
        }
        let _starting = lock(run_root)
            .map_err(|error| Error::Host(format!("start the daemon: {}", skiff_runtime::cause(&error))))?;
        if let Some(client) = Self::reach(run_root).map_err(|error| failed(&error))? {
            return Ok(client);
        }
        for _ in 0..STARTS_MAX {
            let started = start(state_root, run_root);
            match (Self::reach(run_root), started) {
                (Ok(Some(client)), _) => return Ok(client),
                (_, Err(why)) => return Err(Error::Host(format!("start the daemon: {why}"))),
                // Somebody else has told it to leave.
                (Ok(None), Ok(())) => {}
                (Err(error), Ok(())) => return Err(failed(&error)),
            }
        }
        Err(Error::Host("start the daemon: it leaves again and again".into()))
    }

    /// Connects to the daemon of this directory if there is one. connect(2).
    pub fn reach(run_root: &Path) -> io::Result<Option<Self>> {
        Self::reached(address(run_root).and_then(|(path, _directory)| UnixStream::connect(path)))
    }

    /// The same; no step of what is said to it takes longer than `limit`, to connect included. socket(7).
    pub fn reach_within(run_root: &Path, limit: Duration) -> io::Result<Option<Self>> {
        let connected = || -> io::Result<UnixStream> {
            let (path, _directory) = address(run_root)?;
            let flags = SockFlag::SOCK_CLOEXEC;
            let socket = UnixStream::from(socket(AddressFamily::Unix, SockType::Stream, flags, None)?);
            socket.set_read_timeout(Some(limit))?;
            socket.set_write_timeout(Some(limit))?;
            connect(socket.as_raw_fd(), &UnixAddr::new(&path)?)?;
            Ok(socket)
        };
        Self::reached(connected().map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
            _ => error,
        }))
    }

    fn reached(connected: io::Result<UnixStream>) -> io::Result<Option<Self>> {
        match connected {
            Ok(socket) => Ok(Some(Self { socket, inbox: Inbox::default() })),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ECONNREFUSED)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks for something, with descriptors.
    pub fn request(&mut self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<(), Error> {
        match frames::write(self.socket.as_fd(), request, descriptors) {
            // Refused before all of it was read: the answer says why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other.map_err(|error| lost(&error)),
        }
    }

    /// The next answer, with descriptors.
    ///
    /// Errors: what the daemon answers if it could not be done; that it has gone.
    pub fn reply(&mut self) -> Result<(Reply, Vec<OwnedFd>), Error> {
        match frames::read(self.socket.as_fd(), &mut self.inbox) {
            Ok(Some((Reply::Failed { code, message }, _))) => Err(Error::Daemon { code, message }),
            Ok(Some((Reply::NoSuchImage { image }, _))) => Err(Error::NoSuchImage(image)),
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(lost(&io::ErrorKind::UnexpectedEof.into())),
            Err(error) => Err(lost(&error)),
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The path of the daemon's socket below `run_root`, short enough for an address.
///
/// A long one leads through a descriptor of the directory, which must stay open until it has been used. unix(7),
/// proc_pid_fd(5).
pub fn address(run_root: &Path) -> io::Result<(PathBuf, Option<OwnedFd>)> {
    let path = run_root.join(SOCKET);
    if path.as_os_str().len() <= ADDRESS_BYTES {
        return Ok((path, None));
    }
    let directory =
        OwnedFd::from(fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(run_root)?);
    let short = skiff_sys::file::proc_fd_path(directory.as_fd());
    Ok((Path::new(&*short.to_string_lossy()).join(SOCKET), Some(directory)))
}

/// Waits until nobody else is starting a daemon there.
fn lock(run_root: &Path) -> io::Result<Flock<File>> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(run_root)?;
    let mut options = fs::OpenOptions::new();
    let mut file =
        options.write(true).create(true).truncate(false).mode(0o600).open(run_root.join(START_LOCK))?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusive) {
            Ok(lock) => return Ok(lock),
            Err((unlocked, Errno::EINTR)) => file = unlocked,
            Err((_, error)) => return Err(error.into()),
        }
    }
}

/// Starts a daemon and waits until it listens; otherwise says why it does not.
fn start(state_root: &Path, run_root: &Path) -> Result<(), String> {
    let cause = |error: io::Error| skiff_runtime::cause(&error);
    let (mut ready, told) = io::pipe().map_err(cause)?;
    let environment = ENVIRONMENT.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    let mut daemon = Command::new("/proc/self/exe");
    daemon.arg0("skiff").args(["daemon", "--on-demand"]).current_dir("/");
    daemon.env_clear().envs(environment).env("SKIFF_ROOT", state_root).env("SKIFF_RUN_ROOT", run_root);
    // It begins a session of its own as the first that it does.
    daemon.stdin(Stdio::null()).stdout(told).stderr(Stdio::null());
    let started = daemon.spawn().map_err(cause)?;
    // The other end is the daemon's alone.
    drop(daemon);
    let mut watched = [PollFd::new(ready.as_fd(), PollFlags::POLLIN)];
    let limit = PollTimeout::try_from(READY).unwrap_or(PollTimeout::MAX);
    if poll(&mut watched, limit).map_err(|error| cause(error.into()))? == 0 {
        return Err(format!("process {} does not listen after {} s", started.id(), READY.as_secs()));
    }
    let mut why = String::new();
    ready.read_to_string(&mut why).map_err(cause)?;
    match why.trim() {
        "" => Ok(()),
        why => Err(why.trim_start_matches("skiff: ").to_owned()),
    }
}

fn lost(error: &io::Error) -> Error {
    Error::Host(match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => "the daemon has gone away".into(),
        io::ErrorKind::WouldBlock => "the daemon does not answer".into(),
        _ => format!("speak to the daemon: {}", skiff_runtime::cause(error)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::thread;

    /// A run root of the test's own, removed at its end.
    struct Root(PathBuf);

    impl Root {
        fn new(name: &str) -> Self {
            let root = std::env::temp_dir().join(format!("skiff-client-{}-{name}", std::process::id()));
            fs::create_dir_all(&root).expect("a directory");
            Self(root)
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _gone = fs::remove_dir_all(&self.0);
        }
    }

    fn listen(root: &Path) -> UnixListener {
        let (path, _directory) = address(root).expect("address");
        UnixListener::bind(path).expect("bind")
    }

    #[test]
    fn requests_are_answered_and_refusals_are_errors() {
        let root = Root::new("answers");
        let listener = listen(&root.0);
        let daemon = thread::spawn(move || {
            for reply in [
                Reply::Created { id: "web".into() },
                Reply::Failed { code: 127, message: "no such program".into() },
            ] {
                let (socket, _) = listener.accept().expect("accept");
                let asked = frames::read::<Request>(socket.as_fd(), &mut Inbox::default()).expect("read");
                assert_eq!(asked.expect("a request").0, Request::Version);
                frames::write(socket.as_fd(), &reply, &[]).expect("write");
            }
        });
        let ask = || {
            let mut client = Client::reach(&root.0).expect("connect").expect("a daemon");
            client.request(&Request::Version, &[]).expect("request");
            (client.reply().map(|(reply, _)| reply), client.reply().map(|(reply, _)| reply))
        };
        let (first, second) = ask();
        assert_eq!(first, Ok(Reply::Created { id: "web".into() }));
        assert_eq!(second, Err(Error::Host("the daemon has gone away".into())));
        assert_eq!(ask().0, Err(Error::Daemon { code: 127, message: "no such program".into() }));
        daemon.join().expect("daemon");
    }

    #[test]
    fn a_socket_that_nobody_listens_at_is_no_daemon() {
        let root = Root::new("nobody");
        assert!(Client::reach(&root.0).expect("nothing wrong").is_none());
        drop(listen(&root.0));
        assert!(Client::reach(&root.0).expect("nothing wrong").is_none());
    }

    #[test]
    fn a_daemon_that_does_not_answer_is_given_up() {
        let root = Root::new("silent");
        assert!(Client::reach_within(&root.0, Duration::from_millis(10)).expect("nothing wrong").is_none());
        let _listener = listen(&root.0);
        let mut client =
            Client::reach_within(&root.0, Duration::from_millis(10)).expect("connect").expect("a daemon");
        client.request(&Request::Version, &[]).expect("request");
        assert_eq!(client.reply().map(drop), Err(Error::Host("the daemon does not answer".into())));
    }

    #[test]
    fn a_directory_may_have_a_long_name() {
        let root = Root::new(&"long".repeat(40));
        let _listener = listen(&root.0);
        assert!(Client::reach(&root.0).expect("connect").is_some());
    }
}
