//! `skiff observe`: leaves the eBPF programs on the host, so that every container that skiff or skiff-runtime starts from
//! then on can be counted, with no process that stays.

use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use skiff_ebpf::pinned::{self, FILE_SYSTEM, Pinned};
use skiff_runtime::observe;

use crate::failure::Failure;
use crate::profile::{duration, size};
use crate::words::Words;

/// Slots unless `--slots` says otherwise.
const SLOTS: u32 = 16;

/// What to do.
enum Verb {
    Show,
    On(Option<u32>),
    Off,
}

/// Carries out `skiff observe …`; returns what is to be printed.
pub(crate) fn run(words: &mut Words) -> Result<String, Failure> {
    match parse(words)? {
        Verb::Show => show(),
        Verb::On(slots) => on(slots),
        Verb::Off => off(),
    }
}

fn parse(words: &mut Words) -> Result<Verb, Failure> {
    let mut verb = Verb::Show;
    while let Some(word) = words.next()? {
        verb = match (word.as_str(), verb) {
            ("on", Verb::Show) => Verb::On(None),
            ("off", Verb::Show) => Verb::Off,
            ("--slots", Verb::On(_)) => {
                let value = words.value("--slots")?;
                let slots = value.parse().ok().filter(|slots| (1..=4096).contains(slots));
                let slots = slots.ok_or_else(|| words.refused(&format!("--slots {value}: not 1 to 4096")))?;
                Verb::On(Some(slots))
            }
            _ => return Err(words.unknown(&word)),
        };
    }
    Ok(verb)
}

fn on(slots: Option<u32>) -> Result<String, Failure> {
    if let Some(pinned) = open()? {
        return match slots {
            Some(slots) if slots != pinned.slots() => Err(failed(skiff_ebpf::Error::Pinned(pinned.slots()))),
            _ => show(),
        };
    }
    let mut text = String::new();
    if statfs(FILE_SYSTEM).ok().map(|found| found.filesystem_type()) != Some(BPF_FS_MAGIC) {
        mount(
            Some("bpf"),
            FILE_SYSTEM,
            Some("bpf"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
            Some("mode=700"),
        )
        .map_err(|error| {
            Failure::engine(format!("observe: mount bpf at {FILE_SYSTEM}: {}", error.desc().to_lowercase()))
        })?;
        text = format!("mounted bpf at {FILE_SYSTEM}\n");
    }
    pinned::pin(slots.unwrap_or(SLOTS)).map_err(failed)?;
    Ok(text + &show()?)
}

fn off() -> Result<String, Failure> {
    let removed = pinned::unpin().map_err(failed)?;
    Ok(if removed { "observing is off now\n" } else { "observing was off\n" }.to_owned())
}

fn show() -> Result<String, Failure> {
    let Some(pinned) = open()? else { return Ok("observing is off\n".to_owned()) };
    observe::reclaim().map_err(|error| Failure::engine(format!("observe: {error}")))?;
    let (taken, refused) = (pinned.taken().map_err(failed)?, pinned.refused().map_err(failed)?);
    let cost = pinned.cost();
    let ns = |ns: Option<u64>| ns.map_or_else(|| "n/a".to_owned(), |ns| format!("{ns} ns"));
    Ok(format!(
        "observing is on, for {}\n  slots: {}, {} of them taken; {} containers found none\n  memory: {}\n  cost of a \
         system call: {} in a container, {} elsewhere\n",
        duration(pinned.age_ns() as f64),
        pinned.slots(),
        taken.len(),
        refused.len(),
        size(cost.map_bytes),
        ns(cost.ns_per_call),
        ns(cost.ns_per_call_of_others),
    ))
}

/// The pins; nothing also where no bpffs could have them.
pub(crate) fn open() -> Result<Option<Pinned>, Failure> {
    if !Path::new(FILE_SYSTEM).exists() {
        return Err(Failure::engine(format!("observe: there is no {FILE_SYSTEM}: is /sys mounted?")));
    }
    Pinned::open().map_err(failed)
}

#[expect(clippy::needless_pass_by_value, reason = "what `map_err` passes")]
pub(crate) fn failed(error: skiff_ebpf::Error) -> Failure {
    Failure::engine(format!("observe: {error}"))
}
