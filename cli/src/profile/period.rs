//! A period of a container that runs, as data and as text: docs/profile.md describes the fields.

use serde::Serialize;
use serde_json::{Map, Value};
use skiff_ebpf::Record;
use skiff_observe::trace::plain_json;
use skiff_runtime::cgroup::Usage;

use super::document::{self, Cgroup, Cost, Execs, Oom, Resources, SystemCall};
use super::part::Section;
use super::text;
use crate::failure::Failure;
use crate::target::Target;

/// The version of this form; see [`document::SCHEMA`].
const SCHEMA: &str = "skiff.profile.period/1";

/// Why a period was over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ended {
    /// It had been asked for so long.
    Period,
    /// The container had ended.
    Container,
    /// SIGINT, SIGTERM or SIGHUP.
    Signal,
}

/// What was counted.
#[derive(Debug)]
pub(crate) struct Period<'a> {
    pub(crate) target: &'a Target,
    /// ns of CLOCK_MONOTONIC.
    pub(crate) begin_ns: u64,
    pub(crate) end_ns: u64,
    pub(crate) ended: Ended,
    pub(crate) usage: Usage,
    pub(crate) record: &'a Record,
}

/// The profile of a period.
#[derive(Debug, Serialize)]
pub(crate) struct Document {
    schema: &'static str,
    container: Container,
    period: Span,
    system_calls: Vec<SystemCall>,
    resources: Resources,
    cgroup: Cgroup,
    execs: Execs,
    oom: Option<Oom>,
    /// What else was asked for, by its name.
    #[serde(flatten)]
    parts: Map<String, Value>,
    events_lost: u64,
    missing: Vec<String>,
    cost: Cost,
}

#[derive(Debug, Serialize)]
struct Container {
    id: String,
    name: Option<String>,
}

#[derive(Debug, Serialize)]
struct Span {
    duration_us: Option<f64>,
    ended_by: Ended,
}

impl Document {
    pub(crate) fn new(period: &Period<'_>, sections: &[Section]) -> Self {
        let record = period.record;
        let missing = record.missing.iter().cloned().chain(document::uncounted(&period.usage));
        Self {
            schema: SCHEMA,
            container: Container { id: period.target.id.clone(), name: period.target.name.clone() },
            period: Span {
                duration_us: document::micros(period.begin_ns, period.end_ns),
                ended_by: period.ended,
            },
            system_calls: document::system_calls(&record.workload),
            resources: document::resources(&record.workload),
            cgroup: document::cgroup(&period.usage),
            execs: document::execs(record, period.begin_ns),
            oom: document::oom(record, period.begin_ns),
            parts: sections.iter().map(|section| (section.key.to_owned(), section.json.clone())).collect(),
            events_lost: record.lost + sections.iter().map(|section| section.lost).sum::<u64>(),
            missing: missing.chain(sections.iter().flat_map(|section| section.missing.clone())).collect(),
            cost: document::cost(record),
        }
    }

    /// The calls that were made.
    pub(crate) fn calls(&self) -> &[SystemCall] {
        &self.system_calls
    }

    /// As JSON, with a line feed at its end.
    pub(crate) fn json(&self) -> Result<String, Failure> {
        let text = serde_json::to_string_pretty(self);
        text.map(|text| plain_json(text + "\n")).map_err(|error| Failure::engine(format!("profile: {error}")))
    }

    /// For people.
    pub(crate) fn render(&self, sections: &[Section]) -> String {
        let id = &self.container.id;
        let name = self.container.name.as_deref().unwrap_or(&id[..id.len().min(12)]);
        let ended = match self.period.ended_by {
            Ended::Period => "",
            Ended::Container => ", until it ended",
            Ended::Signal => ", interrupted",
        };
        let took = text::duration(self.period.duration_us.unwrap_or(0.0) * 1000.0);
        let mut report = format!("profile of {} for {took}{ended}\n", text::plain(name));
        let mut add = |part: &str| {
            report.push('\n');
            report.push_str(part);
        };
        add(&text::system_calls("system calls", &self.system_calls, usize::MAX));
        add(&text::resources_of(&self.resources));
        add(&text::container(&self.cgroup));
        add(&text::execs(&self.execs));
        sections.iter().for_each(|section| add(&section.text));
        let missing: String =
            self.missing.iter().map(|reason| format!("n/a: {}\n", text::plain(reason))).collect();
        let lost = format!("events lost: {}\n", self.events_lost);
        add(&(text::killed(self.oom.as_ref()) + &missing + &lost + &text::cost(&self.cost, "period")));
        report
    }
}
