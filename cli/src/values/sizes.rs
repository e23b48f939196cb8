//! Sizes in bytes and numbers of CPUs.

use super::Reason;

const NOT_A_SIZE: &str = "not a size, such as 512m or 1.5g";

/// A size in bytes: a decimal number and an optional unit `b`, `k`, `m`, `g`, `t` or `p`, powers of 1024, which
/// `b` or `ib` may follow (`1.5g`, `512MiB`, `64 kb`).
pub(crate) fn bytes(text: &str) -> Result<u64, Reason> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = unit_shift(unit.strip_prefix(' ').unwrap_or(unit)).ok_or(NOT_A_SIZE)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let whole: u64 = whole.parse().map_err(|_| NOT_A_SIZE)?;
    let scaled = whole.checked_mul(1 << shift).ok_or("too large")?;
    scaled.checked_add(scaled_fraction(fraction, shift)?).ok_or_else(|| "too large".into())
}

/// `-1` (unlimited) or a size.
pub(crate) fn bytes_or_unlimited(text: &str) -> Result<i64, Reason> {
    if text == "-1" {
        return Ok(-1);
    }
    i64::try_from(bytes(text)?).map_err(|_| "too large".into())
}

/// A number of CPUs with up to nine decimals, in billionths; 0 stands for no limit.
pub(crate) fn nano_cpus(text: &str) -> Result<Option<u64>, Reason> {
    const NOT_CPUS: &str = "not a number of CPUs, such as 1.5";
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let fraction = if fraction.is_empty() { "0" } else { fraction };
    let decimal = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if !decimal(whole) || !decimal(fraction) || text.is_empty() || text == "." {
        return Err(NOT_CPUS.into());
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > 9 {
        return Err("finer than a billionth of a CPU".into());
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| NOT_CPUS)? };
    let nanos: u64 = format!("{fraction:0<9}").parse().map_err(|_| NOT_CPUS)?;
    match whole.checked_mul(1_000_000_000).and_then(|n| n.checked_add(nanos)).ok_or("too large")? {
        0 => Ok(None),
        1..10_000_000 => Err("less than 0.01 CPUs".into()),
        total => Ok(Some(total)),
    }
}

/// The power of two that a unit stands for.
fn unit_shift(unit: &str) -> Option<u32> {
    let unit = unit.to_ascii_lowercase();
    let letter = unit.strip_suffix('b').unwrap_or(&unit);
    let letter = letter.strip_suffix('i').filter(|rest| !rest.is_empty()).unwrap_or(letter);
    match letter {
        "" => Some(0),
        "k" => Some(10),
        "m" => Some(20),
        "g" => Some(30),
        "t" => Some(40),
        "p" => Some(50),
        _ => None,
    }
}

/// `0.fraction × 2^shift`, rounded down.
fn scaled_fraction(fraction: &str, shift: u32) -> Result<u64, Reason> {
    if fraction.is_empty() || fraction.len() > 18 {
        return Err(NOT_A_SIZE.into());
    }
    let numerator: u128 = fraction.parse::<u64>().map_err(|_| NOT_A_SIZE)?.into();
    let denominator = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| NOT_A_SIZE)?);
    u64::try_from((numerator << shift) / denominator).map_err(|_| "too large".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_docker_s_units() {
        let check = |text: &str, expected: u64| assert_eq!(bytes(text), Ok(expected), "{text}");
        check("0", 0);
        check("17", 17);
        check("17b", 17);
        check("1k", 1 << 10);
        check("512m", 512 << 20);
        check("512M", 512 << 20);
        check("512mb", 512 << 20);
        check("512MiB", 512 << 20);
        check("64 kb", 64 << 10);
        check("1.5g", 3 << 29);
        check("0.5k", 512);
        check("2t", 2 << 40);
        check("1p", 1 << 50);
    }

    #[test]
    fn what_is_not_a_size_is_refused() {
        for text in ["", "m", "5x", "-1", "1.g", ".5g", "1..5g", "1.2.3g", "1mm", "1i", "0x10", "1  m", "٣m"]
        {
            assert_eq!(bytes(text), Err(NOT_A_SIZE.into()), "{text}");
        }
        assert_eq!(bytes("18446744073709551615k"), Err("too large".into()));
        assert_eq!(bytes_or_unlimited("-1"), Ok(-1));
        assert_eq!(bytes_or_unlimited("1k"), Ok(1024));
        assert_eq!(bytes_or_unlimited("18446744073709551615"), Err("too large".into()));
        assert!(bytes_or_unlimited("-2").is_err());
    }

    #[test]
    fn cpus_are_exact_decimals() {
        let check = |text: &str, expected: Option<u64>| assert_eq!(nano_cpus(text), Ok(expected), "{text}");
        check("1", Some(1_000_000_000));
        check("1.5", Some(1_500_000_000));
        check(".5", Some(500_000_000));
        check("2.", Some(2_000_000_000));
        check("0.01", Some(10_000_000));
        check("0.123456789", Some(123_456_789));
        check("1.5000000000000", Some(1_500_000_000));
        check("0", None);
        check("0.0", None);
        assert_eq!(nano_cpus("0.009"), Err("less than 0.01 CPUs".into()));
        assert_eq!(nano_cpus("1.0123456789"), Err("finer than a billionth of a CPU".into()));
        assert_eq!(nano_cpus("99999999999999999999"), Err("not a number of CPUs, such as 1.5".into()));
        for text in ["", ".", "x", "-1", "1,5", "1e3", "+1"] {
            assert_eq!(nano_cpus(text), Err("not a number of CPUs, such as 1.5".into()), "{text}");
        }
    }
}
