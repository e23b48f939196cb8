//! What a comparison must not exceed: `wall > +3%`.

use std::fmt;

use serde::Serialize;

use super::bootstrap::Interval;
use super::metric::{METRICS, Unit, index_of};
use super::report::Compared;

/// A condition on which a comparison fails.
#[derive(Debug, Clone, PartialEq)]
pub struct Limit {
    /// As it was written.
    text: String,
    /// The place of its metric.
    metric: usize,
    side: Side,
    of: Of,
    number: f64,
}

/// On which side of the number it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Above,
    Below,
}

/// What is compared with the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    /// B ÷ A − 1.
    Relative,
    /// B − A.
    Difference,
    /// B, or A where there is no B.
    Value,
}

/// How a limit was met.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// The limit as it was written.
    pub limit: String,
    /// The metric's name.
    pub metric: &'static str,
    /// Whether it is exceeded: all of the interval is beyond the number.
    pub failed: bool,
    /// What was compared with the number; none where the host does not tell.
    pub interval: Option<Interval>,
}

/// Why a text is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitError {
    /// It is not `METRIC > NUMBER` or `METRIC < NUMBER`.
    Form,
    /// There is no such metric.
    Metric,
    /// What follows is no number.
    Number,
    /// A number of another unit than the metric's.
    Unit,
    /// Parts of a hundred are of a difference, which has a sign.
    Sign,
}

impl Limit {
    /// Understands `METRIC > LIMIT` or `METRIC < LIMIT`. With a sign, LIMIT is of the difference (`+3%`, `-100`, `+2ms`), without of B's
    /// figure (`64MiB`).
    pub fn parse(text: &str) -> Result<Self, LimitError> {
        let at = text.find(['<', '>']).ok_or(LimitError::Form)?;
        let (name, rest) = text.split_at(at);
        let side = if rest.starts_with('>') { Side::Above } else { Side::Below };
        let metric = index_of(name.trim()).ok_or(LimitError::Metric)?;
        let number = rest[1..].trim();
        let signed = number.starts_with(['+', '-']);
        let end = number.find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | '+' | '-'));
        let (digits, unit) = number.split_at(end.unwrap_or(number.len()));
        let value: f64 = digits.parse().map_err(|_| LimitError::Number)?;
        let unit = unit.trim();
        let (of, factor) = match (unit, signed) {
            ("%", true) => (Of::Relative, 0.01),
            ("%", false) => return Err(LimitError::Sign),
            (_, true) => (Of::Difference, factor(METRICS[metric].unit, unit)?),
            (_, false) => (Of::Value, factor(METRICS[metric].unit, unit)?),
        };
        Ok(Self { text: text.trim().to_owned(), metric, side, of, number: value * factor })
    }

    /// The place of its metric in [`METRICS`].
    #[must_use]
    pub const fn metric(&self) -> usize {
        self.metric
    }

    /// Whether it needs two sides.
    #[must_use]
    pub fn compares(&self) -> bool {
        self.of != Of::Value
    }

    /// How `compared`, all that was compared, meets it.
    #[must_use]
    pub fn judge(&self, compared: &[Compared]) -> Outcome {
        let metric = &METRICS[self.metric];
        let found = compared.iter().find(|compared| compared.metric.name == metric.name);
        let interval = found.and_then(|compared| match self.of {
            Of::Relative => compared.difference?.relative,
            Of::Difference => Some(compared.difference?.absolute),
            Of::Value => Some(compared.b.as_ref().unwrap_or(&compared.a).centre),
        });
        let is_beyond = |interval: Interval| match self.side {
            Side::Above => interval.low > self.number,
            Side::Below => interval.high < self.number,
        };
        Outcome {
            limit: self.text.clone(),
            metric: metric.name,
            failed: interval.is_some_and(is_beyond),
            interval,
        }
    }
}

/// What a number with a unit's name is multiplied by.
fn factor(unit: Unit, name: &str) -> Result<f64, LimitError> {
    #[rustfmt::skip] // a table
    const NAMES: [(Unit, &str, f64); 17] = [
        (Unit::Ns, "ns", 1.0), (Unit::Ns, "us", 1e3), (Unit::Ns, "µs", 1e3), (Unit::Ns, "ms", 1e6), (Unit::Ns, "s", 1e9),
        (Unit::Count, "", 1.0), (Unit::Count, "k", 1e3), (Unit::Count, "M", 1e6), (Unit::Count, "G", 1e9),
        (Unit::Bytes, "", 1.0), (Unit::Bytes, "B", 1.0),
        (Unit::Bytes, "k", 1024.0), (Unit::Bytes, "KiB", 1024.0),
        (Unit::Bytes, "m", 1_048_576.0), (Unit::Bytes, "MiB", 1_048_576.0),
        (Unit::Bytes, "g", 1_073_741_824.0), (Unit::Bytes, "GiB", 1_073_741_824.0),
    ];
    let found = NAMES.iter().find(|(of, other, _)| *of == unit && *other == name);
    found.map(|(_, _, factor)| *factor).ok_or(LimitError::Unit)
}

impl fmt::Display for LimitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => "not of the form 'wall > +3%'",
            Self::Metric => "no such metric",
            Self::Number => "not a number",
            Self::Unit => "not a unit of that metric",
            Self::Sign => "a number in % needs a sign: +3%",
        })
    }
}

impl std::error::Error for LimitError {}
