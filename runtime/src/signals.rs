//! Signal names, signal(7).

use nix::sys::signal::Signal;

/// The first and the last real-time signal as programs see them: glibc and musl keep the lowest ones of the kernel
/// (32, 33) for themselves, and both call 34 `SIGRTMIN` to programs, or 35 in musl; docker's table says 34.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// A signal by number (1 to 64) or by name in any case, with or without `SIG`: `TERM`, `SIGKILL`, `RTMIN+3`.
///
/// Errors: what is wrong with the text, in one phrase.
pub fn signal(text: &str) -> Result<i32, String> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    by_number(text)
        .or_else(|| by_name(name))
        .or_else(|| real_time(name))
        .ok_or_else(|| "no such signal".into())
}

/// What [`signal`] reads as `number`: `SIGTERM`, `SIGRTMIN+3`; the number itself where it has no name.
#[must_use]
pub fn name(number: i32) -> String {
    match (Signal::try_from(number), number) {
        (Ok(signal), _) => signal.as_str().to_owned(),
        (Err(_), RTMIN) => "SIGRTMIN".to_owned(),
        (Err(_), RTMIN..=RTMAX) => format!("SIGRTMIN+{}", number - RTMIN),
        _ => number.to_string(),
    }
}

fn by_number(text: &str) -> Option<i32> {
    text.parse().ok().filter(|number| (1..=RTMAX).contains(number))
}

fn by_name(name: &str) -> Option<i32> {
    let name = match name {
        "CLD" => "CHLD",
        "IOT" => "ABRT",
        "POLL" => "IO",
        _ => name,
    };
    format!("SIG{name}").parse::<Signal>().ok().map(|signal| signal as i32)
}

fn real_time(name: &str) -> Option<i32> {
    let offset = |digits: &str| digits.parse::<u8>().ok().map(i32::from);
    let number = match name {
        "RTMIN" => RTMIN,
        "RTMAX" => RTMAX,
        _ => match name.strip_prefix("RTMIN+") {
            Some(digits) => RTMIN + offset(digits)?,
            None => RTMAX - offset(name.strip_prefix("RTMAX-")?)?,
        },
    };
    (RTMIN..=RTMAX).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_numbers_and_names() {
        let check = |text: &str, expected: i32| assert_eq!(signal(text), Ok(expected), "{text}");
        check("9", 9);
        check("64", 64);
        check("TERM", 15);
        check("SIGTERM", 15);
        check("sigkill", 9);
        check("usr1", 10);
        check("POLL", 29);
        check("CLD", 17);
        check("RTMIN", 34);
        check("SIGRTMIN+3", 37);
        check("RTMAX-2", 62);
    }

    #[test]
    fn a_name_is_read_as_its_number() {
        for number in 1..=RTMAX {
            assert_eq!(signal(&name(number)), Ok(number), "{}", name(number));
        }
        assert_eq!((name(2).as_str(), name(37).as_str(), name(32).as_str()), ("SIGINT", "SIGRTMIN+3", "32"));
    }

    #[test]
    fn unknown_signals_are_refused() {
        for text in
            ["", "0", "65", "-1", "FOO", "SIG", "SIGSIGTERM", "RTMIN+31", "RTMAX-31", "RTMIN+", "TERM "]
        {
            assert_eq!(signal(text), Err("no such signal".into()), "{text}");
        }
    }
}
