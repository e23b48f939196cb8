//! `skiff stats`: what containers use, second by second, by their cgroups. Where programs are pinned (`skiff observe`), what
//! these count is shown instead, for containers of any engine.

use std::io::{self, IsTerminal};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use skiff_engine::figures::Sampled;
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
            .map(|now| now.row(before.iter().find(|before| before.0.id == now.0.id), args.no_trunc))
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
    let (documents, errors) = documents(&Request::Figures { containers: containers.to_vec() })?;
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
struct Sample(Sampled);

impl Sample {
    fn read(document: &Value) -> Option<Self> {
        serde_json::from_value(document.clone()).ok().map(Self)
    }

    /// What docker calls these, and shows of them.
    fn row(&self, before: Option<&Self>, no_trunc: bool) -> Value {
        let (now, figures) = (&self.0, &self.0.figures);
        let elapsed_ns = before.map_or(0, |before| figures.at_ns.saturating_sub(before.0.figures.at_ns));
        let used_ns = |sample: &Self| sample.0.figures.cpu.usage_ns.unwrap_or(0);
        let used_ns = before.map_or(0, |before| used_ns(self).saturating_sub(used_ns(before)));
        let percent = |part: u64, whole: u64| {
            let percent = if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 };
            format!("{percent:.2}%")
        };
        let id = if no_trunc { &now.id } else { now.id.get(..12).unwrap_or(&now.id) };
        let memory = figures.memory.working_set_bytes.unwrap_or(0);
        let limit = figures.memory.limit_bytes.into_iter().chain(stats::host_memory()).min().unwrap_or(0);
        let network = figures.network.unwrap_or_default();
        let count = |figure: Option<u64>| figure.unwrap_or(0);
        let (read, written) = (count(figures.block.read_bytes), count(figures.block.write_bytes));
        json!({
            "Container": id,
            "ID": id,
            "Name": now.name,
            "CPUPerc": percent(used_ns, elapsed_ns),
            "MemUsage": format!("{} / {}", binary(memory), binary(limit)),
            "MemPerc": percent(memory, limit),
            "NetIO": format!("{} / {}", decimal(network.received_bytes), decimal(network.sent_bytes)),
            "BlockIO": format!("{} / {}", decimal(read), decimal(written)),
            "PIDs": count(figures.processes.current).to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_engine::figures::Figures;

    fn sample(at_ns: u64, cpu_ns: u64) -> Sample {
        let mut figures = Figures { at_ns, ..Figures::default() };
        figures.cpu.usage_ns = Some(cpu_ns);
        figures.memory.working_set_bytes = Some(64 << 20);
        figures.memory.limit_bytes = Some(256 << 20);
        Sample(Sampled { id: "0123456789abcdef".into(), figures, ..Sampled::default() })
    }

    #[test]
    fn rates_are_of_what_came_between() {
        let (before, now) = (sample(1_000_000_000, 0), sample(3_000_000_000, 500_000_000));
        let row = now.row(Some(&before), false);
        assert_eq!((row["CPUPerc"].as_str(), row["MemPerc"].as_str()), (Some("25.00%"), Some("25.00%")));
        assert_eq!(
            (row["MemUsage"].as_str(), row["ID"].as_str()),
            (Some("64MiB / 256MiB"), Some("0123456789ab"))
        );
        assert_eq!(now.row(None, true)["CPUPerc"], "0.00%");
    }
}
