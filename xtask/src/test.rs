//! `cargo xtask test`: the black-box ring against a release build.
//!
//! The suite in `tests/` finds the programs under test and the probe by environment: `SKIFF`, `RUNTIME` (the OCI runtime)
//! and `SKIFF_PROBE`. A variable that is already set is kept, so that the same suite can be pointed at another
//! build, and its part for OCI runtimes (`cargo xtask test oci`) at any runtime.

use std::env;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{command, conformance, workspace};

pub(crate) const ARGUMENTS: &str = "[FILTER] [-- ARGUMENTS]";
pub(crate) const HELP: &str = "black-box tests of the release build (root), some of them once more by a
                               daemon (SKIFF_TEST_DAEMON=on); without FILTER, up to 4 that
                               fail are tried again, alone; ARGUMENTS go to the test runner;
                               SKIFF=PATH tests another binary, MUST_RUN=1 turns skips into failures;
                               RUNTIME=crun with the filter oci tests another OCI runtime";

/// The modules that are run by a daemon, too.
#[rustfmt::skip] // a list
const BY_DAEMON: [&str; 11] = [
    "bad_input::", "flags_mounts::", "flags_process::", "flags_resources::", "images::", "launch::", "namespaces::",
    "security::", "signals::", "tree::", "tty::",
];

/// Of these, what is about the client's own process or mount namespace, which a daemon does not share; and other programs'
/// modules whose names end alike.
const NOT_BY_DAEMON: [&str; 4] =
    ["oci::", "runtime_", "propagation_is_as_asked_for", "the_launchers_binary_cannot_be_overwritten"];

/// So many tests that have failed are tried again.
const AGAIN_MAX: usize = 4;

/// What the suite needs.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) skiff: PathBuf,
    pub(crate) runtime: PathBuf,
    pub(crate) probe: PathBuf,
}

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    command::need_root("test")?;
    let Programs { skiff, runtime, probe } = programs()?;
    let new = || {
        let mut suite = suite(&probe);
        suite.env("SKIFF", &skiff).env("RUNTIME", &runtime).env("SKIFF_PROBE", &probe);
        suite.args(["test", "--package", "skiff-tests", "--test", "it"]);
        suite
    };
    if arguments.is_empty() {
        all(&new)?;
        return command::run(by_daemon(&mut new()));
    }
    let mut suite = new();
    suite.args(arguments);
    if !arguments.first().is_some_and(|filter| filter.starts_with("oci")) {
        return command::run(&mut suite);
    }
    if !arguments.iter().any(|argument| argument == "--") {
        suite.arg("--");
    }
    let name = runtime.file_name().unwrap_or_default().to_string_lossy();
    conformance::run(suite.arg("--show-output"), &name)
}

/// Runs the whole suite. A few tests that fail are run once more, alone, and named: what a kernel tells of page faults
/// depends on the addresses that it has drawn, and a thousand tests share few processors.
fn all(new: &dyn Fn() -> Command) -> Result<()> {
    let mut child = new().stdout(Stdio::piped()).spawn().context("start the suite")?;
    let stdout = child.stdout.take().context("its standard output")?;
    let mut failed = Vec::new();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("read its standard output")?;
        println!("{line}");
        failed.extend(
            line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")).map(str::to_owned),
        );
    }
    if child.wait().context("wait for the suite")?.success() {
        return Ok(());
    }
    if !(1..=AGAIN_MAX).contains(&failed.len()) {
        bail!("{} tests failed", failed.len());
    }
    println!("again, alone: {}", failed.join(" "));
    command::run(new().args(["--", "--test-threads=1", "--exact"]).args(&failed))
}

/// What is said of containers whoever runs them, of those that a daemon runs: a selection of the suite once more.
fn by_daemon(suite: &mut Command) -> &mut Command {
    suite.env("SKIFF_TEST_DAEMON", "on").arg("--").args(BY_DAEMON);
    NOT_BY_DAEMON.iter().fold(suite, |suite, test| suite.args(["--skip", test]))
}

/// `cargo` in the root of the workspace. For another runtime it sees one more controller of cgroup v1 if the host has v1
/// but not this one: crun 1.8 does not start without.
fn suite(probe: &Path) -> Command {
    if env::var_os("RUNTIME").is_none() {
        return workspace::cargo();
    }
    let mut suite = Command::new(probe);
    suite.args(["with", "controller=hugetlb", "--", "cargo"]);
    workspace::in_workspace(suite)
}

/// Those that the environment names; for the others the release builds, which are only made if one is missing.
fn programs() -> Result<Programs> {
    let given = ["SKIFF", "RUNTIME", "SKIFF_PROBE"].map(|name| env::var_os(name).map(PathBuf::from));
    let [skiff, runtime, probe] = match given {
        [Some(skiff), Some(runtime), Some(probe)] => [skiff, runtime, probe],
        given => {
            let built = workspace::build_each(["skiff", "skiff-runtime", "skiff-probe"], "release")?;
            let mut given = given.into_iter();
            built.map(|built| given.next().flatten().unwrap_or(built))
        }
    };
    Ok(Programs { skiff, runtime, probe })
}
