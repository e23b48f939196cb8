//! Metrics: what the endpoint tells is what the kernel counts, in the form that Prometheus takes, whatever clients do.

mod dashboard;
mod hostile;
mod http;
mod otlp;
mod pinned;
mod series;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::harness::world::World;
use crate::harness::{Case, Skiff, fixture, installed, need};
use crate::peers::world::eventually;
use http::{ask, get};
use series::{Series, find, read, value};

/// A world whose daemon serves metrics at a port of the loopback interface, and where.
fn served(variables: &[(&str, &str)]) -> (World, String) {
    let world = World::new();
    let mut first =
        world.0.skiff(&["version", "--format", "{{.Server.Metrics}}"]).env("SKIFF_METRICS", "127.0.0.1:0");
    for (name, value) in variables {
        first = first.env(name, value);
    }
    let at = first.output().ok().trim().to_owned();
    (world, at)
}

/// All series there are.
fn scrape(at: &str) -> Vec<Series> {
    let response = get(at, "/metrics", "*/*");
    assert_eq!(response.status, 200, "{response:?}");
    read(&response.body)
}

/// All series as soon as what is cached fits.
fn scraped_when(at: &str, fits: impl Fn(&[Series]) -> bool) -> Vec<Series> {
    assert!(eventually(|| fits(&scrape(at))), "{:#?}", scrape(at));
    scrape(at)
}

/// The cgroup of a container.
fn cgroup(id: &str) -> PathBuf {
    let unified = Path::new("/sys/fs/cgroup/unified");
    let root = if unified.exists() { unified } else { Path::new("/sys/fs/cgroup") };
    root.join(format!("skiff-{id}"))
}

/// CPU time that the kernel has counted, s.
fn cpu_time(id: &str) -> f64 {
    let text = fs::read_to_string(cgroup(id).join("cpu.stat")).expect("it runs");
    let us = text.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse::<f64>().ok());
    us.expect("a figure") / 1e6
}

