//! From runs to what is said of them.

use serde::Serialize;

use super::bootstrap::{Difference, Settings, centre, difference};
use super::judge::{Verdict, noise_floor, verdict};
use super::limit::{Limit, Outcome};
use super::metric::{Figures, METRICS, Metric};
use super::random::Random;
use super::statistics::Summary;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Arm {
    /// The first.
    A,
    /// The second.
    B,
}

/// What a run was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// To fill caches; its figures are not looked at.
    WarmUp,
    /// A against A: both arms did what A does.
    Control,
    /// A against B, or A alone.
    Comparison,
}

/// A run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// What it was for.
    pub phase: Phase,
    /// Which of the two it was; in [`Phase::Control`] which of the two As.
    pub arm: Arm,
    /// When it began, ns since the first one did.
    pub at_ns: u64,
    /// What the program exited with; 128 + n if signal n has killed it.
    pub exit_code: u8,
    /// What it took.
    pub figures: Figures,
}

/// One metric of both sides.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Compared {
    /// Which.
    pub metric: Metric,
    /// Of A.
    pub a: Summary,
    /// Of B, if there is a B.
    pub b: Option<Summary>,
    /// By how much B differs.
    pub difference: Option<Difference>,
    /// By how much A differs from itself, in the unit of the metric.
    pub noise_floor: Option<f64>,
    /// What may be said.
    pub verdict: Option<Verdict>,
    /// A against A, as it was measured first.
    pub control: Option<Control>,
}

/// How A has fared against itself.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Control {
    /// Pairs.
    pub pairs: usize,
    /// Between the two As.
    pub difference: Difference,
    /// Whether they differ where nothing does: the machine is not quiet, or what ran before matters to what comes next.
    pub differs: bool,
}

/// What is said of a comparison beside its figures.
#[derive(Debug, Clone, PartialEq)]
pub struct About {
    /// What A is: the words that were typed.
    pub a: String,
    /// What B is, if there is a B.
    pub b: Option<String>,
    /// How intervals are made.
    pub settings: Settings,
    /// What repeats them.
    pub seed: u64,
}

/// A comparison that is over.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// What was compared, and how.
    pub about: About,
    /// Every run, in the order of time.
    pub runs: Vec<Run>,
    /// Metrics that every run has.
    pub compared: Vec<Compared>,
    /// Names of those that some run has not.
    pub missing: Vec<&'static str>,
    /// What was not to be exceeded.
    pub limits: Vec<Outcome>,
}

/// What [`Report::new`] says of limits in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judged {
    /// None is exceeded.
    Kept,
    /// One is.
    Exceeded,
}

/// Two pairs in the order in which they are to be run, ABBA or BAAB by chance: what gets steadily slower meets both alike, and
/// what comes and goes in time with the runs meets neither more often.
pub fn block(random: &mut Random) -> [Arm; 4] {
    if random.below(2) == 0 { [Arm::A, Arm::B, Arm::B, Arm::A] } else { [Arm::B, Arm::A, Arm::A, Arm::B] }
}

/// The figures of `phase`, pair by pair: those of A and those of B. Empty if a run does not have them.
#[must_use]
pub fn pairs(runs: &[Run], phase: Phase, metric: usize) -> [Vec<f64>; 2] {
    let of = |arm: Arm| {
        let runs = runs.iter().filter(|run| run.phase == phase && run.arm == arm);
        let figures: Option<Vec<f64>> = runs.map(|run| Some(run.figures.get(metric)? as f64)).collect();
        figures.unwrap_or_default()
    };
    [of(Arm::A), of(Arm::B)]
}

impl Report {
    /// Judges `runs`.
    #[must_use]
    pub fn new(about: About, runs: Vec<Run>, limits: &[Limit]) -> Self {
        // Each metric has random numbers of its own, so that none depends on which others the host tells.
        let compared = |index: usize| {
            let mut random = Random::new(about.seed ^ (index as u64 + 1));
            compare(&runs, index, about.b.is_some(), &about.settings, &mut random).ok_or(METRICS[index].name)
        };
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for outcome in (0..METRICS.len()).map(compared) {
            match outcome {
                Ok(one) => found.push(one),
                Err(name) => missing.push(name),
            }
        }
        let limits = limits.iter().map(|limit| limit.judge(&found)).collect();
        Self { about, runs, compared: found, missing, limits }
    }

    /// Whether a limit is exceeded.
    #[must_use]
    pub fn judged(&self) -> Judged {
        if self.limits.iter().any(|limit| limit.failed) { Judged::Exceeded } else { Judged::Kept }
    }
}

/// One metric; none if a run does not have it.
fn compare(
    runs: &[Run],
    index: usize,
    has_b: bool,
    settings: &Settings,
    random: &mut Random,
) -> Option<Compared> {
    let [a, b] = pairs(runs, Phase::Comparison, index);
    let summary =
        |figures: &[f64], random: &mut Random| Summary::of(figures, centre(figures, settings, random));
    let of_a = summary(&a, random)?;
    let mut compared = Compared {
        metric: METRICS[index],
        a: of_a,
        b: None,
        difference: None,
        noise_floor: None,
        verdict: None,
        control: None,
    };
    if !has_b {
        return Some(compared);
    }
    let between = difference(&a, &b, settings, random);
    let [one, other] = pairs(runs, Phase::Control, index);
    let all: Vec<f64> = a.iter().chain(&one).chain(&other).copied().collect();
    let floor = noise_floor(&all, a.len(), settings, random);
    compared.b = Some(summary(&b, random)?);
    compared.difference = Some(between);
    compared.noise_floor = Some(floor);
    compared.verdict = Some(verdict(&a, &b, &between.absolute, floor));
    compared.control = (!one.is_empty()).then(|| control(&one, &other, settings, random));
    Some(compared)
}

/// A against A. So many metrics are looked at that an interval of 95 % would exclude zero too often.
fn control(one: &[f64], other: &[f64], settings: &Settings, random: &mut Random) -> Control {
    let strict = Settings { confidence: settings.confidence.max(0.999), ..*settings };
    let differs = difference(one, other, &strict, random).absolute.excludes_zero();
    Control { pairs: one.len(), difference: difference(one, other, settings, random), differs }
}
