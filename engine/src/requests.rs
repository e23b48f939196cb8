//! What clients ask for, one function each.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use skiff_runtime::{Options, spawner};
use skiff_sys::process;

use crate::connection::Connection;
use crate::container::{Command, Done, From, Owner, Start, Started};
use crate::containers::{Entry, Life};
use crate::ending::{Ending, exit_code, now_ns};
use crate::engine::{Engine, Ready};
use crate::figures::sample;
use crate::link::Made;
use crate::prefetch::{Mode, Subject};
use crate::protocol::{ExecSpec, LaunchTimes, Reply, Request, TerminalSize};
use crate::spec::{LogDriver, LogSpec};
use crate::state::{Verdict, Wish, legal};
use crate::{Error, Record, Spec, document, documents, image, log, names};

/// Until then pools are not refilled on account of a program that somebody attends, unless somebody waits for one.
const SOON: Duration = Duration::from_millis(1);

/// How long an image that is to go waits for containers to be cleared away, and between two looks at them.
const CLEARING: Duration = Duration::from_secs(2);
const CLEARING_LOOK: Duration = Duration::from_millis(1);

/// What `run` and `start` are told at most, beside the end.
type Answer = Result<Reply, Error>;

/// Carries out one request and answers it.
///
/// Errors: the client has gone; nobody has to know.
pub(crate) async fn carry_out(
    engine: &Rc<Engine>,
    connection: &Connection,
    request: Request,
    descriptors: Vec<OwnedFd>,
) -> std::io::Result<()> {
    let is_more = matches!(
        request,
        Request::Run { .. } | Request::Start { .. } | Request::Attach { .. } | Request::Exec { .. }
    );
    if is_more && let Err(error) = engine.room(connection.number()) {
        return tell(connection, Err(error), &[]).await;
    }
    let answer = match request {
        Request::Run { spec, attach, pool, terminal } => {
            let streams = attach.then_some(descriptors);
            return run(engine, connection, *spec, streams, Use::Now { pool }, terminal).await;
        }
        Request::Start { containers, attach: true, terminal } => {
            return start_attached(engine, connection, &containers, descriptors, terminal).await;
        }
        Request::Wait { containers } => return wait(engine, connection, &containers).await,
        Request::Logs { container, follow } => return logs(engine, connection, &container, follow).await,
        Request::Attach { container, input } => return attach(engine, connection, &container, input).await,
        Request::Create { spec } => make(engine, *spec, Use::Later)
            .await
            .map(|(entry, _)| Reply::Created { id: entry.record().id.clone() }),
        Request::Start { containers, attach: false, .. } => {
            each(engine, containers, &|| Command::Start(Box::default())).await
        }
        Request::Stop { containers, signal, timeout } => {
            each(engine, containers, &|| Command::Stop { signal, timeout }).await
        }
        Request::Restart { containers, timeout } => {
            each(engine, containers, &|| Command::Restart { timeout }).await
        }
        Request::Kill { containers, signal } => each(engine, containers, &|| Command::Kill { signal }).await,
        Request::Signal { container, process, signal } => self::signal(engine, &container, process, signal),
        Request::Pause { containers, frozen } => each(engine, containers, &|| Command::Freeze(frozen)).await,
        Request::Remove { containers, force } => {
            each(engine, containers, &|| Command::Remove { force }).await
        }
        Request::Rename { container, name } => {
            each(engine, vec![container], &|| Command::Rename { name: name.clone() }).await
        }
        Request::List { all } => Ok(list(engine, all)),
        Request::Inspect { containers } => inspect(engine, &containers).await,
        Request::Figures { containers } => figures(engine, &containers).await,
        Request::ForgetImage { id } => Ok(forget_image(engine, id).await),
        Request::Pools => Ok(pools(engine)),
        Request::Version => Ok(version(engine)),
        Request::Exec { container, exec, attach } => {
            return run_one_more(engine, connection, &container, *exec, attach.then_some(descriptors)).await;
        }
        Request::Leave => Err(Error::Invalid("the daemon leaves by itself".into())),
    };
    tell(connection, answer, &[]).await
}

