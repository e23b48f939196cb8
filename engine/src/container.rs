//! The owner of one container: a task that carries out what is asked of it, one after the other, and publishes what came
//! of it.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use skiff_runtime::cause;
use skiff_runtime::cgroup::{Cgroup, Paths};
use skiff_runtime::launch::park::{Parked, Stamps};
use skiff_runtime::observe;
use skiff_runtime::spawner::{self, Container, End};
use skiff_store::Lease;
use skiff_sys::clock::monotonic_ns;
use skiff_sys::process;
use skiff_sys::terminal;
use tokio::io::Interest;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::checkup::{self, Checkup};
use crate::containers::{Entry, Life};
use crate::ending::{self, Ending, now_ns};
use crate::engine::{Engine, Ready};
use crate::figures::Figures;
use crate::health::{Check, Outcome};
use crate::history::{self, Ended};
use crate::link::Kept;
use crate::log::{self, Origin, Streams, Target};
use crate::prefetch::{Mode, Subject};
use crate::protocol::TerminalSize;
use crate::reaper::Remains;
use crate::record::Process;
use crate::restart::{self, Decision, Event, Found};
use crate::sources;
use crate::state::{State, Verdict, Wish, legal};
use crate::streams::{self, Ends};
use crate::watched::watch;
use crate::{Error, Record};

/// So many orders can wait for one container.
pub(crate) const QUEUE_LENGTH: usize = 64;

/// How long a container's streams are read after its end, if somebody outside of it keeps them open.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How long a container may take to stand still.
const FROZEN: Duration = Duration::from_secs(10);

/// How long a container that was killed may take to end before those who wait for that are told.
const KILLED: Duration = Duration::from_secs(20);

/// How long to wait at first, and at most, before it is looked at again whether it does.
const LOOKS: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(100)];

/// What the owner of a container is asked to do.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) command: Command,
    pub(crate) done: oneshot::Sender<Result<Done, Error>>,
}

/// One thing to do.
#[derive(Debug)]
pub(crate) enum Command {
    Start(Box<Start>),
    Stop {
        signal: Option<i32>,
        timeout: Option<Duration>,
    },
    Restart {
        timeout: Option<Duration>,
    },
    Kill {
        signal: i32,
    },
    Freeze(bool),
    Remove {
        force: bool,
    },
    Rename {
        name: String,
    },
    /// The client that held its terminal has gone.
    Abandon,
}

/// How a container is to be started.
#[derive(Debug, Default)]
pub(crate) struct Start {
    /// One that waits for its program already; otherwise it is made now.
    pub(crate) ready: Option<Ready>,
    /// Its streams; the engine's own when absent.
    pub(crate) streams: Option<[OwnedFd; 3]>,
    /// Whether whoever asks wants to have its descriptors.
    pub(crate) is_attached: bool,
    /// The size of its terminal, if it has one.
    pub(crate) terminal: Option<TerminalSize>,
    /// When that was asked for, of `monotonic_ns`; when it is begun if absent.
    pub(crate) asked_ns: Option<u64>,
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Done {
    /// It is done.
    Done,
    /// It runs.
    Started(Started),
}

/// A container that has been started.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) pid: i32,
    /// Its pidfd, and the master of its terminal, if that was wanted.
    pub(crate) descriptors: Vec<OwnedFd>,
    /// When the parts of its launch were over.
    pub(crate) times: Option<Stamps>,
}

type Reply = oneshot::Sender<Result<Done, Error>>;

/// What waits for the container to end.
#[derive(Debug)]
enum Waiter {
    Stop(Reply),
    Restart(Reply),
    Remove(Reply),
}

/// A container that is about to stand still.
#[derive(Debug)]
struct Freezing {
    done: Reply,
    /// When that is given up.
    until: Instant,
    /// When it is looked at next, and how long to wait after that.
    look_at: Instant,
    pause: Duration,
}

/// Where a container comes from.
#[derive(Debug)]
pub(crate) enum From {
    /// Somebody has just asked for it. Its image is held.
    Client(Option<Rc<Lease>>),
    /// The daemon before had it, and has not noted that it runs. What the spawner knows of it all the same was on its way to
    /// its program when that daemon died.
    Record(Option<Kept>),
    /// The daemon before had it, and it runs, or its end has not been seen yet.
    Life(Life, Ending),
}

