//! What the kernel says of the programs themselves: time of one run, memory of a slot.

use anyhow::{Context, Result};
use skiff_benches::lab::Lab;
use skiff_benches::options::Options;
use skiff_benches::report::Report;
use skiff_benches::samples::Samples;
use skiff_ebpf::{Probes, Waiting};

pub(crate) fn run(_lab: &Lab, options: &Options, report: &mut Report) -> Result<()> {
    report.line(&format!("\n## The program at a switch, by the kernel's own clock, n = {}", options.count));
    let probes = Probes { run_queue: true, block: true, ..Probes::default() };
    let [mut counted, mut others] = [Samples::new(), Samples::new()];
    for _ in 0..options.count {
        let cost = Waiting::load(16, probes)?.calibrate()?.context("the kernel does not time programs")?;
        counted.push(cost.counted_ns as f64);
        others.push(cost.others_ns as f64);
    }
    let row = |name: &str, samples: &Samples| {
        vec![name.to_owned(), format!("{:.0}", samples.median()), format!("{:.0}", samples.percentile(99))]
    };
    let rows = [row("one of the two tasks is counted", &counted), row("neither is", &others)];
    report.table(&["switch", "median ns", "p99"], &rows);
    let bytes = |slots| Ok::<_, anyhow::Error>(Waiting::load(slots, probes)?.map_bytes());
    let (few, many) = (bytes(16)?, bytes(1016)?);
    report
        .line(&format!("* kernel memory of run-queue and block: {few} bytes for 16 slots, {many} for 1,016"));
    report.line(&format!("* each slot beyond the first 16: {} bytes", (many - few) / 1000));
    Ok(())
}
