//! `skiff stats`: what containers use, second by second. Where programs are pinned (`skiff observe`), what these count is shown
//! too, and containers of other engines.

use std::io::{self, IsTerminal};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use skiff_ebpf::pinned::Pinned;
use skiff_engine::Client;
use skiff_engine::figures::Sampled;
use skiff_engine::protocol::Request;

use super::{documents, print, report, template, understand};
use crate::failure::Failure;
use crate::format::{Listing, Row};
use crate::line::{Command, Flag, Order, Rest, Section, put};
use crate::roots::Roots;
use crate::stats::show::{names, partly_counted, row};
use crate::stats::{Sample, Stats, record};
use crate::{counted, observe, stats};

#[derive(Debug, Default)]
pub(crate) struct Args {
    all: bool,
    once: bool,
    no_trunc: bool,
    format: Option<String>,
}

pub(crate) static COMMAND: Command<Args> = Command {
    name: "stats",
    operands: "[OPTIONS] [CONTAINER…]",
    about: "\
Shows, second by second, what containers use: those that are named, or all that run. Where 'skiff observe on' has been
said, their system calls too, and containers that others have started.
",
    sections: &[Section {
        title: "Options",
        flags: &[
            Flag::switch(Some('a'), "all", "the daemon's that do not run, too", |a, on| a.all = on),
            Flag::switch(None, "no-stream", "show one second, then exit", |a, on| a.once = on),
            Flag::switch(None, "no-trunc", "show ids in full", |a, on| a.no_trunc = on),
            Flag::value(None, "format", "FORMAT", "table, json, or a template of Go's", |a, v| {
                put(&mut a.format, Some(v.to_owned()))
            }),
        ],
    }],
    order: Order::Mixed,
    aliases: &[],
    unsupported: &[],
};

/// The usual table.
const USUAL: &str = "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}\t\
    {{.Faults}}\t{{.Throttled}}\t{{.RunQueue}}\t{{.Syscalls}}";

/// Between two samples.
const INTERVAL: Duration = Duration::from_secs(1);

/// Clears a terminal.
const CLEAR: &str = "\x1b[H\x1b[2J";

pub(crate) fn run(words: Rest<'_>) -> Result<u8, Failure> {
    let Some((args, containers)) = understand(&COMMAND, words)? else { return Ok(0) };
    let is_alone = crate::run::is_alone() || is_without_daemon();
    let samples = || match is_alone {
        true => of_pinned(&containers),
        false => samples(&containers, args.all && containers.is_empty()),
    };
    let format = args.format.as_deref().map(|format| if format == "text" { "table" } else { format });
    let listing = Listing::parse(format, USUAL).map_err(template)?;
    let mut before = samples()?.0;
    loop {
        thread::sleep(INTERVAL);
        let (now, errors, uncounted) = samples()?;
        if now.is_empty() && !errors.is_empty() {
            return Ok(report(&errors));
        }
        let stats: Vec<Stats> = now
            .iter()
            .map(|now| Stats::between(before.iter().find(|before| before.is_same(now)), now))
            .collect();
        let uncounted = partly_counted(&stats) + &uncounted;
        let mut text = shown(&listing, stats.iter().map(|stats| row(stats, args.no_trunc)).collect())?;
        match listing {
            Listing::Table(_) => text.push_str(&uncounted),
            _ => eprint!("{uncounted}"),
        }
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

/// Whether programs are pinned and no daemon runs: there is something to show, and none is started for it.
fn is_without_daemon() -> bool {
    let is_pinned = || observe::open().is_ok_and(|pinned| pinned.is_some());
    let is_there = |roots: Roots| Client::reach(&roots.run).is_ok_and(|daemon| daemon.is_some());
    is_pinned() && !Roots::find().is_ok_and(is_there)
}

/// Containers; who is meant and is none, one line each; and what is not counted.
type Samples = (Vec<Sample>, Vec<String>, String);

fn of_pinned(containers: &[String]) -> Result<Samples, Failure> {
    let (samples, uncounted) = stats::samples(containers)?;
    Ok((samples, Vec::new(), uncounted))
}

/// The daemon's containers, with what pinned programs count of them; and where those count others, these. `all`: those that do not
/// run, too.
fn samples(containers: &[String], all: bool) -> Result<Samples, Failure> {
    let (documents, mut errors) = documents(&Request::Figures { containers: containers.to_vec() })?;
    let sampled: Vec<Sampled> =
        documents.into_iter().filter_map(|document| serde_json::from_value(document).ok()).collect();
    let at_rest = if all { at_rest(&sampled)? } else { Vec::new() };
    // Whoever may not read them sees what the daemon knows.
    let Ok(Some(pinned)) = observe::open() else {
        let samples = sampled.iter().map(|one| Sample::of(one, None)).chain(at_rest).collect();
        return Ok((samples, errors, String::new()));
    };
    let (mut counted, mut samples) = (counted::all(&pinned)?, Vec::new());
    for one in &sampled {
        let at = counted.iter().position(|other| Some(other.taken.owner.cgroup) == one.cgroup);
        let taken = at.map(|at| counted.swap_remove(at));
        let record = taken.map(|taken| record(&pinned, &taken)).transpose()?.flatten();
        samples.push(Sample::of(one, record.as_ref()));
    }
    let others = if containers.is_empty() { counted } else { unknown_to_daemon(&pinned, &mut errors) };
    samples.extend(stats::samples_of(&pinned, others)?);
    samples.extend(at_rest);
    Ok((samples, errors, stats::uncounted(&pinned)?))
}

/// The daemon's containers that are not among those that run.
fn at_rest(running: &[Sampled]) -> Result<Vec<Sample>, Failure> {
    let (all, _) = documents(&Request::List { all: true })?;
    let at_rest = all.iter().filter_map(|document| {
        let id = document["Id"].as_str().filter(|id| running.iter().all(|one| one.id != *id))?;
        let name = document.pointer("/Names/0").and_then(Value::as_str);
        Some(Sample::at_rest(id, name.map(|name| name.trim_start_matches('/'))))
    });
    Ok(at_rest.collect())
}

/// Those of which the daemon says that there are none, and that are counted all the same.
fn unknown_to_daemon(pinned: &Pinned, errors: &mut Vec<String>) -> Vec<counted::Container> {
    let mut found = Vec::new();
    errors.retain(|error| {
        let name = error.strip_prefix("no such container: ");
        let counted = name.and_then(|name| counted::find(pinned, name).ok());
        let is_unknown = counted.is_none();
        found.extend(counted);
        is_unknown
    });
    found
}

fn shown(listing: &Listing, rows: Vec<Value>) -> Result<String, Failure> {
    let rows = listing.fit(rows.into_iter());
    let rows: Vec<Row<'_>> = rows.iter().map(|document| Row { document, labels: &Value::Null }).collect();
    listing.print(&rows, &names()).map_err(template)
}
