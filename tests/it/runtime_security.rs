//! Attacks on the OCI runtime itself: on its binary, through what it brings along, and while it enters a container.
//!
//! Those on the file tree stand in `tree.rs`; those that `skiff run` must withstand too, in `security.rs`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::statvfs::{FsFlags, statvfs};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::live::{Live, Output};
use crate::harness::pty::Terminal;
use crate::harness::{Skiff, installed, need, parse, programs, time_limit};
use crate::oci::{Bundle, has_ended};
use crate::tree::{is_untouched, treasure, without};

/// A copy of the runtime that is told from all others by its size, for containers to prey on.
struct Prey {
    path: PathBuf,
    size: u64,
    digest: Vec<u8>,
}

impl Prey {
    fn new(bundle: &Bundle, more: usize) -> Self {
        let path = bundle.dir.join("runtime-copy");
        let bytes = [fs::read(programs::runtime()).expect("the runtime"), vec![b'x'; more]].concat();
        fs::write(&path, &bytes).expect("copy the runtime");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
        let digest = Sha256::digest(&bytes).to_vec();
        Self { path, size: bytes.len() as u64, digest }
    }

    /// Runs the copy.
    fn runs(&self, bundle: &Bundle, words: &[&str]) -> Output {
        let mut command = Command::new(&self.path);
        command.arg("--root").arg(bundle.dir.join("state")).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Live::spawn(command, None, time_limit()).finish()
    }

    #[track_caller]
    fn is_unharmed(&self) {
        let now = Sha256::digest(fs::read(&self.path).expect("the copy")).to_vec();
        assert_eq!(now, self.digest, "the runtime was changed");
    }
}

/// A program of the image that anyone may run.
fn program(bundle: &Bundle, name: &str, bytes: &[u8]) {
    fs::write(bundle.inside(name), bytes).expect("a program");
    fs::set_permissions(bundle.inside(name), fs::Permissions::from_mode(0o755)).expect("chmod");
}

