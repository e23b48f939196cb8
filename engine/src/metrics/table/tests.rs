use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use super::*;

/// Labels that anything may have.
const COMMON: [&str; 3] = ["id", "image", "name"];

#[test]
fn names_follow_the_conventions() {
    let mut names = BTreeSet::new();
    for Row { metric, .. } in TABLE {
        let Metric { name, otlp, kind, unit, help, labels, .. } = metric;
        assert!(!name.is_empty() || !otlp.is_empty());
        assert!(name.is_empty() || names.insert(name), "{name} is there twice");
        let is_right = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        assert!(name.chars().all(is_right), "{name}");
        assert!(otlp.chars().all(|c| is_right(c) || c == '.'), "{otlp}");
        assert_eq!(*kind == Kind::Counter && !name.is_empty(), name.ends_with("_total"), "{name}");
        // cAdvisor's have names from before these conventions.
        if name.starts_with("skiff_") {
            let family = name.strip_suffix("_total").unwrap_or(name);
            let suffix = match unit {
                Unit::Seconds => "_seconds",
                Unit::Bytes => "_bytes",
                Unit::Count(_) | Unit::Ratio => "",
            };
            assert!(family.ends_with(suffix), "{name}");
        }
        assert!(help.ends_with('.') && !help.contains('\n'), "{name}: {help}");
        assert!(labels.iter().all(|label| !COMMON.contains(label)), "{name}");
    }
}

#[test]
fn rows_of_one_name_for_opentelemetry_stand_together_and_agree() {
    let mut seen: Vec<&Metric> = Vec::new();
    for metric in METRICS.iter().filter(|metric| !metric.otlp.is_empty()) {
        if let Some(former) = seen.iter().find(|former| former.otlp == metric.otlp) {
            assert_eq!(seen.last().map(|last| last.otlp), Some(metric.otlp), "{}", metric.otlp);
            assert_eq!((former.kind, former.unit), (metric.kind, metric.unit), "{}", metric.otlp);
        }
        seen.push(metric);
    }
}

#[test]
fn durations_keep_their_count_and_sum() {
    let mut counts = vec![0; skiff_ebpf_abi::BUCKETS];
    for ns in [1_u64, 1023, 1024, 5_000_000, 1 << 40] {
        counts[skiff_ebpf_abi::bucket(ns)] += 1;
    }
    let all = classes(&Durations::new(2_000_000_000, counts));
    assert_eq!((all.count(), all.sum, all.counts[0], all.counts[1]), (5, 2.0, 2, 1));
    assert_eq!(all.counts.last(), Some(&1));
    for (bits, bound) in BITS.into_iter().zip(BOUNDS) {
        assert!((seconds(1 << bits) - bound).abs() < f64::EPSILON, "{bits}");
    }
}

/// The part of docs/metrics.md that is made of the table.
fn documented() -> String {
    let mut text = String::new();
    for (title, is_of_containers) in [("Of each container that runs", true), ("Of the daemon", false)] {
        writeln!(text, "### {title}\n\n| Prometheus | OpenTelemetry | |\n|---|---|---|").expect("text");
        for row in TABLE.iter().filter(|row| row.is_of_containers() == is_of_containers) {
            let Metric { name, otlp, kind, unit, help, labels, attributes } = &row.metric;
            let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
            let labels = if labels.is_empty() { String::new() } else { format!(" by {}", labels.join(", ")) };
            let attributes: Vec<_> =
                attributes.iter().map(|(key, value)| format!(" `{key}={value}`")).collect();
            let quoted = |name: &str| if name.is_empty() { "–".into() } else { format!("`{name}`") };
            let kind = match kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            let unit = match unit {
                Unit::Seconds => ", s",
                Unit::Bytes => ", bytes",
                Unit::Count("us") => ", µs",
                Unit::Count(_) | Unit::Ratio => "",
            };
            let (name, otlp, attributes) = (quoted(name), quoted(otlp), attributes.concat());
            writeln!(text, "| {name}{labels} | {otlp}{attributes} | {help} ({kind}{unit}) |").expect("text");
        }
        text.push('\n');
    }
    text
}

/// With `SKIFF_BLESS` set, the page is written anew.
#[test]
fn the_page_lists_what_the_table_has() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let page = std::fs::read_to_string(&path).expect("the page");
    let [begin, end] = ["<!-- table -->\n\n", "<!-- end of the table -->\n"];
    let (before, rest) = page.split_once(begin).expect("where the table begins");
    let (_, after) = rest.split_once(end).expect("where the table ends");
    let wanted = [before, begin, &documented(), end, after].concat();
    if std::env::var_os("SKIFF_BLESS").is_some() {
        std::fs::write(&path, wanted).expect("write the page");
    } else {
        assert!(
            page == wanted,
            "docs/metrics.md is not what the table has: SKIFF_BLESS=1 cargo test -p skiff-engine metrics"
        );
    }
}
