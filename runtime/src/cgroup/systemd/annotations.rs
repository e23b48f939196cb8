//! Annotations `org.systemd.property.NAME`, by which engines ask for properties of the unit: podman for the signal and the time
//! that `systemctl stop` gives a container, CRI-O for what Kubernetes passes on. Pure.
//!
//! Their values are GVariant's text, as runc and crun take it: flags, numbers with or without their type, strings, lists of
//! strings. A name that ends in `Sec` takes seconds, where the bus has microseconds.

use std::collections::BTreeMap;

use super::Value;
use crate::Error;

/// What such annotations begin with.
pub(crate) const PREFIX: &str = "org.systemd.property.";

/// The properties that annotations ask for.
///
/// Errors: a name that no property can have, a value that is none of the types above.
pub(crate) fn annotated(annotations: &BTreeMap<String, String>) -> Result<Vec<(String, Value)>, Error> {
    let asked = annotations.iter().filter_map(|(key, text)| Some((key, key.strip_prefix(PREFIX)?, text)));
    let property = |(key, name, text): (&String, &str, &String)| {
        if name.len() < 3 || !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            return Err(Error::Option(format!("annotation {key:?} names no property of systemd's")));
        }
        let found = value(text.trim()).and_then(|value| in_microseconds(name, value));
        found.ok_or_else(|| Error::Option(format!("annotation {key}: {text:?} is no value of a property")))
    };
    asked.map(property).collect()
}

fn value(text: &str) -> Option<Value> {
    let typed = text.split_once(' ').map(|(kind, number)| (kind, number.trim()));
    match (text, typed) {
        ("true", _) => Some(Value::Flag(true)),
        ("false", _) => Some(Value::Flag(false)),
        (_, Some(("uint64", number))) => number.parse().ok().map(Value::Number),
        (_, Some(("int64", number))) => number.parse().ok().map(Value::Long),
        (_, Some(("uint32", number))) => number.parse().ok().map(Value::Id),
        (_, Some(("int32", number))) => number.parse().ok().map(Value::Integer),
        _ if text.starts_with('[') => strings(text).map(Value::Texts),
        _ if text.starts_with(['\'', '"']) => {
            let (string, rest) = string(text)?;
            rest.is_empty().then_some(Value::Text(string))
        }
        // What has no type is an `int32`, in GVariant's text.
        _ => text.parse().ok().map(Value::Integer),
    }
}

/// `['a', "b"]`
fn strings(text: &str) -> Option<Vec<String>> {
    let mut rest = text.strip_prefix('[')?.strip_suffix(']')?.trim();
    let mut all = Vec::new();
    while !rest.is_empty() {
        let (one, after) = string(rest)?;
        all.push(one);
        let after = after.trim_start();
        rest = match after.strip_prefix(',') {
            Some(next) if !next.trim().is_empty() => next.trim_start(),
            _ if after.is_empty() => after,
            _ => return None,
        };
    }
    Some(all)
}

/// A string in quotes of either kind, in which a backslash keeps the next character; and what follows it.
fn string(text: &str) -> Option<(String, &str)> {
    let mut characters = text.char_indices();
    let (_, quote) = characters.next().filter(|(_, quote)| matches!(quote, '\'' | '"'))?;
    let mut string = String::new();
    while let Some((at, character)) = characters.next() {
        match character {
            _ if character == quote => return Some((string, &text[at + 1..])),
            '\\' => string.push(characters.next()?.1),
            // A string on the bus has an end.
            '\0' => return None,
            _ => string.push(character),
        }
    }
    None
}

/// The property that the bus knows under `name`.
fn in_microseconds(name: &str, value: Value) -> Option<(String, Value)> {
    let stem = name.strip_suffix("Sec").filter(|stem| stem.ends_with(|end: char| end.is_ascii_lowercase()));
    let Some(stem) = stem else { return Some((name.to_owned(), value)) };
    let seconds = match value {
        Value::Number(seconds) => seconds,
        Value::Long(seconds) => seconds.try_into().ok()?,
        Value::Integer(seconds) => seconds.try_into().ok()?,
        Value::Id(seconds) => seconds.into(),
        _ => return None,
    };
    Some((format!("{stem}USec"), Value::Number(seconds.checked_mul(1_000_000)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, text: &str, expect: Option<(&str, Value)>) {
        let annotations = [(format!("{PREFIX}{name}"), text.to_owned()), ("other".into(), "x".into())];
        let found = annotated(&annotations.into_iter().collect());
        let expect = expect.map(|(name, value)| vec![(name.to_owned(), value)]);
        assert_eq!(found.as_ref().ok(), expect.as_ref(), "{name}={text}: {found:?}");
    }

    #[test]
    fn values_have_the_types_that_they_are_written_with() {
        let texts = |texts: &[&str]| Value::Texts(texts.iter().map(|text| (*text).to_owned()).collect());
        check("KillSignal", "37", Some(("KillSignal", Value::Integer(37))));
        check("TimeoutStopUSec", "uint64 10000000", Some(("TimeoutStopUSec", Value::Number(10_000_000))));
        check("SendSIGHUP", "true", Some(("SendSIGHUP", Value::Flag(true))));
        check(
            "CollectMode",
            "'inactive-or-failed'",
            Some(("CollectMode", Value::Text("inactive-or-failed".into()))),
        );
        check("Description", r#""it\"s \\""#, Some(("Description", Value::Text(r#"it"s \"#.into()))));
        check("After", r#"['a.service', "b.service"]"#, Some(("After", texts(&["a.service", "b.service"]))));
        check("After", "[]", Some(("After", texts(&[]))));
        check("Nice", "int64 -5", Some(("Nice", Value::Long(-5))));
        check("Some", "uint32 7", Some(("Some", Value::Id(7))));
    }

    #[test]
    fn seconds_become_microseconds() {
        check("TimeoutStopSec", "10", Some(("TimeoutStopUSec", Value::Number(10_000_000))));
        check("RuntimeMaxSec", "uint64 2", Some(("RuntimeMaxUSec", Value::Number(2_000_000))));
        check("TimeoutStopSec", "-1", None);
        check("TimeoutStopSec", "'10s'", None);
        check("TimeoutStopSec", "uint64 18446744073709551615", None);
        // Nothing that is counted: it ends that way.
        check("QSec", "1", Some(("QSec", Value::Integer(1))));
    }

    #[test]
    fn what_is_no_value_or_no_name_is_an_error() {
        for text in [
            "",
            "yes",
            "'open",
            "'a' b",
            "['a' 'b']",
            "['a',]",
            "[1]",
            "['a'",
            "uint64 -1",
            "2147483648",
            "'a\0b'",
        ] {
            check("After", text, None);
        }
        for name in ["", "ab", "a.b", "Kill Signal", "Größe"] {
            check(name, "1", None);
        }
        assert_eq!(annotated(&BTreeMap::new()).expect("nothing"), []);
    }
}
