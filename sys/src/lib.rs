//! System calls, safely: typed flags and owned file descriptors in and out.
//!
//! Knows nothing of containers. Every path that a container can influence is resolved below a directory
//! descriptor by [`mod@file`], nowhere else.

pub mod arena;
mod beside;
pub mod bpf;
pub mod cache;
pub mod clock;
pub mod counters;
pub mod device_filter;
pub mod directories;
pub mod errno;
pub mod file;
pub mod heap;
pub mod mount;
pub mod net;
pub mod netlink;
pub mod netns;
pub mod page;
pub mod perf;
pub mod process;
pub mod random;
pub mod reader;
pub mod schedule;
pub mod seccomp;
pub mod self_exe;
pub mod socket;
pub mod syscalls;
pub mod terminal;
pub mod xattr;
