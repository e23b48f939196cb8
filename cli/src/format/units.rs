//! Sizes and times the way docker says them. Pure.

use std::time::Duration;

use skiff_engine::log::stamp::rfc3339;

/// Bytes with four digits that count, in powers of 1024: `1.25MiB`.
pub(crate) fn binary(bytes: u64) -> String {
    scaled(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"], 4)
}

/// Bytes with three digits that count, in powers of 1000: `1.25MB`.
pub(crate) fn decimal(bytes: u64) -> String {
    scaled(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB", "EB"], 3)
}

fn scaled(bytes: u64, base: f64, units: &[&str], digits: usize) -> String {
    let (mut size, mut unit) = (bytes as f64, 0);
    while size >= base && unit + 1 < units.len() {
        size /= base;
        unit += 1;
    }
    let whole = if size >= 1000.0 {
        4
    } else if size >= 100.0 {
        3
    } else if size >= 10.0 {
        2
    } else {
        1
    };
    let text = format!("{size:.*}", digits.saturating_sub(whole));
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", units[unit])
}

/// How long it is from `then_ns` to `now_ns`, as people say it.
pub(crate) fn span(now_ns: u64, then_ns: u64) -> String {
    let seconds = Duration::from_nanos(now_ns.saturating_sub(then_ns)).as_secs();
    let minutes = seconds / 60;
    let hours = (seconds + 1800) / 3600;
    match (seconds, minutes, hours) {
        (0, ..) => "Less than a second".into(),
        (1, ..) => "1 second".into(),
        (..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".into(),
        (_, ..60, _) => format!("{minutes} minutes"),
        (.., 1) => "About an hour".into(),
        (.., ..48) => format!("{hours} hours"),
        (.., ..336) => format!("{} days", hours / 24),
        (.., ..1440) => format!("{} weeks", hours / 24 / 7),
        (.., ..17_520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// `2026-01-02 15:04:05 +0000 UTC`.
pub(crate) fn date(time_ns: u64) -> String {
    let text = rfc3339(time_ns);
    format!("{} {} +0000 UTC", text.get(..10).unwrap_or_default(), text.get(11..19).unwrap_or_default())
}

/// So many characters, the last of them an ellipsis if there are more.
pub(crate) fn ellipsis(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        None => text.to_owned(),
        Some(_) => text.chars().take(characters - 1).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn sizes_are_docker_s() {
        let check = |bytes: u64, binary_text: &str, decimal_text: &str| {
            assert_eq!((binary(bytes).as_str(), decimal(bytes).as_str()), (binary_text, decimal_text));
        };
        check(0, "0B", "0B");
        check(999, "999B", "999B");
        check(1000, "1000B", "1kB");
        check(1536, "1.5KiB", "1.54kB");
        check(634_880, "620KiB", "635kB");
        check(8_185_344_000, "7.623GiB", "8.19GB");
    }

    #[test]
    fn spans_are_said_as_docker_says_them() {
        let check = |seconds: u64, expected: &str| assert_eq!(span(seconds * S, 0), expected, "{seconds}");
        check(0, "Less than a second");
        check(1, "1 second");
        check(59, "59 seconds");
        check(60, "About a minute");
        check(120, "2 minutes");
        check(46 * 60, "46 minutes");
        check(60 * 60, "About an hour");
        check(90 * 60, "2 hours");
        check(47 * 3600, "47 hours");
        check(48 * 3600, "2 days");
        check(14 * 86_400, "2 weeks");
        check(60 * 86_400, "2 months");
        check(2 * 365 * 86_400, "2 years");
    }
}
