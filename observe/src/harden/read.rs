//! Reads a profile that `skiff run --profile=FILE` has written, or somebody else: nothing in it is trusted.
//!
//! Fields that hardening does not need are passed over. Of the others every name must be one that is known, every list and
//! text keeps to a bound, and whatever does not is refused in one line.

use std::collections::BTreeMap;

use serde::Deserialize;
use skiff_sys::syscalls;

use super::CAPABILITIES;

/// Longer profiles are not read. One with everything that a recording has room for is a tenth of it.
pub const MAX_BYTES: usize = 16 << 20;
/// Entries of any list.
const MAX_ENTRIES: usize = 8192;
/// Bytes of any text.
const MAX_TEXT: usize = 8192;

/// What hardening needs of one profile.
#[derive(Debug, Clone, Deserialize)]
pub struct Recorded {
    schema: String,
    container: Container,
    pub(super) exit: Outcome,
    timeline: Timeline,
    pub(super) system_calls: Phases,
    pub(super) resources: Resources,
    pub(super) cgroup: Cgroup,
    pub(super) execs: Execs,
    events_lost: u64,
    #[serde(default)]
    pub(super) run: Option<Run>,
    #[serde(default)]
    pub(super) uses: Option<Uses>,
}

#[derive(Debug, Clone, Deserialize)]
struct Container {
    #[serde(default)]
    image: Option<String>,
    command: Vec<String>,
}

/// How the program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(super) struct Outcome {
    pub(super) code: Option<i32>,
    pub(super) signal: Option<i32>,
}

impl Outcome {
    /// An exit code, or 128 + n for signal n.
    pub(super) fn status(self) -> Option<i32> {
        self.code.or(self.signal.map(|signal| signal.saturating_add(128)))
    }
}

