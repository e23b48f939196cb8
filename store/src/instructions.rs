//! Changes to an image's configuration in the words of a Dockerfile, as `--change` of commit and import takes them.

use serde_json::{Map, Value, json};

/// An image's `config` object.
type Config = Map<String, Value>;

/// Carries out `changes`, one instruction each. Errors: one line that names the instruction.
pub(crate) fn apply(config: &mut Config, changes: &[String]) -> Result<(), String> {
    let mut has_command = false;
    for text in changes {
        let (name, rest) = text.trim().split_once(char::is_whitespace).unwrap_or((text.trim(), ""));
        let (name, rest) = (name.to_ascii_uppercase(), rest.trim());
        if rest.is_empty() {
            return Err(format!("{name} requires at least one argument"));
        }
        match &*name {
            "CMD" => {
                config.insert("Cmd".into(), command(rest));
                has_command = true;
            }
            "ENTRYPOINT" => {
                config.insert("Entrypoint".into(), command(rest));
                // What was meant for another entrypoint.
                if !has_command {
                    config.remove("Cmd");
                }
            }
            "ENV" => environment(config, rest)?,
            "LABEL" => {
                for (key, value) in pairs("LABEL", rest)? {
                    object(config, "Labels").insert(key, Value::String(value));
                }
            }
            "EXPOSE" => {
                for port in words(rest)? {
                    let port = if port.contains('/') { port } else { format!("{port}/tcp") };
                    check_port(&port)?;
                    object(config, "ExposedPorts").insert(port, json!({}));
                }
            }
            "VOLUME" => {
                for path in list(rest).map_or_else(|| words(rest), Ok)? {
                    object(config, "Volumes").insert(path, json!({}));
                }
            }
            "USER" => drop(config.insert("User".into(), one("USER", rest)?.into())),
            "STOPSIGNAL" => drop(config.insert("StopSignal".into(), one("STOPSIGNAL", rest)?.into())),
            "WORKDIR" => {
                let path = one("WORKDIR", rest)?;
                let old = config.get("WorkingDir").and_then(Value::as_str).unwrap_or("/");
                let path = if path.starts_with('/') {
                    path
                } else {
                    format!("{}/{path}", old.trim_end_matches('/'))
                };
                config.insert("WorkingDir".into(), path.into());
            }
            "ONBUILD" => array(config, "OnBuild").push(rest.into()),
            "HEALTHCHECK" => drop(config.insert("Healthcheck".into(), healthcheck(rest)?)),
            _ => return Err(format!("{name} is not a valid change command")),
        }
    }
    Ok(())
}

fn command(text: &str) -> Value {
    match list(text) {
        Some(words) => words.into(),
        None => json!(["/bin/sh", "-c", text]),
    }
}

/// The JSON form of arguments.
fn list(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

fn environment(config: &mut Config, text: &str) -> Result<(), String> {
    for (key, value) in pairs("ENV", text)? {
        let all = array(config, "Env");
        all.retain(|one| one.as_str().and_then(|one| one.split('=').next()) != Some(&key));
        all.push(format!("{key}={value}").into());
    }
    Ok(())
}

/// `KEY=value …`, or `KEY the rest`.
fn pairs(name: &str, text: &str) -> Result<Vec<(String, String)>, String> {
    let words = words(text)?;
    let first = words.first().map_or("", String::as_str);
    let all = if first.contains('=') {
        let pair = |word: &String| {
            let (key, value) = word.split_once('=').ok_or_else(|| {
                format!("syntax error in {name}: can't find = in {word:?}, must be of the form name=value")
            })?;
            Ok((key.to_owned(), value.to_owned()))
        };
        words.iter().map(pair).collect::<Result<Vec<_>, String>>()?
    } else {
        let (key, value) =
            text.split_once(char::is_whitespace).ok_or_else(|| format!("{name} must have two arguments"))?;
        vec![(key.to_owned(), value.trim().to_owned())]
    };
    match all.iter().any(|(key, _)| key.is_empty()) {
        true => Err(format!("{name} names can not be blank")),
        false => Ok(all),
    }
}

/// Words between blanks; quotes keep blanks, a backslash the character after it.
fn words(text: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (Some(open), _) if open == c => quote = None,
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(characters.next()),
            (None, _) if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(format!("unexpected end of statement while looking for a matching quote in {text:?}"));
    }
    words.extend(word);
    Ok(words)
}

