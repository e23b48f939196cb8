//! The first process of a test machine: sets it up, runs the checks, switches the machine off.
//!
//! `cargo xtask vm` builds the root file system around it and reads its report (see `xtask/src/vm/mod.rs`). The checks
//! run in a child, so that the first process is free for its duty: it waits for every orphan of the machine.

use std::convert::Infallible;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::Pid;

mod machine;
mod premise;
mod suite;

/// How one check ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Pass,
    Skip(String),
    Fail(String),
}

fn main() -> Result<Infallible> {
    if std::process::id() != 1 {
        if let Err(error) = report() {
            println!("vm: fail the_checks_run: {error:#}");
        }
        std::process::exit(0);
    }
    if let Err(error) = machine::prepare().and_then(|()| supervise()) {
        println!("vm: fail the_machine_starts: {error:#}");
    }
    nix::unistd::sync();
    // Should this fail, the kernel panics over the loss of its first process, which ends the machine as well.
    reboot(RebootMode::RB_POWER_OFF).context("power off")
}

/// Runs this program once more for the checks, and waits for it and for whatever is orphaned meanwhile.
fn supervise() -> Result<()> {
    let checks = Command::new("/init").args(std::env::args().skip(1)).spawn().context("start the checks")?;
    let checks = Pid::from_raw(i32::try_from(checks.id())?);
    loop {
        match wait().context("wait for a process")? {
            WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _) if pid == checks => return Ok(()),
            _ => {}
        }
    }
}

fn report() -> Result<()> {
    let filters: Vec<String> = std::env::args().skip(1).collect();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("read the kernel's release")?;
    println!("vm: kernel {}", release.trim());
    let results = [premise::check()?, suite::run(&filters)?].concat();
    for (name, verdict) in &results {
        match verdict {
            Verdict::Pass => println!("vm: pass {name}"),
            Verdict::Skip(why) => println!("vm: skip {name}: {why}"),
            Verdict::Fail(why) => println!("vm: fail {name}: {why}"),
        }
    }
    println!("vm: end {}", results.len());
    Ok(())
}
