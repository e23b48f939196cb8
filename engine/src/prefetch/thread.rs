//! The daemon's thread that records and replays, so that a launch does neither: it looks into a table, arms by one map write if
//! something is to be recorded, and leaves a note.
//!
//! ```text
//! launch ── Job ──► prefetch ──► profile? ── cold ──► prefetch-read: reads ahead
//!                      │           └─ none: loads the recorder, for the next launch
//!                      └─ recordings: looks at each ten times a second until it is over; a thread writes the profile
//! ```
//!
//! The recorder is loaded when something is to be recorded, which takes longer than a launch: the launch that finds it missing is
//! not recorded, the next one is. After a minute without use it is unloaded, for it costs every read on the host some nanoseconds.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use skiff_ebpf::Recorder;
use skiff_store::prefetch::{self, Key, Outcome, Profile, Profiles};
use skiff_sys::clock::monotonic_ns;

use super::record::{Watch, conclude};
use super::{Mode, Subject};

/// So many launches can wait for the thread; further ones go without it.
const QUEUE_LENGTH: usize = 64;
/// So many keys are remembered.
const KNOWN_MAX: usize = 1024;
/// So many profiles of other images are tried for one that has none.
const AKIN_MAX: usize = 4;
/// So many replays at a time.
const REPLAYS_MAX: usize = 4;
/// What was in the page cache is not looked for again so soon.
const WARM: Duration = Duration::from_secs(5);
/// Between two looks at the recordings.
const LOOK: Duration = Duration::from_millis(100);
/// How long the recorder stays loaded unused.
const IDLE: Duration = Duration::from_secs(60);

/// The way to the thread.
#[derive(Debug)]
pub(crate) struct Prefetcher {
    shared: Arc<Shared>,
    jobs: SyncSender<Job>,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    profiles: Profiles,
    state: Mutex<State>,
    replays: AtomicUsize,
    /// Held by who changes a profile.
    writing: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    recorder: Option<Recorder>,
    /// Why there can be none.
    refused: Option<String>,
    known: HashMap<Key, Known>,
}

/// What is known of the profile of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// There is none.
    Missing,
    /// There is one; whether the next launch is to show how good it is, and when it was last all in the page cache.
    There { is_check_due: bool, warm_at: Option<Instant> },
    /// It is of no use.
    Poor,
}

/// A launch.
#[derive(Debug)]
struct Job {
    subject: Subject,
    mode: Mode,
    watch: Option<Watch>,
}

/// A recording, and whether the container had its profile replayed.
struct Active {
    watch: Watch,
    was_replayed: Arc<AtomicBool>,
}

impl Prefetcher {
    /// Starts the thread, which ends when nobody can ask any more.
    pub(crate) fn start(state_root: &Path) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            root: state_root.to_owned(),
            profiles: Profiles::of(state_root),
            state: Mutex::default(),
            replays: AtomicUsize::new(0),
            writing: Mutex::default(),
        });
        let (jobs, queue) = sync_channel(QUEUE_LENGTH);
        let own = shared.clone();
        thread::Builder::new().name("prefetch".into()).spawn(move || own.serve(&queue))?;
        Ok(Self { shared, jobs })
    }

    /// Loads the recorder, if it is not. For who wants to record and nothing else; waits for it.
    ///
    /// Errors: what it needs is not there.
    pub(crate) fn prepare(&self) -> impl FnOnce() -> Result<(), String> + Send + use<> {
        let shared = self.shared.clone();
        move || shared.load()
    }

    /// Says that a container is about to run its program. Waits for nothing.
    pub(crate) fn launch(
        &self,
        subject: Subject,
        mode: Mode,
        cgroup: Option<u64>,
        pidfd: impl FnOnce() -> io::Result<OwnedFd>,
    ) {
        // Who reads a recording out has the lock for milliseconds: this launch goes without.
        let Ok(mut state) = self.shared.state.try_lock() else { return };
        let known = state.known.get(&subject.key).copied();
        let is_wanted = mode == Mode::Record || known.is_some_and(Known::wants_recording);
        if mode == Mode::On && known.is_some_and(|known| known.needs_nothing(state.refused.is_some())) {
            return;
        }
        let arm = || {
            let recorder = state.recorder.as_mut().filter(|_| is_wanted)?;
            let pidfd = pidfd().ok()?;
            let recording = recorder.arm(cgroup?).ok()?;
            Some(Watch { subject: subject.clone(), recording, armed_ns: monotonic_ns(), pidfd })
        };
        let watch = arm();
        drop(state);
        if let Err(error) = self.jobs.try_send(Job { subject, mode, watch }) {
            tracing::debug!("prefetch: {error}");
        }
    }
}

