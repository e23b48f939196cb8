//! `NOTIFY_SOCKET`: programs that tell the service manager of whoever starts them that they are ready. sd_notify(3).

use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::process::Stdio;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::json;

use crate::checkpoint::wait_until;
use crate::harness::live::Live;
use crate::harness::time_limit;
use crate::oci::Bundle;
use crate::oci::bundle::succeeds;

/// Messages that a manager knows and that are not the container's to send, and among them the one that is, twice.
const MUCH: [&str; 5] =
    ["STATUS=up", "MAINPID=1\nWATCHDOG=1", "X=1\nREADY=1\nMAINPID=1", "READY=1", "STOPPING=1"];

/// In the place of systemd.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    /// It, and a bundle whose runtime is told of it.
    fn new() -> (Self, Bundle) {
        let bundle = Bundle::new();
        let path = bundle.dir.join("manager");
        let socket = UnixDatagram::bind(&path).expect("bind");
        let bundle = told_of(bundle, &path.display().to_string());
        (Self { socket, path }, bundle)
    }

    /// The next message. Descriptors that come along are closed, as systemd does with those of a barrier.
    #[track_caller]
    fn hear(&self) -> String {
        let left = PollTimeout::try_from(time_limit()).expect("a time");
        let came = poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], left).expect("poll");
        assert_eq!(came, 1, "no message");
        let mut bytes = [0; 4096];
        let count = self.socket.recv(&mut bytes).expect("receive");
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    }

    /// Nothing more has come.
    #[track_caller]
    fn hears_nothing(&self) {
        self.socket.set_nonblocking(true).expect("fcntl");
        let more = self.socket.recv(&mut [0; 1]).map_err(|error| error.kind());
        assert_eq!(more, Err(io::ErrorKind::WouldBlock));
        self.socket.set_nonblocking(false).expect("fcntl");
    }
}

fn told_of(bundle: Bundle, address: &str) -> Bundle {
    bundle.through(&["env".to_owned(), format!("NOTIFY_SOCKET={address}")])
}

/// Starts a command of the runtime and does not wait for it.
fn begin(bundle: &Bundle, words: &[&str]) -> Live {
    let mut command = bundle.command(words);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    Live::spawn(command, None, time_limit())
}

fn says(bundle: &mut Bundle, messages: &[&str]) {
    bundle.args(&[&["/bin/probe", "say"], messages].concat());
}

#[test]
fn start_tells_the_manager_once_and_nothing_else_that_the_container_says() {
    let (manager, mut bundle) = Manager::new();
    says(&mut bundle, &MUCH);
    let pid = bundle.create().pid();
    let start = begin(&bundle, &["start", &bundle.id]);
    assert_eq!(manager.hear(), format!("READY=1\nMAINPID={pid}"));
    assert_eq!(manager.hear(), "BARRIER=1");
    succeeds(&start.finish());
    manager.hears_nothing();
    bundle.end();
    assert_eq!(fs::read_dir(bundle.dir.join("state")).expect("its directory").count(), 0);
}

#[test]
fn start_waits_until_the_program_is_ready() {
    let (manager, mut bundle) = Manager::new();
    let script = "trap 'probe say READY=1' USR1; echo trapped; sleep 1000 & wait; wait";
    let pid = bundle.args(&["/bin/sh", "-c", script]).create().pid();
    let start = begin(&bundle, &["start", &bundle.id]);
    assert_eq!(bundle.line(), "trapped");
    assert_eq!(bundle.status(), "running");
    manager.hears_nothing();
    assert!(fs::exists(format!("/proc/{}/exe", start.pid())).expect("procfs"), "it waits no more");
    bundle.kill("USR1");
    assert_eq!(manager.hear(), format!("READY=1\nMAINPID={pid}"));
    assert_eq!(manager.hear(), "BARRIER=1");
    succeeds(&start.finish());
    bundle.end();
}

#[test]
fn start_waits_no_longer_than_the_program_runs() {
    let (manager, mut bundle) = Manager::new();
    let pid = bundle.args(&["/bin/true"]).create().pid();
    bundle.start();
    bundle.wait(pid);
    bundle.delete();
    manager.hears_nothing();
}

#[test]
fn a_program_that_is_ready_and_ends_has_been_ready() {
    let (manager, mut bundle) = Manager::new();
    let script = "mkfifo /said; probe say READY=1 > /said & read line < /said";
    let pid = bundle.args(&["/bin/sh", "-c", script]).create().pid();
    let start = begin(&bundle, &["start", &bundle.id]);
    assert_eq!(manager.hear(), format!("READY=1\nMAINPID={pid}"));
    assert_eq!(manager.hear(), "BARRIER=1");
    succeeds(&start.finish());
    bundle.wait(pid);
    bundle.delete();
}

#[test]
fn run_that_leaves_names_the_containers_process() {
    let (manager, mut bundle) = Manager::new();
    says(&mut bundle, &MUCH);
    bundle.write();
    let run = begin(&bundle, &["run", "--detach", "--bundle", &bundle.dir.display().to_string(), &bundle.id]);
    let ready = manager.hear();
    assert_eq!(manager.hear(), "BARRIER=1");
    succeeds(&run.finish());
    assert_eq!(ready, format!("READY=1\nMAINPID={}", bundle.pid()));
    bundle.end();
}