async fn tell(connection: &Connection, answer: Answer, descriptors: &[OwnedFd]) -> std::io::Result<()> {
    let reply = answer.unwrap_or_else(|error| match error {
        Error::NoSuchImage(image) => Reply::NoSuchImage { image },
        error => Reply::Failed { code: error.exit_code(), message: error.to_string() },
    });
    let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    connection.reply(&reply, &descriptors).await
}

/// What a container is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// To be started by somebody.
    Later,
    /// To be started at once; whether one that was made ahead may be taken.
    Now { pool: bool },
}

/// Makes a container known that nobody has asked to run yet.
async fn make(engine: &Rc<Engine>, spec: Spec, purpose: Use) -> Result<(Rc<Entry>, Option<Ready>), Error> {
    if purpose == (Use::Now { pool: true }) {
        engine.rouse(&spec.image);
    }
    if spec.log.driver == LogDriver::Journald {
        log::look_for_journal().map_err(|error| {
            Error::Invalid(format!("log to {}: {}", log::JOURNAL, skiff_runtime::cause(&error)))
        })?;
    }
    let (image, lease) = engine.images.resolve(&spec.image).await?;
    let (stop_signal, image_id) = (image::stop_signal(&spec, &image.config)?, image.id.clone());
    let health = image::health(&spec, &image.config)?;
    let options = image::fold(&spec, image)?;
    if spec.prefetch == Mode::Record {
        prepare_recording(engine, image_id.as_deref(), &options).await?;
    }
    // Now, for making a container reads from a cold disk as well.
    if matches!(purpose, Use::Now { .. })
        && let Some(subject) = Subject::of(image_id.as_deref(), &options)
    {
        engine.prefetcher.announce(subject, spec.prefetch);
    }
    // One that is taken is told of before anything is done for it; one that is drawn is to be free when it is given.
    let wanted = options.name.as_deref();
    wanted.map_or(Ok(()), |name| engine.containers.borrow().names.check_free("", name))?;
    let ready = match purpose {
        Use::Now { pool: true } => {
            let plan = engine.plan(&options);
            engine.expect(&spec.image, plan.key);
            engine.ready(&plan).await
        }
        _ => None,
    };
    let id = match &ready {
        Some(ready) => ready.parked.container().id.clone(),
        None => names::draw_id().map_err(|error| Error::Host(format!("draw an id: {error}")))?,
    };
    let name = match take_name(engine, &id, wanted) {
        Ok(name) => name,
        Err(error) => {
            // Somebody else was quicker; what waits is of no use to others, for it has an id.
            ready.into_iter().for_each(|ready| engine.discard(ready));
            return Err(error);
        }
    };
    let record = Record {
        id,
        name,
        // What the image has, too, is in the options.
        spec: Spec { options, health, env: Vec::new(), env_file: Vec::new(), ..spec },
        image_id,
        stop_signal,
        created_ns: now_ns(),
        ..Record::default()
    };
    if purpose == Use::Later
        && let Err(error) = engine.records.write(&record)
    {
        engine.containers.borrow_mut().forget(&record.id);
        let cause = skiff_runtime::cause(&error);
        return Err(Error::Host(format!("write the container's record: {cause}")));
    }
    Ok((Owner::begin(engine, record, From::Client(lease)), ready))
}

/// Lets go of an image. Containers that there are keep what they have of it; those whose end has been told are cleared away first.
async fn forget_image(engine: &Rc<Engine>, id: Option<String>) -> Reply {
    for layers in engine.images.forget(id.as_deref()) {
        engine.give_up(&layers);
    }
    let cleared = async {
        while engine.containers.borrow().are_going(id.as_deref()) {
            tokio::time::sleep(CLEARING_LOOK).await;
        }
    };
    // One that takes longer keeps what it has.
    drop(tokio::time::timeout(CLEARING, cleared).await);
    Reply::Done { names: id.into_iter().collect(), errors: Vec::new() }
}

