//! `skiff profile CONTAINER --for TIME`: what a container that runs does within a period.
//!
//! Its programs are loaded for this alone, put onto the tasks that live, and gone when it is over. The period ends early with the
//! container, or by SIGINT, SIGTERM or SIGHUP: what there is then is told all the same.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use skiff_ebpf::Profiler;
use skiff_runtime::cgroup::{Cgroup, Layout, Usage};
use skiff_sys::clock::monotonic_ns;

use super::outputs::{Form, Outputs};
use super::part::{Part, Place, Section, Wanted};
use super::period::{self, Ended, Period};
use super::picture;
use crate::counted;
use crate::failure::Failure;
use crate::target::{self, Target};
use crate::values::cause;
use crate::words::Format;

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Wish {
    pub(crate) container: String,
    pub(crate) period: Duration,
    pub(crate) format: Format,
    pub(crate) outputs: Vec<PathBuf>,
    pub(crate) wanted: Wanted,
}

/// Follows the container; returns what is to be printed.
pub(crate) fn run(wish: &Wish) -> Result<String, Failure> {
    let target = target::find(&wish.container)?;
    // Before there are files, which would be left empty.
    let interrupt = interrupts().map_err(|error| os("catch signals", &error))?;
    let outputs = Outputs::open(&wish.outputs, &|form| wish.wanted.gives(form))?;
    let wanted = wish.wanted.for_forms(outputs.forms().into_iter());
    let mut profiler = Profiler::load().map_err(failed)?;
    let mut parts = wanted.load()?;

    let cgroups = Cgroups::of(&target.directory)?;
    let before = cgroups.usage();
    let slot = profiler.attach(&target.directory).map_err(failed)?;
    let begin_ns = monotonic_ns();
    for part in &mut parts {
        part.arm(Place { cgroup: cgroups.id })?;
        part.follow(&target.directory)?;
    }
    let ended = wait(&target, wish.period, &interrupt)?;
    let end_ns = monotonic_ns();
    let record = profiler.detach(slot).map_err(failed)?;
    let after = cgroups.usage();
    let mut sections = end(parts, &outputs.forms())?;

    let document = period::Document::new(
        &Period {
            target: &target,
            begin_ns,
            end_ns,
            ended,
            usage: difference(&before, &after),
            record: &record,
        },
        &sections,
    );
    let forms = outputs.forms();
    let picture = picture::of_period(target.shown(), [begin_ns, end_ns], document.calls(), &forms, &sections);
    let json = document.json()?;
    let text = document.render(&sections);
    sections.extend(picture);
    outputs.write(&json, &sections)?;
    Ok(match wish.format {
        Format::Json => json,
        Format::Text => text,
    })
}

/// Has each part stop and tell.
pub(crate) fn end(parts: Vec<Box<dyn Part>>, wanted: &[Form]) -> Result<Vec<Section>, Failure> {
    parts.into_iter().map(|part| part.end(wanted)).collect()
}

/// The container's cgroups.
struct Cgroups {
    id: u64,
    all: Option<Cgroup>,
}

impl Cgroups {
    fn of(directory: &Path) -> Result<Self, Failure> {
        let found = std::fs::metadata(directory);
        let id = found.map_err(|error| os(&format!("look at {}", directory.display()), &error))?.ino();
        let all = Cgroup::open(&counted::paths(directory, &Layout::of_host())).ok();
        Ok(Self { id, all })
    }

    fn usage(&self) -> Usage {
        self.all.as_ref().map(Cgroup::usage).unwrap_or_default()
    }
}

/// Waits until the period is over, the container has ended, or a signal says so.
fn wait(target: &Target, period: Duration, interrupt: &SignalFd) -> Result<Ended, Failure> {
    // It is told of when the last process ends, and when the cgroup goes.
    let mut events = match target.events() {
        Ok(events) => events,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ended::Container),
        Err(error) => return Err(os("open cgroup.events", &error)),
    };
    let until = Instant::now() + period;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Ended::Period);
        }
        if !target::is_populated(&mut events) {
            return Ok(Ended::Container);
        }
        let mut waiting = [
            PollFd::new(interrupt.as_fd(), PollFlags::POLLIN),
            PollFd::new(events.as_fd(), PollFlags::POLLPRI),
        ];
        // Rounded up, so that what is left is not waited for in circles.
        let ms = i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX);
        match poll(&mut waiting, PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(os("wait", &error.into())),
        }
        if waiting[0].any() == Some(true) {
            return Ok(Ended::Signal);
        }
    }
}

/// What says that it is enough.
fn interrupts() -> io::Result<SignalFd> {
    let mut signals = SigSet::empty();
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().for_each(|signal| signals.add(signal));
    signals.thread_block()?;
    Ok(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)?)
}

/// What came to be from `before` to `after`; the peak of memory is what it is.
fn difference(before: &Usage, after: &Usage) -> Usage {
    let since = |before: Option<u64>, after: Option<u64>| Some(after?.saturating_sub(before?));
    Usage {
        cpu_user_us: since(before.cpu_user_us, after.cpu_user_us),
        cpu_system_us: since(before.cpu_system_us, after.cpu_system_us),
        periods: since(before.periods, after.periods),
        throttled_periods: since(before.throttled_periods, after.throttled_periods),
        throttled_us: since(before.throttled_us, after.throttled_us),
        memory_peak_bytes: after.memory_peak_bytes,
        oom_kills: since(before.oom_kills, after.oom_kills),
        block_read_bytes: since(before.block_read_bytes, after.block_read_bytes),
        block_write_bytes: since(before.block_write_bytes, after.block_write_bytes),
        block_reads: since(before.block_reads, after.block_reads),
        block_writes: since(before.block_writes, after.block_writes),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "what `map_err` passes")]
pub(super) fn failed(error: skiff_ebpf::Error) -> Failure {
    Failure::engine(format!("profile: {error}"))
}

fn os(what: &str, error: &io::Error) -> Failure {
    Failure::engine(format!("profile: {what}: {}", cause(error)))
}
