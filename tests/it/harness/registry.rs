//! A real registry on loopback – Debian's `docker-registry` – with what others have in front of theirs: passwords, a
//! token server, TLS with an authority of their own, and a way that breaks.
//!
//! Each one has a free port and a directory of its test, and dies with the thread that has started it.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use serde_json::json;

use super::case::text;
use super::fixture::tool;
use super::layout::filter;
use super::{Case, installed};

/// The only user, where there is one.
pub(crate) const USER: &str = "skiff";
/// The user's password.
pub(crate) const PASSWORD: &str = "sesame";
/// It, as `htpasswd -B` writes it.
const HTPASSWD: &str = "skiff:$2y$05$abcdefghijklmnopqrstuuKcS.CYWVYVaLiiCKrrc0A5s3mGesJ9O\n";
/// What the registry calls itself to the token server.
const SERVICE: &str = "test-registry";

/// Whether the programs are there that registries here are made of.
pub(crate) fn has_registry() -> bool {
    ["docker-registry", "skopeo", "setpriv", "openssl"].into_iter().all(installed)
}

/// How a registry is guarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guard {
    Nothing,
    Password,
    /// By tokens that a server of ours gives to the user, and to anybody for reading what is called `public/…`.
    Tokens,
    /// By an authority that nobody knows: [`Registry::authority_file`].
    Tls,
    /// By a certificate for this address that is its own authority, as `openssl req -x509` makes it.
    SelfSigned(&'static str),
}

/// A registry that runs.
#[derive(Debug)]
pub(crate) struct Registry {
    /// Host and port.
    pub(crate) host: String,
    guard: Guard,
    dir: PathBuf,
    process: Child,
    _tokens: Option<Served>,
}

impl Registry {
    /// Starts one with an empty storage in the test's directory.
    pub(crate) fn start(case: &Case, guard: Guard) -> Self {
        Self::start_at(case, guard, 0)
    }

