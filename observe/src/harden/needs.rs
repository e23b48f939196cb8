//! What all recorded runs together have used.

use std::collections::{BTreeMap, BTreeSet};

use super::read::{Abi, Call, Filter, Opened, Recorded, Uses, clip};

/// What some runs have used. A set that is `None` was not recorded in one of them at least.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Needs {
    /// How many runs.
    pub runs: usize,
    /// System calls that got through to the kernel.
    pub calls: BTreeSet<String>,
    /// Whether some of them were made by the 32-bit table.
    pub compat: bool,
    /// Calls that the filter answered whenever they were made, with the error that it gave.
    pub answered: BTreeMap<String, String>,
    /// Calls that a filter has answered at least once.
    pub refused: BTreeSet<String>,
    /// Whether some run had an init, `--init`: what an init does is the engine's, and under the same filter.
    pub has_init: bool,
    /// Whether every run was under the default filter, whose conditions on arguments then hold for them.
    pub conditions: bool,
    /// Capabilities that some check needed and found, with the calls during which.
    pub capabilities: Option<BTreeMap<String, BTreeSet<String>>>,
    /// Capabilities that some check did not find.
    pub missed: BTreeSet<String>,
    /// What the runs could have used.
    pub held: BTreeSet<String>,
    /// The image's directories in which something was made, changed or removed; none lies in another.
    pub written: Option<Vec<Directory>>,
    /// Devices given to the container that were opened.
    pub devices: Option<BTreeSet<Device>>,
    /// Kernel parameters that were written to, as paths below `/proc/sys`.
    pub sysctls: Option<BTreeSet<String>>,
    /// Files that were executed.
    pub executed: BTreeSet<String>,
    /// User and group; `None` if the runs differ, or it is not known.
    pub user: Option<(u32, u32)>,
    /// How the programs ended: exit codes, and signals as 128 + n.
    pub exits: BTreeSet<i32>,
    /// Most memory charged at one time, bytes.
    pub memory_peak_bytes: Option<u64>,
    /// Most processes and threads at one time.
    pub tasks_peak: Option<u64>,
    /// Room in the largest table of open files.
    pub descriptors_peak: Option<u64>,
    /// CPU time per time over a whole run, thousandths of a CPU: the busiest run's.
    pub cpu_millis: Option<u64>,
    /// What must be known by those who use the policy: one line each.
    pub notes: BTreeSet<String>,
    /// Of each call, the errors that it returned.
    pub errors: BTreeMap<String, BTreeSet<String>>,
}

/// A directory that must be writable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Directory {
    /// In the container.
    pub path: String,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its permissions.
    pub mode: u32,
    /// Whether the image has something in it, which what is mounted there must have, too.
    pub filled: bool,
}

/// A device that was given to the container and opened.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device {
    /// On the host.
    pub source: String,
    /// In the container.
    pub target: String,
    /// Whether it was opened to be read.
    pub read: bool,
    /// Whether it was opened to be written.
    pub write: bool,
}

impl Needs {
    /// Puts runs together. Order does not matter.
    ///
    /// Errors: one line, if a run has lost events and `accept_losses` is not set, or nothing was recorded.
    pub fn of(runs: &[Recorded], accept_losses: bool) -> Result<Self, String> {
        let mut needs = Self { runs: runs.len(), conditions: true, ..Self::default() };
        for (index, run) in runs.iter().enumerate() {
            if !accept_losses {
                complete(run)?;
            }
            needs.add(run, index == 0);
        }
        if needs.calls.is_empty() {
            return Err("no system call of a program is recorded".into());
        }
        for name in &needs.calls {
            needs.answered.remove(name);
        }
        needs.describe();
        Ok(needs)
    }

