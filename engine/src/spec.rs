//! What a client wants of a container: everything that is known before the image is looked at.

use std::ffi::OsString;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use skiff_runtime::Options;
use skiff_runtime::options::{unset, words};

/// A container as a client describes it. What has its default is left out when it is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Spec {
    /// IMAGE, as given.
    #[serde(skip_serializing_if = "unset")]
    pub image: String,
    /// What flags alone decide; the image's configuration is folded in by [`crate::image::fold`]. `id` is empty.
    #[serde(skip_serializing_if = "unset")]
    pub options: Options,
    /// COMMAND and its arguments; empty for the image's own.
    #[serde(with = "words", skip_serializing_if = "unset")]
    pub command: Vec<OsString>,
    /// `--entrypoint`; an empty one drops the image's.
    #[serde(with = "word", skip_serializing_if = "unset")]
    pub entrypoint: Option<OsString>,
    /// `--user`; the image's when absent.
    #[serde(skip_serializing_if = "unset")]
    pub user: Option<String>,
    /// The variables of `--env-file`, which yield to those of `-e`.
    #[serde(with = "words", skip_serializing_if = "unset")]
    pub env_file: Vec<OsString>,
    /// The variables of `-e`.
    #[serde(with = "words", skip_serializing_if = "unset")]
    pub env: Vec<OsString>,
    /// `--stop-signal`; the image's when absent.
    #[serde(skip_serializing_if = "unset")]
    pub stop_signal: Option<i32>,
    /// `--stop-timeout`, s; never killed when absent.
    pub stop_timeout_s: Option<u64>,
    /// `--timeout`, s: how long it may run.
    #[serde(skip_serializing_if = "unset")]
    pub timeout_s: Option<u64>,
    /// `--rm`: the container goes when it ends.
    #[serde(skip_serializing_if = "unset")]
    pub auto_remove: bool,
    /// `--restart`.
    #[serde(skip_serializing_if = "unset")]
    pub restart: Restart,
    /// `--health-*` and `--no-healthcheck`.
    #[serde(skip_serializing_if = "unset")]
    pub health: HealthSpec,
    /// `--log-driver` and `--log-opt`.
    #[serde(skip_serializing_if = "unset")]
    pub log: LogSpec,
    /// `--prefetch`.
    #[serde(skip_serializing_if = "unset")]
    pub prefetch: crate::prefetch::Mode,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            image: String::new(),
            options: Options::default(),
            command: Vec::new(),
            entrypoint: None,
            user: None,
            env_file: Vec::new(),
            env: Vec::new(),
            stop_signal: None,
            stop_timeout_s: Some(10),
            timeout_s: None,
            auto_remove: false,
            restart: Restart::default(),
            health: HealthSpec::default(),
            log: LogSpec::default(),
            prefetch: crate::prefetch::Mode::default(),
        }
    }
}

/// Whether a container that has ended is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// It is not.
    #[default]
    No,
    /// If it has failed, this many times at most; without a limit when absent.
    OnFailure(Option<u32>),
    /// It is, unless it was stopped; and when the daemon comes up again it is in any case.
    Always,
    /// It is, unless it was stopped, also when the daemon comes up again.
    UnlessStopped,
}

/// How the container's health is found out. Absent fields are the image's, else docker's defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthSpec {
    /// What is done; `None` is the image's, if it has one.
    #[serde(skip_serializing_if = "unset")]
    pub test: Option<HealthTest>,
    /// Between checks; 30 s.
    #[serde(skip_serializing_if = "unset")]
    pub interval: Option<Duration>,
    /// For one check; 30 s.
    #[serde(skip_serializing_if = "unset")]
    pub timeout: Option<Duration>,
    /// How long failures do not count; 0 s.
    #[serde(skip_serializing_if = "unset")]
    pub start_period: Option<Duration>,
    /// Between checks in that time; 5 s.
    #[serde(skip_serializing_if = "unset")]
    pub start_interval: Option<Duration>,
    /// How many failures in a row make it unhealthy; 3.
    #[serde(skip_serializing_if = "unset")]
    pub retries: Option<u32>,
}

/// One kind of check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HealthTest {
    /// None, whatever the image says.
    None,
    /// A program in the container, healthy if it exits with 0.
    Command(Vec<String>),
    /// `/bin/sh -c` of this text.
    Shell(String),
    /// A TCP connection to this port in the container's network namespace.
    Tcp(u16),
    /// A GET of this path at this port; healthy from 200 to 399.
    Http {
        /// The port.
        port: u16,
        /// Begins with a slash.
        path: String,
    },
}

/// Where the container's output goes when nobody's streams are its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogSpec {
    /// Which driver.
    pub driver: LogDriver,
    /// `max-size`: bytes of one file, 10 MiB.
    pub max_bytes: u64,
    /// `max-file`: how many files, 3.
    pub max_files: u32,
}

impl Default for LogSpec {
    fn default() -> Self {
        Self { driver: LogDriver::File, max_bytes: 10 << 20, max_files: 3 }
    }
}

/// `--log-driver`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogDriver {
    /// Nowhere.
    None,
    /// Bounded files of the engine's.
    #[default]
    File,
    /// systemd's journal.
    Journald,
}

/// One word that need not be UTF-8, as a list of at most one.
mod word {
    use std::ffi::OsString;

    use serde::{Deserializer, Serializer};
    use skiff_runtime::options::words;

    pub(super) fn serialize<S: Serializer>(word: &Option<OsString>, to: S) -> Result<S::Ok, S::Error> {
        words::serialize(word.as_slice(), to)
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Option<OsString>, D::Error> {
        words::deserialize(from).map(|mut words| words.pop())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_survives_being_sent() {
        let spec = Spec {
            image: "web".into(),
            entrypoint: Some("tini".into()),
            restart: Restart::OnFailure(Some(3)),
            health: HealthSpec { test: Some(HealthTest::Tcp(80)), ..HealthSpec::default() },
            ..Spec::default()
        };
        let sent = serde_json::to_string(&spec).expect("write");
        assert_eq!(serde_json::from_str::<Spec>(&sent).expect("read"), spec);
        assert_eq!(serde_json::from_str::<Spec>("{}").expect("read"), Spec::default());
        for spec in [
            Spec::default(),
            Spec { stop_timeout_s: None, ..Spec::default() },
            Spec {
                auto_remove: true,
                log: LogSpec { max_files: 1, ..LogSpec::default() },
                ..Spec::default()
            },
        ] {
            let sent = serde_json::to_string(&spec).expect("write");
            assert_eq!(serde_json::from_str::<Spec>(&sent).expect("read"), spec, "{sent}");
        }
        let plain = serde_json::to_string(&Spec::default()).expect("write");
        assert_eq!(plain, r#"{"stop_timeout_s":10}"#);
    }
}
