//! The life of the daemon: it takes its place, adopts what is there, serves, and leaves.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
use nix::sched::CpuSet;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use skiff_runtime::cause;
use skiff_runtime::spawner::{self, Order};
use skiff_sys::clock::monotonic_ns;
use skiff_sys::schedule::{self, Policy};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use crate::adopt::{self, adopt};
use crate::containers::{Entry, Registry};
use crate::engine::{Activity, Engine};
use crate::figures::{Tracker, cgroup_id};
use crate::history::History;
use crate::images::Images;
use crate::link::Link;
use crate::metrics::{self, Metrics, Totals};
use crate::mounts::Mounts;
use crate::plans::Plans;
use crate::pool::Pools;
use crate::prefetch::{Errand, Prefetcher};
use crate::reaper::{Accounts, Reaper};
use crate::record::Records;
use crate::state::State;
use crate::watched::watch;
use crate::{Error, client, log, server};

/// Held below the state root: one daemon for one state.
const LOCK: &str = "engine.lock";

/// How long a daemon that is leaving may hold the lock.
const LEAVING: Duration = Duration::from_secs(20);

/// How often pools are looked after.
const TICK: Duration = Duration::from_secs(10);

/// A spawner that goes sooner is not replaced at once.
const SPAWNER_LIVES: Duration = Duration::from_secs(2);

/// How long to wait then at first.
const SPAWNER_PAUSE: Duration = Duration::from_millis(10);

/// How long what was parked may take to be cleared away when the daemon leaves.
const CLEARED: Duration = Duration::from_secs(10);

/// So many containers at most have descriptors that only make something faster.
const HELD_MAX: usize = 1024;

/// Room for so many descriptors is made at the start, 8 bytes each.
const TABLE_MAX: u64 = 1 << 15;

/// How long clients may still be answered when the daemon leaves.
const ANSWERED: Duration = Duration::from_secs(5);

/// The first descriptor that a service manager passes. sd_listen_fds(3)
const FIRST_PASSED: RawFd = 3;

/// What a daemon is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// It was started by a client: it begins a session of its own, says on its standard output why it cannot serve, and
    /// closes that when it does.
    pub on_demand: bool,
    /// The most containers that are parked ahead.
    pub pool: usize,
    /// After how long without a client and without a running container it leaves; never when absent.
    pub idle_timeout: Option<Duration>,
    /// Whose members may use the socket; `skiff`, if there is such a group, when absent.
    pub socket_group: Option<String>,
    /// Whom figures are for.
    pub metrics: metrics::Settings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            on_demand: false,
            pool: 32,
            idle_timeout: None,
            socket_group: None,
            metrics: metrics::Settings::default(),
        }
    }
}

/// Runs the daemon of these directories until it is asked to leave, or has been idle for long.
///
/// To be called by a process of one thread. Errors: another daemon is there; a directory or socket cannot be made.
pub fn run(state_root: &Path, run_root: &Path, settings: &Settings) -> Result<(), Error> {
    let host = |what: &str, error: &io::Error| Error::Host(format!("{what}: {}", cause(error)));
    close_inherited().map_err(|error| host("close what was inherited", &error))?;
    let mut waiting = settings.on_demand.then(detach).transpose().map_err(|error| host("detach", &error))?;
    if settings.on_demand {
        forget_starter();
    }
    let served = serve(state_root, run_root, settings, &mut |engine| ready(engine, &mut waiting));
    if let (Err(error), Some(mut waiting)) = (&served, waiting) {
        // A client that has gone need not know.
        drop(writeln!(waiting, "{error}"));
    }
    served
}

/// Closes what whoever has started the daemon had open: a pipe among it would not end before the daemon does.
fn close_inherited() -> io::Result<()> {
    let passed: &[RawFd] = if has_passed_socket() { &[FIRST_PASSED] } else { &[] };
    skiff_sys::process::close_others_in_child(passed)
}

/// Leaves the client's session; returns what was standard output, where that is replaced.
fn detach() -> io::Result<File> {
    // A leader of a group has a session of its own already.
    let _session = nix::unistd::setsid();
    let announced = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    nix::unistd::dup2_stdout(File::options().write(true).open("/dev/null")?)?;
    Ok(announced)
}

