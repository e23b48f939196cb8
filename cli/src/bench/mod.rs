//! `skiff bench A… -- B…`: runs containers of A and of B by turns, and says in what they differ.
//!
//! Every run is a launch as `skiff run` makes it without a daemon (`crate::run`), by this process: it sees the program's end
//! first, its counters are inherited, and no daemon's work is measured along. What the figures say is judged by
//! `skiff_observe::compare`; docs/bench.md tells people of both.

mod document;
mod session;
mod side;
mod text;
mod trial;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use skiff_observe::compare::{self, About, Judged, Limit, Report, Settings, Statistic, Stopping};

use crate::client::print;
use crate::failure::Failure;
use crate::help;
use crate::line::{Command, Flag, Order, Rest, Section, add, put};
use crate::output::Output;
use crate::values::{Reason, integer, time};
use crate::words::Format;
use session::Session;
use side::Side;

/// What a comparison is to be; the sides come after it.
#[derive(Debug)]
pub(crate) struct Args {
    settings: Settings,
    stopping: Stopping,
    /// Pairs of A against A.
    control: usize,
    warm_up: usize,
    max_time: Duration,
    seed: Option<u64>,
    limits: Vec<Limit>,
    format: Format,
    html: Option<PathBuf>,
    syscalls: bool,
    ignore_failure: bool,
    show_output: bool,
    /// What stands between A and B.
    separator: String,
}

impl Default for Args {
    fn default() -> Self {
        Self {
            settings: Settings::default(),
            stopping: Stopping { precision: 0.02, min_pairs: 10, max_pairs: 1000 },
            control: 10,
            warm_up: 1,
            max_time: Duration::from_secs(60),
            seed: None,
            limits: Vec::new(),
            format: Format::Text,
            html: None,
            syscalls: false,
            ignore_failure: false,
            show_output: false,
            separator: "--".into(),
        }
    }
}

pub(crate) static COMMAND: Command<Args> = Command {
    name: "bench",
    operands: "[OPTIONS] A… [-- B…]",
    about: "\
Runs two containers by turns, again and again, until it is known well enough by how much they differ: in time, CPU time,
page faults, context switches, memory, I/O, system calls and what else the machine counts. A and B are each what may
follow 'skiff run': its options, IMAGE and a command. Options of bench come first, then those of A. The first '--'
begins B. Without B, says what A takes.

First A is run against A: what it differs from itself is not taken for a difference of B. Exits with 1 if a limit given
by --fail-if is exceeded, and with 125 if a run fails or nothing could be compared.
",
    sections: &[
        Section { title: "How often", flags: HOW_OFTEN },
        Section { title: "What is measured", flags: WHAT },
        Section { title: "What is said", flags: SAID },
    ],
    order: Order::FlagsFirst,
    aliases: &[],
    unsupported: &[],
};

const MOST_PAIRS: i64 = 100_000;

fn pairs(text: &str, least: i64) -> Result<usize, Reason> {
    Ok(usize::try_from(integer(text, least..=MOST_PAIRS)?).unwrap_or_default())
}

static HOW_OFTEN: &[Flag<Args>] = &[
    Flag::value(
        None,
        "precision",
        "PERCENT",
        "until the interval is ± this part of A (default 2%)",
        |a, v| put(&mut a.stopping.precision, percent(v, 0.001, 100.0)?),
    ),
    Flag::value(Some('n'), "runs", "NUMBER", "so many pairs, whatever the precision", |a, v| {
        (a.stopping.min_pairs, a.stopping.max_pairs) = (pairs(v, 2)?, pairs(v, 2)?);
        put(&mut a.max_time, Duration::MAX)
    }),
    Flag::value(None, "min-runs", "NUMBER", "at least so many pairs (default 10)", |a, v| {
        put(&mut a.stopping.min_pairs, pairs(v, 2)?)
    }),
    Flag::value(None, "max-runs", "NUMBER", "at most so many pairs (default 1000)", |a, v| {
        put(&mut a.stopping.max_pairs, pairs(v, 2)?)
    }),
    Flag::value(None, "max-time", "TIME", "no more pairs after so long (default 1m)", |a, v| {
        put(&mut a.max_time, time::duration(v)?)
    }),
    Flag::value(None, "control", "NUMBER", "pairs of A against A before (default 10)", |a, v| {
        put(&mut a.control, pairs(v, 0)?)
    }),
    Flag::value(None, "warmup", "NUMBER", "runs of each before anything is measured (default 1)", |a, v| {
        put(&mut a.warm_up, pairs(v, 0)?)
    }),
    Flag::value(None, "separator", "WORD", "what begins B, where A contains -- (default --)", |a, v| {
        put(&mut a.separator, v.to_owned())
    }),
];

static WHAT: &[Flag<Args>] = &[
    Flag::switch(None, "syscalls", "count system calls, which makes each some 60 ns slower", |a, on| {
        a.syscalls = on;
    }),
    Flag::switch(None, "ignore-failure", "go on when a program exits with another code than 0", |a, on| {
        a.ignore_failure = on;
    }),
    Flag::switch(None, "show-output", "show what the programs print; it is dropped otherwise", |a, on| {
        a.show_output = on;
    }),
];

