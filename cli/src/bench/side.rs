//! One of the two: a command line of `skiff run`, understood, and its image, which is held.

use std::ffi::OsString;

use skiff_engine::prefetch::Mode;
use skiff_engine::spec::{HealthTest, Restart};
use skiff_store::{Image, Lease};

use crate::args::{self, Args};
use crate::failure::Failure;
use crate::flags;
use crate::roots::Roots;

/// A side as it was typed.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) args: Box<Args>,
    pub(super) words: String,
}

/// A side that can be run.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) args: Box<Args>,
    /// As it was typed.
    pub(super) words: String,
    pub(super) image: Image,
    _lease: Option<Lease>,
}

/// The sides that `words` tell of: what comes before the first `separator`, and what comes after it. None if help is asked for.
pub(super) fn parse(words: Vec<OsString>, separator: &str) -> Result<Option<Vec<Parsed>>, Failure> {
    let at = words.iter().position(|word| word == separator);
    let (a, b) = match at {
        None => (words, None),
        Some(at) => {
            let mut words = words.into_iter();
            (words.by_ref().take(at).collect(), Some(words.skip(1).collect::<Vec<_>>()))
        }
    };
    let sides = [("A", Some(a)), ("B", b)];
    let given = sides.into_iter().filter_map(|(name, words)| Some((name, words?)));
    given.map(|(name, words)| one(name, words)).collect()
}

fn one(name: &str, words: Vec<OsString>) -> Result<Option<Parsed>, Failure> {
    let typed = words.iter().map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ");
    let named = |failure: Failure| Failure { message: format!("{name}: {}", failure.message), ..failure };
    let misplaced = misplaced(&words);
    let parsed = args::parse(&flags::RUN, &mut words.into_iter()).map_err(|failure| match misplaced {
        Some(flag) if failure.message.contains(&flag) => {
            Failure::engine(format!("{name}: {flag} is one of bench's, which come first"))
        }
        _ => named(failure),
    });
    match parsed? {
        args::Parsed::Help => Ok(None),
        args::Parsed::Run(mut args) => {
            fits(&args)
                .map_err(|flag| Failure::engine(format!("{name}: --{flag} does not go with bench")))?;
            // What it writes goes with it.
            args.spec.auto_remove = true;
            Ok(Some(Parsed { args, words: typed }))
        }
    }
}

/// A flag of bench's among those of a side.
fn misplaced(words: &[OsString]) -> Option<String> {
    let flags = words.iter().filter_map(|word| word.to_str()).filter(|word| word.starts_with("--"));
    let mut flags = flags.map(|word| word.split('=').next().unwrap_or(word));
    flags.find(|flag| super::COMMAND.is_own(flag.as_ref())).map(str::to_owned)
}

/// Whether it can be run again and again with nobody at a terminal; the flag that forbids it.
fn fits(args: &Args) -> Result<(), &'static str> {
    let spec = &args.spec;
    let asked = [
        ("detach", args.detach),
        ("interactive", spec.options.interactive),
        ("tty", spec.options.tty),
        ("profile", args.profile.is_some()),
        ("cidfile", args.cidfile.is_some()),
        ("restart", spec.restart != Restart::No),
        ("health-…", spec.health.test.as_ref().is_some_and(|test| *test != HealthTest::None)),
        ("prefetch record", spec.prefetch == Mode::Record),
    ];
    asked.into_iter().find(|(_, asked)| *asked).map_or(Ok(()), |(flag, _)| Err(flag))
}

impl Side {
    /// Finds the image, or fetches it, and holds it.
    pub(super) fn prepare(parsed: Parsed, roots: &Roots) -> Result<Self, Failure> {
        let (image, lease) = crate::run::image(&parsed.args, roots)?;
        Ok(Self { args: parsed.args, words: parsed.words, image, _lease: lease })
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,+%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}
