//! What is told of a container, with docker's fields. Pure.

use std::path::Path;

use serde_json::{Map, Value, json};
use skiff_runtime::options::{Device, Mount, Namespace, Options, Propagation, Rootfs, Seccomp, Ulimit};
use skiff_runtime::plan;

use crate::figures::Figures;
use crate::health::Health;
use crate::log::stamp::rfc3339;
use crate::spec::{HealthSpec, HealthTest, LogDriver, Restart};
use crate::{Record, State};

/// One line of a list: all that can be filtered by or shown in a table. The fields of docker's `/containers/json`, and those
/// that it has words for only (`StartedNs`, `FinishedNs`, `ExitCode`, `Health`).
#[must_use]
pub fn summary(record: &Record) -> Value {
    let options = &record.spec.options;
    json!({
        "Id": record.id,
        "Names": [format!("/{}", record.name)],
        "Image": record.spec.image,
        "ImageID": record.image_id.as_deref().unwrap_or_default(),
        "Command": command(options),
        "Created": record.created_ns / 1_000_000_000,
        "CreatedNs": record.created_ns,
        "StartedNs": record.started_ns,
        "FinishedNs": record.finished_ns,
        "State": record.state,
        "Health": record.health.as_ref().map_or("", |health| health.status.word()),
        "ExitCode": record.exit_code,
        "Ports": [],
        "Labels": object(&options.labels),
        "Mounts": mounts(options),
        "HostConfig": { "NetworkMode": network(options) },
        "NetworkSettings": { "Networks": { network(options): {} } },
    })
}

/// Everything: the document of docker's `inspect`, and `Figures`: what it uses `now`, else what it had used by its end. `directory` is the
/// container's own.
#[must_use]
pub fn inspect(record: &Record, now: Option<&Figures>, directory: &Path) -> Value {
    let options = &record.spec.options;
    let argv: Vec<String> = options.argv.iter().map(|word| lossy(word.as_ref())).collect();
    let is_logged = record.spec.log.driver == LogDriver::File;
    json!({
        "Id": record.id,
        "Created": time(record.created_ns),
        "Path": argv.first().map_or("", String::as_str),
        "Args": argv.get(1..).unwrap_or_default(),
        "State": state(record),
        "Image": record.image_id.as_deref().unwrap_or_default(),
        "ResolvConfPath": "",
        "HostnamePath": "",
        "HostsPath": "",
        "LogPath": if is_logged { directory.join("log").display().to_string() } else { String::new() },
        "Name": format!("/{}", record.name),
        "RestartCount": record.restart_count,
        "Driver": "overlay",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": null,
        "HostConfig": host_config(record),
        "GraphDriver": { "Name": "overlay", "Data": layers(options, directory) },
        "Mounts": mounts(options),
        "Config": config(record, &argv),
        "NetworkSettings": network_settings(options),
        "Figures": now.or(record.figures.as_deref()),
    })
}

/// A capability's name in full, as docker shows it.
fn capability(name: &str) -> String {
    let name = name.to_ascii_uppercase();
    if name == "ALL" || name.starts_with("CAP_") { name } else { format!("CAP_{name}") }
}

/// Program and arguments as one text; what has spaces is quoted.
fn command(options: &Options) -> String {
    let words = options.argv.iter().enumerate().map(|(at, word)| {
        let word = lossy(word.as_ref());
        if at > 0 && word.contains(' ') { format!("'{word}'") } else { word }
    });
    words.collect::<Vec<_>>().join(" ")
}

fn state(record: &Record) -> Value {
    let is_restarting = record.state == State::Restarting;
    let mut state = json!({
        "Status": record.state,
        "Running": record.state.is_live() || is_restarting,
        "Paused": record.state == State::Paused,
        "Restarting": is_restarting,
        "OOMKilled": record.is_oom_killed,
        "Dead": record.state == State::Dead,
        "Pid": record.process.as_ref().map_or(0, |process| process.pid),
        "ExitCode": record.exit_code,
        "Error": record.error,
        "StartedAt": time(record.started_ns),
        "FinishedAt": time(record.finished_ns),
    });
    if let Some(health) = &record.health {
        state["Health"] = self::health(health);
    }
    state
}

