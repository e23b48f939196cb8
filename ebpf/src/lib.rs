//! The eBPF companion: loads the kernel-side programs, arms them for a container, reads what they counted.
//!
//! It knows cgroups and tasks, not containers. How the programs count is told in `docs/ebpf.md`; they live in `progs/`, and
//! their objects are built by `cargo xtask ebpf` and checked in as `*.bpf.o`, so that building skiff needs no eBPF tools.
//!
//! `unsafe` is confined to what aya asks for (which layouts are plain bytes) and one bpf(2) call that it lacks.

// Tests in here share with those beside.
#[cfg(test)]
extern crate self as skiff_ebpf;
#[cfg(test)]
#[path = "../tests/shared/mod.rs"]
mod shared;

mod btf;
mod calibration;
mod error;
pub mod events;
mod fields;
pub mod files;
mod harden;
mod load;
mod maps;
mod marks;
pub mod pinned;
mod profiler;
mod read;
mod record;
mod recorder;
mod runs;
mod sockets;
pub mod stacks;
mod tier1;
pub mod trace;
mod waiting;

pub use error::Error;
pub use harden::{CapabilityUse, DeviceUse, PARTS as USES, SysctlUse, UseRecord, UseRecorder};
pub use profiler::{Profiler, Slot};
pub use record::{Abi, Cost, Exec, Oom, Phase, Record, Syscall};
pub use recorder::{Accuracy, FileId, Recorder, Recording, Used};
pub use runs::{Runs, program_runs, time_programs};
pub use skiff_ebpf_abi::prefetch::Progress;
pub use skiff_ebpf_abi::trace::Drops;
pub use tier1::{Block, Culprit, Histogram, Probes, RunQueue, SwitchCost, Tcp, Tier1, Tier1Cost, Traffic};
pub use waiting::Waiting;
