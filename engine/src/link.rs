//! The daemon's side of its spawner: orders, what comes back by ticket, and the ends of processes.
//!
//! A spawner that is gone is replaced; whoever waited for it learns that, and watches its process itself from then on.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use skiff_runtime::cause;
use skiff_runtime::spawner::{Client, Container, End, Order, Report};
use skiff_sys::clock::monotonic_ns;
use skiff_sys::self_exe;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::Error;
use crate::watched::watch;

/// How long a spawner may take for the next word of what it keeps.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);

/// What was asked of the spawner, done.
#[derive(Debug)]
pub(crate) struct Made {
    /// A container that waits for its program; absent for one more process in a container.
    pub(crate) container: Option<Container>,
    /// Its process's id.
    pub(crate) pid: i32,
    /// What came along.
    pub(crate) descriptors: Vec<OwnedFd>,
    /// Tells how it ends; fails if the spawner goes before.
    pub(crate) end: oneshot::Receiver<End>,
}

/// What a spawner has kept for the next daemon.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) id: String,
    pub(crate) pid: i32,
    pub(crate) note: String,
    pub(crate) descriptors: Vec<OwnedFd>,
    /// Whether it has ended: its process id may be another's by now.
    pub(crate) is_over: bool,
    /// Tells how it ends.
    pub(crate) end: oneshot::Receiver<End>,
}

/// The way to the spawner.
#[derive(Debug)]
pub(crate) struct Link {
    executable: PathBuf,
    state_root: PathBuf,
    run_root: PathBuf,
    /// How many files a container may have open.
    open_files: u64,
    state: RefCell<State>,
    /// Told when a spawner has gone.
    lost: mpsc::Sender<()>,
    /// Told when there is another.
    up: Notify,
    /// Told of containers that have ended and that nobody here knows: they were asked for by a daemon that is dead.
    strays: mpsc::UnboundedSender<String>,
}

#[derive(Debug, Default)]
struct State {
    socket: Option<Rc<AsyncFd<Socket>>>,
    /// How many spawners there have been.
    generation: u64,
    last_ticket: u64,
    tickets: HashMap<u64, oneshot::Sender<Result<Made, Error>>>,
    /// Who waits for the end of which process.
    ends: HashMap<Subject, (i32, oneshot::Sender<End>)>,
    pid: i32,
    /// Which program it runs.
    executable: [u64; 2],
    /// Whether it was to go on as this daemon's program.
    is_renewed: bool,
}

/// Whose end it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Subject {
    Container(String),
    Process(u64),
}

#[derive(Debug)]
struct Socket(Client);

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.fd().as_raw_fd()
    }
}

impl Link {
    /// The way to no spawner yet.
    pub(crate) fn new(
        executable: PathBuf,
        [state_root, run_root]: [&Path; 2],
        open_files: u64,
        lost: mpsc::Sender<()>,
        strays: mpsc::UnboundedSender<String>,
    ) -> Self {
        let (state_root, run_root) = (state_root.to_owned(), run_root.to_owned());
        // No ticket is one of a daemon before, whose orders may still be carried out.
        let state = RefCell::new(State { last_ticket: monotonic_ns(), ..State::default() });
        Self { executable, state_root, run_root, open_files, state, lost, strays, up: Notify::new() }
    }

    /// Connects to the spawner that an earlier daemon has left, lets it go on as this daemon's program, and learns what it
    /// keeps; else starts one.
    pub(crate) fn open(self: &Rc<Self>) -> io::Result<Vec<Kept>> {
        let Some(client) = Client::connect(&self.run_root)? else {
            self.restart()?;
            return Ok(Vec::new());
        };
        match self.listed(&client) {
            Ok(kept) => {
                if let Err(error) = self.renew(&client) {
                    tracing::warn!("let the spawner go on as this program: {}", cause(&error));
                }
                self.talk_to(client)?;
                Ok(kept)
            }
            Err(error) => {
                tracing::warn!("the spawner does not answer: {}", cause(&error));
                self.restart()?;
                Ok(Vec::new())
            }
        }
    }

