//! What a container looks like from inside: a static program that the black-box tests run as the container's command.
//!
//! `probe see` prints everything it can see as one JSON object; the other verbs each do one thing and say in plain
//! lines how it went. `probe with … -- CMD` runs on the host and starts CMD in a spoilt environment.
//!
//! There is no Rust runtime start-up (`no_main`): it would ignore SIGPIPE, install handlers and so change the very
//! things that tests look at.

#![no_main]

mod attempt;
mod calls;
mod hook;
mod load;
mod out;
mod see;
mod signals;
mod traffic;
mod weigh;
mod wire;
mod with;

use std::ffi::{CStr, c_char, c_int};
use std::sync::OnceLock;

const VERBS: &str = "see | exit N | die SIGNAL | wait | hold | trap [SIGNAL…] | term | winch | orphan | try OP ARG… | eat MIB | \
                     eat-child MIB | forks N | threads N | burn MS | weigh MS [zeros] | fill PATH MIB | use FILE [rFIRST+COUNT|mPAGE]… [forget] | calls N M P B [fork|threads K] | \
                     packets N SIZE | connections N REFUSED | direct PATH WRITES READS SIZE | peer | wire PEER datagrams N SIZE | \
                     wire PEER (connect | accept) N ROUNDS SIZE | wire PEER wait ROUNDS SIZE | \
                     hunt SIZE | tell SOCKET | say MESSAGE… | say-lingering MESSAGE | lock FILE | hook FILE NAME [exit N | sleep SECONDS] | with SETTING… -- CMD";

/// What the C library has called [`main`] with. Without Rust's start-up, `std::env::args` knows them with some C libraries only.
static ARGUMENTS: OnceLock<Vec<String>> = OnceLock::new();

/// The program's name and arguments.
fn arguments() -> &'static [String] {
    ARGUMENTS.get().map_or(&[], Vec::as_slice)
}

/// Entry point called by the C library.
///
/// # Safety
///
/// `argv` are as many pointers as `argc` says, to texts that end with a zero and stay.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    // SAFETY: as promised.
    let given = unsafe { std::slice::from_raw_parts(argv, usize::try_from(argc).unwrap_or(0)) };
    // SAFETY: as promised.
    let given =
        given.iter().map(|text| unsafe { CStr::from_ptr(*text) }.to_string_lossy().into_owned()).collect();
    let words = ARGUMENTS.get_or_init(|| given);
    let words: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
    match run(&words) {
        Ok(code) => code,
        Err(error) => {
            out::line_to(2, &format!("probe: {error}"));
            99
        }
    }
}

fn run(words: &[&str]) -> Result<c_int, String> {
    match words {
        ["see"] => see::print(),
        ["exit", code] => return number(code),
        ["die", signal] => return signals::die(signal),
        ["wait"] => return signals::wait(),
        ["hold"] => return signals::hold(),
        ["trap", last @ ..] => return signals::trap(last),
        ["term"] => out::line(&see::terminal().to_string()),
        ["winch"] => return signals::winch(),
        ["orphan"] => return signals::orphan(),
        ["try", op @ ..] => attempt::all(op)?,
        ["eat", mib] => load::eat(number(mib)?),
        ["eat-child", mib] => load::eat_in_child(number(mib)?)?,
        ["forks", count] => load::forks(number(count)?),
        ["threads", count] => load::threads(number(count)?),
        ["burn", wall_ms] => load::burn(number(wall_ms)?)?,
        ["weigh", cpu_ms] => weigh::functions(number(cpu_ms)?)?,
        ["weigh", cpu_ms, "zeros"] => weigh::zeros(number(cpu_ms)?)?,
        ["fill", path, mib] => load::fill(path, number(mib)?),
        ["use", path, pages @ ..] => load::touch(path, pages)?,
        ["packets", count, size] => traffic::packets(number(count)?, number(size)?)?,
        ["connections", count, refused] => traffic::connections(number(count)?, number(refused)?)?,
        ["direct", path, writes, reads, size] => {
            traffic::direct(path, number(writes)?, number(reads)?, number(size)?)?;
        }
        ["peer"] => wire::peer()?,
        ["wire", peer, "datagrams", count, size] => wire::datagrams(peer, number(count)?, number(size)?)?,
        ["wire", peer, "connect", count, rounds, size] => {
            wire::connect(peer, number(count)?, number(rounds)?, number(size)?)?;
        }
        ["wire", peer, "accept", count, rounds, size] => {
            wire::accept(peer, number(count)?, number(rounds)?, number(size)?)?;
        }
        ["wire", peer, "wait", rounds, size] => {
            wire::connect_then_wait(peer, number(rounds)?, number(size)?)?
        }
        ["calls", amounts @ ..] => calls::run(amounts)?,
        ["hook", file, name, rest @ ..] => return hook::run(file, name, rest),
        ["lock", file] => load::lock(file)?,
        ["tell", socket] => load::tell(socket)?,
        ["say-lingering", message] => load::say_lingering(message)?,
        ["say", messages @ ..] => return load::say(messages),
        ["hunt", size] => attempt::hunt(number(size)?),
        ["with", settings @ ..] => return with::exec(settings),
        _ => return Err(format!("usage: probe {VERBS}")),
    }
    Ok(0)
}

fn number<T: std::str::FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("not a number: {word}"))
}
