//! Signals on their way in, exit codes on their way out, time limits.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::Case;

#[test]
fn exit_codes_are_the_programs() {
    let case = Case::new();
    for code in [0, 1, 42, 125, 255] {
        assert_eq!(case.run(&[], &["probe", "exit", &code.to_string()]).code, code);
    }
}

#[test]
fn a_signal_becomes_128_and_its_number() {
    let case = Case::new();
    // Process 1 cannot kill itself by a signal without a handler, so this is an ordinary process in the host's namespace.
    for (name, number) in [("KILL", 9), ("TERM", 15), ("SEGV", 11)] {
        assert_eq!(case.run(&["--pid=host"], &["probe", "die", name]).code, 128 + number, "{name}");
    }
}

#[test]
fn signals_to_skiff_reach_the_program() {
    let case = Case::new();
    let mut live = case.waiting(&[]);
    for signal in
        [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGWINCH]
    {
        live.signal(signal);
        assert_eq!(live.line(), signal.as_str());
    }
    live.signal(Signal::SIGTERM);
    let output = live.finish();
    assert!(output.ok().ends_with("SIGTERM\n"));
}

#[test]
fn init_passes_signals_on() {
    let case = Case::new();
    let mut live = case.waiting(&["--init"]);
    live.signal(Signal::SIGUSR1);
    assert_eq!(live.line(), "SIGUSR1");
    live.signal(Signal::SIGTERM);
    live.finish().ok();
}

#[test]
fn sig_proxy_false_keeps_signals_from_the_program() {
    let case = Case::new();
    let live = case.waiting(&["--sig-proxy=false"]);
    live.signal(Signal::SIGTERM);
    let output = live.finish();
    assert!(!output.stdout.contains("SIGTERM"), "{output}");
    assert_ne!(output.code, 0, "{output}");
}

#[test]
fn a_program_that_ignores_sigterm_is_killed_at_the_time_limit() {
    let case = Case::new();
    let start = Instant::now();
    // Only KILL ends this one.
    let output = case.run(&["--timeout", "1", "--stop-timeout", "1"], &["probe", "trap", "USR1"]);
    assert_eq!(output.code, 137, "{output}");
    assert!(start.elapsed() >= Duration::from_secs(1), "{output}");
}

#[test]
fn the_time_limit_leaves_quick_programs_alone() {
    let case = Case::new();
    assert_eq!(case.run(&["--timeout", "30"], &["echo", "quick"]).ok(), "quick\n");
    case.run(&["--timeout", "soon"], &["true"]).fails(125, "soon");
}

#[test]
fn the_stop_signal_is_sent_at_the_time_limit() {
    let case = Case::new();
    let flags = ["--timeout", "1", "--stop-signal", "USR1", "--stop-timeout", "30"];
    let output = case.run(&flags, &["probe", "trap", "USR1"]);
    assert!(output.stdout.ends_with("SIGUSR1\n"), "{output}");
    case.run(&["--stop-signal", "SIGFLY"], &["true"]).fails(125, "SIGFLY");
}

#[test]
fn inherited_masks_and_dispositions_are_reset() {
    let case = Case::new();
    let settings = ["ignore=INT", "ignore=PIPE", "block=USR1", "block=TERM", "umask=077"];
    let seen = crate::harness::parse(&case.command(&[], &["probe", "see"]).with(&settings).output().ok());
    // The C library keeps signals 32 and 33 to itself, and leaves them ignored in what posix_spawn starts.
    let internal = 0x1_8000_0000;
    for set in ["SigBlk", "SigIgn", "SigCgt", "SigPnd"] {
        let mask = seen["status"][set].as_str().and_then(|mask| u64::from_str_radix(mask, 16).ok());
        assert_eq!(mask.map(|mask| mask & !internal), Some(0), "{set}");
    }
    assert_eq!(seen["ids"]["umask"], "0022");
}

#[test]
fn output_after_the_first_process_has_ended_is_not_waited_for() {
    let case = Case::new();
    let start = Instant::now();
    // The background process holds standard output; it must die with process 1, not keep skiff waiting.
    assert_eq!(case.run(&[], &["sh", "-c", "sleep 300 & echo done"]).ok(), "done\n");
    assert!(start.elapsed() < Duration::from_secs(30));
}

#[test]
fn large_output_arrives_whole() {
    let case = Case::new();
    let out = case.run(&[], &["sh", "-c", "head -c 20000000 /dev/zero | tr '\\0' x"]).ok();
    assert_eq!(out.len(), 20_000_000);
}

#[test]
fn a_closed_standard_output_ends_the_program_not_skiff() {
    let case = Case::new();
    // With an init, so that the program is not process 1, which SIGPIPE does not end.
    let command = case.command(&["--init"], &["yes"]);
    let output = command.through(&["sh", "-c", "\"$@\" | head -1", "sh"]).output();
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("y\n", ""), "{output}");
}
