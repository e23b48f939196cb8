//! SIGKILL to the runtime at every system call of every command, and each of those calls failing: `delete --force` finds
//! and removes what is left, and a failure is one line. Then many commands at once, on one container and on many.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;

use crate::crash::{BEYOND_HELP, name, ordinals};
use crate::harness::live::{Live, Output};
use crate::harness::{installed, leak, need, parse, programs, time_limit};
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
    let traces = traces(bundle);
    assert!(traces.is_empty(), "after {after} and delete --force:\n{}", traces.join("\n"));
}

/// What is there of the bundle's container: its control groups, so its processes too, its directory and its mounts. The
/// bundle itself looks more closely when it goes.
fn traces(bundle: &Bundle) -> Vec<String> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    let groups = hierarchies.chain([root.to_owned()]).map(|hierarchy| hierarchy.join(&bundle.id));
    let state = fs::read_dir(bundle.dir.join("state")).into_iter().flatten().flatten();
    let found = groups.filter(|group| group.exists()).chain(state.map(|entry| entry.path()));
    let mut found: Vec<String> = found.map(|path| path.display().to_string()).collect();
    found.extend(leak::mounts_below(&bundle.dir));
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
        half_made += usize::from(output.code == -9 && !traces(bundle).is_empty());
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
    bundle.set("/hostname", "ship".into()).set_root("readonly", true);
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
/// create that has failed, but for what could not be removed, which `delete --force` removes.
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
        // Two of its processes may have failed then, a hook that undoes and one that does.
        let one_line = one_line || (whose == Whose::Everyones && said.lines().count() == 2);
        failed += usize::from(output.code != 0);
        if output.code != 0 && !(output.code > 0 && one_line) {
            wrong.push(format!("{name} number {ordinal}: {}: {said:?}", output.code));
        }
        let is_gone = || traces(&bundle).is_empty();
        let removes =
            ["unlinkat", "unlink", "rmdir", "kill", "pidfd_send_signal", "getdents64", "wait4", "waitid"];
        // `run` fails after its container has run, too.
        if output.code != 0 && verb == Verb::Create && !removes.contains(&&name[..]) && !until(is_gone) {
            wrong.push(format!("{name} number {ordinal} ({said:?}) leaves {:?}", traces(&bundle)));
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
    failure_of_any_call_of_the_child_is_one_line: Run, Everyones, "EIO", |_| true;
    failure_of_any_call_of_start_is_one_line: Start, Runtimes, "EIO", |_| true;
    failure_of_any_call_of_run_is_one_line: Run, Runtimes, "EIO", |_| true;
    failure_of_any_call_of_exec_is_one_line: Exec, Runtimes, "EIO", |_| true;
    failure_of_any_call_of_kill_is_one_line: Kill, Runtimes, "EIO", |_| true;
    failure_of_any_call_of_delete_is_one_line: Delete, Runtimes, "EIO", |_| true;
    a_full_disk_is_one_line: Create, Runtimes, "ENOSPC", |name| WRITES.contains(&name);
    a_full_table_of_files_is_one_line: Create, Runtimes, "EMFILE", |name| OPENS.contains(&name);
}

/// Containers whose bundles have nothing but a configuration; the root is that of one bundle, and read-only.
struct Fleet {
    hands: Hands,
    ids: Vec<String>,
    /// Goes last, and looks for what the others have left.
    _flagship: Bundle,
}

/// Commands on the containers of a fleet, from any thread.
struct Hands {
    dir: PathBuf,
}

impl Fleet {
    fn new(count: usize, args: &[&str]) -> Self {
        let mut flagship = Bundle::new();
        let root = flagship.inside("/").display().to_string();
        flagship.set("/root", serde_json::json!({ "path": root, "readonly": true })).args(args);
        let ids: Vec<String> = (0..count).map(|number| format!("{}-{number}", flagship.id)).collect();
        for id in &ids {
            let mut config = flagship.config.clone();
            config["linux"]["cgroupsPath"] = format!("/{id}").into();
            flagship.file(&format!("{id}/config.json"), &config.to_string());
        }
        Self { hands: Hands { dir: flagship.dir.clone() }, ids, _flagship: flagship }
    }
}

