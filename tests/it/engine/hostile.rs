//! Clients that do not keep to the protocol, and those who may not ask.

use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::harness::hung::Hung;
use crate::harness::world::World;
use crate::harness::{Skiff, fixture, installed, need, programs};
use crate::peers::world::eventually;

impl World {
    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.0.run.join("skiff.sock")).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a time limit");
        stream
    }
}

fn frame(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).expect("a length");
    [&length.to_le_bytes()[..], text.as_bytes()].concat()
}

/// All that is answered until the end.
fn answer(mut stream: UnixStream) -> String {
    let mut bytes = Vec::new();
    // A connection that is reset has been answered, or need not be.
    let _reset = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn what_is_no_request_is_refused_and_the_daemon_goes_on() {
    let world = World::new();
    world.ok(&["version"]);
    let daemon = world.processes()[0];
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    for bytes in [
        frame("{}"),
        frame("\"fly\""),
        frame("not JSON at all"),
        frame(&deep),
        frame("{\"run\":{\"spec\":{\"image\":7}}}"),
        u32::MAX.to_le_bytes().to_vec(),
        (17_u32 << 20).to_le_bytes().to_vec(),
        vec![0; 4],
    ] {
        let mut stream = world.connect();
        stream.write_all(&bytes).expect("write");
        let told = answer(stream);
        assert!(
            told.contains("failed"),
            "{:?}: {told:?}",
            String::from_utf8_lossy(&bytes[..bytes.len().min(40)])
        );
    }
    assert_eq!(world.processes()[0], daemon);
}

#[test]
fn clients_may_close_at_any_time() {
    let world = World::new();
    world.ok(&["version"]);
    let daemon = world.processes()[0];
    let request = frame("{\"list\":{\"all\":true}}");
    for length in 0..=request.len() {
        let mut stream = world.connect();
        stream.write_all(&request[..length]).expect("write");
    }
    assert_eq!(world.processes()[0], daemon);
}

#[test]
fn descriptors_that_nobody_asked_for_are_closed() {
    let world = World::new();
    // They hold descriptors.
    world.await_programs();
    let [daemon, _] = world.processes();
    let open = || std::fs::read_dir(format!("/proc/{daemon}/fd")).expect("descriptors").count();
    let (null, before) = (File::open("/dev/null").expect("open"), open());
    for count in [1, 4, 5, 200] {
        for text in ["\"version\"", "{\"run\":{}}", "garbage"] {
            let stream = world.connect();
            let descriptors = vec![null.as_raw_fd(); count];
            let bytes = frame(text);
            sendmsg::<()>(
                stream.as_raw_fd(),
                &[IoSlice::new(&bytes)],
                &[ControlMessage::ScmRights(&descriptors)],
                MsgFlags::empty(),
                None,
            )
            .expect("send");
            answer(stream);
        }
    }
    assert!(eventually(|| open() <= before + 2), "{before} descriptors, then {}", open());
}

#[test]
fn clients_beyond_the_bound_are_told_so() {
    let world = World::new();
    world.ok(&["version"]);
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("limit");
    need!(most >= 4096, "4096 descriptors");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("raise the limit");
    let idle: Vec<UnixStream> = (0..1024).map(|_| world.connect()).collect();
    let told = answer(world.connect());
    assert!(told.contains("serves 1024 clients already"), "{told:?}");
    drop(idle);
    assert!(eventually(|| world.skiff(&["ps"]).code == 0));
}

#[test]
fn orders_beyond_the_bound_of_a_queue_wait_outside_and_are_all_answered() {
    const ORDERS: usize = 200;
    let world = World::new();
    let path = world.0.dir.join("hung");
    let hung = Hung::mount(&path);
    need!(hung.is_some(), "FUSE");
    let volume = format!("{}/data:/data", path.display());
    world.ok(&["create", "--name", "web", "-v", &volume, fixture::small_root(), "true"]);
    let daemon = world.processes()[0];
    let starting = world.0.skiff(&["start", "web"]).start();
    // Until the source is given up nothing is taken out of the container's queue, which holds 64.
    let order = frame("{\"kill\":{\"containers\":[\"web\"],\"signal\":9}}");
    let mut clients: Vec<UnixStream> = (0..ORDERS).map(|_| world.connect()).collect();
    clients.iter_mut().for_each(|client| client.write_all(&order).expect("write"));
    // Some lose patience.
    clients.truncate(ORDERS / 2);
    assert_eq!(world.ok(&["ps", "-aq"]).lines().count(), 1);
    assert_eq!(world.ok(&["run", "--rm", fixture::small_root(), "echo", "beside it"]), "beside it");
    starting.finish().fails(1, "does not answer");
    for client in clients {
        let told = answer(client);
        assert!(told.contains("is not running"), "{told:?}");
    }
    assert_eq!(world.processes()[0], daemon);
    world.ok(&["rm", "web"]);
}

#[test]
fn only_its_user_may_ask_the_daemon() {
    need!(installed("setpriv"), "setpriv");
    let world = World::new();
    world.ok(&["version"]);
    let socket = world.0.run.join("skiff.sock");
    let mode = std::fs::metadata(&socket).expect("the socket").permissions().mode() & 0o777;
    assert!(mode & 0o007 == 0, "{mode:o}");
    let skiff = programs::skiff().display().to_string();
    let words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", &skiff, "ps"];
    let output =
        Skiff::tool(&words).env("SKIFF_ROOT", &world.0.state).env("SKIFF_RUN_ROOT", &world.0.run).output();
    assert!(output.code != 0 && output.stderr.contains("permission denied"), "{output}");
}
