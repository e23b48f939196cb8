//! `skiff logs`. The log is read here, by a descriptor of its directory: a slow reader holds up nobody.

use std::io;
use std::os::fd::AsFd;

use skiff_engine::log::{self, Query};
use skiff_engine::protocol::{Reply, Request};

use super::follow::End;
use super::{now_ns, only, open, os, refused, understand, unexpected};
use crate::failure::Failure;
use crate::line::{Command, Flag, Order, Rest, Section, put};
use crate::values::time;

#[derive(Debug, Default)]
pub(crate) struct Args {
    follow: bool,
    query: Query,
    /// As they are typed: docker's daemon is who refuses them, and so the exit code is 1.
    since: Option<String>,
    until: Option<String>,
}

pub(crate) static COMMAND: Command<Args> = Command {
    name: "logs",
    operands: "[OPTIONS] CONTAINER",
    about: "\
Shows what a container has written where nobody's streams were its own: its output on standard output, its errors on
standard error. TIME is 2026-01-02T15:04:05Z, a part of that, seconds since 1970, or a span before now such as 1m30s.
",
    sections: &[Section {
        title: "Options",
        flags: &[
            Flag::switch(Some('f'), "follow", "go on with what it writes until it ends", |a, on| a.follow = on),
            Flag::value(Some('n'), "tail", "NUMBER", "so many lines from the end, or all (default all)", |a, v| {
                put(&mut a.query.tail, tail(v)?)
            }),
            Flag::value(None, "since", "TIME", "only what was written since then", |a, v| {
                put(&mut a.since, Some(v.to_owned()))
            }),
            Flag::value(None, "until", "TIME", "only what was written before then", |a, v| {
                put(&mut a.until, Some(v.to_owned()))
            }),
            Flag::switch(Some('t'), "timestamps", "begin each line with its time", |a, on| a.query.timestamps = on),
        ],
    }],
    order: Order::Mixed,
    aliases: &[],
    unsupported: &[("details", None)],
};

pub(crate) fn run(words: Rest<'_>) -> Result<u8, Failure> {
    let Some((mut args, operands)) = understand(&COMMAND, words)? else { return Ok(0) };
    let container = only(&COMMAND, operands)?;
    args.query.since_ns = moment("since", args.since.as_deref())?;
    args.query.until_ns = moment("until", args.until.as_deref())?;
    let request = Request::Logs { container, follow: args.follow };
    let (client, reply, descriptors) = open(&request).map_err(|error| refused(error.into()))?;
    let Reply::Log { id, .. } = reply else { return Err(unexpected(&reply)) };
    let directory = descriptors.into_iter().next();
    let directory = directory.ok_or_else(|| refused(Failure::engine("the daemon hands out no log")))?;
    let (stdout, stderr) = (io::stdout(), io::stderr());
    let end = if args.follow { Some(End::of(client, id).map_err(refused)?) } else { None };
    log::show(directory, &args.query, stdout.as_fd(), stderr.as_fd(), end.as_ref().map(AsFd::as_fd))
        .map_err(|error| refused(os("read the log", &error)))?;
    Ok(0)
}

fn moment(flag: &str, text: Option<&str>) -> Result<Option<u64>, Failure> {
    let Some(text) = text else { return Ok(None) };
    let wrong = |reason| refused(Failure::engine(format!("invalid value '{text}' for --{flag}: {reason}")));
    time::moment(text, now_ns()).map(Some).map_err(wrong)
}

/// A number of lines; all for `all` and for what is below zero.
fn tail(text: &str) -> Result<Option<u64>, String> {
    match text.parse::<i64>() {
        Ok(lines) => Ok(u64::try_from(lines).ok()),
        Err(_) if text == "all" => Ok(None),
        Err(_) => Err("not a number of lines, or all".into()),
    }
}
