//! Whether a container is well: docker's state machine of health, and what is due next. Pure, but for [`probe`].
//!
//! ```text
//! starting ── a check passes ──► healthy ◄── a check passes ── unhealthy
//!     │                             └─ so many fail in a row ─►   ▲
//!     └── so many fail in a row after the start period ───────────┘
//! ```

pub mod probe;

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::spec::{HealthSpec, HealthTest};

/// How many results are kept.
pub const LOG_LENGTH: usize = 5;

/// How much of a check's output is kept, bytes.
pub const OUTPUT_MAX_BYTES: usize = 4096;

/// The exit code of a check that could not be made, or took too long.
pub const FAILED: i32 = -1;

/// What is checked, with every default filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What is done; never [`HealthTest::None`].
    pub test: HealthTest,
    /// From the end of a check to the next.
    pub interval: Duration,
    /// How long a check may take.
    pub timeout: Duration,
    /// How long failures do not count.
    pub start_period: Duration,
    /// Instead of `interval` in that time, until the first success.
    pub start_interval: Duration,
    /// How many failures in a row make it unhealthy.
    pub retries: u32,
}

impl Check {
    /// What `spec` asks for, with docker's defaults; `None` if there is nothing to check. Zero is a default, too.
    #[must_use]
    pub fn of(spec: &HealthSpec) -> Option<Self> {
        let test = spec.test.clone().filter(|test| *test != HealthTest::None)?;
        let or = |given: Option<Duration>, default_s: u64| {
            given.filter(|given| !given.is_zero()).unwrap_or(Duration::from_secs(default_s))
        };
        Some(Self {
            test,
            interval: or(spec.interval, 30),
            timeout: or(spec.timeout, 30),
            start_period: or(spec.start_period, 0),
            start_interval: or(spec.start_interval, 5),
            retries: spec.retries.filter(|retries| *retries > 0).unwrap_or(3),
        })
    }

    /// How long to wait for the next check of a container that has run for `ran`. The first one is not at once.
    #[must_use]
    pub fn pause(&self, health: &Health, ran: Duration) -> Duration {
        let starts = health.status == Status::Starting && ran < self.start_period;
        if starts { self.start_interval } else { self.interval }
    }
}

/// How a container is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// No check has passed, and not too many have failed.
    #[default]
    Starting,
    /// The last check passed, or not too many have failed since.
    Healthy,
    /// Too many have failed in a row.
    Unhealthy,
}

impl Status {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// What is known of a container's health.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// How it is.
    pub status: Status,
    /// How many checks have failed in a row, where they count.
    pub failing_streak: u32,
    /// The last results, the oldest first; [`LOG_LENGTH`] at most.
    pub log: VecDeque<Outcome>,
}

/// The result of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Outcome {
    /// When it began, ns since 1970.
    pub start_ns: u64,
    /// When it ended, ns since 1970.
    pub end_ns: u64,
    /// 0 is well; [`FAILED`] if there is none.
    pub exit_code: i32,
    /// What it said, cut by [`Output`].
    pub output: String,
}

impl Outcome {
    /// A check that took too long. `output` is what it had said by then.
    #[must_use]
    pub fn timed_out(start_ns: u64, end_ns: u64, timeout: Duration, output: &str) -> Self {
        let said = format!("health check exceeded the timeout of {timeout:?}");
        let output = if output.is_empty() { said } else { format!("{said}: {output}") };
        Self { start_ns, end_ns, exit_code: FAILED, output }
    }
}

impl Health {
    /// The container has been started, again perhaps: earlier results are kept, and count no more.
    pub fn begin(&mut self) {
        self.status = Status::Starting;
        self.failing_streak = 0;
    }

    /// The container has ended: as with docker, nobody is healthy who is not checked any more.
    pub fn end(&mut self) {
        self.status = Status::Unhealthy;
    }

    /// Notes the result of a check of a container that was started at `started_ns`; whether the status has changed.
    pub fn note(&mut self, check: &Check, started_ns: u64, outcome: Outcome) -> bool {
        let before = self.status;
        let ran = Duration::from_nanos(outcome.start_ns.saturating_sub(started_ns));
        if outcome.exit_code == 0 {
            self.status = Status::Healthy;
            self.failing_streak = 0;
        } else if before != Status::Starting || ran >= check.start_period {
            self.failing_streak = self.failing_streak.saturating_add(1);
            if self.failing_streak >= check.retries {
                self.status = Status::Unhealthy;
            }
        }
        self.log.push_back(outcome);
        while self.log.len() > LOG_LENGTH {
            self.log.pop_front();
        }
        self.status != before
    }
}

/// The beginning of what a check says; the rest is counted as dots, as docker has it.
#[derive(Debug, Default)]
pub struct Output {
    bytes: Vec<u8>,
    is_cut: bool,
}

impl Output {
    /// Takes more of it.
    pub fn take(&mut self, bytes: &[u8]) {
        let room = OUTPUT_MAX_BYTES - self.bytes.len();
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.is_cut |= bytes.len() > room;
    }

