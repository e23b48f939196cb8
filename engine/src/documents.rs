//! What is told of figures and pools, as JSON.

use serde_json::{Value, json};
use skiff_runtime::cgroup::{Cgroup, Paths};

use crate::containers::Life;
use crate::ending::now_ns;
use crate::pool::Summary;
use crate::{Error, Record, tally};

/// Where the figures of a container that runs are read. Reading them waits for the kernel: not to be done where others wait.
#[derive(Debug)]
pub(crate) struct Figures {
    pid: i32,
    cgroups: Paths,
}

impl Figures {
    pub(crate) fn of(life: &Life) -> Self {
        Self { pid: life.pid, cgroups: life.cgroups.clone() }
    }

    /// Reads them.
    pub(crate) fn read(&self, record: &Record) -> Result<Value, Error> {
        let cgroup = Cgroup::open(&self.cgroups)?;
        let mut stats = cgroup.stats();
        tally::complete(&mut stats, &cgroup.processes()?);
        if stats.pids.current == 0 {
            stats.pids.current = self.threads();
        }
        Ok(json!({
            "id": record.id,
            "name": record.name,
            "pid": self.pid,
            "read_ns": now_ns(),
            "cgroup": stats,
        }))
    }

    /// How many threads there are where nothing counts them: those in the cgroup itself.
    fn threads(&self) -> u64 {
        let list =
            self.cgroups.unified.as_ref().map(|path| std::fs::read_to_string(path.join("cgroup.threads")));
        list.and_then(Result::ok).map_or(0, |list| list.lines().count() as u64)
    }
}

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
