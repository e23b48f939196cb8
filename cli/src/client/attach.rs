//! `skiff attach`.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, OwnedFd};

use skiff_engine::attach::{self, Caller, Container, End};
use skiff_engine::protocol::{Reply, Request};
use skiff_runtime::supervise::{Deputy, Signals};

use super::attend::send_by_daemon;
use super::follow::End as FollowedEnd;
use super::{left, only, open, os, refused, understand, unexpected};
use crate::failure::Failure;
use crate::line::{Command, Flag, Order, Rest, Section, put};
use crate::values::keys::{self, Keys};

#[derive(Debug)]
pub(crate) struct Args {
    pub(super) input: bool,
    pub(super) sig_proxy: bool,
    pub(super) detach_keys: Keys,
}

impl Default for Args {
    fn default() -> Self {
        Self { input: true, sig_proxy: true, detach_keys: Keys::default() }
    }
}

pub(crate) static COMMAND: Command<Args> = Command {
    name: "attach",
    operands: "[OPTIONS] CONTAINER",
    about: "\
Shows what a container writes from now on, passes input and signals on to it, and exits with its code when it ends.
",
    sections: &[Section {
        title: "Options",
        flags: &[
            Flag::switch(None, "no-stdin", "pass no input on", |a, on| a.input = !on),
            Flag::switch(None, "sig-proxy", "pass signals on (default true)", |a, on| a.sig_proxy = on),
            Flag::value(
                None,
                "detach-keys",
                "KEYS",
                "leave a terminal by these, such as ctrl-x,x (default ctrl-p,ctrl-q)",
                |a, v| put(&mut a.detach_keys, keys::parse(v)?),
            ),
        ],
    }],
    order: Order::Mixed,
    aliases: &[],
    unsupported: &[],
};

pub(crate) fn run(words: Rest<'_>) -> Result<u8, Failure> {
    let Some((args, operands)) = understand(&COMMAND, words)? else { return Ok(0) };
    let container = only(&COMMAND, operands)?;
    match to(container, &args)? {
        Some(code) => Ok(code),
        None => Err(left()),
    }
}

/// Attaches to a container that runs; its exit code, or nothing if the caller has left it.
pub(super) fn to(container: String, args: &Args) -> Result<Option<u8>, Failure> {
    // Never dropped: that would take system calls to restore what ends with the client.
    let signals = ManuallyDrop::new(Signals::block().map_err(|error| os("block signals", &error))?);
    let (client, reply, descriptors) =
        open(&Request::Attach { container, input: args.input }).map_err(|error| refused(error.into()))?;
    let Reply::Log { id, tty } = reply else { return Err(unexpected(&reply)) };
    let mut descriptors = descriptors.into_iter();
    let (Some(directory), Some(process)) = (descriptors.next(), descriptors.next()) else {
        return Err(refused(Failure::engine("the daemon hands out no log and no process")));
    };
    let send = |signal| send_by_daemon(&id, None, signal);
    let input: Option<OwnedFd> = descriptors.next();
    let log = attach::open_log(directory).map_err(|error| refused(os("open the log", &error)))?;
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let caller = Caller {
        signals: &signals,
        stdin: args.input.then_some(stdin.as_fd()),
        stdout: stdout.as_fd(),
        stderr: stderr.as_fd(),
        sig_proxy: args.sig_proxy,
        detach_keys: &args.detach_keys.0,
        deputy: Some(Deputy(&send)),
    };
    let end = FollowedEnd::of(client, id.clone()).map_err(refused)?;
    let input = input.as_ref().map(AsFd::as_fd);
    let container = Container { log, pidfd: process.as_fd(), input, tty, connection: end.as_fd() };
    match attach::attach(container, &caller).map_err(|error| refused(os("attach", &error)))? {
        End::Told => end.code().map(Some).map_err(refused),
        End::Detached => Ok(None),
        End::Refused => Ok(Some(0)),
        End::Signal(signal) => Ok(Some(u8::try_from(128 + signal).unwrap_or(u8::MAX))),
    }
}
