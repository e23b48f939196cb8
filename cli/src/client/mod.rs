//! Commands that the daemon carries out: what they are asked for, and what they print.
//!
//! A client opens no store, logs nothing and loads nothing: it understands its command line, connects and asks.

mod attach;
mod attend;
mod changes;
mod daemon;
mod exec;
mod inspect;
mod list;
mod logs;
mod rows;
mod run;
mod start;
mod stats;
mod system;

use std::io::{self, Write};
use std::time::SystemTime;

use skiff_engine::protocol::{Reply, Request};
use skiff_engine::{Client, Error};

use crate::failure::Failure;
use crate::help;
use crate::line::{Command, Rest, operand};
use crate::roots::Roots;
use crate::values::cause;

/// A command of the client's.
struct Verb {
    /// As it is typed; two words have one space between them.
    name: &'static str,
    /// One line, for the overview.
    summary: &'static str,
    run: fn(Rest<'_>) -> Result<u8, Failure>,
    help: fn() -> String,
}

/// A row of [`VERBS`].
macro_rules! verb {
    ($name:literal, $summary:literal, $module:ident::$run:ident, $command:expr) => {
        Verb { name: $name, summary: $summary, run: $module::$run, help: || help::command(&$command) }
    };
}

/// All of them, in the order of the overview.
#[rustfmt::skip] // a table
static VERBS: &[Verb] = &[
    verb!("run", "start a container, wait for it and pass its exit code on", run::run, crate::flags::RUN),
    verb!("create", "make a container", run::create, crate::flags::CREATE),
    verb!("start", "start containers", start::run, start::COMMAND),
    verb!("stop", "ask containers to stop, and kill those that do not", changes::stop, changes::STOP),
    verb!("restart", "stop containers and start them", changes::restart, changes::RESTART),
    verb!("kill", "send a signal to containers", changes::kill, changes::KILL),
    verb!("pause", "freeze containers", changes::pause, changes::PAUSE),
    verb!("unpause", "let frozen containers go on", changes::unpause, changes::UNPAUSE),
    verb!("rm", "remove containers", changes::remove, changes::REMOVE),
    verb!("rename", "give a container another name", changes::rename, changes::RENAME),
    verb!("wait", "wait for containers and print their exit codes", changes::wait, changes::WAIT),
    verb!("ps", "list containers", list::run, list::COMMAND),
    verb!("inspect", "tell everything about containers", inspect::run, inspect::COMMAND),
    verb!("stats", "show what containers use", stats::run, stats::COMMAND),
    verb!("logs", "show what a container has written", logs::run, logs::COMMAND),
    verb!("attach", "see what a container writes, and write to it", attach::run, attach::COMMAND),
    verb!("exec", "run one more process in a container", exec::run, exec::COMMAND),
    verb!("system pools", "show what is made ahead, and its memory", system::pools, system::POOLS),
    verb!("version", "show the versions of client and daemon", system::version, system::VERSION),
    verb!("daemon", "be the daemon, or end it", daemon::run, daemon::COMMAND),
];

/// Other names of commands.
const ALIASES: [(&str, &str); 3] = [("ls", "ps"), ("list", "ps"), ("remove", "rm")];

/// Carries out the command `name`, if it is one of these. As with docker, `container` may stand before most of them.
pub(crate) fn command(name: &str, words: Rest<'_>) -> Option<Result<u8, Failure>> {
    if let "container" | "system" = name {
        let Some(second) = words.next() else {
            return Some(Err(Failure::engine(format!(
                "no command given after '{name}', see 'skiff --help'"
            ))));
        };
        let second = second.to_string_lossy();
        let whole = if name == "system" { format!("system {second}") } else { second.clone().into_owned() };
        let unknown = || Failure::engine(format!("unknown command: {name} {second}, see 'skiff --help'"));
        return Some(find(&whole).map_or_else(|| Err(unknown()), |verb| (verb.run)(words)));
    }
    find(name).map(|verb| (verb.run)(words))
}

/// The help of the command `name`.
pub(crate) fn help(name: &str) -> Option<String> {
    find(name).map(|verb| (verb.help)())
}

/// What there is, one line each.
pub(crate) fn overview() -> String {
    VERBS.iter().map(|verb| format!("  {:<13}{}\n", verb.name, verb.summary)).collect()
}

fn find(name: &str) -> Option<&'static Verb> {
    let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, name)| name);
    VERBS.iter().find(|verb| verb.name == name)
}

/// Understands the words of `command`; prints its help and returns nothing if that is asked for.
fn understand<A: Default>(
    command: &'static Command<A>,
    words: Rest<'_>,
) -> Result<Option<(A, Vec<String>)>, Failure> {
    let mut args = A::default();
    let Some(operands) = command.parse(&mut args, words)? else {
        print(&help::command(command))?;
        return Ok(None);
    };
    let operands = operands.into_iter().map(operand).collect::<Result<_, _>>()?;
    Ok(Some((args, operands)))
}

