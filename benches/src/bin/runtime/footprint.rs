//! The bytes that a runtime takes: of its file, of the process that creates a container, of the one that then waits.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::arms::{Arm, Ground, fresh_id, text};
use crate::cycle::{Host, await_end};

/// Sizes in KiB.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Footprint {
    pub(crate) binary: u64,
    /// The most that `create` had resident by the time of its hook `createRuntime`, when the container is nearly made.
    pub(crate) creating: u64,
    /// Of the container's first process between `create` and `start`: resident, and its share of what is shared.
    pub(crate) waiting: [u64; 2],
}

/// Measures `arm`; `hooked` is a bundle of `write_hooked`.
pub(crate) fn measure(arm: &Arm, ground: &Ground, hooked: &Hooked) -> Result<Footprint, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", arm.name);
    let binary = fs::metadata(&arm.program).map_err(|error| failed(&error))?.len() >> 10;
    let host = Host::create(arm, ground)?;
    let rollup =
        fs::read_to_string(format!("/proc/{}/smaps_rollup", host.pid())).map_err(|error| failed(&error))?;
    drop(host);
    let creating = hooked.measure(arm, ground)?;
    let waiting = ["Rss:", "Pss:"].map(|key| kib(&rollup, key).unwrap_or(0));
    Ok(Footprint { binary, creating, waiting })
}

/// A bundle whose hook notes what its parent, the runtime, has resident.
#[derive(Debug)]
pub(crate) struct Hooked {
    bundle: PathBuf,
    seen: PathBuf,
}

impl Hooked {
    pub(crate) fn new(bundle: PathBuf, seen: PathBuf) -> Result<Self> {
        let path = bundle.join("config.json");
        let config = fs::read_to_string(&path).context("read a configuration")?;
        let mut config: Value = serde_json::from_str(&config).context("read a configuration")?;
        let script = format!("cat /proc/$PPID/status > {}", text(&seen));
        config["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
        config["hooks"]["createRuntime"][0]["env"] = json!(["PATH=/usr/bin:/bin"]);
        fs::write(&path, config.to_string()).context("write a configuration")?;
        Ok(Self { bundle, seen })
    }

    fn measure(&self, arm: &Arm, ground: &Ground) -> Result<u64, String> {
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", arm.name);
        let (id, bundle, pid_file) = (fresh_id(), text(&self.bundle), text(&ground.pid_file));
        let created = arm.run(ground, &["create", "--bundle", &bundle, "--pid-file", &pid_file, &id]);
        arm.clean_up(&id);
        created?;
        await_end(ground.pid().map_err(|error| failed(&error))?).map_err(|error| failed(&error))?;
        let status = fs::read_to_string(&self.seen).map_err(|error| failed(&error))?;
        kib(&status, "VmHWM:").ok_or_else(|| failed(&"its hook has seen nothing"))
    }
}

/// The number after `key` in lines of `key number kB`.
fn kib(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse().ok())
}
