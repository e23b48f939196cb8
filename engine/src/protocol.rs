//! What a client and the daemon say to each other.
//!
//! A Unix stream socket, `<run root>/skiff.sock`; one request per connection, answered by replies until one that ends
//! it. Each is a frame: its length in bytes as a little-endian u32, then so many bytes of JSON. Descriptors travel with
//! the first byte of the frame that they belong to (`SCM_RIGHTS`, unix(7)).
//!
//! | request | descriptors | replies |
//! |---|---|---|
//! | `run` | streams, if attached | `started` (process, and terminal if it has one), then `exited` if attached |
//! | `create` | | `created` |
//! | `start` | streams, if attached | as `run` |
//! | `wait` | | `exited` |
//! | `logs` | | `log`, then `exited` if followed |
//! | `attach` | | `log`, then `exited` |
//! | `exec` | streams, unless detached | as `run` |
//! | others | | one |
//!
//! Whatever goes wrong is one `failed` or `no-such-image`, and the last reply. A daemon that is about to leave answers `leaving`
//! instead of anything else. Either side may close at any time: a container that was
//! started goes on without its client.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::spec::Spec;

/// The largest frame, bytes: an environment may be 2 MiB (execve(2)), and more in JSON.
pub const FRAME_MAX_BYTES: u32 = 16 << 20;

/// The most descriptors that travel with a frame.
pub const DESCRIPTORS_MAX: usize = 4;

/// The socket's name below the run root.
pub const SOCKET: &str = "skiff.sock";

/// What a client asks for. Containers are named by name, id, or a beginning of an id that fits one only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Makes a container and starts it.
    Run {
        /// What it is to be.
        spec: Box<Spec>,
        /// The client's streams are the container's (three descriptors travel along), or its terminal is handed out, and the
        /// client is told of the end.
        attach: bool,
        /// Whether one that was made ahead may be taken (`--pool`).
        pool: bool,
        /// The size that its terminal, if it has one, begins with.
        terminal: Option<TerminalSize>,
    },
    /// Makes a container.
    Create {
        /// What it is to be.
        spec: Box<Spec>,
    },
    /// Starts containers that are not running; one only if attached.
    Start {
        /// Which.
        containers: Vec<String>,
        /// As with [`Request::Run`].
        attach: bool,
        /// As with [`Request::Run`].
        terminal: Option<TerminalSize>,
    },
    /// Asks containers to stop, and kills those that do not in time.
    Stop {
        /// Which.
        containers: Vec<String>,
        /// Instead of the container's own stop signal.
        signal: Option<i32>,
        /// Instead of the container's own stop timeout.
        timeout: Option<Duration>,
    },
    /// Stops and starts containers.
    Restart {
        /// Which.
        containers: Vec<String>,
        /// Instead of the container's own stop timeout.
        timeout: Option<Duration>,
    },
    /// Sends a signal to containers' first process.
    Kill {
        /// Which.
        containers: Vec<String>,
        /// The signal's number.
        signal: i32,
    },
    /// Sends a signal to one process, in the place of a client that attends it and may not.
    Signal {
        /// In which container.
        container: String,
        /// One that was executed there, by the id that its client was told; the container's first when absent.
        process: Option<i32>,
        /// The signal's number.
        signal: i32,
    },
    /// Freezes (true) or thaws containers.
    Pause {
        /// Which.
        containers: Vec<String>,
        /// Whether they are to stand still.
        frozen: bool,
    },
    /// Removes containers.
    Remove {
        /// Which.
        containers: Vec<String>,
        /// Running ones too.
        force: bool,
    },
    /// Gives a container another name.
    Rename {
        /// Which.
        container: String,
        /// Its new name.
        name: String,
    },
    /// Lists containers.
    List {
        /// Those that do not run too.
        all: bool,
    },
    /// Tells everything of containers.
    Inspect {
        /// Which.
        containers: Vec<String>,
    },
    /// Waits for the end of containers that run.
    Wait {
        /// Which; answered one by one, in this order.
        containers: Vec<String>,
    },
    /// Hands out the directory of what a container has written ([`Reply::Log`]); the client reads it itself.
    Logs {
        /// Which.
        container: String,
        /// Tell of the end, too: once the container is down and all that it wrote is in the log.
        follow: bool,
    },
    /// Hands out what is needed to see what a container writes from now on, and to feed it ([`Reply::Log`]).
    Attach {
        /// Which.
        container: String,
        /// Whether its input is asked for.
        input: bool,
    },
    /// Runs one more process in a container.
    Exec {
        /// Which.
        container: String,
        /// What is run.
        exec: Box<ExecSpec>,
        /// As with [`Request::Run`].
        attach: bool,
    },
    /// Figures of containers that run, one [`Sampled`](crate::figures::Sampled) each.
    Figures {
        /// Which; all that run when empty.
        containers: Vec<String>,
    },
    /// Lets go of what is held of an image, and of what was made ahead of it, so that it can be removed.
    ForgetImage {
        /// `sha256:…` of its configuration; all images if absent.
        id: Option<String>,
    },
    /// The pools and their memory.
    Pools,
    /// Who answers.
    Version,
    /// Leaves; containers go on. The next daemon adopts them.
    Leave,
}

