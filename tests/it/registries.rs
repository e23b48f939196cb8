//! Images of real registries: every kind that others push, whoever must be asked, and ways that break.

use std::fs;

use nix::sched::{CloneFlags, unshare};
use nix::sys::termios::LocalFlags;
use serde_json::Value;

use crate::harness::layout::Layout;
use crate::harness::pty::Terminal;
use crate::harness::registry::{Fate, Guard, PASSWORD, Registry, Served, USER, docker_config, has_registry};
use crate::harness::{Case, Skiff, fixture, installed, need, parse};

/// No file of the user who runs the tests has a say.
fn skiff(case: &Case, words: &[&str]) -> Skiff {
    let nowhere = case.dir.join("nowhere");
    case.skiff(words)
        .env("HOME", &nowhere)
        .env("DOCKER_CONFIG", &nowhere)
        .env("XDG_CONFIG_HOME", &nowhere)
        .env("CONTAINERS_REGISTRIES_CONF", case.file("registries.conf", ""))
}

/// The small image, as skopeo names it.
fn small() -> String {
    format!("oci:{}:full", fixture::small_image().display())
}

fn see(case: &Case, image: &str) -> Value {
    parse(&skiff(case, &["run", "--rm", "--pull", "never", image, "see"]).output().ok())
}

#[test]
fn images_of_every_kind_are_pulled_and_run() {
    need!(has_registry() && fixture::has_image_tools(), "docker-registry, skopeo, umoci and zstd");
    let case = Case::new();
    let registry = Registry::start(&case, Guard::Nothing);
    let index = format!("oci:{}:many", fixture::small_zstd_index().display());
    registry.put(&small(), "kinds/oci:1", &[]);
    registry.put(&small(), "kinds/docker:1", &["--format", "v2s2"]);
    registry.put(&small(), "kinds/zstd:1", &["--dest-compress-format", "zstd", "--dest-compress"]);
    registry.put(&index, "kinds/index:1", &[]);
    for kind in ["oci", "docker", "zstd", "index"] {
        let name = registry.name(&format!("kinds/{kind}:1"));
        let said = skiff(&case, &["pull", &name]).output().ok();
        assert!(said.contains("\nStatus: Downloaded newer image for "), "{said}");
        let seen = see(&case, &name);
        assert_eq!(
            (&seen["ids"]["uid"], &seen["env"]["COLOUR"]),
            (&1234.into(), &"a blue=one".into()),
            "{kind}"
        );
        let said = skiff(&case, &["pull", &name]).output().ok();
        assert!(said.contains("\nStatus: Image is up to date for "), "{said}");
    }
}

#[test]
fn an_image_is_pulled_by_its_digest() {
    need!(has_registry() && fixture::has_image_tools(), "docker-registry, skopeo, umoci and zstd");
    let case = Case::new();
    let registry = Registry::start(&case, Guard::Nothing);
    registry.put(&small(), "a/b:1", &[]);
    let said = skiff(&case, &["pull", &registry.name("a/b:1")]).output().ok();
    let digest = said.lines().find_map(|line| line.strip_prefix("Digest: ")).expect("a digest");
    let name = registry.name(&format!("a/b@{digest}"));
    skiff(&case, &["pull", &name]).output().ok();
    assert_eq!(see(&case, &name)["cwd"], "/data/deep");
    let none = registry.name(&format!("a/b@sha256:{}", "0".repeat(64)));
    skiff(&case, &["pull", &none]).output().fails(1, "not found");
}

#[test]
fn what_is_not_there_is_said_in_one_line() {
    need!(has_registry(), "docker-registry and skopeo");
    let case = Case::new();
    let registry = Registry::start(&case, Guard::Nothing);
    skiff(&case, &["pull", &registry.name("no/such:1")]).output().fails(1, "no/such:1");
    skiff(&case, &["pull", "127.0.0.1:1/no/such:1"]).output().fails(1, "127.0.0.1:1: connection refused");
    assert_eq!(skiff(&case, &["images", "-q"]).output().ok(), "");
}