#[derive(Debug, Clone, Deserialize)]
struct Timeline {
    program_us: Option<f64>,
    end_us: Option<f64>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Phases {
    pub(super) workload: Vec<Call>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Call {
    pub(super) name: String,
    pub(super) number: Option<u32>,
    pub(super) abi: Abi,
    pub(super) returned: u64,
    pub(super) refused: u64,
    pub(super) unreturned: u64,
    #[serde(default)]
    pub(super) errors: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Abi {
    Native,
    Compat,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Resources {
    pub(super) workload: Used,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Used {
    pub(super) cpu_ns: Option<u64>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Cgroup {
    pub(super) memory_peak_bytes: Option<u64>,
    #[serde(default)]
    pub(super) oom_kills: Option<u64>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Execs {
    pub(super) listed: Vec<Exec>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Exec {
    pub(super) file: String,
}

/// How the run was asked for, and what it was given.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Run {
    /// The flags of `skiff run`, one word each, `--long` or `--long=value`; of variables the names only.
    pub flags: Vec<String>,
    /// The image, as given.
    pub image: String,
    /// What followed the image.
    pub command: Vec<String>,
    /// The program's user, as a number.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// `builtin`, `profile` or `unconfined`.
    pub seccomp: Filter,
    /// What its bounding set held, without `CAP_`.
    pub capabilities: Vec<String>,
    /// What `--device` gave it.
    #[serde(default)]
    pub devices: Vec<Given>,
}

/// The filter under which a run was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// Docker's default one.
    Builtin,
    /// One of the caller's.
    Profile,
    /// None.
    Unconfined,
}

/// A device that was given to the container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Given {
    /// On the host.
    pub source: String,
    /// In the container.
    pub target: String,
    /// Its number.
    pub major: u32,
    /// Its number.
    pub minor: u32,
}

/// What the workload used beside system calls; each is `None` where it could not be recorded.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Uses {
    pub(super) capabilities: Option<Vec<Capability>>,
    pub(super) written: Option<Vec<Written>>,
    pub(super) devices: Option<Vec<Opened>>,
    #[serde(default)]
    pub(super) sysctls: Option<Vec<Sysctl>>,
    pub(super) tasks_peak: Option<u64>,
    pub(super) descriptors_peak: Option<u64>,
    pub(super) lost: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Capability {
    pub(super) name: String,
    pub(super) granted: u64,
    pub(super) refused: u64,
    #[serde(default)]
    pub(super) calls: BTreeMap<String, u64>,
}

/// A directory of the image in which something was made, changed or removed.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Written {
    pub(super) directory: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
    /// Whether the image has something in it.
    pub(super) filled: bool,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Opened {
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) reads: u64,
    pub(super) writes: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Sysctl {
    pub(super) name: String,
    pub(super) writes: u64,
}

impl Recorded {
    /// Reads a profile.
    ///
    /// Errors: one line that says what of it is not as it should be.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > MAX_BYTES {
            return Err(format!("more than {} MiB", MAX_BYTES >> 20));
        }
        let recorded: Self = serde_json::from_slice(bytes).map_err(|error| one_line(&error.to_string()))?;
        recorded.check()?;
        Ok(recorded)
    }

    /// The image and the command, for people.
    #[must_use]
    pub fn title(&self) -> (Option<&str>, &[String]) {
        (self.container.image.as_deref(), &self.container.command)
    }

    /// How the run was asked for; `None` in profiles of containers that others have started.
    #[must_use]
    pub const fn run(&self) -> Option<&Run> {
        self.run.as_ref()
    }

    /// Events that are missing.
    pub(super) fn events_lost(&self) -> u64 {
        self.events_lost.saturating_add(self.uses.as_ref().map_or(0, |uses| uses.lost))
    }

    /// How long the program ran, in seconds.
    pub(super) fn seconds(&self) -> Option<f64> {
        let (begin, end) = self.timeline.program_us.zip(self.timeline.end_us)?;
        Some((end - begin) / 1e6).filter(|seconds| seconds.is_finite() && *seconds > 0.0)
    }

    fn check(&self) -> Result<(), String> {
        if self.schema != "skiff.profile/1" {
            return Err(format!("{:?} is not a form of profile that is known here", clip(&self.schema)));
        }
        let calls = &self.system_calls.workload;
        lengths(&[calls.len(), self.execs.listed.len(), self.container.command.len()])?;
        calls.iter().try_for_each(check_call)?;
        texts(self.execs.listed.iter().map(|exec| &exec.file))?;
        texts(self.container.command.iter().chain(&self.container.image))?;
        self.run.as_ref().map_or(Ok(()), check_run)?;
        self.uses.as_ref().map_or(Ok(()), check_uses)
    }
}

/// A call's name must be the one that the table has for its number.
fn check_call(call: &Call) -> Result<(), String> {
    lengths(&[call.errors.len()])?;
    if let Some(name) = call.errors.keys().find(|name| !is_word(name, 32)) {
        return Err(format!("{:?} is not the name of an error", clip(name)));
    }
    let Some(number) = call.number else { return Ok(()) };
    let known = match call.abi {
        Abi::Native => syscalls::name(number),
        Abi::Compat => syscalls::name_i386(number),
    };
    let is_so = known.map_or_else(|| call.name == format!("syscall_{number}"), |known| call.name == known);
    if is_so { Ok(()) } else { Err(format!("system call {number} is not called {:?}", clip(&call.name))) }
}

fn check_run(run: &Run) -> Result<(), String> {
    lengths(&[run.flags.len(), run.command.len(), run.capabilities.len(), run.devices.len()])?;
    texts(run.flags.iter().chain(&run.command).chain([&run.image]))?;
    texts(run.devices.iter().flat_map(|device| [&device.source, &device.target]))?;
    if let Some(flag) = run.flags.iter().find(|flag| !flag.starts_with("--") || flag.len() < 3) {
        return Err(format!("{:?} is not a flag", clip(flag)));
    }
    run.capabilities.iter().try_for_each(|name| capability(name))
}

fn check_uses(uses: &Uses) -> Result<(), String> {
    let capabilities = uses.capabilities.as_deref().unwrap_or_default();
    let written = uses.written.as_deref().unwrap_or_default();
    let sysctls = uses.sysctls.as_deref().unwrap_or_default();
    let devices = uses.devices.as_deref().unwrap_or_default();
    lengths(&[capabilities.len(), written.len(), sysctls.len(), devices.len()])?;
    for used in capabilities {
        capability(&used.name)?;
        lengths(&[used.calls.len()])?;
        if let Some(name) = used.calls.keys().find(|name| !is_word(name, 64)) {
            return Err(format!("{:?} is not the name of a system call", clip(name)));
        }
    }
    texts(sysctls.iter().map(|sysctl| &sysctl.name))?;
    texts(written.iter().map(|written| &written.directory))?;
    for written in written {
        let path = written.directory.as_str();
        let is_plain = path == "/" || path.strip_prefix('/').is_some_and(|path| path.split('/').all(is_part));
        if !is_plain || written.mode > 0o7777 {
            return Err(format!("{:?} is not a directory's path and mode", clip(path)));
        }
    }
    Ok(())
}

fn capability(name: &str) -> Result<(), String> {
    if CAPABILITIES.contains(&name) { Ok(()) } else { Err(format!("unknown capability {:?}", clip(name))) }
}

fn is_part(part: &str) -> bool {
    !matches!(part, "" | "." | "..")
}

fn is_word(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn lengths(all: &[usize]) -> Result<(), String> {
    match all.iter().find(|length| **length > MAX_ENTRIES) {
        Some(length) => Err(format!("a list has {length} entries, and {MAX_ENTRIES} are the most")),
        None => Ok(()),
    }
}

fn texts<'a>(mut all: impl Iterator<Item = &'a String>) -> Result<(), String> {
    match all.find(|text| text.len() > MAX_TEXT || text.contains('\0')) {
        Some(text) => Err(format!("{:?} is too long, or no text", clip(text))),
        None => Ok(()),
    }
}

/// The beginning of a text, to be shown.
pub(super) fn clip(text: &str) -> String {
    text.chars().take(60).collect()
}

fn one_line(text: &str) -> String {
    clip_to(&text.replace(|c: char| c.is_control(), " "), 200)
}

fn clip_to(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}
