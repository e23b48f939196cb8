//! What a hook of a container finds: `probe hook FILE NAME [exit N | sleep SECONDS]`.

use std::fs::OpenOptions;
use std::io::{Read, Write};

use serde_json::{Value, json};

use crate::{number, see};

/// Appends one line of JSON about itself to `file`, then does what the rest of the words say.
pub(crate) fn run(file: &str, name: &str, rest: &[&str]) -> Result<i32, String> {
    let mut state = String::new();
    std::io::stdin().read_to_string(&mut state).map_err(|e| e.to_string())?;
    let line = json!({
        "name": name,
        "state": serde_json::from_str::<Value>(&state).unwrap_or_else(|_| json!(state)),
        "args": crate::arguments(),
        "environ": std::env::vars().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>(),
        "namespaces": see::namespaces(),
        "cwd": std::env::current_dir().map(|dir| dir.display().to_string()).unwrap_or_default(),
        "root": see::names("/"),
        "started": std::path::Path::new(file).with_file_name("started").exists(),
        "network_of_pid": network_of_pid(&state),
    });
    let mut log =
        OpenOptions::new().append(true).create(true).open(file).map_err(|e| format!("{file}: {e}"))?;
    log.write_all(format!("{line}\n").as_bytes()).map_err(|e| e.to_string())?;
    match rest {
        [] => Ok(0),
        ["exit", code] => number(code),
        ["sleep", seconds] => {
            std::thread::sleep(std::time::Duration::from_secs(number(seconds)?));
            Ok(0)
        }
        _ => Err("hook FILE NAME [exit N | sleep SECONDS]".into()),
    }
}

/// The network namespace of the process that the state names, as this process can see it.
fn network_of_pid(state: &str) -> String {
    let state: Value = serde_json::from_str(state).unwrap_or_default();
    see::link(&format!("/proc/{}/ns/net", state["pid"]))
}
