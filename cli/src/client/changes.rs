//! Commands that change what containers do, and `wait`, which tells when that has changed by itself.

use std::time::Duration;

use skiff_engine::protocol::{Reply, Request};

use super::{carry_out, lines, print, refused, report, some, understand, unexpected};
use crate::failure::Failure;
use crate::line::{Command, Flag, Order, Rest, Section, put};
use crate::values::{integer, signals};

/// How the daemon begins when it knows no such container.
const NOT_THERE: &str = "no such container";

/// What these commands are asked for; none has all of it.
#[derive(Debug, Default)]
pub(crate) struct Args {
    /// As it is typed: docker's daemon is who refuses it, and so the exit code is 1.
    signal: Option<String>,
    timeout: Option<Duration>,
    force: bool,
}

impl Args {
    fn signal(&self) -> Result<Option<i32>, Failure> {
        let Some(text) = &self.signal else { return Ok(None) };
        let wrong =
            |reason| refused(Failure::engine(format!("invalid value '{text}' for --signal: {reason}")));
        signals::signal(text).map(Some).map_err(wrong)
    }
}

const SIGNAL: Flag<Args> = Flag::value(Some('s'), "signal", "SIGNAL", "send this instead", |a, v| {
    put(&mut a.signal, Some(v.to_owned()))
});

const TIMEOUT: Flag<Args> =
    Flag::value(Some('t'), "timeout", "SECONDS", "kill after so long; -1 never", |a, v| {
        let seconds = integer(v, -1..=i64::from(i32::MAX))?;
        put(&mut a.timeout, Some(u64::try_from(seconds).map_or(Duration::MAX, Duration::from_secs)))
    });

/// A command without particular names of flags.
const fn command(
    name: &'static str,
    about: &'static str,
    sections: &'static [Section<Args>],
) -> Command<Args> {
    let operands = if sections.is_empty() { "CONTAINER…" } else { "[OPTIONS] CONTAINER…" };
    Command {
        name,
        operands,
        about,
        sections,
        order: Order::Mixed,
        aliases: &[("time", "timeout")],
        unsupported: &[],
    }
}

pub(crate) static STOP: Command<Args> = command(
    "stop",
    "\
Sends their stop signal to containers, and SIGKILL to those that still run after their stop timeout; prints the names.
",
    &[Section { title: "Options", flags: &[SIGNAL, TIMEOUT] }],
);

pub(crate) static RESTART: Command<Args> = command(
    "restart",
    "\
Stops containers as 'skiff stop' does, starts them, and prints their names.
",
    &[Section { title: "Options", flags: &[TIMEOUT] }],
);

pub(crate) static KILL: Command<Args> = command(
    "kill",
    "\
Sends SIGKILL, or another signal, to the first process of containers, and prints their names.
",
    &[Section { title: "Options", flags: &[SIGNAL] }],
);

pub(crate) static PAUSE: Command<Args> = command("pause", "Freezes all processes of containers.\n", &[]);

pub(crate) static UNPAUSE: Command<Args> =
    command("unpause", "Lets the processes of frozen containers go on.\n", &[]);

pub(crate) static REMOVE: Command<Args> = command(
    "rm",
    "\
Removes containers with all that they have written, and prints their names. One that runs is left alone without -f.
",
    &[Section {
        title: "Options",
        flags: &[
            Flag::switch(Some('f'), "force", "kill containers that run; those that are not there are no error", |a, on| {
                a.force = on;
            }),
            Flag::switch(Some('v'), "volumes", "anonymous volumes too; always done, with or without this flag", |_, _| {}),
        ],
    }],
);

pub(crate) static RENAME: Command<Args> = Command {
    operands: "CONTAINER NAME",
    ..command("rename", "Gives a container another name, which no other may have.\n", &[])
};

pub(crate) static WAIT: Command<Args> = command(
    "wait",
    "\
Waits until containers have ended, and prints their exit codes, one line each.
",
    &[],
);

pub(crate) fn stop(words: Rest<'_>) -> Result<u8, Failure> {
    change(&STOP, words, |args, containers| {
        Ok(Request::Stop { containers, signal: args.signal()?, timeout: args.timeout })
    })
}

