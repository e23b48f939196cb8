//! A profile as data: what docs/profile.md describes, field by field. Both the text and the JSON come from it.
//!
//! Times on the launch's own clock are µs since skiff began the launch; the times of system calls are ns. A figure that
//! the host cannot give is `None`, `null` in JSON.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};
use skiff_ebpf::{Abi, Phase, Record};
use skiff_runtime::cgroup::Usage;
use skiff_runtime::launch::{Exit, Stamps};

use super::part::Section;
use super::uses::{Asked, Uses};

/// The version of this form. It changes when a field changes its meaning or goes; new fields do not change it.
pub(crate) const SCHEMA: &str = "skiff.profile/1";

/// What a finished run has left to tell.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    pub(crate) id: &'a str,
    pub(crate) name: Option<&'a str>,
    /// `None` if only the runtime's caller knows.
    pub(crate) image: Option<&'a str>,
    pub(crate) argv: Vec<String>,
    /// `None` if the program has not ended, or nobody here has seen how.
    pub(crate) exit: Option<Exit>,
    /// When the launch began, on the clock of `stamps`.
    pub(crate) begin_ns: u64,
    /// When the cgroup was made and arming began.
    pub(crate) arm_ns: u64,
    /// When the end of the program was seen; 0 if it was not.
    pub(crate) ended_ns: u64,
    pub(crate) stamps: &'a Stamps,
    pub(crate) usage: &'a Usage,
    pub(crate) record: &'a Record,
    pub(crate) prefetch: Option<Prefetch>,
    /// `None` if it was not started here.
    pub(crate) run: Option<Asked>,
    /// `None` if nothing of it was recorded.
    pub(crate) uses: Option<Uses>,
}

/// One container's profile.
#[derive(Debug, Serialize)]
pub(crate) struct Document {
    pub(crate) schema: &'static str,
    pub(crate) container: Container,
    pub(crate) exit: Outcome,
    pub(crate) timeline: Timeline,
    pub(crate) system_calls: Split<Vec<SystemCall>>,
    pub(crate) resources: Split<Resources>,
    pub(crate) cgroup: Cgroup,
    pub(crate) execs: Execs,
    pub(crate) oom: Option<Oom>,
    /// What else was asked for, by its name.
    #[serde(flatten)]
    pub(crate) parts: Map<String, Value>,
    /// The same for people.
    #[serde(skip)]
    pub(crate) parts_text: Vec<String>,
    pub(crate) events_lost: u64,
    /// Why figures are absent, one phrase each.
    pub(crate) missing: Vec<String>,
    pub(crate) cost: Cost,
    pub(crate) prefetch: Option<Prefetch>,
    /// How it was asked for.
    pub(crate) run: Option<Asked>,
    /// What the program used beside system calls.
    pub(crate) uses: Option<Uses>,
}

/// What was read ahead, and what of it was used.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Prefetch {
    /// The command class.
    pub(crate) class: String,
    /// Whether the image had a profile, and its pages were not in the cache.
    pub(crate) replayed: bool,
    /// Of the profile.
    pub(crate) profile_bytes: Option<u64>,
    /// That were read ahead.
    pub(crate) read_bytes: Option<u64>,
    /// Of the profile that were in the cache already.
    pub(crate) resident_bytes: Option<u64>,
    /// How long reading ahead took.
    pub(crate) read_us: Option<f64>,
    /// Of the image's files, used by this run until it was ready.
    pub(crate) used_bytes: Option<u64>,
    /// How much of the profile was used, 0 to 1.
    pub(crate) precision: Option<f64>,
    /// How much of what was used is in the profile, 0 to 1.
    pub(crate) recall: Option<f64>,
    /// In which at least one task waited for disks until it was ready.
    pub(crate) waited_ms: Option<f64>,
    /// How much longer the run without a replay waited that has waited the longest; negative if that was less.
    pub(crate) saved_ms: Option<f64>,
    /// From the program's execution until it listened.
    pub(crate) ready_ms: Option<u64>,
    /// Uses that were not recorded.
    pub(crate) lost: Option<u64>,
}

