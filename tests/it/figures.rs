//! What containers use, from their first instruction to their last: while they run, when they have ended, and when they are gone.
//!
//! The load says itself what it must have cost, or it is known otherwise.

use std::fs;
use std::io::Write;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::harness::{Case, Output, fixture, need, parse, patience};
use crate::peers::world::eventually;

/// Whether this host lets eBPF programs be loaded. Everything else that goes wrong is a failure.
fn can_count() -> bool {
    nix::unistd::geteuid().is_root() && std::path::Path::new("/sys/kernel/btf/vmlinux").exists()
}

fn run(case: &Case, words: &[&str]) -> Output {
    case.skiff(words).output()
}

/// A world with a daemon that counts already.
fn counting() -> Case {
    let case = Case::with_daemon();
    wait_for_programs(&case);
    case
}

fn wait_for_programs(case: &Case) {
    let state = || run(case, &["version", "--format", "{{.Server.Events}}"]).ok();
    assert!(eventually(|| state() == "loaded\n"), "{}", state());
}

/// The daemon's process.
fn daemon(case: &Case) -> Pid {
    let pid = run(case, &["version", "--format", "{{.Server.Pid}}"]).ok();
    Pid::from_raw(pid.trim().parse().expect("a process id"))
}

/// The ends that are known of the container `name`, the newest first.
fn ends(case: &Case, name: &str) -> Vec<Value> {
    let filter = format!("name={name}");
    let all = run(case, &["history", "--format", "json", "--filter", &filter]).ok();
    all.lines().map(parse).collect()
}

/// Runs a command in a container that goes with its end; what it printed, and the end's line in the history.
fn end_of(case: &Case, flags: &[&str], command: &[&str]) -> (String, Value) {
    let words = [&["run", "--rm", "--name", "it"], flags, &[fixture::small_root()], command].concat();
    let output = run(case, &words);
    // The client knows of the end before its account is closed.
    assert!(eventually(|| !ends(case, "it").is_empty()), "{output}");
    let mut ends = ends(case, "it");
    assert_eq!(ends.len(), 1, "{ends:?}");
    let end = ends.remove(0);
    assert_eq!(end["schema"], "skiff.history/1");
    assert_eq!(end["figures"]["missing"], serde_json::json!([]), "{end}");
    assert_eq!(end["exit_code"], output.code, "{end}");
    (output.stdout, end["figures"].clone())
}

#[track_caller]
fn number(figures: &Value, path: &str) -> u64 {
    figures.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("no {path}: {figures}"))
}

#[test]
fn processes_programs_and_faults_of_a_container_that_is_gone_are_exact() {
    need!(can_count(), "root, and a kernel with BTF");
    let case = counting();
    let (printed, figures) = end_of(&case, &[], &["probe", "calls", "10", "3", "2000", "10", "fork", "20"]);
    let pages = parse(&printed)["pages"].as_u64().expect("a number");
    for (path, expected) in [
        ("/processes/created", 21),
        ("/processes/ended", 21),
        ("/processes/executed", 1),
        ("/processes/threads_created", 0),
        ("/memory/oom_kills", 0),
    ] {
        assert_eq!(number(&figures, path), expected, "{path}: {figures}");
    }
    let faults = number(&figures, "/memory/minor_faults");
    // The program's own text, data and stacks come on top, children's after each fork.
    assert!((pages..=pages + 400 + 20 * 150).contains(&faults), "{faults} faults for {pages} pages");
    // Each child had its pages, of 4 KiB at least, all at once.
    let peak = number(&figures, "/memory/peak_process_bytes");
    assert!((2000 * 4096..2000 * 4096 + (64 << 20)).contains(&peak), "{peak}");
}