    fn add(&mut self, run: &Recorded, is_first: bool) {
        for call in &run.system_calls.workload {
            self.add_call(call);
        }
        self.executed.extend(run.execs.listed.iter().map(|exec| exec.file.clone()));
        self.exits.extend(run.exit.status());
        greater(&mut self.memory_peak_bytes, run.cgroup.memory_peak_bytes);
        greater(&mut self.cpu_millis, busy(run));
        self.add_circumstances(run, is_first);
        let unknown = Uses::default();
        let uses = run.uses.as_ref().unwrap_or(&unknown);
        let missed = uses.capabilities.iter().flatten().filter(|used| used.refused > 0);
        self.missed.extend(missed.map(|used| used.name.clone()));
        greater(&mut self.tasks_peak, uses.tasks_peak);
        greater(&mut self.descriptors_peak, uses.descriptors_peak);
        merge(&mut self.capabilities, is_first, capabilities(run, uses), |all, more| {
            for (name, calls) in more {
                all.entry(name).or_default().extend(calls);
            }
        });
        let written = uses.written.as_ref().map(|all| all.iter().map(Directory::of).collect());
        merge(&mut self.written, is_first, written, |all: &mut Vec<Directory>, more| all.extend(more));
        self.written = self.written.take().map(outermost);
        merge(&mut self.devices, is_first, devices(run, uses), BTreeSet::extend);
        let sysctls = uses.sysctls.as_ref().map(|all| {
            all.iter().filter(|sysctl| sysctl.writes > 0).map(|sysctl| sysctl.name.clone()).collect()
        });
        merge(&mut self.sysctls, is_first, sysctls, BTreeSet::extend);
    }

    fn add_call(&mut self, call: &Call) {
        if call.number.is_none() {
            return;
        }
        if call.name.starts_with("syscall_") {
            self.notes.insert(format!("{} has no name here and is left out of the filter", call.name));
            return;
        }
        self.errors.entry(call.name.clone()).or_default().extend(call.errors.keys().cloned());
        if call.refused > 0 {
            self.refused.insert(call.name.clone());
        }
        if call.returned > 0 || call.unreturned > 0 {
            self.calls.insert(call.name.clone());
            self.compat |= call.abi == Abi::Compat;
        } else if call.refused > 0 {
            let most = call.errors.iter().max_by_key(|(_, count)| **count);
            let error = most.map_or_else(|| "EPERM".to_owned(), |(name, _)| name.clone());
            self.answered.insert(call.name.clone(), error);
        }
    }

    fn add_circumstances(&mut self, run: &Recorded, is_first: bool) {
        let Some(run) = &run.run else {
            self.conditions = false;
            self.user = None;
            self.held.extend(super::CAPABILITIES.map(str::to_owned));
            return;
        };
        self.conditions &= run.seccomp == Filter::Builtin;
        let init = run.flags.iter().rfind(|flag| flag.split('=').next() == Some("--init"));
        self.has_init |= init.is_some_and(|flag| flag != "--init=false");
        self.held.extend(run.capabilities.iter().cloned());
        if is_first {
            self.user = Some((run.uid, run.gid));
        } else if self.user != Some((run.uid, run.gid)) {
            self.user = None;
        }
    }

    /// What whoever uses the policy has to know.
    fn describe(&mut self) {
        let mut note = |is_so: bool, text: &str| is_so.then(|| self.notes.insert(text.to_owned()));
        note(
            self.capabilities.is_none(),
            "the use of capabilities is not recorded (Linux >= 6.14 tells): those of the run are kept",
        );
        note(self.written.is_none(), "what was written is not recorded: the root file system stays writable");
        note(self.devices.is_none(), "the use of devices is not recorded: all that were given are kept");
        note(self.memory_peak_bytes.is_none(), "the peak of memory is not recorded: no limit is set");
        note(self.tasks_peak.is_none(), "the peak of processes is not recorded: no limit is set");
        note(self.descriptors_peak.is_none(), "the peak of open files is not recorded: no limit is set");
        note(
            !self.conditions,
            "not every run was recorded under the default filter: calls are allowed with any arguments",
        );
        note(
            self.calls.contains("io_uring_setup"),
            "io_uring was used: what is done through it is not seen as system calls",
        );
        if let Some(written) = self.sysctls.as_ref().filter(|written| !written.is_empty()) {
            let names: Vec<&str> = written.iter().map(|name| name.as_str()).collect();
            self.notes.insert(format!("kernel parameters were written to: {}", clip(&names.join(", "))));
        }
    }
}

