//! Stacks that were sampled: whose they are, what their addresses are called, and the forms that they are written in.
//!
//! ```text
//! events, in order of time ─ Collector ─ counted stacks of places ─ Profile ─ folded, flame graph, pprof, JSON
//!                               │ asks Host for what lives: mappings, files        (names of functions by Host)
//! ```

mod collect;
pub mod elf;
mod flame;
mod folded;
mod kernel;
mod maps;
mod pprof;
mod profile;

pub use collect::{Collector, Host, Object, ObjectId, Place};
pub use kernel::Kernel;
pub use maps::{Line, parse as parse_maps};
pub use profile::{Frame, FrameKind, Function, Names, Profile, Stack, Summary};
