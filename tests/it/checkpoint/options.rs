//! What criu can be asked for beyond the usual, each seen by what it does to a container.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::pty::openpty;
use serde_json::json;

use super::{
    COUNT, checkpoint, count, criu_works, launched, prepared, restore, restore_with, start, wait_until,
};
use crate::harness::{installed, need, patience};
use crate::oci::{Bundle, lacks};

/// A directory below the bundle's.
fn place(bundle: &Bundle, name: &str) -> String {
    bundle.dir.join(name).display().to_string()
}

/// `checkpoint` without what it takes: one line, and the container runs on.
#[track_caller]
fn is_refused(bundle: &Bundle, flags: &[&str]) {
    let images = place(bundle, "refused");
    let words = [&["checkpoint", "--image-path", &images], flags, &[bundle.id.as_str()]].concat();
    let output = bundle.runtime(&words);
    assert_eq!((output.code, output.stderr.lines().count()), (1, 1), "{output}");
    assert_eq!(bundle.status(), "running");
}

/// Files of pages in a directory of images.
fn pages(images: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(images).expect("a directory of images").flatten();
    let is_pages = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("pages-"))
    };
    entries.map(|entry| entry.path()).filter(is_pages).collect()
}

/// How large they are, and how much of that is kept, in bytes.
fn volume(images: &str) -> (u64, u64) {
    let all = pages(images);
    let all = all.iter().map(|path| fs::metadata(path).expect("a file of pages"));
    all.fold((0, 0), |(size, kept), file| (size + file.len(), kept + file.blocks() * 512))
}

/// A process on the side, which has to end well.
#[derive(Debug)]
struct Side(Child);

impl Side {
    fn start(words: &[&str]) -> Self {
        let mut criu = Command::new("criu");
        criu.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(criu.spawn().expect("start criu"))
    }

