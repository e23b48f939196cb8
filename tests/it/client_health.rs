//! How containers' health is found out, from the outside.

use crate::harness::{Case, fixture};
use crate::peers::world::eventually;

/// Starts a container that is checked every 100 ms, waits until it is `expected`, and returns what `format` prints.
fn checked(flags: &[&str], expected: &str, format: &str) -> String {
    let case = Case::with_daemon();
    let often = ["--health-interval=100ms", "--health-retries=2"];
    let words = [&["run", "-d", "--name=web"], &often[..], flags, &[fixture::small_root(), "probe", "trap"]];
    case.skiff(&words.concat()).output().ok();
    let inspect = |format: &str| case.skiff(&["inspect", "--format", format, "web"]).output().ok();
    // Something has been checked then.
    let status = "{{if .State.Health.Log}}{{.State.Health.Status}}{{end}}";
    let is_expected = || inspect(status).trim_end() == expected;
    assert!(eventually(is_expected), "{flags:?}: {}", inspect("{{json .State.Health}}"));
    inspect(format).trim_end().to_owned()
}

const FIRST: &str = "{{with index .State.Health.Log 0}}{{.ExitCode}} {{json .Output}}{{end}}";

#[test]
fn a_command_that_exits_with_0_is_healthy() {
    assert_eq!(
        checked(&["--health-cmd=echo well; echo really >&2"], "healthy", FIRST),
        r#"0 "well\nreally\n""#
    );
}

#[test]
fn a_command_that_fails_so_often_is_unhealthy() {
    assert_eq!(checked(&["--health-cmd=echo ill; exit 3"], "unhealthy", FIRST), r#"3 "ill\n""#);
}

#[test]
fn a_command_that_takes_too_long_is_ended() {
    let flags = ["--health-cmd=echo begun; exec sleep 1000", "--health-timeout=2s"];
    let expected = r#"-1 "health check exceeded the timeout of 2s: begun\n""#;
    assert_eq!(checked(&flags, "unhealthy", FIRST), expected);
}

#[test]
fn a_flood_of_output_is_cut() {
    let flags = ["--health-cmd=i=0; while [ $i -lt 2000 ]; do echo 0123456789; i=$((i+1)); done"];
    let format = "{{with index .State.Health.Log 0}}{{.ExitCode}} {{len .Output}}{{end}}";
    assert_eq!(checked(&flags, "healthy", format), "0 4099");
}

#[test]
fn ports_are_looked_for_in_the_container_s_network() {
    let expected = r#"-1 "connect to port 1: connection refused""#;
    assert_eq!(checked(&["--health-tcp=1"], "unhealthy", FIRST), expected);
    // The same port on the host's loopback is another.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("an address").port();
    let flag = format!("--health-tcp={port}");
    let expected = format!(r#"-1 "connect to port {port}: connection refused""#);
    assert_eq!(checked(&[&flag], "unhealthy", FIRST), expected);
    assert_eq!(checked(&[&flag, "--network=host"], "healthy", FIRST), r#"0 """#);
}

#[test]
fn failures_in_the_start_period_do_not_count() {
    let flags = ["--health-cmd=exit 1", "--health-start-period=1h", "--health-start-interval=50ms"];
    let format = "{{.State.Health.FailingStreak}}";
    assert_eq!(checked(&flags, "starting", format), "0");
}

#[test]
fn a_container_that_has_ended_is_not_healthy() {
    let case = Case::with_daemon();
    let words = ["run", "-d", "--name=web", "--health-cmd=true", "--health-interval=100ms"];
    case.skiff(&[&words[..], &[fixture::small_root(), "probe", "trap"]].concat()).output().ok();
    let healthy =
        || case.skiff(&["ps", "-a", "--filter=health=healthy", "--format={{.Names}}"]).output().ok();
    assert!(eventually(|| healthy() == "web\n"));
    case.skiff(&["stop", "web"]).output().ok();
    assert_eq!(healthy(), "");
    let status = ["inspect", "--format={{.State.Health.Status}}", "web"];
    assert_eq!(case.skiff(&status).output().ok(), "unhealthy\n");
    case.skiff(&["start", "web"]).output().ok();
    assert!(eventually(|| healthy() == "web\n"));
}

#[test]
fn without_a_check_there_is_no_health() {
    let case = Case::with_daemon();
    let words = ["run", "-d", "--name=web", "--no-healthcheck", fixture::small_root(), "probe", "trap"];
    case.skiff(&words).output().ok();
    let format = "{{if .State.Health}}checked{{else}}not checked{{end}}";
    assert_eq!(case.skiff(&["inspect", "--format", format, "web"]).output().ok(), "not checked\n");
    assert_eq!(case.skiff(&["ps", "-q", "--filter=health=healthy"]).output().ok(), "");
}
