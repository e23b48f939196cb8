//! What records of containers are turned into: pictures, other tools' formats, comparisons, policies.
//!
//! Everything here is pure: figures in, bytes or a judgement out. How figures are gathered, and of which container, is for
//! others to know.

#![forbid(unsafe_code)]

pub mod compare;
pub mod exposition;
pub mod harden;
pub mod otlp;
pub mod perfetto;
pub mod protobuf;
pub mod stacks;
pub mod trace;