/// One more process.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecSpec {
    /// Program and arguments.
    #[serde(with = "skiff_runtime::options::words")]
    pub argv: Vec<std::ffi::OsString>,
    /// Added to the container's environment.
    #[serde(with = "skiff_runtime::options::words")]
    pub env: Vec<std::ffi::OsString>,
    /// Instead of the container's working directory.
    pub cwd: Option<std::path::PathBuf>,
    /// Instead of the container's user.
    pub user: Option<String>,
    /// On a terminal of its own.
    pub tty: bool,
    /// With all capabilities.
    pub privileged: bool,
    /// Whether the client's input is passed on.
    pub interactive: bool,
    /// The size that its terminal begins with.
    pub terminal: Option<TerminalSize>,
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters of a line.
    pub columns: u16,
}

/// When the parts of a launch were over, ns of CLOCK_MONOTONIC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchTimes {
    /// The daemon had read the request.
    pub received: u64,
    /// It had a container that was made up to its program, and its owner sent that the program.
    pub sent: u64,
    /// The container had read what it is to run.
    pub woken: u64,
    /// Its streams were in place.
    pub streams_taken: u64,
    /// The system call filter was the next thing to load, and then the program to be run.
    pub security_done: u64,
    /// The daemon knew that the program runs.
    pub exec_seen: u64,
}

/// What the daemon answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// A container is there.
    Created {
        /// Its id.
        id: String,
    },
    /// Its program, or one more, runs. With the process's pidfd, and the terminal's master if it has one.
    Started {
        /// The container's id.
        id: String,
        /// The process's id.
        pid: i32,
        /// What asks it to stop.
        stop_signal: i32,
        /// When its parts were over, if it was launched now.
        times: Option<LaunchTimes>,
    },
    /// Where a container's log is. With descriptors: the log's directory; to `attach` also the process's
    /// pidfd; and, if there is one, what leads to its input: the write end of a pipe if input is asked for, and always the
    /// terminal's master, for the size of its window.
    Log {
        /// The container's id.
        id: String,
        /// Whether the container has a terminal.
        tty: bool,
    },
    /// The process has ended.
    Exited {
        /// The container's id.
        id: String,
        /// As a shell has it: 128 + n for signal n.
        code: u8,
    },
    /// Done; the names of those it was done to, as the client gave them, and what could not be done to others.
    Done {
        /// Those it was done to.
        names: Vec<String>,
        /// One line each.
        errors: Vec<String>,
    },
    /// To `list`, `inspect`, `figures`, `pools` and `version`: documents as `--format json` prints them.
    Documents {
        /// The documents.
        documents: Vec<serde_json::Value>,
        /// One line for each that there is none of.
        errors: Vec<String>,
    },
    /// It could not be done, for there is no such image.
    NoSuchImage {
        /// As the client has it.
        image: String,
    },
    /// The daemon is about to leave, and has done nothing: the next one is to be asked.
    Leaving,
    /// It could not be done.
    Failed {
        /// What the command exits with.
        code: u8,
        /// One line.
        message: String,
    },
}