/// A program whose interpreter, which the kernel loads, is `/proc/self/exe`. elf(5).
fn interpreted() -> Vec<u8> {
    const INTERPRETER: &[u8] = b"/proc/self/exe\0";
    const BASE: u64 = 0x40_0000;
    let machine: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    let end = 64 + 2 * 56 + INTERPRETER.len() as u64;
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    for (value, size) in
        [(2, 2), (u64::from(machine), 2), (1, 4), (BASE + 64, 8), (64, 8), (0, 8), (0, 4), (64, 2)]
    {
        bytes.extend(&value.to_le_bytes()[..size]);
    }
    for value in [56u16, 2, 64, 0, 0] {
        bytes.extend(value.to_le_bytes());
    }
    let segments = [(3u32, 4u32, 64 + 2 * 56, INTERPRETER.len() as u64, 1u64), (1, 5, 0, end, 0x1000)];
    for (kind, flags, offset, size, align) in segments {
        bytes.extend(kind.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        for value in [offset, BASE + offset, BASE + offset, size, size, align] {
            bytes.extend(value.to_le_bytes());
        }
    }
    bytes.extend(INTERPRETER);
    bytes
}

/// While a container in the host's PID namespace waits for the copy to show up, and then writes into it, `attack` makes
/// the copy run inside another container, again and again (CVE-2019-5736).
fn survives(more: usize, is_seen: bool, prepare: impl Fn(&mut Bundle), attack: impl Fn(&Prey, &Bundle)) {
    let mut victim = Bundle::new();
    let prey = Prey::new(&victim, more);
    prepare(&mut victim);
    let mut hunter = Bundle::new();
    let hunt = format!("echo ready; exec probe hunt {}", prey.size);
    let hunting = hunter.share("pid").wait_ready(&["/bin/sh", "-c", &hunt]);
    for turn in 0..300 {
        if turn >= 30 && has_ended(hunting) {
            break;
        }
        attack(&prey, &victim);
    }
    let verdict = hunter.rest();
    prey.is_unharmed();
    // As a program's interpreter it is gone before anyone sees it.
    let refusals = ["EROFS\n", "EPERM\n", "nothing\n"];
    let refusals = &refusals[..if is_seen { 2 } else { 3 }];
    assert!(refusals.contains(&verdict.as_str()), "{verdict} {}", hunter.errors());
    let _ended = hunter.runtime(&["delete", "--force", &hunter.id]);
}

fn run(prey: &Prey, victim: &Bundle) {
    let bundle = victim.dir.display().to_string();
    let _any_end = prey.runs(victim, &["run", "--bundle", &bundle, &victim.id]);
}

/// What a process runs from, and what it has mapped and open of it, cannot be written through.
#[test]
fn nothing_of_a_waiting_init_leads_to_a_binary_that_can_be_written_to() {
    let mut victim = Bundle::new();
    let prey = Prey::new(&victim, 11);
    victim.args(&["/bin/true"]).write();
    let bundle = victim.dir.display().to_string();
    assert_eq!(prey.runs(&victim, &["create", "--bundle", &bundle, &victim.id]).code, 0);
    let init = PathBuf::from(format!("/proc/{}", victim.pid()));
    let below = |directory: &str| fs::read_dir(init.join(directory)).expect("of a process of ours");
    let links = below("map_files").chain(below("fd")).map(|entry| entry.expect("a link").path());
    let mut found = 0;
    for link in links.chain([init.join("exe")]) {
        // Sockets and the like are no files.
        if !fs::metadata(&link).is_ok_and(|seen| seen.len() == prey.size) {
            continue;
        }
        found += 1;
        // While it runs nobody can write to it anyway (ETXTBSY).
        let mount = statvfs(&link).expect("what it leads to");
        assert!(mount.flags().contains(FsFlags::ST_RDONLY), "{}", link.display());
    }
    assert!(found > 2, "{found}");
    let _ended = prey.runs(&victim, &["delete", "--force", &victim.id]);
    prey.is_unharmed();
}

#[test]
fn the_binary_as_entry_point_cannot_be_overwritten() {
    survives(5, true, |victim| victim.args(&["/proc/self/exe", "features"]).write(), run);
}

#[test]
fn the_binary_as_a_scripts_interpreter_cannot_be_overwritten() {
    let prepare = |victim: &mut Bundle| {
        program(victim, "/bait", b"#!/proc/self/exe\n");
        victim.args(&["/bait"]).write();
    };
    survives(6, true, prepare, run);
}

#[test]
fn the_binary_as_a_programs_interpreter_cannot_be_overwritten() {
    let prepare = |victim: &mut Bundle| {
        program(victim, "/bait", &interpreted());
        victim.args(&["/bait"]).write();
    };
    survives(7, false, prepare, run);
}

#[test]
fn the_binary_cannot_be_overwritten_when_it_enters_a_container() {
    let prepare = |victim: &mut Bundle| {
        victim.wait_ready(&["/bin/probe", "wait"]);
        // What an attacker inside puts in the place of a program that is often run.
        fs::remove_file(victim.inside("/bin/true")).expect("remove a program");
        program(victim, "/bin/true", b"#!/proc/self/exe\n");
    };
    survives(8, true, prepare, |prey, victim| {
        let _any_end = prey.runs(victim, &["exec", &victim.id, "/bin/true"]);
    });
}

#[test]
fn the_runtime_cannot_be_looked_into_while_it_enters() {
    let mut bundle = Bundle::new();
    let prey = Prey::new(&bundle, 9);
    let hunt = format!("echo ready; exec probe hunt {}", prey.size);
    bundle.wait_ready(&["/bin/sh", "-c", &hunt]);
    for turn in 0..50 {
        let code = prey.runs(&bundle, &["exec", &bundle.id, "/bin/true"]).code;
        // On a slow machine the hunt may be over first.
        if code != 0 && turn > 5 && bundle.status() == "stopped" {
            break;
        }
        assert_eq!(code, 0, "{turn}");
    }
    assert_eq!(bundle.rest(), "nothing\n");
    prey.is_unharmed();
}

/// Commands that enter no container run from the file itself: nobody in a container may come by it through them.
#[test]
fn the_binary_of_commands_that_enter_no_container_is_within_no_containers_reach() {
    let mut victim = Bundle::new();
    let prey = Prey::new(&victim, 10);
    victim.args(&["/bin/probe", "wait"]).write();
    let hunt = format!("echo ready; exec probe hunt {}", prey.size);
    let (mut apart, mut beside) = (Bundle::new(), Bundle::new());
    apart.wait_ready(&["/bin/sh", "-c", &hunt]);
    beside.share("pid").wait_ready(&["/bin/sh", "-c", &hunt]);
    for _ in 0..20 {
        victim.create();
        for words in [&["state", &victim.id][..], &["start", &victim.id], &["ps", &victim.id], &["list"]] {
            assert_eq!(prey.runs(&victim, words).code, 0, "{words:?}");
        }
        assert_eq!(prey.runs(&victim, &["kill", &victim.id, "KILL"]).code, 0);
        assert_eq!(prey.runs(&victim, &["delete", "--force", &victim.id]).code, 0);
    }
    for hunter in [apart, beside] {
        assert_eq!(hunter.rest(), "nothing\n");
    }
    prey.is_unharmed();
}

/// The runtime, started with a directory of the host open at descriptor 7 and others.
fn with_leaks(bundle: &Bundle, treasure: &Path, words: &[&str]) -> Output {
    let leaks = ["7", "3", "200"].map(|fd| format!("fd={fd}:{}", treasure.display()));
    let state = bundle.dir.join("state").display().to_string();
    let (runtime, probe) =
        (programs::runtime().display().to_string(), programs::probe().display().to_string());
    let before = [&probe[..], "with", &leaks[0], &leaks[1], &leaks[2], "--", &runtime, "--root", &state];
    Skiff::tool(&[&before, words].concat()).output()
}

#[test]
fn a_working_directory_cannot_be_a_descriptor_of_the_runtime() {
    let mut bundle = Bundle::new();
    let treasure = treasure(&bundle);
    let path = bundle.dir.display().to_string();
    let mut places: Vec<String> = (3..24).map(|fd| format!("/proc/self/fd/{fd}")).collect();
    places.extend([
        "/link".into(),
        "/proc/1/cwd".into(),
        ["/proc/self/root", ".."].join("/"),
        "/proc/thread-self/cwd".into(),
    ]);
    symlink("/proc/self/fd/7", bundle.inside("/link")).expect("a link");
    let reads = ["probe", "try", "read", "gold", "read", "../../../../../etc/shadow"];
    let leaks = |output: &Output| output.stdout.contains("gold") || output.stdout.contains("root:");
    for place in &places {
        bundle.set("/process/cwd", place.as_str().into()).args(&reads).write();
        let output = with_leaks(&bundle, &treasure, &["run", "--bundle", &path, &bundle.id]);
        assert!(!leaks(&output), "{place}: {output}");
    }
    bundle.set("/process/cwd", "/".into()).wait_ready(&["/bin/probe", "wait"]);
    for place in &places {
        let words = [&["exec", "--cwd", place, &bundle.id], &reads[..]].concat();
        let output = with_leaks(&bundle, &treasure, &words);
        assert!(!leaks(&output), "{place}: {output}");
    }
    bundle.end();
    is_untouched(&treasure);
}

#[test]
fn descriptors_of_the_runtime_stay_outside() {
    let mut bundle = Bundle::new();
    let treasure = treasure(&bundle);
    let path = bundle.dir.display().to_string();
    let open = |output: &Output| {
        let seen = parse(&output.stdout);
        seen["fds"].as_object().expect("descriptors").keys().cloned().collect::<Vec<_>>()
    };
    bundle.args(&["/bin/probe", "see"]).write();
    let output = with_leaks(&bundle, &treasure, &["run", "--bundle", &path, &bundle.id]);
    assert_eq!(open(&output), ["0", "1", "2"], "{output}");
    bundle.wait_ready(&["/bin/probe", "wait"]);
    let output = with_leaks(&bundle, &treasure, &["exec", &bundle.id, "/bin/probe", "see"]);
    assert_eq!(open(&output), ["0", "1", "2"], "{output}");
    bundle.end();
}

#[test]
fn hooks_get_no_descriptor_of_the_runtime() {
    for kind in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
        let mut bundle = Bundle::new();
        let (treasure, list) = (treasure(&bundle), bundle.dir.join("descriptors"));
        // The last is that of the directory itself.
        let script = format!("ls /proc/self/fd > {}", list.display());
        let hook = json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"] });
        bundle.set(&format!("/hooks/{kind}"), json!([hook])).args(&["/bin/probe", "see"]).write();
        let path = bundle.dir.display().to_string();
        with_leaks(&bundle, &treasure, &["run", "--bundle", &path, &bundle.id]).ok();
        assert_eq!(fs::read_to_string(&list).expect("the list"), "0\n1\n2\n3\n", "{kind}");
    }
}

