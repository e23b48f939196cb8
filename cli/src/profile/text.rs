//! A profile for people. Pure: from the document to its text.

use std::fmt::Write as _;

use super::document::{Cgroup, Cost, Document, Execs, Oom, Prefetch, Resources, Step, SystemCall};
use super::table::{Align, Table};

/// System calls of the runtime's set-up that are listed one by one; the rest is summed up.
const INIT_CALLS: usize = 12;

/// Programs executed that are listed; the JSON has more of them.
const EXECS: usize = 40;

/// Characters of a command that are shown.
const COMMAND_CHARS: usize = 100;

/// The whole report.
pub(crate) fn render(document: &Document) -> String {
    let mut text = headline(document);
    let parts = [
        launch(document),
        system_calls("system calls of the program", &document.system_calls.workload, usize::MAX),
        system_calls("system calls of the set-up", &document.system_calls.init, INIT_CALLS),
        resources(document),
        container(&document.cgroup),
        execs(&document.execs),
    ];
    let closing = closing(document);
    for part in parts.iter().chain(&document.parts_text).chain([&closing]) {
        text.push('\n');
        text.push_str(part);
    }
    text
}

fn headline(document: &Document) -> String {
    let container = &document.container;
    let name = container.name.as_deref().unwrap_or(&container.id[..container.id.len().min(12)]);
    let end = match (document.exit.code, document.exit.signal) {
        (_, Some(signal)) => format!("killed by signal {signal}"),
        (Some(code), None) => format!("exit code {code}"),
        (None, None) => "so far".to_owned(),
    };
    let image = container.image.as_deref().map(plain);
    let command = (!container.command.is_empty()).then(|| command(&container.command));
    let what: Vec<String> = image.into_iter().chain(command).collect();
    let what = if what.is_empty() { "not started".to_owned() } else { what.join(": ") };
    format!("profile of {name} ({what}), {end}\n")
}

fn launch(document: &Document) -> String {
    let timeline = &document.timeline;
    let mut table = Table::new([("launch", Align::Left), ("at µs", Align::Right), ("took µs", Align::Right)]);
    for Step { name, start_us, duration_us } in &timeline.phases {
        table.row([(*name).to_owned(), tenths(*start_us), tenths(*duration_us)]);
    }
    let mut text = table.render();
    let mut milestone = |what: &str, at: Option<f64>| {
        if let Some(us) = at {
            text += &format!("  {what} after {}\n", duration(us * 1000.0));
        }
    };
    milestone("program running", timeline.program_us);
    milestone("first output", timeline.first_output_us);
    milestone("end", timeline.end_us);
    text
}

/// The `most` longest calls, one line each, what remains in one more, and the sum.
pub(super) fn system_calls(title: &str, calls: &[SystemCall], most: usize) -> String {
    use Align::{Left, Right};
    let mut table = Table::new([
        (title, Left),
        ("calls", Right),
        ("failed", Right),
        ("total µs", Right),
        ("p50 µs", Right),
        ("p99 µs", Right),
        ("max µs", Right),
        ("errors", Left),
    ]);
    let (shown, rest) = calls.split_at(calls.len().min(most));
    for call in shown {
        let name = if call.abi == "compat" { format!("{} (32-bit)", call.name) } else { call.name.clone() };
        let [p50, p99, max] = [call.p50_ns, call.p99_ns, call.max_ns].map(hundredths);
        let total = hundredths(Some(call.total_ns));
        table.row([
            name,
            call.calls.to_string(),
            failed(call).to_string(),
            total,
            p50,
            p99,
            max,
            errors(call),
        ]);
    }
    if !rest.is_empty() {
        table.row(sum(&format!("{} more", rest.len()), rest));
    }
    table.row(sum("all", calls));
    table.render()
}

