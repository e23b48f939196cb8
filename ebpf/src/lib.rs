//! The eBPF companion: loads the kernel-side programs, arms them for a container, reads what they counted.
//!
//! It knows cgroups and tasks, not containers.

mod record;

pub use record::{Abi, Cost, Exec, Oom, Phase, Record, Syscall};
