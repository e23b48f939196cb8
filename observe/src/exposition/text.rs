//! Metrics as text: Prometheus 0.0.4 and OpenMetrics 1.0.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>, <https://prometheus.io/docs/specs/om/open_metrics_spec/>. The two
//! differ in the names of counters' families, in units, and in the end. Values have no times: they are of now.

use std::fmt::Write;

use super::{Format, Histogram, Kind, Metric, Point, Subject, Unit, Value};

/// A label's value is cut off after so many bytes.
pub const VALUE_BYTES_MAX: usize = 256;

/// All points of all subjects, metric by metric. A metric without points is left out.
#[must_use]
pub fn write(table: &[Metric], subjects: &[Subject], format: Format) -> String {
    let mut cursors: Vec<(usize, String)> =
        subjects.iter().map(|subject| (0, labels(&subject.labels))).collect();
    let mut text = String::with_capacity(192 * subjects.iter().map(|s| s.points.len()).sum::<usize>());
    for (index, metric) in table.iter().enumerate() {
        let mut is_headed = metric.name.is_empty();
        for (subject, (at, common)) in subjects.iter().zip(&mut cursors) {
            for (_, point) in subject.of(index, at) {
                if metric.name.is_empty() {
                    break;
                }
                if !is_headed {
                    head(&mut text, metric, format);
                    is_headed = true;
                }
                line(&mut text, metric, common, point);
            }
        }
    }
    if format == Format::OpenMetrics {
        text.push_str("# EOF\n");
    }
    text
}

fn head(text: &mut String, metric: &Metric, format: Format) {
    let kind = match metric.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    let family = match (format, metric.kind) {
        (Format::OpenMetrics, Kind::Counter) => metric.name.strip_suffix("_total").unwrap_or(metric.name),
        _ => metric.name,
    };
    text.extend(["# HELP ", family, " "]);
    escape(text, metric.help, format == Format::OpenMetrics);
    text.extend(["\n# TYPE ", family, " ", kind, "\n"]);
    let unit = match metric.unit {
        Unit::Seconds => "seconds",
        Unit::Bytes => "bytes",
        Unit::Ratio => "ratio",
        Unit::Count(_) => "",
    };
    let has_unit = !unit.is_empty() && family.strip_suffix(unit).is_some_and(|family| family.ends_with('_'));
    if format == Format::OpenMetrics && has_unit {
        text.extend(["# UNIT ", family, " ", unit, "\n"]);
    }
}

/// What a series is told apart by.
#[derive(Clone, Copy)]
struct Labels<'a> {
    /// Of its subject, as text.
    common: &'a str,
    names: &'a [&'static str],
    values: &'a [&'static str],
    /// Of a class of a histogram.
    bound: Option<f64>,
}

fn line(text: &mut String, metric: &Metric, common: &str, point: &Point) {
    let labels = Labels { common, names: metric.labels, values: &point.labels, bound: None };
    match &point.value {
        Value::Histogram(histogram) => buckets(text, metric.name, labels, histogram),
        value => sample(text, metric.name, "", labels, value),
    }
}

fn buckets(text: &mut String, name: &str, labels: Labels<'_>, histogram: &Histogram) {
    let mut so_far = 0;
    let bounds = histogram.bounds.iter().copied().chain([f64::INFINITY]);
    for (bound, count) in bounds.zip(&histogram.counts) {
        so_far += count;
        let labels = Labels { bound: Some(bound), ..labels };
        sample(text, name, "_bucket", labels, &Value::Integer(so_far));
    }
    sample(text, name, "_sum", labels, &Value::Real(histogram.sum));
    sample(text, name, "_count", labels, &Value::Integer(so_far));
}

fn sample(text: &mut String, name: &str, suffix: &str, labels: Labels<'_>, value: &Value) {
    text.extend([name, suffix]);
    labels.write(text);
    text.push(' ');
    match value {
        // To write to a text cannot fail.
        Value::Integer(value) => drop(write!(text, "{value}")),
        Value::Real(value) => real(text, *value),
        Value::Histogram(_) => {}
    }
    text.push('\n');
}

impl Labels<'_> {
    fn write(self, text: &mut String) {
        let begun = text.len();
        text.extend(["{", self.common]);
        for (name, value) in self.names.iter().zip(self.values) {
            label(text, name, value);
        }
        if let Some(bound) = self.bound {
            // The same in both formats, or a series would be another one when its reader learns OpenMetrics.
            label(text, "le", &canonical(bound));
        }
        if text.len() == begun + 1 {
            text.truncate(begun);
        } else {
            text.push('}');
        }
    }
}

