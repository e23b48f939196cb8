//! Reading a JSON document so that an error names the place in it.

mod objects;

use serde::Deserialize;

use crate::error::OneLine;
use objects::Objects;

/// Reads `text`; the error is one line with the path of the value at which it went wrong: `linux.devices[1].major`.
pub fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, String> {
    let mut document = serde_json::Deserializer::from_str(text);
    let value = T::deserialize(Objects(&mut document)).and_then(|value| document.end().map(|()| value));
    value.map_err(|error| {
        let place = path_at(text.as_bytes(), offset(text, error.line(), error.column()));
        let at = format!(" at line {} column {}", error.line(), error.column());
        let message = error.to_string();
        match message.strip_suffix(&at) {
            Some(bare) if !place.is_empty() && error.is_data() => {
                OneLine(&format!("{place}: {bare}")).to_string()
            }
            _ => OneLine(&message).to_string(),
        }
    })
}

/// The byte that `line` and `column`, both counted from 1, mean.
fn offset(text: &str, line: usize, column: usize) -> usize {
    let before: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    (before + column).min(text.len())
}

/// One step on the way down to a value.
enum Step {
    Key(String),
    Index(usize),
}

/// The path of the value that `end` lies in, of a document that is valid up to there. Runs only to tell of an error.
fn path_at(text: &[u8], end: usize) -> String {
    let mut path: Vec<Step> = Vec::new();
    // The latest string, which is a key if a colon follows.
    let mut latest = String::new();
    let mut i = 0;
    while i < end {
        match text[i] {
            b'"' => {
                let close = string_end(text, i);
                if close > end {
                    break;
                }
                latest = String::from_utf8_lossy(&text[i + 1..close - 1]).into_owned();
                i = close;
                continue;
            }
            b'{' => path.push(Step::Key(String::new())),
            b'[' => path.push(Step::Index(0)),
            // What just closed may be what is wrong, so its place is kept for the last byte.
            b'}' | b']' if i + 1 < end => drop(path.pop()),
            b':' => {
                if let Some(Step::Key(key)) = path.last_mut() {
                    *key = std::mem::take(&mut latest);
                }
            }
            b',' if i + 1 < end => {
                if let Some(Step::Index(index)) = path.last_mut() {
                    *index += 1;
                }
            }
            _ => {}
        }
        i += 1;
    }
    if matches!(end.checked_sub(1).and_then(|last| text.get(last)), Some(b'}' | b']')) {
        path.pop();
    }
    written(&path)
}

/// The byte after the string that begins at `start`.
fn string_end(text: &[u8], start: usize) -> usize {
    let mut i = start + 1;
    while i < text.len() {
        match text[i] {
            b'\\' => i += 2,
            b'"' => return i + 1,
            _ => i += 1,
        }
    }
    text.len() + 1
}

fn written(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) if key.is_empty() => {}
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => {
                text.push('.');
                text.push_str(key);
            }
            Step::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::spec::Spec;
    use super::*;

    fn check(text: &str, expect: &str) {
        let error = read::<Spec>(text).expect_err(text);
        assert_eq!(error, expect, "{text}");
    }

    #[test]
    fn an_error_names_the_place() {
        check(r#"{"ociVersion":1}"#, "ociVersion: invalid type: integer `1`, expected a string");
        check(
            r#"{"hostname":"a,b:[","linux":{"devices":[{"path":"/x","major":1},{"major":"1"}]}}"#,
            r#"linux.devices[1].major: invalid type: string "1", expected i64"#,
        );
        check(
            "{\"process\":\n{\"args\":[\"a\",\n \"b\", 7]}}",
            "process.args[2]: invalid type: integer `7`, expected a string",
        );
        check(
            r#"{"process":{"user":{"uid":-1}}}"#,
            "process.user.uid: invalid value: integer `-1`, expected u32",
        );
        check(
            r#"{"process":{"user":{"uid":1.5}}}"#,
            "process.user.uid: invalid type: floating point `1.5`, expected u32",
        );
        check(r#"{"mounts":{}}"#, "mounts: invalid type: map, expected a sequence");
        check(
            r#"{"annotations":{"a":"b","c":null,"d":{}}}"#,
            "annotations.c: invalid type: null, expected a string",
        );
        check(r#"{"root":["rootfs",false]}"#, "root: invalid type: sequence, expected struct Root");
        check(r#"{"process":{"user":[1,2]}}"#, "process.user: invalid type: sequence, expected struct User");
        check(r#"{"a\"b":1,"root":"x"}"#, r#"root: invalid type: string "x", expected struct Root"#);
    }

    #[test]
    fn an_error_is_one_line() {
        let error = read::<super::super::spec::Status>(r#""a\nb""#).expect_err("no status");
        assert!(error.starts_with(r"unknown variant `a\nb`, expected one of"), "{error}");
    }

    #[test]
    fn broken_json_has_line_and_column() {
        check("", "EOF while parsing a value at line 1 column 0");
        check("{\"a\":", "EOF while parsing a value at line 1 column 5");
        check("{\n\"a\" 1}", "expected `:` at line 2 column 5");
    }
}
