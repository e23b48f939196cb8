//! What is said of one list of figures.

use serde::Serialize;

use super::bootstrap::Interval;

/// Figures of one side.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// How many there are.
    pub n: usize,
    /// The statistic that is compared, and its interval.
    pub centre: Interval,
    /// The middle one.
    pub median: f64,
    /// Their sum, divided by their number.
    pub mean: f64,
    /// The standard deviation; 0 of one figure.
    pub deviation: f64,
    /// The smallest.
    pub min: f64,
    /// 95 of 100 are not above it.
    pub p95: f64,
    /// The largest.
    pub max: f64,
}

impl Summary {
    pub(super) fn of(figures: &[f64], centre: Interval) -> Option<Self> {
        let mut sorted = figures.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let mean = mean(figures);
        let squares: f64 = figures.iter().map(|figure| (figure - mean).powi(2)).sum();
        let deviation = if figures.len() < 2 { 0.0 } else { (squares / (figures.len() - 1) as f64).sqrt() };
        let (median, p95) = (quantile(&sorted, 0.5), quantile(&sorted, 0.95));
        Some(Self { n: figures.len(), centre, median, mean, deviation, min, p95, max })
    }
}

/// The mean; 0 of nothing.
pub(super) fn mean(figures: &[f64]) -> f64 {
    if figures.is_empty() { 0.0 } else { figures.iter().sum::<f64>() / figures.len() as f64 }
}

/// The median of `figures`, which are put into another order; 0 of nothing.
pub(super) fn median(figures: &mut [f64]) -> f64 {
    let middle = figures.len() / 2;
    if figures.is_empty() {
        return 0.0;
    }
    let is_odd = figures.len() % 2 == 1;
    let (below, upper, _) = figures.select_nth_unstable_by(middle, f64::total_cmp);
    if is_odd {
        return *upper;
    }
    let lower = below.iter().copied().max_by(f64::total_cmp).unwrap_or(*upper);
    f64::midpoint(lower, *upper)
}

/// The quantile at `level` (0 to 1) of figures in ascending order, between two of them by their distance; 0 of nothing.
pub(super) fn quantile(sorted: &[f64], level: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let place = level.clamp(0.0, 1.0) * last as f64;
    let below = floor(place).min(last);
    let above = (below + 1).min(last);
    let part = place - below as f64;
    sorted[below] + (sorted[above] - sorted[below]) * part
}

/// A number that is not negative, rounded down.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast saturates at both ends")]
pub(super) const fn floor(number: f64) -> usize {
    number as usize
}

/// The part of a normal distribution below `z`, to 8e-8. Abramowitz and Stegun 26.2.17.
pub(super) fn normal(z: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * z.abs());
    let polynomial = [1.330_274_429, -1.821_255_978, 1.781_477_937, -0.356_563_782, 0.319_381_53];
    let tail = polynomial.iter().fold(0.0, |sum, factor| (sum + factor) * t);
    let tail = tail * (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    if z < 0.0 { tail } else { 1.0 - tail }
}

/// Below which the part `level` of a normal distribution is: the inverse of [`normal`], by halving.
pub(super) fn normal_quantile(level: f64) -> f64 {
    let (mut low, mut high) = (-8.0, 8.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if normal(middle) < level { low = middle } else { high = middle }
    }
    f64::midpoint(low, high)
}

/// The same of Student's t distribution with `freedom` degrees of freedom, of which there should be 4 or more. Fisher and Cornish,
/// by way of Abramowitz and Stegun 26.7.5.
pub(super) fn t_quantile(level: f64, freedom: f64) -> f64 {
    let z = normal_quantile(level);
    let terms = [
        (z.powi(3) + z) / 4.0,
        (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0,
        (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / 384.0,
    ];
    terms.iter().rev().fold(0.0, |sum, term| (sum + term) / freedom) + z
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_near(got: f64, expected: f64, error: f64) {
        assert!((got - expected).abs() <= error, "{got} is not {expected}");
    }

    #[test]
    fn the_median_is_in_the_middle() {
        for (figures, expected) in
            [(vec![], 0.0), (vec![3.0], 3.0), (vec![9.0, 1.0], 5.0), (vec![9.0, 1.0, 2.0], 2.0)]
        {
            is_near(median(&mut figures.clone()), expected, 0.0);
        }
    }

    #[test]
    fn quantiles_lie_between_figures() {
        let sorted = [10.0, 20.0, 30.0, 40.0, 50.0];
        for (level, expected) in [(-1.0, 10.0), (0.0, 10.0), (0.25, 20.0), (0.3, 22.0), (1.0, 50.0)] {
            is_near(quantile(&sorted, level), expected, 1e-9);
        }
    }

    #[test]
    fn distributions_are_those_of_the_tables() {
        for (z, expected) in [(0.0, 0.5), (1.0, 0.841_344_7), (-1.959_964, 0.025), (2.0, 0.977_249_9)] {
            is_near(normal(z), expected, 2e-7);
            is_near(normal_quantile(expected), z, 1e-5);
        }
        for (freedom, expected) in [(9.0, 2.262), (19.0, 2.093), (99.0, 1.984)] {
            is_near(t_quantile(0.975, freedom), expected, 2e-3);
        }
    }

    #[test]
    fn a_summary_is_of_all_figures() {
        let centre = Interval { estimate: 2.0, low: 1.0, high: 3.0 };
        let summary = Summary::of(&[1.0, 2.0, 3.0], centre).expect("figures");
        assert_eq!((summary.n, summary.min, summary.max), (3, 1.0, 3.0));
        is_near(summary.deviation, 1.0, 1e-9);
        is_near(summary.p95, 2.9, 1e-9);
        assert!(Summary::of(&[], centre).is_none());
    }
}