fn sum(title: &str, calls: &[SystemCall]) -> [String; 8] {
    let count: u64 = calls.iter().map(|call| call.calls).sum();
    let failures: u64 = calls.iter().map(failed).sum();
    let total: u64 = calls.iter().map(|call| call.total_ns).sum();
    let max = calls.iter().filter_map(|call| call.max_ns).max();
    let none = String::new;
    let max = max.map_or_else(none, |ns| hundredths(Some(ns)));
    [
        title.into(),
        count.to_string(),
        failures.to_string(),
        hundredths(Some(total)),
        none(),
        none(),
        max,
        none(),
    ]
}

fn failed(call: &SystemCall) -> u64 {
    call.errors.values().sum()
}

/// The errors of a call, the most frequent first, then what never came back.
fn errors(call: &SystemCall) -> String {
    let mut errors: Vec<_> = call.errors.iter().collect();
    errors.sort_by(|a, b| b.1.cmp(a.1));
    let mut words: Vec<String> = errors.iter().map(|(name, count)| format!("{name} {count}")).collect();
    if call.refused > 0 {
        words.push(format!("{} by filter", call.refused));
    }
    if call.unreturned > 0 {
        words.push(format!("{} without return", call.unreturned));
    }
    words.join(", ")
}

fn resources(document: &Document) -> String {
    let mut table =
        Table::new([("resources", Align::Left), ("set-up", Align::Right), ("program", Align::Right)]);
    let (init, workload) = (&document.resources.init, &document.resources.workload);
    each_resource(&mut |title, cell| table.row([title.to_owned(), cell(init), cell(workload)]));
    table.render()
}

/// The resources of a program that runs.
pub(super) fn resources_of(workload: &Resources) -> String {
    let mut table = Table::new([("resources", Align::Left), ("", Align::Right)]);
    each_resource(&mut |title, cell| table.row([title.to_owned(), cell(workload)]));
    table.render()
}

/// What a row shows of a phase.
type Cell<'a> = &'a dyn Fn(&Resources) -> String;

