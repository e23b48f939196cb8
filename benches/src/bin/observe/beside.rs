//! What looks on while something is measured.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use skiff_benches::lab::Lab;

/// How long a daemon may take to load what is always on: the verifier of a busy host is slow.
const LOADED: Duration = Duration::from_secs(60);

/// Who looks on.
#[derive(Debug, Clone)]
pub(crate) enum Watch {
    Nobody,
    /// `skiff observe on` with these probes.
    Probes(&'static str),
    /// A daemon, with what it always counts, started with these words too.
    Daemon(&'static [&'static str]),
    /// A daemon, and the programs of these probes.
    Both(&'static str),
    /// A container beside, recorded by `skiff run --profile`.
    Neighbour,
    /// Another program, which prints `ready`, or is ready when it has opened a perf event on each CPU.
    Tool {
        words: Vec<String>,
        says_ready: bool,
    },
}

impl Watch {
    /// Whether containers are the daemon's.
    pub(crate) const fn has_daemon(&self) -> bool {
        matches!(self, Self::Daemon(_) | Self::Both(_))
    }
}

/// Somebody who looks on, until this is dropped.
#[derive(Debug)]
pub(crate) struct Watching<'a> {
    lab: &'a Lab,
    pinned: bool,
    daemon: bool,
    child: Option<Child>,
}

/// `skiff` with directories of its own, and without a daemon.
pub(crate) fn skiff(lab: &Lab) -> Command {
    let mut command = Command::new(lab.program("skiff"));
    command.env("SKIFF_ROOT", lab.path("engine")).env("SKIFF_RUN_ROOT", lab.state().join("engine"));
    command.env("SKIFF_DAEMON", "off").stdin(Stdio::null()).stderr(Stdio::null());
    command
}

/// `skiff` that asks the daemon which looks on.
pub(crate) fn client(lab: &Lab) -> Command {
    let mut command = skiff(lab);
    command.env_remove("SKIFF_DAEMON");
    command
}

impl<'a> Watching<'a> {
    pub(crate) fn begin(lab: &'a Lab, watch: &Watch) -> Result<Self> {
        let mut watching = Self { lab, pinned: false, daemon: false, child: None };
        match watch {
            Watch::Nobody => {}
            Watch::Probes(probes) => {
                watching.pinned = true;
                run(skiff(lab).args(["observe", "on", probes]))?;
            }
            Watch::Daemon(words) => watching.start_daemon(words)?,
            Watch::Both(probes) => {
                watching.pinned = true;
                run(skiff(lab).args(["observe", "on", probes]))?;
                watching.start_daemon(&[])?;
            }
            Watch::Neighbour => {
                let (record, image) = (lab.path("record.json"), format!("rootfs:{}", lab.rootfs().display()));
                let profile = format!("--profile={}", record.display());
                let mut command = skiff(lab);
                command.args(["run", "--rm", "-i", &profile, &image, "/bin/spin", "wait"]);
                watching.child = Some(spawn(command.stdin(Stdio::piped()))?);
                watching.await_ready()?;
            }
            Watch::Tool { words, says_ready } => {
                let mut command = Command::new(words.first().map_or("", String::as_str));
                command.args(words.iter().skip(1)).stdin(Stdio::null()).stderr(Stdio::null());
                watching.child = Some(spawn(&mut command)?);
                if *says_ready {
                    watching.await_ready()?;
                } else {
                    watching.await_events(&words[0])?;
                }
            }
        }
        Ok(watching)
    }

    fn start_daemon(&mut self, words: &[&str]) -> Result<()> {
        let lab = self.lab;
        for directory in [lab.path("engine"), lab.state().join("engine")] {
            fs::create_dir_all(directory).context("make a directory for the daemon")?;
        }
        self.daemon = true;
        self.child = Some(spawn(client(lab).args(["daemon", "--idle-timeout", "600"]).args(words))?);
        until(|| run(client(lab).args(["ps", "--quiet"])).is_ok()).context("the daemon does not answer")?;
        // What is always on is loaded after that.
        let state = || said(client(lab).args(["version", "--format", "{{.Server.Events}}"]));
        let is_told = || state().is_ok_and(|state| state.trim_end() != "loading");
        until_within(LOADED, is_told).context("the daemon does not load its programs")?;
        match state()?.trim_end() {
            "loaded" => Ok(()),
            refused => bail!("the daemon counts nothing: {refused}"),
        }
    }

    /// Waits until the program looks at every CPU.
    fn await_events(&mut self, name: &str) -> Result<()> {
        let child = self.child.as_mut().context("it was started")?;
        let directory = format!("/proc/{}/fd", child.id());
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        let is_event = |entry: &fs::DirEntry| {
            fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().contains("perf_event"))
        };
        let mut ended = None;
        let opened = until(|| {
            ended = child.try_wait().ok().flatten();
            let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
            ended.is_some() || entries.filter(is_event).count() >= cpus
        });
        match ended {
            Some(status) => bail!("{name} ended with {status}"),
            None => opened.with_context(|| format!("{name} opens no events")),
        }
    }

    fn await_ready(&mut self) -> Result<()> {
        let output =
            self.child.as_mut().and_then(|child| child.stdout.take()).context("its output is a pipe")?;
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        let ready = lines.any(|line| line.trim() == "ready");
        // Whatever it prints at the end must not fill the pipe.
        thread::spawn(move || lines.count());
        if ready { Ok(()) } else { bail!("what is to look on did not get ready") }
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        let mut failed = Vec::new();
        if self.pinned {
            failed.extend(run(skiff(self.lab).args(["observe", "off"])).err());
        }
        if self.daemon {
            failed.extend(run(client(self.lab).args(["daemon", "--stop"])).err());
        }
        if let Some(child) = self.child.take() {
            failed.extend(stop(child).err());
        }
        failed.iter().for_each(|error| eprintln!("{error:#}"));
    }
}

/// Ends a program by the end of its input or, where that is not heeded, by SIGINT.
pub(crate) fn stop(mut child: Child) -> Result<()> {
    drop(child.stdin.take());
    let pid = Pid::from_raw(i32::try_from(child.id()).context("a process id is small")?);
    for turn in 0..1000 {
        if child.try_wait().context("wait for a program")?.is_some() {
            return Ok(());
        }
        // Later at the earliest, so that a container ends by itself; again for those that are slow to notice.
        if turn % 50 == 10 {
            kill(pid, Signal::SIGINT).context("stop a program")?;
        }
        thread::sleep(Duration::from_millis(10));
    }
    child.kill().and_then(|()| child.wait()).context("kill a program")?;
    bail!("a program had to be killed")
}

/// Waits for up to ten seconds until `is` is so.
pub(crate) fn until(is: impl FnMut() -> bool) -> Result<()> {
    until_within(Duration::from_secs(10), is)
}

fn until_within(time: Duration, mut is: impl FnMut() -> bool) -> Result<()> {
    let begun = Instant::now();
    while !is() {
        if begun.elapsed() >= time {
            bail!("it took too long");
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// What a program prints that succeeds.
pub(crate) fn said(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("start {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!("{:?} ended with {}", command.get_program(), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn spawn(command: &mut Command) -> Result<Child> {
    command.stdout(Stdio::piped()).spawn().with_context(|| format!("start {:?}", command.get_program()))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdout(Stdio::null()).stderr(Stdio::piped()).output();
    let output = output.with_context(|| format!("start {:?}", command.get_program()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    bail!("{:?} {:?}: {}", command.get_program(), command.get_args().collect::<Vec<_>>(), said.trim())
}
