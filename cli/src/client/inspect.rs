//! `skiff inspect`.

use serde_json::Value;
use skiff_engine::protocol::Request;

use super::{documents, print, report, some, template, understand};
use crate::failure::Failure;
use crate::format::Inspection;
use crate::images;
use crate::images::sizes::Sizes;
use crate::line::{Command, Flag, Order, Rest, Section, put};

#[derive(Debug, Default)]
pub(crate) struct Args {
    format: Option<String>,
    /// Nothing else.
    only: Option<Kind>,
    size: bool,
}

/// What there is to inspect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Container,
    Image,
}

pub(crate) static COMMAND: Command<Args> = Command {
    name: "inspect",
    operands: "[OPTIONS] CONTAINER|IMAGE…",
    about: "\
Tells everything about containers, or else images, of these names or ids: a list of JSON documents with docker's
fields.
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
            Flag::value(None, "type", "container|image", "look for nothing else", |a, v| {
                put(
                    &mut a.only,
                    Some(match v {
                        "container" => Kind::Container,
                        "image" => Kind::Image,
                        _ => return Err("neither container nor image".into()),
                    }),
                )
            }),
            Flag::switch(Some('s'), "size", "of containers, what they have written, too", |a, on| a.size = on),
        ],
    }],
    order: Order::Mixed,
    aliases: &[],
    unsupported: &[],
};

pub(crate) fn run(words: Rest<'_>) -> Result<u8, Failure> {
    let Some((args, names)) = understand(&COMMAND, words)? else { return Ok(0) };
    some(&COMMAND, &names)?;
    let inspection = Inspection::parse(args.format.as_deref()).map_err(template)?;
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    if args.only == Some(Kind::Container) {
        (found, errors) = documents(&Request::Inspect { containers: names })?;
    } else {
        for name in names {
            match one(&name, args.only) {
                Ok(document) => found.push(document),
                Err(failure) => errors.push(failure.message),
            }
        }
    }
    if args.size {
        add_sizes(&mut found)?;
    }
    print(&inspection.print(&found).map_err(template)?)?;
    Ok(report(&errors))
}

/// Adds the sizes of containers to their documents.
fn add_sizes(documents: &mut [Value]) -> Result<(), Failure> {
    for document in documents.iter_mut().filter(|document| document["State"].is_object()) {
        let text = |field: &str| document[field].as_str().unwrap_or_default();
        let size = Sizes::open()?.of(text("Id"), text("Image"));
        document["SizeRw"] = size.written.into();
        document["SizeRootFs"] = size.whole.unwrap_or(size.written).into();
    }
    Ok(())
}

/// A container of this name, or else an image.
fn one(name: &str, only: Option<Kind>) -> Result<Value, Failure> {
    if only.is_some() {
        return images::inspect::document(name);
    }
    let mut reason = format!("no such object: {name}");
    if !crate::run::is_alone() {
        let (container, errors) = documents(&Request::Inspect { containers: vec![name.to_owned()] })?;
        if let Some(container) = container.into_iter().next() {
            return Ok(container);
        }
        // The beginning of several ids, for one.
        if let Some(other) = errors.into_iter().find(|error| !error.starts_with("no such container")) {
            reason = other;
        }
    }
    images::inspect::document(name).map_err(|_| Failure::engine(reason))
}
