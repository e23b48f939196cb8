//! A comparison for programs: docs/bench.md describes it.

use serde::Serialize;
use serde_json::{Map, Value, json};
use skiff_observe::compare::{Compared, METRICS, Outcome, Phase, Run, Settings, Stopping};

use super::Bench;
use super::session::Stopped;
use crate::failure::Failure;

#[derive(Debug, Serialize)]
struct Document<'a> {
    schema: &'static str,
    a: &'a str,
    b: Option<&'a str>,
    settings: &'a Settings,
    stopping: &'a Stopping,
    seed: u64,
    stopped: Stopped,
    precise: bool,
    metrics: &'a [Compared],
    missing: Vec<Value>,
    limits: &'a [Outcome],
    cost: Value,
    runs: Vec<Value>,
}

pub(super) fn render(bench: &Bench) -> Result<String, Failure> {
    let (report, ended) = (&bench.judged, &bench.ended);
    let missing = report.missing.iter().map(|name| {
        let known = ended.missing.iter().find(|(other, _)| other == name);
        json!({"metric": name, "why": known.map_or("the host does not tell", |(_, why)| *why)})
    });
    let document = Document {
        schema: "skiff.bench/1",
        a: &report.about.a,
        b: report.about.b.as_deref(),
        settings: &report.about.settings,
        stopping: &bench.stopping,
        seed: report.about.seed,
        stopped: ended.stopped,
        precise: ended.precise,
        metrics: &report.compared,
        missing: missing.collect(),
        limits: &report.limits,
        cost: json!({
            "took_ns": ended.took_ns,
            "measured_ns": ended.measured_ns,
            "traced_calls": ended.traced.map(|(calls, _)| calls),
            "traced_ns": ended.traced.and_then(|(_, ns)| ns),
        }),
        runs: report.runs.iter().map(run).collect(),
    };
    let text = serde_json::to_string_pretty(&document);
    text.map(|text| text + "\n").map_err(|error| Failure::engine(format!("bench: {error}")))
}

fn run(run: &Run) -> Value {
    let figures: Map<String, Value> = METRICS
        .iter()
        .enumerate()
        .filter_map(|(index, metric)| Some((metric.name.to_owned(), run.figures.get(index)?.into())))
        .collect();
    let phase = match run.phase {
        Phase::WarmUp => "warm-up",
        Phase::Control => "control",
        Phase::Comparison => "comparison",
    };
    json!({"phase": phase, "arm": run.arm, "at_ns": run.at_ns, "exit_code": run.exit_code, "figures": figures})
}
