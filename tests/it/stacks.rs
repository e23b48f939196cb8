//! Sampled stacks, against programs whose CPU time is known.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{Case, need, parse, programs};
use crate::peers::world::eventually;

/// Whether this host lets eBPF programs be loaded.
fn can_profile() -> bool {
    Path::new("/sys/kernel/btf/vmlinux").exists()
}

/// Beside a rate of samples that is no multiple of anything.
const STACKS: &str = "--stacks=997";

/// Runs a command in `root`, sampled; its profile, with the files beside it in the case's directory `out`.
#[track_caller]
fn sampled(case: &Case, root: &Path, command: &[&str]) -> Value {
    let out = case.dir.join("out");
    let flag = format!("--profile={}/", out.display());
    let output = case.run_root(root, &[&flag, STACKS], command);
    assert_eq!(output.code, 0, "{output}");
    let profile = parse(&fs::read_to_string(out.join("profile.json")).expect("read the profile"));
    assert_eq!(profile["events_lost"], 0, "{profile}");
    profile
}

/// How often a function was found running itself.
fn own(profile: &Value, function: &str) -> u64 {
    let functions = profile["stacks"]["functions"].as_array().expect("functions");
    let found = functions.iter().filter(|found| found["function"] == function);
    found.filter_map(|found| found["self_samples"].as_u64()).sum()
}

const WEIGHTS: [(&str, u64); 3] =
    [("probe_weighs_one", 1), ("probe_weighs_two", 2), ("probe_weighs_four", 4)];

/// Asserts that the functions were found as often as they weigh: each count is binomial, and six standard deviations off in one of 500
/// million runs.
#[track_caller]
fn is_in_proportion(profile: &Value) {
    let counts = WEIGHTS.map(|(name, _)| own(profile, name));
    let all: u64 = counts.iter().sum();
    assert!(all >= 200, "too few samples to tell: {counts:?} of {}", profile["stacks"]["samples"]);
    for ((name, weight), count) in WEIGHTS.into_iter().zip(counts) {
        let share = weight as f64 / 7.0;
        let (mean, deviation) = (all as f64 * share, (all as f64 * share * (1.0 - share)).sqrt());
        assert!(
            (count as f64 - mean).abs() < 6.0 * deviation,
            "{name}: {count} of {all}, expected {mean:.0}"
        );
    }
}

#[test]
fn functions_are_found_in_proportion_to_their_time() {
    need!(can_profile(), "a kernel with BTF");
    let case = Case::new();
    // Others that do the same: theirs would be told by their number.
    let others = [(); 2].map(|()| case.command(&[], &["probe", "weigh", "3000"]).start());
    let profile = sampled(&case, &case.own_root(), &["probe", "weigh", "1500"]);
    for other in others {
        other.finish().ok();
    }
    is_in_proportion(&profile);
    let cpu_ns: u64 =
        ["init", "workload"].iter().filter_map(|phase| profile["resources"][phase]["cpu_ns"].as_u64()).sum();
    let samples = profile["stacks"]["samples"].as_u64().expect("a number");
    let most = cpu_ns as f64 / 1e9 * 997.0 * 1.2 + 50.0;
    assert!((samples as f64) < most, "{samples} samples of {cpu_ns} ns");
    files_agree(&case.dir.join("out"), &profile);
}

/// The other files hold the same samples.
#[track_caller]
fn files_agree(out: &Path, profile: &Value) {
    let samples = profile["stacks"]["samples"].as_u64().expect("a number");
    let folded = fs::read_to_string(out.join("stacks.folded")).expect("read the folded stacks");
    let count =
        |line: &str| line.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok()).expect("a count");
    assert_eq!(folded.lines().map(count).sum::<u64>(), samples);
    let of = |line: &&str| line.contains(";probe_weighs_four ");
    assert_eq!(folded.lines().filter(of).map(count).sum::<u64>(), own(profile, "probe_weighs_four"));
    let graph = fs::read_to_string(out.join("stacks.svg")).expect("read the flame graph");
    assert!(graph.contains("data-n=\"probe_weighs_four\""));
    let pprof = fs::read(out.join("stacks.pb.gz")).expect("read pprof's profile");
    assert_eq!(pprof[..2], [0x1f, 0x8b], "gzip");
}

#[test]
fn the_kernel_s_functions_are_found_below_the_program_s() {
    need!(can_profile(), "a kernel with BTF");
    let case = Case::new();
    let profile = sampled(&case, &case.own_root(), &["probe", "weigh", "700", "zeros"]);
    let (all, kernel) = (&profile["stacks"]["samples"], &profile["stacks"]["kernel_samples"]);
    assert!(kernel.as_u64() > all.as_u64().map(|all| all / 2), "{kernel} of {all}");
    let stacks = profile["stacks"]["stacks"].as_array().expect("stacks");
    let has = |stack: &Value, part: &str| {
        stack["frames"]
            .as_array()
            .is_some_and(|frames| frames.iter().filter_map(Value::as_str).any(|frame| frame.contains(part)))
    };
    let named =
        !profile["missing"].as_array().expect("a list").iter().any(|why| why.to_string().contains("kptr"));
    need!(named, "addresses in /proc/kallsyms (CAP_SYSLOG, kptr_restrict)");
    assert!(stacks.iter().any(|stack| has(stack, "vfs_read")), "{stacks:?}");
}