fn one(name: &str, text: &str) -> Result<String, String> {
    let mut words = words(text)?;
    match words.len() {
        1 => Ok(words.remove(0)),
        _ => Err(format!("{name} requires exactly one argument")),
    }
}

fn check_port(port: &str) -> Result<(), String> {
    let (range, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
    let number = |text: &str| text.parse::<u16>().is_ok();
    let fine =
        range.split_once('-').map_or_else(|| number(range), |(first, last)| number(first) && number(last));
    match fine && matches!(protocol, "tcp" | "udp" | "sctp") {
        true => Ok(()),
        false => Err(format!("invalid containerPort: {port}")),
    }
}

fn healthcheck(text: &str) -> Result<Value, String> {
    let mut check = Map::new();
    let mut rest = text;
    while let Some(flag) = rest.strip_prefix("--") {
        let (flag, after) = flag.split_once(char::is_whitespace).unwrap_or((flag, ""));
        let (key, value) = flag.split_once('=').unwrap_or((flag, ""));
        let unknown = || format!("unknown flag in HEALTHCHECK: --{flag}");
        let (key, value) = match key {
            "retries" => ("Retries", value.parse::<i64>().map_err(|_| unknown())?),
            "interval" => ("Interval", duration(value).ok_or_else(unknown)?),
            "timeout" => ("Timeout", duration(value).ok_or_else(unknown)?),
            "start-period" => ("StartPeriod", duration(value).ok_or_else(unknown)?),
            "start-interval" => ("StartInterval", duration(value).ok_or_else(unknown)?),
            _ => return Err(unknown()),
        };
        check.insert(key.into(), value.into());
        rest = after.trim_start();
    }
    let (kind, arguments) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let arguments = arguments.trim();
    let test = match (kind.to_ascii_uppercase().as_str(), arguments.is_empty()) {
        ("NONE", true) => json!(["NONE"]),
        ("CMD", false) => match list(arguments) {
            Some(words) => std::iter::once("CMD".to_owned()).chain(words).collect(),
            None => json!(["CMD-SHELL", arguments]),
        },
        _ => return Err("HEALTHCHECK takes NONE, or CMD and a command".to_owned()),
    };
    check.insert("Test".into(), test);
    Ok(check.into())
}

/// A duration as Go writes it, in ns.
fn duration(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut sum = 0_i64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: i64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let scale = match &rest[..unit] {
            "ns" => 1,
            "us" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        sum = sum.checked_add(number.checked_mul(scale)?)?;
        rest = &rest[unit..];
    }
    Some(sum)
}

fn object<'a>(config: &'a mut Config, key: &str) -> &'a mut Config {
    let value = config.entry(key).or_insert_with(|| json!({}));
    if !value.is_object() {
        *value = json!({});
    }
    value.as_object_mut().expect("has just been made one")
}

