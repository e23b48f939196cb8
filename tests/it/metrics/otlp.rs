//! What a collector of OpenTelemetry receives, decoded by what stands here alone: field numbers are those of
//! `opentelemetry/proto/collector/metrics/v1/metrics_service.proto` and what that includes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::{scrape, scraped_when, served, value};
use crate::harness::registry::make_certificate;
use crate::harness::{Case, fixture, installed, need, time_limit};

/// A request that was received.
#[derive(Debug)]
struct Received {
    line: String,
    fields: BTreeMap<String, String>,
    body: Vec<u8>,
}

/// Listens, and answers each request with the next of `answers`, the last one again and again.
fn collector(answers: Vec<&'static [u8]>) -> (String, Receiver<Received>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let at = format!("http://{}", listener.local_addr().expect("an address"));
    let (tell, received) = channel();
    std::thread::spawn(move || {
        for number in 0.. {
            let Ok((stream, _)) = listener.accept() else { return };
            let answer = answers[number.min(answers.len() - 1)];
            // A connection that breaks says nothing; without a receiver the test is over.
            let Ok(mut answers) = stream.try_clone() else { return };
            if receive(&mut BufReader::new(stream), &mut answers, answer, &tell).is_some_and(|told| !told) {
                return;
            }
        }
    });
    (at, received)
}

/// A collector behind TLS, with the certificate in `dir`, until it is dropped.
struct Encrypted {
    server: Child,
    at: String,
    received: Receiver<Received>,
}

impl Encrypted {
    fn new(dir: &Path) -> Self {
        let free =
            TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
        let mut server = Command::new("openssl")
            .args([
                "s_server",
                "-quiet",
                "-accept",
                &free.to_string(),
                "-cert",
                "server.crt",
                "-key",
                "server.key",
            ])
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl");
        let (mut to, from) =
            (server.stdin.take().expect("its input"), server.stdout.take().expect("its output"));
        let (tell, received) = channel();
        std::thread::spawn(move || {
            let mut from = BufReader::new(from);
            while receive(&mut from, &mut to, TAKEN, &tell) == Some(true) {}
        });
        Self { server, at: format!("https://{free}"), received }
    }
}

impl Drop for Encrypted {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.server.kill());
        drop(self.server.wait());
    }
}

fn receive(
    reader: &mut impl BufRead,
    answers: &mut impl Write,
    answer: &[u8],
    tell: &Sender<Received>,
) -> Option<bool> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
        match line.trim_end() {
            "" => break,
            text => lines.push(text.to_owned()),
        }
    }
    let mut lines = lines.into_iter();
    let line = lines.next()?;
    let fields: BTreeMap<String, String> = lines
        .filter_map(|line| {
            line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        })
        .collect();
    let mut body = vec![0; fields.get("content-length")?.parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    answers.write_all(answer).and_then(|()| answers.flush()).ok()?;
    Some(tell.send(Received { line, fields, body }).is_ok())
}

/// A value of the wire format.
#[derive(Debug, Clone, PartialEq)]
enum Wire {
    Varint(u64),
    Fixed(u64),
    Bytes(Vec<u8>),
}

/// A message: values by field number.
#[derive(Debug, Default)]
struct Message(Vec<(u64, Wire)>);

impl Message {
    fn read(mut bytes: &[u8]) -> Self {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let tag = varint(&mut bytes);
            let value = match tag % 8 {
                0 => Wire::Varint(varint(&mut bytes)),
                1 => Wire::Fixed(u64::from_le_bytes(take(&mut bytes, 8).try_into().expect("8 bytes"))),
                2 => {
                    let length = varint(&mut bytes);
                    Wire::Bytes(take(&mut bytes, usize::try_from(length).expect("a length")).to_vec())
                }
                other => panic!("wire type {other}"),
            };
            fields.push((tag / 8, value));
        }
        Self(fields)
    }

    fn all(&self, field: u64) -> impl Iterator<Item = &Wire> {
        self.0.iter().filter(move |(number, _)| *number == field).map(|(_, value)| value)
    }

    fn messages(&self, field: u64) -> Vec<Self> {
        self.all(field).map(|value| Self::read(bytes_of(value))).collect()
    }

    fn message(&self, field: u64) -> Self {
        self.messages(field).pop().unwrap_or_default()
    }

    fn text(&self, field: u64) -> String {
        let bytes = self.all(field).last().map_or(&[][..], bytes_of);
        String::from_utf8(bytes.to_vec()).expect("text")
    }

    fn number(&self, field: u64) -> Option<u64> {
        match self.all(field).last()? {
            Wire::Varint(value) | Wire::Fixed(value) => Some(*value),
            Wire::Bytes(_) => panic!("field {field} is no number"),
        }
    }

    /// Pairs of key and text.
    fn attributes(&self, field: u64) -> BTreeMap<String, String> {
        self.messages(field).iter().map(|pair| (pair.text(1), pair.message(2).text(1))).collect()
    }
}