/// Sees to it that what the container uses can be recorded.
async fn prepare_recording(engine: &Engine, image_id: Option<&str>, options: &Options) -> Result<(), Error> {
    if Subject::of(image_id, options).is_none() {
        return Err(Error::Invalid("prefetch: only images that have layers can be recorded".into()));
    }
    let loaded = tokio::task::spawn_blocking(engine.prefetcher.prepare()).await;
    let loaded = loaded.map_err(|error| Error::Host(error.to_string()))?;
    loaded.map_err(|reason| Error::Host(format!("prefetch: {reason}")))
}

/// Gives container `id` the name that is wanted, if it is free; else one that is.
fn take_name(engine: &Engine, id: &str, wanted: Option<&str>) -> Result<String, Error> {
    let mut containers = engine.containers.borrow_mut();
    let name = match wanted {
        Some(name) => name.to_owned(),
        None => containers.names.draw().map_err(|error| Error::Host(format!("draw a name: {error}")))?,
    };
    containers.names.give(id, &name)?;
    Ok(name)
}

async fn run(
    engine: &Rc<Engine>,
    connection: &Connection,
    spec: Spec,
    streams: Option<Vec<OwnedFd>>,
    purpose: Use,
    terminal: Option<TerminalSize>,
) -> std::io::Result<()> {
    let received = skiff_sys::clock::monotonic_ns();
    let is_attached = streams.is_some();
    let made = match streams_of(streams.unwrap_or_default(), is_attached && !spec.options.tty) {
        Ok(streams) => make(engine, spec, purpose).await.map(|made| (made, streams)),
        Err(error) => Err(error),
    };
    let ((entry, ready), streams) = match made {
        Ok(made) => made,
        Err(error) => return tell(connection, Err(error), &[]).await,
    };
    start(
        engine,
        connection,
        &entry,
        Start { ready, streams, is_attached, terminal, asked_ns: None },
        received,
    )
    .await
}

async fn start_attached(
    engine: &Rc<Engine>,
    connection: &Connection,
    containers: &[String],
    descriptors: Vec<OwnedFd>,
    terminal: Option<TerminalSize>,
) -> std::io::Result<()> {
    let received = skiff_sys::clock::monotonic_ns();
    let one = match containers {
        [one] => engine.containers.borrow().find(one),
        _ => Err(Error::Invalid("only one container can be attached to".into())),
    };
    let found = one.and_then(|entry| {
        let has_streams = !entry.record().spec.options.tty;
        Ok((streams_of(descriptors, has_streams)?, entry))
    });
    match found {
        Ok((streams, entry)) => {
            let start = Start { streams, is_attached: true, terminal, ..Start::default() };
            self::start(engine, connection, &entry, start, received).await
        }
        Err(error) => tell(connection, Err(error), &[]).await,
    }
}

/// The three streams that come with a request, or none.
fn streams_of(descriptors: Vec<OwnedFd>, are_wanted: bool) -> Result<Option<[OwnedFd; 3]>, Error> {
    if !are_wanted {
        return Ok(None);
    }
    let streams = <[OwnedFd; 3]>::try_from(descriptors);
    streams.map(Some).map_err(|_| Error::Invalid("three streams have to come with an attached start".into()))
}