/// The same figure of the runtime's set-up and of the user's program.
#[derive(Debug, Serialize)]
pub(crate) struct Split<T> {
    pub(crate) init: T,
    pub(crate) workload: T,
}

#[derive(Debug, Serialize)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) name: Option<String>,
    pub(crate) image: Option<String>,
    pub(crate) command: Vec<String>,
}

/// How the program ended: one of the two is `None`, both if that is not known.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Timeline {
    pub(crate) phases: Vec<Step>,
    /// When the kernel began to run the user's program.
    pub(crate) program_us: Option<f64>,
    /// When the program's first output was written.
    pub(crate) first_output_us: Option<f64>,
    /// When the end of the program was seen.
    pub(crate) end_us: Option<f64>,
}

/// One phase of the launch; absent times if it was not reached.
#[derive(Debug, Serialize)]
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) start_us: Option<f64>,
    pub(crate) duration_us: Option<f64>,
}

#[derive(Debug, Serialize)]
pub(crate) struct SystemCall {
    pub(crate) name: String,
    pub(crate) number: Option<u32>,
    /// `native`, or `compat` for the 32-bit table.
    pub(crate) abi: &'static str,
    pub(crate) calls: u64,
    pub(crate) returned: u64,
    pub(crate) refused: u64,
    pub(crate) unreturned: u64,
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) total_ns: u64,
    pub(crate) p50_ns: Option<u64>,
    pub(crate) p99_ns: Option<u64>,
    pub(crate) max_ns: Option<u64>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Resources {
    pub(crate) cpu_ns: Option<u64>,
    pub(crate) cpu_user_ns: Option<u64>,
    pub(crate) cpu_system_ns: Option<u64>,
    pub(crate) run_queue_ns: Option<u64>,
    pub(crate) off_cpu_ns: Option<u64>,
    pub(crate) voluntary_switches: Option<u64>,
    pub(crate) involuntary_switches: Option<u64>,
    pub(crate) minor_faults: Option<u64>,
    pub(crate) major_faults: Option<u64>,
    pub(crate) processes_created: u64,
    pub(crate) threads_created: u64,
    pub(crate) block_reads: Option<u64>,
    pub(crate) block_read_bytes: Option<u64>,
    pub(crate) block_writes: Option<u64>,
    pub(crate) block_write_bytes: Option<u64>,
}

