//! A service manager that holds the daemon's socket and starts it: as the daemon sees that, and systemd itself with the
//! units that come with skiff.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::world::World;
use crate::harness::{fixture, programs};
use crate::oci::lacks;
use crate::peers::world::eventually;

/// Takes the socket from its input to where sd_listen_fds(3) looks for it.
const PASS: &str = r#"exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" daemon"#;

/// A daemon that is started with its socket.
#[derive(Debug)]
struct Served(Child);

impl Served {
    fn start(world: &World, listener: &UnixListener, notify: &Path) -> Self {
        let listener: OwnedFd = listener.try_clone().expect("one more descriptor").into();
        let mut command = Command::new("sh");
        command.args(["-c", PASS]).arg(programs::skiff()).stdin(Stdio::from(listener));
        command.env("SKIFF_ROOT", &world.0.state).env("SKIFF_RUN_ROOT", &world.0.run);
        Self(command.env("NOTIFY_SOCKET", notify).spawn().expect("start a daemon"))
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.0.id()).expect("a process id"))
    }

    /// Asks it to end as a service manager does; whether it does so well.
    fn stop(mut self) -> bool {
        kill(self.pid(), Signal::SIGTERM).expect("it runs");
        self.0.wait().expect("its end").success()
    }
}

#[test]
fn a_socket_that_is_passed_is_served_and_stays_with_whoever_has_passed_it() {
    let world = World::new();
    let path = world.0.run.join("skiff.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    let notify = world.0.dir.join("notify");
    let manager = UnixDatagram::bind(&notify).expect("a socket");
    manager.set_read_timeout(Some(Duration::from_secs(30))).expect("a time limit");
    let is_ready = || {
        let mut text = [0; 64];
        let length = manager.recv(&mut text).expect("word of the daemon");
        text[..length] == *b"READY=1"
    };

    // Who asks before there is a daemon waits for it, and starts none.
    let early = world.0.skiff(&["version", "-f", "{{.Server.Pid}}"]).start();
    let first = Served::start(&world, &listener, &notify);
    assert!(is_ready());
    assert_eq!(early.finish().ok().trim(), first.pid().to_string());

    world.run("web", &[], &["probe", "trap"]);
    assert!(first.stop());
    assert!(path.exists(), "the socket is not the daemon's");
    let early = world.0.skiff(&["inspect", "-f", "{{.State.Status}}", "web"]).start();
    let second = Served::start(&world, &listener, &notify);
    assert!(is_ready());
    assert_eq!(early.finish().ok().trim(), "running");
    world.ok(&["rm", "-f", "web"]);
    assert!(second.stop());
}

/// The units that come with skiff under other names, as long as it lives.
#[derive(Debug)]
struct Units {
    socket: String,
    service: String,
    files: [PathBuf; 2],
}

impl Units {
    fn install(world: &World) -> Self {
        let [socket, service] = ["socket", "service"].map(|kind| format!("skiff-test.{kind}"));
        let files = [&socket, &service].map(|unit| Path::new("/run/systemd/system").join(unit));
        let own = |text: &str| {
            let roots = format!(
                "\nEnvironment=SKIFF_ROOT={} SKIFF_RUN_ROOT={}\nExecStart={} daemon",
                world.0.state.display(),
                world.0.run.display(),
                programs::skiff().display()
            );
            let path = world.0.run.join("skiff.sock");
            let changes = [
                ("skiff.socket", socket.as_str()),
                ("/run/skiff/skiff.sock", &path.display().to_string()),
                ("\nExecStart=/usr/local/bin/skiff daemon", &roots),
            ];
            changes.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
        };
        let texts = [
            include_str!("../../contrib/systemd/skiff.socket"),
            include_str!("../../contrib/systemd/skiff.service"),
        ];
        for (file, text) in files.iter().zip(texts) {
            fs::write(file, own(text)).expect("a unit");
        }
        systemctl(&["daemon-reload"]);
        Self { socket, service, files }
    }

    fn state(&self) -> String {
        systemctl(&["show", "--value", "--property=ActiveState", &self.service])
    }
}

impl Drop for Units {
    fn drop(&mut self) {
        // One that has failed is to be forgotten, too.
        for words in [["stop", &self.socket, &self.service], ["reset-failed", &self.socket, &self.service]] {
            drop(Command::new("systemctl").args(words).stderr(Stdio::null()).status());
        }
        for file in &self.files {
            drop(fs::remove_file(file));
        }
        drop(Command::new("systemctl").arg("daemon-reload").status());
    }
}

fn systemctl(words: &[&str]) -> String {
    let output = Command::new("systemctl").args(words).output().expect("start systemctl");
    assert!(output.status.success(), "systemctl {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn systemd_starts_the_daemon_for_the_first_client_and_containers_outlive_it() {
    if !Path::new("/run/systemd/system").is_dir() {
        return lacks("systemd");
    }
    let world = World::new();
    let units = Units::install(&world);
    systemctl(&["start", &units.socket]);
    assert_eq!(units.state(), "inactive");
    assert_eq!(world.ok(&["run", "--rm", fixture::small_root(), "echo", "first"]), "first");
    assert_eq!(units.state(), "active");
    let pid = systemctl(&["show", "--value", "--property=MainPID", &units.service]);
    assert_eq!(world.processes()[0].to_string(), pid);

    world.run("web", &["-m", "64m"], &["probe", "trap"]);
    systemctl(&["restart", &units.service]);
    assert_eq!(world.state("web"), "running");
    assert_ne!(world.processes()[0].to_string(), pid);
    systemctl(&["stop", &units.service]);
    // The socket is there still, and so is whoever serves it once somebody asks.
    assert_eq!(world.state("web"), "running");
    assert!(eventually(|| units.state() == "active"));
    world.ok(&["stop", "web"]);
    assert_eq!(world.code("web"), 0);
    world.ok(&["rm", "web"]);
}
