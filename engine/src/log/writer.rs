//! Carries what containers write to their logs, on one thread beside the daemon's: a disk that makes writers wait makes
//! nobody else wait.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use super::append::{Log, discard};
use super::directory::Directory;
use super::journald::Journal;
use super::record::Stream;
use super::source::ready;
use skiff_sys::clock::monotonic_ns;

use crate::spec::{LogDriver, LogSpec};

/// What is read from a terminal at once, bytes.
const CHUNK: usize = 16 << 10;

/// How much an attached client may lag behind where there is no log to follow: two files of so many bytes.
const LIVE: LogSpec = LogSpec { driver: LogDriver::File, max_bytes: 1 << 20, max_files: 2 };

/// How many requests for a live log wait for the task.
const REQUESTS: usize = 8;

/// A log is closed when its container has written nothing for so long, and up to a second more.
const QUIET: Duration = Duration::from_secs(10);

/// Somebody wants to look on.
type Request = oneshot::Sender<io::Result<Live>>;

/// The thread that carries the output of all containers.
#[derive(Debug)]
pub struct Thread {
    runtime: Handle,
    open: Arc<Open>,
    /// The thread ends when this goes.
    _stop: oneshot::Sender<()>,
}

/// Where a container's output goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// The log's directory, made if need be. Whoever may not read the log must not be let into the one above.
    pub directory: PathBuf,
    /// The container's id.
    pub id: String,
    /// The container's name.
    pub name: String,
    /// The image's name.
    pub image: String,
    /// The driver and its bounds.
    pub spec: LogSpec,
    /// Where the journal listens: [`JOURNAL`](super::JOURNAL).
    pub journal: PathBuf,
}

/// What a container's output arrives on. Blocking or not is the same.
#[derive(Debug)]
pub enum Streams {
    /// The reading ends of two pipes.
    Pipes {
        /// Standard output.
        stdout: OwnedFd,
        /// Standard error.
        stderr: OwnedFd,
    },
    /// The master of a terminal, which nobody else reads.
    Terminal(OwnedFd),
}

/// Whether a former writer may have been killed in the middle of a record that is to be completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The streams are new: what was unfinished stays so.
    New,
    /// The same streams as the former writer's.
    Adopted,
}

/// One container's output on its way. Dropped, it leaves the streams alone.
#[derive(Debug)]
pub struct Writer {
    target: Arc<Target>,
    requests: mpsc::Sender<Request>,
    finished: watch::Receiver<bool>,
    task: AbortHandle,
}

/// The log that an attached client follows.
#[derive(Debug)]
pub struct Live {
    /// The log's directory.
    pub directory: OwnedFd,
    /// While it lives, so does a log that is made for those who look on.
    _lookers: Option<Arc<()>>,
}

impl Thread {
    /// Starts the thread. Of the logs that are written, `open_max` keep their files open between two writes.
    pub fn start(open_max: usize) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        std::thread::Builder::new().name("log".into()).stack_size(256 << 10).spawn(move || {
            // An error is the sender's end, which is what is waited for.
            runtime.block_on(stopped).unwrap_or(());
            runtime.shutdown_background();
        })?;
        let open = Arc::new(Open { count: AtomicUsize::new(0), max: open_max });
        Ok(Self { runtime: handle, open, _stop: stop })
    }

    /// Begins to carry `streams` to `target`. A log that can't be opened is reported, and what comes meanwhile is thrown away
    /// and counted: the container is not to wait for somebody to read.
    #[must_use]
    pub fn write(&self, target: Target, streams: Streams, origin: Origin) -> Writer {
        let target = Arc::new(target);
        let (requests, received) = mpsc::channel(REQUESTS);
        let (done, finished) = watch::channel(false);
        let (carried, open) = (Arc::clone(&target), Arc::clone(&self.open));
        let task = self.runtime.spawn(async move {
            if let Err(error) = carry(Sink::new(&carried, origin, &open), streams, received).await {
                tracing::warn!(id = carried.id, %error, "log");
            }
            done.send_replace(true);
        });
        Writer { target, requests, finished, task: task.abort_handle() }
    }
}

impl Writer {
    /// Waits until nobody can write to the container's streams any more and all that was written is where it goes.
    pub async fn finished(&self) {
        // An error means that the task is gone, and with it the streams.
        drop(self.finished.clone().wait_for(|done| *done).await);
    }