    /// Has the spawner of an earlier daemon go on as the program that this daemon runs, if that is another. Nobody waits for it:
    /// the program that it is then takes the orders that are sent from now on.
    fn renew(&self, client: &Client) -> io::Result<()> {
        if self.state.borrow().executable == self_exe::identity() {
            return Ok(());
        }
        let executable = File::open(&self.executable)?;
        client.send(&Order::Upgrade, &[executable.as_fd()])?;
        self.state.borrow_mut().is_renewed = true;
        Ok(())
    }

    /// Takes reports until the spawner has told all.
    fn listed(&self, client: &Client) -> io::Result<Vec<Kept>> {
        client.send(&Order::List, &[])?;
        let mut kept = Vec::new();
        loop {
            let (report, descriptors) = next(client)?;
            match report {
                Report::Kept { id, pid, note, end: ended } => {
                    let (tell, end) = oneshot::channel();
                    let is_over = ended.is_some();
                    if let Some(ended) = ended {
                        // The receiver is there.
                        let _told = tell.send(ended);
                    } else {
                        self.state.borrow_mut().ends.insert(Subject::Container(id.clone()), (pid, tell));
                    }
                    kept.push(Kept { id, pid, note, descriptors, is_over, end });
                }
                Report::Listed => return Ok(kept),
                other => self.take(other, descriptors),
            }
        }
    }

    /// Starts a spawner in the place of one that is gone.
    pub(crate) fn restart(self: &Rc<Self>) -> io::Result<()> {
        let (client, child) =
            Client::start(&self.executable, &self.state_root, &self.run_root, self.open_files)?;
        tracing::debug!("spawner {} started", child.id());
        self.state.borrow_mut().pid = child.id().cast_signed();
        self.talk_to(client)
    }

