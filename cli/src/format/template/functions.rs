//! What a template can call.

use std::cmp::Ordering;
use std::fmt::Write;

use serde_json::Value;

use super::{eval, print, verbs};

/// The longest text that a function makes, bytes.
const RESULT_MAX_BYTES: usize = 8 << 20;

/// Why a call failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// Too many or too few arguments.
    Count { want: String, got: usize },
    /// The argument `at` is not of the kind that the function takes.
    Kind { at: usize, want: &'static str, kind: &'static str },
    /// The function says so.
    Refused(String),
}

/// What an argument may be.
#[derive(Debug, Clone, Copy)]
enum Takes {
    Any,
    Text,
    Whole,
    List,
}

use Takes::{Any, List, Text, Whole};

/// A function: its name, its first arguments, and what any number of others are.
type Row = (&'static str, &'static [Takes], Option<Takes>);

#[rustfmt::skip] // a table
const TABLE: &[Row] = &[
    ("and", &[Any], Some(Any)),
    ("eq", &[Any], Some(Any)),
    ("ge", &[Any, Any], None),
    ("gt", &[Any, Any], None),
    ("html", &[], Some(Any)),
    ("index", &[Any], Some(Any)),
    ("join", &[List, Text], None),
    ("json", &[Any], None),
    ("le", &[Any, Any], None),
    ("len", &[Any], None),
    ("lower", &[Text], None),
    ("lt", &[Any, Any], None),
    ("ne", &[Any, Any], None),
    ("not", &[Any], None),
    ("or", &[Any], Some(Any)),
    ("pad", &[Text, Whole, Whole], None),
    ("print", &[], Some(Any)),
    ("printf", &[Text], Some(Any)),
    ("println", &[], Some(Any)),
    ("slice", &[Any], Some(Any)),
    ("split", &[Text, Text], None),
    ("title", &[Text], None),
    ("truncate", &[Text, Whole], None),
    ("upper", &[Text], None),
    ("urlquery", &[], Some(Any)),
];

/// What leaves the name of a column alone.
const PLAIN_IN_HEADERS: [&str; 8] = ["json", "split", "join", "title", "lower", "upper", "pad", "truncate"];

/// Whether there is such a function.
pub(super) fn exists(name: &str) -> bool {
    TABLE.iter().any(|row| row.0 == name)
}

/// Calls a function. In headers, those that change how a value looks return it as it is.
pub(super) fn call(name: &str, args: &[&Value], header: bool) -> Result<Value, Fault> {
    let Some((_, first, more)) = TABLE.iter().find(|row| row.0 == name) else {
        return Err(Fault::Refused("no such function".into()));
    };
    if args.len() < first.len() || (more.is_none() && args.len() > first.len()) {
        let at_least = if more.is_some() { "at least " } else { "" };
        return Err(Fault::Count { want: format!("{at_least}{}", first.len()), got: args.len() });
    }
    if header && PLAIN_IN_HEADERS.contains(&name) {
        return Ok(args[0].clone());
    }
    for (at, arg) in args.iter().enumerate() {
        let takes = first.get(at).copied().or(*more).unwrap_or(Any);
        check(takes, arg).map_err(|want| Fault::Kind { at, want, kind: print::kind(arg) })?;
    }
    let value = apply(name, args).map_err(Fault::Refused)?;
    match &value {
        Value::String(text) if text.len() > RESULT_MAX_BYTES => Err(Fault::Refused("too much text".into())),
        _ => Ok(value),
    }
}

fn check(takes: Takes, arg: &Value) -> Result<(), &'static str> {
    let (fits, want) = match takes {
        Any => (true, ""),
        Text => (arg.is_string(), "string"),
        Whole => (arg.is_i64() || arg.is_u64(), "integer"),
        List => (arg.as_array().is_some_and(|list| list.iter().all(Value::is_string)), "[]string"),
    };
    if fits { Ok(()) } else { Err(want) }
}

