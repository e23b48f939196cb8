//! What `skiff ps` shows of a container, in docker's words. Pure.

use serde_json::{Value, json};

use crate::format::units::{date, ellipsis, span};

/// The usual table.
pub(super) const USUAL: &str =
    "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}";

/// What is shown of a command unless all of it is wanted, in characters.
const COMMAND_CHARACTERS: usize = 20;

/// The same of a mount's source.
const MOUNT_CHARACTERS: usize = 15;

/// What the fields of a row are called above their columns.
pub(crate) fn names() -> Value {
    json!({
        "ID": "CONTAINER ID", "Names": "NAMES", "Image": "IMAGE", "Command": "COMMAND", "CreatedAt": "CREATED AT",
        "RunningFor": "CREATED", "Ports": "PORTS", "State": "STATE", "Status": "STATUS", "Size": "SIZE",
        "Labels": "LABELS", "Mounts": "MOUNTS", "LocalVolumes": "LOCAL VOLUMES", "Networks": "NETWORKS",
    })
}

/// The row of a container that the daemon describes by `container`, at the time `now_ns` since 1970.
pub(crate) fn row(container: &Value, now_ns: u64, no_trunc: bool) -> Value {
    let text = |field: &str| container[field].as_str().unwrap_or_default();
    let (id, command) = (text("Id"), text("Command"));
    let cut = |text: &str, characters| if no_trunc { text.to_owned() } else { ellipsis(text, characters) };
    let created_ns = container["CreatedNs"].as_u64().unwrap_or(0);
    let mounts: Vec<&Value> = container["Mounts"].as_array().into_iter().flatten().collect();
    let mount = |mount: &&Value| {
        let name = mount["Name"].as_str().filter(|name| !name.is_empty()).or(mount["Source"].as_str());
        cut(name.unwrap_or_default(), MOUNT_CHARACTERS)
    };
    let volumes = mounts.iter().filter(|mount| mount["Type"] == "volume").count();
    json!({
        "ID": if no_trunc { id } else { id.get(..12).unwrap_or(id) },
        "Names": list(&container["Names"], |name| name.trim_start_matches('/').to_owned()),
        "Image": text("Image"),
        "Command": format!("{:?}", cut(command, COMMAND_CHARACTERS)),
        "CreatedAt": date(created_ns),
        "RunningFor": format!("{} ago", span(now_ns, created_ns)),
        "Ports": "",
        "State": text("State"),
        "Status": status(container, now_ns),
        "Size": "0B",
        "Labels": labels(&container["Labels"]),
        "Mounts": mounts.iter().map(mount).collect::<Vec<_>>().join(","),
        "LocalVolumes": volumes.to_string(),
        "Networks": container["HostConfig"]["NetworkMode"].as_str().unwrap_or_default(),
    })
}

/// What it is doing, and since when.
fn status(container: &Value, now_ns: u64) -> String {
    let since = |field: &str| span(now_ns, container[field].as_u64().unwrap_or(now_ns));
    let code = container["ExitCode"].as_u64().unwrap_or(0);
    match container["State"].as_str().unwrap_or_default() {
        "running" => {
            let health = match container["Health"].as_str().unwrap_or_default() {
                "" | "none" => String::new(),
                "starting" => " (health: starting)".to_owned(),
                health => format!(" ({health})"),
            };
            format!("Up {}{health}", since("StartedNs"))
        }
        "paused" => format!("Up {} (Paused)", since("StartedNs")),
        "restarting" => format!("Restarting ({code}) {} ago", since("FinishedNs")),
        "exited" => format!("Exited ({code}) {} ago", since("FinishedNs")),
        "created" => "Created".into(),
        "removing" => "Removal In Progress".into(),
        "dead" => "Dead".into(),
        other => other.to_owned(),
    }
}

fn list(values: &Value, show: impl Fn(&str) -> String) -> String {
    let values = values.as_array().into_iter().flatten().filter_map(Value::as_str);
    values.map(show).collect::<Vec<_>>().join(",")
}

/// `a=b,c=d`.
fn labels(labels: &Value) -> String {
    let pairs = labels.as_object().into_iter().flatten();
    let show = |(key, value): (&String, &Value)| format!("{key}={}", value.as_str().unwrap_or_default());
    pairs.map(show).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn a_row_has_docker_s_words() {
        let container = json!({
            "Id": "0123456789abcdef", "Names": ["/web"], "Image": "host", "Command": "sh -c 'echo \"a long command\"'",
            "CreatedNs": 951_827_696 * S, "StartedNs": 951_827_700 * S, "State": "running", "Health": "healthy",
            "Labels": {"a": "b", "c": "d"}, "HostConfig": {"NetworkMode": "none"},
            "Mounts": [{"Type": "bind", "Source": "/a/very/long/path/on/the/host"}, {"Type": "volume", "Name": "v"}],
        });
        let row = row(&container, 951_827_760 * S, false);
        let check = |field: &str, expected: &str| assert_eq!(row[field], expected, "{field}");
        check("ID", "0123456789ab");
        check("Names", "web");
        check("Command", "\"sh -c 'echo \\\"a long…\"");
        check("CreatedAt", "2000-02-29 12:34:56 +0000 UTC");
        check("RunningFor", "About a minute ago");
        check("Status", "Up About a minute (healthy)");
        check("Labels", "a=b,c=d");
        check("Mounts", "/a/very/long/p…,v");
        check("LocalVolumes", "1");
        check("Networks", "none");
        let names = names();
        assert!(row.as_object().expect("an object").keys().all(|field| names[field].is_string()));
    }

    #[test]
    fn a_status_says_how_it_is() {
        let check = |container: Value, expected: &str| assert_eq!(status(&container, 70 * S), expected);
        check(
            json!({"State": "exited", "ExitCode": 137, "FinishedNs": 65 * S}),
            "Exited (137) 5 seconds ago",
        );
        check(
            json!({"State": "restarting", "ExitCode": 1, "FinishedNs": 69 * S}),
            "Restarting (1) 1 second ago",
        );
        check(json!({"State": "paused", "StartedNs": 60 * S}), "Up 10 seconds (Paused)");
        check(
            json!({"State": "running", "StartedNs": 60 * S, "Health": "starting"}),
            "Up 10 seconds (health: starting)",
        );
        check(json!({"State": "created"}), "Created");
    }
}
