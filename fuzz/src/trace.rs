//! System calls as the tracer's programs write them, half of which is the container's: a line stays one line, and nothing but
//! letters, digits and plain signs is in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skiff_ebpf::trace::Event;
use skiff_observe::trace;

fuzz_target!(|bytes: &[u8]| {
    let Some(event) = Event::parse(bytes) else { return };
    let line = trace::line(&event, 1_795_339_492_097_596_826);
    let text = line.strip_suffix('\n').expect("a line");
    let plain =
        |letter: char| (' '..='~').contains(&letter) || letter.is_alphanumeric() || "…µ".contains(letter);
    assert!(text.chars().all(plain), "{text:?}");
    let object = trace::object(&event, 1).to_string();
    assert!(serde_json::from_str::<serde_json::Value>(&object).is_ok_and(|value| value["call"].is_string()));
});
