//! Running other programs: one place that prints what is run and turns its failure into one line.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::{env, io};

use anyhow::{Context, Result, anyhow, bail};

/// Prints the command, runs it with this process's own standard streams, and fails unless it ends with code 0.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    eprintln!("+ {}", line(command));
    let status = command.status();
    judge(command, status)
}

/// Prints the command and starts it.
pub(crate) fn spawn(command: &mut Command) -> Result<Child> {
    eprintln!("+ {}", line(command));
    command.spawn().map_err(|error| start_error(command, error))
}

/// Runs the command with nothing printed; its standard output. Standard error becomes part of the failure.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| start_error(command, error))?;
    let said = String::from_utf8_lossy(&output.stderr);
    judge(command, Ok(output.status)).with_context(|| said.trim().to_owned())?;
    String::from_utf8(output.stdout).with_context(|| format!("output of `{}`", line(command)))
}

/// Prints the command and runs it like [`run`], but returns its standard output.
pub(crate) fn listen(command: &mut Command) -> Result<String> {
    eprintln!("+ {}", line(command));
    let output = command.stderr(Stdio::inherit()).output().map_err(|error| start_error(command, error))?;
    judge(command, Ok(output.status))?;
    String::from_utf8(output.stdout).with_context(|| format!("output of `{}`", line(command)))
}

/// The executable that `name` means: looked up in `PATH`, then where `cargo install` puts things.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let cargo =
        env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")));
    env::split_paths(&path)
        .chain(cargo.map(|home| home.join("bin")))
        .map(|dir| dir.join(name))
        .find(|p| p.is_file())
}

/// [`find`], or the line that tells how to get the tool.
pub(crate) fn need(name: &str) -> Result<PathBuf> {
    find(name).ok_or_else(|| missing(name.as_ref()))
}

/// Fails with one line unless this process is root.
pub(crate) fn need_root(what: &str) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let owner = std::fs::metadata("/proc/self").context("read the owner of /proc/self")?.uid();
    if owner != 0 {
        bail!("{what} needs root: run it with sudo");
    }
    Ok(())
}

fn judge(command: &Command, status: io::Result<ExitStatus>) -> Result<()> {
    let status = status.map_err(|error| start_error(command, error))?;
    if !status.success() {
        bail!("`{}` ended with {status}", line(command));
    }
    Ok(())
}

fn start_error(command: &Command, error: io::Error) -> anyhow::Error {
    match error.kind() {
        ErrorKind::NotFound => missing(command.get_program()),
        _ => anyhow!(error).context(format!("start `{}`", line(command))),
    }
}

fn missing(program: &OsStr) -> anyhow::Error {
    anyhow!("{} not found: run 'cargo xtask setup'", program.to_string_lossy())
}

/// The command as one would type it, as far as a reader needs it: words with a space or nothing in them are quoted.
fn line(command: &Command) -> String {
    let mut words: Vec<String> = Vec::new();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            words.push(format!("{}={}", name.to_string_lossy(), quoted(value)));
        }
    }
    words.push(quoted(command.get_program()));
    words.extend(command.get_args().map(quoted));
    words.join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    if word.is_empty() || word.contains([' ', '\'', '"', '$', '*']) {
        return format!("'{word}'");
    }
    word.into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_names_the_remedy() {
        let error = run(&mut Command::new("skiff-no-such-tool")).unwrap_err();
        assert_eq!(format!("{error:#}"), "skiff-no-such-tool not found: run 'cargo xtask setup'");
    }

    #[test]
    fn a_failure_shows_the_command_and_its_code() {
        let error = run(Command::new("sh").env("A", "b c").args(["-c", "exit 3"])).unwrap_err();
        assert_eq!(format!("{error:#}"), "`A='b c' sh -c 'exit 3'` ended with exit status: 3");
    }

    #[test]
    fn captured_output_is_returned_and_captured_errors_are_told() {
        assert_eq!(capture(Command::new("sh").args(["-c", "echo out; echo err >&2"])).unwrap(), "out\n");
        let error = capture(Command::new("sh").args(["-c", "echo why >&2; exit 1"])).unwrap_err();
        assert!(format!("{error:#}").starts_with("why: `sh -c"), "{error:#}");
    }
}