impl Hands {
    /// A command on one of them, started.
    fn start(&self, verb: &str, id: &str, more: &[&str]) -> Live {
        let errors = File::options().create(true).append(true).open(self.errors(verb, id));
        let mut command = self.command(verb, Some(id), more);
        command.stdout(Stdio::null()).stderr(errors.expect("a file for standard error"));
        Live::spawn(command, None, time_limit())
    }

    fn does(&self, verb: &str, id: &str, more: &[&str]) -> i32 {
        self.start(verb, id, more).finish().code
    }

    #[track_caller]
    fn must(&self, verb: &str, id: &str, more: &[&str]) {
        let code = self.does(verb, id, more);
        assert_eq!(code, 0, "{verb} {id}: {}", fs::read_to_string(self.errors(verb, id)).unwrap_or_default());
    }

    fn status(&self, id: &str) -> String {
        let output = self.asks("state", Some(id), &[]);
        let state = if output.code == 0 { parse(&output.stdout) } else { serde_json::Value::Null };
        state["status"].as_str().unwrap_or("none").to_owned()
    }

    fn asks(&self, verb: &str, id: Option<&str>, more: &[&str]) -> Output {
        let mut command = self.command(verb, id, more);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Live::spawn(command, None, time_limit()).finish()
    }

    fn errors(&self, verb: &str, id: &str) -> PathBuf {
        self.dir.join(format!("{id}/{verb}.errors"))
    }

    fn command(&self, verb: &str, id: Option<&str>, more: &[&str]) -> Command {
        let mut command = Command::new(programs::runtime());
        command.arg("--root").arg(self.dir.join("state")).arg(verb);
        if ["create", "run"].contains(&verb) {
            command.arg("--bundle").arg(self.dir.join(id.unwrap_or_default()));
        }
        command.args(id).args(more).stdin(Stdio::null());
        command
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for id in &self.ids {
            let _gone = self.hands.does("delete", id, &["--force"]);
        }
    }
}

#[test]
fn many_lives_at_once_do_not_disturb_each_other() {
    let fleet = Fleet::new(16, &["/bin/probe", "wait"]);
    std::thread::scope(|scope| {
        for id in &fleet.ids {
            let hands = &fleet.hands;
            scope.spawn(move || {
                for _ in 0..4 {
                    hands.must("create", id, &[]);
                    hands.must("start", id, &[]);
                    assert_eq!(hands.status(id), "running");
                    hands.must("exec", id, &["/bin/true"]);
                    hands.must("kill", id, &["KILL"]);
                    assert!(until(|| hands.status(id) == "stopped"), "{}", hands.status(id));
                    hands.must("delete", id, &[]);
                    assert_eq!(hands.status(id), "none");
                }
            });
        }
    });
}

#[test]
fn sixty_four_containers_run_at_once() {
    let fleet = Fleet::new(64, &["/bin/probe", "wait"]);
    let each = |verb, more: &[&str]| {
        let all: Vec<Live> = fleet.ids.iter().map(|id| fleet.hands.start(verb, id, more)).collect();
        all.into_iter().map(|live| live.finish().code).collect::<Vec<_>>()
    };
    assert_eq!(each("create", &[]), [0; 64]);
    assert_eq!(each("start", &[]), [0; 64]);
    let list = fleet.hands.asks("list", None, &["--quiet"]);
    assert_eq!(list.stdout.lines().count(), 64, "{list}");
    assert!(fleet.ids.iter().all(|id| fleet.hands.status(id) == "running"));
    assert_eq!(each("delete", &["--force"]), [0; 64]);
    assert_eq!(fleet.hands.asks("list", None, &["--quiet"]).stdout, "");
}

#[test]
fn of_many_starts_one_starts_it() {
    let fleet = Fleet::new(5, &["/bin/probe", "wait"]);
    for id in &fleet.ids {
        fleet.hands.must("create", id, &[]);
        let all: Vec<Live> = (0..8).map(|_| fleet.hands.start("start", id, &[])).collect();
        let codes: Vec<i32> = all.into_iter().map(|live| live.finish().code).collect();
        assert_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "{codes:?}");
        assert_eq!(fleet.hands.status(id), "running");
    }
}

