//! One program that runs containers, one runtime that it uses, and what it says.

use std::cell::RefCell;
use std::panic::resume_unwind;
use std::thread;

use serde_json::Value;

use super::world::{self, World, eventually};
use crate::harness::pty::Terminal;
use crate::harness::{Output, Skiff, fixture, parse, programs};

/// Which command line it has; docker's and podman's are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Containerd,
    Docker,
    Podman,
    RootlessPodman,
}

/// A running engine.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) world: World,
    pub(crate) kind: Kind,
    /// The words that every command begins with.
    pub(crate) words: Vec<String>,
}

/// An engine that is told to use one runtime, for the containers of one story.
#[derive(Debug)]
pub(crate) struct Client<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) runtime: &'static str,
    /// The name for the container of the story; more begin with it.
    pub(crate) name: String,
    transcript: RefCell<Vec<String>>,
}

/// The runtime under test, in the words of the engines.
pub(crate) const TESTED: &str = "tested";

/// Tells the story with the runtime under test and with the `other`, and asserts that both went the same way.
pub(crate) fn same(engine: &Engine, other: &'static str, name: &str, story: fn(&Client<'_>)) {
    let tell = |runtime| {
        let name = format!("{name}-{runtime}");
        let client = Client { engine, runtime, name, transcript: RefCell::default() };
        story(&client);
        client.transcript.take()
    };
    let [ours, theirs] = thread::scope(|scope| {
        // Threads with a name: whoever panics says whose story it was.
        let start = |runtime: &'static str| {
            let thread = thread::Builder::new().name(format!("{name}-{runtime}"));
            thread.spawn_scoped(scope, move || tell(runtime)).expect("a thread")
        };
        let both = [TESTED, other].map(start);
        // Both are joined before either is judged.
        both.map(thread::ScopedJoinHandle::join).map(|result| result.unwrap_or_else(|why| resume_unwind(why)))
    });
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert!(ours == theirs, "{}", difference(ours, theirs, other));
    }
    assert_eq!(ours.len(), theirs.len(), "one story is longer");
}

impl<'a> Client<'a> {
    /// One for a story that is told by itself.
    pub(crate) fn new(engine: &'a Engine, runtime: &'static str, name: &str) -> Self {
        Self { engine, runtime, name: format!("{name}-{runtime}"), transcript: RefCell::default() }
    }
}

impl Client<'_> {
    /// A command of the engine. What comes out of it is compared.
    pub(crate) fn does(&self, words: &[&str]) -> Output {
        let output = self.command(words).output();
        self.note(&words.join(" "), &format!("{}\n{}", output.code, output.stdout));
        output
    }

    /// A command of the engine. Only its code is compared: failures are worded differently.
    pub(crate) fn ends(&self, words: &[&str]) -> Output {
        let output = self.command(words).output();
        self.note(&words.join(" "), &output.code.to_string());
        output
    }

    /// What [`Client::does`] does, and it must succeed; its output. What it says on standard error does not count: engines warn.
    pub(crate) fn done(&self, words: &[&str]) -> String {
        success(&self.does(words))
    }

    /// A command that must succeed and whose output is different each time.
    pub(crate) fn asks(&self, words: &[&str]) -> String {
        success(&self.command(words).output())
    }

    /// `run --rm` in the foreground.
    pub(crate) fn runs(&self, flags: &[&str], command: &[&str]) -> Output {
        self.does(&self.run_words(&["--rm"], flags, command))
    }

    /// `run --rm`, which must succeed; its output.
    pub(crate) fn ran(&self, flags: &[&str], command: &[&str]) -> String {
        success(&self.runs(flags, command))
    }

    /// What a process in such a container sees, as `probe see` tells it.
    pub(crate) fn sees(&self, flags: &[&str]) -> Value {
        let output = self.command(&self.run_words(&["--rm"], flags, &["probe", "see"])).output();
        let seen = success(&output);
        assert!(!seen.is_empty(), "it says nothing: {output}");
        parse(&seen)
    }

    /// The lines that a command prints in such a container.
    pub(crate) fn sees_lines(&self, flags: &[&str], command: &[&str]) -> Vec<String> {
        let printed = success(&self.command(&self.run_words(&["--rm"], flags, command)).output());
        printed.lines().map(str::to_owned).collect()
    }

    /// `run -d` of the story's container.
    pub(crate) fn starts(&self, flags: &[&str], command: &[&str]) {
        self.asks(&self.run_words(&["-d", "--name", &self.name], flags, command));
    }

    /// The story's container, its process saying what signals it gets and ending at SIGTERM.
    pub(crate) fn starts_trap(&self, flags: &[&str]) {
        self.starts(flags, &["probe", "trap"]);
        assert!(
            eventually(|| self.asks(&["logs", &self.name]).starts_with("ready")),
            "it does not get ready"
        );
    }

    /// `run --rm -it` on a terminal of 24 lines and 80 columns.
    pub(crate) fn terminal(&self, flags: &[&str], command: &[&str]) -> Terminal {
        Terminal::start(&self.command(&self.run_words(&["--rm", "-it"], flags, command)), 24, 80)
    }

    /// What `inspect` says about the story's container.
    pub(crate) fn inspects(&self, format: &str) -> String {
        self.asks(&["inspect", "--format", format, &self.name]).trim_end().to_owned()
    }

    /// The same, compared.
    pub(crate) fn is(&self, format: &str) -> String {
        let answer = self.inspects(format);
        self.note(format, &answer);
        answer
    }

    /// What a control group of the story's container says, or that there is no such file.
    pub(crate) fn control(&self, controller: &str, v1: &str, v2: &str) -> String {
        let pid = self.inspects("{{.State.Pid}}");
        let value = self.engine.world.control(&pid, controller, v1, v2);
        let value = value.unwrap_or_else(|| "no such file".into());
        self.note(v1, &value);
        value
    }

    /// Adds something to what is compared.
    pub(crate) fn note(&self, what: &str, text: &str) {
        // Also in names that an engine makes of it.
        let text =
            format!("{what}: {text}").replace(&self.name, "NAME").replace(&self.runtime_path(), "PATH");
        let text = text.replace(&format!("--runtime {} ", self.runtime), "");
        self.transcript.borrow_mut().push(without_ids(&text));
    }

    /// A command line of the engine, not yet started.
    pub(crate) fn command(&self, words: &[&str]) -> Skiff {
        let engine = self.engine;
        let begin = engine.words.iter().map(String::as_str);
        let path = self.runtime_path();
        let is_podman = [Kind::Podman, Kind::RootlessPodman].contains(&engine.kind);
        let runtime: &[&str] = if is_podman { &["--runtime", &path] } else { &[] };
        let all: Vec<&str> = begin.chain(runtime.iter().copied()).chain(words.iter().copied()).collect();
        match engine.kind {
            Kind::RootlessPodman => engine.world.users_command(&all),
            _ => engine.world.command(&all),
        }
    }

    /// The words of `run`.
    pub(crate) fn run_words<'w>(
        &'w self,
        first: &[&'w str],
        flags: &[&'w str],
        command: &[&'w str],
    ) -> Vec<&'w str> {
        let own = self.own_flags();
        let is_joined = flags.iter().any(|flag| flag.starts_with("--network"));
        let network: &[&str] = if is_joined { &[] } else { &["--network=none"] };
        [&["run"], network, &own, first, flags, &["small"], command].concat()
    }

    /// The flags of `run` that are not the story's: docker's runtime, and for podman as root a control group that goes with
    /// the world.
    pub(crate) fn own_flags(&self) -> Vec<&str> {
        match self.engine.kind {
            Kind::Docker => vec!["--runtime", self.runtime],
            Kind::Podman => vec!["--cgroup-parent", &self.engine.world.parent],
            Kind::RootlessPodman | Kind::Containerd => Vec::new(),
        }
    }

    /// The path of the runtime.
    pub(crate) fn runtime_path(&self) -> String {
        path_of(self.runtime)
    }
}

