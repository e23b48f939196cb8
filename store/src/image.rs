//! An image ready to be run: directories to stack and what its configuration asks for.

use std::path::PathBuf;

use serde::Deserialize;

use crate::Merged;
use crate::spec::or_default;

/// An image whose layers are unpacked on this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// Directories to stack with overlayfs, top first; empty for `host`. Never to be written to.
    pub layers: Vec<PathBuf>,
    /// The same as one tree, where that is better.
    pub merged: Option<Merged>,
    /// `sha256:…` of the configuration, which identifies the image; absent for `host` and `rootfs:`.
    pub id: Option<String>,
    /// What the image asks for.
    pub config: ImageConfig,
}

/// The part of an image's configuration that matters for running it; empty where the image says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Program and first arguments.
    pub entrypoint: Vec<String>,
    /// Arguments to the entrypoint, or the whole command when there is none.
    pub cmd: Vec<String>,
    /// `user[:group]`, each a name or a number.
    pub user: String,
    /// Absolute path, empty for `/`.
    pub working_dir: String,
    /// Name or number of the signal that asks the program to stop.
    pub stop_signal: Option<String>,
    /// Absolute paths, sorted.
    pub volumes: Vec<String>,
    /// Sorted by name.
    pub labels: Vec<(String, String)>,
    /// How its health is found out.
    pub healthcheck: Option<Healthcheck>,
}

/// An image's `HEALTHCHECK`. Zeros are the engine's defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `NONE`; `CMD` and a program with its arguments; `CMD-SHELL` and a shell's text; or empty.
    #[serde(deserialize_with = "or_default")]
    pub test: Vec<String>,
    /// Between checks, ns.
    #[serde(rename = "Interval", deserialize_with = "or_default")]
    pub interval_ns: i64,
    /// For one check, ns.
    #[serde(rename = "Timeout", deserialize_with = "or_default")]
    pub timeout_ns: i64,
    /// How long failures do not count, ns.
    #[serde(rename = "StartPeriod", deserialize_with = "or_default")]
    pub start_period_ns: i64,
    /// Between checks in that time, ns.
    #[serde(rename = "StartInterval", deserialize_with = "or_default")]
    pub start_interval_ns: i64,
    /// How many failures in a row make it unhealthy.
    #[serde(deserialize_with = "or_default")]
    pub retries: i64,
}
