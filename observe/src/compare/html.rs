//! A report as one HTML file: no scripts, nothing fetched.

use super::bootstrap::Interval;
use super::judge::Verdict;
use super::metric::{Unit, index_of};
use super::plot::{differences, distributions, order, text};
use super::report::{Arm, Compared, Phase, Report, pairs};

/// How the page looks, on light and on dark screens.
const STYLE: &str = "\
:root{--ink:#1c2330;--dim:#667085;--line:#d8dde6;--page:#fff;--a:#2563eb;--b:#d9600a;--floor:#e8ebf1}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ef;--dim:#98a2b3;--line:#353c48;--page:#14181f;--a:#6ea8fe;--b:#ffa25c;\
--floor:#262c36}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);max-width:960px;margin:2em auto;padding:0 1em}
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}code{font-size:.95em}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.3em .6em;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left}th{color:var(--dim);font-weight:600}
.dim{color:var(--dim)}.failed{color:#c0392b;font-weight:600}.found{font-weight:600}
svg{width:100%;height:auto;display:block;margin:.5em 0}svg text{font:12px system-ui,sans-serif;fill:var(--ink)}
svg .tick{fill:var(--dim)}.grid{stroke:var(--line)}.zero{stroke:var(--dim);stroke-width:1.5}
.span{stroke:var(--ink);stroke-width:2}.box{fill-opacity:.16}.box.a{fill:var(--a)}.box.b{fill:var(--b)}.floor{fill:var(--floor)}
.dots{fill:none;stroke-width:4;stroke-linecap:round;stroke-opacity:.6}.dots.a{stroke:var(--a)}.dots.b{stroke:var(--b)}
.key.a{color:var(--a)}.key.b{color:var(--b)}
";

/// The page. It is well-formed XML, too.
#[must_use]
pub fn page(report: &Report) -> String {
    let about = &report.about;
    let mut body = String::from("<h1>skiff bench</h1>\n<p>");
    body += &format!("<strong class=\"key a\">A</strong> <code>{}</code>", text(&about.a));
    if let Some(b) = &about.b {
        body += &format!("<br/>\n<strong class=\"key b\">B</strong> <code>{}</code>", text(b));
    }
    body += &format!("</p>\n<p class=\"dim\">{}</p>\n", text(&how(report)));
    body += &table(report);
    body += &limits(report);
    let rows: Vec<_> = report.compared.iter().filter_map(relative).collect();
    if !rows.is_empty() {
        body += "<h2>Differences</h2>\n<p class=\"dim\">B against A with the interval; grey is what A differs from itself.</p>\n";
        body += &differences(&rows);
    }
    for compared in report.compared.iter().filter(|compared| varies(compared)) {
        body += &metric(report, compared);
    }
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/><meta name=\"viewport\" \
         content=\"width=device-width\"/><title>skiff bench</title>\n<style>\n{STYLE}</style></head>\n<body>\n{body}</body></html>\n"
    )
}

fn how(report: &Report) -> String {
    let count = |phase: Phase| report.runs.iter().filter(|run| run.phase == phase).count();
    let settings = &report.about.settings;
    let statistic = format!("{:?}", settings.statistic).to_lowercase();
    format!(
        "{} runs compared, {} of A against A before, {} to warm up; {statistic}s, intervals of {} % by {} resamples, seed {}",
        count(Phase::Comparison),
        count(Phase::Control),
        count(Phase::WarmUp),
        settings.confidence * 100.0,
        settings.resamples,
        report.about.seed,
    )
}

