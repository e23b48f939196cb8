//! The form that pprof and its kin read: `profile.proto` of <https://github.com/google/pprof/tree/main/proto>, compressed.

use std::collections::HashMap;
use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::Profile;
use crate::protobuf::Message;

/// The strings of a profile, each once; the first is empty.
#[derive(Default)]
struct Strings {
    all: Vec<String>,
    numbers: HashMap<String, u64>,
}

impl Strings {
    fn number(&mut self, text: &str) -> u64 {
        if self.all.is_empty() {
            self.all.push(String::new());
            self.numbers.insert(String::new(), 0);
        }
        *self.numbers.entry(text.to_owned()).or_insert_with(|| {
            self.all.push(text.to_owned());
            self.all.len() as u64 - 1
        })
    }
}

impl Profile {
    /// Samples and CPU time by location, as gzip. `duration_ns` is how long was sampled, `time_ns` when it began, since 1970.
    pub fn pprof(&self, time_ns: u64, duration_ns: u64) -> io::Result<Vec<u8>> {
        let mut compressed = GzEncoder::new(Vec::new(), Compression::default());
        compressed.write_all(&self.message(time_ns, duration_ns))?;
        compressed.finish()
    }

    fn message(&self, time_ns: u64, duration_ns: u64) -> Vec<u8> {
        let period_ns = 1_000_000_000 / u64::from(self.hz.max(1));
        let mut strings = Strings::default();
        let mut message = Message::new();
        for (kind, unit) in [("samples", "count"), ("cpu", "nanoseconds")] {
            let (kind, unit) = (strings.number(kind), strings.number(unit));
            message.message(1, |value| {
                value.varint(1, kind).varint(2, unit);
            });
        }
        let (pid, process) = (strings.number("pid"), strings.number("process"));
        for stack in &self.stacks {
            let name = strings.number(&stack.process);
            message.message(2, |sample| {
                // The innermost first; numbers begin with 1.
                sample.packed_varints(1, stack.frames.iter().rev().map(|frame| *frame as u64 + 1));
                sample.packed_varints(2, [stack.samples, stack.samples * period_ns]);
                sample.message(3, |label| {
                    label.varint(1, pid).varint(3, stack.pid.into());
                });
                sample.message(3, |label| {
                    label.varint(1, process).varint(2, name);
                });
            });
        }
        let mut modules: HashMap<&str, u64> = HashMap::new();
        let mut functions: HashMap<(&str, &str), u64> = HashMap::new();
        let (mut mappings, mut named) = (Vec::new(), Vec::new());
        for (number, frame) in self.frames.iter().enumerate() {
            let mapping = *modules.entry(&frame.module).or_insert_with(|| {
                mappings.push(frame.module.as_str());
                mappings.len() as u64
            });
            let function = *functions.entry((&frame.function, &frame.module)).or_insert_with(|| {
                named.push((frame.function.as_str(), frame.module.as_str()));
                named.len() as u64
            });
            message.message(4, |location| {
                location.varint(1, number as u64 + 1).varint(2, mapping).varint(3, frame.address);
                location.message(4, |line| {
                    line.varint(1, function);
                });
            });
        }
        for (number, module) in mappings.iter().enumerate() {
            let file = strings.number(module);
            let build_id = self.build_ids.get(*module).map_or(0, |id| strings.number(id));
            message.message(3, |mapping| {
                // Addresses are places in the file already.
                mapping
                    .varint(1, number as u64 + 1)
                    .varint(2, 0)
                    .varint(3, u64::MAX)
                    .varint(4, 0)
                    .varint(5, file);
                mapping.varint(6, build_id).varint(7, 1);
            });
        }
        for (number, (name, module)) in named.iter().enumerate() {
            let (name, file) = (strings.number(name), strings.number(module));
            message.message(5, |function| {
                function.varint(1, number as u64 + 1).varint(2, name).varint(3, name).varint(4, file);
            });
        }
        let (cpu, ns) = (strings.number("cpu"), strings.number("nanoseconds"));
        for text in &strings.all {
            message.string(6, text);
        }
        message.varint(9, time_ns).varint(10, duration_ns);
        message.message(11, |kind| {
            kind.varint(1, cpu).varint(2, ns);
        });
        message.varint(12, period_ns);
        message.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::super::profile::tests::example;

    /// A field's number with its bytes, or with its value.
    #[derive(Debug, Clone, PartialEq)]
    enum Field {
        Number(u64, u64),
        Bytes(u64, Vec<u8>),
    }

    /// Reads messages by the description of the wire format alone, sharing nothing with what has written them.
    fn fields(mut bytes: &[u8]) -> Vec<Field> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let tag = varint(&mut bytes);
            all.push(match tag & 7 {
                0 => Field::Number(tag >> 3, varint(&mut bytes)),
                2 => {
                    let len = usize::try_from(varint(&mut bytes)).expect("small");
                    let (content, rest) = bytes.split_at(len);
                    bytes = rest;
                    Field::Bytes(tag >> 3, content.to_vec())
                }
                other => panic!("wire type {other}"),
            });
        }
        all
    }

    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let (first, rest) = bytes.split_first().expect("a byte");
            *bytes = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                break;
            }
        }
        value
    }

    fn numbers(mut packed: &[u8]) -> Vec<u64> {
        let mut all = Vec::new();
        while !packed.is_empty() {
            all.push(varint(&mut packed));
        }
        all
    }

    fn messages(of: &[Field], wanted: u64) -> Vec<Vec<Field>> {
        let inner = of.iter().filter_map(|field| match field {
            Field::Bytes(number, bytes) if *number == wanted => Some(fields(bytes)),
            _ => None,
        });
        inner.collect()
    }

    fn number(of: &[Field], wanted: u64) -> u64 {
        let found = of.iter().find_map(|field| match field {
            Field::Number(number, value) if *number == wanted => Some(*value),
            _ => None,
        });
        found.unwrap_or(0)
    }

    fn bytes(of: &[Field], wanted: u64) -> Vec<u8> {
        let found = of.iter().find_map(|field| match field {
            Field::Bytes(number, bytes) if *number == wanted => Some(bytes.clone()),
            _ => None,
        });
        found.unwrap_or_default()
    }

    #[test]
    fn another_reader_finds_the_same_stacks() {
        let profile = example();
        let compressed = profile.pprof(7_000, 2_000_000_000).expect("compress");
        let mut plain = Vec::new();
        GzDecoder::new(compressed.as_slice()).read_to_end(&mut plain).expect("gzip");
        let all = fields(&plain);
        let strings: Vec<String> = all
            .iter()
            .filter_map(|field| match field {
                Field::Bytes(6, text) => Some(String::from_utf8(text.clone()).expect("text")),
                _ => None,
            })
            .collect();
        let text = |number: u64| strings[usize::try_from(number).expect("small")].as_str();
        assert_eq!(strings[0], "");
        assert_eq!(strings.iter().collect::<HashSet<_>>().len(), strings.len(), "each once");
        let kinds = messages(&all, 1);
        let kinds: Vec<_> = kinds.iter().map(|kind| (text(number(kind, 1)), text(number(kind, 2)))).collect();
        assert_eq!(kinds, [("samples", "count"), ("cpu", "nanoseconds")]);
        let (locations, functions, mappings) = (messages(&all, 4), messages(&all, 5), messages(&all, 3));
        let by_id = |list: &[Vec<Field>], id: u64| {
            let found: Vec<_> = list.iter().filter(|one| number(one, 1) == id).cloned().collect();
            assert_eq!(found.len(), 1, "one has the id {id}");
            found[0].clone()
        };
        let mut folded: Vec<String> = Vec::new();
        for sample in messages(&all, 2) {
            let values = numbers(&bytes(&sample, 2));
            assert_eq!(values[1], values[0] * 10_101_010);
            let names = numbers(&bytes(&sample, 1)).into_iter().rev().map(|id| {
                let location = by_id(&locations, id);
                let mapping = by_id(&mappings, number(&location, 2));
                assert!(number(&location, 3) < number(&mapping, 3));
                let line = messages(&location, 4);
                text(number(&by_id(&functions, number(&line[0], 1)), 2)).to_owned()
            });
            let names: Vec<String> = names.collect();
            folded.push(format!("old;{} {}\n", names.join(";"), values[0]));
        }
        folded.sort();
        assert_eq!(folded.concat(), profile.folded());
        assert_eq!((number(&all, 9), number(&all, 10), number(&all, 12)), (7_000, 2_000_000_000, 10_101_010));
        let old = mappings.iter().find(|mapping| text(number(mapping, 5)) == "/bin/old").expect("the file");
        assert_eq!(text(number(old, 6)), "0102");
    }
}
