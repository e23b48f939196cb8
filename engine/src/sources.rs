//! Paths of the host that a container is to have: asked before anybody opens them who must not wait.
//!
//! A path on a file system whose server is gone (NFS, FUSE) makes whoever looks at it wait without end, and the spawner, which opens
//! what containers are to have, is the only one. So a thread looks first.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use skiff_runtime::Options;
use skiff_runtime::options::Mount;
use tokio::sync::oneshot;

use crate::Error;

/// How long the host may take to find what is to be mounted.
const ANSWER: Duration = Duration::from_secs(5);

/// So many threads may wait at a time: they stay until the path answers, or is unmounted.
const WAITING_MAX: usize = 64;

/// How many do.
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// Finds out whether all that `options` bind from the host answers.
///
/// Whether it is there is for whoever opens it to say. Errors: it does not answer in time.
pub(crate) async fn answer(options: &Options) -> Result<(), Error> {
    let source = |mount: &Mount| match mount {
        Mount::Bind { source, .. } => Some(source.clone()),
        _ => None,
    };
    let paths: Vec<PathBuf> = options.mounts.iter().filter_map(source).collect();
    if paths.is_empty() {
        return Ok(());
    }
    let refused = |path: &PathBuf| Error::Host(format!("mount {}: the path does not answer", path.display()));
    if WAITING.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
        WAITING.fetch_sub(1, Ordering::Relaxed);
        return Err(refused(&paths[0]));
    }
    let (found, mut all_found) = oneshot::channel();
    let (asked, next) = (paths.clone(), Arc::new(AtomicUsize::new(0)));
    let at = next.clone();
    let look = move || {
        for path in &asked {
            // What is not there has answered, too.
            drop(std::fs::metadata(path));
            at.fetch_add(1, Ordering::Relaxed);
        }
        WAITING.fetch_sub(1, Ordering::Relaxed);
        // Whoever asked may have given up.
        let _told = found.send(());
    };
    if let Err(error) = thread::Builder::new().name("source".into()).stack_size(64 << 10).spawn(look) {
        WAITING.fetch_sub(1, Ordering::Relaxed);
        return Err(Error::Host(format!("start a thread: {error}")));
    }
    match tokio::time::timeout(ANSWER, &mut all_found).await {
        Ok(_) => Ok(()),
        Err(_) => Err(refused(paths.get(next.load(Ordering::Relaxed)).unwrap_or(&paths[0]))),
    }
}
