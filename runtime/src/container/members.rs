//! All processes of a container: those in its cgroup, or where it has none in the PID namespace that began with its first.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use skiff_sys::process;

use super::{Container, Process};
use crate::Error;
use crate::cgroup::{Cgroup, Owner};
use crate::error::Context;

impl Container {
    /// Its processes, in order of their ids: by its cgroup, else by the PID namespace that was made for it, without those in
    /// further ones within.
    ///
    /// Errors: it has neither.
    pub fn processes(&self) -> Result<Vec<i32>, Error> {
        if self.record.cgroups.are_any() {
            return Cgroup::open(&self.record.cgroups)?.processes();
        }
        let Some(init) = self.process()? else { return Ok(Vec::new()) };
        let what = || format!("look for processes beside {}", init.pid);
        if !init.is_first_of_namespace().context(what)? {
            let message =
                "the container has no cgroup and no PID namespace by which its processes could be found";
            return Err(Error::Option(message.into()));
        }
        members(init.pid).context(what)
    }

    /// Sends `signal` to all of its processes that are there now.
    ///
    /// Errors: they cannot be found, as above.
    pub fn signal_all(&self, signal: i32) -> Result<(), Error> {
        let init = self.process()?;
        if self.record.cgroups.are_any() {
            let cgroup = Cgroup::open(&self.record.cgroups)?;
            // Also when the first process has ended: in a shared PID namespace others may be left, if it is still the
            // container's cgroup.
            let is_own = init.is_some() || cgroup.owner()? == Owner::Container;
            return if is_own { cgroup.kill(signal) } else { Ok(()) };
        }
        let Some(init) = init else { return Ok(()) };
        for pid in self.processes()? {
            let sent = signal_member(init.pid, pid, signal);
            sent.or_else(gone).context(|| format!("send signal {signal} to process {pid}"))?;
        }
        Ok(())
    }
}

impl Process {
    /// Whether its PID namespace began with it. proc_pid_status(5).
    fn is_first_of_namespace(&self) -> io::Result<bool> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let mut numbers =
            status.lines().find_map(|line| line.strip_prefix("NSpid:")).map(str::split_whitespace);
        Ok(numbers.as_mut().and_then(Iterator::last) == Some("1"))
    }
}

/// All whose PID namespace is that of `init`.
fn members(init: i32) -> io::Result<Vec<i32>> {
    let own = namespace(init)?;
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that may not be looked at is somebody else's, or has gone.
        if namespace(pid).is_ok_and(|namespace| namespace == own) {
            pids.push(pid);
        }
    }
    pids.sort_unstable();
    Ok(pids)
}

/// First the descriptor, then the look: both are of the same process.
fn signal_member(init: i32, pid: i32, signal: i32) -> io::Result<()> {
    let held = process::open_pidfd(pid)?;
    if namespace(pid)? == namespace(init)? {
        process::send_signal(held.as_fd(), signal)?;
    }
    Ok(())
}

fn namespace(pid: i32) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid"))
}

fn gone(error: io::Error) -> io::Result<()> {
    match error.raw_os_error() {
        Some(libc::ESRCH | libc::ENOENT | libc::EINVAL) => Ok(()),
        _ => Err(error),
    }
}
