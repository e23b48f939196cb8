//! Hooks: programs that are run at points of a container's life. OCI runtime spec, config.md, "POSIX-platform Hooks".
//!
//! One runs after the other, with the container's state on its standard input, and is waited for. What it writes is kept
//! in memory until it has ended, and its last line is the reason given if it fails.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::memfd::{MFdFlags, memfd_create};
use skiff_sys::process::{self, Child, Exit, Memory};

use crate::Error;
use crate::error::Context;
use crate::oci::spec::{State, Status};
use crate::plan::{Hook, Subject, c_path};

/// The state of a container as hooks, and whoever asks for it, are told: one JSON document.
#[must_use]
pub fn state(subject: &Subject, status: Status, pid: Option<i32>) -> State {
    State {
        oci_version: subject.oci_version.clone(),
        id: subject.id.clone(),
        status,
        pid,
        bundle: subject.bundle.clone(),
        annotations: subject.annotations.iter().cloned().collect(),
    }
}

/// Runs `hooks`, which `kind` names in errors, in order, up to the first that fails; each in `directory`, if that is there.
///
/// Errors: one line that names the hook and gives the reason.
pub fn run(kind: &str, hooks: &[Hook], state: &State, directory: &Path) -> Result<(), Error> {
    if hooks.is_empty() {
        return Ok(());
    }
    let document = serde_json::to_vec(state)
        .map_err(|error| Error::Option(format!("write the container's state: {error}")))?;
    hooks.iter().try_for_each(|hook| {
        let path = hook.path.display();
        match run_one(hook, &document, directory).context(|| format!("run {kind} hook {path}"))? {
            Ok(()) => Ok(()),
            Err(reason) => Err(Error::Option(format!("{kind} hook {path}: {reason}"))),
        }
    })
}

/// Runs `hooks` when it is too late for them to fail: what goes wrong is logged, and the next one is run.
pub fn run_late(kind: &str, hooks: &[Hook], state: &State, directory: &Path) {
    for hook in hooks {
        if let Err(error) = run(kind, std::slice::from_ref(hook), state, directory) {
            tracing::warn!("{error}");
        }
    }
}

/// Runs one; the inner error is why it counts as failed.
fn run_one(hook: &Hook, state: &[u8], directory: &Path) -> io::Result<Result<(), String>> {
    process::keep_children()?;
    let (input, output) = (memory()?, memory()?);
    let mut input = File::from(input);
    input.write_all(state)?;
    input.seek(SeekFrom::Start(0))?;
    let invalid = |_| io::Error::from_raw_os_error(nix::libc::EINVAL);
    let (program, directory) = (c_path(&hook.path).map_err(invalid)?, c_path(directory).map_err(invalid)?);
    let child = process::spawn(CloneFlags::empty(), None, Memory::Shared, |_| {
        let error = become_hook(&program, hook, &directory, &input, &output);
        // Through the file, for the child may have a copy of this memory only; what cannot be said has its exit code.
        let _unsaid = nix::unistd::write(&output, crate::error::plain(error).to_string().as_bytes());
        127
    })?;
    Ok(match wait(&child, hook.timeout)? {
        None => Err(format!("not done in {} s", hook.timeout.unwrap_or_default().as_secs())),
        Some(Exit::Code(0)) => Ok(()),
        Some(Exit::Code(code)) => Err(with_last_line(format!("exit status {code}"), output)),
        Some(Exit::Signal(signal)) => Err(with_last_line(format!("killed by signal {signal}"), output)),
    })
}

/// A file in memory: unlike a pipe it neither fills up nor is held open against its reader.
fn memory() -> io::Result<OwnedFd> {
    Ok(memfd_create(c"skiff-hook", MFdFlags::MFD_CLOEXEC)?)
}

/// Runs in: the hook's process, which becomes the hook, with three streams and no other descriptor.
fn become_hook(program: &CStr, hook: &Hook, directory: &CStr, input: &File, output: &OwnedFd) -> io::Error {
    let prepare = || -> io::Result<()> {
        process::default_signals()?;
        let none = nix::sys::signal::SigSet::empty();
        nix::sys::signal::sigprocmask(nix::sys::signal::SigmaskHow::SIG_SETMASK, Some(&none), None)?;
        nix::unistd::dup2_stdin(input)?;
        nix::unistd::dup2_stdout(output)?;
        nix::unistd::dup2_stderr(output)?;
        // A bundle may be gone before its container is.
        let _elsewhere = nix::unistd::chdir(directory);
        process::cloexec_from(3)
    };
    if let Err(error) = prepare() {
        return error;
    }
    let name = [CString::from(program)];
    let arguments = if hook.args.is_empty() { &name[..] } else { &hook.args };
    process::exec(program, arguments, &hook.env)
}

