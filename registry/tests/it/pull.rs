//! Reading: manifests, blobs, redirects, mirrors, and what is tried again.

use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};

use skiff_registry::{Access, Rules};
use skiff_store::{Digest, ManifestRef, Remote, RemoteErrorKind};

use crate::server::{Reply, Server, registry};

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";

fn tag(text: &str) -> ManifestRef {
    ManifestRef::Tag(text.to_owned())
}

fn read_all(remote: &dyn Remote, digest: Digest, offset: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut blob = remote.blob(digest, offset).map_err(|error| error.message)?;
    blob.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}

#[test]
fn a_manifest_comes_word_for_word_with_its_type() {
    let server = Server::start(|request| {
        assert!(
            request.header("accept").is_some_and(|types| types.contains(OCI) && types.contains("docker"))
        );
        assert_eq!(request.header("authorization"), None);
        Reply::new(200).with("content-type", format!("{OCI}; charset=utf-8")).body("{ }")
    });
    let document = server.repository(Access::Pull).manifest(&tag("1")).expect("a manifest");
    assert_eq!((document.media_type.as_str(), document.bytes.as_slice()), (OCI, &b"{ }"[..]));
    assert_eq!(server.lines(), ["GET /v2/x/y/manifests/1"]);
}

#[test]
fn a_manifest_that_is_not_what_was_said_is_refused() {
    let server = Server::start(|_| {
        Reply::new(200).with("docker-content-digest", Digest::of(b"a").to_string()).body("b")
    });
    let repository = server.repository(Access::Pull);
    let error = repository.manifest(&tag("1")).expect_err("another digest");
    assert!(error.message.contains(" says sha256:ca97"), "{error}");
    let error = repository.manifest(&ManifestRef::Digest(Digest::of(b"c"))).expect_err("another digest");
    assert!(error.message.contains(" says sha256:2e7d"), "{error}");
}

#[test]
fn a_manifest_has_a_greatest_size() {
    let server = Server::start(|_| Reply::new(200).body(vec![b' '; (4 << 20) + 1]));
    let error = server.repository(Access::Pull).manifest(&tag("1")).expect_err("too much");
    assert!(error.message.ends_with("/x/y:1: more than 4194304 bytes"), "{error}");
}

#[test]
fn refusals_are_told_apart() {
    let server = Server::start(|request| match request.path.rsplit('/').next() {
        Some("gone") => {
            Reply::new(404).body(r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no\nsuch"}]}"#)
        }
        Some("closed") => Reply::new(403).body("<html>"),
        _ => Reply::new(418).body(""),
    });
    let repository = server.repository(Access::Pull);
    let check = |name: &str, kind: RemoteErrorKind, end: &str| {
        let error = repository.manifest(&tag(name)).expect_err(name);
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.message.ends_with(end) && !error.message.contains('\n'), "{error}");
    };
    check("gone", RemoteErrorKind::NotFound, "/x/y:gone not found: manifest unknown: no such");
    check(
        "closed",
        RemoteErrorKind::Denied,
        "/x/y denied, it does not exist or needs 'skiff login': 403 forbidden",
    );
    check("other", RemoteErrorKind::Failed, "/x/y:other: 418 i'm a teapot");
}

