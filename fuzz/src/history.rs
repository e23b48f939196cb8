//! The history of containers: whatever is in the file, reading ends, and every line is an end or counted as none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skiff_engine::history::{SCHEMA, parse};

fuzz_target!(|bytes: &[u8]| {
    let mut ends = Vec::new();
    let torn = parse(bytes, &mut ends);
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
    assert_eq!(ends.len() + torn, lines);
    for end in ends {
        assert_eq!(end.schema, SCHEMA);
        let again = serde_json::to_vec(&end).expect("what has been read can be written");
        let mut read = Vec::new();
        assert_eq!(parse(&again, &mut read), 0);
        assert_eq!(read, [end]);
    }
});
