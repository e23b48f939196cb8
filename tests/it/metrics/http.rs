//! HTTP by hand: what a client says, byte for byte.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::harness::time_limit;

/// What came back.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Header fields, names in lower case.
    pub(crate) fields: BTreeMap<String, String>,
    pub(crate) body: String,
}

/// Connects to `ADDRESS:PORT` or `unix:PATH`, and says `bytes`; what came back until the end, if anything.
///
/// Errors of the connection end it: a server may close before all is said.
pub(crate) fn say(at: &str, bytes: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    if let Some(path) = at.strip_prefix("unix:") {
        exchange(UnixStream::connect(Path::new(path)).expect("it listens"), bytes, &mut answer);
    } else {
        let stream = TcpStream::connect(at).expect("it listens");
        stream.set_read_timeout(Some(time_limit())).expect("a limit");
        exchange(stream, bytes, &mut answer);
    }
    answer
}

fn exchange(mut stream: impl Read + Write, bytes: &[u8], answer: &mut Vec<u8>) {
    if stream.write_all(bytes).is_ok() {
        let _reset = stream.read_to_end(answer);
    }
}

/// The page at `path`.
pub(crate) fn get(at: &str, path: &str, accept: &str) -> Response {
    ask(at, "GET", path, accept)
}

/// The answer to any method.
pub(crate) fn ask(at: &str, method: &str, path: &str, accept: &str) -> Response {
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: test\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
    parse(&say(at, request.as_bytes()))
}

fn parse(bytes: &[u8]) -> Response {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("not a response: {text:?}"));
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let fields = lines.filter_map(|line| line.split_once(": "));
    let fields = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    Response { status: status.expect("a status"), fields, body: body.to_owned() }
}

/// A connection that has said `bytes` and stays.
pub(crate) fn hold(at: &str, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(at).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a limit");
    stream.write_all(bytes).expect("it is taken");
    stream
}