impl Drop for Client<'_> {
    fn drop(&mut self) {
        let remove: &[&[&str]] = match self.engine.kind {
            Kind::Containerd => &[&["task", "delete", "--force"], &["container", "delete"]],
            _ => &[&["rm", "-f"]],
        };
        for words in remove {
            // The container may not be there, or may be gone.
            let _removed = self.command(&[words, &[&self.name[..]][..]].concat()).output();
        }
    }
}

impl Engine {
    /// Gives the engine the image `small`.
    pub(crate) fn import(self) -> Self {
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        self.world.bring(&fixture::small_tar(), "/run/small.tar");
        let words = [&words[..], &["import", "-c", "ENV PATH=/bin", "/run/small.tar", "small"]].concat();
        let command = match self.kind {
            Kind::RootlessPodman => self.world.users_command(&words),
            _ => self.world.command(&words),
        };
        success(&command.output());
        self
    }
}

/// The lines that only one of the two has, or has more often.
fn difference(ours: &str, theirs: &str, other: &str) -> String {
    let only = |of: &str, and: &str, mark: &str| -> String {
        let mut rest: Vec<&str> = of.lines().collect();
        for line in and.lines() {
            rest.iter().position(|l| *l == line).map(|found| rest.remove(found));
        }
        rest.iter().map(|line| format!("{mark}{line}\n")).collect()
    };
    let subject = ours.lines().next().unwrap_or_default();
    let (more, less) = (only(ours, theirs, "+ "), only(theirs, ours, "- "));
    format!("{subject}\n+ {}\n- {other}\n{more}{less}", programs::runtime().display())
}

/// The path of a runtime in every world.
pub(crate) fn path_of(runtime: &str) -> String {
    match runtime {
        TESTED => world::RUNTIME.into(),
        name => programs::on_path(name).expect("looked for before").display().to_string(),
    }
}

/// Standard output of a command that ended well.
#[track_caller]
pub(crate) fn success(output: &Output) -> String {
    assert_eq!(output.code, 0, "{output}");
    output.stdout.clone()
}

/// The text with every long hexadecimal word replaced: ids are different each time.
pub(crate) fn without_ids(text: &str) -> String {
    let mut result = String::new();
    for word in text.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let bare = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        let is_id = bare.len() >= 12 && bare.bytes().all(|byte| byte.is_ascii_hexdigit());
        match is_id {
            true => result.extend(["ID", &word[bare.len()..]]),
            false => result.push_str(word),
        }
    }
    result
}
