//! `skiff images`.

use serde_json::Value;

use super::documents;
use super::filter::{self, Filters};
use super::local::Local;
use super::rows::{self, Style};
use crate::client::{now_ns, print, refused, template, understand};
use crate::failure::Failure;
use crate::format::{Listing, Row};
use crate::line::{Command, Flag, Order, Rest, Section, add, put};

#[derive(Debug, Default)]
pub(crate) struct Args {
    quiet: bool,
    no_trunc: bool,
    digests: bool,
    filters: Vec<String>,
    format: Option<String>,
}

pub(crate) static COMMAND: Command<Args> = Command {
    name: "images",
    operands: "[OPTIONS] [REPOSITORY[:TAG]]",
    about: "\
Lists the images that are here, the newest first; or those of one repository, which may be a pattern.
",
    sections: &[Section {
        title: "Options",
        flags: &[
            Flag::switch(Some('a'), "all", "all images; they are shown without it, too", |_, _| {}),
            Flag::switch(None, "digests", "show digests", |a, on| a.digests = on),
            Flag::value(
                Some('f'),
                "filter",
                "KEY=VALUE",
                "by before, dangling, label, reference, since, until",
                |a, v| add(&mut a.filters, v.to_owned()),
            ),
            Flag::value(
                None,
                "format",
                "FORMAT",
                "table, json, or a template of Go's: '{{.Repository}} {{.ID}}'",
                |a, v| put(&mut a.format, Some(v.to_owned())),
            ),
            Flag::switch(None, "no-trunc", "show ids in full", |a, on| a.no_trunc = on),
            Flag::switch(Some('q'), "quiet", "ids only", |a, on| a.quiet = on),
        ],
    }],
    order: Order::Mixed,
    aliases: &[],
    unsupported: &[("tree", None)],
};

pub(crate) fn run(words: Rest<'_>) -> Result<u8, Failure> {
    let Some((args, operands)) = understand(&COMMAND, words)? else { return Ok(0) };
    let wrong = |reason: String| refused(Failure::engine(reason));
    let listing = listing(&args)?;
    let now_ns = now_ns();
    let mut filters = Filters::default();
    args.filters.iter().try_for_each(|word| filters.add(word, filter::LIST, now_ns)).map_err(wrong)?;
    match operands.as_slice() {
        [] => {}
        [name] => filters.add_reference(name).map_err(wrong)?,
        [_, extra, ..] => return Err(refused(COMMAND.usage(&format!("unexpected argument: {extra}")))),
    }
    let local = Local::open()?;
    let created = |name: &str| {
        let known = local.find(name).map_err(|failure| failure.message)?;
        Ok(documents::created_ns(&known.configuration["created"]).unwrap_or(0))
    };
    let all: Vec<Value> = local.all()?.iter().map(documents::summary).collect();
    let shown = filters.select(all, &created).map_err(wrong)?;
    let style = Style { no_trunc: args.no_trunc, digests: args.digests, now_ns };
    let rows = shown.iter().flat_map(|image| {
        let rows = rows::rows(image, style);
        rows.into_iter().map(|row| (row, &image["Labels"]))
    });
    let rows: Vec<(Value, &Value)> = rows.collect();
    let rows: Vec<Row<'_>> = rows.iter().map(|(document, labels)| Row { document, labels }).collect();
    print(&listing.print(&rows, &rows::names()).map_err(template)?)
}

/// How it is printed. As with docker, `-q` yields to a template, and to no other format.
fn listing(args: &Args) -> Result<Listing, Failure> {
    let format =
        args.format.as_deref().filter(|format| !args.quiet || !matches!(*format, "table" | "json" | ""));
    let format = format.or(args.quiet.then_some("{{.ID}}"));
    let usual = if args.digests { rows::WITH_DIGESTS } else { rows::USUAL };
    Listing::parse(format, usual).map_err(template)
}
