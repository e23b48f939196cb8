//! `skiff stats`: what containers use, second by second, by their cgroups. Where programs are pinned (`skiff observe`), what
//! these count is shown instead, for containers of any engine.

use std::io::{self, IsTerminal};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use skiff_engine::protocol::Request;

use super::{documents, print, report, template, understand};
use crate::failure::Failure;
use crate::format::units::{binary, decimal};
use crate::format::{Listing, Row};
use crate::line::{Command, Flag, Order, Rest, Section, put};
use crate::{observe, stats};

#[derive(Debug, Default)]
pub(crate) struct Args {
    once: bool,
    no_trunc: bool,
    format: Option<String>,
}

pub(crate) static COMMAND: Command<Args> = Command {
    name: "stats",
    operands: "[OPTIONS] [CONTAINER…]",
    about: "\
Shows, second by second, what containers use: those that are named, or all that run. Where 'skiff observe on' has been
said, shows what the containers that are counted do to the kernel, of whichever engine.
",
    sections: &[Section {
        title: "Options",
        flags: &[
            Flag::switch(None, "no-stream", "show one second, then exit", |a, on| a.once = on),
            Flag::switch(None, "no-trunc", "show ids in full", |a, on| a.no_trunc = on),
            Flag::value(None, "format", "FORMAT", "table, json, or a template of Go's", |a, v| {
                put(&mut a.format, Some(v.to_owned()))
            }),
        ],
    }],
    order: Order::Mixed,
    aliases: &[],
    unsupported: &[("all", Some('a'))],
};

/// The usual table.
const USUAL: &str =
    "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}";

/// Between two samples.
const INTERVAL: Duration = Duration::from_secs(1);

/// Clears a terminal.
const CLEAR: &str = "\x1b[H\x1b[2J";

pub(crate) fn run(words: Rest<'_>) -> Result<u8, Failure> {
    let Some((args, containers)) = understand(&COMMAND, words)? else { return Ok(0) };
    let counted = crate::run::is_alone() || observe::open().is_ok_and(|pinned| pinned.is_some());
    if counted {
        return stats::run(args.once, args.format.as_deref(), containers).map(|()| 0);
    }
    let format = args.format.as_deref().map(|format| if format == "text" { "table" } else { format });
    let listing = Listing::parse(format, USUAL).map_err(template)?;
    let mut before = sample(&containers)?.0;
    loop {
        thread::sleep(INTERVAL);
        let (now, errors) = sample(&containers)?;
        let rows: Vec<Value> = now
            .iter()
            .map(|now| now.row(before.iter().find(|before| before.id == now.id), args.no_trunc))
            .collect();
        let mut text = shown(&listing, &rows)?;
        if !args.once && io::stdout().is_terminal() {
            text.insert_str(0, CLEAR);
        }
        print(&text)?;
        if args.once || !errors.is_empty() {
            return Ok(report(&errors));
        }
        before = now;
    }
}

fn sample(containers: &[String]) -> Result<(Vec<Sample>, Vec<String>), Failure> {
    let (documents, errors) = documents(&Request::Stats { containers: containers.to_vec() })?;
    Ok((documents.iter().filter_map(Sample::read).collect(), errors))
}

fn shown(listing: &Listing, rows: &[Value]) -> Result<String, Failure> {
    let rows: Vec<Row<'_>> = rows.iter().map(|document| Row { document, labels: &Value::Null }).collect();
    let names = json!({
        "Container": "CONTAINER", "ID": "CONTAINER ID", "Name": "NAME", "CPUPerc": "CPU %",
        "MemUsage": "MEM USAGE / LIMIT", "MemPerc": "MEM %", "NetIO": "NET I/O", "BlockIO": "BLOCK I/O", "PIDs": "PIDS",
    });
    listing.print(&rows, &names).map_err(template)
}

/// A container's figures at one time.
#[derive(Debug, Clone, Default)]
struct Sample {
    id: String,
    name: String,
    /// When they were read, ns since 1970.
    read_ns: u64,
    cpu_ns: u64,
    memory_bytes: u64,
    memory_limit_bytes: u64,
    network_received_bytes: u64,
    network_sent_bytes: u64,
    block_read_bytes: u64,
    block_write_bytes: u64,
    pids: u64,
}

