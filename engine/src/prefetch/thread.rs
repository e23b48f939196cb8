//! The daemon's thread that records and replays, so that a launch does neither: it looks into a table, arms by one map write if
//! something is to be recorded, and leaves a note.
//!
//! ```text
//! asked for ── Job ──► prefetch ──► profile? ── cold ──► prefetch-read: looks files up ── Errand ──► daemon ── order ──► spawner
//!                         │           │                    has them read, charged to the container ◄── socket ──► reader
//!                         │           └─ is to be recorded: loads the recorder, for this launch if it is there by then
//! program ─── Watch ──►   └─ recordings: looks at each ten times a second until it is over; a thread writes the profile
//! ```
//!
//! Files are looked up at once; their data waits for the container's cgroups, which are known when it is about to run its program.
//!
//! The recorder is loaded when something is to be recorded, which takes longer than most launches: the launch that finds it missing
//! is not recorded, the next one is. When none has wanted it for a minute it is unloaded, for it costs every read on the host some
//! nanoseconds.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use skiff_ebpf::Recorder;
use skiff_runtime::cgroup::Paths;
use skiff_store::prefetch::{self, Key, Lent, Outcome, Profile, Profiles, Run};
use skiff_sys::clock::monotonic_ns;
use skiff_sys::reader;
use tokio::sync::mpsc::UnboundedSender;

use super::record::{Watch, conclude};
use super::{Mode, Subject, Waits};

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
/// How long the recorder stays loaded when nobody wants it.
const IDLE: Duration = Duration::from_secs(60);

/// How long a replay waits for its container to be there.
const BIRTH: Duration = Duration::from_secs(20);

/// A reader that is wanted: the spawner makes it.
#[derive(Debug)]
pub(crate) struct Errand {
    /// Where it is to be.
    pub(crate) cgroups: Paths,
    /// Its end of the socket.
    pub(crate) socket: OwnedFd,
}

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
    /// So many files of one replay are open.
    files_max: usize,
    /// Held by who changes a profile.
    writing: Mutex<()>,
    /// Launches that were announced and have not come to their program, by what they run. Nobody has it for long.
    announced: Mutex<HashMap<Key, Arc<Announced>>>,
    /// By which the daemon is asked for readers, as many as there are replays.
    errands: UnboundedSender<Errand>,
}

/// A launch, from before its container is made.
#[derive(Debug, Default)]
struct Announced {
    /// Whether its files are read ahead.
    was_replayed: AtomicBool,
    /// Whether nothing is read ahead any more, or at all.
    is_over: AtomicBool,
    /// The container's cgroups and how much may be read ahead for it, once it is there: another may come than was announced. Nobody
    /// waits for them any more when they are taken.
    container: Mutex<Option<(Paths, u64)>>,
    is_known: Condvar,
}

