//! Repeated measurements of one thing.

/// Measurements in one unit, in the order taken.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds one measurement.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The middle one; the mean of the middle two of an even number; not a number if there is none.
    #[must_use]
    pub fn median(&self) -> f64 {
        let sorted = self.sorted();
        match (sorted.len(), sorted.len() / 2) {
            (0, _) => f64::NAN,
            (count, middle) if count % 2 == 1 => sorted[middle],
            (_, middle) => f64::midpoint(sorted[middle - 1], sorted[middle]),
        }
    }

    /// The least one that at least `percent` % of all do not exceed (nearest rank); not a number if there is none.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> f64 {
        let sorted = self.sorted();
        let rank = (sorted.len() * percent).div_ceil(100);
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: &[f64]) -> Samples {
        let mut samples = Samples::default();
        values.iter().for_each(|value| samples.push(*value));
        samples
    }

    #[test]
    fn medians_and_percentiles_are_of_the_sorted_values() {
        let all = samples(&[5.0, 1.0, 4.0, 2.0]);
        assert_eq!(
            [all.median(), all.percentile(50), all.percentile(99), all.percentile(1)],
            [3.0, 2.0, 5.0, 1.0]
        );
        assert_eq!(samples(&[9.0, 7.0, 8.0]).median(), 8.0);
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(samples(&hundred).percentile(99), 99.0);
    }

    #[test]
    fn of_nothing_there_is_no_median() {
        assert!(samples(&[]).median().is_nan() && samples(&[]).percentile(99).is_nan());
    }
}