    /// The same at a port that the test knows to be free.
    pub(crate) fn start_at(case: &Case, guard: Guard, port: u16) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let dir = PathBuf::from(case.subdir(&format!("registry{}", COUNT.fetch_add(1, Ordering::Relaxed))));
        let mut config = json!({
            "version": "0.1",
            "log": { "level": "info", "formatter": "text" },
            "storage": { "filesystem": { "rootdirectory": dir.join("data") }, "delete": { "enabled": true } },
            "http": { "addr": format!("127.0.0.1:{port}") },
        });
        let mut tokens = None;
        match guard {
            Guard::Nothing => {}
            Guard::Password => {
                fs::write(dir.join("htpasswd"), HTPASSWD).expect("a file of passwords");
                config["auth"] = json!({ "htpasswd": { "realm": "here", "path": dir.join("htpasswd") } });
            }
            Guard::Tokens => {
                make_certificate(&dir);
                let served = Served::tokens(&dir);
                config["auth"] = json!({ "token": {
                    "realm": format!("http://{}/token", served.host),
                    "service": SERVICE,
                    "issuer": SERVICE,
                    "rootcertbundle": dir.join("ca.crt"),
                } });
                tokens = Some(served);
            }
            Guard::Tls | Guard::SelfSigned(_) => {
                match guard {
                    Guard::SelfSigned(address) => make_own_authority(&dir, address),
                    _ => make_certificate(&dir),
                }
                config["http"]["tls"] =
                    json!({ "certificate": dir.join("server.crt"), "key": dir.join("server.key") });
            }
        }
        // JSON is YAML.
        let path = dir.join("config.yml");
        fs::write(&path, config.to_string()).expect("a configuration");
        let (process, host) = launch(&path);
        Self { host, guard, dir, process, _tokens: tokens }
    }

    /// `HOST/REST`.
    pub(crate) fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.host)
    }

    /// The certificate of the authority that vouches for it.
    pub(crate) fn authority_file(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// Puts an image there by skopeo: `source` in skopeo's words, and flags of `skopeo copy`.
    pub(crate) fn put(&self, source: &str, rest: &str, flags: &[&str]) {
        let target = format!("docker://{}", self.name(rest));
        let mut words = vec!["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"];
        let user = format!("{USER}:{PASSWORD}");
        if matches!(self.guard, Guard::Password | Guard::Tokens) {
            words.extend(["--dest-creds", &user]);
        }
        words.extend(flags);
        words.extend([source, &target]);
        tool("skopeo", &words);
    }

    /// Takes an image from there by skopeo.
    pub(crate) fn take(&self, rest: &str, target: &str) {
        let source = format!("docker://{}", self.name(rest));
        tool("skopeo", &["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", &source, target]);
    }

    /// The files of its storage that hold blobs, with what they hold named in their paths.
    pub(crate) fn blob_file(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").expect("a digest");
        self.dir.join("data/docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _killed = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// Starts the program, and returns when it says where it listens.
fn launch(config: &Path) -> (Child, String) {
    let mut process = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "docker-registry", "serve"])
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start docker-registry");
    let said = process.stderr.take().map(read_address);
    match said {
        Some(Ok(host)) => (process, host),
        other => {
            let _ended = process.kill().and_then(|()| process.wait());
            panic!("docker-registry has not started: {other:?}");
        }
    }
}

/// The address that a log tells of; the log, if it tells of none.
fn read_address(log: ChildStderr) -> Result<String, String> {
    let (mut lines, mut said) = (BufReader::new(log), String::new());
    loop {
        let begin = said.len();
        if lines.read_line(&mut said).is_err() || said.len() == begin {
            return Err(said);
        }
        if let Some((_, rest)) = said[begin..].split_once("listening on ") {
            let host = rest.split(['"', ',']).next().unwrap_or_default().to_owned();
            // What it has to say later is of no interest, but must go somewhere.
            thread::spawn(move || io::copy(&mut lines, &mut io::sink()));
            return Ok(host);
        }
    }
}

/// An authority, `ca.crt`, and a certificate for 127.0.0.1 that it has signed, `server.crt` and `server.key`.
pub(crate) fn make_certificate(dir: &Path) {
    let [ca_key, ca, key, certificate] =
        ["ca.key", "ca.crt", "server.key", "server.crt"].map(|name| text(&dir.join(name)));
    let make = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"];
    tool("openssl", &[&make[..], &["-subj", "/CN=authority", "-keyout", &ca_key, "-out", &ca]].concat());
    let server = ["-subj", "/CN=server", "-addext", "subjectAltName=IP:127.0.0.1"];
    let leaf = ["-addext", "basicConstraints=critical,CA:FALSE", "-CA", &ca, "-CAkey", &ca_key];
    tool("openssl", &[&make[..], &server, &leaf, &["-keyout", &key, "-out", &certificate]].concat());
}

/// A certificate for an address that is an authority's as well, in both files.
fn make_own_authority(dir: &Path, address: &str) {
    let [key, certificate] = ["server.key", "server.crt"].map(|name| text(&dir.join(name)));
    let make = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=server"];
    let name = format!("subjectAltName=IP:{address}");
    tool("openssl", &[&make[..], &["-addext", &name, "-keyout", &key, "-out", &certificate]].concat());
    fs::copy(certificate, dir.join("ca.crt")).expect("copy a certificate");
}

/// What a thread of this process serves on loopback until it is dropped.
#[derive(Debug)]
pub(crate) struct Served {
    /// Host and port.
    pub(crate) host: String,
    is_over: Arc<AtomicBool>,
}

/// What happens to one connection through [`Served::between`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Nothing.
    Passes,
    /// It ends after so many bytes to the client.
    Cut(usize),
    /// The first request is answered with this status, and `Retry-After` in seconds, and the connection ends.
    Refused(u16, u32),
}

impl Served {
    /// Stands between clients and a registry; `fate` is asked for each connection, which have numbers from 0 on.
    pub(crate) fn between(registry: &Registry, fate: impl Fn(usize) -> Fate + Send + Sync + 'static) -> Self {
        let target = registry.host.clone();
        let count = AtomicUsize::new(0);
        Self::start(move |client| {
            let number = count.fetch_add(1, Ordering::SeqCst);
            // Ends when either side does.
            let _ended = pass(&client, &target, fate(number));
        })
    }

    fn tokens(dir: &Path) -> Self {
        let dir = dir.to_owned();
        Self::start(move |client| {
            let _ended = give_token(&client, &dir);
        })
    }

    fn start(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let host = listener.local_addr().expect("an address").to_string();
        let is_over = Arc::new(AtomicBool::new(false));
        let (serve, over) = (Arc::new(serve), Arc::clone(&is_over));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let serve = Arc::clone(&serve);
                thread::spawn(move || serve(client));
            }
        });
        Self { host, is_over }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        let _woken = TcpStream::connect(&self.host);
    }
}

