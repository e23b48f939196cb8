//! Figures for those who collect them: an endpoint for Prometheus, and an exporter for OpenTelemetry.
//!
//! ```text
//! daemon's thread            thread "metrics"                       its blocking thread
//!   answers with a Look ◄── Sampler: one look for all who ask ──►  reads cgroups and processes
//!                                ▲              ▲
//!                           serve (HTTP)   export (OTLP)
//! ```
//!
//! What one asks of the daemon's own thread is one `look::Look`: copies of what it knows anyway. HTTP, files and formats are
//! another thread's, so a client that is slow, hostile or one of many holds up nobody's container. Figures are as old as
//! 250 ms at most.
//!
//! [`table::TABLE`] is what there is: endpoint, exporter and docs/metrics.md are made of it.

mod address;
mod encrypt;
mod export;
mod look;
mod read;
mod sampler;
mod serve;
pub mod table;
mod totals;

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;

pub use address::{Collector, Endpoint};
pub(crate) use totals::Totals;

use crate::Error;
use crate::engine::Engine;
use export::Way;
use look::Look;
use sampler::Sampler;

/// How long between two exports, unless somebody says otherwise.
pub const INTERVAL: Duration = Duration::from_secs(15);

/// So many looks can be asked for at a time; there are two who ask.
const ASKS_MAX: usize = 4;

/// Whom figures are for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Where Prometheus finds them.
    pub endpoint: Option<Endpoint>,
    /// Where they are sent to.
    pub collector: Option<Collector>,
    /// Certificates (PEM) of who vouches for the collector; the system's when absent.
    pub authorities: Option<PathBuf>,
    /// How often; [`INTERVAL`] when absent.
    pub interval: Option<Duration>,
}

/// What the daemon's thread is asked for, and who wants to be told.
#[derive(Debug)]
enum Ask {
    /// What it knows.
    Look(oneshot::Sender<Look>),
    /// A sign of life.
    Ping(oneshot::Sender<()>),
}

/// The endpoint and the exporter. They end when this is dropped, and their thread with them.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// Where the endpoint listens.
    pub(crate) at: Option<String>,
    asks: RefCell<Option<mpsc::Receiver<Ask>>>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Metrics {
    /// Listens, and starts the thread; `None` if nobody wants figures.
    ///
    /// Errors: somebody else listens there; who vouches for the collector is not known.
    pub(crate) fn start(settings: &Settings) -> Result<Option<Self>, Error> {
        let listener = settings.endpoint.as_ref().map(serve::listen).transpose()?;
        if listener.is_none() && settings.collector.is_none() {
            return Ok(None);
        }
        let at = listener.as_ref().map(serve::Listener::to_string);
        let way = settings.collector.clone().map(|to| Way::new(to, settings.authorities.as_deref()));
        let way = way.transpose().map_err(|why| Error::Host(format!("metrics: {why}")))?;
        let interval = settings.interval.unwrap_or(INTERVAL);
        let (asks, asked) = mpsc::channel(ASKS_MAX);
        let (end, ended) = oneshot::channel();
        let work = move || {
            if let Err(error) = run(listener, way, interval, asks, ended) {
                tracing::warn!("metrics: {}", skiff_runtime::cause(&error));
            }
        };
        let thread = std::thread::Builder::new().name("metrics".into()).spawn(work);
        let thread =
            thread.map_err(|error| Error::Host(format!("metrics: {}", skiff_runtime::cause(&error))))?;
        Ok(Some(Self { at, asks: RefCell::new(Some(asked)), end: Some(end), thread: Some(thread) }))
    }

    /// Answers whoever wants to look at `engine`, until it is dropped. On the daemon's thread.
    pub(crate) fn answer(&self, engine: &Rc<Engine>) {
        let Some(mut asks) = self.asks.take() else { return };
        let engine = engine.clone();
        tokio::task::spawn_local(async move {
            while let Some(ask) = asks.recv().await {
                // Whoever asked may have gone.
                match ask {
                    Ask::Look(tell) if tell.is_closed() => {}
                    Ask::Look(tell) => drop(tell.send(Look::at(&engine))),
                    Ask::Ping(tell) => drop(tell.send(())),
                }
            }
        });
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // It has said why, if it has failed.
            let _ended = thread.join();
        }
    }
}

fn run(
    listener: Option<serve::Listener>,
    way: Option<Way>,
    interval: Duration,
    asks: mpsc::Sender<Ask>,
    ended: oneshot::Receiver<()>,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        // One that reads, one that looks names up.
        .max_blocking_threads(2)
        .thread_keep_alive(Duration::from_secs(1))
        .build()?;
    let sampler = Rc::new(Sampler::new(asks));
    LocalSet::new().block_on(&runtime, async {
        if let Some(listener) = listener {
            tokio::task::spawn_local(serve::serve(listener.watch()?, sampler.clone()));
        }
        if let Some(way) = way {
            tokio::task::spawn_local(export::export(way, interval, sampler));
        }
        // An error says that whoever would end it has gone.
        let _ended = ended.await;
        std::io::Result::Ok(())
    })?;
    // What is being read is not waited for: a file that does not answer would keep the daemon.
    runtime.shutdown_background();
    Ok(())
}
