//! `skiff observe show`: how containers waited and for whom, and what their sockets did.

use skiff_ebpf::pinned::Pinned;
use skiff_ebpf::{Histogram, RunQueue, Tier1};

use super::{failed, json, open};
use crate::blamed::{Blamed, Holders};
use crate::counted::{self, Container, Names};
use crate::failure::Failure;
use crate::profile::{Align, Table, duration, plain, size};
use crate::words::Format;

/// Columns of the longest bar.
const BAR: u64 = 40;
/// Containers that get a column in the matrix; what is waited for others is in the lists of each.
const COLUMNS: usize = 12;

/// What is shown of one container.
pub(super) struct Shown {
    pub(super) slot: u32,
    pub(super) id: String,
    pub(super) figures: Tier1,
}

/// Everything that is shown.
pub(super) struct Report {
    pub(super) probes: Vec<&'static str>,
    pub(super) missing: Vec<String>,
    pub(super) refused: usize,
    /// Who has which slot.
    pub(super) holders: Holders,
    /// What they are called.
    pub(super) names: Names,
    /// Whole ids are shown, and no names.
    pub(super) whole_ids: bool,
    pub(super) containers: Vec<Shown>,
}

pub(super) fn run(container: Option<&str>, format: Format, whole_ids: bool) -> Result<String, Failure> {
    let pinned = open()?.ok_or_else(|| {
        Failure::engine("observing is off: 'skiff observe on run-queue,block,net,tcp' lets containers be counted from then on")
    })?;
    let reclaimed = skiff_runtime::observe::reclaim();
    reclaimed.map_err(|error| Failure::engine(format!("observe: {error}")))?;
    let report = Report { whole_ids, ..report(&pinned, container)? };
    Ok(match format {
        Format::Json => json::render(&report),
        Format::Text if container.is_some() => {
            report.containers.iter().map(|one| detail(&report, one)).collect()
        }
        Format::Text => overview(&report),
    })
}

fn report(pinned: &Pinned, container: Option<&str>) -> Result<Report, Failure> {
    let shown = |container: &Container| {
        let slot = container.taken.slot;
        let figures = pinned.tier1(slot).map_err(failed)?;
        Ok(Shown { slot, id: container.id.clone(), figures })
    };
    let all = counted::all(pinned)?;
    let containers = match container {
        Some(name) => vec![shown(&counted::find(pinned, name)?)?],
        None => all.iter().map(shown).collect::<Result<_, Failure>>()?,
    };
    Ok(Report {
        probes: pinned.probes().names(),
        missing: pinned.missing(),
        refused: pinned.refused().map_err(failed)?.len(),
        holders: Holders::of(pinned)?,
        names: Names::find(),
        whole_ids: false,
        containers,
    })
}

impl Report {
    /// For whom one waited, the longest first.
    pub(super) fn blamed(&self, waits: &RunQueue) -> Vec<(Blamed, u64)> {
        self.holders.blamed(&waits.blame)
    }

    fn name(&self, blamed: Blamed) -> String {
        blamed.words(|slot| self.container(self.holders.id(slot).unwrap_or_default()))
    }

    /// The container `id` as lists show it: its name, or the beginning of its id.
    fn container(&self, id: &str) -> String {
        if self.whole_ids {
            return plain(id);
        }
        plain(self.names.of(id).unwrap_or_else(|| counted::short(id)))
    }
}

fn overview(report: &Report) -> String {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("CONTAINER", Left),
        ("RUN QUEUE p50", Right),
        ("p99", Right),
        ("TOTAL", Right),
        ("THROTTLED", Right),
        ("OFF CPU", Right),
        ("READS p99", Right),
        ("WRITES p99", Right),
        ("NET I/O", Right),
        ("CONN OUT / IN", Right),
        ("RESENT", Right),
        ("RTT p50", Right),
    ])
    .flush();
    for one in &report.containers {
        let Tier1 { run_queue, block, net, tcp } = &one.figures;
        let waits = |show: &dyn Fn(&RunQueue) -> String| run_queue.as_ref().map_or_else(none, show);
        let latency =
            |nth: usize| block.as_ref().map_or_else(none, |block| percentile(&block.latency[nth], 99));
        table.row([
            report.container(&one.id),
            waits(&|waits| percentile(&waits.wait, 50)),
            waits(&|waits| percentile(&waits.wait, 99)),
            waits(&|waits| time(waits.wait.total_ns)),
            waits(&|waits| time(waits.throttled.total_ns)),
            waits(&|waits| time(waits.off_cpu.total_ns)),
            latency(0),
            latency(1),
            net.map_or_else(none, |net| format!("{} / {}", size(net.received_bytes), size(net.sent_bytes))),
            tcp.as_ref().map_or_else(none, |tcp| format!("{} / {}", tcp.connected, tcp.accepts)),
            tcp.as_ref().map_or_else(none, |tcp| tcp.retransmits.to_string()),
            tcp.as_ref().map_or_else(none, |tcp| percentile(&tcp.rtt, 50)),
        ]);
    }
    table.render() + &matrix(report) + &notes(report)
}

