//! `skiff harden`: policies from recorded runs of real servers, which serve as well under them, and nothing else does.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use nix::sys::resource::Resource;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{Case, Live, Output, fixture, installed, need, parse, programs, skip};
use crate::peers::engine::{Client, Kind, TESTED};
use crate::peers::world::eventually;

/// What tells of the use of capabilities.
const CHECKS: &str = "a kernel with the tracepoint cap_capable";

/// Whether this host lets runs be recorded in full.
fn can_record() -> bool {
    Path::new("/sys/kernel/btf/vmlinux").exists() && nix::unistd::geteuid().is_root()
}

/// A root file system around some of the host's programs, with what they are linked with. `$1` is its directory, the rest
/// are the programs.
const ROOT: &str = r#"
umask 022
root=$1; shift
cd "$root"
mkdir -p usr/bin usr/sbin usr/lib usr/lib64 etc tmp run var/log var/lib proc sys dev srv
for name in bin sbin lib lib64; do ln -s usr/$name $name; done
printf 'root:x:0:0:root:/:/bin/sh\nwww-data:x:33:33::/srv:/bin/sh\nredis:x:100:101::/data:/bin/sh\n' >etc/passwd
printf 'root:x:0:\nwww-data:x:33:\nredis:x:101:\n' >etc/group
echo hello >srv/index.html
for file in "$@"; do
    cp -L --parents "$file" .
    ldd "$file" | grep -o '/[^ ]*' | while read -r library; do
        cp -L --parents "$(readlink -f "$(dirname "$library")")/$(basename "$library")" .
    done
done
"#;

/// A server, as a test has it.
struct Server {
    case: Case,
    root: String,
    flags: Vec<String>,
    command: Vec<String>,
    port: u16,
    /// What clients ask of it, and what it must answer.
    traffic: fn(u16),
}

impl Server {
    /// A root file system with `files` of the host in it.
    fn new(files: &[&str], traffic: fn(u16)) -> Self {
        let case = Case::new();
        let root = case.subdir("root");
        fixture::tool("sh", &[&["-ec", ROOT, "sh", &root], files].concat());
        fs::copy(programs::probe(), format!("{root}/usr/bin/probe")).expect("the probe");
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its number").port();
        Self { case, root, flags: vec!["--network=host".into()], command: Vec::new(), port, traffic }
    }

    fn command(mut self, words: &[&str]) -> Self {
        self.command = words.iter().map(|word| word.replace("PORT", &self.port.to_string())).collect();
        self
    }

    fn write(&self, path: &str, text: &str) {
        let path = format!("{}{path}", self.root);
        fs::create_dir_all(Path::new(&path).parent().expect("a directory")).expect("made");
        fs::write(path, text.replace("PORT", &self.port.to_string())).expect("written");
    }

    /// Starts a command, has clients at work when it serves, and asks it to end.
    fn serve(&self, words: &[&str]) -> Output {
        let live = self.case.skiff(words).start();
        assert!(
            eventually(|| TcpStream::connect(("127.0.0.1", self.port)).is_ok()),
            "nobody listens: {live:?}"
        );
        (self.traffic)(self.port);
        end(live)
    }

    /// Records a run; its profile.
    fn record(&self, name: &str) -> String {
        let file = self.case.dir.join(name).display().to_string();
        let (profile, image) = (format!("--profile={file}"), format!("rootfs:{}", self.root));
        let words: Vec<&str> = ["run", "--rm", &profile]
            .into_iter()
            .chain(self.flags.iter().map(String::as_str))
            .chain([image.as_str()])
            .chain(self.command.iter().map(String::as_str))
            .collect();
        let output = self.serve(&words);
        assert_eq!(output.code, 0, "{output}");
        file
    }

