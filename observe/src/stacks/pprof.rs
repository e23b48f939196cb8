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
