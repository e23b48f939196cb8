//! What becomes of processes, as the programs of `files` write it: names, paths and arguments are the container's bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skiff_ebpf::files::{Event, processes};

fuzz_target!(|parts: Vec<Vec<u8>>| {
    let events: Vec<Event> = parts.iter().filter_map(|bytes| Event::parse(bytes)).collect();
    let count = events.len();
    let found = processes(Vec::new(), 0, events);
    assert!(found.len() <= count);
    assert!(found.iter().map(|process| process.execs.len()).sum::<usize>() <= count);
});
