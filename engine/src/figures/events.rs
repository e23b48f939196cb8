//! The programs in the kernel that are on while the daemon runs, and what of them a container's figures get.
//!
//! They are loaded on a thread of their own when the daemon starts, and kept by the spawner for the next one: so containers are counted
//! while there is none. A launch waits until they are there and enters its cgroup in a table, with no system call; whoever was launched before
//! is counted from then on, and its figures say so. Where they may not be loaded, the figures that they give are absent, and say why.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use skiff_ebpf::events::{self, Counts, Events, Used};
use skiff_runtime::spawner;
use skiff_sys::clock::monotonic_ns;
use tokio::sync::watch;

use super::{Figures, Oom, processes};
use crate::ending::now_ns;
use crate::link::{Kept, Link};

/// What is told of figures that the programs would give.
const WHAT: &str = "faults, waiting, switches, programs executed and what the OOM killer did";

/// So long a launch waits at most for the programs to be loaded, which takes tens of milliseconds.
const LOAD_MAX: Duration = Duration::from_secs(5);

/// The way to the programs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tracker(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Empty until they are loaded.
    events: OnceLock<Events>,
    /// Why there are none.
    refused: OnceLock<String>,
    /// Closed when the one or the other is set.
    loading: OnceLock<watch::Receiver<()>>,
    /// What was told of a container last: what is about to be counted must not make it less.
    told: Mutex<HashMap<u64, Used>>,
}

/// What the spawner keeps beside the descriptors.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    /// Which build's programs they are.
    digest: u64,
    has_live: bool,
    missing: Vec<String>,
}

/// What tasks that have ended have used of a container, and where what the living have used is found.
#[derive(Debug)]
pub(crate) struct Past {
    cgroup: u64,
    counts: Counts,
}

/// What tasks that live have used, by their container's cgroup; of one time.
#[derive(Debug, Default)]
pub(crate) struct Living(HashMap<u64, Used>);

impl Tracker {
    /// Takes back what the daemon before has left with the spawner; whether that was of use.
    pub(crate) fn restore(&self, kept: Kept) -> bool {
        let note =
            serde_json::from_str(&kept.note).ok().filter(|note: &Note| note.digest == events::digest());
        let restored = note.and_then(|note| {
            let restored = Events::restore(kept.descriptors, note.has_live, note.missing);
            restored.unwrap_or_else(|error| {
                tracing::debug!("take back what counts: {}", skiff_runtime::cause(&error));
                None
            })
        });
        restored.is_some_and(|events| self.0.events.set(events).is_ok())
    }

    /// Begins to load the programs, which takes longer than a launch.
    pub(crate) fn load(&self) {
        let (done, loading) = watch::channel(());
        drop(self.0.loading.set(loading));
        let shared = self.0.clone();
        let work = move || {
            match Events::load() {
                Ok(events) => drop(shared.events.set(events)),
                Err(error) => {
                    tracing::info!("no {WHAT}: {error}");
                    drop(shared.refused.set(error.to_string()));
                }
            }
            drop(done);
        };
        if let Err(error) = thread::Builder::new().name("events".into()).spawn(work) {
            let why = format!("start a thread: {}", skiff_runtime::cause(&error));
            tracing::warn!("{why}");
            drop(self.0.refused.set(why));
        }
    }

    /// Waits until what [`Tracker::load`] has begun has ended.
    pub(crate) async fn loaded(&self) {
        if let Some(loading) = self.0.loading.get() {
            let mut loading = loading.clone();
            while loading.changed().await.is_ok() {}
        }
    }

    /// As [`Tracker::loaded`], for a container whose program is about to be executed: it is to be counted from its first instruction on, but
    /// not to stand still.
    pub(crate) async fn ready(&self) {
        if self.0.events.get().is_none() && tokio::time::timeout(LOAD_MAX, self.loaded()).await.is_err() {
            tracing::warn!("no {WHAT} at first: they take longer than {} s to load", LOAD_MAX.as_secs());
        }
    }

    /// `loaded`, `loading`, or why there are none.
    pub(crate) fn state(&self) -> &str {
        match (self.0.events.get(), self.0.refused.get()) {
            (Some(_), _) => "loaded",
            (None, Some(refused)) => refused,
            (None, None) => "loading",
        }
    }

