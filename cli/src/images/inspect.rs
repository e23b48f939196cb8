//! `skiff image inspect`, and what `skiff inspect` says of images.

use serde_json::Value;

use super::documents;
use super::local::Local;
use super::some_images;
use crate::client::{print, report, template, understand};
use crate::failure::Failure;
use crate::format::Inspection;
use crate::line::{Command, Flag, Order, Rest, Section, put};

#[derive(Debug, Default)]
pub(crate) struct Args {
    format: Option<String>,
}

pub(crate) static COMMAND: Command<Args> = Command {
    name: "image inspect",
    operands: "[OPTIONS] IMAGE…",
    about: "\
Tells everything about images: a list of JSON documents with the fields of docker's.
",
    sections: &[Section {
        title: "Options",
        flags: &[Flag::value(
            Some('f'),
            "format",
            "FORMAT",
            "json, or a template of Go's: '{{.Config.Env}}'",
            |a, v| put(&mut a.format, Some(v.to_owned())),
        )],
    }],
    order: Order::Mixed,
    aliases: &[],
    unsupported: &[("platform", None)],
};

pub(crate) fn run(words: Rest<'_>) -> Result<u8, Failure> {
    let Some((args, images)) = understand(&COMMAND, words)? else { return Ok(0) };
    some_images(&COMMAND, &images)?;
    let inspection = Inspection::parse(args.format.as_deref()).map_err(template)?;
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    let local = Local::open()?;
    for image in images {
        match local.find(&image) {
            Ok(known) => found.push(documents::inspect(&known)),
            Err(failure) => errors.push(failure.message),
        }
    }
    print(&inspection.print(&found).map_err(template)?)?;
    Ok(report(&errors))
}

/// The document of an image, if there is one that `text` means.
pub(crate) fn document(text: &str) -> Result<Value, Failure> {
    Local::open()?.find(text).map(|known| documents::inspect(&known))
}
