//! Load once, arm a cgroup per container, read what was counted.

#[cfg(test)]
mod tests;

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use skiff_ebpf_abi as abi;
use skiff_sys::clock::monotonic_ns;

use crate::calibration::{self, Calibration};
use crate::load::{Available, Loaded};
use crate::maps::Plain;
use crate::record::{Cost, Record};
use crate::{Error, read};

/// Tasks switch to their death some microseconds after their parent has learnt of it; on a busy host much later.
const DYING: Duration = Duration::from_secs(2);
/// After this long without progress, look for tasks that have no intention to die.
const LINGERING: Duration = Duration::from_millis(20);

/// The programs, loaded and attached. Dropping it detaches and unloads them; so does the end of the process, however it
/// comes.
///
/// Every profiler is an instance of its own: programs, maps and cost. While it is attached, each system call of each task
/// on the host passes through it.
pub struct Profiler {
    loaded: Loaded,
    free: Vec<u32>,
    slots: u32,
    calibration: Option<Calibration>,
    load_ns: u64,
}

impl fmt::Debug for Profiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profiler")
            .field("free", &self.free)
            .field("load_ns", &self.load_ns)
            .finish_non_exhaustive()
    }
}

/// A cgroup that is being counted.
#[derive(Debug)]
#[must_use = "a slot is counted and taken until it is finished"]
pub struct Slot {
    index: u32,
}

impl Profiler {
    /// Loads and attaches everything, for one container at a time.
    ///
    /// Needs `CAP_BPF` and `CAP_PERFMON` in the initial user namespace and the kernel's type information.
    /// Linux ≥ 5.11, tried on 6.1, 6.12 and 6.18. Must be called on the main thread for [`Cost::ns_per_call`] to be known.
    pub fn load() -> Result<Self, Error> {
        Self::with_slots(1)
    }

    /// As [`Profiler::load`], for up to `slots` containers at a time.
    pub fn with_slots(slots: u32) -> Result<Self, Error> {
        Self::new(slots, None)
    }

    /// As [`Profiler::with_slots`], with the maps pinned in `directory`.
    pub(crate) fn pinned_in(directory: &Path, slots: u32) -> Result<Self, Error> {
        Self::new(slots, Some(directory))
    }

    fn new(slots: u32, pins: Option<&Path>) -> Result<Self, Error> {
        let start_ns = monotonic_ns();
        let mut loaded = Loaded::new(slots, pins)?;
        let alone = calibration::call_ns();
        loaded.attach_calls()?;
        let calibration = calibration::measure(&loaded.maps, alone)?;
        let mut profiler = Self { loaded, free: (0..slots).rev().collect(), slots, calibration, load_ns: 0 };
        profiler.empty(0)?;
        profiler.load_ns = monotonic_ns() - start_ns;
        Ok(profiler)
    }

    /// Counts from now on what is forked into the cgroup2 with the id `cgroup_id` (the inode of its directory) or into one
    /// made below it. One map write.
    ///
    /// The workload begins with the first exec event of the first task, whose children before it are the runtime's, or, if the
    /// container's init is a program of its own that is executed first, after `execs_before` of any task.
    pub fn arm(&mut self, cgroup_id: u64, execs_before: u32) -> Result<Slot, Error> {
        let index = *self.free.last().ok_or(Error::NoSlot(self.slots))?;
        let armed = abi::Armed { slot: index, execs_before };
        self.loaded
            .maps
            .armed
            .insert(cgroup_id, Plain(armed), 0)
            .map_err(|cause| Error::refused(format!("arm cgroup {cgroup_id}"), &cause))?;
        self.free.pop();
        Ok(Slot { index })
    }

    /// Counts from now on what the tasks of a cgroup2 do that runs already, and of those below it. All of it is the workload;
    /// what tasks have used before is left out, and so are calls that they are in.
    ///
    /// Errors: `directory`, the cgroup's, cannot be read; the kernel has no task iterator.
    pub fn attach(&mut self, directory: &Path) -> Result<Slot, Error> {
        let unread = |cause: io::Error| Error::refused(format!("read {}", directory.display()), &cause);
        // What is made below it from now on is armed by the kernel.
        let slot = self.arm(fs::metadata(directory).map_err(unread)?.ino(), abi::RUNNING)?;
        let attached = self.arm_below(directory, slot.index).and_then(|()| self.loaded.run_adopt());
        match attached {
            Ok(()) => Ok(slot),
            Err(error) => {
                // What there is to read matters to nobody.
                drop(self.detach(slot));
                Err(error)
            }
        }
    }

