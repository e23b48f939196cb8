//! A server whose every answer is the test's to choose.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection};
use skiff_registry::{Access, Config, CredentialFile, Credentials, Patience, Registry, Repository, Rules};
use skiff_store::ImageName;

/// Of `localhost` and 127.0.0.1, its own authority, from 2026 to 2098; the key is 32 times the byte 7.
pub(crate) const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----
MIIBUTCCAQOgAwIBAgIULApadYiKGzkPBWo1oIAYdrVaVvgwBQYDK2VwMA8xDTAL
BgNVBAMMBHRlc3QwIBcNMjYxMTIyMTQxMzI5WhgPMjA5ODAxMjgxNDEzMjlaMA8x
DTALBgNVBAMMBHRlc3QwKjAFBgMrZXADIQDqSmxj4pxSCr71UHsTLsX5lUd2rr6+
e5JCHuppFEbSLKNvMG0wHQYDVR0OBBYEFExezkAjoDQe4qz/zE0XFUqFTwLlMB8G
A1UdIwQYMBaAFExezkAjoDQe4qz/zE0XFUqFTwLlMA8GA1UdEwEB/wQFMAMBAf8w
GgYDVR0RBBMwEYIJbG9jYWxob3N0hwR/AAABMAUGAytlcANBAAiLYhFbtre/reDJ
at0LC2KHtmqZwG6VO61eGGVp03mMEVqKEiT+56YpwZbJAD9pZGzRYHCfOl5B91J+
mXWHEAw=
-----END CERTIFICATE-----
";
/// What stands before an Ed25519 key in PKCS #8. RFC 8410, 7.
const KEY_HEAD: [u8; 16] = [48, 46, 2, 1, 0, 48, 5, 6, 3, 43, 101, 112, 4, 34, 4, 32];

/// What came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// With the query.
    pub(crate) path: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// `METHOD PATH`, which tests match on.
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// What goes back.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// Closes the connection after so many bytes of the body, whatever was announced.
    pub(crate) cut: Option<usize>,
}

impl Reply {
    pub(crate) fn new(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    /// None: the connection is closed.
    pub(crate) fn silence() -> Self {
        Self::default()
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn body(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.body = bytes.into();
        self
    }

    pub(crate) fn cut(mut self, after: usize) -> Self {
        self.cut = Some(after);
        self
    }
}

type Answer = dyn Fn(&Request) -> Reply + Send + Sync;

/// Listens until it is dropped, and remembers what came.
pub(crate) struct Server {
    pub(crate) authority: String,
    seen: Arc<Mutex<Vec<Request>>>,
    is_over: Arc<AtomicBool>,
}

impl Server {
    pub(crate) fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::listen(None, answer)
    }

    /// Speaks TLS, by [`CERTIFICATE`].
    pub(crate) fn start_encrypted(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let chain = vec![CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).expect("a certificate")];
        let key = PrivatePkcs8KeyDer::from([&KEY_HEAD[..], &[7; 32]].concat());
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key.into());
        Self::listen(Some(Arc::new(config.expect("the certificate's key"))), answer)
    }

    fn listen(
        tls: Option<Arc<ServerConfig>>,
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let authority = listener.local_addr().expect("an address").to_string();
        let (seen, is_over) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (answer, memory, over): (Arc<Answer>, _, _) =
            (Arc::new(answer), Arc::clone(&seen), Arc::clone(&is_over));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let (answer, memory, tls) = (Arc::clone(&answer), Arc::clone(&memory), tls.clone());
                thread::spawn(move || serve(&stream, tls, &*answer, &memory));
            }
        });
        Self { authority, seen, is_over }
    }

    /// `METHOD PATH` of all requests so far, without the first one that only asks for TLS.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.requests().iter().map(Request::line).collect()
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.seen.lock().expect("no panic").clone()
    }

    /// A client that waits for nothing for long.
    pub(crate) fn registry(&self, credentials: Option<(&str, &str)>) -> Registry {
        registry(&self.authority, credentials, Rules::default())
    }

    /// With `--tls-verify=VERIFY`.
    pub(crate) fn registry_verifying(&self, credentials: Option<(&str, &str)>, verify: bool) -> Registry {
        registry_with(&self.authority, credentials, Rules::default(), |config| Config {
            tls_verify: Some(verify),
            ..config
        })
    }

    pub(crate) fn repository(&self, access: Access) -> Repository {
        let name = self.name("x/y:1");
        self.registry(None).repository(&name, access).expect("a repository")
    }

    pub(crate) fn name(&self, rest: &str) -> ImageName {
        ImageName::parse(&format!("{}/{rest}", self.authority)).expect("a name")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        let _woken = TcpStream::connect(&self.authority);
    }
}

