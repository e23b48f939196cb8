//! config-linux.md: devices, and which of them may be used.

use std::fs;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::{Value, json};

use super::Bundle;

/// A character device that no driver has: to open it is ENXIO if that is allowed at all, else EPERM.
const NOBODYS: (u64, u64) = (240, 7);

/// A bundle whose root has that device as `/device`, and these rules.
fn with_rules(rules: Value) -> Bundle {
    let bundle = Bundle::with([("/linux/resources/devices", rules)]);
    let (major, minor) = NOBODYS;
    for (name, kind, minor) in [
        ("/device", SFlag::S_IFCHR, minor),
        ("/other", SFlag::S_IFCHR, minor + 1),
        ("/block", SFlag::S_IFBLK, minor),
    ] {
        mknod(&bundle.inside(name), kind, Mode::from_bits_truncate(0o666), makedev(major, minor))
            .expect("mknod");
    }
    bundle
}

fn rule(allow: bool, kind: &str, major: Option<u64>, minor: Option<u64>, access: &str) -> Value {
    let mut rule = json!({ "allow": allow, "access": access, "type": kind });
    for (name, number) in [("major", major), ("minor", minor)] {
        if let Some(number) = number {
            rule[name] = number.into();
        }
    }
    rule
}

fn none() -> Value {
    json!({ "allow": false, "access": "rwm" })
}

/// What may be done to the devices of [`with_rules`]: reading and writing `/device`, reading the others.
fn verdicts(rules: Value) -> Vec<String> {
    let tries = ["open-r", "/device", "open-w", "/device", "open-r", "/other", "open-r", "/block"];
    with_rules(rules).attempt(&tries)
}

const NO: &str = "EPERM";
const YES: &str = "ENXIO";

#[test]
fn devices_that_nothing_allows_may_not_be_used() {
    assert_eq!(verdicts(json!([none()])), [NO; 4]);
}

#[test]
fn a_device_may_be_used_if_a_rule_allows_it() {
    let (major, minor) = NOBODYS;
    let rules = json!([none(), rule(true, "c", Some(major), Some(minor), "rwm")]);
    assert_eq!(verdicts(rules), [YES, YES, NO, NO]);
}

#[test]
fn a_rule_may_allow_reading_alone() {
    let rules = json!([none(), rule(true, "c", Some(NOBODYS.0), Some(NOBODYS.1), "r")]);
    assert_eq!(verdicts(rules), [YES, NO, NO, NO]);
}

#[test]
fn a_rule_may_allow_writing_alone() {
    let rules = json!([none(), rule(true, "c", Some(NOBODYS.0), Some(NOBODYS.1), "w")]);
    assert_eq!(verdicts(rules), [NO, YES, NO, NO]);
}

#[test]
fn a_rule_may_allow_making_alone() {
    let rules = json!([none(), rule(true, "c", Some(NOBODYS.0), Some(NOBODYS.1), "m")]);
    let tries = ["node", "/new", "c", "240", "7", "open-r", "/new", "open-w", "/device"];
    assert_eq!(with_rules(rules).attempt(&tries), ["ok", NO, NO]);
}

#[test]
fn a_rule_without_a_minor_number_is_for_all() {
    assert_eq!(verdicts(json!([none(), rule(true, "c", Some(NOBODYS.0), None, "rw")])), [YES, YES, YES, NO]);
}

#[test]
fn a_rule_without_numbers_is_for_all() {
    assert_eq!(verdicts(json!([none(), rule(true, "c", None, None, "rw")])), [YES, YES, YES, NO]);
}

#[test]
fn a_rule_is_for_its_type_alone() {
    assert_eq!(verdicts(json!([none(), rule(true, "b", Some(NOBODYS.0), None, "rw")])), [NO, NO, NO, YES]);
}

#[test]
fn a_rule_for_all_types_is_for_all() {
    assert_eq!(verdicts(json!([none(), rule(true, "a", None, None, "rwm")])), [YES; 4]);
}

