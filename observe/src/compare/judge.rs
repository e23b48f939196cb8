//! When a difference is one, and when enough has been measured.

use serde::Serialize;

use super::bootstrap::{Interval, Settings};
use super::random::Random;
use super::statistics::quantile;

/// What is said of a figure of B.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// B's is lower than A's.
    Lower,
    /// B's is higher than A's.
    Higher,
    /// Both are the same number in every run.
    Equal,
    /// Whether they differ cannot be told: the interval holds zero, or A differs as much from itself.
    None,
}

/// What is to be measured before it is said how large a difference is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Stopping {
    /// Half of the interval's width is to be at most this part of A's figure.
    pub precision: f64,
    /// At least so many pairs.
    pub min_pairs: usize,
    /// At most so many pairs.
    pub max_pairs: usize,
}

impl Stopping {
    /// After how many pairs it is looked again, if it has been looked after `pairs`: in steps of a quarter, since each look costs
    /// time, and always of whole blocks.
    #[must_use]
    pub fn next_look(&self, pairs: usize) -> usize {
        let next = if pairs == 0 { self.min_pairs } else { pairs + (pairs / 4).max(2) };
        next.next_multiple_of(2).min(self.max_pairs.next_multiple_of(2))
    }

    /// Whether `interval`, of a difference from `base`, is narrow enough.
    ///
    /// The width alone decides, never where the interval lies: to stop when something has been found would find too much.
    #[must_use]
    pub fn is_narrow(&self, interval: &Interval, base: f64) -> bool {
        interval.half_width() <= self.precision * base.abs()
    }
}

/// How much A differs from itself: with the confidence of `settings`, the two halves of `runs` of its runs, drawn at random, differ
/// at most by this.
///
/// Halves have fewer runs than the sides of a comparison of `runs`, so that this is stricter than its interval by √2: of two equal
/// sides, at most 1 in 100 are told apart by medians at 95 %, and 3 in 100 by means, not 5. So many metrics are looked at that 5
/// would be too many.
#[must_use]
pub fn noise_floor(a: &[f64], runs: usize, settings: &Settings, random: &mut Random) -> f64 {
    let mut figures = a.to_vec();
    let half = runs.min(figures.len()) / 2;
    let mut found: Vec<f64> = (0..settings.resamples)
        .map(|_| {
            random.shuffle(&mut figures);
            let (one, rest) = figures.split_at_mut(half);
            (settings.statistic.of(one) - settings.statistic.of(&mut rest[..half])).abs()
        })
        .collect();
    found.sort_unstable_by(f64::total_cmp);
    if half == 0 { f64::INFINITY } else { quantile(&found, settings.confidence) }
}

/// What a difference says, where A differs from itself by `floor`.
#[must_use]
pub fn verdict(a: &[f64], b: &[f64], difference: &Interval, floor: f64) -> Verdict {
    let first = a.first().copied().unwrap_or_default();
    if a.iter().chain(b).all(|figure| figure.total_cmp(&first).is_eq()) {
        return Verdict::Equal;
    }
    if !difference.excludes_zero() || difference.estimate.abs() <= floor {
        return Verdict::None;
    }
    if difference.estimate < 0.0 { Verdict::Lower } else { Verdict::Higher }
}
