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
mod progress;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod remove;
mod rows;
mod sink;
pub(crate) mod system;
pub(crate) mod tag;
pub(crate) mod wanted;

use std::io::{self, BufRead, Write};

use crate::client::{os, refused};
use crate::failure::Failure;
use crate::line::Command;

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