/// The arguments are as many and of the kinds that the table says.
fn apply(name: &str, args: &[&Value]) -> Result<Value, String> {
    let text = |at: usize| args.get(at).and_then(|arg| arg.as_str()).unwrap_or_default();
    let count = |at: usize| args.get(at).and_then(|arg| arg.as_i64()).unwrap_or_default();
    Ok(match name {
        "eq" => equal(args)?.into(),
        "ne" => (!equal(args)?).into(),
        "lt" => (order(args)? == Ordering::Less).into(),
        "le" => (order(args)? != Ordering::Greater).into(),
        "gt" => (order(args)? == Ordering::Greater).into(),
        "ge" => (order(args)? != Ordering::Less).into(),
        "not" => (!eval::is_true(args[0])).into(),
        "index" => index(args)?,
        "slice" => slice(args)?,
        "len" => length(args[0])?.into(),
        "json" => args[0].to_string().into(),
        "lower" => text(0).to_lowercase().into(),
        "upper" => text(0).to_uppercase().into(),
        "title" => title(text(0)).into(),
        "split" => split(text(0), text(1)),
        "join" => {
            let words: Vec<&str> =
                args[0].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            words.join(text(1)).into()
        }
        "pad" => pad(text(0), count(1), count(2))?.into(),
        "truncate" => truncated(text(0), count(1))?.into(),
        "print" => printed(args).into(),
        "println" => {
            let words: Vec<String> = args.iter().map(|arg| print::text(arg)).collect();
            format!("{}\n", words.join(" ")).into()
        }
        "printf" => verbs::printf(text(0), &args[1..], RESULT_MAX_BYTES)?.into(),
        "html" => html(&printed(args)).into(),
        "urlquery" => urlquery(&printed(args)).into(),
        // `and` and `or` are done where their arguments are.
        _ => args.last().map_or(Value::Null, |arg| (*arg).clone()),
    })
}

/// Whether the first equals one of the others.
fn equal(args: &[&Value]) -> Result<bool, String> {
    let Some((first, others)) = args.split_first().filter(|(_, others)| !others.is_empty()) else {
        return Err("missing argument for comparison".into());
    };
    for other in others {
        let same = match (first, other) {
            (Value::Array(_) | Value::Object(_), _) | (_, Value::Array(_) | Value::Object(_)) => {
                return Err("non-comparable type".into());
            }
            (Value::Null, _) | (_, Value::Null) => first == other,
            _ if print::kind(first) != print::kind(other) => return Err(INCOMPATIBLE.into()),
            _ => first == other,
        };
        if same {
            return Ok(true);
        }
    }
    Ok(false)
}

const INCOMPATIBLE: &str = "incompatible types for comparison";

fn order(args: &[&Value]) -> Result<Ordering, String> {
    let order = match (args[0], args[1]) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (a @ Value::Number(x), b @ Value::Number(y)) if a.is_f64() == b.is_f64() => {
            match (x.as_i128(), y.as_i128()) {
                (Some(x), Some(y)) => Some(x.cmp(&y)),
                _ => x.as_f64().zip(y.as_f64()).and_then(|(x, y)| x.partial_cmp(&y)),
            }
        }
        (Value::String(_) | Value::Number(_), Value::String(_) | Value::Number(_)) => None,
        _ => return Err("invalid type for comparison".into()),
    };
    order.ok_or_else(|| INCOMPATIBLE.into())
}

fn index(args: &[&Value]) -> Result<Value, String> {
    let mut item = args[0].clone();
    for key in &args[1..] {
        item = match (&item, key) {
            (Value::Null, _) => return Err("index of untyped nil".into()),
            (Value::Object(map), Value::String(key)) => {
                // Where all are texts, one that is not there is an empty text.
                let texts = map.values().all(Value::is_string);
                map.get(key).cloned().unwrap_or_else(|| if texts { "".into() } else { Value::Null })
            }
            (Value::Object(_), key) => {
                return Err(format!("value has type {}; should be string", print::kind(key)));
            }
            (Value::Array(list), key) => list[position(key, list.len(), false)?].clone(),
            (Value::String(text), key) => text.as_bytes()[position(key, text.len(), false)?].into(),
            (other, _) => return Err(format!("can't index item of type {}", print::kind(other))),
        };
    }
    Ok(item)
}

