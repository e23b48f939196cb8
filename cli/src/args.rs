//! The command line of `skiff run`: `skiff run [OPTIONS] IMAGE [COMMAND…]` becomes [`Args`].
//!
//! Options end at IMAGE, or at `--`; one `--` right after IMAGE is dropped. The flags themselves are declared in
//! [`crate::flags`]. Reads files that flags name (`--env-file`, `--security-opt seccomp=`) and the caller's
//! environment, and changes nothing.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use skiff_engine::Spec;
use skiff_runtime::options::{Mount, Namespace};

use crate::failure::Failure;
use crate::flags::{self, ALIASES, Flag, Takes, UNSUPPORTED};
use crate::values::Reason;

/// The smallest memory limit with which a container can be expected to start.
const MIN_MEMORY_BYTES: u64 = 6 << 20;

/// What `skiff run` was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Args {
    /// What the container is to be.
    pub(crate) spec: Spec,
    /// `--cidfile`.
    pub(crate) cidfile: Option<PathBuf>,
    /// `--sig-proxy`.
    pub(crate) sig_proxy: bool,
    /// `--profile`.
    pub(crate) profile: Option<Report>,
}

/// Where the profile goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Report {
    /// To standard error, for people.
    Text,
    /// There, and as JSON to this file.
    File(PathBuf),
}

/// `--pull`.
pub(crate) enum Pull {}

impl Pull {
    /// Only `never` can be kept: images come from files.
    pub(crate) fn check(policy: &str) -> Result<(), Reason> {
        match policy {
            "never" => Ok(()),
            "always" | "missing" => Err("only 'never' is supported yet: images come from files".into()),
            _ => Err("not 'never'".into()),
        }
    }
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
        Self { spec: Spec::default(), cidfile: None, sig_proxy: true, profile: None }
    }
}

/// Understands what follows `skiff run`.
pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Parsed, Failure> {
    let mut words = words.into_iter();
    let mut args = Box::<Args>::default();
    let image = loop {
        let word = words.next().ok_or_else(|| usage("no image given"))?;
        match word.as_bytes() {
            b"--help" => return Ok(Parsed::Help),
            b"--" => break words.next().ok_or_else(|| usage("no image given"))?,
            [b'-', b'-', long @ ..] => long_flag(&mut args, long, &mut words)?,
            [b'-', cluster @ ..] if !cluster.is_empty() => short_flags(&mut args, cluster, &mut words)?,
            _ => break word,
        }
    };
    args.spec.image =
        image.into_string().map_err(|_| Failure::engine("the image's name is not valid UTF-8"))?;
    args.spec.command = words.collect();
    if args.spec.command.first().is_some_and(|first| first == "--") {
        args.spec.command.remove(0);
    }
    consistent(&args).map_err(Failure::engine)?;
    Ok(Parsed::Run(args))
}

/// `--name`, `--name=value` or `--name value`.
fn long_flag(args: &mut Args, word: &[u8], rest: &mut impl Iterator<Item = OsString>) -> Result<(), Failure> {
    let (name, attached) = match word.iter().position(|&b| b == b'=') {
        Some(at) => (&word[..at], Some(OsStr::from_bytes(&word[at + 1..]))),
        None => (word, None),
    };
    let name = String::from_utf8_lossy(name);
    let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(&*name, |(_, name)| name);
    match flags::all().find(|flag| flag.long == name) {
        Some(flag) => set(args, flag, attached, rest),
        None if UNSUPPORTED.iter().any(|(long, _)| *long == name) => Err(unsupported(name)),
        None => Err(usage(&format!("unknown flag: --{name}"))),
    }
}

/// A cluster of one-letter flags: switches, and at its end a flag whose value may be attached (`-itm512m`, `-m=1g`).
fn short_flags(
    args: &mut Args,
    cluster: &[u8],
    rest: &mut impl Iterator<Item = OsString>,
) -> Result<(), Failure> {
    let mut at = 0;
    while at < cluster.len() {
        let letter = char::from(cluster[at]);
        let Some(flag) = flags::all().find(|flag| flag.short == Some(letter)) else {
            return Err(unknown_letter(letter, cluster));
        };
        at += 1;
        let tail = &cluster[at..];
        let value = tail.strip_prefix(b"=").unwrap_or(tail);
        let attached = match flag.takes {
            Takes::Nothing(_) if tail.len() == value.len() => None,
            _ if tail.is_empty() => None,
            _ => Some(OsStr::from_bytes(value)),
        };
        if attached.is_some() {
            at = cluster.len();
        }
        set(args, flag, attached, rest)?;
    }
    Ok(())
}

fn unknown_letter(letter: char, cluster: &[u8]) -> Failure {
    match UNSUPPORTED.iter().find(|(_, short)| *short == Some(letter)) {
        Some((long, _)) => unsupported(long),
        None if cluster.len() == 1 => usage(&format!("unknown flag: -{letter}")),
        None => usage(&format!("unknown flag: '{letter}' in -{}", String::from_utf8_lossy(cluster))),
    }
}

/// Gives `flag` its value: the attached one, or the next word if it needs one.
fn set(
    args: &mut Args,
    flag: &Flag,
    attached: Option<&OsStr>,
    rest: &mut impl Iterator<Item = OsString>,
) -> Result<(), Failure> {
    let next = match flag.takes {
        Takes::Value(..) | Takes::Bytes(..) if attached.is_none() => {
            Some(rest.next().ok_or_else(|| usage(&format!("--{} needs a value", flag.long)))?)
        }
        _ => None,
    };
    let value = attached.or(next.as_deref());
    let done = match (&flag.takes, value) {
        (Takes::Nothing(set), None) => {
            set(args, true);
            Ok(())
        }
        (Takes::Nothing(set), Some(value)) => flags::position(value).map(|on| set(args, on)),
        (Takes::Value(_, set), value) => {
            flags::text(value.unwrap_or_default()).and_then(|value| set(args, value))
        }
        (Takes::Bytes(_, set), value) => set(args, value.unwrap_or_default()),
        (Takes::Optional(_, set), value) => {
            set(args, value);
            Ok(())
        }
    };
    done.map_err(|reason| {
        let value = value.unwrap_or_default().to_string_lossy();
        Failure::engine(format!("invalid value '{value}' for --{}: {reason}", flag.long))
    })
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
    targets(&options.mounts)
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

fn unsupported(name: &str) -> Failure {
    Failure::engine(format!("--{name} is not supported yet"))
}

fn usage(message: &str) -> Failure {
    Failure::engine(format!("{message}, see 'skiff run --help'"))
}

#[cfg(test)]
mod tests;