impl Sample {
    /// What the daemon says: a container's id, name and process, and what its cgroups count (`skiff_runtime::cgroup::Stats`).
    fn read(document: &Value) -> Option<Self> {
        let text = |field: &str| document[field].as_str().map(str::to_owned);
        let cgroup = &document["cgroup"];
        let figure = |path: &str| cgroup.pointer(path).and_then(Value::as_u64).unwrap_or(0);
        // Pages of files that nobody has touched for a while could be had for nothing.
        let idle = figure("/memory/raw/total_inactive_file").max(figure("/memory/raw/inactive_file"));
        let limit = cgroup.pointer("/memory/usage/limit").and_then(Value::as_u64).filter(|limit| *limit > 0);
        let block = |wanted: &str| {
            let entries = cgroup.pointer("/blkio/ioServiceBytesRecursive").and_then(Value::as_array);
            let entries = entries.into_iter().flatten();
            let of_kind = entries
                .filter(|entry| entry["op"].as_str().is_some_and(|op| op.eq_ignore_ascii_case(wanted)));
            of_kind.filter_map(|entry| entry["value"].as_u64()).sum()
        };
        let pid = document["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        let [received, sent] = pid.and_then(stats::network).unwrap_or_default();
        Some(Self {
            id: text("id")?,
            name: text("name")?,
            read_ns: document["read_ns"].as_u64()?,
            cpu_ns: figure("/cpu/usage/total"),
            memory_bytes: figure("/memory/usage/usage").saturating_sub(idle),
            memory_limit_bytes: limit.into_iter().chain(stats::host_memory()).min().unwrap_or(0),
            network_received_bytes: received,
            network_sent_bytes: sent,
            block_read_bytes: block("read"),
            block_write_bytes: block("write"),
            pids: figure("/pids/current"),
        })
    }

    /// What docker calls these, and shows of them.
    fn row(&self, before: Option<&Self>, no_trunc: bool) -> Value {
        let elapsed_ns = before.map_or(0, |before| self.read_ns.saturating_sub(before.read_ns));
        let used_ns = before.map_or(0, |before| self.cpu_ns.saturating_sub(before.cpu_ns));
        let percent = |part: u64, whole: u64| {
            let percent = if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 };
            format!("{percent:.2}%")
        };
        let id = if no_trunc { &self.id } else { self.id.get(..12).unwrap_or(&self.id) };
        json!({
            "Container": id,
            "ID": id,
            "Name": self.name.trim_start_matches('/'),
            "CPUPerc": percent(used_ns, elapsed_ns),
            "MemUsage": format!("{} / {}", binary(self.memory_bytes), binary(self.memory_limit_bytes)),
            "MemPerc": percent(self.memory_bytes, self.memory_limit_bytes),
            "NetIO": format!("{} / {}", decimal(self.network_received_bytes), decimal(self.network_sent_bytes)),
            "BlockIO": format!("{} / {}", decimal(self.block_read_bytes), decimal(self.block_write_bytes)),
            "PIDs": self.pids.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_what_cgroups_count() {
        let read = Sample::read(&json!({
            "id": "0123", "name": "web", "pid": null, "read_ns": 5,
            "cgroup": {
                "cpu": {"usage": {"total": 7}},
                "memory": {"usage": {"usage": 100, "limit": 1000}, "raw": {"inactive_file": 30}},
                "pids": {"current": 3},
                "blkio": {"ioServiceBytesRecursive": [
                    {"op": "Read", "value": 1}, {"major": 8, "op": "Read", "value": 2}, {"op": "Write", "value": 4},
                ]},
            },
        }));
        let read = read.expect("complete");
        assert_eq!((read.cpu_ns, read.memory_bytes, read.memory_limit_bytes, read.pids), (7, 70, 1000, 3));
        assert_eq!((read.block_read_bytes, read.block_write_bytes), (3, 4));
        assert!(Sample::read(&json!({"id": "0123"})).is_none());
    }

    #[test]
    fn rates_are_of_what_came_between() {
        let before = Sample { read_ns: 1_000_000_000, cpu_ns: 0, ..Sample::default() };
        let now = Sample {
            id: "0123456789abcdef".into(),
            read_ns: 3_000_000_000,
            cpu_ns: 500_000_000,
            memory_bytes: 64 << 20,
            memory_limit_bytes: 256 << 20,
            pids: 2,
            ..Sample::default()
        };
        let row = now.row(Some(&before), false);
        assert_eq!((row["CPUPerc"].as_str(), row["MemPerc"].as_str()), (Some("25.00%"), Some("25.00%")));
        assert_eq!(
            (row["MemUsage"].as_str(), row["ID"].as_str()),
            (Some("64MiB / 256MiB"), Some("0123456789ab"))
        );
        assert_eq!(now.row(None, true)["CPUPerc"], "0.00%");
    }
}
