//! Writing: uploads in parts that break, mounts, manifests, what refers to them, and lists.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use skiff_registry::Access;
use skiff_store::{Digest, ManifestRef, RemoteErrorKind, Silent};

use crate::server::{Reply, Request, Server};

/// The size of the parts that blobs go up in.
const PART: usize = 8 << 20;

/// What a scripted registry has got, and how it fails.
#[derive(Default)]
struct Shelf {
    /// Bytes of the upload that goes on.
    upload: Vec<u8>,
    blobs: BTreeMap<String, Vec<u8>>,
    manifests: BTreeMap<String, Vec<u8>>,
    parts: usize,
    /// The number of the part that breaks after half of it.
    breaks: Option<usize>,
    /// Whether the upload is lost then.
    loses: bool,
    /// Whether a second part is refused.
    is_monolithic: bool,
    has_referrers: bool,
}

type Shared = Arc<Mutex<Shelf>>;

fn serve(shelf: &Shared) -> Server {
    let shelf = Arc::clone(shelf);
    Server::start(move |request| answer(&mut shelf.lock().expect("no panic"), request))
}

fn answer(shelf: &mut Shelf, request: &Request) -> Reply {
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let last = path.rsplit('/').next().unwrap_or_default().to_owned();
    let to = |status: u16| Reply::new(status).with("location", "/v2/x/y/blobs/uploads/1?_state=a%2Fb");
    match request.method.as_str() {
        "POST" if query.contains("mount=") && query.ends_with("from=x/known") => Reply::new(201),
        "POST" => {
            shelf.upload.clear();
            shelf.parts = 0;
            to(202)
        }
        "PATCH" | "PUT" if path.contains("/uploads/") => upload(shelf, request, query),
        "GET" if path.contains("/uploads/") && shelf.loses => Reply::new(404),
        "GET" if path.contains("/uploads/") => {
            to(204).with("range", format!("0-{}", shelf.upload.len().saturating_sub(1)))
        }
        "PUT" => {
            let digest = Digest::of(&request.body).to_string();
            shelf.manifests.insert(last, request.body.clone());
            shelf.manifests.insert(digest, request.body.clone());
            Reply::new(201)
        }
        "HEAD" | "GET" if path.contains("/blobs/") => match shelf.blobs.get(&last) {
            Some(blob) => Reply::new(200).body(blob.clone()),
            None => Reply::new(404),
        },
        "GET" if path.contains("/referrers/") && shelf.has_referrers => {
            let index = "{\"manifests\":[{\"mediaType\":\"m\",\"digest\":\"DIGEST\",\"size\":1,\"artifactType\":\"a\"}]}";
            let index = index.replace("DIGEST", &Digest::of(b"r").to_string());
            Reply::new(200).with("content-type", "application/vnd.oci.image.index.v1+json").body(index)
        }
        "DELETE" => Reply::new(if shelf.manifests.remove(&last).is_some() { 202 } else { 404 }),
        _ => match shelf.manifests.get(&last) {
            Some(manifest) => Reply::new(200).with("content-type", "m").body(manifest.clone()),
            None => Reply::new(404),
        },
    }
}

fn upload(shelf: &mut Shelf, request: &Request, query: &str) -> Reply {
    assert!(query.starts_with("_state=a%2Fb"), "{query}");
    shelf.parts += 1;
    if shelf.is_monolithic && shelf.parts > 1 && request.method == "PATCH" {
        return Reply::new(405);
    }
    if let Some(range) = request.header("content-range") {
        let start = range.split('-').next().and_then(|it| it.parse().ok());
        if start != Some(shelf.upload.len()) {
            return Reply::new(416);
        }
    }
    if shelf.breaks == Some(shelf.parts) {
        shelf.breaks = None;
        let half = request.body.len() / 2;
        shelf.upload.extend_from_slice(&request.body[..half]);
        return Reply::new(502);
    }
    shelf.upload.extend_from_slice(&request.body);
    let Some((_, digest)) = query.split_once("&digest=") else {
        return Reply::new(202).with("location", "/v2/x/y/blobs/uploads/1?_state=a%2Fb");
    };
    if Digest::of(&shelf.upload).to_string() != digest {
        return Reply::new(400).body(r#"{"errors":[{"code":"DIGEST_INVALID","message":"no"}]}"#);
    }
    let blob = std::mem::take(&mut shelf.upload);
    shelf.blobs.insert(digest.to_owned(), blob);
    Reply::new(201)
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at % 251).expect("less than 251")).collect()
}

