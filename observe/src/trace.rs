//! A system call as a line for people, or as an object for programs.
//!
//! Names, paths and addresses are the container's own bytes: nothing of them reaches a terminal but letters, digits and plain
//! signs.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};
use skiff_ebpf::trace::arguments::Kind;
use skiff_ebpf::trace::{Copied, Entry, Event};
use skiff_sys::errno;

const AT_FDCWD: i32 = -100;
const CREATES: u64 = 0o100 | 0o20_000_000;

/// Bits of open(2)'s flags that are not the access mode, on x86-64; those of several bits first.
const OPEN_FLAGS: [(u64, &str); 17] = [
    (0o20_200_000, "O_TMPFILE"),
    (0o4_010_000, "O_SYNC"),
    (0o100, "O_CREAT"),
    (0o200, "O_EXCL"),
    (0o400, "O_NOCTTY"),
    (0o1000, "O_TRUNC"),
    (0o2000, "O_APPEND"),
    (0o4000, "O_NONBLOCK"),
    (0o10_000, "O_DSYNC"),
    (0o20_000, "O_ASYNC"),
    (0o40_000, "O_DIRECT"),
    (0o100_000, "O_LARGEFILE"),
    (0o200_000, "O_DIRECTORY"),
    (0o400_000, "O_NOFOLLOW"),
    (0o1_000_000, "O_NOATIME"),
    (0o2_000_000, "O_CLOEXEC"),
    (0o10_000_000, "O_PATH"),
];

/// Signals 1 to 31 of x86-64.
#[rustfmt::skip] // a table
const SIGNALS: [&str; 31] = [
    "SIGHUP", "SIGINT", "SIGQUIT", "SIGILL", "SIGTRAP", "SIGABRT", "SIGBUS", "SIGFPE", "SIGKILL", "SIGUSR1", "SIGSEGV",
    "SIGUSR2", "SIGPIPE", "SIGALRM", "SIGTERM", "SIGSTKFLT", "SIGCHLD", "SIGCONT", "SIGSTOP", "SIGTSTP", "SIGTTIN",
    "SIGTTOU", "SIGURG", "SIGXCPU", "SIGXFSZ", "SIGVTALRM", "SIGPROF", "SIGWINCH", "SIGIO", "SIGPWR", "SIGSYS",
];

/// Calls that return an address.
const ADDRESSES: [&str; 5] = ["mmap", "mmap2", "mremap", "brk", "shmat"];

/// `09:17:33.123456 4711 nginx openat(AT_FDCWD, "/etc/passwd", O_RDONLY) = 3 <12.3µs>`, with a line feed.
///
/// `epoch_ns` is what CLOCK_MONOTONIC has to be given to be ns since 1970. The time is that of the entry, in UTC.
#[must_use]
pub fn line(event: &Event<'_>, epoch_ns: u64) -> String {
    let since_ns = began_ns(event).wrapping_add(epoch_ns);
    let (seconds, micros) = (since_ns / 1_000_000_000 % 86_400, since_ns / 1_000 % 1_000_000);
    let mut text = format!(
        "{:02}:{:02}:{:02}.{micros:06} {} {} {}(",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        event.tid,
        escaped(event.comm.as_bytes(), ""),
        name(event),
    );
    for (nth, shown) in shown(event).into_iter().enumerate() {
        let comma = if nth == 0 { "" } else { ", " };
        match shown {
            Shown::Number(value) => text.push_str(&format!("{comma}{value}")),
            Shown::Word(word) => text.push_str(&format!("{comma}{word}")),
            Shown::Text(copied) => {
                let more = if copied.cut { "…" } else { "" };
                text.push_str(&format!("{comma}\"{}\"{more}", escaped(copied.bytes, "\"")));
            }
        }
    }
    text.push_str(") = ");
    match (event.result, event.errno()) {
        (None, _) => text.push('?'),
        (Some(_), Some(number)) => match errno::name(number) {
            Some(name) => text.push_str(&format!("-1 {name}")),
            None => text.push_str(&format!("-{number}")),
        },
        (Some(result), None) if ADDRESSES.contains(&event.name().unwrap_or("")) => {
            text.push_str(&format!("{:#x}", result.cast_unsigned()));
        }
        (Some(result), None) => text.push_str(&format!("{result}")),
    }
    match event.entry {
        Entry::At(_) => text.push_str(&format!(" <{}>", duration(event.duration_ns().unwrap_or(0)))),
        Entry::Unseen => text.push_str(" <begun before>"),
        Entry::Refused => text.push_str(" <refused by the filter>"),
    }
    text.push('\n');
    text
}

