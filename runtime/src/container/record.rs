//! What is on record of a container: all that cannot be found out from the processes that are left of it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::cgroup::Paths;
use crate::error::Context;
use crate::oci::json;
use crate::rdt::Group;

/// A line of `state.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Of its configuration.
    pub oci_version: String,
    /// Its id.
    pub id: String,
    /// Absolute path of its bundle.
    pub bundle: PathBuf,
    /// Absolute path of its root file system.
    pub rootfs: PathBuf,
    /// As configured.
    pub annotations: BTreeMap<String, String>,
    /// When it was made, in RFC 3339's form.
    pub created: String,
    /// The user who has made it.
    pub owner: u32,
    /// Its first process; absent until that is born.
    pub init: Option<Init>,
    /// Its cgroups, on record before they are made.
    pub cgroups: Paths,
    /// Whether its configuration has `poststart` hooks, so that most need not read it again.
    pub has_poststart: bool,
    /// Whether it has `poststop` hooks.
    pub has_poststop: bool,
    /// Whether its program can say that it is ready: there is a directory for the socket.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_notify: bool,
    /// Its resctrl group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rdt: Option<Group>,
}

/// A process, told from all that have had its id before or will have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Init {
    /// Its id.
    pub pid: i32,
    /// Field 22 of `/proc/PID/stat`.
    pub start_time: u64,
}

impl Record {
    /// Reads the latest record of a file; `None` if there is no file.
    pub(super) fn read(file: &Path) -> Result<Option<Self>, Error> {
        let text = match fs::read_to_string(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.context(|| format!("read {}", file.display()))?,
        };
        json::read(latest(&text))
            .map(Some)
            .map_err(|error| Error::Option(format!("{}: {error}", file.display())))
    }

    pub(super) fn to_line(&self) -> Result<Vec<u8>, Error> {
        // A path that is not UTF-8 has no place in JSON.
        let mut line = serde_json::to_vec(self)
            .map_err(|error| Error::Option(format!("write the state of {}: {error}", self.id)))?;
        line.push(b'\n');
        Ok(line)
    }
}

/// The last whole line: what follows it is still being written, or whoever wrote it was killed.
fn latest(text: &str) -> &str {
    let whole = text.rsplit_once('\n').map_or(text, |(whole, _)| whole);
    whole.rsplit_once('\n').map_or(whole, |(_, last)| last)
}