    #[track_caller]
    fn ends_well(mut self) {
        let done = self.0.wait().expect("wait for it");
        assert!(done.success(), "{self:?}: {done}");
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        // It has ended, unless the test fails.
        let _killed = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// Waits until somebody listens at a port of the host.
fn await_port(port: u16) {
    let line = format!(":{port:04X} 00000000:0000 0A");
    wait_until(|| fs::read_to_string("/proc/net/tcp").is_ok_and(|table| table.contains(&line)));
}

/// Waits until somebody listens at port 7000 of the container.
const LISTENS: &str = "until cat /proc/net/tcp* | grep -q :1B58; do sleep 0.1; done";

#[test]
fn a_connection_stays_established() {
    if !criu_works() {
        return;
    }
    let server = "tail -f /dev/null | nc -l -p 7000 > got &";
    let client =
        "(while :; do i=$((i+1)); echo $i; sleep 0.1; done) | nc 127.0.0.1 7000 & echo 1 > count; wait";
    let bundle = start(&format!("{server} {LISTENS}; {client}"));
    let got = || fs::read_to_string(bundle.dir.join("data/got")).unwrap_or_default();
    wait_until(|| got().lines().count() > 3);
    is_refused(&bundle, &[]);

    let images = place(&bundle, "images");
    checkpoint(&bundle, &["--tcp-established", "--image-path", &images]);
    let before = got().lines().count();
    restore_with(&bundle, &images, &["--tcp-established"]);
    wait_until(|| got().lines().count() > before + 5);
    // Nothing is lost, and nothing has begun anew.
    for (line, number) in got().lines().zip(1..) {
        assert_eq!(line, number.to_string());
    }
    bundle.end();
}

/// How many connections to port 7000 there are in the container, by the side that listens and by the other.
#[track_caller]
fn connections(bundle: &Bundle) -> (usize, usize) {
    let pid = bundle.pid();
    let table = |name: &str| {
        let table = fs::read_to_string(format!("/proc/{pid}/net/{name}")).expect("its connections");
        assert!(table.contains("local_address"), "{table}");
        table
    };
    let tables = table("tcp") + &table("tcp6");
    let rows: Vec<Vec<&str>> = tables.lines().map(|line| line.split_whitespace().collect()).collect();
    // The fourth column is the state, `TCP_ESTABLISHED`.
    let count = |end: usize| rows.iter().filter(|row| row[end].ends_with(":1B58") && row[3] == "01").count();
    (count(1), count(2))
}

#[test]
fn a_connection_is_restored_as_closed() {
    if !criu_works() {
        return;
    }
    let (server, client) = ("tail -f /dev/null | nc -l -p 7000", "tail -f /dev/null | nc 127.0.0.1 7000");
    let bundle = start(&format!("{server} & {LISTENS}; {client} & wait"));
    wait_until(|| connections(&bundle) == (1, 1));
    let images = place(&bundle, "images");
    checkpoint(&bundle, &["--tcp-established", "--image-path", &images]);
    restore_with(&bundle, &images, &["--tcp-close"]);
    assert_eq!(connections(&bundle), (0, 0));
    bundle.end();
}

#[test]
fn a_connection_that_is_being_made_is_left_out() {
    if !criu_works() {
        return;
    }
    // Nobody accepts it.
    let client = "tail -f /dev/null | nc 127.0.0.1 7000";
    let bundle = start(&format!("nc -l -p 7000 & {LISTENS}; kill -STOP $!; {client} & wait"));
    wait_until(|| connections(&bundle) == (1, 1));
    is_refused(&bundle, &["--tcp-established"]);
    let images = place(&bundle, "images");
    checkpoint(&bundle, &["--tcp-established", "--tcp-skip-in-flight", "--image-path", &images]);
    restore_with(&bundle, &images, &["--tcp-established"]);
    assert_eq!(connections(&bundle).0, 0, "nobody had accepted it");
    bundle.end();
}

#[test]
fn an_open_file_that_has_lost_its_name_is_taken_along() {
    if !criu_works() {
        return;
    }
    let kept = "echo kept > one; ln one two; exec 3<> one; rm one; echo 1 > count";
    let bundle =
        start(&format!("{kept}; trap 'cat <&3 > got; mv got said' USR1; while :; do sleep 0.1; done"));
    wait_until(|| count(&bundle) == 1);
    is_refused(&bundle, &[]);
    let images = place(&bundle, "images");
    checkpoint(&bundle, &["--link-remap", "--image-path", &images]);
    restore(&bundle, &images);
    bundle.kill("USR1");
    let said = || fs::read_to_string(bundle.dir.join("data/said")).unwrap_or_default();
    wait_until(|| said() == "kept\n");
    assert!(!bundle.dir.join("data/one").exists());
    bundle.end();
}

#[test]
fn a_container_that_told_a_manager_goes_on() {
    if !criu_works() {
        return;
    }
    let bundle = Bundle::new();
    let path = bundle.dir.join("manager");
    let manager = UnixDatagram::bind(&path).expect("bind");
    // Reads what it is told, and so closes the descriptor of the barrier.
    let told = std::thread::spawn(move || (0..2).try_for_each(|_| manager.recv(&mut [0; 64]).map(drop)));
    let bundle = bundle.through(&["env".to_owned(), format!("NOTIFY_SOCKET={}", path.display())]);
    let say = "mkfifo said; probe say READY=1 > said & read line < said; kill $!; wait";
    let bundle = launched(prepared(bundle, &format!("{say}; {COUNT}")));
    told.join().expect("no panic").expect("two messages");
    wait_until(|| count(&bundle) > 2);
    let images = place(&bundle, "images");
    checkpoint(&bundle, &["--image-path", &images]);
    let before = count(&bundle);
    restore(&bundle, &images);
    wait_until(|| count(&bundle) > before + 2);
    bundle.end();
}

#[test]
fn a_socket_outside_is_connected_to_again() {
    if !criu_works() {
        return;
    }
    // criu sees sockets of the network namespace, and knows them by the path that they were bound to.
    let mut bundle = Bundle::new();
    bundle.share("network");
    let outside = bundle.subdir("outside");
    let path = outside.join("socket").display().to_string();
    bundle.mount(json!({ "destination": outside, "type": "bind", "source": outside, "options": ["bind"] }));
    let bundle = prepared(bundle, &format!("exec probe tell {path}"));
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(10) * patience())).expect("a time limit");
    let next = || -> u64 {
        let mut text = [0; 32];
        let length = socket.recv(&mut text).expect("a datagram");
        String::from_utf8_lossy(&text[..length]).parse().expect("a number")
    };
    let bundle = launched(bundle);
    assert_eq!((next(), next()), (1, 2));
    is_refused(&bundle, &[]);
    let images = place(&bundle, "images");
    checkpoint(&bundle, &["--ext-unix-sk", "--image-path", &images]);
    socket.set_nonblocking(true).expect("no waiting");
    let mut last = 2;
    let mut text = [0; 32];
    while let Ok(length) = socket.recv(&mut text) {
        last = String::from_utf8_lossy(&text[..length]).parse().expect("a number");
    }
    socket.set_nonblocking(false).expect("waiting");
    restore_with(&bundle, &images, &["--ext-unix-sk"]);
    assert_eq!((next(), next()), (last + 1, last + 2));
    bundle.end();
}

