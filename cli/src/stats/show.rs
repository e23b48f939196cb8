//! Statistics for people and for programs. Pure.

use skiff_ebpf::pinned::Owner;

use super::sample::Stats;
use crate::profile::{Align, Table, plain, size};

/// Names of containers without a slot that are listed.
const NAMED: usize = 5;

/// One line for each container.
pub(super) fn table(stats: &[Stats]) -> String {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("CONTAINER ID", Left),
        ("CPU %", Right),
        ("MEM USAGE / LIMIT", Right),
        ("MEM %", Right),
        ("NET I/O", Right),
        ("BLOCK I/O", Right),
        ("PIDS", Right),
        ("SYSCALLS/S", Right),
        ("FAILED/S", Right),
        ("FAULTS/S", Right),
        ("RUN QUEUE %", Right),
        ("LOST", Right),
    ])
    .flush();
    for one in stats {
        table.row([
            plain(&one.short_id),
            percent(one.cpu_percent),
            pair(one.memory_bytes, one.memory_limit_bytes),
            percent(one.memory_percent()),
            pair(one.network_received_bytes, one.network_sent_bytes),
            pair(one.block_read_bytes, one.block_write_bytes),
            one.processes.map_or_else(none, |count| count.to_string()),
            rate(one.system_calls_per_s),
            rate(one.failed_calls_per_s),
            rate(one.faults_per_s),
            percent(one.run_queue_percent),
            one.events_lost.to_string(),
        ]);
    }
    table.render()
}

/// One object in a line for each container.
pub(super) fn json(stats: &[Stats]) -> String {
    // Numbers and strings always have a form in JSON.
    stats.iter().filter_map(|one| serde_json::to_string(one).ok()).map(|line| line + "\n").collect()
}

/// Says which containers found no slot.
pub(super) fn uncounted(refused: &[Owner], slots: u32) -> String {
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

fn none() -> String {
    "--".to_owned()
}

fn percent(figure: Option<f64>) -> String {
    figure.map_or_else(none, |figure| format!("{figure:.2}%"))
}

fn rate(figure: Option<f64>) -> String {
    figure.map_or_else(none, |figure| format!("{figure:.0}"))
}

fn pair(one: Option<u64>, other: Option<u64>) -> String {
    if one.is_none() && other.is_none() {
        return none();
    }
    let text = |bytes: Option<u64>| bytes.map_or_else(none, size);
    format!("{} / {}", text(one), text(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unknown_is_a_dash() {
        assert_eq!((percent(None), rate(None), pair(None, None)), (none(), none(), none()));
        assert_eq!(pair(Some(1 << 20), None), "1.0 MiB / --");
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
