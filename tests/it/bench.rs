//! `skiff bench`: what differs is found and what does not is not, in counts, which a busy machine does not change.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{Case, Output, Skiff, fixture, need, parse};

/// Whether this host lets eBPF programs be loaded.
fn can_profile() -> bool {
    std::path::Path::new("/sys/kernel/btf/vmlinux").exists()
}

/// `skiff bench FLAGS… <small root> A… [-- <small root> B…]`, not yet started.
fn command(case: &Case, flags: &[&str], sides: &[&[&str]]) -> Skiff {
    let root = fixture::small_root();
    let mut words = vec!["bench"];
    words.extend(flags);
    for (number, side) in sides.iter().enumerate() {
        words.extend((number > 0).then_some("--"));
        words.push(root);
        words.extend(*side);
    }
    case.skiff(&words)
}

fn bench(case: &Case, flags: &[&str], sides: &[&[&str]]) -> Output {
    command(case, flags, sides).output()
}

/// The document of a comparison of so many pairs.
fn document(case: &Case, flags: &[&str], sides: &[&[&str]]) -> Value {
    let output = bench(case, &[&["--format", "json", "--seed", "7"], flags].concat(), sides);
    assert!(output.stderr.is_empty(), "{output}");
    let document = parse(&output.stdout);
    assert_eq!(document["schema"], "skiff.bench/1");
    document
}

