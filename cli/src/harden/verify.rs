//! `skiff harden --verify`: one more run, under the policy and recorded, compared with those that it was made of.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;
use skiff_observe::harden::{self, Engine, Needs, Recorded, Run};
use skiff_observe::trace::plain_json;
use skiff_runtime::caps::CapSet;
use skiff_runtime::options::Mount;

use super::{Args, os, policy, read, read_all, write_all, wrong};
use crate::args::{self, Parsed, Report};
use crate::client::print;
use crate::failure::Failure;
use crate::flags;
use crate::values::{Reason, mounts};

/// Flags that the policy stands in for.
const REPLACED: [&str; 6] = ["cap-add", "cap-drop", "device", "privileged", "read-only", "security-opt"];

/// Runs what stands after `--`, or else the recorded command, under the policy in the directory, or of the profiles, `files`.
pub(super) fn verify(args: &Args, files: &[PathBuf], after: Option<Vec<OsString>>) -> Result<u8, Failure> {
    let scratch = Scratch::new()?;
    let (runs, directory) = match files {
        [directory] if directory.is_dir() => (read_all(&profiles(directory)?)?.0, directory.clone()),
        files => {
            let (runs, _) = read_all(files)?;
            let directory = scratch.0.join("policy");
            write_all(args, &policy(args, &runs)?, &directory)?;
            (runs, directory)
        }
    };
    let needs = Needs::of(&runs, args.accept_losses).map_err(wrong)?;
    let profile = scratch.0.join("profile.json");
    let words = command_line(&runs, &needs, after, flags_in(&directory)?)?;
    let is_json = args.json;
    let Parsed::Run(mut args) = args::parse(&flags::RUN, &mut words.into_iter())? else {
        return Err(wrong("no command to run"));
    };
    args.profile = Some(Report::Quiet(profile.clone()));
    args.detach = false;
    crate::run::run(&args)?;
    tell(&needs, &read(&profile)?.0, is_json)
}

/// What has become of the run. As JSON in one line, as the program may have written to standard output as well.
fn tell(needs: &Needs, run: &Recorded, is_json: bool) -> Result<u8, Failure> {
    let refusals = needs.refusals(run);
    if is_json {
        let verdict =
            json!({"schema": "skiff.verdict/1", "verified": refusals.is_empty(), "refusals": refusals});
        print(&plain_json(format!("{verdict}\n")))?;
    } else if refusals.is_empty() {
        print("verified: nothing was refused\n")?;
    } else {
        print(&refusals.iter().map(|line| crate::format::plain(line) + "\n").collect::<String>())?;
    }
    let count = match refusals.len() {
        0 => return Ok(0),
        1 => "1 difference".to_owned(),
        many => format!("{many} differences"),
    };
    Err(wrong(format!("the program needs more than the policy allows: {count}")))
}

/// The profiles that a policy has been made of.
fn profiles(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let place = directory.join("profiles");
    let entries = fs::read_dir(&place).map_err(|error| os("read", &place, &error))?;
    let mut all: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    all.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    all.sort();
    if all.is_empty() { Err(wrong(format!("{} has no profile in it", place.display()))) } else { Ok(all) }
}

/// The flags of the policy, as its owner has left them.
fn flags_in(directory: &Path) -> Result<Vec<String>, Failure> {
    let file = directory.join(Engine::Skiff.name()).join("flags");
    let text = fs::read_to_string(&file).map_err(|error| os("read", &file, &error))?;
    harden::words(&text).map_err(|reason| wrong(format!("{}: {reason}", file.display())))
}

/// The words of `skiff run`: what was asked for, where the policy does not say otherwise, and the policy.
fn command_line(
    runs: &[Recorded],
    needs: &Needs,
    after: Option<Vec<OsString>>,
    policy: Vec<String>,
) -> Result<Vec<OsString>, Failure> {
    let is_replaced = |flag: &OsString| is_replaced(flag, &policy, needs.devices.is_some());
    let is_recorded = after.is_none();
    let (asked, operands) = match after {
        Some(words) => {
            let operands = flags::RUN.operands(&mut words.clone().into_iter())?;
            (args::given_in_full(&words)?, operands)
        }
        None => {
            let run = runs.iter().find_map(Recorded::run);
            let run =
                run.ok_or_else(|| wrong("no profile tells how its run was asked for: say it after '--'"))?;
            variables(run);
            let operands = [&run.image].into_iter().chain(&run.command).map(OsString::from).collect();
            (recorded(run)?, operands)
        }
    };
    let mut words: Vec<OsString> = asked.into_iter().filter(|flag| !is_replaced(flag)).collect();
    words.extend(policy.into_iter().map(OsString::from));
    // A profile may be anyone's.
    if let Some(flag) = words.iter().find(|flag| is_recorded && reaches_host(flag)) {
        let flag = crate::format::plain(&flag.to_string_lossy());
        return Err(wrong(format!("{flag} reaches the host: say the flags, IMAGE and COMMAND after '--'")));
    }
    words.push("--".into());
    words.extend(operands);
    Ok(words)
}

/// The flags of a recorded run, if they are as `skiff run` writes them: each word a flag with its value, by its first name, and
/// none that says where results go.
fn recorded(run: &Run) -> Result<Vec<OsString>, Failure> {
    let flags: Vec<OsString> = run.flags.iter().map(OsString::from).collect();
    if args::given_in_full(&flags)? == flags {
        return Ok(flags);
    }
    Err(wrong(
        "the profile's flags are not as 'skiff run' writes them: say them, IMAGE and COMMAND after '--'",
    ))
}

