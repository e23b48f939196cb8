//! Traces for <https://ui.perfetto.dev>: tracks with slices in slices, as packets of its protocol buffers.
//!
//! The fields are those of `protos/perfetto/trace/` in its sources: `Trace`, `TracePacket`, `TrackDescriptor`, `TrackEvent`. Times are
//! passed on as they are; the viewer begins at the first of them.

use crate::protobuf::Message;

/// A line of the picture.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Track {
    /// What it is called.
    pub name: String,
    /// The process that it is the life of: its id and its command line.
    pub process: Option<(u32, Vec<String>)>,
    /// What happens on it, in order and beside each other.
    pub slices: Vec<Slice>,
}

/// Something that takes time; an instant, where it ends as it begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slice {
    /// What it is called.
    pub name: String,
    /// Its beginning, ns.
    pub begin_ns: u64,
    /// Its end, ns.
    pub end_ns: u64,
    /// What is told when it is chosen.
    pub notes: Vec<(String, String)>,
    /// What happens within it.
    pub inner: Vec<Slice>,
}

impl Slice {
    /// Without notes, and with nothing in it.
    #[must_use]
    pub fn new(name: impl Into<String>, begin_ns: u64, end_ns: u64) -> Self {
        Self { name: name.into(), begin_ns, end_ns, ..Self::default() }
    }
}

/// `Trace.packet`
const PACKET: u32 = 1;
/// All packets are of one sequence.
const SEQUENCE: u64 = 1;
/// `SEQ_INCREMENTAL_STATE_CLEARED`: what was sent before does not matter.
const CLEARED: u64 = 1;
const BEGIN: u64 = 1;
const END: u64 = 2;
const INSTANT: u64 = 3;

/// A trace of these tracks.
#[must_use]
pub fn trace(tracks: &[Track]) -> Vec<u8> {
    let mut trace = Message::new();
    for (number, track) in (1u64..).zip(tracks) {
        describe(&mut trace, number, track);
        for slice in &track.slices {
            put(&mut trace, number, slice, slice.begin_ns, u64::MAX);
        }
    }
    trace.into_bytes()
}

fn describe(trace: &mut Message, number: u64, track: &Track) {
    packet(trace, |packet| {
        if number == 1 {
            packet.varint(13, CLEARED);
        }
        packet.message(60, |descriptor| {
            descriptor.varint(1, number).string(2, &track.name);
            if let Some((pid, words)) = &track.process {
                descriptor.message(3, |process| {
                    process.varint(1, u64::from(*pid));
                    for word in words {
                        process.string(2, word);
                    }
                    process.string(6, &track.name);
                });
            }
        });
    });
}

/// Puts a slice between `from` and `to`, which is what it lies in.
fn put(trace: &mut Message, track: u64, slice: &Slice, from: u64, to: u64) {
    let begin = slice.begin_ns.clamp(from, to);
    let end = slice.end_ns.clamp(begin, to);
    if begin == end && slice.inner.is_empty() {
        event(trace, track, begin, INSTANT, Some(slice));
        return;
    }
    event(trace, track, begin, BEGIN, Some(slice));
    let mut at = begin;
    for inner in &slice.inner {
        put(trace, track, inner, at, end);
        at = inner.end_ns.clamp(at, end);
    }
    event(trace, track, end, END, None);
}

fn event(trace: &mut Message, track: u64, at_ns: u64, kind: u64, slice: Option<&Slice>) {
    packet(trace, |packet| {
        packet.varint(8, at_ns).message(11, |event| {
            if let Some(slice) = slice {
                for (name, value) in &slice.notes {
                    event.message(4, |note| {
                        note.string(10, name).string(6, value);
                    });
                }
            }
            event.varint(9, kind).varint(11, track);
            if let Some(slice) = slice {
                event.string(22, "skiff").string(23, &slice.name);
            }
        });
    });
}

