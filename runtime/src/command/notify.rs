//! `NOTIFY_SOCKET`: a program tells the service manager of whoever starts it that it is ready. sd_notify(3).
//!
//! The manager's socket stays outside. A container that is created where there is one gets a socket of its own, below
//! its directory and mounted at `/run/notify`; who starts it listens there. One message is passed on, that the program is
//! ready, and that once: the rest would be a container's word on processes and descriptors of the host. As runc and crun
//! do, `start` and `run --detach` wait for it, or for the end of the container, and name its process as the main one;
//! `run` that stays names itself.
//!
//! What a container says costs it more than who listens. Once it is ready, or has said [`MESSAGES_MAX`] other things, the
//! kernel discards what it sends, in its own time. Descriptors come along that it may take for ever to close (`SO_LINGER`): pipes are closed
//! at once, since a barrier is one, and others when the runtime has ended, which waits for nothing then – but for files of a
//! FUSE of the container's own, until that answers or the container has been killed.

use std::cell::Cell;
use std::env;
use std::fs;
use std::io;
use std::mem::{self, ManuallyDrop};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use skiff_runtime::Error;
use skiff_runtime::container::NOTIFY;
use skiff_runtime::oci::spec::{Mount, Spec};
use skiff_sys::socket;

use crate::failure::{Context, Failure};

const VARIABLE: &str = "NOTIFY_SOCKET";
const SOCKET: &str = "notify.sock";
/// Where the directory with the socket is in the container; runc's choice, as is the socket's name.
const INSIDE: &str = "/run/notify";

/// How long a manager is waited for that takes no messages.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it is waited for until it has worked off what it was told.
const BARRIER: Duration = Duration::from_secs(30);
/// How many messages of the container are read before something else gets its turn.
const AT_ONCE: usize = 64;
/// How many are read before it is listened to no more, and how many descriptors are kept that are no pipes.
const MESSAGES_MAX: u32 = 65536;
const DESCRIPTORS_MAX: usize = 64;
/// How much of a message is looked at.
const MESSAGE_BYTES: usize = 4096;

/// The service manager that this process is to report to.
#[derive(Debug, Clone)]
pub(crate) struct Manager(SocketAddr);

impl Manager {
    /// The one that the environment names: by a path, or after `@` by an abstract name.
    pub(crate) fn of_caller() -> Option<Self> {
        let text = env::var_os(VARIABLE).filter(|text| !text.is_empty())?;
        let address = match text.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
            [b'/', ..] => SocketAddr::from_pathname(&text),
            _ => Err(io::ErrorKind::Unsupported.into()),
        };
        address.map(Self).map_err(|error| cannot(&format!("{VARIABLE}={}", text.display()), &error)).ok()
    }

    fn connect(&self) -> io::Result<UnixDatagram> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.connect_addr(&self.0)?;
        Ok(socket)
    }
}

/// A container is not to suffer from what its caller's manager lacks.
fn cannot(what: &str, error: &io::Error) {
    tracing::warn!("{what}: {}; nobody will be told that the program is ready", skiff_runtime::cause(error));
}

/// Gives the container whose directory will be `container` the socket's directory, and its program the name of it.
pub(crate) fn mention(spec: &mut Spec, container: &Path) -> Result<(), Error> {
    spec.mounts.push(mount(container)?);
    if let Some(process) = &mut spec.process {
        process.env.retain(|entry| entry.split('=').next() != Some(VARIABLE));
        process.env.push(format!("{VARIABLE}={INSIDE}/{SOCKET}"));
    }
    Ok(())
}

/// How the socket gets in. It may be connected to although the mount is read-only.
pub(crate) fn mount(container: &Path) -> Result<Mount, Error> {
    let source = container.join(NOTIFY);
    let text =
        source.to_str().ok_or_else(|| Error::Option(format!("{}: not valid UTF-8", source.display())))?;
    Ok(Mount {
        destination: INSIDE.to_owned(),
        source: Some(text.to_owned()),
        options: ["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned).to_vec(),
        ..Mount::default()
    })
}

/// Makes the directory in the container's own, for any user that the container may have.
pub(crate) fn make(container: &Path) -> Result<(), Failure> {
    let path = container.join(NOTIFY);
    let what = || format!("make {}", path.display());
    match fs::create_dir(&path) {
        // Left by somebody who was killed.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other.context(what)?,
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).context(what)
}

/// Hears what a container says and tells its manager.
#[derive(Debug)]
pub(crate) struct Listener {
    /// Left to the end of the process, with what has not been read.
    container: ManuallyDrop<UnixDatagram>,
    manager: UnixDatagram,
    heard: Cell<u32>,
    kept: Cell<usize>,
}

/// What a container has said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Nothing of interest yet.
    Nothing,
    /// That it is ready, and the manager knows.
    Ready,
    /// That it is ready, and the manager cannot be told; or too much else.
    GivenUp,
}

impl Listener {
    /// Listens for the container whose directory `container` is; for nobody if the manager cannot be reached.
    pub(crate) fn bind(manager: &Manager, container: &Path) -> Result<Option<Self>, Failure> {
        let manager = match manager.connect() {
            Ok(manager) => manager,
            Err(error) => {
                cannot("connect to the service manager", &error);
                return Ok(None);
            }
        };
        let path = container.join(NOTIFY);
        let socket = listen(&path).context(|| format!("listen at {}", path.join(SOCKET).display()))?;
        let container = ManuallyDrop::new(socket);
        Ok(Some(Self { container, manager, heard: Cell::default(), kept: Cell::default() }))
    }