fn table(report: &Report) -> String {
    let has_b = report.about.b.is_some();
    let heads: &[&str] = if has_b {
        &["", "A", "B", "difference", "interval", "A differs by", ""]
    } else {
        &["", "A", "interval", "min", "max"]
    };
    let mut rows = row("th", heads.iter().map(|head| (*head).to_owned()), "");
    for compared in &report.compared {
        let unit = compared.metric.unit;
        let name = compared.metric.name.to_owned();
        let (Some(b), Some(difference)) = (&compared.b, &compared.difference) else {
            let a = &compared.a;
            let cells = [
                name,
                unit.show(a.centre.estimate),
                span(&a.centre, unit),
                unit.show(a.min),
                unit.show(a.max),
            ];
            rows += &row("td", cells.into_iter(), "");
            continue;
        };
        let absolute = difference.absolute;
        let parts =
            difference.relative.map_or_else(String::new, |of| format!(" ({:+.2} %)", of.estimate * 100.0));
        let cells = [
            name,
            unit.show(compared.a.centre.estimate),
            unit.show(b.centre.estimate),
            format!("{}{parts}", signed(absolute.estimate, unit)),
            span(&absolute, unit),
            unit.show(compared.noise_floor.unwrap_or_default()),
            said(compared.verdict).to_owned(),
        ];
        let found = matches!(compared.verdict, Some(Verdict::Lower | Verdict::Higher));
        rows += &row("td", cells.into_iter(), if found { " class=\"found\"" } else { "" });
    }
    for name in &report.missing {
        rows += &row("td", [(*name).to_owned(), "n/a".to_owned()].into_iter(), " class=\"dim\"");
    }
    format!("<div class=\"scroll\"><table>\n{rows}</table></div>\n")
}

fn row(cell: &str, cells: impl Iterator<Item = String>, class: &str) -> String {
    let cells: String = cells.map(|content| format!("<{cell}>{}</{cell}>", text(&content))).collect();
    format!("<tr{class}>{cells}</tr>\n")
}

fn limits(report: &Report) -> String {
    if report.limits.is_empty() {
        return String::new();
    }
    let line = |outcome: &super::limit::Outcome| {
        let (class, word) = if outcome.failed { ("failed", "exceeded") } else { ("dim", "not exceeded") };
        format!(
            "<li>fail if <code>{}</code>: <span class=\"{class}\">{word}</span></li>\n",
            text(&outcome.limit)
        )
    };
    format!("<h2>Limits</h2>\n<ul>\n{}</ul>\n", report.limits.iter().map(line).collect::<String>())
}

fn relative(compared: &Compared) -> Option<(&str, Interval, f64)> {
    let interval = compared.difference?.relative.filter(Interval::is_bounded)?;
    let base = compared.a.centre.estimate;
    Some((compared.metric.name, interval, compared.noise_floor? / base))
}

/// Whether there is anything to be seen in a picture of it.
fn varies(compared: &Compared) -> bool {
    let (a, b) = (&compared.a, compared.b.as_ref().unwrap_or(&compared.a));
    a.min.min(b.min) < a.max.max(b.max)
}

fn metric(report: &Report, compared: &Compared) -> String {
    let (name, unit) = (compared.metric.name, compared.metric.unit);
    let Some(index) = index_of(name) else { return String::new() };
    let [a, b] = pairs(&report.runs, Phase::Comparison, index);
    let mut sides = vec![("A", a.as_slice(), compared.a.centre)];
    if let Some(of_b) = &compared.b {
        sides.push(("B", b.as_slice(), of_b.centre));
    }
    let runs: Vec<(usize, f64)> = report
        .runs
        .iter()
        .filter(|run| run.phase == Phase::Comparison)
        .filter_map(|run| Some((usize::from(run.arm == Arm::B), run.figures.get(index)? as f64)))
        .collect();
    format!("<h2>{}</h2>\n{}{}", text(name), distributions(&sides, unit), order(&runs, unit))
}

fn span(interval: &Interval, unit: Unit) -> String {
    if interval.is_bounded() {
        format!("{} … {}", unit.show(interval.low), unit.show(interval.high))
    } else {
        "n/a".to_owned()
    }
}

fn signed(figure: f64, unit: Unit) -> String {
    format!("{}{}", if figure > 0.0 { "+" } else { "" }, unit.show(figure))
}

/// A verdict in words.
pub(super) fn said(verdict: Option<Verdict>) -> &'static str {
    match verdict {
        Some(Verdict::Lower) => "B is lower",
        Some(Verdict::Higher) => "B is higher",
        Some(Verdict::Equal) => "equal",
        Some(Verdict::None) => "no difference found",
        None => "",
    }
}