#[test]
fn a_terminal_of_the_caller_is_refused_even_as_a_shell_job() {
    if !criu_works() {
        return;
    }
    let bundle = prepared(Bundle::new(), COUNT);
    bundle.write();
    let terminal = openpty(None, None).expect("openpty");
    let stream = || Stdio::from(terminal.slave.try_clone().expect("dup"));
    let directory = bundle.dir.display().to_string();
    let mut create = bundle.command(&["create", "--bundle", &directory, &bundle.id]);
    let created = create.stdin(stream()).stdout(stream()).stderr(stream()).status();
    assert!(created.expect("run the runtime").success());
    bundle.start();
    wait_until(|| count(&bundle) > 1);
    // criu finds the file by its mount, which no mount namespace but the caller's has.
    is_refused(&bundle, &[]);
    is_refused(&bundle, &["--shell-job"]);
    bundle.end();
}

#[test]
fn a_lock_on_a_file_is_kept() {
    if !criu_works() {
        return;
    }
    let bundle = start("exec probe lock lock");
    let is_locked = || {
        let file = File::open(bundle.dir.join("data/lock")).expect("the locked file");
        Flock::lock(file, FlockArg::LockExclusiveNonblock).is_err()
    };
    wait_until(|| bundle.dir.join("data/lock").exists() && is_locked());
    is_refused(&bundle, &[]);
    let images = place(&bundle, "images");
    checkpoint(&bundle, &["--file-locks", "--image-path", &images]);
    assert!(!is_locked(), "nobody has it");
    restore_with(&bundle, &images, &["--file-locks"]);
    assert!(is_locked());
    bundle.end();
}

/// Counts, with some MiB of memory that do not change.
const LARGE: &str = "big=$(head -c 4000000 /dev/zero | tr '\\0' x); \
                     while :; do i=$((i+1)); echo $i > new; mv new count; sleep 0.1; done";

#[test]
fn what_is_in_a_parent_is_not_written_again() {
    if !criu_works() {
        return;
    }
    let bundle = start(LARGE);
    wait_until(|| count(&bundle) > 0);
    let [first, second] = ["1", "2"].map(|name| place(&bundle, name));
    checkpoint(&bundle, &["--pre-dump", "--image-path", &first]);
    let (size, kept) = volume(&first);
    assert!(size >= 4_000_000, "{size}");
    let before = count(&bundle);
    wait_until(|| count(&bundle) > before + 1);
    checkpoint(&bundle, &["--parent-path", "../1", "--auto-dedup", "--image-path", &second]);
    assert_eq!(fs::read_link(Path::new(&second).join("parent")).expect("a link"), Path::new("../1"));
    assert!(volume(&second).0 < 1_000_000, "{:?}", volume(&second));
    // What the second has, the first need not keep.
    assert!(volume(&first).0 == size && volume(&first).1 < kept, "{:?} {kept}", volume(&first));

    let before = count(&bundle);
    restore(&bundle, &second);
    wait_until(|| count(&bundle) > before + 1);
    // Nor does it keep what has become memory again.
    let third = place(&bundle, "3");
    checkpoint(&bundle, &["--image-path", &third]);
    assert!(volume(&third).1 >= 4_000_000, "{:?}", volume(&third));
    restore_with(&bundle, &third, &["--auto-dedup"]);
    assert!(volume(&third).1 < 1_000_000, "{:?}", volume(&third));
    bundle.end();
}

#[test]
fn pages_come_when_they_are_touched() {
    if !criu_works() {
        return;
    }
    let bundle = start(LARGE);
    wait_until(|| count(&bundle) > 0);
    let images = place(&bundle, "images");
    checkpoint(&bundle, &["--image-path", &images]);
    let before = count(&bundle);
    let pager = Side::start(&["lazy-pages", "--images-dir", &images, "-v4", "--log-file", "pager.log"]);
    wait_until(|| Path::new(&images).join("lazy-pages.socket").exists());
    restore_with(&bundle, &images, &["--lazy-pages"]);
    wait_until(|| count(&bundle) > before + 1);
    pager.ends_well();
    let log = fs::read_to_string(Path::new(&images).join("pager.log")).expect("a log");
    assert!(transferred(&log) > 900, "{log}");
    bundle.end();
}

