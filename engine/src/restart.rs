//! Whether a container that has ended is started again, and when: docker's restart policies. Pure.
//!
//! The pause begins with 100 ms, doubles up to a minute, and begins anew after a run of ten seconds. A container that
//! somebody has stopped stays down, until somebody starts it, or under `always` until the daemon comes up again: not one that
//! a client has started, for such a daemon leaves by itself, and the next command brings it back.

use std::time::Duration;

use crate::spec::Restart;

/// The first pause.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Whoever has run for so long is well, and the pause begins anew.
const WELL: Duration = Duration::from_secs(10);

/// What a policy remembers of a container. A new one whenever somebody starts it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct History {
    /// The last pause; zero before the first.
    pub pause: Duration,
    /// How often it has been started again, for the policy's limit and for `RestartCount`.
    pub count: u32,
}

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Its program has ended.
    Ended {
        /// How, as a shell has it.
        exit_code: u8,
        /// How long it had run.
        ran: Duration,
        /// Somebody has stopped it.
        stopped: bool,
    },
    /// The daemon has come up, and the container does not run.
    DaemonStarted {
        /// What it did when the daemon before was last heard of.
        found: Found,
        /// Somebody has stopped it.
        stopped: bool,
        /// A client has started the daemon.
        on_demand: bool,
    },
}

/// A container that does not run when the daemon comes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// It has never been started.
    Created,
    /// It had ended.
    Ended,
    /// It waited for the end of its pause.
    Waiting,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Nothing.
    Rest,
    /// It is started after this time; meanwhile it is `restarting`.
    Start {
        /// Zero is at once.
        after: Duration,
    },
}

/// What `policy` makes of `event`. The history is changed if the container is to be started.
#[must_use]
pub fn next(policy: Restart, history: &mut History, event: Event) -> Decision {
    match event {
        Event::Ended { exit_code, ran, stopped } => {
            if stopped || !wants(policy, exit_code, history.count) {
                return Decision::Rest;
            }
            let before = if ran >= WELL { Duration::ZERO } else { history.pause };
            history.pause = if before.is_zero() { PAUSE_MIN } else { (before * 2).min(PAUSE_MAX) };
            history.count = history.count.saturating_add(1);
            Decision::Start { after: history.pause }
        }
        Event::DaemonStarted { found, stopped, on_demand } => {
            let starts = match (policy, found) {
                (_, Found::Created) | (Restart::No, _) => false,
                (Restart::Always, _) => !(stopped && on_demand),
                (Restart::UnlessStopped, _) => !stopped,
                // What had ended for good stays so; what waited goes on.
                (Restart::OnFailure(_), found) => found == Found::Waiting && !stopped,
            };
            if starts { Decision::Start { after: Duration::ZERO } } else { Decision::Rest }
        }
    }
}

/// Whether a container that has ended by itself is to run again.
fn wants(policy: Restart, exit_code: u8, count: u32) -> bool {
    match policy {
        Restart::No => false,
        Restart::Always | Restart::UnlessStopped => true,
        // docker takes a limit of 0 for none.
        Restart::OnFailure(most) => exit_code != 0 && most.is_none_or(|most| most == 0 || count < most),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use Restart::{Always, No, OnFailure, UnlessStopped};

    const SOON: Duration = Duration::from_millis(5);

    fn ended(exit_code: u8, ran: Duration) -> Event {
        Event::Ended { exit_code, ran, stopped: false }
    }

    #[test]
    fn policies_look_at_the_exit_code_and_at_who_ended_it() {
        // Ended with 0; with 7; killed; stopped by somebody with 0; with 137.
        let events = [(0, false), (7, false), (137, false), (0, true), (137, true)];
        let check = |policy: Restart, expected: &str| {
            let decided: String = events
                .iter()
                .map(|(exit_code, stopped)| {
                    let event = Event::Ended { exit_code: *exit_code, ran: SOON, stopped: *stopped };
                    match next(policy, &mut History::default(), event) {
                        Decision::Rest => '-',
                        Decision::Start { .. } => '+',
                    }
                })
                .collect();
            assert_eq!(decided, expected, "{policy:?}");
        };
        check(No, "-----");
        check(OnFailure(None), "-++--");
        check(OnFailure(Some(0)), "-++--");
        check(OnFailure(Some(1)), "-++--");
        check(Always, "+++--");
        check(UnlessStopped, "+++--");
    }

    #[test]
    fn the_pause_doubles_up_to_a_minute() {
        let mut history = History::default();
        let mut pauses = Vec::new();
        for _ in 0..13 {
            let Decision::Start { after } = next(Always, &mut history, ended(1, SOON)) else {
                panic!("it is always started");
            };
            pauses.push(after.as_millis());
        }
        let expected = [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000, 60000];
        assert_eq!(pauses, expected);
        assert_eq!(history.count, 13);
    }

    #[test]
    fn a_run_of_ten_seconds_makes_the_pause_short_again() {
        let check = |ran_ms: u64, expected_ms: u64| {
            let mut history = History { pause: Duration::from_secs(8), count: 5 };
            let decision = next(Always, &mut history, ended(0, Duration::from_millis(ran_ms)));
            assert_eq!(decision, Decision::Start { after: Duration::from_millis(expected_ms) }, "{ran_ms}");
            assert_eq!(history.count, 6, "the count goes on");
        };
        check(0, 16_000);
        check(9_999, 16_000);
        check(10_000, 100);
        check(3_600_000, 100);
    }

    #[test]
    fn failures_are_limited_however_long_it_ran() {
        let mut history = History::default();
        for _ in 0..3 {
            assert_ne!(next(OnFailure(Some(3)), &mut history, ended(1, WELL)), Decision::Rest);
        }
        assert_eq!(next(OnFailure(Some(3)), &mut history, ended(1, WELL)), Decision::Rest);
        assert_eq!(history.count, 3);
    }

    #[test]
    fn a_daemon_that_comes_up_starts_what_is_to_run() {
        // Never started; ended; waiting; ended and stopped; waiting and stopped.
        let found = [
            (Found::Created, false),
            (Found::Ended, false),
            (Found::Waiting, false),
            (Found::Ended, true),
            (Found::Waiting, true),
        ];
        let check = |policy: Restart, on_demand: bool, expected: &str| {
            let decided: String = found
                .iter()
                .map(|(found, stopped)| {
                    let event = Event::DaemonStarted { found: *found, stopped: *stopped, on_demand };
                    match next(policy, &mut History::default(), event) {
                        Decision::Rest => '-',
                        Decision::Start { after } => {
                            assert_eq!(after, Duration::ZERO);
                            '+'
                        }
                    }
                })
                .collect();
            assert_eq!(decided, expected, "{policy:?} {on_demand}");
        };
        for on_demand in [false, true] {
            check(No, on_demand, "-----");
            check(OnFailure(Some(5)), on_demand, "--+--");
            check(UnlessStopped, on_demand, "-++--");
        }
        check(Always, false, "-++++");
        check(Always, true, "-++--");
    }
}
