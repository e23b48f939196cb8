//! `skiff`: containers from the command line.
//!
//! `main` tells the commands apart and reports a failure, once and in one line. The way of a container is in `run`.
#![forbid(unsafe_code)]

mod args;
mod failure;
mod flags;
mod help;
mod image;
mod roots;
mod run;
mod supervise;
mod values;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use args::Parsed;
use failure::Failure;

fn main() -> ExitCode {
    match command(std::env::args_os().skip(1)) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            // A failure that cannot be reported still has its exit code.
            let _unreported = writeln!(std::io::stderr(), "skiff: {failure}");
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
    match word.to_str() {
        Some("run") => run(words),
        Some("help") if words.next().is_some_and(|topic| topic == "run") => print(&help::run()),
        Some("help" | "--help" | "-h") => print(help::OVERVIEW),
        Some("version" | "--version" | "-v") => print(concat!("skiff ", env!("CARGO_PKG_VERSION"), "\n")),
        _ => {
            let kind = if word.as_encoded_bytes().starts_with(b"-") { "flag" } else { "command" };
            Err(Failure::engine(format!("unknown {kind}: {}, see 'skiff --help'", word.display())))
        }
    }
}

fn run(words: impl Iterator<Item = OsString>) -> Result<u8, Failure> {
    match args::parse(words)? {
        Parsed::Help => print(&help::run()),
        Parsed::Run(args) => run::run(&args),
    }
}

fn print(text: &str) -> Result<u8, Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Ok(0),
        Err(error) => Err(Failure::engine(format!("write to standard output: {}", values::cause(&error)))),
    }
}

/// Logs to standard error if asked to: by `--debug`, or by `SKIFF_LOG` with the level to log at.
fn start_log(debug: bool) {
    let level = match std::env::var("SKIFF_LOG") {
        Ok(level) => level.parse().unwrap_or(tracing::Level::DEBUG),
        Err(_) if debug => tracing::Level::DEBUG,
        Err(_) => return,
    };
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_target(false).init();
}
