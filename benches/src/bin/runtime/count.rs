//! What does not jitter: the system calls that a command makes, and how often it executes its own program again.
//!
//! skiff's own eBPF programs count, since strace waits for the container that `create` leaves, and slows a launch down so
//! much that some runtimes take other ways. A command is counted from its execve on, with every process that it leaves,
//! to their end.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use skiff_benches::watchdog;
use skiff_ebpf::{Profiler, Record, Slot};

use crate::arms::{Arm, Ground, fresh_id, text};
use crate::cycle::{Host, await_end};

/// The commands that are counted, in the order of `commands`.
pub(crate) const COMMANDS: [&str; 5] = ["run", "create", "start", "delete", "exec"];
/// Programs of the containers.
const INSIDE: [&str; 2] = ["/bin/true", "/bin/pause"];

/// What one command did.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Count {
    pub(crate) calls: u64,
    /// Programs executed beside the command itself and the container's: the runtime's own, or helpers.
    pub(crate) execs: u64,
}

/// The programs in the kernel, and the calls that the shell makes which puts a command into its cgroup.
pub(crate) struct Counter {
    profiler: Profiler,
    cgroup2: PathBuf,
    shell: u64,
}

impl Counter {
    pub(crate) fn new(cgroup2: &Path, program: &Path) -> Result<Self, String> {
        let most = u32::try_from(COMMANDS.len()).unwrap_or(u32::MAX);
        let profiler = Profiler::with_slots(most).map_err(|error| error.to_string())?;
        let mut counter = Self { profiler, cgroup2: cgroup2.to_owned(), shell: 0 };
        let counted = counter.start(&[text(program)])?;
        // Its execve and its exit_group are its own.
        counter.shell = counter.finish(counted)?.calls - 2;
        Ok(counter)
    }

    /// Counts each of [`COMMANDS`] once.
    pub(crate) fn commands(&mut self, arm: &Arm, ground: &Ground) -> Result<[Count; 5], String> {
        let (brief, pid_file, id) = (text(&ground.brief), text(&ground.pid_file), fresh_id());
        let run = self.start(&arm.words(&["run", "--bundle", &brief, &id]))?;
        let run = self.finish(run)?;
        let created =
            self.start(&arm.words(&["create", "--bundle", &brief, "--pid-file", &pid_file, &id]))?;
        let pid = ground.pid().map_err(|error| error.to_string())?;
        let started = self.start(&arm.words(&["start", &id]))?;
        await_end(pid).map_err(|error| format!("wait for the container: {error}"))?;
        let deleted = self.start(&arm.words(&["delete", &id]))?;
        let host = Host::start(arm, ground)?;
        let executed = self.start(&arm.words(&["exec", &host.id, "/bin/true"]))?;
        drop(host);
        Ok([run, self.finish(created)?, self.finish(started)?, self.finish(deleted)?, self.finish(executed)?])
    }

    /// Runs a command in a cgroup that is counted.
    fn start(&mut self, words: &[String]) -> Result<Counted, String> {
        let path = self.cgroup2.join(fresh_id());
        let failed = |error: &dyn std::fmt::Display| format!("count {}: {error}", words.join(" "));
        fs::create_dir(&path).map_err(|error| failed(&error))?;
        let mut counted = Counted { path, slot: None };
        let id = fs::metadata(&counted.path).map_err(|error| failed(&error))?.ino();
        counted.slot = Some(self.profiler.arm(id, 0).map_err(|error| failed(&error))?);
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo 0 > \"$0\" && exec \"$@\"", &text(&counted.path.join("cgroup.procs"))]);
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let status = watchdog::run(&mut command).map_err(|error| failed(&error))?;
        if status.success() { Ok(counted) } else { Err(failed(&status)) }
    }

    fn finish(&mut self, mut counted: Counted) -> Result<Count, String> {
        let slot = counted.slot.take().ok_or("count: not started")?;
        let record = self.profiler.finish(slot).map_err(|error| format!("count: {error}"))?;
        if record.lost > 0 {
            return Err(format!("count: {} events are lost", record.lost));
        }
        Ok(Count { calls: calls(&record).saturating_sub(self.shell), execs: execs(&record) })
    }
}

fn calls(record: &Record) -> u64 {
    [&record.init, &record.workload].iter().flat_map(|phase| &phase.syscalls).map(|call| call.count).sum()
}

fn execs(record: &Record) -> u64 {
    let inside = record.execs.iter().filter(|exec| INSIDE.contains(&exec.filename.as_str())).count();
    (record.execs_total - 1).saturating_sub(inside as u64)
}

/// A cgroup that is counted. Removed, with those that a runtime has left below it, when dropped.
#[derive(Debug)]
struct Counted {
    path: PathBuf,
    slot: Option<Slot>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            eprintln!("remove cgroup {}: {error}", self.path.display());
        }
    }
}

fn remove(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}
