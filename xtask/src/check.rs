//! `cargo xtask check`: everything that can be told without root and without starting a container.
//!
//! All steps run, whatever fails, and the end is one line per step.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::{arrows, command, target, workspace};

pub(crate) const HELP: &str =
    "formatting, lints, the build with glibc, fuzz targets, dependency arrows, documentation, unit tests, cargo-deny;
                               runs all of them and reports every failure at the end";

/// How a step ended.
enum Outcome {
    Passed,
    Skipped(&'static str),
    Failed(String),
}

const FUZZ: &str = "fuzz/Cargo.toml";

type Step = (&'static str, fn() -> Result<Outcome>);

const STEPS: &[Step] = &[
    ("format", format),
    ("clippy", clippy),
    ("glibc", glibc),
    ("fuzz", fuzz),
    ("arrows", arrows),
    ("doc", doc),
    ("test", test),
    ("deny", deny),
];

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    if let Some(argument) = arguments.first() {
        bail!("check takes no argument, got {argument:?}");
    }
    let mut lines = Vec::new();
    let mut failures = 0;
    for (name, step) in STEPS {
        let begun = Instant::now();
        let outcome = step().unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")));
        failures += usize::from(matches!(outcome, Outcome::Failed(_)));
        lines.push(summary(name, &outcome, begun.elapsed()));
    }
    println!("{}", lines.join("\n"));
    if failures > 0 {
        bail!("{failures} of {} checks failed", STEPS.len());
    }
    Ok(())
}

fn summary(name: &str, outcome: &Outcome, took: Duration) -> String {
    let seconds = took.as_secs_f64();
    match outcome {
        Outcome::Passed => format!("check {name:<8} ok      {seconds:6.1} s"),
        Outcome::Skipped(why) => format!("check {name:<8} skip    {seconds:6.1} s  {why}"),
        Outcome::Failed(why) => format!("check {name:<8} FAILED  {seconds:6.1} s  {why}"),
    }
}

fn format() -> Result<Outcome> {
    command::run(workspace::cargo().args(["fmt", "--all", "--check"]))?;
    // Workspaces of their own, which the line above does not reach.
    for manifest in ["ebpf/progs/Cargo.toml", FUZZ] {
        command::run(workspace::cargo().args(["fmt", "--check", "--manifest-path", manifest]))?;
    }
    Ok(Outcome::Passed)
}

fn clippy() -> Result<Outcome> {
    // "All" leaves out the black-box suite, which is no part of `cargo test`.
    let lints = ["clippy", "--workspace", "--all-targets", "--test", "it", "--", "--deny", "warnings"];
    command::run(workspace::cargo().args(lints))?;
    Ok(Outcome::Passed)
}

/// What the lints see is one target; the other must build too.
fn glibc() -> Result<Outcome> {
    if target::chosen().is_none() {
        return Ok(Outcome::Skipped("it is what the lints have seen"));
    }
    let mut cargo = workspace::cargo();
    command::run(cargo.env_remove(target::VARIABLE).args([
        "check",
        "--workspace",
        "--all-targets",
        "--test",
        "it",
    ]))?;
    Ok(Outcome::Passed)
}

/// That the targets fit what they call. Nothing is linked, so libFuzzer itself, which is C++, is not looked for.
fn fuzz() -> Result<Outcome> {
    let mut cargo = workspace::cargo();
    cargo.env_remove(target::VARIABLE).env("RUSTFLAGS", "--cfg fuzzing --deny warnings");
    cargo.env("CUSTOM_LIBFUZZER_PATH", "/none/libfuzzer.a");
    command::run(cargo.args(["check", "--manifest-path", FUZZ, "--target-dir", "target/fuzz"]))?;
    Ok(Outcome::Passed)
}

fn arrows() -> Result<Outcome> {
    let violations = arrows::violations(&workspace::members()?);
    if violations.is_empty() {
        return Ok(Outcome::Passed);
    }
    Ok(Outcome::Failed(violations.join("; ")))
}

fn doc() -> Result<Outcome> {
    // Private items are documented too, so a link to one resolves.
    let flags = "--deny warnings --allow rustdoc::private_intra_doc_links";
    let doc = ["doc", "--workspace", "--no-deps", "--document-private-items"];
    command::run(workspace::cargo().env("RUSTDOCFLAGS", flags).args(doc))?;
    Ok(Outcome::Passed)
}

/// For the compiler's own target: tests that clone a process do so among threads, as skiff never does, and musl's allocator has one
/// lock, which nobody opens any more in the child if another thread has it just then.
fn test() -> Result<Outcome> {
    command::run(workspace::cargo().env_remove(target::VARIABLE).args(["test", "--quiet", "--workspace"]))?;
    Ok(Outcome::Passed)
}

/// Licences, sources and duplicates. Advisories are left out: their database needs a network that CI may not have.
fn deny() -> Result<Outcome> {
    if command::find("cargo-deny").is_none() {
        return Ok(Outcome::Skipped("cargo-deny is not installed (cargo xtask setup --with-deny)"));
    }
    command::run(workspace::cargo().args(["deny", "--workspace", "check", "bans", "licenses", "sources"]))?;
    Ok(Outcome::Passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_what_failed_and_why() {
        let took = Duration::from_millis(1500);
        assert_eq!(summary("doc", &Outcome::Passed, took), "check doc      ok         1.5 s");
        assert_eq!(
            summary("arrows", &Outcome::Failed("a must not depend on b".into()), took),
            "check arrows   FAILED     1.5 s  a must not depend on b"
        );
    }
}
