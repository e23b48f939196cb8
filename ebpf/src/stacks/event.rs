//! The records of perf_event_open(2) that the sampler asks for, as `include/uapi/linux/perf_event.h` describes them.

/// The device and inode of a mapped file, as the kernel numbers them; zeros for what is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct FileId {
    /// Major and minor number of the device.
    pub device: (u32, u32),
    /// The inode.
    pub inode: u64,
    /// Its generation: an inode's number may be given again.
    pub generation: u64,
}

/// What has happened, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// ns of CLOCK_MONOTONIC.
    pub time_ns: u64,
    /// The process, as the reader's process namespace numbers it.
    pub pid: u32,
    /// The thread, likewise.
    pub tid: u32,
    /// What.
    pub kind: Kind,
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// The thread was found on a CPU. Addresses from where it was outwards, of returns behind the first; none of the kernel if it was in
    /// user mode, none of the user if it has no memory.
    Sample {
        /// In the kernel.
        kernel: Vec<u64>,
        /// In the process.
        user: Vec<u64>,
    },
    /// The process has mapped something executable.
    Mapped {
        /// The first address.
        start: u64,
        /// Bytes.
        len: u64,
        /// Where in the file it begins, bytes.
        offset: u64,
        /// Which file.
        file: FileId,
        /// Its path in the process's mount namespace, or a name such as `[vdso]` or `//anon`.
        name: Vec<u8>,
    },
    /// The thread has another name.
    Named {
        /// Up to 15 bytes.
        name: Vec<u8>,
        /// Because the process executes another program, which has no mappings yet.
        executes: bool,
    },
    /// The thread was made.
    Forked {
        /// The process that made it: its own, if it is not the first.
        parent: u32,
    },
    /// The thread has ended.
    Ended,
    /// So many records were not written for want of room.
    Lost(u64),
}

const MMAP2: u32 = 10;
const COMM: u32 = 3;
const FORK: u32 = 7;
const EXIT: u32 = 4;
const LOST: u32 = 2;
const SAMPLE: u32 = 9;
/// `PERF_RECORD_MISC_COMM_EXEC`.
const EXECUTES: u16 = 1 << 13;

/// Marks in a stack: what follows is of the kernel, of the user, or of what is not told apart here.
const CONTEXTS: u64 = (-4095_i64).cast_unsigned();
const IN_KERNEL: u64 = (-128_i64).cast_unsigned();
const IN_USER: u64 = (-512_i64).cast_unsigned();

impl Event {
    /// Understands a record; `None` if it is none of these.
    pub(super) fn parse(record: &[u8]) -> Option<Self> {
        let kind: u32 = word(record, 0)?;
        let misc: u16 = u16::from_ne_bytes(*record.get(4..)?.first_chunk()?);
        if kind == SAMPLE {
            return sample(record);
        }
        // Behind each of the others.
        let end = record.len().checked_sub(16)?;
        let (body, end) = record.split_at(end);
        let (pid, tid, time_ns) = (word(end, 0)?, word(end, 4)?, long(end, 8)?);
        let kind = match kind {
            MMAP2 => Kind::Mapped {
                start: long(body, 16)?,
                len: long(body, 24)?,
                offset: long(body, 32)?,
                file: FileId {
                    device: (word(body, 40)?, word(body, 44)?),
                    inode: long(body, 48)?,
                    generation: long(body, 56)?,
                },
                name: text(body, 72)?,
            },
            COMM => Kind::Named { name: text(body, 16)?, executes: misc & EXECUTES != 0 },
            FORK => Kind::Forked { parent: word(body, 12)? },
            EXIT => Kind::Ended,
            LOST => Kind::Lost(long(body, 16)?),
            _ => return None,
        };
        // Of a birth or an end the one who was born or has ended, not the one who saw it.
        let (pid, tid) = match kind {
            Kind::Forked { .. } | Kind::Ended => (word(body, 8)?, word(body, 16)?),
            Kind::Mapped { .. } | Kind::Named { .. } => (word(body, 8)?, word(body, 12)?),
            Kind::Sample { .. } | Kind::Lost(_) => (pid, tid),
        };
        Some(Self { time_ns, pid, tid, kind })
    }
}

