//! One call, as the programs have written it: half of the bytes are the container's own.

use std::borrow::Cow;

use skiff_ebpf_abi::trace::{COPIES, HEADER, TEXT, flag};
use skiff_sys::syscalls;

use super::arguments::{self, Kind};

/// A system call that has returned, or whose task has died in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<'a> {
    /// How it was entered.
    pub entry: Entry,
    /// When it returned, or its task died; ns of CLOCK_MONOTONIC.
    pub left_ns: u64,
    /// What it returned; `None` if its task died in it.
    pub result: Option<i64>,
    /// Its number.
    pub number: u32,
    /// Whether it was made by the 32-bit table.
    pub compat: bool,
    /// The thread, as the host numbers it.
    pub tid: u32,
    /// Its process.
    pub pid: u32,
    /// The thread's name, which is of its own choice.
    pub comm: Cow<'a, str>,
    arguments: [u64; 6],
    copies: [Option<Copied<'a>>; COPIES],
}

/// How a call was entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// At this time, ns of CLOCK_MONOTONIC.
    At(u64),
    /// Before it was traced; or a seccomp filter has answered the task's first call.
    Unseen,
    /// Not at all: a seccomp filter has answered.
    Refused,
}

/// A copy of what an argument points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied<'a> {
    /// The bytes, without a string's NUL.
    pub bytes: &'a [u8],
    /// Whether there is more.
    pub cut: bool,
}

impl<'a> Event<'a> {
    /// Reads what the programs have written; `None` if it can't be theirs.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let word = |at: usize| Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
        let half = |at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
        let (entered_ns, left_ns, result) = (word(0)?, word(8)?, word(16)?);
        let mut arguments = [0; 6];
        for (nth, argument) in arguments.iter_mut().enumerate() {
            *argument = word(24 + nth * 8)?;
        }
        let [number, flags, tid, pid] = [half(88)?, half(92)?, half(96)?, half(100)?];
        let comm = bytes.get(104..120)?.split(|byte| *byte == 0).next()?;
        let lengths = [half(120)?, half(124)?];
        let mut event = Self {
            entry: match flags {
                _ if flags & flag::REFUSED != 0 => Entry::Refused,
                _ if flags & flag::RESUMED != 0 => Entry::Unseen,
                _ => Entry::At(entered_ns),
            },
            left_ns,
            result: (flags & flag::DIED == 0).then_some(result.cast_signed()),
            number,
            compat: flags & flag::COMPAT != 0,
            tid,
            pid,
            comm: String::from_utf8_lossy(comm),
            arguments,
            copies: [None; COPIES],
        };
        let kinds = event.kinds();
        let copied = kinds.iter().filter(|kind| kind.is_copied());
        for (nth, kind) in (0..COPIES).zip(copied) {
            let from = HEADER + nth * TEXT;
            let length = lengths[nth] as usize;
            if (1..=TEXT).contains(&length) {
                event.copies[nth] = Some(copy(bytes.get(from..from + length)?, *kind));
            }
        }
        Some(event)
    }

    /// The call's name, `None` if it has none here.
    #[must_use]
    pub fn name(&self) -> Option<&'static str> {
        if self.compat { syscalls::name_i386(self.number) } else { syscalls::name(self.number) }
    }

    /// How long it took, if both ends were seen.
    #[must_use]
    pub const fn duration_ns(&self) -> Option<u64> {
        match self.entry {
            Entry::At(entered_ns) => Some(self.left_ns.saturating_sub(entered_ns)),
            _ => None,
        }
    }

    /// The number of the error that it returned.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        let result = self.result.filter(|result| (-4095..0).contains(result))?;
        i32::try_from(-result).ok()
    }

    /// Its arguments, with what was copied of them; six words if the call is not known.
    pub fn arguments(&self) -> impl Iterator<Item = (Kind, u64, Option<Copied<'a>>)> + '_ {
        let mut copies = self.copies.iter();
        self.kinds().iter().zip(self.arguments).map(move |(kind, value)| {
            let copied = if kind.is_copied() { copies.next().copied().flatten() } else { None };
            (*kind, value, copied)
        })
    }

    fn kinds(&self) -> &'static [Kind] {
        self.name().and_then(arguments::of).unwrap_or(&[Kind::Word; 6])
    }
}

fn copy(bytes: &[u8], kind: Kind) -> Copied<'_> {
    if kind == Kind::Address {
        return Copied { bytes, cut: false };
    }
    match bytes.iter().position(|byte| *byte == 0) {
        // A string that fills its room has been ended by the kernel.
        Some(end) => Copied { bytes: &bytes[..end], cut: end + 1 == TEXT },
        None => Copied { bytes, cut: true },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `openat(AT_FDCWD, "/etc/x", 0) = -2` by hand.
    fn bytes(text: &[u8]) -> Vec<u8> {
        let words = [5, 9, u64::MAX - 1, u64::from(u32::MAX - 99), 0xf00, 0, 0, 0, 0, 0, 0];
        let halves = [257, 0, 8, 7];
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.extend(halves.iter().flat_map(|half: &u32| half.to_ne_bytes()));
        bytes.extend(b"sh\x1b[2J\0\0\0\0\0\0\0\0\0\0");
        bytes.extend(u32::try_from(text.len()).expect("short").to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        assert_eq!(bytes.len(), HEADER);
        bytes.extend(text);
        bytes
    }

    #[test]
    fn an_event_is_read() {
        let bytes = bytes(b"/etc/x\0");
        let event = Event::parse(&bytes).expect("whole");
        assert_eq!((event.name(), event.tid, event.pid), (Some("openat"), 8, 7));
        assert_eq!((event.duration_ns(), event.errno()), (Some(4), Some(2)));
        let arguments: Vec<_> = event.arguments().collect();
        assert_eq!(arguments.len(), 4);
        assert_eq!(arguments[0], (Kind::Directory, u64::from(u32::MAX - 99), None));
        assert_eq!(arguments[1].2, Some(Copied { bytes: b"/etc/x", cut: false }));
    }

    #[test]
    fn a_long_string_is_cut() {
        let mut text = [b'a'; TEXT];
        text[TEXT - 1] = 0;
        let bytes = bytes(&text);
        let event = Event::parse(&bytes).expect("whole");
        let path = event.arguments().nth(1).and_then(|(_, _, copied)| copied).expect("a copy");
        assert!(path.cut && path.bytes.len() == TEXT - 1);
    }

    #[test]
    fn what_is_too_short_is_none() {
        let whole = bytes(b"/etc/x\0");
        for length in 0..whole.len() {
            assert!(Event::parse(&whole[..length]).is_none(), "{length}");
        }
        assert!(Event::parse(&whole).is_some());
    }
}
