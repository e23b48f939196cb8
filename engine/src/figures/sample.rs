//! The figures of many containers at once.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use skiff_runtime::cgroup::Paths;

use super::{Figures, Groups, Round, Sampled, read};
use crate::engine::Engine;
use crate::{Error, Record};

/// A container that runs, and where its figures are read.
#[derive(Debug)]
struct Subject {
    record: Arc<Record>,
    pid: i32,
    cgroups: Paths,
}

/// Reads the figures of those of `containers` that run, of all that do if none is named; and one line for each that there is not.
///
/// On another thread: nobody else waits meanwhile.
pub(crate) async fn sample(
    engine: &Engine,
    containers: &[String],
) -> Result<(Vec<Sampled>, Vec<String>), Error> {
    let (subjects, errors) = subjects(engine, containers);
    let tracker = engine.tracker.clone();
    let work = move || {
        let cgroups: Vec<_> = subjects.iter().map(|subject| cgroup_id(&subject.cgroups)).collect();
        let pasts: Vec<_> = cgroups.iter().map(|cgroup| tracker.past(*cgroup)).collect();
        let living = tracker.living();
        let round = Round::default();
        let read = |((subject, cgroup), past): ((&Subject, _), &Option<_>)| {
            let mut sampled = subject.read(&round, cgroup, tracker.counts_block(past.as_ref()));
            tracker.complete(past.as_ref(), &living, &mut sampled.figures);
            sampled
        };
        subjects.iter().zip(cgroups).zip(&pasts).map(read).collect()
    };
    let sampled = tokio::task::spawn_blocking(work).await.map_err(|error| Error::Host(error.to_string()))?;
    Ok((sampled, errors))
}

fn subjects(engine: &Engine, containers: &[String]) -> (Vec<Subject>, Vec<String>) {
    let registry = engine.containers.borrow();
    let (mut entries, mut errors) = (Vec::new(), Vec::new());
    if containers.is_empty() {
        entries = registry.all();
    }
    for word in containers {
        match registry.find(word) {
            Ok(entry) => entries.push(entry),
            Err(error) => errors.push(error.to_string()),
        }
    }
    let subject = |entry: &crate::containers::Entry| {
        let life = entry.life.borrow();
        let life = life.as_deref()?;
        Some(Subject { record: entry.record(), pid: life.pid, cgroups: life.cgroups.clone() })
    };
    let mut subjects: Vec<Subject> = entries.iter().filter_map(|entry| subject(entry)).collect();
    subjects.sort_by_key(|subject| std::cmp::Reverse(subject.record.created_ns));
    (subjects, errors)
}

impl Subject {
    /// But for what programs in the kernel have counted.
    fn read(&self, round: &Round, cgroup: Option<u64>, counts_block: bool) -> Sampled {
        let record = &self.record;
        let figures = read(&Groups::open_in(round, &self.cgroups), Some(self.pid), counts_block);
        Sampled {
            id: record.id.clone(),
            name: record.name.clone(),
            image: record.spec.image.clone(),
            image_id: record.image_id.clone(),
            state: record.state,
            pid: self.pid,
            cgroup,
            started_ns: record.started_ns,
            figures: Figures { restarts: record.restart_count, ..figures },
        }
    }
}

/// The id of the cgroup of version 2 at these paths, while it is there.
pub(crate) fn cgroup_id(paths: &Paths) -> Option<u64> {
    paths.unified.as_ref()?.metadata().ok().map(|found| found.ino())
}