    /// Has the spawner keep the programs for the next daemon.
    pub(crate) async fn keep(&self, link: &Link) {
        let Some(events) = self.0.events.get() else { return };
        let note = Note {
            digest: events::digest(),
            has_live: events.has_live(),
            missing: events.missing().to_vec(),
        };
        if let Ok(note) = serde_json::to_string(&note) {
            let order = spawner::Order::Keep { id: spawner::ENGINE.into(), note };
            link.tell(&order, &events.descriptors()).await;
        }
    }

    /// Counts a container whose program is about to be executed, or, if it `is_late`, has been; whether it is counted. What comes of that
    /// fails nobody.
    pub(crate) fn arm(&self, cgroup: Option<u64>, is_late: bool) -> bool {
        let (Some(events), Some(cgroup)) = (self.0.events.get(), cgroup) else { return false };
        let armed = events.arm(cgroup, is_late);
        armed
            .inspect_err(|error| tracing::debug!("count cgroup {cgroup}: {}", skiff_runtime::cause(error)))
            .is_ok()
    }

    /// Counts the container with this cgroup from now on, if it is not counted yet. Its end may have come, and its cgroup be removed meanwhile by
    /// another thread: then there is nobody left who would forget it.
    ///
    /// `find` finds the id of the cgroup, while it is there.
    pub(crate) fn arm_late(&self, find: impl Fn() -> Option<u64>) {
        let (Some(events), Some(cgroup)) = (self.0.events.get(), find()) else { return };
        // From here on the programs see its removal. A cgroup's id is not given away again.
        if !events.is_armed(cgroup) && self.arm(Some(cgroup), true) && find() != Some(cgroup) {
            events.forget(cgroup);
        }
    }

    /// Whether the container with this cgroup is counted, or cannot be.
    #[cfg(test)]
    fn is_armed(&self, cgroup: u64) -> bool {
        self.0.events.get().is_none_or(|events| events.is_armed(cgroup))
    }

    /// What was counted of a container that runs, before [`Tracker::living`]: a task that ends between the two is in neither, which the
    /// next look makes up for. The other way round it would be in both.
    pub(crate) fn past(&self, cgroup: Option<u64>) -> Option<Past> {
        let (counts, cgroup) = (self.counts(cgroup)?, cgroup?);
        Some(Past { cgroup, counts })
    }

    /// Looks at all tasks once, for the figures of any number of containers.
    pub(crate) fn living(&self) -> Living {
        let live = self.0.events.get().map(Events::live);
        let live =
            live.and_then(|live| live.inspect_err(|error| tracing::debug!("look at tasks: {error}")).ok());
        let mut living = Living::default();
        for task in live.into_iter().flatten() {
            let sum = living.0.entry(task.container).or_default();
            *sum = sum.plus(&task.used);
        }
        living
    }

    /// Whether what was counted tells of block devices.
    pub(crate) fn counts_block(&self, past: Option<&Past>) -> bool {
        past.is_some() && self.0.events.get().is_some_and(|events| gives(events.missing(), events::BLOCK))
    }

    /// Adds what is counted of a container that runs.
    pub(crate) fn complete(&self, past: Option<&Past>, living: &Living, figures: &mut Figures) {
        let counted = past.map(|past| {
            let alive = living.0.get(&past.cgroup).copied().unwrap_or_default();
            Counts { used: self.0.never_less(past.cgroup, &past.counts.used.plus(&alive)), ..past.counts }
        });
        self.add(counted.as_ref(), figures);
    }

    /// Adds what was counted of a container all of whose tasks have ended, and forgets what was told of it. The programs forget it with its
    /// cgroup.
    pub(crate) fn conclude(&self, cgroup: Option<u64>, figures: &mut Figures) {
        let counted = self.counts(cgroup);
        self.forget(cgroup);
        self.add(counted.as_ref(), figures);
    }

    /// Forgets what was told of a container.
    pub(crate) fn forget(&self, cgroup: Option<u64>) {
        if let Some(cgroup) = cgroup {
            self.0.told.lock().unwrap_or_else(PoisonError::into_inner).remove(&cgroup);
        }
    }

