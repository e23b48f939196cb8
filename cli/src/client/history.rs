//! `skiff history` of containers: how they ended, and what they had used. Read from the file that the daemon writes; nobody is asked.

use serde_json::{Value, json};
use skiff_engine::history::{self, Ended};

use super::{failed, now_ns, print, refused, template};
use crate::failure::Failure;
use crate::format::filter::Filters;
use crate::format::units::{binary, date, ellipsis, span};
use crate::format::{Inspection, Listing, Row};
use crate::roots::Roots;
use crate::values::cause;

/// What is wanted of the list.
#[derive(Debug, Default)]
pub(crate) struct Wanted<'a> {
    /// Only so many, the newest.
    pub(crate) last: Option<usize>,
    /// `KEY=VALUE`.
    pub(crate) filters: &'a [String],
    /// How it is printed.
    pub(crate) format: Option<&'a str>,
    /// Ids and commands in full.
    pub(crate) no_trunc: bool,
}

/// The usual table.
const USUAL: &str = "{{.ID}}\t{{.Name}}\t{{.Image}}\t{{.Ended}}\t{{.Lasted}}\t{{.ExitCode}}\t{{.CPU}}\t{{.Memory}}\t{{.Faults}}\t{{.OOM}}";

/// Lists the ends of containers, the newest first.
pub(crate) fn list(wanted: &Wanted<'_>) -> Result<u8, Failure> {
    let listing = Listing::parse(wanted.format, USUAL).map_err(template)?;
    let reason = |reason: String| refused(Failure::engine(reason));
    let mut filters = Filters::default();
    wanted.filters.iter().try_for_each(|word| filters.add(word)).map_err(reason)?;
    let (all, torn) = read()?;
    if torn > 0 {
        eprintln!("skiff: {torn} lines of the history are torn, or of another version");
    }
    let summaries: Vec<Value> = all.iter().enumerate().map(summary).collect();
    let shown = filters.select(&summaries, &summaries).map_err(reason)?;
    let shown = shown.iter().filter_map(|summary| all.get(usize::try_from(summary["Nth"].as_u64()?).ok()?));
    let shown = shown.take(wanted.last.unwrap_or(usize::MAX));
    let now_ns = now_ns();
    let is_json = matches!(listing, Listing::Json);
    let rows = shown.map(|ended| if is_json { json!(ended) } else { row(ended, now_ns, wanted.no_trunc) });
    let rows = listing.fit(rows);
    let rows: Vec<Row<'_>> = rows.iter().map(|document| Row { document, labels: &Value::Null }).collect();
    print(&listing.print(&rows, &names()).map_err(template)?)
}

/// Prints all that is known of the ends of the container that `word` means: its name, its id, or a beginning of that.
///
/// `None`: there is none.
pub(crate) fn show(word: &str, format: Option<&str>) -> Result<Option<u8>, Failure> {
    let (all, _) = read()?;
    let is_named = |ended: &&Ended| ended.name == word || ended.id == word;
    let begins = |ended: &&Ended| !word.is_empty() && ended.id.starts_with(word);
    let mut found: Vec<&Ended> = all.iter().filter(is_named).collect();
    if found.is_empty() {
        found = all.iter().filter(begins).collect();
    }
    let Some(first) = found.first() else { return Ok(None) };
    if found.iter().any(|ended| ended.id != first.id) && !found.iter().all(is_named) {
        return Err(refused(Failure::engine(format!("several containers' ids begin with {word}"))));
    }
    let inspection = Inspection::parse(format).map_err(template)?;
    let documents: Vec<Value> = found.iter().map(|ended| json!(ended)).collect();
    print(&inspection.print(&documents).map_err(template)?).map(Some)
}

/// All ends, and how many lines are torn.
fn read() -> Result<(Vec<Ended>, usize), Failure> {
    let roots = Roots::find().map_err(refused)?;
    let read = history::read(&roots.state);
    read.map_err(|error| {
        let what = format!("read the history of {}: {}", roots.state.display(), cause(&error));
        failed(skiff_engine::Error::Host(what))
    })
}

