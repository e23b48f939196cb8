//! What all containers of a daemon have in common, and how one is made up to its program.
//!
//! Everything here runs on one thread: a borrow of a cell never lasts beyond an `await`.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use skiff_runtime::Options;
use skiff_runtime::launch::park::Parked;
use skiff_runtime::observe;
use skiff_runtime::spawner::{End, Order};
use skiff_sys::clock::monotonic_ns;
use skiff_sys::process;
use tokio::sync::{Notify, oneshot};

use crate::Error;
use crate::container::Command;
use crate::containers::{Entry, Registry};
use crate::ending::Ending;
use crate::figures::Tracker;
use crate::images::Images;
use crate::link::Link;
use crate::log;
use crate::metrics::{Metrics, Totals};
use crate::mounts::Mounts;
use crate::names;
use crate::plans::{Plan, Plans};
use crate::pool::Pools;
use crate::prefetch::Prefetcher;
use crate::reaper::{Reaper, Remains};
use crate::record::Records;

/// How often a container is made again because its spawner has gone meanwhile.
const SPAWNERS_MAX: u32 = 3;

/// So many descriptors are left for what has to be done with the containers that there are.
const DESCRIPTORS_LEFT: u64 = 256;

/// How long a spawner may take to be replaced.
const REPLACED: Duration = Duration::from_secs(5);

/// The daemon's state.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) records: Records,
    pub(crate) containers: RefCell<Registry>,
    pub(crate) images: Images,
    pub(crate) link: Rc<Link>,
    pub(crate) reaper: Reaper,
    pub(crate) mounts: Mounts,
    /// How many descriptors the daemon may have.
    pub(crate) descriptors_max: u64,
    pub(crate) logs: log::Thread,
    pub(crate) prefetcher: Prefetcher,
    /// Counts what containers' tasks use.
    pub(crate) tracker: Tracker,
    pub(crate) pools: RefCell<Pools<Ready>>,
    /// Those who wait for the next container that is made ahead, by its plan's key, in the order in which they came.
    pub(crate) waiting: RefCell<HashMap<u64, VecDeque<oneshot::Sender<()>>>>,
    pub(crate) plans: RefCell<Plans>,
    /// The image that was asked for last, and the key of the plan that this came to.
    pub(crate) latest: RefCell<(String, u64)>,
    /// Processes beside containers' first that clients attend, by container and process id.
    pub(crate) attended: RefCell<HashMap<(String, i32), Rc<OwnedFd>>>,
    /// Ids of containers that the spawner is making.
    pub(crate) making: RefCell<HashSet<String>>,
    /// `/proc/sys/kernel/random/boot_id`.
    pub(crate) boot_id: String,
    /// The daemon was started by a client.
    pub(crate) on_demand: bool,
    pub(crate) activity: Activity,
    pub(crate) totals: Totals,
    /// If somebody wants figures.
    pub(crate) metrics: Option<Metrics>,
    /// Where running containers that are not the daemon's are noted, and its sockets are.
    pub(crate) run_root: PathBuf,
}

/// What keeps the daemon from leaving.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    /// Connections.
    pub(crate) clients: Rc<Cell<usize>>,
    /// Connections whose client has not been told anything yet.
    pub(crate) asking: Rc<Cell<usize>>,
    /// Containers that run, or are about to.
    pub(crate) live: Cell<usize>,
    /// Containers that are being made ahead or cleared away.
    pub(crate) clearing: Rc<Cell<usize>>,
    /// Nothing is made ahead any more.
    pub(crate) is_leaving: Cell<bool>,
    /// There was a client since this was last taken.
    pub(crate) was_asked: Cell<bool>,
    /// Told when one of them has become none.
    pub(crate) changed: Rc<Notify>,
    /// Told when the daemon is to leave.
    pub(crate) leave: Notify,
}

/// A container that waits for its program.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) parked: Parked,
    pub(crate) end: oneshot::Receiver<End>,
    /// When its process began, as procfs tells; 0 if that is not known.
    pub(crate) start_time: u64,
    /// Of [`monotonic_ns`].
    asked_ns: u64,
    /// The programs that were pinned when it was asked for: it has a slot of theirs.
    pub(crate) pins: Option<u64>,
}

