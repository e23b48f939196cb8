//! `cargo xtask bench observe`: what observing costs those that are observed, and those that are not.
//!
//! * `always`: what is always on takes of a launch, of an end, of a scrape, and of a daemon that has nothing to do.
//! * `events`: ns added to a switch between tasks, a packet, a TCP segment and a system call, in a container and beside one.
//! * `programs`: how long the kernel says that each program takes; memory a slot.
//! * `room`: a thousand containers armed at once, and one more than there is room for.
//! * `throughput`: requests a second of redis and nginx in a container, while nobody, skiff's tiers, bpftrace or perf look on.
//!
//! The arms of a part take turns within each round. What observes is up before an arm is measured and gone before the next. With
//! `-n 1` all of it is tried, and what it says is little more than that it works.

mod always;
mod beside;
mod events;
mod programs;
mod room;
mod throughput;

use std::time::Instant;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use skiff_benches::lab::Lab;
use skiff_benches::options::Options;
use skiff_benches::report::Report;

/// A part of the benchmark.
type Part = fn(&Lab, &Options, &mut Report) -> Result<()>;

const PARTS: [(&str, Part); 5] = [
    ("always", always::run),
    ("events", events::run),
    ("programs", programs::run),
    ("room", room::run),
    ("throughput", throughput::run),
];

fn main() -> Result<()> {
    let options = Options::parse(std::env::args().skip(1), 5)?;
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
    let mut took = Vec::new();
    for (name, run) in PARTS.into_iter().filter(|(name, _)| options.wants_part(name)) {
        let begun = Instant::now();
        run(&lab, &options, &mut report)?;
        took.push(format!("{name} {} s", begun.elapsed().as_secs()));
    }
    report.line(&format!("\nIt took: {}.", took.join(", ")));
    if options.save { report.save("benches/runs".as_ref()) } else { Ok(()) }
}