/// Makes the runtime mount a tmpfs with these options in a mount namespace of its own, in whose place it goes on by `words`.
fn with_source(bundle: Bundle, options: &str, words: &str) -> Bundle {
    let source = bundle.subdir("source");
    let script = format!("mount -t tmpfs -o {options} tmpfs {}; exec {words} \"$@\"", source.display());
    bundle.through(
        &["unshare", "--mount", "--propagation=private", "sh", "-ec", &script, "sh"].map(str::to_owned),
    )
}

#[test]
fn flags_that_the_host_has_given_a_mount_stay_in_a_user_namespace() {
    // Of the container's own, and of the runtime's.
    for (is_own, words) in [(true, ""), (false, "unshare --user --map-root-user --mount")] {
        let mut bundle = with_source(Bundle::new(), "nosuid,nodev,noexec", words);
        if is_own {
            let map = json!([{ "containerID": 0, "hostID": 0, "size": 65536 }]);
            bundle.set("/linux/namespaces/-", json!({ "type": "user" }));
            bundle.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
        } else {
            // There is no other group.
            let terminals = json!({ "destination": "/dev/pts", "type": "devpts", "source": "devpts" });
            bundle.set("/mounts/2", terminals);
        }
        let mount =
            json!({ "destination": "/mnt", "source": bundle.dir.join("source"), "options": ["bind", "ro"] });
        let seen = bundle.mount(mount).see();
        let mount =
            seen["mounts"].as_array().and_then(|mounts| mounts.iter().find(|it| it["target"] == "/mnt"));
        let options = mount.expect("it is mounted")["options"].as_str().expect("a list").to_owned();
        assert_eq!(options, "ro,nosuid,nodev,noexec,relatime", "{words}");
    }
}