pub(crate) fn registry(host: &str, credentials: Option<(&str, &str)>, rules: Rules) -> Registry {
    registry_with(host, credentials, rules, |config| config)
}

/// Each one has a file of credentials of its own, which is gone with the process's directory.
fn registry_with(
    host: &str,
    credentials: Option<(&str, &str)>,
    rules: Rules,
    adjust: impl FnOnce(Config) -> Config,
) -> Registry {
    use std::sync::atomic::AtomicUsize;
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("skiff-registry-{}-{number}", std::process::id()));
    let file = CredentialFile::at(folder.join("config.json"));
    if let Some((user, password)) = credentials {
        file.store(host, &Credentials::password(user, password)).expect("store credentials");
    }
    let registry = Registry::new(adjust(config(file, rules)));
    if credentials.is_some() {
        // It is read when it is needed, so it must stay for a while.
        CLEANUP.with(|all| all.borrow_mut().0.push(folder));
    }
    registry
}

pub(crate) fn config(credentials: CredentialFile, rules: Rules) -> Config {
    let short = std::time::Duration::from_millis(1);
    let patience = Patience { attempts: 4, first_wait: short, ..Patience::default() };
    Config { credentials, rules, tls_verify: None, certificates: Vec::new(), patience }
}

/// Folders of a test's thread.
#[derive(Default)]
struct Folders(Vec<std::path::PathBuf>);

impl Drop for Folders {
    fn drop(&mut self) {
        for folder in &self.0 {
            let _removed = std::fs::remove_dir_all(folder);
        }
    }
}

thread_local! {
    static CLEANUP: std::cell::RefCell<Folders> = std::cell::RefCell::default();
}

fn serve(
    mut stream: &TcpStream,
    tls: Option<Arc<ServerConfig>>,
    answer: &Answer,
    seen: &Mutex<Vec<Request>>,
) {
    // Head and body are written by two calls.
    let _hint = stream.set_nodelay(true);
    match tls {
        None => converse(stream, answer, seen),
        Some(config) => {
            let mut session = ServerConnection::new(config).expect("a session");
            converse(rustls::Stream::new(&mut session, &mut stream), answer, seen);
        }
    }
    let _closed = stream.shutdown(Shutdown::Both);
}

fn converse(stream: impl Read + Write, answer: &Answer, seen: &Mutex<Vec<Request>>) {
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(&mut reader) {
        seen.lock().expect("no panic").push(request.clone());
        let reply = answer(&request);
        if reply.status == 0 {
            break;
        }
        let mut head = format!("HTTP/1.1 {} X\r\n", reply.status);
        if !reply.headers.iter().any(|(name, _)| *name == "content-length") {
            head += &format!("content-length: {}\r\n", reply.body.len());
        }
        for (name, value) in &reply.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let body = if request.method == "HEAD" { &[] } else { &reply.body[..] };
        let end = reply.cut.unwrap_or(body.len()).min(body.len());
        let writer = reader.get_mut();
        let written =
            writer.write_all((head + "\r\n").as_bytes()).and_then(|()| writer.write_all(&body[..end]));
        if written.is_err() || reply.cut.is_some() {
            break;
        }
    }
}

/// The next request; nothing if it is none, as the beginning of TLS is.
fn read(reader: &mut impl BufRead) -> Option<Request> {
    if *reader.fill_buf().ok()?.first()? == 22 {
        return None;
    }
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let request = Request { method, path, headers, body: Vec::new() };
    let length = request.header("content-length").and_then(|it| it.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    if request.header("transfer-encoding").is_some() {
        body = read_chunked(reader)?;
    } else {
        reader.read_exact(&mut body).ok()?;
    }
    Some(Request { body, ..request })
}

fn read_chunked(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let length = usize::from_str_radix(line.trim(), 16).ok()?;
        let mut chunk = vec![0; length + 2];
        reader.read_exact(&mut chunk).ok()?;
        if length == 0 {
            return Some(all);
        }
        all.extend_from_slice(&chunk[..length]);
    }
}
