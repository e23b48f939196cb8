//! Checks of a running container's health, one after the other: a pause, then what [`Check`] says.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use skiff_runtime::cause;
use skiff_runtime::options::Namespace;
use skiff_sys::process;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::time::{Instant, timeout_at};

use crate::containers::Entry;
use crate::ending::{Ending, exit_code, now_ns};
use crate::engine::Engine;
use crate::health::probe::{self, Network};
use crate::health::{Check, FAILED, Health, Outcome, Output};
use crate::protocol::ExecSpec;
use crate::requests::make_one_more;
use crate::spec::{HealthSpec, HealthTest};
use crate::{Record, State};

/// How much of what a check has written is read after its end, bytes.
const LAST_WORDS_BYTES: usize = 64 << 10;

/// The next check of one container. Nothing is under way if it is not to be checked now.
#[derive(Default)]
pub(crate) struct Checkup {
    next: Option<Pin<Box<dyn Future<Output = Outcome>>>>,
    /// Of which start of the container.
    started_ns: u64,
}

impl Checkup {
    /// Sees to it that a container is checked if it runs, and only then.
    pub(crate) fn follow(&mut self, engine: &Rc<Engine>, entry: &Rc<Entry>) {
        let record = entry.record.borrow();
        if self.next.is_some() && (record.state != State::Running || record.started_ns != self.started_ns) {
            self.next = None;
        }
        if self.next.is_some() || record.state != State::Running {
            return;
        }
        let Some(check) = Check::of(&record.spec.health) else { return };
        self.started_ns = record.started_ns;
        let ran = Duration::from_nanos(now_ns().saturating_sub(record.started_ns));
        let pause = check.pause(record.health.as_ref().unwrap_or(&Health::default()), ran);
        let (engine, entry) = (engine.clone(), entry.clone());
        self.next = Some(Box::pin(async move {
            tokio::time::sleep(pause).await;
            run(&engine, &entry, &check).await
        }));
    }

    /// The outcome of the check that is under way. Can be given up and taken up again.
    pub(crate) async fn outcome(&mut self) -> Outcome {
        let Some(next) = &mut self.next else { return std::future::pending().await };
        let outcome = next.await;
        self.next = None;
        outcome
    }
}

impl fmt::Debug for Checkup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkup").field("is_under_way", &self.next.is_some()).finish_non_exhaustive()
    }
}

/// The health of a container that is being started; nothing if it is not checked.
pub(crate) fn begun(spec: &HealthSpec, before: Option<&Health>) -> Option<Health> {
    Check::of(spec)?;
    let mut health = before.cloned().unwrap_or_default();
    health.begin();
    Some(health)
}

async fn run(engine: &Rc<Engine>, entry: &Rc<Entry>, check: &Check) -> Outcome {
    let record = entry.record();
    let argv = match &check.test {
        HealthTest::Command(argv) => argv.clone(),
        HealthTest::Shell(text) => vec!["/bin/sh".into(), "-c".into(), text.clone()],
        HealthTest::Tcp(port) => match network(entry, &record) {
            Ok(network) => return probe::tcp(network, *port, check.timeout).await,
            Err(error) => return failed(now_ns(), cause(&error)),
        },
        HealthTest::Http { port, path } => match network(entry, &record) {
            Ok(network) => return probe::http(network, *port, path, check.timeout).await,
            Err(error) => return failed(now_ns(), cause(&error)),
        },
        HealthTest::None => return failed(now_ns(), "nothing to check".into()),
    };
    program(engine, &record, argv, check.timeout).await
}

fn network(entry: &Entry, record: &Record) -> io::Result<Network> {
    if record.spec.options.network == Namespace::Host {
        return Ok(Network::Own);
    }
    let life = entry.life.borrow();
    let pidfd = life.as_ref().and_then(|life| life.pidfd.as_ref());
    Ok(Network::Of(pidfd.ok_or(io::ErrorKind::NotFound)?.try_clone()?))
}

fn failed(start_ns: u64, output: String) -> Outcome {
    Outcome { start_ns, end_ns: now_ns(), exit_code: FAILED, output }
}

/// Runs a program in the container; what it writes is read, and mostly forgotten.
async fn program(engine: &Rc<Engine>, record: &Record, argv: Vec<String>, limit: Duration) -> Outcome {
    let (start_ns, deadline) = (now_ns(), Instant::now() + limit);
    let (mut read, streams) = match ends() {
        Ok(ends) => ends,
        Err(error) => return failed(start_ns, cause(&error)),
    };
    let exec = ExecSpec { argv: argv.into_iter().map(Into::into).collect(), ..ExecSpec::default() };
    let made = match make_one_more(engine, &record.id, exec, Some(streams)).await {
        Ok((_, made)) => made,
        Err(error) => return failed(start_ns, error.to_string()),
    };
    let pidfd = made.descriptors.into_iter().next().map(Rc::new);
    let mut ending = Ending::new(made.pid, pidfd.clone(), Some(made.end));
    let mut said = Output::default();
    let ended = timeout_at(deadline, async {
        let mut is_open = true;
        let mut bytes = [0; 4096];
        loop {
            tokio::select! {
                end = ending.wait() => return end,
                more = read.read(&mut bytes), if is_open => match more {
                    Ok(length) if length > 0 => said.take(&bytes[..length]),
                    _ => is_open = false,
                },
            }
        }
    });
    let ended = ended.await;
    last_words(&read, &mut said);
    match ended {
        Ok(end) => Outcome {
            start_ns,
            end_ns: now_ns(),
            exit_code: i32::from(exit_code(end.exit)),
            output: said.text(),
        },
        Err(_) => {
            if let Some(pidfd) = pidfd
                && let Err(error) = process::send_signal(pidfd.as_fd(), libc::SIGKILL)
            {
                tracing::debug!("end a check of container {}: {}", record.id, cause(&error));
            }
            Outcome::timed_out(start_ns, now_ns(), limit, &said.text())
        }
    }
}

/// A check's streams, and the end from which what it writes is read.
fn ends() -> io::Result<(Receiver, [OwnedFd; 3])> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    let null = std::fs::OpenOptions::new().read(true).open("/dev/null")?.into();
    Ok((Receiver::from_owned_fd(read)?, [null, write.try_clone()?, write]))
}

/// What was written before the end and has not been read. Asks the pipe itself, which does not block: the runtime may not have
/// noticed yet that there is something.
fn last_words(read: &Receiver, said: &mut Output) {
    let mut bytes = [0; 4096];
    for _ in 0..LAST_WORDS_BYTES / bytes.len() {
        match nix::unistd::read(read, &mut bytes) {
            Ok(length) if length > 0 => said.take(&bytes[..length]),
            _ => return,
        }
    }
}
