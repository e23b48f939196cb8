//! `--filter`: which containers a list shows, by docker's words.
//!
//! Works on the summaries that the daemon sends (`skiff_engine::document`). Values of one key are alternatives, but for
//! labels, which must all be there; different keys must all fit.

use regex_lite::Regex;
use serde_json::Value;

/// What a container must be like.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filters {
    all: Vec<(Key, String)>,
}

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Ancestor,
    Before,
    Exited,
    Health,
    Id,
    Label,
    Name,
    Network,
    Since,
    Status,
    Volume,
}

#[rustfmt::skip] // a table
const KEYS: [(&str, Key); 11] = [
    ("ancestor", Key::Ancestor), ("before", Key::Before), ("exited", Key::Exited), ("health", Key::Health),
    ("id", Key::Id), ("label", Key::Label), ("name", Key::Name), ("network", Key::Network),
    ("since", Key::Since), ("status", Key::Status), ("volume", Key::Volume),
];

const STATUS: [&str; 7] = ["created", "restarting", "running", "removing", "paused", "exited", "dead"];
const HEALTH: [&str; 4] = ["none", "starting", "healthy", "unhealthy"];

impl Filters {
    /// Adds the value of one `--filter`.
    ///
    /// Errors: no such key, or its value makes no sense.
    pub(crate) fn add(&mut self, word: &str) -> Result<(), String> {
        let Some((name, value)) = word.split_once('=') else {
            return Err(format!("--filter {word}: expected name=value"));
        };
        let (name, value) = (name.trim().to_lowercase(), value.trim());
        let Some((_, key)) = KEYS.iter().find(|(known, _)| *known == name) else {
            return Err(format!("invalid filter '{name}'"));
        };
        let fits = match key {
            Key::Status => STATUS.contains(&value),
            Key::Health => HEALTH.contains(&value),
            Key::Exited => value.parse::<i64>().is_ok(),
            _ => true,
        };
        if !fits {
            return Err(format!("invalid filter '{name}={value}'"));
        }
        self.all.push((*key, value.to_owned()));
        Ok(())
    }

    /// Whether containers that do not run are asked for, even without `--all`.
    pub(crate) fn ask_for_stopped(&self) -> bool {
        self.all.iter().any(|(key, _)| *key == Key::Status)
    }

    /// Those of `containers` that fit, `everything` being all containers there are: `before` and `since` may name one
    /// that is not shown.
    ///
    /// Errors: there is no container that `before` or `since` names.
    pub(crate) fn select<'a>(
        &self,
        containers: &'a [Value],
        everything: &[Value],
    ) -> Result<Vec<&'a Value>, String> {
        let matchers = self
            .all
            .iter()
            .map(|(key, value)| matcher(*key, value, everything))
            .collect::<Result<Vec<_>, _>>()?;
        let fits = |container: &&Value| {
            self.all.iter().enumerate().all(|(at, (key, _))| {
                let mut same = matchers.iter().zip(&self.all).filter(|(_, (other, _))| other == key);
                if *key == Key::Label {
                    matchers[at](container)
                } else {
                    same.any(|(fits, _)| fits(container))
                }
            })
        };
        Ok(containers.iter().filter(fits).collect())
    }
}

type Matcher = Box<dyn Fn(&Value) -> bool>;

fn matcher(key: Key, value: &str, everything: &[Value]) -> Result<Matcher, String> {
    let value = value.to_owned();
    Ok(match key {
        Key::Name => {
            let fits = pattern(&value);
            Box::new(move |container| {
                names(container).any(|name| fits(name) || fits(name.strip_prefix('/').unwrap_or(name)))
            })
        }
        Key::Id => {
            let fits = pattern(&value);
            Box::new(move |container| fits(text(container, "Id")))
        }
        Key::Label => Box::new(move |container| has_label(container, &value)),
        Key::Status => Box::new(move |container| text(container, "State") == value),
        Key::Health => Box::new(move |container| match text(container, "Health") {
            "" => value == "none",
            health => health == value,
        }),
        Key::Exited => {
            let code: Option<i64> = value.parse().ok();
            Box::new(move |container| {
                let ended = !matches!(text(container, "State"), "running" | "paused" | "created");
                ended && container["ExitCode"].as_i64() == code
            })
        }
        Key::Ancestor => Box::new(move |container| is_of(container, &value)),
        Key::Network => Box::new(move |container| {
            container["HostConfig"]["NetworkMode"] == value.as_str()
                || container["NetworkSettings"]["Networks"].get(&value).is_some()
        }),
        Key::Volume => Box::new(move |container| {
            let mounts = container["Mounts"].as_array().into_iter().flatten();
            mounts.into_iter().any(|mount| {
                ["Name", "Source", "Destination"].into_iter().any(|part| mount[part] == value.as_str())
            })
        }),
        Key::Before | Key::Since => {
            let other = everything.iter().find(|other| is_called(other, &value));
            let at = other.ok_or_else(|| format!("no such container: {value}"))?["CreatedNs"].as_u64();
            Box::new(move |container| match (container["CreatedNs"].as_u64(), at) {
                (Some(own), Some(at)) if key == Key::Before => own < at,
                (Some(own), Some(at)) => own > at,
                _ => false,
            })
        }
    })
}

/// The text itself, or a regular expression that fits a part; what is none fits nothing else than itself.
fn pattern(value: &str) -> impl Fn(&str) -> bool + use<> {
    let (exact, pattern) = (value.to_owned(), Regex::new(value).ok());
    move |text| text == exact || pattern.as_ref().is_some_and(|pattern| pattern.is_match(text))
}

