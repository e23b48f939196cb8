//! What a scraper says that it accepts, and what a collector answers. Text that is written has as many lines as there are
//! points, whatever is in its labels.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skiff_observe::exposition::{Format, Kind, Metric, Subject, Unit, Value, text};
use skiff_observe::otlp;

const TABLE: &[Metric] = &[Metric {
    name: "x_bytes",
    otlp: "x",
    kind: Kind::Gauge,
    unit: Unit::Bytes,
    help: "X.",
    labels: &["device"],
    attributes: &[],
}];

fuzz_target!(|bytes: &[u8]| {
    let rejected = otlp::rejected(bytes);
    assert!(rejected.is_none_or(|count| count == 0 || bytes.len() > 3));
    let Ok(said) = std::str::from_utf8(bytes) else { return };
    let format = Format::negotiate(said);
    assert_eq!(Format::negotiate(format.content_type()), format);
    let mut subject = Subject { labels: vec![("name", said.to_owned())], ..Subject::default() };
    subject.put(0, vec!["read"], Value::Integer(7));
    let page = text::write(TABLE, &[subject.clone()], format);
    let comments = if format == Format::OpenMetrics { 4 } else { 2 };
    assert_eq!(page.split_terminator('\n').count(), comments + 1, "{page}");
    let line = page.lines().find(|line| line.starts_with("x_bytes{name=\"")).expect("the point");
    assert!(line.ends_with("\"} 7") && line.len() < 4 * text::VALUE_BYTES_MAX + 100);
    assert!(!otlp::request(TABLE, &[subject], 1).is_empty());
});
