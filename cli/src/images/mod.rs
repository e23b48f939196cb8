//! Commands on images. They work on the store themselves, in the caller's process; the daemon is asked about containers
//! only, and told what to let go of.

pub(crate) mod account;
pub(crate) mod archive;
pub(crate) mod containers;
mod documents;
mod filter;
pub(crate) mod history;
pub(crate) mod inspect;
pub(crate) mod list;
mod local;
mod prefetched;
mod progress;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod remove;
mod rows;
mod sink;
pub(crate) mod sizes;
pub(crate) mod system;
pub(crate) mod tag;
pub(crate) mod wanted;

use std::io::{self, BufRead, Write};
use std::path::PathBuf;

use skiff_store::{Digest, ImageRef};

use crate::client::{os, refused};
use crate::failure::Failure;
use crate::line::Command;

/// The id of an image, by name, id or reference, and the directories of its layers.
pub(crate) fn layers_of(text: &str) -> Result<(Digest, Vec<PathBuf>), Failure> {
    let local = local::Local::open()?;
    let reference = match ImageRef::parse(text).map_err(local::failed)? {
        ImageRef::Named(_) | ImageRef::Id(_) => {
            ImageRef::Id(local.store.find(text).map_err(local::failed)?.id)
        }
        other => other,
    };
    let image = local.store.resolve(&reference).map_err(local::failed)?;
    let id = image.id.and_then(|id| Digest::try_from(id).ok());
    let none = || refused(Failure::engine(format!("{text}: an image without an id")));
    Ok((id.ok_or_else(none)?, image.layers))
}

/// The value of a flag that is on or off.
fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("neither on nor off".into()),
    }
}

/// Refuses to go on without an image.
fn some_images<A>(command: &Command<A>, images: &[String]) -> Result<(), Failure> {
    match images {
        [] => Err(refused(command.usage("no image given"))),
        _ => Ok(()),
    }
}

/// Takes the only operand there may be.
fn one_image<A>(command: &Command<A>, operands: Vec<String>) -> Result<String, Failure> {
    match <[String; 1]>::try_from(operands) {
        Ok([only]) => Ok(only),
        Err(none) if none.is_empty() => Err(refused(command.usage("no image given"))),
        Err(_) => Err(refused(command.usage("more than one image given"))),
    }
}

/// Whether the caller wants to go on.
fn confirmed(warning: &str) -> Result<bool, Failure> {
    let failed = |error: io::Error| refused(os("ask whether to go on", &error));
    let mut out = io::stdout();
    write!(out, "{warning}\nAre you sure you want to continue? [y/N] ")
        .and_then(|()| out.flush())
        .map_err(failed)?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(failed)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
