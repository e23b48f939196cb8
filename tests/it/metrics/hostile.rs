//! Clients that do not mean well.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::http::{get, hold, say};
use super::{scrape, served};
use crate::harness::fixture;

/// What is younger is not read again.
const FRESH: Duration = Duration::from_millis(250);

/// More than are served at a time.
const MANY: usize = 100;

#[test]
fn clients_that_dawdle_keep_nobody_waiting() {
    let (world, at) = served(&[]);
    let mut slow: Vec<_> =
        (0..MANY).map(|_| hold(&at, b"GET /metrics HTTP/1.1\r\nHost: test\r\nX-Slow: ")).collect();
    // No later than the others are given up: at once.
    assert_eq!(get(&at, "/healthz", "*/*").status, 200);
    assert!(!scrape(&at).is_empty());
    world.skiff(&["run", "--rm", fixture::small_root(), "true"]).ok();
    // The oldest has made room.
    let mut rest = Vec::new();
    given_up(&mut slow[0], &mut rest);
    assert!(rest.is_empty(), "{rest:?}");
    // Every one of them is given up in the end.
    for stream in &mut slow {
        given_up(stream, &mut rest);
    }
    assert_eq!(get(&at, "/healthz", "*/*").status, 200);
}

/// Reads what is said until the connection has ended: in whatever way, but it has.
fn given_up(stream: &mut TcpStream, rest: &mut Vec<u8>) {
    if let Err(error) = stream.read_to_end(rest) {
        assert!(!matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    }
}

#[test]
fn clients_that_hang_up_leave_no_work_behind() {
    let (_world, at) = served(&[]);
    let samples = |at: &str| super::value(&scrape(at), "skiff_scrape_samples_total", &[]);
    let (before, begun) = (samples(&at), Instant::now());
    for _ in 0..200 {
        drop(hold(&at, b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n"));
    }
    // The second is one that was read after all of them had come.
    samples(&at);
    std::thread::sleep(FRESH);
    let read = samples(&at) - before;
    let most = begun.elapsed().div_duration_f64(FRESH) + 2.0;
    assert!(read <= most, "{read} readings, {most} at most");
}

#[test]
fn clients_that_do_not_read_keep_nobody_waiting() {
    let (_world, at) = served(&[]);
    let _deaf: Vec<_> =
        (0..MANY).map(|_| hold(&at, b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n")).collect();
    assert_eq!(get(&at, "/healthz", "*/*").status, 200);
    assert!(!scrape(&at).is_empty());
}

#[test]
fn what_is_no_request_is_refused_and_harms_nothing() {
    let (world, at) = served(&[]);
    let long = format!("GET /{} HTTP/1.1\r\nHost: test\r\n\r\n", "a".repeat(1 << 20));
    let field = format!("GET /metrics HTTP/1.1\r\nHost: test\r\nX: {}\r\n\r\n", "a".repeat(1 << 20));
    let fields = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(1000));
    let requests: [&[u8]; 14] = [
        b"\r\n\r\n\r\n",
        b"what\r\n\r\n",
        b"\0\0\0\0\xff\xff\xff\xff\r\n\r\n",
        b"GET /metrics\r\n\r\n",
        b"GET /metrics HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /met\nrics HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"CONNECT elsewhere:80 HTTP/1.1\r\nHost: elsewhere\r\n\r\n",
        long.as_bytes(),
        field.as_bytes(),
        fields.as_bytes(),
    ];
    for request in requests {
        let answer = String::from_utf8_lossy(&say(&at, request)).into_owned();
        let what = String::from_utf8_lossy(&request[..request.len().min(60)]).into_owned();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{what:?}: {answer:?}");
    }
    // What is one, but odd.
    for request in [
        "GET http://elsewhere/healthz HTTP/1.1\r\nHost: elsewhere\r\n\r\n",
        "GET /healthz?x=y HTTP/1.0\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost: test\r\nContent-Length: 999999999999\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    ] {
        let answer = String::from_utf8_lossy(&say(&at, request.as_bytes())).into_owned();
        assert!(answer.starts_with("HTTP/1.") && answer.contains(" 200 OK"), "{request:?}: {answer:?}");
    }
    let asked = get(&at, "/metrics", &"a/b;q=0.1,".repeat(1000));
    assert_eq!((asked.status, asked.fields["content-type"].starts_with("text/plain")), (200, true));
    world.skiff(&["run", "--rm", fixture::small_root(), "true"]).ok();
}

#[test]
fn many_who_scrape_at_once_cost_one_reading() {
    let (world, at) = served(&[]);
    world.run("web", &[], &["sleep", "1000"]);
    let scrapers: Vec<_> = (0..24)
        .map(|_| {
            let at = at.clone();
            std::thread::spawn(move || get(&at, "/metrics", "*/*").body)
        })
        .collect();
    let mut pages: Vec<String> = scrapers.into_iter().map(|one| one.join().expect("a page")).collect();
    pages.sort();
    pages.dedup();
    let readings: Vec<f64> = pages
        .iter()
        .map(|page| super::value(&super::read(page), "skiff_scrape_samples_total", &[]))
        .collect();
    // Each page that differs from the others is of a reading of its own, and there is no other reading.
    assert!(pages.len() < 24, "{} readings", pages.len());
    let most = readings.iter().copied().fold(0.0, f64::max);
    assert!(most <= pages.len() as f64 + 1.0, "{readings:?}");
}