#[test]
fn threads_and_executions_are_counted() {
    need!(can_count(), "root, and a kernel with BTF");
    let case = counting();
    let (_, figures) = end_of(&case, &[], &["probe", "threads", "8"]);
    assert_eq!(number(&figures, "/processes/threads_created"), 8, "{figures}");
    assert_eq!(number(&figures, "/processes/ended"), 1, "{figures}");
    run(
        &case,
        &[
            "run",
            "--rm",
            "--name",
            "shell",
            fixture::small_root(),
            "sh",
            "-c",
            "(probe exit 0); (probe exit 0); probe exit 3",
        ],
    );
    assert!(eventually(|| ends(&case, "shell").len() == 1));
    let end = &ends(&case, "shell")[0];
    // The shell, and three more.
    assert_eq!(number(end, "/figures/processes/executed"), 4, "{end}");
    assert_eq!(end["exit_code"], 3);
}

#[test]
fn a_container_that_lives_for_some_milliseconds_has_its_figures() {
    need!(can_count(), "root, and a kernel with BTF");
    let case = counting();
    let (_, figures) = end_of(&case, &[], &["probe", "exit", "7"]);
    for path in ["/processes/created", "/processes/ended", "/processes/executed"] {
        assert_eq!(number(&figures, path), 1, "{path}: {figures}");
    }
    assert!((1..2000).contains(&number(&figures, "/memory/minor_faults")), "{figures}");
    assert!(number(&figures, "/memory/peak_process_bytes") > 4096, "{figures}");
    assert!(number(&figures, "/cpu/usage_ns") > 0, "{figures}");
}

#[test]
fn the_first_container_of_a_daemon_is_counted_from_its_first_instruction() {
    need!(can_count(), "root, and a kernel with BTF");
    for _ in 0..3 {
        // The command starts the daemon, which has not loaded anything then.
        let (_, figures) =
            end_of(&Case::with_daemon(), &[], &["probe", "calls", "1", "1", "1", "1", "fork", "5"]);
        assert_eq!(number(&figures, "/processes/created"), 6, "{figures}");
    }
}

#[test]
fn processor_time_is_what_the_program_used() {
    need!(can_count(), "root, and a kernel with BTF");
    let case = counting();
    let (printed, figures) = end_of(&case, &[], &["probe", "burn", "300"]);
    let used_ms: u64 = printed.trim().parse().expect("a number");
    let (usage, setup) = (number(&figures, "/cpu/usage_ns"), number(&figures, "/cpu/setup_ns"));
    let own_ms = (usage - setup) / 1_000_000;
    let slack_ms = 50 * u64::from(patience());
    assert!((used_ms * 9 / 10..=used_ms + slack_ms).contains(&own_ms), "{own_ms} ms of {used_ms}: {figures}");
}

#[test]
fn the_oom_killer_is_told_with_whom_and_for_whom() {
    need!(can_count(), "root, and a kernel with BTF");
    let case = counting();
    let (printed, figures) =
        end_of(&case, &["-m", "48m", "--memory-swap", "48m"], &["probe", "eat-child", "128"]);
    assert_eq!(printed, "killed by SIGKILL\n");
    let oom = &figures["oom"];
    assert_eq!(
        (&oom["kills"], &oom["victim_name"], &oom["killer_name"]),
        (&1.into(), &"probe".into(), &"probe".into())
    );
    assert_eq!((&oom["is_killer_inside"], &oom["victim_pid"]), (&true.into(), &oom["killer_pid"]), "{oom}");
    assert_eq!(number(&figures, "/memory/oom_kills"), 1);
    assert!((40 << 20..=49 << 20).contains(&number(&figures, "/memory/peak_bytes")), "{figures}");
    assert_eq!(number(&figures, "/memory/limit_bytes"), 48 << 20);
}