fn packet(trace: &mut Message, fill: impl FnOnce(&mut Message)) {
    trace.message(PACKET, |packet| {
        fill(packet);
        packet.varint(10, SEQUENCE);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fields of a message as another hand reads them: number, and a number or bytes.
    fn fields(mut bytes: &[u8]) -> Vec<(u64, u64, Vec<u8>)> {
        fn varint(bytes: &mut &[u8]) -> u64 {
            let (mut value, mut shift) = (0, 0);
            loop {
                let (first, rest) = bytes.split_first().expect("a byte");
                *bytes = rest;
                value |= u64::from(first & 0x7f) << shift;
                shift += 7;
                if first & 0x80 == 0 {
                    return value;
                }
            }
        }
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let tag = varint(&mut bytes);
            let value = varint(&mut bytes);
            let mut inner = Vec::new();
            match tag & 7 {
                0 => {}
                2 => {
                    let (taken, rest) = bytes.split_at(usize::try_from(value).expect("short"));
                    (inner, bytes) = (taken.to_vec(), rest);
                }
                other => panic!("wire type {other}"),
            }
            all.push((tag >> 3, value, inner));
        }
        all
    }

    fn one(fields: &[(u64, u64, Vec<u8>)], number: u64) -> Option<(u64, Vec<u8>)> {
        fields.iter().find(|(field, ..)| *field == number).map(|(_, value, bytes)| (*value, bytes.clone()))
    }

    /// Events as (track, time, type, name).
    fn events(trace: &[u8]) -> Vec<(u64, u64, u64, String)> {
        let packets = fields(trace).into_iter().map(|(field, _, bytes)| {
            assert_eq!(field, 1);
            fields(&bytes)
        });
        packets
            .filter_map(|packet| {
                assert_eq!(one(&packet, 10).map(|(id, _)| id), Some(1));
                let event = fields(&one(&packet, 11)?.1);
                let name = one(&event, 23).map(|(_, name)| String::from_utf8(name).expect("text"));
                Some((one(&event, 11)?.0, one(&packet, 8)?.0, one(&event, 9)?.0, name.unwrap_or_default()))
            })
            .collect()
    }

    #[test]
    fn slices_lie_in_each_other() {
        let mut launch = Slice::new("launch", 10, 30);
        launch.inner =
            vec![Slice::new("plan", 10, 12), Slice::new("exec", 12, 30), Slice::new("late", 40, 50)];
        let track =
            Track { name: "web".into(), slices: vec![launch, Slice::new("end", 60, 60)], process: None };
        let of = |at, kind, name: &str| (1, at, kind, name.to_owned());
        assert_eq!(
            events(&trace(&[track])),
            [
                of(10, 1, "launch"),
                of(10, 1, "plan"),
                of(12, 2, ""),
                of(12, 1, "exec"),
                of(30, 2, ""),
                of(30, 3, "late"),
                of(30, 2, ""),
                of(60, 3, "end"),
            ]
        );
    }

    #[test]
    fn a_process_has_its_command_line() {
        let track =
            Track { name: "sh".into(), process: Some((7, vec!["sh".into(), "-c".into()])), slices: vec![] };
        let bytes = trace(&[Track::default(), track]);
        let packets: Vec<_> = fields(&bytes).into_iter().map(|(_, _, packet)| fields(&packet)).collect();
        assert_eq!(one(&packets[0], 13).map(|(flags, _)| flags), Some(1));
        let descriptor = fields(&one(&packets[1], 60).expect("a descriptor").1);
        assert_eq!(one(&descriptor, 1).map(|(uuid, _)| uuid), Some(2));
        let process = fields(&one(&descriptor, 3).expect("a process").1);
        assert_eq!(one(&process, 1).map(|(pid, _)| pid), Some(7));
        let words: Vec<_> =
            process.iter().filter(|(field, ..)| *field == 2).map(|(_, _, word)| word.clone()).collect();
        assert_eq!(words, [b"sh".to_vec(), b"-c".to_vec()]);
        assert_eq!(one(&process, 6).map(|(_, name)| name), Some(b"sh".to_vec()));
    }

    #[test]
    fn notes_are_kept() {
        let mut slice = Slice::new("run", 1, 2);
        slice.notes.push(("read".into(), "12 calls".into()));
        let bytes = trace(&[Track { name: "a".into(), process: None, slices: vec![slice] }]);
        let packets: Vec<_> = fields(&bytes).into_iter().map(|(_, _, packet)| fields(&packet)).collect();
        let event = fields(&one(&packets[1], 11).expect("an event").1);
        let note = fields(&one(&event, 4).expect("a note").1);
        assert_eq!(one(&note, 10).map(|(_, name)| name), Some(b"read".to_vec()));
        assert_eq!(one(&note, 6).map(|(_, value)| value), Some(b"12 calls".to_vec()));
    }
}