/// The same as an object: `docs/trace.md` has its fields.
#[must_use]
pub fn object(event: &Event<'_>, epoch_ns: u64) -> Value {
    let arguments: Vec<Value> = shown(event)
        .into_iter()
        .map(|shown| match shown {
            Shown::Number(value) => json!(value),
            Shown::Word(word) => json!(word),
            Shown::Text(copied) if copied.cut => {
                json!({"text": String::from_utf8_lossy(copied.bytes), "cut": true})
            }
            Shown::Text(copied) => json!({"text": String::from_utf8_lossy(copied.bytes)}),
        })
        .collect();
    json!({
        "time_ns": began_ns(event).wrapping_add(epoch_ns),
        "pid": event.pid,
        "tid": event.tid,
        "comm": event.comm,
        "call": name(event),
        "number": event.number,
        "abi": if event.compat { "compat" } else { "native" },
        "arguments": arguments,
        "result": event.result,
        "error": event.errno().map(|number| errno::name(number).map_or_else(|| number.to_string(), str::to_owned)),
        "duration_ns": event.duration_ns(),
        "entry": match event.entry {
            Entry::At(_) => "seen",
            Entry::Unseen => "unseen",
            Entry::Refused => "refused",
        },
    })
}

/// JSON that is the same to programs and cannot steer a terminal: of others' text it holds no control characters, which
/// JSON allows from U+007F on, and none that change the direction of writing.
#[must_use]
pub fn plain_json(json: String) -> String {
    if !json.contains(steers) {
        return json;
    }
    let mut plain = String::with_capacity(json.len() + 16);
    for letter in json.chars() {
        // Outside of strings JSON has none of them.
        if steers(letter) {
            plain.push_str(&format!("\\u{:04x}", u32::from(letter)))
        } else {
            plain.push(letter)
        }
    }
    plain
}

/// Each has four digits. Line feeds are between JSON's own words only.
const fn steers(letter: char) -> bool {
    matches!(letter, '\u{7f}'..='\u{9f}' | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// An argument as it is shown.
enum Shown<'a> {
    Number(i64),
    Word(String),
    Text(Copied<'a>),
}

fn shown<'a>(event: &Event<'a>) -> Vec<Shown<'a>> {
    let mut creates = true;
    let mut all = Vec::new();
    for (kind, value, copied) in event.arguments() {
        // Numbers have 32 bits where the calls take an int.
        #[expect(clippy::cast_possible_truncation, reason = "an int is in the lower half of its register")]
        let int = (value as u32).cast_signed();
        all.push(match kind {
            Kind::Path | Kind::Text => copied.map_or_else(|| Shown::Word(pointer(value)), Shown::Text),
            Kind::Address => {
                Shown::Word(copied.map_or_else(|| pointer(value), |copied| address(copied.bytes)))
            }
            Kind::Directory if int == AT_FDCWD => Shown::Word("AT_FDCWD".to_owned()),
            Kind::Directory | Kind::Descriptor | Kind::Signed => Shown::Number(int.into()),
            Kind::Unsigned => {
                value.try_into().map_or_else(|_| Shown::Word(format!("{value:#x}")), Shown::Number)
            }
            Kind::Open => {
                creates = value & CREATES != 0;
                Shown::Word(open_flags(value))
            }
            // Nobody looks at it where nothing is created.
            Kind::Mode if !creates => continue,
            Kind::Mode => Shown::Word(format!("{:#o}", value & 0o177_777)),
            Kind::Signal => Shown::Word(signal(int)),
            Kind::Pointer => Shown::Word(pointer(value)),
            Kind::Flags | Kind::Word => {
                Shown::Word(if value == 0 { "0".to_owned() } else { format!("{value:#x}") })
            }
        });
    }
    all
}

fn began_ns(event: &Event<'_>) -> u64 {
    match event.entry {
        Entry::At(entered_ns) => entered_ns,
        _ => event.left_ns,
    }
}

fn name(event: &Event<'_>) -> String {
    event.name().map_or_else(|| format!("syscall_{}", event.number), str::to_owned)
}

fn pointer(value: u64) -> String {
    if value == 0 { "NULL".to_owned() } else { format!("{value:#x}") }
}

fn signal(number: i32) -> String {
    let name = usize::try_from(number).ok().and_then(|number| SIGNALS.get(number.checked_sub(1)?));
    name.map_or_else(|| number.to_string(), |name| (*name).to_owned())
}

