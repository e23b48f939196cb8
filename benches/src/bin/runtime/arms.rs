//! The runtimes under measurement, and what is needed to speak to one.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use skiff_benches::lab::Lab;
use skiff_benches::options::Options;
use skiff_benches::watchdog;

/// The arm that the aims are about.
pub(crate) const SKIFF: &str = "skiff-runtime";

/// The arm that does the needed system calls alone: `src/bin/floor.rs`.
pub(crate) const FLOOR: &str = "floor";

/// A runtime.
#[derive(Debug, Clone)]
pub(crate) struct Arm {
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    /// Where it keeps its containers.
    root: PathBuf,
}

/// What can `run` a container and remove it.
#[derive(Debug, Clone)]
pub(crate) enum Racer {
    /// A runtime, from the bundle.
    Runtime(Arm),
    /// The floor, with the words of its command line.
    Floor(Vec<String>),
}

impl Racer {
    /// The floor under what runtimes do with the [brief](Ground::brief) bundle on this host.
    pub(crate) fn floor(lab: &Lab) -> Result<Self> {
        let words = [text(&lab.program("floor")), text(&lab.rootfs()), "/bin/true".into(), "-".into()];
        let words = words.into_iter().chain([lab.cgroup2().to_owned()]);
        let hierarchies = lab.hierarchies()?;
        Ok(Self::Floor(words.chain(hierarchies).collect()))
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Runtime(arm) => &arm.name,
            Self::Floor(_) => FLOOR,
        }
    }

    /// Runs container `id`, without standard streams.
    pub(crate) fn command(&self, ground: &Ground, id: &str) -> Command {
        match self {
            Self::Runtime(arm) => arm.command(&["run", "--bundle", &text(&ground.brief), id]),
            Self::Floor(words) => silent(words),
        }
    }

    /// As [`Arm::clean_up`]. What of the floor has failed tells where, and its cgroups stay to be looked at.
    pub(crate) fn clean_up(&self, id: &str) {
        if let Self::Runtime(arm) = self {
            arm.clean_up(id);
        }
    }
}

/// A command without standard streams.
fn silent(words: &[String]) -> Command {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Bundles, and files that commands write to.
#[derive(Debug)]
pub(crate) struct Ground {
    /// Runs `/bin/true`.
    pub(crate) brief: PathBuf,
    /// Runs `/bin/pause`.
    pub(crate) lasting: PathBuf,
    pub(crate) pid_file: PathBuf,
    stderr: PathBuf,
}

impl Ground {
    pub(crate) fn new(lab: &Lab) -> Result<Self> {
        Ok(Self {
            brief: lab.write_bundle("brief", &["/bin/true"], false)?,
            lasting: lab.write_bundle("lasting", &["/bin/pause"], false)?,
            pid_file: lab.path("pid"),
            stderr: lab.path("stderr"),
        })
    }

    /// The process id that a runtime has written.
    pub(crate) fn pid(&self) -> Result<i32> {
        let text = fs::read_to_string(&self.pid_file).context("read the process id of a container")?;
        text.trim().parse().with_context(|| format!("{text:?} is no process id"))
    }
}

/// The runtimes that are asked for, those in the environment variable `RUNTIME` (paths, separated by commas) included.
/// One that is not there is `Err` with a line for the report.
pub(crate) fn arms(lab: &Lab, options: &Options) -> Vec<Result<Arm, String>> {
    let given = std::env::var("RUNTIME").unwrap_or_default();
    let given = given.split(',').filter(|path| !path.is_empty()).map(PathBuf::from);
    let installed = ["crun", "runc", "youki"].map(|name| (name.to_owned(), find(name)));
    let named = |path: PathBuf| {
        let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        (name, path.canonicalize().ok())
    };
    let own = lab.program(SKIFF);
    let own = (SKIFF.to_owned(), own.exists().then_some(own));
    let mut arms: Vec<Result<Arm, String>> = Vec::new();
    for (name, program) in [own].into_iter().chain(installed).chain(given.map(named)) {
        if !options.wants(&name) {
            continue;
        }
        let same = arms.iter().flatten().filter(|arm| arm.name.starts_with(&name)).count();
        let name = if same > 0 { format!("{name}-{}", same + 1) } else { name };
        let root = lab.state().join(&name);
        arms.push(match program {
            Some(program) => Ok(Arm { name, program, root }),
            None => Err(format!("{name}: not there")),
        });
    }
    arms
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let found =
        std::env::split_paths(&path).map(|directory| directory.join(name)).find(|path| path.is_file());
    found?.canonicalize().ok()
}

/// An id not used before.
pub(crate) fn fresh_id() -> String {
    static TURN: AtomicUsize = AtomicUsize::new(0);
    format!("bench-{}-{}", std::process::id(), TURN.fetch_add(1, Ordering::Relaxed))
}

impl Arm {
    /// The command line `runtime --root ROOT words…`.
    pub(crate) fn words<'a>(&'a self, words: &[&'a str]) -> Vec<String> {
        let before = [text(&self.program), "--root".to_owned(), text(&self.root)];
        before.into_iter().chain(words.iter().map(|word| (*word).to_owned())).collect()
    }

    /// That as a command without standard streams.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        silent(&self.words(words))
    }

    /// Runs a command to its end; what goes wrong is one line.
    pub(crate) fn run(&self, ground: &Ground, words: &[&str]) -> Result<(), String> {
        let failed = |error: &dyn std::fmt::Display| format!("{}: {}: {error}", self.name, words[0]);
        let stderr = File::create(&ground.stderr).map_err(|error| failed(&error))?;
        let status = watchdog::run(self.command(words).stderr(stderr)).map_err(|error| failed(&error))?;
        if status.success() {
            Ok(())
        } else {
            Err(failed(&format!("{status}: {}", first_line(&ground.stderr))))
        }
    }

    /// Removes what a failed command left of a container, as far as the runtime itself can.
    pub(crate) fn clean_up(&self, id: &str) {
        if let Err(error) = watchdog::run(&mut self.command(&["delete", "--force", id])) {
            eprintln!("{}: remove its container: {error}", self.name);
        }
    }
}

/// The path as text: the bench makes them, and from text.
pub(crate) fn text(path: &Path) -> String {
    path.display().to_string()
}

fn first_line(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.trim().lines().next().unwrap_or("no message").to_owned()
}
