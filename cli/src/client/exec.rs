//! `skiff exec`.

use std::ffi::OsString;
use std::path::PathBuf;

use skiff_engine::protocol::{ExecSpec, Reply, Request};
use skiff_runtime::supervise;

use super::attend::{Wishes, attend, terminal_size};
use super::{open, print, refused, unexpected};
use crate::failure::{ENGINE, Failure};
use crate::help;
use crate::line::{Command, Flag, Order, Rest, Section, operand, put};
use crate::values::environment;
use crate::values::keys::{self, Keys};

#[derive(Debug, Default)]
pub(crate) struct Args {
    spec: ExecSpec,
    env_file: Vec<OsString>,
    detach: bool,
    detach_keys: Keys,
}

pub(crate) static COMMAND: Command<Args> = Command {
    name: "exec",
    operands: "[OPTIONS] CONTAINER COMMAND [ARGUMENT…]",
    about: "\
Runs one more process in a container that runs, waits for it and exits with its code (1: there is no such
container, or it does not run; 126: the command cannot be invoked, 127: it was not found, 128+n: killed by signal n).
",
    sections: &[Section {
        title: "Options",
        flags: &[
            Flag::switch(Some('d'), "detach", "do not wait; its output goes nowhere", |a, on| a.detach = on),
            Flag::switch(Some('i'), "interactive", "pass standard input on; it is /dev/null otherwise", |a, on| {
                a.spec.interactive = on;
            }),
            Flag::switch(Some('t'), "tty", "run on a terminal of its own", |a, on| a.spec.tty = on),
            Flag::bytes(Some('e'), "env", "NAME[=VALUE]", "add a variable; without =VALUE, the caller's own", |a, v| {
                a.spec.env.extend(environment::variable(v)?);
                Ok(())
            }),
            Flag::bytes(None, "env-file", "FILE", "add the variables of a file, one per line", |a, v| {
                a.env_file.extend(environment::file(v)?);
                Ok(())
            }),
            Flag::value(Some('w'), "workdir", "DIR", "working directory (default the container's)", |a, v| {
                if !v.starts_with('/') {
                    return Err("not an absolute path".into());
                }
                put(&mut a.spec.cwd, Some(PathBuf::from(v)))
            }),
            Flag::value(Some('u'), "user", "USER[:GROUP]", "run as a user and group (default the container's)", |a, v| {
                put(&mut a.spec.user, Some(v.to_owned()))
            }),
            Flag::value(None, "detach-keys", "KEYS", "leave its terminal by these (default ctrl-p,ctrl-q)", |a, v| {
                put(&mut a.detach_keys, keys::parse(v)?)
            }),
            Flag::switch(None, "privileged", "with all capabilities", |a, on| a.spec.privileged = on),
        ],
    }],
    order: Order::FlagsFirst,
    aliases: &[],
    unsupported: &[],
};

pub(crate) fn run(words: Rest<'_>) -> Result<u8, Failure> {
    let mut args = Args::default();
    let Some(operands) = COMMAND.parse(&mut args, words)? else { return print(&help::command(&COMMAND)) };
    let Args { mut spec, mut env_file, detach, detach_keys } = args;
    let mut operands = operands.into_iter();
    let container = operand(operands.next().ok_or_else(|| refused(COMMAND.usage("no container given")))?)?;
    spec.argv = operands.collect();
    if spec.argv.is_empty() {
        return Err(refused(COMMAND.usage("no command given")));
    }
    env_file.append(&mut spec.env);
    spec.env = env_file;
    spec.terminal = spec.tty.then(terminal_size).flatten();
    if !detach {
        supervise::check_terminal(spec.interactive, spec.tty)?;
    }
    let wishes = Wishes {
        streams: !spec.tty,
        interactive: spec.interactive,
        sig_proxy: true,
        stop_timeout: None,
        detach_keys: detach_keys.0,
    };
    let request = Request::Exec { container, exec: Box::new(spec), attach: !detach };
    let done = || {
        if !detach {
            return Ok(attend(&request, &wishes, &mut |_| Ok(()))?);
        }
        match open(&request)?.1 {
            Reply::Started { .. } => Ok(0),
            other => Err(unexpected(&other)),
        }
    };
    // As with docker, 125 is of wrong words only.
    done().map_err(|failure| if failure.code == ENGINE { refused(failure) } else { failure })
}
