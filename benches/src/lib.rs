//! What the benchmarks share: samples, the facts about the host that belong to every figure, and the written report.
//!
//! The programs in `bin/` are the benchmarks (`launch`, `runtime`, `profile`) and what they start (`floor`, `true`, `pause`, `spin`);
//! `cargo xtask bench` builds and runs them.

pub mod host;
pub mod lab;
pub mod options;
pub mod report;
pub mod samples;
pub mod watchdog;
