//! Statistics for people and for programs. Pure.

use serde_json::{Value, json};
use skiff_ebpf::pinned::Owner;

use super::sample::Stats;
use crate::format::units::{binary, decimal};
use crate::profile::plain;

/// Names of containers without a slot that are listed.
const NAMED: usize = 5;

/// A row for tables and templates: docker's fields in docker's words, and all that is known as numbers.
pub(crate) fn row(stats: &Stats, no_trunc: bool) -> Value {
    let id = if no_trunc { &stats.id } else { &stats.short_id };
    let zero = |bytes: Option<u64>, word: fn(u64) -> String| word(bytes.unwrap_or(0));
    let two = |[one, other]: [Option<u64>; 2], word: fn(u64) -> String| {
        format!("{} / {}", zero(one, word), zero(other, word))
    };
    let docker = json!({
        "Container": id,
        "ID": id,
        "Name": stats.name.as_deref().unwrap_or("--"),
        "CPUPerc": format!("{:.2}%", stats.cpu_percent.unwrap_or(0.0)),
        "MemUsage": two([stats.memory_bytes, stats.memory_limit_bytes], binary),
        "MemPerc": format!("{:.2}%", stats.memory_percent().unwrap_or(0.0)),
        "NetIO": two([stats.network_received_bytes, stats.network_sent_bytes], decimal),
        "BlockIO": two([stats.block_read_bytes, stats.block_write_bytes], decimal),
        "PIDs": stats.processes.unwrap_or(0).to_string(),
        "Faults": rate(stats.faults_per_s),
        "Throttled": percent(stats.throttled_percent),
        "RunQueue": percent(stats.run_queue_percent),
        "Syscalls": rate(stats.system_calls_per_s),
    });
    let mut row = json!(stats);
    if let (Value::Object(row), Value::Object(docker)) = (&mut row, docker) {
        row.extend(docker);
    }
    row
}

/// What the columns of [`row`] are called.
pub(crate) fn names() -> Value {
    json!({
        "Container": "CONTAINER", "ID": "CONTAINER ID", "Name": "NAME", "CPUPerc": "CPU %",
        "MemUsage": "MEM USAGE / LIMIT", "MemPerc": "MEM %", "NetIO": "NET I/O", "BlockIO": "BLOCK I/O", "PIDs": "PIDS",
        "Faults": "FAULTS/S", "Throttled": "THROTTLED %", "RunQueue": "RUN QUEUE %", "Syscalls": "SYSCALLS/S",
    })
}

/// Says which containers found no slot.
pub(crate) fn uncounted(refused: &[Owner], slots: u32) -> String {
    if refused.is_empty() {
        return String::new();
    }
    let names = refused.iter().take(NAMED).map(|owner| plain(&String::from_utf8_lossy(owner.id())));
    let more = if refused.len() > NAMED { ", …" } else { "" };
    format!(
        "not counted: {} containers began when all {slots} slots were taken: {}{more}\n",
        refused.len(),
        names.collect::<Vec<_>>().join(", ")
    )
}

/// Says of which containers not all is counted: for want of room for cgroups below theirs, or as events were lost.
pub(crate) fn partly_counted(stats: &[Stats]) -> String {
    let lines = |one: &Stats| {
        let name = plain(one.name.as_deref().unwrap_or(&one.short_id));
        let refused = one.cgroups_refused.filter(|count| *count > 0);
        let refused = refused.map(|count| format!("{count} cgroups below its own found no room"));
        let lost = one.events_lost.filter(|count| *count > 0);
        let lost = lost.map(|count| format!("{count} events were lost"));
        let why = refused.into_iter().chain(lost);
        why.map(|why| format!("not all counted: {name}: {why}\n")).collect::<String>()
    };
    stats.iter().map(lines).collect()
}

fn none() -> String {
    "--".to_owned()
}

fn percent(figure: Option<f64>) -> String {
    figure.map_or_else(none, |figure| format!("{figure:.2}%"))
}

fn rate(figure: Option<f64>) -> String {
    figure.map_or_else(none, |figure| format!("{figure:.0}"))
}

#[cfg(test)]
mod tests {
    use super::super::sample::Sample;
    use super::*;

    #[test]
    fn what_is_unknown_is_a_dash() {
        assert_eq!((percent(None), rate(None)), (none(), none()));
    }

    #[test]
    fn containers_of_which_a_part_is_not_counted_are_named() {
        let stats = |name: &str, refused: Option<u64>| {
            let figures = json!({"processes": {"cgroups_refused": refused}});
            let sampled = json!({"id": "0123456789abcdef", "name": name, "image": "i", "state": "running", "pid": 1,
                "started_ns": 1, "figures": figures});
            let sampled = serde_json::from_value(sampled).expect("what the daemon says");
            Stats::between(None, &Sample::of(&sampled, None))
        };
        let all = [stats("web", Some(0)), stats("db", Some(3)), stats("old", None)];
        assert_eq!(partly_counted(&all), "not all counted: db: 3 cgroups below its own found no room\n");
        let lossy = Stats { events_lost: Some(7), ..stats("db", None) };
        assert_eq!(partly_counted(&[lossy]), "not all counted: db: 7 events were lost\n");
        assert_eq!(row(&all[1], false)["cgroups_refused"], 3);
        assert_eq!(row(&all[2], false)["cgroups_refused"], Value::Null);
    }

    #[test]
    fn containers_without_a_slot_are_named() {
        let owners: Vec<Owner> = (0..7).map(|n| Owner::new(n, &format!("c{n}"), [0; 9])).collect();
        assert_eq!(uncounted(&[], 4), "");
        let text = uncounted(&owners, 4);
        assert_eq!(
            text,
            "not counted: 7 containers began when all 4 slots were taken: c0, c1, c2, c3, c4, …\n"
        );
    }
}
