//! Points in time as RFC 3339 writes them, in UTC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Now, to the second, as logs have it.
pub(crate) fn now() -> String {
    text(since_epoch(), false)
}

/// Now, to the nanosecond, as states have it.
pub(crate) fn now_exactly() -> String {
    text(since_epoch(), true)
}

/// A clock set before 1970 is a clock at 1970.
fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn text(since_epoch: Duration, exactly: bool) -> String {
    let seconds = since_epoch.as_secs();
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let fraction = if exactly { format!(".{:09}", since_epoch.subsec_nanos()) } else { String::new() };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// The date `days` after 1970-01-01 in the Gregorian calendar.
///
/// Counted in years that begin in March, so that the leap day is a year's last, and in eras of 400 years, which are all
/// of one length.
fn date(days: u64) -> (u64, u64, u64) {
    const ERA_DAYS: u64 = 146_097;
    // From 0000-03-01 to 1970-01-01.
    let days = days + 719_468;
    let (era, day) = (days / ERA_DAYS, days % ERA_DAYS);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // Months from March on repeat 31 30 31 30 31: 153 days in five.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let january_or_february = month >= 10;
    let month = if january_or_february { month - 9 } else { month + 3 };
    (era * 400 + year + u64::from(january_or_february), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let check = |seconds: u64, expected: &str| {
            assert_eq!(text(Duration::from_secs(seconds), false), expected);
        };
        // date -u -d @N +%FT%TZ
        check(0, "1970-01-01T00:00:00Z");
        check(951_782_399, "2000-02-28T23:59:59Z");
        check(951_782_400, "2000-02-29T00:00:00Z");
        check(951_868_800, "2000-03-01T00:00:00Z");
        check(1_709_251_199, "2024-02-29T23:59:59Z");
        check(4_107_542_400, "2100-03-01T00:00:00Z");
        check(1_795_302_000, "2026-11-21T23:00:00Z");
        check(253_402_300_799, "9999-12-31T23:59:59Z");
        let exact = Duration::new(1, 5);
        assert_eq!(text(exact, true), "1970-01-01T00:00:01.000000005Z");
    }
}
