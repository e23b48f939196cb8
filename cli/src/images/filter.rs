//! `--filter`: which images a list shows and a `prune` removes, by docker's words.
//!
//! Works on summaries with the fields of docker's `/images/json` ([`super::documents::summary`]). Values of one key are
//! alternatives, but for labels, which must all fit; different keys must all fit.

use serde_json::Value;

use crate::values::{boolean, time};

/// What an image must be like.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filters {
    all: Vec<(Key, String)>,
}

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    Before,
    Dangling,
    Label,
    NotLabel,
    Reference,
    Since,
    Until,
}

#[rustfmt::skip] // a table
const KEYS: [(&str, Key); 7] = [
    ("before", Key::Before), ("dangling", Key::Dangling), ("label", Key::Label), ("label!", Key::NotLabel),
    ("reference", Key::Reference), ("since", Key::Since), ("until", Key::Until),
];

/// Those by which `images` can be filtered.
pub(crate) const LIST: &[Key] =
    &[Key::Before, Key::Dangling, Key::Label, Key::Reference, Key::Since, Key::Until];

/// Those by which `prune` can.
pub(crate) const PRUNE: &[Key] = &[Key::Dangling, Key::Label, Key::NotLabel, Key::Until];

impl Filters {
    /// Adds the value of one `--filter`, whose key must be one of `known`; times before `now_ns`, ns since 1970.
    ///
    /// Errors: no such key, or its value makes no sense.
    pub(crate) fn add(&mut self, word: &str, known: &[Key], now_ns: u64) -> Result<(), String> {
        let Some((name, value)) = word.split_once('=') else {
            return Err(format!("--filter {word}: expected name=value"));
        };
        let (name, value) = (name.trim().to_lowercase(), value.trim());
        let key = KEYS.iter().find(|(other, _)| *other == name).map(|(_, key)| *key);
        let Some(key) = key.filter(|key| known.contains(key)) else {
            return Err(format!("invalid filter '{name}'"));
        };
        let fits = match key {
            Key::Dangling => boolean(value).is_ok(),
            Key::Reference => is_pattern(value),
            Key::Until => time::moment(value, now_ns).is_ok(),
            _ => true,
        };
        if !fits {
            return Err(format!("invalid filter '{name}={value}'"));
        }
        // A span is from now on, not from when it is looked at.
        let value = match (key, time::moment(value, now_ns)) {
            (Key::Until, Ok(until_ns)) => until_ns.to_string(),
            _ => value.to_owned(),
        };
        self.all.push((key, value));
        Ok(())
    }

    /// Only names that match this, as `skiff images NAME` has it.
    pub(crate) fn add_reference(&mut self, pattern: &str) -> Result<(), String> {
        if !is_pattern(pattern) {
            return Err(format!("invalid reference format: {pattern}"));
        }
        self.all.push((Key::Reference, pattern.to_owned()));
        Ok(())
    }

    fn values(&self, wanted: Key) -> impl Iterator<Item = &str> {
        self.all.iter().filter(move |(key, _)| *key == wanted).map(|(_, value)| value.as_str())
    }

    /// What `dangling` says; the last one counts.
    pub(crate) fn dangling(&self) -> Option<bool> {
        self.values(Key::Dangling).last().and_then(|value| boolean(value).ok())
    }

    /// Those of `images` that fit, of their names only those that were asked for. `created_ns` finds when an image was made
    /// that `before` or `since` names.
    ///
    /// Errors: those of `created_ns`.
    pub(crate) fn select(
        &self,
        images: Vec<Value>,
        created_ns: &dyn Fn(&str) -> Result<u64, String>,
    ) -> Result<Vec<Value>, String> {
        let moments = |key: Key| self.values(key).map(created_ns).collect::<Result<Vec<u64>, String>>();
        let (before, since) = (moments(Key::Before)?, moments(Key::Since)?);
        let until: Vec<u64> = self.values(Key::Until).filter_map(|ns| ns.parse().ok()).collect();
        let in_time = |image: &Value| {
            let created = image["CreatedNs"].as_u64().unwrap_or(0);
            before.iter().all(|at| created < *at)
                && since.iter().all(|at| created > *at)
                && until.iter().all(|at| created < *at)
        };
        let labelled = |image: &Value| {
            self.values(Key::Label).all(|wanted| has_label(image, wanted))
                && !self.values(Key::NotLabel).any(|wanted| has_label(image, wanted))
        };
        let images = images.into_iter().filter(|image| in_time(image) && labelled(image));
        Ok(images.filter_map(|image| self.named(image)).collect())
    }