fn array<'a>(config: &'a mut Config, key: &str) -> &'a mut Vec<Value> {
    let value = config.entry(key).or_insert_with(|| json!([]));
    if !value.is_array() {
        *value = json!([]);
    }
    value.as_array_mut().expect("has just been made one")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `expect` is the configuration, or a part of the error if it is text.
    fn check(changes: &[&str], expect: Value) {
        let mut config =
            json!({ "Env": ["A=old", "B=old"], "Cmd": ["old"], "WorkingDir": "/w", "Labels": null });
        let changes: Vec<_> = changes.iter().map(|&change| change.to_owned()).collect();
        let done = apply(config.as_object_mut().unwrap(), &changes);
        match (done, expect) {
            (Err(error), Value::String(expect)) => assert!(error.contains(&expect), "{changes:?}: {error}"),
            (Ok(()), Value::Object(expect)) => {
                for (key, value) in expect {
                    assert_eq!(config[&key], value, "{changes:?}: {key}");
                }
            }
            (done, _) => panic!("{changes:?}: {done:?}"),
        }
    }

    #[test]
    fn instructions() {
        check(&[r#"CMD ["a", "b c"]"#], json!({ "Cmd": ["a", "b c"] }));
        check(&["cmd a b"], json!({ "Cmd": ["/bin/sh", "-c", "a b"] }));
        check(&[r#"ENTRYPOINT ["e"]"#], json!({ "Entrypoint": ["e"], "Cmd": null }));
        check(&["CMD c", "ENTRYPOINT [\"e\"]"], json!({ "Cmd": ["/bin/sh", "-c", "c"] }));
        check(
            &["ENV A=new C='x y' D=\"q\\\"q\" E=a\\ b"],
            json!({ "Env": ["B=old", "A=new", "C=x y", "D=q\"q", "E=a b"] }),
        );
        check(&["ENV A the whole rest"], json!({ "Env": ["B=old", "A=the whole rest"] }));
        check(&["LABEL a=b c.d=''"], json!({ "Labels": { "a": "b", "c.d": "" } }));
        check(
            &["EXPOSE 80 53/udp 1-3"],
            json!({ "ExposedPorts": { "80/tcp": {}, "53/udp": {}, "1-3/tcp": {} } }),
        );
        check(&["VOLUME [\"/a\"]", "VOLUME /b /c"], json!({ "Volumes": { "/a": {}, "/b": {}, "/c": {} } }));
        check(&["USER 1:2", "STOPSIGNAL SIGQUIT"], json!({ "User": "1:2", "StopSignal": "SIGQUIT" }));
        check(&["WORKDIR a", "WORKDIR b"], json!({ "WorkingDir": "/w/a/b" }));
        check(&["WORKDIR /x"], json!({ "WorkingDir": "/x" }));
        check(&["ONBUILD RUN x"], json!({ "OnBuild": ["RUN x"] }));
        check(&["HEALTHCHECK NONE"], json!({ "Healthcheck": { "Test": ["NONE"] } }));
        check(
            &["HEALTHCHECK --interval=1m30s --retries=2 CMD [\"/c\"]"],
            json!({ "Healthcheck": { "Test": ["CMD", "/c"], "Interval": 90_000_000_000_i64, "Retries": 2 } }),
        );
        check(&["HEALTHCHECK CMD a b"], json!({ "Healthcheck": { "Test": ["CMD-SHELL", "a b"] } }));
    }

    #[test]
    fn what_is_no_instruction() {
        check(&["RUN x"], json!("RUN is not a valid change command"));
        check(&[""], json!("requires at least one argument"));
        check(&["CMD"], json!("CMD requires at least one argument"));
        check(&["ENV A"], json!("ENV must have two arguments"));
        check(&["ENV =x"], json!("ENV names can not be blank"));
        check(&["ENV A=b C"], json!("can't find = in \"C\""));
        check(&["LABEL a='b"], json!("matching quote"));
        check(&["USER a b"], json!("USER requires exactly one argument"));
        check(&["EXPOSE x"], json!("invalid containerPort: x/tcp"));
        check(&["EXPOSE 1/icmp"], json!("invalid containerPort"));
        check(&["HEALTHCHECK CMD"], json!("HEALTHCHECK takes"));
        check(&["HEALTHCHECK --interval=x CMD a"], json!("unknown flag"));
        check(&["HEALTHCHECK --interval=99999999999999h CMD a"], json!("unknown flag"));
    }
}
