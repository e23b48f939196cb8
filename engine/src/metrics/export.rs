//! The exporter: sends figures to a collector of OpenTelemetry, by OTLP over HTTP.
//!
//! One task makes a request each interval, another sends them one after the other. What the collector cannot take now waits, in a
//! queue with a bound; then the oldest goes. Sums are cumulative, so what is lost is resolution, and it is counted.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use skiff_observe::otlp;
use skiff_runtime::cause;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::address::Collector;
use super::encrypt::Encrypt;
use super::sampler::Sampler;

/// So many requests wait, and so many bytes of them.
const WAITING_MAX: usize = 64;
const WAITING_BYTES: usize = 16 << 20;

/// How long a request may take, the connection included.
const ANSWERED: Duration = Duration::from_secs(10);

/// How long to wait after a failure, at first and at most.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

/// What a response may have.
const RESPONSE_BYTES: usize = 64 << 10;

/// The way to a collector.
#[derive(Debug)]
pub(super) struct Way {
    collector: Collector,
    /// `None` if it is not spoken to over TLS.
    encrypt: Option<Encrypt>,
}

/// What becomes of a request.
#[derive(Debug)]
enum Outcome {
    /// It was taken, but for so many points.
    Sent(u64),
    /// It can be sent again, after so long if the collector says so.
    Later(Option<Duration>, String),
    /// It will never be taken.
    Refused(String),
}

/// Requests that wait.
#[derive(Debug, Default)]
struct Queue {
    requests: VecDeque<Bytes>,
    bytes: usize,
}

/// Exports until it is dropped.
pub(super) async fn export(way: Way, every: Duration, sampler: Rc<Sampler>) {
    let (queue, filled) = (RefCell::new(Queue::default()), Notify::new());
    sampler.note(|cost| cost.is_exporting = true);
    let making = async {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match sampler.sample().await {
                Ok(sample) => {
                    let dropped = queue.borrow_mut().push(sample.otlp());
                    sampler.note(|cost| cost.dropped += dropped);
                    note_length(&queue, &sampler);
                    filled.notify_one();
                }
                Err(error) => tracing::debug!("metrics: {}", cause(&error)),
            }
        }
    };
    tokio::select! {
        () = making => {}
        () = send_all(&way, &queue, &filled, &sampler) => {}
    }
}

async fn send_all(way: &Way, queue: &RefCell<Queue>, filled: &Notify, sampler: &Sampler) {
    let [mut pause, longest] = PAUSES;
    loop {
        let Some(request) = queue.borrow_mut().pop() else {
            filled.notified().await;
            continue;
        };
        match send(way, &request).await {
            Outcome::Sent(rejected) => {
                [pause, _] = PAUSES;
                sampler.note(|cost| {
                    cost.sent += 1;
                    cost.rejected = cost.rejected.saturating_add(rejected);
                });
            }
            Outcome::Later(after, why) => {
                // Once: it may go on for long.
                if sampler.cost.get().retried == 0 {
                    tracing::warn!("metrics: send to {}: {why}; it is tried again", way.collector);
                } else {
                    tracing::debug!("metrics: send to {}: {why}", way.collector);
                }
                let dropped = queue.borrow_mut().put_back(request);
                sampler.note(|cost| {
                    cost.retried += 1;
                    cost.dropped += dropped;
                });
                note_length(queue, sampler);
                sleep(after.map_or(pause, |after| after.max(pause)).min(longest)).await;
                pause = (pause * 2).min(longest);
            }
            Outcome::Refused(why) => {
                // Once: the next ones will fare alike.
                if sampler.cost.get().dropped == 0 {
                    tracing::warn!("metrics: {} does not take them: {why}", way.collector);
                }
                sampler.note(|cost| cost.dropped += 1);
            }
        }
        note_length(queue, sampler);
    }
}

fn note_length(queue: &RefCell<Queue>, sampler: &Sampler) {
    let bytes = queue.borrow().bytes as u64;
    sampler.note(|cost| cost.queued_bytes = bytes);
}

impl Way {
    /// With the `authorities` of a file in place of the system's. Errors: they cannot be read, or are not asked for.
    pub(super) fn new(collector: Collector, authorities: Option<&Path>) -> Result<Self, String> {
        if !collector.is_encrypted && authorities.is_some() {
            return Err(format!("{collector} is not asked for a certificate: expected https"));
        }
        let encrypt = collector.is_encrypted.then(|| Encrypt::new(authorities)).transpose()?;
        Ok(Self { collector, encrypt })
    }
}

