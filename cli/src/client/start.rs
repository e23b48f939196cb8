//! `skiff start`.

use std::time::Duration;

use skiff_engine::protocol::Request;

use super::attend::{Refused, Wishes, attend, terminal_size};
use super::{attach, carry_out, only, some, understand};
use crate::failure::Failure;
use crate::line::{Command, Flag, Order, Rest, Section, put};
use crate::values::keys::{self, Keys};

#[derive(Debug, Default)]
pub(crate) struct Args {
    attach: bool,
    interactive: bool,
    detach_keys: Keys,
}

pub(crate) static COMMAND: Command<Args> = Command {
    name: "start",
    operands: "[OPTIONS] CONTAINER…",
    about: "\
Starts containers that do not run, and prints their names. With -a or -i: one, which is waited for (or attached to,
if it runs already) and whose exit code is passed on.
",
    sections: &[Section {
        title: "Options",
        flags: &[
            Flag::switch(Some('a'), "attach", "its output comes here, and signals go to it", |a, on| a.attach = on),
            Flag::switch(Some('i'), "interactive", "so does input go to it", |a, on| a.interactive = on),
            Flag::value(None, "detach-keys", "KEYS", "leave its terminal by these (default ctrl-p,ctrl-q)", |a, v| {
                put(&mut a.detach_keys, keys::parse(v)?)
            }),
        ],
    }],
    order: Order::Mixed,
    aliases: &[],
    unsupported: &[("checkpoint", None), ("checkpoint-dir", None)],
};

/// How long a container may take when nobody takes its output any more.
const GRACE: Duration = Duration::from_secs(10);

pub(crate) fn run(words: Rest<'_>) -> Result<u8, Failure> {
    let Some((args, containers)) = understand(&COMMAND, words)? else { return Ok(0) };
    if !args.attach && !args.interactive {
        some(&COMMAND, &containers)?;
        return carry_out(&Request::Start { containers, attach: false, terminal: None });
    }
    let container = only(&COMMAND, containers)?;
    let wishes = Wishes {
        streams: true,
        interactive: args.interactive,
        sig_proxy: true,
        stop_timeout: Some(GRACE),
        detach_keys: args.detach_keys.0.clone(),
    };
    let request =
        Request::Start { containers: vec![container.clone()], attach: true, terminal: terminal_size() };
    match attend(&request, &wishes, &mut |_| Ok(())) {
        Err(Refused::Running) => {
            let args =
                attach::Args { input: args.interactive, sig_proxy: true, detach_keys: args.detach_keys };
            Ok(attach::to(container, &args)?.unwrap_or(0))
        }
        attended => Ok(attended?),
    }
}