fn health(health: &Health) -> Value {
    let results = health.log.iter().map(|result| {
        json!({
            "Start": time(result.start_ns),
            "End": time(result.end_ns),
            "ExitCode": result.exit_code,
            "Output": result.output,
        })
    });
    json!({
        "Status": health.status.word(),
        "FailingStreak": health.failing_streak,
        "Log": results.collect::<Vec<_>>(),
    })
}

fn host_config(record: &Record) -> Value {
    let (spec, options) = (&record.spec, &record.spec.options);
    let log = &spec.log;
    let (driver, settings) = match log.driver {
        LogDriver::None => ("none", json!({})),
        LogDriver::Journald => ("journald", json!({})),
        LogDriver::File => {
            ("file", json!({ "max-size": log.max_bytes.to_string(), "max-file": log.max_files.to_string() }))
        }
    };
    let (restart, most) = match spec.restart {
        Restart::No => ("no", 0),
        Restart::OnFailure(most) => ("on-failure", most.unwrap_or(0)),
        Restart::Always => ("always", 0),
        Restart::UnlessStopped => ("unless-stopped", 0),
    };
    let is_open = options.privileged || options.systempaths_unconfined;
    let hidden = |paths: &[&str]| -> Vec<String> {
        paths.iter().filter(|_| !is_open).map(|path| format!("/{path}")).collect()
    };
    let mut config = json!({
        "Binds": list(options.mounts.iter().filter_map(bind).collect()),
        "ContainerIDFile": "",
        "LogConfig": { "Type": driver, "Config": settings },
        "NetworkMode": network(options),
        "PortBindings": {},
        "RestartPolicy": { "Name": restart, "MaximumRetryCount": most },
        "AutoRemove": spec.auto_remove,
        "CapAdd": list(options.cap_add.iter().map(|name| capability(name)).collect()),
        "CapDrop": list(options.cap_drop.iter().map(|name| capability(name)).collect()),
        "CgroupnsMode": if options.cgroupns == Namespace::Host { "host" } else { "private" },
        "GroupAdd": list(options.group_add.clone()),
        "IpcMode": if options.ipc == Namespace::Host { "host" } else { "private" },
        "PidMode": host(options.pid),
        "UTSMode": host(options.uts),
        "UsernsMode": "",
        "Privileged": options.privileged,
        "PublishAllPorts": false,
        "ReadonlyRootfs": options.read_only,
        "SecurityOpt": list(security(options)),
        "Tmpfs": tmpfs(options),
        "ShmSize": options.shm_size_bytes,
        "Sysctls": object(&options.sysctls),
        "Runtime": "skiff",
        "Init": options.init,
        "OomScoreAdj": options.oom_score_adj.unwrap_or(0),
        "MaskedPaths": hidden(&plan::MASKED),
        "ReadonlyPaths": hidden(&plan::READ_ONLY),
    });
    if let (Value::Object(all), Value::Object(limits)) = (&mut config, limits(options)) {
        all.extend(limits);
    }
    config
}

fn limits(options: &Options) -> Value {
    let limits = &options.resources;
    let ulimit =
        |limit: &Ulimit| json!({ "Name": limit.name, "Soft": size(limit.soft), "Hard": size(limit.hard) });
    let device = |device: &Device| {
        json!({
            "PathOnHost": device.source.display().to_string(),
            "PathInContainer": device.target.display().to_string(),
            "CgroupPermissions": device.access,
        })
    };
    json!({
        "Memory": limits.memory_bytes.unwrap_or(0),
        "MemorySwap": limits.memory_swap_bytes.unwrap_or(0),
        "MemoryReservation": limits.memory_reservation_bytes.unwrap_or(0),
        "NanoCpus": limits.nano_cpus.unwrap_or(0),
        "CpuShares": limits.cpu_shares.unwrap_or(0),
        "CpuPeriod": limits.cpu_period_us.unwrap_or(0),
        "CpuQuota": limits.cpu_quota_us.unwrap_or(0),
        "CpusetCpus": limits.cpuset_cpus.as_deref().unwrap_or_default(),
        "CpusetMems": limits.cpuset_mems.as_deref().unwrap_or_default(),
        "PidsLimit": limits.pids_limit,
        "BlkioWeight": limits.blkio_weight.unwrap_or(0),
        "Ulimits": options.ulimits.iter().map(ulimit).collect::<Vec<_>>(),
        "Devices": options.devices.iter().map(device).collect::<Vec<_>>(),
    })
}

