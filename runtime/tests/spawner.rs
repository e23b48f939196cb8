//! A spawner and containers of its, black box: this program is the daemon, the spawner and what the containers run.
//!
//! Needs root, and says so without it. Each check has a spawner of its own.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use skiff_runtime::cgroup::{Cgroup, Controller, Paths};
use skiff_runtime::launch::park::{Parked, Stamps};
use skiff_runtime::launch::{Exit, remove_tree};
use skiff_runtime::options::{Options, Resources, Rootfs, Seccomp};
use skiff_runtime::spawner::{self, Client, Container, Order, Report};
use skiff_runtime::{Error, init, seal};
use skiff_sys::cache;
use skiff_sys::reader::{self, Reader};

fn main() {
    let words: Vec<_> = std::env::args_os().collect();
    let [name, rest @ ..] = &words[..] else { return };
    if name.as_bytes() == spawner::NAME.as_bytes() {
        seal::seal(c"skiff-spawner").expect("seal");
        return spawner::run(rest.iter().cloned()).expect("spawn");
    }
    if name.as_bytes() == init::NAME.to_bytes() {
        std::process::exit(init::run(rest.iter().cloned()).expect("look after it").into());
    }
    if name == "/bin/test" {
        return program(&rest.iter().map(|word| word.to_str().expect("text")).collect::<Vec<_>>());
    }
    if !nix::unistd::geteuid().is_root() {
        return println!("skip: needs root");
    }
    let wanted = rest.iter().find_map(|word| word.to_str().filter(|word| !word.starts_with('-')));
    let mut failed = 0;
    for (name, check) in CHECKS {
        if wanted.is_none_or(|wanted| name.contains(wanted)) {
            let passed = catch_unwind(AssertUnwindSafe(|| check(&mut Daemon::new()))).is_ok();
            println!("{name}: {}", if passed { "ok" } else { "FAILED" });
            failed += i32::from(!passed);
        }
    }
    std::process::exit(failed.min(1));
}

type Check = fn(&mut Daemon);

const CHECKS: [(&str, Check); 17] = [
    ("a_parked_container_runs_what_it_is_told", runs),
    ("a_container_has_no_descriptors_but_its_streams", has_no_descriptors),
    ("a_parked_init_holds_nothing_but_its_line", holds_nothing),
    ("a_filter_governs_the_program_whenever_it_is_loaded", filtered),
    ("a_program_that_is_not_there_is_told_of", not_there),
    ("a_container_that_cannot_be_made_is_told_of", cannot_be_made),
    ("a_terminal_comes_with_its_container", terminal),
    ("an_init_looks_after_a_parked_program", under_init),
    ("a_parked_container_ends_with_its_line", ends_with_line),
    ("one_that_was_tampered_with_is_not_valid", tampered),
    ("a_container_goes_on_with_what_it_has_written", goes_on),
    ("a_process_runs_in_a_container", executes),
    ("a_frozen_container_holds_nobody_up", frozen),
    ("what_is_read_ahead_is_charged_to_the_container_and_ends_with_it", reads_ahead),
    ("the_next_daemon_finds_all", next_daemon),
    ("it_goes_on_as_another_executable", upgrades),
    ("what_is_no_order_is_passed_over", garbage),
];

/// What containers run.
fn program(words: &[&str]) {
    match words {
        ["exit", code] => std::process::exit(code.parse().expect("a code")),
        ["wait"] => loop {
            nix::unistd::pause();
        },
        // The directory itself is open while it is read.
        ["descriptors"] => {
            let open: Vec<String> = fs::read_dir("/proc/self/fd")
                .expect("read /proc/self/fd")
                .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
                .collect();
            println!("{}", open.join(" "));
        }
        ["write", path, text] => fs::write(path, text).expect("write"),
        ["read", path] => print!("{}", fs::read_to_string(path).expect("read")),
        ["filter"] => {
            let status = fs::read_to_string("/proc/self/status").expect("read");
            let line = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
            println!("{}", line.expect("a line").trim());
        }
        ["mkdir", path] => match nix::unistd::mkdir(*path, nix::sys::stat::Mode::S_IRWXU) {
            Ok(()) => println!("made"),
            Err(error) => println!("{error:?}"),
        },
        ["env"] => std::env::vars().for_each(|(name, value)| println!("{name}={value}")),
        ["who"] => println!("{} {}", std::process::id(), nix::unistd::getuid()),
        ["tty"] => println!("{}", nix::unistd::ttyname(io::stdout()).expect("a terminal").display()),
        _ => std::process::exit(99),
    }
}