/// Who waited, downwards, for whom, across.
fn matrix(report: &Report) -> String {
    let rows: Vec<(&Shown, Vec<(Blamed, u64)>)> = report
        .containers
        .iter()
        .filter_map(|one| Some((one, report.blamed(one.figures.run_queue.as_ref()?))))
        .filter(|(_, blamed)| !blamed.is_empty())
        .collect();
    let mut culprits: Vec<(Blamed, u64)> = Vec::new();
    for (culprit, ns) in rows.iter().flat_map(|(_, blamed)| blamed) {
        match culprits.iter_mut().find(|(of, _)| of == culprit) {
            Some((_, sum)) => *sum += ns,
            None => culprits.push((*culprit, *ns)),
        }
    }
    if culprits.is_empty() {
        return String::new();
    }
    culprits.sort_by_key(|(_, ns)| std::cmp::Reverse(*ns));
    culprits.truncate(COLUMNS);
    culprits.sort_unstable();
    let heads: Vec<String> = culprits.iter().map(|(culprit, _)| report.name(*culprit)).collect();
    let mut lines = vec![std::iter::once("WAITED FOR".to_owned()).chain(heads).collect::<Vec<_>>()];
    for (one, blamed) in rows {
        let cells = culprits.iter().map(|(culprit, _)| {
            let ns = blamed.iter().find(|(of, _)| of == culprit).map(|(_, ns)| *ns);
            ns.map_or_else(none, time)
        });
        lines.push(std::iter::once(report.container(&one.id)).chain(cells).collect());
    }
    format!("\n{}", aligned(&lines))
}

/// Columns as wide as their widest cell, the first to the left.
fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        for (nth, (cell, width)) in line.iter().zip(&widths).enumerate() {
            text += &if nth == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
        }
        text.push('\n');
    }
    text
}

fn notes(report: &Report) -> String {
    let mut text = String::new();
    if report.refused > 0 {
        text += &format!("\nnot counted: {} containers found no slot\n", report.refused);
    }
    report.missing.iter().for_each(|figure| text += &format!("\nnot on this kernel: {figure}\n"));
    text
}

fn detail(report: &Report, one: &Shown) -> String {
    let Tier1 { run_queue, block, net, tcp } = &one.figures;
    let name = report.names.of(&one.id).map_or_else(String::new, |name| format!(" {}", plain(name)));
    let mut text = format!("container {}{name}\n", plain(&one.id));
    if let Some(waits) = run_queue {
        text += &histogram("waited for a CPU", &waits.wait);
        text += &histogram("throttled by its own quota", &waits.throttled);
        text += &histogram("asleep or blocked", &waits.off_cpu);
        text += &blame(report, one.slot, waits);
        text += &lost(waits.lost, "tasks were not counted");
    }
    if let Some(block) = block {
        for (word, (latency, bytes)) in
            ["reads", "writes"].into_iter().zip(block.latency.iter().zip(block.bytes))
        {
            text += &histogram(&format!("{word} of block devices, {}", size(bytes)), latency);
        }
        text += &lost(block.lost, "requests were not timed");
    }
    if let Some(net) = net {
        text += &format!(
            "\nnetwork: received {} in {} packets, sent {} in {} packets\n",
            size(net.received_bytes),
            net.received_packets,
            size(net.sent_bytes),
            net.sent_packets
        );
    }
    if let Some(tcp) = tcp {
        text += &format!(
            "\nTCP: began {} connections, {} of them established; {} from others; {} segments sent again\n",
            tcp.connects, tcp.connected, tcp.accepts, tcp.retransmits
        );
        text += &histogram("round trips", &tcp.rtt);
    }
    text + &notes(report)
}

fn lost(count: u64, what: &str) -> String {
    if count == 0 { String::new() } else { format!("\nlost: {count} {what}\n") }
}

fn blame(report: &Report, slot: u32, waits: &RunQueue) -> String {
    let sum: u64 = waits.blame.iter().map(|(_, ns)| ns).sum();
    if sum == 0 {
        return String::new();
    }
    let mut lines = Vec::new();
    for (culprit, ns) in report.blamed(waits) {
        let name =
            if culprit == Blamed::Container(slot) { "itself".to_owned() } else { report.name(culprit) };
        lines.push(vec![format!("  {name}"), time(ns), format!("{:.1} %", ns as f64 * 100.0 / sum as f64)]);
    }
    format!("\nwaited for\n{}", aligned(&lines))
}

/// A line for each power of two in which there is something.
fn histogram(title: &str, times: &Histogram) -> String {
    let count = times.count();
    if count == 0 {
        return format!("\n{title}: never\n");
    }
    let mut text = format!(
        "\n{title}: {count} times, p50 {}, p99 {}, together {}\n",
        percentile(times, 50),
        percentile(times, 99),
        time(times.total_ns)
    );
    let mut powers: Vec<(u32, u64)> = Vec::new();
    for (from, _, count) in times.buckets() {
        let power = from.max(1).ilog2();
        match powers.last_mut() {
            Some((last, sum)) if *last == power => *sum += count,
            _ => powers.push((power, count)),
        }
    }
    let most = powers.iter().map(|(_, count)| *count).max().unwrap_or(1);
    let lines = powers.iter().map(|(power, count)| {
        let bar = usize::try_from((count * BAR).div_ceil(most)).unwrap_or(0);
        vec![format!("  from {}", time(1 << power)), count.to_string(), "█".repeat(bar)]
    });
    for line in lines {
        text += &format!("{:<16}{:>10}  {}\n", line[0], line[1], line[2]);
    }
    text
}

