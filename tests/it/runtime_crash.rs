//! SIGKILL to the runtime at every system call of every command, and each of those calls failing: `delete --force` finds
//! and removes what is left, and a failure is one line. Then many commands at once, on one container and on many.

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::crash::{BEYOND_HELP, name, ordinals};
use crate::harness::live::{Live, Output};
use crate::harness::{installed, leak, need, time_limit};
use crate::oci::Bundle;

/// A command under test, on the container of a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Create,
    Start,
    Run,
    Exec,
    Kill,
    Delete,
}

impl Verb {
    /// Brings the container to where the command makes sense.
    fn prepare(self, bundle: &Bundle) {
        let steps: &[&[&str]] = match self {
            Self::Create | Self::Run => &[],
            Self::Start => &[&["create"]],
            Self::Exec | Self::Kill => &[&["create"], &["start"]],
            Self::Delete => &[&["create"], &["start"], &["kill", "KILL"]],
        };
        for step in steps {
            let output = finish(bundle, self.words_of(bundle, step));
            assert_eq!(output.code, 0, "{output}\n{}", errors(bundle));
        }
        if self == Self::Delete {
            until(|| bundle.runtime(&["state", &bundle.id]).stdout.contains("\"stopped\""));
        }
    }

    /// The command itself.
    fn command(self, bundle: &Bundle) -> Command {
        self.words_of(
            bundle,
            match self {
                Self::Create => &["create"],
                Self::Start => &["start"],
                Self::Run => &["run"],
                Self::Exec => &["exec", "/bin/true"],
                Self::Kill => &["kill", "TERM"],
                Self::Delete => &["delete"],
            },
        )
    }

    fn words_of(self, bundle: &Bundle, words: &[&str]) -> Command {
        let directory = bundle.dir.display().to_string();
        let place: &[&str] =
            if ["create", "run"].contains(&words[0]) { &["--bundle", &directory] } else { &[] };
        bundle.command(&[&words[..1], place, &[&bundle.id], &words[1..]].concat())
    }

    /// What the container runs: `run` waits for its end.
    fn program(self) -> &'static [&'static str] {
        if self == Self::Run { &["/bin/true"] } else { &["/bin/probe", "wait"] }
    }
}

/// Whose calls.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Runtimes,
    /// Also of all processes that it makes, up to the program.
    Everyones,
}

/// Runs a command to its end; its container inherits nothing that this waits for.
fn finish(bundle: &Bundle, mut command: Command) -> Output {
    let errors = File::create(bundle.dir.join("errors")).expect("a file for standard error");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
    Live::spawn(command, None, time_limit()).finish()
}

/// What the last command wrote to standard error.
fn errors(bundle: &Bundle) -> String {
    fs::read_to_string(bundle.dir.join("errors")).unwrap_or_default()
}

/// The command under strace.
fn traced(bundle: &Bundle, whose: Whose, more: &[&str], command: &Command) -> Output {
    let mut strace = Command::new("strace");
    strace.args(["-qq", "-o"]).arg(bundle.dir.join("strace"));
    if whose == Whose::Everyones {
        strace.arg("-f");
    }
    strace.args(more).arg(command.get_program()).args(command.get_args());
    finish(bundle, strace)
}

/// The system calls of the command in order, each with how many of its name there were up to it.
fn calls(bundle: &Bundle, verb: Verb, whose: Whose) -> Vec<(String, usize)> {
    verb.prepare(bundle);
    let output = traced(bundle, whose, &[], &verb.command(bundle));
    assert_eq!(output.code, 0, "{output}\n{}", errors(bundle));
    let log = fs::read_to_string(bundle.dir.join("strace")).expect("a log");
    clear(bundle, "the first");
    if whose == Whose::Runtimes {
        return ordinals(log.lines().filter_map(name).collect());
    }
    // Each line starts with a process id; those of the runtime itself are tested alone.
    let lines: Vec<(&str, &str)> = log.lines().filter_map(|line| line.split_once(' ')).collect();
    let others = lines.iter().filter(|(pid, _)| *pid != lines[0].0);
    let names = others.filter_map(|(_, line)| name(line.trim_start()));
    ordinals(names.take_while(|name| *name != "execve").collect())
}

