//! The texts that flags take, as values. Each function says in one phrase what is wrong with a text; the parser adds
//! which flag it was given to.

pub(crate) mod environment;
pub(crate) mod health;
pub(crate) mod keys;
pub(crate) mod limits;
pub(crate) mod log;
pub(crate) mod mounts;
pub(crate) mod names;
pub(crate) mod security;
pub(crate) mod sizes;
pub(crate) mod time;

pub(crate) use skiff_runtime::{cause, signals};

/// What is wrong with a value.
pub(crate) type Reason = String;

/// `true` or `false` in any of the spellings that docker takes.
pub(crate) fn boolean(text: &str) -> Result<bool, Reason> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("neither true nor false".into()),
    }
}

/// An integer within `range`.
pub(crate) fn integer(text: &str, range: std::ops::RangeInclusive<i64>) -> Result<i64, Reason> {
    let number: i64 = text.parse().map_err(|_| "not a whole number".to_owned())?;
    if range.contains(&number) {
        Ok(number)
    } else {
        Err(format!("not between {} and {}", range.start(), range.end()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_have_docker_s_spellings() {
        for text in ["1", "t", "T", "true", "TRUE", "True"] {
            assert_eq!(boolean(text), Ok(true), "{text}");
        }
        for text in ["0", "f", "F", "false", "FALSE", "False"] {
            assert_eq!(boolean(text), Ok(false), "{text}");
        }
        for text in ["", "yes", "no", "tRUE"] {
            assert!(boolean(text).is_err(), "{text}");
        }
    }

    #[test]
    fn integers_keep_to_their_range() {
        assert_eq!(integer("-1", -1..=5), Ok(-1));
        assert_eq!(integer("6", -1..=5), Err("not between -1 and 5".into()));
        assert_eq!(integer("x", -1..=5), Err("not a whole number".into()));
        assert_eq!(integer("", -1..=5), Err("not a whole number".into()));
    }
}
