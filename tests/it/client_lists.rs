//! What the client shows of containers: lists, documents, figures, logs.

use std::os::unix::fs::MetadataExt;

use serde_json::Value;

use crate::harness::{Case, Output, fixture, parse};
use crate::peers::world::eventually;

fn run(case: &Case, words: &[&str]) -> Output {
    case.skiff(words).output()
}

/// Two containers: `web` runs, `job` has ended with 3.
fn two(case: &Case) {
    let root = fixture::small_root();
    run(case, &["run", "--name", "job", "-l", "kind=batch", root, "sh", "-c", "exit 3"]);
    run(case, &["run", "-d", "--name", "web", "-l", "kind=service", root, "probe", "trap"]).ok();
}

#[test]
fn lists_show_what_is_asked_for() {
    let case = Case::with_daemon();
    two(&case);
    let names = |words: &[&str]| run(&case, &[&["ps", "--format", "{{.Names}}"], words].concat()).ok();
    assert_eq!(names(&[]), "web\n");
    assert_eq!(names(&["-a"]), "web\njob\n", "the newest first");
    assert_eq!(names(&["-l"]), "web\n");
    assert_eq!(names(&["-n", "2"]), "web\njob\n");
    assert_eq!(names(&["-f", "status=exited"]), "job\n");
    assert_eq!(names(&["-a", "-f", "label=kind=batch"]), "job\n");
    assert_eq!(names(&["-a", "-f", "exited=3"]), "job\n");
    assert_eq!(names(&["-f", "name=w"]), "web\n");
    run(&case, &["ps", "-f", "colour=red"]).fails(1, "invalid filter 'colour'");
    run(&case, &["ps", "--format", "{{.Nope}}"]).fails(1, "Nope");
    run(&case, &["ps", "--format", "{{"]).fails(1, "template");
    run(&case, &["ps", "web"]).fails(1, "unexpected argument: web");
}

#[test]
fn a_table_has_docker_s_columns() {
    let case = Case::with_daemon();
    two(&case);
    let table = run(&case, &["ps", "-a"]).ok();
    let lines: Vec<&str> = table.lines().collect();
    let columns = ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"];
    assert_eq!(
        lines[0].split("  ").map(str::trim).filter(|name| !name.is_empty()).collect::<Vec<_>>(),
        columns
    );
    assert!(
        lines[1].contains("\"probe trap\"") && lines[1].contains("Up ") && lines[1].ends_with("web"),
        "{table}"
    );
    assert!(lines[2].contains("Exited (3) ") && lines[2].ends_with("job"), "{table}");
    let json = run(&case, &["ps", "--format", "json"]).ok();
    let one = parse(json.trim_end());
    assert_eq!(
        (&one["Names"], &one["State"], &one["Labels"]),
        (&"web".into(), &"running".into(), &"kind=service".into())
    );
}

#[test]
fn documents_tell_everything() {
    let case = Case::with_daemon();
    two(&case);
    let document = parse(&run(&case, &["inspect", "web", "job"]).ok());
    let [web, job] = document.as_array().expect("a list").as_slice() else { panic!("{document}") };
    assert_eq!((&web["Name"], &web["State"]["Running"]), (&"/web".into(), &true.into()));
    assert_eq!(web["Config"]["Labels"]["kind"], "service");
    assert_eq!(web["Path"], "probe");
    assert_eq!((&job["State"]["Status"], &job["State"]["ExitCode"]), (&"exited".into(), &3.into()));
    let line = run(&case, &["inspect", "-f", "{{.Name}} {{json .State.ExitCode}}", "job"]).ok();
    assert_eq!(line, "/job 3\n");
    run(&case, &["inspect"]).fails(1, "no container given");
}

#[test]
fn sizes_are_of_what_a_container_has_written_and_of_its_image() {
    let case = Case::with_daemon();
    run(&case, &["import", &fixture::small_tar().display().to_string(), "web"]).ok();
    let script = "head -c 3000000 /dev/zero > /file";
    run(&case, &["run", "--name", "job", "web", "sh", "-c", script]).ok();
    let bytes = |words: &[&str]| run(&case, words).ok().trim_end().to_owned();
    let inspected =
        bytes(&["inspect", "--size", "--format", "{{.SizeRw}} {{.SizeRootFs}} {{.Image}}", "job"]);
    let [written, whole, id] = inspected.split(' ').collect::<Vec<_>>()[..] else { panic!("{inspected}") };
    let of_image: u64 = bytes(&["image", "inspect", "--format", "{{.Size}}", id]).parse().expect("bytes");
    assert_eq!((written, whole), ("3000000", (of_image + 3_000_000).to_string().as_str()));
    let size = bytes(&["ps", "-a", "--format", "{{.Size}}"]);
    assert!(size.starts_with("3MB (virtual "), "{size}");
    let table = bytes(&["ps", "-as"]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].ends_with("SIZE") && lines[1].ends_with(&size), "{table}");
}