/// Starts a container, tells of it and, if somebody is attached, of its end.
async fn start(
    engine: &Rc<Engine>,
    connection: &Connection,
    entry: &Entry,
    mut start: Start,
    received: u64,
) -> std::io::Result<()> {
    let is_attached = start.is_attached;
    start.asked_ns = Some(received);
    // Nobody will ever attend it.
    let end = async || {
        let end = Command::Stop { signal: Some(libc::SIGKILL), timeout: Some(Duration::ZERO) };
        drop(entry.ask(end).await);
    };
    let asked = tokio::select! {
        biased;
        asked = entry.ask(Command::Start(Box::new(start))) => asked,
        // Once it is on its way.
        () = async { tokio::task::yield_now().await; connection.gone().await }, if is_attached => {
            end().await;
            return Ok(());
        }
    };
    let is_new = matches!(asked, Ok(Done::Started(_)));
    let Started { pid, descriptors, times } = match asked {
        Ok(Done::Started(started)) => started,
        Ok(Done::Done) => Started { pid: 0, descriptors: Vec::new(), times: None },
        Err(error) => return tell(connection, Err(error), &[]).await,
    };
    let record = entry.record();
    let times = times.map(|times| LaunchTimes {
        received,
        sent: times.sent,
        woken: times.woken,
        streams_taken: times.streams_taken,
        security_done: times.security_done,
        exec_seen: times.exec_seen,
    });
    let reply = Reply::Started { id: record.id.clone(), pid, stop_signal: record.stop_signal, times };
    let told = tell(connection, Ok(reply), &descriptors).await;
    drop(descriptors);
    if told.is_err() && is_attached && is_new {
        // It had gone before it was started, which need not be seen above.
        end().await;
    }
    if !is_attached || !is_new || told.is_err() {
        engine.refill();
        return told;
    }
    let started_ns = record.started_ns;
    drop(record);
    let mut records = entry.record.clone();
    let has_ended = |record: &Arc<Record>| record.finished_ns >= started_ns;
    // What is made ahead competes with what was asked for, and so it does with a program that is soon over.
    if tokio::time::timeout(SOON, records.wait_for(has_ended)).await.is_ok() {
        let told = tell(connection, Ok(exited(&entry.record())), &[]).await;
        engine.refill();
        return told;
    }
    engine.refill();
    tokio::select! {
        _ = records.wait_for(has_ended) => {}
        () = connection.gone() => {
            // It goes on; whoever attaches to it, or reads its log, is told what it writes from now on.
            let _abandoned = entry.ask(Command::Abandon).await;
            return Ok(());
        }
    }
    tell(connection, Ok(exited(&entry.record())), &[]).await
}

fn exited(record: &Record) -> Reply {
    Reply::Exited { id: record.id.clone(), code: record.exit_code }
}

async fn wait(engine: &Engine, connection: &Connection, containers: &[String]) -> std::io::Result<()> {
    for container in containers {
        let found = engine.containers.borrow().find(container);
        let entry = match found {
            Ok(entry) => entry,
            Err(error) => return tell(connection, Err(error), &[]).await,
        };
        let mut records = entry.record.clone();
        tokio::select! {
            // If its owner goes, what it said last stands.
            _ = records.wait_for(|record| !record.state.is_live()) => {}
            () = connection.gone() => return Ok(()),
        }
        tell(connection, Ok(exited(&entry.record())), &[]).await?;
    }
    Ok(())
}

async fn logs(
    engine: &Engine,
    connection: &Connection,
    container: &str,
    follow: bool,
) -> std::io::Result<()> {
    let found = engine.containers.borrow().find(container);
    let opened = found.and_then(|entry| {
        let record = entry.record();
        if record.spec.log.driver != LogDriver::File {
            return Err(Error::Conflict("configured logging driver does not support reading".into()));
        }
        let directory = engine.records.log_directory(&record.id);
        let text = |error: std::io::Error| {
            Error::Host(format!("open {}: {}", directory.display(), skiff_runtime::cause(&error)))
        };
        // One that was never started has written nothing; of one that is being removed nothing is made again.
        match std::fs::DirBuilder::new().mode(0o755).create(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(text(error)),
            _ => {}
        }
        let opened = log::open_directory(&directory).map_err(text)?;
        Ok((Reply::Log { id: record.id.clone(), tty: record.spec.options.tty }, opened, entry.clone()))
    });
    let (reply, directory, entry) = match opened {
        Ok(opened) => opened,
        Err(error) => return tell(connection, Err(error), &[]).await,
    };
    if !follow {
        entry.await_last_words().await;
    }
    tell(connection, Ok(reply), &[directory]).await?;
    if follow { tell_end(connection, &entry).await } else { Ok(()) }
}