    /// Waits until the program is ready or process `pid`, which `pidfd` stands for, has ended.
    pub(crate) fn wait(&self, pidfd: BorrowedFd<'_>, pid: i32) {
        match self.wait_quietly(pidfd, pid.cast_unsigned()) {
            Ok(Heard::Ready) => self.finish(),
            Ok(_) => {}
            Err(error) => cannot("wait for the program to be ready", &error),
        }
    }

    fn wait_quietly(&self, pidfd: BorrowedFd<'_>, pid: u32) -> io::Result<Heard> {
        loop {
            let mut fds = [self.container.as_fd(), pidfd].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            let ended = fds[1].any().unwrap_or(false);
            let heard = self.hear(pid);
            if ended || heard != Heard::Nothing {
                return Ok(heard);
            }
        }
    }

    /// Reads what there is, and passes on that the program is ready, with `main` as the process to look after. After anything
    /// but [`Heard::Nothing`] there is nothing to be heard any more.
    pub(crate) fn hear(&self, main: u32) -> Heard {
        for _ in 0..AT_ONCE {
            let Some(is_ready) = self.next() else { break };
            if is_ready {
                self.close();
                let told = self.manager.send(format!("READY=1\nMAINPID={main}").as_bytes());
                return told.map_or_else(
                    |error| {
                        cannot("speak to the service manager", &error);
                        Heard::GivenUp
                    },
                    |_| Heard::Ready,
                );
            }
            if self.heard.get() >= MESSAGES_MAX || self.kept.get() >= DESCRIPTORS_MAX {
                self.close();
                tracing::warn!("the container says too much; nobody will be told that the program is ready");
                return Heard::GivenUp;
            }
        }
        Heard::Nothing
    }

    /// Whether the next message says that the program is ready, if there is one.
    fn next(&self) -> Option<bool> {
        let (mut message, mut descriptors) = ([0; MESSAGE_BYTES], Vec::new());
        let received = socket::receive(self.container.as_fd(), &mut message, &mut descriptors, true).ok()?;
        self.heard.set(self.heard.get().saturating_add(1));
        if received.truncated {
            // Those that found no place have been closed, and so would the next ones.
            self.kept.set(DESCRIPTORS_MAX);
        }
        for descriptor in descriptors {
            // Who waits for that (BARRIER=1) goes on.
            let is_pipe = fcntl(&descriptor, FcntlArg::F_GETPIPE_SZ).is_ok();
            if !is_pipe {
                mem::forget(descriptor);
                self.kept.set(self.kept.get().saturating_add(1));
            }
        }
        Some(message[..received.bytes].split(|byte| *byte == b'\n').any(|line| line == b"READY=1"))
    }

    /// Lets the kernel discard what comes, and reads what has come.
    fn close(&self) {
        if let Err(error) = socket::discard(self.container.as_fd()) {
            tracing::warn!("discard what the container says: {error}");
        }
        // The queue gets no longer.
        for _ in 0..MESSAGES_MAX {
            if self.kept.get() >= DESCRIPTORS_MAX || self.next().is_none() {
                break;
            }
        }
    }

    /// Waits until the manager has worked off what it was told, since it looks at who has told it, who is about to end.
    fn finish(&self) {
        const WHAT: &str =
            "the service manager was told that the program is ready, but has perhaps not listened";
        match self.barrier() {
            Ok(true) => {}
            Ok(false) => tracing::warn!("{WHAT}: no answer for {} s", BARRIER.as_secs()),
            Err(error) => tracing::warn!("{WHAT}: {}", skiff_runtime::cause(&error)),
        }
    }

    /// sd_notify_barrier(3): it closes a descriptor when it gets there. Whether it has done so.
    fn barrier(&self) -> io::Result<bool> {
        let (reader, writer) = io::pipe()?;
        socket::send(self.manager.as_fd(), b"BARRIER=1", &[writer.as_fd()], false)?;
        drop(writer);
        let limit = PollTimeout::try_from(BARRIER).unwrap_or(PollTimeout::MAX);
        Ok(poll(&mut [PollFd::new(reader.as_fd(), PollFlags::POLLIN)], limit)? > 0)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.container.as_fd()
    }
}

/// Binds the socket in `directory`, whose path may be longer than an address can be.
fn listen(directory: &Path) -> io::Result<UnixDatagram> {
    let opened = fs::File::open(directory)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd())).join(SOCKET);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixDatagram::bind(&path)?;
    socket.set_nonblocking(true)?;
    // To send takes the right to write.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_told_of_one_socket_alone() {
        let text = r#"{"ociVersion": "1.2.0", "process": {"cwd": "/", "env": ["NOTIFY_SOCKET=/x", "A=1"]}}"#;
        let mut spec: Spec = skiff_runtime::oci::json::read(text).expect("a configuration");
        mention(&mut spec, Path::new("/run/c")).expect("mention");
        assert_eq!(spec.process.expect("a process").env, ["A=1", "NOTIFY_SOCKET=/run/notify/notify.sock"]);
        assert_eq!(spec.mounts[0].source.as_deref(), Some("/run/c/notify"));
    }
}