    fn arm_below(&mut self, directory: &Path, slot: u32) -> Result<(), Error> {
        // One that is removed meanwhile has no tasks.
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else { continue };
            if found.is_dir() {
                let armed = abi::Armed { slot, execs_before: abi::RUNNING };
                self.loaded
                    .maps
                    .armed
                    .insert(found.ino(), Plain(armed), 0)
                    .map_err(|cause| Error::refused(format!("arm cgroup {}", found.ino()), &cause))?;
                self.arm_below(&entry.path(), slot)?;
            }
        }
        Ok(())
    }

    /// As [`Profiler::finish`], of tasks that are to live on: calls under way have not returned.
    pub fn detach(&mut self, slot: Slot) -> Result<Record, Error> {
        self.end(slot, Duration::ZERO)
    }

    /// Stops to count and reads what was counted. To be called when the container's processes have ended; those that have
    /// not are settled as they are.
    pub fn finish(&mut self, slot: Slot) -> Result<Record, Error> {
        self.end(slot, LINGERING)
    }

    /// Settles tasks that live after `patience`.
    #[expect(clippy::needless_pass_by_value, reason = "a slot is read once")]
    fn end(&mut self, slot: Slot, patience: Duration) -> Result<Record, Error> {
        for cgroup in self.loaded.maps.cgroups(slot.index) {
            // A nested cgroup may have gone by itself meanwhile.
            drop(self.loaded.maps.armed.remove(&cgroup));
        }
        let alive = self.await_deaths(slot.index, patience)?;
        let counts = self.empty(slot.index)?;
        self.free.push(slot.index);
        let mut record = read::record(&counts, &self.loaded.available);
        record.lost += alive;
        record.cost = Cost { calls: record.calls(), ..self.cost() };
        Ok(record)
    }

    /// What measuring costs, but for the number of calls.
    pub(crate) fn cost(&self) -> Cost {
        Cost {
            calls: 0,
            ns_per_call: self.calibration.map(|calibration| calibration.counted_ns),
            ns_per_call_of_others: self.calibration.map(|calibration| calibration.others_ns),
            map_bytes: self.loaded.maps.bytes,
            load_ns: self.load_ns,
        }
    }

    /// The figures that this kernel gives.
    pub(crate) const fn available(&self) -> &Available {
        &self.loaded.available
    }

    /// Keeps the programs attached beyond the end of this process.
    pub(crate) fn pin_links(&mut self, directory: &Path) -> Result<(), Error> {
        self.loaded.pin_links(directory)
    }

    /// Waits until every task of the slot is settled; returns how many are not.
    fn await_deaths(&mut self, index: u32, mut patience: Duration) -> Result<u64, Error> {
        let start = Instant::now();
        loop {
            let alive = self.loaded.maps.alive(index)?;
            if alive == 0 || start.elapsed() > DYING {
                return Ok(alive);
            }
            if start.elapsed() >= patience {
                self.settle_lingering(index)?;
                // A child may have been born behind the iterator's back.
                patience = start.elapsed() + LINGERING;
            }
            thread::sleep(Duration::from_micros(50));
        }
    }

    fn settle_lingering(&mut self, index: u32) -> Result<(), Error> {
        self.loaded.maps.set_closing(Some(index))?;
        // Without the iterator they stay unsettled, which is counted.
        drop(self.loaded.run_close());
        self.loaded.maps.set_closing(None)
    }

    /// Reads a slot and empties it.
    fn empty(&mut self, index: u32) -> Result<crate::maps::Counts, Error> {
        let counts = self.loaded.maps.counters.counts(index)?;
        self.loaded.maps.reset(index, &counts)?;
        Ok(counts)
    }
}