/// How many files containers may have open.
const OPEN_FILES: u64 = 1024;

struct Daemon {
    directory: PathBuf,
    client: Client,
    child: Child,
    made: Vec<Container>,
    count: u64,
}

impl Daemon {
    fn new() -> Self {
        let directory = std::env::temp_dir().join(format!("skiff-spawner-{}", std::process::id()));
        for below in ["rootfs/bin", "rootfs/etc", "state", "run"] {
            fs::create_dir_all(directory.join(below)).expect("make a directory");
        }
        fs::copy("/proc/self/exe", directory.join("rootfs/bin/test")).expect("copy this program");
        fs::write(directory.join("rootfs/etc/passwd"), "root:x:0:0::/root:\nweb:x:33:33::/srv:\n")
            .expect("write");
        let (state, run) = (directory.join("state"), directory.join("run"));
        let (client, child) =
            Client::start("/proc/self/exe".as_ref(), &state, &run, OPEN_FILES).expect("start");
        let mut daemon = Self { directory, client, child, made: Vec::new(), count: 0 };
        daemon.hello();
        daemon
    }

    fn hello(&mut self) {
        let (report, _) = self.next();
        assert!(matches!(report, Report::Hello { .. }), "{report:?}");
    }

    fn options(&self) -> Options {
        Options { rootfs: Rootfs::Layers(vec![self.directory.join("rootfs")]), ..Options::default() }
    }

    /// The next report, or the test fails.
    fn next(&self) -> (Report, Vec<OwnedFd>) {
        loop {
            match self.client.receive() {
                Ok(report) => return report.expect("the spawner is there"),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait(self.client.fd(), 10),
                Err(error) => panic!("receive: {error}"),
            }
        }
    }

    fn park(&mut self, options: Options) -> Result<Parked, String> {
        self.count += 1;
        let id = format!("{:08x}{:056x}", std::process::id(), self.count);
        self.park_as(id, options)
    }

    fn park_as(&mut self, id: String, options: Options) -> Result<Parked, String> {
        self.count += 1;
        let (key, ticket) = (self.count, self.count);
        self.client.send(&Order::Plan { key, options: Box::new(options) }, &[]).expect("send");
        self.client.send(&Order::Park { ticket, key, id }, &[]).expect("send");
        match self.next() {
            (Report::Parked { container, ticket: answered }, descriptors) => {
                assert_eq!(answered, ticket);
                self.made.push((*container).clone());
                let parked = Parked::new(*container, descriptors).expect("parked");
                assert!(parked.is_valid());
                Ok(parked)
            }
            (Report::Failed { message, .. }, _) => Err(message),
            (other, _) => panic!("{other:?}"),
        }
    }

    fn run(&mut self, options: Options, words: &[&str]) -> (String, Exit) {
        let mut parked = self.park(options).expect("parked");
        let output = go(&mut parked, words).expect("runs");
        (output, self.exited(&parked.container().id))
    }

    fn exited(&self, wanted: &str) -> Exit {
        match self.next() {
            (Report::Exited { id, end, .. }, _) if id == wanted => end.exit,
            (other, _) => panic!("{other:?}"),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.client.send(&Order::Leave, &[]).ok();
        self.child.wait().expect("wait for the spawner");
        for container in &self.made {
            Cgroup::open(&container.cgroups).and_then(Cgroup::remove).expect("remove the cgroup");
        }
        remove_tree(&self.directory).expect("remove the directory");
    }
}

fn null() -> OwnedFd {
    File::options().read(true).write(true).open("/dev/null").expect("open").into()
}

fn wait(fd: BorrowedFd<'_>, seconds: u8) {
    let count = poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::from(u16::from(seconds) * 1000));
    assert_eq!(count, Ok(1), "nothing comes");
}

