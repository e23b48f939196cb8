//! The files of a policy, engine by engine.

use serde_json::json;

use super::calls::Engine;
use super::kubernetes;
use super::needs::{Device, Directory};
use super::policy::{Policy, Root};
use super::quote::{self, shell, yaml};
use super::seccomp::{pretty, seccomp};

/// A file to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Relative to the directory of the policy.
    pub path: String,
    /// What is in it.
    pub content: String,
}

/// The files for `engines`, and `policy.json`, which tells all of it to people and programs. `directory` is where they are
/// going to be, as flags are to name it.
///
/// Errors: one line, if flags cannot say `directory`.
pub fn files(policy: &Policy, engines: &[Engine], directory: &str) -> Result<Vec<File>, String> {
    quote::path(directory)?;
    let mut all = vec![File { path: "policy.json".into(), content: document(policy) }];
    for &engine in engines {
        let name = engine.name();
        let mut add =
            |file: &str, content: String| all.push(File { path: format!("{name}/{file}"), content });
        add("seccomp.json", seccomp(policy, engine));
        let filter = format!("{directory}/{name}/seccomp.json");
        match engine {
            Engine::Kubernetes => add("pod.yaml", kubernetes::pod(policy)),
            Engine::Docker => {
                add("flags", lines(&flags(policy, engine, &filter)));
                add("compose.yaml", compose(policy, &filter));
            }
            Engine::Skiff | Engine::Podman => add("flags", lines(&flags(policy, engine, &filter))),
        }
    }
    Ok(all)
}

/// One shell word per line.
fn lines(flags: &[String]) -> String {
    flags.iter().map(|flag| shell(flag) + "\n").collect()
}

/// What `run` of the engine is to be given, with the filter in the file `filter`.
#[must_use]
pub fn flags(policy: &Policy, engine: Engine, filter: &str) -> Vec<String> {
    let mut flags = vec!["--cap-drop=ALL".to_owned()];
    flags.extend(policy.capabilities.iter().map(|name| format!("--cap-add={name}")));
    flags.push("--security-opt=no-new-privileges".into());
    flags.push(format!("--security-opt=seccomp={filter}"));
    if policy.root == Root::ReadOnly {
        flags.push("--read-only".into());
    }
    flags.extend(policy.writable.iter().map(|directory| place(policy, engine, directory)));
    for device in policy.devices.iter().flatten() {
        flags.push(format!("--device={}", given(device)));
    }
    let limits = &policy.limits;
    flags.extend(limits.memory_bytes.map(|bytes| format!("--memory={bytes}")));
    flags.extend(limits.tasks.map(|tasks| format!("--pids-limit={tasks}")));
    flags.extend(limits.descriptors.map(|most| format!("--ulimit=nofile={most}:{most}")));
    flags
}

/// Something to write to: a volume where the image's files are to be there too, else memory.
fn place(policy: &Policy, engine: Engine, directory: &Directory) -> String {
    let path = &directory.path;
    if directory.filled {
        return format!("--volume={path}");
    }
    let exec = if policy.executes_in(directory) { ",exec" } else { "" };
    let owner = match engine {
        // podman gives it the owner that the image has, and refuses these.
        Engine::Podman => String::new(),
        _ => format!(",uid={},gid={}", directory.uid, directory.gid),
    };
    format!("--tmpfs={path}:rw,mode={:o}{owner}{exec}", directory.mode)
}

/// A device with no more access than it was opened with.
fn given(device: &Device) -> String {
    let access = match (device.read, device.write) {
        (true, true) => "rw",
        (false, true) => "w",
        _ => "r",
    };
    format!("{}:{}:{access}", device.source, device.target)
}

fn compose(policy: &Policy, filter: &str) -> String {
    let mut text = String::from(
        "# To be merged: docker compose -f compose.yaml -f THIS …; the service's name is yours to set.\n",
    );
    for note in &policy.needs.notes {
        text += &format!("# {}\n", comment(note));
    }
    text += "services:\n  app:\n    cap_drop: [\"ALL\"]\n";
    let mut list = |key: &str, entries: Vec<String>| {
        if !entries.is_empty() {
            text += &format!("    {key}:\n");
            entries.iter().for_each(|entry| text += &format!("      - {}\n", yaml(entry)));
        }
    };
    list("cap_add", policy.capabilities.iter().cloned().collect());
    list("security_opt", vec!["no-new-privileges:true".into(), format!("seccomp:{filter}")]);
    let memory = policy.writable.iter().filter(|directory| !directory.filled);
    let tmpfs =
        memory.map(|directory| place(policy, Engine::Docker, directory)["--tmpfs=".len()..].to_owned());
    list("tmpfs", tmpfs.collect());
    let filled = policy.writable.iter().filter(|directory| directory.filled);
    list("volumes", filled.map(|directory| directory.path.clone()).collect());
    let devices = policy.devices.iter().flatten().map(given);
    list("devices", devices.collect());
    if policy.root == Root::ReadOnly {
        text += "    read_only: true\n";
    }
    if let Some(bytes) = policy.limits.memory_bytes {
        text += &format!("    mem_limit: {bytes}\n");
    }
    if let Some(tasks) = policy.limits.tasks {
        text += &format!("    pids_limit: {tasks}\n");
    }
    if let Some(most) = policy.limits.descriptors {
        text += &format!("    ulimits:\n      nofile:\n        soft: {most}\n        hard: {most}\n");
    }
    text
}

/// What may stand behind a `#`.
pub(super) fn comment(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') { ' ' } else { c })
        .collect()
}

/// The policy as data: docs/harden.md describes it.
#[must_use]
pub fn document(policy: &Policy) -> String {
    let needs = &policy.needs;
    let writable = policy.writable.iter().map(|directory| {
        json!({
            "path": directory.path,
            "uid": directory.uid,
            "gid": directory.gid,
            "mode": format!("{:04o}", directory.mode),
            "filled": directory.filled,
        })
    });
    let devices = policy.devices.as_ref().map(|devices| {
        let one = |device: &Device| {
            json!({"source": device.source, "target": device.target, "read": device.read, "write": device.write})
        };
        devices.iter().map(one).collect::<Vec<_>>()
    });
    let dropped: Vec<&String> =
        needs.held.iter().filter(|name| !policy.capabilities.contains(*name)).collect();
    pretty(&json!({
        "schema": "skiff.policy/1",
        "runs": needs.runs,
        "init": needs.has_init,
        "system_calls": {
            "allowed": needs.calls,
            "answered": needs.answered,
            "compat": needs.compat,
        },
        "capabilities": {
            "kept": policy.capabilities,
            "dropped": dropped,
            "used_by": needs.capabilities,
        },
        "read_only": policy.root == Root::ReadOnly,
        "why_writable": match &policy.root { Root::ReadOnly => None, Root::Writable(reason) => Some(reason) },
        "writable": writable.collect::<Vec<_>>(),
        "devices": devices,
        "sysctls_written": needs.sysctls,
        "peaks": {
            "memory_bytes": needs.memory_peak_bytes,
            "tasks": needs.tasks_peak,
            "descriptors": needs.descriptors_peak,
            "cpu_millis": needs.cpu_millis,
        },
        "limits": {
            "memory_bytes": policy.limits.memory_bytes,
            "tasks": policy.limits.tasks,
            "descriptors": policy.limits.descriptors,
            "cpu_request_millis": policy.limits.cpu_millis,
        },
        "user": policy.user.map(|(uid, gid)| json!({"uid": uid, "gid": gid})),
        "notes": needs.notes,
    }))
}
