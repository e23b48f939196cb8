//! `kill`, `delete`, `pause` and `resume`.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::libc;
use nix::poll::{PollFd, PollFlags, poll};
use skiff_runtime::cgroup::Cgroup;
use skiff_runtime::container::{self, Container, Process};
use skiff_runtime::oci::spec::Status;
use skiff_runtime::signals;
use skiff_sys::process::send_signal;

use crate::args::{Args, Global};
use crate::failure::{Context, Failure};
use crate::root::root;
use crate::{config, create};

/// `kill CONTAINER [SIGNAL]`. Takes no lock: it must not wait for anybody.
pub(crate) fn kill(global: &Global, args: &Args) -> Result<u8, Failure> {
    let name = args.operands.get(1).map_or("TERM".into(), |name| name.to_string_lossy());
    let signal = match name.as_ref() {
        // None: whether there is a process to get one. kill(2)
        "0" => 0,
        name => signals::signal(name).map_err(|why| Failure::new(format!("signal {name:?}: {why}")))?,
    };
    let container = Container::open(&root(global), args.id())?;
    if args.all {
        container.signal_all(signal)?;
    } else {
        // In the very words that containerd and podman look for.
        let process = container.process()?.ok_or_else(not_running)?;
        send(&process, signal)?;
        if signal == libc::SIGKILL {
            thaw(&container)?;
        }
    }
    Ok(0)
}

fn not_running() -> Failure {
    Failure::new("container not running")
}

fn send(process: &Process, signal: i32) -> Result<(), Failure> {
    tracing::debug!(signal, pid = process.pid, "signal");
    match send_signal(process.pidfd.as_fd(), signal) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Err(not_running()),
        other => other.context(|| format!("send signal {signal} to process {}", process.pid)),
    }
}

/// `delete [--force] CONTAINER`.
pub(crate) fn delete(global: &Global, args: &Args) -> Result<u8, Failure> {
    let (root, id) = (root(global), args.id());
    if args.force {
        delete_by_force(&root, id)?
    } else {
        remove(Container::open(&root, id)?, false)?
    }
    Ok(0)
}

/// Removes whatever there is; that there is nothing is as good.
fn delete_by_force(root: &Path, id: &str) -> Result<(), Failure> {
    match Container::find(root, id) {
        Ok(Some(container)) => {
            // Before the lock is taken, which may be held by somebody who waits for this very process.
            end(&container)?;
            remove(container, true)
        }
        Ok(None) => Ok(container::remove_remains(root, id)?),
        Err(error) => {
            container::check_id(id)?;
            tracing::warn!("{error}");
            Ok(container::remove_remains(root, id)?)
        }
    }
}

/// Removes a container: cgroups with what is left in them, what is on record, and in the end its poststop hooks run.
pub(crate) fn remove(mut container: Container, force: bool) -> Result<(), Failure> {
    let Some(lock) = container.lock()? else {
        return if force { Ok(()) } else { Err(container::does_not_exist(&container.record().id).into()) };
    };
    let status = container.status()?;
    match status {
        Status::Stopped => {}
        _ if force => end(&container)?,
        status => {
            let id = &container.record().id;
            return Err(Failure::new(format!("cannot delete container {id} that is not stopped: {status}")));
        }
    }
    tracing::debug!(%status, "removing");
    let late = config::late_hooks(&container);
    let record = container.record().clone();
    container.remove(lock)?;
    create::leave_rdt(&record);
    if let Some(hooks) = late {
        create::poststop(&hooks);
    }
    Ok(())
}

/// How long a process may take to die.
const DEATH: Duration = Duration::from_secs(10);
const UNTIL_THAW_MS: u16 = 100;

/// Kills the container's first process and waits until it has ended.
pub(crate) fn end(container: &Container) -> Result<(), Failure> {
    let Some(process) = container.process()? else { return Ok(()) };
    match send(&process, libc::SIGKILL) {
        Err(failure) if failure == not_running() => {}
        other => other?,
    }
    let deadline = Instant::now() + DEATH;
    loop {
        // Again and again, for somebody else may be about to freeze it.
        thaw(container)?;
        match poll(&mut [PollFd::new(process.pidfd.as_fd(), PollFlags::POLLIN)], UNTIL_THAW_MS) {
            Ok(0) if Instant::now() > deadline => {
                return Err(Failure::new(format!("process {} does not end when it is killed", process.pid)));
            }
            Ok(0) => {}
            Ok(_) => return Ok(()),
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error).context(|| format!("wait for process {}", process.pid)),
        }
    }
}

/// In cgroup v1 what is frozen does not die.
fn thaw(container: &Container) -> Result<(), Failure> {
    let cgroup = Cgroup::open(&container.record().cgroups)?;
    if cgroup.frozen()? {
        cgroup.freeze(false)?;
    }
    Ok(())
}

/// `pause CONTAINER`.
///
/// Not beside other commands: a `start` would wait, with the lock, for a program that has stopped on the way, and after a `delete` its cgroup's
/// name may be another's.
pub(crate) fn pause(global: &Global, args: &Args) -> Result<u8, Failure> {
    let mut container = Container::open(&root(global), args.id())?;
    let _lock = container.lock()?.ok_or_else(|| container::does_not_exist(args.id()))?;
    match container.status()? {
        Status::Running | Status::Created => freeze(&container, true),
        // In runc's words, as below.
        Status::Paused => Err(Failure::new("container not running or created: paused")),
        _ => Err(not_running()),
    }
}

/// `resume CONTAINER`.
pub(crate) fn resume(global: &Global, args: &Args) -> Result<u8, Failure> {
    let container = Container::open(&root(global), args.id())?;
    match container.status()? {
        Status::Paused => freeze(&container, false),
        _ => Err(Failure::new("container not paused")),
    }
}

fn freeze(container: &Container, frozen: bool) -> Result<u8, Failure> {
    Cgroup::open(&container.record().cgroups)?.freeze(frozen)?;
    Ok(0)
}
