//! The spawner's loop: one thread that waits for everything at once and for nothing alone.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, accept4, bind, getsockopt, listen, socket,
};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use skiff_sys::clock::realtime_ns;
use skiff_sys::process::{self, Exit};

use super::accounts::{Accounts, Whose};
use super::entry::{self, Entry, failed};
use super::link::Link;
use super::plans::Plans;
use super::upgrade::Handover;
use super::{End, Order, Report, SOCKET, wire};
use crate::cgroup::Cgroup;
use crate::error::Context;
use crate::launch::{Birthplace, Facts, KEPT_FROM, Parking, Progress, socket_at};
use crate::{Error, reader};

/// How many containers are made beside each other: more would only take turns.
const AT_ONCE: usize = 8;

/// How many orders to park, and how many reports, may wait before no more orders are taken.
const BACKLOG: usize = 4096;

/// How many orders are carried out before others are looked after.
const ORDERS_AT_ONCE: usize = 64;

/// How long it stays without a daemon and without children, ms.
const IDLE_MS: u16 = 10_000;

/// What the spawner waits for, by the number that epoll has for it; the rest are containers being made and processes between.
const LISTENING: u64 = 0;
const SIGNALS: u64 = 1;
const LINK: u64 = 2;
const OTHERS: u64 = 3;

/// Serves daemons, the first of which has standard input as its connection, until it is told to leave or nobody needs it.
///
/// To be called first in a process of its own of one thread, run from where no container can write to it ([`crate::seal`]).
/// `words` are those that follow [`super::NAME`].
pub fn run(mut words: impl Iterator<Item = OsString>) -> Result<(), Error> {
    let (Some(state_root), Some(run_root)) = (words.next(), words.next()) else {
        return Err(Error::Option("spawner: no state root and no run root".into()));
    };
    let (state_root, run_root) = (Path::new(&state_root), Path::new(&run_root));
    let open_files = words.next().and_then(|word| word.to_str()?.parse().ok());
    let handover = words.next().map(|word| {
        let number = word.to_str().and_then(|word| word.parse().ok()).unwrap_or(-1);
        Handover::read(number).context(|| "go on with what there was".into())
    });
    let mut spawner = Spawner::new(state_root, run_root, open_files, handover.transpose()?)?;
    let served = spawner.serve().context(|| "serve".into());
    // Another spawner may have its socket there by now.
    spawner.listening.remove();
    served
}

struct Spawner {
    plans: Plans,
    /// Where containers are born, if it could be made.
    birthplace: Option<Birthplace>,
    accounts: Accounts,
    /// Orders to park that wait for their turn.
    queue: VecDeque<Park>,
    making: HashMap<u64, Making>,
    entering: HashMap<u64, Entering>,
    link: Option<Link>,
    links: u64,
    next: u64,
    listening: Listening,
    signals: SignalFd,
    epoll: Epoll,
    is_leaving: bool,
    /// The executable to go on as.
    successor: Option<OwnedFd>,
}

/// An order to park.
struct Park {
    ticket: u64,
    key: u64,
    id: String,
    link: u64,
}

/// A container that is being made.
struct Making {
    order: Park,
    facts: Facts,
    parking: Parking,
    /// It has failed: the reason is told, and its cgroups are removed, once its process is gone.
    has_failed: bool,
}

/// A process that is about to be in a container.
struct Entering {
    ticket: u64,
    id: String,
    link: u64,
    socket: OwnedFd,
    /// The process between.
    between: OwnedFd,
}