fn open_flags(value: u64) -> String {
    let mut text = match value & 3 {
        0 => "O_RDONLY",
        1 => "O_WRONLY",
        2 => "O_RDWR",
        _ => "O_ACCMODE",
    }
    .to_owned();
    let mut rest = value & !3;
    for (bits, name) in OPEN_FLAGS {
        if rest & bits == bits {
            text = format!("{text}|{name}");
            rest &= !bits;
        }
    }
    if rest != 0 {
        text = format!("{text}|{rest:#x}");
    }
    text
}

/// What `struct sockaddr` says.
fn address(bytes: &[u8]) -> String {
    let half = |at: usize| Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
    let family = bytes.first_chunk().map(|first| u16::from_ne_bytes(*first));
    let known = || match family? {
        1 => {
            let path = bytes.get(2..)?;
            // An abstract name begins with a NUL.
            Some(match path.split_first() {
                None => "unix:".to_owned(),
                Some((0, name)) => format!("unix:@{}", escaped(name, "")),
                Some(_) => format!("unix:{}", escaped(path.split(|byte| *byte == 0).next()?, "")),
            })
        }
        2 => Some(format!("{}:{}", Ipv4Addr::from(*bytes.get(4..)?.first_chunk::<4>()?), half(2)?)),
        10 => Some(format!("[{}]:{}", Ipv6Addr::from(*bytes.get(8..)?.first_chunk::<16>()?), half(2)?)),
        16 => Some(format!("netlink:{}", u32::from_ne_bytes(*bytes.get(4..)?.first_chunk()?))),
        _ => None,
    };
    known().unwrap_or_else(|| match family {
        Some(family) => format!("family:{family}"),
        None => "none".to_owned(),
    })
}

/// Text of others' making: what is neither a letter nor a digit nor a plain sign is told by its number.
fn escaped(bytes: &[u8], quotes: &str) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter {
                '\\' => text.push_str("\\\\"),
                _ if quotes.contains(letter) => text.push_str(&format!("\\{letter}")),
                ' '..='~' => text.push(letter),
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                _ if letter.is_alphanumeric() => text.push(letter),
                _ => text.push_str(&format!("{}", letter.escape_unicode())),
            }
        }
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
    }
    text
}

