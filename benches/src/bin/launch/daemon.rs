//! A daemon for the benchmark, and what is asked of it.

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::unistd::pipe;
use serde_json::Value;
use skiff_benches::lab::Lab;
use skiff_engine::protocol::{LaunchTimes, Reply, Request};
use skiff_engine::{Client, Spec};
use skiff_runtime::options::Options;
use skiff_sys::clock::monotonic_ns;

use crate::Sample;

/// How long it may take to listen.
const READY: Duration = Duration::from_secs(30);

/// A daemon of directories of its own; it and all of its containers are gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    program: PathBuf,
    pub(crate) state: PathBuf,
    pub(crate) run: PathBuf,
    image: String,
    null: OwnedFd,
    process: Option<Child>,
}

impl Daemon {
    /// Starts one that parks as many ahead as it does by default.
    pub(crate) fn start(lab: &Lab) -> Result<Self> {
        let null = fs::File::options().read(true).write(true).open("/dev/null")?.into();
        let (state, run) = (lab.path("engine"), lab.state().join("engine"));
        fs::create_dir_all(&state)?;
        fs::create_dir_all(&run)?;
        let image = format!("rootfs:{}", lab.rootfs().display());
        let mut daemon = Self { program: lab.program("skiff"), state, run, image, null, process: None };
        daemon.begin()?;
        Ok(daemon)
    }