/// What the container's cgroup counted, set-up and program together.
#[derive(Debug, Serialize)]
pub(crate) struct Cgroup {
    pub(crate) cpu_user_us: Option<u64>,
    pub(crate) cpu_system_us: Option<u64>,
    pub(crate) periods: Option<u64>,
    pub(crate) throttled_periods: Option<u64>,
    pub(crate) throttled_us: Option<u64>,
    pub(crate) memory_peak_bytes: Option<u64>,
    pub(crate) block_reads: Option<u64>,
    pub(crate) block_read_bytes: Option<u64>,
    pub(crate) block_writes: Option<u64>,
    pub(crate) block_write_bytes: Option<u64>,
    pub(crate) oom_kills: Option<u64>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Execs {
    pub(crate) total: u64,
    /// The first ones, as many as there was room for.
    pub(crate) listed: Vec<Exec>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Exec {
    pub(crate) at_us: Option<f64>,
    /// `init` or `workload`.
    pub(crate) phase: &'static str,
    pub(crate) pid: i32,
    pub(crate) file: String,
    pub(crate) arguments: Vec<String>,
    pub(crate) arguments_cut: bool,
}

#[derive(Debug, Serialize)]
pub(crate) struct Oom {
    pub(crate) kills: u64,
    pub(crate) at_us: Option<f64>,
    pub(crate) victim_pid: i32,
    pub(crate) victim_name: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct Cost {
    pub(crate) traced_calls: u64,
    pub(crate) ns_per_call: Option<u64>,
    pub(crate) total_ns: Option<u64>,
    pub(crate) ns_per_call_of_others: Option<u64>,
    pub(crate) map_bytes: u64,
    pub(crate) load_us: f64,
}

impl Document {
    pub(crate) fn new(run: &Run<'_>) -> Self {
        let record = run.record;
        Self {
            schema: SCHEMA,
            container: Container {
                id: run.id.to_owned(),
                name: run.name.map(str::to_owned),
                image: run.image.map(str::to_owned),
                command: run.argv.clone(),
            },
            exit: outcome(run.exit),
            timeline: timeline(run),
            system_calls: Split {
                init: system_calls(&record.init),
                workload: system_calls(&record.workload),
            },
            resources: Split { init: resources(&record.init), workload: resources(&record.workload) },
            cgroup: cgroup(run.usage),
            execs: execs(record, run.begin_ns),
            oom: oom(record, run.begin_ns),
            parts: Map::new(),
            parts_text: Vec::new(),
            events_lost: record.lost,
            missing: record.missing.iter().cloned().chain(uncounted(run.usage)).collect(),
            cost: cost(record),
            prefetch: run.prefetch.clone(),
            run: run.run.clone(),
            uses: run.uses.clone(),
        }
    }
}

impl Document {
    /// Adds what further parts have to tell.
    pub(crate) fn add(&mut self, sections: &[Section]) {
        for section in sections {
            self.parts.insert(section.key.to_owned(), section.json.clone());
            self.parts_text.push(section.text.clone());
            self.events_lost += section.lost;
            self.missing.extend(section.missing.iter().cloned());
        }
    }
}

const fn outcome(exit: Option<Exit>) -> Outcome {
    match exit {
        Some(Exit::Code(code)) => Outcome { code: Some(code), signal: None },
        Some(Exit::Signal(signal)) => Outcome { code: None, signal: Some(signal) },
        None => Outcome { code: None, signal: None },
    }
}

/// The time from `from` to `to` in µs; nothing where one of the stamps is missing (0).
pub(super) fn micros(from: u64, to: u64) -> Option<f64> {
    if from == 0 || to == 0 { None } else { to.checked_sub(from).map(|ns| ns as f64 / 1000.0) }
}

/// The launch, phase by phase; each ends where the next begins.
fn timeline(run: &Run<'_>) -> Timeline {
    let (stamps, record) = (run.stamps, run.record);
    let program = record.exec_ns.unwrap_or(stamps.exec_seen);
    let first_output = record.first_output_ns.unwrap_or(0);
    let ends = [
        ("plan", stamps.start),
        ("rootfs", stamps.rootfs_done),
        ("cgroup", run.arm_ns),
        ("arm", stamps.cgroup_done),
        ("clone", stamps.child),
        ("mounts", stamps.mounts_done),
        ("security", stamps.security_done),
        ("exec", program),
        ("first output", first_output),
    ];
    let mut from = run.begin_ns;
    let mut phases = Vec::with_capacity(ends.len());
    for (name, end) in ends {
        phases.push(Step { name, start_us: micros(run.begin_ns, from), duration_us: micros(from, end) });
        from = end;
    }
    let since_start = |at| micros(run.begin_ns, at);
    Timeline {
        phases,
        program_us: since_start(program),
        first_output_us: since_start(first_output),
        end_us: since_start(run.ended_ns),
    }
}

pub(super) fn system_calls(phase: &Phase) -> Vec<SystemCall> {
    let error = |errno: u16| {
        skiff_sys::errno::name(i32::from(errno)).map_or_else(|| format!("errno_{errno}"), str::to_owned)
    };
    let all = phase.syscalls.iter().map(|call| {
        let timed = |ns: u64| (call.returned > 0).then_some(ns);
        SystemCall {
            name: call.name.clone(),
            number: call.nr,
            abi: match call.abi {
                Abi::Native => "native",
                Abi::Compat => "compat",
            },
            calls: call.count,
            returned: call.returned,
            refused: call.refused,
            unreturned: call.unreturned,
            errors: call.errors.iter().map(|&(errno, count)| (error(errno), count)).collect(),
            total_ns: call.total_ns,
            p50_ns: timed(call.p50_ns),
            p99_ns: timed(call.p99_ns),
            max_ns: timed(call.max_ns),
        }
    });
    all.collect()
}

pub(super) fn resources(phase: &Phase) -> Resources {
    Resources {
        cpu_ns: phase.cpu_ns,
        cpu_user_ns: phase.cpu_user_ns,
        cpu_system_ns: phase.cpu_system_ns,
        run_queue_ns: phase.run_queue_ns,
        off_cpu_ns: phase.off_cpu_ns,
        voluntary_switches: phase.voluntary_switches,
        involuntary_switches: phase.involuntary_switches,
        minor_faults: phase.minor_faults,
        major_faults: phase.major_faults,
        processes_created: phase.processes_created,
        threads_created: phase.threads_created,
        block_reads: phase.block_reads,
        block_read_bytes: phase.block_read_bytes,
        block_writes: phase.block_writes,
        block_write_bytes: phase.block_write_bytes,
    }
}

pub(super) fn cgroup(usage: &Usage) -> Cgroup {
    Cgroup {
        cpu_user_us: usage.cpu_user_us,
        cpu_system_us: usage.cpu_system_us,
        periods: usage.periods,
        throttled_periods: usage.throttled_periods,
        throttled_us: usage.throttled_us,
        memory_peak_bytes: usage.memory_peak_bytes,
        block_reads: usage.block_reads,
        block_read_bytes: usage.block_read_bytes,
        block_writes: usage.block_writes,
        block_write_bytes: usage.block_write_bytes,
        oom_kills: usage.oom_kills,
    }
}

/// The figures that no cgroup controller of the host gives, in one phrase.
pub(super) fn uncounted(usage: &Usage) -> Option<String> {
    let figures = [
        ("CPU time", usage.cpu_user_us),
        ("throttling", usage.throttled_periods),
        ("memory peak", usage.memory_peak_bytes),
        ("block I/O", usage.block_read_bytes),
        ("OOM kills", usage.oom_kills),
    ];
    let absent: Vec<&str> =
        figures.iter().filter(|(_, figure)| figure.is_none()).map(|(title, _)| *title).collect();
    (!absent.is_empty()).then(|| format!("no cgroup controller at hand counts {}", absent.join(", ")))
}

/// The programs executed, with their times since `begin_ns`.
pub(super) fn execs(record: &Record, begin_ns: u64) -> Execs {
    let listed = record.execs.iter().map(|exec| Exec {
        at_us: micros(begin_ns, exec.at_ns),
        phase: if exec.workload { "workload" } else { "init" },
        pid: exec.pid,
        file: exec.filename.clone(),
        arguments: exec.argv.clone(),
        arguments_cut: exec.argv_cut,
    });
    Execs { total: record.execs_total, listed: listed.collect() }
}

pub(super) fn oom(record: &Record, begin_ns: u64) -> Option<Oom> {
    record.oom.as_ref().map(|oom| Oom {
        kills: oom.kills,
        at_us: micros(begin_ns, oom.at_ns),
        victim_pid: oom.pid,
        victim_name: oom.comm.clone(),
    })
}

pub(super) fn cost(record: &Record) -> Cost {
    let cost = &record.cost;
    Cost {
        traced_calls: cost.calls,
        ns_per_call: cost.ns_per_call,
        total_ns: cost.ns_per_call.map(|ns| ns.saturating_mul(cost.calls)),
        ns_per_call_of_others: cost.ns_per_call_of_others,
        map_bytes: cost.map_bytes,
        load_us: cost.load_ns as f64 / 1000.0,
    }
}