/// The owner.
#[derive(Debug)]
pub(crate) struct Owner {
    engine: Rc<Engine>,
    entry: Rc<Entry>,
    publish: watch::Sender<Arc<Record>>,
    /// While it runs.
    ending: Option<Ending>,
    waiters: Vec<Waiter>,
    /// When it is killed if it has not ended by then.
    kill_at: Option<Instant>,
    /// When it is late, for it was killed.
    late_at: Option<Instant>,
    /// When it is asked to stop.
    stop_at: Option<Instant>,
    /// Held so that its end is told at once; goes when it is cleared away, or when too many others have been started since.
    mounts: Rc<RefCell<Option<OwnedFd>>>,
    /// Told when what was mounted in it is so no longer, after its end.
    unmounted: Option<oneshot::Receiver<()>>,
    /// When it is started again.
    start_at: Option<Instant>,
    /// What its restart policy remembers.
    history: restart::History,
    /// Somebody waits for it to stand still.
    freezing: Option<Freezing>,
    /// The next look at how it is.
    checkup: Checkup,
    /// What is left of a start that nobody has noted.
    unnoted: Option<Kept>,
    /// By the programs that are on while the daemon runs, since its program was about to begin.
    is_counted: bool,
    is_gone: bool,
}

impl Owner {
    /// Makes the container of `record` known, whose name is given to it already, and its owner's task.
    pub(crate) fn begin(engine: &Rc<Engine>, record: Record, from: From) -> Rc<Entry> {
        let id = record.id.clone();
        let (publish, record) = watch::channel(Arc::new(record));
        let (orders, queue) = mpsc::channel(QUEUE_LENGTH);
        let lease = if let From::Client(lease) = &from { lease.clone() } else { None };
        let entry =
            Rc::new(Entry { record, orders, life: None.into(), settled: Notify::new(), _lease: lease });
        engine.containers.borrow_mut().add(&id, entry.clone());
        let mut owner = Self {
            engine: engine.clone(),
            entry: entry.clone(),
            publish,
            ending: None,
            waiters: Vec::new(),
            kill_at: None,
            late_at: None,
            stop_at: None,
            mounts: Rc::default(),
            unmounted: None,
            start_at: None,
            is_counted: false,
            history: restart::History::default(),
            freezing: None,
            checkup: Checkup::default(),
            unnoted: None,
            is_gone: false,
        };
        match from {
            From::Client(_) => {}
            From::Record(None) => owner.found(),
            From::Record(kept) => owner.unnoted = kept,
            From::Life(life, ending) => {
                owner.history.count = owner.record().restart_count;
                let mounts =
                    life.pidfd.as_ref().and_then(|pidfd| process::mount_namespace(pidfd.as_fd()).ok());
                owner.mounts = engine.mounts.hold(mounts);
                owner.live(life, ending);
                owner.write_log(Origin::Adopted);
                owner.limit();
            }
        }
        tokio::task::spawn_local(owner.own(queue));
        entry
    }