/// Takes back what the client that has started the daemon had set for itself, as a wrapper such as nice(1), taskset(1) or choom(1) does:
/// containers of others would inherit it.
fn forget_starter() {
    let processors: Vec<usize> = (0..CpuSet::count()).collect();
    for (what, done) in [
        ("scheduling policy and nice value", schedule::set_policy(&Policy::default())),
        ("I/O priority", schedule::set_io_priority(0)),
        // Of these, the kernel takes those that there are.
        ("processors", schedule::cpu_set(&processors).and_then(|all| schedule::set_cpus(&all))),
        ("score for the OOM killer", fs::write("/proc/self/oom_score_adj", "0")),
    ] {
        // Without privilege what was given up cannot be had back.
        if let Err(error) = done {
            tracing::debug!("reset the {what}: {}", cause(&error));
        }
    }
}

/// Tells whoever has started the daemon that it listens: by the end of the pipe that a client is `waiting` at, or to the
/// service manager. sd_notify(3).
fn ready(engine: &Engine, waiting: &mut Option<File>) {
    tracing::debug!("ready, {} containers", engine.containers.borrow().all().len());
    drop(waiting.take());
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let sent = UnixDatagram::unbound().and_then(|socket| {
        let address = match path.as_encoded_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
            _ => SocketAddr::from_pathname(&path),
        };
        socket.send_to_addr(b"READY=1", &address?)
    });
    if let Err(error) = sent {
        tracing::warn!("notify the service manager: {}", cause(&error));
    }
}

