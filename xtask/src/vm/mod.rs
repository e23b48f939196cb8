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
//! Everything a machine says is kept in `target/vm/RELEASE.log`.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::workspace;

mod cpio;
mod initramfs;
mod kernel;
mod machine;
mod report;

use initramfs::Programs;
use kernel::Kernel;
use report::Report;

pub(crate) const ARGUMENTS: &str = "[SERIES…] [-- FILTER…]";
pub(crate) const HELP: &str =
    "boots Debian's kernels of these series under qemu (default: 6.1 6.12) and checks the
                               runtime and every eBPF program there, on pure cgroup v2; FILTER chooses tests";

const SERIES: [&str; 2] = ["6.1", "6.12"];

/// Under emulation the suite takes a few minutes; a hanging machine must not hold up everything.
const LIMIT: Duration = Duration::from_secs(600);

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let mut parts = arguments.splitn(2, |argument| argument == "--");
    let asked: Vec<&str> = parts.next().unwrap_or_default().iter().map(String::as_str).collect();
    let filters = parts.next().unwrap_or_default();
    let series = if asked.is_empty() { SERIES.as_slice() } else { asked.as_slice() };
    let packages = ["skiff-vm-init", "skiff", "skiff-runtime", "skiff-probe"];
    let [init, skiff, runtime, probe] = workspace::build_each(packages, "release")?;
    let suite = workspace::build_test("skiff-tests", "it", "release")?;
    let programs = &Programs { init, skiff, runtime, probe, suite };
    let kernels: Vec<Kernel> = series.iter().map(|series| kernel::fetch(series)).collect::<Result<_>>()?;
    // Each machine has fewer processors than most hosts, and much of its time is waiting.
    let failures: Vec<String> = std::thread::scope(|scope| {
        let start = |kernel| scope.spawn(move || one(kernel, programs, filters));
        let machines: Vec<_> = kernels.iter().map(start).collect();
        let results =
            machines.into_iter().map(|machine| machine.join().expect("a machine's thread panicked"));
        results.filter_map(Result::err).map(|error| format!("{error:#}")).collect()
    });
    if !failures.is_empty() {
        bail!("{}", failures.join("\n"));
    }
    Ok(())
}

/// Boots one kernel and listens to it; an error unless every check passed and the machine said so.
fn one(kernel: &Kernel, programs: &Programs, filters: &[String]) -> Result<()> {
    let scratch = workspace::scratch("vm")?;
    let archive = scratch.join(format!("{}.cpio", kernel.release));
    let log = scratch.join(format!("{}.log", kernel.release));
    let see = || format!("kernel {}, see {}", kernel.release, log.display());
    std::fs::write(&archive, initramfs::build(programs, &kernel.modules("overlay")?)?)
        .with_context(|| format!("write {}", archive.display()))?;
    eprintln!("+ boot {} under qemu, log in {}", kernel.release, log.display());
    let mut machine = machine::boot(&kernel.image, &archive, filters, &log, LIMIT)?;
    let mut report = Report::default();
    while let Some(line) = machine.line().with_context(see)? {
        if report.take(&line) {
            println!("{} {line}", kernel.release);
        }
    }
    println!("{}", report.summary());
    report.verdict(&kernel.release).with_context(see)
}