/// Counts one of [`Activity`]'s for as long as it lives.
#[derive(Debug)]
pub(crate) struct Counted {
    count: Rc<Cell<usize>>,
    changed: Rc<Notify>,
}

impl Activity {
    /// Counts one more client.
    pub(crate) fn client(&self) -> Counted {
        self.was_asked.set(true);
        self.count(&self.clients)
    }

    /// Counts one more client that has not been told anything yet.
    pub(crate) fn asker(&self) -> Counted {
        self.count(&self.asking)
    }

    /// Counts one more container that is being made ahead or cleared away.
    pub(crate) fn work(&self) -> Counted {
        self.count(&self.clearing)
    }

    fn count(&self, count: &Rc<Cell<usize>>) -> Counted {
        count.set(count.get() + 1);
        Counted { count: count.clone(), changed: self.changed.clone() }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.count.set(self.count.get() - 1);
        if self.count.get() == 0 {
            self.changed.notify_waiters();
        }
    }
}

impl Activity {
    /// Whether the daemon is of use.
    pub(crate) fn is_busy(&self) -> bool {
        self.clients.get() + self.live.get() + self.clearing.get() > 0
    }
}

impl Engine {
    /// Asks the owner of a container for something, and does not wait for it.
    pub(crate) fn ask_later(&self, entry: &Rc<Entry>, command: Command) {
        let entry = entry.clone();
        tokio::task::spawn_local(async move {
            if let Err(error) = entry.ask(command).await {
                tracing::warn!("{error}");
            }
        });
    }

    /// Whether anything more may be begun, as the number of the descriptor tells that was opened last: the lowest one that was free.
    pub(crate) fn room(&self, latest: RawFd) -> Result<(), Error> {
        let max = self.descriptors_max;
        let left = max.saturating_sub(u64::from(latest.unsigned_abs()));
        if left > DESCRIPTORS_LEFT.min(max / 4) {
            return Ok(());
        }
        Err(Error::Host(format!("the daemon has nearly as many files open as it may: {max} (RLIMIT_NOFILE)")))
    }

    /// The plan of a container with these options.
    ///
    /// If the host is not any more what it was when the plan was made, it is another one, and what was made by the former
    /// is given up.
    pub(crate) fn plan(self: &Rc<Self>, options: &Options) -> Rc<Plan> {
        let find = || {
            let pools = self.pools.borrow();
            self.plans.borrow_mut().of(options, &|key| pools.has(key))
        };
        let plan = find();
        if plan.holds() {
            return plan;
        }
        self.plans.borrow_mut().forget(plan.key);
        self.waiting.borrow_mut().remove(&plan.key);
        let closed = self.pools.borrow_mut().close(plan.key);
        closed.into_iter().for_each(|ready| self.discard(ready));
        find()
    }

    /// Gives up what was made ahead of containers whose root is made of `layers`.
    pub(crate) fn give_up(self: &Rc<Self>, layers: &[PathBuf]) {
        let keys = self.plans.borrow().with_layers(layers);
        for key in keys {
            self.plans.borrow_mut().forget(key);
            self.waiting.borrow_mut().remove(&key);
            let closed = self.pools.borrow_mut().close(key);
            closed.into_iter().for_each(|ready| self.discard(ready));
        }
    }

    /// Has the container woken that is likely to be taken for a request for `image`, beside all that has to be done before that: it takes
    /// as long to wake as to do this. Not while others are being made, who have better use for the processors.
    pub(crate) fn rouse(&self, image: &str) {
        let (latest, key) = &*self.latest.borrow();
        if latest == image
            && let Some(next) = self.pools.borrow_mut().next_at_rest(*key)
        {
            next.parked.rouse();
        }
    }

    /// Requests for `image` are likely to come to the plan with this key.
    pub(crate) fn expect(&self, image: &str, key: u64) {
        let mut latest = self.latest.borrow_mut();
        if latest.0 != image {
            image.clone_into(&mut latest.0);
        }
        latest.1 = key;
    }

    /// One that was made ahead, looked at and found to be what would be made now. If there is none, the next that is made, unless all
    /// that are under way are somebody's: they are there sooner than one that is begun now.
    pub(crate) async fn ready(self: &Rc<Self>, plan: &Plan) -> Option<Ready> {
        if !plan.is_ahead {
            return None;
        }
        let taken = self.pools.borrow_mut().take(plan.key, monotonic_ns());
        let Some(mut ready) = taken else {
            self.wait_for_next(plan.key)?.await.ok()?;
            let ready = self.pools.borrow_mut().collect(plan.key)?;
            return self.checked(ready);
        };
        loop {
            match self.checked(ready) {
                Some(ready) => return Some(ready),
                None => ready = self.pools.borrow_mut().spoilt(plan.key)?,
            }
        }
    }

