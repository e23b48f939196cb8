//! `cargo xtask bench observe`: what observing costs those that are observed, and those that are not.
//!
//! * `always`: what is always on takes of a launch, of an end, and of a daemon that has nothing to do.
//! * `events`: ns added to a switch between tasks, a packet and a system call, in a container and beside one.
//! * `programs`: how long the kernel says the program at a switch takes; memory a slot.
//! * `throughput`: requests a second of redis and nginx in a container, while nobody, skiff's tiers, bpftrace or perf look on.
//!
//! The arms of a part take turns within each round. What observes is up before an arm is measured and gone before the next.

mod always;
mod beside;
mod events;
mod programs;
mod throughput;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use skiff_benches::lab::Lab;
use skiff_benches::options::Options;
use skiff_benches::report::Report;

/// A part of the benchmark.
type Part = fn(&Lab, &Options, &mut Report) -> Result<()>;

const PARTS: [(&str, Part); 4] = [
    ("always", always::run),
    ("events", events::run),
    ("programs", programs::run),
    ("throughput", throughput::run),
];

fn main() -> Result<()> {
    let options = Options::parse(std::env::args().skip(1), 7)?;
    let lab = Lab::new(&["spin", "exchange"])?;
    Lab::mount_tracing()?;
    // Pins of its own: those of the host stay as they are.
    mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), Some("mode=700"))
        .context("mount a bpffs")?;
    let tools = [
        ("bpftrace", "--version"),
        ("perf", "--version"),
        ("redis-server", "--version"),
        ("wrk", "--version"),
    ];
    let mut report = Report::start("observe", &tools)?;
    for (_, run) in PARTS.into_iter().filter(|(name, _)| options.wants_part(name)) {
        run(&lab, &options, &mut report)?;
    }
    if options.save { report.save("benches/runs".as_ref()) } else { Ok(()) }
}
