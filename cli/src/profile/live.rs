//! `skiff profile CONTAINER`: the profile of a container that runs, or has ended and not been deleted; with `--for`, of a
//! period of one that runs.

use std::path::PathBuf;

use skiff_ebpf::Record;
use skiff_ebpf::pinned::Pinned;
use skiff_runtime::launch::Stamps;

use super::attach::{self, Wish};
use super::part::Wanted;
use super::{Document, Run, json, render, stacks};
use crate::counted::{self, Container};
use crate::failure::Failure;
use crate::observe;
use crate::values::time::duration;
use crate::words::{Format, Words};

/// Carries out `skiff profile …`; returns what is to be printed.
pub(crate) fn run(words: &mut Words) -> Result<String, Failure> {
    let (mut name, mut format) = (None, Format::Text);
    let (mut period, mut outputs, mut wanted) = (None, Vec::new(), Wanted::default());
    while let Some(word) = words.next()? {
        match word.as_str() {
            "--format" => format = words.format()?,
            "--for" => {
                let value = words.value("--for")?;
                let wrong = |reason: &str| words.refused(&format!("--for {value}: {reason}"));
                let span = duration(&value).map_err(|reason| wrong(&reason))?;
                period = Some(span).filter(|span| !span.is_zero());
                period.ok_or_else(|| wrong("not a time to count anything in"))?;
            }
            "--stacks" => wanted.stacks_hz = Some(stacks::rate(words.optional().as_deref())?),
            "--files" => wanted.files = true,
            "--output" | "-o" => outputs.push(PathBuf::from(words.value(&word)?)),
            flag if flag.starts_with('-') => return Err(words.unknown(&word)),
            _ if name.is_none() => name = Some(word),
            _ => return Err(words.unknown(&word)),
        }
    }
    let name = name.ok_or_else(|| words.refused("no container given"))?;
    if let Some(period) = period {
        return attach::run(&Wish { container: name, period, format, outputs, wanted });
    }
    if !outputs.is_empty() || wanted != Wanted::default() {
        return Err(words.refused("--output, --files and --stacks need --for"));
    }
    let pinned = observe::open()?.ok_or_else(off)?;
    let document = document(&pinned, &counted::find(&pinned, &name)?)?;
    match format {
        Format::Text => Ok(render(&document)),
        Format::Json => json(&document).map_err(|error| Failure::engine(format!("profile: {error}"))),
    }
}

/// Nothing is counted, as nobody has asked for it.
pub(crate) fn off() -> Failure {
    Failure::engine("observing is off: 'skiff observe on' lets containers be counted from then on")
}

fn document(pinned: &Pinned, container: &Container) -> Result<Document, Failure> {
    let record = pinned.snapshot(container.taken.slot).map_err(observe::failed)?;
    let [begin_ns, start, rootfs_done, arm_ns, cgroup_done, child, mounts_done, security_done, _waits] =
        container.taken.owner.stamps;
    // A created container waits to be started: that the launcher has seen.
    let exec_seen = record.exec_ns.unwrap_or(0);
    let names = counted::Names::find();
    Ok(Document::new(&Run {
        id: &container.id,
        name: names.of(&container.id),
        image: None,
        argv: command(&record),
        exit: None,
        begin_ns: if begin_ns == 0 { arm_ns } else { begin_ns },
        arm_ns,
        ended_ns: 0,
        stamps: &Stamps { start, rootfs_done, cgroup_done, child, mounts_done, security_done, exec_seen },
        usage: &container.usage(),
        record: &record,
        prefetch: None,
        run: None,
        uses: None,
    }))
}

/// The command of the first program that was executed.
fn command(record: &Record) -> Vec<String> {
    let first = record.execs.iter().find(|exec| exec.workload);
    first.map(|exec| exec.argv.clone()).unwrap_or_default()
}
