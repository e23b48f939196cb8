//! What a daemon that starts makes of what the one before has left.
//!
//! Three accounts are compared: the records, what the spawner keeps (it outlives daemons), and the processes that there
//! are. A container that runs is known by the spawner's word; if that is another, by its process's start time in this
//! boot. What has no record is nobody's, and cleared away.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use skiff_runtime::spawner::{End, Order};
use skiff_sys::process;
use tokio::sync::oneshot;

use crate::container::{Command, From, Owner};
use crate::containers::Life;
use crate::ending::{Ending, UNKNOWN, now_ns};
use crate::engine::{Counted, Engine};
use crate::link::Kept;
use crate::reaper::Remains;
use crate::record::{Found, Process};
use crate::state::State;
use crate::streams::Ends;
use crate::{Error, Record};

/// How long a leftover's process may take to end.
const ENDED: Duration = Duration::from_secs(1);

/// Takes over every container of `found`, with what the spawner has `kept`, and begins to clear away what is left over.
pub(crate) fn adopt(engine: &Rc<Engine>, found: Found, kept: Vec<Kept>) {
    for damaged in &found.damaged {
        tracing::warn!("the record of container {} is set aside: {}", damaged.id, damaged.reason);
    }
    let mut kept: HashMap<String, Kept> = kept.into_iter().map(|one| (one.id.clone(), one)).collect();
    for record in found.records {
        let kept = kept.remove(&record.id);
        if let Err(error) = take_over(engine, record, kept) {
            tracing::warn!("{error}");
        }
    }
    for id in found.bare {
        let left = kept.remove(&id);
        if !is_noted(engine, &id) || left.is_some() {
            clear_leftover(engine, id, left);
        }
    }
    for (id, left) in kept {
        clear_leftover(engine, id, Some(left));
    }
}

/// Clears away directories that are nobody's: a spawner may have been about to make them when its daemon died.
pub(crate) fn sweep(engine: &Rc<Engine>) {
    let bare = engine.records.bare().unwrap_or_else(|error| {
        tracing::warn!("look for leftovers: {}", skiff_runtime::cause(&error));
        Vec::new()
    });
    for id in bare {
        if !engine.knows(&id) && !is_noted(engine, &id) {
            clear_leftover(engine, id, None);
        }
    }
}

/// Whether a note says that a skiff runs container `id` that is no daemon.
fn is_noted(engine: &Engine, id: &str) -> bool {
    engine.run_root.join("containers").join(id).exists()
}

fn take_over(engine: &Rc<Engine>, mut record: Record, kept: Option<Kept>) -> Result<(), Error> {
    {
        let names = &mut engine.containers.borrow_mut().names;
        if names.give(&record.id, &record.name).is_err() {
            // Two of a name cannot be, unless somebody has written a record.
            let name = names.draw().map_err(|error| Error::Host(format!("draw a name: {error}")))?;
            names.give(&record.id, &name)?;
            record.name = name;
        }
    }
    let (state, is_removed) = (record.state, record.spec.auto_remove);
    if !state.is_live() {
        let entry = Owner::begin(engine, record, From::Record(kept));
        match state {
            State::Removing | State::Dead => engine.ask_later(&entry, Command::Remove { force: true }),
            State::Exited if is_removed => engine.ask_later(&entry, Command::Remove { force: true }),
            _ => {}
        }
        return Ok(());
    }
    let process = record.process.clone();
    let (life, ending) = match (kept, process) {
        (Some(kept), process) => of_spawner(kept, process),
        (None, Some(process)) => of_another(engine, process),
        (None, None) => ended_unseen(None),
    };
    Owner::begin(engine, record, From::Life(life, ending));
    Ok(())
}

/// A container whose process is the spawner's child, or was.
fn of_spawner(kept: Kept, process: Option<Process>) -> (Life, Ending) {
    let (pid, pidfd) = (kept.pid, kept.open_process());
    let ends = Ends::restore(&kept.note, kept.descriptors);
    let cgroups = process.map(|process| process.cgroups).unwrap_or_default();
    life(pid, pidfd, Some(kept.end), cgroups, ends)
}

