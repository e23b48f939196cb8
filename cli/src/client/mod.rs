//! Commands that the daemon carries out: what they are asked for, and what they print.
//!
//! A client opens no store, logs nothing and loads nothing: it understands its command line, connects and asks.

pub(crate) mod attach;
pub(crate) mod attend;
pub(crate) mod changes;
pub(crate) mod daemon;
pub(crate) mod exec;
mod follow;
pub(crate) mod history;
pub(crate) mod inspect;
pub(crate) mod list;
pub(crate) mod logs;
pub(crate) mod rows;
pub(crate) mod run;
pub(crate) mod start;
pub(crate) mod stats;
pub(crate) mod system;

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::time::SystemTime;

use skiff_engine::protocol::{Reply, Request};
use skiff_engine::{Client, Error};

use attend::Refused;

use crate::failure::Failure;
use crate::help;
use crate::line::{Command, Rest, operand};
use crate::roots::Roots;
use crate::values::cause;

/// Understands the words of `command`; prints its help and returns nothing if that is asked for.
pub(crate) fn understand<A: Default>(
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
pub(crate) fn some<A>(command: &Command<A>, containers: &[String]) -> Result<(), Failure> {
    match containers {
        [] => Err(refused(command.usage("no container given"))),
        _ => Ok(()),
    }
}

/// Takes the only operand there may be.
pub(crate) fn only<A>(command: &Command<A>, operands: Vec<String>) -> Result<String, Failure> {
    match <[String; 1]>::try_from(operands) {
        Ok([only]) => Ok(only),
        Err(none) if none.is_empty() => Err(refused(command.usage("no container given"))),
        Err(_) => Err(refused(command.usage("more than one container given"))),
    }
}

/// A failure of a command that runs nothing: what it exits with is 1, as with docker.
pub(crate) fn refused(failure: Failure) -> Failure {
    Failure { code: 1, ..failure }
}

/// Somebody has left a terminal by typing its detach keys.
pub(crate) fn left() -> Failure {
    refused(Failure::engine("read escape sequence"))
}

pub(crate) fn failed(error: skiff_engine::Error) -> Failure {
    refused(error.into())
}

/// A connection to the daemon, which is started if there is none.
pub(crate) fn connect() -> Result<Client, Failure> {
    if crate::run::is_alone() {
        return Err(Failure::engine("there is no daemon to ask: SKIFF_DAEMON=off"));
    }
    let roots = Roots::find()?;
    Ok(Client::connect(&roots.state, &roots.run)?)
}

/// How often something is asked for of daemons that are about to leave.
const ATTEMPTS: u32 = 8;

/// Asks for something; the connection, with the first answer and its descriptors.
fn open(request: &Request) -> Result<(Client, Reply, Vec<OwnedFd>), Refused> {
    for _ in 1..ATTEMPTS {
        let opened = open_once(request)?;
        if opened.1 != Reply::Leaving {
            return Ok(opened);
        }
    }
    open_once(request)
}

fn open_once(request: &Request) -> Result<(Client, Reply, Vec<OwnedFd>), Refused> {
    let mut client = connect()?;
    client.request(request, &[])?;
    let (reply, descriptors) = client.reply()?;
    Ok((client, reply, descriptors))
}

/// Asks for one thing that has one answer.
pub(crate) fn ask(request: &Request) -> Result<Reply, Failure> {
    let once = || -> Result<Result<Reply, Error>, Failure> {
        let mut client = connect().map_err(refused)?;
        client.request(request, &[]).map_err(failed)?;
        Ok(client.reply().map(|(reply, _)| reply))
    };
    for _ in 1..ATTEMPTS {
        match once()? {
            // It was about to go when it was found. The next one is asked.
            Ok(Reply::Leaving) => {}
            // It has been killed. What changes nothing can be asked again.
            Err(Error::Host(_)) if changes_nothing(request) => {}
            other => return other.map_err(failed),
        }
    }
    once()?.map_err(failed)
}

const fn changes_nothing(request: &Request) -> bool {
    use Request::{Figures, Inspect, List, Pools, Version};
    matches!(request, List { .. } | Inspect { .. } | Figures { .. } | Pools | Version)
}

/// Has the daemon, if there is one, let go of what it holds of an image, or of all.
///
/// What it cannot be told it goes on holding: then the image's files stay until it ends.
pub(crate) fn forget_image(roots: &Roots, id: Option<&str>) {
    let tell = |mut client: Client| {
        client.request(&Request::ForgetImage { id: id.map(str::to_owned) }, &[])?;
        client.reply().map(drop)
    };
    if let Ok(Some(client)) = Client::reach(&roots.run)
        && let Err(error) = tell(client)
    {
        tracing::warn!("have the daemon forget images: {error}");
    }
}

/// Asks for something to be done to containers, and prints the names of those it was done to.
pub(crate) fn carry_out(request: &Request) -> Result<u8, Failure> {
    match ask(request)? {
        Reply::Done { names, errors } => {
            print(&lines(&names))?;
            Ok(report(&errors))
        }
        other => Err(unexpected(&other)),
    }
}

pub(crate) fn lines(names: &[String]) -> String {
    names.iter().map(|name| format!("{name}\n")).collect()
}

/// Asks for documents; prints what there is none of, and returns the exit code with the others.
pub(crate) fn documents(request: &Request) -> Result<(Vec<serde_json::Value>, Vec<String>), Failure> {
    match ask(request)? {
        Reply::Documents { documents, errors } => Ok((documents, errors)),
        other => Err(unexpected(&other)),
    }
}

/// Prints errors, each in one line; what the command exits with.
pub(crate) fn report(errors: &[String]) -> u8 {
    let text: String =
        errors.iter().map(|error| format!("skiff: {}\n", Failure::engine(error.as_str()))).collect();
    // What cannot be reported still has its exit code.
    let _unreported = io::stderr().write_all(text.as_bytes());
    u8::from(!errors.is_empty())
}

/// A template that is none, or asks for what is not there.
#[expect(clippy::needless_pass_by_value, reason = "what `map_err` passes")]
pub(crate) fn template(error: crate::format::template::Error) -> Failure {
    refused(Failure::engine(error.to_string()))
}

pub(crate) fn unexpected(reply: &Reply) -> Failure {
    let text = format!("{reply:?}");
    let kind = text.split([' ', '{', '(']).next().unwrap_or_default();
    refused(Failure::engine(format!("the daemon answers what was not asked for: {kind}")))
}

pub(crate) fn print(text: &str) -> Result<u8, Failure> {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Ok(0),
        Err(error) => Err(os("write to standard output", &error)),
    }
}

/// The time, ns since 1970.
pub(crate) fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

pub(crate) fn os(what: &str, error: &io::Error) -> Failure {
    Failure::engine(format!("{what}: {}", cause(error)))
}