    /// Gives it up if it is not any more what it was made to be.
    fn checked(self: &Rc<Self>, ready: Ready) -> Option<Ready> {
        // Whoever switches observing on means all that is launched from then on.
        if ready.parked.is_valid() && ready.pins == observe::pins() {
            return Some(ready);
        }
        self.discard(ready);
        None
    }

    fn wait_for_next(self: &Rc<Self>, key: u64) -> Option<oneshot::Receiver<()>> {
        if !self.pools.borrow_mut().wait(key) {
            return None;
        }
        let (tell, next) = oneshot::channel();
        self.waiting.borrow_mut().entry(key).or_default().push_back(tell);
        // What was to be kept is spoken for.
        self.refill();
        Some(next)
    }

    /// Tells whoever has waited first that there is one.
    fn promise(&self, key: u64) {
        while let Some(waiting) = self.first_waiting(key) {
            let mut pools = self.pools.borrow_mut();
            match waiting.send(()) {
                Ok(()) => return pools.promise(key),
                Err(()) => pools.give_up(key),
            }
        }
    }

    fn first_waiting(&self, key: u64) -> Option<oneshot::Sender<()>> {
        let mut waiting = self.waiting.borrow_mut();
        let queue = waiting.get_mut(&key)?;
        let first = queue.pop_front();
        if queue.is_empty() {
            waiting.remove(&key);
        }
        first
    }

    /// Whether there is a container with this id, or is to be.
    pub(crate) fn knows(&self, id: &str) -> bool {
        self.containers.borrow().has(id)
            || self.making.borrow().contains(id)
            || self.pools.borrow().all().any(|ready| ready.parked.container().id == id)
    }

    /// Makes container `id` of `plan` up to its program.
    pub(crate) async fn park(&self, plan: &Plan, id: &str) -> Result<Ready, Error> {
        self.making.borrow_mut().insert(id.to_owned());
        let made = self.try_to_park(plan, id).await;
        self.making.borrow_mut().remove(id);
        made
    }

    async fn try_to_park(&self, plan: &Plan, id: &str) -> Result<Ready, Error> {
        let (asked_ns, pins) = (monotonic_ns(), observe::pins());
        let mut attempt = 0;
        loop {
            let generation = self.link.generation();
            let made = self.ask(plan, id, generation).await;
            attempt += 1;
            if made.is_err() && generation != self.link.generation() && attempt < SPAWNERS_MAX {
                // What the former spawner has got to is in the way.
                let remains = Remains { id: id.to_owned(), ..Remains::default() };
                self.reaper.clear(remains).await.map_err(Error::Host)?;
                continue;
            }
            let made = made?;
            let container =
                made.container.ok_or_else(|| Error::Host("the spawner made no container".into()))?;
            let parked = Parked::new(container, made.descriptors).map_err(|error| {
                Error::Host(format!("make a container: {}", skiff_runtime::cause(&error)))
            })?;
            // Here, for a client waits when its program has been told.
            let start_time = process::stat(parked.container().pid).map_or(0, |stat| stat.start_time);
            let ready = Ready { parked, end: made.end, start_time, asked_ns, pins };
            if let Err(error) = self.room(ready.parked.pidfd().as_raw_fd()) {
                self.clear_parked(ready, false).await.map_err(Error::Host)?;
                return Err(error);
            }
            return Ok(ready);
        }
    }

    async fn ask(&self, plan: &Plan, id: &str, generation: u64) -> Result<crate::link::Made, Error> {
        // What names host paths is looked at anew each time.
        if plan.told.replace(generation) != generation || !plan.is_ahead {
            let options = Box::new(plan.options.clone());
            self.link.tell(&Order::Plan { key: plan.key, options }, &[]).await;
        }
        let order = |ticket| Order::Park { ticket, key: plan.key, id: id.to_owned() };
        let made = self.link.ask(order, &[]).await;
        if made.is_err() {
            self.link.wait(REPLACED).await;
        }
        made
    }

