//! `skiff inspect`.

use skiff_engine::protocol::Request;

use super::{documents, print, report, some, template, understand};
use crate::failure::Failure;
use crate::format::Inspection;
use crate::line::{Command, Flag, Order, Rest, Section, put};

#[derive(Debug, Default)]
pub(super) struct Args {
    format: Option<String>,
}

pub(super) static COMMAND: Command<Args> = Command {
    name: "inspect",
    operands: "[OPTIONS] CONTAINER…",
    about: "\
Tells everything about containers: a list of JSON documents with the fields of docker's.
",
    sections: &[Section {
        title: "Options",
        flags: &[
            Flag::value(
                Some('f'),
                "format",
                "FORMAT",
                "json, or a template of Go's: '{{.State.Status}}'",
                |a, v| put(&mut a.format, Some(v.to_owned())),
            ),
            Flag::value(None, "type", "container", "containers are all there is", |_, v| match v {
                "container" => Ok(()),
                _ => Err("not container".into()),
            }),
            Flag::switch(Some('s'), "size", "sizes too; always shown where known", |_, _| {}),
        ],
    }],
    order: Order::Mixed,
    aliases: &[],
    unsupported: &[],
};

pub(super) fn run(words: Rest<'_>) -> Result<u8, Failure> {
    let Some((args, containers)) = understand(&COMMAND, words)? else { return Ok(0) };
    some(&COMMAND, &containers)?;
    let inspection = Inspection::parse(args.format.as_deref()).map_err(template)?;
    let (documents, errors) = documents(&Request::Inspect { containers })?;
    print(&inspection.print(&documents).map_err(template)?)?;
    Ok(report(&errors))
}