#[test]
fn commands_that_race_with_delete_end() {
    let fleet = Fleet::new(12, &["/bin/probe", "wait"]);
    for id in &fleet.ids {
        let verbs: [(&str, &[&str]); 12] = [
            ("create", &[]),
            ("start", &[]),
            // A container that stops on its way to its program is not to hold up whoever starts it.
            ("pause", &[]),
            ("resume", &[]),
            ("delete", &["--force"]),
            ("create", &[]),
            ("start", &[]),
            ("exec", &["/bin/true"]),
            ("kill", &["KILL"]),
            ("delete", &["--force"]),
            ("delete", &[]),
            ("start", &[]),
        ];
        let all: Vec<Live> = verbs.iter().map(|(verb, more)| fleet.hands.start(verb, id, more)).collect();
        for (live, (verb, _)) in all.into_iter().zip(verbs) {
            let code = live.finish().code;
            let said = fs::read_to_string(fleet.hands.errors(verb, id)).unwrap_or_default();
            assert!(code >= 0 && !said.contains("panicked"), "{verb}: {said}");
        }
        fleet.hands.must("delete", id, &["--force"]);
        assert_eq!(fleet.hands.status(id), "none");
    }
}

#[test]
fn commands_that_are_killed_while_they_race_leave_what_delete_clears() {
    const OTHERS: [(&str, &[&str]); 12] = [
        ("start", &[]),
        ("delete", &["--force"]),
        ("kill", &["KILL"]),
        ("start", &[]),
        ("delete", &["--force"]),
        ("state", &[]),
        ("ps", &[]),
        ("pause", &[]),
        ("resume", &[]),
        ("run", &["--detach"]),
        ("kill", &["--all"]),
        ("delete", &[]),
    ];
    let fleet = Fleet::new(10, &["/bin/probe", "wait"]);
    let seed = std::time::UNIX_EPOCH.elapsed().expect("a time since 1970").as_nanos() as u64;
    let mut state = seed | 1;
    let mut draw = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) % below
    };
    for id in &fleet.ids {
        let creates = [("create", &[][..]); 16].map(|command| (draw(6), command));
        let others = OTHERS.map(|command| (draw(50), command));
        std::thread::scope(|scope| {
            for (begin_ms, (verb, more)) in creates.into_iter().chain(others) {
                let (hands, life_ms) = (&fleet.hands, draw(60));
                scope.spawn(move || {
                    std::thread::sleep(Duration::from_millis(begin_ms));
                    let live = hands.start(verb, id, more);
                    if life_ms < 20 {
                        std::thread::sleep(Duration::from_millis(life_ms));
                        live.signal(Signal::SIGKILL);
                    }
                    let code = live.finish().code;
                    assert!(code >= 0 || code == -9, "seed {seed}: {verb} ends with {code}");
                });
            }
        });
        fleet.hands.must("delete", id, &["--force"]);
        let left = || leak::of_containers(std::slice::from_ref(id));
        assert!(until(|| left().is_empty()), "seed {seed}:\n{}", left().join("\n"));
        assert!(!fleet.hands.dir.join("state").join(id).exists(), "seed {seed}: {id} is on record");
    }
}

/// What the directories that it finds are, and whether they are to stay when it goes, is decided when the id is its own.
#[test]
fn a_create_that_is_killed_leaves_no_cgroup_that_it_saw_of_the_one_before() {
    need!(installed("strace"), "strace");
    let mut bundle = Bundle::new();
    let first = bundle.wait_ready(&["/bin/probe", "wait"]);
    bundle.kill("KILL");
    bundle.wait(first);
    let log = bundle.dir.join("strace");
    let mut strace = Command::new("strace");
    // It stops where it claims the id, and dies before its cgroup bears a mark.
    strace.args([
        "-qq",
        "-e",
        "inject=mkdir:delay_enter=800000:when=1",
        "-e",
        "inject=fsetxattr:signal=SIGKILL",
    ]);
    strace.arg("-o").arg(&log);
    let create = Verb::Create.command(&bundle);
    strace.arg(create.get_program()).args(create.get_args()).stdout(Stdio::null()).stderr(Stdio::null());
    let create = Live::spawn(strace, None, time_limit());
    let length = || fs::metadata(&log).map_or(0, |found| found.len());
    assert!(until(|| {
        let before = length();
        std::thread::sleep(Duration::from_millis(100));
        before > 0 && length() == before
    }));
    bundle.delete();
    assert_eq!(create.finish().code, -9);
    clear(&bundle, "its death");
}

