//! `skiff-runtime`: containers from OCI bundles, for docker, containerd, podman and CRI-O.
//!
//! `main` finds the command in the table ([`flags`]), carries it out and reports a failure, once.
#![forbid(unsafe_code)]

mod args;
mod checkpoint;
mod config;
mod create;
mod criu;
mod events;
mod exec;
mod failure;
mod features;
mod flags;
mod help;
mod lifecycle;
mod list;
mod log;
mod notify;
mod pid_file;
mod pidfd_socket;
mod restore;
mod root;
mod specify;
mod time;
mod update;

use std::io::Write;
use std::process::ExitCode;

use args::{Args, Global, Wants};
use failure::{Context, Failure};
use log::Log;
use skiff_sys::arena::Arena;

#[global_allocator]
static HEAP: Arena = Arena::new();

fn main() -> ExitCode {
    let mut log = Log::default();
    match carry_out(&mut log) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            log.fail(&failure);
            ExitCode::from(failure.code)
        }
    }
}

/// Carries out what the command line wants. `log` becomes the one that it names, as soon as that is known.
fn carry_out(log: &mut Log) -> Result<u8, Failure> {
    let (global, rest) = args::global(std::env::args_os().skip(1))?;
    *log = Log::open(&global)?;
    log.listen();
    match global.wants {
        Wants::Help => return print(help::overview().as_bytes()),
        Wants::Version => return print(help::version().as_bytes()),
        Wants::Command => {}
    }
    let (command, args) = args::command(rest)?;
    tracing::debug!(operands = ?args.operands, "{}", command.name);
    if args.help { print(help::command(command).as_bytes()) } else { (command.run)(&global, &args) }
}

/// `help [COMMAND]`.
fn help(_: &Global, args: &Args) -> Result<u8, Failure> {
    let Some(name) = args.operands.first().map(|name| name.to_string_lossy()) else {
        return print(help::overview().as_bytes());
    };
    let command = flags::command(&name).ok_or_else(|| Failure::new(format!("unknown command: {name}")))?;
    print(help::command(command).as_bytes())
}

/// Writes to standard output; the exit code of a command that has done no more.
fn print(text: &[u8]) -> Result<u8, Failure> {
    std::io::stdout().write_all(text).context(|| "write to standard output".into())?;
    Ok(0)
}