impl Spawner {
    fn new(
        state_root: &Path,
        run_root: &Path,
        open_files: Option<u64>,
        mut handover: Option<Handover>,
    ) -> Result<Self, Error> {
        let what = || "begin".to_owned();
        // No key that is pressed at the daemon's terminal is for this process.
        match nix::unistd::setsid() {
            Ok(_) | Err(Errno::EPERM) => {}
            Err(error) => return Err(error).context(what),
        }
        process::keep_children().context(what)?;
        // Orphans of processes between, and of containers in the host's PID namespace.
        nix::sys::prctl::set_child_subreaper(true).context(what)?;
        let (soft, hard) = raise_open_files().context(what)?;
        let own_files = (open_files.map_or(soft, |wanted| wanted.min(hard)), hard);
        let open_files = handover.as_ref().map_or(own_files, |handover| handover.open_files);
        let plans = Plans::new(state_root, run_root, open_files);
        let first = take_stdin().context(what)?;
        crate::launch::make_private(run_root)?;
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None).context(what)?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK);
        let mut spawner = Self {
            plans,
            birthplace: Birthplace::make().context(what)?,
            accounts: handover.as_mut().map(Handover::take_accounts).unwrap_or_default(),
            queue: VecDeque::new(),
            making: HashMap::new(),
            entering: HashMap::new(),
            link: None,
            links: 0,
            next: OTHERS,
            listening: match &handover {
                Some(handover) => Listening::of(handover.listening, run_root),
                None => Listening::at(run_root)?,
            },
            signals: signals.context(what)?,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context(what)?,
            is_leaving: false,
            successor: None,
        };
        spawner.watch(spawner.signals.as_fd(), SIGNALS).context(what)?;
        spawner.watch(spawner.listening.socket.as_fd(), LISTENING).context(what)?;
        let inherited = handover.and_then(|handover| handover.link);
        if let Some((link, number)) = inherited {
            spawner.links = number - 1;
            spawner.connect(skiff_sys::file::received(link)).context(what)?;
        } else if let Some(first) = first {
            spawner.connect(first).context(what)?;
        }
        // Those that have ended between the executables.
        spawner.reap().context(what)?;
        Ok(spawner)
    }

    fn watch(&self, fd: BorrowedFd<'_>, number: u64) -> io::Result<()> {
        Ok(self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, number))?)
    }

    fn serve(&mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); 64];
        while !self.is_leaving {
            self.begin()?;
            self.settle_link()?;
            self.go_on()?;
            let timeout = if self.link.is_none() { EpollTimeout::from(IDLE_MS) } else { EpollTimeout::NONE };
            let count = match self.epoll.wait(&mut events, timeout) {
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            if count == 0 && self.link.is_none() && self.making.is_empty() && !self.accounts.are_needed() {
                return Ok(());
            }
            for event in &events[..count] {
                match event.data() {
                    LISTENING => self.accept()?,
                    SIGNALS => self.reap()?,
                    LINK => self.obey()?,
                    number if self.making.contains_key(&number) => self.advance(number)?,
                    number => self.follow(number)?,
                }
            }
        }
        Ok(())
    }

    /// Takes another connection in the place of the one that was.
    fn accept(&mut self) -> io::Result<()> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = match accept4(self.listening.socket.as_raw_fd(), flags) {
            Ok(socket) => skiff_sys::file::received(socket),
            // The peer has gone again, or something is short for the moment.
            Err(_) => return Ok(()),
        };
        let own = nix::unistd::geteuid().as_raw();
        if getsockopt(&socket, PeerCredentials).is_ok_and(|peer| peer.uid() == own) {
            self.connect(socket)?;
        }
        Ok(())
    }

    fn connect(&mut self, socket: OwnedFd) -> io::Result<()> {
        self.disconnect()?;
        self.links += 1;
        self.watch(socket.as_fd(), LINK)?;
        let mut link = Link::new(socket, self.links);
        link.greet();
        self.link = Some(link);
        Ok(())
    }

    /// What was to be told goes, and with it the lines of containers that nobody has taken over.
    fn disconnect(&mut self) -> io::Result<()> {
        self.queue.clear();
        // Not by closing it: a child may have a copy for a moment.
        self.link.take().map_or(Ok(()), |link| Ok(self.epoll.delete(link.fd())?))
    }

    /// Sends what the daemon takes, and sees to it that it is waited for only as far as that makes sense.
    fn settle_link(&mut self) -> io::Result<()> {
        let Some(link) = &mut self.link else { return Ok(()) };
        if link.flush(&self.accounts).is_err() {
            return self.disconnect();
        }
        let mut interest = EpollFlags::empty();
        if link.backlog() < BACKLOG && self.queue.len() < BACKLOG && self.successor.is_none() {
            interest |= EpollFlags::EPOLLIN;
        }
        if link.backlog() > 0 {
            interest |= EpollFlags::EPOLLOUT;
        }
        Ok(self.epoll.modify(link.fd(), &mut EpollEvent::new(interest, LINK))?)
    }

    fn tell(&mut self, report: Report, descriptors: Vec<OwnedFd>) {
        if let Some(link) = &mut self.link {
            link.tell(report, descriptors);
        }
    }

    /// Carries out what the daemon has ordered.
    fn obey(&mut self) -> io::Result<()> {
        for _ in 0..ORDERS_AT_ONCE {
            let Some(link) = self.link.as_ref().filter(|_| self.successor.is_none()) else { return Ok(()) };
            let number = link.number;
            match link.receive() {
                Ok(Some((order, descriptors))) => self.carry_out(order, descriptors, number)?,
                Ok(None) => self.disconnect()?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // No order: passed over.
                Err(error) if error.raw_os_error() == Some(nix::libc::EPROTO) => {}
                Err(_) => self.disconnect()?,
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, order: Order, descriptors: Vec<OwnedFd>, link: u64) -> io::Result<()> {
        match order {
            Order::Plan { key, options } => self.plans.learn(key, *options),
            Order::Park { ticket, key, id } => self.queue.push_back(Park { ticket, key, id, link }),
            Order::Exec { ticket, options, pid, cgroups } => {
                let entry = Entry { ticket, options: *options, pid, cgroups };
                self.enter(&entry, &descriptors, link)?;
            }
            Order::Read { cgroups } => {
                // It is reaped with all others. Without one nothing is read ahead.
                let cgroup = Cgroup::open_to_join(&cgroups);
                let begin = |socket| cgroup.and_then(|cgroup| reader::begin(&cgroup, socket));
                if let Some(Err(error)) = descriptors.into_iter().next().map(begin) {
                    tracing::debug!("{error}");
                }
            }
            Order::Keep { id, note } => {
                match descriptors.iter().map(keep).collect::<io::Result<_>>() {
                    Ok(kept) => self.accounts.keep(&id, note, kept),
                    // The container has them, and so has the daemon: there are too many for a third.
                    Err(error) => tracing::warn!("keep what is of container {id}: {error}"),
                }
            }
            Order::Forget { id } => self.accounts.forget(&id),
            Order::List => {
                if let Some(link) = &mut self.link {
                    link.tell_all(&self.accounts);
                }
            }
            Order::Upgrade => {
                self.successor = descriptors.into_iter().next();
                if self.successor.is_some() {
                    self.give_up_entering()?;
                }
            }
            Order::Leave => self.is_leaving = true,
        }
        Ok(())
    }

    /// Begins to make what waits for its turn.
    fn begin(&mut self) -> io::Result<()> {
        if !self.queue.is_empty() {
            // Whoever has seen an end by himself may ask for the same container again.
            self.reap()?;
        }
        while self.making.len() < AT_ONCE {
            let Some(order) = self.queue.pop_front() else { return Ok(()) };
            match self.begin_one(&order) {
                Ok((facts, parking)) => {
                    self.accounts.open(&order.id, parking.pid());
                    let number = self.number();
                    self.watch(parking.fd(), number)?;
                    self.making.insert(number, Making { order, facts, parking, has_failed: false });
                }
                Err(error) => self.tell(failed(order.ticket, &error), Vec::new()),
            }
        }
        Ok(())
    }

    fn begin_one(&mut self, order: &Park) -> Result<(Facts, Parking), Error> {
        let is_id = order.id.len() == 64
            && order.id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if !is_id {
            return Err(Error::Option("a container's id has 64 hexadecimal digits".into()));
        }
        if self.accounts.is_alive(&order.id) {
            return Err(Error::Option(format!("container {} is there already", order.id)));
        }
        let (plan, filter, preparer) = self.plans.plan(order.key, &order.id)?;
        let parking = Parking::begin(plan, self.birthplace.as_ref(), filter, preparer)?;
        let facts = Facts::of(plan);
        self.plans.prepare_by(order.key, parking.next_preparer());
        Ok((facts, parking))
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Takes what a container says that is being made.
    fn advance(&mut self, number: u64) -> io::Result<()> {
        let Some(making) = self.making.get_mut(&number) else { return Ok(()) };
        match making.parking.advance() {
            Ok(Progress::Working) => {}
            Ok(Progress::Parked) => {
                if let Some(making) = self.making.remove(&number) {
                    self.hand_over(making)?;
                }
            }
            Ok(Progress::Failed) | Err(_) => {
                making.has_failed = true;
                self.epoll.delete(making.parking.fd())?;
                // What it says is not waited for any longer, but it is not left alone with what it does.
                making.parking.kill();
            }
        }
        Ok(())
    }

    fn hand_over(&mut self, Making { order, facts, parking, .. }: Making) -> io::Result<()> {
        self.epoll.delete(parking.fd())?;
        let (container, descriptors) = parking.hand_over(facts);
        // Whoever has ordered it is gone: with its line it ends.
        if self.link.as_ref().is_some_and(|link| link.number == order.link) {
            let report = Report::Parked { ticket: order.ticket, container: Box::new(container) };
            self.tell(report, descriptors);
        }
        Ok(())
    }

    fn enter(&mut self, order: &Entry, descriptors: &[OwnedFd], link: u64) -> io::Result<()> {
        match entry::begin(order, descriptors, self.plans.roots()) {
            Ok((socket, between)) => {
                let number = self.number();
                self.watch(socket.as_fd(), number)?;
                let (ticket, id) = (order.ticket, order.options.id.clone());
                self.entering.insert(number, Entering { ticket, id, link, socket, between });
            }
            Err(error) => self.tell(failed(order.ticket, &error), Vec::new()),
        }
        Ok(())
    }

    /// Passes on what a process between the spawner and a container reports.
    fn follow(&mut self, number: u64) -> io::Result<()> {
        let Some(entering) = self.entering.get(&number) else { return Ok(()) };
        let received = match wire::receive::<Report>(entering.socket.as_fd()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            other => other.ok().flatten(),
        };
        let Some(Entering { ticket, id, link, socket, .. }) = self.entering.remove(&number) else {
            return Ok(());
        };
        self.epoll.delete(&socket)?;
        let is_current = self.link.as_ref().is_some_and(|known| known.number == link);
        match received {
            Some((Report::ExecStarted { pid, .. }, descriptors)) => {
                self.accounts.add(pid, Whose::Exec { id, ticket, connection: link });
                if is_current {
                    self.tell(Report::ExecStarted { ticket, pid }, descriptors);
                } else if let Some(pidfd) = descriptors.first() {
                    // Nobody is left who could have a use for it; it may have ended by itself.
                    process::send_signal(pidfd.as_fd(), nix::libc::SIGKILL).ok();
                }
            }
            Some((report @ Report::Failed { .. }, _)) if is_current => self.tell(report, Vec::new()),
            _ if is_current => {
                let error = Error::Option("the process could not be started in the container".into());
                self.tell(failed(ticket, &error), Vec::new());
            }
            _ => {}
        }
        Ok(())
    }

    /// Ends the processes between, which may be waiting for frozen containers.
    fn give_up_entering(&mut self) -> io::Result<()> {
        for (_, entering) in self.entering.drain() {
            self.epoll.delete(&entering.socket)?;
            process::send_signal(entering.between.as_fd(), nix::libc::SIGKILL).ok();
            if let Some(link) = self.link.as_mut().filter(|link| link.number == entering.link) {
                let error = Error::Option("the spawner goes on as another".into());
                link.tell(failed(entering.ticket, &error), Vec::new());
            }
        }
        Ok(())
    }

    /// Goes on as another executable, if that was ordered, once nothing is left that could not be handed over.
    fn go_on(&mut self) -> io::Result<()> {
        let is_told = self.link.as_ref().is_none_or(|link| link.backlog() == 0);
        if !(self.making.is_empty() && self.queue.is_empty() && is_told) {
            return Ok(());
        }
        let Some(successor) = self.successor.take() else { return Ok(()) };
        let link = self.link.as_ref().map(|link| (link.fd().as_raw_fd(), link.number));
        let open_files = self.plans.open_files();
        let handover = Handover::new(&self.listening.socket, link, open_files, &self.accounts);
        let (state_root, run_root) = self.plans.roots();
        let error = handover.exec(&successor, state_root, run_root);
        tracing::warn!("go on as another executable: {error}");
        // It is seen by the version.
        if let Some(link) = &mut self.link {
            link.greet();
        }
        self.settle_link()
    }

    /// Takes notice of all processes that have ended.
    fn reap(&mut self) -> io::Result<()> {
        while self.signals.read_signal()?.is_some() {}
        // What a process between has reported it has reported before it has ended.
        let entering: Vec<u64> = self.entering.keys().copied().collect();
        entering.into_iter().try_for_each(|number| self.follow(number))?;
        loop {
            let (pid, exit) = match waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) {
                Ok(WaitStatus::Exited(pid, code)) => (pid.as_raw(), Exit::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid.as_raw(), Exit::Signal(signal as i32)),
                Ok(_) | Err(Errno::ECHILD) => return Ok(()),
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            self.ended(pid, End { exit, at_ns: realtime_ns() })?;
        }
    }

    fn ended(&mut self, pid: i32, end: End) -> io::Result<()> {
        let making = self.making.iter().find(|(_, making)| making.parking.pid() == pid);
        if let Some(number) = making.map(|(number, _)| *number) {
            return self.failed(number);
        }
        let (id, ticket) = match self.accounts.close(pid, end) {
            Some(Whose::Container(id)) => (id, None),
            Some(Whose::Exec { id, ticket, connection }) => {
                if self.link.as_ref().is_none_or(|link| link.number != connection) {
                    return Ok(());
                }
                (id, Some(ticket))
            }
            None => return Ok(()),
        };
        self.tell(Report::Exited { id, pid, ticket, end }, Vec::new());
        Ok(())
    }

    /// Clears up after a container that could not be made, or was killed meanwhile: it may have said that it is parked.
    fn failed(&mut self, number: u64) -> io::Result<()> {
        let Some(Making { order, parking, has_failed, .. }) = self.making.remove(&number) else {
            return Ok(());
        };
        if !has_failed {
            self.epoll.delete(parking.fd())?;
        }
        let plan = self.plans.plan(order.key, &order.id).ok();
        let error = parking.failure(plan.map(|(plan, ..)| plan));
        if parking.will_fail_again() {
            self.plans.has_failed(order.key, parking.prepared_by());
        }
        let end = End { exit: Exit::Code(error.exit_code().into()), at_ns: realtime_ns() };
        let pid = parking.pid();
        self.accounts.close(pid, end);
        self.accounts.forget(&order.id);
        drop(parking);
        match self.link.as_ref().map(|link| link.number) {
            Some(link) if link == order.link => self.tell(failed(order.ticket, &error), Vec::new()),
            // Another daemon, which may have been told of it as of one that runs.
            Some(_) => self.tell(Report::Exited { id: order.id, pid, ticket: None, end }, Vec::new()),
            None => {}
        }
        Ok(())
    }
}

/// The socket that daemons find it by.
struct Listening {
    socket: OwnedFd,
    path: PathBuf,
}

impl Listening {
    /// That of the executable before.
    fn of(number: i32, run_root: &Path) -> Self {
        Self { socket: skiff_sys::file::received(number), path: run_root.join(SOCKET) }
    }

    /// In the place of one that a spawner has left.
    fn at(run_root: &Path) -> Result<Self, Error> {
        let path = run_root.join(SOCKET);
        let what = || format!("listen at {}", path.display());
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None);
        let socket = socket.context(what)?;
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).context(what),
            _ => {}
        }
        socket_at(run_root, SOCKET, |address| Ok(bind(socket.as_raw_fd(), address)?)).context(what)?;
        // The directory is private already; whoever connects is asked for besides.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).context(what)?;
        listen(&socket, Backlog::MAXCONN).context(what)?;
        Ok(Self { socket, path })
    }

    fn remove(&self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!("remove {}: {error}", self.path.display());
        }
    }
}