#[test]
fn figures_are_those_of_the_container() {
    let case = Case::with_daemon();
    two(&case);
    let json = run(&case, &["stats", "--no-stream", "--format", "json"]).ok();
    let lines: Vec<Value> = json.lines().map(parse).collect();
    let [web] = lines.as_slice() else { panic!("{json}") };
    assert_eq!((&web["Name"], &web["PIDs"]), (&"web".into(), &"1".into()), "{web}");
    let table = run(&case, &["stats", "--no-stream", "web"]).ok();
    assert!(table.starts_with("CONTAINER ID   NAME"), "{table}");
}

#[test]
fn memory_and_transfers_are_counted_without_limits_too() {
    let case = Case::with_daemon();
    let script = r#"x=$(head -c 8388608 /dev/zero | tr '\0' a); printf %s "$x" | dd of=/file bs=64k conv=fsync 2>/dev/null; echo ready; read line"#;
    run(&case, &["run", "-d", "-i", "--name", "web", fixture::small_root(), "sh", "-c", script]).ok();
    assert!(eventually(|| run(&case, &["logs", "web"]).ok() == "ready\n"));
    let format = "{{.MemUsage}} {{.BlockIO}}";
    let figures = run(&case, &["stats", "--no-stream", "--format", format, "web"]).ok();
    let [used, _, _, _, _, written] = figures.split_whitespace().collect::<Vec<_>>()[..] else {
        panic!("{figures}")
    };
    assert!(used.ends_with("MiB"), "{figures}");
    // Files in memory are written to no device.
    let is_on_disk = std::fs::metadata(&case.state).is_ok_and(|it| nix::sys::stat::major(it.dev()) != 0);
    assert!(!is_on_disk || written.ends_with("MB"), "{figures}");
}

#[test]
fn logs_keep_what_was_written() {
    let case = Case::with_daemon();
    let script = "echo one; echo two >&2; sleep 0.2; echo three";
    run(&case, &["run", "-d", "--name", "job", fixture::small_root(), "sh", "-c", script]).ok();
    // Follows until the end.
    let output = run(&case, &["logs", "-f", "job"]);
    assert_eq!(
        (output.code, output.stdout.as_str(), output.stderr.as_str()),
        (0, "one\nthree\n", "two\n"),
        "{output}"
    );
    assert_eq!(run(&case, &["logs", "-n", "1", "job"]).ok(), "three\n");
    assert_eq!(run(&case, &["logs", "--tail=0", "job"]).ok(), "");
    assert_eq!(run(&case, &["logs", "--since", "2100-01-01", "job"]).ok(), "");
    let stamped = run(&case, &["logs", "-t", "--tail", "1", "job"]).ok();
    let (time, text) = stamped.split_once(' ').expect("a time");
    assert!(time.starts_with("20") && time.ends_with('Z') && text == "three\n", "{stamped}");
    run(&case, &["logs", "--since", "yesterday", "job"]).fails(1, "not a time");
    if !std::path::Path::new("/run/systemd/journal/socket").exists() {
        let words = ["create", "--log-driver", "journald", fixture::small_root(), "true"];
        run(&case, &words).fails(1, "journal");
    }
    run(&case, &["run", "-d", "--name", "mute", "--log-driver", "none", fixture::small_root(), "true"]).ok();
    run(&case, &["logs", "mute"]).fails(1, "reading");
}

#[test]
fn who_attaches_sees_what_is_written_and_can_write() {
    let case = Case::with_daemon();
    run(
        &case,
        &[
            "run",
            "-d",
            "-i",
            "--name",
            "echo",
            fixture::small_root(),
            "sh",
            "-c",
            "while read l; do echo got $l; [ $l = end ] && exit 6; done",
        ],
    )
    .ok();
    let mut live = case.skiff(&["attach", "echo"]).stdin_open().start();
    live.send(b"hello\n");
    live.until("got hello");
    live.send(b"end\n");
    live.until("got end");
    assert_eq!(live.finish().code, 6);
    assert_eq!(run(&case, &["logs", "echo"]).ok(), "got hello\ngot end\n");
    assert!(eventually(|| run(&case, &["attach", "echo"]).code == 1), "it runs no more");
}

#[test]
fn every_command_has_a_help_that_stands_alone() {
    let case = Case::new();
    for command in ["run", "create", "ps", "rm", "logs", "exec", "stats", "attach", "daemon"] {
        let help = run(&case, &[command, "--help"]).ok();
        assert!(help.starts_with(&format!("Usage: skiff {command} ")), "{help}");
        assert_eq!(run(&case, &["help", command]).ok(), help);
    }
    let overview = run(&case, &["--help"]).ok();
    assert!(overview.contains("\n  logs ") && overview.contains("\n  observe "), "{overview}");
    run(&case, &["stop"]).fails(1, "no container given");
    run(&case, &["exec", "web"]).fails(1, "no command given");
    run(&case, &["logs", "--details", "x"]).fails(125, "--details is not supported yet");
    run(&case, &["rm", "--link", "x"]).fails(125, "unknown flag: --link");
    run(&case, &["system", "dial-stdio"]).fails(125, "unknown command: system dial-stdio");
}
