//! `skiff history`: of an image, or else of containers that have ended.

use serde_json::Value;

use super::documents;
use super::local::Local;
use super::one_image;
use super::rows::{self, Style};
use crate::client::history::{Wanted, list, show};
use crate::client::{now_ns, print, template, understand};
use crate::failure::Failure;
use crate::format::{Listing, Row};
use crate::line::{Command, Flag, Order, Rest, Section, add, put};
use crate::values::integer;

#[derive(Debug)]
pub(crate) struct Args {
    quiet: bool,
    no_trunc: bool,
    human: bool,
    format: Option<String>,
    filters: Vec<String>,
    /// Only so many, the newest.
    last: Option<usize>,
}

impl Default for Args {
    fn default() -> Self {
        Self { quiet: false, no_trunc: false, human: true, format: None, filters: Vec::new(), last: None }
    }
}

pub(crate) static COMMAND: Command<Args> = Command {
    name: "history",
    operands: "[OPTIONS] [IMAGE|CONTAINER]",
    about: "\
Without a name, lists containers that have ended, those that are gone too, with what they had used, the newest first.
Of an image, shows how it came to be: what made each of its layers. Of a container, all that is known of its ends, as
JSON.
",
    sections: &[Section {
        title: "Options",
        flags: &[
            Flag::value(Some('f'), "filter", "KEY=VALUE", "of containers: by ancestor, before, exited, id, name, since", |a, v| {
                add(&mut a.filters, v.to_owned())
            }),
            Flag::value(Some('n'), "last", "NUMBER", "of containers: the newest so many", |a, v| {
                put(&mut a.last, usize::try_from(integer(v, 0..=i64::from(i32::MAX))?).ok())
            }),
            Flag::value(
                None,
                "format",
                "FORMAT",
                "table, json, or a template of Go's: '{{.CreatedBy}} {{.Size}}'",
                |a, v| put(&mut a.format, Some(v.to_owned())),
            ),
            Flag::switch(Some('H'), "human", "sizes and times for people (default true)", |a, on| {
                a.human = on;
            }),
            Flag::switch(None, "no-trunc", "show everything in full", |a, on| a.no_trunc = on),
            Flag::switch(Some('q'), "quiet", "ids only", |a, on| a.quiet = on),
        ],
    }],
    order: Order::Mixed,
    aliases: &[],
    unsupported: &[("platform", None)],
};

pub(crate) fn run(words: Rest<'_>) -> Result<u8, Failure> {
    let Some((args, operands)) = understand(&COMMAND, words)? else { return Ok(0) };
    if operands.is_empty() {
        let format = args.format.as_deref().filter(|_| !args.quiet).or(args.quiet.then_some("{{.ID}}"));
        return list(&Wanted { last: args.last, filters: &args.filters, format, no_trunc: args.no_trunc });
    }
    let image = one_image(&COMMAND, operands)?;
    let known = match Local::open()?.find(&image) {
        Ok(known) => known,
        Err(error) => return show(&image, args.format.as_deref())?.ok_or(error),
    };
    let format = args.format.as_deref().filter(|_| !args.quiet).or(args.quiet.then_some("{{.ID}}"));
    let listing = Listing::parse(format, rows::HISTORY).map_err(template)?;
    let style = Style { no_trunc: args.no_trunc, digests: false, now_ns: now_ns() };
    let steps = documents::history(&known);
    let rows = listing.fit(steps.iter().map(|step| rows::step(step, args.human, style)));
    let rows: Vec<Row<'_>> = rows.iter().map(|document| Row { document, labels: &Value::Null }).collect();
    print(&listing.print(&rows, &rows::history_names()).map_err(template)?)
}
