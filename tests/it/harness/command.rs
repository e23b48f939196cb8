//! A `skiff` command line before it runs.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use super::live::{Live, Output};
use super::{programs, time_limit};

/// One command under test.
#[derive(Debug)]
pub(crate) struct Skiff {
    program: String,
    before: Vec<String>,
    args: Vec<String>,
    env: Vec<(String, String)>,
    stdin: Input,
    /// How many run at once, each as much slower.
    at_once: u32,
}

#[derive(Debug)]
enum Input {
    Nothing,
    Bytes(Vec<u8>),
    Open,
}

impl Skiff {
    pub(super) fn new(args: Vec<String>) -> Self {
        Self::of(programs::skiff().display().to_string(), args)
    }

    /// Another program beside skiff: its words, the first of which names it.
    pub(crate) fn tool(words: &[&str]) -> Self {
        let args = words[1..].iter().map(|word| (*word).to_owned()).collect();
        Self::of(words[0].to_owned(), args)
    }

    fn of(program: String, args: Vec<String>) -> Self {
        Self { program, before: Vec::new(), args, env: Vec::new(), stdin: Input::Nothing, at_once: 1 }
    }

    /// Sets a variable of skiff's own environment.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.into(), value.as_ref().to_string_lossy().into_owned()));
        self
    }

    /// Runs another copy of skiff.
    pub(crate) fn program(mut self, path: &Path) -> Self {
        self.program = path.display().to_string();
        self
    }

    /// Starts skiff through `probe with SETTINGS…`, that is in a spoilt environment.
    pub(crate) fn with(mut self, settings: &[&str]) -> Self {
        let probe = programs::probe().display().to_string();
        let words = [&probe[..], "with"].into_iter().chain(settings.iter().copied()).chain(["--"]);
        self.before = words.map(str::to_owned).collect();
        self
    }

    /// Starts skiff through another command, which takes skiff and its arguments as its last arguments.
    pub(crate) fn through(mut self, words: &[&str]) -> Self {
        self.before = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Feeds these bytes to standard input, then closes it. Without this it is `/dev/null`.
    pub(crate) fn stdin(mut self, bytes: &[u8]) -> Self {
        self.stdin = Input::Bytes(bytes.into());
        self
    }

    /// Keeps standard input open and empty.
    pub(crate) fn stdin_open(mut self) -> Self {
        self.stdin = Input::Open;
        self
    }

    /// One of so many that run at once: it may take as many times as long.
    pub(crate) fn one_of(mut self, many: u32) -> Self {
        self.at_once = many;
        self
    }

    /// Runs to the end.
    pub(crate) fn output(self) -> Output {
        self.start().finish()
    }

    /// Starts it.
    pub(crate) fn start(mut self) -> Live {
        let stdin = std::mem::replace(&mut self.stdin, Input::Nothing);
        let mut command = self.to_command();
        let (stdio, bytes) = match stdin {
            Input::Nothing => (Stdio::null(), None),
            Input::Bytes(bytes) => (Stdio::piped(), Some(bytes)),
            Input::Open => (Stdio::piped(), None),
        };
        command.stdin(stdio).stdout(Stdio::piped()).stderr(Stdio::piped());
        Live::spawn(command, bytes, time_limit() * self.at_once)
    }

    /// The command, its standard streams not yet chosen.
    pub(crate) fn to_command(&self) -> Command {
        let mut words = self.before.iter().chain([&self.program]).chain(&self.args);
        let mut command = Command::new(words.next().expect("there is a program"));
        command.args(words).envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }
}