async fn attach(
    engine: &Engine,
    connection: &Connection,
    container: &str,
    input: bool,
) -> std::io::Result<()> {
    let found = engine.containers.borrow().find(container);
    let opened = match found {
        Ok(entry) => look_on(&entry, input).await.map(|opened| (entry, opened)),
        Err(error) => Err(error),
    };
    let (entry, (live, descriptors)) = match opened {
        Ok(opened) => opened,
        Err(error) => return tell(connection, Err(error), &[]).await,
    };
    let record = entry.record();
    let reply = Reply::Log { id: record.id.clone(), tty: record.spec.options.tty };
    drop(record);
    tell(connection, Ok(reply), &descriptors).await?;
    drop(descriptors);
    let told = tell_end(connection, &entry).await;
    drop(live);
    told
}

/// What is needed to see what a container writes, and to feed it: its log, which is kept as long as the first is held, its
/// process, and where its input goes.
async fn look_on(entry: &Entry, input: bool) -> Result<(log::Live, Vec<OwnedFd>), Error> {
    let name = entry.record().name.clone();
    let life = entry.life.borrow().clone();
    let life = life.ok_or_else(|| Error::Conflict(format!("container {name} is not running")))?;
    let text = |error: std::io::Error| {
        Error::Host(format!("attach to container {name}: {}", skiff_runtime::cause(&error)))
    };
    let writer = life.writer.borrow().clone();
    let writer = writer
        .ok_or_else(|| Error::Conflict(format!("the streams of container {name} are those of its client")))?;
    let live = writer.live().await.map_err(text)?;
    let mut descriptors = vec![live.directory.try_clone().map_err(text)?];
    let pidfd =
        life.pidfd.as_ref().ok_or_else(|| Error::Conflict(format!("container {name} is not running")))?;
    descriptors.push(pidfd.try_clone().map_err(text)?);
    let to = life.ends.terminal.as_ref().or(life.ends.input.as_ref().filter(|_| input));
    descriptors.extend(to.map(OwnedFd::try_clone).transpose().map_err(text)?);
    Ok((live, descriptors))
}

/// Tells of the end of a container, once all that it wrote is in its log.
async fn tell_end(connection: &Connection, entry: &Entry) -> std::io::Result<()> {
    tokio::select! {
        () = entry.settle() => {}
        () = connection.gone() => return Ok(()),
    }
    tell(connection, Ok(exited(&entry.record())), &[]).await
}

/// Has the same done to each of `containers`, beside each other.
async fn each(engine: &Rc<Engine>, containers: Vec<String>, command: &dyn Fn() -> Command) -> Answer {
    let tasks: Vec<_> = containers
        .into_iter()
        .map(|name| {
            let (found, command) = (engine.containers.borrow().find(&name), command());
            tokio::task::spawn_local(async move {
                let result = match found {
                    Ok(entry) => entry.ask(command).await.map(drop),
                    Err(error) => Err(error),
                };
                (name, result)
            })
        })
        .collect();
    let (mut names, mut errors) = (Vec::new(), Vec::new());
    for task in tasks {
        match task.await {
            Ok((name, Ok(()))) => names.push(name),
            Ok((_, Err(error))) => errors.push(error.to_string()),
            Err(error) => errors.push(error.to_string()),
        }
    }
    Ok(Reply::Done { names, errors })
}

