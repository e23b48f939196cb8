//! The endpoint: HTTP/1.1, as little of it as is of use.
//!
//! One request per connection, which has [`LIVES`] for all of it, [`HEAD`] of that for the request. When [`CLIENTS_MAX`] are
//! open, the oldest makes room: it is the one that dawdles. Nothing of a request has a meaning but method, path and `Accept`.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use skiff_observe::exposition::Format;
use skiff_runtime::cause;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;

use super::address::Endpoint;
use super::sampler::Sampler;
use crate::Error;

/// So many connections are open at a time.
const CLIENTS_MAX: usize = 32;

/// How long the head of a request may take.
const HEAD: Duration = Duration::from_secs(5);

/// How long a connection may take.
const LIVES: Duration = Duration::from_secs(15);

/// The most bytes and header fields of a request's head.
const HEAD_BYTES: usize = 16 << 10;
const FIELDS: usize = 64;

/// How long to wait when there are no descriptors left.
const PAUSE: Duration = Duration::from_millis(20);

/// A socket that listens.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener, Socket),
}

/// The same, watched by tokio.
#[derive(Debug)]
pub(super) enum Watched {
    Tcp(tokio::net::TcpListener),
    Unix { listener: tokio::net::UnixListener, _socket: Socket },
}

/// A socket that has been bound, which goes with this.
#[derive(Debug)]
pub(super) struct Socket {
    path: PathBuf,
    /// Device and inode.
    identity: Option<(u64, u64)>,
}

/// Listens at `endpoint`.
pub(super) fn listen(endpoint: &Endpoint) -> Result<Listener, Error> {
    let host = |error: io::Error| Error::Host(format!("metrics: listen at {endpoint}: {}", cause(&error)));
    match endpoint {
        Endpoint::Tcp(address) => {
            let listener = std::net::TcpListener::bind(address).map_err(host)?;
            listener.set_nonblocking(true).map_err(host)?;
            Ok(Listener::Tcp(listener))
        }
        Endpoint::Unix(path) => {
            // What is left of one that has gone. unix(7)
            let found = std::os::unix::net::UnixStream::connect(path);
            if found.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) && is_socket(path) {
                fs::remove_file(path).map_err(host)?;
            }
            let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
            let bound = std::os::unix::net::UnixListener::bind(path);
            nix::sys::stat::umask(before);
            let listener = bound.map_err(host)?;
            let socket = Socket { path: path.clone(), identity: identity(path) };
            listener.set_nonblocking(true).map_err(host)?;
            Ok(Listener::Unix(listener, socket))
        }
    }
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

/// Device and inode of what is there.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

impl Listener {
    pub(super) fn watch(self) -> io::Result<Watched> {
        match self {
            Self::Tcp(listener) => tokio::net::TcpListener::from_std(listener).map(Watched::Tcp),
            Self::Unix(listener, socket) => {
                let listener = tokio::net::UnixListener::from_std(listener)?;
                Ok(Watched::Unix { listener, _socket: socket })
            }
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => address.fmt(f),
                Err(_) => f.write_str("?"),
            },
            Self::Unix(_, socket) => write!(f, "unix:{}", socket.path.display()),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Somebody may have removed it, and another may be there.
        if self.identity.is_some() && identity(&self.path) == self.identity {
            drop(fs::remove_file(&self.path));
        }
    }
}

/// The connections that are open, in the order in which they came.
#[derive(Debug, Default)]
struct Open {
    last: Cell<u64>,
    tasks: RefCell<BTreeMap<u64, AbortHandle>>,
}

/// Serves until it is dropped.
pub(super) async fn serve(listener: Watched, sampler: Rc<Sampler>) {
    let open = Rc::new(Open::default());
    loop {
        let accepted = match &listener {
            Watched::Tcp(listener) => {
                listener.accept().await.map(|(stream, _)| open.clone().attend(TokioIo::new(stream), &sampler))
            }
            Watched::Unix { listener, .. } => {
                listener.accept().await.map(|(stream, _)| open.clone().attend(TokioIo::new(stream), &sampler))
            }
        };
        if let Err(error) = accepted {
            tracing::debug!("metrics: accept a client: {}", cause(&error));
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Open {
    fn attend<S: AsyncRead + AsyncWrite + Unpin + 'static>(
        self: Rc<Self>,
        stream: TokioIo<S>,
        sampler: &Rc<Sampler>,
    ) {
        if self.tasks.borrow().len() >= CLIENTS_MAX {
            sampler.note(|cost| cost.evicted += 1);
            if let Some((_, oldest)) = self.tasks.borrow_mut().pop_first() {
                oldest.abort();
            }
        }
        let number = self.last.get() + 1;
        self.last.set(number);
        let (open, sampler) = (self.clone(), sampler.clone());
        let task = tokio::task::spawn_local(async move {
            let answering = sampler.clone();
            let service = service_fn(move |request| answer(answering.clone(), request));
            let connection = http1::Builder::new()
                .keep_alive(false)
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .max_buf_size(HEAD_BYTES)
                .max_headers(FIELDS)
                .serve_connection(stream, service);
            // What the client has done wrong it has been told, if that was possible.
            if !matches!(tokio::time::timeout(LIVES, connection).await, Ok(Ok(()))) {
                sampler.note(|cost| cost.failed += 1);
            }
            open.tasks.borrow_mut().remove(&number);
        });
        // It has not begun yet: it cannot have been removed.
        self.tasks.borrow_mut().insert(number, task.abort_handle());
    }
}

async fn answer(
    sampler: Rc<Sampler>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let is_get = matches!(*request.method(), Method::GET | Method::HEAD);
    let response = match request.uri().path() {
        "/metrics" | "/healthz" if !is_get => {
            let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            refused.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
            refused
        }
        "/metrics" => metrics(&sampler, &request).await,
        "/healthz" => match sampler.ping().await {
            Ok(()) => plain(StatusCode::OK, "ok\n"),
            Err(_) => plain(StatusCode::SERVICE_UNAVAILABLE, "the daemon does not answer\n"),
        },
        _ => plain(StatusCode::NOT_FOUND, "there are /metrics and /healthz\n"),
    };
    let status = response.status();
    sampler.note(|cost| match status {
        StatusCode::OK => cost.answered += 1,
        StatusCode::SERVICE_UNAVAILABLE => cost.failed += 1,
        _ => cost.refused += 1,
    });
    Ok(response)
}

async fn metrics(sampler: &Rc<Sampler>, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let accepts = request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = Format::negotiate(&accepts.collect::<Vec<_>>().join(","));
    match sampler.sample().await {
        Ok(sample) => with_type(StatusCode::OK, format.content_type(), sample.text(format)),
        Err(error) => {
            tracing::debug!("metrics: {}", cause(&error));
            plain(StatusCode::SERVICE_UNAVAILABLE, "the daemon does not answer\n")
        }
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    with_type(status, "text/plain; charset=utf-8", Bytes::from_static(text.as_bytes()))
}

fn with_type(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}
