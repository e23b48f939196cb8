//! One launch by skiff's command line, of several kinds.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use skiff_benches::lab::Lab;
use skiff_benches::watchdog;

use crate::Random;

/// How often something is tried that a killed daemon may spoil.
const ATTEMPTS: usize = 40;

/// What a launch does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// `run --rm` to the end.
    Run,
    /// `run -d`, `wait`, `rm`.
    Detached,
    /// `run -d --rm` of a program that waits, whose process is killed from outside.
    Container,
    /// `run --rm` of a program that waits, whose client is killed; `rm -f`.
    Client,
    /// `create`, `start`, `kill`, `start` again, `rm -f`.
    Again,
}

impl Kind {
    pub(crate) fn any(random: &mut Random) -> Self {
        match random.below(100) {
            0..70 => Self::Run,
            70..80 => Self::Detached,
            80..90 => Self::Container,
            90..95 => Self::Client,
            _ => Self::Again,
        }
    }

    pub(crate) const fn describe(self) -> &'static str {
        match self {
            Self::Run => "run --rm",
            Self::Detached => "run -d, wait, rm",
            Self::Container => "run -d --rm, process killed",
            Self::Client => "run --rm, client killed",
            Self::Again => "create, start, kill, start, rm -f",
        }
    }
}

/// Skiff with roots of its own.
#[derive(Debug)]
pub(crate) struct Skiff {
    program: PathBuf,
    image: String,
    pub(crate) state: PathBuf,
    pub(crate) run: PathBuf,
    errors: PathBuf,
}

impl Skiff {
    pub(crate) fn new(lab: &Lab) -> Self {
        Self {
            program: lab.program("skiff"),
            image: format!("rootfs:{}", lab.rootfs().display()),
            state: lab.path("engine"),
            run: lab.state(),
            errors: lab.path("errors"),
        }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words).env_clear().env("SKIFF_ROOT", &self.state).env("SKIFF_RUN_ROOT", &self.run);
        command.current_dir("/").stdin(Stdio::null());
        command
    }

    /// Runs a command to its end, or kills it when it hangs; what it has printed.
    ///
    /// Its output goes to a file: what it starts may keep a pipe open.
    fn output(&self, words: &[&str]) -> Result<Output> {
        let name = format!("{:?}", thread::current().id());
        let path = |kind: &str| self.errors.with_file_name(format!("{kind}.{name}"));
        let mut command = self.command(words);
        command.stdout(std::fs::File::create(path("out"))?).stderr(std::fs::File::create(path("err"))?);
        let status = watchdog::run(&mut command)?;
        Ok(Output { status, stdout: std::fs::read(path("out"))?, stderr: std::fs::read(path("err"))? })
    }

    /// What a command prints. Errors: it fails.
    pub(crate) fn ask(&self, words: &[&str]) -> Result<String> {
        let output = self.output(words)?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            bail!("{}: {}: {}", words.join(" "), output.status, text.trim());
        }
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// Carries out the launch with this number. Whatever comes of it, its container is gone, or will go by itself.
    pub(crate) fn launch(&self, kind: Kind, number: usize, random: &mut Random) -> Result<()> {
        let name = format!("soak-{number}");
        let result = match kind {
            Kind::Run => return self.ask(&["run", "--rm", &self.image, "/bin/true"]).map(drop),
            Kind::Detached => self.detached(&name),
            Kind::Container => self.killed_container(&name, random),
            Kind::Client => self.killed_client(&name, random),
            Kind::Again => self.again(&name),
        };
        let removed = self.remove(&name);
        result.and(removed)
    }

    fn detached(&self, name: &str) -> Result<()> {
        self.ask(&["run", "-d", "--name", name, &self.image, "/bin/true"])?;
        match self.ask(&["wait", name])?.as_str() {
            "0" => Ok(()),
            other => bail!("ended with {other}"),
        }
    }

    fn killed_container(&self, name: &str, random: &mut Random) -> Result<()> {
        self.ask(&["run", "-d", "--rm", "--name", name, &self.image, "/bin/pause"])?;
        let pid = self.ask(&["inspect", "-f", "{{.State.Pid}}", name])?;
        let pid: i32 = pid.parse().with_context(|| format!("a process id: {pid:?}"))?;
        if pid <= 0 {
            bail!("a container that runs has no process");
        }
        thread::sleep(Duration::from_micros(random.below(3000)));
        kill(Pid::from_raw(pid), Signal::SIGKILL).context("kill the container's process")
    }

    fn killed_client(&self, name: &str, random: &mut Random) -> Result<()> {
        let mut command = self.command(&["run", "--rm", "--name", name, &self.image, "/bin/pause"]);
        let mut client = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        thread::sleep(Duration::from_micros(random.below(6000)));
        client.kill()?;
        client.wait()?;
        Ok(())
    }

    fn again(&self, name: &str) -> Result<()> {
        self.ask(&["create", "--name", name, &self.image, "/bin/pause"])?;
        self.ask(&["start", name])?;
        self.ask(&["kill", name])?;
        self.ask(&["wait", name])?;
        self.ask(&["start", name]).map(drop)
    }

    /// Removes what there may be of this name, however often the daemon is killed meanwhile.
    fn remove(&self, name: &str) -> Result<()> {
        let begin = Instant::now();
        let mut last = Ok(());
        for _ in 0..ATTEMPTS {
            last = self.ask(&["rm", "-f", name]).map(drop);
            if last.is_ok() {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        last.with_context(|| format!("after {:?}", begin.elapsed()))
    }
}
