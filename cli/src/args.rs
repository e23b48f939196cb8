//! The command line of `skiff run` and `skiff create`: `[OPTIONS] IMAGE [COMMAND…]` becomes [`Args`].
//!
//! Options end at IMAGE, or at `--`; one `--` right after IMAGE is dropped. The flags themselves are declared in
//! [`crate::flags`]. Reads files that flags name (`--env-file`, `--security-opt seccomp=`) and the caller's
//! environment, and changes nothing.

use std::ffi::OsString;
use std::path::PathBuf;

use skiff_engine::Spec;
use skiff_engine::spec::{HealthSpec, HealthTest, LogDriver, LogSpec, Restart};
use skiff_runtime::options::{Mount, Namespace};

use crate::failure::Failure;
use crate::images::wanted::Wanted;
use crate::line::{Command, Given, Rest};
use crate::values::Reason;
use crate::values::keys::Keys;

/// The smallest memory limit with which a container can be expected to start.
const MIN_MEMORY_BYTES: u64 = 6 << 20;

/// What `skiff run` was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Args {
    /// What the container is to be.
    pub(crate) spec: Spec,
    /// `--cidfile`.
    pub(crate) cidfile: Option<PathBuf>,
    /// `--detach-keys`.
    pub(crate) detach_keys: Keys,
    /// `--sig-proxy`.
    pub(crate) sig_proxy: bool,
    /// `--profile`.
    pub(crate) profile: Option<Report>,
    /// `--stacks`: at the rate that it has, or none.
    pub(crate) stacks: Option<String>,
    /// `--files`.
    pub(crate) files: bool,
    /// `--detach`: do not wait for the container.
    pub(crate) detach: bool,
    /// `--no-healthcheck`.
    pub(crate) no_healthcheck: bool,
    /// Where its image may come from.
    pub(crate) wanted: Wanted,
    /// The flags as they were given, one word each, where that is recorded. Of variables their names only.
    pub(crate) given: Vec<String>,
    /// `--pool`: whether a container that was made ahead may be used.
    pub(crate) pool: bool,
}

/// Where the profile goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Report {
    /// To standard error, for people.
    Text,
    /// There, and as JSON to this file.
    File(PathBuf),
    /// As JSON to this file alone.
    Quiet(PathBuf),
}

/// A command line, understood.
#[derive(Debug)]
pub(crate) enum Parsed {
    /// Run a container.
    Run(Box<Args>),
    /// `--help` came before IMAGE.
    Help,
}

impl Default for Args {
    fn default() -> Self {
        Self {
            spec: Spec::default(),
            cidfile: None,
            detach_keys: Keys::default(),
            sig_proxy: true,
            profile: None,
            stacks: None,
            files: false,
            detach: false,
            no_healthcheck: false,
            wanted: Wanted::default(),
            given: Vec::new(),
            pool: true,
        }
    }
}

/// Understands what follows the name of `command`: [`crate::flags::RUN`] or [`crate::flags::CREATE`].
pub(crate) fn parse(command: &Command<Args>, words: Rest<'_>) -> Result<Parsed, Failure> {
    let mut args = Box::<Args>::default();
    let Some(operands) = command.parse(&mut args, words)? else { return Ok(Parsed::Help) };
    let mut operands = operands.into_iter();
    let image = operands.next().ok_or_else(|| command.usage("no image given"))?;
    args.spec.image =
        image.into_string().map_err(|_| Failure::engine("the image's name is not valid UTF-8"))?;
    args.spec.command = operands.collect();
    if args.spec.command.first().is_some_and(|first| first == "--") {
        args.spec.command.remove(0);
    }
    consistent(&args).map_err(Failure::engine)?;
    if args.no_healthcheck {
        args.spec.health.test = Some(HealthTest::None);
    }
    Ok(Parsed::Run(args))
}

/// Flags that say where a run's results go, and nothing of the run itself.
const ASIDE: [&str; 10] =
    ["cidfile", "detach", "detach-keys", "files", "name", "profile", "pull", "quiet", "sig-proxy", "stacks"];

