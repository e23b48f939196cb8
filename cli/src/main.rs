//! `skiff`: containers from the command line.
//!
//! `main` tells the commands apart and reports a failure, once and in one line. The way of a container is in `run`.
#![forbid(unsafe_code)]

mod args;
mod bench;
mod blamed;
mod client;
mod counted;
mod failure;
mod flags;
mod format;
mod harden;
mod help;
mod images;
mod line;
mod observe;
mod output;
mod prefetch;
mod prefetching;
mod profile;
mod roots;
mod run;
mod stats;
mod target;
mod top;
mod trace;
mod values;
mod verbs;
mod words;

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use failure::Failure;
use skiff_runtime::{init, spawner};
use tracing::level_filters::LevelFilter;

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_default();
    let done = if name.as_bytes() == init::NAME.to_bytes() {
        init::run(words).map_err(|error| Failure::engine(format!("init: {}", values::cause(&error))))
    } else if name == spawner::NAME {
        spawn(words)
    } else if name == prefetch::NAME {
        prefetch::read(words)
    } else {
        command(words)
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            // In one write, so that it stays one line; a failure that cannot be reported still has its exit code.
            let _unreported = std::io::stderr().write_all(format!("skiff: {failure}\n").as_bytes());
            ExitCode::from(failure.code)
        }
    }
}

/// Carries out what `words`, the arguments of `skiff`, ask for.
fn command(mut words: impl Iterator<Item = OsString>) -> Result<u8, Failure> {
    let mut word = words.next();
    let debug = word.as_ref().is_some_and(|word| word == "--debug" || word == "-D");
    if debug {
        word = words.next();
    }
    start_log(debug);
    let Some(word) = word else {
        return Err(Failure::engine("no command given, see 'skiff --help'"));
    };
    let name = word.to_str().unwrap_or_default();
    match name {
        "help" => {
            let topic: Vec<String> = words.filter_map(|word| word.into_string().ok()).collect();
            print(&help::of(Some(&topic.join(" "))))
        }
        "--help" | "-h" => print(&help::of(None)),
        "--version" | "-v" => print(concat!("skiff ", env!("CARGO_PKG_VERSION"), "\n")),
        _ => verbs::command(name, &mut words).unwrap_or_else(|| {
            let kind = if word.as_encoded_bytes().starts_with(b"-") { "flag" } else { "command" };
            Err(Failure::engine(format!("unknown {kind}: {}, see 'skiff --help'", word.display())))
        }),
    }
}

/// The parent of an engine's containers.
fn spawn(words: impl Iterator<Item = OsString>) -> Result<u8, Failure> {
    skiff_runtime::seal::seal(c"skiff-spawner")?;
    spawner::run(words)?;
    Ok(0)
}

/// Prints `text` and nothing else.
fn print(text: &str) -> Result<u8, Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Ok(0),
        Err(error) => Err(Failure::engine(format!("write to standard output: {}", values::cause(&error)))),
    }
}

/// Logs to standard error if asked to: by `--debug`, or by `SKIFF_LOG` with the level to log at.
///
/// Otherwise nothing is set up, which every start would pay for.
fn start_log(debug: bool) {
    let level = match std::env::var("SKIFF_LOG") {
        Ok(level) => level.parse().unwrap_or(LevelFilter::DEBUG),
        Err(_) if debug => LevelFilter::DEBUG,
        Err(_) => return,
    };
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_target(false).init();
}
