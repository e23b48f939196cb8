//! Reads the text that Prometheus reads.

use std::collections::BTreeMap;

/// One line: a name, labels, a value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

/// All lines that are no comments.
pub(crate) fn read(text: &str) -> Vec<Series> {
    text.lines().filter(|line| !line.starts_with('#')).map(line).collect()
}

/// The value of the one with this name and these labels among others; none, or more than one, is a failure.
#[track_caller]
pub(crate) fn value(all: &[Series], name: &str, labels: &[(&str, &str)]) -> f64 {
    let found = find(all, name, labels);
    assert_eq!(found.len(), 1, "{name} {labels:?}: {found:?}");
    found[0].value
}

/// Those with this name and these labels among others.
pub(crate) fn find<'a>(all: &'a [Series], name: &str, labels: &[(&str, &str)]) -> Vec<&'a Series> {
    let fits = |series: &&Series| {
        series.name == name
            && labels.iter().all(|(key, value)| series.labels.get(*key).is_some_and(|found| found == value))
    };
    all.iter().filter(fits).collect()
}

fn line(line: &str) -> Series {
    let (name, rest) = line.split_at(line.find(['{', ' ']).expect("a name"));
    let mut labels = BTreeMap::new();
    let mut rest = rest.strip_prefix('{').unwrap_or(rest);
    while !rest.starts_with(' ') {
        let (key, after) = rest.split_once("=\"").expect("a label");
        let (value, after) = quoted(after);
        assert!(labels.insert(key.to_owned(), value).is_none(), "{key} twice: {line}");
        rest = after.strip_prefix(',').or_else(|| after.strip_prefix('}')).expect("an end");
    }
    let value = rest.trim().replace("+Inf", "inf").parse().unwrap_or_else(|_| panic!("no number: {line}"));
    Series { name: name.to_owned(), labels, value }
}

/// What is said up to the quotation mark, and what comes after that.
fn quoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &text[at + 1..]),
            '\\' => match characters.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, other)) => value.push(other),
                None => break,
            },
            other => value.push(other),
        }
    }
    panic!("no end: {text}");
}
