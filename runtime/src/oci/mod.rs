//! From an OCI bundle to a plan. OCI runtime specification 1.2, config.md and config-linux.md.
//!
//! [`spec`] holds the documents as they are written; everything else here is pure and decides what `launch` carries out.

pub mod json;
pub mod spec;