/// What a process of the container sees if its runtime was started by `setpriv WORDS`: its first, and one more.
fn seen_from(words: &[&str]) -> [Value; 2] {
    let mut bundle = Bundle::new();
    let state = bundle.dir.join("state").display().to_string();
    let path = bundle.dir.display().to_string();
    let runtime = programs::runtime().display().to_string();
    let by = |more: &[&str]| {
        let words = [&["setpriv"], words, &["--", &runtime, "--root", &state], more].concat();
        parse(&Skiff::tool(&words).output().ok())
    };
    bundle.args(&["/bin/probe", "see"]).write();
    let first = by(&["run", "--bundle", &path, &bundle.id]);
    bundle.wait_ready(&["/bin/probe", "wait"]);
    let other = by(&["exec", &bundle.id, "/bin/probe", "see"]);
    bundle.end();
    [first, other]
}

#[test]
fn groups_of_the_caller_stay_outside() {
    need!(installed("setpriv"), "setpriv");
    for seen in seen_from(&["--groups=7777,8888"]) {
        assert_eq!(seen["status"]["Groups"], "", "{}", seen["status"]);
    }
}

#[test]
fn capabilities_of_the_caller_stay_outside() {
    need!(installed("setpriv"), "setpriv");
    for seen in seen_from(&["--inh-caps=+net_raw,+sys_admin", "--ambient-caps=+net_raw,+sys_admin"]) {
        let status = &seen["status"];
        assert_eq!(
            (&status["CapAmb"], &status["CapInh"]),
            (&json!("0000000000000000"), &json!("0000000000000000"))
        );
        assert_eq!(status["CapEff"], status["CapBnd"], "{status}");
        let bounding = u64::from_str_radix(status["CapBnd"].as_str().expect("a set"), 16).expect("a number");
        assert_eq!(bounding & (1 << 21), 0, "CAP_SYS_ADMIN is left: {status}");
    }
}