/// Waits for the hook to end; `None` if it takes too long, and is killed.
fn wait(child: &Child, timeout: Option<Duration>) -> io::Result<Option<Exit>> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    while let Some(deadline) = deadline {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up: in the last millisecond poll must not return at once, over and over.
        let left = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(child.pidfd.as_fd(), PollFlags::POLLIN)], left) {
            Ok(0) | Err(nix::Error::EINTR) if Instant::now() < deadline => {}
            Ok(0) => {
                process::send_signal(child.pidfd.as_fd(), nix::libc::SIGKILL)?;
                process::reap(child.pidfd.as_fd(), true)?;
                return Ok(None);
            }
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => break,
        }
    }
    loop {
        if let Some(exit) = process::reap(child.pidfd.as_fd(), true)? {
            return Ok(Some(exit));
        }
    }
}

/// `what`, and the last line that the hook has written.
fn with_last_line(what: String, output: OwnedFd) -> String {
    const TAIL_BYTES: u64 = 1024;
    let mut output = File::from(output);
    let mut tail = Vec::new();
    let read = output
        .seek(SeekFrom::End(0))
        .and_then(|length| output.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES))))
        .and_then(|_| output.take(TAIL_BYTES).read_to_end(&mut tail));
    let text = String::from_utf8_lossy(&tail);
    match text.lines().map(str::trim).rfind(|line| !line.is_empty()) {
        Some(line) if read.is_ok() => format!("{what}: {line}"),
        _ => what,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, timeout_ms: Option<u64>) -> Hook {
        let texts = |texts: &[&str]| texts.iter().map(|text| CString::new(*text).expect("text")).collect();
        Hook {
            path: "/bin/sh".into(),
            args: texts(&["hook", "-c", script]),
            env: texts(&["PATH=/usr/bin:/bin", "GREETING=hello"]),
            timeout: timeout_ms.map(Duration::from_millis),
        }
    }

    fn check(script: &str, timeout_ms: Option<u64>, expected: Result<(), &str>) {
        let subject = Subject {
            oci_version: "1.2.0".into(),
            id: "one".into(),
            bundle: "/bundle".into(),
            annotations: vec![("key".into(), "value".into())],
        };
        let state = state(&subject, Status::Creating, Some(4711));
        let ran = run("prestart", &[shell(script, timeout_ms)], &state, Path::new("/"));
        assert_eq!(ran.map_err(|error| error.to_string()), expected.map_err(str::to_owned), "{script}");
    }

    #[test]
    fn a_hook_reads_the_state_and_has_its_environment_only() {
        check(
            r#"test "$(cat)" = '{"ociVersion":"1.2.0","id":"one","status":"creating","pid":4711,"bundle":"/bundle","annotations":{"key":"value"}}'"#,
            None,
            Ok(()),
        );
        check(r#"test "$GREETING" = hello && test -z "$HOME" && test "$0" = hook || exit 9"#, None, Ok(()));
        check("test ! -e /proc/self/fd/3", None, Ok(()));
    }

    #[test]
    fn a_failing_hook_says_why() {
        let failed = |reason: &str| format!("prestart hook /bin/sh: {reason}");
        check("exit 3", None, Err(&failed("exit status 3")));
        check("echo first; echo last >&2; exit 1", None, Err(&failed("exit status 1: last")));
        check("kill -9 $$", None, Err(&failed("killed by signal 9")));
        check("sleep 60", Some(50), Err(&failed("not done in 0 s")));
        check("exit 0", Some(60_000), Ok(()));
    }

    #[test]
    fn a_hook_that_is_not_there_is_an_error_of_its_own() {
        let hook = Hook { path: "/nonexistent".into(), args: vec![], env: vec![], timeout: None };
        let error =
            run("poststop", &[hook], &state(&Subject::default(), Status::Stopped, None), Path::new("/"));
        assert_eq!(
            error.expect_err("not there").to_string(),
            "poststop hook /nonexistent: exit status 127: No such file or directory"
        );
    }

    #[test]
    fn the_first_failure_ends_the_row() {
        let path = std::env::temp_dir().join(format!("skiff-hook-{}", std::process::id()));
        let touch = shell(&format!("touch {}", path.display()), None);
        let state = state(&Subject::default(), Status::Creating, None);
        run("prestart", &[shell("exit 1", None), touch.clone()], &state, Path::new("/"))
            .expect_err("the first fails");
        assert!(!path.exists());
        run_late("poststart", &[shell("exit 1", None), touch], &state, Path::new("/"));
        assert!(path.exists());
        std::fs::remove_file(&path).expect("clean up");
    }
}
