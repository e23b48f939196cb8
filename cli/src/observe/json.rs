//! `skiff observe [show] --format json`: what docs/observe.md describes.

use serde_json::{Value, json};
use skiff_ebpf::pinned::Pinned;
use skiff_ebpf::{Block, Histogram, RunQueue, Tcp, Traffic};

use super::show::{Report, Shown};
use crate::blamed::Blamed;

const SCHEMA: &str = "skiff.observe/1";
const STATUS: &str = "skiff.observing/1";

/// That nothing is observed.
pub(super) fn off() -> String {
    format!("{:#}\n", json!({"schema": STATUS, "is_on": false}))
}

/// What is on, and what it costs.
pub(super) fn on(pinned: &Pinned, taken: usize, refused: usize) -> String {
    let (cost, more) = (pinned.cost(), pinned.tier1_cost());
    let document = json!({
        "schema": STATUS,
        "is_on": true,
        "age_ns": pinned.age_ns(),
        "probes": pinned.probes().names(),
        "slots": pinned.slots(),
        "slots_taken": taken,
        "containers_refused": refused,
        "missing": pinned.missing(),
        "cost": {
            "map_bytes": cost.map_bytes + more.waits_bytes + more.net_bytes,
            "ns_per_call": cost.ns_per_call,
            "ns_per_call_of_others": cost.ns_per_call_of_others,
            "ns_per_switch": more.switch.map(|switch| switch.counted_ns),
            "ns_per_switch_of_others": more.switch.map(|switch| switch.others_ns),
        },
    });
    format!("{document:#}\n")
}

pub(super) fn render(report: &Report) -> String {
    let containers: Vec<Value> = report.containers.iter().map(|one| container(report, one)).collect();
    let document = json!({
        "schema": SCHEMA,
        "probes": report.probes,
        "missing": report.missing,
        "containers_refused": report.refused,
        "containers": containers,
    });
    format!("{document:#}\n")
}

fn container(report: &Report, one: &Shown) -> Value {
    let figures = &one.figures;
    json!({
        "id": one.id,
        "name": report.names.of(&one.id),
        "run_queue": figures.run_queue.as_ref().map(|waits| run_queue(report, waits)),
        "block": figures.block.as_ref().map(block),
        "network": figures.net.as_ref().map(network),
        "tcp": figures.tcp.as_ref().map(tcp),
    })
}

fn run_queue(report: &Report, waits: &RunQueue) -> Value {
    let blame: Vec<Value> =
        report.blamed(waits).into_iter().map(|(culprit, ns)| blamed(report, culprit, ns)).collect();
    json!({
        "wait": times(&waits.wait),
        "throttled": times(&waits.throttled),
        "off_cpu": times(&waits.off_cpu),
        "blame": blame,
        "tasks_lost": waits.lost,
    })
}

fn blamed(report: &Report, culprit: Blamed, ns: u64) -> Value {
    if let Blamed::Container(slot) = culprit {
        let id = report.holders.id(slot).unwrap_or_default();
        return json!({"culprit": "container", "id": id, "name": report.names.of(id), "ns": ns});
    }
    json!({"culprit": culprit.words(|_| String::new()).replace(' ', "_"), "ns": ns})
}

fn block(block: &Block) -> Value {
    let direction = |nth: usize| {
        let mut value = times(&block.latency[nth]);
        value["bytes"] = block.bytes[nth].into();
        value
    };
    json!({"read": direction(0), "write": direction(1), "requests_lost": block.lost})
}

fn network(net: &Traffic) -> Value {
    json!({
        "received_bytes": net.received_bytes,
        "received_packets": net.received_packets,
        "sent_bytes": net.sent_bytes,
        "sent_packets": net.sent_packets,
    })
}

fn tcp(tcp: &Tcp) -> Value {
    json!({
        "connects": tcp.connects,
        "connected": tcp.connected,
        "accepts": tcp.accepts,
        "retransmits": tcp.retransmits,
        "rtt": times(&tcp.rtt),
    })
}

/// Durations; the buckets are `[from, to, count]`, ns, `to` excluded.
fn times(times: &Histogram) -> Value {
    let buckets: Vec<[u64; 3]> = times.buckets().map(|(from, to, count)| [from, to, count]).collect();
    json!({
        "count": times.count(),
        "total_ns": times.total_ns,
        "p50_ns": times.percentile_ns(50),
        "p99_ns": times.percentile_ns(99),
        "buckets": buckets,
    })
}
