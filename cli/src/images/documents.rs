//! What is told of an image, with docker's fields. Pure.

use serde_json::{Map, Value, json};

use crate::values::time;

/// An image, as the store has it.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    /// `sha256:…` of the configuration.
    pub(super) id: String,
    /// The way docker prints them: `alpine:latest`.
    pub(super) tags: Vec<String>,
    /// `alpine@sha256:…`.
    pub(super) digests: Vec<String>,
    /// The configuration, as it was written.
    pub(super) configuration: Value,
    /// Bytes of each layer's files, bottom first.
    pub(super) layers: Vec<u64>,
    /// Where the layers are, top first.
    pub(super) directories: Vec<String>,
    /// Since when it has one of its names, seconds since 1970.
    pub(super) tagged_s: u64,
}

/// One line of a list: all that can be filtered by or shown in a table. The fields of docker's `/images/json`, and
/// `CreatedNs`.
pub(super) fn summary(image: &Known) -> Value {
    let created_ns = created_ns(&image.configuration["created"]);
    json!({
        "Id": image.id,
        "ParentId": "",
        "RepoTags": image.tags,
        "RepoDigests": image.digests,
        "Created": created_ns.unwrap_or(0) / 1_000_000_000,
        "CreatedNs": created_ns,
        "Size": size(image),
        "SharedSize": null,
        "Labels": image.configuration["config"]["Labels"],
        "Containers": null,
    })
}

/// Everything: the document of docker's `image inspect`.
pub(super) fn inspect(image: &Known) -> Value {
    let configuration = &image.configuration;
    let text = |field: &str| configuration[field].as_str().unwrap_or_default();
    let list = |field: &str| configuration["rootfs"][field].as_array().cloned().unwrap_or_default();
    let last = configuration["history"].as_array().and_then(|all| all.last());
    let mut document = json!({
        "Id": image.id,
        "RepoTags": image.tags,
        "RepoDigests": image.digests,
        "Parent": "",
        "Comment": last.and_then(|step| step["comment"].as_str()).unwrap_or_default(),
        "Created": text("created"),
        "DockerVersion": text("docker_version"),
        "Author": text("author"),
        "Config": config(&configuration["config"]),
        "Architecture": text("architecture"),
        "Os": text("os"),
        "Size": size(image),
        "GraphDriver": { "Name": "overlay", "Data": directories(&image.directories) },
        "RootFS": { "Type": "layers", "Layers": list("diff_ids") },
        "Metadata": { "LastTagTime": skiff_engine::log::stamp::rfc3339(image.tagged_s * 1_000_000_000) },
    });
    match text("variant") {
        "" => {}
        variant => document["Variant"] = variant.into(),
    }
    document
}

/// How the image came to be, the newest step first, as docker's `/images/ID/history` has it.
pub(super) fn history(image: &Known) -> Vec<Value> {
    let told = image.configuration["history"].as_array().cloned().unwrap_or_default();
    let mut sizes = image.layers.iter();
    let mut steps: Vec<Value> = told
        .iter()
        .map(|step| {
            let is_empty = step["empty_layer"].as_bool().unwrap_or(false);
            json!({
                "CreatedNs": created_ns(&step["created"]),
                "CreatedBy": step["created_by"].as_str().unwrap_or_default(),
                "Comment": step["comment"].as_str().unwrap_or_default(),
                "Size": if is_empty { 0 } else { sizes.next().copied().unwrap_or(0) },
            })
        })
        .collect();
    // Layers that the history does not tell of.
    steps
        .extend(sizes.map(|size| json!({ "CreatedNs": null, "CreatedBy": "", "Comment": "", "Size": size })));
    steps.reverse();
    for (at, step) in steps.iter_mut().enumerate() {
        step["Id"] = if at == 0 { image.id.as_str().into() } else { "<missing>".into() };
        step["Tags"] = if at == 0 { json!(image.tags) } else { Value::Null };
    }
    steps
}

/// The bytes of all files. A layer that is there twice is on the disk once, but docker counts it twice, too.
fn size(image: &Known) -> u64 {
    image.layers.iter().sum()
}