/// Signals one process that a client attends.
fn signal(engine: &Engine, container: &str, process: Option<i32>, signal: i32) -> Answer {
    let entry = engine.containers.borrow().find(container)?;
    let record = entry.record();
    let own = |life: &Life| life.pidfd.clone().filter(|_| process.is_none_or(|pid| pid == life.pid));
    let first = entry.life.borrow().as_deref().and_then(own);
    let key = process.map(|pid| (record.id.clone(), pid));
    let attended = || key.and_then(|key| engine.attended.borrow().get(&key).cloned());
    // One that is not there has ended.
    let sent = first.or_else(attended).map_or(Ok(()), |pidfd| process::send_signal(pidfd.as_fd(), signal));
    match sent {
        Err(error) if error.raw_os_error() != Some(libc::ESRCH) => Err(Error::Host(format!(
            "signal a process of container {}: {}",
            record.name,
            skiff_runtime::cause(&error)
        ))),
        _ => Ok(Reply::Done { names: Vec::new(), errors: Vec::new() }),
    }
}

fn list(engine: &Engine, all: bool) -> Reply {
    let mut records: Vec<_> = engine.containers.borrow().all().iter().map(|entry| entry.record()).collect();
    records.retain(|record| all || record.state.is_live());
    records.sort_by_key(|record| std::cmp::Reverse(record.created_ns));
    let documents = records.iter().map(|record| document::summary(record)).collect();
    Reply::Documents { documents, errors: Vec::new() }
}

/// One document for each container that is found, and one line for each that is not.
async fn inspect(engine: &Engine, containers: &[String]) -> Answer {
    let (mut records, mut errors) = (Vec::new(), Vec::new());
    for word in containers {
        match engine.containers.borrow().find(word) {
            Ok(entry) => records.push(entry.record()),
            Err(error) => errors.push(error.to_string()),
        }
    }
    let live = records.iter().filter(|record| record.state.is_live()).map(|record| record.id.clone());
    let live: Vec<String> = live.collect();
    // Those that have ended meanwhile are not among them.
    let sampled = if live.is_empty() { Vec::new() } else { sample(engine, &live).await?.0 };
    let document = |record: &Arc<Record>| {
        let now = sampled.iter().find(|sampled| sampled.id == record.id).map(|sampled| &sampled.figures);
        document::inspect(record, now, &engine.records.directory(&record.id))
    };
    Ok(Reply::Documents { documents: records.iter().map(document).collect(), errors })
}

async fn figures(engine: &Engine, containers: &[String]) -> Answer {
    let (sampled, errors) = sample(engine, containers).await?;
    let documents = sampled.iter().map(|one| json!(one)).collect();
    Ok(Reply::Documents { documents, errors })
}

fn pools(engine: &Engine) -> Reply {
    let now_ns = skiff_sys::clock::monotonic_ns();
    let (pools, plans) = (engine.pools.borrow(), engine.plans.borrow());
    let documents = pools.summaries(now_ns).into_iter().map(|summary| {
        let image = plans.get(summary.key).map(|plan| plan.image()).unwrap_or_default();
        let pids = pools.iter(summary.key).map(|ready| ready.parked.container().pid);
        documents::pool(&summary, &image, pids.map(documents::memory_bytes).sum())
    });
    Reply::Documents { documents: documents.collect(), errors: Vec::new() }
}

fn version(engine: &Engine) -> Reply {
    let document = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "spawner_pid": engine.link.pid(),
        "events": engine.tracker.state(),
        "metrics": engine.metrics.as_ref().and_then(|metrics| metrics.at.clone()),
    });
    Reply::Documents { documents: vec![document], errors: Vec::new() }
}