#[test]
fn a_rule_without_a_type_is_for_all() {
    assert_eq!(verdicts(json!([none(), { "allow": true, "access": "rwm" }])), [YES; 4]);
}

#[test]
fn a_later_rule_takes_away_what_an_earlier_one_gives() {
    let all = rule(true, "c", Some(NOBODYS.0), None, "rwm");
    let one = |allow, access| rule(allow, "c", Some(NOBODYS.0), Some(NOBODYS.1), access);
    assert_eq!(verdicts(json!([none(), one(true, "rwm"), one(false, "w")])), [YES, NO, NO, NO]);
    assert_eq!(verdicts(json!([all, none()])), [NO; 4]);
}

#[test]
fn a_later_rule_gives_back_what_an_earlier_one_takes_away() {
    let (major, minor) = NOBODYS;
    let one = |allow| rule(allow, "c", Some(major), Some(minor), "rwm");
    assert_eq!(verdicts(json!([none(), one(true), one(false), one(true)])), [YES, YES, NO, NO]);
}

#[test]
fn the_default_devices_may_be_used_whatever_the_rules() {
    let tries = [
        "open-r",
        "/dev/null",
        "open-w",
        "/dev/null",
        "open-r",
        "/dev/zero",
        "open-r",
        "/dev/urandom",
        "open-w",
        "/dev/full",
    ];
    assert_eq!(with_rules(json!([none()])).attempt(&tries), ["ok"; 5]);
}

/// `/dev` as the program sees it.
fn dev(bundle: &mut Bundle) -> Value {
    bundle.see()["dev"].take()
}

macro_rules! defaults {
    ($($name:ident: $path:expr => $numbers:expr;)*) => {
        $(#[test]
        fn $name() {
            let dev = dev(&mut Bundle::new());
            let found = dev[$path].as_str().unwrap_or_default();
            assert!(found.starts_with(concat!("c ", $numbers, " ")), "{}: {found}", $path);
        })*
    };
}

defaults! {
    null_is_there: "/dev/null" => "1:3";
    zero_is_there: "/dev/zero" => "1:5";
    full_is_there: "/dev/full" => "1:7";
    random_is_there: "/dev/random" => "1:8";
    urandom_is_there: "/dev/urandom" => "1:9";
    tty_is_there: "/dev/tty" => "5:0";
}

#[test]
fn ptmx_is_of_the_containers_own_instance() {
    let mut bundle = Bundle::new();
    let found = bundle.attempt(&[
        "stat",
        "/dev/ptmx",
        "names",
        "/dev/pts",
        "open-r",
        "/dev/ptmx",
        "names",
        "/dev/pts",
    ]);
    assert!(
        ["l pts/ptmx", "l /dev/pts/ptmx"].contains(&&found[0][..]) || found[0].starts_with("c 5:2 "),
        "{found:?}"
    );
    assert_eq!(found[1..], ["ptmx", "ok", "0,ptmx"]);
}

#[test]
fn the_console_is_there_with_a_terminal_alone() {
    assert!(dev(&mut Bundle::new())["/dev/console"].is_null());
}

/// The verdicts of `stat` on these paths in a container with this list of devices.
fn made(devices: Value, paths: &[&str]) -> Vec<String> {
    let mut bundle = Bundle::with([("/linux/devices", devices)]);
    let tries: Vec<&str> = paths.iter().flat_map(|path| ["stat", path]).collect();
    bundle.attempt(&tries)
}

#[test]
fn a_character_device_is_made() {
    let device = json!({ "path": "/dev/mine", "type": "c", "major": 240, "minor": 7, "fileMode": 0o640, "uid": 12, "gid": 34 });
    assert_eq!(made(json!([device]), &["/dev/mine"]), ["c 240:7 0640 12:34"]);
}

