//! `-e` and `--env-file`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::{Reason, cause};

/// `NAME=VALUE`, or `NAME` for the caller's own value; nothing when the caller has none.
pub(crate) fn variable(text: &OsStr) -> Result<Option<OsString>, Reason> {
    let bytes = text.as_bytes();
    match bytes.iter().position(|&b| b == b'=') {
        _ if bytes.is_empty() => Err("a variable needs a name".into()),
        Some(0) => Err("a variable needs a name".into()),
        Some(_) => Ok(Some(text.to_owned())),
        None => Ok(callers(text)),
    }
}

/// The variables of the file at `path`.
pub(crate) fn file(path: &OsStr) -> Result<Vec<OsString>, Reason> {
    let text = std::fs::read(path).map_err(|error| format!("read the file: {}", cause(&error)))?;
    let text = String::from_utf8(text).map_err(|_| "the file is not UTF-8".to_owned())?;
    variables(&text)
}

/// One variable per line, as with `-e`; empty lines and lines that start with `#` are skipped, and nothing is
/// unquoted or expanded.
fn variables(text: &str) -> Result<Vec<OsString>, Reason> {
    let mut found = Vec::new();
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split('=').next().unwrap_or(line);
        let at = |reason: String| format!("line {}: {reason}", index + 1);
        if name.contains(char::is_whitespace) {
            return Err(at(format!("the name '{name}' contains white space")));
        }
        found.extend(variable(OsStr::new(line)).map_err(at)?);
    }
    Ok(found)
}

/// `NAME=value` from the caller's own environment.
fn callers(name: &OsStr) -> Option<OsString> {
    let value = std::env::var_os(name)?;
    let mut entry = name.to_owned();
    entry.push("=");
    entry.push(value);
    Some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> OsString {
        callers(OsStr::new("PATH")).expect("tests run with a PATH")
    }

    #[test]
    fn a_bare_name_takes_the_caller_s_value() {
        let check =
            |text: &str, expected: Option<OsString>| assert_eq!(variable(OsStr::new(text)), Ok(expected));
        check("A=1", Some("A=1".into()));
        check("A=", Some("A=".into()));
        check("A=b=c", Some("A=b=c".into()));
        check("PATH", Some(path()));
        check("SKIFF_TEST_NOT_SET_ANYWHERE", None);
        assert_eq!(variable(OsStr::new("=1")), Err("a variable needs a name".into()));
        assert_eq!(variable(OsStr::new("")), Err("a variable needs a name".into()));
    }

    #[test]
    fn values_need_not_be_text() {
        let raw = OsStr::from_bytes(b"A=\xff");
        assert_eq!(variable(raw), Ok(Some(raw.to_owned())));
    }

    #[test]
    fn env_files_have_comments_and_bare_names() {
        let text = "\u{feff}A=1\n# comment\n\n  B=two words \nPATH\nC=\"q\" # not a comment\nD=\r\nSKIFF_TEST_NOT_SET_ANYWHERE";
        let expected: Vec<OsString> =
            vec!["A=1".into(), "B=two words ".into(), path(), "C=\"q\" # not a comment".into(), "D=".into()];
        assert_eq!(variables(text), Ok(expected));
    }

    #[test]
    fn bad_env_files_are_explained() {
        assert_eq!(variables("A=1\nB C=2"), Err("line 2: the name 'B C' contains white space".into()));
        assert_eq!(variables("=2"), Err("line 1: a variable needs a name".into()));
        assert_eq!(file(OsStr::new("/nowhere")), Err("read the file: no such file or directory".into()));
    }
}