    fn counts(&self, cgroup: Option<u64>) -> Option<Counts> {
        self.0.events.get()?.counts(cgroup?)
    }

    fn add(&self, counts: Option<&Counts>, figures: &mut Figures) {
        let Some(counts) = counts else {
            let why = self.0.refused.get().map_or("it was not counted", String::as_str);
            figures.missing.push(format!("{WHAT}: {why}"));
            return;
        };
        let missing = self.0.events.get().map(Events::missing).unwrap_or_default();
        add(counts, missing, figures);
        figures.missing.extend(missing.iter().cloned());
    }
}

impl Shared {
    /// The greater of what was told last and what is found now, word by word.
    fn never_less(&self, cgroup: u64, found: &Used) -> Used {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let told = told.entry(cgroup).or_default();
        let (mut words, before) = (found.words(), told.words());
        for (word, before) in words.iter_mut().zip(before) {
            // One that is about to be counted has left something below zero.
            *word = if word.cast_signed() < before.cast_signed() { before } else { *word };
        }
        *told = Used::of_words(words);
        *told
    }
}

/// What the programs have counted, in its places. What control groups count stays, but for faults, of which they know only those of
/// memory that is charged to them; and what is `missing` in this kernel, the programs have not counted.
fn add(counts: &Counts, missing: &[String], figures: &mut Figures) {
    let gives = |phrase: &str| gives(missing, phrase);
    let used = Used::of_words(counts.used.words().map(|word| if word.cast_signed() < 0 { 0 } else { word }));
    if gives(events::FAULTS) {
        figures.memory.minor_faults = Some(used.minor_faults);
        figures.memory.major_faults = Some(used.major_faults);
    }
    figures.cpu.setup_ns = (counts.since_ns == 0).then_some(counts.setup_cpu_ns);
    figures.cpu.run_queue_ns = gives(events::RUN_QUEUE).then_some(used.run_queue_ns);
    figures.cpu.voluntary_switches = gives(events::SWITCHES).then_some(used.voluntary_switches);
    figures.cpu.involuntary_switches = gives(events::SWITCHES).then_some(used.involuntary_switches);
    if figures.block.reads.is_none() && gives(events::BLOCK) {
        figures.block.read_bytes = Some(used.read_bytes);
        figures.block.write_bytes = Some(used.write_bytes.saturating_sub(used.cancelled_bytes));
    }
    let peak = counts.peak_pages * processes::page_bytes();
    figures.memory.peak_process_bytes = (peak > 0).then_some(peak);
    figures.processes.created = Some(counts.processes);
    figures.processes.threads_created = Some(counts.threads);
    figures.processes.executed = Some(counts.execs);
    figures.processes.ended = Some(counts.exits);
    figures.processes.cgroups_refused = Some(counts.nested_refused.into());
    if gives(events::OOM) {
        let kills = figures.memory.oom_kills.unwrap_or(0).max(counts.oom_kills);
        figures.memory.oom_kills = Some(kills);
    }
    if counts.oom_kills > 0 {
        figures.oom = Some(oom(counts));
    }
    if counts.nested_refused > 0 {
        let refused = counts.nested_refused;
        figures.missing.push(format!(
            "{WHAT} in {refused} cgroups below its own, and in those below these: there was no room for them"
        ));
    }
    if counts.since_ns > 0 {
        let after_ms = monotonic_ns().saturating_sub(counts.since_ns) / 1_000_000;
        figures.missing.push(format!(
            "{WHAT}: only of the last {after_ms} ms, and of what was running then: the daemon was younger than the container"
        ));
    }
}

/// Whether the programs count what `phrase` is said of where they do not.
fn gives(missing: &[String], phrase: &str) -> bool {
    !missing.iter().any(|missing| missing.starts_with(phrase))
}