#[test]
fn run_that_stays_names_itself() {
    let (manager, mut bundle) = Manager::new();
    says(&mut bundle, &MUCH);
    bundle.write();
    let run = begin(&bundle, &["run", "--bundle", &bundle.dir.display().to_string(), &bundle.id]);
    assert_eq!(manager.hear(), format!("READY=1\nMAINPID={}", run.pid()));
    assert_eq!(bundle.status(), "running");
    bundle.kill("KILL");
    assert_eq!(run.finish().code, 137);
    manager.hears_nothing();
}

#[test]
fn run_that_stays_reads_no_more_once_the_program_is_ready() {
    let (manager, mut bundle) = Manager::new();
    // More than fits into a queue.
    let more = ["WATCHDOG=1"; 5000].join(" ");
    let script =
        format!("mkfifo /go /said; probe say READY=1 & read line < /go; exec probe say {more} > /said");
    bundle.args(&["/bin/sh", "-c", &script]).write();
    let run = begin(&bundle, &["run", "--bundle", &bundle.dir.display().to_string(), &bundle.id]);
    assert_eq!(manager.hear(), format!("READY=1\nMAINPID={}", run.pid()));
    let status = |name: &str| {
        let status = fs::read_to_string(format!("/proc/{}/status", run.pid())).expect("its status");
        status.lines().find_map(|line| line.strip_prefix(name)).expect("a line").trim().to_owned()
    };
    wait_until(|| status("State:").starts_with('S'));
    // Whatever wakes it up is counted.
    let switches = || status("voluntary_ctxt_switches:");
    let before = switches();
    fs::write(bundle.inside("/go"), "go\n").expect("write to a pipe");
    let mut said = [0; 6];
    fs::File::open(bundle.inside("/said")).and_then(|mut file| file.read_exact(&mut said)).expect("read");
    assert_eq!(&said, b"ready\n", "senders are not refused");
    assert_eq!(switches(), before);
    bundle.kill("KILL");
    assert_eq!(run.finish().code, 137);
    manager.hears_nothing();
}

#[test]
fn what_comes_along_and_takes_for_ever_to_close_holds_nobody_up() {
    let (manager, mut bundle) = Manager::new();
    let script = "mkfifo /said; probe say-lingering X=1 > /said & read line < /said; exec probe say READY=1";
    bundle.args(&["/bin/sh", "-c", script]).write();
    let run = begin(&bundle, &["run", "--bundle", &bundle.dir.display().to_string(), &bundle.id]);
    assert_eq!(manager.hear(), format!("READY=1\nMAINPID={}", run.pid()));
    bundle.kill("KILL");
    assert_eq!(run.finish().code, 137);
}

#[test]
fn a_program_that_says_too_much_is_not_listened_to() {
    let (manager, mut bundle) = Manager::new();
    says(&mut bundle, &["STATUS=not yet"; 65536]);
    bundle.create();
    let start = bundle.runtime(&["start", &bundle.id]);
    succeeds(&start);
    assert!(start.stderr.contains("the container says too much"), "{start}");
    manager.hears_nothing();
    bundle.end();
}

#[test]
fn a_user_of_another_namespace_can_say_so() {
    let (manager, mut bundle) = Manager::new();
    says(&mut bundle, &["READY=1"]);
    let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
    bundle.set("/linux/namespaces/-", json!({ "type": "user" }));
    bundle.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
    bundle.set("/process/user", json!({ "uid": 1000, "gid": 1000 })).set_root("readonly", true);
    fs::create_dir_all(bundle.inside("/run/notify")).expect("a mount point");
    let pid = bundle.create().pid();
    let start = begin(&bundle, &["start", &bundle.id]);
    assert_eq!(manager.hear(), format!("READY=1\nMAINPID={pid}"));
    assert_eq!(manager.hear(), "BARRIER=1");
    succeeds(&start.finish());
    bundle.end();
}

#[test]
fn a_manager_may_have_an_abstract_name() {
    let bundle = Bundle::new();
    let name = format!("skiff-test-{}", bundle.id);
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let manager = Manager { socket: UnixDatagram::bind_addr(&address).expect("bind"), path: PathBuf::new() };
    let mut bundle = told_of(bundle, &format!("@{name}"));
    says(&mut bundle, &["READY=1"]);
    let pid = bundle.create().pid();
    let start = begin(&bundle, &["start", &bundle.id]);
    assert_eq!(manager.hear(), format!("READY=1\nMAINPID={pid}"));
    assert_eq!(manager.hear(), "BARRIER=1");
    succeeds(&start.finish());
    bundle.end();
}

#[test]
fn a_manager_that_is_gone_is_a_warning() {
    let (manager, mut bundle) = Manager::new();
    bundle.args(&["/bin/probe", "wait"]).create();
    fs::remove_file(&manager.path).expect("remove");
    let output = bundle.runtime(&["start", &bundle.id]);
    succeeds(&output);
    assert!(output.stderr.contains("nobody will be told that the program is ready"), "{output}");
    bundle.end();
}

#[test]
fn without_a_manager_there_is_no_socket() {
    let mut bundle = Bundle::new();
    bundle.wait_ready(&["/bin/probe", "wait"]);
    assert!(!fs::exists(bundle.inside("/run/notify")).expect("look"));
    // One that is there later changes nothing.
    let exec = told_of(bundle, "/no/such/socket");
    let output = exec.runtime(&["exec", &exec.id, "/bin/sh", "-c", "echo ${NOTIFY_SOCKET-none}"]);
    assert_eq!(output.ok(), "none\n");
    exec.end();
}