fn outcome(parked: &mut Parked) -> Result<Stamps, Error> {
    loop {
        if let Some(stamps) = parked.outcome()? {
            return Ok(stamps);
        }
        wait(parked.line_fd(), 10);
    }
}

/// Has `parked` run this program, and returns what that has written when it has ended.
fn go(parked: &mut Parked, words: &[&str]) -> Result<String, String> {
    let (read, write) = nix::unistd::pipe().expect("pipe");
    let null = null();
    start(parked, words, [null.as_fd(), write.as_fd(), write.as_fd()])?;
    drop(write);
    let mut output = String::new();
    File::from(read).read_to_string(&mut output).expect("read");
    Ok(output)
}

fn start(parked: &mut Parked, words: &[&str], streams: [BorrowedFd<'_>; 3]) -> Result<(), String> {
    let argv: Vec<_> = ["/bin/test"].iter().chain(words).map(Into::into).collect();
    parked.go(&argv, &["A=b".into()], streams).map_err(|error| error.to_string())?;
    let stamps = outcome(parked).map_err(|error| error.to_string())?;
    let all = [stamps.sent, stamps.woken, stamps.streams_taken, stamps.security_done, stamps.exec_seen];
    assert!(all.is_sorted() && all[0] > 0, "{stamps:?}");
    Ok(())
}

fn runs(daemon: &mut Daemon) {
    assert_eq!(daemon.run(daemon.options(), &["exit", "7"]).1, Exit::Code(7));
    let options = Options { user: "web".into(), hostname: Some("box".into()), ..daemon.options() };
    assert_eq!(daemon.run(options.clone(), &["who"]), ("1 33\n".into(), Exit::Code(0)));
    let (env, _) = daemon.run(options, &["env"]);
    for line in [
        "A=b",
        "HOME=/srv",
        "HOSTNAME=box",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ] {
        assert!(env.lines().any(|found| found == line), "{env}");
    }
}

fn has_no_descriptors(daemon: &mut Daemon) {
    // Others that live, are parked and are kept of.
    let mut other = daemon.park(daemon.options()).expect("parked");
    let null = null();
    start(&mut other, &["wait"], [null.as_fd(); 3]).expect("runs");
    let _parked = daemon.park(daemon.options()).expect("parked");
    let keep = Order::Keep { id: other.container().id.clone(), note: "note".into() };
    daemon.client.send(&keep, &[null.as_fd(), other.pidfd()]).expect("send");
    assert_eq!(daemon.run(daemon.options(), &["descriptors"]).0, "0 1 2 3\n");
}

fn holds_nothing(daemon: &mut Daemon) {
    let first = daemon.park(daemon.options()).expect("parked");
    let null = null();
    let keep = Order::Keep { id: first.container().id.clone(), note: "note".into() };
    daemon.client.send(&keep, &[null.as_fd()]).expect("send");
    for parked in [first, daemon.park(daemon.options()).expect("parked")] {
        let pid = parked.container().pid;
        let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("read its descriptors");
        let mut open: Vec<String> = open
            .map(|entry| fs::read_link(entry.expect("entry").path()).expect("link"))
            .map(|link| link.to_string_lossy().split(':').next().unwrap_or_default().to_owned())
            .collect();
        open.sort();
        assert_eq!(open, ["/dev/null", "/dev/null", "/dev/null", "socket"]);
        // Nothing that it could be influenced by through its memory.
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("read its memory");
        assert_eq!(maps.lines().filter(|line| line.contains(" rw-s ")).count(), 1, "{maps}");
    }
}

fn filtered(daemon: &mut Daemon) {
    // The second forbids what has still to be done once a container is parked.
    let without = |names: &str| {
        format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"names":[{names}],"action":"SCMP_ACT_ERRNO"}}]}}"#
        )
    };
    for profile in [
        Seccomp::Default,
        Seccomp::Profile(without(r#""dup2","dup3","recvmsg""#)),
        Seccomp::Profile(without(r#""mkdir""#)),
    ] {
        let options = Options { seccomp: profile, ..daemon.options() };
        assert_eq!(daemon.run(options, &["filter"]).0, "2\n");
    }
    let options = Options { seccomp: Seccomp::Unconfined, ..daemon.options() };
    assert_eq!(daemon.run(options, &["filter"]).0, "0\n");
    let options = Options { seccomp: Seccomp::Profile(without(r#""mkdir""#)), ..daemon.options() };
    assert_eq!(daemon.run(options, &["mkdir", "/made"]).0, "EPERM\n");
}

fn not_there(daemon: &mut Daemon) {
    for (program, text, exit) in [
        ("/bin/nothing", "/bin/nothing: no such file or directory", 127),
        ("nothing", "nothing: executable file not found in $PATH", 127),
        ("/etc/passwd", "/etc/passwd: permission denied", 126),
    ] {
        let mut parked = daemon.park(daemon.options()).expect("parked");
        let null = null();
        parked.go(&[program.into()], &[], [null.as_fd(); 3]).expect("go");
        let error = outcome(&mut parked).expect_err("no such program");
        assert_eq!((error.to_string().as_str(), error.exit_code()), (text, exit));
        assert_eq!(daemon.exited(&parked.container().id), Exit::Code(exit.into()));
    }
}

fn cannot_be_made(daemon: &mut Daemon) {
    let options = Options { user: "nobody-knows".into(), ..daemon.options() };
    let error = daemon.park(options).expect_err("no such user");
    assert!(error.contains("nobody-knows"), "{error}");
    // Fails in the child, once it is there.
    let sysctls = vec![("net.no.such".into(), "1".into())];
    let error = daemon.park(Options { sysctls, ..daemon.options() }).expect_err("no such parameter");
    assert_eq!(error, "set sysctl net.no.such: No such file or directory");
    let id = format!("{:08x}{:056x}", std::process::id(), daemon.count - 1);
    assert!(!fs::exists(format!("/sys/fs/cgroup/unified/skiff-{id}")).expect("look"));
    assert!(!fs::exists(format!("/sys/fs/cgroup/skiff-{id}")).expect("look"));
    let error = daemon.park_as("../x".into(), daemon.options()).expect_err("no id");
    assert_eq!(error, "a container's id has 64 hexadecimal digits");
    daemon.client.send(&Order::Park { ticket: 1, key: 12345, id: "a".repeat(64) }, &[]).expect("send");
    assert!(matches!(daemon.next().0, Report::Failed { code: 125, .. }));
    assert_eq!(daemon.run(daemon.options(), &["exit", "0"]).1, Exit::Code(0));
}

fn terminal(daemon: &mut Daemon) {
    let mut parked = daemon.park(Options { tty: true, ..daemon.options() }).expect("parked");
    let master = parked.terminal().expect("a terminal").try_clone_to_owned().expect("dup");
    let null = null();
    start(&mut parked, &["tty"], [null.as_fd(); 3]).expect("runs");
    assert_eq!(daemon.exited(&parked.container().id), Exit::Code(0));
    let mut text = [0; 64];
    let length = nix::unistd::read(&master, &mut text).expect("read the terminal");
    let text = String::from_utf8_lossy(&text[..length]).into_owned();
    assert!(text.starts_with("/dev/"), "{text}");
}

fn under_init(daemon: &mut Daemon) {
    let mut parked = daemon.park(Options { init: true, ..daemon.options() }).expect("parked");
    assert!(parked.is_valid());
    let argv = ["/bin/test".into(), "who".into()];
    let (read, write) = nix::unistd::pipe().expect("pipe");
    let null = null();
    parked.go(&argv, &[], [null.as_fd(), write.as_fd(), write.as_fd()]).expect("go");
    drop(write);
    let mut output = String::new();
    File::from(read).read_to_string(&mut output).expect("read");
    assert_eq!(output, "2 0\n");
}

fn ends_with_line(daemon: &mut Daemon) {
    let parked = daemon.park(daemon.options()).expect("parked");
    let (container, pidfd, _) = parked.into_parts();
    wait(pidfd.as_fd(), 10);
    assert_eq!(daemon.exited(&container.id), Exit::Code(126));
}

fn tampered(daemon: &mut Daemon) {
    let parked = daemon.park(daemon.options()).expect("parked");
    let pid = parked.container().pid;
    let root = parked.container().cgroups.unified.clone().expect("cgroup v2");
    let elsewhere = root.parent().expect("below the root").join("cgroup.procs");
    fs::write(elsewhere, pid.to_string()).expect("move it");
    assert!(!parked.is_valid());
    let other = daemon.park(daemon.options()).expect("parked");
    skiff_sys::process::send_signal(other.pidfd(), libc::SIGKILL).expect("kill");
    wait(other.pidfd(), 10);
    assert!(!other.is_valid());
    assert_eq!(daemon.exited(&other.container().id), Exit::Signal(libc::SIGKILL));
}

fn goes_on(daemon: &mut Daemon) {
    let mut parked = daemon.park(daemon.options()).expect("parked");
    go(&mut parked, &["write", "/kept", "text"]).expect("runs");
    let id = parked.container().id.clone();
    assert_eq!(daemon.exited(&id), Exit::Code(0));
    // The same once more.
    let error = daemon.park_as(id.clone(), daemon.options()).err();
    assert!(error.is_some_and(|error| error.contains("File exists") || error.contains("exists")));
    let container = daemon.made.pop().expect("made");
    Cgroup::open(&container.cgroups).and_then(Cgroup::remove).expect("remove the cgroup");
    daemon.client.send(&Order::Forget { id: id.clone() }, &[]).expect("send");
    let mut parked = daemon.park_as(id.clone(), daemon.options()).expect("parked again");
    assert_eq!(go(&mut parked, &["read", "/kept"]).expect("runs"), "text");
    assert_eq!(daemon.exited(&id), Exit::Code(0));
}

fn exec_order(daemon: &Daemon, container: &Container, options: Options, words: &[&str]) -> Order {
    let argv = ["/bin/test"].iter().chain(words).map(Into::into).collect();
    let options = Box::new(Options { id: container.id.clone(), argv, env: vec!["C=d".into()], ..options });
    Order::Exec { ticket: daemon.count, options, pid: container.pid, cgroups: container.cgroups.clone() }
}

fn executes(daemon: &mut Daemon) {
    let mut parked = daemon.park(daemon.options()).expect("parked");
    let null = null();
    start(&mut parked, &["wait"], [null.as_fd(); 3]).expect("runs");
    let container = parked.container().clone();
    for (words, expect, code) in [
        (&["env"][..], "C=d", 0),
        (&["descriptors"], "0 1 2 3", 0),
        (&["who"], " 33", 0),
        (&["exit", "9"], "", 9),
    ] {
        let options = Options { user: "web".into(), ..daemon.options() };
        let order = exec_order(daemon, &container, options, words);
        let (read, write) = nix::unistd::pipe().expect("pipe");
        let descriptors = [parked.pidfd(), null.as_fd(), write.as_fd(), write.as_fd()];
        daemon.client.send(&order, &descriptors).expect("send");
        drop(write);
        let (report, descriptors) = daemon.next();
        let Report::ExecStarted { pid, ticket } = report else { panic!("{report:?}") };
        assert_eq!((descriptors.len(), ticket), (1, daemon.count));
        let mut output = String::new();
        File::from(read).read_to_string(&mut output).expect("read");
        assert!(output.contains(expect), "{words:?}: {output:?}");
        let (report, _) = daemon.next();
        let Report::Exited { id, pid: ended, ticket: Some(_), end } = report else { panic!("{report:?}") };
        assert_eq!((id, ended, end.exit), (container.id.clone(), pid, Exit::Code(code)));
    }
    let order = exec_order(daemon, &container, daemon.options(), &["x"]);
    daemon.client.send(&order, &[null.as_fd()]).expect("send");
    assert!(matches!(daemon.next().0, Report::Failed { .. }));
    skiff_sys::process::send_signal(parked.pidfd(), libc::SIGKILL).expect("kill");
    assert_eq!(daemon.exited(&container.id), Exit::Signal(libc::SIGKILL));
    daemon.client.send(&order, &[parked.pidfd(), null.as_fd(), null.as_fd(), null.as_fd()]).expect("send");
    assert!(matches!(daemon.next().0, Report::Failed { code: 125, .. }));
}

fn frozen(daemon: &mut Daemon) {
    let mut parked = daemon.park(daemon.options()).expect("parked");
    let null = null();
    start(&mut parked, &["wait"], [null.as_fd(); 3]).expect("runs");
    let container = parked.container().clone();
    let freeze = container.cgroups.unified.clone().expect("cgroup v2").join("cgroup.freeze");
    fs::write(&freeze, "1").expect("freeze");
    let order = exec_order(daemon, &container, daemon.options(), &["exit", "3"]);
    daemon.client.send(&order, &[parked.pidfd(), null.as_fd(), null.as_fd(), null.as_fd()]).expect("send");
    assert_eq!(daemon.run(daemon.options(), &["exit", "4"]).1, Exit::Code(4));
    fs::write(&freeze, "0").expect("thaw");
    assert!(matches!(daemon.next().0, Report::ExecStarted { .. }));
    assert!(matches!(daemon.next().0, Report::Exited { ticket: Some(_), .. }));
}

fn reads_ahead(daemon: &mut Daemon) {
    const BYTES: u64 = 8 << 20;
    let path = daemon.directory.join("data");
    fs::write(&path, vec![7; usize::try_from(BYTES).expect("a size")]).expect("write");
    let file = File::open(&path).expect("open");
    file.sync_all().expect("sync");
    cache::drop_pages(file.as_fd()).expect("drop");
    let resources = Resources { memory_bytes: Some(64 << 20), ..Resources::default() };
    let parked = daemon.park(Options { resources, account: true, ..daemon.options() }).expect("parked");
    let container = parked.container().clone();
    let disk = disk_of(&file);
    if let Some(disk) = &disk {
        limit(&container.cgroups, disk, BYTES * 4);
    }
    let begin = Instant::now();
    let (own, socket) = reader::pair().expect("a socket");
    let order = Order::Read { cgroups: container.cgroups.clone() };
    daemon.client.send(&order, &[socket.as_fd()]).expect("send");
    drop(socket);
    let mut reader = Reader::new(own).expect("a reader");
    for piece in 0..BYTES >> 18 {
        reader.ask(file.as_fd(), piece << 18, 1 << 18).expect("ask");
    }
    reader.wait(file.as_fd(), BYTES - 1).expect("all has come");
    if disk.is_some() {
        let [memory, disk] = charged(&container.cgroups);
        assert!(memory >= BYTES && disk >= BYTES, "{memory} {disk}");
        // A quarter of a second, but for what the kernel lets through at first.
        assert!(begin.elapsed() >= Duration::from_millis(100), "{:?}", begin.elapsed());
    }
    let found = Cgroup::open(&container.cgroups).and_then(|cgroup| cgroup.processes()).expect("processes");
    let [pid] = found.into_iter().filter(|pid| *pid != container.pid).collect::<Vec<_>>()[..] else {
        panic!("one that reads");
    };
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/comm")).expect("a name"), "skiff-reader\n");
    assert_eq!(fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors").count(), 4);
    let process = skiff_sys::process::open_pidfd(pid).expect("a descriptor");
    Cgroup::open(&container.cgroups).and_then(Cgroup::remove).expect("remove");
    wait(process.as_fd(), 10);
    assert!(reader.wait(file.as_fd(), 0).is_err());
    assert_eq!(daemon.exited(&container.id), Exit::Signal(nix::libc::SIGKILL));
    // Where there is no container any more, nothing is read.
    let (own, socket) = reader::pair().expect("a socket");
    daemon.client.send(&order, &[socket.as_fd()]).expect("send");
    drop(socket);
    let mut reader = Reader::new(own).expect("a reader");
    assert!(reader.wait(file.as_fd(), 0).is_err());
}

/// The number of the whole disk that a file is on, if it is on one: what lies in memory alone is read by nobody.
fn disk_of(file: &File) -> Option<String> {
    let device = file.metadata().expect("stat").dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let directory = format!("/sys/dev/block/{major}:{minor}");
    let is_part = fs::exists(format!("{directory}/partition")).expect("look");
    let number = fs::read_to_string(directory + if is_part { "/../dev" } else { "/dev" }).ok()?;
    Some(number.trim().to_owned())
}

/// Lets the container read so many bytes of a disk in a second. The kernel counts from then on what is read.
fn limit(cgroups: &Paths, disk: &str, bytes: u64) {
    match (cgroups.legacy.get(&Controller::Blkio), &cgroups.unified) {
        (Some(legacy), _) => {
            fs::write(legacy.join("blkio.throttle.read_bps_device"), format!("{disk} {bytes}"))
        }
        (None, Some(unified)) => fs::write(unified.join("io.max"), format!("{disk} rbps={bytes}")),
        (None, None) => return,
    }
    .expect("a limit");
}

/// The page cache that is charged to a container, and what was read of disks for it; bytes.
fn charged(cgroups: &Paths) -> [u64; 2] {
    let [memory, disk] = [Controller::Memory, Controller::Blkio].map(|controller| {
        let legacy = cgroups.legacy.get(&controller);
        let directory = legacy.or(cgroups.unified.as_ref()).expect("a cgroup");
        let file = match (controller, legacy) {
            (Controller::Memory, _) => "memory.stat",
            (_, Some(_)) => "blkio.throttle.io_service_bytes",
            (_, None) => "io.stat",
        };
        fs::read_to_string(directory.join(file)).expect("an account")
    });
    let of_memory = |line: &str| -> Option<u64> {
        line.strip_prefix("cache ").or(line.strip_prefix("file "))?.parse().ok()
    };
    let of_disk = |line: &str| -> Option<u64> {
        match line.split_once(" Read ") {
            Some((_, bytes)) => bytes.parse().ok(),
            None => line.split(' ').find_map(|word| word.strip_prefix("rbytes="))?.parse().ok(),
        }
    };
    [memory.lines().filter_map(of_memory).sum::<u64>(), disk.lines().filter_map(of_disk).sum()]
}

fn next_daemon(daemon: &mut Daemon) {
    let null = null();
    let mut parked: Vec<Parked> = (0..3).map(|_| daemon.park(daemon.options()).expect("parked")).collect();
    start(&mut parked[0], &["wait"], [null.as_fd(); 3]).expect("runs");
    let (read, write) = nix::unistd::pipe().expect("pipe");
    start(&mut parked[1], &["read", "/proc/self/fd/0"], [read.as_fd(), null.as_fd(), null.as_fd()])
        .expect("runs");
    let ids: Vec<String> = parked.iter().map(|parked| parked.container().id.clone()).collect();
    let first = Order::Keep { id: ids[0].clone(), note: "first".into() };
    daemon.client.send(&first, &[null.as_fd(), parked[0].pidfd()]).expect("send");
    let second = Order::Keep { id: ids[1].clone(), note: "second".into() };
    daemon.client.send(&second, &[]).expect("send");

    // The daemon goes, with the line of the one that was not used; one container ends meanwhile.
    let ends: Vec<OwnedFd> =
        parked[1..].iter().map(|parked| parked.pidfd().try_clone_to_owned().expect("dup")).collect();
    let run = daemon.directory.join("run");
    drop(parked);
    let (other, _) = nix::sys::socket::socketpair(
        nix::sys::socket::AddressFamily::Unix,
        nix::sys::socket::SockType::SeqPacket,
        None,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
    )
    .expect("socketpair");
    drop(other);
    daemon.client = Client::connect(&run).expect("connect").expect("it is there");
    drop(write);
    ends.iter().for_each(|pidfd| wait(pidfd.as_fd(), 10));
    daemon.hello();
    daemon.client.send(&Order::List, &[]).expect("send");
    let mut told = Vec::new();
    loop {
        match daemon.next() {
            (Report::Kept { id, note, end, .. }, descriptors) => {
                told.push((id, note, end.map(|end| end.exit), descriptors.len()));
            }
            (Report::Exited { .. }, _) => {}
            (Report::Listed, _) => break,
            (other, _) => panic!("{other:?}"),
        }
    }
    told.sort_by(|a, b| a.0.cmp(&b.0));
    // It may be told of an end before or after its list.
    let state: Vec<_> = told.iter().map(|(id, note, _, count)| (id, note.as_str(), *count)).collect();
    assert_eq!(state, [(&ids[0], "first", 2), (&ids[1], "second", 0), (&ids[2], "", 0)]);
    assert_eq!(told[0].2, None);
    for id in ids {
        daemon.client.send(&Order::Forget { id }, &[]).expect("send");
    }
    daemon.client.send(&Order::List, &[]).expect("send");
    while !matches!(daemon.next().0, Report::Listed) {}
    // It serves the next one as it did the first.
    assert_eq!(daemon.run(daemon.options(), &["exit", "5"]).1, Exit::Code(5));
}

fn upgrades(daemon: &mut Daemon) {
    let null = null();
    let mut running = daemon.park(daemon.options()).expect("parked");
    start(&mut running, &["wait"], [null.as_fd(); 3]).expect("runs");
    let mut parked = daemon.park(daemon.options()).expect("parked");
    let ids = [&running, &parked].map(|parked| parked.container().id.clone());
    let keep = Order::Keep { id: ids[0].clone(), note: "note".into() };
    daemon.client.send(&keep, &[null.as_fd(), running.pidfd()]).expect("send");
    // What cannot be run changes nothing.
    daemon.client.send(&Order::Upgrade, &[null.as_fd()]).expect("send");
    daemon.hello();
    let executable = File::open("/proc/self/exe").expect("open");
    daemon.client.send(&Order::Upgrade, &[executable.as_fd()]).expect("send");
    daemon.hello();
    let open = fs::read_dir(format!("/proc/{}/fd", daemon.child.id())).expect("read").count();
    assert!(open < 20, "{open} descriptors are open");
    // Its children are its own, also the one that waits; and it keeps what it has kept.
    assert_eq!(go(&mut parked, &["read", "/etc/passwd"]).expect("runs").lines().count(), 2);
    assert_eq!(daemon.exited(&ids[1]), Exit::Code(0));
    daemon.client.send(&Order::List, &[]).expect("send");
    let mut count = 0;
    loop {
        match daemon.next() {
            (Report::Kept { id, note, end: None, .. }, descriptors) => {
                assert_eq!((&id, note.as_str(), descriptors.len()), (&ids[0], "note", 2));
            }
            (Report::Kept { id, end: Some(_), .. }, _) => assert_eq!(id, ids[1]),
            (Report::Listed, _) => break,
            (other, _) => panic!("{other:?}"),
        }
        count += 1;
    }
    assert_eq!(count, 2);
    assert_eq!(daemon.run(daemon.options(), &["exit", "8"]).1, Exit::Code(8));
    skiff_sys::process::send_signal(running.pidfd(), libc::SIGKILL).expect("kill");
    assert_eq!(daemon.exited(&ids[0]), Exit::Signal(libc::SIGKILL));
}

fn garbage(daemon: &mut Daemon) {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    use std::io::IoSlice;
    let null = null();
    let many = [null.as_raw_fd(); 60];
    let (reader, _writer) = nix::unistd::pipe().expect("pipe");
    let pipe = [reader.as_raw_fd()];
    for (bytes, descriptors) in [
        (&b"{\"park\":"[..], &[][..]),
        (b"\"unknown\"", &[]),
        (&[0xff; 60_000], &[]),
        (b"\"list\"", &many),
        (b"@", &pipe),
        (b"@", &[]),
    ] {
        let rights = [ControlMessage::ScmRights(descriptors)];
        let control = if descriptors.is_empty() { &[][..] } else { &rights };
        let fd = daemon.client.fd().as_raw_fd();
        sendmsg::<()>(fd, &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None).expect("send");
    }
    assert_eq!(daemon.run(daemon.options(), &["exit", "6"]).1, Exit::Code(6));
    let own = fs::read_dir(format!("/proc/{}/fd", daemon.child.id())).expect("read").count();
    assert!(own < 16, "{own} descriptors are open");
}
