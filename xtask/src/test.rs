//! `cargo xtask test`: the black-box ring against a release build.
//!
//! The suite in `tests/` finds the program under test and the probe by environment: `SKIFF` and `SKIFF_PROBE`. A
//! `SKIFF` that is already set is kept, so that the same suite can be pointed at another build.

use std::path::PathBuf;

use anyhow::Result;

use crate::{command, workspace};

pub(crate) const ARGUMENTS: &str = "[FILTER] [-- ARGUMENTS]";
pub(crate) const HELP: &str = "black-box tests of the release build (root); ARGUMENTS go to the test runner;
                               SKIFF=PATH tests another binary, MUST_RUN=1 turns skips into failures";

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    command::need_root("test")?;
    let [skiff, probe] = binaries()?;
    let skiff = std::env::var_os("SKIFF").map_or(skiff, PathBuf::from);
    let mut cargo = workspace::cargo();
    cargo.env("SKIFF", skiff).env("SKIFF_PROBE", probe);
    cargo.args(["test", "--package", "skiff-tests", "--test", "it"]);
    command::run(cargo.args(arguments))
}

/// The release builds of skiff and of the probe.
pub(crate) fn binaries() -> Result<[PathBuf; 2]> {
    workspace::build_each(["skiff", "skiff-probe"], "release")
}
