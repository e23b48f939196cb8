//! Carries out a plan: `parent` on the host's side, `child` on the container's, `sync` between them.
//!
//! Synchronous, in a process of one thread. The steps and who takes them:
//!
//! | parent | child |
//! |---|---|
//! | notes the container ([`note`]), has a network namespace made meanwhile, opens the host's side ([`prepare`], [`joins`]) | |
//! | makes the cgroup, writes its limits (a child that is born ahead has those of version 1 made meanwhile), lets the caller arm it | |
//! | clone3 into the cgroup | dies with its parent from here on |
//! | writes id maps, tells of the birth, moves network devices ([`devices`]) → **1** `go` | joins v1 cgroups and namespaces, builds the file tree ([`tree`]) |
//! | keeps the console, or sends it on ([`console`]) | **2** console → |
//! | runs hooks → `go` | **3** `built` →, runs hooks, pivots |
//! | | becomes the user, drops capabilities ([`program`]) |
//! | is done | **4** `waiting` → where there is a [`gate`] |
//! | forwards it ([`listener`]) | loads the filter, **5** its listener → |
//! | sees **6** end of file: runs or failed | execve |
//!
//! At a gate, whoever opens it stands in the parent's place from 4 on. For the spawner [`parking`] stands in `parent`'s place: it
//! does not wait, and from 4 on whoever has the [`park`]ed child's line tells it what to run.

mod birthplace;
mod child;
mod console;
mod devices;
pub mod exec;
mod gate;
mod id_map;
mod joins;
mod listener;
mod maps;
mod note;
mod overlay;
mod own;
mod parent;
pub mod park;
mod parking;
mod prepare;
mod program;
mod report;
mod sync;
mod tree;

pub(crate) use birthplace::Birthplace;
pub use console::send as send_console;
pub use exec::exec;
pub(crate) use gate::socket_at;
pub use gate::{Gate, is_waiting, open_gate};
pub(crate) use note::make_private;
pub use note::{make_home, remove_tree};
pub use parent::{Attendance, Birth, Running, Stamps, launch, start, sweep};
pub(crate) use parking::{Facts, KEPT_FROM, Parking, Preparer, Progress};
pub use skiff_sys::process::Exit;
