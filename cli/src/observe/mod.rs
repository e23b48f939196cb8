//! `skiff observe`: leaves the eBPF programs on the host, so that every container that skiff or skiff-runtime starts from
//! then on can be counted, with no process that stays; and shows what those of waiting and of sockets have counted.

mod json;
mod show;

use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use skiff_ebpf::Probes;
use skiff_ebpf::pinned::{self, FILE_SYSTEM, Pinned};
use skiff_runtime::observe;

use crate::failure::Failure;
use crate::profile::{duration, size};
use crate::words::{Format, Words};

/// Slots unless `--slots` says otherwise.
const SLOTS: u32 = 16;

/// What to do.
enum Verb {
    Status { format: Format },
    On { probes: Option<Probes>, slots: Option<u32> },
    Off,
    Show { container: Option<String>, format: Format, whole_ids: bool },
}

/// Carries out `skiff observe …`; returns what is to be printed.
pub(crate) fn run(words: &mut Words) -> Result<String, Failure> {
    match parse(words)? {
        Verb::Status { format } => status(format),
        Verb::On { probes, slots } => on(probes, slots),
        Verb::Off => off(),
        Verb::Show { container, format, whole_ids } => show::run(container.as_deref(), format, whole_ids),
    }
}

fn parse(words: &mut Words) -> Result<Verb, Failure> {
    let mut verb = Verb::Status { format: Format::Text };
    while let Some(word) = words.next()? {
        verb = match (word.as_str(), verb) {
            ("on", Verb::Status { format: Format::Text }) => Verb::On { probes: None, slots: None },
            ("off", Verb::Status { format: Format::Text }) => Verb::Off,
            ("--format", Verb::Status { .. }) => Verb::Status { format: words.format()? },
            ("show", Verb::Status { format: Format::Text }) => {
                Verb::Show { container: None, format: Format::Text, whole_ids: false }
            }
            ("--slots", Verb::On { probes, .. }) => {
                let value = words.value("--slots")?;
                let slots = value.parse().ok().filter(|slots| (1..=4096).contains(slots));
                let slots = slots.ok_or_else(|| words.refused(&format!("--slots {value}: not 1 to 4096")))?;
                Verb::On { probes, slots: Some(slots) }
            }
            ("--format", Verb::Show { container, whole_ids, .. }) => {
                Verb::Show { container, format: words.format()?, whole_ids }
            }
            ("--no-trunc", Verb::Show { container, format, .. }) => {
                Verb::Show { container, format, whole_ids: true }
            }
            (flag, _) if flag.starts_with('-') => return Err(words.unknown(&word)),
            (list, Verb::On { probes: None, slots }) => {
                let probes = Probes::parse(list).map_err(|word| {
                    words.refused(&format!("{word:?} is none of {}", Probes::NAMES.join(", ")))
                })?;
                Verb::On { probes: Some(probes), slots }
            }
            (_, Verb::Show { container: None, format, whole_ids }) => {
                Verb::Show { container: Some(word), format, whole_ids }
            }
            _ => return Err(words.unknown(&word)),
        };
    }
    Ok(verb)
}

fn on(probes: Option<Probes>, slots: Option<u32>) -> Result<String, Failure> {
    if let Some(pinned) = open()? {
        let same = slots.is_none_or(|slots| slots == pinned.slots())
            && probes.is_none_or(|probes| probes.bits() & !pinned.probes().bits() == 0);
        return if same { status(Format::Text) } else { Err(failed(pinned.already())) };
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
    let probes = probes.unwrap_or(Probes { syscalls: true, ..Probes::default() });
    pinned::pin(slots.unwrap_or(SLOTS), probes).map_err(failed)?;
    Ok(text + &status(Format::Text)?)
}

fn off() -> Result<String, Failure> {
    let removed = pinned::unpin().map_err(failed)?;
    Ok(if removed { "observing is off now\n" } else { "observing was off\n" }.to_owned())
}

fn status(format: Format) -> Result<String, Failure> {
    let Some(pinned) = open()? else {
        return Ok(match format {
            Format::Json => json::off(),
            Format::Text => "observing is off\n".to_owned(),
        });
    };
    observe::reclaim().map_err(|error| Failure::engine(format!("observe: {error}")))?;
    let (taken, refused) = (pinned.taken().map_err(failed)?, pinned.refused().map_err(failed)?);
    if format == Format::Json {
        return Ok(json::on(&pinned, taken.len(), refused.len()));
    }
    let mut text = format!(
        "observing is on, for {}\n  probes: {}\n  slots: {}, {} of them taken; {} containers found none\n",
        duration(pinned.age_ns() as f64),
        pinned.probes().names().join(", "),
        pinned.slots(),
        taken.len(),
        refused.len(),
    );
    costs(&pinned).iter().for_each(|line| text += &format!("  {line}\n"));
    pinned.missing().iter().for_each(|figure| text += &format!("  not on this kernel: {figure}\n"));
    Ok(text)
}

/// A line for what each probe takes.
fn costs(pinned: &Pinned) -> Vec<String> {
    let ns = |ns: Option<u64>| ns.map_or_else(|| "n/a".to_owned(), |ns| format!("{ns} ns"));
    let (probes, cost, more) = (pinned.probes(), pinned.cost(), pinned.tier1_cost());
    let slots = u64::from(pinned.slots());
    let memory = |bytes: u64| format!("{}, {} a slot", size(bytes), size(bytes / slots));
    let mut lines = vec![format!("memory: {}", memory(cost.map_bytes + more.waits_bytes + more.net_bytes))];
    if probes.syscalls {
        lines.push(format!(
            "cost of a system call: {} in a container, {} elsewhere",
            ns(cost.ns_per_call),
            ns(cost.ns_per_call_of_others)
        ));
    }
    if probes.run_queue {
        lines.push(format!(
            "cost of a switch between tasks: {} in a container, {} elsewhere",
            ns(more.switch.map(|switch| switch.counted_ns)),
            ns(more.switch.map(|switch| switch.others_ns))
        ));
    }
    if probes.net || probes.tcp {
        lines.push("cost of a packet: of containers that are counted alone".to_owned());
    }
    lines
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