impl Shared {
    fn serve(self: &Arc<Self>, queue: &Receiver<Job>) {
        let mut active: Vec<Active> = Vec::new();
        let mut used = Instant::now();
        loop {
            let wait = if active.is_empty() { IDLE } else { LOOK };
            match queue.recv_timeout(wait) {
                Ok(job) => active.extend(self.launched(job)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if !active.is_empty() {
                used = Instant::now();
            }
            active = self.look(active);
            if used.elapsed() >= IDLE {
                self.state().recorder = None;
            }
        }
    }

    /// Replays, and looks that the recorder is there for the next launch.
    fn launched(self: &Arc<Self>, job: Job) -> Option<Active> {
        let Job { subject, mode, watch } = job;
        let was_replayed = Arc::new(AtomicBool::new(false));
        let active = watch.map(|watch| Active { watch, was_replayed: was_replayed.clone() });
        if mode == Mode::On {
            let profile = self.profiles.load(&subject.key).unwrap_or_else(|error| {
                tracing::warn!("{error}");
                None
            });
            let profile = profile.or_else(|| self.inherit(&subject));
            let known = Known::of(profile.as_ref());
            self.know(subject.key.clone(), known);
            if known.wants_recording() && active.is_none() {
                // What is wrong is said once, by itself.
                let _loaded = self.load();
            }
            if let Some(profile) = profile.filter(Profile::is_good) {
                self.replay(profile, subject, was_replayed);
            }
        }
        active
    }

    /// A profile for an image that has none, from one of the same command class that has the same files: an image that was rebuilt.
    fn inherit(&self, subject: &Subject) -> Option<Profile> {
        let known = self.profiles.list().unwrap_or_default();
        let mut akin: Vec<_> = known
            .into_iter()
            .filter(|profile| profile.class == subject.key.class && profile.is_good())
            .collect();
        akin.sort_by_key(|profile| std::cmp::Reverse(profile.recorded_s));
        let bind =
            |profile: &Profile| prefetch::bind(profile, subject.key.image, &subject.layers, &self.root);
        let bound = akin.iter().take(AKIN_MAX).find_map(bind)?;
        if let Err(error) = self.profiles.save(&bound) {
            tracing::warn!("{error}");
        }
        Some(bound)
    }

    /// Reads ahead on a thread of its own, unless all is there already.
    fn replay(self: &Arc<Self>, profile: Profile, subject: Subject, was_replayed: Arc<AtomicBool>) {
        if prefetch::is_warm_in(&profile, &subject.layers) {
            if let Some(Known::There { warm_at, .. }) = self.state().known.get_mut(&subject.key) {
                *warm_at = Some(Instant::now());
            }
            return;
        }
        if self.replays.fetch_add(1, Ordering::Relaxed) >= REPLAYS_MAX {
            self.replays.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        was_replayed.store(true, Ordering::Relaxed);
        let own = self.clone();
        let work = move || {
            let report = prefetch::replay(&profile, &subject.layers);
            own.replays.fetch_sub(1, Ordering::Relaxed);
            if report.outcome == Outcome::Read {
                tracing::debug!("prefetch {}: {report:?}", subject.key.class);
                own.count(&subject.key);
            }
        };
        if let Err(error) = thread::Builder::new().name("prefetch-read".into()).spawn(work) {
            self.replays.fetch_sub(1, Ordering::Relaxed);
            tracing::debug!("start a thread: {error}");
        }
    }

    /// Notes that the profile of `key` was replayed.
    fn count(&self, key: &Key) {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(Some(mut profile)) = self.profiles.load(key) else { return };
        profile.replays += 1;
        if let Err(error) = self.profiles.save(&profile) {
            tracing::warn!("{error}");
        }
        self.know(key.clone(), Known::of(Some(&profile)));
    }

    /// Reads the recordings that are over out; those that are not are left.
    fn look(self: &Arc<Self>, active: Vec<Active>) -> Vec<Active> {
        if active.is_empty() {
            return active;
        }
        let mut state = self.state();
        let Some(recorder) = state.recorder.as_mut() else { return Vec::new() };
        let mut left = Vec::new();
        for one in active {
            if !one.watch.is_over(recorder) {
                left.push(one);
                continue;
            }
            let Active { watch: Watch { subject, recording, .. }, was_replayed } = one;
            let accuracy = recorder.accuracy();
            match recorder.finish(recording) {
                Ok((files, progress)) => {
                    let own = self.clone();
                    let work = move || {
                        let was_replayed = was_replayed.load(Ordering::Relaxed);
                        let _alone = own.writing.lock().unwrap_or_else(PoisonError::into_inner);
                        match conclude(&own.profiles, &subject, accuracy, files, &progress, was_replayed) {
                            // A look at a replay that has not been is tried again after the next one.
                            Ok((_, profile)) if !was_replayed && !profile.is_young() => {
                                own.know(subject.key, Known::GOOD);
                            }
                            Ok((_, profile)) => own.know(subject.key, Known::of(Some(&profile))),
                            Err(error) => tracing::warn!("{error}"),
                        }
                    };
                    if let Err(error) = thread::Builder::new().name("prefetch-write".into()).spawn(work) {
                        tracing::debug!("start a thread: {error}");
                    }
                }
                Err(error) => tracing::warn!("prefetch: {error}"),
            }
        }
        left
    }

    /// Loads the recorder, if it is not.
    fn load(&self) -> Result<(), String> {
        let state = self.state();
        if state.recorder.is_some() {
            return Ok(());
        }
        if let Some(refused) = &state.refused {
            return Err(refused.clone());
        }
        // Launches do not wait meanwhile.
        drop(state);
        let loaded = Recorder::load();
        let mut state = self.state();
        match loaded {
            Ok(recorder) => {
                state.recorder.get_or_insert(recorder);
                Ok(())
            }
            Err(error) => {
                let text = error.to_string();
                tracing::info!("prefetch: nothing can be recorded: {text}");
                state.refused = Some(text.clone());
                Err(text)
            }
        }
    }

    fn know(&self, key: Key, known: Known) {
        let mut state = self.state();
        if state.known.len() >= KNOWN_MAX {
            state.known.clear();
        }
        state.known.insert(key, known);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    const GOOD: Self = Self::There { is_check_due: false, warm_at: None };

    fn of(profile: Option<&Profile>) -> Self {
        match profile {
            None => Self::Missing,
            Some(profile) if profile.is_young() || profile.is_check_due() => {
                Self::There { is_check_due: true, warm_at: None }
            }
            Some(profile) if profile.is_good() => Self::GOOD,
            Some(_) => Self::Poor,
        }
    }

    const fn wants_recording(self) -> bool {
        matches!(self, Self::Missing | Self::There { is_check_due: true, .. })
    }

    /// Whether a launch is nothing to the thread.
    fn needs_nothing(self, cannot_record: bool) -> bool {
        match self {
            Self::Missing => cannot_record,
            Self::There { is_check_due, warm_at } => {
                (!is_check_due || cannot_record) && warm_at.is_some_and(|at| at.elapsed() < WARM)
            }
            Self::Poor => true,
        }
    }
}
