//! Metrics as OpenTelemetry's protocol has them: OTLP 1, protobuf, for HTTP.
//!
//! <https://opentelemetry.io/docs/specs/otlp/>, field numbers from `opentelemetry/proto/metrics/v1/metrics.proto`. Each subject is a
//! resource of its own. Sums and histograms are cumulative: a request that is lost costs resolution only.

use std::borrow::Cow;

use crate::exposition::{Histogram, Kind, Metric, Point, Subject, Unit, Value};
use crate::protobuf::Message;

/// Cumulative, of `AggregationTemporality`.
const CUMULATIVE: u64 = 2;

/// Who measures: the instrumentation scope.
const SCOPE: &str = "skiff";

/// An `ExportMetricsServiceRequest` with all points of all subjects, which were measured at `at_ns`, ns since 1970.
#[must_use]
pub fn request(table: &[Metric], subjects: &[Subject], at_ns: u64) -> Vec<u8> {
    let mut request = Message::new();
    for subject in subjects {
        request.message(1, |resource| {
            resource.message(1, |attributes| {
                for (key, value) in &subject.resource {
                    attribute(attributes, 1, key, value);
                }
            });
            resource.message(2, |scope| {
                scope.message(1, |about| {
                    about.string(1, SCOPE).string(2, env!("CARGO_PKG_VERSION"));
                });
                metrics(scope, table, subject, at_ns);
            });
        });
    }
    request.into_bytes()
}

/// How many points a receiver has refused: what an `ExportMetricsServiceResponse` says. `None` if it is not one.
#[must_use]
pub fn rejected(response: &[u8]) -> Option<u64> {
    let Some(partial) = field(response, 1)? else { return Some(0) };
    let Found::Bytes(partial) = partial else { return None };
    match field(partial, 1)? {
        None => Some(0),
        Some(Found::Number(count)) => Some(count),
        Some(Found::Bytes(_)) => None,
    }
}

fn metrics(scope: &mut Message, table: &[Metric], subject: &Subject, at_ns: u64) {
    let mut at = 0;
    let mut rows = table.iter().enumerate().peekable();
    while let Some((index, metric)) = rows.next() {
        let mut points: Vec<(&Metric, &Point)> = Vec::new();
        let mut take = |index, metric| {
            points.extend(subject.of(index, &mut at).iter().map(|(_, point)| (metric, point)));
        };
        take(index, metric);
        while let Some((index, metric)) = rows.next_if(|(_, next)| next.otlp == metric.otlp) {
            take(index, metric);
        }
        if !metric.otlp.is_empty() && !points.is_empty() {
            scope.message(2, |message| one(message, metric, &points, subject.since_ns, at_ns));
        }
    }
}

fn one(message: &mut Message, metric: &Metric, points: &[(&Metric, &Point)], since_ns: u64, at_ns: u64) {
    message.string(1, metric.otlp).string(2, metric.help).string(3, &unit(metric.unit));
    let fill = |data: &mut Message| {
        for (metric, point) in points {
            data.message(1, |to| match &point.value {
                Value::Histogram(histogram) => {
                    histogram_point(to, metric, point, histogram, since_ns, at_ns);
                }
                value => number_point(to, metric, point, value, since_ns, at_ns),
            });
        }
    };
    match metric.kind {
        Kind::Gauge => message.message(5, fill),
        Kind::Counter => message.message(7, |sum| {
            fill(sum);
            sum.varint(2, CUMULATIVE).varint(3, 1);
        }),
        Kind::Histogram => message.message(9, |histogram| {
            fill(histogram);
            histogram.varint(2, CUMULATIVE);
        }),
    };
}

fn number_point(to: &mut Message, metric: &Metric, point: &Point, value: &Value, since_ns: u64, at_ns: u64) {
    if metric.kind == Kind::Counter {
        to.fixed64(2, since_ns);
    }
    to.fixed64(3, at_ns);
    match value {
        // What is greater than any int64 is none of what is counted here.
        Value::Integer(value) => to.fixed64(6, (*value).min(i64::MAX.cast_unsigned())),
        Value::Real(value) => to.double(4, *value),
        Value::Histogram(_) => to,
    };
    attributes(to, 7, metric, point);
}

fn histogram_point(
    to: &mut Message,
    metric: &Metric,
    point: &Point,
    histogram: &Histogram,
    since_ns: u64,
    at_ns: u64,
) {
    to.fixed64(2, since_ns).fixed64(3, at_ns).fixed64(4, histogram.count()).double(5, histogram.sum);
    to.packed_fixed64(6, histogram.counts.iter().copied());
    to.packed_fixed64(7, histogram.bounds.iter().map(|bound| bound.to_bits()));
    attributes(to, 9, metric, point);
}