    /// The image with the names that were asked for, if it is asked for at all.
    fn named(&self, mut image: Value) -> Option<Value> {
        let patterns: Vec<&str> = self.values(Key::Reference).collect();
        for field in ["RepoTags", "RepoDigests"] {
            if let Some(names) = image[field].as_array_mut().filter(|_| !patterns.is_empty()) {
                names.retain(|name| name.as_str().is_some_and(|name| matches_any(&patterns, name)));
            }
        }
        let has = |field: &str| image[field].as_array().is_some_and(|names| !names.is_empty());
        let (tagged, named) = (has("RepoTags"), has("RepoTags") || has("RepoDigests"));
        let wanted = match self.dangling() {
            Some(true) => !tagged && (named || patterns.is_empty()),
            Some(false) => named,
            None => named || patterns.is_empty(),
        };
        wanted.then_some(image)
    }
}

/// `name`, or `name=value`.
fn has_label(image: &Value, wanted: &str) -> bool {
    let labels = &image["Labels"];
    match wanted.split_once('=') {
        Some((name, value)) => labels.get(name).is_some_and(|found| found == value),
        None => labels.get(wanted).is_some(),
    }
}

/// Whether a name, or its repository alone, has one of these forms.
fn matches_any(patterns: &[&str], name: &str) -> bool {
    let repository = repository(name);
    patterns.iter().any(|pattern| glob(pattern, name) || glob(pattern, repository))
}

/// A name without tag and digest.
pub(crate) fn repository(name: &str) -> &str {
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

/// One step of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    /// Any characters but `/`.
    Star,
    /// Any one but `/`.
    Any,
    One(char),
    /// `[a-z]`, `[^a-z]`: ranges, and whether they are those that do not fit.
    Class(Vec<(char, char)>, bool),
}

/// Whether `text` as a whole is of the form `pattern`: `*`, `?`, `[a-z]`, `[^a-z]` and `\`, which is Go's path.Match.
fn glob(pattern: &str, text: &str) -> bool {
    let Some(pieces) = pieces(pattern) else { return false };
    let text: Vec<char> = text.chars().collect();
    // reached[at]: the pieces so far can be the first `at` characters.
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    for piece in pieces {
        let mut next = vec![false; text.len() + 1];
        for at in 0..=text.len() {
            if piece == Piece::Star {
                next[at] = reached[at] || (at > 0 && next[at - 1] && text[at - 1] != '/');
            } else if at > 0 && reached[at - 1] {
                next[at] = piece.takes(text[at - 1]);
            }
        }
        reached = next;
    }
    reached[text.len()]
}

fn is_pattern(text: &str) -> bool {
    !text.is_empty() && pieces(text).is_some()
}

impl Piece {
    fn takes(&self, c: char) -> bool {
        match self {
            Self::Star => false,
            Self::Any => c != '/',
            Self::One(one) => *one == c,
            Self::Class(ranges, others) => {
                (ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *others) && c != '/'
            }
        }
    }
}