/// A position below `length`, or up to it.
fn position(key: &Value, length: usize, inclusive: bool) -> Result<usize, String> {
    let at = match key {
        Value::Null => return Err("cannot index slice/array with nil".into()),
        key => {
            key.as_i64().ok_or_else(|| format!("cannot index slice/array with type {}", print::kind(key)))?
        }
    };
    let fits = usize::try_from(at).ok().filter(|at| *at < length || (inclusive && *at == length));
    fits.ok_or_else(|| format!("index out of range: {at}"))
}

fn slice(args: &[&Value]) -> Result<Value, String> {
    if args.len() > 4 {
        return Err(format!("too many slice indexes: {}", args.len() - 1));
    }
    let length = match args[0] {
        Value::Null => return Err("slice of untyped nil".into()),
        Value::String(_) if args.len() == 4 => return Err("cannot 3-index slice a string".into()),
        Value::String(text) => text.len(),
        Value::Array(list) => list.len(),
        other => return Err(format!("can't slice item of type {}", print::kind(other))),
    };
    let ends = args[1..].iter().map(|key| position(key, length, true)).collect::<Result<Vec<_>, _>>()?;
    let (from, to) = (ends.first().copied().unwrap_or(0), ends.get(1).copied().unwrap_or(length));
    if from > to {
        return Err(format!("invalid slice index: {from} > {to}"));
    }
    Ok(match args[0] {
        Value::Array(list) => list[from..to].to_vec().into(),
        other => bytes(other.as_str().unwrap_or_default(), from, to).into(),
    })
}

/// The bytes from one position to another; a character that is cut becomes a replacement character.
fn bytes(text: &str, from: usize, to: usize) -> String {
    String::from_utf8_lossy(&text.as_bytes()[from..to]).into_owned()
}

fn length(value: &Value) -> Result<usize, String> {
    match value {
        Value::Null => Err("len of nil pointer".into()),
        Value::String(text) => Ok(text.len()),
        Value::Array(list) => Ok(list.len()),
        Value::Object(map) => Ok(map.len()),
        other => Err(format!("len of type {}", print::kind(other))),
    }
}

/// Each word's first letter upper case.
fn title(text: &str) -> String {
    let mut begins = true;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if begins {
            out.extend(c.to_uppercase())
        } else {
            out.push(c)
        }
        begins = if c.is_ascii() { !c.is_ascii_alphanumeric() && c != '_' } else { c.is_whitespace() };
    }
    out
}

fn split(text: &str, by: &str) -> Value {
    if by.is_empty() {
        return text.chars().map(String::from).collect();
    }
    text.split(by).map(String::from).collect()
}

fn pad(text: &str, before: i64, after: i64) -> Result<String, String> {
    let spaces = |count: i64| {
        let count = usize::try_from(count).map_err(|_| "strings: negative Repeat count".to_owned())?;
        if count > RESULT_MAX_BYTES { Err("too much text".to_owned()) } else { Ok(" ".repeat(count)) }
    };
    if text.is_empty() {
        Ok(String::new())
    } else {
        Ok(format!("{}{text}{}", spaces(before)?, spaces(after)?))
    }
}

fn truncated(text: &str, length: i64) -> Result<String, String> {
    let length = usize::try_from(length).map_err(|_| format!("slice bounds out of range: {length}"))?;
    Ok(bytes(text, 0, length.min(text.len())))
}

/// One after the other, with a space between two that are both no text.
fn printed(args: &[&Value]) -> String {
    let mut out = String::new();
    for (at, arg) in args.iter().enumerate() {
        if at > 0 && !arg.is_string() && !args[at - 1].is_string() {
            out.push(' ');
        }
        print::value(arg, &mut out);
    }
    out
}

fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\0' => out.push('\u{fffd}'),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c => out.push(c),
        }
    }
    out
}

fn urlquery(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        // Writing to a string cannot fail.
        let _infallible = match byte {
            b' ' => write!(out, "+"),
            b if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) => write!(out, "{}", char::from(b)),
            b => write!(out, "%{b:02X}"),
        };
    }
    out
}
