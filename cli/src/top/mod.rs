//! `skiff top`: with a container its processes, as with docker; without, all containers on the terminal, live.
//!
//! [`source`] reads figures, [`state`] is what is shown and what keys do to it (pure), [`view`] draws it, [`screen`] has the
//! terminal and gives it back whatever happens. [`document`] is for programs.

mod blame;
mod document;
mod processes;
mod screen;
mod source;
mod state;
mod view;

use std::ffi::OsString;

use crate::client::{print, refused};
use crate::failure::Failure;
use crate::help;
use crate::line::{Command, Flag, Order, Rest, Section, operand, put};
use crate::words::Format;

/// What follows CONTAINER is for ps.
#[derive(Debug, Default)]
pub(crate) struct Args {
    format: Format,
}

pub(crate) static COMMAND: Command<Args> = Command {
    name: "top",
    operands: "[OPTIONS] [CONTAINER [OPTIONS OF PS]]",
    about: "\
With CONTAINER, lists its processes as ps(1) shows them (-ef unless other options are given). Without, shows all
containers on the terminal, live: those of the daemon, and those that are counted where 'skiff observe on' has been
said. Keys: arrows choose container and column, r turns the order round, / filters by name, Enter looks into one,
p pauses, ? helps, q leaves.
",
    sections: &[Section {
        title: "Options",
        flags: &[Flag::value(
            None,
            "format",
            "text|json",
            "json: one object that docs/observe.md describes; needs no terminal",
            |a, v| match v {
                "text" | "table" => put(&mut a.format, Format::Text),
                "json" => put(&mut a.format, Format::Json),
                _ => Err("neither text nor json".into()),
            },
        )],
    }],
    order: Order::FlagsFirst,
    aliases: &[],
    unsupported: &[],
};

/// Carries out `skiff top …`.
pub(crate) fn run(words: Rest<'_>) -> Result<u8, Failure> {
    let mut args = Args::default();
    let Some(operands) = COMMAND.parse(&mut args, words)? else { return print(&help::command(&COMMAND)) };
    let mut operands: std::vec::IntoIter<OsString> = operands.into_iter();
    let Some(container) = operands.next() else {
        return match args.format {
            Format::Text => screen::run(),
            Format::Json => print(&document::one_second()?),
        };
    };
    let container = operand(container)?;
    let options = operands.map(operand).collect::<Result<Vec<_>, _>>()?;
    let listed = processes::list(&container, &options).map_err(refused)?;
    print(&match args.format {
        Format::Text => listed,
        Format::Json => document::listed(&listed),
    })
}