fn config(record: &Record, argv: &[String]) -> Value {
    let (spec, options) = (&record.spec, &record.spec.options);
    let entrypoint =
        spec.entrypoint.as_ref().map(|word| lossy(word.as_ref())).filter(|word| !word.is_empty());
    let own = usize::from(entrypoint.is_some());
    let env: Vec<String> = options.env.iter().map(|word| lossy(word.as_ref())).collect();
    let short = record.id.get(..12).unwrap_or(&record.id);
    let volumes: Map<String, Value> = options.mounts.iter().filter_map(volume).collect();
    let mut config = json!({
        "Hostname": options.hostname.as_deref().unwrap_or(short),
        "Domainname": options.domainname.as_deref().unwrap_or_default(),
        "User": options.user,
        "AttachStdin": false,
        "AttachStdout": false,
        "AttachStderr": false,
        "Tty": options.tty,
        "OpenStdin": options.interactive,
        "StdinOnce": false,
        "Env": env,
        "Cmd": list(argv.get(own..).unwrap_or_default().to_vec()),
        "Image": spec.image,
        "Volumes": if volumes.is_empty() { Value::Null } else { volumes.into() },
        "WorkingDir": options.cwd.display().to_string(),
        "Entrypoint": list(entrypoint.into_iter().collect()),
        "OnBuild": null,
        "Labels": object(&options.labels),
        "StopSignal": skiff_runtime::signals::name(record.stop_signal),
    });
    if let Some(seconds) = spec.stop_timeout_s {
        config["StopTimeout"] = seconds.into();
    }
    if let Some(check) = healthcheck(&spec.health) {
        config["Healthcheck"] = check;
    }
    config
}

fn healthcheck(spec: &HealthSpec) -> Option<Value> {
    let words = |kind: &str, rest: &[String]| -> Vec<String> {
        [kind].into_iter().map(String::from).chain(rest.iter().cloned()).collect()
    };
    let test = match spec.test.as_ref()? {
        HealthTest::None => words("NONE", &[]),
        HealthTest::Command(argv) => words("CMD", argv),
        HealthTest::Shell(text) => words("CMD-SHELL", std::slice::from_ref(text)),
        HealthTest::Tcp(port) => words("TCP", &[port.to_string()]),
        HealthTest::Http { port, path } => words("HTTP", &[format!("{port}{path}")]),
    };
    let mut check = Map::from_iter([("Test".to_owned(), test.into())]);
    let times = [
        ("Interval", spec.interval),
        ("Timeout", spec.timeout),
        ("StartPeriod", spec.start_period),
        ("StartInterval", spec.start_interval),
    ];
    for (name, time) in times {
        let ns = time.and_then(|time| u64::try_from(time.as_nanos()).ok());
        check.extend(ns.map(|ns| (name.to_owned(), ns.into())));
    }
    check.extend(spec.retries.map(|retries| ("Retries".to_owned(), retries.into())));
    Some(check.into())
}

