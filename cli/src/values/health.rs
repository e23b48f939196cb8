//! How a container's health is found out.

use std::mem::discriminant;
use std::time::Duration;

use skiff_engine::spec::HealthTest;

use super::{Reason, time};

/// Asks for a check in place of one of its kind; there is but one.
pub(crate) fn put(place: &mut Option<HealthTest>, test: HealthTest) -> Result<(), Reason> {
    if place.as_ref().is_some_and(|other| discriminant(other) != discriminant(&test)) {
        return Err("there is another check already".into());
    }
    *place = Some(test);
    Ok(())
}

/// A TCP port.
pub(crate) fn port(text: &str) -> Result<u16, Reason> {
    text.parse().ok().filter(|port| *port > 0).ok_or_else(|| "not a port, 1 to 65535".into())
}

/// `PORT/PATH`, or `PORT` for the path `/`.
pub(crate) fn http(text: &str) -> Result<HealthTest, Reason> {
    let (number, path) = text.split_at(text.find('/').unwrap_or(text.len()));
    if path.contains(|c: char| c.is_control() || c == ' ') {
        return Err("a path has no spaces and no control characters".into());
    }
    Ok(HealthTest::Http { port: port(number)?, path: if path.is_empty() { "/".into() } else { path.into() } })
}

/// A time between checks or for one; 0 for the image's or the default.
pub(crate) fn interval(text: &str) -> Result<Option<Duration>, Reason> {
    match time::duration(text)? {
        Duration::ZERO => Ok(None),
        short if short < Duration::from_millis(1) => Err("shorter than 1ms".into()),
        time => Ok(Some(time)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_checks_have_a_port_and_a_path() {
        let check = |text: &str, port: u16, path: &str| {
            assert_eq!(http(text), Ok(HealthTest::Http { port, path: path.into() }), "{text}");
        };
        check("80/healthz?deep=1", 80, "/healthz?deep=1");
        check("8080", 8080, "/");
        check("80//", 80, "//");
        for text in ["", "/", "0/x", "65536/x", "x/y", "80/a b", "80/\r\n"] {
            assert!(http(text).is_err(), "{text}");
        }
    }

    #[test]
    fn intervals_are_not_too_short() {
        assert_eq!(interval("0"), Ok(None));
        assert_eq!(interval("1ms"), Ok(Some(Duration::from_millis(1))));
        assert!(interval("10us").is_err());
    }
}
