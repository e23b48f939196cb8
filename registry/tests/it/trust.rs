//! Whose certificates are taken, and who may go without.

use std::fs;
use std::io::Read;
use std::process::Command;

use skiff_registry::{Access, Config, CredentialFile, Registry, Rules};
use skiff_store::{Digest, ManifestRef, Remote};

use crate::server::{CERTIFICATE, Reply, Request, Server, config};

/// Where the process of a test's own finds what it is told.
const PROXIES: &str = "SKIFF_TEST_PROXIES";

fn blob(registry: &Registry, server: &Server) -> Result<String, String> {
    let repository = registry.repository(&server.name("x"), Access::Pull).expect("a repository");
    let mut text = String::new();
    let mut body = repository.blob(Digest::of(b""), 0).map_err(|error| error.message)?;
    body.read_to_string(&mut text).map_err(|error| error.to_string())?;
    Ok(text)
}

/// Asks for a password, and then says that what is asked for is at `target`.
fn elsewhere(status: u16, target: String) -> Server {
    Server::start(move |request| match request.header("authorization") {
        None => Reply::new(401).with("www-authenticate", "Basic realm=x"),
        Some(_) => Reply::new(status).with("location", target.clone()),
    })
}

fn no_password(status: u16) -> impl Fn(&Request) -> Reply {
    move |request| {
        assert_eq!(request.header("authorization"), None);
        Reply::new(status).body("blob")
    }
}

#[test]
fn who_verifies_nobody_follows_to_hosts_that_nobody_vouches_for_without_the_password() {
    let store = Server::start_encrypted(no_password(200));
    let server = elsewhere(307, format!("https://{}/signed", store.authority));
    let mine = Some(("me", "pw"));
    assert_eq!(blob(&server.registry_verifying(mine, false), &server).as_deref(), Ok("blob"));
    assert_eq!(store.lines(), ["GET /signed"]);
    let error = blob(&server.registry(mine), &server).expect_err("nobody vouches for it");
    assert!(error.contains("not trusted"), "{error}");
    assert_eq!(store.lines().len(), 1);
}

#[test]
fn who_verifies_nobody_sends_to_hosts_that_nobody_vouches_for_without_the_password() {
    let store = Server::start_encrypted(no_password(201));
    let server = elsewhere(202, format!("https://{}/up", store.authority));
    let upload = |registry: Registry| {
        let repository = registry.repository(&server.name("x"), Access::Push).expect("a repository");
        repository.upload(&|| Ok(Box::new(&b"a"[..])), None, &|_| {}).map_err(|error| error.message)
    };
    let mine = Some(("me", "pw"));
    upload(server.registry_verifying(mine, false)).expect("an upload");
    assert_eq!(store.requests().len(), 1);
    let error = upload(server.registry(mine)).expect_err("nobody vouches for it");
    assert!(error.contains("not trusted"), "{error}");
    assert_eq!(store.requests().len(), 1);
}

#[test]
fn who_verifies_all_speaks_no_plain_http_on_loopback_either() {
    let server = Server::start(|_| Reply::new(200).body("blob"));
    blob(&server.registry_verifying(None, true), &server).expect_err("no TLS there");
    assert!(server.lines().is_empty());
    assert_eq!(blob(&server.registry(None), &server).as_deref(), Ok("blob"));
}

#[test]
fn who_verifies_all_is_not_led_to_plain_http_on_loopback() {
    let other = Server::start(|_| Reply::new(200).body(r#"{"token":"t"}"#));
    let (realm, target) = (other.authority.clone(), format!("http://{}/x", other.authority));
    let server = Server::start_encrypted(move |request| match request.path.contains("/blobs/") {
        true => Reply::new(307).with("location", target.clone()),
        false => Reply::new(401).with("www-authenticate", format!("Bearer realm=\"http://{realm}/token\"")),
    });
    let folder = std::env::temp_dir().join(format!("skiff-trust-{}", std::process::id()));
    let own = folder.join(&server.authority);
    fs::create_dir_all(&own).expect("a folder");
    fs::write(own.join("a.crt"), CERTIFICATE).expect("a certificate");
    let registry = |tls_verify| {
        let config = config(CredentialFile::at(folder.join("config.json")), Rules::default());
        Registry::new(Config { tls_verify, certificates: vec![folder.clone()], ..config })
    };
    let manifest = |registry: &Registry| {
        let repository = registry.repository(&server.name("x"), Access::Pull).expect("a repository");
        repository.manifest(&ManifestRef::Tag("1".to_owned())).expect_err("no manifest").message
    };
    let strict = registry(Some(true));
    let errors = [blob(&strict, &server).expect_err("no redirect"), manifest(&strict)];
    let not_asked = other.lines();
    let _challenge = manifest(&registry(None));
    fs::remove_dir_all(&folder).expect("clean up");
    assert!(errors.iter().all(|error| error.ends_with("without encryption")), "{errors:?}");
    assert_eq!((not_asked, other.lines()), (vec![], vec!["GET /token?scope=repository:x:pull".to_owned()]));
}

#[test]
fn a_proxy_that_nobody_vouches_for_is_not_told_its_password() {
    // The host seems not to speak TLS, so that it is asked without, through the other proxy.
    let plain = Server::start(|_| Reply::new(200).cut(0));
    let check = |authorities: &str, kind: &str, expected: &[&str]| {
        let proxy = Server::start_encrypted(|_| Reply::new(407));
        let folder = std::env::temp_dir().join(format!("skiff-proxy-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join("ca.crt"), authorities).expect("a file");
        let mut program = Command::new(std::env::current_exe().expect("this program"));
        for variable in
            ["HTTPS_PROXY", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY", "SSL_CERT_DIR"]
        {
            program.env_remove(variable);
        }
        let output = program
            .args(["--exact", "trust::proxies_in_a_process_of_their_own", "--nocapture"])
            .env("http_proxy", "")
            .env("https_proxy", format!("http://{}", plain.authority))
            .env(kind, format!("https://me:pw@{}", proxy.authority))
            .env("SSL_CERT_FILE", folder.join("ca.crt"))
            .env(PROXIES, &folder)
            .output();
        fs::remove_dir_all(&folder).expect("clean up");
        let output = output.expect("this program");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{said}");
        let told = proxy.requests();
        let mut told: Vec<_> =
            told.iter().filter_map(|request| request.header("proxy-authorization")).collect();
        // It may be asked once more.
        told.dedup();
        assert_eq!(told, expected, "{said}");
    };
    // Before a host without TLS, and before one that does speak it and need not prove who it is.
    check("", "http_proxy", &[]);
    check(CERTIFICATE, "http_proxy", &["Basic bWU6cHc="]);
    check("", "https_proxy", &[]);
    check(CERTIFICATE, "https_proxy", &["Basic bWU6cHc="]);
}

/// The other half of the test above, where the environment names proxies.
#[test]
fn proxies_in_a_process_of_their_own() {
    let Some(folder) = std::env::var_os(PROXIES) else { return };
    let file = CredentialFile::at(std::path::Path::new(&folder).join("config.json"));
    let config = config(file, Rules::default());
    // Asks for plain HTTP where there is no TLS.
    let registry = Registry::new(Config { tls_verify: Some(false), ..config });
    let name = skiff_store::ImageName::parse("192.0.2.1:1/x").expect("a name");
    let repository = registry.repository(&name, Access::Pull).expect("a repository");
    let error = repository.manifest(&ManifestRef::Tag("1".to_owned())).expect_err("no manifest");
    println!("{error}");
}
