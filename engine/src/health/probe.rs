//! Checks that need no process in the container: a TCP connection, or an HTTP request, from within its network.
//!
//! A socket belongs to the network namespace of the thread that makes it. So a thread that does nothing else enters the
//! container's, makes the sockets, hands them over and ends; everything else is done by the daemon's own thread.
//!
//! The container is hostile: what it answers is read up to the end of the first line and no further, the line has a
//! greatest length, and one deadline stands for all of it.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use skiff_runtime::cause;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{FAILED, Outcome};

/// The longest status line that is read, bytes.
const LINE_MAX_BYTES: usize = 1024;

/// Which network is looked at.
#[derive(Debug)]
pub enum Network {
    /// The daemon's own, which is the container's under `--network host`.
    Own,
    /// That of the process of this pidfd. Needs `CAP_SYS_ADMIN` over its user namespace; Linux ≥ 5.8.
    Of(OwnedFd),
}

/// Connects to a port on the container's loopback.
///
/// Runs in: the daemon, in a tokio runtime with I/O and time. Never fails: what goes wrong is the outcome.
pub async fn tcp(network: Network, port: u16, limit: Duration) -> Outcome {
    judge(limit, async { connect(network, port).await.map(|_| (0, String::new())) }).await
}

/// Asks for `path` at a port on the container's loopback; well from 200 to 399.
///
/// Runs in: as [`tcp`].
pub async fn http(network: Network, port: u16, path: &str, limit: Duration) -> Outcome {
    judge(limit, async {
        if path.chars().any(|c| c.is_control() || c == ' ') {
            return Err("the path has characters that a request cannot carry".into());
        }
        let mut stream = connect(network, port).await?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nUser-Agent: skiff\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.map_err(|error| format!("write: {}", cause(&error)))?;
        let line = first_line(&mut stream).await?;
        let code = status(&line).ok_or_else(|| format!("no HTTP answer: {}", line.escape_debug()))?;
        Ok((i32::from(!(200..400).contains(&code)), line.escape_debug().to_string()))
    })
    .await
}

/// Makes an outcome of an exit code and an output, or of the reason why there is none.
async fn judge(limit: Duration, check: impl Future<Output = Result<(i32, String), String>>) -> Outcome {
    let start_ns = now_ns();
    let (exit_code, output) = match timeout(limit, check).await {
        Ok(Ok(result)) => result,
        Ok(Err(reason)) => (FAILED, reason),
        Err(_) => return Outcome::timed_out(start_ns, now_ns(), limit, ""),
    };
    Outcome { start_ns, end_ns: now_ns(), exit_code, output }
}

async fn connect(network: Network, port: u16) -> Result<TcpStream, String> {
    let (v4, v6) = sockets(network).await.map_err(|error| format!("make a socket: {}", cause(&error)))?;
    let failed = |error: io::Error| format!("connect to port {port}: {}", cause(&error));
    let error = match v4.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await {
        Ok(stream) => return Ok(stream),
        Err(error) => error,
    };
    // It may listen there alone.
    match v6 {
        Some(v6) if error.kind() == io::ErrorKind::ConnectionRefused => {
            v6.connect(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).await.map_err(|_| failed(error))
        }
        _ => Err(failed(error)),
    }
}

/// Sockets in the network; the second one where the host has IPv6.
async fn sockets(network: Network) -> io::Result<(TcpSocket, Option<TcpSocket>)> {
    let (v4, v6) = match network {
        Network::Own => make()?,
        Network::Of(process) => {
            let (made, sockets) = oneshot::channel();
            // Its stack holds a few calls; it is gone before anybody looks.
            let enter = thread::Builder::new().name("skiff-netns".into()).stack_size(64 << 10);
            enter.spawn(move || drop(made.send(enter_and_make(process.as_fd()))))?;
            sockets.await.map_err(io::Error::other)??
        }
    };
    let tcp = |socket: OwnedFd| TcpSocket::from_std_stream(std::net::TcpStream::from(socket));
    Ok((tcp(v4), v6.map(tcp)))
}

/// Runs in: a thread of its own, which stays in that namespace until it ends. setns(2).
fn enter_and_make(process: BorrowedFd<'_>) -> io::Result<(OwnedFd, Option<OwnedFd>)> {
    setns(process, CloneFlags::CLONE_NEWNET)?;
    make()
}

fn make() -> io::Result<(OwnedFd, Option<OwnedFd>)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let v4 = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    Ok((v4, socket(AddressFamily::Inet6, SockType::Stream, flags, None).ok()))
}

/// What comes before the first end of a line.
async fn first_line(stream: &mut TcpStream) -> Result<String, String> {
    let mut line = [0; LINE_MAX_BYTES];
    let mut length = 0;
    loop {
        let read = stream.read(&mut line[length..]).await;
        let read = read.map_err(|error| format!("read: {}", cause(&error)))?;
        let seen = length;
        length += read;
        if let Some(end) = line[seen..length].iter().position(|byte| *byte == b'\n') {
            let whole = &line[..seen + end];
            return Ok(String::from_utf8_lossy(whole.strip_suffix(b"\r").unwrap_or(whole)).into_owned());
        }
        if read == 0 {
            return Err(match length {
                LINE_MAX_BYTES => format!("no HTTP answer: a line of more than {LINE_MAX_BYTES} bytes"),
                _ => "the connection was closed without an answer".into(),
            });
        }
    }
}