#[test]
fn what_runs_is_shown_by_inspect_and_stats() {
    need!(can_count(), "root, and a kernel with BTF");
    let case = counting();
    let root = fixture::small_root();
    run(&case, &["run", "-d", "--name", "web", root, "sh", "-c", "probe forks 5; exec probe trap"]).ok();
    assert!(eventually(|| run(&case, &["logs", "web"]).ok().ends_with("ready\n")));
    let figures = || parse(&run(&case, &["inspect", "-f", "{{json .Figures}}", "web"]).ok());
    // What has ended and what lives are added up: the shell, the probe and its five; the last program takes the shell's place.
    assert!(eventually(|| number(&figures(), "/processes/executed") == 3), "{}", figures());
    let now = figures();
    assert_eq!((number(&now, "/processes/created"), number(&now, "/processes/ended")), (7, 6), "{now}");
    assert_eq!(number(&now, "/processes/current"), 1, "{now}");
    let before = number(&now, "/memory/minor_faults");
    assert!(before > 0 && number(&figures(), "/memory/minor_faults") >= before);
    let line = run(&case, &["stats", "--no-stream", "--format", "json", "web"]).ok();
    let stats = parse(line.trim_end());
    assert_eq!(
        (&stats["Name"], &stats["name"], &stats["processes"]),
        (&"web".into(), &"web".into(), &1.into())
    );
    assert!(stats["faults"].as_u64() >= Some(before) && stats["faults_per_s"].is_number(), "{stats}");
    assert!(stats["run_queue_percent"].is_number() && stats["system_calls"].is_null(), "{stats}");
    run(&case, &["create", "--name", "made", root, "true"]).ok();
    let names = |words: &[&str]| {
        let words =
            [&["stats", "--no-stream", "--format", "{{.Name}} {{.CPUPerc}} {{.PIDs}}"], words].concat();
        run(&case, &words).ok()
    };
    assert!(names(&[]).starts_with("web ") && !names(&[]).contains("made"), "{}", names(&[]));
    let all = names(&["-a"]);
    assert!(all.contains("web ") && all.contains("made 0.00% 0\n"), "{all}");
    let table = run(&case, &["stats", "--no-stream", "web"]).ok();
    assert!(
        ["FAULTS/S", "THROTTLED %", "RUN QUEUE %", "SYSCALLS/S"].iter().all(|name| table.contains(name)),
        "{table}"
    );
}

#[test]
fn every_end_of_a_container_that_is_started_again_is_kept() {
    need!(can_count(), "root, and a kernel with BTF");
    let case = counting();
    run(
        &case,
        &[
            "run",
            "-d",
            "--name",
            "flaky",
            "--restart",
            "on-failure:2",
            fixture::small_root(),
            "probe",
            "exit",
            "3",
        ],
    )
    .ok();
    assert!(eventually(|| ends(&case, "flaky").len() == 3));
    let ends = ends(&case, "flaky");
    let restarts: Vec<u64> = ends.iter().map(|end| number(end, "/figures/restarts")).collect();
    assert_eq!(restarts, [2, 1, 0], "the newest first");
    assert!(ends.iter().all(|end| end["exit_code"] == 3 && number(end, "/figures/processes/executed") == 1));
    // Of one that is still there, inspect says the last.
    assert!(eventually(|| {
        parse(&run(&case, &["inspect", "-f", "{{json .Figures}}", "flaky"]).ok())["restarts"] == 2
    }));
    run(&case, &["rm", "flaky"]).ok();
    assert_eq!(parse(&run(&case, &["history", "flaky"]).ok()).as_array().map(Vec::len), Some(3));
}

#[test]
fn what_was_counted_is_known_to_the_next_daemon() {
    need!(can_count(), "root, and a kernel with BTF");
    let case = counting();
    let script = "probe forks 10; probe exit 0; exec probe trap";
    run(&case, &["run", "-d", "--rm", "--name", "it", fixture::small_root(), "sh", "-c", script]).ok();
    let executed = || {
        let figures = run(&case, &["inspect", "-f", "{{json .Figures}}", "it"]).ok();
        number(&parse(&figures), "/processes/executed")
    };
    assert!(eventually(|| executed() == 4), "{}", executed());
    let faults = {
        let figures = run(&case, &["inspect", "-f", "{{json .Figures.memory.minor_faults}}", "it"]).ok();
        figures.trim().parse::<u64>().expect("a number")
    };
    kill(daemon(&case), Signal::SIGKILL).expect("kill");
    assert_eq!(executed(), 4);
    run(&case, &["stop", "-t", "0", "it"]).ok();
    assert!(eventually(|| ends(&case, "it").len() == 1));
    let figures = &ends(&case, "it")[0]["figures"];
    assert_eq!(figures["missing"], serde_json::json!([]), "{figures}");
    assert_eq!(
        (number(figures, "/processes/created"), number(figures, "/processes/ended")),
        (13, 13),
        "{figures}"
    );
    assert!(number(figures, "/memory/minor_faults") >= faults, "{figures}");
}

