//! A case with a daemon of its own, which its first command starts and which ends with it.

use std::os::fd::AsFd;
use std::path::PathBuf;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::live::{Output, pidfd};
use super::{Case, fixture, parse};
use crate::peers::world::eventually;

/// A world with a daemon, and words for what is done in it.
#[derive(Debug)]
pub(crate) struct World(pub(crate) Case);

impl World {
    pub(crate) fn new() -> Self {
        Self(Case::with_daemon())
    }

    /// `skiff WORDS…`, run to its end.
    pub(crate) fn skiff(&self, words: &[&str]) -> Output {
        self.0.skiff(words).output()
    }

    /// The same, which must succeed silently; what it prints.
    pub(crate) fn ok(&self, words: &[&str]) -> String {
        self.skiff(words).ok().trim_end().to_owned()
    }

    /// Waits until what counts containers, which is loaded after the daemon has come up, is or has been refused.
    pub(crate) fn await_programs(&self) {
        let state = || self.ok(&["version", "--format", "{{.Server.Events}}"]);
        assert!(eventually(|| state() != "loading"), "programs are still being loaded");
    }

    /// Creates a container of the small root; its id.
    pub(crate) fn create(&self, flags: &[&str], command: &[&str]) -> String {
        self.ok(&[&["create"], flags, &[fixture::small_root()], command].concat())
    }

    /// Creates one of this name and starts it; its id. It runs until it is told to end.
    pub(crate) fn start(&self, name: &str, flags: &[&str], command: &[&str]) -> String {
        let id = self.create(&[&["--name", name], flags].concat(), command);
        self.ok(&["start", name]);
        if command == ["probe", "trap"] {
            // From now on it takes signals.
            assert!(eventually(|| self.skiff(&["logs", name]).stdout.contains("ready")));
        }
        id
    }

    /// The same by `run -d`.
    pub(crate) fn run(&self, name: &str, flags: &[&str], command: &[&str]) -> String {
        let words = [&["run", "-d", "--name", name], flags, &[fixture::small_root()], command].concat();
        let id = self.ok(&words);
        if command == ["probe", "trap"] {
            assert!(eventually(|| self.skiff(&["logs", name]).stdout.contains("ready")));
        }
        id
    }

    /// What a template makes of it.
    pub(crate) fn told(&self, name: &str, template: &str) -> String {
        self.ok(&["inspect", "--format", template, name])
    }

    /// What `inspect` says of one.
    pub(crate) fn inspect(&self, name: &str) -> Value {
        parse(&self.ok(&["inspect", "-f", "{{json .}}", name]))
    }

    /// Its state, in one word.
    pub(crate) fn state(&self, name: &str) -> String {
        self.inspect(name)["State"]["Status"].as_str().expect("a state").to_owned()
    }

    /// What it has exited with.
    pub(crate) fn code(&self, name: &str) -> i64 {
        self.inspect(name)["State"]["ExitCode"].as_i64().expect("a code")
    }

    /// Waits until it has ended; how.
    pub(crate) fn ended(&self, name: &str) -> i64 {
        assert!(eventually(|| self.state(name) == "exited"), "{name} is {}", self.state(name));
        self.code(name)
    }

    /// The process ids of the daemon and of its spawner.
    pub(crate) fn processes(&self) -> [Pid; 2] {
        let server = &parse(&self.ok(&["version", "-f", "{{json .}}"]))["Server"];
        ["Pid", "SpawnerPid"].map(|field| {
            let number = server[field].as_i64().and_then(|pid| i32::try_from(pid).ok());
            Pid::from_raw(number.unwrap_or_else(|| panic!("no {field} in {server}")))
        })
    }

    /// The directories of containers.
    pub(crate) fn directories(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.0.state.join("containers")).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    }
}

/// Kills a process and waits until all its threads have ended, and all that it had open is closed.
pub(crate) fn destroy(process: Pid) {
    let ended = pidfd(process);
    kill(process, Signal::SIGKILL).expect("it runs");
    let mut watched = [PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut watched, PollTimeout::from(30_000_u16)), Ok(1), "process {process} does not go");
}