fn serve(
    state_root: &Path,
    run_root: &Path,
    settings: &Settings,
    ready: &mut dyn FnMut(&Engine),
) -> Result<(), Error> {
    let host = |what: String| move |error: io::Error| Error::Host(format!("{what}: {}", cause(&error)));
    for root in [state_root, run_root] {
        let mode = if root == run_root { 0o755 } else { 0o700 };
        let made = fs::DirBuilder::new().recursive(true).mode(mode).create(root);
        made.map_err(host(format!("make {}", root.display())))?;
    }
    let _lock = lock(state_root, run_root)?;
    // Before there are threads, which inherit it.
    let signals = block_signals().map_err(host("block signals".into()))?;
    let (open_files, descriptors_max) =
        raise_descriptors().map_err(host("look at the limit of open files".into()))?;
    nix::sys::prctl::set_child_subreaper(true).map_err(|error| host("adopt orphans".into())(error.into()))?;
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_err(host("read the boot's id".into()))?
        .trim()
        .to_owned();
    let records = Records::open(state_root).map_err(host("open the containers' records".into()))?;
    let (lost, lost_spawners) = mpsc::channel(1);
    let (stray, strays) = mpsc::unbounded_channel();
    let (errand, errands) = mpsc::unbounded_channel();
    let tracker = Tracker::default();
    let accounts = Accounts { tracker: tracker.clone(), history: History::of(state_root) };
    let engine = Rc::new(Engine {
        records,
        containers: RefCell::new(Registry::default()),
        images: Images::open(state_root)?,
        link: Rc::new(Link::new("/proc/self/exe".into(), [state_root, run_root], open_files, lost, stray)),
        reaper: Reaper::start(accounts).map_err(host("start a thread".into()))?,
        mounts: Mounts::new(share(descriptors_max, 20)),
        descriptors_max,
        logs: log::Thread::start(share(descriptors_max, 40)).map_err(host("start a thread".into()))?,
        tracker,
        prefetcher: Prefetcher::start(state_root, read_ahead_share(descriptors_max), errand)
            .map_err(host("start a thread".into()))?,
        pools: RefCell::new(Pools::new(settings.pool)),
        waiting: RefCell::default(),
        plans: RefCell::new(Plans::default()),
        latest: RefCell::default(),
        attended: RefCell::default(),
        making: RefCell::default(),
        boot_id,
        on_demand: settings.on_demand,
        activity: Activity::default(),
        totals: Totals::default(),
        metrics: Metrics::start(&settings.metrics)?,
        run_root: run_root.to_owned(),
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(4)
        .thread_keep_alive(Duration::from_secs(1))
        .build()
        .map_err(host("start".into()))?;
    LocalSet::new().block_on(&runtime, async {
        // Beside each other. A directory that the spawner makes meanwhile is in its account, or swept later.
        let (records, begun) = (engine.records.clone(), monotonic_ns());
        let reading = std::thread::spawn(move || records.read_all());
        let kept = engine.link.open().map_err(host("start the spawner".into()))?;
        let listed = monotonic_ns();
        let found = reading.join().unwrap_or_else(|_| Err(io::Error::other("the thread has failed")));
        let found = found.map_err(host("read the containers' records".into()))?;
        let read = monotonic_ns();
        let (own, kept): (Vec<_>, Vec<_>) = kept.into_iter().partition(|one| one.id == spawner::ENGINE);
        let is_restored = own.into_iter().next().is_some_and(|own| engine.tracker.restore(own));
        adopt(&engine, found, kept);
        if !is_restored {
            engine.tracker.load();
        }
        tokio::task::spawn_local(count(engine.clone(), is_restored));
        tokio::task::spawn_local(run_errands(engine.link.clone(), errands));
        let us = |from: u64, to: u64| (to - from) / 1000;
        tracing::debug!(
            "spawner asked in {} µs, records read in {} µs, adopted in {} µs",
            us(begun, listed),
            us(begun, read),
            us(read, monotonic_ns())
        );
        let socket = Socket::open(run_root, settings.socket_group.as_deref())?;
        ready(&engine);
        let listener = socket.listener.try_clone().and_then(tokio::net::UnixListener::from_std);
        let listener = listener.map_err(host("listen".into()))?;
        if let Some(metrics) = &engine.metrics {
            metrics.answer(&engine);
        }
        let serving = tokio::task::spawn_local(server::serve(engine.clone(), listener, socket.is_shared));
        let signals = watch(signals, Interest::READABLE);
        let signals = signals.map_err(host("wait for signals".into()))?;
        live(&engine, lost_spawners, strays, &signals, settings.idle_timeout).await;
        engine.activity.is_leaving.set(true);
        serving.abort();
        // Whoever comes from here on is for the next daemon, and so is who has come just now.
        let is_shared = socket.is_shared;
        server::turn_away(&engine, socket.close(), is_shared);
        leave(&engine).await;
        Ok(())
    })
}

/// Has containers counted: by the programs that the daemon before has left, or by new ones, which those that run already are late for.
async fn count(engine: Rc<Engine>, is_restored: bool) {
    if !is_restored {
        engine.tracker.loaded().await;
        engine.tracker.keep(&engine.link).await;
    }
    let lives: Vec<_> = engine.containers.borrow().all();
    for life in lives.iter().filter_map(|entry| entry.life.borrow().clone()) {
        engine.tracker.arm_late(|| cgroup_id(&life.cgroups));
    }
}

/// Looks after spawner and pools until it is time to leave.
async fn live(
    engine: &Rc<Engine>,
    mut lost_spawners: mpsc::Receiver<()>,
    mut strays: mpsc::UnboundedReceiver<String>,
    signals: &AsyncFd<SignalFd>,
    idle_timeout: Option<Duration>,
) {
    let tick = idle_timeout.map_or(TICK, |timeout| TICK.min(timeout / 4)).max(Duration::from_millis(10));
    let mut ticks = tokio::time::interval(tick);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut replaced = Replaced { at: Instant::now(), pause: SPAWNER_PAUSE };
    let mut idle_since = Instant::now();
    let mut trimmed = Instant::now();
    loop {
        tokio::select! {
            _ = lost_spawners.recv() => replaced.replace(engine).await,
            _ = signals.readable() => return,
            () = engine.activity.leave.notified() => return,
            Some(id) = strays.recv() => adopt::clear_stray(engine, id),
            _ = ticks.tick() => {
                reap_strays(engine);
                if trimmed.elapsed() >= TICK {
                    trimmed = Instant::now();
                    engine.trim();
                    engine.refill();
                    adopt::sweep(engine);
                }
            }
        }
        // Most clients come and go between two looks.
        if engine.activity.was_asked.take() || is_busy(engine) {
            idle_since = Instant::now();
        } else if idle_timeout.is_some_and(|timeout| idle_since.elapsed() >= timeout) {
            tracing::debug!("idle");
            return;
        }
    }
}

/// Whether the daemon is of use now, or will be without anybody's asking.
fn is_busy(engine: &Engine) -> bool {
    let is_awaited = |entry: &Entry| entry.record().state == State::Restarting;
    engine.activity.is_busy() || engine.containers.borrow().all().iter().any(|entry| is_awaited(entry))
}

/// When the spawner was started, and how long to wait if it goes at once.
#[derive(Debug)]
struct Replaced {
    at: Instant,
    pause: Duration,
}

impl Replaced {
    /// Starts another spawner. What the former has parked is its child no more, and not trusted any longer.
    async fn replace(&mut self, engine: &Rc<Engine>) {
        tracing::warn!("the spawner has gone, starting another");
        engine.totals.lost_spawner();
        if self.at.elapsed() > SPAWNER_LIVES {
            self.pause = SPAWNER_PAUSE;
        } else {
            self.wait().await;
        }
        while let Err(error) = engine.link.restart() {
            tracing::warn!("start the spawner: {}", cause(&error));
            self.wait().await;
        }
        self.at = Instant::now();
        engine.tracker.keep(&engine.link).await;
        engine.lose_pools();
        engine.refill();
    }

    async fn wait(&mut self) {
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(SPAWNER_LIVES);
    }
}

/// Has the spawner make the readers that replays want.
async fn run_errands(link: Rc<Link>, mut errands: mpsc::UnboundedReceiver<Errand>) {
    while let Some(Errand { cgroups, socket }) = errands.recv().await {
        link.tell(&Order::Read { cgroups }, &[socket.as_fd()]).await;
    }
}

/// Reaps children that nobody waits for: spawners, and what they had not told of yet.
fn reap_strays(engine: &Engine) {
    let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    while let Ok(status) = waitid(Id::All, peek) {
        let (WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _)) = status else { return };
        // A container's end is its owner's to see, which it is about to.
        if engine.containers.borrow().all().iter().any(|entry| entry.pid() == Some(pid.as_raw())) {
            return;
        }
        if waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG).is_err() {
            return;
        }
    }
}