static SAID: &[Flag<Args>] = &[
    Flag::value(
        None,
        "fail-if",
        "'METRIC > LIMIT'",
        "exit with 1: wall > +3%, cpu > +2ms, memory-peak > 64m",
        |a, v| add(&mut a.limits, Limit::parse(v).map_err(|error| error.to_string())?),
    ),
    Flag::value(None, "statistic", "median|mean", "what of the runs is compared (default median)", |a, v| {
        put(&mut a.settings.statistic, statistic(v)?)
    }),
    Flag::value(None, "confidence", "PERCENT", "of intervals (default 95%)", |a, v| {
        put(&mut a.settings.confidence, percent(v, 50.0, 99.99)?)
    }),
    Flag::value(None, "seed", "NUMBER", "of order and intervals: the same runs are judged alike", |a, v| {
        put(&mut a.seed, Some(integer(v, 0..=i64::MAX)?.unsigned_abs()))
    }),
    Flag::value(None, "format", "text|json", "a table, or what docs/bench.md describes", |a, v| {
        put(&mut a.format, format(v)?)
    }),
    Flag::bytes(None, "html", "FILE", "write a report with plots, too", |a, v| {
        put(&mut a.html, Some(PathBuf::from(v)))
    }),
];

/// Carries out `skiff bench …`.
pub(crate) fn run(words: Rest<'_>) -> Result<u8, Failure> {
    let words: Vec<OsString> = words.collect();
    // Before anything is read: it starts this program anew.
    skiff_runtime::seal::seal(c"skiff")?;
    let mut args = Args::default();
    let Some(rest) = COMMAND.leading(&mut args, words)? else { return print(&help::command(&COMMAND)) };
    let Some(sides) = side::parse(rest, &args.separator)? else { return print(&help::command(&COMMAND)) };
    consistent(&args, sides.len())?;
    let html = args.html.as_deref().map(Output::open).transpose()?;
    let report = compare(&args, sides)?;
    if let Some(mut html) = html {
        html.write(&compare::page(&report.judged))?;
        html.keep();
    }
    print(&match args.format {
        Format::Text => text::render(&report),
        Format::Json => document::render(&report)?,
    })?;
    Ok(match report.judged.judged() {
        Judged::Kept => 0,
        Judged::Exceeded => 1,
    })
}

/// A comparison that is over, and what it took.
#[derive(Debug)]
struct Bench {
    judged: Report,
    stopping: Stopping,
    ended: session::Ended,
}

fn compare(args: &Args, sides: Vec<side::Parsed>) -> Result<Bench, Failure> {
    let seed = args.seed.map_or_else(fresh_seed, Ok)?;
    let roots = crate::roots::Roots::find()?;
    // Images may have to be fetched: before signals are blocked.
    let sides = sides.into_iter().map(|side| Side::prepare(side, &roots)).collect::<Result<Vec<_>, _>>()?;
    let mut session = Session::prepare(args, seed)?;
    let names: Vec<String> = sides.iter().map(|side| side.words.clone()).collect();
    let (runs, ended) = session.run(&sides, &roots)?;
    let mut names = names.into_iter();
    let a = names.next().unwrap_or_default();
    let about = About { a, b: names.next(), settings: args.settings, seed };
    let judged = Report::new(about, runs, &args.limits);
    // A limit that was never looked at is not kept.
    if let Some(outcome) = judged.limits.iter().find(|outcome| outcome.interval.is_none()) {
        let why = if judged.missing.contains(&outcome.metric) {
            ended
                .missing
                .iter()
                .find(|(name, _)| *name == outcome.metric)
                .map_or("not every run has it", |(_, why)| *why)
        } else {
            "A is 0, of which there are no parts"
        };
        return Err(Failure::engine(format!("--fail-if '{}': {} n/a: {why}", outcome.limit, outcome.metric)));
    }
    Ok(Bench { judged, stopping: args.stopping, ended })
}

/// Whether the flags go together.
fn consistent(args: &Args, sides: usize) -> Result<(), Failure> {
    if args.stopping.min_pairs > args.stopping.max_pairs {
        return Err(Failure::engine("--min-runs is above --max-runs"));
    }
    if !args.limits.is_empty() && args.stopping.min_pairs < compare::PAIRS_MIN {
        let least = compare::PAIRS_MIN;
        return Err(Failure::engine(format!(
            "--fail-if needs at least {least} pairs: see --runs, --min-runs"
        )));
    }
    if sides == 1 && args.limits.iter().any(Limit::compares) {
        return Err(Failure::engine(
            "--fail-if with a sign is of a difference, and there is no B: see 'skiff bench --help'",
        ));
    }
    if !args.syscalls && args.limits.iter().any(|limit| compare::METRICS[limit.metric()].name == "syscalls") {
        return Err(Failure::engine("--fail-if 'syscalls …' needs --syscalls"));
    }
    Ok(())
}

fn fresh_seed() -> Result<u64, Failure> {
    let mut bytes = [0; 4];
    skiff_sys::random::fill(&mut bytes).map_err(|error| Failure::engine(format!("draw a seed: {error}")))?;
    Ok(u32::from_ne_bytes(bytes).into())
}

fn percent(text: &str, least: f64, most: f64) -> Result<f64, Reason> {
    let wrong = || format!("not a part of a hundred from {least}% to {most}%");
    let number: f64 = text.strip_suffix('%').unwrap_or(text).trim().parse().map_err(|_| wrong())?;
    if (least..=most).contains(&number) { Ok(number / 100.0) } else { Err(wrong()) }
}

fn statistic(text: &str) -> Result<Statistic, Reason> {
    match text {
        "median" => Ok(Statistic::Median),
        "mean" => Ok(Statistic::Mean),
        _ => Err("neither median nor mean".into()),
    }
}

fn format(text: &str) -> Result<Format, Reason> {
    match text {
        "text" | "table" => Ok(Format::Text),
        "json" => Ok(Format::Json),
        _ => Err("neither text nor json".into()),
    }
}

#[cfg(test)]
mod tests;
