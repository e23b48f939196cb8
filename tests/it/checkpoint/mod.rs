//! `checkpoint` and `restore`, through criu(8) where that works, and what is said where it does not.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{installed, patience, skip};
use crate::oci::{Bundle, lacks};

mod options;

/// Whether criu can do anything here, else the test is skipped: Debian's does not know the vDSO of newer kernels.
pub(crate) fn criu_works() -> bool {
    if !installed("criu") {
        skip("criu");
        return false;
    }
    let check = Command::new("criu").arg("check").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let works = check.is_ok_and(|done| done.success());
    if !works {
        lacks("a kernel that criu knows");
    }
    works
}

/// A container that runs `script` in a directory of the bundle, with streams that belong to nobody: what is open
/// outside of the container cannot be written to files.
fn start(script: &str) -> Bundle {
    launched(prepared(Bundle::new(), script))
}

/// The same, not yet made.
pub(crate) fn prepared(mut bundle: Bundle, script: &str) -> Bundle {
    let data = bundle.subdir("data");
    bundle
        .mount(json!({ "destination": "/data", "type": "bind", "source": data, "options": ["rbind", "rw"] }));
    bundle.args(&["/bin/sh", "-c", &format!("cd /data; {script}")]);
    bundle
}

pub(crate) fn launched(bundle: Bundle) -> Bundle {
    bundle.write();
    let directory = bundle.dir.display().to_string();
    quietly(&bundle, &["create", "--bundle", &directory, &bundle.id]);
    bundle.start();
    bundle
}

/// Runs the runtime with streams that belong to nobody; it must succeed.
fn quietly(bundle: &Bundle, words: &[&str]) {
    let mut command = bundle.command(words);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let errors = bundle.dir.join("errors");
    if words[0] == "restore" {
        // What it says goes to nobody that it makes.
        command.stderr(fs::File::create(&errors).expect("a file for errors"));
    }
    let done = command.status().expect("run the runtime");
    let said = fs::read_to_string(&errors).unwrap_or_default();
    assert!(done.success(), "{words:?}: {done} {said}{}", complaints(bundle));
}

/// What criu has complained of in its logs below the bundle.
fn complaints(bundle: &Bundle) -> String {
    let below = fs::read_dir(&bundle.dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let logs = below.flat_map(|path| ["dump.log", "restore.log"].map(|name| path.join(name)));
    let texts =
        logs.filter_map(|log| Some(format!("\n{}:\n{}", log.display(), fs::read_to_string(&log).ok()?)));
    let is_complaint = |line: &&str| ["Error", "Warn"].iter().any(|word| line.contains(word));
    texts
        .flat_map(|text| {
            text.lines().filter(is_complaint).map(|line| format!("{line}\n")).collect::<Vec<_>>()
        })
        .collect()
}

pub(crate) const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i > new; mv new count; sleep 0.1; done";

pub(crate) fn count(bundle: &Bundle) -> u64 {
    let text = fs::read_to_string(bundle.dir.join("data/count")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

#[track_caller]
pub(crate) fn wait_until(holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10) * patience();
    while !holds() {
        assert!(Instant::now() < deadline, "it has not come about in time");
        std::thread::yield_now();
    }
}

/// `checkpoint` with these flags, which must succeed.
pub(crate) fn checkpoint(bundle: &Bundle, flags: &[&str]) {
    let words = [&["checkpoint"], flags, &[bundle.id.as_str()]].concat();
    let output = bundle.runtime(&words);
    assert_eq!(output.code, 0, "{output}{}", complaints(bundle));
}

pub(crate) fn restore(bundle: &Bundle, images: &str) {
    restore_with(bundle, images, &[]);
}

pub(crate) fn restore_with(bundle: &Bundle, images: &str, flags: &[&str]) {
    let directory = bundle.dir.display().to_string();
    let words = ["restore", "--detach", "--bundle", &directory, "--image-path", images];
    quietly(bundle, &[&words[..], flags, &[&bundle.id]].concat());
}

#[test]
fn a_container_goes_on_where_it_was_stopped() {
    if !criu_works() {
        return;
    }
    let bundle = start(COUNT);
    wait_until(|| count(&bundle) > 2);
    let images = bundle.dir.join("images").display().to_string();
    checkpoint(&bundle, &["--image-path", &images]);
    assert_ne!(bundle.runtime(&["state", &bundle.id]).code, 0, "it is gone");
    let before = count(&bundle);
    assert_ne!(before, 0);

    restore(&bundle, &images);
    assert_eq!(bundle.status(), "running");
    wait_until(|| count(&bundle) > before + 1);
    assert!(count(&bundle) < before + 1000, "it has not begun anew");
    let output = bundle.runtime(&["exec", &bundle.id, "/bin/cat", "/data/count"]);
    assert_eq!(output.code, 0, "{output}");
    bundle.end();
}

#[test]
fn a_container_may_run_on_and_be_checkpointed_again() {
    if !criu_works() {
        return;
    }
    let bundle = start(COUNT);
    wait_until(|| count(&bundle) > 1);
    let place = |name: &str| bundle.dir.join(name).display().to_string();
    checkpoint(&bundle, &["--pre-dump", "--image-path", &place("1")]);
    assert_eq!(bundle.status(), "running");
    let words = ["--parent-path", "../1", "--image-path", &place("2"), "--work-path", &place("work")];
    checkpoint(&bundle, &[&words[..], &["--leave-running"]].concat());
    assert!(bundle.dir.join("work/dump.log").exists());
    let before = count(&bundle);
    wait_until(|| count(&bundle) > before);
    bundle.end();
    restore(&bundle, &place("2"));
    bundle.end();
}

#[test]
fn a_restored_container_can_be_stayed_with() {
    if !criu_works() {
        return;
    }
    let bundle = start("echo 1 > count; while ! test -e go; do sleep 0.1; done; exit 7");
    wait_until(|| count(&bundle) > 0);
    let images = bundle.dir.join("images").display().to_string();
    checkpoint(&bundle, &["--image-path", &images]);
    fs::write(bundle.dir.join("data/go"), "").expect("write");
    let directory = bundle.dir.display().to_string();
    let output = bundle.runtime(&["restore", "--bundle", &directory, "--image-path", &images, &bundle.id]);
    assert_eq!(output.code, 7, "{output}");
    assert_ne!(bundle.runtime(&["state", &bundle.id]).code, 0, "it is gone");
}

#[test]
fn a_criu_that_fails_is_told_of_in_one_line_and_changes_nothing() {
    let bundle = start("while :; do sleep 0.1; done");
    let images = bundle.dir.join("images").display().to_string();
    for program in ["/bin/false", "/nonexistent"] {
        let output = bundle.runtime(&["--criu", program, "checkpoint", "--image-path", &images, &bundle.id]);
        assert_eq!(output.code, 1, "{output}");
        assert_eq!(output.stderr.lines().count(), 1, "{output}");
        assert_eq!(bundle.status(), "running");
    }
    bundle.end();
    let directory = bundle.dir.display().to_string();
    let words =
        ["--criu", "/bin/false", "restore", "--bundle", &directory, "--image-path", &images, &bundle.id];
    let output = bundle.runtime(&words);
    assert_eq!((output.code, output.stderr.lines().count()), (1, 1), "{output}");
    assert_ne!(bundle.runtime(&["state", &bundle.id]).code, 0, "nothing has been made");
}