    fn talk_to(self: &Rc<Self>, client: Client) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        let socket = Rc::new(watch(Socket(client), interest)?);
        let mut state = self.state.borrow_mut();
        state.generation += 1;
        state.socket = Some(socket.clone());
        drop(state);
        self.up.notify_waiters();
        tokio::task::spawn_local(self.clone().listen(socket));
        Ok(())
    }

    /// Which spawner it is; another number says that nothing is known to it that was told to the one before.
    pub(crate) fn generation(&self) -> u64 {
        self.state.borrow().generation
    }

    /// Waits until there is a spawner, for so long at most.
    pub(crate) async fn wait(&self, limit: Duration) {
        let up = async {
            while self.state.borrow().socket.is_none() {
                self.up.notified().await;
            }
        };
        // Whoever asks it for something learns that there is none.
        drop(tokio::time::timeout(limit, up).await);
    }

    /// Whether there is no spawner just now.
    pub(crate) fn is_down(&self) -> bool {
        self.state.borrow().socket.is_none()
    }

    /// The spawner's process id; 0 if it is not known yet.
    pub(crate) fn pid(&self) -> i32 {
        self.state.borrow().pid
    }

    /// Sends an order that is answered; `order` is given the ticket.
    pub(crate) async fn ask(
        &self,
        order: impl FnOnce(u64) -> Order,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Made, Error> {
        let (tell, answer) = oneshot::channel();
        let ticket = {
            let mut state = self.state.borrow_mut();
            state.last_ticket += 1;
            let ticket = state.last_ticket;
            state.tickets.insert(ticket, tell);
            ticket
        };
        if let Err(error) = self.send(&order(ticket), descriptors).await {
            self.state.borrow_mut().tickets.remove(&ticket);
            return Err(Error::Host(format!("speak to the spawner: {}", cause(&error))));
        }
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Sends an order; waits while the spawner has enough to do.
    pub(crate) async fn send(&self, order: &Order, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let socket = self.state.borrow().socket.clone().ok_or(io::ErrorKind::NotConnected)?;
        loop {
            match socket.get_ref().0.send(order, descriptors) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    socket.writable().await?.clear_ready();
                }
                other => return other,
            }
        }
    }

    /// Sends an order of which nobody waits to hear; one to a spawner that is gone is moot.
    pub(crate) async fn tell(&self, order: &Order, descriptors: &[BorrowedFd<'_>]) {
        if let Err(error) = self.send(order, descriptors).await {
            tracing::debug!("speak to the spawner: {}", cause(&error));
        }
    }

    async fn listen(self: Rc<Self>, socket: Rc<AsyncFd<Socket>>) {
        loop {
            match socket.get_ref().0.receive() {
                Ok(Some((report, descriptors))) => self.take(report, descriptors),
                Ok(None) => break,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => match socket.readable().await {
                        Ok(mut guard) => guard.clear_ready(),
                        Err(_) => break,
                    },
                    // What is no message is passed over.
                    Some(libc::EPROTO) => tracing::warn!("the spawner has said what is not understood"),
                    _ => break,
                },
            }
        }
        for (_, tell) in self.hang_up() {
            drop(tell.send(Err(gone())));
        }
        // Nobody listens when the daemon leaves.
        let _told = self.lost.send(()).await;
    }

    /// The spawner has gone: whoever waits for an end has to look for it himself. Returns who waits for an answer.
    fn hang_up(&self) -> HashMap<u64, oneshot::Sender<Result<Made, Error>>> {
        let mut state = self.state.borrow_mut();
        state.socket = None;
        state.ends.clear();
        std::mem::take(&mut state.tickets)
    }

    /// Hands a report to whoever waits for it.
    fn take(&self, report: Report, descriptors: Vec<OwnedFd>) {
        let mut state = self.state.borrow_mut();
        match report {
            // Its line is closed: it ends.
            Report::Parked { ticket, .. } if descriptors.is_empty() => {
                let message = "there are no descriptors left (RLIMIT_NOFILE)".to_owned();
                state.answer(ticket, Err(Error::Host(message)));
            }
            Report::Parked { ticket, container } => {
                let (tell, end) = oneshot::channel();
                let pid = container.pid;
                state.ends.insert(Subject::Container(container.id.clone()), (pid, tell));
                state.answer(ticket, Ok(Made { container: Some(*container), pid, descriptors, end }));
            }
            Report::ExecStarted { ticket, pid } => {
                let (tell, end) = oneshot::channel();
                state.ends.insert(Subject::Process(ticket), (pid, tell));
                state.answer(ticket, Ok(Made { container: None, pid, descriptors, end }));
            }
            Report::Failed { ticket, code, message } => state.answer(ticket, Err(failed(code, message))),
            Report::Exited { id, pid, ticket, end } => {
                let subject = ticket.map_or_else(|| Subject::Container(id.clone()), Subject::Process);
                match state.ends.remove(&subject) {
                    // Whoever waited may have seen it, and may have made the container again since.
                    Some(other) if other.0 != pid => drop(state.ends.insert(subject, other)),
                    Some((_, tell)) => drop(tell.send(end).is_ok()),
                    None if ticket.is_none() => drop(self.strays.send(id)),
                    None => {}
                }
            }
            Report::Hello { version, executable, pid } => {
                tracing::debug!("spawner {pid}, version {version}");
                if state.is_renewed && executable != self_exe::identity() {
                    tracing::warn!("the spawner goes on as the program that it was");
                }
                (state.pid, state.executable) = (pid, executable);
            }
            Report::Kept { .. } | Report::Listed => {}
        }
    }
}

/// The next report, waited for.
fn next(client: &Client) -> io::Result<(Report, Vec<OwnedFd>)> {
    let timeout = PollTimeout::try_from(LIST_TIMEOUT).unwrap_or(PollTimeout::MAX);
    loop {
        match client.receive() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if poll(&mut [PollFd::new(client.fd(), PollFlags::POLLIN)], timeout)? == 0 {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
            other => return other?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl State {
    fn answer(&mut self, ticket: u64, answer: Result<Made, Error>) {
        if let Some(tell) = self.tickets.remove(&ticket) {
            // Whoever asked waits.
            drop(tell.send(answer));
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd()
    }
}

fn failed(code: u8, message: String) -> Error {
    if code == 125 { Error::Host(message) } else { Error::Program { code, message } }
}

fn gone() -> Error {
    Error::Host("the spawner has gone".into())
}