pub(crate) fn restart(words: Rest<'_>) -> Result<u8, Failure> {
    change(&RESTART, words, |args, containers| Ok(Request::Restart { containers, timeout: args.timeout }))
}

pub(crate) fn kill(words: Rest<'_>) -> Result<u8, Failure> {
    change(&KILL, words, |args, containers| {
        Ok(Request::Kill { containers, signal: args.signal()?.unwrap_or(libc::SIGKILL) })
    })
}

pub(crate) fn pause(words: Rest<'_>) -> Result<u8, Failure> {
    change(&PAUSE, words, |_, containers| Ok(Request::Pause { containers, frozen: true }))
}

pub(crate) fn unpause(words: Rest<'_>) -> Result<u8, Failure> {
    change(&UNPAUSE, words, |_, containers| Ok(Request::Pause { containers, frozen: false }))
}

pub(crate) fn remove(words: Rest<'_>) -> Result<u8, Failure> {
    let Some((args, containers)) = understand(&REMOVE, words)? else { return Ok(0) };
    some(&REMOVE, &containers)?;
    let (names, errors) = match super::ask(&Request::Remove { containers, force: args.force })? {
        Reply::Done { names, errors } => (names, errors),
        other => return Err(unexpected(&other)),
    };
    print(&lines(&names))?;
    let code = report(&errors);
    // What is to be gone and is not there is said, and is no failure.
    Ok(if args.force && errors.iter().all(|error| error.starts_with(NOT_THERE)) { 0 } else { code })
}

fn change(
    command: &'static Command<Args>,
    words: Rest<'_>,
    request: fn(&Args, Vec<String>) -> Result<Request, Failure>,
) -> Result<u8, Failure> {
    let Some((args, containers)) = understand(command, words)? else { return Ok(0) };
    some(command, &containers)?;
    carry_out(&request(&args, containers)?)
}

pub(crate) fn rename(words: Rest<'_>) -> Result<u8, Failure> {
    let Some((_, operands)) = understand(&RENAME, words)? else { return Ok(0) };
    let [container, name] = <[String; 2]>::try_from(operands)
        .map_err(|_| refused(RENAME.usage("a container and its new name are needed")))?;
    let name = crate::values::names::container(name.strip_prefix('/').unwrap_or(&name))
        .map_err(|reason| refused(Failure::engine(format!("invalid name '{name}': {reason}"))))?;
    match super::ask(&Request::Rename { container, name })? {
        Reply::Done { errors, .. } => Ok(report(&errors)),
        other => Err(unexpected(&other)),
    }
}

pub(crate) fn wait(words: Rest<'_>) -> Result<u8, Failure> {
    let Some((_, containers)) = understand(&WAIT, words)? else { return Ok(0) };
    some(&WAIT, &containers)?;
    let mut code = 0;
    for container in containers {
        // One by one, as docker does: one that is not there does not keep the others from being waited for.
        match super::follow::wait(&container) {
            Ok(code) => print(&format!("{code}\n"))?,
            Err(failure) => {
                code = report(&[failure.message]);
                0
            }
        };
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(command: &'static Command<Args>, line: &str) -> Args {
        let mut args = Args::default();
        let mut words = line.split_whitespace().map(Into::into);
        command.parse(&mut args, &mut words).expect("understood").expect("no help");
        args
    }

    #[test]
    fn timeouts_and_signals_are_docker_s() {
        let seconds = |line: &str| args(&STOP, line).timeout;
        assert_eq!(seconds("web"), None);
        assert_eq!(seconds("-t 3 web"), Some(Duration::from_secs(3)));
        assert_eq!(seconds("web --time=0"), Some(Duration::ZERO));
        assert_eq!(seconds("-t -1 web"), Some(Duration::MAX));
        assert_eq!(args(&KILL, "-s HUP web").signal(), Ok(Some(libc::SIGHUP)));
        assert_eq!(args(&KILL, "--signal=9 web").signal(), Ok(Some(libc::SIGKILL)));
        assert_eq!(args(&KILL, "-s NOPE web").signal().expect_err("no signal").code, 1);
        assert!(args(&REMOVE, "-fv web").force);
    }
}