#[test]
fn a_password_is_asked_for_and_found_in_dockers_file() {
    need!(has_registry() && fixture::has_image_tools(), "docker-registry, skopeo, umoci and zstd");
    let case = Case::new();
    let registry = Registry::start(&case, Guard::Password);
    registry.put(&small(), "closed/x:1", &[]);
    let name = registry.name("closed/x:1");
    let pull = || skiff(&case, &["pull", "-q", &name]);
    pull().output().fails(1, "denied");
    let wrong = docker_config(&case, &registry.host, "wrong");
    pull().env("DOCKER_CONFIG", wrong).output().fails(1, "denied");
    let right = docker_config(&case, &registry.host, PASSWORD);
    pull().env("REGISTRY_AUTH_FILE", format!("{right}/config.json")).output().ok();
    assert_eq!(see(&case, &name)["cwd"], "/data/deep");
}

#[test]
fn tokens_are_fetched_for_the_user_and_for_nobody() {
    need!(has_registry() && fixture::has_image_tools(), "docker-registry, skopeo, umoci and zstd");
    let case = Case::new();
    let registry = Registry::start(&case, Guard::Tokens);
    registry.put(&small(), "closed/x:1", &[]);
    registry.put(&small(), "public/x:1", &[]);
    let pull = |rest: &str| skiff(&case, &["pull", "-q", &registry.name(rest)]);
    pull("public/x:1").output().ok();
    pull("closed/x:1").output().fails(1, "denied");
    let right = docker_config(&case, &registry.host, PASSWORD);
    pull("closed/x:1").env("DOCKER_CONFIG", right).output().ok();
    let wrong = docker_config(&case, &registry.host, "wrong");
    pull("closed/x:1").env("DOCKER_CONFIG", wrong).output().fails(1, "incorrect username or password");
}

#[test]
fn an_authority_of_ones_own_is_trusted_for_its_host_only() {
    need!(has_registry() && fixture::has_image_tools(), "docker-registry, skopeo, umoci and zstd");
    let case = Case::new();
    let registry = Registry::start(&case, Guard::Tls);
    registry.put(&small(), "x:1", &[]);
    let name = registry.name("x:1");
    let pull = |config: &str| skiff(&case, &["pull", "-q", &name]).env("XDG_CONFIG_HOME", config);
    pull("/nonexistent").output().fails(1, "certificate");
    pull(&trusting(&case, &registry, "127.0.0.1:1")).output().fails(1, "certificate");
    pull(&trusting(&case, &registry, &registry.host)).output().ok();
    // Whoever says that it does not matter is believed.
    let rules = format!("[[registry]]\nlocation = '{}'\ninsecure = true\n", registry.host);
    let insecure = case.file("insecure.conf", &rules);
    skiff(&case, &["pull", &name]).env("CONTAINERS_REGISTRIES_CONF", insecure).output().ok();
}

/// A folder of the user's that trusts the registry's certificate for `host`.
fn trusting(case: &Case, registry: &Registry, host: &str) -> String {
    let config = case.subdir(&format!("config-{host}"));
    let folder = case.subdir(&format!("config-{host}/containers/certs.d/{host}"));
    fs::copy(registry.authority_file(), format!("{folder}/ca.crt")).expect("copy a certificate");
    config
}

#[test]
fn a_certificate_that_is_its_own_authority_is_trusted_where_it_is_kept() {
    need!(has_registry() && fixture::has_image_tools(), "docker-registry, skopeo, umoci and zstd");
    let case = Case::new();
    let registry = Registry::start(&case, Guard::SelfSigned("127.0.0.1"));
    registry.put(&small(), "x:1", &[]);
    let name = registry.name("x:1");
    let pull = |config: &str| skiff(&case, &["pull", "-q", &name]).env("XDG_CONFIG_HOME", config);
    pull("/nonexistent").output().fails(1, "its own authority, which is not trusted");
    pull(&trusting(&case, &registry, "127.0.0.1:1")).output().fails(1, "its own authority");
    pull(&trusting(&case, &registry, &registry.host)).output().ok();
    assert_eq!(see(&case, &name)["cwd"], "/data/deep");
    // It is for this address alone.
    let other = Registry::start(&case, Guard::SelfSigned("127.0.0.2"));
    let pull = skiff(&case, &["pull", "-q", &other.name("x:1")]);
    pull.env("XDG_CONFIG_HOME", trusting(&case, &other, &other.host)).output().fails(1, "not valid for name");
}

