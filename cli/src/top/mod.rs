//! `skiff top`: with a container its processes, as with docker; without, all containers on the terminal, live.
//!
//! [`source`] reads figures, [`state`] is what is shown and what keys do to it (pure), [`view`] draws it, [`screen`] has the
//! terminal and gives it back whatever happens.

mod blame;
mod processes;
mod screen;
mod source;
mod state;
mod view;

use std::ffi::OsString;

use crate::client::{print, refused};
use crate::failure::Failure;
use crate::help;
use crate::line::{Command, Order, Rest, operand};

/// There are no flags: what follows CONTAINER is for ps.
#[derive(Debug, Default)]
pub(crate) struct Args;

pub(crate) static COMMAND: Command<Args> = Command {
    name: "top",
    operands: "[CONTAINER [OPTIONS OF PS]]",
    about: "\
With CONTAINER, lists its processes as ps(1) shows them (-ef unless other options are given). Without, shows all
containers on the terminal, live: those of the daemon, and those that are counted where 'skiff observe on' has been
said. Keys: arrows choose container and column, r turns the order round, / filters by name, Enter looks into one,
p pauses, ? helps, q leaves.
",
    sections: &[],
    order: Order::FlagsFirst,
    aliases: &[],
    unsupported: &[],
};

/// Carries out `skiff top …`.
pub(crate) fn run(words: Rest<'_>) -> Result<u8, Failure> {
    let Some(operands) = COMMAND.parse(&mut Args, words)? else { return print(&help::command(&COMMAND)) };
    let mut operands: std::vec::IntoIter<OsString> = operands.into_iter();
    match operands.next() {
        None => screen::run(),
        Some(container) => {
            let container = operand(container)?;
            let options = operands.map(operand).collect::<Result<Vec<_>, _>>()?;
            print(&processes::list(&container, &options).map_err(refused)?)
        }
    }
}