#[derive(Debug, Default)]
struct State {
    recorder: Option<Recorder>,
    /// When the recorder was last wanted.
    wanted: Option<Instant>,
    /// Why there can be none.
    refused: Option<String>,
    known: HashMap<Key, Known>,
    /// Recordings of launches that found the queue full.
    left: Vec<Active>,
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

/// What a launch has for the thread.
#[derive(Debug)]
enum Job {
    /// There will be one: what it needs is to be read ahead, or recorded.
    Announced { subject: Subject, announced: Arc<Announced> },
    /// Its program is about to run, and is recorded.
    Recorded(Active),
}

/// A recording, and whether the container had its profile replayed.
#[derive(Debug)]
struct Active {
    watch: Watch,
    announced: Arc<Announced>,
}

/// One replay of those that there may be, until its thread has ended or could not be started.
struct Replaying {
    shared: Arc<Shared>,
    announced: Arc<Announced>,
    is_read: bool,
}

impl Drop for Replaying {
    fn drop(&mut self) {
        self.shared.replays.fetch_sub(1, Ordering::Relaxed);
        self.announced.was_replayed.fetch_and(self.is_read, Ordering::Relaxed);
        self.announced.is_over.store(true, Ordering::Relaxed);
    }
}

impl Prefetcher {
    /// Starts the thread, which ends when nobody can ask any more. Replays together have at most `descriptors` files open, and send
    /// `errands` for their readers.
    pub(crate) fn start(
        state_root: &Path,
        descriptors: usize,
        errands: UnboundedSender<Errand>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            root: state_root.to_owned(),
            profiles: Profiles::of(state_root),
            state: Mutex::default(),
            replays: AtomicUsize::new(0),
            files_max: descriptors / REPLAYS_MAX,
            writing: Mutex::default(),
            announced: Mutex::default(),
            errands,
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

    /// Says that a container is going to be started, before it is made. Waits for nothing.
    pub(crate) fn announce(&self, subject: Subject, mode: Mode) {
        // Who reads a recording out has the lock for milliseconds: this launch goes without.
        if mode == Mode::On
            && let Ok(mut state) = self.shared.state.try_lock()
        {
            self.send_announced(&mut state, subject);
        }
    }

    /// Says that a container, in `cgroups`, is about to run its program. Waits for nothing.
    pub(crate) fn launch(
        &self,
        subject: Subject,
        mode: Mode,
        (cgroup, cgroups): (Option<u64>, &Paths),
        pidfd: impl FnOnce() -> io::Result<OwnedFd>,
    ) {
        let known = self.shared.announced().remove(&subject.key);
        // What is read ahead is waited for by a thread.
        known.iter().for_each(|announced| announced.tell(cgroups, subject.bytes_max));
        let Ok(mut state) = self.shared.state.try_lock() else { return };
        let announced = match known {
            Some(announced) => announced,
            None if mode == Mode::On => {
                let announced = self.send_announced(&mut state, subject.clone());
                self.shared.announced().remove(&subject.key);
                announced.tell(cgroups, subject.bytes_max);
                announced
            }
            None => Arc::default(),
        };
        let known = state.known.get(&subject.key).copied();
        if mode != Mode::Record && !known.is_some_and(Known::wants_recording) {
            return;
        }
        let arm = || {
            let recorder = state.recorder.as_mut()?;
            let pidfd = pidfd().ok()?;
            let recording = recorder.arm(cgroup?).ok()?;
            Some(Watch { subject, recording, armed_ns: monotonic_ns(), pidfd, waits: Waits::default() })
        };
        let Some(watch) = arm() else { return };
        state.wanted = Some(Instant::now());
        // The thread cannot take `left` between the two.
        if let Err(error) = self.jobs.try_send(Job::Recorded(Active { watch, announced })) {
            tracing::debug!("prefetch: {error}");
            if let TrySendError::Full(Job::Recorded(active)) = error {
                state.left.push(active);
            }
        }
    }

    /// Leaves a note of a launch, unless it is known to need nothing.
    fn send_announced(&self, state: &mut State, subject: Subject) -> Arc<Announced> {
        let announced = Arc::<Announced>::default();
        let known = state.known.get(&subject.key).copied();
        if known.is_some_and(|known| known.needs_nothing(state.refused.is_some())) {
            return announced;
        }
        let key = subject.key.clone();
        let mut all = self.shared.announced();
        // One replay is enough for several.
        if let Some(other) = all.get(&key)
            && !other.is_over.load(Ordering::Relaxed)
        {
            return other.clone();
        }
        match self.jobs.try_send(Job::Announced { subject, announced: announced.clone() }) {
            Ok(()) => {
                // Some never come to their program.
                if all.len() >= QUEUE_LENGTH {
                    all.clear();
                }
                all.insert(key, announced.clone());
            }
            Err(error) => tracing::debug!("prefetch: {error}"),
        }
        announced
    }
}

impl Announced {
    fn tell(&self, cgroups: &Paths, bytes_max: u64) {
        let container = Some((cgroups.clone(), bytes_max));
        *self.container.lock().unwrap_or_else(PoisonError::into_inner) = container;
        self.is_known.notify_all();
    }