impl Directory {
    fn of(written: &super::read::Written) -> Self {
        Self {
            path: written.directory.clone(),
            uid: written.uid,
            gid: written.gid,
            mode: written.mode,
            filled: written.filled,
        }
    }

    /// Whether `path` lies below it.
    pub(super) fn holds(&self, path: &str) -> bool {
        self.path == "/" || path.strip_prefix(&self.path).is_some_and(|rest| rest.starts_with('/'))
    }
}

/// Whether everything that a run did is in its profile.
fn complete(run: &Recorded) -> Result<(), String> {
    let lost = run.events_lost();
    if lost > 0 {
        return Err(format!(
            "{lost} events are missing from the profile, and a policy would forbid what they tell of"
        ));
    }
    let unnamed = run.system_calls.workload.iter().find(|call| call.name.starts_with("syscall_"));
    match unnamed {
        Some(call) => Err(format!("{} has no name that engines know", call.name)),
        None => Ok(()),
    }
}

/// Accounting for memory asks for SYS_ADMIN whenever some is to be had, and does well without it.
pub(super) const MEMORY_CALLS: [&str; 12] = [
    "brk", "clone", "clone3", "execve", "execveat", "fork", "mmap", "mmap2", "mprotect", "mremap", "shmat",
    "vfork",
];

/// The capabilities that were needed.
fn capabilities(run: &Recorded, uses: &Uses) -> Option<BTreeMap<String, BTreeSet<String>>> {
    let held = |name: &String| run.run.as_ref().is_none_or(|run| run.capabilities.contains(name));
    let used = uses.capabilities.as_ref()?.iter().filter(|used| used.granted > 0 && held(&used.name));
    let needed = used.filter(|used| {
        used.name != "SYS_ADMIN"
            || used.calls.is_empty()
            || used.calls.keys().any(|call| !MEMORY_CALLS.contains(&call.as_str()))
    });
    Some(needed.map(|used| (used.name.clone(), used.calls.keys().cloned().collect())).collect())
}

fn devices(run: &Recorded, uses: &Uses) -> Option<BTreeSet<Device>> {
    let opened = uses.devices.as_ref()?;
    let given = &run.run.as_ref()?.devices;
    let used = given.iter().filter_map(|given| {
        let is_it = |opened: &&Opened| (opened.major, opened.minor) == (given.major, given.minor);
        let opened = opened.iter().find(is_it)?;
        Some(Device {
            source: given.source.clone(),
            target: given.target.clone(),
            read: opened.reads > 0,
            write: opened.writes > 0,
        })
    });
    Some(used.collect())
}

/// CPU time per time, thousandths of a CPU.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded, and not negative")]
fn busy(run: &Recorded) -> Option<u64> {
    let cpu = run.resources.workload.cpu_ns?;
    let millis = cpu as f64 / 1e6 / run.seconds()?;
    Some(millis.clamp(0.0, 1e9).ceil() as u64)
}

fn greater(most: &mut Option<u64>, other: Option<u64>) {
    *most = (*most).max(other);
}

/// What is not known of one run is not known of all.
fn merge<T>(all: &mut Option<T>, is_first: bool, more: Option<T>, add: impl FnOnce(&mut T, T)) {
    match (all.as_mut(), more) {
        (Some(all), Some(more)) => add(all, more),
        (None, more) if is_first => *all = more,
        _ => *all = None,
    }
}

/// Without those that lie in others, sorted.
fn outermost(mut all: Vec<Directory>) -> Vec<Directory> {
    all.sort();
    let mut kept: Vec<Directory> = Vec::new();
    for directory in all {
        match kept.iter_mut().find(|outer| outer.path == directory.path || outer.holds(&directory.path)) {
            Some(outer) if outer.path == directory.path => outer.filled |= directory.filled,
            Some(_) => {}
            None => kept.push(directory),
        }
    }
    kept
}