    /// The whole way: two recorded runs, a policy, the same traffic under it, and a program that wants more.
    fn is_hardened(&self, kept: &[&str]) -> Value {
        let runs = [self.record("one.json"), self.record("other.json")];
        let directory = self.case.dir.join("policy").display().to_string();
        self.case.skiff(&["harden", &runs[0], &runs[1], "-o", &directory]).output().ok();
        let image = format!("rootfs:{}", self.root);
        let flags = self.flags.iter().chain([&image]).chain(&self.command).map(String::as_str);
        let words: Vec<&str> = ["harden", "--verify", &directory, "--"].into_iter().chain(flags).collect();
        let verified = self.serve(&words);
        assert!(
            verified.code == 0 && verified.stdout.ends_with("verified: nothing was refused\n"),
            "{verified}"
        );
        let tried = ["probe", "try", "keyctl", "ptrace", "1", "mount", "none", "/tmp"];
        let words = [&["harden", "--verify", &directory, "--", &image], &tried[..]].concat();
        let refused = self.case.skiff(&words).output();
        assert_eq!(refused.code, 1, "{refused}");
        assert!(refused.stdout.starts_with("EPERM\nEPERM\nEPERM\n"), "{refused}");
        for name in ["keyctl", "ptrace", "mount"] {
            let line = format!("system call {name} was refused by the filter, once\n");
            assert!(refused.stdout.contains(&line), "{refused}");
        }
        let policy = parse(&fs::read_to_string(format!("{directory}/policy.json")).expect("a policy"));
        if policy["capabilities"]["used_by"].is_null() {
            skip(CHECKS);
        } else {
            assert_eq!(policy["capabilities"]["kept"], serde_json::json!(kept), "{policy}");
        }
        assert_eq!(policy["read_only"], true, "{policy}");
        policy
    }
}

fn end(live: Live) -> Output {
    live.signal(Signal::SIGTERM);
    live.finish()
}

