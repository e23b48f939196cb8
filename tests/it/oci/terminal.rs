//! config.md: the terminal of the process. How it is handed out is not specified; the socket is what all engines use.

use std::fs::File;
use std::io::Write;

use serde_json::json;

use super::Bundle;
use super::bundle::{fails, succeeds};
use super::passed::Receiver;
use super::stream::Stream;
use crate::harness::parse;

/// A container with a terminal that is created and started: its process, and the terminal.
fn start(bundle: &Bundle) -> (i32, File) {
    let receiver = Receiver::new(&bundle.dir.join("console"));
    succeeds(&bundle.try_create(&["--console-socket", &receiver.name()]));
    let terminal = receiver.receive_descriptor();
    let pid = bundle.pid();
    bundle.start();
    (pid, terminal.into())
}

/// What the program writes to its terminal.
fn screen(bundle: &Bundle) -> String {
    let (pid, terminal) = start(bundle);
    let text = Stream::new(terminal.into()).rest();
    bundle.wait(pid);
    bundle.delete();
    text
}

fn bundle(args: &[&str]) -> Bundle {
    let mut bundle = Bundle::with([("/process/terminal", json!(true))]);
    bundle.args(args);
    bundle
}

#[test]
fn the_standard_streams_are_a_terminal() {
    let seen = parse(&screen(&bundle(&["/bin/probe", "term"])));
    assert_eq!(seen["streams"], json!([true, true, true]));
}

#[test]
fn the_terminal_is_of_the_containers_own_instance() {
    let seen = parse(&screen(&bundle(&["/bin/probe", "term"])));
    assert_eq!(seen["name"], "/dev/pts/0");
}

#[test]
fn the_console_is_the_terminal() {
    let text = screen(&bundle(&["/bin/sh", "-c", "test -c /dev/console && echo said > /dev/console"]));
    assert_eq!(text, "said\r\n");
}

#[test]
fn the_terminal_controls_the_session() {
    assert_eq!(screen(&bundle(&["/bin/sh", "-c", "echo said > /dev/tty"])), "said\r\n");
}

#[test]
fn the_console_size_is_set() {
    let mut bundle = bundle(&["/bin/probe", "term"]);
    bundle.set("/process/consoleSize", json!({ "height": 33, "width": 123 }));
    assert_eq!(parse(&screen(&bundle))["size"], json!([33, 123]));
}

#[test]
fn the_console_size_is_ignored_without_a_terminal() {
    let mut bundle = Bundle::with([("/process/consoleSize", json!({ "height": 33, "width": 123 }))]);
    assert_eq!(bundle.see()["terminal"]["streams"], json!([false, false, false]));
}

#[test]
fn what_is_typed_reaches_the_program() {
    let bundle = bundle(&["/bin/sh", "-c", "read line; echo \"got $line\""]);
    let (pid, mut terminal) = start(&bundle);
    terminal.write_all(b"typed\n").expect("type");
    let mut screen = Stream::new(terminal.into());
    assert_eq!(screen.rest(), "typed\r\ngot typed\r\n");
    bundle.wait(pid);
    bundle.delete();
}

#[test]
fn a_terminal_works_for_a_user_too() {
    let mut bundle = bundle(&["/bin/sh", "-c", "echo said > /dev/console; tty"]);
    bundle.set("/process/user", json!({ "uid": 1234, "gid": 4321 }));
    assert_eq!(screen(&bundle), "said\r\n/dev/pts/0\r\n");
}

#[test]
fn a_terminal_that_nobody_takes_is_an_error() {
    let bundle = bundle(&["/bin/true"]);
    fails(&bundle.try_create(&["--console-socket", "/no/such/socket"]));
}
