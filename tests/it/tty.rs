//! `-t`: a terminal inside, joined to the person's terminal outside.

use nix::sys::signal::Signal;

use crate::harness::pty::Terminal;
use crate::harness::{Case, parse};

#[test]
fn a_terminal_is_all_three_streams_and_has_the_outer_size() {
    let case = Case::new();
    let terminal = Terminal::start(&case.command(&["-it"], &["probe", "term"]), 33, 123);
    let (code, screen) = terminal.finish();
    let seen = parse(screen.trim());
    assert_eq!(code, 0);
    assert_eq!(seen["streams"], serde_json::json!([true, true, true]));
    assert_eq!(seen["size"], serde_json::json!([33, 123]));
    assert_eq!(seen["name"], "/dev/pts/0");
}

#[test]
fn the_terminal_is_the_console_and_controls_the_session() {
    let case = Case::new();
    let script =
        "echo typed > /dev/tty && ls -l /dev/console | cut -c1 && echo $TERM && echo c > /dev/console";
    let (code, screen) =
        Terminal::start(&case.command(&["-i", "-t"], &["sh", "-c", script]), 24, 80).finish();
    assert_eq!((code, screen.as_str()), (0, "typed\r\nc\r\nxterm\r\nc\r\n"));
}

#[test]
fn the_size_follows_the_window() {
    let case = Case::new();
    let mut terminal = Terminal::start(&case.command(&["-it"], &["probe", "winch"]), 24, 80);
    terminal.expect("Some((24, 80))");
    terminal.resize(50, 132);
    terminal.expect("Some((50, 132))");
    terminal.resize(10, 20);
    terminal.expect("Some((10, 20))");
    terminal.signal(Signal::SIGTERM);
    assert_eq!(terminal.finish().0, 0);
}

#[test]
fn keys_go_to_the_inner_terminal_raw() {
    let case = Case::new();
    let mut terminal =
        Terminal::start(&case.command(&["-it", "--sig-proxy=false"], &["probe", "trap", "QUIT"]), 24, 80);
    terminal.expect("ready");
    assert!(terminal.is_raw());
    terminal.send(b"\x03");
    terminal.expect("SIGINT");
    terminal.send(b"\x1c");
    terminal.expect("SIGQUIT");
    assert_eq!(terminal.finish().0, 0);
}

#[test]
fn a_shell_can_be_talked_to() {
    let case = Case::new();
    let mut terminal = Terminal::start(&case.command(&["-it", "-e", "PS1=> "], &["sh"]), 24, 80);
    terminal.expect("> ");
    terminal.send(b"expr 6 \\* 7\r");
    terminal.expect("\n42\r\n");
    terminal.send(b"exit 5\r");
    assert_eq!(terminal.finish().0, 5);
}

#[test]
fn the_outer_terminal_is_as_before_afterwards() {
    let case = Case::new();
    let mut terminal = Terminal::start(&case.command(&["-it"], &["probe", "trap", "INT"]), 24, 80);
    terminal.expect("ready");
    assert!(terminal.is_raw());
    terminal.send(b"\x03");
    terminal.expect("SIGINT");
    assert_eq!(terminal.wait(), 0);
    assert!(!terminal.is_raw());
}

#[test]
fn a_terminal_needs_one_outside_only_for_input() {
    let case = Case::new();
    // As docker: -t alone works without a terminal, -it wants standard input to be one.
    assert_eq!(case.run(&["-t"], &["echo", "hi"]).ok(), "hi\r\n");
    case.run(&["-it"], &["true"]).fails(125, "terminal");
}

#[test]
fn a_lost_terminal_ends_nothing_badly() {
    let case = Case::new();
    let mut terminal = Terminal::start(&case.command(&["-it"], &["probe", "trap", "HUP"]), 24, 80);
    terminal.expect("ready");
    terminal.signal(Signal::SIGHUP);
    terminal.expect("SIGHUP");
    assert_eq!(terminal.finish().0, 0);
}

#[test]
fn without_t_no_stream_is_a_terminal() {
    let case = Case::new();
    let (code, screen) = Terminal::start(&case.command(&["-i"], &["probe", "see"]), 24, 80).finish();
    let seen = parse(screen.trim());
    assert_eq!(code, 0);
    assert!(seen["dev"]["/dev/console"].is_null());
    assert!(seen["env"]["TERM"].is_null());
}
