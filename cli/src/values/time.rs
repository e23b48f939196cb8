//! Spans of time as Go writes them, and moments.

use std::time::Duration;

use super::Reason;

/// Units, longest names first where one begins like another; in ns.
const UNITS: [(&str, f64); 8] =
    [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("μs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];

/// A span such as `1m30s`, `1.5h` or `300ms`; `0` needs no unit.
pub(crate) fn duration(text: &str) -> Result<Duration, Reason> {
    let wrong = || "not a time such as 1m30s".to_owned();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (mut rest, mut sum_ns) = (text.strip_prefix('+').unwrap_or(text), 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let is_meant = |(name, _): &&(&str, f64)| {
            rest.strip_prefix(name).is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphabetic()))
        };
        let (name, unit_ns) = UNITS.iter().find(is_meant).ok_or_else(wrong)?;
        sum_ns += number * unit_ns;
        rest = &rest[name.len()..];
    }
    if text.is_empty() || sum_ns > i64::MAX as f64 {
        return Err(wrong());
    }
    Ok(Duration::from_secs_f64(sum_ns / 1e9))
}

/// A moment, ns since 1970: seconds since then with decimals, a date, a date and time with or without a zone (UTC without
/// one), or a span before `now_ns`.
pub(crate) fn moment(text: &str, now_ns: u64) -> Result<u64, Reason> {
    if let Ok(before) = duration(text)
        && text != "0"
    {
        return Ok(now_ns.saturating_sub(u64::try_from(before.as_nanos()).unwrap_or(u64::MAX)));
    }
    seconds(text)
        .or_else(|| date(text))
        .ok_or_else(|| "not a time such as 2026-01-02T15:04:05Z or 1m30s".into())
}

/// `SECONDS` or `SECONDS.FRACTION`.
fn seconds(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    whole.parse::<u64>().ok()?.checked_mul(1_000_000_000)?.checked_add(fraction_ns(fraction)?)
}

/// The digits behind a decimal point, in billionths.
fn fraction_ns(digits: &str) -> Option<u64> {
    let valid = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    valid.then(|| format!("{:0<9}", digits.get(..9).unwrap_or(digits)).parse().ok())?
}

/// `2026-01-02[T15[:04[:05[.999]]]][Z|+01:00]`. RFC 3339.
fn date(text: &str) -> Option<u64> {
    let (day, time) = text.split_once('T').unwrap_or((text, ""));
    let mut parts = day.splitn(3, '-');
    let [year, month, day] =
        [parts.next()?, parts.next()?, parts.next()?].map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (year?, month?, day?);
    let valid = (1970..=2261).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !valid {
        return None;
    }
    let (time, zone_s) = match time.find(['Z', '+', '-']) {
        Some(at) => (&time[..at], zone(&time[at..])?),
        None => (time, 0),
    };
    let (whole, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut clock = [0_i64; 3];
    for (index, part) in whole.split(':').filter(|part| !part.is_empty()).enumerate() {
        *clock.get_mut(index)? = part.parse().ok().filter(|number| (0..=60).contains(number))?;
    }
    let [hour, minute, second] = clock;
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - zone_s;
    u64::try_from(seconds).ok()?.checked_mul(1_000_000_000)?.checked_add(fraction_ns(fraction)?)
}

/// How far ahead of UTC a zone is, s: `Z`, `+01:00`.
fn zone(text: &str) -> Option<i64> {
    if text == "Z" {
        return Some(0);
    }
    let (hours, minutes) = text[1..].split_once(':')?;
    let ahead = hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60;
    Some(if text.starts_with('-') { -ahead } else { ahead })
}

/// Days from 1970-01-01 to a date of the Gregorian calendar.
const fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March here, so that the leap day is a year's last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let of_year = (153 * month + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_dates_seconds_and_spans() {
        const S: u64 = 1_000_000_000;
        let check =
            |text: &str, expected: u64| assert_eq!(moment(text, 1_000_000 * S), Ok(expected), "{text}");
        check("0", 0);
        check("1136073600", 1_136_073_600 * S);
        check("1136073600.000000001", 1_136_073_600 * S + 1);
        check("10s", 999_990 * S);
        check("1m30s", 999_910 * S);
        check("999999h", 0);
        check("1970-01-01", 0);
        check("2006-01-01T00:00:00Z", 1_136_073_600 * S);
        check("2006-01-01T00:00:00.5Z", 1_136_073_600 * S + S / 2);
        check("2006-01-01T01:00:00+01:00", 1_136_073_600 * S);
        check("2006-01-01T01:02", (1_136_073_600 + 3720) * S);
        check("2000-02-29T12:34:56.000000001Z", 951_827_696 * S + 1);
        for text in ["", "yesterday", "2006-13-01", "2006-01-01T99:00", "-5", "1.x", "2006-01-01T00:00:00+x"]
        {
            assert!(moment(text, 0).is_err(), "{text}");
        }
    }

    #[test]
    fn spans_are_sums_of_numbers_with_units() {
        let check = |text: &str, ms: u64| assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        check("0", 0);
        check("0s", 0);
        check("300ms", 300);
        check("1m30s", 90_000);
        check("1.5h", 5_400_000);
        check("+2s", 2000);
        check("1m5ms", 60_005);
        for text in ["", "5", "s", "1x", "-1s", "1s5", "1..5s", "1m s", "99999999999h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
