//! `cargo xtask vm`: the runtime and every eBPF program on other kernels.
//!
//! Boots Debian's kernels under qemu with a root file system made here. Inside, `tests/vm-init` sets up a machine with
//! pure cgroup v2, runs the black-box suite there, and reports on the serial line, one line each:
//!
//! ```text
//! vm: kernel RELEASE
//! vm: pass NAME
//! vm: skip NAME: WHY
//! vm: fail NAME: WHY
//! vm: end COUNT
//! ```
//!
//! Everything a machine says is kept in `target/vm/SERIES.log`.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::workspace;

mod cpio;
mod initramfs;
mod kernel;
mod machine;
mod report;

use initramfs::Programs;
use report::Report;

pub(crate) const ARGUMENTS: &str = "[SERIES…]";
pub(crate) const HELP: &str =
    "boots Debian's kernels of these series under qemu (default: 6.1 6.12) and checks the
                               runtime and every eBPF program there, on pure cgroup v2";

const SERIES: [&str; 2] = ["6.1", "6.12"];

/// Under emulation a machine needs well under a minute; a hanging one must not hold up everything.
const LIMIT: Duration = Duration::from_secs(300);

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let asked: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let series = if asked.is_empty() { SERIES.as_slice() } else { asked.as_slice() };
    let [init, skiff, probe] = workspace::build_each(["skiff-vm-init", "skiff", "skiff-probe"], "release")?;
    let suite = workspace::build_test("skiff-tests", "it", "release")?;
    let programs = Programs { init, skiff, probe, suite };
    let mut failures = Vec::new();
    for series in series {
        if let Err(error) = one(series, &programs) {
            failures.push(format!("kernel {series}: {error:#}"));
        }
    }
    if !failures.is_empty() {
        bail!("{}", failures.join("\n"));
    }
    Ok(())
}

/// Boots one kernel and listens to it; an error unless every check passed and the machine said so.
fn one(series: &str, programs: &Programs) -> Result<()> {
    let kernel = kernel::fetch(series)?;
    let scratch = workspace::scratch("vm")?;
    let archive = scratch.join(format!("{series}.cpio"));
    let log = scratch.join(format!("{series}.log"));
    std::fs::write(&archive, initramfs::build(programs, &kernel.modules("overlay")?)?)
        .with_context(|| format!("write {}", archive.display()))?;
    eprintln!("+ boot {} under qemu, log in {}", kernel.release, log.display());
    let mut machine = machine::boot(&kernel.image, &archive, &log, LIMIT)?;
    let mut report = Report::default();
    while let Some(line) = machine.line().with_context(|| format!("{report}: see {}", log.display()))? {
        if report.take(&line) {
            println!("{series} {line}");
        }
    }
    println!("{}", report.summary());
    report.verdict(&kernel.release).with_context(|| format!("see {}", log.display()))
}
