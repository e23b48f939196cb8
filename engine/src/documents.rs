//! What is told of pools, as JSON.

use serde_json::{Value, json};

use crate::pool::Summary;

/// One pool, of containers of this image, which hold so much memory.
pub(crate) fn pool(summary: &Summary, image: &str, memory_bytes: u64) -> Value {
    json!({
        "key": summary.key,
        "image": image,
        "ready": summary.ready,
        "under_way": summary.under_way,
        "target": summary.target,
        "rate_per_s": summary.rate_per_s,
        "making_us": summary.making_us,
        "hits": summary.figures.hits,
        "misses": summary.figures.misses,
        "wasted": summary.figures.wasted,
        "memory_bytes": memory_bytes,
    })
}

/// What process `pid` has in memory, its share of what it has in common with others. proc_pid_smaps(5), Linux ≥ 4.14.
pub(crate) fn memory_bytes(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let share =
        text.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.parse().ok());
    share.map_or(0, |kib: u64| kib * 1024)
}