/// The flags of `skiff run`, one word each. Variables are told without their values, which may be secrets.
pub(crate) fn given(words: &[OsString]) -> Result<Vec<String>, Failure> {
    let word = |flag: OsString| {
        let flag = flag.to_string_lossy().into_owned();
        match flag.strip_prefix("--env=").and_then(|variable| variable.split_once('=')) {
            Some((name, _)) => format!("--env={name}"),
            None => flag,
        }
    };
    Ok(given_in_full(words)?.into_iter().map(word).collect())
}

/// The same with the values of variables.
pub(crate) fn given_in_full(words: &[OsString]) -> Result<Vec<OsString>, Failure> {
    let all = crate::flags::RUN.given(&mut words.iter().cloned())?;
    let all = all.into_iter().filter(|(long, _)| !ASIDE.contains(long));
    let word = |(long, value): Given| {
        let mut word = OsString::from(format!("--{long}"));
        if let Some(value) = value {
            word.push("=");
            word.push(value);
        }
        word
    };
    Ok(all.map(word).collect())
}

/// Whether the flags go together.
fn consistent(args: &Args) -> Result<(), Reason> {
    let options = &args.spec.options;
    memory(args)?;
    let cpu = &options.resources;
    if cpu.nano_cpus.is_some() && (cpu.cpu_period_us.is_some() || cpu.cpu_quota_us.is_some()) {
        return Err("--cpus does not go with --cpu-period or --cpu-quota".into());
    }
    if options.uts == Namespace::Host && (options.hostname.is_some() || options.domainname.is_some()) {
        return Err("--hostname and --domainname do not go with --uts host".into());
    }
    lifecycle(args)?;
    targets(&options.mounts)
}

fn lifecycle(args: &Args) -> Result<(), Reason> {
    let spec = &args.spec;
    if spec.auto_remove && spec.restart != Restart::No {
        return Err("--rm does not go with --restart".into());
    }
    let bounds = |log: &LogSpec| (log.max_bytes, log.max_files);
    if spec.log.driver != LogDriver::File && bounds(&spec.log) != bounds(&LogSpec::default()) {
        return Err("--log-opt max-size and max-file are for --log-driver file alone".into());
    }
    if args.no_healthcheck && spec.health != HealthSpec::default() {
        return Err("--no-healthcheck does not go with other flags of health".into());
    }
    if args.detach && args.profile.is_some() {
        return Err("--profile does not go with --detach".into());
    }
    if args.files && args.profile.is_none() {
        return Err("--files needs --profile".into());
    }
    if args.stacks.is_some() && args.profile.is_none() {
        return Err("--stacks needs --profile".into());
    }
    Ok(())
}

fn memory(args: &Args) -> Result<(), Reason> {
    let limits = &args.spec.options.resources;
    if limits.memory_bytes.is_some_and(|limit| limit < MIN_MEMORY_BYTES) {
        return Err("--memory is below the minimum of 6m".into());
    }
    // Without a limit of memory, -1 says what is so already.
    let swap = limits.memory_swap_bytes.filter(|swap| limits.memory_bytes.is_some() || *swap != -1);
    if let Some(swap) = swap {
        let memory = limits.memory_bytes.ok_or("--memory-swap needs --memory")?;
        if u64::try_from(swap).is_ok_and(|swap| swap < memory) {
            return Err("--memory-swap is below --memory, which it includes".into());
        }
    }
    if let Some(reservation) = limits.memory_reservation_bytes {
        if reservation < MIN_MEMORY_BYTES {
            return Err("--memory-reservation is below the minimum of 6m".into());
        }
        if limits.memory_bytes.is_some_and(|limit| limit < reservation) {
            return Err("--memory-reservation is above --memory".into());
        }
    }
    Ok(())
}

/// No two mounts may have the same target.
fn targets(all: &[Mount]) -> Result<(), Reason> {
    for (index, mount) in all.iter().enumerate() {
        let target = mount.target();
        if all[..index].iter().any(|other| other.target() == target) {
            return Err(format!("two mounts have the target {}", target.display()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