/// What tells the points of one metric apart.
fn attributes(to: &mut Message, field: u32, metric: &Metric, point: &Point) {
    for (key, value) in metric.attributes {
        attribute(to, field, key, value);
    }
    for (label, value) in metric.labels.iter().zip(&point.labels) {
        attribute(to, field, label, value);
    }
}

/// A `KeyValue` with a text.
fn attribute(to: &mut Message, field: u32, key: &str, value: &str) {
    to.message(field, |pair| {
        pair.string(1, key).message(2, |any| {
            any.string(1, value);
        });
    });
}

/// In the words of UCUM.
fn unit(unit: Unit) -> Cow<'static, str> {
    match unit {
        Unit::Seconds => "s".into(),
        Unit::Bytes => "By".into(),
        Unit::Ratio => "1".into(),
        Unit::Count(thing) => format!("{{{thing}}}").into(),
    }
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The last field of this number; `None` if this is no message.
fn field(mut message: &[u8], wanted: u64) -> Option<Option<Found<'_>>> {
    let mut found = None;
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let value = match tag & 7 {
            0 => Found::Number(varint(&mut message)?),
            1 => Found::Bytes(bytes(&mut message, 8)?),
            2 => {
                let length = varint(&mut message)?;
                Found::Bytes(bytes(&mut message, usize::try_from(length).ok()?)?)
            }
            5 => Found::Bytes(bytes(&mut message, 4)?),
            _ => return None,
        };
        if tag >> 3 == wanted {
            found = Some(value);
        }
    }
    Some(found)
}

fn varint(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn bytes<'a>(from: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (bytes, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn metric(
        otlp: &'static str,
        kind: Kind,
        attributes: &'static [(&'static str, &'static str)],
    ) -> Metric {
        Metric { name: "x", otlp, kind, unit: Unit::Seconds, help: "h", labels: &["direction"], attributes }
    }

    #[test]
    fn rows_of_one_name_are_one_metric() {
        let table = [
            metric("cpu.time", Kind::Counter, &[("cpu.mode", "user")]),
            metric("cpu.time", Kind::Counter, &[("cpu.mode", "system")]),
            metric("", Kind::Gauge, &[]),
        ];
        let mut subject = Subject { since_ns: 1, ..Subject::default() };
        for index in 0..3 {
            subject.put(index, vec!["read"], Value::Real(1.5));
        }
        let bytes = request(&table, &[subject], 2);
        let count = |wanted: &[u8]| bytes.windows(wanted.len()).filter(|window| *window == wanted).count();
        assert_eq!((count(b"cpu.time"), count(b"user"), count(b"direction"), count(b"read")), (1, 1, 2, 2));
    }

    #[test]
    fn histograms_keep_what_tells_them_apart() {
        let table = [metric("latency", Kind::Histogram, &[("disk", "all")])];
        let mut subject = Subject::default();
        let histogram = Histogram { bounds: &[1.0], counts: vec![2, 3], sum: 4.0 };
        subject.put(0, vec!["write"], Value::Histogram(histogram));
        let bytes = request(&table, &[subject], 2);
        // Resource, scope, metric, histogram, point, and the last of its attributes.
        let attribute = [1, 2, 2, 9, 1, 9].into_iter().try_fold(&*bytes, |message, number| {
            match field(message, number) {
                Some(Some(Found::Bytes(inner))) => Some(inner),
                _ => None,
            }
        });
        let attribute = attribute.expect("an attribute");
        assert_eq!(field(attribute, 1), Some(Some(Found::Bytes(b"direction"))));
        assert_eq!(field(attribute, 2), Some(Some(Found::Bytes(b"\x0a\x05write"))));
    }

    #[test]
    fn a_response_says_what_was_refused() {
        let check =
            |response: &[u8], expected: Option<u64>| assert_eq!(rejected(response), expected, "{response:?}");
        check(&[], Some(0));
        check(&[0x0a, 0], Some(0));
        check(&[0x0a, 2, 8, 7], Some(7));
        check(&[0x0a, 5, 8, 7, 0x12, 1, b'x'], Some(7));
        check(&[0x0a, 5, 8, 7], None);
        check(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], None);
        check(b"<html>", None);
        check(&[0x08, 1], None);
    }
}
