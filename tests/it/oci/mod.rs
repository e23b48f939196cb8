//! Conformance: what the OCI runtime specification demands of a runtime and what can be seen from outside, one test per
//! demand, against any runtime.
//!
//!     cargo xtask test oci                    skiff-runtime
//!     RUNTIME=crun cargo xtask test oci       another one, by name or path
//!
//! The specification is version 1.2 (`runtime.md`, `config.md`, `config-linux.md`, `features.md`); what is newer says so.
//! Where it can be read in two ways, nothing is tested. SHOULD and MAY, and what is newer, are tested where the runtime's
//! features document claims them. How an error is told is left open; here, as with all runtimes, it is an exit code.
//! [`commands`] alone is about what the specification leaves out and engines rely on all the same: the command line that
//! runc has made the custom.
//!
//! A test makes a [`Bundle`], changes its configuration, and looks at what the program inside says (`probe see`, `probe
//! try`) or at the host. The bundle clears up after itself however the test ends, and fails it if the runtime has left
//! something behind.

pub(crate) mod bundle;
mod config;
pub(crate) mod hosting;
pub(crate) mod passed;
mod stream;

pub(crate) use bundle::{Bundle, has_ended};
pub(crate) use hosting::{group, lacks};

mod cgroups;
mod commands;
mod devices;
mod features;
mod hooks;
mod lifecycle;
mod linux;
mod mounts;
mod namespaces;
mod process;
mod seccomp;
mod terminal;
