//! The spawner: the small process that is the parent of every container of an engine, and what is said to it.
//!
//! A resident daemon has threads and much memory; to fork in it would be slow and unsafe. So it has this one made, of one
//! thread, run from where no container can write to it, and asks it by a SEQPACKET socket for containers that are made up to
//! where their program is to be run ([`crate::launch::park`]). The daemon speaks to those itself. The spawner reaps them,
//! and stays when the daemon goes: it listens at `<run root>/spawner.sock` for the next one, whose user must be its own,
//! and keeps for it who has ended meanwhile and what it was given to keep.
//!
//! | order | descriptors | answered by |
//! |---|---|---|
//! | `plan` | | – (what is wrong with it, each `park` is told) |
//! | `park` | | `parked`: line, pidfd, page and, with a terminal, its master; or `failed` |
//! | `exec` | pidfd of the container's first process, three streams | `exec_started`: pidfd and, with a terminal, its master; or `failed` |
//! | `read` | a reader's end of its socket | – (end of file at the other if there is none) |
//! | `keep` | what is to be kept | – |
//! | `forget` | | – |
//! | `list` | | `kept` for each container, with what is kept of it, then `listed` |
//! | `upgrade` | the executable to go on as | `hello`, once that runs, or of this one if it cannot |
//! | `leave` | | end of file |
//!
//! `hello` is the first report of every connection; `exited` comes by itself. Orders are carried out beside each other: what is asked first need not be
//! answered first. The newest connection is the one that counts.

mod accounts;
mod client;
mod entry;
mod link;
mod plans;
mod serve;
mod upgrade;
mod wire;

use serde::{Deserialize, Serialize};
use skiff_sys::process::Exit;

use crate::cgroup::Paths;
use crate::options::Options;

pub use client::Client;
pub use serve::run;

/// The first word of the spawner's command line; the state root and the run root follow, and after an upgrade what it goes
/// on with.
pub const NAME: &str = "skiff-spawner";

/// Its socket's name in the run root.
pub const SOCKET: &str = "spawner.sock";

/// In the place of a container's id: what is kept under it is the engine's own, of no container.
pub const ENGINE: &str = "engine";

/// What the spawner is asked to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Remembers under `key` what containers are to be. Their ids are told later, and so are program and environment: of `argv` and `env`
    /// nothing is taken but the program and the path that are likely, to look for it beforehand.
    Plan {
        /// By which it is asked for.
        key: u64,
        /// What is asked for.
        options: Box<Options>,
    },
    /// Makes a container up to where its program is to be run.
    Park {
        /// Comes back with the answer.
        ticket: u64,
        /// Of an earlier [`Order::Plan`].
        key: u64,
        /// The container's, 64 lower-case hex digits.
        id: String,
    },
    /// Runs one more process in a container.
    Exec {
        /// Comes back with the answer.
        ticket: u64,
        /// Those of the container, but for program, environment, working directory, user and terminal, which are the new
        /// process's. `id` is the container's.
        options: Box<Options>,
        /// Its first process.
        pid: i32,
        /// Its cgroups.
        cgroups: Paths,
    },
    /// Makes a [reader](crate::reader) in a container's cgroups.
    Read {
        /// Where it is to be.
        cgroups: Paths,
    },
    /// Keeps descriptors and a note of a container, in the place of what was kept of it before.
    Keep {
        /// The container's, or [`ENGINE`].
        id: String,
        /// Whatever the next daemon is to know.
        note: String,
    },
    /// Gives up all that is kept of a container, also how it has ended.
    Forget {
        /// The container's.
        id: String,
    },
    /// Tells of all containers that are not forgotten.
    List,
    /// Goes on as another executable, in the same process.
    Upgrade,
    /// Ends. Containers go on.
    Leave,
}

/// What the spawner tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// Who is spoken to.
    Hello {
        /// The version of its executable.
        version: String,
        /// Which one that is, see [`skiff_sys::self_exe::identity`]; zeros where it is not known.
        #[serde(default)]
        executable: [u64; 2],
        /// Its process id.
        pid: i32,
    },
    /// A container waits for its program.
    Parked {
        /// Of the order.
        ticket: u64,
        /// What is known of it.
        container: Box<Container>,
    },
    /// An order could not be carried out.
    Failed {
        /// Of the order.
        ticket: u64,
        /// 125, 126 or 127, see [`crate::Error::exit_code`].
        code: u8,
        /// Why, in one line.
        message: String,
    },
    /// A process runs in a container.
    ExecStarted {
        /// Of the order.
        ticket: u64,
        /// Its id.
        pid: i32,
    },
    /// A process has ended that was parked or started by this spawner.
    Exited {
        /// Its container.
        id: String,
        /// Its id. It is reaped: only the descriptors of it still mean it.
        pid: i32,
        /// The order by which it was executed in its container, if it was.
        ticket: Option<u64>,
        /// How it has ended.
        end: End,
    },
    /// A container that is not forgotten. With what is kept of it.
    Kept {
        /// The container's.
        id: String,
        /// Its first process.
        pid: i32,
        /// What was given with the last [`Order::Keep`].
        note: String,
        /// How it has ended, if it has.
        end: Option<End>,
    },
    /// That was all.
    Listed,
}

/// How and when a process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// How.
    #[serde(with = "ExitForm")]
    pub exit: Exit,
    /// When it was reaped, ns of CLOCK_REALTIME.
    pub at_ns: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Exit", rename_all = "snake_case")]
enum ExitForm {
    Code(i32),
    Signal(i32),
}

/// A container that has not been given its program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its first process.
    pub pid: i32,
    /// The id of its cgroup v2 directory.
    pub cgroup: Option<u64>,
    /// Where its cgroups are.
    pub cgroups: Paths,
    /// Its program's user.
    pub uid: u32,
    /// Its program's group.
    pub gid: u32,
    /// Its host name, for the environment.
    pub hostname: String,
    /// The home directory of its user, for the environment.
    pub home: String,
    /// Whether it has a terminal.
    pub tty: bool,
}