/// Gives up what was made ahead, and the spawner if it has nobody to look after.
async fn leave(engine: &Rc<Engine>) {
    let begin = monotonic_ns();
    engine.lose_pools();
    let cleared = async {
        let answered = async {
            while engine.activity.asking.get() > 0 {
                engine.activity.changed.notified().await;
            }
        };
        if tokio::time::timeout(ANSWERED, answered).await.is_err() {
            tracing::debug!("clients are left that were not answered");
        }
        see_ends(engine).await;
        settle(engine).await;
        adopt::sweep(engine);
        settle(engine).await;
    };
    if tokio::time::timeout(CLEARED, cleared).await.is_err() {
        tracing::warn!("not everything could be cleared away");
    }
    if engine.activity.live.get() == 0 {
        engine.link.tell(&Order::Leave, &[]).await;
        // It would not hear that any more if the daemon went before.
        while !engine.link.is_down() && monotonic_ns() - begin < 1_000_000_000 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    tracing::debug!("left in {} µs", (monotonic_ns() - begin) / 1000);
}

/// Waits until the owners of containers that have ended know: from then on these are counted among what is cleared away.
async fn see_ends(engine: &Engine) {
    while engine.containers.borrow().all().iter().any(|entry| entry.has_ended()) {
        engine.activity.changed.notified().await;
    }
}

/// Waits until nothing is being made ahead or cleared away.
async fn settle(engine: &Engine) {
    while engine.activity.clearing.get() > 0 {
        engine.activity.changed.notified().await;
    }
}

/// Takes the place of the daemon of this state.
fn lock(state_root: &Path, run_root: &Path) -> Result<Flock<File>, Error> {
    let path = state_root.join(LOCK);
    let host = |error: &io::Error| Error::Host(format!("lock {}: {}", path.display(), cause(error)));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| host(&error))?;
    let deadline = Instant::now() + LEAVING;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((_, nix::Error::EWOULDBLOCK)) if Instant::now() >= deadline => {
                return Err(Error::Conflict(format!("a daemon runs already for {}", state_root.display())));
            }
            Err((unlocked, nix::Error::EWOULDBLOCK | nix::Error::EINTR)) => {
                // One that serves is not waited for.
                if client::Client::reach(run_root).is_ok_and(|found| found.is_some()) {
                    return Err(Error::Conflict(format!(
                        "a daemon runs already for {}",
                        state_root.display()
                    )));
                }
                file = unlocked;
                std::thread::sleep(Duration::from_millis(10));
            }
            Err((_, error)) => return Err(host(&error.into())),
        }
    }
}

/// As many descriptors as may be: there are three of each container that is not waited for. Returns how many there could be, which
/// containers inherit, and how many there can be.
fn raise_descriptors() -> io::Result<(u64, u64)> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let max = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(error) => {
            tracing::debug!("raise the number of descriptors: {error}");
            soft
        }
    };
    // The table has its size from the beginning: in a process with threads, to make it longer waits for an RCU grace period.
    let last = i32::try_from(max.min(TABLE_MAX)).unwrap_or(i32::MAX) - 1;
    drop(skiff_sys::file::received(fcntl(io::stderr().as_fd(), FcntlArg::F_DUPFD_CLOEXEC(last))?));
    Ok((soft, max))
}

