//! The dashboard: each of its queries is asked of a Prometheus that scrapes the daemon.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::Path;

use serde_json::Value;

use super::http::get;
use super::pinned::namespace;
use super::scrape;
use crate::harness::{Case, Live, Skiff, fixture, installed, need, parse};
use crate::peers::world::eventually;

/// What a panel says where it depends on the kernel whether there are any.
const PRESSURE: &str = "CONFIG_PSI";

/// A query, and what its panel says of it.
#[derive(Debug)]
struct Query {
    panel: String,
    about: String,
    expression: String,
}

/// All queries, with what a user would have chosen in the place of variables.
fn queries() -> Vec<Query> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib/grafana/skiff.json");
    let dashboard = parse(&std::fs::read_to_string(path).expect("the dashboard"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = text(&target["expr"])
                .replace("$__rate_interval", "1m")
                .replace("$name", ".*")
                .replace("$job", ".*");
            assert!(!expression.contains('$'), "{expression}");
            queries.push(Query {
                panel: text(&panel["title"]),
                about: text(&panel["description"]),
                expression,
            });
        }
    }
    queries
}

/// A Prometheus that scrapes `at` every second, and where it answers.
fn prometheus(case: &Case, at: &str) -> (Live, String) {
    let config = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
         scrape_configs: [{{job_name: skiff, static_configs: [{{targets: ['{at}']}}]}}]\n"
    );
    let config = case.file("prometheus.yml", &config);
    Skiff::tool(&["promtool", "check", "config", &config]).output().ok();
    // It cannot choose a port itself.
    let own = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port")
        .to_string();
    let live = Skiff::tool(&[
        "prometheus",
        &format!("--config.file={config}"),
        &format!("--storage.tsdb.path={}", case.dir.join("tsdb").display()),
        &format!("--web.listen-address={own}"),
        "--log.level=error",
    ])
    .start();
    assert!(eventually(
        || std::net::TcpStream::connect(&own).is_ok() && get(&own, "/-/ready", "*/*").status == 200
    ));
    (live, own)
}

/// What it has for a query: values.
fn asked(at: &str, expression: &str) -> Vec<f64> {
    let encoded: String = expression.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let response = get(at, &format!("/api/v1/query?query={encoded}"), "application/json");
    // The body may come in one chunk, around which there are lengths.
    let body = &response.body
        [response.body.find('{').expect("an object")..=response.body.rfind('}').expect("its end")];
    let answer = parse(body);
    assert_eq!(answer["status"], "success", "{expression}: {answer}");
    let results = answer["data"]["result"].as_array().expect("results");
    results.iter().filter_map(|result| result["value"][1].as_str()?.parse().ok()).collect()
}

#[test]
fn every_query_of_the_dashboard_has_an_answer() {
    need!(installed("prometheus") && installed("promtool"), "prometheus");
    need!(Path::new("/sys/kernel/btf/vmlinux").exists(), "BTF");
    // Declared before the case: the daemon ends first.
    let first = namespace();
    let case = Case::with_daemon();
    let pid = first.pid().to_string();
    let inside = |words: &[&str]| case.skiff(words).through(&["nsenter", "--mount", "--target", &pid, "--"]);
    let outside = |words: &[&str]| case.skiff(words).output().ok();
    inside(&["observe", "on", "syscalls,run-queue,block,net,tcp", "--slots", "4"]).output().ok();
    let served = inside(&["version", "--format", "{{.Server.Metrics}}"]).env("SKIFF_METRICS", "127.0.0.1:0");
    let at = served.output().ok().trim().to_owned();
    let health = ["--cpus", "0.2", "-m", "64m", "--health-cmd", "true", "--health-interval", "500ms"];
    let run = |name: &str, flags: &[&str], script: &str| {
        let words = [&["run", "-d", "--name", name], flags, &[fixture::small_root(), "sh", "-c", script]];
        outside(&words.concat())
    };
    run("web", &health, "while :; do :; done");
    run(
        "busy",
        &[],
        ">/x; while probe direct /x 4 4 65536 && probe connections 4 0; do busybox usleep 100000; done",
    );
    let (prometheus, own) = prometheus(&case, &at);
    let queries = queries();
    assert!(queries.len() > 30);
    let has_pressure = Path::new("/proc/pressure/cpu").exists();
    let (empty, wanted): (Vec<&Query>, Vec<&Query>) =
        queries.iter().partition(|query| query.about.contains(PRESSURE) && !has_pressure);
    let mut missing: Vec<&Query> = wanted;
    let done = std::cell::RefCell::new(&mut missing);
    let tried = || {
        // Something for what is counted per launch.
        outside(&["run", "--rm", fixture::small_root(), "true"]);
        let mut missing = done.borrow_mut();
        missing.retain(|query| !asked(&own, &query.expression).iter().any(|value| value.is_finite()));
        missing.is_empty()
    };
    // Rates need two scrapes, and launches between them.
    let answered = (0..6).any(|_| eventually(tried));
    assert!(answered, "no data: {missing:#?}");
    // What has no data must be right all the same: its metrics are documented.
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let page = std::fs::read_to_string(page).expect("the page");
    for query in empty {
        for name in names(&query.expression) {
            assert!(page.contains(&format!("`{name}`")), "{}: {name}", query.panel);
        }
        asked(&own, &query.expression);
    }
    assert!(!scrape(&at).is_empty());
    drop(prometheus);
    outside(&["rm", "-f", "web", "busy"]);
    inside(&["observe", "off"]).output().ok();
}

/// Names of metrics in a query.
fn names(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let metrics =
        words.filter(|word| ["skiff_", "container_", "process_"].iter().any(|start| word.starts_with(start)));
    metrics.map(|word| word.strip_suffix("_bucket").unwrap_or(word).to_owned()).collect()
}
