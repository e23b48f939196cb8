//! Carries out a plan: `parent` on the host's side, `child` on the container's, `sync` between them.
//!
//! Synchronous, in a process of one thread. The steps and who takes them:
//!
//! | parent | child |
//! |---|---|
//! | notes the container ([`note`]), opens the host's side ([`prepare`]) | |
//! | makes the cgroup, writes its limits, lets the caller arm it | |
//! | clone3 into the cgroup | dies with its parent from here on |
//! | writes id maps → **1** `go` | joins v1 cgroups, builds the file tree ([`tree`]), pivots |
//! | keeps the console | **2** console → |
//! | | becomes the user, drops capabilities, loads the filter |
//! | sees **3** end of file: runs or failed | execve |

mod child;
mod note;
mod overlay;
mod parent;
mod prepare;
mod sync;
mod tree;

pub use parent::{Running, Stamps, start, sweep};
pub use skiff_sys::process::Exit;