    /// Waits for the container to be there; `None` if it does not come.
    fn wait(&self) -> Option<(Paths, u64)> {
        let container = self.container.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.is_known.wait_timeout_while(container, BIRTH, |container| container.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.take()
    }
}

impl Shared {
    fn serve(self: &Arc<Self>, queue: &Receiver<Job>) {
        let mut active: Vec<Active> = Vec::new();
        let mut used = Instant::now();
        loop {
            let wait = if active.is_empty() { IDLE } else { LOOK };
            match queue.recv_timeout(wait) {
                Ok(Job::Announced { subject, announced }) => self.answer(subject, announced),
                Ok(Job::Recorded(recorded)) => active.push(recorded),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let left = std::mem::take(&mut self.state().left);
            active.extend(left);
            if !active.is_empty() {
                used = Instant::now();
            }
            active = self.look(active);
            if used.elapsed() >= IDLE {
                let unused = self.state().take_unused(used, Instant::now());
                // Launches do not wait while it is unloaded.
                drop(unused);
            }
        }
    }

    /// Replays, and looks that the recorder is there if it is wanted.
    fn answer(self: &Arc<Self>, subject: Subject, announced: Arc<Announced>) {
        let profile = self.profiles.load(&subject.key).unwrap_or_else(|error| {
            tracing::warn!("{error}");
            None
        });
        // Others are looked through, which can take seconds, once for each key.
        let is_new = !self.state().known.contains_key(&subject.key);
        let profile = profile.or_else(|| if is_new { self.inherit(&subject) } else { None });
        let known = Known::of(profile.as_ref());
        self.know(subject.key.clone(), known);
        // This launch waits for its files, and may be through before the recorder is there.
        let mut is_wanted = known.wants_recording();
        if let Some(profile) = profile.filter(|profile| profile.is_good() && subject.bytes_max > 0) {
            let (key, is_unchecked) = (subject.key.clone(), profile.checked.is_none());
            let start = |work| thread::Builder::new().name("prefetch-read".into()).spawn(work).map(drop);
            if !self.replay(profile, subject, announced.clone(), start) {
                announced.is_over.store(true, Ordering::Relaxed);
            } else if is_unchecked {
                // How much is read in addition shows now at the earliest.
                self.know(key, Known::DUE);
                is_wanted = true;
            }
        } else {
            announced.is_over.store(true, Ordering::Relaxed);
        }
        if is_wanted {
            // What is wrong is said once, by itself.
            let _loaded = self.load();
        }
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

    /// Reads ahead on a thread of its own that `start` starts, unless all is there already; whether it does.
    fn replay(
        self: &Arc<Self>,
        profile: Profile,
        subject: Subject,
        announced: Arc<Announced>,
        start: impl FnOnce(Box<dyn FnOnce() + Send>) -> io::Result<()>,
    ) -> bool {
        if prefetch::is_warm_in(&profile, &subject.layers) {
            if let Some(Known::There { warm_at, .. }) = self.state().known.get_mut(&subject.key) {
                *warm_at = Some(Instant::now());
            }
            return false;
        }
        if self.replays.fetch_add(1, Ordering::Relaxed) >= REPLAYS_MAX {
            self.replays.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        announced.was_replayed.store(true, Ordering::Relaxed);
        let replaying = Replaying { shared: self.clone(), announced, is_read: false };
        let work = move || {
            let mut replaying = replaying;
            let (own, announced) = (&replaying.shared, &replaying.announced);
            let reader = || own.reader(announced);
            let report = prefetch::replay(&profile, &subject.layers, own.files_max, reader);
            tracing::debug!("prefetch {}: {report:?}", subject.key.class);
            if report.outcome == Outcome::Read {
                own.count(&subject.key);
                replaying.is_read = true;
            }
        };
        if let Err(error) = start(Box::new(work)) {
            tracing::debug!("start a thread: {error}");
            return false;
        }
        true
    }

    /// A reader in the container's cgroups, once these are there; whether it is there shows when it is used.
    fn reader(&self, announced: &Announced) -> Option<Lent> {
        let (cgroups, bytes_max) = announced.wait().filter(|(_, bytes_max)| *bytes_max > 0)?;
        let (own, socket) = reader::pair().ok()?;
        self.errands.send(Errand { cgroups, socket }).ok()?;
        Some(Lent { socket: own, bytes_max })
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
            let (waited_us, has_failed) = (one.watch.waited_us(), one.watch.has_failed().unwrap_or(false));
            let Active { watch: Watch { subject, recording, .. }, announced } = one;
            let accuracy = recorder.accuracy();
            match recorder.finish(recording) {
                Ok((files, progress)) => {
                    let own = self.clone();
                    let work = move || {
                        let was_replayed = announced.was_replayed.load(Ordering::Relaxed);
                        let _alone = own.writing.lock().unwrap_or_else(PoisonError::into_inner);
                        match conclude(
                            &own.profiles,
                            &subject,
                            accuracy,
                            files,
                            &progress,
                            waited_us,
                            Run { was_replayed, has_failed },
                        ) {
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
        let mut state = self.state();
        if state.recorder.is_some() {
            state.wanted = Some(Instant::now());
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
                state.wanted = Some(Instant::now());
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

    fn announced(&self) -> MutexGuard<'_, HashMap<Key, Arc<Announced>>> {
        self.announced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The recorder, if it has been of no use for long at `now`; the latest recording was over at `used`.
    fn take_unused(&mut self, used: Instant, now: Instant) -> Option<Recorder> {
        self.recorder.take_if(|_| is_idle(self.wanted, used, now))
    }
}

/// Whether what was last wanted and last used at these times can go.
fn is_idle(wanted: Option<Instant>, used: Instant, now: Instant) -> bool {
    let last = wanted.map_or(used, |at| at.max(used));
    now.saturating_duration_since(last) >= IDLE
}

impl Known {
    const GOOD: Self = Self::There { is_check_due: false, warm_at: None };
    const DUE: Self = Self::There { is_check_due: true, warm_at: None };

    fn of(profile: Option<&Profile>) -> Self {
        match profile {
            None => Self::Missing,
            Some(profile) if profile.is_young() || profile.is_check_due() => Self::DUE,
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

#[cfg(test)]
mod tests {
    use std::fs;

    use skiff_store::Digest;
    use skiff_store::prefetch::SCHEMA;

    use super::*;

    #[test]
    fn a_recorder_that_was_just_wanted_stays() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let check = |wanted: Option<u64>, used, now, expected| {
            assert_eq!(is_idle(wanted.map(at), at(used), at(now)), expected, "{wanted:?} {used} {now}");
        };
        check(None, 0, 59, false);
        check(None, 0, 60, true);
        // Loaded by a daemon that has long recorded nothing.
        check(Some(600), 0, 600, false);
        check(Some(600), 0, 659, false);
        check(Some(600), 0, 660, true);
        // A recording that goes on.
        check(Some(0), 100, 159, false);
        check(Some(0), 100, 160, true);
    }

    fn shared(root: &Path) -> Arc<Shared> {
        Arc::new(Shared {
            root: root.to_owned(),
            profiles: Profiles::of(root),
            state: Mutex::new(State { refused: Some("a test".into()), ..State::default() }),
            replays: AtomicUsize::new(0),
            files_max: 16,
            writing: Mutex::default(),
            announced: Mutex::default(),
            errands: tokio::sync::mpsc::unbounded_channel().0,
        })
    }

    /// A profile of two pages of `app` in the layer called by the digest of "layer".
    fn profile(image: &[u8]) -> Profile {
        let document = format!(
            r#"{{"schema":"{SCHEMA}","image":"{}","class":"app","recorded_s":1,"accuracy":"used","files":[
                {{"layer":"{}","path":"app","size":5000,"ranges":[[0,0,2]]}}]}}"#,
            Digest::of(image),
            Digest::of(b"layer")
        );
        Profile::parse(document.as_bytes()).expect("parse")
    }

    fn layer(root: &Path) -> PathBuf {
        let layer = root.join("layers/sha256").join(Digest::of(b"layer").hex());
        fs::create_dir_all(&layer).expect("mkdir");
        fs::write(layer.join("app"), [1; 5000]).expect("write");
        layer
    }

    #[test]
    fn a_replay_whose_thread_does_not_start_is_none() {
        let root = std::env::temp_dir().join(format!("skiff-replay-{}", std::process::id()));
        let layer = layer(&root);
        // A file that is all hole is cold, also where files lie in memory.
        fs::File::create(layer.join("app")).and_then(|app| app.set_len(5000)).expect("make a hole");
        let shared = shared(&root);
        let announced = Arc::<Announced>::default();
        let key = Key { image: Digest::of(b"image"), class: "app".into() };
        let subject = Subject { key, layers: vec![layer], bytes_max: u64::MAX };
        let mut was_asked = false;
        let fail = |_| {
            was_asked = true;
            let slots = shared.replays.load(Ordering::Relaxed);
            assert_eq!((slots, announced.was_replayed.load(Ordering::Relaxed)), (1, true));
            Err(io::ErrorKind::WouldBlock.into())
        };
        let is_replayed = shared.replay(profile(b"image"), subject, announced.clone(), fail);
        fs::remove_dir_all(root).expect("clean up");
        assert!(was_asked && !is_replayed);
        assert_eq!(shared.replays.load(Ordering::Relaxed), 0);
        assert!(!announced.was_replayed.load(Ordering::Relaxed));
        assert!(announced.is_over.load(Ordering::Relaxed));
    }

    #[test]
    fn profiles_of_others_are_looked_through_once() {
        let root = std::env::temp_dir().join(format!("skiff-inherit-{}", std::process::id()));
        let layer = layer(&root);
        let shared = shared(&root);
        let key = |image: &[u8]| Key { image: Digest::of(image), class: "app".into() };
        let launch = |image| {
            let subject = Subject { key: key(image), layers: vec![layer.clone()], bytes_max: u64::MAX };
            shared.answer(subject, Arc::default());
            shared.profiles.load(&key(image)).expect("load").is_some()
        };
        assert!(!launch(b"first"));
        shared.profiles.save(&profile(b"other")).expect("save");
        assert!(!launch(b"first"), "looked for again");
        assert!(launch(b"second"));
        fs::remove_dir_all(root).expect("clean up");
    }
}
