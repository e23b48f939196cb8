//! `cargo xtask bench launch`: from the request for a container to its program's first instruction, and to its reaped end.
//!
//! | part | |
//! |---|---|
//! | `turns` | launchers that take turns within one run, the order turned each round, with gaps of 0, 10 ms and 1 s |
//! | `alone` | requests back to back, and nobody else |
//! | `waterfall` | where the time of a warm launch goes |
//! | `storms` | many at once |
//! | `sustained` | as many as can be in a while |
//! | `live` | with 1 000 and 5 000 containers that go on: launches, memory, a daemon that comes up |
//!
//! `--parts` leaves the others out. With fewer than 100 measurements of each (`-n`) it only shows that it works.

mod arms;
mod daemon;
mod live;
mod storms;
mod turns;

use anyhow::Result;
use skiff_benches::lab::Lab;
use skiff_benches::options::Options;
use skiff_benches::report::Report;

use daemon::Daemon;

/// What was measured of a launch, from the request, µs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// To the program's first instruction.
    pub(crate) first_us: f64,
    /// Until whoever asked knew that it runs; not a number if nobody told.
    pub(crate) started_us: f64,
    /// Until whoever asked knew that it has ended and was reaped.
    pub(crate) whole_us: f64,
}

fn main() -> Result<()> {
    let options = Options::parse(std::env::args().skip(1), 200)?;
    let mut lab = Lab::new(&["now", "pause"])?;
    lab.mount_hugetlb()?;
    let tools =
        [("crun", "--version"), ("runc", "--version"), ("youki", "--version"), ("unshare", "--version")];
    let mut report = Report::start("launch", &tools)?;
    let daemon = Daemon::start(&lab)?;
    turns::measure(&mut report, &lab, &daemon, &options)?;
    storms::measure(&mut report, &lab, &daemon, &options)?;
    drop(daemon);
    live::measure(&mut report, &lab, &options)?;
    if options.save { report.save("benches/runs".as_ref()) } else { Ok(()) }
}

/// Writes down what came of an aim.
pub(crate) fn aim(report: &mut Report, what: &str, is: f64, at_most: f64, unit: &str) {
    let verdict = if is <= at_most { "kept" } else { "MISSED" };
    report.line(&format!("* {verdict}: {what}: {is:.2}{unit} (aim: at most {at_most}{unit})"));
}