/// The code in `HTTP/1.1 200 OK`.
fn status(line: &str) -> Option<u16> {
    let (version, rest) = line.split_once(' ')?;
    let code = rest.get(..3).filter(|code| code.bytes().all(|byte| byte.is_ascii_digit()))?;
    let ends = rest[3..].is_empty() || rest[3..].starts_with(' ');
    if version.starts_with("HTTP/1.") && ends { code.parse().ok() } else { None }
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// A server on loopback that does this with the first connection; its port.
    fn server(serve: impl FnOnce(std::net::TcpStream) + Send + 'static) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("its address").port();
        thread::spawn(move || serve(listener.accept().expect("accept").0));
        port
    }

    /// A server that reads the request and answers with these bytes.
    fn answering(answer: &'static [u8]) -> u16 {
        server(move |mut stream| {
            let mut request = [0; 512];
            let _request = stream.read(&mut request);
            // Whoever has read enough hangs up.
            let _sent = stream.write_all(answer);
        })
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build().expect("a runtime").block_on(future)
    }

    fn ask(port: u16, limit_ms: u64) -> (i32, String) {
        let outcome = run(http(Network::Own, port, "/healthz", Duration::from_millis(limit_ms)));
        assert!(outcome.start_ns > 0 && outcome.end_ns >= outcome.start_ns);
        (outcome.exit_code, outcome.output)
    }

    #[test]
    fn a_port_that_listens_is_well() {
        let port = server(drop);
        assert_eq!(run(tcp(Network::Own, port, Duration::from_secs(5))).exit_code, 0);
        // Nobody listens there any more.
        let closed = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = closed.expect("an address").port();
        let outcome = run(tcp(Network::Own, port, Duration::from_secs(5)));
        assert_eq!(outcome.exit_code, FAILED);
        assert_eq!(outcome.output, format!("connect to port {port}: connection refused"));
    }

    #[test]
    fn answers_from_200_to_399_are_well() {
        let check = |answer: &'static [u8], expected: i32, output: &str| {
            assert_eq!(ask(answering(answer), 5000), (expected, output.to_owned()));
        };
        check(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nbody", 0, "HTTP/1.1 200 OK");
        check(b"HTTP/1.0 301\n", 0, "HTTP/1.0 301");
        check(b"HTTP/1.1 399 \r\n", 0, "HTTP/1.1 399 ");
        check(b"HTTP/1.1 404 Not Found\r\n\r\n", 1, "HTTP/1.1 404 Not Found");
        check(b"HTTP/1.1 199 x\r\n", 1, "HTTP/1.1 199 x");
        check(b"HTTP/1.1 500 \x1b[2J\r\n", 1, "HTTP/1.1 500 \\u{1b}[2J");
    }

    #[test]
    fn a_path_cannot_end_the_request() {
        let outcome = run(http(Network::Own, 1, "/ HTTP/1.1\r\nX: y", Duration::from_secs(1)));
        assert_eq!(outcome.output, "the path has characters that a request cannot carry");
    }

    #[test]
    fn what_is_no_answer_is_ill() {
        let check = |answer: &'static [u8], output: &str| {
            assert_eq!(ask(answering(answer), 5000), (FAILED, output.to_owned()));
        };
        check(b"", "the connection was closed without an answer");
        check(b"HTTP/1.1 200", "the connection was closed without an answer");
        check(b"SSH-2.0-x\r\n", "no HTTP answer: SSH-2.0-x");
        check(b"HTTP/1.1 2000 x\r\n", "no HTTP answer: HTTP/1.1 2000 x");
        check(b"HTTP/1.1 -10 x\r\n", "no HTTP answer: HTTP/1.1 -10 x");
        check(&[b'x'; 5000], "no HTTP answer: a line of more than 1024 bytes");
    }

    #[test]
    fn a_server_that_takes_its_time_does_not_take_ours() {
        let silent = server(|stream| {
            let mut byte = [0; 1];
            while (&stream).read(&mut byte).is_ok_and(|read| read > 0) {}
        });
        let drip = server(|mut stream| {
            while stream.write_all(b"x").is_ok() {
                thread::yield_now()
            }
        });
        assert_eq!(ask(silent, 50), (FAILED, "health check exceeded the timeout of 50ms".into()));
        let (code, output) = ask(drip, 2000);
        assert_eq!(code, FAILED, "{output}");
    }

    #[test]
    fn the_namespace_of_a_process_is_entered_by_a_thread_of_its_own() {
        let port = server(drop);
        let own = skiff_sys::process::open_pidfd(std::process::id().cast_signed()).expect("a pidfd");
        let outcome = run(tcp(Network::Of(own), port, Duration::from_secs(5)));
        // To enter even one's own namespace takes CAP_SYS_ADMIN.
        if nix::unistd::geteuid().is_root() {
            assert_eq!((outcome.exit_code, outcome.output.as_str()), (0, ""));
        } else {
            assert_eq!(outcome.output, "make a socket: operation not permitted");
        }
    }
}