fn pass(client: &TcpStream, target: &str, fate: Fate) -> io::Result<()> {
    let most = match fate {
        Fate::Passes => u64::MAX,
        Fate::Cut(most) => most as u64,
        Fate::Refused(status, seconds) => {
            let mut reader = BufReader::new(client);
            // A client that tries TLS first has another connection for the request itself.
            if reader.fill_buf()?.first().is_some_and(|first| *first != 22) {
                read_head(&mut reader)?;
                let head = format!("HTTP/1.1 {status} X\r\nRetry-After: {seconds}\r\nContent-Length: 0\r\n");
                let mut writer = client;
                writer.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes())?;
            }
            return client.shutdown(Shutdown::Both);
        }
    };
    let server = TcpStream::connect(target)?;
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let _ended = io::copy(&mut from, &mut to).and_then(|_| to.shutdown(Shutdown::Write));
    });
    let mut writer = client;
    let _ended = io::copy(&mut (&server).take(most), &mut writer);
    let _closed = server.shutdown(Shutdown::Both);
    client.shutdown(Shutdown::Both)
}

/// The lines of a request's head, the first one first.
fn read_head(reader: &mut impl BufRead) -> io::Result<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim_end().is_empty() {
            return Ok(lines);
        }
        lines.push(line.trim_end().to_owned());
    }
}

/// Answers one request for a token, by docker's specification for token servers.
fn give_token(client: &TcpStream, dir: &Path) -> io::Result<()> {
    let head = read_head(&mut BufReader::new(client))?;
    let path = head.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
    let expected = format!("Basic {}", base64(format!("{USER}:{PASSWORD}").as_bytes()));
    let said = head.iter().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("authorization").then_some(value)
    });
    let (status, body) = match said {
        Some(said) if said != expected => (401, json!({ "details": "incorrect username or password" })),
        said => (200, json!({ "token": token(&path, said.is_some(), dir), "expires_in": 300 })),
    };
    let body = body.to_string();
    let mut writer = client;
    write!(
        writer,
        "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    client.shutdown(Shutdown::Write)
}

/// A signed token for what `path` asks for, as far as the client may have it.
fn token(path: &str, is_user: bool, dir: &Path) -> String {
    let query = path.split_once('?').map_or("", |(_, query)| query);
    let scopes = query.split('&').filter_map(|pair| pair.strip_prefix("scope="));
    let access: Vec<_> = scopes
        .filter_map(|scope| {
            let scope = scope.replace("%2C", ",").replace("%3A", ":").replace("%2F", "/");
            let (kind, rest) = scope.split_once(':')?;
            let (name, actions) = rest.rsplit_once(':')?;
            let is_public = name.starts_with("public/");
            let actions: Vec<&str> =
                actions.split(',').filter(|action| is_user || (is_public && *action == "pull")).collect();
            Some(json!({ "type": kind, "name": name, "actions": actions }))
        })
        .collect();
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let pem = fs::read_to_string(dir.join("ca.crt")).expect("a certificate");
    let der: String = pem.lines().filter(|line| !line.starts_with("---")).collect();
    let header = json!({ "typ": "JWT", "alg": "RS256", "x5c": [der] });
    let claims = json!({
        "iss": SERVICE, "aud": SERVICE, "sub": USER, "jti": now.to_string(),
        "nbf": now - 60, "iat": now - 60, "exp": now + 300, "access": access,
    });
    let for_url = |bytes: &[u8]| base64(bytes).replace('+', "-").replace('/', "_").replace('=', "");
    let signed =
        format!("{}.{}", for_url(header.to_string().as_bytes()), for_url(claims.to_string().as_bytes()));
    let key = text(&dir.join("ca.key"));
    let signature = filter(&["openssl", "dgst", "-sha256", "-sign", &key], signed.as_bytes());
    format!("{signed}.{}", for_url(&signature))
}

/// What people and programs prove themselves by, in a file as docker has it. Returns the file's directory.
pub(crate) fn docker_config(case: &Case, host: &str, password: &str) -> String {
    let dir = case.subdir("docker-config");
    let auth = base64(format!("{USER}:{password}").as_bytes());
    let config = json!({ "auths": { host: { "auth": auth } } });
    let mut file = File::create(Path::new(&dir).join("config.json")).expect("a file of credentials");
    file.write_all(config.to_string().as_bytes()).expect("a file of credentials");
    dir
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}
