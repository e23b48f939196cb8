//! `skiff daemon`: be the daemon, or end the one that is there.

use std::io::Read;
use std::os::fd::AsFd;
use std::time::Duration;

use skiff_engine::daemon::Settings;
use skiff_engine::protocol::{Reply, Request};
use skiff_engine::{Client, metrics};

use super::{failed, os, refused, understand, unexpected};
use crate::failure::Failure;
use crate::line::{Command, Flag, Order, Rest, Section, put};
use crate::roots::Roots;
use crate::values::integer;

#[derive(Debug, Default)]
pub(crate) struct Args {
    stop: bool,
    on_demand: bool,
    pool: Option<usize>,
    idle_timeout: Option<Duration>,
    socket_group: Option<String>,
    metrics: metrics::Settings,
}

/// When a daemon that was started on demand leaves, unless `SKIFF_IDLE_TIMEOUT_S` says otherwise.
const IDLE: Duration = Duration::from_secs(60);

impl Args {
    fn settings(&self) -> Settings {
        let usual = Settings::default();
        let from_environment = || {
            std::env::var("SKIFF_IDLE_TIMEOUT_S")
                .ok()
                .and_then(|text| text.parse().ok())
                .map(Duration::from_secs)
        };
        let on_demand = || self.on_demand.then(|| from_environment().unwrap_or(IDLE));
        Settings {
            on_demand: self.on_demand,
            pool: self.pool.unwrap_or(usual.pool),
            idle_timeout: self.idle_timeout.or_else(on_demand).filter(|timeout| !timeout.is_zero()),
            socket_group: self.socket_group.clone(),
            metrics: self.metrics.clone(),
        }
    }

    /// What is not said on the command line, the environment says, whoever has started the daemon.
    fn complete(&mut self, variable: &dyn Fn(&str) -> Option<String>) -> Result<(), String> {
        let value =
            |name: &'static str| variable(name).filter(|text| !text.is_empty()).map(|text| (name, text));
        if let (None, Some((name, text))) = (&self.metrics.endpoint, value("SKIFF_METRICS")) {
            self.metrics.endpoint = Some(text.parse().map_err(|why| format!("{name}: {why}"))?);
        }
        if let (None, Some((name, text))) = (&self.metrics.collector, value("SKIFF_OTLP")) {
            self.metrics.collector = Some(text.parse().map_err(|why| format!("{name}: {why}"))?);
        }
        if let (None, Some((_, text))) = (&self.metrics.authorities, value("SKIFF_OTLP_CA")) {
            self.metrics.authorities = Some(text.into());
        }
        if let (None, Some((name, text))) = (self.metrics.interval, value("SKIFF_OTLP_INTERVAL_S")) {
            let seconds = text.parse().ok().filter(|seconds| (1..=86_400).contains(seconds));
            let seconds = seconds.ok_or_else(|| format!("{name}: {text}: expected 1 to 86400"))?;
            self.metrics.interval = Some(Duration::from_secs(seconds));
        }
        Ok(())
    }
}

pub(crate) static COMMAND: Command<Args> = Command {
    name: "daemon",
    operands: "[OPTIONS]",
    about: "\
Keeps containers: other commands ask it by its socket, skiff.sock below SKIFF_RUN_ROOT, and start it if there is none.
Containers go on when it ends, and the next one finds them again.
",
    sections: &[Section {
        title: "Options",
        flags: &[
            Flag::switch(None, "stop", "end the daemon that is there; containers go on", |a, on| a.stop = on),
            Flag::value(None, "pool", "NUMBER", "make at most so many containers ahead; 0 none", |a, v| {
                put(&mut a.pool, usize::try_from(integer(v, 0..=4096)?).ok())
            }),
            Flag::value(None, "idle-timeout", "SECONDS", "leave after so long without containers and clients; 0 never", |a, v| {
                let seconds = integer(v, 0..=i64::from(i32::MAX))?;
                put(&mut a.idle_timeout, u64::try_from(seconds).ok().map(Duration::from_secs))
            }),
            Flag::value(None, "socket-group", "GROUP", "who may use the socket beside root (default skiff, if it is there)", |a, v| {
                put(&mut a.socket_group, Some(v.to_owned()))
            }),
            Flag::value(None, "metrics", "[ADDRESS:]PORT", "serve metrics for Prometheus there, or at unix:PATH; on loopback without an address", |a, v| {
                put(&mut a.metrics.endpoint, Some(v.parse()?))
            }),
            Flag::value(None, "otlp", "URL", "send metrics to the OpenTelemetry collector at http[s]://HOST[:PORT]", |a, v| {
                put(&mut a.metrics.collector, Some(v.parse()?))
            }),
            Flag::value(None, "otlp-ca", "FILE", "certificates (PEM) of who vouches for that collector, in place of the system's", |a, v| {
                put(&mut a.metrics.authorities, Some(v.into()))
            }),
            Flag::value(None, "otlp-interval", "SECONDS", "how often (default 15)", |a, v| {
                let seconds = integer(v, 1..=86_400)?;
                put(&mut a.metrics.interval, u64::try_from(seconds).ok().map(Duration::from_secs))
            }),
            Flag::switch(None, "on-demand", "as a client starts it: leave when idle", |a, on| a.on_demand = on),
        ],
    }],
    order: Order::Mixed,
    aliases: &[],
    unsupported: &[],
};

pub(crate) fn run(words: Rest<'_>) -> Result<u8, Failure> {
    let Some((mut args, operands)) = understand(&COMMAND, words)? else { return Ok(0) };
    if let Some(operand) = operands.first() {
        return Err(COMMAND.usage(&format!("unexpected argument: {operand}")));
    }
    let roots = Roots::find()?;
    if args.stop {
        return stop(&roots);
    }
    if let Err(why) = args.complete(&|name| std::env::var(name).ok()) {
        if args.on_demand {
            // Whoever has started it reads its standard output alone.
            super::print(&why)?;
        }
        return Err(failed(skiff_engine::Error::Invalid(why)));
    }
    if let Some(endpoint) = args.metrics.endpoint.as_ref().filter(|endpoint| endpoint.is_open()) {
        eprintln!(
            "skiff: metrics at {endpoint}: whoever can reach that address can read them, without a password"
        );
    }
    let settings = args.settings();
    skiff_engine::daemon::run(&roots.state, &roots.run, &settings).map_err(failed)?;
    Ok(0)
}

/// Asks the daemon to leave, and waits until it has.
fn stop(roots: &Roots) -> Result<u8, Failure> {
    let reached = Client::reach(&roots.run).map_err(|error| refused(os("connect to the daemon", &error)))?;
    let mut client = reached.ok_or_else(|| refused(Failure::engine("no daemon is there")))?;
    client.request(&Request::Leave, &[]).map_err(failed)?;
    match client.reply().map_err(failed)?.0 {
        Reply::Done { .. } => {}
        other => return Err(unexpected(&other)),
    }
    let socket = client.as_fd().try_clone_to_owned().map_err(|error| os("wait for the daemon", &error))?;
    // It closes the connection as its last.
    let _gone = std::fs::File::from(socket).read(&mut [0]);
    Ok(0)
}