/// `delete --force`, after which nothing may be left.
#[track_caller]
fn clear(bundle: &Bundle, after: &str) {
    let output = bundle.runtime(&["delete", "--force", &bundle.id]);
    assert_eq!(output.code, 0, "after {after}: {output}");
    // A process that has been killed needs a moment to be gone.
    let is_clear = until(|| leaks(bundle).iter().all(|leak| !leak.starts_with("process")));
    let leaks = leaks(bundle);
    assert!(is_clear && leaks.is_empty(), "after {after} and delete --force:\n{}", leaks.join("\n"));
}

/// What is there of the bundle's container.
fn leaks(bundle: &Bundle) -> Vec<String> {
    let mut found = leak::of_containers(std::slice::from_ref(&bundle.id));
    found.extend(leak::of_directory(&bundle.dir));
    let state = fs::read_dir(bundle.dir.join("state")).into_iter().flatten().flatten();
    found.extend(state.map(|entry| format!("file {}", entry.path().display())));
    found
}

/// Waits until it holds, two seconds at most.
fn until(holds: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(2) * crate::harness::patience();
    while !holds() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

/// Kills the command at every `step`-th call; `delete --force` must clear all that is left.
fn survives_death_anywhere(bundle: &mut Bundle, verb: Verb, step: usize) {
    bundle.args(verb.program()).write();
    let calls = calls(bundle, verb, Whose::Runtimes);
    let (mut kills, mut half_made) = (0, 0);
    for (name, ordinal) in calls.iter().step_by(step) {
        verb.prepare(bundle);
        let inject = format!("inject={name}:signal=SIGKILL:when={ordinal}");
        let output = traced(bundle, Whose::Runtimes, &["-e", &inject], &verb.command(bundle));
        assert!([-9, 0].contains(&output.code), "neither killed nor finished: {output}\n{}", errors(bundle));
        kills += usize::from(output.code == -9);
        half_made += usize::from(output.code == -9 && !leaks(bundle).is_empty());
        clear(bundle, &format!("a kill at {name} number {ordinal}"));
    }
    let planned = calls.len().div_ceil(step);
    assert!(kills * 10 >= planned * 9, "only {kills} of {planned} kills hit");
    assert!(half_made * 4 >= kills, "only {half_made} of {kills} kills left anything to clean up");
}

/// What is asked of a container that has something of everything.
fn with_everything() -> Bundle {
    let mut bundle = Bundle::new();
    let data = bundle.subdir("data").display().to_string();
    bundle.mount(serde_json::json!({ "destination": "/data", "type": "bind", "source": data, "options": ["rbind", "ro"] }));
    bundle.mount(serde_json::json!({ "destination": "/scratch", "type": "tmpfs", "source": "tmpfs" }));
    bundle
        .set("/linux/resources/memory/limit", (64 << 20).into())
        .set("/linux/resources/pids/limit", 50.into());
    bundle.set("/linux/maskedPaths", serde_json::json!(["/proc/keys", "/proc/acpi"]));
    bundle.set("/linux/readonlyPaths", serde_json::json!(["/proc/sys"]));
    bundle.set("/hostname", "ship".into()).set("/root/readonly", true.into());
    for kind in ["createRuntime", "createContainer", "poststart", "poststop"] {
        let program = if kind == "createContainer" {
            bundle.inside("/bin/true").display().to_string()
        } else {
            "/bin/true".into()
        };
        bundle.set(&format!("/hooks/{kind}"), serde_json::json!([{ "path": program }]));
    }
    bundle
}

macro_rules! deaths {
    ($($test:ident: $bundle:expr, $verb:ident, $step:literal;)+) => {
        $(
            #[test]
            fn $test() {
                need!(installed("strace"), "strace");
                survives_death_anywhere(&mut $bundle, Verb::$verb, $step);
            }
        )+
    };
}

deaths! {
    death_at_any_call_of_create_leaves_what_delete_clears: Bundle::new(), Create, 1;
    death_at_any_call_of_create_with_everything_leaves_what_delete_clears: with_everything(), Create, 3;
    death_at_any_call_of_start_leaves_what_delete_clears: Bundle::new(), Start, 1;
    death_at_any_call_of_run_leaves_what_delete_clears: Bundle::new(), Run, 1;
    death_at_any_call_of_exec_leaves_what_delete_clears: Bundle::new(), Exec, 1;
    death_at_any_call_of_kill_leaves_what_delete_clears: Bundle::new(), Kill, 1;
    death_at_any_call_of_delete_leaves_what_delete_clears: with_everything(), Delete, 1;
}

/// The calls that may find a disk full, and those that may find the table of descriptors full.
const WRITES: [&str; 9] =
    ["write", "pwrite64", "mkdir", "mkdirat", "symlinkat", "linkat", "renameat2", "rename", "ftruncate"];
const OPENS: [&str; 9] =
    ["open", "openat", "openat2", "dup", "socketpair", "socket", "pipe2", "memfd_create", "pidfd_open"];

/// Makes each call fail in turn. The command succeeds all the same, or fails with one line; nothing is left after a
/// create or run that has failed, and what could not be removed `delete --force` removes.
fn survives_failure_anywhere(verb: Verb, whose: Whose, error: &str, which: impl Fn(&str) -> bool) {
    let mut bundle = if whose == Whose::Everyones { with_everything() } else { Bundle::new() };
    bundle.args(verb.program()).write();
    let (mut failed, mut wrong) = (0, Vec::new());
    let calls = calls(&bundle, verb, whose);
    for (name, ordinal) in calls.iter().filter(|(name, _)| !BEYOND_HELP.contains(&&name[..]) && which(name)) {
        verb.prepare(&bundle);
        let inject = format!("inject={name}:error={error}:when={ordinal}");
        let output = traced(&bundle, whose, &["-e", &inject], &verb.command(&bundle));
        let said = errors(&bundle);
        // The write that fails may be that of the message.
        let one_line = said.lines().count() == 1 || (name == "write" && said.is_empty());
        failed += usize::from(output.code != 0);
        if output.code != 0 && !(output.code > 0 && one_line) {
            wrong.push(format!("{name} number {ordinal}: {}: {said:?}", output.code));
        }
        let is_gone = || leaks(&bundle).is_empty();
        let removes =
            ["unlinkat", "unlink", "rmdir", "kill", "pidfd_send_signal", "getdents64", "wait4", "waitid"];
        let makes = verb == Verb::Create || verb == Verb::Run;
        if output.code != 0 && makes && !removes.contains(&&name[..]) && !until(is_gone) {
            wrong.push(format!("{name} number {ordinal} ({said:?}) leaves {:?}", leaks(&bundle)));
        }
        clear(&bundle, &format!("{name} number {ordinal} has failed"));
    }
    assert!(wrong.is_empty(), "{} of {} calls:\n{}", wrong.len(), calls.len(), wrong.join("\n"));
    assert!(failed > 0, "no failure was noticed");
}

macro_rules! failures {
    ($($test:ident: $verb:ident, $whose:ident, $error:literal, $which:expr;)+) => {
        $(
            #[test]
            fn $test() {
                need!(installed("strace"), "strace");
                survives_failure_anywhere(Verb::$verb, Whose::$whose, $error, $which);
            }
        )+
    };
}

failures! {
    failure_of_any_call_of_create_is_one_line: Create, Runtimes, "EIO", |_| true;
    failure_of_any_call_of_creates_child_is_one_line: Create, Everyones, "EIO", |_| true;
    failure_of_any_call_of_start_is_one_line: Start, Runtimes, "EIO", |_| true;
    failure_of_any_call_of_run_is_one_line: Run, Runtimes, "EIO", |_| true;
    failure_of_any_call_of_exec_is_one_line: Exec, Runtimes, "EIO", |_| true;
    failure_of_any_call_of_kill_is_one_line: Kill, Runtimes, "EIO", |_| true;
    failure_of_any_call_of_delete_is_one_line: Delete, Runtimes, "EIO", |_| true;
    a_full_disk_is_one_line: Create, Runtimes, "ENOSPC", |name| WRITES.contains(&name);
    a_full_table_of_files_is_one_line: Create, Runtimes, "EMFILE", |name| OPENS.contains(&name);
}
