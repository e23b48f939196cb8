//! Paths of the host that a container is to have: asked before anybody opens them who must not wait.
//!
//! A path on a file system whose server is gone (NFS, FUSE) makes whoever looks at it wait without end, and the spawner, which opens
//! what containers are to have, is the only one. So a thread looks first. A path that is known to let somebody wait in vain is refused
//! without another thread: a container that is started again and again would use them all up.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use skiff_runtime::Options;
use skiff_runtime::options::Mount;
use tokio::sync::oneshot;

use crate::Error;

/// How long the host may take to find what is to be mounted.
const ANSWER: Duration = Duration::from_secs(5);

/// So many threads may wait at a time: they stay until the path answers, or is unmounted.
const WAITING_MAX: usize = 64;

/// So many of them for one path. Others wait for these, [`ANSWER`] at most.
const ASKING_MAX: usize = 8;

/// How long such a thread waits until it looks again whether it may ask.
const PAUSE: Duration = Duration::from_millis(5);

/// How many there are.
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// What they ask.
static ASKED: Mutex<Asked> = Mutex::new(Asked { all: Vec::new() });

/// Paths that have been asked and have not answered yet, and since when.
#[derive(Debug)]
struct Asked {
    all: Vec<(PathBuf, Instant)>,
}

/// Whether a path may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Now,
    /// Enough others do.
    Later,
    /// It does not answer.
    Never,
}

impl Asked {
    fn turn(&self, path: &Path, now: Instant) -> Turn {
        let since = || self.all.iter().filter(|(asked, _)| asked == path).map(|(_, since)| *since);
        if since().any(|since| now.saturating_duration_since(since) >= ANSWER) {
            return Turn::Never;
        }
        if since().count() >= ASKING_MAX { Turn::Later } else { Turn::Now }
    }

    fn begin(&mut self, path: &Path, now: Instant) -> Turn {
        let turn = self.turn(path, now);
        if turn == Turn::Now {
            self.all.push((path.to_owned(), now));
        }
        turn
    }

    fn answered(&mut self, path: &Path, since: Instant) {
        let found = self.all.iter().position(|(asked, begun)| asked == path && *begun == since);
        found.map(|index| self.all.swap_remove(index));
    }
}

fn asked() -> MutexGuard<'static, Asked> {
    ASKED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks at `path`. False: it is known not to answer.
fn look(path: &Path) -> bool {
    loop {
        let now = Instant::now();
        let turn = asked().begin(path, now);
        match turn {
            Turn::Now => {
                // What is not there has answered, too.
                drop(std::fs::metadata(path));
                asked().answered(path, now);
                return true;
            }
            Turn::Later => thread::sleep(PAUSE),
            Turn::Never => return false,
        }
    }
}

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
    let now = Instant::now();
    if let Some(path) = paths.iter().find(|path| asked().turn(path, now) == Turn::Never) {
        return Err(refused(path));
    }
    if WAITING.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
        WAITING.fetch_sub(1, Ordering::Relaxed);
        return Err(refused(&paths[0]));
    }
    let (found, mut all_found) = oneshot::channel();
    let (sources, next) = (paths.clone(), Arc::new(AtomicUsize::new(0)));
    let at = next.clone();
    let look = move || {
        let answer = sources.iter().all(|path| {
            let answers = look(path);
            at.fetch_add(usize::from(answers), Ordering::Relaxed);
            answers
        });
        WAITING.fetch_sub(1, Ordering::Relaxed);
        // Whoever asked may have given up.
        let _told = found.send(answer);
    };
    if let Err(error) = thread::Builder::new().name("source".into()).stack_size(64 << 10).spawn(look) {
        WAITING.fetch_sub(1, Ordering::Relaxed);
        return Err(Error::Host(format!("start a thread: {error}")));
    }
    match tokio::time::timeout(ANSWER, &mut all_found).await {
        Ok(Ok(true)) => Ok(()),
        _ => Err(refused(paths.get(next.load(Ordering::Relaxed)).unwrap_or(&paths[0]))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_lets_somebody_wait_in_vain_is_asked_no_more() {
        let mut asked = Asked { all: Vec::new() };
        let (dead, live) = (Path::new("/dead"), Path::new("/live"));
        let begin = Instant::now();
        for _ in 0..ASKING_MAX {
            assert_eq!(asked.begin(dead, begin), Turn::Now);
        }
        assert_eq!((asked.begin(dead, begin), asked.begin(live, begin)), (Turn::Later, Turn::Now));
        asked.answered(live, begin);
        let late = begin + ANSWER;
        assert_eq!((asked.begin(dead, late), asked.begin(live, late)), (Turn::Never, Turn::Now));
        assert_eq!(asked.all.len(), ASKING_MAX + 1);
        // It has come back.
        for _ in 0..ASKING_MAX {
            asked.answered(dead, begin);
        }
        assert_eq!(asked.begin(dead, late), Turn::Now);
    }

    #[test]
    fn what_is_there_answers_and_what_is_not_does_too() {
        for path in ["/", "/there-is-no-such-path"] {
            assert!(look(Path::new(path)));
            assert!(!asked().all.iter().any(|(asked, _)| asked == Path::new(path)));
        }
    }
}
