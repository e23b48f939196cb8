//! `skiff ps`.

use serde_json::Value;
use skiff_engine::protocol::Request;

use super::{documents, now_ns, print, refused, report, rows, template, understand};
use crate::failure::Failure;
use crate::format::filter::Filters;
use crate::format::{Listing, Row};
use crate::images::sizes::Sizes;
use crate::line::{Command, Flag, Order, Rest, Section, add, put};
use crate::values::integer;

#[derive(Debug, Default)]
pub(crate) struct Args {
    all: bool,
    quiet: bool,
    no_trunc: bool,
    size: bool,
    filters: Vec<String>,
    format: Option<String>,
    /// Only so many, the newest.
    last: Option<usize>,
}

pub(crate) static COMMAND: Command<Args> = Command {
    name: "ps",
    operands: "[OPTIONS]",
    about: "\
Lists the containers that run, the newest first.
",
    sections: &[Section {
        title: "Options",
        flags: &[
            Flag::switch(Some('a'), "all", "those that do not run too", |a, on| a.all = on),
            Flag::switch(Some('q'), "quiet", "ids only", |a, on| a.quiet = on),
            Flag::switch(None, "no-trunc", "show ids and commands in full", |a, on| a.no_trunc = on),
            Flag::switch(
                Some('s'),
                "size",
                "what they have written, and their size with the image",
                |a, on| {
                    a.size = on;
                },
            ),
            Flag::value(
                Some('f'),
                "filter",
                "KEY=VALUE",
                "by ancestor, before, exited, health, id, label, name, network, since, status, volume",
                |a, v| add(&mut a.filters, v.to_owned()),
            ),
            Flag::value(
                None,
                "format",
                "FORMAT",
                "table, json, or a template of Go's: '{{.ID}} {{.Names}}'",
                |a, v| put(&mut a.format, Some(v.to_owned())),
            ),
            Flag::value(
                Some('n'),
                "last",
                "NUMBER",
                "the newest so many, whether they run or not",
                |a, v| put(&mut a.last, usize::try_from(integer(v, -1..=i64::from(i32::MAX))?).ok()),
            ),
            Flag::switch(Some('l'), "latest", "the newest, whether it runs or not", |a, on| {
                a.last = on.then_some(1).or(a.last);
            }),
        ],
    }],
    order: Order::Mixed,
    aliases: &[],
    unsupported: &[],
};

pub(crate) fn run(words: Rest<'_>) -> Result<u8, Failure> {
    let Some((args, operands)) = understand(&COMMAND, words)? else { return Ok(0) };
    if let Some(operand) = operands.first() {
        return Err(refused(COMMAND.usage(&format!("unexpected argument: {operand}"))));
    }
    let listing = listing(&args)?;
    let reason = |reason: String| refused(Failure::engine(reason));
    let mut filters = Filters::default();
    args.filters.iter().try_for_each(|word| filters.add(word)).map_err(reason)?;
    // Filters may name containers that are not shown.
    let (everything, errors) = documents(&Request::List { all: true })?;
    let mut shown = filters.select(&everything, &everything).map_err(reason)?;
    if let Some(last) = args.last {
        shown.truncate(last);
    } else if !args.all && !filters.ask_for_stopped() {
        shown.retain(|container| container["State"].as_str().is_some_and(is_live));
    }
    let now_ns = now_ns();
    let mut rows: Vec<Value> =
        shown.iter().map(|container| rows::row(container, now_ns, args.no_trunc)).collect();
    if args.size || args.format.as_deref().is_some_and(asks_for_sizes) {
        let mut sizes = Sizes::open()?;
        for (row, container) in rows.iter_mut().zip(&shown) {
            let text = |field: &str| container[field].as_str().unwrap_or_default();
            row["Size"] = sizes.of(text("Id"), text("ImageID")).to_string().into();
        }
    }
    let rows =
        rows.iter().zip(&shown).map(|(document, container)| Row { document, labels: &container["Labels"] });
    let text = listing.print(&rows.collect::<Vec<_>>(), &rows::names()).map_err(template)?;
    print(&text)?;
    Ok(report(&errors))
}

/// How it is printed. As with docker, `-q` yields to a template, and to no other format.
fn listing(args: &Args) -> Result<Listing, Failure> {
    let format =
        args.format.as_deref().filter(|format| !args.quiet || !matches!(*format, "table" | "json" | ""));
    let format = format.or(args.quiet.then_some("{{.ID}}"));
    let usual = if args.size { &format!("{}\t{{{{.Size}}}}", rows::USUAL) } else { rows::USUAL };
    Listing::parse(format, usual).map_err(template)
}

/// Whether a template shows sizes. To find them out takes a look at all that containers have written.
fn asks_for_sizes(format: &str) -> bool {
    format.contains(".Size") || format.contains("json .}")
}

/// Whether a container in this state is listed without `-a`.
fn is_live(state: &str) -> bool {
    matches!(state, "running" | "paused" | "restarting")
}
