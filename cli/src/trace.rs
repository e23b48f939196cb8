//! `skiff trace`: the system calls of a container that runs, one line each.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use serde_json::json;
use skiff_ebpf::Drops;
use skiff_ebpf::trace::{Filter, Tracer};
use skiff_observe::trace;
use skiff_runtime::OneLine;
use skiff_sys::clock;

use crate::client::{only, os, understand};
use crate::failure::Failure;
use crate::line::{Command, Flag, Order, Rest, Section, add, put};
use crate::target::{self, Target};
use crate::values::time;
use crate::words::Format;

/// Between two looks into the ring buffer: what wakes nobody costs the container nothing.
const INTERVAL: Duration = Duration::from_millis(20);
/// Calls taken from it before anything else is looked at.
const TURN: usize = 4096;
/// Calls told of in a second, unless something else is said.
const PER_SECOND: u64 = 100_000;

#[derive(Debug)]
pub(crate) struct Args {
    calls: Vec<String>,
    failed: bool,
    limit: Option<u64>,
    rate: u64,
    span: Option<Duration>,
    format: Format,
    output: Option<PathBuf>,
}

impl Default for Args {
    fn default() -> Self {
        Self {
            calls: Vec::new(),
            failed: false,
            limit: None,
            rate: PER_SECOND,
            span: None,
            format: Format::Text,
            output: None,
        }
    }
}

pub(crate) static COMMAND: Command<Args> = Command {
    name: "trace",
    operands: "[OPTIONS] CONTAINER",
    about: "\
Shows each system call of a container that runs, whoever has started it by skiff or skiff-runtime: when it was made, by
which thread of the host, what it was given, what it returned and how long it took. Ends when the container does, after
--for or --limit, or when interrupted; then says how many calls were shown, and how many were not: the container never
waits for whoever watches it. docs/trace.md describes what is printed.
",
    sections: &[Section {
        title: "Options",
        flags: &[
            Flag::value(
                Some('e'),
                "calls",
                "CALL[,CALL…]",
                "only these, or those of %file, %network, %process",
                |a, v| v.split(',').try_for_each(|call| add(&mut a.calls, known(call)?)),
            ),
            Flag::switch(None, "failed", "only calls that fail", |a, on| a.failed = on),
            Flag::value(None, "limit", "NUMBER", "end after so many calls", |a, v| {
                put(&mut a.limit, Some(number(v)?))
            }),
            Flag::value(None, "rate", "NUMBER", "so many calls a second at most (default 100000)", |a, v| {
                put(&mut a.rate, number(v)?)
            }),
            Flag::value(None, "for", "TIME", "end after a time such as 10s", |a, v| {
                put(&mut a.span, Some(time::duration(v)?))
            }),
            Flag::value(None, "format", "text|json", "lines for people, or an object on each line", |a, v| {
                put(
                    &mut a.format,
                    match v {
                        "text" => Format::Text,
                        "json" => Format::Json,
                        _ => return Err("neither text nor json".into()),
                    },
                )
            }),
            Flag::bytes(Some('o'), "output", "FILE", "write to a file instead of standard output", |a, v| {
                put(&mut a.output, Some(PathBuf::from(v)))
            }),
        ],
    }],
    order: Order::Mixed,
    aliases: &[],
    unsupported: &[],
};

fn number(text: &str) -> Result<u64, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "not a number above 0".into())
}

/// The name of a call or a class, if it is one.
fn known(name: &str) -> Result<String, String> {
    if Filter::none(1).add(name) {
        return Ok(name.to_owned());
    }
    Err(if name.starts_with('%') {
        format!("no class {name}: %file, %network or %process")
    } else {
        format!("no system call {name:?}")
    })
}

pub(crate) fn run(words: Rest<'_>) -> Result<u8, Failure> {
    let Some((args, operands)) = understand(&COMMAND, words)? else { return Ok(0) };
    let target = target::find(&only(&COMMAND, operands)?)?;
    let mut tracer = Tracer::load(&filter(&args)).map_err(failed)?;
    let mut watch = Watch::new(&target)?;
    let mut out = open(&args)?;
    tracer.watch(target.open()?.as_fd()).map_err(failed)?;
    let start = Instant::now();
    let _unreported = writeln!(io::stderr(), "skiff: tracing {}", OneLine(target.shown()));
    let shown = follow(&args, &mut tracer, &mut watch, &mut *out, start)?;
    let drops = tracer.drops().map_err(failed)?;
    let seconds = start.elapsed().as_secs_f64();
    if args.format == Format::Json {
        let end = json!({
            "shown": shown,
            "seconds": seconds,
            "dropped": {"too_many": drops.too_many, "no_room": drops.no_room, "no_memory": drops.no_memory},
        });
        written(writeln!(out, "{end}"))?;
    }
    written(out.flush())?;
    // What cannot be said is no reason to fail.
    let _unreported = io::stderr().write_all(summary(shown, seconds, &drops).as_bytes());
    Ok(0)
}

fn filter(args: &Args) -> Filter {
    let mut filter = if args.calls.is_empty() { Filter::all(args.rate) } else { Filter::none(args.rate) };
    filter.failed_only = args.failed;
    for name in &args.calls {
        // Known since it was parsed.
        let _added = filter.add(name);
    }
    filter
}