impl Queue {
    /// Adds one; returns how many had to go for that.
    fn push(&mut self, request: Bytes) -> u64 {
        self.bytes += request.len();
        self.requests.push_back(request);
        let mut dropped = 0;
        // One alone may have any size.
        while self.requests.len() > 1 && (self.requests.len() > WAITING_MAX || self.bytes > WAITING_BYTES) {
            drop(self.pop());
            dropped += 1;
        }
        dropped
    }

    fn pop(&mut self) -> Option<Bytes> {
        let request = self.requests.pop_front()?;
        self.bytes -= request.len();
        Some(request)
    }

    /// Gives one back that could not be sent; it goes if there is no room for it any more.
    fn put_back(&mut self, request: Bytes) -> u64 {
        let has_room = self.requests.len() < WAITING_MAX && self.bytes + request.len() <= WAITING_BYTES;
        if !has_room && !self.requests.is_empty() {
            return 1;
        }
        self.bytes += request.len();
        self.requests.push_front(request);
        0
    }
}

async fn send(way: &Way, body: &Bytes) -> Outcome {
    match timeout(ANSWERED, try_to_send(way, body)).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => Outcome::Later(None, error),
        Err(_) => Outcome::Later(None, format!("no answer after {} s", ANSWERED.as_secs())),
    }
}

async fn try_to_send(way: &Way, body: &Bytes) -> Result<Outcome, String> {
    let collector = &way.collector;
    let host = collector.host.trim_matches(['[', ']']);
    let stream = TcpStream::connect((host, collector.port)).await.map_err(|error| cause(&error))?;
    let request = Request::post(&collector.path)
        .header(HOST, format!("{}:{}", collector.host, collector.port))
        .header(CONTENT_TYPE, "application/x-protobuf")
        .header(USER_AGENT, concat!("skiff/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(body.clone()))
        .map_err(|error| error.to_string())?;
    match &way.encrypt {
        Some(encrypt) => exchange(encrypt.connect(host, stream).await?, request).await,
        None => exchange(stream, request).await,
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Outcome, String> {
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    // It ends with the exchange, which is told what goes wrong.
    tokio::task::spawn_local(async move { drop(connection.await) });
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let (status, after) = (response.status(), retry_after(response.headers()));
    let body = Limited::new(response.into_body(), RESPONSE_BYTES).collect().await;
    Ok(judge(status, after, body.map(http_body_util::Collected::to_bytes).ok().as_deref()))
}

/// What the answer means. OTLP/HTTP: of failures, 429, 502, 503 and 504 can be tried again.
fn judge(status: StatusCode, after: Option<Duration>, body: Option<&[u8]>) -> Outcome {
    match status.as_u16() {
        // A body that is no answer of OTLP's refuses nothing.
        200..=299 => Outcome::Sent(body.and_then(otlp::rejected).unwrap_or(0)),
        429 | 502..=504 => Outcome::Later(after, format!("status {status}")),
        _ => Outcome::Refused(format!("status {status}")),
    }
}

fn retry_after(headers: &hyper::HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_when_there_is_no_room() {
        let mut queue = Queue::default();
        let dropped: u64 = (0..=WAITING_MAX).map(|n| queue.push(vec![0; n + 1].into())).sum();
        assert_eq!((dropped, queue.requests.len()), (1, WAITING_MAX));
        let first = queue.pop().expect("one");
        assert_eq!(first.len(), 2);
        assert_eq!(queue.put_back(first.clone()), 0);
        assert_eq!(queue.pop(), Some(first.clone()));
        queue.push(Bytes::from_static(b"x"));
        assert_eq!((queue.put_back(first), queue.requests.len()), (1, WAITING_MAX));
        assert_eq!(queue.push(vec![0; WAITING_BYTES + 1].into()), WAITING_MAX as u64);
        assert_eq!((queue.requests.len(), queue.bytes), (1, WAITING_BYTES + 1));
        assert_eq!(queue.pop().map(|bytes| bytes.len()), Some(WAITING_BYTES + 1));
        assert_eq!((queue.pop(), queue.bytes), (None, 0));
    }

    #[test]
    fn only_some_failures_can_be_tried_again() {
        let check = |status: u16, expected: &str| {
            let status = StatusCode::from_u16(status).expect("a status");
            let outcome = judge(status, Some(Duration::from_secs(7)), Some(&[0x0a, 2, 8, 3]));
            let word = match outcome {
                Outcome::Sent(rejected) => format!("sent {rejected}"),
                Outcome::Later(after, _) => format!("later {:?}", after.map(|after| after.as_secs())),
                Outcome::Refused(_) => "refused".into(),
            };
            assert_eq!(word, expected);
        };
        check(200, "sent 3");
        check(202, "sent 3");
        check(400, "refused");
        check(404, "refused");
        check(429, "later Some(7)");
        check(500, "refused");
        check(503, "later Some(7)");
    }
}