/// Uploads so many bytes and looks at what the registry has then.
fn check(shelf: Shelf, length: usize) -> Vec<String> {
    let shelf = Arc::new(Mutex::new(shelf));
    let server = serve(&shelf);
    let bytes = content(length);
    let sent = Mutex::new(0);
    let (digest, size) = server
        .repository(Access::Push)
        .upload(&|| Ok(Box::new(&bytes[..])), None, &|done| *sent.lock().expect("no panic") = done)
        .expect("an upload");
    assert_eq!(
        (digest, size, *sent.lock().expect("no panic")),
        (Digest::of(&bytes), length as u64, length as u64)
    );
    assert!(shelf.lock().expect("no panic").blobs.get(&digest.to_string()) == Some(&bytes));
    server.requests().iter().map(|request| request.method.clone()).collect()
}

#[test]
fn a_blob_goes_up_in_parts() {
    assert_eq!(check(Shelf::default(), 0), ["POST", "PUT"]);
    assert_eq!(check(Shelf::default(), 1000), ["POST", "PUT"]);
    assert_eq!(check(Shelf::default(), PART), ["POST", "PATCH", "PUT"]);
    assert_eq!(check(Shelf::default(), 2 * PART + 1), ["POST", "PATCH", "PATCH", "PUT"]);
}

#[test]
fn a_broken_part_goes_on_where_it_broke() {
    let breaks = |part| Shelf { breaks: Some(part), ..Shelf::default() };
    assert_eq!(check(breaks(2), 2 * PART + 9), ["POST", "PATCH", "PATCH", "GET", "PATCH", "PUT"]);
    assert_eq!(check(breaks(2), PART + 9), ["POST", "PATCH", "PUT", "HEAD", "GET", "PUT"]);
}

#[test]
fn an_upload_that_the_registry_has_lost_begins_anew() {
    let shelf = Shelf { breaks: Some(2), loses: true, ..Shelf::default() };
    assert_eq!(
        check(shelf, 2 * PART + 9),
        ["POST", "PATCH", "PATCH", "GET", "POST", "PATCH", "PATCH", "PUT"]
    );
}

#[test]
fn a_registry_that_takes_no_parts_gets_all_in_one() {
    let shelf = Shelf { is_monolithic: true, ..Shelf::default() };
    assert_eq!(check(shelf, 3 * PART), ["POST", "PATCH", "PATCH", "POST", "PATCH", "PUT"]);
}

#[test]
fn content_that_is_not_what_was_expected_is_not_sent_to_its_end() {
    let server = serve(&Shared::default());
    let repository = server.repository(Access::Push);
    fn upload(repository: &skiff_registry::Repository, read: skiff_registry::Content<'_>) -> String {
        repository.upload(read, Some(Digest::of(b"a")), &|_| {}).expect_err("refused").message
    }
    let error = upload(&repository, &|| Ok(Box::new(&b"b"[..])));
    assert!(error.ends_with("the content of sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb has digest sha256:3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d"), "{error}");
    assert_eq!(server.lines().last().map(|line| line.starts_with("DELETE ")), Some(true));
    let error = upload(&repository, &|| Err(io::Error::other("layer is damaged")));
    assert!(error.ends_with(": layer is damaged"), "{error}");
}

#[test]
fn a_blob_is_mounted_from_where_it_is_known() {
    let server = serve(&Shared::default());
    let repository = server.repository(Access::Push);
    let digest = Digest::of(b"a");
    assert_eq!(repository.mount_blob(digest, &server.name("x/known")), Ok(true));
    assert_eq!(repository.mount_blob(digest, &server.name("x/other")), Ok(false));
    let elsewhere = skiff_store::ImageName::parse("localhost:1/x/known").expect("a name");
    assert_eq!(repository.mount_blob(digest, &elsewhere), Ok(false));
    assert_eq!(
        server.lines(),
        [
            format!("POST /v2/x/y/blobs/uploads/?mount={digest}&from=x/known"),
            format!("POST /v2/x/y/blobs/uploads/?mount={digest}&from=x/other"),
            "DELETE /v2/x/y/blobs/uploads/1?_state=a%2Fb".to_owned(),
        ]
    );
}

#[test]
fn an_upload_elsewhere_is_not_shown_the_password() {
    let other = Server::start(|request| {
        assert_eq!(request.header("authorization"), None);
        Reply::new(201)
    });
    let target = format!("http://{}/up", other.authority);
    let server = Server::start(move |request| match request.header("authorization") {
        None => Reply::new(401).with("www-authenticate", "Basic realm=x"),
        Some(_) => Reply::new(202).with("location", target.clone()),
    });
    let repository =
        server.registry(Some(("me", "pw"))).repository(&server.name("x"), Access::Push).expect("a name");
    repository.upload(&|| Ok(Box::new(&b"a"[..])), None, &|_| {}).expect("an upload");
    assert_eq!(other.requests().len(), 1);
}