#[test]
fn certificates_do_not_matter_where_the_user_says_so() {
    need!(has_registry() && fixture::has_image_tools(), "docker-registry, skopeo, umoci and zstd");
    let case = Case::new();
    let registry = Registry::start(&case, Guard::Tls);
    registry.put(&small(), "x:1", &[]);
    let [from, to] = ["x:1", "y:1"].map(|name| registry.name(name));
    let run = |words: &[&str]| skiff(&case, words);
    run(&["pull", "-q", "--tls-verify", &from]).output().fails(1, "certificate");
    run(&["run", "--rm", "-q", "--tls-verify=false", &from, "see"]).output().ok();
    run(&["tag", &from, &to]).output().ok();
    run(&["push", "-q", &to]).output().fails(1, "certificate");
    run(&["push", "-q", "--tls-verify=false", &to]).output().ok();
    // The user's word counts more than that of files.
    let rules = format!("[[registry]]\nlocation = '{}'\ninsecure = true\n", registry.host);
    let insecure = case.file("insecure.conf", &rules);
    let pull = run(&["pull", "-q", "--tls-verify=true", &to]);
    pull.env("CONTAINERS_REGISTRIES_CONF", insecure).output().fails(1, "certificate");
}

#[test]
fn a_registry_on_loopback_may_be_plain_at_the_port_for_that() {
    need!(has_registry() && fixture::has_image_tools(), "docker-registry, skopeo, umoci and zstd");
    need!(installed("ip"), "ip");
    // Nobody else is at port 80 of a network of the test's own, which is its thread's.
    let work = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        fixture::tool("ip", &["link", "set", "lo", "up"]);
        let case = Case::new();
        let registry = Registry::start_at(&case, Guard::Nothing, 80);
        registry.put(&small(), "x:1", &[]);
        skiff(&case, &["pull", "-q", "localhost/x:1"]).output().ok();
        drop(registry);
        skiff(&case, &["pull", "-q", "localhost/x:1"]).output().fails(1, "localhost: connection refused");
    };
    std::thread::scope(|scope| scope.spawn(work).join()).expect("no failure");
}

#[test]
fn a_mirror_stands_in_for_what_it_has() {
    need!(has_registry() && fixture::has_image_tools(), "docker-registry, skopeo, umoci and zstd");
    let case = Case::new();
    let [origin, mirror] = [(); 2].map(|()| Registry::start(&case, Guard::Nothing));
    mirror.put(&small(), "copy/of/a:1", &[]);
    origin.put(&small(), "b:1", &[]);
    let rules = format!(
        "[[registry]]\nlocation = '{}'\n[[registry.mirror]]\nlocation = '{}/copy/of'\n",
        origin.host, mirror.host
    );
    let rules = case.file("mirror.conf", &rules);
    for name in ["a:1", "b:1"] {
        let name = origin.name(name);
        skiff(&case, &["pull", "-q", &name]).env("CONTAINERS_REGISTRIES_CONF", &rules).output().ok();
        assert_eq!(see(&case, &name)["cwd"], "/data/deep");
    }
    let wrong = case.file("wrong.conf", "[[registry]]\nprefix = 1\n");
    skiff(&case, &["pull", "x"]).env("CONTAINERS_REGISTRIES_CONF", wrong).output().fails(1, "wrong.conf");
}

#[test]
fn a_pull_goes_on_where_connections_break() {
    need!(has_registry() && fixture::has_image_tools(), "docker-registry, skopeo, umoci and zstd");
    let case = Case::new();
    let registry = Registry::start(&case, Guard::Nothing);
    registry.put(&small(), "x:1", &[]);
    // The first connection tells that there is no TLS. Documents fit into what passes; the layer with the root does not.
    let broken = Served::between(&registry, |number| match number {
        0 => Fate::Passes,
        number if number < 8 => Fate::Cut(number * 40_000),
        8 => Fate::Refused(429, 0),
        9 => Fate::Refused(503, 0),
        _ => Fate::Passes,
    });
    let name = format!("{}/x:1", broken.host);
    skiff(&case, &["pull", "-q", &name]).output().ok();
    assert_eq!(see(&case, &name)["cwd"], "/data/deep");
}

