//! Who the user is: passwords, tokens, identity tokens, helpers, and what must not be shown to whom.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use skiff_registry::{Access, CredentialFile, Credentials, Kept, Registry, Rules, Secret};
use skiff_store::{ManifestRef, Remote, RemoteErrorKind};

use crate::server::{Reply, Request, Server, config};

fn tag() -> ManifestRef {
    ManifestRef::Tag("1".to_owned())
}

/// A registry that wants tokens of `T<number>` from `/token` on the same port.
fn token_server(grant: impl Fn(&Request) -> Reply + Send + Sync + 'static, taken: &'static str) -> Server {
    Server::start(move |request| {
        if request.path.starts_with("/token") {
            return grant(request);
        }
        if request.header("authorization") == Some(taken) {
            return Reply::new(200).body("{}");
        }
        let host = request.header("host").expect("a host");
        let challenge =
            format!("Bearer realm=\"http://{host}/token\",service=\"s s\",scope=\"repository:x/y:pull\"");
        Reply::new(401).with("www-authenticate", challenge)
    })
}

#[test]
fn a_token_is_asked_for_once_and_kept() {
    let server = token_server(|_| Reply::new(200).body(r#"{"token":"t","expires_in":300}"#), "Bearer t");
    let repository = server.repository(Access::Pull);
    for _ in 0..2 {
        repository.manifest(&tag()).expect("a manifest");
    }
    assert_eq!(
        server.lines(),
        [
            "GET /v2/x/y/manifests/1",
            "GET /token?service=s%20s&scope=repository:x/y:pull",
            "GET /v2/x/y/manifests/1",
            "GET /v2/x/y/manifests/1",
        ]
    );
}

#[test]
fn a_password_goes_to_the_token_server_and_not_to_the_registry() {
    let grant = |request: &Request| match request.header("authorization") {
        Some("Basic bWU6cDp3") => Reply::new(200).body(r#"{"access_token":"t"}"#),
        _ => Reply::new(401).body(r#"{"details":"who is there?"}"#),
    };
    let server = token_server(grant, "Bearer t");
    let at = |credentials| {
        let registry = server.registry(credentials);
        registry.repository(&server.name("x/y"), Access::Push).expect("a repository").manifest(&tag())
    };
    at(Some(("me", "p:w"))).expect("a manifest");
    let error = at(Some(("me", "wrong"))).expect_err("refused");
    assert_eq!(error.kind, RemoteErrorKind::Denied);
    assert!(error.message.ends_with(": who is there?"), "{error}");
    let requests = server.requests();
    assert_eq!(requests[1].line(), "GET /token?service=s%20s&scope=repository:x/y:pull%2Cpush&account=me");
    let is_basic =
        |request: &&Request| request.header("authorization").is_some_and(|it| it.starts_with("Basic"));
    assert!(requests.iter().filter(is_basic).all(|request| request.path.starts_with("/token")));
}

#[test]
fn a_token_that_is_not_taken_any_more_is_renewed_once() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let grant = move |_: &Request| {
        let number = counted.fetch_add(1, Ordering::SeqCst);
        Reply::new(200).body(format!(r#"{{"token":"t{number}","expires_in":3600}}"#))
    };
    let server = token_server(grant, "Bearer t1");
    let repository = server.repository(Access::Pull);
    // The first token is refused from the start: that is not asked again in the same request.
    assert_eq!(repository.manifest(&tag()).expect_err("refused").kind, RemoteErrorKind::Denied);
    repository.manifest(&tag()).expect("by the second token");
    repository.manifest(&tag()).expect("by the same");
    assert_eq!(count.load(Ordering::SeqCst), 2);
}

#[test]
fn an_identity_token_is_exchanged_and_kept_by_login() {
    let grant =
        |request: &Request| match (request.method.as_str(), request.path.contains("offline_token=true")) {
            ("GET", true) => Reply::new(200).body(r#"{"token":"t","refresh_token":"r&r"}"#),
            ("POST", _) if String::from_utf8_lossy(&request.body).ends_with("&refresh_token=r%26r") => {
                Reply::new(200).body(r#"{"access_token":"t"}"#)
            }
            _ => Reply::new(401),
        };
    let server = token_server(grant, "Bearer t");
    let folder = std::env::temp_dir().join(format!("skiff-identity-{}", std::process::id()));
    let file = CredentialFile::at(folder.join("config.json"));
    let registry = Registry::new(config(file.clone(), Rules::default()));
    let kept = registry.login(&server.authority, &Credentials::password("me", "pw"));
    assert_eq!(kept, Ok(Kept::File(folder.join("config.json"))));
    let expect = Credentials { user: "me".to_owned(), secret: Secret::IdentityToken("r&r".to_owned()) };
    assert_eq!(file.get(&server.authority, ""), Ok(Some(expect)));
    let repository = registry.repository(&server.name("x/y"), Access::Pull).expect("a repository");
    repository.manifest(&tag()).expect("a manifest");
    let bodies: Vec<_> =
        server.requests().iter().filter(|it| it.method == "POST").map(|it| it.body.clone()).collect();
    assert_eq!(
        String::from_utf8_lossy(&bodies[0]),
        "grant_type=refresh_token&service=s%20s&client_id=skiff&scope=repository:x/y:pull&refresh_token=r%26r"
    );
    assert_eq!(registry.logout(&server.authority), Ok(true));
    assert_eq!(registry.logout(&server.authority), Ok(false));
    fs::remove_dir_all(&folder).expect("clean up");
}

#[test]
fn a_password_is_read_once_unless_it_is_refused() {
    let count = AtomicUsize::new(0);
    let server = Server::start(move |request| match request.header("authorization") {
        None => Reply::new(401).with("www-authenticate", "Basic realm=x"),
        Some("Basic bWU6cHc=") if count.fetch_add(1, Ordering::SeqCst) < 2 => Reply::new(200).body("{}"),
        Some("Basic bWU6bmV3") => Reply::new(200).body("{}"),
        Some(_) => Reply::new(401).with("www-authenticate", "Basic realm=x"),
    });
    let folder = std::env::temp_dir().join(format!("skiff-once-{}", std::process::id()));
    let file = CredentialFile::at(folder.join("config.json"));
    file.store(&server.authority, &Credentials::password("me", "pw")).expect("store");
    let registry = Registry::new(config(file.clone(), Rules::default()));
    let repository = registry.repository(&server.name("x/y"), Access::Pull).expect("a repository");
    repository.manifest(&tag()).expect("by the first password");
    file.store(&server.authority, &Credentials::password("me", "new")).expect("store");
    repository.manifest(&tag()).expect("by the first password again");
    assert_eq!(repository.manifest(&tag()).expect_err("refused").kind, RemoteErrorKind::Denied);
    repository.manifest(&tag()).expect("by the new one");
    fs::remove_dir_all(&folder).expect("clean up");
}

#[test]
fn an_identity_token_is_not_sent_where_its_server_points() {
    let other = Server::start(|_| Reply::new(200).body(r#"{"token":"t"}"#));
    let target = format!("http://{}/token", other.authority);
    let server = token_server(move |_| Reply::new(307).with("location", target.clone()), "Bearer t");
    let folder = std::env::temp_dir().join(format!("skiff-pointed-{}", std::process::id()));
    let file = CredentialFile::at(folder.join("config.json"));
    let secret = Secret::IdentityToken("r".to_owned());
    file.store(&server.authority, &Credentials { user: "me".to_owned(), secret }).expect("store");
    let registry = Registry::new(config(file, Rules::default()));
    let repository = registry.repository(&server.name("x/y"), Access::Pull).expect("a repository");
    let error = repository.manifest(&tag()).expect_err("refused");
    fs::remove_dir_all(&folder).expect("clean up");
    assert!(error.message.ends_with(&format!("redirects what is sent to {}", other.authority)), "{error}");
    assert_eq!(other.lines().len(), 0);
}

#[test]
fn login_with_a_wrong_password_keeps_nothing() {
    let server = Server::start(|request| match request.header("authorization") {
        Some("Basic bWU6cHc=") => Reply::new(200),
        _ => {
            Reply::new(401).with("www-authenticate", "Basic realm=x").body(r#"{"errors":[{"message":"no"}]}"#)
        }
    });
    let folder = std::env::temp_dir().join(format!("skiff-login-{}", std::process::id()));
    let registry = Registry::new(config(CredentialFile::at(folder.join("config.json")), Rules::default()));
    let error =
        registry.login(&server.authority, &Credentials::password("me", "wrong")).expect_err("refused");
    assert_eq!((error.kind, error.message), (RemoteErrorKind::Denied, format!("{}: no", server.authority)));
    assert!(!folder.exists());
    registry.login(&server.authority, &Credentials::password("me", "pw")).expect("taken");
    assert_eq!(registry.credentials(&server.authority), Ok(Some(Credentials::password("me", "pw"))));
    fs::remove_dir_all(&folder).expect("clean up");
}

#[test]
fn a_token_server_without_encryption_or_elsewhere_is_not_asked() {
    let check = |challenge: &'static str, end: &str| {
        let server = Server::start(move |_| Reply::new(401).with("www-authenticate", challenge));
        let registry = server.registry(Some(("me", "pw")));
        let repository = registry.repository(&server.name("x"), Access::Pull).expect("a repository");
        let error = repository.manifest(&tag()).expect_err(challenge);
        assert!(error.message.ends_with(end), "{error}");
        assert!(server.requests().iter().all(|request| request.header("authorization").is_none()));
    };
    check(
        "Bearer realm=\"http://192.0.2.1/token\"",
        "\"http://192.0.2.1/token\" is reached without encryption",
    );
    check(
        "Bearer realm=\"http://127.0.0.1:1@192.0.2.1/token\"",
        "\"http://127.0.0.1:1@192.0.2.1/token\" has a user in its address",
    );
    check("Bearer realm=\"/token\"", "\"/token\" has no address");
    check("Bearer realm=\"ftp://a/\"", "\"ftp://a/\" is reached without encryption");
    check("Negotiate", "401 unauthorized");
}

#[test]
fn a_token_server_that_answers_nonsense_is_one_error() {
    for body in ["", "[]", "{}", r#"{"token":"a\nb"}"#, &" ".repeat(2 << 20)] {
        let body = body.to_owned();
        let server = token_server(move |_| Reply::new(200).body(body.clone()), "");
        let error = server.repository(Access::Pull).manifest(&tag()).expect_err("nonsense");
        assert!(!error.message.contains('\n'), "{error}");
    }
}

#[test]
fn helpers_are_asked_and_told() {
    let folder = std::env::temp_dir().join(format!("skiff-helper-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let helper = |name: &str, script: &str| {
        let path = folder.join(format!("docker-credential-{name}"));
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
    };
    let log = folder.join("log");
    helper(
        "good",
        &format!(
            "read line; echo \"$1 $line\" >> {}; [ $1 != get ] || echo '{{\"Username\":\"me\",\"Secret\":\"pw\"}}'",
            log.display()
        ),
    );
    helper("token", "cat > /dev/null; echo '{\"Username\":\"<token>\",\"Secret\":\"t\"}'");
    helper("none", "echo credentials not found in native keychain; exit 1");
    helper("bad", "echo 'key ring\nis locked'; exit 1");
    helper("odd", "yes | head -c 60000");
    // No other test of this program looks at the path, and this one is the only one to change it.
    let config = r#"{"credHelpers":{"good":"good","t":"token","none":"none","bad":"bad","odd":"odd","gone":"gone","path":"../x"},
                     "credsStore":"good"}"#;
    fs::write(folder.join("config.json"), config).expect("a file");
    let output = std::process::Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "auth::helpers_in_a_process_of_their_own", "--nocapture"])
        .env("PATH", format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default()))
        .env("SKIFF_TEST_HELPERS", &folder)
        .output()
        .expect("this program");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&[output.stdout, output.stderr].concat()));
    let said = fs::read_to_string(&log).expect("a log");
    assert_eq!(
        said,
        "get good\nget https://index.docker.io/v1/\nstore {\"Secret\":\"pw\",\"ServerURL\":\"good\",\"Username\":\"me\"}\n\
         get good\nerase good\n"
    );
    fs::remove_dir_all(&folder).expect("clean up");
}

/// The other half of the test above, with another path to find programs on.
#[test]
fn helpers_in_a_process_of_their_own() {
    let Some(folder) = std::env::var_os("SKIFF_TEST_HELPERS") else { return };
    let file = CredentialFile::at(std::path::Path::new(&folder).join("config.json"));
    let mine = Credentials::password("me", "pw");
    assert_eq!(file.get("good", ""), Ok(Some(mine.clone())));
    assert_eq!(file.get("docker.io", ""), Ok(Some(mine.clone())));
    let token = Credentials { user: String::new(), secret: Secret::IdentityToken("t".to_owned()) };
    assert_eq!(file.get("t", ""), Ok(Some(token)));
    assert_eq!(file.get("none", ""), Ok(None));
    let error = |host: &str| file.get(host, "").expect_err(host).message;
    assert_eq!(error("bad"), "credential helper bad: key ring is locked");
    assert_eq!(error("odd"), "credential helper odd: its answer is not the JSON of a helper");
    assert_eq!(error("gone"), "start docker-credential-gone: no such file or directory");
    assert_eq!(error("path"), "credential helper \"../x\": not a helper's name");
    assert_eq!(file.store("good", &mine), Ok(Kept::Helper("good".to_owned())));
    assert_eq!(file.erase("good"), Ok(true));
}