#[test]
fn what_refers_to_a_manifest_is_found_with_and_without_the_registrys_help() {
    let shelf = Shared::default();
    let server = serve(&shelf);
    let repository = server.repository(Access::Push);
    let which = ManifestRef::Tag("1".to_owned());
    let subject = repository.put_manifest(&which, "m", b"{}").expect("put");
    assert_eq!(repository.referrers(subject, None), Ok(Vec::new()));
    let words = BTreeMap::from([("by".to_owned(), "us".to_owned())]);
    let first = repository.attach(subject, "a", "text/plain", b"one", &words).expect("attach");
    let second = repository.attach(subject, "b", "text/plain", b"two", &words).expect("attach");
    assert_eq!(repository.attach(subject, "b", "text/plain", b"two", &words), Ok(second));
    let digests = |kind| -> Vec<Digest> {
        repository.referrers(subject, kind).expect("a list").iter().map(|it| it.digest).collect()
    };
    assert_eq!((digests(None), digests(Some("b"))), (vec![first, second], vec![second]));
    assert_eq!(repository.referrers(subject, Some("a")).expect("a list")[0].annotations, words);
    shelf.lock().expect("no panic").has_referrers = true;
    assert_eq!((digests(None), digests(Some("b"))), (vec![Digest::of(b"r")], vec![]));
}

#[test]
fn lists_are_read_page_by_page_and_end() {
    let server = Server::start(|request| match request.path.as_str() {
        "/v2/x/y/tags/list?n=1000" => Reply::new(200)
            .with("link", "</v2/x/y/tags/list?n=1000&last=b>; rel=\"next\"")
            .body(r#"{"tags":["a","b"]}"#),
        "/v2/x/y/tags/list?n=1000&last=b" => {
            Reply::new(200).with("link", "<>; rel=next").body(r#"{"tags":null}"#)
        }
        "/v2/_catalog?n=1000" => Reply::new(200).body(r#"{"repositories":["x/y","z"]}"#),
        path if path.starts_with("/v2/big/") => Reply::new(200)
            .with("link", format!("<{path}1>; rel=next"))
            .body(format!("{{\"tags\":[]}}{}", " ".repeat(7 << 20))),
        path if path.starts_with("/v2/half/referrers/") && !path.contains('?') => Reply::new(200)
            .with("content-type", "application/vnd.oci.image.index.v1+json")
            .with("link", format!("<{path}?page=2>; rel=next"))
            .body("{}"),
        path if path.ends_with("?page=2") => Reply::new(403).body("{}"),
        path if path.starts_with("/v2/round/") => {
            Reply::new(200).with("link", format!("<{path}1>; rel=next")).body(r#"{"tags":["a"]}"#)
        }
        _ => Reply::new(404),
    });
    assert_eq!(server.repository(Access::Pull).tags(), Ok(vec!["a".to_owned(), "b".to_owned()]));
    let registry = server.registry(None);
    assert_eq!(registry.repositories(&server.authority), Ok(vec!["x/y".to_owned(), "z".to_owned()]));
    let hits = registry.search(&server.authority, "y", 5).expect("hits");
    assert_eq!(hits.iter().map(|hit| hit.name.as_str()).collect::<Vec<_>>(), ["x/y"]);
    let repository = |name| registry.repository(&server.name(name), Access::Pull).expect("a repository");
    assert!(repository("big").tags().expect_err("no end").message.ends_with(": more than 16777216 bytes"));
    assert_eq!(server.lines().iter().filter(|line| line.contains("/big/")).count(), 3);
    let error = repository("half").referrers(Digest::of(b"s"), None).expect_err("half of a list");
    assert_eq!(error.kind, RemoteErrorKind::Denied, "{error}");
    let round = repository("round");
    assert!(round.tags().expect_err("no end").message.ends_with(": more than 1000 pages"));
}

#[test]
fn what_was_put_is_deleted_by_its_digest() {
    let server = serve(&Shared::default());
    let repository = server.repository(Access::Delete);
    let digest = repository.put_manifest(&ManifestRef::Tag("1".to_owned()), "m", b"{}").expect("put");
    let which = ManifestRef::Digest(digest);
    assert_eq!(repository.describe(&which).map(|it| it.size), Ok(Some(2)));
    assert_eq!((repository.delete(&which), repository.delete(&which).is_err()), (Ok(()), true));
    let _: &dyn skiff_registry::PushProgress = &Silent;
}
