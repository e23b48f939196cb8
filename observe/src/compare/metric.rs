//! What is measured of a run: one table, which the command, its help and all reports read.

use serde::Serialize;

/// In what a figure is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Nanoseconds.
    Ns,
    /// Things.
    Count,
    /// Bytes.
    Bytes,
}

/// A figure that runs have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Metric {
    /// As it is typed and shown.
    pub name: &'static str,
    /// In what it is counted.
    pub unit: Unit,
}

/// How many there are.
pub const COUNT: usize = 20;

/// All, in the order in which they are shown.
#[rustfmt::skip] // a table
pub const METRICS: [Metric; COUNT] = [
    Metric { name: "wall", unit: Unit::Ns },
    Metric { name: "launch", unit: Unit::Ns },
    Metric { name: "run", unit: Unit::Ns },
    Metric { name: "cpu", unit: Unit::Ns },
    Metric { name: "cpu-user", unit: Unit::Ns },
    Metric { name: "cpu-system", unit: Unit::Ns },
    Metric { name: "minor-faults", unit: Unit::Count },
    Metric { name: "major-faults", unit: Unit::Count },
    Metric { name: "switches", unit: Unit::Count },
    Metric { name: "migrations", unit: Unit::Count },
    Metric { name: "syscalls", unit: Unit::Count },
    Metric { name: "memory-peak", unit: Unit::Bytes },
    Metric { name: "block-read", unit: Unit::Bytes },
    Metric { name: "block-write", unit: Unit::Bytes },
    Metric { name: "cycles", unit: Unit::Count },
    Metric { name: "instructions", unit: Unit::Count },
    Metric { name: "cache-references", unit: Unit::Count },
    Metric { name: "cache-misses", unit: Unit::Count },
    Metric { name: "branches", unit: Unit::Count },
    Metric { name: "branch-misses", unit: Unit::Count },
];

/// The place of the metric `name` in [`METRICS`].
#[must_use]
pub fn index_of(name: &str) -> Option<usize> {
    METRICS.iter().position(|metric| metric.name == name)
}

/// A run's figures, in the order of [`METRICS`]; none of what the host does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures([Option<u64>; COUNT]);

impl Figures {
    /// Notes a figure. One of no metric is dropped.
    pub fn set(&mut self, name: &str, figure: Option<u64>) {
        if let Some(slot) = index_of(name).and_then(|index| self.0.get_mut(index)) {
            *slot = figure;
        }
    }

    /// The figure of a metric by its place.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<u64> {
        self.0.get(index).copied().flatten()
    }
}

impl Unit {
    /// A figure for people.
    #[must_use]
    pub fn show(self, figure: f64) -> String {
        let sign = if figure < 0.0 { "-" } else { "" };
        let size = figure.abs();
        let scaled = |units: &[(f64, &str)], plain: &str| {
            let unit = units.iter().find(|(scale, _)| size >= *scale);
            let (scale, name) = unit.copied().unwrap_or((1.0, plain));
            format!("{sign}{}{name}", three_digits(size / scale))
        };
        match self {
            Self::Ns => scaled(&[(1e9, " s"), (1e6, " ms"), (1e3, " µs")], " ns"),
            Self::Bytes => {
                scaled(&[(1_073_741_824.0, " GiB"), (1_048_576.0, " MiB"), (1024.0, " KiB")], " B")
            }
            Self::Count if size < 1e6 => format!("{sign}{}", three_digits(size)),
            Self::Count => scaled(&[(1e12, " T"), (1e9, " G"), (1e6, " M")], ""),
        }
    }
}

/// Whole numbers as they are, others with three digits.
fn three_digits(size: f64) -> String {
    match size {
        _ if size.fract() == 0.0 && size < 1e6 => format!("{size:.0}"),
        _ if size < 10.0 => format!("{size:.2}"),
        _ if size < 100.0 => format!("{size:.1}"),
        _ => format!("{size:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_and_a_unit() {
        let check = |unit: Unit, figure: f64, expected: &str| assert_eq!(unit.show(figure), expected);
        check(Unit::Ns, 0.0, "0 ns");
        check(Unit::Ns, 1_234_567.0, "1.23 ms");
        check(Unit::Ns, -12_345.0, "-12.3 µs");
        check(Unit::Ns, 2e9, "2 s");
        check(Unit::Bytes, 1536.0, "1.50 KiB");
        check(Unit::Bytes, 64.0 * 1_048_576.0, "64 MiB");
        check(Unit::Count, 12_345.0, "12345");
        check(Unit::Count, 0.5, "0.50");
        check(Unit::Count, 3_200_000_000.0, "3.20 G");
    }

    #[test]
    fn figures_are_found_by_name() {
        let mut figures = Figures::default();
        figures.set("wall", Some(7));
        figures.set("nothing", Some(8));
        assert_eq!((figures.get(0), figures.get(1), figures.get(COUNT)), (Some(7), None, None));
        assert!(METRICS.iter().enumerate().all(|(index, metric)| index_of(metric.name) == Some(index)));
    }
}
