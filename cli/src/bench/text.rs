//! A comparison for people. Pure.

use skiff_observe::compare::{Compared, Interval, Unit, Verdict};

use super::Bench;
use super::session::Stopped;
use crate::profile::{Align, Table, duration, plain};

pub(super) fn render(bench: &Bench) -> String {
    let report = &bench.judged;
    let mut text = format!("A: {}\n", plain(&report.about.a));
    if let Some(b) = &report.about.b {
        text += &format!("B: {}\n", plain(b));
    }
    text.push('\n');
    text += &if report.about.b.is_some() { two(bench) } else { one(bench) };
    text.push('\n');
    text += &missing(bench);
    text += &how(bench);
    text += &control(bench);
    text += &cost(bench);
    for outcome in &report.limits {
        let word = if outcome.failed { "exceeded" } else { "not exceeded" };
        text += &format!("fail if {}: {word}\n", outcome.limit);
    }
    text
}

fn two(bench: &Bench) -> String {
    use Align::{Left, Right};
    let heading = format!("{} % INTERVAL", bench.judged.about.settings.confidence * 100.0);
    let mut table = Table::new([
        ("METRIC", Left),
        ("A", Right),
        ("B", Right),
        ("DIFFERENCE", Right),
        (heading.as_str(), Right),
        ("NOISE", Right),
        ("VERDICT", Left),
    ])
    .flush();
    for compared in &bench.judged.compared {
        let unit = compared.metric.unit;
        let (Some(b), Some(difference)) = (&compared.b, &compared.difference) else { continue };
        let absolute = difference.absolute;
        let is_equal = compared.verdict == Some(Verdict::Equal);
        // Where there are parts of A, these are easier to read.
        let (by, span) = match difference.relative {
            _ if is_equal => (String::new(), String::new()),
            Some(parts) => (parted(parts.estimate), span(&parts, parted)),
            None => (signed(absolute.estimate, unit), span(&absolute, |figure| signed(figure, unit))),
        };
        table.row([
            compared.metric.name.to_owned(),
            unit.show(compared.a.centre.estimate),
            unit.show(b.centre.estimate),
            by,
            span,
            if is_equal { String::new() } else { noise(compared) },
            verdict(compared.verdict).to_owned(),
        ]);
    }
    table.render()
}

fn one(bench: &Bench) -> String {
    use Align::{Left, Right};
    let heading = format!("{} % INTERVAL", bench.judged.about.settings.confidence * 100.0);
    let mut table = Table::new([
        ("METRIC", Left),
        ("A", Right),
        (heading.as_str(), Right),
        ("MIN", Right),
        ("P95", Right),
        ("MAX", Right),
    ])
    .flush();
    for compared in &bench.judged.compared {
        let unit = compared.metric.unit;
        let a = &compared.a;
        table.row([
            compared.metric.name.to_owned(),
            unit.show(a.centre.estimate),
            span(&a.centre, |figure| unit.show(figure)),
            unit.show(a.min),
            unit.show(a.p95),
            unit.show(a.max),
        ]);
    }
    table.render()
}

/// What the host does not tell, by the reasons.
fn missing(bench: &Bench) -> String {
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for name in &bench.judged.missing {
        let known = bench.ended.missing.iter().find(|(other, _)| other == name);
        let why = known.map_or("the host does not tell", |(_, why)| *why);
        match reasons.iter_mut().find(|(other, _)| *other == why) {
            Some((_, names)) => names.push(name),
            None => reasons.push((why, vec![name])),
        }
    }
    reasons.iter().map(|(why, names)| format!("n/a: {} ({why})\n", names.join(", "))).collect()
}

fn how(bench: &Bench) -> String {
    let about = &bench.judged.about;
    let count = bench.judged.compared.first().map_or(0, |compared| compared.a.n);
    let noun = if about.b.is_some() { "pairs" } else { "runs" };
    let precision = format!("±{} %", bench.stopping.precision * 100.0);
    let why = match (bench.ended.stopped, bench.ended.precise) {
        (Stopped::Precise, _) => format!("within {precision}"),
        (Stopped::MaxRuns, true) => "no more were wanted".to_owned(),
        (Stopped::MaxTime, true) => "there was no more time".to_owned(),
        (Stopped::MaxRuns, false) => format!("no more were wanted, and it is wider than {precision}"),
        (Stopped::MaxTime, false) => format!("there was no more time, and it is wider than {precision}"),
    };
    let statistic = format!("{:?}", about.settings.statistic).to_lowercase();
    format!("{count} {noun}, {statistic}s; {why}; --seed {}\n", about.seed)
}

/// What is to be known of A against A.
fn control(bench: &Bench) -> String {
    let differing: Vec<&str> = bench
        .judged
        .compared
        .iter()
        .filter(|compared| compared.control.is_some_and(|control| control.differs))
        .map(|compared| compared.metric.name)
        .collect();
    if differing.is_empty() {
        return String::new();
    }
    format!("warning: A differs from itself in {}: this machine is not quiet\n", differing.join(", "))
}

fn cost(bench: &Bench) -> String {
    let ended = &bench.ended;
    let own = ended.took_ns.saturating_sub(ended.measured_ns);
    let runs = bench.judged.runs.len().max(1);
    let mut text = format!(
        "cost: {} runs in {}; {} a run to prepare and to clear away, which is in no figure",
        bench.judged.runs.len(),
        duration(ended.took_ns as f64),
        duration(own as f64 / runs as f64),
    );
    if let Some((calls, ns)) = ended.traced {
        let took = ns.map_or_else(|| "n/a".to_owned(), |ns| duration(ns as f64));
        text += &format!("; {calls} system calls traced, which took {took} of all runs");
    }
    text + "\n"
}

fn noise(compared: &Compared) -> String {
    let floor = compared.noise_floor.unwrap_or_default();
    let base = compared.a.centre.estimate;
    if !floor.is_finite() {
        return "n/a".to_owned();
    }
    match compared.difference.and_then(|difference| difference.relative) {
        Some(_) => format!("±{:.2} %", floor / base * 100.0),
        None => format!("±{}", compared.metric.unit.show(floor)),
    }
}

/// From end to end, if it has ends.
fn span(interval: &Interval, show: impl Fn(f64) -> String) -> String {
    if interval.is_bounded() {
        format!("{} … {}", show(interval.low), show(interval.high))
    } else {
        "n/a".to_owned()
    }
}

fn parted(part: f64) -> String {
    format!("{:+.2} %", part * 100.0)
}

fn signed(figure: f64, unit: Unit) -> String {
    format!("{}{}", if figure > 0.0 { "+" } else { "" }, unit.show(figure))
}

const fn verdict(verdict: Option<Verdict>) -> &'static str {
    match verdict {
        Some(Verdict::Lower) => "B lower",
        Some(Verdict::Higher) => "B higher",
        Some(Verdict::Equal) => "equal",
        Some(Verdict::None) => "none",
        None => "",
    }
}