/// How many pages criu says to have brought.
fn transferred(log: &str) -> u64 {
    let counts =
        log.lines().filter_map(|line| line.split_once("UFFD transferred pages: (")?.1.split_once('/'));
    counts.filter_map(|(count, _)| count.parse::<u64>().ok()).sum()
}

#[test]
fn pages_come_from_where_the_container_was() {
    if !criu_works() {
        return;
    }
    let bundle = start(LARGE);
    wait_until(|| count(&bundle) > 0);
    let (images, ready) = (place(&bundle, "images"), place(&bundle, "ready"));
    let words = ["checkpoint", "--lazy-pages", "--page-server", "127.0.0.1:27001", "--status-fd", "7"];
    let words = [&words[..], &["--image-path", &images, &bundle.id]].concat();
    let mut waiting = bundle.command(&words);
    let runtime = waiting.get_program().to_owned();
    let arguments: Vec<_> = waiting.get_args().map(ToOwned::to_owned).collect();
    waiting = Command::new("sh");
    waiting.args(["-c", &format!("exec \"$@\" 7> {ready}"), "sh"]).arg(runtime).args(arguments);
    waiting.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let waiting = Side(waiting.spawn().expect("start the runtime"));
    wait_until(|| fs::read(&ready).is_ok_and(|text| text == [0]));
    let before = count(&bundle);

    // The other side of a migration, with the files as they are here.
    let other = prepared(Bundle::new(), "true");
    other.write();
    // What a runtime makes there when it makes a container.
    fs::create_dir(other.inside("/data")).expect("a directory");
    fs::copy(bundle.dir.join("data/count"), other.dir.join("data/count")).expect("copy a file");
    let served = ["lazy-pages", "--page-server", "--address", "127.0.0.1", "--port", "27001"];
    let work = other.subdir("work").display().to_string();
    let pager = Side::start(&[&served[..], &["--images-dir", &images, "--work-dir", &work]].concat());
    wait_until(|| Path::new(&work).join("lazy-pages.socket").exists());
    restore_with(&other, &images, &["--lazy-pages", "--work-path", &work]);
    wait_until(|| count(&other) > before + 1);
    pager.ends_well();
    waiting.ends_well();
    assert_eq!(count(&bundle), before, "it has stopped here");
    assert_ne!(bundle.runtime(&["state", &bundle.id]).code, 0, "and is gone");
    other.end();
}

#[test]
fn pages_go_to_a_server() {
    if !criu_works() {
        return;
    }
    let bundle = start(LARGE);
    wait_until(|| count(&bundle) > 0);
    let [images, served] = ["images", "served"].map(|name| place(&bundle, name));
    fs::create_dir(&served).expect("a directory");
    let words = ["page-server", "--images-dir", &served, "--address", "127.0.0.1", "--port", "27002"];
    let server = Side::start(&words);
    await_port(27002);
    checkpoint(&bundle, &["--page-server", "127.0.0.1:27002", "--image-path", &images]);
    server.ends_well();
    assert_eq!(pages(&images), [] as [PathBuf; 0]);
    assert!(volume(&served).0 >= 4_000_000, "{:?}", volume(&served));
    for entry in fs::read_dir(&served).expect("what has been served").flatten() {
        fs::rename(entry.path(), Path::new(&images).join(entry.file_name())).expect("move an image");
    }
    let before = count(&bundle);
    restore(&bundle, &images);
    wait_until(|| count(&bundle) > before + 1);
    bundle.end();
}