fn sample(record: &[u8]) -> Option<Event> {
    let (pid, tid, time_ns) = (word(record, 8)?, word(record, 12)?, long(record, 16)?);
    let count = usize::try_from(long(record, 24)?).ok()?;
    let (mut kernel, mut user) = (Vec::new(), Vec::new());
    let mut context = 0;
    for chunk in record.get(32..)?.chunks_exact(8).take(count) {
        match long(chunk, 0)? {
            mark if mark >= CONTEXTS => context = mark,
            address if context == IN_KERNEL => kernel.push(address),
            address if context == IN_USER => user.push(address),
            _ => {}
        }
    }
    Some(Event { time_ns, pid, tid, kind: Kind::Sample { kernel, user } })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The text at `at`, up to its NUL.
fn text(bytes: &[u8], at: usize) -> Option<Vec<u8>> {
    Some(bytes.get(at..)?.split(|byte| *byte == 0).next()?.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record of 64-bit words behind its header.
    fn record(kind: u32, misc: u16, words: &[u64], tail: &[u8]) -> Vec<u8> {
        let len = u16::try_from(8 + words.len() * 8 + tail.len()).expect("short");
        let mut bytes = [&kind.to_ne_bytes()[..], &misc.to_ne_bytes(), &len.to_ne_bytes()].concat();
        words.iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
        bytes.extend(tail);
        bytes
    }

    const fn pair(low: u32, high: u32) -> u64 {
        low as u64 | (high as u64) << 32
    }

    /// The process, thread and time that records end with.
    fn stamp(pid: u32, tid: u32, time_ns: u64) -> Vec<u8> {
        [pair(pid, tid).to_ne_bytes(), time_ns.to_ne_bytes()].concat()
    }

    #[test]
    fn stacks_are_divided_at_their_marks() {
        let words = [pair(7, 8), 99, 5, IN_KERNEL, 0xffff_ffff_8100_0000, IN_USER, 0x1000, 0x2000];
        let kind = Kind::Sample { kernel: vec![0xffff_ffff_8100_0000], user: vec![0x1000, 0x2000] };
        let expected = Event { time_ns: 99, pid: 7, tid: 8, kind };
        assert_eq!(Event::parse(&record(SAMPLE, 0, &words, &[])), Some(expected));
    }

    #[test]
    fn mappings_have_their_file() {
        let words = [pair(7, 8), 0x4000, 0x1000, 0x200, pair(8, 1), 77, 3, pair(5, 2)];
        let tail = [b"/bin/probe\0\0\0\0\0\0".as_slice(), &stamp(7, 8, 5)].concat();
        let file = FileId { device: (8, 1), inode: 77, generation: 3 };
        let kind =
            Kind::Mapped { start: 0x4000, len: 0x1000, offset: 0x200, file, name: b"/bin/probe".to_vec() };
        let expected = Event { time_ns: 5, pid: 7, tid: 8, kind };
        assert_eq!(Event::parse(&record(MMAP2, 0, &words, &tail)), Some(expected));
    }

    #[test]
    fn births_and_ends_are_of_those_concerned() {
        let fork = record(FORK, 0, &[pair(20, 10), pair(21, 11), 5], &stamp(10, 11, 5));
        let expected = Event { time_ns: 5, pid: 20, tid: 21, kind: Kind::Forked { parent: 10 } };
        assert_eq!(Event::parse(&fork), Some(expected));
        let exit = record(EXIT, 0, &[pair(20, 10), pair(21, 11), 6], &stamp(20, 21, 6));
        assert_eq!(Event::parse(&exit), Some(Event { time_ns: 6, pid: 20, tid: 21, kind: Kind::Ended }));
        let named =
            record(COMM, EXECUTES, &[pair(20, 21)], &[b"probe\0\0\0".as_slice(), &stamp(20, 21, 7)].concat());
        let kind = Kind::Named { name: b"probe".to_vec(), executes: true };
        assert_eq!(Event::parse(&named), Some(Event { time_ns: 7, pid: 20, tid: 21, kind }));
        let lost = record(LOST, 0, &[1, 12], &stamp(0, 0, 8));
        assert_eq!(Event::parse(&lost), Some(Event { time_ns: 8, pid: 0, tid: 0, kind: Kind::Lost(12) }));
    }

    #[test]
    fn other_bytes_are_no_record() {
        for bytes in [&[][..], &[9, 0, 0, 0], &record(1, 0, &[0; 9], &[]), &record(SAMPLE, 0, &[1, 2], &[])] {
            assert_eq!(Event::parse(bytes), None, "{bytes:?}");
        }
    }
}