#[test]
fn a_block_device_is_made() {
    let device = json!({ "path": "/dev/mine", "type": "b", "major": 240, "minor": 7, "fileMode": 0o600, "uid": 12, "gid": 34 });
    assert_eq!(made(json!([device]), &["/dev/mine"]), ["b 240:7 0600 12:34"]);
}

#[test]
fn a_pipe_is_made() {
    let device = json!({ "path": "/dev/mine", "type": "p", "major": 0, "minor": 0, "fileMode": 0o622, "uid": 12, "gid": 34 });
    assert_eq!(made(json!([device]), &["/dev/mine"]), ["p 0622 12:34"]);
}

#[test]
fn a_pipe_needs_no_numbers() {
    let mut bundle =
        Bundle::with([("/linux/devices", json!([{ "path": "/dev/mine", "type": "p", "fileMode": 0o622 }]))]);
    assert_eq!(bundle.wrong().attempt(&["stat", "/dev/mine"]), ["p 0622 0:0"]);
}

#[test]
fn an_unbuffered_device_is_a_character_device() {
    let device = json!({ "path": "/dev/mine", "type": "u", "major": 240, "minor": 7, "fileMode": 0o640 });
    assert_eq!(made(json!([device]), &["/dev/mine"]), ["c 240:7 0640 0:0"]);
}

#[test]
fn the_mode_of_a_device_is_not_cut_by_the_umask() {
    let device = json!({ "path": "/dev/mine", "type": "c", "major": 240, "minor": 7, "fileMode": 0o666 });
    let mut bundle =
        Bundle::with([("/linux/devices", json!([device])), ("/process/user/umask", json!(0o077))]);
    assert_eq!(bundle.attempt(&["stat", "/dev/mine"]), ["c 240:7 0666 0:0"]);
}

#[test]
fn a_device_may_be_anywhere() {
    let device =
        |path: &str| json!({ "path": path, "type": "c", "major": 240, "minor": 7, "fileMode": 0o600 });
    let devices = json!([device("/outside"), device("/dev/deep/down/mine"), device("/home/new/mine")]);
    assert_eq!(
        made(devices, &["/outside", "/dev/deep/down/mine", "/home/new/mine"]),
        ["c 240:7 0600 0:0"; 3]
    );
}

#[test]
fn a_default_device_may_be_listed_too() {
    let device = json!({ "path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666, "uid": 0, "gid": 0 });
    assert_eq!(made(json!([device]), &["/dev/null"]), ["c 1:3 0666 0:0"]);
}

#[test]
fn the_terminals_of_a_container_are_its_own() {
    let device = json!({ "path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2, "fileMode": 0o666 });
    assert_eq!(made(json!([device]), &["/dev/ptmx"]), ["l pts/ptmx"]);
}

#[test]
fn another_file_in_the_place_of_a_device_is_an_error() {
    let device = json!({ "path": "/mine", "type": "c", "major": 240, "minor": 7 });
    let bundle = Bundle::with([("/linux/devices", json!([device]))]);
    fs::write(bundle.inside("/mine"), "text").expect("a file");
    bundle.create_fails();
}

#[test]
fn another_device_in_the_place_of_a_device_is_an_error() {
    let device = json!({ "path": "/mine", "type": "c", "major": 240, "minor": 7 });
    let bundle = Bundle::with([("/linux/devices", json!([device]))]);
    mknod(&bundle.inside("/mine"), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(240, 8))
        .expect("mknod");
    bundle.create_fails();
}

#[test]
fn an_unknown_type_of_device_is_an_error() {
    let device = json!({ "path": "/dev/mine", "type": "x", "major": 240, "minor": 7 });
    Bundle::with([("/linux/devices", json!([device]))]).wrong().create_fails();
}

#[test]
fn a_device_without_numbers_is_an_error() {
    Bundle::with([("/linux/devices", json!([{ "path": "/dev/mine", "type": "c" }]))]).wrong().create_fails();
}