fn duration(ns: u64) -> String {
    let (value, unit) = match ns {
        0..1_000_000 => (ns as f64 / 1e3, "µs"),
        1_000_000..1_000_000_000 => (ns as f64 / 1e6, "ms"),
        _ => (ns as f64 / 1e9, "s"),
    };
    format!("{value:.1}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An event as the programs write it.
    fn event(
        number: u32,
        arguments: [u64; 6],
        result: i64,
        flags: u32,
        comm: &[u8],
        text: &[&[u8]],
    ) -> Vec<u8> {
        let mut bytes: Vec<u8> = [1_000, 13_345, result.cast_unsigned()].map(u64::to_ne_bytes).concat();
        bytes.extend(arguments.iter().chain(&[0, 0]).flat_map(|word| word.to_ne_bytes()));
        bytes.extend([number, flags, 8, 7].map(u32::to_ne_bytes).concat());
        let mut name = [0; 16];
        name[..comm.len()].copy_from_slice(comm);
        bytes.extend(name);
        for nth in 0..2 {
            let length = text.get(nth).map_or(0, |text| text.len());
            bytes.extend(u32::try_from(length).expect("short").to_ne_bytes());
        }
        for (nth, text) in text.iter().enumerate() {
            bytes.resize(128 + nth * 256, 0);
            bytes.extend(*text);
        }
        bytes
    }

    #[track_caller]
    fn check(bytes: &[u8], expected: &str) {
        let event = Event::parse(bytes).expect("whole");
        let epoch_ns = (9 * 3600 + 17 * 60 + 33) * 1_000_000_000 + 123_455_000;
        assert_eq!(line(&event, epoch_ns), format!("09:17:33.123456 8 {expected}\n"));
    }

    const HERE: u64 = 0xffff_ff9c;

    #[test]
    fn calls_become_lines() {
        let flags = 0o2_000_000;
        check(
            &event(257, [HERE, 0xf00, flags, 0o644, 0, 0], 3, 0, b"sh", &[b"/etc/x\0"]),
            "sh openat(AT_FDCWD, \"/etc/x\", O_RDONLY|O_CLOEXEC) = 3 <12.3µs>",
        );
        check(
            &event(257, [3, 0xf00, 0o1101, 0o644, 0, 0], -2, 0, b"sh", &[b"x\0"]),
            "sh openat(3, \"x\", O_WRONLY|O_CREAT|O_TRUNC, 0o644) = -1 ENOENT <12.3µs>",
        );
        check(
            &event(82, [1, 2, 0, 0, 0, 0], 0, 0, b"mv", &[b"a\0", b"b\0"]),
            "mv rename(\"a\", \"b\") = 0 <12.3µs>",
        );
        check(&event(82, [1, 2, 0, 0, 0, 0], -14, 0, b"mv", &[]), "mv rename(0x1, 0x2) = -1 EFAULT <12.3µs>");
        check(&event(231, [0; 6], 0, 8, b"sh", &[]), "sh exit_group(0) = ? <12.3µs>");
        check(&event(62, [7, 15, 0, 0, 0, 0], 0, 0, b"sh", &[]), "sh kill(7, SIGTERM) = 0 <12.3µs>");
        check(&event(12, [0; 6], 0x5000, 0, b"sh", &[]), "sh brk(NULL) = 0x5000 <12.3µs>");
        check(
            &event(500, [1, 0, 0, 0, 0, 0], -38, 0, b"sh", &[]),
            "sh syscall_500(0x1, 0, 0, 0, 0, 0) = -1 ENOSYS <12.3µs>",
        );
        check(&event(20, [3, 0, 0, 0, 0, 0], -9, 1, b"sh", &[]), "sh getpid() = -1 EBADF <12.3µs>");
    }

    #[test]
    fn calls_without_entry_say_so() {
        let refused = event(39, [0; 6], -1, 2, b"sh", &[]);
        let line = line(&Event::parse(&refused).expect("whole"), 0);
        assert!(line.ends_with("getpid() = -1 EPERM <refused by the filter>\n"), "{line}");
        let seen = object(&Event::parse(&event(39, [0; 6], 7, 4, b"sh", &[])).expect("whole"), 0);
        assert_eq!((&seen["entry"], &seen["duration_ns"]), (&json!("unseen"), &Value::Null));
    }

    #[test]
    fn addresses_are_told() {
        let connect =
            |address: &[u8]| event(42, [3, 0xf00, address.len() as u64, 0, 0, 0], 0, 0, b"c", &[address]);
        let of = |address: &[u8], length: usize| {
            check(
                &connect(address),
                &format!("c connect(3, {}, {length}) = 0 <12.3µs>", super::address(address)),
            );
            super::address(address)
        };
        assert_eq!(of(b"\x02\0\0\x50\x7f\0\0\x01\0\0\0\0\0\0\0\0", 16), "127.0.0.1:80");
        assert_eq!(of(b"\x01\0/run/x\0", 9), "unix:/run/x");
        assert_eq!(of(b"\x01\0\0x\n", 5), "unix:@x\\n");
        assert_eq!(of(b"\x10\0\0\0\x07\0\0\0\0\0\0\0", 12), "netlink:7");
        assert_eq!(of(b"\x0a\0\0\x50\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0", 28), "[::1]:80");
        assert_eq!(of(b"\x02\0\0", 3), "family:2");
        assert_eq!(of(b"\x02", 1), "none");
    }

    #[test]
    fn nothing_of_the_container_reaches_a_terminal_as_it_is() {
        let hostile = "\x1b[2J\u{202e}\u{9b}\"\\\n\u{7f}é\0".as_bytes();
        check(
            &event(80, [1, 0, 0, 0, 0, 0], 0, 0, b"a\x1b]0;x\x07\xff", &[hostile]),
            "a\\u{1b}]0;x\\u{7}\\u{fffd} chdir(\"\\u{1b}[2J\\u{202e}\\u{9b}\\\"\\\\\\n\\u{7f}é\") = 0 <12.3µs>",
        );
        check(&event(80, [1, 0, 0, 0, 0, 0], 0, 0, b"a", &[b"\xff\0"]), "a chdir(\"\\xff\") = 0 <12.3µs>");
    }

    #[test]
    fn json_does_not_steer_a_terminal_either() {
        let text = "a\u{1b}\u{7f}\u{80}\u{9b}\u{61c}\u{200f}\u{202e}\u{2069}é\u{a0}€";
        let json = plain_json(json!({ "x": text }).to_string());
        assert_eq!(json, "{\"x\":\"a\\u001b\\u007f\\u0080\\u009b\\u061c\\u200f\\u202e\\u2069é\u{a0}€\"}");
        assert_eq!(serde_json::from_str::<Value>(&json).expect("JSON"), json!({ "x": text }));
    }

    #[test]
    fn what_is_cut_is_said_to_be() {
        let long = [&[b'a'; 255][..], b"\0"].concat();
        let bytes = event(80, [1, 0, 0, 0, 0, 0], 0, 0, b"a", &[&long]);
        let event = Event::parse(&bytes).expect("whole");
        assert!(line(&event, 0).contains("a\"…)"));
        assert_eq!(object(&event, 0)["arguments"][0]["cut"], true);
    }
}
