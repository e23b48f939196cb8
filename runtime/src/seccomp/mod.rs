//! System call filters: from a profile to the program that the kernel runs on every system call.
//!
//! ```text
//! Profile (docker's default, or JSON) ─┐
//! a bundle's `linux.seccomp` ──────────┴→ rules: a decision per call → program: classic BPF → Filter
//! ```
//!
//! x86-64 only. Where a profile admits 32-bit programs (docker's does), i386 calls are filtered by their own
//! numbers; where it does not, they kill the process. Where a bundle admits the x32 ABI, its calls are filtered as
//! those of x86-64 are; elsewhere, also where a profile in docker's format names it, they are answered with `ENOSYS`, as
//! by a kernel without it.
//!
//! When rules contradict each other: one without conditions on arguments stands before those with, else the first
//! in the profile counts.
//!
//! Nothing is cached. Docker's profile is compiled in some 15 µs from a table of numbers; one of the same size in JSON
//! takes some 80 µs, where hashing its text and reading a compiled program from a file takes 12 µs. The 70 µs that a
//! cache would save to those who bring their own profile are not worth files that must be trusted, renewed and removed
//! (`cargo bench -p skiff-benches --bench seccomp`).

mod bpf;
pub(crate) mod certain;
mod docker;
mod json;
mod multiplex;
mod program;
mod rules;
mod spec;
#[cfg(test)]
mod tests;
pub mod words;

use skiff_sys::seccomp::MAX_INSTRUCTIONS;
pub use skiff_sys::seccomp::{Flags, Instruction};

use crate::caps::CapSet;
use crate::oci::spec::Seccomp;

/// What is to be allowed, before it is known to whom.
#[derive(Debug, Clone)]
pub struct Profile(Source);

#[derive(Debug, Clone)]
enum Source {
    Docker,
    Custom(json::Custom),
}

/// A program for [`skiff_sys::seccomp::install`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// At least one and at most 4096 instructions.
    pub program: Vec<Instruction>,
    /// How to install it.
    pub flags: Flags,
}

/// The first two numbers of a kernel's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kernel(pub u32, pub u32);

/// Why a profile is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is not JSON, or not of a profile's shape.
    #[error("seccomp profile: {0}")]
    Json(serde_json::Error),
    /// A value in it makes no sense.
    #[error("seccomp profile: {place}: {what}")]
    Invalid {
        /// The path of the value.
        place: String,
        /// What is wrong with it.
        what: String,
    },
    /// The kernel would refuse the program.
    #[error("seccomp profile: needs {0} instructions, the kernel takes at most {MAX_INSTRUCTIONS}")]
    TooLong(usize),
}

impl Profile {
    /// The profile that docker applies to a container that asks for nothing.
    #[must_use]
    pub fn docker() -> Self {
        Self(Source::Docker)
    }

    /// Reads a profile in docker's JSON format.
    pub fn parse(text: &str) -> Result<Self, Error> {
        json::Custom::parse(text).map(Source::Custom).map(Self)
    }

    fn rules(&self, caps: CapSet, kernel: Kernel) -> rules::Rules<'_> {
        match &self.0 {
            Source::Docker => docker::rules(caps, kernel),
            Source::Custom(custom) => custom.rules(caps, kernel),
        }
    }
}

/// The program for `profile` in a container whose bounding set is `caps`, on `kernel`.
pub fn compile(profile: &Profile, caps: CapSet, kernel: Kernel) -> Result<Filter, Error> {
    let program = assemble(&profile.rules(caps, kernel))?;
    let flags = match &profile.0 {
        Source::Docker => FLAGS,
        Source::Custom(custom) => custom.flags,
    };
    Ok(Filter { program, flags })
}

/// The program that a bundle's `linux.seccomp` describes. If it hands calls to another process, its flags ask for a
/// listener.
pub fn compile_spec(given: &Seccomp) -> Result<Filter, Error> {
    spec::compile(given)
}

fn assemble(rules: &rules::Rules<'_>) -> Result<Vec<Instruction>, Error> {
    let program = program::assemble(rules);
    if program.len() > MAX_INSTRUCTIONS { Err(Error::TooLong(program.len())) } else { Ok(program) }
}

fn invalid(place: &str, what: impl Into<String>) -> Error {
    Error::Invalid { place: place.to_owned(), what: what.into() }
}

impl Kernel {
    /// Reads `6.18` out of `6.18`, `6.18.4` or `6.18.4-amd64`.
    #[must_use]
    pub fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.splitn(3, '.');
        let major = numbers.next()?.parse().ok()?;
        let minor = numbers.next()?;
        let digits = minor.find(|c: char| !c.is_ascii_digit()).unwrap_or(minor.len());
        Some(Self(major, minor[..digits].parse().ok()?))
    }
}

/// For profiles that say nothing of flags; as runc since 1.2.
const FLAGS: Flags = Flags { spec_allow: true, ..Flags::NONE };

/// In which containers and on which kernels a rule applies.
#[derive(Debug, Clone, Copy)]
struct When {
    /// All of these are held.
    with: CapSet,
    /// None of these is.
    without: CapSet,
    since: Option<Kernel>,
    before: Option<Kernel>,
}

impl When {
    const ALWAYS: Self = Self { with: CapSet::NONE, without: CapSet::NONE, since: None, before: None };

    fn applies(&self, caps: CapSet, kernel: Kernel) -> bool {
        caps.contains(self.with)
            && !caps.intersects(self.without)
            && self.since.is_none_or(|since| kernel >= since)
            && self.before.is_none_or(|before| kernel < before)
    }
}