/// As many descriptors as may be: it keeps some for every container. Returns the limits before.
fn raise_open_files() -> io::Result<(u64, u64)> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    // The table has its size from the beginning: while a child has it in common, to make it longer waits for a grace period.
    let last = i32::try_from(hard.min(1 << 15)).unwrap_or(1 << 15) - 1;
    let stderr = io::stderr();
    drop(skiff_sys::file::received(fcntl(stderr.as_fd(), FcntlArg::F_DUPFD_CLOEXEC(last))?));
    Ok((soft, hard))
}

/// The first daemon's connection, if standard input is one. Nothing is left of the daemon's streams but that for errors.
fn take_stdin() -> io::Result<Option<OwnedFd>> {
    let stdin = io::stdin();
    let mode = nix::sys::stat::fstat(stdin.as_fd()).map_or(0, |found| found.st_mode);
    let is_socket = mode & nix::libc::S_IFMT == nix::libc::S_IFSOCK;
    let first = if is_socket { Some(stdin.as_fd().try_clone_to_owned()?) } else { None };
    let null = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    Ok(first)
}

/// The same descriptor among those that are kept.
fn keep(fd: &OwnedFd) -> io::Result<OwnedFd> {
    Ok(skiff_sys::file::received(fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(KEPT_FROM))?))
}