fn labels(all: &[(&'static str, String)]) -> String {
    let mut text = String::new();
    all.iter().for_each(|(name, value)| label(&mut text, name, value));
    text
}

/// Adds a label to others, if there are any: a value ends with a quote.
fn label(text: &mut String, name: &str, value: &str) {
    if text.ends_with('"') {
        text.push(',');
    }
    text.extend([name, "=\""]);
    escape(text, bounded(value), true);
    text.push('"');
}

fn bounded(value: &str) -> &str {
    let ends = (0..=VALUE_BYTES_MAX.min(value.len())).rev();
    let end = ends.into_iter().find(|end| value.is_char_boundary(*end));
    &value[..end.unwrap_or(0)]
}

fn escape(text: &mut String, value: &str, quotes: bool) {
    let mut rest = value;
    while let Some(at) = rest.find(['\\', '\n', '"']) {
        text.push_str(&rest[..at]);
        text.push_str(match rest.as_bytes()[at] {
            b'\\' => "\\\\",
            b'\n' => "\\n",
            _ if quotes => "\\\"",
            _ => "\"",
        });
        rest = &rest[at + 1..];
    }
    text.push_str(rest);
}

fn real(text: &mut String, value: f64) {
    if value.is_infinite() {
        text.push_str(if value > 0.0 { "+Inf" } else { "-Inf" });
    } else {
        // To write to a text cannot fail.
        let _written = write!(text, "{value}");
    }
}

/// As OpenMetrics writes bounds: whole numbers with `.0`.
fn canonical(bound: f64) -> String {
    let mut text = String::new();
    real(&mut text, bound);
    if bound.is_finite() && !text.contains('.') { text + ".0" } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[Metric] = &[
        Metric {
            name: "x_used_seconds_total",
            otlp: "",
            kind: Kind::Counter,
            unit: Unit::Seconds,
            help: "Time \"used\", \\ and\nmore.",
            labels: &["cpu"],
            attributes: &[],
        },
        Metric {
            name: "",
            otlp: "x.only",
            kind: Kind::Gauge,
            unit: Unit::Count("one"),
            help: "Not for text.",
            labels: &[],
            attributes: &[],
        },
        Metric {
            name: "x_took_seconds",
            otlp: "",
            kind: Kind::Histogram,
            unit: Unit::Seconds,
            help: "How long.",
            labels: &[],
            attributes: &[],
        },
        Metric {
            name: "x_absent",
            otlp: "",
            kind: Kind::Gauge,
            unit: Unit::Count("one"),
            help: "Not there.",
            labels: &[],
            attributes: &[],
        },
    ];

    fn subjects() -> Vec<Subject> {
        let mut web = Subject { labels: vec![("name", "w\"e\\b\n".into())], ..Subject::default() };
        web.put(0, vec!["total"], Value::Real(1.5));
        web.put(1, Vec::new(), Value::Integer(1));
        let mut other = Subject::default();
        other.put(0, vec!["0"], Value::Integer(2));
        let mut took = Histogram::new(&[0.005, 1.0]);
        [0.001, 0.5, 3.0].into_iter().for_each(|value| took.add(value));
        other.put(2, Vec::new(), Value::Histogram(took));
        vec![web, other]
    }

    #[test]
    fn prometheus_gets_families_in_the_order_of_the_table() {
        let expected = r#"# HELP x_used_seconds_total Time "used", \\ and\nmore.
# TYPE x_used_seconds_total counter
x_used_seconds_total{name="w\"e\\b\n",cpu="total"} 1.5
x_used_seconds_total{cpu="0"} 2
# HELP x_took_seconds How long.
# TYPE x_took_seconds histogram
x_took_seconds_bucket{le="0.005"} 1
x_took_seconds_bucket{le="1.0"} 2
x_took_seconds_bucket{le="+Inf"} 3
x_took_seconds_sum 3.501
x_took_seconds_count 3
"#;
        assert_eq!(write(TABLE, &subjects(), Format::Prometheus), expected);
    }

    #[test]
    fn openmetrics_has_counters_without_suffix_units_and_an_end() {
        let text = write(TABLE, &subjects(), Format::OpenMetrics);
        let head = r#"# HELP x_used_seconds Time \"used\", \\ and\nmore.
# TYPE x_used_seconds counter
# UNIT x_used_seconds seconds
x_used_seconds_total{name="w\"e\\b\n",cpu="total"} 1.5
"#;
        assert!(text.starts_with(head), "{text}");
        assert!(text.contains("# UNIT x_took_seconds seconds\n") && text.ends_with("\n# EOF\n"), "{text}");
        assert_eq!(write(TABLE, &[], Format::OpenMetrics), "# EOF\n");
    }

    #[test]
    fn values_of_labels_have_a_bound() {
        let mut text = String::new();
        label(&mut text, "image", &"é".repeat(VALUE_BYTES_MAX));
        assert_eq!(text, format!("image=\"{}\"", "é".repeat(VALUE_BYTES_MAX / 2)));
    }

    #[test]
    fn numbers_that_are_none_have_words() {
        let check = |value: f64, expected: &str| {
            let mut text = String::new();
            real(&mut text, value);
            assert_eq!(text, expected);
        };
        check(f64::NAN, "NaN");
        check(f64::INFINITY, "+Inf");
        check(f64::NEG_INFINITY, "-Inf");
        check(0.1, "0.1");
        assert_eq!((canonical(10.0), canonical(2.5)), ("10.0".into(), "2.5".into()));
    }
}
