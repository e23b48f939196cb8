//! `cargo xtask`: the chores of this repository, each one verb.
//!
//! A verb is a module with a `run` function and one line in [`VERBS`]; the help comes from that table. Verbs call
//! the ordinary tools (cargo, apt-get, qemu) and report a missing one in a single line. Nothing here knows the
//! internals of the crates: it sees manifests, binaries and exit codes.

use std::process::ExitCode;

mod arrows;
mod bench;
mod build;
mod check;
mod ci;
mod command;
mod conformance;
mod ebpf;
mod setup;
mod target;
mod test;
mod vm;
mod workspace;

/// One verb of `cargo xtask`.
struct Verb {
    name: &'static str,
    arguments: &'static str,
    help: &'static str,
    run: fn(&[String]) -> anyhow::Result<()>,
}

#[rustfmt::skip] // one verb, one line
const VERBS: &[Verb] = &[
    Verb { name: "build", arguments: "", help: build::HELP, run: build::run },
    Verb { name: "check", arguments: "", help: check::HELP, run: check::run },
    Verb { name: "ebpf", arguments: ebpf::ARGUMENTS, help: ebpf::HELP, run: ebpf::run },
    Verb { name: "test", arguments: test::ARGUMENTS, help: test::HELP, run: test::run },
    Verb { name: "setup", arguments: setup::ARGUMENTS, help: setup::HELP, run: setup::run },
    Verb { name: "bench", arguments: bench::ARGUMENTS, help: bench::HELP, run: bench::run },
    Verb { name: "vm", arguments: vm::ARGUMENTS, help: vm::HELP, run: vm::run },
    Verb { name: "ci", arguments: "", help: ci::HELP, run: ci::run },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(name) = arguments.first() else {
        eprint!("{}", help());
        return ExitCode::from(2);
    };
    if ["help", "-h", "--help"].contains(&name.as_str()) {
        print!("{}", help());
        return ExitCode::SUCCESS;
    }
    let Some(verb) = VERBS.iter().find(|verb| verb.name == name) else {
        eprintln!("xtask: no verb {name:?}: see 'cargo xtask help'");
        return ExitCode::from(2);
    };
    if arguments[1..].iter().take_while(|a| *a != "--").any(|a| a == "-h" || a == "--help") {
        print!("{}", usage(verb));
        return ExitCode::SUCCESS;
    }
    match (verb.run)(&arguments[1..]) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn help() -> String {
    let mut text = String::from("usage: cargo xtask VERB [ARGUMENTS]\n\n");
    for verb in VERBS {
        text += &usage(verb);
    }
    text
}

fn usage(verb: &Verb) -> String {
    let head = format!("{} {}", verb.name, verb.arguments);
    let body: String = verb.help.lines().map(|line| format!("      {}\n", line.trim_start())).collect();
    format!("  {}\n{body}", head.trim_end())
}