fn pieces(pattern: &str) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut rest = pattern.chars().peekable();
    while let Some(c) = rest.next() {
        pieces.push(match c {
            '*' => Piece::Star,
            '?' => Piece::Any,
            '\\' => Piece::One(rest.next()?),
            '[' => {
                let others = rest.next_if_eq(&'^').is_some();
                let mut ranges = Vec::new();
                while rest.peek() != Some(&']') || ranges.is_empty() {
                    let mut one = || match rest.next()? {
                        '\\' => rest.next(),
                        '-' | ']' => None,
                        c => Some(c),
                    };
                    let low = one()?;
                    let high = if rest.next_if_eq(&'-').is_some() {
                        match rest.next()? {
                            '\\' => rest.next()?,
                            '-' | ']' => return None,
                            c => c,
                        }
                    } else {
                        low
                    };
                    ranges.push((low, high));
                }
                rest.next();
                Piece::Class(ranges, others)
            }
            c => Piece::One(c),
        });
    }
    Some(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn images() -> Vec<Value> {
        vec![
            json!({"Id": "sha256:aa", "RepoTags": ["web:1", "web:latest", "localhost:5000/me/web:1"],
                "RepoDigests": ["web@sha256:11"], "CreatedNs": 3, "Labels": {"a": "b"}}),
            json!({"Id": "sha256:bb", "RepoTags": [], "RepoDigests": ["db@sha256:22"], "CreatedNs": 2, "Labels": {"a": "c"}}),
            json!({"Id": "sha256:cc", "RepoTags": [], "RepoDigests": [], "CreatedNs": 1, "Labels": null}),
        ]
    }

    fn select(words: &[&str]) -> Result<String, String> {
        let mut filters = Filters::default();
        for word in words {
            match word.strip_prefix('@') {
                Some(name) => filters.add_reference(name)?,
                None => filters.add(word, &KEYS.map(|(_, key)| key), 2_000_000_000)?,
            }
        }
        let created = |name: &str| if name == "db" { Ok(2) } else { Err(format!("no such image: {name}")) };
        let found = filters.select(images(), &created)?;
        let show = |image: &Value| {
            let names =
                image["RepoTags"].as_array().into_iter().chain(image["RepoDigests"].as_array()).flatten();
            let names: Vec<&str> = names.filter_map(Value::as_str).collect();
            format!("{}({})", &image["Id"].as_str().unwrap_or_default()[7..], names.join(" "))
        };
        Ok(found.iter().map(show).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn filters_have_docker_s_meaning() {
        let aa = "aa(web:1 web:latest localhost:5000/me/web:1 web@sha256:11)";
        let (bb, cc) = ("bb(db@sha256:22)", "cc()");
        let check = |words: &[&str], expected: &[&str]| {
            assert_eq!(select(words).as_deref(), Ok(expected.join(" ").as_str()), "{words:?}");
        };
        check(&[], &[aa, bb, cc]);
        check(&["dangling=true"], &[bb, cc]);
        check(&["dangling=false"], &[aa, bb]);
        check(&["dangling=1", "dangling=0"], &[aa, bb]);
        check(&["label=a"], &[aa, bb]);
        check(&["label=a=b"], &[aa]);
        check(&["label=a=b", "label=a=c"], &[]);
        check(&["label!=a=b"], &[bb, cc]);
        check(&["before=db"], &[cc]);
        check(&["since=db"], &[aa]);
        check(&["until=2"], &[aa, bb, cc]);
        check(&["until=2s"], &[]);
        check(&["reference=web"], &["aa(web:1 web:latest web@sha256:11)"]);
        check(&["reference=web:1"], &["aa(web:1)"]);
        check(&["reference=*"], &["aa(web:1 web:latest web@sha256:11)", bb]);
        check(&["reference=*/*/web"], &["aa(localhost:5000/me/web:1)"]);
        check(&["reference=web:?", "reference=d[a-c]"], &["aa(web:1)", bb]);
        check(&["@web:latest"], &["aa(web:latest)"]);
        check(&["@localhost:5000/me/web"], &["aa(localhost:5000/me/web:1)"]);
        check(&["@nothing"], &[]);
        check(&["dangling=true", "reference=db"], &[bb]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let check = |word: &str, expected: &str| assert_eq!(select(&[word]), Err(expected.into()), "{word}");
        check("foo", "--filter foo: expected name=value");
        check("foo=bar", "invalid filter 'foo'");
        check("dangling=maybe", "invalid filter 'dangling=maybe'");
        check("until=yesterday", "invalid filter 'until=yesterday'");
        check("reference=[", "invalid filter 'reference=['");
        check("before=nobody", "no such image: nobody");
        let mut filters = Filters::default();
        assert_eq!(filters.add("before=x", PRUNE, 0), Err("invalid filter 'before'".into()));
        assert!(filters.add("label!=x", LIST, 0).is_err());
    }

    #[test]
    fn patterns_are_go_s() {
        let check = |pattern: &str, text: &str, expected: bool| {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        };
        check("a*c", "abbc", true);
        check("a*c", "ab/c", false);
        check("a**", "a", true);
        check("*", "a/b", false);
        check("?", "/", false);
        check("[a-c]x", "bx", true);
        check("[^a-c]x", "bx", false);
        check("[^a-c]x", "dx", true);
        check("\\*", "*", true);
        check("\\*", "a", false);
        check("", "", true);
        for bad in ["[", "[]", "[a-]", "[a", "\\", "[-x]"] {
            check(bad, "a", false);
            assert!(!is_pattern(bad), "{bad}");
        }
    }

    #[test]
    fn repositories_are_names_without_tags() {
        let check = |name: &str, expected: &str| assert_eq!(repository(name), expected);
        check("a", "a");
        check("a:1", "a");
        check("localhost:5000/a", "localhost:5000/a");
        check("localhost:5000/a:1@sha256:00", "localhost:5000/a");
        check("a@sha256:00", "a");
    }
}
