//! The first process of a test machine: sets it up, runs the checks, reports each in one line, switches the machine
//! off. `cargo xtask vm` builds the root file system around it and reads the report (see `xtask/src/vm/mod.rs`).

use std::convert::Infallible;
use std::fs;

use anyhow::{Context, Result};
use nix::sys::reboot::{RebootMode, reboot};

mod checks;
mod machine;

fn main() -> Result<Infallible> {
    let ran = machine::prepare().and_then(|()| report());
    if let Err(error) = ran {
        println!("vm: fail the machine: {error:#}");
    }
    nix::unistd::sync();
    // Should this fail, the kernel panics over the loss of its first process, which ends the machine as well.
    reboot(RebootMode::RB_POWER_OFF).context("power off")
}

fn report() -> Result<()> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("read the kernel's release")?;
    println!("vm: kernel {}", release.trim());
    for (name, check) in checks::ALL {
        match check() {
            Ok(()) => println!("vm: pass {name}"),
            // On one line, whatever the message holds.
            Err(error) => println!("vm: fail {name}: {}", format!("{error:#}").replace('\n', " | ")),
        }
    }
    println!("vm: end {}", checks::ALL.len());
    Ok(())
}
