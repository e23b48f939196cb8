//! Prefetching for a container without a daemon: another process looks up what is to be read ahead, which one in the container's cgroups
//! then reads; a thread that begins after the clone records.

use std::os::fd::AsFd;
use std::process::Child;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};

use skiff_ebpf::{Recorder, Recording};
use skiff_engine::prefetch::{Mode, Subject, Waits, Watch, conclude};
use skiff_runtime::launch::Running;
use skiff_store::prefetch::{PAGE, Profile, Profiles, Run};
use skiff_sys::clock::monotonic_ns;
use skiff_sys::process::Exit;

use crate::args::Args;
use crate::failure::Failure;
use crate::prefetch::{self, Replay};
use crate::profile;
use crate::roots::Roots;

/// A run that has waited less for disks was not cold.
const WAITED_MIN_US: u64 = 1000;

/// From before the launch to after the end.
#[derive(Debug)]
pub(crate) struct Prefetching {
    subject: Option<Subject>,
    profiles: Profiles,
    recorder: Option<Recorder>,
    armed: Option<(Recording, u64)>,
    /// What there was before.
    profile: Option<Profile>,
    replay: Option<Replay>,
    reading: Option<Child>,
    was_replayed: bool,
    watching: Option<JoinHandle<Option<(Profile, u64)>>>,
    /// Tells the thread how the container has ended, which has been reaped by then.
    exit: Option<Sender<Exit>>,
}

impl Prefetching {
    /// Loads the recorder if this run is to be recorded, and has what it needs read ahead if that is known.
    ///
    /// Errors: recording was asked for and cannot be.
    pub(crate) fn prepare(args: &Args, subject: Option<Subject>, roots: &Roots) -> Result<Self, Failure> {
        let mode = args.spec.prefetch;
        let mut this = Self {
            subject: subject.filter(|_| mode != Mode::Off),
            profiles: Profiles::of(&roots.state),
            recorder: None,
            armed: None,
            profile: None,
            replay: None,
            reading: None,
            was_replayed: false,
            watching: None,
            exit: None,
        };
        let failed = |reason: String| Failure::engine(format!("prefetch: {reason}"));
        if mode == Mode::Record && this.subject.is_none() {
            return Err(failed("only images that have layers can be recorded".into()));
        }
        if mode == Mode::Record || args.profile.is_some() && this.subject.is_some() {
            match Recorder::load() {
                Ok(recorder) => this.recorder = Some(recorder),
                Err(error) if mode == Mode::Record => return Err(failed(error.to_string())),
                Err(error) => tracing::info!("prefetch: nothing is recorded: {error}"),
            }
        }
        if let Some(subject) = this.subject.as_ref().filter(|_| mode == Mode::On) {
            (this.profile, this.replay) = prefetch::begin(roots, subject, args.profile.is_some());
            this.was_replayed = this.replay.is_some();
        }
        Ok(this)
    }

    /// Records from now on what is used in the cgroup with the id `cgroup`.
    pub(crate) fn arm(&mut self, cgroup: Option<u64>) -> Result<(), String> {
        let Some(recorder) = &mut self.recorder else { return Ok(()) };
        let cgroup = cgroup.ok_or("prefetch: the host has no cgroup v2 hierarchy to put the container in")?;
        let recording = recorder.arm(cgroup).map_err(|error| format!("prefetch: {error}"))?;
        self.armed = Some((recording, monotonic_ns()));
        Ok(())
    }

    /// Has read what is read ahead for the container, charged to it, and stands beside it until it is ready.
    pub(crate) fn watch(&mut self, running: &Running) {
        if let Some(Replay { process, socket }) = self.replay.take() {
            self.reading = Some(process);
            // It is reaped with this process. Without it nothing is read ahead.
            if let Err(error) = running.read_ahead(socket) {
                tracing::debug!("{error}");
            }
        }
        let pidfd = running.pidfd();
        let (Some(mut recorder), Some((recording, armed_ns))) = (self.recorder.take(), self.armed.take())
        else {
            return;
        };
        let (Some(subject), Ok(pidfd)) = (self.subject.clone(), pidfd.try_clone_to_owned()) else {
            return;
        };
        let (profiles, was_replayed) = (self.profiles.clone(), self.was_replayed);
        let waits = Waits::default();
        let (sender, exit) = mpsc::channel();
        self.exit = Some(sender);
        // It may be over before the thread runs.
        let _before = waits.look(pidfd.as_fd());
        let work = move || {
            let watch = Watch { subject, recording, armed_ns, pidfd, waits };
            watch.wait(&recorder);
            let waited_us = watch.waited_us();
            let has_failed = watch.has_failed();
            let has_failed =
                has_failed.unwrap_or_else(|| exit.recv().is_ok_and(|exit| exit != Exit::Code(0)));
            let run = Run { was_replayed, has_failed };
            let Watch { subject, recording, .. } = watch;
            let accuracy = recorder.accuracy();
            let (files, progress) = recorder.finish(recording).ok()?;
            drop(recorder);
            let concluded = conclude(&profiles, &subject, accuracy, files, &progress, waited_us, run);
            concluded.map_err(|error| tracing::warn!("{error}")).ok().map(|(fresh, _)| (fresh, progress.lost))
        };
        match thread::Builder::new().name("prefetch".into()).spawn(work) {
            Ok(watching) => self.watching = Some(watching),
            Err(error) => tracing::warn!("start a thread: {error}"),
        }
    }

    /// What came of it, once the container has ended like this. `None` if its image cannot have a profile, or that was not wanted.
    pub(crate) fn finish(mut self, exit: Exit) -> Option<profile::Prefetch> {
        if let Some(told) = self.exit.take() {
            // Nobody listens where it was known without.
            told.send(exit).ok();
        }
        let fresh = self.watching.take().and_then(|watching| watching.join().ok()).flatten();
        let told = self.reading.take().and_then(prefetch::end);
        let subject = self.subject?;
        let checked =
            self.profile.as_ref().zip(fresh.as_ref()).map(|(known, (fresh, _))| known.compare(fresh));
        let share = |permille: u32| f64::from(permille) / 1000.0;
        let waited_us = fresh.as_ref().and_then(|(fresh, _)| fresh.waited_us);
        let without_us = self.profile.as_ref().and_then(|profile| profile.waited_us);
        let ms = |us: u64| us as f64 / 1000.0;
        // A run that has waited for nothing has found its image in the cache, and says nothing of a cold one.
        let cold_us = without_us.filter(|us| *us >= WAITED_MIN_US && self.was_replayed);
        Some(profile::Prefetch {
            class: subject.key.class,
            replayed: self.was_replayed,
            profile_bytes: self.profile.as_ref().map(|profile| profile.pages() * PAGE),
            read_bytes: told.as_ref().map(|told| told.bytes),
            resident_bytes: told.as_ref().map(|told| told.resident_bytes),
            read_us: told.as_ref().map(|told| told.elapsed_ns as f64 / 1000.0),
            used_bytes: fresh.as_ref().map(|(fresh, _)| fresh.pages() * PAGE),
            precision: checked.map(|checked| share(checked.precision())),
            recall: checked.map(|checked| share(checked.recall())),
            waited_ms: waited_us.map(ms),
            saved_ms: cold_us.zip(waited_us).map(|(without, with)| ms(without) - ms(with)),
            ready_ms: fresh.as_ref().and_then(|(fresh, _)| fresh.ready_ms),
            lost: fresh.as_ref().map(|(_, lost)| *lost),
        })
    }
}