/// One request of HTTP; its status.
fn http(port: u16, head: &str, body: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    let head = format!("{head} HTTP/1.0\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}

/// The directories that must be writable.
fn writable(policy: &Value) -> Vec<&str> {
    let all = policy["writable"].as_array().expect("a list");
    all.iter().map(|directory| directory["path"].as_str().expect("a path")).collect()
}

#[test]
fn nginx_serves_under_the_policy_of_its_recorded_runs() {
    need!(can_record() && installed("nginx"), "root, a kernel with BTF, and nginx");
    let traffic = |port| {
        for _ in 0..5 {
            assert_eq!(http(port, "GET /index.html", b""), "200");
            assert_eq!(http(port, "GET /none", b""), "404");
            assert_eq!(http(port, "POST /up", &[b'x'; 200_000]), "204");
        }
    };
    let server = Server::new(&["/usr/sbin/nginx"], traffic).command(&["nginx"]);
    server.write(
        "/etc/nginx/nginx.conf",
        "user www-data; worker_processes 2; error_log stderr; pid /run/nginx.pid; daemon off;
         events { worker_connections 64; }
         http {
             access_log /var/log/nginx/access.log;
             server {
                 listen 127.0.0.1:PORT; root /srv;
                 location /up { client_body_in_file_only clean; proxy_pass http://127.0.0.1:PORT/got; }
                 location /got { return 204; }
             }
         }",
    );
    for directory in ["var/log/nginx", "var/lib/nginx"] {
        fs::create_dir_all(format!("{}/{directory}", server.root)).expect("made");
    }
    let policy = server.is_hardened(&["CHOWN", "SETGID", "SETUID"]);
    assert_eq!(writable(&policy), ["/run", "/var/lib/nginx", "/var/log/nginx"]);
    assert!(policy["peaks"]["tasks"].as_u64() >= Some(3), "{policy}");
}

#[test]
fn redis_serves_under_the_policy_of_its_recorded_runs() {
    need!(can_record() && installed("redis-server"), "root, a kernel with BTF, and redis-server");
    let traffic = |port| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        let mut answers = BufReader::new(stream.try_clone().expect("a copy"));
        let mut ask = |line: &str, expected: &str| {
            stream.write_all(format!("{line}\r\n").as_bytes()).expect("it reads");
            let mut answer = String::new();
            answers.read_line(&mut answer).expect("it answers");
            assert_eq!(answer, format!("{expected}\r\n"), "{line}");
        };
        for number in 1..20 {
            ask("PING", "+PONG");
            ask(&format!("SET key{number} value"), "+OK");
            ask(&format!("EXPIRE key{number} 100"), ":1");
        }
        ask("DBSIZE", ":19");
        ask("SAVE", "+OK");
        ask("FLUSHALL", "+OK");
    };
    let server = Server::new(&["/usr/bin/redis-server"], traffic);
    let data = format!("{}/data", server.root);
    fs::create_dir(&data).expect("made");
    std::os::unix::fs::chown(&data, Some(100), Some(101)).expect("given away");
    let mut server = server.command(&[
        "redis-server",
        "--port",
        "PORT",
        "--bind",
        "127.0.0.1",
        "--dir",
        "/data",
        "--save",
        "",
        "--appendonly",
        "no",
    ]);
    server.flags.push("--user=redis".into());
    let policy = server.is_hardened(&[]);
    assert_eq!(writable(&policy), ["/data"]);
    let place = &policy["writable"][0];
    assert_eq!((&place["uid"], &place["gid"], &place["filled"]), (&100.into(), &101.into(), &false.into()));
}

#[test]
fn python_serves_under_the_policy_of_its_recorded_runs() {
    need!(can_record() && Path::new("/usr/bin/python3").exists(), "root, a kernel with BTF, and python3");
    let traffic = |port| {
        for _ in 0..5 {
            assert_eq!(http(port, "GET /index.html", b""), "200");
            assert_eq!(http(port, "HEAD /", b""), "200");
            assert_eq!(http(port, "GET /none", b""), "404");
        }
    };
    let program = fs::canonicalize("/usr/bin/python3").expect("it is there").display().to_string();
    let server = Server::new(&[&program], traffic);
    let version = program.rsplit('/').next().expect("a name");
    fixture::tool("cp", &["-a", &format!("/usr/lib/{version}"), &format!("{}/usr/lib/", server.root)]);
    server.write(
        "/srv/serve.py",
        "import http.server, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
http.server.HTTPServer(('127.0.0.1', PORT), http.server.SimpleHTTPRequestHandler).serve_forever()
",
    );
    let mut server = server.command(&[&program, "-B", "/srv/serve.py"]);
    server.flags.push("--workdir=/srv".into());
    let policy = server.is_hardened(&[]);
    assert_eq!(writable(&policy), [""; 0]);
}

/// A run of the probe, and the policy made of it.
fn policy_of(case: &Case, flags: &[&str], command: &[&str]) -> String {
    let file = case.dir.join("run.json").display().to_string();
    let profile = format!("--profile={file}");
    let output = case.run(&[flags, &[&profile]].concat(), command);
    assert_eq!(output.code, 0, "{output}");
    let directory = case.dir.join("policy").display().to_string();
    case.skiff(&["harden", &file, "-o", &directory]).output().ok();
    directory
}

fn profile(case: &Case) -> Value {
    parse(&fs::read_to_string(case.dir.join("run.json")).expect("a profile"))
}

#[test]
fn uses_are_told_exactly() {
    need!(can_record(), "root, and a kernel with BTF");
    let case = Case::new();
    let script = "echo x >/dev/full 2>/dev/null; cat /proc/sys/kernel/ostype /proc/sys/kernel/ostype >/dev/null; \
                  mkdir /tmp/new; echo y >/etc/passwd; chown 5 /etc/group";
    policy_of(&case, &["--device=/dev/kmsg"], &["sh", "-c", script]);
    let uses = profile(&case)["uses"].clone();
    assert_eq!(uses["lost"], 0, "{uses}");
    let written: Vec<&str> =
        uses["written"].as_array().expect("a list").iter().filter_map(|w| w["directory"].as_str()).collect();
    assert_eq!(written, ["/etc", "/tmp"], "{uses}");
    for part in ["capabilities", "written", "devices", "sysctls", "tasks_peak", "descriptors_peak"] {
        assert_eq!(uses[part].is_null(), uses["reasons"][part].is_string(), "{part}: {uses}");
    }
    let device = |minor: u64| {
        let all = uses["devices"].as_array().expect("devices");
        all.iter()
            .find(|device| device["major"] == 1 && device["minor"] == minor)
            .cloned()
            .unwrap_or_default()
    };
    assert_eq!((&device(7)["reads"], &device(7)["writes"]), (&0.into(), &1.into()), "/dev/full: {uses}");
    assert_eq!(uses["sysctls"], serde_json::json!([{"name": "kernel/ostype", "reads": 2, "writes": 0}]));
    assert!(
        uses["tasks_peak"].as_u64() >= Some(2) && uses["descriptors_peak"].as_u64() >= Some(64),
        "{uses}"
    );
    let flags = fs::read_to_string(case.dir.join("policy/docker/flags")).expect("flags");
    assert!(!flags.contains("--device"), "/dev/kmsg was not opened: {flags}");
    need!(uses["capabilities"].is_array(), "{CHECKS}");
    let capabilities = uses["capabilities"].as_array().expect("a list");
    let chown = capabilities.iter().find(|used| used["name"] == "CHOWN").expect("it was needed");
    assert_eq!((&chown["granted"], &chown["refused"]), (&1.into(), &0.into()), "{chown}");
}

#[test]
fn profiles_that_have_lost_events_make_no_policy() {
    need!(can_record(), "root, and a kernel with BTF");
    let case = Case::new();
    policy_of(&case, &[], &["true"]);
    let mut lossy = profile(&case);
    lossy["events_lost"] = 3.into();
    let file = case.file("lossy.json", &lossy.to_string());
    case.skiff(&["harden", &file]).output().fails(1, "3 events are missing");
    assert_eq!(case.skiff(&["harden", "--accept-losses", &file]).output().code, 0);
}

#[test]
fn profiles_are_kept_with_the_policy_that_was_made_of_them() {
    need!(can_record(), "root, and a kernel with BTF");
    let case = Case::new();
    let directory = policy_of(&case, &[], &["true"]);
    let one = fs::read_to_string(case.dir.join("run.json")).expect("a profile");
    let other = case.file("other.json", &format!("{one} "));
    let first = format!("{directory}/profiles/1.json");
    case.skiff(&["harden", &other, &first, &first, "-o", &directory]).output().ok();
    let kept = |number: u32| fs::read_to_string(format!("{directory}/profiles/{number}.json")).ok();
    let expected = [Some(format!("{one} ")), Some(one.clone()), Some(one.clone())];
    assert_eq!([1, 2, 3].map(kept), expected, "an input that is written to");
    case.skiff(&["harden", "/proc/self/fd/0", "--for", "skiff", "-o", &directory])
        .stdin(one.as_bytes())
        .output()
        .ok();
    assert_eq!([1, 2, 3].map(kept), [Some(one), None, None], "an input that can be read once");
    assert!(!Path::new(&format!("{directory}/docker")).exists(), "it would be of another policy");
    case.skiff(&["harden", "--verify", &directory]).output().ok();
}

#[test]
fn an_init_works_under_the_policy() {
    need!(can_record(), "root, and a kernel with BTF");
    let case = Case::new();
    // It reaps an orphan, and passes a signal on, which comes when all that the program does has been done once.
    let trapped = "trap 'exit 7' TERM; (busybox sleep 0.01 &); busybox sleep 0.1; kill -TERM 1; while :; do busybox sleep 0.01; done";
    let file = case.dir.join("run.json").display().to_string();
    let profile = format!("--profile={file}");
    assert_eq!(case.run(&["--init", &profile], &["sh", "-c", trapped]).code, 7);
    let output = case.skiff(&["harden", "--verify", &file]).output();
    assert_eq!((output.code, output.stdout.as_str()), (0, "verified: nothing was refused\n"), "{output}");
}

#[test]
fn programs_are_told_the_verdict() {
    need!(can_record(), "root, and a kernel with BTF");
    let case = Case::new();
    let directory = policy_of(&case, &[], &["probe", "try", "read", "/etc/passwd"]);
    let image = format!("rootfs:{}", case.own_root().display());
    let verdict = |tried: &[&str]| {
        let words = [&["harden", "--verify", &directory, "--format", "json", "--", &image], tried].concat();
        let output = case.skiff(&words).output();
        (output.code, parse(output.stdout.lines().last().expect("a line")), output.stderr)
    };
    let (code, kept, _) = verdict(&["probe", "try", "read", "/etc/passwd"]);
    let expected = serde_json::json!({"schema": "skiff.verdict/1", "verified": true, "refusals": []});
    assert_eq!((code, kept), (0, expected));
    let (code, broken, said) = verdict(&["probe", "try", "keyctl"]);
    assert_eq!((code, &broken["verified"]), (1, &false.into()), "{broken}");
    assert_eq!(broken["refusals"], serde_json::json!(["system call keyctl was refused by the filter, once"]));
    assert_eq!(said, "skiff: the program needs more than the policy allows: 1 difference\n");
}

#[test]
fn what_a_profile_would_be_given_of_the_host_must_be_said_again() {
    need!(can_record(), "root, and a kernel with BTF");
    let case = Case::new();
    let directory = policy_of(&case, &[], &["true"]);
    for flag in ["--volume=/:/host", "--pid=host", "--net=host", "--cidfile=/nowhere/id"] {
        let mut profile = profile(&case);
        profile["run"]["flags"] = serde_json::json!([flag]);
        let file = case.file("strange.json", &profile.to_string());
        case.skiff(&["harden", "--verify", &file]).output().fails(1, "after '--'");
        case.file("policy/profiles/1.json", &profile.to_string());
        case.skiff(&["harden", "--verify", &directory]).output().fails(1, "after '--'");
    }
}

#[test]
fn what_is_no_profile_is_refused() {
    let case = Case::new();
    let text = case.file("text.json", "no JSON");
    let other = case.file("other.json", r#"{"schema": "other/1"}"#);
    case.skiff(&["harden"]).output().fails(1, "no profile given");
    case.skiff(&["harden", &text]).output().fails(1, "is no profile");
    case.skiff(&["harden", &other]).output().fails(1, "is no profile");
    case.skiff(&["harden", "/nowhere"]).output().fails(1, "no such file or directory");
    case.skiff(&["harden", &text, "--for", "lxc"]).output().fails(125, "neither skiff, docker");
    case.skiff(&["harden", &text, "--", "host", "true"]).output().fails(1, "needs --verify");
    case.skiff(&["harden", "--verify", &case.subdir("empty")]).output().fails(1, "no such file or directory");
    assert_eq!(fs::read_dir(case.dir.join("tmp")).expect("there").count(), 0, "nothing is left");
}

/// What the probe is allowed by a policy that was made of other calls, under another engine and another runtime.
fn holds_elsewhere(client: &Client<'_>, engine: &str) {
    holds_with(client, engine, &[]);
    holds_with(client, engine, &["--init"]);
}

fn holds_with(client: &Client<'_>, engine: &str, recorded: &[&str]) {
    let case = Case::new();
    let directory = policy_of(&case, recorded, &["probe", "try", "read", "/etc/passwd"]);
    let flags = fs::read_to_string(format!("{directory}/{engine}/flags")).expect("flags");
    // crun raises limits when it has dropped the capabilities that it would need for that.
    let (soft, hard) = nix::sys::resource::getrlimit(Resource::RLIMIT_NPROC).expect("a limit");
    let processes = format!("--ulimit=nproc={soft}:{hard}");
    let flags: Vec<&str> =
        flags.lines().chain([processes.as_str()]).chain(recorded.iter().copied()).collect();
    let told = client.sees_lines(&flags, &["probe", "try", "read", "/etc/passwd", "keyctl", "ptrace", "1"]);
    assert_eq!(told[1..], ["EPERM", "EPERM"], "{told:?}");
}

#[test]
fn docker_keeps_to_the_policy() {
    let engine = crate::peers::docker::docker();
    need!(can_record() && engine.is_some(), "a kernel with BTF, docker, containerd, crun and runc");
    let Some(engine) = engine else { return };
    for runtime in ["runc", TESTED] {
        holds_elsewhere(&Client::new(engine, runtime, "hardened"), "docker");
    }
}

#[test]
fn podman_keeps_to_the_policy() {
    let engine = crate::peers::podman::podman();
    need!(can_record() && engine.is_some(), "a kernel with BTF, podman, conmon, crun and runc");
    let Some(engine) = engine else { return };
    assert_eq!(engine.kind, Kind::Podman);
    for runtime in ["crun", TESTED] {
        holds_elsewhere(&Client::new(engine, runtime, "hardened"), "podman");
    }
}
