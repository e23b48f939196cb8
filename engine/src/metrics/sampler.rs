//! One who reads figures for all who want them.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use nix::time::{ClockId, clock_gettime};
use skiff_observe::exposition::{Format, Subject, text};
use skiff_observe::otlp;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::look::Look;
use super::{Ask, read, table};
use crate::ending::now_ns;

/// What is younger is not read again.
pub(super) const FRESH: Duration = Duration::from_millis(250);

/// How long the daemon's thread may take to answer.
const ANSWERED: Duration = Duration::from_secs(5);

/// What figures have cost, and what became of them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cost {
    pub(super) cpu_ns: u64,
    pub(super) samples: u64,
    pub(super) answered: u64,
    pub(super) refused: u64,
    pub(super) failed: u64,
    pub(super) evicted: u64,
    pub(super) is_exporting: bool,
    pub(super) sent: u64,
    pub(super) retried: u64,
    pub(super) dropped: u64,
    pub(super) rejected: u64,
    pub(super) queued_bytes: u64,
}

/// Figures of everything at one time.
#[derive(Debug)]
pub(super) struct Sample {
    at: Instant,
    at_ns: u64,
    subjects: Vec<Subject>,
    /// As text, in the form that was asked for.
    texts: RefCell<[Option<Bytes>; 2]>,
}

#[derive(Debug)]
pub(super) struct Sampler {
    asks: mpsc::Sender<Ask>,
    latest: RefCell<Option<Rc<Sample>>>,
    /// Held while the latest is renewed: of those who come meanwhile none reads it once more.
    renewing: Arc<Mutex<()>>,
    /// When the daemon's thread has answered last.
    answered: Cell<Option<Instant>>,
    pub(super) cost: Cell<Cost>,
    /// CPU time of threads that read.
    read_cpu_ns: Cell<u64>,
    since_ns: u64,
}

impl Sampler {
    pub(super) fn new(asks: mpsc::Sender<Ask>) -> Self {
        Self {
            asks,
            latest: RefCell::default(),
            renewing: Arc::default(),
            answered: Cell::default(),
            cost: Cell::default(),
            read_cpu_ns: Cell::default(),
            since_ns: now_ns(),
        }
    }

    /// Changes what is told of costs.
    pub(super) fn note(&self, change: impl FnOnce(&mut Cost)) {
        let mut cost = self.cost.get();
        change(&mut cost);
        self.cost.set(cost);
    }

    /// Figures that are at most [`FRESH`] old.
    ///
    /// Who waits for them may go: what has been begun is for those who come next.
    ///
    /// Errors: the daemon's thread does not answer.
    pub(super) async fn sample(self: &Rc<Self>) -> io::Result<Rc<Sample>> {
        let turn = self.renewing.clone().lock_owned().await;
        if let Some(sample) = self.latest.borrow().as_ref().filter(|sample| sample.at.elapsed() < FRESH) {
            return Ok(sample.clone());
        }
        let sampler = self.clone();
        let renewal = tokio::task::spawn_local(async move {
            let renewed = sampler.renew().await;
            drop(turn);
            renewed
        });
        renewal.await.map_err(io::Error::other)?
    }

    /// Reads figures anew, and keeps them.
    async fn renew(&self) -> io::Result<Rc<Sample>> {
        let look = self.look().await?;
        self.note(|cost| {
            cost.samples += 1;
            cost.cpu_ns = self.read_cpu_ns.get() + thread_cpu_ns();
        });
        let (cost, since_ns) = (self.cost.get(), self.since_ns);
        let work = move || {
            let begun = thread_cpu_ns();
            let subjects = read::read(look, since_ns, cost);
            (subjects, thread_cpu_ns() - begun)
        };
        let (subjects, cpu_ns) = tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?;
        self.read_cpu_ns.set(self.read_cpu_ns.get() + cpu_ns);
        let sample = Sample { at: Instant::now(), at_ns: now_ns(), subjects, texts: RefCell::default() };
        let sample = Rc::new(sample);
        *self.latest.borrow_mut() = Some(sample.clone());
        Ok(sample)
    }

    /// What the daemon's thread knows.
    async fn look(&self) -> io::Result<Look> {
        self.ask(Ask::Look).await
    }

    /// Whether the daemon's thread answers, or has done so at most [`FRESH`] ago.
    pub(super) async fn ping(&self) -> io::Result<()> {
        match self.answered.get() {
            Some(at) if at.elapsed() < FRESH => Ok(()),
            _ => self.ask(Ask::Ping).await,
        }
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> io::Result<T> {
        let (tell, told) = oneshot::channel();
        let asked = async {
            // Errors say that there is no daemon any more.
            self.asks.send(ask(tell)).await.ok()?;
            told.await.ok()
        };
        let answered = timeout(ANSWERED, asked).await.map_err(|_| io::ErrorKind::TimedOut)?;
        let answer = answered.ok_or(io::ErrorKind::BrokenPipe)?;
        self.answered.set(Some(Instant::now()));
        Ok(answer)
    }
}

impl Sample {
    /// As text; written once for all who want it.
    pub(super) fn text(&self, format: Format) -> Bytes {
        let write = || Bytes::from(text::write(&table::METRICS, &self.subjects, format));
        self.texts.borrow_mut()[format as usize].get_or_insert_with(write).clone()
    }

    /// As a request of OTLP.
    pub(super) fn otlp(&self) -> Bytes {
        otlp::request(&table::METRICS, &self.subjects, self.at_ns).into()
    }
}

/// CPU time of this thread. clock_gettime(2)
fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from);
    time.map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}