#[test]
fn an_end_without_a_daemon_is_noted_by_the_next() {
    need!(can_count(), "root, and a kernel with BTF");
    let case = counting();
    let fifo = case.subdir("shared");
    nix::unistd::mkfifo(format!("{fifo}/go").as_str(), nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
    let volume = format!("{fifo}:/shared");
    let script = "read line < /shared/go; probe forks 10";
    run(
        &case,
        &["run", "-d", "--rm", "--name", "it", "-v", &volume, fixture::small_root(), "sh", "-c", script],
    )
    .ok();
    let document = parse(&run(&case, &["inspect", "it"]).ok());
    let first = i32::try_from(document[0]["State"]["Pid"].as_i64().expect("a pid")).expect("a pid");
    let pid: i32 =
        run(&case, &["version", "--format", "{{.Server.Pid}}"]).ok().trim().parse().expect("a pid");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill");
    fs::OpenOptions::new()
        .write(true)
        .open(format!("{fifo}/go"))
        .expect("open")
        .write_all(b"go\n")
        .expect("write");
    assert!(eventually(|| kill(Pid::from_raw(first), None).is_err()), "it ends without a daemon");
    run(&case, &["ps"]).ok();
    assert!(eventually(|| ends(&case, "it").len() == 1));
    let figures = &ends(&case, "it")[0]["figures"];
    assert_eq!(figures["missing"], serde_json::json!([]), "{figures}");
    // The shell, whose last command takes its place or not, and ten.
    let created = number(figures, "/processes/created");
    assert!((11..=12).contains(&created), "{figures}");
    assert_eq!(number(figures, "/processes/ended"), created, "{figures}");
}

#[test]
fn the_history_is_listed_filtered_and_survives_a_torn_line() {
    let case = Case::with_daemon();
    let root = fixture::small_root();
    for (name, code) in [("one", "0"), ("two", "7"), ("three", "0")] {
        run(&case, &["run", "--rm", "--name", name, root, "probe", "exit", code]);
        assert!(eventually(|| ends(&case, name).len() == 1));
    }
    let names = |words: &[&str]| run(&case, &[&["history", "--format", "{{.Name}}"], words].concat()).ok();
    assert_eq!(names(&[]), "three\ntwo\none\n");
    assert_eq!(names(&["--last", "1"]), "three\n");
    assert_eq!(names(&["--filter", "exited=7"]), "two\n");
    let table = run(&case, &["history"]).ok();
    assert!(table.starts_with("CONTAINER ID ") && table.lines().count() == 4, "{table}");
    let file = case.state.join("history");
    let whole = fs::read(&file).expect("the history");
    fs::write(&file, &whole[..whole.len() - 20]).expect("tear");
    let output = run(&case, &["history", "--format", "{{.Name}}"]);
    assert_eq!((output.code, output.stdout.as_str()), (0, "two\none\n"), "{output}");
    assert!(output.stderr.contains("1 lines of the history are torn"), "{output}");
    // The daemon that wrote the line has it open, and the next one ends it first.
    run(&case, &["daemon", "--stop"]).ok();
    run(&case, &["run", "--rm", "--name", "four", root, "probe", "exit", "0"]).ok();
    assert!(eventually(|| run(&case, &["history", "--format", "{{.Name}}"]).stdout == "four\ntwo\none\n"));
    run(&case, &["history", "nobody"]).fails(1, "no such image");
    run(&case, &["history", "--filter", "colour=red"]).fails(1, "invalid filter");
    run(&case, &["history", "--last", "x"]).fails(125, "--last");
}
