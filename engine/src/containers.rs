//! The containers that there are.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use skiff_runtime::cgroup;
use skiff_store::Lease;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::container::{Done, Order};
use crate::log::Writer;
use crate::names::Names;
use crate::streams::Ends;
use crate::{Error, Record};

/// A container, as all but its owner see it.
#[derive(Debug)]
pub(crate) struct Entry {
    /// What is known of it. Never out of date by more than what is under way, and never waited for.
    pub(crate) record: watch::Receiver<Arc<Record>>,
    /// The way to its owner.
    pub(crate) orders: mpsc::Sender<Box<Order>>,
    /// What is held of it while it runs.
    pub(crate) life: RefCell<Option<Rc<Life>>>,
    /// Told when a container that has ended is cleared away, and all that it wrote is in its log.
    pub(crate) settled: Notify,
    /// Holds its image before its record does (`uses.rs`). Absent if a daemon before this one has made it.
    pub(crate) _lease: Option<Rc<Lease>>,
}

/// What is held of a container that runs.
#[derive(Debug)]
pub(crate) struct Life {
    /// Its first process.
    pub(crate) pid: i32,
    /// The same; absent if it has ended and was reaped.
    pub(crate) pidfd: Option<Rc<OwnedFd>>,
    /// The engine's ends of its streams, but for what its log is written from.
    pub(crate) ends: Ends,
    /// That, until somebody writes its log.
    pub(crate) output: RefCell<Option<[OwnedFd; 2]>>,
    /// Who writes its log; nobody while its streams are a client's.
    pub(crate) writer: RefCell<Option<Rc<Writer>>>,
    /// Where its cgroups are.
    pub(crate) cgroups: cgroup::Paths,
}

/// All containers by id, and their names.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    pub(crate) names: Names,
    entries: HashMap<String, Rc<Entry>>,
    /// Those that are forgotten, and perhaps not yet cleared away.
    going: Vec<Weak<Entry>>,
}

impl Registry {
    /// Adds a container that has its name.
    pub(crate) fn add(&mut self, id: &str, entry: Rc<Entry>) {
        self.entries.insert(id.to_owned(), entry);
    }

    /// Forgets a container, and frees its name. It may be forgotten already.
    pub(crate) fn forget(&mut self, id: &str) {
        self.names.forget(id);
        self.going.retain(|entry| entry.strong_count() > 0);
        self.going.extend(self.entries.remove(id).as_ref().map(Rc::downgrade));
    }

    /// The container that a client means by `word`.
    pub(crate) fn find(&self, word: &str) -> Result<Rc<Entry>, Error> {
        let id = self.names.find(word)?;
        let missing = || Error::NotFound { kind: "container", name: word.to_owned() };
        self.entries.get(id).cloned().ok_or_else(missing)
    }

    /// Whether there is a container with this id.
    pub(crate) fn has(&self, id: &str) -> bool {
        self.entries.contains_key(id)
    }

    /// Whether a container of this image, or of any, is forgotten and not yet cleared away.
    pub(crate) fn are_going(&self, image_id: Option<&str>) -> bool {
        self.going.iter().filter_map(Weak::upgrade).any(|entry| {
            let record = entry.record();
            !self.has(&record.id) && image_id.is_none_or(|id| record.image_id.as_deref() == Some(id))
        })
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Rc<Entry>> {
        self.entries.values().cloned().collect()
    }
}

/// Whether the process behind `pidfd` has ended. pidfd_open(2)
fn is_over(pidfd: BorrowedFd<'_>) -> bool {
    let mut asked = [PollFd::new(pidfd, PollFlags::POLLIN)];
    // An error is for its owner to see.
    poll(&mut asked, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

impl Entry {
    /// What is known of it now.
    pub(crate) fn record(&self) -> Arc<Record> {
        self.record.borrow().clone()
    }

    /// Its first process, while it runs.
    pub(crate) fn pid(&self) -> Option<i32> {
        self.life.borrow().as_ref().map(|life| life.pid)
    }

    /// Whether its first process has ended, and its owner has not yet done what is to be done then.
    pub(crate) fn has_ended(&self) -> bool {
        let life = self.life.borrow().clone();
        life.is_some_and(|life| life.pidfd.as_ref().is_none_or(|pidfd| is_over(pidfd.as_fd())))
    }

    /// If it has ended, waits until its log is complete: the end is told as soon as it is known.
    pub(crate) async fn await_last_words(&self) {
        if !self.record().state.is_live() && self.life.borrow().is_some() {
            self.settled.notified().await;
        }
    }

    /// Waits until it runs no more, and its log is complete.
    pub(crate) async fn settle(&self) {
        while self.life.borrow().is_some() {
            self.settled.notified().await;
        }
    }

    /// Asks its owner for something. Waits while its queue is full.
    pub(crate) async fn ask(&self, wish: crate::container::Command) -> Result<Done, Error> {
        let (done, answer) = oneshot::channel();
        let gone =
            || Error::NotFound { kind: "container", name: self.record().id.chars().take(12).collect() };
        self.orders.send(Box::new(Order { command: wish, done })).await.map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }
}