fn oom(counts: &Counts) -> Oom {
    let kill = &counts.oom;
    let name = |bytes: &[u8]| {
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    };
    Oom {
        kills: counts.oom_kills,
        at_ns: now_ns().saturating_sub(monotonic_ns().saturating_sub(kill.at_ns)),
        victim_pid: kill.victim_pid,
        victim_name: name(&kill.victim_name),
        killer_pid: kill.killer_pid,
        killer_name: name(&kill.killer_name),
        is_killer_inside: kill.is_inside != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn what_was_told_never_becomes_less() {
        let shared = Shared::default();
        let used =
            |faults: u64, read: u64| Used { minor_faults: faults, read_bytes: read, ..Used::default() };
        assert_eq!(shared.never_less(1, &used(5, 7)), used(5, 7));
        assert_eq!(shared.never_less(1, &used(3_u64.wrapping_neg(), 9)), used(5, 9));
        assert_eq!(shared.never_less(1, &used(6, 9)), used(6, 9));
        assert_eq!(shared.never_less(2, &used(1, 1)), used(1, 1));
    }

    #[test]
    fn counts_come_to_their_places() {
        let mut figures = Figures::default();
        figures.block.reads = Some(0);
        figures.block.read_bytes = Some(1);
        let mut counts = Counts { processes: 3, execs: 2, oom_kills: 1, ..Counts::default() };
        counts.used.minor_faults = 9;
        counts.used.read_bytes = 5;
        counts.oom.victim_name[..3].copy_from_slice(b"hog");
        add(&counts, &[], &mut figures);
        assert_eq!((figures.memory.minor_faults, figures.block.read_bytes), (Some(9), Some(1)));
        assert_eq!((figures.processes.created, figures.processes.executed), (Some(3), Some(2)));
        assert_eq!(figures.oom.as_ref().map(|oom| (oom.kills, &oom.victim_name[..])), Some((1, "hog")));
        assert_eq!((figures.memory.oom_kills, figures.missing.len()), (Some(1), 0));
        assert_eq!(figures.processes.cgroups_refused, Some(0));
        add(&Counts { nested_refused: 2, ..counts }, &[], &mut figures);
        assert!(figures.missing.join(" ").contains("in 2 cgroups below its own"), "{:?}", figures.missing);
        assert_eq!(figures.processes.cgroups_refused, Some(2));
    }

    #[test]
    fn what_the_kernel_does_not_give_is_not_zero() {
        let mut figures = Figures::default();
        figures.block.read_bytes = Some(1);
        let missing = [events::RUN_QUEUE, events::BLOCK, events::SWITCHES].map(str::to_owned);
        let missing = [&missing[..], &[format!("{}: attach mark_victim: EINVAL", events::OOM)]].concat();
        add(&Counts::default(), &missing, &mut figures);
        assert_eq!((figures.cpu.run_queue_ns, figures.cpu.voluntary_switches), (None, None));
        assert_eq!((figures.memory.oom_kills, figures.memory.minor_faults), (None, Some(0)));
        assert_eq!((figures.block.read_bytes, figures.block.write_bytes), (Some(1), None));
    }

    #[test]
    fn one_that_has_gone_before_it_was_late_is_not_counted_for_ever() {
        let (tracker, looks) = (Tracker::default(), Cell::new(0));
        let events = match Events::load() {
            Err(skiff_ebpf::Error::Privilege(_) | skiff_ebpf::Error::NoTypes { .. }) => {
                return println!("skip: needs CAP_BPF, CAP_PERFMON and the kernel's types");
            }
            other => other.expect("load"),
        };
        tracker.0.events.set(events).expect("none yet");
        // No cgroup's id.
        let id = u64::MAX - u64::from(std::process::id());
        let seen = |times: u32| {
            looks.set(0);
            tracker.arm_late(|| {
                looks.set(looks.get() + 1);
                (looks.get() <= times).then_some(id)
            });
            tracker.is_armed(id)
        };
        assert_eq!([seen(0), seen(1)], [false, false], "its directory has gone");
        assert!(seen(2) && tracker.is_armed(id), "its directory is there");
        assert!(seen(1), "it was counted before: the programs see its removal");
    }

    #[test]
    fn without_programs_figures_say_so() {
        let (tracker, mut figures) = (Tracker::default(), Figures::default());
        tracker.complete(tracker.past(Some(7)).as_ref(), &tracker.living(), &mut figures);
        assert_eq!((figures.memory.minor_faults, figures.missing.len()), (None, 1));
    }
}