    /// What an attached client follows: the log, or where there is none, one that is made for those who look on.
    ///
    /// Errors: there is none, and the streams have ended.
    pub async fn live(&self) -> io::Result<Live> {
        if self.target.spec.driver == LogDriver::File {
            // The thread may not have come to it yet.
            Directory::make(&self.target.directory)?;
            let directory = open_directory(&self.target.directory)?;
            return Ok(Live { directory, _lookers: None });
        }
        let (answer, answered) = oneshot::channel();
        let gone = || io::Error::other("the container's streams have ended");
        self.requests.send(answer).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Opens a log's directory for a client to read from.
pub fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(File::open(path)?.into())
}

/// The logs whose files are open.
#[derive(Debug)]
struct Open {
    count: AtomicUsize,
    max: usize,
}

/// Counts one of them for as long as it lives.
#[derive(Debug)]
struct Counted(Arc<Open>);

impl Open {
    fn count(self: &Arc<Self>) -> Counted {
        self.count.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(self))
    }

    fn is_crowded(&self) -> bool {
        self.count.load(Ordering::Relaxed) > self.max
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Carries until the streams have ended.
async fn carry(
    mut sink: Sink<'_>,
    streams: Streams,
    mut requests: mpsc::Receiver<Request>,
) -> io::Result<()> {
    let (out, err, kind) = match streams {
        Streams::Pipes { stdout, stderr } => (stdout, Some(stderr), Kind::Pipe),
        Streams::Terminal(master) => (master, None, Kind::Terminal),
    };
    let mut sources = [Some(source(out)?), err.map(source).transpose()?];
    while sources.iter().any(Option::is_some) {
        let (index, mut guard) = tokio::select! {
            guard = readable(sources[0].as_ref()) => (0, guard?),
            guard = readable(sources[1].as_ref()) => (1, guard?),
            Some(answer) = requests.recv() => {
                // Whoever has asked may be gone.
                drop(answer.send(sink.look_on()));
                continue;
            }
            () = quiet(sink.is_open()) => {
                sink.close();
                continue;
            }
        };
        let stream = [Stream::Out, Stream::Err][index];
        let from = guard.get_inner().as_fd();
        let ready = ready(from)?;
        if ready.bytes > 0 {
            let fd = |index: usize| sources[index].as_ref().map(AsFd::as_fd);
            sink.open([fd(0), fd(1)], kind);
        }
        let ended = ready.ended || (ready.bytes > 0 && !sink.take(stream, from, kind, ready.bytes).await);
        if ready.bytes == 0 {
            guard.clear_ready();
            sink.close_if_crowded();
        }
        drop(guard);
        if ended {
            sources[index] = None;
        }
        // Other containers' turn.
        tokio::task::yield_now().await;
    }
    sink.finish().await;
    Ok(())
}

/// Waits until something that is open has been left alone for long.
async fn quiet(is_open: bool) {
    if is_open {
        // At a full second of the clock: of many that have begun to be quiet, all are closed at once.
        let since = Duration::from_nanos(monotonic_ns() % 1_000_000_000);
        tokio::time::sleep(QUIET + Duration::from_secs(1) - since).await;
    } else {
        std::future::pending().await
    }
}

#[expect(
    deprecated,
    reason = "what it may be unsound for is a descriptor that is not owned, and its successor is unsafe"
)]
fn source(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}

/// Waits until there is something to take from `source`; for ever if that has ended.
async fn readable(source: Option<&AsyncFd<OwnedFd>>) -> io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
    match source {
        Some(source) => source.readable().await,
        None => std::future::pending().await,
    }
}

/// What an end of a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pipe,
    Terminal,
}

/// Where bytes go.
struct Sink<'a> {
    target: &'a Target,
    main: Main,
    /// For those who look on, while there are any, if `main` is nothing that they could follow.
    live: Option<(Log, Weak<()>)>,
    /// Until the log has been opened for the first time: what is left in it by whoever has written it before.
    origin: Option<Origin>,
    open: &'a Arc<Open>,
    /// What came while the log could not be opened, and why.
    lost: Option<(u64, io::Error)>,
}

enum Main {
    Nothing,
    /// A log without its files: of many containers few write.
    Closed,
    Log {
        log: Box<Log>,
        _counted: Counted,
    },
    Journal(Box<Journal>),
}

impl<'a> Sink<'a> {
    fn new(target: &'a Target, origin: Origin, open: &'a Arc<Open>) -> Self {
        let main = match target.spec.driver {
            LogDriver::None => Main::Nothing,
            LogDriver::File => Main::Closed,
            LogDriver::Journald => Journal::open(target).map_or_else(
                |error| {
                    // The container is not to wait for somebody to read.
                    tracing::warn!(id = target.id, %error, "log");
                    Main::Nothing
                },
                |journal| Main::Journal(Box::new(journal)),
            ),
        };
        let sink = Self { target, main, live: None, origin: Some(origin), open, lost: None };
        if target.spec.driver != LogDriver::File {
            sink.remove_live();
        }
        sink
    }

    fn is_open(&self) -> bool {
        matches!(self.main, Main::Log { .. })
    }