    /// Gives up what is not likely to be asked for any more. Not each time that it looks so: to make one is dear, to keep one is not.
    pub(crate) fn trim(self: &Rc<Self>) {
        let excess = self.pools.borrow_mut().trim(monotonic_ns());
        excess.into_iter().for_each(|ready| self.discard(ready));
    }

    /// Makes ahead what is likely to be asked for next. Off every client's path.
    pub(crate) fn refill(self: &Rc<Self>) {
        if self.activity.is_leaving.get() {
            return;
        }
        if self.pools.borrow().is_over() {
            self.trim();
        }
        let orders = self.pools.borrow_mut().order(monotonic_ns());
        for (key, count) in orders {
            for _ in 0..count {
                tokio::task::spawn_local(self.clone().make_ahead(key, self.activity.work()));
            }
        }
    }

    async fn make_ahead(self: Rc<Self>, key: u64, _counted: Counted) {
        let plan = self.plans.borrow().get(key);
        let made = match (plan, names::draw_id()) {
            (Some(plan), Ok(id)) => match self.park(&plan, &id).await {
                Err(error) => {
                    self.clear_unmade(id).await;
                    Err(error)
                }
                made => made,
            },
            (None, _) => Err(Error::Host("its plan is forgotten".into())),
            (_, Err(error)) => Err(Error::Host(error.to_string())),
        };
        let now_ns = monotonic_ns();
        match made {
            // Its pool may have been closed meanwhile.
            Ok(ready) if self.activity.is_leaving.get() || !self.pools.borrow().has(key) => {
                self.waiting.borrow_mut().remove(&key);
                self.discard(ready);
            }
            Ok(ready) => {
                let making_ns = now_ns.saturating_sub(ready.asked_ns);
                self.pools.borrow_mut().put(key, ready, making_ns, now_ns);
                self.promise(key);
            }
            Err(error) => {
                tracing::debug!("make a container ahead: {error}");
                if self.pools.borrow_mut().failed(key) {
                    // Who waited makes one himself, and tells why it fails.
                    drop(self.first_waiting(key));
                }
            }
        }
    }

    /// The spawner is gone: gives up what it has made ahead, and lets those who wait for more make their own.
    pub(crate) fn lose_pools(self: &Rc<Self>) {
        self.waiting.borrow_mut().clear();
        let lost = self.pools.borrow_mut().lose_all();
        lost.into_iter().for_each(|ready| self.discard(ready));
    }

    /// Clears away what the spawner has got to of a container that could not be made and that no record speaks of.
    async fn clear_unmade(&self, id: String) {
        let directory = Some(self.records.directory(&id));
        let remains = Remains { id, directory, ..Remains::default() };
        if let Err(error) = self.reaper.clear(remains).await {
            tracing::warn!("clear a container away that could not be made: {error}");
        }
    }

    /// Ends a container that waits for its program, and clears it away.
    pub(crate) fn discard(self: &Rc<Self>, ready: Ready) {
        let (engine, counted) = (self.clone(), self.activity.work());
        tokio::task::spawn_local(async move {
            let _counted = counted;
            if let Err(error) = engine.clear_parked(ready, true).await {
                tracing::warn!("clear a container away: {error}");
            }
        });
    }

    /// Ends a container that waits for its program, and clears away its cgroups, and its directory if asked to.
    pub(crate) async fn clear_parked(&self, mut ready: Ready, with_directory: bool) -> Result<(), String> {
        let mounts = ready.parked.take_mounts();
        let (container, pidfd, terminal) = ready.parked.into_parts();
        drop(terminal);
        // It ends when its line does, unless it is just on its way to a program.
        if let Err(error) = process::send_signal(std::os::fd::AsFd::as_fd(&pidfd), libc::SIGKILL) {
            tracing::debug!("end a parked container: {error}");
        }
        Ending::new(container.pid, Some(Rc::new(pidfd)), Some(ready.end)).wait().await;
        let directory = with_directory.then(|| self.records.directory(&container.id));
        let cgroups = Some(container.cgroups);
        let remains = Remains { id: container.id.clone(), cgroups, directory, mounts, ended: None };
        let cleared = self.reaper.clear(remains).await.map(drop);
        self.link.tell(&Order::Forget { id: container.id }, &[]).await;
        cleared
    }
}
