//! From recorded runs to a least-privilege policy, in the forms that container engines read.
//!
//! ```text
//! profile JSON → Recorded → Needs (all runs together) → Policy → files
//! ```
//!
//! A run is recorded by `skiff run --profile=FILE`. What it did not do is taken away: system calls, capabilities, places to
//! write to, devices. Nothing is guessed: what was not recorded stays as it was during the run, and the policy says so. The
//! same profiles give the same bytes.

mod calls;
mod form;
mod kubernetes;
mod needs;
mod policy;
mod quote;
mod read;
mod seccomp;
#[cfg(test)]
mod tests;
mod verdict;

pub use calls::{Always, Engine, Launch};
pub use form::{File, document, files, flags};
pub use needs::{Device, Directory, Needs};
pub use policy::{Limits, Policy, Root, Terms};
pub use quote::words;
pub use read::{Filter, MAX_BYTES, Recorded, Run};
pub use seccomp::seccomp;

/// The capabilities of Linux by number, without `CAP_`. capabilities(7).
#[rustfmt::skip] // a table
pub const CAPABILITIES: [&str; 41] = [
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
];