/// One of `parts` parts of the descriptors that there can be, but no more than are of use.
fn share(descriptors_max: u64, parts: u64) -> usize {
    usize::try_from(descriptors_max / parts).unwrap_or(usize::MAX).min(HELD_MAX)
}

/// So many files may be open to be read ahead: an eighth of the descriptors, and of the room that there is for them from the start.
fn read_ahead_share(descriptors_max: u64) -> usize {
    usize::try_from(descriptors_max.min(TABLE_MAX) / 8).unwrap_or(usize::MAX)
}

/// The signals that ask the daemon to leave, blocked in every thread that is started from here on.
fn block_signals() -> io::Result<SignalFd> {
    let set: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect();
    set.thread_block()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// The socket that clients connect to.
#[derive(Debug)]
struct Socket {
    listener: UnixListener,
    /// Whether a group may use it.
    is_shared: bool,
    /// Removed with it, unless it is the service manager's.
    path: Option<PathBuf>,
}

impl Socket {
    /// That which the service manager has passed (sd_listen_fds(3)), or one of the daemon's own.
    fn open(run_root: &Path, group: Option<&str>) -> Result<Self, Error> {
        let host =
            |error: io::Error| Error::Host(format!("listen in {}: {}", run_root.display(), cause(&error)));
        let passed = passed_socket().map_err(host)?;
        let socket = match passed {
            Some(listener) => Self { listener, is_shared: true, path: None },
            None => Self::bind(run_root, group)?,
        };
        socket.listener.set_nonblocking(true).map_err(host)?;
        Ok(socket)
    }

    fn bind(run_root: &Path, group: Option<&str>) -> Result<Self, Error> {
        let host =
            |error: io::Error| Error::Host(format!("listen in {}: {}", run_root.display(), cause(&error)));
        let gid = match group {
            Some(name) => {
                let found = group_id(name).map_err(host)?;
                Some(found.ok_or_else(|| Error::Invalid(format!("there is no group {name}")))?)
            }
            // Without root it could not be given away.
            None if nix::unistd::geteuid().is_root() => group_id("skiff").map_err(host)?,
            None => None,
        };
        let (path, _directory) = client::address(run_root).map_err(host)?;
        // The lock is held: whoever has bound it has gone.
        match fs::symlink_metadata(&path) {
            Ok(found) if found.file_type().is_socket() => fs::remove_file(&path).map_err(host)?,
            _ => {}
        }
        let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
        let bound = UnixListener::bind(&path);
        nix::sys::stat::umask(before);
        let listener = bound.map_err(host)?;
        let path = run_root.join(crate::protocol::SOCKET);
        if let Some(gid) = gid {
            std::os::unix::fs::lchown(&path, None, Some(gid)).map_err(host)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).map_err(host)?;
        }
        Ok(Self { listener, is_shared: gid.is_some(), path: Some(path) })
    }
}

impl Socket {
    /// Takes it away; those that have connected to it and that nobody has accepted. A service manager keeps its own, with them.
    fn close(mut self) -> Vec<UnixStream> {
        let Some(path) = self.path.take() else { return Vec::new() };
        // Somebody may have removed it.
        drop(fs::remove_file(path));
        std::iter::from_fn(|| self.listener.accept().ok().map(|(stream, _)| stream)).collect()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Somebody may have removed it.
            drop(fs::remove_file(path));
        }
    }
}

/// Whether the service manager has passed one. sd_listen_fds(3)
fn has_passed_socket() -> bool {
    let variable = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    variable("LISTEN_PID") == Some(std::process::id())
        && variable("LISTEN_FDS").is_some_and(|count| count > 0)
}

fn passed_socket() -> io::Result<Option<UnixListener>> {
    if !has_passed_socket() {
        return Ok(None);
    }
    let passed: OwnedFd = skiff_sys::file::received(FIRST_PASSED);
    skiff_sys::process::cloexec_from(FIRST_PASSED)?;
    Ok(Some(passed.into()))
}

/// The number of a group of `/etc/group`. group(5).
fn group_id(name: &str) -> io::Result<Option<u32>> {
    let text = match fs::read_to_string("/etc/group") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    Ok(text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    }))
}