    /// All there is, as text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::from_utf8_lossy(&self.bytes).into_owned();
        if self.is_cut {
            text.push_str("...");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn check() -> Check {
        let test = Some(HealthTest::Tcp(80));
        Check::of(&HealthSpec { test, ..HealthSpec::default() }).expect("a check")
    }

    fn outcome(at_s: u64, exit_code: i32) -> Outcome {
        Outcome { start_ns: at_s * SECOND_NS, end_ns: at_s * SECOND_NS + 1, exit_code, ..Outcome::default() }
    }

    #[test]
    fn defaults_are_docker_s() {
        let expected = Check {
            test: HealthTest::Tcp(80),
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(30),
            start_period: Duration::ZERO,
            start_interval: Duration::from_secs(5),
            retries: 3,
        };
        assert_eq!(check(), expected);
        let zeros = HealthSpec {
            test: Some(HealthTest::Tcp(80)),
            interval: Some(Duration::ZERO),
            retries: Some(0),
            ..HealthSpec::default()
        };
        assert_eq!(Check::of(&zeros), Some(expected));
        assert_eq!(Check::of(&HealthSpec::default()), None);
        assert_eq!(Check::of(&HealthSpec { test: Some(HealthTest::None), ..HealthSpec::default() }), None);
    }

    /// A container that was started at 100 s: results as `+` and `-`, ten seconds apart, and the status after each.
    #[track_caller]
    fn story(check: &Check, results: &str, expected: &str) -> Health {
        let mut health = Health::default();
        let mut seen = String::new();
        for (at, result) in (110..).step_by(10).zip(results.chars()) {
            let before = health.status;
            let changed = health.note(check, 100 * SECOND_NS, outcome(at, i32::from(result != '+')));
            assert_eq!(changed, before != health.status);
            seen.push_str(&health.status.word()[..1]);
        }
        assert_eq!(seen, expected, "{results}");
        health
    }

    #[test]
    fn failures_in_a_row_make_it_unhealthy() {
        let check = check();
        story(&check, "+", "h");
        story(&check, "--+", "ssh");
        story(&check, "---", "ssu");
        story(&check, "---+", "ssuh");
        story(&check, "+--+--", "hhhhhh");
        story(&check, "+---", "hhhu");
        assert_eq!(story(&check, "+-----", "hhhuuu").failing_streak, 5);
        story(&Check { retries: 1, ..check }, "-+-", "uhu");
    }

    #[test]
    fn failures_in_the_start_period_do_not_count_until_something_passes() {
        let check = Check { start_period: Duration::from_secs(25), ..check() };
        story(&check, "-----", "ssssu");
        assert_eq!(story(&check, "--", "ss").failing_streak, 0);
        story(&check, "+---", "hhhu");
        story(&check, "-+---", "shhhu");
    }

    #[test]
    fn the_log_keeps_the_last_five() {
        let health = story(&check(), "++++++-", "hhhhhhh");
        assert_eq!(health.log.len(), LOG_LENGTH);
        assert_eq!(health.log.front().map(|first| first.start_ns), Some(130 * SECOND_NS));
        assert_eq!(health.log.back().map(|last| last.exit_code), Some(1));
    }

    #[test]
    fn a_start_begins_anew() {
        let mut health = story(&check(), "---", "ssu");
        health.begin();
        assert_eq!((health.status, health.failing_streak, health.log.len()), (Status::Starting, 0, 3));
    }

    #[test]
    fn checks_are_closer_while_it_starts() {
        let check = Check { start_period: Duration::from_secs(60), ..check() };
        let pause = |status, ran_s| {
            check.pause(&Health { status, ..Health::default() }, Duration::from_secs(ran_s)).as_secs()
        };
        assert_eq!(pause(Status::Starting, 0), 5);
        assert_eq!(pause(Status::Starting, 59), 5);
        assert_eq!(pause(Status::Starting, 60), 30);
        assert_eq!(pause(Status::Healthy, 0), 30);
        assert_eq!(self::check().pause(&Health::default(), Duration::ZERO).as_secs(), 30);
    }

    #[test]
    fn output_is_cut() {
        let mut output = Output::default();
        output.take(&[b'a'; OUTPUT_MAX_BYTES - 1]);
        output.take(b"b");
        assert_eq!(output.text().len(), OUTPUT_MAX_BYTES);
        output.take(b"");
        assert!(output.text().ends_with("ab"));
        output.take(&[b'c'; 1 << 20]);
        assert!(output.text().ends_with("ab..."));
        assert_eq!(output.text().len(), OUTPUT_MAX_BYTES + 3);
        let mut odd = Output::default();
        odd.take(b"\xff\n");
        assert_eq!(odd.text(), "\u{fffd}\n");
    }

    #[test]
    fn a_slow_check_says_so() {
        let outcome = Outcome::timed_out(1, 2, Duration::from_millis(1500), "");
        assert_eq!(
            (outcome.exit_code, outcome.output.as_str()),
            (-1, "health check exceeded the timeout of 1.5s")
        );
        assert!(
            Outcome::timed_out(1, 2, Duration::from_secs(1), "so far\n").output.ends_with("1s: so far\n")
        );
    }
}
