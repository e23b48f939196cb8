//! Names that others have chosen, made harmless: in a shell's words, in YAML, in the lists that flags take.

/// One word of a shell.
pub(super) fn shell(word: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_=/.,:+@%".contains(&b);
    if !word.is_empty() && word.bytes().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The words of a text that [`shell`] has quoted, and of what people write in its stead: words, `'…'`, `\c`, comments.
///
/// Errors: one phrase.
pub fn words(text: &str) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    let mut word: Option<String> = None;
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match rest.next() {
                        Some('\'') => break,
                        Some(c) => word.push(c),
                        None => return Err("a quotation has no end".into()),
                    }
                }
            }
            '\\' => word.get_or_insert_default().push(rest.next().ok_or("nothing follows a backslash")?),
            '#' if word.is_none() => while rest.next().is_some_and(|c| c != '\n') {},
            '"' | '$' | '`' | '|' | '&' | ';' | '<' | '>' | '(' | ')' | '*' | '?' => {
                return Err(format!("{c:?} must be quoted by '…'"));
            }
            c if c.is_ascii_whitespace() => all.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    all.extend(word);
    Ok(all)
}

/// A scalar of YAML, which takes JSON's strings for its own; what JSON leaves as it is and YAML does not is escaped too.
pub(super) fn yaml(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                quoted.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// What a path may hold to be said in the flags and files of every engine.
///
/// Errors: one phrase. Colons and commas separate the parts of `--tmpfs` and `-v`; a `$` would be a variable in a compose file.
pub(super) fn path(path: &str) -> Result<(), String> {
    let bad = |c: char| c.is_control() || matches!(c, ':' | ',' | '"' | '\\' | '$' | '\u{fffd}');
    match path.chars().find(|c| bad(*c)) {
        Some(c) => Err(format!("the path {path:?} has {c:?} in it, which flags of engines cannot say")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back_from_a_shell() {
        let check = |word: &str, expected: &str| assert_eq!(shell(word), expected, "{word:?}");
        check("--tmpfs=/run:mode=755", "--tmpfs=/run:mode=755");
        check("", "''");
        check("a b", "'a b'");
        check("$(reboot)", "'$(reboot)'");
        check("it's", r"'it'\''s'");
        check("~", "'~'");
        check("a\nb", "'a\nb'");
    }

    #[test]
    fn words_are_read_as_they_were_quoted() {
        let all = ["--tmpfs=/run:mode=755", "", "a b", "$(reboot)", "it's", "~", "a\nb", "#x"];
        let text: String = all.iter().map(|word| shell(word) + "\n").collect();
        assert_eq!(words(&text).expect("words"), all);
        assert_eq!(words("a # b\n  c\\ d 'e'f").expect("words"), ["a", "c d", "ef"]);
        for bad in ["'a", "a\\", "$(reboot)", "a;b", "\"a\""] {
            assert!(words(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn scalars_cannot_be_left() {
        let check = |text: &str, expected: &str| assert_eq!(yaml(text), expected, "{text:?}");
        check("a: b # c", r#""a: b # c""#);
        check("\"\\", r#""\"\\""#);
        check("a\nprivileged: true", r#""a\u000aprivileged: true""#);
        check("\u{85}\u{2028}", r#""\u0085\u2028""#);
    }

    #[test]
    fn paths_that_flags_would_take_apart_are_refused() {
        for bad in ["/a:exec", "/a,b", "/a\nb", "/a\"b", "/${HOME}", "/\u{fffd}"] {
            assert!(path(bad).is_err(), "{bad:?}");
        }
        assert_eq!(path("/var/lib/it's here"), Ok(()));
    }
}
