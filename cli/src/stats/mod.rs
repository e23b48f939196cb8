//! What the containers that are counted are doing, second by second: `skiff stats` where programs are pinned.
//!
//! Figures per second are differences of two samples of the maps and of the cgroups' files; docker's columns mean what they
//! mean there.

mod sample;
pub(crate) mod show;

use std::io::{self, IsTerminal, Write};
use std::thread;
use std::time::Duration;

use skiff_ebpf::Record;
use skiff_ebpf::pinned::Pinned;

use crate::failure::Failure;
use crate::profile::off;
use crate::values::cause;
use crate::words::Format;
use crate::{counted, observe};
pub(crate) use sample::{Sample, Stats};

/// Between two samples.
const INTERVAL: Duration = Duration::from_secs(1);
/// Clears a terminal.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// What `skiff stats` was asked for.
#[derive(Debug, Default)]
struct Args {
    once: bool,
    format: Format,
    names: Vec<String>,
}

/// Shows what containers that are counted are doing until it is interrupted, or `once`.
pub(crate) fn run(once: bool, format: Option<&str>, names: Vec<String>) -> Result<(), Failure> {
    let format = match format {
        Some("json") => Format::Json,
        None | Some("table" | "text") => Format::Text,
        Some(other) => {
            let why = "of what pinned programs count, only text and json are shown";
            return Err(Failure::engine(format!("--format {other}: {why}")));
        }
    };
    let args = Args { once, format, names };
    let mut before = sample(&args)?;
    loop {
        thread::sleep(INTERVAL);
        let pinned = observe::open()?.ok_or_else(off)?;
        let now = sample_of(&pinned, &args)?;
        let stats =
            now.iter().map(|now| Stats::between(before.iter().find(|old| old.is_same(now)), now)).collect();
        print(&args, &pinned, stats)?;
        if args.once {
            return Ok(());
        }
        before = now;
    }
}

fn sample(args: &Args) -> Result<Vec<Sample>, Failure> {
    let pinned = observe::open()?.ok_or_else(off)?;
    let cleared = skiff_runtime::observe::reclaim();
    cleared.map_err(|error| Failure::engine(format!("stats: {}", cause(&error))))?;
    sample_of(&pinned, args)
}

fn sample_of(pinned: &Pinned, args: &Args) -> Result<Vec<Sample>, Failure> {
    let containers = match args.names.as_slice() {
        [] => counted::all(pinned)?,
        names => names.iter().map(|name| counted::find(pinned, name)).collect::<Result<_, _>>()?,
    };
    let take = |container| {
        let record = record(pinned, &container)?;
        Ok(Sample::take(container, record.as_ref()))
    };
    containers.into_iter().map(take).collect()
}

/// What is counted of a container; nothing if system calls are not.
pub(crate) fn record(pinned: &Pinned, container: &counted::Container) -> Result<Option<Record>, Failure> {
    match pinned.snapshot(container.slot()) {
        Err(skiff_ebpf::Error::NoCalls) => Ok(None),
        other => other.map(Some).map_err(observe::failed),
    }
}

fn print(args: &Args, pinned: &Pinned, stats: Vec<Stats>) -> Result<(), Failure> {
    let refused = pinned.refused().map_err(observe::failed)?;
    let mut out = io::stdout();
    let mut text = match args.format {
        Format::Json => show::json(&stats),
        Format::Text => show::table(&stats),
    };
    if args.format == Format::Text {
        text += &show::uncounted(&refused, pinned.slots());
        if !args.once && out.is_terminal() {
            text.insert_str(0, CLEAR);
        }
    } else if !refused.is_empty() {
        eprint!("{}", show::uncounted(&refused, pinned.slots()));
    }
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| Failure::engine(format!("write to standard output: {}", cause(&error))))
}
