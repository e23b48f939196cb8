//! One measurement each: the commands of a runtime, from fork to exit on CLOCK_MONOTONIC, in ms.

use std::thread;
use std::time::Instant;

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use skiff_benches::watchdog;

use crate::arms::{Arm, Ground, Racer, fresh_id, text};

/// `run` of a program that does nothing, the container's removal included.
pub(crate) fn run(arm: &Arm, ground: &Ground) -> Result<[f64; 1], String> {
    let id = fresh_id();
    let bundle = text(&ground.brief);
    let took = timed(|| arm.run(ground, &["run", "--bundle", &bundle, &id]));
    took.map(|ms| [ms]).inspect_err(|_| arm.clean_up(&id))
}

/// `create`, `start`, the end of the program, `delete`: the whole, then each of the three commands.
pub(crate) fn life(arm: &Arm, ground: &Ground) -> Result<[f64; 4], String> {
    let id = fresh_id();
    let begun = Instant::now();
    let parts = life_of(arm, ground, &id).inspect_err(|_| arm.clean_up(&id))?;
    let whole = begun.elapsed().as_secs_f64() * 1e3;
    Ok([whole, parts[0], parts[1], parts[2]])
}

fn life_of(arm: &Arm, ground: &Ground, id: &str) -> Result<[f64; 3], String> {
    let (bundle, pid_file) = (text(&ground.brief), text(&ground.pid_file));
    let create = timed(|| arm.run(ground, &["create", "--bundle", &bundle, "--pid-file", &pid_file, id]))?;
    let pid = ground.pid().map_err(|error| format!("{}: {error:#}", arm.name))?;
    let start = timed(|| arm.run(ground, &["start", id]))?;
    await_end(pid).map_err(|error| format!("{}: wait for the container: {error}", arm.name))?;
    let delete = timed(|| arm.run(ground, &["delete", id]))?;
    Ok([create, start, delete])
}

/// `exec` of a program that does nothing into the container `id`.
pub(crate) fn exec(arm: &Arm, ground: &Ground, id: &str) -> Result<[f64; 1], String> {
    Ok([timed(|| arm.run(ground, &["exec", id, "/bin/true"]))?])
}

/// `run` so many times at once: the time of all, then of each.
pub(crate) fn storm(racer: &Racer, ground: &Ground, at_once: usize) -> Result<(f64, Vec<f64>), String> {
    let name = racer.name();
    let one = || {
        let id = fresh_id();
        let took = timed(|| match watchdog::run(&mut racer.command(ground, &id)) {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("{name}: {at_once} at once: {status}")),
            Err(error) => Err(format!("{name}: {at_once} at once: {error}")),
        });
        took.inspect_err(|_| racer.clean_up(&id))
    };
    let begun = Instant::now();
    let each: Vec<Result<f64, String>> = thread::scope(|scope| {
        let all: Vec<_> = (0..at_once).map(|_| scope.spawn(one)).collect();
        let broken = || Err(format!("{name}: a thread of the bench failed"));
        all.into_iter().map(|thread| thread.join().unwrap_or_else(|_| broken())).collect()
    });
    let whole = begun.elapsed().as_secs_f64() * 1e3;
    Ok((whole, each.into_iter().collect::<Result<_, _>>()?))
}

/// A container that waits to be joined, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Host<'a> {
    arm: &'a Arm,
    pub(crate) id: String,
    pid: i32,
}

impl<'a> Host<'a> {
    pub(crate) fn start(arm: &'a Arm, ground: &Ground) -> Result<Self, String> {
        let created = Self::create(arm, ground)?;
        arm.run(ground, &["start", &created.id])?;
        Ok(created)
    }

    /// The container as `create` leaves it.
    pub(crate) fn create(arm: &'a Arm, ground: &Ground) -> Result<Self, String> {
        let id = fresh_id();
        let (bundle, pid_file) = (text(&ground.lasting), text(&ground.pid_file));
        let created = arm.run(ground, &["create", "--bundle", &bundle, "--pid-file", &pid_file, &id]);
        let pid = created.and_then(|()| ground.pid().map_err(|error| format!("{}: {error:#}", arm.name)));
        let pid = pid.inspect_err(|_| arm.clean_up(&id))?;
        Ok(Self { arm, id, pid })
    }

    pub(crate) const fn pid(&self) -> i32 {
        self.pid
    }
}

impl Drop for Host<'_> {
    fn drop(&mut self) {
        self.arm.clean_up(&self.id);
        if let Err(error) = await_end(self.pid) {
            eprintln!("{}: end its container: {error}", self.arm.name);
        }
    }
}

/// Waits for the end of a container's first process, which is a child of this one since its runtime has exited.
pub(crate) fn await_end(pid: i32) -> nix::Result<()> {
    let deadline = Instant::now() + watchdog::PATIENCE;
    while waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG))? == WaitStatus::StillAlive {
        if Instant::now() > deadline {
            return Err(nix::Error::ETIMEDOUT);
        }
        thread::yield_now();
    }
    Ok(())
}

fn timed(run: impl FnOnce() -> Result<(), String>) -> Result<f64, String> {
    let begun = Instant::now();
    run()?;
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}