#[test]
fn a_live_endpoint_has_nothing_that_promtool_complains_of() {
    need!(installed("promtool"), "promtool");
    let (world, at) = served(&[]);
    world.run("web", &["--cpus", "0.5", "-m", "64m", "--health-cmd", "true"], &["probe", "trap"]);
    world.run("other", &[], &["sleep", "1000"]);
    assert_eq!(world.skiff(&["run", "--rm", fixture::small_root(), "sh", "-c", "exit 3"]).code, 3);
    scraped_when(&at, |all| find(all, "container_last_seen", &[]).len() == 2);
    let page = get(&at, "/metrics", "*/*");
    assert_eq!(page.fields["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let lint = Skiff::tool(&["promtool", "check", "metrics"]).stdin(page.body.as_bytes()).output();
    assert_eq!((lint.code, lint.stdout.as_str(), lint.stderr.as_str()), (0, "", ""), "{}", page.body);
    let open = get(&at, "/metrics", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5");
    assert_eq!(open.fields["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(
        open.body.ends_with("\n# EOF\n")
            && open.body.contains("# UNIT container_cpu_usage_seconds seconds\n")
    );
    let names =
        |text: &str| read(text).into_iter().map(|series| (series.name, series.labels)).collect::<Vec<_>>();
    assert_eq!(names(&open.body), names(&page.body), "the same series in both forms");
    let health = get(&at, "/healthz", "*/*");
    assert_eq!((health.status, health.body.as_str()), (200, "ok\n"));
    assert_eq!(get(&at, "/", "*/*").status, 404);
    assert_eq!(ask(&at, "POST", "/metrics", "*/*").status, 405);
    let head = ask(&at, "HEAD", "/metrics", "*/*");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[test]
fn figures_are_those_that_the_kernel_counts() {
    let (world, at) = served(&[]);
    // It has used a while of CPU time when it says so, and uses no more.
    let script = "i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done; dd if=/big of=/dev/null bs=1M count=4 iflag=direct; \
                  echo burnt; exec sleep 1000";
    let data = world.0.dir.join("big");
    fs::write(&data, vec![7; 4 << 20]).expect("a file");
    Skiff::tool(&["sync", &data.display().to_string()]).output().ok();
    let volume = format!("{}:/big:ro", data.display());
    let id = world.run("web", &["--cpus", "0.9", "-m", "64m", "-v", &volume], &["sh", "-c", script]);
    assert!(eventually(|| world.skiff(&["logs", "web"]).stdout.contains("burnt")));
    let name = [("name", "web")];
    let before = cpu_time(&id);
    let first = scraped_when(&at, |all| {
        find(all, "container_cpu_usage_seconds_total", &name)
            .first()
            .is_some_and(|found| found.value >= before)
    });
    let after = cpu_time(&id);
    let used = value(&first, "container_cpu_usage_seconds_total", &[("name", "web"), ("cpu", "total")]);
    assert!(before > 0.0 && (before..=after).contains(&used), "{before} {used} {after}");
    let path = format!("/skiff-{id}");
    let labels = [("name", "web"), ("id", path.as_str()), ("image", fixture::small_root())];
    let of = |figure: &str| value(&first, figure, &labels);
    let parts = of("container_cpu_user_seconds_total") + of("container_cpu_system_seconds_total");
    assert!((parts - used).abs() < 0.01, "{parts} {used}");
    assert_eq!(
        (of("container_spec_memory_limit_bytes"), of("container_spec_cpu_quota")),
        (67_108_864.0, 90_000.0)
    );
    assert_eq!((of("container_processes"), of("container_threads")), (1.0, 1.0));
    let memory = of("container_memory_working_set_bytes");
    assert!(memory > 4096.0 && memory <= of("container_memory_usage_bytes"), "{memory}");
    // Files in memory are read from no device.
    let is_on_disk = fs::metadata(&data).is_ok_and(|it| nix::sys::stat::major(it.dev()) != 0);
    let bytes = of("container_fs_reads_bytes_total");
    assert!(!is_on_disk || bytes >= f64::from(4 << 20), "{bytes}");
    assert!(of("container_last_seen") >= of("container_start_time_seconds").floor());
}

#[test]
fn series_go_with_their_container_and_what_it_used_is_added_up() {
    let (world, at) = served(&[]);
    let before = scrape(&at);
    let root = fixture::small_root();
    world.run("web", &[], &["probe", "trap"]);
    assert_eq!(world.skiff(&["run", "--rm", root, "sh", "-c", "exit 3"]).code, 3);
    world.skiff(&["run", "--rm", root, "no-such-program"]).fails(127, "no-such-program");
    let during = scraped_when(&at, |all| !find(all, "container_last_seen", &[("name", "web")]).is_empty());
    let more = |after: &[Series], name: &str, labels: &[(&str, &str)]| {
        value(after, name, labels) - value(&before, name, labels)
    };
    assert_eq!(more(&during, "skiff_launches_total", &[("outcome", "started")]), 2.0);
    assert_eq!(more(&during, "skiff_launches_total", &[("outcome", "not_found")]), 1.0);
    assert_eq!(more(&during, "skiff_launch_duration_seconds_count", &[]), 2.0);
    assert_eq!(more(&during, "skiff_container_ends_total", &[("outcome", "failure")]), 1.0);
    assert_eq!(value(&during, "skiff_containers", &[("state", "running")]), 1.0);
    world.ok(&["kill", "web"]);
    let after = scraped_when(&at, |all| find(all, "container_last_seen", &[]).is_empty());
    assert!(after.iter().all(|series| !series.labels.contains_key("name")), "{after:#?}");
    assert_eq!(more(&after, "skiff_container_ends_total", &[("outcome", "signal")]), 1.0);
    let ended = |all: &[Series]| {
        find(all, "skiff_ended_cpu_seconds_total", &[]).iter().map(|one| one.value).sum::<f64>()
    };
    let after = scraped_when(&at, |all| ended(all) > ended(&before));
    assert_eq!(value(&after, "skiff_containers", &[("state", "exited")]), 1.0);
}

#[test]
fn restarts_and_health_are_told() {
    let (world, at) = served(&[]);
    world.run(
        "again",
        &["--restart", "on-failure:2"],
        &["sh", "-c", "[ $(($(cat /n 2>/dev/null) + 0)) -ge 1 ] && exec sleep 1000; echo 1 >/n; exit 1"],
    );
    world.run("well", &["--health-cmd", "true", "--health-interval", "100ms"], &["sleep", "1000"]);
    world.run(
        "ill",
        &["--health-cmd", "false", "--health-interval", "100ms", "--health-retries", "1"],
        &["sleep", "1000"],
    );
    let healthy = |all: &[Series], name: &str| {
        find(all, "skiff_container_healthy", &[("name", name)]).first().map(|one| one.value)
    };
    let all = scraped_when(&at, |all| {
        healthy(all, "well") == Some(1.0)
            && find(all, "skiff_container_health_failing_streak", &[("name", "ill")])
                .first()
                .is_some_and(|one| one.value > 0.0)
            && find(all, "skiff_container_restarts_total", &[("name", "again")])
                .first()
                .is_some_and(|one| one.value == 1.0)
    });
    assert_eq!((healthy(&all, "ill"), healthy(&all, "again")), (Some(0.0), None));
    assert!(value(&all, "skiff_policy_restarts_total", &[]) >= 1.0);
}

#[test]
fn a_socket_is_its_users_alone_and_goes_with_the_daemon() {
    let case = Case::with_daemon();
    let path = case.dir.join("metrics.sock");
    let at = format!("unix:{}", path.display());
    let daemon = case.skiff(&["daemon", "--metrics", &at]).start();
    assert!(eventually(|| case.run.join("skiff.sock").exists()));
    assert_eq!(fs::metadata(&path).expect("a socket").permissions().mode() & 0o777, 0o600);
    assert!(!scrape(&at).is_empty());
    case.skiff(&["daemon", "--stop"]).output().ok();
    let ended = daemon.finish();
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
    assert!(!path.exists());
}

#[test]
fn an_address_that_others_reach_is_warned_of() {
    need!(installed("unshare") && nix::unistd::geteuid().is_root(), "unshare and root");
    let case = Case::with_daemon();
    // A network of its own, that nobody is in.
    let daemon = case.skiff(&["daemon", "--metrics", "0.0.0.0:0"]).through(&["unshare", "--net"]).start();
    assert!(eventually(|| case.run.join("skiff.sock").exists()));
    case.skiff(&["daemon", "--stop"]).output().ok();
    let ended = daemon.finish();
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("0.0.0.0") && ended.stderr.contains("can read them"), "{}", ended.stderr);
}

#[test]
fn what_is_no_address_is_refused_in_one_line() {
    let (world, at) = served(&[]);
    for (words, needle) in [
        (["--metrics", "web"], "expected PORT"),
        (["--metrics", "unix:here"], "begins with /"),
        (["--otlp", "https://u@127.0.0.1"], "expected http"),
        (["--otlp", "ftp://127.0.0.1"], "expected http"),
        (["--otlp-interval", "0"], "0"),
    ] {
        world.skiff(&["daemon", words[0], words[1]]).fails(125, needle);
    }
    let other = Case::with_daemon();
    other.skiff(&["ps"]).env("SKIFF_METRICS", "what").output().fails(1, "SKIFF_METRICS: what");
    other.skiff(&["ps"]).env("SKIFF_OTLP", "what").output().fails(1, "SKIFF_OTLP: what");
    other.skiff(&["ps"]).env("SKIFF_METRICS", &at).output().fails(1, "address already in use");
    other.skiff(&["ps"]).output().ok();
}

#[test]
fn the_next_daemon_listens_at_the_same_port() {
    let (world, at) = served(&[]);
    world.run("web", &[], &["sleep", "1000"]);
    for _ in 0..3 {
        world.ok(&["daemon", "--stop"]);
        let next = world.0.skiff(&["version", "--format", "{{.Server.Metrics}}"]).env("SKIFF_METRICS", &at);
        assert_eq!(next.output().ok().trim(), at);
        assert_eq!(find(&scrape(&at), "container_last_seen", &[("name", "web")]).len(), 1);
    }
}