/// Refuses to go on without a container.
fn some<A>(command: &Command<A>, containers: &[String]) -> Result<(), Failure> {
    match containers {
        [] => Err(refused(command.usage("no container given"))),
        _ => Ok(()),
    }
}

/// Takes the only operand there may be.
fn only<A>(command: &Command<A>, operands: Vec<String>) -> Result<String, Failure> {
    match <[String; 1]>::try_from(operands) {
        Ok([only]) => Ok(only),
        Err(none) if none.is_empty() => Err(refused(command.usage("no container given"))),
        Err(_) => Err(refused(command.usage("more than one container given"))),
    }
}

/// A failure of a command that runs nothing: what it exits with is 1, as with docker.
fn refused(failure: Failure) -> Failure {
    Failure { code: 1, ..failure }
}

fn failed(error: skiff_engine::Error) -> Failure {
    refused(error.into())
}

/// A connection to the daemon, which is started if there is none.
fn connect() -> Result<Client, Failure> {
    if crate::run::is_alone() {
        return Err(Failure::engine("there is no daemon to ask: SKIFF_DAEMON=off"));
    }
    let roots = Roots::find()?;
    Ok(Client::connect(&roots.state, &roots.run)?)
}

/// Asks for one thing that has one answer.
fn ask(request: &Request) -> Result<Reply, Failure> {
    let once = || -> Result<Result<Reply, Error>, Failure> {
        let mut client = connect().map_err(refused)?;
        client.request(request, &[]).map_err(failed)?;
        Ok(client.reply().map(|(reply, _)| reply))
    };
    match once()? {
        // It was about to go when it was found. What changes nothing can be asked again, of the next.
        Err(Error::Host(_)) if changes_nothing(request) => once()?.map_err(failed),
        other => other.map_err(failed),
    }
}

const fn changes_nothing(request: &Request) -> bool {
    use Request::{Inspect, List, Pools, Stats, Version};
    matches!(request, List { .. } | Inspect { .. } | Stats { .. } | Pools | Version)
}

/// Asks for something to be done to containers, and prints the names of those it was done to.
fn carry_out(request: &Request) -> Result<u8, Failure> {
    match ask(request)? {
        Reply::Done { names, errors } => {
            print(&lines(&names))?;
            Ok(report(&errors))
        }
        other => Err(unexpected(&other)),
    }
}

fn lines(names: &[String]) -> String {
    names.iter().map(|name| format!("{name}\n")).collect()
}

/// Asks for documents; prints what there is none of, and returns the exit code with the others.
fn documents(request: &Request) -> Result<(Vec<serde_json::Value>, Vec<String>), Failure> {
    match ask(request)? {
        Reply::Documents { documents, errors } => Ok((documents, errors)),
        other => Err(unexpected(&other)),
    }
}

/// Prints errors, each in one line; what the command exits with.
fn report(errors: &[String]) -> u8 {
    let text: String =
        errors.iter().map(|error| format!("skiff: {}\n", Failure::engine(error.as_str()))).collect();
    // What cannot be reported still has its exit code.
    let _unreported = io::stderr().write_all(text.as_bytes());
    u8::from(!errors.is_empty())
}

/// A template that is none, or asks for what is not there.
#[expect(clippy::needless_pass_by_value, reason = "what `map_err` passes")]
fn template(error: crate::format::template::Error) -> Failure {
    refused(Failure::engine(error.to_string()))
}

fn unexpected(reply: &Reply) -> Failure {
    let text = format!("{reply:?}");
    let kind = text.split([' ', '{', '(']).next().unwrap_or_default();
    refused(Failure::engine(format!("the daemon answers what was not asked for: {kind}")))
}

fn print(text: &str) -> Result<u8, Failure> {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Ok(0),
        Err(error) => Err(os("write to standard output", &error)),
    }
}

/// The time, ns since 1970.
fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn os(what: &str, error: &io::Error) -> Failure {
    Failure::engine(format!("{what}: {}", cause(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_its_own_name_in_its_help() {
        for verb in VERBS {
            let help = (verb.help)();
            assert!(help.starts_with(&format!("Usage: skiff {} ", verb.name)), "{}: {help}", verb.name);
            assert!(help.lines().all(|line| line.chars().count() <= 120), "{help}");
            assert!(VERBS.iter().filter(|other| other.name == verb.name).count() == 1, "{}", verb.name);
        }
        assert!(ALIASES.iter().all(|(alias, name)| find(name).is_some_and(|verb| verb.name != *alias)));
    }

    #[test]
    fn every_command_is_in_the_guide() {
        let guide = include_str!("../../../docs/engine.md");
        for verb in VERBS {
            assert!(guide.contains(&format!("`skiff {}", verb.name)), "{}", verb.name);
        }
    }
}