/// When something was made, ns since 1970; nothing for what is before, or says nothing.
pub(super) fn created_ns(text: &Value) -> Option<u64> {
    text.as_str().filter(|text| text.contains('T')).and_then(|text| time::moment(text, 0).ok())
}

/// The configuration for containers, with all of docker's fields.
fn config(own: &Value) -> Value {
    let mut config = json!({
        "Hostname": "", "Domainname": "", "User": "", "AttachStdin": false, "AttachStdout": false, "AttachStderr": false,
        "Tty": false, "OpenStdin": false, "StdinOnce": false, "Env": null, "Cmd": null, "Image": "", "Volumes": null,
        "WorkingDir": "", "Entrypoint": null, "OnBuild": null, "Labels": null,
    });
    if let (Value::Object(all), Value::Object(own)) = (&mut config, own) {
        all.extend(
            own.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.clone(), value.clone())),
        );
    }
    config
}

fn directories(top_first: &[String]) -> Value {
    let mut data = Map::new();
    if let [top, lower @ ..] = top_first {
        if !lower.is_empty() {
            data.insert("LowerDir".into(), lower.join(":").into());
        }
        data.insert("UpperDir".into(), top.as_str().into());
    }
    data.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Known {
        Known {
            id: "sha256:aa".into(),
            tags: vec!["web:1".into()],
            digests: vec![],
            configuration: json!({
                "created": "1970-01-01T00:00:03.5Z", "architecture": "arm", "variant": "v7", "os": "linux",
                "config": {"Env": ["A=b"], "Labels": {"k": "v"}, "Cmd": null},
                "rootfs": {"type": "layers", "diff_ids": ["sha256:11", "sha256:22"]},
                "history": [
                    {"created": "1970-01-01T00:00:01Z", "created_by": "ADD base"},
                    {"created_by": "ENV A=b", "empty_layer": true},
                ],
            }),
            layers: vec![100, 20],
            directories: vec!["/l/22".into(), "/l/11".into()],
            tagged_s: 1,
        }
    }

    #[test]
    fn a_summary_has_what_lists_show() {
        let summary = summary(&image());
        assert_eq!((&summary["CreatedNs"], &summary["Size"]), (&3_500_000_000_u64.into(), &120.into()));
        assert_eq!((&summary["Labels"]["k"], &summary["RepoTags"]), (&"v".into(), &json!(["web:1"])));
        let nothing = super::summary(&Known::default());
        assert_eq!((&nothing["CreatedNs"], &nothing["Created"]), (&Value::Null, &0.into()));
    }

    #[test]
    fn a_document_has_docker_s_fields() {
        let document = inspect(&image());
        assert_eq!((&document["Variant"], &document["Config"]["Env"]), (&"v7".into(), &json!(["A=b"])));
        assert_eq!((&document["Config"]["User"], &document["Config"]["Cmd"]), (&"".into(), &Value::Null));
        assert_eq!(document["GraphDriver"]["Data"], json!({"UpperDir": "/l/22", "LowerDir": "/l/11"}));
        assert_eq!(document["RootFS"]["Layers"], json!(["sha256:11", "sha256:22"]));
        assert_eq!(document["Metadata"]["LastTagTime"], "1970-01-01T00:00:01.000000000Z");
        assert!(inspect(&Known::default()).get("Variant").is_none());
    }

    #[test]
    fn history_gives_layers_to_the_steps_that_made_them() {
        let shown: Vec<String> = history(&image())
            .iter()
            .map(|step| format!("{} {} {}", step["Id"], step["CreatedBy"], step["Size"]).replace('"', ""))
            .collect();
        // The layer that nobody tells of lies on top.
        assert_eq!(shown, ["sha256:aa  20", "<missing> ENV A=b 0", "<missing> ADD base 100"]);
        assert!(history(&Known::default()).is_empty());
    }

    #[test]
    fn dates_of_images_may_say_nothing() {
        assert_eq!(created_ns(&"2006-01-01T00:00:00Z".into()), Some(1_136_073_600_000_000_000));
        for text in ["0001-01-01T00:00:00Z", "", "yesterday", "10s"] {
            assert_eq!(created_ns(&text.into()), None, "{text}");
        }
        assert_eq!(created_ns(&Value::Null), None);
    }
}