#[test]
fn a_registry_that_asks_for_too_much_patience_is_left() {
    need!(has_registry(), "docker-registry and skopeo");
    let case = Case::new();
    let registry = Registry::start(&case, Guard::Nothing);
    let busy = Served::between(&registry, |number| match number {
        0 => Fate::Passes,
        _ => Fate::Refused(429, 3600),
    });
    let name = format!("{}/x:1", busy.host);
    skiff(&case, &["pull", &name]).output().fails(1, "it asks to wait for 3600 s");
}

#[test]
fn a_layer_that_is_not_what_its_digest_says_leaves_nothing() {
    need!(has_registry() && fixture::has_image_tools(), "docker-registry, skopeo, umoci and zstd");
    let case = Case::new();
    let registry = Registry::start(&case, Guard::Nothing);
    registry.put(&small(), "x:1", &[]);
    let copy = case.dir.join("copy");
    registry.take("x:1", &format!("oci:{}:1", copy.display()));
    let manifest = Layout::open(&copy).manifest("1");
    let digest = manifest["layers"][0]["digest"].as_str().expect("a digest");
    let file = registry.blob_file(digest);
    let mut bytes = fs::read(&file).expect("a blob");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).expect("spoil a blob");
    let output = skiff(&case, &["pull", "-q", &registry.name("x:1")]).output();
    output.fails(1, "layer");
    assert_eq!(skiff(&case, &["images", "-q"]).output().ok(), "");
}

/// The digest of the configuration of what is called `tag` in a layout: the image's id.
fn id(layout: &str) -> String {
    let manifest = Layout::open(layout.as_ref()).manifest("1");
    manifest["config"]["digest"].as_str().expect("a digest").to_owned()
}

#[test]
fn what_is_pushed_others_take() {
    need!(has_registry() && fixture::has_image_tools(), "docker-registry, skopeo, umoci and zstd");
    let case = Case::new();
    let [here, there] = [(); 2].map(|()| Registry::start(&case, Guard::Nothing));
    here.put(&small(), "from:1", &[]);
    let from = here.name("from:1");
    let pulled = skiff(&case, &["pull", &from]).output().ok();
    let digest = |said: &str| {
        let words = said.split_whitespace().find(|word| word.starts_with("sha256:"));
        words.expect("a digest").to_owned()
    };
    let push = |name: &str| {
        skiff(&case, &["tag", &from, name]).output().ok();
        skiff(&case, &["push", name]).output().ok()
    };
    // Where the registry has the layers, they are mounted, and the manifest stays what it was.
    let said = push(&here.name("to/other:1"));
    assert!(said.contains("Mounted from from"), "{said}");
    assert_eq!(digest(&said), digest(&pulled));
    let said = push(&here.name("to/other:2"));
    assert!(said.contains("Layer already exists"), "{said}");
    // Elsewhere they are packed again; what is in them is the same, to the byte.
    let said = push(&there.name("to/other:1"));
    assert!(said.contains(": Pushed") && digest(&said) != digest(&pulled), "{said}");
    let [a, b] = ["a", "b"].map(|name| case.dir.join(name).display().to_string());
    here.take("from:1", &format!("oci:{a}:1"));
    there.take("to/other:1", &format!("oci:{b}:1"));
    assert_eq!(id(&a), id(&b));
    // The same blobs are known for the next time.
    assert_eq!(digest(&push(&there.name("to/other:2"))), digest(&said));
    // umoci checks every layer against the configuration.
    let bundle = case.dir.join("bundle").display().to_string();
    fixture::tool("umoci", &["unpack", "--image", &format!("{b}:1"), &bundle]);
    assert!(case.dir.join("bundle/rootfs/data/added").exists());
    let other = Case::new();
    skiff(&other, &["pull", "-q", &there.name("to/other:2")]).output().ok();
    assert_eq!(see(&other, &there.name("to/other:2"))["cwd"], "/data/deep");
}

