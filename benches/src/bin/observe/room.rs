//! A thousand containers at once: what arming one takes then, and what becomes of one more.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use skiff_benches::lab::Lab;
use skiff_benches::options::Options;
use skiff_benches::report::{Report, verdict};
use skiff_benches::samples::Samples;
use skiff_ebpf::events::Events;
use skiff_ebpf::{Error, Probes, Profiler, Waiting};

const SLOTS: u32 = 1000;
/// Of T2, a slot of which is megabytes and for one recorded run.
const RUNS: u32 = 32;
/// Ids of cgroups that there are not.
const NOBODY: u64 = 1 << 62;

/// Arms so many; what each took, ns.
type Armed = Result<Samples>;

pub(crate) fn run(_lab: &Lab, _options: &Options, report: &mut Report) -> Result<()> {
    report.line(&format!("\n## {SLOTS} containers armed at once"));
    let events = Events::load().context("load the programs of T0")?;
    let armed = [
        ("T0", arm(SLOTS, |id, _| events.arm(id, false).map_err(anyhow::Error::from))),
        ("T1", waits()),
        ("T2", calls()),
    ];
    let mut rows = Vec::new();
    for (name, armed) in armed {
        let samples = armed.with_context(|| format!("arm containers for {name}"))?;
        rows.push(vec![
            name.to_owned(),
            samples.len().to_string(),
            format!("{:.0}", samples.median()),
            format!("{:.0}", samples.percentile(99)),
        ]);
    }
    report.table(&["", "armed", "median ns", "p99"], &rows);
    let mut room = u64::from(SLOTS);
    while events.arm(NOBODY + room, false).is_ok() {
        room += 1;
    }
    let refused = events.arm(NOBODY - 1, false).is_err() && !events.is_armed(NOBODY - 1);
    report.line(&format!(
        "* T0 has room for {room}; one more is refused and counted nowhere: {}",
        verdict(refused)
    ));
    Ok(())
}

fn arm(slots: u32, mut one: impl FnMut(u64, u32) -> Result<()>) -> Armed {
    let mut samples = Samples::new();
    for slot in 0..slots {
        let begun = Instant::now();
        one(NOBODY + u64::from(slot), slot)?;
        samples.push(begun.elapsed().as_nanos() as f64);
    }
    Ok(samples)
}

fn waits() -> Armed {
    let probes = Probes { run_queue: true, block: true, ..Probes::default() };
    let waiting = Waiting::load(SLOTS, probes)?;
    arm(SLOTS, |id, slot| Ok(waiting.arm(id, slot)?))
}

fn calls() -> Armed {
    let mut profiler = Profiler::with_slots(RUNS)?;
    let mut slots = Vec::new();
    let samples = arm(RUNS, |id, _| {
        slots.push(profiler.arm(id, 0)?);
        Ok(())
    })?;
    match profiler.arm(NOBODY - 1, 0) {
        Err(Error::NoSlot(RUNS)) => Ok(samples),
        _ => bail!("one more than there is room for was not refused"),
    }
}