fn each_resource(row: &mut dyn FnMut(&str, Cell<'_>)) {
    row("CPU", &|r| time(r.cpu_ns));
    row("CPU, user mode", &|r| time(r.cpu_user_ns));
    row("CPU, kernel mode", &|r| time(r.cpu_system_ns));
    row("waiting for a CPU", &|r| time(r.run_queue_ns));
    row("off CPU", &|r| time(r.off_cpu_ns));
    row("switches, voluntary", &|r| count(r.voluntary_switches));
    row("switches, preempted", &|r| count(r.involuntary_switches));
    row("page faults, minor", &|r| count(r.minor_faults));
    row("page faults, major", &|r| count(r.major_faults));
    row("processes created", &|r| r.processes_created.to_string());
    row("threads created", &|r| r.threads_created.to_string());
    row("block reads", &|r| transfer(r.block_reads, r.block_read_bytes));
    row("block writes", &|r| transfer(r.block_writes, r.block_write_bytes));
}

pub(super) fn container(cgroup: &Cgroup) -> String {
    let mut table = Table::new([("whole container, by its cgroup", Align::Left), ("", Align::Left)]);
    let mut row = |title: &str, cell: String| table.row([title.to_owned(), cell]);
    row("CPU, user mode", time(cgroup.cpu_user_us.map(|us| us * 1000)));
    row("CPU, kernel mode", time(cgroup.cpu_system_us.map(|us| us * 1000)));
    row(
        "throttled",
        match (cgroup.throttled_periods, cgroup.periods, cgroup.throttled_us) {
            (Some(throttled), Some(periods), Some(us)) => {
                format!("{throttled} of {periods} periods, {}", time(Some(us * 1000)))
            }
            _ => NOT_AVAILABLE.into(),
        },
    );
    row("memory, peak", cgroup.memory_peak_bytes.map_or_else(|| NOT_AVAILABLE.into(), size));
    row("block reads", transfer(cgroup.block_reads, cgroup.block_read_bytes));
    row("block writes", transfer(cgroup.block_writes, cgroup.block_write_bytes));
    row("OOM kills", count(cgroup.oom_kills));
    table.render()
}

pub(super) fn execs(execs: &Execs) -> String {
    let title = format!("programs executed: {}", execs.total);
    if execs.listed.is_empty() {
        return title + "\n";
    }
    let columns =
        [(title.as_str(), Align::Left), ("at µs", Align::Right), ("pid", Align::Right), ("", Align::Left)];
    let mut table = Table::new(columns);
    let shown = &execs.listed[..execs.listed.len().min(EXECS)];
    for exec in shown {
        let phase = if exec.phase == "workload" { "program" } else { "set-up" };
        let mut words = vec![exec.file.clone()];
        words.extend(exec.arguments.iter().skip(1).cloned());
        let cut = if exec.arguments_cut { " …" } else { "" };
        table.row([phase.into(), tenths(exec.at_us), exec.pid.to_string(), command(&words) + cut]);
    }
    let mut text = table.render();
    let unlisted = execs.total.saturating_sub(shown.len() as u64);
    if unlisted > 0 {
        text += &format!("  and {unlisted} more\n");
    }
    text
}

fn closing(document: &Document) -> String {
    let mut text = killed(document.oom.as_ref());
    for reason in &document.missing {
        text += &format!("n/a: {}\n", plain(reason));
    }
    if let Some(prefetch) = &document.prefetch {
        text += &prefetched(prefetch);
    }
    text += &format!("events lost: {}\n", document.events_lost);
    text + &cost(&document.cost, "launch")
}

/// What the OOM killer did, in one line if it did anything.
pub(super) fn killed(oom: Option<&Oom>) -> String {
    let mut text = String::new();
    if let Some(oom) = oom {
        let at = oom.at_us.map_or_else(String::new, |us| format!(" after {}", duration(us * 1000.0)));
        let (name, pid) = (plain(&oom.victim_name), oom.victim_pid);
        text += &format!("OOM killer: {} killed, first {name} (pid {pid}){at}\n", oom.kills);
    }
    text
}

/// What counting cost, which had been loaded before `event`.
pub(super) fn cost(cost: &Cost, event: &str) -> String {
    let calls = match (cost.ns_per_call, cost.total_ns) {
        (Some(ns), Some(total)) => format!("{} calls × {ns} ns = {}", cost.traced_calls, time(Some(total))),
        _ => format!("{} calls, ns per call {NOT_AVAILABLE}", cost.traced_calls),
    };
    let (maps, load) = (size(cost.map_bytes), duration(cost.load_us * 1000.0));
    let others = count(cost.ns_per_call_of_others);
    format!(
        "cost of the profile: {calls}; {others} ns for each call of others meanwhile;\n  {maps} of kernel memory; \
         {load} to load, before the {event}\n"
    )
}

fn prefetched(prefetch: &Prefetch) -> String {
    let bytes = |bytes: Option<u64>| bytes.map_or_else(|| NOT_AVAILABLE.into(), size);
    let percent = |share: Option<f64>| {
        share.map_or_else(|| NOT_AVAILABLE.into(), |share| format!("{:.1} %", share * 100.0))
    };
    let read = match (prefetch.profile_bytes, prefetch.replayed) {
        (None, _) => "no profile yet".to_owned(),
        (Some(_), false) => "all in the page cache already".to_owned(),
        (Some(_), true) => {
            let took = prefetch.read_us.map(|us| us * 1000.0).map_or_else(|| NOT_AVAILABLE.into(), duration);
            format!("{} read ahead in {took}", bytes(prefetch.read_bytes))
        }
    };
    let (used, precision, recall) =
        (bytes(prefetch.used_bytes), percent(prefetch.precision), percent(prefetch.recall));
    let saved = match (prefetch.replayed, prefetch.saved_ms) {
        (false, _) => String::new(),
        (true, None) => format!(", saved {NOT_AVAILABLE}"),
        (true, Some(ms)) => format!(", {ms:.1} ms of waiting saved"),
    };
    format!(
        "prefetch: {read}; {used} of the image used until ready, precision {precision}, recall {recall}{saved}\n"
    )
}

const NOT_AVAILABLE: &str = "n/a";

fn tenths(us: Option<f64>) -> String {
    us.map_or_else(|| NOT_AVAILABLE.into(), |us| format!("{us:.1}"))
}

/// ns as µs.
fn hundredths(ns: Option<u64>) -> String {
    ns.map_or_else(|| NOT_AVAILABLE.into(), |ns| format!("{:.2}", ns as f64 / 1000.0))
}

fn count(number: Option<u64>) -> String {
    number.map_or_else(|| NOT_AVAILABLE.into(), |number| number.to_string())
}

fn time(ns: Option<u64>) -> String {
    ns.map_or_else(|| NOT_AVAILABLE.into(), |ns| duration(ns as f64))
}

/// A duration in the unit that suits it.
pub(crate) fn duration(ns: f64) -> String {
    match ns {
        _ if ns < 1e3 => format!("{ns:.0} ns"),
        _ if ns < 1e6 => format!("{:.1} µs", ns / 1e3),
        _ if ns < 1e9 => format!("{:.2} ms", ns / 1e6),
        _ => format!("{:.2} s", ns / 1e9),
    }
}

/// A number of bytes in the unit that suits it.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [(&str, u32); 3] = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match UNITS.iter().find(|(_, shift)| bytes >> shift > 0) {
        Some((unit, shift)) => format!("{:.1} {unit}", bytes as f64 / (1_u64 << shift) as f64),
        None => format!("{bytes} B"),
    }
}

