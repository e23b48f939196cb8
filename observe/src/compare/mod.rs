//! Two ways of doing something, told apart: which figures of runs of A and of B differ, by how much, and how sure that is.
//!
//! Runs come in pairs, one of A and one of B, next to each other in time (see [`block`]). Every interval is made by
//! drawing pairs anew (the bootstrap), so that what changes slowly on the machine meets both sides of a difference. A
//! verdict is given only if the interval excludes zero and the difference is more than A differs from itself.
//!
//! Nothing here measures. The same runs and the same seed give the same report.

mod bootstrap;
mod html;
mod judge;
mod limit;
mod metric;
mod plot;
mod random;
mod report;
mod statistics;

pub use bootstrap::{Difference, Interval, PAIRS_MIN, Settings, Statistic, centre, difference};
pub use html::page;
pub use judge::{Stopping, Verdict, noise_floor, verdict};
pub use limit::{Limit, LimitError, Outcome};
pub use metric::{COUNT, Figures, METRICS, Metric, Unit, index_of};
pub use random::Random;
pub use report::{About, Arm, Compared, Control, Judged, Phase, Report, Run, block, pairs};
pub use statistics::Summary;

#[cfg(test)]
mod tests;