    /// Starts the process, and waits until it listens; how long that took.
    pub(crate) fn begin(&mut self) -> Result<Duration> {
        let mut command = Command::new(&self.program);
        // It leaves by itself if this program has no time to end it.
        command.args(["daemon", "--idle-timeout", "600"]);
        command.env("SKIFF_ROOT", &self.state).env("SKIFF_RUN_ROOT", &self.run);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(fs::File::create(self.run.join("stderr")).context("make a file for what goes wrong")?);
        let begun = Instant::now();
        self.process = Some(command.spawn().context("start the daemon")?);
        while Client::reach(&self.run)?.is_none() {
            if begun.elapsed() > READY {
                bail!("the daemon does not listen");
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(begun.elapsed())
    }

    /// Ends the process by SIGKILL; containers and the spawner go on.
    pub(crate) fn kill(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    /// The process, and that of its spawner.
    pub(crate) fn pids(&self) -> Result<Vec<i32>> {
        let version = self.documents(&Request::Version)?;
        let own = self.process.as_ref().map(|process| process.id().cast_signed());
        let spawner = version.first().and_then(|version| version["spawner_pid"].as_i64());
        Ok(own.into_iter().chain(spawner.and_then(|pid| i32::try_from(pid).ok())).collect())
    }

    /// Everything that it answers with documents.
    pub(crate) fn documents(&self, request: &Request) -> Result<Vec<Value>> {
        let mut client = self.client()?;
        client.request(request, &[])?;
        match client.reply()? {
            (Reply::Documents { documents, .. }, _) => Ok(documents),
            (other, _) => bail!("{other:?} instead of documents"),
        }
    }

    fn client(&self) -> Result<Client> {
        Client::reach(&self.run)?.context("the daemon is gone")
    }

    fn spec(&self, program: &str, auto_remove: bool) -> Box<Spec> {
        let command = vec![program.into()];
        let options = Options::default();
        Box::new(Spec { image: self.image.clone(), command, options, auto_remove, ..Spec::default() })
    }

    /// Asks for a run of `/bin/now` with the complete default configuration, and does not wait.
    pub(crate) fn ask(&self, pool: bool) -> Result<Asked> {
        let (read, write) = pipe()?;
        let spec = self.spec("/bin/now", true);
        let asked_ns = monotonic_ns();
        let mut client = self.client()?;
        let streams: [BorrowedFd<'_>; 3] = [self.null.as_fd(), write.as_fd(), self.null.as_fd()];
        client.request(&Request::Run { spec, attach: true, pool, terminal: None }, &streams)?;
        Ok(Asked {
            client,
            output: read,
            asked_ns,
            started_ns: 0,
            ended_ns: 0,
            times: LaunchTimes::default(),
        })
    }

    /// Asks for a run and waits for its end.
    pub(crate) fn launch(&self, pool: bool) -> Result<Sample> {
        let mut asked = self.ask(pool)?;
        while !asked.advance()? {}
        asked.sample()
    }

    /// As [`Daemon::launch`] of one that is parked, with the ends of its [`STAGES`], µs.
    pub(crate) fn launch_in_stages(&self) -> Result<(Sample, [f64; STAGES.len()])> {
        let mut asked = self.ask(true)?;
        while !asked.advance()? {}
        asked.stages()
    }

    /// Starts `count` containers that wait for ever; their ids.
    pub(crate) fn stand_by(&self, count: usize) -> Result<Vec<String>> {
        let mut ids = Vec::with_capacity(count);
        let mut waiting = std::collections::VecDeque::new();
        while ids.len() < count {
            if ids.len() + waiting.len() < count && waiting.len() < 16 {
                let mut client = self.client()?;
                let spec = self.spec("/bin/pause", false);
                client.request(&Request::Run { spec, attach: false, pool: true, terminal: None }, &[])?;
                waiting.push_back(client);
                continue;
            }
            let mut client = waiting.pop_front().context("somebody waits")?;
            match client.reply()? {
                (Reply::Started { id, .. }, _) => ids.push(id),
                (other, _) => bail!("{other:?} instead of a start"),
            }
        }
        Ok(ids)
    }

    /// Removes containers, running or not.
    pub(crate) fn remove(&self, ids: &[String]) -> Result<()> {
        for containers in ids.chunks(200) {
            let mut client = self.client()?;
            client.request(&Request::Remove { containers: containers.to_vec(), force: true }, &[])?;
            match client.reply()? {
                (Reply::Done { errors, .. }, _) if errors.is_empty() => {}
                (other, _) => bail!("{other:?} instead of a removal"),
            }
        }
        Ok(())
    }

    /// Waits until nothing is left of containers that have ended, `live` of which go on.
    pub(crate) fn settle(&self, live: usize) -> Result<()> {
        let begun = Instant::now();
        let parked = || self.parked().unwrap_or(0);
        let left = || fs::read_dir(self.state.join("containers")).map_or(0, Iterator::count);
        while left() > live + parked() {
            if begun.elapsed() > READY {
                bail!("{} containers are left, {live} of which go on", left());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// How many are parked, or being parked.
    pub(crate) fn parked(&self) -> Result<usize> {
        let number = |pool: &Value, field: &str| pool[field].as_u64().unwrap_or(0);
        let pools = self.documents(&Request::Pools)?;
        let all: u64 = pools.iter().map(|pool| number(pool, "ready") + number(pool, "under_way")).sum();
        Ok(usize::try_from(all)?)
    }
}

impl Daemon {
    /// Removes whatever containers there are.
    fn clear(&self) -> Result<()> {
        let listed = self.documents(&Request::List { all: true })?;
        let id = |container: &Value| container["Id"].as_str().map(str::to_owned);
        self.remove(&listed.iter().filter_map(id).collect::<Vec<_>>())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            eprintln!("remove what is left: {error:#}");
        }
        let spawner = self.pids().ok().and_then(|pids| pids.get(1).copied());
        if let Ok(mut client) = self.client()
            && client.request(&Request::Leave, &[]).is_ok()
        {
            // Whatever it answers, it leaves.
            drop(client.reply());
        }
        if let Some(process) = &mut self.process
            && let Err(error) = process.wait()
        {
            eprintln!("wait for the daemon: {error}");
        }
        // Without a daemon and containers it leaves by itself, in a while; what it keeps lies in directories that go.
        let begun = Instant::now();
        while spawner.is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists())
            && begun.elapsed() < READY
        {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A run that was asked for.
#[derive(Debug)]
pub(crate) struct Asked {
    client: Client,
    output: OwnedFd,
    pub(crate) asked_ns: u64,
    started_ns: u64,
    ended_ns: u64,
    times: LaunchTimes,
}

impl Asked {
    /// Takes the next answer; whether it was the last.
    pub(crate) fn advance(&mut self) -> Result<bool> {
        match self.client.reply()? {
            (Reply::Started { times, .. }, _) => {
                self.started_ns = monotonic_ns();
                self.times = times.unwrap_or_default();
                Ok(false)
            }
            (Reply::Exited { code: 0, .. }, _) => {
                self.ended_ns = monotonic_ns();
                Ok(true)
            }
            (other, _) => bail!("{other:?} instead of a start or an end"),
        }
    }

    /// What was measured, when it has ended.
    pub(crate) fn sample(self) -> Result<Sample> {
        self.stages().map(|(sample, _)| sample)
    }

    /// The same, with the ends of its [`STAGES`], µs after it was asked for.
    pub(crate) fn stages(self) -> Result<(Sample, [f64; STAGES.len()])> {
        let mut first = [0; 8];
        fs::File::from(self.output).read_exact(&mut first).context("read when it began")?;
        let since = |ns: u64| ns.saturating_sub(self.asked_ns) as f64 / 1e3;
        let (times, first) = (self.times, u64::from_ne_bytes(first));
        let parts =
            [times.received, times.sent, times.woken, times.streams_taken, times.security_done, first];
        let mut stages = [0.0; STAGES.len()];
        for (stage, end) in stages.iter_mut().zip(parts) {
            *stage = since(end);
        }
        let (first_us, started_us) = (since(first), since(self.started_ns));
        Ok((Sample { first_us, started_us, whole_us: since(self.ended_ns) }, stages))
    }
}

/// The parts of the way from a request to the first instruction, in order.
pub(crate) const STAGES: [&str; 6] = [
    "client asks, daemon reads",
    "daemon takes a parked one, sends",
    "parked init wakes, reads",
    "streams, variables",
    "what is left of security",
    "filter unless loaded ahead, execve, first instruction",
];

impl AsFd for Asked {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.client.as_fd()
    }
}
