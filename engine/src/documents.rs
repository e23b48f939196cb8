//! What is told of containers, as JSON.

use serde_json::{Value, json};
use skiff_runtime::cgroup::{Cgroup, Paths};
use skiff_runtime::options::Namespace;

use crate::containers::Life;
use crate::ending::now_ns;
use crate::pool::Summary;
use crate::{Error, Record};

/// One line of a list: all that can be filtered by or shown in a table.
pub(crate) fn listed(record: &Record) -> Value {
    let options = &record.spec.options;
    json!({
        "id": record.id,
        "name": record.name,
        "image": record.spec.image,
        "image_id": record.image_id,
        "command": options.argv.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>(),
        "created_ns": record.created_ns,
        "state": record.state,
        "pid": record.process.as_ref().map(|process| process.pid),
        "started_ns": record.started_ns,
        "finished_ns": record.finished_ns,
        "exit_code": record.exit_code,
        "restart_count": record.restart_count,
        "labels": options.labels,
        "mounts": options.mounts.iter().map(|mount| mount.target().display().to_string()).collect::<Vec<_>>(),
        "network": if options.network == Namespace::Host { "host" } else { "none" },
        "tty": options.tty,
        "auto_remove": record.spec.auto_remove,
    })
}

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
        let stats = Cgroup::open(&self.cgroups)?.stats();
        Ok(json!({
            "id": record.id,
            "name": record.name,
            "pid": self.pid,
            "read_ns": now_ns(),
            "cgroup": stats,
        }))
    }
}

/// One pool.
pub(crate) fn pool(summary: &Summary) -> Value {
    json!({
        "key": summary.key,
        "ready": summary.ready,
        "under_way": summary.under_way,
        "target": summary.target,
        "rate_per_s": summary.rate_per_s,
        "making_us": summary.making_us,
        "hits": summary.figures.hits,
        "misses": summary.figures.misses,
        "wasted": summary.figures.wasted,
    })
}