fn mounts(options: &Options) -> Vec<Value> {
    let one = |mount: &Mount| {
        let target = mount.target().display().to_string();
        match mount {
            Mount::Bind { source, read_only, propagation, .. } => json!({
                "Type": "bind",
                "Source": source.display().to_string(),
                "Destination": target,
                "Mode": "",
                "RW": !read_only,
                "Propagation": match propagation {
                    Propagation::Private => "rprivate",
                    Propagation::Slave => "rslave",
                    Propagation::Shared => "rshared",
                },
            }),
            Mount::Tmpfs { .. } => json!({
                "Type": "tmpfs", "Source": "", "Destination": target, "Mode": "", "RW": true, "Propagation": "",
            }),
            Mount::Volume { read_only, .. } => json!({
                "Type": "volume", "Name": "", "Source": "", "Destination": target, "Driver": "local", "Mode": "",
                "RW": !read_only, "Propagation": "",
            }),
        }
    };
    // docker lists what `--tmpfs` has made elsewhere only.
    options.mounts.iter().filter(|mount| !matches!(mount, Mount::Tmpfs { .. })).map(one).collect()
}

/// `SOURCE:TARGET[:ro]`.
fn bind(mount: &Mount) -> Option<String> {
    let Mount::Bind { source, target, read_only, .. } = mount else { return None };
    Some(format!("{}:{}{}", source.display(), target.display(), if *read_only { ":ro" } else { "" }))
}

fn volume(mount: &Mount) -> Option<(String, Value)> {
    matches!(mount, Mount::Volume { .. }).then(|| (mount.target().display().to_string(), json!({})))
}

fn tmpfs(options: &Options) -> Value {
    let all = options.mounts.iter().filter_map(|mount| match mount {
        Mount::Tmpfs { target, options } => Some((target.display().to_string(), options.join(",").into())),
        _ => None,
    });
    Value::Object(all.collect())
}

fn security(options: &Options) -> Vec<String> {
    let words = [
        (options.seccomp == Seccomp::Unconfined, "seccomp=unconfined"),
        (matches!(options.seccomp, Seccomp::Profile(_)), "seccomp=profile"),
        (options.no_new_privileges, "no-new-privileges"),
        (options.systempaths_unconfined, "systempaths=unconfined"),
    ];
    words.into_iter().filter(|(is_set, _)| *is_set).map(|(_, word)| word.to_owned()).collect()
}

fn layers(options: &Options, directory: &Path) -> Value {
    let lower = match &options.rootfs {
        Rootfs::Host => "/".to_owned(),
        Rootfs::Layers(layers) => {
            layers.iter().map(|layer| layer.display().to_string()).collect::<Vec<_>>().join(":")
        }
    };
    json!({
        "LowerDir": lower,
        "UpperDir": directory.join("upper").display().to_string(),
        "WorkDir": directory.join("work").display().to_string(),
    })
}

fn network_settings(options: &Options) -> Value {
    json!({
        "Bridge": "",
        "SandboxID": "",
        "SandboxKey": "",
        "Ports": {},
        "Gateway": "",
        "IPAddress": "",
        "IPPrefixLen": 0,
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "MacAddress": "",
        "Networks": {
            network(options): {
                "NetworkID": "", "EndpointID": "", "Gateway": "", "IPAddress": "", "IPPrefixLen": 0, "MacAddress": "",
            },
        },
    })
}

fn network(options: &Options) -> &'static str {
    if options.network == Namespace::Host { "host" } else { "none" }
}

fn host(namespace: Namespace) -> &'static str {
    if namespace == Namespace::Host { "host" } else { "" }
}

/// As docker writes times: no zeros at the end, and year 1 for never.
fn time(time_ns: u64) -> String {
    if time_ns == 0 {
        return "0001-01-01T00:00:00Z".into();
    }
    let text = rfc3339(time_ns);
    let trimmed = text.trim_end_matches('Z').trim_end_matches('0').trim_end_matches('.');
    format!("{trimmed}Z")
}

/// What has no bound is −1.
fn size(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(-1)
}

/// An empty list is `null`, as docker has it.
fn list(words: Vec<String>) -> Value {
    if words.is_empty() { Value::Null } else { words.into() }
}

fn object(pairs: &[(String, String)]) -> Value {
    Value::Object(pairs.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect())
}

