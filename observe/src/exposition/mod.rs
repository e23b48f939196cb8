//! Metrics: what they are called, and how they are written for those who collect them.
//!
//! A [`Metric`] is one row of a table that somebody else has: name, kind, unit, what it means. What was measured of one thing – a
//! container, the daemon – is a [`Subject`] with the points of each row. [`text`] writes them for Prometheus, [`crate::otlp`]
//! for OpenTelemetry; both know nothing of what a row is about.

mod negotiate;
pub mod text;

pub use negotiate::Format;

/// What a figure may do between two looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Grow, or begin again at zero.
    Counter,
    /// Anything.
    Gauge,
    /// As a counter does, by classes of a figure.
    Histogram,
}

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Things, of which the name says what they are; the word is OpenTelemetry's annotation, without braces.
    Count(&'static str),
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// Parts of one.
    Ratio,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name for Prometheus; empty if it is not for that.
    pub name: &'static str,
    /// Its name for OpenTelemetry; empty if it is not for that. Rows of one name stand together.
    pub otlp: &'static str,
    /// What it does.
    pub kind: Kind,
    /// What it counts.
    pub unit: Unit,
    /// What it means, in one sentence.
    pub help: &'static str,
    /// Labels beside those of its subject, in the order in which points have their values.
    pub labels: &'static [&'static str],
    /// Attributes that all of its points have for OpenTelemetry.
    pub attributes: &'static [(&'static str, &'static str)],
}

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A whole number.
    Integer(u64),
    /// Any number.
    Real(f64),
    /// Of a histogram.
    Histogram(Histogram),
}

/// One figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Values of the metric's labels. They are known beforehand, or there would be no end of series.
    pub labels: Vec<&'static str>,
    /// The figure.
    pub value: Value,
}

/// How many there were up to each of some bounds.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// Upper bounds, in rising order; above the last is one more class.
    pub bounds: &'static [f64],
    /// How many there were in each class alone: one more than bounds.
    pub counts: Vec<u64>,
    /// Of all values.
    pub sum: f64,
}

/// What was measured of one thing at one time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Subject {
    /// Labels of all its series.
    pub labels: Vec<(&'static str, String)>,
    /// What OpenTelemetry is told of it: attributes of the resource.
    pub resource: Vec<(&'static str, String)>,
    /// Since when counters count, ns since 1970.
    pub since_ns: u64,
    /// Points by the index of their metric in the table, in the order of the table.
    pub points: Vec<(usize, Point)>,
}

impl Histogram {
    /// Without values.
    #[must_use]
    pub fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    /// Adds a value.
    pub fn add(&mut self, value: f64) {
        let class = self.bounds.partition_point(|bound| *bound < value);
        self.counts[class] += 1;
        self.sum += value;
    }

    /// How many there were in all.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

impl Subject {
    /// Adds a point of the metric with this index.
    pub fn put(&mut self, metric: usize, labels: Vec<&'static str>, value: Value) {
        self.points.push((metric, Point { labels, value }));
    }

    /// What was measured of the metric with this index; `at` is how many points are done with, and goes on.
    pub(crate) fn of(&self, metric: usize, at: &mut usize) -> &[(usize, Point)] {
        let rest = &self.points[*at..];
        // Nearly always what comes next is what is asked for.
        let skipped = rest.iter().take_while(|(index, _)| *index < metric).count();
        let rest = &rest[skipped..];
        let found = rest.iter().take_while(|(index, _)| *index == metric).count();
        *at += skipped + found;
        &rest[..found]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_in_the_first_class_whose_bound_is_not_below_it() {
        let mut histogram = Histogram::new(&[0.5, 1.0]);
        [0.1, 0.5, 0.6, 1.0, 7.0].into_iter().for_each(|value| histogram.add(value));
        assert_eq!(histogram.counts, [2, 2, 1]);
        assert_eq!((histogram.count(), histogram.sum), (5, 9.2));
    }

    #[test]
    fn points_are_found_by_their_metric() {
        let mut subject = Subject::default();
        for metric in [1, 1, 3] {
            subject.put(metric, Vec::new(), Value::Integer(0));
        }
        let mut at = 0;
        let found: Vec<usize> = (0..5).map(|metric| subject.of(metric, &mut at).len()).collect();
        assert_eq!((found, at), (vec![0, 2, 0, 1, 0], 3));
    }
}