/// One that finds no cgroup v2 any more would else turn to the freezer of version 1, where the next container may be by then.
#[test]
fn a_pause_lets_the_next_container_of_its_id_alone() {
    need!(installed("strace"), "strace");
    let mut bundle = Bundle::new();
    bundle.args(&["/bin/probe", "wait"]).create();
    let groups = ["unified", "freezer"].map(|name| Path::new("/sys/fs/cgroup").join(name).join(&bundle.id));
    if groups.iter().any(|group| !group.exists()) {
        bundle.runtime(&["delete", "--force", &bundle.id]).ok();
        return crate::oci::lacks("cgroup v2 beside the freezer of version 1");
    }
    let mut strace = Command::new("strace");
    strace.args(["-qq", "-o"]).arg(bundle.dir.join("strace")).arg("-P").arg(&groups[0]);
    strace.arg("-P").arg(groups[1].join("freezer.state"));
    // The first is to see what state it is in.
    strace.args(["-e", "inject=openat:delay_enter=500000:when=2+"]);
    let pause = bundle.command(&["pause", &bundle.id]);
    strace.arg(pause.get_program()).args(pause.get_args()).stdout(Stdio::null()).stderr(Stdio::piped());
    let pause = Live::spawn(strace, None, time_limit());
    std::thread::sleep(Duration::from_millis(200));
    bundle.runtime(&["delete", "--force", &bundle.id]).ok();
    std::thread::sleep(Duration::from_millis(500));
    bundle.create();
    pause.finish();
    assert_eq!(bundle.status(), "created");
    bundle.runtime(&["delete", "--force", &bundle.id]).ok();
}

/// Whoever kills a container lets go on what is frozen, so that it dies: `pause` has no time to lose then, for it holds the lock.
#[test]
fn a_pause_that_is_taken_back_by_another_command_ends() {
    need!(installed("strace"), "strace");
    let mut bundle = Bundle::new();
    let first = bundle.wait_ready(&["/bin/probe", "wait"]);
    let hierarchies = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
    let files = hierarchies.map(|hierarchy| hierarchy.join(&bundle.id).join("cgroup.freeze"));
    let file = files.into_iter().find(|file| file.exists()).unwrap_or_default();
    need!(file.exists(), "cgroup v2 with cgroup.freeze");
    let mut strace = Command::new("strace");
    strace.args(["-qq", "-o"]).arg(bundle.dir.join("strace")).arg("-P").arg(&file);
    strace.args(["-e", "inject=write:delay_exit=400000:when=1"]);
    let pause = bundle.command(&["pause", &bundle.id]);
    strace.arg(pause.get_program()).args(pause.get_args()).stdout(Stdio::null()).stderr(Stdio::piped());
    let pause = Live::spawn(strace, None, time_limit());
    assert!(until(|| fs::read_to_string(&file).is_ok_and(|text| text.trim() == "1")));
    bundle.runtime(&["resume", &bundle.id]).ok();
    let output = pause.finish();
    assert!(output.code == 1 && output.stderr.contains("canceled"), "{output}");
    assert_eq!(bundle.status(), "running");
    bundle.kill("KILL");
    bundle.wait(first);
    bundle.delete();
}

#[test]
fn a_container_that_dies_on_its_own_can_be_deleted_at_once() {
    let fleet = Fleet::new(20, &["/bin/true"]);
    for id in &fleet.ids {
        fleet.hands.must("create", id, &[]);
        fleet.hands.must("start", id, &[]);
        assert!(until(|| fleet.hands.does("delete", id, &[]) == 0), "{}", fleet.hands.status(id));
    }
}

#[test]
fn kill_all_reaches_every_process_in_any_pid_namespace() {
    for shares_pids in [false, true] {
        let mut bundle = Bundle::new();
        if shares_pids {
            bundle.share("pid");
        }
        let script = "sleep 1000 & sleep 1000 & (setsid sleep 1000 &) ; exec probe wait";
        let first = bundle.wait_ready(&["/bin/sh", "-c", script]);
        let group = crate::oci::group("pids", &format!("/{}", bundle.id)).expect("a control group");
        let count = || fs::read_to_string(group.join("cgroup.procs")).map_or(0, |text| text.lines().count());
        assert!(until(|| count() == 4), "{}", count());
        bundle.runtime(&["kill", "--all", &bundle.id, "KILL"]).ok();
        assert!(until(|| count() == 0), "{} are left", count());
        bundle.wait(first);
        bundle.delete();
    }
}

