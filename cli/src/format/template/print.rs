//! How values look, as Go's `%v` prints them.

use std::fmt::Write;

use serde_json::{Number, Value};

/// What `{{.}}` prints.
pub(super) fn text(value: &Value) -> String {
    let mut out = String::new();
    self::value(value, &mut out);
    out
}

/// Adds what `{{.}}` prints.
pub(super) fn value(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("<nil>"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => self::number(number, out),
        Value::String(text) => out.push_str(text),
        Value::Array(list) => {
            out.push('[');
            for (at, item) in list.iter().enumerate() {
                out.push_str(if at > 0 { " " } else { "" });
                self::value(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push_str("map[");
            for (at, (key, item)) in map.iter().enumerate() {
                out.push_str(if at > 0 { " " } else { "" });
                out.push_str(key);
                out.push(':');
                self::value(item, out);
            }
            out.push(']');
        }
    }
}

/// What Go calls the value's type.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn number(number: &Number, out: &mut String) {
    // Writing to a string cannot fail.
    let _infallible = match number.as_f64().filter(|_| number.is_f64()) {
        None => write!(out, "{number}"),
        Some(float) => write!(out, "{}", shortest(float)),
    };
}

/// As Go's `%v`: with an exponent below 1e-4 and from a million on.
pub(super) fn shortest(float: f64) -> String {
    let scientific = format!("{float:e}");
    let exponent: i32 = scientific.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    if (-4..6).contains(&exponent) { format!("{float}") } else { with_exponent(&scientific) }
}

/// `1.5e7` as Go writes it, `1.5e+07`.
pub(super) fn with_exponent(scientific: &str) -> String {
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific.to_owned() };
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
    format!("{digits}e{sign}{exponent:0>2}")
}

/// A string as Go's `%q` quotes it.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    text.chars().for_each(|c| escape(c, '"', &mut out));
    out.push('"');
    out
}

/// Adds a character as it stands between `quote`s in Go.
pub(super) fn escape(c: char, quote: char, out: &mut String) {
    let short = match c {
        '\u{7}' => Some('a'),
        '\u{8}' => Some('b'),
        '\u{c}' => Some('f'),
        '\n' => Some('n'),
        '\r' => Some('r'),
        '\t' => Some('t'),
        '\u{b}' => Some('v'),
        '\\' => Some('\\'),
        c if c == quote => Some(c),
        _ => None,
    };
    let code = u32::from(c);
    // Writing to a string cannot fail.
    let _infallible = match short {
        Some(letter) => write!(out, "\\{letter}"),
        None if code < 0x20 || code == 0x7f => write!(out, "\\x{code:02x}"),
        None if c.is_control() || matches!(code, 0x2028 | 0x2029 | 0xfeff | 0x200b..=0x200f) => {
            write!(out, "\\u{code:04x}")
        }
        None => write!(out, "{c}"),
    };
}