fn open(args: &Args) -> Result<Box<dyn Write>, Failure> {
    let Some(path) = &args.output else { return Ok(Box::new(BufWriter::new(io::stdout()))) };
    let file = File::create(path).map_err(|error| os(&format!("make {}", path.display()), &error))?;
    Ok(Box::new(BufWriter::new(file)))
}

/// Writes calls until there is a reason to stop; how many.
fn follow(
    args: &Args,
    tracer: &mut Tracer,
    watch: &mut Watch,
    out: &mut dyn Write,
    start: Instant,
) -> Result<u64, Failure> {
    let (mut shown, mut has_ended, mut timeout) = (0, false, INTERVAL);
    loop {
        // Asked first: what was told before the end is still read, all of it if the container has ended.
        let is_asked = match watch.wait(timeout)? {
            Some(End::Asked) => true,
            end => {
                has_ended |= end.is_some();
                false
            }
        };
        let mut taken = 0;
        while taken < TURN && args.limit.is_none_or(|limit| shown < limit) {
            let epoch_ns = clock::realtime_ns().wrapping_sub(clock::monotonic_ns());
            let Some(line) = tracer.next(|event| match args.format {
                Format::Text => trace::line(event, epoch_ns),
                Format::Json => trace::plain_json(format!("{}\n", trace::object(event, epoch_ns))),
            }) else {
                break;
            };
            if !written(out.write_all(line.as_bytes()))? {
                return Ok(shown);
            }
            shown += 1;
            taken += 1;
        }
        if !written(out.flush())? {
            return Ok(shown);
        }
        // One that is busier than this can print is not followed for ever.
        let is_over = is_asked || args.span.is_some_and(|span| start.elapsed() >= span);
        if is_over || (has_ended && taken < TURN) || args.limit.is_some_and(|limit| shown >= limit) {
            return Ok(shown);
        }
        timeout = if taken < TURN { INTERVAL } else { Duration::ZERO };
    }
}

/// Whether somebody still reads what is written.
fn written(result: io::Result<()>) -> Result<bool, Failure> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(os("write the trace", &error)),
    }
}

fn summary(shown: u64, seconds: f64, drops: &Drops) -> String {
    let dropped = [
        (drops.too_many, "more than --rate admits"),
        (drops.no_room, "while the buffer was full"),
        (drops.no_memory, "for want of kernel memory"),
    ];
    let reasons: Vec<String> = dropped
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, why)| format!("{count} dropped, {why}"))
        .collect();
    let reasons = if reasons.is_empty() { "none dropped".to_owned() } else { reasons.join("; ") };
    match shown {
        0 => format!("skiff: no system call in {seconds:.1} s; {reasons}\n"),
        1 => format!("skiff: 1 system call in {seconds:.1} s; {reasons}\n"),
        _ => format!("skiff: {shown} system calls in {seconds:.1} s; {reasons}\n"),
    }
}

/// Why there is nothing more to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Somebody wishes it.
    Asked,
    Container,
}

/// The end of the container, and the wish to end.
#[derive(Debug)]
struct Watch {
    signals: SignalFd,
    /// `cgroup.events`, which says that it has changed.
    events: File,
}

impl Watch {
    fn new(target: &Target) -> Result<Self, Failure> {
        let mut set = SigSet::empty();
        [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().for_each(|signal| set.add(signal));
        let failed = |error: nix::Error| os("wait for signals", &error.into());
        set.thread_block().map_err(failed)?;
        let signals =
            SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(failed)?;
        let events = target.events().map_err(|error| os("open cgroup.events", &error))?;
        Ok(Self { signals, events })
    }

    /// Waits no longer than `timeout`; whether it is over.
    fn wait(&mut self, timeout: Duration) -> Result<Option<End>, Failure> {
        let mut fds = [
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.events.as_fd(), PollFlags::POLLPRI),
        ];
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::ZERO);
        match poll(&mut fds, timeout) {
            Ok(0) | Err(nix::Error::EINTR) => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(os("wait for the container", &error.into())),
        }
        let [asked, changed] = fds.map(|fd| fd.any().unwrap_or(false));
        Ok(match (asked, changed) {
            (true, _) => Some(End::Asked),
            (false, true) if !target::is_populated(&mut self.events) => Some(End::Container),
            _ => None,
        })
    }
}

#[expect(clippy::needless_pass_by_value, reason = "what `map_err` passes")]
fn failed(error: skiff_ebpf::Error) -> Failure {
    Failure::engine(format!("trace: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_says_what_was_not_shown() {
        let none = Drops::default();
        assert_eq!(summary(0, 1.25, &none), "skiff: no system call in 1.2 s; none dropped\n");
        let some = Drops { too_many: 3, no_room: 2, no_memory: 0 };
        assert_eq!(
            summary(7, 2.0, &some),
            "skiff: 7 system calls in 2.0 s; 3 dropped, more than --rate admits; 2 dropped, while the buffer was full\n"
        );
    }

    #[test]
    fn calls_are_known_by_name() {
        assert!(known("openat").is_ok() && known("%file").is_ok());
        assert_eq!(known("opn"), Err("no system call \"opn\"".into()));
        assert_eq!(known("%disk"), Err("no class %disk: %file, %network or %process".into()));
    }
}