fn bytes_of(value: &Wire) -> &[u8] {
    match value {
        Wire::Bytes(bytes) => bytes,
        other => panic!("{other:?}"),
    }
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    let mut shift = 0;
    loop {
        let byte = take(bytes, 1)[0];
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            return value;
        }
    }
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(length);
    *bytes = rest;
    taken
}

/// A metric: name, unit, kind (number of its field), points.
#[derive(Debug)]
struct Metric {
    unit: String,
    kind: u64,
    data: Message,
}

/// Metrics of each resource, by its attributes.
fn decoded(body: &[u8]) -> Vec<(BTreeMap<String, String>, BTreeMap<String, Metric>)> {
    let resource = |resource: &Message| {
        let scopes = resource.messages(2);
        assert_eq!(scopes.len(), 1);
        assert_eq!(scopes[0].message(1).text(1), "skiff");
        let mut metrics = BTreeMap::new();
        for metric in scopes[0].messages(2) {
            assert!(!metric.text(2).is_empty());
            let kind = [5, 7, 9].into_iter().find(|kind| metric.all(*kind).next().is_some()).expect("data");
            let found = Metric { unit: metric.text(3), kind, data: metric.message(kind) };
            assert!(metrics.insert(metric.text(1), found).is_none(), "{} twice", metric.text(1));
        }
        (resource.message(1).attributes(1), metrics)
    };
    Message::read(body).messages(1).iter().map(resource).collect()
}

const GAUGE: u64 = 5;
const SUM: u64 = 7;
const HISTOGRAM: u64 = 9;

const TAKEN: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const LATER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n";

#[test]
fn a_collector_receives_what_the_endpoint_tells() {
    let (at, received) = collector(vec![LATER, TAKEN]);
    let (world, endpoint) = served(&[("SKIFF_OTLP", &at), ("SKIFF_OTLP_INTERVAL_S", "1")]);
    let id = world.run("web", &["--cpus", "0.5", "-m", "64m"], &["probe", "trap"]);
    let next = || received.recv_timeout(time_limit()).expect("a request");
    let first = next();
    let again = next();
    // What was refused for now comes again, byte for byte.
    assert_eq!(again.body, first.body);
    assert_eq!(first.line, "POST /v1/metrics HTTP/1.1");
    assert_eq!(first.fields["content-type"], "application/x-protobuf");
    assert!(at.ends_with(&first.fields["host"]));
    let of_web = |body: &[u8]| {
        decoded(body)
            .into_iter()
            .find(|(about, _)| about.get("container.name").is_some_and(|name| name == "web"))
    };
    let (about, metrics) =
        std::iter::from_fn(|| Some(next())).find_map(|one| of_web(&one.body)).expect("it runs");
    assert_eq!(about["container.id"], id);
    assert_eq!(about["container.image.name"], fixture::small_root());
    assert!(about.contains_key("host.name"));
    let metric = |name: &str| metrics.get(name).unwrap_or_else(|| panic!("no {name}: {:?}", metrics.keys()));

    let time = metric("container.cpu.time");
    assert_eq!((time.kind, time.unit.as_str()), (SUM, "s"));
    // Cumulative, and never falling.
    assert_eq!((time.data.number(2), time.data.number(3)), (Some(2), Some(1)));
    let points = time.data.messages(1);
    let modes: Vec<String> = points.iter().map(|point| point.attributes(7)["cpu.mode"].clone()).collect();
    assert_eq!(modes, ["user", "system"]);
    let (since, at) = (points[0].number(2).expect("a start"), points[0].number(3).expect("a time"));
    let started = value(&scrape(&endpoint), "container_start_time_seconds", &[("name", "web")]);
    assert!((since as f64 / 1e9 - started).abs() < 0.001 && at > since, "{since} {started} {at}");

    let limit = metric("skiff.container.memory.limit");
    assert_eq!((limit.kind, limit.unit.as_str()), (GAUGE, "By"));
    assert_eq!(limit.data.message(1).number(6), Some(64 << 20));
    assert_eq!(metric("container.disk.io").data.messages(1).len(), 2);
    assert_eq!(metric("container.uptime").unit, "s");
    let faults = metric("container.memory.paging.faults");
    assert_eq!(faults.unit, "{fault}");
    assert_eq!(faults.data.messages(1)[1].attributes(7)["system.paging.fault.type"], "major");

    let (_, daemon) = decoded(&again.body).pop().expect("the daemon");
    let launches = &daemon["skiff.launch.duration"];
    assert_eq!((launches.kind, launches.data.number(2)), (HISTOGRAM, Some(2)));
    let point = launches.data.message(1);
    let [counts, bounds] = [6, 7].map(|field| bytes_of(point.all(field).next().expect("packed")).len() / 8);
    assert_eq!(counts, bounds + 1);

    let all =
        scraped_when(&endpoint, |all| value(all, "skiff_otlp_requests_total", &[("outcome", "sent")]) >= 2.0);
    assert_eq!(value(&all, "skiff_otlp_requests_total", &[("outcome", "retried")]), 1.0);
    assert_eq!(value(&all, "skiff_otlp_requests_total", &[("outcome", "dropped")]), 0.0);
}

