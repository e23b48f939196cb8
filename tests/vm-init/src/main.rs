//! The first process of a test machine: sets it up, runs the checks, switches the machine off.
//!
//! `cargo xtask vm` builds the root file system around it and reads its report (see `xtask/src/vm/mod.rs`). The checks
//! run in a child, so that the first process is free for its duty: it waits for every orphan of the machine. In the
//! machine that boots systemd, that is the first process, and the checks are a unit.

use std::convert::Infallible;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
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

/// The first argument of a machine that boots systemd; the others name tests, as they do elsewhere.
const SYSTEMD: &str = "systemd";

/// The first argument of one of several machines that share the tests: `share=K/N` is the Kth of N.
const SHARE: &str = "share=";

fn main() -> Result<Infallible> {
    let is_first = std::process::id() == 1;
    let with_systemd = std::path::Path::new("/run/systemd/system").is_dir();
    let started = match (is_first, std::env::args().nth(1).as_deref()) {
        (false, _) => {
            if let Err(error) = report(with_systemd) {
                println!("vm: fail the_checks_run: {error:#}");
            }
            if !with_systemd {
                std::process::exit(0);
            }
            Ok(())
        }
        (true, Some(SYSTEMD)) => machine::hand_over(),
        (true, _) => machine::prepare().and_then(|()| supervise()),
    };
    if let Err(error) = started {
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

fn report(with_systemd: bool) -> Result<()> {
    let filters: Vec<String> =
        if with_systemd { filters_of_systemd()? } else { std::env::args().skip(1).collect() };
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("read the kernel's release")?;
    println!("vm: kernel {}", release.trim());
    let (share, filters) = share(&filters)?;
    let results = [premise::check(with_systemd)?, suite::run(filters, share, with_systemd)?].concat();
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

/// The share of the tests that falls to this machine, as a number from 0 and how many there are, and the filters behind it.
fn share(arguments: &[String]) -> Result<((usize, usize), &[String])> {
    let share = arguments.first().and_then(|first| first.strip_prefix(SHARE));
    let Some(share) = share else { return Ok(((0, 1), arguments)) };
    let (which, of) = share.split_once('/').with_context(|| format!("{SHARE}{share}: no K/N"))?;
    let (which, of): (usize, usize) = (which.parse()?, of.parse()?);
    ensure!((1..=of).contains(&which), "{SHARE}{share}: there is no such share");
    Ok(((which - 1, of), &arguments[1..]))
}

/// What init has been told to run before it became systemd. The kernel leaves what stands behind the dashes to init.
fn filters_of_systemd() -> Result<Vec<String>> {
    let line = fs::read_to_string("/proc/cmdline").context("read the kernel's command line")?;
    let arguments = line.split_once(" -- ").map_or("", |(_, arguments)| arguments);
    Ok(arguments.split_whitespace().skip(1).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_stands_before_the_filters() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let told = |arguments: &[&str]| {
            let arguments = words(arguments);
            share(&arguments).map(|(share, filters)| (share, filters.to_vec())).ok()
        };
        assert_eq!(told(&[]), Some(((0, 1), Vec::new())));
        assert_eq!(told(&["tree::", "tty::"]), Some(((0, 1), words(&["tree::", "tty::"]))));
        assert_eq!(told(&["share=2/3", "tree::"]), Some(((1, 3), words(&["tree::"]))));
        for wrong in ["share=", "share=0/2", "share=3/2", "share=a/b"] {
            assert_eq!(told(&[wrong]), None, "{wrong}");
        }
    }
}
