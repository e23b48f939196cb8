//! What a container may do, decided from what its like has needed.

use std::collections::BTreeSet;

use super::needs::{Device, Directory, Needs};
use super::quote;

/// What the caller chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// How far limits lie above peaks, in percent of these.
    pub margin_percent: u32,
}

impl Default for Terms {
    fn default() -> Self {
        Self { margin_percent: 50 }
    }
}

/// A least-privilege policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// What it was made of.
    pub needs: Needs,
    /// Capabilities that are kept, without `CAP_`.
    pub capabilities: BTreeSet<String>,
    /// The root file system.
    pub root: Root,
    /// What is mounted for the program to write to; none where the root is writable.
    pub writable: Vec<Directory>,
    /// Devices beside those that every container has; `None` leaves those that were given.
    pub devices: Option<BTreeSet<Device>>,
    /// Limits.
    pub limits: Limits,
    /// User and group, if all runs had the same.
    pub user: Option<(u32, u32)>,
}

/// Whether the root file system can be written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    /// No.
    ReadOnly,
    /// Yes, for this reason.
    Writable(String),
}

/// Limits; `None` where no peak is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory.
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub tasks: Option<u64>,
    /// Open files of a process.
    pub descriptors: Option<u64>,
    /// CPU time that is asked for, thousandths of a CPU. Nothing is limited: that would make the program late.
    pub cpu_millis: Option<u64>,
}

/// Less memory cannot start a container with every engine.
const LEAST_MEMORY: u64 = 16 << 20;
/// Runtimes have threads of their own in the container's cgroup while it starts.
const LEAST_TASKS: u64 = 32;
/// Servers ask for more at their start than they come to use, redis for 10,032.
const LEAST_DESCRIPTORS: u64 = 16_384;

impl Policy {
    /// Decides.
    ///
    /// Errors: one line, if the engines' flags cannot say what is needed.
    pub fn of(needs: Needs, terms: Terms) -> Result<Self, String> {
        let capabilities = match &needs.capabilities {
            Some(used) => used.keys().cloned().collect(),
            None => needs.held.clone(),
        };
        let (root, writable) = root(&needs);
        writable.iter().try_for_each(|directory| quote::path(&directory.path))?;
        for device in needs.devices.iter().flatten() {
            quote::path(&device.source)?;
            quote::path(&device.target)?;
        }
        let limits = limits(&needs, terms);
        Ok(Self {
            capabilities,
            root,
            writable,
            devices: needs.devices.clone(),
            limits,
            user: needs.user,
            needs,
        })
    }

    /// Whether programs are executed from `directory`, which is then mounted without `noexec`.
    pub(super) fn executes_in(&self, directory: &Directory) -> bool {
        self.needs.executed.iter().any(|file| directory.holds(file))
    }
}

fn root(needs: &Needs) -> (Root, Vec<Directory>) {
    match &needs.written {
        None => (Root::Writable("what was written is not recorded".into()), Vec::new()),
        Some(written) if written.iter().any(|directory| directory.path == "/") => {
            (Root::Writable("files in / itself were written".into()), Vec::new())
        }
        Some(written) => (Root::ReadOnly, written.clone()),
    }
}

fn limits(needs: &Needs, terms: Terms) -> Limits {
    let above = |peak: u64| {
        let most = u128::from(peak) * (100 + u128::from(terms.margin_percent)) / 100;
        u64::try_from(most).unwrap_or(u64::MAX >> 1)
    };
    let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20).min(1 << 40) << 20;
    Limits {
        memory_bytes: needs.memory_peak_bytes.map(|peak| mebibytes(above(peak)).max(LEAST_MEMORY)),
        tasks: needs.tasks_peak.map(|peak| above(peak).clamp(LEAST_TASKS, 1 << 22)),
        descriptors: needs.descriptors_peak.map(|peak| above(peak).clamp(LEAST_DESCRIPTORS, 1 << 20)),
        cpu_millis: needs.cpu_millis.map(|millis| above(millis).max(1)),
    }
}