fn text<'a>(container: &'a Value, field: &str) -> &'a str {
    container[field].as_str().unwrap_or_default()
}

fn names(container: &Value) -> impl Iterator<Item = &str> {
    container["Names"].as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// `name`, or `name=value`.
fn has_label(container: &Value, wanted: &str) -> bool {
    let labels = &container["Labels"];
    match wanted.split_once('=') {
        Some((name, value)) => labels.get(name).is_some_and(|found| found == value),
        None => labels.get(wanted).is_some(),
    }
}

/// Whether the container is of an image: by its name, with or without the tag, or by its id or the beginning of it.
fn is_of(container: &Value, image: &str) -> bool {
    let name = text(container, "Image");
    let bare = name.strip_suffix(":latest").unwrap_or(name);
    let id = text(container, "ImageID");
    let short = id.strip_prefix("sha256:").unwrap_or(id);
    let begins = |id: &str| !image.is_empty() && image.len() >= 4 && id.starts_with(image);
    name == image || bare == image.strip_suffix(":latest").unwrap_or(image) || begins(id) || begins(short)
}

fn is_called(container: &Value, name: &str) -> bool {
    names(container).any(|own| own == name || own.strip_prefix('/') == Some(name))
        || (!name.is_empty() && text(container, "Id").starts_with(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn containers() -> Vec<Value> {
        vec![
            json!({"Id": "2a2746dabd61", "Names": ["/web"], "Image": "small:latest", "ImageID": "sha256:c735ef88",
                "Labels": {"a": "b", "role": "front=end"}, "State": "running", "Health": "healthy", "ExitCode": 0,
                "CreatedNs": 3, "HostConfig": {"NetworkMode": "none"},
                "Mounts": [{"Type": "bind", "Source": "/srv", "Destination": "/data"}]}),
            json!({"Id": "35b822c45058", "Names": ["/web-db"], "Image": "small:1", "ImageID": "sha256:99",
                "Labels": {"a": "c"}, "State": "exited", "ExitCode": 137, "CreatedNs": 2,
                "HostConfig": {"NetworkMode": "host"}, "Mounts": [{"Type": "volume", "Name": "keep"}]}),
            json!({"Id": "acec3672a626", "Names": ["/job"], "Image": "big", "Labels": {}, "State": "created",
                "ExitCode": 0, "CreatedNs": 1, "Mounts": []}),
        ]
    }

    fn select(words: &[&str]) -> Result<String, String> {
        let mut filters = Filters::default();
        for word in words {
            filters.add(word)?;
        }
        let all = containers();
        let found = filters.select(&all, &all)?;
        let names: Vec<&str> = found.iter().flat_map(|container| names(container)).collect();
        Ok(names.join(" "))
    }

    #[test]
    fn filters_have_docker_s_meaning() {
        #[rustfmt::skip] // a table
        let cases: &[(&[&str], &str)] = &[
            (&[], "/web /web-db /job"),
            (&["name=web"], "/web /web-db"), (&["name=^web$"], "/web"), (&["name=^/web$"], "/web"),
            (&["name=w.b-"], "/web-db"), (&["name=["], ""), (&["name=web-db", "name=job"], "/web-db /job"),
            (&["id=2a27"], "/web"), (&["id=^ac"], "/job"),
            (&["label=a"], "/web /web-db"), (&["label=a=b"], "/web"), (&["label=role=front=end"], "/web"),
            (&["label=a", "label=role"], "/web"), (&["label=a=b", "label=a=c"], ""),
            (&["status=running"], "/web"), (&["status=exited", "status=created"], "/web-db /job"),
            (&["exited=137"], "/web-db"), (&["exited=0"], ""), (&["exited=0", "exited=137"], "/web-db"),
            (&["health=healthy"], "/web"), (&["health=none"], "/web-db /job"), (&["health=starting"], ""),
            (&["ancestor=small"], "/web"), (&["ancestor=small:1"], "/web-db"), (&["ancestor=c735"], "/web"),
            (&["ancestor=sha256:c735ef88"], "/web"), (&["ancestor=big:latest"], "/job"),
            (&["before=web"], "/web-db /job"), (&["since=job"], "/web /web-db"), (&["since=35b8"], "/web"),
            (&["volume=keep"], "/web-db"), (&["volume=/data"], "/web"), (&["volume=/srv"], "/web"),
            (&["network=none"], "/web"), (&["network=bridge"], ""),
            (&["name=web", "status=exited"], "/web-db"), (&[" Name = job "], "/job"),
        ];
        for (words, expected) in cases {
            assert_eq!(select(words).as_deref(), Ok(*expected), "{words:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let check = |word: &str, expected: &str| assert_eq!(select(&[word]), Err(expected.into()), "{word}");
        check("foo", "--filter foo: expected name=value");
        check("foo=bar", "invalid filter 'foo'");
        check("status=up", "invalid filter 'status=up'");
        check("health=ill", "invalid filter 'health=ill'");
        check("exited=x", "invalid filter 'exited=x'");
        check("before=nobody", "no such container: nobody");
    }

    #[test]
    fn a_status_asks_for_stopped_containers() {
        let mut filters = Filters::default();
        filters.add("name=x").expect("a filter");
        assert!(!filters.ask_for_stopped());
        filters.add("status=exited").expect("a filter");
        assert!(filters.ask_for_stopped());
    }
}