#[test]
fn delete_takes_along_what_shares_the_hosts_pid_namespace() {
    let mut bundle = Bundle::new();
    let first = bundle.share("pid").wait_ready(&["/bin/sh", "-c", "sleep 1000 & exec probe wait"]);
    let group = crate::oci::group("pids", &format!("/{}", bundle.id)).expect("a control group");
    bundle.kill("KILL");
    bundle.wait(first);
    let others = fs::read_to_string(group.join("cgroup.procs")).expect("a control group");
    assert_eq!(others.lines().count(), 1, "{others}");
    bundle.runtime(&["delete", "--force", &bundle.id]).ok();
    assert!(!group.exists());
    bundle.wait(others.trim().parse().expect("a pid"));
}

/// When process `pid` has begun, in ticks since the machine has. proc_pid_stat(5), field 22.
fn start_time(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
    fields.split_whitespace().nth(19).and_then(|field| field.parse().ok()).expect("a number")
}

#[test]
fn a_process_that_has_got_the_pid_of_another_is_let_alone() {
    let mut bundle = Bundle::new();
    let first = bundle.wait_ready(&["/bin/probe", "wait"]);
    let state = bundle.dir.join("state").join(&bundle.id).join("state.json");
    need!(state.exists(), "a runtime that keeps its state as skiff-runtime does");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(first), nix::sys::signal::Signal::SIGKILL)
        .expect("kill");
    bundle.wait(first);
    // As if the number had come round: its process has begun at another time, which the kernel tells in hundredths of a second.
    let records = fs::read_to_string(&state).expect("the state");
    let mut record = parse(records.lines().last().expect("a record"));
    let now = || Command::new("sleep").arg("1000").spawn().expect("start sleep");
    let mut innocent = now();
    while start_time(innocent.id()) == record["init"]["start_time"] {
        innocent.kill().and_then(|()| innocent.wait()).expect("end sleep");
        innocent = now();
    }
    assert_eq!(record["init"]["pid"], first);
    record["init"]["pid"] = innocent.id().into();
    fs::write(&state, record.to_string()).expect("write the state");
    assert_eq!(bundle.status(), "stopped");
    let attempts = ["kill", "exec", "ps", "pause"].map(|verb| match verb {
        "kill" => bundle.runtime(&["kill", &bundle.id, "KILL"]),
        "exec" => bundle.runtime(&["exec", &bundle.id, "/bin/true"]),
        verb => bundle.runtime(&[verb, &bundle.id]),
    });
    let all = bundle.runtime(&["kill", "--all", &bundle.id, "KILL"]);
    let deleted = bundle.runtime(&["delete", "--force", &bundle.id]);
    let lives = innocent.try_wait().expect("it is this program's child").is_none();
    let _gone = innocent.kill().and_then(|()| innocent.wait());
    assert!(lives, "{attempts:?} {all} {deleted}");
    assert_eq!(deleted.code, 0, "{deleted}");
    assert!(attempts[..2].iter().all(|output| output.code > 0), "{attempts:?}");
}

#[test]
fn a_run_that_wakes_late_lets_another_container_of_its_id_alone() {
    let mut bundle = Bundle::new();
    bundle.args(&["/bin/probe", "wait"]).write();
    let command = bundle.command(&["run", "--bundle", &bundle.dir.display().to_string(), &bundle.id]);
    let run = Live::spawn(command, None, Duration::from_secs(60));
    assert!(until(|| bundle.runtime(&["state", &bundle.id]).code == 0 && bundle.status() == "running"));
    // Its program may run before it has let go of the container's directory, and it never would if it were stopped then.
    let is_let_go = || {
        let directory = File::open(bundle.dir.join("state").join(&bundle.id)).expect("its directory");
        Flock::lock(directory, FlockArg::LockSharedNonblock).is_ok()
    };
    assert!(until(is_let_go));
    run.signal(Signal::SIGSTOP);
    assert_eq!(bundle.runtime(&["delete", "--force", &bundle.id]).code, 0);
    let second = bundle.wait_ready(&["/bin/probe", "wait"]);
    run.signal(Signal::SIGCONT);
    run.finish();
    assert_eq!((bundle.status().as_str(), bundle.pid()), ("running", second));
    bundle.kill("KILL");
    bundle.wait(second);
    bundle.delete();
}