    async fn own(mut self, mut orders: mpsc::Receiver<Box<Order>>) {
        if let Some(kept) = self.unnoted.take() {
            self.clear_unnoted(kept).await;
            self.found();
        }
        while !self.is_gone {
            let look_at = self.freezing.as_ref().map(|freezing| freezing.look_at);
            let deadlines = [self.kill_at, self.late_at, self.stop_at, self.start_at, look_at];
            let deadline = deadlines.into_iter().flatten().min();
            self.checkup.follow(&self.engine, &self.entry);
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.carry_out(*order).await,
                    None => break,
                },
                end = ended(&mut self.ending) => self.ended(end).await,
                () = at(deadline) => self.due().await,
                outcome = self.checkup.outcome() => self.checked(outcome),
            }
        }
    }

    /// Ends a start of which nobody was told, so that it can be started again.
    async fn clear_unnoted(&self, kept: Kept) {
        let id = kept.id.clone();
        kept.end().await;
        let remains = Remains { id: id.clone(), ..Remains::default() };
        if let Err(error) = self.engine.reaper.clear(remains).await {
            tracing::warn!("clear container {id} away: {error}");
        }
        self.engine.link.tell(&spawner::Order::Forget { id }, &[]).await;
    }

    fn record(&self) -> Arc<Record> {
        self.publish.borrow().clone()
    }

    /// Changes what everybody sees.
    fn change(&self, change: impl FnOnce(&mut Record)) {
        self.publish.send_modify(|record| change(Arc::make_mut(record)));
    }

    /// Writes down what everybody sees.
    fn keep(&self) {
        let record = self.record();
        if let Err(error) = self.engine.records.write(&record) {
            tracing::warn!("write the record of container {}: {}", record.id, cause(&error));
        }
    }

    async fn carry_out(&mut self, order: Order) {
        let Order { command, done } = order;
        let wish = match &command {
            Command::Start(_) => Wish::Start,
            Command::Stop { .. } => Wish::Stop,
            Command::Restart { .. } => Wish::Restart,
            Command::Kill { .. } => Wish::Kill,
            Command::Freeze(true) => Wish::Pause,
            Command::Freeze(false) => Wish::Unpause,
            Command::Remove { force: false } => Wish::Remove,
            Command::Remove { force: true } => Wish::ForceRemove,
            Command::Rename { .. } => Wish::Rename,
            Command::Abandon => return self.abandon(done),
        };
        if self.freezing.is_some() && !matches!(wish, Wish::Start | Wish::Rename) {
            self.give_up_freezing("something else was asked of it meanwhile").await;
        }
        let state = self.publish.borrow().state;
        let result = match legal(state, wish) {
            Verdict::Do => match command {
                Command::Start(start) => self.start_anew(*start).await.map(Done::Started),
                Command::Stop { signal, timeout } => return self.stop(signal, timeout, Waiter::Stop(done)),
                Command::Restart { timeout } if state.is_live() => {
                    return self.stop(None, timeout, Waiter::Restart(done));
                }
                Command::Restart { .. } => self.start_anew(Start::default()).await.map(|_| Done::Done),
                Command::Kill { signal } => self.kill(signal),
                Command::Freeze(true) => return self.freeze(done).await,
                Command::Freeze(false) => self.ask_to_freeze(false).await.map(|_| self.note_freeze(false)),
                Command::Remove { .. } if state.is_live() => {
                    return self.stop(Some(libc::SIGKILL), Some(Duration::ZERO), Waiter::Remove(done));
                }
                Command::Remove { .. } => self.remove().await,
                Command::Rename { name } => self.rename(&name),
                Command::Abandon => Ok(Done::Done),
            },
            Verdict::Done => Ok(Done::Done),
            Verdict::Conflict(phrase) => {
                Err(Error::Conflict(format!("container {} {phrase}", self.record().name)))
            }
        };
        // Whoever asked may have gone.
        drop(done.send(result));
    }

    /// Starts it because somebody wants it to run.
    async fn start_anew(&mut self, start: Start) -> Result<Started, Error> {
        self.start_at = None;
        self.history = restart::History::default();
        self.change(|record| {
            record.restart_count = 0;
            record.is_stopped = false;
        });
        self.start(start).await
    }

    async fn start(&mut self, start: Start) -> Result<Started, Error> {
        let Start { ready, streams, is_attached, terminal, asked_ns } = start;
        let asked_ns = asked_ns.unwrap_or_else(monotonic_ns);
        let mut ready = match ready {
            Some(ready) => ready,
            None => self.make().await?,
        };
        if let (Some(size), Some(master)) = (terminal, ready.parked.terminal()) {
            let size = terminal::Size { rows: size.rows, columns: size.columns };
            if let Err(error) = terminal::set_size(master, size) {
                tracing::debug!("resize a terminal: {}", cause(&error));
            }
        }
        // First, for a program that runs cannot be taken back.
        let handed_out = if is_attached { handed_out(&ready.parked) } else { Ok(Vec::new()) };
        let started = match handed_out {
            Ok(descriptors) => self.run(&mut ready, streams).await.map(|ran| (descriptors, ran)),
            Err(error) => Err(error),
        };
        let started = match started {
            Ok((descriptors, (ends, times))) => {
                Ok(self.started(ready, ends, descriptors, is_attached, times))
            }
            Err(error) => Err((error, ready)),
        };
        match started {
            Ok(started) => {
                self.engine.totals.launched(monotonic_ns().saturating_sub(asked_ns));
                Ok(started)
            }
            Err((error, ready)) => {
                self.failed(&error);
                if let Err(error) = self.engine.clear_parked(ready, false).await {
                    tracing::warn!("clear a container away: {error}");
                }
                self.leave_if_unwanted().await;
                Err(error)
            }
        }
    }

    /// Makes it up to its program.
    async fn make(&mut self) -> Result<Ready, Error> {
        self.unmounted().await;
        let record = self.record();
        let made = match sources::answer(&record.spec.options).await {
            Ok(()) => {
                let plan = self.engine.plan(&record.spec.options);
                self.engine.park(&plan, &record.id).await
            }
            Err(error) => Err(error),
        };
        match made {
            Ok(ready) => Ok(ready),
            Err(error) => {
                self.failed(&error);
                self.leave_if_unwanted().await;
                Err(error)
            }
        }
    }

    /// Has it run its program; what has to be kept of it is kept meanwhile. Returns the engine's ends of its streams.
    async fn run(
        &mut self,
        ready: &mut Ready,
        streams: Option<[OwnedFd; 3]>,
    ) -> Result<(Ends, Stamps), Error> {
        let record = self.record();
        let options = &record.spec.options;
        let container = ready.parked.container().clone();
        let text = |error: io::Error| Error::Host(format!("make the container's streams: {}", cause(&error)));
        let (streams, mut ends) = match streams {
            Some(streams) => (Some(streams), Ends::default()),
            None if container.tty => (None, Ends::default()),
            None => {
                let made = streams::pipes(options.interactive, container.uid, container.gid).map_err(text)?;
                (Some(made.0), made.1)
            }
        };
        let pidfd = ready.parked.pidfd().try_clone_to_owned().map_err(text)?;
        let given = streams.as_ref().map(|streams| streams.each_ref().map(OwnedFd::as_fd));
        // With a terminal they are not looked at.
        let given = given.unwrap_or_else(|| [pidfd.as_fd(); 3]);
        self.engine.tracker.ready().await;
        self.is_counted = self.engine.tracker.arm(container.cgroup, false);
        // Not before: what the reader has read is the container's.
        self.prefetch(&record, &container, pidfd.as_fd());
        ready.parked.go(&options.argv, &options.env, given)?;
        drop(streams);
        ends.terminal =
            ready.parked.terminal().map(|master| master.try_clone_to_owned()).transpose().map_err(text)?;
        let (note, descriptors) = ends.kept();
        if !descriptors.is_empty() {
            let order = spawner::Order::Keep { id: container.id.clone(), note };
            self.engine.link.tell(&order, &descriptors).await;
        }
        let process = Process {
            pid: container.pid,
            start_time: ready.start_time,
            boot_id: self.engine.boot_id.clone(),
            cgroups: container.cgroups,
        };
        // What everybody sees changes when it is known to run.
        let running = Record {
            state: State::Running,
            process: Some(process),
            started_ns: now_ns(),
            error: String::new(),
            is_oom_killed: false,
            figures: None,
            health: checkup::begun(&record.spec.health, record.health.as_ref()),
            ..(*record).clone()
        };
        drop(record);
        if let Err(error) = self.engine.records.write(&running) {
            return Err(Error::Host(format!("write the container's record: {}", cause(&error))));
        }
        let stamps = outcome(&mut ready.parked).await?;
        self.publish.send_replace(Arc::new(running));
        Ok((ends, stamps))
    }

    /// Has its image's files read ahead that it is known to want, and what it wants recorded.
    fn prefetch(&self, record: &Record, container: &Container, pidfd: BorrowedFd<'_>) {
        let mode = record.spec.prefetch;
        if mode != Mode::Off
            && let Some(subject) = Subject::of(record.image_id.as_deref(), &record.spec.options)
        {
            let pidfd = || pidfd.try_clone_to_owned();
            let place = (container.cgroup, &container.cgroups);
            self.engine.prefetcher.launch(subject, mode, place, pidfd);
        }
    }

    /// Takes over a container whose program runs.
    fn started(
        &mut self,
        mut ready: Ready,
        mut ends: Ends,
        descriptors: Vec<OwnedFd>,
        is_attached: bool,
        times: Stamps,
    ) -> Started {
        if let (Some(_), Some(cgroup)) = (ready.pins, ready.parked.container().cgroup) {
            // Off this thread: it looks through all that are counted.
            tokio::task::spawn_blocking(move || observe::begun(cgroup, times.sent));
        }
        self.mounts = self.engine.mounts.hold(ready.parked.take_mounts());
        let (container, pidfd, _) = ready.parked.into_parts();
        let pidfd = Some(Rc::new(pidfd));
        let ending = Ending::new(container.pid, pidfd.clone(), Some(ready.end));
        let (pid, cgroup, cgroups) = (container.pid, container.cgroup, container.cgroups);
        let output = ends.output.take().into();
        self.live(Life { pid, pidfd, ends, output, writer: RefCell::default(), cgroups }, ending);
        if !self.is_counted {
            // The programs may have been loaded since; whoever counts those that live then has not seen it yet.
            self.engine.tracker.arm(cgroup, true);
        }
        if !is_attached {
            self.write_log(Origin::New);
        }
        self.limit();
        Started { pid, descriptors, times: Some(times) }
    }

    /// Has it asked to stop when it has run for as long as it may.
    fn limit(&mut self) {
        let record = self.record();
        let ran = Duration::from_nanos(now_ns().saturating_sub(record.started_ns));
        let rest = record.spec.timeout_s.map(|timeout| Duration::from_secs(timeout).saturating_sub(ran));
        self.stop_at = rest.and_then(|rest| Instant::now().checked_add(rest));
    }

    /// It did not run when the daemon came up.
    fn found(&mut self) {
        let record = self.record();
        let found = match record.state {
            State::Created => Found::Created,
            State::Exited => Found::Ended,
            State::Restarting => Found::Waiting,
            State::Running | State::Paused | State::Removing | State::Dead => return,
        };
        self.history.count = record.restart_count;
        let on_demand = self.engine.on_demand;
        self.decide(&record, Event::DaemonStarted { found, stopped: record.is_stopped, on_demand });
        if record.state == State::Restarting && self.start_at.is_none() {
            self.change(|record| record.state = State::Exited);
        }
    }

    /// Begins to write its log, if what it writes comes here.
    fn write_log(&self, origin: Origin) {
        let Some(life) = self.entry.life.borrow().clone() else { return };
        let streams = match (life.output.take(), &life.ends.terminal) {
            (Some([stdout, stderr]), _) => Ok(Streams::Pipes { stdout, stderr }),
            (None, Some(terminal)) => terminal.try_clone().map(Streams::Terminal),
            (None, None) => return,
        };
        let record = self.record();
        match streams {
            Ok(streams) => {
                let target = Target {
                    directory: self.engine.records.log_directory(&record.id),
                    id: record.id.clone(),
                    name: record.name.clone(),
                    image: record.spec.image.clone(),
                    spec: record.spec.log.clone(),
                    journal: log::JOURNAL.into(),
                };
                life.writer.replace(Some(Rc::new(self.engine.logs.write(target, streams, origin))));
            }
            Err(error) => tracing::warn!("write the log of container {}: {}", record.id, cause(&error)),
        }
    }

    /// Notes how a check has gone.
    fn checked(&self, outcome: Outcome) {
        let mut has_changed = false;
        self.change(|record| {
            let check = Check::of(&record.spec.health);
            if let (Some(check), Some(health)) = (check, &mut record.health) {
                has_changed = health.note(&check, record.started_ns, outcome);
            }
        });
        if has_changed {
            self.keep();
        }
    }

    /// Nobody reads its terminal any more: the log does from now on.
    fn abandon(&self, done: Reply) {
        let has_writer = self.entry.life.borrow().as_ref().is_some_and(|life| life.writer.borrow().is_some());
        if !has_writer {
            self.write_log(Origin::New);
        }
        let _told = done.send(Ok(Done::Done));
    }

    fn live(&mut self, life: Life, ending: Ending) {
        self.ending = Some(ending);
        self.entry.life.replace(Some(Rc::new(life)));
        let live = &self.engine.activity.live;
        live.set(live.get() + 1);
    }

    /// Notes that it could not be started.
    fn failed(&self, error: &Error) {
        self.engine.totals.failed(error.exit_code());
        self.change(|record| {
            record.error = error.to_string();
            record.exit_code = error.exit_code();
            record.process = None;
            if record.state != State::Created {
                record.state = State::Exited;
            }
        });
        if !self.record().spec.auto_remove {
            self.keep();
        }
    }

    /// Goes, if it is to go when it has ended.
    async fn leave_if_unwanted(&mut self) {
        if self.record().spec.auto_remove
            && let Err(error) = self.remove().await
        {
            tracing::warn!("{error}");
        }
    }

    /// Asks its program to stop, or kills it when that takes too long.
    fn stop(&mut self, signal: Option<i32>, timeout: Option<Duration>, waiter: Waiter) {
        let record = self.record();
        if !matches!(waiter, Waiter::Restart(_)) {
            self.change(|record| record.is_stopped = true);
        }
        if record.state == State::Restarting {
            self.start_at = None;
            self.change(|record| record.state = State::Exited);
            self.keep();
            // Whoever asked may have gone.
            let (Waiter::Stop(done) | Waiter::Restart(done) | Waiter::Remove(done)) = waiter;
            return drop(done.send(Ok(Done::Done)));
        }
        let timeout = timeout.or_else(|| record.spec.stop_timeout_s.map(Duration::from_secs));
        let kill_at = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        // Of several who wait, the least patient one counts.
        self.kill_at = [self.kill_at, kill_at].into_iter().flatten().min();
        self.stop_at = None;
        self.waiters.push(waiter);
        if let Err(error) = self.signal(signal.unwrap_or(record.stop_signal)) {
            tracing::warn!("stop container {}: {}", record.id, cause(&error));
        }
    }

    /// Signals its first process, which goes on if it stands still.
    fn signal(&mut self, signal: i32) -> io::Result<()> {
        if signal == libc::SIGKILL {
            self.late_at = Instant::now().checked_add(KILLED);
        }
        let Some(pidfd) = self.ending.as_ref().and_then(Ending::pidfd) else { return Ok(()) };
        match process::send_signal(pidfd.as_fd(), signal) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => return Err(error),
            _ => {}
        }
        if self.publish.borrow().state == State::Paused {
            let cgroups = self.entry.life.borrow().as_ref().map(|life| life.cgroups.clone());
            if let Some(cgroups) = cgroups {
                // To be thawed takes no time.
                let thawed = Cgroup::open(&cgroups).and_then(|cgroup| cgroup.freeze(false));
                thawed.map_err(|error| io::Error::other(error.to_string()))?;
            }
            self.change(|record| record.state = State::Running);
        }
        Ok(())
    }

    fn kill(&mut self, signal: i32) -> Result<Done, Error> {
        let is_end = signal == libc::SIGKILL || signal == self.publish.borrow().stop_signal;
        if is_end {
            self.change(|record| record.is_stopped = true);
        }
        if self.publish.borrow().state == State::Restarting {
            // Nobody is there to take it; what would end it keeps it from being started again.
            if is_end {
                self.start_at = None;
                self.change(|record| record.state = State::Exited);
                self.keep();
            }
            return Ok(Done::Done);
        }
        let sent = match self.ending.as_ref().and_then(Ending::pidfd) {
            // What stands still gets any other signal when it goes on.
            Some(pidfd) if signal != libc::SIGKILL => process::send_signal(pidfd.as_fd(), signal),
            _ => self.signal(signal),
        };
        match sent {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                Err(Error::Host(format!("signal container {}: {}", self.record().name, cause(&error))))
            }
            _ => Ok(Done::Done),
        }
    }

    /// Stops all its processes together. What else is asked for meanwhile is done, and takes that back.
    async fn freeze(&mut self, done: Reply) {
        let now = Instant::now();
        match self.ask_to_freeze(true).await {
            Ok(false) => {
                let [pause, _] = LOOKS;
                let (until, look_at) = (now + FROZEN, now + pause);
                self.freezing = Some(Freezing { done, until, look_at, pause });
            }
            Ok(true) => drop(done.send(Ok(self.note_freeze(true)))),
            Err(error) => {
                // Some may stand still by now. Why that was not all is what counts.
                drop(self.ask_to_freeze(false).await);
                drop(done.send(Err(error)));
            }
        }
    }

    /// Has them stopped, or go on; whether that is so by now.
    async fn ask_to_freeze(&self, frozen: bool) -> Result<bool, Error> {
        let Some(life) = self.entry.life.borrow().clone() else { return Ok(true) };
        let paths = life.cgroups.clone();
        let work = move || Cgroup::open(&paths).and_then(|cgroup| cgroup.ask_to_freeze(frozen));
        let result = tokio::task::spawn_blocking(work).await;
        Ok(result.map_err(|error| Error::Host(error.to_string()))??)
    }

    fn note_freeze(&self, frozen: bool) -> Done {
        self.change(|record| record.state = if frozen { State::Paused } else { State::Running });
        self.keep();
        Done::Done
    }

    /// Looks whether it stands still by now.
    async fn look_at_freezing(&mut self) {
        let looked = self.ask_to_freeze(true).await;
        let Some(freezing) = &mut self.freezing else { return };
        let now = Instant::now();
        if matches!(looked, Ok(false)) && now < freezing.until {
            let [_, longest] = LOOKS;
            freezing.look_at = now + freezing.pause;
            freezing.pause = (freezing.pause * 2).min(longest);
            return;
        }
        match (looked, self.freezing.take()) {
            (Ok(true), Some(freezing)) => drop(freezing.done.send(Ok(self.note_freeze(true)))),
            (Err(error), freezing) => {
                self.freezing = freezing;
                self.give_up_freezing(&error.to_string()).await;
            }
            (_, freezing) => {
                self.freezing = freezing;
                self.give_up_freezing("not all of its processes stand still after 10 s").await;
            }
        }
    }

    /// Lets its processes go on that were to stand still.
    async fn give_up_freezing(&mut self, reason: &str) {
        let Some(freezing) = self.freezing.take() else { return };
        if let Err(error) = self.ask_to_freeze(false).await {
            tracing::warn!("{error}");
        }
        let message = format!("pause container {}: {reason}", self.record().name);
        drop(freezing.done.send(Err(Error::Conflict(message))));
    }

    fn rename(&self, name: &str) -> Result<Done, Error> {
        let record = self.record();
        if record.name == name {
            return Err(Error::Conflict(format!("container {name} has that name already")));
        }
        self.engine.containers.borrow_mut().names.give(&record.id, name)?;
        self.change(|record| name.clone_into(&mut record.name));
        let written = self.engine.records.write(&self.record());
        written.map_err(|error| Error::Host(format!("write the container's record: {}", cause(&error))))?;
        Ok(Done::Done)
    }

    /// It has ended: tells everybody, clears up, and does what is to be done then.
    async fn ended(&mut self, end: End) {
        // Until its record is written, or it has gone: also while its log is waited for.
        let counted = self.engine.activity.work();
        self.ending = None;
        self.engine.totals.ended(end.exit);
        (self.kill_at, self.late_at, self.stop_at) = (None, None, None);
        if let Some(freezing) = self.freezing.take() {
            let message = format!("container {} is not running", self.record().name);
            // Whoever asked may have gone.
            drop(freezing.done.send(Err(Error::Conflict(message))));
        }
        let life = self.entry.life.borrow().clone();
        let record = self.record();
        let waiters = std::mem::take(&mut self.waiters);
        let is_restarted = waiters.iter().any(|waiter| matches!(waiter, Waiter::Restart(_)));
        let is_removed = (record.spec.auto_remove && !is_restarted)
            || waiters.iter().any(|waiter| matches!(waiter, Waiter::Remove(_)));
        if is_removed {
            // Its name is free before anybody can know of the end.
            self.engine.containers.borrow_mut().forget(&record.id);
        }
        self.change(|record| {
            record.state = if is_removed { State::Removing } else { State::Exited };
            record.finished_ns = end.at_ns.max(record.started_ns + 1);
            record.exit_code = ending::exit_code(end.exit);
            if let Some(health) = &mut record.health {
                health.end();
            }
        });
        let cgroups = life.as_ref().map(|life| life.cgroups.clone());
        drop(record);
        // Whoever waits is told before the reaper is woken, which takes longer than to tell.
        tokio::task::yield_now().await;
        let writer = life.and_then(|life| life.writer.take());
        let is_written = writer.is_some();
        // What is still in it goes first, so that nobody holds its streams any more; then its log is complete.
        let ended = self.ended_now();
        let mut cleared = self.clear(cgroups, is_removed && !is_written, Some(ended)).await;
        if let Some(writer) = writer
            && tokio::time::timeout(LAST_WORDS, writer.finished()).await.is_err()
        {
            tracing::debug!("the streams of a container that has ended are still open");
        }
        self.entry.life.replace(None);
        self.entry.settled.notify_waiters();
        if is_removed && is_written {
            cleared = cleared.and(self.clear(Some(Paths::default()), true, None).await);
        }
        let live = &self.engine.activity.live;
        live.set(live.get() - 1);
        self.engine.activity.changed.notify_waiters();
        drop(counted);
        self.after_end(waiters, is_restarted, is_removed, cleared).await;
    }

    async fn after_end(
        &mut self,
        waiters: Vec<Waiter>,
        is_restarted: bool,
        is_removed: bool,
        cleared: Result<(), String>,
    ) {
        let result = |cleared: &Result<(), String>| cleared.clone().map(|()| Done::Done).map_err(Error::Host);
        if let (true, Err(reason)) = (is_removed, &cleared) {
            self.come_back(reason);
        } else if is_removed {
            self.is_gone = true;
        } else {
            if !is_restarted {
                self.plan_restart();
            }
            self.keep();
            let id = self.record().id.clone();
            self.engine.link.tell(&spawner::Order::Forget { id }, &[]).await;
        }
        let started = if is_restarted && !is_removed {
            Some(self.start(Start::default()).await.map(drop))
        } else {
            None
        };
        for waiter in waiters {
            let (done, answer) = match (waiter, &started) {
                (Waiter::Restart(done), Some(started)) => (done, started.clone().map(|()| Done::Done)),
                (Waiter::Stop(done) | Waiter::Restart(done), _) => (done, Ok(Done::Done)),
                (Waiter::Remove(done), _) => (done, result(&cleared)),
            };
            // Whoever asked may have gone.
            drop(done.send(answer));
        }
    }

    /// It was to go, and could not be cleared away: it is to be seen, and its removal can be tried again.
    fn come_back(&self, reason: &str) {
        let former = self.record();
        {
            let mut containers = self.engine.containers.borrow_mut();
            let name = match containers.names.give(&former.id, &former.name) {
                Ok(()) => former.name.clone(),
                // Somebody else has it by now.
                Err(_) => format!("{}_{}", former.name, &former.id[..12]),
            };
            if let Err(error) = containers.names.give(&former.id, &name) {
                tracing::warn!("{error}");
            }
            self.change(|record| record.name = name);
            containers.add(&former.id, self.entry.clone());
        }
        self.dead(reason);
    }

    fn dead(&self, reason: &str) {
        self.change(|record| {
            record.state = State::Dead;
            reason.clone_into(&mut record.error);
        });
        self.keep();
    }

    /// Sees to it that it is started again, if its policy says so.
    fn plan_restart(&mut self) {
        let record = self.record();
        let ran = Duration::from_nanos(record.finished_ns.saturating_sub(record.started_ns));
        let event = Event::Ended { exit_code: record.exit_code, ran, stopped: record.is_stopped };
        self.decide(&record, event);
    }

    /// Does what its restart policy makes of `event`.
    fn decide(&mut self, record: &Record, event: Event) {
        let Decision::Start { after } = restart::next(record.spec.restart, &mut self.history, event) else {
            return;
        };
        self.start_at = Some(Instant::now() + after);
        let count = self.history.count;
        self.change(|record| {
            record.restart_count = count;
            record.state = State::Restarting;
        });
    }

    /// Waits until what was mounted in it before its end is so no longer.
    async fn unmounted(&mut self) {
        if let Some(unmounted) = self.unmounted.take() {
            // An error means that there is nobody left to wait for.
            drop(unmounted.await);
        }
    }

    /// Its end, but for the figures.
    fn ended_now(&self) -> Box<Ended> {
        let record = self.record();
        let words = record.spec.options.argv.iter().map(|word| word.to_string_lossy().into_owned());
        Box::new(Ended {
            schema: history::SCHEMA.to_owned(),
            id: record.id.clone(),
            name: record.name.clone(),
            image: record.spec.image.clone(),
            image_id: record.image_id.clone(),
            command: words.collect(),
            created_ns: record.created_ns,
            started_ns: record.started_ns,
            finished_ns: record.finished_ns,
            exit_code: record.exit_code,
            is_oom_killed: false,
            figures: Figures { restarts: record.restart_count, ..Figures::default() },
        })
    }

    /// Clears away its cgroups, and all of it if it is not wanted any more.
    async fn clear(
        &mut self,
        cgroups: Option<Paths>,
        is_removed: bool,
        ended: Option<Box<Ended>>,
    ) -> Result<(), String> {
        let _counted = self.engine.activity.work();
        let id = self.record().id.clone();
        let directory = is_removed.then(|| self.engine.records.directory(&id));
        let mut mounts = self.mounts.take();
        if self.record().spec.options.is_kept
            && let Some(mounts) = mounts.take()
        {
            // Its layer is synced: nobody is to wait for the disk but who starts it next.
            self.unmounted = Some(self.engine.reaper.unmount(mounts).await);
        }
        let remains = Remains { id: id.clone(), cgroups, directory, mounts, ended };
        let cleared = self.engine.reaper.clear(remains).await;
        if is_removed {
            self.engine.link.tell(&spawner::Order::Forget { id: id.clone() }, &[]).await;
        }
        match cleared {
            Ok(figures) => {
                figures.iter().for_each(|figures| self.engine.totals.used(figures));
                self.change(|record| {
                    record.process = None;
                    if let Some(figures) = figures {
                        record.is_oom_killed = figures.memory.oom_kills.is_some_and(|kills| kills > 0);
                        record.figures = Some(Box::new(figures));
                    }
                });
                Ok(())
            }
            Err(error) => {
                tracing::warn!("clear container {id} away: {error}");
                Err(error)
            }
        }
    }

    /// Removes what does not run.
    async fn remove(&mut self) -> Result<Done, Error> {
        let former = self.record();
        self.start_at = None;
        self.change(|record| record.state = State::Removing);
        let cgroups = former.process.as_ref().map(|process| process.cgroups.clone());
        match self.clear(cgroups, true, None).await {
            Ok(()) => {
                self.engine.containers.borrow_mut().forget(&former.id);
                self.is_gone = true;
                Ok(Done::Done)
            }
            Err(reason) => {
                self.dead(&reason);
                Err(Error::Host(format!("remove container {}: {reason}", former.name)))
            }
        }
    }

    /// Something is due.
    async fn due(&mut self) {
        let now = Instant::now();
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill_at = None;
            if let Err(error) = self.signal(libc::SIGKILL) {
                tracing::warn!("kill container {}: {}", self.record().id, cause(&error));
            }
        }
        if self.late_at.is_some_and(|at| at <= now) {
            self.late_at = None;
            let name = &self.record().name;
            for Waiter::Stop(done) | Waiter::Restart(done) | Waiter::Remove(done) in self.waiters.drain(..) {
                let message = format!("container {name} was killed and has not ended after {KILLED:?}");
                // Whoever asked may have gone.
                drop(done.send(Err(Error::Host(message))));
            }
        }
        if self.stop_at.is_some_and(|at| at <= now) {
            let (done, _) = oneshot::channel();
            self.stop(None, None, Waiter::Stop(done));
        }
        if self.freezing.as_ref().is_some_and(|freezing| freezing.look_at <= now) {
            self.look_at_freezing().await;
        }
        if self.start_at.is_some_and(|at| at <= now) {
            self.start_at = None;
            self.engine.totals.restarted();
            if let Err(error) = self.start(Start::default()).await {
                tracing::warn!("start container {} again: {error}", self.record().id);
                // As if it had ended at once.
                let now_ns = now_ns();
                self.change(|record| (record.started_ns, record.finished_ns) = (now_ns, now_ns + 1));
                self.plan_restart();
                self.keep();
            }
        }
    }
}

async fn ended(ending: &mut Option<Ending>) -> End {
    match ending {
        Some(ending) => ending.wait().await,
        None => std::future::pending().await,
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// What a client that attends the container is given: its process, and its terminal if it has one.
fn handed_out(parked: &Parked) -> Result<Vec<OwnedFd>, Error> {
    let own = [parked.pidfd()].into_iter().chain(parked.terminal());
    let copies: io::Result<_> = own.map(|descriptor| descriptor.try_clone_to_owned()).collect();
    copies.map_err(|error| Error::Host(format!("keep a container: {}", cause(&error))))
}

/// Waits until the program of a container runs, or cannot.
async fn outcome(parked: &mut Parked) -> Result<Stamps, Error> {
    let text = |error: io::Error| Error::Host(format!("listen to the container: {}", cause(&error)));
    if let Some(stamps) = parked.outcome()? {
        return Ok(stamps);
    }
    let line = parked.line_fd().try_clone_to_owned().map_err(text)?;
    let line = watch(line, Interest::READABLE).map_err(text)?;
    loop {
        let mut guard = line.readable().await.map_err(text)?;
        match parked.outcome()? {
            Some(stamps) => return Ok(stamps),
            None => guard.clear_ready(),
        }
    }
}