#[test]
fn the_session_keyring_of_the_caller_stays_outside() {
    /// keyctl(2) and KEYCTL_GET_KEYRING_ID of the session keyring.
    const KEYCTL: &str = if cfg!(target_arch = "aarch64") { "219" } else { "250" };
    const SESSION: &str = "0,0xfffffffffffffffd,0";
    let probe = programs::probe().display().to_string();
    let ask = ["try", "syscall", KEYCTL, SESSION];
    let ours = Skiff::tool(&[&[&probe[..]], &ask[..]].concat()).output().ok();
    let mut bundle = Bundle::new();
    let ask = [&["/bin/probe"], &ask[..]].concat();
    let theirs = bundle.args(&ask).run();
    assert!(theirs.trim().parse::<i64>().is_ok_and(|id| id > 0), "{theirs}");
    assert_ne!(theirs, ours);
    // Asked for otherwise, it is the caller's, which also shows that the question means something.
    bundle.write();
    let path = bundle.dir.display().to_string();
    let shared = bundle.runtime(&["run", "--no-new-keyring", "--bundle", &path, &bundle.id]).ok();
    assert_eq!(shared, ours);
}

#[test]
fn a_console_planted_in_the_image_is_not_used() {
    let mut bundle = Bundle::new();
    let treasure = treasure(&bundle);
    // The image's own directory, whose links the runtime would follow.
    without(&mut bundle, "/dev");
    without(&mut bundle, "/dev/pts");
    without(&mut bundle, "/dev/shm");
    without(&mut bundle, "/dev/mqueue");
    symlink(treasure.join("gold"), bundle.inside("/dev/console")).expect("a link");
    symlink(&treasure, bundle.inside("/dev/pts")).expect("a link");
    symlink(treasure.join("gold"), bundle.inside("/dev/ptmx")).expect("a link");
    bundle.set("/process/terminal", true.into());
    bundle.args(&["/bin/sh", "-c", "echo iron > /dev/console; echo iron > /dev/ptmx"]).write();
    let (state, path) = (bundle.dir.join("state").display().to_string(), bundle.dir.display().to_string());
    let runtime = programs::runtime().display().to_string();
    let command = Skiff::tool(&[&runtime, "--root", &state, "run", "--bundle", &path, &bundle.id]);
    let _any_end = Terminal::start(&command, 24, 80).finish();
    is_untouched(&treasure);
}

#[test]
fn a_terminal_is_taken_from_a_devpts_alone() {
    let mut bundle = Bundle::new();
    let treasure = treasure(&bundle);
    let fake = |place: &Path| {
        fs::write(place.join("ptmx"), "fake").expect("a file");
        (0..8).for_each(|n| symlink(treasure.join("gold"), place.join(n.to_string())).expect("a link"));
    };
    let place = bundle.subdir("pts");
    fake(&place);
    let pts = json!({ "destination": "/dev/pts", "source": place, "options": ["bind"] });
    bundle.mount(pts).set("/process/terminal", true.into());
    bundle.args(&["/bin/sh", "-c", "echo iron"]).write();
    let (state, path) = (bundle.dir.join("state").display().to_string(), bundle.dir.display().to_string());
    let runtime = programs::runtime().display().to_string();
    let words = ["--root", &state, "run", "--bundle", &path, &bundle.id];
    let command = Skiff::tool(&[&[&runtime[..]], &words[..]].concat());
    let (code, screen) = Terminal::start(&command, 24, 80).finish();
    assert!(code == 1 && screen.contains("terminal") && !screen.contains("iron"), "{screen}");
    is_untouched(&treasure);
    // The device of terminals leads to whatever instance lies beside it.
    let mut bundle = Bundle::new();
    without(&mut bundle, "/dev/pts");
    bundle.mount(json!({ "destination": "/dev/pts", "type": "tmpfs" }));
    bundle.mount(json!({ "destination": "/dev/pts/pts", "type": "devpts", "options": ["ptmxmode=666"] }));
    bundle.set("/linux/devices", json!([{ "path": "/dev/pts/ptmx", "type": "c", "major": 5, "minor": 2 }]));
    bundle.set("/process/terminal", true.into()).args(&["/bin/sh", "-c", "echo iron"]).write();
    let (state, path) = (bundle.dir.join("state").display().to_string(), bundle.dir.display().to_string());
    let words = ["--root", &state, "run", "--bundle", &path, &bundle.id];
    let command = Skiff::tool(&[&[&runtime[..]], &words[..]].concat());
    let (code, screen) = Terminal::start(&command, 24, 80).finish();
    assert!(code == 1 && screen.contains("terminal") && !screen.contains("iron"), "{screen}");
    // The same by containers that may mount, with a file and with the device in the place of its instance's.
    let device =
        "mknod /dev/pts/ptmx c 5 2; mkdir /dev/pts/pts; mount -t devpts -o ptmxmode=666 other /dev/pts/pts";
    for plant in ["echo fake > /dev/pts/ptmx", device] {
        let mut bundle = Bundle::new();
        bundle.capable(&["CAP_SYS_ADMIN"]);
        let script = format!("set -e; mount -t tmpfs fake /dev/pts; {plant}; exec probe wait");
        bundle.wait_ready(&["/bin/sh", "-c", &script]);
        let state = bundle.dir.join("state").display().to_string();
        let words = ["--root", &state, "exec", "--tty", &bundle.id, "echo", "iron"];
        let command = Skiff::tool(&[&[&runtime[..]], &words[..]].concat());
        let (code, screen) = Terminal::start(&command, 24, 80).finish();
        assert!(code == 255 && screen.contains("terminal") && !screen.contains("iron"), "{plant}: {screen}");
        bundle.end();
    }
}

