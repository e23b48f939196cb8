//! A profile over time, for <https://ui.perfetto.dev>: the launch phase by phase, the program, and the lives of its processes.

use skiff_observe::perfetto::{self, Slice, Track};

use super::document::{Document, Step, SystemCall};
use super::outputs::Form;
use super::part::Section;
use super::text::duration;

/// The phase in which the program begins, before its end.
const LAST_OF_LAUNCH: &str = "exec";
/// System calls told of with the program.
const CALLS: usize = 12;

/// The run that `document` is of, which began at `begin_ns`; nothing if that is none of the `wanted` forms.
pub(crate) fn of_run(
    document: &Document,
    begin_ns: u64,
    wanted: &[Form],
    sections: &[Section],
) -> Option<Section> {
    wanted.contains(&Form::Perfetto).then(|| {
        let (name, slice) = run(document, begin_ns);
        written(name, slice, sections)
    })
}

/// A period of the container `name`; as [`of_run`].
pub(crate) fn of_period(
    name: &str,
    [begin_ns, end_ns]: [u64; 2],
    of_calls: &[SystemCall],
    wanted: &[Form],
    sections: &[Section],
) -> Option<Section> {
    wanted.contains(&Form::Perfetto).then(|| {
        let all = Slice { notes: calls(of_calls), ..Slice::new("period", begin_ns, end_ns) };
        written(name, all, sections)
    })
}

fn run(document: &Document, begin_ns: u64) -> (&str, Slice) {
    let timeline = &document.timeline;
    let last_us = |steps: &[Slice]| steps.last().map_or(begin_ns, |step| step.end_ns);
    let mut launch: Vec<Slice> = timeline.phases.iter().filter_map(|step| slice(step, begin_ns)).collect();
    let at = launch.iter().position(|step| step.name == LAST_OF_LAUNCH).map_or(launch.len(), |at| at + 1);
    let mut program_steps = launch.split_off(at);
    let program_ns = timeline.program_us.map_or_else(|| last_us(&launch), |us| begin_ns + ns(us));
    let end_ns =
        timeline.end_us.map_or_else(|| last_us(&program_steps).max(program_ns), |us| begin_ns + ns(us));
    if let Some(first) = timeline.first_output_us {
        let at = begin_ns + ns(first);
        program_steps.push(Slice::new("first output", at, at));
        if let Some(step) = program_steps.first_mut() {
            "until the first output".clone_into(&mut step.name);
        }
    }
    let set_up = Slice {
        notes: calls(&document.system_calls.init),
        inner: launch,
        ..Slice::new("launch", begin_ns, program_ns)
    };
    let program = Slice {
        notes: calls(&document.system_calls.workload),
        inner: program_steps,
        ..Slice::new("program", program_ns, end_ns)
    };
    let container = &document.container;
    let mut all = Slice::new("container", begin_ns, end_ns);
    all.notes.push(("command".into(), container.command.join(" ")));
    all.notes.extend(container.image.iter().map(|image| ("image".into(), image.clone())));
    all.notes.extend(document.exit.code.map(|code| ("exit code".into(), code.to_string())));
    all.notes.extend(document.exit.signal.map(|signal| ("signal".into(), signal.to_string())));
    all.inner = if timeline.program_us.is_some() { vec![set_up, program] } else { vec![set_up] };
    let name = container.name.as_deref().unwrap_or(&container.id);
    (name, all)
}

fn written(name: &str, all: Slice, sections: &[Section]) -> Section {
    let mut tracks = vec![Track { name: format!("container {name}"), process: None, slices: vec![all] }];
    tracks.extend(sections.iter().flat_map(|section| section.tracks.clone()));
    Section { files: vec![(Form::Perfetto, perfetto::trace(&tracks))], ..Section::default() }
}

fn slice(step: &Step, begin_ns: u64) -> Option<Slice> {
    let start_ns = begin_ns + ns(step.start_us?);
    Some(Slice::new(step.name, start_ns, start_ns + ns(step.duration_us?)))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "times of one run, not negative")]
fn ns(us: f64) -> u64 {
    (us * 1000.0).round() as u64
}

/// The calls that took longest, each in a line.
fn calls(all: &[SystemCall]) -> Vec<(String, String)> {
    let line = |call: &SystemCall| {
        let failed: u64 = call.errors.values().sum();
        (
            call.name.clone(),
            format!("{} calls, {failed} failed, {}", call.calls, duration(call.total_ns as f64)),
        )
    };
    all.iter().take(CALLS).map(line).collect()
}