fn percentile(times: &Histogram, percent: u64) -> String {
    if times.count() == 0 { none() } else { time(times.percentile_ns(percent)) }
}

fn time(ns: u64) -> String {
    duration(ns as f64)
}

fn none() -> String {
    "--".to_owned()
}

#[cfg(test)]
mod tests {
    use skiff_ebpf::{Block, Culprit, Tcp, Traffic};

    use super::*;

    fn times(values: &[u64]) -> Histogram {
        Histogram::of(values.iter().copied())
    }

    fn example() -> Report {
        let run_queue = RunQueue {
            wait: times(&[1_000, 2_000_000, 3_000_000]),
            blame: vec![(Culprit::Container(4), 4_000_000), (Culprit::Host, 1_001_000)],
            ..RunQueue::default()
        };
        let figures = Tier1 {
            run_queue: Some(run_queue),
            block: Some(Block { latency: [times(&[100_000]), times(&[])], bytes: [4096, 0], lost: 1 }),
            net: Some(Traffic { received_bytes: 2048, received_packets: 2, sent_bytes: 10, sent_packets: 1 }),
            tcp: Some(Tcp { connects: 3, connected: 2, accepts: 1, ..Tcp::default() }),
        };
        Report {
            probes: vec!["run-queue"],
            missing: vec!["everything else".to_owned()],
            refused: 2,
            holders: Holders::of_pairs(&[(1, Some(&("c0ffee".repeat(10) + "beef"))), (4, Some("noisy"))]),
            names: Names::of_pairs(&[(&("c0ffee".repeat(10) + "beef"), "web")]),
            whole_ids: false,
            containers: vec![Shown { slot: 1, id: "c0ffee".repeat(10) + "beef", figures }],
        }
    }

    #[test]
    fn who_waited_for_whom_is_a_matrix_of_names() {
        let text = overview(&example());
        assert!(text.contains("WAITED FOR    noisy     host\nweb         4.00 ms  1.00 ms\n"), "{text}");
        let whole = overview(&Report { whole_ids: true, ..example() });
        assert!(whole.contains(&"c0ffee".repeat(10)) && !whole.contains("web"), "{whole}");
        let unnamed = overview(&Report { names: Names::default(), ..example() });
        assert!(unnamed.contains("c0ffeec0ffee   "), "{unnamed}");
        assert!(text.contains("2.0 KiB / 10 B") && text.contains("2 / 1"), "{text}");
        assert!(text.contains("not counted: 2 containers found no slot"), "{text}");
        assert!(text.contains("not on this kernel: everything else"), "{text}");
    }

    #[test]
    fn one_container_is_shown_with_its_histograms() {
        let report = example();
        let text = detail(&report, &report.containers[0]);
        assert!(text.contains("waited for a CPU: 3 times, p50 2.0"), "{text}");
        assert!(text.contains(&format!("  from 1.05 ms           1  {}\n", "█".repeat(40))), "{text}");
        assert!(text.contains("throttled by its own quota: never"), "{text}");
        assert!(text.contains("  noisy  4.00 ms  80.0 %\n  host   1.00 ms  20.0 %\n"), "{text}");
        assert!(text.contains("reads of block devices, 4.0 KiB: 1 times"), "{text}");
        assert!(text.contains("lost: 1 requests were not timed"), "{text}");
        assert!(text.contains("began 3 connections, 2 of them established; 1 from others"), "{text}");
    }

    #[test]
    fn the_same_as_json_names_culprits_and_bounds() {
        let json: serde_json::Value = serde_json::from_str(&json::render(&example())).expect("JSON");
        assert_eq!(json["schema"], "skiff.observe/1");
        let one = &json["containers"][0];
        assert_eq!((&one["id"], &one["name"]), (&("c0ffee".repeat(10) + "beef").into(), &"web".into()));
        let waits = &one["run_queue"];
        assert_eq!(waits["wait"]["count"], 3);
        assert_eq!(waits["wait"]["buckets"][0], serde_json::json!([992, 1024, 1]));
        assert_eq!(
            waits["blame"][0],
            serde_json::json!({"culprit": "container", "id": "noisy", "name": null, "ns": 4_000_000})
        );
        assert_eq!(waits["blame"][1], serde_json::json!({"culprit": "host", "ns": 1_001_000}));
        assert_eq!((&one["block"]["read"]["bytes"], &one["tcp"]["connected"]), (&4096.into(), &2.into()));
        assert_eq!(one["network"]["received_packets"], 2);
    }
}
