//! Turns the counts of a slot into a record. Pure.

use std::collections::BTreeMap;

use skiff_ebpf_abi::{self as abi, bucket_middle, phase};
use skiff_sys::syscalls;

use crate::load::Available;
use crate::maps::{Counts, add};
use crate::record::{Abi, Exec, Oom, Phase, Record, Syscall};

/// The record of `counts`, without what the measuring cost.
pub(crate) fn record(counts: &Counts, available: &Available) -> Record {
    let slot = &counts.slot;
    let mut phases = [phase::INIT, phase::WORKLOAD].map(|phase| of_phase(counts, phase, available));
    Record {
        init: std::mem::take(&mut phases[0]),
        workload: std::mem::take(&mut phases[1]),
        exec_ns: stamp(slot.exec_ns),
        first_output_ns: stamp(slot.first_output_ns),
        execs: counts.execs.iter().map(exec).collect(),
        execs_total: slot.execs,
        oom: (slot.oom_kills > 0).then(|| Oom {
            kills: slot.oom_kills,
            at_ns: slot.oom_ns,
            pid: pid(slot.oom_pid),
            comm: text(&slot.oom_comm),
        }),
        lost: slot.lost + slot.execs.saturating_sub(u64::from(abi::EXECS)),
        missing: available.missing.clone(),
        cost: crate::Cost::default(),
    }
}

fn of_phase(counts: &Counts, phase: u32, available: &Available) -> Phase {
    let sums = &counts.slot.phases[phase as usize];
    let used = &sums.figures;
    let ticks = used.user_ns + used.system_ns;
    let part = |ticks_of: u64| {
        let share = u128::from(used.cpu_ns) * u128::from(ticks_of) / u128::from(ticks.max(1));
        (available.cpu && available.ticks && ticks > 0).then(|| u64::try_from(share).unwrap_or(u64::MAX))
    };
    let if_present = |present: bool, figure: u64| present.then_some(figure);
    Phase {
        syscalls: of_calls(counts, phase),
        minor_faults: if_present(available.faults, used.minor_faults),
        major_faults: if_present(available.faults, used.major_faults),
        processes_created: sums.processes,
        threads_created: sums.threads,
        cpu_ns: if_present(available.cpu, used.cpu_ns),
        cpu_user_ns: part(used.user_ns),
        cpu_system_ns: part(used.system_ns),
        run_queue_ns: if_present(available.run_queue, used.run_queue_ns),
        off_cpu_ns: if_present(available.run_queue && available.cpu, sums.off_cpu_ns),
        voluntary_switches: if_present(available.switches, used.voluntary_switches),
        involuntary_switches: if_present(available.switches, used.involuntary_switches),
        block_read_bytes: if_present(available.block, sums.block_bytes[0]),
        block_write_bytes: if_present(available.block, sums.block_bytes[1]),
        block_reads: if_present(available.block, sums.block_requests[0]),
        block_writes: if_present(available.block, sums.block_requests[1]),
    }
}

fn of_calls(counts: &Counts, phase: u32) -> Vec<Syscall> {
    let mut rows: BTreeMap<u32, abi::Row> = BTreeMap::new();
    for (call, row) in counts.rows.iter().filter(|(call, _)| abi::call_parts(*call).0 == phase) {
        rows.entry(*call).and_modify(|sum| *sum = add(*sum, row)).or_insert(*row);
    }
    let mut calls: Vec<_> = rows.iter().map(|(call, row)| of_call(counts, *call, row)).collect();
    calls.retain(|call| call.count > 0);
    calls.sort_by(|a, b| b.total_ns.cmp(&a.total_ns).then(b.count.cmp(&a.count)));
    calls
}

fn of_call(counts: &Counts, call: u32, row: &abi::Row) -> Syscall {
    let (_, compat, nr) = abi::call_parts(call);
    let returned = row.histogram.iter().sum();
    let errors = counts.errors.iter().filter(|(of, ..)| *of == call);
    let mut errors: Vec<_> =
        errors.map(|(_, errno, count)| (u16::try_from(*errno).unwrap_or(u16::MAX), *count)).collect();
    errors.sort_unstable();
    Syscall {
        nr: (nr < abi::NUMBERS - 1).then_some(nr),
        abi: if compat { Abi::Compat } else { Abi::Native },
        name: name(nr, compat),
        count: returned + row.refused + row.unreturned,
        returned,
        refused: row.refused,
        unreturned: row.unreturned,
        errors,
        total_ns: row.total_ns,
        p50_ns: percentile(row, returned, 50),
        p99_ns: percentile(row, returned, 99),
        max_ns: row.max_ns,
    }
}

/// The least time that `percent` of the `returned` calls did not exceed, as exactly as the histogram tells.
fn percentile(row: &abi::Row, returned: u64, percent: u64) -> u64 {
    let rank = (returned * percent).div_ceil(100);
    let mut seen = 0;
    let bucket = row.histogram.iter().position(|count| {
        seen += count;
        seen >= rank
    });
    bucket.map_or(0, |bucket| bucket_middle(bucket).min(row.max_ns))
}

fn name(nr: u32, compat: bool) -> String {
    if nr >= abi::NUMBERS - 1 {
        return "(no such call)".to_owned();
    }
    let known = if compat { syscalls::name_i386(nr) } else { syscalls::name(nr) };
    known.map_or_else(|| format!("syscall_{nr}"), str::to_owned)
}

fn exec(event: &abi::ExecEvent) -> Exec {
    let kept = usize::try_from(event.argv_len).unwrap_or(usize::MAX).min(abi::ARGV);
    let kept = &event.argv[..kept];
    let readable = kept.iter().any(|byte| *byte != 0);
    let mut argv: Vec<_> = kept.split(|byte| *byte == 0).map(lossy).collect();
    if kept.last() == Some(&0) {
        argv.pop();
    }
    Exec {
        at_ns: event.at_ns,
        pid: pid(event.pid.into()),
        filename: text(&event.filename),
        argv_cut: event.argv_len > abi::ARGV as u64 || !readable,
        argv: if readable { argv } else { Vec::new() },
        workload: event.phase == phase::WORKLOAD,
    }
}

fn pid(pid: u64) -> i32 {
    i32::try_from(pid).unwrap_or(i32::MAX)
}

fn stamp(ns: u64) -> Option<u64> {
    (ns != 0).then_some(ns)
}

/// The text before the first NUL.
fn text(bytes: &[u8]) -> String {
    lossy(bytes.split(|byte| *byte == 0).next().unwrap_or(bytes))
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests;
