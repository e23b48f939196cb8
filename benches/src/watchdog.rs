//! Ends programs that hang, from a thread that wakes once a second and so disturbs nobody.

use std::io;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// After this long a program is taken to hang.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The programs being waited for, each with its deadline. A process id is not reused before it is waited for.
static WATCHED: Mutex<Vec<(i32, Instant)>> = Mutex::new(Vec::new());
static STARTED: Once = Once::new();

/// Runs `command` to its end, or kills it after [`PATIENCE`].
pub fn run(command: &mut Command) -> io::Result<ExitStatus> {
    wait(&mut start(command)?)
}

/// Starts `command`, to be [waited](wait) for.
pub fn start(command: &mut Command) -> io::Result<Child> {
    STARTED.call_once(|| drop(thread::spawn(watch)));
    let child = command.spawn()?;
    watched().push((pid(&child), Instant::now() + PATIENCE));
    Ok(child)
}

/// Waits for what was [started](start).
pub fn wait(child: &mut Child) -> io::Result<ExitStatus> {
    let status = child.wait();
    let pid = pid(child);
    watched().retain(|(watched, _)| *watched != pid);
    status
}

fn pid(child: &Child) -> i32 {
    i32::try_from(child.id()).unwrap_or(i32::MAX)
}

fn watched() -> std::sync::MutexGuard<'static, Vec<(i32, Instant)>> {
    WATCHED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn watch() {
    loop {
        thread::sleep(Duration::from_secs(1));
        let now = Instant::now();
        for (pid, _) in watched().iter().filter(|(_, deadline)| *deadline < now) {
            if let Err(error) = kill(Pid::from_raw(*pid), Signal::SIGKILL) {
                eprintln!("end a launcher that hangs: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_is_waited_for_and_forgotten() {
        assert!(run(&mut Command::new("true")).unwrap().success());
        assert!(watched().is_empty());
    }
}