#[test]
fn processes_that_come_and_go_are_named() {
    need!(can_profile(), "a kernel with BTF");
    let case = Case::new();
    let probe = programs::probe().display().to_string();
    let script = format!("trap 'exit 0' TERM; echo ready; while :; do {probe} weigh 30; done");
    let mut busy = case.skiff(&["run", "--name=busy", "host", "sh", "-c", &script]).start();
    busy.until("ready");
    let file = case.dir.join("period.json");
    let graph = case.dir.join("graph.svg");
    let words = [
        "profile",
        "busy",
        "--for",
        "3s",
        STACKS,
        "-o",
        &file.display().to_string(),
        "-o",
        &graph.display().to_string(),
    ];
    let text = case.skiff(&words).output().ok();
    busy.signal(Signal::SIGTERM);
    busy.finish();
    assert!(text.contains("probe_weighs_four") && text.contains("system calls"), "{text}");
    let profile = parse(&fs::read_to_string(file).expect("read"));
    assert_eq!(profile["schema"], "skiff.profile.period/1");
    assert_eq!(profile["events_lost"], 0, "{profile}");
    is_in_proportion(&profile);
    let (all, unnamed) = (&profile["stacks"]["samples"], &profile["stacks"]["unnamed_samples"]);
    assert!(unnamed.as_u64() < all.as_u64().map(|all| all / 5), "{unnamed} of {all} without a name");
    // What was counted from the middle on: each program that was executed made the call, but for the one at either end.
    let calls = profile["system_calls"].as_array().expect("calls");
    let made = calls.iter().find(|call| call["name"] == "execve").and_then(|call| call["calls"].as_i64());
    let executed = profile["execs"]["total"].as_i64().expect("a number");
    assert!(executed > 3 && (made.unwrap_or(0) - executed).abs() <= 1, "{made:?} calls, {executed} programs");
    assert!(fs::read_to_string(graph).is_ok_and(|graph| graph.contains("probe_weighs_one")));
}

#[test]
fn a_period_that_is_interrupted_tells_what_there_is() {
    need!(can_profile(), "a kernel with BTF");
    let case = Case::new();
    let mut running = case.command(&["--name=it"], &["probe", "trap"]).start();
    running.until("ready");
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let file = case.dir.join(signal.as_str()).with_extension("json");
        let words = ["profile", "it", "--for", "1m", "-o", &file.display().to_string()];
        let live = case.skiff(&words).start();
        assert!(eventually(|| file.exists()));
        live.signal(signal);
        live.finish().ok();
        let profile = parse(&fs::read_to_string(file).expect("read"));
        assert_eq!(profile["period"]["ended_by"], "signal", "{signal}");
    }
    running.signal(Signal::SIGTERM);
    running.finish();
}

/// Puts a changed copy of the probe into a root of its own.
fn changed(case: &Case, change: impl FnOnce(&mut Vec<u8>)) -> std::path::PathBuf {
    let root = case.own_root();
    let mut program = fs::read(programs::probe()).expect("read the probe");
    change(&mut program);
    let path = root.join("bin/changed");
    fs::write(&path, program).expect("write");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("make it executable");
    root
}

/// Asserts that samples were taken, and none in the program has a name.
#[track_caller]
fn is_nameless(profile: &Value) {
    assert_eq!(WEIGHTS.map(|(name, _)| own(profile, name)), [0; 3]);
    assert!(own(profile, "[changed]") > 50, "{}", profile["stacks"]["functions"]);
}

#[test]
fn a_stripped_program_is_shown_by_its_file() {
    need!(can_profile(), "a kernel with BTF");
    let case = Case::new();
    // No table of sections: no symbols.
    let root = changed(&case, |program| {
        program[40..48].fill(0);
        program[60..62].fill(0);
    });
    is_nameless(&sampled(&case, &root, &["/bin/changed", "weigh", "400"]));
}

#[test]
fn a_program_that_lies_about_its_symbols_is_sampled_all_the_same() {
    need!(can_profile(), "a kernel with BTF");
    let case = Case::new();
    // Every section reaches from the file's middle to beyond all ends.
    let root = changed(&case, |program| {
        let table = usize::try_from(u64::from_le_bytes(*program[40..].first_chunk().expect("a header")))
            .expect("small");
        for section in program[table..].chunks_exact_mut(64) {
            section[32..40].fill(0xff);
        }
    });
    is_nameless(&sampled(&case, &root, &["/bin/changed", "weigh", "400"]));
}

#[test]
fn what_cannot_be_sampled_is_refused_before_anything_starts() {
    let case = Case::new();
    let refused = |args: &[&str], message: &str| case.skiff(args).output().fails(125, message);
    refused(&["profile", "web", "--for", "1s", "--stacks=0"], "--stacks 0: not 1 to 10000 samples a second");
    refused(&["profile", "web", "--for", "soon"], "--for soon: not a time such as 1m30s");
    refused(&["profile", "web", "--for", "0"], "--for 0: not a time to count anything in");
    refused(&["profile", "web", "--stacks"], "--output, --files and --stacks need --for");
    refused(&["run", "--stacks", "host", "true"], "--stacks needs --profile");
    refused(
        &["run", "--profile", "--stacks=x", "host", "true"],
        "--stacks x: not 1 to 10000 samples a second",
    );
    case.skiff(&["profile", "web", "--for", "1s"]).output().fails(1, "no such container: web");
}