/// Runs one more process in a container, and tells of its end if somebody is attached.
async fn run_one_more(
    engine: &Rc<Engine>,
    connection: &Connection,
    container: &str,
    exec: ExecSpec,
    streams: Option<Vec<OwnedFd>>,
) -> std::io::Result<()> {
    let is_attached = streams.is_some();
    let made = match streams_of(streams.unwrap_or_default(), is_attached && !exec.tty) {
        Ok(streams) => tokio::select! {
            made = make_one_more(engine, container, exec, streams) => made,
            // What is entered may hold whoever enters it for ever.
            () = connection.gone(), if is_attached => return Ok(()),
        },
        Err(error) => Err(error),
    };
    let (record, made) = match made {
        Ok(made) => made,
        Err(error) => return tell(connection, Err(error), &[]).await,
    };
    let started =
        Reply::Started { id: record.id.clone(), pid: made.pid, stop_signal: libc::SIGTERM, times: None };
    if !is_attached {
        return tell(connection, Ok(started), &[]).await;
    }
    tell(connection, Ok(started), &made.descriptors).await?;
    let mut descriptors = made.descriptors.into_iter();
    let (pidfd, terminal) = (descriptors.next().map(Rc::new), descriptors.next());
    let key = (record.id.clone(), made.pid);
    if let Some(pidfd) = &pidfd {
        engine.attended.borrow_mut().insert(key.clone(), pidfd.clone());
    }
    let mut ending = Ending::new(made.pid, pidfd, Some(made.end));
    let end = tokio::select! {
        end = ending.wait() => Some(end),
        () = connection.gone() => None,
    };
    engine.attended.borrow_mut().remove(&key);
    let Some(end) = end else {
        // Whoever was at its terminal has left: it goes on, and what it writes goes nowhere.
        terminal.into_iter().for_each(|terminal| drain(engine, terminal));
        return Ok(());
    };
    let code = exit_code(end.exit);
    tell(connection, Ok(Reply::Exited { id: record.id.clone(), code }), &[]).await
}

/// Takes what is written to a terminal that nobody looks at, so that nobody waits for that.
fn drain(engine: &Engine, terminal: OwnedFd) {
    let spec = LogSpec { driver: LogDriver::None, ..LogSpec::default() };
    let target = log::Target { spec, ..log::Target::default() };
    let writer = engine.logs.write(target, log::Streams::Terminal(terminal), log::Origin::New);
    tokio::task::spawn_local(async move { writer.finished().await });
}

/// Has the spawner start it.
pub(crate) async fn make_one_more(
    engine: &Rc<Engine>,
    container: &str,
    exec: ExecSpec,
    streams: Option<[OwnedFd; 3]>,
) -> Result<(Arc<Record>, Made), Error> {
    let entry = engine.containers.borrow().find(container)?;
    let record = entry.record();
    if let Verdict::Conflict(phrase) = legal(record.state, Wish::Exec) {
        return Err(Error::Conflict(format!("container {} {phrase}", record.name)));
    }
    let life = entry.life.borrow().clone();
    let pidfd = life.as_ref().and_then(|life| life.pidfd.clone());
    let (Some(life), Some(pidfd)) = (life, pidfd) else {
        return Err(Error::Conflict(format!("container {} is not running", record.name)));
    };
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = OwnedFd::from(null.map_err(|error| Error::Host(format!("open /dev/null: {error}")))?);
    let streams =
        streams.as_ref().map_or([null.as_fd(); 3], |streams| streams.each_ref().map(OwnedFd::as_fd));
    let options = options_of(&record, exec);
    let order = |ticket| spawner::Order::Exec {
        ticket,
        options: Box::new(options),
        pid: life.pid,
        cgroups: life.cgroups.clone(),
    };
    let [stdin, stdout, stderr] = streams;
    let made =
        engine.link.ask(order, &[pidfd.as_fd(), stdin, stdout, stderr]).await.map_err(cannot_invoke)?;
    Ok((record, made))
}

/// Whatever keeps one more process from being started is of its command, as with docker.
fn cannot_invoke(error: Error) -> Error {
    match error {
        Error::Host(message) => Error::Program { code: 126, message },
        error => error,
    }
}

/// The options of one more process: the container's, but for what is its own.
fn options_of(record: &Record, exec: ExecSpec) -> Options {
    let mut options = Options {
        id: record.id.clone(),
        argv: exec.argv,
        tty: exec.tty,
        interactive: exec.interactive,
        ..record.spec.options.clone()
    };
    options.env.extend(exec.env);
    options.privileged |= exec.privileged;
    if let Some(cwd) = exec.cwd {
        options.cwd = cwd;
    }
    if let Some(user) = exec.user {
        options.user = user;
    }
    options
}