#[test]
fn what_a_container_puts_in_the_place_of_its_null_device_is_nobodys_input() {
    let mut bundle = Bundle::new();
    let input = ["/bin/stat", "-L", "-c", "%F %t:%T", "/proc/self/fd/0"];
    for plant in ["mkfifo /dev/null", "ln -s zero /dev/null", "echo fake > /dev/null"] {
        bundle.wait_ready(&["/bin/sh", "-c", &format!("rm /dev/null && {plant} && exec probe wait")]);
        let seen = bundle.runtime(&[&["exec", &bundle.id], &input[..]].concat()).ok();
        assert_eq!(seen, "character special file 1:3\n", "{plant}");
        bundle.end();
    }
}

#[test]
fn who_cannot_enter_a_namespace_runs_nothing_elsewhere() {
    need!(installed("strace"), "strace");
    let mut bundle = Bundle::new();
    bundle.wait_ready(&["/bin/probe", "wait"]);
    let look = "for name in mnt pid net ipc uts cgroup; do readlink /proc/self/ns/$name; done";
    let exec = |inject: &str| {
        let words = ["exec", &bundle.id, "/bin/sh", "-c", look];
        let runtime = bundle.command(&words);
        let mut strace = Command::new("strace");
        strace.args(["-qq", "-f", "-o", "/dev/null", "-e", "trace=setns", "-e", inject]);
        strace.arg(runtime.get_program()).args(runtime.get_args());
        strace.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Live::spawn(strace, None, time_limit()).finish()
    };
    let inside = exec("trace=setns").ok();
    assert_eq!(inside.lines().count(), 6);
    let mut refused = 0;
    // EINVAL is what a kernel says that takes no process for its namespaces: one after the other is entered there.
    for error in ["EINVAL", "EPERM", "EIO"] {
        for number in 1..=9 {
            let output = exec(&format!("inject=setns:error={error}:when={number}"));
            let is_refused = output.code == 255 && output.stdout.is_empty();
            assert!(is_refused || output.stdout == inside, "{error} {number}: {output}");
            refused += usize::from(is_refused);
        }
    }
    assert!(refused >= 4, "{refused}");
    // All at once, as this kernel can, refused to the child alone.
    let runtime = bundle.command(&["exec", &bundle.id, "/bin/sh", "-c", look]);
    let mut denied = Command::new(programs::probe());
    denied.args(["with", "deny=setns", "--"]).arg(runtime.get_program()).args(runtime.get_args());
    denied.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = Live::spawn(denied, None, time_limit()).finish();
    assert_eq!((output.code, output.stdout.as_str()), (255, ""), "{output}");
    bundle.end();
}

#[test]
fn processes_of_the_host_are_out_of_reach() {
    let mut bundle = Bundle::new();
    let me = std::process::id();
    let paths = ["root/etc/hostname", "cwd", "exe", "environ"].map(|name| format!("/proc/{me}/{name}"));
    let pid = me.to_string();
    let tried =
        ["read", &paths[0], "list", &paths[1], "open-r", &paths[2], "read", &paths[3], "ptrace", &pid];
    let verdicts = bundle.share("pid").attempt(&tried);
    assert_eq!(verdicts, ["EACCES", "EACCES", "EACCES", "EACCES", "EPERM"]);
}