/// A container whose spawner has gone too.
fn of_another(engine: &Engine, process: Process) -> (Life, Ending) {
    let pidfd = process::open_pidfd(process.pid).ok();
    let is_same = process.boot_id == engine.boot_id
        && process::stat(process.pid).is_ok_and(|stat| stat.start_time == process.start_time);
    match pidfd {
        Some(pidfd) if is_same => life(process.pid, Some(pidfd), None, process.cgroups, Ends::default()),
        _ => ended_unseen(Some(process)),
    }
}

/// A container that has ended while nobody looked.
fn ended_unseen(process: Option<Process>) -> (Life, Ending) {
    let (tell, end) = oneshot::channel();
    // The receiver is there.
    let _told = tell.send(End { exit: UNKNOWN, at_ns: now_ns() });
    let (pid, cgroups) = process.map(|process| (process.pid, process.cgroups)).unwrap_or_default();
    life(pid, None, Some(end), cgroups, Ends::default())
}

fn life(
    pid: i32,
    pidfd: Option<OwnedFd>,
    end: Option<oneshot::Receiver<End>>,
    cgroups: skiff_runtime::cgroup::Paths,
    mut ends: Ends,
) -> (Life, Ending) {
    let pidfd = pidfd.map(Rc::new);
    let output = ends.output.take().into();
    let life = Life { pid, pidfd: pidfd.clone(), ends, output, writer: Default::default(), cgroups };
    (life, Ending::new(pid, pidfd, end))
}

impl Kept {
    /// Its process, unless it has ended.
    fn open_process(&self) -> Option<OwnedFd> {
        // One that has ended is reaped, and its id free for others.
        if self.is_over { None } else { process::open_pidfd(self.pid).ok() }
    }

    /// Kills it, and waits for its end.
    pub(crate) async fn end(self) {
        let pidfd = self.open_process().map(Rc::new);
        if let Some(pidfd) = &pidfd {
            // It may just have ended.
            drop(process::send_signal(pidfd.as_fd(), libc::SIGKILL));
        }
        Ending::new(self.pid, pidfd, Some(self.end)).wait().await;
    }
}

/// Clears away a container that has ended, and that a daemon before had asked for just before it died.
pub(crate) fn clear_stray(engine: &Rc<Engine>, id: String) {
    if !engine.containers.borrow().has(&id) {
        clear_leftover(engine, id, None);
    }
}

/// Ends and clears away what no record speaks of.
fn clear_leftover(engine: &Rc<Engine>, id: String, kept: Option<Kept>) {
    tokio::task::spawn_local(clear_counted(engine.clone(), id, kept, engine.activity.work()));
}

async fn clear_counted(engine: Rc<Engine>, id: String, kept: Option<Kept>, _counted: Counted) {
    tracing::info!("clearing away container {id}, which has no record");
    if let Some(kept) = kept {
        // One that was still being made may be nobody's to tell of; its cgroup is emptied in any case.
        if tokio::time::timeout(ENDED, kept.end()).await.is_err() {
            tracing::debug!("nothing is heard of the end of container {id}");
        }
    }
    let directory = Some(engine.records.directory(&id));
    let remains = Remains { id: id.clone(), directory, ..Remains::default() };
    if let Err(error) = engine.reaper.clear(remains).await {
        tracing::warn!("clear container {id} away: {error}");
    }
    engine.link.tell(&Order::Forget { id }, &[]).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_id_whose_process_has_ended_is_not_signalled() {
        let (tell, end) = oneshot::channel();
        tell.send(End { exit: UNKNOWN, at_ns: 1 }).expect("the receiver is there");
        // Its id is this process's now.
        let pid = std::process::id().cast_signed();
        let (id, note, descriptors) = (String::new(), String::new(), Vec::new());
        Kept { id, pid, note, descriptors, is_over: true, end }.end().await;
    }
}
