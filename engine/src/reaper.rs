//! Clears away what containers leave: cgroups, with whatever is still in them, and writable layers.
//!
//! On threads of their own, for removing waits for the kernel, and one more for what waits for the disk. What is asked for beyond
//! a queue's length waits.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use skiff_runtime::cgroup::{self, Cgroup, Layout, Paths};
use skiff_runtime::launch;
use tokio::sync::{mpsc, oneshot};

use crate::record::{self, Usage};

/// So many containers can wait to be cleared away.
const QUEUE_LENGTH: usize = 4096;

/// So many are cleared away at a time.
const THREADS: usize = 4;

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
    /// Whether anybody wants to know what the cgroups have counted.
    pub(crate) is_counted: bool,
}

#[derive(Debug)]
struct Job {
    remains: Remains,
    done: oneshot::Sender<Result<Option<Usage>, String>>,
}

impl Reaper {
    /// Starts the threads; they end when nobody can ask any more.
    pub(crate) fn start() -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel(QUEUE_LENGTH);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..THREADS {
            let queue = queue.clone();
            let work = move || {
                while let Some(job) = next(&queue) {
                    // Whoever asked may have gone.
                    drop(job.done.send(clear(job.remains)));
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

    /// Clears away; returns what the cgroups have counted if that was asked for. Errors: one line.
    pub(crate) async fn clear(&self, remains: Remains) -> Result<Option<Usage>, String> {
        let (done, result) = oneshot::channel();
        let sent = self.jobs.send(Job { remains, done }).await;
        sent.map_err(|_| "nobody clears away any more".to_owned())?;
        result.await.unwrap_or_else(|_| Err("the reaper has failed".into()))
    }
}

fn next(queue: &Mutex<mpsc::Receiver<Job>>) -> Option<Job> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv()
}

fn clear(remains: Remains) -> Result<Option<Usage>, String> {
    let text = |error: skiff_runtime::Error| error.to_string();
    if let Some(directory) = &remains.directory {
        // First of all: what is left without a record is swept, whatever happens from here on.
        record::forget(directory).map_err(|error| {
            format!("remove the record in {}: {}", directory.display(), skiff_runtime::cause(&error))
        })?;
    }
    let usage = match &remains.cgroups {
        Some(paths) => {
            let cgroup = Cgroup::open(paths).map_err(text)?;
            let usage = remains.is_counted.then(|| cgroup.usage().into());
            cgroup.remove().map_err(text)?;
            usage
        }
        None => {
            let name = format!("skiff-{}", remains.id);
            cgroup::remove_stale(&Layout::of_host(), &name).map_err(text)?;
            None
        }
    };
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
    Ok(usage)
}
