//! Processes, from what happened to them.

use std::collections::BTreeMap;

use skiff_ebpf_abi::files::{ARGV, HEADER, PATH, event};

use super::text;

/// Something that happened to a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    at_ns: u64,
    start_ns: u64,
    pid: u32,
    parent: u32,
    comm: String,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Fork,
    Exec(Exec),
    Exit(u32),
}

/// A process of the container. Times are ns of CLOCK_MONOTONIC.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Process {
    /// As the host numbers it.
    pub pid: u32,
    /// Its parent when it was last heard of.
    pub parent: u32,
    /// Its name when it was last heard of.
    pub comm: String,
    /// When it was made; `None` if that was before the record.
    pub start_ns: Option<u64>,
    /// When it ended; `None` if it lives.
    pub end_ns: Option<u64>,
    /// How it ended, as wait(2) tells it.
    pub status: Option<u32>,
    /// The programs that it has executed.
    pub execs: Vec<Exec>,
}

/// A program that was executed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exec {
    /// When.
    pub at_ns: u64,
    /// The path given to execve(2), cut after 191 bytes.
    pub path: String,
    /// The arguments, as far as they fit into 512 bytes.
    pub argv: Vec<String>,
    /// Whether arguments are missing, or the last one is cut.
    pub cut: bool,
}

impl Process {
    /// What it exited with, if it did so by itself.
    #[must_use]
    pub fn code(&self) -> Option<u32> {
        self.status.filter(|status| status & 0x7f == 0).map(|status| status >> 8 & 0xff)
    }

    /// The signal that has killed it, if one has.
    #[must_use]
    pub fn signal(&self) -> Option<u32> {
        self.status.map(|status| status & 0x7f).filter(|signal| *signal != 0)
    }
}

impl Event {
    /// Reads what the programs have written; `None` if it can't be theirs.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
        let half = |at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
        let what = match half(24)? {
            event::FORK => What::Fork,
            event::EXIT => What::Exit(half(28)?),
            event::EXEC => {
                let length = word(HEADER)?;
                let path = bytes.get(HEADER + 8..HEADER + 8 + PATH)?;
                let argv = bytes.get(HEADER + 8 + PATH..HEADER + 8 + PATH + ARGV)?;
                let kept = usize::try_from(length).map_or(ARGV, |length| length.min(ARGV));
                let argv = &argv[..kept];
                let argv = argv.strip_suffix(b"\0").unwrap_or(argv);
                let words =
                    argv.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
                What::Exec(Exec {
                    at_ns: word(0)?,
                    path: text(path),
                    argv: if kept == 0 { Vec::new() } else { words.collect() },
                    cut: length > ARGV as u64,
                })
            }
            _ => return None,
        };
        Some(Self {
            at_ns: word(0)?,
            start_ns: word(8)?,
            pid: half(16)?,
            parent: half(20)?,
            comm: text(bytes.get(32..48)?),
            what,
        })
    }
}

/// What became of processes; `before` are those that were there when, or soon after, all of it began at `begin_ns`.
#[must_use]
pub fn processes(before: Vec<Process>, begin_ns: u64, mut events: Vec<Event>) -> Vec<Process> {
    // Those of several CPUs may be out of order.
    events.sort_by_key(|event| event.at_ns);
    let mut before: BTreeMap<u32, Process> =
        before.into_iter().map(|process| (process.pid, process)).collect();
    // A process id is another process' once its start is another.
    let mut all: BTreeMap<(u64, u32), Process> = BTreeMap::new();
    for event in events {
        let process = all.entry((event.start_ns, event.pid)).or_insert_with(|| {
            // It is known by what happened to it; another of this id may come after it.
            before.remove(&event.pid);
            let start_ns = (event.start_ns >= begin_ns).then_some(event.start_ns);
            Process { pid: event.pid, start_ns, ..Process::default() }
        });
        process.parent = event.parent;
        process.comm = event.comm;
        match event.what {
            What::Fork => {}
            What::Exec(exec) => process.execs.push(exec),
            What::Exit(status) => {
                process.end_ns = Some(event.at_ns);
                process.status = Some(status);
            }
        }
    }
    before.into_values().chain(all.into_values()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(at: u64, start: u64, ids: [u32; 2], kind: u32, status: u32) -> Vec<u8> {
        let mut bytes = [at, start].map(u64::to_ne_bytes).concat();
        bytes.extend([ids[0], ids[1], kind, status].map(u32::to_ne_bytes).concat());
        bytes.extend(b"sh\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        bytes
    }

    fn exec(at: u64, start: u64, pid: u32, argv: &[u8], length: u64) -> Vec<u8> {
        let mut bytes = bytes(at, start, [pid, 1], event::EXEC, 0);
        bytes.extend(length.to_ne_bytes());
        let mut path = b"/bin/true".to_vec();
        path.resize(PATH, 0);
        bytes.extend(path);
        let mut room = argv.to_vec();
        room.resize(ARGV, 0);
        bytes.extend(room);
        bytes
    }

    #[test]
    fn a_process_is_what_happened_to_it() {
        let told = [
            bytes(10, 9, [7, 1], event::FORK, 0),
            bytes(40, 9, [7, 1], event::EXIT, 3 << 8),
            exec(20, 9, 7, b"true\0-x\0", 8),
            bytes(50, 45, [7, 1], event::FORK, 0),
            bytes(60, 2, [5, 1], event::EXIT, 9),
        ];
        let old = Process { pid: 5, comm: "old".into(), ..Process::default() };
        let idle = Process { pid: 6, ..Process::default() };
        let all = processes(
            vec![old, idle.clone()],
            8,
            told.iter().filter_map(|told| Event::parse(told)).collect(),
        );
        assert_eq!(all.len(), 4);
        assert_eq!(all[0], idle);
        assert_eq!((all[1].pid, all[1].start_ns, all[1].signal(), all[1].code()), (5, None, Some(9), None));
        assert_eq!((all[2].start_ns, all[2].end_ns, all[2].code()), (Some(9), Some(40), Some(3)));
        let argv = vec!["true".to_owned(), "-x".to_owned()];
        assert_eq!(all[2].execs, [Exec { at_ns: 20, path: "/bin/true".into(), argv, cut: false }]);
        assert_eq!((all[3].pid, all[3].start_ns, all[3].end_ns), (7, Some(45), None));
    }

    #[test]
    fn arguments_may_be_none_or_more_than_fit() {
        let of =
            |argv: &[u8], length| match Event::parse(&exec(1, 1, 7, argv, length)).map(|event| event.what) {
                Some(What::Exec(exec)) => (exec.argv.len(), exec.cut),
                other => panic!("{other:?}"),
            };
        assert_eq!(of(b"", 0), (0, false));
        assert_eq!(of(b"\0", 1), (1, false));
        assert_eq!(of(&[b'a'; ARGV], 1 << 40), (1, true));
    }

    #[test]
    fn what_is_too_short_or_unknown_is_none() {
        let whole = exec(1, 1, 7, b"a\0", 2);
        assert!((0..whole.len()).all(|length| Event::parse(&whole[..length]).is_none()));
        assert!(Event::parse(&bytes(1, 1, [7, 1], 9, 0)).is_none());
    }
}
