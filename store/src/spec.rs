//! The JSON documents of images: OCI's index, manifest and configuration, and docker save's manifest list.
//!
//! Only what is used is read, and null counts as absent, because writers differ; what an image needs to be run
//! safely (digests, sizes) is required.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use crate::digest::Digest;
use crate::{Healthcheck, ImageConfig, Platform};

/// A reference to a blob by digest.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) platform: Option<Platform>,
    /// Where a layer can be had that registries do not keep.
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) urls: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// An index (manifest list) or a manifest: which one shows in the fields that are there.
#[derive(Debug, Deserialize)]
pub(crate) struct Parts {
    pub(crate) manifests: Option<Vec<Descriptor>>,
    pub(crate) config: Option<Descriptor>,
    pub(crate) layers: Option<Vec<Descriptor>>,
}

/// One image of `manifest.json` in a docker archive; names are members of the archive.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Saved {
    pub(crate) config: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) layers: Vec<String>,
}

/// An image's configuration.
#[derive(Debug, Deserialize)]
pub(crate) struct Configuration {
    #[serde(flatten)]
    pub(crate) platform: Platform,
    /// RFC 3339, as its maker wrote it.
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) created: String,
    #[serde(default, deserialize_with = "or_default")]
    config: Execution,
    pub(crate) rootfs: RootFs,
}

/// The contents of the layers, bottom first.
#[derive(Debug, Deserialize)]
pub(crate) struct RootFs {
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) diff_ids: Vec<Digest>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Execution {
    #[serde(deserialize_with = "or_default")]
    env: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    entrypoint: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    cmd: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    user: String,
    #[serde(deserialize_with = "or_default")]
    working_dir: String,
    stop_signal: Option<String>,
    #[serde(deserialize_with = "or_default")]
    volumes: BTreeMap<String, serde::de::IgnoredAny>,
    #[serde(deserialize_with = "or_default")]
    labels: BTreeMap<String, String>,
    healthcheck: Option<Healthcheck>,
}

impl From<Configuration> for ImageConfig {
    fn from(configuration: Configuration) -> Self {
        let it = configuration.config;
        Self {
            env: it.env,
            entrypoint: it.entrypoint,
            cmd: it.cmd,
            user: it.user,
            working_dir: it.working_dir,
            stop_signal: it.stop_signal.filter(|signal| !signal.is_empty()),
            volumes: it.volumes.into_keys().collect(),
            labels: it.labels.into_iter().collect(),
            healthcheck: it.healthcheck,
        }
    }
}

pub(crate) fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    from: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_is_read_whole() {
        let text = r#"{"architecture":"amd64","os":"linux","created":null,"history":[{"x":1}],"config":{
            "Env":["A=b"],"Entrypoint":["/e"],"Cmd":["c"],"User":"1:2","WorkingDir":"/w","StopSignal":"SIGQUIT",
            "Volumes":{"/v2":{},"/v1":{}},"Labels":{"k":"v"},
            "Healthcheck":{"Test":["CMD","/check"],"Interval":5000000000,"Timeout":null,"Retries":2}},
            "rootfs":{"type":"layers","diff_ids":[]}}"#;
        let config = ImageConfig::from(serde_json::from_str::<Configuration>(text).unwrap());
        assert_eq!(
            config,
            ImageConfig {
                env: vec!["A=b".into()],
                entrypoint: vec!["/e".into()],
                cmd: vec!["c".into()],
                user: "1:2".into(),
                working_dir: "/w".into(),
                stop_signal: Some("SIGQUIT".into()),
                volumes: vec!["/v1".into(), "/v2".into()],
                labels: vec![("k".into(), "v".into())],
                healthcheck: Some(Healthcheck {
                    test: vec!["CMD".into(), "/check".into()],
                    interval_ns: 5_000_000_000,
                    retries: 2,
                    ..Healthcheck::default()
                }),
            }
        );
    }

    #[test]
    fn null_counts_as_absent() {
        for text in [
            r#"{"rootfs":{}}"#,
            r#"{"config":null,"rootfs":{"diff_ids":null}}"#,
            r#"{"os":null,"config":{"Env":null,"Entrypoint":null,"Cmd":null,"User":null,"WorkingDir":null,
                "StopSignal":"","Volumes":null,"Labels":null,"Healthcheck":null},"rootfs":{}}"#,
        ] {
            let config = ImageConfig::from(serde_json::from_str::<Configuration>(text).unwrap());
            assert_eq!(config, ImageConfig::default(), "{text}");
        }
    }

    #[test]
    fn no_root_file_system_is_no_image() {
        assert!(serde_json::from_str::<Configuration>("{}").is_err());
    }
}