    /// Opens the log if it is closed, and completes what a former writer has left unfinished with what is in `streams`.
    fn open(&mut self, streams: [Option<BorrowedFd<'_>>; 2], kind: Kind) {
        if !matches!(self.main, Main::Closed) {
            return;
        }
        match Log::open(&self.target.directory, &self.target.spec) {
            Ok(mut log) => {
                if let Some(origin) = self.origin.take() {
                    complete(&mut log, streams, kind, origin);
                }
                if let Some((bytes, error)) = self.lost.take() {
                    log.fail(bytes, error);
                }
                self.main = Main::Log { log: Box::new(log), _counted: self.open.count() };
            }
            Err(error) if self.lost.is_none() => {
                tracing::warn!(id = self.target.id, %error, "log");
                self.lost = Some((0, error));
            }
            Err(_) => {}
        }
    }

    /// Closes the log; not one that has still to say what it has lost.
    fn close(&mut self) {
        if matches!(&self.main, Main::Log { log, .. } if log.is_settled()) {
            self.main = Main::Closed;
        }
    }

    fn close_if_crowded(&mut self) {
        if self.open.is_crowded() {
            self.close();
        }
    }

    /// Takes some of the `bytes` that `from` has; false if there were none after all, nor will be.
    async fn take(&mut self, stream: Stream, from: BorrowedFd<'_>, kind: Kind, bytes: u32) -> bool {
        if self.live.as_ref().is_some_and(|(_, lookers)| lookers.strong_count() == 0) {
            self.live = None;
            self.remove_live();
        }
        let log = match (&mut self.main, &mut self.live) {
            (Main::Log { log, .. }, _) => Some(&mut **log),
            (Main::Nothing, Some((live, _))) => Some(live),
            (Main::Nothing, None) | (Main::Closed, _) => None,
            (Main::Journal(_), _) => return self.take_copy(stream, from).await,
        };
        match (log, kind) {
            (Some(log), Kind::Pipe) => log.take(stream, from, bytes.min(log.record_max())),
            (None, Kind::Pipe) => self.lose(discard(from, bytes)),
            (_, Kind::Terminal) => return self.take_copy(stream, from).await,
        }
        true
    }

    /// Takes bytes by reading them, for whoever can't have them otherwise.
    async fn take_copy(&mut self, stream: Stream, from: BorrowedFd<'_>) -> bool {
        let mut bytes = vec![0; CHUNK];
        match nix::unistd::read(from, &mut bytes) {
            Ok(0) | Err(nix::Error::EIO) => return false,
            Ok(count) => bytes.truncate(count),
            Err(_) => return true,
        }
        match &mut self.main {
            Main::Nothing => {}
            Main::Closed => self.lose(bytes.len() as u64),
            Main::Log { log, .. } => log.append(stream, &bytes),
            Main::Journal(journal) => journal.write(stream, &bytes).await,
        }
        if let Some((live, _)) = &mut self.live {
            live.append(stream, &bytes);
        }
        true
    }

    /// Keeps account of bytes that came while the log could not be opened.
    fn lose(&mut self, more: u64) {
        if let Some((bytes, _)) = &mut self.lost {
            *bytes += more;
        }
    }

    /// Begins to keep what those who look on follow, or lets one more of them follow it.
    fn look_on(&mut self) -> io::Result<Live> {
        let lookers = match self.live.as_ref().and_then(|(_, lookers)| lookers.upgrade()) {
            Some(lookers) => lookers,
            None => {
                let lookers = Arc::new(());
                self.live = Some((Log::open(&self.target.directory, &LIVE)?, Arc::downgrade(&lookers)));
                lookers
            }
        };
        Ok(Live { directory: open_directory(&self.target.directory)?, _lookers: Some(lookers) })
    }

    /// Removes what was kept for lookers-on.
    fn remove_live(&self) {
        match fs::remove_dir_all(&self.target.directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(id = self.target.id, %error, "live log");
            }
            _ => {}
        }
    }

    async fn finish(&mut self) {
        // A log that nobody has written to since is not left unfinished, nor made.
        if matches!(self.main, Main::Closed)
            && (self.lost.is_some() || self.origin.is_some() && self.target.directory.exists())
        {
            self.open([None; 2], Kind::Pipe);
        }
        if let Main::Log { log, .. } = &mut self.main {
            log.tell_loss();
        }
        if let Main::Journal(journal) = &mut self.main {
            journal.finish().await;
        }
    }
}

/// Completes what a former writer has left unfinished.
fn complete(log: &mut Log, [out, err]: [Option<BorrowedFd<'_>>; 2], kind: Kind, origin: Origin) {
    let from = match log.incomplete() {
        None => return,
        Some(Stream::Out) => out,
        Some(Stream::Err) => err,
        Some(Stream::Note) => None,
    };
    log.complete(from.filter(|_| kind == Kind::Pipe && origin == Origin::Adopted));
}
