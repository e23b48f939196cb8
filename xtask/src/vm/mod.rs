//! `cargo xtask vm`: the runtime and every eBPF program on other kernels.
//!
//! Boots Debian's kernels under qemu with a root file system made here. Inside, `tests/vm-init` sets up a machine with
//! pure cgroup v2 – or, for the machines `systemd` and `engines`, leaves that to Debian's systemd –, runs the black-box suite there, and
//! reports on the serial line, one line each:
//!
//! ```text
//! vm: kernel RELEASE
//! vm: pass NAME
//! vm: skip NAME: WHY
//! vm: fail NAME: WHY
//! vm: again NAME: WHY      (of one that had failed, and whose verdict is that of a second try, alone)
//! vm: end COUNT
//! ```
//!
//! Everything a machine says is kept in `target/vm/MACHINE.log`. An emulated machine has one thread of the host's: where there
//! are processors for it, all tests of one kernel are shared by two machines, and those of the engines by three.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{command, workspace};

mod cpio;
mod initramfs;
mod kernel;
mod machine;
mod report;
mod userland;

use initramfs::Programs;
use kernel::Kernel;
use report::Report;
use userland::Userland;

pub(crate) const ARGUMENTS: &str = "[SERIES…] [-- FILTER…]";
pub(crate) const HELP: &str =
    "boots Debian's kernels of these series under qemu (default: 6.1 6.12 systemd) and
                               checks the runtime and every eBPF program there, on pure cgroup v2; systemd: a machine
                               that boots it, with criu; engines: the same with docker, containerd and podman; FILTER
                               chooses tests";

const MACHINES: [&str; 3] = ["6.1", "6.12", "systemd"];

/// The kernel of the machines that boot systemd.
const SYSTEMD_SERIES: &str = "6.1";

/// What the tests need of the kernel that is not built in. ext4 asks for the last but one by itself, of a modprobe that
/// is not there.
const MODULES: &[&str] = &["overlay", "loop", "veth", "virtio_pci", "virtio_blk", "crc32c_generic", "ext4"];

/// How many machines share all tests of one kernel.
const SHARES: usize = 2;

/// Bytes of the disk that is the /tmp of a machine without systemd.
const DISK: u64 = 8 << 30;

/// Under emulation the suite takes a quarter of an hour, twice that where machines share a processor; a hanging machine
/// must not hold up everything.
const LIMIT: Duration = Duration::from_secs(2700);

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let mut parts = arguments.splitn(2, |argument| argument == "--");
    let asked: Vec<&str> = parts.next().unwrap_or_default().iter().map(String::as_str).collect();
    let filters = parts.next().unwrap_or_default();
    let names = if asked.is_empty() { MACHINES.as_slice() } else { asked.as_slice() };
    let packages = ["skiff-vm-init", "skiff", "skiff-runtime", "skiff-probe"];
    let [init, skiff, runtime, probe] = workspace::build_each(packages, "release")?;
    let suite = workspace::build_test("skiff-tests", "it", "fast")?;
    let programs = &Programs { init, skiff, runtime, probe, suite };
    let shares = |name: &&str| Userland::named(name).map_or(SHARES, |userland| userland.shares);
    let most: usize = names.iter().map(shares).sum();
    // One of them ends early.
    let is_shared = filters.is_empty() && most <= thread::available_parallelism()?.get() + 1;
    let named = names.iter().map(|name| Machine::named(name, if is_shared { shares(name) } else { 1 }));
    let named = named.collect::<Result<Vec<_>>>()?;
    let machines: Vec<Machine> = named.into_iter().flatten().collect();
    // Each machine has fewer processors than most hosts, and much of its time is waiting.
    let failures: Vec<String> = thread::scope(|scope| {
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
    /// Which share of all tests it runs, as its init is told; `None` if all.
    share: Option<String>,
    /// A system with systemd, and its root directory.
    userland: Option<(&'static Userland, PathBuf)>,
}

impl Machine {
    /// The machine of this name, or the machines that take a share of its tests each.
    fn named(name: &str, shares: usize) -> Result<Vec<Self>> {
        let userland = Userland::named(name).map(|of| anyhow::Ok((of, userland::fetch(of)?))).transpose()?;
        let kernel = kernel::fetch(if userland.is_some() { SYSTEMD_SERIES } else { name })?;
        let whole = if userland.is_some() { name } else { &kernel.release };
        let share = |which| Self {
            name: if shares == 1 { whole.to_owned() } else { format!("{whole}-{which}") },
            kernel: kernel.clone(),
            share: (shares > 1).then(|| format!("share={which}/{shares}")),
            userland: userland.clone(),
        };
        Ok((1..=shares).map(share).collect())
    }

    /// What the tests need of the kernel that is not built in.
    fn modules(&self) -> &'static [&'static str] {
        self.userland.as_ref().map_or(MODULES, |(userland, _)| userland.modules)
    }

    /// What its init is told: whether systemd is to be booted, and which tests to run.
    fn arguments(&self, filters: &[String]) -> Vec<String> {
        let userland = self.userland.as_ref().map(|(userland, _)| userland);
        let own = userland.filter(|_| filters.is_empty()).map_or(&[][..], |userland| userland.tests);
        let systemd = userland.map(|_| "systemd".to_owned());
        let tests = own.iter().map(|test| (*test).to_owned()).chain(filters.iter().cloned());
        systemd.into_iter().chain(self.share.clone()).chain(tests).collect()
    }
}

/// Boots one machine and listens to it; an error unless every check passed and the machine said so.
fn one(machine: &Machine, programs: &Programs, filters: &[String]) -> Result<()> {
    let Machine { name, kernel, userland, .. } = machine;
    let scratch = workspace::scratch("vm")?;
    let archive = scratch.join(format!("{name}.cpio"));
    let log = scratch.join(format!("{name}.log"));
    let see = || format!("machine {name}, see {}", log.display());
    let root = userland.as_ref().map(|(_, root)| root.as_path());
    let content = initramfs::build(programs, &kernel.modules(machine.modules())?, root)?;
    fs::write(&archive, content).with_context(|| format!("write {}", archive.display()))?;
    eprintln!("+ boot {name} under qemu, log in {}", log.display());
    let disk =
        if userland.is_none() { Some(make_disk(&scratch.join(format!("{name}.ext4")))?) } else { None };
    let limit = LIMIT * userland.as_ref().map_or(1, |(userland, _)| userland.patience);
    let mut running =
        machine::boot(&kernel.image, &archive, disk.as_deref(), &machine.arguments(filters), &log, limit)?;
    let mut report = Report::default();
    while let Some(line) = running.line().with_context(see)? {
        if report.take(&line) {
            println!("{name} {line}");
        }
    }
    println!("{name}: {}", report.summary());
    report.verdict(&kernel.release).with_context(see)
}

/// Makes a disk with an empty file system, of which the host stores only what is written.
fn make_disk(path: &Path) -> Result<PathBuf> {
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    file.set_len(DISK).with_context(|| format!("make {} larger", path.display()))?;
    command::run(Command::new("/sbin/mkfs.ext4").args(["-q", "-F"]).arg(path))?;
    Ok(path.to_owned())
}