#[test]
fn zstd_is_pushed_when_asked_for() {
    need!(has_registry() && fixture::has_image_tools(), "docker-registry, skopeo, umoci and zstd");
    let case = Case::new();
    let [here, there] = [(); 2].map(|()| Registry::start(&case, Guard::Nothing));
    here.put(&small(), "x:1", &[]);
    skiff(&case, &["pull", "-q", &here.name("x:1")]).output().ok();
    skiff(&case, &["tag", &here.name("x:1"), &there.name("x:1")]).output().ok();
    skiff(&case, &["push", "-q", "--compression", "zstd", &there.name("x:1")]).output().ok();
    let copy = case.dir.join("copy").display().to_string();
    there.take("x:1", &format!("oci:{copy}:1"));
    let manifest = Layout::open(copy.as_ref()).manifest("1");
    assert_eq!(manifest["layers"][0]["mediaType"], "application/vnd.oci.image.layer.v1.tar+zstd");
    // Not every umoci knows it.
    let other = Case::new();
    skiff(&other, &["pull", "-q", &there.name("x:1")]).output().ok();
    assert_eq!(see(&other, &there.name("x:1"))["cwd"], "/data/deep");
}

#[test]
fn who_has_logged_in_may_push_until_logging_out() {
    need!(has_registry() && fixture::has_image_tools(), "docker-registry, skopeo, umoci and zstd");
    for guard in [Guard::Password, Guard::Tokens] {
        let case = Case::new();
        let registry = Registry::start(&case, guard);
        registry.put(&small(), "closed/a:1", &[]);
        let (from, to) = (registry.name("closed/a:1"), registry.name("closed/b:1"));
        let config = case.subdir("config");
        let run = |words: &[&str]| skiff(&case, words).env("DOCKER_CONFIG", &config);
        let login = |password: &str| {
            run(&["login", "-u", USER, "--password-stdin", &registry.host])
                .stdin(password.as_bytes())
                .output()
        };
        login("wrong").fails(1, &registry.host);
        assert!(!case.dir.join("config/config.json").exists());
        assert!(login(PASSWORD).stdout.contains("Login Succeeded"));
        run(&["pull", "-q", &from]).output().ok();
        run(&["tag", &from, &to]).output().ok();
        run(&["push", "-q", &to]).output().ok();
        run(&["logout", &registry.host]).output().ok();
        run(&["push", "-q", &to]).output().fails(1, "denied");
    }
}

#[test]
fn a_password_is_asked_for_and_not_shown() {
    need!(has_registry() && fixture::has_image_tools(), "docker-registry, skopeo, umoci and zstd");
    let case = Case::new();
    let registry = Registry::start(&case, Guard::Password);
    let config = case.subdir("config");
    let command = skiff(&case, &["login", &registry.host]).env("DOCKER_CONFIG", &config);
    let mut terminal = Terminal::start(&command, 24, 80);
    let shows = |terminal: &Terminal| terminal.settings().local_flags.contains(LocalFlags::ECHO);
    terminal.expect("Username: ");
    assert!(shows(&terminal));
    terminal.send(format!("{USER}\r").as_bytes());
    terminal.expect("Password: ");
    assert!(!shows(&terminal));
    terminal.send(format!("{PASSWORD}\r").as_bytes());
    terminal.expect("Login Succeeded");
    assert!(shows(&terminal), "the terminal is as before");
    let (code, screen) = terminal.finish();
    assert!(code == 0 && !screen.contains(PASSWORD), "{screen}");
    assert!(case.dir.join("config/config.json").exists());
}

#[test]
fn a_pull_is_drawn_on_a_terminal() {
    need!(has_registry() && fixture::has_image_tools(), "docker-registry, skopeo, umoci and zstd");
    let case = Case::new();
    let registry = Registry::start(&case, Guard::Nothing);
    registry.put(&small(), "small:1", &[]);
    let name = registry.name("small:1");
    let (code, screen) = Terminal::start(&skiff(&case, &["pull", &name]), 40, 60).finish();
    assert!(code == 0 && screen.ends_with(&format!("{name}\r\n")), "{screen:?}");
    // Lines are drawn over: the cursor goes up, and nothing of what was there stays.
    let last = screen.rsplit("\r\x1b[J").next().unwrap_or_default();
    assert!(screen.contains("\x1b[") && screen.contains("\r\x1b[J"), "{screen:?}");
    assert!(last.contains("Pull complete") && !last.contains("Extracting"), "{screen:?}");
    let widest = last.split("\r\n").map(|line| line.chars().count()).max();
    assert!(widest < Some(120), "{screen:?}");
    // Once it is here there is nothing to draw.
    let (code, screen) = Terminal::start(&skiff(&case, &["pull", &name]), 40, 60).finish();
    assert!(code == 0 && !screen.contains("\x1b[J") && screen.contains("up to date"), "{screen:?}");
}