#[test]
fn a_blob_is_read_from_any_offset_also_of_a_server_without_ranges() {
    let server = Server::start(|request| {
        let whole = b"0123456789";
        let from =
            request.header("range").and_then(|it| it.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        match (request.path.contains("ca97"), from) {
            (true, Some(10)) => Reply::new(416).with("content-range", "bytes */10"),
            (true, Some(from)) => {
                let part: &[u8] = &whole[from..];
                Reply::new(206).with("content-range", format!("bytes {from}-9/10")).body(part)
            }
            // One that begins earlier than it was asked to.
            (false, Some(7)) => Reply::new(206).with("content-range", "bytes 5-9/10").body("56789"),
            (false, Some(8)) => Reply::new(206).with("content-range", "bytes 9-9/10").body("9"),
            _ => Reply::new(200).body(*whole),
        }
    });
    let repository = server.repository(Access::Pull);
    let [ranges, none] = [b"a", b"b"].map(|content| Digest::of(content));
    assert_eq!(read_all(&repository, ranges, 0).as_deref(), Ok(&b"0123456789"[..]));
    assert_eq!(read_all(&repository, ranges, 4).as_deref(), Ok(&b"456789"[..]));
    assert_eq!(read_all(&repository, ranges, 10).as_deref(), Ok(&b""[..]));
    assert_eq!(read_all(&repository, none, 4).as_deref(), Ok(&b"456789"[..]));
    assert_eq!(read_all(&repository, none, 7).as_deref(), Ok(&b"789"[..]));
    let error = read_all(&repository, none, 8).expect_err("a hole");
    assert!(error.ends_with("the registry sends another part than was asked for"), "{error}");
}

#[test]
fn a_broken_blob_is_an_error_and_not_its_end() {
    let server = Server::start(|_| Reply::new(200).body(vec![7; 1000]).cut(600));
    let error = read_all(&server.repository(Access::Pull), Digest::of(b""), 0).expect_err("cut");
    assert_eq!(error, "the connection ended too early");
}

#[test]
fn what_passes_is_tried_again_and_what_does_not_is_not() {
    let check = |status: u16, times: usize, attempts: usize| {
        let count = AtomicUsize::new(0);
        let server = Server::start(move |_| match count.fetch_add(1, Ordering::SeqCst) < times {
            true => Reply::new(status).with("retry-after", "0"),
            false => Reply::new(200).body("{}"),
        });
        let outcome = server.repository(Access::Pull).manifest(&tag("1"));
        assert_eq!(
            (outcome.is_ok(), server.lines().len()),
            (attempts > times, attempts),
            "{status} {outcome:?}"
        );
    };
    check(503, 3, 4);
    check(429, 1, 2);
    check(500, 9, 4);
    check(404, 9, 1);
    check(400, 9, 1);
}

#[test]
fn a_wait_that_is_too_long_is_said_instead() {
    let server = Server::start(|_| {
        Reply::new(429)
            .with("retry-after", "7200")
            .body(r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#)
    });
    let error = server.repository(Access::Pull).manifest(&tag("1")).expect_err("too long");
    assert!(error.message.ends_with(": toomanyrequests: slow down; it asks to wait for 7200 s"), "{error}");
}

#[test]
fn a_connection_that_breaks_before_the_answer_is_made_again() {
    let count = AtomicUsize::new(0);
    let server = Server::start(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        // The first one shows that somebody is there.
        1 => Reply::silence(),
        _ => Reply::new(200).body("{}"),
    });
    let repository = server.repository(Access::Pull);
    for _ in 0..2 {
        repository.manifest(&tag("1")).expect("a manifest");
    }
    assert_eq!(server.lines().len(), 3);
}

#[test]
fn credentials_stay_with_the_host_that_a_redirect_leaves() {
    let store = Server::start(|request| {
        assert_eq!(request.header("authorization"), None);
        assert_eq!(request.header("range"), Some("bytes=1-"));
        Reply::new(206).with("content-range", "bytes 1-3/4").body("lob")
    });
    let target = format!("http://{}/signed?x=1", store.authority);
    let server = Server::start(move |request| match request.header("authorization") {
        Some("Basic bWU6cHc=") => Reply::new(307).with("location", target.clone()),
        Some(other) => panic!("{other}"),
        None => Reply::new(401).with("www-authenticate", "Basic realm=x"),
    });
    let repository =
        server.registry(Some(("me", "pw"))).repository(&server.name("x"), Access::Pull).expect("a name");
    assert_eq!(read_all(&repository, Digest::of(b""), 1).as_deref(), Ok(&b"lob"[..]));
    assert_eq!(store.lines(), ["GET /signed?x=1"]);
}

#[test]
fn the_challenge_of_another_host_is_not_taken_for_the_registrys() {
    let third = Server::start(|_| Reply::new(200).body(r#"{"token":"t"}"#));
    let challenge = format!("Bearer realm=\"http://{}/token\"", third.authority);
    let store = Server::start(move |_| Reply::new(401).with("www-authenticate", challenge.clone()));
    let target = format!("http://{}/signed", store.authority);
    let server = Server::start(move |request| match request.header("authorization") {
        Some(_) => Reply::new(307).with("location", target.clone()),
        None => Reply::new(401).with("www-authenticate", "Basic realm=x"),
    });
    let repository =
        server.registry(Some(("me", "pw"))).repository(&server.name("x"), Access::Pull).expect("a name");
    let error = read_all(&repository, Digest::of(b""), 0).expect_err("not given");
    assert!(error.ends_with("401 unauthorized"), "{error}");
    assert_eq!((store.lines(), third.lines()), (vec!["GET /signed".to_owned()], vec![]));
}

#[test]
fn redirects_end_and_do_not_leave_encryption_or_the_web() {
    let check = |location: &'static str, end: &str| {
        let server = Server::start(move |_| Reply::new(302).with("location", location));
        let error = read_all(&server.repository(Access::Pull), Digest::of(b""), 0).expect_err(location);
        assert!(error.ends_with(end), "{error}");
    };
    check("/round", ": redirects without end");
    check("http://192.0.2.1/x", ": redirects to 192.0.2.1 without encryption");
    check("file:///etc/passwd", ": redirects to what is no address");
}

#[test]
fn mirrors_are_asked_first_and_the_origin_last() {
    let mirror = Server::start(|request| match request.path.ends_with("/2") {
        true => Reply::new(200).body("{\"mirror\":1}"),
        false => Reply::new(404),
    });
    let broken = Server::start(|_| Reply::new(400));
    let origin = Server::start(|_| Reply::new(200).body("{}"));
    let mut rules = Rules::default();
    let text = format!(
        "[[registry]]\nlocation = '{}'\n[[registry.mirror]]\nlocation = '{}'\n[[registry.mirror]]\nlocation = '{}/m'",
        origin.authority, broken.authority, mirror.authority
    );
    rules.add(&text).expect("rules");
    let registry = registry("", None, rules);
    let repository = registry.repository(&origin.name("x:1"), Access::Pull).expect("a repository");
    assert_eq!(repository.manifest(&tag("1")).expect("the origin's").bytes, b"{}");
    assert_eq!(repository.manifest(&tag("2")).expect("the mirror's").bytes, b"{\"mirror\":1}");
    // One that fails otherwise than by not having it is not asked again.
    assert_eq!(broken.lines(), ["GET /v2/x/manifests/1"]);
    assert_eq!(mirror.lines(), ["GET /v2/m/x/manifests/1", "GET /v2/m/x/manifests/2"]);
    assert_eq!(origin.lines(), ["GET /v2/x/manifests/1"]);
    // Nothing is written to a mirror.
    let repository = registry.repository(&origin.name("x:1"), Access::Push).expect("a repository");
    repository.put_manifest(&tag("3"), OCI, b"{}").expect("put");
    assert_eq!((broken.lines().len(), mirror.lines().len()), (1, 2));
}

#[test]
fn a_mirror_that_breaks_off_is_left_for_the_next_place() {
    let mirror = Server::start(|_| Reply::new(200).body("blob").cut(2));
    let origin = Server::start(|_| Reply::new(206).with("content-range", "bytes 2-3/4").body("ob"));
    let mut rules = Rules::default();
    let (ours, theirs) = (&origin.authority, &mirror.authority);
    rules
        .add(&format!("[[registry]]\nlocation = '{ours}'\n[[registry.mirror]]\nlocation = '{theirs}'"))
        .expect("rules");
    let registry = registry("", None, rules);
    let repository = registry.repository(&origin.name("x:1"), Access::Pull).expect("a repository");
    read_all(&repository, Digest::of(b"blob"), 0).expect_err("half of it");
    assert_eq!(read_all(&repository, Digest::of(b"blob"), 2).as_deref(), Ok(&b"ob"[..]));
    assert_eq!((mirror.lines().len(), origin.lines().len()), (1, 1));
}

#[test]
fn nobody_there_is_said_at_once() {
    let gone = Server::start(|_| Reply::new(200)).authority.clone();
    let name = skiff_store::ImageName::parse(&format!("{gone}/x")).expect("a name");
    // The listener is closed a moment after it is dropped.
    while std::net::TcpStream::connect(&gone).is_ok() {}
    let error = registry("", None, Rules::default()).repository(&name, Access::Pull).expect("a repository");
    let error = error.manifest(&tag("1")).expect_err("nobody");
    assert_eq!(error.message, format!("{gone}: connection refused"));
}