#[test]
fn an_encrypted_collector_is_trusted_if_somebody_vouches_for_it() {
    need!(installed("openssl"), "openssl");
    let case = Case::new();
    let [dir, other] = ["vouched", "other"].map(|name| case.subdir(name));
    make_certificate(Path::new(&dir));
    make_certificate(Path::new(&other));
    let collector = Encrypted::new(Path::new(&dir));
    let export = |authorities: &str| {
        let settings = [
            ("SKIFF_OTLP", &collector.at[..]),
            ("SKIFF_OTLP_CA", authorities),
            ("SKIFF_OTLP_INTERVAL_S", "1"),
        ];
        served(&settings)
    };
    // Without such a file the system's stand for nothing here.
    for unknown in [format!("{other}/ca.crt"), String::new()] {
        let (_world, endpoint) = export(&unknown);
        scraped_when(&endpoint, |all| {
            value(all, "skiff_otlp_requests_total", &[("outcome", "retried")]) >= 1.0
        });
        assert!(collector.received.try_recv().is_err(), "nothing is told to whoever answers");
    }
    let (_world, endpoint) = export(&format!("{dir}/ca.crt"));
    let received = collector.received.recv_timeout(time_limit()).expect("a request");
    assert_eq!(received.line, "POST /v1/metrics HTTP/1.1");
    let (about, _) = decoded(&received.body).pop().expect("the daemon");
    assert_eq!(about["service.name"], "skiff");
    scraped_when(&endpoint, |all| value(all, "skiff_otlp_requests_total", &[("outcome", "sent")]) >= 1.0);
}

#[test]
fn authorities_that_cannot_be_read_are_told_in_one_line() {
    let case = Case::with_daemon();
    let empty = case.file("empty.crt", "");
    for (url, file, needle) in [
        ("https://127.0.0.1", "/none.crt", "/none.crt: "),
        ("https://127.0.0.1", &empty, "no certificate in it"),
        ("http://127.0.0.1", &empty, "expected https"),
    ] {
        case.skiff(&["daemon", "--otlp", url, "--otlp-ca", file]).output().fails(1, needle);
    }
}

#[test]
fn what_a_collector_refuses_is_counted() {
    // 404 for ever; then a partial success, of which seven points were not taken.
    let partial = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n\x0a\x02\x08\x07";
    let (at, received) = collector(vec![b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", partial]);
    let (_world, endpoint) = served(&[("SKIFF_OTLP", &at), ("SKIFF_OTLP_INTERVAL_S", "1")]);
    let [first, second] = [(); 2].map(|()| received.recv_timeout(time_limit()).expect("a request"));
    assert_ne!(first.body, second.body, "what was refused does not come again");
    let all = scraped_when(&endpoint, |all| value(all, "skiff_otlp_rejected_points_total", &[]) >= 7.0);
    assert_eq!(value(&all, "skiff_otlp_requests_total", &[("outcome", "dropped")]), 1.0);
}

#[test]
fn a_collector_that_talks_nonsense_or_is_not_there_harms_nothing() {
    let (at, received) =
        collector(vec![b"\0\0\0\0", b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\nx", b""]);
    let (world, endpoint) = served(&[("SKIFF_OTLP", &at), ("SKIFF_OTLP_INTERVAL_S", "1")]);
    received.recv_timeout(time_limit()).expect("a request");
    scraped_when(&endpoint, |all| value(all, "skiff_otlp_requests_total", &[("outcome", "retried")]) >= 1.0);
    world.skiff(&["run", "--rm", fixture::small_root(), "true"]).ok();
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let url = format!("http://{nobody}");
    let (world, endpoint) = served(&[("SKIFF_OTLP", &url), ("SKIFF_OTLP_INTERVAL_S", "1")]);
    let all = scraped_when(&endpoint, |all| {
        value(all, "skiff_otlp_requests_total", &[("outcome", "retried")]) >= 1.0
    });
    assert!(value(&all, "skiff_otlp_queue_bytes", &[]) > 0.0);
    world.skiff(&["run", "--rm", fixture::small_root(), "true"]).ok();
}