fn transfer(operations: Option<u64>, bytes: Option<u64>) -> String {
    match (operations, bytes) {
        (Some(operations), Some(bytes)) => format!("{operations}, {}", size(bytes)),
        (Some(operations), None) => operations.to_string(),
        (None, Some(bytes)) => size(bytes),
        (None, None) => NOT_AVAILABLE.into(),
    }
}

fn command(words: &[String]) -> String {
    let line = plain(&words.join(" "));
    if line.chars().count() <= COMMAND_CHARS {
        return line;
    }
    let mut short: String = line.chars().take(COMMAND_CHARS).collect();
    short.push('…');
    short
}

/// Text from a container, unable to steer the terminal.
pub(crate) fn plain(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            _ if c.is_control() => {
                // Writing to a string cannot fail.
                let _infallible = write!(safe, "{}", c.escape_default());
            }
            _ => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::super::tests::{document, sparse};
    use super::*;

    #[test]
    fn the_report_is_laid_out_in_aligned_tables() {
        let expected = include_str!("tests/report.txt");
        let text = render(&document());
        assert!(text == expected, "{text}");
    }

    #[test]
    fn what_the_host_cannot_tell_is_said_with_its_reason() {
        let expected = include_str!("tests/sparse.txt");
        let text = render(&sparse());
        assert!(text == expected, "{text}");
    }

    #[test]
    fn quantities_have_the_unit_that_suits_them() {
        for (ns, expected) in [
            (0.0, "0 ns"),
            (999.0, "999 ns"),
            (1500.0, "1.5 µs"),
            (2_345_678.0, "2.35 ms"),
            (61e9, "61.00 s"),
        ] {
            assert_eq!(duration(ns), expected);
        }
        for (bytes, expected) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 20, "3.0 MiB")] {
            assert_eq!(size(bytes), expected);
        }
    }

    #[test]
    fn a_container_cannot_steer_the_terminal() {
        assert_eq!(plain("a\u{1b}[31m\nb"), "a\\u{1b}[31m\\nb");
        assert_eq!(command(&["x".repeat(200)]).chars().count(), COMMAND_CHARS + 1);
    }
}
