//! When a container is to be asked to stop, and when it is to be killed. Pure: time is an argument.

use std::time::{Duration, Instant};

use super::Terms;

/// The next things to happen to a container by the clock.
#[derive(Debug)]
pub(super) struct Deadlines {
    stop_at: Option<Instant>,
    kill_at: Option<Instant>,
    stop_signal: i32,
    grace: Option<Duration>,
}

impl Deadlines {
    pub(super) fn new(terms: &Terms, now: Instant) -> Self {
        Self {
            stop_at: terms.timeout.and_then(|timeout| now.checked_add(timeout)),
            kill_at: None,
            stop_signal: terms.stop_signal,
            grace: terms.stop_timeout,
        }
    }

    /// When [`Self::due`] will next have something.
    pub(super) fn next(&self) -> Option<Instant> {
        self.stop_at.into_iter().chain(self.kill_at).min()
    }

    /// The signal that is due at `now`, once.
    pub(super) fn due(&mut self, now: Instant) -> Option<i32> {
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill_at = None;
            return Some(libc::SIGKILL);
        }
        if self.stop_at.is_some_and(|at| at <= now) {
            return Some(self.stop(self.stop_signal, now));
        }
        None
    }

    /// Starts the time after which the container is killed, and returns `signal`, which is to be sent first.
    pub(super) fn stop(&mut self, signal: i32, now: Instant) -> i32 {
        self.stop_at = None;
        self.kill_at = self.kill_at.or_else(|| self.grace.and_then(|grace| now.checked_add(grace)));
        signal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(timeout: Option<u64>, stop_timeout: Option<u64>) -> Terms {
        Terms {
            sig_proxy: true,
            interactive: false,
            stop_signal: libc::SIGINT,
            stop_timeout: stop_timeout.map(Duration::from_secs),
            timeout: timeout.map(Duration::from_secs),
        }
    }

    /// What is due in each of the seconds after the start.
    fn by_second(terms: &Terms, seconds: u64) -> Vec<Option<i32>> {
        let start = Instant::now();
        let mut deadlines = Deadlines::new(terms, start);
        (0..seconds).map(|second| deadlines.due(start + Duration::from_secs(second))).collect()
    }

    #[test]
    fn a_timeout_stops_and_then_kills_once() {
        let (stop, kill) = (Some(libc::SIGINT), Some(libc::SIGKILL));
        assert_eq!(by_second(&terms(Some(1), Some(2)), 6), [None, stop, None, kill, None, None]);
        assert_eq!(by_second(&terms(Some(1), Some(0)), 4), [None, stop, kill, None]);
        assert_eq!(by_second(&terms(Some(1), None), 4), [None, stop, None, None]);
        assert_eq!(by_second(&terms(None, Some(1)), 3), [None; 3]);
    }

    #[test]
    fn the_next_deadline_is_the_earliest() {
        let start = Instant::now();
        let mut deadlines = Deadlines::new(&terms(Some(5), Some(10)), start);
        assert_eq!(deadlines.next(), Some(start + Duration::from_secs(5)));
        assert_eq!(deadlines.stop(libc::SIGHUP, start), libc::SIGHUP);
        assert_eq!(deadlines.next(), Some(start + Duration::from_secs(10)));
        assert_eq!(Deadlines::new(&terms(None, None), start).next(), None);
    }
}
