//! Clears away what containers leave: cgroups, with whatever is still in them, and writable layers.
//!
//! On threads of their own, for removing waits for the kernel, and one more for what waits for the disk. What is asked for beyond
//! a queue's length waits.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use skiff_runtime::cgroup::{self, Cgroup, Layout, Paths};
use skiff_runtime::launch;
use skiff_runtime::observe;
use tokio::sync::{mpsc, oneshot};

use crate::figures::{self, Figures, Groups, Tracker, cgroup_id};
use crate::history::{Ended, History};
use crate::record;

/// So many containers can wait to be cleared away.
const QUEUE_LENGTH: usize = 4096;

/// So many are cleared away at a time: more than there are processors, for where a disk discards what is freed, each of the seven
/// directories that go with a container waits for it.
const THREADS: usize = 16;

/// How long what outlives a container's first process may take to die before figures are read.
const OTHERS: Duration = Duration::from_secs(2);

/// The way to the threads.
#[derive(Debug, Clone)]
pub(crate) struct Reaper {
    jobs: mpsc::Sender<Job>,
    unmounts: mpsc::Sender<Unmount>,
}

/// A mount namespace that is to be given up, and who is told when it is.
type Unmount = (OwnedFd, oneshot::Sender<()>);

/// What is to be cleared away of one container.
#[derive(Debug, Default)]
pub(crate) struct Remains {
    /// Its id.
    pub(crate) id: String,
    /// Its cgroups; looked for everywhere if that is not known.
    pub(crate) cgroups: Option<Paths>,
    /// Its directory, if that is to go too.
    pub(crate) directory: Option<PathBuf>,
    /// Its mount namespace, for which the end of its first process has not waited.
    pub(crate) mounts: Option<OwnedFd>,
    /// Its end, if this is it: the figures are added to it, and it is entered in the history.
    pub(crate) ended: Option<Box<Ended>>,
}

/// Where it is written down what containers had used.
#[derive(Debug)]
pub(crate) struct Accounts {
    pub(crate) tracker: Tracker,
    pub(crate) history: History,
}

#[derive(Debug)]
struct Job {
    remains: Remains,
    done: oneshot::Sender<Result<Option<Figures>, String>>,
}

impl Reaper {
    /// Starts the threads; they end when nobody can ask any more.
    pub(crate) fn start(accounts: Accounts) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel(QUEUE_LENGTH);
        let queue = Arc::new(Mutex::new(queue));
        let accounts = Arc::new(accounts);
        for _ in 0..THREADS {
            let (queue, accounts) = (queue.clone(), accounts.clone());
            let work = move || {
                while let Some(job) = next(&queue) {
                    // Whoever asked may have gone.
                    drop(job.done.send(accounts.clear(job.remains)));
                }
            };
            thread::Builder::new().name("reaper".into()).stack_size(256 << 10).spawn(work)?;
        }
        let (unmounts, mut given_up) = mpsc::channel::<Unmount>(QUEUE_LENGTH);
        let work = move || {
            while let Some((mounts, done)) = given_up.blocking_recv() {
                drop(mounts);
                // Whoever asked may have gone.
                let _told = done.send(());
            }
        };
        thread::Builder::new().name("unmount".into()).stack_size(256 << 10).spawn(work)?;
        Ok(Self { jobs, unmounts })
    }

    /// Gives up a mount namespace of which nobody else has a descriptor; what comes back tells when that is done. The file system of a
    /// layer that is kept is synced.
    pub(crate) async fn unmount(&self, mounts: OwnedFd) -> oneshot::Receiver<()> {
        let (done, told) = oneshot::channel();
        // Without a thread it is given up here.
        drop(self.unmounts.send((mounts, done)).await);
        told
    }

    /// Clears away; returns what the container had used if this is its end. Errors: one line.
    pub(crate) async fn clear(&self, remains: Remains) -> Result<Option<Figures>, String> {
        let (done, result) = oneshot::channel();
        let sent = self.jobs.send(Job { remains, done }).await;
        sent.map_err(|_| "nobody clears away any more".to_owned())?;
        result.await.unwrap_or_else(|_| Err("the reaper has failed".into()))
    }
}

fn next(queue: &Mutex<mpsc::Receiver<Job>>) -> Option<Job> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv()
}

impl Accounts {
    fn clear(&self, remains: Remains) -> Result<Option<Figures>, String> {
        let text = |error: skiff_runtime::Error| error.to_string();
        let cgroup = match &remains.cgroups {
            Some(paths) => Some(Cgroup::open(paths).map_err(text)?),
            None => None,
        };
        // First of all: while its record is there, the next daemon would do it.
        let figures = match (remains.ended, &remains.cgroups, &cgroup) {
            (Some(ended), Some(paths), Some(cgroup)) => Some(self.conclude(*ended, paths, cgroup)),
            (_, Some(paths), _) => {
                self.tracker.forget(cgroup_id(paths));
                None
            }
            _ => None,
        };
        if let Some(directory) = &remains.directory {
            // From here on it is a leftover, and swept, whatever happens.
            record::forget(directory).map_err(|error| {
                format!("remove the record in {}: {}", directory.display(), skiff_runtime::cause(&error))
            })?;
        }
        let counted = remains.cgroups.as_ref().and_then(cgroup_id);
        match cgroup {
            Some(cgroup) => cgroup.remove().map_err(text)?,
            None => {
                let name = format!("skiff-{}", remains.id);
                cgroup::remove_stale(&Layout::of_host(), &name).map_err(text)?;
            }
        }
        if let Some(id) = counted {
            observe::release(id);
        }
        // Whatever is mounted of the directory is so no longer.
        drop(remains.mounts);
        if let Some(directory) = &remains.directory {
            match launch::remove_tree(directory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    let cause = skiff_runtime::cause(&error);
                    return Err(format!("remove {}: {cause}", directory.display()));
                }
                _ => {}
            }
        }
        Ok(figures)
    }

    /// Reads the figures of a container whose last process has died, and writes down its end.
    fn conclude(&self, mut ended: Ended, paths: &Paths, cgroup: &Cgroup) -> Figures {
        end_others(cgroup);
        let mut figures = figures::read(&Groups::open(paths), None, false);
        self.tracker.conclude(cgroup_id(paths), &mut figures);
        figures.restarts = ended.figures.restarts;
        ended.is_oom_killed = figures.memory.oom_kills.is_some_and(|kills| kills > 0);
        ended.figures = figures;
        if let Err(error) = self.history.append(&ended) {
            tracing::warn!("note the end of container {}: {}", ended.id, skiff_runtime::cause(&error));
        }
        ended.figures
    }
}

/// Ends what has outlived the first process, in the host's PID namespace for instance. What is stuck is left to whoever removes the cgroup.
fn end_others(cgroup: &Cgroup) {
    let begun = Instant::now();
    while cgroup.processes().is_ok_and(|pids| !pids.is_empty()) && begun.elapsed() < OTHERS {
        // It may just have ended.
        drop(cgroup.kill(libc::SIGKILL));
        thread::sleep(Duration::from_millis(1));
    }
}