#[track_caller]
fn metric<'a>(document: &'a Value, name: &str) -> &'a Value {
    let metrics = document["metrics"].as_array().expect("metrics");
    let found = metrics.iter().find(|metric| metric["metric"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {name}: {document}"))
}

/// How many calls `probe calls AMOUNTS…` makes, by what it says itself.
fn calls(case: &Case, amounts: &[&str]) -> u64 {
    let printed = parse(&case.run(&[], &[&["probe", "calls"], amounts].concat()).ok());
    let kinds = printed["calls"].as_object().expect("calls").values();
    kinds.map(|kind| kind["count"].as_u64().expect("a number")).sum()
}

#[test]
fn a_known_difference_is_found_exactly() {
    need!(can_profile(), "a kernel with BTF");
    let case = Case::new();
    let (few, many) = (["100", "10", "300", "100"], ["300", "10", "900", "100"]);
    let by = calls(&case, &many) - calls(&case, &few);
    assert!(by > 0);
    let [a, b] = [&few, &many].map(|amounts| [&["probe", "calls"], &amounts[..]].concat());
    let document = document(&case, &["--syscalls", "--runs", "6", "--control", "4"], &[&a, &b]);
    let found = metric(&document, "syscalls");
    assert_eq!(found["verdict"], "higher", "{found}");
    for end in ["low", "estimate", "high"] {
        assert_eq!(found["difference"]["absolute"][end].as_f64(), Some(by as f64), "{found}");
    }
    assert_eq!(
        (found["noise_floor"].as_f64(), &found["control"]["differs"]),
        (Some(0.0), &Value::Bool(false))
    );
    let faults = metric(&document, "minor-faults");
    let more = faults["difference"]["absolute"]["estimate"].as_f64().expect("a number");
    assert!((590.0..=620.0).contains(&more) && faults["verdict"] == "higher", "{faults}");
    let cost = &document["cost"];
    assert!(cost["traced_calls"].as_u64() > Some(20 * by), "{cost}");
}

#[test]
fn a_against_itself_has_no_difference() {
    need!(can_profile(), "a kernel with BTF");
    let case = Case::new();
    let side: &[&str] = &["probe", "calls", "50", "5", "20", "100"];
    let document = document(&case, &["--syscalls", "-n", "6", "--control", "2"], &[side, side]);
    assert_eq!(metric(&document, "syscalls")["verdict"], "equal", "{document}");
    for block in ["block-read", "block-write"] {
        let metrics = document["metrics"].as_array().expect("metrics");
        let found = metrics.iter().find(|metric| metric["metric"]["name"] == block);
        assert!(found.is_none_or(|found| found["difference"]["absolute"]["estimate"] == 0.0), "{found:?}");
    }
}

#[test]
fn the_document_has_every_run_in_blocks() {
    let case = Case::new();
    let document = document(&case, &["-n", "5", "--control", "3", "--warmup", "2"], &[&["true"], &["true"]]);
    let runs = document["runs"].as_array().expect("runs");
    let of = |phase: &str| -> Vec<&str> {
        let runs = runs.iter().filter(|run| run["phase"] == phase);
        runs.map(|run| run["arm"].as_str().expect("an arm")).collect()
    };
    assert_eq!(of("warm-up"), ["a", "b", "a", "b"]);
    assert_eq!((of("control").len(), of("comparison").len()), (8, 10));
    assert!(of("comparison").chunks(2).all(|pair| pair[0] != pair[1]), "{runs:?}");
    assert!(runs.iter().all(|run| run["exit_code"] == 0 && run["figures"]["wall"].as_u64() > Some(0)));
    for run in runs {
        let figure = |name: &str| run["figures"][name].as_u64().expect("a figure");
        assert_eq!(figure("wall"), figure("launch") + figure("run"), "{run}");
    }
    assert_eq!((document["stopped"].as_str(), &document["seed"]), (Some("max-runs"), &7.into()));
    let missing = document["missing"].as_array().expect("missing");
    assert!(missing.iter().any(|one| one["metric"] == "syscalls" && one["why"] == "only with --syscalls"));
    let metrics = document["metrics"].as_array().expect("metrics");
    assert_eq!(metrics.len() + missing.len(), 20, "{document}");
}

#[test]
fn limits_decide_the_exit_code() {
    let case = Case::new();
    let sides: &[&[&str]] =
        &[&["probe", "calls", "1", "0", "10", "1"], &["probe", "calls", "1", "0", "2000", "1"]];
    let judged = |limit: &str| bench(&case, &["-n", "6", "--control", "2", "--fail-if", limit], sides);
    let exceeded = judged("minor-faults > +1000");
    assert_eq!(exceeded.code, 1, "{exceeded}");
    assert!(exceeded.stdout.contains("fail if minor-faults > +1000: exceeded"), "{exceeded}");
    for kept in ["minor-faults > +3000", "minor-faults < +0%", "minor-faults > 1M"] {
        assert_eq!(judged(kept).code, 0, "{kept}");
    }
    assert_eq!(judged("minor-faults > 1500").code, 1);
    // Of a limit that cannot be looked at, nobody is to believe that it is kept.
    judged("block-read > +1%").fails(125, "block-read n/a");
    // Of so few pairs nothing is certain.
    let few = bench(&case, &["-n", "5", "--fail-if", "minor-faults > +1"], sides);
    few.fails(125, "--fail-if needs at least 6 pairs");
    let few = document(&case, &["-n", "5", "--control", "2"], sides);
    let found = metric(&few, "minor-faults");
    assert_eq!((&found["verdict"], &found["difference"]["absolute"]["low"]), (&"none".into(), &Value::Null));
}

#[test]
fn a_side_alone_is_described() {
    let case = Case::new();
    let output = bench(&case, &["-n", "3"], &[&["true"]]);
    assert!(output.ok().starts_with("A: rootfs:"), "{output}");
    assert!(output.stdout.contains("wall") && !output.stdout.contains("VERDICT"), "{output}");
    let document = document(&case, &["-n", "3"], &[&["true"]]);
    assert_eq!((&document["b"], metric(&document, "wall")["a"]["n"].as_u64()), (&Value::Null, Some(3)));
}

#[test]
fn what_programs_print_is_shown_only_if_it_is_wanted() {
    let case = Case::new();
    let side: &[&str] = &["sh", "-c", "echo noise; echo noise >&2"];
    let dropped = bench(&case, &["-n", "2"], &[side]);
    assert!(
        dropped.code == 0 && !dropped.stdout.contains("noise\nnoise") && dropped.stderr.is_empty(),
        "{dropped}"
    );
    let shown = bench(&case, &["-n", "2", "--warmup", "0", "--show-output"], &[side]);
    assert_eq!((shown.stdout.matches("noise\n").count(), &*shown.stderr), (2, "noise\nnoise\n"), "{shown}");
}

#[test]
fn a_run_that_fails_ends_it() {
    let case = Case::new();
    let good: &[&str] = &["true"];
    bench(&case, &[], &[&["sh", "-c", "exit 7"], good]).fails(125, "run 1, rootfs:");
    bench(&case, &[], &[good, &["sh", "-c", "exit 7"]]).fails(125, "exited with 7");
    bench(&case, &[], &[good, &["no-such-program"]]).fails(127, "no-such-program");
    let root = fixture::small_root();
    case.skiff(&["bench", "--timeout", "1", root, "probe", "trap"]).output().fails(125, "--timeout");
    let document = document(&case, &["-n", "2", "--ignore-failure"], &[&["sh", "-c", "exit 7"]]);
    assert!(document["runs"].as_array().is_some_and(|runs| runs.iter().all(|run| run["exit_code"] == 7)));
}

#[test]
fn bad_input_is_refused_before_anything_runs() {
    let case = Case::new();
    let root = fixture::small_root();
    let check = |words: &[&str], needle: &str| {
        case.skiff(&[&["bench"], words].concat()).output().fails(125, needle);
        assert!(!case.run.join("containers").exists(), "{words:?}");
    };
    check(&[], "A: no image given");
    check(&[root, "true", "--"], "B: no image given");
    check(&["--nope", root, "true"], "A: unknown flag: --nope");
    check(&["-it", root, "true"], "A: --interactive does not go with bench");
    check(&["--precision", "lots", root, "true"], "not a part of a hundred");
    check(&["--fail-if", "wall > 3", root, "true"], "not a unit of that metric");
    check(&["--fail-if", "wall", root, "true"], "not of the form");
    check(&["--html", "/no/such/dir/x.html", root, "true"], "/no/such/dir/x.html");
    check(&["rootfs:/no/such", "true"], "/no/such");
}

#[test]
fn the_page_is_one_well_formed_file() {
    let case = Case::new();
    let page = case.dir.join("report.html");
    let flags =
        ["-n", "6", "--control", "2", "--html", page.to_str().expect("text"), "--fail-if", "wall > +1000%"];
    bench(&case, &flags, &[&["true"], &["sh", "-c", "echo '<b>' & wait"]]).ok();
    let text = fs::read_to_string(&page).expect("a page");
    let document = text.strip_prefix("<!DOCTYPE html>\n").expect("a document type");
    let document = roxmltree::Document::parse(document).unwrap_or_else(|error| panic!("{error}: {text}"));
    let count = |name: &str| document.descendants().filter(|node| node.has_tag_name(name)).count();
    assert!(count("svg") >= 3 && count("script") == 0 && count("link") == 0, "{text}");
    assert!(text.contains("&lt;b&gt;") && !text.contains("http"), "{text}");
}

#[test]
fn a_page_of_a_comparison_that_fails_is_not_left() {
    let case = Case::new();
    let page = case.dir.join("report.html");
    bench(&case, &["--html", page.to_str().expect("text")], &[&["sh", "-c", "exit 1"]])
        .fails(125, "exited with 1");
    assert!(!page.exists());
}

#[test]
fn it_ends_by_a_signal_and_leaves_nothing() {
    let case = Case::new();
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let mut live = command(&case, &["--show-output"], &[&["probe", "trap"]]).start();
        live.until("ready");
        assert_eq!(case.note_containers().len(), 1);
        live.signal(signal);
        live.finish().fails(code, "ended by signal");
        assert_eq!(case.leaks(), Vec::<String>::new());
    }
}

#[test]
fn it_ends_by_a_signal_while_it_fetches_an_image() {
    let case = Case::new();
    let registry = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let image = format!("{}/image", registry.local_addr().expect("an address"));
    let live = case.skiff(&["bench", &image, "true"]).start();
    let _silent = registry.accept().expect("it is asked");
    // Not SIGINT, which whoever started the tests in the background has left ignored.
    live.signal(Signal::SIGTERM);
    let ended = live.finish();
    assert!(matches!(ended.code, -15 | 143), "{ended}");
}

#[test]
fn what_a_killed_one_leaves_is_cleared_by_the_next() {
    let case = Case::new();
    let mut live = command(&case, &["--show-output"], &[&["probe", "trap"]]).start();
    live.until("ready");
    assert_eq!(case.note_containers().len(), 1);
    live.signal(Signal::SIGKILL);
    assert_eq!(live.finish().code, -9);
    bench(&case, &["-n", "2"], &[&["true"]]).ok();
    assert_eq!(case.leaks(), Vec::<String>::new());
}
