//! `cargo xtask vm`: the runtime and every eBPF program on other kernels.
//!
//! Boots Debian's kernels under qemu with a root file system made here. Inside, `tests/vm-init` sets up a machine with
//! pure cgroup v2 – or, for the machine `systemd`, leaves that to Debian's systemd –, runs the black-box suite there, and
//! reports on the serial line, one line each:
//!
//! ```text
//! vm: kernel RELEASE
//! vm: pass NAME
//! vm: skip NAME: WHY
//! vm: fail NAME: WHY
//! vm: end COUNT
//! ```
//!
//! Everything a machine says is kept in `target/vm/MACHINE.log`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::workspace;

mod cpio;
mod initramfs;
mod kernel;
mod machine;
mod report;
mod userland;

use initramfs::Programs;
use kernel::Kernel;
use report::Report;

pub(crate) const ARGUMENTS: &str = "[SERIES…] [-- FILTER…]";
pub(crate) const HELP: &str =
    "boots Debian's kernels of these series under qemu (default: 6.1 6.12 systemd) and checks
                               the runtime and every eBPF program there, on pure cgroup v2; systemd: a machine that
                               boots it, with criu, for the tests that need them; FILTER chooses tests";

const MACHINES: [&str; 3] = ["6.1", "6.12", SYSTEMD];

/// The machine that boots systemd, which has this kernel.
const SYSTEMD: &str = "systemd";
const SYSTEMD_SERIES: &str = "6.1";

/// What criu asks the kernel for, of sockets and packet filters above all.
const CRIU: &[&str] = &[
    "overlay",
    "crc32c_generic",
    "tun",
    "unix_diag",
    "tcp_diag",
    "udp_diag",
    "raw_diag",
    "netlink_diag",
    "af_packet_diag",
    "nf_tables",
    "nf_conntrack_netlink",
    "nft_compat",
    "xt_mark",
    "veth",
];

/// Under emulation the suite takes some ten minutes; a hanging machine must not hold up everything.
const LIMIT: Duration = Duration::from_secs(1800);

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let mut parts = arguments.splitn(2, |argument| argument == "--");
    let asked: Vec<&str> = parts.next().unwrap_or_default().iter().map(String::as_str).collect();
    let filters = parts.next().unwrap_or_default();
    let names = if asked.is_empty() { MACHINES.as_slice() } else { asked.as_slice() };
    let packages = ["skiff-vm-init", "skiff", "skiff-runtime", "skiff-probe"];
    let [init, skiff, runtime, probe] = workspace::build_each(packages, "release")?;
    let suite = workspace::build_test("skiff-tests", "it", "fast")?;
    let programs = &Programs { init, skiff, runtime, probe, suite };
    let machines: Vec<Machine> = names.iter().map(|name| Machine::named(name)).collect::<Result<_>>()?;
    // Each machine has fewer processors than most hosts, and much of its time is waiting.
    let failures: Vec<String> = std::thread::scope(|scope| {
        let start = |machine| scope.spawn(move || one(machine, programs, filters));
        let machines: Vec<_> = machines.iter().map(start).collect();
        let results =
            machines.into_iter().map(|machine| machine.join().expect("a machine's thread panicked"));
        results.filter_map(Result::err).map(|error| format!("{error:#}")).collect()
    });
    if !failures.is_empty() {
        bail!("{}", failures.join("\n"));
    }
    Ok(())
}

/// What is booted.
#[derive(Debug)]
struct Machine {
    /// Of its log: the kernel's release, or what else is special.
    name: String,
    kernel: Kernel,
    /// The root directory of a system with systemd.
    userland: Option<PathBuf>,
}

impl Machine {
    fn named(name: &str) -> Result<Self> {
        if name == SYSTEMD {
            let (kernel, userland) = (kernel::fetch(SYSTEMD_SERIES)?, userland::fetch()?);
            return Ok(Self { name: name.to_owned(), kernel, userland: Some(userland) });
        }
        let kernel = kernel::fetch(name)?;
        Ok(Self { name: kernel.release.clone(), kernel, userland: None })
    }

    /// What the tests need of the kernel that is not built in.
    fn modules(&self) -> &'static [&'static str] {
        if self.userland.is_some() { CRIU } else { &["overlay"] }
    }

    /// What its init is told: the machine's kind, if it is a special one, and which tests to run.
    fn arguments(&self, filters: &[String]) -> Vec<String> {
        match self.userland {
            // The other machines run the rest, and skip what needs systemd.
            Some(_) => vec![SYSTEMD.to_owned()],
            None => filters.to_vec(),
        }
    }
}

/// Boots one machine and listens to it; an error unless every check passed and the machine said so.
fn one(machine: &Machine, programs: &Programs, filters: &[String]) -> Result<()> {
    let Machine { name, kernel, userland } = machine;
    let scratch = workspace::scratch("vm")?;
    let archive = scratch.join(format!("{name}.cpio"));
    let log = scratch.join(format!("{name}.log"));
    let see = || format!("machine {name}, see {}", log.display());
    let content = initramfs::build(programs, &kernel.modules(machine.modules())?, userland.as_deref())?;
    std::fs::write(&archive, content).with_context(|| format!("write {}", archive.display()))?;
    eprintln!("+ boot {name} under qemu, log in {}", log.display());
    let mut running = machine::boot(&kernel.image, &archive, &machine.arguments(filters), &log, LIMIT)?;
    let mut report = Report::default();
    while let Some(line) = running.line().with_context(see)? {
        if report.take(&line) {
            println!("{name} {line}");
        }
    }
    println!("{name}: {}", report.summary());
    report.verdict(&kernel.release).with_context(see)
}
