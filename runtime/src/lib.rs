//! Turns what a caller wants of a container into a running process.
//!
//! [`Options`] (docker's words) and [`Host`] (facts) become a [`Plan`] (plain data, every step decided); [`launch`]
//! carries it out. Knows no images, and of eBPF only where counters are pinned ([`observe`]).
#![forbid(unsafe_code)]

pub mod caps;
pub mod cgroup;
pub mod container;
mod error;
pub mod hooks;
pub mod host;
pub mod init;
pub mod launch;
pub mod observe;
pub mod oci;
pub mod options;
pub mod plan;
pub mod rdt;
pub mod reader;
pub mod seal;
pub mod seccomp;
pub mod signals;
pub mod spawner;
pub mod supervise;
pub mod user;

pub use error::{Error, OneLine, cause};
pub use host::Host;
pub use options::Options;
pub use plan::Plan;
