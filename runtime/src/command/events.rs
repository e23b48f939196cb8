//! `events`: what a container uses, and when it ran out of memory, as lines of JSON.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;
use skiff_runtime::cgroup::{Cgroup, OomEvents, Stats};
use skiff_runtime::container::{Container, Process};

use crate::args::{Args, Global};
use crate::failure::{Context, Failure};
use crate::print;
use crate::root::root;

const INTERVAL: Duration = Duration::from_secs(5);

/// One line.
#[derive(Serialize)]
struct Line<'a> {
    r#type: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Stats>,
}

/// `events CONTAINER`.
pub(crate) fn events(global: &Global, args: &Args) -> Result<u8, Failure> {
    let container = Container::open(&root(global), args.id())?;
    let id = args.id();
    let process =
        container.process()?.ok_or_else(|| Failure::new(format!("container with id {id} is not running")))?;
    let cgroup = Cgroup::open(&container.record().cgroups)?;
    if args.stats {
        return write(&Line { r#type: "stats", id, data: Some(cgroup.stats()) });
    }
    follow(id, &process, &cgroup, args.interval.unwrap_or(INTERVAL))
}

/// Writes figures every `interval`, and events as they come, until the container's first process ends.
fn follow(id: &str, process: &Process, cgroup: &Cgroup, interval: Duration) -> Result<u8, Failure> {
    // Without a controller for memory there is nothing to tell of it.
    let mut oom = cgroup.oom_events().ok();
    let mut next = Instant::now() + interval;
    loop {
        let happened = wait(process, oom.as_ref(), next)?;
        if let Some(oom) = oom.as_mut().filter(|_| happened.oom) {
            for _ in 0..oom.take().context(|| "read events of the memory cgroup".into())? {
                write(&Line { r#type: "oom", id, data: None })?;
            }
        }
        if happened.end {
            return Ok(0);
        }
        if Instant::now() >= next {
            write(&Line { r#type: "stats", id, data: Some(cgroup.stats()) })?;
            next += interval;
        }
    }
}

/// What was waited for.
struct Happened {
    end: bool,
    oom: bool,
}

fn wait(process: &Process, oom: Option<&OomEvents>, until: Instant) -> Result<Happened, Failure> {
    let pidfd = process.pidfd.as_fd();
    // In the place of what there is not stands something that is watched for nothing.
    let oom =
        oom.map_or(PollFd::new(pidfd, PollFlags::empty()), |oom| PollFd::new(oom.as_fd(), PollFlags::POLLIN));
    let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN), oom];
    let left = until.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
    match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
        Ok(_) | Err(nix::Error::EINTR) => {}
        Err(error) => return Err(error).context(|| "wait for events".into()),
    }
    let happened = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
    Ok(Happened { end: happened(&fds[0]), oom: happened(&fds[1]) })
}

fn write(line: &Line<'_>) -> Result<u8, Failure> {
    let mut text = serde_json::to_vec(line).map_err(|error| Failure::new(error.to_string()))?;
    text.push(b'\n');
    print(&text)
}
