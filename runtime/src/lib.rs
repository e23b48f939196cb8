//! Turns what a caller wants of a container into a running process.
//!
//! [`Options`] (docker's words) become a `Plan` (plain data, every step decided); `launch` carries it out.
//! Knows neither images nor eBPF.
#![forbid(unsafe_code)]

pub mod caps;
pub mod options;
pub mod seccomp;

pub use options::Options;
