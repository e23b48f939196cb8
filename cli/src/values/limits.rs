//! `--ulimit`, CPU and memory-node lists, and the numbers of the CPU and block controllers.

use skiff_runtime::options::Ulimit;

use super::{Reason, integer};

/// The names of setrlimit(2) without their prefix.
const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// `NAME=SOFT[:HARD]`; −1 is unlimited, and without HARD both limits are SOFT.
pub(crate) fn ulimit(text: &str) -> Result<Ulimit, Reason> {
    let (name, limits) = text.split_once('=').ok_or("not of the form NAME=SOFT[:HARD]")?;
    if !ULIMITS.contains(&name) {
        return Err(format!("no limit is called '{name}' (there are {})", ULIMITS.join(", ")));
    }
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let (soft, hard) = (rlimit(soft)?, rlimit(hard)?);
    if soft > hard {
        return Err("the soft limit is above the hard one".into());
    }
    Ok(Ulimit { name: name.to_owned(), soft, hard })
}

/// A list of CPUs or memory nodes, `0-3,5`. Which of them exist is the host's affair.
pub(crate) fn cpu_list(text: &str) -> Result<Option<String>, Reason> {
    let number = |part: &str| part.parse::<u16>().ok().filter(|_| !part.starts_with('+'));
    let range = |item: &str| match item.split_once('-') {
        Some((first, last)) => matches!((number(first), number(last)), (Some(a), Some(b)) if a <= b),
        None => number(item).is_some(),
    };
    match text {
        "" => Ok(None),
        _ if text.split(',').all(range) => Ok(Some(text.to_owned())),
        _ => Err("not a list of numbers and ranges, such as 0-3,5".into()),
    }
}

/// CPU shares: 0 leaves the host's default, everything else is brought into the kernel's range, as the kernel does.
pub(crate) fn cpu_shares(text: &str) -> Result<Option<u64>, Reason> {
    let shares = integer(text, 0..=i64::MAX)?.unsigned_abs();
    Ok((shares != 0).then(|| shares.clamp(2, 262_144)))
}

/// A CPU period in µs, from 1 ms to 1 s; 0 leaves the default.
pub(crate) fn cpu_period(text: &str) -> Result<Option<u64>, Reason> {
    match integer(text, 0..=i64::MAX)? {
        0 => Ok(None),
        period @ 1_000..=1_000_000 => Ok(Some(period.unsigned_abs())),
        _ => Err("a CPU period lies between 1000 and 1000000 µs".into()),
    }
}

/// A CPU quota in µs per period, at least 1 ms; 0 leaves the default and less is unlimited.
pub(crate) fn cpu_quota(text: &str) -> Result<Option<i64>, Reason> {
    match integer(text, i64::MIN..=i64::MAX)? {
        0 => Ok(None),
        1..1_000 => Err("a CPU quota is at least 1000 µs".into()),
        quota => Ok(Some(quota.max(-1))),
    }
}

/// A number of processes; 0 and less are unlimited.
pub(crate) fn pids(text: &str) -> Result<i64, Reason> {
    Ok(match integer(text, i64::MIN..=i64::MAX)? {
        limit if limit <= 0 => -1,
        limit => limit,
    })
}

/// A block I/O weight, 10..=1000; 0 leaves the default.
pub(crate) fn blkio_weight(text: &str) -> Result<Option<u16>, Reason> {
    match integer(text, 0..=i64::MAX)? {
        0 => Ok(None),
        weight @ 10..=1000 => Ok(u16::try_from(weight).ok()),
        _ => Err("not between 10 and 1000".into()),
    }
}

/// One limit of `--ulimit`; −1 is unlimited.
fn rlimit(text: &str) -> Result<u64, Reason> {
    match text {
        "-1" | "unlimited" => Ok(u64::MAX),
        _ => text.parse().map_err(|_| format!("'{text}' is neither a whole number nor -1")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ulimits_have_a_soft_and_a_hard_value() {
        let check = |text: &str, name: &str, soft, hard| {
            assert_eq!(ulimit(text), Ok(Ulimit { name: name.into(), soft, hard }), "{text}");
        };
        check("nofile=1024:2048", "nofile", 1024, 2048);
        check("nproc=7", "nproc", 7, 7);
        check("core=0", "core", 0, 0);
        check("memlock=-1", "memlock", u64::MAX, u64::MAX);
        check("stack=1:-1", "stack", 1, u64::MAX);
    }

    #[test]
    fn bad_ulimits_are_explained() {
        let check = |text: &str, part: &str| {
            let reason = ulimit(text).expect_err(text);
            assert!(reason.contains(part), "{text}: {reason}");
        };
        check("nofile", "NAME=SOFT");
        check("files=1", "no limit is called 'files'");
        check("nofile=", "'' is neither");
        check("nofile=1:x", "'x' is neither");
        check("nofile=2:1", "above the hard");
        check("nofile=-1:5", "above the hard");
    }

    #[test]
    fn cpu_lists_are_numbers_and_ranges() {
        for text in ["0", "0-3", "0,2,4-6"] {
            assert_eq!(cpu_list(text), Ok(Some(text.to_owned())));
        }
        assert_eq!(cpu_list(""), Ok(None));
        for text in ["a", "3-1", "0-", "-1", "0,,1", "1 ,2", "+1", "99999999"] {
            assert!(cpu_list(text).is_err(), "{text}");
        }
    }

    #[test]
    fn controller_numbers_keep_to_the_kernel_s_ranges() {
        assert_eq!(cpu_shares("0"), Ok(None));
        assert_eq!(cpu_shares("1"), Ok(Some(2)));
        assert_eq!(cpu_shares("999999"), Ok(Some(262_144)));
        assert!(cpu_shares("-1").is_err());
        assert_eq!(cpu_period("0"), Ok(None));
        assert_eq!(cpu_period("100000"), Ok(Some(100_000)));
        assert!(cpu_period("999").is_err());
        assert!(cpu_period("1000001").is_err());
        assert_eq!(cpu_quota("50000"), Ok(Some(50_000)));
        assert_eq!(cpu_quota("-1"), Ok(Some(-1)));
        assert_eq!(cpu_quota("0"), Ok(None));
        assert!(cpu_quota("999").is_err());
        assert_eq!(pids("100"), Ok(100));
        assert_eq!(pids("0"), Ok(-1));
        assert_eq!(blkio_weight("0"), Ok(None));
        assert_eq!(blkio_weight("10"), Ok(Some(10)));
        assert!(blkio_weight("9").is_err());
        assert!(blkio_weight("1001").is_err());
    }
}