/// What filters ask for, with docker's words, and which it is.
fn summary((nth, ended): (usize, &Ended)) -> Value {
    json!({
        "Nth": nth,
        "Id": ended.id,
        "Names": [format!("/{}", ended.name)],
        "Image": ended.image,
        "ImageID": ended.image_id.as_deref().unwrap_or_default(),
        "CreatedNs": ended.created_ns,
        "State": "exited",
        "ExitCode": ended.exit_code,
        "Health": "",
        "Labels": {},
        "Mounts": [],
    })
}

fn row(ended: &Ended, now_ns: u64, no_trunc: bool) -> Value {
    let figures = &ended.figures;
    let id = if no_trunc { &ended.id } else { ended.id.get(..12).unwrap_or(&ended.id) };
    let command = ended.command.join(" ");
    let memory = figures.memory.peak_bytes.or(figures.memory.peak_process_bytes);
    let faults = figures.memory.minor_faults.zip(figures.memory.major_faults);
    let oom = match &figures.oom {
        Some(oom) => format!("{} by {}", oom.victim_name, oom.killer_name),
        None if ended.is_oom_killed => "yes".into(),
        None => String::new(),
    };
    json!({
        "ID": id,
        "Name": ended.name,
        "Image": ended.image,
        "Command": if no_trunc { command } else { ellipsis(&command, 20) },
        "StartedAt": date(ended.started_ns),
        "FinishedAt": date(ended.finished_ns),
        "Ended": format!("{} ago", span(now_ns, ended.finished_ns)),
        "Lasted": time(ended.finished_ns.saturating_sub(ended.started_ns)),
        "ExitCode": ended.exit_code,
        "CPU": figures.cpu.usage_ns.map_or_else(none, time),
        "Memory": memory.map_or_else(none, binary),
        "Faults": faults.map_or_else(none, |(minor, major)| (minor + major).to_string()),
        "OOM": oom,
        "Restarts": figures.restarts,
        "Figures": figures,
    })
}

fn none() -> String {
    "--".to_owned()
}

/// A time with three digits or so.
fn time(ns: u64) -> String {
    let ns = ns as f64;
    match ns {
        ..1e6 => format!("{:.0}µs", ns / 1e3),
        ..1e8 => format!("{:.1}ms", ns / 1e6),
        ..1e9 => format!("{:.0}ms", ns / 1e6),
        ..1e11 => format!("{:.2}s", ns / 1e9),
        _ => format!("{:.0}s", ns / 1e9),
    }
}

fn names() -> Value {
    json!({
        "ID": "CONTAINER ID", "Name": "NAME", "Image": "IMAGE", "Command": "COMMAND", "StartedAt": "STARTED AT",
        "FinishedAt": "FINISHED AT", "Ended": "ENDED", "Lasted": "LASTED", "ExitCode": "EXIT", "CPU": "CPU",
        "Memory": "PEAK MEM", "Faults": "FAULTS", "OOM": "OOM", "Restarts": "RESTARTS", "Figures": "FIGURES",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits() {
        let check = |ns: u64, expected: &str| assert_eq!(time(ns), expected);
        check(5_000, "5µs");
        check(5_200_000, "5.2ms");
        check(250_000_000, "250ms");
        check(2_500_000_000, "2.50s");
        check(250_000_000_000, "250s");
    }

    #[test]
    fn a_row_tells_what_is_known() {
        let mut ended = Ended { id: "0123456789abcdef".into(), finished_ns: 7_000_000, ..Ended::default() };
        ended.figures.memory.peak_process_bytes = Some(2 << 20);
        let one = row(&ended, 0, false);
        assert_eq!((&one["ID"], &one["Lasted"]), (&"0123456789ab".into(), &"7.0ms".into()));
        assert_eq!((&one["Memory"], &one["CPU"], &one["OOM"]), (&"2MiB".into(), &"--".into(), &"".into()));
        let names = names();
        assert!(one.as_object().expect("fields").keys().all(|field| names.get(field).is_some()));
    }
}