fn lossy(word: &std::ffi::OsStr) -> String {
    word.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::Spec;
    use crate::health::{Outcome, Status};
    use crate::record::Process;

    const S: u64 = 1_000_000_000;

    fn record() -> Record {
        let mounts = vec![
            Mount::Bind {
                source: "/srv".into(),
                target: "/data".into(),
                read_only: true,
                recursive: true,
                propagation: Propagation::Private,
                create_source: true,
            },
            Mount::Tmpfs { target: "/run".into(), options: vec!["rw".into(), "size=1m".into()] },
            Mount::Volume { target: "/var/lib".into(), read_only: false },
        ];
        let options = Options {
            argv: ["sh", "-c", "exit 3"].map(Into::into).to_vec(),
            env: vec!["PATH=/bin".into()],
            labels: vec![("a".into(), "b".into())],
            cap_add: vec!["NET_ADMIN".into()],
            mounts,
            ..Options::default()
        };
        let spec =
            Spec { image: "small".into(), options, restart: Restart::OnFailure(Some(5)), ..Spec::default() };
        Record {
            id: "2a2746dabd6104bf".into(),
            name: "web".into(),
            spec,
            stop_signal: 15,
            created_ns: 1_795_314_470 * S + 153_016_800,
            ..Record::default()
        }
    }

    fn inspected(record: &Record) -> Value {
        inspect(record, None, Path::new("/var/lib/skiff/containers/2a"))
    }

    #[test]
    fn documents_have_docker_s_fields() {
        // What `docker inspect` of 20.10 has, without what it has for Windows and what skiff has no word for.
        let fields = [
            (
                "",
                "Id Created Path Args State Image ResolvConfPath HostnamePath HostsPath LogPath Name RestartCount Driver Platform MountLabel ProcessLabel AppArmorProfile ExecIDs HostConfig GraphDriver Mounts Config NetworkSettings Figures",
            ),
            (
                "/State",
                "Status Running Paused Restarting OOMKilled Dead Pid ExitCode Error StartedAt FinishedAt",
            ),
            (
                "/HostConfig",
                "Binds LogConfig NetworkMode PortBindings RestartPolicy AutoRemove CapAdd CapDrop GroupAdd IpcMode OomScoreAdj PidMode Privileged ReadonlyRootfs SecurityOpt UTSMode ShmSize Runtime CpuShares Memory NanoCpus BlkioWeight CpuPeriod CpuQuota CpusetCpus CpusetMems Devices MemoryReservation MemorySwap PidsLimit Ulimits MaskedPaths ReadonlyPaths",
            ),
            (
                "/Config",
                "Hostname Domainname User AttachStdin Tty OpenStdin Env Cmd Image Volumes WorkingDir Entrypoint Labels StopSignal StopTimeout",
            ),
            ("/NetworkSettings", "Ports IPAddress Gateway MacAddress Networks"),
            ("/Mounts/0", "Type Source Destination Mode RW Propagation"),
        ];
        let document = inspected(&record());
        for (place, names) in fields {
            let found = document.pointer(place).and_then(Value::as_object).expect(place);
            for name in names.split(' ') {
                assert!(found.contains_key(name), "{place}/{name}");
            }
        }
    }

    #[test]
    fn documents_tell_what_was_asked_for() {
        let document = inspected(&record());
        let check =
            |place: &str, expected: Value| assert_eq!(document.pointer(place), Some(&expected), "{place}");
        check("/Created", json!("2026-11-22T02:27:50.1530168Z"));
        check("/Path", json!("sh"));
        check("/Args", json!(["-c", "exit 3"]));
        check("/State/Status", json!("created"));
        check("/State/StartedAt", json!("0001-01-01T00:00:00Z"));
        check("/Name", json!("/web"));
        check("/LogPath", json!("/var/lib/skiff/containers/2a/log"));
        check("/HostConfig/Binds", json!(["/srv:/data:ro"]));
        check("/HostConfig/Tmpfs", json!({"/run": "rw,size=1m"}));
        check("/HostConfig/RestartPolicy", json!({"Name": "on-failure", "MaximumRetryCount": 5}));
        check("/HostConfig/CapAdd", json!(["CAP_NET_ADMIN"]));
        check("/HostConfig/CapDrop", Value::Null);
        check("/HostConfig/PidsLimit", Value::Null);
        check("/Mounts/1/Destination", json!("/var/lib"));
        check("/Config/Hostname", json!("2a2746dabd61"));
        check("/Config/Volumes", json!({"/var/lib": {}}));
        check("/Config/Labels", json!({"a": "b"}));
        check("/Config/Cmd", json!(["sh", "-c", "exit 3"]));
        check("/Config/Entrypoint", Value::Null);
        assert_eq!(document.pointer("/State/Health"), None);
        assert_eq!(document.pointer("/Config/Healthcheck"), None);
    }

    #[test]
    fn states_are_told_as_docker_tells_them() {
        let process = Process { pid: 125, ..Process::default() };
        // Status, running, paused, restarting, dead.
        let check = |state: State, expected: [bool; 4]| {
            let process = state.is_live().then(|| process.clone());
            let document = inspected(&Record { state, process, exit_code: 137, ..record() });
            let told = &document["State"];
            let flags = ["Running", "Paused", "Restarting", "Dead"].map(|flag| told[flag] == true);
            assert_eq!((told["Status"].as_str(), flags), (Some(state.word()), expected));
            assert_eq!(told["Pid"], if state.is_live() { 125 } else { 0 });
            assert_eq!(told["ExitCode"], 137);
        };
        check(State::Created, [false, false, false, false]);
        check(State::Running, [true, false, false, false]);
        check(State::Paused, [true, true, false, false]);
        check(State::Restarting, [true, false, true, false]);
        check(State::Exited, [false, false, false, false]);
        check(State::Dead, [false, false, false, true]);
    }

    #[test]
    fn health_is_told_with_its_log() {
        let outcome = Outcome { start_ns: S, end_ns: 2 * S, exit_code: 1, output: "no\n".into() };
        let health = Health { status: Status::Unhealthy, failing_streak: 40, log: [outcome].into() };
        let mut ill = Record { health: Some(health), ..record() };
        ill.spec.health = HealthSpec {
            test: Some(HealthTest::Shell("false".into())),
            interval: Some(Duration::from_secs(1)),
            retries: Some(1),
            ..HealthSpec::default()
        };
        let document = inspected(&ill);
        let log = json!([{
            "Start": "1970-01-01T00:00:01Z", "End": "1970-01-01T00:00:02Z", "ExitCode": 1, "Output": "no\n",
        }]);
        let expected = json!({"Status": "unhealthy", "FailingStreak": 40, "Log": log});
        assert_eq!(document["State"]["Health"], expected);
        let expected = json!({"Test": ["CMD-SHELL", "false"], "Interval": S, "Retries": 1});
        assert_eq!(document["Config"]["Healthcheck"], expected);
        assert_eq!(summary(&ill)["Health"], "unhealthy");
    }

    #[test]
    fn a_summary_has_what_lists_show_and_filters_ask_for() {
        let summary = summary(&Record { image_id: Some("sha256:c7".into()), ..record() });
        let check =
            |place: &str, expected: Value| assert_eq!(summary.pointer(place), Some(&expected), "{place}");
        check("/Names", json!(["/web"]));
        check("/Command", json!("sh -c 'exit 3'"));
        check("/ImageID", json!("sha256:c7"));
        check("/State", json!("created"));
        check("/Health", json!(""));
        check("/Labels/a", json!("b"));
        check("/Mounts/0/Source", json!("/srv"));
        check("/HostConfig/NetworkMode", json!("none"));
        check("/NetworkSettings/Networks", json!({"none": {}}));
        check("/CreatedNs", json!(1_795_314_470 * S + 153_016_800));
    }
}