#[test]
fn an_empty_network_namespace_is_left_to_the_hooks() {
    if !criu_works() {
        return;
    }
    let mut bundle = prepared(Bundle::new(), COUNT);
    bundle.capable(&["CAP_NET_ADMIN"]);
    let bundle = launched(bundle);
    wait_until(|| count(&bundle) > 0);
    let ip = |words: &[&str]| {
        let output = bundle.runtime(&[&["exec", &bundle.id, "/bin/ip"], words].concat());
        assert_eq!(output.code, 0, "{output}");
        output.stdout
    };
    ip(&["address", "add", "10.1.2.3/32", "dev", "lo"]);
    let images = place(&bundle, "images");
    checkpoint(&bundle, &["--leave-running", "--image-path", &images]);
    bundle.end();
    restore(&bundle, &images);
    assert!(ip(&["address"]).contains("10.1.2.3"));
    let images = place(&bundle, "empty");
    checkpoint(&bundle, &["--empty-ns", "network", "--image-path", &images]);
    restore_with(&bundle, &images, &["--empty-ns", "network"]);
    assert!(!ip(&["address"]).contains("10.1.2.3"));
    bundle.end();
}

#[test]
fn cgroups_within_the_container_are_restored_unless_they_are_ignored() {
    if !criu_works() {
        return;
    }
    let group = "/sys/fs/cgroup/within";
    let enter = format!("mkdir {group}; echo $$ > {group}/cgroup.procs");
    let mut bundle = prepared(Bundle::new(), &format!("{enter}; {COUNT}"));
    bundle.mount(
        json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"] }),
    );
    let bundle = launched(bundle);
    wait_until(|| count(&bundle) > 0);
    let own = format!("0::/{}", bundle.id);
    let within = || {
        let groups = fs::read_to_string(format!("/proc/{}/cgroup", bundle.pid())).expect("its cgroup");
        groups.trim().strip_prefix(&own).expect("in its own").to_owned()
    };
    assert_eq!(within(), "/within");
    for (mode, expected) in [("soft", "/within"), ("full", "/within"), ("ignore", "")] {
        let images = place(&bundle, mode);
        let flags = ["--manage-cgroups-mode", mode];
        checkpoint(&bundle, &[&flags[..], &["--image-path", &images]].concat());
        restore_with(&bundle, &images, &flags);
        assert_eq!(within(), expected, "{mode}");
    }
    // What is made for the container is there, and criu wants to have made it.
    let images = place(&bundle, "strict");
    checkpoint(&bundle, &["--image-path", &images]);
    let directory = bundle.dir.display().to_string();
    let words = ["restore", "--detach", "--bundle", &directory, "--manage-cgroups-mode", "strict"];
    let output = bundle.runtime(&[&words[..], &["--image-path", &images, &bundle.id]].concat());
    assert_eq!((output.code, output.stderr.lines().count()), (1, 1), "{output}");
}

#[test]
fn a_profile_of_apparmor_is_exchanged_for_another() {
    if !criu_works() {
        return;
    }
    if !Path::new("/sys/kernel/security/apparmor/profiles").exists() {
        return lacks("AppArmor");
    }
    need!(installed("apparmor_parser"), "apparmor_parser");
    let profile = |name: &str| {
        format!(
            "profile {name} flags=(attach_disconnected,mediate_deleted) {{\n\
             file, mount, umount, pivot_root, capability, network, signal, ptrace, unix,\n}}\n"
        )
    };
    let mut bundle = prepared(Bundle::new(), COUNT);
    let [first, second] = ["skiff-test-first", "skiff-test-second"];
    let policy = bundle.file("policy", &(profile(first) + &profile(second)));
    let loaded = Command::new("apparmor_parser").arg("--replace").arg(&policy).status();
    assert!(loaded.expect("start apparmor_parser").success());
    bundle.set("/process/apparmorProfile", first.into());
    let bundle = launched(bundle);
    wait_until(|| count(&bundle) > 0);
    let label = || fs::read_to_string(format!("/proc/{}/attr/current", bundle.pid())).expect("a label");
    assert_eq!(label(), format!("{first} (enforce)\n"));
    for (profile, expected) in [(None, first), (Some(format!("apparmor:{second}")), second)] {
        let images = place(&bundle, expected);
        checkpoint(&bundle, &["--image-path", &images]);
        let flags: Vec<&str> = profile.iter().flat_map(|profile| ["--lsm-profile", profile]).collect();
        let before = count(&bundle);
        restore_with(&bundle, &images, &flags);
        wait_until(|| count(&bundle) > before + 1);
        assert_eq!(label(), format!("{expected} (enforce)\n"));
    }
    bundle.end();
    let removed = Command::new("apparmor_parser").arg("--remove").arg(&policy).status();
    assert!(removed.expect("start apparmor_parser").success());
}