/// Whether `flag`, as [`recorded`] has it or a policy, gives a container something of the host, or more than by default.
fn reaches_host(flag: &OsString) -> bool {
    let Some(flag) = flag.to_str() else { return true };
    let (long, value) = flag.split_once('=').unwrap_or((flag, ""));
    let is_bind =
        |mount: Result<Mount, Reason>| !matches!(mount, Ok(Mount::Tmpfs { .. } | Mount::Volume { .. }));
    match long {
        "--device" | "--env-file" => true,
        "--privileged" => value != "false",
        "--volume" => is_bind(mounts::volume(value)),
        "--mount" => is_bind(mounts::mount(value)),
        "--cgroupns" | "--ipc" | "--network" | "--pid" | "--uts" => value == "host",
        "--security-opt" => value.ends_with("unconfined"),
        "--cap-add" => CapSet::named(value).is_none_or(|one| !CapSet::DOCKER.contains(one)),
        _ => false,
    }
}

/// Whether the policy decides what `flag` (`--long` or `--long=value`) is about. `has_devices` tells whether it knows the devices
/// that are needed.
fn is_replaced(flag: &OsString, policy: &[String], has_devices: bool) -> bool {
    let Some(flag) = flag.to_str() else { return false };
    let long = flag.trim_start_matches("--").split('=').next().unwrap_or_default();
    let says = |flag: &str| policy.iter().any(|word| word.starts_with(flag));
    match long {
        "device" => has_devices,
        "memory" | "memory-swap" | "memory-reservation" => says("--memory="),
        "pids-limit" => says("--pids-limit="),
        "ulimit" => flag.starts_with("--ulimit=nofile") && says("--ulimit=nofile"),
        _ => REPLACED.contains(&long),
    }
}

/// Says of which variables the values are missing.
fn variables(run: &Run) {
    for name in run.flags.iter().filter_map(|flag| flag.strip_prefix("--env=")) {
        if std::env::var_os(name).is_none() {
            eprintln!(
                "skiff: the value of {name} is not recorded: set it in the environment, or it is not set"
            );
        }
    }
}

/// A directory of this run's own, which goes with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Failure> {
        let base = std::env::temp_dir();
        let mut last = None;
        for attempt in 0..100 {
            let path = base.join(format!("skiff-harden-{}-{attempt}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) => last = Some(error),
            }
        }
        Err(os("make a directory in", &base, &last.unwrap_or_else(|| io::ErrorKind::AlreadyExists.into())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, "remove {}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_replaces_what_it_decides() {
        let policy = ["--cap-drop=ALL", "--memory=1", "--ulimit=nofile=1:1"].map(str::to_owned);
        let check = |flag: &str, expected: bool| {
            assert_eq!(is_replaced(&flag.into(), &policy, true), expected, "{flag}");
        };
        check("--cap-add=SYS_ADMIN", true);
        check("--privileged", true);
        check("--security-opt=seccomp=unconfined", true);
        check("--memory=64m", true);
        check("--memory-swap=-1", true);
        check("--ulimit=nofile=5:5", true);
        check("--ulimit=core=0:0", false);
        check("--pids-limit=5", false);
        check("--network=host", false);
        check("--volume=/a:/b", false);
        assert!(is_replaced(&"--device=/dev/fuse".into(), &policy, true));
        assert!(!is_replaced(&"--device=/dev/fuse".into(), &policy, false), "it is not known to be unused");
    }

    #[test]
    fn what_reaches_the_host_is_told() {
        let check = |flags: &[&str], expected: bool| {
            for flag in flags {
                assert_eq!(reaches_host(&flag.into()), expected, "{flag}");
            }
        };
        let those = [
            "--volume=/:/host",
            "--volume=/a:/b:ro",
            "--mount=type=bind,src=/,dst=/host",
            "--mount=nonsense",
            "--pid=host",
            "--network=host",
            "--device=/dev/sda",
            "--env-file=/etc/shadow",
            "--privileged",
            "--privileged=true",
            "--cap-add=ALL",
            "--cap-add=SYS_ADMIN",
            "--security-opt=seccomp=unconfined",
            "--security-opt=systempaths=unconfined",
        ];
        check(&those, true);
        let others = [
            "--volume=/data",
            "--volume=/data:ro",
            "--mount=type=tmpfs,dst=/run",
            "--ipc=private",
            "--network=none",
            "--cap-add=CHOWN",
            "--cap-drop=ALL",
            "--security-opt=no-new-privileges",
            "--read-only",
            "--env=NAME",
            "--user=1",
        ];
        check(&others, false);
    }

    #[test]
    fn recorded_flags_are_as_they_are_written() {
        let run = |flags: &[&str]| Run {
            flags: flags.iter().map(ToString::to_string).collect(),
            image: "web".into(),
            command: Vec::new(),
            uid: 0,
            gid: 0,
            seccomp: harden::Filter::Builtin,
            capabilities: Vec::new(),
            devices: Vec::new(),
        };
        assert!(recorded(&run(&["--rm", "--volume=/data", "--env=NAME", "--network=host"])).is_ok());
        for flags in [&["--net=host"][..], &["--label", "--rm"], &["--label"], &["--cidfile=/a"], &["--help"]]
        {
            assert!(recorded(&run(flags)).is_err(), "{flags:?}");
        }
    }
}
